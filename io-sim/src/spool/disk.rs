//! The disk itself, which outlives the node's lives: one or two [`Path`]s, what was durable at any time, and the draws. What the harness does
//! to it, and what checkers ask. Invariant: never locked across an await; whoever looks sees what has ended by now.
use super::damage::{Damage, Range, Way};
use super::path::{Answer, Changes, Entry, Key, Path, Work, coalesced, part_of};
use super::{DiskSettings, FAMILIES, StoreKind, failure};
use crate::fault::FaultKind;
use crate::universe::Universe;
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::limits;
use kumo_core::port::{
    self, Family, FreeSpace, ScanPage, SpoolError, SpoolErrorKind, SpoolOperation, SpoolProperties,
    SyncMode,
};
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How long RocksDB takes to see that there is space again.
const FULL_FOR: Duration = Duration::from_secs(6);
/// Neighbouring records that go together.
const BLOCK_RECORDS: u64 = 8;
const OCTETS_TOTAL: u64 = 1 << 40;
const INODES_TOTAL: u64 = 1 << 26;
/// What is left of a full disk.
const OCTETS_LEFT: u64 = 4_096;

/// A write that was handed over, for whoever waits for it.
pub(super) struct Ticket {
    path: usize,
    answer: Answer,
}

pub(super) enum Progress {
    Ended(Result<(), SpoolError>),
    EndsAt(Mono),
    /// Against this target.
    Stalled(&'static str),
}

struct Draws {
    latency: Random,
    parts: Random,
    crash: Random,
    damage: Random,
}

struct State {
    paths: Vec<Path>,
    /// Meta and data were durable at one time.
    ever: BTreeMap<SpoolId, Mono>,
    draws: Draws,
}

pub struct Disk {
    settings: DiskSettings,
    state: Mutex<State>,
}

impl State {
    fn index(&self, family: Family) -> usize {
        if self.paths.len() == 1 { 0 } else { family as usize }
    }

    fn path(&mut self, family: Family) -> &mut Path {
        let index = self.index(family);
        &mut self.paths[index]
    }

    /// Ends every write whose time has come.
    fn settle(&mut self, universe: &Universe) {
        let now = universe.now().mono;
        for index in 0..self.paths.len() {
            while self.paths[index].end_one(&universe.faults, now, &mut self.draws.parts) {
                self.note_landed(index, now);
            }
        }
    }

    fn note_landed(&mut self, index: usize, now: Mono) {
        for (_, id) in self.paths[index].take_landed() {
            let whole = |family| self.paths[self.index(family)].is_durable(&(family, id));
            if FAMILIES.into_iter().all(whole) {
                self.ever.entry(id).or_insert(now);
            }
        }
    }
}

fn change(operation: SpoolOperation) -> (Key, Option<Bytes>) {
    match operation {
        SpoolOperation::Put { family, key, value } => ((family, key), Some(value)),
        SpoolOperation::Delete { family, key } => ((family, key), None),
    }
}

/// Between half of it and half as much again.
fn around(mean: Duration, random: &mut Random) -> Duration {
    mean / 2 + random.duration_up_to(mean)
}

impl Disk {
    pub fn new(seed: u64, settings: &DiskSettings) -> Disk {
        let kind = settings.kind;
        assert!(settings.two_paths || kind == StoreKind::Log, "files need a path for each family");
        let names: &[&str] = if settings.two_paths { &["data", "meta"] } else { &[""] };
        let draws = Draws {
            latency: Random::new(seed, "disk latency"),
            parts: Random::new(seed, "disk parts"),
            crash: Random::new(seed, "disk crash"),
            damage: Random::new(seed, "disk damage"),
        };
        let state = State {
            paths: names.iter().map(|name| Path::new(name, kind)).collect(),
            ever: BTreeMap::new(),
            draws,
        };
        Disk { settings: settings.clone(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self, universe: &Universe) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.settle(universe);
        state
    }

    // ---- For a life ------------------------------------------------------------------------------------

    pub(super) fn paths(&self) -> usize {
        if self.settings.two_paths { 2 } else { 1 }
    }

    /// As faults name the path of a family.
    pub(super) fn target(&self, family: Family) -> &'static str {
        self.state().path(family).name
    }

    pub(super) fn may_lack_records(&self) -> bool {
        self.state().paths.iter().any(|path| path.lacks_records)
    }

    pub(super) fn draw_read(&self) -> Duration {
        around(self.settings.read, &mut self.state().draws.latency)
    }

    pub(super) fn open(&self, universe: &Universe) {
        let mut state = self.settled(universe);
        let State { paths, draws, .. } = &mut *state;
        for path in paths {
            path.kill(&mut draws.crash);
            path.failing_since = None;
        }
    }

    pub(super) fn on_every_path(&self, work: impl Fn() -> Work) -> Vec<(usize, Work)> {
        (0..self.paths()).map(|path| (path, work())).collect()
    }

    pub(super) fn on_path_of(&self, family: Family, work: Work) -> Vec<(usize, Work)> {
        vec![(if self.paths() == 1 { 0 } else { family as usize }, work)]
    }

    /// What of a batch goes where. One without operations goes everywhere.
    pub(super) fn split(&self, batch: Vec<SpoolOperation>, sync: SyncMode) -> Vec<(usize, Work)> {
        let is_empty = batch.is_empty();
        let mut parts = vec![Changes::new(); self.paths()];
        for operation in batch {
            let path = if parts.len() == 1 { 0 } else { operation.family() as usize };
            parts[path].push(change(operation));
        }
        if self.settings.kind == StoreKind::Files {
            parts = parts.into_iter().map(coalesced).collect();
        }
        let touched =
            parts.into_iter().enumerate().filter(|(_, part)| is_empty || !part.is_empty());
        touched.map(|(path, part)| (path, Work::Apply(part, sync))).collect()
    }

    /// `failed`: this step of the disk is to fail.
    pub(super) fn hand_over(
        &self,
        universe: &Universe,
        index: usize,
        work: Work,
        failed: bool,
    ) -> Ticket {
        let now = universe.now().mono;
        let mut state = self.settled(universe);
        let State { paths, draws, .. } = &mut *state;
        let path = &mut paths[index];
        let mut entry = Entry {
            takes: self.draw_write(&work, &mut draws.latency),
            work,
            handed_over: now,
            ready: now,
            stalled: false,
            fails: None,
            sync_fails: false,
            answer: Answer::default(),
        };
        self.strike(universe, path, &mut entry, failed, &mut draws.parts);
        let answer = entry.answer.clone();
        path.queue.push_back(entry);
        Ticket { path: index, answer }
    }

    fn draw_write(&self, work: &Work, random: &mut Random) -> Duration {
        match work {
            Work::Apply(_, SyncMode::Unsynced) => around(self.settings.write, random),
            Work::Apply(_, SyncMode::Synced) => around(self.settings.sync, random),
            Work::Reopen => around(self.settings.sync * 10, random),
        }
    }

    /// What the faults in force do to a write.
    fn strike(
        &self,
        universe: &Universe,
        path: &mut Path,
        entry: &mut Entry,
        failed: bool,
        random: &mut Random,
    ) {
        let strikes = |kind| universe.faults.strikes(kind, path.name);
        if let Some(stall) = strikes(FaultKind::DiskStall) {
            entry.takes += stall.amount.unwrap_or_default();
            entry.stalled = stall.amount.is_none();
        }
        let writes = !matches!(&entry.work, Work::Apply(changes, _) if changes.is_empty());
        if writes && self.is_full(universe, path, entry) {
            return fail(path.name, entry, SpoolErrorKind::NoSpace, Changes::new());
        }
        let strikes = |kind| universe.faults.strikes(kind, path.name).is_some();
        let is_turned_away = writes
            && self.settings.kind == StoreKind::Log
            && !matches!(entry.work, Work::Reopen)
            && strikes(FaultKind::DiskBusy);
        if is_turned_away {
            return fail(path.name, entry, SpoolErrorKind::Busy, Changes::new());
        }
        if failed || writes && strikes(FaultKind::DiskWriteError) {
            let part = match &mut entry.work {
                Work::Apply(changes, _) => std::mem::take(changes),
                Work::Reopen => Changes::new(),
            };
            let part = part_of(self.settings.kind, part, random);
            return fail(path.name, entry, SpoolErrorKind::Io, part);
        }
        let syncs = !matches!(&entry.work, Work::Apply(_, SyncMode::Unsynced));
        if syncs && strikes(FaultKind::DiskSyncError) {
            match entry.work {
                Work::Reopen => fail(path.name, entry, SpoolErrorKind::Io, Changes::new()),
                Work::Apply(..) => entry.sync_fails = true,
            }
        }
    }

    /// A log that has met a full disk looks again only every now and then, or when it is opened.
    fn is_full(&self, universe: &Universe, path: &mut Path, entry: &Entry) -> bool {
        let now = entry.handed_over;
        let struck = universe.faults.strikes(FaultKind::DiskNoSpace, path.name).is_some();
        if struck && self.settings.kind == StoreKind::Log {
            if path.full_until <= now {
                path.background_errors += 1;
            }
            path.full_until = now + FULL_FOR;
        }
        struck || now < path.full_until && !matches!(entry.work, Work::Reopen)
    }

    pub(super) fn progress(&self, universe: &Universe, ticket: &Ticket) -> Progress {
        let state = self.settled(universe);
        if let Some(result) = ticket.answer.get() {
            return Progress::Ended(result.clone());
        }
        let path = &state.paths[ticket.path];
        match path.end_of(&universe.faults, universe.now().mono, &ticket.answer) {
            Some(end) => Progress::EndsAt(end),
            None => Progress::Stalled(path.name),
        }
    }

    pub(super) fn get(
        &self,
        universe: &Universe,
        family: Family,
        id: SpoolId,
    ) -> Result<Option<Bytes>, SpoolError> {
        let mut state = self.settled(universe);
        let path = state.path(family);
        let key = (family, id);
        let Some(value) = path.visible().get(&key) else { return Ok(None) };
        path.overlay.read(path.name, &key, value).map(Some)
    }

    pub(super) fn scan(
        &self,
        universe: &Universe,
        family: Family,
        from: Option<SpoolId>,
        limit: usize,
        keys_only: bool,
    ) -> Result<ScanPage, SpoolError> {
        let mut state = self.settled(universe);
        let path = state.path(family);
        let mut page = ScanPage::default();
        let mut octets = 0;
        let first = (family, from.unwrap_or(SpoolId([0; 16])));
        let last = (family, SpoolId([0xff; 16]));
        for (key, value) in path.visible().range(first..=last) {
            if page.entries.len() >= limit.max(1) || octets >= limits::SCAN_PAGE_OCTETS {
                page.next = Some(key.1);
                break;
            }
            match path.overlay.pass(path.name, key, value)? {
                Way::Take(_) if keys_only => page.entries.push((key.1, Bytes::new())),
                Way::Take(value) => {
                    octets += value.len();
                    page.entries.push((key.1, value));
                }
                Way::Jump(line) if page.damaged.iter().any(|damage| damage.text == line) => {}
                Way::Jump(line) => page.damaged.push(port::Damage::somewhere(family, line)),
            }
        }
        Ok(page)
    }

    pub(super) fn properties(&self, universe: &Universe, family: Family) -> SpoolProperties {
        let mut state = self.settled(universe);
        let path = state.path(family);
        let strikes = |kind| universe.faults.strikes(kind, path.name).is_some();
        if strikes(FaultKind::DiskBackgroundErrors) {
            path.background_errors += 1;
        }
        let slow = strikes(FaultKind::DiskSlowCompaction);
        SpoolProperties {
            background_errors: path.background_errors,
            compaction_pending: slow,
            running_compactions: u64::from(slow),
            pending_compaction_octets: if slow { 1 << 30 } else { 0 },
            ..SpoolProperties::default()
        }
    }

    pub(super) fn free_space(&self, universe: &Universe, family: Family) -> FreeSpace {
        let full = universe.faults.is_active(FaultKind::DiskNoSpace, self.target(family));
        FreeSpace {
            octets: if full { OCTETS_LEFT } else { OCTETS_TOTAL / 2 },
            octets_total: OCTETS_TOTAL,
            inodes: INODES_TOTAL / 2,
            inodes_total: INODES_TOTAL,
        }
    }

    // ---- For the harness -------------------------------------------------------------------------------

    /// The node died, and `lives.end()` was called. A mere kill keeps what was applied.
    pub fn crash(&self, universe: &Universe, power_cut: bool) {
        let mut state = self.settled(universe);
        let State { paths, draws, .. } = &mut *state;
        for path in paths.iter_mut() {
            if !power_cut {
                path.kill(&mut draws.crash);
                continue;
            }
            for effect in path.cut_power(&mut draws.crash) {
                universe.faults.count(effect);
            }
        }
        let now = universe.now().mono;
        (0..state.paths.len()).for_each(|path| state.note_landed(path, now));
    }

    /// Flips a bit in one value that is durable; whose.
    pub fn corrupt_record(&self, universe: &Universe, of: Option<Family>) -> Option<SpoolId> {
        let mut state = self.settled(universe);
        let (family, ids) = state.choose_family(of)?;
        let id = ids[state.draws.damage.below(ids.len() as u64) as usize];
        let value = &state.path(family).durable()[&(family, id)];
        let mut value = value.to_vec();
        let bit = state.draws.damage.below(value.len() as u64 * 8) as usize;
        // A record is never empty; what isn't one has nothing to flip.
        *value.get_mut(bit / 8)? ^= 1 << (bit % 8);
        state.path(family).overlay.add((family, id), Damage::Flipped(value.into()));
        universe.faults.count(FaultKind::DiskCorruptRecord);
        Some(id)
    }

    /// A range of neighbouring records of one family can't be read any more; which.
    pub fn corrupt_block(&self, universe: &Universe, of: Option<Family>) -> Vec<SpoolId> {
        self.lose_range(universe, of, FaultKind::DiskCorruptBlock, Damage::Block)
    }

    /// As [`Disk::corrupt_block`]: errors until the store is opened again, from then on a hole.
    pub fn missing_file(&self, universe: &Universe, of: Option<Family>) -> Vec<SpoolId> {
        self.lose_range(universe, of, FaultKind::DiskMissingFile, Damage::Missing)
    }

    fn lose_range(
        &self,
        universe: &Universe,
        of: Option<Family>,
        kind: FaultKind,
        damage: impl Fn(Range) -> Damage,
    ) -> Vec<SpoolId> {
        let mut state = self.settled(universe);
        let Some((family, ids)) = state.choose_family(of) else { return Vec::new() };
        let start = state.draws.damage.below(ids.len() as u64) as usize;
        let count = 1 + state.draws.damage.below(BLOCK_RECORDS) as usize;
        let lost = ids[start..ids.len().min(start + count)].to_vec();
        let range = Range { family, first: lost[0], last: lost[lost.len() - 1] };
        let overlay = &mut state.path(family).overlay;
        lost.iter().for_each(|id| overlay.add((family, *id), damage(range)));
        universe.faults.count(kind);
        lost
    }

    /// All that is damaged reads as it was written again.
    #[cfg(test)]
    pub fn lift_damage(&self) {
        let mut state = self.state();
        for path in &mut state.paths {
            path.overlay.clear();
            path.lacks_records = false;
        }
    }

    // ---- For checkers ----------------------------------------------------------------------------------

    /// When its meta and its data were durable, whole, for the first time.
    pub fn durable_since(&self, id: SpoolId) -> Option<Mono> {
        self.state().ever.get(&id).copied()
    }

    pub fn durable_ids(&self, family: Family) -> BTreeSet<SpoolId> {
        let mut state = self.state();
        let keys = state.path(family).durable().keys();
        keys.filter(|key| key.0 == family).map(|key| key.1).collect()
    }

    /// The truth, without its damage, as a life would see it that began now after a kill; without what is in flight.
    pub fn visible(&self, family: Family, id: SpoolId) -> Option<Bytes> {
        self.state().path(family).seen_by_next_life(&(family, id)).cloned()
    }

    /// Since when the oldest write stands that was handed over and hasn't ended. [`Disk::settle`] first: nobody may have looked for a while.
    #[cfg(test)]
    pub fn writes_in_flight_since(&self) -> Option<Mono> {
        let state = self.state();
        state.paths.iter().filter_map(|path| path.queue.front()).map(|one| one.handed_over).min()
    }

    /// Ends every write whose time has come.
    pub fn settle(&self, universe: &Universe) {
        self.state().settle(universe);
    }

    /// Since when some path's last word on writing has been a fatal error.
    pub fn failing_since(&self) -> Option<Mono> {
        self.state().paths.iter().filter_map(|path| path.failing_since).min()
    }

    /// A sync has failed: a log takes nothing before it is opened again, files call nothing durable before the next life.
    pub fn needs_reopen(&self) -> bool {
        self.state().paths.iter().any(Path::is_broken)
    }

    /// Whether writes that were held up haven't ended yet, though what held them up may be over.
    pub fn is_behind(&self) -> bool {
        self.state().paths.iter().any(|path| !path.queue.is_empty())
    }
}

impl State {
    /// A family with records that may be damaged, and these; in the order of their keys.
    fn choose_family(&mut self, of: Option<Family>) -> Option<(Family, Vec<SpoolId>)> {
        let ids = FAMILIES.map(|family| (family, self.path(family).healthy(family)));
        let is_meant = |family: Family| of.is_none_or(|of| of == family);
        let meant = ids.into_iter().filter(|(family, ids)| is_meant(*family) && !ids.is_empty());
        let mut some: Vec<_> = meant.collect();
        let choice = self.draws.damage.below(some.len() as u64) as usize;
        (choice < some.len()).then(|| some.swap_remove(choice))
    }
}

fn fail(path: &str, entry: &mut Entry, kind: SpoolErrorKind, part: Changes) {
    let what = match kind {
        SpoolErrorKind::NoSpace => "writing it: No space left on device",
        _ => "writing it: Input/output error",
    };
    entry.fails = Some(failure(kind, path, what));
    if let Work::Apply(changes, sync) = &mut entry.work {
        *changes = part;
        *sync = SyncMode::Unsynced;
    }
}

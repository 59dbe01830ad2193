//! One path of the disk and the store on it: what is durable, what is applied and not yet so, what is handed over and hasn't ended.
//! Invariant: writes end in the order in which they were handed over, one after the other, and `visible` is what was durable with all that was
//! applied since. What of the rest a crash keeps is drawn in [`Path::kill`] and [`Path::cut_power`], and nowhere else.
use super::damage::Overlay;
use super::{StoreKind, failure};
use crate::fault::{FaultKind, Faults};
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind, SyncMode};
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};

pub(crate) type Key = (Family, SpoolId);
/// `None` deletes.
pub(crate) type Changes = Vec<(Key, Option<Bytes>)>;
/// Where a write's caller finds its end.
pub(crate) type Answer = Arc<OnceLock<Result<(), SpoolError>>>;

#[derive(Clone, Debug)]
pub(crate) enum Work {
    Apply(Changes, SyncMode),
    Reopen,
}

impl Work {
    pub fn sync() -> Work {
        Work::Apply(Changes::new(), SyncMode::Synced)
    }
}

/// A write that was handed over.
pub(crate) struct Entry {
    pub work: Work,
    pub handed_over: Mono,
    /// Not begun before this.
    pub ready: Mono,
    pub takes: Duration,
    /// Until the stall is over.
    pub stalled: bool,
    /// How it ends whatever happens; its work is what is done of it all the same.
    pub fails: Option<SpoolError>,
    pub sync_fails: bool,
    pub answer: Answer,
}

/// A sync has failed.
struct Broken {
    error: SpoolError,
    /// Log: what of the unsynced will be there once it is opened again.
    kept: Vec<Changes>,
}

pub(crate) struct Path {
    /// Which faults aim at it.
    pub name: &'static str,
    kind: StoreKind,
    durable: BTreeMap<Key, Bytes>,
    visible: BTreeMap<Key, Bytes>,
    pending: Vec<Changes>,
    pub queue: VecDeque<Entry>,
    /// When the last write ended.
    free_at: Mono,
    pub overlay: Overlay,
    /// It was opened without a file.
    pub lacks_records: bool,
    broken: Option<Broken>,
    /// Log: it takes nothing until then, since its disk was full.
    pub full_until: Mono,
    pub background_errors: u64,
    /// The first fatal error of a write since one has succeeded, a synced one if it was a sync that failed; in this life.
    pub failing_since: Option<Mono>,
    sync_fails: bool,
    /// Keys of which only half of the value is there.
    torn: BTreeSet<Key>,
    /// Keys that have become durable since [`Path::take_landed`].
    landed: Vec<Key>,
}

/// What a crash leaves of the unsynced.
enum Luck {
    Nothing,
    Everything,
    Something,
}

impl Luck {
    fn draw(random: &mut Random) -> Luck {
        match random.below(3) {
            0 => Luck::Nothing,
            1 => Luck::Everything,
            _ => Luck::Something,
        }
    }

    /// How much of a sequence.
    fn prefix(random: &mut Random, of: usize) -> usize {
        match Luck::draw(random) {
            Luck::Nothing => 0,
            Luck::Everything => of,
            Luck::Something => random.below(of as u64 + 1) as usize,
        }
    }

    /// Which of a number of things.
    fn subset(random: &mut Random, of: usize) -> Vec<bool> {
        match Luck::draw(random) {
            Luck::Nothing => vec![false; of],
            Luck::Everything => vec![true; of],
            Luck::Something => (0..of).map(|_| random.below(2) == 0).collect(),
        }
    }
}

/// The part of a write that failed which is there all the same.
pub(crate) fn part_of(kind: StoreKind, changes: Changes, random: &mut Random) -> Changes {
    match kind {
        StoreKind::Log if random.below(2) == 0 => changes,
        StoreKind::Log => Changes::new(),
        StoreKind::Files => {
            let kept = Luck::subset(random, changes.len());
            changes
                .into_iter()
                .zip(kept)
                .filter_map(|(change, kept)| kept.then_some(change))
                .collect()
        }
    }
}

/// Each key once, in their order, with what its last operation wants: files are written so.
pub(crate) fn coalesced(changes: Changes) -> Changes {
    changes.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn is_fatal(kind: SpoolErrorKind) -> bool {
    matches!(kind, SpoolErrorKind::Io | SpoolErrorKind::NoSpace | SpoolErrorKind::Corruption)
}

impl Path {
    pub fn new(name: &'static str, kind: StoreKind) -> Path {
        Path {
            name,
            kind,
            durable: BTreeMap::new(),
            visible: BTreeMap::new(),
            pending: Vec::new(),
            queue: VecDeque::new(),
            free_at: Mono(0),
            overlay: Overlay::default(),
            lacks_records: false,
            broken: None,
            full_until: Mono(0),
            background_errors: 0,
            failing_since: None,
            sync_fails: false,
            torn: BTreeSet::new(),
            landed: Vec::new(),
        }
    }

    pub fn durable(&self) -> &BTreeMap<Key, Bytes> {
        &self.durable
    }

    pub fn visible(&self) -> &BTreeMap<Key, Bytes> {
        &self.visible
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whole.
    pub fn is_durable(&self, key: &Key) -> bool {
        self.durable.contains_key(key) && !self.torn.contains(key)
    }

    /// As a life would see it that began now.
    pub fn seen_by_next_life(&self, key: &Key) -> Option<&Bytes> {
        let Some(broken) = self.broken.as_ref().filter(|_| self.kind == StoreKind::Log) else {
            return self.visible.get(key);
        };
        let changes = broken.kept.iter().rev().flat_map(|changes| changes.iter().rev());
        match changes.into_iter().find(|(changed, _)| changed == key) {
            Some((_, value)) => value.as_ref(),
            None => self.durable.get(key),
        }
    }

    /// Durable records of a family that nothing unsynced touches and that aren't damaged.
    pub fn healthy(&self, family: Family) -> Vec<SpoolId> {
        let touched: BTreeSet<&Key> = self.pending.iter().flatten().map(|(key, _)| key).collect();
        let keys = self.durable.keys().filter(|key| key.0 == family);
        keys.filter(|key| !touched.contains(key) && !self.overlay.is_damaged(key))
            .map(|key| key.1)
            .collect()
    }

    pub fn take_landed(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.landed)
    }

    // ---- Writing ---------------------------------------------------------------------------------------

    /// Ends the first write of the queue, if its time has come.
    pub fn end_one(&mut self, faults: &Faults, now: Mono, random: &mut Random) -> bool {
        let Some(front) = self.queue.front_mut() else { return false };
        if front.stalled {
            if faults.is_active(FaultKind::DiskStall, self.name) {
                return false;
            }
            front.stalled = false;
            front.ready = now;
        }
        let end = front.ready.max(self.free_at) + front.takes;
        if end > now {
            return false;
        }
        self.free_at = end;
        let entry = self.queue.pop_front().expect("there is a front");
        let answer = entry.answer.clone();
        let (proves, fails_syncing) = match &entry.work {
            Work::Apply(_, SyncMode::Synced) => (true, entry.sync_fails),
            Work::Apply(changes, SyncMode::Unsynced) => {
                (!changes.is_empty() && !self.sync_fails, false)
            }
            Work::Reopen => (false, false),
        };
        let result = self.perform(entry, random);
        match &result {
            Ok(()) if proves => (self.failing_since, self.sync_fails) = (None, false),
            Err(error) if is_fatal(error.kind) => {
                self.failing_since.get_or_insert(end);
                self.sync_fails |= fails_syncing;
            }
            _ => {}
        }
        answer.set(result).expect("an entry ends once");
        true
    }

    /// When the write of `answer` will have ended; `None`: nobody knows, since one before it stalls, or it does.
    pub fn end_of(&self, faults: &Faults, now: Mono, answer: &Answer) -> Option<Mono> {
        let mut end = self.free_at;
        for entry in &self.queue {
            let ready = match entry.stalled {
                true if faults.is_active(FaultKind::DiskStall, self.name) => return None,
                true => now,
                false => entry.ready,
            };
            end = end.max(ready) + entry.takes;
            if Arc::ptr_eq(&entry.answer, answer) {
                break;
            }
        }
        Some(end)
    }

    fn perform(&mut self, entry: Entry, random: &mut Random) -> Result<(), SpoolError> {
        match (entry.work, entry.fails) {
            (Work::Reopen, Some(error)) => Err(error),
            (Work::Reopen, None) => self.reopen(),
            (Work::Apply(changes, sync), fails) => {
                if let (StoreKind::Log, Some(broken)) = (self.kind, &self.broken) {
                    return Err(broken.error.clone());
                }
                if let Some(error) = fails {
                    self.write(changes);
                    return Err(error);
                }
                self.apply(changes, sync, entry.sync_fails, random)
            }
        }
    }

    fn apply(
        &mut self,
        changes: Changes,
        sync: SyncMode,
        sync_fails: bool,
        random: &mut Random,
    ) -> Result<(), SpoolError> {
        let synced = sync == SyncMode::Synced;
        if synced && sync_fails && self.kind == StoreKind::Log {
            return Err(self.break_log(changes, random));
        }
        self.write(changes);
        if !synced {
            return Ok(());
        }
        if sync_fails && self.broken.is_none() {
            self.break_for_good("syncing it: Input/output error; start anew", Vec::new());
        }
        match &self.broken {
            Some(broken) => Err(broken.error.clone()),
            None => {
                self.make_durable();
                Ok(())
            }
        }
    }

    /// The batch whose sync failed shows only if it is still there after the next opening.
    fn break_log(&mut self, changes: Changes, random: &mut Random) -> SpoolError {
        let mut kept = self.pending.clone();
        kept.push(changes);
        kept.truncate(Luck::prefix(random, kept.len()));
        self.background_errors += 1;
        self.break_for_good("syncing its log: Input/output error; it takes nothing more", kept)
    }

    fn break_for_good(&mut self, what: &str, kept: Vec<Changes>) -> SpoolError {
        let error = failure(SpoolErrorKind::Io, self.name, what);
        self.broken = Some(Broken { error: error.clone(), kept });
        error
    }

    fn reopen(&mut self) -> Result<(), SpoolError> {
        match (&self.broken, self.kind) {
            // There is nothing that could be opened anew.
            (Some(broken), StoreKind::Files) => return Err(broken.error.clone()),
            _ => self.open(),
        }
        Ok(())
    }

    fn write(&mut self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        show(&mut self.visible, &mut self.overlay, &changes);
        self.pending.push(changes);
    }

    fn make_durable(&mut self) {
        for (key, value) in std::mem::take(&mut self.pending).into_iter().flatten() {
            self.torn.remove(&key);
            match value {
                Some(value) => {
                    self.durable.insert(key, value);
                    self.landed.push(key);
                }
                None => drop(self.durable.remove(&key)),
            }
        }
        self.overlay.forget_covered();
    }

    // ---- Ends and beginnings ---------------------------------------------------------------------------

    /// The store on it is opened, by this process or the next.
    fn open(&mut self) {
        if let Some(broken) = self.broken.take()
            && self.kind == StoreKind::Log
        {
            self.pending = broken.kept;
            self.rebuild();
        }
        self.lacks_records |= self.overlay.open();
        self.background_errors = 0;
        self.full_until = Mono(0);
    }

    fn rebuild(&mut self) {
        self.overlay.uncover();
        self.visible = self.durable.clone();
        for changes in &self.pending {
            show(&mut self.visible, &mut self.overlay, changes);
        }
    }

    /// What was handed over and hasn't ended. A log that is broken would have refused it.
    fn take_in_flight(&mut self) -> Vec<Changes> {
        let refuses = self.kind == StoreKind::Log && self.is_broken();
        let works = std::mem::take(&mut self.queue).into_iter().map(|entry| entry.work);
        works
            .filter_map(|work| match work {
                Work::Apply(changes, _) if !changes.is_empty() && !refuses => Some(changes),
                _ => None,
            })
            .collect()
    }

    /// The process is gone, the system stays: what was applied is there.
    pub fn kill(&mut self, random: &mut Random) {
        let mut in_flight = self.take_in_flight();
        self.open();
        if in_flight.is_empty() {
            return;
        }
        match self.kind {
            StoreKind::Log => {
                in_flight.truncate(Luck::prefix(random, in_flight.len()));
                in_flight.into_iter().for_each(|changes| self.write(changes));
            }
            StoreKind::Files => {
                let changes: Changes = in_flight.into_iter().flatten().collect();
                let kept = Luck::subset(random, changes.len());
                let kept = changes.into_iter().zip(kept).filter(|(_, kept)| *kept);
                self.write(kept.map(|(change, _)| change).collect());
            }
        }
    }

    /// The kinds of crash that had an effect.
    pub fn cut_power(&mut self, random: &mut Random) -> Vec<FaultKind> {
        let in_flight = self.take_in_flight();
        self.open();
        let Cut { kept, torn, effects } = match self.kind {
            StoreKind::Log => cut_log(std::mem::take(&mut self.pending), in_flight, random),
            StoreKind::Files => {
                let pending = std::mem::take(&mut self.pending).into_iter().flatten().collect();
                let in_flight = in_flight.into_iter().flatten().collect();
                cut_files(&self.durable, pending, in_flight, random)
            }
        };
        self.pending = kept;
        self.rebuild();
        self.make_durable();
        self.torn.extend(torn);
        effects
    }
}

/// What a power cut left of the unsynced.
#[derive(Default)]
struct Cut {
    kept: Vec<Changes>,
    torn: Vec<Key>,
    effects: Vec<FaultKind>,
}

fn cut_log(pending: Vec<Changes>, in_flight: Vec<Changes>, random: &mut Random) -> Cut {
    let mut kept = pending;
    kept.extend(in_flight);
    let unsynced = kept.len();
    if unsynced == 0 {
        return Cut::default();
    }
    kept.truncate(Luck::prefix(random, unsynced));
    let effect = match kept.len() {
        0 => FaultKind::DiskCrashDrop,
        length if length == unsynced => FaultKind::DiskCrashKeep,
        _ => FaultKind::DiskCrashTear,
    };
    Cut { kept, torn: Vec::new(), effects: vec![effect] }
}

fn cut_files(
    durable: &BTreeMap<Key, Bytes>,
    pending: Changes,
    in_flight: Changes,
    random: &mut Random,
) -> Cut {
    let applied = pending.len();
    let unsynced = applied + in_flight.len();
    if unsynced == 0 {
        return Cut::default();
    }
    let luck = Luck::subset(random, unsynced);
    let mut effects = vec![effect_of(&luck)];
    let mut torn = BTreeSet::new();
    let mut kept = Changes::new();
    for (at, mut change) in pending.into_iter().chain(in_flight).enumerate() {
        if !luck[at] {
            continue;
        }
        torn.remove(&change.0);
        let may_tear = at >= applied && !durable.contains_key(&change.0);
        if may_tear && tear(&mut change.1, random) {
            torn.insert(change.0);
        }
        kept.push(change);
    }
    let flying = &luck[applied..];
    if !torn.is_empty() || flying.contains(&true) && flying.contains(&false) {
        effects.push(FaultKind::DiskCrashTear);
    }
    Cut { kept: vec![kept], torn: torn.into_iter().collect(), effects }
}

fn show(visible: &mut BTreeMap<Key, Bytes>, overlay: &mut Overlay, changes: &Changes) {
    for (key, value) in changes {
        overlay.cover(key);
        match value {
            Some(value) => drop(visible.insert(*key, value.clone())),
            None => drop(visible.remove(key)),
        }
    }
}

/// Leaves half of a value, one time in four.
fn tear(value: &mut Option<Bytes>, random: &mut Random) -> bool {
    match value {
        Some(value) if value.len() > 1 && random.below(4) == 0 => {
            value.truncate(value.len() / 2);
            true
        }
        _ => false,
    }
}

/// Of a power cut that kept some changes, in their order.
fn effect_of(kept: &[bool]) -> FaultKind {
    let first_lost = kept.iter().position(|kept| !kept);
    let last_kept = kept.iter().rposition(|kept| *kept);
    match (first_lost, last_kept) {
        (None, _) => FaultKind::DiskCrashKeep,
        (Some(lost), Some(kept)) if lost < kept => FaultKind::DiskCrashReorder,
        _ => FaultKind::DiskCrashDrop,
    }
}

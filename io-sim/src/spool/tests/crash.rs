//! Crashes as properties over many seeds, against all states that the writes went through.
use super::*;
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u64 = 400;
const HALVES: &str = "a value to be torn";

type Records = BTreeMap<(Family, SpoolId), Bytes>;

/// What was written, batch by batch.
struct Written {
    batches: Vec<Vec<SpoolOperation>>,
    /// So many of the first were durable by then, and so many applied.
    durable: usize,
    applied: usize,
}

/// `family`: `None` writes both in each batch.
fn draw_batch(random: &mut Random, family: Option<Family>, number: usize) -> Vec<SpoolOperation> {
    let mut batch = Vec::new();
    for _ in 0..1 + random.below(3) {
        let key = random.below(6) as u8 + 1;
        for one in FAMILIES.into_iter().filter(|one| family.is_none_or(|family| family == *one)) {
            batch.push(match random.below(3) {
                0 => delete(one, key),
                _ => put(one, key, &format!("{HALVES} {number}")),
            });
        }
    }
    batch
}

/// Some batches that are waited for, then some that aren't.
async fn write(spool: &SimSpool, random: &mut Random, family: Option<Family>) -> Written {
    let mut written = Written { batches: Vec::new(), durable: 0, applied: 0 };
    for number in 0..random.below(6) as usize {
        let batch = draw_batch(random, family, number);
        written.batches.push(batch.clone());
        let sync = [SyncMode::Synced, SyncMode::Unsynced][random.below(2) as usize];
        spool.apply(batch, sync).await.unwrap();
        written.applied += 1;
        if sync == SyncMode::Synced {
            written.durable = written.applied;
        }
    }
    for number in 0..random.below(4) as usize {
        let batch = draw_batch(random, family, 100 + number);
        written.batches.push(batch.clone());
        poll_once(spool.apply(batch, SyncMode::Synced)).await;
    }
    written
}

fn perform(records: &mut Records, batch: &[SpoolOperation]) {
    for operation in batch.iter().cloned() {
        match operation {
            SpoolOperation::Put { family, key, value } => records.insert((family, key), value),
            SpoolOperation::Delete { family, key } => records.remove(&(family, key)),
        };
    }
}

impl Written {
    fn after(&self, batches: usize) -> Records {
        let mut records = Records::new();
        self.batches[..batches].iter().for_each(|batch| perform(&mut records, batch));
        records
    }

    /// Whether `records` are what a prefix left that holds at least the first `least`.
    fn is_prefix(&self, records: &Records, least: usize) -> bool {
        (least..=self.batches.len()).any(|batches| self.after(batches) == *records)
    }

    /// Every value that a record may have if any of the batches behind the first `least` happened, or half of it.
    fn possible(&self, key: &(Family, SpoolId), least: usize) -> BTreeSet<Option<Bytes>> {
        let before = self.after(least);
        let mut values = BTreeSet::from([before.get(key).cloned()]);
        for batch in &self.batches[least..] {
            let mut alone = before.clone();
            // Within a batch of files only the last operation on a key happens.
            perform(&mut alone, batch);
            values.insert(alone.get(key).cloned());
        }
        let halves: Vec<_> =
            values.iter().flatten().map(|value| value.slice(..value.len() / 2)).collect();
        values.extend(halves.into_iter().map(Some));
        values
    }
}

fn records(universe: &Universe) -> Records {
    let mut records = Records::new();
    for family in FAMILIES {
        for number in 1..=8 {
            if let Some(value) = universe.disk.visible(family, id(number)) {
                records.insert((family, id(number)), value);
            }
        }
    }
    records
}

async fn crashed(seed: u64, disk: &DiskSettings, power: bool) -> (Arc<Universe>, Written, Records) {
    let mut random = Random::new(seed, "test");
    let universe = universe(seed, disk);
    let spool = open(&universe);
    let family = match spool.is_atomic_across_families() {
        true => None,
        false => Some(FAMILIES[random.below(2) as usize]),
    };
    let written = write(&spool, &mut random, family).await;
    crash(&universe, power);
    let records = records(&universe);
    (universe, written, records)
}

#[madsim::test]
async fn a_log_keeps_a_prefix_with_all_that_was_synced_and_batches_whole() {
    let mut counts = BTreeMap::new();
    for disk in &disks()[..2] {
        for seed in 0..SEEDS {
            let (universe, written, records) = crashed(seed, disk, true).await;
            assert!(written.is_prefix(&records, written.durable), "seed {seed}: {records:?}");
            for family in FAMILIES {
                let durable: BTreeSet<_> =
                    records.keys().filter(|key| key.0 == family).map(|key| key.1).collect();
                assert_eq!(universe.disk.durable_ids(family), durable, "all of it is durable");
            }
            for (kind, fired) in FaultKind::ALL.iter().zip(universe.faults.fired()) {
                *counts.entry(*kind).or_insert(0) += fired;
            }
            let unsynced = written.batches.len() - written.durable;
            let crashes: u64 = universe.faults.fired().iter().sum();
            assert_eq!(
                crashes,
                u64::from(unsynced > 0),
                "seed {seed}: counted if it had an effect"
            );
        }
    }
    for kind in [FaultKind::DiskCrashDrop, FaultKind::DiskCrashKeep, FaultKind::DiskCrashTear] {
        assert!(counts[&kind] > 20, "{counts:?}");
    }
    assert_eq!(counts[&FaultKind::DiskCrashReorder], 0);
}

#[madsim::test]
async fn a_killed_process_loses_nothing_that_was_applied() {
    for disk in disks() {
        let mut lengths = BTreeSet::new();
        for seed in 0..SEEDS {
            let (universe, written, records) = crashed(seed, &disk, false).await;
            match disk.kind {
                StoreKind::Log => assert!(written.is_prefix(&records, written.applied), "{seed}"),
                StoreKind::Files => {
                    for number in 1..=8 {
                        for key in FAMILIES.map(|family| (family, id(number))) {
                            let possible = written.possible(&key, written.applied);
                            assert!(possible.contains(&records.get(&key).cloned()), "seed {seed}");
                        }
                    }
                }
            }
            lengths.insert(records == written.after(written.applied));
            assert!(universe.faults.fired().iter().all(|fired| *fired == 0), "no power was cut");
            // A power cut of the next life takes nothing that was synced in the first.
            crash(&universe, true);
            for (key, value) in written.after(written.durable) {
                let touched = written.batches[written.durable..].iter().flatten().any(|operation| {
                    matches!(operation, SpoolOperation::Put { family, key: id, .. } | SpoolOperation::Delete { family, key: id } if (*family, *id) == key)
                });
                let there = universe.disk.visible(key.0, key.1);
                assert!(touched || there == Some(value), "seed {seed}: {key:?}");
            }
        }
        assert_eq!(lengths.len(), 2, "what was in flight happened here and didn't there");
    }
}

#[madsim::test]
async fn files_keep_any_subset_but_never_lose_what_was_synced() {
    let mut counts = BTreeMap::new();
    let (mut torn, mut out_of_order) = (0, 0);
    for seed in 0..SEEDS {
        let (universe, written, records) = crashed(seed, &files(), true).await;
        for number in 1..=8 {
            for key in FAMILIES.map(|family| (family, id(number))) {
                let value = records.get(&key).cloned();
                let possible = written.possible(&key, written.durable);
                assert!(possible.contains(&value), "seed {seed}: {value:?}");
                let half = value.is_some_and(|value| value.len() < HALVES.len());
                torn += u64::from(half);
                assert!(!half || !written.after(written.durable).contains_key(&key), "seed {seed}");
            }
        }
        out_of_order += u64::from(!written.is_prefix(&records, written.durable));
        for (kind, fired) in FaultKind::ALL.iter().zip(universe.faults.fired()) {
            *counts.entry(*kind).or_insert(0) += fired;
        }
    }
    assert!(torn > 5 && out_of_order > 20, "{torn} torn, {out_of_order} out of order");
    for kind in [
        FaultKind::DiskCrashDrop,
        FaultKind::DiskCrashKeep,
        FaultKind::DiskCrashTear,
        FaultKind::DiskCrashReorder,
    ] {
        assert!(counts[&kind] > 20, "{counts:?}");
    }
}

#[madsim::test]
async fn what_was_answered_is_there_after_any_number_of_crashes() {
    for disk in disks() {
        for seed in 0..50 {
            let mut random = Random::new(seed, "test");
            let universe = universe(seed, &disk);
            let mut stored = Vec::new();
            for number in 1..=8 {
                let spool = open(&universe);
                assert!(stored.iter().all(|id| universe.disk.visible(Family::Meta, *id).is_some()));
                for family in FAMILIES {
                    let one = vec![put(family, number, "x")];
                    spool.apply(one, SyncMode::Synced).await.unwrap();
                }
                stored.push(id(number));
                poll_once(spool.apply(vec![put(Family::Meta, 99, "y")], SyncMode::Synced)).await;
                crash(&universe, random.below(2) == 0);
            }
            assert!(stored.iter().all(|id| universe.disk.durable_since(*id).is_some()));
        }
    }
}

#[madsim::test]
async fn a_torn_message_was_never_durable() {
    let mut torn = 0;
    for seed in 0..SEEDS {
        let universe = universe(seed, &files());
        let spool = open(&universe);
        poll_once(store(&spool, 1)).await;
        crash(&universe, true);
        let values = FAMILIES.map(|family| universe.disk.visible(family, id(1)));
        let whole = [Bytes::from_static(b"body"), Bytes::from_static(b"envelope")].map(Some);
        assert_eq!(
            universe.disk.durable_since(id(1)).is_some(),
            values == whole,
            "seed {seed}: {values:?}"
        );
        torn += u64::from(values == [whole[0].clone(), Some(Bytes::from_static(b"enve"))]);
    }
    assert!(torn > 5, "{torn}");
}

#[madsim::test]
async fn a_file_that_has_shown_is_never_torn() {
    for seed in 0..SEEDS {
        let universe = universe(seed, &files());
        let spool = open(&universe);
        spool.apply(message(1), SyncMode::Unsynced).await.unwrap();
        crash(&universe, true);
        for (family, value) in FAMILIES.into_iter().zip(["body", "envelope"]) {
            let there = universe.disk.visible(family, id(1));
            assert!(there.is_none_or(|there| there == value), "seed {seed}");
        }
    }
}

#[madsim::test]
async fn an_opening_that_was_told_of_no_crash_draws_it_itself() {
    let universe = universe(1, &files());
    let spool = open(&universe);
    poll_once(store(&spool, 1)).await;
    let next = open(&universe);
    assert_eq!(universe.disk.writes_in_flight_since(), None);
    store(&next, 2).await.unwrap();
    assert!(messages(&next).await.contains(&2));
}

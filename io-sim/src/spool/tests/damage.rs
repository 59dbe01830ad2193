//! Damage is met as its kind says, nothing outside of it is, and the truth lies beneath.
use super::*;
use std::collections::BTreeSet;

async fn filled(seed: u64, disk: &DiskSettings) -> (Arc<Universe>, SimSpool) {
    let universe = universe(seed, disk);
    let spool = open(&universe);
    for number in 1..=8 {
        store(&spool, number).await.unwrap();
    }
    (universe, spool)
}

/// The records of each family that a scan in small pages finds, and the lines that it says.
async fn scan(spool: &SimSpool, family: Family) -> (Vec<SpoolId>, Vec<String>) {
    let (mut ids, mut lines, mut from) = (Vec::new(), Vec::new(), None);
    loop {
        let page = spool.scan(family, from, 3, false).await.unwrap();
        ids.extend(page.entries.iter().map(|entry| entry.0));
        lines.extend(page.damaged.into_iter().map(|damage| damage.text));
        match page.next {
            Some(next) => from = Some(next),
            None => return (ids, lines),
        }
    }
}

#[madsim::test]
async fn one_flipped_bit_is_one_flipped_bit() {
    let mut families = BTreeSet::new();
    for seed in 0..20 {
        let (universe, spool) = filled(seed, &disks()[seed as usize % 3]).await;
        let hit = universe.disk.corrupt_record(&universe, None).unwrap();
        let mut flipped = 0;
        for family in FAMILIES {
            let page = spool.scan(family, None, 100, false).await.unwrap();
            assert_eq!((page.entries.len(), page.damaged.len()), (8, 0));
            for (id, value) in page.entries {
                let truth = universe.disk.visible(family, id).unwrap();
                let bits = value.iter().zip(&truth).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
                assert_eq!(spool.get(family, id).await, Ok(Some(value)));
                assert!(bits == 0 || id == hit);
                flipped += bits;
                if bits > 0 {
                    families.insert(family);
                }
            }
        }
        assert_eq!((flipped, fired(&universe, FaultKind::DiskCorruptRecord)), (1, 1));
        universe.disk.lift_damage();
        let values = spool.scan(Family::Data, None, 100, false).await.unwrap().entries;
        assert!(values.iter().all(|entry| entry.1 == "body"));
    }
    assert_eq!(families.len(), 2);
}

#[madsim::test]
async fn a_damaged_block_is_told_of_and_jumped_over() {
    for seed in 0..30 {
        let (universe, spool) = filled(seed, &disks()[seed as usize % 3]).await;
        let lost: BTreeSet<SpoolId> =
            universe.disk.corrupt_block(&universe, None).into_iter().collect();
        assert!(!lost.is_empty());
        let mut lines = Vec::new();
        for family in FAMILIES {
            let (ids, said) = scan(&spool, family).await;
            let left = (1..=8).map(id).filter(|id| said.is_empty() || !lost.contains(id));
            assert_eq!(ids, left.collect::<Vec<_>>(), "seed {seed}");
            if !said.is_empty() {
                let error = spool.get(family, *lost.first().unwrap()).await.unwrap_err();
                assert_eq!(error.kind, SpoolErrorKind::Corruption);
                assert!(universe.disk.visible(family, *lost.first().unwrap()).is_some());
            }
            lines.extend(said);
        }
        assert_eq!(lines.len(), 1, "{lines:?}");
        let range = format!("{} to {}", lost.first().unwrap(), lost.last().unwrap());
        assert!(lines[0].contains(&range), "{lines:?}");
        assert!(!spool.may_lack_records());
        universe.disk.lift_damage();
        assert_eq!(messages(&spool).await.len(), 8);
    }
}

async fn has_a_hole(spool: &SimSpool, family: Family, lost: &[SpoolId]) {
    assert!(spool.may_lack_records());
    assert_eq!(kind(spool.get(family, lost[0]).await), SpoolErrorKind::Corruption);
    let (ids, lines) = scan(spool, family).await;
    assert_eq!((ids.len(), lines.len()), (8 - lost.len(), 1), "{lines:?}");
}

#[madsim::test]
async fn a_missing_file_gives_errors_and_from_the_next_opening_on_a_hole() {
    for seed in 0..30 {
        let (universe, spool) = filled(seed, &disks()[seed as usize % 3]).await;
        let lost = universe.disk.missing_file(&universe, None);
        let mut families = FAMILIES.to_vec();
        for family in FAMILIES {
            if spool.get(family, lost[0]).await.is_ok() {
                families.retain(|one| *one != family);
            }
        }
        let [family] = families[..] else { panic!("one family is damaged: {families:?}") };
        assert_eq!(kind(spool.get(family, lost[0]).await), SpoolErrorKind::Io);
        assert_eq!(kind(spool.scan(family, None, 100, true).await), SpoolErrorKind::Io);
        assert!(!spool.may_lack_records(), "it doesn't know yet");
        let reopens = seed % 2 == 0;
        let spool = if reopens {
            reopen_all(&spool).await.unwrap();
            spool
        } else {
            crash(&universe, seed % 4 == 1);
            open(&universe)
        };
        has_a_hole(&spool, family, &lost).await;
        crash(&universe, false);
        has_a_hole(&open(&universe), family, &lost).await;
        universe.disk.lift_damage();
        assert!(!open(&universe).may_lack_records());
    }
}

#[madsim::test]
async fn a_write_heals_its_key_and_a_crash_that_takes_it_back_brings_the_damage_again() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..40 {
        let (universe, spool) = filled(seed, &log()).await;
        let lost = universe.disk.corrupt_block(&universe, None);
        let key = lost[0];
        let mut damaged = FAMILIES.to_vec();
        for family in FAMILIES {
            if spool.get(family, key).await.is_ok() {
                damaged.retain(|one| *one != family);
            }
        }
        let family = damaged[0];
        let value = Bytes::from_static(b"again");
        let batch = vec![SpoolOperation::Put { family, key, value: value.clone() }];
        spool.apply(batch, SyncMode::Unsynced).await.unwrap();
        assert_eq!(spool.get(family, key).await, Ok(Some(value.clone())));
        crash(&universe, true);
        let spool = open(&universe);
        match universe.disk.visible(family, key) == Some(value.clone()) {
            true => assert_eq!(spool.get(family, key).await, Ok(Some(value))),
            false => assert_eq!(kind(spool.get(family, key).await), SpoolErrorKind::Corruption),
        }
        outcomes.insert(spool.get(family, key).await.is_ok());
        spool.apply(vec![SpoolOperation::Delete { family, key }], SyncMode::Synced).await.unwrap();
        assert_eq!(spool.get(family, key).await, Ok(None));
        let (ids, _) = scan(&spool, family).await;
        assert!(!ids.contains(&key));
    }
    assert_eq!(outcomes.len(), 2);
}

#[madsim::test]
async fn an_empty_disk_has_nothing_to_damage() {
    let universe = universe(1, &log());
    assert_eq!(universe.disk.corrupt_record(&universe, None), None);
    assert!(universe.disk.corrupt_block(&universe, None).is_empty());
    assert!(universe.disk.missing_file(&universe, None).is_empty());
    assert!(universe.faults.fired().iter().all(|fired| *fired == 0));
}

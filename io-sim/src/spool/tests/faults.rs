//! Each fault does what its help says, as long as it is in force, and is counted when it strikes.
use super::*;
use std::collections::BTreeSet;

#[madsim::test]
async fn a_stall_holds_up_whatever_stands_behind_it() {
    for disk in disks() {
        let universe = universe(1, &disk);
        let spool = open(&universe);
        let fault = begin(&universe, FaultKind::DiskStall, None);
        let began = universe.now().mono;
        poll_once(store(&spool, 1)).await;
        let heal = async {
            sleep(Duration::from_secs(90)).await;
            universe.faults.end(fault);
        };
        let stored = async {
            assert_eq!(get(&spool, Family::Meta, 1).await, None, "reads go on");
            assert_eq!(universe.disk.writes_in_flight_since(), Some(began));
            store(&spool, 2).await
        };
        let (stored, ()) = tokio::join!(stored, heal);
        stored.unwrap();
        let took = universe.now().mono.since(began);
        assert!(took >= Duration::from_secs(90) && took < Duration::from_secs(91), "{took:?}");
        assert_eq!(messages(&spool).await, [1, 2]);
        assert!(fired(&universe, FaultKind::DiskStall) >= 2);
    }
}

#[madsim::test]
async fn a_stall_with_an_amount_ends_by_itself() {
    let universe = universe(1, &log());
    let spool = open(&universe);
    begin(&universe, FaultKind::DiskStall, Some(Duration::from_secs(40)));
    let began = universe.now().mono;
    store(&spool, 1).await.unwrap();
    spool.sync(Family::Meta).await.unwrap();
    let took = universe.now().mono.since(began);
    assert!(took >= Duration::from_secs(80) && took < Duration::from_secs(81), "{took:?}");
}

#[madsim::test]
async fn a_fault_strikes_the_path_that_it_is_aimed_at() {
    let universe = universe(1, &files());
    let spool = open(&universe);
    let target = Some("meta".into());
    universe.faults.begin(Fault {
        what: FaultKind::DiskWriteError,
        chance: 1000,
        amount: None,
        target,
    });
    spool.apply(vec![put(Family::Data, 1, "x")], SyncMode::Synced).await.unwrap();
    let result = spool.apply(vec![put(Family::Meta, 1, "x")], SyncMode::Synced).await;
    assert_eq!(kind(result), SpoolErrorKind::Io);
    assert_eq!(fired(&universe, FaultKind::DiskWriteError), 1);
}

#[madsim::test]
async fn a_write_error_leaves_nothing_or_a_part_or_all_of_it_but_nothing_durable() {
    for disk in disks() {
        let mut seen = BTreeSet::new();
        for seed in 0..60 {
            let universe = universe(seed, &disk);
            let spool = open(&universe);
            begin(&universe, FaultKind::DiskWriteError, None);
            assert_eq!(kind(store(&spool, 1).await), SpoolErrorKind::Io);
            universe.faults.heal();
            let there = FAMILIES.map(|family| universe.disk.visible(family, id(1)).is_some());
            seen.insert(there);
            assert!(universe.disk.durable_ids(Family::Data).is_empty());
            store(&spool, 2).await.expect("the next is fine");
            assert_eq!(universe.disk.durable_since(id(1)).is_some(), there == [true, true]);
        }
        let torn = seen.contains(&[true, false]);
        assert!(seen.contains(&[true, true]) && seen.contains(&[false, false]));
        assert_eq!(torn, disk.two_paths, "one log's batch is whole");
    }
}

#[madsim::test]
async fn after_a_failed_sync_a_log_takes_nothing_until_it_is_opened_again() {
    let mut came_back = BTreeSet::new();
    for disk in &disks()[..2] {
        for seed in 0..60 {
            let universe = universe(seed, disk);
            let spool = open(&universe);
            store(&spool, 1).await.unwrap();
            spool.apply(message(2), SyncMode::Unsynced).await.unwrap();
            let fault = begin(&universe, FaultKind::DiskSyncError, None);
            assert_eq!(kind(store(&spool, 3).await), SpoolErrorKind::Io);
            assert!(universe.disk.needs_reopen());
            assert_eq!(kind(reopen_all(&spool).await), SpoolErrorKind::Io, "it syncs, too");
            universe.faults.end(fault);
            assert_eq!(kind(sync_all(&spool).await), SpoolErrorKind::Io);
            assert_eq!(kind(spool.apply(message(4), SyncMode::Unsynced).await), SpoolErrorKind::Io);
            assert_eq!(messages(&spool).await, [1, 2], "what was applied shows");
            let expected: Vec<u8> =
                (1..=8).filter(|n| universe.disk.visible(Family::Meta, id(*n)).is_some()).collect();
            assert!(spool.properties(Family::Meta).background_errors > 0);
            reopen_all(&spool).await.unwrap();
            assert!(!universe.disk.needs_reopen());
            let there = messages(&spool).await;
            if !disk.two_paths {
                assert_eq!(there, expected, "as was foretold");
                assert!([&[1][..], &[1, 2], &[1, 2, 3]].contains(&&there[..]), "{there:?}");
                came_back.insert(there);
            }
            assert!(universe.disk.durable_since(id(3)).is_none());
            store(&spool, 5).await.unwrap();
            assert!(universe.disk.durable_since(id(5)).is_some());
        }
    }
    assert_eq!(came_back.len(), 3);
}

#[madsim::test]
async fn a_new_life_opens_a_log_whose_sync_has_failed() {
    for power_cut in [false, true] {
        let universe = universe(3, &log());
        let spool = open(&universe);
        begin(&universe, FaultKind::DiskSyncError, None);
        assert_eq!(kind(sync_all(&spool).await), SpoolErrorKind::Io);
        poll_once(store(&spool, 1)).await;
        universe.faults.heal();
        crash(&universe, power_cut);
        let spool = open(&universe);
        assert!(messages(&spool).await.is_empty(), "it was refused");
        store(&spool, 2).await.unwrap();
    }
}

#[madsim::test]
async fn after_a_failed_sync_files_call_nothing_durable_in_that_life() {
    let universe = universe(1, &files());
    let spool = open(&universe);
    let fault = begin(&universe, FaultKind::DiskSyncError, None);
    let error = store(&spool, 1).await.unwrap_err();
    universe.faults.end(fault);
    assert_eq!(store(&spool, 2).await, Err(error.clone()));
    assert_eq!(sync_all(&spool).await, Err(error.clone()));
    assert_eq!(reopen_all(&spool).await, Err(error.clone()));
    spool.apply(message(3), SyncMode::Unsynced).await.unwrap();
    assert_eq!(messages(&spool).await, [1, 2, 3], "but it shows");
    assert!(universe.disk.durable_ids(Family::Data).is_empty());
    assert!(universe.disk.needs_reopen());
    assert_eq!(spool.close().await, Err(error));
    crash(&universe, false);
    let spool = open(&universe);
    sync_all(&spool).await.unwrap();
    assert!(universe.disk.durable_since(id(1)).is_some());
}

#[madsim::test]
async fn a_full_disk_refuses_every_write_and_a_log_sees_its_end_seconds_later() {
    for disk in disks() {
        let universe = universe(1, &disk);
        let spool = open(&universe);
        store(&spool, 1).await.unwrap();
        let fault = begin(&universe, FaultKind::DiskNoSpace, None);
        assert_eq!(kind(store(&spool, 2).await), SpoolErrorKind::NoSpace);
        assert_eq!(
            kind(spool.apply(message(2), SyncMode::Unsynced).await),
            SpoolErrorKind::NoSpace
        );
        assert!(spool.free_space(Family::Data).await.unwrap().octets < 10_000);
        assert_eq!(messages(&spool).await, [1]);
        universe.faults.end(fault);
        assert!(spool.free_space(Family::Data).await.unwrap().octets > 10_000);
        let at_once = store(&spool, 3).await;
        assert_eq!(at_once.is_ok(), disk.kind == StoreKind::Files, "{at_once:?}");
        sleep(Duration::from_secs(6)).await;
        store(&spool, 3).await.unwrap();
    }
}

#[madsim::test]
async fn opening_a_log_again_sees_the_space_at_once() {
    let universe = universe(1, &log());
    let spool = open(&universe);
    let fault = begin(&universe, FaultKind::DiskNoSpace, None);
    assert_eq!(kind(store(&spool, 1).await), SpoolErrorKind::NoSpace);
    assert_eq!(kind(reopen_all(&spool).await), SpoolErrorKind::NoSpace);
    universe.faults.end(fault);
    reopen_all(&spool).await.unwrap();
    store(&spool, 1).await.unwrap();
}

#[madsim::test]
async fn reads_fail_while_they_are_to() {
    let universe = universe(1, &log());
    let spool = open(&universe);
    store(&spool, 1).await.unwrap();
    let fault = begin(&universe, FaultKind::DiskReadError, None);
    assert_eq!(kind(spool.get(Family::Meta, id(1)).await), SpoolErrorKind::Io);
    assert_eq!(kind(spool.scan(Family::Meta, None, 10, false).await), SpoolErrorKind::Io);
    assert!(spool.free_space(Family::Meta).await.is_ok());
    universe.faults.end(fault);
    assert_eq!(messages(&spool).await, [1]);
    assert_eq!(fired(&universe, FaultKind::DiskReadError), 2);
}

#[madsim::test]
async fn background_errors_grow_and_slow_compactions_show() {
    let universe = universe(1, &log());
    let spool = open(&universe);
    begin(&universe, FaultKind::DiskBackgroundErrors, None);
    begin(&universe, FaultKind::DiskSlowCompaction, None);
    for count in 1..4 {
        let properties = spool.properties(Family::Meta);
        assert_eq!(properties.background_errors, count);
        assert!(properties.compaction_pending && properties.running_compactions == 1);
    }
    let began = universe.now().mono;
    spool.compact(Family::Meta).await.unwrap();
    assert!(universe.now().mono.since(began) >= Duration::from_secs(60));
    assert_eq!(fired(&universe, FaultKind::DiskSlowCompaction), 4);
    universe.faults.heal();
    spool.compact(Family::Meta).await.unwrap();
    assert!(universe.now().mono.since(began) < Duration::from_secs(61));
    assert!(!spool.properties(Family::Meta).compaction_pending);
}

#[madsim::test]
async fn every_operation_is_a_step_that_can_be_made_to_fail() {
    use crate::lives::Trigger;
    for disk in disks() {
        let universe = universe(1, &disk);
        let spool = open(&universe);
        let fail = || {
            let next = universe.lives.steps() + 1;
            universe.lives.arm(next, Trigger::FailDisk { persistently: false });
        };
        fail();
        assert_eq!(kind(store(&spool, 1).await), SpoolErrorKind::Io);
        fail();
        assert_eq!(kind(spool.sync(Family::Meta).await), SpoolErrorKind::Io);
        fail();
        assert_eq!(kind(spool.get(Family::Meta, id(1)).await), SpoolErrorKind::Io);
        fail();
        assert_eq!(kind(spool.scan(Family::Meta, None, 1, true).await), SpoolErrorKind::Io);
        fail();
        assert_eq!(kind(spool.compact(Family::Meta).await), SpoolErrorKind::Io);
        fail();
        assert_eq!(kind(spool.reopen(Family::Meta).await), SpoolErrorKind::Io);
        store(&spool, 1).await.unwrap();
        fail();
        assert_eq!(kind(spool.close().await), SpoolErrorKind::Io);
        assert_eq!(universe.lives.steps(), 8);
    }
}

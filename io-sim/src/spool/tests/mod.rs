//! The port's suite over every kind of disk, and what holds of writes on a healthy one. Faults, crashes and damage have files of their own.
mod crash;
mod damage;
mod faults;

use super::*;
use crate::fault::{Fault, FaultId};
use crate::universe::Settings;
use kumo_core::random::Random;
use std::future::{Future, ready};

/// Every sensible combination.
fn disks() -> [DiskSettings; 3] {
    let disk = |two_paths, kind| DiskSettings { two_paths, kind, ..DiskSettings::default() };
    [disk(false, StoreKind::Log), disk(true, StoreKind::Log), disk(true, StoreKind::Files)]
}

fn log() -> DiskSettings {
    DiskSettings::default()
}

fn files() -> DiskSettings {
    DiskSettings { two_paths: true, kind: StoreKind::Files, ..DiskSettings::default() }
}

fn universe(seed: u64, disk: &DiskSettings) -> Arc<Universe> {
    let settings = Settings {
        disk: disk.clone(),
        net: Default::default(),
        interfaces: Vec::new(),
        policy: Default::default(),
        zones: Default::default(),
    };
    Universe::new(seed, settings)
}

/// The next life.
fn open(universe: &Arc<Universe>) -> SimSpool {
    SimSpool::open(universe, universe.lives.begin())
}

fn crash(universe: &Arc<Universe>, power_cut: bool) {
    universe.lives.end();
    universe.disk.crash(universe, power_cut);
}

fn begin(universe: &Universe, what: FaultKind, amount: Option<Duration>) -> FaultId {
    universe.faults.begin(Fault { what, chance: 1000, amount, target: None })
}

fn fired(universe: &Universe, what: FaultKind) -> u64 {
    universe.faults.fired()[what as usize]
}

fn id(number: u8) -> SpoolId {
    SpoolId([number; 16])
}

fn put(family: Family, number: u8, text: &str) -> SpoolOperation {
    SpoolOperation::Put { family, key: id(number), value: Bytes::copy_from_slice(text.as_bytes()) }
}

fn delete(family: Family, number: u8) -> SpoolOperation {
    SpoolOperation::Delete { family, key: id(number) }
}

fn message(number: u8) -> Vec<SpoolOperation> {
    vec![put(Family::Data, number, "body"), put(Family::Meta, number, "envelope")]
}

async fn store(spool: &SimSpool, number: u8) -> Result<(), SpoolError> {
    spool.apply(message(number), SyncMode::Synced).await
}

async fn get(spool: &SimSpool, family: Family, number: u8) -> Option<Bytes> {
    spool.get(family, id(number)).await.expect("it can be read")
}

fn kind<T>(result: Result<T, SpoolError>) -> SpoolErrorKind {
    result.err().expect("an error").kind
}

/// Hands it over, and lets go of it.
async fn poll_once(future: impl Future) {
    tokio::select! {
        biased;
        _ = future => {}
        () = ready(()) => {}
    }
}

/// Which of the messages 1 to 8 are there, in both families.
async fn messages(spool: &SimSpool) -> Vec<u8> {
    let mut there = Vec::new();
    for number in 1..=8 {
        let data = get(spool, Family::Data, number).await.is_some();
        if data && get(spool, Family::Meta, number).await.is_some() {
            there.push(number);
        }
    }
    there
}

/// On every path.
async fn sync_all(spool: &SimSpool) -> Result<(), SpoolError> {
    spool.sync(Family::Data).await.and(spool.sync(Family::Meta).await)
}

async fn reopen_all(spool: &SimSpool) -> Result<(), SpoolError> {
    spool.reopen(Family::Data).await.and(spool.reopen(Family::Meta).await)
}

#[madsim::test]
async fn every_kind_of_disk_passes_the_suite_of_the_port() {
    for disk in disks() {
        kumo_driver::conformance::spool(async || open(&universe(1, &disk))).await;
    }
}

#[madsim::test]
async fn an_apply_that_nobody_waits_for_ends_by_itself() {
    for disk in disks() {
        let universe = universe(1, &disk);
        let spool = open(&universe);
        poll_once(store(&spool, 1)).await;
        assert_eq!(universe.disk.writes_in_flight_since(), Some(universe.now().mono));
        assert_eq!(universe.disk.visible(Family::Meta, id(1)), None);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(messages(&spool).await, [1]);
        assert!(universe.disk.durable_since(id(1)).is_some());
        assert_eq!(universe.disk.writes_in_flight_since(), None);
        assert!(universe.waits.standing().is_empty());
    }
}

#[madsim::test]
async fn writes_end_one_after_the_other_and_show_only_then() {
    let slow = DiskSettings { sync: Duration::from_secs(1), ..log() };
    let universe = universe(1, &slow);
    let spool = open(&universe);
    let began = universe.now().mono;
    for number in 1..=4 {
        poll_once(store(&spool, number)).await;
    }
    assert_eq!(get(&spool, Family::Meta, 1).await, None, "not yet");
    assert!(universe.now().mono.since(began) < Duration::from_millis(10), "reads don't queue");
    sleep(Duration::from_millis(1_600)).await;
    assert!(get(&spool, Family::Meta, 1).await.is_some(), "none takes longer than 1.5 s");
    assert_eq!(get(&spool, Family::Meta, 4).await, None, "none takes less than 0.5 s");
    store(&spool, 5).await.unwrap();
    let took = universe.now().mono.since(began);
    assert!(
        took >= Duration::from_millis(2_500) && took <= Duration::from_millis(7_500),
        "{took:?}"
    );
    assert_eq!(messages(&spool).await, [1, 2, 3, 4, 5]);
}

#[madsim::test]
async fn what_is_waited_for_is_told() {
    let slow = DiskSettings { sync: Duration::from_secs(1), ..log() };
    let universe = universe(1, &slow);
    let spool = open(&universe);
    let mut storing = Box::pin(store(&spool, 1));
    poll_once(&mut storing).await;
    let since = universe.now().mono;
    assert_eq!(universe.waits.standing(), [(WaitKind::SpoolWrite, since)]);
    storing.await.unwrap();
    assert!(universe.waits.standing().is_empty());
}

#[madsim::test]
async fn only_a_message_whose_two_halves_are_durable_was_ever_durable() {
    for disk in disks() {
        let universe = universe(1, &disk);
        let spool = open(&universe);
        spool.apply(vec![put(Family::Data, 1, "body")], SyncMode::Synced).await.unwrap();
        spool.apply(vec![put(Family::Meta, 1, "envelope")], SyncMode::Unsynced).await.unwrap();
        assert!(universe.disk.durable_since(id(1)).is_none());
        assert!(universe.disk.durable_ids(Family::Meta).is_empty());
        sync_all(&spool).await.unwrap();
        assert!(universe.disk.durable_since(id(1)).is_some());
        spool.apply(vec![delete(Family::Meta, 1)], SyncMode::Synced).await.unwrap();
        assert!(universe.disk.durable_since(id(1)).is_some(), "it was");
        assert!(universe.disk.durable_ids(Family::Meta).is_empty());
        assert_eq!(universe.disk.durable_ids(Family::Data), [id(1)].into());
    }
}

/// Draws a course of a few lives with faults, and writes down all that shows.
async fn course(seed: u64) -> Vec<String> {
    let mut random = Random::new(seed, "course");
    let disk = disks()[random.below(3) as usize].clone();
    let universe = universe(seed, &disk);
    let mut shown = Vec::new();
    for _ in 0..3 {
        let spool = open(&universe);
        let what = [FaultKind::DiskWriteError, FaultKind::DiskSyncError][random.below(2) as usize];
        let fault = Fault { what, chance: 100, amount: None, target: None };
        let fault = universe.faults.begin(fault);
        for _ in 0..20 {
            let number = random.below(8) as u8 + 1;
            match random.below(4) {
                0 => poll_once(store(&spool, number)).await,
                1 => shown.push(format!("{:?}", store(&spool, number).await)),
                2 => shown.push(format!("{:?}", reopen_all(&spool).await)),
                _ => shown.push(format!("{:?}", messages(&spool).await)),
            }
        }
        universe.faults.end(fault);
        shown.push(format!("{:?}", universe.disk.corrupt_block(&universe, None)));
        poll_once(store(&spool, 1)).await;
        crash(&universe, random.below(2) == 0);
        let ids = FAMILIES.map(|family| universe.disk.durable_ids(family));
        shown.push(format!("{ids:?} {:?} {:?}", universe.now(), universe.faults.fired()));
        universe.disk.lift_damage();
    }
    shown
}

#[test]
fn one_seed_is_one_course() {
    let run = |seed| {
        let run = move || {
            madsim::runtime::Runtime::with_seed_and_config(seed, Default::default())
                .block_on(course(seed))
        };
        std::thread::spawn(run).join().expect("the course ends")
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1), run(2));
}

#[madsim::test]
async fn a_dead_life_hears_nothing_more_and_changes_nothing() {
    let universe = universe(1, &log());
    let spool = open(&universe);
    let mut storing = Box::pin(store(&spool, 1));
    poll_once(&mut storing).await;
    crash(&universe, true);
    let there = universe.disk.visible(Family::Meta, id(1));
    let waits = tokio::time::timeout(Duration::from_secs(3600), storing).await;
    assert!(waits.is_err(), "{waits:?}");
    let waits = tokio::time::timeout(Duration::from_secs(3600), store(&spool, 2)).await;
    assert!(waits.is_err(), "{waits:?}");
    assert_eq!(spool.properties(Family::Meta), SpoolProperties::default());
    assert_eq!(universe.disk.visible(Family::Meta, id(1)), there);
    assert_eq!(universe.disk.visible(Family::Meta, id(2)), None);
}

//! A spool that falls ill under a running node: what clients are told, that nothing is delivered meanwhile, and how it gets well again.
use super::*;
use kumo_core::health::Threshold;
use kumo_core::port::{FreeSpace, SpoolErrorKind};
use kumo_driver::node::GuardedFolder;
use memory::Ills;

const MILLIS: fn(u64) -> Duration = Duration::from_millis;
const UNHEALTHY: &str = "421 4.3.2 here.example the spool is not accepting writes. Try later";

fn ailing(change: impl FnOnce(&mut Ills), world: &MemoryWorld) {
    change(&mut world.spool.ills.lock().unwrap());
}

/// Of short patience.
fn quick_config() -> NodeConfig {
    let mut config = config();
    let params = &mut config.spool.data.rocks_params;
    params.error_latch_duration = Some(MILLIS(600));
    params.error_unlatch_duration = Some(MILLIS(800));
    params.store_deadline = Some(MILLIS(300));
    config.spool.meta.rocks_params = config.spool.data.rocks_params.clone();
    config
}

async fn banner(world: &MemoryWorld) -> String {
    let request = DialRequest { remote: here(), source_address: None };
    let mut stream = world.network.dial(request).await.unwrap();
    reply(&mut stream).await
}

async fn try_to_send(world: &MemoryWorld) -> String {
    let mut stream = client(&world.network).await;
    send(&mut stream, "joe@example.com").await
}

/// The sink takes everything, if it is asked at all.
async fn world_with_sink() -> (MemoryWorld, Sink) {
    let mut policy = FixedPolicy::to(sink_address());
    policy.queue.retry_interval = Duration::from_secs(1);
    let world = MemoryWorld::new(policy);
    let sink = Sink::default();
    sink.listen(&world.network).await;
    (world, sink)
}

async fn until_open(world: &MemoryWorld) {
    let open = async {
        while !banner(world).await.starts_with("220") {
            tokio::time::sleep(MILLIS(20)).await;
        }
    };
    timeout(PATIENCE, open).await.expect("the gate opens");
}

#[tokio::test]
async fn a_fatal_error_shuts_the_gate_at_once_and_a_probe_opens_it() {
    let (world, _sink) = world_with_sink().await;
    let node = Node::start(world.clone(), quick_config()).await.unwrap();
    let handle = node.handle();
    ailing(|ills| ills.read_only = true, &world);
    assert!(try_to_send(&world).await.starts_with(UNHEALTHY));
    assert!(banner(&world).await.starts_with(UNHEALTHY), "the next one needn't try");
    assert_eq!(handle.unavailable(), Some("the spool is not accepting writes"));
    assert_eq!(handle.not_live(), Some("the spool is not accepting writes"));
    let [store] = handle.spool_health().try_into().expect("one store");
    assert!(store.latched);
    assert!(store.why.unwrap().starts_with("rocksdb at /spool: fatal foreground error (Io)"));
    // Opened again, it takes writes again.
    until_open(&world).await;
    assert!(try_to_send(&world).await.starts_with("250"));
    assert!(handle.drained(PATIENCE).await);
    assert_eq!(handle.unavailable(), None);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    assert_eq!(world.spool.len(), 0, "the probe leaves nothing behind");
}

#[tokio::test]
async fn nothing_is_delivered_or_written_while_the_gate_is_shut() {
    let (world, sink) = world_with_sink().await;
    let policy_holds = "451 4.2.0 later\r\n";
    sink.verdicts.lock().unwrap().push(policy_holds);
    let mut config = quick_config();
    config.spool.data.rocks_params.error_unlatch_duration = Some(Duration::from_secs(3));
    let node = Node::start(world.clone(), config).await.unwrap();
    assert!(try_to_send(&world).await.starts_with("250"));
    until("the first attempt to fail", || kinds(&world).contains(&RecordKind::TransientFailure))
        .await;
    ailing(|ills| ills.writes = Some(SpoolErrorKind::Corruption), &world);
    assert!(try_to_send(&world).await.starts_with(UNHEALTHY));
    let tried = world.spool.ills.lock().unwrap().writes_tried;
    // Its next attempt becomes due meanwhile.
    until("a record that it waits", || kinds(&world).contains(&RecordKind::Delayed)).await;
    let lines = world.lines.lines.lock().unwrap().clone();
    let delayed = lines.iter().find(|line| line.kind == RecordKind::Delayed).unwrap();
    assert_eq!(delayed.code, 451);
    let expected =
        "KumoMTA internal: delivery suspended: spool unhealthy: the spool is not accepting writes";
    assert_eq!(delayed.text, expected);
    assert_eq!(world.spool.ills.lock().unwrap().writes_tried, tried, "nothing is tried meanwhile");
    assert!(!kinds(&world).contains(&RecordKind::Delivery));
    ailing(|ills| ills.writes = None, &world);
    assert!(node.handle().drained(PATIENCE).await);
    assert!(kinds(&world).contains(&RecordKind::Delivery));
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn delivery_goes_on_where_policy_wants_it_to() {
    let (world, sink) = world_with_sink().await;
    sink.verdicts.lock().unwrap().push("451 4.2.0 later\r\n");
    let mut config = quick_config();
    config.spool.suspend_delivery = false;
    config.spool.data.rocks_params.allow_error_unlatch = Some(false);
    let node = Node::start(world.clone(), config).await.unwrap();
    assert!(try_to_send(&world).await.starts_with("250"));
    until("the first attempt to fail", || kinds(&world).contains(&RecordKind::TransientFailure))
        .await;
    ailing(|ills| ills.writes = Some(SpoolErrorKind::Io), &world);
    assert!(try_to_send(&world).await.starts_with(UNHEALTHY));
    until("it to be delivered all the same", || kinds(&world).contains(&RecordKind::Delivery))
        .await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time, and takes a last chance");
}

#[tokio::test]
async fn without_leave_the_gate_stays_shut() {
    let (world, _sink) = world_with_sink().await;
    let mut config = quick_config();
    config.spool.data.rocks_params.allow_error_unlatch = Some(false);
    let node = Node::start(world.clone(), config).await.unwrap();
    ailing(|ills| ills.read_only = true, &world);
    assert!(try_to_send(&world).await.starts_with(UNHEALTHY));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(banner(&world).await.starts_with(UNHEALTHY));
    assert!(world.spool.ills.lock().unwrap().read_only, "nobody has opened it again");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_store_that_stalls_is_answered_at_its_deadline() {
    let (world, _sink) = world_with_sink().await;
    let mut config = quick_config();
    config.spool.data.rocks_params.error_latch_duration = Some(Duration::from_secs(60));
    let node = Node::start(world.clone(), config.clone()).await.unwrap();
    ailing(|ills| ills.writes = Some(SpoolErrorKind::Busy), &world);
    assert!(try_to_send(&world).await.starts_with("451 4.4.5 spool write timed out"));
    ailing(|ills| ills.writes = None, &world);
    assert!(try_to_send(&world).await.starts_with("250"), "and a short stall only delays");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    // The client's own deadline is the shorter one now.
    config.spool.data.rocks_params.store_deadline = None;
    config.spool.meta.rocks_params.store_deadline = None;
    config.listeners[0].data_processing_timeout = MILLIS(300);
    let node = Node::start(world.clone(), config).await.unwrap();
    ailing(|ills| ills.writes = Some(SpoolErrorKind::Busy), &world);
    let said = try_to_send(&world).await;
    assert!(said.starts_with("451 4.4.5 data_processing_timeout exceeded (spool)"), "{said}");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn stalls_that_last_shut_the_gate() {
    let (world, _sink) = world_with_sink().await;
    let node = Node::start(world.clone(), quick_config()).await.unwrap();
    ailing(|ills| ills.writes = Some(SpoolErrorKind::Busy), &world);
    assert!(try_to_send(&world).await.starts_with("451 4.4.5 spool write timed out"));
    let shut = async {
        while !banner(&world).await.starts_with(UNHEALTHY) {
            tokio::time::sleep(MILLIS(20)).await;
        }
    };
    timeout(PATIENCE, shut).await.expect("trouble that lasts shuts it");
    ailing(|ills| ills.writes = None, &world);
    until_open(&world).await;
    assert!(try_to_send(&world).await.starts_with("250"));
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_mail_until_there_is_room() {
    let room = |octets, inodes| FreeSpace {
        octets,
        octets_total: 1_000_000_000,
        inodes,
        inodes_total: 1_000_000,
    };
    for scarce in [room(50_000_000, 900_000), room(500_000_000, 50_000)] {
        let (world, _sink) = world_with_sink().await;
        ailing(|ills| ills.free = scarce, &world);
        let node = Node::start(world.clone(), config()).await.unwrap();
        let full = "421 4.3.2 here.example disk is too full. Try later";
        until("the room to be looked at", || node.handle().unavailable().is_some()).await;
        assert!(banner(&world).await.starts_with(full));
        assert_eq!(node.handle().unavailable(), Some("disk is too full"));
        assert_eq!(node.handle().not_live(), Some("storage is too full"));
        ailing(|ills| ills.free = room(500_000_000, 900_000), &world);
        until_open(&world).await;
        timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
        // Policy may ask for less.
        ailing(|ills| ills.free = scarce, &world);
        let mut config = config();
        config.spool.data.min_free_space = Threshold::PerCent(1);
        config.spool.data.min_free_inodes = Threshold::Units(1_000);
        let node = Node::start(world.clone(), NodeConfig { seed: 2, ..config }).await.unwrap();
        tokio::time::sleep(MILLIS(300)).await;
        assert!(banner(&world).await.starts_with("220"));
        timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    }
}

#[tokio::test]
async fn a_log_folder_that_is_nearly_full_takes_no_mail_either() {
    let room = |octets: u64, inodes: u64| FreeSpace {
        octets,
        octets_total: 1_000,
        inodes,
        inodes_total: 1_000,
    };
    let (world, _sink) = world_with_sink().await;
    *world.files.free.lock().unwrap() = room(900, 900);
    let folder = |path: &str, least| GuardedFolder {
        path: path.into(),
        min_free_space: Threshold::Units(least),
        min_free_inodes: Threshold::Units(least),
    };
    let mut config = config();
    config.spool.guarded = vec![folder("/logs", 100), folder("/more-logs", 1)];
    let node = Node::start(world.clone(), config).await.unwrap();
    for scarce in [room(99, 900), room(900, 99)] {
        *world.files.free.lock().unwrap() = scarce;
        until("the room to be looked at", || node.handle().unavailable().is_some()).await;
        assert!(banner(&world).await.contains("disk is too full"));
        let full: Vec<String> = node
            .handle()
            .guarded_folders()
            .into_iter()
            .filter_map(|folder| folder.is_full.then_some(folder.path))
            .collect();
        assert_eq!(full, ["/logs"]);
        *world.files.free.lock().unwrap() = room(900, 900);
        until_open(&world).await;
    }
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn lack_of_room_is_over_as_soon_as_there_is_room() {
    let (world, _sink) = world_with_sink().await;
    let node = Node::start(world.clone(), config()).await.unwrap();
    ailing(|ills| ills.writes = Some(SpoolErrorKind::NoSpace), &world);
    assert!(try_to_send(&world).await.starts_with(UNHEALTHY));
    let began = tokio::time::Instant::now();
    let plenty = FreeSpace { octets: 900, octets_total: 1000, inodes: 900, inodes_total: 1000 };
    let plenty = FreeSpace { octets: plenty.octets << 20, octets_total: 1000 << 20, ..plenty };
    ailing(|ills| (ills.writes, ills.free) = (None, plenty), &world);
    until_open(&world).await;
    assert!(began.elapsed() < Duration::from_secs(10), "not after five minutes");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_spool_that_was_opened_damaged_begins_shut() {
    let (world, _sink) = world_with_sink().await;
    let mut config = quick_config();
    config.spool.damage = vec![(Family::Meta, "rocksdb at /spool: a table is gone".into())];
    let node = Node::start(world.clone(), config).await.unwrap();
    assert!(banner(&world).await.starts_with(UNHEALTHY));
    until_open(&world).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

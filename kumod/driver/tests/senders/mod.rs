//! Deliveries through policy's own senders: what each answer comes to, and what becomes of a sender that gives none.
use super::memory::senders::{Act, Seen};
use super::memory::{FixedPolicy, MemoryWorld};
use super::{PATIENCE, client, config, kinds, send, sink_address, until};
use kumo_core::config::queue::{CustomLua, DeliveryProtocol};
use kumo_core::log::RecordKind::{self, Bounce, Delivery, Reception, TransientFailure};
use kumo_core::time::Duration;
use kumo_driver::node::{Node, NodeConfig};
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn policy(batch_size: u64, acts: &[Act]) -> FixedPolicy {
    let mut policy = FixedPolicy::to(sink_address());
    policy.queue.retry_interval = SECOND;
    policy.queue.protocol = DeliveryProtocol::CustomLua(CustomLua {
        constructor: "make.x".into(),
        batch_size,
        min_batch_size: batch_size,
        max_batch_latency: SECOND,
    });
    policy.path.connection_limit.limit = 1;
    policy.path.data_dot_timeout = 2 * SECOND;
    policy.senders.script(acts);
    policy
}

async fn start(policy: FixedPolicy) -> (MemoryWorld, Node<MemoryWorld>) {
    let world = MemoryWorld::new(policy);
    let node = Node::start(world.clone(), config()).await.unwrap();
    (world, node)
}

async fn hand_in(world: &MemoryWorld, count: usize) {
    let mut stream = client(&world.network).await;
    for _ in 0..count {
        assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    }
}

/// What was recorded of messages besides their reception.
fn told(world: &MemoryWorld) -> Vec<(RecordKind, u16, String)> {
    let lines = world.lines.lines.lock().unwrap();
    let told = lines.iter().filter(|line| line.kind != Reception);
    told.map(|line| (line.kind, line.code, line.text.clone())).collect()
}

fn opened(world: &MemoryWorld) -> usize {
    world.policy.senders.count(|seen| matches!(seen, Seen::Opened { .. }))
}

#[tokio::test]
async fn one_sender_takes_message_after_message_and_is_closed_when_it_is_idle() {
    let mut policy = policy(1, &[]);
    policy.path.idle_timeout = SECOND;
    let (world, node) = start(policy).await;
    hand_in(&world, 3).await;
    assert!(node.handle().drained(PATIENCE).await);
    assert_eq!(told(&world), vec![(Delivery, 250, "took 1".to_string()); 3]);
    let (domain, tenant, is_batched) = ("example.com".into(), None, false);
    let seen = world.policy.senders.seen.lock().unwrap()[0].clone();
    assert_eq!(seen, Seen::Opened { domain, tenant, is_batched });
    assert_eq!(opened(&world), 1);
    until("it to be closed", || world.policy.senders.count(|seen| *seen == Seen::Closed) == 1)
        .await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn answers_are_deliveries_delays_bounces_and_ends_of_the_sender() {
    let acts = [Act::Reject(451), Act::Reject(550), Act::Reject(421), Act::Fail, Act::Take];
    let (world, node) = start(policy(1, &acts)).await;
    for (kind, code, text, senders) in [
        (TransientFailure, 451, "no", 1),
        (Bounce, 550, "no", 1),
        (TransientFailure, 421, "no", 1),
        (TransientFailure, 400, "KumoMTA internal: event make.x: policy.lua:7: boom", 2),
        (Delivery, 250, "took 1", 3),
    ] {
        let before = told(&world).len();
        if world.spool.len() == 0 {
            hand_in(&world, 1).await;
        }
        until("the next record", || told(&world).len() > before).await;
        assert_eq!(told(&world)[before], (kind, code, text.into()));
        assert_eq!(opened(&world), senders, "{text}");
    }
    assert!(node.handle().drained(PATIENCE).await);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_constructor_that_fails_is_a_failed_connection() {
    let (world, node) = start(policy(1, &[Act::NotMade])).await;
    hand_in(&world, 1).await;
    assert!(node.handle().drained(PATIENCE).await);
    let why = "KumoMTA internal: event make.x: policy.lua:3: no".to_string();
    assert_eq!(told(&world), [(TransientFailure, 400, why), (Delivery, 250, "took 1".to_string())]);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_constructor_that_hangs_is_given_up_and_holds_up_no_stop() {
    let hang = Act::HangInConstructor;
    let mut policy = policy(1, &[hang, hang]);
    policy.path.connect_timeout = SECOND;
    let (world, node) = start(policy).await;
    hand_in(&world, 1).await;
    until("the first to be given up", || told(&world).len() == 1).await;
    let (kind, code, text) = told(&world).remove(0);
    assert_eq!((kind, code), (TransientFailure, 400));
    assert!(text.starts_with("KumoMTA internal: event make.x: no sender within 1s"), "{text}");
    until("the second to be under way", || world.policy.senders.is_done()).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    assert_eq!((opened(&world), world.spool.len()), (0, 2));
}

#[tokio::test]
async fn a_sender_that_hangs_frees_its_place_and_its_message_once_and_is_not_heard_later() {
    let (world, node) = start(policy(1, &[Act::SpeakLate])).await;
    hand_in(&world, 2).await;
    until("the other message, over the only place there is", || told(&world).len() >= 2).await;
    let handle = node.handle();
    let counters = handle.counters();
    until("its last words", || counters.late_completions.get() == 1).await;
    assert!(handle.drained(PATIENCE).await);
    let lost =
        "KumoMTA internal: policy's sender was given up before it said what became of the message";
    let told = told(&world);
    assert_eq!(told[0], (TransientFailure, 451, lost.into()));
    assert_eq!(told.iter().filter(|(kind, ..)| *kind == Delivery).count(), 2);
    assert_eq!((told.len(), opened(&world)), (3, 2));
    until("nothing to be left of it", || counters.fenced_tasks.get() == 0).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_batch_is_one_call_and_has_one_answer() {
    let (world, node) = start(policy(3, &[Act::Reject(451)])).await;
    hand_in(&world, 3).await;
    assert!(node.handle().drained(PATIENCE).await);
    let told = told(&world);
    assert_eq!(told[..3], vec![(TransientFailure, 451, "no".to_string()); 3]);
    assert!(told[3..].iter().all(|(kind, ..)| *kind == Delivery) && told.len() == 6);
    let seen = world.policy.senders.seen.lock().unwrap().clone();
    assert!(matches!(&seen[0], Seen::Opened { is_batched: true, .. }));
    assert!(matches!(&seen[1], Seen::Sent(ids) if ids.len() == 3), "{seen:?}");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_of_its_batch() {
    let mut policy = policy(2, &[Act::Reject(451)]);
    policy.queue.retry_interval = 3 * SECOND;
    let (world, node) = start(policy).await;
    hand_in(&world, 2).await;
    until("the first attempt", || told(&world).len() == 2).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    let ids: Vec<_> = world.spool.ids().into_iter().collect();
    world.spool.unreadable.lock().unwrap().insert(ids[0]);
    let second = NodeConfig { seed: 2, ..config() };
    let node = Node::start(world.clone(), second).await.unwrap();
    until("the message that can be read", || kinds(&world).contains(&Delivery)).await;
    world.spool.unreadable.lock().unwrap().clear();
    assert!(node.handle().drained(4 * PATIENCE).await);
    assert_eq!(kinds(&world).iter().filter(|kind| **kind == Delivery).count(), 2);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_stop_waits_for_a_senders_answer_for_system_shutdown_timeout() {
    let mut policy = policy(1, &[Act::Hang]);
    policy.path.data_dot_timeout = 60 * SECOND;
    policy.path.system_shutdown_timeout = Some(SECOND);
    let (world, node) = start(policy).await;
    hand_in(&world, 1).await;
    until("the call", || world.policy.senders.count(|seen| matches!(seen, Seen::Sent(_))) == 1)
        .await;
    timeout(5 * SECOND, node.stop()).await.expect("a stop ends in time");
    assert_eq!(world.spool.len(), 2, "nobody knows what became of it");
    assert_eq!(told(&world)[0].0, TransientFailure);
}

#[tokio::test]
async fn a_close_that_hangs_holds_nothing_up() {
    let acts = [Act::Reject(421), Act::HangInClose];
    let (world, node) = start(policy(1, &acts)).await;
    hand_in(&world, 1).await;
    assert!(node.handle().drained(PATIENCE).await);
    sleep(SECOND).await;
    assert_eq!(told(&world).last().map(|told| told.0), Some(Delivery));
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

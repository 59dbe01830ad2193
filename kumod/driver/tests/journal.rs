//! The journal of a running node, on a disk that is kind, slow, or full: what is written can be replayed, and what isn't is
//! said to be missing. Whether its octets survive a kill is the crash test's to show.
#![allow(dead_code, reason = "a part of the memory world")]
mod memory;

use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::journal::{End, HEADER, Replayed, replay};
use kumo_core::message::{Envelope, Message};
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::server::Submitted;
use kumo_core::time::Duration;
use kumo_driver::node::{Handle, JournalLimits, Node, NodeConfig, SpoolSettings};
use memory::{Disk, FixedPolicy, MemoryWorld};
use std::collections::BTreeMap;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
/// Submitted at one time.
const BATCH: usize = 100;

/// Delivers to maildirs.
fn world() -> MemoryWorld {
    let mut policy = FixedPolicy::to("192.0.2.8:25".parse().unwrap());
    let path = "/mail".into();
    policy.queue.protocol = DeliveryProtocol::Maildir { path, dir_mode: None, file_mode: None };
    MemoryWorld::new(policy)
}

async fn start(world: &MemoryWorld, limits: JournalLimits) -> Node<MemoryWorld> {
    let config = NodeConfig {
        hostname: "here.example".into(),
        listeners: Vec::new(),
        spool: SpoolSettings::at("/spool"),
        body_cache_octets: 1 << 20,
        journal: Some(limits),
        seed: 1,
    };
    Node::start(world.clone(), config).await.unwrap()
}

fn limits(segment_octets: usize, segments: u64) -> JournalLimits {
    JournalLimits { segment_octets, segments, gap: Duration::from_millis(1) }
}

fn message(handle: &Handle<MemoryWorld>, n: usize) -> Message {
    Message {
        id: handle.new_id(),
        envelope: Envelope {
            sender: ReversePath::parse("sender@example.com").unwrap(),
            recipients: vec![Mailbox::parse(&format!("joe@d{}.example.com", n % 3)).unwrap()],
        },
        remaining: RecipientSet::all(1),
        meta: Default::default(),
        schedule: Default::default(),
        attempts: 0,
        body: "Subject: test\r\n\r\nhello\r\n".into(),
    }
}

/// So many messages through the node, from submission to delivery.
async fn deliver(handle: &Handle<MemoryWorld>, batches: usize) {
    for _ in 0..batches {
        let messages = (0..BATCH).map(|n| message(handle, n)).collect();
        let submitted = timeout(PATIENCE, handle.submit(messages)).await.unwrap();
        assert!(matches!(submitted, Some(Submitted::Accepted(_))), "{submitted:?}");
        let drained = handle.drained(PATIENCE).await;
        assert!(drained, "the engine goes on whatever the journal's disk does");
    }
}

/// Until the counter of left out inputs stands at more than `before`.
async fn gap_begins(handle: &Handle<MemoryWorld>, before: u64) {
    let missing = || handle.counters().journal_gaps.get();
    let begins = async {
        while missing() == before {
            deliver(handle, 1).await;
        }
    };
    timeout(PATIENCE, begins).await.expect("the line of chunks has an end");
}

/// Until something stands in one more segment.
async fn segment_begins(world: &MemoryWorld, handle: &Handle<MemoryWorld>) {
    let before = segments(world).len();
    let begins = async {
        while segments(world).len() == before {
            deliver(handle, 1).await;
        }
    };
    timeout(PATIENCE, begins).await.expect("a failed write ends its segment");
}

async fn stop(node: Node<MemoryWorld>) {
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

fn segments(world: &MemoryWorld) -> BTreeMap<u64, Vec<u8>> {
    world.files.journal.lock().unwrap().clone()
}

/// Each by itself, and each whole.
fn replay_each(world: &MemoryWorld) -> Vec<Replayed> {
    let whole = |(number, octets): (u64, Vec<u8>)| {
        let replayed = replay(&octets);
        assert_eq!(replayed.end, End::Complete, "segment {number}");
        replayed
    };
    segments(world).into_iter().map(whole).collect()
}

fn missing(replayed: &[Replayed]) -> u64 {
    replayed.iter().map(|segment| segment.missing).sum()
}

/// A segment's frames after the first, which is the engine's state.
fn steps_of(segment: &[u8]) -> &[u8] {
    let length = u32::from_le_bytes(segment[HEADER.len()..][..4].try_into().unwrap());
    &segment[HEADER.len() + 8 + length as usize..]
}

#[tokio::test]
async fn segments_rotate_by_size_and_their_snapshots_are_what_the_steps_before_lead_to() {
    let world = world();
    let node = start(&world, limits(8192, 1000)).await;
    deliver(&node.handle(), 30).await;
    let gaps = node.handle().counters().journal_gaps.get();
    stop(node).await;
    let replayed = replay_each(&world);
    assert!(replayed.len() > 5, "{} segments", replayed.len());
    assert_eq!((gaps, missing(&replayed)), (0, 0));
    let segments = segments(&world);
    assert!(segments.keys().copied().eq(1..=replayed.len() as u64), "numbered one by one");
    let mut closed = segments.values().take(segments.len() - 1);
    assert!(closed.all(|segment| segment.len() >= 8192));
    let mut in_one = segments[&1].clone();
    segments.values().skip(1).for_each(|segment| in_one.extend_from_slice(steps_of(segment)));
    let in_one = replay(&in_one);
    assert_eq!(in_one.end, End::Complete);
    assert_eq!(in_one.steps, replayed.iter().map(|segment| segment.steps).sum::<u64>());
    assert_eq!(in_one.engine.unwrap().message_count(), 0);
}

#[tokio::test]
async fn the_oldest_segments_are_removed_and_the_next_life_goes_on_after_the_last() {
    let world = world();
    for _ in 0..2 {
        let node = start(&world, limits(8192, 3)).await;
        deliver(&node.handle(), 10).await;
        stop(node).await;
        assert_eq!(replay_each(&world).len(), 3);
    }
    let first_life = *segments(&world).keys().next_back().unwrap();
    let node = start(&world, limits(1 << 20, 3)).await;
    deliver(&node.handle(), 1).await;
    stop(node).await;
    assert!(segments(&world).into_keys().eq(first_life - 1..=first_life + 1));
    assert!(replay_each(&world).iter().all(|segment| segment.steps > 0));
}

#[tokio::test]
async fn a_slow_disk_leaves_a_gap_and_a_snapshot_and_the_engine_goes_on() {
    let world = world();
    let node = start(&world, limits(1 << 30, 3)).await;
    let handle = node.handle();
    deliver(&handle, 1).await;
    for _ in 0..2 {
        *world.files.disk.lock().unwrap() = Disk::Stalled;
        gap_begins(&handle, handle.counters().journal_gaps.get()).await;
        *world.files.disk.lock().unwrap() = Disk::Kind;
        deliver(&handle, 3).await;
    }
    stop(node).await;
    let replayed = replay_each(&world);
    assert_eq!(replayed.len(), 1, "a slow disk is no reason for a new segment");
    assert_eq!(missing(&replayed), handle.counters().journal_gaps.get());
    assert!(missing(&replayed) > 0);
    assert_eq!(replayed[0].engine.as_ref().expect("after the gap").message_count(), 0);
}

#[tokio::test]
async fn after_a_failed_write_a_new_segment_begins_with_what_is_missing() {
    let world = world();
    let node = start(&world, limits(1 << 30, 1000)).await;
    let handle = node.handle();
    segment_begins(&world, &handle).await;
    for _ in 0..3 {
        *world.files.disk.lock().unwrap() = Disk::Full;
        gap_begins(&handle, handle.counters().journal_gaps.get()).await;
        *world.files.disk.lock().unwrap() = Disk::Kind;
        segment_begins(&world, &handle).await;
    }
    stop(node).await;
    let replayed = replay_each(&world);
    assert!(replayed.len() >= 4, "{} segments", replayed.len());
    assert_eq!(missing(&replayed), handle.counters().journal_gaps.get());
    assert!(replayed.iter().skip(1).any(|segment| segment.missing > 0));
    assert!(replayed.last().unwrap().steps > 0);
}

//! The driver as a whole over a world in memory: mail goes in over SMTP at one end and comes out at the other. The same tests run
//! under tokio and, built with `--cfg madsim`, in the simulator's executor.
mod found;
mod health;
mod memory;
mod options;
mod proxies;
mod senders;

use bytes::Bytes;
use kumo_core::config::EsmtpListener;
use kumo_core::config::listener::BatchHandling;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::port::{
    DialRequest, Family, Listener, Network, Spool, SpoolOperation, Stream, SyncMode,
};
use kumo_core::time::Duration;
use kumo_driver::node::{JournalLimits, Node, NodeConfig, SpoolSettings};
use memory::{FixedPolicy, MemoryNetwork, MemoryWorld, Pipe};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn here() -> SocketAddr {
    "192.0.2.7:25".parse().unwrap()
}

fn sink_address() -> SocketAddr {
    "192.0.2.8:25".parse().unwrap()
}

fn config() -> NodeConfig {
    let relay_hosts = vec!["0.0.0.0/0".parse().unwrap()];
    let listener = EsmtpListener { listen: here(), relay_hosts, ..EsmtpListener::default() };
    NodeConfig {
        hostname: "here.example".into(),
        listeners: vec![listener],
        spool: SpoolSettings::at("/spool"),
        body_cache_octets: 1 << 20,
        journal: Some(JournalLimits::default()),
        seed: 1,
    }
}

/// Reads until what came ends with a complete last line of a reply.
async fn reply(stream: &mut Pipe) -> String {
    let mut buffer = bytes::BytesMut::new();
    loop {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("a reply comes");
        assert_ne!(read.expect("the pipe is whole"), 0, "a reply before the end");
        let text = String::from_utf8_lossy(&buffer);
        let last = text.lines().last().unwrap_or("");
        if text.ends_with("\r\n") && last.as_bytes().get(3) == Some(&b' ') {
            return text.into_owned();
        }
    }
}

async fn say(stream: &mut Pipe, line: &str) -> String {
    stream.write_all(line.as_bytes()).await.unwrap();
    reply(stream).await
}

async fn client(network: &MemoryNetwork) -> Pipe {
    let request = DialRequest { remote: here(), source_address: None };
    let mut stream = network.dial(request).await.unwrap();
    assert!(reply(&mut stream).await.starts_with("220 "));
    assert!(say(&mut stream, "EHLO client.example\r\n").await.contains("PIPELINING"));
    stream
}

async fn send(stream: &mut Pipe, recipient: &str) -> String {
    assert!(say(stream, "MAIL FROM:<a@client.example>\r\n").await.starts_with("250"));
    assert!(say(stream, &format!("RCPT TO:<{recipient}>\r\n")).await.starts_with("250"));
    assert!(say(stream, "DATA\r\n").await.starts_with("354"));
    say(stream, "Subject: hi\r\n\r\n..dot\r\nbye\r\n.\r\n").await
}

/// What a scripted server says to each final dot, and what it got.
#[derive(Clone, Default)]
struct Sink {
    /// Although there is no TLS here.
    offers_starttls: bool,
    commands: Arc<Mutex<Vec<String>>>,
    verdicts: Arc<Mutex<Vec<&'static str>>>,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    async fn listen(&self, network: &MemoryNetwork) {
        let mut listener = network.listen(sink_address()).await.unwrap();
        let sink = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(sink.clone().serve(stream));
            }
        });
    }

    async fn serve(self, mut stream: Pipe) {
        let _ = stream.write_all(b"220 sink\r\n").await;
        let mut buffer = bytes::BytesMut::new();
        let mut body: Option<String> = None;
        loop {
            while let Some(at) = buffer.iter().position(|b| *b == b'\n') {
                let line = buffer.split_to(at + 1);
                let line = String::from_utf8_lossy(&line).into_owned();
                if body.is_none() {
                    self.commands.lock().unwrap().push(line.trim_end().to_string());
                }
                let answer = match &mut body {
                    Some(_) if line == ".\r\n" => {
                        self.bodies.lock().unwrap().extend(body.take());
                        let mut verdicts = self.verdicts.lock().unwrap();
                        if verdicts.is_empty() { "250 taken\r\n" } else { verdicts.remove(0) }
                    }
                    Some(text) => {
                        text.push_str(line.strip_prefix('.').unwrap_or(&line));
                        continue;
                    }
                    None if line.starts_with("DATA") => {
                        body = Some(String::new());
                        "354 go on\r\n"
                    }
                    None if line.starts_with("RCPT TO:<nobody@") => "550 5.1.1 nobody\r\n",
                    None if line.starts_with("STARTTLS") => "220 go on\r\n",
                    None if line.starts_with("EHLO") && self.offers_starttls => {
                        "250-sink\r\n250-PIPELINING\r\n250 STARTTLS\r\n"
                    }
                    None if line.starts_with("EHLO") => "250-sink\r\n250 PIPELINING\r\n",
                    None => "250 ok\r\n",
                };
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            if !matches!(stream.read(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
}

fn kinds(world: &MemoryWorld) -> Vec<RecordKind> {
    world.lines.lines.lock().unwrap().iter().map(|line| line.kind).collect()
}

#[tokio::test]
async fn one_message_goes_all_the_way() {
    let world = MemoryWorld::new(FixedPolicy::to(sink_address()));
    let sink = Sink::default();
    sink.listen(&world.network).await;
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    let accepted = send(&mut stream, "joe@example.com").await;
    assert!(accepted.starts_with("250 OK ids="), "{accepted}");
    assert!(node.handle().drained(PATIENCE).await);
    assert!(world.spool.len() == 0, "delivered mail leaves the spool");
    assert_eq!(kinds(&world), [RecordKind::Reception, RecordKind::Delivery]);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    let journal = world.files.journal.lock().unwrap()[&1].clone();
    let replayed = kumo_core::journal::replay(&journal);
    assert_eq!(replayed.end, kumo_core::journal::End::Complete);
    assert!(replayed.steps > 5, "{replayed:?}");
    let body = sink.bodies.lock().unwrap()[0].clone();
    assert!(body.contains("\nReceived: from client.example"), "{body}");
    assert!(body.ends_with("Subject: hi\r\n\r\n.dot\r\nbye\r\n"), "{body}");
}

#[tokio::test]
async fn a_deferred_message_stays_in_the_spool_and_the_next_life_delivers_it() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.queue.retry_interval = Duration::from_secs(2);
    let world = MemoryWorld::new(policy);
    let sink = Sink::default();
    sink.verdicts.lock().unwrap().push("451 4.2.0 later\r\n");
    sink.listen(&world.network).await;
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    until("the first attempt's record", || kinds(&world).len() >= 2).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    assert_eq!(world.spool.len(), 2, "body and envelope of one message");
    let second = NodeConfig { seed: 2, ..config() };
    let node = Node::start(world.clone(), second).await.unwrap();
    until("the second life to deliver", || world.spool.len() == 0).await;
    use RecordKind::{Delivery, Reception, TransientFailure};
    assert_eq!(kinds(&world), [Reception, TransientFailure, Delivery]);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn a_bounce_is_on_disk_before_its_message_goes() {
    let world = MemoryWorld::new(FixedPolicy::to(sink_address()));
    world.lines.unsettled.store(true, Ordering::Relaxed);
    let sink = Sink::default();
    sink.verdicts.lock().unwrap().push("550 5.1.1 nobody\r\n");
    sink.listen(&world.network).await;
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    until("the bounce", || kinds(&world).len() >= 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.spool.len(), 2, "the record could still be lost");
    world.lines.unsettled.store(false, Ordering::Relaxed);
    assert!(node.handle().drained(PATIENCE).await);
    assert_eq!(world.spool.len(), 0);
    assert_eq!(kinds(&world), [RecordKind::Reception, RecordKind::Bounce]);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

/// One message for two recipients: `nobody`, whom every sink refuses for good, and `joe`.
async fn send_to_two(world: &MemoryWorld) {
    let mut stream = client(&world.network).await;
    for line in
        ["MAIL FROM:<a@c.example>", "RCPT TO:<nobody@example.com>", "RCPT TO:<joe@example.com>"]
    {
        assert!(say(&mut stream, &format!("{line}\r\n")).await.starts_with("250"));
    }
    assert!(say(&mut stream, "DATA\r\n").await.starts_with("354"));
    assert!(say(&mut stream, "x\r\n.\r\n").await.starts_with("250"));
}

#[tokio::test]
async fn a_recipients_bounce_is_on_disk_before_its_message_forgets_the_recipient() {
    let world = MemoryWorld::new(FixedPolicy::to(sink_address()));
    world.lines.unsettled.store(true, Ordering::Relaxed);
    let sink = Sink::default();
    sink.verdicts.lock().unwrap().push("451 4.2.0 later\r\n");
    sink.listen(&world.network).await;
    let mut config = config();
    config.listeners[0].batch_handling = BatchHandling::BatchByDomain;
    let node = Node::start(world.clone(), config).await.unwrap();
    send_to_two(&world).await;
    let id = *world.spool.ids().first().expect("it is stored");
    let envelope = || world.spool.page(Family::Meta, id);
    let before = envelope();
    until("both recipients' records", || kinds(&world).len() >= 3).await;
    use RecordKind::{Bounce, Reception, TransientFailure};
    assert_eq!(kinds(&world), [Reception, Bounce, TransientFailure]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(envelope(), before, "the record could still be lost");
    world.lines.unsettled.store(false, Ordering::Relaxed);
    until("the envelope to be written", || envelope() != before).await;
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn messages_that_cannot_be_read_hold_up_no_other() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.queue.retry_interval = Duration::from_secs(1);
    let world = MemoryWorld::new(policy);
    let sink = Sink::default();
    sink.verdicts.lock().unwrap().extend(["451 4.2.0 later\r\n"; 80]);
    sink.listen(&world.network).await;
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    for number in 0..80 {
        assert!(send(&mut stream, &format!("{number}@example.com")).await.starts_with("250"));
    }
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    *world.spool.unreadable.lock().unwrap() = world.spool.ids();
    sink.verdicts.lock().unwrap().clear();
    let node = Node::start(world.clone(), NodeConfig { seed: 2, ..config() }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "late@example.com").await.starts_with("250"));
    until("the message that can be read", || world.spool.ids().len() <= 80).await;
    world.spool.unreadable.lock().unwrap().clear();
    timeout(4 * PATIENCE, async {
        while world.spool.len() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the others go once they can be read");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

/// A body whose envelope isn't there, in a spool that is or isn't known to be whole; whether it is swept.
async fn an_orphan_is_swept(may_lack_records: bool) -> bool {
    let mut world = MemoryWorld::new(FixedPolicy::to(sink_address()));
    world.spool.may_lack_records = may_lack_records;
    let body = SpoolOperation::Put {
        family: Family::Data,
        key: SpoolId([1; 16]),
        value: Bytes::from_static(b"body"),
    };
    world.spool.apply(vec![body], SyncMode::Synced).await.unwrap();
    let node = Node::start(world.clone(), config()).await.unwrap();
    let swept = async {
        while world.spool.len() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_swept = timeout(Duration::from_secs(2), swept).await.is_ok();
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    is_swept
}

#[tokio::test]
async fn bodies_without_an_envelope_are_swept_unless_envelopes_may_have_been_lost() {
    assert!(an_orphan_is_swept(false).await);
    assert!(!an_orphan_is_swept(true).await);
}

#[tokio::test]
async fn the_journal_tells_neither_local_parts_nor_texts() {
    let mut policy = FixedPolicy::to(sink_address());
    policy.queue.retry_interval = Duration::from_secs(1);
    policy.failure = Some("policy doesn't like secretary@example.com");
    let world = MemoryWorld::new(policy);
    let sink = Sink::default();
    *sink.verdicts.lock().unwrap() = vec!["451 4.2.0 tomorrow\r\n", "550 5.2.0 forbidden\r\n"];
    sink.listen(&world.network).await;
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "secretary@example.com").await.starts_with("250"));
    assert!(node.handle().drained(PATIENCE).await);
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    use RecordKind::{Bounce, Reception, TransientFailure};
    assert_eq!(kinds(&world), [Reception, TransientFailure, Bounce]);
    let journal = world.files.journal.lock().unwrap()[&1].clone();
    assert_eq!(kumo_core::journal::replay(&journal).end, kumo_core::journal::End::Complete);
    let text = String::from_utf8_lossy(&journal);
    assert!(text.contains("example.com") && text.contains("policy failed on a message"));
    for private in ["secretary", "a@client", "tomorrow", "forbidden", ".dot", "Subject", "Received"]
    {
        assert!(!text.contains(private), "{private} stands in the journal");
    }
}

#[tokio::test]
async fn a_maildir_gets_a_return_path() {
    let mut policy = FixedPolicy::to(sink_address());
    let path = "/mail/{{ domain_part }}/{{ local_part }}".into();
    policy.queue.protocol = DeliveryProtocol::Maildir { path, dir_mode: None, file_mode: None };
    let world = MemoryWorld::new(policy);
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    assert!(node.handle().drained(PATIENCE).await);
    let delivery = world.files.delivered.lock().unwrap()[0].clone();
    assert_eq!(delivery.directory, "/mail/example.com/joe");
    assert!(delivery.content.starts_with(b"Return-Path: <a@client.example>\r\n"));
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}

#[tokio::test]
async fn nobody_to_deliver_to_is_a_delay_and_stopping_refuses_new_mail() {
    let world = MemoryWorld::new(FixedPolicy::to(sink_address()));
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    until("the failure is recorded", || kinds(&world).len() >= 2).await;
    let line = world.lines.lines.lock().unwrap()[1].clone();
    assert_eq!((line.kind, line.code), (RecordKind::TransientFailure, 400));
    assert!(line.text.contains("failed to connect to any candidate hosts"), "{}", line.text);
    let stop = tokio::spawn(node.stop());
    let goodbye = reply(&mut stream).await;
    assert!(goodbye.starts_with("421 4.3.2"), "{goodbye}");
    timeout(PATIENCE, stop).await.expect("a stop ends in time").unwrap();
    assert_eq!(world.spool.len(), 2, "what was accepted is kept");
}

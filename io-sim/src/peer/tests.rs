//! Servers as a client sees them, line by line over pipes, and what they tell the ledger.
use super::*;
use crate::fault::FaultKind;
use crate::ledger::Submission;
use crate::lines::tests::{events, fault, universe, violations};
use crate::lines::{Filled, Heard, Wire};
use crate::net::SimStream;
use kumo_core::port::{DialRequest, Stream, TlsConnect, TlsVerification};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(3_000);
const ENVELOPE: &str = "MAIL FROM:<a@c.example>\r\nRCPT TO:<joe@example.com>\r\nDATA\r\n";
const CONTENT: &str = "X-Sim: 3/2\r\n\r\n..dot\r\nbye\r\n.\r\n";

fn address() -> SocketAddr {
    "192.0.2.8:25".parse().unwrap()
}

struct Scene {
    universe: Arc<Universe>,
    client: Wire<SimStream>,
}

async fn dial(universe: &Arc<Universe>) -> Wire<SimStream> {
    let network = SimNetwork::of_host(universe, [10, 0, 0, 1].into());
    let request = DialRequest { remote: address(), source_address: None };
    Wire::new(network.dial(request).await.unwrap())
}

/// A server, perhaps with a fault in force, and a client that has just dialled it.
async fn scene(settings: PeerSettings, kind: Option<FaultKind>, target: &str) -> Scene {
    let universe = universe(5);
    tokio::spawn(run(universe.clone(), settings));
    tokio::time::sleep(Duration::from_millis(1)).await;
    if let Some(kind) = kind {
        universe.faults.begin(fault(kind, Some(target), None));
    }
    let client = dial(&universe).await;
    Scene { universe, client }
}

fn kind() -> PeerSettings {
    PeerSettings::kind("mx.example", address())
}

/// 0: nothing came, or nothing that is a reply.
async fn code(client: &mut Wire<SimStream>) -> u16 {
    match client.reply(PATIENCE).await {
        Heard::Reply(reply) => reply.code,
        _ => 0,
    }
}

impl Scene {
    /// Says all of that; the codes of so many replies.
    async fn say(&mut self, text: &str, replies: usize) -> Vec<u16> {
        self.client.say(text.as_bytes(), PATIENCE).await;
        let mut codes = Vec::new();
        for _ in 0..replies {
            codes.push(code(&mut self.client).await);
        }
        codes
    }

    async fn greet(&mut self) {
        assert_eq!(self.say("", 1).await, [220]);
        assert_eq!(self.say("EHLO c.example\r\n", 1).await, [250]);
    }

    /// Up to the content, which it is asked for.
    async fn envelope(&mut self) {
        self.greet().await;
        assert_eq!(self.say(ENVELOPE, 3).await, [250, 250, 354]);
    }

    fn sunk(&self) -> Vec<(Option<Submission>, bool, Vec<u8>)> {
        let sunk = |event| match event {
            Event::Sunk { submission, reply_lost, content, .. } => {
                Some((submission, reply_lost, content))
            }
            _ => None,
        };
        events(&self.universe).into_iter().filter_map(sunk).collect()
    }

    fn refused(&self) -> Vec<(Vec<String>, u16)> {
        let refused = |event| match event {
            Event::PeerRefused { recipients, code, .. } => Some((recipients, code)),
            _ => None,
        };
        events(&self.universe).into_iter().filter_map(refused).collect()
    }
}

fn joe() -> Vec<String> {
    vec!["joe@example.com".into()]
}

#[madsim::test]
async fn content_is_unstuffed_and_known_by_its_field() {
    let mut scene = scene(kind(), None, "").await;
    scene.envelope().await;
    assert_eq!(scene.say(CONTENT, 1).await, [250]);
    let stored = b"X-Sim: 3/2\r\n\r\n.dot\r\nbye\r\n".to_vec();
    let submission = Some(Submission { message: 3, attempt: 2 });
    assert_eq!(scene.sunk(), [(submission, false, stored)]);
    assert!(events(&scene.universe).contains(&Event::BodyBegan { submission, recipients: joe() }));
    assert_eq!(scene.say("QUIT\r\n", 1).await, [221]);
    assert_eq!(violations(&scene.universe), [""; 0]);
}

#[madsim::test]
async fn what_no_client_may_do_is_told() {
    let hello = "EHLO c.example\r\n";
    for (said, invariant, wanted) in [
        ("MAIL FROM:<a@c.example>\r\n", "I16", "before EHLO"),
        ("EHLO c.example\r\nMAIL FROM:<a@c.example>\r\n", "I16", "right after EHLO"),
        ("NONSENSE\r\n", "I16", "unknown"),
        ("NOOP\n", "I16", "CRLF"),
        ("QUIT\r\nNOOP\r\n", "I16", "after QUIT"),
        (&"x".repeat(700), "I16", "without end"),
    ] {
        let mut scene = scene(kind(), None, "").await;
        scene.say(said, 2).await;
        let told = violations(&scene.universe);
        let is_told = |what: &String| what.starts_with(invariant) && what.contains(wanted);
        assert!(told.iter().any(is_told), "{said}: {told:?}");
    }
    for (said, invariant, wanted) in [
        ("MAIL FROM:<>\r\nMAIL FROM:<>\r\n", "I16", "inside a transaction"),
        ("RCPT TO:<a@b>\r\n", "I16", "RCPT before MAIL"),
        ("MAIL FROM:<>\r\nDATA\r\n", "I16", "without RCPT"),
        ("MAIL FROM:<> SMTPUTF8\r\n", "I16", "SMTPUTF8"),
        ("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\n\r\n.\r\n", "I7", "bare"),
        ("STARTTLS\r\n", "I16", "STARTTLS"),
    ] {
        let mut scene = scene(kind(), None, "").await;
        scene.say("", 1).await;
        scene.say(hello, 1).await;
        scene.say(said, said.matches("\r\n").count().min(4)).await;
        let told = violations(&scene.universe);
        let is_told = |what: &String| what.starts_with(invariant) && what.contains(wanted);
        assert!(told.iter().any(is_told), "{said}: {told:?}");
    }
}

#[madsim::test]
async fn pipelining_behind_a_refused_command_is_no_violation() {
    for (kind_of, phase, codes) in [
        (FaultKind::PeerPermanent, "mail", [550, 503, 503]),
        (FaultKind::PeerPermanent, "mx.example/rcpt", [250, 550, 554]),
    ] {
        let mut scene = scene(kind(), Some(kind_of), phase).await;
        scene.greet().await;
        assert_eq!(scene.say(ENVELOPE, 3).await, codes);
        assert!(scene.refused().contains(&(joe(), 550)));
        assert_eq!(scene.say("RSET\r\nQUIT\r\n", 2).await, [250, 221]);
        assert_eq!(violations(&scene.universe), [""; 0]);
    }
}

#[madsim::test]
async fn refusals_are_told_with_those_concerned() {
    for (phase, code) in [("data", 554), ("dot", 554), ("body", 554)] {
        let mut scene = scene(kind(), Some(FaultKind::PeerPermanent), phase).await;
        scene.greet().await;
        let expected = if phase == "data" { 554 } else { 354 };
        assert_eq!(scene.say(ENVELOPE, 3).await, [250, 250, expected]);
        if phase != "data" {
            assert_eq!(scene.say(CONTENT, 1).await, [code]);
        }
        assert_eq!(scene.refused(), [(joe(), code)]);
        assert!(scene.sunk().is_empty());
    }
    let mut scene = scene(kind(), Some(FaultKind::PeerTransient), "dot").await;
    scene.envelope().await;
    let code = scene.say(CONTENT, 1).await[0];
    assert_eq!(code / 100, 4);
    assert!(scene.refused().is_empty() && scene.sunk().is_empty());
}

#[madsim::test]
async fn drops_come_at_each_phase() {
    for (phase, said) in [
        ("greet", vec![]),
        ("ehlo", vec!["EHLO c\r\n"]),
        ("mail", vec!["EHLO c\r\n", "MAIL FROM:<>\r\n"]),
        ("rcpt", vec!["EHLO c\r\n", "MAIL FROM:<>\r\n", "RCPT TO:<a@b>\r\n"]),
        ("rset", vec!["EHLO c\r\n", "RSET\r\n"]),
        ("quit", vec!["EHLO c\r\n", "QUIT\r\n"]),
    ] {
        let mut scene = scene(kind(), Some(FaultKind::PeerDrop), phase).await;
        let mut codes = scene.say("", 1).await;
        for line in &said {
            codes.extend(scene.say(line, 1).await);
        }
        assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{phase} {codes:?}");
        assert_eq!(scene.client.fill(PATIENCE).await, Filled::Ended, "{phase}");
    }
}

#[madsim::test]
async fn a_hang_lasts_until_the_fault_is_over() {
    let mut scene = scene(kind(), None, "").await;
    let id = scene.universe.faults.begin(fault(FaultKind::PeerHang, Some("dot"), None));
    scene.envelope().await;
    scene.client.say(CONTENT.as_bytes(), PATIENCE).await;
    assert_eq!(scene.client.fill(Duration::from_secs(300)).await, Filled::Silence);
    scene.universe.faults.end(id);
    assert_eq!(scene.client.fill(Duration::from_secs(1)).await, Filled::Ended);
    assert!(scene.sunk().is_empty());
    assert_eq!(scene.universe.faults.fired()[FaultKind::PeerHang as usize], 1);
}

#[madsim::test]
async fn slowness_is_slow() {
    let mut scene = scene(kind(), Some(FaultKind::PeerSlow), "ehlo").await;
    let began = Instant::now();
    scene.greet().await;
    assert!(began.elapsed() > Duration::from_secs(50));
}

#[madsim::test]
async fn garbage_is_no_reply_and_its_message_counts_as_ambiguous() {
    let mut malformed = 0;
    for number in 0..20 {
        let mut scene = scene(kind(), Some(FaultKind::PeerGarbage), "dot").await;
        // Other connections draw other garbage.
        for _ in 0..number {
            drop(dial(&scene.universe).await);
        }
        scene.client = dial(&scene.universe).await;
        scene.envelope().await;
        scene.client.say(CONTENT.as_bytes(), PATIENCE).await;
        let heard = scene.client.reply(PATIENCE).await;
        malformed += u32::from(matches!(heard, Heard::Malformed(_)));
        assert!(scene.sunk()[0].1);
    }
    assert!(malformed > 10);
}

#[madsim::test]
async fn a_lost_reply_means_a_stored_message() {
    let mut scene = scene(kind(), Some(FaultKind::PeerLostReply), "mx.example").await;
    scene.envelope().await;
    scene.client.say(CONTENT.as_bytes(), PATIENCE).await;
    assert_ne!(scene.client.fill(Duration::from_secs(300)).await, Filled::Some);
    assert!(scene.sunk()[0].1);
}

#[madsim::test]
async fn one_connection_too_many_is_turned_away() {
    let settings = PeerSettings { max_connections: Some(1), ..kind() };
    let mut scene = scene(settings, None, "").await;
    scene.greet().await;
    assert_eq!(code(&mut dial(&scene.universe).await).await, 421);
    assert_eq!(scene.say("QUIT\r\n", 1).await, [221]);
    assert_eq!(scene.client.fill(PATIENCE).await, Filled::Ended);
    assert_eq!(code(&mut dial(&scene.universe).await).await, 220);
}

#[madsim::test]
async fn starttls_forgets_what_was_said_before() {
    let mut scene = scene(PeerSettings { starttls: true, ..kind() }, None, "").await;
    scene.greet().await;
    assert_eq!(scene.say("STARTTLS\r\n", 1).await, [220]);
    let verification = TlsVerification::None;
    let connect = TlsConnect { server_name: "mx.example".into(), verification };
    let upgrade = scene.client.take_stream().unwrap().upgrade_client(connect);
    scene.client.put_back(upgrade.await.unwrap().0);
    assert_eq!(scene.say("MAIL FROM:<>\r\n", 1).await, [503]);
    assert_eq!(violations(&scene.universe), ["I16 mx.example: MAIL before EHLO"]);
    let mut scene = self::scene(PeerSettings { starttls: true, ..kind() }, None, "").await;
    scene.greet().await;
    scene.say("STARTTLS\r\nEHLO evil\r\n", 1).await;
    assert_eq!(violations(&scene.universe), ["I16 mx.example: something in plain after STARTTLS"]);
}

#[madsim::test]
async fn half_of_a_loop_sends_on_with_one_more_received_field() {
    let next: SocketAddr = "192.0.2.9:25".parse().unwrap();
    let mut scene = scene(PeerSettings { forwards_to: Some(next), ..kind() }, None, "").await;
    let end = PeerSettings::kind("end.example", next);
    tokio::spawn(run(scene.universe.clone(), end));
    scene.envelope().await;
    assert_eq!(scene.say(CONTENT, 1).await, [250]);
    tokio::time::sleep(Duration::from_secs(90)).await;
    let sunk = scene.sunk();
    assert_eq!(sunk.len(), 2);
    let (first, second) = (&sunk[0].2, &sunk[1].2);
    assert!(second.starts_with(b"Received: ") && second.ends_with(first));
    assert_eq!(second.iter().filter(|octet| **octet == b'\n').count(), 6);
    assert_eq!(violations(&scene.universe), [""; 0]);
}

//! Clients against scripted servers over pipes: what each sees of the other, and what the ledger is told.
use super::*;
use crate::fault::FaultKind;
use crate::lines::Wire;
use crate::lines::tests::{events, fault, universe, violations};
use crate::peer::{self, PeerSettings};
use kumo_core::id::SpoolId;
use kumo_core::port::Listener;

const SEED: u64 = 5;

fn server() -> SocketAddr {
    "192.0.2.8:25".parse().unwrap()
}

fn settings() -> ClientSettings {
    let patience = Duration::from_secs(60);
    ClientSettings { patience, ..ClientSettings::new([10, 0, 0, 1].into(), server()) }
}

fn message(number: u32) -> (Duration, MessageWork) {
    let recipients = vec!["joe@example.com".into(), format!("{number}@example.org")];
    let work = MessageWork { message: number, sender: "a@c.example".into(), recipients, size: 999 };
    (Duration::from_secs(number.into()), work)
}

fn submission(message: u32, attempt: u32) -> Submission {
    Submission { message, attempt }
}

/// Sends messages to a server while a fault is in force, for ever or for the first half minute.
async fn ledger(
    seed: u64,
    count: u32,
    peer: PeerSettings,
    settings: ClientSettings,
    faults: Vec<(crate::fault::Fault, bool)>,
) -> Arc<Universe> {
    let universe = universe(seed);
    tokio::spawn(peer::run(universe.clone(), peer));
    for (fault, is_for_ever) in faults {
        let id = universe.faults.begin(fault);
        let universe = universe.clone();
        if !is_for_ever {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(30)).await;
                universe.faults.end(id);
            });
        }
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    let work = (1..=count).map(message).collect();
    let sending = run(universe.clone(), settings, work);
    timeout(Duration::from_secs(100_000), sending).await.expect("clients come to an end");
    universe
}

fn kind_peer() -> PeerSettings {
    PeerSettings::kind("mx.example", server())
}

fn fired(universe: &Universe, kind: FaultKind) -> u64 {
    universe.faults.fired()[kind as usize]
}

fn sunk(universe: &Universe) -> Vec<(Submission, Vec<String>, Vec<u8>)> {
    let sunk = |event| match event {
        Event::Sunk { submission, recipients, content, .. } => {
            Some((submission.expect("it is known by its field"), recipients, content))
        }
        _ => None,
    };
    events(universe).into_iter().filter_map(sunk).collect()
}

fn answers(universe: &Universe) -> Vec<(Submission, Answer)> {
    let answer = |event| match event {
        Event::Answered { submission, answer } => Some((submission, answer)),
        _ => None,
    };
    events(universe).into_iter().filter_map(answer).collect()
}

fn is_accepted(answer: &Answer) -> bool {
    matches!(answer, Answer::Accepted { .. })
}

#[madsim::test]
async fn messages_arrive_whole_with_and_without_pipelining() {
    for pipelining in [true, false] {
        let peer = PeerSettings { pipelining, ..kind_peer() };
        let universe = ledger(SEED, 40, peer, settings(), vec![]).await;
        assert_eq!(violations(&universe), [""; 0]);
        let sunk = sunk(&universe);
        assert_eq!(sunk.len(), 40);
        for (at, (submission, recipients, found)) in sunk.iter().enumerate() {
            let work = message(at as u32 + 1).1;
            assert_eq!((submission.message, submission.attempt), (work.message, 1));
            assert_eq!(*recipients, work.recipients);
            assert_eq!(*found, content(work.message, 1, work.size, SEED));
        }
        assert!(answers(&universe).iter().all(|(_, answer)| is_accepted(answer)));
        let began = events(&universe);
        let began = began
            .iter()
            .filter(|event| matches!(event, Event::BodyBegan { submission: Some(_), .. }));
        assert_eq!(began.count(), 40);
    }
}

#[madsim::test]
async fn recipients_have_their_own_fates() {
    let peer = PeerSettings { permanent_per_mille: 300, transient_per_mille: 300, ..kind_peer() };
    let settings = ClientSettings { retries: 50, ..settings() };
    let universe = ledger(SEED, 30, peer, settings, vec![]).await;
    assert_eq!(violations(&universe), [""; 0]);
    let mut refused = std::collections::BTreeSet::new();
    let mut taken = std::collections::BTreeSet::new();
    for event in events(&universe) {
        match event {
            Event::PeerRefused { recipients, code: 550, .. } => refused.extend(recipients),
            Event::Sunk { recipients, .. } => taken.extend(recipients),
            _ => {}
        }
    }
    assert!(refused.len() > 3 && taken.len() > 3, "{refused:?} {taken:?}");
    assert!(refused.is_disjoint(&taken));
    assert_eq!(refused.len() + taken.len(), 31);
}

/// A run with a little of everything that can go wrong at those ports, in a runtime of its own.
fn swarm(seed: u64, ports: &'static [&'static str]) -> Vec<crate::ledger::Entry> {
    let course = async move {
        let peer = PeerSettings { transient_per_mille: 200, ..kind_peer() };
        let mut faults = Vec::new();
        for kind in FaultKind::ALL.iter().filter(|kind| ports.contains(&kind.port())) {
            let mut fault = fault(*kind, None, None);
            fault.chance = 20;
            faults.push((fault, true));
        }
        let universe = ledger(seed, 60, peer, settings(), faults).await;
        universe.ledger.read(<[crate::ledger::Entry]>::to_vec)
    };
    let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, Default::default());
    std::thread::spawn(move || runtime.block_on(course)).join().unwrap()
}

#[test]
fn a_bad_network_makes_nobody_break_the_rules() {
    let mut answers = std::collections::BTreeMap::new();
    for seed in 0..10 {
        for entry in swarm(seed, &["net"]) {
            match entry.event {
                Event::Violation { what, .. } => panic!("{seed}: {what}"),
                Event::Answered { answer, .. } => {
                    *answers.entry(is_accepted(&answer)).or_insert(0) += 1;
                }
                _ => {}
            }
        }
    }
    assert!(answers[&true] > 500 && answers[&false] > 20, "{answers:?}");
}

#[test]
fn the_same_seed_gives_the_same_ledger() {
    let first = swarm(1, &["peer", "client"]);
    assert!(first.len() > 100);
    assert!(first == swarm(1, &["peer", "client"]));
    assert!(first != swarm(2, &["peer", "client"]));
}

#[madsim::test]
async fn clients_that_leave_retry_and_say_what_they_dont_know() {
    let faults = vec![(fault(FaultKind::ClientDisconnect, Some("10.0.0.1"), None), false)];
    let universe = ledger(SEED, 25, kind_peer(), settings(), faults).await;
    let answers = answers(&universe);
    let told = |wanted: &Answer| answers.iter().filter(|(_, answer)| answer == wanted).count();
    assert!(told(&Answer::Ambiguous) > 2 && told(&Answer::Never) > 5, "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, answer)| is_accepted(answer)).count(), 25);
    assert_eq!(violations(&universe), [""; 0]);
    // Those that never came to the dot weren't stored.
    for (submission, answer) in &answers {
        let is_stored = sunk(&universe).iter().any(|(sunk, ..)| sunk == submission);
        assert!(!is_stored || *answer != Answer::Never, "{submission}");
    }
}

#[madsim::test]
async fn a_slow_client_takes_its_time_and_is_understood() {
    let slow = fault(FaultKind::ClientSlow, None, Some(Duration::from_secs(2)));
    let universe = ledger(SEED, 2, kind_peer(), settings(), vec![(slow, true)]).await;
    assert_eq!(violations(&universe), [""; 0]);
    assert_eq!(sunk(&universe).len(), 2);
    assert!(universe.now().mono.0 > 40_000_000_000);
}

#[madsim::test]
async fn a_deaf_client_never_knows() {
    let deaf = fault(FaultKind::ClientDeaf, None, None);
    let universe = ledger(SEED, 3, kind_peer(), settings(), vec![(deaf, false)]).await;
    let answers = answers(&universe);
    assert_eq!(answers[0], (submission(1, 1), Answer::Ambiguous));
    assert_eq!(answers.iter().filter(|(_, answer)| is_accepted(answer)).count(), 3);
}

#[madsim::test]
async fn all_at_once_is_said_in_one_write() {
    let at_once = fault(FaultKind::ClientPipelines, None, None);
    let peer = PeerSettings { permanent_per_mille: 300, ..kind_peer() };
    let settings = ClientSettings { retries: 2, ..settings() };
    let universe = ledger(SEED, 10, peer, settings, vec![(at_once, true)]).await;
    assert!(sunk(&universe).len() >= 5);
    // A strict server remarks it, and what became of content after a refused DATA.
    let remarked = violations(&universe);
    assert!(remarked.iter().all(|what| what.starts_with("I16 mx.example: ")), "{remarked:?}");
    assert!(remarked.iter().any(|what| what.contains("right after DATA")));
}

#[madsim::test]
async fn garbage_hands_in_nothing_and_the_message_goes_all_the_same() {
    let garbage = fault(FaultKind::ClientGarbage, None, None);
    let settings = ClientSettings { retries: 9, ..settings() };
    let universe = ledger(SEED, 40, kind_peer(), settings, vec![(garbage, true)]).await;
    let told = violations(&universe);
    // This server takes a bare LF, and tells; the client tells that it did.
    assert!(told.contains(&"I7 client 10.0.0.1: content with a bare LF was accepted".into()));
    for cause in ["unknown command", "a bare CR or LF", "a command of", "CRLF"] {
        assert!(told.iter().any(|what| what.contains(cause)), "{cause}: {told:#?}");
    }
    assert_eq!(fired(&universe, FaultKind::ClientGarbage), answers(&universe).len() as u64);
    assert_eq!(sunk(&universe).len(), 40);
}

/// What a client makes of a server that says one thing after another, whatever it hears.
async fn against(script: &'static [&'static str], settings: ClientSettings) -> Arc<Universe> {
    let universe = universe(SEED);
    let network = SimNetwork::of_host(&universe, server().ip());
    let mut listener = network.listen(server()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut wire = Wire::new(stream);
            for reply in script {
                wire.say(reply.as_bytes(), Duration::from_secs(9)).await;
                if *reply != *script.last().unwrap() {
                    wire.fill(Duration::from_secs(9)).await;
                }
            }
            wire.shutdown(Duration::from_secs(9)).await;
        }
    });
    let work = vec![message(1)];
    let sending = run(universe.clone(), settings, work);
    timeout(Duration::from_secs(100_000), sending).await.expect("clients come to an end");
    universe
}

fn once() -> ClientSettings {
    ClientSettings { retries: 0, pipelining: true, ..settings() }
}

const EHLO: &str = "250-here\r\n250 PIPELINING\r\n";
const ENVELOPE: &str =
    "250 OK <a@c.example>\r\n250 OK <joe@example.com>\r\n250 OK <1@example.org>\r\n354 go\r\n";

const REFUSED: &str = "250 OK <a@c.example>\r\n550 no\r\n550 no\r\n354 go\r\n";
const SWAPPED: &str =
    "250 OK <a@c.example>\r\n250 OK <1@example.org>\r\n250 OK <joe@example.com>\r\n354 go\r\n";

#[madsim::test]
async fn ids_are_read_from_the_reply() {
    let universe = against(
        &[
            "220 here\r\n",
            EHLO,
            ENVELOPE,
            "250-OK ids=000102030405060708090a0b0c0d0e0f 00000000000000000000000000000001\r\n\
             250 00000000000000000000000000000002\r\n",
            "221 bye\r\n",
        ],
        once(),
    )
    .await;
    assert_eq!(violations(&universe), [""; 0]);
    let number = |number: u128| SpoolId(number.to_be_bytes());
    let first = SpoolId(std::array::from_fn(|at| at as u8));
    let ids = vec![first, number(1), number(2)];
    assert_eq!(answers(&universe), [(submission(1, 1), Answer::Accepted { ids })]);
}

#[madsim::test]
async fn replies_out_of_order_are_violations() {
    let scripts: [(&'static [&'static str], &str); 8] = [
        (&["220 here\r\n", EHLO, REFUSED, "250 OK\r\n"], "for nobody"),
        (&["220 here\r\n", EHLO, SWAPPED, "250 OK\r\n"], "in reply to Rcpt"),
        (&["220 here\r\n", EHLO, ENVELOPE, "250 OK ids=\r\n", "221 x\r\n"], "without an id"),
        (&["220 here\r\n", EHLO, ENVELOPE, "354 go\r\n"], "in reply to Dot"),
        (&["220 here\r\n250 extra\r\n", EHLO], "unasked"),
        (&["421 busy\r\n250 still here\r\n"], "after the end"),
        (&["220 here\n"], "CRLF"),
        (&["220 here\r\n", EHLO, ENVELOPE, "250 OK ids=12\r\n", "221 x\r\n"], "32 hexadecimal"),
    ];
    for (script, wanted) in scripts {
        let told = violations(&*against(script, once()).await);
        assert!(told.iter().any(|what| what.contains(wanted)), "{wanted}: {told:?}");
    }
}

#[madsim::test]
async fn a_server_that_goes_away_is_no_violation() {
    let scripts: [(&'static [&'static str], Answer); 5] = [
        (&[""], Answer::Never),
        (&["421 busy\r\n"], Answer::Never),
        (&["220 here\r\n", EHLO, "250 OK <a@c.ex"], Answer::Never),
        (&["220 here\r\n", EHLO, ENVELOPE, ""], Answer::Ambiguous),
        (&["220 here\r\n", EHLO, ENVELOPE, "421 bye\r\n"], Answer::Refused { code: 421 }),
    ];
    for (script, answer) in scripts {
        let universe = against(script, once()).await;
        assert_eq!(violations(&universe), [""; 0]);
        assert_eq!(answers(&universe), [(submission(1, 1), answer)]);
    }
}

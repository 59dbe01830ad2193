//! Servers that break the protocol: reliability.md section 4, "Hostile server", STARTTLS injection, and what may not
//! leave. Expected: bounded, transient for whoever is undecided, and no reply taken for that of another command.
use super::*;
use crate::limits;
use proptest::prelude::*;

/// Everything a server says in a delivery to one recipient, in order.
const SCRIPT: [&str; 6] =
    ["220 mx\r\n", EHLO, "250 mail\r\n", "250 rcpt\r\n", "354 go\r\n", "250 dot\r\n"];

/// Delivers to one recipient; the server says one element of `script` each time it was told something, or the
/// whole rest of a pipelined envelope.
fn run(script: &[String], is_pipelined: bool) -> Dialogue {
    let mut dialogue = Dialogue::connected(|path| path.enable_pipelining = is_pipelined);
    for (at, said) in script.iter().enumerate() {
        if dialogue.closed.is_some() {
            break;
        }
        if at == 2 {
            dialogue.deliver(job(&["a@x.test"]));
        }
        dialogue.hear(said);
    }
    dialogue
}

fn script() -> Vec<String> {
    SCRIPT.map(String::from).into()
}

#[test]
fn an_extra_reply_shifts_nothing() {
    for is_pipelined in [false, true] {
        for extra in ["250 extra\r\n", "550 extra\r\n", "354 extra\r\n", "2"] {
            for at in 0..6 {
                let mut script = script();
                script[at].push_str(extra);
                let dialogue = run(&script, is_pipelined);
                assert!(dialogue.closed.is_some(), "{extra} after {at}, {is_pipelined}");
                assert_eq!(dialogue.reports.len(), usize::from(at >= 2));
                match at {
                    0 | 1 => assert!(matches!(dialogue.closed, Some(Closed::NeverReady { .. }))),
                    // This one was in step.
                    5 => assert_eq!(dialogue.fates(), ["delivered 250"]),
                    // It was taken for the answer to DATA, so the content left.
                    3 if is_pipelined && extra == "354 extra\r\n" => {
                        assert_eq!(dialogue.fates(), ["unknown"]);
                    }
                    _ => assert_eq!(dialogue.fates(), ["deferred 451"], "{extra} after {at}"),
                }
            }
        }
    }
}

#[test]
fn a_verdict_from_before_the_replies_fell_out_of_step_is_not_believed() {
    let mut dialogue = Dialogue::delivering(&["a@x.test", "b@x.test"], |_| {});
    // The first 550 is nobody's; b would be refused by a's 550, and DATA accepted by b's 250.
    dialogue.hear("250 mail\r\n550 extra\r\n550 a\r\n250 b\r\n");
    assert_eq!(dialogue.fates(), ["deferred 451"; 2]);
    assert!(dialogue.reply(0).starts_with("451 4.5.0 KumoMTA internal: connection given up while"));
    assert!(!dialogue.heard().contains("hello"));
}

/// What a is told is nobody's, b is told what was a's, and DATA what was b's: one read or several, nobody is refused.
#[test]
fn a_late_answer_to_data_shows_that_the_refusals_were_others() {
    let replies = ["250 mail\r\n", "550 extra\r\n", "250 a\r\n", "550 b\r\n", "354 go\r\n"];
    let together = replies.concat();
    for reads in [&replies[..], &[&*together]] {
        let mut dialogue = Dialogue::delivering(&["a@x.test", "b@x.test"], |_| {});
        for said in reads {
            dialogue.hear(said);
        }
        assert_eq!(dialogue.fates(), ["deferred 451"; 2]);
        assert!(dialogue.closed.is_some() && !dialogue.heard().contains("hello"));
    }
}

#[test]
fn nonsense_instead_of_any_reply_is_transient() {
    let long = format!("250 {}\r\n", "x".repeat(100_000));
    let endless = "250-x\r\n".repeat(1_000_000);
    let endless_line = "2".repeat(1_000_000);
    for (name, nonsense) in [
        ("10^6 reply lines", &*endless),
        ("100 kB line", &long),
        ("line without an end", &endless_line),
        ("wrong code", "600 x\r\n"),
        ("code without a space", "250x\r\n"),
        ("no code", "\r\n"),
        ("mixed codes", "250-a\r\n550 b\r\n"),
        ("mixed codes, bare LF", "250-a\n354 b\n"),
        ("1xx", "100 wait\r\n"),
        ("1xx, then an answer", "150-wait\r\n150 wait\r\n250 ok\r\n"),
    ] {
        for is_pipelined in [false, true] {
            for at in 0..6 {
                let mut script = script();
                script[at] = nonsense.into();
                let dialogue = run(&script, is_pipelined);
                let closed = dialogue.closed.as_ref().expect(name);
                match at {
                    0 | 1 => {
                        let is_ready =
                            !matches!(closed, Closed::NeverReady { tls_failed: false, .. });
                        assert!(!is_ready, "{name}");
                    }
                    5 => assert_eq!(dialogue.fates(), ["unknown"], "{name}"),
                    _ => assert_eq!(dialogue.fates(), ["deferred 451"], "{name}"),
                }
                assert!(dialogue.why().len() < 200, "{}", dialogue.why());
            }
        }
    }
}

#[test]
fn a_positive_reply_of_the_wrong_kind_is_no_answer() {
    for (at, reply) in [(2, "354 x\r\n"), (3, "354 x\r\n"), (4, "250 x\r\n"), (5, "354 x\r\n")] {
        for is_pipelined in [false, true] {
            let mut script = script();
            script[at] = reply.into();
            let dialogue = run(&script, is_pipelined);
            assert_eq!(dialogue.fates(), [if at == 5 { "unknown" } else { "deferred 451" }]);
            assert!(dialogue.closed.is_some());
        }
    }
}

#[test]
fn a_server_that_refuses_the_sender_and_takes_the_recipient_is_left() {
    let dialogue =
        run(&[&script()[..2], &["550 no\r\n250 rcpt\r\n354 go\r\n".into()]].concat(), true);
    assert_eq!(dialogue.fates(), ["deferred 451"]);
}

/// RFC 4.5.4.1: nothing of it is remembered beyond the session, and within it the last one counts.
#[test]
fn a_different_ehlo_each_time_is_taken_as_it_comes() {
    let mut dialogue = Dialogue::greeted(STARTTLS, |_| {});
    dialogue.hear("220 go\r\n");
    dialogue.handshake();
    dialogue.heard();
    dialogue.hear("250-mx.test\r\n250-STARTTLS\r\n250 SIZE 5\r\n");
    assert_eq!((dialogue.ready, dialogue.handshakes), (1, 1), "once is enough");
    dialogue.deliver(job(&["a@x.test"]));
    assert_eq!(dialogue.fates(), ["refused 552"], "the size it said last");
    dialogue.deliver(Job { body: "A:\r\n".into(), ..job(&["a@x.test"]) });
    assert_eq!(dialogue.heard(), "MAIL FROM:<me@us.test> SIZE=4\r\n", "no more PIPELINING");
}

#[test]
fn a_no_to_the_final_dot_after_every_yes_is_a_no_and_the_session_goes_on() {
    for (no, fate) in [("554 no\r\n", "refused 554"), ("451 no\r\n", "deferred 451")] {
        for is_pipelined in [false, true] {
            let mut script = script();
            script[5] = no.into();
            script.push("250 reset\r\n".into());
            let mut dialogue = run(&script, is_pipelined);
            assert_eq!(dialogue.fates(), [fate]);
            assert!(dialogue.is_reusable() && dialogue.heard().ends_with("RSET\r\n"));
        }
    }
}

#[test]
fn what_is_said_before_the_handshake_never_counts_after_it() {
    for injected in ["250-mx.test\r\n", "250 AUTH PLAIN\r\n", "\r\n", "2"] {
        let mut dialogue = Dialogue::greeted(STARTTLS, |_| {});
        dialogue.hear(format!("220 go\r\n{injected}"));
        assert_eq!(dialogue.handshakes, 0);
        assert!(matches!(dialogue.closed, Some(Closed::NeverReady { tls_failed: false, .. })));
    }
}

#[test]
fn bare_lf_ends_a_servers_line() {
    let script: Vec<String> = SCRIPT.iter().map(|said| said.replace("\r\n", "\n")).collect();
    for is_pipelined in [false, true] {
        assert_eq!(run(&script, is_pipelined).fates(), ["delivered 250"]);
    }
}

#[test]
fn the_servers_text_is_bounded_and_clean_in_records() {
    let mut script = script();
    script[5] = format!("250-\x1b[2J{}\r\n", "y".repeat(4_000)).repeat(9) + "250 \0ok\r\n";
    let dialogue = run(&script, true);
    let reply = dialogue.reply(0);
    assert!(reply.len() < limits::SERVER_REPLY_TEXT_OCTETS + 10);
    assert!(!reply.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn stored_bare_line_ends_and_dots_do_not_leave() {
    let body = "A: b\n\nx\n.\nMAIL FROM:<evil@x>\r.\rRCPT TO:<v@y>\r\n.\r\nend\r";
    let mut dialogue = Dialogue::ready(|_| {});
    dialogue.deliver(Job { body: body.into(), ..job(&["a@x.test"]) });
    dialogue.hear("250 mail\r\n250 rcpt\r\n");
    dialogue.heard();
    dialogue.hear("354 go\r\n");
    let sent = dialogue.heard();
    let expected =
        "A: b\r\n\r\nx\r\n..\r\nMAIL FROM:<evil@x>\r\n..\r\nRCPT TO:<v@y>\r\n..\r\nend\r\n.\r\n";
    assert_eq!(sent, expected);
}

fn anything_said() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::sample::select(&["250 ok\r\n", "354 go\r\n", "220 go\r\n", EHLO, STARTTLS][..])
            .prop_map(|said| said.as_bytes().to_vec()),
        3 => "[245][0-9]{2}[ -][ -~]{0,6}\r\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Says(Vec<u8>),
    Waits(u64),
    Flushed,
    Deliver,
    Close,
    Abort,
    Ended,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => anything_said().prop_map(Step::Says),
        2 => (0_u64..400).prop_map(Step::Waits),
        4 => Just(Step::Flushed),
        8 => Just(Step::Deliver),
        1 => Just(Step::Close),
        1 => Just(Step::Abort),
        1 => Just(Step::Ended),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_each_message_gets_one_report_and_the_session_one_end(
        steps in prop::collection::vec(step(), 0..40),
        flushes in any::<bool>(),
        is_pipelined in any::<bool>(),
        use_lmtp in any::<bool>(),
    ) {
        let mut dialogue = Dialogue::connected(|path| {
            path.enable_pipelining = is_pipelined;
            path.use_lmtp = use_lmtp;
        });
        dialogue.flushes = flushes;
        for step in steps {
            match step {
                Step::Says(octets) => dialogue.hear(octets),
                Step::Waits(seconds) => dialogue.wait(seconds),
                Step::Flushed => dialogue.input(Input::Flushed),
                Step::Deliver if dialogue.session.phase() == "idle" => {
                    dialogue.deliver(job(&["a@x.test", "b@x.test"]));
                }
                Step::Deliver => {}
                Step::Close => dialogue.input(Input::Close),
                Step::Abort => dialogue.input(Input::Abort),
                Step::Ended => dialogue.input(Input::Ended),
            }
            if dialogue.session.phase() == "waiting for the TLS handshake" {
                let info = TlsInfo { protocol: "p".into(), cipher: "c".into(), peer_subject: vec![] };
                dialogue.input(Input::TlsDone(Ok(info)));
            }
        }
        // The helper checks the rest at every step.
        dialogue.input(Input::Abort);
        prop_assert!(dialogue.closed.is_some());
        prop_assert_eq!(dialogue.session.next_wake(), None);
    }

    #[test]
    fn a_dialogue_goes_the_same_way_however_the_replies_are_split(
        replies in prop::collection::vec(prop::sample::select(
            &["250 a\r\n", "250-b\r\n250 c\r\n", "450 d\r\n", "550 5.1.1 e\n", "354 f\r\n", "421 g\r\n", "1"][..]
        ), 3..=4),
    ) {
        let run = |size: usize| {
            let mut dialogue = Dialogue::delivering(&["a@x.test", "b@x.test"], |_| {});
            for chunk in replies.concat().as_bytes().chunks(size) {
                dialogue.hear(chunk);
            }
            dialogue.input(Input::Ended);
            let closed = dialogue.closed.clone();
            (dialogue.fates(), closed, dialogue.heard())
        };
        prop_assert_eq!(run(1), run(usize::MAX));
    }
}

//! The hostile inputs of reliability.md section 4 that take time, a handshake, a policy or megabytes: expected reply, at
//! most one message, the session's state after it, bounded memory. Those told by a few lines stand in `corpus`.
use super::greeting::auth_response;
use super::tests::{Dialogue, ENVELOPE, accepted, settings};
use super::*;
use crate::id::SpoolIdGenerator;
use crate::time::{Duration, Mono, Now};

#[test]
fn early_talk_is_refused() {
    let mut settings = settings(|_| {});
    settings.handled.connection_accepted = true;
    let mut session = Session::new(settings, SpoolIdGenerator::new(1));
    session.handle(Now::default(), Input::Opened { refusal: None });
    let Some(Output::Ask(question)) = session.poll() else { panic!("no question") };
    session.handle(Now::default(), Input::Bytes(b"EHLO c\r\n"));
    let text = format!("{:?}", std::iter::from_fn(|| session.poll()).collect::<Vec<_>>());
    assert!(text.contains("554 ") && text.ends_with("Close]"), "{text}");
    let answer = Answer { meta: question.meta, verdict: Verdict::Proceed };
    session.handle(Now::default(), Input::Answer(answer));
    assert!(session.poll().is_none(), "none after close");
}

#[test]
fn talk_before_the_session_is_even_open_is_refused() {
    let mut dialogue = Dialogue::new(settings(|_| {}));
    dialogue.say(data("x\r\n.\r\n"));
    assert_eq!(dialogue.read(), "554 5.5.1 Wait for the greeting before you speak\r\n");
    assert!(dialogue.is_closed);
    dialogue.input(Input::Opened { refusal: None });
    dialogue.say(data("x\r\n.\r\n"));
    assert_eq!(dialogue.read(), "");
    assert!(dialogue.submitted.is_empty());
}

#[test]
fn nothing_said_before_starttls_counts_after_it() {
    let mut dialogue = Dialogue::opened(settings(|_| {}));
    dialogue.say("EHLO c\r\nSTARTTLS\r\nEHLO injected\r\nMAIL FROM:<evil@x>\r\n");
    assert!(
        dialogue.read().ends_with("220 Ready to Start TLS\r\n"),
        "injected commands are dropped"
    );
    dialogue.say("MAIL FROM:<a@b>\r\n");
    assert!(dialogue.last().starts_with("503"), "EHLO has to be said again");
    let meta = &dialogue.rejected.last().expect("a rejection").meta;
    assert!(!meta.contains_key("ehlo_domain") && meta.contains_key("tls_cipher"));
    dialogue.say("EHLO c\r\nSTARTTLS\r\n");
    assert!(dialogue.last().starts_with("501"), "TLS is active");
    dialogue.say("MAIL FROM:<a@b>\r\nAUTH PLAIN\r\n");
    assert_eq!(dialogue.last(), "503 5.5.1 AUTH not permitted inside a transaction");
    let mut clear = Dialogue::opened(settings(|_| {}));
    clear.say(format!("{ENVELOPE}STARTTLS\r\n"));
    assert!(clear.last().starts_with("503"), "not in a transaction");
}

#[test]
fn a_handshake_that_stalls_or_fails_ends_the_session() {
    let start = || {
        let mut session = Session::new(settings(|_| {}), SpoolIdGenerator::new(1));
        session.handle(Now::default(), Input::Opened { refusal: None });
        session.handle(Now::default(), Input::Bytes(b"EHLO c\r\nSTARTTLS\r\n"));
        while session.poll().is_some() {}
        assert!(!session.wants_bytes());
        session
    };
    let mut stalled = start();
    let (when, why) = stalled.next_wake().unwrap();
    assert_eq!((when, why), (Mono(60_000_000_000), WakeReason::TlsHandshake));
    stalled.handle(Now { mono: when, ..Now::default() }, Input::Tick);
    assert!(matches!(stalled.poll(), Some(Output::Close)));
    let mut failed = start();
    failed.handle(Now::default(), Input::TlsDone(None));
    assert!(matches!(failed.poll(), Some(Output::Close)));
}

#[test]
fn authenticating_twice_is_refused() {
    let mut settings = settings(|_| {});
    settings.handled.auth_plain = true;
    let mut twice = Dialogue::opened(settings).with_policy(|_| Verdict::Authenticated(true));
    twice.say("EHLO c\r\nSTARTTLS\r\n");
    let good = auth_response("", "u", "p");
    twice.say(format!("EHLO c\r\nAUTH PLAIN {good}\r\nAUTH PLAIN {good}\r\n"));
    assert_eq!(twice.last(), "503 5.5.1 already authenticated");
}

#[test]
fn messages_between_them_make_junk_commands_harmless() {
    let mut dialogue = Dialogue::opened(settings(|_| {}));
    for _ in 0..500 {
        dialogue.say("RSET\r\nEHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n");
    }
    assert_eq!(dialogue.submitted.len(), 500);
}

#[test]
fn a_million_recipients_keep_the_first_ones() {
    let mut dialogue = Dialogue::opened(settings(|l| l.max_recipients_per_message = 101));
    dialogue.say("EHLO c\r\nMAIL FROM:<>\r\n");
    dialogue.read();
    let batch = "RCPT TO:<a@b.test>\r\n".repeat(1000);
    for round in 0..1000 {
        dialogue.say(&batch);
        let replies = dialogue.read();
        let positive = replies.lines().filter(|line| line.starts_with("250")).count();
        assert_eq!(positive, if round == 0 { 101 } else { 0 });
        assert!(replies.ends_with("452 4.5.3 too many recipients\r\n") && !dialogue.is_closed);
        dialogue.rejected.clear();
    }
    dialogue.say("DATA\r\nx\r\n.\r\n");
    assert_eq!(dialogue.submitted.len(), 101);
}

#[test]
fn a_connection_has_its_number_of_messages() {
    let mut dialogue = Dialogue::opened(settings(|l| l.max_messages_per_connection = 2));
    let begin = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n";
    dialogue.say(format!("EHLO c\r\n{begin}RCPT TO:<b@b>\r\nRCPT TO:<c@b>\r\n"));
    assert_eq!(dialogue.last(), "452 4.5.3 too many recipients on this connection");
    dialogue.say("DATA\r\nx\r\n.\r\n");
    dialogue.say(begin);
    assert_eq!(dialogue.last(), "421 4.5.3 H too many recipients on this connection");
    assert!(dialogue.is_closed);
}

/// 10 MB in reads of 64 KiB: nothing of it may be kept.
fn flood(dialogue: &mut Dialogue, octet: u8) {
    let read = vec![octet; 64 * 1024];
    for _ in 0..160 {
        dialogue.say(&read);
    }
}

fn data(content: &str) -> String {
    format!("{ENVELOPE}DATA\r\n{content}")
}

#[test]
fn endless_lines_are_passed_over() {
    let mut command = Dialogue::opened(settings(|_| {}));
    command.say("EHLO c\r\n");
    command.read();
    flood(&mut command, b'x');
    assert_eq!(command.read(), "", "no reply before the line's end");
    assert!(command.session.buffered() < 128 * 1024, "memory");
    command.say("\r");
    command.say("\nNOOP\r\n");
    assert_eq!(command.read(), "500 5.2.3 line too long\r\n250 OK\r\n");

    let mut header = Dialogue::opened(settings(|_| {}));
    header.say(data("Subject: "));
    flood(&mut header, b'x');
    assert!(header.session.buffered() < 128 * 1024, "memory");
    header.read();
    header.say("\r");
    header.say("\n\r\nbody\r\n.\r\nNOOP\r\n");
    assert_eq!(header.read(), "500 5.2.3 line too long\r\n250 OK\r\n");
    assert!(header.submitted.is_empty());
}

#[test]
fn slowloris_gets_a_whole_command_deadline_and_a_minimum_rate() {
    let nearly = Duration::from_secs(59);
    let mut command = Dialogue::opened(settings(|_| {}));
    command.say("E");
    command.wait(nearly);
    command.say("H");
    assert!(!command.is_closed);
    command.wait(Duration::from_secs(1));
    assert_eq!(command.last(), "421 4.3.2 H idle too long");
    assert!(command.is_closed && command.rejected.is_empty());

    let mut content = Dialogue::opened(settings(|_| {}));
    content.say(data("a"));
    for _ in 0..61 {
        content.wait(Duration::from_secs(1));
        if !content.is_closed {
            content.say("b");
        }
    }
    assert_eq!(content.last(), "421 4.4.2 H the message arrives too slowly");
    assert!(content.is_closed && content.submitted.is_empty());

    let mut silent = Dialogue::opened(settings(|_| {}));
    silent.say(data("a"));
    silent.wait(Duration::from_secs(60));
    assert_eq!(silent.last(), "421 4.3.2 H idle too long");

    let mut steady = Dialogue::opened(settings(|_| {}));
    steady.say(data(""));
    for _ in 0..300 {
        steady.say("b".repeat(498) + "\r\n");
        steady.wait(Duration::from_secs(1));
    }
    steady.say(".\r\n");
    assert_eq!(steady.submitted.len(), 1);
}

#[test]
fn a_huge_batch_stops_at_the_reply_backlog() {
    let mut settings = settings(|l| l.max_recipients_per_message = 50_000);
    settings.handled.message_received = false;
    let mut session = Session::new(settings, SpoolIdGenerator::new(1));
    session.handle(Now::default(), Input::Opened { refusal: None });
    let batch = format!("EHLO c\r\nMAIL FROM:<>\r\n{}", "RCPT TO:<a@b.test>\r\n".repeat(9_000));
    session.handle(Now::default(), Input::Bytes(batch.as_bytes()));
    assert!(!session.wants_bytes(), "the driver has to write first");
    let (mut largest, mut total) = (0, 0);
    while let Some(output) = session.poll() {
        let Output::Send(octets) = output else { panic!("{output:?}") };
        largest = largest.max(octets.len());
        total += octets.iter().filter(|octet| **octet == b'\n').count();
    }
    assert!(largest < crate::limits::REPLY_BACKLOG_OCTETS + 1024, "{largest}");
    assert_eq!(total, 1 + 7 + 1 + 9_000);
    assert!(session.wants_bytes());
}

#[test]
fn a_client_that_leaves_after_the_final_dot_does_not_undo_it() {
    let mut session = Session::new(settings(|_| {}), SpoolIdGenerator::new(1));
    session.handle(Now::default(), Input::Opened { refusal: None });
    session.handle(Now::default(), Input::Bytes(data("x\r\n.\r\n").as_bytes()));
    while session.poll().is_some() {}
    session.handle(Now::default(), Input::Ended);
    assert!(session.poll().is_none());
    session.handle(Now::default(), Input::Submitted(accepted()));
    assert!(matches!(session.poll(), Some(Output::Send(_))));
    assert!(matches!(session.poll(), Some(Output::Close)));
}

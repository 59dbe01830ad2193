//! The hostile inputs of reliability.md section 4 that a server session meets, by name. Each row: expected reply, at
//! most one message, the session's state after it, bounded memory.
use super::greeting::auth_response;
use super::tests::{Dialogue, ENVELOPE, accepted, settings};
use super::*;
use crate::config::listener::LineEndings;
use crate::id::SpoolIdGenerator;
use crate::time::{Duration, Mono, Now};

/// What is said, the last reply line's beginning, messages accepted, whether the session is over.
type Row = (&'static str, String, &'static str, usize, bool);

fn run(rows: Vec<Row>) {
    for (name, said, expected, messages, closed) in rows {
        let mut dialogue = Dialogue::opened(settings(|_| {}));
        dialogue.say(&said);
        let replies = dialogue.read();
        let last = replies.lines().last().unwrap_or("");
        assert!(last.starts_with(expected), "{name}: expected {expected:?} in\n{replies}");
        assert_eq!(dialogue.submitted.len(), messages, "{name}");
        assert_eq!(dialogue.is_closed, closed, "{name}");
    }
}

fn data(content: &str) -> String {
    format!("{ENVELOPE}DATA\r\n{content}")
}

#[test]
fn end_of_data_look_alikes_never_end_data() {
    let smuggled = "MAIL FROM:<evil@x>\r\nRCPT TO:<v@y>\r\nDATA\r\nevil\r\n.\r\n";
    for look_alike in [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r.\r\n",
        "\n.\r",
        "\r\n.\r",
        "\r\n.\r\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\r\n .\r\n",
        "\r\n. \r\n",
    ] {
        for line_endings in [LineEndings::Deny, LineEndings::Allow, LineEndings::Fix] {
            let said = data(&format!("a{look_alike}{smuggled}"));
            let mut dialogue =
                Dialogue::opened(settings(|l| l.invalid_line_endings = line_endings));
            dialogue.say(&said);
            let last = dialogue.last();
            assert!(dialogue.submitted.len() <= 1, "{look_alike:?}");
            let bare = said.replace("\r\n", "").contains(['\r', '\n']);
            let refused = bare && line_endings == LineEndings::Deny;
            let expected = if refused { "552 5.6.0" } else { "250 OK ids=" };
            assert!(last.starts_with(expected), "{look_alike:?} {line_endings:?}: {last}");
            let is_smuggled =
                |m: &crate::message::Message| m.envelope.sender.as_str() != "a@x.test";
            assert!(!dialogue.submitted.iter().any(is_smuggled));
        }
    }
}

#[test]
fn commands_out_of_place_and_out_of_grammar() {
    let mail = |parameters: &str| format!("EHLO c\r\nMAIL FROM:<a@b>{parameters}\r\n");
    let rcpt = |path: &str| format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:{path}\r\n");
    run(vec![
        (
            "BDAT while CHUNKING isn't offered",
            format!("{ENVELOPE}BDAT 3 LAST\r\n"),
            "502 5.5.1",
            0,
            false,
        ),
        ("BDAT without MAIL", "EHLO c\r\nBDAT 3\r\n".into(), "502 5.5.1", 0, false),
        ("MAIL before EHLO", "MAIL FROM:<a@b>\r\n".into(), "503", 0, false),
        ("RCPT before MAIL", "EHLO c\r\nRCPT TO:<a@b>\r\n".into(), "503 5.5.0 MAIL FROM", 0, false),
        (
            "DATA without RCPT",
            "EHLO c\r\nMAIL FROM:<>\r\nDATA\r\n".into(),
            "503 5.5.0 RCPT TO",
            0,
            false,
        ),
        ("DATA after a failed RCPT", rcpt("<bad>\r\nDATA"), "503 5.5.0 RCPT TO", 0, false),
        ("SIZE=-1", mail(" SIZE=-1"), "501", 0, false),
        ("SIZE=2^64", mail(" SIZE=18446744073709551616"), "552 5.3.4", 0, false),
        ("SIZE of 21 digits", mail(" SIZE=184467440737095516160"), "501", 0, false),
        ("SIZE above the maximum", mail(" SIZE=20971521"), "552 5.3.4", 0, false),
        ("SIZE without value", mail(" SIZE"), "501", 0, false),
        ("SIZE twice", mail(" SIZE=1 size=1"), "501", 0, false),
        ("BODY=NONSENSE", mail(" BODY=NONSENSE"), "501", 0, false),
        ("unknown parameter", mail(" RET=HDRS"), "555", 0, false),
        ("AUTH= with quotes", mail(" AUTH=\"x\""), "501", 0, false),
        ("AUTH=<>", mail(" AUTH=<>"), "250", 0, false),
        ("trailing junk", mail("x"), "501", 0, false),
        ("unknown RCPT parameter", rcpt("<a@b> NOTIFY=NEVER"), "555", 0, false),
        ("port in a recipient", rcpt("<a@b:25>"), "501 5.1.3", 0, false),
        ("CR in an address", rcpt("<a\r@b>"), "501", 0, false),
        ("NUL in an address", rcpt("<a\0@b>"), "501", 0, false),
        ("LF in an address", rcpt("<a\n@b>"), "501", 0, false),
        ("semicolon in front", rcpt("<;a@b>"), "501 5.1.3", 0, false),
        ("brackets within", rcpt("<<a@b>>"), "501 5.1.3", 0, false),
        ("shell in HELO", "EHLO ;ls|x\r\n".into(), "501", 0, false),
        ("NUL in HELO", "EHLO a\0b\r\n".into(), "501", 0, false),
        ("no HELO name", "HELO\r\n".into(), "501", 0, false),
        ("line end in HELO", "EHLO a\nb\r\n".into(), "501", 0, false),
        ("UTF-8 without SMTPUTF8", rcpt("<jörg@b>"), "553 5.6.7", 0, false),
        ("command behind a bare LF", rcpt("<a\nRSET"), "501", 0, false),
        ("U+200B", rcpt("<a@b\u{200b}c>"), "501 5.1.3", 0, false),
        ("right-to-left override", rcpt("<a\u{202e}@b>"), "501 5.1.3", 0, false),
        ("unknown command", "XYZZY\r\n".into(), "502 5.5.1", 0, false),
        ("empty line", "\r\n".into(), "502 5.5.1", 0, false),
    ]);
    let mut utf8 = Dialogue::opened(settings(|_| {}));
    utf8.say("EHLO c\r\nMAIL FROM:<ö@ü.test> SMTPUTF8\r\nRCPT TO:<ä@b.test>\r\n");
    assert_eq!(utf8.last(), "250 OK <ä@b.test>");
    utf8.say(b"RCPT TO:<\xff@b>\r\n");
    assert_eq!(utf8.last(), "501 5.5.2 Invalid UTF-8 in command");
    utf8.say("DATA\r\nx\r\n.\r\n");
    assert!(utf8.last().starts_with("250 OK ids="), "the session goes on");
}

#[test]
fn http_and_tls_on_the_smtp_port_are_cut_off() {
    let request = " / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b>\r\n";
    run(vec![
        ("GET", format!("GET{request}"), "521", 0, true),
        ("POST", format!("POST{request}"), "521", 0, true),
        ("GET in a transaction", format!("{ENVELOPE}GET{request}"), "521", 0, true),
        ("TLS hello", "\x16\x03\x01\x02\0\x01".into(), "521", 0, true),
    ]);
}

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
fn nothing_said_before_starttls_counts_after_it() {
    let mut dialogue = Dialogue::opened(settings(|_| {}));
    dialogue.say("EHLO c\r\nSTARTTLS\r\nEHLO injected\r\nMAIL FROM:<evil@x>\r\n");
    assert!(
        dialogue.read().ends_with("220 Ready to Start TLS\r\n"),
        "injected commands are dropped"
    );
    dialogue.say("MAIL FROM:<a@b>\r\n");
    assert!(dialogue.last().starts_with("503"), "EHLO has to be said again");
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
fn authentication_rows() {
    let mut clear = Dialogue::opened(settings(|_| {}));
    clear.say("EHLO c\r\nAUTH PLAIN AHUAcA==\r\n");
    assert_eq!(clear.last(), "524 5.7.11 AUTH PLAIN requires an encrypted channel");
    let good = auth_response("", "u", "p");
    let nul_in_user = auth_response("", "u\0x", "p");
    let long = "A".repeat(12_288);
    for (name, said, expected) in [
        ("cancelled", "AUTH PLAIN\r\n*\r\n".to_owned(), "501 5.5.0"),
        ("not base64", "AUTH PLAIN\r\n!!!!\r\n".to_owned(), "501 5.5.2"),
        ("empty response", "AUTH PLAIN =\r\n".to_owned(), "501 5.5.2"),
        ("NUL in user", format!("AUTH PLAIN {nul_in_user}\r\n"), "501 5.5.2"),
        ("12 kB initial response", format!("AUTH PLAIN {long}\r\n"), "500 5.5.6"),
        ("12 kB response", format!("AUTH PLAIN\r\nA{long}\r\n"), "500 5.5.6"),
        ("unknown mechanism", "AUTH CRAM-MD5\r\n".to_owned(), "504 5.5.4"),
        ("no mechanism", "AUTH\r\n".to_owned(), "501"),
        ("one character too many", format!("AUTH PLAIN {good} x\r\n"), "501"),
        ("one-character password", format!("AUTH PLAIN {good}\r\n"), "535 5.7.8"),
        ("wrong", format!("AUTH PLAIN {}\r\n", auth_response("", "u", "no")), "535 5.7.8"),
    ] {
        let mut settings = settings(|_| {});
        settings.handled.auth_plain = name != "one-character password";
        let mut dialogue =
            Dialogue::opened(settings).with_policy(|_| Verdict::Authenticated(false));
        dialogue.say("EHLO c\r\nSTARTTLS\r\n");
        dialogue.say("EHLO c\r\n");
        dialogue.say(&said);
        let last = dialogue.last();
        assert!(last.starts_with(expected), "{name}: {last}");
        let records = format!("{:?}", dialogue.rejected);
        for secret in [&good, &nul_in_user, "AAAA", "!!!!"] {
            assert!(!records.contains(secret), "{name}: a secret in {records}");
        }
        dialogue.say("NOOP\r\n");
        assert_eq!(dialogue.last(), "250 OK", "{name}: the session goes on");
    }
    let mut settings = settings(|_| {});
    settings.handled.auth_plain = true;
    let mut twice = Dialogue::opened(settings).with_policy(|_| Verdict::Authenticated(true));
    twice.say("EHLO c\r\nSTARTTLS\r\n");
    twice.say(format!("EHLO c\r\nAUTH PLAIN {good}\r\nAUTH PLAIN {good}\r\n"));
    assert_eq!(twice.last(), "503 5.5.1 already authenticated");
}

#[test]
fn floods_end_the_session() {
    for (command, most, text) in [
        ("NOOP\r\n", 101, "421 4.7.0 H too many commands without a message"),
        ("RSET\r\n", 101, "421 4.7.0 H too many commands without a message"),
        ("VRFY x\r\n", 101, "421 4.7.0 H too many commands without a message"),
        ("HELO c\r\n", 101, "421 4.7.0 H too many commands without a message"),
        ("XYZZY\r\n", 20, "421 4.7.0 H too many errors"),
    ] {
        let mut dialogue = Dialogue::opened(settings(|_| {}));
        dialogue.read();
        for _ in 0..most {
            assert!(!dialogue.is_closed, "{command}");
            dialogue.say(command);
        }
        assert!(dialogue.is_closed, "{command}");
        assert_eq!(dialogue.last(), text);
    }
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
fn odd_content_is_content() {
    let many = "A: b\r\n".repeat(100_000) + "\r\nbody\r\n.\r\n";
    run(vec![
        ("empty body", data(".\r\n"), "250 OK ids=", 1, false),
        ("no header", data("just text\r\n.\r\n"), "250 OK ids=", 1, false),
        ("header only", data("Subject: x\r\n.\r\n"), "250 OK ids=", 1, false),
        ("NUL in body", data("\r\na\0b\r\n.\r\n"), "250 OK ids=", 1, false),
        ("10^5 fields", data(&many), "250 OK ids=", 1, false),
        ("99 hops", data(&("Received: x\r\n".repeat(99) + "\r\n.\r\n")), "250 OK ids=", 1, false),
        ("100 hops", data(&("Received: x\r\n".repeat(100) + "\r\n.\r\n")), "554 5.4.6", 0, false),
    ]);
    let mut small = Dialogue::opened(settings(|l| l.max_message_size = 1000));
    small.say(data(&("x\r\n".repeat(1000) + ".\r\n")));
    assert_eq!(small.last(), "552 5.3.4 message too big");
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

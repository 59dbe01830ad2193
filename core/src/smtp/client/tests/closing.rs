//! Timeouts, idleness, `Close` and `Abort` outside a transaction.
use super::*;

#[test]
fn every_wait_has_its_own_limit_from_when_the_command_left() {
    let mut dialogue = Dialogue::connected(|path| {
        path.banner_timeout = Duration::from_secs(10);
        path.ehlo_timeout = Duration::from_secs(20);
    });
    let wake = |d: &Dialogue| d.session.next_wake().unwrap().since(Mono(1_000_000_000)).as_secs();
    assert_eq!(wake(&dialogue), 10);
    dialogue.wait(9);
    // A reply that trickles in buys no time.
    dialogue.hear("22");
    assert_eq!(wake(&dialogue), 10);
    dialogue.flushes = false;
    dialogue.hear("0 x\r\n");
    assert_eq!(wake(&dialogue), 29, "a server that doesn't read is caught as well");
    dialogue.wait(15);
    dialogue.input(Input::Flushed);
    assert_eq!(wake(&dialogue), 44);
    dialogue.wait(19);
    assert_eq!(dialogue.closed, None);
    dialogue.wait(1);
    assert_eq!(
        dialogue.why(),
        "connection lost while waiting for the reply to EHLO: nothing came within 20s"
    );
}

#[test]
fn each_wait_is_as_long_as_its_option_says() {
    const OFFER: &str = "250-mx.test\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n";
    let mut dialogue = Dialogue::connected(|path| {
        path.smtp_auth_plain_username = Some("user".into());
        path.allow_smtp_auth_plain_without_valid_certificate = true;
        for (seconds, timeout) in (11..).zip([
            &mut path.banner_timeout,
            &mut path.ehlo_timeout,
            &mut path.starttls_timeout,
            &mut path.auth_timeout,
            &mut path.idle_timeout,
            &mut path.mail_from_timeout,
            &mut path.rcpt_to_timeout,
            &mut path.data_timeout,
            &mut path.data_dot_timeout,
            &mut path.rset_timeout,
        ]) {
            *timeout = Duration::from_secs(seconds);
        }
    });
    let check = |dialogue: &Dialogue, phase: &str, seconds: u64| {
        let wait = dialogue.session.next_wake().unwrap().since(dialogue.now.mono);
        assert_eq!((dialogue.session.phase(), wait.as_secs()), (phase, seconds));
    };
    check(&dialogue, "waiting for the banner", 11);
    for (heard, phase, seconds) in [
        ("220 mx.test\r\n", "EHLO", 12),
        (OFFER, "STARTTLS", 13),
        ("220 go\r\n", "waiting for the TLS handshake", 13),
    ] {
        dialogue.hear(heard);
        check(&dialogue, phase, seconds);
    }
    dialogue.handshake();
    for (heard, phase, seconds) in [(OFFER, "AUTH", 14), ("235 yes\r\n", "idle", 15)] {
        dialogue.hear(heard);
        check(&dialogue, phase, seconds);
    }
    dialogue.deliver(job(&["a@x.test"]));
    check(&dialogue, "MAIL FROM", 16);
    for (heard, phase, seconds) in [
        ("250 ok\r\n", "RCPT TO", 17),
        ("250 ok\r\n", "DATA", 18),
        ("354 go\r\n", "waiting for the reply to the message", 19),
        ("554 no\r\n", "RSET", 20),
        ("250 ok\r\n", "idle", 15),
    ] {
        dialogue.hear(heard);
        check(&dialogue, phase, seconds);
    }
}

#[test]
fn an_idle_session_says_quit() {
    let mut dialogue = Dialogue::ready(|_| {});
    dialogue.wait(4);
    assert_eq!(dialogue.heard(), "");
    dialogue.wait(1);
    assert_eq!((dialogue.heard().as_str(), dialogue.session.phase()), ("QUIT\r\n", "QUIT"));
    // The engine didn't know yet.
    dialogue.deliver(job(&["a@x.test", "b@x.test"]));
    assert_eq!(dialogue.fates(), ["returned", "returned"]);
    assert!(!dialogue.is_reusable());
    dialogue.hear("221 bye\r\n");
    assert_eq!(dialogue.closed, Some(Closed::Done));
}

#[test]
fn quit_needs_no_answer() {
    type Step = fn(&mut Dialogue);
    let steps: [Step; 5] = [
        |d| d.wait(5),
        |d| d.input(Input::Ended),
        |d| d.input(Input::Abort),
        |d| d.hear("what?\r\n"),
        |d| d.hear("421 x\r\n"),
    ];
    for step in steps {
        let mut dialogue = Dialogue::ready(|_| {});
        dialogue.input(Input::Close);
        assert_eq!(dialogue.heard(), "QUIT\r\n");
        step(&mut dialogue);
        assert_eq!(dialogue.closed, Some(Closed::Done));
    }
}

#[test]
fn a_session_that_is_not_ready_closes_at_once() {
    let states: [fn() -> Dialogue; 4] = [
        || Dialogue::new(settings(|_| {})),
        || Dialogue::connected(|_| {}),
        || Dialogue::greeted(STARTTLS, |_| {}),
        || Dialogue::ready(|_| {}),
    ];
    for state in states {
        let mut dialogue = state();
        dialogue.input(Input::Abort);
        assert_eq!(dialogue.closed, Some(Closed::Done));
        let mut dialogue = state();
        let was_ready = dialogue.ready == 1;
        dialogue.input(Input::Close);
        assert_eq!(dialogue.closed.is_none(), was_ready);
    }
}

#[test]
fn what_an_idle_server_says_is_why_the_session_ends() {
    let mut dialogue = Dialogue::ready(|_| {});
    dialogue.hear("421 4.4.2 idle too long\r\n");
    assert!(
        dialogue.why().ends_with("the server said 421 4.4.2 idle too long without being asked")
    );
    let mut dialogue = Dialogue::ready(|_| {});
    dialogue.input(Input::Ended);
    let why = "connection lost while idle: the server closed the connection".to_owned();
    assert_eq!(dialogue.closed, Some(Closed::Broken { why }));
}

//! From the banner to the first `Ready`: EHLO, STARTTLS, AUTH, and what goes wrong on the way.
use super::*;
use crate::config::Secret;
use crate::port::TlsVerification;
use crate::smtp::base64;

#[test]
fn the_greeting_leads_to_ready() {
    let mut dialogue = Dialogue::connected(|_| {});
    assert_eq!(dialogue.session.phase(), "waiting for the banner");
    dialogue.hear("220-mx.test\r\n220 ESMTP\r\n");
    assert_eq!((dialogue.heard().as_str(), dialogue.session.phase()), ("EHLO us.test\r\n", "EHLO"));
    dialogue.hear(EHLO);
    assert_eq!((dialogue.heard().as_str(), dialogue.ready), ("", 1));
    assert_eq!(dialogue.session.phase(), "idle");
}

#[test]
fn a_server_without_ehlo_gets_helo_once() {
    let mut dialogue = Dialogue::connected(|_| {});
    dialogue.hear("220 old\r\n");
    dialogue.hear("502 what?\r\n");
    assert_eq!(dialogue.heard(), "EHLO us.test\r\nHELO us.test\r\n");
    dialogue.hear("250-hello\r\n250 PIPELINING\r\n");
    assert_eq!(dialogue.ready, 1);
    dialogue.deliver(job(&["a@x.test"]));
    assert_eq!(dialogue.heard(), "MAIL FROM:<me@us.test>\r\n");

    let mut dialogue = Dialogue::connected(|_| {});
    dialogue.hear("220 old\r\n");
    dialogue.hear("502 what?\r\n");
    dialogue.hear("502 what?\r\n");
    assert_eq!(dialogue.why(), "the reply to HELO was 502 what?");
    assert!(dialogue.heard().ends_with("QUIT\r\n") && !dialogue.tls_failed());
}

#[test]
fn a_server_that_refuses_service_is_left() {
    for (banner, ehlo, why) in [
        ("554 no\r\n", "", "the banner was 554 no"),
        ("421 4.3.2 later\r\n", "", "the banner was 421 4.3.2 later"),
        ("354 go\r\n", "", "the banner was 354 go"),
        ("220 x\r\n", "421 busy\r\n", "the reply to EHLO was 421 busy"),
        ("220 x\r\n", "450 busy\r\n", "the reply to EHLO was 450 busy"),
        ("HTTP/1.1 400 Bad Request\r\n", "", "no reply of 2yz to 5yz"),
    ] {
        let mut dialogue = Dialogue::connected(|_| {});
        dialogue.hear(banner);
        dialogue.hear(ehlo);
        assert!(dialogue.why().contains(why), "{}", dialogue.why());
        assert!(matches!(dialogue.closed, Some(Closed::NeverReady { tls_failed: false, .. })));
        assert_eq!(dialogue.ready, 0);
    }
}

#[test]
fn after_starttls_only_what_was_said_encrypted_counts() {
    let mut dialogue = Dialogue::greeted(STARTTLS, |_| {});
    dialogue.hear("220 go\r\n");
    assert_eq!(dialogue.session.phase(), "waiting for the TLS handshake");
    dialogue.handshake();
    assert_eq!(dialogue.heard(), "EHLO us.test\r\n");
    dialogue.hear("250-mx.test\r\n250 SIZE 100\r\n");
    assert_eq!((dialogue.ready, dialogue.handshakes), (1, 1));
    dialogue.deliver(job(&["a@x.test"]));
    assert_eq!(dialogue.heard(), "MAIL FROM:<me@us.test> SIZE=21\r\n");
}

#[test]
fn tls_is_used_as_enable_tls_says() {
    use EnableTls::*;
    for (enable_tls, skip_tls, offered, expected) in [
        (Disabled, false, true, "ready"),
        (Opportunistic, false, true, "starttls"),
        (Opportunistic, true, true, "ready"),
        (OpportunisticInsecure, false, false, "ready"),
        (Required, false, true, "starttls"),
        (Required, false, false, "enable_tls requires TLS, and the server doesn't offer STARTTLS"),
        (
            RequiredInsecure,
            false,
            false,
            "enable_tls requires TLS, and the server doesn't offer STARTTLS",
        ),
        (Required, true, true, "enable_tls requires TLS, but it was found broken at this host"),
    ] {
        let settings = Settings { skip_tls, ..settings(|path| path.enable_tls = enable_tls) };
        let mut dialogue = Dialogue::new(settings);
        dialogue.input(Input::Connected);
        dialogue.hear("220 mx.test\r\n");
        dialogue.hear(if offered { STARTTLS } else { EHLO });
        let outcome = match dialogue.session.phase() {
            "idle" => "ready",
            "STARTTLS" => "starttls",
            _ => dialogue.why(),
        };
        assert_eq!(outcome, expected, "{enable_tls:?}");
    }
}

#[test]
fn certificates_are_validated_unless_the_path_says_insecure() {
    use EnableTls::*;
    for (enable_tls, verification) in [
        (Opportunistic, TlsVerification::Full),
        (Required, TlsVerification::Full),
        (OpportunisticInsecure, TlsVerification::None),
        (RequiredInsecure, TlsVerification::None),
    ] {
        let connect = Session::new(settings(|path| path.enable_tls = enable_tls)).tls_connect();
        assert_eq!((connect.verification, &*connect.server_name), (verification, "mx.test"));
    }
}

#[test]
fn broken_tls_is_told_from_a_broken_connection() {
    let starttls = || Dialogue::greeted(STARTTLS, |_| {});
    let handshaking = || {
        let mut dialogue = starttls();
        dialogue.hear("220 go\r\n");
        dialogue
    };
    let encrypted = || {
        let mut dialogue = handshaking();
        dialogue.handshake();
        dialogue
    };
    type Step = fn(&mut Dialogue);
    let rows: [(Dialogue, Step, bool, &str); 9] = [
        (starttls(), |d| d.hear("454 no\r\n"), true, "the reply to STARTTLS was 454 no"),
        (starttls(), |d| d.input(Input::Ended), true, "waiting for the reply to STARTTLS"),
        (starttls(), |d| d.wait(5), true, "nothing came within 5s"),
        (handshaking(), |d| d.input(Input::TlsDone(Err("bad".into()))), true, "failed: bad"),
        (handshaking(), |d| d.wait(5), true, "waiting for the TLS handshake"),
        (encrypted(), |d| d.hear("550 no\r\n"), true, "the reply to EHLO was 550 no"),
        (encrypted(), |d| d.input(Input::Ended), true, "the server closed the connection"),
        (starttls(), |d| d.hear("220 go\r\n250 OK\r\n"), false, "said 250 OK without being asked"),
        (handshaking(), |d| d.hear("250"), false, "sent something without being asked"),
    ];
    for (mut dialogue, step, tls_failed, why) in rows {
        step(&mut dialogue);
        assert!(dialogue.why().contains(why), "{}", dialogue.why());
        assert_eq!(dialogue.tls_failed(), tls_failed, "{why}");
        assert!(matches!(dialogue.closed, Some(Closed::NeverReady { .. })));
    }
}

#[test]
fn a_handshake_that_is_done_too_late_is_ignored() {
    let mut dialogue = Dialogue::greeted(STARTTLS, |_| {});
    dialogue.hear("220 go\r\n");
    dialogue.input(Input::Abort);
    dialogue.handshake();
    assert_eq!(dialogue.closed, Some(Closed::Done));
}

#[test]
fn credentials_leave_only_where_the_path_allows() {
    let offer = "250-mx.test\r\n250-STARTTLS\r\n250 AUTH LOGIN PLAIN\r\n";
    for (enable_tls, clear_allowed, unvalidated_allowed, sent) in [
        (EnableTls::Disabled, false, true, false),
        (EnableTls::Disabled, true, false, true),
        (EnableTls::OpportunisticInsecure, true, false, false),
        (EnableTls::OpportunisticInsecure, false, true, true),
        (EnableTls::Required, false, false, true),
    ] {
        let mut dialogue = Dialogue::connected(|path| {
            path.enable_tls = enable_tls;
            path.smtp_auth_plain_username = Some("user".into());
            path.smtp_auth_plain_password = Some(Secret::new("secret"));
            path.allow_smtp_auth_plain_without_tls = clear_allowed;
            path.allow_smtp_auth_plain_without_valid_certificate = unvalidated_allowed;
        });
        dialogue.hear("220 mx.test\r\n");
        dialogue.hear(offer);
        if enable_tls != EnableTls::Disabled {
            dialogue.hear("220 go\r\n");
            dialogue.handshake();
            dialogue.hear(offer);
        }
        let command = format!("AUTH PLAIN {}\r\n", base64::encode(b"\0user\0secret"));
        let expected = if sent { command } else { "QUIT\r\n".into() };
        let said = dialogue.heard();
        assert!(said.ends_with(&format!("us.test\r\n{expected}")), "{enable_tls:?}: {said}");
        if sent {
            dialogue.hear("235 2.7.0 yes\r\n");
            assert_eq!(dialogue.ready, 1);
        }
    }
}

#[test]
fn failed_authentication_ends_the_attempt_without_naming_the_password() {
    for (ehlo, reply, why) in [
        (EHLO, "", "AUTH PLAIN is configured, but the server doesn't offer it"),
        (
            "250-x\r\n250 AUTH PLAIN\r\n",
            "535 5.7.8 no\r\n",
            "the reply to AUTH PLAIN was 535 5.7.8 no",
        ),
        ("250-x\r\n250 AUTH PLAIN\r\n", "334 \r\n", "the reply to AUTH PLAIN was 334 "),
    ] {
        let mut dialogue = Dialogue::greeted(ehlo, |path| {
            path.smtp_auth_plain_username = Some("user".into());
            path.allow_smtp_auth_plain_without_tls = true;
        });
        dialogue.hear(reply);
        assert_eq!(dialogue.why(), why);
        assert_eq!(dialogue.ready, 0);
    }
}

#[test]
fn a_name_that_could_smuggle_a_command_is_never_said() {
    for name in ["", "a\r\nMAIL FROM:<x>", "a b", "a\0"] {
        let settings = Settings { ehlo_domain: name.into(), ..settings(|_| {}) };
        let mut dialogue = Dialogue::new(settings);
        dialogue.input(Input::Connected);
        dialogue.hear("220 mx.test\r\n");
        assert_eq!(dialogue.heard(), "QUIT\r\n");
        assert!(dialogue.why().starts_with("ehlo_domain is not a domain"));
    }
}

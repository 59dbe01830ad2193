//! Dialogues with a [`Session`]: what a client says, what policy and spool answer, what the client reads. The helper
//! here also drives the hostile inputs of `hostile`.
use super::data::deframe;
use super::greeting::auth_response;
use super::*;
use crate::commit::{Accountable, Waiver};
use crate::config::listener::{BatchHandling, ReportHandling, TraceHeaders};
use crate::config::{EsmtpListener, ListenerDomain};
use crate::id::SpoolIdGenerator;
use crate::message::Message;
use crate::port::TlsInfo;
use crate::report::tests::report;
use crate::smtp::reply::Reply;
use crate::time::{Duration, Mono, Now, Wall};
use proptest::prelude::*;
use std::sync::Arc;

type Policy = Box<dyn FnMut(&Asked) -> Verdict>;

/// A session with a client, a policy and a spool around it.
pub struct Dialogue {
    pub session: Session,
    pub now: Now,
    pub replies: Vec<u8>,
    pub sends: usize,
    pub submitted: Vec<Message>,
    pub rejected: Vec<Rejection>,
    pub questions: Vec<&'static str>,
    pub is_closed: bool,
    policy: Policy,
    spool: Box<dyn FnMut() -> Submitted>,
}

pub fn settings(change: impl FnOnce(&mut EsmtpListener)) -> Settings {
    let mut listener = EsmtpListener::default();
    change(&mut listener);
    Settings {
        listener: Arc::new(listener),
        hostname: "H".into(),
        peer: "127.0.0.1:4000".parse().unwrap(),
        local: "127.0.0.1:25".parse().unwrap(),
        handled: Handled::default(),
        tls_available: true,
    }
}

pub fn accepted() -> Submitted {
    Submitted::Accepted(Accountable::waived(Waiver::FlushOff))
}

impl Dialogue {
    pub fn new(settings: Settings) -> Dialogue {
        Dialogue {
            session: Session::new(settings, SpoolIdGenerator::new(1)),
            now: Now { mono: Mono(0), wall: Wall(1_795_540_409_000_000_000) },
            replies: Vec::new(),
            sends: 0,
            submitted: Vec::new(),
            rejected: Vec::new(),
            questions: Vec::new(),
            is_closed: false,
            policy: Box::new(|_| Verdict::Proceed),
            spool: Box::new(accepted),
        }
    }

    pub fn with_policy(mut self, policy: impl FnMut(&Asked) -> Verdict + 'static) -> Dialogue {
        self.policy = Box::new(policy);
        self
    }

    pub fn with_spool(mut self, spool: impl FnMut() -> Submitted + 'static) -> Dialogue {
        self.spool = Box::new(spool);
        self
    }

    pub fn opened(settings: Settings) -> Dialogue {
        let mut dialogue = Dialogue::new(settings);
        dialogue.input(Input::Opened { refusal: None });
        dialogue
    }

    /// Feeds one input and answers everything it leads to.
    pub fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input);
        while let Some(output) = self.session.poll() {
            assert!(!self.is_closed, "{output:?} after Close");
            match output {
                Output::Send(octets) => {
                    self.replies.extend_from_slice(&octets);
                    self.sends += 1;
                }
                Output::Ask(question) => {
                    assert!(!self.session.wants_bytes() || is_greeting(&question.what));
                    self.questions.push(name(&question.what));
                    let verdict = (self.policy)(&question.what);
                    let answer = Answer { meta: question.meta, verdict };
                    self.session.handle(self.now, Input::Answer(answer));
                }
                Output::StartTls => {
                    let info = TlsInfo {
                        protocol: "TLSv1_3".into(),
                        cipher: "C".into(),
                        peer_subject: vec![],
                    };
                    self.session.handle(self.now, Input::TlsDone(Some(info)));
                }
                Output::Submit { messages, .. } => {
                    let outcome = (self.spool)();
                    if matches!(outcome, Submitted::Accepted(_)) {
                        self.submitted.extend(messages);
                    }
                    self.session.handle(self.now, Input::Submitted(outcome));
                }
                Output::Rejected(rejection) => self.rejected.push(rejection),
                Output::Close => self.is_closed = true,
            }
        }
    }

    pub fn say(&mut self, octets: impl AsRef<[u8]>) {
        self.input(Input::Bytes(octets.as_ref()));
    }

    pub fn wait(&mut self, duration: Duration) {
        self.now.mono = self.now.mono + duration;
        self.now.wall = self.now.wall + duration;
        self.input(Input::Tick);
    }

    /// The replies since the last call.
    pub fn read(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.replies)).unwrap()
    }

    /// The last reply line.
    pub fn last(&mut self) -> String {
        self.read().lines().last().unwrap_or("").to_owned()
    }
}

fn is_greeting(what: &Asked) -> bool {
    matches!(what, Asked::ConnectionAccepted)
}

fn name(what: &Asked) -> &'static str {
    match what {
        Asked::ConnectionAccepted => "connection_accepted",
        Asked::Ehlo { .. } => "ehlo",
        Asked::AuthPlain { .. } => "auth_plain",
        Asked::MailFrom { .. } => "mail_from",
        Asked::ListenerDomain { .. } => "listener_domain",
        Asked::RcptTo { .. } => "rcpt_to",
        Asked::Data { .. } => "data",
        Asked::MessageReceived { .. } => "message_received",
    }
}

pub const ENVELOPE: &str = "EHLO c.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n";
pub const MESSAGE: &str = "EHLO c.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\nSubject: s\r\n\r\n..hi\r\n.\r\n";

/// Runs a transcript: each `C: ` line is sent with CRLF, and each `S: ` line must begin the next line read.
pub fn check_with(settings: Settings, transcript: &str) {
    let mut dialogue = Dialogue::opened(settings);
    dialogue.read();
    let mut unread = std::collections::VecDeque::new();
    for line in transcript.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        if let Some(said) = line.strip_prefix("C: ") {
            assert!(unread.is_empty(), "before {said:?} there is {unread:?} left to read");
            dialogue.say(format!("{said}\r\n"));
            unread.extend(dialogue.read().lines().map(str::to_owned));
        } else {
            let expected = line.strip_prefix("S: ").expect("C: or S:");
            let found = unread.pop_front().unwrap_or_default();
            assert!(found.starts_with(expected), "expected {expected:?}, found {found:?}");
        }
    }
    assert!(unread.is_empty(), "left to read: {unread:?}");
}

pub fn check(transcript: &str) {
    check_with(settings(|_| {}), transcript);
}

#[test]
fn an_ordinary_dialogue() {
    check(
        "C: EHLO c.test
         S: 250-H hello c.test
         S: 250-PIPELINING
         S: 250-ENHANCEDSTATUSCODES
         S: 250-8BITMIME
         S: 250-SMTPUTF8
         S: 250-SIZE 20971520
         S: 250 STARTTLS
         C: MAIL FROM: <a@x.test> SIZE=10 BODY=8BITMIME
         S: 250 OK <a@x.test>
         C: MAIL FROM:<a@x.test>
         S: 503 5.5.0 MAIL FROM already issued; you must RSET first
         C: DATA
         S: 503 5.5.0 RCPT TO must be issued first
         C: RCPT TO:<b@y.test:25>
         S: 501 5.1.3 Invalid recipient address syntax
         C: RCPT TO:<Postmaster>
         S: 250 OK <Postmaster@h>
         C: DATA
         S: 354 Send body; end with CRLF.CRLF
         C: Subject: hi
         C: .
         S: 250 OK ids=
         C: RCPT TO:<b@y.test>
         S: 503 5.5.0 MAIL FROM must be issued first
         C: RSET
         S: 250
         C: VRFY b
         S: 252
         C: QUIT
         S: 221",
    );
}

#[test]
fn the_banner_names_host_and_product() {
    let mut dialogue = Dialogue::opened(settings(|_| {}));
    assert_eq!(dialogue.read(), "220 H kumod\r\n");
    let mut refused = Dialogue::new(settings(|_| {}));
    let refusal = Reply::new(421, "4.3.2 H load shedding. Try later");
    refused.input(Input::Opened { refusal: Some(refusal) });
    assert_eq!(refused.read(), "421 4.3.2 H load shedding. Try later\r\n");
    assert!(refused.is_closed && refused.rejected.is_empty());
}

#[test]
fn a_message_gets_metadata_and_trace_headers() {
    let mut dialogue = Dialogue::opened(settings(|_| {}));
    dialogue.say(MESSAGE);
    let message = &dialogue.submitted[0];
    let body = String::from_utf8(message.body.to_vec()).unwrap();
    let (reference, rest) = body.split_once("\r\n").unwrap();
    assert!(reference.starts_with("X-KumoRef: eyJfQF8iOiJcXF8vIiwicmVjaXBpZW50"), "{reference}");
    let id = message.id;
    assert_eq!(
        rest,
        format!(
            "Received: from c.test (127.0.0.1)\r\n  by H (kumod 127.0.0.1)\r\n  with ESMTP id {id}\r\n  \
             for <b@y.test>;\r\n  Tue, 24 Nov 2026 17:13:29 +0000\r\nSubject: s\r\n\r\n.hi\r\n"
        )
    );
    assert_eq!(message.meta["ehlo_domain"], "c.test");
    assert_eq!(message.meta["received_from"], "127.0.0.1:4000");
    assert_eq!(message.meta["reception_protocol"], "ESMTP");
    assert!(dialogue.last().starts_with(&format!("250 OK ids={id}")));
}

#[test]
fn banner_and_first_metadata_are_the_listeners() {
    let mut dialogue = Dialogue::opened(settings(|listener| {
        listener.banner = "ready when you are".into();
        listener.meta.insert("zone".into(), "inner".into());
    }));
    assert_eq!(dialogue.read(), "220 H ready when you are\r\n");
    dialogue.say(MESSAGE);
    assert_eq!(dialogue.submitted[0].meta["zone"], "inner");
}

#[test]
fn a_client_has_client_timeout_for_each_command_and_while_it_sends() {
    for said in ["", "EHLO c\r\n", &MESSAGE[..MESSAGE.len() - 5]] {
        let mut dialogue =
            Dialogue::opened(settings(|listener| listener.client_timeout = Duration::from_secs(7)));
        dialogue.say(said);
        dialogue.wait(Duration::from_secs(6));
        assert!(!dialogue.is_closed, "{said}");
        dialogue.wait(Duration::from_secs(1));
        assert_eq!(dialogue.last(), "421 4.3.2 H idle too long", "{said}");
        assert!(dialogue.is_closed);
    }
}

#[test]
fn a_message_may_be_as_big_as_the_listener_says() {
    for (octets, expected) in [(100, "250 OK ids="), (101, "552 5.3.4 message too big")] {
        let mut dialogue = Dialogue::opened(settings(|listener| listener.max_message_size = 100));
        let content = format!("Subject: {}\r\n", "x".repeat(octets - 11));
        dialogue.say(format!("{ENVELOPE}DATA\r\n{content}.\r\n"));
        assert!(dialogue.last().starts_with(expected), "{octets}: {}", dialogue.last());
        assert_eq!(dialogue.submitted.len(), usize::from(octets == 100));
    }
}

#[test]
fn a_line_may_be_as_long_as_the_listener_says() {
    let mut dialogue = Dialogue::opened(settings(|listener| listener.line_length_hard_limit = 40));
    for (length, reply) in [(40, "250 OK"), (41, "500 5.2.3 line too long")] {
        dialogue.say(format!("NOOP {}\r\n", "x".repeat(length - 5)));
        assert_eq!(dialogue.last(), reply);
    }
    for (length, reply) in [(40, "250 OK ids="), (41, "500 5.2.3 line too long")] {
        dialogue.say(format!("{ENVELOPE}DATA\r\n{}\r\n.\r\n", "x".repeat(length)));
        let last = dialogue.last();
        assert!(last.starts_with(reply), "{last}");
    }
}

#[test]
fn trace_fields_are_put_on_as_told() {
    let body = |change: fn(&mut TraceHeaders)| {
        let mut dialogue =
            Dialogue::opened(settings(|listener| change(&mut listener.trace_headers)));
        dialogue.say(MESSAGE);
        String::from_utf8(dialogue.submitted[0].body.to_vec()).unwrap()
    };
    let content = "Subject: s\r\n\r\n.hi\r\n";
    let only_received = body(|headers| headers.supplemental_header = false);
    assert!(only_received.starts_with("Received: from c.test") && only_received.ends_with(content));
    let bare = body(|headers| {
        headers.supplemental_header = false;
        headers.received_header = false;
    });
    assert_eq!(bare, content);
    let reference = body(|headers| {
        headers.received_header = false;
        headers.header_name = "X-Ref".into();
        headers.include_meta_names = vec!["ehlo_domain".into(), "absent".into()];
    });
    let (field, rest) = reference.split_once("\r\nSubject").unwrap();
    assert!(content.ends_with(rest));
    let encoded: String = field.strip_prefix("X-Ref:").unwrap().split_ascii_whitespace().collect();
    let decoded = crate::smtp::base64::decode(encoded.as_bytes()).unwrap();
    let decoded: serde_json::Value = serde_json::from_slice(&decoded).unwrap();
    let expected =
        serde_json::json!({"_@_": "\\_/", "recipient": "b@y.test", "ehlo_domain": "c.test"});
    assert_eq!(decoded, expected);
}

#[test]
fn a_pipelined_batch_is_answered_in_one_send() {
    let mut dialogue = Dialogue::opened(settings(|_| {}));
    dialogue.read();
    dialogue.sends = 0;
    dialogue.say(ENVELOPE);
    assert_eq!(dialogue.sends, 1);
    assert_eq!(dialogue.read().lines().count(), 9);
}

#[test]
fn recipients_are_split_as_told() {
    let commands = "EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<1@y>\r\nRCPT TO:<2@z>\r\nRCPT TO:<3@y>\r\nDATA\r\nhi\r\n.\r\n";
    for (handling, expected) in [
        (BatchHandling::BifurcateAlways, vec![1, 1, 1]),
        (BatchHandling::BatchByDomain, vec![2, 1]),
    ] {
        let mut dialogue =
            Dialogue::opened(settings(|listener| listener.batch_handling = handling));
        dialogue.say(commands);
        let sizes: Vec<usize> =
            dialogue.submitted.iter().map(|m| m.envelope.recipients.len()).collect();
        assert_eq!(sizes, expected);
        let mut ids: Vec<_> = dialogue.submitted.iter().map(|m| m.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), expected.len());
    }
}

#[test]
fn a_refused_submission_is_answered_and_recorded() {
    let refusal = || Submitted::Refused(Reply::new(451, "4.4.5 spool write timed out"));
    let mut dialogue = Dialogue::opened(settings(|_| {})).with_spool(refusal);
    dialogue.say(MESSAGE);
    assert_eq!(dialogue.last(), "451 4.4.5 spool write timed out");
    let rejection = &dialogue.rejected[0];
    assert_eq!(rejection.recipients[0].as_str(), "b@y.test");
    assert!(dialogue.submitted.is_empty());
}

/// Found by the simulator: the stop that made the spool refuse also told the session, which said 421 once more.
#[test]
fn a_submission_refused_with_421_is_the_end_with_one_reply() {
    let refusal = || Submitted::Refused(Reply::new(421, "4.3.2 mx.test shutting down"));
    let mut dialogue = Dialogue::opened(settings(|_| {})).with_spool(refusal);
    dialogue.say(MESSAGE);
    assert_eq!(dialogue.last(), "421 4.3.2 mx.test shutting down");
    dialogue.replies.clear();
    dialogue.input(Input::Stop);
    assert!(dialogue.replies.is_empty());
    assert!(dialogue.is_closed);
}

fn all_handled() -> Handled {
    Handled {
        connection_accepted: true,
        ehlo: true,
        auth_plain: true,
        mail_from: true,
        rcpt_to: true,
        listener_domain: true,
        data: true,
        message_received: true,
    }
}

fn asking(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings(|_| {});
    settings.handled = all_handled();
    change(&mut settings);
    settings
}

#[test]
fn events_come_in_order_and_only_where_handled() {
    let mut dialogue = Dialogue::new(asking(|s| s.peer = "192.0.2.1:9".parse().unwrap()))
        .with_policy(|asked| match asked {
            Asked::ListenerDomain { domain, .. } => Verdict::ListenerDomain(Some(ListenerDomain {
                relay_to: domain == "y.test",
                ..ListenerDomain::default()
            })),
            Asked::Data { message } => {
                assert!(message.body.starts_with(b"Subject"), "before trace headers");
                Verdict::Message(message.clone())
            }
            Asked::MessageReceived { message } => {
                assert!(message.body.starts_with(b"Received"));
                Verdict::Message(message.clone())
            }
            _ => Verdict::Proceed,
        });
    dialogue.input(Input::Opened { refusal: None });
    dialogue.say(MESSAGE);
    assert_eq!(
        dialogue.questions,
        [
            "connection_accepted",
            "ehlo",
            "mail_from",
            "listener_domain",
            "listener_domain",
            "rcpt_to",
            "data",
            "message_received"
        ]
    );
    assert_eq!(dialogue.submitted.len(), 1);
}

#[test]
fn relaying_needs_a_reason() {
    let stranger = |change: fn(&mut Settings)| {
        let mut settings = settings(|_| {});
        settings.peer = "192.0.2.1:9".parse().unwrap();
        change(&mut settings);
        let mut dialogue = Dialogue::opened(settings).with_policy(|asked| match asked {
            Asked::ListenerDomain { domain, .. } if domain == "x.test" => {
                let block = crate::config::egress::Cidr {
                    address: "192.0.2.0".parse().unwrap(),
                    prefix: 24,
                };
                let relay_from = vec![block];
                Verdict::ListenerDomain(Some(ListenerDomain { relay_from, ..Default::default() }))
            }
            _ => Verdict::ListenerDomain(None),
        });
        dialogue.say(ENVELOPE);
        dialogue.last()
    };
    assert_eq!(stranger(|_| {}), "550 5.7.1 relaying not permitted for 192.0.2.1");
    assert_eq!(stranger(|s| s.handled.listener_domain = true), "250 OK <b@y.test>");
    let neighbour = stranger(|s| {
        Arc::make_mut(&mut s.listener).relay_hosts = vec!["192.0.2.0/24".parse().unwrap()];
    });
    assert_eq!(neighbour, "250 OK <b@y.test>");
}

/// A stranger's mail to domains that take reports only (core.md 2.1): the last reply, and to whom what was accepted,
/// with the queue if one was set.
fn report_to(recipients: &[&str], content: &str) -> (String, Vec<String>) {
    let mut settings = settings(|_| {});
    settings.peer = "192.0.2.1:9".parse().unwrap();
    settings.handled.listener_domain = true;
    let mut dialogue = Dialogue::opened(settings).with_policy(|asked| {
        let Asked::ListenerDomain { domain, .. } = asked else { return Verdict::Proceed };
        let mut rules = ListenerDomain::default();
        match &**domain {
            "oob.test" => rules.log_oob = ReportHandling::LogThenRelay,
            "drop.test" => rules.log_oob = ReportHandling::LogThenDrop,
            "arf.test" => rules.log_arf = ReportHandling::LogThenRelay,
            "relay.test" => rules.relay_to = true,
            "both.test" => {
                rules = ListenerDomain { relay_to: true, ..rules };
                rules.log_oob = ReportHandling::LogThenDrop;
            }
            _ => return Verdict::ListenerDomain(None),
        }
        Verdict::ListenerDomain(Some(rules))
    });
    dialogue.say("EHLO c\r\nMAIL FROM:<>\r\n");
    for recipient in recipients {
        dialogue.say(format!("RCPT TO:<{recipient}>\r\n"));
    }
    dialogue.say(format!("DATA\r\n{content}.\r\n"));
    let kept = dialogue.submitted.iter().map(|message| {
        let queue = message.meta.get("queue").and_then(|queue| queue.as_str()).unwrap_or("");
        format!("{} {queue}", message.envelope.recipients[0]).trim_end().to_owned()
    });
    let kept = kept.collect();
    (dialogue.last(), kept)
}

#[test]
fn without_relaying_nothing_but_the_reports_asked_for_gets_in() {
    let bounce = report("delivery-status", "message/delivery-status");
    let complaint = report("feedback-report", "message/feedback-report");
    let refused = "550 5.7.1 relaying not permitted";
    for (to, content, expected, kept) in [
        ("a@oob.test", &*bounce, "250 OK ids=", "a@oob.test"),
        ("a@oob.test", &complaint, refused, ""),
        ("a@oob.test", "Subject: hi\r\n", refused, ""),
        ("a@arf.test", &complaint, "250 OK ids=", "a@arf.test"),
        ("a@arf.test", &bounce, refused, ""),
        ("a@drop.test", &bounce, "250 OK ids=", "a@drop.test null"),
        ("a@drop.test", &complaint, refused, ""),
        ("a@relay.test", &bounce, "250 OK ids=", "a@relay.test"),
        ("a@both.test", &bounce, "250 OK ids=", "a@both.test null"),
        ("a@both.test", &complaint, "250 OK ids=", "a@both.test"),
        // Refused at RCPT, so that the content is no content.
        ("a@none.test", "x\r\n", "502", ""),
    ] {
        let (reply, found) = report_to(&[to], content);
        assert!(reply.starts_with(expected), "{to}: {reply}");
        assert_eq!(found.concat(), kept);
    }
}

/// One reply speaks for all of them, so whoever it wouldn't be true of has to come separately (I6).
#[test]
fn recipients_of_one_transaction_take_the_same_kinds_of_content() {
    let bounce = report("delivery-status", "message/delivery-status");
    for (recipients, kept) in [
        (["a@relay.test", "b@oob.test", "c@relay.test"], "a@relay.test, c@relay.test"),
        (["a@oob.test", "b@relay.test", "c@arf.test"], "a@oob.test"),
        (["a@oob.test", "b@drop.test", "c@oob.test"], "a@oob.test, b@drop.test null, c@oob.test"),
        (["a@relay.test", "b@both.test", "c@none.test"], "a@relay.test, b@both.test null"),
    ] {
        assert_eq!(report_to(&recipients, &bounce).1.join(", "), kept);
    }
}

#[test]
fn a_relay_hosts_reports_are_dropped_where_the_domain_says_so() {
    let mut settings = settings(|_| {});
    settings.handled.listener_domain = true;
    let mut dialogue = Dialogue::opened(settings).with_policy(|asked| match asked {
        Asked::ListenerDomain { domain, .. } if domain == "y.test" => {
            let log_oob = ReportHandling::LogThenDrop;
            Verdict::ListenerDomain(Some(ListenerDomain { log_oob, ..Default::default() }))
        }
        _ => Verdict::ListenerDomain(None),
    });
    let bounce = report("delivery-status", "message/delivery-status");
    dialogue.say(format!("{ENVELOPE}DATA\r\n{bounce}.\r\n{}", &MESSAGE[13..]));
    let queues: Vec<_> = dialogue.submitted.iter().map(|m| m.meta.get("queue").cloned()).collect();
    assert_eq!(queues, [Some("null".into()), None]);
}

#[test]
fn policy_refuses_each_step_and_never_with_a_positive_code() {
    for (event, reply) in [
        ("ehlo", "550 5.7.1 no"),
        ("mail_from", "451 4.7.1 later"),
        ("rcpt_to", "550 5.1.1 unknown"),
        ("data", "552 5.2.2 full"),
        ("message_received", "550 5.7.1 no"),
        ("mail_from", "250 2.0.0 fine"),
        ("data", "250 2.0.0 fine"),
    ] {
        let mut dialogue = Dialogue::new(asking(|_| {})).with_policy(move |asked| {
            if name(asked) == event {
                let (code, text) = reply.split_once(' ').unwrap();
                return Verdict::Reject(Reply::new(code.parse().unwrap(), text));
            }
            Verdict::Proceed
        });
        dialogue.input(Input::Opened { refusal: None });
        dialogue.say(MESSAGE);
        let positive = reply.starts_with('2');
        let expected = if positive { "421 4.3.0 H technical difficulties" } else { reply };
        assert!(dialogue.read().contains(expected), "{event}: {expected}");
        assert_eq!(dialogue.is_closed, positive);
        assert!(dialogue.submitted.is_empty() && !dialogue.rejected.is_empty());
    }
}

#[test]
fn disconnects_close_as_told() {
    for (how, expected, closes) in [
        (Disconnect::If421, "550 no\r\n", false),
        (Disconnect::ForceDisconnect, "550 no\r\n", true),
        (Disconnect::FollowWith421, "550 no\r\n421 4.3.0 H closing the connection\r\n", true),
    ] {
        let mut settings = settings(|_| {});
        settings.handled.mail_from = true;
        let mut dialogue = Dialogue::opened(settings)
            .with_policy(move |_| Verdict::Disconnect { reply: Reply::new(550, "no"), how });
        dialogue.say("HELO c\r\n");
        dialogue.read();
        dialogue.say("MAIL FROM:<>\r\n");
        assert_eq!((dialogue.read().as_str(), dialogue.is_closed), (expected, closes));
    }
}

#[test]
fn authentication_over_tls_leaves_its_mark() {
    let mut settings = settings(|_| {});
    settings.handled.auth_plain = true;
    let mut dialogue = Dialogue::opened(settings).with_policy(|asked| match asked {
        Asked::AuthPlain { authz, authc, password } => {
            Verdict::Authenticated((&**authz, &**authc, &**password) == ("u", "u", "p"))
        }
        _ => Verdict::Proceed,
    });
    dialogue.say("EHLO c\r\nSTARTTLS\r\n");
    dialogue.say("EHLO c\r\nAUTH PLAIN\r\n");
    assert!(dialogue.read().ends_with("250 AUTH PLAIN\r\n334  \r\n"));
    dialogue.say(format!("{}\r\n", auth_response("", "u", "wrong")));
    assert_eq!(dialogue.last(), "535 5.7.8 AUTH invalid");
    dialogue.say(format!("AUTH PLAIN {}\r\n", auth_response("", "u", "p")));
    assert_eq!(dialogue.last(), "235 2.7.0 AUTH OK!");
    dialogue.say(MESSAGE);
    let message = &dialogue.submitted[0];
    assert_eq!(message.meta["authn_id"], "u");
    let body = String::from_utf8_lossy(&message.body).into_owned();
    assert!(body.contains("with ESMTPSA (TLSv1_3:C) id "), "{body}");
}

#[test]
fn a_stop_ends_sessions_before_the_final_dot_and_waits_after_it() {
    for said in ["", "EHLO c\r\n", ENVELOPE, &MESSAGE[..MESSAGE.len() - 5]] {
        let mut dialogue = Dialogue::opened(settings(|_| {}));
        dialogue.say(said);
        dialogue.input(Input::Stop);
        assert_eq!(dialogue.last(), "421 4.3.2 H shutting down");
        assert!(dialogue.is_closed && dialogue.rejected.is_empty());
    }
    let now = Now::default();
    let mut session = Session::new(settings(|_| {}), SpoolIdGenerator::new(1));
    session.handle(now, Input::Opened { refusal: None });
    session.handle(now, Input::Bytes(MESSAGE.as_bytes()));
    while session.poll().is_some() {}
    session.handle(now, Input::Stop);
    assert!(session.poll().is_none(), "the answer comes first");
    session.handle(now, Input::Submitted(accepted()));
    let Some(Output::Send(sent)) = session.poll() else { panic!("no reply") };
    let sent = String::from_utf8(sent.to_vec()).unwrap();
    assert!(sent.starts_with("250 OK ids=") && sent.ends_with("421 4.3.2 H shutting down\r\n"));
    assert!(matches!(session.poll(), Some(Output::Close)));
}

#[test]
fn policy_that_takes_too_long_gets_451_and_its_late_answer_is_ignored() {
    let patience = Duration::from_secs(7);
    let mut settings = settings(|listener| listener.data_processing_timeout = patience);
    settings.handled.data = true;
    let mut session = Session::new(settings, SpoolIdGenerator::new(1));
    session.handle(Now::default(), Input::Opened { refusal: None });
    session.handle(Now::default(), Input::Bytes(MESSAGE.as_bytes()));
    let mut question = None;
    while let Some(output) = session.poll() {
        if let Output::Ask(asked) = output {
            question = Some(asked);
        }
    }
    let (when, why) = session.next_wake().unwrap();
    assert_eq!((when, why), (Mono(0) + patience, WakeReason::Processing));
    session.handle(Now { mono: when, wall: Wall(0) }, Input::Tick);
    let text = format!("{:?}", std::iter::from_fn(|| session.poll()).collect::<Vec<_>>());
    assert!(text.contains("451 4.4.5 data_processing_timeout exceeded (rx)"), "{text}");
    assert!(!session.wants_bytes());
    let answer = Answer { meta: question.unwrap().meta, verdict: Verdict::Proceed };
    session.handle(Now { mono: when, wall: Wall(0) }, Input::Answer(answer));
    assert!(session.poll().is_none() && session.wants_bytes(), "nothing was submitted");
}

proptest! {
    #[test]
    fn no_input_panics_and_nothing_is_submitted_without_the_end_of_data(
        parts in proptest::collection::vec(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::sample::select(vec![
                "EHLO c\r\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<c@d>\r\n", "DATA\r\n", "x\r\n", ".", "\r", "\n",
                "RSET\r\n", "STARTTLS\r\n", "AUTH PLAIN\r\n", "BDAT 3 LAST\r\n", "QUIT\r\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
        ], 0..24),
    ) {
        let mut dialogue = Dialogue::opened(settings(|_| {}));
        for part in &parts {
            if !dialogue.is_closed {
                dialogue.say(part);
            }
        }
        let whole = parts.concat();
        let ends = memchr::memmem::find(&whole, b"\r\n.\r\n").is_some();
        prop_assert!(ends || dialogue.submitted.is_empty());
        let _ = deframe(
            super::data::DataLimits {
                octets: 10,
                line_octets: 5,
                line_endings: crate::config::listener::LineEndings::Fix,
            },
            &[&whole],
        );
    }
}

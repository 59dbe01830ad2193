//! Dialogues with a [`Session`]: what the server says, what we say, what is reported. The helper here checks
//! at every step that outputs keep what `io` promises.
use super::*;
use crate::address::{Mailbox, ReversePath};
use crate::config::EgressPath;
use crate::config::egress::EnableTls;
use crate::port::TlsInfo;
use crate::time::{Duration, Mono, Now};
use bytes::Bytes;
use std::sync::Arc;

mod closing;
mod greeting;
mod hostile;
mod transaction;

pub const EHLO: &str = "250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n";
pub const STARTTLS: &str = "250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n";
pub const BODY: &str = "Subject: s\r\n\r\nhello\r\n";

/// A session with a server and an engine around it.
pub struct Dialogue {
    pub session: Session,
    pub now: Now,
    /// Whether what is sent leaves at once.
    pub flushes: bool,
    pub reports: Vec<Report>,
    pub ready: usize,
    pub closed: Option<Closed>,
    pub handshakes: usize,
    said: Vec<u8>,
    delivers: usize,
}

pub fn settings(change: impl FnOnce(&mut EgressPath)) -> Settings {
    let mut path =
        EgressPath { enable_tls: EnableTls::OpportunisticInsecure, ..EgressPath::default() };
    change(&mut path);
    Settings {
        path: Arc::new(path),
        ehlo_domain: "us.test".into(),
        host: "mx.test".into(),
        skip_tls: false,
    }
}

pub fn job(recipients: &[&str]) -> Job {
    let mailbox = |text: &str| Mailbox::parse(text).unwrap();
    // Indexes of the engine's, with gaps.
    let indexed = recipients.iter().enumerate().map(|(at, to)| (10 * at as u32, mailbox(to)));
    Job {
        sender: ReversePath::parse("me@us.test").unwrap(),
        recipients: indexed.collect(),
        body: Bytes::from_static(BODY.as_bytes()),
    }
}

/// A fate in short: `delivered 250`, `returned` …
pub fn brief(fate: &Fate) -> String {
    match fate {
        Fate::Delivered(reply) => format!("delivered {}", reply.code),
        Fate::Deferred(reply) => format!("deferred {}", reply.code),
        Fate::Refused(reply) => format!("refused {}", reply.code),
        Fate::Unknown => "unknown".into(),
        Fate::Returned => "returned".into(),
    }
}

impl Dialogue {
    pub fn new(settings: Settings) -> Dialogue {
        Dialogue {
            session: Session::new(settings),
            now: Now { mono: Mono(1_000_000_000), ..Now::default() },
            flushes: true,
            reports: Vec::new(),
            ready: 0,
            closed: None,
            handshakes: 0,
            said: Vec::new(),
            delivers: 0,
        }
    }

    pub fn connected(change: impl FnOnce(&mut EgressPath)) -> Dialogue {
        let mut dialogue = Dialogue::new(settings(change));
        dialogue.input(Input::Connected);
        dialogue
    }

    /// Greeted by a server with `ehlo` for a reply.
    pub fn greeted(ehlo: &str, change: impl FnOnce(&mut EgressPath)) -> Dialogue {
        let mut dialogue = Dialogue::connected(change);
        dialogue.hear("220 mx.test\r\n");
        dialogue.hear(ehlo);
        dialogue.heard();
        dialogue
    }

    pub fn ready(change: impl FnOnce(&mut EgressPath)) -> Dialogue {
        let dialogue = Dialogue::greeted(EHLO, change);
        assert_eq!(dialogue.ready, 1);
        dialogue
    }

    /// In a transaction with `recipients`.
    pub fn delivering(recipients: &[&str], change: impl FnOnce(&mut EgressPath)) -> Dialogue {
        let mut dialogue = Dialogue::ready(change);
        dialogue.deliver(job(recipients));
        dialogue
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.session.handle(self.now, input);
        while self.drain() && self.flushes {
            self.session.handle(self.now, Input::Flushed);
        }
        let waits = self.session.next_wake().is_some();
        let idle = self.session.phase() == "connecting" || self.closed.is_some();
        assert!(waits != idle, "{} without a deadline", self.session.phase());
    }

    /// Whether anything was sent.
    fn drain(&mut self) -> bool {
        let mut has_sent = false;
        while let Some(output) = self.session.poll() {
            assert!(self.closed.is_none(), "{output:?} after Closed");
            match output {
                Output::Send(octets) => {
                    self.said.extend_from_slice(&octets);
                    has_sent = true;
                }
                Output::StartTls => self.handshakes += 1,
                Output::Ready => {
                    self.ready += 1;
                    assert_eq!(self.reports.len(), self.delivers, "ready before the report");
                }
                Output::Report(report) => {
                    self.reports.push(report);
                    assert!(self.reports.len() <= self.delivers, "a report too many");
                }
                Output::Closed(closed) => {
                    assert_eq!(self.reports.len(), self.delivers, "closed without a report");
                    self.closed = Some(closed);
                }
            }
        }
        has_sent
    }

    pub fn hear(&mut self, octets: impl AsRef<[u8]>) {
        self.input(Input::Bytes(octets.as_ref()));
    }

    pub fn deliver(&mut self, job: Job) {
        self.delivers += 1;
        self.input(Input::Deliver(job));
    }

    pub fn wait(&mut self, seconds: u64) {
        self.now.mono = self.now.mono + Duration::from_secs(seconds);
        self.input(Input::Tick);
    }

    /// What the server heard since this was last asked.
    pub fn heard(&mut self) -> String {
        String::from_utf8(core::mem::take(&mut self.said)).unwrap()
    }

    /// The last report, in short.
    pub fn fates(&self) -> Vec<String> {
        let report = self.reports.last().expect("a report");
        let indexes = report.fates.iter().map(|(index, _)| *index / 10);
        assert!(indexes.eq(0..report.fates.len() as u32), "{report:?}");
        report.fates.iter().map(|(_, fate)| brief(fate)).collect()
    }

    pub fn reply(&self, position: usize) -> String {
        match &self.reports.last().expect("a report").fates[position].1 {
            Fate::Delivered(reply) | Fate::Deferred(reply) | Fate::Refused(reply) => {
                format!("{reply}")
            }
            other => panic!("{other:?} has no reply"),
        }
    }

    pub fn is_reusable(&self) -> bool {
        self.reports.last().expect("a report").reusable
    }

    pub fn why(&self) -> &str {
        match self.closed.as_ref().expect("closed") {
            Closed::Done => "done",
            Closed::NeverReady { why, .. } | Closed::Broken { why } => why,
        }
    }

    pub fn tls_failed(&self) -> bool {
        matches!(self.closed, Some(Closed::NeverReady { tls_failed: true, .. }))
    }

    pub fn handshake(&mut self) {
        assert_eq!(self.handshakes, 1);
        let info = TlsInfo { protocol: "p".into(), cipher: "c".into(), peer_subject: vec![] };
        self.input(Input::TlsDone(Ok(info)));
    }
}

//! One connection of a scripted server. Invariants: replies leave in the order of the commands, together where commands came together;
//! a transaction ends with its dot, RSET or EHLO, whatever went wrong. How replies can go wrong stands beside this file.
use super::Server;
use super::forward::{Onward, forward};
use super::trouble::{Phase, TRICKLE, Trouble, code_of, garbage, no_verdict};
use crate::fault::FaultKind;
use crate::ledger::{Event, Submission};
use crate::lines::{Arriving, Filled, Wire, has_whole_header, header_field, shown, unstuffed};
use crate::net::SimStream;
use kumo_core::port::Stream;
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::{sleep, timeout};

/// How long a client may be silent, or a write may take.
const IDLE: Duration = Duration::from_secs(300);
/// Longer than any client waits for a reply.
const GIVEN_UP: Duration = Duration::from_secs(1200);
const HANDSHAKE: Duration = Duration::from_secs(300);
/// RFC 5321 4.5.3.1.4, with what SIZE and BODY add.
const COMMAND_OCTETS: usize = 512 + 26 + 17;
const BUSY: &[u8] = b"421 4.7.0 too many connections\r\n";

/// Whether the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
enum Flow {
    On,
    Over,
}

/// What the client was told at a phase.
enum Went {
    /// What it should be told, perhaps in a way that it can't make out.
    Properly,
    /// By 4yz or 5yz.
    Refused(u16),
    /// Nothing, and nothing more will be said.
    Over,
}

#[derive(Default)]
struct Transaction {
    sender: String,
    recipients: Vec<String>,
    /// RCPT commands that were refused.
    refused: u32,
}

pub struct Session {
    server: Arc<Server>,
    client: IpAddr,
    wire: Wire<SimStream>,
    random: Random,
    greeted: bool,
    /// By EHLO rather than HELO.
    extended: bool,
    secured: bool,
    /// It has said something that is no reply: the client can't know what it was told.
    muddled: bool,
    transaction: Option<Transaction>,
    /// How the last MAIL was refused, so that what was pipelined behind it is no mistake.
    mail_refused: Option<u16>,
}

impl Session {
    pub fn new(server: Arc<Server>, stream: SimStream, random: Random) -> Session {
        Session {
            server,
            client: stream.peer_address().ip(),
            wire: Wire::new(stream),
            random,
            greeted: false,
            extended: false,
            secured: false,
            muddled: false,
            transaction: None,
            mail_refused: None,
        }
    }

    /// For one connection too many.
    pub async fn turn_away(mut self) {
        self.wire.say(BUSY, IDLE).await;
        self.wire.shutdown(IDLE).await;
    }

    pub async fn run(mut self) {
        let banner = format!("220 {} ESMTP\r\n", self.server.settings.name);
        let went = self.answer(Phase::Greet, &banner).await;
        if matches!(went, Went::Properly) {
            while self.step().await == Flow::On {}
        }
        let _ = self.wire.flush(IDLE).await;
        self.wire.shutdown(IDLE).await;
    }

    /// One command, or a read.
    async fn step(&mut self) -> Flow {
        if let Some(line) = self.wire.take_line() {
            return self.on_line(&line).await;
        }
        if self.wire.input.len() > COMMAND_OCTETS {
            self.violation("a command line without end");
            return Flow::Over;
        }
        self.read().await
    }

    /// Says what there is to say and waits for more.
    async fn read(&mut self) -> Flow {
        if !self.wire.flush(IDLE).await {
            return Flow::Over;
        }
        match self.wire.fill(IDLE).await {
            Filled::Some => Flow::On,
            Filled::Ended => Flow::Over,
            Filled::Silence => {
                self.wire.queue(b"421 4.4.2 idle too long\r\n");
                Flow::Over
            }
        }
    }

    fn violation(&self, what: &str) {
        self.server.violation("I16", what);
    }

    async fn on_line(&mut self, line: &[u8]) -> Flow {
        if line.len() > COMMAND_OCTETS {
            self.violation(&format!("a command of {} octets", line.len()));
        }
        let Some(text) = line.strip_suffix(b"\r\n") else {
            self.violation(&format!("a command that doesn't end with CRLF: {}", shown(line)));
            return self.say(b"500 5.5.2 CRLF, please\r\n").await;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
        let verb = verb.to_ascii_uppercase();
        self.check_group(&verb);
        match verb.as_str() {
            "EHLO" | "HELO" => self.on_hello(verb == "EHLO").await,
            "STARTTLS" => self.on_starttls().await,
            "MAIL" => self.on_mail(argument).await,
            "RCPT" => self.on_rcpt(argument).await,
            "DATA" => self.on_data().await,
            "RSET" => self.on_rset().await,
            "NOOP" => self.say(b"250 2.0.0 OK\r\n").await,
            "QUIT" => self.on_quit().await,
            _ => {
                self.violation(&format!("an unknown command: {}", shown(line)));
                self.say(b"500 5.5.1 what?\r\n").await
            }
        }
    }

    /// RFC 2920 3.1: what may come together with what follows it.
    fn check_group(&self, verb: &str) {
        if self.wire.input.is_empty() || self.muddled {
            return;
        }
        let is_offered = self.server.settings.pipelining && self.extended;
        match verb {
            "QUIT" => self.violation("something after QUIT"),
            "STARTTLS" => self.violation("something in plain after STARTTLS"),
            "EHLO" | "HELO" | "DATA" | "NOOP" => {
                self.violation(&format!("something right after {verb}"));
            }
            _ if !is_offered => self.violation(&format!("pipelining after {verb}, not offered")),
            _ => {}
        }
    }

    async fn say(&mut self, reply: &[u8]) -> Flow {
        if !self.server.settings.latency.is_zero() {
            sleep(self.server.settings.latency).await;
        }
        self.wire.queue(reply);
        Flow::On
    }

    /// The reply of a phase, or what becomes of it.
    async fn answer(&mut self, phase: Phase, proper: &str) -> Went {
        let trouble = self.server.trouble(phase, &mut self.random);
        self.carry_out(trouble, phase, proper).await
    }

    async fn carry_out(&mut self, trouble: Trouble, phase: Phase, proper: &str) -> Went {
        match trouble {
            Trouble::None => {
                let _ = self.say(proper.as_bytes()).await;
                Went::Properly
            }
            Trouble::Hang => {
                self.hang(FaultKind::PeerHang, phase).await;
                Went::Over
            }
            Trouble::LostReply { silently: true } => {
                self.hang(FaultKind::PeerLostReply, phase).await;
                Went::Over
            }
            Trouble::Drop | Trouble::LostReply { silently: false } => Went::Over,
            Trouble::Reply(reply) => {
                let _ = self.say(reply.as_bytes()).await;
                Went::Refused(code_of(reply))
            }
            Trouble::Garbage => {
                let octets = garbage(proper, &mut self.random);
                self.muddled = true;
                let _ = self.say(&octets).await;
                Went::Properly
            }
            Trouble::Slow(amount) => self.say_slowly(amount, proper.as_bytes()).await,
        }
    }

    async fn say_slowly(&mut self, amount: Option<Duration>, reply: &[u8]) -> Went {
        let mut goes_on = self.wire.flush(IDLE).await;
        if let Some(amount) = amount {
            sleep(amount).await;
            goes_on &= self.wire.say(reply, IDLE).await;
        } else {
            for octet in reply.chunks(1) {
                sleep(TRICKLE).await;
                goes_on = goes_on && self.wire.say(octet, IDLE).await;
            }
        }
        if goes_on { Went::Properly } else { Went::Over }
    }

    /// Says nothing more and reads nothing, until the fault is over or the client has surely given up.
    async fn hang(&mut self, kind: FaultKind, phase: Phase) {
        let _ = self.wire.flush(IDLE).await;
        let server = self.server.clone();
        let wire = &mut self.wire;
        let given_up = async {
            sleep(GIVEN_UP).await;
            while wire.fill(IDLE).await != Filled::Ended {
                wire.input.clear();
            }
        };
        tokio::select! {
            biased;
            () = server.over(kind, phase) => {}
            () = given_up => {}
        }
    }

    /// Whether the connection goes on after a reply of that code.
    fn after(went: &Went) -> Flow {
        match went {
            Went::Properly => Flow::On,
            Went::Refused(421) | Went::Over => Flow::Over,
            Went::Refused(_) => Flow::On,
        }
    }

    async fn on_hello(&mut self, extended: bool) -> Flow {
        self.transaction = None;
        self.mail_refused = None;
        let settings = &self.server.settings;
        let mut lines = vec![format!("{} greets you", settings.name)];
        let may_secure = settings.starttls && !self.secured;
        for (name, is_offered) in [
            ("PIPELINING", settings.pipelining),
            ("8BITMIME", settings.eight_bit_mime),
            ("SIZE 0", settings.size),
            ("STARTTLS", may_secure),
        ] {
            if extended && is_offered {
                lines.push(name.into());
            }
        }
        let last = lines.len() - 1;
        let line = |(at, line): (usize, &String)| {
            format!("250{}{line}\r\n", if at == last { ' ' } else { '-' })
        };
        let proper: String = lines.iter().enumerate().map(line).collect();
        let went = self.answer(Phase::Ehlo, &proper).await;
        self.greeted |= matches!(went, Went::Properly);
        self.extended = extended;
        Self::after(&went)
    }

    async fn on_starttls(&mut self) -> Flow {
        if !self.server.settings.starttls || self.secured || self.transaction.is_some() {
            self.violation("STARTTLS where it isn't offered");
            return self.say(b"503 5.5.1 not now\r\n").await;
        }
        let went = self.answer(Phase::StartTls, "220 2.0.0 go ahead\r\n").await;
        if !matches!(went, Went::Properly) || !self.wire.flush(IDLE).await {
            return Self::after(&went);
        }
        if !self.wire.input.is_empty() {
            return Flow::Over;
        }
        let Some(stream) = self.wire.take_stream() else { return Flow::Over };
        let upgrade = stream.upgrade_server(self.server.tls.clone());
        let Ok(Ok((stream, _))) = timeout(HANDSHAKE, upgrade).await else { return Flow::Over };
        self.wire.put_back(stream);
        self.secured = true;
        self.greeted = false;
        self.extended = false;
        Flow::On
    }

    async fn on_mail(&mut self, argument: &str) -> Flow {
        self.mail_refused = None;
        let Some((sender, parameters)) = path(argument, "FROM:") else {
            self.violation(&format!("MAIL without a path: {argument}"));
            return self.say(b"501 5.5.4 a path, please\r\n").await;
        };
        if !self.greeted {
            self.violation("MAIL before EHLO");
            return self.say(b"503 5.5.1 EHLO first\r\n").await;
        }
        if self.transaction.is_some() {
            self.violation("MAIL inside a transaction");
            return self.say(b"503 5.5.1 one at a time\r\n").await;
        }
        self.check_parameters(parameters);
        let went = self.answer(Phase::Mail, "250 2.1.0 OK\r\n").await;
        match went {
            Went::Properly => {
                self.transaction = Some(Transaction { sender, ..Transaction::default() });
            }
            Went::Refused(code) => {
                self.mail_refused = Some(code);
                self.refuse(code, None, Vec::new());
            }
            Went::Over => {}
        }
        Self::after(&went)
    }

    fn check_parameters(&self, parameters: &str) {
        let settings = &self.server.settings;
        for parameter in parameters.split(' ').filter(|parameter| !parameter.is_empty()) {
            let name = parameter.split('=').next().unwrap_or(parameter);
            let is_offered = self.extended
                && match name.to_ascii_uppercase().as_str() {
                    "SIZE" => settings.size,
                    "BODY" => settings.eight_bit_mime,
                    _ => false,
                };
            if !is_offered {
                self.violation(&format!("the parameter {parameter}, which isn't offered"));
            }
        }
    }

    /// Tells the ledger of recipients that were refused for good.
    fn refuse(&self, code: u16, submission: Option<Submission>, recipients: Vec<String>) {
        if code / 100 == 5 {
            let server = self.server.settings.name.clone();
            self.server.write(Event::PeerRefused { submission, recipients, code, server });
        }
    }

    async fn on_rcpt(&mut self, argument: &str) -> Flow {
        let Some((recipient, parameters)) = path(argument, "TO:") else {
            self.violation(&format!("RCPT without a path: {argument}"));
            return self.say(b"501 5.5.4 a path, please\r\n").await;
        };
        self.check_parameters(parameters);
        if self.transaction.is_none() {
            match self.mail_refused {
                Some(code) => self.refuse(code, None, vec![recipient]),
                None => self.violation("RCPT before MAIL"),
            }
            return self.say(b"503 5.5.1 MAIL first\r\n").await;
        }
        let went = match self.opinion(&recipient) {
            Some(refusal) => {
                let _ = self.say(refusal.as_bytes()).await;
                Went::Refused(code_of(refusal))
            }
            None => self.answer(Phase::Rcpt, "250 2.1.5 OK\r\n").await,
        };
        let flow = Self::after(&went);
        let Some(transaction) = &mut self.transaction else { return flow };
        match went {
            Went::Properly => transaction.recipients.push(recipient),
            Went::Refused(code) => {
                transaction.refused += 1;
                self.refuse(code, None, vec![recipient]);
            }
            Went::Over => {}
        }
        flow
    }

    /// Whether the server wants none of a recipient's mail, ever or just now.
    fn opinion(&mut self, recipient: &str) -> Option<&'static str> {
        let settings = &self.server.settings;
        let purpose = format!("{} refuses {recipient}", settings.name);
        let mut by_address = Random::new(self.server.universe.seed, &purpose);
        if by_address.below(1000) < u64::from(settings.permanent_per_mille) {
            return Some("550 5.1.1 no such user\r\n");
        }
        let is_busy = settings.transient_per_mille > 0
            && !self.server.universe.faults.are_healed()
            && self.random.below(1000) < u64::from(settings.transient_per_mille);
        is_busy.then_some("450 4.2.1 mailbox busy\r\n")
    }

    async fn on_rset(&mut self) -> Flow {
        self.transaction = None;
        self.mail_refused = None;
        let went = self.answer(Phase::Rset, "250 2.0.0 OK\r\n").await;
        Self::after(&went)
    }

    async fn on_quit(&mut self) -> Flow {
        if self.answer(Phase::Quit, "221 2.0.0 bye\r\n").await.is_said()
            && self.wire.flush(IDLE).await
            && self.wire.look().await == Filled::Some
        {
            self.violation("something after QUIT");
        }
        Flow::Over
    }

    async fn on_data(&mut self) -> Flow {
        let Some(transaction) = &self.transaction else {
            if self.mail_refused.is_none() {
                self.violation("DATA outside a transaction");
            }
            return self.say(b"503 5.5.1 MAIL first\r\n").await;
        };
        if transaction.recipients.is_empty() {
            if transaction.refused == 0 {
                self.violation("DATA without RCPT");
            }
            return self.say(b"554 5.5.1 no valid recipients\r\n").await;
        }
        let went = self.answer(Phase::Data, "354 go ahead\r\n").await;
        match went {
            Went::Properly => self.on_content().await,
            Went::Refused(code) => {
                let recipients = self.transaction.take().map(|t| t.recipients);
                self.refuse(code, None, recipients.unwrap_or_default());
                Self::after(&went)
            }
            Went::Over => Flow::Over,
        }
    }

    /// From 354 to the reply to the final dot.
    async fn on_content(&mut self) -> Flow {
        let Some(transaction) = self.transaction.take() else { return Flow::On };
        let mut arriving = Arriving::default();
        let mut is_announced = false;
        loop {
            let whole = arriving.take(&mut self.wire.input);
            let so_far = whole.as_deref().unwrap_or(arriving.so_far());
            let is_known = whole.is_some() || has_whole_header(so_far);
            if !is_announced && is_known {
                self.announce(&transaction, so_far);
                is_announced = true;
                if self.body_trouble(&transaction, so_far).await == Flow::Over {
                    return Flow::Over;
                }
            }
            if let Some(raw) = whole {
                return self.on_dot(transaction, &raw).await;
            }
            if self.read().await == Flow::Over {
                if !is_announced {
                    self.announce(&transaction, arriving.so_far());
                }
                return Flow::Over;
            }
        }
    }

    /// What goes wrong once the header is there.
    async fn body_trouble(&mut self, transaction: &Transaction, so_far: &[u8]) -> Flow {
        match self.server.trouble(Phase::Body, &mut self.random) {
            Trouble::None => Flow::On,
            Trouble::Slow(amount) => {
                sleep(amount.unwrap_or(TRICKLE * 60)).await;
                Flow::On
            }
            Trouble::Garbage => {
                self.muddled = true;
                let octets = no_verdict(&mut self.random);
                let _ = self.say(&octets).await;
                Flow::On
            }
            trouble => {
                if let Went::Refused(code) = self.carry_out(trouble, Phase::Body, "").await {
                    let submission = submission_of(so_far);
                    self.refuse(code, submission, transaction.recipients.clone());
                }
                Flow::Over
            }
        }
    }

    fn announce(&self, transaction: &Transaction, so_far: &[u8]) {
        if !so_far.is_empty() {
            let recipients = transaction.recipients.clone();
            let submission = submission_of(so_far);
            self.server.write(Event::BodyBegan { submission, recipients });
        }
    }

    async fn on_dot(&mut self, transaction: Transaction, raw: &[u8]) -> Flow {
        let (content, wrong) = unstuffed(raw);
        if let Some(wrong) = wrong {
            self.server.violation("I7", &format!("{wrong} in content"));
        }
        let takes_8bit = self.extended && self.server.settings.eight_bit_mime;
        if !takes_8bit && !content.is_ascii() {
            self.server.violation("I7", "8-bit content, though 8BITMIME isn't offered");
        }
        if !self.server.settings.dot_latency.is_zero() {
            sleep(self.server.settings.dot_latency).await;
        }
        let mut trouble = self.server.trouble(Phase::Dot, &mut self.random);
        if let Trouble::Slow(Some(amount)) = trouble {
            // It is the storing that takes so long, not the reply.
            sleep(amount).await;
            trouble = Trouble::None;
        }
        // Whoever has sent the final dot has handed the message over, and needn't wait to hear so.
        let is_gone = self.wire.look().await == Filled::Ended;
        let submission = submission_of(&content);
        match trouble {
            Trouble::None | Trouble::Slow(_) | Trouble::Garbage | Trouble::LostReply { .. } => {
                let is_lost = matches!(trouble, Trouble::Garbage | Trouble::LostReply { .. });
                let is_lost = is_lost || is_gone || self.muddled;
                self.store(submission, &transaction, content, is_lost);
            }
            Trouble::Reply(reply) => {
                self.refuse(code_of(reply), submission, transaction.recipients.clone());
            }
            Trouble::Hang | Trouble::Drop => {}
        }
        let went = self.carry_out(trouble, Phase::Dot, "250 2.0.0 stored\r\n").await;
        Self::after(&went)
    }

    fn store(
        &self,
        submission: Option<Submission>,
        transaction: &Transaction,
        content: Vec<u8>,
        reply_lost: bool,
    ) {
        let server = self.server.settings.name.clone();
        let recipients = transaction.recipients.clone();
        if let Some(to) = self.server.settings.forwards_to {
            let sender = transaction.sender.clone();
            let recipients = recipients.clone();
            let onward = Onward { to, sender, recipients, content: content.clone() };
            tokio::spawn(forward(self.server.clone(), onward));
        }
        let client = Some(self.client);
        let stored = Event::Sunk { submission, recipients, reply_lost, server, client, content };
        self.server.write(stored);
    }
}

impl Went {
    fn is_said(&self) -> bool {
        !matches!(self, Went::Over)
    }
}

fn submission_of(content: &[u8]) -> Option<Submission> {
    header_field(content, "X-Sim").and_then(|value| value.parse().ok())
}

/// What stands between the angle brackets after `keyword`, and what follows them.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(String, &'a str)> {
    let (this, rest) = argument.split_at_checked(keyword.len())?;
    let rest = rest.strip_prefix('<').filter(|_| this.eq_ignore_ascii_case(keyword))?;
    let (path, parameters) = rest.split_once('>')?;
    Some((path.into(), parameters))
}

//! One attempt at one message over one connection. Invariants: `Submitting` is told before the final dot can be on its way, and every
//! recipient that wasn't answered 250 is told as refused. Where all is sent without a reply having been read, `Submitting` names all
//! recipients, before the refused ones are known.
use super::dialogue::{Dialogue, To, accepted_ids};
use crate::ledger::{Answer, Event, Submission};
use crate::lines::{Filled, Reply, stuffed};
use kumo_core::id::SpoolId;
use kumo_core::port::Stream;
use kumo_core::random::Random;
use kumo_core::time::Duration;
use tokio::time::sleep;

/// Pieces of a message that is sent slowly.
const PIECES: usize = 600;

pub struct Errand {
    pub submission: Submission,
    pub sender: String,
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// MAIL is the first.
    AfterCommands(usize),
    WithinContent,
    AfterDot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Proper,
    Disconnect(Break),
    /// Content in small pieces, so far apart.
    Slow(Duration),
    /// Reads no reply.
    Deaf {
        floods: bool,
    },
    /// The whole transaction in one write.
    AtOnce,
    /// A bare LF in the content, which no server may take.
    BareLf,
}

pub struct Outcome {
    pub answer: Answer,
    /// Recipients for whom another attempt may be worth it.
    pub again: Vec<String>,
}

/// What became of MAIL, RCPT and DATA.
#[derive(Default)]
struct Envelope {
    accepted: Vec<String>,
    /// Refused by 4yz.
    later: Vec<String>,
    /// Not heard of.
    unheard: Vec<String>,
    /// The reply to DATA, if it was said.
    data: Option<Reply>,
}

impl Envelope {
    /// Everybody that isn't refused for good.
    fn hopeful(self) -> Vec<String> {
        [self.accepted, self.later, self.unheard].concat()
    }

    fn never(self) -> Outcome {
        Outcome { answer: Answer::Never, again: self.hopeful() }
    }
}

pub async fn send<S: Stream>(
    dialogue: &mut Dialogue<S>,
    errand: Errand,
    manner: Manner,
    random: &mut Random,
) -> Outcome {
    let mut attempt = Attempt { dialogue, errand, random };
    match manner {
        Manner::Deaf { floods } => attempt.deaf(floods).await,
        Manner::AtOnce if attempt.dialogue.pipelining => attempt.at_once().await,
        Manner::Disconnect(Break::AfterCommands(count)) => attempt.break_early(count).await,
        _ => attempt.step_by_step(manner).await,
    }
}

struct Attempt<'a, S> {
    dialogue: &'a mut Dialogue<S>,
    errand: Errand,
    random: &'a mut Random,
}

impl<S: Stream> Attempt<'_, S> {
    fn write(&self, event: Event) {
        self.dialogue.universe().write(event);
    }

    fn mail(&self) -> String {
        let mut line = format!("MAIL FROM:<{}>", self.errand.sender);
        if self.dialogue.size {
            line.push_str(&format!(" SIZE={}", self.errand.content.len()));
        }
        if self.dialogue.eight_bit_mime && !self.errand.content.is_ascii() {
            line.push_str(" BODY=8BITMIME");
        }
        line.push_str("\r\n");
        line
    }

    /// MAIL, RCPT for each, DATA.
    fn commands(&self) -> Vec<String> {
        let mut lines = vec![self.mail()];
        lines.extend(self.errand.recipients.iter().map(|to| format!("RCPT TO:<{to}>\r\n")));
        lines.push("DATA\r\n".into());
        lines
    }

    fn submitting(&self, recipients: &[String]) {
        self.write(Event::Submitting {
            submission: self.errand.submission,
            recipients: recipients.to_vec(),
            content: self.errand.content.clone(),
        });
    }

    fn refused(&self, recipient: &str) {
        let recipient = recipient.to_string();
        self.write(Event::RecipientRefused { submission: self.errand.submission, recipient });
    }

    async fn break_early(&mut self, count: usize) -> Outcome {
        let commands = self.commands();
        let said = commands[..count.clamp(1, commands.len())].concat();
        self.dialogue.say(said.as_bytes()).await;
        self.disconnect().await;
        Outcome { answer: Answer::Never, again: self.errand.recipients.clone() }
    }

    /// With or without a word.
    async fn disconnect(&mut self) {
        if self.random.below(2) == 0 {
            self.dialogue.wire.shutdown(self.dialogue.patience).await;
        }
        self.dialogue.hang_up();
    }

    async fn step_by_step(&mut self, manner: Manner) -> Outcome {
        let envelope = match self.dialogue.pipelining {
            true => self.envelope_at_once().await,
            false => self.envelope().await,
        };
        let Some(data) = &envelope.data else {
            // Nobody took it, or nobody is there any more.
            self.clean_up().await;
            return envelope.never();
        };
        if data.code != 354 {
            let is_permanent = data.is_permanent();
            self.clean_up().await;
            return match is_permanent {
                true => Outcome { answer: Answer::Never, again: envelope.later },
                false => envelope.never(),
            };
        }
        if envelope.accepted.is_empty() {
            self.lone_dot().await;
            return envelope.never();
        }
        self.content(envelope, manner).await
    }

    /// Leaves no transaction behind.
    async fn clean_up(&mut self) {
        if self.dialogue.is_open() {
            self.dialogue.reset().await;
        }
    }

    /// The server goes on although no recipient was taken: it must refuse what comes.
    async fn lone_dot(&mut self) {
        if self.dialogue.say(b".\r\n").await
            && self.dialogue.hear(To::Dot).await.is_some_and(|reply| reply.is_positive())
        {
            self.dialogue.violation("I16", "a message for nobody was accepted");
        }
    }

    async fn envelope_at_once(&mut self) -> Envelope {
        let commands = self.commands().concat();
        if !self.dialogue.say(commands.as_bytes()).await {
            return self.nothing_heard();
        }
        self.hear_envelope().await
    }

    fn nothing_heard(&self) -> Envelope {
        Envelope { unheard: self.errand.recipients.clone(), ..Envelope::default() }
    }

    /// The replies to a whole envelope.
    async fn hear_envelope(&mut self) -> Envelope {
        let mut envelope = self.nothing_heard();
        let Some(mail) = self.hear_mail().await else { return envelope };
        while !envelope.unheard.is_empty() {
            let to = envelope.unheard[0].clone();
            let Some(reply) = self.dialogue.hear(To::Rcpt(&to)).await else { return envelope };
            envelope.unheard.remove(0);
            if reply.is_positive() && !mail.is_positive() {
                self.dialogue.violation("I16", "a recipient was accepted after MAIL was refused");
            }
            // What counts for those who came too early is why.
            let cause = if mail.is_positive() { &reply } else { &mail };
            self.note(&mut envelope, to, cause);
        }
        envelope.data = self.dialogue.hear(To::Data).await;
        if !mail.is_positive() && envelope.data.as_ref().is_some_and(|data| data.code == 354) {
            self.dialogue.violation("I16", "DATA was accepted after MAIL was refused");
            self.dialogue.hang_up();
            envelope.data = None;
        }
        envelope
    }

    async fn hear_mail(&mut self) -> Option<Reply> {
        let sender = self.errand.sender.clone();
        self.dialogue.hear(To::Mail(&sender)).await
    }

    fn note(&self, envelope: &mut Envelope, recipient: String, reply: &Reply) {
        if reply.is_positive() {
            envelope.accepted.push(recipient);
            return;
        }
        self.refused(&recipient);
        if !reply.is_permanent() {
            envelope.later.push(recipient);
        }
    }

    /// Command by command.
    async fn envelope(&mut self) -> Envelope {
        let mut envelope = self.nothing_heard();
        let mail = self.mail();
        if !self.dialogue.say(mail.as_bytes()).await {
            return envelope;
        }
        let Some(mail) = self.hear_mail().await else { return envelope };
        while !envelope.unheard.is_empty() {
            let to = envelope.unheard[0].clone();
            if !mail.is_positive() {
                envelope.unheard.remove(0);
                self.note(&mut envelope, to, &mail);
                continue;
            }
            if !self.dialogue.say(format!("RCPT TO:<{to}>\r\n").as_bytes()).await {
                return envelope;
            }
            let Some(reply) = self.dialogue.hear(To::Rcpt(&to)).await else { return envelope };
            envelope.unheard.remove(0);
            self.note(&mut envelope, to, &reply);
        }
        if !envelope.accepted.is_empty() && self.dialogue.say(b"DATA\r\n").await {
            envelope.data = self.dialogue.hear(To::Data).await;
        }
        envelope
    }

    async fn content(&mut self, envelope: Envelope, manner: Manner) -> Outcome {
        if manner == Manner::BareLf {
            self.errand.content.extend_from_slice(b"a bare\nline feed\r\n");
        }
        let mut wire = stuffed(&self.errand.content);
        let before_dot = wire.len() - 3;
        match manner {
            Manner::Disconnect(Break::WithinContent) => {
                let cut = self.random.below(before_dot as u64 + 1) as usize;
                self.dialogue.say(&wire[..cut]).await;
                self.disconnect().await;
                return envelope.never();
            }
            Manner::Slow(apart) => {
                if !self.trickle(&wire[..before_dot], apart).await {
                    return envelope.never();
                }
                wire.drain(..before_dot);
            }
            _ => {}
        }
        if !self.dialogue.is_quiet().await {
            return envelope.never();
        }
        self.submitting(&envelope.accepted);
        self.dialogue.wire.say(&wire, self.dialogue.patience).await;
        if manner == Manner::Disconnect(Break::AfterDot) {
            self.disconnect().await;
            return Outcome { answer: Answer::Ambiguous, again: envelope.hopeful() };
        }
        let verdict = self.dialogue.hear(To::Dot).await;
        if manner == Manner::BareLf && verdict.as_ref().is_some_and(Reply::is_positive) {
            self.dialogue.violation("I7", "content with a bare LF was accepted");
        }
        self.conclude(envelope, verdict, manner == Manner::BareLf)
    }

    /// `is_own_fault`: a refusal says nothing against the message itself.
    fn conclude(&self, envelope: Envelope, verdict: Option<Reply>, is_own_fault: bool) -> Outcome {
        let Some(reply) = verdict else {
            return Outcome { answer: Answer::Ambiguous, again: envelope.hopeful() };
        };
        if reply.is_positive() {
            let answer = Answer::Accepted { ids: self.ids(&reply) };
            return Outcome { answer, again: [envelope.later, envelope.unheard].concat() };
        }
        let answer = Answer::Refused { code: reply.code };
        let again = match reply.is_permanent() && !is_own_fault {
            true => envelope.later,
            false => envelope.hopeful(),
        };
        Outcome { answer, again }
    }

    /// As the reply names them; a server that isn't kumod names none.
    fn ids(&self, reply: &Reply) -> Vec<SpoolId> {
        let mut ids = Vec::new();
        for word in accepted_ids(reply) {
            match word.parse() {
                Ok(id) => ids.push(id),
                Err(error) => self.dialogue.violation("I16", &format!("{error}")),
            }
        }
        if ids.is_empty() && reply.text().starts_with("OK ids=") {
            self.dialogue.violation("I16", "a message was accepted without an id");
        }
        ids
    }

    /// Whether all of it was sent and the server still waits for more.
    async fn trickle(&mut self, content: &[u8], apart: Duration) -> bool {
        let drawn = 1 + self.random.below(100) as usize;
        let piece = drawn.max(content.len() / PIECES);
        for piece in content.chunks(piece) {
            let is_said = self.dialogue.wire.say(piece, self.dialogue.patience).await;
            match self.dialogue.wire.fill(apart).await {
                Filled::Silence if is_said => {}
                Filled::Ended | Filled::Silence => {
                    self.dialogue.hang_up();
                    return false;
                }
                Filled::Some => {
                    // It may have had enough, but can't have taken the message.
                    if self.dialogue.hear(To::Dot).await.is_some_and(|reply| reply.is_positive()) {
                        self.dialogue.violation("I16", "half a message was accepted");
                    }
                    self.dialogue.hang_up();
                    return false;
                }
            }
        }
        true
    }

    fn whole(&self) -> Vec<u8> {
        let mut whole = self.commands().concat().into_bytes();
        whole.extend(stuffed(&self.errand.content));
        whole
    }

    async fn at_once(&mut self) -> Outcome {
        let whole = self.whole();
        if !self.dialogue.is_quiet().await {
            return self.nothing_heard().never();
        }
        self.submitting(&self.errand.recipients);
        self.dialogue.wire.say(&whole, self.dialogue.patience).await;
        let envelope = self.hear_envelope().await;
        match &envelope.data {
            Some(data) if data.code == 354 => {
                let verdict = self.dialogue.hear(To::Dot).await;
                let is_positive = verdict.as_ref().is_some_and(Reply::is_positive);
                if is_positive && envelope.accepted.is_empty() {
                    self.dialogue.violation("I16", "a message for nobody was accepted");
                }
                self.conclude(envelope, verdict, false)
            }
            Some(data) => {
                // The content was taken for commands.
                let data = data.clone();
                if self.dialogue.is_open() {
                    self.dialogue.hear_out().await;
                }
                self.conclude(envelope, Some(data), true)
            }
            None => self.conclude(envelope, None, false),
        }
    }

    /// Sends on whatever the server says, and waits until it must have lost its patience.
    async fn deaf(&mut self, floods: bool) -> Outcome {
        let mut said = if floods { b"NOOP\r\n".repeat(2_000) } else { Vec::new() };
        said.extend(self.whole());
        self.submitting(&self.errand.recipients);
        self.dialogue.wire.say(&said, self.dialogue.patience).await;
        sleep(self.dialogue.patience).await;
        self.dialogue.hang_up();
        Outcome { answer: Answer::Ambiguous, again: self.errand.recipients.clone() }
    }
}

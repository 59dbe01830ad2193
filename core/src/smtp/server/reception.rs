//! The states after the final dot: checks, policy, trace headers, hand-over, answer. Invariant: what is submitted is
//! one transaction, accepted or refused as a whole; nothing is submitted once the client was told 4yz or 5yz, and
//! 250 is said in [`AwaitDurable::on_submitted`] alone. The time a batch may take is the committer's to limit: once
//! it has been handed over, only the committer knows whether a refusal can be kept (I3).
use super::context::{About, Context};
use super::data::{Content, DataFault};
use super::greeting::{ExpectMail, Greeted};
use super::io::{Asked, Output, Submitted, Verdict};
use super::permission::{Disposition, Permissions};
use super::session::State;
use super::trace::{self, Reception as From};
use super::transaction::Transaction;
use crate::address::{Mailbox, ReversePath};
use crate::commit::Accountable;
use crate::config::listener::BatchHandling;
use crate::header;
use crate::id::SpoolId;
use crate::limits;
use crate::message::{Envelope, Message, Schedule};
use crate::queue_name;
use crate::recipients::RecipientSet;
use crate::smtp::reply::Reply;
use crate::time::Mono;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

/// So that a line of the reply stays within the 512 octets of RFC 5321 4.5.3.1.5.
const IDS_PER_REPLY_LINE: usize = 14;

/// A transaction whose content is complete.
#[derive(Debug)]
pub struct Reception {
    greeted: Greeted,
    sender: ReversePath,
    recipients: Vec<Mailbox>,
    permissions: Permissions,
    size: u64,
    deadline: Mono,
}

impl Reception {
    fn about(&self) -> About<'_> {
        About { sender: &self.sender, recipients: &self.recipients, size: self.size }
    }

    /// Refuses the transaction; the session goes on.
    fn refuse(self, reply: Reply, cx: &mut Context) -> State {
        cx.refuse(reply, self.about());
        ExpectMail { greeted: self.greeted }.into()
    }

    fn deny(self, refusal: super::context::Refusal, cx: &mut Context) -> State {
        let back = ExpectMail { greeted: Greeted { domain: self.greeted.domain.clone() } };
        cx.deny(refusal, self.about(), back)
    }
}

fn fault_reply(fault: DataFault) -> Reply {
    match fault {
        DataFault::TooBig => Reply::new(552, "5.3.4 message too big"),
        DataFault::BareLineEnding => {
            Reply::new(552, "5.6.0 message data must use CRLF for line endings")
        }
        DataFault::LineTooLong => Reply::new(500, "5.2.3 line too long"),
    }
}

fn timed_out(stage: &str) -> Reply {
    Reply::new(451, &format!("4.4.5 data_processing_timeout exceeded ({stage})"))
}

pub fn end_of_data(transaction: Transaction, content: Content, cx: &mut Context) -> State {
    let reception = Reception {
        greeted: transaction.greeted,
        sender: transaction.sender,
        recipients: transaction.recipients,
        permissions: transaction.permissions,
        size: content.size,
        deadline: cx.now.mono + cx.settings.listener.data_processing_timeout,
    };
    let body = match content.body {
        Ok(body) => body,
        Err(fault) => return reception.refuse(fault_reply(fault), cx),
    };
    if header::count_received(&body) >= limits::RECEIVED_FIELDS {
        return reception.refuse(Reply::new(554, "5.4.6 too many hops, the message loops"), cx);
    }
    let message = Message {
        id: cx.ids.next(cx.now.wall),
        envelope: Envelope {
            sender: reception.sender.clone(),
            recipients: reception.recipients.clone(),
        },
        remaining: RecipientSet::all(reception.recipients.len() as u32),
        meta: cx.meta.clone(),
        schedule: Schedule::default(),
        attempts: 0,
        body,
    };
    if !cx.settings.handled.data {
        return Batches::split(reception, message, cx).advance(cx);
    }
    cx.ask(Asked::Data { message: message.clone() });
    State::AwaitData(AwaitData { reception, message })
}

/// Policy looks at the whole transaction.
#[derive(Debug)]
pub struct AwaitData {
    reception: Reception,
    /// As it was when it was lent.
    message: Message,
}

impl AwaitData {
    pub fn deadline(&self) -> Mono {
        self.reception.deadline
    }

    pub fn on_verdict(self, verdict: Verdict, cx: &mut Context) -> State {
        let message = match cx.resolve(verdict) {
            Ok(Verdict::Message(message)) => message,
            Ok(_) => self.message,
            Err(refusal) => return self.reception.deny(refusal, cx),
        };
        let count = message.envelope.recipients.len();
        if count == 0 || count > limits::RECIPIENTS_PER_MESSAGE {
            let text = format!("smtp_server_data left a message with {count} recipients");
            let refusal = cx.policy_failure(text);
            return self.reception.deny(refusal, cx);
        }
        Batches::split(self.reception, message, cx).advance(cx)
    }

    pub fn on_wake(self, cx: &mut Context) -> State {
        abandon(self.reception, "rx", cx)
    }
}

fn abandon(reception: Reception, stage: &str, cx: &mut Context) -> State {
    cx.refuse(timed_out(stage), reception.about());
    State::AwaitAbandoned(AwaitAbandoned { greeted: reception.greeted })
}

/// The client has its 451; policy still owes an answer, which no longer matters.
#[derive(Debug)]
pub struct AwaitAbandoned {
    greeted: Greeted,
}

impl AwaitAbandoned {
    pub fn on_verdict(self) -> State {
        ExpectMail { greeted: self.greeted }.into()
    }
}

/// The messages a transaction becomes.
#[derive(Debug)]
pub struct Batches {
    reception: Reception,
    waiting: VecDeque<Message>,
    ready: Vec<Message>,
    /// All have one body, trace headers included.
    is_shared: bool,
}

impl Batches {
    /// A message for each recipient or for each domain, with a Received field of its own.
    fn split(reception: Reception, message: Message, cx: &mut Context) -> Batches {
        let Message { id, envelope, meta, schedule, body, .. } = message;
        let groups = match cx.settings.listener.batch_handling {
            BatchHandling::BifurcateAlways => {
                envelope.recipients.into_iter().map(|one| vec![one]).collect()
            }
            BatchHandling::BatchByDomain => by_domain(envelope.recipients),
        };
        let is_shared =
            groups.len() > 1 && body.len().saturating_mul(groups.len()) > limits::BIFURCATED_OCTETS;
        let shared = is_shared.then(|| with_received(&reception, id, None, &body, cx));
        let last = groups.len() - 1;
        let mut meta = Some(meta);
        let mut waiting = VecDeque::with_capacity(groups.len());
        for (position, recipients) in groups.into_iter().enumerate() {
            // Policy may have noted the id it saw.
            let id = if position == 0 { id } else { cx.ids.next(cx.now.wall) };
            let body = match &shared {
                Some(shared) => shared.clone(),
                None => with_received(&reception, id, recipients.first(), &body, cx),
            };
            let meta = if position == last { meta.take() } else { meta.clone() };
            waiting.push_back(Message {
                id,
                remaining: RecipientSet::all(recipients.len() as u32),
                envelope: Envelope { sender: envelope.sender.clone(), recipients },
                meta: meta.expect("taken only for the last"),
                schedule: schedule.clone(),
                attempts: 0,
                body,
            });
        }
        Batches { reception, ready: Vec::with_capacity(waiting.len()), waiting, is_shared }
    }

    /// Asks policy about the next message, or submits all.
    fn advance(mut self, cx: &mut Context) -> State {
        while let Some(message) = self.waiting.pop_front() {
            if !cx.settings.handled.message_received {
                self.finish(message, cx);
                continue;
            }
            cx.ask(Asked::MessageReceived { message: message.clone() });
            return State::AwaitMessage(AwaitMessage { batches: self, message });
        }
        self.submit(cx)
    }

    fn finish(&mut self, mut message: Message, cx: &Context) {
        let headers = &cx.settings.listener.trace_headers;
        if headers.supplemental_header && !self.is_shared {
            let recipients = &message.envelope.recipients;
            let include = &headers.include_meta_names;
            let field =
                trace::supplemental(&headers.header_name, recipients, include, &message.meta);
            message.body = header::prepend_raw(&message.body, field);
        }
        self.ready.push(message);
    }

    fn submit(mut self, cx: &mut Context) -> State {
        if !self.apply_permissions() {
            let reply = Reply::new(550, "5.7.1 relaying not permitted");
            let Reception { greeted, sender, recipients, size, .. } = self.reception;
            let about = About { sender: &sender, recipients: &recipients, size };
            return cx.fault(reply, about, ExpectMail { greeted });
        }
        if cx.now.mono >= self.reception.deadline {
            return self.reception.refuse(timed_out("spool"), cx);
        }
        let ids = self.ready.iter().map(|message| message.id).collect();
        cx.flush();
        cx.push(Output::Submit { messages: self.ready, deadline: self.reception.deadline });
        let after = AfterAnswer::Continue;
        State::AwaitDurable(AwaitDurable { reception: self.reception, ids, after })
    }

    /// Whether all may be kept. Reports that are only to be recorded go to the null queue, as do others that policy
    /// discards: those are relayed to nobody.
    fn apply_permissions(&mut self) -> bool {
        self.ready.iter_mut().all(|message| match self.reception.permissions.disposition(message) {
            Disposition::Keep => true,
            Disposition::Drop => {
                message.meta.insert("queue".into(), queue_name::NULL.into());
                true
            }
            Disposition::Refuse => queue_name::of_message(message) == queue_name::NULL,
        })
    }
}

fn by_domain(recipients: Vec<Mailbox>) -> Vec<Vec<Mailbox>> {
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    let mut groups: Vec<Vec<Mailbox>> = Vec::new();
    for recipient in recipients {
        let position = match positions.get(recipient.domain()) {
            Some(position) => *position,
            None => {
                positions.insert(recipient.domain().into(), groups.len());
                groups.push(Vec::new());
                groups.len() - 1
            }
        };
        groups[position].push(recipient);
    }
    groups
}

fn with_received(
    reception: &Reception,
    id: SpoolId,
    recipient: Option<&Mailbox>,
    body: &Bytes,
    cx: &Context,
) -> Bytes {
    if !cx.settings.listener.trace_headers.received_header {
        return body.clone();
    }
    let from = From {
        greeting_domain: &reception.greeted.domain,
        hostname: &cx.settings.hostname,
        peer: cx.settings.peer.ip(),
        local: cx.settings.local.ip(),
        tls: cx.tls.as_ref(),
        authenticated: cx.authenticated,
    };
    header::prepend_raw(body, trace::received(&from, id, recipient, cx.now.wall))
}

/// Policy looks at one message of the batch.
#[derive(Debug)]
pub struct AwaitMessage {
    batches: Batches,
    /// As it was when it was lent.
    message: Message,
}

impl AwaitMessage {
    pub fn deadline(&self) -> Mono {
        self.batches.reception.deadline
    }

    pub fn on_verdict(mut self, verdict: Verdict, cx: &mut Context) -> State {
        let message = match cx.resolve(verdict) {
            Ok(Verdict::Message(message)) => message,
            Ok(_) => self.message,
            Err(refusal) => return self.batches.reception.deny(refusal, cx),
        };
        let count = message.envelope.recipients.len();
        if count == 0 || count > limits::RECIPIENTS_PER_MESSAGE {
            let text = format!("smtp_server_message_received left {count} recipients");
            let refusal = cx.policy_failure(text);
            return self.batches.reception.deny(refusal, cx);
        }
        self.batches.finish(message, cx);
        self.batches.advance(cx)
    }

    pub fn on_wake(self, cx: &mut Context) -> State {
        abandon(self.batches.reception, "rx", cx)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAnswer {
    Continue,
    /// A graceful stop was asked for.
    Stop,
    /// The client is gone.
    Close,
}

/// The committer has the transaction.
#[derive(Debug)]
pub struct AwaitDurable {
    reception: Reception,
    ids: Vec<SpoolId>,
    pub after: AfterAnswer,
}

impl AwaitDurable {
    pub fn on_submitted(self, outcome: Submitted, cx: &mut Context) -> State {
        match outcome {
            Submitted::Accepted(accountable) => acknowledge(accountable, &self.ids, cx),
            Submitted::Refused(reply) => {
                let closes = reply.code == 421;
                cx.refuse(reply, self.reception.about());
                if closes {
                    // It has said that it closes: not once more, and nothing after it.
                    return cx.close();
                }
            }
        }
        match self.after {
            AfterAnswer::Continue => ExpectMail { greeted: self.reception.greeted }.into(),
            AfterAnswer::Stop => cx.end_with("4.3.2", "shutting down"),
            AfterAnswer::Close => cx.close(),
        }
    }
}

/// The 250 to the final dot.
fn acknowledge(_: Accountable, ids: &[SpoolId], cx: &mut Context) {
    let mut content = String::with_capacity(8 + ids.len() * 33);
    content.push_str("OK ids=");
    for (position, id) in ids.iter().enumerate() {
        let separator = match position {
            0 => "",
            _ if position % IDS_PER_REPLY_LINE == 0 => "\n",
            _ => " ",
        };
        content.push_str(&format!("{separator}{id}"));
    }
    cx.write(&Reply { code: 250, enhanced: None, content, command: None });
    cx.message_was_accepted(ids.len() as u64);
}

//! The states of a transaction up to 354: what the message needs, MAIL, RCPT, DATA. Invariants: a transaction ends with
//! exactly one report, which has a fate for each recipient; once replies are out of step none of them is believed.
//! What comes after 354 stands in `completion`.
use super::body::{BodyFramer, Content};
use super::completion::{After, Conclusion, SendBody};
use super::context::{Context, Loss, Phase, Size};
use super::io::{Fate, Job};
use super::session::{State, Turn};
use crate::smtp::reply::{EnhancedCode, Reply};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

#[derive(Debug)]
pub struct Transaction {
    job: Job,
    content: Content,
    /// One for each recipient.
    standings: Vec<Standing>,
    /// How many of them are [`Standing::Accepted`].
    accepted: usize,
    /// MAIL, all RCPTs and DATA leave together.
    is_pipelined: bool,
}

#[derive(Clone, Debug)]
enum Standing {
    /// Its RCPT wasn't answered yet.
    Untried,
    Accepted,
    Decided(Fate),
}

/// What a negative reply means for those it is about.
pub fn verdict(reply: Reply) -> Fate {
    match reply.is_permanent() {
        true => Fate::Refused(reply),
        false => Fate::Deferred(reply),
    }
}

pub fn about(mut reply: Reply, command: impl Into<String>) -> Reply {
    reply.command = Some(command.into());
    reply
}

pub fn unexpected(reply: &Reply) -> Loss {
    Loss::OutOfStep(format!("{reply} makes no sense as a reply here"))
}

pub fn generated(loss: Loss, phase: Phase) -> Reply {
    let enhanced = match loss {
        Loss::OutOfStep(_) | Loss::Unasked(_) => "4.5.0",
        Loss::Connection(_) | Loss::Aborted => "4.4.2",
    };
    Reply::new(451, &format!("{enhanced} KumoMTA internal: {}", loss.describe(phase)))
}

/// The server takes no more recipients in this transaction (RFC 5321 4.5.3.1.10). 452 without an enhanced code may
/// mean that, 552 means it only where it says so.
fn is_too_many_recipients(reply: &Reply) -> bool {
    let says_so = matches!(reply.enhanced, Some(EnhancedCode { subject: 5, detail: 3, .. }));
    match (reply.code, reply.enhanced) {
        (452, None) => true,
        (552, None) => reply.content.to_ascii_lowercase().contains("too many recipients"),
        (452 | 552, Some(_)) => says_so,
        _ => false,
    }
}

impl Transaction {
    pub fn begin(job: Job, cx: &mut Context) -> State {
        let is_pipelined = cx.settings.path.enable_pipelining && cx.features.pipelining;
        let standings = vec![Standing::Untried; job.recipients.len()];
        let content = Content::of(&job.body);
        let transaction = Transaction { job, content, standings, accepted: 0, is_pipelined };
        if let Err(refusal) = transaction.check(cx) {
            cx.report(transaction.fates(Fate::Refused(refusal)), true);
            return cx.become_ready();
        }
        let mut commands = transaction.mail_command(cx);
        if is_pipelined {
            for (_, recipient) in &transaction.job.recipients {
                commands.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
            }
            commands.push_str("DATA\r\n");
        }
        cx.send(commands);
        cx.expect_within(cx.settings.path.mail_from_timeout);
        State::AwaitMail(AwaitMail { transaction })
    }

    fn needs_utf8(&self) -> bool {
        let has_utf8_recipient = || self.job.recipients.iter().any(|(_, to)| !to.is_ascii());
        self.content.has_utf8_header || !self.job.sender.is_ascii() || has_utf8_recipient()
    }

    /// Whether this server can take the message at all.
    fn check(&self, cx: &Context) -> Result<(), Reply> {
        let features = &cx.features;
        if !cx.settings.path.ignore_8bit_checks {
            if self.content.is_8bit && !features.eight_bit_mime {
                return Err(Reply::new(
                    554,
                    "5.6.3 KumoMTA internal: DATA is 8bit, destination does not support 8BITMIME. \
                     Conversion via msg:check_fix_conformance during reception may be required",
                ));
            }
            if self.needs_utf8() && !features.smtp_utf8 {
                return Err(Reply::new(
                    553,
                    "5.6.7 KumoMTA internal: envelope or header is UTF-8, destination does not \
                     support SMTPUTF8",
                ));
            }
        }
        match features.size {
            Size::Maximum(maximum) if self.content.size > maximum => {
                let size = self.content.size;
                let text = format!(
                    "5.3.4 KumoMTA internal: the message has {size} octets, destination takes at \
                     most {maximum}"
                );
                Err(Reply::new(552, &text))
            }
            _ => Ok(()),
        }
    }

    fn mail_command(&self, cx: &Context) -> String {
        let mut command = self.mail_name();
        if self.content.is_8bit && cx.features.eight_bit_mime {
            command.push_str(" BODY=8BITMIME");
        }
        if self.needs_utf8() && cx.features.smtp_utf8 {
            command.push_str(" SMTPUTF8");
        }
        if cx.features.size != Size::NotOffered {
            command.push_str(&format!(" SIZE={}", self.content.size));
        }
        command.push_str("\r\n");
        command
    }

    fn mail_name(&self) -> String {
        format!("MAIL FROM:<{}>", self.job.sender)
    }

    fn rcpt_name(&self, position: usize) -> String {
        format!("RCPT TO:<{}>", self.job.recipients[position].1)
    }

    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// Decides for the first accepted recipient at or after `from`, and tells its position.
    pub fn decide_next(&mut self, from: usize, fate: Fate) -> usize {
        let is_accepted = |standing: &Standing| matches!(standing, Standing::Accepted);
        let found = self.standings[from..].iter().position(is_accepted);
        let position = from + found.expect("no more verdicts than accepted recipients");
        self.standings[position] = Standing::Decided(fate);
        self.accepted -= 1;
        position
    }

    /// All that have no fate get this one.
    fn decide_rest(&mut self, fate: &Fate) {
        for standing in &mut self.standings {
            if !matches!(standing, Standing::Decided(_)) {
                *standing = Standing::Decided(fate.clone());
            }
        }
        self.accepted = 0;
    }

    pub fn fates(mut self, rest: Fate) -> Vec<(u32, Fate)> {
        self.decide_rest(&rest);
        let fates = self.standings.into_iter().map(|standing| match standing {
            Standing::Decided(fate) => fate,
            Standing::Untried | Standing::Accepted => unreachable!("the rest was decided"),
        });
        self.job.recipients.iter().map(|(index, _)| *index).zip(fates).collect()
    }

    /// Ends the transaction and with it the session, before the final dot was sent.
    pub fn on_loss(mut self, loss: Loss, phase: Phase, cx: &mut Context) -> State {
        if let Loss::OutOfStep(_) | Loss::Unasked(_) = loss {
            self.standings.fill(Standing::Untried);
            self.accepted = 0;
        }
        let rest = match loss {
            Loss::Aborted => Fate::Returned,
            _ => Fate::Deferred(generated(loss.clone(), phase)),
        };
        cx.report(self.fates(rest), false);
        cx.end(loss, phase, false)
    }

    /// `reply` is about everybody without a fate, and the last thing heard.
    pub fn break_off(self, reply: Reply, cx: &mut Context) -> State {
        let why = format!("the server said {reply}");
        cx.report(self.fates(verdict(reply)), false);
        cx.fail(why, false)
    }

    pub fn conclude(self, rest: Fate, after: After) -> State {
        Turn::Conclude(Conclusion { fates: self.fates(rest), after }).into()
    }

    fn expect_rcpt(self, position: usize, cx: &mut Context) -> State {
        cx.expect_within(cx.settings.path.rcpt_to_timeout);
        State::AwaitRcpt(AwaitRcpt { transaction: self, position })
    }

    pub fn say_rcpt(self, position: usize, cx: &mut Context) -> State {
        cx.send(format!("{}\r\n", self.rcpt_name(position)));
        self.expect_rcpt(position, cx)
    }

    fn expect_data(self, cx: &mut Context) -> State {
        cx.expect_within(cx.settings.path.data_timeout);
        State::AwaitData(AwaitData { transaction: self })
    }

    pub fn say_data(self, cx: &mut Context) -> State {
        cx.send("DATA\r\n");
        self.expect_data(cx)
    }

    pub fn send_body(self, cx: &mut Context) -> State {
        let framer = BodyFramer::new(self.job.body.clone());
        SendBody { transaction: self, framer }.send_block(cx)
    }
}

#[derive(Debug)]
pub struct AwaitMail {
    pub transaction: Transaction,
}

impl AwaitMail {
    pub const PHASE: Phase = Phase::ReplyTo("MAIL FROM");

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        let mut transaction = self.transaction;
        let reply = about(reply, transaction.mail_name());
        match reply.code {
            421 => return transaction.break_off(reply, cx),
            200..300 => {}
            400..600 => {
                let fate = verdict(reply);
                if !transaction.is_pipelined {
                    return transaction.conclude(fate, After::Reset);
                }
                transaction.decide_rest(&fate);
            }
            _ => return transaction.on_loss(unexpected(&reply), Self::PHASE, cx),
        }
        match transaction.is_pipelined {
            true => transaction.expect_rcpt(0, cx),
            false => Turn::Rcpt { transaction, position: 0 }.into(),
        }
    }
}

#[derive(Debug)]
pub struct AwaitRcpt {
    pub transaction: Transaction,
    position: usize,
}

impl AwaitRcpt {
    pub const PHASE: Phase = Phase::ReplyTo("RCPT TO");

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        let AwaitRcpt { mut transaction, position } = self;
        let reply = about(reply, transaction.rcpt_name(position));
        // MAIL was refused, and with it everybody.
        let is_decided = matches!(transaction.standings[position], Standing::Decided(_));
        match reply.code {
            421 => return transaction.break_off(reply, cx),
            200..300 if !is_decided => {
                transaction.standings[position] = Standing::Accepted;
                transaction.accepted += 1;
            }
            400..600 if is_decided => {}
            400..600 => {
                let is_for_later = transaction.accepted > 0 && is_too_many_recipients(&reply);
                let fate = if is_for_later { Fate::Returned } else { verdict(reply) };
                transaction.standings[position] = Standing::Decided(fate);
            }
            _ => return transaction.on_loss(unexpected(&reply), Self::PHASE, cx),
        }
        let next = position + 1;
        match (next < transaction.standings.len(), transaction.is_pipelined) {
            (true, true) => transaction.expect_rcpt(next, cx),
            (true, false) => Turn::Rcpt { transaction, position: next }.into(),
            (false, true) => transaction.expect_data(cx),
            (false, false) if transaction.accepted > 0 => Turn::Data(transaction).into(),
            // Everybody has a fate already.
            (false, false) => transaction.conclude(Fate::Returned, After::Reset),
        }
    }
}

#[derive(Debug)]
pub struct AwaitData {
    pub transaction: Transaction,
}

impl AwaitData {
    pub const PHASE: Phase = Phase::ReplyTo("DATA");

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        let transaction = self.transaction;
        let reply = about(reply, "DATA");
        match reply.code {
            421 => transaction.break_off(reply, cx),
            400..600 => transaction.conclude(verdict(reply), After::Reset),
            300..400 if transaction.accepted > 0 => Turn::Body(transaction).into(),
            // RFC 2920 3.1: a server that wants the content for nobody. RFC 2033 has no reply for it.
            300..400 if !cx.settings.path.use_lmtp => Turn::LoneDot(transaction).into(),
            _ => transaction.on_loss(unexpected(&reply), Self::PHASE, cx),
        }
    }
}

//! The states from 354 to the report: content, final dot, verdict, RSET. Invariants: nobody is `Unknown` before the
//! final dot was sent, and everybody is who was accepted, if it stays without a reply; no reply from before it has
//! left makes anybody `Delivered`.
use super::body::BodyFramer;
use super::context::{Context, Loss, Phase};
use super::io::Fate;
use super::session::{State, Turn};
use super::transaction::{Transaction, about, generated, unexpected, verdict};
use crate::smtp::reply::Reply;
use alloc::format;
use alloc::vec::Vec;

/// The content is on its way, the final dot isn't.
#[derive(Debug)]
pub struct SendBody {
    pub transaction: Transaction,
    pub framer: BodyFramer,
}

impl SendBody {
    pub const PHASE: Phase = Phase::Doing("sending the message");

    /// The next block or, with the last one, the final dot.
    pub fn send_block(mut self, cx: &mut Context) -> State {
        if let Some(block) = self.framer.next_block() {
            cx.send(block);
        }
        cx.expect_within(cx.settings.path.data_timeout);
        if !self.framer.is_finished() {
            return State::SendBody(self);
        }
        cx.send(self.framer.terminator());
        let transaction = self.transaction;
        State::AwaitVerdict(AwaitVerdict { transaction, next: 0, is_delivered: false })
    }

    /// The server doesn't want to hear the end. What it says can only be a no.
    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        let reply = about(reply, "DATA");
        match reply.code {
            400..600 => self.transaction.break_off(reply, cx),
            _ => self.transaction.on_loss(unexpected(&reply), Self::PHASE, cx),
        }
    }
}

/// The final dot was sent.
#[derive(Debug)]
pub struct AwaitVerdict {
    transaction: Transaction,
    /// LMTP: recipients before this one have their fates.
    next: usize,
    /// To one of them at least.
    is_delivered: bool,
}

impl AwaitVerdict {
    pub fn phase(cx: &Context) -> Phase {
        match cx.is_flushed {
            true => Phase::Doing("waiting for the reply to the message"),
            false => SendBody::PHASE,
        }
    }

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        let reply = about(reply, ".");
        match reply.code {
            421 => self.transaction.break_off(reply, cx),
            // It can't have heard the end of it.
            400..600 if !cx.is_flushed => self.transaction.break_off(reply, cx),
            200..300 if cx.is_flushed => self.decide(Fate::Delivered(reply), cx),
            400..600 => self.decide(verdict(reply), cx),
            _ => self.on_loss(unexpected(&reply), cx),
        }
    }

    fn decide(mut self, fate: Fate, cx: &mut Context) -> State {
        self.is_delivered |= matches!(fate, Fate::Delivered(_));
        // RFC 2033 4.2: one reply for each recipient that was accepted, in their order.
        if cx.settings.path.use_lmtp && self.transaction.accepted() > 1 {
            self.next = self.transaction.decide_next(self.next, fate) + 1;
            cx.expect_within(cx.settings.path.data_dot_timeout);
            return State::AwaitVerdict(self);
        }
        let after = if self.is_delivered { After::Ready } else { After::Reset };
        self.transaction.conclude(fate, after)
    }

    pub fn on_loss(self, loss: Loss, cx: &mut Context) -> State {
        let phase = Self::phase(cx);
        cx.report(self.transaction.fates(Fate::Unknown), false);
        cx.end(loss, phase, false)
    }
}

/// The content that nobody gets was a lone dot.
#[derive(Debug)]
pub struct AwaitLoneDot {
    pub transaction: Transaction,
}

impl AwaitLoneDot {
    pub const PHASE: Phase = Phase::ReplyTo("the final dot of an empty message");

    pub fn say(transaction: Transaction, cx: &mut Context) -> State {
        cx.say(format_args!("."), cx.settings.path.data_dot_timeout);
        State::AwaitLoneDot(AwaitLoneDot { transaction })
    }

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        match reply.code {
            421 => self.transaction.break_off(about(reply, "."), cx),
            _ => self.transaction.conclude(Fate::Returned, After::Reset),
        }
    }
}

/// What has to be done before the connection can be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Ready,
    Reset,
}

/// A transaction that is over, its report still to be made.
#[derive(Debug)]
pub struct Conclusion {
    pub fates: Vec<(u32, Fate)>,
    pub after: After,
}

impl Conclusion {
    const PHASE: Phase = Phase::Doing("ending the transaction");

    pub fn proceed(self, cx: &mut Context) -> State {
        let is_dirty = self.after == After::Reset;
        if cx.is_closing || (is_dirty && !cx.settings.path.enable_rset) {
            cx.report(self.fates, false);
            return cx.say_goodbye();
        }
        if is_dirty {
            cx.say(format_args!("RSET"), cx.settings.path.rset_timeout);
            return State::AwaitReset(AwaitReset { fates: self.fates });
        }
        cx.report(self.fates, true);
        cx.become_ready()
    }

    pub fn on_loss(mut self, loss: Loss, cx: &mut Context) -> State {
        if matches!(&loss, Loss::Unasked(Some(reply)) if is_to_data(reply)) {
            distrust(&mut self.fates, &loss, Self::PHASE);
        }
        cx.report(self.fates, false);
        cx.end(loss, Self::PHASE, false)
    }
}

/// Only DATA is answered like that. Where it comes late another reply was taken for it, and that for one before.
fn is_to_data(reply: &Reply) -> bool {
    (300..400).contains(&reply.code)
}

/// Refusals that may have been meant for others.
fn distrust(fates: &mut [(u32, Fate)], loss: &Loss, phase: Phase) {
    let doubtful = fates.iter_mut().filter(|(_, fate)| matches!(fate, Fate::Refused(_)));
    doubtful.for_each(|(_, fate)| *fate = Fate::Deferred(generated(loss.clone(), phase)));
}

/// The report waits, so that [`Output::Ready`](super::Output::Ready) follows at once if it says so.
#[derive(Debug)]
pub struct AwaitReset {
    fates: Vec<(u32, Fate)>,
}

impl AwaitReset {
    pub const PHASE: Phase = Phase::ReplyTo("RSET");

    pub fn on_reply(mut self, reply: Reply, cx: &mut Context) -> State {
        match reply.code {
            200..300 => {
                let conclusion = Conclusion { fates: self.fates, after: After::Ready };
                Turn::Conclude(conclusion).into()
            }
            _ if is_to_data(&reply) => {
                let loss = unexpected(&reply);
                distrust(&mut self.fates, &loss, Self::PHASE);
                self.on_loss(loss, cx)
            }
            _ => {
                cx.report(self.fates, false);
                cx.give_up(format!("the reply to RSET was {reply}"), false)
            }
        }
    }

    pub fn on_loss(self, loss: Loss, cx: &mut Context) -> State {
        cx.report(self.fates, false);
        cx.end(loss, Self::PHASE, false)
    }
}

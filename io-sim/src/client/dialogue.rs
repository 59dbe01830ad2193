//! One connection of a scripted client. Invariant (I16): one well-formed reply for each command, of a kind that can answer it, and nothing
//! after the server said that it closes; what breaks this is a violation. An end without a word is none: a machine may die.
use super::ClientSettings;
use crate::ledger::Event;
use crate::lines::{Filled, Heard, Reply, Wire, shown};
use crate::universe::Universe;
use kumo_core::port::Stream;
use kumo_core::time::Duration;
use std::sync::Arc;

/// For a server that said it closes to do so, and for what it says to garbage.
const SHORT: Duration = Duration::from_secs(10);
/// Replies to garbage that are looked at.
const BABBLE_REPLIES: u32 = 4_000;

/// What a reply is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To<'a> {
    Connecting,
    Ehlo,
    Mail(&'a str),
    Rcpt(&'a str),
    Data,
    Dot,
    Rset,
    Quit,
}

impl To<'_> {
    /// The only code below 400 for it.
    fn expected(self) -> u16 {
        match self {
            To::Connecting => 220,
            To::Data => 354,
            To::Quit => 221,
            _ => 250,
        }
    }

    /// The address that kumod repeats.
    fn address(&self) -> Option<&str> {
        match self {
            To::Mail(address) | To::Rcpt(address) => Some(address),
            _ => None,
        }
    }
}

pub struct Dialogue<S> {
    universe: Arc<Universe>,
    pub wire: Wire<S>,
    who: String,
    pub patience: Duration,
    is_open: bool,
    /// Offered, and wanted.
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub size: bool,
}

impl<S: Stream> Dialogue<S> {
    pub fn new(
        universe: Arc<Universe>,
        stream: S,
        who: &str,
        settings: &ClientSettings,
    ) -> Dialogue<S> {
        Dialogue {
            universe,
            wire: Wire::new(stream),
            who: who.into(),
            patience: settings.patience,
            is_open: true,
            pipelining: settings.pipelining,
            eight_bit_mime: false,
            size: false,
        }
    }

    pub fn universe(&self) -> &Universe {
        &self.universe
    }

    /// Whether it is good for another command.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Nothing more will be said or heard.
    pub fn hang_up(&mut self) {
        self.is_open = false;
    }

    pub fn violation(&self, invariant: &'static str, what: &str) {
        let what = format!("client {}: {what}", self.who);
        self.universe.ledger.violation(self.universe.now(), invariant, what);
    }

    /// Whether the server is waiting for a command, as it should: it may only have said that it closes.
    pub async fn is_quiet(&mut self) -> bool {
        if !self.is_open {
            return false;
        }
        let looked = self.wire.look().await;
        if !self.wire.input.is_empty() {
            match self.wire.reply(SHORT).await {
                Heard::Reply(reply) if reply.code == 421 => self.expect_end().await,
                Heard::Reply(reply) => {
                    self.violation("I16", &format!("unasked: {} {}", reply.code, reply.text()));
                }
                Heard::Malformed(what) => self.violation("I16", &what),
                Heard::End | Heard::Silence => {}
            }
            self.hang_up();
        }
        if looked == Filled::Ended {
            self.hang_up();
        }
        self.is_open
    }

    /// Whether it could be said.
    pub async fn say(&mut self, octets: &[u8]) -> bool {
        if !self.is_quiet().await {
            return false;
        }
        let is_said = self.wire.say(octets, self.patience).await;
        // What the server said before it closed may still be there to be heard.
        is_said || !self.wire.input.is_empty() || self.wire.look().await == Filled::Some
    }

    /// The reply, or `None` if there will be none.
    pub async fn hear(&mut self, to: To<'_>) -> Option<Reply> {
        if !self.is_open {
            return None;
        }
        let reply = match self.wire.reply(self.patience).await {
            Heard::Reply(reply) => reply,
            Heard::Malformed(what) => {
                self.violation("I16", &format!("in reply to {to:?}, {what}"));
                self.hang_up();
                return None;
            }
            Heard::End | Heard::Silence => {
                self.hang_up();
                return None;
            }
        };
        let is_possible = reply.code == to.expected() || reply.code >= 400;
        if !is_possible {
            let what = format!("{} {} in reply to {to:?}", reply.code, reply.text());
            self.violation("I16", &what);
            self.hang_up();
            return None;
        }
        self.check_address(to, &reply);
        let says_end = matches!(reply.code, 221 | 421 | 521);
        if says_end || (to == To::Connecting && reply.code != 220) {
            self.expect_end().await;
            self.hang_up();
        }
        Some(reply)
    }

    /// Replies that repeat an address show whether they are in order.
    fn check_address(&self, to: To<'_>, reply: &Reply) {
        let text = reply.text();
        let repeated = text.strip_prefix("OK <").and_then(|text| text.strip_suffix('>'));
        if let (Some(repeated), Some(address)) = (repeated, to.address())
            && reply.is_positive()
            && !repeated.eq_ignore_ascii_case(address)
        {
            self.violation("I16", &format!("{text} in reply to {to:?}"));
        }
    }

    /// After the server said that it closes.
    async fn expect_end(&mut self) {
        if self.wire.input.is_empty() {
            self.wire.fill(SHORT).await;
        }
        if !self.wire.input.is_empty() {
            let what = format!("after the end: {}", shown(&self.wire.input));
            self.violation("I16", &what);
        }
    }

    /// From the connection to EHLO.
    pub async fn greet(&mut self) -> bool {
        let banner = self.hear(To::Connecting).await;
        if let Some(reply) = banner.as_ref().filter(|reply| reply.code != 220) {
            self.universe.write(Event::TurnedAway { code: reply.code });
        }
        if banner.is_none_or(|reply| reply.code != 220) {
            return false;
        }
        let ehlo = format!("EHLO [{}]\r\n", self.who);
        if !self.say(ehlo.as_bytes()).await {
            return false;
        }
        let Some(reply) = self.hear(To::Ehlo).await else { return false };
        let offers = |name: &str| {
            let mut names = reply.lines.iter().skip(1).filter_map(|line| line.split(' ').next());
            names.any(|offered| offered.eq_ignore_ascii_case(name))
        };
        self.pipelining &= offers("PIPELINING");
        self.eight_bit_mime = offers("8BITMIME");
        self.size = offers("SIZE");
        reply.is_positive() && self.is_open
    }

    /// Gives up whatever transaction there is.
    pub async fn reset(&mut self) {
        if self.say(b"RSET\r\n").await {
            self.hear(To::Rset).await;
        } else {
            self.hang_up();
        }
    }

    pub async fn quit(&mut self) {
        if self.say(b"QUIT\r\n").await {
            self.hear(To::Quit).await;
        }
        if self.is_open {
            self.wire.shutdown(SHORT).await;
        }
        self.hang_up();
    }

    /// Says what is no SMTP and hears what the server has to say to it; any well-formed reply will do.
    pub async fn babble(&mut self, octets: &[u8]) {
        self.wire.say(octets, SHORT).await;
        self.hear_out().await;
    }

    /// Hears whatever comes until nothing does. Nothing that was said can have handed in a message.
    pub async fn hear_out(&mut self) {
        for _ in 0..BABBLE_REPLIES {
            match self.wire.reply(SHORT).await {
                Heard::Reply(reply) if matches!(reply.code, 221 | 421 | 521) => {
                    self.expect_end().await;
                    break;
                }
                Heard::Reply(reply) if !accepted_ids(&reply).is_empty() => {
                    self.violation("I16", &format!("garbage was accepted: {}", reply.text()));
                }
                Heard::Reply(_) => {}
                Heard::Malformed(what) => {
                    self.violation("I16", &format!("in reply to garbage, {what}"));
                    break;
                }
                Heard::End | Heard::Silence => break,
            }
        }
        self.hang_up();
    }
}

/// The words after `OK ids=`, over all lines.
pub fn accepted_ids(reply: &Reply) -> Vec<String> {
    let text = reply.text();
    let ids = text.strip_prefix("OK ids=").unwrap_or("");
    ids.split_ascii_whitespace().map(String::from).collect()
}

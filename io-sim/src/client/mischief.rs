//! How clients misbehave, drawn once for each transaction. Invariant: what a client says that is no SMTP can never hand in a message.
use super::transaction::{Break, Manner};
use crate::fault::FaultKind;
use crate::universe::Universe;
use kumo_core::random::Random;
use kumo_core::time::Duration;

pub enum Mischief {
    /// The transaction itself is done like that.
    Manner(Manner),
    /// Before the transaction, over another connection than it.
    Garbage(Garbage),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    RandomOctets,
    Http,
    LongLine,
    Nul,
    EarlyTalk,
    UnknownCommands,
}

pub fn draw(universe: &Universe, who: &str, random: &mut Random) -> Mischief {
    use FaultKind as Kind;
    let strikes = |kind| universe.faults.strikes(kind, who);
    let manner = if strikes(Kind::ClientDisconnect).is_some() {
        Manner::Disconnect(match random.below(3) {
            0 => Break::AfterCommands(random.below(8) as usize),
            1 => Break::WithinContent,
            _ => Break::AfterDot,
        })
    } else if let Some(strike) = strikes(Kind::ClientSlow) {
        Manner::Slow(strike.amount.unwrap_or(Duration::from_secs(1)))
    } else if strikes(Kind::ClientDeaf).is_some() {
        Manner::Deaf { floods: random.below(3) == 0 }
    } else if strikes(Kind::ClientGarbage).is_some() {
        match random.below(7) {
            0 => return Mischief::Garbage(Garbage::RandomOctets),
            1 => return Mischief::Garbage(Garbage::Http),
            2 => return Mischief::Garbage(Garbage::LongLine),
            3 => return Mischief::Garbage(Garbage::Nul),
            4 => return Mischief::Garbage(Garbage::EarlyTalk),
            5 => return Mischief::Garbage(Garbage::UnknownCommands),
            _ => Manner::BareLf,
        }
    } else if strikes(Kind::ClientPipelines).is_some() {
        Manner::AtOnce
    } else {
        Manner::Proper
    };
    Mischief::Manner(manner)
}

impl Garbage {
    pub fn is_before_the_greeting(self) -> bool {
        self == Garbage::EarlyTalk
    }

    pub fn octets(self, random: &mut Random) -> Vec<u8> {
        match self {
            Garbage::RandomOctets => {
                let length = 1 + random.below(4_000);
                (0..length).map(|_| random.below(256) as u8).collect()
            }
            Garbage::Http => b"GET / HTTP/1.1\r\nHost: here.example\r\n\r\n".to_vec(),
            Garbage::LongLine => {
                let length = 1_000 + random.below(60_000) as usize;
                [b"MAIL FROM:<", "a".repeat(length).as_bytes(), b"@client.example>\r\n"].concat()
            }
            Garbage::Nul => b"MAIL FROM:<a\0b@client.example>\r\nNOOP\0\r\n\0\r\n".to_vec(),
            Garbage::EarlyTalk => {
                b"EHLO early.example\r\nMAIL FROM:<early@client.example>\r\n".to_vec()
            }
            Garbage::UnknownCommands => b"FROBNICATE the server\r\n".repeat(21),
        }
    }
}

//! What can go wrong at each phase of a server's dialogue, and how it looks on the wire. Invariant: the server's own view goes on as if it
//! had replied properly wherever what it says could be taken for a proper reply.
use super::Server;
use crate::fault::FaultKind;
use kumo_core::random::Random;
use kumo_core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Greet,
    Ehlo,
    StartTls,
    Mail,
    Rcpt,
    Data,
    /// While content flows in.
    Body,
    Dot,
    Rset,
    Quit,
}

impl Phase {
    /// As faults are aimed at it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Greet => "greet",
            Phase::Ehlo => "ehlo",
            Phase::StartTls => "starttls",
            Phase::Mail => "mail",
            Phase::Rcpt => "rcpt",
            Phase::Data => "data",
            Phase::Body => "body",
            Phase::Dot => "dot",
            Phase::Rset => "rset",
            Phase::Quit => "quit",
        }
    }

    fn transient(self) -> &'static str {
        match self {
            Phase::Greet | Phase::Body | Phase::Quit => GOING,
            Phase::StartTls => "454 4.7.0 TLS not available due to temporary reason\r\n",
            Phase::Rcpt => "450 4.2.1 mailbox busy\r\n",
            Phase::Dot => "452 4.3.1 insufficient system storage\r\n",
            _ => "451 4.3.0 local error in processing\r\n",
        }
    }

    fn permanent(self) -> &'static str {
        match self {
            Phase::Greet => "554 5.3.2 no SMTP service here\r\n",
            Phase::Ehlo | Phase::Mail => "550 5.7.1 you are not welcome\r\n",
            Phase::Rcpt => "550 5.1.1 no such user\r\n",
            Phase::StartTls | Phase::Rset | Phase::Quit => "502 5.5.1 not implemented\r\n",
            Phase::Data | Phase::Body | Phase::Dot => "554 5.6.0 we don't want this\r\n",
        }
    }
}

/// After which the server closes.
const GOING: &str = "421 4.3.2 closing the connection\r\n";

/// For octets of a reply that trickles.
pub const TRICKLE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    Hang,
    Drop,
    /// 4yz or 5yz, with its CRLF.
    Reply(&'static str),
    Garbage,
    /// So much later, or octet by octet.
    Slow(Option<Duration>),
    /// Stores, then closes or says nothing more.
    LostReply {
        silently: bool,
    },
}

/// By these names a server is aimed at, at one phase.
pub struct Targets([String; 3]);

impl Targets {
    pub fn of(name: &str, phase: Phase) -> Targets {
        Targets([phase.name().into(), name.into(), format!("{name}/{}", phase.name())])
    }

    fn all(&self) -> [&str; 3] {
        let [phase, host, both] = &self.0;
        [phase, host, both]
    }
}

impl Server {
    pub fn trouble(&self, phase: Phase, random: &mut Random) -> Trouble {
        use FaultKind as Kind;
        let targets = Targets::of(&self.settings.name, phase);
        let targets = targets.all();
        let strikes = |kind| self.universe.faults.strikes_one_of(kind, &targets);
        if strikes(Kind::PeerHang).is_some() {
            Trouble::Hang
        } else if strikes(Kind::PeerDrop).is_some() {
            Trouble::Drop
        } else if strikes(Kind::PeerTransient).is_some() {
            let goes = random.below(4) == 0;
            Trouble::Reply(if goes { GOING } else { phase.transient() })
        } else if strikes(Kind::PeerPermanent).is_some() {
            Trouble::Reply(phase.permanent())
        } else if strikes(Kind::PeerGarbage).is_some() {
            Trouble::Garbage
        } else if let Some(strike) = strikes(Kind::PeerSlow) {
            Trouble::Slow(strike.amount)
        } else if phase == Phase::Dot && strikes(Kind::PeerLostReply).is_some() {
            Trouble::LostReply { silently: random.below(2) == 0 }
        } else {
            Trouble::None
        }
    }

    /// Returns once no such fault is aimed at this server any more.
    pub async fn over(&self, kind: FaultKind, phase: Phase) {
        let targets = Targets::of(&self.settings.name, phase);
        for target in targets.all() {
            self.universe.faults.over(kind, target).await;
        }
    }
}

/// The code of a reply of this file or of [`super::session`].
pub fn code_of(reply: &str) -> u16 {
    reply.get(..3).and_then(|code| code.parse().ok()).expect("a reply begins with its code")
}

/// What a server says that has lost its mind, in place of `proper`.
pub fn garbage(proper: &str, random: &mut Random) -> Vec<u8> {
    match random.below(7) {
        0..3 => no_verdict(random),
        3 => [b"250 ", "x".repeat(100_000).as_bytes(), b"\r\n"].concat(),
        4 => [&b"250-x\r\n".repeat(9_999)[..], b"250 x\r\n"].concat(),
        5 => proper.replace("\r\n", "\n").into_bytes(),
        _ => b"250-this is\r\n451 two things\r\n".to_vec(),
    }
}

/// What nobody can take for a yes: said before the content is there, a yes would be a lie.
pub fn no_verdict(random: &mut Random) -> Vec<u8> {
    match random.below(3) {
        0 => {
            let mut octets: Vec<u8> = (0..64).map(|_| random.below(256) as u8 | 0x80).collect();
            octets.extend_from_slice(b"\r\n");
            octets
        }
        1 => b"999 what a code\r\n".to_vec(),
        _ => b"150 wait a moment\r\n".to_vec(),
    }
}

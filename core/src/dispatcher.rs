//! What a dispatcher does (one session that takes messages from a ready queue to where they go), and when it has done nothing for too long
//! (seed.md 4; D8): [`Progress`] is what it tells of itself, [`Watchdog`] when to look at whom. Invariant: each dispatcher is looked at
//! at the moment at which it would be stuck if nothing were heard of it, and not before. Nothing here aborts anything.
use crate::config::EgressPath;
use crate::config::duration::Human;
use crate::config::queue::DeliveryProtocol;
use crate::id::SessionId;
use crate::time::{Duration, Mono};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::Serialize;

/// Names as in `inspect-ready-q` and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Phase {
    Starting,
    /// Looking for the hosts, connecting, greeting.
    AttemptingConnection,
    Idle,
    /// It would be given a batch, which isn't together yet.
    AccumulatingBatch {
        have: u64,
        want: u64,
    },
    /// It could take a message, and the rate of messages doesn't allow one.
    MessageRateThrottled,
    DeliveringMessage,
    Closing,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What it does within a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    Banner,
    /// EHLO, HELO or LHLO.
    Hello(&'static str),
    StartTls,
    Auth,
    Send {
        recipients: usize,
    },
    /// By policy's own sender, one message or several.
    Lua {
        is_batch: bool,
    },
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Detail::Banner => f.write_str("connect+banner"),
            Detail::Hello(verb) => f.write_str(verb),
            Detail::StartTls => f.write_str("STARTTLS"),
            Detail::Auth => f.write_str("AUTH PLAIN"),
            Detail::Send { recipients } => write!(f, "send msg with {recipients} recip(s)"),
            Detail::Lua { is_batch: false } => f.write_str("lua: send"),
            Detail::Lua { is_batch: true } => f.write_str("lua: send_batch"),
        }
    }
}

/// What is known of a dispatcher from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub began: Mono,
    pub phase: Phase,
    pub detail: Option<Detail>,
    /// When it was last heard of: a phase or detail was entered, a reply came, or the peer took enough of a body.
    pub last: Mono,
    /// Of a body, since then.
    taken: u64,
}

/// A peer that takes a body at this rate makes progress (D8), with so much at a time.
const BODY_OCTETS_A_SECOND: u64 = 500;
const BODY_OCTETS: u64 = 4_096;

impl Progress {
    pub fn new(now: Mono) -> Progress {
        Progress { began: now, phase: Phase::Starting, detail: None, last: now, taken: 0 }
    }

    /// Counts only if it is news.
    pub fn enter(&mut self, now: Mono, phase: Phase, detail: Option<Detail>) {
        if (self.phase, self.detail) != (phase, detail) {
            (self.phase, self.detail) = (phase, detail);
            self.touch(now);
        }
    }

    pub fn touch(&mut self, now: Mono) {
        (self.last, self.taken) = (now, 0);
    }

    /// The peer has taken so much more of a body.
    pub fn took(&mut self, now: Mono, octets: usize) {
        self.taken += octets as u64;
        let wanted = now.since(self.last).as_secs().saturating_mul(BODY_OCTETS_A_SECOND);
        if self.taken >= wanted.max(BODY_OCTETS) {
            self.touch(now);
        }
    }

    /// Why it was aborted, for the records of what it had in hand (seed.md 4). `session`: as its records bear it.
    pub fn abort_text(&self, session: &str, now: Mono) -> String {
        let detail =
            self.detail.map_or("None".into(), |detail| format!("{:?}", detail.to_string()));
        let whole_millis = |time: Duration| Human(Duration::from_millis(time.as_millis() as u64));
        let (age, idle) = (whole_millis(now.since(self.began)), whole_millis(now.since(self.last)));
        let phase = self.phase;
        format!(
            "dispatcher watchdog aborted task; phase={phase} detail={detail} session={session} age={age} time_in_phase={idle}"
        )
    }
}

/// After so long without progress a dispatcher is stuck: as configured, or by its protocol.
pub fn threshold(path: &EgressPath, protocol: &DeliveryProtocol) -> Duration {
    const LEAST: Duration = Duration::from_secs(60);
    if let Some(configured) = path.dispatcher_progress_watchdog_timeout {
        return configured;
    }
    match protocol {
        DeliveryProtocol::Smtp { .. } => {
            let waits = [
                path.mail_from_timeout,
                path.rcpt_to_timeout,
                path.data_timeout,
                path.data_dot_timeout,
            ];
            let longest = waits.into_iter().max().unwrap_or_default();
            longest.saturating_mul(2).max(LEAST).max(beyond(path, path.ehlo_timeout))
        }
        DeliveryProtocol::CustomLua(_) => {
            Duration::from_secs(600).max(beyond(path, path.data_dot_timeout))
        }
        DeliveryProtocol::Maildir { .. } | DeliveryProtocol::Null => LEAST,
    }
}

/// Longer than any single wait of its kind, which ends by itself and says why.
fn beyond(path: &EgressPath, longest: Duration) -> Duration {
    let waits =
        [path.connect_timeout, path.banner_timeout, path.starttls_timeout, path.auth_timeout];
    let longest = waits.into_iter().fold(longest, Duration::max);
    longest.saturating_add(Duration::from_secs(60))
}

/// Who looks so late has stood still itself, and can't say that others have.
const LATE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// When to look at which dispatcher.
#[derive(Debug, Default)]
pub struct Watchdog {
    looks: BTreeSet<(Mono, SessionId)>,
    watched: BTreeMap<SessionId, Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    threshold: Duration,
    look: Mono,
}

impl Watchdog {
    pub fn watch(&mut self, session: SessionId, threshold: Duration, now: Mono) {
        let look = now + threshold;
        let before = self.watched.insert(session, Watched { threshold, look });
        assert!(before.is_none(), "{session:?} began twice");
        self.looks.insert((look, session));
    }

    /// It has ended. Of one that wasn't watched, nothing is to be forgotten.
    pub fn forget(&mut self, session: SessionId) {
        if let Some(watched) = self.watched.remove(&session) {
            self.looks.remove(&(watched.look, session));
        }
    }

    pub fn threshold(&self, session: SessionId) -> Option<Duration> {
        self.watched.get(&session).map(|watched| watched.threshold)
    }

    pub fn next_look(&self) -> Option<Mono> {
        self.looks.first().map(|(at, _)| *at)
    }

    /// Those that are stuck. `last`: when each was last heard of. Whoever is stuck is looked at again a threshold later, if it is
    /// still there.
    pub fn look(&mut self, now: Mono, last: impl Fn(SessionId) -> Mono) -> Vec<SessionId> {
        let mut stuck = Vec::new();
        while let Some((at, session)) = self.looks.first().copied()
            && at <= now
        {
            self.looks.pop_first();
            let watched =
                self.watched.get_mut(&session).expect("who is to be looked at is watched");
            let crossing = last(session) + watched.threshold;
            let is_late = now.since(at) > LATE;
            watched.look = match crossing > now {
                true => crossing,
                false if is_late => now + LOOK_AGAIN,
                false => now + watched.threshold.max(LATE),
            };
            self.looks.insert((watched.look, session));
            if crossing <= now && !is_late {
                stuck.push(session);
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Mono {
        Mono(0) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_threshold_is_as_configured_or_as_the_protocol_has_it() {
        let smtp = DeliveryProtocol::Smtp { mx_list: Default::default() };
        let stock = EgressPath::default();
        let quick = EgressPath {
            mail_from_timeout: SECOND,
            rcpt_to_timeout: SECOND,
            data_timeout: SECOND,
            data_dot_timeout: SECOND,
            connect_timeout: SECOND,
            banner_timeout: SECOND,
            ehlo_timeout: SECOND,
            starttls_timeout: SECOND,
            auth_timeout: SECOND,
            ..EgressPath::default()
        };
        let slow = EgressPath { rcpt_to_timeout: 40 * SECOND, ..quick.clone() };
        let configured = EgressPath {
            dispatcher_progress_watchdog_timeout: Some(7 * SECOND),
            ..EgressPath::default()
        };
        let hello = EgressPath { ehlo_timeout: 300 * SECOND, ..quick.clone() };
        let lua = DeliveryProtocol::CustomLua(crate::config::queue::CustomLua {
            constructor: "make.x".into(),
            batch_size: 1,
            min_batch_size: 1,
            max_batch_latency: Duration::ZERO,
        });
        // D26: data_dot_timeout is 600 s here, where the reference has 300 s.
        for (path, protocol, expected) in [
            (&stock, &smtp, 1200),
            (&quick, &smtp, 61),
            (&slow, &smtp, 80),
            (&hello, &smtp, 360),
            (&stock, &lua, 660),
            (&quick, &lua, 600),
            (&configured, &smtp, 7),
            (&stock, &DeliveryProtocol::Null, 60),
        ] {
            assert_eq!(threshold(path, protocol), Duration::from_secs(expected));
        }
    }

    #[test]
    fn who_looks_late_judges_nobody_and_looks_again() {
        let session = SessionId(1);
        let mut watchdog = Watchdog::default();
        watchdog.watch(session, 60 * SECOND, at(0));
        assert!(watchdog.look(at(3_000), |_| at(0)).is_empty(), "the machine stood still");
        assert_eq!(watchdog.next_look(), Some(at(3_005)));
        assert_eq!(watchdog.look(at(3_005), |_| at(0)), [session]);
    }

    #[test]
    fn no_threshold_keeps_the_watchdog_busy_without_end() {
        let mut watchdog = Watchdog::default();
        watchdog.watch(SessionId(1), Duration::ZERO, at(5));
        assert_eq!(watchdog.look(at(5), |_| at(5)), [SessionId(1)]);
        assert_eq!(watchdog.next_look(), Some(at(6)));
    }

    #[test]
    fn entering_counts_if_it_is_news_and_touching_always() {
        let mut progress = Progress::new(at(0));
        progress.enter(at(1), Phase::AttemptingConnection, Some(Detail::Banner));
        progress.enter(at(2), Phase::AttemptingConnection, Some(Detail::Banner));
        assert_eq!(progress.last, at(1));
        progress.enter(at(3), Phase::AttemptingConnection, Some(Detail::Hello("EHLO")));
        assert_eq!(progress.last, at(3));
        progress.touch(at(4));
        assert_eq!(progress.last, at(4));
    }

    #[test]
    fn the_text_of_an_abort_is_as_operators_know_it() {
        let mut progress = Progress::new(at(0));
        progress.enter(at(5), Phase::DeliveringMessage, Some(Detail::Send { recipients: 2 }));
        let text = progress.abort_text("5f0b", at(725) + Duration::from_micros(3_250));
        let expected = "dispatcher watchdog aborted task; phase=DeliveringMessage detail=\"send msg with 2 recip(s)\" session=5f0b \
                        age=12m 5s 3ms time_in_phase=12m 3ms";
        assert_eq!(text, expected);
        let text = Progress::new(at(0)).abort_text("x", at(60));
        assert!(text.contains("phase=Starting detail=None session=x age=1m"), "{text}");
    }

    #[test]
    fn a_body_is_progress_at_500_octets_a_second() {
        let longest_silence = |octets_a_second: usize| {
            let mut progress = Progress::new(at(0));
            let idle = (1..600).map(|second| {
                progress.took(at(second), octets_a_second);
                at(second).since(progress.last).as_secs()
            });
            idle.max().unwrap()
        };
        assert_eq!(longest_silence(400), 599, "never");
        assert_eq!(longest_silence(500), 8);
        assert_eq!(longest_silence(4_096), 0);
        // What it didn't take in time counts against it later.
        let mut progress = Progress::new(at(0));
        progress.took(at(100), 49_000);
        assert_eq!(progress.last, at(0));
        progress.took(at(100), 1_000);
        assert_eq!(progress.last, at(100));
    }

    proptest! {
        /// Against dispatchers that are heard of at any times: each that is silent for its threshold is found then, to the nanosecond; no other is;
        /// and nobody is looked at more often than once a threshold, but for those that are heard of meanwhile.
        #[test]
        fn who_is_stuck_is_found_at_that_moment(
            dispatchers in prop::collection::vec((1..100u64, prop::collection::vec(1..60u64, 0..20)), 1..10),
        ) {
            let mut watchdog = Watchdog::default();
            let mut ends = BTreeMap::new();
            let mut heard: BTreeMap<SessionId, Vec<Mono>> = BTreeMap::new();
            for (number, (threshold, gaps)) in dispatchers.iter().enumerate() {
                let session = SessionId(number as u64);
                let threshold = Duration::from_secs(*threshold);
                watchdog.watch(session, threshold, at(0));
                let mut moments = alloc::vec![at(0)];
                for gap in gaps {
                    // Whoever is silent for too long isn't heard of again.
                    if Duration::from_secs(*gap) < threshold {
                        moments.push(*moments.last().unwrap() + Duration::from_secs(*gap));
                    }
                }
                ends.insert(session, *moments.last().unwrap() + threshold);
                heard.insert(session, moments);
            }
            let mut looks = 0;
            let most: usize = heard.values().map(|moments| moments.len() + 1).sum();
            while let Some(now) = watchdog.next_look() {
                looks += 1;
                let last = |session: SessionId| {
                    *heard[&session].iter().rfind(|moment| **moment <= now).unwrap()
                };
                for session in watchdog.look(now, last) {
                    prop_assert_eq!(ends.remove(&session), Some(now));
                    watchdog.forget(session);
                }
            }
            prop_assert!(ends.is_empty() && watchdog.watched.is_empty());
            prop_assert!(looks <= most, "{} looks, {} moments", looks, most);
        }
    }
}

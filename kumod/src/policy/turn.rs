//! Whose turn it is on the processor: a sender's thread lets others go first, so that one which computes without end delays nobody's mail.
//! Invariant: it still gets the share of its weight where processors are scarce for long.
//! Not covered: what computes within one C function is interrupted by the kernel alone, at its next tick.
//!
//! Why a lower weight isn't enough: Linux (EEVDF, 6.6 and later) passes over a thread that has had a few microseconds more than its due,
//! takes whatever else can run, were it of the class SCHED_IDLE, and looks again at the next tick: 4 ms at 250 Hz.
use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// Of the weight of other threads, about a tenth.
const NICE: libc::c_int = 10;
/// Whoever only had something to do in between gives the processor back sooner.
const LONG: Duration = Duration::from_millis(1);

thread_local! {
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// From now on the calling thread gives way, each time that it looks at its budget.
pub fn give_way() {
    // SAFETY: it takes no pointers. 0 is the calling thread. Where it isn't allowed, the weight stays as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    TURN.set(Some(Turn::default()));
}

/// Lets others go, if the calling thread gives way.
pub fn let_others_go() {
    let Some(mut turn) = TURN.get() else { return };
    let began = Instant::now();
    if turn.yields(began) {
        thread::yield_now();
        turn.is_back(began, Instant::now());
        TURN.set(Some(turn));
    }
}

#[derive(Clone, Copy, Default)]
struct Turn {
    kept_until: Option<Instant>,
}

impl Turn {
    fn yields(&self, now: Instant) -> bool {
        self.kept_until.is_none_or(|kept| now >= kept)
    }

    /// The kernel makes whoever yields wait for longer than its share asks for: so it doesn't for as long as it was away.
    fn is_back(&mut self, began: Instant, now: Instant) {
        let away = now - began;
        self.kept_until = (away > LONG).then(|| now + away);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_for_long_keeps_its_turn_for_as_long() {
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let mut turn = Turn::default();
        assert!(turn.yields(began));
        turn.is_back(began, after(1));
        assert!(turn.yields(after(1)));
        turn.is_back(after(1), after(31));
        assert!(!turn.yields(after(60)));
        assert!(turn.yields(after(61)));
        turn.is_back(after(61), after(61));
        assert!(turn.yields(after(61)));
    }

    #[test]
    fn only_a_thread_that_gives_way_has_a_turn_to_lose() {
        let has_turn = || TURN.get().is_some();
        assert!(!has_turn());
        let gives_way = thread::spawn(move || {
            give_way();
            let_others_go();
            // SAFETY: it takes no pointers. 0 is the calling thread.
            (has_turn(), unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
        });
        assert_eq!(gives_way.join().unwrap(), (true, NICE));
        assert!(!has_turn());
    }
}

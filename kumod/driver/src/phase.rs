//! Where the process stands in its life, and waiting for its stop. Invariant: it only goes on, never back; whoever waits for the stop hears of
//! it. Not tokio's `watch`: that wakes its waiters in an order drawn from a counter of the process, and a run could not be repeated.
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Starting,
    Running,
    Stopping,
}

const PHASES: [Phase; 3] = [Phase::Starting, Phase::Running, Phase::Stopping];

#[derive(Debug, Default)]
pub(crate) struct Course {
    /// Its place in [`PHASES`].
    phase: AtomicU8,
    stops: Notify,
}

impl Course {
    pub fn phase(&self) -> Phase {
        PHASES[usize::from(self.phase.load(Ordering::Acquire))]
    }

    pub fn go_on_to(&self, phase: Phase) {
        let before = self.phase.swap(phase as u8, Ordering::AcqRel);
        assert!(before < phase as u8, "{phase:?} follows what comes before it");
        if phase == Phase::Stopping {
            self.stops.notify_waiters();
        }
    }

    /// Returns once the process stops; at once if it does already.
    pub async fn stopping(&self) {
        let told = self.stops.notified();
        if self.phase() != Phase::Stopping {
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_hears_of_the_stop_before_and_after_it() {
        let course = std::sync::Arc::new(Course::default());
        course.go_on_to(Phase::Running);
        let waiter = course.clone();
        let waits = tokio::spawn(async move { waiter.stopping().await });
        tokio::task::yield_now().await;
        course.go_on_to(Phase::Stopping);
        waits.await.unwrap();
        course.stopping().await;
        assert_eq!(course.phase(), Phase::Stopping);
    }
}

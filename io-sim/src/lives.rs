//! The lives of the node under test, and its steps in the outside. Invariant: once a life is over, no step of it is taken any more,
//! however long its tasks still exist: whoever takes one waits for ever. Who kills the tasks and starts the next life is the harness.
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// What happens at a certain step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The life is over at this step, which isn't taken.
    Crash,
    /// The harness is asked to stop the node gracefully.
    Stop,
    /// The disk's operation at this step fails, or every one from here on.
    FailDisk { persistently: bool },
}

/// Where a step is taken: only the disk's can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Disk,
    Elsewhere,
}

/// What the harness is told by a trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    #[default]
    Nothing,
    Crashed,
    StopWanted,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Failed;

pub struct Lives {
    current: AtomicU64,
    steps: AtomicU64,
    trigger: Mutex<Option<(u64, Trigger)>>,
    events: watch::Sender<Event>,
}

impl Default for Lives {
    fn default() -> Lives {
        Lives {
            current: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            trigger: Mutex::new(None),
            events: watch::Sender::new(Event::Nothing),
        }
    }
}

impl Lives {
    /// Ends the life that was, if any; returns the number of the new one.
    pub fn begin(&self) -> u64 {
        self.events.send_replace(Event::Nothing);
        self.current.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// From here on nothing that life does has any effect.
    pub fn end(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_over(&self, life: u64) -> bool {
        self.current.load(Ordering::Relaxed) != life
    }

    /// Steps taken in all lives: disk operations, connections, writes.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// The `step`-th step from the beginning of the run, counted from 1.
    pub fn arm(&self, step: u64, trigger: Trigger) {
        *self.trigger.lock().unwrap_or_else(PoisonError::into_inner) = Some((step, trigger));
    }

    pub fn disarm(&self) {
        *self.trigger.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn events(&self) -> watch::Receiver<Event> {
        self.events.subscribe()
    }

    /// To be awaited before, and again after, anything that a life does to the outside.
    pub async fn alive(&self, life: u64) {
        if self.is_over(life) {
            std::future::pending::<()>().await;
        }
    }

    /// Takes a step of `life`. An error: the disk is to fail.
    pub async fn step(&self, life: u64, place: Place) -> Result<(), Failed> {
        self.alive(life).await;
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let trigger = *self.trigger.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, trigger)) = trigger else { return Ok(()) };
        match trigger {
            Trigger::Crash if step == at => {
                self.end();
                self.events.send_replace(Event::Crashed);
                self.alive(life).await;
            }
            Trigger::Stop if step == at => drop(self.events.send_replace(Event::StopWanted)),
            // The first disk operation at or after the step, or every one.
            Trigger::FailDisk { persistently } if place == Place::Disk && step >= at => {
                if !persistently {
                    self.disarm();
                }
                return Err(Failed);
            }
            _ => {}
        }
        Ok(())
    }
}

//! Places for senders. Invariant: so many stand at a time and no more, whatever became of those who used them; and a destination some of whose
//! senders were given up and still run gets no others, so that one that wedges them takes no more of everybody's places than its connections.
use kumo_driver::policy::Opening;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Senders for one destination that were given up and still run: after so many it gets no more.
pub const GIVEN_UP: usize = 8;

pub struct Places {
    free: Arc<Semaphore>,
    given_up: Mutex<BTreeMap<Purpose, Vec<Weak<Place>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Purpose {
    constructor: Box<str>,
    domain: Box<str>,
}

/// Had by a sender's thread until it ends.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Had by whoever waits for what a sender says. Dropped while the sender runs, it was given up.
pub struct Claim {
    places: Arc<Places>,
    purpose: Purpose,
    place: Weak<Place>,
}

impl Places {
    pub fn new(all: usize) -> Arc<Places> {
        Arc::new(Places { free: Arc::new(Semaphore::new(all)), given_up: Mutex::default() })
    }

    /// Waits until one is free; whoever asks has the deadline.
    pub async fn take(
        self: &Arc<Places>,
        opening: &Opening,
    ) -> Result<(Claim, Arc<Place>), String> {
        let constructor = opening.constructor.clone();
        let purpose = Purpose { constructor, domain: opening.domain.as_str().into() };
        self.refuse_if_wedged(&purpose)?;
        let permit = self.free.clone().acquire_owned().await.expect("nobody closes this semaphore");
        // It may have become so meanwhile.
        self.refuse_if_wedged(&purpose)?;
        let place = Arc::new(Place { _permit: permit });
        let claim = Claim { places: self.clone(), purpose, place: Arc::downgrade(&place) };
        Ok((claim, place))
    }

    fn refuse_if_wedged(&self, purpose: &Purpose) -> Result<(), String> {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = given_up
            .get(purpose)
            .map_or(0, |places| places.iter().filter(|place| still_runs(place)).count());
        if stuck < GIVEN_UP {
            return Ok(());
        }
        let Purpose { constructor, domain } = purpose;
        Err(format!(
            "event {constructor}: {stuck} senders for {domain} were given up and still run; there is another once one of them ends"
        ))
    }

    fn give_up(&self, purpose: &Purpose, place: &Weak<Place>) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.entry(purpose.clone()).or_default().push(place.clone());
        // So there are never more than places.
        given_up.retain(|_, places| {
            places.retain(still_runs);
            !places.is_empty()
        });
    }
}

impl Claim {
    /// The sender is about to end by itself.
    pub fn has_ended(mut self) {
        self.place = Weak::new();
    }
}

fn still_runs(place: &Weak<Place>) -> bool {
    place.strong_count() > 0
}

impl Drop for Claim {
    fn drop(&mut self) {
        if still_runs(&self.place) {
            self.places.give_up(&self.purpose, &self.place);
        }
    }
}

//! The server that kumod delivers to, which does what each recipient's name says, and remembers whom it refused for good.
//! `plain` takes mail, `slow` takes its time, `later` is refused for now once, `never` for good; to the first final dot
//! with `busy` in front it says 450, and after one with `silent` in front it hangs up without a word.
use super::{Behaviour, Sunk, Verdict};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Default)]
pub struct Peer {
    seen: Arc<Mutex<HashSet<String>>>,
    refused: Arc<Mutex<HashSet<String>>>,
}

impl Peer {
    pub fn refused(&self) -> HashSet<String> {
        self.refused.lock().unwrap().clone()
    }

    fn is_first_time(&self, recipient: &str) -> bool {
        self.seen.lock().unwrap().insert(recipient.to_string())
    }
}

impl Behaviour for Peer {
    fn recipient(&self, recipient: &str) -> &'static str {
        if recipient.starts_with("never") {
            self.refused.lock().unwrap().insert(recipient.to_string());
            return "550 5.1.1 no such user";
        }
        if recipient.starts_with("later") && self.is_first_time(recipient) {
            return "450 4.2.1 later";
        }
        "250 2.1.5 ok"
    }

    fn final_dot(&self, sunk: &Sunk, before: usize) -> (Duration, Verdict) {
        let first = sunk.recipients[0].as_str();
        let kind = first.split('-').next().unwrap_or("");
        match kind {
            "slow" => (Duration::from_millis(20 + (before as u64 * 37) % 200), Verdict::Taken),
            "busy" if self.is_first_time(first) => {
                (Duration::ZERO, Verdict::Says("450 4.2.1 busy"))
            }
            "silent" if self.is_first_time(first) => (Duration::ZERO, Verdict::TakenInSilence),
            _ => (Duration::ZERO, Verdict::Taken),
        }
    }
}

//! I15: what has a limit stays below it. Proves, each virtual minute, that the body cache keeps to its budget, and that no site has more connections than its path allows. Memory itself can't be seen here.
use super::{Violation, violation};
use crate::options::Options;
use kumo_core::engine::listing::ReadySummary;
use kumo_core::time::Mono;
use kumo_driver::dispatchers::Dispatcher;

/// What the node says of itself.
pub struct Look {
    pub at: Mono,
    pub body_cache_octets: u64,
    pub ready: Vec<ReadySummary>,
    /// The spool's health gate.
    pub is_shut: bool,
    pub dispatchers: Vec<Dispatcher>,
}

pub fn check(look: &Look, options: &Options) -> Option<Violation> {
    // The newest message is kept whatever its size.
    let budget = options.node.body_cache_octets as u64 + options.load.octets_max as u64 + 4_096;
    if look.body_cache_octets > budget {
        let what = format!("the body cache holds {} octets of {budget}", look.body_cache_octets);
        return Some(violation("I15", look.at, what));
    }
    let too_many = look
        .ready
        .iter()
        .find(|queue| queue.connection_limit.is_some_and(|limit| queue.connections > limit));
    too_many.map(|queue| {
        let what = format!(
            "{} has {} connections, and its limit is {:?}",
            queue.name, queue.connections, queue.connection_limit
        );
        violation("I15", look.at, what)
    })
}

//! What every implementation of a port has to do, as suites that the real and the simulated ones both run.
//! A suite panics where an implementation doesn't conform. It injects no faults: those are the backend's own to test.
mod spool;

pub use spool::spool;

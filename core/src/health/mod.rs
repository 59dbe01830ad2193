//! Whether the spool can be trusted with mail. [`Gate`] judges one store by what its calls came to, what it says of itself, and time;
//! [`DiskGuard`] judges its file system by the room left. Both are machines: the driver reads, probes, opens again and obeys. Invariants:
//! trouble has a beginning and an end; a gate that is shut has a timer, or has said why only an operator can open it; each edge is told once.
mod disk_guard;
mod gate;
#[cfg(test)]
mod tests;

pub use disk_guard::{DiskGuard, Edge, Threshold};
pub use gate::{Call, Cause, Gate, GateConfig, Input, Level, Notice, Output};

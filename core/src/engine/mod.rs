//! The control plane.
pub mod io;
pub use io::*;

//! The client side of one SMTP connection.
pub mod io;
pub use io::*;

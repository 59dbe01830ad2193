//! The server side of one SMTP connection.
pub mod io;
pub use io::*;

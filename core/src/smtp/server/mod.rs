//! The server side of one SMTP connection: [`Session`] takes what happens ([`Input`]) and yields what is wanted
//! ([`Output`]). Invariant: one reply a command, in order, none after [`Output::Close`]; the 250 to a final dot needs
//! a [`crate::commit::Accountable`] and is written in one place (`reception::AwaitDurable::on_submitted`).
//!
//! [`session`] feeds lines and octets to the states; [`greeting`], [`transaction`] and [`reception`] are the states
//! before, in and after the envelope, one type each; [`permission`] is what mail may be to whom; [`context`] is what
//! they share; [`command`] and [`data`] parse.
//! No socket, no TLS, no policy and no spool here: they are asked for.
mod command;
mod context;
mod data;
mod greeting;
pub mod io;
mod permission;
mod reception;
mod session;
pub mod trace;
mod transaction;

pub use io::*;
pub use session::{Session, Settings, WakeReason};

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;

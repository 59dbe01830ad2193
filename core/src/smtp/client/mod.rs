//! The client side of one SMTP or LMTP connection: [`Session`] takes what happens ([`Input`]) and yields what is
//! wanted ([`Output`]). Invariants: every [`Input::Deliver`] gets exactly one [`Output::Report`], and
//! [`Output::Closed`] comes once and last; a reply answers the command it was sent for or the session is over, so
//! that replies never shift by one; [`Fate::Delivered`] needs a 2yz that came after the final dot had left.
//!
//! [`session`] feeds replies to the states; [`greeting`], [`transaction`] and [`completion`] are the states before
//! Ready, up to 354 and after it, one type each; [`context`] is what they share; [`reply_parser`] reads what the
//! server says, [`body`] makes content fit for DATA. No socket, no TLS and no clock here.
//!
//! What the driver owes: it reads while it writes (a pipelined server answers before it has everything), reports
//! [`Input::Flushed`] before octets read later, and after [`Output::Closed`] gives what was sent just before it (a
//! QUIT) only a short time to leave.
mod body;
mod completion;
mod context;
mod greeting;
pub mod io;
mod reply_parser;
mod session;
mod transaction;

pub use io::*;
pub use session::{Session, Settings};

#[cfg(test)]
mod tests;

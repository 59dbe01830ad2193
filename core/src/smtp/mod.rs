//! SMTP, both ends, without a socket: [`server`] receives, [`client`] sends, [`reply`] is what they say.
pub mod base64;
pub mod client;
pub mod reply;
pub mod server;

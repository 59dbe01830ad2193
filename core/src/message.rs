//! A message on its way through kumod: identity, envelope, metadata, content.
//! Invariant: `body` is complete and, once accepted, every line in it ends with CRLF. What the engine holds is
//! not this but an [`crate::engine::Admission`]; how it lies on disk is [`crate::record`]'s business.
use crate::address::{Mailbox, ReversePath};
use crate::id::SpoolId;
use crate::recipients::RecipientSet;
use crate::time::Wall;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Metadata of a connection or a message, by name. What Lua's `get_meta` and `set_meta` see.
pub type Meta = serde_json::Map<alloc::string::String, serde_json::Value>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub sender: ReversePath,
    /// At least one, in the order the client gave them; positions never change ([`RecipientSet`]).
    pub recipients: Vec<Mailbox>,
}

/// When a message may be tried, beyond what its queue says (`msg:set_due`, `msg:set_scheduling`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    pub due: Option<Wall>,
    pub expires: Option<Wall>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub id: SpoolId,
    pub envelope: Envelope,
    /// The recipients that still have no final outcome.
    pub remaining: RecipientSet,
    pub meta: Meta,
    pub schedule: Schedule,
    /// Delivery attempts made so far.
    pub attempts: u16,
    pub body: Bytes,
}

//! What a client session can be told and what it can want. The session's decisions stand beside this file.
//! Invariant: every [`Input::Deliver`] is answered by exactly one [`Output::Report`], and [`Output::Closed`] comes
//! exactly once and last.
use crate::address::{Mailbox, ReversePath};
use crate::port::TlsInfo;
use crate::smtp::reply::Reply;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;

#[derive(Debug)]
pub enum Input<'a> {
    /// The connection stands; wait for the greeting.
    Connected,
    Bytes(&'a [u8]),
    /// The peer closed, or the connection broke.
    Ended,
    /// Completes [`Output::StartTls`].
    TlsDone(Result<TlsInfo, String>),
    /// Only after [`Output::Ready`].
    Deliver(Job),
    /// Say QUIT and close.
    Close,
    /// The process stops, or the session is fenced: no more waiting (D22).
    Abort,
    /// What was sent so far has left, all of it. Deadlines for replies start here.
    Flushed,
    Tick,
}

#[derive(Debug)]
pub enum Output {
    Send(Bytes),
    /// Upgrade the connection; verify as [`crate::smtp::client::Session::tls_connect`] says.
    StartTls,
    /// A transaction can begin.
    Ready,
    Report(Report),
    /// Shut the connection down. The last output.
    Closed(Closed),
}

#[derive(Clone, Debug)]
pub struct Job {
    pub sender: ReversePath,
    /// With their indexes in the engine's terms; at least one.
    pub recipients: Vec<(u32, Mailbox)>,
    pub body: Bytes,
}

/// A recipient's fate in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Delivered(Reply),
    Deferred(Reply),
    Refused(Reply),
    /// The reply to the final dot never came.
    Unknown,
    /// Not tried, through nobody's fault (too many recipients for the peer, or fenced before the body).
    Returned,
}

#[derive(Clone, Debug)]
pub struct Report {
    /// One for each recipient of the job.
    pub fates: Vec<(u32, Fate)>,
    /// [`Output::Ready`] follows at once. If not, [`Output::Closed`] follows.
    pub reusable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    Done,
    /// Before the first `Ready`: the next host of the plan may be tried. The text is for records.
    NeverReady {
        why: String,
        tls_failed: bool,
    },
    /// Later.
    Broken {
        why: String,
    },
}

//! The recorder port: where log records go. The driver says what happened to which message; which metadata and
//! headers a record carries, and how it is written, is the implementation's.
use kumo_core::address::Mailbox;
use kumo_core::log::{PeerAddress, RecordKind, SourceAddress};
use kumo_core::message::Message;
use kumo_core::port::TlsInfo;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Wall;
use std::future::Future;

/// One log record before it is rendered.
#[derive(Clone, Debug)]
pub struct RecordEvent<'a> {
    pub kind: RecordKind,
    pub when: Wall,
    /// The body may be empty where [`Recorder::quotes_header`] says so.
    pub message: &'a Message,
    /// Octets of the message's content.
    pub size: u64,
    pub recipients: Vec<&'a Mailbox>,
    pub queue: &'a str,
    /// The ready queue's name, or what stands for it.
    pub site: &'a str,
    pub response: Reply,
    pub attempts: u16,
    pub peer_address: Option<PeerAddress>,
    pub pool: Option<&'a str>,
    pub source: Option<&'a str>,
    pub source_address: Option<SourceAddress>,
    /// `ESMTP`, `Maildir`, …; `None` for what isn't a delivery.
    pub delivery_protocol: Option<&'a str>,
    pub tls: Option<&'a TlsInfo>,
    pub provider: Option<&'a str>,
    /// UUID of the outgoing or incoming session.
    pub session: Option<String>,
}

pub trait Recorder: Send + Sync + 'static {
    /// Whether records of that kind quote the message's header, so that the body has to be there. If not, it may
    /// be left empty, and nothing is read from the spool for the sake of a log line.
    fn quotes_header(&self, _kind: RecordKind) -> bool {
        true
    }

    /// Returns once the record is in the writer's queue; waits only while that is full, and may be given up meanwhile.
    fn record(&self, event: RecordEvent<'_>) -> impl Future<Output = ()> + Send;

    /// Returns once every record that was taken before is on disk and synced. False: they never will be.
    fn settled(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }
}

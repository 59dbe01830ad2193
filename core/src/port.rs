//! What the outside must offer. Declared here in core's own types, implemented by io-real over the real world and
//! by io-sim over a simulated one; statically dispatched. The driver puts a deadline around every call; an
//! implementation must tolerate its future being dropped at any await, and must never panic on what the
//! outside does. Policy is the driver's to declare, since its questions come from the machines.
use crate::config::egress::IpLookupStrategy;
use crate::id::SpoolId;
use crate::time::{Duration, Now};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};
use core::future::Future;
use core::net::{IpAddr, SocketAddr};

// ---- Spool ---------------------------------------------------------------------------------------------

/// Bodies lie in `Data`, everything else about a message in `Meta`. Meta is the commit point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Data,
    Meta,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolOperation {
    Put { family: Family, key: SpoolId, value: Bytes },
    Delete { family: Family, key: SpoolId },
}

impl SpoolOperation {
    pub fn family(&self) -> Family {
        match self {
            SpoolOperation::Put { family, .. } | SpoolOperation::Delete { family, .. } => *family,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Completes when a power cut can no longer take it back.
    Synced,
    /// Completes when written; the next synced apply or [`Spool::sync`] makes it durable.
    Unsynced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolErrorKind {
    /// What is on disk is damaged.
    Corruption,
    /// The disk or file system said no.
    Io,
    NoSpace,
    /// The store asks for patience (write stall).
    Busy,
    /// Closed, or closing.
    Closed,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SpoolError {
    pub kind: SpoolErrorKind,
    /// Names the path and what the store said.
    pub text: String,
}

/// What a scan had to jump over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub family: Family,
    /// Whose record it is, if the store knows; otherwise there may be several, or none.
    pub id: Option<SpoolId>,
    /// For an operator.
    pub text: String,
}

impl Damage {
    pub fn somewhere(family: Family, text: String) -> Damage {
        Damage { family, id: None, text }
    }
}

/// Entries in key order. `next` is where to go on, `None` at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    pub entries: Vec<(SpoolId, Bytes)>,
    pub next: Option<SpoolId>,
    pub damaged: Vec<Damage>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolProperties {
    pub background_errors: u64,
    pub write_stopped: bool,
    pub compaction_pending: bool,
    pub running_compactions: u64,
    pub pending_compaction_octets: u64,
    pub delayed_write_rate: u64,
    pub mem_table_total: u64,
    pub mem_table_unflushed: u64,
    pub mem_table_readers_total: u64,
    pub cache_total: u64,
    /// It has met damage that compaction must not meet.
    pub automatic_compaction_off: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    pub octets: u64,
    pub octets_total: u64,
    pub inodes: u64,
    pub inodes_total: u64,
}

/// A small key-value store with two families.
pub trait Spool: Send + Sync + 'static {
    /// Whether a batch that touches both families is applied as one. If not, the committer stages it.
    fn is_atomic_across_families(&self) -> bool;
    /// Whether it was damaged when it was opened, now or earlier: then it proves nothing that a record isn't there.
    fn may_lack_records(&self) -> bool;
    /// All of the batch; after [`SpoolErrorKind::Busy`] none of it, after another error an unknown part. Without atomicity across families a
    /// batch is of one family, or nothing is said of it after `Busy`.
    fn apply(
        &self,
        batch: Vec<SpoolOperation>,
        sync: SyncMode,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;
    /// Makes everything of the family that was applied before durable.
    fn sync(&self, family: Family) -> impl Future<Output = Result<(), SpoolError>> + Send;
    fn get(
        &self,
        family: Family,
        key: SpoolId,
    ) -> impl Future<Output = Result<Option<Bytes>, SpoolError>> + Send;
    /// At most `limit` entries from `from` (inclusive; `None` is the beginning). Values are left out when
    /// `keys_only`.
    fn scan(
        &self,
        family: Family,
        from: Option<SpoolId>,
        limit: usize,
        keys_only: bool,
    ) -> impl Future<Output = Result<ScanPage, SpoolError>> + Send;
    fn compact(&self, family: Family) -> impl Future<Output = Result<(), SpoolError>> + Send;
    fn properties(&self, family: Family) -> SpoolProperties;
    fn free_space(
        &self,
        family: Family,
    ) -> impl Future<Output = Result<FreeSpace, SpoolError>> + Send;
    /// Closes and opens the family's store again, for when it has become read-only. [`SpoolErrorKind::Busy`]: it couldn't be closed.
    fn reopen(&self, family: Family) -> impl Future<Output = Result<(), SpoolError>> + Send;
    /// Syncs and closes; later calls get [`SpoolErrorKind::Closed`].
    fn close(&self) -> impl Future<Output = Result<(), SpoolError>> + Send;
}

// ---- Network -------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialRequest {
    pub remote: SocketAddr,
    pub source_address: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetErrorKind {
    Refused,
    Unreachable,
    TimedOut,
    /// Local `bind` failed because no interface has the address.
    AddressNotAvailable,
    /// Local `bind` failed otherwise, and not for want of ports, descriptors or memory.
    Bind,
    AddressInUse,
    Reset,
    /// Out of file descriptors or memory: back off.
    Exhausted,
    /// The TLS handshake failed or broke a rule.
    Tls,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NetError {
    pub kind: NetErrorKind,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    pub protocol: String,
    pub cipher: String,
    pub peer_subject: Vec<String>,
}

/// How a client checks the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVerification {
    /// Chain and name.
    Full,
    /// Any certificate will do.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConnect {
    pub server_name: String,
    pub verification: TlsVerification,
}

/// Where a server's certificate and key come from; `None`: made at start, self-signed for `hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsAccept {
    pub hostname: String,
    pub certificate: Option<(String, String)>,
}

pub trait Network: Send + Sync + 'static {
    type Stream: Stream;
    type Listener: Listener<Stream = Self::Stream>;
    fn dial(
        &self,
        request: DialRequest,
    ) -> impl Future<Output = Result<Self::Stream, NetError>> + Send;
    fn listen(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = Result<Self::Listener, NetError>> + Send;
    /// Loads or makes what `upgrade_server` needs, so that a bad certificate is an error at start.
    fn prepare_tls(&self, accept: &TlsAccept) -> Result<(), NetError>;
}

pub trait Listener: Send + 'static {
    type Stream: Stream;
    /// The next connection and who it is from.
    fn accept(
        &mut self,
    ) -> impl Future<Output = Result<(Self::Stream, SocketAddr), NetError>> + Send;
    fn local_address(&self) -> SocketAddr;
}

/// One connection. `read` may be dropped at its await without losing data; a dropped `write_all` leaves the
/// stream fit for nothing but `shutdown`.
pub trait Stream: Sized + Send + 'static {
    fn local_address(&self) -> Option<SocketAddr>;
    /// Appends to `buffer`, at most its spare room grown to [`crate::limits::READ_CHUNK_OCTETS`]; 0 is the end.
    fn read(
        &mut self,
        buffer: &mut BytesMut,
    ) -> impl Future<Output = Result<usize, NetError>> + Send;
    fn write_all(&mut self, data: &[u8]) -> impl Future<Output = Result<(), NetError>> + Send;
    fn shutdown(&mut self) -> impl Future<Output = ()> + Send;
    fn upgrade_client(
        self,
        connect: TlsConnect,
    ) -> impl Future<Output = Result<(Self, TlsInfo), NetError>> + Send;
    fn upgrade_server(
        self,
        accept: Arc<TlsAccept>,
    ) -> impl Future<Output = Result<(Self, TlsInfo), NetError>> + Send;
}

// ---- Resolver ------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxAnswer {
    /// `(preference, host)`, host in lower case without the trailing dot. Empty: no MX records.
    pub records: Vec<(u16, Box<str>)>,
    pub ttl: Duration,
    /// DNSSEC said so.
    pub secure: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressAnswer {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
    pub secure: bool,
}

/// Never a verdict on a message by itself: `NoSuchDomain` means that the name isn't there, `Failed` that nobody
/// could tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    #[error("{0} does not exist")]
    NoSuchDomain(Box<str>),
    #[error("{0}")]
    Failed(String),
}

pub trait Resolver: Send + Sync + 'static {
    fn mx(&self, domain: &str) -> impl Future<Output = Result<MxAnswer, DnsError>> + Send;
    /// In the order to be tried; an empty answer is NODATA.
    fn addresses(
        &self,
        host: &str,
        strategy: IpLookupStrategy,
    ) -> impl Future<Output = Result<AddressAnswer, DnsError>> + Send;
}

// ---- Host ----------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStatus {
    pub used_octets: u64,
    pub limit_octets: u64,
}

pub trait Host: Send + Sync + 'static {
    /// The only clock there is.
    fn now(&self) -> Now;
    fn hostname(&self) -> String;
    fn interfaces(&self) -> Vec<IpAddr>;
    fn memory(&self) -> MemoryStatus;
    /// Entropy for the process's one seed.
    fn seed(&self) -> u64;
}

// ---- Files ---------------------------------------------------------------------------------------------

/// A maildir delivery: one new file under `directory`, complete and synced before it shows in `new/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaildirDelivery {
    pub directory: String,
    /// Unique within the directory; the writer adds what the maildir format asks for.
    pub name: String,
    pub dir_mode: Option<u32>,
    pub file_mode: Option<u32>,
    pub content: Bytes,
}

/// What kumod writes besides its spool and its logs, and the room that there is.
pub trait Files: Send + Sync + 'static {
    /// The final file name, or what the file system said.
    fn deliver_to_maildir(
        &self,
        delivery: MaildirDelivery,
    ) -> impl Future<Output = Result<String, String>> + Send;
    /// Appends to a journal segment, made on first use. Not synced: a journal is for replay, not for promises.
    fn append_to_journal(
        &self,
        segment: u64,
        data: Vec<u8>,
    ) -> impl Future<Output = Result<(), String>> + Send;
    /// The newest journal segment, of whatever life; 0: there is none.
    fn newest_journal_segment(&self) -> impl Future<Output = Result<u64, String>> + Send;
    /// On the file system of a folder.
    fn free_space(&self, folder: &str) -> impl Future<Output = Result<FreeSpace, String>> + Send;
    /// Removes segments older than `oldest_kept`.
    fn trim_journal(&self, oldest_kept: u64) -> impl Future<Output = Result<(), String>> + Send;
}

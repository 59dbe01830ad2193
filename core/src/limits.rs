//! Every maximum in one place, with the relations between them checked at compile time. A limit that an operator
//! may choose has its default in `config`; what stands here holds whatever the policy says. Full is a reply
//! or a deferral, never a panic.

/// A command line without CRLF, whatever `line_length_hard_limit` says. RFC 5321 4.5.3.1.4 asks for 512; AUTH needs more.
pub const COMMAND_LINE_OCTETS: usize = 12_288;
/// What one read from a connection may bring.
pub const READ_CHUNK_OCTETS: usize = 64 * 1024;
/// Replies waiting for a client that doesn't read. Above it, nothing more is read from that client.
pub const REPLY_BACKLOG_OCTETS: usize = 64 * 1024;
/// Recipients of one message that the engine can hold.
pub const RECIPIENTS_PER_MESSAGE: usize = 65_536;
/// What the messages of one transaction may add up to in memory; above it they share one body, and with it one
/// set of trace headers.
pub const BIFURCATED_OCTETS: usize = 64 * 1024 * 1024;
/// Errors a client may make in one session before it is disconnected (Postfix: 20).
pub const SESSION_ERRORS: u32 = 20;
/// NOOP, RSET, VRFY, HELO and the like without a message between them (Postfix: 100).
pub const SESSION_JUNK_COMMANDS: u32 = 100;

/// A reply line a remote server may send, and the lines of one reply.
pub const SERVER_REPLY_LINE_OCTETS: usize = 4_096;
pub const SERVER_REPLY_LINES: usize = 256;
/// What of a remote server's reply is kept for records.
pub const SERVER_REPLY_TEXT_OCTETS: usize = 4_096;
/// Damaged messages that are listed for operators.
pub const QUARANTINE_LISTED: usize = 10_000;

/// What of a message is handed over before the peer has to have taken it. At the 500 octets a second that D8 asks
/// for, a block takes less than `data_timeout`.
pub const BODY_BLOCK_OCTETS: usize = 128 * 1024;

/// Messages the engine holds. At about 400 octets each this is 4 GB.
pub const MESSAGES: usize = 10_000_000;
/// Scheduled queues, and ready queues, that exist at one time.
pub const SCHEDULED_QUEUES: usize = 1_000_000;
pub const READY_QUEUES: usize = 1_000_000;
/// Outgoing connections of the whole process, whatever the policy allows.
pub const SESSIONS: usize = 20_000;
/// Names of rates that egress paths share. Above it those that aren't in use are forgotten.
pub const SHARED_THROTTLES: usize = 100_000;
/// Messages of one operator's bounce that are being written down at one time.
pub const CONCLUDING_BOUNCES: usize = 8_192;
/// Entries of `bounce` and of `suspend`.
pub const ADMIN_ENTRIES: usize = 10_000;
/// Egress sources whose health is known; above it those that nothing uses are forgotten.
pub const SOURCES: usize = 100_000;
/// Egress pools in use at one time.
pub const POOLS: usize = 10_000;
/// Messages that a sender of policy's may be given at a time: each is in memory with its body.
pub const BATCH_MESSAGES: u64 = 10_000;
/// Messages of one scheduled queue about which `throttle_insert_ready_queue` is asked at one time.
pub const ASKED_AT_ONCE: u64 = 64;
/// Egress sources in one pool.
pub const POOL_ENTRIES: usize = 10_000;
/// Sites whose TLS was found broken and is avoided for a while.
pub const BROKEN_TLS_SITES: usize = 100_000;
/// MX hosts of a domain that are looked at.
pub const MX_HOSTS: usize = 64;
/// Addresses of one connection plan.
pub const PLAN_ADDRESSES: usize = 64;
/// Received header fields before a message counts as looping (RFC 5321 6.3 asks for at least 100).
pub const RECEIVED_FIELDS: usize = 100;

/// Items of one list, or keys of one table, in what policy hands to a constructor.
pub const OPTION_ITEMS: usize = 65_536;
/// Errors, and warnings, that are told about one constructor's table.
pub const OPTION_NOTES: usize = 64;
/// The longest time policy may ask for: 100 years. Sums of a few such times never overflow.
pub const OPTION_SECONDS: u64 = 100 * 31_557_600;

/// One batch of the committer, whichever is reached first.
pub const BATCH_SUBMISSIONS: usize = 512;
pub const BATCH_OCTETS: usize = 8 * 1024 * 1024;
/// Submissions waiting for the committer; more are refused with 451.
pub const COMMIT_BACKLOG: usize = 65_536;

/// Certificates a server keeps ready, each for one listener's settings.
pub const TLS_SERVER_CERTIFICATES: usize = 1_024;
/// What is kept of the subject of a peer's certificate.
pub const TLS_SUBJECT_ATTRIBUTES: usize = 16;
pub const TLS_SUBJECT_ATTRIBUTE_CHARS: usize = 256;
/// Tables within tables that policy hands over or is given.
pub const POLICY_VALUE_DEPTH: usize = 64;
/// Values within one value that policy hands over: `set_meta`, `make_*`, `json_encode`.
pub const POLICY_VALUE_NODES: usize = 1_000_000;
/// The texts of one such value together, and a file or text that policy has parsed.
pub const POLICY_VALUE_OCTETS: usize = 64 * 1024 * 1024;
/// The metadata of a connection or a message together, as policy may set it.
pub const META_OCTETS: usize = 1024 * 1024;
/// Files that policy may `require`, and the octets of each.
pub const POLICY_FILES: usize = 1_000;
pub const POLICY_FILE_OCTETS: usize = 16 * 1024 * 1024;
/// Event handlers, listeners, spools and distinct warnings of one policy.
pub const POLICY_HANDLERS: usize = 10_000;
pub const POLICY_LISTENERS: usize = 1_000;
pub const POLICY_SPOOLS: usize = 16;
pub const POLICY_WARNINGS: usize = 1_000;
/// Throttles of policy that hold somebody back.
pub const POLICY_THROTTLES: usize = 100_000;
/// Values that policy may keep beyond a Lua state.
pub const POLICY_KEPT: usize = 1_000;
/// The text of `kumo.reject` and `kumo.disconnect`, and of what a sender returns.
pub const POLICY_REPLY_OCTETS: usize = 4_096;

/// Shaping files of one load, the sections in them together, and the notes about them.
pub const SHAPING_FILES: usize = 100;
pub const SHAPING_SECTIONS: usize = 65_536;
pub const SHAPING_NOTES: usize = 1_000;
/// A regular expression of an automation rule, and the steps of one match back before it is given up.
pub const SHAPING_REGEX_OCTETS: usize = 4_096;
pub const SHAPING_REGEX_STEPS: usize = 100_000;
/// Host names that one site name may stand for.
pub const SITE_HOSTS: usize = 1_024;

/// Log lines waiting for the writer, together, whatever `back_pressure` says.
pub const LOG_BACKLOG_OCTETS: usize = 256 * 1024 * 1024;
/// Header fields that one log record carries, and what is kept of each value.
pub const LOG_HEADER_FIELDS: usize = 256;
pub const LOG_HEADER_OCTETS: usize = 16 * 1024;
/// Series of one metric that carry a queue's name; the rest are added up in one.
pub const METRIC_SERIES: usize = 5_000;
/// A filter for diagnostics.
pub const DIAGNOSTIC_FILTER_OCTETS: usize = 4_096;

/// A spool record's value.
pub const RECORD_OCTETS: usize = 128 * 1024 * 1024;
/// A message's content, whatever a listener allows: a record is a little larger than what is in it.
pub const BODY_OCTETS: usize = RECORD_OCTETS - 4096;
/// One entry of the journal.
pub const JOURNAL_ENTRY_OCTETS: usize = 2 * 1024 * 1024 * 1024;

/// Calls waiting for a store's writer; further callers wait for room.
pub const SPOOL_JOBS: usize = 64;
/// Reads of one store that run at the same time.
pub const SPOOL_READERS: usize = 16;
/// Values in one page of a scan; a page with more ends early.
pub const SCAN_PAGE_OCTETS: usize = 32 * 1024 * 1024;
/// Folders that a LocalDisk spool remembers as unsynced; above it the whole file system is synced.
pub const LOCAL_DISK_UNSYNCED: usize = 8_192;

const _: () = assert!(COMMAND_LINE_OCTETS <= READ_CHUNK_OCTETS);
const _: () = assert!(BATCH_OCTETS <= RECORD_OCTETS);
const _: () = assert!(SERVER_REPLY_LINE_OCTETS <= READ_CHUNK_OCTETS);

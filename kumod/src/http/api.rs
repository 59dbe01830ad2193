//! The JSON that goes over HTTP, for the server and the tools alike. Names and forms are those that operators' scripts
//! read and write (core.md 8). Invariant: a request with a field that isn't known doesn't parse.
use kumo_core::ceilings::EffectiveConstraints;
use kumo_core::config::duration;
use kumo_core::date;
use kumo_core::message::Meta;
use kumo_core::time::{Duration, Wall};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// How long an administrator's order holds that says nothing else.
pub const ADMIN_DURATION_DEFAULT: Duration = Duration::from_secs(300);

/// A date as RFC 3339 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(pub Wall);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&date::rfc3339(self.0))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&date::rfc3339(self.0))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Moment, D::Error> {
        let text = String::deserialize(from)?;
        let moment = date::parse_rfc3339(&text).map(Moment);
        moment.ok_or_else(|| de::Error::custom("it isn't a date such as '2026-11-24T17:13:29Z'"))
    }
}

/// Which scheduled queues are meant; nothing given means all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BounceRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_domain: Option<String>,
    /// Takes precedence over the four above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue_names: Vec<String>,
    pub reason: String,
    #[serde(default, with = "duration::optional_text", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suppress_logging: bool,
}

/// Of a bounce, and of a preview, which has no id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BounceResponse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Messages by scheduled queue.
    pub bounced: BTreeMap<String, u64>,
    pub total_bounced: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BounceEntry {
    pub id: String,
    pub campaign: Option<String>,
    pub tenant: Option<String>,
    pub domain: Option<String>,
    pub routing_domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue_names: Vec<String>,
    pub reason: String,
    /// What remains of it.
    #[serde(with = "duration::text")]
    pub duration: Duration,
    /// Since it was made.
    pub bounced: BTreeMap<String, u64>,
    pub total_bounced: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Takes precedence over the three above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue_names: Vec<String>,
    pub reason: String,
    #[serde(default, with = "duration::optional_text", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuspendEntry {
    pub id: String,
    pub campaign: Option<String>,
    pub tenant: Option<String>,
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queue_names: Vec<String>,
    pub reason: String,
    #[serde(with = "duration::text")]
    pub duration: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendReadyRequest {
    /// The ready queue's.
    pub name: String,
    pub reason: String,
    #[serde(default, with = "duration::optional_text", skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuspendReadyEntry {
    pub id: String,
    pub name: String,
    pub reason: String,
    #[serde(with = "duration::text")]
    pub duration: Duration,
    pub expires: Moment,
}

/// Names an administrator's order: the answer to making one, and what cancels it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryId {
    pub id: String,
}

/// Egress sources that were used since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sources {
    pub sources: Vec<Source>,
    pub now: Moment,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub name: String,
    /// What destinations see; `null`: the kernel's choice, or the proxy's.
    pub address: Option<String>,
    /// `socks5` or `haproxy`, and where it is.
    pub proxy: Option<String>,
    /// `null`: it is used.
    pub suspension: Option<SourceSuspension>,
    /// What spoke against it since the start, by class.
    pub failures: Vec<FailureClass>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSuspension {
    /// The class of failure.
    pub reason: String,
    pub since: Moment,
    pub until: Moment,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureClass {
    /// `Unplumbed` or `ProxyUnhealthy`.
    pub class: String,
    pub failures: u64,
    pub last: Option<Moment>,
    /// The last one, in words.
    pub why: Option<String>,
}

/// A ready queue from inside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InspectReadyQ {
    pub queue_name: String,
    /// `null` where the DNS has no part in it.
    pub mx: Option<MxHosts>,
    pub egress_source: String,
    pub egress_pool: String,
    /// `smtp_client`, `lua`, `maildir` or `null`.
    pub protocol: String,
    pub state: ReadyQState,
    /// `null` until policy has said it; so are the constraints.
    pub path_config: Option<Map<String, Value>>,
    /// The path's alone: what its scheduled queues allow isn't in it.
    pub constraints: Option<EffectiveConstraints>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_queue_names: Option<Vec<String>>,
    /// The oldest first.
    pub dispatchers: Vec<DispatcherState>,
    pub now: Moment,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MxHosts {
    pub site_name: String,
    /// Hosts by preference, which is a number in text.
    pub by_preference: BTreeMap<String, Vec<String>>,
    /// False: the domain itself stands in for missing MX records.
    pub is_mx: bool,
    pub is_domain_literal: bool,
    pub is_secure: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadyQState {
    pub ready_count: u64,
    pub connection_count: u64,
    pub connection_rate_throttled: Option<Obstacle>,
    pub connection_limited: Option<Obstacle>,
    pub message_rate_throttled: Option<Obstacle>,
    /// By an operator.
    pub suspended: Option<ReadyQSuspension>,
    /// `null` until policy has said the path's configuration.
    #[serde(with = "duration::optional_text")]
    pub watchdog_threshold: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Obstacle {
    pub context: String,
    pub since: Moment,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadyQSuspension {
    pub id: String,
    pub name: String,
    pub reason: String,
    /// What is left of it.
    #[serde(with = "duration::text")]
    pub duration: Duration,
    pub expires: Moment,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DispatcherState {
    /// As the records of its deliveries bear it.
    pub session_id: String,
    pub started_at: Moment,
    #[serde(with = "duration::text")]
    pub age: Duration,
    /// A name, or an object with the name as its key.
    pub phase: Value,
    pub detail: Option<String>,
    /// Since it was last heard of.
    #[serde(with = "duration::text")]
    pub time_in_current_phase: Duration,
    pub messages_delivered: u64,
    pub messages_transfailed: u64,
    pub messages_failed: u64,
    /// Always 0, for those who read it.
    pub delivered_this_connection: u64,
    pub overall_rate_per_sec: f64,
}

/// What a domain's mail comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedEgressPath {
    pub domain: String,
    pub source: String,
    /// `null` where the DNS has no part in it, or didn't tell.
    pub mx: Option<MxHosts>,
    /// Why not: the DNS didn't tell, or says that there is no such domain, or that it takes no mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mx_failure: Option<String>,
    /// The ready queue's.
    pub queue_name: String,
    pub queue_config: Map<String, Value>,
    pub path_config: Map<String, Value>,
    /// Of path and queue together.
    pub constraints: EffectiveConstraints,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadyQStates {
    pub states_by_ready_queue: BTreeMap<String, ReadyQState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortConnection {
    pub queue_name: String,
    pub session_id: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeSource {
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilterRequest {
    pub filter: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSummaryQuery {
    /// Queues of each kind that are listed; the rest is in the totals only.
    pub limit: Option<usize>,
    /// The fullest first, instead of by name.
    #[serde(default)]
    pub by_volume: bool,
    /// Scheduled queues of this domain or routing domain.
    pub domain: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueSummary {
    pub scheduled: Vec<ScheduledQueue>,
    pub scheduled_queues: u64,
    pub scheduled_messages: u64,
    pub ready: Vec<ReadyQueue>,
    pub ready_queues: u64,
    pub ready_messages: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduledQueue {
    pub name: String,
    /// Those in a ready queue or under way not included.
    pub messages: u64,
    /// Of `messages`: due, and waiting for a ready queue to take them.
    pub waiting: u64,
    /// Why they wait.
    pub blocked: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadyQueue {
    pub name: String,
    pub site: String,
    pub source: String,
    pub pool: String,
    pub ready: u64,
    pub in_flight: u64,
    pub connections: u64,
    pub connection_limit: Option<u64>,
    /// Why it sends or connects less than it would like to.
    pub held: Option<String>,
    pub suspended: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub subject: String,
    pub next_action: String,
    /// What has to happen first, as one of a fixed list of words; absent if nothing waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    pub earliest: Option<Moment>,
    /// The nearest cause first.
    pub why: Vec<String>,
    pub now: Moment,
}

/// One string where there is one recipient, an array otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InspectMessage {
    pub id: String,
    pub message: MessageInformation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageInformation {
    pub sender: String,
    /// Those without a final outcome.
    pub recipient: OneOrMany,
    pub meta: Meta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_attempts: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scheduling {
    pub expires: Moment,
}

/// How the spool's stores are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreHealth {
    pub stores: Vec<SpoolStore>,
    /// Where log records go.
    #[serde(default)]
    pub logs: Vec<LogFolder>,
}

/// Why a folder takes nothing whose gate is open, or that has none.
pub const TOO_LITTLE_ROOM: &str =
    "there is less room than min_free_space and min_free_inodes ask for";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogFolder {
    pub path: String,
    /// Less room than the configuration asks for: no mail is taken.
    pub is_full: bool,
    pub free_octets: u64,
    pub free_inodes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpoolStore {
    pub path: String,
    /// `data`, `meta`, or both.
    pub holds: Vec<String>,
    pub accepts_writes: bool,
    /// Why not, and what comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub free_octets: u64,
    pub free_inodes: u64,
    pub background_errors: u64,
    pub write_stopped: bool,
    /// It holds damage that RocksDB's own compaction would stop at; `kumod spool check --repair` takes it out.
    pub automatic_compaction_off: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {
    /// `data` or `meta`.
    pub name: String,
}

/// Damaged messages that were met since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpoolTroubles {
    pub messages: Vec<QuarantinedMessage>,
    /// All of them; the list has a limit.
    pub found: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuarantinedMessage {
    pub id: String,
    pub why: String,
}

/// A message's records as they lie in the spool, in base64; or why one can't be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportedRecord {
    pub id: String,
    pub meta: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_error: Option<String>,
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_error: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InjectResponse {
    pub success_count: u64,
    pub fail_count: u64,
    pub failed_recipients: Vec<String>,
    pub errors: Vec<String>,
}

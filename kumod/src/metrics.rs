//! Metrics for Prometheus, under the names that operators' dashboards know (core.md 10), and as JSON. What has no
//! counterpart there begins with `kumod_`.
//! Invariant: a metric that names queues has at most [`METRIC_SERIES`] series: the largest, and the sum of the rest under
//! `(others)`. Nothing is counted here: a [`Snapshot`] is filled when somebody asks, and rendered. What proxy-server tells is
//! [`proxy`]'s.
pub mod proxy;

use crate::logs::LogCounters;
use kumo_core::engine::listing::{
    ClassSummary, Counts, ReadySummary, ScheduledSummary, SourceSummary,
};
use kumo_core::limits::METRIC_SERIES;
use kumo_core::port::{FreeSpace, MemoryStatus, SpoolProperties};
use kumo_core::queue_name::QueueName;
use kumo_driver::counters::{Counters, Service};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What a metric that names queues calls those that aren't told apart.
const OTHERS: &str = "(others)";

/// Everything there is to tell, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    pub counters: &'a Counters,
    pub counts: Counts,
    /// Messages that the engine holds.
    pub messages: u64,
    pub scheduled: &'a [ScheduledSummary],
    pub ready: &'a [ReadySummary],
    pub sources: &'a [SourceSummary],
    /// One for each database: names and paths differ.
    pub spools: &'a [SpoolSnapshot],
    pub rooms: &'a [RoomSnapshot],
    pub memory: MemoryStatus,
    pub logs: Option<LogSnapshot<'a>>,
    pub lua_idle_states: u64,
}

#[derive(Clone, Debug)]
pub struct SpoolSnapshot {
    /// `data`, `meta`, or both where they are one.
    pub name: String,
    pub path: String,
    pub properties: SpoolProperties,
    /// The health gate is latched.
    pub load_shed: bool,
}

/// What is free where a spool or logs lie.
#[derive(Clone, Debug)]
pub struct RoomSnapshot {
    pub name: String,
    pub free: FreeSpace,
}

#[derive(Clone, Copy, Debug)]
pub struct LogSnapshot<'a> {
    pub counters: &'a LogCounters,
    /// Records that aren't yet on their way to a file.
    pub waiting: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

/// One series of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: u64,
}

/// A metric: its name, what it means, and its series.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: Vec<Sample>,
}

/// The text exposition format 0.0.4. `prefix` restricts it to metrics whose names begin so.
pub fn render(snapshot: &Snapshot<'_>, prefix: Option<&str>) -> String {
    list(snapshot, prefix).text()
}

/// `{name: {help, type, value}}`; the value is a number, an object by label, or a list where there are several labels,
/// with the number under `@`.
pub fn render_json(snapshot: &Snapshot<'_>, prefix: Option<&str>) -> String {
    list(snapshot, prefix).json()
}

fn list<'a>(snapshot: &Snapshot<'_>, prefix: Option<&'a str>) -> List<'a> {
    let mut list = List::of(prefix);
    services(&mut list, snapshot);
    queues(&mut list, snapshot);
    engine(&mut list, snapshot);
    spooling(&mut list, snapshot.counters);
    dialling(&mut list, snapshot.counters);
    sources(&mut list, snapshot.sources);
    spools(&mut list, snapshot.spools);
    rooms(&mut list, snapshot.rooms);
    process(&mut list, snapshot);
    if let Some(logs) = snapshot.logs {
        logging(&mut list, logs);
    }
    list
}

/// Collects the families that are wanted; the samples of others aren't even made.
struct List<'a> {
    prefix: &'a str,
    families: Vec<Family>,
}

impl<'a> List<'a> {
    /// Of metrics whose names begin so.
    fn of(prefix: Option<&'a str>) -> List<'a> {
        List { prefix: prefix.unwrap_or_default(), families: Vec::new() }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        self.families.iter().for_each(|family| family.write_text(&mut text));
        text
    }

    fn json(self) -> String {
        let members =
            self.families.into_iter().map(|family| (family.name.to_owned(), family.json()));
        Value::Object(members.collect()).to_string()
    }

    fn counter<S: Samples>(&mut self, name: &'static str, help: &'static str, samples: S) {
        self.add(Kind::Counter, name, help, samples);
    }

    fn gauge<S: Samples>(&mut self, name: &'static str, help: &'static str, samples: S) {
        self.add(Kind::Gauge, name, help, samples);
    }

    fn add<S: Samples>(&mut self, kind: Kind, name: &'static str, help: &'static str, samples: S) {
        if name.starts_with(self.prefix) {
            self.families.push(Family { name, kind, help, samples: samples.samples() });
        }
    }
}

/// What a family's samples are made of: one number, or a function.
trait Samples {
    fn samples(self) -> Vec<Sample>;
}

impl Samples for u64 {
    fn samples(self) -> Vec<Sample> {
        vec![Sample { labels: Vec::new(), value: self }]
    }
}

impl<F: FnOnce() -> Vec<Sample>> Samples for F {
    fn samples(self) -> Vec<Sample> {
        self()
    }
}

fn sample(label: &'static str, of: impl Into<String>, value: u64) -> Sample {
    Sample { labels: vec![(label, of.into())], value }
}

/// The largest, and the sum of the rest.
fn bounded(mut samples: Vec<Sample>) -> Vec<Sample> {
    if samples.len() <= METRIC_SERIES {
        return samples;
    }
    let kept = METRIC_SERIES - 1;
    samples.select_nth_unstable_by(kept, |a, b| b.value.cmp(&a.value));
    let rest = samples.split_off(kept);
    let labels = rest[0].labels.iter().map(|(name, _)| (*name, OTHERS.to_owned())).collect();
    let value = rest.iter().map(|sample| sample.value).sum();
    samples.sort_by(|a, b| a.labels.cmp(&b.labels));
    samples.push(Sample { labels, value });
    samples
}

/// `smtp_client:source->site@smtp_client`, `lua:source->domain@lua:make.x`.
fn ready_queue(name: &str) -> String {
    let way = name.split_once("->").map_or(name, |(_, way)| way);
    let protocol = way.split_once('@').map_or(way, |(_, protocol)| protocol);
    let short = protocol.split(':').next().unwrap_or(protocol);
    format!("{short}:{name}")
}

fn services(list: &mut List<'_>, snapshot: &Snapshot<'_>) {
    let Counters { esmtp_listener, http_listener, smtp_client, .. } = snapshot.counters;
    let listeners = [("esmtp_listener", esmtp_listener), ("http_listener", http_listener)];
    let all = [listeners[0], listeners[1], ("smtp_client", smtp_client)];
    let of = |services: &[(&'static str, &Service)], number: fn(&Service) -> u64| {
        let samples = services.iter().map(|(name, of)| sample("service", *name, number(of)));
        samples.collect::<Vec<_>>()
    };
    let client = [("smtp_client", smtp_client)];
    list.counter("total_messages_received", "Messages accepted", || {
        of(&listeners, |service| service.messages.get())
    });
    list.counter("total_messages_delivered", "Messages that a peer took", || {
        of(&client, |service| service.messages.get())
    });
    list.counter("total_messages_fail", "Messages that failed for good", || {
        of(&client, |service| service.failed.get())
    });
    list.counter("total_messages_transfail", "Deliveries that failed for the time being", || {
        of(&client, |service| service.transiently_failed.get())
    });
    list.gauge("connection_count", "Connections that stand now", || {
        let queues = snapshot.ready.iter();
        let queues = queues.map(|q| sample("service", ready_queue(&q.name), q.connections));
        let mut samples = of(&all, |service| service.connections.get());
        samples.extend(bounded(queues.collect()));
        samples
    });
    list.counter("total_connection_count", "Connections so far", || {
        of(&all, |service| service.connections_total.get())
    });
    list.counter("total_connections_denied", "Connections turned away", || {
        of(&listeners, |service| service.connections_denied.get())
    });
    list.counter("smtp_server_rejections", "Commands and messages refused", || {
        of(&listeners[..1], |service| service.rejections.get())
    });
}

fn queues(list: &mut List<'_>, snapshot: &Snapshot<'_>) {
    let Snapshot { scheduled, ready, .. } = snapshot;
    list.gauge("ready_count", "Messages in a ready queue", || {
        let samples = ready.iter().map(|q| sample("service", ready_queue(&q.name), q.ready));
        bounded(samples.collect())
    });
    list.gauge("kumod_in_flight", "Messages of a ready queue that are with a connection", || {
        let samples = ready.iter().map(|q| sample("service", ready_queue(&q.name), q.in_flight));
        bounded(samples.collect())
    });
    let help = "Connections that the watchdog cut off; a queue that was idle for long begins anew";
    list.counter("dispatcher_watchdog_aborted_total", help, || {
        let stuck = ready.iter().filter(|q| q.stuck > 0);
        bounded(stuck.map(|q| sample("service", ready_queue(&q.name), q.stuck)).collect())
    });
    list.gauge("scheduled_count", "Messages in a scheduled queue", || {
        bounded(scheduled.iter().map(|q| sample("queue", &q.name, q.messages)).collect())
    });
    list.gauge("scheduled_by_domain", "Messages in scheduled queues, by domain", || {
        let domain = |name: &QueueName<'_>| Some(vec![("domain", name.domain.to_owned())]);
        grouped(scheduled, domain)
    });
    list.gauge("scheduled_by_tenant", "Messages in scheduled queues, by tenant", || {
        grouped(scheduled, |name| Some(vec![("tenant", name.tenant?.to_owned())]))
    });
    let help = "Messages in scheduled queues, by tenant and campaign";
    list.gauge("scheduled_by_tenant_campaign", help, || {
        grouped(scheduled, |name| {
            let tenant = ("tenant", name.tenant?.to_owned());
            Some(vec![tenant, ("campaign", name.campaign?.to_owned())])
        })
    });
    let total = scheduled.iter().map(|queue| queue.messages).sum::<u64>();
    list.gauge("scheduled_count_total", "Messages in all scheduled queues", total);
    list.gauge("scheduled_queue_count", "Scheduled queues", scheduled.len() as u64);
}

/// Sums over the queues that have the labels.
fn grouped(
    scheduled: &[ScheduledSummary],
    labels: impl Fn(&QueueName<'_>) -> Option<Vec<(&'static str, String)>>,
) -> Vec<Sample> {
    let mut sums: BTreeMap<Vec<(&'static str, String)>, u64> = BTreeMap::new();
    for queue in scheduled {
        if let Some(labels) = labels(&QueueName::parse(&queue.name)) {
            *sums.entry(labels).or_default() += queue.messages;
        }
    }
    bounded(sums.into_iter().map(|(labels, value)| Sample { labels, value }).collect())
}

fn engine(list: &mut List<'_>, snapshot: &Snapshot<'_>) {
    let counts = snapshot.counts;
    list.counter(
        "delayed_due_to_message_rate_throttle",
        "Times a queue stood still for a message rate",
        counts.delayed_by_message_rate,
    );
    list.counter(
        "delayed_due_to_ready_queue_full",
        "Times a queue stood still because its ready queue was full",
        counts.delayed_by_full_ready_queue,
    );
    list.counter(
        "delayed_due_to_throttle_insert_ready",
        "Times a queue stood still because throttle_insert_ready_queue said so",
        counts.delayed_by_throttle_insert,
    );
    list.gauge("message_count", "Messages that kumod is responsible for", snapshot.messages);
    list.counter("kumod_admitted_total", "Messages given to the engine", counts.admitted);
    list.counter("kumod_delivered_total", "Recipients delivered to", counts.delivered);
    list.counter("kumod_bounced_total", "Recipients refused for good", counts.bounced);
    list.counter("kumod_deferred_total", "Recipients deferred", counts.transfailed);
    list.counter("kumod_expired_total", "Messages too old to try again", counts.expired);
    list.counter("kumod_admin_bounced_total", "Messages bounced by hand", counts.admin_bounced);
    list.counter("kumod_returned_total", "Attempts that didn't take place", counts.returned);
}

fn spooling(list: &mut List<'_>, counters: &Counters) {
    let bodies = counters.body_cache_messages.get();
    list.gauge("message_data_resident_count", "Messages whose body is in memory", bodies);
    let octets = counters.body_cache_octets.get();
    list.gauge("kumod_body_cache_octets", "Octets of the bodies in memory", octets);
    let batches = counters.synced_batches.get();
    list.counter("kumod_synced_batches_total", "Batches synced to the spool", batches);
    let committed = counters.committed_messages.get();
    list.counter("kumod_committed_messages_total", "Messages in synced batches", committed);
    let help = "Messages acknowledged without being durable";
    list.counter("kumod_waived_messages_total", help, || {
        let null_queue = counters.waived_null_queue.get();
        let flush_off = counters.waived_flush_off.get();
        vec![sample("reason", "flush_off", flush_off), sample("reason", "null_queue", null_queue)]
    });
    let help = "Stores that ended after their deadline and were undone";
    list.counter("kumod_undone_stores_total", help, counters.undone.get());
    let quarantined = counters.quarantined.get();
    list.counter("kumod_quarantined_records_total", "Damaged records put aside", quarantined);
    let swept = counters.orphans_swept.get();
    list.counter("kumod_orphans_swept_total", "Bodies without metadata removed", swept);
    let lost = counters.records_lost.get();
    list.counter("kumod_log_records_lost_total", "Records given up because the log was full", lost);
    let fenced = counters.fenced_tasks.get();
    list.gauge("kumod_fenced_tasks", "Tasks that outlived their operation", fenced);
    let help = "Results of operations that had been given up";
    list.counter("kumod_late_completions_total", help, counters.late_completions.get());
    let gaps = counters.journal_gaps.get();
    list.counter("kumod_journal_gaps_total", "Inputs left out of the journal", gaps);
}

fn dialling(list: &mut List<'_>, counters: &Counters) {
    let help = "Connections from a source address that no interface has";
    list.counter("bind_failures", help, counters.bind_failures.get());
    let help = "Addresses of proxies that couldn't be connected through";
    list.counter("proxy_connection_failures", help, counters.proxy_connection_failures.get());
}

/// Only classes of which a failure was seen, so that sources that are well have no series.
fn sources(list: &mut List<'_>, sources: &[SourceSummary]) {
    let seen = |label: &'static str, value: fn(&SourceSummary, &ClassSummary) -> u64| {
        let classes = sources.iter().flat_map(|source| {
            let seen = source.classes.iter().filter(|class| class.failures > 0);
            seen.map(move |class| (source, class))
        });
        let sample = |(source, class): (&SourceSummary, &ClassSummary)| Sample {
            labels: vec![("source", source.name.clone()), (label, class.failure.name().to_owned())],
            value: value(source, class),
        };
        bounded(classes.map(sample).collect())
    };
    let help = "Attempts to connect that failed for the sake of their source";
    list.counter("egress_source_connection_failures_total", help, || {
        seen("kind", |_, class| class.failures)
    });
    let help = "Suspensions of a source, without extensions";
    list.counter("egress_source_health_suspensions_total", help, || {
        seen("reason", |_, class| class.suspensions)
    });
    let help = "1 while a source is suspended";
    list.gauge("egress_source_health_suspended", help, || {
        seen("reason", |source, class| {
            let suspension = source.suspension.as_ref();
            u64::from(suspension.is_some_and(|suspension| suspension.reason == class.failure))
        })
    });
}

/// Name, help, and where the number is found.
type Reading<T> = (&'static str, &'static str, fn(&T) -> u64);

fn spools(list: &mut List<'_>, spools: &[SpoolSnapshot]) {
    let readings: [Reading<SpoolSnapshot>; 11] = [
        ("rocks_spool_load_shed_active", "1 while the spool takes nothing", |spool| {
            u64::from(spool.load_shed)
        }),
        ("rocks_spool_background_errors", "Failed flushes and compactions", |spool| {
            spool.properties.background_errors
        }),
        ("rocks_spool_write_stopped", "1 while RocksDB takes no writes", |spool| {
            u64::from(spool.properties.write_stopped)
        }),
        ("rocks_spool_compaction_pending", "1 while a compaction is due", |spool| {
            u64::from(spool.properties.compaction_pending)
        }),
        ("rocks_spool_num_running_compactions", "Compactions that run now", |spool| {
            spool.properties.running_compactions
        }),
        ("rocks_spool_estimate_pending_compaction_bytes", "Octets to be compacted", |spool| {
            spool.properties.pending_compaction_octets
        }),
        ("rocks_spool_actual_delayed_write_rate", "Octets a second; 0 is no limit", |spool| {
            spool.properties.delayed_write_rate
        }),
        ("rocks_spool_mem_table_total", "Octets of all memtables", |spool| {
            spool.properties.mem_table_total
        }),
        ("rocks_spool_mem_table_unflushed", "Octets of memtables not yet flushed", |spool| {
            spool.properties.mem_table_unflushed
        }),
        ("rocks_spool_mem_table_readers_total", "Octets that table readers use", |spool| {
            spool.properties.mem_table_readers_total
        }),
        ("rocks_spool_cache_total", "Octets of the block cache", |spool| {
            spool.properties.cache_total
        }),
    ];
    for (name, help, reading) in readings {
        list.gauge(name, help, || {
            spools.iter().map(|spool| sample("path", &spool.path, reading(spool))).collect()
        });
    }
}

fn rooms(list: &mut List<'_>, rooms: &[RoomSnapshot]) {
    let readings: [Reading<FreeSpace>; 4] = [
        ("disk_free_bytes", "Octets free where a spool or logs lie", |free| free.octets),
        ("disk_free_percent", "Percent of the octets", |free| {
            percent(free.octets, free.octets_total)
        }),
        ("disk_free_inodes", "Inodes free where a spool or logs lie", |free| free.inodes),
        ("disk_free_inodes_percent", "Percent of the inodes", |free| {
            percent(free.inodes, free.inodes_total)
        }),
    ];
    for (name, help, reading) in readings {
        list.gauge(name, help, || {
            rooms.iter().map(|room| sample("name", &room.name, reading(&room.free))).collect()
        });
    }
}

/// File systems without a fixed number say 0 of 0, which isn't a shortage.
fn percent(part: u64, whole: u64) -> u64 {
    (u128::from(part) * 100).checked_div(u128::from(whole)).map_or(100, |percent| percent as u64)
}

fn process(list: &mut List<'_>, snapshot: &Snapshot<'_>) {
    let MemoryStatus { used_octets, limit_octets } = snapshot.memory;
    list.gauge("memory_usage", "Octets of memory in use", used_octets);
    list.gauge("memory_limit", "Octets of memory kumod may use", limit_octets);
    let help = "Lua states that wait for a question";
    list.gauge("lua_spare_count", help, snapshot.lua_idle_states);
}

fn logging(list: &mut List<'_>, logs: LogSnapshot<'_>) {
    let counters = logs.counters;
    let help = "Log records that had to wait because back_pressure was reached";
    list.counter("log_submit_full", help, || vec![sample("logger", "local", counters.full.get())]);
    let records = counters.records.get();
    list.counter("kumod_log_records_total", "Log records handed to their segments", records);
    let octets = counters.octets.get();
    list.counter("kumod_log_octets_total", "Octets of these, before compression", octets);
    let errors = counters.errors.get();
    list.counter("kumod_log_errors_total", "Attempts to write log records that failed", errors);
    let late = counters.late.get();
    list.counter("kumod_log_late_total", "Log records lost after the log was closed", late);
    list.gauge("kumod_log_waiting", "Log records that wait for the writer", logs.waiting);
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

impl Family {
    fn write_text(&self, text: &mut String) {
        let Family { name, help, kind, samples } = self;
        let kind = kind.name();
        text.extend(["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"]);
        for sample in samples {
            text.push_str(name);
            write_labels(&sample.labels, text);
            writeln!(text, " {}", sample.value).expect("a String takes everything");
        }
    }

    fn json(self) -> Value {
        let value = match self.samples.first().map(|sample| sample.labels.len()) {
            Some(0) => json!(self.samples[0].value),
            None | Some(1) => by_label(self.samples),
            Some(_) => self.samples.into_iter().map(Sample::json).collect(),
        };
        json!({"help": self.help, "type": self.kind.name(), "value": value})
    }
}

fn write_labels(labels: &[(&'static str, String)], text: &mut String) {
    for (position, (name, value)) in labels.iter().enumerate() {
        text.extend([if position == 0 { "{" } else { "," }, name, "=\""]);
        for character in value.chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                _ => text.push(character),
            }
        }
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

/// `{label: {its value: number}}`.
fn by_label(samples: Vec<Sample>) -> Value {
    let mut object = Map::new();
    for sample in samples {
        for (label, of) in sample.labels {
            object.entry(label).or_insert_with(|| json!({}))[of] = json!(sample.value);
        }
    }
    Value::Object(object)
}

impl Sample {
    fn json(self) -> Value {
        let mut object = Map::from_iter([("@".to_owned(), json!(self.value))]);
        object.extend(self.labels.into_iter().map(|(name, of)| (name.to_owned(), of.into())));
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kumo_core::engine::listing::SuspensionSummary;
    use kumo_core::source_health::SourceFailure;
    use kumo_core::time::Wall;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn scheduled(name: &str, messages: u64) -> ScheduledSummary {
        ScheduledSummary { name: name.into(), messages, waiting: messages, blocked: None }
    }

    fn ready(name: &str, messages: u64) -> ReadySummary {
        ReadySummary {
            name: name.into(),
            site: "mx.test".into(),
            source: "source".into(),
            pool: "pool".into(),
            ready: messages,
            in_flight: 1,
            connections: 2,
            connection_limit: None,
            held: None,
            suspended: None,
            stuck: 0,
        }
    }

    fn spool(name: &str) -> SpoolSnapshot {
        SpoolSnapshot {
            name: name.into(),
            path: format!("/spool/{name}"),
            properties: SpoolProperties { mem_table_total: 7, ..SpoolProperties::default() },
            load_shed: true,
        }
    }

    fn source(name: &str) -> SourceSummary {
        let class = |failure, failures| ClassSummary {
            failure,
            failures,
            last: None,
            suspensions: failures / 2,
        };
        SourceSummary {
            name: name.into(),
            address: None,
            proxy: None,
            suspension: Some(SuspensionSummary {
                reason: SourceFailure::Unplumbed,
                since: Wall(0),
                until: Wall(1),
            }),
            classes: vec![
                class(SourceFailure::Unplumbed, 4),
                class(SourceFailure::ProxyUnhealthy, 0),
            ],
        }
    }

    fn room(name: &str) -> RoomSnapshot {
        let (octets, octets_total, inodes, inodes_total) = (30, 40, 0, 0);
        let free = FreeSpace { octets, octets_total, inodes, inodes_total };
        RoomSnapshot { name: name.into(), free }
    }

    fn with_snapshot<T>(
        scheduled: &[ScheduledSummary],
        ready: &[ReadySummary],
        use_it: impl FnOnce(&Snapshot<'_>) -> T,
    ) -> T {
        let counters = Counters::default();
        counters.esmtp_listener.messages.add(5);
        counters.smtp_client.messages.add(4);
        let log_counters = LogCounters::default();
        log_counters.full.add(3);
        use_it(&Snapshot {
            counters: &counters,
            counts: Counts { delayed_by_message_rate: 9, ..Counts::default() },
            messages: 11,
            scheduled,
            ready,
            sources: &[source("ip-1")],
            spools: &[spool("data"), spool("meta")],
            rooms: &[room("data"), room("meta"), room("logs at /logs")],
            memory: MemoryStatus { used_octets: 1, limit_octets: 2 },
            logs: Some(LogSnapshot { counters: &log_counters, waiting: 6 }),
            lua_idle_states: 8,
        })
    }

    type Labels = Vec<(String, String)>;

    /// The series that the text names, or where it breaks the exposition format.
    fn check(text: &str) -> Result<BTreeSet<(String, Labels)>, String> {
        let mut series = BTreeSet::new();
        let mut families = BTreeSet::new();
        let mut lines = text.lines();
        let mut family = String::new();
        assert!(text.is_empty() || text.ends_with('\n'));
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, _) = help.split_once(' ').ok_or("HELP without text")?;
                let described = lines.next().and_then(|next| next.strip_prefix("# TYPE "));
                let kind = described.and_then(|of| of.strip_prefix(name)).ok_or("no TYPE")?;
                if ![" counter", " gauge"].contains(&kind) || !families.insert(name.to_owned()) {
                    return Err(format!("{name}: {kind}"));
                }
                family = name.into();
                continue;
            }
            let (name, labels, rest) = read_series(line)?;
            rest.strip_prefix(' ')
                .and_then(|number| number.parse::<u64>().ok())
                .ok_or("no number")?;
            if name != family || !series.insert((name, labels)) {
                return Err(format!("out of place, or twice: {line}"));
            }
        }
        Ok(series)
    }

    fn read_series(line: &str) -> Result<(String, Labels, &str), String> {
        let end = line.find(['{', ' ']).ok_or("no name")?;
        let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let (name, mut rest) = line.split_at(end);
        if !is_name(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("bad name: {line}"));
        }
        let mut labels = Vec::new();
        while let Some(inside) = rest.strip_prefix(if labels.is_empty() { '{' } else { ',' }) {
            let (label, value) = inside.split_once("=\"").ok_or("no label")?;
            let (value, after) = read_value(value)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
        if !labels.is_empty() {
            rest = rest.strip_prefix('}').ok_or("labels don't end")?;
        }
        Ok((name.into(), labels, rest))
    }

    fn read_value(text: &str) -> Result<(String, &str), String> {
        let mut value = String::new();
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => return Ok((value, &text[at + 1..])),
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => return Err("bad escape".into()),
                },
                _ => value.push(character),
            }
        }
        Err("value doesn't end".into())
    }

    #[test]
    fn the_names_and_labels_of_dashboards_are_there() {
        let queues = [scheduled("spring:acme@one.test", 3), scheduled("acme@one.test!two.test", 4)];
        let text = with_snapshot(
            &queues,
            &[
                ready("source->mx.test@smtp_client", 2),
                ready("source->d.test@lua:make.x", 1),
                ready("s@t->m.test@maildir:/a@b", 1),
            ],
            |snapshot| render(snapshot, None),
        );
        check(&text).unwrap();
        for line in [
            r#"total_messages_received{service="esmtp_listener"} 5"#,
            r#"total_messages_delivered{service="smtp_client"} 4"#,
            r#"connection_count{service="http_listener"} 0"#,
            r#"connection_count{service="smtp_client:source->mx.test@smtp_client"} 2"#,
            r#"ready_count{service="smtp_client:source->mx.test@smtp_client"} 2"#,
            r#"ready_count{service="lua:source->d.test@lua:make.x"} 1"#,
            r#"ready_count{service="maildir:s@t->m.test@maildir:/a@b"} 1"#,
            r#"scheduled_count{queue="acme@one.test!two.test"} 4"#,
            r#"scheduled_by_domain{domain="one.test"} 7"#,
            r#"scheduled_by_tenant{tenant="acme"} 7"#,
            r#"scheduled_by_tenant_campaign{tenant="acme",campaign="spring"} 3"#,
            "scheduled_count_total 7",
            "scheduled_queue_count 2",
            "delayed_due_to_message_rate_throttle 9",
            "message_count 11",
            r#"rocks_spool_load_shed_active{path="/spool/data"} 1"#,
            r#"rocks_spool_mem_table_total{path="/spool/meta"} 7"#,
            r#"disk_free_percent{name="data"} 75"#,
            r#"disk_free_inodes_percent{name="data"} 100"#,
            r#"log_submit_full{logger="local"} 3"#,
            "memory_limit 2",
            "lua_spare_count 8",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} isn't in\n{text}");
        }
    }

    #[test]
    fn queues_beyond_the_limit_are_added_up() {
        let name = |number: usize| format!("q{number}.test");
        let queues: Vec<_> = (0..METRIC_SERIES + 10)
            .map(|number| scheduled(&name(number), if number == METRIC_SERIES { 1000 } else { 1 }))
            .collect();
        let text =
            with_snapshot(&queues, &[], |snapshot| render(snapshot, Some("scheduled_count")));
        let series = check(&text).unwrap();
        let queues = series.iter().filter(|(name, _)| name == "scheduled_count").count();
        assert_eq!(queues, METRIC_SERIES);
        let found = |line: &str| text.lines().any(|other| other == line);
        assert!(found(&format!("scheduled_count{{queue=\"q{METRIC_SERIES}.test\"}} 1000")));
        assert!(found("scheduled_count{queue=\"(others)\"} 11"));
        assert!(found(&format!("scheduled_count_total {}", METRIC_SERIES + 1009)));
    }

    #[test]
    fn a_prefix_chooses_metrics() {
        let text = with_snapshot(&[], &[], |snapshot| render(snapshot, Some("rocks_spool_")));
        let names: BTreeSet<String> =
            check(&text).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 11);
        assert!(names.iter().all(|name| name.starts_with("rocks_spool_")));
        assert_eq!(with_snapshot(&[], &[], |snapshot| render(snapshot, Some("nothing"))), "");
    }

    #[test]
    fn as_json_a_metric_is_a_number_an_object_or_a_list() {
        let queues = [scheduled("spring:acme@one.test", 3)];
        let text = with_snapshot(&queues, &[], |snapshot| render_json(snapshot, None));
        let metrics: Value = serde_json::from_str(&text).unwrap();
        let help = "Messages that kumod is responsible for";
        assert_eq!(metrics["message_count"], json!({"help": help, "type": "gauge", "value": 11}));
        assert_eq!(metrics["ready_count"]["value"], json!({}));
        let received = &metrics["total_messages_received"];
        assert_eq!(received["type"], "counter");
        let value = json!({"service": {"esmtp_listener": 5, "http_listener": 0}});
        assert_eq!(received["value"], value);
        let value = json!([{"@": 3, "tenant": "acme", "campaign": "spring"}]);
        assert_eq!(metrics["scheduled_by_tenant_campaign"]["value"], value);
    }

    proptest! {
        #[test]
        fn whatever_queues_are_called_the_text_can_be_parsed(name in "(\\PC|[\"\\\\\n,}= ]){0,20}") {
            let text = with_snapshot(&[scheduled(&name, 1)], &[], |snapshot| render(snapshot, None));
            let labels = vec![("queue".to_owned(), name)];
            prop_assert!(check(&text).unwrap().contains(&("scheduled_count".to_owned(), labels)));
        }
    }
}

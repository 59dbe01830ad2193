//! The command line. What each command does stands in the file named after it.
use clap::{ArgGroup, Args, Parser, Subcommand};
use kumo_core::config::duration;
use kumod::http::client::Endpoint;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 the server refused or failed, 2 wrong usage, 3 the server can't be reached.";

/// Asks and orders a running kumod over its HTTP API.
#[derive(Debug, Parser)]
#[command(name = "kcli", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// Where kumod's HTTP listener is; this host must be among its trusted_hosts
    #[arg(
        long,
        global = true,
        help_heading = "The server",
        env = "KUMO_KCLI_ENDPOINT",
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    pub endpoint: Endpoint,
    /// How long to wait for the server's answer
    #[arg(
        long,
        global = true,
        help_heading = "The server",
        default_value = "30s",
        value_parser = parse_duration,
        value_name = "TIME"
    )]
    pub timeout: Duration,
    #[command(subcommand)]
    pub command: Command,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    if duration.is_zero() {
        return Err("it must be above 0".into());
    }
    Ok(duration)
}

#[derive(Debug, Subcommand)]
pub enum Command {
    QueueSummary(QueueSummary),
    Bounce(Bounce),
    /// Lists the bounces in force, with what each has hit so far
    BounceList(Form),
    /// Ends a bounce; what it has taken, and is still being bounced, stays bounced
    #[command(after_help = "Example: kcli bounce-cancel --id 8c5f2a6e-0b7d-11f0-8000-9d3c1a2b4e5f")]
    BounceCancel {
        /// As `kcli bounce` printed it and `kcli bounce-list` shows it
        #[arg(long, value_name = "ID")]
        id: String,
    },
    Suspend(Suspend),
    /// Lists the suspensions of scheduled queues in force
    SuspendList(Form),
    /// Ends a suspension of scheduled queues
    #[command(
        after_help = "Example: kcli suspend-cancel --id 8c5f2a6e-0b7d-11f0-8000-9d3c1a2b4e5f"
    )]
    SuspendCancel {
        /// As `kcli suspend` printed it and `kcli suspend-list` shows it
        #[arg(long, value_name = "ID")]
        id: String,
    },
    SuspendReadyQ(SuspendReadyQ),
    /// Lists the suspensions of ready queues in force
    SuspendReadyQList(Form),
    /// Ends a suspension of a ready queue
    SuspendReadyQCancel {
        /// As `kcli suspend-ready-q` printed it and `kcli suspend-ready-q-list` shows it
        #[arg(long, value_name = "ID")]
        id: String,
    },
    /// Shows a queued message: envelope, metadata, attempts, and its content if asked for (JSON)
    #[command(after_help = "Examples:
  kcli inspect-message 4fb2a3c60b7d11f080009d3c1a2b4e5f
  kcli inspect-message --want-body 4fb2a3c60b7d11f080009d3c1a2b4e5f | jq -r .message.data")]
    InspectMessage {
        /// The message's id: 32 hexadecimal digits, as in the reply to its final dot and in the logs
        id: String,
        /// Its content as well
        #[arg(long)]
        want_body: bool,
    },
    /// Shows a ready queue from inside: what it is made of, what holds it back, its ceilings, and what each of its connections does
    #[command(after_help = "Examples:
  kcli inspect-ready-q 'ip-1->(mx1|mx2).example.com@smtp_client'
  kcli inspect-ready-q --connections --sched-q 'ip-1->mx.example.com@smtp_client'")]
    InspectReadyQ(InspectReadyQArguments),
    /// Shows what a domain's mail comes to: its queue's configuration, ready queue, egress path and ceilings
    #[command(after_help = "Examples:
  kcli resolve-egress-path example.com
  kcli resolve-egress-path --constraints campaign:tenant@example.com ip-1")]
    ResolveEgressPath(ResolveEgressPathArguments),
    /// Cuts off one connection of a ready queue; its message goes back to its scheduled queue, and no attempt is counted
    #[command(
        after_help = "Example: kcli abort-ready-q-conn 'ip-1->mx.example.com@smtp_client' 5f0b7d11-8c5e-4d1c-9a2b-4e5f4fb2a3c6"
    )]
    AbortReadyQConn {
        /// As `kcli queue-summary` shows it
        #[arg(value_name = "QUEUE_NAME")]
        queue_name: String,
        /// As `kcli inspect-ready-q --connections` and delivery records show it
        #[arg(value_name = "SESSION_ID")]
        session_id: String,
    },
    /// Says what kumod's diagnostic log lets through, until its next start
    #[command(after_help = "Examples:
  kcli set-log-filter 'kumod=debug'
  kcli set-log-filter 'info,kumod::http=trace'")]
    SetLogFilter {
        /// A level, or `target=level` parts separated by commas
        filter: String,
    },
    /// Lists the egress sources that were used since the start: each one's state, why, since when, until when, and what spoke against it
    #[command(after_help = "Example: kcli source-list --json")]
    SourceList(Form),
    /// Ends the suspension of an egress source, so that it is used at once
    #[command(after_help = "Example: kcli source-resume ip-10")]
    SourceResume {
        /// As `kcli source-list` shows it
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Shows how the spool's stores are: whether they take writes, why not, and what comes next
    #[command(after_help = "Example: kcli spool-health --json")]
    SpoolHealth(Form),
    /// Compacts a store of the spool, so that the room of removed messages is free at once
    ///
    /// Prints nothing if all went well. It reads and writes everything in the store; mail goes on meanwhile. It goes on to its end
    /// even if this command is stopped: the metric rocks_spool_num_running_compactions shows it.
    #[command(after_help = "Example: kcli spool-compact --name data")]
    SpoolCompact {
        /// data or meta
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Lists messages whose records in the spool are damaged, as far as they were met since the start
    SpoolListQuarantine(Form),
    /// Prints the records of a message as they lie in the spool, in base64 (JSON)
    #[command(
        after_help = "Example: kcli spool-export-quarantine 4fb2a3c60b7d11f080009d3c1a2b4e5f | jq -r .data | base64 -d"
    )]
    SpoolExportQuarantine {
        /// As `kcli spool-list-quarantine` shows it
        id: String,
    },
    /// Removes a damaged message from the spool, for ever
    #[command(
        after_help = "Example: kcli spool-drop-quarantine --dry-run 4fb2a3c60b7d11f080009d3c1a2b4e5f"
    )]
    SpoolDropQuarantine {
        /// As `kcli spool-list-quarantine` shows it
        id: String,
        /// Remove nothing; say whether it is in quarantine
        #[arg(long)]
        dry_run: bool,
    },
    /// Says what a message does next, when, and why not sooner
    #[command(after_help = "Example: kcli explain-message 4fb2a3c60b7d11f080009d3c1a2b4e5f")]
    ExplainMessage {
        /// 32 hexadecimal digits, as in the reply to its final dot and in the logs
        #[arg(value_name = "ID")]
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Says what a scheduled or a ready queue does next, when, and why not sooner
    #[command(after_help = "Examples:
  kcli explain-queue tenant@example.com
  kcli explain-queue 'ip-1->(mx1|mx2).example.com@smtp_client'")]
    ExplainQueue {
        /// Its whole name, as `kcli queue-summary` shows it
        #[arg(value_name = "NAME")]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Says whether mail leaves by an egress source, why not, and until when
    #[command(after_help = "Example: kcli explain-source ip-1")]
    ExplainSource {
        /// As policy names it
        #[arg(value_name = "NAME")]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Clone, Debug)]
pub struct ResolveEgressPathArguments {
    /// Only the configuration of the egress path, as TOML
    #[arg(long, conflicts_with_all = ["constraints", "json"])]
    pub config: bool,
    /// Only the ceilings
    #[arg(long, conflicts_with = "json")]
    pub constraints: bool,
    /// Print JSON, with everything
    #[arg(long)]
    pub json: bool,
    /// A domain, or a scheduled queue's name
    #[arg(value_name = "DOMAIN")]
    pub domain: String,
    /// An egress source's name; there needn't be such a source
    #[arg(value_name = "SOURCE", default_value = "unspecified")]
    pub source: String,
}

#[derive(Args, Clone, Debug, Default)]
pub struct InspectReadyQArguments {
    /// List its connections: what each does and for how long, and what it has delivered
    #[arg(long, conflicts_with = "json")]
    pub connections: bool,
    /// Show the configuration of its egress path
    #[arg(long, conflicts_with = "json")]
    pub config: bool,
    /// List the scheduled queues that use it
    #[arg(long, conflicts_with = "json")]
    pub sched_q: bool,
    /// Print JSON, with everything
    #[arg(long)]
    pub json: bool,
    /// As `kcli queue-summary` shows it
    #[arg(value_name = "QUEUE_NAME")]
    pub queue_name: String,
}

/// How a listing is printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Form {
    /// Print JSON, as is done anyhow when the output isn't a terminal
    #[arg(long)]
    pub json: bool,
}

/// Lists ready and scheduled queues with their counts and what holds them up
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kcli queue-summary --by-volume --limit 10
  kcli queue-summary --domain example.com --json

Columns of ready queues: READY waits for a connection, FLIGHT is being delivered, CONN are
connections and their limit. Of scheduled queues: QUEUED waits for its time or its turn, DUE is the
part whose time has come.")]
pub struct QueueSummary {
    /// At most so many queues of each kind; the totals count all
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// The fullest first, instead of by name
    #[arg(long)]
    pub by_volume: bool,
    /// Only scheduled queues of this domain or routing domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Bounces queued messages, and for a while those that come
///
/// Every message of the scheduled queues selected is removed, with an AdminBounce record that gives
/// the reason. Messages that come while the bounce is in force are bounced too; one that is being
/// delivered right now isn't. Selectors narrow: a queue has to match all of them.
///
/// It works on in the background: `kcli explain-queue` says how many are left. Like every administrator's entry it is
/// forgotten by a restart, and with it what it hasn't reached.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("which").required(true).multiple(true)
        .args(["everything", "queue", "domain", "routing_domain", "campaign", "tenant"]),
    after_help = "Examples:
  kcli bounce --dry-run --domain example.com
  kcli bounce --domain example.com --reason 'wrong list' --duration 10m
  kcli bounce --queue campaign:tenant@example.com --reason 'recalled'
  kcli bounce --everything --reason 'test system' --suppress-logging"
)]
pub struct Bounce {
    /// Every scheduled queue there is
    #[arg(long, conflicts_with_all = ["queue", "domain", "routing_domain", "campaign", "tenant"])]
    pub everything: bool,
    /// A scheduled queue by its whole name, such as campaign:tenant@domain; may be repeated
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with_all = ["domain", "routing_domain", "campaign", "tenant"]
    )]
    pub queue: Vec<String>,
    /// Scheduled queues of this recipients' domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Scheduled queues routed by way of this domain
    #[arg(long, value_name = "DOMAIN")]
    pub routing_domain: Option<String>,
    /// Scheduled queues of this campaign
    #[arg(long, value_name = "NAME")]
    pub campaign: Option<String>,
    /// Scheduled queues of this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Why; it stands in the records
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    pub reason: Option<String>,
    /// How long messages that come are bounced too (default: 5m)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Write no AdminBounce records
    #[arg(long)]
    pub suppress_logging: bool,
    /// Bounce nothing; show what would be hit now
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON; only --dry-run prints anything else
    #[arg(long)]
    pub json: bool,
}

/// Holds back queued messages for a while
///
/// Messages of the scheduled queues selected stay queued until the suspension ends. Selectors narrow:
/// a queue has to match all of them. A restart ends it, as it ends every administrator's entry.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("which").required(true).multiple(true)
        .args(["everything", "queue", "domain", "campaign", "tenant"]),
    after_help = "Examples:
  kcli suspend --domain example.com --reason 'their MX is down' --duration 2h
  kcli suspend --campaign spring --tenant shop --reason 'check the template'"
)]
pub struct Suspend {
    /// Every scheduled queue there is
    #[arg(long, conflicts_with_all = ["queue", "domain", "campaign", "tenant"])]
    pub everything: bool,
    /// A scheduled queue by its whole name, such as campaign:tenant@domain; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with_all = ["domain", "campaign", "tenant"])]
    pub queue: Vec<String>,
    /// Scheduled queues of this recipients' domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Scheduled queues of this campaign
    #[arg(long, value_name = "NAME")]
    pub campaign: Option<String>,
    /// Scheduled queues of this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Why; it is shown to whoever asks
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// How long (default: 5m)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

/// Holds back one ready queue for a while: one source's deliveries to one site
///
/// Its messages stay queued, and what is being delivered right now is finished. A restart ends it, as it ends every administrator's entry.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kcli suspend-ready-q --name 'ip-1->(mx1|mx2).example.com@smtp_client' --reason 'blocked' --duration 1h")]
pub struct SuspendReadyQ {
    /// The ready queue's whole name, as `kcli queue-summary` shows it
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Why; it is shown to whoever asks
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// How long (default: 5m)
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

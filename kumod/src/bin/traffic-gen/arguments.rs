//! The command line, and what its values have to look like.
use clap::Parser;
use kumo_core::address;
use kumo_core::config::duration;
use kumo_core::config::rate::ThrottleSpec;
use kumo_core::header;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

const SMTP_TARGET: &str = "127.0.0.1:2025";
const HTTP_TARGET: &str = "http://127.0.0.1:8000";
/// What a run without any limit of its own is limited to.
const DURATION_DEFAULT: Duration = Duration::from_secs(60);
/// A body larger than this is a mistake.
const BODY_OCTETS_MAX: usize = 256 * 1024 * 1024;

/// Sends made-up mail and says how fast it was accepted
///
/// Every message has one recipient, in a domain drawn from those given, and the suffix keeps all of
/// them away from real mailboxes. Without --keep-going the first failure ends the run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "traffic-gen",
    version,
    max_term_width = 100,
    after_help = "Examples:
  traffic-gen --message-count 10000 --concurrency 20
  traffic-gen --target mx.test:25 --starttls --duration 5m --throttle 500/s --keep-going
  traffic-gen --http --http-batch-size 100 --message-count 100000 --body-size 16k
  traffic-gen --domain big.test:9 --domain small.test:1 --domain-suffix ''

Exit codes: 0 every message was accepted, 1 some weren't, 2 wrong usage, 3 the target can't be reached."
)]
pub struct Arguments {
    /// host:port to send to, or with --http an http://host:port endpoint
    /// [default: 127.0.0.1:2025, or http://127.0.0.1:8000]
    #[arg(long, value_name = "TARGET", hide_default_value = true)]
    target: Option<String>,
    /// Connections that send at the same time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub concurrency: u16,
    /// How long to send: seconds, or a time such as 5m [default: 60 without --message-count]
    #[arg(long, value_parser = parse_seconds, value_name = "TIME")]
    duration: Option<Duration>,
    /// How many messages to send
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub message_count: Option<u64>,
    /// Octets of each body; k and m stand for 1024 and 1024 × 1024
    #[arg(long, default_value = "1024", value_parser = parse_octets, value_name = "OCTETS")]
    pub body_size: usize,
    /// A file to use as the body instead, without header
    #[arg(long, conflicts_with = "body_size", value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// A recipients' domain and how often it is drawn against the others; may be repeated
    #[arg(
        long = "domain",
        value_name = "DOMAIN[:WEIGHT]",
        default_values = ["a.example:6", "b.example:3", "c.example:1"]
    )]
    pub domains: Vec<WeightedDomain>,
    /// Put behind every domain, so that no mail reaches anybody; '' for none
    #[arg(long, default_value = "mx-sink.test", value_parser = parse_suffix, value_name = "DOMAIN")]
    pub domain_suffix: String,
    /// At most so many messages, over all connections, such as 500/s or 10000/h
    #[arg(long, value_name = "RATE")]
    pub throttle: Option<ThrottleSpec>,
    /// A header field for every message, such as 'X-Campaign: spring'; may be repeated
    #[arg(long = "header", value_parser = parse_header, value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Use STARTTLS, whatever the certificate
    #[arg(long, conflicts_with = "http")]
    pub starttls: bool,
    /// Inject over HTTP instead of SMTP
    #[arg(long)]
    pub http: bool,
    /// Recipients of one HTTP request
    #[arg(
        long,
        default_value_t = 1,
        requires = "http",
        value_parser = clap::value_parser!(u16).range(1..=10_000),
        value_name = "N"
    )]
    pub http_batch_size: u16,
    /// Count failures and go on, connecting anew where a connection was lost
    #[arg(long)]
    pub keep_going: bool,
    /// How long to wait for each answer
    #[arg(long, default_value = "60s", value_parser = parse_seconds, value_name = "TIME")]
    pub timeout: Duration,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    pub fn target(&self) -> &str {
        let default = if self.http { HTTP_TARGET } else { SMTP_TARGET };
        self.target.as_deref().unwrap_or(default)
    }

    /// `None`: until every message is sent.
    pub fn duration(&self) -> Option<Duration> {
        match self.message_count {
            None => Some(self.duration.unwrap_or(DURATION_DEFAULT)),
            Some(_) => self.duration,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedDomain {
    pub domain: String,
    pub weight: u32,
}

impl FromStr for WeightedDomain {
    type Err = String;
    fn from_str(text: &str) -> Result<WeightedDomain, String> {
        let (domain, weight) = match text.rsplit_once(':') {
            None => (text, 1),
            Some((domain, weight)) => {
                let weight = weight.parse().ok().filter(|weight| *weight > 0);
                (domain, weight.ok_or("the weight is a whole number above 0, as in 'a.test:3'")?)
            }
        };
        address::check_domain(domain).map_err(|error| error.to_string())?;
        Ok(WeightedDomain { domain: domain.into(), weight })
    }
}

fn parse_suffix(text: &str) -> Result<String, String> {
    if !text.is_empty() {
        address::check_domain(text).map_err(|error| error.to_string())?;
    }
    Ok(text.into())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let duration = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => duration::parse(text).map_err(|error| error.to_string())?,
    };
    if duration.is_zero() || duration > Duration::from_secs(366 * 86_400) {
        return Err("it must be above 0 and at most a year".into());
    }
    Ok(duration)
}

fn parse_octets(text: &str) -> Result<usize, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K']) {
        Some(number) => (number, 1024),
        None => match text.strip_suffix(['m', 'M']) {
            Some(number) => (number, 1024 * 1024),
            None => (text, 1),
        },
    };
    let octets = number.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    octets
        .filter(|octets| *octets <= BODY_OCTETS_MAX)
        .ok_or_else(|| "it is a number of octets up to 256m, such as 4096 or 16k".into())
}

/// Yields a complete field with its line end.
fn parse_header(text: &str) -> Result<String, String> {
    let (name, value) = text.split_once(':').ok_or("it reads 'Name: value'")?;
    header::render(name.trim(), value.trim()).map_err(|error| error.to_string())
}

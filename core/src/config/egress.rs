//! `kumo.make_egress_path` and `make_egress_pool` (core.md 3.4, seed.md 12): types, defaults and
//! how they are read. Resolving pools to sources is the engine's business.
use super::options::{self, Constructed, OptionTable};
use super::rate::{LimitSpec, ThrottleSpec};
use super::read::{self, Form, Report, Table, is_host_name};
use super::render::shown_by_serde;
use super::{Secret, name_forms, options_of};
use crate::limits;
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EnableTls {
    Opportunistic,
    OpportunisticInsecure,
    Required,
    RequiredInsecure,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IpLookupStrategy {
    Ipv4Only,
    Ipv6Only,
    Ipv4AndIpv6,
    Ipv6ThenIpv4,
    Ipv4ThenIpv6,
}

name_forms!(EnableTls, IpLookupStrategy);
shown_by_serde!(EnableTls, IpLookupStrategy, Cidr);

/// An address block such as `127.0.0.0/8`; a bare address is its own block. Serialised as its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Cidr {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u128::from(a.to_bits()), u128::from(b.to_bits()), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
            _ => return false,
        };
        let ignored = u32::from(width - self.prefix.min(width));
        ignored == 128 || (ours >> ignored) == (theirs >> ignored)
    }

    fn width(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CidrError(&'static str);

impl FromStr for Cidr {
    type Err = CidrError;
    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| CidrError("no IP address stands before the /"))?;
        let width = Cidr::width(address);
        let prefix = prefix.map_or(Some(width), |digits| digits.parse().ok());
        let prefix = prefix
            .filter(|prefix| *prefix <= width)
            .ok_or(CidrError("the prefix length goes to 32 for IPv4 and to 128 for IPv6"))?;
        // Clients are compared in canonical form, so an IPv4 block in IPv6 clothes would match nobody.
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && prefix >= 96 => {
                Ok(Cidr { address: v4, prefix: prefix - 96 })
            }
            _ => Ok(Cidr { address, prefix }),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.prefix == Cidr::width(self.address) {
            true => self.address.fmt(f),
            false => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;
    fn try_from(text: String) -> Result<Cidr, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(block: Cidr) -> String {
        block.to_string()
    }
}

impl Form for Cidr {
    fn read(value: Value, report: &mut Report) -> Option<Cidr> {
        read::from_text(value, "an address or a block such as '10.0.0.0/8'", report)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressPath {
    pub connection_limit: LimitSpec,
    pub additional_connection_limits: BTreeMap<Box<str>, LimitSpec>,
    pub max_connection_rate: Option<ThrottleSpec>,
    pub max_deliveries_per_connection: u64,
    pub max_message_rate: Option<ThrottleSpec>,
    pub additional_message_rate_throttles: BTreeMap<Box<str>, ThrottleSpec>,
    pub source_selection_rate: Option<ThrottleSpec>,
    pub additional_source_selection_rates: BTreeMap<Box<str>, ThrottleSpec>,
    pub max_ready: u64,
    pub max_recipients_per_batch: u64,
    pub consecutive_connection_failures_before_delay: u64,
    pub smtp_port: u16,
    pub enable_tls: EnableTls,
    pub enable_pipelining: bool,
    pub enable_rset: bool,
    pub use_lmtp: bool,
    #[serde(with = "super::duration::text")]
    pub connect_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub banner_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub ehlo_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub mail_from_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub rcpt_to_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub data_timeout: Duration,
    /// 600 s by default (D26).
    #[serde(with = "super::duration::text")]
    pub data_dot_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub rset_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub idle_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub starttls_timeout: Duration,
    #[serde(with = "super::duration::text")]
    pub auth_timeout: Duration,
    #[serde(with = "super::duration::optional_text")]
    pub system_shutdown_timeout: Option<Duration>,
    pub smtp_auth_plain_username: Option<Box<str>>,
    pub smtp_auth_plain_password: Option<Secret>,
    pub allow_smtp_auth_plain_without_tls: bool,
    pub allow_smtp_auth_plain_without_valid_certificate: bool,
    pub ehlo_domain: Option<Box<str>>,
    pub prohibited_hosts: Vec<Cidr>,
    pub skip_hosts: Vec<Cidr>,
    pub ip_lookup_strategy: IpLookupStrategy,
    pub ignore_8bit_checks: bool,
    #[serde(with = "super::duration::optional_text")]
    pub remember_broken_tls: Option<Duration>,
    pub opportunistic_tls_reconnect_on_failed_handshake: bool,
    /// `None`: by the protocol and its other times ([`crate::dispatcher::threshold`]).
    #[serde(with = "super::duration::optional_text")]
    pub dispatcher_progress_watchdog_timeout: Option<Duration>,
    #[serde(with = "super::duration::text")]
    pub refresh_interval: Duration,
    pub provider_name: Option<Box<str>>,
}

impl Default for EgressPath {
    fn default() -> EgressPath {
        let seconds = Duration::from_secs;
        let block = |address: [u8; 4], prefix| Cidr { address: IpAddr::from(address), prefix };
        let block6 =
            |last| Cidr { address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, last]), prefix: 128 };
        EgressPath {
            connection_limit: LimitSpec { limit: 32, force_local: false },
            additional_connection_limits: BTreeMap::new(),
            max_connection_rate: None,
            max_deliveries_per_connection: 1024,
            max_message_rate: None,
            additional_message_rate_throttles: BTreeMap::new(),
            source_selection_rate: None,
            additional_source_selection_rates: BTreeMap::new(),
            max_ready: 1024,
            max_recipients_per_batch: 100,
            consecutive_connection_failures_before_delay: 100,
            smtp_port: 25,
            enable_tls: EnableTls::Opportunistic,
            enable_pipelining: true,
            enable_rset: true,
            use_lmtp: false,
            connect_timeout: seconds(60),
            banner_timeout: seconds(60),
            ehlo_timeout: seconds(300),
            mail_from_timeout: seconds(300),
            rcpt_to_timeout: seconds(300),
            data_timeout: seconds(300),
            data_dot_timeout: seconds(600),
            rset_timeout: seconds(5),
            idle_timeout: seconds(5),
            starttls_timeout: seconds(5),
            auth_timeout: seconds(60),
            system_shutdown_timeout: None,
            smtp_auth_plain_username: None,
            smtp_auth_plain_password: None,
            allow_smtp_auth_plain_without_tls: false,
            allow_smtp_auth_plain_without_valid_certificate: false,
            ehlo_domain: None,
            prohibited_hosts: vec![
                block([127, 0, 0, 0], 8),
                block([0, 0, 0, 0], 32),
                block6(1),
                block6(0),
            ],
            skip_hosts: Vec::new(),
            ip_lookup_strategy: IpLookupStrategy::Ipv4AndIpv6,
            ignore_8bit_checks: false,
            remember_broken_tls: None,
            opportunistic_tls_reconnect_on_failed_handshake: false,
            dispatcher_progress_watchdog_timeout: None,
            refresh_interval: seconds(60),
            provider_name: None,
        }
    }
}

options_of!(EgressPath, {
    connection_limit additional_connection_limits max_connection_rate
    max_deliveries_per_connection max_message_rate additional_message_rate_throttles
    source_selection_rate additional_source_selection_rates max_ready
    max_recipients_per_batch consecutive_connection_failures_before_delay smtp_port
    enable_tls enable_pipelining enable_rset use_lmtp connect_timeout banner_timeout
    ehlo_timeout mail_from_timeout rcpt_to_timeout data_timeout data_dot_timeout
    rset_timeout idle_timeout starttls_timeout auth_timeout system_shutdown_timeout
    smtp_auth_plain_username smtp_auth_plain_password allow_smtp_auth_plain_without_tls
    allow_smtp_auth_plain_without_valid_certificate ehlo_domain prohibited_hosts skip_hosts
    ip_lookup_strategy ignore_8bit_checks remember_broken_tls
    opportunistic_tls_reconnect_on_failed_handshake
    dispatcher_progress_watchdog_timeout refresh_interval provider_name
});

impl Constructed for EgressPath {
    const OPTIONS: &'static OptionTable = &options::EGRESS_PATH;
    fn read(table: &mut Table) -> EgressPath {
        table.together("smtp_auth_plain_username", "smtp_auth_plain_password");
        let mut path = EgressPath::default();
        path.set(table);
        path.check(table);
        path
    }
}

impl EgressPath {
    fn check(&self, table: &mut Table) {
        for (key, number) in [
            ("max_deliveries_per_connection", self.max_deliveries_per_connection),
            ("max_ready", self.max_ready),
            ("max_recipients_per_batch", self.max_recipients_per_batch),
            ("smtp_port", u64::from(self.smtp_port)),
        ] {
            table.check(key, number > 0, "it must be at least 1");
        }
        table.check("refresh_interval", !self.refresh_interval.is_zero(), "it must be above 0");
        self.check_watchdog(table);
        check_ehlo_domain(table, self.ehlo_domain.as_deref());
    }
}

impl EgressPath {
    fn check_watchdog(&self, table: &mut Table) {
        const KEY: &str = "dispatcher_progress_watchdog_timeout";
        let Some(patience) = self.dispatcher_progress_watchdog_timeout else { return };
        table.check(KEY, patience >= Duration::from_secs(1), "it must be at least 1s");
        let waits = [
            (
                "data_dot_timeout",
                self.data_dot_timeout,
                "a server that takes so long over a message gets it again and again",
            ),
            (
                "idle_timeout",
                self.idle_timeout,
                "connections that merely wait for mail are cut off and counted as stuck",
            ),
        ];
        for (wait, longest, then) in waits {
            if patience <= longest {
                table.warn(KEY, format_args!("it isn't above {wait}: {then}"));
            }
        }
    }
}

pub(super) fn check_ehlo_domain(table: &mut Table, domain: Option<&str>) {
    let wrong = "it must be a host name or an address in [ ]";
    table.check("ehlo_domain", domain.is_none_or(is_host_name), wrong);
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolEntry {
    pub name: Box<str>,
    /// 0 drops the entry.
    pub weight: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressPool {
    pub name: Box<str>,
    pub entries: Vec<PoolEntry>,
    #[serde(with = "super::duration::text")]
    pub ttl: Duration,
}

impl Form for PoolEntry {
    fn read(value: Value, report: &mut Report) -> Option<PoolEntry> {
        let mut table = Table::open(value, &options::POOL_ENTRY, report)?;
        let entry =
            PoolEntry { name: table.required_text("name").into(), weight: table.or("weight", 1) };
        table.finish();
        Some(entry)
    }
}

impl Constructed for EgressPool {
    const OPTIONS: &'static OptionTable = &options::EGRESS_POOL;
    fn read(table: &mut Table) -> EgressPool {
        let name = table.required_text("name").into();
        let entries: Vec<PoolEntry> = table.required("entries");
        if entries.len() > limits::POOL_ENTRIES {
            let most = limits::POOL_ENTRIES;
            table.error("entries", format_args!("{} entries are more than {most}", entries.len()));
        }
        EgressPool { name, entries, ttl: table.or("ttl", Duration::from_secs(60)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_rendered() {
        for (text, rendered) in [
            ("127.0.0.0/8", "127.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::1", "::1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            let block: Cidr = text.parse().expect(text);
            assert_eq!(block.to_string(), rendered);
            assert_eq!(rendered.parse(), Ok(block));
        }
        for wrong in ["", "/8", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "1.2.3.4/", "1.2.3.4/x"]
        {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_block_contains_its_addresses_and_no_others() {
        let block = |text: &str, prefix| Cidr { address: text.parse().unwrap(), prefix };
        let inside = |block: Cidr, text: &str| block.contains(text.parse().unwrap());
        assert!(inside(block("127.0.0.0", 8), "127.9.9.9"));
        assert!(inside(block("127.0.0.0", 8), "::ffff:127.0.0.1"));
        assert!(!inside(block("127.0.0.0", 8), "128.0.0.1"));
        assert!(!inside(block("127.0.0.0", 8), "::1"));
        assert!(inside(block("::", 0), "2001:db8::1"));
        assert!(inside(block("0.0.0.0", 0), "9.9.9.9"));
        assert!(!inside(block("::1", 128), "::2"));
    }
}

//! `kumo.make_egress_path`, `make_egress_source`, `make_egress_pool` (core.md 3.4, seed.md 12).
use super::rate::{LimitSpec, ThrottleSpec};
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EnableTls {
    Opportunistic,
    OpportunisticInsecure,
    Required,
    RequiredInsecure,
    Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReconnectStrategy {
    ConnectNextHost,
    TerminateSession,
    ReconnectSameHost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum IpLookupStrategy {
    Ipv4Only,
    Ipv6Only,
    Ipv4AndIpv6,
    Ipv6ThenIpv4,
    Ipv4ThenIpv6,
}

/// An address block such as `127.0.0.0/8`; a bare address is its own block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    pub connect_timeout: Duration,
    pub banner_timeout: Duration,
    pub ehlo_timeout: Duration,
    pub mail_from_timeout: Duration,
    pub rcpt_to_timeout: Duration,
    pub data_timeout: Duration,
    /// 600 s by default (D26).
    pub data_dot_timeout: Duration,
    pub rset_timeout: Duration,
    pub idle_timeout: Duration,
    pub starttls_timeout: Duration,
    pub auth_timeout: Duration,
    pub system_shutdown_timeout: Option<Duration>,
    pub smtp_auth_plain_username: Option<Box<str>>,
    pub smtp_auth_plain_password: Option<Box<str>>,
    pub allow_smtp_auth_plain_without_tls: bool,
    pub allow_smtp_auth_plain_without_valid_certificate: bool,
    pub ehlo_domain: Option<Box<str>>,
    pub prohibited_hosts: Vec<Cidr>,
    pub skip_hosts: Vec<Cidr>,
    pub ip_lookup_strategy: IpLookupStrategy,
    pub ignore_8bit_checks: bool,
    pub reconnect_strategy: ReconnectStrategy,
    pub try_next_host_on_transport_error: bool,
    pub remember_broken_tls: Option<Duration>,
    pub opportunistic_tls_reconnect_on_failed_handshake: bool,
    pub refresh_interval: Duration,
    pub provider_name: Option<Box<str>>,
    pub aggressive_connection_opening: bool,
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
            reconnect_strategy: ReconnectStrategy::ConnectNextHost,
            try_next_host_on_transport_error: false,
            remember_broken_tls: None,
            opportunistic_tls_reconnect_on_failed_handshake: false,
            refresh_interval: seconds(60),
            provider_name: None,
            aggressive_connection_opening: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressSource {
    pub name: Box<str>,
    pub ehlo_domain: Option<Box<str>>,
    pub source_address: Option<IpAddr>,
    pub remote_port: Option<u16>,
    pub ttl: Duration,
}

impl EgressSource {
    /// A source with nothing but its name; `unspecified` is the built-in one.
    pub fn named(name: &str) -> EgressSource {
        EgressSource {
            name: name.into(),
            ehlo_domain: None,
            source_address: None,
            remote_port: None,
            ttl: Duration::from_secs(60),
        }
    }
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
    pub ttl: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

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

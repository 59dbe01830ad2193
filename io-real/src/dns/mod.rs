//! The `Resolver` port over hickory: MX and address look-ups, cached by their TTL.
//!
//! Invariant: only NXDOMAIN, or RFC 6761 for the likes of `.invalid`, makes a name non-existent; every other trouble
//! is [`DnsError::Failed`]. Names are absolute: search domains never apply. Nothing is validated by DNSSEC yet, so
//! nothing claims to be secure.
#[cfg(test)]
mod named;
#[cfg(test)]
mod tests;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Refusal, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use kumo_core::config::egress::IpLookupStrategy;
use kumo_core::limits::{MX_HOSTS, PLAN_ADDRESSES};
use kumo_core::port::{AddressAnswer, DnsError, MxAnswer, Resolver};
use kumo_core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// For an absence whose zone doesn't say how long to believe it (RFC 2308 asks for an SOA), and for literals.
const UNTOLD_TTL: Duration = Duration::from_secs(60);

/// Questions under way on one TCP connection to a server. hickory's 32 would fail look-ups that come in a burst.
const TCP_REQUESTS: usize = 1_024;

/// A stub resolver: asks recursive name servers.
pub struct RealResolver {
    resolver: TokioResolver,
    hosts: Arc<Hosts>,
}

impl RealResolver {
    /// Asks the servers of `/etc/resolv.conf`, with its timeout and attempts; `/etc/hosts` goes first.
    pub fn from_system() -> Result<RealResolver, DnsError> {
        let (config, options) = system_conf::read_system_conf().map_err(|error| {
            DnsError::Failed(format!(
                "/etc/resolv.conf: {error}: name a server in it, or in the policy"
            ))
        })?;
        RealResolver::build(config, options, system_hosts())
    }

    /// Asks `servers`, over UDP and, where an answer is truncated, TCP; `/etc/hosts` goes first.
    pub fn with_servers(servers: Vec<SocketAddr>) -> Result<RealResolver, DnsError> {
        if servers.is_empty() {
            return Err(DnsError::Failed("no name server is configured: name at least one".into()));
        }
        RealResolver::build(configuration(servers), ResolverOpts::default(), system_hosts())
    }

    fn build(
        config: ResolverConfig,
        mut options: ResolverOpts,
        hosts: Hosts,
    ) -> Result<RealResolver, DnsError> {
        options.edns0 = true;
        options.use_hosts_file = ResolveHosts::Never; // `hosts` replaces it.
        options.max_active_requests = TCP_REQUESTS;
        let provider = TokioRuntimeProvider::default();
        let mut resolver = TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map_err(|error| DnsError::Failed(format!("the resolver can't be set up: {error}")))?;
        let hosts = Arc::new(hosts);
        resolver.set_hosts(hosts.clone());
        Ok(RealResolver { resolver, hosts })
    }

    fn is_in_hosts(&self, name: &Name) -> bool {
        [RecordType::A, RecordType::AAAA].into_iter().any(|family| {
            self.hosts.lookup_static_host(&Query::query(name.clone(), family)).is_some()
        })
    }

    async fn family(&self, host: &str, family: RecordType) -> Result<AddressAnswer, DnsError> {
        let name = absolute(host)?;
        match self.resolver.lookup(name, family).await {
            Ok(lookup) => {
                let found = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
                Ok(address_answer(found.collect(), remaining(&lookup)))
            }
            Err(error) => match absence(&error) {
                Some(Absence::Name) => Err(DnsError::NoSuchDomain(host.into())),
                Some(Absence::Records(ttl)) => Ok(address_answer(Vec::new(), ttl)),
                None => Err(failed(host, family, &error)),
            },
        }
    }

    /// The second family is asked only if the first has nothing.
    async fn fallback(
        &self,
        host: &str,
        families: [RecordType; 2],
    ) -> Result<AddressAnswer, DnsError> {
        let first = self.family(host, families[0]).await;
        match first {
            Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
            first => merge(first, self.family(host, families[1]).await),
        }
    }
}

impl Resolver for RealResolver {
    async fn mx(&self, domain: &str) -> Result<MxAnswer, DnsError> {
        let name = absolute(domain)?;
        match self.resolver.lookup(name.clone(), RecordType::MX).await {
            Ok(lookup) => Ok(mx_answer(mx_records(&lookup), remaining(&lookup))),
            Err(error) => match absence(&error) {
                // A name that only /etc/hosts knows does exist.
                Some(Absence::Name) if self.is_in_hosts(&name) => {
                    Ok(mx_answer(Vec::new(), UNTOLD_TTL))
                }
                Some(Absence::Name) => Err(DnsError::NoSuchDomain(domain.into())),
                Some(Absence::Records(ttl)) => Ok(mx_answer(Vec::new(), ttl)),
                None => Err(failed(domain, RecordType::MX, &error)),
            },
        }
    }

    /// Where both families count alike, IPv4 goes first.
    async fn addresses(
        &self,
        host: &str,
        strategy: IpLookupStrategy,
    ) -> Result<AddressAnswer, DnsError> {
        const A: RecordType = RecordType::A;
        const AAAA: RecordType = RecordType::AAAA;
        if let Ok(literal) = host.parse::<IpAddr>() {
            let wanted = takes(strategy, literal).then_some(literal);
            return Ok(address_answer(wanted.into_iter().collect(), UNTOLD_TTL));
        }
        let mut answer = match strategy {
            IpLookupStrategy::Ipv4Only => self.family(host, A).await?,
            IpLookupStrategy::Ipv6Only => self.family(host, AAAA).await?,
            IpLookupStrategy::Ipv4ThenIpv6 => self.fallback(host, [A, AAAA]).await?,
            IpLookupStrategy::Ipv6ThenIpv4 => self.fallback(host, [AAAA, A]).await?,
            IpLookupStrategy::Ipv4AndIpv6 => {
                let (v4, v6) = tokio::join!(self.family(host, A), self.family(host, AAAA));
                merge(v4, v6)?
            }
        };
        answer.addresses.truncate(PLAN_ADDRESSES);
        Ok(answer)
    }
}

fn system_hosts() -> Hosts {
    Hosts::from_system().unwrap_or_else(|error| {
        tracing::warn!("/etc/hosts can't be read, going on without: {error}");
        Hosts::default()
    })
}

fn configuration(servers: Vec<SocketAddr>) -> ResolverConfig {
    let server = |address: SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    };
    ResolverConfig::from_name_servers(servers.into_iter().map(server).collect())
}

/// U-labels become A-labels. What can't be a name can't be looked up, which proves nothing about a domain.
fn absolute(text: &str) -> Result<Name, DnsError> {
    let wrong = |why: &str| DnsError::Failed(format!("{text:?} is not a domain name: {why}"));
    if text.is_empty() || text == "." {
        return Err(wrong("it is empty"));
    }
    let mut name = Name::from_str_relaxed(text).map_err(|error| wrong(&error.to_string()))?;
    name.set_fqdn(true);
    Ok(name)
}

/// What an authoritative "no" is about.
enum Absence {
    Name,
    Records(Duration),
}

/// `None`: nobody could tell.
fn absence(error: &NetError) -> Option<Absence> {
    let NetError::Dns(Refusal::NoRecordsFound(no)) = error else { return None };
    match no.response_code {
        ResponseCode::NXDomain => Some(Absence::Name),
        ResponseCode::NoError => {
            let ttl = no.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            Some(Absence::Records(ttl.unwrap_or(UNTOLD_TTL)))
        }
        _ => None,
    }
}

fn failed(name: &str, kind: RecordType, error: &NetError) -> DnsError {
    DnsError::Failed(format!("DNS look-up of {kind} {name}: {error}"))
}

fn remaining(lookup: &Lookup) -> Duration {
    lookup.valid_until().saturating_duration_since(Instant::now())
}

/// The best [`MX_HOSTS`], in lower case without the trailing dot; the root, a null MX, is empty.
fn mx_records(lookup: &Lookup) -> Vec<(u16, Box<str>)> {
    let found = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::MX(mx) => {
            let host = mx.exchange.to_lowercase().to_ascii();
            Some((mx.preference, host.trim_end_matches('.').into()))
        }
        _ => None,
    });
    let mut records: Vec<(u16, Box<str>)> = found.collect();
    records.sort_unstable();
    records.dedup();
    records.truncate(MX_HOSTS);
    records
}

fn mx_answer(records: Vec<(u16, Box<str>)>, ttl: Duration) -> MxAnswer {
    MxAnswer { records, ttl, secure: false }
}

fn address_answer(addresses: Vec<IpAddr>, ttl: Duration) -> AddressAnswer {
    AddressAnswer { addresses, ttl, secure: false }
}

fn takes(strategy: IpLookupStrategy, address: IpAddr) -> bool {
    match strategy {
        IpLookupStrategy::Ipv4Only => address.is_ipv4(),
        IpLookupStrategy::Ipv6Only => address.is_ipv6(),
        _ => true,
    }
}

/// Two families of one name. Addresses in hand beat trouble with the other family; trouble beats absence,
/// and one family's NODATA beats the other's NXDOMAIN.
fn merge(
    first: Result<AddressAnswer, DnsError>,
    second: Result<AddressAnswer, DnsError>,
) -> Result<AddressAnswer, DnsError> {
    match (first, second) {
        (Ok(mut first), Ok(second)) => {
            first.addresses.extend(second.addresses);
            first.ttl = first.ttl.min(second.ttl);
            Ok(first)
        }
        (Ok(answer), Err(error)) | (Err(error), Ok(answer)) => match error {
            DnsError::Failed(_) if answer.addresses.is_empty() => Err(error),
            _ => Ok(answer),
        },
        (Err(failed @ DnsError::Failed(_)), Err(_)) | (Err(_), Err(failed)) => Err(failed),
    }
}

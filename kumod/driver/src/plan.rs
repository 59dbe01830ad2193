//! The addresses that a session will dial, in order. Looks names up; what may be dialled is `core::mx`'s to say.
use crate::client::Link;
use crate::world::World;
use kumo_core::config::queue::MxListEntry;
use kumo_core::limits;
use kumo_core::mx::{self, Candidate, Plan};
use kumo_core::port::{DnsError, Resolver};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use tokio::time::timeout;

/// For the addresses of one host, and of all of them.
const LOOKUP: Duration = Duration::from_secs(30);
const LOOKUPS: Duration = Duration::from_secs(60);

/// A host to be looked up, or not.
struct Wanted<'a> {
    host: &'a str,
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// `Err`: no host could be looked up, which says nothing about the destination.
pub(crate) async fn make<W: World>(
    link: &Link<W>,
    mx_list: &[MxListEntry],
) -> Result<Plan, String> {
    let mut random = Random::new(link.shared.seed(), "host order");
    let listed = mx_list.iter().map(|entry| Wanted {
        host: &entry.name,
        address: entry.address,
        port: entry.port,
    });
    let wanted: Vec<Wanted<'_>> = if mx_list.is_empty() {
        let order = mx::host_order(&link.target.hosts, &mut random).into_iter();
        order.map(|host| Wanted { host, address: None, port: None }).collect()
    } else {
        listed.collect()
    };
    let mut found = Vec::new();
    let mut errors = Vec::new();
    let began = link.shared.now().mono;
    for one in wanted {
        let left = LOOKUPS.saturating_sub(link.shared.now().mono.since(began)).min(LOOKUP);
        match addresses(link, &one, left).await {
            Ok(addresses) => {
                found.extend(addresses.into_iter().map(|address| candidate(link, &one, address)));
            }
            Err(why) => errors.push(why),
        }
        if found.len() >= limits::PLAN_ADDRESSES {
            break;
        }
    }
    if found.is_empty() && !errors.is_empty() {
        return Err(errors.join("; "));
    }
    Ok(mx::plan(found, &link.target.path))
}

fn candidate<W: World>(link: &Link<W>, wanted: &Wanted<'_>, address: IpAddr) -> Candidate {
    let port = link.target.source.remote_port.or(wanted.port);
    let address = SocketAddr::new(address, port.unwrap_or(link.target.path.smtp_port));
    Candidate { host: wanted.host.into(), address }
}

async fn addresses<W: World>(
    link: &Link<W>,
    wanted: &Wanted<'_>,
    patience: Duration,
) -> Result<Vec<IpAddr>, String> {
    let literal = mx::domain_literal(wanted.host).or_else(|| wanted.host.parse().ok());
    if let Some(address) = wanted.address.or(literal) {
        return Ok(vec![address]);
    }
    let strategy = link.target.path.ip_lookup_strategy;
    let lookup = link.shared.world.resolver().addresses(wanted.host, strategy);
    let answered = timeout(patience, lookup).await;
    link.activity.touch(link.shared.now().mono);
    match answered {
        Ok(Ok(answer)) => Ok(answer.addresses),
        Ok(Err(DnsError::NoSuchDomain(_))) => Ok(Vec::new()),
        Ok(Err(DnsError::Failed(why))) => Err(why),
        Err(_) => Err(format!("no answer about {} within {patience:?}", wanted.host)),
    }
}

//! From a domain to the addresses that will be dialled: site names, what an MX answer means, connection plans.
//! Looking names up is the resolver's business, dialling the driver's.
use crate::config::EgressPath;
use crate::config::queue::{DeliveryProtocol, MxListEntry};
use crate::engine::{Hosts, Resolution};
use crate::limits;
use crate::port::{DnsError, MxAnswer};
use crate::random::Random;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// What the name of a site begins with whose hosts policy lists.
pub const LISTED: &str = "mx_list:";

/// Hosts merged label by label from the right: `(mx1|mx2).example.com`. Sites of one name share connections.
pub fn site_name<'a>(hosts: impl IntoIterator<Item = &'a str>) -> String {
    let hosts: BTreeSet<Vec<&str>> =
        hosts.into_iter().map(|host| host.rsplit('.').collect()).collect();
    let depth = hosts.iter().map(Vec::len).max().unwrap_or(0);
    let mut merged: Vec<String> = Vec::with_capacity(depth);
    for at in 0..depth {
        let labels: BTreeSet<&str> =
            hosts.iter().filter_map(|host| host.get(at).copied()).collect();
        let optional = hosts.iter().any(|host| host.len() <= at);
        let joined = labels.iter().copied().collect::<Vec<_>>().join("|");
        merged.push(match (labels.len(), optional) {
            (1, false) => joined,
            (_, false) => format!("({joined})"),
            (_, true) => format!("({joined})?"),
        });
    }
    merged.reverse();
    merged.join(".")
}

/// Hosts that a site's name may stand for: all that were merged into it, and maybe others. For an `mx_list` just those in
/// it. None if there would be too many.
pub fn site_hosts(site: &str) -> Vec<String> {
    if let Some(list) = site.strip_prefix(LISTED) {
        return list.split(',').map(|label| listed_host(label).into()).collect();
    }
    let (mut whole, mut open): (Vec<String>, Vec<String>) = (Vec::new(), vec![String::new()]);
    for label in site.rsplit('.') {
        let (choices, is_optional) = choices(label);
        if is_optional {
            whole.extend(open.iter().cloned());
        }
        let extended = |host: &String| {
            let dot = if host.is_empty() { "" } else { "." };
            let host = host.clone();
            choices.clone().map(move |choice| format!("{choice}{dot}{host}"))
        };
        if open.len() * choices.clone().count() + whole.len() > limits::SITE_HOSTS {
            return Vec::new();
        }
        open = open.iter().flat_map(extended).collect();
    }
    whole.extend(open);
    whole
}

/// Of `a`, `(a|b)` or `(a|b)?`: what may stand there, and whether it may be missing.
fn choices(label: &str) -> (core::str::Split<'_, char>, bool) {
    let (label, is_optional) = match label.strip_suffix('?') {
        Some(label) => (label, true),
        None => (label, false),
    };
    let inner = label.strip_prefix('(').and_then(|label| label.strip_suffix(')'));
    (inner.unwrap_or(label).split('|'), is_optional)
}

/// The name of one entry of an `mx_list` as [`listed_site`] writes it.
fn listed_host(label: &str) -> &str {
    let name = label.split_once('=').map_or(label, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    }
}

/// The address of `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
pub fn domain_literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    let v6 = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:")).map(|_| &inner[5..]);
    match v6 {
        Some(text) => text.parse().ok().map(IpAddr::V6),
        None => inner.parse().ok(),
    }
}

/// The site and host of a domain literal: no DNS is asked.
pub fn literal_site(domain: &str) -> Option<(Arc<str>, Hosts)> {
    domain_literal(domain)?;
    let hosts = Hosts {
        by_preference: vec![(0, vec![domain.into()])],
        is_mx: false,
        is_domain_literal: true,
        is_secure: false,
    };
    Some((domain.into(), hosts))
}

/// The site and hosts where the DNS has no part in it.
pub fn site_without_dns(
    destination: &str,
    protocol: &DeliveryProtocol,
) -> Option<(Arc<str>, Hosts)> {
    match protocol {
        DeliveryProtocol::Smtp { mx_list } if !mx_list.is_empty() => Some(listed_site(mx_list)),
        DeliveryProtocol::Smtp { .. } => literal_site(destination),
        DeliveryProtocol::Maildir { .. }
        | DeliveryProtocol::Null
        | DeliveryProtocol::CustomLua(_) => Some((destination.into(), Hosts::default())),
    }
}

/// The site and hosts of a policy's `mx_list`, tried in the order given.
pub fn listed_site(list: &[MxListEntry]) -> (Arc<str>, Hosts) {
    // Whatever tells two lists apart stands in the name, since sites of one name share connections.
    let label = |entry: &MxListEntry| {
        let address = entry.address.map(|address| format!("={address}")).unwrap_or_default();
        let port = entry.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}{address}{port}", entry.name)
    };
    let labels: Vec<String> = list.iter().map(label).collect();
    let by_preference = list
        .iter()
        .zip(0u16..)
        .map(|(entry, preference)| (preference, vec![entry.name.clone()]))
        .collect();
    let hosts = Hosts { by_preference, is_mx: true, is_domain_literal: false, is_secure: false };
    (format!("{LISTED}{}", labels.join(",")).into(), hosts)
}

/// What a domain's MX answer means. A domain without MX records stands for itself (RFC 5321 5.1).
pub fn resolution(domain: &str, answer: Result<MxAnswer, DnsError>) -> Resolution {
    let answer = match answer {
        Ok(answer) => answer,
        Err(DnsError::NoSuchDomain(_)) => return Resolution::NoHosts,
        Err(DnsError::Failed(why)) => return Resolution::Failed { why: why.into() },
    };
    let is_null = |(_, host): &(u16, Box<str>)| host.is_empty() || &**host == ".";
    if !answer.records.is_empty() && answer.records.iter().all(is_null) {
        return Resolution::NullMx;
    }
    let mut records = answer.records;
    records.retain(|record| !is_null(record));
    records.sort_by_key(|(preference, _)| *preference);
    records.truncate(limits::MX_HOSTS);
    let is_mx = !records.is_empty();
    if !is_mx {
        records.push((0, domain.into()));
    }
    let site = site_name(records.iter().map(|(_, host)| &**host)).into();
    let mut by_preference: Vec<(u16, Vec<Box<str>>)> = Vec::new();
    for (preference, host) in records {
        match by_preference.last_mut() {
            Some((last, hosts)) if *last == preference => hosts.push(host),
            _ => by_preference.push((preference, vec![host])),
        }
    }
    let hosts = Hosts { by_preference, is_mx, is_domain_literal: false, is_secure: answer.secure };
    Resolution::Found { site, hosts: Arc::new(hosts), ttl: answer.ttl }
}

/// The hosts in the order they are to be tried: by preference, those of one preference shuffled.
pub fn host_order<'a>(hosts: &'a Hosts, random: &mut Random) -> Vec<&'a str> {
    let mut order = Vec::new();
    for (_, names) in &hosts.by_preference {
        let mut names: Vec<&str> = names.iter().map(|name| &**name).collect();
        random.shuffle(&mut names);
        order.extend(names);
    }
    order
}

/// One address to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// For the record and the certificate's name.
    pub host: String,
    pub address: SocketAddr,
}

/// What became of the hosts' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// At least one.
    Dial(Vec<Candidate>),
    /// No host has an address.
    NoHosts,
    /// One of them is in `prohibited_hosts`: nothing may be sent to this site.
    Prohibited(Candidate),
    /// All of them are in `skip_hosts`.
    Skipped,
}

/// Sorts out what policy forbids. `resolved` is in the order to be tried; a domain literal or `mx_list` entry on
/// loopback is subject to `prohibited_hosts` like any other.
pub fn plan(resolved: Vec<Candidate>, path: &EgressPath) -> Plan {
    if resolved.is_empty() {
        return Plan::NoHosts;
    }
    let within = |blocks: &[crate::config::egress::Cidr], candidate: &Candidate| {
        blocks.iter().any(|block| block.contains(candidate.address.ip()))
    };
    if let Some(found) = resolved.iter().find(|one| within(&path.prohibited_hosts, one)) {
        return Plan::Prohibited(found.clone());
    }
    let mut left = resolved;
    left.retain(|candidate| !within(&path.skip_hosts, candidate));
    left.truncate(limits::PLAN_ADDRESSES);
    if left.is_empty() { Plan::Skipped } else { Plan::Dial(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn hosts_merge_label_by_label_from_the_right() {
        let gmail = [
            "gmail-smtp-in.l.google.com",
            "alt1.gmail-smtp-in.l.google.com",
            "alt2.gmail-smtp-in.l.google.com",
            "alt3.gmail-smtp-in.l.google.com",
            "alt4.gmail-smtp-in.l.google.com",
        ];
        assert_eq!(site_name(gmail), "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com");
        assert_eq!(site_name(["mx2.example.com", "mx1.example.com"]), "(mx1|mx2).example.com");
        assert_eq!(site_name(["mx.example.com", "mx.example.net"]), "mx.example.(com|net)");
        assert_eq!(site_name(["mx.example.com"]), "mx.example.com");
        assert_eq!(site_name(["a.b", "b"]), "(a)?.b");
    }

    #[test]
    fn a_sites_name_gives_its_hosts_back() {
        for (site, hosts) in [
            ("mx.example.com", &["mx.example.com"][..]),
            ("(mx1|mx2).example.com", &["mx1.example.com", "mx2.example.com"]),
            ("(a)?.b", &["b", "a.b"]),
            ("mx_list:a.x,b.x:25,[10.0.0.1]=10.0.0.1:25", &["a.x", "b.x", "[10.0.0.1]"]),
            ("mx_list:[IPv6:::1]=::1", &["[IPv6:::1]"]),
            ("[192.0.2.1]", &["[192.0.2.1]"]),
        ] {
            assert_eq!(site_hosts(site), hosts, "{site}");
        }
        let labels = ["(a|b|c|d|e|f|g|h)"; 8].join(".");
        assert_eq!(site_hosts(&labels), Vec::<String>::new(), "too many");
    }

    proptest::proptest! {
        #[test]
        fn no_host_is_lost_in_its_sites_name(
            hosts in proptest::collection::btree_set("[a-c](\\.[a-c]){0,3}", 1..4),
        ) {
            let site = site_name(hosts.iter().map(|host| host.as_str()));
            let given_back = site_hosts(&site);
            for host in &hosts {
                proptest::prop_assert!(given_back.contains(host), "{host} of {site}: {given_back:?}");
            }
        }
    }

    fn answer(records: &[(u16, &str)]) -> Result<MxAnswer, DnsError> {
        let records = records.iter().map(|(p, host)| (*p, (*host).into())).collect();
        Ok(MxAnswer { records, ttl: Duration::from_secs(60), secure: false })
    }

    #[test]
    fn an_mx_answer_becomes_hosts_by_preference() {
        let resolution =
            resolution("example.com", answer(&[(20, "c.x"), (10, "a.x"), (10, "b.x")]));
        let Resolution::Found { site, hosts, .. } = resolution else { panic!("{resolution:?}") };
        assert_eq!(&*site, "(a|b|c).x");
        assert!(hosts.is_mx);
        let expected: Vec<(u16, Vec<Box<str>>)> =
            vec![(10, vec!["a.x".into(), "b.x".into()]), (20, vec!["c.x".into()])];
        assert_eq!(hosts.by_preference, expected);
    }

    #[test]
    fn a_domain_without_mx_stands_for_itself_and_null_mx_for_nothing() {
        let Resolution::Found { site, hosts, .. } = resolution("example.com", answer(&[])) else {
            panic!()
        };
        assert_eq!((&*site, hosts.is_mx), ("example.com", false));
        assert_eq!(resolution("example.com", answer(&[(0, "")])), Resolution::NullMx);
        let gone = Err(DnsError::NoSuchDomain("example.com".into()));
        assert_eq!(resolution("example.com", gone), Resolution::NoHosts);
        let lost = resolution("example.com", Err(DnsError::Failed("SERVFAIL".into())));
        assert_eq!(lost, Resolution::Failed { why: "SERVFAIL".into() });
    }

    #[test]
    fn literals_are_addresses() {
        assert_eq!(domain_literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(domain_literal("[IPv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        for text in ["192.0.2.1", "[]", "[é]", "[IPv6:]", "[300.1.1.1]", "example.com"] {
            assert_eq!(domain_literal(text), None, "{text}");
        }
    }

    fn candidate(address: &str) -> Candidate {
        Candidate { host: "mx".into(), address: address.parse().unwrap() }
    }

    #[test]
    fn forbidden_addresses_stop_the_plan_and_skipped_ones_leave_it() {
        let block =
            |text: &str| crate::config::egress::Cidr { address: text.parse().unwrap(), prefix: 32 };
        let path = EgressPath {
            prohibited_hosts: vec![block("192.0.2.1")],
            skip_hosts: vec![block("192.0.2.2")],
            ..EgressPath::default()
        };
        let one = || candidate("192.0.2.1:25");
        let two = || candidate("192.0.2.2:25");
        let three = || candidate("192.0.2.3:25");
        assert_eq!(plan(vec![three(), one()], &path), Plan::Prohibited(one()));
        assert_eq!(plan(vec![two(), three()], &path), Plan::Dial(vec![three()]));
        assert_eq!(plan(vec![two()], &path), Plan::Skipped);
        assert_eq!(plan(vec![], &path), Plan::NoHosts);
    }

    #[test]
    fn hosts_of_one_preference_are_shuffled_and_preferences_kept() {
        let names: Vec<Box<str>> = ('a'..='f').map(|c| c.to_string().into()).collect();
        let hosts =
            Hosts { by_preference: vec![(5, names), (9, vec!["z".into()])], ..Hosts::default() };
        let orders: BTreeSet<Vec<&str>> =
            (0..20).map(|seed| host_order(&hosts, &mut Random::new(seed, "test"))).collect();
        assert!(orders.len() > 10);
        assert!(orders.iter().all(|order| order.last() == Some(&"z") && order.len() == 7));
    }
}

//! From options to a world: names, addresses, policy, servers, clients and their mail. Invariant: everything here is drawn from the seed
//! alone, so that two runs of one seed begin alike. What happens in that world is [`crate::run`]'s business.
use crate::options::{Destination, EgressProxy, Options, ProxyProtocol};
use kumo_core::config::listener::BatchHandling;
use kumo_core::config::service::{RocksParams, SpoolKind};
use kumo_core::config::{EsmtpListener, SpoolDefinition};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use kumo_driver::node::{JournalLimits, NodeConfig, SpoolSettings};
use kumo_io_sim::client::{ClientSettings, MessageWork};
use kumo_io_sim::dns::Zones;
use kumo_io_sim::net::NetSettings;
use kumo_io_sim::peer::PeerSettings;
use kumo_io_sim::policy::PolicyTable;
use kumo_io_sim::proxy::Onward;
use kumo_io_sim::spool::{DiskSettings, StoreKind};
use kumo_io_sim::universe::Settings;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub const HOSTNAME: &str = "here.example";
const DNS_TTL: Duration = Duration::from_secs(300);
const DNS_LATENCY: Duration = Duration::from_millis(3);

fn v4(a: u8, b: usize, c: usize) -> IpAddr {
    // Validated: at most 200 of each.
    IpAddr::V4(Ipv4Addr::new(10, a, b as u8, c as u8))
}

/// Where the node listens.
pub fn node_address() -> SocketAddr {
    SocketAddr::new(v4(0, 0, 1), 25)
}

/// A proxy before the node.
pub fn front_address() -> SocketAddr {
    SocketAddr::new(v4(3, 0, 1), 25)
}

/// The node's own addresses.
pub fn interfaces(options: &Options) -> Vec<IpAddr> {
    (1..=options.node.sources).map(source_address).collect()
}

pub fn client_address(number: u32) -> IpAddr {
    v4(2, 0, number as usize % 200 + 1)
}

/// The `nth` recipient of a message.
pub fn recipient(message: u32, nth: u32, domain: &str) -> String {
    format!("r{nth}m{message}@{domain}")
}

/// The spool's paths, as faults are aimed at them.
pub fn disk_paths(options: &Options) -> &'static [&'static str] {
    if options.disk.two_paths { &["data", "meta"] } else { &[] }
}

fn host_name(domain: &str, host: u32) -> String {
    format!("mx{}.{domain}", host + 1)
}

fn host_address(destination: usize, host: u32) -> IpAddr {
    v4(1, destination + 1, host as usize + 1)
}

/// A server, and the proxy that stands before it, if one does.
pub struct Server {
    pub settings: PeerSettings,
    pub proxy: Option<SocketAddr>,
}

pub fn servers(options: &Options) -> Vec<Server> {
    let smtp = options.destination.iter().enumerate().filter(|(_, one)| !one.maildir);
    smtp.flat_map(|(index, one)| (0..one.hosts).map(move |host| server(one, index, host))).collect()
}

fn server(destination: &Destination, index: usize, host: u32) -> Server {
    let public = SocketAddr::new(host_address(index, host), 25);
    let own = SocketAddr::new(public.ip(), if destination.behind_proxy { 2525 } else { 25 });
    let settings = PeerSettings {
        starttls: destination.starttls,
        pipelining: destination.pipelining,
        eight_bit_mime: destination.eight_bit_mime,
        size: destination.size,
        latency: destination.latency,
        dot_latency: destination.dot_latency,
        transient_per_mille: destination.transient_per_mille,
        permanent_per_mille: destination.permanent_per_mille,
        max_connections: destination.max_connections,
        forwards_to: destination.loops.then(node_address),
        ..PeerSettings::kind(&host_name(&destination.domain, host), own)
    };
    Server { settings, proxy: destination.behind_proxy.then_some(public) }
}

// ---- Sources and their proxies ------------------------------------------------------------------------------

/// The last part of the address that a proxy sends from.
const PROXIED: usize = 200;

/// Of the node's interface that a source, counted from 1, uses.
fn source_address(source: u32) -> IpAddr {
    v4(0, 0, source as usize)
}

pub fn proxied_address(proxy: &EgressProxy) -> IpAddr {
    v4(4, proxy.source as usize, PROXIED)
}

/// Where servers see a source's mail come from.
pub fn egress_address(options: &Options, source: u32) -> IpAddr {
    let proxy = options.proxy.iter().find(|proxy| proxy.source == source);
    proxy.map_or(source_address(source), proxied_address)
}

pub fn proxy_name(proxy: &EgressProxy) -> String {
    format!("proxy-{}.example", proxy.source)
}

pub fn proxy_hosts(proxy: &EgressProxy) -> impl Iterator<Item = IpAddr> {
    let source = proxy.source as usize;
    (1..=proxy.hosts).map(move |host| v4(4, source, host as usize))
}

fn proxy_port(proxy: &EgressProxy) -> u16 {
    match proxy.protocol {
        ProxyProtocol::Socks5 => 1080,
        ProxyProtocol::Haproxy => 2500,
    }
}

/// Where proxies of sources listen, and where each leads.
pub fn egress_proxies(options: &Options) -> Vec<(SocketAddr, Onward)> {
    let of_proxy = |proxy: &EgressProxy| {
        let plumbed = vec![proxied_address(proxy)];
        let onward = match proxy.protocol {
            ProxyProtocol::Socks5 => Onward::Asked { plumbed },
            ProxyProtocol::Haproxy => Onward::Announced { plumbed },
        };
        let port = proxy_port(proxy);
        let hosts: Vec<IpAddr> = proxy_hosts(proxy).collect();
        hosts.into_iter().map(move |host| (SocketAddr::new(host, port), onward.clone()))
    };
    options.proxy.iter().flat_map(of_proxy).collect()
}

fn zones(options: &Options) -> Zones {
    let mut zones = Zones { ttl: DNS_TTL, latency: DNS_LATENCY, ..Zones::default() };
    for (index, destination) in options.destination.iter().enumerate() {
        let hosts: Vec<String> =
            (0..destination.hosts).map(|host| host_name(&destination.domain, host)).collect();
        let records =
            hosts.iter().zip(1u16..).map(|(host, nth)| (nth * 10, host.clone())).collect();
        zones.mx.insert(destination.domain.clone(), records);
        for (host, number) in hosts.into_iter().zip(0..) {
            zones.addresses.insert(host, vec![host_address(index, number)]);
        }
    }
    for proxy in options.proxy.iter().filter(|proxy| proxy.named) {
        zones.addresses.insert(proxy_name(proxy), proxy_hosts(proxy).collect());
    }
    zones
}

/// The policy that the options describe, or what is wrong with it.
pub fn policy_table(options: &Options) -> Result<PolicyTable, String> {
    let Ok(Value::Object(mut policy)) = serde_json::to_value(&options.policy) else {
        return Err("the policy isn't a table".into());
    };
    for destination in options.destination.iter().filter(|one| one.maildir) {
        let protocol = json!({ "maildir_path": "/mail/{{ email }}" });
        let queue = policy.get("queue").and_then(Value::as_object).cloned().unwrap_or_default();
        let queues = policy.entry("queues").or_insert_with(|| json!({}));
        let queues = queues.as_object_mut().ok_or("queues isn't a table")?;
        let own = queues.entry(destination.domain.clone()).or_insert_with(|| Value::Object(queue));
        own.as_object_mut().ok_or("a queue isn't a table")?.insert("protocol".into(), protocol);
    }
    if options.node.sources > 1 || !options.proxy.is_empty() {
        add_sources(&mut policy, options)?;
    }
    PolicyTable::parse(policy)
}

/// A pool of all sources, the later the heavier. What the scenario says of a source stands.
fn add_sources(policy: &mut Map<String, Value>, options: &Options) -> Result<(), String> {
    let name = |number: u32| format!("source-{number}");
    let numbers = 1..=options.node.sources;
    let sources = policy.entry("sources").or_insert_with(|| json!({}));
    let sources = sources.as_object_mut().ok_or("sources isn't a table")?;
    for number in numbers.clone() {
        let said = sources.entry(name(number)).or_insert_with(|| json!({}));
        let said = said.as_object_mut().ok_or("a source isn't a table")?;
        for (key, value) in source_options(options, number) {
            said.entry(key).or_insert(value);
        }
    }
    let entries: Vec<Value> =
        numbers.map(|number| json!({ "name": name(number), "weight": number })).collect();
    policy.insert("pools".into(), json!({ "all": entries }));
    let give_pool = |queue: &mut Value| {
        let queue = queue.as_object_mut().ok_or("a queue isn't a table")?;
        queue.insert("egress_pool".into(), json!("all"));
        Ok::<(), String>(())
    };
    give_pool(policy.entry("queue").or_insert_with(|| json!({})))?;
    if let Some(Value::Object(queues)) = policy.get_mut("queues") {
        queues.values_mut().try_for_each(give_pool)?;
    }
    Ok(())
}

fn source_options(options: &Options, number: u32) -> Map<String, Value> {
    let rule = json!({ "trigger": { "Threshold": "3/10m" }, "duration": "2m" });
    let mut source = Map::new();
    source.insert("source_address".into(), json!(source_address(number)));
    source.insert("suspend_when_unplumbed".into(), rule.clone());
    if let Some(proxy) = options.proxy.iter().find(|proxy| proxy.source == number) {
        let protocol = match proxy.protocol {
            ProxyProtocol::Socks5 => "socks5",
            ProxyProtocol::Haproxy => "ha",
        };
        let host = match proxy.named {
            true => proxy_name(proxy),
            false => v4(4, number as usize, 1).to_string(),
        };
        let server = format!("{host}:{}", proxy_port(proxy));
        source.insert(format!("{protocol}_proxy_server"), json!(server));
        let from = json!(proxied_address(proxy));
        source.insert(format!("{protocol}_proxy_source_address"), from);
        source.insert("suspend_when_proxy_unhealthy".into(), rule);
    }
    source
}

pub fn settings(options: &Options) -> Result<Settings, String> {
    let disk = &options.disk;
    Ok(Settings {
        disk: DiskSettings {
            two_paths: disk.two_paths,
            kind: if disk.files { StoreKind::Files } else { StoreKind::Log },
            write: disk.write,
            sync: disk.sync,
            read: disk.read,
        },
        net: NetSettings {
            latency: options.net.latency,
            jitter: options.net.jitter,
            buffer_octets: options.net.buffer_octets,
        },
        interfaces: interfaces(options),
        policy: policy_table(options)?,
        zones: zones(options),
    })
}

fn spool_settings(options: &Options) -> SpoolSettings {
    let disk = &options.disk;
    let kind = if disk.files { SpoolKind::LocalDisk } else { SpoolKind::RocksDB };
    let rocks_params = RocksParams {
        store_deadline: Some(disk.store_deadline),
        error_latch_duration: Some(disk.error_latch),
        error_unlatch_duration: Some(disk.error_unlatch),
        allow_error_unlatch: Some(disk.allow_error_unlatch),
        ..RocksParams::default()
    };
    let define = |name: &str| {
        let path = if disk.two_paths { format!("/{name}") } else { "/spool".into() };
        SpoolDefinition {
            kind,
            rocks_params: rocks_params.clone(),
            ..SpoolDefinition::at(name, &path)
        }
    };
    SpoolSettings {
        data: define("data"),
        meta: define("meta"),
        suspend_delivery: options.node.suspend_delivery,
        damage: Vec::new(),
        guarded: Vec::new(),
    }
}

/// For the `life`-th life of the node.
pub fn node_config(options: &Options, seed: u64, life: u64) -> NodeConfig {
    let relay_hosts = vec!["10.0.0.0/8".parse().expect("a network")];
    let batch_handling = match options.node.bifurcate {
        true => BatchHandling::BifurcateAlways,
        false => BatchHandling::BatchByDomain,
    };
    let listener = EsmtpListener {
        listen: node_address(),
        relay_hosts,
        max_connections: options.node.max_connections,
        client_timeout: options.node.client_timeout,
        batch_handling,
        ..EsmtpListener::default()
    };
    NodeConfig {
        hostname: HOSTNAME.into(),
        listeners: vec![listener],
        spool: spool_settings(options),
        body_cache_octets: options.node.body_cache_octets,
        journal: Some(JournalLimits::default()),
        seed: Random::new(seed ^ life.rotate_left(40), "life").next_u64(),
    }
}

/// One message, and when it is to be handed in, from the beginning of the run.
pub type Task = (Duration, MessageWork);

pub struct Mail {
    pub clients: Vec<(ClientSettings, Vec<Task>)>,
    pub injections: Vec<Task>,
}

/// Who hands in what, and when.
pub fn mail(options: &Options, seed: u64) -> Mail {
    let load = &options.load;
    let mut random = Random::new(seed, "mail");
    let server = if load.through_proxy { front_address() } else { node_address() };
    let mut clients: Vec<(ClientSettings, Vec<Task>)> = (0..load.clients)
        .map(|number| {
            let settings = ClientSettings {
                address: client_address(number),
                server,
                retries: load.retries,
                pause: load.pause,
                patience: Duration::from_secs(300),
                pipelining: load.pipelining,
                messages_per_connection: load.messages_per_connection,
            };
            (settings, Vec::new())
        })
        .collect();
    let mut injections = Vec::new();
    let step = load.until / load.messages.max(1);
    for message in 0..load.messages {
        let at = step * message + random.duration_up_to(step);
        let task = (at, work(options, message, &mut random));
        if random.below(1000) < u64::from(load.injected_per_mille) {
            injections.push(task);
        } else {
            let client = random.below(clients.len() as u64) as usize;
            clients[client].1.push(task);
        }
    }
    Mail { clients, injections }
}

fn work(options: &Options, message: u32, random: &mut Random) -> MessageWork {
    let load = &options.load;
    let count = 1 + random.below(u64::from(load.recipients_max)) as u32;
    let recipients =
        (0..count).map(|nth| recipient(message, nth, pick_domain(options, random))).collect();
    let null = random.below(1000) < u64::from(load.null_sender_per_mille);
    let sender = if null { String::new() } else { format!("s{message}@client.example") };
    let size = random.below(load.octets_max as u64 + 1) as usize;
    MessageWork { message, sender, recipients, size }
}

fn pick_domain<'o>(options: &'o Options, random: &mut Random) -> &'o str {
    let total: u64 = options.destination.iter().map(|one| u64::from(one.weight)).sum();
    let mut left = random.below(total);
    for destination in &options.destination {
        let weight = u64::from(destination.weight);
        if left < weight {
            return &destination.domain;
        }
        left -= weight;
    }
    unreachable!("less than the sum of all weights")
}

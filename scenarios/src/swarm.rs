//! Options drawn from a seed: each seed has some knobs turned far and others not at all, so that rare combinations come up. Invariant: the
//! draws come from the seed alone; presets ([`storm`]) are made of the same struct.
use crate::options::{
    Base, Destination, Disk, EgressProxy, Load, Network, Node, Options, Order, OrderKind,
    ProxyProtocol, TimedFault,
};
use crate::setup;
use kumo_core::random::Random;
use kumo_core::time::Duration;
use kumo_io_sim::fault::FaultKind;

const MINUTE: u64 = 60;
const HOUR: Duration = Duration::from_secs(3600);
/// Phases of a dialogue that a server's fault may be aimed at.
pub const PHASES: [&str; 10] =
    ["greet", "ehlo", "starttls", "mail", "rcpt", "data", "body", "dot", "rset", "quit"];
/// What policy is asked, as faults are aimed at it.
pub const QUESTIONS: [&str; 7] =
    ["session", "generated", "queue", "pool", "path", "throttle-insert", "requeue"];

/// Draws.
struct Dice(Random);

impl Dice {
    fn of(&mut self, per_cent: u64) -> bool {
        self.0.below(100) < per_cent
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.0.below(most - least + 1)
    }

    fn seconds(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_secs(self.between(least, most))
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.below(of.len() as u64) as usize]
    }
}

/// One virtual hour, about 200 messages, and a handful of faults.
pub fn swarm(seed: u64) -> Options {
    let mut dice = Dice(Random::new(seed, "swarm"));
    let mut options = Options {
        base: Base::Swarm,
        safety: HOUR,
        load: load(&mut dice),
        disk: disk(&mut dice),
        net: network(&mut dice),
        node: node(&mut dice),
        policy: policy(&mut dice),
        destination: destinations(&mut dice),
        ..Options::default()
    };
    // Most kinds are left out of most runs; what is left can be heavy.
    let per_cent = dice.one(&[0, 5, 10, 15, 25]);
    for what in FaultKind::ALL.iter().filter(|what| !is_rare(**what)) {
        if dice.of(per_cent) && !is_only_counted(*what) {
            for _ in 0..dice.between(1, 3) {
                let fault = fault(&mut dice, *what, &options);
                options.fault.push(fault);
            }
        }
    }
    if dice.of(40) {
        for _ in 0..dice.between(1, 6) {
            let mut cut = fault(&mut dice, FaultKind::NodePowerCut, &options);
            cut.at = dice.seconds(2, options.load.until.as_secs());
            if dice.of(60) {
                // So that much is under way when it comes.
                let stall = fault(&mut dice, FaultKind::DiskStall, &options);
                let (at, lasts) = (cut.at - Duration::from_secs(2), Some(Duration::from_secs(8)));
                options.fault.push(TimedFault { at, lasts, chance: 1000, ..stall });
            }
            options.fault.push(cut);
        }
    }
    proxies(seed, &mut options);
    watchdog(seed, &mut options);
    prepare(&mut dice, &mut options);
    options.order = orders(&mut dice, &options);
    options
}

/// Less patience than its protocol's other times would give it.
fn watchdog(seed: u64, options: &mut Options) {
    let mut dice = Dice(Random::new(seed, "swarm's watchdog"));
    if dice.of(30)
        && let Some(path) = options.policy.get_mut("path").and_then(toml::Value::as_table_mut)
    {
        let patience = format!("{}s", dice.between(10, 120));
        path.insert("dispatcher_progress_watchdog_timeout".into(), patience.into());
    }
}

/// From dice of its own, so that nothing else of a seed depends on them.
fn proxies(seed: u64, options: &mut Options) {
    let mut dice = Dice(Random::new(seed, "swarm's proxies"));
    if !dice.of(15) {
        return;
    }
    options.node.sources = options.node.sources.max(2);
    for source in 1..=options.node.sources {
        if source == 2 || dice.of(30) {
            let protocol = dice.one(&[ProxyProtocol::Socks5, ProxyProtocol::Haproxy]);
            let hosts = dice.between(1, 2) as u32;
            options.proxy.push(EgressProxy { source, protocol, hosts, named: dice.of(50) });
        }
    }
    for proxy in options.proxy.clone() {
        for _ in 0..dice.between(0, 2) {
            let fault = proxy_fault(&mut dice, &proxy, options);
            options.fault.push(fault);
        }
    }
}

fn proxy_fault(dice: &mut Dice, proxy: &EgressProxy, options: &Options) -> TimedFault {
    use FaultKind::*;
    let of_hosts =
        [ProxyRefuse, ProxyHang, ProxyHalfOpen, ProxyFlap, NetRefuse, NetBlackHole, NetReset];
    let of_names = [DnsServfail, DnsNoData, DnsNoSuchDomain, DnsDelay];
    let (what, target) = match dice.between(0, 9) {
        0 => (HostLostAddress, setup::proxied_address(proxy).to_string()),
        1..4 if proxy.named => (dice.one(&of_names), setup::proxy_name(proxy)),
        _ => {
            let hosts: Vec<_> = setup::proxy_hosts(proxy).collect();
            (dice.one(&of_hosts), dice.one(&hosts).to_string())
        }
    };
    TimedFault { target: Some(target), ..fault(dice, what, options) }
}

/// Every kind of fault, over and over.
pub fn storm(seed: u64) -> Options {
    let mut dice = Dice(Random::new(seed, "storm"));
    let mut options = Options { base: Base::Storm, ..swarm(seed) };
    options.fault.clear();
    let strikes = |what: FaultKind| !is_only_counted(what) && !is_rare(what);
    for what in FaultKind::ALL.iter().filter(|what| strikes(**what)) {
        for _ in 0..2 {
            let fault = fault(&mut dice, *what, &options);
            options.fault.push(fault);
        }
    }
    prepare(&mut dice, &mut options);
    options
}

/// As the swarm, and something that mail hardly ever waits for.
pub fn rare_waits(seed: u64) -> Options {
    let mut dice = Dice(Random::new(seed, "rare waits"));
    let mut options = Options { base: Base::RareWaits, ..swarm(seed) };
    match dice.between(0, 4) {
        0 => share_a_limit(&mut dice, &mut options),
        1 => gather_batches(&mut dice, &mut options),
        2 => {
            for _ in 0..dice.between(1, 3) {
                let fault = fault(&mut dice, FaultKind::PolicyNoSources, &options);
                options.fault.push(TimedFault { chance: 1000, target: None, ..fault });
            }
        }
        3 => ask_much(&mut options),
        _ => {
            for question in ["queue", "pool", "path"] {
                let fault = fault(&mut dice, FaultKind::PolicyError, &options);
                let (at, target) = (Duration::ZERO, Some(question.into()));
                options.fault.push(TimedFault { at, chance: 800, target, ..fault });
            }
            let fault = fault(&mut dice, FaultKind::DnsServfail, &options);
            options.fault.push(TimedFault { at: Duration::ZERO, chance: 800, ..fault });
        }
    }
    options
}

fn share_a_limit(dice: &mut Dice, options: &mut Options) {
    let limit = toml::Table::from_iter([("shared".into(), dice.one(&[1, 2]).into())]);
    if let Some(path) = options.policy.get_mut("path").and_then(toml::Value::as_table_mut) {
        path.insert("additional_connection_limits".into(), limit.into());
    }
}

fn gather_batches(dice: &mut Dice, options: &mut Options) {
    let latency = format!("{}s", dice.between(5, 120));
    let lua = toml::toml! {
        constructor = "make.batches"
        batch_size = 8
        min_batch_size = 6
    };
    let mut lua: toml::Table = lua;
    lua.insert("max_batch_latency".into(), latency.into());
    let protocol = toml::Table::from_iter([("custom_lua".into(), lua.into())]);
    let queue = toml::Table::from_iter([("protocol".into(), protocol.into())]);
    let domain = &mut options.destination[0];
    domain.maildir = false;
    let queues = toml::Table::from_iter([(domain.domain.clone(), queue.into())]);
    options.policy.insert("queues".into(), queues.into());
    let senders = toml::toml! { "make.batches" = { takes_in = "100ms" } };
    options.policy.insert("senders".into(), senders.into());
}

/// More than the engine asks about at once, while policy doesn't answer.
fn ask_much(options: &mut Options) {
    options.destination.truncate(1);
    (options.load.messages, options.load.until) = (250, Duration::from_secs(2 * MINUTE));
    options.policy.insert("asks_throttle_insert".into(), true.into());
    options.fault.push(TimedFault {
        what: FaultKind::PolicyHang,
        at: Duration::ZERO,
        lasts: Some(Duration::from_secs(10 * MINUTE)),
        chance: 700,
        amount: None,
        target: Some("throttle-insert".into()),
    });
}

/// Only where something rare is wanted.
pub fn is_rare(what: FaultKind) -> bool {
    what == FaultKind::PolicyNoSources
}

/// What the disk makes of a power cut is drawn then, not ordered.
fn is_only_counted(what: FaultKind) -> bool {
    matches!(
        what,
        FaultKind::DiskCrashDrop
            | FaultKind::DiskCrashKeep
            | FaultKind::DiskCrashTear
            | FaultKind::DiskCrashReorder
    )
}

/// Some faults need somebody they can strike.
fn prepare(dice: &mut Dice, options: &mut Options) {
    let sources = u64::from(options.node.sources);
    for destination in &mut options.destination {
        destination.max_connections = dice.of(20).then(|| sources + dice.between(0, 2));
    }
    let has =
        |options: &Options, port: &str| options.fault.iter().any(|one| one.what.port() == port);
    if has(options, "proxy") {
        options.load.through_proxy = dice.of(50);
        options.destination[0].behind_proxy = !options.load.through_proxy;
        options.destination[0].maildir = false;
    }
    if options
        .fault
        .iter()
        .any(|one| matches!(one.what, FaultKind::FilesError | FaultKind::FilesStall))
    {
        let last = options.destination.last_mut().expect("there is a destination");
        if !last.behind_proxy {
            last.maildir = true;
        }
    }
    let path = options.policy.get("path").and_then(|path| path.get("enable_tls"));
    let required =
        path.and_then(toml::Value::as_str).is_some_and(|tls| tls.starts_with("Required"));
    if required || has(options, "tls") {
        options.destination.iter_mut().for_each(|one| one.starttls = true);
    }
    let asks = |what: &str| {
        options
            .fault
            .iter()
            .any(|one| one.what.port() == "policy" && one.target.as_deref() == Some(what))
    };
    let asked = [("throttle-insert", "asks_throttle_insert"), ("requeue", "asks_requeue")];
    let asked: Vec<&str> =
        asked.into_iter().filter(|(question, _)| asks(question)).map(|(_, key)| key).collect();
    for key in asked {
        options.policy.insert(key.into(), true.into());
    }
    if options.fault.iter().any(|one| one.what == FaultKind::HostLostAddress) {
        options.node.sources = options.node.sources.max(2);
    }
    room_for_every_source(options);
}

/// Those that come in vain at the same moments would keep each other out for ever.
fn room_for_every_source(options: &mut Options) {
    let sources = u64::from(options.node.sources);
    for destination in &mut options.destination {
        destination.max_connections = destination.max_connections.map(|room| room.max(sources));
    }
}

fn load(dice: &mut Dice) -> Load {
    Load {
        messages: dice.between(150, 250) as u32,
        clients: dice.between(1, 8) as u32,
        until: Duration::from_secs(dice.one(&[1, 5, 20, 50]) * MINUTE),
        recipients_max: dice.one(&[1, 1, 1, 2, 5]),
        octets_max: dice.one(&[500, 500, 2_000, 8_000, 60_000]),
        injected_per_mille: dice.one(&[0, 100, 500]),
        null_sender_per_mille: dice.one(&[0, 100]),
        retries: dice.between(0, 5) as u32,
        pause: dice.seconds(5, 5 * MINUTE),
        messages_per_connection: dice.one(&[1, 5, 100]),
        pipelining: dice.of(70),
        through_proxy: false,
    }
}

fn disk(dice: &mut Dice) -> Disk {
    let two_paths = dice.of(40);
    Disk {
        two_paths,
        files: two_paths && dice.of(60),
        write: Duration::from_micros(dice.between(10, 500)),
        sync: Duration::from_micros(dice.one(&[300, 2_000, 20_000, 200_000])),
        read: Duration::from_micros(dice.between(10, 2_000)),
        store_deadline: Duration::from_secs(dice.one(&[5, 30])),
        error_latch: Duration::from_secs(dice.one(&[3, 15])),
        error_unlatch: Duration::from_secs(dice.one(&[2, 30, 300])),
        allow_error_unlatch: true,
    }
}

fn network(dice: &mut Dice) -> Network {
    Network {
        latency: dice.millis(0, 50),
        jitter: dice.millis(0, 50),
        buffer_octets: dice.one(&[4_096, 16_384, 65_536]),
    }
}

fn node(dice: &mut Dice) -> Node {
    Node {
        sources: dice.one(&[1, 1, 2, 4]),
        body_cache_octets: dice.one(&[0, 20_000, 1 << 20]),
        max_connections: dice.one(&[3, 100]),
        client_timeout: dice.seconds(10, 120),
        bifurcate: dice.of(50),
        suspend_delivery: dice.of(90),
    }
}

fn destinations(dice: &mut Dice) -> Vec<Destination> {
    let count = dice.between(1, 5);
    let names = ["a", "b", "c", "d", "e"];
    (0..count as usize)
        .map(|index| Destination {
            domain: format!("{}.example", names[index]),
            weight: dice.between(1, 10) as u32,
            hosts: dice.between(1, 3) as u32,
            starttls: dice.of(60),
            pipelining: dice.of(80),
            eight_bit_mime: dice.of(90),
            size: dice.of(80),
            latency: dice.millis(0, 100),
            dot_latency: dice.millis(0, 2_000),
            transient_per_mille: dice.one(&[0, 0, 50, 300]),
            permanent_per_mille: dice.one(&[0, 0, 50, 300]),
            max_connections: None,
            loops: false,
            maildir: index > 0 && dice.of(15),
            behind_proxy: false,
        })
        .collect()
}

fn policy(dice: &mut Dice) -> toml::Table {
    let text = |duration: Duration| toml::Value::String(format!("{}s", duration.as_secs()));
    let mut queue = toml::Table::new();
    let retry = dice.seconds(10, 5 * MINUTE);
    queue.insert("retry_interval".into(), text(retry));
    queue.insert("max_retry_interval".into(), text(retry + dice.seconds(MINUTE, 15 * MINUTE)));
    let age = dice.one(&[2, 10, 30, 60, 24 * 60, 7 * 24 * 60]);
    queue.insert("max_age".into(), text(Duration::from_secs(age * MINUTE)));
    if dice.of(20) {
        let rate = format!("{}/min", dice.between(5, 60));
        queue.insert("max_message_rate".into(), rate.into());
    }
    let mut path = toml::Table::new();
    let mut time = |key: &str, least, most, dice: &mut Dice| {
        path.insert(key.into(), text(dice.seconds(least, most)));
    };
    for key in ["connect_timeout", "banner_timeout", "ehlo_timeout", "mail_from_timeout"] {
        time(key, 5, 60, dice);
    }
    for key in ["rcpt_to_timeout", "data_timeout", "data_dot_timeout", "starttls_timeout"] {
        time(key, 5, 90, dice);
    }
    time("idle_timeout", 1, 30, dice);
    path.insert("connection_limit".into(), i64::from(dice.one(&[1, 2, 5, 32])).into());
    path.insert("max_deliveries_per_connection".into(), i64::from(dice.one(&[1, 3, 1024])).into());
    path.insert("max_ready".into(), i64::from(dice.one(&[2, 10, 1024])).into());
    path.insert("max_recipients_per_batch".into(), i64::from(dice.one(&[1, 2, 100])).into());
    if dice.of(20) {
        path.insert("max_message_rate".into(), format!("{}/min", dice.between(5, 60)).into());
    }
    if dice.of(20) {
        path.insert("max_connection_rate".into(), format!("{}/min", dice.between(5, 60)).into());
    }
    if dice.of(30) {
        let tls = dice.one(&[
            "Opportunistic",
            "OpportunisticInsecure",
            "Required",
            "RequiredInsecure",
            "Disabled",
        ]);
        path.insert("enable_tls".into(), tls.into());
    }
    if dice.of(30) {
        path.insert("opportunistic_tls_reconnect_on_failed_handshake".into(), true.into());
    }
    let mut policy = toml::Table::new();
    policy.insert("queue".into(), queue.into());
    policy.insert("path".into(), path.into());
    for key in ["asks_requeue", "asks_throttle_insert"] {
        if dice.of(15) {
            policy.insert(key.into(), true.into());
        }
    }
    if dice.of(30) {
        let hooks = vec!["mail_from".into(), "rcpt_to".into(), "message_received".into()];
        policy.insert("session_hooks".into(), toml::Value::Array(hooks));
    }
    policy
}

fn fault(dice: &mut Dice, what: FaultKind, options: &Options) -> TimedFault {
    use FaultKind::*;
    let at = dice.seconds(0, options.safety.as_secs() * 9 / 10);
    let lasts = dice.one(&[10, 60, 300, 900]);
    let lasts = Duration::from_secs(lasts).min(options.safety - at);
    let chance = dice.one(&[20, 100, 300, 1000]);
    let mut fault = TimedFault { what, at, lasts: Some(lasts), chance, amount: None, target: None };
    match what {
        DiskStall => fault.amount = dice.of(70).then(|| dice.millis(10, 60_000)),
        DiskCorruptRecord | DiskCorruptBlock | DiskMissingFile => fault.lasts = None,
        HostWallStep => {
            fault.lasts = None;
            fault.amount = Some(dice.one(&[HOUR, 24 * HOUR]));
            fault.target = dice.one(&[None, Some("back"), Some("1970")]).map(Into::into);
        }
        NodeKill | NodePowerCut | NodeKillInRecovery | NodeStop => {
            fault.lasts = None;
            fault.amount = Some(dice.millis(10, 120_000));
        }
        NodePause => {
            fault.lasts = None;
            fault.amount = Some(dice.seconds(1, 120));
        }
        NetLatency => fault.amount = Some(dice.millis(10, 5_000)),
        DnsDelay => fault.amount = dice.of(50).then(|| dice.seconds(1, 90)),
        PolicySlow => fault.amount = Some(dice.seconds(1, 90)),
        PeerSlow => fault.amount = dice.of(50).then(|| dice.seconds(1, 60)),
        FilesStall => fault.amount = Some(dice.seconds(1, 90)),
        ClientSlow => fault.amount = Some(dice.millis(100, 5_000)),
        HostLostAddress => fault.target = Some("10.0.0.2".into()),
        _ => {}
    }
    match what.port() {
        "peer" if what != PeerLostReply && dice.of(70) => {
            fault.target = Some(dice.one(&PHASES).into());
        }
        "policy" if what == PolicyReject => {
            fault.target = Some(dice.one(&["session", "generated", "requeue"]).into());
        }
        "policy" => fault.target = Some(dice.one(&QUESTIONS).into()),
        _ => {}
    }
    fault
}

fn orders(dice: &mut Dice, options: &Options) -> Vec<Order> {
    let mut orders = Vec::new();
    let kinds =
        [OrderKind::Bounce, OrderKind::Suspend, OrderKind::SuspendReady, OrderKind::BumpEpoch];
    for what in kinds {
        if dice.of(20) {
            let at = dice.seconds(0, options.safety.as_secs() * 3 / 4);
            let lasts = dice.seconds(1, 45 * MINUTE).min(options.safety - at);
            let domain = dice.of(70).then(|| options.destination[0].domain.clone());
            orders.push(Order { what, at, lasts, domain });
        }
    }
    orders
}

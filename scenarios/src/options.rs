//! Everything that is chosen about a run, in one struct: a scenario file is this in TOML, the swarm draws it from a seed, and every run can
//! print it. Invariant: a run depends on its options, its seed and the code, and on nothing else. How a file is read stands in [`crate::library`].
use crate::targets;
use kumo_core::config::duration;
use kumo_core::log::RecordKind;
use kumo_core::time::Duration;
use kumo_io_sim::fault::FaultKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What it shows, in a sentence.
    pub about: String,
    /// What a file's keys are laid over.
    pub base: Base,
    /// The length of the safety phase.
    #[serde(with = "duration::text")]
    pub safety: Duration,
    pub load: Load,
    pub disk: Disk,
    pub net: Network,
    pub node: Node,
    /// Options of queues, paths, sources and pools, by the names that Lua policy uses.
    pub policy: toml::Table,
    pub destination: Vec<Destination>,
    pub proxy: Vec<EgressProxy>,
    pub fault: Vec<TimedFault>,
    pub order: Vec<Order>,
    /// The run is repeated, each time with trouble at another step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<Expectation>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// Nothing goes wrong and nothing is drawn but what the seed draws inside the run.
    #[default]
    Calm,
    /// Every knob drawn from the seed.
    Swarm,
    /// Every fault at once, often.
    Storm,
    /// As the swarm, with something that mail hardly ever waits for.
    RareWaits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Load {
    pub messages: u32,
    pub clients: u32,
    /// The messages are handed in evenly from the beginning until then.
    #[serde(with = "duration::text")]
    pub until: Duration,
    pub recipients_max: u32,
    pub octets_max: usize,
    /// Handed in over the node's own interface, as an HTTP injection is.
    pub injected_per_mille: u32,
    /// With the null reverse-path.
    pub null_sender_per_mille: u32,
    /// What a client does with a 4yz or a lost reply.
    pub retries: u32,
    #[serde(with = "duration::text")]
    pub pause: Duration,
    pub messages_per_connection: u32,
    pub pipelining: bool,
    /// Clients reach the node through a proxy.
    pub through_proxy: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    pub two_paths: bool,
    pub files: bool,
    #[serde(with = "duration::text")]
    pub write: Duration,
    #[serde(with = "duration::text")]
    pub sync: Duration,
    #[serde(with = "duration::text")]
    pub read: Duration,
    /// `rocks_params` of both stores.
    #[serde(with = "duration::text")]
    pub store_deadline: Duration,
    #[serde(with = "duration::text")]
    pub error_latch: Duration,
    #[serde(with = "duration::text")]
    pub error_unlatch: Duration,
    pub allow_error_unlatch: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    #[serde(with = "duration::text")]
    pub latency: Duration,
    #[serde(with = "duration::text")]
    pub jitter: Duration,
    pub buffer_octets: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    pub sources: u32,
    pub body_cache_octets: usize,
    pub max_connections: u64,
    #[serde(with = "duration::text")]
    pub client_timeout: Duration,
    /// One message for each recipient, or one for those of each domain.
    pub bifurcate: bool,
    /// While the spool takes nothing.
    pub suspend_delivery: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destination {
    pub domain: String,
    /// Its share of the mail.
    pub weight: u32,
    pub hosts: u32,
    pub starttls: bool,
    pub pipelining: bool,
    /// Offers 8BITMIME, and SIZE.
    pub eight_bit_mime: bool,
    pub size: bool,
    #[serde(with = "duration::text")]
    pub latency: Duration,
    #[serde(with = "duration::text")]
    pub dot_latency: Duration,
    pub transient_per_mille: u32,
    pub permanent_per_mille: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u64>,
    /// Sends what it gets back to the node.
    pub loops: bool,
    /// No server: mail is written into a maildir by the node itself.
    pub maildir: bool,
    /// Its hosts stand behind a proxy.
    pub behind_proxy: bool,
}

/// What one of the node's sources goes through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressProxy {
    /// Its number, from 1 on.
    pub source: u32,
    pub protocol: ProxyProtocol,
    /// Each a proxy of its own, all with the same address to send from.
    #[serde(default = "one")]
    pub hosts: u32,
    /// Known to the node by a name with all hosts' addresses instead of the first host's address.
    #[serde(default)]
    pub named: bool,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    Socks5,
    /// HAProxy's, version 2.
    Haproxy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimedFault {
    #[serde(serialize_with = "kind_name", deserialize_with = "kind_named")]
    pub what: FaultKind,
    #[serde(with = "duration::text", default)]
    pub at: Duration,
    /// How long; absent: until everything is healed.
    #[serde(
        rename = "for",
        with = "duration::optional_text",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub lasts: Option<Duration>,
    /// In thousandths.
    #[serde(default = "always")]
    pub chance: u32,
    #[serde(with = "duration::optional_text", default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

fn always() -> u32 {
    1000
}

fn kind_name<S: Serializer>(kind: &FaultKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.name())
}

fn kind_named<'de, D: Deserializer<'de>>(from: D) -> Result<FaultKind, D::Error> {
    let name = String::deserialize(from)?;
    FaultKind::named(&name).ok_or_else(|| de::Error::custom(unknown_fault(&name)))
}

fn unknown_fault(name: &str) -> String {
    let port = name.split_once('.').map_or(name, |(port, _)| port);
    let of_port: Vec<&str> =
        FaultKind::ALL.iter().filter(|kind| kind.port() == port).map(|kind| kind.name()).collect();
    if of_port.is_empty() {
        let mut ports: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.port()).collect();
        ports.dedup();
        return format!("there is no port {port:?} to go wrong; there are {}", ports.join(", "));
    }
    format!("{name:?} is no fault; those of its port are {}", of_port.join(", "))
}

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub what: OrderKind,
    #[serde(with = "duration::text")]
    pub at: Duration,
    /// How long the entry stands.
    #[serde(rename = "for", with = "duration::text")]
    pub lasts: Duration,
    /// The domain it is about; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    Bounce,
    Suspend,
    SuspendReady,
    BumpEpoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sweep {
    /// Power is cut at the first step, at the second, and so on.
    CrashAtEveryStep,
    /// The disk fails once at each of its operations, then, in a second row, for ever from each.
    FailEveryOperation,
    /// A graceful stop begins at each step.
    StopAtEveryStep,
    /// A server falls silent at each phase in turn.
    SilenceAtEachPhase,
}

/// What a run has to show beyond the invariants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Expectation {
    /// The 99th percentile of the delay to `domain`, against a run without faults.
    DelayGrowth { domain: String, per_cent_max: u32 },
    /// Messages delivered a minute, against a run with a `fraction`-th of the load, from the second minute until the load ends.
    Goodput { per_cent_min: u32, fraction: u32 },
    /// Attempts in the busiest minute after a moment, against the mean of the minutes with attempts.
    Spread {
        #[serde(with = "duration::text")]
        after: Duration,
        times_max: u32,
    },
    /// Every message was handed in and delivered.
    AllDelivered,
    /// The first fault of the disk shuts the gate: a client hears 421 within `shuts_within` of its beginning, nothing is delivered from then on
    /// until it is over, and a message is taken again within `opens_within` of that.
    Gate {
        #[serde(with = "duration::text")]
        shuts_within: Duration,
        #[serde(with = "duration::text")]
        opens_within: Duration,
    },
    /// Records of this kind, at least.
    Records { kind: String, min: u64 },
    /// Copies that came from a source's address to a server in this time, at least and at most.
    Carried {
        source: u32,
        #[serde(with = "duration::text")]
        from: Duration,
        #[serde(with = "duration::text")]
        until: Duration,
        #[serde(default)]
        min: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u64>,
    },
    /// What was accepted in this time was delivered so soon after it, and by then.
    Delivered {
        #[serde(with = "duration::text")]
        from: Duration,
        #[serde(with = "duration::text")]
        until: Duration,
        #[serde(
            with = "duration::optional_text",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        within: Option<Duration>,
        #[serde(
            with = "duration::optional_text",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        by: Option<Duration>,
    },
}

impl Expectation {
    /// Whether it could ever be met; else the key that is wrong, and why.
    fn check(&self, options: &Options) -> Result<(), (&'static str, String)> {
        let known = |domain: &String| options.has_destination(domain);
        let disk_fails = options.fault.iter().any(|fault| fault.what.port() == "disk");
        match self {
            Expectation::DelayGrowth { domain, .. } if !known(domain) => {
                Err(("domain", format!("there is no destination {domain}")))
            }
            Expectation::Gate { .. } if !disk_fails => {
                Err(("what", "no fault of the disk could shut the gate".into()))
            }
            Expectation::Goodput { fraction: 0, .. } => {
                Err(("fraction", "a load can't be divided by 0".into()))
            }
            Expectation::Records { kind, .. }
                if !RecordKind::ALL.iter().any(|one| one.name() == kind.as_str()) =>
            {
                let kinds: Vec<&str> = RecordKind::ALL.iter().map(|kind| kind.name()).collect();
                Err((
                    "kind",
                    format!("there is no record {kind:?}; there are {}", kinds.join(", ")),
                ))
            }
            Expectation::Carried { source, .. } if !options.has_source(*source) => {
                Err(("source", format!("there are {} sources", options.node.sources)))
            }
            Expectation::Carried { min: 0, max: None, .. } => {
                Err(("min", "any number would do; give min or max".into()))
            }
            Expectation::Delivered { within: None, by: None, .. } => {
                Err(("within", "any time would do; give within or by".into()))
            }
            Expectation::Carried { from, until, .. }
            | Expectation::Delivered { from, until, .. }
                if from >= until =>
            {
                Err(("until", "it ends before it begins".into()))
            }
            _ => Ok(()),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            about: String::new(),
            base: Base::Calm,
            safety: Duration::from_secs(600),
            load: Load::default(),
            disk: Disk::default(),
            net: Network::default(),
            node: Node::default(),
            policy: toml::Table::new(),
            destination: vec![Destination::default()],
            proxy: Vec::new(),
            fault: Vec::new(),
            order: Vec::new(),
            sweep: None,
            expect: Vec::new(),
        }
    }
}

impl Default for Load {
    fn default() -> Load {
        Load {
            messages: 20,
            clients: 2,
            until: Duration::from_secs(60),
            recipients_max: 1,
            octets_max: 2_000,
            injected_per_mille: 0,
            null_sender_per_mille: 0,
            retries: 3,
            pause: Duration::from_secs(60),
            messages_per_connection: 5,
            pipelining: true,
            through_proxy: false,
        }
    }
}

impl Default for Disk {
    fn default() -> Disk {
        Disk {
            two_paths: false,
            files: false,
            write: Duration::from_micros(50),
            sync: Duration::from_micros(500),
            read: Duration::from_micros(30),
            store_deadline: Duration::from_secs(30),
            error_latch: Duration::from_secs(15),
            error_unlatch: Duration::from_secs(300),
            allow_error_unlatch: true,
        }
    }
}

impl Default for Network {
    fn default() -> Network {
        Network {
            latency: Duration::from_millis(2),
            jitter: Duration::from_millis(3),
            buffer_octets: 64 * 1024,
        }
    }
}

impl Default for Node {
    fn default() -> Node {
        Node {
            sources: 1,
            body_cache_octets: 1 << 20,
            max_connections: 100,
            client_timeout: Duration::from_secs(60),
            bifurcate: true,
            suspend_delivery: true,
        }
    }
}

impl Default for Destination {
    fn default() -> Destination {
        Destination {
            domain: "a.example".into(),
            weight: 1,
            hosts: 1,
            starttls: true,
            pipelining: true,
            eight_bit_mime: true,
            size: true,
            latency: Duration::from_millis(5),
            dot_latency: Duration::from_millis(20),
            transient_per_mille: 0,
            permanent_per_mille: 0,
            max_connections: None,
            loops: false,
            maildir: false,
            behind_proxy: false,
        }
    }
}

/// What is wrong with options that can be read: where in the file, and what.
#[derive(Debug, PartialEq, Eq)]
pub struct Impossible {
    /// Keys and positions from the top, such as `destination`, `1`, `domain`.
    pub place: Vec<String>,
    pub what: String,
}

impl Options {
    /// Whether such a world can be.
    pub fn check(&self) -> Result<(), Impossible> {
        let wrong = |place: &[&str], what: String| {
            let place = place.iter().map(ToString::to_string).collect();
            Err(Impossible { place, what })
        };
        if self.load.messages > 0 && self.load.clients == 0 {
            return wrong(&["load", "clients"], "messages need a client to hand them in".into());
        }
        if self.load.recipients_max == 0 {
            return wrong(
                &["load", "recipients_max"],
                "a message has at least one recipient".into(),
            );
        }
        if self.load.until > self.safety {
            return wrong(&["load", "until"], "the load ends after the safety phase".into());
        }
        if self.node.sources == 0 || self.node.sources > 200 {
            return wrong(&["node", "sources"], "there are 1 to 200 sources".into());
        }
        if self.disk.files && !self.disk.two_paths {
            return wrong(&["disk", "files"], "a store of files has two paths".into());
        }
        if self.destination.is_empty() || self.destination.iter().all(|one| one.weight == 0) {
            return wrong(&["destination"], "no destination gets any mail".into());
        }
        for (index, destination) in self.destination.iter().enumerate() {
            let index = index.to_string();
            let domain = &destination.domain;
            let twice = self.destination.iter().filter(|other| other.domain == *domain).count() > 1;
            if twice {
                let what = format!("{domain} is there twice");
                return wrong(&["destination", &index, "domain"], what);
            }
            if destination.hosts == 0 || destination.hosts > 200 {
                let what = "a destination has 1 to 200 hosts".into();
                return wrong(&["destination", &index, "hosts"], what);
            }
            if destination.maildir && (destination.loops || destination.behind_proxy) {
                let what = format!("{domain} is a maildir: it neither loops nor has a proxy");
                return wrong(&["destination", &index, "maildir"], what);
            }
        }
        for (index, proxy) in self.proxy.iter().enumerate() {
            if let Err((key, what)) = self.check_proxy(proxy) {
                return wrong(&["proxy", &index.to_string(), key], what);
            }
        }
        for (index, fault) in self.fault.iter().enumerate() {
            let index = index.to_string();
            if fault.at > self.safety {
                let what = "the fault begins after the safety phase".into();
                return wrong(&["fault", &index, "at"], what);
            }
            if fault.chance > 1000 {
                let what = "a chance is in thousandths, at most 1000".into();
                return wrong(&["fault", &index, "chance"], what);
            }
            if let Err(what) = targets::check(self, fault) {
                return wrong(&["fault", &index, "target"], what);
            }
        }
        for (index, order) in self.order.iter().enumerate() {
            if let Some(domain) = &order.domain
                && !self.has_destination(domain)
            {
                let what = format!("there is no destination {domain}");
                return wrong(&["order", &index.to_string(), "domain"], what);
            }
        }
        for (index, expectation) in self.expect.iter().enumerate() {
            if let Err((key, what)) = expectation.check(self) {
                return wrong(&["expect", &index.to_string(), key], what);
            }
        }
        Ok(())
    }

    fn check_proxy(&self, proxy: &EgressProxy) -> Result<(), (&'static str, String)> {
        let of_source = self.proxy.iter().filter(|one| one.source == proxy.source);
        if !self.has_source(proxy.source) {
            Err(("source", format!("there are {} sources", self.node.sources)))
        } else if of_source.count() > 1 {
            Err(("source", format!("source {} goes through one proxy alone", proxy.source)))
        } else if !(1..=100).contains(&proxy.hosts) {
            Err(("hosts", "a proxy has 1 to 100 hosts".into()))
        } else {
            Ok(())
        }
    }

    fn has_source(&self, number: u32) -> bool {
        (1..=self.node.sources).contains(&number)
    }

    fn has_destination(&self, domain: &str) -> bool {
        self.destination.iter().any(|one| one.domain == domain)
    }
}

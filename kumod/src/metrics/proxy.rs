//! What proxy-server counts and tells, under the names that operators' dashboards know (core.md 10).
//! Invariant: nothing here grows with what clients ask for: destinations that aren't told apart are counted together.
use super::{Kind, List, OTHERS, Sample, sample};
use kumo_core::limits::METRIC_SERIES;
use kumo_driver::counters::Counter;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far a connection came that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Tls,
    Handshake,
    Authentication,
    Bind,
    Connect,
    Relay,
}

impl Stage {
    const ALL: [Stage; 6] = [
        Stage::Tls,
        Stage::Handshake,
        Stage::Authentication,
        Stage::Bind,
        Stage::Connect,
        Stage::Relay,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Tls => "tls",
            Stage::Handshake => "handshake",
            Stage::Authentication => "authentication",
            Stage::Bind => "bind",
            Stage::Connect => "connect",
            Stage::Relay => "relay",
        }
    }
}

/// Of one listener.
#[derive(Debug)]
pub struct ProxyCounters {
    /// The listener's address.
    pub listener: String,
    pub active: Counter,
    pub accepted: Counter,
    pub completed: Counter,
    pub denied: Counter,
    pub client_to_destination: Counter,
    pub destination_to_client: Counter,
    failed: [Counter; Stage::ALL.len()],
    destinations: Mutex<Destinations>,
}

#[derive(Debug, Default)]
struct Destinations {
    counts: BTreeMap<IpAddr, u64>,
    others: u64,
}

impl ProxyCounters {
    pub fn new(listener: String) -> ProxyCounters {
        ProxyCounters {
            listener,
            active: Counter::default(),
            accepted: Counter::default(),
            completed: Counter::default(),
            denied: Counter::default(),
            client_to_destination: Counter::default(),
            destination_to_client: Counter::default(),
            failed: Default::default(),
            destinations: Mutex::default(),
        }
    }

    pub fn failed(&self, stage: Stage) {
        self.failed[stage as usize].add(1);
    }

    fn failures(&self, stage: Stage) -> u64 {
        self.failed[stage as usize].get()
    }

    /// A connection to `destination` stands.
    pub fn connected(&self, destination: IpAddr) {
        let mut destinations = self.destinations();
        let room = destinations.counts.len() < METRIC_SERIES;
        match destinations.counts.get_mut(&destination) {
            Some(count) => *count += 1,
            None if room => drop(destinations.counts.insert(destination, 1)),
            None => destinations.others += 1,
        }
    }

    fn destinations(&self) -> MutexGuard<'_, Destinations> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Text exposition format 0.0.4, of the metrics whose names begin with `prefix`.
pub fn render(listeners: &[Arc<ProxyCounters>], prefix: Option<&str>) -> String {
    list(listeners, prefix).text()
}

/// The same as JSON, in the form of [`super::render_json`].
pub fn render_json(listeners: &[Arc<ProxyCounters>], prefix: Option<&str>) -> String {
    list(listeners, prefix).json()
}

/// A metric of every listener: kind, name, help, and where the number is found.
type Reading = (Kind, &'static str, &'static str, fn(&ProxyCounters) -> u64);

const READINGS: [Reading; 8] = [
    (Kind::Gauge, "proxy_active_connections", "Clients' connections that stand now", |of| {
        of.active.get()
    }),
    (Kind::Counter, "proxy_connections_accepted_total", "Clients' connections accepted", |of| {
        of.accepted.get()
    }),
    (Kind::Counter, "proxy_connections_completed_total", "Relays that both sides ended", |of| {
        of.completed.get()
    }),
    (Kind::Counter, "proxy_connections_failed_total", "Connections that failed", |of| {
        Stage::ALL.into_iter().map(|stage| of.failures(stage)).sum()
    }),
    (
        Kind::Counter,
        "proxy_connections_denied_total",
        "Connections closed at once, being more than max_connections",
        |of| of.denied.get(),
    ),
    (
        Kind::Counter,
        "proxy_bytes_client_to_dest_total",
        "Octets passed on from clients to destinations",
        |of| of.client_to_destination.get(),
    ),
    (
        Kind::Counter,
        "proxy_bytes_dest_to_client_total",
        "Octets passed on from destinations to clients",
        |of| of.destination_to_client.get(),
    ),
    (
        Kind::Counter,
        "proxy_tls_handshake_failures_total",
        "TLS handshakes of clients that failed",
        |of| of.failures(Stage::Tls),
    ),
];

fn list<'a>(listeners: &[Arc<ProxyCounters>], prefix: Option<&'a str>) -> List<'a> {
    let mut list = List::of(prefix);
    for (kind, name, help, number) in READINGS {
        let one = |of: &Arc<ProxyCounters>| sample("listener", &of.listener, number(of));
        list.add(kind, name, help, || listeners.iter().map(one).collect());
    }
    let help = "Connections to destinations that came about";
    list.counter("proxy_outbound_connections_total", help, || {
        listeners.iter().flat_map(|of| outbound(of)).collect()
    });
    let help = "Connections that failed, by how far they came";
    list.counter("kumod_proxy_failures_total", help, || {
        listeners.iter().flat_map(|of| failures(of)).collect()
    });
    list
}

fn outbound(of: &ProxyCounters) -> Vec<Sample> {
    let destinations = of.destinations();
    let told = destinations.counts.iter().map(|(address, count)| (address.to_string(), *count));
    let others = (destinations.others > 0).then(|| (OTHERS.to_owned(), destinations.others));
    told.chain(others)
        .map(|(destination, value)| by(of, "destination", destination, value))
        .collect()
}

fn failures(of: &ProxyCounters) -> Vec<Sample> {
    let stage = |stage: Stage| by(of, "stage", stage.name().to_owned(), of.failures(stage));
    Stage::ALL.into_iter().map(stage).collect()
}

fn by(of: &ProxyCounters, label: &'static str, value_of: String, value: u64) -> Sample {
    Sample { labels: vec![("listener", of.listener.clone()), (label, value_of)], value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn counted() -> Vec<Arc<ProxyCounters>> {
        let of = ProxyCounters::new("127.0.0.1:1080".into());
        of.accepted.add(3);
        of.failed(Stage::Tls);
        of.failed(Stage::Relay);
        of.connected([192, 0, 2, 1].into());
        vec![Arc::new(of)]
    }

    #[test]
    fn each_number_stands_under_its_name() {
        let text = render(&counted(), None);
        for line in [
            "# TYPE proxy_active_connections gauge",
            "proxy_connections_accepted_total{listener=\"127.0.0.1:1080\"} 3",
            "proxy_connections_failed_total{listener=\"127.0.0.1:1080\"} 2",
            "proxy_tls_handshake_failures_total{listener=\"127.0.0.1:1080\"} 1",
            "proxy_outbound_connections_total{listener=\"127.0.0.1:1080\",destination=\"192.0.2.1\"} 1",
            "kumod_proxy_failures_total{listener=\"127.0.0.1:1080\",stage=\"relay\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let only = render(&counted(), Some("proxy_bytes"));
        assert_eq!(only.lines().filter(|line| line.starts_with("# TYPE")).count(), 2, "{only}");
        let json: Value = serde_json::from_str(&render_json(&counted(), None)).unwrap();
        let accepted = &json["proxy_connections_accepted_total"]["value"];
        assert_eq!(accepted["listener"]["127.0.0.1:1080"], 3);
    }

    #[test]
    fn destinations_beyond_the_limit_are_counted_together() {
        let of = ProxyCounters::new("x".into());
        for number in 0..METRIC_SERIES as u32 + 5 {
            of.connected(IpAddr::V4(number.into()));
        }
        of.connected(IpAddr::V4(0.into()));
        let samples = outbound(&of);
        assert_eq!(samples.len(), METRIC_SERIES + 1);
        assert_eq!((samples[0].value, samples[METRIC_SERIES].value), (2, 5));
    }
}

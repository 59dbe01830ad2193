//! Scripted servers: they take mail as a server of the internet does, tell the ledger what they got, and misbehave where a fault says so.
//! Invariant: what they store is told to the ledger before they reply; what a client must never do is told as a violation.
//!
//! - [`session`]: one connection, by the book. [`trouble`]: what it does instead when a fault strikes.
//! - [`forward`]: the way on from a server that is half of a mail loop.
//!
//! A server doesn't know whether its reply arrived: a connection that breaks under a 250 looks to it like any that ends.
mod forward;
mod session;
mod trouble;

#[cfg(test)]
mod tests;

use crate::ledger::Event;
use crate::net::{Presence, SimNetwork};
use crate::universe::Universe;
use kumo_core::port::{Listener, Network, TlsAccept};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::sleep;

#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// Its host name, by which faults and the ledger know it.
    pub name: String,
    pub address: SocketAddr,
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub size: bool,
    pub starttls: bool,
    /// Further connections get 421.
    pub max_connections: Option<u64>,
    /// Before each reply.
    pub latency: Duration,
    /// Of all addresses, those that are refused by 5yz for ever.
    pub permanent_per_mille: u32,
    /// Of all RCPT commands, those that are refused by 4yz for now.
    pub transient_per_mille: u32,
    /// Between the final dot and storing.
    pub dot_latency: Duration,
    /// Where it sends what it has stored, with one more Received field.
    pub forwards_to: Option<SocketAddr>,
}

impl PeerSettings {
    /// All is fine there.
    pub fn kind(name: &str, address: SocketAddr) -> PeerSettings {
        PeerSettings {
            name: name.into(),
            address,
            pipelining: true,
            eight_bit_mime: true,
            size: true,
            starttls: false,
            max_connections: None,
            latency: Duration::ZERO,
            permanent_per_mille: 0,
            transient_per_mille: 0,
            dot_latency: Duration::ZERO,
            forwards_to: None,
        }
    }
}

/// What all connections of one server share.
struct Server {
    universe: Arc<Universe>,
    network: SimNetwork,
    settings: PeerSettings,
    tls: Arc<TlsAccept>,
    /// Connections that weren't turned away.
    served: Mutex<Vec<Presence>>,
}

impl Server {
    /// Whether there is room for one more. Those that their other end has let go of don't count, even if their tasks here still hang.
    fn has_room_for(&self, presence: Presence) -> bool {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(Presence::stands);
        let has_room =
            self.settings.max_connections.is_none_or(|most| (served.len() as u64) < most);
        if has_room {
            served.push(presence);
        }
        has_room
    }

    fn violation(&self, invariant: &'static str, what: &str) {
        let what = format!("{}: {what}", self.settings.name);
        self.universe.ledger.violation(self.universe.now(), invariant, what);
    }

    fn write(&self, event: Event) {
        self.universe.write(event);
    }
}

/// Serves as long as the runtime lives, every connection in a task of its own.
pub async fn run(universe: Arc<Universe>, settings: PeerSettings) {
    let address = settings.address;
    let network = SimNetwork::of_host(&universe, address.ip());
    let tls = Arc::new(TlsAccept { hostname: settings.name.clone(), certificate: None });
    if settings.starttls {
        network.prepare_tls(&tls).expect("a certificate can be made");
    }
    let mut listener = network.listen(address).await.expect("the address is free");
    let purpose = format!("peer {}", settings.name);
    let server = Arc::new(Server { universe, network, settings, tls, served: Mutex::default() });
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let has_room = server.has_room_for(stream.presence());
        let random = Random::new(server.universe.seed ^ number, &purpose);
        let session = session::Session::new(server.clone(), stream, random);
        match has_room {
            true => drop(tokio::spawn(session.run())),
            false => drop(tokio::spawn(session.turn_away())),
        }
    }
}

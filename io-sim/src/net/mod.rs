//! The `Network` port and its listeners: who can be reached, and what becomes of an attempt. Invariants: the node's ends are all known, so that
//! its death reaches each of them; nothing of a dead life dials, listens or accepts. What happens on a connection stands in [`connection`].
mod connection;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use connection::Mark;
pub use stream::{Presence, SimStream};

use crate::fault::FaultKind;
use crate::lives::Place;
use crate::universe::Universe;
use crate::waits::{WaitKind, Waiting};
use connection::{Connection, Route, Side, delay};
use kumo_core::port::{DialRequest, Listener, NetError, NetErrorKind, Network, TlsAccept};
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono};
use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Connections that nobody has accepted yet; one more attempt isn't answered.
const BACKLOG: usize = 128;
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

#[derive(Clone, Debug)]
pub struct NetSettings {
    /// One way.
    pub latency: Duration,
    /// On top of it, at most.
    pub jitter: Duration,
    /// What a direction of a connection takes until its other end reads.
    pub buffer_octets: usize,
}

impl Default for NetSettings {
    fn default() -> NetSettings {
        NetSettings {
            latency: Duration::from_millis(2),
            jitter: Duration::from_millis(3),
            buffer_octets: 64 * 1024,
        }
    }
}

/// Those who wait at a listener.
struct Backlog {
    life: Option<u64>,
    waiting: Mutex<VecDeque<Arc<Connection>>>,
    arrived: Notify,
}

impl Backlog {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Arc<Connection>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct State {
    random: Random,
    listeners: BTreeMap<SocketAddr, Arc<Backlog>>,
    /// Connections with an end at the node.
    nodes: BTreeMap<u64, Arc<Connection>>,
    /// By the address dialled.
    standing: BTreeMap<SocketAddr, u64>,
    /// The node's machine has no power.
    is_dark: bool,
    next_connection: u64,
    next_port: u16,
}

/// What all networks of a universe share.
pub struct Net {
    seed: u64,
    settings: NetSettings,
    state: Mutex<State>,
}

/// What an attempt finds.
enum Door {
    Open(Arc<Connection>),
    Shut,
    /// Nobody answers.
    Nowhere,
}

impl Net {
    pub fn new(seed: u64, settings: &NetSettings) -> Net {
        let state = State {
            random: Random::new(seed, "dials"),
            listeners: BTreeMap::new(),
            nodes: BTreeMap::new(),
            standing: BTreeMap::new(),
            is_dark: false,
            next_connection: 0,
            next_port: *EPHEMERAL.start(),
        };
        Net { seed, settings: settings.clone(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections at a server's address. One stands from when its dial is answered until either end lets go of it.
    #[cfg(test)]
    pub fn open_connections(&self, server: SocketAddr) -> u64 {
        self.state().standing.get(&server).copied().unwrap_or(0)
    }

    /// To be called when the node's life is over, before its tasks are ended: what they drop later has no effect.
    pub fn node_died(&self, universe: &Universe, power_cut: bool) {
        let nodes = {
            let mut state = self.state();
            state.is_dark = power_cut;
            state.listeners.retain(|_, backlog| backlog.life.is_none());
            std::mem::take(&mut state.nodes)
        };
        let now = universe.now().mono;
        for connection in nodes.into_values() {
            for side in Side::BOTH {
                match connection.route.lives[side as usize] {
                    Some(_) if power_cut => connection.vanish(side),
                    Some(_) => connection.reset(side, now, &universe.faults),
                    None => {}
                }
            }
            self.forget(&connection);
        }
    }

    fn power_on(&self) {
        self.state().is_dark = false;
    }

    fn next_port(&self) -> u16 {
        let mut state = self.state();
        let port = state.next_port;
        state.next_port = if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
        port
    }

    fn delay(&self, universe: &Universe, target: &str) -> Duration {
        delay(&self.settings, &mut self.state().random, &universe.faults, target)
    }

    /// An end of it was let go.
    fn forget(&self, connection: &Connection) {
        let (was_counted, is_of_the_node) = (connection.uncount(), connection.is_of_the_node());
        let mut state = self.state();
        if was_counted && let Some(count) = state.standing.get_mut(&connection.route.listener) {
            *count = count.saturating_sub(1);
        }
        if !is_of_the_node {
            state.nodes.remove(&connection.route.number);
        }
    }

    /// A connection to whoever listens where `attempt` goes, put into their backlog.
    fn knock(&self, universe: &Universe, attempt: Attempt<'_>) -> Door {
        let mut state = self.state();
        if state.is_dark && attempt.is_to_the_node {
            return Door::Nowhere;
        }
        let Some(backlog) = state.listener(universe, &attempt) else { return Door::Shut };
        if universe.faults.strikes(FaultKind::NetRefuse, attempt.target).is_some() {
            return Door::Shut;
        }
        let mut waiting = backlog.waiting();
        if waiting.len() >= BACKLOG {
            return Door::Nowhere;
        }
        let number = state.next_connection;
        state.next_connection += 1;
        let lives = [attempt.life, backlog.life];
        let far = match lives {
            [Some(_), None] => Some(attempt.target.into()),
            [None, Some(_)] => Some(attempt.source.ip().to_string().into()),
            _ => None,
        };
        let route = Route {
            number,
            dialler: attempt.source,
            listener: attempt.remote,
            lives,
            target: attempt.target.into(),
            far,
        };
        let random = Random::new(self.seed ^ number.rotate_left(32), "connection");
        let (faults, now) = (&universe.faults, universe.now().mono);
        let connection = Arc::new(Connection::new(route, &self.settings, random, faults, now));
        *state.standing.entry(attempt.remote).or_default() += 1;
        if lives.iter().any(Option::is_some) {
            state.nodes.insert(number, connection.clone());
        }
        waiting.push_back(connection.clone());
        drop(waiting);
        backlog.arrived.notify_one();
        Door::Open(connection)
    }
}

impl State {
    /// Exactly there, or on all addresses of the node.
    fn listener(&self, universe: &Universe, attempt: &Attempt<'_>) -> Option<Arc<Backlog>> {
        let is_standing =
            |backlog: &&Arc<Backlog>| backlog.life.is_none_or(|life| !universe.lives.is_over(life));
        let at = |ip: IpAddr| {
            self.listeners.get(&SocketAddr::new(ip, attempt.remote.port())).filter(is_standing)
        };
        let remote = attempt.remote.ip();
        let is_local = remote.is_loopback() && attempt.life.is_some();
        let mut found = at(remote);
        if found.is_none() && (attempt.is_to_the_node || is_local) {
            let any_v4 = remote.is_ipv4().then(|| at(Ipv4Addr::UNSPECIFIED.into())).flatten();
            // As a socket for both families.
            found = any_v4.or_else(|| at(Ipv6Addr::UNSPECIFIED.into()));
        }
        found.cloned()
    }
}

/// On its way to a listener.
struct Attempt<'a> {
    remote: SocketAddr,
    source: SocketAddr,
    life: Option<u64>,
    target: &'a str,
    is_to_the_node: bool,
}

#[derive(Clone, Copy)]
enum Who {
    Node { life: u64 },
    Host { address: IpAddr },
}

/// The network as one machine has it.
pub struct SimNetwork {
    universe: Arc<Universe>,
    who: Who,
}

impl SimNetwork {
    /// The node under test, in one of its lives, which has begun. Its machine has power from here on.
    pub fn of_node(universe: &Arc<Universe>, life: u64) -> SimNetwork {
        universe.net.power_on();
        SimNetwork { universe: universe.clone(), who: Who::Node { life } }
    }

    /// Anybody else.
    pub fn of_host(universe: &Arc<Universe>, address: IpAddr) -> SimNetwork {
        SimNetwork { universe: universe.clone(), who: Who::Host { address } }
    }

    fn life(&self) -> Option<u64> {
        match self.who {
            Who::Node { life } => Some(life),
            Who::Host { .. } => None,
        }
    }

    async fn step(&self) {
        if let Some(life) = self.life() {
            // Only the disk's steps fail.
            let _ = self.universe.lives.step(life, Place::Elsewhere).await;
        }
    }

    async fn alive(&self) {
        if let Some(life) = self.life() {
            self.universe.lives.alive(life).await;
        }
    }

    fn waiting(&self, kind: WaitKind) -> Option<Waiting> {
        self.life().map(|_| self.universe.waits.begin(kind, self.universe.now().mono))
    }

    fn is_interface(&self, address: IpAddr) -> bool {
        self.universe.settings.interfaces.contains(&address)
    }

    fn is_lost(&self, address: IpAddr) -> bool {
        self.universe.faults.is_active(FaultKind::HostLostAddress, &address.to_string())
    }

    /// Whether an address that somebody wants to send from is gone: for everybody who asks, so that one strike is counted for each.
    pub(crate) fn lacks(&self, address: IpAddr) -> bool {
        let is_lost = self.is_lost(address);
        if is_lost {
            self.universe.faults.strikes(FaultKind::HostLostAddress, &address.to_string());
        }
        is_lost
    }

    /// Where a dial to `remote` comes from.
    fn source(&self, remote: IpAddr, wanted: Option<IpAddr>) -> Result<IpAddr, NetError> {
        match (self.who, wanted) {
            (Who::Host { address }, wanted) => Ok(wanted.unwrap_or(address)),
            (Who::Node { .. }, Some(wanted)) => self.wanted_source(remote, wanted),
            (Who::Node { .. }, None) if remote.is_loopback() => Ok(remote),
            (Who::Node { .. }, None) => {
                let fits = |address: &&IpAddr| {
                    address.is_ipv4() == remote.is_ipv4() && !self.is_lost(**address)
                };
                let found = self.universe.settings.interfaces.iter().find(fits).copied();
                let why = || format!("connect to {remote}: network is unreachable");
                found.ok_or_else(|| failure(NetErrorKind::Unreachable, why()))
            }
        }
    }

    fn wanted_source(&self, remote: IpAddr, wanted: IpAddr) -> Result<IpAddr, NetError> {
        let from_to = format!("connect from {wanted} to {remote}");
        if wanted.is_ipv4() != remote.is_ipv4() {
            let why = format!("{from_to}: the two are of different families");
            return Err(failure(NetErrorKind::Unreachable, why));
        }
        if self.lacks(wanted) || !self.is_interface(wanted) {
            let why = format!("{from_to}: no interface has the source address");
            return Err(failure(NetErrorKind::AddressNotAvailable, why));
        }
        Ok(wanted)
    }

    fn check_descriptors(&self, target: &str, what: &str) -> Result<(), NetError> {
        let is_struck = self.life().is_some()
            && self.universe.faults.strikes(FaultKind::NetExhausted, target).is_some();
        if is_struck {
            let why = format!("{what}: too many open files");
            return Err(failure(NetErrorKind::Exhausted, why));
        }
        Ok(())
    }

    /// Whether the attempt gets lost on its way.
    fn is_lost_on_the_way(&self, attempt: &Attempt<'_>) -> bool {
        let far = match (self.life(), attempt.is_to_the_node) {
            (Some(_), false) => Some(attempt.target.to_string()),
            (None, true) => Some(attempt.source.ip().to_string()),
            _ => None,
        };
        let strikes = |kind, target: &str| self.universe.faults.strikes(kind, target).is_some();
        far.is_some_and(|far| strikes(FaultKind::NetPartition, &far))
            || strikes(FaultKind::NetBlackHole, attempt.target)
    }

    async fn dial_from(&self, attempt: Attempt<'_>) -> Result<SimStream, NetError> {
        let Attempt { remote, target, .. } = attempt;
        if self.is_lost_on_the_way(&attempt) {
            pending::<()>().await;
        }
        sleep(self.universe.net.delay(&self.universe, target)).await;
        self.alive().await;
        let door = self.universe.net.knock(&self.universe, attempt);
        // From here on dropping this future lets go of the connection.
        let stream = match door {
            Door::Open(connection) => {
                Some(SimStream::new(&self.universe, connection, Side::Dialler))
            }
            Door::Shut => None,
            Door::Nowhere => pending().await,
        };
        sleep(self.universe.net.delay(&self.universe, target)).await;
        self.alive().await;
        let why = || format!("connect to {remote}: connection refused");
        stream.ok_or_else(|| failure(NetErrorKind::Refused, why()))
    }

    /// Where one may listen, with a port.
    fn bindable(&self, address: SocketAddr) -> Result<SocketAddr, NetError> {
        let ip = address.ip();
        let is_ours = match self.who {
            Who::Node { .. } => {
                let is_here = self.is_interface(ip) && !self.is_lost(ip);
                ip.is_loopback() || ip.is_unspecified() || is_here
            }
            Who::Host { .. } => true,
        };
        if !is_ours {
            let why = format!("listen on {address}: no interface has the address");
            return Err(failure(NetErrorKind::AddressNotAvailable, why));
        }
        let port = if address.port() == 0 { self.universe.net.next_port() } else { address.port() };
        Ok(SocketAddr::new(ip, port))
    }
}

fn failure(kind: NetErrorKind, text: String) -> NetError {
    NetError { kind, text }
}

impl Network for SimNetwork {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn dial(&self, request: DialRequest) -> Result<SimStream, NetError> {
        let DialRequest { remote, source_address } = request;
        let _waiting = self.waiting(WaitKind::Dial);
        self.step().await;
        let target = remote.ip().to_string();
        self.check_descriptors(&target, "connect")?;
        let source = self.source(remote.ip(), source_address)?;
        let attempt = Attempt {
            remote,
            source: SocketAddr::new(source, self.universe.net.next_port()),
            life: self.life(),
            target: &target,
            is_to_the_node: self.is_interface(remote.ip()),
        };
        self.dial_from(attempt).await
    }

    async fn listen(&self, address: SocketAddr) -> Result<SimListener, NetError> {
        self.step().await;
        let address = self.bindable(address)?;
        let life = self.life();
        let mut state = self.universe.net.state();
        let is_taken = |backlog: &Arc<Backlog>| {
            backlog.life.is_none_or(|life| !self.universe.lives.is_over(life))
        };
        if state.listeners.get(&address).is_some_and(is_taken) {
            let why = format!("listen on {address}: address in use");
            return Err(failure(NetErrorKind::AddressInUse, why));
        }
        let backlog = Arc::new(Backlog { life, waiting: Mutex::default(), arrived: Notify::new() });
        state.listeners.insert(address, backlog.clone());
        drop(state);
        let network = SimNetwork { universe: self.universe.clone(), who: self.who };
        Ok(SimListener { network, address, backlog })
    }

    fn prepare_tls(&self, _: &TlsAccept) -> Result<(), NetError> {
        Ok(())
    }
}

pub struct SimListener {
    network: SimNetwork,
    address: SocketAddr,
    backlog: Arc<Backlog>,
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&mut self) -> Result<(SimStream, SocketAddr), NetError> {
        loop {
            self.network.alive().await;
            if !self.backlog.waiting().is_empty() {
                let target = self.address.ip().to_string();
                self.network.check_descriptors(&target, "accept")?;
            }
            let next = self.backlog.waiting().pop_front();
            if let Some(connection) = next {
                let peer = connection.address(Side::Dialler);
                let universe = &self.network.universe;
                return Ok((SimStream::new(universe, connection, Side::Listener), peer));
            }
            self.backlog.arrived.notified().await;
        }
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    /// Who waits is reset.
    fn drop(&mut self) {
        let universe = &self.network.universe;
        if self.network.life().is_some_and(|life| universe.lives.is_over(life)) {
            return;
        }
        let mut state = universe.net.state();
        let is_this = |backlog: &Arc<Backlog>| Arc::ptr_eq(backlog, &self.backlog);
        if state.listeners.get(&self.address).is_some_and(is_this) {
            state.listeners.remove(&self.address);
        }
        drop(state);
        let waiting = std::mem::take(&mut *self.backlog.waiting());
        let now: Mono = universe.now().mono;
        for connection in waiting {
            connection.reset(Side::Listener, now, &universe.faults);
            universe.net.forget(&connection);
        }
    }
}

//! One end of a connection, and the waiting. Invariants: nothing of a life that is over is written, read or ended; what a read takes, it
//! has handed out, wherever it is dropped; no lock is held across an await. What happens on the way is the connection's to know.
use super::connection::{Connection, Failure, Mark, Side, Tried, Until};
use crate::fault::FaultKind;
use crate::lives::Place;
use crate::tls;
use crate::universe::Universe;
use crate::waits::{WaitKind, Waiting};
use bytes::BytesMut;
use kumo_core::port::{NetError, NetErrorKind, Stream, TlsAccept, TlsConnect, TlsInfo};
use kumo_core::time::Mono;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::sleep;

pub struct SimStream {
    pub(crate) universe: Arc<Universe>,
    connection: Arc<Connection>,
    side: Side,
    is_tls: bool,
}

/// A connection, for somebody who only counts them.
pub struct Presence(Arc<Connection>);

impl Presence {
    /// Whether neither end has let go of it.
    pub fn stands(&self) -> bool {
        self.0.stands()
    }
}

impl SimStream {
    pub(super) fn new(
        universe: &Arc<Universe>,
        connection: Arc<Connection>,
        side: Side,
    ) -> SimStream {
        SimStream { universe: universe.clone(), connection, side, is_tls: false }
    }

    pub fn peer_address(&self) -> SocketAddr {
        self.connection.address(self.side.other())
    }

    /// To ask later whether the connection still stands.
    pub fn presence(&self) -> Presence {
        Presence(self.connection.clone())
    }

    /// RST.
    pub fn reset(self) {
        if !self.is_of_a_dead_life() {
            let Universe { faults, .. } = &*self.universe;
            self.connection.reset(self.side, self.universe.now().mono, faults);
        }
        // What is left to be done is the drop's.
    }

    /// FIN of this direction; the other goes on.
    pub async fn end_writing(&mut self) {
        self.finish().await;
    }

    // ---- For the node's sake ----------------------------------------------------------------------------

    fn life(&self) -> Option<u64> {
        self.connection.route.lives[self.side as usize]
    }

    fn is_of_a_dead_life(&self) -> bool {
        self.life().is_some_and(|life| self.universe.lives.is_over(life))
    }

    async fn alive(&self) {
        if let Some(life) = self.life() {
            self.universe.lives.alive(life).await;
        }
    }

    async fn step(&self) {
        if let Some(life) = self.life() {
            // Only the disk's steps fail.
            let _ = self.universe.lives.step(life, Place::Elsewhere).await;
        }
    }

    fn waiting(&self, kind: WaitKind) -> Option<Waiting> {
        self.life().map(|_| self.universe.waits.begin(kind, self.universe.now().mono))
    }

    /// Whether this end is the node's.
    pub(crate) fn is_of_the_node(&self) -> bool {
        self.life().is_some()
    }

    /// Whether the other end is the node's.
    pub(crate) fn is_to_the_node(&self) -> bool {
        self.connection.route.lives[self.side.other() as usize].is_some()
    }

    /// The address dialled, as faults are aimed at it.
    pub(crate) fn target(&self) -> &str {
        &self.connection.route.target
    }

    // ---- Octets -----------------------------------------------------------------------------------------

    fn mark(&self) -> Mark {
        if self.is_tls { Mark::Tls } else { Mark::Plain }
    }

    /// From here on plain octets are an error, in both directions.
    pub(crate) fn set_tls(&mut self) {
        self.is_tls = true;
    }

    /// Appends what comes of one kind, the wanted one or any; 0 octets are the end. May be dropped at its await.
    pub(crate) async fn receive(
        &self,
        wanted: Option<Mark>,
        buffer: &mut BytesMut,
    ) -> Result<(usize, Mark), NetError> {
        loop {
            self.alive().await;
            let Universe { faults, .. } = &*self.universe;
            let now = self.universe.now().mono;
            match self.connection.try_receive(self.side, wanted, buffer, now, faults) {
                Ok(Tried::Done(read)) => return Ok(read),
                Ok(Tried::Wait(until)) => {
                    self.pause(self.connection.readable(self.side), until, now).await;
                }
                Err(failure) => return Err(self.error("read", failure)),
            }
        }
    }

    pub(crate) async fn send(&self, data: &[u8], mark: Mark) -> Result<(), NetError> {
        self.send_watched(data, mark, &mut |_| {}).await
    }

    async fn send_watched(
        &self,
        mut data: &[u8],
        mark: Mark,
        taken: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), NetError> {
        self.step().await;
        while !data.is_empty() {
            self.alive().await;
            let Universe { faults, .. } = &*self.universe;
            let now = self.universe.now().mono;
            match self.connection.try_send(self.side, (data, mark), now, faults) {
                Ok(Tried::Done(written)) => {
                    data = &data[written..];
                    taken(written);
                }
                Ok(Tried::Wait(until)) => {
                    self.pause(self.connection.writable(self.side), until, now).await;
                }
                Err(failure) => return Err(self.error("write", failure)),
            }
        }
        Ok(())
    }

    pub(crate) async fn finish(&self) {
        self.alive().await;
        self.connection.finish(self.side, self.universe.now().mono, &self.universe.faults);
    }

    async fn pause(&self, signal: &Notify, until: Until, now: Mono) {
        match (until, &self.connection.route.far) {
            (Until::Time(at), _) => {
                let left = at.since(now);
                tokio::select! {
                    biased;
                    () = signal.notified() => {}
                    () = sleep(left) => {}
                }
            }
            (Until::Heal, Some(far)) => {
                tokio::select! {
                    biased;
                    () = signal.notified() => {}
                    () = self.universe.faults.over(FaultKind::NetPartition, far) => {}
                }
            }
            (Until::Signal | Until::Heal, _) => signal.notified().await,
        }
    }

    fn error(&self, what: &str, failure: Failure) -> NetError {
        let (kind, why) = match failure {
            Failure::Reset => (NetErrorKind::Reset, "connection reset by peer"),
            Failure::WrongMark => (NetErrorKind::Tls, "octets that are not what was agreed on"),
            Failure::Finished => (NetErrorKind::Other, "broken pipe"),
        };
        NetError { kind, text: format!("{what} from or to {}: {why}", self.peer_address()) }
    }
}

impl Stream for SimStream {
    fn local_address(&self) -> Option<SocketAddr> {
        Some(self.connection.address(self.side))
    }

    async fn read(&mut self, buffer: &mut BytesMut) -> Result<usize, NetError> {
        let _waiting = self.waiting(WaitKind::Read);
        let (count, _) = self.receive(Some(self.mark()), buffer).await?;
        Ok(count)
    }

    async fn write_watched(
        &mut self,
        data: &[u8],
        taken: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), NetError> {
        let _waiting = self.waiting(WaitKind::Write);
        self.send_watched(data, self.mark(), taken).await
    }

    /// Never waits for the other end.
    async fn shutdown(&mut self) {
        self.finish().await;
    }

    async fn upgrade_client(
        mut self,
        connect: TlsConnect,
    ) -> Result<(SimStream, TlsInfo), NetError> {
        let _waiting = self.waiting(WaitKind::TlsHandshake);
        let info = tls::connect(&mut self, &connect).await?;
        Ok((self, info))
    }

    async fn upgrade_server(
        mut self,
        accept: Arc<TlsAccept>,
    ) -> Result<(SimStream, TlsInfo), NetError> {
        let _waiting = self.waiting(WaitKind::TlsHandshake);
        let info = tls::accept(&mut self, &accept).await?;
        Ok((self, info))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        // Of a dead life's connections [`super::Net::node_died`] takes care.
        if self.is_of_a_dead_life() {
            return;
        }
        let Universe { faults, net, .. } = &*self.universe;
        self.connection.close(self.side, self.universe.now().mono, faults);
        net.forget(&self.connection);
    }
}

//! One client's connection, from TLS or the first octet to the end of its relay. Invariants: a handshake as a whole has a deadline,
//! so has the way to the destination; it ends as one success or one failure, counted and said; what the client says is
//! never shown as it is.
use crate::outbound::{self, Wish};
use crate::relay;
use crate::server::World;
use kumo_core::config::proxy_listener::TcpKeepalive;
use kumo_core::port::{Stream, TlsAccept};
use kumo_core::proxy::socks5::server::{Authentication, Output, Server};
use kumo_io_real::net::RealStream;
use kumod::metrics::proxy::{ProxyCounters, Stage};
use kumod::policy::Client;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// What is read of a handshake at once: its longest message fits, and the machine takes two of these.
const READ: usize = 512;
/// For a client that was refused to take its answer and leave.
const PARTING: Duration = Duration::from_secs(1);
const PARTING_OCTETS: u64 = 64 * 1024;

/// What the connections of a listener share.
pub struct Listening {
    pub world: Arc<World>,
    pub counters: Arc<ProxyCounters>,
    pub authentication: Authentication,
    pub tls: Option<Arc<TlsAccept>>,
    pub timeout: Duration,
    pub idle_timeout: Duration,
    pub use_splice: bool,
    pub keepalive: TcpKeepalive,
    pub stopped: watch::Receiver<bool>,
}

/// Why a connection ended before its time.
#[derive(Debug)]
pub struct Failure {
    pub stage: Stage,
    pub text: String,
}

fn failed(stage: Stage, text: impl ToString) -> Failure {
    Failure { stage, text: text.to_string() }
}

/// Counts a connection as long as it stands.
struct Standing<'a>(&'a ProxyCounters);

impl<'a> Standing<'a> {
    fn new(counters: &'a ProxyCounters) -> Standing<'a> {
        counters.accepted.add(1);
        counters.active.add(1);
        Standing(counters)
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.active.sub(1);
    }
}

pub async fn serve(listening: &Listening, stream: RealStream, peer: SocketAddr) {
    let counters = &listening.counters;
    let _standing = Standing::new(counters);
    match run(listening, stream, peer).await {
        Ok(()) => {
            counters.completed.add(1);
            tracing::debug!("client {peer}: done");
        }
        Err(Failure { stage, text }) => {
            counters.failed(stage);
            tracing::info!("client {peer}: failed at {}: {text}", stage.name());
        }
    }
}

async fn run(listening: &Listening, stream: RealStream, peer: SocketAddr) -> Result<(), Failure> {
    outbound::keep_alive(stream.tcp(), &listening.keepalive);
    let (client, agreed) = agree_or_stop(listening, stream, peer).await?;
    let Agreed { destination, rest } = agreed;
    let ended = relay::run(listening, client, destination, &rest).await;
    ended.map_err(|broken| failed(Stage::Relay, broken))
}

/// Whoever hasn't got a destination when the process stops gets none.
async fn agree_or_stop(
    listening: &Listening,
    stream: RealStream,
    peer: SocketAddr,
) -> Result<(RealStream, Agreed), Failure> {
    let mut stopped = listening.stopped.clone();
    tokio::select! {
        biased;
        agreed = agree(listening, stream, peer) => agreed,
        _ = stopped.wait_for(|stopped| *stopped) => Err(failed(Stage::Handshake, "stopping")),
    }
}

/// A handshake that succeeded.
struct Agreed {
    destination: RealStream,
    /// What the client has said to it already.
    rest: Vec<u8>,
}

async fn agree(
    listening: &Listening,
    stream: RealStream,
    peer: SocketAddr,
) -> Result<(RealStream, Agreed), Failure> {
    let deadline = Instant::now() + listening.timeout;
    let stream = match &listening.tls {
        None => stream,
        Some(tls) => secure(listening, stream, tls, deadline).await?,
    };
    let local = stream.local_address().unwrap_or(peer);
    let mut handshake = Handshake {
        listening,
        stream,
        machine: Server::new(listening.authentication),
        client: Client { peer, local },
        deadline,
        stage: Stage::Handshake,
        text: None,
        destination: None,
    };
    let ended = handshake.run().await;
    let Handshake { mut stream, destination, .. } = handshake;
    match (ended, destination) {
        (Ok(rest), Some(destination)) => Ok((stream, Agreed { destination, rest })),
        (Ok(_), None) => unreachable!("a relay begins when a destination is connected"),
        (Err(failure), _) => {
            part(&mut stream).await;
            Err(failure)
        }
    }
}

async fn secure(
    listening: &Listening,
    stream: RealStream,
    tls: &Arc<TlsAccept>,
    deadline: Instant,
) -> Result<RealStream, Failure> {
    match timeout_at(deadline, stream.upgrade_server(tls.clone())).await {
        Ok(Ok((stream, _))) => Ok(stream),
        Ok(Err(error)) => Err(failed(Stage::Tls, error)),
        Err(_) => Err(failed(Stage::Tls, not_done(listening.timeout))),
    }
}

/// Lets the last reply arrive: closing a socket with octets unread would take it back.
async fn part(stream: &mut RealStream) {
    let parting = async {
        if AsyncWriteExt::shutdown(stream).await.is_ok() {
            let mut left = AsyncReadExt::take(stream, PARTING_OCTETS);
            // Whatever it says or fails with, it is no longer listened to.
            let _ = tokio::io::copy(&mut left, &mut tokio::io::sink()).await;
        }
    };
    let _ = timeout(PARTING, parting).await;
}

struct Handshake<'a> {
    listening: &'a Listening,
    stream: RealStream,
    machine: Server,
    client: Client,
    deadline: Instant,
    /// Of a failure, should there be one now.
    stage: Stage,
    /// More about it than the machine knows.
    text: Option<String>,
    destination: Option<RealStream>,
}

impl Handshake<'_> {
    /// Yields what the client has said to its destination already.
    async fn run(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            while let Some(output) = self.machine.poll() {
                match output {
                    Output::Send(octets) => self.send(&octets).await?,
                    Output::Authenticate { username, password } => {
                        self.authenticate(&username, &password).await?;
                    }
                    Output::Bind(source) => self.bind(source),
                    Output::Connect { destination, source } => {
                        self.connect(Wish { destination, source }).await;
                    }
                    Output::Relay { rest } => return Ok(rest),
                    Output::Close(why) => {
                        let text = self.text.take().unwrap_or(why);
                        return Err(failed(self.stage, text));
                    }
                }
            }
            self.read().await?;
        }
    }

    async fn send(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let sending = Stream::write_all(&mut self.stream, octets);
        let sent = timeout_at(self.deadline, sending).await;
        self.done("the answer can't be sent", sent)
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let mut octets = [0; READ];
        let reading = AsyncReadExt::read(&mut self.stream, &mut octets);
        let read = timeout_at(self.deadline, reading).await;
        match self.done("the handshake can't be read", read)? {
            0 => Err(failed(self.stage, "the client closed the connection")),
            read => {
                self.machine.handle(&octets[..read]);
                Ok(())
            }
        }
    }

    fn done<T, E: Display>(
        &self,
        what: &str,
        step: Result<Result<T, E>, Elapsed>,
    ) -> Result<T, Failure> {
        match step {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(failed(self.stage, format!("{what}: {error}"))),
            Err(_) => Err(failed(self.stage, not_done(self.listening.timeout))),
        }
    }

    async fn authenticate(&mut self, username: &str, password: &str) -> Result<(), Failure> {
        self.stage = Stage::Authentication;
        let is_right = match &self.listening.world.policy {
            None => false,
            Some(policy) => {
                let judged = policy.authenticate(username, password, self.client);
                match timeout_at(self.deadline, judged).await {
                    Ok(Ok(is_right)) => is_right,
                    Ok(Err(error)) => {
                        tracing::error!("client {}: {error}", self.client.peer);
                        false
                    }
                    Err(_) => return Err(failed(self.stage, not_done(self.listening.timeout))),
                }
            }
        };
        if is_right {
            self.stage = Stage::Handshake;
        } else {
            self.text = Some(format!("wrong user name or password for {username:?}"));
        }
        self.machine.authenticated(is_right);
        Ok(())
    }

    fn bind(&mut self, source: IpAddr) {
        match outbound::can_bind(source) {
            Ok(()) => self.machine.bound(Ok(SocketAddr::new(source, 0))),
            Err(refused) => {
                self.stage = Stage::Bind;
                self.text = Some(refused.text);
                self.machine.bound(Err(refused.code));
            }
        }
    }

    async fn connect(&mut self, wish: Wish) {
        self.stage = Stage::Connect;
        let connected = outbound::connect(self.listening, &wish).await;
        // Waiting for others isn't the client's fault.
        self.deadline = Instant::now() + self.listening.timeout;
        let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        match connected {
            Ok(stream) => {
                let from = stream.local_address().unwrap_or(unknown);
                tracing::debug!("client {}: {wish} from {from}", self.client.peer);
                self.destination = Some(stream);
                self.machine.connected(Ok(from));
            }
            Err(refused) => {
                self.text = Some(refused.text);
                self.machine.connected(Err(refused.code));
            }
        }
    }
}

fn not_done(patience: Duration) -> String {
    format!("not done within {patience:?}, the listener's timeout")
}

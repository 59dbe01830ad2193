//! A relay between clients and somebody: it passes octets and the ends of streams on, of whatever kind they are, TLS included. Invariant: what
//! comes out is what went in, in order, until a fault of the proxy cuts it off; nothing of a connection outlives the proxy. Where a
//! connection leads is [`onward`]'s to find out.
mod onward;

#[cfg(test)]
mod tests;

pub use onward::Onward;

use crate::fault::FaultKind;
use crate::net::{SimNetwork, SimStream};
use crate::universe::Universe;
use bytes::BytesMut;
use kumo_core::port::{Listener, NetError, Network};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A flapping proxy drops a connection within this time.
const FLAP: Duration = Duration::from_secs(5);
/// Between attempts to listen or accept that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How a connection will be treated, decided when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Fair,
    Refuses,
    Hangs,
    /// Passes on only what the client says, or only what it is answered.
    HalfOpen {
        to_server: bool,
    },
    Flaps {
        after: Duration,
    },
}

/// Until it is dropped or killed.
pub async fn run(universe: Arc<Universe>, listen: SocketAddr, onward: Onward) {
    let network = Arc::new(SimNetwork::of_host(&universe, listen.ip()));
    let onward = Arc::new(onward);
    let mut random = Random::new(universe.seed, &format!("proxy {listen}"));
    let target = listen.ip().to_string();
    // Whose sender goes with this future.
    let (_running, stopped) = watch::channel(());
    loop {
        let Ok(mut listener) = network.listen(listen).await else {
            sleep(RETRY).await;
            continue;
        };
        while let Ok((client, _)) = listener.accept().await {
            let manner = draw(&universe, &target, &mut random);
            let (network, onward) = (network.clone(), onward.clone());
            let mut stopped = stopped.clone();
            drop(tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = stopped.changed() => {}
                    () = serve(&network, client, &onward, manner) => {}
                }
            }));
        }
    }
}

fn draw(universe: &Universe, target: &str, random: &mut Random) -> Manner {
    let strikes = |kind| universe.faults.strikes(kind, target).is_some();
    if strikes(FaultKind::ProxyRefuse) {
        Manner::Refuses
    } else if strikes(FaultKind::ProxyHang) {
        Manner::Hangs
    } else if strikes(FaultKind::ProxyHalfOpen) {
        Manner::HalfOpen { to_server: random.below(2) == 0 }
    } else if strikes(FaultKind::ProxyFlap) {
        Manner::Flaps { after: random.duration_up_to(FLAP) }
    } else {
        Manner::Fair
    }
}

async fn serve(network: &SimNetwork, client: SimStream, onward: &Onward, manner: Manner) {
    match manner {
        Manner::Refuses => return client.reset(),
        Manner::Hangs => return drop(swallow(&client).await),
        _ => {}
    }
    let after = if let Manner::Flaps { after } = manner { Some(after) } else { None };
    let passing = pass(network, client, onward, manner);
    match after {
        Some(after) => drop(timeout(after, passing).await),
        None => passing.await,
    }
}

async fn pass(network: &SimNetwork, client: SimStream, onward: &Onward, manner: Manner) {
    let Some((client, server)) = onward.connect(network, client).await else { return };
    let up = pump(&client, &server, manner != Manner::HalfOpen { to_server: false });
    let down = pump(&server, &client, manner != Manner::HalfOpen { to_server: true });
    if both(up, down).await.is_err() {
        client.reset();
        server.reset();
    }
}

/// Both of them to their end, or the first that fails.
async fn both(
    up: impl Future<Output = Result<(), NetError>>,
    down: impl Future<Output = Result<(), NetError>>,
) -> Result<(), NetError> {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        biased;
        ended = &mut up => { ended?; down.await }
        ended = &mut down => { ended?; up.await }
    }
}

async fn pump(from: &SimStream, to: &SimStream, passes: bool) -> Result<(), NetError> {
    if !passes {
        return swallow(from).await;
    }
    let mut buffer = BytesMut::new();
    loop {
        let (count, mark) = from.receive(None, &mut buffer).await?;
        if count == 0 {
            to.finish().await;
            return Ok(());
        }
        to.send(&buffer, mark).await?;
        buffer.clear();
    }
}

/// Reads to the end and passes nothing on.
async fn swallow(from: &SimStream) -> Result<(), NetError> {
    let mut buffer = BytesMut::new();
    while from.receive(None, &mut buffer).await?.0 > 0 {
        buffer.clear();
    }
    Ok(())
}

//! proxy-server: a SOCKS5 proxy for kumod's egress sources (core.md 16). A client may ask for the address to connect from, by BIND with port 0, and
//! then for its destination, on one connection. Exit codes: 0 stopped, 1 it can't start, 2 usage. The protocol is
//! [`kumo_core::proxy::socks5::server`]'s.
mod counters;
mod relay;
mod serve;
mod session;
mod splice;

use clap::Parser;
use counters::Counters;
use serve::Listening;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

/// For connections to end by themselves once it is told to stop.
const STOP: Duration = Duration::from_secs(10);

/// A SOCKS5 proxy that connects from the address that its client asks for.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Example: proxy-server --listen 10.0.0.1:1080 --listen '[2001:db8::1]:1080'

It has no access control of its own: let only your kumods reach it.
Exit codes: 0 stopped, 1 it can't start, 2 wrong usage."
)]
struct Arguments {
    /// Where clients connect to; may be given several times
    #[arg(long, required = true, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    /// Serves /metrics and /proxy/status over HTTP
    #[arg(long, value_name = "IP:PORT")]
    http_listen: Option<SocketAddr>,
    /// Copies octets through the process instead of leaving them to the kernel
    #[arg(long)]
    no_splice: bool,
    /// For a client's handshake, and for the connection to its destination
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout_seconds: u64,
}

/// What every session needs to know.
struct Proxy {
    patience: Duration,
    splices: bool,
    counters: Counters,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("proxy-server: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("can't listen to signals: {error}"));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let proxy = Arc::new(Proxy {
        patience: Duration::from_secs(arguments.timeout_seconds),
        splices: !arguments.no_splice,
        counters: Counters::default(),
    });
    // Closed once the last session and listener are gone.
    let (stop, stopping) = watch::channel(false);
    let mut listeners = Vec::new();
    for address in arguments.listen {
        listeners.push(Listening::at(address)?);
    }
    if let Some(address) = arguments.http_listen {
        counters::serve(address, proxy.clone(), stopping.clone()).await?;
    }
    for listener in listeners {
        eprintln!("proxy listener on {}", listener.address());
        tokio::spawn(listener.run(proxy.clone(), stopping.clone()));
    }
    drop(stopping);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    let left = proxy.counters.connections.get();
    tracing::info!("stopping: {left} connections have {STOP:?} to end");
    if timeout(STOP, stop.closed()).await.is_err() {
        tracing::warn!("{} connections are cut off", proxy.counters.connections.get());
    }
    Ok(())
}

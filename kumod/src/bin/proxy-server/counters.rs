//! What the proxy counts, and the HTTP that tells it. Invariant: a scrape reads, and holds nothing up.
use super::Proxy;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use kumo_driver::counters::Counter;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[derive(Default)]
pub struct Counters {
    /// Clients that are connected now.
    pub connections: Counter,
    pub connections_total: Counter,
    /// Handshakes that ended without a connection to pass on: the client's fault or silence, an address that isn't
    /// here, a destination that can't be reached.
    pub failed_handshakes: Counter,
    pub failed_binds: Counter,
    pub failed_connects: Counter,
    pub octets_to_destinations: Counter,
    pub octets_to_clients: Counter,
}

impl Counters {
    /// Name, kind, help, value.
    fn readings(&self) -> [(&'static str, &'static str, &'static str, u64); 7] {
        [
            (
                "proxy_connection_count",
                "gauge",
                "Clients that are connected",
                self.connections.get(),
            ),
            (
                "proxy_connections_total",
                "counter",
                "Clients that have connected",
                self.connections_total.get(),
            ),
            (
                "proxy_failed_handshakes_total",
                "counter",
                "Handshakes that clients broke off or spoiled",
                self.failed_handshakes.get(),
            ),
            (
                "proxy_failed_binds_total",
                "counter",
                "Addresses asked for that this host doesn't have",
                self.failed_binds.get(),
            ),
            (
                "proxy_failed_connects_total",
                "counter",
                "Destinations that couldn't be connected to",
                self.failed_connects.get(),
            ),
            (
                "proxy_octets_to_destinations_total",
                "counter",
                "Octets passed on to destinations",
                self.octets_to_destinations.get(),
            ),
            (
                "proxy_octets_to_clients_total",
                "counter",
                "Octets passed on to clients",
                self.octets_to_clients.get(),
            ),
        ]
    }
}

/// Until the process stops.
pub async fn serve(
    address: SocketAddr,
    proxy: Arc<Proxy>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("--http-listen {address}: {error}: choose an address of this host and a free port")
    })?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/proxy/status", get(status))
        .with_state(proxy);
    if let Ok(address) = listener.local_addr() {
        eprintln!("http listener on {address}");
    }
    tokio::spawn(async move {
        let stopped = async move { drop(stopping.wait_for(|stops| *stops).await) };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!("the HTTP listener has ended: {error}");
        }
    });
    Ok(())
}

async fn metrics(State(proxy): State<Arc<Proxy>>) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in proxy.counters.readings() {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    text
}

async fn status(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    let readings = proxy.counters.readings().into_iter();
    let mut status: Value =
        readings.map(|(name, .., value)| (name.to_owned(), json!(value))).collect();
    status["version"] = json!(env!("CARGO_PKG_VERSION"));
    Json(status)
}

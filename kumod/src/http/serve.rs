//! Accepting HTTP connections, and who may ask what. Invariant: every wait for a client has a deadline, every body a limit,
//! the number of connections too; the guard stands before every route but liveness.
use super::errors::ApiError;
use super::proxy::{self, ProxyOperations};
use super::{admin, explain, inject, inspect, ready, resolve, sources, spool};
use crate::diagnostics::Diagnostics;
use crate::world::RealWorld;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kumo_core::config::HttpListener;
use kumo_core::port::{Host, Listener, NetError, NetErrorKind, Network};
use kumo_core::port::{Stream, TlsAccept};
use kumo_driver::counters::Service as Counts;
use kumo_driver::node::Handle;
use kumo_io_real::host::RealHost;
use kumo_io_real::net::{RealListener, RealNetwork, RealStream};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// For a request's head.
const HEAD: Duration = Duration::from_secs(30);
/// For one request in all, and for an idle connection.
const CONNECTION: Duration = Duration::from_secs(600);
const TLS_HANDSHAKE: Duration = Duration::from_secs(30);
/// For requests under way when the process stops.
const STOP: Duration = Duration::from_secs(5);
const BACK_OFF: Duration = Duration::from_millis(200);
/// Connections of one listener at one time.
const CONNECTIONS: usize = 4_096;

/// What the handlers work with.
#[derive(Clone)]
pub struct Operations {
    pub handle: Handle<RealWorld>,
    pub diagnostics: Diagnostics,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub peer: SocketAddr,
    trusted: bool,
}

fn router(body_limit: usize) -> Router<Operations> {
    let routes = Router::new()
        .route("/api/inject/v1", post(inject::inject))
        .route("/api/check-liveness/v1", get(inspect::liveness))
        .route("/metrics", get(inspect::metrics))
        .route("/metrics.json", get(inspect::metrics_json))
        .route(
            "/api/admin/bounce/v1",
            post(admin::bounce).get(admin::bounces).delete(admin::cancel_bounce),
        )
        .route("/api/admin/bounce-preview/v1", post(admin::preview_bounce))
        .route(
            "/api/admin/suspend/v1",
            post(admin::suspend).get(admin::suspensions).delete(admin::cancel_suspension),
        )
        .route(
            "/api/admin/suspend-ready-q/v1",
            post(admin::suspend_ready)
                .get(admin::ready_suspensions)
                .delete(admin::cancel_ready_suspension),
        )
        .route("/api/admin/bump-config-epoch", post(admin::bump_epoch))
        .route("/api/admin/set_diagnostic_log_filter/v1", post(admin::set_log_filter))
        .route("/api/admin/inspect-message/v1", get(inspect::message))
        .route("/api/admin/queue-summary/v1", get(inspect::queue_summary))
        .route("/api/admin/explain/v1", get(explain::explain))
        .route("/api/admin/inspect-ready-q/v1", get(ready::inspect))
        .route("/api/admin/ready-q-states/v1", get(ready::states))
        .route("/api/admin/resolve-egress-path/v1", get(resolve::egress_path))
        .route("/api/admin/abort-ready-q-conn/v1", post(ready::abort))
        .route("/api/admin/source-list/v1", get(sources::list))
        .route("/api/admin/source-resume/v1", post(sources::resume))
        .route("/api/admin/spool-health/v1", get(spool::health))
        .route("/api/admin/spool-compact/v1", post(spool::compact))
        .route(
            "/api/admin/spool-quarantine/v1",
            get(spool::quarantine).delete(spool::drop_quarantined),
        )
        .route("/api/admin/spool-quarantine-export/v1", get(spool::export));
    guarded(routes, body_limit)
}

/// For those who are trusted, and up to this size.
pub fn guarded<S: Clone + Send + Sync + 'static>(
    routes: Router<S>,
    body_limit: usize,
) -> Router<S> {
    routes.layer(DefaultBodyLimit::max(body_limit)).layer(middleware::from_fn(guard))
}

/// Where kumod's HTTP connections are counted.
#[derive(Clone)]
struct OfKumod(Handle<RealWorld>);

impl AsRef<Counts> for OfKumod {
    fn as_ref(&self) -> &Counts {
        &self.0.counters().http_listener
    }
}

async fn guard(
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if client.trusted || request.uri().path() == "/api/check-liveness/v1" {
        return Ok(next.run(request).await);
    }
    let text = format!("{} is not in trusted_hosts", client.peer.ip());
    Err(ApiError::new(StatusCode::FORBIDDEN, text))
}

/// A listener that is bound and not yet serving.
pub struct HttpService {
    listener: RealListener,
    config: Arc<HttpListener>,
    tls: Option<Arc<TlsAccept>>,
}

impl HttpService {
    pub async fn bind(world: &RealWorld, config: HttpListener) -> Result<HttpService, NetError> {
        HttpService::bind_on(&world.network, &world.host, config).await
    }

    pub async fn bind_on(
        network: &RealNetwork,
        host: &RealHost,
        config: HttpListener,
    ) -> Result<HttpService, NetError> {
        let tls = config.use_tls.then(|| TlsAccept {
            hostname: config.hostname.as_deref().map_or_else(|| host.hostname(), Into::into),
            certificate: config.tls_certificate.clone().zip(config.tls_private_key.clone()),
        });
        if let Some(tls) = &tls {
            network.prepare_tls(tls)?;
        }
        let listener = network.listen(config.listen).await?;
        Ok(HttpService { listener, config: Arc::new(config), tls: tls.map(Arc::new) })
    }

    /// `http` or `https`, and the bound address.
    pub fn address(&self) -> (&'static str, SocketAddr) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        (scheme, self.listener.local_address())
    }

    /// Until `stop` says so; returns once the requests under way are answered, or given up.
    pub async fn serve(self, operations: Operations, stop: watch::Receiver<bool>) {
        let counts = OfKumod(operations.handle.clone());
        let router = router(self.body_limit()).with_state(operations);
        self.serve_router(router, counts, stop).await;
    }

    /// The same for proxy-server.
    pub async fn serve_proxy(self, operations: ProxyOperations, stop: watch::Receiver<bool>) {
        let counts = operations.http.clone();
        let router = proxy::router(operations, self.body_limit());
        self.serve_router(router, counts, stop).await;
    }

    fn body_limit(&self) -> usize {
        usize::try_from(self.config.request_body_limit).unwrap_or(usize::MAX)
    }

    async fn serve_router(
        mut self,
        router: Router,
        counts: impl AsRef<Counts> + Clone + Send + Sync + 'static,
        mut stop: watch::Receiver<bool>,
    ) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Ok(slot) = slots.clone().try_acquire_owned() else {
                        counts.as_ref().connections_denied.add(1);
                        continue;
                    };
                    let trusted =
                        self.config.trusted_hosts.iter().any(|block| block.contains(peer.ip()));
                    let connection = Connection {
                        router: router.clone().layer(Extension(Client { peer, trusted })),
                        tls: self.tls.clone(),
                        stop: stop.clone(),
                    };
                    let counts = counts.clone();
                    tokio::spawn(async move {
                        let counts: &Counts = counts.as_ref();
                        counts.connections.add(1);
                        counts.connections_total.add(1);
                        connection.run(stream).await;
                        counts.connections.sub(1);
                        drop(slot);
                    });
                }
                Err(error) => {
                    if error.kind != NetErrorKind::Exhausted {
                        tracing::warn!("accepting an HTTP connection failed: {error}");
                    }
                    sleep(BACK_OFF).await;
                }
            }
        }
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let _ = timeout(STOP, slots.acquire_many(all)).await;
    }
}

struct Connection {
    router: Router,
    tls: Option<Arc<TlsAccept>>,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: RealStream) {
        let stream = match &self.tls {
            None => stream,
            Some(tls) => match timeout(TLS_HANDSHAKE, stream.upgrade_server(tls.clone())).await {
                Ok(Ok((stream, _))) => stream,
                Ok(Err(_)) | Err(_) => return,
            },
        };
        let service = TowerToHyperService::new(self.router);
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let ended = async {
            tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => {}
                _ = serving.as_mut() => return,
            }
            serving.as_mut().graceful_shutdown();
            let _ = timeout(STOP, serving.as_mut()).await;
        };
        let _ = timeout(CONNECTION, ended).await;
    }
}

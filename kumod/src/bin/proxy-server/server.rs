//! From configuration to listeners, and their end. Invariants: whatever can't start says so and leaves nothing half-started; a
//! listener has as many connections as it may, and the rest are closed at once; stopping takes less than ten seconds.
use crate::Configuration;
use crate::connection::{self, Listening};
use kumo_core::config::ProxyListener;
use kumo_core::port::{Host, Listener, Network, TlsAccept};
use kumo_core::proxy::socks5::server::Authentication;
use kumo_driver::counters::Service;
use kumo_io_real::dns::RealResolver;
use kumo_io_real::host::RealHost;
use kumo_io_real::net::{RealListener, RealNetwork, RealStream};
use kumod::diagnostics::Diagnostics;
use kumod::http::{HttpService, ProxyOperations};
use kumod::metrics::proxy::ProxyCounters;
use kumod::policy::ProxyPolicy;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// For relays under way.
const STOP: Duration = Duration::from_secs(8);
/// For whatever stops besides them and has the same time.
const STOP_MORE: Duration = Duration::from_secs(1);
/// After a failed accept.
const BACK_OFF: Duration = Duration::from_millis(200);

/// What all connections of the process share.
pub struct World {
    pub network: RealNetwork,
    /// `None`: names can't be looked up here.
    pub resolver: Option<RealResolver>,
    pub policy: Option<ProxyPolicy>,
}

/// Running, until it is stopped.
pub struct Server {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(
        configuration: Configuration,
        diagnostics: Diagnostics,
    ) -> Result<Server, String> {
        let Configuration { policy, proxy, http } = configuration;
        let network = RealNetwork::from_system().map_err(|error| error.to_string())?;
        let world = Arc::new(World { network, resolver: resolver(), policy });
        let host = RealHost::new();
        let (stop, stopped) = watch::channel(false);
        let mut bound = Vec::with_capacity(proxy.len());
        for config in proxy {
            bound.push(Bound::new(&world, &host, config, &stopped).await?);
        }
        let mut services = Vec::with_capacity(http.len());
        for config in http {
            let service = HttpService::bind_on(&world.network, &host, config).await;
            services.push(service.map_err(|error| error.to_string())?);
        }
        let operations = ProxyOperations {
            listeners: bound.iter().map(|bound| bound.listening.counters.clone()).collect(),
            http: Arc::new(Service::default()),
            diagnostics,
        };
        let mut tasks = JoinSet::new();
        for bound in bound {
            bound.announce();
            tasks.spawn(bound.serve(stopped.clone()));
        }
        for service in services {
            let (scheme, address) = service.address();
            eprintln!("{scheme} listener on {address}");
            tasks.spawn(service.serve_proxy(operations.clone(), stopped.clone()));
        }
        eprintln!("initialization complete");
        Ok(Server { stop, tasks })
    }

    /// Returns once a listener has ended though nobody stopped it, which is a bug: then nobody listens there any more.
    pub async fn broke(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Err(error)) => format!("a listener ended by itself: {error}"),
            _ => "a listener ended by itself".into(),
        }
    }

    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP + STOP_MORE, all).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
    }
}

/// A host on which nobody asks for names may lack a resolver.
fn resolver() -> Option<RealResolver> {
    RealResolver::from_system()
        .inspect_err(|error| {
            tracing::warn!(
                "names of destinations can't be looked up, only addresses work: {error}"
            );
        })
        .ok()
}

fn can_splice() -> bool {
    crate::splice::is_possible()
        .inspect_err(|error| {
            tracing::warn!("splice(2) doesn't work here, so octets are copied: {error}");
        })
        .is_ok()
}

/// A listener that doesn't accept yet.
struct Bound {
    listener: RealListener,
    listening: Arc<Listening>,
    max_connections: u32,
}

impl Bound {
    async fn new(
        world: &Arc<World>,
        host: &RealHost,
        config: ProxyListener,
        stopped: &watch::Receiver<bool>,
    ) -> Result<Bound, String> {
        let tls = config.use_tls.then(|| TlsAccept {
            hostname: config.hostname.as_deref().map_or_else(|| host.hostname(), Into::into),
            certificate: config.tls_certificate.clone().zip(config.tls_private_key.clone()),
        });
        if let Some(tls) = &tls {
            world.network.prepare_tls(tls).map_err(|error| error.to_string())?;
        }
        let listener = world.network.listen(config.listen).await;
        let listener = listener.map_err(|error| format!("proxy listener: {error}"))?;
        let counters = Arc::new(ProxyCounters::new(listener.local_address().to_string()));
        let judged = world.policy.as_ref().is_some_and(ProxyPolicy::judges_passwords);
        let authentication = match (config.require_auth, judged) {
            (true, _) => Authentication::Required,
            (false, true) => Authentication::Optional,
            (false, false) => Authentication::None,
        };
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let max_connections = u32::try_from(config.max_connections).unwrap_or(most).min(most);
        let listening = Arc::new(Listening {
            world: world.clone(),
            counters,
            authentication,
            tls: tls.map(Arc::new),
            timeout: config.timeout,
            idle_timeout: config.idle_timeout,
            use_splice: config.use_splice && can_splice(),
            keepalive: config.tcp_keepalive,
            stopped: stopped.clone(),
        });
        Ok(Bound { listener, listening, max_connections })
    }

    fn announce(&self) {
        let address = self.listener.local_address();
        let tls = if self.listening.tls.is_some() { " (TLS)" } else { "" };
        eprintln!("proxy listener{tls} on {address}");
        let is_open = self.listening.authentication != Authentication::Required;
        if is_open && !address.ip().is_loopback() {
            tracing::warn!(
                "whoever reaches {address} can connect to anywhere by it: let a firewall say who does, or set require_auth"
            );
        }
    }

    /// Until it is told to stop and its connections have ended, or are given up.
    async fn serve(mut self, mut stopped: watch::Receiver<bool>) {
        let all = self.max_connections;
        let slots = Arc::new(Semaphore::new(all as usize));
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.take(stream, peer, &slots),
                Err(error) => {
                    tracing::warn!("accepting a connection failed: {error}");
                    sleep(BACK_OFF).await;
                }
            }
        }
        drop(self.listener);
        if timeout(STOP, slots.acquire_many(all)).await.is_err() {
            let left = self.listening.counters.active.get();
            tracing::warn!("{left} connections were cut off, having had {STOP:?} to end");
        }
    }

    fn take(&self, stream: RealStream, peer: SocketAddr, slots: &Arc<Semaphore>) {
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            self.listening.counters.denied.add(1);
            return;
        };
        let listening = self.listening.clone();
        tokio::spawn(async move {
            connection::serve(&listening, stream, peer).await;
            drop(slot);
        });
    }
}

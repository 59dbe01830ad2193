//! The daemon's life: policy, spool, logs, node, until a signal. Invariant: what can't start says so in one line and
//! leaves nothing half-started; what was started is stopped in the opposite order, logs last.
use crate::diagnostics::Diagnostics;
use crate::folder;
use crate::http::{HttpService, Operations};
use crate::logs::{LocalLogger, node_id};
use crate::policy::{Loaded, LuaPolicy, PolicyOptions, Setup};
use crate::process::Signals;
use crate::world::RealWorld;
use kumo_core::config::{LocalLogs, SpoolDefinition};
use kumo_core::port::Host;
use kumo_core::time::Duration;
use kumo_driver::node::{GuardedFolder, JournalLimits, Node, NodeConfig, SpoolSettings};
use kumo_io_real::dns::RealResolver;
use kumo_io_real::files::RealFiles;
use kumo_io_real::host::RealHost;
use kumo_io_real::net::RealNetwork;
use kumo_io_real::spool::{MemoryBudget, RealSpool};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::sync::watch;
use tokio::time::timeout;

/// Bodies kept in memory after reception.
const BODY_CACHE_OCTETS: usize = 32 * 1024 * 1024;
/// For everything (D22), and for the log's last lines at least.
const STOP: Duration = Duration::from_secs(10);
const LOG_STOP: Duration = Duration::from_secs(1);

pub struct Options {
    pub policy: PathBuf,
    pub journal: Option<PathBuf>,
    pub diagnostics: Diagnostics,
}

/// Runs until SIGINT or SIGTERM. The error is for stderr as it is.
pub async fn run(options: Options) -> Result<(), String> {
    let mut signals = Signals::new()?;
    let Loaded { policy, setup, .. } = LuaPolicy::load(&options.policy, PolicyOptions::default())
        .await
        .map_err(|error| error.to_string())?;
    if let Some(directory) = &options.journal {
        folder::prepare("--journal", directory)?;
    }
    let host = RealHost::new();
    let (data, meta) = spools(&setup)?;
    let node_id = node_id::load_or_make(&node_id_path(meta), host.seed())?;
    let logger = LocalLogger::start(setup.local_logs.clone(), node_id)?;
    let spool = open(data, meta)?;
    let settings = SpoolSettings {
        data: data.clone(),
        meta: meta.clone(),
        suspend_delivery: setup.suspend_delivery_when_spool_unhealthy,
        damage: spool.damage_at_open(),
        guarded: setup.local_logs.iter().flat_map(guarded).collect(),
    };
    let seed = host.seed();
    let world = RealWorld {
        spool,
        network: RealNetwork::from_system().map_err(|error| error.to_string())?,
        resolver: RealResolver::from_system().map_err(|error| error.to_string())?,
        files: RealFiles::new(&host.hostname(), options.journal.clone()),
        policy,
        logger,
        host,
    };
    let mut http = Vec::new();
    for listener in setup.http_listeners {
        http.push(HttpService::bind(&world, listener).await.map_err(|error| error.to_string())?);
    }
    let config = NodeConfig {
        hostname: world.host.hostname().into(),
        listeners: setup.esmtp_listeners,
        spool: settings,
        body_cache_octets: BODY_CACHE_OCTETS,
        journal: options.journal.map(|_| JournalLimits::default()),
        seed,
    };
    let node = Node::start(world, config).await.map_err(|error| error.to_string())?;
    for address in node.addresses() {
        eprintln!("smtp listener on {address}");
    }
    tracing::info!(seed, "everything random in this life comes from this seed");
    let handle = node.handle();
    // What to subtract from the process's size before calling it a leak.
    let MemoryBudget { memtables, block_cache } = handle.world().spool.memory_budget();
    tracing::info!(
        "memory budget in octets: {memtables} of memtables, {block_cache} of block cache, {BODY_CACHE_OCTETS} of bodies"
    );
    let (stop_http, stop) = watch::channel(false);
    let operations = Operations { handle: handle.clone(), diagnostics: options.diagnostics };
    let mut serving = Vec::new();
    for service in http {
        let (scheme, address) = service.address();
        eprintln!("{scheme} listener on {address}");
        serving.push(tokio::spawn(service.serve(operations.clone(), stop.clone())));
    }
    eprintln!("initialization complete");
    signals.wait().await;
    tracing::info!("stopping");
    let asked = Instant::now();
    stop_http.send_replace(true);
    node.stop().await;
    for service in serving {
        // Its own deadline has passed, or nearly.
        let _ = timeout(LOG_STOP, service).await;
    }
    let left = STOP.saturating_sub(asked.elapsed()).max(LOG_STOP);
    handle.world().logger.stop(left).await
}

fn spools(setup: &Setup) -> Result<(&SpoolDefinition, &SpoolDefinition), String> {
    let find = |name: &str| setup.spools.iter().find(|spool| spool.name == name);
    match (find("data"), find("meta")) {
        (Some(data), Some(meta)) => Ok((data, meta)),
        (None, None) => Err("No spools have been defined: call kumo.define_spool { name = 'data', path = … } and { name = 'meta', path = … } in init".into()),
        (None, _) => Err("the spool named 'data' has not been defined: call kumo.define_spool in init".into()),
        (_, None) => Err("the spool named 'meta' has not been defined: call kumo.define_spool in init".into()),
    }
}

/// Where logs can't be written no mail is taken.
fn guarded(logs: &LocalLogs) -> Vec<GuardedFolder> {
    let folder = |path: &str| GuardedFolder {
        path: path.into(),
        min_free_space: logs.min_free_space,
        min_free_inodes: logs.min_free_inodes,
    };
    logs.folders().into_iter().map(folder).collect()
}

fn node_id_path(meta: &SpoolDefinition) -> PathBuf {
    let configured = std::env::var_os("KUMO_NODE_ID_PATH").map(PathBuf::from);
    configured.unwrap_or_else(|| Path::new(&meta.path).join(".nodeid"))
}

fn open(data: &SpoolDefinition, meta: &SpoolDefinition) -> Result<RealSpool, String> {
    let spool = RealSpool::open(data, meta).map_err(|error| format!("Error in spool: {error}"))?;
    if !(data.flush && meta.flush) {
        tracing::warn!(
            "flush = false: mail is acknowledged before it is on disk, and a power cut loses it"
        );
    }
    Ok(spool)
}

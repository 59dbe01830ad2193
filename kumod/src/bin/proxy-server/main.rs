//! proxy-server: a SOCKS5 proxy by which kumod's mail leaves from this host's addresses. Exit codes: 0 stopped as asked, 1 it
//! couldn't start, 2 usage. Invariants: no wait for a peer is without an end; no connection, however it behaves, takes
//! more than its few buffers; whatever fails is counted and said.
mod arguments;
mod connection;
mod copy;
mod outbound;
mod relay;
mod server;
mod splice;

use arguments::Arguments;
use clap::Parser;
use kumo_core::config::{HttpListener, ProxyListener};
use kumod::diagnostics::{DiagnosticOptions, Diagnostics, PROXY_FILTER_VARIABLE};
use kumod::policy::{LoadedProxy, PolicyOptions, ProxyPolicy};
use kumod::privileges;
use kumod::process::{self, Signals};
use server::Server;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("proxy-server: {why}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let Some(user) = &arguments.user {
        privileges::become_user(user)?;
    }
    privileges::raise_file_limit();
    process::block_on(serve(arguments))
}

async fn serve(arguments: &Arguments) -> Result<(), String> {
    let mut signals = Signals::new()?;
    let diagnostics = Diagnostics::start_with(
        PROXY_FILTER_VARIABLE,
        &DiagnosticOptions {
            format: arguments.diag_format,
            directory: arguments.diag_log_dir.clone(),
            filter: None,
        },
    )?;
    let configuration = Configuration::read(arguments).await?;
    let mut server = Server::start(configuration, diagnostics).await?;
    tokio::select! {
        biased;
        () = signals.wait() => {}
        why = server.broke() => return Err(why),
    }
    tracing::info!("stopping");
    tokio::select! {
        biased;
        () = server.stop() => {}
        () = signals.wait() => tracing::info!("a second signal: not waiting for connections"),
    }
    Ok(())
}

/// What is to be started.
pub struct Configuration {
    pub policy: Option<ProxyPolicy>,
    pub proxy: Vec<ProxyListener>,
    pub http: Vec<HttpListener>,
}

impl Configuration {
    async fn read(arguments: &Arguments) -> Result<Configuration, String> {
        let mut configuration = match &arguments.proxy_config {
            Some(path) => Configuration::of_policy(path).await?,
            None => Configuration { policy: None, proxy: arguments.listeners(), http: Vec::new() },
        };
        configuration.http.extend(arguments.http_listeners());
        if arguments.no_splice {
            configuration.proxy.iter_mut().for_each(|listener| listener.use_splice = false);
        }
        Ok(configuration)
    }

    async fn of_policy(path: &std::path::Path) -> Result<Configuration, String> {
        let loaded = ProxyPolicy::load(path, PolicyOptions::default()).await;
        let LoadedProxy { policy, proxy_listeners, http_listeners } =
            loaded.map_err(|error| error.to_string())?;
        Ok(Configuration { policy: Some(policy), proxy: proxy_listeners, http: http_listeners })
    }
}

//! kcli: asks and orders a running kumod over its HTTP API. Says what came of it and ends with an exit code that scripts
//! can rely on: 0 done, 1 the server refused or failed, 2 usage, 3 the server can't be reached.
mod arguments;
mod bounce;
mod explain;
mod inspect;
mod output;
mod queues;
mod ready;
mod server;
mod sources;
mod spool;
mod suspend;
#[cfg(test)]
mod tests;

use arguments::{Arguments, Command};
use clap::Parser;
use kumod::http::api::AbortConnection;
use server::{Failure, Server};
use std::io::{self, Write};
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match run(arguments).await {
        Ok(text) => print(&text),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kcli: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Whoever stops reading, such as `head`, has what it wanted.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Output(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// What is to be printed.
async fn run(arguments: Arguments) -> Result<String, Failure> {
    let endpoint = arguments.endpoint;
    let mut server = Server::new(endpoint.clone(), arguments.timeout);
    match arguments.command {
        Command::QueueSummary(wanted) => queues::summary(&mut server, &wanted).await,
        Command::Bounce(order) => bounce::order(&mut server, &order).await,
        Command::BounceList(form) => bounce::list(&mut server, form).await,
        Command::BounceCancel { id } => bounce::cancel(&mut server, id).await,
        Command::Suspend(order) => suspend::order(&mut server, &order).await,
        Command::SuspendList(form) => suspend::list(&mut server, form).await,
        Command::SuspendCancel { id } => suspend::cancel(&mut server, id).await,
        Command::SuspendReadyQ(order) => suspend::order_ready(&mut server, &order).await,
        Command::SuspendReadyQList(form) => suspend::list_ready(&mut server, form).await,
        Command::SuspendReadyQCancel { id } => suspend::cancel_ready(&mut server, id).await,
        Command::InspectMessage { id, want_body } => {
            inspect::message(&mut server, &id, want_body).await
        }
        Command::InspectReadyQ(wanted) => ready::inspect(&mut server, &wanted).await,
        Command::ResolveEgressPath(wanted) => ready::resolve(&mut server, &wanted).await,
        Command::AbortReadyQConn { queue_name, session_id } => {
            ready::abort(&mut server, AbortConnection { queue_name, session_id }).await
        }
        Command::SetLogFilter { filter } => inspect::set_log_filter(&mut server, filter).await,
        Command::SourceList(form) => sources::list(&mut server, form).await,
        Command::SourceResume { name } => sources::resume(&mut server, name).await,
        Command::SpoolHealth(form) => spool::health(&mut server, form).await,
        Command::SpoolCompact { name } => {
            // It may take long, and ends whether or not anybody waits.
            let patience = arguments.timeout.max(spool::COMPACTION);
            let mut server = Server::new(endpoint, patience);
            spool::compact(&mut server, &name).await
        }
        Command::SpoolListQuarantine(form) => spool::quarantine(&mut server, form).await,
        Command::SpoolExportQuarantine { id } => spool::export(&mut server, &id).await,
        Command::SpoolDropQuarantine { id, dry_run } => {
            spool::drop(&mut server, &id, dry_run).await
        }
        Command::ExplainMessage { id, json } => {
            explain::explain(&mut server, "message", &id, json).await
        }
        Command::ExplainQueue { name, json } => {
            explain::explain(&mut server, "queue", &name, json).await
        }
        Command::ExplainSource { name, json } => {
            explain::explain(&mut server, "source", &name, json).await
        }
    }
}

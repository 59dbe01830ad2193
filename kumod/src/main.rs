//! The `kumod` binary: command line, privileges, runtime; then [`kumod::daemon`], or `--validate`, or `--script`.
use clap::Parser;
use kumod::diagnostics::{DiagnosticOptions, Diagnostics, Format};
use kumod::policy::{self, PolicyOptions};
use kumod::{daemon, privileges};
use std::path::PathBuf;
use std::str::FromStr;

/// A mail transfer agent for people who send a lot of mail.
///
/// Runs the policy's `init`, then serves until SIGINT or SIGTERM. Exit codes: 0 stopped as asked, 1 it couldn't
/// start or validation failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "kumod", version)]
struct Arguments {
    /// The Lua policy to run.
    #[arg(long, value_name = "FILE", default_value = "/opt/kumomta/etc/policy/init.lua")]
    policy: PathBuf,

    /// Runs the policy's init without starting anything, reports what is wrong with it, and exits.
    #[arg(long, conflicts_with = "script")]
    validate: bool,

    /// Runs the policy as a script: its event `main` gets the arguments after `--`.
    #[arg(long)]
    script: bool,

    /// The user to run as. Needed when started as root; the right to bind low ports is kept.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Writes every input of the engine into this folder, for replay.
    #[arg(long, value_name = "DIR")]
    journal: Option<PathBuf>,

    /// Writes diagnostics into hourly files in this folder instead of stderr.
    #[arg(long, value_name = "DIR")]
    diag_log_dir: Option<PathBuf>,

    /// How diagnostics look: pretty, full, compact or json. What is logged is KUMOD_LOG's to say.
    #[arg(long, value_name = "FORMAT", default_value = "full", value_parser = Format::from_str)]
    diag_format: Format,

    /// Arguments of a script.
    #[arg(last = true, requires = "script")]
    arguments: Vec<String>,
}

fn main() {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => leave(0),
        Err(why) => {
            eprintln!("kumod: {why}");
            leave(1)
        }
    }
}

/// Ends the process without C++ destructors. What has to be on disk was waited for, each thing with its deadline; at a
/// plain exit RocksDB's own would wait for a disk that hangs, or abort the process where its threads still run.
fn leave(code: libc::c_int) -> ! {
    // SAFETY: with a null pointer fflush writes out every stream of C, which Lua's print uses; _exit touches no memory.
    unsafe {
        libc::fflush(std::ptr::null_mut());
        libc::_exit(code)
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    match &arguments.user {
        Some(user) => privileges::become_user(user)?,
        None if privileges::is_root() && !arguments.validate && !arguments.script => {
            return Err("started as root: name the user to run as with --user NAME".into());
        }
        None => {}
    }
    privileges::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime can't start: {error}"))?;
    let result = runtime.block_on(serve(arguments));
    runtime.shutdown_background();
    result
}

async fn serve(arguments: Arguments) -> Result<(), String> {
    let diagnostics = Diagnostics::start(&DiagnosticOptions {
        format: arguments.diag_format,
        directory: arguments.diag_log_dir.clone(),
        filter: None,
    })?;
    let options = PolicyOptions::default();
    if arguments.validate {
        return validate(&arguments, options).await;
    }
    if arguments.script {
        let done = policy::script(&arguments.policy, &arguments.arguments, options).await;
        return done.map_err(|error| error.to_string());
    }
    let options =
        daemon::Options { policy: arguments.policy, journal: arguments.journal, diagnostics };
    daemon::run(options).await
}

async fn validate(arguments: &Arguments, options: PolicyOptions) -> Result<(), String> {
    let report = policy::validate(&arguments.policy, options).await.map_err(|e| e.to_string())?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    if report.failed {
        return Err(format!("{} failed validation", arguments.policy.display()));
    }
    println!("{} is valid", arguments.policy.display());
    Ok(())
}

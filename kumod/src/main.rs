//! The `kumod` binary: command line, privileges, runtime; then [`kumod::daemon`], or `--validate`, or `--script`.
use clap::Parser;
use kumod::diagnostics::{DiagnosticOptions, Diagnostics, Format};
use kumod::policy::{self, PolicyOptions};
use kumod::{daemon, privileges};
use std::path::PathBuf;
use std::process::ExitCode;
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("kumod: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
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
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<ExitCode, String> {
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
        return done.map(|()| ExitCode::SUCCESS).map_err(|error| error.to_string());
    }
    let options =
        daemon::Options { policy: arguments.policy, journal: arguments.journal, diagnostics };
    daemon::run(options).await.map(|()| ExitCode::SUCCESS)
}

async fn validate(arguments: &Arguments, options: PolicyOptions) -> Result<ExitCode, String> {
    let report = policy::validate(&arguments.policy, options).await.map_err(|e| e.to_string())?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    if report.failed {
        return Err(format!("{} failed validation", arguments.policy.display()));
    }
    println!("{} is valid", arguments.policy.display());
    Ok(ExitCode::SUCCESS)
}

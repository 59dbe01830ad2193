//! The `kumod` binary: command line, privileges, runtime; then [`kumod::daemon`], or `--validate`, or `--script`, or
//! `spool check`.
use clap::{Args, Parser, Subcommand};
use kumod::diagnostics::{DiagnosticOptions, Diagnostics, Format};
use kumod::policy::{self, PolicyOptions};
use kumod::{daemon, privileges, process, spool_check};
use std::path::PathBuf;
use std::str::FromStr;

/// A mail transfer agent for people who send a lot of mail.
///
/// Runs the policy's `init`, then serves until SIGINT or SIGTERM. Exit codes: 0 stopped as asked, 1 it couldn't
/// start or validation failed, 2 wrong usage. `kumod spool check` looks at a spool that no kumod runs on.
#[derive(Parser)]
#[command(name = "kumod", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

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
    #[arg(long, value_name = "NAME", global = true)]
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

#[derive(Subcommand)]
enum Command {
    /// Looks at a spool that no kumod runs on.
    #[command(subcommand)]
    Spool(SpoolCommand),
}

#[derive(Subcommand)]
enum SpoolCommand {
    /// Reads every record of a spool and says what is damaged.
    ///
    /// Changes nothing without --repair, and refuses while a kumod runs on the spool. Started as root without --user,
    /// it becomes the owner of DIR. Exit codes: 0 nothing is wrong, or nothing is any more; 1 it couldn't check or repair;
    /// 2 wrong usage; 3 there is damage, or bodies without an envelope.
    Check(Check),
}

#[derive(Args)]
struct Check {
    /// The spool's folder; the two of data and meta if they have one each.
    #[arg(value_name = "DIR", required = true, num_args = 1..=2)]
    folders: Vec<PathBuf>,

    /// Exports what is damaged or belongs to no message to DIR/quarantine, then removes it from the spool. A database with
    /// parts that can't be read is made anew of what can be, which takes as much room again; all that was there is kept in
    /// DIR/damaged-N. A file that can't be read stays. Opens the spool as kumod does, which copies damaged logs aside.
    #[arg(long)]
    repair: bool,

    /// Prints the report as one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => leave(code),
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

/// The exit code.
fn run(arguments: Arguments) -> Result<libc::c_int, String> {
    match (&arguments.user, &arguments.command) {
        (Some(user), _) => privileges::become_user(user)?,
        (None, Some(Command::Spool(SpoolCommand::Check(check)))) => {
            privileges::become_owner(&check.folders[0])?;
        }
        (None, None) if privileges::is_root() && !arguments.validate && !arguments.script => {
            return Err("started as root: name the user to run as with --user NAME".into());
        }
        (None, None) => {}
    }
    privileges::raise_file_limit();
    process::block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<libc::c_int, String> {
    match arguments.command {
        Some(Command::Spool(SpoolCommand::Check(check))) => {
            let Check { folders, repair, json } = check;
            spool_check::run(&spool_check::Options { folders, repair, json }).await
        }
        None => run_policy(arguments).await.map(|()| 0),
    }
}

async fn run_policy(arguments: Arguments) -> Result<(), String> {
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

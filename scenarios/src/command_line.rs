//! `cargo sim …`: what can be asked for, and the exit codes. 0 passed, 2 usage, 10 crash, 11 safety, 12 liveness, 13 not deterministic.
//! Invariant: whatever fails ends with the one command that plays it again.
use crate::campaign::{self, Failure, Report, Settings};
use crate::library::{self, Scenario};
use crate::verdict::{Outcome, Verdict};
use crate::watch::{self, Log};
use crate::{minimize, real_journal, report, sweep};
use clap::{Parser, Subcommand, ValueEnum};
use kumo_core::journal::End;
use kumo_core::marks::Mark;
use kumo_core::time::Duration;
use kumo_io_sim::fault::FaultKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: u8 = 2;
/// Seeds that failed once: `scenario seed  # what it was`.
const REGRESSIONS: &str = include_str!("../regress/seeds.txt");
const CI_SEEDS: u64 = 40;
const CI_SWARM_SEEDS: u64 = 2_000;

#[derive(Parser)]
#[command(
    name = "cargo sim",
    about = "Plays kumod in a simulated world that breaks everything, and checks that it keeps its promises",
    after_help = "Exit codes: 0 passed, 2 wrong usage, 10 a crash, 11 a broken safety invariant or expectation, 12 not everything settled, \
                  13 not deterministic. Options of a run are printed by `list SCENARIO --seed N`."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays many seeds on all cores; stops at the first failure
    Run {
        /// Names from `list`, or paths of .toml files; all of the library if none is given
        scenarios: Vec<String>,
        /// From the first to before the last
        #[arg(long, default_value = "0..100", value_parser = seeds)]
        seeds: Range<u64>,
        /// Runs at one time; the number of cores if absent
        #[arg(long)]
        jobs: Option<usize>,
        /// Play all seeds, and list every one that fails
        #[arg(long)]
        keep_going: bool,
        /// Print how often each fault, input, output and mark was met
        #[arg(long)]
        counts: bool,
        /// The result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Plays one seed again with a log, or the journal of a real kumod
    Replay {
        /// A name from `list`, or the path of a .toml file
        #[arg(required_unless_present = "journal")]
        scenario: Option<String>,
        /// As the failure named it
        #[arg(long, required_unless_present = "journal")]
        seed: Option<u64>,
        /// What people outside saw, or with that all that the engine was told and wanted
        #[arg(long, value_enum, default_value = "short")]
        log: LogKind,
        /// A folder that was given to `kumod --journal`
        #[arg(long, conflicts_with_all = ["scenario", "seed"])]
        journal: Option<PathBuf>,
    },
    /// The scenarios there are; with a name, the options of one seed
    List {
        /// A name from `list`, or the path of a .toml file
        scenario: Option<String>,
        /// Whose options are printed
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// What can go wrong: each kind of fault, and what it does to whom
        #[arg(long, conflicts_with = "scenario")]
        faults: bool,
        /// The list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Makes a failing seed smaller, and prints what is left as a scenario
    Minimize {
        /// A name from `list`, or the path of a .toml file
        scenario: String,
        /// One that fails
        #[arg(long)]
        seed: u64,
    },
    /// Proves that each planted bug is caught by the checker that should catch it
    Canary {
        /// One of them; all if absent
        name: Option<String>,
    },
    /// What CI plays: every scenario, the swarm, all seeds that ever failed; and whether everything was met
    Ci,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogKind {
    Short,
    Full,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is written as 0..100")?;
    let number =
        |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text:?} is no seed"));
    let range = number(from)?..number(to)?;
    if range.is_empty() {
        return Err(format!("{text} holds no seed; the end isn't part of it"));
    }
    Ok(range)
}

pub fn main() -> ExitCode {
    watch::keep_panics();
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run { scenarios, seeds, jobs, keep_going, counts, json } => {
            let settings = Settings { workers: workers(jobs), keep_going, progress: !json };
            run(&scenarios, seeds, settings, counts, json)
        }
        Command::Replay { journal: Some(folder), .. } => replay_journal(&folder),
        Command::Replay { scenario, seed, log, .. } => {
            // Clap has seen to it that both are there.
            replay(&scenario.unwrap_or_default(), seed.unwrap_or_default(), log)
        }
        Command::List { faults: true, json, .. } => Ok(list_faults(json)),
        Command::List { scenario, seed, json, .. } => list(scenario.as_deref(), seed, json),
        Command::Minimize { scenario, seed } => smaller(&scenario, seed),
        Command::Canary { name } => crate::canaries::command(name.as_deref()),
        Command::Ci => ci(),
    };
    done.unwrap_or_else(|why| {
        eprintln!("{why}");
        ExitCode::from(USAGE)
    })
}

fn workers(jobs: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    jobs.unwrap_or(cores).max(1)
}

type Done = Result<ExitCode, String>;

// ---- Run -------------------------------------------------------------------------------------------------

fn run(names: &[String], seeds: Range<u64>, settings: Settings, counts: bool, json: bool) -> Done {
    let scenarios: Vec<Scenario> = match names {
        [] => library::names().map(library::find).collect::<Result<_, _>>()?,
        names => names.iter().map(|name| library::find(name)).collect::<Result<_, _>>()?,
    };
    let plan: Vec<(Scenario, Range<u64>)> =
        scenarios.into_iter().map(|scenario| (scenario, seeds.clone())).collect();
    let report = campaign::run(&plan, settings);
    if json {
        print_json(&report);
    } else {
        print_summary(&report);
        if counts {
            print_counts(&report);
        }
        report.failures.first().into_iter().for_each(tell_failure);
    }
    Ok(exit_code(&report))
}

fn exit_code(report: &Report) -> ExitCode {
    let first = report.failures.first();
    ExitCode::from(first.map_or(0, |failure| failure.outcome.verdict.exit_code()))
}

fn print_summary(report: &Report) {
    let seconds = report.took.as_secs_f64().max(0.001);
    println!(
        "{} seeds in {seconds:.1} s: {:.1} seeds/s, {:.0} virtual hours, {:.1} of them a second; {} failed",
        report.seeds,
        report.seeds as f64 / seconds,
        report.virtual_hours,
        report.virtual_hours / seconds,
        report.failed_seeds
    );
    let several = report.failures.len() > 1;
    for failure in report.failures.iter().filter(|_| several) {
        println!("  {} {}: {}", failure.scenario.name, failure.seed, failure.outcome.verdict);
    }
}

fn print_counts(report: &Report) {
    for (name, count) in report.coverage.counts() {
        let kind = name.strip_prefix("fault ").and_then(FaultKind::named);
        match kind.and_then(|kind| report.coverage.swarm_share(kind)) {
            Some(share) => println!("{count:>12}  {name}  ({share:.1} % of swarm seeds)"),
            None => println!("{count:>12}  {name}{}", meaning(&name)),
        }
    }
}

/// A mark is named after a branch; this says which.
fn meaning(name: &str) -> String {
    let mark = Mark::ALL.iter().find(|mark| name == format!("mark {mark:?}"));
    mark.map_or(String::new(), |mark| format!(": {}", mark.help()))
}

fn print_json(report: &Report) {
    let failures: Vec<serde_json::Value> = report
        .failures
        .iter()
        .map(|failure| {
            serde_json::json!({
                "scenario": failure.scenario.name,
                "seed": failure.seed,
                "kind": failure.outcome.verdict.kind(),
                "what": failure.outcome.verdict.to_string(),
                "at": failure.outcome.at_step,
            })
        })
        .collect();
    let counts: serde_json::Map<String, serde_json::Value> =
        report.coverage.counts().into_iter().map(|(name, count)| (name, count.into())).collect();
    let all = serde_json::json!({
        "seeds": report.seeds,
        "runs": report.runs,
        "seconds": report.took.as_secs_f64(),
        "virtual_hours": report.virtual_hours,
        "failed_seeds": report.failed_seeds,
        "failures": failures,
        "met": counts,
    });
    println!("{all}");
}

/// Seed, invariant, the trace around it, and the command that plays it again.
fn tell_failure(failure: &Failure) {
    let Failure { scenario, seed, outcome } = failure;
    let at = outcome.at_step.as_ref().map_or(String::new(), |at| format!(", {at}"));
    println!("\n{} failed under seed {seed}{at}", scenario.name);
    // Played again with a log: a campaign keeps none.
    let again = sweep::play(&scenario.options(*seed), *seed, Log::Short);
    if again.verdict == outcome.verdict {
        report::trace(&again).into_iter().for_each(|row| println!("{row}"));
    } else if !matches!(outcome.verdict, Verdict::Differs(_)) {
        println!("played again it ends otherwise: {}", again.verdict);
    }
    println!("{}", outcome.verdict);
    println!("  cargo sim replay {} --seed {seed}", called(scenario));
}

fn called(scenario: &Scenario) -> &str {
    scenario.path.as_deref().unwrap_or(&scenario.name)
}

// ---- One seed --------------------------------------------------------------------------------------------

fn replay(name: &str, seed: u64, log: LogKind) -> Done {
    let scenario = library::find(name)?;
    let options = scenario.options(seed);
    println!("# {name}, seed {seed}\n{}", report::options(&options));
    let log = match log {
        LogKind::Short => Log::Short,
        LogKind::Full => Log::Full,
    };
    let outcome = sweep::play(&options, seed, log);
    report::course(&outcome).into_iter().for_each(|row| println!("{row}"));
    tell_end(&outcome);
    Ok(ExitCode::from(outcome.verdict.exit_code()))
}

fn tell_end(outcome: &Outcome) {
    if let Some(at) = &outcome.at_step {
        println!("at {at}");
    }
    println!(
        "{} steps, {} runs, {:.0} virtual seconds, hash {:016x}: {}",
        outcome.steps,
        outcome.runs,
        outcome.virtual_time.as_secs_f64(),
        outcome.hash,
        outcome.verdict
    );
}

fn list(name: Option<&str>, seed: u64, json: bool) -> Done {
    if let Some(name) = name {
        let options = library::find(name)?.options(seed);
        match json {
            true => {
                println!("{}", serde_json::to_string(&options).expect("options are plain data"))
            }
            false => print!("{}", report::options(&options)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all: Vec<Scenario> = library::names().map(library::find).collect::<Result<_, _>>()?;
    if json {
        let rows: Vec<serde_json::Value> = all
            .iter()
            .map(|one| serde_json::json!({ "name": one.name, "about": one.about }))
            .collect();
        println!("{}", serde_json::Value::from(rows));
    } else {
        all.iter().for_each(|one| println!("{:<28} {}", one.name, one.about));
    }
    Ok(ExitCode::SUCCESS)
}

fn list_faults(json: bool) -> ExitCode {
    if json {
        let rows: Vec<serde_json::Value> = FaultKind::ALL
            .iter()
            .map(|kind| serde_json::json!({ "what": kind.name(), "does": kind.help() }))
            .collect();
        println!("{}", serde_json::Value::from(rows));
    } else {
        FaultKind::ALL.iter().for_each(|kind| println!("{:<24} {}", kind.name(), kind.help()));
    }
    ExitCode::SUCCESS
}

fn smaller(name: &str, seed: u64) -> Done {
    let options = library::find(name)?.options(seed);
    let Some(smaller) = minimize::minimize(&options, seed, |line| eprintln!("{line}")) else {
        println!("{name} passes under seed {seed}: there is nothing to make smaller");
        return Ok(ExitCode::SUCCESS);
    };
    println!(
        "# {name}, seed {seed}, made smaller in {} tries. Save it, and play it with",
        smaller.tries
    );
    println!("#   cargo sim replay FILE.toml --seed {seed}");
    print!("{}", report::options(&smaller.options));
    let outcome = sweep::play(&smaller.options, seed, Log::None);
    println!("# {}", outcome.verdict.to_string().replace('\n', "\n# "));
    Ok(ExitCode::from(outcome.verdict.exit_code()))
}

// ---- A real journal --------------------------------------------------------------------------------------

fn replay_journal(folder: &Path) -> Done {
    let mut steps = 0;
    let mut differs = false;
    for path in real_journal::segments(folder)? {
        let segment = real_journal::replay(&path)?;
        steps += segment.steps;
        let gap = match segment.missing {
            0 => String::new(),
            missing => format!(", a gap of {missing} inputs, bridged by the snapshot after it"),
        };
        let end = match segment.end {
            End::Complete => "to its end".into(),
            End::Torn { offset, why } => format!("up to octet {offset}: {why}"),
            End::Differs { step, offset } => {
                differs = true;
                format!("and wants something else from step {step}, at octet {offset}, on")
            }
        };
        println!("{}: {} steps run again {end}{gap}", segment.path.display(), segment.steps);
    }
    println!("{steps} steps");
    Ok(ExitCode::from(if differs { 13 } else { 0 }))
}

// ---- CI --------------------------------------------------------------------------------------------------

/// `scenario seed`, one a line.
fn regressions() -> Result<Vec<(Scenario, Range<u64>)>, String> {
    let lines = REGRESSIONS.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| {
            let wrong =
                || format!("scenarios/regress/seeds.txt:{}: expected `scenario seed`", number + 1);
            let (name, seed) = line.split_once(' ').ok_or_else(wrong)?;
            let seed: u64 = seed.trim().parse().map_err(|_| wrong())?;
            Ok((library::find(name)?, seed..seed + 1))
        })
        .collect()
}

fn ci() -> Done {
    let mut plan = regressions()?;
    for name in library::names() {
        let seeds = if name == "swarm" { CI_SWARM_SEEDS } else { CI_SEEDS };
        plan.push((library::find(name)?, 0..seeds));
    }
    let settings = Settings { workers: workers(None), keep_going: false, progress: true };
    let began = std::time::Instant::now();
    let report = campaign::run(&plan, settings);
    print_counts(&report);
    print_summary(&report);
    if let Some(failure) = report.failures.first() {
        tell_failure(failure);
        return Ok(exit_code(&report));
    }
    let missing = report.coverage.missing();
    missing.iter().for_each(|what| println!("{what}"));
    println!("{:.0} s", Duration::as_secs_f64(&began.elapsed()));
    Ok(ExitCode::from(if missing.is_empty() { 0 } else { 11 }))
}

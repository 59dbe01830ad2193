//! traffic-gen: sends made-up mail as fast as it is told to, over SMTP or over HTTP injection, and says how fast it was.
//! Exit codes: 0 every message was accepted, 1 some weren't, 2 usage, 3 the target couldn't be reached at all.
mod arguments;
mod http;
mod mail;
mod report;
mod run;
mod smtp;
#[cfg(test)]
mod tests;

use arguments::Arguments;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use run::Run;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How often the progress bar moves.
const PROGRESS: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match generate(&arguments).await {
        Ok(report) => {
            print!("{}", if arguments.json { report.json() } else { report.text() });
            ExitCode::from(report.exit_code())
        }
        Err(why) => {
            eprintln!("traffic-gen: {why}");
            ExitCode::from(2)
        }
    }
}

/// An error is one of usage: what happens to messages stands in the report.
async fn generate(arguments: &Arguments) -> Result<Report, String> {
    let run = Arc::new(Run::new(arguments));
    let mut senders = JoinSet::new();
    if arguments.http {
        http::start(arguments, &run, &mut senders)?;
    } else {
        smtp::start(arguments, &run, &mut senders).await?;
    }
    let progress = progress_bar(&run);
    let mut ticks = interval(PROGRESS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            ended = senders.join_next() => match ended {
                Some(ended) => ended.expect("a sender doesn't panic"),
                None => break,
            },
            _ = ticks.tick() => show(&progress, &run),
        }
    }
    progress.finish_and_clear();
    Ok(run.report())
}

/// Draws on stderr, and nothing at all where that isn't a terminal.
fn progress_bar(run: &Run) -> ProgressBar {
    let (bar, template) = match run.limit() {
        Some(limit) => {
            (ProgressBar::new(limit), "{elapsed} {wide_bar} {human_pos}/{human_len} {msg}")
        }
        None => (ProgressBar::no_length(), "{elapsed} {spinner} {human_pos} {msg}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.expect("the template is our own"))
}

fn show(bar: &ProgressBar, run: &Run) {
    if bar.is_hidden() {
        return;
    }
    let report = run.report();
    bar.set_position(report.accepted);
    bar.set_message(format!("{:.0}/s, {} failed", report.per_second(), report.not_accepted()));
}

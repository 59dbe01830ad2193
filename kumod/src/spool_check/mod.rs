//! `kumod spool check`: an offline look at a spool, with a line of progress and a [`report`]. Invariant: the exit code
//! says what the report says, and nothing is printed to stdout but the report. What is read and repaired is io-real's.
mod report;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use kumo_io_real::spool::offline::{Findings, OfflineSpool};
use report::Report;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the line of progress changes.
const PROGRESS: Duration = Duration::from_millis(200);

pub struct Options {
    /// One, or two.
    pub folders: Vec<PathBuf>,
    pub repair: bool,
    pub json: bool,
}

/// The exit code; an error means 1.
pub async fn run(options: &Options) -> Result<i32, String> {
    let open = match options.repair {
        true => OfflineSpool::open_to_repair,
        false => OfflineSpool::open_to_check,
    };
    let spool = open(&options.folders).map_err(|error| error.to_string())?;
    let description = spool.describe();
    let findings = examine(&spool).await;
    let closed = spool.close().await;
    let report = Report { spool: description, findings: findings? };
    let text = if options.json { report.json() } else { report.text() };
    print(&text).map_err(|error| format!("the report can't be written: {error}"))?;
    closed.map_err(|error| format!("the spool can't be closed: {error}"))?;
    Ok(report.exit_code())
}

async fn examine(spool: &OfflineSpool) -> Result<Findings, String> {
    // Hidden where stderr is no terminal.
    let style = ProgressStyle::with_template("{elapsed} {spinner} {human_pos} messages {msg}");
    let bar = ProgressBar::no_length().with_style(style.expect("the template is our own"));
    let mut shown = Instant::now();
    let findings = spool.examine(|findings| {
        if bar.is_hidden() || shown.elapsed() < PROGRESS {
            return;
        }
        shown = Instant::now();
        bar.set_position(findings.messages());
        let octets = HumanBytes(findings.octets);
        let rewritten = findings.repair.as_ref().map_or(0, |repair| repair.records_rewritten);
        bar.set_message(match rewritten {
            0 => format!("{octets}, {} not whole", findings.wrong),
            rewritten => format!("{octets}; {rewritten} records in a database made anew"),
        });
    });
    let findings = findings.await.map_err(|error| error.to_string());
    bar.finish_and_clear();
    findings
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

//! What is printed: a run's options and log, a failure with the trace around it, the counts of a campaign. Nothing is decided here.
//!
//! A row of the short log: virtual time in seconds, the number of the life, what happened, to which submission or id, and the rest.
use crate::options::Options;
use crate::verdict::{Outcome, Verdict};
use kumo_core::time::Mono;
use kumo_io_sim::ledger::{Answer, Entry, Event};

/// Rows before the first broken invariant that a failure is reported with.
const TRACE_ROWS: usize = 40;

pub fn options(options: &Options) -> String {
    toml::to_string(options).expect("options are plain data")
}

struct Row {
    at: Mono,
    text: String,
}

fn row(entry: &Entry) -> Option<Row> {
    let at = entry.now.mono;
    let (what, about, rest) = match &entry.event {
        Event::Submitting { submission, recipients, content } => (
            "submit",
            submission.to_string(),
            format!("{} octets to {}", content.len(), recipients.join(" ")),
        ),
        Event::Answered { submission, answer } => {
            let text = match answer {
                Answer::Accepted { ids } => format!("accepted as {ids:?}"),
                Answer::Refused { code } => format!("refused, {code}"),
                Answer::Ambiguous => "no reply".into(),
                Answer::Never => "broken off".into(),
            };
            ("answer", submission.to_string(), text)
        }
        Event::TurnedAway { code } => ("turned-away", String::new(), code.to_string()),
        Event::RecipientRefused { submission, recipient } => {
            ("rcpt-refused", submission.to_string(), recipient.clone())
        }
        Event::Sunk { submission, recipients, reply_lost, server, client, .. } => {
            let lost = if *reply_lost { ", reply lost" } else { "" };
            let from = client.map_or(String::new(), |client| format!(" from {client}"));
            let about = format!("at {server}{from} for {}{lost}", recipients.join(" "));
            ("sunk", name(submission), about)
        }
        Event::PeerRefused { submission, recipients, code, server } => (
            "peer-refused",
            name(submission),
            format!("{code} at {server} for {}", recipients.join(" ")),
        ),
        Event::BodyBegan { submission, recipients } => {
            ("body", name(submission), recipients.join(" "))
        }
        Event::Violation { invariant, what } => ("VIOLATION", (*invariant).into(), what.clone()),
        Event::Recorded { kind, id, recipients, code, text, .. } => (
            "record",
            id.to_string(),
            format!("{} {code} {} {text}", kind.name(), recipients.join(" ")),
        ),
        Event::RecordLost { kind, id } => ("record-lost", id.to_string(), kind.name().into()),
        Event::PolicyRejected { id } => ("policy-reject", id.to_string(), String::new()),
        Event::Started { life } => ("start", format!("life {life}"), String::new()),
        Event::StopOrdered { life } => ("stop", format!("life {life}"), String::new()),
        Event::Ended { life, how } => ("end", format!("life {life}"), format!("{how:?}")),
        Event::Paused { life } => ("pause", format!("life {life}"), String::new()),
        Event::Resumed { life } => ("resume", format!("life {life}"), String::new()),
        Event::Fault { what, began, target } => {
            let state = if *began { "begins" } else { "ends" };
            let target = target.as_deref().map_or(String::new(), |target| format!(", {target}"));
            ("fault", what.name().into(), format!("{state}{target}"))
        }
        Event::Ordered { what, domain, .. } => {
            ("order", (*what).into(), domain.clone().unwrap_or_default())
        }
        Event::Damaged { ids } => ("damage", String::new(), format!("{ids:?}")),
        Event::Healed => ("heal", String::new(), "the liveness phase begins".into()),
    };
    Some(Row { at, text: format!("{what:<13} {about:<33} {rest}") })
}

fn name(submission: &Option<kumo_io_sim::ledger::Submission>) -> String {
    submission.map_or("?".into(), |submission| submission.to_string())
}

/// The whole course of a run that was played with a log.
pub fn course(outcome: &Outcome) -> Vec<String> {
    let mut rows: Vec<Row> = outcome.ledger.iter().filter_map(row).collect();
    rows.extend(
        outcome
            .notes
            .iter()
            .map(|(at, text)| Row { at: *at, text: format!("node          {text}") }),
    );
    rows.sort_by_key(|row| row.at);
    let mut life = 0;
    rows.into_iter()
        .map(|row| {
            if row.text.starts_with("start ") {
                life += 1;
            }
            format!("{:>14.6} {life:>3} {}", row.at.0 as f64 / 1e9, row.text)
        })
        .collect()
}

/// The rows up to the broken invariant.
pub fn trace(outcome: &Outcome) -> Vec<String> {
    let until = match &outcome.verdict {
        Verdict::Broken(broken) => broken.at,
        _ => Mono(u64::MAX),
    };
    let rows = course(outcome);
    let seconds = until.0 as f64 / 1e9;
    let shown = rows.iter().take_while(|row| {
        row.get(..14)
            .and_then(|time| time.trim().parse::<f64>().ok())
            .is_none_or(|at| at <= seconds + 0.001)
    });
    let shown = shown.count();
    rows[shown.saturating_sub(TRACE_ROWS)..shown].to_vec()
}

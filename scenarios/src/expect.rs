//! What a scenario expects beyond the invariants, judged by figures of the run and, where it says so, of a second run without the trouble.
//! Invariant: figures come from the ledger alone. Times are virtual: they say what the decisions cost, not what the machine does.
use crate::check::Facts;
use crate::options::{Expectation, Options};
use crate::setup;
use crate::verdict::{Outcome, Verdict};
use kumo_core::log::RecordKind;
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::ledger::{Answer, Entry, Event};
use std::collections::BTreeMap;
use std::net::IpAddr;

const MINUTE_NANOS: u64 = 60_000_000_000;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// When the first life began, as the times of faults and expectations are counted.
    pub began: Mono,
    pub accepted: u64,
    /// Recipients.
    pub delivered: u64,
    /// Messages that were to be handed in, and those accepted in the end.
    pub messages: u64,
    pub messages_accepted: u64,
    pub recipients_accepted: u64,
    /// From 250 to the first copy, by the recipient's domain, ascending.
    pub delays: BTreeMap<String, Vec<Duration>>,
    /// First copies, by minute since the beginning.
    pub delivered_by_minute: BTreeMap<u64, u64>,
    /// Attempts of recipients that ended in a record, by minute.
    pub attempts_by_minute: BTreeMap<u64, u64>,
    pub records: BTreeMap<RecordKind, u64>,
    /// When clients heard 421, and when messages were accepted and delivered.
    pub shed: Vec<Mono>,
    pub accepted_at: Vec<Mono>,
    pub delivered_at: Vec<Mono>,
    /// The beginning of the first fault of the disk.
    pub disk_failed: Option<Mono>,
    /// Copies that servers got: when, and from whom.
    pub carried: Vec<(Mono, IpAddr)>,
    /// Of each accepted recipient: when, and when the first copy came.
    pub waits: Vec<(Mono, Option<Mono>)>,
}

fn minute(at: Mono) -> u64 {
    at.0 / MINUTE_NANOS
}

impl Figures {
    pub fn of(facts: &Facts<'_>) -> Figures {
        let mut figures = Figures::default();
        let mut accepted = BTreeMap::new();
        for (submission, story) in &facts.stories {
            let of_message = accepted.entry(submission.message).or_insert(false);
            let Some((at, Answer::Accepted { .. })) = story.answer else { continue };
            *of_message = true;
            figures.accepted += 1;
            figures.recipients_accepted += story.recipients.len() as u64;
            for recipient in story.recipients {
                let copies = story.copies.iter();
                let first = copies
                    .filter(|copy| copy.recipients.contains(recipient))
                    .map(|copy| copy.at)
                    .min();
                figures.waits.push((at, first));
                let Some(first) = first else { continue };
                figures.delivered += 1;
                *figures.delivered_by_minute.entry(minute(first)).or_default() += 1;
                let domain = recipient.rsplit('@').next().unwrap_or(recipient);
                figures.delays.entry(domain.into()).or_default().push(first.since(at));
            }
        }
        figures.messages = accepted.len() as u64;
        figures.messages_accepted = accepted.values().filter(|accepted| **accepted).count() as u64;
        figures.delays.values_mut().for_each(|delays| delays.sort_unstable());
        for Entry { now, event } in facts.entries {
            match event {
                Event::Started { life: 1 } => figures.began = now.mono,
                Event::TurnedAway { code: 421 }
                | Event::Answered { answer: Answer::Refused { code: 421 }, .. } => {
                    figures.shed.push(now.mono);
                }
                Event::Answered { answer: Answer::Accepted { .. }, .. } => {
                    figures.accepted_at.push(now.mono);
                }
                Event::Sunk { client, .. } => {
                    figures.delivered_at.push(now.mono);
                    figures.carried.extend(client.map(|client| (now.mono, client)));
                }
                Event::Fault { what, .. } if what.port() == "disk" => {
                    figures.disk_failed.get_or_insert(now.mono);
                }
                _ => {}
            }
        }
        for entry in facts.entries {
            let Event::Recorded { kind, recipients, .. } = &entry.event else { continue };
            *figures.records.entry(*kind).or_default() += 1;
            if matches!(
                kind,
                RecordKind::Delivery | RecordKind::TransientFailure | RecordKind::Bounce
            ) {
                let count = recipients.len() as u64;
                *figures.attempts_by_minute.entry(minute(entry.now.mono)).or_default() += count;
            }
        }
        figures
    }

    fn percentile_99(&self, domain: &str) -> Option<Duration> {
        let delays = self.delays.get(domain)?;
        delays.get((delays.len() * 99).div_ceil(100).saturating_sub(1)).copied()
    }

    fn is_between(&self, from: Duration, until: Duration) -> impl Fn(Mono) -> bool {
        let time = self.began + from..self.began + until;
        move |at| time.contains(&at)
    }

    fn carried_by(&self, address: IpAddr, (from, until): (Duration, Duration)) -> u64 {
        let in_time = self.is_between(from, until);
        self.carried.iter().filter(|(at, client)| *client == address && in_time(*at)).count() as u64
    }

    /// The first accepted recipient of a time that got nothing soon enough: when it was accepted, and when it got its copy.
    fn late(
        &self,
        (from, until): (Duration, Duration),
        within: Option<Duration>,
        by: Option<Duration>,
    ) -> Option<(Mono, Option<Mono>)> {
        let in_time = self.is_between(from, until);
        let is_late = |(at, first): &(Mono, Option<Mono>)| {
            let Some(first) = *first else { return true };
            within.is_some_and(|within| first > *at + within)
                || by.is_some_and(|by| first > self.began + by)
        };
        self.waits.iter().filter(|(at, _)| in_time(*at)).find(|wait| is_late(wait)).copied()
    }

    fn delivered_between(&self, from: u64, to: u64) -> u64 {
        self.delivered_by_minute.range(from..to).map(|(_, count)| count).sum()
    }
}

/// Turns a passed run into one that isn't what the scenario expects, if so. `again` plays other options under the same seed.
pub fn judge(options: &Options, outcome: &mut Outcome, again: impl Fn(&Options) -> Outcome) {
    for expectation in &options.expect {
        if outcome.verdict != Verdict::Passed {
            return;
        }
        if let Some(what) = unmet(options, expectation, &outcome.figures, &again) {
            outcome.verdict = Verdict::Unexpected(what);
        }
    }
}

/// Deliveries that were under way end within this.
const UNDER_WAY: Duration = Duration::from_secs(2);

fn gate(
    figures: &Figures,
    lasts: Duration,
    shuts_within: Duration,
    opens_within: Duration,
) -> Result<(), String> {
    let began = figures.disk_failed.ok_or("the disk never failed")?;
    let ended = began + lasts;
    let after = |moments: &[Mono], from: Mono| moments.iter().copied().find(|at| *at >= from);
    let shut = after(&figures.shed, began).ok_or("nobody heard 421")?;
    if shut > began + shuts_within {
        return Err(format!(
            "the first 421 came {:?} after the disk began to fail",
            shut.since(began)
        ));
    }
    let delivered = after(&figures.delivered_at, shut + UNDER_WAY);
    if delivered.is_some_and(|at| at < ended) {
        return Err("mail was delivered while the gate was shut".into());
    }
    let opened =
        after(&figures.accepted_at, ended.max(shut)).ok_or("nothing was accepted again")?;
    if opened > ended.max(shut) + opens_within {
        let late = opened.since(ended.max(shut));
        return Err(format!("the first message was accepted {late:?} after the disk was well"));
    }
    Ok(())
}

fn unmet(
    options: &Options,
    expectation: &Expectation,
    figures: &Figures,
    again: &impl Fn(&Options) -> Outcome,
) -> Option<String> {
    match expectation {
        Expectation::DelayGrowth { domain, per_cent_max } => {
            let calm = Options { fault: Vec::new(), ..options.clone() };
            let calm = again(&calm).figures.percentile_99(domain);
            let (Some(with), Some(without)) = (figures.percentile_99(domain), calm) else {
                return Some(format!("nothing was delivered to {domain}"));
            };
            let allowed = without * (100 + per_cent_max) / 100;
            (with > allowed).then(|| {
                format!(
                    "99 % of the mail to {domain} took up to {with:?}, and without the fault {without:?}; {allowed:?} are allowed"
                )
            })
        }
        Expectation::Goodput { per_cent_min, fraction } => {
            let mut less = options.clone();
            less.load.messages /= fraction;
            let calm = again(&less).figures;
            let end = options.load.until.as_secs() / 60;
            let (with, peak) = (figures.delivered_between(1, end), calm.delivered_between(1, end));
            (with * 100 < peak * u64::from(*per_cent_min)).then(|| {
                format!("{with} were delivered under the whole load, and {peak} under 1/{fraction} of it")
            })
        }
        Expectation::Spread { after, times_max } => {
            let from = after.as_secs() / 60;
            let minutes: Vec<u64> =
                figures.attempts_by_minute.range(from..).map(|(_, count)| *count).collect();
            let (sum, most) = (minutes.iter().sum::<u64>(), minutes.iter().max().copied());
            let Some(most) = most else { return Some("there were no attempts".into()) };
            let mean = sum as f64 / minutes.len() as f64;
            (most as f64 > mean * f64::from(*times_max)).then(|| {
                format!(
                    "the busiest minute had {most} attempts, and a minute has {mean:.1} in the mean"
                )
            })
        }
        Expectation::AllDelivered => {
            let all = figures.messages_accepted == u64::from(options.load.messages)
                && figures.delivered == figures.recipients_accepted;
            (!all).then(|| {
                format!(
                    "of {} messages {} were accepted, and of their {} recipients {} got theirs",
                    options.load.messages,
                    figures.messages_accepted,
                    figures.recipients_accepted,
                    figures.delivered
                )
            })
        }
        Expectation::Gate { shuts_within, opens_within } => {
            let disk = options.fault.iter().find(|fault| fault.what.port() == "disk");
            let lasts = disk.and_then(|fault| fault.lasts).unwrap_or_default();
            gate(figures, lasts, *shuts_within, *opens_within).err()
        }
        Expectation::Carried { source, from, until, min, max } => {
            let address = setup::egress_address(options, *source);
            let count = figures.carried_by(address, (*from, *until));
            let too_many = max.is_some_and(|max| count > max);
            (count < *min || too_many).then(|| {
                let most = max.map_or(String::new(), |max| format!(" and at most {max}"));
                format!(
                    "source {source} carried {count} copies from {from:?} until {until:?}; at least {min}{most} are expected"
                )
            })
        }
        Expectation::Delivered { from, until, within, by } => {
            let (at, first) = figures.late((*from, *until), *within, *by)?;
            let accepted = at.since(figures.began);
            Some(match first {
                Some(first) => format!(
                    "what was accepted at {accepted:?} was delivered {:?} later",
                    first.since(at)
                ),
                None => format!("what was accepted at {accepted:?} was never delivered"),
            })
        }
        Expectation::Records { kind, min } => {
            let found = figures.records.iter().find(|(known, _)| known.name() == kind.as_str());
            let count = found.map_or(0, |(_, count)| *count);
            (count < *min).then(|| {
                format!("there are {count} {kind} records, and at least {min} are expected")
            })
        }
    }
}

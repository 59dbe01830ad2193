//! Makes a failing run smaller: fewer faults, less mail, a shorter phase, as long as the same invariant still breaks (delta debugging).
//! Invariant: every step kept was played and failed in the same way; the result is a scenario file of its own, with `base = "calm"`.
use crate::options::{Base, Options};
use crate::sweep;
use crate::verdict::{Outcome, Verdict};
use crate::watch::Log;

pub struct Smaller {
    pub options: Options,
    pub tries: u32,
}

/// `None`: the seed passes.
pub fn minimize(options: &Options, seed: u64, tell: impl Fn(&str)) -> Option<Smaller> {
    let first = sweep::play(options, seed, Log::None);
    if first.verdict == Verdict::Passed {
        return None;
    }
    let kind = first.verdict.kind().to_owned();
    let mut tries = 1;
    let mut fails = |options: &Options| {
        tries += 1;
        let outcome: Outcome = sweep::play(options, seed, Log::None);
        outcome.verdict.kind() == kind
    };
    let about = format!("seed {seed}: {kind}");
    let mut smallest = Options { base: Base::Calm, about, ..options.clone() };
    shrink_list(&mut smallest, |o| &mut o.fault, &mut fails);
    tell(&format!("faults left: {}", smallest.fault.len()));
    shrink_list(&mut smallest, |o| &mut o.order, &mut fails);
    shrink_list(&mut smallest, |o| &mut o.destination, &mut fails);
    shrink_number(&mut smallest, |o| &mut o.load.messages, &mut fails);
    tell(&format!("messages left: {}", smallest.load.messages));
    shrink_number(&mut smallest, |o| &mut o.load.clients, &mut fails);
    shrink_number(&mut smallest, |o| &mut o.load.recipients_max, &mut fails);
    shrink_number(&mut smallest, |o| &mut o.load.retries, &mut fails);
    shrink_number(&mut smallest, |o| &mut o.node.sources, &mut fails);
    Some(Smaller { options: smallest, tries })
}

/// Takes out halves, quarters, and so on, then one after the other.
fn shrink_list<T: Clone>(
    options: &mut Options,
    list: fn(&mut Options) -> &mut Vec<T>,
    fails: &mut impl FnMut(&Options) -> bool,
) {
    let mut size = list(options).len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < list(options).len() {
            let mut fewer = options.clone();
            let all = list(&mut fewer);
            let to = (from + size).min(all.len());
            drop(all.drain(from..to));
            if fewer.check().is_ok() && fails(&fewer) {
                *options = fewer;
            } else {
                from = to;
            }
        }
        size /= 2;
    }
}

fn shrink_number(
    options: &mut Options,
    number: fn(&mut Options) -> &mut u32,
    fails: &mut impl FnMut(&Options) -> bool,
) {
    let mut step = *number(options) / 2;
    while step > 0 {
        let mut fewer = options.clone();
        *number(&mut fewer) -= step;
        if fewer.check().is_ok() && fails(&fewer) {
            *options = fewer;
            step = step.min(*number(options) / 2);
        } else {
            step /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::TimedFault;
    use kumo_core::time::Duration;
    use kumo_io_sim::fault::FaultKind;

    fn fault(what: FaultKind) -> TimedFault {
        TimedFault {
            what,
            at: Duration::ZERO,
            lasts: None,
            chance: 1000,
            amount: None,
            target: None,
        }
    }

    #[test]
    fn only_what_the_failure_needs_is_left() {
        let kinds = FaultKind::ALL.iter().copied();
        let mut options = Options { fault: kinds.map(fault).collect(), ..Options::default() };
        let guilty = [FaultKind::DiskStall, FaultKind::NodeKill];
        let mut fails = |options: &Options| {
            guilty.iter().all(|kind| options.fault.iter().any(|one| one.what == *kind))
                && options.load.messages >= 7
        };
        shrink_list(&mut options, |o| &mut o.fault, &mut fails);
        shrink_number(&mut options, |o| &mut o.load.messages, &mut fails);
        let left: Vec<FaultKind> = options.fault.iter().map(|one| one.what).collect();
        assert_eq!((left.as_slice(), options.load.messages), (&guilty[..], 7));
    }
}

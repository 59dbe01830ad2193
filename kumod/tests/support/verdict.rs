//! What became of each message, from what clients and peer remember: invariants I1, I3, I4, I5 and I7 of the project's
//! list. Pure: evidence in, findings out. It can't tell a message in the spool from a lost one; the run drains the spool first.
use super::load::{End, Submission};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long after a peer's 250 a crash may still be the reason of a second copy: a removal is written within this time.
pub const REMOVAL: Duration = Duration::from_secs(1);

/// One recipient's copy of one message, as the peer got it.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub token: String,
    pub id: String,
    pub recipient: String,
    pub content: String,
    /// The life of kumod that delivered it.
    pub life: usize,
    /// When the peer said so; `None` if it hung up instead or found nobody there.
    pub told: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Evidence {
    pub submissions: Vec<Submission>,
    pub delivered: Vec<Delivered>,
    /// By the peer, for good.
    pub refused: HashSet<String>,
    /// When each life was killed; a life that isn't here wasn't.
    pub killed: HashMap<usize, Instant>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Accepted, and neither delivered nor refused by the peer.
    pub lost: Vec<String>,
    /// More copies than the bound allows.
    pub excess: Vec<String>,
    /// Delivered although the client was told no, or never sent the final dot.
    pub unasked: Vec<String>,
    /// Not what was sent.
    pub damaged: Vec<String>,
    /// Copies above the first, by what their predecessor ended with: no reply to kumod, or a kill.
    pub after_silence: usize,
    pub after_kill: usize,
    /// The longest time between a peer's 250 and the kill that made a second copy of it.
    pub latest_excuse: Duration,
}

impl Findings {
    pub fn is_clean(&self) -> bool {
        [&self.lost, &self.excess, &self.unasked, &self.damaged].iter().all(|list| list.is_empty())
    }
}

pub fn judge(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let by_token: HashMap<&str, &Submission> =
        evidence.submissions.iter().map(|one| (one.token.as_str(), one)).collect();
    let mut copies: BTreeMap<(&str, &str), Vec<&Delivered>> = BTreeMap::new();
    for copy in &evidence.delivered {
        copies.entry((&copy.token, &copy.recipient)).or_default().push(copy);
        let name = format!("{} to {}", copy.token, copy.recipient);
        match by_token.get(&*copy.token) {
            Some(Submission { end: End::Accepted | End::Unanswered, content, .. }) => {
                if !copy.content.ends_with(content.as_str()) {
                    findings.damaged.push(name);
                }
            }
            Some(Submission { end, .. }) => findings.unasked.push(format!("{name}: {end:?}")),
            None => findings.unasked.push(format!("{name}: nobody sent it")),
        }
    }
    for submission in evidence.submissions.iter().filter(|one| one.end == End::Accepted) {
        for recipient in &submission.recipients {
            let settled = copies.contains_key(&(&*submission.token, &**recipient))
                || evidence.refused.contains(recipient);
            if !settled {
                findings.lost.push(format!("{} to {recipient}", submission.token));
            }
        }
    }
    for ((token, recipient), copies) in copies {
        count(&format!("{token} to {recipient}"), &copies, evidence, &mut findings);
    }
    findings
}

/// copies ≤ 1 + replies that the peer didn't give + crashes between the peer's 250 and the durable removal.
fn count(name: &str, copies: &[&Delivered], evidence: &Evidence, findings: &mut Findings) {
    let ids: HashSet<&str> = copies.iter().map(|copy| copy.id.as_str()).collect();
    if ids.len() > 1 {
        findings.excess.push(format!("{name}: one submission became {ids:?}"));
    }
    let excuses = copies.iter().filter(|copy| is_excused(copy, evidence)).count();
    if copies.len() > 1 + excuses {
        let (count, lives) = (copies.len(), copies.iter().map(|copy| copy.life));
        let lives: Vec<usize> = lives.collect();
        findings
            .excess
            .push(format!("{name}: {count} copies in lives {lives:?}, {excuses} excused"));
    }
    let (_, repeated) = copies.split_last().expect("an entry is made with its first copy");
    for copy in repeated {
        let Some(told) = copy.told else {
            findings.after_silence += 1;
            continue;
        };
        findings.after_kill += 1;
        if let Some(killed) = evidence.killed.get(&copy.life) {
            let gap = killed.saturating_duration_since(told);
            findings.latest_excuse = findings.latest_excuse.max(gap);
        }
    }
}

fn is_excused(copy: &Delivered, evidence: &Evidence) -> bool {
    let Some(told) = copy.told else { return true };
    evidence.killed.get(&copy.life).is_some_and(|killed| *killed <= told + REMOVAL)
}

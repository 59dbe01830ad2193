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

/// One accepted message to one recipient, delivered in `lives`, each killed so long after the peer's 250.
fn story(end: End, lives: &[(usize, u64)]) -> Evidence {
    let start = Instant::now();
    let submission = Submission {
        token: "t".into(),
        recipients: vec!["r".into()],
        content: "x\r\n".into(),
        end,
        dot_at: None,
    };
    let mut evidence = Evidence { submissions: vec![submission], ..Evidence::default() };
    for (life, after) in lives {
        evidence.killed.insert(*life, start + Duration::from_millis(*after));
        evidence.delivered.push(Delivered {
            token: "t".into(),
            id: "i".into(),
            recipient: "r".into(),
            content: "Received: y\r\nx\r\n".into(),
            life: *life,
            told: Some(start),
        });
    }
    evidence
}

#[test]
fn what_was_accepted_and_came_nowhere_is_lost() {
    assert_eq!(judge(&story(End::Accepted, &[])).lost, ["t to r"]);
    assert!(judge(&story(End::Unanswered, &[])).is_clean());
    assert!(judge(&story(End::Accepted, &[(1, 0)])).is_clean());
    let mut refused = story(End::Accepted, &[]);
    refused.refused.insert("r".into());
    assert!(judge(&refused).is_clean());
}

#[test]
fn a_second_copy_needs_a_crash_soon_after_the_first() {
    let soon = judge(&story(End::Accepted, &[(1, 10), (2, 9_000)]));
    assert!(soon.is_clean(), "{soon:?}");
    assert_eq!((soon.after_kill, soon.latest_excuse), (1, Duration::from_millis(10)));
    assert_eq!(judge(&story(End::Accepted, &[(1, 5_000), (2, 9_000)])).excess.len(), 1);
    assert_eq!(judge(&story(End::Accepted, &[(1, 10), (2, 9_000), (2, 9_000)])).excess.len(), 1);
    let mut alive = story(End::Accepted, &[(1, 10), (2, 10)]);
    alive.killed.clear();
    assert_eq!(judge(&alive).excess.len(), 1);
    let mut silent = story(End::Accepted, &[(1, 5_000), (1, 5_000)]);
    silent.delivered[0].told = None;
    let silent = judge(&silent);
    assert!(silent.is_clean(), "{silent:?}");
    assert_eq!((silent.after_silence, silent.after_kill), (1, 0));
    let mut two_ids = story(End::Accepted, &[(1, 10), (2, 10)]);
    two_ids.delivered[1].id = "j".into();
    assert_eq!(judge(&two_ids).excess.len(), 1);
}

#[test]
fn what_nobody_finished_sending_and_what_was_altered_are_found() {
    for end in [End::NotSent, End::Refused] {
        assert_eq!(judge(&story(end, &[(1, 10)])).unasked.len(), 1, "{end:?}");
    }
    let mut altered = story(End::Accepted, &[(1, 10)]);
    altered.delivered[0].content = "y\r\n".into();
    assert_eq!(judge(&altered).damaged.len(), 1);
}

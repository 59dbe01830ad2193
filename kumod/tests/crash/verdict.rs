//! The judge of the crash tests, judged: small stories with a known verdict.
use super::support::load::{End, Submission};
use super::support::verdict::{Delivered, Evidence, judge};
use std::time::{Duration, Instant};

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

//! kill -9 at random moments under load, restart over the same spool, and in the end count every message.
//! `KUMOD_CRASHES`: kills that count (default 3; `make crash`: 20). `KUMOD_CRASH_SEED` replays the choices of an earlier run.
//!
//! A kill counts if at that moment at least one client waits for the answer to its final dot and at least one delivery is
//! under way. Between them come kills during start-up and recovery, which don't count. A process that is killed leaves
//! the kernel's cache behind, so this shows nothing about syncs: `power` and `sync_before_250` do that.
mod support;

#[path = "crash/journal.rs"]
mod journal;
#[path = "crash/verdict.rs"]
mod verdict;

use journal::{Journals, Replays};
use std::path::Path;
use support::choices::{self, Choices};
use support::lives::{How, Lives, rows};
use support::verdict::{Delivered, Evidence, Findings, judge};
use support::{Home, Kumod};

const DEFAULT_CRASHES: u64 = 3;

#[test]
fn nothing_is_lost_when_the_process_is_killed() {
    let seed = choices::seed("KUMOD_CRASH_SEED");
    let crashes = choices::number("KUMOD_CRASHES").unwrap_or(DEFAULT_CRASHES) as usize;
    println!("replay: KUMOD_CRASHES={crashes} KUMOD_CRASH_SEED={seed} make crash");
    let two_paths = Choices::new(seed, u64::MAX).one_in(2);
    let spools = if two_paths { ("data", "meta") } else { ("spool", "spool") };
    println!("spools: {spools:?}");
    let home = Home::new();
    let mut journals = Journals::new(home.path("journal"));
    let journal = journals.folder.display().to_string();
    let launch = |policy: &Path| Kumod::launch_with(policy, &["--journal", &journal]);
    let mut lives = Lives::new(home, spools, seed);
    lives.kill(crashes, launch, |lives| journals.collect(lives.over.len() - 1, true));
    lives.drain(launch);
    journals.collect(lives.over.len() - 1, false);

    let left_over = lives.left_over();
    let evidence = lives.evidence();
    let findings = judge(&evidence);
    let unlogged = unlogged(&lives, &evidence);
    let replays = journals.replay(&mut lives.choices);
    print(&lives, &evidence, &findings, unlogged.len(), &replays);
    assert!(findings.is_clean(), "seed {seed}: {findings:#?}");
    let in_order = |life: usize| lives.over[life].how == How::Drained;
    let unlogged: Vec<&Delivered> =
        unlogged.into_iter().filter(|copy| in_order(copy.life)).collect();
    assert!(
        unlogged.is_empty(),
        "delivered in a life that ended well, and not logged: {unlogged:?}"
    );
    assert!(replays.wrong.is_empty(), "seed {seed}: {replays:#?}");
    assert!(replays.steps > 0 && replays.used > crashes, "{replays:#?}");
    assert_eq!(left_over, (0, 0), "envelopes and bodies in the spool after everything was settled");
}

/// What kumod was told is delivered, and doesn't say so. A kill loses what its writer hasn't written yet.
fn unlogged<'a>(lives: &Lives, evidence: &'a Evidence) -> Vec<&'a Delivered> {
    let logged = lives.logged("Delivery");
    let key = |copy: &Delivered| (copy.id.clone(), copy.recipient.clone());
    let told = evidence.delivered.iter().filter(|copy| copy.told.is_some());
    told.filter(|copy| !logged.contains(&key(copy))).collect()
}

fn print(
    lives: &Lives,
    evidence: &Evidence,
    findings: &Findings,
    unlogged: usize,
    replays: &Replays,
) {
    println!(
        "{:>4} {:>9} {:<9} {:>15} {:>19}",
        "life", "ms", "", "dots unanswered", "deliveries in flight"
    );
    for (number, life) in lives.over.iter().enumerate() {
        let (ms, how) = (life.lasted.as_millis(), format!("{:?}", life.how));
        println!("{number:>4} {ms:>9} {how:<9} {:>15} {:>19}", life.dots, life.deliveries);
    }
    let mut rows = rows(evidence, findings);
    rows.extend([
        ("delivered without a log record", unlogged),
        ("journal: segments", replays.segments),
        ("journal: torn at the end", replays.torn),
        ("journal: steps replayed", replays.steps as usize),
        ("journal: inputs left out", replays.missing as usize),
        ("journal: found wrong", replays.wrong.len()),
    ]);
    for (what, count) in rows {
        println!("{what:<32} {count:>7}");
    }
    println!(
        "latest kill that made a duplicate: {:?} after the peer's 250",
        findings.latest_excuse
    );
}

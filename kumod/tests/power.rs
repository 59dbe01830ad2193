//! A power cut for a real kumod: it is killed under load, and what it hadn't synced is taken away, all of it or a
//! random part; then it starts again, and in the end every message is counted.
//! `KUMOD_POWER_CUTS`: cuts at work for each layout of the spool (default 3; `make power`: 20). `KUMOD_POWER_SEED` replays
//! the choices of an earlier run. [`support::power`] says what such a cut is and isn't.
mod support;

#[path = "power/loss.rs"]
mod loss;
#[path = "power/shim.rs"]
mod shim;

use std::cell::RefCell;
use std::path::Path;
use support::choices::{self, Choices};
use support::lives::{Lives, rows};
use support::power::{Disk, Keep, Lost};
use support::verdict::{Evidence, Findings, judge};
use support::{Home, Kumod};

const DEFAULT_CUTS: u64 = 3;
/// So small that tables are written, merged and removed, and logs replaced, within each life.
const SMALL: &str = "rocks_params = { write_buffer_size = 65536 }";
/// What kumod may not say after a mere cut.
const DAMAGE: &str = "damaged";

#[test]
fn nothing_is_lost_in_a_power_cut_with_one_database() {
    nothing_is_lost(("disk/spool", "disk/spool"), &["spool", "logs"], 1);
}

#[test]
fn nothing_is_lost_in_a_power_cut_with_two_paths() {
    nothing_is_lost(("disk/data", "disk/meta"), &["data", "meta", "logs"], 2);
}

/// What a cut did, beside the life that it ended.
struct Cut {
    kept_some: bool,
    lost: Lost,
}

/// `folders`: those that an operator has made beforehand, as README tells to.
fn nothing_is_lost(spools: (&'static str, &'static str), folders: &[&str], stream: u64) {
    let seed = choices::seed("KUMOD_POWER_SEED");
    let count = choices::number("KUMOD_POWER_CUTS").unwrap_or(DEFAULT_CUTS) as usize;
    println!("replay: KUMOD_POWER_CUTS={count} KUMOD_POWER_SEED={seed} make power");
    let home = Home::with_logs("disk/logs");
    let disk = RefCell::new(Disk::new(&home, folders));
    let launch = |policy: &Path| Kumod::launch_in(policy, &disk.borrow().environment());
    let mut choices = Choices::new(seed, 100 + stream);
    let mut cuts = Vec::new();
    let mut lives = Lives::new(home, spools, seed);
    lives.kill(count, launch, |lives| {
        cuts.push(cut(&mut disk.borrow_mut(), &mut choices));
        lives.options = if choices.one_in(3) { "" } else { SMALL };
    });
    lives.drain(launch);

    let left_over = lives.left_over();
    let evidence = lives.evidence();
    let findings = judge(&evidence);
    print(&lives, &cuts, &evidence, &findings);
    assert!(findings.is_clean(), "seed {seed}: {findings:#?}");
    assert_eq!(unlogged_bounces(&lives, &evidence), Vec::<String>::new(), "seed {seed}");
    let said = lives.over.iter().flat_map(|life| &life.said);
    let alarms: Vec<&String> = said.filter(|line| line.contains(DAMAGE)).collect();
    assert!(alarms.is_empty(), "seed {seed}: a cut isn't damage: {alarms:#?}");
    assert_eq!(left_over, (0, 0), "envelopes and bodies in the spool after everything was settled");
}

fn cut(disk: &mut Disk, choices: &mut Choices) -> Cut {
    let kept_some = choices.one_in(2);
    let keep = if kept_some { Keep::Some(choices) } else { Keep::Nothing };
    Cut { kept_some, lost: disk.cut(keep) }
}

/// Recipients of accepted messages whom the peer refused for good, without a record that outlived the cuts: mail that
/// is gone and nobody says why.
fn unlogged_bounces(lives: &Lives, evidence: &Evidence) -> Vec<String> {
    let logged = lives.logged("Bounce");
    let logged = |recipient: &String| logged.iter().any(|(_, one)| one == recipient);
    evidence.refused.iter().filter(|recipient| !logged(recipient)).cloned().collect()
}

fn print(lives: &Lives, cuts: &[Cut], evidence: &Evidence, findings: &Findings) {
    println!(
        "{:>4} {:>9} {:<9} {:>5} {:>10} {:>5} {:>9} {:>9} {:>9}",
        "life", "ms", "", "dots", "deliveries", "kept", "log lost", "all lost", "changes"
    );
    for (number, life) in lives.over.iter().enumerate() {
        let (ms, how) = (life.lasted.as_millis(), format!("{:?}", life.how));
        print!("{number:>4} {ms:>9} {how:<9} {:>5} {:>10}", life.dots, life.deliveries);
        match cuts.get(number) {
            Some(Cut { kept_some, lost }) => {
                let (log, all) = (lost.octets_of(".log"), lost.octets_of(""));
                let kept = if *kept_some { "some" } else { "none" };
                println!(" {kept:>5} {log:>9} {all:>9} {:>9}", lost.changes);
            }
            None => println!(),
        }
    }
    for (what, count) in rows(evidence, findings) {
        println!("{what:<32} {count:>7}");
    }
    println!(
        "latest kill that made a duplicate: {:?} after the peer's 250",
        findings.latest_excuse
    );
}

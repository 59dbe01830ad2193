//! A spool that goes bad between two lives of kumod: what it says and does at the start. Damage under a running one is
//! `corrupt`'s.
use super::ask::quarantine;
use super::mail::{
    DELIVERY, NOWHERE, SMALL_BUFFERS, fill_spool, missing, note, nothing_is_bounced, policy,
    send_until_accepted,
};
use super::support::damage::{
    Table, cut_table, delete_table, flip_log, flip_manifest, flip_table, lengthen_manifest,
};
use super::support::folders::ReadOnly;
use super::support::lives::{DRAIN, QUIET};
use super::support::{Home, Kumod, PATIENCE, Sink, refuses_to_start, wait_for};
use super::times::LATCHED;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What was opened damaged begins with a shut gate.
const SOON_OPEN: &str = "rocks_params = { error_unlatch_duration = '2s' }";
const FAMILIES: [&str; 2] = ["data", "meta"];
/// Messages in a spool that is going to be damaged.
const STORED: usize = 100;

#[test]
fn a_spool_that_has_become_read_only_is_one_clear_line_and_exit_code_1() {
    let home = Home::new();
    let accepted = fill_spool(&home, "", 3, 100);
    let read_only = ReadOnly::over(&home.path("spool"));
    let said = refuses_to_start(&policy(&home, "", NOWHERE));
    drop(read_only);
    let [line] = &said[..] else { panic!("not one line: {said:#?}") };
    assert!(line.contains(&home.path("spool").display().to_string()), "{line}");
    assert!(line.contains("Read-only file system"), "{line}");

    let sink = Sink::start(());
    let kumod = Kumod::start(&policy(&home, "", &sink.as_mx()));
    wait_for("all deliveries", PATIENCE, || missing(&accepted, &sink).is_empty().then_some(()));
    kumod.stop();
}

#[test]
fn octets_flipped_in_a_table_cost_only_what_is_named() {
    in_each_family(|database, family| flip_table(database, Table::Of(family)));
}

#[test]
fn a_table_that_was_cut_costs_only_what_is_named() {
    in_each_family(|database, family| cut_table(database, Table::Of(family)));
}

#[test]
fn a_table_that_is_gone_costs_only_what_is_named() {
    in_each_family(|database, family| delete_table(database, Table::Of(family)));
}

/// At the same time, for what a shut gate has held up may wait for a minute.
fn in_each_family(damage: impl Fn(&Path, &'static str) -> PathBuf + Copy + Send) {
    std::thread::scope(|scope| {
        for family in FAMILIES {
            scope.spawn(move || costs_only_what_is_named(|database| damage(database, family)));
        }
    });
}

/// Between two lives. The other messages arrive, as does a new one.
fn costs_only_what_is_named(damage: impl Fn(&Path) -> PathBuf) {
    let (home, sink) = (Home::new(), Sink::start(()));
    let mut accepted = fill_spool(&home, SMALL_BUFFERS, STORED, 4000);
    let damaged = damage(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    note(&mut accepted, STORED, &send_until_accepted(kumod.address(), STORED, 4000));
    let missing = wait_for("each message to arrive or to be in quarantine", DELIVERY, || {
        let missing: BTreeSet<String> = missing(&accepted, &sink).into_iter().collect();
        let listed = quarantine(&kumod).into_iter().map(|(id, _)| id).collect();
        (missing == listed).then_some(missing)
    });
    let shut = kumod.said_with(LATCHED);
    assert!(shut.len() <= 1, "{damaged:?} shut the gate again: {shut:#?}");
    println!("{damaged:?}: {} of {} are missing", missing.len(), accepted.len());
    assert!(!missing.is_empty(), "{damaged:?} was damaged, and nothing is missing");
    assert!(missing.len() < STORED, "{damaged:?} was damaged, and nothing of the rest arrived");
    assert!(missing.iter().all(|id| accepted[id] != STORED), "the new message is missing");
    kumod.stop();
    nothing_is_bounced(&home);
}

#[test]
fn octets_flipped_in_the_log_cost_only_what_is_owned_up_to() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let accepted = fill_spool(&home, SOON_OPEN, STORED, 4000);
    let damaged = flip_log(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, SOON_OPEN, &sink.as_mx()));
    let said = kumod.said().join("\n");
    assert!(said.contains(&damaged.display().to_string()), "{damaged:?} isn't named: {said}");
    assert!(said.contains("Messages accepted shortly before the last stop may be lost"), "{said}");
    sink.rest(QUIET, DRAIN);
    kumod.stop();
    let missing = missing(&accepted, &sink);
    println!("{} of {} are missing", missing.len(), accepted.len());
    assert!((1..STORED / 2).contains(&missing.len()), "{missing:?}");
    let copy = home.path("spool/damaged-1").join(damaged.file_name().unwrap());
    assert!(copy.is_file(), "there is no {copy:?}");
    nothing_is_bounced(&home);
}

#[test]
fn octets_flipped_in_the_manifest_cost_nothing_and_are_owned_up_to() {
    costs_nothing_and_is_owned_up_to(flip_manifest);
}

/// RocksDB by itself takes the damage for the torn end of an older state, and then removes the tables which that doesn't
/// know.
#[test]
fn a_manifest_whose_middle_looks_like_its_end_costs_nothing_and_is_owned_up_to() {
    costs_nothing_and_is_owned_up_to(lengthen_manifest);
}

/// Damage to the MANIFEST: a new one is made of what is there, and every table is kept besides.
fn costs_nothing_and_is_owned_up_to(damage: impl Fn(&Path) -> PathBuf) {
    let (home, sink) = (Home::new(), Sink::start(()));
    let accepted = fill_spool(&home, SMALL_BUFFERS, 3 * STORED, 4000);
    let tables = tables(&home.path("spool"));
    assert!(tables.len() > 2, "{tables:?}");
    let damaged = damage(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    let said = kumod.said().join("\n");
    assert!(said.contains(&damaged.display().to_string()), "{damaged:?} isn't named: {said}");
    let kept = home.path("spool/damaged-1");
    assert!(said.contains(&kept.display().to_string()), "{kept:?} isn't named: {said}");
    for file in tables.iter().map(OsString::as_os_str).chain(damaged.file_name()) {
        assert!(kept.join(file).is_file(), "{file:?} isn't in {kept:?}");
    }
    wait_for("all deliveries", DELIVERY, || missing(&accepted, &sink).is_empty().then_some(()));
    kumod.stop();
    nothing_is_bounced(&home);
}

/// Their names.
fn tables(database: &Path) -> Vec<OsString> {
    let entries = std::fs::read_dir(database).expect("a database is a folder").flatten();
    let names = entries.map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".sst")).collect()
}

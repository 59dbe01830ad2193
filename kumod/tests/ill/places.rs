//! One of several places goes bad: a file system's inodes instead of its octets, the folder of the logs, one of two spools; and a gate that only
//! a restart opens. What the places have in common is tested with one of them, in `full` and `outside`.
use super::ask::kcli_json;
use super::clients::{Banners, Clients};
use super::mail::{
    Accepted, NOWHERE, SMALL_BUFFERS, UNGUARDED, is_as_told, note, nothing_is_bounced, policy,
    policy_of, send, send_until_accepted, wait_for_all,
};
use super::support::folders::Small;
use super::support::{Client, Home, Kumod, PATIENCE, Sink, wait_for};
use super::times::{self, NOT_ACCEPTING};
use serde_json::Value;
use std::time::{Duration, Instant};

const TOO_FULL: &str = "disk is too full. Try later";

#[test]
fn the_guard_counts_inodes_as_well() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("spool"), "16m,nr_inodes=400");
    let guarded = "min_free_space = 0, min_free_inodes = '25%'";
    let kumod = Kumod::start(&policy(&home, guarded, &sink.as_mx()));
    let banners = Banners::watch(kumod.address());
    let mut accepted = Accepted::new();
    note(&mut accepted, 0, &send_until_accepted(kumod.address(), 0, 100));
    let filled = Instant::now();
    let crowd = small.crowd(330);
    let (_, banner) = banners.first(421, filled);
    assert!(banner.text.contains(TOO_FULL), "{banner:?}");
    assert!(rooms(&kumod).iter().any(|free| *free < 100));
    let mended = Instant::now();
    drop(crowd);
    let (opened, _) = banners.first(220, mended);
    times::opens("inodes", mended, opened);
    note(&mut accepted, 1, &send_until_accepted(kumod.address(), 1, 100));
    wait_for_all(&accepted, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

/// Inodes that are free where a store lies.
fn rooms(kumod: &Kumod) -> Vec<u64> {
    let health = kcli_json(kumod, &["spool-health", "--json"]);
    let stores = health["stores"].as_array().expect("a list");
    stores.iter().map(|store| store["free_inodes"].as_u64().expect("a number")).collect()
}

/// What can't be logged isn't accepted.
#[test]
fn logs_without_room_take_no_mail_either() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("logs"), "16m");
    let kumod = Kumod::start(&policy(&home, UNGUARDED, &sink.as_mx()));
    let banners = Banners::watch(kumod.address());
    let mut accepted = Accepted::new();
    note(&mut accepted, 0, &send_until_accepted(kumod.address(), 0, 100));
    let filled = Instant::now();
    let ballast = small.fill_but(500_000);
    let (_, banner) = banners.first(421, filled);
    assert!(banner.text.contains(TOO_FULL), "{banner:?}");
    let full = |kumod: &Kumod| {
        let health = kcli_json(kumod, &["spool-health", "--json"]);
        assert_eq!(health["stores"][0]["accepts_writes"], true, "{health}");
        health["logs"][0]["is_full"] == Value::Bool(true)
    };
    assert!(full(&kumod));
    let mended = Instant::now();
    drop(ballast);
    let (opened, _) = banners.first(220, mended);
    times::opens("logs", mended, opened);
    assert!(!full(&kumod));
    note(&mut accepted, 1, &send_until_accepted(kumod.address(), 1, 100));
    wait_for_all(&accepted, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

#[test]
fn of_two_spools_the_one_that_is_full_is_named_and_stops_all_mail() {
    let _alone = times::alone();
    for ill in ["data", "meta"] {
        let (home, sink) = (Home::new(), Sink::start(()));
        let small = Small::over(&home.path(ill), "16m");
        let kumod = Kumod::start(&policy_of(&home, ("data", "meta"), UNGUARDED, &sink.as_mx(), ""));
        let banners = Banners::watch(kumod.address());
        let clients = Clients::start(kumod.address(), 0, 4000);
        clients.wait_for_accepted(100);
        let filling = Instant::now();
        let ballast = small.fill();
        let (shut, banner) = banners.first(421, filling);
        assert!(banner.text.contains(NOT_ACCEPTING), "{banner:?}");
        let case = format!("{ill} of two");
        times::shuts(&case, times::first_failure(&kumod, Some(&clients)), shut);
        let health = kcli_json(&kumod, &["spool-health", "--json"]);
        for store in health["stores"].as_array().expect("a list") {
            let is_ill = store["holds"][0] == ill;
            assert_eq!(store["accepts_writes"], !is_ill, "{ill}: {health}");
        }
        let mended = Instant::now();
        drop(ballast);
        let (opened, _) = banners.first(220, mended);
        times::opens(&case, mended, opened);
        clients.wait_for_accepted(50);
        is_as_told(&clients.stop(), &sink);
        kumod.stop();
        nothing_is_bounced(&home);
    }
}

#[test]
fn a_gate_without_leave_to_open_waits_for_a_restart_and_says_so() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("spool"), "16m");
    let stays =
        "min_free_space = 0, min_free_inodes = 0, rocks_params = { write_buffer_size = 65536,
                 error_unlatch_duration = '1s', allow_error_unlatch = false }";
    let kumod = Kumod::start(&policy(&home, stays, NOWHERE));
    let banners = Banners::watch(kumod.address());
    let clients = Clients::start(kumod.address(), 0, 4000);
    clients.wait_for_accepted(20);
    let filling = Instant::now();
    let ballast = small.fill();
    banners.first(421, filling);
    let told = clients.stop();
    drop(ballast);
    times::stays(&banners, 421, Duration::from_secs(5));
    let health = kcli_json(&kumod, &["spool-health", "--json"]);
    let why = health["stores"][0]["why"].as_str().expect("a reason");
    assert!(why.ends_with("allow_error_unlatch is false: restart kumod"), "{why}");
    kumod.stop();

    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    let reply = wait_for("a greeting", PATIENCE, || {
        send(&mut Client::greet(kumod.address()).ok()?, 1_000_000, 100).ok()
    });
    assert_eq!(reply.code, 250, "{reply:?}");
    wait_for_all(&told.accepted, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

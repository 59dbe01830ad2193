//! A spool whose file system fills up under load, with and without the guard against that: mail is refused for now, and
//! taken again once there is room, without a restart. What else the outside sees meanwhile is `outside`'s.
use super::ask::{INJECTION, http};
use super::clients::{Banners, Clients, Told};
use super::mail::{
    NOWHERE, SMALL_BUFFERS, UNGUARDED, is_as_told, nothing_is_bounced, policy, wait_for_all,
};
use super::support::folders::Small;
use super::support::{Home, Kumod, Sink};
use super::times::{self, NOT_ACCEPTING};
use std::time::{Duration, Instant};

const SIZE: &str = "16m";
const TOO_FULL: &str = "disk is too full. Try later";
/// The guard looks every five seconds.
const GUARD_SEES_WITHIN: Duration = Duration::from_secs(7);

#[test]
fn a_full_disk_without_a_guard_shuts_the_gate_and_room_opens_it() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("spool"), SIZE);
    let kumod = Kumod::start(&policy(&home, UNGUARDED, &sink.as_mx()));
    let banners = Banners::watch(kumod.address());
    let clients = Clients::start(kumod.address(), 0, 4000);
    clients.wait_for_accepted(300);
    let filling = Instant::now();
    let ballast = small.fill();
    let (shut, banner) = banners.first(421, filling);
    assert!(banner.text.contains(NOT_ACCEPTING), "{banner:?}");
    times::shuts("ENOSPC", times::first_failure(&kumod, Some(&clients)), shut);
    times::stays(&banners, 421, Duration::from_secs(3));
    assert!(!kumod.said_with("No space left").is_empty(), "{:?}", kumod.said());

    let mended = Instant::now();
    drop(ballast);
    let (opened, _) = banners.first(220, mended);
    times::opens("ENOSPC", mended, opened);
    clients.wait_for_accepted(50);
    ends_well("ENOSPC", &clients.stop(), &sink, kumod, &home);
}

#[test]
fn the_guard_refuses_before_the_disk_is_full() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("spool"), SIZE);
    let guarded = "min_free_space = 4000000, min_free_inodes = 0, rocks_params = { write_buffer_size = 65536 }";
    let kumod = Kumod::start(&policy(&home, guarded, &sink.as_mx()));
    let banners = Banners::watch(kumod.address());
    let clients = Clients::start(kumod.address(), 0, 100);
    clients.wait_for_accepted(50);
    let filled = Instant::now();
    let ballast = small.fill_but(3_500_000);
    let (shut, banner) = banners.first(421, filled);
    assert!(banner.text.contains(TOO_FULL), "{banner:?}");
    times::within(
        "guard",
        "from too little room to the first 421",
        filled,
        shut,
        GUARD_SEES_WITHIN,
    );
    times::stays(&banners, 421, Duration::from_secs(3));
    let liveness = http(&kumod, "GET", "/api/check-liveness/v1", "");
    assert_eq!(liveness, (503, "storage is too full".into()));
    let injected = http(&kumod, "POST", "/api/inject/v1", INJECTION);
    assert_eq!(injected, (503, "Error: disk is too full".into()));

    let mended = Instant::now();
    drop(ballast);
    let (opened, _) = banners.first(220, mended);
    times::opens("guard", mended, opened);
    clients.wait_for_accepted(50);
    let told = clients.stop();
    let others = told.refused.iter().find(|refusal| !refusal.text.contains(TOO_FULL));
    assert!(others.is_none(), "{:?}", others.map(|refusal| &refusal.text));
    assert_eq!(kumod.said_with("No space left"), Vec::<String>::new());
    assert_eq!(kumod.said_with(times::LATCHED), Vec::<String>::new());
    ends_well("guard", &told, &sink, kumod, &home);
}

fn ends_well(case: &str, told: &Told, sink: &Sink, kumod: Kumod, home: &Home) {
    eprintln!("{case}: {} accepted, {} refused", told.accepted.len(), told.refused.len());
    let began = Instant::now();
    is_as_told(told, sink);
    eprintln!("{case}: all delivered after {:.3} s", began.elapsed().as_secs_f64());
    kumod.stop();
    nothing_is_bounced(home);
}

/// With a stop while what it holds can't be delivered.
#[test]
fn what_a_full_disk_had_accepted_is_delivered_by_the_next_life() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("spool"), SIZE);
    let kumod = Kumod::start(&policy(&home, UNGUARDED, NOWHERE));
    let clients = Clients::start(kumod.address(), 0, 4000);
    clients.wait_for_accepted(50);
    let ballast = small.fill();
    clients.wait_for("refusals of a full disk", 50, |told| told.refused.len());
    let told = clients.stop();
    kumod.stop();
    drop(ballast);

    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    let sunk = |subject: usize| {
        let subject = Some(subject.to_string());
        sink.with_sunk(|sunk| sunk.iter().any(|sunk| sunk.header("Subject") == subject))
    };
    wait_for_all(&told.accepted, &sink);
    // Not a fault: what the disk took in part may come back with the restart.
    let unasked = told.refused.iter().filter(|refusal| sunk(refusal.subject)).count();
    eprintln!("{unasked} of {} refused arrived", told.refused.len());
    told.nothing_is_refused_for_good();
    kumod.stop();
    nothing_is_bounced(&home);
}

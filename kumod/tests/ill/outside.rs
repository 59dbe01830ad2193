//! A shut gate as everybody outside sees it: clients with open sessions, HTTP clients, monitors, operators, the peer.
use super::ask::{INJECTION, http, kcli_json};
use super::clients::{Banners, Clients};
use super::mail::{
    Accepted, UNGUARDED, missing, nothing_is_bounced, policy, policy_of_path, send, wait_for_all,
};
use super::support::folders::Small;
use super::support::{Behaviour, Client, Home, Kumod, Sink, Sunk, Verdict};
use super::times::{self, NOT_ACCEPTING};
use std::time::{Duration, Instant};

const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// So slow that much waits behind it.
struct Slow;

impl Behaviour for Slow {
    fn final_dot(&self, _: &Sunk, _: usize) -> (Duration, Verdict) {
        (Duration::from_millis(300), Verdict::Taken)
    }
}

#[test]
fn everybody_is_told_of_a_shut_gate_and_a_stop_is_quick() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(Slow));
    let small = Small::over(&home.path("spool"), "16m");
    let slowly = policy_of_path(&home, UNGUARDED, &sink.as_mx(), "connection_limit = 1");
    let mut kumod = Kumod::start(&slowly);
    assert_eq!(http(&kumod, "GET", "/api/check-liveness/v1", ""), (200, "OK".into()));
    assert_eq!(load_shed(&kumod), "0");
    let mut open = Client::greet(kumod.address()).unwrap();
    let banners = Banners::watch(kumod.address());
    let clients = Clients::start(kumod.address(), 0, 4000);
    clients.wait_for_accepted(50);
    let filling = Instant::now();
    let ballast = small.fill();
    let (shut, _) = banners.first(421, filling);
    times::shuts("outside", times::first_failure(&kumod, Some(&clients)), shut);
    let told = clients.stop();

    let reply = send(&mut open, usize::MAX, 1000).unwrap();
    assert!(reply.code == 421 && reply.text.contains(NOT_ACCEPTING), "{reply:?}");
    assert!(reply.text.starts_with("421 4.3.2 "), "{reply:?}");
    assert!(open.is_closed());
    let text = "the spool is not accepting writes";
    assert_eq!(http(&kumod, "GET", "/api/check-liveness/v1", ""), (503, text.into()));
    let injected = http(&kumod, "POST", "/api/inject/v1", INJECTION);
    assert_eq!(injected, (503, format!("Error: {text}")));
    assert_eq!(load_shed(&kumod), "1");
    let health = kcli_json(&kumod, &["spool-health", "--json"]);
    let store = &health["stores"][0];
    assert_eq!(store["accepts_writes"], false, "{health}");
    let why = store["why"].as_str().expect("a reason");
    assert!(why.contains("No space left on device") && why.contains("room"), "{why}");
    nothing_is_delivered(&told.accepted, &sink);

    let stopping = Instant::now();
    kumod.terminate();
    let status = kumod.wait(STOPS_WITHIN * 2);
    times::within("outside", "to stop while it is shut", stopping, Instant::now(), STOPS_WITHIN);
    assert!(status.success(), "{status}: {:?}", kumod.said());
    drop(ballast);
    told.nothing_is_refused_for_good();
    let kumod = Kumod::start(&policy(&home, UNGUARDED, &sink.as_mx()));
    wait_for_all(&told.accepted, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

/// After what was under way is over.
fn nothing_is_delivered(accepted: &Accepted, sink: &Sink) {
    std::thread::sleep(Duration::from_secs(1));
    assert!(!missing(accepted, sink).is_empty(), "there is nothing to be delivered");
    let before = sink.activity();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sink.activity(), before, "delivery goes on");
}

/// The metric of the only store there is.
fn load_shed(kumod: &Kumod) -> String {
    let (status, metrics) = http(kumod, "GET", "/metrics?prefix=rocks_spool_load_shed", "");
    assert_eq!(status, 200);
    let mut values =
        metrics.lines().filter(|line| line.starts_with("rocks_spool_load_shed_active{"));
    let value = values.next().unwrap_or_else(|| panic!("{metrics}"));
    assert!(values.next().is_none(), "{metrics}");
    value.rsplit(' ').next().expect("a value").to_owned()
}

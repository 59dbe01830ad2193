//! A database that can't keep up for a while: it asks writers for patience. Clients wait, or hear 451 4.4.5; the gate isn't
//! for that, unless it lasts.
use super::clients::{Banners, Clients};
use super::mail::{is_as_told, nothing_is_bounced, policy};
use super::support::{Home, Kumod, PATIENCE, Sink, wait_for};
use super::times;
use std::fs;
use std::time::{Duration, Instant};

/// Write buffers of the smallest size there is, and few tables before writes stop.
const TINY: &str = "rocks_params = {
    write_buffer_size = 65536, level0_stop_writes_trigger = 4, store_deadline = '50ms', log_level = 'Info',
}";
/// Well below error_latch_duration.
const LOAD: Duration = Duration::from_secs(8);

#[test]
fn stalls_delay_and_lose_nothing_and_do_not_shut_the_gate() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let kumod = Kumod::start(&policy(&home, TINY, &sink.as_mx()));
    let banners = Banners::watch(kumod.address());
    let began = Instant::now();
    let clients = Clients::start(kumod.address(), 0, 60_000);
    let log = home.path("spool/LOG");
    let stalls = || {
        let said = fs::read_to_string(&log).expect("RocksDB keeps a LOG");
        said.matches("Stopping writes").count() + said.matches("Stalling writes").count()
    };
    let count = wait_for("a stall", PATIENCE, || Some(stalls()).filter(|count| *count > 0));
    std::thread::sleep(LOAD.saturating_sub(began.elapsed()));
    let (told, count) = (clients.stop(), stalls().max(count));
    let (accepted, refused) = (told.accepted.len(), told.refused.len());
    eprintln!("stalls: {count} in RocksDB's words, {accepted} accepted, {refused} refused");
    let other = told.refused.iter().find(|refusal| !refusal.text.starts_with("451 4.4.5 "));
    assert!(other.is_none(), "{:?}", other.map(|refusal| &refusal.text));
    let shut = banners.since(began).into_iter().find(|(_, banner)| banner.code != 220);
    assert!(shut.is_none(), "{shut:?}");
    assert_eq!(kumod.said_with("gate latched"), Vec::<String>::new());
    is_as_told(&told, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

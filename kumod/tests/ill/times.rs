//! How fast the gate shuts and opens: printed, and held against what is promised. Tests that measure run one at a time, so
//! that they don't measure each other; other load on the machine can still break a bound.
use super::clients::{Banners, Clients};
use super::support::Kumod;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// From the first failure to the first banner with 421.
pub const SHUTS_WITHIN: Duration = Duration::from_secs(1);
/// From the mending to the first banner with 220.
pub const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// What the gate says when it shuts at once.
pub const LATCHED: &str = "load-shedding gate latched immediately";
/// How clients are told.
pub const NOT_ACCEPTING: &str = "the spool is not accepting writes. Try later";

static MEASURING: Mutex<()> = Mutex::new(());

/// Until the value is dropped.
pub fn alone() -> MutexGuard<'static, ()> {
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came first of the gate's notice and a client's refused message.
pub fn first_failure(kumod: &Kumod, clients: Option<&Clients>) -> Instant {
    let told = clients.and_then(Clients::first_failed_store);
    let said = kumod.said_at(LATCHED);
    said.into_iter().chain(told).min().expect("a failure that was told or said")
}

pub fn shuts(case: &str, failed: Instant, banner: Instant) {
    within(case, "from the first failure to the first 421", failed, banner, SHUTS_WITHIN);
}

pub fn opens(case: &str, mended: Instant, banner: Instant) {
    within(case, "from the mending to the first 220", mended, banner, OPENS_WITHIN);
}

/// Where nothing is mended: the damage stays.
pub fn opens_by_itself(case: &str, shut: Instant, banner: Instant) {
    within(case, "from the first 421 to the first 220", shut, banner, OPENS_WITHIN);
}

pub fn within(case: &str, what: &str, from: Instant, to: Instant, bound: Duration) {
    let took = to.saturating_duration_since(from);
    eprintln!("{case}: {:.3} s {what}", took.as_secs_f64());
    assert!(took <= bound, "{case}: {took:?} {what}, not within {bound:?}; is the machine busy?");
}

/// The banners of a while, all of one kind.
pub fn stays(banners: &Banners, code: u16, time: Duration) {
    let since = Instant::now();
    std::thread::sleep(time);
    let seen = banners.since(since);
    assert!(!seen.is_empty(), "nobody saw a banner for {time:?}");
    let others: Vec<_> = seen.iter().filter(|(_, banner)| banner.code != code).collect();
    assert!(others.is_empty(), "{} of {} banners: {:?}", others.len(), seen.len(), others[0]);
}

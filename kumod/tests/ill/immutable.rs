//! A folder whose entries can't be changed for a while: open files can still be written to, new ones can't be made.
use super::clients::{Banners, Clients};
use super::mail::{SMALL_BUFFERS, is_as_told, nothing_is_bounced, policy};
use super::support::folders::{Immutable, folder_for_immutable};
use super::support::{Home, Kumod, Sink};
use super::times::{self, NOT_ACCEPTING};
use std::time::{Duration, Instant};

#[test]
fn a_folder_that_takes_no_new_files_shuts_the_gate_until_it_does_again() {
    let _alone = times::alone();
    let (home, sink) = (Home::over(folder_for_immutable()), Sink::start(()));
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    let banners = Banners::watch(kumod.address());
    let clients = Clients::start(kumod.address(), 0, 4000);
    clients.wait_for_accepted(50);
    let began = Instant::now();
    let immutable = Immutable::make(&home.path("spool"));
    let (shut, banner) = banners.first(421, began);
    assert!(banner.text.contains(NOT_ACCEPTING), "{banner:?}");
    times::shuts("chattr +i", times::first_failure(&kumod, Some(&clients)), shut);
    // Longer than it takes to try to open it, and to open it again.
    times::stays(&banners, 421, Duration::from_secs(6));

    let mended = Instant::now();
    drop(immutable);
    let (opened, _) = banners.first(220, mended);
    times::opens("chattr +i", mended, opened);
    clients.wait_for_accepted(50);
    let told = clients.stop();
    eprintln!("chattr +i: {} accepted, {} refused", told.accepted.len(), told.refused.len());
    is_as_told(&told, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

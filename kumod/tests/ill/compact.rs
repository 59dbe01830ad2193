//! `kcli spool-compact` as an operator uses it, while mail comes and goes.
use super::ask::kcli;
use super::clients::{Banners, Clients};
use super::mail::{SMALL_BUFFERS, is_as_told, nothing_is_bounced, policy};
use super::support::{Home, Kumod, Sink};
use super::times;
use std::time::Instant;

#[test]
fn compaction_works_under_load_and_knows_its_names() {
    let _alone = times::alone();
    let (home, sink) = (Home::new(), Sink::start(()));
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    let (banners, began) = (Banners::watch(kumod.address()), Instant::now());
    let clients = Clients::start(kumod.address(), 0, 4000);
    for name in ["data", "meta", "data"] {
        clients.wait_for_accepted(50);
        let (began, said) = (Instant::now(), kcli(&kumod, &["spool-compact", "--name", name]));
        eprintln!("compaction of {name} under load: {:.3} s", began.elapsed().as_secs_f64());
        assert_eq!(said.well(), "");
    }
    clients.wait_for_accepted(50);
    let unknown = kcli(&kumod, &["spool-compact", "--name", "x"]);
    assert_eq!((unknown.code, &*unknown.out), (Some(1), ""));
    assert!(unknown.err.contains("no spool named 'x' has been defined"), "{unknown:?}");
    assert_eq!(kcli(&kumod, &["spool-compact"]).code, Some(2), "it wants a name");

    let told = clients.stop();
    assert_eq!(told.refused.len(), 0, "{:?}", told.refused.first().map(|refusal| &refusal.text));
    assert!(banners.since(began).iter().all(|(_, banner)| banner.code == 220));
    is_as_told(&told, &sink);
    kumod.stop();
    nothing_is_bounced(&home);
}

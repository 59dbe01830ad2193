//! Tables that are damaged under a running kumod. Reading the damage shuts the gate; it opens by itself and stays open; only
//! what lies in the damage isn't delivered, and that is named, can be exported, and dropped.
use super::ask::{kcli, kcli_json, quarantine};
use super::clients::{Banners, Clients};
use super::mail::{
    Accepted, SMALL_BUFFERS, fill_spool, missing, nothing_is_bounced, policy_of_path, wait_for_all,
};
use super::support::damage::{Table, flip_table};
use super::support::{Behaviour, Home, Kumod, PATIENCE, Sink, wait_for};
use super::times::{self, LATCHED, NOT_ACCEPTING};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STORED: usize = 200;
/// Subjects of new mail.
const NEW: usize = 1_000_000;

/// Takes mail once it is let go; until then it doesn't answer to RCPT.
#[derive(Clone, Default)]
struct Held(Arc<AtomicBool>);

impl Held {
    fn let_go(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Behaviour for Held {
    fn recipient(&self, _: &str) -> &'static str {
        let until = Instant::now() + PATIENCE;
        while !self.0.load(Ordering::SeqCst) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        "250 2.1.5 ok"
    }
}

/// A kumod whose mail lies in tables, and hasn't been read since it was started.
struct Bench {
    home: Home,
    sink: Sink,
    peer: Held,
    kumod: Kumod,
    accepted: Accepted,
}

impl Bench {
    fn new() -> Bench {
        let (home, peer) = (Home::new(), Held::default());
        let sink = Sink::start(peer.clone());
        let accepted = fill_spool(&home, SMALL_BUFFERS, STORED, 4000);
        // What one connection has read doesn't matter, and there is no other.
        let policy = policy_of_path(&home, SMALL_BUFFERS, &sink.as_mx(), "connection_limit = 1");
        let kumod = Kumod::start(&policy);
        wait_for("the first delivery", PATIENCE, || (sink.in_flight() == 1).then_some(()));
        for name in ["data", "meta"] {
            kcli(&kumod, &["spool-compact", "--name", name]).well();
        }
        Bench { home, sink, peer, kumod, accepted }
    }

    fn damage(&self, family: &'static str) -> PathBuf {
        flip_table(&self.home.path("spool"), Table::Of(family))
    }

    /// The damaged messages, once all others have arrived.
    fn named(&self) -> BTreeSet<String> {
        wait_for("each message to arrive or to be listed", PATIENCE * 2, || {
            let missing: BTreeSet<String> =
                missing(&self.accepted, &self.sink).into_iter().collect();
            let listed = quarantine(&self.kumod).into_iter().map(|(id, _)| id).collect();
            (missing.len() < STORED && missing == listed).then_some(missing)
        })
    }

    /// Each notice of the gate is about damage of its own.
    fn never_twice_for_the_same(&self) {
        let notices = self.kumod.said_with(LATCHED);
        let about = |line: &String| line.split("Underlying error: ").nth(1).unwrap().to_owned();
        let distinct: BTreeSet<String> = notices.iter().map(about).collect();
        assert_eq!(distinct.len(), notices.len(), "{notices:#?}");
    }
}

#[test]
fn damaged_bodies_shut_the_gate_once_and_are_listed_exported_and_dropped() {
    shuts_once_and_is_named("data");
}

#[test]
fn damaged_envelopes_shut_the_gate_once_and_are_listed_exported_and_dropped() {
    shuts_once_and_is_named("meta");
}

fn shuts_once_and_is_named(family: &'static str) {
    let _alone = times::alone();
    let case = format!("damaged {family}");
    let bench = Bench::new();
    let table = bench.damage(family);
    let banners = Banners::watch(bench.kumod.address());
    times::stays(&banners, 220, Duration::from_secs(1));
    bench.peer.let_go();
    let (shut, banner) = banners.first(421, Instant::now());
    assert!(banner.text.contains(NOT_ACCEPTING), "{banner:?}");
    times::shuts(&case, times::first_failure(&bench.kumod, None), shut);
    let (opened, _) = banners.first(220, shut);
    times::opens(&format!("{case} (nothing is mended: the latch counts)"), shut, opened);

    let clients = Clients::start(bench.kumod.address(), NEW, 4000);
    let named = bench.named();
    eprintln!("{case}: {} of {STORED} are in {table:?}'s damage", named.len());
    assert!(!named.is_empty() && named.len() < STORED / 2, "{named:?}");
    let settled = Instant::now();
    times::stays(&banners, 220, Duration::from_secs(5));
    bench.never_twice_for_the_same();
    clients.wait_for_accepted(10);
    let told = clients.stop();
    told.none_for_good();
    let refused = told.refused.iter().filter(|refusal| refusal.at > settled).count();
    assert_eq!(refused, 0);
    wait_for_all(&told.accepted, &bench.sink);

    for id in &named {
        is_exported_and_dropped(&bench.kumod, family, id, &table);
    }
    assert_eq!(quarantine(&bench.kumod), []);
    let Bench { home, kumod, .. } = bench;
    kumod.stop();
    nothing_is_bounced(&home);
}

fn is_exported_and_dropped(kumod: &Kumod, family: &str, id: &str, table: &PathBuf) {
    let listed = quarantine(kumod).into_iter().find(|(listed, _)| listed == id);
    let (_, why) = listed.unwrap_or_else(|| panic!("{id} isn't listed"));
    assert!(why.contains(&table.display().to_string()), "{why}");
    let exported = kcli_json(kumod, &["spool-export-quarantine", id]);
    let (ill, well) = if family == "data" { ("data", "meta") } else { ("meta", "data") };
    assert!(exported[well].is_string(), "{exported}");
    assert!(exported[format!("{ill}_error")].as_str().is_some(), "{exported}");

    let refused = kcli(kumod, &["spool-drop-quarantine", id]);
    if refused.code == Some(1) {
        assert!(refused.err.contains("it is still queued"), "{refused:?}");
        let bounce = ["bounce", "--domain", "sink.example", "--reason", "it is damaged"];
        kcli(kumod, &bounce).well();
    }
    wait_for("it to be dropped", PATIENCE, || {
        let dropped = kcli(kumod, &["spool-drop-quarantine", id]);
        let is_gone = dropped.code == Some(0) || dropped.err.contains("isn't in quarantine");
        is_gone.then_some(())
    });
}

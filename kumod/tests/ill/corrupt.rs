//! Tables that are damaged under a running kumod. Reading the damage shuts the gate; it opens by itself and stays open; only
//! what lies in the damage isn't delivered, and that is named, can be exported, and dropped.
use super::ask::{kcli, kcli_json, quarantine};
use super::clients::{Banners, Clients};
use super::mail::{
    Accepted, DELIVERY, SMALL_BUFFERS, fill_spool, is_as_told, missing, note, nothing_is_bounced,
    policy_of_path, send, wait_for_all,
};
use super::support::damage::{Table, cut_table, flip_table};
use super::support::{Behaviour, Client, Home, Kumod, PATIENCE, Sink, wait_for};
use super::times::{self, LATCHED, NOT_ACCEPTING};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
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

/// Says which file it has damaged.
type Damage = fn(&Path, Table) -> PathBuf;

/// A kumod whose mail lies in tables, and hasn't been read since it was started.
struct Bench {
    home: Home,
    sink: Sink,
    peer: Held,
    kumod: Kumod,
    accepted: Accepted,
}

impl Bench {
    /// What so many connections have read doesn't matter, and there are no others.
    fn new(connections: usize) -> Bench {
        let (home, peer) = (Home::new(), Held::default());
        let sink = Sink::start(peer.clone());
        let accepted = fill_spool(&home, SMALL_BUFFERS, STORED, 4000);
        let limit = format!("connection_limit = {connections}");
        let policy = policy_of_path(&home, SMALL_BUFFERS, &sink.as_mx(), &limit);
        let kumod = Kumod::start(&policy);
        wait_for("the first deliveries", PATIENCE, || {
            (sink.in_flight() == connections).then_some(())
        });
        for name in ["data", "meta"] {
            kcli(&kumod, &["spool-compact", "--name", name]).well();
        }
        Bench { home, sink, peer, kumod, accepted }
    }

    fn damage(&self, family: &'static str) -> PathBuf {
        self.damage_by(flip_table, family)
    }

    fn damage_by(&self, damage: Damage, family: &'static str) -> PathBuf {
        damage(&self.home.path("spool"), Table::Of(family))
    }

    /// The damaged messages, once all others have arrived.
    fn named(&self) -> BTreeSet<String> {
        wait_for("each message to arrive or to be listed", DELIVERY, || {
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
    shuts_once_and_is_named(flip_table, "data", usize::MAX);
}

#[test]
fn damaged_envelopes_shut_the_gate_once_and_are_listed_exported_and_dropped() {
    shuts_once_and_is_named(flip_table, "meta", usize::MAX);
}

#[test]
fn a_table_that_is_cut_under_a_running_kumod_costs_only_what_is_named() {
    for family in ["data", "meta"] {
        shuts_once_and_is_named(cut_table, family, 1);
    }
}

/// `exported`: how many of the damaged messages are looked at one by one.
fn shuts_once_and_is_named(damage: Damage, family: &'static str, exported: usize) {
    let _alone = times::alone();
    let case = format!("damaged {family}");
    let bench = Bench::new(1);
    let table = bench.damage_by(damage, family);
    let banners = Banners::watch(bench.kumod.address());
    times::stays(&banners, 220, Duration::from_secs(1));
    bench.peer.let_go();
    let (shut, banner) = banners.first(421, Instant::now());
    assert!(banner.text.contains(NOT_ACCEPTING), "{banner:?}");
    times::shuts(&case, times::first_failure(&bench.kumod, None), shut);
    let (opened, _) = banners.first(220, shut);
    times::opens_by_itself(&case, shut, opened);

    let named = bench.named();
    eprintln!("{case}: {} of {STORED} are in {table:?}'s damage", named.len());
    assert!(!named.is_empty() && named.len() < STORED, "{named:?}");
    times::stays(&banners, 220, Duration::from_secs(5));
    bench.never_twice_for_the_same();
    let mut new = Accepted::new();
    let mut client = Client::greet(bench.kumod.address()).unwrap();
    note(&mut new, NEW, &send(&mut client, NEW, 4000).unwrap());
    wait_for_all(&new, &bench.sink);

    for id in named.iter().take(exported) {
        is_exported_and_dropped(&bench.kumod, family, id, &table);
    }
    assert_eq!(quarantine(&bench.kumod).len(), named.len().saturating_sub(exported));
    let Bench { home, kumod, .. } = bench;
    kumod.stop();
    nothing_is_bounced(&home);
}

/// An operator's compaction, and no new mail that makes RocksDB try again.
#[test]
fn a_compaction_that_meets_damage_says_so_and_the_gate_opens_again() {
    let _alone = times::alone();
    let bench = Bench::new(1);
    let table = bench.damage("data");
    let banners = Banners::watch(bench.kumod.address());
    let compacting = Instant::now();
    let said = kcli(&bench.kumod, &["spool-compact", "--name", "data"]);
    assert_eq!((said.code, &*said.out), (Some(1), ""), "{said:?}");
    assert!(said.err.contains(&table.display().to_string()), "{said:?}");
    let (shut, _) = banners.first(421, compacting);
    times::shuts("damage met by compaction", times::first_failure(&bench.kumod, None), shut);
    let (opened, _) = banners.first(220, shut);
    times::opens_by_itself("damage met by compaction", shut, opened);
    bench.peer.let_go();
    let named = bench.named();
    assert!(named.len() < STORED / 2, "{named:?}");
    let Bench { home, kumod, .. } = bench;
    kumod.stop();
    nothing_is_bounced(&home);
}

#[test]
fn what_waited_for_the_gate_is_delivered_soon_after_it_opens() {
    let _alone = times::alone();
    let bench = Bench::new(8);
    bench.damage("data");
    let banners = Banners::watch(bench.kumod.address());
    bench.peer.let_go();
    let (shut, _) = banners.first(421, Instant::now());
    let (opened, _) = banners.first(220, shut);
    bench.named();
    let what = "from the opening to the last delivery";
    times::within("damaged data", what, opened, Instant::now(), Duration::from_secs(10));
    bench.kumod.stop();
}

/// New mail makes RocksDB compact the damaged table.
#[test]
fn damage_that_compaction_meets_does_not_stop_new_mail() {
    let _alone = times::alone();
    let bench = Bench::new(1);
    bench.damage("data");
    let banners = Banners::watch(bench.kumod.address());
    bench.peer.let_go();
    let (shut, _) = banners.first(421, Instant::now());
    banners.first(220, shut);
    let clients = Clients::start(bench.kumod.address(), NEW, 4000);
    clients.wait_for_accepted(500);
    let named = bench.named();
    assert!(named.len() < STORED / 2, "{named:?}");
    let told = clients.stop();
    is_as_told(&told, &bench.sink);
    bench.never_twice_for_the_same();
    let Bench { home, kumod, .. } = bench;
    kumod.stop();
    nothing_is_bounced(&home);
}

fn is_exported_and_dropped(kumod: &Kumod, family: &str, id: &str, table: &Path) {
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

//! kill -9 at random moments under load, restart over the same spool, and in the end count every message.
//! `KUMOD_CRASHES`: kills that count (default 3; `make crash`: 20). `KUMOD_CRASH_SEED` replays the choices of an earlier run.
//!
//! A kill counts if at that moment at least one client waits for the answer to its final dot and at least one delivery is
//! under way. Between them come kills during start-up and recovery, which don't count. A process that is killed leaves
//! the kernel's cache behind, so this shows nothing about syncs: `sync_before_250` does that.
mod support;

#[path = "crash/journal.rs"]
mod journal;
#[path = "crash/load.rs"]
mod load;
#[path = "crash/peer.rs"]
mod peer;
#[path = "crash/verdict.rs"]
mod verdict;

use journal::{Journals, Replays};
use kumo_core::config::service::{SpoolDefinition, SpoolKind};
use kumo_core::port::{Family, Spool};
use kumo_io_real::spool::RealSpool;
use load::{End, Load};
use peer::Peer;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::choices::{self, Choices};
use support::{Home, Kumod, PATIENCE, Sink, Sunk, Verdict, wait_for};
use verdict::{Delivered, Evidence, Findings, judge};

const DEFAULT_CRASHES: u64 = 3;
/// Kills for each one that has to count, at most.
const TRIES: usize = 5;
/// What waits longer for its next attempt is waited for in vain.
const QUIET: Duration = Duration::from_secs(5);
const DRAINED: &str = "drained";
const DRAIN: Duration = Duration::from_secs(120);

/// One life of kumod, for the table.
struct Life {
    lasted: Duration,
    how: &'static str,
    dots: usize,
    deliveries: usize,
}

struct Run {
    home: Home,
    sink: Sink,
    peer: Peer,
    load: Load,
    choices: Choices,
    /// Folders of data and meta.
    spools: (&'static str, &'static str),
    lives: Vec<Life>,
    journals: Journals,
    killed: std::collections::HashMap<usize, Instant>,
}

#[test]
fn nothing_is_lost_when_the_process_is_killed() {
    let seed = choices::seed("KUMOD_CRASH_SEED");
    let crashes = choices::number("KUMOD_CRASHES").unwrap_or(DEFAULT_CRASHES) as usize;
    println!("replay: KUMOD_CRASHES={crashes} KUMOD_CRASH_SEED={seed} make crash");
    let mut choices = Choices::new(seed, 0);
    let spools = if choices.one_in(2) { ("data", "meta") } else { ("spool", "spool") };
    println!("spools: {spools:?}");
    let peer = Peer::default();
    let home = Home::new();
    let mut run = Run {
        journals: Journals::new(home.path("journal")),
        home,
        sink: Sink::start(peer.clone()),
        peer,
        load: Load::start(seed),
        choices,
        spools,
        lives: Vec::new(),
        killed: Default::default(),
    };
    let mut counted = 0;
    while counted < crashes {
        let tries = run.lives.len();
        assert!(tries < (crashes + 1) * TRIES, "{counted} of {tries} kills hit both sides at work");
        if run.choices.one_in(4) {
            run.kill_early();
        }
        counted += usize::from(run.kill_at_work());
    }
    run.drain();
    let left_over = run.left_over();
    let evidence = run.evidence();
    let findings = judge(&evidence);
    let unlogged = run.unlogged(&evidence);
    let replays = run.journals.replay(&mut run.choices);
    run.print(&evidence, &findings, unlogged.len(), &replays);
    assert!(findings.is_clean(), "seed {seed}: {findings:#?}");
    let in_order = |life: usize| run.lives[life].how == DRAINED;
    let unlogged: Vec<&Delivered> =
        unlogged.into_iter().filter(|copy| in_order(copy.life)).collect();
    assert!(
        unlogged.is_empty(),
        "delivered in a life that ended well, and not logged: {unlogged:?}"
    );
    assert!(replays.wrong.is_empty(), "seed {seed}: {replays:#?}");
    assert!(replays.steps > 0 && replays.used > crashes, "{replays:#?}");
    assert_eq!(left_over, (0, 0), "envelopes and bodies in the spool after everything was settled");
}

impl Run {
    /// Each life calls itself by its number, so that the peer knows who delivered.
    fn policy(&self) -> PathBuf {
        let handlers = format!(
            "kumo.on('get_queue_config', function()
               return kumo.make_queue_config {{
                 protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
                 retry_interval = '1s', max_retry_interval = '2s',
               }}
             end)
             kumo.on('get_egress_path_config', function()
               return kumo.make_egress_path {{ prohibited_hosts = {{}}, ehlo_domain = 'life{life}.example' }}
             end)",
            mx = self.sink.as_mx(),
            life = self.lives.len(),
        );
        let (data, meta) = self.spools;
        let listener = "batch_handling = 'BatchByDomain'";
        self.home.policy_with_spools(data, meta, listener, &handlers)
    }

    fn launch(&self) -> Kumod {
        let journal = self.journals.folder.display().to_string();
        Kumod::launch_with(&self.policy(), &["--journal", &journal])
    }

    fn is_over(&mut self, life: Life) {
        let was_killed = life.how != DRAINED;
        self.journals.collect(self.lives.len(), was_killed);
        self.lives.push(life);
    }

    /// While it starts, or has just begun to look at what the last life left behind.
    fn kill_early(&mut self) {
        let started = Instant::now();
        let kumod = self.launch();
        std::thread::sleep(self.choices.millis(0, 400));
        self.killed.insert(self.lives.len(), Instant::now());
        kumod.kill();
        let lasted = started.elapsed();
        self.is_over(Life { lasted, how: "starting", dots: 0, deliveries: 0 });
    }

    /// Whether it counts.
    fn kill_at_work(&mut self) -> bool {
        let started = Instant::now();
        let kumod = self.launch().ready();
        self.load.aim(Some(kumod.address()));
        std::thread::sleep(self.choices.millis(100, 2500));
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && (self.load.waiting() == 0 || self.sink.in_flight() == 0) {
            std::thread::yield_now();
        }
        // Not always in the first moment of a wait.
        std::thread::sleep(self.choices.millis(0, 4));
        let (at, cut) = (Instant::now(), self.sink.cut());
        kumod.kill();
        self.load.aim(None);
        self.killed.insert(self.lives.len(), at);
        wait_for("clients and peer to notice", PATIENCE, || {
            (self.load.waiting() == 0 && self.sink.in_flight() == 0).then_some(())
        });
        let lasted = at - started;
        let dots = self.dots_unanswered(started);
        let deliveries = self.sink.cut() - cut + self.replied_after(at, started);
        let counts = dots > 0 && deliveries > 0;
        let how = if counts { "counts" } else { "idle" };
        self.is_over(Life { lasted, how, dots, deliveries });
        counts
    }

    fn dots_unanswered(&self, since: Instant) -> usize {
        let ledger = self.load.ledger();
        let of_this_life = ledger.iter().filter(|one| one.dot_at.is_some_and(|at| at > since));
        of_this_life.filter(|one| one.end == End::Unanswered).count()
    }

    /// Deliveries whose verdict came when nobody was there any more.
    fn replied_after(&self, killed: Instant, since: Instant) -> usize {
        self.sink.with_sunk(|sunk| {
            let of_this_life = sunk.iter().filter(|one| one.at > since && one.at < killed);
            of_this_life.filter(|one| one.answered.is_none_or(|(at, _)| at > killed)).count()
        })
    }

    /// A last life, which isn't killed, delivers what is left.
    fn drain(&mut self) {
        let started = Instant::now();
        let kumod = self.launch().ready();
        self.load.aim(Some(kumod.address()));
        std::thread::sleep(self.choices.millis(100, 500));
        self.load.finish();
        let (mut seen, mut since) = (self.sink.activity(), Instant::now());
        while since.elapsed() < QUIET && started.elapsed() < DRAIN {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.sink.activity();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        kumod.stop();
        let lasted = started.elapsed();
        self.is_over(Life { lasted, how: DRAINED, dots: 0, deliveries: 0 });
    }

    /// Envelopes and bodies that are still in the spool.
    fn left_over(&self) -> (usize, usize) {
        let define = |name: &str, folder: &str| SpoolDefinition {
            name: name.into(),
            path: self.home.path(folder).display().to_string(),
            kind: SpoolKind::RocksDB,
            flush: true,
            rocks_params: Default::default(),
        };
        let spool = RealSpool::open(&define("data", self.spools.0), &define("meta", self.spools.1));
        let spool = spool.expect("the spool opens");
        assert_eq!(spool.damage_at_open(), Vec::<String>::new());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let count = |family| {
            let scan = spool.scan(family, None, 100_000, true);
            runtime.block_on(scan).expect("the spool can be read").entries.len()
        };
        (count(Family::Meta), count(Family::Data))
    }

    fn evidence(&self) -> Evidence {
        Evidence {
            submissions: self.load.ledger().clone(),
            delivered: self.sink.sunk().iter().filter(|s| s.is_taken()).flat_map(copies).collect(),
            refused: self.peer.refused(),
            killed: self.killed.clone(),
        }
    }

    fn print(&self, evidence: &Evidence, findings: &Findings, unlogged: usize, replays: &Replays) {
        println!(
            "{:>4} {:>9} {:<9} {:>15} {:>19}",
            "life", "ms", "", "dots unanswered", "deliveries in flight"
        );
        for (number, life) in self.lives.iter().enumerate() {
            let Life { lasted, how, dots, deliveries } = life;
            println!("{number:>4} {:>9} {how:<9} {dots:>15} {deliveries:>19}", lasted.as_millis());
        }
        let ended = |end| evidence.submissions.iter().filter(|one| one.end == end).count();
        let rows = [
            ("accepted", ended(End::Accepted)),
            ("refused", ended(End::Refused)),
            ("final dot unanswered", ended(End::Unanswered)),
            ("final dot never sent", ended(End::NotSent)),
            ("copies delivered", evidence.delivered.len()),
            ("refused by the peer", evidence.refused.len()),
            ("delivered without a log record", unlogged),
            ("copied again after silence", findings.after_silence),
            ("copied again after a kill", findings.after_kill),
            ("copied more often than excused", findings.excess.len()),
            ("lost", findings.lost.len()),
            ("damaged", findings.damaged.len()),
            ("delivered unasked", findings.unasked.len()),
            ("journal: segments", replays.segments),
            ("journal: torn at the end", replays.torn),
            ("journal: steps replayed", replays.steps as usize),
            ("journal: inputs left out", replays.missing as usize),
            ("journal: found wrong", replays.wrong.len()),
        ];
        for (what, count) in rows {
            println!("{what:<32} {count:>7}");
        }
        println!(
            "latest kill that made a duplicate: {:?} after the peer's 250",
            findings.latest_excuse
        );
    }

    /// What kumod was told is delivered, and doesn't say so. A kill loses what its writer hasn't written yet.
    fn unlogged<'a>(&self, evidence: &'a Evidence) -> Vec<&'a Delivered> {
        let logged = self.logged();
        let key = |copy: &Delivered| (copy.id.clone(), copy.recipient.clone());
        let told = evidence.delivered.iter().filter(|copy| copy.told.is_some());
        told.filter(|copy| !logged.contains(&key(copy))).collect()
    }

    /// Id and recipient of each Delivery record.
    fn logged(&self) -> HashSet<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_string();
        let records = self.home.records_of("Delivery");
        let pairs = records.iter().flat_map(|record| {
            let recipients = match &record["recipient"] {
                serde_json::Value::Array(many) => many.iter().map(text).collect(),
                one => vec![text(one)],
            };
            let id = text(&record["id"]);
            recipients.into_iter().map(move |recipient| (id.clone(), recipient))
        });
        pairs.collect()
    }
}

fn copies(sunk: &Sunk) -> Vec<Delivered> {
    let token = sunk.header("Subject").expect("each message has a subject");
    let received = sunk.header("Received").expect("kumod adds it");
    let id = received.split(" id ").nth(1).and_then(|rest| rest.split([' ', ';']).next());
    let life = sunk.greeting.strip_prefix("life").and_then(|rest| rest.split('.').next());
    let told = sunk.answered.filter(|(_, verdict)| *verdict == Verdict::Taken).map(|(at, _)| at);
    let copy = |recipient: &String| Delivered {
        token: token.clone(),
        id: id.expect("the id stands in it").to_string(),
        recipient: recipient.clone(),
        content: sunk.content.clone(),
        life: life.and_then(|life| life.parse().ok()).expect("the life's number"),
        told,
    };
    sunk.recipients.iter().map(copy).collect()
}

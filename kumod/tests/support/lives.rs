//! The lives of one kumod over the same spool, under a load that never pauses: each ends with a kill, the last one
//! drains. Around it stand a peer and a ledger that remember everything.
//! Invariant: clients and peer have noticed the end of a life before it counts as over. What happens between two lives
//! is the caller's; what became of the mail is `verdict`'s to say.
use super::choices::Choices;
use super::load::{End, Load};
use super::peer::Peer;
use super::verdict::{Delivered, Evidence, Findings};
use super::{Home, Kumod, PATIENCE, Sink, Sunk, Verdict, wait_for};
use kumo_core::config::SpoolDefinition;
use kumo_core::port::{Family, Spool};
use kumo_io_real::spool::RealSpool;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Lives for each one that has to count, at most.
const TRIES: usize = 5;
/// What waits longer for its next attempt is waited for in vain.
pub const QUIET: Duration = Duration::from_secs(5);
pub const DRAIN: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Killed while it started, or had just begun to look at what the last life left behind.
    Starting,
    /// Killed when not both sides were at work.
    Idle,
    /// Killed when at least one client waited for the answer to its final dot and at least one delivery was under way.
    AtWork,
    /// Stopped, in the end.
    Drained,
}

/// One life of kumod, for the table.
#[derive(Clone, Debug)]
pub struct Life {
    pub lasted: Duration,
    pub how: How,
    pub dots: usize,
    pub deliveries: usize,
    /// On stderr.
    pub said: Vec<String>,
}

pub struct Lives {
    pub home: Home,
    pub choices: Choices,
    sink: Sink,
    peer: Peer,
    load: Load,
    /// Folders of data and meta.
    spools: (&'static str, &'static str),
    /// Further options of both spools, as Lua fields.
    pub options: &'static str,
    pub over: Vec<Life>,
    killed: HashMap<usize, Instant>,
}

impl Lives {
    pub fn new(home: Home, spools: (&'static str, &'static str), seed: u64) -> Lives {
        let peer = Peer::default();
        Lives {
            home,
            choices: Choices::new(seed, 0),
            sink: Sink::start(peer.clone()),
            peer,
            load: Load::start(seed),
            spools,
            options: "",
            over: Vec::new(),
            killed: HashMap::new(),
        }
    }

    /// Lives that end at work, and some before that don't, each followed by `afterwards`.
    pub fn kill(
        &mut self,
        count: usize,
        launch: impl Fn(&Path) -> Kumod,
        mut afterwards: impl FnMut(&mut Lives),
    ) {
        let mut at_work = 0;
        while at_work < count {
            let tries = self.over.len();
            let said = self.over.last().map(|life| &life.said);
            assert!(
                tries < (count + 1) * TRIES,
                "{at_work} of {tries} lives ended at work; the last said {said:#?}"
            );
            if self.choices.one_in(4) {
                self.end_early(&launch);
                afterwards(self);
            }
            at_work += usize::from(self.end_at_work(&launch));
            afterwards(self);
        }
    }

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
            life = self.over.len(),
        );
        let (data, meta) = self.spools;
        let listener = "batch_handling = 'BatchByDomain'";
        self.home.policy_with_options(data, meta, self.options, listener, &handlers)
    }

    fn end_early(&mut self, launch: impl Fn(&Path) -> Kumod) {
        let started = Instant::now();
        let kumod = launch(&self.policy());
        std::thread::sleep(self.choices.millis(0, 400));
        self.killed.insert(self.over.len(), Instant::now());
        let said = kumod.kill();
        let lasted = started.elapsed();
        self.over.push(Life { lasted, how: How::Starting, dots: 0, deliveries: 0, said });
    }

    /// Whether it was at work.
    fn end_at_work(&mut self, launch: impl Fn(&Path) -> Kumod) -> bool {
        let started = Instant::now();
        let kumod = launch(&self.policy()).ready();
        self.load.aim(Some(kumod.address()));
        std::thread::sleep(self.choices.millis(100, 2500));
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && (self.load.waiting() == 0 || self.sink.in_flight() == 0) {
            std::thread::yield_now();
        }
        // Not always in the first moment of a wait.
        std::thread::sleep(self.choices.millis(0, 4));
        let (at, cut) = (Instant::now(), self.sink.cut());
        let said = kumod.kill();
        self.load.aim(None);
        self.killed.insert(self.over.len(), at);
        wait_for("clients and peer to notice", PATIENCE, || {
            (self.load.waiting() == 0 && self.sink.in_flight() == 0).then_some(())
        });
        let lasted = at - started;
        let dots = self.dots_unanswered(started);
        let deliveries = self.sink.cut() - cut + self.replied_after(at, started);
        let at_work = dots > 0 && deliveries > 0;
        let how = if at_work { How::AtWork } else { How::Idle };
        self.over.push(Life { lasted, how, dots, deliveries, said });
        at_work
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
    pub fn drain(&mut self, launch: impl Fn(&Path) -> Kumod) {
        let started = Instant::now();
        let kumod = launch(&self.policy()).ready();
        self.load.aim(Some(kumod.address()));
        std::thread::sleep(self.choices.millis(100, 500));
        self.load.finish();
        self.sink.rest(QUIET, DRAIN);
        let said = kumod.stop();
        let lasted = started.elapsed();
        self.over.push(Life { lasted, how: How::Drained, dots: 0, deliveries: 0, said });
    }

    /// Envelopes and bodies that are still in the spool.
    pub fn left_over(&self) -> (usize, usize) {
        let define = |name: &str, folder: &str| {
            SpoolDefinition::at(name, &self.home.path(folder).display().to_string())
        };
        let spool = RealSpool::open(&define("data", self.spools.0), &define("meta", self.spools.1));
        let spool = spool.expect("the spool opens");
        assert_eq!(spool.damage_at_open(), []);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let count = |family| {
            let scan = spool.scan(family, None, 100_000, true);
            runtime.block_on(scan).expect("the spool can be read").entries.len()
        };
        (count(Family::Meta), count(Family::Data))
    }

    pub fn evidence(&self) -> Evidence {
        Evidence {
            submissions: self.load.ledger().clone(),
            delivered: self.sink.sunk().iter().filter(|s| s.is_taken()).flat_map(copies).collect(),
            refused: self.peer.refused(),
            killed: self.killed.clone(),
        }
    }

    /// Id and recipient of each record of this kind.
    pub fn logged(&self, kind: &str) -> HashSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or("").to_string();
        let records = self.home.records_of(kind);
        let pairs = records.iter().flat_map(|record| {
            let recipients = match &record["recipient"] {
                Value::Array(many) => many.iter().map(text).collect(),
                one => vec![text(one)],
            };
            let id = text(&record["id"]);
            recipients.into_iter().map(move |recipient| (id.clone(), recipient))
        });
        pairs.collect()
    }
}

/// What happened to how many, for the table.
pub fn rows(evidence: &Evidence, findings: &Findings) -> Vec<(&'static str, usize)> {
    let ended = |end| evidence.submissions.iter().filter(|one| one.end == end).count();
    vec![
        ("accepted", ended(End::Accepted)),
        ("refused", ended(End::Refused)),
        ("final dot unanswered", ended(End::Unanswered)),
        ("final dot never sent", ended(End::NotSent)),
        ("copies delivered", evidence.delivered.len()),
        ("refused by the peer", evidence.refused.len()),
        ("copied again after silence", findings.after_silence),
        ("copied again after a kill", findings.after_kill),
        ("copied more often than excused", findings.excess.len()),
        ("lost", findings.lost.len()),
        ("damaged", findings.damaged.len()),
        ("delivered unasked", findings.unasked.len()),
    ]
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

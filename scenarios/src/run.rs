//! One run of one scenario under one seed: a world, a node in it that lives and dies as the timeline says, and two phases. In the safety phase
//! faults are in force; then all is healed, and every accepted message must settle within a bounded virtual time.
//! Invariant: a run happens on a thread of its own, and nothing outlives it. What it proves is the checkers' to say.
use crate::agenda::{Action, Agenda};
use crate::check::explain::Askings;
use crate::check::{
    self, Facts, Violation, bounds, dispatchers, expiry::Residents, gate, violation, waits,
};
use crate::node::{Command, LifeEnd, Running};
use crate::options::Options;
use crate::setup;
use crate::verdict::{Outcome, Verdict};
use crate::watch::{self, Log};
use kumo_core::engine::{AdminCommand, AdminEntry, QueueSelector};
use kumo_core::id::SpoolId;
use kumo_core::journal::{self, Met};
use kumo_core::port::Family;
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::fault::{Fault, FaultKind};
use kumo_io_sim::ledger::{Answer, End, Event};
use kumo_io_sim::lives::{Event as LifeEvent, Trigger};
use kumo_io_sim::policy::REQUEUE;
use kumo_io_sim::proxy::{self, Onward};
use kumo_io_sim::universe::Universe;
use kumo_io_sim::{client, peer};
use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Virtual time after which a run is stuck whatever it does.
const LIMIT: Duration = Duration::from_secs(14 * 24 * 3600);
/// Beyond the longest retry gap (I10).
const SETTLING: Duration = Duration::from_secs(600);
const MINUTE: Duration = Duration::from_secs(60);
const BETWEEN_LIVES: Duration = Duration::from_secs(1);

/// Trouble at one step, for sweeps.
pub type AtStep = Option<(u64, Trigger)>;

/// Plays it on a thread of its own, so that nothing of an earlier run is left in thread-locals.
pub fn once(options: &Options, seed: u64, at_step: AtStep, log: Log) -> Outcome {
    std::thread::scope(|scope| {
        let run = move || on_this_thread(options, seed, at_step, log);
        let thread = std::thread::Builder::new().name("run".into()).spawn_scoped(scope, run);
        thread.expect("a thread for a run").join().expect("a run catches its own panics")
    })
}

fn on_this_thread(options: &Options, seed: u64, at_step: AtStep, log: Log) -> Outcome {
    let notes = watch::Notes::default();
    let guard = watch::listen(log, &notes);
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut runtime =
            madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(LIMIT);
        runtime.block_on(play(options, seed, at_step, &notes, log))
    }));
    drop(guard);
    let mut outcome = played.unwrap_or_else(|payload| {
        let what = watch::last_panic().unwrap_or_else(|| watch::text_of(&payload));
        Outcome { verdict: Verdict::Crash(what), ..Outcome::default() }
    });
    outcome.notes = notes.take();
    outcome
}

struct Run<'o> {
    options: &'o Options,
    seed: u64,
    universe: Arc<Universe>,
    notes: &'o watch::Notes,
    node: Option<Running>,
    agenda: Agenda,
    lives: u64,
    events: channel::Receiver<LifeEvent>,
    residents: Residents,
    damaged: BTreeSet<SpoolId>,
    /// Faults that are over, and whose effects aren't.
    lingering: Vec<FaultKind>,
    /// The first broken invariant that was seen while the run went on.
    broken: Option<Violation>,
    /// Until then the node's waits may be older than they should: it stood still.
    excused_until: Mono,
    random: Random,
    /// How long the node stays down after the next triggered crash.
    down_for: Duration,
    next_look: Instant,
    looks: u32,
}

async fn play(
    options: &Options,
    seed: u64,
    at_step: AtStep,
    notes: &watch::Notes,
    log: Log,
) -> Outcome {
    let settings = setup::settings(options).expect("options were checked");
    let universe = Universe::new(seed, settings);
    notes.clock(&universe);
    if let Some((step, trigger)) = at_step {
        universe.lives.arm(step, trigger);
    }
    let people = People::start(options, seed, &universe);
    let mut run = Run {
        options,
        seed,
        events: universe.lives.events(),
        universe: universe.clone(),
        notes,
        node: None,
        agenda: Agenda::of(options),
        lives: 0,
        residents: Residents::default(),
        damaged: BTreeSet::new(),
        lingering: Vec::new(),
        broken: None,
        excused_until: Mono(0),
        random: Random::new(seed, "run"),
        down_for: BETWEEN_LIVES,
        next_look: Instant::now() + MINUTE,
        looks: 0,
    };
    run.start_node().await;
    let injector = run.inject(&people.home, people.injections);
    run.safety().await;
    let mut busy = people.clients;
    busy.extend(injector);
    run.heal().await;
    run.liveness(&mut busy).await;
    let outcome = run.finish(log).await;
    Handle::current().kill(people.home.id());
    // Its tasks are dropped when they are next looked at.
    sleep(Duration::from_millis(1)).await;
    outcome
}

/// Everybody but the node under test. They have a madsim node of their own, so that they can be ended: whoever waits for something of the
/// universe and holds on to it would keep it for ever.
struct People {
    home: NodeHandle,
    clients: Vec<JoinHandle<()>>,
    injections: Vec<setup::Task>,
}

impl People {
    fn start(options: &Options, seed: u64, universe: &Arc<Universe>) -> People {
        let home = Handle::current().create_node().name("people").build();
        for server in setup::servers(options) {
            let own = server.settings.address;
            home.spawn(peer::run(universe.clone(), server.settings));
            if let Some(public) = server.proxy {
                home.spawn(proxy::run(universe.clone(), public, Onward::To(own)));
            }
        }
        if options.load.through_proxy {
            let front = setup::front_address();
            let node = Onward::To(setup::node_address());
            home.spawn(proxy::run(universe.clone(), front, node));
        }
        for (listen, onward) in setup::egress_proxies(options) {
            home.spawn(proxy::run(universe.clone(), listen, onward));
        }
        let mail = setup::mail(options, seed);
        let clients = mail
            .clients
            .into_iter()
            .map(|(settings, work)| home.spawn(client::run(universe.clone(), settings, work)))
            .collect();
        People { home, clients, injections: mail.injections }
    }
}

impl Run<'_> {
    fn now(&self) -> Mono {
        self.universe.now().mono
    }

    fn break_off(&mut self, broken: Violation) {
        self.broken.get_or_insert(broken);
    }

    // ---- The node's lives ------------------------------------------------------------------------------

    async fn start_node(&mut self) {
        if self.node.is_some() {
            return;
        }
        self.lives += 1;
        let config = setup::node_config(self.options, self.seed, self.lives);
        self.node = Some(Running::start(&self.universe, config, self.lives));
        self.universe.write(Event::Started { life: self.lives });
    }

    /// Whatever it was doing is cut off here.
    async fn kill_node(&mut self, power_cut: bool) {
        if let Some(node) = self.node.take() {
            let how = if power_cut { End::PowerCut } else { End::Killed };
            self.end_life(node, how).await;
        }
    }

    /// The one end of every life, whatever led to it.
    async fn end_life(&mut self, node: Running, how: End) {
        let power_cut = how == End::PowerCut;
        self.universe.lives.end();
        self.universe.write(Event::Ended { life: self.lives, how });
        self.universe.net.node_died(&self.universe, power_cut);
        self.universe.disk.crash(&self.universe, power_cut);
        match how {
            End::Stopped => self.universe.log.close(&self.universe),
            End::Killed | End::PowerCut => self.universe.log.crash(&self.universe, power_cut),
        }
        self.lingering_ends();
        node.kill();
        // Its tasks are dropped before the next life begins.
        sleep(Duration::from_millis(1)).await;
    }

    fn lingering_ends(&mut self) {
        std::mem::take(&mut self.lingering).into_iter().for_each(|what| self.note_end(what));
    }

    async fn stop_node(&mut self) {
        let Some(mut node) = self.node.take() else { return };
        self.universe.write(Event::StopOrdered { life: self.lives });
        let mut events = self.events.clone();
        let power_goes = async {
            while *events.borrow_and_update() != LifeEvent::Crashed {
                // Their sender is the universe's.
                let _ = events.changed().await;
            }
        };
        let stopped = tokio::select! {
            biased;
            () = power_goes => None,
            stopped = timeout(Duration::from_secs(60), node.stop()) => Some(stopped),
        };
        match stopped {
            None => {
                self.universe.faults.count(FaultKind::NodePowerCut);
                return self.end_life(node, End::PowerCut).await;
            }
            Some(Ok(LifeEnd::Stopped)) => {}
            Some(_) => {
                let what = "a graceful stop hadn't ended after a minute".into();
                self.break_off(violation("I20", self.now(), what));
            }
        }
        self.end_life(node, End::Stopped).await;
    }

    // ---- Safety ----------------------------------------------------------------------------------------

    async fn safety(&mut self) {
        let began = Instant::now();
        let end = began + self.options.safety;
        while self.broken.is_none() {
            self.until(end).await;
            if Instant::now() >= end {
                return;
            }
            while let Some(action) = self.agenda.due(Instant::now() - began) {
                self.perform(action).await;
            }
        }
    }

    /// Waits until then, or until something is due, and looks after the node meanwhile.
    async fn until(&mut self, moment: Instant) {
        loop {
            let look = self.next_look;
            // Anew each time: the end of a life puts the next one on the agenda.
            let wake = self.agenda.next().map_or(moment, |due| due.min(moment));
            let ended = async {
                match &mut self.node {
                    Some(node) => node.ended().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.events.changed() => self.triggered().await,
                end = ended => self.ended_by_itself(end).await,
                () = sleep_until(look) => {
                    self.next_look += MINUTE;
                    self.look().await;
                }
                () = sleep_until(wake) => return,
            }
            if self.broken.is_some() {
                return;
            }
        }
    }

    async fn triggered(&mut self) {
        let event = *self.events.borrow_and_update();
        match event {
            LifeEvent::Nothing => return,
            LifeEvent::Crashed => {
                self.universe.faults.count(FaultKind::NodePowerCut);
                self.kill_node(true).await;
            }
            LifeEvent::StopWanted => self.stop_node().await,
        }
        self.agenda.add_now(self.down_for, Action::Start);
        self.down_for = BETWEEN_LIVES;
    }

    async fn ended_by_itself(&mut self, end: LifeEnd) {
        match end {
            LifeEnd::DidNotStart(why) => {
                self.notes.say(format!("the node didn't start: {why}"));
                self.kill_node(false).await;
                self.agenda.add_now(BETWEEN_LIVES, Action::Start);
            }
            LifeEnd::Stopped | LifeEnd::Gone => {
                panic!("a life ended though nobody ended it: {end:?}");
            }
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Begin(index) => self.begin_fault(index).await,
            Action::End(id) => self.universe.faults.end(id),
            Action::Over(what) => self.fault_is_over(what),
            Action::Start => self.start_node().await,
            Action::Resume => self.resume(),
            Action::Order(index) => self.order(index).await,
        }
    }

    async fn begin_fault(&mut self, index: usize) {
        let timed = &self.options.fault[index];
        let (what, amount) = (timed.what, timed.amount);
        let target: Option<Box<str>> = timed.target.as_deref().map(Into::into);
        self.universe.write(Event::Fault { what, began: true, target: target.clone() });
        let pause = amount.unwrap_or(BETWEEN_LIVES);
        match what {
            // In the midst of what the node does next, or nothing would ever be half done.
            FaultKind::NodePowerCut => {
                let step = self.universe.lives.steps() + 1 + self.random.below(20);
                self.universe.lives.arm(step, Trigger::Crash);
                self.down_for = pause;
            }
            FaultKind::NodeKill | FaultKind::NodeKillInRecovery => {
                if self.node.is_none() {
                    return self.note_end(what);
                }
                self.universe.faults.count(what);
                self.kill_node(what != FaultKind::NodeKill).await;
                if what == FaultKind::NodeKillInRecovery {
                    let step = self.universe.lives.steps() + 1 + self.random.below(30);
                    self.universe.lives.arm(step, Trigger::Crash);
                }
                self.agenda.add_now(pause, Action::Start);
            }
            FaultKind::NodeStop => {
                if self.node.is_none() {
                    return self.note_end(what);
                }
                self.universe.faults.count(what);
                self.stop_node().await;
                self.agenda.add_now(pause, Action::Start);
            }
            FaultKind::NodePause => {
                let Some(node) = &self.node else { return self.note_end(what) };
                self.universe.faults.count(what);
                node.pause();
                self.universe.write(Event::Paused { life: self.lives });
                self.excused_until = self.now() + pause + 2 * MINUTE;
                self.agenda.add_now(pause, Action::Resume);
            }
            FaultKind::HostWallStep => {
                self.universe.faults.count(what);
                let by = amount.unwrap_or(Duration::from_secs(3600));
                match target.as_deref() {
                    Some("1970") => self.universe.clock.step_to_1970(),
                    back => self.universe.clock.step_wall(by, back == Some("back")),
                }
            }
            FaultKind::DiskCorruptRecord
            | FaultKind::DiskCorruptBlock
            | FaultKind::DiskMissingFile => {
                self.damage(what, target.as_deref());
            }
            _ => {
                let fault = Fault { what, chance: timed.chance, amount, target };
                let id = self.universe.faults.begin(fault);
                if let Some(lasts) = timed.lasts {
                    self.agenda.add_now(lasts, Action::End(id));
                    // What it made slow at the last moment is slow for so long.
                    let over = lasts + amount.unwrap_or_default();
                    self.agenda.add_now(over, Action::Over(what));
                }
                return;
            }
        }
        self.note_end(what);
    }

    fn note_end(&self, what: FaultKind) {
        self.universe.write(Event::Fault { what, began: false, target: None });
    }

    fn fault_is_over(&mut self, what: FaultKind) {
        if what.port() == "disk" && self.disk_is_still_ill() {
            return self.lingering.push(what);
        }
        self.note_end(what);
    }

    /// A store that has given up stays so until it is opened again; a write that was held up for a time takes that time.
    fn disk_is_still_ill(&self) -> bool {
        self.universe.disk.needs_reopen() || self.universe.disk.is_behind()
    }

    fn damage(&mut self, what: FaultKind, target: Option<&str>) {
        let disk = &self.universe.disk;
        let of = target.map(|name| if name == "data" { Family::Data } else { Family::Meta });
        let ids = match what {
            FaultKind::DiskCorruptRecord => {
                disk.corrupt_record(&self.universe, of).into_iter().collect()
            }
            FaultKind::DiskCorruptBlock => disk.corrupt_block(&self.universe, of),
            _ => disk.missing_file(&self.universe, of),
        };
        self.damaged.extend(&ids);
        self.universe.write(Event::Damaged { ids });
    }

    fn resume(&mut self) {
        if let Some(node) = &self.node
            && node.is_paused()
        {
            node.resume();
            self.universe.write(Event::Resumed { life: self.lives });
        }
    }

    async fn order(&mut self, index: usize) {
        let order = &self.options.order[index];
        let Some(node) = &self.node else { return };
        let id = self.random.next_u64();
        let id: Box<str> = format!("00000000-0000-4000-8000-{:012x}", id >> 16).into();
        let domain = order.domain.clone();
        let expires = self.universe.now().wall + order.lasts;
        let selector =
            QueueSelector { domain: domain.as_deref().map(Into::into), ..QueueSelector::default() };
        let entry = || AdminEntry {
            id: id.clone(),
            selector: selector.clone(),
            reason: "the scenario says so".into(),
            expires,
            suppress_logging: false,
        };
        use crate::options::OrderKind::*;
        let (what, command) = match order.what {
            Bounce => ("bounce", Command::Admin(AdminCommand::Bounce(entry()))),
            Suspend => ("suspend", Command::Admin(AdminCommand::Suspend(entry()))),
            BumpEpoch => ("bump-epoch", Command::Admin(AdminCommand::BumpEpoch)),
            SuspendReady => ("suspend-ready", Command::SuspendReady { id, expires }),
        };
        self.universe.write(Event::Ordered { what, domain, lasts: order.lasts });
        node.tell(command).await;
    }

    // ---- Looks -----------------------------------------------------------------------------------------

    /// Once a virtual minute: what an operator's monitoring would see.
    async fn look(&mut self) {
        self.looks += 1;
        if !self.disk_is_still_ill() {
            self.lingering_ends();
        }
        let now = self.universe.now();
        self.universe.log.settle(&self.universe);
        let universe = self.universe.clone();
        universe.ledger.read(|entries| self.residents.note(&universe, entries));
        let Some(node) = &self.node else { return };
        if node.is_paused() {
            return;
        }
        if now.mono > self.excused_until
            && let Some(broken) = waits::look(&self.universe, self.options, now)
        {
            return self.break_off(broken);
        }
        let overdue = self.residents.overdue(now.mono);
        let life = self.lives;
        let compact = self.looks.is_multiple_of(10);
        let asked = overdue.clone();
        let Ok(Some(seen)) = timeout(MINUTE, node.look(asked, compact)).await else {
            // Killed meanwhile, or still starting.
            return self.residents.again(overdue, now.mono + MINUTE);
        };
        if let Some(broken) = bounds::check(&seen.look, self.options) {
            self.break_off(broken);
        }
        // A life that has just ended, and begun again, has its own story.
        let failing = self.universe.disk.failing_since().filter(|_| self.lives == life);
        if now.mono > self.excused_until
            && let Some(broken) = dispatchers::check(seen.look.at, &seen.look.dispatchers)
        {
            self.break_off(broken);
        }
        if now.mono > self.excused_until
            && let Some(broken) = gate::check(seen.look.at, failing, seen.look.is_shut)
        {
            self.break_off(broken);
        }
        if !seen.held.is_empty() {
            self.held_too_long(seen.held, now.mono);
        }
    }

    /// Messages whose time is up, and which the engine holds all the same.
    fn held_too_long(&mut self, held: Vec<SpoolId>, now: Mono) {
        let trouble = self.universe.ledger.read(|entries| {
            let from = Mono(now.0.saturating_sub(30 * MINUTE.as_nanos() as u64));
            let facts = Facts::of(self.options, &self.universe, entries);
            facts.trouble_between(&["disk", "log", "node", "policy", "host"], from, now)
        });
        // A life knows the age of earlier lives' messages by the wall clock alone.
        let stepped = self.universe.faults.fired()[FaultKind::HostWallStep as usize] > 0;
        let damaged = held.iter().all(|id| self.damaged.contains(id));
        if trouble || damaged || (stepped && self.lives > 1) {
            return self.residents.again(held, now + MINUTE);
        }
        let what = format!("{} is still there though its time is up", held[0]);
        self.break_off(violation("I9", now, what));
    }
    // ---- Liveness --------------------------------------------------------------------------------------

    async fn heal(&mut self) {
        if self.broken.is_some() {
            return;
        }
        self.universe.write(Event::Healed);
        self.universe.faults.heal();
        self.universe.lives.disarm();
        self.agenda.clear_faults();
        self.resume();
        // A log is opened again by its gate; files wait for an operator.
        if self.options.disk.files && self.universe.disk.needs_reopen() {
            self.stop_node().await;
        }
        self.start_node().await;
    }

    /// All clients done, and nothing left in the node.
    async fn liveness(&mut self, busy: &mut Vec<JoinHandle<()>>) {
        let healed = self.now();
        let gate = self.options.disk.error_latch + self.options.disk.error_unlatch;
        let patience = self.longest_gap() + self.lateness_of_steps() + gate + SETTLING;
        while self.broken.is_none() {
            self.until(Instant::now() + Duration::from_secs(10)).await;
            if let Some(action) = self.agenda.due(Duration::MAX) {
                self.perform(action).await;
            }
            busy.retain(|task| !task.is_finished());
            let left = match &self.node {
                Some(node) => {
                    timeout(MINUTE, node.message_count(self.damaged())).await.ok().flatten()
                }
                None => None,
            };
            if busy.is_empty() && left == Some(0) {
                return;
            }
            let since = healed.max(self.last_progress());
            if busy.is_empty() && self.now().since(since) > patience {
                let left = left.map_or("an unknown number of".into(), |left| left.to_string());
                let what = format!(
                    "{left} messages are still there {:.0} s after all was healed; {}",
                    self.now().since(healed).as_secs_f64(),
                    self.why_left().await
                );
                self.break_off(violation("I10", self.now(), what));
            }
            let clients_give_up = patience + Duration::from_secs(12 * 3600);
            if self.now().since(healed) > clients_give_up {
                let what = format!("{} clients are still busy", busy.len());
                self.break_off(violation("I10", self.now(), what));
            }
        }
    }

    async fn why_left(&self) -> String {
        let ids = self.universe.ledger.read(|entries| {
            let facts = Facts::of(self.options, &self.universe, entries);
            let ids = facts.stories.values().flat_map(|story| &story.ids);
            ids.filter(|id| !facts.damaged.contains(id)).copied().collect()
        });
        match &self.node {
            Some(node) => {
                timeout(MINUTE, node.explain(ids)).await.ok().flatten().unwrap_or_default()
            }
            None => "no node is running".into(),
        }
    }

    /// Messages that were damaged on purpose stay where they are, for an operator.
    fn damaged(&self) -> Vec<SpoolId> {
        self.damaged.iter().copied().collect()
    }

    fn longest_gap(&self) -> Duration {
        let policy = &self.universe.settings.policy;
        let gaps = self.options.destination.iter().map(|destination| {
            let config = policy.queue_config(&destination.domain);
            config.max_retry_interval.unwrap_or(config.max_age)
        });
        gaps.max().unwrap_or_default() + REQUEUE
    }

    /// A retry that was written down before the wall clock stepped comes late in the lives after it: by the step if it went forward and
    /// back, by the message's age if it went back behind its creation.
    fn lateness_of_steps(&self) -> Duration {
        let steps = self.options.fault.iter().filter(|fault| fault.what == FaultKind::HostWallStep);
        let late = steps.map(|step| match step.target {
            None => step.amount.unwrap_or(Duration::from_secs(3600)),
            Some(_) => self.options.safety,
        });
        if self.lives > 1 { late.sum() } else { Duration::ZERO }
    }

    /// The last time that a client handed something in, or a server got something.
    fn last_progress(&self) -> Mono {
        self.universe.ledger.read(|entries| {
            let progress = entries.iter().rev().find(|entry| {
                matches!(
                    entry.event,
                    Event::Answered { answer: Answer::Accepted { .. }, .. } | Event::Sunk { .. }
                )
            });
            progress.map_or(Mono(0), |entry| entry.now.mono)
        })
    }

    // ---- The end ---------------------------------------------------------------------------------------

    async fn finish(mut self, log: Log) -> Outcome {
        if self.broken.is_none() {
            self.stop_node().await;
        } else {
            self.kill_node(false).await;
        }
        let mut outcome = self.universe.ledger.read(|entries| {
            let facts = Facts::of(self.options, &self.universe, entries);
            let broken = self.broken.clone().or_else(|| self.left_in_the_spool(&facts));
            // What was seen first counts: an invariant broken early breaks others later.
            let judged = match &broken {
                Some(broken) if broken.invariant != "I10" => None,
                _ => check::judge(&facts),
            };
            Outcome {
                verdict: judged.or(broken).map_or(Verdict::Passed, Verdict::Broken),
                figures: crate::expect::Figures::of(&facts),
                ledger: if log == Log::None { Vec::new() } else { entries.to_vec() },
                ..Outcome::default()
            }
        });
        outcome.hash = self.universe.files.journal_hash();
        outcome.fired = self.universe.faults.fired();
        outcome.steps = self.universe.lives.steps();
        outcome.virtual_time = Duration::from_nanos(self.now().0);
        self.replay_journals(&mut outcome, log);
        outcome
    }

    /// What the engine has done with is gone from the spool, but for what was damaged, or couldn't be written while disk or log were sick.
    fn left_in_the_spool(&self, facts: &Facts<'_>) -> Option<Violation> {
        let mut lives = facts.entries.iter().rev();
        let began = lives.find(|entry| matches!(entry.event, Event::Started { .. }));
        let from = began.map_or(Mono(0), |entry| entry.now.mono);
        if facts.trouble_between(&["disk", "log"], from, self.now()) {
            return None;
        }
        // What a power cut tore in the writing was never promised.
        let whole = |id: &SpoolId| self.universe.disk.durable_since(*id).is_some();
        let ours = |id: &SpoolId| *id != SpoolId::PROBE && !self.damaged.contains(id);
        let left = self.universe.disk.durable_ids(Family::Meta);
        let left = left.into_iter().find(|id| ours(id) && whole(id))?;
        let what = format!("{left} is still in the spool after a stop, and nobody holds it");
        Some(violation("I10", self.now(), what))
    }

    /// What the engine was told and wanted, by the journals of all lives; which must run again with the same outputs.
    fn replay_journals(&self, outcome: &mut Outcome, log: Log) {
        let mut askings = Askings::new(self.seed);
        for (segment, octets) in self.universe.files.take_journal() {
            let mut at = Mono(0);
            let replayed = journal::replay_watched(&octets, |met| match met {
                Met::Input(now, input) => {
                    at = now.mono;
                    askings.input(now, input);
                    outcome.inputs[input.variant()] += 1;
                    if log == Log::Full {
                        self.notes.say_at(at, format!("engine < {input:?}"));
                    }
                }
                Met::Output(output) => {
                    askings.output(output);
                    outcome.outputs[output.variant()] += 1;
                    if log == Log::Full {
                        self.notes.say_at(at, format!("engine > {output:?}"));
                    }
                }
                Met::Handled(engine) => askings.handled(engine),
            });
            askings.end_of_segment();
            if let journal::End::Differs { step, .. } = replayed.end
                && outcome.verdict == Verdict::Passed
            {
                let what = format!("journal segment {segment} runs otherwise from step {step} on");
                outcome.verdict = Verdict::Differs(what);
            }
        }
        outcome.explained = askings.tally;
        if let (Verdict::Passed, Some(broken)) = (&outcome.verdict, askings.broken) {
            outcome.verdict = Verdict::Broken(broken);
        }
    }

    /// Hands messages in over the node's own interface, as an HTTP listener would.
    fn inject(&self, home: &NodeHandle, tasks: Vec<setup::Task>) -> Option<JoinHandle<()>> {
        let node = self.node.as_ref()?;
        (!tasks.is_empty()).then(|| {
            let injections = crate::inject::run(
                self.universe.clone(),
                node.injections(),
                self.options.load.clone(),
                tasks,
                self.seed,
            );
            home.spawn(injections)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm;

    #[test]
    fn a_calm_run_delivers_everything_once_and_repeats_itself() {
        let options = Options { load: crate::options::Load::default(), ..Options::default() };
        let runs = [(); 2].map(|()| once(&options, 5, None, Log::None));
        assert_eq!(runs[0].verdict, Verdict::Passed);
        assert_eq!(runs[0].figures.delivered, u64::from(options.load.messages));
        assert_eq!(runs[0].hash, runs[1].hash);
        let other = once(&options, 6, None, Log::None);
        assert_ne!(other.hash, runs[0].hash, "the seed counts");
    }

    #[test]
    fn a_log_changes_nothing_of_a_run() {
        let options = swarm::swarm(100);
        let hashes =
            [Log::None, Log::Short, Log::Full].map(|log| once(&options, 100, None, log).hash);
        assert_eq!(hashes[0], hashes[1]);
        assert_eq!(hashes[0], hashes[2]);
    }

    #[test]
    fn a_panic_of_a_run_is_its_verdict() {
        crate::watch::keep_panics();
        let impossible = Options { destination: Vec::new(), ..Options::default() };
        let outcome = once(&impossible, 1, None, Log::None);
        assert!(matches!(outcome.verdict, Verdict::Crash(_)), "{}", outcome.verdict);
        assert_eq!(outcome.verdict.exit_code(), 10);
    }
}

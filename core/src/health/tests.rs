//! The gate's rules one by one, then all of them over arbitrary courses of events; the disk guard's edges.
use super::gate::KNOWN_DAMAGE;
use super::*;
use crate::port::{FreeSpace, SpoolError, SpoolErrorKind};
use crate::time::{Duration, Mono};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> GateConfig {
    GateConfig {
        store: "rocksdb at /spool".into(),
        look_at: "/spool/LOG".into(),
        error_latch: Duration::from_secs(15),
        error_unlatch: Duration::from_secs(300),
        allow_unlatch: true,
    }
}

fn error(kind: SpoolErrorKind, text: &str) -> SpoolError {
    SpoolError { kind, text: text.into() }
}

/// A gate, its clock, and a store behind it that answers probes at once.
struct Bench {
    gate: Gate,
    now: Mono,
    /// What the store would say to a write.
    health: Result<(), SpoolErrorKind>,
    /// What it says to being opened again, which mends it if it works.
    reopen: Result<(), SpoolErrorKind>,
    probes: Vec<Mono>,
    reopened: Vec<Mono>,
    notices: Vec<Notice>,
}

impl Bench {
    fn new(config: GateConfig) -> Bench {
        Bench {
            gate: Gate::new(config),
            now: Mono(0) + SECOND,
            health: Ok(()),
            reopen: Ok(()),
            probes: Vec::new(),
            reopened: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.gate.handle(self.now, input);
        while let Some(output) = self.gate.poll() {
            match output {
                Output::Notice(notice) => self.notices.push(notice),
                Output::Probe => {
                    self.probes.push(self.now);
                    let result = self.health.map_err(|kind| error(kind, "probe"));
                    self.gate.handle(self.now, Input::Probed(result.as_ref().copied()));
                }
                Output::Reopen => {
                    self.reopened.push(self.now);
                    if self.reopen.is_ok() {
                        self.health = Ok(());
                    }
                    let result = self.reopen.map_err(|kind| error(kind, "reopen"));
                    self.gate.handle(self.now, Input::Reopened(result.as_ref().copied()));
                }
            }
        }
    }

    fn fail(&mut self, kind: SpoolErrorKind) {
        self.input(Input::Failed { call: Call::Write, kind, text: "it hurts" });
    }

    /// Lets time pass, waking the gate exactly when it wants to be.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(wake) = self.gate.next_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.input(Input::Tick);
        }
        self.now = end;
    }

    fn latched_after(&mut self, time: Duration) -> bool {
        self.pass(time);
        self.gate.is_latched()
    }

    fn told(&self, words: &str) -> usize {
        self.notices.iter().filter(|notice| notice.text.contains(words)).count()
    }

    fn of_level(&self, level: Level) -> usize {
        self.notices.iter().filter(|notice| notice.level == level).count()
    }
}

#[test]
fn a_fatal_error_shuts_it_at_once_and_says_where_to_look() {
    for kind in [SpoolErrorKind::Corruption, SpoolErrorKind::Io, SpoolErrorKind::NoSpace] {
        let mut bench = Bench::new(config());
        bench.fail(kind);
        bench.fail(kind);
        assert!(bench.gate.is_latched(), "{kind:?}");
        let [notice] = bench.notices.as_slice() else { panic!("{:?}", bench.notices) };
        let expected = alloc::format!(
            "rocksdb at /spool: fatal foreground error ({kind:?}); load-shedding gate latched immediately. \
             Underlying error: it hurts. See /spool/LOG"
        );
        assert_eq!(notice.text, expected);
        assert!(bench.gate.explain().unwrap().starts_with(&expected));
    }
}

#[test]
fn damage_shuts_it_when_it_is_met_and_not_at_each_message_that_lies_in_it() {
    let mut bench = Bench::new(config());
    let kind = SpoolErrorKind::Corruption;
    for text in ["block 1", "block 2"] {
        bench.input(Input::Failed { call: Call::Read, kind, text });
        assert!(bench.gate.is_latched(), "{text}");
        assert!(!bench.latched_after(Duration::from_secs(300)));
        bench.input(Input::Failed { call: Call::Read, kind, text });
        assert!(!bench.gate.is_latched() && !bench.gate.is_troubled());
    }
    bench.input(Input::Failed { call: Call::Write, kind, text: "block 1" });
    assert!(bench.gate.is_latched(), "what can't be written is always news");
}

#[test]
fn a_damaged_table_is_the_same_damage_in_whatever_words_it_is_named() {
    let mut bench = Bench::new(config());
    let kind = SpoolErrorKind::Corruption;
    bench.input(Input::Damaged {
        text: "rocksdb at /spool: IO error: No such file: /spool/000012.sst; opened without it",
    });
    assert!(!bench.latched_after(Duration::from_secs(300)));
    let text = "Corruption: block checksum mismatch in /spool/000012.sst offset 7";
    bench.input(Input::Failed { call: Call::Read, kind, text });
    assert!(!bench.gate.is_latched());
    let text = "Corruption: block checksum mismatch in /spool/000013.sst offset 7";
    bench.input(Input::Failed { call: Call::Write, kind, text });
    assert!(!bench.latched_after(Duration::from_secs(300)));
    bench.input(Input::Failed { call: Call::Read, kind, text });
    assert!(!bench.gate.is_latched());
}

#[test]
fn reads_that_fail_while_it_is_shut_do_not_put_off_its_opening() {
    for kind in [SpoolErrorKind::NoSpace, SpoolErrorKind::Other] {
        let mut bench = Bench::new(config());
        bench.input(Input::Failed { call: Call::Write, kind: SpoolErrorKind::Io, text: "x" });
        for _ in 0..299 {
            bench.pass(SECOND);
            bench.input(Input::Failed { call: Call::Read, kind, text: "it isn't open" });
        }
        assert!(!bench.latched_after(SECOND), "{kind:?}");
    }
}

#[test]
fn more_damage_than_can_be_told_apart_shuts_it_no_more() {
    let mut bench = Bench::new(config());
    let kind = SpoolErrorKind::Corruption;
    for number in 0..KNOWN_DAMAGE + 10 {
        let text = alloc::format!("/spool/{number:06}.sst is damaged");
        bench.input(Input::Failed { call: Call::Read, kind, text: &text });
        assert_eq!(bench.gate.is_latched(), number < KNOWN_DAMAGE, "{number}");
        bench.latched_after(Duration::from_secs(300));
    }
}

#[test]
fn patience_asked_for_and_a_closed_store_are_no_errors() {
    let mut bench = Bench::new(config());
    bench.fail(SpoolErrorKind::Busy);
    bench.fail(SpoolErrorKind::Closed);
    assert_eq!(bench.gate.next_wake(), None);
    assert!(bench.notices.is_empty());
}

#[test]
fn one_stray_error_never_shuts_it() {
    let mut bench = Bench::new(config());
    bench.fail(SpoolErrorKind::Other);
    assert!(!bench.latched_after(Duration::from_secs(3600)));
    assert!(!bench.gate.is_troubled() && bench.gate.next_wake().is_none());
    assert_eq!(bench.of_level(Level::Error), 1, "{:?}", bench.notices);
    // Without traffic, probes have proved that it is over.
    assert!(!bench.probes.is_empty() && bench.probes.len() < 10);
}

#[test]
fn errors_that_keep_coming_shut_it_though_writes_succeed() {
    let mut bench = Bench::new(config());
    for _ in 0..14 {
        bench.input(Input::DeadlineUsedUp);
        bench.pass(SECOND);
        bench.input(Input::Synced);
        assert!(!bench.gate.is_latched());
    }
    bench.input(Input::DeadlineUsedUp);
    assert!(bench.latched_after(2 * SECOND));
    assert_eq!(bench.gate.cause(), Some(Cause::Sustained));
    let last = bench.notices.last().unwrap();
    assert!(last.text.contains("errors for 15s, 15 of them"), "{}", last.text);
    assert!(last.text.contains("Ingress paths will now reject traffic"), "{}", last.text);
}

#[test]
fn trouble_ends_after_a_third_of_the_latch_time_at_most_five_seconds() {
    for (latch, quiet) in [(15, 5), (60, 5), (3, 1)] {
        let mut bench =
            Bench::new(GateConfig { error_latch: Duration::from_secs(latch), ..config() });
        bench.input(Input::DeadlineUsedUp);
        bench.input(Input::Synced);
        bench.pass(Duration::from_secs(quiet) - Duration::from_millis(1));
        assert!(bench.gate.is_troubled());
        bench.pass(Duration::from_millis(1));
        assert!(!bench.gate.is_troubled());
    }
}

#[test]
fn a_store_that_fails_its_probes_is_in_trouble_until_it_shuts() {
    let mut bench = Bench::new(config());
    bench.health = Err(SpoolErrorKind::Busy);
    bench.input(Input::DeadlineUsedUp);
    assert!(bench.latched_after(Duration::from_secs(15)));
    assert_eq!(bench.gate.cause(), Some(Cause::Sustained));
    assert!((13..=15).contains(&bench.probes.len()), "once a second: {}", bench.probes.len());
}

#[test]
fn background_errors_count_from_what_they_were_at_open() {
    let mut bench = Bench::new(config());
    bench.input(Input::BackgroundErrors(7));
    assert!(!bench.gate.is_troubled());
    for count in 8..24 {
        bench.input(Input::BackgroundErrors(count));
        bench.pass(SECOND);
    }
    assert!(bench.gate.is_latched());
    assert!(bench.notices[0].text.contains("from 7 to 8"), "{}", bench.notices[0].text);
    assert!(bench.notices[0].text.contains("/spool/LOG"));
}

#[test]
fn it_opens_after_the_quiet_time_and_a_probe() {
    let mut bench = Bench::new(config());
    bench.fail(SpoolErrorKind::Io);
    bench.pass(Duration::from_secs(100));
    bench.fail(SpoolErrorKind::Other);
    assert!(bench.latched_after(Duration::from_secs(300) - Duration::from_millis(1)));
    assert!(bench.probes.is_empty());
    assert!(!bench.latched_after(Duration::from_millis(1)));
    assert_eq!((bench.probes.len(), bench.reopened.len()), (1, 0));
    assert_eq!(bench.of_level(Level::Info), 1);
}

#[test]
fn what_stays_read_only_is_opened_again_before_it_is_given_up() {
    let mut bench = Bench::new(config());
    bench.health = Err(SpoolErrorKind::Io);
    bench.fail(SpoolErrorKind::Io);
    assert!(!bench.latched_after(Duration::from_secs(300)));
    assert_eq!((bench.probes.len(), bench.reopened.len()), (2, 1));
}

#[test]
fn a_failed_probe_begins_the_quiet_time_anew() {
    let mut bench = Bench::new(config());
    (bench.health, bench.reopen) = (Err(SpoolErrorKind::Io), Err(SpoolErrorKind::Io));
    bench.fail(SpoolErrorKind::Io);
    assert!(bench.latched_after(Duration::from_secs(599)));
    bench.health = Ok(());
    assert!(!bench.latched_after(SECOND));
    assert_eq!(bench.told("still latched, a probe failed"), 1);
}

#[test]
fn what_cannot_be_closed_waits_for_a_restart_and_says_so() {
    let mut bench = Bench::new(config());
    (bench.health, bench.reopen) = (Err(SpoolErrorKind::Io), Err(SpoolErrorKind::Busy));
    bench.fail(SpoolErrorKind::Io);
    assert!(bench.latched_after(Duration::from_secs(3600)));
    assert_eq!(bench.reopened.len(), 1);
    assert!(bench.notices.last().unwrap().text.ends_with("restart kumod"));
    assert!(bench.gate.explain().unwrap().ends_with("restart kumod"));
    assert_eq!(bench.gate.next_wake(), None);
}

#[test]
fn without_leave_to_open_it_stays_shut() {
    for kind in [SpoolErrorKind::Io, SpoolErrorKind::NoSpace] {
        let mut bench = Bench::new(GateConfig { allow_unlatch: false, ..config() });
        bench.fail(kind);
        bench.input(Input::Room(true));
        assert!(bench.latched_after(Duration::from_secs(86_400)));
        assert!(bench.probes.is_empty());
        assert!(bench.gate.explain().unwrap().contains("allow_error_unlatch is false"));
    }
}

#[test]
fn a_latch_for_lack_of_room_alone_opens_with_the_room() {
    let mut bench = Bench::new(config());
    bench.fail(SpoolErrorKind::NoSpace);
    assert!(bench.latched_after(Duration::from_secs(3600)), "there is no room yet");
    assert!(bench.probes.is_empty());
    bench.input(Input::Room(true));
    assert!(!bench.latched_after(SECOND));
    // With another cause the quiet time counts, whichever came first.
    for (one, other) in [
        (SpoolErrorKind::NoSpace, SpoolErrorKind::Io),
        (SpoolErrorKind::Io, SpoolErrorKind::NoSpace),
    ] {
        bench.fail(one);
        bench.fail(other);
        bench.input(Input::Room(true));
        assert!(bench.latched_after(Duration::from_secs(299)));
        assert!(!bench.latched_after(SECOND));
    }
}

#[test]
fn a_store_that_was_damaged_when_it_was_opened_begins_shut() {
    let mut bench = Bench::new(config());
    bench.input(Input::Damaged { text: "a table is gone" });
    assert_eq!(bench.gate.cause(), Some(Cause::Damaged));
    assert_eq!(bench.notices[0].text, "a table is gone");
    assert!(bench.latched_after(Duration::from_secs(299)));
    assert!(!bench.latched_after(SECOND));
}

#[test]
fn an_error_that_races_with_the_clearing_keeps_it_shut() {
    for racing in [
        Input::Failed { call: Call::Write, kind: SpoolErrorKind::Other, text: "x" },
        Input::BackgroundErrors(2),
    ] {
        let mut gate = Gate::new(config());
        gate.handle(Mono(0), Input::BackgroundErrors(1));
        gate.handle(
            Mono(0),
            Input::Failed { call: Call::Write, kind: SpoolErrorKind::Io, text: "x" },
        );
        let due = gate.next_wake().unwrap();
        gate.handle(due, Input::Tick);
        gate.handle(due, racing);
        gate.handle(due, Input::Probed(Ok(())));
        assert!(gate.is_latched());
        assert_eq!(gate.next_wake(), Some(due + Duration::from_secs(300)));
    }
}

#[derive(Clone, Debug)]
enum Event {
    Fail(SpoolErrorKind),
    DeadlineUsedUp,
    Background(u64),
    Synced,
    Room(bool),
    Health(Result<(), SpoolErrorKind>),
    Reopen(Result<(), SpoolErrorKind>),
    Pass(Duration),
}

fn any_kind() -> impl Strategy<Value = SpoolErrorKind> {
    use SpoolErrorKind::*;
    prop::sample::select(vec![Corruption, Io, NoSpace, Busy, Closed, Other])
}

fn any_event() -> impl Strategy<Value = Event> {
    let result = || prop_oneof![2 => Just(Ok(())), 1 => any_kind().prop_map(Err)];
    prop_oneof![
        2 => any_kind().prop_map(Event::Fail),
        1 => Just(Event::DeadlineUsedUp),
        1 => (0..9u64).prop_map(Event::Background),
        2 => Just(Event::Synced),
        1 => any::<bool>().prop_map(Event::Room),
        1 => result().prop_map(Event::Health),
        1 => result().prop_map(Event::Reopen),
        6 => (0..40_000u64).prop_map(|millis| Event::Pass(Duration::from_millis(millis))),
    ]
}

/// What an onlooker knows, without the gate's own bookkeeping.
#[derive(Default)]
struct Onlooker {
    last_error: Mono,
    errors: u64,
    background: u64,
    edges: (usize, usize),
}

proptest! {
    /// It never opens too early, never stays shut after the quiet time with a store that works, and tells each edge once.
    #[test]
    fn the_gate_keeps_its_times(events in prop::collection::vec(any_event(), 1..60)) {
        let mut bench = Bench::new(GateConfig { error_unlatch: Duration::from_secs(30), ..config() });
        bench.input(Input::BackgroundErrors(0));
        let mut known = Onlooker::default();
        for event in events {
            let was = bench.gate.is_latched();
            let probes = bench.probes.len();
            match event {
                Event::Fail(kind) => {
                    bench.fail(kind);
                    if !matches!(kind, SpoolErrorKind::Busy | SpoolErrorKind::Closed) {
                        known.errors += 1;
                        known.last_error = bench.now;
                    }
                }
                Event::DeadlineUsedUp => {
                    bench.input(Input::DeadlineUsedUp);
                    known.errors += 1;
                    known.last_error = bench.now;
                }
                Event::Background(more) => {
                    known.background += more;
                    bench.input(Input::BackgroundErrors(known.background));
                    if more > 0 {
                        known.last_error = bench.now;
                    }
                }
                Event::Synced => bench.input(Input::Synced),
                Event::Room(room) => bench.input(Input::Room(room)),
                Event::Health(health) => bench.health = health,
                Event::Reopen(reopen) => bench.reopen = reopen,
                Event::Pass(time) => bench.pass(time),
            }
            let is = bench.gate.is_latched();
            if is && !was {
                known.edges.0 += 1;
            }
            if was && !is {
                known.edges.1 += 1;
                let probed = bench.probes[probes..].last();
                prop_assert!(probed.is_some(), "it opened without a probe");
                prop_assert!(*probed.unwrap() >= known.last_error);
            }
            prop_assert!(bench.gate.is_latched() == bench.gate.explain().is_some());
        }
        // An edge back and forth within one pass of time is seen by neither count.
        let (shut, opened) = (bench.told("gate latched"), bench.told("gate cleared"));
        prop_assert!(shut >= known.edges.0 && opened >= known.edges.1);
        prop_assert_eq!(shut - opened, usize::from(bench.gate.is_latched()));
        // The store works again: whatever came before, the gate opens, unless it said that it can't.
        (bench.health, bench.reopen) = (Ok(()), Ok(()));
        bench.input(Input::Room(true));
        bench.pass(Duration::from_secs(47));
        let needs_restart = bench.told("restart kumod") > 0;
        prop_assert!(needs_restart || !bench.gate.is_latched(), "{:?}", bench.gate);
        prop_assert!(needs_restart || !bench.gate.is_troubled());
    }

    /// No error other than lack of room is forgiven before its quiet time, however probes and errors are interleaved.
    #[test]
    fn the_quiet_time_is_quiet(gaps in prop::collection::vec(1..60_000u64, 1..30)) {
        let mut bench = Bench::new(GateConfig { error_unlatch: Duration::from_secs(30), ..config() });
        for gap in gaps {
            bench.fail(SpoolErrorKind::Io);
            let expected = gap < 30_000;
            prop_assert_eq!(bench.latched_after(Duration::from_millis(gap)), expected);
        }
    }
}

fn free(octets: u64, inodes: u64) -> FreeSpace {
    FreeSpace { octets, octets_total: 1000, inodes, inodes_total: 1000 }
}

#[test]
fn the_guard_enters_below_its_minimum_and_leaves_well_above_it() {
    let ten = Threshold::PerCent(10);
    let mut guard = DiskGuard::new(ten, ten);
    assert_eq!(guard.sample(free(100, 100)), None);
    assert_eq!(guard.sample(free(99, 100)), Some(Edge::Entered));
    assert_eq!(guard.sample(free(99, 100)), None);
    assert_eq!(guard.sample(free(109, 100)), None, "not by a hair");
    assert!(guard.is_over());
    assert_eq!(guard.sample(free(110, 110)), Some(Edge::Left));
    assert_eq!(guard.sample(free(500, 99)), Some(Edge::Entered), "inodes count as well");
    let mut guard = DiskGuard::new(Threshold::Units(200), Threshold::Units(0));
    assert_eq!(guard.sample(free(199, 0)), Some(Edge::Entered));
    assert_eq!(guard.sample(free(219, 0)), None);
    assert_eq!(guard.sample(free(220, 0)), Some(Edge::Left));
}

#[test]
fn a_guard_that_asks_for_nothing_and_a_file_system_without_inodes_are_fine() {
    let mut off = DiskGuard::new(Threshold::PerCent(0), Threshold::PerCent(0));
    assert_eq!(off.sample(free(0, 0)), None);
    let mut guard = DiskGuard::new(Threshold::default(), Threshold::default());
    let inodeless = FreeSpace { inodes: 0, inodes_total: 0, ..free(500, 0) };
    assert_eq!(guard.sample(inodeless), None);
}

#[test]
fn thresholds_are_shares_or_numbers() {
    use crate::config::read;
    use serde_json::json;
    let read = |value| read::value::<Threshold>(value);
    assert_eq!(read(json!("10%")), Ok(Threshold::PerCent(10)));
    assert_eq!(read(json!("4096")), Ok(Threshold::Units(4096)));
    assert_eq!(read(json!(4096)), Ok(Threshold::Units(4096)));
    for wrong in [json!("110%"), json!("much"), json!(-1), json!(true), json!("")] {
        let why: String = read(wrong.clone()).unwrap_err();
        assert!(why.contains("expected a share from '0%' to '100%'"), "{wrong}: {why}");
    }
}

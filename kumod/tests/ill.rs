//! kumod over a folder that goes bad: read-only, full, or with damaged files. What was accepted has to arrive, or to be
//! named as damaged; nothing is bounced for the disk's sake. Needs root for mounts.
mod support;

#[path = "ill/guards.rs"]
mod guards;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::choices::Choices;
use support::damage::{
    Table, cut_table, delete_table, flip_log, flip_manifest, flip_table, lengthen_manifest,
};
use support::folders::{ReadOnly, Small};
use support::lives::{DRAIN, QUIET};
use support::{Client, Home, Kumod, PATIENCE, Reply, Sink, refuses_to_start, wait_for};

/// Nobody listens there.
const NOWHERE: &str = "[127.0.0.1]:1";
/// So that mail gets into tables, and so that a shut gate soon opens.
const SMALL_BUFFERS: &str =
    "rocks_params = { write_buffer_size = 65536, error_unlatch_duration = '2s' }";
/// So that a shut gate soon opens.
const SOON_OPEN: &str = "rocks_params = { error_unlatch_duration = '2s' }";
const FAMILIES: [&str; 2] = ["data", "meta"];
/// Messages in a spool that is going to be damaged.
const STORED: usize = 100;
const CLIENTS: usize = 4;
/// For a spool that has room again to take mail again without a restart, if it does so at all.
const RECOVERY: Duration = Duration::from_secs(10);

/// Both spools in one folder with these options; everything goes to `mx`, soon again if it can't.
fn policy(home: &Home, spool: &str, mx: &str) -> PathBuf {
    let handlers = format!(
        "kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
             retry_interval = '1s', max_retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}} }}
         end)"
    );
    home.policy_with_options("spool", "spool", spool, "", &handlers)
}

/// With `number` as its subject. Different in every message, so that compression makes it no smaller.
fn content(number: usize, octets: usize) -> String {
    let mut choices = Choices::new(number as u64, 0);
    let mut content = format!("Subject: {number}\r\n\r\n");
    while content.len() < octets {
        content.push_str(&format!("{:016x}{:016x}\r\n", choices.next(), choices.next()));
    }
    content
}

/// The answer to the final dot.
fn send(client: &mut Client, number: usize, octets: usize) -> std::io::Result<Reply> {
    client.send("ann@client.example", &["bob@sink.example"], &content(number, octets))
}

/// By id, the subjects of the messages that were accepted.
type Accepted = BTreeMap<String, usize>;

fn note(accepted: &mut Accepted, number: usize, reply: &Reply) {
    let id = reply.text.trim_end().strip_prefix("250 OK ids=");
    accepted.insert(id.unwrap_or_else(|| panic!("{reply:?}")).to_string(), number);
}

/// Ids of those that didn't arrive.
fn missing(accepted: &Accepted, sink: &Sink) -> Vec<String> {
    let sunk = sink.sunk();
    let arrived = |number: &usize| {
        let subject = number.to_string();
        sunk.iter().any(|sunk| sunk.header("Subject").as_ref() == Some(&subject))
    };
    accepted.iter().filter(|(_, number)| !arrived(number)).map(|(id, _)| id.clone()).collect()
}

/// Of messages that nobody can be given yet.
fn fill_spool(home: &Home, spool: &str, count: usize, octets: usize) -> Accepted {
    let kumod = Kumod::start(&policy(home, spool, NOWHERE));
    let mut client = Client::greet(kumod.address()).unwrap();
    let mut accepted = Accepted::new();
    for number in 0..count {
        let reply = send(&mut client, number, octets).unwrap();
        note(&mut accepted, number, &reply);
    }
    kumod.stop();
    accepted
}

#[test]
fn a_spool_that_has_become_read_only_is_one_clear_line_and_exit_code_1() {
    let home = Home::new();
    let accepted = fill_spool(&home, "", 3, 100);
    let read_only = ReadOnly::over(&home.path("spool"));
    let said = refuses_to_start(&policy(&home, "", NOWHERE));
    drop(read_only);
    let [line] = &said[..] else { panic!("not one line: {said:#?}") };
    assert!(line.contains(&home.path("spool").display().to_string()), "{line}");
    assert!(line.contains("Read-only file system"), "{line}");

    let sink = Sink::start(());
    let kumod = Kumod::start(&policy(&home, "", &sink.as_mx()));
    wait_for("all deliveries", PATIENCE, || missing(&accepted, &sink).is_empty().then_some(()));
    kumod.stop();
}

#[test]
fn octets_flipped_in_a_table_cost_only_what_is_named() {
    for family in FAMILIES {
        costs_only_what_is_named(|database| flip_table(database, Table::Of(family)));
    }
}

#[test]
fn a_table_that_was_cut_costs_only_what_is_named() {
    for family in FAMILIES {
        costs_only_what_is_named(|database| cut_table(database, Table::Of(family)));
    }
}

#[test]
fn a_table_that_is_gone_costs_only_what_is_named() {
    for family in FAMILIES {
        costs_only_what_is_named(|database| delete_table(database, Table::Of(family)));
    }
}

/// Between two lives. The other messages arrive, as does a new one.
fn costs_only_what_is_named(damage: impl Fn(&Path) -> PathBuf) {
    let (home, sink) = (Home::new(), Sink::start(()));
    let mut accepted = fill_spool(&home, SMALL_BUFFERS, STORED, 4000);
    let damaged = damage(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    // The gate is shut for the damage at first, and again for each record that can't be read; nothing is delivered then.
    let reply = wait_for("a new message to be taken", PATIENCE * 4, || {
        one_message(kumod.address(), STORED).ok().filter(|reply| reply.code == 250)
    });
    note(&mut accepted, STORED, &reply);
    let missing = wait_for("each message to arrive or to be named", PATIENCE * 4, || {
        let (missing, said) = (missing(&accepted, &sink), kumod.said());
        missing.iter().all(|id| names_as_damaged(&said, id)).then_some(missing)
    });
    println!("{damaged:?}: {} of {} are missing", missing.len(), accepted.len());
    assert!(!missing.is_empty(), "{damaged:?} was damaged, and nothing is missing");
    assert!(missing.len() < STORED, "{damaged:?} was damaged, and nothing of the rest arrived");
    assert!(missing.iter().all(|id| accepted[id] != STORED), "the new message is missing");
    kumod.stop();
    for kind in ["Bounce", "Expiration"] {
        assert_eq!(home.records_of(kind), Vec::<serde_json::Value>::new());
    }
}

#[test]
fn octets_flipped_in_the_log_cost_only_what_is_owned_up_to() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let accepted = fill_spool(&home, SOON_OPEN, STORED, 4000);
    let damaged = flip_log(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, SOON_OPEN, &sink.as_mx()));
    let said = kumod.said().join("\n");
    assert!(said.contains(&damaged.display().to_string()), "{damaged:?} isn't named: {said}");
    assert!(said.contains("Messages accepted shortly before the last stop may be lost"), "{said}");
    wait_for("the gate to open", PATIENCE, || Client::greet(kumod.address()).ok());
    sink.rest(QUIET, DRAIN);
    kumod.stop();
    let missing = missing(&accepted, &sink);
    println!("{} of {} are missing", missing.len(), accepted.len());
    assert!((1..STORED / 2).contains(&missing.len()), "{missing:?}");
    let copy = home.path("spool/damaged-1").join(damaged.file_name().unwrap());
    assert!(copy.is_file(), "there is no {copy:?}");
    assert_eq!(home.records_of("Bounce"), Vec::<serde_json::Value>::new());
}

#[test]
fn octets_flipped_in_the_manifest_cost_nothing_and_are_owned_up_to() {
    costs_nothing_and_is_owned_up_to(flip_manifest);
}

/// RocksDB by itself takes the damage for the torn end of an older state, and then removes the tables which that doesn't
/// know.
#[test]
fn a_manifest_whose_middle_looks_like_its_end_costs_nothing_and_is_owned_up_to() {
    costs_nothing_and_is_owned_up_to(lengthen_manifest);
}

/// Damage to the MANIFEST: a new one is made of what is there, and every table is kept besides.
fn costs_nothing_and_is_owned_up_to(damage: impl Fn(&Path) -> PathBuf) {
    let (home, sink) = (Home::new(), Sink::start(()));
    let accepted = fill_spool(&home, SMALL_BUFFERS, 3 * STORED, 4000);
    let tables = tables(&home.path("spool"));
    assert!(tables.len() > 2, "{tables:?}");
    let damaged = damage(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    let said = kumod.said().join("\n");
    assert!(said.contains(&damaged.display().to_string()), "{damaged:?} isn't named: {said}");
    let kept = home.path("spool/damaged-1");
    assert!(said.contains(&kept.display().to_string()), "{kept:?} isn't named: {said}");
    for file in tables.iter().map(OsString::as_os_str).chain(damaged.file_name()) {
        assert!(kept.join(file).is_file(), "{file:?} isn't in {kept:?}");
    }
    wait_for("all deliveries", PATIENCE, || missing(&accepted, &sink).is_empty().then_some(()));
    kumod.stop();
    for kind in ["Bounce", "Expiration"] {
        assert_eq!(home.records_of(kind), Vec::<serde_json::Value>::new());
    }
}

/// Their names.
fn tables(database: &Path) -> Vec<OsString> {
    let entries = std::fs::read_dir(database).expect("a database is a folder").flatten();
    let names = entries.map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".sst")).collect()
}

/// A record that is gone with its file is an I/O error to RocksDB, and kumod goes on trying to read it.
fn names_as_damaged(said: &[String], id: &str) -> bool {
    let names = |line: &&String| line.contains(id);
    said.iter().filter(names).any(|line| line.contains("damaged") || line.contains("can't be read"))
}

#[derive(Default)]
struct Told {
    accepted: Accepted,
    /// Subjects.
    refused: Vec<usize>,
    /// By what was refused for good; nothing should be.
    for_good: Vec<String>,
}

/// A client that goes on until it is told to stop, whatever it is answered.
struct Clients {
    told: Arc<Mutex<Told>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn start(address: SocketAddr) -> Clients {
        let (told, over) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let client = |number: usize| {
            let (told, over) = (told.clone(), over.clone());
            std::thread::spawn(move || {
                let subjects = (0..).map(|n| number + CLIENTS * n);
                for subject in subjects.take_while(|_| !over.load(Ordering::Relaxed)) {
                    submit(address, subject, &told);
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Clients { told, over, threads }
    }

    fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap())
    }

    /// Waits until so many more were told so.
    fn wait_for(&self, what: &str, more: usize, count: impl Fn(&Told) -> usize) {
        let before = self.told(&count);
        wait_for(what, PATIENCE, || (self.told(&count) >= before + more).then_some(()));
    }

    fn stop(self) -> Told {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client doesn't panic");
        }
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

/// One message in a connection of its own. A connection that goes away without an answer tells nothing.
fn submit(address: SocketAddr, subject: usize, told: &Mutex<Told>) {
    let Ok(reply) = one_message(address, subject) else { return };
    let mut told = told.lock().unwrap();
    match reply.code {
        250 => note(&mut told.accepted, subject, &reply),
        400..500 => told.refused.push(subject),
        _ => told.for_good.push(reply.text),
    }
}

/// The answer to the final dot, or to what was refused before it.
fn one_message(address: SocketAddr, subject: usize) -> std::io::Result<Reply> {
    let (mut client, banner) = Client::connect(address)?;
    if banner.code != 220 {
        return Ok(banner);
    }
    let commands = [
        "EHLO client.example",
        "MAIL FROM:<ann@client.example>",
        "RCPT TO:<bob@sink.example>",
        "DATA",
    ];
    for command in commands {
        let reply = client.say(command)?;
        if reply.code >= 400 {
            return Ok(reply);
        }
    }
    client.write(&content(subject, 4000))?;
    client.say(".")
}

#[test]
fn a_spool_that_fills_up_loses_nothing_that_was_accepted() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = Small::over(&home.path("spool"), "16m");
    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, NOWHERE));
    let clients = Clients::start(kumod.address());
    clients.wait_for("accepted mail", 50, |told| told.accepted.len());
    let ballast = small.fill();
    clients.wait_for("refusals of a full disk", 50, |told| told.refused.len());
    drop(ballast);
    let before = clients.told(|told| told.accepted.len());
    let until = Instant::now() + RECOVERY;
    let recovers = || clients.told(|told| told.accepted.len() > before + 10);
    while Instant::now() < until && !recovers() {
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("by itself it accepts again: {}", recovers());
    let told = clients.stop();
    println!("{} accepted, {} refused", told.accepted.len(), told.refused.len());
    kumod.stop();

    let kumod = Kumod::start(&policy(&home, SMALL_BUFFERS, &sink.as_mx()));
    wait_for("all deliveries", PATIENCE, || {
        missing(&told.accepted, &sink).is_empty().then_some(())
    });
    kumod.stop();
    assert_eq!(told.for_good, Vec::<String>::new(), "a full disk is no reason to refuse for good");
    let sunk: Vec<String> = sink.sunk().iter().filter_map(|sunk| sunk.header("Subject")).collect();
    let unasked = told.refused.iter().filter(|number| sunk.contains(&number.to_string())).count();
    // Not a fault: what the disk took in part may come back with the restart.
    println!("{unasked} of the refused arrived");
    for kind in ["Bounce", "Expiration"] {
        assert_eq!(home.records_of(kind), Vec::<serde_json::Value>::new());
    }
}

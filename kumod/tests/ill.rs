//! kumod over a folder that goes bad: read-only, full, or with damaged files. What was accepted has to arrive, or to be
//! named as damaged; nothing is bounced for the disk's sake. Needs root for mounts.
mod support;

#[path = "ill/guards.rs"]
mod guards;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::damage::{Table, cut_table, delete_table, flip_table};
use support::folders::{ReadOnly, Small};
use support::lives::{DRAIN, QUIET};
use support::{Client, Home, Kumod, PATIENCE, Sink, refuses_to_start, wait_for};

/// Nobody listens there.
const NOWHERE: &str = "[127.0.0.1]:1";

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

/// The answer to the final dot. `number` is its subject.
fn send(client: &mut Client, number: usize, octets: usize) -> std::io::Result<support::Reply> {
    let line = "abcdefgh".repeat(9) + "\r\n";
    let content = format!("Subject: {number}\r\n\r\n{}", line.repeat(1 + octets / line.len()));
    client.send("ann@client.example", &["bob@sink.example"], &content)
}

/// By id, the subjects of the messages that were accepted.
type Accepted = BTreeMap<String, usize>;

fn note(accepted: &mut Accepted, number: usize, reply: &support::Reply) {
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
fn a_table_that_is_damaged_cut_or_gone_costs_only_what_is_named() {
    let hows: [(&str, fn(&Path, Table) -> PathBuf); 3] =
        [("flip", flip_table), ("cut", cut_table), ("delete", delete_table)];
    let tables = [Table::Newest, Table::Largest, Table::Of("data"), Table::Of("meta")];
    for (what, how) in hows {
        for table in tables {
            println!("== {what} {table:?}");
            costs_only_what_is_named(|database| how(database, table));
        }
    }
}

fn costs_only_what_is_named(damage: impl Fn(&Path) -> PathBuf) {
    let (home, sink) = (Home::new(), Sink::start(()));
    let small = "rocks_params = { write_buffer_size = 65536 }";
    let accepted = fill_spool(&home, small, 100, 4000);
    let damaged = damage(&home.path("spool"));
    let kumod = Kumod::start(&policy(&home, small, &sink.as_mx()));
    sink.rest(QUIET, DRAIN);
    let said = kumod.stop();
    let missing = missing(&accepted, &sink);
    println!("{damaged:?}: {} of {} are missing", missing.len(), accepted.len());
    let unnamed: Vec<&String> =
        missing.iter().filter(|id| !said.iter().any(|line| line.contains(*id))).collect();
    println!("{}", said.join("\n"));
    println!("{} unnamed", unnamed.len());
    assert_eq!(home.records_of("Bounce"), Vec::<serde_json::Value>::new());
}

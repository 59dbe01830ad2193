//! The mail of these tests and its ledger: policies, messages, who was accepted, what has arrived. Knows nothing of faults.
//! Invariant: each message has a subject of its own, a number.
use super::clients::Told;
use super::support::choices::Choices;
use super::support::{Client, Home, Kumod, PATIENCE, Reply, Sink, Sunk, wait_for};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Nobody listens there.
pub const NOWHERE: &str = "[127.0.0.1]:1";
/// So that mail gets into tables, and so that a shut gate soon opens.
pub const SMALL_BUFFERS: &str =
    "rocks_params = { write_buffer_size = 65536, error_unlatch_duration = '2s' }";
/// As above, without a guard against a full disk.
pub const UNGUARDED: &str = "min_free_space = 0, min_free_inodes = 0,
    rocks_params = { write_buffer_size = 65536, error_unlatch_duration = '2s' }";

/// Of all that was accepted, on a machine that other tests keep busy.
pub const DELIVERY: Duration = Duration::from_secs(120);

/// Both spools in one folder with these options; everything goes to `mx`, soon again if it can't.
pub fn policy(home: &Home, spool: &str, mx: &str) -> PathBuf {
    policy_of_path(home, spool, mx, "")
}

/// `path`: further options of the egress path, as Lua fields.
pub fn policy_of_path(home: &Home, spool: &str, mx: &str, path: &str) -> PathBuf {
    policy_of(home, ("spool", "spool"), spool, mx, path)
}

/// `folders`: data's and meta's.
pub fn policy_of(home: &Home, folders: (&str, &str), spool: &str, mx: &str, path: &str) -> PathBuf {
    let handlers = format!(
        "kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
             retry_interval = '1s', max_retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}}, {path} }}
         end)"
    );
    home.policy_with_http(folders, spool, &handlers)
}

/// With `number` as its subject. Different in every message, so that compression makes it no smaller.
pub fn content(number: usize, octets: usize) -> String {
    let mut choices = Choices::new(number as u64, 0);
    let mut content = format!("Subject: {number}\r\n\r\n");
    while content.len() < octets {
        content.push_str(&format!("{:016x}{:016x}\r\n", choices.next(), choices.next()));
    }
    content
}

/// The answer to the final dot.
pub fn send(client: &mut Client, number: usize, octets: usize) -> std::io::Result<Reply> {
    client.send("ann@client.example", &["bob@sink.example"], &content(number, octets))
}

/// By id, the subjects of the messages that were accepted.
pub type Accepted = BTreeMap<String, usize>;

pub fn note(accepted: &mut Accepted, number: usize, reply: &Reply) {
    let id = reply.text.trim_end().strip_prefix("250 OK ids=");
    accepted.insert(id.unwrap_or_else(|| panic!("{reply:?}")).to_string(), number);
}

/// Ids of those that didn't arrive.
pub fn missing(accepted: &Accepted, sink: &Sink) -> Vec<String> {
    let arrived: HashSet<String> = sink.with_sunk(|sunk| {
        let taken = sunk.iter().filter(|sunk| sunk.is_taken());
        taken.filter_map(|sunk: &Sunk| sunk.header("Subject")).collect()
    });
    let is_missing = |number: &usize| !arrived.contains(&number.to_string());
    accepted.iter().filter(|(_, number)| is_missing(number)).map(|(id, _)| id.clone()).collect()
}

/// What was accepted has arrived once, what was refused hasn't, and nothing was refused for good.
pub fn is_as_told(told: &Told, sink: &Sink) {
    told.nothing_is_refused_for_good();
    wait_for_all(&told.accepted, sink);
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    sink.with_sunk(|sunk| {
        let subjects =
            sunk.iter().filter(|one| one.is_taken()).filter_map(|one| one.header("Subject"));
        subjects.for_each(|subject| *copies.entry(subject).or_default() += 1);
    });
    let refused = told.refused.iter().map(|refusal| refusal.subject.to_string());
    let unasked: Vec<String> = refused.filter(|subject| copies.contains_key(subject)).collect();
    assert_eq!(unasked, Vec::<String>::new(), "these were refused, and arrived");
    copies.retain(|_, count| *count > 1);
    assert!(copies.is_empty(), "these arrived more than once: {copies:?}");
}

pub fn wait_for_all(accepted: &Accepted, sink: &Sink) {
    wait_for("all deliveries", DELIVERY, || missing(accepted, sink).is_empty().then_some(()));
}

/// As a client does that has time: 421 only means later.
pub fn send_until_accepted(address: SocketAddr, number: usize, octets: usize) -> Reply {
    wait_for("a message to be accepted", PATIENCE, || {
        let reply = send(&mut Client::greet(address).ok()?, number, octets).ok()?;
        (reply.code == 250).then_some(reply)
    })
}

/// No disk is a reason for that.
pub fn nothing_is_bounced(home: &Home) {
    for kind in ["Bounce", "Expiration"] {
        assert_eq!(home.records_of(kind), Vec::<serde_json::Value>::new());
    }
}

/// Of messages that nobody can be given yet.
pub fn fill_spool(home: &Home, spool: &str, count: usize, octets: usize) -> Accepted {
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

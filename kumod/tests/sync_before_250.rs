//! No 250 to a final dot before the message is on disk, as the kernel sees it: strace watches every thread, and
//! [`support::trace`] reads what it saw. What the disk does after fdatasync has returned is beyond this test.
mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use support::trace::{self, Verdict};
use support::{Client, Home, Kumod, PATIENCE, Sink, wait_for};

const CLIENTS: usize = 8;
const MESSAGES: usize = 3;

struct Traced {
    trace: String,
    /// Ids as the clients read them.
    acknowledged: Vec<String>,
}

/// Several clients send at once, so that there are batches of more than one message; deliveries and removals go on in between.
fn traced(home: &Home, spools: &str) -> Traced {
    let sink = Sink::start(());
    let policy = home.policy_text(&format!(
        "local kumo = require 'kumo'
         kumo.on('init', function()
           {spools}
           kumo.configure_local_logs {{ log_dir = '{logs}', min_free_space = 1000000 }}
           kumo.start_esmtp_listener {{ listen = '127.0.0.1:0' }}
         end)
         kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{ protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }} }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}} }}
         end)",
        logs = home.path("logs").display(),
        mx = sink.as_mx(),
    ));
    let trace = home.path("trace");
    let kumod = Kumod::start_traced(&policy, trace::CALLS, &trace);
    let address = kumod.address();
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| std::thread::spawn(move || send_some(address, n))).collect();
    let acknowledged = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    wait_for("all deliveries", PATIENCE, || {
        (sink.sunk().len() == CLIENTS * MESSAGES).then_some(())
    });
    kumod.stop();
    Traced { trace: whole(&trace), acknowledged }
}

fn send_some(address: SocketAddr, client: usize) -> Vec<String> {
    let mut connection = Client::greet(address).unwrap();
    let ids = (0..MESSAGES).map(|n| {
        let content = format!("Subject: {client}/{n}\r\n\r\nshort\r\n");
        let recipient = format!("r{client}-{n}@sink.example");
        let reply = connection.send("ann@client.example", &[&recipient], &content).unwrap();
        let id = reply.text.trim_end().strip_prefix("250 OK ids=");
        id.unwrap_or_else(|| panic!("{reply:?}")).to_string()
    });
    ids.collect()
}

/// strace writes its last line a little after the process has gone.
fn whole(trace: &Path) -> String {
    wait_for("the end of the trace", PATIENCE, || {
        let text = fs::read_to_string(trace).ok()?;
        text.trim_end().ends_with("+++ exited with 0 +++").then_some(text)
    })
}

fn one_path(home: &Home, flush: bool) -> (String, PathBuf) {
    let path = home.path("spool");
    let define = |name| {
        format!(
            "kumo.define_spool {{ name = '{name}', path = '{}', flush = {flush}, min_free_space = 1000000 }}\n",
            path.display()
        )
    };
    (define("data") + &define("meta"), path)
}

fn assert_sees_all(verdict: &Verdict, traced: &Traced) {
    let sorted = |ids: &[String]| {
        let mut ids = ids.to_vec();
        ids.sort();
        ids
    };
    assert_eq!(sorted(&verdict.acknowledged), sorted(&traced.acknowledged));
    assert_eq!(verdict.acknowledged.len(), CLIENTS * MESSAGES);
}

#[test]
fn every_message_is_synced_before_its_250() {
    let home = Home::new();
    let (spools, path) = one_path(&home, true);
    let traced = traced(&home, &spools);
    let verdict = trace::check(&traced.trace, &[&path]);
    assert_sees_all(&verdict, &traced);
    assert_eq!(verdict.violations, Vec::<String>::new());
    println!("{} messages, {} syncs of the log", verdict.acknowledged.len(), verdict.syncs);

    // The same run without its syncs is found out, message by message.
    let without: Vec<&str> = traced.trace.lines().filter(|line| !line.contains("sync(")).collect();
    let verdict = trace::check(&without.join("\n"), &[&path]);
    assert_eq!(verdict.violations.len(), CLIENTS * MESSAGES, "{verdict:?}");
}

#[test]
fn with_two_paths_both_are_synced_before_the_250() {
    let home = Home::new();
    let (data, meta) = (home.path("data"), home.path("meta"));
    let define = |name: &str, path: &Path| {
        format!(
            "kumo.define_spool {{ name = '{name}', path = '{}', min_free_space = 1000000 }}\n",
            path.display()
        )
    };
    let traced = traced(&home, &(define("data", &data) + &define("meta", &meta)));
    let verdict = trace::check(&traced.trace, &[&data, &meta]);
    assert_sees_all(&verdict, &traced);
    assert_eq!(verdict.violations, Vec::<String>::new());
}

#[test]
fn without_flush_the_check_finds_every_message_unsynced() {
    let home = Home::new();
    let (spools, path) = one_path(&home, false);
    let traced = traced(&home, &spools);
    let verdict = trace::check(&traced.trace, &[&path]);
    assert_sees_all(&verdict, &traced);
    assert_eq!(verdict.violations.len(), CLIENTS * MESSAGES, "{verdict:?}");
    assert!(verdict.violations.iter().all(|why| why.contains("not synced")), "{verdict:?}");
}

/// Thread 1 writes and syncs `/spool/1.log`, thread 2 acknowledges; the message has the id 00…0f.
fn story(calls: &[&str]) -> Verdict {
    let (id, key) = ("0".repeat(31) + "f", "\\x00".repeat(15) + "\\x0f");
    let hexadecimal = |text: &str| text.bytes().map(|b| format!("\\x{b:02x}")).collect::<String>();
    let answer = hexadecimal(&format!("250 OK ids={id}\r\n"));
    let line = |call: &&str| match *call {
        "write" => format!("1 write(9</spool/1.log>, \"{key}\", 16) = 16"),
        "write begins" => format!("3 write(9</spool/1.log>, \"{key}\", 16 <unfinished ...>"),
        "write returns" => "3 <... write resumed>) = 16".into(),
        "250" => format!("2 sendto(7<socket:[5]>, \"{answer}\", 45, MSG_NOSIGNAL, NULL, 0) = 45"),
        "sync" => "1 fdatasync(9</spool/1.log>) = 0".into(),
        "sync begins" => "1 fdatasync(9</spool/1.log> <unfinished ...>".into(),
        "sync returns" => "1 <... fdatasync resumed>) = 0".into(),
        "sync fails" => "1 fdatasync(9</spool/1.log>) = -1 EIO (Input/output error)".into(),
        "another sync" => "1 fdatasync(9</other/1.log>) = 0".into(),
        other => panic!("{other}"),
    };
    let lines: Vec<String> = calls.iter().map(line).collect();
    trace::check(&lines.join("\n"), &[Path::new("/spool")])
}

#[test]
fn only_a_sync_of_the_log_that_began_after_the_write_and_has_returned_counts() {
    let good: [&[&str]; 3] = [
        &["write", "sync", "250"],
        &["write", "sync begins", "sync returns", "250"],
        &["write begins", "write returns", "sync", "250"],
    ];
    for calls in good {
        let verdict = story(calls);
        assert_eq!(verdict.acknowledged.len(), 1, "{calls:?}");
        assert_eq!(verdict.violations, Vec::<String>::new(), "{calls:?}");
    }
    let bad: [&[&str]; 8] = [
        &["250"],
        &["write", "250"],
        &["write", "250", "sync"],
        &["write", "sync begins", "250", "sync returns"],
        &["write", "sync fails", "250"],
        &["write", "another sync", "250"],
        &["sync begins", "write", "sync returns", "250"],
        &["write begins", "sync", "write returns", "250"],
    ];
    for calls in bad {
        assert_eq!(story(calls).violations.len(), 1, "{calls:?}");
    }
}

//! The binary as an operator runs it: mail in over SMTP, out over SMTP, into a maildir or into nothing; TLS and AUTH on
//! both sides; restart and stop; and what it says when it can't start. Nothing in here looks inside of the process.
mod support;

use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{
    Behaviour, Client, Home, Kumod, PATIENCE, Sink, Sunk, Verdict, refuses_to_start, swaks,
    wait_for,
};

/// Everything to one peer. `queue` and `path`: further options, as Lua fields.
fn relay_to(mx: &str, queue: &str, path: &str) -> String {
    format!(
        "kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{ protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }}, {queue} }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{ prohibited_hosts = {{}}, {path} }}
         end)"
    )
}

fn first_sunk(sink: &Sink) -> Sunk {
    wait_for("a delivery", PATIENCE, || sink.sunk().into_iter().find(Sunk::is_taken))
}

fn first_record(home: &Home, kind: &str) -> Value {
    wait_for(kind, PATIENCE, || home.records_of(kind).into_iter().next())
}

const ENVELOPE: [&str; 4] = ["--from", "ann@client.example", "--to", "bob@sink.example"];

#[test]
fn a_message_from_swaks_arrives_as_it_was_sent_behind_its_trace_fields() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let kumod = Kumod::start(&home.policy("", &relay_to(&sink.as_mx(), "", "")));
    let content = "Subject: greetings\r\n\r\nfirst\r\n.dot\r\n\r\nlast";
    let mail = home.path("mail.eml");
    fs::write(&mail, content).unwrap();
    let data = format!("@{}", mail.display());
    let (code, dialogue) = swaks(kumod.address(), &[&ENVELOPE[..], &["--data", &data]].concat());
    assert_eq!(code, 0, "{dialogue}");
    assert!(dialogue.contains("250 OK ids="), "{dialogue}");

    let sunk = first_sunk(&sink);
    assert_eq!(sunk.sender, "ann@client.example");
    assert_eq!(sunk.recipients, ["bob@sink.example"]);
    assert!(sunk.content.trim_end().ends_with(content), "{}", sunk.content);
    assert!(sunk.header("Received").unwrap().contains("with ESMTP id "), "{}", sunk.content);

    let delivery = first_record(&home, "Delivery");
    let reception = first_record(&home, "Reception");
    assert_eq!(delivery["id"], reception["id"]);
    assert!(dialogue.contains(delivery["id"].as_str().unwrap()), "{dialogue}");
    assert_eq!(reception["peer_address"]["addr"], "127.0.0.1");
    assert_ne!(reception["peer_address"]["name"], "", "the name in EHLO");
    assert_eq!(delivery["response"]["content"], "taken");
    assert_eq!(delivery["num_attempts"], 1);
    kumod.stop();
}

#[test]
fn two_kumods_speak_tls_without_being_told_to() {
    let (near, far, sink) = (Home::new(), Home::new(), Sink::start(()));
    let second = Kumod::start(&far.policy("", &relay_to(&sink.as_mx(), "", "")));
    let mx = format!("[{}]:{}", second.address().ip(), second.address().port());
    let insecure = "enable_tls = 'OpportunisticInsecure'";
    let first = Kumod::start(&near.policy("", &relay_to(&mx, "", insecure)));
    let (code, dialogue) = swaks(first.address(), &ENVELOPE);
    assert_eq!(code, 0, "{dialogue}");

    let sunk = first_sunk(&sink);
    assert!(sunk.header("Received").unwrap().contains("with ESMTPS (TLSv1.3:"), "{}", sunk.content);
    let over_tls = first_record(&near, "Delivery");
    assert_eq!(over_tls["tls_protocol_version"], "TLSv1.3", "{over_tls}");
    let in_clear = first_record(&far, "Delivery");
    assert_eq!(in_clear.get("tls_protocol_version"), None, "{in_clear}");
    first.stop();
    second.stop();
}

/// Only ann, with her password, may relay.
const ONLY_ANN: &str = "
    kumo.on('smtp_server_auth_plain', function(authz, authc, password)
      return authc == 'ann' and password == 'sesame'
    end)
    kumo.on('get_listener_domain', function(domain, listener, meta)
      return kumo.make_listener_domain { relay_to = meta:get_meta('authz_id') == 'ann' }
    end)
";

#[test]
fn passwords_are_asked_for_and_given_over_tls_only() {
    let (near, far, sink) = (Home::new(), Home::new(), Sink::start(()));
    let nobody = "relay_hosts = {}";
    let policy = format!("{ONLY_ANN} {}", relay_to(&sink.as_mx(), "", ""));
    let second = Kumod::start(&far.policy(nobody, &policy));
    let mx = format!("[{}]:{}", second.address().ip(), second.address().port());
    let password = "enable_tls = 'OpportunisticInsecure', smtp_auth_plain_username = 'ann',
        smtp_auth_plain_password = { key_data = 'sesame' },
        allow_smtp_auth_plain_without_valid_certificate = true";
    let policy = format!("{ONLY_ANN} {}", relay_to(&mx, "", password));
    let first = Kumod::start(&near.policy(nobody, &policy));

    let auth = |password: &'static str| ["--auth", "PLAIN", "--auth-user", "ann", "-ap", password];
    let attempt = |arguments: &[&str]| swaks(first.address(), &[&ENVELOPE, arguments].concat());
    let (code, dialogue) = attempt(&["--tls"]);
    assert_ne!(code, 0, "nobody may relay without a password: {dialogue}");
    let (code, dialogue) = attempt(&auth("sesame"));
    assert_ne!(code, 0, "no AUTH in clear: {dialogue}");
    let (code, dialogue) = attempt(&[&["--tls"][..], &auth("simsim")].concat());
    assert_ne!(code, 0, "{dialogue}");
    assert!(dialogue.contains("535 "), "{dialogue}");
    let (code, dialogue) = attempt(&[&["--tls"][..], &auth("sesame")].concat());
    assert_eq!(code, 0, "{dialogue}");

    let sunk = first_sunk(&sink);
    let traces = sunk.content.matches("with ESMTPSA (TLSv1.3:").count();
    assert_eq!(traces, 2, "both hops with TLS and a password: {}", sunk.content);
    assert_eq!(sink.sunk().len(), 1);
    first.stop();
    second.stop();
}

/// Says 450 to the first final dots.
struct BusyFor(usize);

impl Behaviour for BusyFor {
    fn final_dot(&self, _: &Sunk, before: usize) -> (Duration, Verdict) {
        let busy = before < self.0;
        (Duration::ZERO, if busy { Verdict::Says("450 4.2.1 busy") } else { Verdict::Taken })
    }
}

/// A retry's moment counts from the failed attempt, whatever the process did in between; jitter is 5%.
#[test]
fn deferred_mail_keeps_its_attempts_and_its_due_time_over_a_restart() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let (home, sink) = (Home::new(), Sink::start(BusyFor(2)));
    let policy = home.policy("", &relay_to(&sink.as_mx(), "retry_interval = '2s'", ""));
    let first = Kumod::start(&policy);
    let mut client = Client::greet(first.address()).unwrap();
    let sent = client.send("ann@client.example", &["bob@sink.example"], "Subject: x\r\n\r\nx\r\n");
    assert_eq!(sent.unwrap().code, 250);
    wait_for("the second attempt", PATIENCE, || (sink.sunk().len() == 2).then_some(()));
    // The second failure doubles the wait: due four seconds after it.
    wait_for("its record", PATIENCE, || {
        (home.records_of("TransientFailure").len() == 2).then_some(())
    });
    std::thread::sleep(INTERVAL / 2);
    first.stop();
    let second = Kumod::start(&policy);
    first_sunk(&sink);
    first_record(&home, "Delivery");
    second.stop();

    let at: Vec<Instant> = sink.sunk().iter().map(|sunk| sunk.at).collect();
    assert_eq!(at.len(), 3);
    for (gap, expected) in [(at[1] - at[0], INTERVAL), (at[2] - at[1], INTERVAL * 2)] {
        let early = expected.mul_f64(0.95) - Duration::from_millis(50);
        let late = expected.mul_f64(1.05) + INTERVAL / 2;
        assert!(gap > early && gap < late, "tried again after {gap:?} instead of {expected:?}");
    }
    let attempts = |kind: &str| -> Vec<Value> {
        home.records_of(kind).into_iter().map(|record| record["num_attempts"].clone()).collect()
    };
    assert_eq!(attempts("TransientFailure"), [1, 2]);
    assert_eq!(attempts("Delivery"), [3]);
}

/// Takes its time over a final dot, by the recipient's name.
struct Slow;

impl Behaviour for Slow {
    fn final_dot(&self, sunk: &Sunk, before: usize) -> (Duration, Verdict) {
        let delay = match sunk.recipients[0].as_str() {
            "slow@sink.example" => Duration::from_secs(2),
            "stuck@sink.example" if before < 2 => Duration::from_secs(60),
            _ => Duration::ZERO,
        };
        (delay, Verdict::Taken)
    }
}

#[test]
fn a_stop_takes_ten_seconds_at_most_tells_clients_and_loses_nothing() {
    let (home, sink) = (Home::new(), Sink::start(Slow));
    let policy = home.policy("", &relay_to(&sink.as_mx(), "retry_interval = '1s'", ""));
    let mut kumod = Kumod::start(&policy);
    let content = "Subject: x\r\n\r\nx\r\n";
    let mut sender = Client::greet(kumod.address()).unwrap();
    for recipient in ["slow@sink.example", "stuck@sink.example"] {
        let reply = sender.send("ann@client.example", &[recipient], content).unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    let mut idle = Client::greet(kumod.address()).unwrap();
    let mut halfway = Client::greet(kumod.address()).unwrap();
    halfway.begin("ann@client.example", &["never@sink.example"]).unwrap();
    halfway.write(content).unwrap();
    wait_for("both deliveries to wait for their verdict", PATIENCE, || {
        (sink.sunk().len() == 2).then_some(())
    });

    kumod.terminate();
    let asked = Instant::now();
    for client in [&mut sender, &mut idle, &mut halfway] {
        let reply = client.reply().unwrap();
        assert_eq!(reply.code, 421, "{reply:?}");
        assert!(reply.text.contains("shutting down"), "{reply:?}");
        assert!(client.is_closed());
    }
    assert!(asked.elapsed() < Duration::from_secs(2), "told after {:?}", asked.elapsed());
    let status = kumod.wait(PATIENCE);
    let took = asked.elapsed();
    assert!(status.success(), "{status}: {:?}", kumod.said());
    assert!(took < Duration::from_millis(10_500), "the stop took {took:?}");
    assert_eq!(home.records_of("Delivery").len(), 1, "the slow one was waited for");

    let again = Kumod::start(&policy);
    wait_for("the one without a verdict to be delivered", PATIENCE, || {
        (home.records_of("Delivery").len() == 2).then_some(())
    });
    again.stop();
    let mut recipients: Vec<String> =
        sink.sunk().into_iter().flat_map(|sunk| sunk.recipients).collect();
    recipients.sort();
    assert_eq!(recipients, ["slow", "stuck", "stuck"].map(|name| format!("{name}@sink.example")));
}

#[test]
fn a_maildir_gets_one_file_with_the_return_path() {
    let home = Home::new();
    let maildir = home.path("mail");
    let handlers = format!(
        "kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{ protocol = {{
             maildir_path = '{}/{{{{ email }}}}',
             dir_mode = tonumber('750', 8), file_mode = tonumber('640', 8),
           }} }}
         end)",
        maildir.display()
    );
    let kumod = Kumod::start(&home.policy("", &handlers));
    let (code, dialogue) = swaks(kumod.address(), &ENVELOPE);
    assert_eq!(code, 0, "{dialogue}");
    let new = maildir.join("bob@sink.example/new");
    let file = wait_for("a file", PATIENCE, || files(&new).into_iter().next());
    let content = fs::read_to_string(&file).unwrap();
    assert!(content.starts_with("Return-Path: <ann@client.example>"), "{content}");
    assert!(content.contains("This is a test mailing"), "{content}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&new), mode(&file)), (0o750, 0o640));
    let delivery = first_record(&home, "Delivery");
    assert_eq!(delivery["delivery_protocol"], "Maildir");
    kumod.stop();
    assert_eq!(files(&new).len(), 1);
    assert_eq!(files(&maildir.join("bob@sink.example/tmp")).len(), 0);
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn mail_for_the_null_queue_is_accepted_logged_and_gone() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let handlers = format!(
        "kumo.on('smtp_server_message_received', function(msg)
           if msg:recipient().user == 'nobody' then msg:set_meta('queue', 'null') end
         end)
         {}",
        relay_to(&sink.as_mx(), "", "")
    );
    let policy = home.policy("", &handlers);
    let kumod = Kumod::start(&policy);
    let mut client = Client::greet(kumod.address()).unwrap();
    let content = "Subject: x\r\n\r\nx\r\n";
    let discarded = client.send("ann@client.example", &["nobody@sink.example"], content).unwrap();
    assert!(discarded.text.starts_with("250 OK ids="), "{discarded:?}");
    let kept = client.send("ann@client.example", &["bob@sink.example"], content).unwrap();
    assert_eq!(kept.code, 250, "{kept:?}");
    first_sunk(&sink);
    kumod.stop();

    let kinds: Vec<(Value, Value)> =
        home.records().into_iter().map(|r| (r["type"].clone(), r["recipient"].clone())).collect();
    let expected = [
        ("Reception", "nobody@sink.example"),
        ("Reception", "bob@sink.example"),
        ("Delivery", "bob@sink.example"),
    ];
    assert_eq!(kinds, expected.map(|(kind, to)| (kind.into(), to.into())));
    assert_eq!(sink.sunk().len(), 1);
    Kumod::start(&policy).stop();
    assert_eq!(sink.sunk().len(), 1, "nothing comes back after a restart");
}

#[test]
fn bodies_without_the_volume_of_their_envelopes_are_left_alone() {
    let home = Home::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1/spool");
    home.hand_over("bodies", &golden);
    let said = refuses_to_start(&home.policy_with_spools("bodies", "unmounted", "", ""));
    assert_eq!(said.len(), 1, "{said:#?}");
    for part in ["/bodies ", "/unmounted ", "mount the volume that is missing"] {
        assert!(said[0].contains(part), "{part:?} isn't in {said:?}");
    }
}

#[test]
fn a_journal_that_cannot_be_kept_is_told_at_the_start() {
    let home = Home::new();
    let journal = home.path("policy.lua");
    let policy = home.policy("", "");
    let mut kumod = Kumod::launch_with(&policy, &["--journal", journal.to_str().unwrap()]);
    assert_eq!(kumod.wait(PATIENCE).code(), Some(1));
    let said = wait_for("a line on stderr", PATIENCE, || kumod.said().into_iter().next());
    assert!(
        said.starts_with("kumod: --journal ") && said.contains("has to be a directory"),
        "{said}"
    );
}

#[test]
fn what_cant_start_says_why_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new();
    let spools = |paths: &str| {
        format!("local kumo = require 'kumo'\nkumo.on('init', function() {paths} end)")
    };
    let spool = home.path("spool").display().to_string();
    let both = format!(
        "kumo.define_spool {{ name = 'data', path = '{spool}' }}
         kumo.define_spool {{ name = 'meta', path = '{spool}' }}"
    );
    let busy = format!(
        "{both} kumo.start_esmtp_listener {{ listen = '127.0.0.1:0' }}
         kumo.start_esmtp_listener {{ listen = '{address}' }}"
    );
    let cases = [
        ("a port in use", spools(&busy), vec![address.as_str()]),
        ("no spools", spools(""), vec!["No spools have been defined"]),
        (
            "one spool",
            spools(&format!("kumo.define_spool {{ name = 'data', path = '{spool}' }}")),
            vec!["'meta'"],
        ),
        ("bad syntax", "kumo.on('init', function( end)".to_string(), vec!["policy.lua:1"]),
        (
            "an unknown option",
            spools("kumo.start_esmtp_listener { listne = '127.0.0.1:0' }"),
            vec!["policy.lua:2", "listne", "listen"],
        ),
        (
            "a spool that can't be written",
            spools(&both.replace(&spool, "/proc/kumod")),
            vec!["/proc/kumod"],
        ),
    ];
    for (name, policy, expected) in cases {
        let said = refuses_to_start(&home.policy_text(&policy));
        assert_eq!(said.len(), 1, "{name}: {said:#?}");
        for part in expected {
            assert!(said[0].contains(part), "{name}: {part:?} isn't in {said:?}");
        }
    }
    let missing = home.path("nowhere.lua");
    let said = refuses_to_start(&missing);
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0].contains("nowhere.lua"), "{said:?}");

    // Nothing is left over that would be in the way of the next start.
    Kumod::start(&home.policy("", "")).stop();
}

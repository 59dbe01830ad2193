//! Shaping files, queues and sources by the modules that come with kumod: real processes, mail to a real smtp-sink, and
//! validate-shaping as an operator runs it. No domain here is looked up in DNS.
mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Home, Kumod, PATIENCE, refuses_to_start, swaks, wait_for};

/// Postfix's sink, which writes down each message.
struct SmtpSink {
    process: Child,
    address: SocketAddr,
    dump: PathBuf,
}

impl SmtpSink {
    fn start(home: &Home) -> SmtpSink {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let dump = home.path("sunk");
        let process = Command::new("smtp-sink")
            .args(["-u", "root", "-D"])
            .arg(&dump)
            .args([&address.to_string(), "100"])
            .stdin(Stdio::null())
            .spawn()
            .expect("smtp-sink, of Debian's postfix");
        wait_for("smtp-sink", PATIENCE, || TcpStream::connect(address).ok());
        SmtpSink { process, address, dump }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.dump).unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.text().matches("\nSubject: ").count()
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const HELPERS: &str = "
    require('policy-extras.sources'):setup { '@/sources.toml' }
    local queue = require('policy-extras.queue'):setup { '@/queue.toml' }
    local shaping = require 'policy-extras.shaping'
    kumo.on('get_egress_path_config', shaping:setup { '@/shaping.toml' })
    kumo.on('smtp_server_message_received', function(msg) queue:apply(msg) end)";

/// Two of them, since paths of one source to one site are one.
const SOURCES: &str = "[source.ip-1]\nehlo_domain = 'ip-1.example'\n[source.ip-2]\n
    [pool.tenants.ip-1]\n[pool.others.ip-2]\n";

/// Everything goes to the sink, by a pool of one source; `shaping` lies over the default file.
fn site(home: &Home, sink: SocketAddr, shaping: &str) -> PathBuf {
    let queue = format!(
        "tenant_header = 'X-Tenant'\nremove_tenant_header = true\n
         [tenant.acme]\negress_pool = 'tenants'\n[tenant.other]\negress_pool = 'others'\n
         [queue.default.protocol.smtp]\nmx_list = ['[{}]:{}']\n",
        sink.ip(),
        sink.port()
    );
    let shaping = format!("['default']\nprohibited_hosts = []\nenable_tls = 'Disabled'\n{shaping}");
    for (name, text) in
        [("sources.toml", SOURCES), ("queue.toml", &*queue), ("shaping.toml", &*shaping)]
    {
        fs::write(home.path(name), text).expect("a file");
    }
    let folder = home.path("").display().to_string();
    home.policy("", &HELPERS.replace("@/", &folder))
}

fn send(kumod: &Kumod, to: &str, tenant: &str) -> (i32, String) {
    let tenant = format!("X-Tenant: {tenant}");
    swaks(kumod.address(), &["--from", "ann@client.example", "--to", to, "--add-header", &tenant])
}

#[test]
fn mail_leaves_as_shaping_queue_and_sources_files_say() {
    let home = Home::new();
    let sink = SmtpSink::start(&home);
    let shaping = "['slow.example']\nmx_rollup = false\nmax_message_rate = '1/s'\n
        ['slow.example'.sources.'ip-2']\nehlo_domain = 'shaped.example'\n";
    let kumod = Kumod::start(&site(&home, sink.address, shaping));

    let (code, dialogue) = send(&kumod, "bob@fast.example", "acme");
    assert_eq!(code, 0, "{dialogue}");
    wait_for("a message", PATIENCE, || (sink.count() == 1).then_some(()));
    let text = sink.text();
    assert!(text.contains("X-Helo-Args: ip-1.example"), "{text}");
    assert!(!text.contains("X-Tenant"), "{text}");
    let delivery = wait_for("its record", PATIENCE, || home.records_of("Delivery").pop());
    assert_eq!(delivery["egress_source"], "ip-1");
    assert_eq!(delivery["egress_pool"], "tenants");
    assert_eq!(delivery["queue"], "acme@fast.example");

    let (code, dialogue) = send(&kumod, "bob@fast.example", "nobody");
    assert_ne!(code, 0);
    assert!(dialogue.contains("500 5.7.1 there is no tenant 'nobody'"), "{dialogue}");

    let started = Instant::now();
    for _ in 0..4 {
        assert_eq!(send(&kumod, "bob@slow.example", "other").0, 0);
    }
    wait_for("the rest", PATIENCE, || (sink.count() == 5).then_some(()));
    // One at once, and then one a second.
    assert!(started.elapsed() >= Duration::from_millis(2500), "{:?}", started.elapsed());
    assert!(sink.text().contains("X-Helo-Args: shaped.example"), "{}", sink.text());
    kumod.stop();
}

#[test]
fn kumod_does_not_start_with_a_mistake_in_a_shaping_file_and_says_where_it_is() {
    let home = Home::new();
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let policy = site(&home, nowhere, "conection_limit = 5\n");
    let told = refuses_to_start(&policy).join("\n");
    let expected = "shaping.toml:4: [\"default\"]: unknown key 'conection_limit'; the nearest known one is \
                    'connection_limit'";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn validate_looks_for_what_the_files_name() {
    let home = Home::new();
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let validate = |shaping: &str| {
        let policy = site(&home, nowhere, shaping);
        let kumod = Command::new(env!("CARGO_BIN_EXE_kumod"));
        ran({ kumod }.arg("--validate").arg("--policy").arg(policy))
    };
    let (code, said) = validate("");
    assert_eq!(code, 0, "{said}");
    let (code, said) = validate("['d.example']\nmx_rollup = false\n['d.example'.sources.ip-9]\n");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("source 'ip-9' of domain d.example isn't defined"), "{said}");
}

/// The exit code, and all that was said.
fn ran(command: &mut Command) -> (i32, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let said = [stdout, stderr].concat();
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

fn validate_shaping(arguments: &[&str]) -> (i32, String) {
    ran(Command::new(env!("CARGO_BIN_EXE_validate-shaping")).args(arguments))
}

#[test]
fn validate_shaping_says_what_is_wrong_and_exits_accordingly() {
    let home = Home::new();
    let file = |name: &str, text: &str| {
        fs::write(home.path(name), text).expect("a file");
        home.path(name).display().to_string()
    };
    let good = file("good.toml", "['d.example']\nmx_rollup = false\nconnection_limit = 5\n");
    let noted = file("noted.toml", "['default']\nenable_mta_sts = true\n");
    let bad = file("bad.json", "{\"d.example\": {\"mx_rollup\": false,\n\"max_redy\": 5}}");
    let absent = home.path("absent.toml").display().to_string();
    let rows: [(&[&str], i32, &str); 11] = [
        (&[&good], 0, "OK\n"),
        (&[&good, &noted], 0, "noted.toml:2: [\"default\"]: enable_mta_sts: accepted, but"),
        (
            &[&good, &bad],
            1,
            "bad.json:2: [\"d.example\"]: unknown key 'max_redy'; the nearest known one is 'max_ready'",
        ),
        (&["--local-load", "Warn", &bad], 0, "warning: "),
        (&["--local-load", "Ignore", &bad], 0, "OK\n"),
        (&[&absent], 1, "error: can't read "),
        (&["http://127.0.0.1:1/x.toml"], 0, "warning: can't fetch http://127.0.0.1:1/x.toml"),
        (&["--skip-remote", "http://127.0.0.1:1/x.toml"], 0, "OK\n"),
        (&["--remote-load", "Error", "https://x.example/x.toml"], 1, "by http only"),
        (&[], 2, "Usage"),
        (&["--null-mx", "Sometimes", &good], 2, "unknown variant `Sometimes`"),
    ];
    for (arguments, code, expected) in rows {
        let (exited, said) = validate_shaping(arguments);
        assert_eq!(exited, code, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(
        validate_shaping(&["/opt/kumomta/share/policy-extras/shaping.toml"]),
        (0, "OK\n".into())
    );
}

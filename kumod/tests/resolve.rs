//! What a domain's mail comes to, asked of a running kumod and of a policy alone: the same, in text and in JSON, with the exit codes that scripts
//! rely on.
mod support;

use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::ask::{kcli, kcli_json};
use support::{Home, Kumod};

const HANDLERS: &str = "
  kumo.on('get_queue_config', function(domain, tenant, campaign)
    if domain == 'archive.example' then
      return kumo.make_queue_config { protocol = { maildir_path = '/mail' }, max_age = '3 days' }
    end
    return kumo.make_queue_config {
      protocol = { smtp = { mx_list = { 'mx1.example', 'mx2.example:26' } } }, max_message_rate = '100/s',
    }
  end)
  kumo.on('get_egress_path_config', function(domain, source, site)
    return kumo.make_egress_path { max_message_rate = '1000/s', connection_limit = 7, provider_name = source .. '/' .. site }
  end)";

const CEILINGS: &str = "ceilings:
  concurrent dispatchers: 7
    source: connection_limit
  message rate:           100/s
    source: scheduled queue max_message_rate
    declared: max_message_rate = 1000/s ← effectively unreachable
";

fn tool(binary: &str, policy: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary);
    command.env("POLICY_PATH", policy).args(arguments).output().expect("the tool runs")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn a_running_kumod_says_what_a_domain_s_mail_comes_to() {
    let home = Home::new();
    let kumod =
        Kumod::start(&home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", HANDLERS));
    let text = kcli(&kumod, &["resolve-egress-path", "camp:ten@b.example", "ip-1"]).well();
    let queue = "queue:  ip-1->mx_list:mx1.example,mx2.example:26@smtp_client\n";
    for part in ["domain: camp:ten@b.example\nsource: ip-1\n", queue, "\nmx: <not resolved>\n"] {
        assert!(text.contains(part), "{part:?} isn't in {text}");
    }
    for part in [
        "--- scheduled queue config ---\n\n",
        "max_message_rate = \"100/s\"\n",
        "\n[protocol.smtp]\nmx_list = [\n    \"mx1.example\",\n    \"mx2.example:26\",\n]\n",
        "--- egress path config ---\n\nadditional_connection_limits = {}\n",
        "\n[connection_limit]\nforce_local = false\nlimit = 7\n",
    ] {
        assert!(text.contains(part), "{part:?} isn't in {text}");
    }
    assert!(text.ends_with(&format!("--- effective ceilings ---\n\n{CEILINGS}")), "{text}");
    let ceilings = kcli(&kumod, &["resolve-egress-path", "--constraints", "b.example"]).well();
    assert_eq!(ceilings, CEILINGS);
    let config = kcli(&kumod, &["resolve-egress-path", "--config", "b.example"]).well();
    assert!(config.starts_with("additional_connection_limits = {}\n"), "{config}");
    let json = kcli_json(&kumod, &["resolve-egress-path", "--json", "archive.example"]);
    assert_eq!(json["queue_name"], "unspecified->archive.example@maildir:/mail");
    assert_eq!((&json["mx"], &json["queue_config"]["max_age"]), (&Value::Null, &json!("3days")));
    assert_eq!(json["constraints"]["max_message_rate"]["source"], json!({"kind": "primary"}));
    // As the constructor takes it.
    assert_eq!(json["queue_config"]["protocol"]["maildir_path"], "/mail");
    let both = kcli(&kumod, &["resolve-egress-path", "--json", "--config", "b.example"]);
    assert_eq!(both.code, Some(2), "{both:?}");
    for (domain, source) in [("", "ip-1"), ("tenant@", "ip-1"), ("b.example", "")] {
        let refused = kcli(&kumod, &["resolve-egress-path", domain, source]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
    }
    kumod.stop();
}

#[test]
fn a_policy_alone_says_it_too() {
    let home = Home::new();
    let policy = home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", HANDLERS);
    let binary = env!("CARGO_BIN_EXE_resolve-shaping-domain");
    let text = said(&tool(binary, &policy, &["b.example", "ip-1"]));
    assert!(text.starts_with("--- scheduled queue config ---\n\n"), "{text}");
    assert!(
        text.contains("\n--- egress path config ---\n\nadditional_connection_limits = {}\n"),
        "{text}"
    );
    assert!(text.ends_with(&format!("\n--- effective ceilings ---\n\n{CEILINGS}")), "{text}");
    let all = ["--json-constraints", "--json-config", "--json-queue-config", "b.example"];
    let documents = said(&tool(binary, &policy, &all));
    let documents: Vec<Value> = serde_json::Deserializer::from_str(&documents)
        .into_iter::<Value>()
        .collect::<Result<_, _>>()
        .expect("documents of JSON");
    assert_eq!(documents.len(), 3);
    assert_eq!(documents[0]["max_message_rate"], "100/s");
    assert_eq!(documents[1]["connection_limit"]["limit"], 7);
    assert_eq!(documents[1]["ehlo_domain"], Value::Null);
    assert_eq!(documents[2]["max_message_rate"]["display"], "100/s");
    let unknown = tool(binary, &policy, &["--jsn-config", "b.example"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&unknown.stderr), "unknown option: --jsn-config\n");
    let nothing = tool(binary, &policy, &[]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("DOMAIN_NAME"), "{nothing:?}");
    let missing = tool(binary, Path::new("/nowhere/init.lua"), &["b.example"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere/init.lua"), "{missing:?}");
}

#[test]
fn its_siblings_each_say_one_thing() {
    let home = Home::new();
    let policy = home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", HANDLERS);
    let binary = env!("CARGO_BIN_EXE_resolve-queue-config");
    let config: Value = said(&tool(binary, &policy, &["archive.example"])).parse().expect("JSON");
    assert_eq!(config["max_age"], "3days");
    let protocol = json!({"maildir_path": "/mail", "dir_mode": null, "file_mode": null});
    assert_eq!(config["protocol"], protocol);
    let binary = env!("CARGO_BIN_EXE_explain-throttle");
    let text = said(&tool(binary, &policy, &["100/m"]));
    assert!(
        text.contains("rate:     1.667/s = 100/m = 6000/h = 144000/d\nspacing:  one each 600ms\n"),
        "{text}"
    );
    assert_eq!(tool(binary, &policy, &["100/fortnight"]).status.code(), Some(1));
    let binary = env!("CARGO_BIN_EXE_resolve-site-name");
    assert_eq!(said(&tool(binary, &policy, &["[192.0.2.1]"])), "[192.0.2.1]\n");
    assert_eq!(tool(binary, &policy, &["--dnssec", "a.example"]).status.code(), Some(1));
}

/// A policy whose `init` mustn't run, which is warned about.
const TOLD: &str = "local kumo = require 'kumo'
  kumo.on('init', function() error('init ran') end)
  kumo.on('get_queue_config', function() return kumo.make_queue_config { strategy = 'x', max_message_rate = '5/m' } end)
  kumo.on('get_egress_path_config', function()
    return kumo.make_egress_path {
      connection_limit = 'local:7', additional_connection_limits = { shared = 9 }, max_message_rate = '10/5m,max_burst=2',
      smtp_auth_plain_username = 'joe', smtp_auth_plain_password = { key_data = 'sesame' },
    }
  end)";

/// The domain doesn't exist, which no DNS has to be asked about (RFC 6761).
#[test]
fn json_for_scripts_is_the_same_octets_from_release_to_release() {
    let home = Home::new();
    let binary = env!("CARGO_BIN_EXE_resolve-shaping-domain");
    let all = ["--json-config", "--json-constraints", "--json-queue-config", "gone.invalid"];
    let output = tool(binary, &home.policy_text(TOLD), &all);
    assert_eq!(said(&output), include_str!("resolve/documents.json"));
    // What policy is told stands elsewhere.
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("strategy: accepted, but it has no effect"), "{told}");
    let output = tool(binary, &home.policy_text(TOLD), &["gone.invalid"]);
    let text = said(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("its site is taken to be gone.invalid"), "{told}");
    assert!(text.contains("key_data = \"(secret)\"") && !text.contains("sesame"), "{text}");
}

/// As behind `| head -1`.
#[test]
fn output_that_nobody_reads_is_no_failure_and_output_that_cant_be_written_is() {
    let home = Home::new();
    let policy = home.policy_text(&TOLD.replace("strategy = 'x',", ""));
    let to = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_resolve-shaping-domain"));
        command.env("POLICY_PATH", &policy).arg("[192.0.2.1]").stdout(stdout);
        command.stderr(Stdio::piped()).spawn().and_then(|child| child.wait_with_output()).unwrap()
    };
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let unread = to(writer.into());
    assert_eq!((said(&unread).as_str(), unread.stderr.len()), ("", 0), "{unread:?}");
    let full = File::options().write(true).open("/dev/full").expect("the kernel has it");
    let full = to(full.into());
    assert_eq!(full.status.code(), Some(1));
    let why = String::from_utf8_lossy(&full.stderr);
    assert!(why.starts_with("resolve-shaping-domain: can't write the output: No space"), "{why}");
}

#[test]
fn a_domain_whose_dns_fails_is_resolved_as_far_as_can_be() {
    let home = Home::new();
    let handlers = "kumo.on('get_egress_path_config', function(domain, source, site)
      return kumo.make_egress_path { provider_name = site }
    end)";
    let kumod =
        Kumod::start(&home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", handlers));
    let text = kcli(&kumod, &["resolve-egress-path", "gone.invalid"]).well();
    let head = "domain: gone.invalid\nsource: unspecified\nqueue:  unspecified->gone.invalid@smtp_client\n\n\
                mx: <not resolved> (";
    assert!(text.starts_with(head), "{text}");
    let why = text[head.len()..].lines().next().unwrap_or_default();
    assert!(why.contains("gone.invalid"), "{why}");
    assert!(text.contains("provider_name = \"gone.invalid\"\n"), "{text}");
    kumod.stop();
}

/// Needs root, as the tests of egress do: a user kumod is put into its view of /etc/passwd.
#[test]
fn a_tool_that_root_starts_reads_the_policy_as_kumod() {
    let home = Home::new();
    let policy = home.policy_text(
        "local kumo = require 'kumo'
         kumo.on('get_egress_path_config', function()
           local status = assert(io.open('/proc/self/status')):read('a')
           return kumo.make_egress_path { provider_name = status:match('Uid:%s+(%d+)') }
         end)",
    );
    let passwd = std::fs::read_to_string("/etc/passwd").expect("users");
    let others: String = passwd
        .lines()
        .filter(|line| !line.starts_with("kumod:"))
        .fold(String::new(), |text, line| text + line + "\n");
    let users = home.path("passwd");
    std::fs::write(&users, others + "kumod:x:54321:54321::/:/bin/false\n").expect("it is ours");
    let script = "mount --bind \"$0\" /etc/passwd && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(users);
    command.args([env!("CARGO_BIN_EXE_resolve-shaping-domain"), "--json-config", "gone.invalid"]);
    let output = command.env("POLICY_PATH", policy).output().expect("unshare runs");
    let config: Value = said(&output).parse().expect("JSON");
    assert_eq!(config["provider_name"], "54321");
}

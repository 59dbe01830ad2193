//! What a domain's mail comes to, asked of a running kumod and of a policy alone: the same, in text and in JSON, with the exit codes that scripts
//! rely on.
mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
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
    assert!(text.contains("rate: 1.667 a second, one each 600ms"), "{text}");
    assert_eq!(tool(binary, &policy, &["100/fortnight"]).status.code(), Some(1));
    let binary = env!("CARGO_BIN_EXE_resolve-site-name");
    assert_eq!(said(&tool(binary, &policy, &["[192.0.2.1]"])), "[192.0.2.1]\n");
    assert_eq!(tool(binary, &policy, &["--dnssec", "a.example"]).status.code(), Some(1));
}

//! Mail that leaves by sources and proxies which fail and come back: addresses of an interface, HAProxy and a SOCKS5 server that aren't
//! ours, a proxy's name served by a real DNS server. Needs root, for addresses and mounts.
mod support;

#[path = "egress/outside.rs"]
mod outside;

use outside::{Haproxy, Microsocks, Named, Plumbed};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::ask::{kcli, source};
use support::{Home, Kumod, PATIENCE, Sink, Sunk, send_numbered, wait_for};

const SUSPENDED: Duration = Duration::from_secs(3);
const RULES: &str = "suspend_when_unplumbed = { duration = '3s' }, suspend_when_proxy_unhealthy = { duration = '3s' }";

/// Everything to the sink, by a pool of these sources: name, and what it has besides the rules. A source greets with its name.
fn policy(home: &Home, sink: &Sink, sources: &[(&str, &str)]) -> PathBuf {
    let names = sources.iter().map(|(name, _)| format!("{{ name = '{name}' }}"));
    let names = names.collect::<Vec<_>>().join(", ");
    let made = |(name, fields): &(&str, &str)| {
        format!(
            "if name == '{name}' then return kumo.make_egress_source {{ name = name, ehlo_domain = '{name}.example', {RULES}, {fields} }} end"
        )
    };
    let made = sources.iter().map(made).collect::<Vec<_>>().join("\n");
    let handlers = format!(
        "kumo.on('get_egress_source', function(name)
           {made}
         end)
         kumo.on('get_egress_pool', function(name)
           return kumo.make_egress_pool {{ name = name, entries = {{ {names} }} }}
         end)
         kumo.on('get_queue_config', function()
           return kumo.make_queue_config {{
             egress_pool = 'pool', protocol = {{ smtp = {{ mx_list = {{ '{mx}' }} }} }},
             retry_interval = '1s', max_retry_interval = '1s',
           }}
         end)
         kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {{
             prohibited_hosts = {{}}, connect_timeout = '2s', idle_timeout = '1s', enable_tls = 'Disabled',
           }}
         end)",
        mx = sink.as_mx()
    );
    home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", &handlers)
}

/// The message with that subject, once it has arrived.
fn arrived(sink: &Sink, number: usize) -> Sunk {
    wait_for("a message to arrive", PATIENCE, || {
        let is_it =
            |sunk: &&Sunk| sunk.is_taken() && sunk.header("Subject") == Some(number.to_string());
        sink.with_sunk(|sunk| sunk.iter().find(is_it).cloned())
    })
}

fn greeted_by(sink: &Sink, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| arrived(sink, number).greeting).collect()
}

fn is_suspended(kumod: &Kumod, name: &str) -> bool {
    source(kumod, name)["suspension"].is_object()
}

fn wait_until_well(kumod: &Kumod, name: &str) {
    wait_for("the suspension to end", PATIENCE, || (!is_suspended(kumod, name)).then_some(()));
}

#[test]
fn what_an_unplumbed_address_would_have_sent_leaves_by_another_source() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let address = "10.99.41.1";
    let fields = format!("source_address = '{address}'");
    let kumod = Kumod::start(&policy(&home, &sink, &[("good", ""), ("bad", &fields)]));
    send_numbered(kumod.address(), 0..10);
    assert_eq!(greeted_by(&sink, 0..10), ["good.example"; 10]);
    let bad = source(&kumod, "bad");
    assert_eq!(
        (&bad["suspension"]["reason"], &bad["address"]),
        (&"Unplumbed".into(), &address.into())
    );
    assert_eq!(home.records_of("TransientFailure"), Vec::<Value>::new());

    let plumbed = Plumbed::on_lo(address);
    wait_until_well(&kumod, "bad");
    send_numbered(kumod.address(), 10..30);
    let greeted = greeted_by(&sink, 10..30);
    let by_bad = greeted.iter().filter(|by| *by == "bad.example").count();
    assert!((9..=11).contains(&by_bad), "{greeted:?}");

    drop(plumbed);
    // Connections that stand keep their address; none is left once they are idle.
    std::thread::sleep(Duration::from_secs(2));
    send_numbered(kumod.address(), 30..40);
    assert_eq!(greeted_by(&sink, 30..40), ["good.example"; 10]);
    assert!(is_suspended(&kumod, "bad"));
    kumod.stop();
}

#[test]
fn what_no_other_source_can_send_leaves_as_soon_as_the_suspension_ends() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let address = "10.99.41.2";
    let fields = format!("source_address = '{address}'");
    let kumod = Kumod::start(&policy(&home, &sink, &[("only", &fields)]));
    let sent = Instant::now();
    send_numbered(kumod.address(), 0..10);
    wait_for("the suspension", PATIENCE, || is_suspended(&kumod, "only").then_some(()));
    let explained = kcli(&kumod, &["explain-queue", "sink.example"]).well();
    assert!(explained.contains("source only is unhealthy and suspended (Unplumbed"), "{explained}");
    let _plumbed = Plumbed::on_lo(address);
    for number in 0..10 {
        let waited = arrived(&sink, number).at.duration_since(sent);
        assert!(waited >= SUSPENDED - Duration::from_millis(200), "{waited:?}");
        assert!(waited <= SUSPENDED + Duration::from_secs(1), "{waited:?}");
    }
    kumod.stop();
}

#[test]
fn an_operator_ends_a_suspension_and_sees_what_there_is_to_see() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let address = "10.99.41.3";
    let fields =
        format!("source_address = '{address}', suspend_when_unplumbed = {{ duration = '1h' }}");
    let policy = policy(&home, &sink, &[("only", &fields)]);
    let text = std::fs::read_to_string(&policy)
        .unwrap()
        .replace("suspend_when_unplumbed = { duration = '3s' },", "");
    std::fs::write(&policy, text).unwrap();
    let kumod = Kumod::start(&policy);
    send_numbered(kumod.address(), 0..1);
    wait_for("the suspension", PATIENCE, || is_suspended(&kumod, "only").then_some(()));
    let (status, metrics) = support::ask::http(&kumod, "GET", "/metrics?prefix=egress_source", "");
    assert_eq!(status, 200);
    for line in [
        "egress_source_connection_failures_total{source=\"only\",kind=\"Unplumbed\"} 1",
        "egress_source_health_suspensions_total{source=\"only\",reason=\"Unplumbed\"} 1",
        "egress_source_health_suspended{source=\"only\",reason=\"Unplumbed\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} isn't in {metrics}");
    }
    let (_, metrics) = support::ask::http(&kumod, "GET", "/metrics?prefix=bind", "");
    assert!(metrics.contains("bind_failures 1"), "{metrics}");
    let _plumbed = Plumbed::on_lo(address);
    let said = kcli(&kumod, &["source-resume", "only"]);
    assert_eq!(said.well(), "only is used again\n");
    arrived(&sink, 0);
    let again = kcli(&kumod, &["source-resume", "only"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("no egress source named 'only' is suspended"), "{again:?}");
    for words in ["egress source auto-suspended", "egress source auto-suspension cleared"] {
        assert_eq!(kumod.said_with(words).len(), 1, "{:?}", kumod.said());
    }
    kumod.stop();
}

#[test]
fn haproxy_is_told_whose_connection_it_is() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let haproxy = Haproxy::before(&sink);
    let fields = format!(
        "ha_proxy_server = '{}', ha_proxy_source_address = '127.0.33.44'",
        haproxy.address()
    );
    let kumod = Kumod::start(&policy(&home, &sink, &[("proxied", &fields)]));
    send_numbered(kumod.address(), 0..10);
    assert_eq!(greeted_by(&sink, 0..10), ["proxied.example"; 10]);
    let record = wait_for("a record", PATIENCE, || home.records_of("Delivery").into_iter().next());
    let address = &record["source_address"];
    assert_eq!(address["protocol"], "haproxy");
    assert_eq!(address["server"], haproxy.address().to_string());
    assert_eq!(address["address"], "127.0.33.44:0");
    kumod.stop();
    // It logs a connection once that has ended.
    wait_for("haproxy's log", PATIENCE, || {
        haproxy.said().iter().any(|line| line.starts_with("127.0.33.44:0 ")).then_some(())
    });
}

#[test]
fn a_socks5_server_that_is_not_ours_serves_by_plain_connect_and_counts_when_asked_for_an_address() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let socks = Microsocks::start("127.0.0.1");
    let plain = format!("socks5_proxy_server = '{}'", socks.address());
    let asking = format!("{plain}, socks5_proxy_source_address = '127.0.0.9'");
    let sources = [("plain", &*plain), ("asking", &*asking)];
    let kumod = Kumod::start(&policy(&home, &sink, &sources));
    send_numbered(kumod.address(), 0..10);
    assert_eq!(greeted_by(&sink, 0..10), ["plain.example"; 10]);
    let asking = source(&kumod, "asking");
    assert_eq!(asking["suspension"]["reason"], "ProxyUnhealthy", "{asking}");
    assert!(!is_suspended(&kumod, "plain"));
    let record = wait_for("a record", PATIENCE, || home.records_of("Delivery").into_iter().next());
    assert_eq!(record["source_address"]["protocol"], "socks5");
    kumod.stop();
}

#[test]
fn of_two_addresses_of_a_proxy_the_one_that_lives_is_found() {
    let (home, sink) = (Home::new(), Sink::start(()));
    let socks = Microsocks::start("127.0.41.6");
    let port = socks.address().port();
    // Nobody listens at the other one.
    let named = Named::serving("proxy.test", &["127.0.41.5", "127.0.41.6"], "127.0.41.53");
    let fields = format!("socks5_proxy_server = 'proxy.test:{port}'");
    let kumod = named.start(&policy(&home, &sink, &[("named", &fields)]));
    send_numbered(kumod.address(), 0..10);
    assert_eq!(greeted_by(&sink, 0..10), ["named.example"; 10]);
    let records = wait_for("records", PATIENCE, || {
        let records = home.records_of("Delivery");
        (records.len() == 10).then_some(records)
    });
    let server = socks.address().to_string();
    assert!(
        records.iter().all(|record| record["source_address"]["server"] == server),
        "{records:?}"
    );
    assert_eq!(home.records_of("TransientFailure"), Vec::<Value>::new());
    assert!(!is_suspended(&kumod, "named"));
    kumod.stop();
}

#[test]
fn what_a_domains_mail_comes_to_is_by_the_hosts_that_dns_names() {
    const MX: &str = "mx (site: (a|b|c).mail.example):
    10  b.mail.example
    20  a.mail.example
    20  c.mail.example
";
    let home = Home::new();
    let named =
        Named::serving_mail("mail.example", &[(20, "a"), (10, "b"), (20, "c")], "127.0.41.54");
    let handlers = "kumo.on('get_egress_path_config', function(domain, source, site)
      return kumo.make_egress_path { provider_name = site }
    end)";
    let policy = home.policy_with_http(("spool", "spool"), "min_free_inodes = 0", handlers);
    let kumod = named.start(&policy);
    let text = kcli(&kumod, &["resolve-egress-path", "tenant@mail.example", "ip-1"]).well();
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(Into::into).collect();
        lines.sort();
        lines
    };
    let block = text.split("\n\n").nth(1).expect("a block of hosts");
    assert_eq!(sorted(block), sorted(MX), "{text}");
    for part in [
        "queue:  ip-1->(a|b|c).mail.example@smtp_client\n",
        "provider_name = \"(a|b|c).mail.example\"\n",
    ] {
        assert!(text.contains(part), "{part} isn't in {text}");
    }
    kumod.stop();
    let site = named.told(env!("CARGO_BIN_EXE_resolve-site-name"), &["mail.example"]);
    assert_eq!(site, "(a|b|c).mail.example\n");
}

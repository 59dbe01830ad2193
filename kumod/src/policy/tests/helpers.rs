//! The modules that come with kumod: shaping, queue and sources over files, their checks, and what is wrong with files. DNS isn't
//! asked: domains here stand for themselves. What they do to mail is in `kumod/tests/shaping.rs`.
use super::*;
use crate::policy::{Report, validate};
use kumo_core::engine;
use kumo_driver::policy::EngineQuestion;
use std::path::Path;

/// A folder with files, and a policy in which `$/` is that folder.
struct Site(tempfile::TempDir);

impl Site {
    fn new(policy: &str, files: &[(&str, &str)]) -> Site {
        let site = Site(tempfile::tempdir().unwrap());
        for (name, text) in files {
            std::fs::write(site.0.path().join(name), text).unwrap();
        }
        let text = format!("local kumo = require 'kumo' {policy}");
        let text = text.replace("$/", &format!("{}/", site.0.path().display()));
        std::fs::write(site.policy(), text).unwrap();
        site
    }

    fn policy(&self) -> std::path::PathBuf {
        self.0.path().join("policy.lua")
    }

    async fn load(&self) -> LuaPolicy {
        LuaPolicy::load(&self.policy(), OPTIONS)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
            .policy
    }

    async fn error(&self) -> String {
        match LuaPolicy::load(&self.policy(), OPTIONS).await {
            Ok(_) => panic!("it was loaded"),
            Err(error) => self.short(&error.to_string()),
        }
    }

    async fn validated(&self) -> Report {
        validate(&self.policy(), OPTIONS).await.unwrap_or_else(|error| panic!("{error}"))
    }

    fn short(&self, text: &str) -> String {
        let folder: &Path = self.0.path();
        text.replace(&format!("{}/", folder.display()), "")
    }
}

async fn answer(policy: &LuaPolicy, question: engine::Question) -> engine::Answer {
    policy.engine(EngineQuestion { question, message: None, response: None }).await.answer
}

async fn path(policy: &LuaPolicy, domain: &str, source: &str) -> kumo_core::config::EgressPath {
    let site = format!("mx_list:mx.{domain}");
    let (domain, source, site) = (domain.into(), source.into(), site.into());
    match answer(policy, engine::Question::EgressPath { domain, source, site }).await {
        engine::Answer::EgressPath(path) => *path,
        other => panic!("{other:?}"),
    }
}

async fn queue(policy: &LuaPolicy, name: &str) -> kumo_core::config::QueueConfig {
    match answer(policy, engine::Question::QueueConfig { queue: name.into() }).await {
        engine::Answer::QueueConfig(config) => *config,
        other => panic!("{other:?}"),
    }
}

const SHAPING: &str = "local shaping = require 'policy-extras.shaping'
    kumo.on('get_egress_path_config', shaping:setup { '$/shaping.toml' })";

const SHAPING_FILE: &str = r#"
["d.test"]
mx_rollup = false
connection_limit = 3
["d.test".sources."s1"]
max_ready = 7
[provider."p"]
match = [{MXSuffix = ".p.test"}]
provider_connection_limit = 5
"#;

#[tokio::test]
async fn shaping_files_lie_over_the_default_one() {
    let site = Site::new(SHAPING, &[("shaping.toml", SHAPING_FILE)]);
    let policy = site.load().await;
    let by_default = path(&policy, "x.test", "s1").await;
    assert_eq!((by_default.connection_limit.limit, by_default.max_ready), (10, 1024));
    assert_eq!(by_default.max_message_rate.unwrap().to_string(), "50/s");
    let own = path(&policy, "d.test", "s1").await;
    assert_eq!((own.connection_limit.limit, own.max_ready), (3, 7));
    let provider = path(&policy, "a.p.test", "s2").await;
    assert_eq!(provider.provider_name.as_deref(), Some("p"));
    assert_eq!(provider.additional_connection_limits["shaping-provider-p-s2-limit"].limit, 5);
}

#[tokio::test]
async fn what_the_shaping_automation_needs_is_refused_and_the_rest_taken() {
    let with = |fields: &str| {
        format!(
            "local shaping = require 'policy-extras.shaping'
             local shaper = shaping:setup_with_automation {{ {fields} }}
             kumo.on('init', function() shaper.setup_publish() end)
             kumo.on('get_egress_path_config', shaper.get_egress_path_config)"
        )
    };
    let all = with(
        "no_default_files = true, extra_files = { '$/shaping.toml' }, pre_filter = true,
         cache_ttl = '5 minutes', load_validation_options = { aliased_site = 'Warn' },
         back_pressure = 100, publish = {}, skip_log_record_types = { 'Delayed' }",
    );
    let site = Site::new(&all, &[("shaping.toml", SHAPING_FILE)]);
    let policy = site.load().await;
    assert_eq!(path(&policy, "x.test", "s1").await.connection_limit.limit, 32, "no default file");
    for (fields, expected) in [
        (
            "publish = { 'http://127.0.0.1:8008' }",
            "policy.lua:2: shaping: publish = { 'http://127.0.0.1:8008' } needs the traffic shaping \
             automation's daemon, which this version of kumod doesn't have",
        ),
        ("subscribe = { 'http://127.0.0.1:8008' }", "shaping: subscribe = {"),
        (
            "extra_flies = {}",
            "policy.lua:2: shaping:setup_with_automation: unknown key 'extra_flies'; the nearest known \
             one is 'extra_files'",
        ),
        ("cache_ttl = true", "cache_ttl: expected a number, found true"),
        (
            "load_validation_options = { null_mx = 'Perhaps' }",
            "load_validation_options.null_mx: expected one of Ignore, Warn, Error",
        ),
        ("extra_files = { '/nowhere.toml' }", "policy.lua:2: shaping: can't read /nowhere.toml"),
    ] {
        let error = Site::new(&with(fields), &[]).error().await;
        assert!(error.contains(expected), "{fields}: {error}");
    }
}

#[tokio::test]
async fn a_mistake_in_a_shaping_file_is_told_with_file_line_key_and_the_nearest_key() {
    let site = Site::new(SHAPING, &[("shaping.toml", "['d.test']\nconection_limit = 5")]);
    assert_eq!(
        site.error().await,
        "policy.lua:2: shaping: shaping.toml:2: [\"d.test\"]: unknown key 'conection_limit'; \
         the nearest known one is 'connection_limit'"
    );
}

#[tokio::test]
async fn shaping_data_has_the_documented_methods() {
    let source = r#"
    local data = kumo.shaping.load({ '$/1.toml', '$/2.json' }, { local_load = 'Warn' })
    local utils = require 'policy-extras.policy_utils'
    utils.assert_eq(data:get_egress_path_config('d.test', 's1', 'site'), { connection_limit = 4, max_ready = 7 })
    utils.assert_eq(data:get_referenced_sources(), { s1 = { 'domain d.test' } })
    utils.assert_eq(data:get_errors(), {})
    utils.assert_eq(#data:get_warnings(), 1)
    utils.assert_matches(data:get_warnings()[1], "2.json:2: .*unknown key 'max_redy'")
    utils.assert_eq(data:get_notes(), {})
    utils.assert_eq(data:hash(), kumo.shaping.load { '$/1.toml', '$/2.json' }:hash())
    utils.assert_ne(data:hash(), kumo.shaping.load { '$/1.toml' }:hash())
    local rules = data:match_rules {
      type = 'TransientFailure', recipient = 'a@d.test', site = 's1->site@smtp_client',
      response = { code = 421, enhanced_code = { class = 4, subject = 7, detail = 0 }, content = 'too fast' },
    }
    utils.assert_eq(#rules, 1)
    utils.assert_eq(rules[1].action, { 'Suspend' })
    utils.assert_eq(rules[1].duration, '1h')
    utils.assert_eq(rules[1].scope, 'domain d.test')
    utils.assert_matches(rules[1].rule_hash, '^%x+$')
    for call, expected in pairs {
      ["kumo.shaping.load('x')"] = 'files: expected a list',
      ["kumo.shaping.load({}, { dns_fial = 'Warn' })"] = "unknown key 'dns_fial'; the nearest known one is 'dns_fail'",
      ["kumo.shaping.laod {}"] = 'no kumo.shaping.laod',
      ["kumo.shaping.load({}):get_error()"] = 'has no method "get_error"',
      ["kumo.shaping.load({}):match_rules {}"] = 'a log record has',
      ["kumo.shaping.load_shared({}, {}, 'soon')"] = 'ttl: expected',
    } do
      local done, why = pcall(load('local kumo = require "kumo" ' .. call))
      assert(not done and tostring(why):find(expected, 1, true), call .. ': ' .. tostring(why))
    end"#;
    let first =
        "['d.test']\nmx_rollup = false\nconnection_limit = 3\n['d.test'.sources.s1]\nmax_ready = 7
[['d.test'.automation]]\nregex = 'too fast'\naction = 'Suspend'\nduration = '1h'";
    let second =
        "{ \"d.test\": { \"mx_rollup\": false, \"connection_limit\": 4,\n\"max_redy\": 5 } }";
    Site::new(source, &[("1.toml", first), ("2.json", second)]).load().await;
}

#[tokio::test]
async fn shared_data_is_loaded_anew_once_it_is_old_unless_it_is_wrong() {
    let source = "
    kumo.on('get_egress_path_config', function(domain, source, site)
      local data = kumo.shaping.load_shared({ '$/shaping.toml' }, {}, 0.001)
      return kumo.make_egress_path(data:get_egress_path_config(domain, source, site))
    end)";
    let site = Site::new(source, &[("shaping.toml", "[default]\nconnection_limit = 1")]);
    let policy = site.load().await;
    let limit_becomes = async |limit: u64| {
        for _ in 0..500 {
            if path(&policy, "x", "s").await.connection_limit.limit == limit {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("never {limit}");
    };
    let write = |text: &str| std::fs::write(site.0.path().join("shaping.toml"), text).unwrap();
    limit_becomes(1).await;
    write("[default]\nconnection_limit = 2");
    limit_becomes(2).await;
    write("[default]\nconnection_limit = 'x'");
    for _ in 0..500 {
        assert_eq!(path(&policy, "x", "s").await.connection_limit.limit, 2);
        if !policy.warnings().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(policy.warnings()[0].contains("the shaping loaded before it holds on"));
    write("[default]\nconnection_limit = 3");
    limit_becomes(3).await;
}

const QUEUE: &str = "local queue = require('policy-extras.queue'):setup { '$/queue.toml' }
    kumo.on('smtp_server_message_received', function(msg) queue:apply(msg) end)";

const QUEUE_FILE: &str = r#"
scheduling_header = "X-Schedule"
tenant_header = "X-Tenant"
remove_tenant_header = true
campaign_header = "X-Campaign"
default_tenant = "common"
[tenant.common]
[tenant.big]
egress_pool = "pool-big"
max_age = "10h"
require_authz = ["ann"]
[tenant.big.campaigns.news]
max_age = "1h"
[queue.default]
max_age = "24h"
retry_interval = "1m"
[queue."one.test"]
max_age = "22h"
retry_interval = "17m"
routing_domain = "relay.test"
[queue."one.test".big]
retry_interval = "18m"
[queue."one.test".big.welcome]
retry_interval = "19m"
"#;

#[tokio::test]
async fn a_queues_options_are_merged_from_the_general_to_the_particular() {
    let site = Site::new(QUEUE, &[("queue.toml", QUEUE_FILE)]);
    let policy = site.load().await;
    let minutes = |queue: &kumo_core::config::QueueConfig| {
        let minutes = |time: kumo_core::time::Duration| time.as_secs() / 60;
        (
            queue.egress_pool.clone().unwrap_or_default(),
            minutes(queue.max_age),
            minutes(queue.retry_interval),
        )
    };
    for (name, expected) in [
        ("x.test", ("".into(), 24 * 60, 1)),
        ("ONE.test", ("".into(), 22 * 60, 17)),
        ("big@x.test", ("pool-big".into(), 600, 1)),
        ("news:big@x.test", ("pool-big".into(), 60, 1)),
        ("big@one.test", ("pool-big".into(), 600, 18)),
        ("welcome:big@one.test!relay.test", ("pool-big".into(), 600, 19)),
        ("welcome:common@one.test", ("".into(), 22 * 60, 17)),
    ] {
        assert_eq!(minutes(&queue(&policy, name).await), expected, "{name}");
    }
}

async fn applied(policy: &LuaPolicy, header: &str, authz: Option<&str>) -> Result<Message, String> {
    let mut message = message("");
    message.body = format!("{header}Subject: x\r\n\r\nx\r\n").into_bytes().into();
    if let Some(authz) = authz {
        message.meta.insert("authz_id".into(), authz.into());
    }
    let answer = ask(policy, Asked::MessageReceived { message }).await;
    match answer.verdict {
        Verdict::Message(message) => Ok(message),
        Verdict::Reject(reply) => Err(reply.to_string()),
        other => Err(format!("{other:?}")),
    }
}

/// Each question makes a new state here.
#[tokio::test]
async fn a_file_that_goes_bad_later_stops_nobody() {
    let site = Site::new(QUEUE, &[("queue.toml", QUEUE_FILE)]);
    let options = PolicyOptions { uses: 1, ..OPTIONS };
    let policy = LuaPolicy::load(&site.policy(), options).await.unwrap().policy;
    let interval = async || queue(&policy, "one.test").await.retry_interval.as_secs() / 60;
    let write = |text: &str| std::fs::write(site.0.path().join("queue.toml"), text).unwrap();
    assert_eq!(interval().await, 17);
    write("[queue.default]\nmax_agee = 5");
    assert_eq!(interval().await, 17);
    write("");
    assert_eq!(interval().await, 20, "the file is right again, and says nothing");
    std::fs::remove_file(site.0.path().join("queue.toml")).unwrap();
    assert_eq!(interval().await, 20);
}

#[tokio::test]
async fn apply_sets_what_decides_about_a_messages_queue() {
    let site = Site::new(QUEUE, &[("queue.toml", QUEUE_FILE)]);
    let policy = site.load().await;
    let text = |message: &Message, name: &str| {
        message.meta.get(name).map(|value| value.as_str().unwrap().to_string())
    };
    let message = applied(&policy, "", None).await.unwrap();
    assert_eq!(text(&message, "tenant").as_deref(), Some("common"));
    assert_eq!(text(&message, "campaign"), None);
    assert_eq!(text(&message, "routing_domain").as_deref(), Some("relay.test"));
    let header = "X-Tenant: big\r\nX-Campaign: welcome\r\n\
                  X-Schedule: {\"first_attempt\":\"2026-11-24T17:00:00Z\"}\r\n";
    let message = applied(&policy, header, Some("ann")).await.unwrap();
    assert_eq!(text(&message, "tenant").as_deref(), Some("big"));
    assert_eq!(text(&message, "campaign").as_deref(), Some("welcome"));
    assert!(message.schedule.due.is_some());
    let left = String::from_utf8(message.body.to_vec()).unwrap();
    assert!(!left.contains("X-Tenant") && left.contains("X-Campaign"), "{left}");
    for (header, authz, expected) in [
        ("X-Tenant: big\r\n", None, "500 5.7.1 you may not send for tenant 'big'"),
        ("X-Tenant: big\r\n", Some("bob"), "500 5.7.1 you may not send for tenant 'big'"),
        ("X-Tenant: none\r\n", Some("ann"), "500 5.7.1 there is no tenant 'none'"),
    ] {
        assert_eq!(applied(&policy, header, authz).await.unwrap_err(), expected);
    }
}

#[tokio::test]
async fn mistakes_in_queue_files_are_told_with_file_and_section() {
    for (text, expected) in [
        (
            "[queue.default]\nmax_agee = '1h'",
            "policy.lua:1: queue: queue.toml: [queue.\"default\"]: unknown key 'max_agee'; \
             the nearest known one is 'max_age'",
        ),
        (
            "[queue.default]\nmax_age = 'long'",
            "[queue.\"default\"]: kumo.make_queue_config: max_age: expected",
        ),
        (
            "[tenant.t]\nrequire_autz = ['x']",
            "[tenant.\"t\"]: unknown key 'require_autz'; the nearest known one is 'require_authz'",
        ),
        ("[tenant.t]\nrequire_authz = 'x'", "[tenant.\"t\"]: require_authz: expected a table"),
        (
            "[tenant.t]\noverall_max_message_rate = 'fast'",
            "[tenant.\"t\"]: overall_max_message_rate: kumo.make_throttle: \"fast\" isn't a rate",
        ),
        ("[queue.a.b.c.d]\nmax_age = 5", "[queue.\"a\".\"b\".\"c\"]: sections go to domain"),
        ("default_tenant = 't'", "default_tenant: there is no [tenant.\"t\"]"),
        (
            "tenant_haeder = 'X'",
            "unknown key 'tenant_haeder'; the nearest known one is 'tenant_header'",
        ),
        ("x = = 1", "queue.toml: kumo.serde.toml_load: TOML parse error at line 1"),
    ] {
        let error = Site::new(QUEUE, &[("queue.toml", text)]).error().await;
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = Site::new(QUEUE, &[]).error().await;
    assert!(error.contains("can't read queue.toml"), "{error}");
}

const SOURCES: &str = "require('policy-extras.sources'):setup { '$/sources.toml' }";

const SOURCES_FILE: &str = r#"
[source.ip-1]
source_address = "10.0.0.1"
ehlo_domain = "mta1.test"
[source.ip-2]
[pool.one]
[pool.one.ip-1]
[pool.two]
ip-2 = { weight = 2 }
ip-1 = {}
"#;

#[tokio::test]
async fn sources_and_pools_are_as_the_file_says() {
    let site = Site::new(SOURCES, &[("sources.toml", SOURCES_FILE)]);
    let policy = site.load().await;
    let pool =
        async |name: &str| answer(&policy, engine::Question::Pool { name: name.into() }).await;
    let engine::Answer::Pool(two) = pool("two").await else { panic!("no pool") };
    let entries: Vec<_> = two.pool.entries.iter().map(|one| (&*one.name, one.weight)).collect();
    assert_eq!(entries, [("ip-1", 1), ("ip-2", 2)]);
    assert_eq!(two.sources[0].ehlo_domain.as_deref(), Some("mta1.test"));
    assert!(matches!(pool("three").await, engine::Answer::Failed { .. }));
    for (text, expected) in [
        (
            "[source.a]\nsource_adress = '10.0.0.1'",
            "policy.lua:1: sources: sources.toml: [source.\"a\"]: kumo.make_egress_source: unknown key \
             'source_adress'; the nearest known one is 'source_address'",
        ),
        ("[pool.p.a]", "[pool.\"p\"]: there is no [source.\"a\"]"),
        (
            "[source.a]\n[pool.p.a]\nwieght = 2",
            "pool.p.a: unknown key 'wieght'; the nearest known one is 'weight'",
        ),
        ("[sources.a]", "unknown key 'sources'; the nearest known one is 'source'"),
    ] {
        let error = Site::new(SOURCES, &[("sources.toml", text)]).error().await;
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[tokio::test]
async fn validate_checks_the_files_against_each_other() {
    let all = format!("{SOURCES} {QUEUE} {SHAPING}");
    let queue = |pool: &str| format!("[queue.default]\negress_pool = '{pool}'");
    let shaping = |source: &str| {
        format!("['d.test']\nmx_rollup = false\n['d.test'.sources.{source}]\nmax_ready = 5")
    };
    for (pool, source, fails) in
        [("one", "ip-1", false), ("three", "ip-1", true), ("one", "ip-9", true)]
    {
        let files = [
            ("sources.toml", SOURCES_FILE),
            ("queue.toml", &*queue(pool)),
            ("shaping.toml", &*shaping(source)),
        ];
        assert_eq!(Site::new(&all, &files).validated().await.failed, fails, "{pool} {source}");
    }
}

#[tokio::test]
async fn a_module_that_is_required_may_wait_while_it_is_read() {
    let site = Site::new(
        "package.path = '$/?.lua;' .. package.path
         kumo.on('get_egress_path_config', require 'mine')",
        &[(
            "mine.lua",
            "local shaping = require 'policy-extras.shaping' require('kumo').sleep(0.001) return shaping:setup {}",
        )],
    );
    assert_eq!(path(&site.load().await, "x.test", "s").await.connection_limit.limit, 10);
}

#[tokio::test]
async fn utilities_do_as_they_are_called() {
    let source = r#"
    local u = require 'policy-extras.policy_utils'
    u.assert_eq({ a = { 1, 2 } }, { a = { 1, 2 } })
    u.assert_ne({ a = 1 }, { a = 1, b = 2 })
    u.assert_matches('abc', '^a.c$')
    for call, expected in pairs {
      ["u.assert_eq(1, 2)"] = '1 ~= 2',
      ["u.assert_eq({1}, {2}, 'lists')"] = 'lists: [1] ~= [2]',
      ["u.assert_ne(1, 1)"] = 'both are 1',
      ["u.assert_matches('x', 'y')"] = '"x" does not match y',
      ["u.load_json_or_toml_file '/nowhere.json'"] = '/nowhere.json: ',
    } do
      local done, why = pcall(load('local u = ... ' .. call), u)
      assert(not done and tostring(why):find(expected, 1, true), call .. ': ' .. tostring(why))
    end
    local to = { a = 1, t = { x = 1 }, l = { 1, 2 } }
    u.assert_eq(u.merge_into({ a = 2, t = { y = 2 } }, to), { a = 2, t = { y = 2 }, l = { 1, 2 } })
    u.recursive_merge_into({ t = { x = 3, z = {} }, l = { 3 } }, to)
    u.assert_eq(to, { a = 2, t = { x = 3, y = 2, z = {} }, l = { 3 } })
    assert(u.table_contains({ 'a', { 1 } }, { 1 }) and not u.table_contains({}, 'a'))
    u.assert_eq(u.table_keys { b = 1, a = 2 }, { 'a', 'b' })
    u.assert_eq({ u.split_ip_port '10.0.0.1:25' }, { '10.0.0.1', 25 })
    u.assert_eq({ u.split_ip_port '[::1]:25' }, { '::1', 25 })
    u.assert_eq({ u.split_ip_port '::1' }, { '::1' })
    assert(u.dumps { a = 1 } == '{"a":1}')
    u.assert_eq(u.load_json_or_toml_file('$/x.toml'), { a = 1 })
    u.assert_eq(u.load_json_or_toml_file('$/x.json'), { a = 1 })
    assert(u.table_contains(kumo.queue_config_field_names(), 'max_age'))"#;
    Site::new(source, &[("x.toml", "a = 1"), ("x.json", "{\"a\": 1}")]).load().await;
}

async fn is_delayed(policy: &LuaPolicy, tenant: &str) -> bool {
    let mut message = message("Subject: x\r\n\r\nx\r\n");
    message.meta.insert("tenant".into(), tenant.into());
    let question = engine::Question::ThrottleInsert { message: message.id };
    let asked = EngineQuestion { question, message: Some(message), response: None };
    match policy.engine(asked).await.answer {
        engine::Answer::ThrottleInsert { until } => until.is_some(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_rate_is_shared_by_the_queues_of_its_section_in_all_states_together() {
    let text = "[tenant.slow]\noverall_max_message_rate = '2/h'\n[tenant.fast]\n";
    let site = Site::new(QUEUE, &[("queue.toml", text)]);
    let policy = LuaPolicy::load(&site.policy(), PolicyOptions { uses: 1, ..OPTIONS }).await;
    let policy = policy.unwrap().policy;
    let mut delayed = Vec::new();
    for _ in 0..4 {
        delayed.push(is_delayed(&policy, "slow").await);
        assert!(!is_delayed(&policy, "fast").await);
    }
    assert_eq!(delayed, [false, false, true, true]);
}

#[tokio::test]
async fn a_first_shared_rate_needs_a_restart_and_does_no_harm() {
    let site = Site::new(QUEUE, &[("queue.toml", "[queue.default]\nmax_age = '1h'")]);
    let policy = LuaPolicy::load(&site.policy(), PolicyOptions { uses: 1, ..OPTIONS }).await;
    let policy = policy.unwrap().policy;
    assert!(!policy.engine_handled().throttle_insert);
    let text = "[queue.default]\nmax_age = '2h'\noverall_max_message_rate = '1/h'";
    std::fs::write(site.0.path().join("queue.toml"), text).unwrap();
    assert_eq!(queue(&policy, "x.test").await.max_age.as_secs(), 3600, "the old file holds on");
}

#[tokio::test]
async fn throttles_do_as_documented() {
    let source = r#"
    local t = kumo.make_throttle('a', '2/h')
    local first = t:throttle()
    assert(not first.throttled and first.limit == 2 and first.remaining == 1 and not first.retry_after)
    assert(not kumo.make_throttle('a', '2/h'):throttle().throttled)
    local third = t:throttle()
    assert(third.throttled and third.remaining == 0 and third.retry_after == 1800)
    assert(not kumo.make_throttle('b', '2/h'):throttle().throttled)
    local quick = kumo.make_throttle('c', '100/s,max_burst=1')
    assert(not quick:sleep_if_throttled() and quick:sleep_if_throttled())
    for call, expected in pairs {
      ["kumo.make_throttle('a', 'fast')"] = [["fast" isn't a rate]],
      ["kumo.make_throttle('a', '1/s'):trottle()"] = 'did you mean `throttle`?',
    } do
      local done, why = pcall(load('local kumo = require "kumo" ' .. call))
      assert(not done and tostring(why):find(expected, 1, true), call .. ': ' .. tostring(why))
    end"#;
    Site::new(source, &[]).load().await;
}

//! What configuration comes to, asked from Lua: ceilings, TOML, and what the events say.
use super::super::{PolicyOptions, script};
use kumo_core::config::options::Constructed;
use kumo_core::config::{EgressPath, QueueConfig, ThrottleSpec, render};
use proptest::prelude::*;
use serde_json::{Map, Value};

/// Runs `body` as a script, whose asserts are the test's.
async fn run(handlers: &str, body: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.lua");
    let text = format!(
        "local kumo = require 'kumo'
         local function is(found, expected)
           if found ~= expected then error(tostring(found) .. ' is not ' .. tostring(expected), 2) end
         end
         {handlers}
         kumo.on('main', function() {body} end)"
    );
    std::fs::write(&path, text).unwrap();
    let done = script(&path, &[], PolicyOptions::default()).await;
    done.map_err(|error| error.to_string())
}

async fn passes(handlers: &str, body: &str) {
    run(handlers, body).await.unwrap_or_else(|why| panic!("{why}"));
}

#[tokio::test]
async fn ceilings_are_plain_tables_that_can_be_merged_and_shown() {
    passes(
        "",
        r#"
        local path = kumo.make_egress_path { max_message_rate = '1000/s' }
        local of_path = kumo.compute_egress_path_config_constraints(path)
        is(of_path.max_message_rate.value, 1000.0)
        is(of_path.max_message_rate.source.kind, 'primary')
        is(of_path.max_connection_rate, nil)
        local of_queue = kumo.compute_queue_config_constraints { max_message_rate = '100/s' }
        is(of_queue.max_concurrent_dispatchers.value, math.huge)
        local both = kumo.compute_egress_path_config_constraints({ max_message_rate = '1000/s' }, of_queue)
        is(both.max_message_rate.display, '100/s')
        is(both.max_message_rate_declared, '1000/s')
        is(both.max_concurrent_dispatchers.value, 32)
        is(kumo.format_egress_path_config_constraints(both), [[
ceilings:
  concurrent dispatchers: 32
    source: connection_limit
  message rate:           100/s
    source: scheduled queue max_message_rate
    declared: max_message_rate = 1000/s ← effectively unreachable
]])
        is(kumo.format_egress_path_config_constraints(of_queue):match('dispatchers: (%S+)'), '∞')
        "#,
    )
    .await;
}

#[tokio::test]
async fn configuration_that_is_wrong_is_named_with_its_key() {
    let why =
        run("", "kumo.format_egress_path_config_toml { connection_limt = 3 }").await.unwrap_err();
    assert!(why.contains("connection_limt") && why.contains("connection_limit"), "{why}");
    assert!(why.contains("kumo.format_egress_path_config_toml"), "{why}");
    let why = run("", "kumo.format_egress_path_config_constraints {}").await.unwrap_err();
    assert!(why.contains("what compute_…_constraints returns is wanted"), "{why}");
}

#[tokio::test]
async fn events_are_asked_as_kumod_asks_them() {
    passes(
        "kumo.on('get_queue_config', function(domain, tenant, campaign)
           if domain == 'a.example' then
             return kumo.make_queue_config { max_age = '3 days', egress_pool = tenant .. campaign }
           end
         end)
         kumo.on('get_egress_path_config', function(domain, source, site)
           return kumo.make_egress_path { connection_limit = #domain + #source + #site }
         end)",
        "
        local config = kumo.invoke_get_queue_config('camp:ten@a.example')
        is(config.max_age, '3days')
        is(config.egress_pool, 'tencamp')
        is(kumo.invoke_get_queue_config('b.example').max_age, '7days')
        is(kumo.invoke_get_egress_path_config('a', 'bb', 'ccc').connection_limit, 6)
        ",
    )
    .await;
    let wrong = "kumo.on('get_egress_path_config', function() return 'none' end)";
    let why = run(wrong, "kumo.invoke_get_egress_path_config('a', 'b', 'c')").await.unwrap_err();
    assert!(why.contains("get_egress_path_config at") && why.contains("returned"), "{why}");
}

#[tokio::test]
async fn any_table_can_be_toml_in_a_compact_form() {
    passes(
        "",
        r#"
        local text = kumo.serde.toml_encode_pretty_compact { b = 1, a = { c = {}, d = { e = 'f' } }, g = { { h = 1 } } }
        is(text, 'b = 1\n\n[a]\nc = {}\n\n[a.d]\ne = "f"\n\n[[g]]\nh = 1\n')
        is(kumo.serde.toml_encode_pretty_compact {}, '')
        "#,
    )
    .await;
}

fn read_back<T: Constructed>(text: &str) -> T {
    let value: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
    let Ok(Value::Object(map)) = serde_json::to_value(value) else { panic!("{text}") };
    let map: Map<String, Value> = map;
    T::parse(map).unwrap_or_else(|error| panic!("{error}: {text}")).value
}

fn rate() -> impl Strategy<Value = ThrottleSpec> {
    (1..100_000u64, 1..100_000u64, prop::option::of(1..50u64), any::<bool>()).prop_map(
        |(limit, seconds, max_burst, local)| ThrottleSpec {
            limit,
            period: std::time::Duration::from_secs(seconds),
            max_burst,
            local,
        },
    )
}

prop_compose! {
    fn any_path()(
        limit in 1..10_000u64, local in any::<bool>(),
        message in prop::option::of(rate()), connection in prop::option::of(rate()),
        shared in prop::collection::btree_map("[a-z .\"=\\[\\]é]{1,12}", rate(), 0..4),
        limits in prop::collection::btree_map("[a-z-]{1,8}", 1..99u64, 0..4),
        times in prop::collection::vec(1..1_000_000u64, 4),
        watchdog in prop::option::of(1..100_000u64),
        provider in prop::option::of("[ -~é]{1,20}"),
        flags in prop::collection::vec(any::<bool>(), 4),
    ) -> EgressPath {
        use kumo_core::config::LimitSpec;
        let millis = std::time::Duration::from_millis;
        EgressPath {
            connection_limit: LimitSpec { limit, force_local: local },
            additional_connection_limits: limits.into_iter()
                .map(|(key, limit)| (key.into(), LimitSpec { limit, force_local: !local })).collect(),
            max_message_rate: message,
            max_connection_rate: connection,
            additional_message_rate_throttles: shared.into_iter().map(|(key, rate)| (key.into(), rate)).collect(),
            connect_timeout: millis(times[0]), data_timeout: millis(times[1]),
            idle_timeout: millis(times[2]), refresh_interval: millis(times[3]),
            dispatcher_progress_watchdog_timeout: watchdog.map(millis),
            provider_name: provider.map(Into::into),
            enable_pipelining: flags[0], enable_rset: flags[1], use_lmtp: flags[2], ignore_8bit_checks: flags[3],
            ..EgressPath::default()
        }
    }
}

proptest! {
    /// For every configuration: what is rendered is read back as an equal one, by a TOML parser that isn't ours.
    #[test]
    fn configuration_in_toml_parses_back_to_an_equal_one(
        path in any_path(), age in 1..10_000_000u64, pool in prop::option::of("[ -~]{1,20}"), rate in prop::option::of(rate()),
    ) {
        let text = render::toml(&render::egress_path(&path));
        prop_assert_eq!(read_back::<EgressPath>(&text), path);
        let config = QueueConfig {
            max_age: std::time::Duration::from_secs(age),
            egress_pool: pool.map(Into::into),
            max_message_rate: rate,
            ..QueueConfig::default()
        };
        let text = render::toml(&render::queue_config(&config));
        prop_assert_eq!(read_back::<QueueConfig>(&text), config);
    }
}

//! What configuration comes to, asked from Lua: ceilings, TOML, and what the events say.
use super::super::{PolicyOptions, script};

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
        is(kumo.invoke_get_egress_path_config('a', 'bb', 'ccc').connection_limit.limit, 6)
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

/// Also what can be written in one way only, and what nobody else is shown.
#[tokio::test]
async fn configuration_as_toml_is_read_back_as_it_was() {
    passes(
        "",
        r#"
        local path = kumo.make_egress_path {
          connection_limit = 'local:7', additional_connection_limits = { ['a "b"'] = 3 },
          max_message_rate = '10/5m,max_burst=2', skip_hosts = { '10.0.0.0/8' },
          smtp_auth_plain_username = 'joe', smtp_auth_plain_password = { key_data = 'sesame' },
        }
        local text = kumo.format_egress_path_config_toml(path)
        local read = kumo.serde.toml_parse(text)
        is(read.smtp_auth_plain_password.key_data, 'sesame')
        is(read.connection_limit.limit, 7)
        is(read.connection_limit.force_local, true)
        is(kumo.format_egress_path_config_toml(kumo.make_egress_path(read)), text)
        local queue = kumo.make_queue_config {
          protocol = { smtp = { mx_list = { 'a:26', { name = '[192.0.2.1]', addr = '192.0.2.2' } } } },
        }
        local text = kumo.format_queue_config_toml(queue)
        is(kumo.serde.toml_parse(text).protocol.smtp.mx_list[2].addr, '192.0.2.2')
        is(kumo.format_queue_config_toml(kumo.serde.toml_parse(text)), text)
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_an_event_says_can_be_made_again_as_it_is() {
    passes(
        "kumo.on('get_egress_path_config', function()
           return kumo.make_egress_path {
             smtp_auth_plain_username = 'joe', smtp_auth_plain_password = { key_data = 'sesame' },
           }
         end)",
        "
        local path = kumo.invoke_get_egress_path_config('a', 'b', 'c')
        is(path.smtp_auth_plain_password.key_data, 'sesame')
        is(kumo.format_egress_path_config_toml(kumo.make_egress_path(path)), kumo.format_egress_path_config_toml(path))
        ",
    )
    .await;
}

#[tokio::test]
async fn a_list_with_a_hole_is_no_toml() {
    let why = run("", "kumo.serde.toml_encode_pretty_compact { a = { 1, nil, 3 } }").await;
    assert!(why.unwrap_err().contains("kumo.serde.toml_encode_pretty_compact: TOML has no null"));
}

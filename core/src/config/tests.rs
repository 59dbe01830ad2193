//! Every key of every constructor, each value form, and hostile tables. The readers are tested through
//! `Constructed::parse` only, as the policy layer uses them.
use super::egress::{Cidr, EnableTls};
use super::listener::ReportHandling;
use super::options::{
    self, ConfigError, Constructed, Effect, OptionKey, OptionTable, Parsed, TABLES,
};
use super::queue::{CustomLua, DeliveryProtocol, MxListEntry};
use super::*;
use crate::limits;
use crate::time::Duration;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

fn map(json: Value) -> Map<String, Value> {
    json.as_object().expect("a table").clone()
}

fn parse<T: Constructed>(json: Value) -> Result<Parsed<T>, ConfigError> {
    T::parse(map(json))
}

fn made<T: Constructed>(json: Value) -> T {
    let shown = json.to_string();
    match parse(json) {
        Ok(Parsed { value, warnings }) if warnings.is_empty() => value,
        Ok(Parsed { warnings, .. }) => panic!("{shown}: {warnings:?}"),
        Err(error) => panic!("{shown}: {error}"),
    }
}

fn wrong<T: Constructed>(json: Value) -> String {
    match parse::<T>(json.clone()) {
        Ok(_) => panic!("{json} was accepted"),
        Err(error) => error.to_string(),
    }
}

/// What one table looks like in tests: how its text becomes a value, and a sample for each effective key that
/// differs from the default.
struct Sample {
    options: &'static OptionTable,
    /// Parses and renders what was made, so that values of different types can be compared.
    parse: fn(Value) -> Result<Parsed<Value>, ConfigError>,
    /// From this table to the constructor's.
    wrap: fn(Value) -> Value,
    /// What has to be there.
    least: Value,
    keys: Value,
}

fn rendered<T: Constructed + serde::Serialize>(json: Value) -> Result<Parsed<Value>, ConfigError> {
    let parsed = parse::<T>(json)?;
    let value = serde_json::to_value(parsed.value).expect("JSON");
    Ok(Parsed { value, warnings: parsed.warnings })
}

fn listeners() -> Vec<Sample> {
    let trace_headers = json!({
        "received_header": false, "supplemental_header": false, "header_name": "X-Ref",
        "include_meta_names": ["tenant"],
    });
    vec![
        Sample {
            options: &options::ESMTP_LISTENER,
            parse: rendered::<EsmtpListener>,
            wrap: |table| table,
            least: json!({"tls_certificate": "a", "tls_private_key": "b"}),
            keys: json!({
                "listen": "[::]:25", "hostname": "mx.example.com", "banner": "hello",
                "relay_hosts": ["10.0.0.0/8", "::1"], "max_connections": 5, "client_timeout": 5,
                "data_processing_timeout": "1m", "max_messages_per_connection": 5,
                "max_recipients_per_message": 5, "max_message_size": 5,
                "invalid_line_endings": "Fix", "line_length_hard_limit": 5,
                "batch_handling": "BatchByDomain", "tls_certificate": "/c.pem",
                "tls_private_key": "/k.pem", "trace_headers": trace_headers.clone(),
                "meta": {"a": [1]},
            }),
        },
        Sample {
            options: &options::TRACE_HEADERS,
            parse: rendered::<EsmtpListener>,
            wrap: |table| json!({"trace_headers": table}),
            least: json!({}),
            keys: trace_headers,
        },
        Sample {
            options: &options::HTTP_LISTENER,
            parse: rendered::<HttpListener>,
            wrap: |table| table,
            least: json!({"tls_certificate": "a", "tls_private_key": "b"}),
            keys: json!({
                "listen": "0:80", "hostname": "mx.example.com", "trusted_hosts": ["10.1.1.1"],
                "request_body_limit": 5, "use_tls": true, "tls_certificate": "/c.pem",
                "tls_private_key": "/k.pem",
            }),
        },
        Sample {
            options: &options::PROXY_LISTENER,
            parse: rendered::<ProxyListener>,
            wrap: |table| table,
            least: json!({
                "listen": "127.0.0.1:1080", "tls_certificate": "a", "tls_private_key": "b",
            }),
            keys: json!({
                "listen": "0:1081", "hostname": "proxy.example.com", "timeout": "5m",
                "idle_timeout": "5m", "use_tls": true, "tls_certificate": "/c.pem", "tls_private_key": "/k.pem",
                "require_auth": true, "use_splice": false, "tcp_keepalive": {"retries": 5},
                "max_connections": 5,
            }),
        },
        Sample {
            options: &options::TCP_KEEPALIVE,
            parse: rendered::<ProxyListener>,
            wrap: |table| json!({"listen": "127.0.0.1:1080", "tcp_keepalive": table}),
            least: json!({}),
            keys: json!({"enabled": false, "time": "1m", "interval": 5, "retries": 5}),
        },
        Sample {
            options: &options::LISTENER_DOMAIN,
            parse: rendered::<ListenerDomain>,
            wrap: |table| table,
            least: json!({}),
            keys: json!({
                "relay_to": true, "relay_from": ["10.0.0.0/8"], "log_oob": true,
                "log_arf": "LogThenDrop",
            }),
        },
    ]
}

fn services() -> Vec<Sample> {
    let rocks_params = json!({
        "increase_parallelism": 4, "optimize_level_style_compaction": 1000,
        "paranoid_checks": true, "compression_type": "Zstd", "compaction_readahead_size": 5,
        "level_compaction_dynamic_level_bytes": true, "max_open_files": -1,
        "write_buffer_size": 5, "level0_stop_writes_trigger": 5, "log_level": "Warn",
        "memtable_huge_page_size": 5, "log_file_time_to_roll": "1 day",
        "obsolete_files_period": 5, "store_deadline": "7s", "error_latch_duration": "7s",
        "error_unlatch_duration": "7s", "allow_error_unlatch": false,
    });
    let mut universal = rocks_params.clone();
    let table = universal.as_object_mut().expect("a table");
    table.remove("optimize_level_style_compaction");
    table.insert("optimize_universal_style_compaction".into(), json!(1000));
    let rocks = |keys| Sample {
        options: &options::ROCKS_PARAMS,
        parse: rendered::<SpoolDefinition>,
        wrap: |table| json!({"name": "data", "path": "/x", "rocks_params": table}),
        least: json!({}),
        keys,
    };
    let per_record = json!({"enable": false, "suffix": ".d", "log_dir": "/d"});
    vec![
        Sample {
            options: &options::SPOOL,
            parse: rendered::<SpoolDefinition>,
            wrap: |table| table,
            least: json!({"name": "meta", "path": "/spool/meta"}),
            keys: json!({
                "name": "data", "path": "/spool/data", "kind": "LocalDisk", "flush": true,
                "min_free_space": "5%", "min_free_inodes": 7, "rocks_params": {},
            }),
        },
        rocks(rocks_params),
        rocks(universal),
        Sample {
            options: &options::LOCAL_LOGS,
            parse: rendered::<LocalLogs>,
            wrap: |table| table,
            least: json!({"log_dir": "/var/log"}),
            keys: json!({
                "log_dir": "/log", "max_file_size": 5, "back_pressure": 5, "compression_level": 5,
                "max_segment_duration": "10 seconds", "meta": ["x_*"], "headers": ["Subject"],
                "per_record": {"Delivery": per_record.clone(), "OOB": {}, "Any": {"enable": false}},
                "min_free_space": "5%", "min_free_inodes": 7,
            }),
        },
        Sample {
            options: &options::PER_RECORD,
            parse: rendered::<LocalLogs>,
            wrap: |table| json!({"log_dir": "/x", "per_record": {"Any": table}}),
            least: json!({}),
            keys: per_record,
        },
    ]
}

fn queues() -> Vec<Sample> {
    vec![
        Sample {
            options: &options::QUEUE_CONFIG,
            parse: rendered::<QueueConfig>,
            wrap: |table| table,
            least: json!({}),
            keys: json!({
                "retry_interval": "1m", "max_retry_interval": 5, "max_age": 5.5,
                "egress_pool": "pool", "max_message_rate": "100/h",
                "protocol": {"smtp": {"mx_list": ["a"]}}, "reap_interval": 5,
                "refresh_interval": 5,
            }),
        },
        Sample {
            options: &options::PROTOCOL,
            parse: rendered::<QueueConfig>,
            wrap: |table| json!({"protocol": table}),
            least: json!({"maildir_path": "/m"}),
            keys: json!({"maildir_path": "/maildir", "dir_mode": 0o775, "file_mode": 0o664}),
        },
        Sample {
            options: &options::PROTOCOL,
            parse: rendered::<QueueConfig>,
            wrap: |table| json!({"protocol": table}),
            least: json!({"smtp": {}}),
            keys: json!({"smtp": {"mx_list": ["[10.0.0.1]:25"]}}),
        },
        Sample {
            options: &options::PROTOCOL,
            parse: rendered::<QueueConfig>,
            wrap: |table| json!({"protocol": table}),
            least: json!({"custom_lua": {"constructor": "x"}}),
            keys: json!({"custom_lua": {"constructor": "y"}}),
        },
        Sample {
            options: &options::CUSTOM_LUA,
            parse: rendered::<QueueConfig>,
            wrap: |table| json!({"protocol": {"custom_lua": table}}),
            least: json!({"constructor": "x", "batch_size": 3, "max_batch_latency": "1s"}),
            keys: json!({
                "constructor": "y", "batch_size": 5, "min_batch_size": 2, "max_batch_latency": 5,
            }),
        },
        Sample {
            options: &options::SMTP,
            parse: rendered::<QueueConfig>,
            wrap: |table| json!({"protocol": {"smtp": table}}),
            least: json!({}),
            keys: json!({"mx_list": ["a", {"name": "b", "addr": "10.0.0.1"}]}),
        },
        Sample {
            options: &options::MX_LIST,
            parse: rendered::<QueueConfig>,
            wrap: |table| json!({"protocol": {"smtp": {"mx_list": [table]}}}),
            least: json!({"name": "b", "addr": "10.0.0.1"}),
            keys: json!({"name": "a", "addr": "::1"}),
        },
    ]
}

/// Too much for `json!`.
const EGRESS_PATH_KEYS: &str = r#"{
    "connection_limit": "local:5", "additional_connection_limits": {"a": 5},
    "max_connection_rate": "5/s", "max_deliveries_per_connection": 5,
    "max_message_rate": "5/s", "additional_message_rate_throttles": {"a": "5/s"},
    "source_selection_rate": "5/s", "additional_source_selection_rates": {"a": "5/s"},
    "max_ready": 5, "max_recipients_per_batch": 5,
    "consecutive_connection_failures_before_delay": 5, "smtp_port": 2525,
    "enable_tls": "Required", "enable_pipelining": false, "enable_rset": false,
    "use_lmtp": true, "connect_timeout": 7, "banner_timeout": 7, "ehlo_timeout": 7,
    "mail_from_timeout": 7, "rcpt_to_timeout": 7, "data_timeout": 7,
    "data_dot_timeout": 7, "rset_timeout": 7, "idle_timeout": 7,
    "starttls_timeout": 7, "auth_timeout": 7, "system_shutdown_timeout": 7,
    "dispatcher_progress_watchdog_timeout": 8,
    "smtp_auth_plain_username": "u", "smtp_auth_plain_password": {"key_data": "p"},
    "allow_smtp_auth_plain_without_tls": true,
    "allow_smtp_auth_plain_without_valid_certificate": true, "ehlo_domain": "d",
    "prohibited_hosts": {}, "skip_hosts": ["10.0.0.0/8"],
    "ip_lookup_strategy": "Ipv4Only", "ignore_8bit_checks": true,
    "remember_broken_tls": "3 days",
    "opportunistic_tls_reconnect_on_failed_handshake": true, "refresh_interval": 7,
    "provider_name": "p"
}"#;

fn egress() -> Vec<Sample> {
    vec![
        Sample {
            options: &options::EGRESS_PATH,
            parse: rendered::<EgressPath>,
            wrap: |table| table,
            least: json!({
                "smtp_auth_plain_username": "a", "smtp_auth_plain_password": {"key_data": "b"},
            }),
            keys: serde_json::from_str(EGRESS_PATH_KEYS).expect("JSON"),
        },
        Sample {
            options: &options::LIMIT_SPEC,
            parse: rendered::<EgressPath>,
            wrap: |table| json!({"connection_limit": table}),
            least: json!({"limit": 1}),
            keys: json!({"limit": 5, "force_local": true}),
        },
        Sample {
            options: &options::EGRESS_POOL,
            parse: rendered::<EgressPool>,
            wrap: |table| table,
            least: json!({"name": "n", "entries": []}),
            keys: json!({"name": "pool", "entries": [{"name": "a"}], "ttl": 5}),
        },
        Sample {
            options: &options::POOL_ENTRY,
            parse: rendered::<EgressPool>,
            wrap: |table| json!({"name": "n", "entries": [table]}),
            least: json!({"name": "n"}),
            keys: json!({"name": "a", "weight": 0}),
        },
        Sample {
            options: &options::EGRESS_SOURCE,
            parse: rendered::<EgressSource>,
            wrap: |table| table,
            least: json!({"name": "n"}),
            keys: json!({
                "name": "s", "ehlo_domain": "d", "source_address": "10.0.0.1",
                "remote_port": 587, "ttl": 5,
                "suspend_when_unplumbed": {"duration": 5},
            }),
        },
        Sample {
            options: &options::EGRESS_SOURCE,
            parse: rendered::<EgressSource>,
            wrap: |table| table,
            least: json!({
                "name": "n", "ha_proxy_server": "10.0.0.1:1", "ha_proxy_source_address": "10.0.0.1",
            }),
            keys: json!({
                "ha_proxy_server": "10.0.0.9:1080", "ha_proxy_source_address": "10.0.0.8",
                "suspend_when_proxy_unhealthy": {
                    "trigger": {"Threshold": "3/5m"}, "duration": "1m",
                },
            }),
        },
        Sample {
            options: &options::EGRESS_SOURCE,
            parse: rendered::<EgressSource>,
            wrap: |table| table,
            least: json!({
                "name": "n", "socks5_proxy_server": "10.0.0.1:1", "socks5_proxy_username": "n",
                "socks5_proxy_password": {"key_data": "n"},
            }),
            keys: json!({
                "socks5_proxy_server": "proxy.example.com:1080",
                "socks5_proxy_source_address": "10.0.0.8", "socks5_proxy_username": "joe",
                "socks5_proxy_password": {"key_data": "sesame"},
            }),
        },
        Sample {
            options: &options::SUSPEND_RULE,
            parse: rendered::<EgressSource>,
            wrap: |table| json!({"name": "n", "source_address": "10.0.0.1", "suspend_when_unplumbed": table}),
            least: json!({"duration": 5}),
            keys: json!({"trigger": {"Threshold": "3/5m"}, "duration": "1m"}),
        },
    ]
}

fn samples() -> Vec<Sample> {
    [listeners(), services(), queues(), egress()].into_iter().flatten().collect()
}

impl Sample {
    fn with(&self, key: &str, value: Value) -> Result<Parsed<Value>, ConfigError> {
        let mut table = map(self.least.clone());
        table.insert(key.into(), value);
        (self.parse)((self.wrap)(Value::Object(table)))
    }

    fn least(&self) -> Parsed<Value> {
        (self.parse)((self.wrap)(self.least.clone())).expect("the least table")
    }
}

fn with_effect(options: &OptionTable) -> BTreeSet<&str> {
    let effective = |option: &&OptionKey| matches!(option.effect, Effect::Effective { .. });
    options.options.iter().filter(effective).map(|option| option.key).collect()
}

fn suspends(rule: Value) -> String {
    wrong::<EgressSource>(json!({"name": "s", "suspend_when_unplumbed": rule}))
}

fn proxied(keys: Value) -> String {
    let mut table = map(keys);
    table.insert("name".into(), "s".into());
    wrong::<EgressSource>(Value::Object(table))
}

#[test]
fn what_can_never_apply_is_warned_about() {
    let rule = json!({"duration": "1m"});
    let warnings = |keys: Value| EgressSource::parse(map(keys)).unwrap().warnings;
    for (key, lacks) in
        [("suspend_when_unplumbed", "source_address"), ("suspend_when_proxy_unhealthy", "proxy")]
    {
        let expected = format!("{key}: it never applies, since the source has no {lacks}");
        assert_eq!(warnings(json!({"name": "s", key: rule})), [expected]);
    }
    let files = json!({"listen": "127.0.0.1:1", "tls_certificate": "/c", "tls_private_key": "/k"});
    let parsed = ProxyListener::parse(map(files)).unwrap();
    assert_eq!(parsed.warnings, ["tls_certificate: nothing is encrypted without use_tls = true"]);
}

#[test]
fn a_watchdog_that_comes_before_other_limits_is_warned_about() {
    let warnings = |keys: Value| EgressPath::parse(map(keys)).unwrap().warnings;
    const KEY: &str = "dispatcher_progress_watchdog_timeout";
    let body = format!(
        "{KEY}: it isn't above data_dot_timeout: a server that takes so long over a message gets it again and again"
    );
    let idle = format!(
        "{KEY}: it isn't above idle_timeout: connections that merely wait for mail are cut off and counted as stuck"
    );
    for (patience, expected) in
        [("601s", vec![]), ("600s", vec![&body]), ("5s", vec![&body, &idle])]
    {
        let found = warnings(json!({ KEY: patience, "idle_timeout": "5s" }));
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{patience}");
    }
}

#[test]
fn log_folders_are_each_named_once() {
    let to = |folder: &str| json!({"log_dir": folder});
    let per_record = json!({"Delivery": to("/b"), "OOB": to("/a"), "Bounce": to("/b"), "Any": {}});
    let logs: LocalLogs = made(json!({"log_dir": "/a", "per_record": per_record}));
    assert_eq!(Vec::from_iter(logs.folders()), ["/a", "/b"]);
}

#[test]
fn every_effective_key_of_every_table_changes_what_is_made() {
    for options in TABLES {
        let samples: Vec<Sample> = samples()
            .into_iter()
            .filter(|sample| core::ptr::eq(sample.options, *options))
            .collect();
        let mut shown = BTreeSet::new();
        for sample in &samples {
            let whole = sample.whole();
            assert_eq!(whole.warnings, Vec::<String>::new());
            for (key, value) in map(sample.keys.clone()) {
                if !sample.is_inert(&key) {
                    let changed = sample.with(&key, value).unwrap_or_else(|e| panic!("{e}"));
                    assert_ne!(changed.value, sample.least().value, "{key} has no effect");
                }
                shown.insert(key);
            }
        }
        let shown: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
        let (table, within) = (options.constructor, options.within);
        assert_eq!(shown, with_effect(options), "{table} {within}");
    }
}

impl Sample {
    fn whole(&self) -> Parsed<Value> {
        let mut table = map(self.least.clone());
        table.extend(map(self.keys.clone()));
        (self.parse)((self.wrap)(Value::Object(table))).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Keys whose sample has to be the default, since the other value is warned about or is a table of its own.
    fn is_inert(&self, key: &str) -> bool {
        let of = |options| core::ptr::eq(self.options, options);
        of(&options::SPOOL) && matches!(key, "flush" | "rocks_params")
            // A secret isn't rendered.
            || of(&options::EGRESS_PATH) && key == "smtp_auth_plain_password"
            || of(&options::EGRESS_SOURCE) && key == "socks5_proxy_password"
    }
}

#[test]
fn a_key_is_effective_exactly_if_the_type_has_a_field_for_it() {
    fn fields(value: impl serde::Serialize) -> BTreeSet<String> {
        map(serde_json::to_value(value).expect("JSON")).into_iter().map(|(key, _)| key).collect()
    }
    let spool: SpoolDefinition = made(json!({"name": "n", "path": "p"}));
    let logs: LocalLogs = made(json!({"log_dir": "d", "per_record": {"Any": {}}}));
    let pool: EgressPool = made(json!({"name": "n", "entries": [{"name": "s"}]}));
    let rows = [
        (fields(EsmtpListener::default()), &options::ESMTP_LISTENER),
        (fields(EsmtpListener::default().trace_headers), &options::TRACE_HEADERS),
        (fields(HttpListener::default()), &options::HTTP_LISTENER),
        (fields(ProxyListener::default()), &options::PROXY_LISTENER),
        (fields(ProxyListener::default().tcp_keepalive), &options::TCP_KEEPALIVE),
        (fields(ListenerDomain::default()), &options::LISTENER_DOMAIN),
        (fields(RocksParams::default()), &options::ROCKS_PARAMS),
        (fields(spool), &options::SPOOL),
        (fields(&logs), &options::LOCAL_LOGS),
        (fields(&logs.per_record["Any"]), &options::PER_RECORD),
        (fields(QueueConfig::default()), &options::QUEUE_CONFIG),
        (fields(EgressPath::default()), &options::EGRESS_PATH),
        (fields(EgressPath::default().connection_limit), &options::LIMIT_SPEC),
        (fields(&pool), &options::EGRESS_POOL),
        (fields(&pool.entries[0]), &options::POOL_ENTRY),
        (fields(EgressSource::named("n")), &options::EGRESS_SOURCE),
    ];
    for (fields, options) in rows {
        let fields: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
        assert_eq!(fields, with_effect(options), "{} {}", options.constructor, options.within);
    }
}

#[test]
fn a_key_without_effect_gives_one_warning_that_names_it_and_changes_nothing() {
    for sample in samples() {
        for OptionKey { key, effect } in sample.options.options {
            if *effect == Effect::AcceptedWithoutEffect {
                let parsed = sample.with(key, json!(true)).expect(key);
                assert_eq!(parsed.warnings.len(), 1, "{key}");
                assert!(parsed.warnings[0].contains(&format!("{key}: accepted, but")), "{key}");
                assert_eq!(parsed.value, sample.least().value);
            }
        }
    }
}

#[test]
fn a_refused_key_is_an_error_that_says_why_unless_its_value_is_harmless() {
    let mut refused = 0;
    for sample in samples() {
        for OptionKey { key, effect } in sample.options.options {
            let Effect::Refused { unless, why } = effect else { continue };
            refused += 1;
            let error = sample.with(key, json!(true)).expect_err(key).to_string();
            assert!(error.starts_with(sample.options.constructor), "{error}");
            assert!(error.contains(&format!("{key}: refused: {why}")), "{error}");
            for harmless in [json!(false), json!({}), json!([])] {
                let parsed = sample.with(key, harmless.clone());
                assert_eq!(parsed.is_ok(), unless.holds(&harmless), "{key} = {harmless}");
            }
        }
    }
    assert!(refused >= 12);
}

#[test]
fn an_unknown_key_is_an_error_in_every_table_and_names_the_nearest_known_key() {
    for sample in samples() {
        for OptionKey { key, .. } in sample.options.options {
            let misspelt = format!("{key}x");
            let error = sample.with(&misspelt, json!(1)).expect_err("unknown").to_string();
            let expected = format!("unknown key '{misspelt}'; the nearest known one is '{key}'");
            assert!(error.contains(&expected), "{error}");
        }
    }
    let error = wrong::<QueueConfig>(json!({"retryinterval": "5m"}));
    assert_eq!(
        error,
        "kumo.make_queue_config: unknown key 'retryinterval'; the nearest known one is 'retry_interval'"
    );
}

#[test]
fn nil_is_the_same_as_leaving_a_key_out() {
    for sample in samples() {
        for OptionKey { key, .. } in sample.options.options {
            if sample.least.get(key).is_none() {
                let parsed = sample.with(key, Value::Null).expect(key);
                assert_eq!(parsed, sample.least(), "{key}");
            }
        }
    }
}

#[test]
fn empty_tables_give_the_defaults() {
    assert_eq!(made::<EgressPath>(json!({})), EgressPath::default());
    assert_eq!(made::<QueueConfig>(json!({})), QueueConfig::default());
    assert_eq!(made::<EsmtpListener>(json!({})), EsmtpListener::default());
    assert_eq!(made::<HttpListener>(json!({})), HttpListener::default());
    assert_eq!(made::<ListenerDomain>(json!({})), ListenerDomain::default());
    let spool: SpoolDefinition = made(json!({"name": "data", "path": "/d"}));
    assert_eq!((spool.kind, spool.flush), (SpoolKind::RocksDB, true));
}

#[test]
fn all_errors_of_a_table_are_told_at_once_with_place_found_and_expected() {
    let error = wrong::<EgressPath>(json!({
        "max_ready": "many", "enable_tls": "Maybe", "additional_connection_limits": {"a": 0},
        "skip_hosts": ["10.0.0.0/8", "nonsense"],
    }));
    for part in [
        "kumo.make_egress_path: ",
        "max_ready: expected a whole number from 0 to 18446744073709551615, found the text \"many\"",
        "enable_tls: unknown variant `Maybe`, expected one of `Opportunistic`, ",
        "additional_connection_limits.a: it must be at least 1",
        "skip_hosts[2]: expected an address or a block such as '10.0.0.0/8', found the text \"nonsense\"",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_wrong_value_is_told_once() {
    let error = wrong::<EgressSource>(json!({"name": 5}));
    assert_eq!(error, "kumo.make_egress_source: name: expected text, found 5");
    let error = wrong::<EsmtpListener>(json!({"tls_certificate": 5, "tls_private_key": "/k"}));
    assert!(!error.contains("belong together"), "{error}");
}

#[test]
fn required_keys_are_asked_for() {
    for (error, key) in [
        (wrong::<SpoolDefinition>(json!({"path": "/d"})), "name: it is required"),
        (wrong::<SpoolDefinition>(json!({"name": "data"})), "path: it is required"),
        (wrong::<LocalLogs>(json!({})), "log_dir: it is required"),
        (wrong::<EgressPool>(json!({"name": "p"})), "entries: it is required"),
        (wrong::<EgressPool>(json!({"entries": []})), "name: it is required"),
        (wrong::<EgressPool>(json!({"name": "p", "entries": [{}]})), "entries[1].name: it is"),
        (wrong::<EgressSource>(json!({})), "name: it is required"),
        (wrong::<EgressSource>(json!({"name": ""})), "name: it is empty"),
        (wrong::<ProxyListener>(json!({})), "listen: it is required"),
    ] {
        assert!(error.contains(key), "{error}");
    }
}

fn mx_list(list: Value) -> Value {
    json!({"protocol": {"smtp": {"mx_list": list}}})
}

#[test]
fn every_form_of_an_mx_list_entry_is_read() {
    let rows = [
        (json!("mx.example.com"), "mx.example.com", None, None),
        (json!("mx.example.com:2525"), "mx.example.com", None, Some(2525)),
        (json!("[10.0.0.1]"), "[10.0.0.1]", Some("10.0.0.1"), None),
        (json!("[10.0.0.1]:587"), "[10.0.0.1]", Some("10.0.0.1"), Some(587)),
        (json!("[::1]"), "[::1]", Some("::1"), None),
        (json!("[::1]:25"), "[::1]", Some("::1"), Some(25)),
        (json!("[IPv6:::1]:25"), "[IPv6:::1]", Some("::1"), Some(25)),
        (json!({"name": "mx", "addr": "10.0.0.1"}), "mx", Some("10.0.0.1"), None),
    ];
    for (entry, name, address, port) in rows {
        let config: QueueConfig = made(mx_list(json!([entry])));
        let address = address.map(|text| text.parse().expect("an address"));
        let expected = MxListEntry { name: name.into(), address, port };
        assert_eq!(config.protocol, DeliveryProtocol::Smtp { mx_list: vec![expected] }, "{entry}");
    }
}

#[test]
fn what_is_no_mx_list_entry_is_refused() {
    for entry in [
        json!(""),
        json!("a b"),
        json!("mx:0"),
        json!("mx:65536"),
        json!("mx:"),
        json!("::1"),
        json!("10.0.0.1"),
        json!("10.0.0.1:25"),
        json!("[mx]"),
        json!("[10.0.0.1"),
        json!("[]"),
        json!("[10.0.0.1]x"),
        json!("[IPv6:10.0.0.1]"),
        json!("a\r\nb"),
        json!(25),
        json!({"name": "mx"}),
        json!({"addr": "10.0.0.1"}),
        json!({"name": "mx", "addr": "mx"}),
        json!({"name": "mx", "addr": "10.0.0.1", "port": 25}),
    ] {
        let error = wrong::<QueueConfig>(mx_list(json!([entry])));
        assert!(error.contains("protocol.smtp.mx_list[1]"), "{entry}: {error}");
    }
}

#[test]
fn the_protocol_is_one_and_only_one() {
    let empty = DeliveryProtocol::Smtp { mx_list: Vec::new() };
    for smtp in [json!({}), json!([]), json!({"mx_list": {}}), json!({"mx_list": []})] {
        let config: QueueConfig = made(json!({"protocol": {"smtp": smtp}}));
        assert_eq!(config.protocol, empty);
    }
    let config: QueueConfig = made(json!({"protocol": {"maildir_path": "/m", "dir_mode": 509.0}}));
    let maildir =
        DeliveryProtocol::Maildir { path: "/m".into(), dir_mode: Some(0o775), file_mode: None };
    assert_eq!(config.protocol, maildir);
    for protocol in [
        json!({}),
        json!({"smtp": {}, "maildir_path": "/m"}),
        json!({"smtp": {}, "dir_mode": 1}),
        json!({"maildir_path": ""}),
        json!({"smtp": {}, "custom_lua": {"constructor": "make.x"}}),
        json!({"custom_lua": {"constructor": "make.x"}, "file_mode": 1}),
    ] {
        let error = wrong::<QueueConfig>(json!({"protocol": protocol}));
        assert!(error.contains("protocol: expected either smtp, or maildir_path"), "{error}");
    }
    let error =
        wrong::<QueueConfig>(json!({"protocol": {"maildir_path": "/m", "dir_mode": 775000}}));
    assert!(error.contains("protocol.dir_mode: it must be at most 7777 octal"), "{error}");
}

#[test]
fn a_sender_of_policys_has_a_constructor_and_batches_that_can_be_made() {
    let custom_lua = |lua: Value| json!({"protocol": {"custom_lua": lua}});
    let config: QueueConfig = made(custom_lua(json!({"constructor": "make.x"})));
    let expected = CustomLua {
        constructor: "make.x".into(),
        batch_size: 1,
        min_batch_size: 1,
        max_batch_latency: Duration::ZERO,
    };
    assert_eq!(config.protocol, DeliveryProtocol::CustomLua(expected.clone()));
    let batches = json!({"constructor": "make.x", "batch_size": 100.0, "min_batch_size": 10,
                         "max_batch_latency": "5s"});
    let config: QueueConfig = made(custom_lua(batches));
    let max_batch_latency = Duration::from_secs(5);
    let expected = CustomLua { batch_size: 100, min_batch_size: 10, max_batch_latency, ..expected };
    assert_eq!(config.protocol, DeliveryProtocol::CustomLua(expected));
    for (lua, why) in [
        (json!({}), "protocol.custom_lua.constructor: it is required"),
        (json!({"constructor": ""}), "protocol.custom_lua.constructor: it is empty"),
        (json!({"constructor": "make x"}), "constructor: it must be the name of an event"),
        (json!({"constructor": "x", "batch_size": 0}), "batch_size: it must be from 1 to 10000"),
        (json!({"constructor": "x", "batch_size": 10_001}), "batch_size: it must be from 1"),
        (json!({"constructor": "x", "min_batch_size": 2}), "it must be from 1 to batch_size"),
        (json!({"constructor": "x", "min_batch_size": 0}), "it must be from 1 to batch_size"),
        (json!({"constructor": "x", "batch": 2}), "unknown key 'batch'"),
    ] {
        let error = wrong::<QueueConfig>(custom_lua(lua));
        assert!(error.contains(why), "{error}");
    }
    let hasty = json!({"constructor": "x", "batch_size": 2, "min_batch_size": 2});
    let warnings = parse::<QueueConfig>(custom_lua(hasty)).expect("it is no error").warnings;
    assert!(warnings[0].contains("min_batch_size: it has no effect without"), "{warnings:?}");
}

#[test]
fn lists_keep_their_limits() {
    let hosts = |count: usize| mx_list(Value::Array(vec![json!("mx"); count]));
    made::<QueueConfig>(hosts(limits::MX_HOSTS));
    assert!(
        wrong::<QueueConfig>(hosts(limits::MX_HOSTS + 1)).contains("65 hosts are more than 64")
    );
    let pool = |count: usize| json!({"name": "p", "entries": vec![json!({"name": "s"}); count]});
    made::<EgressPool>(pool(limits::POOL_ENTRIES));
    let error = wrong::<EgressPool>(pool(limits::POOL_ENTRIES + 1));
    assert!(error.contains("entries: 10001 entries are more than 10000"), "{error}");
    let unknown = (0..1000).map(|n| (format!("key{n}"), json!(1)));
    let error = EgressSource::parse(unknown.collect()).expect_err("unknown keys").to_string();
    assert!(error.matches("unknown key").count() <= limits::OPTION_NOTES);
}

#[test]
fn reports_may_be_a_bool_as_in_older_policies() {
    for (value, expected) in [
        (json!(true), ReportHandling::LogThenRelay),
        (json!(false), ReportHandling::Ignore),
        (json!("Ignore"), ReportHandling::Ignore),
        (json!("LogThenRelay"), ReportHandling::LogThenRelay),
        (json!("LogThenDrop"), ReportHandling::LogThenDrop),
    ] {
        let domain: ListenerDomain = made(json!({"log_oob": value, "log_arf": value}));
        assert_eq!((domain.log_oob, domain.log_arf), (expected, expected));
    }
    assert!(
        wrong::<ListenerDomain>(json!({"log_oob": 1})).contains("log_oob: unknown variant `1`")
    );
}

#[test]
fn compression_is_one_that_is_built_in() {
    let with = |name: &str| {
        let params = json!({"compression_type": name});
        parse::<SpoolDefinition>(json!({"name": "n", "path": "p", "rocks_params": params}))
    };
    for name in ["None", "Lz4", "Zstd"] {
        let parsed = with(name).expect(name);
        assert_eq!(parsed.value.rocks_params.compression_type.as_deref(), Some(name));
        assert!(parsed.warnings.is_empty());
    }
    let snappy = with("Snappy").expect("Snappy");
    assert_eq!(snappy.value.rocks_params.compression_type.as_deref(), Some("Lz4"));
    assert_eq!(
        snappy.warnings,
        ["rocks_params.compression_type: kumod has no Snappy and uses Lz4"]
    );
    for name in ["Zlib", "Bz2", "Lz4hc", "lz4", ""] {
        let error = with(name).expect_err(name).to_string();
        assert!(error.contains("rocks_params.compression_type: "), "{error}");
    }
}

#[test]
fn less_safety_than_the_default_is_done_and_warned_about() {
    let spool = |json| parse::<SpoolDefinition>(json).expect("a spool");
    let unsynced = spool(json!({"name": "n", "path": "p", "flush": false}));
    assert!(!unsynced.value.flush);
    assert!(unsynced.warnings[0].starts_with("flush: messages are accepted before"));
    let params = json!({"paranoid_checks": false});
    let careless = spool(json!({"name": "n", "path": "p", "rocks_params": params}));
    assert_eq!(careless.value.rocks_params.paranoid_checks, Some(false));
    assert!(careless.warnings[0].starts_with("rocks_params.paranoid_checks: RocksDB"));
}

#[test]
fn parameters_of_rocksdb_alone_are_warned_about_for_files() {
    let of_files = |params: Value| {
        let table = json!({"name": "n", "path": "p", "kind": "LocalDisk", "rocks_params": params});
        parse::<SpoolDefinition>(table).unwrap().warnings
    };
    assert!(of_files(json!({"store_deadline": "5s", "allow_error_unlatch": true})).is_empty());
    let warnings = of_files(json!({"store_deadline": "5s", "max_open_files": 5}));
    assert!(warnings[0].ends_with("it has no effect for kind = 'LocalDisk'"), "{warnings:?}");
}

#[test]
fn values_that_could_do_harm_are_refused() {
    let rows = [
        (wrong::<EgressPath>(json!({"ehlo_domain": "a\r\nRSET"})), "ehlo_domain: "),
        (wrong::<EgressSource>(json!({"name": "s", "ehlo_domain": "a b"})), "ehlo_domain: "),
        (wrong::<EgressSource>(json!({"name": "s", "remote_port": 0})), "remote_port: "),
        (suspends(json!({})), "suspend_when_unplumbed.duration: it is required"),
        (suspends(json!({"duration": 0})), "suspend_when_unplumbed.duration: it must be above 0"),
        (
            suspends(json!({"duration": 5, "triger": "Immediate"})),
            "the nearest known one is 'trigger'",
        ),
        (
            suspends(json!({"duration": 5, "trigger": "Never"})),
            "expected 'Immediate' or { Threshold",
        ),
        (suspends(json!({"duration": 5, "trigger": {"Threshold": "5"}})), "it reads LIMIT/PERIOD"),
        (
            suspends(json!({"duration": 5, "trigger": {"Threshold": "0/m"}})),
            "it must be at least 1",
        ),
        (
            suspends(json!({"duration": 5, "trigger": {"Threshold": "5/m,max_burst=2"}})),
            "a threshold has no max_burst",
        ),
        (
            proxied(json!({"ha_proxy_server": "10.0.0.1:1"})),
            "ha_proxy_server and ha_proxy_source_address belong together",
        ),
        (
            proxied(json!({"socks5_proxy_source_address": "10.0.0.1"})),
            "socks5_proxy_source_address needs socks5_proxy_server",
        ),
        (
            proxied(json!({"socks5_proxy_server": "10.0.0.1:1", "socks5_proxy_username": "joe"})),
            "socks5_proxy_username and socks5_proxy_password belong together",
        ),
        (
            proxied(json!({"socks5_proxy_server": "10.0.0.1"})),
            "socks5_proxy_server: expected a proxy",
        ),
        (
            proxied(json!({"socks5_proxy_server": "[::1]:1", "source_address": "10.0.0.1"})),
            "source_address: it and the proxy's address are of different families",
        ),
        (wrong::<EgressPath>(json!({"smtp_port": 0})), "smtp_port: "),
        (wrong::<EgressPath>(json!({"max_recipients_per_batch": 0})), "max_recipients_per_batch"),
        (wrong::<EgressPath>(json!({"connection_limit": 0})), "connection_limit: it must be"),
        (wrong::<EgressPath>(json!({"refresh_interval": 0})), "refresh_interval: "),
        (wrong::<EgressPath>(json!({"connect_timeout": -1})), "a time can't be negative"),
        (wrong::<EgressPath>(json!({"smtp_auth_plain_username": "u"})), "belong together"),
        (wrong::<QueueConfig>(json!({"retry_interval": 0})), "retry_interval: it must be above 0"),
        (wrong::<QueueConfig>(json!({"max_retry_interval": "0s"})), "max_retry_interval: it must"),
        (wrong::<ProxyListener>(json!({"timeout": 0})), "timeout: it must be above 0"),
        (wrong::<ProxyListener>(json!({"idle_timeout": 0})), "idle_timeout: it must be above 0"),
        (wrong::<ProxyListener>(json!({"max_connections": 0})), "max_connections: it must be"),
        (
            wrong::<ProxyListener>(json!({"tcp_keepalive": {"time": "10ms"}})),
            "tcp_keepalive.time: it must be between 1s",
        ),
        (
            wrong::<ProxyListener>(json!({"tcp_keepalive": {"retries": 0}})),
            "tcp_keepalive.retries: it must be between",
        ),
        (wrong::<EsmtpListener>(json!({"hostname": ""})), "hostname: "),
        (wrong::<EsmtpListener>(json!({"banner": "a\nb"})), "banner: "),
        (wrong::<EsmtpListener>(json!({"tls_certificate": "/c"})), "belong together"),
        (wrong::<HttpListener>(json!({"tls_private_key": "/k"})), "belong together"),
        (wrong::<EsmtpListener>(json!({"trace_headers": {"header_name": "a:"}})), "header_name: "),
        (wrong::<LocalLogs>(json!({"log_dir": "d", "compression_level": 23})), "from -7 to 22"),
        (wrong::<LocalLogs>(json!({"log_dir": "d", "per_record": {"Recept": {}}})), "record types"),
        (
            wrong::<SpoolDefinition>(json!({"name": "n", "path": "p", "rocks_params": {
                "optimize_level_style_compaction": 1, "optimize_universal_style_compaction": 1,
            }})),
            "not both",
        ),
    ];
    for (error, part) in rows {
        assert!(error.contains(part), "{part}: {error}");
    }
    let patient: QueueConfig = made(json!({"max_age": 0}));
    assert_eq!(patient.max_age, Duration::ZERO);
}

#[test]
fn secrets_and_keys_never_stand_in_an_error() {
    let secret = "hunter2";
    for error in [
        wrong::<EgressPath>(json!({
            "smtp_auth_plain_username": "u", "smtp_auth_plain_password": secret,
        })),
        wrong::<EgressPath>(json!({
            "smtp_auth_plain_username": "u", "smtp_auth_plain_password": {"key": secret},
        })),
        wrong::<EsmtpListener>(json!({
            "tls_certificate": "/c", "tls_private_key": {"key_data": secret},
        })),
    ] {
        assert!(!error.contains(secret), "{error}");
    }
}

#[test]
fn a_path_is_rendered_as_operators_read_it() {
    let path: EgressPath = made(json!({
        "connection_limit": "10_000", "max_message_rate": "10,000/hr", "idle_timeout": "2s 481ms",
        "prohibited_hosts": ["127.0.0.1/8", "::1"], "enable_tls": "Required",
    }));
    assert_eq!(path.enable_tls, EnableTls::Required);
    let blocks: Vec<Cidr> = path.prohibited_hosts.clone();
    let rendered = serde_json::to_value(&path).expect("JSON");
    for (key, expected) in [
        ("connection_limit", json!({"limit": 10_000, "force_local": false})),
        ("max_message_rate", json!("10000/h")),
        ("idle_timeout", json!("2s 481ms")),
        ("connect_timeout", json!("1m")),
        ("remember_broken_tls", json!(null)),
        ("prohibited_hosts", json!([blocks[0].to_string(), "::1"])),
        ("enable_tls", json!("Required")),
    ] {
        assert_eq!(rendered[key], expected, "{key}");
    }
    assert_eq!(serde_json::from_value::<EgressPath>(rendered).expect("a path"), path);
    let octets = postcard::to_allocvec(&path).expect("octets");
    assert_eq!(postcard::from_bytes::<EgressPath>(&octets).expect("a path"), path);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{0,20}[a-z ]{0,6}",
        "(local:)?[0-9_,]{0,6}/[0-9]{0,3}[a-z]{0,3}(,max_burst=[0-9]{0,3})?",
        "\\[?[0-9a-f.:]{0,12}\\]?(:[0-9]{0,6})?(/[0-9]{0,4})?",
        ".{0,12}",
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    let keys = TABLES.iter().flat_map(|table| table.options).map(|option| option.key.to_string());
    let keys: Vec<String> = keys.chain(["Any".into(), "Delivery".into()]).collect();
    prop_oneof![9 => proptest::sample::select(keys), 1 => ".{0,12}"]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..100_u64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            proptest::collection::vec((any_key(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_table_makes_a_constructor_panic(
        entries in proptest::collection::vec((any_key(), any_value()), 0..8),
    ) {
        let table: Map<String, Value> = entries.into_iter().collect();
        let _ = EsmtpListener::parse(table.clone());
        let _ = HttpListener::parse(table.clone());
        let _ = ListenerDomain::parse(table.clone());
        let _ = SpoolDefinition::parse(table.clone());
        let _ = LocalLogs::parse(table.clone());
        let _ = QueueConfig::parse(table.clone());
        let _ = EgressPath::parse(table.clone());
        let _ = EgressPool::parse(table.clone());
        let _ = EgressSource::parse(table);
    }

    #[test]
    fn no_value_of_any_key_makes_its_table_panic(row in 0..samples().len(), value in any_value()) {
        let sample = &samples()[row];
        for option in sample.options.options {
            let _ = sample.with(option.key, value.clone());
        }
    }
}

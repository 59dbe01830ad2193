//! Layers of shaping data over each other, in tables; what is wrong with files; rules. Trees are made here, as a file's
//! reader would make them.
use super::rule::INTERNAL;
use super::section::Match;
use super::tree::{Entry, Tree};
use super::*;
use crate::config::EgressPath;
use crate::config::options::Constructed;
use proptest::prelude::*;
use serde_json::json;

fn node(value: &Value, line: &mut u32) -> Node {
    let here = *line;
    let tree = match value {
        Value::Array(items) => Tree::List(items.iter().map(|item| node(item, line)).collect()),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| entry(key, value, line));
            Tree::Table(entries.collect())
        }
        plain => Tree::Plain(plain.clone()),
    };
    Node { line: here, tree }
}

/// Each on a line of its own.
fn entry(key: &str, value: &Value, line: &mut u32) -> Entry {
    *line += 1;
    let here = *line;
    Entry { key: key.into(), line: here, node: node(value, line) }
}

/// A file of sections in this order.
fn file(sections: &[(&str, Value)]) -> Node {
    let mut line = 0;
    let entries = sections.iter().map(|(key, value)| entry(key, value, &mut line)).collect();
    Node { line: 1, tree: Tree::Table(entries) }
}

type File<'a> = &'a [(&'a str, Value)];
/// What it shows, the files, and what then holds for a domain.
type Row<'a> = (&'a str, Vec<Vec<(&'a str, Value)>>, &'a str, Value);

fn laid_over(files: &[File]) -> Shaping {
    let mut shaping = Shaping::default();
    for (number, sections) in files.iter().enumerate() {
        let name = Arc::from(format!("{}.toml", number + 1));
        shaping.add_file(&name, &file(sections), Severity::Error);
    }
    shaping
}

/// `a.test` and `b.test` are of site `mx.test`, `p.test` has its hosts with the provider.
fn looked_up(shaping: &mut Shaping, options: &LoadOptions) {
    let answer = |domain: Box<str>| {
        let site = |site: &str, hosts: &[&str]| Looked::Site {
            site: site.into(),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
        };
        let looked = match &*domain {
            "a.test" | "b.test" => site("mx.test", &["mx.test"]),
            "p.test" => site("(mx1|mx2).p.example", &["mx1.p.example", "mx2.p.example"]),
            "null.test" => Looked::NullMx,
            _ => Looked::Failed("no answer".into()),
        };
        (domain, looked)
    };
    let looked = shaping.domains_to_look_up().into_iter().map(answer).collect();
    shaping.finish(looked, options);
}

fn loaded(files: &[File]) -> Shaping {
    let mut shaping = laid_over(files);
    looked_up(&mut shaping, &LoadOptions::default());
    assert_eq!(shaping.errors(), [""; 0]);
    shaping
}

fn options_for(shaping: &Shaping, domain: &str, source: &str) -> Value {
    let (site, hosts) = match domain {
        "a.test" | "b.test" | "c.test" => ("mx.test", vec!["mx.test".into()]),
        "p.test" | "q.test" => {
            ("(mx1|mx2).p.example", vec!["mx1.p.example".into(), "mx2.p.example".into()])
        }
        other => (other, vec![other.into()]),
    };
    let options = shaping.path_options(Destination { domain, site, hosts: &hosts }, source);
    if let Err(error) = EgressPath::parse(options.clone()) {
        panic!("{error}");
    }
    Value::Object(options)
}

fn limit(limit: u64) -> Value {
    json!({ "connection_limit": limit })
}

#[test]
fn files_are_laid_over_each_other() {
    let default = ("default", json!({"connection_limit": 10, "smtp_port": 26}));
    let rows: [Row; 13] = [
        ("nothing", vec![vec![]], "a.test", json!({})),
        (
            "default alone",
            vec![vec![default.clone()]],
            "x.test",
            json!({"connection_limit": 10, "smtp_port": 26}),
        ),
        (
            "a domain over default, whatever the order",
            vec![vec![("a.test", limit(5)), default.clone()]],
            "a.test",
            json!({"connection_limit": 5, "smtp_port": 26}),
        ),
        (
            "a domain holds for its site",
            vec![vec![default.clone(), ("a.test", limit(5))]],
            "c.test",
            json!({"connection_limit": 5, "smtp_port": 26}),
        ),
        (
            "but not without rollup",
            vec![vec![("a.test", json!({"connection_limit": 5, "mx_rollup": false}))]],
            "c.test",
            json!({}),
        ),
        (
            "a later file wins",
            vec![vec![("a.test", limit(5))], vec![("a.test", limit(6))]],
            "a.test",
            limit(6),
        ),
        (
            "of two domains of a site the later one wins",
            vec![vec![("b.test", limit(5)), ("a.test", limit(6))]],
            "c.test",
            limit(6),
        ),
        (
            "also if it is written down anew",
            vec![
                vec![("a.test", limit(5)), ("b.test", limit(6))],
                vec![("a.test", json!({"connection_limit": 7}))],
            ],
            "c.test",
            limit(7),
        ),
        (
            "a domain over its site",
            vec![vec![
                ("a.test", json!({"connection_limit": 3, "mx_rollup": false})),
                ("b.test", json!({"connection_limit": 5, "max_ready": 50})),
            ]],
            "a.test",
            json!({"connection_limit": 3, "max_ready": 50}),
        ),
        (
            "replace_base forgets earlier files and default",
            vec![
                vec![default.clone(), ("a.test", json!({"max_ready": 5}))],
                vec![("a.test", json!({"replace_base": true, "connection_limit": 6}))],
            ],
            "a.test",
            limit(6),
        ),
        (
            "later sections merge in as always",
            vec![
                vec![("a.test", json!({"max_ready": 5}))],
                vec![("a.test", json!({"replace_base": true, "connection_limit": 6}))],
                vec![("a.test", json!({"max_ready": 7})), default],
            ],
            "a.test",
            json!({"connection_limit": 6, "max_ready": 7}),
        ),
        (
            "maps of limits are merged",
            vec![
                vec![(
                    "default",
                    json!({"additional_connection_limits": {"a": 1, "b": 2}, "skip_hosts": ["::1"]}),
                )],
                vec![(
                    "default",
                    json!({"additional_connection_limits": {"b": 3, "c": 4}, "skip_hosts": []}),
                )],
            ],
            "x.test",
            json!({"additional_connection_limits": {"a": 1, "b": 3, "c": 4}, "skip_hosts": []}),
        ),
        (
            "names of domains have no case",
            vec![vec![("A.Test.", json!({"connection_limit": 5, "mx_rollup": false}))]],
            "a.test",
            limit(5),
        ),
    ];
    for (what, files, domain, expected) in rows {
        let files: Vec<File> = files.iter().map(Vec::as_slice).collect();
        assert_eq!(options_for(&loaded(&files), domain, "s"), expected, "{what}");
    }
}

/// One key, set by each step; whoever comes last in the documented order wins.
#[test]
fn sections_are_merged_in_the_documented_order() {
    let matches = json!([{"DomainSuffix": "test"}]);
    let of_source = |name: &str| json!({"s": {"smtp_port": 1, "ehlo_domain": name}});
    let whole = [
        (
            "provider",
            json!({"p": {"match": matches, "connection_limit": 1, "max_ready": 2,
            "smtp_port": 2, "ehlo_domain": "provider", "sources": of_source("provider-source")}}),
        ),
        (
            "b.test",
            json!({"connection_limit": 5, "mx_rollup": false, "max_ready": 5,
            "sources": {"s": {"max_ready": 7}}}),
        ),
        (
            "a.test",
            json!({"connection_limit": 4, "max_ready": 4, "max_deliveries_per_connection": 4,
            "ehlo_domain": "site", "sources": {"s": {"max_ready": 6, "max_deliveries_per_connection": 6}}}),
        ),
        (
            "default",
            json!({"connection_limit": 9, "max_ready": 9, "smtp_port": 9, "ehlo_domain": "default"}),
        ),
    ];
    let shaping = loaded(&[&whole]);
    for (domain, source, expected) in [
        (
            "x.test",
            "other",
            json!({"connection_limit": 1, "max_ready": 2, "smtp_port": 2, "ehlo_domain": "provider",
                "provider_name": "p"}),
        ),
        (
            "x.test",
            "s",
            json!({"connection_limit": 1, "max_ready": 2, "smtp_port": 1,
                "ehlo_domain": "provider-source", "provider_name": "p"}),
        ),
        (
            "c.test",
            "s",
            json!({"connection_limit": 4, "max_ready": 6, "smtp_port": 1, "ehlo_domain": "site",
                "max_deliveries_per_connection": 6, "provider_name": "p"}),
        ),
        (
            "b.test",
            "s",
            json!({"connection_limit": 5, "max_ready": 7, "smtp_port": 1, "ehlo_domain": "site",
                "max_deliveries_per_connection": 6, "provider_name": "p"}),
        ),
        (
            "b.test",
            "other",
            json!({"connection_limit": 5, "max_ready": 5, "smtp_port": 2, "ehlo_domain": "site",
                "max_deliveries_per_connection": 4, "provider_name": "p"}),
        ),
        (
            "x.other",
            "s",
            json!({"connection_limit": 9, "max_ready": 9, "smtp_port": 9, "ehlo_domain": "default"}),
        ),
    ] {
        assert_eq!(options_for(&shaping, domain, source), expected, "{domain} by {source}");
    }
}

#[test]
fn a_providers_limits_are_shared_under_names_of_their_own() {
    let shaping = loaded(&[&[(
        "provider",
        json!({"p": {
            "match": [{"MXSuffix": ".p.example"}],
            "provider_connection_limit": 5,
            "provider_max_message_rate": "100/s",
            "provider_source_selection_rate": "7/m",
            "sources": {"s2": {"provider_connection_limit": 2}},
        }}),
    )]]);
    assert_eq!(
        options_for(&shaping, "q.test", "s1"),
        json!({
            "additional_connection_limits": {"shaping-provider-p-s1-limit": 5},
            "additional_message_rate_throttles": {"shaping-provider-p-s1-rate": "100/s"},
            "additional_source_selection_rates": {"shaping-provider-p-s1-selection-rate": "7/m"},
            "provider_name": "p",
        })
    );
    let of_s2 = options_for(&shaping, "q.test", "s2");
    assert_eq!(of_s2["additional_connection_limits"], json!({"shaping-provider-p-s2-limit": 2}));
    assert_eq!(options_for(&shaping, "c.test", "s1"), json!({}));
}

#[test]
fn a_provider_is_known_by_its_domain_or_by_all_of_its_hosts() {
    let (suffix, name) =
        (|text: &str| Match::MXSuffix(text.into()), |text: &str| Match::HostName(text.into()));
    let domain = Match::DomainSuffix(".corp.example".into());
    for (matches, to, hosts, expected) in [
        (vec![suffix(".p.example")], "x", &["mx1.p.example", "MX2.P.example."][..], true),
        (vec![suffix(".p.example")], "x", &["mx1.p.example", "mx.other"], false),
        (vec![suffix(".p.example"), name("mx.other")], "x", &["a.p.example", "mx.other"], true),
        (vec![suffix(".p.example")], "x", &["p.example"], false),
        (vec![name("mx.other")], "x", &["a.mx.other"], false),
        (vec![suffix(".p.example")], "x", &[], false),
        (vec![domain.clone()], "x.corp.example", &["mx.other"], true),
        (vec![domain.clone()], "corp.example", &[], false),
        (vec![domain, suffix(".p.example")], "x", &["a.p.example"], true),
        (vec![], "x", &["a.p.example"], false),
    ] {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).into()).collect();
        assert_eq!(is_providers(&matches, to, &hosts), expected, "{matches:?} {to} {hosts:?}");
    }
}

#[test]
fn a_providers_match_is_the_last_files_and_may_be_left_out() {
    let provider = |value: Value| ("provider", json!({"p": value}));
    let by = |suffix: &str| json!({"match": [{"DomainSuffix": suffix}], "max_ready": 1});
    let files = [
        &[provider(by("a.test"))][..],
        &[provider(by("b.test"))],
        &[provider(json!({"max_ready": 2}))],
    ];
    let shaping = loaded(&files);
    assert_eq!(options_for(&shaping, "a.test", ""), json!({}));
    assert_eq!(options_for(&shaping, "b.test", ""), json!({"max_ready": 2, "provider_name": "p"}));
}

#[test]
fn what_is_wrong_is_named_with_line_key_and_the_nearest_known_one() {
    let rule = |value: Value| ("a.test", json!({"automation": [value]}));
    let whole = |key: &str, value: Value| {
        let mut rule = json!({"regex": "x", "action": "Suspend", "duration": "1h"});
        rule[key] = value;
        ("a.test", json!({"automation": [rule]}))
    };
    let rows = [
        (
            ("a.test", json!({"conection_limit": 5})),
            r#"1.toml:2: ["a.test"]: unknown key 'conection_limit'; the nearest known one is 'connection_limit'"#,
        ),
        (
            ("a.test", json!({"mx_rolup": false})),
            "unknown key 'mx_rolup'; the nearest known one is 'mx_rollup'",
        ),
        (
            ("com", json!({"gmail": {}})),
            "a domain's name stands in quotes, as in [\"example.com\"]",
        ),
        (
            ("a.test", json!({"connection_limit": "many"})),
            "1.toml:2: [\"a.test\"]: connection_limit: expected",
        ),
        (("a.test", json!({"enable_tls": "Perhaps"})), "enable_tls: unknown variant"),
        (("a.test", json!({"enable_dane": true})), "enable_dane: refused"),
        (("a.test", json!({"max_ready": 0})), "max_ready: it must be at least 1"),
        (
            ("a.test", json!({"provider_connection_limit": 5})),
            "unknown key 'provider_connection_limit'",
        ),
        (("a.test", json!(5)), "1.toml:1: [\"a.test\"]: expected a table, found 5"),
        (("a.test", json!({"mx_rollup": "no"})), "mx_rollup: expected true or false"),
        (("a.test", json!({"sources": 5})), "sources: expected a table, found 5"),
        (
            ("a.test", json!({"sources": {"s": {"smtp_prot": 25}}})),
            r#"1.toml:4: ["a.test".sources."s"]: unknown key 'smtp_prot'; the nearest known one is 'smtp_port'"#,
        ),
        (("a.test", json!({"automation": {}})), "automation: expected a list of rules"),
        (("provider", json!(5)), "provider: expected a table"),
        (("provider", json!({"p": {"max_ready": 5}})), "provider p has no match, in any file"),
        (("provider", json!({"p": {"match": []}})), "match: the list is empty"),
        (
            ("provider", json!({"p": {"match": [{"MxSufix": ".x"}]}})),
            r#"[provider."p"]: match: unknown key 'MxSufix'; the nearest known one is 'MXSuffix'"#,
        ),
        (("provider", json!({"p": {"match": [{"MXSuffix": "*.x"}]}})), "without wildcards"),
        (
            ("provider", json!({"p": {"match": ["google"]}})),
            "match: expected {MXSuffix=\"…\"}, {HostName=\"…\"} or {DomainSuffix=\"…\"}",
        ),
        (
            (
                "provider",
                json!({"p": {"match": [{"HostName": "x"}], "provider_max_message_rate": 5}}),
            ),
            "provider_max_message_rate: expected a rate",
        ),
        (whole("regex", json!("(")), "regex: \"(\" is no regular expression"),
        (whole("regex", json!([])), "regex: the list is empty"),
        (whole("regex", json!([5])), "regex: expected text, found 5"),
        (
            whole("action", json!("Suspned")),
            "action: there is no action \"Suspned\"; the nearest known one is 'Suspend'",
        ),
        (
            whole("action", json!({"SetConfig": {"name": "max_redy", "value": 5}})),
            "SetConfig: unknown key 'max_redy'; the nearest known one is 'max_ready'",
        ),
        (
            whole("action", json!({"SetDomainConfig": {"name": "max_ready", "value": "x"}})),
            "SetDomainConfig: max_ready: expected",
        ),
        (whole("action", json!({"SetConfig": "max_ready"})), "it reads SetConfig = { name ="),
        (whole("trigger", json!("Sometimes")), "trigger: expected 'Immediate'"),
        (whole("duration", json!("soon")), "duration: expected"),
        (
            whole("durration", json!("1h")),
            "durration: a rule has no such key; the nearest known one is 'duration'",
        ),
        (rule(json!({"regex": "x", "duration": "1h"})), "action: a rule has to have it"),
        (rule(json!("x")), "automation: a rule is a table"),
    ];
    for (section, expected) in rows {
        let mut shaping = laid_over(&[std::slice::from_ref(&section)]);
        looked_up(&mut shaping, &LoadOptions::default());
        let errors = shaping.errors();
        assert!(errors.iter().any(|error| error.contains(expected)), "{section:?}: {errors:?}");
        assert_eq!(shaping.warnings(), [""; 0]);
    }
}

#[test]
fn what_is_wrong_is_left_out_and_the_rest_holds() {
    let mut shaping = Shaping::default();
    let wrong = json!({"conection_limit": 5, "max_ready": 5, "smtp_port": "x"});
    shaping.add_file(&"1.toml".into(), &file(&[("x.test", wrong)]), Severity::Warn);
    looked_up(&mut shaping, &LoadOptions::default());
    assert_eq!(shaping.warnings().len(), 2);
    assert_eq!(options_for(&shaping, "x.test", ""), json!({"max_ready": 5}));
    let mut ignored = Shaping::default();
    ignored.add_file(&"1.toml".into(), &file(&[("x", json!({"y": 5}))]), Severity::Ignore);
    assert_eq!((ignored.warnings().len(), ignored.errors().len()), (0, 0));
}

#[test]
fn what_is_right_without_effect_is_noted() {
    let shaping = loaded(&[&[("default", json!({"enable_mta_sts": true}))]]);
    assert_eq!(
        shaping.notes(),
        ["1.toml:2: [\"default\"]: enable_mta_sts: accepted, but it has no effect in kumod yet"]
    );
}

#[test]
fn a_section_holds_for_its_own_domain_wherever_dns_says_it_is_but_not_for_listed_hosts() {
    let shaping = loaded(&[&[("a.test", limit(5)), ("gone.test", limit(6))]]);
    for (domain, site, expected) in [
        ("a.test", "mx.test", Some(5)),
        ("a.test", "moved.test", Some(5)),
        ("b.test", "moved.test", None),
        ("gone.test", "back.test", Some(6)),
        ("a.test", "mx_list:relay.test", None),
        ("gone.test", "mx_list:relay.test", None),
    ] {
        let options = shaping.path_options(Destination { domain, site, hosts: &[] }, "");
        let found = options.get("connection_limit").and_then(Value::as_u64);
        assert_eq!(found, expected, "{domain} at {site}");
    }
}

/// A name in one section, its password in another.
#[test]
fn credentials_may_be_given_in_two_sections() {
    let shaping = loaded(&[&[
        ("default", json!({"smtp_auth_plain_username": "ann"})),
        ("x.test", json!({"smtp_auth_plain_password": {"key_data": "sesame"}})),
    ]]);
    let options = options_for(&shaping, "x.test", "");
    assert_eq!(options["smtp_auth_plain_password"]["key_data"], "sesame");
}

#[test]
fn contradictions_are_as_severe_as_the_options_say() {
    let sections = [
        ("a.test", limit(1)),
        ("b.test", limit(2)),
        ("p.test", limit(3)),
        ("null.test", limit(4)),
        ("gone.test", limit(5)),
        ("c.test", json!({"mx_rollup": false})),
        ("provider", json!({"p": {"match": [{"MXSuffix": ".p.example"}]}})),
    ];
    let all = |severity| LoadOptions {
        aliased_site: severity,
        dns_fail: severity,
        null_mx: severity,
        provider_overlap: severity,
        ..LoadOptions::default()
    };
    let expected = [
        "1.toml:3: domains a.test and b.test have one site, mx.test: say mx_rollup = false for one of them",
        "1.toml:9: domain gone.test: no answer",
        "1.toml:7: domain null.test has a null MX, so no site",
        "1.toml:5: domain p.test is one of provider p, too",
    ];
    for (severity, errors, warnings) in [
        (Severity::Ignore, &[][..], &[][..]),
        (Severity::Warn, &[], &expected),
        (Severity::Error, &expected, &[]),
    ] {
        let mut shaping = laid_over(&[&sections]);
        looked_up(&mut shaping, &all(severity));
        assert_eq!(
            (shaping.errors(), shaping.warnings()),
            (
                &*errors.iter().map(|text| text.to_string()).collect::<Vec<_>>(),
                &*warnings.iter().map(|text| text.to_string()).collect::<Vec<_>>(),
            )
        );
        // Whatever DNS says, a section holds for its own domain.
        assert_eq!(options_for(&shaping, "gone.test", ""), limit(5));
    }
}

#[test]
fn options_of_the_load_are_strict() {
    let parse = |value: Value| LoadOptions::parse(value.as_object().unwrap().clone());
    let options = parse(json!({"aliased_site": "Warn", "skip_remote": true, "http_timeout": "1s"}));
    let options = options.unwrap();
    assert_eq!((options.aliased_site, options.skip_remote), (Severity::Warn, true));
    assert_eq!(parse(json!({})).unwrap(), LoadOptions::default());
    for (value, expected) in [
        (
            json!({"aliased_sites": "Warn"}),
            "unknown key 'aliased_sites'; the nearest known one is 'aliased_site'",
        ),
        (json!({"null_mx": "warn"}), "null_mx: unknown variant `warn`"),
        (json!({"skip_remote": "yes"}), "skip_remote: expected true or false"),
    ] {
        let error = parse(value).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn sources_are_listed_with_what_names_them() {
    let shaping = loaded(&[&[
        ("a.test", json!({"sources": {"s1": {}, "s2": {}}})),
        ("provider", json!({"p": {"match": [{"HostName": "x"}], "sources": {"s1": {}}}})),
    ]]);
    let referenced = serde_json::to_value(shaping.referenced_sources()).unwrap();
    assert_eq!(referenced, json!({"s1": ["domain a.test", "provider p"], "s2": ["domain a.test"]}));
}

fn rules_met(shaping: &Shaping, domain: &str, content: &str) -> Vec<String> {
    let hosts = ["mx1.p.example".into()];
    let site = if domain == "p.test" { "mx1.p.example" } else { "mx.test" };
    let hosts = if domain == "p.test" { &hosts[..] } else { &[] };
    let to = Destination { domain, site, hosts };
    let response = response_line(421, Some([4, 7, 0]), content);
    let met = shaping.rules_met(to, content, &response);
    met.iter()
        .map(|met| format!("{}: {}", met.section.scope, met.rule.duration.as_secs()))
        .collect()
}

#[test]
fn rules_are_met_where_they_hold() {
    let rule = |regex: Value, seconds: u64| json!([{"regex": regex, "action": "Suspend", "duration": seconds}]);
    let internal = json!([
        {"regex": "down", "action": ["Suspend", "Bounce"], "duration": 9, "match_internal": true},
        {"regex": "down", "action": "Suspend", "duration": 8},
    ]);
    let shaping = loaded(&[&[
        ("default", json!({"automation": rule(json!("slow"), 1)})),
        (
            "provider",
            json!({"p": {"match": [{"MXSuffix": ".p.example"}],
            "automation": rule(json!("slow"), 2)}}),
        ),
        ("a.test", json!({"automation": rule(json!(["^421 4.7.0 too", "busy"]), 3)})),
        ("b.test", json!({"mx_rollup": false, "automation": rule(json!("(?<=very )busy"), 4)})),
        ("x.test", json!({"mx_rollup": false, "automation": internal})),
    ]]);
    for (domain, content, expected) in [
        ("a.test", "slow down", &["default: 1"][..]),
        ("p.test", "slow down", &["default: 1", "provider p: 2"]),
        ("c.test", "too\r\nmany", &["domain a.test: 3"]),
        ("b.test", "very busy", &["domain a.test: 3", "domain b.test: 4"]),
        ("c.test", "very busy", &["domain a.test: 3"]),
        ("x.test", "it's down", &["domain x.test: 9", "domain x.test: 8"]),
        ("x.test", "KumoMTA internal: it's down", &["domain x.test: 9"]),
        ("a.test", "fine", &[]),
    ] {
        assert_eq!(rules_met(&shaping, domain, content), expected, "{domain}: {content}");
    }
    assert!(INTERNAL.starts_with("KumoMTA"));
}

#[test]
fn an_expression_that_goes_back_and_forth_without_end_is_given_up_and_told() {
    let slow = json!([{"regex": "((a|aa)+)+\\1b", "action": "Suspend", "duration": 1}]);
    let shaping = laid_over(&[&[("x.test", json!({"automation": slow}))]]);
    assert_eq!(shaping.errors(), [""; 0]);
    let content = "a".repeat(60);
    let to = Destination { domain: "x.test", site: "x.test", hosts: &[] };
    let met = shaping.rules_met(to, &content, &content);
    assert_eq!(met.len(), 1);
    assert_eq!(met[0].verdict, rule::Verdict::GivenUp);
}

#[test]
fn a_rule_reads_back_as_it_was_written() {
    let rule = json!({
        "regex": ["a", "b"],
        "action": ["Suspend", {"SetConfig": {"name": "max_message_rate", "value": "5/s"}}],
        "trigger": {"Threshold": "10/h"},
        "duration": "2h",
        "match_internal": true,
    });
    let shaping = loaded(&[&[("x.test", json!({"automation": [rule.clone()]}))]]);
    let written = serde_json::to_value(&shaping.sections[0].rules[0]).unwrap();
    assert_eq!(written, rule);
}

/// Sections of the steps, in the order in which they are merged.
const RANKED: [&str; 4] = ["default", "provider", "c.test", "x.test"];

fn ranked_section(rank: usize, value: u64) -> (&'static str, Value) {
    let name = RANKED[rank];
    let section = match rank {
        0 | 2 => json!({"max_ready": value}),
        1 => json!({"p": {"match": [{"DomainSuffix": "x.test"}], "max_ready": value}}),
        _ => json!({"max_ready": value, "mx_rollup": false}),
    };
    (name, section)
}

fn hash_of(files: &[File]) -> String {
    let mut shaping = laid_over(files);
    looked_up(&mut shaping, &LoadOptions::default());
    shaping.hash()
}

proptest! {
    #[test]
    fn the_last_of_the_highest_step_wins(
        sections in prop::collection::vec((0..4_usize, 1..1000_u64), 1..12),
    ) {
        let files: Vec<Vec<(&str, Value)>> =
            sections.iter().map(|(rank, value)| vec![ranked_section(*rank, *value)]).collect();
        let files: Vec<File> = files.iter().map(Vec::as_slice).collect();
        let mut shaping = laid_over(&files);
        let site = Looked::Site { site: "site".into(), hosts: Vec::new() };
        shaping.finish([("c.test".into(), site)].into(), &LoadOptions::default());
        let to = Destination { domain: "x.test", site: "site", hosts: &[] };
        let highest = sections.iter().map(|(rank, _)| *rank).max().unwrap();
        let last = sections.iter().rev().find(|(rank, _)| *rank == highest).unwrap();
        prop_assert_eq!(&shaping.path_options(to, "s")["max_ready"], &json!(last.1));
    }

    #[test]
    fn a_hash_is_of_what_is_said_and_not_of_where(
        sections in prop::collection::vec((0..4_usize, 1..1000_u64), 1..8),
        cut in 0..8_usize,
        changed in 0..8_usize,
    ) {
        let all: Vec<_> = sections.iter().map(|(rank, value)| ranked_section(*rank, *value)).collect();
        let hash = hash_of(&[&all]);
        prop_assert_eq!(&hash, &hash_of(&[&all]));
        let (one, other) = all.split_at(cut.min(all.len()));
        prop_assert_eq!(&hash, &hash_of(&[one, other]));
        let (at, mut edited) = (changed % all.len(), all.clone());
        edited[at] = ranked_section(sections[at].0, sections[at].1 + 1);
        prop_assert_ne!(&hash, &hash_of(&[&edited]));
    }

    #[test]
    fn no_file_makes_it_panic(
        name in "default|provider|a\\.test|[a-z]{0,3}",
        key in "match|sources|automation|max_ready|mx_rollup|[a-z_]{0,9}",
        leaf in prop_oneof![Just(json!(5)), Just(json!("x")), Just(json!([])), Just(json!({})),
            Just(json!([{"regex": "x"}])), Just(json!({"p": {"q": {"r": 1}}}))],
    ) {
        let section = json!({key: leaf});
        let mut shaping = laid_over(&[&[(&*name, section)]]);
        looked_up(&mut shaping, &LoadOptions::default());
        let _ = shaping.path_options(Destination { domain: "a.test", site: "", hosts: &[] }, "p");
    }
}

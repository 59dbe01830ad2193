//! Files as operators write them: order and lines in both formats, what is no file, remote ones, DNS.
use super::load::{Remembered, load, load_again};
use super::lookup::MxLookup;
use super::text::{self, SyntaxError};
use kumo_core::port::{DnsError, MxAnswer};
use kumo_core::shaping::tree::Node;
use kumo_core::shaping::{Destination, LoadOptions, Severity, Shaping};
use kumo_core::time::Duration;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;

/// `NAME.test` has one host, `mx.NAME.test`; any other domain doesn't exist.
pub fn lookup() -> MxLookup {
    MxLookup::new(|domain| {
        Box::pin(async move {
            match domain.ends_with(".test") {
                true => Ok(MxAnswer {
                    records: vec![(10, format!("mx.{domain}").into())],
                    ttl: Duration::from_secs(60),
                    secure: false,
                }),
                false => Err(DnsError::NoSuchDomain(domain)),
            }
        })
    })
}

async fn load_texts(files: &[(&str, &str)], options: LoadOptions) -> (Shaping, String) {
    let folder = tempfile::tempdir().unwrap();
    let paths = files.iter().map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    let paths: Vec<String> = paths.collect();
    let shaping = load(&paths, &options, &lookup()).await;
    (shaping, folder.path().display().to_string())
}

/// Keys with their lines, the inner ones in brackets.
fn outline(node: &Node) -> String {
    let entries = node.table().unwrap_or_default().iter().map(|entry| {
        let inner = outline(&entry.node);
        let inner = if inner.is_empty() { inner } else { format!("({inner})") };
        format!("{}:{}{inner}", entry.key, entry.line)
    });
    entries.collect::<Vec<_>>().join(" ")
}

const TOML: &str = r#"# first
["z.test"]
smtp_port = 2_5
connection_limit = 5

["a.test"]
mx_rollup = false
["a.test".sources."s"]
max_ready = 0x10
[["z.test".automation]]
regex = "x"
"#;

const JSON: &str = r#"// first
{ "z.test": {
    "smtp_port": 25,
    "connection_limit": 5, /* five
    lines */ "automation": [{
      "regex": "x"}]
  },
  "a.test": { "mx_rollup": false, "sources": { "s": {
    "max_ready": 16
  } } }
}"#;

#[test]
fn trees_keep_order_and_lines() {
    let toml = text::toml(TOML).unwrap();
    let expected = "z.test:2(smtp_port:3 connection_limit:4 automation:10) \
                    a.test:6(mx_rollup:7 sources:8(s:8(max_ready:9)))";
    assert_eq!(outline(&toml), expected);
    let json = text::json(JSON).unwrap();
    let expected = "z.test:2(smtp_port:3 connection_limit:4 automation:5) \
                    a.test:8(mx_rollup:8 sources:8(s:8(max_ready:9)))";
    assert_eq!(outline(&json), expected);
    assert_eq!(toml.to_json(), json.to_json());
    assert_eq!(toml.to_json()["z.test"]["automation"], json!([{"regex": "x"}]));
}

#[test]
fn what_is_neither_toml_nor_json_is_told_with_its_line() {
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let rows: [(Result<Node, SyntaxError>, u32, &str); 7] = [
        (text::toml("[\"a\"]\nx = = 1"), 2, ""),
        (text::toml("[\"a\"]\n[\"a\"]"), 2, "duplicate"),
        (text::toml("x = 99999999999999999999"), 1, "out of range"),
        (text::json("{\n\"a\": }"), 2, "expected value"),
        (text::json("{\"a\": 1,\n\"a\": 2}"), 2, "the key \"a\" is there twice"),
        (text::json(""), 1, "EOF"),
        (text::json(&deep), 1, "too deep"),
    ];
    for (read, line, why) in rows {
        let error = read.expect_err(why);
        assert_eq!(error.line, line, "{error:?}");
        assert!(error.why.contains(why), "{error:?}");
    }
}

#[tokio::test]
async fn both_formats_are_laid_over_each_other() {
    let files = [("1.toml", TOML), ("2.json", r#"{"z.test": {"connection_limit": 7}}"#)];
    let (shaping, _) = load_texts(&files, LoadOptions::default()).await;
    // The action and duration of the rule are missing.
    assert_eq!(shaping.errors().len(), 2, "{:?}", shaping.errors());
    let to = Destination { domain: "other.test", site: "mx.z.test", hosts: &[] };
    let options = shaping.path_options(to, "s");
    assert_eq!(json!(options), json!({"connection_limit": 7, "smtp_port": 25}));
}

#[tokio::test]
async fn errors_name_file_line_key_and_the_nearest_key() {
    for (name, text, expected) in [
        (
            "1.toml",
            "[\"a.test\"]\n\nconection_limit = 5",
            "1.toml:3: [\"a.test\"]: unknown key 'conection_limit'; the nearest known one is 'connection_limit'",
        ),
        (
            "1.json",
            "{\"a.test\": {\n\"smtp_port\": \"x\"}}",
            "1.json:2: [\"a.test\"]: smtp_port: expected a whole number from 0 to 65535, found the text \"x\"",
        ),
        ("1.toml", "x = = 1", "1.toml:1: "),
        ("1.json", "[1]", "1.json:1: a shaping file is a table of domains"),
        ("1.json", "\u{feff}{}", "1.json:1: "),
        (
            "1.toml",
            "[\"a.test\"]\nmax_ready = 5\n[[\"a.test\".automation]]\nregex = '('\naction = 'Suspend'\nduration = '1h'",
            "1.toml:4: [\"a.test\"]: regex: \"(\" is no regular expression",
        ),
    ] {
        let (shaping, folder) = load_texts(&[(name, text)], LoadOptions::default()).await;
        let errors = shaping.errors();
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].starts_with(&format!("{folder}/{expected}")), "{}", errors[0]);
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_as_severe_as_the_options_say() {
    let files = ["/nowhere/x.toml".to_string()];
    for (severity, errors, warnings) in
        [(Severity::Ignore, 0, 0), (Severity::Warn, 0, 1), (Severity::Error, 1, 0)]
    {
        let options = LoadOptions { local_load: severity, ..LoadOptions::default() };
        let shaping = load(&files, &options, &lookup()).await;
        assert_eq!((shaping.errors().len(), shaping.warnings().len()), (errors, warnings));
        let told = shaping.errors().iter().chain(shaping.warnings());
        told.for_each(|text| assert!(text.contains("can't read /nowhere/x.toml"), "{text}"));
    }
}

/// Answers one request with this, and is gone.
fn serve_once(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = client.read(&mut request);
        let _ = client.write_all(answer.as_bytes());
    });
    format!("http://{address}/shaping.toml?x=1")
}

fn remote() -> LoadOptions {
    LoadOptions {
        remote_load: Severity::Error,
        http_timeout: Duration::from_millis(300),
        ..LoadOptions::default()
    }
}

#[tokio::test]
async fn a_remote_file_is_loaded_unless_it_is_to_be_skipped() {
    const FILE: &str =
        "HTTP/1.1 200 OK\r\ncontent-length: 37\r\n\r\n[\"default\"]\nconnection_limit = 7     \n";
    let shaping = load(&[serve_once(FILE)], &remote(), &lookup()).await;
    assert_eq!(shaping.errors(), [""; 0]);
    let to = Destination { domain: "x", site: "x", hosts: &[] };
    assert_eq!(shaping.path_options(to, "")["connection_limit"], 7);
    let skip = LoadOptions { skip_remote: true, ..remote() };
    let shaping = load(&["http://127.0.0.1:1/x".into()], &skip, &lookup()).await;
    assert_eq!(shaping.errors(), [""; 0]);
}

#[tokio::test]
async fn a_remote_file_that_cannot_be_had_is_told_in_time() {
    let long = Box::leak(
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 17 * 1024 * 1024).into_boxed_str(),
    );
    let long = Box::leak(format!("{long}{}", "#".repeat(17 * 1024 * 1024)).into_boxed_str());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (url, expected) in [
        (
            serve_once("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
            "the server answered 404",
        ),
        (serve_once(long), "length limit exceeded"),
        (format!("http://{}/x", silent.local_addr().unwrap()), "it took longer than 300ms"),
        ("https://shaping.test/x.toml".into(), "kumod fetches shaping files by http only"),
        ("http://127.0.0.1:1/x.toml".into(), "can't reach"),
        ("http:///x.toml".into(), "the URL looks like"),
        ("http://127.0.0.1:1/a b".into(), "its path has to be encoded"),
    ] {
        let started = std::time::Instant::now();
        let shaping = load(std::slice::from_ref(&url), &remote(), &lookup()).await;
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
        let errors = shaping.errors();
        assert_eq!(errors.len(), 1, "{url}: {errors:?}");
        assert!(errors[0].contains(expected), "{url}: {}", errors[0]);
        let ignored = LoadOptions { remote_load: Severity::Ignore, ..remote() };
        assert_eq!(load(&[url], &ignored, &lookup()).await.errors(), [""; 0]);
    }
}

#[tokio::test]
async fn hosts_come_from_dns_or_from_the_sites_name() {
    for (domain, site, expected) in [
        ("a.test", "mx.a.test", &["mx.a.test"][..]),
        ("a.gone", "(mx1|mx2).a.gone", &["mx1.a.gone", "mx2.a.gone"]),
        ("a.test", "mx_list:x.example:25,y.example", &["x.example", "y.example"]),
        ("[192.0.2.1]", "[192.0.2.1]", &["[192.0.2.1]"]),
    ] {
        assert_eq!(lookup().hosts(domain, site).await, expected, "{domain}");
    }
}

#[tokio::test]
async fn more_domains_than_are_asked_at_once_are_all_looked_up() {
    let domains = (0..100).map(|number| format!("d{number}.test").into());
    assert_eq!(lookup().look_up_all(domains.collect()).await.len(), 100);
}

#[tokio::test]
async fn what_others_said_before_holds_on_while_they_do_not_answer() {
    const FILE: &str =
        "HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n[\"a.test\"]\nconnection_limit = 7\n";
    let files = [serve_once(FILE)];
    let options = LoadOptions { remote_load: Severity::Warn, dns_fail: Severity::Warn, ..remote() };
    let nobody = MxLookup::new(|_| Box::pin(async { Err(DnsError::Failed("down".into())) }));
    let remembered = Remembered::default();
    for (lookup, warnings) in [(lookup(), 0), (nobody.clone(), 2), (nobody, 2)] {
        let shaping = load_again(&files, &options, &lookup, &remembered).await;
        assert_eq!(shaping.errors(), [""; 0]);
        assert_eq!(shaping.warnings().len(), warnings, "{:?}", shaping.warnings());
        let told = |text: &String| text.ends_with("what it said before holds on");
        assert!(shaping.warnings().iter().all(told));
        let to = Destination { domain: "b.test", site: "mx.a.test", hosts: &[] };
        assert_eq!(shaping.path_options(to, "")["connection_limit"], 7);
    }
}

//! Rules about the source itself that a compiler doesn't know. Reads the tree, runs nothing.
use kumo_core::config::options::{Effect, TABLES};
use std::collections::BTreeMap;
use std::path::Path;

/// The table can't lie about its tests: each is there, and is run.
#[test]
fn every_effective_key_names_a_test_that_exists() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    for option in TABLES.iter().flat_map(|table| table.options) {
        let Effect::Effective { test } = option.effect else { continue };
        let (file, name) = test.split_once("::").expect("file::name");
        let source = sources.entry(file).or_insert_with(|| {
            std::fs::read_to_string(workspace.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
        });
        assert!(holds_test(source, name), "{}: there is no test {test}", option.key);
    }
    assert!(sources.len() > 10);
}

/// Whether `fn name(` stands right beneath `#[test]`, other attributes between them aside, and isn't ignored.
fn holds_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let starts = [format!("fn {name}("), format!("async fn {name}(")];
    let begins = |line: &str| starts.iter().any(|start| line.starts_with(start.as_str()));
    lines.iter().enumerate().filter(|(_, line)| begins(line)).any(|(at, _)| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        let attributes: Vec<&str> = above.copied().collect();
        let is_test =
            |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        attributes.iter().any(is_test) && !attributes.iter().any(|line| line.contains("ignore"))
    })
}

#[test]
fn only_what_is_run_counts_as_a_test() {
    for (source, expected) in [
        ("#[test]\nfn a() {", true),
        ("    #[tokio::test]\n    async fn a() {", true),
        ("#[test]\n#[should_panic = \"x\"]\nfn a() {", true),
        ("#[test]\nfn ab() {", false),
        ("fn a() {", false),
        ("#[test]\nfn b() {}\nfn a() {", false),
        ("#[test]\n#[ignore]\nfn a() {", false),
        ("// #[test]\nfn a() {", false),
    ] {
        assert_eq!(holds_test(source, "a"), expected, "{source}");
    }
}

/// Planted bugs are for the simulator's builds alone. `cargo sim canary` shows that they are there.
#[test]
fn no_binary_of_the_product_holds_a_canary() {
    let source = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src/canary.rs"),
    );
    assert!(source.expect("core's canaries").contains("concat!(\"canary-\", $name)"));
    for binary in [
        env!("CARGO_BIN_EXE_kumod"),
        env!("CARGO_BIN_EXE_kcli"),
        env!("CARGO_BIN_EXE_proxy-server"),
    ] {
        let octets = std::fs::read(binary).expect("cargo has built it");
        let found = octets.windows(10).any(|window| window == b"canary-ack");
        assert!(!found, "{binary} holds a canary");
    }
}

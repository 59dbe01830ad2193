//! `kumod spool check` as an operator runs it: exit codes, what is printed where, whose the files are afterwards, and
//! that a kumod on the spool keeps it out.
mod support;

use bytes::Bytes;
use kumo_core::config::SpoolDefinition;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, Spool, SpoolOperation, SyncMode};
use kumo_io_real::spool::RealSpool;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{Home, Kumod};

const ORPHAN: SpoolId = SpoolId([0xab; 16]);

fn check(folder: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kumod"));
    command.args(["spool", "check"]).arg(folder).args(options);
    command.output().expect("kumod can be run")
}

fn code_and_json(output: &Output) -> (Option<i32>, Value) {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("one JSON object"))
}

/// The golden spool's three messages and a body that isn't one, left by a kumod that stopped.
async fn with_orphan(folder: &Path) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1/spool");
    for entry in fs::read_dir(golden).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let definition = |name: &str| SpoolDefinition::at(name, folder.to_str().unwrap());
    let spool = RealSpool::open(&definition("data"), &definition("meta")).unwrap();
    let value = Bytes::from_static(b"no record");
    let put = SpoolOperation::Put { family: Family::Data, key: ORPHAN, value };
    spool.apply(vec![put], SyncMode::Synced).await.unwrap();
    spool.close().await.unwrap();
}

/// Every file, with its octets; of the lock file only that it is there.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let octets = |path: &PathBuf| match path.ends_with("lock") {
        true => Vec::new(),
        false => fs::read(path).unwrap(),
    };
    paths.map(|path| (path.clone(), octets(&path))).collect()
}

fn owners(folder: &Path) -> BTreeMap<PathBuf, u32> {
    let mut owners = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            owners.extend(self::owners(&entry.path()));
        }
        owners.insert(entry.path(), metadata.uid());
    }
    owners
}

#[tokio::test]
async fn an_operator_checks_repairs_and_checks_again_and_kumod_goes_on_with_the_spool() {
    let (home, made) = (Home::new(), tempfile::tempdir().unwrap());
    with_orphan(made.path()).await;
    home.hand_over("spool", made.path());
    let spool = home.path("spool");

    let before = contents(&spool);
    let (code, report) = code_and_json(&check(&spool, &["--json"]));
    assert_eq!(code, Some(3), "{report}");
    assert_eq!(report["whole"]["messages"], 3);
    assert_eq!(report["damaged"]["first"][0]["id"], ORPHAN.to_string());
    assert_eq!(report["outcome"], "damaged");
    assert!(contents(&spool) == before, "a check changes nothing");

    let repaired = check(&spool, &["--repair"]);
    let text = String::from_utf8(repaired.stdout).unwrap();
    assert_eq!(repaired.status.code(), Some(0), "{text}");
    assert!(text.ends_with("\nnothing is wrong any more\n"), "{text}");
    let exported = spool.join(format!("quarantine/{ORPHAN}.data"));
    assert_eq!(fs::read(exported).unwrap(), b"no record");
    let (code, report) = code_and_json(&check(&spool, &["--json"]));
    assert_eq!((code, &report["whole"]["messages"]), (Some(0), &Value::from(3)));
    let owner = fs::metadata(&spool).unwrap().uid();
    for (path, uid) in owners(&spool) {
        assert_eq!(uid, owner, "{}", path.display());
    }

    let kumod = Kumod::start(&home.policy("", ""));
    for options in [&[][..], &["--repair"]] {
        let refused = check(&spool, options);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stdout.is_empty());
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(
            why.starts_with("kumod: unable to lock pid file ") && why.lines().count() == 1,
            "{why}"
        );
    }
    kumod.stop();
    assert_eq!(check(&spool, &[]).status.code(), Some(0));
    assert_eq!(check(&home.path("nowhere"), &[]).status.code(), Some(1));
    assert_eq!(check(&spool, &["--mend"]).status.code(), Some(2));
}

//! That folders go bad as they are told to, and get well again; that damage is where it is said to be.
use super::support::damage::{
    Table, cut_table, delete_table, flip_log, flip_manifest, flip_table, lengthen_manifest,
};
use super::support::folders::{Immutable, ReadOnly, Small, folder_for_immutable};
use kumo_core::config::SpoolDefinition;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, Spool, SpoolOperation, SyncMode};
use kumo_io_real::spool::RealSpool;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

#[test]
fn a_small_folder_fills_up_and_is_free_again() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("small");
    let small = Small::over(&path, "1m");
    fs::write(path.join("before"), vec![b'x'; 100_000]).unwrap();
    let ballast = small.fill();
    let error = fs::write(path.join("while"), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    drop(ballast);
    fs::write(path.join("after"), vec![b'x'; 500_000]).unwrap();
    let error = fs::write(path.join("too much"), vec![b'x'; 2_000_000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    drop(small);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "what lies beneath is seen again");
}

#[test]
fn a_read_only_folder_can_be_read_and_written_to_afterwards() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "old").unwrap();
    let guard = ReadOnly::over(folder.path());
    assert_eq!(fs::write(&file, "new").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    let another = fs::write(folder.path().join("another"), "");
    assert_eq!(another.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    drop(guard);
    fs::write(&file, "new").unwrap();
}

#[test]
fn an_immutable_folder_keeps_its_entries_and_its_files_can_grow() {
    let folder = folder_for_immutable();
    let (file, other) = (folder.path().join("file"), folder.path().join("other"));
    fs::write(&file, "old").unwrap();
    let guard = Immutable::make(folder.path());
    for refused in [fs::write(&other, ""), fs::remove_file(&file), fs::rename(&file, &other)] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    fs::write(&file, "new").unwrap();
    drop(guard);
    fs::rename(&file, &other).unwrap();
}

/// With something in tables of both families, and something in the log.
fn database(folder: &Path) -> PathBuf {
    let path = folder.join("spool");
    let define = |name: &str| SpoolDefinition::at(name, &path.display().to_string());
    let spool = RealSpool::open(&define("data"), &define("meta")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let put = |number: u8, family, octets: usize| {
        let (key, value) = (SpoolId([number; 16]), vec![number; octets].into());
        let batch = vec![SpoolOperation::Put { family, key, value }];
        runtime.block_on(spool.apply(batch, SyncMode::Synced)).unwrap();
    };
    for number in 0..100 {
        put(number, Family::Data, 2000);
        put(number, Family::Meta, 100);
    }
    for family in [Family::Data, Family::Meta] {
        runtime.block_on(spool.compact(family)).unwrap();
    }
    put(100, Family::Data, 2000);
    runtime.block_on(spool.close()).unwrap();
    path
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| (entry.path(), fs::read(entry.path()).unwrap())).collect()
}

type How = fn(&Path) -> PathBuf;

/// The file that was damaged, before and after; all others must be as they were.
fn damaged(how: impl Fn(&Path) -> PathBuf) -> (PathBuf, Vec<u8>, Option<Vec<u8>>) {
    let folder = tempdir().unwrap();
    let database = database(folder.path());
    let mut before = contents(&database);
    let damaged = how(&database);
    let mut after = contents(&database);
    let (was, is) = (before.remove(&damaged).unwrap(), after.remove(&damaged));
    assert_eq!(before, after);
    (damaged.file_name().unwrap().into(), was, is)
}

#[test]
fn flipped_octets_are_in_the_middle_of_the_file_that_was_meant() {
    let hows: [(&str, How); 3] = [
        (".sst", |database| flip_table(database, Table::Newest)),
        (".sst", |database| flip_table(database, Table::Of("meta"))),
        (".log", flip_log),
    ];
    for (name, how) in hows {
        let (path, was, is) = damaged(how);
        assert!(path.to_string_lossy().contains(name), "{path:?}");
        let is = is.unwrap();
        assert_eq!(was.len(), is.len());
        let changed: Vec<usize> = (0..was.len()).filter(|at| was[*at] != is[*at]).collect();
        let middle = was.len() / 2;
        assert_eq!(changed, (middle..middle + 16).collect::<Vec<_>>(), "{path:?}");
    }
}

#[test]
fn a_manifest_is_damaged_in_what_a_record_says_or_in_its_length() {
    let changed = |how: How| {
        let (path, was, is) = damaged(how);
        assert!(path.to_string_lossy().starts_with("MANIFEST-"), "{path:?}");
        let is = is.unwrap();
        assert_eq!(was.len(), is.len());
        (0..was.len()).filter(|at| was[*at] != is[*at]).collect::<Vec<_>>()
    };
    let (said, length) = (changed(flip_manifest), changed(lengthen_manifest));
    // The length's second octet, then the type, then what the record says.
    assert_eq!((length.len(), length[0] + 2), (1, said[0]));
    assert!((1..=16).contains(&said.len()), "{said:?}");
}

#[test]
fn a_table_is_cut_to_half_or_gone() {
    let (_, was, is) = damaged(|database| cut_table(database, Table::Of("data")));
    assert_eq!(is.unwrap(), was[..was.len() / 2]);
    let (path, _, is) = damaged(|database| delete_table(database, Table::Largest));
    assert_eq!(is, None, "{path:?}");
}

#[test]
fn tables_are_told_by_age_size_and_family() {
    let folder = tempdir().unwrap();
    let database = database(folder.path());
    let [data, meta] = ["data", "meta"].map(|family| flip_table(&database, Table::Of(family)));
    assert_ne!(data, meta);
    assert_eq!(flip_table(&database, Table::Largest), data);
    // It was compacted last.
    assert_eq!(delete_table(&database, Table::Newest), meta);
    assert_eq!(flip_table(&database, Table::Newest), data);
}

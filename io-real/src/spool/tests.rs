//! The conformance suite over every combination of stores, and what `RealSpool::open` refuses.
use super::*;
use kumo_driver::conformance;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

pub(super) fn definition(name: &str, path: &Path, kind: SpoolKind) -> SpoolDefinition {
    let path = path.to_str().expect("temporary directories have plain names");
    SpoolDefinition { kind, ..SpoolDefinition::at(name, path) }
}

/// Spread over the key space, as ids of messages are.
pub(super) fn key(number: u32) -> SpoolId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    id[12..].copy_from_slice(&number.to_be_bytes());
    SpoolId(id)
}

/// Not to be compressed, so that many blocks are needed.
pub(super) fn value(number: u32, octets: usize) -> Bytes {
    let mut state = u64::from(number) + 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..octets).map(|_| next()).collect()
}

/// As a power cut leaves it, everything synced: a copy of the files of a store that is still open.
pub(super) fn crash_copy(path: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            match fs::copy(entry.path(), copy.path().join(entry.file_name())) {
                // RocksDB has removed it meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
    copy
}

pub(super) fn files(path: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

pub(super) fn flip(path: &Path, at: usize) {
    let mut content = fs::read(path).unwrap();
    content[at] ^= 0x55;
    fs::write(path, content).unwrap();
}

async fn conforms(data: (SpoolKind, &str), meta: (SpoolKind, &str), atomic: bool) {
    let directory = TempDir::new().unwrap();
    let stores = AtomicU32::new(0);
    let make = async || {
        let number = stores.fetch_add(1, Ordering::Relaxed).to_string();
        let path = directory.path().join(number);
        let spool = RealSpool::open(
            &definition("data", &path.join(data.1), data.0),
            &definition("meta", &path.join(meta.1), meta.0),
        )
        .unwrap();
        assert_eq!(spool.is_atomic_across_families(), atomic);
        assert_eq!(spool.damage_at_open(), []);
        spool
    };
    conformance::spool(make).await;
    assert!(stores.into_inner() > 5, "the suite made its stores");
}

#[tokio::test]
async fn one_rocksdb_for_both_conforms() {
    conforms((SpoolKind::RocksDB, "one"), (SpoolKind::RocksDB, "one/../one"), true).await;
}

#[tokio::test]
async fn two_rocksdbs_conform() {
    conforms((SpoolKind::RocksDB, "a"), (SpoolKind::RocksDB, "b"), false).await;
}

#[tokio::test]
async fn two_trees_of_files_conform() {
    conforms((SpoolKind::LocalDisk, "a"), (SpoolKind::LocalDisk, "b"), false).await;
}

#[tokio::test]
async fn files_for_both_at_one_path_conform() {
    conforms((SpoolKind::LocalDisk, "one"), (SpoolKind::LocalDisk, "one"), false).await;
}

#[tokio::test]
async fn bodies_in_files_and_the_rest_in_rocksdb_conform() {
    conforms((SpoolKind::LocalDisk, "a"), (SpoolKind::RocksDB, "b"), false).await;
}

fn open(data: (SpoolKind, &Path), meta: (SpoolKind, &Path)) -> Result<RealSpool, SpoolError> {
    RealSpool::open(&definition("data", data.1, data.0), &definition("meta", meta.1, meta.0))
}

fn refusal(result: Result<RealSpool, SpoolError>) -> SpoolError {
    match result {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_second_opener_is_told_about_the_lock_and_its_owner() {
    for kind in [SpoolKind::RocksDB, SpoolKind::LocalDisk] {
        let directory = TempDir::new().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        let spool = open((kind, &a), (kind, &b)).unwrap();
        let error = refusal(open((kind, &a), (kind, &b)));
        let lock = a.canonicalize().unwrap().join("lock");
        let expected = format!(
            "unable to lock pid file {}. Owned by pid {}.",
            lock.display(),
            std::process::id()
        );
        assert_eq!(error.text, expected);
        spool.close().await.unwrap();
        open((kind, &a), (kind, &b)).expect("closing gives the lock back");
    }
}

#[test]
fn one_path_for_two_kinds_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let error = refusal(open((SpoolKind::RocksDB, path), (SpoolKind::LocalDisk, path)));
    assert!(error.text.contains("have to be of one kind"), "{error}");
}

#[tokio::test]
async fn a_shared_database_is_not_opened_as_half_of_a_split_one_nor_a_half_as_a_whole() {
    let directory = TempDir::new().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| directory.path().join(name));
    let kind = SpoolKind::RocksDB;
    open((kind, &a), (kind, &a)).unwrap().close().await.unwrap();
    let error = refusal(open((kind, &a), (kind, &b)));
    assert!(error.text.contains("the same one if they shared it"), "{error}");
    open((kind, &a), (kind, &a)).expect("the refusal left no trace").close().await.unwrap();

    open((kind, &b), (kind, &c)).unwrap().close().await.unwrap();
    for half in [&b, &c] {
        let error = refusal(open((kind, half), (kind, half)));
        assert!(error.text.contains("was used for data or for meta alone before"), "{error}");
    }
}

/// Data, meta, and what takes the place of either: nothing (a volume that isn't mounted) or another spool's.
async fn refuses_strangers(data: SpoolKind, meta: SpoolKind) {
    let directory = TempDir::new().unwrap();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| directory.path().join(name));
    open((data, &a), (meta, &b)).unwrap().close().await.unwrap();
    for others in ["new", "used"] {
        for (data_path, meta_path) in [(&a, &d), (&c, &b)] {
            let error = refusal(open((data, data_path), (meta, meta_path)));
            assert_eq!(error.kind, SpoolErrorKind::Other, "{others}: {error}");
            for path in [data_path, meta_path] {
                let name = path.canonicalize().unwrap().display().to_string();
                assert!(error.text.contains(&format!(" at {name} ")), "{others}: {error}");
            }
            assert!(error.text.contains("mount the volume that is missing"), "{others}: {error}");
        }
        open((data, &a), (meta, &b)).expect("the right ones are opened").close().await.unwrap();
        open((data, &c), (meta, &d)).expect("these have no spool yet").close().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_is_opened_only_with_the_other_half_of_its_pair() {
    use SpoolKind::{LocalDisk, RocksDB};
    refuses_strangers(RocksDB, RocksDB).await;
    refuses_strangers(LocalDisk, LocalDisk).await;
    refuses_strangers(LocalDisk, RocksDB).await;
}

#[tokio::test]
async fn files_at_one_path_are_a_pair_as_well() {
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let kind = SpoolKind::LocalDisk;
    open((kind, path), (kind, path)).unwrap().close().await.unwrap();
    let away = TempDir::new().unwrap();
    fs::rename(path.join("meta"), away.path().join("meta")).unwrap();
    let error = refusal(open((kind, path), (kind, path)));
    assert!(error.text.contains("aren't the two halves of one spool"), "{error}");
    fs::remove_dir_all(path.join("meta")).unwrap();
    fs::rename(away.path().join("meta"), path.join("meta")).unwrap();
    open((kind, path), (kind, path)).expect("it is mounted again");
}

#[tokio::test]
async fn another_kind_at_the_same_path_is_another_store() {
    let directory = TempDir::new().unwrap();
    let (a, b) = (directory.path().join("a"), directory.path().join("b"));
    let (files, rocks) = (SpoolKind::LocalDisk, SpoolKind::RocksDB);
    open((rocks, &a), (rocks, &b)).unwrap().close().await.unwrap();
    let error = refusal(open((rocks, &a), (files, &b)));
    assert!(error.text.contains("there is no "), "{error}");
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_made_up_for() {
    let kind = SpoolKind::RocksDB;
    for leftover in ["a/rocksdb.pair", "b/rocksdb.pair", "a/rocksdb.pair-unfinished"] {
        let directory = TempDir::new().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(directory.path().join(leftover), "0123").unwrap();
        open((kind, &a), (kind, &b)).unwrap().close().await.unwrap();
        open((kind, &a), (kind, &b)).unwrap();
        let id = |path: &Path| fs::read_to_string(path.join("rocksdb.pair")).unwrap();
        assert_eq!(id(&a), id(&b));
        assert_eq!(id(&a).trim().len(), 16);
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_described() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let path = file.join("spool");
    for kind in [SpoolKind::RocksDB, SpoolKind::LocalDisk] {
        let text = refusal(open((kind, &path), (kind, &path))).text;
        let beginning = format!("spool directory {} is not usable: ", path.display());
        assert!(text.starts_with(&beginning), "{text}");
        assert!(text.contains(&format!("the file {} belongs to uid ", file.display())), "{text}");
        assert!(text.contains(" with mode 0"), "{text}");
        assert!(text.contains("this process runs with real uid "), "{text}");
    }
}

#[tokio::test]
async fn an_apply_whose_caller_went_away_in_the_queue_is_still_carried_out() {
    let directory = TempDir::new().unwrap();
    let kind = SpoolKind::RocksDB;
    let spool = open((kind, directory.path()), (kind, directory.path())).unwrap();
    let key = SpoolId([7; 16]);
    for _ in 0..20 {
        let put = SpoolOperation::Put { family: Family::Meta, key, value: Bytes::new() };
        let apply = spool.apply(vec![put], SyncMode::Synced);
        let waited = tokio::time::timeout(std::time::Duration::ZERO, apply).await;
        let delete = SpoolOperation::Delete { family: Family::Meta, key };
        drop(waited);
        spool.sync(Family::Meta).await.unwrap();
        assert_eq!(spool.get(Family::Meta, key).await, Ok(Some(Bytes::new())));
        spool.apply(vec![delete], SyncMode::Unsynced).await.unwrap();
    }
}

//! Every kind of spool with every kind of damage: what a check says, that it changes nothing, and what a repair leaves.
use super::*;
use crate::spool::tests::{crash_copy, definition, files, flip, key, value};
use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::message::{Envelope, Message, Meta, Schedule};
use kumo_core::recipients::RecipientSet;
use kumo_core::record::{encode_data, encode_meta};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use tempfile::TempDir;

const BODY_OCTETS: usize = 1_000;
const META_OCTETS: usize = 300;

/// A spool of kumod's in a folder of its own, or in two.
struct Home {
    directory: TempDir,
    data: (SpoolKind, &'static str),
    meta: (SpoolKind, &'static str),
}

impl Home {
    fn new(data: (SpoolKind, &'static str), meta: (SpoolKind, &'static str)) -> Home {
        Home { directory: TempDir::new().unwrap(), data, meta }
    }

    /// All that `define_spool` can make.
    fn of_every_kind() -> Vec<Home> {
        use SpoolKind::{LocalDisk, RocksDB};
        vec![
            Home::new((RocksDB, "one"), (RocksDB, "one")),
            Home::new((RocksDB, "a"), (RocksDB, "b")),
            Home::new((LocalDisk, "one"), (LocalDisk, "one")),
            Home::new((LocalDisk, "a"), (LocalDisk, "b")),
            Home::new((LocalDisk, "a"), (RocksDB, "b")),
        ]
    }

    fn shared() -> Home {
        Home::new((SpoolKind::RocksDB, "one"), (SpoolKind::RocksDB, "one"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.path(self.data.1), self.path(self.meta.1)];
        folders.dedup();
        folders
    }

    fn serve(&self) -> RealSpool {
        let data = definition("data", &self.path(self.data.1), self.data.0);
        RealSpool::open(&data, &definition("meta", &self.path(self.meta.1), self.meta.0)).unwrap()
    }

    async fn filled(self, operations: Vec<SpoolOperation>) -> Home {
        let spool = self.serve();
        for operation in operations {
            spool.apply(vec![operation], SyncMode::Unsynced).await.unwrap();
        }
        spool.close().await.unwrap();
        self
    }

    async fn check(&self) -> Findings {
        check(&self.folders()).await
    }

    async fn repair(&self) -> Findings {
        repair(&self.folders()).await
    }

    fn exported(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        contents(&self.folders()[0].join("quarantine"))
    }
}

/// Shows each time that it left everything as it was.
async fn check(folders: &[PathBuf]) -> Findings {
    let before: Vec<_> = folders.iter().map(|folder| contents(folder)).collect();
    let spool = OfflineSpool::open_to_check(folders).unwrap();
    let findings = spool.examine(|_| {}).await.unwrap();
    spool.close().await.unwrap();
    let after: Vec<_> = folders.iter().map(|folder| contents(folder)).collect();
    assert!(before == after, "a check changes nothing");
    findings
}

async fn repair(folders: &[PathBuf]) -> Findings {
    let spool = OfflineSpool::open_to_repair(folders).unwrap();
    let findings = spool.examine(|_| {}).await.unwrap();
    spool.close().await.unwrap();
    findings
}

/// Every file and folder below `path`, with its octets; of kumod's lock files only that they are there.
fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let Ok(entries) = fs::read_dir(path) else { return all };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(contents(&path));
        }
        let is_lock = path.file_name().is_some_and(|name| name == "lock");
        let octets = if path.is_dir() || is_lock { Vec::new() } else { fs::read(&path).unwrap() };
        all.insert(path, octets);
    }
    all
}

/// A meta record so large that a table of them has many blocks.
fn message(number: u32) -> Message {
    let mailbox = |text: &str| Mailbox::parse(text).unwrap();
    let filler: String =
        value(number, META_OCTETS).iter().map(|octet| char::from(b'a' + octet % 26)).collect();
    let mut meta = Meta::new();
    meta.insert("filler".into(), filler.into());
    Message {
        id: key(number),
        envelope: Envelope {
            sender: ReversePath::Mailbox(mailbox("s@x.test")),
            recipients: vec![mailbox("r@y.test")],
        },
        remaining: RecipientSet::all(1),
        meta,
        schedule: Schedule { due: None, expires: None },
        attempts: 0,
        body: value(number, BODY_OCTETS),
    }
}

fn put(family: Family, key: SpoolId, value: Bytes) -> SpoolOperation {
    SpoolOperation::Put { family, key, value }
}

fn metas(numbers: Range<u32>) -> Vec<SpoolOperation> {
    numbers.map(|n| put(Family::Meta, key(n), encode_meta(&message(n)))).collect()
}

fn datas(numbers: Range<u32>) -> Vec<SpoolOperation> {
    numbers.map(|n| put(Family::Data, key(n), encode_data(&message(n)))).collect()
}

fn flipped(record: &Bytes) -> Bytes {
    let mut record = record.to_vec();
    let last = record.len() - 1;
    record[last] ^= 1;
    Bytes::from(record)
}

fn ids(flaws: &List<Flaw>) -> Vec<SpoolId> {
    flaws.first.iter().map(|flaw| flaw.id).collect()
}

fn refusal(folders: &[PathBuf]) -> String {
    let [checked, repaired] = [OfflineSpool::open_to_check, OfflineSpool::open_to_repair]
        .map(|open| open(folders).err().expect("it is refused").text);
    assert_eq!(checked, repaired);
    checked
}

#[tokio::test]
async fn a_whole_spool_of_every_kind_is_whole_and_stays_as_it_is() {
    for home in Home::of_every_kind() {
        let home = home.filled([datas(0..50), metas(0..50)].concat()).await;
        let mut backwards = home.folders();
        backwards.reverse();
        for folders in [home.folders(), backwards] {
            let findings = check(&folders).await;
            let whole = (findings.whole, findings.octets);
            assert_eq!(whole, (50, 50 * BODY_OCTETS as u64), "{folders:?}");
            assert_eq!(findings.outcome(), Outcome::Whole, "{findings:?}");
        }
        let findings = home.repair().await;
        assert_eq!((findings.whole, findings.outcome()), (50, Outcome::Whole));
        assert!(home.exported().is_empty());
        assert_eq!(home.check().await.whole, 50, "{findings:?}");
    }
}

#[tokio::test]
async fn an_empty_spool_of_every_kind_is_whole() {
    for home in Home::of_every_kind() {
        let home = home.filled(Vec::new()).await;
        assert_eq!(home.check().await, Findings::default());
        assert_eq!(home.repair().await.outcome(), Outcome::Whole);
    }
}

#[tokio::test]
async fn damaged_records_lone_halves_and_orphans_are_named_exported_and_removed() {
    let bad_data = flipped(&encode_data(&message(1)));
    let bad_meta = flipped(&encode_meta(&message(2)));
    for home in Home::of_every_kind() {
        // 1 and 2 are damaged, 3 has no envelope, 4 no body.
        let damaged = vec![
            put(Family::Data, key(1), bad_data.clone()),
            put(Family::Meta, key(2), bad_meta.clone()),
        ];
        let bodies = [datas(10..20), datas(2..4)].concat();
        let envelopes = [metas(10..20), metas(1..2), metas(4..5)].concat();
        let home = home.filled([bodies, envelopes, damaged].concat()).await;
        let findings = home.check().await;
        let mut flaws = ids(&findings.damaged);
        flaws.sort_by_key(|id| id.0[15]);
        assert_eq!(flaws, [key(1), key(2)], "{findings:?}");
        assert!(findings.damaged.first.iter().all(|flaw| flaw.why.contains("checksum")));
        assert_eq!(findings.orphans.first, [key(3)]);
        assert_eq!(findings.without_data.first, [key(4)]);
        assert_eq!((findings.whole, findings.left()), (10, 4));
        assert_eq!(findings.outcome(), Outcome::Damaged);

        let repaired = home.repair().await;
        assert_eq!(repaired.outcome(), Outcome::Mended, "{repaired:?}");
        assert_eq!(repaired.damaged, findings.damaged);
        let repair = repaired.repair.unwrap();
        assert_eq!((repair.messages_removed, repair.records_exported), (4, 6));
        let exported =
            |number: u32, end: &str| repair.quarantine.join(format!("{}.{end}", key(number)));
        let expected = BTreeMap::from([
            (exported(1, "data"), bad_data.to_vec()),
            (exported(1, "meta"), encode_meta(&message(1)).to_vec()),
            (exported(2, "data"), encode_data(&message(2)).to_vec()),
            (exported(2, "meta"), bad_meta.to_vec()),
            (exported(3, "data"), encode_data(&message(3)).to_vec()),
            (exported(4, "meta"), encode_meta(&message(4)).to_vec()),
        ]);
        assert_eq!(home.exported(), expected);

        let again = home.check().await;
        assert_eq!((again.whole, again.outcome()), (10, Outcome::Whole), "{again:?}");
        home.serve().close().await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_exported_stays() {
    for home in Home::of_every_kind() {
        let home = home.filled([datas(0..5), metas(0..3)].concat()).await;
        fs::write(home.folders()[0].join("quarantine"), "in the way").unwrap();
        let findings = home.repair().await;
        assert_eq!((findings.outcome(), findings.left()), (Outcome::Damaged, 2));
        let stopped = findings.repair.unwrap().stopped.unwrap();
        assert!(stopped.contains("exporting a record, which stays in the spool"), "{stopped}");
        let findings = home.check().await;
        assert_eq!((findings.whole, findings.orphans.count), (3, 2));
    }
}

/// Meta's records in one table file, which is returned, data's in another.
async fn in_tables(home: &Home, messages: u32) -> PathBuf {
    let spool = home.serve();
    for operation in metas(0..messages) {
        spool.apply(vec![operation], SyncMode::Unsynced).await.unwrap();
    }
    spool.compact(Family::Meta).await.unwrap();
    let table = files(&home.path("one"), "sst").pop().unwrap();
    for operation in datas(0..messages) {
        spool.apply(vec![operation], SyncMode::Unsynced).await.unwrap();
    }
    spool.compact(Family::Data).await.unwrap();
    spool.close().await.unwrap();
    table
}

#[tokio::test]
async fn messages_in_a_damaged_block_are_named_and_a_repair_is_rid_of_the_block() {
    const MESSAGES: u32 = 1_000;
    let home = Home::shared();
    let table = in_tables(&home, MESSAGES).await;
    flip(&table, fs::metadata(&table).unwrap().len() as usize / 2);
    let damaged = fs::read(&table).unwrap();
    let findings = home.check().await;
    let lost = findings.unreadable.count;
    assert!((1..40).contains(&lost), "one block's worth: {findings:?}");
    assert_eq!(findings.whole, u64::from(MESSAGES) - lost);
    assert_eq!((findings.ranges.count, findings.orphans.count), (1, 0), "{:?}", findings.ranges);
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(findings.ranges.first[0].contains(name), "{:?}", findings.ranges);
    assert!(findings.unreadable.first.iter().all(|flaw| flaw.family == Family::Meta));
    assert_eq!(findings.outcome(), Outcome::Damaged);

    let repaired = home.repair().await;
    assert_eq!((repaired.outcome(), repaired.left()), (Outcome::Mended, 0), "{repaired:?}");
    let repair = repaired.repair.unwrap();
    assert_eq!((repair.messages_removed, repair.records_exported), (lost, lost));
    assert_eq!(repair.records_rewritten, 2 * (u64::from(MESSAGES) - lost));
    let exported = |id: &SpoolId| repair.quarantine.join(format!("{id}.data"));
    let bodies: Vec<PathBuf> = home.exported().into_keys().collect();
    let mut expected: Vec<PathBuf> = ids(&findings.unreadable).iter().map(exported).collect();
    expected.sort();
    assert_eq!(bodies, expected);
    assert_eq!(repair.kept, [home.path("one/damaged-1")]);
    assert_eq!(fs::read(repair.kept[0].join(name)).unwrap(), damaged, "it isn't lost");
    let again = home.check().await;
    assert_eq!((again.whole, again.outcome()), (findings.whole, Outcome::Whole), "{again:?}");
    compacts_well(&home).await;
}

/// RocksDB meets no damage any more.
async fn compacts_well(home: &Home) {
    let spool = home.serve();
    for family in FAMILIES {
        spool.compact(family).await.unwrap();
    }
    spool.close().await.unwrap();
}

/// As `in_tables`, in two databases.
#[tokio::test]
async fn of_two_databases_only_the_damaged_one_is_rewritten() {
    const MESSAGES: u32 = 1_000;
    let home = Home::new((SpoolKind::RocksDB, "a"), (SpoolKind::RocksDB, "b"));
    let home = home.filled([datas(0..MESSAGES), metas(0..MESSAGES)].concat()).await;
    compacts_well(&home).await;
    let table = files(&home.path("a"), "sst").pop().unwrap();
    flip(&table, fs::metadata(&table).unwrap().len() as usize / 2);
    let meta_tables = || files(&home.path("b"), "sst");
    let before = meta_tables();
    let findings = home.check().await;
    let lost = findings.unreadable.count;
    assert!(lost > 0);
    let repaired = home.repair().await;
    assert_eq!((repaired.outcome(), repaired.left()), (Outcome::Mended, 0), "{repaired:?}");
    let repair = repaired.repair.unwrap();
    assert_eq!(repair.rewritten, [Family::Data].into());
    assert_eq!(repair.records_rewritten, u64::from(MESSAGES) - lost);
    assert!(before.iter().all(|table| meta_tables().contains(table)));
    assert!(home.exported().into_keys().all(|path| path.extension().unwrap() == "meta"));
    let again = home.check().await;
    assert_eq!((again.whole, again.outcome()), (findings.whole, Outcome::Whole), "{again:?}");
    compacts_well(&home).await;
}

/// All of a new database is linked but its CURRENT. `flushed`: as a repair does it; an error of the disk may leave it otherwise.
#[tokio::test]
async fn an_installation_that_was_cut_short_is_taken_back() {
    const MESSAGES: u32 = 500;
    for flushed in [true, false] {
        let home = Home::shared();
        in_tables(&home, MESSAGES).await;
        let spool = OfflineSpool::open_to_repair(&home.folders()).unwrap();
        let (store, _) = spool.stores()[0];
        // In the old log, with a number of its own.
        let delete = |family| SpoolOperation::Delete { family, key: key(0) };
        store.apply(FAMILIES.map(delete).to_vec(), SyncMode::Synced).await.unwrap();
        let new = store.begin_anew().await.unwrap().unwrap();
        new.apply([datas(1..MESSAGES), metas(1..MESSAGES)].concat(), SyncMode::Synced)
            .await
            .unwrap();
        if flushed {
            for family in FAMILIES {
                new.compact(family).await.unwrap();
            }
        }
        new.close().await.unwrap();
        spool.close().await.unwrap();
        for (path, _) in contents(&home.path("one/mending-unfinished")) {
            let name = path.file_name().unwrap();
            let there = home.path("one").join(name);
            let is_part = |end: &str| name.to_string_lossy().ends_with(end);
            let begins = ["MANIFEST-", "OPTIONS-"];
            let begins = begins.iter().any(|begin| name.to_string_lossy().starts_with(begin));
            if begins || is_part(".sst") || is_part(".log") {
                fs::hard_link(&path, there).unwrap();
            }
        }
        if flushed {
            assert_eq!(home.check().await.whole, u64::from(MESSAGES) - 1);
        }
        let repaired = home.repair().await;
        assert_eq!((repaired.whole, repaired.outcome()), (u64::from(MESSAGES) - 1, Outcome::Whole));
        let again = home.check().await;
        assert_eq!((again.whole, again.outcome()), (u64::from(MESSAGES) - 1, Outcome::Whole));
        compacts_well(&home).await;
    }
}

#[tokio::test]
async fn what_a_probe_has_left_is_no_message() {
    for home in Home::of_every_kind() {
        let probe = |family| put(family, SpoolId::PROBE, Bytes::from_static(b"probe"));
        let home =
            home.filled([datas(0..3), metas(0..3), FAMILIES.map(probe).to_vec()].concat()).await;
        let findings = home.check().await;
        assert_eq!((findings.whole, findings.outcome()), (3, Outcome::Whole), "{findings:?}");
    }
}

/// From one life to the next, until a repair has taken the damage out.
#[tokio::test]
async fn damage_is_remembered_until_it_is_repaired() {
    let home = Home::shared();
    let table = in_tables(&home, 1_000).await;
    flip(&table, fs::metadata(&table).unwrap().len() as usize / 2);
    let is_off = |spool: &RealSpool| spool.properties(Family::Meta).automatic_compaction_off;
    let spool = home.serve();
    assert!(!is_off(&spool));
    let mut from = None;
    while let Some(next) = spool.scan(Family::Meta, from, 100, false).await.unwrap().next {
        from = Some(next);
    }
    assert!(is_off(&spool));
    let refused = spool.compact(Family::Meta).await.unwrap_err();
    assert!(refused.text.contains("kumod spool check --repair"), "{refused}");
    spool.close().await.unwrap();
    let spool = home.serve();
    assert!(is_off(&spool), "in the next life");
    spool.close().await.unwrap();
    assert_eq!(home.repair().await.outcome(), Outcome::Mended);
    let spool = home.serve();
    assert!(!is_off(&spool));
    spool.close().await.unwrap();
    compacts_well(&home).await;
}

#[tokio::test]
async fn a_rewriting_that_was_cut_short_has_changed_nothing() {
    const MESSAGES: u32 = 1_000;
    let home = Home::shared();
    let table = in_tables(&home, MESSAGES).await;
    flip(&table, fs::metadata(&table).unwrap().len() as usize / 2);
    let findings = home.check().await;
    // The new database, with nothing in it yet.
    let spool = OfflineSpool::open_to_repair(&home.folders()).unwrap();
    let begun = spool.spool.stores().0.begin_anew().await.unwrap().unwrap();
    begun.close().await.unwrap();
    spool.close().await.unwrap();
    assert!(home.path("one/mending-unfinished/CURRENT").exists());
    assert_eq!(home.check().await, findings);
    assert_eq!(home.repair().await.outcome(), Outcome::Mended);
    assert!(!home.path("one/mending-unfinished").exists());
    assert_eq!(home.check().await.whole, findings.whole);
}

#[tokio::test]
async fn messages_in_a_missing_table_are_named_and_a_repair_exports_their_bodies() {
    const MESSAGES: u32 = 300;
    let home = Home::shared();
    let table = in_tables(&home, MESSAGES).await;
    // One that can be mended beside those that can't.
    let bad = put(Family::Data, key(900), flipped(&encode_data(&message(900))));
    let home = home.filled([metas(900..901), vec![bad]].concat()).await;
    fs::remove_file(&table).unwrap();
    let findings = home.check().await;
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(findings.table_damage.iter().any(|line| line.contains(name)), "{findings:?}");
    assert_eq!(findings.unreadable.count, u64::from(MESSAGES));
    assert_eq!((findings.whole, findings.orphans.count), (0, 0));
    assert_eq!(ids(&findings.damaged), [key(900)]);

    let repaired = home.repair().await;
    assert_eq!((repaired.outcome(), repaired.left()), (Outcome::Mended, 0), "{repaired:?}");
    assert_eq!(home.exported().len(), MESSAGES as usize + 2);
    let again = home.check().await;
    assert_eq!((again.messages(), again.outcome()), (0, Outcome::Whole), "{again:?}");
}

/// As a power cut leaves it: all in the log, and not yet in a table.
async fn logged(messages: u32) -> (TempDir, PathBuf) {
    let home = Home::shared();
    let spool = home.serve();
    for number in 0..messages {
        let both = [datas(number..number + 1), metas(number..number + 1)].concat();
        spool.apply(both, SyncMode::Synced).await.unwrap();
    }
    let copy = crash_copy(&home.path("one"));
    spool.close().await.unwrap();
    let log = files(copy.path(), "log").pop().unwrap();
    (copy, log)
}

#[tokio::test]
async fn what_is_in_the_log_alone_is_read_and_a_torn_tail_is_no_damage() {
    let (copy, log) = logged(100).await;
    let folders = [copy.path().to_owned()];
    let findings = check(&folders).await;
    assert_eq!((findings.whole, findings.notes.len()), (100, 0), "{findings:?}");
    let octets = fs::read(&log).unwrap();
    fs::write(&log, &octets[..octets.len() - 10]).unwrap();
    let findings = check(&folders).await;
    assert_eq!((findings.whole, findings.outcome()), (99, Outcome::Whole));
    assert!(findings.notes[0].contains("torn by a crash"), "{findings:?}");
    assert_eq!(repair(&folders).await.outcome(), Outcome::Whole);
    let findings = check(&folders).await;
    assert_eq!((findings.whole, findings.notes.len()), (99, 0), "{findings:?}");
}

#[tokio::test]
async fn a_damaged_log_is_reported_by_a_check_and_copied_aside_only_by_a_repair() {
    let (copy, log) = logged(100).await;
    flip(&log, fs::metadata(&log).unwrap().len() as usize / 2);
    let spoiled = fs::read(&log).unwrap();
    let folders = [copy.path().to_owned()];
    let findings = check(&folders).await;
    assert_eq!(findings.log_damage.len(), 1, "{findings:?}");
    let name = log.file_name().unwrap().to_str().unwrap();
    assert!(findings.log_damage[0].contains(name), "{findings:?}");
    assert!((60..100).contains(&findings.whole), "{findings:?}");
    assert_eq!(findings.outcome(), Outcome::Damaged);

    let repaired = repair(&folders).await;
    assert_eq!((repaired.outcome(), repaired.whole), (Outcome::Mended, findings.whole));
    let aside = copy.path().join("damaged-1");
    assert_eq!(fs::read(aside.join(name)).unwrap(), spoiled);
    let again = check(&folders).await;
    assert_eq!((again.outcome(), again.whole), (Outcome::Whole, findings.whole));
    assert!(again.notes[0].contains("damaged-*"), "{again:?}");
}

#[tokio::test]
async fn damage_of_an_older_log_is_reported() {
    let home = Home::shared();
    let mut data = definition("data", &home.path("one"), SpoolKind::RocksDB);
    data.rocks_params.write_buffer_size = Some(64 * 1024);
    let meta = definition("meta", &home.path("one"), SpoolKind::RocksDB);
    let spool = RealSpool::open(&data, &meta).unwrap();
    // Meta is never flushed and so needs every log; data's flushes make a new one each.
    for number in 0..500 {
        let both = [datas(number..number + 1), metas(number..number + 1)].concat();
        spool.apply(both, SyncMode::Synced).await.unwrap();
    }
    let copy = crash_copy(&home.path("one"));
    spool.close().await.unwrap();
    let logs = files(copy.path(), "log");
    assert!(logs.len() > 2, "{logs:?}");
    let folders = [copy.path().to_owned()];
    let findings = check(&folders).await;
    assert_eq!((findings.whole, findings.outcome()), (500, Outcome::Whole));

    let log = fs::read(&logs[1]).unwrap();
    flip(&logs[1], log.len() / 2);
    let flipped = check(&folders).await;
    fs::write(&logs[1], &log[..log.len() / 2 + 100]).unwrap();
    let cut = check(&folders).await;
    fs::write(&logs[1], "").unwrap();
    let emptied = check(&folders).await;
    fs::remove_file(&logs[1]).unwrap();
    let missing = check(&folders).await;
    for (findings, sign) in [
        (&flipped, "octets"),
        (&cut, "Size mismatch: WAL"),
        (&emptied, "Size mismatch: WAL"),
        (&missing, "Missing WAL"),
    ] {
        assert!(findings.log_damage[0].contains(sign), "{findings:?}");
        assert_eq!(findings.outcome(), Outcome::Damaged);
        assert!((1..500).contains(&findings.whole), "{findings:?}");
    }
    let repaired = repair(&folders).await;
    assert_eq!((repaired.outcome(), repaired.whole), (Outcome::Mended, missing.whole));
    assert_eq!(check(&folders).await.outcome(), Outcome::Whole);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named_and_what_is_unfinished_is_left_to_kumod() {
    let home = Home::new((SpoolKind::LocalDisk, "one"), (SpoolKind::LocalDisk, "one"));
    let home = home.filled([datas(0..3), metas(0..3)].concat()).await;
    let root = home.path("one");
    let digits = key(1).to_string();
    let parts = [&digits[..2], &digits[2..4], &digits[4..6], &digits[6..8], &digits[8..]];
    let body = parts.iter().fold(root.join("data/data"), |path, part| path.join(part));
    fs::remove_file(&body).unwrap();
    fs::create_dir(&body).unwrap();
    fs::write(root.join("meta/new/half"), "x").unwrap();
    fs::create_dir_all(root.join("meta/data/00/11")).unwrap();
    fs::write(root.join("data/data/letter"), "x").unwrap();
    let findings = home.check().await;
    let note = format!("{}: not a file of the spool", root.join("data/data/letter").display());
    assert_eq!(findings.notes, [note]);
    assert_eq!((findings.whole, ids(&findings.unreadable)), (2, vec![key(1)]), "{findings:?}");
    assert!(findings.unreadable.first[0].why.contains(body.to_str().unwrap()));
    assert_eq!((findings.ranges.count, findings.without_data.count), (0, 0));
    assert_eq!(home.repair().await.outcome(), Outcome::Damaged);
    assert!(!root.join("meta/new/half").exists());
}

#[tokio::test]
async fn a_folder_that_is_no_spool_is_refused_and_left_as_it_is() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("folder");
    let text = refusal(std::slice::from_ref(&path));
    assert!(text.contains("looking for a spool there: No such file"), "{text}");
    assert!(!path.exists());
    fs::create_dir_all(path.join("data")).unwrap();
    fs::create_dir_all(path.join("meta")).unwrap();
    fs::write(path.join("data/letter"), "x").unwrap();
    let before = contents(&path);
    for folders in [vec![path.clone()], vec![path.join("data"), path.join("meta")]] {
        let text = refusal(&folders);
        assert!(text.contains("isn't a spool of kumod's"), "{text}");
    }
    assert!(contents(&path) == before);
}

#[tokio::test]
async fn a_spool_that_somebody_has_open_is_refused() {
    for home in Home::of_every_kind() {
        let spool = home.serve();
        let text = refusal(&home.folders());
        let expected = format!("Owned by pid {}.", std::process::id());
        assert!(
            text.starts_with("unable to lock pid file ") && text.ends_with(&expected),
            "{text}"
        );
        spool.close().await.unwrap();
        let spool = OfflineSpool::open_to_check(&home.folders()).unwrap();
        let data = definition("data", &home.path(home.data.1), home.data.0);
        let meta = definition("meta", &home.path(home.meta.1), home.meta.0);
        assert!(RealSpool::open(&data, &meta).is_err(), "kumod doesn't start meanwhile");
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn half_a_spool_and_halves_of_two_are_refused() {
    use SpoolKind::{LocalDisk, RocksDB};
    for kind in [RocksDB, LocalDisk] {
        let one = Home::new((kind, "a"), (kind, "b"));
        let one = one.filled([datas(0..1), metas(0..1)].concat()).await;
        let other = Home::new((kind, "a"), (kind, "b"));
        let other = other.filled([datas(0..1), metas(0..1)].concat()).await;
        for half in one.folders() {
            let text = refusal(&[half]);
            assert!(text.contains("name the folder of the other half as well"), "{text}");
        }
        let text = refusal(&[one.path("a"), other.path("a")]);
        assert!(text.contains("hold data: name the two folders of one spool"), "{text}");
        let text = refusal(&[one.path("b"), other.path("a")]);
        assert!(text.contains("aren't the two halves of one spool"), "{text}");
    }
    let shared = Home::shared().filled(Vec::new()).await;
    let pair = Home::new((RocksDB, "a"), (RocksDB, "b")).filled(Vec::new()).await;
    let text = refusal(&[shared.path("one"), pair.path("a")]);
    assert!(text.contains("holds data and meta: name it alone"), "{text}");
}

#[tokio::test]
async fn a_rocksdb_whose_beginning_is_lost_is_not_taken_for_an_empty_one() {
    let home = Home::shared().filled([datas(0..1), metas(0..1)].concat()).await;
    fs::remove_file(home.path("one/CURRENT")).unwrap();
    let before = contents(&home.path("one"));
    let text = refusal(&home.folders());
    assert!(text.contains("without its file CURRENT"), "{text}");
    assert!(contents(&home.path("one")) == before);
    fs::write(home.path("one/CURRENT"), "MANIFEST-999999\n").unwrap();
    let findings = check(&home.folders()).await;
    assert!(findings.log_damage[0].contains("MANIFEST-999999"), "{findings:?}");
    assert_eq!((findings.whole, findings.outcome()), (1, Outcome::Damaged));
}

#[tokio::test]
async fn a_damaged_manifest_is_reported_by_a_check_that_changes_nothing_and_made_anew_by_a_repair()
{
    use SpoolKind::RocksDB;
    for home in [Home::shared(), Home::new((RocksDB, "a"), (RocksDB, "b"))] {
        let home = home.filled([datas(0..50), metas(0..50)].concat()).await;
        let folder = home.folders().pop().expect("a spool has a folder");
        let manifest = fs::read_to_string(folder.join("CURRENT")).unwrap();
        let manifest = folder.join(manifest.trim());
        // The length of its first record: the rest looks like one that a crash has cut short.
        flip(&manifest, 5);
        let before = contents(&folder);
        let findings = check(&home.folders()).await;
        assert!(contents(&folder) == before, "a check changes nothing");
        assert_eq!(findings.log_damage.len(), 1, "{findings:?}");
        assert!(findings.log_damage[0].contains(manifest.to_str().unwrap()), "{findings:?}");
        assert_eq!((findings.whole, findings.outcome()), (50, Outcome::Damaged), "{findings:?}");

        let repaired = home.repair().await;
        assert_eq!((repaired.whole, repaired.outcome()), (50, Outcome::Mended), "{repaired:?}");
        assert!(folder.join("damaged-1").join(manifest.file_name().unwrap()).exists());
        let again = check(&home.folders()).await;
        assert_eq!((again.whole, again.outcome()), (50, Outcome::Whole), "{again:?}");
    }
}

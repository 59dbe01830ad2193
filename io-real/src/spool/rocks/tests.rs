//! Damage done to the files of a real RocksDB, and what is served and said afterwards.
use crate::spool::RealSpool;
use crate::spool::tests::{crash_copy, definition, files, flip, key, value};
use kumo_core::config::service::{RocksParams, SpoolKind};
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, Spool, SpoolError, SpoolErrorKind, SpoolOperation, SyncMode};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SMALL_BUFFER: u64 = 64 * 1024;

fn open_with(path: &Path, params: RocksParams) -> Result<RealSpool, SpoolError> {
    let mut data = definition("data", path, SpoolKind::RocksDB);
    data.rocks_params = params;
    RealSpool::open(&data, &definition("meta", path, SpoolKind::RocksDB))
}

fn open(path: &Path) -> RealSpool {
    open_with(path, RocksParams::default()).unwrap()
}

fn put(family: Family, number: u32, octets: usize) -> SpoolOperation {
    SpoolOperation::Put { family, key: key(number), value: value(number, octets) }
}

/// What it says was damaged when it was opened.
fn lines(spool: &RealSpool) -> Vec<String> {
    spool.damage_at_open().into_iter().map(|(_, line)| line).collect()
}

/// As long as the store asks for patience, which is its committer's to have.
async fn apply_patiently(spool: &RealSpool, operation: SpoolOperation) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match spool.apply(vec![operation.clone()], SyncMode::Unsynced).await {
            Err(error) if error.kind == SpoolErrorKind::Busy && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            result => return result.unwrap(),
        }
    }
}

async fn fill(spool: &RealSpool, family: Family, numbers: std::ops::Range<u32>, octets: usize) {
    for number in numbers {
        apply_patiently(spool, put(family, number, octets)).await;
    }
    spool.sync(family).await.unwrap();
}

struct Served {
    ids: BTreeSet<SpoolId>,
    damaged: Vec<String>,
    pages: usize,
}

async fn serve(spool: &RealSpool, family: Family, limit: usize) -> Served {
    let mut served = Served { ids: BTreeSet::new(), damaged: Vec::new(), pages: 0 };
    let mut from = None;
    loop {
        let page = spool.scan(family, from, limit, false).await.unwrap();
        served.pages += 1;
        served.damaged.extend(page.damaged.into_iter().map(|damage| damage.text));
        assert!(page.entries.len() <= limit);
        for (id, content) in page.entries {
            assert!(served.ids.last().is_none_or(|last| *last < id), "in order, none twice");
            let number = u32::from_be_bytes(id.0[12..].try_into().unwrap());
            assert_eq!(content, value(number, content.len()));
            served.ids.insert(id);
        }
        match page.next {
            None => return served,
            Some(next) => from = Some(next),
        }
    }
}

/// Keys of both families below, meta's in one table file, which is returned.
async fn meta_in_a_table(path: &Path, messages: u32) -> PathBuf {
    let spool = open(path);
    fill(&spool, Family::Meta, 0..messages, 300).await;
    spool.compact(Family::Meta).await.unwrap();
    let tables = files(path, "sst");
    assert_eq!(tables.len(), 1);
    fill(&spool, Family::Data, 0..messages, 1_000).await;
    spool.compact(Family::Data).await.unwrap();
    spool.close().await.unwrap();
    tables.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_scan_serves_what_lies_outside_a_damaged_block_and_names_what_lay_in_it() {
    const MESSAGES: u32 = 3_000;
    let directory = TempDir::new().unwrap();
    let table = meta_in_a_table(directory.path(), MESSAGES).await;
    flip(&table, fs::metadata(&table).unwrap().len() as usize / 2);
    for limit in [1, 100, usize::MAX] {
        let spool = open(directory.path());
        let served = serve(&spool, Family::Meta, limit).await;
        let lost: Vec<SpoolId> =
            (0..MESSAGES).map(key).filter(|id| !served.ids.contains(id)).collect();
        assert!((1..40).contains(&lost.len()), "one block's worth is lost: {}", lost.len());
        for id in &lost {
            let error = spool.get(Family::Meta, *id).await.unwrap_err();
            assert_eq!(error.kind, SpoolErrorKind::Corruption, "{error}");
            let named = served.damaged.iter().any(|line| line.contains(&id.to_string()));
            assert!(named, "{id} isn't named in {:?}", served.damaged);
        }
        let file = table.file_name().unwrap().to_str().unwrap();
        assert!(served.damaged[0].contains(file), "the file is named: {}", served.damaged[0]);
        assert_eq!(serve(&spool, Family::Data, limit).await.ids.len(), MESSAGES as usize);
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn ids_that_no_other_family_knows_are_lost_as_a_range_and_nothing_else_is() {
    const MESSAGES: u32 = 3_000;
    let directory = TempDir::new().unwrap();
    let spool = open(directory.path());
    fill(&spool, Family::Meta, 0..MESSAGES, 300).await;
    spool.compact(Family::Meta).await.unwrap();
    spool.close().await.unwrap();
    let table = &files(directory.path(), "sst")[0];
    let octets = fs::metadata(table).unwrap().len() as usize;
    for at in [octets / 3, octets / 3 + 20_000, octets / 4 * 3] {
        flip(table, at);
    }
    let spool = open(directory.path());
    let served = serve(&spool, Family::Meta, 500).await;
    assert_eq!(served.damaged.len(), 3, "{:?}", served.damaged);
    let mut all: Vec<SpoolId> = (0..MESSAGES).map(key).collect();
    all.sort();
    let lost: Vec<usize> = (0..all.len()).filter(|n| !served.ids.contains(&all[*n])).collect();
    let runs = lost.windows(2).filter(|pair| pair[1] != pair[0] + 1).count() + 1;
    assert_eq!(runs, 3, "each damaged block is a run of its own: {lost:?}");
    assert!(lost.len() < 120, "{}", lost.len());
}

#[tokio::test]
async fn a_missing_table_is_reported_at_open_and_the_rest_is_served() {
    const MESSAGES: u32 = 500;
    let directory = TempDir::new().unwrap();
    let table = meta_in_a_table(directory.path(), MESSAGES).await;
    fs::remove_file(&table).unwrap();
    let spool = open(directory.path());
    let damage = lines(&spool);
    let file = table.file_name().unwrap().to_str().unwrap();
    assert!(damage.iter().any(|line| line.contains(file)), "{damage:?}");
    assert!(spool.may_lack_records());
    assert_eq!(serve(&spool, Family::Data, 100).await.ids.len(), MESSAGES as usize);
    let served = serve(&spool, Family::Meta, 100).await;
    assert!(served.ids.is_empty());
    for id in (0..MESSAGES).map(key) {
        assert!(served.damaged.iter().any(|line| line.contains(&id.to_string())), "{id}");
    }
    // An iterator can't step over a whole file, but data knows the ids of what meta has elsewhere.
    let batch = vec![put(Family::Data, 9_999, 10), put(Family::Meta, 9_999, 10)];
    spool.apply(batch, SyncMode::Synced).await.unwrap();
    assert_eq!(serve(&spool, Family::Meta, 100).await.ids, BTreeSet::from([key(9_999)]));
}

#[tokio::test]
async fn a_damaged_footer_is_reported_at_open_and_the_rest_is_served() {
    const MESSAGES: u32 = 500;
    let directory = TempDir::new().unwrap();
    let table = meta_in_a_table(directory.path(), MESSAGES).await;
    flip(&table, fs::metadata(&table).unwrap().len() as usize - 3);
    let spool = open(directory.path());
    assert!(!spool.damage_at_open().is_empty());
    assert_eq!(serve(&spool, Family::Data, 100).await.ids.len(), MESSAGES as usize);
}

#[tokio::test]
async fn a_torn_or_garbage_tail_of_the_log_costs_nothing_that_was_synced() {
    const MESSAGES: u32 = 100;
    let directory = TempDir::new().unwrap();
    let spool = open(directory.path());
    fill(&spool, Family::Meta, 0..MESSAGES, 1_000).await;
    let synced = fs::read(files(directory.path(), "log").last().unwrap()).unwrap();
    let tails = [
        ("sound", synced.clone(), 0),
        ("garbage", [&synced[..], &[0xee; 10_000]].concat(), 0),
        ("zeros", [&synced[..], &[0; 10_000]].concat(), 0),
        ("cut", synced[..synced.len() - 10].to_vec(), 1),
    ];
    for (tail, log, lost) in tails {
        let copy = crash_copy(directory.path());
        fs::write(files(copy.path(), "log").last().unwrap(), log).unwrap();
        let spool = open(copy.path());
        assert_eq!(spool.damage_at_open(), [], "{tail}");
        assert!(!spool.may_lack_records(), "{tail}");
        let served = serve(&spool, Family::Meta, 1_000).await;
        assert_eq!(served.ids.len() as u32, MESSAGES - lost, "{tail}");
        assert!(!copy.path().join("damaged-1").exists());
        spool.close().await.unwrap();
        assert_eq!(open(copy.path()).damage_at_open(), [], "{tail}, again");
    }
}

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_copied_aside_reported_and_passed_over() {
    const MESSAGES: u32 = 200;
    for paranoid_checks in [None, Some(false)] {
        let directory = TempDir::new().unwrap();
        let spool = open(directory.path());
        fill(&spool, Family::Meta, 0..MESSAGES, 1_000).await;
        let copy = crash_copy(directory.path());
        let log = files(copy.path(), "log").pop().unwrap();
        flip(&log, fs::metadata(&log).unwrap().len() as usize / 2);
        let spoiled = fs::read(&log).unwrap();

        let params = RocksParams { paranoid_checks, ..RocksParams::default() };
        let spool = open_with(copy.path(), params).unwrap();
        let aside = copy.path().canonicalize().unwrap().join("damaged-1");
        assert_eq!(fs::read(aside.join(log.file_name().unwrap())).unwrap(), spoiled);
        let damage = lines(&spool);
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert!(damage[0].contains(aside.to_str().unwrap()), "{damage:?}");
        assert!(damage[0].contains(log.file_name().unwrap().to_str().unwrap()), "{damage:?}");

        assert!(spool.may_lack_records());
        let served = serve(&spool, Family::Meta, 1_000).await;
        let lost: Vec<u32> = (0..MESSAGES).filter(|n| !served.ids.contains(&key(*n))).collect();
        assert!((1..=34).contains(&lost.len()), "32 KiB of the log: {lost:?}");
        assert!(served.ids.contains(&key(0)) && served.ids.contains(&key(MESSAGES - 1)));
        spool.close().await.unwrap();
        let spool = open(copy.path());
        assert_eq!(spool.damage_at_open(), [], "it is reported once");
        assert!(spool.may_lack_records(), "what was lost then is lost still");
        assert_eq!(serve(&spool, Family::Meta, 1_000).await.ids, served.ids);
        spool.close().await.unwrap();
        fs::remove_dir_all(&aside).unwrap();
        assert!(!open(copy.path()).may_lack_records(), "an operator has seen to it");
    }
}

#[tokio::test]
async fn a_missing_or_emptied_log_is_reported() {
    let directory = TempDir::new().unwrap();
    let params = RocksParams { write_buffer_size: Some(SMALL_BUFFER), ..RocksParams::default() };
    let spool = open_with(directory.path(), params.clone()).unwrap();
    // Meta is never flushed and so needs every log; data's flushes make a new one each.
    for number in 0..300 {
        let batch = vec![put(Family::Data, number, 2_000), put(Family::Meta, number, 100)];
        spool.apply(batch, SyncMode::Synced).await.unwrap();
    }
    for sign in ["Missing WAL", "Size mismatch: WAL"] {
        let copy = crash_copy(directory.path());
        let logs = files(copy.path(), "log");
        assert!(logs.len() > 2, "{logs:?}");
        match sign {
            "Missing WAL" => fs::remove_file(&logs[1]).unwrap(),
            _ => fs::write(&logs[1], "").unwrap(),
        }
        let spool = open_with(copy.path(), params.clone()).unwrap();
        let damage = lines(&spool);
        assert!(damage.iter().any(|line| line.contains(sign)), "{damage:?}");
        let served = serve(&spool, Family::Meta, 1_000).await;
        assert!(served.ids.contains(&key(0)) && served.ids.contains(&key(299)));
        assert!(served.ids.len() < 300);
    }
}

/// Messages 0..600 of both families in many tables and the logs, of which 0..50 have been removed again; as a power cut
/// leaves it.
async fn many_tables() -> TempDir {
    let directory = TempDir::new().unwrap();
    let params = RocksParams { write_buffer_size: Some(SMALL_BUFFER), ..RocksParams::default() };
    for life in 0..2 {
        let spool = open_with(directory.path(), params.clone()).unwrap();
        fill(&spool, Family::Data, life * 300..(life + 1) * 300, 2_000).await;
        fill(&spool, Family::Meta, life * 300..life * 300 + 250, 300).await;
        // Waits for all that goes on in the background.
        spool.compact(Family::Meta).await.unwrap();
        fill(&spool, Family::Meta, life * 300 + 250..(life + 1) * 300, 300).await;
        if life == 0 {
            spool.close().await.unwrap();
            continue;
        }
        let delete = |family, number| SpoolOperation::Delete { family, key: key(number) };
        for number in 0..50 {
            let batch = vec![delete(Family::Data, number), delete(Family::Meta, number)];
            spool.apply(batch, SyncMode::Synced).await.unwrap();
        }
        let copy = crash_copy(directory.path());
        spool.close().await.unwrap();
        return copy;
    }
    unreachable!("the second life returns")
}

fn manifest(path: &Path) -> PathBuf {
    path.join(fs::read_to_string(path.join("CURRENT")).unwrap().trim())
}

/// Where the records of a log of less than a block lie.
fn records(log: &Path) -> Vec<std::ops::Range<usize>> {
    let octets = fs::read(log).unwrap();
    assert!(octets.len() < 32 * 1024);
    let mut records = Vec::new();
    let mut start = 0;
    while start < octets.len() {
        let length = u16::from_le_bytes([octets[start + 4], octets[start + 5]]);
        let end = start + 7 + usize::from(length);
        records.push(start..end);
        start = end;
    }
    records
}

fn table_names(path: &Path) -> BTreeSet<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    files(path, "sst").into_iter().map(name).collect()
}

/// Serves all of [`many_tables`] and says so, if it says so at all, only once; no table is gone.
async fn serves_all_of_many_tables(path: &Path, damage: &str, is_reported: bool) {
    let before = table_names(path);
    let all: BTreeSet<SpoolId> = (50..600).map(key).collect();
    let mut again = false;
    for _ in 0..2 {
        let spool = open(path);
        assert_eq!(
            !lines(&spool).is_empty(),
            is_reported && !again,
            "{damage}: {:?}",
            lines(&spool)
        );
        assert_eq!(spool.may_lack_records(), is_reported || again, "{damage}");
        for family in [Family::Data, Family::Meta] {
            let served = serve(&spool, family, 1_000).await;
            assert!(served.ids == all, "{damage}: {family:?}: {} are served", served.ids.len());
            assert_eq!(served.damaged, Vec::<String>::new(), "{damage}");
        }
        let (kept, now) = (table_names(&path.join("damaged-1")), table_names(path));
        assert!(before.iter().all(|name| kept.contains(name) || now.contains(name)), "{damage}");
        assert!(kept.is_superset(&before), "{damage}: all are kept");
        if !again {
            let batch = vec![put(Family::Data, 9_999, 10), put(Family::Meta, 9_999, 10)];
            spool.apply(batch, SyncMode::Synced).await.unwrap();
            let delete = |family| SpoolOperation::Delete { family, key: key(9_999) };
            let batch = vec![delete(Family::Data), delete(Family::Meta)];
            spool.apply(batch, SyncMode::Synced).await.unwrap();
        }
        spool.close().await.unwrap();
        again = true;
    }
    assert!(!path.join("damaged-2").exists() && !path.join("mending-unfinished").exists());
}

#[tokio::test]
async fn an_octet_flipped_anywhere_in_the_manifest_is_reported_and_costs_nothing() {
    let original = many_tables().await;
    let records = records(&manifest(original.path()));
    assert!(records.len() > 5, "{records:?}");
    for record in [&records[0], &records[records.len() / 2], &records[records.len() - 1]] {
        // Checksum, length, type, content.
        for at in [0, 4, 5, 6, 8] {
            let copy = crash_copy(original.path());
            let at = record.start + at;
            flip(&manifest(copy.path()), at);
            serves_all_of_many_tables(copy.path(), &format!("{at} in {record:?}"), true).await;
        }
    }
}

#[tokio::test]
async fn a_manifest_that_was_cut_inside_a_record_costs_nothing() {
    let original = many_tables().await;
    let records = records(&manifest(original.path()));
    for number in [0, 1, records.len() / 2, records.len() - 1] {
        for octets in [3, 10] {
            let copy = crash_copy(original.path());
            let path = manifest(copy.path());
            let octets = records[number].start + octets;
            fs::write(&path, &fs::read(&path).unwrap()[..octets]).unwrap();
            // With nothing before it, it isn't what a crash leaves.
            let damage = format!("cut to {octets}");
            serves_all_of_many_tables(copy.path(), &damage, number == 0).await;
        }
    }
}

/// The MANIFEST is sound then; RocksDB misses logs, and removes the tables that it doesn't know any more.
#[tokio::test]
async fn a_manifest_that_was_cut_between_records_is_owned_up_to_and_every_table_is_kept() {
    let original = many_tables().await;
    let before = table_names(original.path());
    let records = records(&manifest(original.path()));
    let all: BTreeSet<SpoolId> = (50..600).map(key).collect();
    let numbers = (1..records.len()).step_by(4).chain([records.len() - 1]);
    for record in numbers.map(|number| &records[number]) {
        let copy = crash_copy(original.path());
        let path = manifest(copy.path());
        fs::write(&path, &fs::read(&path).unwrap()[..record.start]).unwrap();
        let spool = open(copy.path());
        let mut is_whole = true;
        for family in [Family::Data, Family::Meta] {
            is_whole &= serve(&spool, family, 1_000).await.ids == all;
        }
        assert!(is_whole || !lines(&spool).is_empty(), "cut at {}", record.start);
        let (kept, now) = (table_names(&copy.path().join("damaged-1")), table_names(copy.path()));
        assert!(before.iter().all(|name| kept.contains(name) || now.contains(name)));
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_database_without_its_manifest_or_current_serves_what_is_there() {
    let original = many_tables().await;
    let write = |content: &'static str| move |path: PathBuf| fs::write(path, content).unwrap();
    let remove = |path: PathBuf| fs::remove_file(path).unwrap();
    type Damage<'a> = &'a dyn Fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("MANIFEST emptied", &|path| write("")(manifest(path))),
        ("MANIFEST deleted", &|path| remove(manifest(path))),
        ("CURRENT emptied", &|path| write("")(path.join("CURRENT"))),
        ("CURRENT deleted", &|path| remove(path.join("CURRENT"))),
        ("CURRENT cut", &|path| write("MANIFEST-0000")(path.join("CURRENT"))),
        ("CURRENT wrong", &|path| write("MANIFEST-999999\n")(path.join("CURRENT"))),
    ];
    for (name, damage) in damages {
        let copy = crash_copy(original.path());
        damage(copy.path());
        serves_all_of_many_tables(copy.path(), name, true).await;
    }
}

#[tokio::test]
async fn without_a_manifest_logs_alone_are_enough_in_one_database_and_in_two() {
    let home = TempDir::new().unwrap();
    for (data, meta) in [("one", "one"), ("data", "meta")] {
        let definitions = ["data", "meta"].map(|name| {
            let folder = home.path().join(if name == "data" { data } else { meta });
            definition(name, &folder, SpoolKind::RocksDB)
        });
        let open = || RealSpool::open(&definitions[0], &definitions[1]).unwrap();
        let spool = open();
        fill(&spool, Family::Data, 0..100, 1_000).await;
        fill(&spool, Family::Meta, 0..100, 100).await;
        spool.close().await.unwrap();
        for folder in BTreeSet::from([data, meta]) {
            let path = home.path().join(folder);
            assert_eq!(table_names(&path), BTreeSet::new());
            flip(&manifest(&path), 8);
        }
        let spool = open();
        assert!(!spool.damage_at_open().is_empty());
        for family in [Family::Data, Family::Meta] {
            assert_eq!(serve(&spool, family, 1_000).await.ids.len(), 100, "{family:?} in {data}");
        }
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_table_that_is_damaged_as_well_is_named_and_kept() {
    let copy = many_tables().await;
    let table = files(copy.path(), "sst").pop().unwrap();
    flip(&table, fs::metadata(&table).unwrap().len() as usize / 2);
    flip(&manifest(copy.path()), 8);
    let name = table.file_name().unwrap().to_str().unwrap();
    let spool = open(copy.path());
    let damage = lines(&spool);
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert!(damage[0].contains("MANIFEST") && damage[1].contains(name), "{damage:?}");
    assert!(copy.path().join("damaged-1").join(name).exists());
    assert!(serve(&spool, Family::Data, 1_000).await.ids.len() > 300);
}

#[tokio::test]
async fn mending_that_was_cut_short_is_done_anew() {
    let copy = many_tables().await;
    flip(&manifest(copy.path()), 8);
    for folder in ["mending-unfinished", "damaged-unfinished"] {
        fs::create_dir(copy.path().join(folder)).unwrap();
        fs::write(copy.path().join(folder).join("000001.sst"), "nonsense").unwrap();
    }
    serves_all_of_many_tables(copy.path(), "begun before", true).await;
}

#[tokio::test]
async fn opening_again_after_damage_was_seen_reports_it() {
    let directory = TempDir::new().unwrap();
    let table = meta_in_a_table(directory.path(), 200).await;
    let spool = open(directory.path());
    assert_eq!(spool.damage_at_open(), []);
    fs::remove_file(&table).unwrap();
    spool.reopen(Family::Meta).await.unwrap();
    assert_eq!(spool.damage_at_open().len(), 1);
    assert_eq!(serve(&spool, Family::Data, 100).await.ids.len(), 200);
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_again_says_why_and_can_be_tried_again() {
    let directory = TempDir::new().unwrap();
    let spool = open(directory.path());
    fill(&spool, Family::Meta, 0..10, 100).await;
    let current = directory.path().join("CURRENT");
    let content = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    fs::create_dir(&current).unwrap();
    let error = spool.reopen(Family::Meta).await.unwrap_err();
    assert!(error.text.contains(directory.path().to_str().unwrap()), "{error}");
    assert_eq!(spool.get(Family::Meta, key(1)).await, Err(error));
    fs::remove_dir(&current).unwrap();
    fs::write(&current, content).unwrap();
    spool.reopen(Family::Meta).await.unwrap();
    assert_eq!(serve(&spool, Family::Meta, 100).await.ids.len(), 10);
}

#[tokio::test]
async fn writes_that_outrun_flushing_are_turned_away_and_succeed_later() {
    let directory = TempDir::new().unwrap();
    let params = RocksParams { write_buffer_size: Some(SMALL_BUFFER), ..RocksParams::default() };
    let spool = open_with(directory.path(), params).unwrap();
    for number in 0..300 {
        apply_patiently(&spool, put(Family::Data, number, 60_000)).await;
    }
    assert_eq!(serve(&spool, Family::Data, 1_000).await.ids.len(), 300);
}

#[tokio::test]
async fn reads_and_writes_wait_while_the_store_is_opened_again() {
    let directory = TempDir::new().unwrap();
    let spool = open(directory.path());
    fill(&spool, Family::Meta, 0..100, 100).await;
    for round in 0..10 {
        let (reopened, got, scanned, applied) = tokio::join!(
            spool.reopen(Family::Meta),
            spool.get(Family::Meta, key(round)),
            spool.scan(Family::Meta, None, 10, true),
            spool.apply(vec![put(Family::Data, round, 10)], SyncMode::Synced),
        );
        reopened.unwrap();
        assert_eq!(got, Ok(Some(value(round, 100))));
        assert_eq!(scanned.unwrap().entries.len(), 10);
        applied.unwrap();
    }
    assert_eq!(serve(&spool, Family::Data, 100).await.ids.len(), 10);
}

#[tokio::test]
async fn properties_tell_of_what_is_in_memory() {
    let directory = TempDir::new().unwrap();
    let spool = open(directory.path());
    fill(&spool, Family::Data, 0..100, 10_000).await;
    let properties = spool.properties(Family::Data);
    assert!(properties.mem_table_total >= 1_000_000, "{properties:?}");
    assert!(properties.mem_table_unflushed >= 1_000_000, "{properties:?}");
    assert!(spool.properties(Family::Meta).mem_table_total < 1_000_000);
    spool.compact(Family::Data).await.unwrap();
    assert!(spool.properties(Family::Data).mem_table_unflushed < 1_000_000);
}

/// What RocksDB itself wrote down: `[DBOptions]` and the part of `family`.
fn options_file(path: &Path, family: &str) -> String {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let is_options =
        |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("OPTIONS-");
    let newest = names.filter(is_options).max().expect("an OPTIONS file");
    let text = fs::read_to_string(newest).unwrap();
    let part = |name: &str| {
        let (_, rest) = text.split_once(&format!("[{name}]")).expect(name);
        rest.split("\n[").next().unwrap_or_default().to_owned()
    };
    part("DBOptions") + &part(&format!("CFOptions \"{family}\""))
}

#[tokio::test]
async fn every_parameter_stands_in_the_options_file() {
    const MIB: u64 = 1024 * 1024;
    let opened = async |params: RocksParams| {
        let directory = TempDir::new().unwrap();
        open_with(directory.path(), params).unwrap().close().await.unwrap();
        options_file(directory.path(), "data")
    };
    let level = RocksParams {
        increase_parallelism: Some(7),
        optimize_level_style_compaction: Some(512 * MIB),
        paranoid_checks: Some(false),
        compression_type: Some("Zstd".into()),
        compaction_readahead_size: Some(3 * MIB),
        level_compaction_dynamic_level_bytes: Some(false),
        max_open_files: Some(77),
        write_buffer_size: Some(5 * MIB),
        level0_stop_writes_trigger: Some(99),
        log_level: Some("Error".into()),
        memtable_huge_page_size: Some(2 * MIB),
        log_file_time_to_roll: Some(Duration::from_secs(4321)),
        obsolete_files_period: Some(Duration::from_secs(4322)),
        ..RocksParams::default()
    };
    let universal = RocksParams {
        optimize_universal_style_compaction: Some(512 * MIB),
        ..RocksParams::default()
    };
    let default = opened(RocksParams::default()).await;
    let (level, universal) = (opened(level).await, opened(universal).await);
    for (file, line) in [
        (&level, "max_background_jobs=7"),
        (&level, "max_bytes_for_level_base=536870912"),
        (&level, "paranoid_checks=false"),
        (&level, "compression=kZSTD"),
        (&level, "compaction_readahead_size=3145728"),
        (&level, "level_compaction_dynamic_level_bytes=false"),
        (&level, "max_open_files=77"),
        (&level, "write_buffer_size=5242880"),
        (&level, "level0_stop_writes_trigger=99"),
        (&level, "info_log_level=ERROR_LEVEL"),
        (&level, "memtable_huge_page_size=2097152"),
        (&level, "log_file_time_to_roll=4321"),
        (&level, "delete_obsolete_files_period_micros=4322000000"),
        (&universal, "compaction_style=kCompactionStyleUniversal"),
    ] {
        let holds = |file: &str| file.lines().any(|found| found.trim() == line);
        assert!(holds(file), "{line} isn't in {file}");
        assert!(!holds(&default), "{line} is the default");
    }
}

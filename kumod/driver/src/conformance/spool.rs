//! The `Spool` port's suite. It holds for atomic and for staged stores; what differs is asked of the store itself.
use bytes::Bytes;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, ScanPage, Spool, SpoolErrorKind, SpoolOperation, SyncMode};

const FAMILIES: [Family; 2] = [Family::Data, Family::Meta];
const LARGE_VALUE_OCTETS: usize = 9 * 1024 * 1024 + 1;
const DROPPED_FUTURES: u8 = 32;
const DROPPED_BATCH: u8 = 10;

/// Runs the whole suite. `make` gives a new, empty store each time.
pub async fn spool<S: Spool>(make: impl AsyncFn() -> S) {
    what_is_put_is_got_until_it_is_deleted(&make().await).await;
    the_last_operation_of_a_batch_on_a_key_counts(&make().await).await;
    families_know_nothing_of_each_other(&make().await).await;
    a_scan_pages_through_all_keys_in_order(&make().await).await;
    a_scan_goes_on_where_keys_were_removed(&make().await).await;
    a_batch_over_both_families_arrives_whole(&make().await).await;
    values_of_any_size_come_back(&make().await).await;
    reopening_keeps_what_was_applied(&make().await).await;
    compaction_changes_nothing_that_is_stored(&make().await).await;
    a_dropped_apply_happened_or_did_not(&make().await).await;
    properties_and_free_space_can_be_asked_for(&make().await).await;
    a_closed_store_says_so(&make().await).await;
}

/// Not in order of `number`, as ids of messages aren't in the order of their creation.
fn key(number: u8) -> SpoolId {
    let mut id = [0; 16];
    id[0] = number.reverse_bits();
    id[3] = number;
    id[15] = number;
    SpoolId(id)
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(family: Family, number: u8, text: &str) -> SpoolOperation {
    SpoolOperation::Put { family, key: key(number), value: value(text) }
}

fn delete(family: Family, number: u8) -> SpoolOperation {
    SpoolOperation::Delete { family, key: key(number) }
}

async fn apply(spool: &impl Spool, batch: Vec<SpoolOperation>, sync: SyncMode) {
    spool.apply(batch, sync).await.expect("a healthy store applies a batch");
}

async fn get(spool: &impl Spool, family: Family, number: u8) -> Option<Bytes> {
    spool.get(family, key(number)).await.expect("a healthy store answers")
}

/// Every page of a scan, joined.
async fn scan_all(
    spool: &impl Spool,
    family: Family,
    limit: usize,
    keys_only: bool,
) -> Vec<(SpoolId, Bytes)> {
    let mut entries = Vec::new();
    let mut from = None;
    loop {
        let page = spool.scan(family, from, limit, keys_only).await.expect("a healthy store scans");
        assert!(page.entries.len() <= limit, "{} entries, limit {limit}", page.entries.len());
        assert_eq!(page.damaged, []);
        entries.extend(page.entries);
        match page.next {
            None => return entries,
            Some(next) => {
                assert!(from.is_none_or(|from| next > from), "a scan goes forward");
                assert!(entries.last().is_none_or(|(last, _)| next > *last), "nothing twice");
                from = Some(next);
            }
        }
    }
}

async fn keys(spool: &impl Spool, family: Family) -> Vec<SpoolId> {
    scan_all(spool, family, 100, true).await.into_iter().map(|(key, _)| key).collect()
}

async fn what_is_put_is_got_until_it_is_deleted(spool: &impl Spool) {
    for (sync, number) in [(SyncMode::Synced, 1), (SyncMode::Unsynced, 2)] {
        for family in FAMILIES {
            assert_eq!(get(spool, family, number).await, None);
            apply(spool, vec![put(family, number, "first")], sync).await;
            assert_eq!(get(spool, family, number).await, Some(value("first")));
            apply(spool, vec![put(family, number, "second")], sync).await;
            assert_eq!(get(spool, family, number).await, Some(value("second")));
            apply(spool, vec![delete(family, number)], sync).await;
            assert_eq!(get(spool, family, number).await, None);
            apply(spool, vec![delete(family, number)], sync).await;
            assert_eq!(keys(spool, family).await, []);
        }
    }
    apply(spool, Vec::new(), SyncMode::Synced).await;
    apply(spool, Vec::new(), SyncMode::Unsynced).await;
    for family in FAMILIES {
        spool.sync(family).await.expect("a healthy store syncs");
    }
}

async fn the_last_operation_of_a_batch_on_a_key_counts(spool: &impl Spool) {
    for family in FAMILIES {
        let batch = vec![
            put(family, 1, "a"),
            put(family, 1, "b"),
            put(family, 2, "gone"),
            delete(family, 2),
            delete(family, 3),
            put(family, 3, "back"),
            delete(family, 4),
        ];
        apply(spool, batch, SyncMode::Synced).await;
        assert_eq!(get(spool, family, 1).await, Some(value("b")));
        assert_eq!(get(spool, family, 2).await, None);
        assert_eq!(get(spool, family, 3).await, Some(value("back")));
        assert_eq!(keys(spool, family).await.len(), 2);
    }
}

async fn families_know_nothing_of_each_other(spool: &impl Spool) {
    let batch = vec![put(Family::Data, 1, "body"), put(Family::Meta, 1, "envelope")];
    apply(spool, batch, SyncMode::Synced).await;
    assert_eq!(get(spool, Family::Data, 1).await, Some(value("body")));
    assert_eq!(get(spool, Family::Meta, 1).await, Some(value("envelope")));
    apply(spool, vec![delete(Family::Meta, 1)], SyncMode::Unsynced).await;
    assert_eq!(get(spool, Family::Data, 1).await, Some(value("body")));
    assert_eq!(keys(spool, Family::Meta).await, []);
    assert_eq!(keys(spool, Family::Data).await, [key(1)]);
}

async fn a_scan_pages_through_all_keys_in_order(spool: &impl Spool) {
    for family in FAMILIES {
        assert_eq!(spool.scan(family, None, 10, false).await, Ok(ScanPage::default()));
        let batch = (0..100).map(|n| put(family, n, &format!("value {n}"))).collect();
        apply(spool, batch, SyncMode::Synced).await;
        let mut expected: Vec<(SpoolId, Bytes)> =
            (0..100).map(|n| (key(n), value(&format!("value {n}")))).collect();
        expected.sort();
        for limit in [1, 7, 99, 100, 101, usize::MAX] {
            assert_eq!(scan_all(spool, family, limit, false).await, expected, "limit {limit}");
        }
        let bare = expected.iter().map(|(key, _)| (*key, Bytes::new())).collect::<Vec<_>>();
        assert_eq!(scan_all(spool, family, 7, true).await, bare);
    }
}

async fn a_scan_goes_on_where_keys_were_removed(spool: &impl Spool) {
    let family = Family::Meta;
    apply(spool, (0..20).map(|n| put(family, n, "x")).collect(), SyncMode::Synced).await;
    let all = keys(spool, family).await;
    let page = spool.scan(family, Some(all[5]), 5, true).await.expect("a healthy store scans");
    assert_eq!(page.entries[0].0, all[5], "from is inclusive");
    let next = page.next.expect("there is more");
    assert_eq!(next, all[10]);
    let batch = vec![SpoolOperation::Delete { family, key: next }];
    apply(spool, batch, SyncMode::Unsynced).await;
    let page = spool.scan(family, Some(next), 5, true).await.expect("a healthy store scans");
    assert_eq!(page.entries[0].0, all[11]);
    let behind = SpoolId([0xff; 16]);
    assert_eq!(spool.scan(family, Some(behind), 5, true).await, Ok(ScanPage::default()));
}

async fn a_batch_over_both_families_arrives_whole(spool: &impl Spool) {
    let mut batch = Vec::new();
    for number in 0..50 {
        batch.extend(FAMILIES.map(|family| put(family, number, "x")));
    }
    apply(spool, batch, SyncMode::Synced).await;
    let batch = vec![
        delete(Family::Data, 1),
        delete(Family::Meta, 1),
        delete(Family::Data, 2),
        put(Family::Data, 2, "again"),
        put(Family::Meta, 2, "again"),
    ];
    apply(spool, batch, SyncMode::Synced).await;
    assert_eq!(keys(spool, Family::Data).await, keys(spool, Family::Meta).await);
    for family in FAMILIES {
        assert_eq!(get(spool, family, 1).await, None);
        assert_eq!(get(spool, family, 2).await, Some(value("again")));
        assert_eq!(keys(spool, family).await.len(), 49);
    }
}

async fn values_of_any_size_come_back(spool: &impl Spool) {
    let pattern = |size: usize| -> Bytes { (0..size).map(|n| (n * 31 + n / 251) as u8).collect() };
    let sizes = [0, 1, 4_095, 4_096, 70_000, LARGE_VALUE_OCTETS];
    for family in FAMILIES {
        for (number, size) in sizes.into_iter().enumerate() {
            let key = key(number as u8);
            let batch = vec![SpoolOperation::Put { family, key, value: pattern(size) }];
            apply(spool, batch, SyncMode::Synced).await;
            // Not compared with assert_eq: nobody wants to read nine million octets.
            let got = get(spool, family, number as u8).await;
            assert!(got == Some(pattern(size)), "a value of {size} octets comes back");
        }
        let total: usize =
            scan_all(spool, family, 100, false).await.iter().map(|e| e.1.len()).sum();
        assert_eq!(total, sizes.iter().sum::<usize>());
    }
}

async fn reopening_keeps_what_was_applied(spool: &impl Spool) {
    apply(spool, vec![put(Family::Data, 1, "a")], SyncMode::Synced).await;
    apply(spool, vec![put(Family::Meta, 1, "b")], SyncMode::Synced).await;
    apply(spool, vec![delete(Family::Data, 1)], SyncMode::Unsynced).await;
    for _ in 0..3 {
        for family in FAMILIES {
            spool.reopen(family).await.expect("a healthy store opens again");
        }
        assert!(!spool.may_lack_records(), "a healthy store has all that was put");
        assert_eq!(get(spool, Family::Data, 1).await, None, "nothing was lost but the handles");
        assert_eq!(get(spool, Family::Meta, 1).await, Some(value("b")));
        apply(spool, vec![put(Family::Meta, 2, "c")], SyncMode::Synced).await;
    }
    assert_eq!(keys(spool, Family::Meta).await.len(), 2);
}

async fn compaction_changes_nothing_that_is_stored(spool: &impl Spool) {
    for family in FAMILIES {
        apply(spool, (0..50).map(|n| put(family, n, "x")).collect(), SyncMode::Synced).await;
        apply(spool, (0..25).map(|n| delete(family, n)).collect(), SyncMode::Synced).await;
        let before = scan_all(spool, family, 10, false).await;
        spool.compact(family).await.expect("a healthy store compacts");
        assert_eq!(scan_all(spool, family, 10, false).await, before);
        assert_eq!(before.len(), 25);
    }
}

async fn poll_once(future: impl Future) {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _ = future.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
}

async fn a_dropped_apply_happened_or_did_not(spool: &impl Spool) {
    for round in 0..DROPPED_FUTURES {
        let sync = if round % 2 == 0 { SyncMode::Synced } else { SyncMode::Unsynced };
        let families: &[Family] = match spool.is_atomic_across_families() {
            true => &FAMILIES,
            false => &FAMILIES[round as usize % 2..][..1],
        };
        let mut batch = Vec::new();
        for family in families {
            batch.extend((0..DROPPED_BATCH).map(|n| put(*family, n, &format!("round {round}"))));
        }
        poll_once(spool.apply(batch, sync)).await;
        if round % 3 == 0 {
            // The next write waits for the one that nobody waits for, and that isn't half done by then.
            let batch = FAMILIES.map(|family| put(family, 200, "marker")).to_vec();
            apply(spool, batch, SyncMode::Synced).await;
            for family in families {
                let mut texts = Vec::new();
                for number in 0..DROPPED_BATCH {
                    texts.push(get(spool, *family, number).await);
                }
                texts.dedup();
                assert_eq!(texts.len(), 1, "a batch arrives whole or not at all: {texts:?}");
            }
        }
    }
    for family in FAMILIES {
        spool.sync(family).await.expect("a healthy store syncs");
    }
}

async fn properties_and_free_space_can_be_asked_for(spool: &impl Spool) {
    for family in FAMILIES {
        apply(spool, vec![put(family, 1, "x")], SyncMode::Synced).await;
        assert_eq!(spool.properties(family).background_errors, 0);
        assert!(!spool.properties(family).write_stopped);
        let space = spool.free_space(family).await.expect("a healthy store knows its space");
        assert!(space.octets > 0 && space.octets <= space.octets_total, "{space:?}");
        assert!(space.inodes <= space.inodes_total, "{space:?}");
    }
}

async fn a_closed_store_says_so(spool: &impl Spool) {
    let family = Family::Meta;
    apply(spool, vec![put(family, 1, "x")], SyncMode::Unsynced).await;
    spool.close().await.expect("a healthy store closes");
    let results = [
        ("apply", spool.apply(vec![put(family, 2, "x")], SyncMode::Synced).await),
        ("sync", spool.sync(family).await),
        ("get", spool.get(family, key(1)).await.map(|_| ())),
        ("scan", spool.scan(family, None, 1, true).await.map(|_| ())),
        ("compact", spool.compact(family).await),
        ("reopen", spool.reopen(family).await),
        ("close", spool.close().await),
    ];
    for (call, result) in results {
        let error = result.expect_err(call);
        assert_eq!(error.kind, SpoolErrorKind::Closed, "{call}: {error}");
    }
    assert_eq!(spool.properties(family), Default::default());
}

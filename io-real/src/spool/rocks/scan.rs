//! One page of a scan that gets past damage. A RocksDB iterator stops at a damaged block as if it were the end, so
//! its status is asked for each time; then the first key behind the damage is searched for by seeking.
//! Invariant: a page holds every key between its beginning and its `next` but those in the gap it names.
use crate::spool::store::{Gap, ScanRequest, Scanned};
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::limits;
use kumo_core::port::{Damage, ScanPage};
use rocksdb::{ColumnFamily, DB, DBRawIterator, Error, ErrorKind, ReadOptions};

/// Steps of the search double up to here, then grow by an eighth: keys begin with the fast-moving part of a time, so
/// that no damaged block is smaller, and a readable stretch between two damaged ones should not be stepped over.
const DOUBLING_END: u128 = 1 << 88;

/// A page ends early at the first gap.
pub(super) fn page(
    database: &DB,
    family: &ColumnFamily,
    request: ScanRequest,
) -> Result<Scanned, Error> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut iterator = database.raw_iterator_cf_opt(family, options);
    let from = request.from.map_or(0, number);
    iterator.seek(from.to_be_bytes());
    let mut page = ScanPage::default();
    let mut octets = 0;
    while let Some((key, value)) = iterator.item() {
        let Some(id) = spool_id(key) else {
            let text = format!("a key of {} octets, which isn't ours", key.len());
            page.damaged.push(Damage::somewhere(request.family, text));
            iterator.next();
            continue;
        };
        if page.entries.len() >= request.limit.max(1) || octets >= limits::SCAN_PAGE_OCTETS {
            page.next = Some(id);
            return Ok(Scanned { page, gap: None });
        }
        let value = if request.keys_only { Bytes::new() } else { Bytes::copy_from_slice(value) };
        octets += value.len();
        page.entries.push((id, value));
        iterator.next();
    }
    let Err(error) = iterator.status() else { return Ok(Scanned { page, gap: None }) };
    if !is_damage(&error) {
        return Err(error);
    }
    let first = match page.entries.last() {
        None => from,
        Some((last, _)) => match number(*last).checked_add(1) {
            None => return Ok(Scanned { page, gap: None }),
            Some(first) => first,
        },
    };
    let end = behind_damage(&mut iterator, first)?;
    let gap = Gap { first: id(first), end: end.map(id) };
    page.next = gap.end;
    page.damaged.push(Damage::somewhere(request.family, describe_gap(gap, &error)));
    Ok(Scanned { page, gap: Some(gap) })
}

fn describe_gap(gap: Gap, error: &Error) -> String {
    let end = gap.end.map_or("the end".into(), |end| format!("before {end}"));
    format!("the keys from {} to {end} can't be read in order: {error}", gap.first)
}

/// The first key after `bad` from which one can go on; `None` if nothing can be read up to the end.
fn behind_damage(iterator: &mut DBRawIterator<'_>, bad: u128) -> Result<Option<u128>, Error> {
    let (mut bad, mut good) = match gallop(iterator, bad)? {
        None => return Ok(None),
        Some(found) => found,
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        match is_readable(iterator, middle)? {
            true => good = middle,
            false => bad = middle,
        }
    }
    Ok(Some(good))
}

/// The last unreadable position that was tried, and a readable one after it.
fn gallop(iterator: &mut DBRawIterator<'_>, start: u128) -> Result<Option<(u128, u128)>, Error> {
    let mut bad = start;
    let mut step: u128 = 1;
    while bad < u128::MAX {
        let next = start.saturating_add(step);
        if is_readable(iterator, next)? {
            return Ok(Some((bad, next)));
        }
        bad = next;
        let growth = if step < DOUBLING_END { step } else { step / 8 };
        step = step.saturating_add(growth);
    }
    Ok(None)
}

fn is_readable(iterator: &mut DBRawIterator<'_>, from: u128) -> Result<bool, Error> {
    iterator.seek(from.to_be_bytes());
    match iterator.status() {
        Ok(()) => Ok(true),
        Err(error) if is_damage(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What this process lacks for the moment is no damage.
fn is_damage(error: &Error) -> bool {
    let text: &str = error.as_ref();
    let lacking = ["Too many open files", "Cannot allocate memory"];
    match error.kind() {
        ErrorKind::Corruption => true,
        ErrorKind::IOError => !lacking.iter().any(|lack| text.contains(lack)),
        _ => false,
    }
}

fn number(id: SpoolId) -> u128 {
    u128::from_be_bytes(id.0)
}

fn id(number: u128) -> SpoolId {
    SpoolId(number.to_be_bytes())
}

fn spool_id(key: &[u8]) -> Option<SpoolId> {
    key.try_into().ok().map(SpoolId)
}

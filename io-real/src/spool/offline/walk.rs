//! A walk over both families at once, in the order of the ids, and what each message turns out to be.
//! Invariants: each id that either family knows is met once, with both halves; a half counts as absent only if the
//! store says so when asked for it. No more is kept in memory than a page of each family.
use super::findings::{Findings, Flaw};
use crate::spool::is_damage;
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, SpoolError};
use kumo_core::record::{decode_data, decode_meta};
use std::vec::IntoIter;

/// What the walk needs of a spool.
pub(super) trait Records {
    async fn page(&self, family: Family, from: Option<SpoolId>) -> Result<Page, SpoolError>;
    async fn get(&self, family: Family, id: SpoolId) -> Result<Option<Bytes>, SpoolError>;
}

/// Entries in key order, without the value where it has to be asked for.
#[derive(Default)]
pub(super) struct Page {
    pub entries: Vec<(SpoolId, Option<Bytes>)>,
    pub next: Option<SpoolId>,
    /// What had to be jumped over.
    pub unreadable: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Half {
    Here(Bytes),
    Absent,
    /// Why.
    Unreadable(String),
}

/// All that is stored of one id.
pub(super) struct Halves {
    pub id: SpoolId,
    pub data: Half,
    pub meta: Half,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole {
        octets: u64,
    },
    /// Data alone.
    Orphan,
    /// Meta alone.
    WithoutData,
    /// At least one record that is damaged or can't be read.
    Flawed {
        damaged: Vec<Flaw>,
        unreadable: Vec<Flaw>,
    },
}

impl Halves {
    pub fn each(&self) -> [(Family, &Half); 2] {
        [(Family::Data, &self.data), (Family::Meta, &self.meta)]
    }

    pub fn is_unreadable(&self) -> bool {
        self.each().iter().any(|(_, half)| matches!(half, Half::Unreadable(_)))
    }

    pub fn judge(&self) -> Verdict {
        let mut octets = 0;
        let (mut damaged, mut unreadable) = (Vec::new(), Vec::new());
        for (family, half) in self.each() {
            let flaw = |why| Flaw { id: self.id, family, why };
            match half {
                Half::Absent => {}
                Half::Unreadable(why) => unreadable.push(flaw(why.clone())),
                Half::Here(record) => match self.decode(family, record) {
                    Ok(body) => octets += body,
                    Err(why) => damaged.push(flaw(why)),
                },
            }
        }
        match (&self.data, &self.meta) {
            _ if !damaged.is_empty() || !unreadable.is_empty() => {
                Verdict::Flawed { damaged, unreadable }
            }
            (_, Half::Absent) => Verdict::Orphan,
            (Half::Absent, _) => Verdict::WithoutData,
            _ => Verdict::Whole { octets },
        }
    }

    /// Octets of the body, if the record holds one.
    fn decode(&self, family: Family, record: &Bytes) -> Result<u64, String> {
        let octets = match family {
            Family::Data => decode_data(self.id, record).map(|body| body.len() as u64),
            Family::Meta => decode_meta(self.id, record).map(|_| 0),
        };
        octets.map_err(|error| error.to_string())
    }
}

pub(super) struct Walk<'a, R> {
    records: &'a R,
    data: Cursor,
    meta: Cursor,
}

impl<'a, R: Records> Walk<'a, R> {
    pub fn new(records: &'a R) -> Walk<'a, R> {
        Walk { records, data: Cursor::new(Family::Data), meta: Cursor::new(Family::Meta) }
    }

    /// The next id, `None` at the end. What had to be jumped over goes into the findings.
    pub async fn next(&mut self, findings: &mut Findings) -> Result<Option<Halves>, SpoolError> {
        let data = self.data.peek(self.records, findings).await?;
        let meta = self.meta.peek(self.records, findings).await?;
        let Some(id) = [data, meta].into_iter().flatten().min() else { return Ok(None) };
        // The last of all ids, and no message's: what a probe left that was cut short.
        if id == SpoolId::PROBE {
            return Ok(None);
        }
        let data = self.data.take(self.records, id).await?;
        let meta = self.meta.take(self.records, id).await?;
        Ok(Some(Halves { id, data, meta }))
    }
}

/// Where the walk is in one family.
struct Cursor {
    family: Family,
    entries: IntoIter<(SpoolId, Option<Bytes>)>,
    /// Where the next page begins; `None` after the last.
    next: Option<Option<SpoolId>>,
}

impl Cursor {
    fn new(family: Family) -> Cursor {
        Cursor { family, entries: IntoIter::default(), next: Some(None) }
    }

    async fn peek(
        &mut self,
        records: &impl Records,
        findings: &mut Findings,
    ) -> Result<Option<SpoolId>, SpoolError> {
        while self.entries.as_slice().is_empty() {
            let Some(from) = self.next else { return Ok(None) };
            let page = records.page(self.family, from).await?;
            for line in page.unreadable {
                findings.unreadable_range(self.family, &line);
            }
            self.entries = page.entries.into_iter();
            self.next = page.next.map(Some);
        }
        Ok(self.entries.as_slice().first().map(|(id, _)| *id))
    }

    /// `id` is the least that any cursor stands at. What isn't met in order may still be there: in a gap.
    async fn take(&mut self, records: &impl Records, id: SpoolId) -> Result<Half, SpoolError> {
        if self.entries.as_slice().first().is_some_and(|(found, _)| *found == id)
            && let Some((_, Some(record))) = self.entries.next()
        {
            return Ok(Half::Here(record));
        }
        match records.get(self.family, id).await {
            Ok(Some(record)) => Ok(Half::Here(record)),
            Ok(None) => Ok(Half::Absent),
            Err(error) if is_damage(&error) => Ok(Half::Unreadable(error.text)),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kumo_core::port::SpoolErrorKind;
    use std::collections::{BTreeMap, BTreeSet};

    /// A spool whose records can be out of order's reach, or out of any.
    #[derive(Default)]
    struct Table {
        records: BTreeMap<(Family, SpoolId), Bytes>,
        /// Not met by a scan.
        in_gaps: BTreeSet<(Family, SpoolId)>,
        unreadable: BTreeSet<(Family, SpoolId)>,
        page: usize,
    }

    impl Records for Table {
        async fn page(&self, family: Family, from: Option<SpoolId>) -> Result<Page, SpoolError> {
            let from = from.unwrap_or(SpoolId([0; 16]));
            let mut page = Page::default();
            for (key, record) in self.records.range((family, from)..) {
                if key.0 != family {
                    break;
                }
                if page.entries.len() == self.page {
                    page.next = Some(key.1);
                    break;
                }
                if self.in_gaps.contains(key) {
                    page.next = Some(id(key.1.0[15] + 1));
                    page.unreadable.push("a gap".into());
                    break;
                }
                page.entries.push((key.1, Some(record.clone())));
            }
            Ok(page)
        }

        async fn get(&self, family: Family, id: SpoolId) -> Result<Option<Bytes>, SpoolError> {
            if self.unreadable.contains(&(family, id)) {
                let kind = SpoolErrorKind::Corruption;
                return Err(SpoolError { kind, text: "a bad block".into() });
            }
            Ok(self.records.get(&(family, id)).cloned())
        }
    }

    fn id(number: u8) -> SpoolId {
        let mut id = SpoolId([0; 16]);
        id.0[15] = number;
        id
    }

    /// What is met: id, then `.` for a record, `-` for none, `?` for one that can't be read.
    async fn walked(table: &Table) -> (Vec<String>, u64) {
        let mut findings = Findings::default();
        let mut walk = Walk::new(table);
        let mut met = Vec::new();
        while let Some(halves) = walk.next(&mut findings).await.unwrap() {
            let signs = halves.each().map(|(_, half)| match half {
                Half::Here(_) => '.',
                Half::Absent => '-',
                Half::Unreadable(_) => '?',
            });
            met.push(format!("{}{}{}", halves.id.0[15], signs[0], signs[1]));
        }
        (met, findings.ranges.count)
    }

    #[tokio::test]
    async fn each_id_is_met_once_with_both_halves_whatever_the_pages_and_gaps() {
        for page in 1..5 {
            let mut table = Table { page, ..Table::default() };
            let both = [Family::Data, Family::Meta];
            for (family, number) in both.into_iter().flat_map(|f| (1..9).map(move |n| (f, n))) {
                table.records.insert((family, id(number)), Bytes::new());
            }
            table.records.remove(&(Family::Data, id(1)));
            table.records.remove(&(Family::Meta, id(2)));
            table.records.remove(&(Family::Meta, id(8)));
            for key in [(Family::Meta, id(4)), (Family::Data, id(5)), (Family::Meta, id(6))] {
                table.in_gaps.insert(key);
            }
            table.unreadable.insert((Family::Meta, id(6)));
            let (met, ranges) = walked(&table).await;
            assert_eq!(met, ["1-.", "2.-", "3..", "4..", "5..", "6.?", "7..", "8.-"], "{page}");
            assert_eq!(ranges, 3);
        }
    }

    #[test]
    fn what_cannot_be_read_is_never_called_absent_or_whole() {
        let judged = |data, meta| Halves { id: id(1), data, meta }.judge();
        let unreadable = || Half::Unreadable("a bad block".into());
        for (data, meta) in [(Half::Absent, unreadable()), (unreadable(), Half::Absent)] {
            let verdict = judged(data, meta);
            let Verdict::Flawed { damaged, unreadable } = verdict else { panic!("{verdict:?}") };
            assert_eq!((damaged.len(), unreadable.len()), (0, 1));
        }
        let nonsense = Half::Here(Bytes::from_static(b"x"));
        let verdict = judged(nonsense, unreadable());
        let Verdict::Flawed { damaged, unreadable } = verdict else { panic!("{verdict:?}") };
        assert_eq!((damaged[0].family, unreadable[0].family), (Family::Data, Family::Meta));
    }
}

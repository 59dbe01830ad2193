//! The `Files` port: maildirs and the journal, with the `files.*` faults. Invariant: a delivery is in the ledger exactly if its file is
//! there, before the node hears of it. The journal is kept as it was appended: no crash takes anything from it.
use crate::fault::FaultKind;
use crate::ledger::Event;
use crate::lives::Place;
use crate::universe::Universe;
use crate::waits::WaitKind;
use kumo_core::header;
use kumo_core::port::{Files, FreeSpace, MaildirDelivery};
use kumo_core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::sleep;

/// To write and sync one file.
const DELIVERY: Duration = Duration::from_millis(1);
/// As the ledger names a maildir.
pub const SERVER: &str = "maildir";

/// What lies on the disk besides spool and log, of all lives.
#[derive(Default)]
pub struct FileStore(Mutex<State>);

#[derive(Default)]
struct State {
    delivered: Vec<MaildirDelivery>,
    journal: BTreeMap<u64, Vec<u8>>,
    hash: u64,
}

impl FileStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every maildir delivery so far, in order.
    pub fn delivered<T>(&self, look: impl FnOnce(&[MaildirDelivery]) -> T) -> T {
        look(&self.state().delivered)
    }

    /// Of everything that was ever appended: to which segment, in which pieces, what.
    pub fn journal_hash(&self) -> u64 {
        let hash = self.state().hash;
        hash ^ (hash >> 32)
    }

    /// The segments that are there; from here on there are none.
    pub fn take_journal(&self) -> BTreeMap<u64, Vec<u8>> {
        std::mem::take(&mut self.state().journal)
    }

    /// For runs that are long and read no journal; the hash stays.
    #[cfg(test)]
    pub fn forget_journal(&self) {
        self.state().journal.clear();
    }

    fn append(&self, segment: u64, data: &[u8]) {
        let mut state = self.state();
        state.hash = hashed(state.hash, segment, data);
        state.journal.entry(segment).or_default().extend_from_slice(data);
    }
}

/// Eight octets at a time: a journal is long. Good enough to tell two runs apart, and for nothing else.
fn hashed(hash: u64, segment: u64, data: &[u8]) -> u64 {
    let mix =
        |hash: u64, word: u64| (hash.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut hash = mix(mix(hash, segment), data.len() as u64);
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    rest.iter().fold(hash, |hash, octet| mix(hash, u64::from(*octet)))
}

pub struct SimFiles {
    universe: Arc<Universe>,
    life: u64,
}

impl SimFiles {
    pub fn new(universe: &Arc<Universe>, life: u64) -> SimFiles {
        SimFiles { universe: universe.clone(), life }
    }

    async fn stall(&self, recipient: &str) {
        let faults = &self.universe.faults;
        let Some(strike) = faults.strikes(FaultKind::FilesStall, recipient) else { return };
        match strike.amount {
            Some(amount) => sleep(amount).await,
            None => faults.over(FaultKind::FilesStall, recipient).await,
        }
        self.universe.lives.alive(self.life).await;
    }

    fn sink(&self, delivery: &MaildirDelivery) {
        let mark = header::first(&delivery.content, "X-Sim");
        self.universe.write(Event::Sunk {
            submission: mark.and_then(|mark| mark.parse().ok()),
            recipients: vec![recipient_of(delivery).into()],
            reply_lost: false,
            server: SERVER.into(),
            client: None,
            content: delivery.content.to_vec(),
        });
    }

    async fn journal_stall(&self) {
        let faults = &self.universe.faults;
        self.universe.lives.alive(self.life).await;
        if faults.strikes(FaultKind::JournalStall, "").is_some() {
            faults.over(FaultKind::JournalStall, "").await;
            self.universe.lives.alive(self.life).await;
        }
    }
}

/// Scenarios give each address a directory of its name.
fn recipient_of(delivery: &MaildirDelivery) -> &str {
    let directory = delivery.directory.trim_end_matches('/');
    directory.rsplit_once('/').map_or(directory, |(_, last)| last)
}

impl Files for SimFiles {
    async fn deliver_to_maildir(&self, delivery: MaildirDelivery) -> Result<String, String> {
        let universe = &self.universe;
        universe.lives.alive(self.life).await;
        let _waiting = universe.waits.begin(WaitKind::Maildir, universe.now().mono);
        let recipient = recipient_of(&delivery);
        self.stall(recipient).await;
        sleep(DELIVERY).await;
        universe.lives.alive(self.life).await;
        if universe.faults.strikes(FaultKind::FilesError, recipient).is_some() {
            return Err(format!("no space left for a file in {}", delivery.directory));
        }
        // A file isn't the spool's disk, which alone can be made to fail at a step.
        let _ = universe.lives.step(self.life, Place::Elsewhere).await;
        self.sink(&delivery);
        let name = delivery.name.clone();
        universe.files.state().delivered.push(delivery);
        Ok(name)
    }

    async fn append_to_journal(&self, segment: u64, data: Vec<u8>) -> Result<(), String> {
        self.journal_stall().await;
        if self.universe.faults.strikes(FaultKind::JournalFull, "").is_some() {
            return Err("no space left for the journal".into());
        }
        self.universe.files.append(segment, &data);
        Ok(())
    }

    async fn newest_journal_segment(&self) -> Result<u64, String> {
        self.universe.lives.alive(self.life).await;
        Ok(self.universe.files.state().journal.keys().last().copied().unwrap_or(0))
    }

    /// Nothing of what the simulated node guards besides its spool ever fills up.
    async fn free_space(&self, _: &str) -> Result<FreeSpace, String> {
        self.universe.lives.alive(self.life).await;
        Ok(FreeSpace {
            octets: 1 << 40,
            octets_total: 1 << 40,
            inodes: 1 << 20,
            inodes_total: 1 << 20,
        })
    }

    async fn trim_journal(&self, oldest_kept: u64) -> Result<(), String> {
        self.journal_stall().await;
        let mut state = self.universe.files.state();
        state.journal = state.journal.split_off(&oldest_kept);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Zones;
    use crate::dns::tests::{fault, universe};
    use crate::ledger::Submission;
    use crate::policy::PolicyTable;
    use tokio::time::timeout;

    fn world() -> (Arc<Universe>, SimFiles) {
        let universe = universe(Zones::default(), PolicyTable::default());
        let files = SimFiles::new(&universe, 1);
        (universe, files)
    }

    fn delivery() -> MaildirDelivery {
        MaildirDelivery {
            directory: "/var/mail/joe@a.test".into(),
            name: "1.R0".into(),
            dir_mode: None,
            file_mode: None,
            content: "Return-Path: <>\r\nX-Sim: 3/1\r\n\r\nhello\r\n".into(),
        }
    }

    #[madsim::test]
    async fn a_delivery_is_in_the_ledger_with_its_mark_and_recipient() {
        let (universe, files) = world();
        assert_eq!(files.deliver_to_maildir(delivery()).await, Ok("1.R0".into()));
        let expected = Event::Sunk {
            submission: Some(Submission { message: 3, attempt: 1 }),
            recipients: vec!["joe@a.test".into()],
            reply_lost: false,
            server: "maildir".into(),
            client: None,
            content: delivery().content.to_vec(),
        };
        universe.ledger.read(|entries| {
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].event, expected);
        });
        assert_eq!(universe.files.delivered(<[_]>::len), 1);
    }

    #[madsim::test]
    async fn what_fails_or_stalls_or_dies_leaves_no_file() {
        let (universe, files) = world();
        let id = universe.faults.begin(fault(FaultKind::FilesError, None, Some("joe@a.test")));
        assert!(files.deliver_to_maildir(delivery()).await.unwrap_err().contains("no space left"));
        universe.faults.end(id);
        universe.faults.begin(fault(FaultKind::FilesStall, None, None));
        let mut stalled = Box::pin(files.deliver_to_maildir(delivery()));
        assert!(timeout(Duration::from_secs(60), &mut stalled).await.is_err());
        assert_eq!(universe.waits.standing()[0].0, WaitKind::Maildir);
        universe.lives.end();
        universe.faults.heal();
        assert!(timeout(Duration::from_secs(60), stalled).await.is_err());
        assert!(universe.ledger.is_empty());
        assert_eq!(universe.files.delivered(<[_]>::len), 0);
    }

    #[madsim::test]
    async fn the_journal_keeps_segments_until_they_are_trimmed_and_its_hash_for_ever() {
        let (universe, files) = world();
        assert_eq!(files.newest_journal_segment().await, Ok(0));
        let begun = universe.files.journal_hash();
        for segment in 1..=3 {
            files.append_to_journal(segment, b"0123456789".to_vec()).await.unwrap();
        }
        let written = universe.files.journal_hash();
        assert_ne!(begun, written);
        files.trim_journal(2).await.unwrap();
        assert_eq!(files.newest_journal_segment().await, Ok(3));
        assert_eq!(universe.files.take_journal().into_keys().collect::<Vec<_>>(), [2, 3]);
        universe.files.forget_journal();
        assert_eq!(files.newest_journal_segment().await, Ok(0));
        assert_eq!(universe.files.journal_hash(), written);
    }

    #[madsim::test]
    async fn a_full_journal_refuses_and_a_stalled_one_waits() {
        let (universe, files) = world();
        let id = universe.faults.begin(fault(FaultKind::JournalFull, None, None));
        assert!(files.append_to_journal(1, b"x".to_vec()).await.is_err());
        universe.faults.end(id);
        universe.faults.begin(fault(FaultKind::JournalStall, None, None));
        let mut stalled = Box::pin(files.append_to_journal(1, b"x".to_vec()));
        assert!(timeout(Duration::from_secs(60), &mut stalled).await.is_err());
        universe.faults.heal();
        stalled.await.unwrap();
        assert_eq!(universe.files.take_journal()[&1], b"x");
    }

    #[test]
    fn the_hash_sees_every_octet_and_where_it_went() {
        let base = hashed(0, 1, b"0123456789");
        assert_eq!(base, hashed(0, 1, b"0123456789"));
        for other in [hashed(0, 2, b"0123456789"), hashed(0, 1, b"0123456788")] {
            assert_ne!(base, other);
        }
        assert_ne!(base, hashed(0, 1, b"1123456789"));
        assert_ne!(hashed(0, 1, b"\0"), hashed(0, 1, b"\0\0"));
    }
}

//! A spool of plain files: `new/` for what is being written, `data/aa/bb/cc/dd/<rest>` for what is stored, named
//! by the hexadecimal digits of the id.
//! Invariant: what a file under `data/` holds was durable when it appeared there, and after a synced apply its folders
//! and every earlier change are as well. After a sync of a folder has failed, nothing is called durable any more.
//! A batch isn't atomic. What a value holds is somebody else's business.
use super::directory;
use super::lock::LockFile;
use super::store::{Backend, Found, Purpose, ScanRequest, Scanned, closed, io_error};
use crate::folder;
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::limits;
use kumo_core::port::{
    Damage, Family, ScanPage, SpoolError, SpoolErrorKind, SpoolOperation, SpoolProperties, SyncMode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files that are written before the first of them is synced, so that the disk sees them together.
const WRITTEN_TOGETHER: usize = 64;
/// Empty folders that one page of a scan removes.
const PRUNED_TOGETHER: usize = 1_024;
/// Files of somebody else that are warned of, each once, and named to whoever asks.
const FOREIGN_KEPT: usize = 64;
/// Folders above a file, below `data/`, each named by two digits.
const FOLDER_DEPTH: usize = 4;
const FILE_NAME_DIGITS: usize = 24;

pub(super) struct LocalDisk {
    root: PathBuf,
    read_only: bool,
    closed: AtomicBool,
    /// Paths below `data/` that aren't of the spool, some of them.
    foreign: Mutex<BTreeSet<PathBuf>>,
    writer: Mutex<Writer>,
}

struct Writer {
    lock: Option<LockFile>,
    unsynced: Unsynced,
}

/// Whose entries were changed and aren't durable yet.
#[derive(Default)]
struct Unsynced {
    folders: BTreeSet<PathBuf>,
    /// There was more than fits.
    everything: bool,
    /// How syncing failed, for ever: the kernel drops what it couldn't write, and the next sync would know nothing of it.
    failed: Option<SpoolError>,
}

impl LocalDisk {
    /// `root` has been prepared. Removes the files in `new/`.
    pub fn open(root: &Path) -> Result<LocalDisk, SpoolError> {
        let spool = LocalDisk::new(root, Purpose::Serve)?;
        for folder in ["new", "data"] {
            let path = root.join(folder);
            folder::make_one(&path).map_err(|error| io_error(&path, "making it", &error))?;
        }
        folder::sync(root).map_err(|error| io_error(root, "syncing it", &error))?;
        spool.empty_new().map_err(|error| io_error(&root.join("new"), "emptying it", &error))?;
        Ok(spool)
    }

    /// What is there, with nothing made and nothing removed.
    pub fn open_to_read(root: &Path) -> Result<LocalDisk, SpoolError> {
        LocalDisk::new(root, Purpose::Check)
    }

    fn new(root: &Path, purpose: Purpose) -> Result<LocalDisk, SpoolError> {
        let lock = Some(LockFile::take(root, purpose)?);
        Ok(LocalDisk {
            root: root.to_owned(),
            read_only: purpose == Purpose::Check,
            closed: AtomicBool::new(false),
            foreign: Mutex::default(),
            writer: Mutex::new(Writer { lock, unsynced: Unsynced::default() }),
        })
    }

    fn empty_new(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join("new"))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                tracing::warn!(path = %entry.path().display(), "not a file of the spool: left alone");
                continue;
            }
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    fn check_open(&self) -> Result<(), SpoolError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed(&self.root));
        }
        Ok(())
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, SpoolError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_open()?;
        Ok(writer)
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn path_of(&self, key: SpoolId) -> PathBuf {
        let digits = key.to_string();
        let mut path = self.data();
        for level in 0..FOLDER_DEPTH {
            path.push(&digits[2 * level..2 * level + 2]);
        }
        path.push(&digits[2 * FOLDER_DEPTH..]);
        path
    }

    fn temporary(&self, key: SpoolId) -> PathBuf {
        self.root.join("new").join(key.to_string())
    }

    /// Writes all values to `new/`, synced in any case: they may take the place of durable ones.
    fn stage(&self, puts: &[(SpoolId, &Bytes)]) -> Result<(), SpoolError> {
        for chunk in puts.chunks(WRITTEN_TOGETHER) {
            let mut files = Vec::with_capacity(chunk.len());
            for (key, value) in chunk {
                let path = self.temporary(*key);
                let written = write_file(&path, value);
                files.push((written.map_err(|e| io_error(&path, "writing it", &e))?, path));
            }
            for (file, path) in files {
                file.sync_data().map_err(|error| io_error(&path, "syncing it", &error))?;
            }
        }
        Ok(())
    }

    /// Moves a staged file to its place, making the folders that are missing.
    fn publish(&self, key: SpoolId, unsynced: &mut Unsynced) -> Result<(), SpoolError> {
        let target = self.path_of(key);
        let folder = target.parent().expect("a file of ours lies in a folder").to_owned();
        self.make_folders(&folder, unsynced)
            .and_then(|()| fs::rename(self.temporary(key), &target))
            .map_err(|error| io_error(&target, "moving it into place", &error))?;
        unsynced.folders.insert(folder);
        unsynced.limit();
        Ok(())
    }

    fn make_folders(&self, folder: &Path, unsynced: &mut Unsynced) -> io::Result<()> {
        let data = self.data();
        let ours = folder.ancestors().take_while(|ancestor| *ancestor != data);
        let levels: Vec<&Path> = ours.collect();
        for level in levels.into_iter().rev() {
            if folder::make_one(level)? {
                let parent = level.parent().expect("it lies below data/");
                unsynced.folders.insert(parent.to_owned());
            }
        }
        Ok(())
    }

    fn delete(&self, key: SpoolId, unsynced: &mut Unsynced) -> Result<(), SpoolError> {
        let path = self.path_of(key);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error(&path, "removing it", &error)),
        }
        let folder = path.parent().expect("a file of ours lies in a folder");
        unsynced.folders.insert(folder.to_owned());
        self.prune(folder, unsynced);
        unsynced.limit();
        Ok(())
    }

    /// Removes `folder` and its parents as far as they are empty. One that stays behind does no harm, so errors
    /// aren't looked at.
    fn prune(&self, folder: &Path, unsynced: &mut Unsynced) {
        let data = self.data();
        for folder in folder.ancestors().take_while(|ancestor| *ancestor != data) {
            if fs::remove_dir(folder).is_err() {
                return;
            }
            unsynced.folders.remove(folder);
            unsynced.folders.insert(folder.parent().expect("it lies below data/").to_owned());
        }
    }

    /// Folders are made and removed only under the writer's lock, so that none goes while a file is on its way in.
    fn prune_all(&self, folders: &[PathBuf]) {
        if folders.is_empty() || self.read_only {
            return;
        }
        let Ok(mut writer) = self.writer() else { return };
        for folder in folders {
            self.prune(folder, &mut writer.unsynced);
        }
        writer.unsynced.limit();
    }

    fn remember_foreign(&self, paths: Vec<PathBuf>) {
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            if foreign.len() < FOREIGN_KEPT && foreign.insert(path.clone()) {
                tracing::warn!(path = %path.display(), "not a file of the spool: left alone");
            }
        }
    }

    fn flush(&self, unsynced: &mut Unsynced) -> Result<(), SpoolError> {
        unsynced.check()?;
        let Err((path, error)) = self.sync_folders(unsynced) else {
            *unsynced = Unsynced::default();
            return Ok(());
        };
        let mut described = io_error(path, "syncing it", &error);
        if !is_our_own_trouble(&error) {
            described.text.push_str(
                "; from now on nothing that is written here counts as durable: see to the disk, \
                 then start kumod anew",
            );
            unsynced.failed = Some(described.clone());
        }
        Err(described)
    }

    fn sync_folders<'a>(&'a self, unsynced: &'a Unsynced) -> Result<(), (&'a Path, io::Error)> {
        if unsynced.everything {
            sync_file_system(&self.root).map_err(|error| (&*self.root, error))?;
        }
        for path in &unsynced.folders {
            folder::sync(path).map_err(|error| (&**path, error))?;
        }
        Ok(())
    }

    fn read_values(
        &self,
        family: Family,
        keys: &[SpoolId],
        page: &mut ScanPage,
    ) -> Result<(), SpoolError> {
        let mut octets = 0;
        for key in keys {
            if octets >= limits::SCAN_PAGE_OCTETS {
                page.next = Some(*key);
                return Ok(());
            }
            match read_file(&self.path_of(*key)) {
                Ok(value) => {
                    octets += value.len();
                    page.entries.push((*key, value));
                }
                // Removed since its folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let text = damage(&self.path_of(*key), error)?;
                    page.damaged.push(Damage { family, id: Some(*key), text });
                }
            }
        }
        Ok(())
    }
}

impl Backend for LocalDisk {
    fn apply(&self, batch: &[SpoolOperation], sync: SyncMode) -> Result<(), SpoolError> {
        let mut writer = self.writer()?;
        if self.read_only {
            let text = format!("{} was opened to be read only", self.root.display());
            return Err(SpoolError { kind: SpoolErrorKind::Other, text });
        }
        let mut outcome: BTreeMap<SpoolId, Option<&Bytes>> = BTreeMap::new();
        for operation in batch {
            match operation {
                SpoolOperation::Put { key, value, .. } => outcome.insert(*key, Some(value)),
                SpoolOperation::Delete { key, .. } => outcome.insert(*key, None),
            };
        }
        let puts: Vec<(SpoolId, &Bytes)> =
            outcome.iter().filter_map(|(key, value)| Some((*key, (*value)?))).collect();
        if let Err(error) = self.stage(&puts) {
            for (key, _) in &puts {
                // Best effort; the next open empties `new/` anyway.
                let _ = fs::remove_file(self.temporary(*key));
            }
            return Err(error);
        }
        for (key, value) in &outcome {
            match value {
                Some(_) => self.publish(*key, &mut writer.unsynced)?,
                None => self.delete(*key, &mut writer.unsynced)?,
            }
        }
        match sync {
            SyncMode::Synced => self.flush(&mut writer.unsynced),
            SyncMode::Unsynced => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), SpoolError> {
        let mut writer = self.writer()?;
        self.flush(&mut writer.unsynced)
    }

    /// There is nothing to open; whether the directory works again is what the caller wants to know.
    fn reopen(&self) -> Result<(), SpoolError> {
        self.writer()?.unsynced.check()?;
        directory::probe(&self.root)
    }

    fn close(&self) -> Result<(), SpoolError> {
        let mut writer = self.writer()?;
        let result = self.flush(&mut writer.unsynced);
        self.closed.store(true, Ordering::Release);
        writer.lock = None;
        result
    }

    fn get(&self, _: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        self.check_open()?;
        let path = self.path_of(key);
        match read_file(&path) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path, "reading it", &error)),
        }
    }

    fn scan(&self, request: ScanRequest) -> Result<Scanned, SpoolError> {
        self.check_open()?;
        let limit = request.limit.max(1);
        let mut walk = Walk {
            family: request.family,
            from: request.from.map_or(String::new(), |key| key.to_string()),
            wanted: limit.saturating_add(1),
            keys: Vec::new(),
            empty: Vec::new(),
            damaged: Vec::new(),
            foreign: Vec::new(),
        };
        walk.descend(&self.data(), "")?;
        self.prune_all(&walk.empty);
        self.remember_foreign(walk.foreign);
        let mut page = ScanPage { damaged: walk.damaged, ..ScanPage::default() };
        if walk.keys.len() > limit {
            page.next = walk.keys.pop();
        }
        match request.keys_only {
            true => page.entries.extend(walk.keys.iter().map(|key| (*key, Bytes::new()))),
            false => self.read_values(request.family, &walk.keys, &mut page)?,
        }
        Ok(Scanned { page, gap: None })
    }

    /// Plain files have nothing to compact.
    fn compact(&self, _: Family) -> Result<(), SpoolError> {
        self.check_open()
    }

    fn properties(&self, _: Family) -> SpoolProperties {
        SpoolProperties::default()
    }

    fn found(&self) -> Found {
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let note = |path: &PathBuf| format!("{}: not a file of the spool", path.display());
        Found { notes: foreign.iter().map(note).collect(), ..Found::default() }
    }

    /// Whatever can't be read is met by the scan.
    fn may_lack_records(&self) -> bool {
        false
    }
}

impl Unsynced {
    fn check(&self) -> Result<(), SpoolError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn limit(&mut self) {
        if self.folders.len() > limits::LOCAL_DISK_UNSYNCED {
            self.folders.clear();
            self.everything = true;
        }
    }
}

/// A walk through the folders in the order of their names, which is the order of the keys.
struct Walk {
    family: Family,
    /// Digits of the first key that is wanted.
    from: String,
    wanted: usize,
    keys: Vec<SpoolId>,
    empty: Vec<PathBuf>,
    damaged: Vec<Damage>,
    foreign: Vec<PathBuf>,
}

impl Walk {
    fn descend(&mut self, folder: &Path, prefix: &str) -> Result<(), SpoolError> {
        let names = match list(folder) {
            Ok(names) => names,
            // Pruned since its parent was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                self.damaged.push(Damage::somewhere(self.family, damage(folder, error)?));
                return Ok(());
            }
        };
        if names.is_empty() && !prefix.is_empty() && self.empty.len() < PRUNED_TOGETHER {
            self.empty.push(folder.to_owned());
        }
        for name in names {
            if self.keys.len() >= self.wanted {
                return Ok(());
            }
            self.visit(folder, prefix, &name)?;
        }
        Ok(())
    }

    fn visit(&mut self, folder: &Path, prefix: &str, name: &str) -> Result<(), SpoolError> {
        let digits = format!("{prefix}{name}");
        let is_file = prefix.len() == 2 * FOLDER_DEPTH;
        let expected = if is_file { FILE_NAME_DIGITS } else { 2 };
        let lower = name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if name.len() != expected || !lower {
            if self.foreign.len() < FOREIGN_KEPT {
                self.foreign.push(folder.join(name));
            }
            return Ok(());
        }
        let wanted_from = self.from.get(..digits.len()).unwrap_or("");
        if digits.as_str() < wanted_from {
            return Ok(());
        }
        if !is_file {
            return self.descend(&folder.join(name), &digits);
        }
        self.keys.push(digits.parse().expect("32 hexadecimal digits"));
        Ok(())
    }
}

/// The names in a folder, sorted. One that isn't text can't be ours and sorts anywhere.
fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Of this process or this moment, not of the disk: nothing was tried yet, and trying again helps.
fn is_our_own_trouble(error: &io::Error) -> bool {
    let own = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR];
    error.raw_os_error().is_some_and(|number| own.contains(&number))
}

/// The line that says what was jumped over.
fn damage(path: &Path, error: io::Error) -> Result<String, SpoolError> {
    let described = io_error(path, "reading it", &error);
    if is_our_own_trouble(&error) { Err(described) } else { Ok(described.text) }
}

fn write_file(path: &Path, value: &[u8]) -> io::Result<File> {
    let mut file = File::create(path)?;
    file.write_all(value)?;
    Ok(file)
}

fn read_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > limits::RECORD_OCTETS as u64 {
        let text = format!("{size} octets, more than a record can have");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    let mut value = Vec::with_capacity(size as usize);
    file.take(limits::RECORD_OCTETS as u64).read_to_end(&mut value)?;
    Ok(Bytes::from(value))
}

fn sync_file_system(root: &Path) -> io::Result<()> {
    let folder = File::open(root)?;
    // SAFETY: the descriptor belongs to `folder`, which lives through the call.
    match unsafe { libc::syncfs(folder.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn key(number: u8) -> SpoolId {
        SpoolId([0xab, 0xcd, 0xef, number, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    }

    fn put(number: u8) -> SpoolOperation {
        let value = Bytes::from(vec![number; 100]);
        SpoolOperation::Put { family: Family::Meta, key: key(number), value }
    }

    fn delete(number: u8) -> SpoolOperation {
        SpoolOperation::Delete { family: Family::Meta, key: key(number) }
    }

    fn scan(spool: &LocalDisk, keys_only: bool) -> ScanPage {
        let family = Family::Meta;
        spool.scan(ScanRequest { family, from: None, limit: 100, keys_only }).unwrap().page
    }

    fn entries(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn files_lie_where_the_layout_says_and_folders_go_with_the_last_of_them() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        spool.apply(&[put(1), put(2)], SyncMode::Synced).unwrap();
        let file = root.path().join("data/ab/cd/ef/01/0405060708090a0b0c0d0e0f");
        assert_eq!(fs::read(&file).unwrap(), vec![1; 100]);
        assert_eq!(entries(&root.path().join("new")), 0);
        spool.apply(&[delete(1)], SyncMode::Synced).unwrap();
        assert!(!root.path().join("data/ab/cd/ef/01").exists());
        assert!(root.path().join("data/ab/cd/ef/02").exists());
        spool.apply(&[delete(2)], SyncMode::Unsynced).unwrap();
        assert_eq!(entries(&root.path().join("data")), 0);
        spool.sync().unwrap();
    }

    #[test]
    fn opening_empties_new_and_keeps_data() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        spool.apply(&[put(1)], SyncMode::Synced).unwrap();
        spool.close().unwrap();
        fs::write(root.path().join("new/half"), "x").unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        assert_eq!(entries(&root.path().join("new")), 0);
        assert_eq!(scan(&spool, true).entries, [(key(1), Bytes::new())]);
        let lock = fs::read_to_string(root.path().join("lock")).unwrap();
        assert_eq!(lock.trim(), std::process::id().to_string());
    }

    #[test]
    fn a_folder_in_new_is_left_alone_and_in_nobodys_way() {
        let root = TempDir::new().unwrap();
        LocalDisk::open(root.path()).unwrap().close().unwrap();
        fs::create_dir_all(root.path().join("new/lost+found")).unwrap();
        fs::write(root.path().join("new/half"), "x").unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        assert_eq!(entries(&root.path().join("new")), 1);
        spool.apply(&[put(1)], SyncMode::Synced).unwrap();
        assert_eq!(scan(&spool, true).entries.len(), 1);
    }

    #[test]
    fn a_value_is_synced_before_it_takes_the_place_of_another_even_if_the_batch_is_not() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        spool.apply(&[put(1)], SyncMode::Synced).unwrap();
        // Takes everything and can't be synced.
        std::os::unix::fs::symlink("/dev/null", spool.temporary(key(1))).unwrap();
        let error = spool.apply(&[put(1)], SyncMode::Unsynced).unwrap_err();
        assert!(error.text.contains("syncing it"), "{error}");
        assert_eq!(scan(&spool, false).entries, [(key(1), Bytes::from(vec![1; 100]))]);
        spool.apply(&[put(1)], SyncMode::Synced).expect("only that one value was lost");
    }

    #[test]
    fn after_a_failed_sync_nothing_is_called_durable_again() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        spool.apply(&[put(1)], SyncMode::Unsynced).unwrap();
        let folder = root.path().join("data/ab/cd/ef/01");
        let away = root.path().join("away");
        fs::rename(&folder, &away).unwrap();
        let error = spool.sync().unwrap_err();
        assert!(error.text.contains("start kumod anew"), "{error}");
        fs::rename(&away, &folder).unwrap();
        assert_eq!(spool.sync(), Err(error.clone()));
        assert_eq!(spool.reopen(), Err(error.clone()));
        assert_eq!(spool.apply(&[put(2)], SyncMode::Synced), Err(error.clone()));
        assert_eq!(spool.apply(&[delete(2)], SyncMode::Unsynced), Ok(()), "it can be taken back");
        assert_eq!(scan(&spool, true).entries.len(), 1);
        assert_eq!(spool.close(), Err(error));
        LocalDisk::open(root.path()).unwrap().sync().expect("a new life answers for itself alone");
    }

    #[test]
    fn only_the_disks_own_errors_last() {
        for (number, ours) in [(libc::EMFILE, true), (libc::ENFILE, true), (libc::EIO, false)] {
            assert_eq!(is_our_own_trouble(&io::Error::from_raw_os_error(number)), ours);
        }
    }

    #[test]
    fn a_scan_removes_the_empty_folders_it_meets() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        fs::create_dir_all(root.path().join("data/00/11/22/33")).unwrap();
        spool.apply(&[put(1)], SyncMode::Synced).unwrap();
        assert_eq!(scan(&spool, false).entries.len(), 1);
        assert_eq!(entries(&root.path().join("data")), 1);
        spool.sync().unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_damage_and_what_is_not_ours_is_left_alone() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        spool.apply(&[put(1), put(2), put(3)], SyncMode::Synced).unwrap();
        let unreadable = root.path().join("data/ab/cd/ef/02/0405060708090a0b0c0d0e0f");
        fs::remove_file(&unreadable).unwrap();
        fs::create_dir(&unreadable).unwrap();
        let foreign = root.path().join("data/ab/cd/ef/README");
        fs::write(&foreign, "x").unwrap();
        let not_a_folder = root.path().join("data/77");
        fs::write(&not_a_folder, "x").unwrap();
        let page = scan(&spool, false);
        let ids: Vec<SpoolId> = page.entries.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [key(1), key(3)]);
        assert_eq!(page.damaged.len(), 2, "{:?}", page.damaged);
        assert!(
            page.damaged.iter().any(|damage| damage.text.contains(unreadable.to_str().unwrap()))
        );
        assert!(
            page.damaged.iter().any(|damage| damage.text.contains(not_a_folder.to_str().unwrap()))
        );
        assert!(foreign.exists());
    }

    #[test]
    fn what_is_unsynced_is_remembered_until_synced_and_never_without_bound() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        let unsynced = |spool: &LocalDisk| spool.writer().unwrap().unsynced.folders.len();
        spool.apply(&[put(1)], SyncMode::Unsynced).unwrap();
        // data, ab, cd, ef got an entry each, and 01 got the file.
        assert_eq!(unsynced(&spool), 5);
        spool.apply(&[put(2)], SyncMode::Synced).unwrap();
        assert_eq!(unsynced(&spool), 0);
        spool.apply(&[put(3)], SyncMode::Unsynced).unwrap();
        spool.apply(&[delete(3)], SyncMode::Unsynced).unwrap();
        assert_eq!(unsynced(&spool), 1);
        spool.sync().unwrap();

        let mut writer = spool.writer().unwrap();
        for number in 0..=limits::LOCAL_DISK_UNSYNCED {
            writer.unsynced.folders.insert(PathBuf::from(number.to_string()));
        }
        writer.unsynced.limit();
        assert!(writer.unsynced.everything && writer.unsynced.folders.is_empty());
        drop(writer);
        spool.sync().unwrap();
        assert!(!spool.writer().unwrap().unsynced.everything);
    }

    #[test]
    fn a_batch_that_cannot_be_staged_changes_nothing() {
        let root = TempDir::new().unwrap();
        let spool = LocalDisk::open(root.path()).unwrap();
        spool.apply(&[put(1)], SyncMode::Synced).unwrap();
        // A folder stands where the file of the second would be written.
        fs::create_dir(spool.temporary(key(3))).unwrap();
        let error = spool.apply(&[delete(1), put(2), put(3)], SyncMode::Synced).unwrap_err();
        assert!(error.text.contains(spool.temporary(key(3)).to_str().unwrap()), "{error}");
        assert_eq!(scan(&spool, true).entries, [(key(1), Bytes::new())]);
        assert!(!spool.temporary(key(2)).exists());
    }
}

//! A spool's directory before it is used: made where missing, and tried out, so that a wrong owner or mode is one
//! clear error at start instead of many strange ones later. Locking is [`lock`](super::lock)'s.
use crate::folder;
use kumo_core::port::{SpoolError, SpoolErrorKind};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PROBE_PREFIX: &str = ".kumo-dir-probe";

/// Makes the directory and its missing parents (0755 less the umask), each durably, and tries it out.
pub(super) fn prepare(path: &Path) -> Result<(), SpoolError> {
    folder::make(path).step("making it").map_err(|failure| unusable(path, failure))?;
    probe(path)
}

/// Writes, syncs, renames and removes a file, as the spool is going to.
pub(super) fn probe(path: &Path) -> Result<(), SpoolError> {
    try_out(path).map_err(|failure| unusable(path, failure))
}

struct Failure {
    step: &'static str,
    error: io::Error,
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure { step, error })
    }
}

fn try_out(path: &Path) -> Result<(), Failure> {
    let first = path.join(format!("{PROBE_PREFIX}-{}", std::process::id()));
    let renamed = first.with_extension("renamed");
    let result = write_probe(&first)
        .and_then(|()| fs::rename(&first, &renamed).step("renaming a file in it"))
        .and_then(|()| compare_ids(&renamed))
        .and_then(|()| fs::remove_file(&renamed).step("removing a file from it"));
    if result.is_err() {
        // Best effort: what failed may well fail again, and the first error is the one to show.
        let _ = fs::remove_file(&first);
        let _ = fs::remove_file(&renamed);
    }
    result
}

fn write_probe(path: &Path) -> Result<(), Failure> {
    let mut file = File::create(path).step("making a file in it")?;
    file.write_all(b"probe\n").step("writing a file in it")?;
    file.sync_all().step("syncing a file in it")
}

/// access(2) asks for the real ids, open(2) for the effective ones. Where they disagree, privileges were dropped by
/// half, and whoever asks the one before doing the other (RocksDB does) gets confusing answers.
fn compare_ids(path: &Path) -> Result<(), Failure> {
    File::options().read(true).write(true).open(path).step("opening a file in it again")?;
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let name = name.step("naming a file in it")?;
    // SAFETY: `name` is a C string that lives through the call.
    if unsafe { libc::access(name.as_ptr(), libc::R_OK | libc::W_OK) } != 0 {
        return Err(io::Error::last_os_error())
            .step("a file in it can be opened, but access(2) denies it");
    }
    Ok(())
}

fn unusable(path: &Path, failure: Failure) -> SpoolError {
    let Failure { step, error } = failure;
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SpoolErrorKind::NoSpace,
        _ => SpoolErrorKind::Io,
    };
    let advice = match kind {
        SpoolErrorKind::NoSpace => "make room on its file system".into(),
        _ => format!("{}, {}", describe_owner(path), describe_process()),
    };
    let text =
        format!("spool directory {} is not usable: {step}: {error}; {advice}", path.display());
    SpoolError { kind, text }
}

fn describe_owner(path: &Path) -> String {
    let existing = path.ancestors().find_map(|folder| {
        let metadata = fs::metadata(folder).ok()?;
        Some((PathBuf::from(folder), metadata))
    });
    let Some((folder, metadata)) = existing else {
        return "none of its parents can be looked at".into();
    };
    let kind = if metadata.is_dir() { "directory" } else { "file" };
    format!(
        "the {kind} {} belongs to uid {} gid {} with mode {:04o}",
        folder.display(),
        metadata.uid(),
        metadata.gid(),
        metadata.mode() & 0o7777
    )
}

fn describe_process() -> String {
    // SAFETY: these four calls take nothing, change nothing and can't fail.
    let (uid, gid, euid, egid) =
        unsafe { (libc::getuid(), libc::getgid(), libc::geteuid(), libc::getegid()) };
    format!(
        "this process runs with real uid {uid} gid {gid} and effective uid {euid} gid {egid}; \
         give it a directory that it may write to"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const NOBODY: u32 = 65_534;

    #[test]
    fn a_directory_is_made_with_its_parents_and_left_empty() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a/b/c");
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o700, 0o700);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "x").unwrap();
        let error = prepare(&path).unwrap_err();
        let expected = format!("spool directory {} is not usable: making it: ", path.display());
        assert!(error.text.starts_with(&expected), "{error}");
    }

    /// Runs `work` in a thread with other ids. Linux keeps them for each thread; only libc's wrappers change them all.
    fn with_ids<T: Send>(real: u32, effective: u32, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                // SAFETY: setresuid(2) takes three numbers and touches no memory.
                let result = unsafe { libc::syscall(libc::SYS_setresuid, real, effective, 0) };
                assert_eq!(result, 0, "changing ids: {}", io::Error::last_os_error());
                work()
            });
            thread.join().expect("the thread didn't panic")
        })
    }

    fn am_root() -> bool {
        // SAFETY: geteuid takes nothing and can't fail.
        unsafe { libc::geteuid() == 0 }
    }

    #[test]
    fn a_directory_of_somebody_else_is_described_with_owner_mode_and_ids() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("spool");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o500)).unwrap();
        let error = match am_root() {
            true => with_ids(NOBODY, NOBODY, || prepare(&path)).unwrap_err(),
            false => prepare(&path).unwrap_err(),
        };
        assert!(error.text.contains("Permission denied"), "{error}");
        let owner = fs::metadata(&path).unwrap().uid();
        let expected = format!("the directory {} belongs to uid {owner} gid ", path.display());
        assert!(error.text.contains(&expected), "{error}");
        assert!(error.text.contains("with mode 0500"), "{error}");
        if am_root() {
            let ids = format!("real uid {NOBODY} gid 0 and effective uid {NOBODY} gid 0");
            assert!(error.text.contains(&ids), "{error}");
        }
    }

    #[test]
    fn privileges_dropped_by_half_are_noticed() {
        assert!(am_root(), "only root can drop privileges by half: run this test as root");
        let directory = TempDir::new().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let error = with_ids(NOBODY, 0, || prepare(directory.path())).unwrap_err();
        assert!(error.text.contains("access(2) denies it"), "{error}");
    }
}

//! One process a spool: `<directory>/lock` holds the owner's pid and an exclusive flock.
//! Invariant: held from before the first look at the store's files until after the last.
use super::store::{Purpose, io_error};
use kumo_core::port::{SpoolError, SpoolErrorKind};
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[derive(Debug)]
pub(super) struct LockFile {
    _file: File,
}

impl LockFile {
    pub fn take(directory: &Path, purpose: Purpose) -> Result<LockFile, SpoolError> {
        let path = directory.join("lock");
        let failed = |error: io::Error| io_error(&path, "locking it", &error);
        let mut opened = open_to_write(&path);
        let forbidden = opened.as_ref().is_err_and(is_forbidden);
        // Who may only look, or looks at a snapshot, still keeps a kumod out and is kept out.
        let without_pid = forbidden && purpose == Purpose::Check;
        if without_pid {
            opened = File::open(&path);
        }
        let mut file = opened.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(owned(&path, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if !without_pid {
            write_pid(&mut file).map_err(failed)?;
        }
        Ok(LockFile { _file: file })
    }
}

fn open_to_write(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    // The sticky bit tells cleaners of temporary directories to leave the file alone.
    file.set_permissions(Permissions::from_mode(0o1644))
}

fn owned(path: &Path, file: &mut File) -> SpoolError {
    let mut owner = String::new();
    let _ = file.take(32).read_to_string(&mut owner);
    let owner = match owner.trim() {
        "" => "?",
        pid => pid,
    };
    let text = format!("unable to lock pid file {}. Owned by pid {owner}.", path.display());
    SpoolError { kind: SpoolErrorKind::Other, text }
}

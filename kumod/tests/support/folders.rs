//! Folders that go bad under a running system: full, read-only or immutable. Root's tools do it (`mount`, `chattr`), so these
//! need root; kumod itself runs as somebody else.
//! Invariant: what a guard does is undone when it is dropped, also in a panic. It doesn't outlive a test that is
//! killed: `findmnt -t tmpfs` and `lsattr` show what is left then.
use super::home::give_away;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What one write of the ballast has, at most.
const CHUNK_OCTETS: usize = 4096;

/// A small file system of its own over a folder, for kumod's user.
pub struct Small {
    path: PathBuf,
}

impl Small {
    /// `size`: as `mount` takes it, such as `4m`, or `4m,nr_inodes=100`. The folder is made if it isn't there.
    pub fn over(path: &Path, size: &str) -> Small {
        fs::create_dir_all(path).expect("a folder");
        let options = format!("size={size},mode=755");
        run("mount", &["-t", "tmpfs", "-o", &options, "kumod-test"], path);
        give_away(path);
        Small { path: path.to_owned() }
    }

    /// Until nothing fits any more. Free again once the value is dropped.
    pub fn fill(&self) -> Ballast {
        self.fill_but(0)
    }

    /// Until so many octets are free, to a few blocks.
    pub fn fill_but(&self, rest: u64) -> Ballast {
        let path = self.path.join("ballast");
        let mut file = File::create(&path).expect("one more file fits");
        let mut octets = CHUNK_OCTETS;
        while octets > 0 && (rest == 0 || self.free() > rest) {
            match file.write(&[b'x'; CHUNK_OCTETS][..octets]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => octets /= 2,
                Err(error) => panic!("{path:?} can't be written: {error}"),
            }
        }
        Ballast { path }
    }

    /// So many empty files. They are gone once the value is dropped.
    pub fn crowd(&self, files: usize) -> Crowd {
        let path = self.path.join("crowd");
        fs::create_dir(&path).expect("a new folder");
        for number in 0..files {
            File::create(path.join(number.to_string())).expect("an inode for it");
        }
        Crowd { path }
    }

    /// Octets.
    fn free(&self) -> u64 {
        let name = CString::new(self.path.as_os_str().as_bytes()).expect("no NUL in it");
        let mut answer = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `name` is a C string, and `answer` has room for what statvfs writes.
        assert_eq!(unsafe { libc::statvfs(name.as_ptr(), answer.as_mut_ptr()) }, 0);
        // SAFETY: statvfs succeeded, so it has filled the structure in.
        let answer = unsafe { answer.assume_init() };
        answer.f_bavail * answer.f_frsize
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// A file that takes all the room there is.
pub struct Ballast {
    path: PathBuf,
}

/// Files that take all the inodes there are.
pub struct Crowd {
    path: PathBuf,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A folder that nobody can write to. Files that are open for writing already would be in the way.
pub struct ReadOnly {
    path: PathBuf,
}

impl ReadOnly {
    pub fn over(path: &Path) -> ReadOnly {
        let folder = path.to_str().expect("an ASCII path");
        run("mount", &["--bind", folder], path);
        let guard = ReadOnly { path: path.to_owned() };
        run("mount", &["-o", "remount,bind,ro"], path);
        guard
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// A folder whose entries can't be changed, not even by root; files that are there can still be written to.
pub struct Immutable {
    path: PathBuf,
}

impl Immutable {
    /// The folder's file system has to support it, see [`folder_for_immutable`].
    pub fn make(path: &Path) -> Immutable {
        run("chattr", &["+i"], path);
        Immutable { path: path.to_owned() }
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.path).status();
    }
}

/// A new folder in the first place whose file system knows `chattr +i`; what doesn't is said.
pub fn folder_for_immutable() -> TempDir {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let places = [Some("/var/tmp".into()), Some("/tmp".into()), home];
    let supports = |place: &PathBuf| {
        let folder = TempDir::new_in(place).ok()?;
        let tried = Command::new("chattr").arg("+i").arg(folder.path()).output().ok()?;
        if !tried.status.success() {
            let why = String::from_utf8_lossy(&tried.stderr);
            println!("no chattr +i in {}: {}", place.display(), why.trim());
            return None;
        }
        drop(Immutable { path: folder.path().to_owned() });
        Some(folder)
    };
    places.iter().flatten().find_map(supports).unwrap_or_else(|| {
        panic!("neither of {places:?} supports chattr +i: run the tests as root with one of them on ext4, xfs or btrfs")
    })
}

/// Busy for a moment, as when a process that used it is just ending, isn't a failure.
fn unmount(path: &Path) {
    let gone = |arguments: &[&str]| {
        Command::new("umount").args(arguments).arg(path).output().is_ok_and(|o| o.status.success())
    };
    let _ = gone(&[]) || gone(&["--lazy"]);
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("{program} can't be run: {error}"));
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?} {path:?}: {}; this test needs root",
        why.trim()
    );
}

//! A disk that can lose power: what a process made durable below one folder is written down by `power/durable.c`, and
//! after the process is dead [`Disk::cut`] takes away the rest.
//! Invariants: what stays is what was synced, and of what wasn't at most what [`Keep`] says: of a file's unsynced
//! octets a prefix, of changes to folders each one that no sync of the folder followed, in any choice. Nothing that
//! stays was never there.
//! It relies on files only ever being appended to, which is what RocksDB does with our options: `strace` of a kumod that
//! writes, merges and drops tables shows no pwrite, no shared mapping and no O_DIRECT or O_SYNC below the spool, fallocate
//! with KEEP_SIZE, and ftruncate only to give room behind the end back. The shim says so if that ever changes, and then
//! this panics. It doesn't tear or reorder the octets of one file, which `io-sim`'s disk does, and folders come back
//! with the owner and mode that kumod's have.
pub mod state;

use super::choices::Choices;
use super::home::{Home, give_away};
use state::State;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How much of what wasn't synced a cut leaves.
pub enum Keep<'a> {
    Nothing,
    Some(&'a mut Choices),
}

impl Keep<'_> {
    fn octets(&mut self, unsynced: u64) -> u64 {
        match self {
            Keep::Nothing => 0,
            // Both ends often: they are the interesting ones.
            Keep::Some(choices) => match choices.below(4) {
                0 => 0,
                1 => unsynced,
                _ => choices.below(unsynced + 1),
            },
        }
    }

    fn change(&mut self) -> bool {
        match self {
            Keep::Nothing => false,
            Keep::Some(choices) => choices.one_in(2),
        }
    }
}

/// What a cut took.
#[derive(Debug, Default)]
pub struct Lost {
    /// Octets by the name of the file, of those that are still there.
    pub octets: BTreeMap<String, u64>,
    /// Changes of folders.
    pub changes: usize,
}

impl Lost {
    /// Of files with this ending.
    pub fn octets_of(&self, ending: &str) -> u64 {
        self.octets.iter().filter(|(name, _)| name.ends_with(ending)).map(|(_, n)| n).sum()
    }
}

pub struct Disk {
    shim: PathBuf,
    /// What can be lost is below it.
    root: PathBuf,
    side: PathBuf,
    durable: State,
}

impl Disk {
    /// The folder `disk` of a home, with these folders in it.
    pub fn new(home: &Home, folders: &[&str]) -> Disk {
        let (root, side) = (home.path("disk"), home.path("side"));
        let inside = folders.iter().map(|name| root.join(name));
        for folder in [root.clone(), side.clone()].into_iter().chain(inside) {
            fs::create_dir(&folder).expect("a new folder");
            give_away(&folder);
        }
        let root = root.canonicalize().expect("it was made");
        let shim = compile(&home.path("durable.so"));
        let durable = State::default();
        let mut disk = Disk { shim, root, side, durable };
        disk.begin();
        disk
    }

    /// For every process that uses the disk.
    pub fn environment(&self) -> [(&'static str, &Path); 3] {
        [
            ("LD_PRELOAD", &self.shim),
            ("KUMOD_POWER_ROOT", &self.root),
            ("KUMOD_POWER_SIDE", &self.side),
        ]
    }

    /// All processes that use it must be dead.
    pub fn cut(&mut self, mut keep: Keep<'_>) -> Lost {
        let lines = fs::read_to_string(self.side.join("lines")).unwrap_or_default();
        let mut after = std::mem::take(&mut self.durable);
        let mut lost = Lost { changes: after.follow(&lines, &mut keep), ..Lost::default() };
        let rebuilt = self.root.with_extension("rebuilt");
        let mut rebuild = Rebuild { side: &self.side, state: &after, keep, lost: &mut lost };
        rebuild.folder(after.root, &rebuilt);
        fs::remove_dir_all(&self.root).expect("the old folder can be removed");
        fs::rename(&rebuilt, &self.root).expect("the new one can take its place");
        self.begin();
        lost
    }

    /// What is there now is durable.
    fn begin(&mut self) {
        for entry in fs::read_dir(&self.side).expect("it was made").flatten() {
            fs::remove_file(entry.path()).expect("only files are in there");
        }
        self.durable = State { root: inode(&self.root), ..State::default() };
        self.durable.walk(&self.root, &self.side);
    }
}

fn compile(shim: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/power/durable.c");
    let options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"];
    let ran = Command::new("cc").args(options).arg(shim).arg(source).output();
    let output = ran.unwrap_or_else(|error| {
        panic!("cc can't be run ({error}); kumod/tools/setup.sh test installs it")
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    shim.to_owned()
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("it is there").ino()
}

/// Makes the folder anew as a state has it, out of the links that the shim made.
struct Rebuild<'a> {
    side: &'a Path,
    state: &'a State,
    keep: Keep<'a>,
    lost: &'a mut Lost,
}

impl Rebuild<'_> {
    fn folder(&mut self, inode: u64, path: &Path) {
        fs::create_dir(path).expect("a new folder");
        give_away(path);
        for (name, inode) in &self.state.folders[&inode] {
            let path = path.join(name);
            match self.state.files.get(inode) {
                Some(synced) => self.file(*inode, *synced, &path),
                None => self.folder(*inode, &path),
            }
        }
    }

    fn file(&mut self, inode: u64, synced: u64, path: &Path) {
        fs::hard_link(self.side.join(inode.to_string()), path).expect("the shim made a link");
        let file = File::options().write(true).open(path).expect("it can be opened");
        let there = file.metadata().expect("it is open").len();
        let unsynced = there.checked_sub(synced);
        let unsynced = unsynced.unwrap_or_else(|| panic!("the shim didn't see who cut {path:?}"));
        let kept = self.keep.octets(unsynced);
        file.set_len(synced + kept).expect("it can be shortened");
        let name = path.file_name().expect("it has a name").to_string_lossy();
        *self.lost.octets.entry(name.into_owned()).or_default() += unsynced - kept;
    }
}

//! Which names and octets were durable when the power went: a pure reading of the shim's lines.
//! Invariant: a change of a folder is durable once a sync of that folder began after its line, octets once a sync of their
//! file began with them there. Files and folders are told by inode number, so that a name given twice confuses nobody; the
//! number of a folder that was removed may be given again, and then the old folder gets another one here.
use super::Keep;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Folders and files by inode number.
#[derive(Debug, Default)]
pub struct State {
    pub root: u64,
    pub folders: BTreeMap<u64, BTreeMap<String, u64>>,
    /// Octets that are durable.
    pub files: BTreeMap<u64, u64>,
}

impl State {
    /// Everything below a folder, each file with a link in `side`.
    pub fn walk(&mut self, folder: &Path, side: &Path) {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().expect("it is there"));
            let name = entry.file_name().into_string().expect("kumod's names are ASCII");
            entries.insert(name, metadata.ino());
            if metadata.is_dir() {
                self.walk(&path, side);
                continue;
            }
            fs::hard_link(&path, side.join(metadata.ino().to_string())).expect("a link");
            self.files.insert(metadata.ino(), metadata.len());
        }
        self.folders.insert(super::inode(folder), entries);
    }

    /// Everything that happened, less what is lost; how many changes of folders were.
    pub fn follow(&mut self, lines: &str, keep: &mut Keep<'_>) -> usize {
        let mut lines = Line::all(lines);
        self.tell_apart(&mut lines);
        let settled = settled(&lines);
        let mut lost = 0;
        for line in &lines {
            self.note_new(&line.what);
            let folders = line.what.folders();
            if folders.is_empty() {
                self.content(&line.what);
                continue;
            }
            let is_durable = |folder| settled.get(folder).is_some_and(|upto| *upto >= line.end);
            if folders.iter().all(is_durable) || keep.change() {
                self.change(&line.what);
            } else {
                lost += 1;
            }
        }
        lost
    }

    /// Numbers of files aren't given again: the shim's links keep them in use.
    fn tell_apart(&mut self, lines: &mut [Line]) {
        let mut folders: BTreeSet<u64> = self.folders.keys().copied().collect();
        for at in 0..lines.len() {
            let (inode, is_folder) = match lines[at].what {
                What::File { inode, .. } => (inode, false),
                What::Folder { inode, .. } => (inode, true),
                _ => continue,
            };
            if folders.remove(&inode) {
                self.renumber(inode, u64::MAX - at as u64, &mut lines[..at]);
            }
            if is_folder {
                folders.insert(inode);
            }
        }
    }

    fn renumber(&mut self, old: u64, new: u64, lines: &mut [Line]) {
        if let Some(entries) = self.folders.remove(&old) {
            self.folders.insert(new, entries);
        }
        let entries = self.folders.values_mut().flat_map(|entries| entries.values_mut());
        let numbers = lines.iter_mut().flat_map(|line| line.what.folders_mut());
        for number in entries.chain(numbers).filter(|number| **number == old) {
            *number = new;
        }
    }

    /// A thing is there even if its name is going to be lost: another name may follow.
    fn note_new(&mut self, what: &What) {
        match what {
            What::File { inode, .. } => drop(self.files.insert(*inode, 0)),
            What::Folder { inode, .. } => drop(self.folders.insert(*inode, BTreeMap::new())),
            _ => {}
        }
    }

    /// Files outside of the root are written down as well, and of no interest.
    fn content(&mut self, what: &What) {
        match *what {
            What::Synced { inode, length } => {
                self.files.entry(inode).and_modify(|synced| *synced = length.max(*synced));
            }
            // What was cut off can't be brought back.
            What::Shortened { inode, length } => {
                self.files.entry(inode).and_modify(|synced| *synced = length.min(*synced));
            }
            What::Overwritten { inode, at } => {
                let synced = self.files.get(&inode).copied().unwrap_or(0);
                assert!(at >= synced, "octets that had been synced were overwritten: {what:?}");
            }
            _ => {}
        }
    }

    fn change(&mut self, what: &What) {
        match what {
            What::File { inode, folder, name } | What::Folder { inode, folder, name } => {
                self.entries(*folder).insert(name.clone(), *inode);
            }
            What::Gone { folder, name } => drop(self.entries(*folder).remove(name)),
            What::Moved { from, into, inode, old, new } => {
                self.entries(*from).remove(old);
                self.entries(*into).insert(new.clone(), *inode);
            }
            _ => {}
        }
    }

    fn entries(&mut self, folder: u64) -> &mut BTreeMap<String, u64> {
        self.folders.get_mut(&folder).expect("the shim saw the folder being made")
    }
}

/// Of each folder, how much of the lines its last sync covers.
fn settled(lines: &[Line]) -> BTreeMap<u64, usize> {
    let mut settled = BTreeMap::new();
    for line in lines {
        if let What::Settled { folder, upto } = line.what {
            let covered: &mut usize = settled.entry(folder).or_default();
            *covered = upto.max(*covered);
        }
    }
    settled
}

struct Line {
    what: What,
    /// The offset behind it.
    end: usize,
}

impl Line {
    fn all(text: &str) -> Vec<Line> {
        let mut end = 0;
        let lines = text.split_inclusive('\n').map(|line| {
            end += line.len();
            let what = What::parse(line.trim_end_matches('\n'));
            Line { what: what.unwrap_or_else(|| panic!("not a line of the shim: {line:?}")), end }
        });
        lines.collect()
    }
}

#[derive(Debug)]
enum What {
    File { inode: u64, folder: u64, name: String },
    Folder { inode: u64, folder: u64, name: String },
    Gone { folder: u64, name: String },
    Moved { from: u64, into: u64, inode: u64, old: String, new: String },
    Settled { folder: u64, upto: usize },
    Synced { inode: u64, length: u64 },
    Shortened { inode: u64, length: u64 },
    Overwritten { inode: u64, at: u64 },
}

impl What {
    fn parse(line: &str) -> Option<What> {
        let (verb, rest) = line.split_once(' ')?;
        let mut fields = rest.split(' ');
        let mut number = || fields.next()?.parse::<u64>().ok();
        let what = match verb {
            "settled" => What::Settled { folder: number()?, upto: number()? as usize },
            "synced" => What::Synced { inode: number()?, length: number()? },
            "shortened" => What::Shortened { inode: number()?, length: number()? },
            "overwritten" => What::Overwritten { inode: number()?, at: number()? },
            "gone" => What::Gone { folder: number()?, name: rest_of(fields) },
            "file" => What::File { inode: number()?, folder: number()?, name: rest_of(fields) },
            "folder" => What::Folder { inode: number()?, folder: number()?, name: rest_of(fields) },
            "moved" => {
                let (from, into, inode) = (number()?, number()?, number()?);
                let names = rest_of(fields);
                let (old, new) = names.split_once('/')?;
                What::Moved { from, into, inode, old: old.into(), new: new.into() }
            }
            _ => return None,
        };
        Some(what)
    }

    /// Every number that may be a folder's.
    fn folders_mut(&mut self) -> Vec<&mut u64> {
        match self {
            What::File { folder, .. } | What::Gone { folder, .. } => vec![folder],
            What::Folder { inode, folder, .. } => vec![inode, folder],
            What::Moved { from, into, inode, .. } => vec![from, into, inode],
            What::Settled { folder, .. } => vec![folder],
            _ => Vec::new(),
        }
    }

    /// Those whose sync makes it durable; none if it isn't a change of a folder.
    fn folders(&self) -> Vec<u64> {
        match self {
            What::File { folder, .. } | What::Folder { folder, .. } | What::Gone { folder, .. } => {
                vec![*folder]
            }
            What::Moved { from, into, .. } => vec![*from, *into],
            _ => Vec::new(),
        }
    }
}

/// Names may hold spaces.
fn rest_of(fields: std::str::Split<'_, char>) -> String {
    fields.collect::<Vec<_>>().join(" ")
}

//! Which spool lies in the folders that an operator named: one database, or two stores, and which of them is data's.
//! Invariant: reads only, and a folder that isn't a store isn't touched. Whether two stores are a pair is
//! [`pair`](super::pair)'s to say.
use crate::spool::local_disk::LocalDisk;
use crate::spool::pair::Half;
use crate::spool::rocks;
use crate::spool::store::{Backend, ScanRequest, io_error};
use kumo_core::config::service::SpoolKind;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind};
use kumo_core::record::{decode_data, decode_meta};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Records looked at together to learn what a tree of files holds.
const SAMPLE: usize = 64;

pub(super) struct Place {
    pub kind: SpoolKind,
    pub path: PathBuf,
}

pub(super) enum Layout {
    Shared(PathBuf),
    Split { data: Place, meta: Place },
}

impl Place {
    pub fn half(&self) -> Half<'_> {
        Half { kind: self.kind, path: &self.path }
    }
}

impl Layout {
    pub fn kind(&self, family: Family) -> SpoolKind {
        match (self, family) {
            (Layout::Shared(_), _) => SpoolKind::RocksDB,
            (Layout::Split { data, .. }, Family::Data) => data.kind,
            (Layout::Split { meta, .. }, Family::Meta) => meta.kind,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::Shared(path) => write!(f, "{} (RocksDB, data and meta)", path.display()),
            Layout::Split { data, meta } => write!(
                f,
                "{} ({:?}, data) and {} ({:?}, meta)",
                data.path.display(),
                data.kind,
                meta.path.display(),
                meta.kind
            ),
        }
    }
}

pub(super) fn find(folders: &[PathBuf]) -> Result<Layout, SpoolError> {
    let mut folders: Vec<PathBuf> = folders.iter().map(real_name).collect::<Result<_, _>>()?;
    folders.dedup();
    match &folders[..] {
        [path] => find_in_one(path),
        [one, other] => find_in_two([stored_at(one)?, stored_at(other)?]),
        _ => {
            Err(refused(format!("a spool lies in one folder or in two, not in {}", folders.len())))
        }
    }
}

fn find_in_one(path: &Path) -> Result<Layout, SpoolError> {
    match store_at(path)? {
        Some(SpoolKind::RocksDB) => find_shared(path),
        Some(SpoolKind::LocalDisk) => Err(other_half_missing(path, "data or meta")),
        None => match [path.join("data"), path.join("meta")].map(|path| store_at(&path)) {
            [Ok(Some(data)), Ok(Some(meta))] => Ok(Layout::Split {
                data: Place { kind: data, path: path.join("data") },
                meta: Place { kind: meta, path: path.join("meta") },
            }),
            [Err(error), _] | [_, Err(error)] => Err(error),
            _ => Err(no_spool(path)),
        },
    }
}

fn find_shared(path: &Path) -> Result<Layout, SpoolError> {
    match rocks::families_at(path)?[..] {
        [Family::Data, Family::Meta] => Ok(Layout::Shared(path.to_owned())),
        [family] => Err(other_half_missing(path, rocks::name(family))),
        _ => Err(refused(format!(
            "{} holds a RocksDB that isn't a spool of kumod's: it has neither data nor meta",
            path.display()
        ))),
    }
}

fn find_in_two([one, other]: [Place; 2]) -> Result<Layout, SpoolError> {
    let (first, second) = (family_in(&one)?, family_in(&other)?);
    if let (Some(first), Some(second)) = (first, second)
        && first == second
    {
        return Err(refused(format!(
            "both {} and {} hold {}: name the two folders of one spool",
            one.path.display(),
            other.path.display(),
            rocks::name(first)
        )));
    }
    // Where nothing tells, there are no records that could be taken for the wrong ones.
    let as_given = first != Some(Family::Meta) && second != Some(Family::Data);
    let (data, meta) = if as_given { (one, other) } else { (other, one) };
    Ok(Layout::Split { data, meta })
}

/// What a store of a pair is for, as far as its records tell.
fn family_in(place: &Place) -> Result<Option<Family>, SpoolError> {
    match place.kind {
        SpoolKind::LocalDisk => family_of_files(&place.path),
        SpoolKind::RocksDB => match rocks::families_at(&place.path)?[..] {
            [family] => Ok(Some(family)),
            [] => Ok(None),
            _ => {
                Err(refused(format!("{} holds data and meta: name it alone", place.path.display())))
            }
        },
    }
}

fn family_of_files(path: &Path) -> Result<Option<Family>, SpoolError> {
    let files = LocalDisk::open_to_read(path)?;
    let mut from = None;
    loop {
        // A tree of files doesn't care which family it is asked for.
        let family = Family::Data;
        let request = ScanRequest { family, from, limit: SAMPLE, keys_only: false };
        let page = files.scan(request)?.page;
        let told = page.entries.iter().find_map(|(id, record)| {
            let is_data = decode_data(*id, record).is_ok();
            let is_meta = decode_meta(*id, record).is_ok();
            is_data.then_some(Family::Data).or(is_meta.then_some(Family::Meta))
        });
        if told.is_some() || page.next.is_none() {
            return Ok(told);
        }
        from = page.next;
    }
}

/// The kind of store in a folder, by the files that every one has.
fn store_at(path: &Path) -> Result<Option<SpoolKind>, SpoolError> {
    let has = |name: &str| {
        let file = path.join(name);
        file.try_exists().map_err(|error| io_error(&file, "looking for it", &error))
    };
    let files = has("local-disk.pair")? || (has("new")? && has("data")?);
    match (has("CURRENT")?, files) {
        (true, false) => Ok(Some(SpoolKind::RocksDB)),
        (false, true) => Ok(Some(SpoolKind::LocalDisk)),
        (true, true) => Err(refused(format!(
            "{} holds both a RocksDB and a tree of files: move away the one that kumod doesn't use",
            path.display()
        ))),
        (false, false) if is_rocks_without_current(path)? => Err(refused(format!(
            "{} holds a RocksDB without its file CURRENT, so that it can't be opened; that file holds \
             the name of the newest MANIFEST there and a line feed",
            path.display()
        ))),
        (false, false) => Ok(None),
    }
}

fn is_rocks_without_current(path: &Path) -> Result<bool, SpoolError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(|error| io_error(path, "reading it", &error))?,
    };
    for entry in entries {
        let name = entry.map_err(|error| io_error(path, "reading it", &error))?.file_name();
        if name.to_string_lossy().starts_with("MANIFEST-") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn real_name(path: &PathBuf) -> Result<PathBuf, SpoolError> {
    fs::canonicalize(path).map_err(|error| io_error(path, "looking for a spool there", &error))
}

fn stored_at(path: &Path) -> Result<Place, SpoolError> {
    let kind = store_at(path)?.ok_or_else(|| no_spool(path))?;
    Ok(Place { kind, path: path.to_owned() })
}

fn no_spool(path: &Path) -> SpoolError {
    refused(format!(
        "{} isn't a spool of kumod's: name the folder that define_spool names as path, or the two \
         if data and meta have one each",
        path.display()
    ))
}

fn other_half_missing(path: &Path, what: &str) -> SpoolError {
    refused(format!(
        "{} holds {what} alone: name the folder of the other half as well",
        path.display()
    ))
}

fn refused(text: String) -> SpoolError {
    SpoolError { kind: SpoolErrorKind::Other, text }
}

//! A delivery into a maildir (<https://cr.yp.to/proto/maildir.html>): written and synced under `tmp/`, then
//! renamed into `new/`.
//!
//! Invariant: a file in `new/` is complete and survives a power cut, directories made for it included. A symbolic
//! link that somebody planted under `tmp/` is never followed.
use super::explain;
use kumo_core::port::MaildirDelivery;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The name of the new file within `new/`.
pub(super) fn deliver(delivery: &MaildirDelivery, hostname: &str) -> Result<String, String> {
    let name = file_name(&delivery.name, hostname)?;
    let root = Path::new(&delivery.directory);
    let mode = delivery.dir_mode.unwrap_or(DIRECTORY_MODE);
    for part in ["tmp", "new", "cur"] {
        make_directory(&root.join(part), mode)?;
    }
    let (unfinished, finished) = (root.join("tmp").join(&name), root.join("new").join(&name));
    write_synced(&unfinished, delivery)
        .and_then(|()| {
            fs::rename(&unfinished, &finished).map_err(explain("move a message to", &finished))
        })
        .inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
    sync_directory(&root.join("new"))?;
    Ok(name)
}

/// `/` and `:` of a host name are written as the maildir format says.
fn file_name(unique: &str, hostname: &str) -> Result<String, String> {
    let unfit = |c: char| c == '/' || c == ':' || c.is_control();
    if unique.is_empty() || unique.starts_with('.') || unique.contains(unfit) {
        return Err(format!("{unique:?} can't be a maildir file name"));
    }
    Ok(format!("{unique}.{}", hostname.replace('/', "\\057").replace(':', "\\072")))
}

/// Parents too. Only what is made here gets the mode; a directory that exists is the operator's.
fn make_directory(path: &Path, mode: u32) -> Result<(), String> {
    let failed = |error| explain("make directory", path)(error);
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent() else { return Err(failed(error)) };
            make_directory(parent, mode)?;
            return make_directory(path, mode);
        }
        Err(error) => return Err(failed(error)),
    }
    // The umask has cut the mode.
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

fn write_synced(path: &Path, delivery: &MaildirDelivery) -> Result<(), String> {
    let mode = delivery.file_mode.unwrap_or(FILE_MODE);
    let mut file = create(path, mode).map_err(explain("create", path))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(explain("set the mode of", path))?;
    file.write_all(&delivery.content).map_err(explain("write", path))?;
    file.sync_all().map_err(explain("sync", path))
}

/// Names are unique, so a file already there is what a crash left of an earlier attempt.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)
        }
        opened => opened,
    }
}

fn sync_directory(path: &Path) -> Result<(), String> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(explain("sync directory", path))
}

//! The folder that damaged records are exported to, one file each: `<id>.data` and `<id>.meta`.
//! Invariant: what was exported is durable under its name when the call returns, and nothing that was exported before
//! is overwritten. The same octets are kept once.
use crate::folder;
use crate::spool::rocks;
use crate::spool::store::io_error;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, SpoolError};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(super) struct Quarantine {
    folder: PathBuf,
}

impl Quarantine {
    /// Made with the first record.
    pub fn below(spool: &Path) -> Quarantine {
        Quarantine { folder: spool.join("quarantine") }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn export(&self, id: SpoolId, family: Family, record: &[u8]) -> Result<(), SpoolError> {
        let name = format!("{id}.{}", rocks::name(family));
        self.write(&name, record).map_err(|error| {
            io_error(
                &self.folder.join(&name),
                "exporting a record, which stays in the spool",
                &error,
            )
        })
    }

    fn write(&self, name: &str, record: &[u8]) -> io::Result<()> {
        self.make_folder()?;
        let Some(path) = self.unused(name, record)? else { return Ok(()) };
        let unfinished = self.folder.join("unfinished");
        let mut options = File::options();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(record)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        folder::sync(&self.folder)
    }

    fn make_folder(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Ok(()) => {
                let spool = self.folder.parent().expect("it lies below a spool");
                folder::sync(spool)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A free name, with a number if an earlier export has the plain one; `None` if that one is the same. It may have
    /// been cut short before its name was durable.
    fn unused(&self, name: &str, record: &[u8]) -> io::Result<Option<PathBuf>> {
        let mut path = self.folder.join(name);
        for number in 2.. {
            match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
                Ok(content) if content == record => {
                    folder::sync(&self.folder)?;
                    return Ok(None);
                }
                Ok(_) => path = self.folder.join(format!("{name}.{number}")),
            }
        }
        Ok(Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    #[test]
    fn nothing_that_was_exported_is_overwritten_and_the_same_octets_are_kept_once() {
        let directory = TempDir::new().unwrap();
        let quarantine = Quarantine::below(directory.path());
        assert!(!quarantine.folder().exists());
        let id = SpoolId([0xab; 16]);
        for record in ["one", "two", "one", "two", "three"] {
            quarantine.export(id, Family::Meta, record.as_bytes()).unwrap();
        }
        quarantine.export(id, Family::Data, b"one").unwrap();
        let read = |end: &str| {
            fs::read_to_string(quarantine.folder().join(format!("{id}.{end}"))).unwrap()
        };
        assert_eq!(["meta", "meta.2", "meta.3", "data"].map(read), ["one", "two", "three", "one"]);
        assert_eq!(fs::read_dir(quarantine.folder()).unwrap().count(), 4);
        let mode = fs::metadata(quarantine.folder()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_cannot_be_exported_is_an_error_that_names_the_file() {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("quarantine"), "in the way").unwrap();
        let quarantine = Quarantine::below(directory.path());
        let error = quarantine.export(SpoolId([1; 16]), Family::Data, b"x").unwrap_err();
        assert!(error.text.contains("quarantine/01010101"), "{error}");
    }
}

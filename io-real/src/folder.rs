//! Folders that outlive a power cut, and the room on their file systems. Invariant: once [`make`] has returned, the folder's entry in its parent is durable, and so is that of each
//! parent that was missing. What is in the folder is its owner's to sync.
use kumo_core::port::FreeSpace;
use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes it with its missing parents, 0755 less the umask.
pub fn make(path: &Path) -> io::Result<()> {
    let mut levels: Vec<&Path> =
        path.ancestors().take_while(|folder| !folder.as_os_str().is_empty()).collect();
    levels.reverse();
    let standing = levels.iter().take_while(|folder| folder.is_dir()).count();
    // The last that stands may be what an earlier life made and was killed before it had synced.
    for (level, folder) in levels.iter().enumerate().skip(standing.saturating_sub(1)) {
        let is_new = make_one(folder)?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        match sync(parent.unwrap_or(Path::new("."))) {
            // Somebody else's folder, in which we have made nothing.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied
                    && !is_new
                    && level < standing => {}
            synced => synced?,
        }
    }
    Ok(())
}

/// Makes one folder; whether it is new. Its entry in the parent isn't synced yet.
pub(crate) fn make_one(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => Ok(true),
        Err(error) if path.is_dir() && error.kind() != io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Syncs the entries of a folder.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Of the file system it lies on.
pub(crate) fn free_space(path: &Path) -> io::Result<FreeSpace> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut answer = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a C string and `answer` has room for what statvfs writes.
    if unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs succeeded, so it has filled the structure in.
    let answer = unsafe { answer.assume_init() };
    Ok(FreeSpace {
        octets: answer.f_bavail.saturating_mul(answer.f_frsize),
        octets_total: answer.f_blocks.saturating_mul(answer.f_frsize),
        inodes: answer.f_favail,
        inodes_total: answer.f_files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn missing_parents_are_made_and_what_stands_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a/b/c");
        make(&path).unwrap();
        std::fs::write(path.join("file"), "x").unwrap();
        make(&path).unwrap();
        assert!(path.join("file").exists());
        make(Path::new("/")).unwrap();
    }

    #[test]
    fn there_is_room_where_a_folder_is() {
        let directory = TempDir::new().unwrap();
        let free = free_space(directory.path()).unwrap();
        assert!(free.octets > 0 && free.octets <= free.octets_total, "{free:?}");
        let missing = free_space(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(free_space(Path::new("with a NUL\0")).is_err());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(make(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(make(&path.join("below")).is_err());
    }
}

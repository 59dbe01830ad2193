//! Folders that policy or the command line names: made and tried out at the start, so that what is wrong shows then. The spool
//! has a stricter probe of its own, in io-real.
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes the folder and a file in it. `setting` is what an operator has to change: the name of the option.
pub fn prepare(setting: &str, folder: &Path) -> Result<(), String> {
    let failed = |error: io::Error, what: &str| {
        let folder = folder.display();
        let advice = match error.kind() {
            io::ErrorKind::StorageFull => "make room on its file system",
            _ => "it has to be a directory that kumod's user can write",
        };
        format!("{setting} {folder}: can't {what}: {error}; {advice}")
    };
    kumo_io_real::folder::make(folder).map_err(|error| failed(error, "make it"))?;
    // The number keeps others' probes apart.
    let path = folder.join(format!(".probe-{}", std::process::id()));
    let written = File::create(&path).and_then(|mut file| file.write_all(b"probe\n"));
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|error| failed(error, "write a file in it"))
}

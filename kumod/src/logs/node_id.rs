//! The node's identity in log records: a UUID made once and kept in a file.
//! Invariant: the file is either whole or not there, and is never replaced once it holds something.
use kumo_core::random::Random;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Reads the file, or makes it from `seed`. `path` is `$KUMO_NODE_ID_PATH`, or lies beside the meta spool.
pub fn load_or_make(path: &Path, seed: u64) -> Result<String, String> {
    match fs::read_to_string(path) {
        Ok(text) => check(path, text.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, seed),
        Err(error) => Err(unusable(path, "read", &error)),
    }
}

fn unusable(path: &Path, what: &str, error: &io::Error) -> String {
    let directory = path.parent().unwrap_or(path).display();
    format!(
        "can't {what} the node id in {}: {error}; {directory} has to be a directory that kumod's user can write. \
         Without KUMO_NODE_ID_PATH it is the spool that define_spool calls meta",
        path.display()
    )
}

fn check(path: &Path, text: &str) -> Result<String, String> {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    if text.len() == 36 && text.bytes().enumerate().all(is_right) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{} holds no UUID; remove it to get a new node id", path.display()))
}

fn make(path: &Path, seed: u64) -> Result<String, String> {
    let id = uuid(seed);
    keep(path, &id).map_err(|error| unusable(path, "keep", &error))?;
    Ok(id)
}

/// Version 4.
fn uuid(seed: u64) -> String {
    let mut random = Random::new(seed, "node id");
    let (high, low) = (random.next_u64(), random.next_u64());
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    let digits = format!("{high:016x}{low:016x}");
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

fn keep(path: &Path, id: &str) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        kumo_io_real::folder::make(directory)?;
    }
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_read_ever_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meta/nodeid");
        let made = load_or_make(&path, 1).unwrap();
        assert_eq!(check(&path, &made).unwrap(), made);
        assert_eq!(made.as_bytes()[14], b'4', "version 4");
        assert!(b"89ab".contains(&made.as_bytes()[19]), "variant of RFC 9562");
        assert_eq!(load_or_make(&path, 2).unwrap(), made);
        assert_ne!(uuid(2), made);
    }

    #[test]
    fn a_file_with_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodeid");
        for text in ["", "hello", "12345678-1234-1234-1234-1234567890ag"] {
            fs::write(&path, text).unwrap();
            let error = load_or_make(&path, 1).unwrap_err();
            assert!(error.contains("holds no UUID"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}

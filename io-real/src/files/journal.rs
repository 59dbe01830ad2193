//! The journal's segments on disk: `<directory>/journal-<n>.kj`.
//!
//! Invariant: a segment holds whole appends only; what a failed one left is cut off again, or, where even that fails,
//! nothing more goes into that segment. Not synced. Its owner's alone to read. The format within is core's.
use super::explain;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

pub(super) struct Journal {
    directory: PathBuf,
    /// The segment written last.
    open: Option<Segment>,
}

struct Segment {
    number: u64,
    file: File,
    octets: u64,
    is_torn: bool,
}

impl Journal {
    pub(super) fn new(directory: PathBuf) -> Journal {
        Journal { directory, open: None }
    }

    pub(super) fn append(&mut self, number: u64, data: &[u8]) -> Result<(), String> {
        let path = self.path(number);
        let segment = match self.open.take().filter(|segment| segment.number == number) {
            Some(segment) => segment,
            None => self.open_segment(number)?,
        };
        let segment = self.open.insert(segment);
        if segment.is_torn {
            return Err(format!("{} ends in a torn entry: begin a new segment", path.display()));
        }
        match segment.file.write_all(data) {
            Ok(()) => {
                segment.octets += data.len() as u64;
                Ok(())
            }
            Err(error) => {
                segment.is_torn = segment.file.set_len(segment.octets).is_err();
                Err(explain("append to", &path)(error))
            }
        }
    }

    pub(super) fn newest(&self) -> Result<u64, String> {
        Ok(self.segments()?.into_iter().max().unwrap_or(0))
    }

    pub(super) fn trim(&mut self, oldest_kept: u64) -> Result<(), String> {
        for number in self.segments()?.into_iter().filter(|number| *number < oldest_kept) {
            let path = self.path(number);
            fs::remove_file(&path).map_err(explain("remove", &path))?;
        }
        self.open = self.open.take().filter(|segment| segment.number >= oldest_kept);
        Ok(())
    }

    /// Files of other names are none of ours.
    fn segments(&self) -> Result<Vec<u64>, String> {
        if !self.directory.exists() {
            return Ok(Vec::new());
        }
        let entries: Vec<_> = fs::read_dir(&self.directory)
            .and_then(Iterator::collect)
            .map_err(explain("list", &self.directory))?;
        let number = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(segment_number);
        Ok(entries.iter().filter_map(number).collect())
    }

    fn open_segment(&self, number: u64) -> Result<Segment, String> {
        let path = self.path(number);
        fs::create_dir_all(&self.directory).map_err(explain("make directory", &self.directory))?;
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = opened.map_err(explain("open", &path))?;
        let octets = file.metadata().map_err(explain("look at", &path))?.len();
        Ok(Segment { number, file, octets, is_torn: false })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("journal-{number}.kj"))
    }
}

fn segment_number(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix("journal-")?.strip_suffix(".kj")?;
    digits.parse().ok().filter(|number: &u64| number.to_string() == digits)
}

//! Segments: zstd files of lines, one open at a time for each directory and suffix.
//! Invariant: what was packed reaches the file once and in order, however often writing it fails in between; so every
//! operation here may simply be repeated after an error. Names grow with every segment, also when two
//! begin within one second or the clock steps back. A segment is writable as long as it is written, and locked
//! (`flock`), so that what a crash left behind can be told from what somebody still writes.
use kumo_core::date;
use kumo_core::time::Wall;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

/// Packed octets that are kept back for a larger write. What is in a file always ends with a whole line, or
/// with what one call of the system left of it.
const WRITE_OCTETS: usize = 64 * 1024;
/// Names in a row that may be taken already.
const NAME_ATTEMPTS: i64 = 10_000;
/// `YYYYMMDD-HHMMSS`.
const NAME_OCTETS: usize = 15;

/// Where records of some kinds go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub directory: PathBuf,
    pub suffix: String,
}

#[derive(Clone, Copy, Debug)]
pub struct SegmentSettings {
    pub compression_level: i32,
    /// Octets before compression.
    pub max_octets: u64,
    pub max_duration: Option<Duration>,
}

/// The series of segments at one place.
pub struct Sink {
    place: Place,
    settings: SegmentSettings,
    /// The second that the last segment is named after.
    last_second: Option<i64>,
    segment: Option<Segment>,
    /// Of a segment that was closed since the last [`Sink::sync`], which has to tell it.
    unsynced: Option<io::Error>,
}

/// A zstd frame in the making. No I/O; nothing here fails once it has its memory.
struct Frame {
    encoder: Encoder<'static>,
    /// Compressed, and not yet taken out.
    packed: Vec<u8>,
}

struct Segment {
    path: PathBuf,
    file: File,
    frame: Frame,
    /// What of `frame.packed` is in the file.
    written: usize,
    /// Octets before compression.
    octets: u64,
    opened: Instant,
    /// Since when lines wait within the frame, and how many.
    unflushed_since: Option<Instant>,
    unflushed_records: u64,
    ended: bool,
    /// What is in the file is on disk, its name included.
    synced: bool,
}

impl Sink {
    pub fn new(place: Place, settings: SegmentSettings) -> Sink {
        Sink { place, settings, last_second: None, segment: None, unsynced: None }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How many octets the next write may have and still go to the open segment.
    pub fn room(&self) -> u64 {
        let used = self.segment.as_ref().map_or(0, |segment| segment.octets);
        self.settings.max_octets.saturating_sub(used)
    }

    /// Takes whole lines. `second` is when the first of them happened, `since` when they came here. After an error
    /// none of them has been taken.
    pub fn write(
        &mut self,
        lines: &[u8],
        records: u64,
        second: i64,
        since: Instant,
    ) -> io::Result<()> {
        let has_ended = self.segment.as_ref().is_some_and(|segment| segment.ended);
        if has_ended || lines.len() as u64 > self.room() {
            self.close()?;
        }
        if self.segment.is_none() {
            self.segment = Some(self.open(second)?);
        }
        let segment = self.segment.as_mut().expect("one was just made sure of");
        if segment.frame.packed.len() >= WRITE_OCTETS {
            segment.flush()?;
        }
        segment.frame.pack(lines);
        segment.octets += lines.len() as u64;
        segment.unflushed_records += records;
        segment.unflushed_since.get_or_insert(since);
        Ok(())
    }

    /// Everything taken so far is in the file and can be read from it.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.segment {
            Some(segment) => segment.flush(),
            None => Ok(()),
        }
    }

    /// Everything flushed since the last call is on disk, in closed segments too.
    pub fn sync(&mut self) -> io::Result<()> {
        let synced = self.segment.as_mut().map_or(Ok(()), Segment::sync);
        self.unsynced.take().map_or(synced, Err)
    }

    /// Finishes the open segment, if any, syncs it, and makes it read-only.
    pub fn close(&mut self) -> io::Result<()> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if !segment.ended {
            segment.frame.end();
            segment.ended = true;
        }
        segment.drain()?;
        if let Err(error) = segment.sync() {
            let path = segment.path.display();
            tracing::error!(target: "logs", "{path} is complete, but may not survive a power cut: {error}");
            self.unsynced = Some(error);
        }
        if let Err(error) = make_read_only(&segment.file) {
            let path = segment.path.display();
            tracing::warn!(target: "logs", "{path} is complete, but can't be made read-only: {error}");
        }
        self.segment = None;
        Ok(())
    }

    pub fn unflushed_since(&self) -> Option<Instant> {
        self.segment.as_ref().and_then(|segment| segment.unflushed_since)
    }

    pub fn unflushed_records(&self) -> u64 {
        self.segment.as_ref().map_or(0, |segment| segment.unflushed_records)
    }

    /// When the open segment has lasted long enough.
    pub fn expires(&self) -> Option<Instant> {
        let segment = self.segment.as_ref()?;
        self.settings.max_duration.map(|duration| segment.opened + duration)
    }

    fn open(&mut self, second: i64) -> io::Result<Segment> {
        kumo_io_real::folder::make(&self.place.directory)?;
        let frame = Frame::new(self.settings.compression_level)?;
        let first = self.last_second.map_or(second, |last| second.max(last.saturating_add(1)));
        for second in first..first.saturating_add(NAME_ATTEMPTS) {
            let path = self.place.path(second);
            match File::options().append(true).create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    self.last_second = Some(second);
                    return Ok(Segment::new(path, file, frame));
                }
            }
        }
        let text = format!("the next {NAME_ATTEMPTS} segment names are taken");
        Err(io::Error::new(ErrorKind::AlreadyExists, text))
    }
}

impl Frame {
    fn new(compression_level: i32) -> io::Result<Frame> {
        let packed = Vec::with_capacity(2 * WRITE_OCTETS);
        let mut frame = Frame { encoder: Encoder::new(compression_level)?, packed };
        frame.encoder.set_parameter(CParameter::ChecksumFlag(true))?;
        // zstd takes its memory with the first call; should there be none, this is the moment to hear of it.
        frame.advance(|encoder, out| encoder.flush(out))?;
        Ok(frame)
    }

    /// Calls `step` with room for output until it says that nothing is left.
    fn advance<F>(&mut self, mut step: F) -> io::Result<()>
    where
        F: FnMut(&mut Encoder<'static>, &mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
    {
        loop {
            self.packed.reserve(WRITE_OCTETS);
            let at = self.packed.len();
            let mut out = OutBuffer::around_pos(&mut self.packed, at);
            if step(&mut self.encoder, &mut out)? == 0 {
                return Ok(());
            }
        }
    }

    fn pack(&mut self, lines: &[u8]) {
        let mut input = InBuffer::around(lines);
        let packed = self.advance(|encoder, out| {
            encoder.run(&mut input, out)?;
            Ok(lines.len() - input.pos())
        });
        packed.expect("zstd takes any input once it has its memory");
    }

    /// Ends the block, so that everything up to here can be decompressed.
    fn flush(&mut self) {
        let flushed = self.advance(|encoder, out| encoder.flush(out));
        flushed.expect("zstd can always flush once it has its memory");
    }

    fn end(&mut self) {
        let ended = self.advance(|encoder, out| encoder.finish(out, true));
        ended.expect("zstd can always finish once it has its memory");
    }
}

impl Segment {
    fn new(path: PathBuf, file: File, frame: Frame) -> Segment {
        // Not all file systems have locks, and nothing but the sweep of leftovers needs one.
        let _ = file.try_lock();
        Segment {
            path,
            file,
            frame,
            written: 0,
            octets: 0,
            opened: Instant::now(),
            unflushed_since: None,
            unflushed_records: 0,
            ended: false,
            synced: false,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unflushed_since.is_some() {
            self.frame.flush();
        }
        self.drain()?;
        (self.unflushed_since, self.unflushed_records) = (None, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.synced {
            return Ok(());
        }
        // Whatever comes of it: a second try would prove nothing.
        self.synced = true;
        let directory = self.path.parent().expect("a segment lies in a directory");
        let directory = File::open(directory)?;
        self.file.sync_data().and_then(|()| directory.sync_all())
    }

    /// Hands what is packed to the file, from where the last attempt stopped.
    fn drain(&mut self) -> io::Result<()> {
        let packed = &mut self.frame.packed;
        while self.written < packed.len() {
            match self.file.write(&packed[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(octets) => {
                    self.written += octets;
                    self.synced = false;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        packed.clear();
        packed.shrink_to(2 * WRITE_OCTETS);
        self.written = 0;
        Ok(())
    }
}

impl Place {
    fn path(&self, second: i64) -> PathBuf {
        let name = date::segment_name(Wall::from_unix_seconds(second));
        self.directory.join(name + &self.suffix)
    }

    /// Makes read-only what an earlier life of kumod left open here, since tailers wait for it. Yields how many.
    pub fn close_leftovers(&self) -> io::Result<usize> {
        let mut closed = 0;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            closed += usize::from(self.is_segment(&path) && close_leftover(&path)?);
        }
        Ok(closed)
    }

    fn is_segment(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        let stem = name.and_then(|name| name.strip_suffix(self.suffix.as_str()));
        stem.is_some_and(|stem| {
            let is_right = |(at, byte): (usize, u8)| match at {
                8 => byte == b'-',
                _ => byte.is_ascii_digit(),
            };
            stem.len() == NAME_OCTETS && stem.bytes().enumerate().all(is_right)
        })
    }
}

fn close_leftover(path: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() || metadata.permissions().readonly() {
        return Ok(false);
    }
    let file = File::open(path)?;
    if file.try_lock().is_err() {
        return Ok(false);
    }
    make_read_only(&file).map(|()| true)
}

fn make_read_only(file: &File) -> io::Result<()> {
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind::StorageFull;

    fn sink(directory: &Path) -> Sink {
        let place = Place { directory: directory.into(), suffix: String::new() };
        let (max_octets, max_duration) = (u64::MAX, None);
        Sink::new(place, SegmentSettings { compression_level: 0, max_octets, max_duration })
    }

    /// So many that zstd hands out more than is kept back.
    const LINES: u64 = 40_000;

    /// Lines that don't compress well, so that they fill what is kept back.
    fn lines(seed: u64) -> Vec<u8> {
        let mut random = kumo_core::random::Random::new(seed, "lines");
        (0..LINES).flat_map(|_| format!("{:016x}\n", random.next_u64()).into_bytes()).collect()
    }

    #[test]
    fn a_full_disk_anywhere_between_leaves_every_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(folder.path());
        let now = Instant::now();
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let swap = |sink: &mut Sink, file: File| {
            std::mem::replace(&mut sink.segment.as_mut().unwrap().file, file)
        };
        let mut expected = Vec::new();
        for round in 0..20 {
            let lines = lines(round);
            sink.write(&lines, LINES, 0, now).unwrap();
            expected.extend_from_slice(&lines);
            let file = swap(&mut sink, full());
            let error = match round % 3 {
                0 => sink.flush().unwrap_err(),
                1 => sink.write(b"never taken\n", 1, 0, now).unwrap_err(),
                _ => sink.close().unwrap_err(),
            };
            assert_eq!(error.kind(), StorageFull, "round {round}");
            assert!(sink.unflushed_records() >= LINES);
            swap(&mut sink, file);
            sink.flush().unwrap();
            assert_eq!(sink.unflushed_records(), 0);
        }
        sink.close().unwrap();
        let mut found = Vec::new();
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in &paths {
            found.extend(zstd::decode_all(File::open(path).unwrap()).unwrap());
        }
        assert_eq!(paths.len(), 7, "a segment whose end was written is never added to");
        assert!(found == expected);
    }

    #[test]
    fn names_grow_although_the_clock_steps_back_and_taken_ones_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("19700101-000011"), "").unwrap();
        let mut sink = sink(folder.path());
        for second in [10, 10, 3, 100] {
            sink.write(b"x\n", 1, second, Instant::now()).unwrap();
            sink.close().unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let seconds = ["000010", "000011", "000012", "000013", "000140"];
        assert_eq!(names, seconds.map(|second| format!("19700101-{second}")));
    }

    #[test]
    fn what_a_closed_segment_could_not_sync_is_told_once_by_the_next_sync() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = sink(folder.path());
        sink.unsynced = Some(StorageFull.into());
        assert_eq!(sink.sync().unwrap_err().kind(), StorageFull);
        assert!(sink.sync().is_ok());
    }
}

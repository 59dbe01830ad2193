//! A pipe between two sockets: octets go from one into it and from it into the other without coming up to this process (splice(2)).
//! Invariant: its descriptors are closed with it; neither call blocks.
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

/// What a pipe holds.
const CAPACITY: usize = 64 * 1024;

pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    pub fn new() -> io::Result<Pipe> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for two descriptors.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: pipe2 succeeded, so both are open and nobody else's.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        Ok(Pipe { read, write })
    }

    /// Octets taken from a socket; 0 is its end. The pipe is empty before.
    pub fn fill(&self, from: RawFd) -> io::Result<usize> {
        splice(from, self.write.as_raw_fd(), CAPACITY)
    }

    /// Octets given to a socket, of so many in the pipe.
    pub fn drain(&self, to: RawFd, octets: usize) -> io::Result<usize> {
        splice(self.read.as_raw_fd(), to, octets)
    }
}

fn splice(from: RawFd, to: RawFd, octets: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are open as long as their owners, who lend them here; no offsets are given.
    let moved = unsafe { libc::splice(from, null_mut(), to, null_mut(), octets, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

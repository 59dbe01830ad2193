//! One direction of a relay without a copy: from a socket into a pipe, from the pipe into a socket, by `splice(2)`. Invariant: the pipe is
//! empty whenever the source is read, so that nothing is left in it at the end.
use crate::relay::{Broken, Progress};
use socket2::SockRef;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// As much as a pipe holds by default.
const CHUNK: usize = 64 * 1024;

pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    pub fn new() -> io::Result<Pipe> {
        let mut ends = [0; 2];
        // SAFETY: pipe2 writes two descriptors into an array of two.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both are open, and nobody else knows of them.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        Ok(Pipe { read, write })
    }

    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        splice(from.as_fd(), self.write.as_fd(), CHUNK)
    }

    fn drain(&mut self, to: &TcpStream, octets: usize) -> io::Result<usize> {
        splice(self.read.as_fd(), to.as_fd(), octets)
    }
}

/// Moves at most so many octets; 0 is the end of `from`.
fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, octets: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (no_offset, none) = (std::ptr::null_mut(), std::ptr::null_mut());
    loop {
        // SAFETY: both descriptors are open as long as they are borrowed; null offsets are what sockets and pipes need.
        let moved = unsafe {
            libc::splice(from.as_raw_fd(), no_offset, to.as_raw_fd(), none, octets, flags)
        };
        match usize::try_from(moved) {
            Ok(moved) => return Ok(moved),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Whether this system lets us: a sandbox may not.
pub fn is_possible() -> io::Result<()> {
    let (from, to) = (Pipe::new()?, Pipe::new()?);
    match splice(from.read.as_fd(), to.write.as_fd(), CHUNK) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other.map(drop),
    }
}

/// Until `from` ends, which `to` is told.
pub async fn pass(
    from: &TcpStream,
    to: &TcpStream,
    pipe: &mut Pipe,
    progress: &Progress<'_>,
) -> Result<(), Broken> {
    loop {
        let filled = from.async_io(Interest::READABLE, || pipe.fill(from)).await;
        let mut left = filled.map_err(Broken::Reading)?;
        if left == 0 {
            return match SockRef::from(to).shutdown(Shutdown::Write) {
                // Nobody is left to be told.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                told => told.map_err(Broken::Writing),
            };
        }
        while left > 0 {
            let drained = to.async_io(Interest::WRITABLE, || pipe.drain(to, left)).await;
            let drained = drained.map_err(Broken::Writing)?;
            left -= drained;
            progress.moved(drained);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_possible_here() {
        is_possible().unwrap();
    }

    #[tokio::test]
    async fn what_a_pipe_takes_it_gives() {
        let mut pipe = Pipe::new().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (here, _) = listener.accept().await.unwrap();
        let nothing = pipe.fill(&here).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        there.writable().await.unwrap();
        assert_eq!(there.try_write(b"hello").unwrap(), 5);
        here.readable().await.unwrap();
        assert_eq!(pipe.fill(&here).unwrap(), 5);
        assert_eq!(pipe.drain(&here, 5).unwrap(), 5);
        there.readable().await.unwrap();
        let mut heard = [0; 5];
        assert_eq!(there.try_read(&mut heard).unwrap(), 5);
        assert_eq!(&heard, b"hello");
        drop(there);
        here.readable().await.unwrap();
        assert_eq!(pipe.fill(&here).unwrap(), 0);
    }
}

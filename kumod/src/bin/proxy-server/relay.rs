//! Passes octets on between two connections, in both directions, until both have ended. Invariants: what comes out is what went in, in order; the
//! end of one direction is passed on while the other goes on; a direction on which nothing moves for an hour ends both.
use super::{Proxy, splice};
use kumo_driver::counters::Counter;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than any wait of SMTP (RFC 5321 4.5.3.2): what ends it earlier is keep-alive.
const IDLE: Duration = Duration::from_secs(3600);
const CHUNK: usize = 64 * 1024;
/// Of TCP's keep-alive, in seconds, and how often it is tried.
const KEEP_ALIVE_AFTER: i32 = 300;
const KEEP_ALIVE_EVERY: i32 = 30;
const KEEP_ALIVE_TRIES: i32 = 3;

/// `first`: what the client had said already.
pub async fn relay(
    proxy: &Proxy,
    client: TcpStream,
    destination: TcpStream,
    first: &[u8],
) -> io::Result<()> {
    let counters = &proxy.counters;
    for stream in [&client, &destination] {
        stream.set_nodelay(true)?;
    }
    write_all(&destination, first).await?;
    counters.octets_to_destinations.add(first.len() as u64);
    let there = direction(proxy, &client, &destination, &counters.octets_to_destinations);
    let back = direction(proxy, &destination, &client, &counters.octets_to_clients);
    tokio::try_join!(there, back).map(drop)
}

async fn direction(
    proxy: &Proxy,
    from: &TcpStream,
    to: &TcpStream,
    passed: &Counter,
) -> io::Result<()> {
    let pipe = proxy.splices.then(splice::Pipe::new).transpose()?;
    match pipe {
        Some(pipe) => spliced(from, to, &pipe, passed).await?,
        None => copied(from, to, passed).await?,
    }
    shut_down(to)
}

async fn copied(from: &TcpStream, to: &TcpStream, passed: &Counter) -> io::Result<()> {
    let mut octets = vec![0; CHUNK];
    loop {
        in_time(from.readable()).await?;
        match from.try_read(&mut octets) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                write_all(to, &octets[..length]).await?;
                passed.add(length as u64);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write_all(to: &TcpStream, mut octets: &[u8]) -> io::Result<()> {
    while !octets.is_empty() {
        in_time(to.writable()).await?;
        match to.try_write(octets) {
            Ok(length) => octets = &octets[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// From socket to pipe to socket, within the kernel.
async fn spliced(
    from: &TcpStream,
    to: &TcpStream,
    pipe: &splice::Pipe,
    passed: &Counter,
) -> io::Result<()> {
    loop {
        in_time(from.readable()).await?;
        let taken = from.try_io(Interest::READABLE, || pipe.fill(from.as_raw_fd()));
        let mut left = match taken {
            Ok(0) => return Ok(()),
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        passed.add(left as u64);
        while left > 0 {
            in_time(to.writable()).await?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(to.as_raw_fd(), left)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(given) => left -= given,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

async fn in_time(ready: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(IDLE, ready).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Of what is written to it; it may still be read.
fn shut_down(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: the descriptor is the stream's, which lives.
    match unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Gone already.
            error if error.kind() == ErrorKind::NotConnected => Ok(()),
            error => Err(error),
        },
    }
}

/// Best effort: a connection without it is as good until the other end vanishes.
pub fn keep_alive(stream: &TcpStream) {
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEP_ALIVE_AFTER),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEP_ALIVE_EVERY),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEP_ALIVE_TRIES),
    ];
    for (level, option, value) in options {
        let size = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the descriptor is the stream's, which lives, and `value` is an int of that size.
        let set = unsafe {
            libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), size)
        };
        if set != 0 {
            tracing::debug!("keep-alive can't be set: {}", io::Error::last_os_error());
        }
    }
}

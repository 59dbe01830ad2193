//! What the kernel's errors mean, and what an operator can do about them.
//!
//! Invariant: the kind is told by errno, never by text; every text begins with what was tried and where.
use kumo_core::port::{NetError, NetErrorKind};
use std::io;
use std::net::{IpAddr, SocketAddr};

pub(super) fn net_error(tried: impl std::fmt::Display, error: &io::Error) -> NetError {
    let kind = kind(error);
    let text = match advice(kind, error) {
        Some(advice) => format!("{tried}: {error}: {advice}"),
        None => format!("{tried}: {error}"),
    };
    NetError { kind, text }
}

/// Of connecting, from a socket that is bound if it has to be.
pub(super) fn connect_error(
    remote: SocketAddr,
    source: Option<IpAddr>,
    error: &io::Error,
) -> NetError {
    let tried = attempt(remote, source);
    match kind(error) {
        // After a successful bind these say that the kernel has no port left for us.
        NetErrorKind::AddressNotAvailable | NetErrorKind::AddressInUse => {
            ports_used_up(&tried, error)
        }
        _ => net_error(tried, error),
    }
}

/// Of binding to a source address, with a port of the kernel's choice.
pub(super) fn source_error(remote: SocketAddr, source: IpAddr, error: &io::Error) -> NetError {
    let tried = attempt(remote, Some(source));
    match kind(error) {
        NetErrorKind::AddressInUse => ports_used_up(&tried, error),
        NetErrorKind::AddressNotAvailable | NetErrorKind::Exhausted => net_error(tried, error),
        _ => NetError { kind: NetErrorKind::Bind, ..net_error(tried, error) },
    }
}

fn attempt(remote: SocketAddr, source: Option<IpAddr>) -> String {
    match source {
        Some(source) => format!("connect from {source} to {remote}"),
        None => format!("connect to {remote}"),
    }
}

fn ports_used_up(tried: &str, error: &io::Error) -> NetError {
    let advice =
        "all local ports are in use: widen net.ipv4.ip_local_port_range or limit connections";
    NetError { kind: NetErrorKind::Exhausted, text: format!("{tried}: {error}: {advice}") }
}

pub(super) fn kind(error: &io::Error) -> NetErrorKind {
    match error.raw_os_error() {
        Some(code) => kind_of_code(code),
        None if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            NetErrorKind::Tls
        }
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::WriteZero
            | io::ErrorKind::ConnectionReset => NetErrorKind::Reset,
            io::ErrorKind::TimedOut => NetErrorKind::TimedOut,
            _ => NetErrorKind::Other,
        },
    }
}

fn kind_of_code(code: i32) -> NetErrorKind {
    match code {
        libc::ECONNREFUSED => NetErrorKind::Refused,
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EAFNOSUPPORT => NetErrorKind::Unreachable,
        libc::ETIMEDOUT => NetErrorKind::TimedOut,
        libc::EADDRNOTAVAIL => NetErrorKind::AddressNotAvailable,
        libc::EADDRINUSE => NetErrorKind::AddressInUse,
        libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED | libc::ENOTCONN => NetErrorKind::Reset,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => NetErrorKind::Exhausted,
        _ => NetErrorKind::Other,
    }
}

fn advice(kind: NetErrorKind, error: &io::Error) -> Option<&'static str> {
    match (kind, error.raw_os_error()) {
        (NetErrorKind::AddressInUse, _) => {
            Some("stop the process that listens there (`ss -ltnp` names it) or choose another port")
        }
        (NetErrorKind::AddressNotAvailable, _) => Some(
            "no interface has this address: add it (`ip address add`) or correct the configuration",
        ),
        (_, Some(libc::EMFILE)) => {
            Some("raise this process's limit of open files (LimitNOFILE, ulimit -n)")
        }
        (_, Some(libc::ENFILE)) => {
            Some("raise the system's limit of open files (sysctl fs.file-max)")
        }
        (_, Some(libc::ENOMEM | libc::ENOBUFS)) => Some("the kernel is out of memory for sockets"),
        (_, Some(libc::EACCES)) => Some(
            "a port below 1024 needs root or CAP_NET_BIND_SERVICE; otherwise a firewall says no",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOTE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 25);
    const SOURCE: IpAddr = REMOTE.ip();

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn each_errno_has_its_kind() {
        for (code, expected) in [
            (libc::ECONNREFUSED, NetErrorKind::Refused),
            (libc::EHOSTUNREACH, NetErrorKind::Unreachable),
            (libc::ENETUNREACH, NetErrorKind::Unreachable),
            (libc::ETIMEDOUT, NetErrorKind::TimedOut),
            (libc::EADDRNOTAVAIL, NetErrorKind::AddressNotAvailable),
            (libc::EADDRINUSE, NetErrorKind::AddressInUse),
            (libc::ECONNRESET, NetErrorKind::Reset),
            (libc::EPIPE, NetErrorKind::Reset),
            (libc::EMFILE, NetErrorKind::Exhausted),
            (libc::ENFILE, NetErrorKind::Exhausted),
            (libc::ENOMEM, NetErrorKind::Exhausted),
            (libc::EPERM, NetErrorKind::Other),
        ] {
            assert_eq!(kind(&os(code)), expected, "{}", os(code));
        }
        let broken = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(kind(&broken), NetErrorKind::Tls);
    }

    #[test]
    fn a_missing_source_address_and_used_up_ports_are_told_apart() {
        let source = Some(SOURCE);
        let missing = source_error(REMOTE, SOURCE, &os(libc::EADDRNOTAVAIL));
        assert_eq!(missing.kind, NetErrorKind::AddressNotAvailable);
        let without_scope = source_error(REMOTE, SOURCE, &os(libc::EINVAL));
        assert_eq!(without_scope.kind, NetErrorKind::Bind);
        let used_up = source_error(REMOTE, SOURCE, &os(libc::EMFILE));
        assert_eq!(used_up.kind, NetErrorKind::Exhausted);
        for error in [
            source_error(REMOTE, SOURCE, &os(libc::EADDRINUSE)),
            connect_error(REMOTE, source, &os(libc::EADDRNOTAVAIL)),
            connect_error(REMOTE, None, &os(libc::EADDRINUSE)),
        ] {
            assert_eq!(error.kind, NetErrorKind::Exhausted, "{error}");
        }
        let refused = connect_error(REMOTE, source, &os(libc::ECONNREFUSED));
        assert_eq!(refused.kind, NetErrorKind::Refused);
        assert!(refused.text.starts_with("connect from 127.0.0.1 to 127.0.0.1:25: "), "{refused}");
    }
}

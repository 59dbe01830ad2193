//! The `Network` and `Listener` ports over tokio: dialling and listening.
//!
//! Invariant: a connection that is handed out has TCP_NODELAY set and carries nothing but what it needs to
//! become TLS. No deadline stands here, except that of a shutdown; no decision about trying again either.
mod error;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::RealStream;

use crate::tls::{TlsConfigurations, system_roots};
use error::{connect_error, net_error, source_error};
use kumo_core::port::{DialRequest, Listener, NetError, NetErrorKind, Network, TlsAccept};
use rustls::RootCertStore;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds for us until we accept them.
const BACKLOG: u32 = 1024;

/// TCP of this machine.
pub struct RealNetwork {
    tls: Arc<TlsConfigurations>,
}

impl RealNetwork {
    /// Certificates are verified against what the system trusts: [`system_roots`].
    pub fn from_system() -> Result<RealNetwork, NetError> {
        RealNetwork::with_roots(system_roots()?)
    }

    pub fn with_roots(roots: RootCertStore) -> Result<RealNetwork, NetError> {
        Ok(RealNetwork { tls: Arc::new(TlsConfigurations::new(roots)?) })
    }
}

impl Network for RealNetwork {
    type Stream = RealStream;
    type Listener = RealListener;

    async fn dial(&self, request: DialRequest) -> Result<RealStream, NetError> {
        let DialRequest { remote, source_address } = request;
        let socket = outgoing_socket(remote, source_address)?;
        let tcp = socket
            .connect(remote)
            .await
            .map_err(|error| connect_error(remote, source_address, &error))?;
        Ok(RealStream::new(tcp, self.tls.clone()))
    }

    async fn listen(&self, address: SocketAddr) -> Result<RealListener, NetError> {
        let listen = || {
            let socket = new_socket(address)?;
            // A restart must not wait until the last run's connections have timed out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok(RealListener { listener, address, tls: self.tls.clone() })
        };
        listen().map_err(|error: io::Error| net_error(format_args!("listen on {address}"), &error))
    }

    fn prepare_tls(&self, accept: &TlsAccept) -> Result<(), NetError> {
        self.tls.prepare(accept).map(drop)
    }
}

fn new_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

fn outgoing_socket(remote: SocketAddr, source: Option<IpAddr>) -> Result<TcpSocket, NetError> {
    let socket = new_socket(remote).map_err(|error| connect_error(remote, source, &error))?;
    if let Some(source) = source {
        if source.is_ipv4() != remote.is_ipv4() {
            let text =
                format!("connect from {source} to {remote}: the two are of different families");
            return Err(NetError { kind: NetErrorKind::Unreachable, text });
        }
        socket
            .bind(SocketAddr::new(source, 0))
            .map_err(|error| source_error(remote, source, &error))?;
    }
    Ok(socket)
}

/// A listening socket. What it accepts also serves as the transport of an HTTP server, being `AsyncRead` and
/// `AsyncWrite`.
pub struct RealListener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<TlsConfigurations>,
}

impl Listener for RealListener {
    type Stream = RealStream;

    async fn accept(&mut self) -> Result<(RealStream, SocketAddr), NetError> {
        loop {
            match self.listener.accept().await {
                Ok((tcp, peer)) => {
                    return Ok((RealStream::new(tcp, self.tls.clone()), canonical(peer)));
                }
                // A client that left before its turn; each error takes one off the queue.
                Err(error) if error::kind(&error) == NetErrorKind::Reset => {}
                Err(error) => {
                    return Err(net_error(format_args!("accept on {}", self.address), &error));
                }
            }
        }
    }

    fn local_address(&self) -> SocketAddr {
        canonical(self.address)
    }
}

/// On a socket for both families the kernel shows IPv4 addresses as `::ffff:192.0.2.1`.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            SocketAddr::new(v6.to_canonical(), address.port())
        }
        _ => address,
    }
}

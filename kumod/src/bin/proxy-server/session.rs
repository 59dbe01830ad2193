//! One client: its handshake, the connection it asks for, and then whatever the two sides say. Invariant: the handshake ends within its patience,
//! and so does the connection; the client hears of each failure as the protocol has it.
use super::{Proxy, relay};
use kumo_core::proxy::socks5::server::{Output, Server};
use kumo_core::proxy::socks5::{Destination, ReplyCode};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

/// What one read of a handshake may bring.
const CHUNK: usize = 512;

pub async fn run(proxy: &Proxy, mut client: TcpStream, from: SocketAddr) {
    let counters = &proxy.counters;
    counters.connections_total.add(1);
    counters.connections.add(1);
    relay::keep_alive(&client);
    let mut handshake = Handshake { proxy, server: Server::new(false), bound: None };
    match timeout(proxy.patience, handshake.shake(&mut client)).await {
        Ok(Ok((destination, rest))) => {
            if let Err(error) = relay::relay(proxy, client, destination, &rest).await {
                tracing::debug!(%from, "connection lost: {error}");
            }
        }
        Ok(Err(why)) => tracing::info!(%from, "{why}"),
        Err(_) => {
            counters.failed_handshakes.add(1);
            tracing::info!(%from, "its handshake took longer than {:?}", proxy.patience);
        }
    }
    counters.connections.sub(1);
}

struct Handshake<'a> {
    proxy: &'a Proxy,
    server: Server,
    /// Bound to the address that the client has asked for.
    bound: Option<TcpSocket>,
}

impl Handshake<'_> {
    /// The connection to the destination, and what the client said after its request.
    async fn shake(&mut self, client: &mut TcpStream) -> Result<(TcpStream, Vec<u8>), String> {
        let mut destination = None;
        loop {
            match self.server.poll() {
                Some(Output::Send(octets)) => {
                    client.write_all(&octets).await.map_err(|error| self.broken(&error))?;
                }
                // None is asked for.
                Some(Output::Authenticate { .. }) => self.server.authenticated(false),
                Some(Output::Bind(address)) => self.bind(address),
                Some(Output::Connect { destination: to, .. }) => {
                    destination = self.connect(&to).await;
                }
                Some(Output::Relay { rest }) => {
                    let destination = destination.take().expect("relayed once connected");
                    return Ok((destination, rest));
                }
                Some(Output::Close(why)) => return Err(why),
                None => self.read(client).await?,
            }
        }
    }

    async fn read(&mut self, client: &mut TcpStream) -> Result<(), String> {
        let mut octets = [0; CHUNK];
        match client.read(&mut octets).await.map_err(|error| self.broken(&error))? {
            0 => {
                self.proxy.counters.failed_handshakes.add(1);
                Err("it closed the connection during its handshake".into())
            }
            length => {
                self.server.handle(&octets[..length]);
                Ok(())
            }
        }
    }

    fn broken(&self, error: &io::Error) -> String {
        self.proxy.counters.failed_handshakes.add(1);
        format!("its handshake broke off: {error}")
    }

    fn bind(&mut self, address: IpAddr) {
        let bind = || {
            let socket = new_socket(address)?;
            socket.bind(SocketAddr::new(address, 0))?;
            Ok((socket.local_addr()?, socket))
        };
        match bind() {
            Ok((local, socket)) => {
                self.bound = Some(socket);
                self.server.bound(Ok(local));
            }
            Err(error) => {
                let error: io::Error = error;
                tracing::warn!("can't connect from {address}: {error}");
                self.proxy.counters.failed_binds.add(1);
                self.server.bound(Err(code_of(&error)));
            }
        }
    }

    async fn connect(&mut self, to: &Destination) -> Option<TcpStream> {
        let patience = self.proxy.patience;
        let connecting = timeout(patience, connected(self.bound.take(), to)).await;
        let connected = connecting.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
        match connected.and_then(|stream| Ok((stream.local_addr()?, stream))) {
            Ok((local, stream)) => {
                relay::keep_alive(&stream);
                self.server.connected(Ok(local));
                Some(stream)
            }
            Err(error) => {
                tracing::info!("can't connect to {to}: {error}");
                self.proxy.counters.failed_connects.add(1);
                self.server.connected(Err(code_of(&error)));
                None
            }
        }
    }
}

fn new_socket(address: IpAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn connected(bound: Option<TcpSocket>, to: &Destination) -> io::Result<TcpStream> {
    let of_family = bound.as_ref().and_then(|socket| socket.local_addr().ok());
    let fits =
        |address: &SocketAddr| of_family.is_none_or(|local| local.is_ipv4() == address.is_ipv4());
    let address = match to {
        Destination::Address(address) => Some(*address).filter(fits),
        Destination::Name { host, port } => lookup_host((&**host, *port)).await?.find(fits),
    };
    let address = address.ok_or(ErrorKind::AddrNotAvailable)?;
    let socket = match bound {
        Some(socket) => socket,
        None => new_socket(address.ip())?,
    };
    socket.connect(address).await
}

fn code_of(error: &io::Error) -> ReplyCode {
    match error.kind() {
        ErrorKind::ConnectionRefused => ReplyCode::CONNECTION_REFUSED,
        ErrorKind::NetworkUnreachable => ReplyCode::NETWORK_UNREACHABLE,
        ErrorKind::HostUnreachable => ReplyCode::HOST_UNREACHABLE,
        ErrorKind::TimedOut => ReplyCode::TTL_EXPIRED,
        ErrorKind::AddrNotAvailable => ReplyCode::ADDRESS_NOT_SUPPORTED,
        ErrorKind::PermissionDenied => ReplyCode::NOT_ALLOWED,
        _ => ReplyCode::GENERAL_FAILURE,
    }
}

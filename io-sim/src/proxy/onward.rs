//! Where a proxy's connections lead: to one place, or where each client says, by PROXY protocol or SOCKS5 (both ends of which are core's). Invariant:
//! a client gets a connection from the address it asked for, or none; asking and connecting end within a time.
use crate::net::{SimNetwork, SimStream};
use bytes::BytesMut;
use kumo_core::port::{DialRequest, NetError, NetErrorKind, Network, Stream};
use kumo_core::proxy::socks5::server::{Authentication, Output, Server};
use kumo_core::proxy::socks5::{Destination, ReplyCode};
use kumo_core::proxy::v2;
use kumo_core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use tokio::time::timeout;

/// For a client to say where to, and then for the connection there.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub enum Onward {
    To(SocketAddr),
    /// Where the client's PROXY header says, if `plumbed` has the address that it is to come from.
    Announced {
        plumbed: Vec<IpAddr>,
    },
    /// Where the client asks to by SOCKS5, if `plumbed` has the address that it asks to come from.
    Asked {
        plumbed: Vec<IpAddr>,
    },
}

impl Onward {
    /// The client's connection and its way on; `None` if there is none, which the client has been told as well as it can be.
    pub(super) async fn connect(
        &self,
        network: &SimNetwork,
        mut client: SimStream,
    ) -> Option<(SimStream, SimStream)> {
        let found = match self {
            Onward::To(remote) => dial(network, *remote, None).await.ok(),
            Onward::Announced { plumbed } => announced(network, &mut client, plumbed).await,
            Onward::Asked { plumbed } => {
                let asked = timeout(PATIENCE * 2, asked(network, &mut client, plumbed)).await;
                match asked {
                    Ok(Some(server)) => Some(server),
                    // It has been told, and needs the time to read it.
                    Ok(None) => {
                        client.shutdown().await;
                        return None;
                    }
                    Err(_) => None,
                }
            }
        };
        match found {
            Some(server) => Some((client, server)),
            None => {
                client.reset();
                None
            }
        }
    }
}

/// The address is the proxy's to send from.
fn has(network: &SimNetwork, plumbed: &[IpAddr], address: IpAddr) -> bool {
    plumbed.contains(&address) && !network.lacks(address)
}

async fn dial(
    network: &SimNetwork,
    remote: SocketAddr,
    source_address: Option<IpAddr>,
) -> Result<SimStream, NetErrorKind> {
    let request = DialRequest { remote, source_address };
    match timeout(PATIENCE, network.dial(request)).await {
        Ok(dialled) => dialled.map_err(|NetError { kind, .. }| kind),
        Err(_) => Err(NetErrorKind::Unreachable),
    }
}

async fn announced(
    network: &SimNetwork,
    client: &mut SimStream,
    plumbed: &[IpAddr],
) -> Option<SimStream> {
    let (source, remote) = timeout(PATIENCE, header(client)).await.ok()??;
    match has(network, plumbed, source.ip()) {
        true => dial(network, remote, Some(source.ip())).await.ok(),
        false => None,
    }
}

/// Nothing of what comes after it: a server of mail speaks first.
async fn header(client: &mut SimStream) -> Option<(SocketAddr, SocketAddr)> {
    let mut octets = BytesMut::new();
    loop {
        if client.read(&mut octets).await.ok()? == 0 {
            return None;
        }
        match v2::parse(&octets).ok()? {
            v2::Parsed::NeedMore => {}
            v2::Parsed::Header { addresses, octets: length } => {
                assert_eq!(length, octets.len(), "a client of mail speaks second");
                return addresses;
            }
        }
    }
}

async fn asked(
    network: &SimNetwork,
    client: &mut SimStream,
    plumbed: &[IpAddr],
) -> Option<SimStream> {
    let mut machine = Server::new(Authentication::None);
    let mut server = None;
    let mut octets = BytesMut::new();
    loop {
        match machine.poll() {
            Some(Output::Send(reply)) => client.write_all(&reply).await.ok()?,
            Some(Output::Authenticate { .. }) => unreachable!("no password is taken"),
            Some(Output::Bind(address)) => machine.bound(match has(network, plumbed, address) {
                true => Ok(SocketAddr::new(address, 0)),
                false => Err(ReplyCode::GENERAL_FAILURE),
            }),
            Some(Output::Connect { destination, source }) => {
                let connected = connect(network, &destination, source).await;
                machine.connected(connected.map(|(stream, local)| {
                    server = Some(stream);
                    local
                }));
            }
            Some(Output::Relay { rest }) => {
                assert!(rest.is_empty(), "a client of mail speaks second");
                return server;
            }
            Some(Output::Close(_)) => return None,
            None => {
                octets.clear();
                match client.read(&mut octets).await.ok()? {
                    0 => return None,
                    _ => machine.handle(&octets),
                }
            }
        }
    }
}

async fn connect(
    network: &SimNetwork,
    destination: &Destination,
    source: Option<IpAddr>,
) -> Result<(SimStream, SocketAddr), ReplyCode> {
    let Destination::Address(remote) = destination else {
        return Err(ReplyCode::HOST_UNREACHABLE);
    };
    let dialled = dial(network, *remote, source).await.map_err(|kind| match kind {
        NetErrorKind::Refused => ReplyCode::CONNECTION_REFUSED,
        _ => ReplyCode::HOST_UNREACHABLE,
    })?;
    let local = dialled.local_address().ok_or(ReplyCode::GENERAL_FAILURE)?;
    Ok((dialled, local))
}

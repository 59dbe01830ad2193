//! The `Stream` port: one TCP connection, in clear text or inside TLS.
//!
//! Invariant: reading never needs more room than the connection has lately used (an idle one a few KiB), and
//! nothing read before an upgrade is kept here, so nothing can leak from clear text into TLS.
//! Deadlines are the driver's, except that of [`Stream::shutdown`].
use super::canonical;
use super::error::{kind, net_error};
use crate::tls::{TlsConfigurations, server_name, tls_error, tls_info};
use bytes::{BufMut, BytesMut};
use kumo_core::limits::READ_CHUNK_OCTETS;
use kumo_core::port::{NetError, NetErrorKind, Stream, TlsAccept, TlsConnect, TlsInfo};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

const READ_CHUNK_OCTETS_MIN: usize = 4 * 1024;
/// How long a peer that reads nothing can hold up our goodbye.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection.
pub struct RealStream {
    transport: Transport,
    tls: Arc<TlsConfigurations>,
    /// What the next read makes room for. Follows what the reads bring.
    read_room: usize,
}

enum Transport {
    Plain(TcpStream),
    TlsClient(Box<client::TlsStream<TcpStream>>),
    TlsServer(Box<server::TlsStream<TcpStream>>),
}

async fn write_parts(
    duplex: &mut dyn Duplex,
    mut data: &[u8],
    taken: &mut (dyn FnMut(usize) + Send),
) -> io::Result<()> {
    while !data.is_empty() {
        let count = duplex.write(data).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data = &data[count..];
        taken(count);
    }
    duplex.flush().await
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl RealStream {
    pub(super) fn new(tcp: TcpStream, tls: Arc<TlsConfigurations>) -> RealStream {
        // Can fail only on a connection that is already gone, which the first read will tell.
        let _ = tcp.set_nodelay(true);
        RealStream::over(Transport::Plain(tcp), tls)
    }

    fn over(transport: Transport, tls: Arc<TlsConfigurations>) -> RealStream {
        RealStream { transport, tls, read_room: READ_CHUNK_OCTETS_MIN }
    }

    /// The socket, for its options and its addresses.
    pub fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::TlsClient(tls) => tls.get_ref().0,
            Transport::TlsServer(tls) => tls.get_ref().0,
        }
    }

    pub(super) fn tcp_mut(&mut self) -> &mut TcpStream {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::TlsClient(tls) => tls.get_mut().0,
            Transport::TlsServer(tls) => tls.get_mut().0,
        }
    }

    fn duplex(&mut self) -> &mut dyn Duplex {
        match &mut self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::TlsClient(tls) => tls,
            Transport::TlsServer(tls) => tls,
        }
    }

    fn pinned(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        Pin::new(self.get_mut().duplex())
    }

    /// Whether the socket carries what is read and written as it is.
    pub fn is_plain(&self) -> bool {
        matches!(self.transport, Transport::Plain(_))
    }

    fn failed(&self, tried: &str, error: &io::Error) -> NetError {
        net_error(format_args!("{tried} {}", peer(self.tcp())), error)
    }

    fn into_plain(self) -> Result<(TcpStream, Arc<TlsConfigurations>), NetError> {
        match self.transport {
            Transport::Plain(tcp) => Ok((tcp, self.tls)),
            _ => Err(tls_error(format!("the connection with {} is TLS already", peer(self.tcp())))),
        }
    }

    /// Grows at once when there was more than room, shrinks slowly.
    fn learn_read_room(&mut self, offered: usize, read: usize) {
        if read == offered {
            self.read_room = (self.read_room * 2).min(READ_CHUNK_OCTETS);
        } else if read < self.read_room / 4 {
            self.read_room = (self.read_room / 2).max(READ_CHUNK_OCTETS_MIN);
        }
    }
}

fn peer(tcp: &TcpStream) -> String {
    tcp.peer_addr()
        .map_or_else(|_| "a peer that is gone".into(), |peer| canonical(peer).to_string())
}

/// Whatever ended a handshake, it is TLS that didn't come about; only our own want is another matter.
fn handshake_error(tried: impl Display, error: &io::Error) -> NetError {
    match kind(error) {
        NetErrorKind::Exhausted => net_error(tried, error),
        _ => tls_error(format!("{tried}: {error}")),
    }
}

impl Stream for RealStream {
    fn local_address(&self) -> Option<SocketAddr> {
        self.tcp().local_addr().ok().map(canonical)
    }

    async fn read(&mut self, buffer: &mut BytesMut) -> Result<usize, NetError> {
        if buffer.capacity() - buffer.len() < self.read_room {
            buffer.reserve(self.read_room);
        }
        let offered = (buffer.capacity() - buffer.len()).min(READ_CHUNK_OCTETS);
        match self.duplex().read_buf(&mut buffer.limit(offered)).await {
            Ok(read) => {
                self.learn_read_room(offered, read);
                Ok(read)
            }
            // Many peers leave TLS without close_notify. Nothing is lost by it: SMTP frames itself.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(self.failed("read from", &error)),
        }
    }

    async fn write_watched(
        &mut self,
        data: &[u8],
        taken: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), NetError> {
        let written = write_parts(self.duplex(), data, taken).await;
        written.map_err(|error| self.failed("write to", &error))
    }

    async fn shutdown(&mut self) {
        let closed = timeout(SHUTDOWN_TIMEOUT, self.duplex().shutdown()).await;
        if !self.is_plain() && !matches!(closed, Ok(Ok(()))) {
            // TLS couldn't take leave; the FIN doesn't depend on it. An error says that the peer is gone.
            let _ = self.tcp_mut().shutdown().await;
        }
    }

    async fn upgrade_client(self, connect: TlsConnect) -> Result<(RealStream, TlsInfo), NetError> {
        let name = server_name(&connect)?;
        let (tcp, tls) = self.into_plain()?;
        let tried = format!("TLS handshake with {} ({})", connect.server_name, peer(&tcp));
        let stream = TlsConnector::from(tls.client(connect.verification))
            .connect(name, tcp)
            .await
            .map_err(|error| handshake_error(tried, &error))?;
        let info = tls_info(stream.get_ref().1);
        Ok((RealStream::over(Transport::TlsClient(Box::new(stream)), tls), info))
    }

    async fn upgrade_server(
        self,
        accept: Arc<TlsAccept>,
    ) -> Result<(RealStream, TlsInfo), NetError> {
        let config = self.tls.server(&accept)?;
        let (tcp, tls) = self.into_plain()?;
        let tried = format!("TLS handshake with client {}", peer(&tcp));
        let stream = TlsAcceptor::from(config)
            .accept(tcp)
            .await
            .map_err(|error| handshake_error(tried, &error))?;
        let info = tls_info(stream.get_ref().1);
        Ok((RealStream::over(Transport::TlsServer(Box::new(stream)), tls), info))
    }
}

impl AsyncRead for RealStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pinned().poll_read(context, buffer)
    }
}

impl AsyncWrite for RealStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pinned().poll_write(context, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned().poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        true // TcpStream's and TlsStream's both are.
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_shutdown(context)
    }
}

//! TLS in name only: who greets whom, whose certificate it is, and that plain octets and TLS records are never taken for each other. Nothing is
//! encrypted. Invariant: a stream counts as TLS only after both records of its handshake have passed. Deadlines are the caller's.
//! The faults strike at the end that isn't the node's; between two others, at the server's.
use crate::fault::FaultKind;
use crate::net::{Mark, SimStream};
use bytes::BytesMut;
use kumo_core::port::{NetError, NetErrorKind, TlsAccept, TlsConnect, TlsInfo, TlsVerification};

/// Handshake, TLS 1.0 as they all say in their first record.
const RECORD: [u8; 3] = [0x16, 3, 1];
const HEADER_OCTETS: usize = RECORD.len() + 2;
const RECORD_OCTETS: usize = 4096;
const GARBAGE: &[u8] = b"500 what do you mean\r\n";
/// Whose certificate a wrong one is.
const SOMEBODY_ELSE: &str = "wrong.invalid";

pub(crate) async fn connect(
    stream: &mut SimStream,
    connect: &TlsConnect,
) -> Result<TlsInfo, NetError> {
    // If the server is the node, the bad end of the handshake is this one.
    if stream.is_to_the_node() && !stream.is_of_the_node() {
        misbehave(stream).await?;
    }
    send_record(stream, &connect.server_name).await?;
    let name = receive_record(stream).await?;
    let is_theirs = name.eq_ignore_ascii_case(&connect.server_name);
    if connect.verification == TlsVerification::Full && !is_theirs {
        let why = format!("the certificate is for {name}, not for {}", connect.server_name);
        return Err(failure(stream, &why));
    }
    stream.set_tls();
    Ok(info())
}

pub(crate) async fn accept(
    stream: &mut SimStream,
    accept: &TlsAccept,
) -> Result<TlsInfo, NetError> {
    receive_record(stream).await?;
    let mut name = accept.hostname.as_str();
    if !stream.is_of_the_node() {
        misbehave(stream).await?;
        if strikes(stream, FaultKind::TlsWrongCertificate) {
            name = SOMEBODY_ELSE;
        }
    }
    send_record(stream, name).await?;
    stream.set_tls();
    Ok(info())
}

fn info() -> TlsInfo {
    TlsInfo {
        protocol: "TLSv1.3".into(),
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        peer_subject: Vec::new(),
    }
}

fn strikes(stream: &SimStream, what: FaultKind) -> bool {
    stream.universe.faults.strikes(what, stream.target()).is_some()
}

fn failure(stream: &SimStream, why: &str) -> NetError {
    let text = format!("TLS handshake with {}: {why}", stream.peer_address());
    NetError { kind: NetErrorKind::Tls, text }
}

/// The faults of the end that is about to speak. An error: it didn't become TLS.
async fn misbehave(stream: &SimStream) -> Result<(), NetError> {
    if strikes(stream, FaultKind::TlsStall) {
        until_the_end(stream).await?;
        return Err(failure(stream, "the other end had to wait for too long"));
    }
    if strikes(stream, FaultKind::TlsGarbage) {
        stream.send(GARBAGE, Mark::Plain).await?;
        until_the_end(stream).await?;
        return Err(failure(stream, "the other end didn't like garbage"));
    }
    Ok(())
}

/// Whatever the other end says, until it gives up.
async fn until_the_end(stream: &SimStream) -> Result<(), NetError> {
    let mut ignored = BytesMut::new();
    while stream.receive(None, &mut ignored).await?.0 > 0 {
        ignored.clear();
    }
    Ok(())
}

/// A name is all that a hello or a certificate holds.
async fn send_record(stream: &SimStream, name: &str) -> Result<(), NetError> {
    let length = u16::try_from(name.len()).ok().filter(|_| name.len() <= RECORD_OCTETS);
    let length = length.ok_or_else(|| failure(stream, "the name is too long"))?;
    let mut record = Vec::with_capacity(HEADER_OCTETS + name.len());
    record.extend_from_slice(&RECORD);
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(name.as_bytes());
    stream.send(&record, Mark::Handshake).await
}

async fn receive_record(stream: &SimStream) -> Result<String, NetError> {
    let mut buffer = BytesMut::new();
    loop {
        if let Some(name) = parse(&buffer).map_err(|why| failure(stream, why))? {
            return Ok(name);
        }
        if stream.receive(Some(Mark::Handshake), &mut buffer).await?.0 == 0 {
            return Err(failure(stream, "the connection was closed in its midst"));
        }
    }
}

/// `None`: not all of it is here yet.
fn parse(buffer: &[u8]) -> Result<Option<String>, &'static str> {
    let Some((header, name)) = buffer.split_first_chunk::<HEADER_OCTETS>() else {
        return Ok(None);
    };
    let [a, b, c, high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if [a, b, c] != RECORD || length > RECORD_OCTETS || name.len() > length {
        return Err("that is no handshake record");
    }
    if name.len() < length {
        return Ok(None);
    }
    let name = std::str::from_utf8(name).map_err(|_| "the name isn't text")?;
    Ok(Some(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tests::*;
    use crate::universe::Universe;
    use kumo_core::port::{Listener, NetErrorKind, Network, Stream};
    use kumo_core::time::Duration;
    use std::sync::Arc;
    use tokio::time::timeout;

    const NAME: &str = "mx.example.com";
    type Upgraded = Result<(SimStream, TlsInfo), NetError>;

    /// Both ends at once; whoever fails lets go of the connection.
    async fn shake(
        (client, server): (SimStream, SimStream),
        verification: TlsVerification,
        hostname: &str,
    ) -> (Upgraded, Upgraded) {
        let accept = TlsAccept { hostname: hostname.into(), certificate: None };
        let serving = tokio::spawn(server.upgrade_server(Arc::new(accept)));
        let connect = TlsConnect { server_name: NAME.into(), verification };
        let client = client.upgrade_client(connect).await;
        (client, serving.await.unwrap())
    }

    fn why(upgraded: Upgraded) -> NetErrorKind {
        upgraded.map(|_| ()).expect_err("no TLS").kind
    }

    async fn speaks_tls(pair: (SimStream, SimStream), verification: TlsVerification, name: &str) {
        let (client, server) = shake(pair, verification, name).await;
        let ((mut client, seen), (mut server, _)) = (client.unwrap(), server.unwrap());
        assert_eq!((seen.protocol.as_str(), seen.peer_subject.len()), ("TLSv1.3", 0));
        write(&mut server, b"250").await.unwrap();
        write(&mut client, b"EHLO").await.unwrap();
        assert_eq!(read_some(&mut client).await.unwrap(), b"250");
        assert_eq!(read_some(&mut server).await.unwrap(), b"EHLO");
        client.shutdown().await;
        assert_eq!(read_some(&mut server).await.unwrap(), b"");
    }

    #[test]
    fn both_ends_speak_tls_after_one_round_trip() {
        run(1, async |universe| {
            let pair = outgoing(&universe).await;
            let began = universe.now().mono;
            speaks_tls(pair, TlsVerification::Full, "MX.example.com").await;
            let took = universe.now().mono.since(began);
            assert!(took <= Duration::from_millis(22), "{took:?}");
            let pair = incoming(&universe).await;
            speaks_tls(pair, TlsVerification::None, "other.example.com").await;
        });
    }

    #[test]
    fn a_handshake_survives_partial_reads_and_writes() {
        for seed in 0..20 {
            run(seed, async |universe| {
                begin(&universe, FaultKind::NetPartialRead);
                begin(&universe, FaultKind::NetPartialWrite);
                let pair = outgoing(&universe).await;
                let (client, server) = shake(pair, TlsVerification::Full, NAME).await;
                assert!(client.is_ok() && server.is_ok());
            });
        }
    }

    #[test]
    fn somebody_elses_certificate_is_noticed_when_it_is_looked_at() {
        run(1, async |universe| {
            let pair = outgoing(&universe).await;
            let (client, _) = shake(pair, TlsVerification::Full, "other.example.com").await;
            assert_eq!(why(client), NetErrorKind::Tls);
            begin(&universe, FaultKind::TlsWrongCertificate);
            let again = async || {
                let listener = crate::net::SimNetwork::of_host(&universe, SERVER.ip());
                let mut listener = listener.listen(SERVER).await.unwrap();
                let near = node(&universe).dial(request(SERVER)).await.unwrap();
                (near, listener.accept().await.unwrap().0)
            };
            let (client, _) = shake(again().await, TlsVerification::Full, NAME).await;
            assert_eq!(why(client), NetErrorKind::Tls);
            speaks_tls(again().await, TlsVerification::None, NAME).await;
            assert_eq!(fired(&universe, FaultKind::TlsWrongCertificate), 2);
        });
    }

    #[test]
    fn a_stalled_handshake_lasts_until_the_other_end_gives_up() {
        let patience = Duration::from_secs(600);
        run(1, async move |universe| {
            begin(&universe, FaultKind::TlsStall);
            let (node, host) = outgoing(&universe).await;
            let host = tokio::spawn(host.upgrade_server(accept_as(NAME)));
            assert!(timeout(patience, node.upgrade_client(connect_to(NAME))).await.is_err());
            assert_eq!(why(host.await.unwrap()), NetErrorKind::Tls);

            let (host, node) = incoming(&universe).await;
            let host = tokio::spawn(host.upgrade_client(connect_to(NAME)));
            assert!(timeout(patience, node.upgrade_server(accept_as(NAME))).await.is_err());
            assert_eq!(why(host.await.unwrap()), NetErrorKind::Tls);
            assert_eq!(fired(&universe, FaultKind::TlsStall), 2);
        });
    }

    #[test]
    fn garbage_is_no_handshake() {
        for towards_node in [false, true] {
            run(1, async move |universe| {
                begin(&universe, FaultKind::TlsGarbage);
                let both = pair(&universe, towards_node).await;
                let (client, server) = shake(both, TlsVerification::None, NAME).await;
                // Who gets it leaves it unread, which resets the connection for who sent it.
                let (node, host) = if towards_node { (server, client) } else { (client, server) };
                assert_eq!((why(node), why(host)), (NetErrorKind::Tls, NetErrorKind::Reset));
            });
        }
    }

    #[test]
    fn plain_octets_and_tls_records_are_not_taken_for_each_other() {
        run(1, async |universe| {
            // Said before the handshake, in the hope that it counts as said within.
            let (mut client, server) = outgoing(&universe).await;
            write(&mut client, b"MAIL FROM:<>").await.unwrap();
            let (_, server) = shake((client, server), TlsVerification::Full, NAME).await;
            assert_eq!(why(server), NetErrorKind::Tls);

            let (client, mut server) = incoming(&universe).await;
            let hello = tokio::spawn(client.upgrade_client(connect_to(NAME)));
            assert_eq!(read_some(&mut server).await, Err(NetErrorKind::Tls));
            drop(server);
            assert!(hello.await.unwrap().is_err());
        });
        run(2, async |universe| {
            let pair = outgoing(&universe).await;
            let (client, server) = shake(pair, TlsVerification::Full, NAME).await;
            let ((mut client, _), (server, _)) = (client.unwrap(), server.unwrap());
            server.send(b"250 plain", Mark::Plain).await.unwrap();
            assert_eq!(read_some(&mut client).await, Err(NetErrorKind::Tls));
        });
    }

    async fn pair(universe: &Arc<Universe>, towards_node: bool) -> (SimStream, SimStream) {
        if towards_node { incoming(universe).await } else { outgoing(universe).await }
    }

    fn connect_to(name: &str) -> TlsConnect {
        TlsConnect { server_name: name.into(), verification: TlsVerification::Full }
    }

    fn accept_as(name: &str) -> Arc<TlsAccept> {
        Arc::new(TlsAccept { hostname: name.into(), certificate: None })
    }
}

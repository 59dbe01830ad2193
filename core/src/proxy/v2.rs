//! The PROXY protocol, version 2 (HAProxy's proxy-protocol.txt, 2.2): the header that goes before everything else on a connection and says whose
//! it is. Invariant: reading never asks for more than a header may have.
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY, and command LOCAL.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// TCP over either family.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// Signature, command, family, length.
const FIXED: usize = 16;
/// What may follow: addresses and what else the sender wants to say.
const REST_OCTETS: usize = 4096;

/// Of a connection from `source` to `destination`, which are of one family.
pub fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED + 36);
    header.extend(SIGNATURE);
    header.push(PROXY);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([TCP4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.extend([TCP6, 0, 36]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    NeedMore,
    /// `addresses`: source and destination; `None` if the sender speaks for itself. What comes after `octets` isn't the header's.
    Header {
        addresses: Option<(SocketAddr, SocketAddr)>,
        octets: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAHeader(&'static str);

/// The beginning of what a connection has brought.
pub fn parse(octets: &[u8]) -> Result<Parsed, NotAHeader> {
    let compared = octets.len().min(SIGNATURE.len());
    if octets[..compared] != SIGNATURE[..compared] {
        return Err(NotAHeader("it doesn't begin as a PROXY header of version 2 does"));
    }
    let Some(fixed) = octets.get(..FIXED) else { return Ok(Parsed::NeedMore) };
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest > REST_OCTETS {
        return Err(NotAHeader("the PROXY header is longer than 4096 octets"));
    }
    let Some(rest) = octets.get(FIXED..FIXED + rest) else { return Ok(Parsed::NeedMore) };
    let addresses = match (fixed[12], fixed[13]) {
        (LOCAL, _) => None,
        (PROXY, TCP4) => Some(addresses(rest, 4)?),
        (PROXY, TCP6) => Some(addresses(rest, 16)?),
        (PROXY, _) => return Err(NotAHeader("the PROXY header isn't about TCP")),
        _ => return Err(NotAHeader("the PROXY header's version or command isn't known")),
    };
    Ok(Parsed::Header { addresses, octets: FIXED + rest.len() })
}

fn addresses(rest: &[u8], width: usize) -> Result<(SocketAddr, SocketAddr), NotAHeader> {
    let part = |from: usize, length: usize| {
        rest.get(from..from + length)
            .ok_or(NotAHeader("the PROXY header's addresses are cut short"))
    };
    let port = |at: usize| part(at, 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let source = SocketAddr::new(address(part(0, width)?), port(2 * width)?);
    let destination = SocketAddr::new(address(part(width, width)?), port(2 * width + 2)?);
    Ok((source, destination))
}

/// Of 4 or 16 octets.
fn address(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => {
            let sixteen = <[u8; 16]>::try_from(octets).expect("there are two widths");
            Ipv6Addr::from(sixteen).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_header_is_as_the_specification_lays_it_out() {
        let header = header(address("192.0.2.1:0"), address("198.51.100.2:25"));
        let expected =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\0\0\0\x19";
        assert_eq!(header, expected);
    }

    #[test]
    fn both_families_come_back_and_every_shorter_piece_asks_for_more() {
        for (from, to) in
            [("192.0.2.1:0", "198.51.100.2:25"), ("[2001:db8::1]:7", "[2001:db8::2]:65535")]
        {
            let (from, to) = (address(from), address(to));
            let mut octets = header(from, to);
            let length = octets.len();
            octets.extend(b"EHLO");
            let expected = Parsed::Header { addresses: Some((from, to)), octets: length };
            assert_eq!(parse(&octets), Ok(expected));
            for cut in 0..length {
                assert_eq!(parse(&octets[..cut]), Ok(Parsed::NeedMore), "{cut}");
            }
        }
    }

    #[test]
    fn who_speaks_for_itself_names_no_addresses_and_more_than_addresses_is_passed_over() {
        let mut local = SIGNATURE.to_vec();
        local.extend([LOCAL, 0, 0, 3, 1, 2, 3]);
        assert_eq!(parse(&local), Ok(Parsed::Header { addresses: None, octets: 19 }));
        let mut longer = header(address("192.0.2.1:0"), address("198.51.100.2:25"));
        longer[15] += 5;
        longer.extend([4, 0, 2, 0, 0]);
        assert!(matches!(parse(&longer), Ok(Parsed::Header { addresses: Some(_), octets: 33 })));
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        for wrong in [
            &b"EHLO"[..],
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut octets in prop::collection::vec(any::<u8>(), 0..80), signed: bool) {
            if signed {
                octets.splice(0..0, SIGNATURE);
            }
            if let Ok(Parsed::Header { octets: length, .. }) = parse(&octets) {
                prop_assert!(length <= octets.len());
            }
        }
    }
}

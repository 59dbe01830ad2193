//! A SOCKS5 client of octets written out by hand (RFC 1928, RFC 1929), and destinations. Nothing of kumod's own protocol machines.
use super::support::PATIENCE;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

pub const NO_AUTH: &[u8] = b"\x05\x01\x00";
pub const SUCCEEDED: u8 = 0;

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn read(stream: &mut impl Read, octets: usize) -> Vec<u8> {
    let mut read = vec![0; octets];
    stream.read_exact(&mut read).expect("as much as is expected");
    read
}

/// Until the end.
pub fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut read = Vec::new();
    stream.read_to_end(&mut read).expect("an end, not a reset");
    read
}

/// BIND is 2, CONNECT is 1.
pub fn request(command: u8, address: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let mut octets = vec![5, command, 0, 1];
    octets.extend(address.ip().octets());
    octets.extend(address.port().to_be_bytes());
    octets
}

/// The code, and the address beside it.
pub fn reply(stream: &mut impl Read) -> (u8, SocketAddr) {
    let head = read(stream, 4);
    assert_eq!((head[0], head[2], head[3]), (5, 0, 1), "{head:?}");
    let rest = read(stream, 6);
    let ip = Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]);
    let port = u16::from_be_bytes([rest[4], rest[5]]);
    (head[1], SocketAddrV4::new(ip, port).into())
}

/// The answer to a command.
pub fn ask(stream: &mut (impl Read + Write), command: u8, address: SocketAddr) -> (u8, SocketAddr) {
    stream.write_all(&request(command, address)).unwrap();
    reply(stream)
}

/// A connection whose methods are agreed on.
pub fn greeted(proxy: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy);
    stream.write_all(NO_AUTH).unwrap();
    assert_eq!(read(&mut stream, 2), [5, 0]);
    stream
}

/// A connection to the destination, by the proxy.
pub fn through(proxy: SocketAddr, destination: SocketAddr) -> TcpStream {
    let mut stream = greeted(proxy);
    let (code, from) = ask(&mut stream, 1, destination);
    assert_eq!(code, SUCCEEDED);
    assert_ne!(from.port(), 0, "the address that the destination sees");
    stream
}

/// The status of a password's check.
pub fn log_in(stream: &mut TcpStream, username: &str, password: &str) -> u8 {
    stream.write_all(b"\x05\x02\x00\x02").unwrap();
    assert_eq!(read(stream, 2), [5, 2]);
    let mut octets = vec![1];
    for text in [username, password] {
        octets.push(u8::try_from(text.len()).unwrap());
        octets.extend(text.bytes());
    }
    stream.write_all(&octets).unwrap();
    let answer = read(stream, 2);
    assert_eq!(answer[0], 1);
    answer[1]
}

pub fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Octets that don't repeat where a chunk that is lost, doubled or moved would hide in it.
pub fn octets(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let word = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let words = (0..length.div_ceil(4)).map(word);
    let mut octets: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    octets.truncate(length);
    octets
}

/// Says everything, then ends, and hears everything meanwhile.
pub fn exchange(stream: TcpStream, says: Vec<u8>) -> Vec<u8> {
    let mut writing = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        writing.write_all(&says).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut stream = stream;
    let heard = rest(&mut stream);
    writer.join().unwrap();
    heard
}

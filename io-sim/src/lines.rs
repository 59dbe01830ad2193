//! What scripted servers and clients speak by: octets of a stream cut into lines and replies, and dots stuffed and unstuffed. Invariant:
//! nothing is repaired on the way, what isn't as it must be is named. What a line or a reply means is the speaker's to know.
use bytes::{Buf, BytesMut};
use kumo_core::port::Stream;
use kumo_core::time::Duration;
use memchr::{memchr, memchr2, memmem};
use tokio::time::timeout;

/// RFC 5321 4.5.3.1.5, with its CRLF.
const REPLY_LINE_OCTETS: usize = 512;

/// One end of a connection, with what came and wasn't looked at yet, and what is to be said with the next write.
pub struct Wire<S> {
    stream: Option<S>,
    pub input: BytesMut,
    output: Vec<u8>,
}

/// How a read went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    Some,
    /// The other end has nothing more to say, or the connection broke.
    Ended,
    /// Nothing came for so long.
    Silence,
}

impl<S: Stream> Wire<S> {
    pub fn new(stream: S) -> Wire<S> {
        Wire { stream: Some(stream), input: BytesMut::new(), output: Vec::new() }
    }

    /// Reads once.
    pub async fn fill(&mut self, patience: Duration) -> Filled {
        let Some(stream) = &mut self.stream else { return Filled::Ended };
        match timeout(patience, stream.read(&mut self.input)).await {
            Ok(Ok(1..)) => Filled::Some,
            Ok(_) => Filled::Ended,
            Err(_) => Filled::Silence,
        }
    }

    /// Takes what has arrived already, without waiting.
    pub async fn look(&mut self) -> Filled {
        let Some(stream) = &mut self.stream else { return Filled::Ended };
        tokio::select! {
            biased;
            read = stream.read(&mut self.input) => match read {
                Ok(1..) => Filled::Some,
                _ => Filled::Ended,
            },
            () = std::future::ready(()) => Filled::Silence,
        }
    }

    /// A line with its LF, if a whole one is there.
    pub fn take_line(&mut self) -> Option<BytesMut> {
        let end = memchr(b'\n', &self.input)?;
        Some(self.input.split_to(end + 1))
    }

    /// To leave with the next [`Wire::flush`].
    pub fn queue(&mut self, octets: &[u8]) {
        self.output.extend_from_slice(octets);
    }

    /// Whether all that was queued could be written.
    pub async fn flush(&mut self, patience: Duration) -> bool {
        if self.output.is_empty() {
            return true;
        }
        let Some(stream) = &mut self.stream else { return false };
        let output = std::mem::take(&mut self.output);
        matches!(timeout(patience, stream.write_all(&output)).await, Ok(Ok(())))
    }

    pub async fn say(&mut self, octets: &[u8], patience: Duration) -> bool {
        self.queue(octets);
        self.flush(patience).await
    }

    pub async fn shutdown(&mut self, patience: Duration) {
        if let Some(stream) = &mut self.stream {
            let _ = timeout(patience, stream.shutdown()).await;
        }
    }

    /// For a handshake; what it leads to comes back by [`Wire::put_back`].
    pub fn take_stream(&mut self) -> Option<S> {
        self.stream.take()
    }

    pub fn put_back(&mut self, stream: S) {
        self.stream = Some(stream);
    }

    /// The next whole reply, within that time. After silence nothing that comes can be trusted to be whole.
    pub async fn reply(&mut self, patience: Duration) -> Heard {
        timeout(patience, self.read_reply(patience)).await.unwrap_or(Heard::Silence)
    }

    async fn read_reply(&mut self, patience: Duration) -> Heard {
        let mut reply: Option<Reply> = None;
        loop {
            while let Some(line) = self.take_line() {
                let (code, is_last, text) = match split_reply_line(&line) {
                    Ok(parts) => parts,
                    Err(why) => return Heard::Malformed(complaint(why, &line)),
                };
                let reply = reply.get_or_insert_with(|| Reply { code, lines: Vec::new() });
                if reply.code != code {
                    return Heard::Malformed(complaint("another code in one reply", &line));
                }
                reply.lines.push(text);
                if is_last {
                    return Heard::Reply(std::mem::replace(reply, Reply { code, lines: vec![] }));
                }
            }
            if self.input.len() > REPLY_LINE_OCTETS {
                return Heard::Malformed(complaint("no end of a line", &self.input));
            }
            match self.fill(patience).await {
                Filled::Some => {}
                Filled::Ended => return Heard::End,
                Filled::Silence => return Heard::Silence,
            }
        }
    }
}

/// What a client got when it waited for a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Reply(Reply),
    /// Something that is no reply, in words.
    Malformed(String),
    /// The connection ended first, perhaps within a line.
    End,
    Silence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// Without code and CRLF.
    pub lines: Vec<String>,
}

impl Reply {
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    pub fn text(&self) -> String {
        self.lines.join(" ")
    }
}

fn complaint(why: &str, line: &[u8]) -> String {
    format!("{why}: {}", shown(line))
}

/// The beginning of some octets, for a message.
pub fn shown(octets: &[u8]) -> String {
    octets[..octets.len().min(80)].escape_ascii().to_string()
}

/// `line` with its LF: its code, whether it is the last of its reply, its text.
fn split_reply_line(line: &[u8]) -> Result<(u16, bool, String), &'static str> {
    let line = match line.strip_suffix(b"\r\n") {
        _ if line.len() > REPLY_LINE_OCTETS => return Err("a reply line longer than 512 octets"),
        None => return Err("a reply line that doesn't end with CRLF"),
        Some(line) => line,
    };
    let text = std::str::from_utf8(line).map_err(|_| "a reply line that isn't UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("a control character in a reply line");
    }
    let code = text.get(..3).filter(|code| code.bytes().all(|octet| octet.is_ascii_digit()));
    let code: u16 = code.and_then(|code| code.parse().ok()).ok_or("a reply line without code")?;
    if !(200..600).contains(&code) {
        return Err("a code outside 2yz to 5yz");
    }
    match text[3..].split_at_checked(1) {
        None => Ok((code, true, String::new())),
        Some((" ", text)) => Ok((code, true, text.into())),
        Some(("-", text)) => Ok((code, false, text.into())),
        Some(_) => Err("neither space nor hyphen after the code"),
    }
}

/// `content` as it is sent, with the dot that ends it. It ends with CRLF or is empty.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 64 + 5);
    let mut rest = content;
    while !rest.is_empty() {
        if rest[0] == b'.' {
            wire.push(b'.');
        }
        let end = memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
        wire.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Content that arrives, up to the dot that ends it.
#[derive(Debug, Default)]
pub struct Arriving {
    raw: BytesMut,
    /// Nothing ends before here.
    searched: usize,
}

impl Arriving {
    /// Takes from `input` what belongs to the content. Its octets as they were sent, without the last dot, once it is complete.
    pub fn take(&mut self, input: &mut BytesMut) -> Option<BytesMut> {
        self.raw.unsplit(input.split());
        let at_once = self.raw.starts_with(b".\r\n").then_some(0);
        let later = || {
            let from = self.searched;
            memmem::find(&self.raw[from..], b"\r\n.\r\n").map(|at| from + at + 2)
        };
        let Some(length) = at_once.or_else(later) else {
            self.searched = self.raw.len().saturating_sub(4);
            return None;
        };
        let mut content = std::mem::take(&mut self.raw);
        let mut rest = content.split_off(length);
        rest.advance(3);
        *input = rest;
        Some(content)
    }

    /// What came so far.
    pub fn so_far(&self) -> &[u8] {
        &self.raw
    }
}

/// Content whose dots were unstuffed, and what is wrong with how it was sent.
pub fn unstuffed(raw: &[u8]) -> (Vec<u8>, Option<&'static str>) {
    let mut content = Vec::with_capacity(raw.len());
    let mut wrong = None;
    let mut rest = raw;
    while !rest.is_empty() {
        let length = memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let end = (length + 2).min(rest.len());
        let from = usize::from(rest[0] == b'.');
        if length > 998 + from {
            wrong = Some("a line longer than 998 octets");
        }
        if memchr2(b'\r', b'\n', &rest[..length]).is_some() {
            wrong = Some("a bare CR or LF");
        }
        content.extend_from_slice(&rest[from..end]);
        rest = &rest[end..];
    }
    (content, wrong)
}

/// The value of the first field of that name in the header of a message; its header may not be complete yet.
pub fn header_field(content: &[u8], name: &str) -> Option<String> {
    for line in header_lines(content) {
        let Some((this, value)) = line.split_at_checked(name.len()) else { continue };
        if this.eq_ignore_ascii_case(name.as_bytes()) && value.first() == Some(&b':') {
            return Some(String::from_utf8_lossy(&value[1..]).trim().to_string());
        }
    }
    None
}

/// The complete lines of a header, without their ends.
fn header_lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = content;
    std::iter::from_fn(move || {
        let length = memmem::find(rest, b"\r\n")?;
        let line = &rest[..length];
        rest = &rest[length + 2..];
        (length > 0).then_some(line)
    })
}

/// Whether the empty line after the header is there.
pub fn has_whole_header(content: &[u8]) -> bool {
    content.starts_with(b"\r\n") || memmem::find(content, b"\r\n\r\n").is_some()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fault::{Fault, FaultKind};
    use crate::ledger::Event;
    use crate::universe::{Settings, Universe};
    use kumo_core::port::{NetError, NetErrorKind, TlsAccept, TlsConnect, TlsInfo};
    use std::net::SocketAddr;
    use std::sync::Arc;

    // For the tests of servers and clients too.

    pub(crate) fn universe(seed: u64) -> Arc<Universe> {
        let settings = Settings {
            disk: Default::default(),
            net: Default::default(),
            interfaces: Vec::new(),
            policy: Default::default(),
            zones: Default::default(),
        };
        Universe::new(seed, settings)
    }

    /// A fault that strikes always.
    pub(crate) fn fault(what: FaultKind, target: Option<&str>, amount: Option<Duration>) -> Fault {
        Fault { what, chance: 1000, amount, target: target.map(Into::into) }
    }

    pub(crate) fn events(universe: &Universe) -> Vec<Event> {
        universe.ledger.read(|entries| entries.iter().map(|entry| entry.event.clone()).collect())
    }

    pub(crate) fn violations(universe: &Universe) -> Vec<String> {
        let text = |event| match event {
            Event::Violation { invariant, what } => Some(format!("{invariant} {what}")),
            _ => None,
        };
        events(universe).into_iter().filter_map(text).collect()
    }

    /// A stream from which a fixed text is read, in one read for each part.
    struct Fixed(Vec<&'static str>);

    fn no_tls() -> NetError {
        NetError { kind: NetErrorKind::Tls, text: "there is no TLS here".into() }
    }

    impl Stream for Fixed {
        fn local_address(&self) -> Option<SocketAddr> {
            None
        }
        async fn read(&mut self, buffer: &mut BytesMut) -> Result<usize, NetError> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            buffer.extend_from_slice(part.as_bytes());
            Ok(part.len())
        }
        async fn write_watched(
            &mut self,
            _: &[u8],
            _: &mut (dyn FnMut(usize) + Send),
        ) -> Result<(), NetError> {
            Ok(())
        }
        async fn shutdown(&mut self) {}
        async fn upgrade_client(self, _: TlsConnect) -> Result<(Fixed, TlsInfo), NetError> {
            Err(no_tls())
        }
        async fn upgrade_server(self, _: Arc<TlsAccept>) -> Result<(Fixed, TlsInfo), NetError> {
            Err(no_tls())
        }
    }

    async fn heard(parts: &[&'static str]) -> Heard {
        Wire::new(Fixed(parts.to_vec())).reply(Duration::from_secs(1)).await
    }

    #[madsim::test]
    async fn replies_are_read_whole_and_bad_ones_named() {
        let reply = |code, lines: &[&str]| {
            Heard::Reply(Reply { code, lines: lines.iter().map(|line| line.to_string()).collect() })
        };
        assert_eq!(heard(&["25", "0-a\r", "\n250 b\r\n"]).await, reply(250, &["a", "b"]));
        assert_eq!(heard(&["354\r\n"]).await, reply(354, &[""]));
        assert_eq!(heard(&["250-a\r\n", "250"]).await, Heard::End);
        for bad in [
            "250 ok\n",
            "150 wait\r\n",
            "600 x\r\n",
            "hello\r\n",
            "250_x\r\n",
            "250-a\r\n251 b\r\n",
            "2\r\n",
            "250 \x01\r\n",
        ] {
            assert!(matches!(heard(&[bad]).await, Heard::Malformed(_)), "{bad:?}");
        }
    }

    #[test]
    fn what_was_stuffed_comes_out_again_however_it_was_cut() {
        for content in ["", "a\r\n", ".\r\n", "..\r\n.a\r\n\r\n.\r\n", "\r\n", ".a.\r\n..\r\n"] {
            let wire = [&stuffed(content.as_bytes())[..], b"QUIT\r\n"].concat();
            for cut in 0..=wire.len() {
                let mut arriving = Arriving::default();
                let mut input = BytesMut::from(&wire[..cut]);
                let raw = arriving.take(&mut input).or_else(|| {
                    input.extend_from_slice(&wire[cut..]);
                    arriving.take(&mut input)
                });
                let (found, wrong) = unstuffed(&raw.expect("it is complete"));
                assert_eq!((&found[..], wrong), (content.as_bytes(), None), "{cut}");
                assert!(b"QUIT\r\n".starts_with(&input), "{input:?}");
            }
        }
        for (raw, content, is_wrong) in [
            (&b"a\nb\r\n"[..], &b"a\nb\r\n"[..], true),
            (b"a\rb\r\n", b"a\rb\r\n", true),
            (b"a\r\r\n", b"a\r\r\n", true),
            (b"..a\r\n", b".a\r\n", false),
        ] {
            let (found, wrong) = unstuffed(raw);
            assert_eq!((&found[..], wrong.is_some()), (content, is_wrong));
        }
    }

    #[test]
    fn fields_are_found_in_the_header_only() {
        let content = b"Received: x\r\n\tX-Sim: 9/9\r\nx-sim: 3/1\r\n\r\nX-Other: a\r\n";
        assert_eq!(header_field(content, "X-Sim").as_deref(), Some("3/1"));
        assert_eq!(header_field(content, "X-Other"), None);
        assert!(has_whole_header(content) && !has_whole_header(b"a: b\r\n"));
    }
}

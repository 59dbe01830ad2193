//! Makes a message's content fit for DATA: dots stuffed, bare CR and bare LF made CRLF (D28), the last line ended, then
//! the final dot (RFC 5321 4.5.2). Invariant: CR and LF leave only as CRLF, and a line that is one dot only as the
//! terminator. Octets that need no change aren't copied. Nothing here looks into MIME.
use crate::header;
use crate::limits;
use alloc::vec::Vec;
use bytes::Bytes;
use memchr::memchr2_iter;

/// Content on its way out, block by block.
#[derive(Debug)]
pub struct BodyFramer {
    body: Bytes,
    /// What has left, in terms of the content as it was given.
    sent: usize,
}

impl BodyFramer {
    pub fn new(body: Bytes) -> BodyFramer {
        BodyFramer { body, sent: 0 }
    }

    /// The next block, about `limits::BODY_BLOCK_OCTETS` long; `None` after the last.
    pub fn next_block(&mut self) -> Option<Bytes> {
        let begin = self.sent;
        if begin == self.body.len() {
            return None;
        }
        let mut end = self.body.len().min(begin + limits::BODY_BLOCK_OCTETS);
        // A CRLF stays in one block.
        if self.body[end - 1] == b'\r' && self.body.get(end) == Some(&b'\n') {
            end += 1;
        }
        self.sent = end;
        let begins_line = begin == 0 || ends_line(&self.body[..begin]);
        match edit(&self.body[begin..end], begins_line) {
            Some(edited) => Some(edited.into()),
            None => Some(self.body.slice(begin..end)),
        }
    }

    pub fn is_finished(&self) -> bool {
        self.sent == self.body.len()
    }

    /// What ends the content once all blocks have been taken.
    pub fn terminator(&self) -> Bytes {
        match self.body.is_empty() || ends_line(&self.body) {
            true => Bytes::from_static(b".\r\n"),
            false => Bytes::from_static(b"\r\n.\r\n"),
        }
    }
}

fn ends_line(octets: &[u8]) -> bool {
    matches!(octets.last(), Some(b'\r' | b'\n'))
}

/// `block` with its dots stuffed and its line ends repaired; `None` where it is right as it is.
fn edit(block: &[u8], begins_line: bool) -> Option<Vec<u8>> {
    let mut edited = Vec::new();
    let mut copied = 0;
    let mut replace = |begin: usize, end: usize, with: &[u8]| {
        if edited.is_empty() {
            edited.reserve(block.len() + block.len() / 16 + 16);
        }
        edited.extend_from_slice(&block[copied..begin]);
        edited.extend_from_slice(with);
        copied = end;
    };
    if begins_line && block.first() == Some(&b'.') {
        replace(0, 0, b".");
    }
    let mut line = 0;
    for at in memchr2_iter(b'\r', b'\n', block) {
        if at < line {
            continue;
        }
        line = match block[at..].starts_with(b"\r\n") {
            true => at + 2,
            false => {
                replace(at, at + 1, b"\r\n");
                at + 1
            }
        };
        if block.get(line) == Some(&b'.') {
            replace(line, line, b".");
        }
    }
    if edited.is_empty() {
        return None;
    }
    edited.extend_from_slice(&block[copied..]);
    Some(edited)
}

/// What of the content decides how, and whether, it can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub is_8bit: bool,
    /// Its header is in UTF-8 and not in ASCII (RFC 6532). Header fields in other character sets aren't anything.
    pub has_utf8_header: bool,
    /// For SIZE: without the stuffing, and taking line ends for right (RFC 1870 section 6.1 lets it be an estimate).
    pub size: u64,
}

impl Content {
    pub fn of(body: &[u8]) -> Content {
        let is_8bit = !body.is_ascii();
        let has_utf8_header = is_8bit && {
            let header = &body[..header::header_end(body)];
            !header.is_ascii() && core::str::from_utf8(header).is_ok()
        };
        let added = if body.is_empty() || ends_line(body) { 0 } else { 2 };
        Content { is_8bit, has_utf8_header, size: body.len() as u64 + added }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut framer = BodyFramer::new(Bytes::copy_from_slice(body));
        let mut wire = Vec::new();
        while let Some(block) = framer.next_block() {
            wire.extend_from_slice(&block);
        }
        assert!(framer.is_finished());
        wire.extend_from_slice(&framer.terminator());
        wire
    }

    /// What a server makes of it, strictly: `None` unless the terminator is the last thing that was sent.
    fn unstuff(wire: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let mut rest = wire;
        loop {
            let end = memchr::memmem::find(rest, b"\r\n")?;
            let line = &rest[..end];
            rest = &rest[end + 2..];
            if line == b"." {
                return rest.is_empty().then_some(content);
            }
            let line = line.strip_prefix(b".").unwrap_or(line);
            if line.iter().any(|octet| matches!(octet, b'\r' | b'\n')) {
                return None;
            }
            content.extend_from_slice(line);
            content.extend_from_slice(b"\r\n");
        }
    }

    /// The slow and obvious way.
    fn normalised(body: &[u8]) -> Vec<u8> {
        let mut content = Vec::new();
        let mut octets = body.iter().copied().peekable();
        while let Some(octet) = octets.next() {
            match octet {
                b'\r' => {
                    octets.next_if_eq(&b'\n');
                    content.extend_from_slice(b"\r\n");
                }
                b'\n' => content.extend_from_slice(b"\r\n"),
                other => content.push(other),
            }
        }
        if !content.is_empty() && !content.ends_with(b"\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        content
    }

    #[test]
    fn content_is_framed_as_data_wants_it() {
        for (body, wire) in [
            ("", ".\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            ("..\r\n", "...\r\n.\r\n"),
            ("a\r\n.\r\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\n.\nb", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r.\rb\r", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r\r\n.\n", "a\r\n\r\n..\r\n.\r\n"),
            ("\n\r", "\r\n\r\n.\r\n"),
            ("a.b\r\n", "a.b\r\n.\r\n"),
        ] {
            assert_eq!(frame(body.as_bytes()), wire.as_bytes(), "{body:?}");
        }
    }

    #[test]
    fn content_that_needs_no_change_is_not_copied() {
        let body = Bytes::from(b"Subject: x\r\n\r\nline. with a dot.\r\n".repeat(20_000));
        let mut framer = BodyFramer::new(body.clone());
        let mut at = 0;
        while let Some(block) = framer.next_block() {
            assert!(core::ptr::eq(&block[0], &body[at]));
            assert!(block.len() <= limits::BODY_BLOCK_OCTETS + 1);
            at += block.len();
        }
        assert_eq!(at, body.len());
    }

    #[test]
    fn a_block_ends_anywhere_without_harm() {
        let block = limits::BODY_BLOCK_OCTETS;
        for tail in ["\r\n.\r\nx", "\n.\nx", "\r.\rx", ".\r\n", "\r\r\n.", "\r\n", "\r"] {
            for before in block - 4..=block {
                let body = [&vec![b'x'; before][..], tail.as_bytes()].concat();
                assert_eq!(unstuff(&frame(&body)), Some(normalised(&body)), "{tail:?} at {before}");
            }
        }
    }

    #[test]
    fn content_is_looked_at_for_8_bit_and_utf8() {
        let content = |body: &[u8]| {
            let content = Content::of(body);
            (content.is_8bit, content.has_utf8_header, content.size)
        };
        assert_eq!(content(b"A: b\r\n\r\nx"), (false, false, 11));
        assert_eq!(content("A: b\r\n\r\nä\r\n".as_bytes()), (true, false, 12));
        assert_eq!(content("A: ä\r\n\r\n".as_bytes()), (true, true, 9));
        assert_eq!(content(b"A: \xe4\r\n\r\n"), (true, false, 8));
        assert_eq!(content(b""), (false, false, 0));
    }

    proptest! {
        #[test]
        fn what_leaves_is_what_was_given_with_crlf(
            body in proptest::collection::vec(prop_oneof![
                Just(b"\r".to_vec()), Just(b"\n".to_vec()), Just(b"\r\n".to_vec()), Just(b".".to_vec()),
                Just(b"a".to_vec()), proptest::collection::vec(any::<u8>(), 0..4),
            ], 0..40).prop_map(|pieces| pieces.concat()),
        ) {
            prop_assert_eq!(unstuff(&frame(&body)), Some(normalised(&body)));
        }
    }
}

//! From the octets after DATA to the message's content: finds the end, removes dot-stuffing, applies the limits.
//! Invariant: only CRLF.CRLF ends data (RFC 5321 4.1.1.4), whatever `invalid_line_endings` says. What is found wrong
//! depends on the whole content only, never on how it was cut into reads. With `Allow`, bare CR and LF stay in the
//! content as they came; delivery puts them right (D28).
use crate::config::listener::LineEndings;
use bytes::{Bytes, BytesMut};
use memchr::memchr2;

#[derive(Clone, Copy, Debug)]
pub struct DataLimits {
    pub octets: u64,
    pub line_octets: u64,
    pub line_endings: LineEndings,
}

/// What keeps content from being accepted, the weightiest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataFault {
    TooBig,
    BareLineEnding,
    LineTooLong,
}

#[derive(Debug)]
pub struct Deframer {
    limits: DataLimits,
    content: BytesMut,
    /// Octets of the content so far, also of what isn't kept.
    size: u64,
    line_octets: u64,
    at_line_start: bool,
    fault: Option<DataFault>,
}

#[derive(Debug)]
pub struct Content {
    pub body: Result<Bytes, DataFault>,
    pub size: u64,
}

/// How far [`Deframer::take`] got.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// The rest has to be offered again, with what follows.
    pub octets: usize,
    pub is_complete: bool,
}

impl Deframer {
    /// `expected`: the octets the client announced, if it did.
    pub fn new(limits: DataLimits, expected: usize) -> Deframer {
        Deframer {
            limits,
            content: BytesMut::with_capacity(expected.clamp(2048, 1 << 20)),
            size: 0,
            line_octets: 0,
            at_line_start: true,
            fault: None,
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn finish(self) -> Content {
        let body = match self.fault {
            None => Ok(self.content.freeze()),
            Some(fault) => Err(fault),
        };
        Content { body, size: self.size }
    }

    pub fn take(&mut self, input: &[u8]) -> Taken {
        let mut kept_from = 0;
        let mut at = 0;
        loop {
            if self.at_line_start && input.get(at) == Some(&b'.') {
                let rest = &input[at..];
                if rest.starts_with(b".\r\n") {
                    self.keep(&input[kept_from..at]);
                    return Taken { octets: at + 3, is_complete: true };
                }
                if b".\r\n".starts_with(rest) {
                    self.keep(&input[kept_from..at]);
                    return Taken { octets: at, is_complete: false };
                }
                self.keep(&input[kept_from..at]);
                at += 1;
                kept_from = at;
            }
            let found = memchr2(b'\r', b'\n', &input[at..]).map(|length| at + length);
            let end = found.unwrap_or(input.len());
            self.lengthen_line(end - at);
            if end > at {
                self.at_line_start = false;
            }
            let Some(found) = found else {
                self.keep(&input[kept_from..]);
                return Taken { octets: input.len(), is_complete: false };
            };
            match (input[found], input.get(found + 1)) {
                (b'\r', Some(b'\n')) => {
                    at = found + 2;
                    self.at_line_start = true;
                    self.line_octets = 0;
                }
                (b'\r', None) => {
                    self.keep(&input[kept_from..found]);
                    return Taken { octets: found, is_complete: false };
                }
                _ => {
                    kept_from = self.bare_line_ending(input, kept_from, found);
                    at = found + 1;
                }
            }
        }
    }

    /// A CR or LF alone, at `found`. Yields from where the input is still to be kept.
    fn bare_line_ending(&mut self, input: &[u8], kept_from: usize, found: usize) -> usize {
        // Not a line start of the protocol: a dot that follows is content.
        self.at_line_start = false;
        match self.limits.line_endings {
            LineEndings::Deny => self.fail(DataFault::BareLineEnding),
            LineEndings::Allow => self.lengthen_line(1),
            LineEndings::Fix => {
                self.keep(&input[kept_from..found]);
                self.keep(b"\r\n");
                self.line_octets = 0;
                return found + 1;
            }
        }
        kept_from
    }

    fn lengthen_line(&mut self, octets: usize) {
        self.line_octets += octets as u64;
        if self.line_octets > self.limits.line_octets {
            self.fail(DataFault::LineTooLong);
        }
    }

    fn keep(&mut self, octets: &[u8]) {
        self.size += octets.len() as u64;
        if self.size > self.limits.octets {
            self.fail(DataFault::TooBig);
        }
        if self.fault.is_none() {
            self.content.extend_from_slice(octets);
        }
    }

    fn fail(&mut self, fault: DataFault) {
        self.fault = Some(self.fault.map_or(fault, |earlier| earlier.min(fault)));
        self.content = BytesMut::new();
    }
}

/// The content of `parts`, fed one by one as a session does, and what follows its end.
#[cfg(test)]
pub fn deframe(limits: DataLimits, parts: &[&[u8]]) -> Option<(Content, alloc::vec::Vec<u8>)> {
    let mut deframer = Deframer::new(limits, 0);
    let mut pending = alloc::vec::Vec::new();
    for (position, part) in parts.iter().enumerate() {
        pending.extend_from_slice(part);
        let taken = deframer.take(&pending);
        pending.drain(..taken.octets);
        if taken.is_complete {
            pending.extend(parts[position + 1..].concat());
            return Some((deframer.finish(), pending));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(line_endings: LineEndings) -> DataLimits {
        DataLimits { octets: 1000, line_octets: 100, line_endings }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_data() {
        for text in [
            "a\n.\n",
            "a\n.\r\n",
            "a\r\n.\n",
            "a\r.\r",
            "a\r.\r\n",
            "a\n.\r",
            "a\r\n.\r",
            "a\r\n.\r\r\n",
            "a\r\n\0.\r\n",
            "a\r\n.\0\r\n",
            "a\r\n .\r\n",
            "a\r\n. \r\n",
            "a\r\n..\r\n",
        ] {
            for line_endings in [LineEndings::Deny, LineEndings::Allow, LineEndings::Fix] {
                let found = deframe(limits(line_endings), &[text.as_bytes()]);
                assert!(found.is_none(), "{text:?}");
            }
        }
    }

    #[test]
    fn dots_are_unstuffed_and_bare_line_ends_treated_as_told() {
        for (line_endings, text, expected) in [
            (LineEndings::Deny, ".\r\n", Ok("")),
            (LineEndings::Deny, "..\r\n.a\r\n..\r.\r\n.\r\n", Err(DataFault::BareLineEnding)),
            (LineEndings::Deny, "..\r\n.a\r\nb.\r\n.\r\n", Ok(".\r\na\r\nb.\r\n")),
            (LineEndings::Fix, "a\nb\rc\r\r\n\n.\r\n.\r\n", Ok("a\r\nb\r\nc\r\n\r\n\r\n.\r\n")),
            (LineEndings::Allow, "a\nb\rc\r\n.\r\n", Ok("a\nb\rc\r\n")),
        ] {
            let (content, rest) = deframe(limits(line_endings), &[text.as_bytes()]).unwrap();
            let expected = expected.map(|text| Bytes::from_static(text.as_bytes()));
            assert_eq!(content.body, expected, "{text:?}");
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn the_limits_are_exact() {
        let content = |text: String| {
            deframe(limits(LineEndings::Deny), &[text.as_bytes()]).unwrap().0.body.map(|b| b.len())
        };
        let line = |length: usize| "x".repeat(length) + "\r\n";
        assert_eq!(content(line(100) + ".\r\n"), Ok(102));
        assert_eq!(content(line(101) + ".\r\n"), Err(DataFault::LineTooLong));
        assert_eq!(content(line(98).repeat(10) + ".\r\n"), Ok(1000));
        assert_eq!(content(line(98).repeat(10) + "\r\n.\r\n"), Err(DataFault::TooBig));
        assert_eq!(content(line(101).repeat(10) + "\n\r\n.\r\n"), Err(DataFault::TooBig));
    }

    #[test]
    fn content_that_is_refused_is_not_kept() {
        for line in ["x".repeat(101) + "\r\n", "a\nb\r\n".into(), "x\r\n".repeat(400)] {
            let mut deframer = Deframer::new(limits(LineEndings::Deny), usize::MAX);
            for _ in 0..1000 {
                deframer.take(line.as_bytes());
                deframer.take(b"more\r\n");
            }
            assert_eq!(deframer.content.capacity(), 0);
            assert_eq!(deframer.size(), 1000 * (line.len() as u64 + 6));
        }
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(
            text in "(\\.|a|\r|\n|\r\n|\r\n\\.|\0){0,30}",
            cuts in (0usize..60, 0usize..60),
            which in 0usize..3,
        ) {
            let text = text + "\r\n.\r\nrest";
            let line_endings = [LineEndings::Deny, LineEndings::Allow, LineEndings::Fix][which];
            let limits = DataLimits { octets: 20, line_octets: 5, line_endings };
            let bytes = text.as_bytes();
            let (one, two) = (cuts.0.min(bytes.len()), cuts.1.min(bytes.len()));
            let (one, two) = (one.min(two), one.max(two));
            let (whole, rest) = deframe(limits, &[bytes]).unwrap();
            let parts = [&bytes[..one], &bytes[one..two], &bytes[two..]];
            let (cut, cut_rest) = deframe(limits, &parts).unwrap();
            prop_assert_eq!(cut.body, whole.body);
            prop_assert_eq!(cut.size, whole.size);
            prop_assert_eq!(cut_rest, rest);
        }
    }
}

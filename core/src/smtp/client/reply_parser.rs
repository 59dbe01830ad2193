//! Cuts what a server says into replies (RFC 5321 4.2). Invariant: the same octets give the same replies however they
//! were split; memory is bounded by `limits::SERVER_REPLY_*`; a reply's text holds no control character but the `\n`
//! between its lines. Which command a reply answers is not known here.
use crate::limits;
use crate::smtp::reply::{EnhancedCode, Reply};
use alloc::string::String;
use alloc::vec::Vec;
use core::mem;
use memchr::memchr;

/// What can't be read as a reply. Nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error(
        "a line of the server's reply is longer than {} octets",
        limits::SERVER_REPLY_LINE_OCTETS
    )]
    LineTooLong,
    #[error("the server's reply has more than {} lines", limits::SERVER_REPLY_LINES)]
    TooManyLines,
    #[error("the server sent a line that is no reply of 2yz to 5yz")]
    NotAReply,
    #[error("the codes differ within one reply of the server: {first} and {other}")]
    MixedCodes { first: u16, other: u16 },
}

#[derive(Debug, Default)]
pub struct ReplyParser {
    /// The beginning of a line whose end hasn't come.
    partial: Vec<u8>,
    /// The lines so far of a reply that goes on.
    unfinished: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    reply: Reply,
    lines: usize,
}

impl ReplyParser {
    /// Takes one reply off the front of `input`, or all of it if that doesn't end one.
    pub fn take(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, Malformed> {
        while let Some(end) = memchr(b'\n', input) {
            let line = &input[..end];
            *input = &input[end + 1..];
            let finished = if self.partial.is_empty() {
                self.on_line(line)?
            } else {
                self.keep(line)?;
                let whole = mem::take(&mut self.partial);
                self.on_line(&whole)?
            };
            if finished.is_some() {
                return Ok(finished);
            }
        }
        self.keep(mem::take(input))?;
        Ok(None)
    }

    fn keep(&mut self, octets: &[u8]) -> Result<(), Malformed> {
        // One more than a line may have: its CR.
        if self.partial.len() + octets.len() > limits::SERVER_REPLY_LINE_OCTETS + 1 {
            return Err(Malformed::LineTooLong);
        }
        self.partial.extend_from_slice(octets);
        Ok(())
    }

    /// `line` is without its LF.
    fn on_line(&mut self, line: &[u8]) -> Result<Option<Reply>, Malformed> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > limits::SERVER_REPLY_LINE_OCTETS {
            return Err(Malformed::LineTooLong);
        }
        let (code, is_last, text) = split(line).ok_or(Malformed::NotAReply)?;
        let text = clean(text);
        let mut unfinished = match self.unfinished.take() {
            Some(mut unfinished) => {
                unfinished.add(code, &text)?;
                unfinished
            }
            None => Unfinished { reply: first_line(code, &text), lines: 1 },
        };
        if is_last {
            return Ok(Some(unfinished.reply));
        }
        unfinished.lines += 1;
        if unfinished.lines > limits::SERVER_REPLY_LINES {
            return Err(Malformed::TooManyLines);
        }
        self.unfinished = Some(unfinished);
        Ok(None)
    }
}

impl Unfinished {
    fn add(&mut self, code: u16, text: &str) -> Result<(), Malformed> {
        let reply = &mut self.reply;
        if code != reply.code {
            return Err(Malformed::MixedCodes { first: reply.code, other: code });
        }
        // RFC 2034 section 4: it is repeated on every line.
        let text = match EnhancedCode::split(text) {
            (Some(again), rest) if reply.enhanced == Some(again) => rest,
            _ => text,
        };
        // Only whole lines are kept, so that none of them means something else than what was sent.
        if reply.content.len() + 1 + text.len() <= limits::SERVER_REPLY_TEXT_OCTETS {
            reply.content.push('\n');
            reply.content.push_str(text);
        }
        Ok(())
    }
}

fn first_line(code: u16, text: &str) -> Reply {
    let (enhanced, content) = match EnhancedCode::split(text) {
        // A class that contradicts the code is no class.
        (Some(enhanced), rest) if u16::from(enhanced.class) == code / 100 => (Some(enhanced), rest),
        _ => (None, text),
    };
    Reply { code, enhanced, content: content.into(), command: None }
}

/// Code, whether this is the reply's last line, text.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !matches!(digits[0], b'2'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

/// As text for records: never longer than the octets it is made from.
fn clean(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        text.extend(chunk.valid().chars().map(|c| if c.is_control() { ' ' } else { c }));
        if !chunk.invalid().is_empty() {
            text.push('?');
        }
    }
    text
}

const _: () = assert!(limits::SERVER_REPLY_LINE_OCTETS <= limits::SERVER_REPLY_TEXT_OCTETS);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]]) -> (Vec<Reply>, Option<Malformed>) {
        let mut parser = ReplyParser::default();
        let mut replies = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                match parser.take(&mut rest) {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => assert!(rest.is_empty()),
                    Err(malformed) => return (replies, Some(malformed)),
                }
                assert!(parser.partial.len() <= limits::SERVER_REPLY_LINE_OCTETS + 1);
            }
        }
        (replies, None)
    }

    fn one(text: &str) -> Reply {
        let (mut replies, malformed) = parse(&[text.as_bytes()]);
        assert_eq!((replies.len(), malformed), (1, None), "{text:?}");
        replies.remove(0)
    }

    fn malformed(text: &str) -> Option<Malformed> {
        parse(&[text.as_bytes()]).1
    }

    #[test]
    fn replies_are_read_in_all_their_forms() {
        for (said, code, enhanced, content) in [
            ("250 OK\r\n", 250, None, "OK"),
            ("250\r\n", 250, None, ""),
            ("250 \n", 250, None, ""),
            ("354 go\n", 354, None, "go"),
            ("250-a\r\n250-b\n250 c\r\n", 250, None, "a\nb\nc"),
            ("250-\r\n250\r\n", 250, None, "\n"),
            ("550 5.1.1 who?\r\n", 550, Some((5, 1, 1)), "who?"),
            ("451-4.7.0 wait\r\n451-4.7.0 a\r\n451 bit\r\n", 451, Some((4, 7, 0)), "wait\na\nbit"),
            ("250 5.1.1 who?\r\n", 250, None, "5.1.1 who?"),
            ("599 x\r\n", 599, None, "x"),
        ] {
            let reply = one(said);
            let triple = reply.enhanced.map(|e| (e.class, e.subject, e.detail));
            assert_eq!((reply.code, triple, &*reply.content), (code, enhanced, content), "{said}");
        }
    }

    #[test]
    fn what_is_no_reply_is_malformed() {
        for said in
            ["100 a", "199-x", "600 x", "099 x", "25 x", "250x", "2500 x", "", "OK", "25", "2a0 x"]
        {
            assert_eq!(malformed(&format!("{said}\r\n")), Some(Malformed::NotAReply), "{said}");
        }
        let mixed = malformed("250-a\r\n251 b\r\n");
        assert_eq!(mixed, Some(Malformed::MixedCodes { first: 250, other: 251 }));
    }

    #[test]
    fn lines_are_bounded_in_length_and_number() {
        let line = |length: usize| format!("250 {}", "x".repeat(length - 4));
        let longest = limits::SERVER_REPLY_LINE_OCTETS;
        for end in ["\n", "\r\n"] {
            assert_eq!(malformed(&(line(longest) + end)), None);
            assert_eq!(malformed(&(line(longest + 1) + end)), Some(Malformed::LineTooLong));
        }
        assert_eq!(malformed(&"x".repeat(100_000)), Some(Malformed::LineTooLong));
        let lines = |count: usize| "250-x\r\n".repeat(count - 1) + "250 x\r\n";
        assert_eq!(malformed(&lines(limits::SERVER_REPLY_LINES)), None);
        assert_eq!(malformed(&lines(1_000_000)), Some(Malformed::TooManyLines));
    }

    #[test]
    fn kept_text_is_bounded_and_consists_of_whole_lines() {
        let long = "y".repeat(3_000);
        let reply = one(&format!("250-{long}\r\n250-{long}\r\n250 SIZE 10\r\n"));
        assert_eq!(reply.content, format!("{long}\nSIZE 10"));
    }

    #[test]
    fn control_characters_and_foreign_octets_are_cleaned() {
        let (replies, _) = parse(&[b"550 a\0b\x1b[1mc\xc2\x85d\xff\xfee\r \xc3\xa4\r\r\n"]);
        assert_eq!(replies[0].content, "a b [1mc d??e  ä ");
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"250 ok\r\n".to_vec()),
            Just(b"250-2.0.0 a\r\n".to_vec()),
            Just(b"250 2.0.0 b\n".to_vec()),
            Just(b"550-5.1.1 x\n550 y\r\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\n".to_vec()),
            Just(vec![b'z'; 4_095]),
            "[245][0-9]{2}[ -][ -~]{0,8}\r\n".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_same_octets_give_the_same_replies_however_they_are_split(
            octets in stream(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(octets.len() + 1)).collect();
            cuts.extend([0, octets.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &octets[cut[0]..cut[1]]).collect();
            let single: Vec<&[u8]> = octets.chunks(1).collect();
            let whole = parse(&[&octets]);
            prop_assert_eq!(&parse(&chunks), &whole);
            prop_assert_eq!(&parse(&single), &whole);
            for reply in whole.0 {
                prop_assert!((200..600).contains(&reply.code));
                prop_assert!(reply.content.len() <= limits::SERVER_REPLY_TEXT_OCTETS);
                prop_assert!(!reply.content.chars().any(|c| c.is_control() && c != '\n'));
            }
        }
    }
}

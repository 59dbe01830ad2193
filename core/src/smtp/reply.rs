//! A reply: code, enhanced code (RFC 3463) and text. Parsing a remote server's lines is `client`'s business.
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnhancedCode {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl EnhancedCode {
    /// Splits `4.4.1 text` into the code and the text after it; classes other than 2, 4, 5 aren't codes.
    pub fn split(text: &str) -> (Option<EnhancedCode>, &str) {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = first.splitn(3, '.');
        let mut number = || -> Option<u16> {
            let part = parts.next()?;
            let digits = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        match (number(), number(), number()) {
            (Some(class @ (2 | 4 | 5)), Some(subject), Some(detail)) => {
                (Some(EnhancedCode { class: class as u8, subject, detail }), rest)
            }
            _ => (None, text),
        }
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The part of a reply that carries no text: what the engine and its journal see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplyCode {
    pub code: u16,
    pub enhanced: Option<EnhancedCode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub code: u16,
    pub enhanced: Option<EnhancedCode>,
    /// Without code and enhanced code; lines of a multi-line reply are separated by `\n`.
    pub content: String,
    /// The command this answers, where that helps whoever reads the record.
    pub command: Option<String>,
}

impl Reply {
    /// `text` may begin with an enhanced code, which is split off.
    pub fn new(code: u16, text: &str) -> Reply {
        let (enhanced, content) = EnhancedCode::split(text);
        Reply { code, enhanced, content: content.into(), command: None }
    }

    pub fn reply_code(&self) -> ReplyCode {
        ReplyCode { code: self.code, enhanced: self.enhanced }
    }

    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }

    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }

    /// As it stands on the wire, CRLF included, enhanced code on every line (RFC 2034 section 4).
    pub fn write(&self, out: &mut alloc::vec::Vec<u8>) {
        let mut lines = self.content.split('\n').peekable();
        while let Some(line) = lines.next() {
            let separator = if lines.peek().is_some() { '-' } else { ' ' };
            out.extend_from_slice(alloc::format!("{:03}{separator}", self.code).as_bytes());
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(alloc::format!("{enhanced} ").as_bytes());
            }
            out.extend(line.bytes().filter(|byte| *byte != b'\r'));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, "{enhanced} ")?;
        }
        f.write_str(&self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_enhanced_code_is_split_off_and_put_on_every_line() {
        let reply = Reply::new(451, "4.4.5 try\nlater");
        assert_eq!(reply.enhanced, Some(EnhancedCode { class: 4, subject: 4, detail: 5 }));
        let mut wire = alloc::vec::Vec::new();
        reply.write(&mut wire);
        assert_eq!(wire, b"451-4.4.5 try\r\n451 4.4.5 later\r\n");
    }

    #[test]
    fn what_only_looks_like_a_code_stays_text() {
        for text in ["3.1.1 no", "1.2.3.4 host", "4.4 short", "4.4444.1 long", ""] {
            assert_eq!(EnhancedCode::split(text), (None, text));
        }
    }
}

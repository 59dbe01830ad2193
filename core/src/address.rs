//! Mail addresses: mailboxes, reverse-paths, domains (RFC 5321 4.1.2, RFC 6531). Parsed once, then proven by type.
use alloc::boxed::Box;
use core::fmt;
use serde::{Deserialize, Serialize};

/// `local-part@domain`. Never holds CR, LF or NUL. The domain is kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mailbox {
    text: Box<str>,
    /// Where the last `@` stands.
    at: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(pub &'static str);

/// `<>` or a mailbox (RFC 5321 4.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReversePath {
    Null,
    Mailbox(Mailbox),
}

impl Mailbox {
    pub fn parse(text: &str) -> Result<Mailbox, AddressError> {
        let at = text.rfind('@').ok_or(AddressError("an address needs an @"))?;
        let domain = text[at..].to_ascii_lowercase();
        Ok(Mailbox { text: alloc::format!("{}{domain}", &text[..at]).into(), at: at as u32 })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn local_part(&self) -> &str {
        &self.text[..self.at as usize]
    }

    /// In lower case; `[…]` for an address literal.
    pub fn domain(&self) -> &str {
        &self.text[self.at as usize + 1..]
    }

    /// Whether delivering to it needs SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl ReversePath {
    /// Empty for `<>`.
    pub fn as_str(&self) -> &str {
        match self {
            ReversePath::Null => "",
            ReversePath::Mailbox(mailbox) => mailbox.as_str(),
        }
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

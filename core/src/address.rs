//! Mail addresses: mailboxes, reverse-paths, domains (RFC 5321 4.1.2, RFC 6531). Parsed once, then proven by type.
//! Invariant: a [`Mailbox`] never holds a control character, so that it can stand in a command, a header or a log line.
//! Comments, whitespace and the like of RFC 5322 are not accepted here; U-labels stay as the client wrote them.
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use serde::{Deserialize, Serialize, Serializer};

/// RFC 5321 4.5.3.1.1 and 4.5.3.1.2.
const LOCAL_PART_OCTETS: usize = 64;
const DOMAIN_OCTETS: usize = 255;
const LABEL_OCTETS: usize = 63;

/// `local-part@domain`. Never holds CR, LF or NUL. The domain's ASCII letters are kept in lower case. Serialised as its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Mailbox {
    text: Box<str>,
    /// Where the `@` between local part and domain stands.
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
        let at = local_part_length(text)?;
        if !text[at..].starts_with('@') {
            return Err(AddressError("an address is local-part@domain"));
        }
        // Beyond ASCII case folds unlike letters into one: the Kelvin sign becomes a k, and the domain another's.
        let domain = text[at + 1..].to_ascii_lowercase();
        if domain.len() > DOMAIN_OCTETS {
            return Err(AddressError("the domain is longer than 255 octets"));
        }
        check_domain(&domain)?;
        let mut whole = String::with_capacity(text.len());
        whole.push_str(&text[..=at]);
        whole.push_str(&domain);
        Ok(Mailbox { text: whole.into(), at: at as u32 })
    }

    /// Reads `<mailbox>` at the beginning of `text`; a source route is passed over. Yields what follows as well.
    pub fn parse_path(text: &str) -> Result<(Mailbox, &str), AddressError> {
        let (inner, rest) = split_path(text)?;
        Ok((Mailbox::parse(inner)?, rest))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn local_part(&self) -> &str {
        &self.text[..self.at as usize]
    }

    /// ASCII in lower case; `[…]` for an address literal.
    pub fn domain(&self) -> &str {
        &self.text[self.at as usize + 1..]
    }

    /// Whether delivering to it needs SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl ReversePath {
    /// Reads `<>` or `<mailbox>` at the beginning of `text`. Yields what follows as well.
    pub fn parse_path(text: &str) -> Result<(ReversePath, &str), AddressError> {
        let (inner, rest) = split_path(text)?;
        Ok((ReversePath::parse(inner)?, rest))
    }

    /// Empty text is the null reverse-path.
    pub fn parse(text: &str) -> Result<ReversePath, AddressError> {
        match text {
            "" => Ok(ReversePath::Null),
            _ => Ok(ReversePath::Mailbox(Mailbox::parse(text)?)),
        }
    }

    /// Empty for `<>`.
    pub fn as_str(&self) -> &str {
        match self {
            ReversePath::Null => "",
            ReversePath::Mailbox(mailbox) => mailbox.as_str(),
        }
    }

    pub fn is_ascii(&self) -> bool {
        self.as_str().is_ascii()
    }
}

/// Splits `<inner>rest`, without the source route that RFC 5321 4.1.1.3 says to ignore.
pub fn split_path(text: &str) -> Result<(&str, &str), AddressError> {
    let inside = text.strip_prefix('<').ok_or(AddressError("a path stands in < and >"))?;
    let mut quoted = false;
    let mut escaped = false;
    let end = inside.bytes().position(|byte| {
        let plain = !escaped;
        escaped = plain && quoted && byte == b'\\';
        if plain && byte == b'"' {
            quoted = !quoted;
        }
        plain && !quoted && byte == b'>'
    });
    let end = end.ok_or(AddressError("a path stands in < and >"))?;
    let (inner, rest) = (&inside[..end], &inside[end + 1..]);
    if !inner.starts_with('@') {
        return Ok((inner, rest));
    }
    let (route, mailbox) =
        inner.split_once(':').ok_or(AddressError("a source route ends with a colon"))?;
    for hop in route.split(',') {
        check_domain(hop.strip_prefix('@').ok_or(AddressError("the source route is malformed"))?)?;
    }
    Ok((mailbox, rest))
}

/// Length of the local part that `text` begins with.
fn local_part_length(text: &str) -> Result<usize, AddressError> {
    let length = match text.strip_prefix('"') {
        Some(quoted) => quoted_length(quoted)? + 1,
        None => {
            let at = text.find('@').ok_or(AddressError("an address needs an @"))?;
            check_dot_atom(&text[..at])?;
            at
        }
    };
    if length > LOCAL_PART_OCTETS {
        return Err(AddressError("the local part is longer than 64 octets"));
    }
    Ok(length)
}

/// Length of a quoted string's rest after its opening quote, closing quote included.
fn quoted_length(text: &str) -> Result<usize, AddressError> {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        let literal = match character {
            '"' => return Ok(at + 1),
            '\\' => characters.next().map(|(_, next)| next),
            other => Some(other),
        };
        if !literal.is_some_and(|c| matches!(c, ' '..='~') || is_international(c)) {
            return Err(AddressError("the quoted local part holds a forbidden character"));
        }
    }
    Err(AddressError("the quoted local part doesn't end"))
}

fn check_dot_atom(text: &str) -> Result<(), AddressError> {
    let is_atext = |c: char| {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_international(c)
    };
    if text.split('.').any(str::is_empty) {
        return Err(AddressError("the local part has an empty atom"));
    }
    match text.chars().all(|c| c == '.' || is_atext(c)) {
        true => Ok(()),
        false => Err(AddressError("the local part holds a forbidden character")),
    }
}

/// A domain name or an address literal (RFC 5321 4.1.2, 4.1.3), without a port.
pub fn check_domain(text: &str) -> Result<(), AddressError> {
    if let Some(literal) = text.strip_prefix('[') {
        let literal =
            literal.strip_suffix(']').ok_or(AddressError("an address literal ends with ]"))?;
        let tagged = literal.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
        let valid = match tagged {
            true => literal[5..].parse::<Ipv6Addr>().is_ok(),
            false => literal.parse::<Ipv4Addr>().is_ok(),
        };
        return valid.then_some(()).ok_or(AddressError("the address literal isn't an IP address"));
    }
    if text.len() > DOMAIN_OCTETS {
        return Err(AddressError("the domain is longer than 255 octets"));
    }
    text.split('.').try_for_each(check_label)
}

fn check_label(label: &str) -> Result<(), AddressError> {
    if label.is_empty() {
        return Err(AddressError("the domain has an empty label"));
    }
    // A U-label's own limit is that of its A-label, which is never shorter in characters.
    if label.chars().count() > LABEL_OCTETS {
        return Err(AddressError("a label of the domain is longer than 63 octets"));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(AddressError("a label of the domain begins or ends with a hyphen"));
    }
    let is_dot_or_at = |c| matches!(c, '\u{3002}' | '\u{ff0e}' | '\u{ff61}' | '\u{ff20}');
    let allowed = |c: char| {
        c.is_ascii_alphanumeric() || c == '-' || (is_international(c) && !is_dot_or_at(c))
    };
    match label.chars().all(allowed) {
        true => Ok(()),
        false => Err(AddressError("the domain holds a forbidden character")),
    }
}

/// Beyond ASCII and visible: no controls, spaces, or characters that only steer the display of others.
fn is_international(c: char) -> bool {
    let is_invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{ffff}'
        | '\u{e0000}'..='\u{e0fff}');
    !c.is_ascii() && !c.is_control() && !c.is_whitespace() && !is_invisible
}

impl TryFrom<String> for Mailbox {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Mailbox, AddressError> {
        Mailbox::parse(&text)
    }
}

impl Serialize for Mailbox {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_grammar_allows_is_a_mailbox() {
        let long_label = "a".repeat(63);
        for text in [
            "a@b",
            "first.last+tag@Example.COM",
            "\"a b\"@x.test",
            "\"a@b\\\"c\"@x.test",
            "\"\"@x.test",
            "x@[127.0.0.1]",
            "x@[IPv6:2001:db8::1]",
            "jörg@bücher.example",
            "用户@例え.テスト",
            "|-weird@x.test",
            &format!(
                "{}@{long_label}.{long_label}.{long_label}.{}",
                "l".repeat(64),
                "b".repeat(61)
            ),
        ] {
            let mailbox = Mailbox::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(mailbox.as_str().eq_ignore_ascii_case(text), "{mailbox}");
        }
        assert_eq!(Mailbox::parse("Me@EXAMPLE.com").unwrap().as_str(), "Me@example.com");
        assert_eq!(Mailbox::parse("\"a@b\"@c.test").unwrap().domain(), "c.test");
    }

    #[test]
    fn what_it_forbids_is_an_error() {
        for text in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@@b",
            "a@b@c",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "a@b c",
            "a@b.",
            "a@.b",
            "a@b..c",
            "a@-b",
            "a@b-",
            "a@b:25",
            "a@b.test:2525",
            "a@b_c",
            "a\r\n@b",
            "a\0@b",
            "a@b\n",
            "\"a@b",
            "\"a\"b@c",
            "\"a\nb\"@c",
            "\"a\\\nb\"@c",
            "a@[1.2.3]",
            "a@[1.2.3.4",
            "a@[1.2.3.4]:25",
            "a@[IPv6:zz]",
            "a@[tag:x]",
            "a@b\u{200b}c",
            "a\u{202e}@b",
            "a@b\u{3002}c",
            "a\u{85}@b",
            "<a@b>",
            "a@<b>",
            "a,b@c",
            "a@b;c",
            &format!("{}@b", "l".repeat(65)),
            &format!("a@{}", "b".repeat(64)),
            &format!("a@{}", "b.".repeat(128) + "c"),
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?}");
        }
    }

    /// Addresses that look alike, or that Unicode calls equivalent, are different mailboxes all the same.
    #[test]
    fn nothing_is_normalised() {
        for (one, other) in [
            ("caf\u{e9}@x.test", "cafe\u{301}@x.test"),
            ("a@b\u{fc}cher.test", "a@bu\u{308}cher.test"),
            ("a@p\u{430}ypal.test", "a@paypal.test"),
            ("a@\u{212a}umo.test", "a@kumo.test"),
            ("a@\u{212b}.test", "a@\u{e5}.test"),
            ("a@\u{130}.test", "a@i\u{307}.test"),
            ("a@stra\u{df}e.test", "a@strasse.test"),
            ("a@\u{ff41}.test", "a@a.test"),
            ("a@\u{fb01}.test", "a@fi.test"),
        ] {
            let [one, other] = [one, other].map(|text| (Mailbox::parse(text).unwrap(), text));
            assert_ne!(one.0, other.0);
            for (mailbox, text) in [one, other] {
                assert_eq!(mailbox.as_str(), text);
            }
        }
    }

    #[test]
    fn a_path_loses_its_brackets_and_its_source_route() {
        let path = |text| Mailbox::parse_path(text).map(|(m, rest)| (m.as_str().to_owned(), rest));
        assert_eq!(path("<a@b> SIZE=1"), Ok(("a@b".to_owned(), " SIZE=1")));
        assert_eq!(path("<@x.test,@y.test:a@b>"), Ok(("a@b".to_owned(), "")));
        assert_eq!(path("<\">\"@b>x"), Ok(("\">\"@b".to_owned(), "x")));
        assert!(ReversePath::parse_path("<>").unwrap() == (ReversePath::Null, ""));
        for text in ["a@b", "<a@b", "<@x:>", "<@x,y:a@b>", "<@x a@b>", "<\"a>@b", "<<a@b>>", "<>"] {
            assert!(Mailbox::parse_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn deserialising_validates() {
        let mailbox = Mailbox::parse("a@b.test").unwrap();
        let json = serde_json::to_string(&mailbox).unwrap();
        assert_eq!(json, "\"a@b.test\"");
        assert_eq!(serde_json::from_str::<Mailbox>(&json).unwrap(), mailbox);
        assert!(serde_json::from_str::<Mailbox>("\"a\\r\\n@b\"").is_err());
        let bytes = postcard::to_allocvec(&ReversePath::Mailbox(mailbox.clone())).unwrap();
        assert_eq!(
            postcard::from_bytes::<ReversePath>(&bytes).unwrap(),
            ReversePath::Mailbox(mailbox)
        );
    }

    proptest! {
        #[test]
        fn a_mailbox_parses_to_itself_again(text in "[ -~\u{80}-\u{3ff}]{0,20}@[ -~\u{80}-\u{3ff}]{0,20}") {
            if let Ok(mailbox) = Mailbox::parse(&text) {
                prop_assert!(!mailbox.as_str().chars().any(char::is_control));
                prop_assert_eq!(Mailbox::parse(mailbox.as_str()), Ok(mailbox));
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Mailbox::parse(&text);
            let _ = ReversePath::parse_path(&text);
        }
    }
}

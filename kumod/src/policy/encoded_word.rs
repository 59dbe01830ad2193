//! RFC 2047: text other than ASCII in header values. Reads UTF-8, US-ASCII and ISO-8859-1, writes UTF-8.
//! Invariant: what can't be decoded is left as it stands, and decoding never fails.
use std::fmt::Write;

/// An encoded word may not be longer (RFC 2047 section 2).
const WORD_OCTETS: usize = 75;
/// Columns after which a value is folded at a space, and after which it is cut.
const FOLD_COLUMN: usize = 75;
const CUT_COLUMN: usize = 900;

/// Encoded words become text; white space between two of them vanishes.
pub fn decode(value: &str) -> String {
    let mut decoded = String::with_capacity(value.len());
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let (before, word) = rest.split_at(start);
        let Some((text, length)) = decode_word(word) else {
            decoded.push_str(before);
            decoded.push_str("=?");
            (rest, after_word) = (&word[2..], false);
            continue;
        };
        if !(after_word && before.chars().all(char::is_whitespace)) {
            decoded.push_str(before);
        }
        decoded.push_str(&text);
        (rest, after_word) = (&word[length..], true);
    }
    decoded.push_str(rest);
    decoded
}

/// The text of the encoded word that `word` begins with, and its length.
fn decode_word(word: &str) -> Option<(String, usize)> {
    let mut parts = word[2..].splitn(3, '?');
    let (charset, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let end = rest.find("?=")?;
    let payload = &rest[..end];
    let bytes = match encoding {
        "Q" | "q" => decode_q(payload)?,
        "B" | "b" => decode_base64(payload)?,
        _ => return None,
    };
    // RFC 2231 allows `charset*language`.
    let charset = charset.split('*').next()?.to_ascii_lowercase();
    let text = match charset.as_str() {
        "utf-8" | "us-ascii" => String::from_utf8_lossy(&bytes).into_owned(),
        "iso-8859-1" => bytes.iter().map(|byte| *byte as char).collect(),
        _ => return None,
    };
    let length = word.len() - rest.len() + end + 2;
    Some((text, length))
}

fn decode_q(payload: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(payload.len());
    let mut rest = payload.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            b' ' => return None,
            other => other,
        });
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

fn decode_base64(payload: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(payload.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in payload.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// A value fit for a header field named `name`: ASCII is folded at spaces, anything else becomes encoded words.
pub fn encode(name: &str, value: &str) -> String {
    match value.is_ascii() {
        true => fold(name.len() + 2, value),
        false => encode_words(name.len() + 2, value),
    }
}

fn fold(mut column: usize, value: &str) -> String {
    let mut folded = String::with_capacity(value.len() + 8);
    for (at, word) in value.split(' ').enumerate() {
        if at > 0 {
            let breaks = column + 1 + word.len() > FOLD_COLUMN && !word.is_empty();
            folded.push_str(if breaks { "\r\n " } else { " " });
            column = if breaks { 1 } else { column + 1 };
        }
        for character in word.chars() {
            if column >= CUT_COLUMN {
                folded.push_str("\r\n ");
                column = 1;
            }
            folded.push(character);
            column += 1;
        }
    }
    folded
}

fn encode_words(mut column: usize, value: &str) -> String {
    const START: &str = "=?UTF-8?Q?";
    let mut encoded = String::from(START);
    let mut word = START.len();
    for character in value.chars() {
        let piece = encode_q(character);
        let ends = word + piece.len() + 2 > WORD_OCTETS || column + word + piece.len() + 2 > CUT_COLUMN;
        if ends {
            encoded.push_str("?=\r\n ");
            encoded.push_str(START);
            (word, column) = (START.len(), 1);
        }
        encoded.push_str(&piece);
        word += piece.len();
    }
    encoded.push_str("?=");
    encoded
}

fn encode_q(character: char) -> String {
    match character {
        ' ' => "_".into(),
        'a'..='z' | 'A'..='Z' | '0'..='9' | '!' | '*' | '+' | '-' | '/' => character.into(),
        other => {
            let mut octets = [0; 4];
            other.encode_utf8(&mut octets).bytes().fold(String::new(), |mut text, byte| {
                write!(text, "={byte:02X}").expect("a String takes any text");
                text
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn encoded_words_become_text() {
        for (value, expected) in [
            ("plain", "plain"),
            ("=?UTF-8?Q?Gr=C3=BC=C3=9Fe?= an alle", "Grüße an alle"),
            ("=?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
            ("=?iso-8859-1?q?caf=E9_au_lait?=", "café au lait"),
            ("=?UTF-8?Q?a?=  =?UTF-8?Q?b?= c", "ab c"),
            ("=?UTF-8*de?Q?a?=", "a"),
            ("=?koi8-r?B?AAAA?=", "=?koi8-r?B?AAAA?="),
            ("=?UTF-8?Q?broken=G1?= =?", "=?UTF-8?Q?broken=G1?= =?"),
            ("=?UTF-8?B?*?= =?UTF-8?X?a?=", "=?UTF-8?B?*?= =?UTF-8?X?a?="),
        ] {
            assert_eq!(decode(value), expected, "{value}");
        }
    }

    #[test]
    fn long_ascii_is_folded_and_cut() {
        let folded = encode("Subject", &"word ".repeat(40));
        assert!(folded.split("\r\n").all(|line| line.len() <= FOLD_COLUMN), "{folded}");
        assert_eq!(folded.replace("\r\n", ""), "word ".repeat(40));
        let cut = encode("X", &"y".repeat(2_000));
        assert!(cut.split("\r\n").all(|line| line.len() <= CUT_COLUMN));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(value in "[a-zäöü€ =?_]{0,200}é") {
            let encoded = encode("Subject", &value);
            prop_assert!(encoded.is_ascii());
            prop_assert!(encoded.split("\r\n ").all(|word| word.len() <= WORD_OCTETS));
            prop_assert_eq!(decode(&encoded), value);
        }

        #[test]
        fn anything_can_be_decoded(value in "(=\\?|\\?=|utf-8|\\?[qb]\\?|.){0,30}") {
            decode(&value);
        }
    }
}

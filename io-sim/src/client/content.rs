//! The content of a message, a function of its numbers and the seed. Invariant: CRLF lines of at most 998 octets, no NUL; the body has as
//! many octets as asked for, and is the same in every attempt.
use crate::ledger::Submission;
use kumo_core::random::Random;

/// With its header, in which `X-Sim` names the submission.
pub fn content(message: u32, attempt: u32, size: usize, seed: u64) -> Vec<u8> {
    let submission = Submission { message, attempt };
    let header = format!(
        "X-Sim: {submission}\r\nFrom: <sender-{message}@client.example>\r\n\
         To: somebody;\r\nSubject: message {message}\r\n\r\n"
    );
    let mut content = header.into_bytes();
    content.reserve(size);
    let mut random = Random::new(seed ^ u64::from(message), "content");
    let is_8bit = random.below(3) == 0;
    let mut remaining = size;
    while remaining > 1 {
        let length = line_length(remaining, &mut random);
        line(length, is_8bit, &mut random, &mut content);
        remaining -= length + 2;
    }
    content
}

/// Leaves room for a last CRLF, if there is to be another line.
fn line_length(remaining: usize, random: &mut Random) -> usize {
    let drawn = match random.below(16) {
        0 => 998,
        1 => 0,
        _ => random.below(80) as usize,
    };
    let length = drawn.min(remaining - 2);
    match remaining - length - 2 {
        1 if length == 0 => 1,
        1 if remaining - 2 <= 998 => length + 1,
        1 => length - 1,
        _ => length,
    }
}

fn line(length: usize, is_8bit: bool, random: &mut Random, content: &mut Vec<u8>) {
    let begin = content.len();
    while content.len() < begin + length {
        // Eight octets for each draw.
        let drawn = random.next_u64().to_le_bytes();
        let wanted = (begin + length - content.len()).min(8);
        content.extend(drawn[..wanted].iter().map(|octet| printable(*octet, is_8bit)));
    }
    if length > 0 && random.below(8) == 0 {
        content[begin] = b'.';
    }
    content.extend_from_slice(b"\r\n");
}

fn printable(octet: u8, is_8bit: bool) -> u8 {
    match octet {
        0x80.. if is_8bit => octet,
        _ => b' ' + (octet & 0x7f) % 95,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{stuffed, unstuffed};

    #[test]
    fn it_is_as_long_as_asked_for_in_lines_that_may_be_sent() {
        for message in 0..400 {
            let size = message as usize * 13 % 5_000;
            let text = content(message, 1, size, 5);
            let begin = memchr::memmem::find(&text, b"\r\n\r\n").unwrap() + 4;
            let expected = if size == 1 { 0 } else { size };
            assert_eq!(text.len() - begin, expected);
            let wire = stuffed(&text);
            let (again, wrong) = unstuffed(&wire[..wire.len() - 3]);
            assert_eq!((again, wrong), (text, None));
        }
    }

    #[test]
    fn attempts_differ_in_their_name_only() {
        let (one, two) = (content(7, 1, 300, 9), content(7, 2, 300, 9));
        assert_ne!(one, two);
        let renamed = String::from_utf8_lossy(&one).replacen("7/1", "7/2", 1);
        assert_eq!(renamed, String::from_utf8_lossy(&two));
        assert_ne!(content(8, 1, 300, 9)[120..], one[120..]);
    }
}

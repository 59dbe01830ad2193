//! Content from policy and HTTP gets the line ends that mail has. Nothing else is changed.
use bytes::{Bytes, BytesMut};

/// Every line end becomes CRLF, and the last line gets one.
pub fn with_crlf(data: &[u8]) -> Bytes {
    let mut text = BytesMut::with_capacity(data.len() + data.len() / 32 + 2);
    let mut rest = data;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
        text.extend_from_slice(&rest[..end]);
        text.extend_from_slice(b"\r\n");
        let length = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = rest.get(end + length..).unwrap_or_default();
    }
    text.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_with_crlf() {
        for (given, made) in [
            (&b"a\nb"[..], &b"a\r\nb\r\n"[..]),
            (b"a\r\nb\r\n", b"a\r\nb\r\n"),
            (b"a\rb\n\nc", b"a\r\nb\r\n\r\nc\r\n"),
            (b"", b""),
        ] {
            assert_eq!(with_crlf(given), made);
        }
    }
}

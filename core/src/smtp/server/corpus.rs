//! The hostile inputs of reliability.md section 4 that are told by what a client says: one table, each row under the
//! words of that section. Checked of each: the last reply, how many messages got in, the session's state after it, the
//! bounds of memory and work, what is written down; and that cutting the input at any offset changes nothing (I17).
//! Inputs that take time, a handshake or a policy stand in `hostile`.
use super::greeting::auth_response;
use super::tests::{Dialogue, ENVELOPE, MESSAGE, settings};
use crate::config::listener::LineEndings;
use crate::header;
use crate::limits;

/// The session's state, found out by a MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Ungreeted,
    Greeted,
    Transaction,
    Closed,
}
use After::{Closed, Greeted, Transaction, Ungreeted};

impl After {
    fn reply_to_mail(self) -> &'static str {
        match self {
            Ungreeted => "503 5.5.1 EHLO or HELO must be issued first",
            Greeted => "250 OK <probe@x>",
            Transaction => "503 5.5.0 MAIL FROM already issued; you must RSET first",
            Closed => "",
        }
    }
}

struct Row {
    name: &'static str,
    /// Over TLS and after EHLO.
    is_secure: bool,
    line_endings: LineEndings,
    said: Vec<u8>,
    /// The last reply line's beginning.
    reply: &'static str,
    messages: usize,
    after: After,
}

fn row(
    name: &'static str,
    said: impl Into<Vec<u8>>,
    (reply, messages, after): (&'static str, usize, After),
) -> Row {
    let line_endings = LineEndings::Deny;
    Row { name, is_secure: false, line_endings, said: said.into(), reply, messages, after }
}

/// For what is refused and changes nothing.
fn refused(name: &'static str, said: impl Into<Vec<u8>>, reply: &'static str, after: After) -> Row {
    row(name, said, (reply, 0, after))
}

const ACCEPTED: (&str, usize, After) = ("250 OK ids=", 1, Greeted);

fn data(content: &str) -> String {
    format!("{ENVELOPE}DATA\r\n{content}")
}

fn mail(parameters: &str) -> String {
    format!("EHLO c\r\nMAIL FROM:<a@b>{parameters}\r\n")
}

fn rcpt(path: &str) -> String {
    format!("EHLO c\r\nMAIL FROM:<> SMTPUTF8\r\nRCPT TO:{path}\r\n")
}

/// CVE-2023-51764, -51765, -51766: only CRLF.CRLF ends data, whatever the listener does with bare line ends.
fn end_of_data_look_alikes() -> Vec<Row> {
    let smuggled = "MAIL FROM:<evil@x>\r\nRCPT TO:<v@y>\r\nDATA\r\nevil\r\n.\r\n";
    let mut rows = Vec::new();
    for (name, look_alike, is_bare) in [
        ("LF.LF", "\n.\n", true),
        ("LF.CRLF", "\n.\r\n", true),
        ("CRLF.LF", "\r\n.\n", true),
        ("CR.CR", "\r.\r", true),
        ("CR.CRLF", "\r.\r\n", true),
        ("LF.CR", "\n.\r", true),
        ("CRLF.CR", "\r\n.\r", true),
        ("CRLF.CRCRLF", "\r\n.\r\r\n", true),
        ("NUL before the dot", "\r\n\0.\r\n", false),
        ("NUL after the dot", "\r\n.\0\r\n", false),
        ("space before the dot", "\r\n .\r\n", false),
        ("space after the dot", "\r\n. \r\n", false),
        ("two dots", "\r\n..\r\n", false),
    ] {
        for line_endings in [LineEndings::Deny, LineEndings::Allow, LineEndings::Fix] {
            let is_refused = is_bare && line_endings == LineEndings::Deny;
            let expected = match is_refused {
                true => ("552 5.6.0 message data must use CRLF for line endings", 0, Greeted),
                false => ACCEPTED,
            };
            let said = data(&format!("a{look_alike}{smuggled}"));
            rows.push(Row { line_endings, ..row(name, said, expected) });
        }
    }
    rows
}

fn bdat() -> Vec<Row> {
    let unknown = "502 5.5.1 Command unimplemented";
    vec![
        refused(
            "BDAT while CHUNKING isn't offered",
            format!("{ENVELOPE}BDAT 3 LAST\r\n"),
            unknown,
            Transaction,
        ),
        refused("BDAT without MAIL", "EHLO c\r\nBDAT 3\r\n", unknown, Greeted),
        refused(
            "BDAT, LAST missing",
            format!("{ENVELOPE}BDAT 3\r\nBDAT\r\n"),
            unknown,
            Transaction,
        ),
        refused(
            "BDAT, size mismatch",
            format!("{ENVELOPE}BDAT 1\r\nabc\r\n"),
            unknown,
            Transaction,
        ),
        refused(
            "BDAT and an end of data",
            format!("{ENVELOPE}BDAT 9 LAST\r\n\r\na\r\n.\r\n"),
            unknown,
            Transaction,
        ),
        row(
            "DATA after BDAT",
            format!("{ENVELOPE}BDAT 0\r\nDATA\r\na\r\nBDAT 0 LAST\r\n.\r\n"),
            ACCEPTED,
        ),
    ]
}

fn out_of_order() -> Vec<Row> {
    vec![
        refused("MAIL before EHLO", "MAIL FROM:<a@b>\r\n", "503 5.5.1 EHLO", Ungreeted),
        refused("RCPT before MAIL", "EHLO c\r\nRCPT TO:<a@b>\r\n", "503 5.5.0 MAIL FROM", Greeted),
        row(
            "RCPT outside transaction",
            data("x\r\n.\r\nRCPT TO:<a@b>\r\n"),
            ("503 5.5.0 MAIL FROM must be issued first", 1, Greeted),
        ),
        refused(
            "DATA without RCPT",
            "EHLO c\r\nMAIL FROM:<>\r\nDATA\r\n",
            "503 5.5.0 RCPT TO",
            Transaction,
        ),
        refused(
            "pipelining after a failed RCPT",
            rcpt("<bad>\r\nDATA"),
            "503 5.5.0 RCPT TO must be issued first",
            Transaction,
        ),
        // Content, not commands: to refuse it would make the replies depend on how the input is cut (I17).
        row("pipelining after DATA before 354", data("RSET\r\nQUIT\r\n.\r\n"), ACCEPTED),
        refused(
            "STARTTLS inside a transaction",
            format!("{ENVELOPE}STARTTLS\r\n"),
            "503 5.5.1 not permitted inside a transaction",
            Transaction,
        ),
        Row {
            is_secure: true,
            ..refused("second STARTTLS", "STARTTLS\r\n", "501 5.5.1 Cannot STARTTLS", Greeted)
        },
    ]
}

fn parameters() -> Vec<Row> {
    let big = "552 5.3.4 message too big";
    vec![
        refused("parameter duplicate", mail(" SIZE=1 size=1"), "501 ", Greeted),
        refused("parameter unknown", mail(" RET=HDRS"), "555 5.5.4", Greeted),
        refused("RCPT parameter unknown", rcpt("<a@b> NOTIFY=NEVER"), "555 5.5.4", Transaction),
        refused("SIZE=-1", mail(" SIZE=-1"), "501 ", Greeted),
        refused("SIZE=2^64", mail(" SIZE=18446744073709551616"), big, Greeted),
        refused("SIZE of 21 digits", mail(" SIZE=184467440737095516160"), "501 ", Greeted),
        refused("SIZE above the maximum", mail(" SIZE=20971521"), big, Greeted),
        row("SIZE of the maximum", mail(" SIZE=20971520"), ("250 OK <a@b>", 0, Transaction)),
        refused("SIZE without value", mail(" SIZE"), "501 ", Greeted),
        refused("BODY=NONSENSE", mail(" BODY=NONSENSE"), "501 ", Greeted),
        refused("AUTH= with quotes", mail(" AUTH=\"x\""), "501 ", Greeted),
        refused("AUTH= cut off", mail(" AUTH=+4"), "501 ", Greeted),
        row("AUTH=<>", mail(" AUTH=<>"), ("250 OK <a@b>", 0, Transaction)),
        refused("trailing junk", mail("x"), "501 ", Greeted),
        refused("trailing junk after RCPT", rcpt("<a@b>x"), "501 ", Transaction),
        refused("CR in a DSN parameter", mail(" ENVID=a\rb"), "501 5.5.2", Greeted),
        refused("LF in a DSN parameter", mail(" ENVID=a\nRSET"), "501 5.5.2", Greeted),
        refused("NUL in a DSN parameter", mail(" ENVID=a\0b"), "501 5.5.2", Greeted),
    ]
}

fn addresses() -> Vec<Row> {
    let control = "501 5.5.2 Control character in command";
    let bad = "501 5.1.3 Invalid recipient address syntax";
    let mut rows = vec![
        refused("CR in address", rcpt("<a\r@b>"), control, Transaction),
        refused("NUL in address", rcpt("<a\0@b>"), control, Transaction),
        refused("newline in address", rcpt("<a\n@b>"), "501 5.5.2 command lines must", Transaction),
        refused("newline, then a command", rcpt("<a\nRSET"), "501 5.5.2", Transaction),
        refused("NUL in HELO name", "EHLO a\0b\r\n", control, Ungreeted),
        refused("CR in HELO name", "HELO a\rb\r\n", control, Ungreeted),
        refused("newline in HELO name", "EHLO a\nb\r\n", "501 5.5.2", Ungreeted),
        refused("; and | in HELO name", "EHLO ;ls|x\r\n", "501 ", Ungreeted),
        refused("no HELO name", "HELO\r\n", "501 ", Ungreeted),
        refused("port in a recipient", rcpt("<a@b:25>"), bad, Transaction),
    ];
    for (name, mailbox) in [
        ("; leading", ";ls@b"),
        ("| leading", "|ls@b"),
        ("- leading", "-rf@b"),
        ("; leading, quoted", "\";ls\"@b"),
        ("| leading, quoted", "\"|ls\"@b"),
        ("- leading, quoted", "\"-rf\"@b"),
        ("<> quoted", "\"<>\"@b"),
        ("> quoted", "\"a>b\"@b"),
        ("<> within", "<a@b>"),
    ] {
        rows.push(refused(name, rcpt(&format!("<{mailbox}>")), bad, Transaction));
        let said = format!("EHLO c\r\nMAIL FROM:<{mailbox}>\r\n");
        rows.push(refused(name, said, "501 5.1.7 Invalid sender address syntax", Greeted));
    }
    rows
}

fn unicode() -> Vec<Row> {
    let label = format!("xn--{}", "a".repeat(59));
    let longest = format!("{}.{}", [&*label; 3].join("."), "b".repeat(63));
    assert_eq!(longest.len(), 255);
    let bad = "501 5.1.3 Invalid recipient address syntax";
    let without = |path: &str| format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:{path}\r\n");
    let needs = "553 5.6.7";
    let ok = |name, path: &str, reply| row(name, rcpt(path), (reply, 0, Transaction));
    vec![
        refused(
            "8-bit in a command",
            b"EHLO c\r\nVRFY \xe4\r\n",
            "501 5.5.2 Invalid UTF-8",
            Greeted,
        ),
        refused("invalid UTF-8 in HELO", b"EHLO \xc3(\r\n", "501 5.5.2 Invalid UTF-8", Ungreeted),
        refused("C1 control", "EHLO c\r\nVRFY \u{85}\r\n", "501 5.5.2 Control", Greeted),
        refused("SMTPUTF8 without the parameter", without("<j\u{f6}rg@b>"), needs, Transaction),
        refused("SMTPUTF8 without it, domain", without("<a@\u{e5}.test>"), needs, Transaction),
        refused("Kelvin sign, no SMTPUTF8", without("<a@\u{212a}umo.test>"), needs, Transaction),
        refused("sender without it", "EHLO c\r\nMAIL FROM:<\u{e4}@b>\r\n", needs, Greeted),
        refused("U+200B in domain", rcpt("<a@b\u{200b}c>"), bad, Transaction),
        refused("U+200B in local part", rcpt("<a\u{200b}@b>"), bad, Transaction),
        refused("U+200B, no SMTPUTF8", without("<a@b\u{200b}c>"), bad, Transaction),
        refused("RTL override", rcpt("<a\u{202e}@b>"), bad, Transaction),
        refused("RTL mark in domain", rcpt("<a@b\u{200f}.test>"), bad, Transaction),
        ok("RTL script", "<\u{5d0}@\u{5d1}.test>", "250 OK <\u{5d0}@\u{5d1}.test>"),
        ok("NFC", "<caf\u{e9}@b>", "250 OK <caf\u{e9}@b>"),
        ok("NFD", "<cafe\u{301}@b>", "250 OK <cafe\u{301}@b>"),
        ok("NFC in domain", "<a@caf\u{e9}.test>", "250 OK <a@caf\u{e9}.test>"),
        ok("NFD in domain", "<a@cafe\u{301}.test>", "250 OK <a@cafe\u{301}.test>"),
        ok("IDN homograph", "<a@p\u{430}ypal.test>", "250 OK <a@p\u{430}ypal.test>"),
        ok("Kelvin sign", "<a@\u{212a}umo.test>", "250 OK <a@\u{212a}umo.test>"),
        refused("ideographic full stop", rcpt("<a@b\u{3002}c>"), bad, Transaction),
        ok("255 octets of A-labels", &format!("<a@{longest}>"), "250 OK <a@xn--"),
        refused("256 octets of A-labels", rcpt(&format!("<ab@{longest}b>")), bad, Transaction),
        refused(
            "one A-label of 255 octets",
            rcpt(&format!("<a@xn--{}>", "a".repeat(251))),
            bad,
            Transaction,
        ),
        refused("no A-label after all", rcpt("<a@xn--.test->"), bad, Transaction),
    ]
}

fn other_protocols() -> Vec<Row> {
    let request = " / HTTP/1.1\r\nHost: x\r\n\r\nEHLO c\r\nMAIL FROM:<a@b>\r\n";
    let not_smtp = "521 5.7.0 This port speaks SMTP";
    vec![
        refused("GET", format!("GET{request}"), not_smtp, Closed),
        refused("POST", format!("POST{request}"), not_smtp, Closed),
        refused("post", format!("post{request}"), not_smtp, Closed),
        refused("GET inside a transaction", format!("{ENVELOPE}GET{request}"), not_smtp, Closed),
        refused(
            "POST with a long address",
            format!("POST /{}{request}", "a".repeat(20_000)),
            not_smtp,
            Closed,
        ),
        refused("TLS hello on plain port", "\x16\x03\x01\x02\0\x01\r\n", not_smtp, Closed),
        refused("TLS hello after EHLO", "EHLO c\r\n\x16\x03\x01", not_smtp, Closed),
        refused("unknown command", "XYZZY\r\n", "502 5.5.1", Ungreeted),
        refused("empty line", "\r\n", "502 5.5.1", Ungreeted),
    ]
}

fn long_lines() -> Vec<Row> {
    let too_long = "500 5.2.3 line too long";
    let noop = |length: usize| format!("EHLO c\r\nNOOP {}\r\n", "x".repeat(length - 5));
    let line = |length: usize| data(&format!("{}\r\n.\r\n", "x".repeat(length)));
    vec![
        row("command of the longest line", noop(998), ("250 OK", 0, Greeted)),
        refused("command over line_length_hard_limit", noop(999), too_long, Greeted),
        refused("command of 20 kB", noop(20_000), too_long, Greeted),
        refused(
            "command over the limit, then a bare LF and a command",
            format!("EHLO c\r\n{}\nMAIL FROM:<a@b>\r\n", "x".repeat(999)),
            too_long,
            Greeted,
        ),
        row("text of the longest line", line(998), ACCEPTED),
        refused("text line over line_length_hard_limit", line(999), too_long, Greeted),
        refused("text line of 20 kB", line(20_000), too_long, Greeted),
        refused(
            "header line over the limit, folded",
            data(&format!("A: b\r\n {}\r\n\r\n.\r\n", "x".repeat(998))),
            too_long,
            Greeted,
        ),
        refused(
            "look-alike at the end of a long line",
            data(&format!("{}\r.\r\n\r\n.\r\n", "x".repeat(999))),
            "552 5.6.0",
            Greeted,
        ),
    ]
}

fn contents() -> Vec<Row> {
    let nested: String = (0..100)
        .map(|depth| {
            format!("Content-Type: multipart/mixed; boundary={depth}\r\n\r\n--{depth}\r\n")
        })
        .collect();
    let to_many = |content: &str| {
        let recipients = "RCPT TO:<a@b.test>\r\n".repeat(100);
        format!("EHLO c\r\nMAIL FROM:<>\r\n{recipients}DATA\r\n{content}.\r\n")
    };
    let hops = |count| data(&("Received: x\r\n".repeat(count) + "\r\n.\r\n"));
    vec![
        row("header count 10^5", data(&("A: b\r\n".repeat(100_000) + "\r\nb\r\n.\r\n")), ACCEPTED),
        row("fold bomb", data(&format!("A: b\r\n{}\r\n.\r\n", " \r\n".repeat(100_000))), ACCEPTED),
        row(
            "fold bomb to 100",
            to_many(&format!("A: b\r\n{}", " \r\n".repeat(9_000))),
            ("250 ", 100, Greeted),
        ),
        row("100 nested MIME", data(&format!("{nested}\r\nend\r\n.\r\n")), ACCEPTED),
        row("no header", data("just text\r\n.\r\n"), ACCEPTED),
        row("header-only", data("Subject: x\r\n.\r\n"), ACCEPTED),
        row("NUL in body", data("\r\na\0b\r\n.\r\n"), ACCEPTED),
        row("empty body", data(".\r\n"), ACCEPTED),
        row("99 hops", hops(99), ACCEPTED),
        refused("100 hops", hops(100), "554 5.4.6", Greeted),
    ]
}

fn recipients() -> Vec<Row> {
    let list = |count| {
        let all = "RCPT TO:<a@b.test>\r\n".repeat(count);
        format!("EHLO c\r\nMAIL FROM:<>\r\n{all}DATA\r\nx\r\n.\r\n")
    };
    let too_many = list(1_025).replace("DATA\r\nx\r\n.\r\n", "");
    let accepted = |count| ("250 ", count, Greeted);
    vec![
        row("100 RCPT", list(100), accepted(100)),
        row("101 RCPT", list(101), accepted(101)),
        row("1,000 RCPT", list(1_000), accepted(1_000)),
        row("1,025 RCPT, earlier ones kept", list(1_025), accepted(1_024)),
        refused(
            "more than max_recipients_per_message",
            too_many,
            "452 4.5.3 too many recipients",
            Transaction,
        ),
    ]
}

/// What is nobody's attack, for comparison and for I17.
fn ordinary() -> Vec<Row> {
    vec![
        row("two messages", format!("{MESSAGE}{}", &MESSAGE[13..]), ("250 OK ids=", 2, Greeted)),
        refused(
            "QUIT before the end",
            data("x\r\n.\rQUIT\r\n\r\n.\r\nQUIT\r\nNOOP\r\n"),
            "221",
            Closed,
        ),
        refused("RSET", format!("{ENVELOPE}RSET\r\n"), "250 OK", Greeted),
        refused("EHLO again", format!("{ENVELOPE}EHLO d\r\n"), "250 STARTTLS", Greeted),
    ]
}

/// Over TLS, where no policy says who may log in.
fn authentication() -> Vec<Row> {
    let good = auth_response("", "u", "p");
    let nul = auth_response("", "u\0x", "p");
    let unpadded = auth_response("", "us", "pw");
    let long = "A".repeat(12_288);
    let mut rows = vec![
        refused("cancelled by *", "AUTH PLAIN\r\n*\r\n", "501 5.5.0", Greeted),
        refused("not base64", "AUTH PLAIN\r\nS3CRET!!\r\n", "501 5.5.2", Greeted),
        refused("empty response", "AUTH PLAIN =\r\n", "501 5.5.2", Greeted),
        refused("NUL in user", format!("AUTH PLAIN {nul}\r\n"), "501 5.5.2", Greeted),
        refused("12 kB base64 at once", format!("AUTH PLAIN {long}\r\n"), "500 5.5.6", Greeted),
        refused("12 kB base64", format!("AUTH PLAIN\r\nA{long}\r\n"), "500 5.5.6", Greeted),
        refused("unknown mechanism", "AUTH CRAM-MD5\r\n", "504 5.5.4 AUTH CRAM-MD5", Greeted),
        refused("no mechanism", "AUTH\r\n", "501 5.5.2", Greeted),
        refused("a secret for a mechanism", format!("AUTH {good}\r\n"), "501 5.5.2", Greeted),
        refused("the same without padding", format!("AUTH {unpadded}\r\n"), "501 5.5.2", Greeted),
        refused("one word too many", format!("AUTH PLAIN {good} x\r\n"), "501 5.5.2", Greeted),
        refused("1-character password", format!("AUTH PLAIN {good}\r\n"), "535 5.7.8", Greeted),
        refused(
            "a secret although it was refused",
            format!("AUTH LOGIN\r\n{good}\r\nS3CRET!!\r\n"),
            "502 5.5.1",
            Greeted,
        ),
        refused("AUTH behind a space", format!(" AUTH PLAIN {good}\r\n"), "502 5.5.1", Greeted),
        refused(
            "AUTH inside a transaction",
            format!("MAIL FROM:<a@b>\r\nAUTH PLAIN {good}\r\n"),
            "503 5.5.1 AUTH not permitted inside a transaction",
            Transaction,
        ),
        refused("AUTH before EHLO", format!("AUTH PLAIN {good}\r\n"), "503 5.5.1", Ungreeted),
        refused(
            "AUTH without TLS",
            format!("EHLO c\r\nAUTH PLAIN {good}\r\n"),
            "524 5.7.11 AUTH PLAIN requires an encrypted channel",
            Greeted,
        ),
        refused(
            "AUTH without TLS, secret sent all the same",
            format!("EHLO c\r\nAUTH PLAIN\r\n{good}\r\n"),
            "502 5.5.1",
            Greeted,
        ),
    ];
    let in_clear =
        ["AUTH before EHLO", "AUTH without TLS", "AUTH without TLS, secret sent all the same"];
    for row in &mut rows {
        row.is_secure = !in_clear.contains(&row.name);
    }
    rows
}

fn floods() -> Vec<Row> {
    let junk = "421 4.7.0 H too many commands without a message";
    vec![
        refused("NOOP flood", "NOOP\r\n".repeat(101), junk, Closed),
        refused("RSET flood", "RSET\r\n".repeat(101), junk, Closed),
        refused("VRFY flood", "VRFY x\r\n".repeat(101), junk, Closed),
        refused("HELO flood", "HELO c\r\n".repeat(101), junk, Closed),
        refused("EHLO flood", "EHLO c\r\n".repeat(101), junk, Closed),
        row("100 NOOP", "NOOP\r\n".repeat(100), ("250 OK", 0, Ungreeted)),
        refused(
            "MAIL and RSET",
            format!("EHLO c\r\n{}", "MAIL FROM:<>\r\nRSET\r\n".repeat(100)),
            junk,
            Closed,
        ),
        refused("20 errors", "XYZZY\r\n".repeat(20), "421 4.7.0 H too many errors", Closed),
        refused(
            "19 errors",
            "EHLO c\r\n".to_owned() + &"XYZZY\r\n".repeat(19),
            "502 5.5.1",
            Greeted,
        ),
    ]
}

fn rows() -> Vec<Row> {
    let groups = [
        ordinary(),
        end_of_data_look_alikes(),
        bdat(),
        out_of_order(),
        parameters(),
        addresses(),
        unicode(),
        other_protocols(),
        long_lines(),
        contents(),
        recipients(),
        authentication(),
        floods(),
    ];
    groups.into_iter().flatten().collect()
}

impl Row {
    fn begin(&self) -> Dialogue {
        let mut dialogue = Dialogue::opened(settings(|listener| {
            listener.invalid_line_endings = self.line_endings
        }));
        if self.is_secure {
            dialogue.say("EHLO c\r\nSTARTTLS\r\n");
            dialogue.say("EHLO c\r\n");
        }
        dialogue.read();
        dialogue
    }

    /// What comes of saying it in `parts`.
    fn outcome(&self, parts: &[&[u8]]) -> impl PartialEq + core::fmt::Debug + use<> {
        let mut dialogue = self.begin();
        for part in parts {
            if !dialogue.is_closed {
                dialogue.say(part);
            }
        }
        let replies = dialogue.read();
        let rejected = dialogue.rejected.iter().map(|rejection| format!("{rejection:?}"));
        (replies, rejected.collect::<Vec<_>>(), dialogue.submitted, dialogue.is_closed)
    }
}

#[test]
fn every_row_has_its_reply_its_messages_and_its_state() {
    for row in rows() {
        let name = row.name;
        let mut dialogue = row.begin();
        let work = header::work::of(|| dialogue.say(&row.said));
        // The header, and the first line for each message that gets trace fields.
        let enough = 2 * row.said.len() + 3_000 * row.messages;
        assert!(work <= enough, "{name}: {work} octets of header for {}", row.said.len());
        let last = dialogue.last();
        assert!(last.starts_with(row.reply), "{name}: expected {:?}, found {last:?}", row.reply);
        assert_eq!(dialogue.submitted.len(), row.messages, "{name}");
        assert!(
            dialogue.submitted.iter().all(|m| m.envelope.sender.as_str() != "evil@x"),
            "{name}"
        );
        assert!(dialogue.session.buffered() <= 2 * limits::READ_CHUNK_OCTETS, "{name}: memory");
        assert_eq!(dialogue.is_closed, row.after == Closed, "{name}");
        if !dialogue.is_closed {
            dialogue.say("MAIL FROM:<probe@x>\r\n");
            assert_eq!(dialogue.last(), row.after.reply_to_mail(), "{name}");
        }
    }
}

/// Neither line ends nor secrets get into records, whatever was said.
#[test]
fn what_is_written_down_is_one_clean_line_without_secrets() {
    let secrets = [("u", "p"), ("u\0x", "p"), ("us", "pw")];
    let secrets = secrets.map(|(user, password)| auth_response("", user, password));
    for row in rows() {
        let mut dialogue = row.begin();
        dialogue.say(&row.said);
        for rejection in &dialogue.rejected {
            let command = rejection.reply.command.as_deref().unwrap_or("");
            let written = format!("{command}{}", rejection.reply.content);
            assert!(!written.contains(char::is_control), "{}: {written:?}", row.name);
            assert!(command.len() <= 3 * 512, "{}", row.name);
            let has = |secret: &str| format!("{rejection:?}").contains(secret);
            assert!(!has("S3CRET") && !has("AAAAAAAA"), "{}: {rejection:?}", row.name);
            assert!(!secrets.iter().any(|secret| has(secret)), "{}: {rejection:?}", row.name);
        }
    }
}

/// I17. Input above 2 kB, which is repetition for the most part, is cut at sixteen offsets and at each of its end.
#[test]
fn cutting_a_row_anywhere_changes_nothing() {
    for row in rows() {
        let said = &row.said[..];
        let whole = row.outcome(&[said]);
        let step = if said.len() <= 2_048 { 1 } else { said.len() / 16 };
        let is_looked_at = |cut: &usize| cut.is_multiple_of(step) || said.len() - cut < 12;
        for cut in (0..=said.len()).filter(is_looked_at) {
            let outcome = row.outcome(&[&said[..cut], &said[cut..]]);
            assert!(outcome == whole, "{} cut at {cut}: {outcome:?}, not {whole:?}", row.name);
        }
        let single: Vec<&[u8]> = said.chunks(1).collect();
        assert!(row.outcome(&single) == whole, "{} octet by octet", row.name);
    }
}

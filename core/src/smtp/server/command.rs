//! One command line, parsed: verb, argument, MAIL and RCPT parameters (RFC 5321 4.1, 1870, 6152, 6531, 4954).
//! Invariant: no text that leaves here holds a control character. What a command does is the states' business.
use crate::address::{AddressError, Mailbox, ReversePath, check_domain, split_path};
use crate::smtp::reply::Reply;
use alloc::format;
use alloc::string::String;

#[derive(Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Helo(&'a str),
    Ehlo(&'a str),
    /// What follows `MAIL FROM:`, `RCPT TO:`.
    Mail(&'a str),
    Rcpt(&'a str),
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Help,
    StartTls,
    Auth {
        mechanism: &'a str,
        initial: Option<&'a str>,
    },
    /// A verb of HTTP: somebody's browser is made to talk to us (D32).
    Http,
    Unknown,
}

const HTTP_VERBS: [&str; 9] =
    ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PATCH"];

/// Whether a line that is too long to be a command begins like a request of HTTP.
pub fn begins_http_request(line: &[u8]) -> bool {
    let verb = line.split(|octet| *octet == b' ').next().unwrap_or(line);
    verb.len() < line.len()
        && HTTP_VERBS.iter().any(|http| verb.eq_ignore_ascii_case(http.as_bytes()))
}

fn syntax(what: &str) -> Reply {
    Reply::new(501, &format!("Syntax error in command or arguments: {what}"))
}

/// `line` has no line end.
pub fn parse(line: &[u8]) -> Result<Command<'_>, Reply> {
    let Ok(text) = core::str::from_utf8(line) else {
        return Err(Reply::new(501, "5.5.2 Invalid UTF-8 in command"));
    };
    if text.chars().any(char::is_control) {
        return Err(Reply::new(501, "5.5.2 Control character in command"));
    }
    let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    let argument = argument.trim_end_matches(' ');
    let bare = |command: Command<'static>| match argument.is_empty() {
        true => Ok(command),
        false => Err(syntax("this command takes no argument")),
    };
    match () {
        () if is("MAIL") => Ok(Command::Mail(after_keyword(argument, "FROM:")?)),
        () if is("RCPT") => Ok(Command::Rcpt(after_keyword(argument, "TO:")?)),
        () if is("DATA") => bare(Command::Data),
        () if is("RSET") => bare(Command::Rset),
        () if is("QUIT") => bare(Command::Quit),
        () if is("EHLO") => Ok(Command::Ehlo(argument)),
        () if is("HELO") => Ok(Command::Helo(argument)),
        () if is("NOOP") => Ok(Command::Noop),
        () if is("VRFY") => Ok(Command::Vrfy),
        () if is("HELP") => Ok(Command::Help),
        () if is("STARTTLS") => bare(Command::StartTls),
        () if is("AUTH") => auth(argument),
        () if HTTP_VERBS.iter().any(|http| is(http)) => Ok(Command::Http),
        () => Ok(Command::Unknown),
    }
}

/// One space after the colon is tolerated, as many clients send it.
fn after_keyword<'a>(argument: &'a str, keyword: &str) -> Result<&'a str, Reply> {
    let matches = argument.get(..keyword.len()).is_some_and(|k| k.eq_ignore_ascii_case(keyword));
    if !matches {
        return Err(syntax(&format!("{keyword}<address> expected")));
    }
    let rest = &argument[keyword.len()..];
    Ok(rest.strip_prefix(' ').unwrap_or(rest))
}

fn auth(argument: &str) -> Result<Command<'_>, Reply> {
    let mut words = argument.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) if is_mechanism(mechanism) => {
            Ok(Command::Auth { mechanism, initial })
        }
        _ => Err(Reply::new(501, "5.5.2 AUTH takes a mechanism and at most one initial response")),
    }
}

/// RFC 4422 3.1, in one case. Replies and records repeat it, and credentials in its place are hardly ever like that.
fn is_mechanism(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let has = |is_case: fn(&char) -> bool| name.chars().any(|c| is_case(&c));
    let is_one_case = !(has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase));
    (1..=20).contains(&name.len()) && name.chars().all(is_allowed) && is_one_case
}

/// The domain of EHLO or HELO. A host may not know its name, so that other things than domains are tolerated as
/// long as they are harmless in a header.
pub fn greeting_domain(argument: &str) -> Result<&str, Reply> {
    let is_harmless = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let valid = !argument.is_empty()
        && argument.len() <= 255
        && (check_domain(argument).is_ok() || argument.chars().all(is_harmless));
    valid.then_some(argument).ok_or_else(|| syntax("a domain or an address literal expected"))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailArguments {
    pub sender: ReversePath,
    /// What the client says the message will have.
    pub size: Option<u64>,
    pub utf8: bool,
}

const UNSAFE: AddressError =
    AddressError("the local part begins with ; or | or -, or holds < or >, which isn't taken here");

fn sender_error(error: &AddressError) -> Reply {
    Reply::new(501, &format!("5.1.7 Invalid sender address syntax: {error}"))
}

pub fn recipient_error() -> Reply {
    Reply::new(501, "5.1.3 Invalid recipient address syntax")
}

/// Refused though the grammar allows them: what programs behind a mail server have taken for a command, an option or
/// the end of an address (CVE-2020-7247). Postfix has no leading hyphen either.
fn is_safe(mailbox: &Mailbox) -> bool {
    let local_part = mailbox.local_part();
    let unquoted = local_part.strip_prefix('"').unwrap_or(local_part);
    !unquoted.starts_with(['|', '-', ';']) && !local_part.contains(['<', '>'])
}

pub fn mail_arguments(text: &str) -> Result<MailArguments, Reply> {
    let (sender, rest) = ReversePath::parse_path(text).map_err(|error| sender_error(&error))?;
    if matches!(&sender, ReversePath::Mailbox(mailbox) if !is_safe(mailbox)) {
        return Err(sender_error(&UNSAFE));
    }
    let mut arguments = MailArguments { sender, size: None, utf8: false };
    let mut seen: [bool; 4] = [false; 4];
    for parameter in parameters(rest)? {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (parameter, None),
        };
        let names = ["SIZE", "BODY", "SMTPUTF8", "AUTH"];
        let Some(which) = names.iter().position(|name| keyword.eq_ignore_ascii_case(name)) else {
            return Err(Reply::new(555, "5.5.4 MAIL FROM parameter not recognized"));
        };
        if core::mem::replace(&mut seen[which], true) {
            return Err(syntax(&format!("{} is given twice", names[which])));
        }
        match (which, value) {
            (0, Some(value)) => arguments.size = Some(size(value)?),
            (1, Some(value))
                if ["7BIT", "8BITMIME"].iter().any(|b| value.eq_ignore_ascii_case(b)) => {}
            (2, None) => arguments.utf8 = true,
            (3, Some(value)) if is_xtext(value) => {}
            _ => return Err(syntax(&format!("the value of {} is invalid", names[which]))),
        }
    }
    if !arguments.utf8 && !arguments.sender.is_ascii() {
        return Err(needs_utf8());
    }
    Ok(arguments)
}

/// `postmaster_domain` completes `<Postmaster>` (RFC 5321 4.5.1). `utf8`: MAIL had SMTPUTF8.
pub fn rcpt_arguments(text: &str, utf8: bool, postmaster_domain: &str) -> Result<Mailbox, Reply> {
    let (inner, rest) = split_path(text).map_err(|_| recipient_error())?;
    let parsed = match inner.eq_ignore_ascii_case("postmaster") {
        true => Mailbox::parse(&format!("{inner}@{postmaster_domain}")),
        false => Mailbox::parse(inner),
    };
    let recipient = parsed.ok().filter(is_safe).ok_or_else(recipient_error)?;
    if parameters(rest)?.next().is_some() {
        return Err(Reply::new(555, "5.5.4 RCPT TO parameter not recognized"));
    }
    if !utf8 && !recipient.is_ascii() {
        return Err(needs_utf8());
    }
    Ok(recipient)
}

fn needs_utf8() -> Reply {
    Reply::new(553, "5.6.7 This address needs the SMTPUTF8 parameter of MAIL FROM")
}

/// What follows a path: nothing, or parameters each after a space.
fn parameters(rest: &str) -> Result<impl Iterator<Item = &str>, Reply> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(syntax("nothing but parameters may follow the address"));
    }
    Ok(rest.split(' ').filter(|parameter| !parameter.is_empty()))
}

/// RFC 1870: at most 20 digits. Above 2^64 it is certainly too big, not malformed.
fn size(value: &str) -> Result<u64, Reply> {
    let is_number = (1..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    match is_number {
        true => Ok(value.parse().unwrap_or(u64::MAX)),
        false => Err(syntax("SIZE takes a number of octets")),
    }
}

/// RFC 3461 section 4, as RFC 4954 has it for `AUTH=`.
fn is_xtext(value: &str) -> bool {
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |b: Option<u8>| b.is_some_and(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        let valid = match byte {
            b'+' => hex(bytes.next()) && hex(bytes.next()),
            b'=' | b'"' => false,
            other => other.is_ascii_graphic(),
        };
        if !valid {
            return false;
        }
    }
    !value.is_empty()
}

/// Whether credentials may stand in it, however badly the line is formed.
pub fn is_authentication(line: &[u8]) -> bool {
    line.trim_ascii_start().get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH"))
}

/// A command as it may stand in a record: without secrets, and not at any length.
pub fn for_records(line: &[u8]) -> String {
    if is_authentication(line) {
        return "AUTH".into();
    }
    let text = String::from_utf8_lossy(&line[..line.len().min(512)]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

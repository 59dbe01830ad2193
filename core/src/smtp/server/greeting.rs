//! The states outside a transaction: banner, HELO, STARTTLS, AUTH. Invariant: a session that went through STARTTLS
//! keeps nothing the client said before it (RFC 3207 4.2).
use super::command::{self, Command};
use super::context::{About, Context, End};
use super::io::{Asked, Output, Verdict};
use super::session::State;
use super::transaction::{AwaitMail, ExpectRcpt};
use crate::limits;
use crate::port::TlsInfo;
use crate::smtp::base64;
use crate::smtp::reply::Reply;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Who the client says it is. Holding one means that HELO or EHLO was accepted.
#[derive(Debug)]
pub struct Greeted {
    pub domain: Box<str>,
}

pub fn banner(cx: &mut Context) -> State {
    let text = format!("{} {}", cx.settings.hostname, cx.settings.listener.banner);
    cx.write(&Reply { code: 220, enhanced: None, content: text, command: None });
    State::ExpectHelo(ExpectHelo)
}

/// The connection stands; policy decides whether it is served.
#[derive(Debug)]
pub struct AwaitGreeting;

impl AwaitGreeting {
    pub fn on_verdict(self, verdict: Verdict, cx: &mut Context) -> State {
        match cx.resolve(verdict) {
            Ok(_) => banner(cx),
            Err(mut refusal) => {
                refusal.end = match refusal.end {
                    End::Stay => End::Close,
                    other => other,
                };
                cx.deny(refusal, About::NOBODY, State::Closed)
            }
        }
    }
}

#[derive(Debug)]
pub struct ExpectHelo;

impl ExpectHelo {
    pub fn on_command(self, command: Command<'_>, cx: &mut Context) -> State {
        match command {
            Command::Helo(domain) => greet(domain, false, self.into(), cx),
            Command::Ehlo(domain) => greet(domain, true, self.into(), cx),
            Command::Rset => reset(self, cx),
            other => without_effect(other, "5.5.1 EHLO or HELO must be issued first", self, cx),
        }
    }
}

/// Answers what means the same in every state; anything else is out of sequence.
pub fn without_effect(
    command: Command<'_>,
    out_of_sequence: &str,
    back: impl Into<State>,
    cx: &mut Context,
) -> State {
    let unimplemented = || Reply::new(502, "5.5.1 Command unimplemented");
    match command {
        Command::Noop => {
            cx.say(format_args!("250 OK"));
            cx.junk(back)
        }
        Command::Vrfy => {
            cx.say(format_args!("252 2.5.2 Send the mail and see"));
            cx.junk(back)
        }
        Command::Help => {
            cx.say(format_args!("214 See RFC 5321"));
            cx.junk(back)
        }
        Command::Quit => {
            let hostname = cx.settings.hostname.clone();
            cx.say(format_args!("221 2.0.0 {hostname} closing the connection"));
            cx.close()
        }
        Command::Http => not_smtp(cx),
        Command::Unknown => cx.fault(unimplemented(), About::NOBODY, back),
        _ => cx.fault(Reply::new(503, out_of_sequence), About::NOBODY, back),
    }
}

/// For HTTP and TLS on the SMTP port (D32).
pub fn not_smtp(cx: &mut Context) -> State {
    cx.refuse(Reply::new(521, "5.7.0 This port speaks SMTP"), About::NOBODY);
    cx.close()
}

pub fn reset(back: impl Into<State>, cx: &mut Context) -> State {
    cx.say(format_args!("250 OK"));
    cx.junk(back)
}

/// HELO and EHLO. `back` is where the session stays if it is refused.
pub fn greet(domain: &str, is_extended: bool, back: State, cx: &mut Context) -> State {
    let domain = match command::greeting_domain(domain) {
        Ok(domain) => domain,
        Err(reply) => return cx.fault(reply, About::NOBODY, back),
    };
    cx.meta.insert("ehlo_domain".into(), domain.into());
    let extensions = if is_extended { extensions(cx) } else { Vec::new() };
    let greeted = Greeted { domain: domain.into() };
    if !cx.settings.handled.ehlo {
        return welcome(greeted, is_extended, &extensions, cx);
    }
    let asked = Asked::Ehlo { domain: domain.into(), extensions: extensions.clone() };
    cx.ask(asked);
    State::AwaitHelo(AwaitHelo { greeted, is_extended, extensions })
}

fn extensions(cx: &Context) -> Vec<String> {
    let mut list: Vec<String> =
        ["PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"].map(String::from).into();
    list.push(format!("SIZE {}", cx.settings.listener.max_message_size));
    match cx.tls {
        Some(_) => list.push("AUTH PLAIN".into()),
        None if cx.settings.tls_available => list.push("STARTTLS".into()),
        None => {}
    }
    list
}

fn welcome(greeted: Greeted, is_extended: bool, extensions: &[String], cx: &mut Context) -> State {
    let mut content = format!("{} hello {}", cx.settings.hostname, greeted.domain);
    if is_extended {
        for extension in extensions {
            content.push('\n');
            content.extend(extension.chars().filter(|c| !c.is_control()));
        }
    }
    cx.write(&Reply { code: 250, enhanced: None, content, command: None });
    cx.junk(ExpectMail { greeted })
}

#[derive(Debug)]
pub struct AwaitHelo {
    greeted: Greeted,
    is_extended: bool,
    extensions: Vec<String>,
}

impl AwaitHelo {
    pub fn on_verdict(self, verdict: Verdict, cx: &mut Context) -> State {
        match cx.resolve(verdict) {
            Ok(Verdict::Extensions(list)) => welcome(self.greeted, self.is_extended, &list, cx),
            Ok(_) => welcome(self.greeted, self.is_extended, &self.extensions, cx),
            Err(refusal) => cx.deny(refusal, About::NOBODY, ExpectHelo),
        }
    }
}

/// Greeted, outside a transaction.
#[derive(Debug)]
pub struct ExpectMail {
    pub greeted: Greeted,
}

impl ExpectMail {
    pub fn on_command(self, command: Command<'_>, cx: &mut Context) -> State {
        match command {
            Command::Mail(arguments) => self.on_mail(arguments, cx),
            Command::Helo(domain) => greet(domain, false, self.into(), cx),
            Command::Ehlo(domain) => greet(domain, true, self.into(), cx),
            Command::Rset => reset(self, cx),
            Command::StartTls => self.on_starttls(cx),
            Command::Auth { mechanism, initial } => self.on_auth(mechanism, initial, cx),
            Command::Data => {
                cx.fault(Reply::new(503, "5.5.0 RCPT TO must be issued first"), About::NOBODY, self)
            }
            other => without_effect(other, "5.5.0 MAIL FROM must be issued first", self, cx),
        }
    }

    fn on_mail(self, arguments: &str, cx: &mut Context) -> State {
        let arguments = match command::mail_arguments(arguments) {
            Ok(arguments) => arguments,
            Err(reply) => return cx.fault(reply, About::NOBODY, self),
        };
        let announced = arguments.size.unwrap_or(0);
        if announced > cx.settings.listener.max_message_size {
            let about = About { sender: &arguments.sender, recipients: &[], size: announced };
            cx.refuse(Reply::new(552, "5.3.4 message too big"), about);
            return self.into();
        }
        if !cx.settings.handled.mail_from {
            return ExpectRcpt::begin(self.greeted, arguments, cx);
        }
        cx.ask(Asked::MailFrom { sender: arguments.sender.clone() });
        State::AwaitMail(AwaitMail { greeted: self.greeted, arguments })
    }

    fn on_starttls(self, cx: &mut Context) -> State {
        if cx.tls.is_some() {
            let reply = Reply::new(501, "5.5.1 Cannot STARTTLS as TLS is already active");
            return cx.fault(reply, About::NOBODY, self);
        }
        if !cx.settings.tls_available {
            return cx.fault(Reply::new(502, "5.5.1 Command unimplemented"), About::NOBODY, self);
        }
        cx.say(format_args!("220 Ready to Start TLS"));
        cx.flush();
        cx.push(Output::StartTls);
        // What came in the clear after the command is somebody else's (CVE-2011-0411).
        cx.discard_input = true;
        State::AwaitTls(AwaitTls { stopping: false })
    }

    fn on_auth(self, mechanism: &str, initial: Option<&str>, cx: &mut Context) -> State {
        let refusal = if cx.tls.is_none() {
            Some((524, format!("5.7.11 AUTH {mechanism} requires an encrypted channel")))
        } else if cx.authenticated {
            Some((503, "5.5.1 already authenticated".to_string()))
        } else if !mechanism.eq_ignore_ascii_case("PLAIN") {
            Some((504, format!("5.5.4 AUTH {mechanism} not supported")))
        } else {
            None
        };
        if let Some((code, text)) = refusal {
            return cx.fault(Reply::new(code, &text), About::NOBODY, self);
        }
        let expect = ExpectAuthResponse { greeted: self.greeted };
        match initial {
            Some(response) => expect.on_line(response.as_bytes(), cx),
            None => {
                cx.say(format_args!("334  "));
                State::ExpectAuthResponse(expect)
            }
        }
    }
}

#[derive(Debug)]
pub struct ExpectAuthResponse {
    greeted: Greeted,
}

impl ExpectAuthResponse {
    /// The line may hold a password and never gets into a record.
    pub fn on_line(self, line: &[u8], cx: &mut Context) -> State {
        let back = |greeted| ExpectMail { greeted };
        if line == b"*" {
            let reply = Reply::new(501, "5.5.0 AUTH cancelled by client");
            return cx.fault(reply, About::NOBODY, back(self.greeted));
        }
        let Some([authz, authc, password]) = plain_credentials(line) else {
            let reply = Reply::new(501, "5.5.2 the response isn't base64 of PLAIN credentials");
            return cx.fault(reply, About::NOBODY, back(self.greeted));
        };
        let authz = if authz.is_empty() { authc.clone() } else { authz };
        let state = AwaitAuth { greeted: self.greeted, authz: authz.clone(), authc: authc.clone() };
        if !cx.settings.handled.auth_plain {
            return state.on_verdict(Verdict::Authenticated(false), cx);
        }
        cx.ask(Asked::AuthPlain { authz, authc, password });
        State::AwaitAuth(state)
    }

    pub fn on_overlong_line(self, cx: &mut Context) -> State {
        let reply = Reply::new(500, "5.5.6 authentication exchange line too long");
        cx.fault(reply, About::NOBODY, ExpectMail { greeted: self.greeted })
    }
}

/// RFC 4616: `authz NUL authc NUL password`.
fn plain_credentials(line: &[u8]) -> Option<[String; 3]> {
    let text = String::from_utf8(base64::decode(line)?).ok()?;
    let parts: Vec<&str> = text.split('\0').collect();
    let [authz, authc, password] = parts.try_into().ok()?;
    let is_name = |name: &str| !name.chars().any(char::is_control);
    let valid = !authc.is_empty() && !password.is_empty() && is_name(authz) && is_name(authc);
    valid.then(|| [authz, authc, password].map(String::from))
}

#[derive(Debug)]
pub struct AwaitAuth {
    greeted: Greeted,
    authz: String,
    authc: String,
}

impl AwaitAuth {
    pub fn on_verdict(self, verdict: Verdict, cx: &mut Context) -> State {
        let back = ExpectMail { greeted: self.greeted };
        match cx.resolve(verdict) {
            Ok(Verdict::Authenticated(true)) => {
                cx.authenticated = true;
                cx.meta.insert("authn_id".into(), self.authc.into());
                cx.meta.insert("authz_id".into(), self.authz.into());
                cx.say(format_args!("235 2.7.0 AUTH OK!"));
                back.into()
            }
            Ok(_) => cx.fault(Reply::new(535, "5.7.8 AUTH invalid"), About::NOBODY, back),
            Err(refusal) => cx.deny(refusal, About::NOBODY, back),
        }
    }
}

#[derive(Debug)]
pub struct AwaitTls {
    pub stopping: bool,
}

impl AwaitTls {
    pub fn on_done(self, outcome: Option<TlsInfo>, cx: &mut Context) -> State {
        let Some(info) = outcome else { return cx.close() };
        cx.meta.remove("ehlo_domain");
        cx.meta.insert("tls_cipher".into(), info.cipher.as_str().into());
        cx.meta.insert("tls_protocol_version".into(), info.protocol.as_str().into());
        if !info.peer_subject.is_empty() {
            let subject: serde_json::Value = info.peer_subject.iter().cloned().collect();
            cx.meta.insert("tls_peer_subject_name".into(), subject);
        }
        cx.tls = Some(info);
        match self.stopping {
            true => cx.end_with("4.3.2", "shutting down"),
            false => State::ExpectHelo(ExpectHelo),
        }
    }
}

/// Replies for a client that spoke first.
pub fn early_talk(cx: &mut Context) -> State {
    cx.refuse(Reply::new(554, "5.5.1 Wait for the greeting before you speak"), About::NOBODY);
    cx.close()
}

/// The longest a line may be in this state, without its end.
pub fn line_limit(is_authentication: bool, cx: &Context) -> usize {
    let configured = usize::try_from(cx.settings.listener.line_length_hard_limit);
    match is_authentication {
        true => limits::COMMAND_LINE_OCTETS,
        false => configured.unwrap_or(usize::MAX).min(limits::COMMAND_LINE_OCTETS),
    }
}

/// For a client that sent nothing wrong but too long a line.
pub fn line_too_long(is_authentication: bool) -> Reply {
    match is_authentication {
        true => Reply::new(500, "5.5.6 authentication exchange line too long"),
        false => Reply::new(500, "5.2.3 line too long"),
    }
}

#[cfg(test)]
pub fn auth_response(authz: &str, authc: &str, password: &str) -> String {
    base64::encode([authz, authc, password].join("\0").as_bytes())
}

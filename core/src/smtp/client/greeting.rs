//! The states before the first transaction: banner, EHLO, STARTTLS, AUTH. Invariants: nothing the server said before
//! TLS counts after it (RFC 3207 4.2); credentials leave only over a channel that the egress path allows.
use super::context::{Channel, Context, Features, Loss, Phase};
use super::session::{State, Turn};
use crate::config::Secret;
use crate::config::egress::EnableTls;
use crate::port::{TlsConnect, TlsVerification};
use crate::smtp::base64;
use crate::smtp::reply::Reply;
use alloc::format;
use alloc::string::String;

/// How we introduce ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    Ehlo,
    /// For servers that don't know EHLO.
    Helo,
    Lhlo,
}

impl Hello {
    pub fn first(cx: &Context) -> Hello {
        match cx.settings.path.use_lmtp {
            true => Hello::Lhlo,
            false => Hello::Ehlo,
        }
    }

    pub fn verb(self) -> &'static str {
        match self {
            Hello::Ehlo => "EHLO",
            Hello::Helo => "HELO",
            Hello::Lhlo => "LHLO",
        }
    }

    pub fn say(self, cx: &mut Context) -> State {
        let domain = cx.settings.ehlo_domain.clone();
        if domain.is_empty() || domain.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let why = format!("ehlo_domain is not a domain: {domain:?}; correct it in the policy");
            return cx.give_up(why, false);
        }
        cx.say(format_args!("{} {domain}", self.verb()), cx.settings.path.ehlo_timeout);
        State::AwaitHello(AwaitHello { hello: self })
    }
}

#[derive(Debug)]
pub struct AwaitBanner;

impl AwaitBanner {
    pub const PHASE: Phase = Phase::Doing("waiting for the banner");

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        match reply.is_positive() {
            true => Turn::Hello(Hello::first(cx)).into(),
            false => cx.give_up(format!("the banner was {reply}"), false),
        }
    }
}

#[derive(Debug)]
pub struct AwaitHello {
    pub hello: Hello,
}

impl AwaitHello {
    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        let is_first = cx.channel == Channel::Clear;
        if reply.is_positive() {
            cx.features = match self.hello {
                Hello::Helo => Features::default(),
                Hello::Ehlo | Hello::Lhlo => Features::parse(&reply.content),
            };
            return if is_first { choose_tls(cx) } else { choose_auth(cx) };
        }
        if reply.is_permanent() && self.hello == Hello::Ehlo && is_first {
            return Turn::Hello(Hello::Helo).into();
        }
        cx.give_up(format!("the reply to {} was {reply}", self.hello.verb()), !is_first)
    }

    /// A server that falls silent after the handshake has broken TLS as well.
    pub fn on_loss(self, loss: Loss, phase: Phase, cx: &mut Context) -> State {
        let tls_failed = cx.channel != Channel::Clear && matches!(loss, Loss::Connection(_));
        cx.end(loss, phase, tls_failed)
    }
}

fn choose_tls(cx: &mut Context) -> State {
    let is_offered = cx.features.starttls;
    let why = match cx.settings.path.enable_tls {
        EnableTls::Disabled => return choose_auth(cx),
        EnableTls::Opportunistic | EnableTls::OpportunisticInsecure => {
            let is_wanted = is_offered && !cx.settings.skip_tls;
            return if is_wanted { Turn::StartTls.into() } else { choose_auth(cx) };
        }
        EnableTls::Required | EnableTls::RequiredInsecure => match () {
            () if cx.settings.skip_tls => "but it was found broken at this host",
            () if !is_offered => "and the server doesn't offer STARTTLS",
            () => return Turn::StartTls.into(),
        },
    };
    cx.give_up(format!("enable_tls requires TLS, {why}"), false)
}

fn choose_auth(cx: &mut Context) -> State {
    let path = &cx.settings.path;
    if path.smtp_auth_plain_username.is_none() {
        return Turn::Ready.into();
    }
    let why = match cx.channel {
        Channel::Clear if !path.allow_smtp_auth_plain_without_tls => {
            "the connection isn't encrypted; see allow_smtp_auth_plain_without_tls"
        }
        Channel::Encrypted if !path.allow_smtp_auth_plain_without_valid_certificate => {
            "the certificate wasn't validated; see allow_smtp_auth_plain_without_valid_certificate"
        }
        _ if !cx.features.auth_plain => "the server doesn't offer it",
        _ => return Turn::Auth.into(),
    };
    cx.give_up(format!("AUTH PLAIN is configured, but {why}"), false)
}

/// How a handshake is to be made. Opportunistic TLS validates as well: what it tolerates is that none is offered.
pub fn tls_connect(cx: &Context) -> TlsConnect {
    let verification = match cx.settings.path.enable_tls {
        EnableTls::Opportunistic | EnableTls::Required => TlsVerification::Full,
        EnableTls::OpportunisticInsecure | EnableTls::RequiredInsecure | EnableTls::Disabled => {
            TlsVerification::None
        }
    };
    TlsConnect { server_name: cx.settings.host.clone(), verification }
}

#[derive(Debug)]
pub struct AwaitStartTls;

impl AwaitStartTls {
    pub const PHASE: Phase = Phase::ReplyTo("STARTTLS");

    pub fn say(cx: &mut Context) -> State {
        cx.say(format_args!("STARTTLS"), cx.settings.path.starttls_timeout);
        State::AwaitStartTls(AwaitStartTls)
    }

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        match reply.is_positive() {
            true => Turn::Handshake.into(),
            false => cx.give_up(format!("the reply to STARTTLS was {reply}"), true),
        }
    }
}

/// Nothing is read until the handshake is done.
#[derive(Debug)]
pub struct AwaitHandshake;

impl AwaitHandshake {
    pub const PHASE: Phase = Phase::Doing("waiting for the TLS handshake");

    pub fn begin(cx: &mut Context) -> State {
        cx.start_tls();
        State::AwaitHandshake(AwaitHandshake)
    }

    pub fn on_done(self, outcome: Result<(), String>, cx: &mut Context) -> State {
        if let Err(why) = outcome {
            return cx.fail(format!("the TLS handshake failed: {why}"), true);
        }
        cx.channel = match tls_connect(cx).verification {
            TlsVerification::Full => Channel::Validated,
            TlsVerification::None => Channel::Encrypted,
        };
        // Its reply replaces what was offered in the clear.
        Turn::Hello(Hello::first(cx)).into()
    }
}

#[derive(Debug)]
pub struct AwaitAuth;

impl AwaitAuth {
    pub const PHASE: Phase = Phase::ReplyTo("AUTH");

    pub fn say(cx: &mut Context) -> State {
        let path = cx.settings.path.clone();
        let username = path.smtp_auth_plain_username.as_deref().unwrap_or("");
        let password = path.smtp_auth_plain_password.as_ref().map_or("", Secret::expose);
        let response = base64::encode(format!("\0{username}\0{password}").as_bytes());
        cx.say(format_args!("AUTH PLAIN {response}"), path.auth_timeout);
        State::AwaitAuth(AwaitAuth)
    }

    pub fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        match reply.is_positive() {
            true => Turn::Ready.into(),
            false => cx.give_up(format!("the reply to AUTH PLAIN was {reply}"), false),
        }
    }
}

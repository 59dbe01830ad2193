//! The handshake of a connection through a SOCKS5 proxy: methods, password if asked for, then where to. With a source address it asks for that
//! first, by BIND with port 0, and for the destination on the same connection: kumod's and KumoMTA's own proxies know this, others
//! don't. Invariants: a reply that isn't SOCKS5 ends it; it keeps no more than one reply.
use super::{
    AUTH_VERSION, BIND, CONNECT, Destination, NO_AUTH, NOTHING_FITS, ReplyCode, USER_PASS, VERSION,
};
use crate::config::Secret;
use crate::proxy::connect::Blame;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// A reply, and what the destination may have said by then.
const INPUT_OCTETS: usize = 128 * 1024;

/// A name is 1 to 255 octets long, a password too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: Box<str>,
    pub password: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub destination: SocketAddr,
    /// From which address the proxy is to connect.
    pub source: Option<IpAddr>,
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Send(Vec<u8>),
    /// From here on the connection is the destination's; `rest` is what it has said already.
    /// `from`: the address that the destination sees, if the proxy says it.
    Done {
        rest: Vec<u8>,
        from: Option<SocketAddr>,
    },
    Failed {
        blame: Blame,
        text: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Method,
    Password,
    Bind,
    Connect,
    Over,
}

#[derive(Debug)]
pub struct Handshake {
    request: Request,
    stage: Stage,
    input: Vec<u8>,
    output: Option<Output>,
}

impl Handshake {
    /// Begins with something to send.
    pub fn new(request: Request) -> Handshake {
        let methods: &[u8] = match &request.credentials {
            Some(_) => &[NO_AUTH, USER_PASS],
            None => &[NO_AUTH],
        };
        let mut hello = vec![VERSION, u8::from(request.credentials.is_some()) + 1];
        hello.extend(methods);
        Handshake {
            request,
            stage: Stage::Method,
            input: Vec::new(),
            output: Some(Output::Send(hello)),
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// What the proxy said; all output has been taken before.
    pub fn handle(&mut self, octets: &[u8]) {
        if self.stage == Stage::Over {
            return;
        }
        self.input.extend_from_slice(octets);
        if self.input.len() > INPUT_OCTETS {
            return self.fail(Blame::Proxy, "it says more than a handshake has".into());
        }
        match self.advance() {
            Ok(output) => self.output = output,
            Err((blame, text)) => self.fail(blame, text),
        }
    }

    /// It closed the connection.
    pub fn ended(&mut self) {
        if self.stage != Stage::Over {
            let text = format!("the connection was closed {}", self.where_it_stood());
            self.fail(self.blame_of_silence(), text);
        }
    }

    /// Whom it speaks against if nothing more comes. A proxy that has done all else waits for the destination itself.
    pub fn blame_of_silence(&self) -> Blame {
        match self.stage {
            Stage::Method | Stage::Password | Stage::Bind => Blame::Proxy,
            Stage::Connect | Stage::Over => Blame::Other,
        }
    }

    /// For whoever gives up.
    pub fn where_it_stood(&self) -> &'static str {
        match self.stage {
            Stage::Method => "before it chose a method",
            Stage::Password => "before it judged the password",
            Stage::Bind => "before it answered BIND",
            Stage::Connect => "before it answered CONNECT",
            Stage::Over => "after its handshake",
        }
    }

    fn fail(&mut self, blame: Blame, text: String) {
        self.stage = Stage::Over;
        self.output = Some(Output::Failed { blame, text });
    }

    fn advance(&mut self) -> Result<Option<Output>, (Blame, String)> {
        match self.stage {
            Stage::Method => self.method(),
            Stage::Password => self.password(),
            Stage::Bind | Stage::Connect => self.reply(),
            Stage::Over => Ok(None),
        }
    }

    /// Two octets, which are the answer to methods and to passwords.
    fn answer(&mut self, version: u8) -> Result<Option<u8>, (Blame, String)> {
        match self.input.first() {
            Some(first) if *first != version => Err(garbage(&self.input)),
            _ if self.input.len() < 2 => Ok(None),
            _ => Ok(Some(self.input.drain(..2).nth(1).expect("there are two"))),
        }
    }

    fn method(&mut self) -> Result<Option<Output>, (Blame, String)> {
        let Some(method) = self.answer(VERSION)? else { return Ok(None) };
        match (method, &self.request.credentials) {
            (NO_AUTH, _) => Ok(Some(self.ask())),
            (USER_PASS, Some(Credentials { username, password })) => {
                let mut octets = vec![AUTH_VERSION];
                for text in [username, password.expose()] {
                    octets.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
                    octets.extend(text.bytes().take(usize::from(u8::MAX)));
                }
                self.stage = Stage::Password;
                Ok(Some(Output::Send(octets)))
            }
            (NOTHING_FITS, None) => {
                let text = "it wants a user name and password (socks5_proxy_username)".into();
                Err((Blame::Other, text))
            }
            (NOTHING_FITS, Some(_)) => {
                Err((Blame::Other, "it takes neither no authentication nor a password".into()))
            }
            (other, _) => {
                Err((Blame::Proxy, format!("it chose method {other}, which wasn't offered")))
            }
        }
    }

    fn password(&mut self) -> Result<Option<Output>, (Blame, String)> {
        match self.answer(AUTH_VERSION)? {
            None => Ok(None),
            Some(0) => Ok(Some(self.ask())),
            Some(_) => Err((Blame::Other, "it refuses the user name and password".into())),
        }
    }

    /// For the source address if there is one, else for the destination.
    fn ask(&mut self) -> Output {
        match self.request.source {
            Some(source) => {
                self.stage = Stage::Bind;
                Output::Send(super::render(BIND, SocketAddr::new(source, 0)))
            }
            None => self.ask_for_destination(),
        }
    }

    fn ask_for_destination(&mut self) -> Output {
        self.stage = Stage::Connect;
        Output::Send(super::render(CONNECT, self.request.destination))
    }

    fn reply(&mut self) -> Result<Option<Output>, (Blame, String)> {
        let parsed = super::parse(&self.input);
        let parsed = parsed.map_err(|why| (Blame::Proxy, format!("its reply isn't SOCKS5: {why}")));
        let Some((message, length)) = parsed? else { return Ok(None) };
        self.input.drain(..length);
        let code = ReplyCode(message.code);
        match (self.stage, code) {
            (Stage::Bind, ReplyCode::SUCCEEDED) => Ok(Some(self.ask_for_destination())),
            (Stage::Bind, _) => {
                let source =
                    self.request.source.map_or(String::new(), |source| format!("{source}"));
                let advice = match code {
                    ReplyCode::COMMAND_NOT_SUPPORTED => {
                        "; it doesn't know BIND, so that it alone can choose the address: leave socks5_proxy_source_address out"
                    }
                    _ => "",
                };
                Err((Blame::ProxyBind, format!("it can't bind to {source}: {code}{advice}")))
            }
            (_, ReplyCode::SUCCEEDED) => {
                self.stage = Stage::Over;
                let from = match message.destination {
                    Destination::Address(from) if !from.ip().is_unspecified() => Some(from),
                    _ => None,
                };
                Ok(Some(Output::Done { rest: core::mem::take(&mut self.input), from }))
            }
            _ => {
                let to = Destination::Address(self.request.destination);
                Err((Blame::Other, format!("it can't connect to {to}: {code}")))
            }
        }
    }
}

fn garbage(input: &[u8]) -> (Blame, String) {
    let quoted: Vec<u8> = input.iter().copied().take(32).collect();
    let quoted = String::from_utf8_lossy(&quoted);
    (Blame::Proxy, format!("its answer isn't SOCKS5: {quoted:?}"))
}

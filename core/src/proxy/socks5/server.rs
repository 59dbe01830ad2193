//! A SOCKS5 proxy's side of a handshake: methods, password if it takes one, then BIND with port 0 for the source address if the client likes, and
//! CONNECT. Invariants: one operation is asked for at a time and completed once; whoever doesn't speak SOCKS5, or asks too much,
//! is told so as far as the protocol can, and closed; no more than one message is kept.
use super::{
    AUTH_VERSION, BIND, CONNECT, Destination, NO_AUTH, NOTHING_FITS, ReplyCode, USER_PASS, VERSION,
};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a client may send before it is answered: the longest message, and all of a password.
const INPUT_OCTETS: usize = 1024;
/// Requests of one handshake: BIND may be said anew.
const REQUESTS: u32 = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Send(Vec<u8>),
    /// Completed by [`Server::authenticated`].
    Authenticate {
        username: String,
        password: String,
    },
    /// Whether one may connect from it. Completed by [`Server::bound`].
    Bind(IpAddr),
    /// Completed by [`Server::connected`].
    Connect {
        destination: Destination,
        source: Option<IpAddr>,
    },
    /// From here on octets are passed on as they are; `rest` are the client's first.
    Relay {
        rest: Vec<u8>,
    },
    /// After what was sent. Why, for the log.
    Close(String),
}

/// What a proxy asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// No password, whatever they offer.
    None,
    /// The password of those who offer one, who then have to be right.
    Optional,
    Required,
}

impl Authentication {
    fn choose(self, offered: &[u8]) -> Option<u8> {
        let wanted: &[u8] = match self {
            Authentication::None => &[NO_AUTH],
            Authentication::Optional => &[USER_PASS, NO_AUTH],
            Authentication::Required => &[USER_PASS],
        };
        wanted.iter().copied().find(|method| offered.contains(method))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Methods,
    Password,
    Request,
    Authenticating,
    Binding(IpAddr),
    Connecting,
    Over,
}

#[derive(Debug)]
pub struct Server {
    authentication: Authentication,
    stage: Stage,
    source: Option<IpAddr>,
    requests: u32,
    input: Vec<u8>,
    outputs: VecDeque<Output>,
}

impl Server {
    pub fn new(authentication: Authentication) -> Server {
        Server {
            authentication,
            stage: Stage::Methods,
            source: None,
            requests: 0,
            input: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn handle(&mut self, octets: &[u8]) {
        if self.stage == Stage::Over {
            return;
        }
        if self.input.len() + octets.len() > INPUT_OCTETS && self.stage != Stage::Connecting {
            return self.close("it sends more than a handshake has");
        }
        self.input.extend_from_slice(octets);
        self.advance();
    }

    /// Whether reading goes on: not while the client waits for its destination, to which the rest belongs.
    pub fn wants_input(&self) -> bool {
        !matches!(self.stage, Stage::Connecting | Stage::Over)
    }

    pub fn authenticated(&mut self, is_right: bool) {
        assert_eq!(self.stage, Stage::Authenticating, "nobody asked about a password");
        self.send(vec![AUTH_VERSION, u8::from(!is_right)]);
        match is_right {
            true => {
                self.stage = Stage::Request;
                self.advance();
            }
            false => self.close("wrong user name or password"),
        }
    }

    /// The address that connections will come from.
    pub fn bound(&mut self, result: Result<SocketAddr, ReplyCode>) {
        let Stage::Binding(source) = self.stage else { panic!("nobody asked to bind") };
        match result {
            Ok(address) => {
                self.source = Some(source);
                self.stage = Stage::Request;
                self.send(super::render(ReplyCode::SUCCEEDED.0, address));
                self.advance();
            }
            Err(code) => self.refuse(code, &format!("can't bind to {source}: {code}")),
        }
    }

    pub fn connected(&mut self, result: Result<SocketAddr, ReplyCode>) {
        assert_eq!(self.stage, Stage::Connecting, "nobody asked to connect");
        match result {
            Ok(local) => {
                self.stage = Stage::Over;
                self.send(super::render(ReplyCode::SUCCEEDED.0, local));
                let rest = core::mem::take(&mut self.input);
                self.outputs.push_back(Output::Relay { rest });
            }
            Err(code) => self.refuse(code, &format!("can't connect: {code}")),
        }
    }

    fn send(&mut self, octets: Vec<u8>) {
        self.outputs.push_back(Output::Send(octets));
    }

    fn close(&mut self, why: &str) {
        self.stage = Stage::Over;
        self.input = Vec::new();
        self.outputs.push_back(Output::Close(why.into()));
    }

    fn refuse(&mut self, code: ReplyCode, why: &str) {
        let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        self.send(super::render(code.0, nowhere));
        self.close(why);
    }

    fn advance(&mut self) {
        let more = match self.stage {
            Stage::Methods => self.methods(),
            Stage::Password => self.password(),
            Stage::Request => self.request(),
            _ => Ok(()),
        };
        if let Err(why) = more {
            self.close(&why);
        }
    }

    fn methods(&mut self) -> Result<(), Box<str>> {
        match self.input.first() {
            None => return Ok(()),
            Some(&VERSION) => {}
            Some(other) => return Err(format!("version {other} instead of SOCKS5").into()),
        }
        let Some(count) = self.input.get(1) else { return Ok(()) };
        let end = 2 + usize::from(*count);
        let Some(methods) = self.input.get(2..end) else { return Ok(()) };
        let chosen = self.authentication.choose(methods);
        self.input.drain(..end);
        self.send(vec![VERSION, chosen.unwrap_or(NOTHING_FITS)]);
        self.stage = match chosen {
            Some(USER_PASS) => Stage::Password,
            Some(_) => Stage::Request,
            None => return Err("it offers no method that is wanted here".into()),
        };
        self.advance();
        Ok(())
    }

    fn password(&mut self) -> Result<(), Box<str>> {
        match self.input.first() {
            None => return Ok(()),
            Some(&AUTH_VERSION) => {}
            Some(_) => return Err("what should be a password isn't one".into()),
        }
        let Some((username, at)) = counted(&self.input, 1) else { return Ok(()) };
        let Some((password, end)) = counted(&self.input, at) else { return Ok(()) };
        self.input.drain(..end);
        self.stage = Stage::Authenticating;
        self.outputs.push_back(Output::Authenticate { username, password });
        Ok(())
    }

    fn request(&mut self) -> Result<(), Box<str>> {
        let Some((message, length)) = super::parse(&self.input)? else { return Ok(()) };
        self.input.drain(..length);
        self.requests += 1;
        if self.requests > REQUESTS {
            self.refuse(ReplyCode::NOT_ALLOWED, "it asks without end");
            return Ok(());
        }
        match (message.code, message.destination) {
            (BIND, Destination::Address(address)) if address.port() == 0 => {
                self.stage = Stage::Binding(address.ip());
                self.outputs.push_back(Output::Bind(address.ip()));
            }
            // A port to be called back at is what RFC 1928 means by it.
            (BIND, _) => {
                self.refuse(ReplyCode::NOT_ALLOWED, "it wants to be called back, by BIND");
            }
            (CONNECT, destination) => {
                self.stage = Stage::Connecting;
                let source = self.source;
                self.outputs.push_back(Output::Connect { destination, source });
            }
            (other, _) => {
                let why = format!("it wants command {other}");
                self.refuse(ReplyCode::COMMAND_NOT_SUPPORTED, &why);
            }
        }
        Ok(())
    }
}

/// A text with its length in front of it, and where it ends.
fn counted(octets: &[u8], at: usize) -> Option<(String, usize)> {
    let end = at + 1 + usize::from(*octets.get(at)?);
    let text = octets.get(at + 1..end)?;
    Some((String::from_utf8_lossy(text).into_owned(), end))
}

#[cfg(test)]
mod tests {
    use super::super::client::{self, Credentials, Handshake, Request};
    use super::*;
    use crate::config::Secret;
    use crate::proxy::connect::Blame;
    use proptest::prelude::*;

    /// What the world makes of a proxy's wishes.
    #[derive(Clone, Debug)]
    struct World {
        password: Option<&'static str>,
        bind: Result<(), ReplyCode>,
        connect: Result<(), ReplyCode>,
    }

    const WELL: World = World { password: None, bind: Ok(()), connect: Ok(()) };

    fn request(source: Option<&str>, password: Option<&str>) -> Request {
        Request {
            destination: "198.51.100.7:25".parse().unwrap(),
            source: source.map(|source| source.parse().unwrap()),
            credentials: password.map(|password| Credentials {
                username: "joe".into(),
                password: Secret::new(password),
            }),
        }
    }

    /// A handshake in pieces of so many octets: how it ended, and what the proxy was asked for.
    fn shake(request: Request, world: &World, piece: usize) -> (client::Output, Vec<Output>) {
        let authentication = match world.password {
            Some(_) => Authentication::Required,
            None => Authentication::None,
        };
        let (mut client, mut server) = (Handshake::new(request), Server::new(authentication));
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut asked = Vec::new();
        for _ in 0..10_000 {
            match client.poll() {
                Some(client::Output::Send(octets)) => to_server.extend(octets),
                Some(end) => return (end, asked),
                None => {}
            }
            while let Some(output) = server.poll() {
                match output.clone() {
                    Output::Send(octets) => to_client.extend(octets),
                    Output::Authenticate { password, .. } => {
                        server.authenticated(world.password == Some(&*password));
                    }
                    Output::Bind(address) => {
                        server.bound(world.bind.map(|()| SocketAddr::new(address, 0)));
                    }
                    Output::Connect { .. } => {
                        let local = "192.0.2.1:40000".parse().unwrap();
                        server.connected(world.connect.map(|()| local));
                    }
                    Output::Relay { .. } => to_client.extend(b"220 hello"),
                    Output::Close(_) => {}
                }
                if !matches!(output, Output::Send(_)) {
                    asked.push(output);
                }
            }
            let take = |octets: &mut Vec<u8>| -> Vec<u8> {
                octets.drain(..piece.min(octets.len())).collect()
            };
            let (there, back) = (take(&mut to_server), take(&mut to_client));
            if there.is_empty() && back.is_empty() {
                client.ended();
            }
            if !there.is_empty() && server.wants_input() {
                server.handle(&there);
            }
            if !back.is_empty() {
                client.handle(&back);
            }
        }
        panic!("it doesn't end");
    }

    fn failed(end: client::Output) -> (Blame, String) {
        match end {
            client::Output::Failed { blame, text } => (blame, text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_ends_of_ours_understand_each_other() {
        let (end, asked) = shake(request(None, None), &WELL, 100);
        assert_eq!(
            end,
            client::Output::Done {
                rest: b"220 hello".to_vec(),
                from: Some("192.0.2.1:40000".parse().unwrap())
            }
        );
        assert!(matches!(&asked[..], [Output::Connect { source: None, .. }, Output::Relay { .. }]));
        let (_, asked) = shake(request(Some("192.0.2.5"), None), &WELL, 100);
        let source: IpAddr = "192.0.2.5".parse().unwrap();
        assert_eq!(asked[0], Output::Bind(source));
        assert!(matches!(&asked[1], Output::Connect { source: Some(from), .. } if *from == source));
        let (end, _) = shake(request(Some("2001:db8::5"), None), &WELL, 100);
        assert!(matches!(end, client::Output::Done { .. }));
    }

    #[test]
    fn each_failure_is_blamed_on_whom_it_concerns_and_told_in_words() {
        let unbound = World { bind: Err(ReplyCode::ADDRESS_NOT_SUPPORTED), ..WELL };
        let (blame, text) = failed(shake(request(Some("192.0.2.5"), None), &unbound, 9).0);
        assert_eq!(blame, Blame::ProxyBind);
        assert_eq!(text, "it can't bind to 192.0.2.5: address type not supported");
        let refused = World { connect: Err(ReplyCode::CONNECTION_REFUSED), ..WELL };
        let (blame, text) = failed(shake(request(None, None), &refused, 9).0);
        assert_eq!(blame, Blame::Other);
        assert_eq!(text, "it can't connect to 198.51.100.7:25: connection refused");
    }

    #[test]
    fn passwords_are_given_where_they_are_wanted_and_only_there() {
        let wanting = World { password: Some("sesame"), ..WELL };
        let (end, _) = shake(request(None, Some("sesame")), &wanting, 3);
        assert!(matches!(end, client::Output::Done { .. }));
        let (blame, text) = failed(shake(request(None, Some("wrong")), &wanting, 3).0);
        assert_eq!((blame, &*text), (Blame::Other, "it refuses the user name and password"));
        let (_, text) = failed(shake(request(None, None), &wanting, 3).0);
        assert!(text.contains("socks5_proxy_username"), "{text}");
        let (end, asked) = shake(request(None, Some("unasked")), &WELL, 3);
        assert!(matches!(end, client::Output::Done { .. }));
        assert!(!asked.iter().any(|one| matches!(one, Output::Authenticate { .. })));
    }

    #[test]
    fn a_method_is_chosen_as_the_proxy_is_set_up() {
        use Authentication::{None, Optional, Required};
        for (authentication, offered, chosen) in [
            (None, &[NO_AUTH, USER_PASS][..], NO_AUTH),
            (None, &[USER_PASS], NOTHING_FITS),
            (Optional, &[NO_AUTH], NO_AUTH),
            (Optional, &[NO_AUTH, USER_PASS], USER_PASS),
            (Optional, &[1], NOTHING_FITS),
            (Required, &[NO_AUTH, USER_PASS], USER_PASS),
            (Required, &[NO_AUTH], NOTHING_FITS),
            (Required, &[], NOTHING_FITS),
        ] {
            let mut server = Server::new(authentication);
            let mut hello = vec![VERSION, u8::try_from(offered.len()).unwrap()];
            hello.extend(offered);
            server.handle(&hello);
            let what = format!("{authentication:?} {offered:?}");
            assert_eq!(server.poll(), Some(Output::Send(vec![VERSION, chosen])), "{what}");
            let is_closed = matches!(server.poll(), Some(Output::Close(_)));
            assert_eq!(is_closed, chosen == NOTHING_FITS, "{what}");
        }
    }

    #[test]
    fn a_proxy_that_speaks_something_else_or_closes_is_unhealthy() {
        let garbage: [&[u8]; 4] = [b"HTTP/1.1 400", b"\x04\x00", b"\x05\x07", b"SSH-2.0-x\r\n"];
        for said in garbage {
            let mut client = Handshake::new(request(None, None));
            client.poll();
            client.handle(said);
            assert_eq!(failed(client.poll().unwrap()).0, Blame::Proxy, "{said:?}");
        }
        let mut client = Handshake::new(request(None, None));
        client.poll();
        client.ended();
        let (blame, text) = failed(client.poll().unwrap());
        let closed = "the connection was closed before it chose a method";
        assert_eq!((blame, &*text), (Blame::Proxy, closed));
    }

    #[test]
    fn what_a_proxy_doesnt_do_gets_its_reply_code() {
        for (request, code) in [
            (b"\x05\x03\0\x01\x0a\0\0\x01\0\x19".to_vec(), ReplyCode::COMMAND_NOT_SUPPORTED),
            (b"\x05\x02\0\x01\x0a\0\0\x01\0\x19".to_vec(), ReplyCode::NOT_ALLOWED),
        ] {
            let mut server = Server::new(Authentication::None);
            server.handle(b"\x05\x01\0");
            assert_eq!(server.poll(), Some(Output::Send(vec![5, 0])));
            server.handle(&request);
            let Some(Output::Send(reply)) = server.poll() else { panic!("no reply") };
            assert_eq!(reply[1], code.0);
            assert!(matches!(server.poll(), Some(Output::Close(_))));
        }
        let mut server = Server::new(Authentication::None);
        server.handle(b"\x05\x01\0\x05\x01\0\x03\x0bexample.com\0\x19");
        server.poll();
        let destination = Destination::Name { host: "example.com".into(), port: 25 };
        assert_eq!(server.poll(), Some(Output::Connect { destination, source: None }));
    }

    #[test]
    fn who_asks_without_end_is_closed() {
        let mut server = Server::new(Authentication::None);
        server.handle(b"\x05\x01\0");
        for _ in 0..REQUESTS {
            server.handle(b"\x05\x02\0\x01\x0a\0\0\x01\0\0");
            server.bound(Ok("10.0.0.1:0".parse().unwrap()));
        }
        server.handle(b"\x05\x02\0\x01\x0a\0\0\x01\0\0");
        let outputs: Vec<Output> = core::iter::from_fn(|| server.poll()).collect();
        assert!(matches!(outputs.last(), Some(Output::Close(why)) if why.contains("without end")));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            piece in 1..40usize,
            source in prop::option::of(prop::sample::select(&["192.0.2.5", "2001:db8::1"][..])),
            password: bool,
            binds in 0..9u8,
            connects in 0..9u8,
        ) {
            let result = |code: u8| if code == 0 { Ok(()) } else { Err(ReplyCode(code)) };
            let world = World {
                password: password.then_some("sesame"), bind: result(binds), connect: result(connects),
            };
            let request = request(source, password.then_some("sesame"));
            // How much of the destination's greeting comes with the last reply is a matter of pieces.
            let without_rest = |(end, asked): (client::Output, Vec<Output>)| match end {
                client::Output::Done { from, .. } => {
                    (client::Output::Done { rest: Vec::new(), from }, asked)
                }
                failed => (failed, asked),
            };
            let whole = without_rest(shake(request.clone(), &world, 1000));
            prop_assert_eq!(without_rest(shake(request, &world, piece)), whole);
        }

        #[test]
        fn nothing_said_makes_either_panic_or_grow(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            begins: bool,
        ) {
            let mut server = Server::new(Authentication::None);
            let mut client = Handshake::new(request(Some("192.0.2.5"), None));
            if begins {
                server.handle(b"\x05\x01\0");
                client.handle(b"\x05\0");
            }
            for piece in pieces {
                if server.wants_input() {
                    server.handle(&piece);
                }
                client.handle(&piece);
                while let Some(output) = server.poll() {
                    match output {
                        Output::Bind(_) => server.bound(Err(ReplyCode::GENERAL_FAILURE)),
                        Output::Connect { .. } => server.connected(Err(ReplyCode::GENERAL_FAILURE)),
                        Output::Authenticate { .. } => server.authenticated(false),
                        _ => {}
                    }
                }
                client.poll();
                prop_assert!(server.input.len() <= INPUT_OCTETS && client_keeps_little(&client));
            }
        }
    }

    fn client_keeps_little(client: &Handshake) -> bool {
        format!("{client:?}").len() < 8192
    }
}

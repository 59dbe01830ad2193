//! SMTP clients: swaks, which we did not write, and one that does as each test says.
use super::PATIENCE;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::process::Command;

/// All lines of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects, reads the banner and greets.
    pub fn greet(address: SocketAddr) -> io::Result<Client> {
        let (mut client, banner) = Client::connect(address)?;
        expect(220, banner)?;
        expect(250, client.say("EHLO client.example")?)?;
        Ok(client)
    }

    pub fn connect(address: SocketAddr) -> io::Result<(Client, Reply)> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Client { stream: BufReader::new(stream) };
        let banner = client.reply()?;
        Ok((client, banner))
    }

    pub fn write(&mut self, octets: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(octets.as_bytes())
    }

    pub fn say(&mut self, line: &str) -> io::Result<Reply> {
        self.write(&format!("{line}\r\n"))?;
        self.reply()
    }

    /// Up to 354.
    pub fn begin(&mut self, sender: &str, recipients: &[&str]) -> io::Result<()> {
        expect(250, self.say(&format!("MAIL FROM:<{sender}>"))?)?;
        for recipient in recipients {
            expect(250, self.say(&format!("RCPT TO:<{recipient}>"))?)?;
        }
        expect(354, self.say("DATA")?).map(drop)
    }

    /// The reply to the final dot. `content` ends with a line feed and has no line that begins with a dot.
    pub fn send(&mut self, sender: &str, recipients: &[&str], content: &str) -> io::Result<Reply> {
        self.begin(sender, recipients)?;
        self.write(content)?;
        self.say(".")
    }

    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut text = String::new();
        loop {
            let start = text.len();
            if self.stream.read_line(&mut text)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = &text[start..];
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line.get(..3).and_then(|code| code.parse().ok());
                let code =
                    code.ok_or_else(|| io::Error::other(format!("not a reply: {line:?}")))?;
                return Ok(Reply { code, text });
            }
        }
    }

    /// Whether the server has closed the connection, with nothing more said.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reply(), Err(error) if error.kind() != io::ErrorKind::WouldBlock)
    }
}

fn expect(code: u16, reply: Reply) -> io::Result<Reply> {
    if reply.code == code {
        return Ok(reply);
    }
    Err(io::Error::other(format!("expected {code}, got {}", reply.text)))
}

/// One after the other, by one client; each is accepted, and has its number as its subject.
pub fn send_numbered(server: SocketAddr, numbers: Range<usize>) {
    let mut client = Client::greet(server).unwrap();
    for number in numbers {
        let content = format!("Subject: {number}\r\n\r\nx\r\n");
        let reply = client.send("ann@client.example", &["bob@sink.example"], &content).unwrap();
        assert_eq!(reply.code, 250, "{reply:?}");
    }
}

/// Its exit code and the dialogue.
pub fn swaks(server: SocketAddr, arguments: &[&str]) -> (i32, String) {
    let ran =
        Command::new("swaks").arg("--server").arg(server.to_string()).args(arguments).output();
    let output = ran.unwrap_or_else(|error| {
        panic!("swaks can't be run ({error}); kumod/tools/setup.sh test installs it")
    });
    let dialogue = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&dialogue).into_owned())
}

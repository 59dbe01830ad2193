//! What operators and their scripts ask of a running kumod, as they do: over HTTP, and with kcli's own binary.
use super::{Kumod, PATIENCE};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

/// A message for `/api/inject/v1`.
pub const INJECTION: &str = r#"{"envelope_sender": "ann@client.example", "recipients": [{"email": "bob@sink.example"}],
    "content": "Subject: injected\r\n\r\nx\r\n"}"#;

/// An answer's status and body.
pub fn http(kumod: &Kumod, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect_timeout(&kumod.http_address(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {head}")), body.to_owned())
}

#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Its output, if all went well.
    pub fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }
}

pub fn kcli(kumod: &Kumod, arguments: &[&str]) -> Said {
    let endpoint = format!("http://{}", kumod.http_address());
    let mut command = Command::new(env!("CARGO_BIN_EXE_kcli"));
    let output = command.args(["--endpoint", &endpoint]).args(arguments).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("it speaks UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// As `--json` has it.
pub fn kcli_json(kumod: &Kumod, arguments: &[&str]) -> Value {
    let said = kcli(kumod, arguments).well();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Ids and reasons of the messages in quarantine.
pub fn quarantine(kumod: &Kumod) -> Vec<(String, String)> {
    let listed = kcli_json(kumod, &["spool-list-quarantine", "--json"]);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let messages = listed["messages"].as_array().expect("a list").iter();
    messages.map(|message| (text(&message["id"]), text(&message["why"]))).collect()
}

/// As source-list has it; null, if there is no source of that name.
pub fn source(kumod: &Kumod, name: &str) -> Value {
    let listed = kcli_json(kumod, &["source-list", "--json"]);
    let sources = listed["sources"].as_array().expect("a list");
    sources.iter().find(|source| source["name"] == name).cloned().unwrap_or_default()
}

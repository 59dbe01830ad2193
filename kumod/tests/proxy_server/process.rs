//! proxy-server as a child process, and looks at it from outside: what it said, its metrics, its sockets. Invariant: it doesn't outlive its
//! test.
use super::support::{PATIENCE, wait_for};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

pub struct ProxyServer {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    _home: Option<TempDir>,
}

impl ProxyServer {
    /// Serving, with these arguments, on a port of the system's choice for each `127.0.0.1:0` in them.
    pub fn start(arguments: &[&str]) -> ProxyServer {
        ProxyServer::launch(arguments, None).ready()
    }

    /// Serving what `proxy_init` starts. `more`: Lua at the top level.
    pub fn with_policy(init: &str, more: &str) -> ProxyServer {
        ProxyServer::launch_policy(init, more).ready()
    }

    pub fn launch_policy(init: &str, more: &str) -> ProxyServer {
        let home = TempDir::new().expect("a folder");
        let path = home.path().join("proxy.lua");
        let text = format!(
            "local kumo = require 'kumo'\nlocal proxy = require 'proxy'\n{more}\n\
             kumo.on('proxy_init', function()\n{init}\nend)\n"
        );
        fs::write(&path, text).expect("it can be written");
        ProxyServer::launch(&["--proxy-config", &path.display().to_string()], Some(home))
    }

    pub fn launch(arguments: &[&str], home: Option<TempDir>) -> ProxyServer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-server"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cargo has built it");
        let stderr = child.stderr.take().expect("it is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        ProxyServer { child, said, _home: home }
    }

    fn ready(mut self) -> ProxyServer {
        wait_for("proxy-server to say that it serves", PATIENCE, || {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "it ended with {ended:?}: {:?}", self.said());
            self.said().iter().any(|line| line == "initialization complete").then_some(())
        });
        self
    }

    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Where it said that it listens, in this way.
    fn listens(&self, beginning: &str) -> SocketAddr {
        let address = |line: &String| line.strip_prefix(beginning)?.parse().ok();
        let found = self.said().iter().find_map(address);
        found.unwrap_or_else(|| panic!("no {beginning}: {:?}", self.said()))
    }

    pub fn address(&self) -> SocketAddr {
        self.listens("proxy listener on ")
    }

    pub fn tls_address(&self) -> SocketAddr {
        self.listens("proxy listener (TLS) on ")
    }

    /// The answer to a GET: status and body.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.listens("http listener on ")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.split(' ').nth(1).unwrap_or_default().into(), body.into())
    }

    /// The sum of a metric's series that have all these labels.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let (_, text) = self.get("/metrics");
        let value = |line: &str| -> Option<u64> {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series.split('{').next() == Some(name)
                && labels.iter().all(|label| series.contains(label));
            is_it.then(|| value.parse().expect("a number"))
        };
        text.lines().filter_map(value).sum()
    }

    pub fn wait_for_metric(&self, name: &str, labels: &[&str], expected: u64) {
        wait_for(&format!("{name}{labels:?} to be {expected}"), PATIENCE, || {
            (self.metric(name, labels) == expected).then_some(())
        });
    }

    /// How many it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Copies of its sockets that are connections.
    pub fn connections(&self) -> Vec<(TcpStream, SocketAddr)> {
        let pid = self.child.id();
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let sockets = numbers.filter_map(|number: i32| {
            let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
            let is_socket = link.to_str()?.starts_with("socket:");
            let stream = is_socket.then(|| TcpStream::from(copy_of(pid, number)))?;
            let peer = stream.peer_addr().ok()?;
            Some((stream, peer))
        });
        sockets.collect()
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a plain system call on values; the child isn't waited for yet, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "it can't be signalled");
    }

    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        wait_for("proxy-server to end", patience, || self.child.try_wait().expect("our child"))
    }

    /// SIGTERM; it must end well.
    pub fn stop(mut self) -> Vec<String> {
        self.signal(libc::SIGTERM);
        let status = self.wait(PATIENCE);
        assert!(status.success(), "it ended with {status}: {:?}", self.said());
        self.said()
    }
}

impl Drop for ProxyServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of a descriptor of another process, which has to be a child of ours.
fn copy_of(pid: u32, number: i32) -> OwnedFd {
    // SAFETY: plain system calls on values; each result is checked before it is taken for a descriptor of our own.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        let process = OwnedFd::from_raw_fd(process as i32);
        let copy = libc::syscall(
            libc::SYS_pidfd_getfd,
            std::os::fd::AsRawFd::as_raw_fd(&process),
            number,
            0,
        );
        assert!(copy >= 0, "pidfd_getfd: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(copy as i32)
    }
}

/// What it says when it has to end at once, with this exit code.
pub fn refuses_to_start(mut server: ProxyServer, code: i32) -> String {
    let status = server.wait(PATIENCE);
    assert_eq!(status.code(), Some(code), "{:?}", server.said());
    // The reading thread has the last lines once the pipe is closed, which the end of the process does.
    wait_for("a line on stderr", PATIENCE, || {
        let said = server.said();
        (!said.is_empty()).then(|| said.join("\n"))
    })
}

//! What stands between kumod and the sink: addresses, and programs that we didn't write. Invariant: what a value has set up is gone once it
//! is dropped, also in a panic.
use super::support::{Kumod, PATIENCE, Sink, wait_for};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// An address of this host.
pub struct Plumbed(&'static str);

impl Plumbed {
    pub fn on_lo(address: &'static str) -> Plumbed {
        ip("add", address);
        Plumbed(address)
    }
}

impl Drop for Plumbed {
    fn drop(&mut self) {
        ip("del", self.0);
    }
}

fn ip(what: &str, address: &str) {
    let status =
        Command::new("ip").args(["addr", what, &format!("{address}/32"), "dev", "lo"]).status();
    assert!(status.expect("ip can be run").success(), "ip addr {what} {address}");
}

fn free_port(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).expect("a free port").local_addr().expect("it is bound")
}

/// A program that runs in the foreground, and what it says.
struct Program {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Program {
    fn start(command: &mut Command) -> Program {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{command:?} can't be run ({error}); kumod/tools/setup.sh test installs what is missing")
        });
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, stdout) = (said.clone(), child.stdout.take().expect("it is piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Program { child, said }
    }

    fn wait_for(&self, address: SocketAddr) {
        wait_for("a program to listen", PATIENCE, || TcpStream::connect(address).ok().map(drop));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes PROXY headers and passes everything to the sink.
pub struct Haproxy {
    program: Program,
    address: SocketAddr,
    _home: TempDir,
}

impl Haproxy {
    pub fn before(sink: &Sink) -> Haproxy {
        let (home, address) = (TempDir::new().expect("a folder"), free_port("127.0.0.1"));
        let config = format!(
            "global\n  log stdout format raw local0\ndefaults\n  mode tcp\n  log global\n  log-format \"%ci:%cp to %b\"\n\
             \x20 timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend in\n  bind {address} accept-proxy\n  default_backend sink\n\
             backend sink\n  server sink {}\n",
            sink.address()
        );
        let path = home.path().join("haproxy.cfg");
        fs::write(&path, config).expect("it can be written");
        let program = Program::start(Command::new("haproxy").arg("-db").arg("-f").arg(&path));
        program.wait_for(address);
        Haproxy { program, address, _home: home }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn said(&self) -> Vec<String> {
        self.program.said.lock().unwrap().clone()
    }
}

/// A SOCKS5 server that knows CONNECT alone.
pub struct Microsocks {
    _program: Program,
    address: SocketAddr,
}

impl Microsocks {
    pub fn start(host: &str) -> Microsocks {
        let address = free_port(host);
        let port = address.port().to_string();
        let program = Program::start(Command::new("microsocks").args(["-i", host, "-p", &port]));
        program.wait_for(address);
        Microsocks { _program: program, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// BIND, which knows one name.
pub struct Named {
    _program: Program,
    home: TempDir,
    _address: Plumbed,
}

impl Named {
    pub fn serving(name: &str, addresses: &[&str], at: &'static str) -> Named {
        let records: String = addresses.iter().map(|address| format!("@ A {address}\n")).collect();
        Named::with_records(name, &records, at)
    }

    /// Hosts of its own that take its mail, with their preferences.
    pub fn serving_mail(name: &str, hosts: &[(u16, &str)], at: &'static str) -> Named {
        let records: String =
            hosts.iter().map(|(n, host)| format!("@ MX {n} {host}\n{host} A {at}\n")).collect();
        Named::with_records(name, &records, at)
    }

    fn with_records(name: &str, records: &str, at: &'static str) -> Named {
        // It listens only where an interface has the address.
        let address = Plumbed::on_lo(at);
        let home = TempDir::new().expect("a folder");
        let path = |name: &str| home.path().join(name).display().to_string();
        let zone = format!(
            "$TTL 60\n@ SOA ns.{name}. root.{name}. 1 60 60 60 60\n@ NS ns.{name}.\nns A {at}\n{records}"
        );
        fs::write(path("zone"), zone).expect("it can be written");
        let config = format!(
            "options {{ directory \"{home}\"; listen-on port 53 {{ {at}; }}; listen-on-v6 {{ none; }}; recursion no; \
             pid-file none; session-keyfile none; rrset-order {{ order fixed; }}; }};\n\
             zone \"{name}\" {{ type primary; file \"{zone}\"; }};\ncontrols {{ }};\n",
            home = home.path().display(),
            zone = path("zone")
        );
        fs::write(path("named.conf"), config).expect("it can be written");
        fs::write(path("resolv.conf"), format!("nameserver {at}\n")).expect("it can be written");
        // A confinement that the system has for its own named doesn't hold for a copy.
        fs::copy("/usr/sbin/named", path("named")).expect("bind9 is installed");
        let program =
            Program::start(Command::new(path("named")).args(["-f", "-c", &path("named.conf")]));
        program.wait_for(SocketAddr::new(at.parse().expect("an address"), 53));
        Named { _program: program, home, _address: address }
    }

    /// What a tool says that asks it, and nobody else.
    pub fn told(&self, tool: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(self.home.path().join("resolv.conf"));
        let output = command.arg(tool).args(arguments).output().expect("unshare runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A kumod that asks it, and nobody else.
    pub fn start(&self, policy: &Path) -> Kumod {
        Kumod::start_with_mounted(policy, &self.home.path().join("resolv.conf"), "/etc/resolv.conf")
    }
}

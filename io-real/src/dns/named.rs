//! For tests: BIND's `named` as a child process on a loopback port, with zones of our own in a scratch
//! directory. Nothing of the machine's own BIND, if it has one, is read or touched.
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Named {
    process: Child,
    pub(super) address: SocketAddr,
    directory: TempDir,
}

impl Named {
    /// Serves `zones`, each a name and its zone file; a file that makes no sense is a zone that fails.
    pub(super) fn start(zones: &[(&str, String)]) -> Named {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path();
        let address = free_address();
        let mut configuration = format!(
            "options {{ directory \"{}\"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }};\n\
             listen-on port {} {{ 127.0.0.1; }}; recursion no; dnssec-validation no; notify no;\n\
             check-names primary ignore; check-integrity no; }};\n\
             controls {{ }};\n",
            path.display(),
            address.port()
        );
        for (zone, content) in zones {
            fs::write(path.join(format!("{zone}.zone")), content).expect("zone file written");
            configuration +=
                &format!("zone \"{zone}\" {{ type primary; file \"{zone}.zone\"; }};\n");
        }
        fs::write(path.join("named.conf"), configuration).expect("configuration written");
        let log = fs::File::create(path.join("named.log")).expect("log made");
        let process = Command::new(own_copy(path))
            .args(["-g", "-n", "1", "-c"])
            .arg(path.join("named.conf"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("a copy of named runs");
        let mut named = Named { process, address, directory };
        named.wait_until_it_answers();
        named
    }

    /// It logs `running` once all zones are loaded or given up.
    fn wait_until_it_answers(&mut self) {
        let began = Instant::now();
        loop {
            let log =
                fs::read_to_string(self.directory.path().join("named.log")).expect("log read");
            if log.lines().any(|line| line.ends_with(" running")) {
                TcpStream::connect(self.address).expect("named runs, so it listens");
                return;
            }
            let ended = self.process.try_wait().expect("our own child");
            assert!(ended.is_none(), "named ended with {ended:?}:\n{log}");
            assert!(began.elapsed() < START_TIMEOUT, "named isn't ready:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // It can only fail because the process has ended, and then wait() tells its end at once.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// AppArmor, where it is on, keeps /usr/sbin/named out of scratch directories; a copy it doesn't know. Made by a
/// process of its own, since a child forked meanwhile by another test could keep our file open and so not executable.
fn own_copy(directory: &Path) -> PathBuf {
    let copy = directory.join("named");
    let made = Command::new("cp").arg("/usr/sbin/named").arg(&copy).status().expect("cp runs");
    assert!(made.success(), "no /usr/sbin/named: install bind9 with `kumod/tools/setup.sh test`");
    copy
}

/// A port that is free for both UDP and TCP.
fn free_address() -> SocketAddr {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
        let address = tcp.local_addr().expect("bound");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

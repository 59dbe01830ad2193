//! kumod as a child process, from its start to its end.
use super::home::USER;
use super::{PATIENCE, wait_for};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub struct Kumod {
    child: Child,
    addresses: Vec<SocketAddr>,
    /// Each line, and when it was read.
    said: Arc<Mutex<Vec<(Instant, String)>>>,
}

/// `kumod --policy …`, as the user that tests run it as.
fn command(policy: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kumod"));
    command.args(arguments(policy));
    command
}

fn arguments(policy: &Path) -> Vec<String> {
    let mut arguments = vec!["--policy".into(), policy.display().to_string()];
    if kumod::privileges::is_root() {
        arguments.extend(["--user".into(), USER.into()]);
    }
    arguments
}

impl Kumod {
    /// Returns once it says that it serves.
    pub fn start(policy: &Path) -> Kumod {
        Kumod::launch(policy).ready()
    }

    /// Returns at once; `address` is known after [`Kumod::ready`].
    pub fn launch(policy: &Path) -> Kumod {
        Kumod::run(command(policy))
    }

    /// As [`Kumod::launch`], with further options.
    pub fn launch_with(policy: &Path, options: &[&str]) -> Kumod {
        let mut command = command(policy);
        command.args(options);
        Kumod::run(command)
    }

    /// Serving, with variables of the environment.
    pub fn start_in(policy: &Path, environment: &[(&str, &str)]) -> Kumod {
        Kumod::launch_in(policy, environment).ready()
    }

    pub fn launch_in<V: AsRef<OsStr>>(policy: &Path, environment: &[(&str, V)]) -> Kumod {
        let mut command = command(policy);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Kumod::run(command)
    }

    /// Serving, with one file over another for it alone.
    pub fn start_with_mounted(policy: &Path, file: &Path, over: &str) -> Kumod {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script]).arg(file).arg(over);
        command.arg(env!("CARGO_BIN_EXE_kumod")).args(arguments(policy));
        Kumod::run(command).ready()
    }

    /// Under strace, which writes `options`' calls of every thread to `trace`, with contents in hexadecimal and the
    /// paths of descriptors. The child is kumod itself: strace is a grandchild that attaches to it.
    pub fn start_traced(policy: &Path, calls: &str, trace: &Path) -> Kumod {
        let mut command = Command::new("strace");
        let calls = format!("trace={calls}");
        command.args(["-D", "-f", "-y", "-xx", "-s", "100000", "-e", &calls, "-o"]).arg(trace);
        command.arg(env!("CARGO_BIN_EXE_kumod")).args(arguments(policy));
        Kumod::run(command).ready()
    }

    fn run(mut command: Command) -> Kumod {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{program:?} can't be run ({error}); kumod/tools/setup.sh test installs what is missing")
        });
        let stderr = child.stderr.take().expect("it is piped");
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push((Instant::now(), line));
            }
        });
        Kumod { child, addresses: Vec::new(), said }
    }

    pub fn ready(mut self) -> Kumod {
        wait_for("kumod to say that it serves", PATIENCE, || {
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "kumod ended with {ended:?}: {:?}", self.said());
            self.said().iter().any(|line| line == "initialization complete").then_some(())
        });
        let address = |line: &String| line.strip_prefix("smtp listener on ")?.parse().ok();
        self.addresses = self.said().iter().filter_map(address).collect();
        self
    }

    /// Its only listener's address.
    pub fn address(&self) -> SocketAddr {
        assert_eq!(self.addresses.len(), 1, "{:?}", self.said());
        self.addresses[0]
    }

    /// Where its only plain HTTP listener listens.
    pub fn http_address(&self) -> SocketAddr {
        let said = self.said();
        let address = |line: &String| line.strip_prefix("http listener on ")?.parse().ok();
        said.iter().find_map(address).unwrap_or_else(|| panic!("no HTTP listener: {said:?}"))
    }

    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    /// When it first said a line with `words`.
    pub fn said_at(&self, words: &str) -> Option<Instant> {
        let said = self.said.lock().unwrap();
        said.iter().find(|(_, line)| line.contains(words)).map(|(at, _)| *at)
    }

    /// Lines with `words`.
    pub fn said_with(&self, words: &str) -> Vec<String> {
        self.said().into_iter().filter(|line| line.contains(words)).collect()
    }

    /// SIGTERM, without waiting for what becomes of it.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: a plain system call on values; the child isn't waited for yet, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "kumod can't be signalled");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        wait_for("kumod to end", patience, || self.child.try_wait().expect("it is our child"))
    }

    /// SIGTERM; it must end well. What it said.
    pub fn stop(mut self) -> Vec<String> {
        self.terminate();
        let status = self.wait(PATIENCE);
        assert!(status.success(), "kumod ended with {status}: {:?}", self.said());
        self.said()
    }

    /// SIGKILL; returns once it is gone, with what it said.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is our child");
        self.said()
    }
}

impl Drop for Kumod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What kumod says when it has to end at once, with exit code 1.
pub fn refuses_to_start(policy: &Path) -> Vec<String> {
    let mut kumod = Kumod::launch(policy);
    let status = kumod.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{:?}", kumod.said());
    // The reading thread has the last lines once the pipe is closed, which the end of the process does.
    wait_for("a line on stderr", PATIENCE, || {
        let said = kumod.said();
        (!said.is_empty()).then_some(said)
    })
}

//! `make demo`: two kumods of this build, one sending to the other, 2,000 messages over SMTP and HTTP, and a table of what
//! happened, read from the sender's own logs. Everything lies in a temporary folder that is kept for a look at the logs.
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use kumod::privileges;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MESSAGES: u64 = 2_000;
/// Whom the daemons run as if root runs the demo.
const USER: &str = "nobody";
const START: Duration = Duration::from_secs(30);
const DELIVERY: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let folder = tempfile::Builder::new().prefix("kumod-demo-").tempdir().map_err(text)?.keep();
    println!("everything of this demo lies in {}", folder.display());
    let receiver = Daemon::start("receiver", include_str!("demo/receiver.lua"), &folder, "")?;
    let sender = Daemon::start("sender", include_str!("demo/sender.lua"), &folder, &receiver.smtp)?;
    let half = (MESSAGES / 2).to_string();
    let common = ["--message-count", &half, "--concurrency", "10"];
    println!("sending {half} messages over SMTP, then {half} over HTTP");
    generate(&[&common[..], &["--target", &format!("127.0.0.1:{}", sender.smtp)]].concat())?;
    let endpoint = format!("http://127.0.0.1:{}", sender.http);
    let http = ["--http", "--http-batch-size", "10", "--target", &endpoint];
    generate(&[&common[..], &http].concat())?;
    let logs = folder.join("sender/logs");
    let story = wait_for_delivery(&logs)?;
    show(&story, &logs);
    println!("stopping both");
    sender.stop()?;
    receiver.stop()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The program of that name beside this one's folder.
fn program(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(text)?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let missing = || format!("{name} isn't built; `make demo` builds it");
    found.into_iter().find(|path| path.exists()).ok_or_else(missing)
}

fn generate(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(program("traffic-gen")?).args(arguments).status().map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("traffic-gen ended with {status}")) }
}

// ---- The two daemons --------------------------------------------------------------------------------------

struct Daemon {
    name: &'static str,
    child: Child,
    smtp: String,
    http: String,
}

impl Daemon {
    fn start(
        name: &'static str,
        policy: &str,
        folder: &Path,
        receiver: &str,
    ) -> Result<Daemon, String> {
        let home = folder.join(name);
        fs::create_dir_all(&home).map_err(text)?;
        let policy_file = home.join("policy.lua");
        let policy = policy.replace("@HOME@", &home.display().to_string());
        fs::write(&policy_file, policy.replace("@RECEIVER@", receiver)).map_err(text)?;
        let mut command = Command::new(program("kumod")?);
        command.arg("--policy").arg(&policy_file).stderr(Stdio::piped());
        if privileges::is_root() {
            let (uid, gid) = privileges::ids_of(USER)?;
            for path in [folder, &home] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(text)?;
            }
            command.args(["--user", USER]);
        }
        let mut child = command.spawn().map_err(text)?;
        let errors = child.stderr.take().expect("piped above");
        let mut daemon = Daemon { name, child, smtp: String::new(), http: String::new() };
        daemon.read_ports(BufReader::new(errors), home.join("stderr"))?;
        Ok(daemon)
    }

    /// A thread copies what the daemon says into a file; its first lines name the ports.
    fn read_ports(
        &mut self,
        errors: impl BufRead + Send + 'static,
        copy: PathBuf,
    ) -> Result<(), String> {
        let (lines, said) = mpsc::channel();
        std::thread::spawn(move || {
            use std::io::Write;
            let mut copy = File::create(copy).ok();
            for line in errors.lines().map_while(Result::ok) {
                if let Some(copy) = &mut copy {
                    let _ = writeln!(copy, "{line}");
                }
                let _ = lines.send(line);
            }
        });
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = said.recv_timeout(left);
            let line =
                line.map_err(|_| format!("the {} didn't start within {START:?}", self.name))?;
            let port = line.rsplit(':').next().unwrap_or("").to_string();
            if line.starts_with("smtp listener on ") {
                self.smtp = port;
            } else if line.starts_with("http listener on ") {
                self.http = port;
            } else if line == "initialization complete" {
                return Ok(());
            } else if line.starts_with("kumod: ") {
                return Err(format!("the {} says: {line}", self.name));
            }
        }
    }

    fn stop(mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).map_err(text)?;
        // SAFETY: a signal to a child that hasn't been waited for yet, so the number is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let status = self.child.wait().map_err(text)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the {} ended with {status}", self.name))
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- What the logs say ------------------------------------------------------------------------------------

#[derive(Default)]
struct Story {
    accepted: u64,
    deferred: u64,
    /// Seconds from acceptance to delivery, ascending.
    delivered: Vec<f64>,
}

fn wait_for_delivery(logs: &Path) -> Result<Story, String> {
    let bar = ProgressBar::new(MESSAGES);
    let style = ProgressStyle::with_template("delivered {bar:40} {pos}/{len} {elapsed}");
    bar.set_style(style.map_err(text)?);
    let deadline = Instant::now() + DELIVERY;
    loop {
        let story = read(logs)?;
        bar.set_position(story.delivered.len() as u64);
        if story.delivered.len() as u64 >= MESSAGES {
            bar.finish();
            return Ok(story);
        }
        if Instant::now() > deadline {
            let (done, logs) = (story.delivered.len(), logs.display());
            return Err(format!(
                "only {done} of {MESSAGES} were delivered within {DELIVERY:?}; see {logs}"
            ));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn read(logs: &Path) -> Result<Story, String> {
    let mut story = Story::default();
    for entry in fs::read_dir(logs).map_err(text)? {
        let file = File::open(entry.map_err(text)?.path()).map_err(text)?;
        let decoder = zstd::stream::read::Decoder::new(file).map_err(text)?;
        // A segment that is still being written ends in the middle of its frame.
        for line in BufReader::new(decoder).lines().map_while(Result::ok) {
            let record: Value = serde_json::from_str(&line).map_err(text)?;
            match record["type"].as_str() {
                Some("Reception") => story.accepted += 1,
                Some("TransientFailure") => story.deferred += 1,
                Some("Delivery") => story.delivered.push(seconds(&record)),
                _ => {}
            }
        }
    }
    story.delivered.sort_by(f64::total_cmp);
    Ok(story)
}

fn seconds(record: &Value) -> f64 {
    let time = |field: &str| {
        let text = record[field].as_str().unwrap_or("");
        kumo_core::date::parse_rfc3339(text).map_or(0, |wall| wall.0)
    };
    (time("event_time") - time("created_time")) as f64 / 1e9
}

fn show(story: &Story, logs: &Path) {
    let at = |share: f64| {
        let index = (story.delivered.len() as f64 * share) as usize;
        story.delivered.get(index.min(story.delivered.len().saturating_sub(1))).copied()
    };
    let quantile = |share| at(share).map_or("-".into(), |seconds| format!("{seconds:.3} s"));
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.add_row(["accepted", &story.accepted.to_string()]);
    table.add_row(["delivered", &story.delivered.len().to_string()]);
    table.add_row(["deferred, then tried again", &story.deferred.to_string()]);
    table.add_row(["from accept to delivery, half within", &quantile(0.5)]);
    table.add_row(["from accept to delivery, 99% within", &quantile(0.99)]);
    table.add_row(["logs (zstdcat shows them)", &logs.display().to_string()]);
    table.add_row(["try next, once a kumod of yours runs", "kcli queue-summary"]);
    println!("{table}");
}

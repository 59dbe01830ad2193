//! Reads what strace wrote and says whether mail was on disk before it was acknowledged.
//! Invariant: an acknowledgement counts from the moment its call begins, a sync from the moment it has returned, and a
//! sync covers only what had been written before it began.
use std::collections::HashMap;
use std::path::Path;

/// The calls that the check has to see.
pub const CALLS: &str = "write,writev,pwrite64,pwritev,sendto,sendmsg,fdatasync,fsync";

/// What begins each positive answer to a final dot.
const ANSWER: &[u8] = b"250 OK ids=";
/// RocksDB begins its log anew in blocks of this size, and a key that lies across two of them isn't found.
const BLOCK_OCTETS: usize = 32 * 1024;

#[derive(Debug, Default)]
pub struct Verdict {
    /// Ids that were acknowledged, in order.
    pub acknowledged: Vec<String>,
    /// Those that weren't on disk by then, and why.
    pub violations: Vec<String>,
    pub syncs: usize,
}

/// A write-ahead log as the calls so far made it.
#[derive(Default)]
struct Log {
    content: Vec<u8>,
    /// Where each write ended.
    ends: Vec<usize>,
    synced: usize,
}

impl Log {
    /// The end of the write that holds the id's first occurrence.
    fn batch_end(&self, id: &[u8]) -> Option<usize> {
        let at = self.content.windows(id.len()).position(|window| window == id)?;
        self.ends.iter().copied().find(|end| *end >= at + id.len())
    }
}

/// A call between its beginning and its end.
enum Call {
    Write { path: String, octets: Vec<u8> },
    Sync { path: String, covers: usize },
    Other,
}

#[derive(Default)]
struct Reader {
    logs: HashMap<String, Log>,
    /// By thread.
    unfinished: HashMap<String, Call>,
    verdict: Verdict,
}

/// `spools`: the folders of write-ahead logs; an id has to be in one of each.
pub fn check(trace: &str, spools: &[&Path]) -> Verdict {
    let mut reader = Reader::default();
    for line in trace.lines() {
        reader.line(line, spools);
    }
    for (path, log) in &reader.logs {
        assert!(log.content.len() < BLOCK_OCTETS, "{path} is too long for this check");
    }
    reader.verdict
}

impl Reader {
    fn line(&mut self, line: &str, spools: &[&Path]) {
        let Some((thread, rest)) = line.split_once(' ') else { return };
        let rest = rest.trim_start();
        if rest.starts_with("<... ") {
            let result = rest.rsplit_once(" = ").map_or("", |(_, result)| result);
            if let Some(call) = self.unfinished.remove(thread) {
                self.end(call, result);
            }
            return;
        }
        let Some((name, arguments)) = rest.split_once('(') else { return };
        let call = self.begin(name, arguments, spools);
        if rest.ends_with("<unfinished ...>") {
            self.unfinished.insert(thread.to_string(), call);
        } else if let Some((_, result)) = rest.rsplit_once(" = ") {
            self.end(call, result);
        }
    }

    fn begin(&mut self, name: &str, arguments: &str, spools: &[&Path]) -> Call {
        let path = path_of(arguments);
        let is_log = path.ends_with(".log") && spools.iter().any(|spool| is_below(&path, spool));
        match name {
            "fsync" | "fdatasync" if is_log => {
                let covers = self.logs.entry(path.clone()).or_default().content.len();
                Call::Sync { path, covers }
            }
            "fsync" | "fdatasync" => Call::Other,
            _ if is_log => Call::Write { path, octets: strings_of(arguments) },
            _ => {
                self.say(&strings_of(arguments), spools);
                Call::Other
            }
        }
    }

    fn end(&mut self, call: Call, result: &str) {
        match call {
            Call::Write { path, octets } => {
                let count: usize =
                    result.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                assert!(count <= octets.len(), "strace cut a string short");
                let log = self.logs.entry(path).or_default();
                log.content.extend_from_slice(&octets[..count]);
                log.ends.push(log.content.len());
            }
            Call::Sync { path, covers } if result.starts_with('0') => {
                let log = self.logs.get_mut(&path).expect("made when the call began");
                log.synced = log.synced.max(covers);
                self.verdict.syncs += 1;
            }
            Call::Sync { .. } | Call::Other => {}
        }
    }

    /// Something is about to be sent, perhaps several answers at once.
    fn say(&mut self, octets: &[u8], spools: &[&Path]) {
        let text = String::from_utf8_lossy(octets);
        let marker = String::from_utf8_lossy(ANSWER);
        for answer in text.split(&*marker).skip(1) {
            let line = answer.lines().next().unwrap_or("");
            for id in line.split(' ') {
                self.acknowledge(id, spools);
            }
        }
    }

    fn acknowledge(&mut self, id: &str, spools: &[&Path]) {
        self.verdict.acknowledged.push(id.to_string());
        let key: Vec<u8> = octets_of(id.as_bytes()).expect("an id is hexadecimal");
        for spool in spools {
            let state = self.logs.iter().filter(|(path, _)| is_below(path, spool));
            let ends = state.filter_map(|(_, log)| Some((log.batch_end(&key)?, log.synced)));
            let why = match ends.min() {
                None => "wasn't written",
                Some((end, synced)) if end > synced => "was written but not synced",
                Some(_) => continue,
            };
            let spool = spool.display();
            self.verdict.violations.push(format!("{id} was acknowledged but {why} in {spool}"));
        }
    }
}

fn is_below(path: &str, folder: &Path) -> bool {
    Path::new(path).parent() == Some(folder)
}

/// Of the first argument, a descriptor with its path: `9</spool/000004.log>`, the path as it is or in hexadecimal.
fn path_of(arguments: &str) -> String {
    let inner = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let path = inner.map_or("", |(path, _)| path);
    match unescape(path) {
        Some(octets) if path.starts_with("\\x") => String::from_utf8_lossy(&octets).into_owned(),
        _ => path.to_string(),
    }
}

/// All strings among the arguments, one after the other: vectors are written in order.
fn strings_of(arguments: &str) -> Vec<u8> {
    let quoted = arguments.split('"').skip(1).step_by(2);
    quoted.flat_map(|text| unescape(text).expect("strace was told to write hexadecimal")).collect()
}

/// `\x41\x42`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    octets_of(text.replace("\\x", "").as_bytes())
}

fn octets_of(hexadecimal: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8);
    hexadecimal.chunks(2).map(pair).collect()
}

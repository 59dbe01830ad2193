//! One kumod's folder: policy, spool, logs. Removed with the value.
use serde_json::Value;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Whom kumod runs as where the tests run as root.
pub const USER: &str = "nobody";

pub struct Home {
    folder: tempfile::TempDir,
    /// Of the logs.
    logs: &'static str,
}

impl Home {
    pub fn new() -> Home {
        Home::with_logs("logs")
    }

    /// With the logs in a folder of this name.
    pub fn with_logs(logs: &'static str) -> Home {
        let folder = tempfile::tempdir().expect("a temporary folder");
        give_away(folder.path());
        Home { folder, logs }
    }

    /// In a folder that is there already.
    pub fn over(folder: tempfile::TempDir) -> Home {
        give_away(folder.path());
        Home { folder, logs: "logs" }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Both spools and the logs in this folder, one listener on a port of the system's choice, and `handlers`.
    /// `listener`: further options of the listener, as Lua fields.
    pub fn policy(&self, listener: &str, handlers: &str) -> PathBuf {
        self.policy_with_spools("spool", "spool", listener, handlers)
    }

    /// With `data` and `meta` in folders of these names.
    pub fn policy_with_spools(
        &self,
        data: &str,
        meta: &str,
        listener: &str,
        handlers: &str,
    ) -> PathBuf {
        self.policy_with_options(data, meta, "", listener, handlers)
    }

    /// `spool`: further options of both spools, as Lua fields.
    pub fn policy_with_options(
        &self,
        data: &str,
        meta: &str,
        spool: &str,
        listener: &str,
        handlers: &str,
    ) -> PathBuf {
        let init = format!("kumo.start_esmtp_listener {{ listen = '127.0.0.1:0', {listener} }}");
        self.policy_with_init((data, meta), spool, &init, handlers)
    }

    /// With an HTTP listener as well, for `kcli`.
    pub fn policy_with_http(&self, spools: (&str, &str), spool: &str, handlers: &str) -> PathBuf {
        let init = "kumo.start_esmtp_listener { listen = '127.0.0.1:0' }
                    kumo.start_http_listener { listen = '127.0.0.1:0' }";
        self.policy_with_init(spools, spool, init, handlers)
    }

    /// `init`: what it does besides defining its spools and logs.
    fn policy_with_init(
        &self,
        (data, meta): (&str, &str),
        spool: &str,
        init: &str,
        handlers: &str,
    ) -> PathBuf {
        let text = format!(
            "local kumo = require 'kumo'
             kumo.on('init', function()
               kumo.define_spool {{ name = 'data', path = '{data}', min_free_space = 1000000, {spool} }}
               kumo.define_spool {{ name = 'meta', path = '{meta}', min_free_space = 1000000, {spool} }}
               kumo.configure_local_logs {{ log_dir = '{logs}', min_free_space = 1000000, min_free_inodes = 0 }}
               {init}
             end)
             {handlers}",
            data = self.path(data).display(),
            meta = self.path(meta).display(),
            logs = self.path(self.logs).display(),
        );
        self.policy_text(&text)
    }

    /// A copy of `original`'s files, as the user's own.
    pub fn hand_over(&self, name: &str, original: &Path) {
        let folder = self.path(name);
        fs::create_dir(&folder).expect("a new folder");
        give_away(&folder);
        for entry in fs::read_dir(original).expect("a folder").flatten() {
            let copy = folder.join(entry.file_name());
            fs::copy(entry.path(), &copy).expect("a copy");
            give_away(&copy);
        }
    }

    pub fn policy_text(&self, text: &str) -> PathBuf {
        let path = self.path("policy.lua");
        fs::write(&path, text).expect("the policy can be written");
        path
    }

    /// What has been logged so far, in order; a segment may still be growing.
    pub fn records(&self) -> Vec<Value> {
        let Ok(entries) = fs::read_dir(self.path(self.logs)) else { return Vec::new() };
        let mut segments: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        segments.sort();
        segments.iter().flat_map(|segment| lines_of(segment)).collect()
    }

    pub fn records_of(&self, kind: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["type"] == kind).collect()
    }
}

/// The end of a frame that is still being written looks like damage to the decoder, so what comes before it counts.
fn lines_of(segment: &Path) -> Vec<Value> {
    let file = File::open(segment).expect("a segment that was listed");
    let decoder = zstd::stream::read::Decoder::new(file).expect("a decoder");
    let lines = BufReader::new(decoder).lines().map_while(Result::ok);
    lines.map(|line| serde_json::from_str(&line).expect("each line is JSON")).collect()
}

/// To whom kumod runs as.
pub fn give_away(path: &Path) {
    if !kumod::privileges::is_root() {
        return;
    }
    let name = CString::new(USER).expect("no NUL in it");
    // SAFETY: `name` outlives the call; the entry is read before anybody else can ask for another.
    let (uid, gid) = unsafe {
        let entry = libc::getpwnam(name.as_ptr());
        assert!(!entry.is_null(), "this system has no user {USER:?}");
        ((*entry).pw_uid, (*entry).pw_gid)
    };
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("root may give anything away");
}

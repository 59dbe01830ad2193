//! A policy as it was when kumod loaded it: its file, the files it requires, its limits, its warnings.
//! Invariant: every Lua state is made of the same text, also if somebody edits the files in the meantime.
use super::PolicyOptions;
use super::error::PolicyError;
use super::events::Service;
use super::kept::Kept;
use super::shaping_module::SharedShaping;
use super::shipped;
use super::throttle_module::Throttles;
use crate::shaping::lookup::MxLookup;
use kumo_core::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    pub source: Arc<[u8]>,
    pub options: PolicyOptions,
    pub service: Service,
    /// Of all states.
    pub shaping: SharedShaping,
    pub kept: Kept,
    pub throttles: Throttles,
    pub mx_lookup: MxLookup,
    files: Mutex<BTreeMap<PathBuf, Option<Arc<[u8]>>>>,
    warnings: Mutex<BTreeSet<String>>,
}

/// Locks also what a panicking thread held: nothing here is left half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    /// A policy of kumod.
    pub fn read(path: &Path, options: PolicyOptions) -> Result<Arc<Program>, PolicyError> {
        Program::read_for(Service::Kumod, path, options)
    }

    pub fn read_for(
        service: Service,
        path: &Path,
        options: PolicyOptions,
    ) -> Result<Arc<Program>, PolicyError> {
        let source = read_file(path).map_err(|text| PolicyError {
            event: None,
            place: Some(path.display().to_string()),
            text,
        })?;
        Ok(Arc::new(Program {
            path: path.into(),
            source: source.into(),
            options,
            service,
            shaping: SharedShaping::default(),
            kept: Kept::default(),
            throttles: Throttles::new(),
            mx_lookup: MxLookup::of_system(),
            files: Mutex::default(),
            warnings: Mutex::default(),
        }))
    }

    /// Where `require` looks, in the form of `package.path`.
    pub fn search_path(&self) -> String {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).display().to_string();
        let folders = [folder.as_str(), "/opt/kumomta/etc/policy", shipped::SHARE];
        folders.map(|folder| format!("{folder}/?.lua;{folder}/?/init.lua")).join(";")
    }

    /// The text of a Lua file, as it was when it was asked for first; `None` if there was no such file.
    pub fn lua_file(&self, path: &Path) -> Result<Option<Arc<[u8]>>, String> {
        let mut files = lock(&self.files);
        if let Some(known) = files.get(path) {
            return Ok(known.clone());
        }
        if files.len() >= limits::POLICY_FILES {
            return Err(format!("policy reads more than {} files", limits::POLICY_FILES));
        }
        let text: Option<Arc<[u8]>> = match shipped::read(path) {
            Some(text) => Some(text.into()),
            None if path.exists() => Some(read_file(path)?.into()),
            None => None,
        };
        files.insert(path.into(), text.clone());
        Ok(text)
    }

    /// Says it in the log, once.
    pub fn warn(&self, text: String) {
        let mut warnings = lock(&self.warnings);
        if warnings.len() < limits::POLICY_WARNINGS && !warnings.contains(&text) {
            tracing::warn!(target: "policy", "{text}");
            warnings.insert(text);
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        lock(&self.warnings).iter().cloned().collect()
    }
}

/// The whole file, be it one that comes with kumod, unless it is too long.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    if let Some(text) = shipped::read(path) {
        return Ok(text.into());
    }
    let failed = |error: std::io::Error| format!("can't read {}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    let limit = limits::POLICY_FILE_OCTETS as u64;
    file.take(limit + 1).read_to_end(&mut text).map_err(failed)?;
    match text.len() as u64 > limit {
        true => Err(format!("{} is longer than {limit} octets", path.display())),
        false => Ok(text),
    }
}

//! `cargo sim replay --journal DIR`: runs the engine over the journal of a real kumod and compares what it wants with what it wanted then.
//! Invariant: reads only. Segments are independent of each other: each begins with an engine.
use kumo_core::journal::{self, End};
use std::path::{Path, PathBuf};

pub struct Segment {
    pub path: PathBuf,
    pub steps: u64,
    pub missing: u64,
    pub end: End,
}

/// The segments of a folder in their order.
pub fn segments(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let say = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(say)? {
        let path = entry.map_err(say)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        let number = name.strip_prefix("journal-").and_then(|rest| rest.strip_suffix(".kj"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    if found.is_empty() {
        return Err(format!("{}: no journal-N.kj is there", folder.display()));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

pub fn replay(path: &Path) -> Result<Segment, String> {
    let octets = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let replayed = journal::replay(&octets);
    Ok(Segment {
        path: path.to_owned(),
        steps: replayed.steps,
        missing: replayed.missing,
        end: replayed.end,
    })
}

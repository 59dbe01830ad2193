//! The Lua modules and the shaping file that come with kumod: they are in the binary, and stand where the reference MTA has
//! its own, under [`SHARE`]. Invariant: what stands here goes before files of the same path, which may be another MTA's; a
//! policy that wants its own version has it in its own folder, which `package.path` names first.
use super::error::OWN_CODE;
use std::path::Path;

pub const SHARE: &str = "/opt/kumomta/share";
/// What every path begins with unless policy says otherwise.
#[cfg(test)]
const DEFAULT_SHAPING: &str = "/opt/kumomta/share/policy-extras/shaping.toml";

macro_rules! shipped {
    ($($name:literal)*) => {
        &[$(($name, include_bytes!(concat!("../../share/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = shipped! {
    "policy-extras/files.lua"
    "policy-extras/policy_utils.lua"
    "policy-extras/queue.lua"
    "policy-extras/shaping.lua"
    "policy-extras/shaping.toml"
    "policy-extras/sources.lua"
    "policy-extras/typing.lua"
};

/// The text of the file that would be at `path`.
pub fn read(path: &Path) -> Option<&'static [u8]> {
    let name = path.strip_prefix(SHARE).ok()?;
    let file = FILES.iter().find(|(shipped, _)| Path::new(shipped) == name)?;
    Some(file.1)
}

/// What a Lua file is called in errors: our own code is never the place of an operator's mistake.
pub fn chunk_name(path: &Path) -> String {
    match read(path).and(path.strip_prefix(SHARE).ok()) {
        Some(name) => format!("={OWN_CODE} {}", name.display()),
        None => format!("@{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_stands_under_share_alone() {
        assert!(read(Path::new(DEFAULT_SHAPING)).is_some());
        assert!(read(Path::new("/opt/kumomta/share/policy-extras/../x")).is_none());
        assert!(read(Path::new("policy-extras/shaping.toml")).is_none());
        let name = chunk_name(Path::new("/opt/kumomta/share/policy-extras/queue.lua"));
        assert_eq!(name, "=[kumod] policy-extras/queue.lua");
        assert_eq!(chunk_name(Path::new("/x/queue.lua")), "@/x/queue.lua");
    }
}

//! `cargo sim canary`: whether each planted bug is caught within its seeds by the checker that it names. Invariant: a crash, or another
//! checker, isn't a catch; nor is a bug that isn't there, since each canary runs in a build that has it.
use std::process::ExitCode;

#[cfg(canary)]
pub use with::command;

#[cfg(not(canary))]
pub use without::command;

#[cfg(canary)]
mod with {
    use super::ExitCode;
    use crate::campaign;
    use crate::library;
    use crate::verdict::Verdict;
    use kumo_core::canary::{self, Canary};
    use std::collections::BTreeMap;

    const SEEDS: u64 = 200;

    pub fn command(name: Option<&str>) -> Result<ExitCode, String> {
        let known = |canary: &&Canary| {
            name.is_none_or(|name| {
                canary.name() == name || canary.name() == format!("canary-{name}")
            })
        };
        let chosen: Vec<Canary> = Canary::ALL.iter().filter(known).copied().collect();
        if chosen.is_empty() {
            let names: Vec<&str> = Canary::ALL.iter().map(|canary| canary.name()).collect();
            return Err(format!("there is no such canary; there are {}", names.join(", ")));
        }
        let mut survived = 0;
        for canary in chosen {
            canary::choose(Some(canary));
            survived += u8::from(!caught(canary)?);
        }
        canary::choose(None);
        Ok(ExitCode::from(if survived == 0 { 0 } else { 11 }))
    }

    fn caught(canary: Canary) -> Result<bool, String> {
        let scenario = library::find("swarm")?;
        let mut otherwise: BTreeMap<String, u64> = BTreeMap::new();
        for seed in 0..SEEDS {
            let outcome = campaign::play(&scenario, seed, false);
            match &outcome.verdict {
                Verdict::Passed => {}
                Verdict::Broken(broken) if broken.invariant == canary.checker() => {
                    println!(
                        "{}: caught by {} under seed {seed}: {}",
                        canary.name(),
                        canary.checker(),
                        broken.what
                    );
                    return Ok(true);
                }
                other => *otherwise.entry(other.kind().to_owned()).or_default() += 1,
            }
        }
        println!(
            "{}: SURVIVED {SEEDS} seeds of the swarm; {} should have caught it ({}); other verdicts: {otherwise:?}",
            canary.name(),
            canary.checker(),
            canary.help()
        );
        Ok(false)
    }
}

#[cfg(not(canary))]
mod without {
    use super::ExitCode;
    use std::process::Command;

    /// Builds the same program with the canaries in it, and asks that.
    pub fn command(name: Option<&str>) -> Result<ExitCode, String> {
        let own = std::env::current_exe().map_err(|error| format!("where am I? {error}"))?;
        // <target folder>/<profile>/sim
        let target =
            own.parent().and_then(|profile| profile.parent()).ok_or("where am I built?")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let status = Command::new(cargo)
            .args(["run", "--quiet", "--locked", "--profile", "sim", "--bin", "sim"])
            .args(["--manifest-path", manifest])
            .args([
                "--config",
                "build.rustflags=['--cfg','madsim','--cfg','canary']",
                "--target-dir",
            ])
            .arg(target.join("canary"))
            .args(["--", "canary"])
            .args(name)
            .env_remove("RUSTFLAGS")
            .status()
            .map_err(|error| format!("cargo didn't start: {error}"))?;
        Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(10)))
    }
}

//! Scenarios by name, and how a scenario file is read: strictly, with file and line in every error. Invariant: what a file leaves out comes
//! from its `base`, drawn from the run's seed; what it says stands for every seed.
use crate::options::{Base, Impossible, Options};
use crate::swarm;
use std::path::Path;
use toml::de::{DeTable, DeValue};

macro_rules! library {
    ($($name:literal)+) => {
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../library/", $name, ".toml")))),+];
    };
}

library! {
    "swarm"
    "crash-at-every-io"
    "fail-every-operation"
    "idle-sessions"
    "lost-final-reply"
    "peer-silent-at-each-phase"
    "policy-hook-hangs"
    "stop-while-policy-hangs"
    "fsync-eio"
    "enospc-and-back"
    "write-stall"
    "corrupt-sst"
    "missing-sst"
    "meta-corruption"
    "clock-steps"
    "restart-storm"
    "thundering-retry"
    "slowloris"
    "slow-takers"
    "graceful-stop-at-every-step"
    "blackhole-majority"
    "overload-3x"
    "mail-loop"
    "senders"
    "proxy-outage"
    "proxy-flap"
    "proxy-dns-outage"
    "unplumbed-address"
    "starttls-stall"
    "wedged-dispatcher"
    "storm"
    "rare-waits"
}

/// A scenario as its file says it.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub about: String,
    table: toml::Table,
    base: Base,
    /// As it was read from `path`, for the command that replays it.
    pub path: Option<String>,
}

pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// One of the library, or a file's path.
pub fn find(name: &str) -> Result<Scenario, String> {
    if let Some((name, text)) = FILES.iter().find(|(known, _)| *known == name) {
        return parse(name, &format!("scenarios/library/{name}.toml"), text);
    }
    if !name.ends_with(".toml") {
        let known: Vec<&str> = names().collect();
        return Err(format!(
            "there is no scenario {name:?}; there are {}, or give the path of a .toml file",
            known.join(", ")
        ));
    }
    let text = std::fs::read_to_string(name).map_err(|error| format!("{name}: {error}"))?;
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name);
    let scenario = parse(stem, name, &text)?;
    Ok(Scenario { path: Some(name.to_owned()), ..scenario })
}

fn parse(name: &str, path: &str, text: &str) -> Result<Scenario, String> {
    let options: Options = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(1, |span| line_of(text, span.start));
        format!("{path}:{at}: {}", error.message())
    })?;
    let table: toml::Table = text.parse().map_err(|error| format!("{path}: {error}"))?;
    let Options { about, base, .. } = options;
    let scenario = Scenario { name: name.into(), about, table, base, path: None };
    // Whatever the seed, the world has to be possible.
    match scenario.options(0).check() {
        Ok(()) => crate::setup::policy_table(&scenario.options(0))
            .map_err(|what| located(path, text, Impossible { place: vec!["policy".into()], what }))
            .map(|_| scenario),
        Err(wrong) => Err(located(path, text, wrong)),
    }
}

fn located(path: &str, text: &str, Impossible { place, what }: Impossible) -> String {
    let at = offset_of(text, &place).map_or(1, |offset| line_of(text, offset));
    format!("{path}:{at}: {}: {what}", place.join("."))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|octet| **octet == b'\n').count() + 1
}

/// Where a key stands, or the last of its parents that is there.
fn offset_of(text: &str, place: &[String]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut offset = None;
    let mut here = DeValue::Table(table.into_inner());
    for step in place {
        let next = match here {
            DeValue::Table(table) => table
                .into_iter()
                .find(|(key, _)| key.get_ref().as_ref() == step.as_str())
                .map(|(key, value)| (key.span().start, value.into_inner())),
            DeValue::Array(array) => step.parse::<usize>().ok().and_then(|index| {
                array.into_iter().nth(index).map(|value| (value.span().start, value.into_inner()))
            }),
            _ => None,
        };
        let Some((start, value)) = next else { break };
        offset = Some(start);
        here = value;
    }
    offset
}

impl Scenario {
    /// For one seed: its base, drawn from the seed, with what the file says laid over it.
    pub fn options(&self, seed: u64) -> Options {
        let base = match self.base {
            Base::Calm => Options::default(),
            Base::Swarm => swarm::swarm(seed),
            Base::Storm => swarm::storm(seed),
            Base::RareWaits => swarm::rare_waits(seed),
        };
        if self.table.is_empty() {
            return base;
        }
        let mut merged = toml::Table::try_from(&base).expect("options are plain data");
        lay_over(&mut merged, &self.table);
        merged.try_into().expect("the file was read as options, and so was its base")
    }
}

/// Tables are merged, everything else is replaced.
fn lay_over(base: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => lay_over(base, over),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_library_can_be_read_and_says_what_it_shows() {
        for name in names() {
            let scenario = find(name).unwrap_or_else(|why| panic!("{why}"));
            assert!(!scenario.about.is_empty(), "{name}");
            for seed in [0, 1, u64::MAX] {
                scenario.options(seed).check().unwrap_or_else(|why| panic!("{name}: {why:?}"));
            }
        }
    }

    #[test]
    fn what_a_file_says_stands_whatever_the_seed_draws() {
        let text = "base = \"swarm\"\n[load]\nmessages = 7\n";
        let scenario = parse("x", "x.toml", text).unwrap();
        for seed in 0..20 {
            assert_eq!(scenario.options(seed).load.messages, 7);
            assert_eq!(scenario.options(seed).load.clients, swarm::swarm(seed).load.clients);
        }
    }

    #[test]
    fn a_file_that_is_wrong_is_told_with_its_line() {
        let table = [
            ("messages = 3\n", "x.toml:1: unknown field `messages`"),
            ("\n[load]\nmesages = 3\n", "x.toml:3: unknown field `mesages`"),
            ("[load]\nmessages = \"many\"\n", "x.toml:2: invalid type"),
            ("safety = \"an hour\"\n", "x.toml:1: "),
            ("\n[[fault]]\nwhat = \"printer.jam\"\n", "x.toml:3: there is no port \"printer\""),
            (
                "[[fault]]\nwhat = \"disk.jam\"\n",
                "x.toml:2: \"disk.jam\" is no fault; those of its port are disk.stall",
            ),
            (
                "[[fault]]\nwhat = \"disk.stall\"\nat = \"2h\"\n",
                "x.toml:3: fault.0.at: the fault begins after",
            ),
            ("[load]\nclients = 0\n", "x.toml:2: load.clients: messages need a client"),
            (
                "[[destination]]\ndomain = \"a\"\n[[destination]]\ndomain = \"a\"\n",
                "x.toml:2: destination.0.domain: a is there twice",
            ),
            (
                "[[destination]]\ndomain = \"a\"\nweight = 0\n",
                "x.toml:1: destination: no destination gets any mail",
            ),
            ("[policy.queue]\nmax_agee = \"1h\"\n", "x.toml:1: policy: "),
            (
                "[[order]]\nwhat = \"bounce\"\nat = \"1m\"\nfor = \"1m\"\ndomain = \"z\"\n",
                "x.toml:5: order.0.domain: there is no destination z",
            ),
            (
                "[[fault]]\nwhat = \"peer.hang\"\ntarget = \"rctp\"\n",
                "x.toml:3: fault.0.target: peer.hang can't be aimed at \"rctp\"; its targets are greet, ehlo,",
            ),
            (
                "[[fault]]\nwhat = \"log.stall\"\ntarget = \"a\"\n",
                "x.toml:3: fault.0.target: log.stall has no target",
            ),
            (
                "[[expect]]\nwhat = \"delay-growth\"\nper_cent_max = 3\ndomain = \"z\"\n",
                "x.toml:4: expect.0.domain: there is no destination z",
            ),
            (
                "[[expect]]\nwhat = \"records\"\nkind = \"Bonce\"\nmin = 3\n",
                "x.toml:3: expect.0.kind: there is no record \"Bonce\"; there are ",
            ),
            (
                "[[proxy]]\nsource = 2\nprotocol = \"socks5\"\n",
                "x.toml:2: proxy.0.source: there are 1 sources",
            ),
            (
                "[[proxy]]\nsource = 1\nprotocol = \"socks4\"\n",
                "x.toml:3: unknown variant `socks4`",
            ),
            (
                "[[proxy]]\nsource = 1\nprotocol = \"haproxy\"\nhosts = 0\n",
                "x.toml:4: proxy.0.hosts: a proxy has 1 to 100 hosts",
            ),
            (
                "[[expect]]\nwhat = \"carried\"\nsource = 2\nfrom = \"1m\"\nuntil = \"2m\"\nmin = 1\n",
                "x.toml:3: expect.0.source: there are 1 sources",
            ),
            (
                "[[expect]]\nwhat = \"delivered\"\nfrom = \"1m\"\nuntil = \"1m\"\nwithin = \"1s\"\n",
                "x.toml:4: expect.0.until: it ends before it begins",
            ),
            (
                "[[expect]]\nwhat = \"delivered\"\nfrom = \"1m\"\nuntil = \"2m\"\n",
                "x.toml:1: expect.0.within: any time would do; give within or by",
            ),
        ];
        for (text, expected) in table {
            let why = parse("x", "x.toml", text).expect_err(text);
            assert!(why.starts_with(expected), "{text:?}: {why}");
        }
        assert!(
            find("nonsense")
                .unwrap_err()
                .contains("there is no scenario \"nonsense\"; there are swarm,")
        );
        assert!(find("/nowhere.toml").unwrap_err().starts_with("/nowhere.toml: "));
    }
}

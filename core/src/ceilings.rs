//! Throughput ceilings: what limits an egress path or a scheduled queue allows at most, and which option says so (seed.md 6). Invariant: pure
//! arithmetic over configuration; each ceiling names the option it comes from, and the first of equals wins. Not told: a limit that many
//! paths share counts in full for each, and bursts and round trips are left out.
use crate::config::{EgressPath, QueueConfig, ThrottleSpec};
use alloc::format;
use alloc::string::{String, ToString};
use core::cmp::Ordering;
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EffectiveConstraints {
    pub max_concurrent_dispatchers: Ceiling,
    pub max_message_rate: Option<Ceiling>,
    /// The path's own `max_message_rate`, where it isn't what holds.
    pub max_message_rate_declared: Option<String>,
    pub max_connection_rate: Option<Ceiling>,
    pub max_source_selection_rate: Option<Ceiling>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Connections, or events a second. Infinity is `null` in JSON.
    #[serde(deserialize_with = "or_infinity")]
    pub value: f64,
    pub source: Source,
    pub display: String,
}

/// Which option a ceiling comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// The option of that axis itself.
    Primary,
    /// An entry of its `additional_…` table.
    Additional {
        name: String,
    },
    /// `max_deliveries_per_connection` messages over each of `max_connection_rate` connections.
    ReconnectCycling,
    Other {
        name: String,
    },
}

fn or_infinity<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
}

impl Ceiling {
    fn rate(spec: &ThrottleSpec, source: Source) -> Ceiling {
        let value = spec.limit as f64 / spec.period.as_secs_f64();
        Ceiling { value, source, display: spec.to_string() }
    }

    /// The lower one; the first of equals.
    fn lower(self, other: Ceiling) -> Ceiling {
        if other.value.total_cmp(&self.value) == Ordering::Less { other } else { self }
    }
}

impl EffectiveConstraints {
    /// Of an egress path alone.
    pub fn of_path(path: &EgressPath) -> EffectiveConstraints {
        let max_message_rate = message_rate(path);
        let declared = path.max_message_rate.as_ref().filter(|_| {
            max_message_rate.as_ref().is_some_and(|ceiling| ceiling.source != Source::Primary)
        });
        EffectiveConstraints {
            max_concurrent_dispatchers: dispatchers(path),
            max_message_rate_declared: declared.map(ToString::to_string),
            max_message_rate,
            max_connection_rate: path
                .max_connection_rate
                .as_ref()
                .map(|rate| Ceiling::rate(rate, Source::Primary)),
            max_source_selection_rate: lowest(
                path.source_selection_rate.as_ref(),
                path.additional_source_selection_rates.iter(),
            ),
        }
    }

    /// Of a scheduled queue alone.
    pub fn of_queue(queue: &QueueConfig) -> EffectiveConstraints {
        let other = |name: &str| Source::Other { name: name.into() };
        let rate = queue.max_message_rate.as_ref();
        EffectiveConstraints {
            max_concurrent_dispatchers: Ceiling {
                value: f64::INFINITY,
                source: other("queue config"),
                display: "∞".into(),
            },
            max_message_rate: rate
                .map(|rate| Ceiling::rate(rate, other("scheduled queue max_message_rate"))),
            max_message_rate_declared: None,
            max_connection_rate: None,
            max_source_selection_rate: None,
        }
    }

    /// Both together: on each axis what is lower.
    pub fn merge(self, extra: EffectiveConstraints) -> EffectiveConstraints {
        let is_primary = |ceiling: &Option<Ceiling>| {
            ceiling.as_ref().is_some_and(|ceiling| ceiling.source == Source::Primary)
        };
        let declared = match &self.max_message_rate {
            Some(rate) if rate.source == Source::Primary => Some(rate.display.clone()),
            _ => self.max_message_rate_declared.clone(),
        };
        let max_message_rate = lower(self.max_message_rate, extra.max_message_rate);
        EffectiveConstraints {
            max_concurrent_dispatchers: self
                .max_concurrent_dispatchers
                .lower(extra.max_concurrent_dispatchers),
            max_message_rate_declared: declared.filter(|_| !is_primary(&max_message_rate)),
            max_message_rate,
            max_connection_rate: lower(self.max_connection_rate, extra.max_connection_rate),
            max_source_selection_rate: lower(
                self.max_source_selection_rate,
                extra.max_source_selection_rate,
            ),
        }
    }
}

fn lower(ours: Option<Ceiling>, theirs: Option<Ceiling>) -> Option<Ceiling> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => Some(ours.lower(theirs)),
        (ours, theirs) => ours.or(theirs),
    }
}

fn dispatchers(path: &EgressPath) -> Ceiling {
    let ceiling =
        |limit: u64, source| Ceiling { value: limit as f64, source, display: limit.to_string() };
    let own = ceiling(path.connection_limit.limit, Source::Primary);
    path.additional_connection_limits.iter().fold(own, |lowest, (name, spec)| {
        lowest.lower(ceiling(spec.limit, Source::Additional { name: name.as_ref().into() }))
    })
}

fn lowest<'a>(
    own: Option<&ThrottleSpec>,
    additional: impl Iterator<Item = (&'a alloc::boxed::Box<str>, &'a ThrottleSpec)>,
) -> Option<Ceiling> {
    let own = own.map(|rate| Ceiling::rate(rate, Source::Primary));
    additional.fold(own, |lowest, (name, rate)| {
        let source = Source::Additional { name: name.as_ref().into() };
        lower(lowest, Some(Ceiling::rate(rate, source)))
    })
}

fn message_rate(path: &EgressPath) -> Option<Ceiling> {
    let named =
        lowest(path.max_message_rate.as_ref(), path.additional_message_rate_throttles.iter());
    let cycling = path
        .max_connection_rate
        .as_ref()
        .map(|rate| reconnect_cycling(path.max_deliveries_per_connection, rate));
    lower(named, cycling)
}

fn reconnect_cycling(deliveries: u64, connections: &ThrottleSpec) -> Ceiling {
    let limit = connections.limit.saturating_mul(deliveries);
    let product = ThrottleSpec { limit, max_burst: None, local: false, ..*connections };
    let display = format!("{deliveries} × {connections} = {product}");
    Ceiling { display, ..Ceiling::rate(&product, Source::ReconnectCycling) }
}

// ---- For people -----------------------------------------------------------------------------------------------

/// Where values begin.
const COLUMN: usize = 24;

/// As all tools print it.
impl fmt::Display for EffectiveConstraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ceilings:\n")?;
        let axis = |f: &mut fmt::Formatter<'_>, label: &str, option: &str, ceiling: &Ceiling| {
            writeln!(f, "  {label:<COLUMN$}{}", ceiling.display)?;
            writeln!(f, "    source: {}", ceiling.source.named(option))
        };
        let dispatchers = &self.max_concurrent_dispatchers;
        axis(f, "concurrent dispatchers:", "connection_limit", dispatchers)?;
        if let Some(rate) = &self.max_message_rate {
            axis(f, "message rate:", "max_message_rate", rate)?;
            if let Some(declared) = &self.max_message_rate_declared {
                writeln!(
                    f,
                    "    declared: max_message_rate = {declared} ← effectively unreachable"
                )?;
            }
        }
        for (label, option, ceiling) in [
            ("connection rate:", "max_connection_rate", &self.max_connection_rate),
            ("source selection rate:", "source_selection_rate", &self.max_source_selection_rate),
        ] {
            if let Some(ceiling) = ceiling {
                axis(f, label, option, ceiling)?;
            }
        }
        Ok(())
    }
}

impl Source {
    /// `option`: what the axis is set by.
    fn named<'a>(&'a self, option: &'a str) -> &'a str {
        match self {
            Source::Primary => option,
            Source::Additional { name } | Source::Other { name } => name,
            Source::ReconnectCycling => "max_deliveries_per_connection × max_connection_rate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LimitSpec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn rate(text: &str) -> ThrottleSpec {
        text.parse().unwrap()
    }

    fn limit(limit: u64) -> LimitSpec {
        LimitSpec { limit, force_local: false }
    }

    fn path(change: impl FnOnce(&mut EgressPath)) -> EgressPath {
        let mut path = EgressPath::default();
        change(&mut path);
        path
    }

    fn queue(rate: Option<&str>) -> QueueConfig {
        let max_message_rate = rate.map(|rate| rate.parse().unwrap());
        QueueConfig { max_message_rate, ..QueueConfig::default() }
    }

    fn additional(name: &str) -> Source {
        Source::Additional { name: name.into() }
    }

    /// seed.md 6.5: display, value and source of dispatchers and messages, what was declared, and the rate of connections.
    #[test]
    fn the_worked_examples() {
        type Row<'a> = (
            EgressPath,
            (&'a str, Source),
            Option<(&'a str, f64, Source)>,
            Option<&'a str>,
            Option<&'a str>,
        );
        let shared = |name: &'static str, text: &'static str| {
            move |path: &mut EgressPath| {
                path.additional_message_rate_throttles.insert(name.into(), rate(text));
            }
        };
        let stock = || ("32", Source::Primary);
        let rows: Vec<Row<'_>> = alloc::vec![
            (path(|_| ()), stock(), None, None, None),
            (
                path(|path| _ =
                    path.additional_connection_limits.insert("provider_shared".into(), limit(10))),
                ("10", additional("provider_shared")),
                None,
                None,
                None,
            ),
            (
                path(|path| {
                    path.connection_limit = limit(4);
                    path.additional_connection_limits.insert("large_pool".into(), limit(100));
                }),
                ("4", Source::Primary),
                None,
                None,
                None,
            ),
            (
                path(|path| path.max_message_rate = Some(rate("1000/s"))),
                stock(),
                Some(("1000/s", 1000.0, Source::Primary)),
                None,
                None,
            ),
            (
                path(|path| {
                    path.max_message_rate = Some(rate("1000/s"));
                    shared("provider_cap", "250/s")(path);
                }),
                stock(),
                Some(("250/s", 250.0, additional("provider_cap"))),
                Some("1000/s"),
                None,
            ),
            (
                path(|path| {
                    shared("a", "10/hr")(path);
                    shared("b", "8/min")(path);
                    shared("c", "5/s")(path);
                }),
                stock(),
                Some(("10/h", 10.0 / 3600.0, additional("a"))),
                None,
                None,
            ),
            (
                path(|path| path.max_message_rate = Some(rate("10000/hr"))),
                stock(),
                Some(("10000/h", 10_000.0 / 3600.0, Source::Primary)),
                None,
                None,
            ),
            (
                path(|path| {
                    path.max_message_rate = Some(rate("1000/s"));
                    path.max_deliveries_per_connection = 10;
                    path.max_connection_rate = Some(rate("10/s"));
                }),
                stock(),
                Some(("10 × 10/s = 100/s", 100.0, Source::ReconnectCycling)),
                Some("1000/s"),
                Some("10/s"),
            ),
            (
                path(|path| {
                    path.max_message_rate = Some(rate("1000/s"));
                    path.max_deliveries_per_connection = 1024;
                    path.max_connection_rate = Some(rate("10/s"));
                }),
                stock(),
                Some(("1000/s", 1000.0, Source::Primary)),
                None,
                Some("10/s"),
            ),
            (
                path(|path| {
                    path.max_deliveries_per_connection = 5;
                    path.max_connection_rate = Some(rate("2/s"));
                }),
                stock(),
                Some(("5 × 2/s = 10/s", 10.0, Source::ReconnectCycling)),
                None,
                Some("2/s"),
            ),
            (
                path(|path| {
                    path.max_deliveries_per_connection = 1024;
                    path.max_connection_rate = Some(rate("100/min"));
                }),
                stock(),
                Some(("1024 × 100/m = 102400/m", 102_400.0 / 60.0, Source::ReconnectCycling)),
                None,
                Some("100/m"),
            ),
        ];
        for (path, dispatchers, messages, declared, connections) in rows {
            let found = EffectiveConstraints::of_path(&path);
            let Ceiling { display, source, .. } = &found.max_concurrent_dispatchers;
            assert_eq!((display.as_str(), source), (dispatchers.0, &dispatchers.1));
            let rate = found.max_message_rate.as_ref();
            let rate = rate.map(|rate| (rate.display.as_str(), rate.value, rate.source.clone()));
            assert_eq!(rate, messages);
            assert_eq!(found.max_message_rate_declared.as_deref(), declared);
            let rate = found.max_connection_rate.as_ref().map(|rate| rate.display.as_str());
            assert_eq!(rate, connections);
        }
    }

    #[test]
    fn a_queue_and_a_path_together_allow_what_is_lower() {
        let of = |on_path: &str, of_queue: &str| {
            let path = path(|path| path.max_message_rate = Some(rate(on_path)));
            let queue = EffectiveConstraints::of_queue(&queue(Some(of_queue)));
            let merged = EffectiveConstraints::of_path(&path).merge(queue);
            let rate = merged.max_message_rate.unwrap();
            (
                rate.display,
                rate.source,
                merged.max_message_rate_declared,
                merged.max_concurrent_dispatchers.display,
            )
        };
        let of_queue = Source::Other { name: "scheduled queue max_message_rate".into() };
        let declared = Some("1000/s".into());
        assert_eq!(of("1000/s", "100/s"), ("100/s".into(), of_queue, declared, "32".into()));
        assert_eq!(of("100/s", "1000/s"), ("100/s".into(), Source::Primary, None, "32".into()));
    }

    #[test]
    fn people_read_it_so() {
        let path = path(|path| {
            path.max_message_rate = Some(rate("500/s"));
            path.max_deliveries_per_connection = 20;
            path.max_connection_rate = Some(rate("3/s"));
            path.source_selection_rate = Some(rate("7/s"));
        });
        let expected = "ceilings:
  concurrent dispatchers: 32
    source: connection_limit
  message rate:           20 × 3/s = 60/s
    source: max_deliveries_per_connection × max_connection_rate
    declared: max_message_rate = 500/s ← effectively unreachable
  connection rate:        3/s
    source: max_connection_rate
  source selection rate:  7/s
    source: source_selection_rate
";
        assert_eq!(EffectiveConstraints::of_path(&path).to_string(), expected);
        let queue = EffectiveConstraints::of_queue(&queue(None)).to_string();
        assert_eq!(queue, "ceilings:\n  concurrent dispatchers: ∞\n    source: queue config\n");
    }

    #[test]
    fn json_has_null_for_infinity_and_reads_it_again() {
        let constraints = EffectiveConstraints::of_queue(&queue(Some("5/m")));
        let json = serde_json::to_value(&constraints).unwrap();
        let dispatchers = serde_json::json!({
            "value": null, "source": {"kind": "other", "name": "queue config"}, "display": "∞",
        });
        assert_eq!(json["max_concurrent_dispatchers"], dispatchers);
        assert_eq!(json["max_connection_rate"], serde_json::Value::Null);
        assert_eq!(serde_json::from_value::<EffectiveConstraints>(json).unwrap(), constraints);
        let source = serde_json::to_value(additional("x")).unwrap();
        assert_eq!(source, serde_json::json!({"kind": "additional", "name": "x"}));
    }

    proptest! {
        /// Whatever is configured, nothing that is configured allows less than what is told.
        #[test]
        fn a_ceiling_is_never_above_any_of_its_terms(
            own in prop::option::of(1..10_000u64), others in prop::collection::vec(1..10_000u64, 0..5),
            deliveries in 1..2_000u64, connections in prop::option::of(1..100u64),
        ) {
            let a_minute = |limit: u64| ThrottleSpec {
                limit, period: crate::time::Duration::from_secs(60), max_burst: None, local: false,
            };
            let path = path(|path| {
                path.max_message_rate = own.map(a_minute);
                for (n, limit) in others.iter().enumerate() {
                    path.additional_message_rate_throttles.insert(n.to_string().into(), a_minute(*limit));
                }
                path.max_deliveries_per_connection = deliveries;
                path.max_connection_rate = connections.map(a_minute);
            });
            let terms = own.into_iter().chain(others).chain(connections.map(|rate| rate * deliveries));
            let lowest = terms.min().map(|limit| limit as f64 / 60.0);
            let told = EffectiveConstraints::of_path(&path).max_message_rate.map(|rate| rate.value);
            prop_assert_eq!(told, lowest);
        }
    }
}

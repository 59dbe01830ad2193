//! `kumo.make_throttle`: rates that policy keeps, of one process. Invariant: throttles of one name and one rate are one, in all
//! states; never more passes than the rate allows. Not shared with other nodes: there is no redis here.
use super::error::fault;
use super::message::MessageObject;
use super::nearest;
use super::program::{Program, lock};
use kumo_core::config::ThrottleSpec;
use kumo_core::limits;
use kumo_core::port::Host;
use kumo_core::throttle::Throttle;
use kumo_core::time::{Duration, Mono, Now};
use kumo_io_real::host::RealHost;
use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, UserDataRef};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// How far ahead turns are given. Who comes later asks again before that, since rates change and turns stay unused.
const TURN_AHEAD: Duration = Duration::from_secs(300);

pub struct Throttles {
    host: RealHost,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl std::fmt::Debug for Throttles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttles").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    throttle: Throttle,
    /// Turns up to then were given away.
    turns_until: Mono,
    /// Those who were told to ask again.
    strays: u32,
}

/// What became of one who asked.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outcome {
    throttled: bool,
    remaining: u64,
    reset_after: Duration,
    retry_after: Option<Duration>,
}

struct ThrottleObject {
    /// Name and rate.
    key: String,
    spec: ThrottleSpec,
    program: Arc<Program>,
}

const METHODS: [&str; 3] = ["delay_message_if_throttled", "sleep_if_throttled", "throttle"];

pub fn register(lua: &Lua, kumo: &Table, program: &Arc<Program>) -> mlua::Result<()> {
    let program = program.clone();
    let make = lua.create_function(move |lua, (name, spec): (String, String)| {
        let spec: ThrottleSpec = spec.parse().map_err(|error| {
            fault(
                lua,
                format!("kumo.make_throttle: {spec:?} isn't a rate such as '100/h': {error}"),
            )
        })?;
        Ok(ThrottleObject { key: format!("{name}:{spec}"), spec, program: program.clone() })
    })?;
    kumo.raw_set("make_throttle", make)
}

impl Throttles {
    pub fn new() -> Throttles {
        Throttles { host: RealHost::new(), kept: Mutex::default() }
    }

    fn now(&self) -> Now {
        self.host.now()
    }

    /// `None` where there are too many already.
    fn with<R>(&self, key: &str, now: Mono, use_it: impl FnOnce(&mut Kept) -> R) -> Option<R> {
        let mut kept = lock(&self.kept);
        if !kept.contains_key(key) && kept.len() >= limits::POLICY_THROTTLES {
            kept.retain(|_, one| !one.throttle.is_idle(now));
            if kept.len() >= limits::POLICY_THROTTLES {
                return None;
            }
        }
        Some(use_it(kept.entry(key.into()).or_default()))
    }
}

impl Kept {
    fn ask(&mut self, spec: &ThrottleSpec, now: Mono) -> Outcome {
        let earliest = self.throttle.earliest(spec, now);
        let throttled = earliest > now;
        if !throttled {
            self.throttle.take(spec, now);
        }
        Outcome {
            throttled,
            remaining: self.throttle.remaining(spec, now),
            reset_after: self.throttle.full_after(now),
            retry_after: throttled.then(|| earliest.since(now)),
        }
    }

    /// How long to wait for one's own turn; `None` if it is now. Else all who wait would come back for the next one.
    fn turn(&mut self, spec: &ThrottleSpec, now: Mono) -> Option<Duration> {
        let wait = self.ask(spec, now).retry_after?;
        let mine = (now + wait).max(self.turns_until);
        if mine.since(now) > TURN_AHEAD {
            return Some(self.ask_again(spec));
        }
        self.turns_until = mine + spec.interval();
        Some(mine.since(now))
    }

    /// Spread over the later half of what lies ahead, so that they don't come back together.
    fn ask_again(&mut self, spec: &ThrottleSpec) -> Duration {
        self.strays = self.strays.wrapping_add(1);
        let half = TURN_AHEAD.as_nanos() / 2;
        let spread = spec.interval().as_nanos() * u128::from(self.strays) % half;
        Duration::from_nanos(u64::try_from(half + spread).unwrap_or(u64::MAX))
    }
}

impl ThrottleObject {
    fn with<R>(
        &self,
        lua: &Lua,
        use_it: impl FnOnce(&mut Kept, &ThrottleSpec, Mono) -> R,
    ) -> mlua::Result<R> {
        let throttles = &self.program.throttles;
        let now = throttles.now().mono;
        throttles.with(&self.key, now, |kept| use_it(kept, &self.spec, now)).ok_or_else(|| {
            let limit = limits::POLICY_THROTTLES;
            fault(lua, format!("kumo.make_throttle: more than {limit} throttles are in use"))
        })
    }
}

impl UserData for ThrottleObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("throttle", |lua, this, ()| {
            let outcome = this.with(lua, Kept::ask)?;
            let table = lua.create_table()?;
            table.raw_set("throttled", outcome.throttled)?;
            table.raw_set("limit", this.spec.limit)?;
            table.raw_set("remaining", outcome.remaining)?;
            table.raw_set("reset_after", outcome.reset_after.as_secs_f64())?;
            table.raw_set(
                "retry_after",
                outcome.retry_after.map(|time| time.as_secs_f64().ceil()),
            )?;
            Ok(table)
        });
        methods.add_async_method("sleep_if_throttled", sleep_if_throttled);
        methods.add_method(
            "delay_message_if_throttled",
            |lua, this, message: UserDataRef<MessageObject>| {
                let wait = this.with(lua, Kept::turn)?;
                if let Some(wait) = wait {
                    message.delay_until(lua, this.program.throttles.now().wall + wait)?;
                }
                Ok(wait.is_some())
            },
        );
        methods.add_meta_method(MetaMethod::Index, |lua, _, key: String| -> mlua::Result<()> {
            let hint = nearest::hint(&key, METHODS.into_iter());
            Err(fault(lua, format!("throttles have no method {key:?}{hint}")))
        });
    }
}

/// Whoever asked policy has the deadline.
async fn sleep_if_throttled(
    lua: Lua,
    this: UserDataRef<ThrottleObject>,
    (): (),
) -> mlua::Result<bool> {
    let mut slept = false;
    while let Some(wait) = this.with(&lua, Kept::turn)? {
        slept = true;
        tokio::time::sleep(wait).await;
    }
    Ok(slept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_have_turns_of_their_own() {
        let spec: ThrottleSpec = "10/s,max_burst=2".parse().unwrap();
        let (mut kept, start) = (Kept::default(), Mono(1_000_000_000));
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let mut turn = |now| kept.turn(&spec, now).map(|wait| wait.as_millis());
        assert_eq!([turn(start), turn(start)], [None, None]);
        assert_eq!([turn(start), turn(start), turn(start)], [Some(100), Some(200), Some(300)]);
        assert_eq!([turn(at(1)), turn(at(2)), turn(at(3))], [None, None, None]);
        assert_eq!(turn(at(3)), Some(100));
    }

    #[test]
    fn who_would_wait_long_asks_again_and_takes_no_turn_meanwhile() {
        let spec: ThrottleSpec = "1/m,max_burst=1".parse().unwrap();
        let (mut kept, start) = (Kept::default(), Mono(1_000_000_000));
        let mut turn = |now| kept.turn(&spec, now).map(|wait| wait.as_secs());
        assert_eq!(turn(start), None);
        let waits: Vec<_> = (0..8).map(|_| turn(start).unwrap()).collect();
        assert_eq!(waits, [60, 120, 180, 240, 300, 210, 270, 180]);
        let later = start + Duration::from_secs(180);
        assert_eq!(turn(later), None, "nobody came for the turns before");
        assert_eq!(turn(later), Some(180), "behind those who have turns");
    }

    #[test]
    fn an_outcome_says_what_is_left() {
        let spec: ThrottleSpec = "2/s".parse().unwrap();
        let (mut kept, start) = (Kept::default(), Mono(1_000_000_000));
        let first = kept.ask(&spec, start);
        assert_eq!((first.throttled, first.remaining, first.retry_after), (false, 1, None));
        let second = kept.ask(&spec, start);
        assert_eq!((second.remaining, second.reset_after), (0, Duration::from_secs(1)));
        let third = kept.ask(&spec, start);
        assert_eq!((third.throttled, third.retry_after), (true, Some(Duration::from_millis(500))));
    }
}

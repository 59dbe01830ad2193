//! `kumo.shaping`: shaping data as policy sees it. Invariant: data that is shared between states is loaded by one of them at a
//! time, and what replaces it has no errors. What holds for a path is [`kumo_core::shaping`]'s business.
use super::convert::{Floats, to_json, to_lua};
use super::error::fault;
use super::nearest;
use super::program::{Program, lock};
use crate::shaping::load::{Remembered, load, load_again};
use kumo_core::config::read;
use kumo_core::limits;
use kumo_core::shaping::rule::Verdict;
use kumo_core::shaping::{Destination, LoadOptions, Met, Shaping, response_line};
use kumo_core::time::Duration;
use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, UserDataRef, Value as Lv};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Data that several states use, by what it was loaded from.
#[derive(Debug, Default)]
pub struct SharedShaping(Mutex<BTreeMap<String, Arc<Slot>>>);

#[derive(Debug, Default)]
struct Slot {
    /// Held by who loads it for the first time.
    first: tokio::sync::Mutex<()>,
    kept: Mutex<Option<Kept>>,
    remembered: Arc<Remembered>,
}

#[derive(Debug)]
struct Kept {
    shaping: Arc<Shaping>,
    loaded: Instant,
    /// The load that may replace it; who comes next looks whether it is done.
    next: Option<JoinHandle<Shaping>>,
}

/// What `kumo.shaping.load` returns.
struct ShapingObject {
    shaping: Arc<Shaping>,
    program: Arc<Program>,
}

const METHODS: [&str; 7] = [
    "get_egress_path_config",
    "get_errors",
    "get_notes",
    "get_referenced_sources",
    "get_warnings",
    "hash",
    "match_rules",
];

pub fn register(lua: &Lua, kumo: &Table, program: &Arc<Program>) -> mlua::Result<()> {
    let shaping = lua.create_table()?;
    let mine = program.clone();
    let load_now = lua.create_async_function(move |lua: Lua, (files, options): (Lv, Lv)| {
        let program = mine.clone();
        async move {
            let (files, options, _) = arguments(&lua, "load", &files, &options)?;
            let shaping = Arc::new(load(&files, &options, &program.mx_lookup).await);
            Ok(ShapingObject { shaping, program })
        }
    })?;
    shaping.raw_set("load", load_now)?;
    let mine = program.clone();
    let shared =
        lua.create_async_function(move |lua: Lua, (files, options, ttl): (Lv, Lv, Lv)| {
            let program = mine.clone();
            async move {
                let (files, options, key) = arguments(&lua, "load_shared", &files, &options)?;
                let ttl: Duration = read::value(to_json(&lua, &ttl, Floats::AsIs)?)
                    .map_err(|why| fault(&lua, format!("kumo.shaping.load_shared: ttl: {why}")))?;
                let shaping = program.shaping.get(&program, files, options, key, ttl).await;
                Ok(ShapingObject { shaping, program })
            }
        })?;
    shaping.raw_set("load_shared", shared)?;
    super::module::forbid_unknown_names(lua, &shaping, "kumo.shaping")?;
    kumo.raw_set("shaping", shaping)
}

/// The files, how to load them, and what stands for both.
fn arguments(
    lua: &Lua,
    name: &str,
    files: &Lv,
    options: &Lv,
) -> mlua::Result<(Vec<String>, LoadOptions, String)> {
    let wrong = |why: String| fault(lua, format!("kumo.shaping.{name}: {why}"));
    let (files, options) =
        (to_json(lua, files, Floats::Whole)?, to_json(lua, options, Floats::Whole)?);
    let key = json!([files, options]).to_string();
    let files = read::value(files).map_err(|why| wrong(format!("files: {why}")))?;
    let options = match options {
        Value::Null => Map::new(),
        Value::Object(map) => map,
        _ => return Err(wrong("options: expected a table with keys".into())),
    };
    Ok((files, LoadOptions::parse(options).map_err(wrong)?, key))
}

impl SharedShaping {
    /// At most `ttl` old, and the time that a load takes. Waits for the first load alone.
    async fn get(
        &self,
        program: &Arc<Program>,
        files: Vec<String>,
        options: LoadOptions,
        key: String,
        ttl: Duration,
    ) -> Arc<Shaping> {
        let slot = self.slot(key);
        let first = slot.first.lock().await;
        slot.take_in(program).await;
        if let Some(kept) = lock(&slot.kept).as_mut() {
            kept.refresh(program, &slot.remembered, files, options, ttl);
            return kept.shaping.clone();
        }
        let loaded = load_again(&files, &options, &program.mx_lookup, &slot.remembered).await;
        let shaping = Arc::new(loaded);
        // What has errors is policy's to refuse; the next state tries anew.
        if shaping.errors().is_empty() {
            let loaded = Instant::now();
            *lock(&slot.kept) = Some(Kept { shaping: shaping.clone(), loaded, next: None });
        }
        drop(first);
        shaping
    }
}

impl SharedShaping {
    fn slot(&self, key: String) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        // Policy has one or two; who makes up ever new ones loads them ever anew.
        if slots.len() >= limits::SHAPING_FILES && !slots.contains_key(&key) {
            slots.clear();
        }
        slots.entry(key).or_default().clone()
    }
}

impl Slot {
    /// Puts what was loaded meanwhile in place of what is there.
    async fn take_in(&self, program: &Program) {
        let done = match lock(&self.kept).as_mut() {
            Some(kept) => kept.next.take_if(|next| next.is_finished()),
            None => None,
        };
        let Some(done) = done else { return };
        let shaping = match done.await {
            Ok(shaping) => shaping,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        for error in shaping.errors() {
            program.warn(format!("{error}; the shaping loaded before it holds on"));
        }
        if let (Some(kept), true) = (lock(&self.kept).as_mut(), shaping.errors().is_empty()) {
            kept.shaping = Arc::new(shaping);
        }
    }
}

impl Kept {
    /// Has it loaded anew where it is old.
    fn refresh(
        &mut self,
        program: &Arc<Program>,
        remembered: &Arc<Remembered>,
        files: Vec<String>,
        options: LoadOptions,
        ttl: Duration,
    ) {
        if self.next.is_some() || self.loaded.elapsed() < ttl {
            return;
        }
        self.loaded = Instant::now();
        let (lookup, remembered) = (program.mx_lookup.clone(), remembered.clone());
        self.next =
            Some(tokio::spawn(
                async move { load_again(&files, &options, &lookup, &remembered).await },
            ));
    }
}

impl UserData for ShapingObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method("get_egress_path_config", path_config);
        methods.add_async_method("match_rules", match_rules);
        methods.add_method("get_errors", |_, this, ()| Ok(this.shaping.errors().to_vec()));
        methods.add_method("get_warnings", |_, this, ()| Ok(this.shaping.warnings().to_vec()));
        methods.add_method("get_notes", |_, this, ()| Ok(this.shaping.notes().to_vec()));
        methods.add_method("hash", |_, this, ()| Ok(this.shaping.hash()));
        methods.add_method("get_referenced_sources", |lua, this, ()| {
            to_lua(lua, &json!(this.shaping.referenced_sources()))
        });
        methods.add_meta_method(MetaMethod::Index, |lua, _, key: String| -> mlua::Result<()> {
            let hint = nearest::hint(&key, METHODS.into_iter());
            Err(fault(lua, format!("shaping data has no method {key:?}{hint}")))
        });
    }
}

impl ShapingObject {
    async fn hosts(&self, domain: &str, site: &str) -> Vec<String> {
        match self.shaping.needs_hosts() {
            true => self.program.mx_lookup.hosts(domain, site).await,
            false => Vec::new(),
        }
    }
}

/// As `kumo.make_egress_path` takes it.
async fn path_config(
    lua: Lua,
    this: UserDataRef<ShapingObject>,
    (domain, source, site): (String, String, String),
) -> mlua::Result<Lv> {
    let domain = domain.to_ascii_lowercase();
    let hosts = this.hosts(&domain, &site).await;
    let to = Destination { domain: &domain, site: &site, hosts: &hosts };
    to_lua(&lua, &Value::Object(this.shaping.path_options(to, &source)))
}

/// The rules that a log record's response meets.
async fn match_rules(lua: Lua, this: UserDataRef<ShapingObject>, record: Lv) -> mlua::Result<Lv> {
    let record = to_json(&lua, &record, Floats::Whole)?;
    let Some(told) = Told::by(&record) else {
        let text = "match_rules: a log record has a recipient, a site and a response";
        return Err(fault(&lua, text));
    };
    let hosts = this.hosts(&told.domain, told.site).await;
    let to = Destination { domain: &told.domain, site: told.site, hosts: &hosts };
    let met = this.shaping.rules_met(to, told.content, &told.response);
    let mut rules = Vec::new();
    for met in met {
        match met.verdict {
            Verdict::Matches => rules.push(described(&met)),
            Verdict::GivenUp => this.program.warn(format!(
                "a rule of {} ({}) was given up: its expression goes back and forth too often",
                met.section.scope, met.section.place
            )),
            Verdict::Differs => {}
        }
    }
    to_lua(&lua, &Value::Array(rules))
}

fn described(met: &Met) -> Value {
    let mut rule = json!(met.rule);
    rule["scope"] = met.section.scope.to_string().into();
    rule["rule_hash"] = Shaping::rule_hash(met).into();
    rule
}

/// What a record tells.
struct Told<'r> {
    domain: String,
    site: &'r str,
    content: &'r str,
    response: String,
}

impl Told<'_> {
    fn by(record: &Value) -> Option<Told<'_>> {
        let recipient = record["recipient"].as_str().or(record["recipient"][0].as_str());
        let domain = record["routing_domain"].as_str();
        let domain = domain.or_else(|| Some(recipient?.rsplit_once('@')?.1))?;
        let content = record["response"]["content"].as_str()?;
        let number = |value: &Value| value.as_u64();
        let enhanced = &record["response"]["enhanced_code"];
        let enhanced = number(&enhanced["class"])
            .zip(number(&enhanced["subject"]))
            .zip(number(&enhanced["detail"]));
        let enhanced = enhanced.map(|((class, subject), detail)| [class, subject, detail]);
        Some(Told {
            domain: domain.to_ascii_lowercase(),
            site: site_of(record["site"].as_str()?),
            content,
            response: response_line(number(&record["response"]["code"])?, enhanced, content),
        })
    }
}

/// Of a ready queue's name: `source->site@protocol`.
fn site_of(queue: &str) -> &str {
    let site = queue.split_once("->").map_or(queue, |(_, site)| site);
    site.rsplit_once('@').map_or(site, |(site, _)| site)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_domain_site_and_response() {
        let record = json!({
            "recipient": "a@Example.com", "site": "ip-1->(a|b).x@smtp_client",
            "response": {"code": 451, "content": "later",
                "enhanced_code": {"class": 4, "subject": 7, "detail": 1}},
        });
        let told = Told::by(&record).unwrap();
        assert_eq!((&*told.domain, told.site), ("example.com", "(a|b).x"));
        assert_eq!(told.response, "451 4.7.1 later");
        let mut routed = record.clone();
        routed["routing_domain"] = "r.example".into();
        assert_eq!(Told::by(&routed).unwrap().domain, "r.example");
        for key in ["recipient", "site", "response"] {
            let mut less = record.clone();
            less.as_object_mut().unwrap().remove(key);
            assert!(Told::by(&less).is_none(), "{key}");
        }
        assert_eq!(site_of("x.test"), "x.test");
    }
}

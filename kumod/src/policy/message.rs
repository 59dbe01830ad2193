//! Messages as Lua sees them: envelope, metadata, header, content, schedule.
//! Invariant: the envelope keeps at least one recipient; every line of the content ends with CRLF; content and
//! metadata stay below their limits. MIME, DKIM, ARC and the like aren't here.
use super::address::{EnvelopeAddress, mailbox, reverse_path};
use super::budget::{Budget, check_octets};
use super::convert::{show, to_lua};
use super::error::fault;
use super::loan::Borrowed;
use super::{encoded_word, instant, meta, nearest};
use crate::line_ends::with_crlf;
use bytes::Bytes;
use kumo_core::date::rfc3339;
use kumo_core::header::{self, Field, FieldNameError};
use kumo_core::message::{Message, Schedule};
use kumo_core::recipients::RecipientSet;
use kumo_core::time::Wall;
use kumo_core::{limits, queue_name};
use mlua::{Lua, LuaString, MetaMethod, Table, UserData, UserDataMethods, Value as Lv, Variadic};
use std::sync::Arc;

/// Whether a handler may replace the recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    Free,
    /// The engine counts them: the message is stored already.
    Fixed,
}

/// A message while policy has it.
#[derive(Debug)]
pub struct Draft {
    pub message: Message,
    pub recipients: Recipients,
    pub changed: bool,
    /// `set_due` or `set_scheduling` gave a time.
    pub due_was_set: bool,
}

impl Draft {
    pub fn new(message: Message, recipients: Recipients) -> Draft {
        Draft { message, recipients, changed: false, due_was_set: false }
    }

    /// For writing: counts as a change.
    fn edit(&mut self) -> &mut Message {
        self.changed = true;
        &mut self.message
    }

    fn remaining(&self) -> Vec<EnvelopeAddress> {
        let all = &self.message.envelope.recipients;
        let remaining = self.message.remaining.iter();
        remaining.filter_map(|at| all.get(at as usize)).map(EnvelopeAddress::of).collect()
    }
}

pub struct MessageObject {
    pub draft: Borrowed<Draft>,
    pub budget: Arc<Budget>,
}

impl MessageObject {
    fn with<R>(
        &self,
        lua: &Lua,
        use_it: impl FnOnce(&mut Draft) -> mlua::Result<R>,
    ) -> mlua::Result<R> {
        self.draft.with(lua, "message", use_it)
    }

    /// Charges for a look at every header field.
    fn charge_header(&self, lua: &Lua, draft: &Draft) -> mlua::Result<()> {
        self.budget.charge_reading(lua, header::header_end(&draft.message.body))
    }

    /// As if policy had said so, unless it gave a later time.
    pub fn delay_until(&self, lua: &Lua, due: Wall) -> mlua::Result<()> {
        self.with(lua, |draft| {
            let before = draft.message.schedule.due.filter(|_| draft.due_was_set);
            draft.edit().schedule.due = before.max(Some(due));
            draft.due_was_set = true;
            Ok(())
        })
    }

    fn set_body(&self, lua: &Lua, draft: &mut Draft, body: Bytes) -> mlua::Result<()> {
        self.budget.charge_copying(lua, body.len())?;
        check_octets(lua, "the message", body.len(), limits::RECORD_OCTETS)?;
        draft.edit().body = body;
        Ok(())
    }

    fn add_header(
        &self,
        lua: &Lua,
        (name, value, encode): (String, LuaString, Option<bool>),
        add: fn(&Bytes, &str, &str) -> Result<Bytes, FieldNameError>,
    ) -> mlua::Result<()> {
        let value = value.to_string_lossy();
        let value = match encode {
            Some(true) => encoded_word::encode(&name, &value),
            _ => value,
        };
        self.with(lua, |draft| {
            self.charge_header(lua, draft)?;
            let body = add(&draft.message.body, &name, &value);
            self.set_body(lua, draft, body.map_err(|error| fault(lua, error.to_string()))?)
        })
    }

    fn remove_headers(&self, lua: &Lua, unwanted: impl Fn(&Field<'_>) -> bool) -> mlua::Result<()> {
        self.with(lua, |draft| {
            self.charge_header(lua, draft)?;
            let body = header::remove_where(&draft.message.body, unwanted);
            match body.len() == draft.message.body.len() {
                true => Ok(()),
                false => self.set_body(lua, draft, body),
            }
        })
    }
}

type Header = (String, LuaString, Option<bool>);
const X_PREFIX: &str = "x-";

fn has_x_prefix(name: &str) -> bool {
    name.get(..X_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(X_PREFIX))
}

fn is_listed(names: &Option<Vec<String>>, name: &str) -> bool {
    match names {
        Some(names) => names.iter().any(|listed| listed.eq_ignore_ascii_case(name)),
        None => has_x_prefix(name),
    }
}

impl UserData for MessageObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_envelope_methods(methods);
        add_content_methods(methods);
        add_header_methods(methods);
        add_schedule_methods(methods);
        methods.add_meta_method(MetaMethod::ToString, |lua, this, ()| {
            this.with(lua, |draft| Ok(format!("message {}", draft.message.id)))
        });
        methods.add_meta_method(MetaMethod::Index, |lua, _, key: String| -> mlua::Result<()> {
            let hint = nearest::hint(&key, METHODS.into_iter());
            Err(fault(lua, format!("messages have no method {key:?} in this version{hint}")))
        });
    }
}

/// Every method, for error messages.
pub const METHODS: [&str; 29] = [
    "append_header",
    "get_all_headers",
    "get_all_named_header_values",
    "get_data",
    "get_due",
    "get_first_named_header_value",
    "get_meta",
    "id",
    "import_scheduling_header",
    "import_x_headers",
    "increment_num_attempts",
    "num_attempts",
    "prepend_header",
    "queue_name",
    "recipient",
    "recipient_list",
    "remove_all_named_headers",
    "remove_x_headers",
    "save",
    "sender",
    "set_data",
    "set_due",
    "set_force_sync",
    "set_meta",
    "set_recipient",
    "set_scheduling",
    "set_sender",
    "shrink",
    "shrink_data",
];

fn add_envelope_methods<M: UserDataMethods<MessageObject>>(methods: &mut M) {
    methods
        .add_method("id", |lua, this, ()| this.with(lua, |draft| Ok(draft.message.id.to_string())));
    methods.add_method("sender", |lua, this, ()| {
        this.with(lua, |draft| Ok(EnvelopeAddress(draft.message.envelope.sender.clone())))
    });
    methods.add_method("set_sender", |lua, this, sender: Lv| {
        let sender = reverse_path(lua, &sender)?;
        this.with(lua, |draft| {
            draft.edit().envelope.sender = sender;
            Ok(())
        })
    });
    methods.add_method("recipient", |lua, this, ()| {
        let mut list = this.with(lua, |draft| Ok(draft.remaining()))?;
        match list.len() {
            1 => lua.create_userdata(list.remove(0)).map(Lv::UserData),
            _ => lua.create_sequence_from(list).map(Lv::Table),
        }
    });
    methods.add_method("recipient_list", |lua, this, ()| {
        let list = this.with(lua, |draft| Ok(draft.remaining()))?;
        lua.create_sequence_from(list)
    });
    methods.add_method("set_recipient", |lua, this, given: Lv| {
        this.with(lua, |draft| set_recipients(lua, draft, &given))
    });
    methods.add_method("queue_name", |lua, this, ()| {
        this.with(lua, |draft| Ok(queue_name::of_message(&draft.message)))
    });
    methods.add_method("num_attempts", |lua, this, ()| {
        this.with(lua, |draft| Ok(draft.message.attempts))
    });
    methods.add_method("increment_num_attempts", |lua, this, ()| {
        this.with(lua, |draft| {
            let message = draft.edit();
            message.attempts = message.attempts.saturating_add(1);
            Ok(())
        })
    });
}

fn set_recipients(lua: &Lua, draft: &mut Draft, given: &Lv) -> mlua::Result<()> {
    if draft.recipients == Recipients::Fixed {
        return Err(fault(
            lua,
            "set_recipient: the recipients of a message that is queued already are fixed; set \
             them when it is received",
        ));
    }
    let list = match given {
        Lv::Table(table) => {
            let list = table.sequence_values::<Lv>();
            list.map(|item| mailbox(lua, &item?)).collect::<mlua::Result<Vec<_>>>()?
        }
        one => vec![mailbox(lua, one)?],
    };
    if list.is_empty() || list.len() > limits::RECIPIENTS_PER_MESSAGE {
        let limit = limits::RECIPIENTS_PER_MESSAGE;
        let count = list.len();
        return Err(fault(
            lua,
            format!("set_recipient: from 1 to {limit} recipients, not {count}"),
        ));
    }
    let message = draft.edit();
    message.remaining = RecipientSet::all(list.len() as u32);
    message.envelope.recipients = list;
    Ok(())
}

fn add_content_methods<M: UserDataMethods<MessageObject>>(methods: &mut M) {
    methods.add_method("get_meta", |lua, this, name: String| {
        this.with(lua, |draft| meta::get(lua, &draft.message.meta, &name))
    });
    methods.add_method("set_meta", |lua, this, (name, value): (String, Lv)| {
        this.with(lua, |draft| meta::set(lua, &this.budget, &mut draft.edit().meta, name, &value))
    });
    methods.add_method("get_data", |lua, this, ()| {
        this.with(lua, |draft| {
            this.budget.charge_copying(lua, draft.message.body.len())?;
            lua.create_string(&draft.message.body)
        })
    });
    methods.add_method("set_data", |lua, this, data: LuaString| {
        this.with(lua, |draft| this.set_body(lua, draft, with_crlf(&data.as_bytes())))
    });
    // Nothing to do here: what a handler changes is kept, and bodies live in a bounded cache.
    for name in ["save", "shrink", "shrink_data", "set_force_sync"] {
        methods.add_method(name, |_, _, _: Variadic<Lv>| Ok(()));
    }
}

fn add_header_methods<M: UserDataMethods<MessageObject>>(methods: &mut M) {
    methods.add_method("get_first_named_header_value", |lua, this, name: String| {
        this.with(lua, |draft| {
            this.charge_header(lua, draft)?;
            let value = header::first(&draft.message.body, &name);
            Ok(value.map(|value| encoded_word::decode(&value)))
        })
    });
    methods.add_method("get_all_named_header_values", |lua, this, name: String| {
        this.with(lua, |draft| {
            this.charge_header(lua, draft)?;
            let values = header::all(&draft.message.body, &name);
            lua.create_sequence_from(values.iter().map(|value| encoded_word::decode(value)))
        })
    });
    methods.add_method("get_all_headers", |lua, this, ()| {
        this.with(lua, |draft| {
            this.charge_header(lua, draft)?;
            let list = lua.create_table()?;
            for field in header::fields(&draft.message.body) {
                let value = encoded_word::decode(&field.value());
                list.raw_push(lua.create_sequence_from([field.name, &value])?)?;
            }
            Ok(list)
        })
    });
    methods.add_method("prepend_header", |lua, this, header: Header| {
        this.add_header(lua, header, header::prepend)
    });
    methods.add_method("append_header", |lua, this, header: Header| {
        this.add_header(lua, header, header::append)
    });
    methods.add_method("remove_all_named_headers", |lua, this, name: String| {
        this.remove_headers(lua, |field| field.is_named(&name))
    });
    methods.add_method("remove_x_headers", |lua, this, names: Option<Vec<String>>| {
        this.remove_headers(lua, |field| is_listed(&names, field.name))
    });
    type Import = (Option<Vec<String>>, Option<bool>);
    methods.add_method("import_x_headers", |lua, this, (names, first): Import| {
        this.with(lua, |draft| {
            this.charge_header(lua, draft)?;
            import_headers(lua, draft, &names, first.unwrap_or(false))
        })
    });
}

/// Puts header values into the metadata; of several with one name the last counts, or the first if asked for.
fn import_headers(
    lua: &Lua,
    draft: &mut Draft,
    names: &Option<Vec<String>>,
    first: bool,
) -> mlua::Result<()> {
    let body = draft.message.body.clone();
    let mut imported = kumo_core::message::Meta::new();
    for field in header::fields(&body).filter(|field| is_listed(names, field.name)) {
        let name = header::meta_name(field.name);
        if !(first && imported.contains_key(&name)) {
            imported.insert(name, encoded_word::decode(&field.value()).into());
        }
    }
    match imported.is_empty() {
        true => Ok(()),
        false => meta::extend(lua, &mut draft.edit().meta, imported),
    }
}

fn add_schedule_methods<M: UserDataMethods<MessageObject>>(methods: &mut M) {
    methods.add_method("get_due", |lua, this, ()| {
        this.with(lua, |draft| Ok(draft.message.schedule.due.map(rfc3339)))
    });
    methods.add_method("set_due", |lua, this, due: Lv| {
        let due = instant::optional(lua, &due)?;
        this.with(lua, |draft| {
            draft.edit().schedule.due = due;
            draft.due_was_set = true;
            Ok(())
        })
    });
    methods.add_method("set_scheduling", |lua, this, schedule: Option<Table>| {
        this.with(lua, |draft| set_scheduling(lua, draft, schedule))
    });
    methods.add_method(
        "import_scheduling_header",
        |lua, this, (name, remove): (String, Option<bool>)| {
            let value = this.with(lua, |draft| {
                Ok(header::first(&draft.message.body, &name).map(|value| value.into_owned()))
            })?;
            let Some(value) = value else { return Ok(None) };
            let parsed = serde_json::from_str(&value);
            let parsed: serde_json::Value = parsed.map_err(|error| {
                fault(lua, format!("import_scheduling_header: {name}: {error}"))
            })?;
            let schedule: Option<Table> = lua.unpack(to_lua(lua, &parsed)?)?;
            let shown = this.with(lua, |draft| set_scheduling(lua, draft, schedule))?;
            if remove == Some(true) {
                this.remove_headers(lua, |field| field.is_named(&name))?;
            }
            Ok(shown)
        },
    );
}

const SCHEDULE_KEYS: [&str; 2] = ["first_attempt", "expires"];
const WINDOW_KEYS: [&str; 4] = ["dow", "tz", "start", "end"];

/// Yields what was set, as a table.
fn set_scheduling(
    lua: &Lua,
    draft: &mut Draft,
    schedule: Option<Table>,
) -> mlua::Result<Option<Table>> {
    let Some(table) = schedule else {
        draft.edit().schedule = Schedule::default();
        return Ok(None);
    };
    for pair in table.pairs::<Lv, Lv>() {
        check_schedule_key(lua, &pair?.0)?;
    }
    let due = instant::optional(lua, &table.get("first_attempt")?)?;
    let expires = instant::optional(lua, &table.get("expires")?)?;
    draft.due_was_set |= due.is_some();
    draft.edit().schedule = Schedule { due, expires };
    let shown = lua.create_table()?;
    shown.raw_set("first_attempt", due.map(rfc3339))?;
    shown.raw_set("expires", expires.map(rfc3339))?;
    Ok(Some(shown))
}

fn check_schedule_key(lua: &Lua, key: &Lv) -> mlua::Result<()> {
    let name = key.as_string().map(|key| key.to_string_lossy()).unwrap_or_default();
    if SCHEDULE_KEYS.contains(&name.as_str()) {
        return Ok(());
    }
    if WINDOW_KEYS.contains(&name.as_str()) {
        return Err(fault(
            lua,
            format!(
                "set_scheduling: {name}: delivery windows aren't supported by this version; use \
                 first_attempt and expires"
            ),
        ));
    }
    let hint = nearest::hint(&name, SCHEDULE_KEYS.into_iter());
    Err(fault(lua, format!("set_scheduling: no key is called {}{hint}", show(key))))
}

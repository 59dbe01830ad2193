//! Envelope addresses as Lua sees them: `user`, `domain`, `email`, and their text.
//! The null reverse-path has three empty fields.
use super::convert::show;
use super::error::fault;
use super::nearest;
use kumo_core::address::{Mailbox, ReversePath};
use mlua::{Lua, MetaMethod, UserData, UserDataFields, UserDataMethods, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeAddress(pub ReversePath);

impl EnvelopeAddress {
    pub fn of(mailbox: &Mailbox) -> EnvelopeAddress {
        EnvelopeAddress(ReversePath::Mailbox(mailbox.clone()))
    }

    fn part(&self, part: fn(&Mailbox) -> &str) -> String {
        match &self.0 {
            ReversePath::Null => String::new(),
            ReversePath::Mailbox(mailbox) => part(mailbox).into(),
        }
    }
}

const FIELDS: [&str; 3] = ["user", "domain", "email"];

impl UserData for EnvelopeAddress {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("user", |_, this| Ok(this.part(Mailbox::local_part)));
        fields.add_field_method_get("domain", |_, this| Ok(this.part(Mailbox::domain)));
        fields.add_field_method_get("email", |_, this| Ok(this.0.as_str().to_string()));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(this.0.as_str().to_string())
        });
        methods.add_meta_function(MetaMethod::Concat, |lua, (left, right): (Value, Value)| {
            Ok(text_of(lua, &left)? + &text_of(lua, &right)?)
        });
        methods.add_meta_function(MetaMethod::Eq, |lua, (left, right): (Value, Value)| {
            Ok(text_of(lua, &left)? == text_of(lua, &right)?)
        });
        methods.add_meta_method(MetaMethod::Index, |lua, _, key: String| -> mlua::Result<()> {
            let hint = nearest::hint(&key, FIELDS.into_iter());
            Err(fault(lua, format!("an address has no field {key:?}{hint}")))
        });
    }
}

fn text_of(lua: &Lua, value: &Value) -> mlua::Result<String> {
    if let Some(address) = as_address(value) {
        return Ok(address.0.as_str().into());
    }
    match lua.coerce_string(value.clone())? {
        Some(text) => Ok(text.to_string_lossy()),
        None => Err(fault(lua, format!("an address can't be joined with {}", show(value)))),
    }
}

fn as_address(value: &Value) -> Option<EnvelopeAddress> {
    let address = value.as_userdata()?.borrow::<EnvelopeAddress>().ok()?;
    Some(address.clone())
}

/// A reverse-path from what policy gave: an address object, or text with or without angle brackets.
pub fn reverse_path(lua: &Lua, value: &Value) -> mlua::Result<ReversePath> {
    if let Some(address) = as_address(value) {
        return Ok(address.0);
    }
    let Value::String(text) = value else {
        return Err(fault(lua, format!("expected an address, got {}", show(value))));
    };
    let text = text.to_string_lossy();
    let inner = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&text);
    ReversePath::parse(inner).map_err(|error| fault(lua, format!("{}: {error}", show(value))))
}

/// The same for a recipient, which can't be null.
pub fn mailbox(lua: &Lua, value: &Value) -> mlua::Result<Mailbox> {
    match reverse_path(lua, value)? {
        ReversePath::Mailbox(mailbox) => Ok(mailbox),
        ReversePath::Null => Err(fault(lua, "a recipient can't be the empty address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(source: &str) -> Result<String, String> {
        let lua = Lua::new();
        let address = EnvelopeAddress(ReversePath::parse("Jane.Doe@Example.COM").unwrap());
        lua.globals().set("a", address.clone()).unwrap();
        lua.globals().set("b", address).unwrap();
        lua.globals().set("null", EnvelopeAddress(ReversePath::Null)).unwrap();
        let parse = lua.create_function(|lua, value| Ok(EnvelopeAddress(reverse_path(lua, &value)?)));
        lua.globals().set("parse", parse.unwrap()).unwrap();
        let result = lua.load(format!("return tostring({source})")).set_name("@p.lua").eval();
        result.map_err(|error: mlua::Error| crate::policy::error::describe(&error).1.unwrap())
    }

    #[test]
    fn fields_and_text_of_an_address() {
        for (source, expected) in [
            ("a", "Jane.Doe@example.com"),
            ("a.user", "Jane.Doe"),
            ("a.domain", "example.com"),
            ("a.email", "Jane.Doe@example.com"),
            ("'<' .. a .. '>'", "<Jane.Doe@example.com>"),
            ("a == b", "true"),
            ("a == null", "false"),
            ("null.email == '' and null.user == '' and null.domain == ''", "true"),
            ("parse('<x@y.test>')", "x@y.test"),
            ("parse('<>') == null", "true"),
            ("parse(a) == a", "true"),
        ] {
            assert_eq!(eval(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (source, text) in [
            ("a.domian", "an address has no field \"domian\" (did you mean `domain`?)"),
            ("parse('x y@z')", "the string \"x y@z\": the local part holds"),
            ("parse(5)", "expected an address, got the number 5"),
            ("a .. {}", "an address can't be joined with a table"),
        ] {
            let error = eval(source).unwrap_err();
            assert!(error.contains(text), "{source}: {error}");
        }
    }
}

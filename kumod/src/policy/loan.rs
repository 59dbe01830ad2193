//! A value that policy may use while its handler runs, and not afterwards.
//! Invariant: exactly one owner takes it back; what Lua keeps of it is then empty and says so.
use super::error::fault;
use super::program::lock;
use mlua::Lua;
use std::sync::{Arc, Mutex};

/// The owner's half.
pub struct Loan<T>(Arc<Mutex<Option<T>>>);

/// Lua's half.
pub struct Borrowed<T>(Arc<Mutex<Option<T>>>);

impl<T> Loan<T> {
    pub fn new(value: T) -> Loan<T> {
        Loan(Arc::new(Mutex::new(Some(value))))
    }

    pub fn lend(&self) -> Borrowed<T> {
        Borrowed(self.0.clone())
    }

    pub fn take_back(self) -> T {
        lock(&self.0).take().expect("only this takes it, and consumes the loan")
    }
}

impl<T> Borrowed<T> {
    pub fn with<R>(
        &self,
        lua: &Lua,
        what: &str,
        use_it: impl FnOnce(&mut T) -> mlua::Result<R>,
    ) -> mlua::Result<R> {
        match lock(&self.0).as_mut() {
            Some(value) => use_it(value),
            None => Err(fault(
                lua,
                format!("this {what} belongs to a handler that has returned; don't keep it"),
            )),
        }
    }
}

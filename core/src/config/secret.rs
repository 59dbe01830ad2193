//! What must not be seen. Invariant: neither debugging, nor rendering, nor the engine's journal shows a [`Secret`]: each
//! writes a placeholder, which is also what comes back. Only [`Secret::expose`] shows it, to whom it is meant for.
use super::read::{Form, Report};
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

const PLACEHOLDER: &str = "(secret)";

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACEHOLDER)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(PLACEHOLDER)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(|text| Secret(text.into()))
    }
}

/// `{ key_data = '…' }`. A plain text is never taken for the secret: in the reference it names a file.
impl Form for Secret {
    fn read(value: Value, report: &mut Report) -> Option<Secret> {
        let key_data = match &value {
            Value::Object(map) if map.len() == 1 => map.get("key_data").and_then(Value::as_str),
            _ => None,
        };
        if key_data.is_none() {
            // Not shown, since it may be a secret.
            report.error(format_args!(
                "expected {{ key_data = 'the secret' }}; the names of files and vaults aren't read"
            ));
        }
        key_data.map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn a_secret_is_shown_only_to_whom_it_is_meant_for() {
        let secret = Secret::new("sesame");
        assert_eq!(secret.expose(), "sesame");
        assert!(!format!("{secret:?}").contains("sesame"));
        assert_eq!(serde_json::to_value(&secret).unwrap(), PLACEHOLDER);
        let octets = postcard::to_allocvec(&secret).unwrap();
        assert_eq!(postcard::from_bytes::<Secret>(&octets).unwrap(), Secret::new(PLACEHOLDER));
    }
}

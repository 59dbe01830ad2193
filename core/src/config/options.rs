//! What every option key of every constructor does: effective, accepted without effect yet, or refused.
use alloc::string::String;
use alloc::vec::Vec;

/// A value made from a constructor's table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed<T> {
    pub value: T,
    /// One for each key that is accepted without effect; the policy layer adds file and line and says each once.
    pub warnings: Vec<String>,
}

/// What is wrong and what to do; file and line are added by the policy layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{constructor}: {text}")]
pub struct ConfigError {
    pub constructor: &'static str,
    pub text: String,
}

/// What a constructor (`kumo.make_queue_config`, …) yields.
pub trait Constructed: Sized {
    /// As written in policy, such as `kumo.make_queue_config`.
    const CONSTRUCTOR: &'static str;
    fn parse(
        table: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Parsed<Self>, ConfigError>;
}

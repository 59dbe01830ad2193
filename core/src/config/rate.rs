//! Rates and limits as operators write them: `"100/5m,max_burst=10"`, `"local:32"`.
use crate::time::Duration;
use serde::{Deserialize, Serialize};

/// `[local:]LIMIT/[N]PERIOD[,max_burst=B]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ThrottleSpec {
    /// At least 1.
    pub limit: u64,
    /// At least one second.
    pub period: Duration,
    pub max_burst: Option<u64>,
    /// Never shared with other nodes.
    pub local: bool,
}

/// An integer of at least 1, with an optional `local:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LimitSpec {
    pub limit: u64,
    pub force_local: bool,
}

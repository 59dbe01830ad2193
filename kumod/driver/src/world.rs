//! The ports bundled: one type parameter for the whole driver instead of seven.
use crate::policy::Policy;
use crate::record::Recorder;
use kumo_core::port::{Files, Host, Network, Resolver, Spool};

/// The outside, as the driver sees it. Production and simulation each have one implementation.
pub trait World: Send + Sync + 'static {
    type Spool: Spool;
    type Network: Network;
    type Resolver: Resolver;
    type Host: Host;
    type Files: Files;
    type Policy: Policy;
    type Recorder: Recorder;

    fn spool(&self) -> &Self::Spool;
    fn network(&self) -> &Self::Network;
    fn resolver(&self) -> &Self::Resolver;
    fn host(&self) -> &Self::Host;
    fn files(&self) -> &Self::Files;
    fn policy(&self) -> &Self::Policy;
    fn recorder(&self) -> &Self::Recorder;
}

//! The ports of one life of the node, bundled as the driver wants them. What each does stands in its own file.
use crate::dns::SimResolver;
use crate::files::SimFiles;
use crate::host::SimHost;
use crate::net::SimNetwork;
use crate::policy::SimPolicy;
use crate::recorder::SimRecorder;
use crate::spool::SimSpool;
use crate::universe::Universe;
use kumo_driver::world::World;
use std::sync::Arc;

/// The node's outside, for one life.
pub struct SimWorld {
    pub life: u64,
    spool: SimSpool,
    network: SimNetwork,
    resolver: SimResolver,
    host: SimHost,
    files: SimFiles,
    policy: SimPolicy,
    recorder: SimRecorder,
}

impl SimWorld {
    /// The next life begins; the one before is over.
    pub fn begin(universe: &Arc<Universe>) -> SimWorld {
        let life = universe.lives.begin();
        SimWorld {
            life,
            spool: SimSpool::open(universe, life),
            network: SimNetwork::of_node(universe, life),
            resolver: SimResolver::new(universe, life),
            host: SimHost::new(universe, life),
            files: SimFiles::new(universe, life),
            policy: SimPolicy::new(universe, life),
            recorder: SimRecorder::new(universe, life),
        }
    }
}

impl World for SimWorld {
    type Spool = SimSpool;
    type Network = SimNetwork;
    type Resolver = SimResolver;
    type Host = SimHost;
    type Files = SimFiles;
    type Policy = SimPolicy;
    type Recorder = SimRecorder;

    fn spool(&self) -> &SimSpool {
        &self.spool
    }
    fn network(&self) -> &SimNetwork {
        &self.network
    }
    fn resolver(&self) -> &SimResolver {
        &self.resolver
    }
    fn host(&self) -> &SimHost {
        &self.host
    }
    fn files(&self) -> &SimFiles {
        &self.files
    }
    fn policy(&self) -> &SimPolicy {
        &self.policy
    }
    fn recorder(&self) -> &SimRecorder {
        &self.recorder
    }
}

//! The real world, bundled: io-real's ports, Lua policy, local logs. Holds them and nothing else.
use crate::logs::LocalLogger;
use crate::policy::LuaPolicy;
use kumo_driver::world::World;
use kumo_io_real::dns::RealResolver;
use kumo_io_real::files::RealFiles;
use kumo_io_real::host::RealHost;
use kumo_io_real::net::RealNetwork;
use kumo_io_real::spool::RealSpool;

pub struct RealWorld {
    pub spool: RealSpool,
    pub network: RealNetwork,
    pub resolver: RealResolver,
    pub host: RealHost,
    pub files: RealFiles,
    pub policy: LuaPolicy,
    pub logger: LocalLogger,
}

impl World for RealWorld {
    type Spool = RealSpool;
    type Network = RealNetwork;
    type Resolver = RealResolver;
    type Host = RealHost;
    type Files = RealFiles;
    type Policy = LuaPolicy;
    type Recorder = LocalLogger;

    fn spool(&self) -> &RealSpool {
        &self.spool
    }
    fn network(&self) -> &RealNetwork {
        &self.network
    }
    fn resolver(&self) -> &RealResolver {
        &self.resolver
    }
    fn host(&self) -> &RealHost {
        &self.host
    }
    fn files(&self) -> &RealFiles {
        &self.files
    }
    fn policy(&self) -> &LuaPolicy {
        &self.policy
    }
    fn recorder(&self) -> &LocalLogger {
        &self.logger
    }
}

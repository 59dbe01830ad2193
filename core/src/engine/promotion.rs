//! From a scheduled queue to a ready queue: configuration, site, pool, routes, throttles.
//! Invariant: a line stands still only with a [`Block`] that says why, and with a timer or a place in the line of
//! what it waits for; a message is promoted in the order it became due.
use super::admission::{generated, selects};
use super::model::*;
use super::timers::NEVER;
use super::{AdminEntry, Answer, Engine, Output, Question, Resolution, ResolvedPool, Then};
use crate::canary::{self, Canary};
use crate::config::queue::DeliveryProtocol;
use crate::config::{EgressPath, EgressSource, QueueConfig};
use crate::id::OpId;
use crate::limits;
use crate::log::RecordKind;
use crate::marks::{Mark, reached};
use crate::mx;
use crate::queue_name::QueueName;
use crate::throttle::Throttle;
use crate::time::{Duration, Mono, Wall};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A line stands still: why, and until when at the latest.
pub(super) struct Blocked {
    block: Block,
    pub(super) until: Mono,
}

/// Until something happens.
fn until_told(block: Block) -> Blocked {
    Blocked { block, until: NEVER }
}

/// What the routes of a queue say.
enum Choice {
    /// Index of the route.
    Take(usize),
    Blocked(Blocked),
}

impl Engine {
    /// Promotes from the head of the line until it is empty or must stand still.
    pub(super) fn pump_scheduled(&mut self, queue: QueueHandle) {
        let Some(scheduled) = self.queues.get_mut(queue) else { return };
        scheduled.listed = false;
        let was = scheduled.block.take();
        while let Some(message) = self.queues[queue].waiting.front(&self.messages) {
            let Err(Blocked { block, until }) = self.promote(queue, message) else { continue };
            self.count_block(&block, was.as_ref());
            self.record_block(message, &block, was.as_ref());
            let look_again = self.look_at_pool_again(queue, &block);
            (self.queues[queue].block, self.queues[queue].block_ends) = (Some(block), until);
            self.arm_scheduled(queue, until.min(look_again));
            return;
        }
        if self.queues[queue].count > 0 {
            // Nobody waits in line, but expiry needs the configuration: policy that failed is asked again in time.
            let again = match self.queue_config(queue) {
                Err(blocked) if !self.stopping => blocked.until,
                _ => NEVER,
            };
            self.arm_scheduled(queue, again);
        }
    }

    /// When a line that waits for a way out asks for its pool anew, which may have got another.
    fn look_at_pool_again(&mut self, queue: QueueHandle, block: &Block) -> Mono {
        let may_wait_for_pool =
            matches!(block, Block::NoEligibleSource | Block::ReadyQueuesFull | Block::NoSources);
        if !may_wait_for_pool {
            return NEVER;
        }
        let config = self.queues[queue].config.value.as_ref().expect("its pool was looked at");
        let pool = self.pools.get_mut(pool_of(config)).expect("its pool was looked at");
        match pool.resolved.asked {
            Some(_) => {
                pool.waiters.insert(queue);
                NEVER
            }
            None => pool.resolved.good_until,
        }
    }

    fn count_block(&mut self, block: &Block, was: Option<&Block>) {
        match block {
            _ if was == Some(block) => {}
            Block::MessageRate => self.counts.delayed_by_message_rate += 1,
            Block::ReadyQueuesFull => self.counts.delayed_by_full_ready_queue += 1,
            _ => {}
        }
    }

    /// The message at the head of the line gets the record; those behind it wait in line.
    fn record_block(&mut self, message: MessageHandle, block: &Block, was: Option<&Block>) {
        if was == Some(block) {
            return;
        }
        let queue = &self.queues[self.messages[message].queue];
        let name = &queue.name;
        let pool = queue.config.value.as_ref().map_or("unspecified", |config| pool_of(config));
        let text = match block {
            Block::SpoolUnhealthy => {
                let text = "delivery suspended: spool unhealthy: the spool is not accepting writes";
                let reason = generated(451, (4, 4, 4), true, text.into());
                return self.note(message, RecordKind::Delayed, reason);
            }
            Block::Suspended { reason } => format!("scheduled queue is suspended: {reason}"),
            Block::NoSources => format!("no sources available for {name} pool=`{pool}`"),
            Block::NoEligibleSource => {
                format!(
                    "no sources for {name} pool=`{pool}` are eligible for selection at this time"
                )
            }
            _ => return,
        };
        let reason = generated(451, (4, 4, 4), true, text);
        self.note(message, RecordKind::TransientFailure, reason);
    }

    fn promote(&mut self, queue: QueueHandle, message: MessageHandle) -> Result<(), Blocked> {
        if self.stopping {
            return Err(until_told(Block::Stopping));
        }
        let config = self.queue_config(queue)?;
        let skipped = canary::planted(Canary::ExpirySkippedInReady);
        if self.expiry(&self.messages[message]) <= self.now.mono && !skipped {
            self.expire(message, Origin::default(), Vec::new());
            return Ok(());
        }
        if !self.spool_healthy {
            return Err(until_told(Block::SpoolUnhealthy));
        }
        if let Some(entry) = self.bounce_for(queue) {
            self.condemn(message, entry);
            return Ok(());
        }
        self.check_suspension(queue)?;
        if !self.messages[message].paid {
            self.check_queue_rate(queue, &config)?;
        }
        if self.config.asks_throttle_insert && !self.messages[message].cleared {
            return self.ask_throttle_insert(queue, message);
        }
        self.insert_into_ready(queue, message, &config)
    }

    fn check_suspension(&self, queue: QueueHandle) -> Result<(), Blocked> {
        self.suspension_of(&self.queues[queue].name).map_or(Ok(()), |timed| {
            let block = Block::Suspended { reason: timed.entry.reason.clone() };
            Err(Blocked { block, until: timed.ends })
        })
    }

    pub(super) fn suspension_of(&self, queue: &str) -> Option<&Timed<AdminEntry>> {
        self.admin.suspensions.iter().find(|timed| selects(&timed.entry.selector, queue))
    }

    fn check_queue_rate(&self, queue: QueueHandle, config: &QueueConfig) -> Result<(), Blocked> {
        let Some(rate) = &config.max_message_rate else { return Ok(()) };
        let until = self.queues[queue].throttle.earliest(rate, self.now.mono);
        if until <= self.now.mono {
            Ok(())
        } else {
            Err(Blocked { block: Block::MessageRate, until })
        }
    }

    fn insert_into_ready(
        &mut self,
        queue: QueueHandle,
        message: MessageHandle,
        config: &Arc<QueueConfig>,
    ) -> Result<(), Blocked> {
        if self.verdict_of_site(queue, message, config)? {
            return Ok(());
        }
        self.make_routes(queue, config)?;
        let route = match self.choose_route(queue) {
            Choice::Take(route) => route,
            Choice::Blocked(blocked) => return Err(blocked),
        };
        let ready = self.queues[queue].routes[route].ready;
        self.take_selection_tokens(ready);
        let paid = core::mem::take(&mut self.messages[message].paid);
        if let (Some(rate), false) = (&config.max_message_rate, paid) {
            self.queues[queue].throttle.take(rate, self.now.mono);
        }
        self.messages[message].cleared = false;
        self.place(message, Place::Ready(ready));
        self.list_ready(ready);
        Ok(())
    }

    // ---- Policy's throttle_insert_ready_queue ----------------------------------------------------------

    /// Asked once for each promotion, and about so many messages of one queue at a time.
    fn ask_throttle_insert(
        &mut self,
        queue: QueueHandle,
        message: MessageHandle,
    ) -> Result<(), Blocked> {
        if self.queues[queue].asking >= limits::ASKED_AT_ONCE {
            return Err(until_told(Block::WaitingForThrottleInsert));
        }
        self.queues[queue].asking += 1;
        self.place(message, Place::Asking);
        let id = self.messages[message].id;
        self.ask(Pending::ThrottleInsert(message), Question::ThrottleInsert { message: id });
        Ok(())
    }

    /// A message that may pass goes back into the line, where everything else is looked at again.
    fn throttle_insert_answered(&mut self, message: MessageHandle, until: Option<Wall>) {
        let now = self.now.mono;
        let until = until.map_or(now, |until| Moment::from_wall(until, self.now).as_mono());
        let queue = self.messages[message].queue;
        self.queues[queue].asking -= 1;
        if until > now {
            self.counts.delayed_by_throttle_insert += 1;
            self.messages[message].due = until;
        } else {
            self.messages[message].cleared = true;
        }
        self.put_back(message);
        self.list_scheduled(queue);
    }

    // ---- Configuration ---------------------------------------------------------------------------------

    /// The queue's configuration; asked for when it isn't known or grows old. An old one serves until the new one comes.
    pub(super) fn queue_config(&mut self, queue: QueueHandle) -> Result<Arc<QueueConfig>, Blocked> {
        let fetched = &self.queues[queue].config;
        if fetched.is_old(self.now.mono) && fetched.asked.is_none() && !self.stopping {
            let name = self.queues[queue].name.clone();
            let op = self.ask(Pending::QueueConfig(queue), Question::QueueConfig { queue: name });
            self.queues[queue].config.asked = Some(op);
        }
        known(&self.queues[queue].config, Block::WaitingForQueueConfig, |why| {
            Block::QueueConfigFailed { why }
        })
    }

    fn queue_config_answered(&mut self, queue: QueueHandle, answer: Result<QueueConfig, Box<str>>) {
        let now = self.now.mono;
        let scheduled = &mut self.queues[queue];
        match answer {
            Ok(config) => {
                let old_age = scheduled.config.value.as_ref().map(|config| config.max_age);
                let old = scheduled.config.value.as_deref();
                let changed = old != Some(&config);
                if old.is_some_and(|old| old.protocol != config.protocol) {
                    // Where its mail goes has to be found anew.
                    (scheduled.site.value, scheduled.site.good_until) = (None, Mono(0));
                }
                let (new_age, ttl) = (config.max_age, config.refresh_interval);
                scheduled.config.found(Arc::new(config), ttl, now);
                scheduled.changes += u64::from(changed);
                if old_age != Some(new_age) {
                    self.messages_of(queue)
                        .into_iter()
                        .for_each(|message| self.arm_message(message));
                }
            }
            Err(why) => {
                scheduled.config.failed(why, now);
                let again = scheduled.config.good_until;
                if scheduled.config.value.is_none() {
                    self.arm_scheduled(queue, again);
                }
            }
        }
        self.list_scheduled(queue);
    }

    // ---- Site ------------------------------------------------------------------------------------------

    /// Ends the message's attempt if its domain has no hosts; true if it did.
    fn verdict_of_site(
        &mut self,
        queue: QueueHandle,
        message: MessageHandle,
        config: &QueueConfig,
    ) -> Result<bool, Blocked> {
        match self.site(queue, config)? {
            Site::Found { .. } => Ok(false),
            Site::NullMx => {
                let text = "Recipient address has a null MX".into();
                let reason = generated(556, (5, 1, 10), false, text);
                self.settle(message, Origin::default(), RecordKind::Bounce, reason);
                Ok(true)
            }
            Site::NoHosts => {
                let text = String::from("MX didn't resolve to any hosts");
                let reason = generated(451, (4, 4, 4), true, text);
                let because = super::InsertReason::MxResolvedToZeroHosts;
                self.fail_for_now(message, Origin::default(), reason, because);
                Ok(true)
            }
        }
    }

    fn site(&mut self, queue: QueueHandle, config: &QueueConfig) -> Result<Site, Blocked> {
        let fetched = &self.queues[queue].site;
        if let (Some(site), false) = (&fetched.value, fetched.is_old(self.now.mono)) {
            return Ok(site.clone());
        }
        if let Some(site) = site_without_dns(&self.queues[queue].name, config) {
            let scheduled = &mut self.queues[queue];
            scheduled.site.found(site.clone(), config.refresh_interval, self.now.mono);
            scheduled.changes += 1;
            return Ok(site);
        }
        let fetched = &self.queues[queue].site;
        if fetched.asked.is_none() && fetched.is_old(self.now.mono) {
            if !matches!(fetched.value, Some(Site::Found { .. })) {
                // Nobody's mail is failed for what the DNS said long ago.
                self.queues[queue].site.value = None;
            }
            let domain = QueueName::parse(&self.queues[queue].name).destination().into();
            let deadline = self.now.mono + self.config.resolve_timeout;
            let op = self.start(Pending::Resolve(queue));
            self.queues[queue].site.asked = Some(op);
            self.outputs.push_back(Output::Resolve { op, domain, deadline });
        }
        known(&self.queues[queue].site, Block::WaitingForDns, |why| Block::DnsFailed { why })
    }

    pub(super) fn resolved(&mut self, op: OpId, resolution: Resolution) {
        let Pending::Resolve(queue) = self.finish(op) else { panic!("{op:?} isn't a resolution") };
        let now = self.now.mono;
        // Where the configuration did without the DNS meanwhile, the queue may have been reaped.
        let Some(scheduled) = self.queues.get(queue) else { return };
        let config = scheduled.config.value.clone().unwrap_or_default();
        if site_without_dns(&self.queues[queue].name, &config).is_some() {
            // Its configuration has changed since the DNS was asked.
            self.queues[queue].site = Fetched::default();
            self.list_scheduled(queue);
            return;
        }
        let verdict_ttl = Duration::from_secs(60);
        let scheduled = &mut self.queues[queue];
        let (site, ttl) = match resolution {
            Resolution::Found { site, hosts, ttl } => {
                (Site::Found { site, hosts }, ttl.min(Duration::from_secs(3600)))
            }
            Resolution::NullMx => (Site::NullMx, verdict_ttl),
            Resolution::NoHosts => (Site::NoHosts, verdict_ttl),
            Resolution::Failed { why } => {
                scheduled.site.failed(why, now);
                let again = scheduled.site.good_until;
                self.arm_scheduled(queue, again);
                self.list_scheduled(queue);
                return;
            }
        };
        scheduled.site.found(site, ttl, now);
        scheduled.changes += 1;
        self.list_scheduled(queue);
    }

    // ---- Pool and routes -------------------------------------------------------------------------------

    fn pool(
        &mut self,
        queue: QueueHandle,
        name: &str,
    ) -> Result<(Arc<ResolvedPool>, u64), Blocked> {
        if !self.pools.contains_key(name) {
            if self.pools.len() >= limits::POOLS {
                let now = self.now.mono;
                self.pools.retain(|_, pool| {
                    let resolved = &pool.resolved;
                    !resolved.is_old(now) || resolved.asked.is_some() || !pool.waiters.is_empty()
                });
            }
            if self.pools.len() >= limits::POOLS {
                let why = format!("more than {} pools are in use", limits::POOLS).into();
                let until = self.now.mono + Duration::from_secs(60);
                return Err(Blocked { block: Block::PoolFailed { why }, until });
            }
            self.pools.insert(name.into(), Pool::default());
        }
        let resolved = &self.pools[name].resolved;
        if resolved.is_old(self.now.mono) && resolved.asked.is_none() {
            let name: Arc<str> = name.into();
            let op = self.ask(Pending::Pool(name.clone()), Question::Pool { name: name.clone() });
            self.pools.get_mut(&name).expect("inserted above").resolved.asked = Some(op);
        }
        let pool = self.pools.get_mut(name).expect("inserted above");
        let found = known(&pool.resolved, Block::WaitingForPool, |why| Block::PoolFailed { why });
        if found.is_err() {
            pool.waiters.insert(queue);
        }
        found.map(|resolved| (resolved, pool.changes))
    }

    fn pool_answered(&mut self, name: &Arc<str>, answer: Result<ResolvedPool, Box<str>>) {
        let now = self.now.mono;
        let pool = self.pools.get_mut(name).expect("pools that were asked for stay");
        match answer {
            Ok(resolved) => {
                let changed = pool.resolved.value.as_deref() != Some(&resolved);
                let ttls = resolved.sources.iter().map(|source| source.ttl);
                let ttl = ttls.fold(resolved.pool.ttl, Duration::min);
                pool.resolved.found(Arc::new(resolved), ttl, now);
                pool.changes += u64::from(changed);
            }
            Err(why) => pool.resolved.failed(why, now),
        }
        let waiters = core::mem::take(&mut pool.waiters);
        waiters.into_iter().for_each(|queue| self.list_scheduled(queue));
    }

    /// Brings the queue's routes up to date with its pool, its site and its configuration.
    fn make_routes(
        &mut self,
        queue: QueueHandle,
        config: &Arc<QueueConfig>,
    ) -> Result<(), Blocked> {
        let (pool, pool_changes) = self.pool(queue, pool_of(config))?;
        let made_from = Some((pool_changes, self.queues[queue].changes));
        let scheduled = &self.queues[queue];
        let alive = scheduled.routes.iter().all(|route| self.ready.get(route.ready).is_some());
        if scheduled.routes_made_from != made_from || !alive {
            self.remake_routes(queue, config, &pool)?;
            self.queues[queue].routes_made_from = made_from;
        }
        if self.queues[queue].routes.is_empty() {
            let until = self.now.mono + Duration::from_secs(60);
            return Err(Blocked { block: Block::NoSources, until });
        }
        Ok(())
    }

    fn remake_routes(
        &mut self,
        queue: QueueHandle,
        config: &Arc<QueueConfig>,
        pool: &ResolvedPool,
    ) -> Result<(), Blocked> {
        let Some(Site::Found { site, hosts }) = &self.queues[queue].site.value else {
            unreachable!("routes are made once the site is found")
        };
        let end = RouteEnd {
            site: site.clone(),
            hosts: hosts.clone(),
            queue: self.queues[queue].name.clone(),
            domain: QueueName::parse(&self.queues[queue].name).destination().into(),
            protocol: Arc::new(config.protocol.clone()),
        };
        let pool_name: Arc<str> = pool.pool.name.as_ref().into();
        let mut routes: Vec<Route> = Vec::with_capacity(pool.sources.len());
        for (entry, source) in pool.pool.entries.iter().zip(&pool.sources) {
            if entry.weight == 0 {
                continue;
            }
            let ready = self.ready_queue(source, &end, &pool_name)?;
            let of = self.ready[ready].of;
            routes.push(Route { of, weight: entry.weight, credit: 0, ready, in_line: false });
        }
        let old = core::mem::take(&mut self.queues[queue].routes);
        if !keep_turns(&old, &mut routes) {
            spread(&mut routes, &mut self.route_random);
        }
        self.queues[queue].routes = routes;
        Ok(())
    }

    /// Finds or makes the ready queue of a source for a site.
    fn ready_queue(
        &mut self,
        source: &Arc<EgressSource>,
        end: &RouteEnd,
        pool: &Arc<str>,
    ) -> Result<ReadyHandle, Blocked> {
        let name: Arc<str> = ready_queue_name(&source.name, &end.site, &end.protocol).into();
        let of = self.source(source).ok_or_else(|| {
            let why = format!("more than {} egress sources are in use", limits::SOURCES).into();
            let until = self.now.mono + Duration::from_secs(60);
            Blocked { block: Block::PoolFailed { why }, until }
        })?;
        if let Some(found) = self.ready_by_name.get(&name) {
            let ready = &mut self.ready[*found];
            (ready.hosts, ready.protocol) = (end.hosts.clone(), end.protocol.clone());
            (ready.source, ready.of) = (source.clone(), of);
            return Ok(*found);
        }
        if self.ready.len() >= limits::READY_QUEUES {
            let why = format!("more than {} ready queues", limits::READY_QUEUES).into();
            let until = self.now.mono + Duration::from_secs(60);
            return Err(Blocked { block: Block::EgressPathFailed { why }, until });
        }
        let ready = ReadyQueue::new(name.clone(), pool.clone(), end.clone(), source.clone(), of);
        let handle = self.ready.insert(ready);
        self.ready_by_name.insert(name, handle);
        self.suspend_new_ready(handle);
        // Asked for now, so that it is there when a message wants it; until then this is an obstacle, not an error.
        let _ = self.egress_path(handle);
        let reap_at = self.now.mono + super::dispatch::REAP_AFTER;
        self.ready[handle].empty_since = self.now.mono;
        self.arm_ready(handle, reap_at);
        Ok(handle)
    }

    // ---- Choosing --------------------------------------------------------------------------------------

    fn choose_route(&mut self, queue: QueueHandle) -> Choice {
        let mut eligible = Vec::new();
        // Of which policy hasn't said anything yet. They get their turn; who waits for one of them waits for policy.
        let mut unheard = Vec::new();
        let mut full = false;
        let mut unknown = None;
        let mut earliest = NEVER;
        for at in 0..self.queues[queue].routes.len() {
            match self.obstacle(queue, at) {
                None => eligible.push(at),
                Some(Obstacle::Full) => {
                    full = true;
                    self.stand_in_line(queue, at);
                }
                Some(Obstacle::Unknown(blocked)) => {
                    self.stand_in_line(queue, at);
                    let ready = self.queues[queue].routes[at].ready;
                    if self.ready[ready].path.failures == 0 {
                        unheard.push(at);
                        unknown = Some(blocked);
                    } else {
                        unknown = unknown.or(Some(blocked));
                    }
                }
                Some(Obstacle::Until(until)) => earliest = earliest.min(until),
            }
        }
        if !eligible.is_empty()
            && let Some(taken) = self.take_turn(queue, &eligible, &unheard)
        {
            return Choice::Take(taken);
        }
        let mut blocked = unknown.unwrap_or_else(|| {
            until_told(if full { Block::ReadyQueuesFull } else { Block::NoEligibleSource })
        });
        blocked.until = blocked.until.min(earliest);
        Choice::Blocked(blocked)
    }

    /// Smooth weighted round robin among those that can be taken and those that aren't heard of yet; `None` if it is the turn of one of these.
    fn take_turn(
        &mut self,
        queue: QueueHandle,
        eligible: &[usize],
        unheard: &[usize],
    ) -> Option<usize> {
        let routes = &mut self.queues[queue].routes;
        let asked = |routes: &[Route], at: usize| routes[at].credit + i128::from(routes[at].weight);
        let best = |best: usize, at: usize| {
            if asked(routes, at) > asked(routes, best) { at } else { best }
        };
        let all = eligible.iter().chain(unheard);
        let chosen = all.clone().copied().reduce(best).expect("one at least is eligible");
        if unheard.contains(&chosen) {
            return None;
        }
        let mut total = 0;
        for at in all {
            routes[*at].credit += i128::from(routes[*at].weight);
            total += i128::from(routes[*at].weight);
        }
        routes[chosen].credit -= total;
        Some(chosen)
    }

    fn obstacle(&mut self, queue: QueueHandle, at: usize) -> Option<Obstacle> {
        let Route { of, ready: handle, .. } = self.queues[queue].routes[at];
        if let Some(suspension) = self.sources[of].suspension() {
            return Some(Obstacle::Until(suspension.ends));
        }
        if self.ready[handle].path.is_old(self.now.mono)
            && let Err(blocked) = self.egress_path(handle)
        {
            return Some(Obstacle::Unknown(blocked));
        }
        let ready = &self.ready[handle];
        let Some(path) = &ready.path.value else {
            return self.egress_path(handle).err().map(Obstacle::Unknown);
        };
        if let Some(suspension) = &ready.suspension {
            return Some(Obstacle::Until(suspension.ends));
        }
        if ready.messages.len() as u64 >= path.max_ready {
            return Some(Obstacle::Full);
        }
        let until = self.selection_token(handle, path);
        (until > self.now.mono).then_some(Obstacle::Until(until))
    }

    /// In the line of one ready queue: for room, or for its path.
    fn stand_in_line(&mut self, queue: QueueHandle, at: usize) {
        let route = &mut self.queues[queue].routes[at];
        if !core::mem::replace(&mut route.in_line, true) {
            self.ready[route.ready].waiters.push_back(queue);
        }
    }

    /// The first in line, if any; it is looked at before this ready queue is again.
    pub(super) fn call_up(&mut self, ready: ReadyHandle) -> bool {
        let Some(queue) = self.ready[ready].waiters.pop_front() else { return false };
        if let Some(scheduled) = self.queues.get_mut(queue) {
            let routes = scheduled.routes.iter_mut().filter(|route| route.ready == ready);
            routes.for_each(|route| route.in_line = false);
        }
        self.list_scheduled(queue);
        true
    }

    /// A path came, or a suspension ended.
    pub(super) fn call_up_all(&mut self, ready: ReadyHandle) {
        while self.call_up(ready) {}
    }

    // ---- Source selection rates ------------------------------------------------------------------------

    pub(super) fn selection_token(&self, handle: ReadyHandle, path: &EgressPath) -> Mono {
        let now = self.now.mono;
        let own = path
            .source_selection_rate
            .as_ref()
            .map_or(now, |rate| self.ready[handle].selection_throttle.earliest(rate, now));
        path.additional_source_selection_rates.iter().fold(own, |latest, (key, rate)| {
            latest.max(self.shared_throttle(key).earliest(rate, now))
        })
    }

    fn take_selection_tokens(&mut self, handle: ReadyHandle) {
        let path = self.ready[handle].path.value.clone().expect("its route was eligible");
        if let Some(rate) = &path.source_selection_rate {
            self.ready[handle].selection_throttle.take(rate, self.now.mono);
        }
        for (key, rate) in &path.additional_source_selection_rates {
            self.take_shared(key, rate, 1);
        }
    }

    pub(super) fn shared_throttle(&self, key: &str) -> Throttle {
        self.shared_throttles.get(key).copied().unwrap_or_default()
    }

    pub(super) fn take_shared(
        &mut self,
        key: &str,
        rate: &crate::config::ThrottleSpec,
        count: u64,
    ) {
        let now = self.now.mono;
        if !self.shared_throttles.contains_key(key) {
            if self.shared_throttles.len() >= limits::SHARED_THROTTLES {
                self.shared_throttles.retain(|_, throttle| !throttle.is_idle(now));
            }
            self.shared_throttles.insert(key.into(), Throttle::default());
        }
        self.shared_throttles.get_mut(key).expect("inserted above").take_many(rate, now, count);
    }

    // ---- Answers ---------------------------------------------------------------------------------------

    pub(super) fn answered(&mut self, op: OpId, answer: Answer) {
        let pending = self.finish(op);
        if let Answer::Failed { .. } = answer {
            reached(Mark::PolicyFailed);
        }
        match (pending, answer) {
            (Pending::QueueConfig(queue), Answer::QueueConfig(config)) => {
                self.queue_config_answered(queue, Ok(*config));
            }
            (Pending::QueueConfig(queue), Answer::Failed { why }) => {
                self.queue_config_answered(queue, Err(why));
            }
            (Pending::Pool(name), Answer::Pool(pool)) => self.pool_answered(&name, Ok(*pool)),
            (Pending::Pool(name), Answer::Failed { why }) => self.pool_answered(&name, Err(why)),
            (Pending::EgressPath(ready), Answer::EgressPath(path)) => {
                self.egress_path_answered(ready, Ok(*path));
            }
            (Pending::EgressPath(ready), Answer::Failed { why }) => {
                self.egress_path_answered(ready, Err(why));
            }
            (Pending::ThrottleInsert(message), Answer::ThrottleInsert { until }) => {
                self.throttle_insert_answered(message, until);
            }
            // Policy that fails doesn't hold mail up for ever: the error is logged by the driver, the message goes on.
            (Pending::ThrottleInsert(message), Answer::Failed { .. }) => {
                self.throttle_insert_answered(message, None);
            }
            (Pending::Requeue(requeue), Answer::Requeue(answer)) => {
                self.requeue_answered(*requeue, answer);
            }
            (Pending::Requeue(requeue), Answer::Failed { .. }) => {
                self.requeue_answered(*requeue, super::RequeueAnswer::Keep);
            }
            (Pending::Settled, _) => {}
            (pending, answer) => panic!("{op:?} is {pending:?} and was answered {answer:?}"),
        }
    }

    /// Ends a message with one record.
    pub(super) fn settle(
        &mut self,
        message: MessageHandle,
        origin: Origin,
        kind: RecordKind,
        reason: super::Reason,
    ) {
        self.counts.bounced += u64::from(kind == RecordKind::Bounce);
        let recipients = self.messages[message].remaining.clone();
        let notes = alloc::vec![super::Note { kind, recipients, reason }];
        self.conclude(message, origin, notes, Then::Remove, After::Forget);
    }
}

/// Why a route can't be taken.
enum Obstacle {
    Full,
    Until(Mono),
    Unknown(Blocked),
}

pub(super) fn known<T: Clone>(
    fetched: &Fetched<T>,
    waiting: Block,
    failed: impl FnOnce(Box<str>) -> Block,
) -> Result<T, Blocked> {
    match (&fetched.value, &fetched.why) {
        (Some(value), _) => Ok(value.clone()),
        (None, Some(why)) if fetched.asked.is_none() => {
            Err(Blocked { block: failed(why.clone()), until: fetched.good_until })
        }
        (None, _) => Err(until_told(waiting)),
    }
}

pub(super) fn pool_of(config: &QueueConfig) -> &str {
    config.egress_pool.as_deref().unwrap_or("unspecified")
}

/// `<source>-><site>@<protocol>`.
pub fn ready_queue_name(source: &str, site: &str, protocol: &DeliveryProtocol) -> String {
    let protocol = match protocol {
        DeliveryProtocol::Smtp { .. } => "smtp_client".into(),
        DeliveryProtocol::Maildir { path, .. } => format!("maildir:{path}"),
        DeliveryProtocol::Null => "null".into(),
        DeliveryProtocol::CustomLua(lua) => format!("lua:{}", lua.constructor),
    };
    format!("{source}->{site}@{protocol}")
}

fn site_without_dns(queue: &str, config: &QueueConfig) -> Option<Site> {
    let found = mx::site_without_dns(QueueName::parse(queue).destination(), &config.protocol);
    found.map(|(site, hosts)| Site::Found { site, hosts: Arc::new(hosts) })
}

/// Of routes that are the same as before, in all that the round robin knows: it goes on where it was. A source's own options, its secrets
/// among them, have no part in it.
fn keep_turns(old: &[Route], new: &mut [Route]) -> bool {
    let what = |route: &Route| (route.ready, route.weight);
    let are_same = old.len() == new.len() && old.iter().map(what).eq(new.iter().map(what));
    if are_same {
        new.iter_mut().zip(old).for_each(|(new, old)| {
            (new.credit, new.in_line) = (old.credit, old.in_line);
        });
    }
    are_same
}

/// Starts the round robin at a random point, so that many queues of one pool don't all begin with its heaviest source.
fn spread(routes: &mut [Route], random: &mut crate::random::Random) {
    let total: i128 = routes.iter().map(|route| i128::from(route.weight)).sum();
    if routes.len() < 2 {
        return;
    }
    for _ in 0..random.below(u64::try_from(total).unwrap_or(u64::MAX)).min(64) {
        routes.iter_mut().for_each(|route| route.credit += i128::from(route.weight));
        let best = (0..routes.len())
            .reduce(|best, at| if routes[at].credit > routes[best].credit { at } else { best });
        routes[best.expect("two routes at least")].credit -= total;
    }
}

//! One connection: two directions of segments on their way, and what befalls them. No time passes here and nothing waits; every call is told
//! what time it is. Invariants: no octet overtakes another of its direction; an end that is closed changes nothing any more; what a silent
//! connection is given is never seen again. Who waits, and the node's lives, are the stream's.
use super::NetSettings;
use crate::fault::{FaultKind, Faults};
use bytes::{Buf, Bytes, BytesMut};
use kumo_core::limits::READ_CHUNK_OCTETS;
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What a latency fault adds at most, unless it says so itself.
const LATE: Duration = Duration::from_secs(2);
/// After a partition has healed, what was held is sent again within this time.
const RETRANSMISSION: Duration = Duration::from_secs(1);
/// Between the pieces of a write that leaves in pieces.
const PIECES_APART: Duration = Duration::from_millis(50);
const TINY_BUFFER_OCTETS: Range<u64> = 32..512;
/// A reset or half close comes before this many octets, more often early than late.
const MISHAP_OCTETS: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialler,
    Listener,
}

impl Side {
    pub(crate) const BOTH: [Side; 2] = [Side::Dialler, Side::Listener];

    pub(crate) fn other(self) -> Side {
        match self {
            Side::Dialler => Side::Listener,
            Side::Listener => Side::Dialler,
        }
    }
}

/// How octets are meant. Who reads has to expect the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Plain,
    Handshake,
    Tls,
}

/// When something arrives; `None`: a partition holds it.
type Arrival = Option<Mono>;

/// Without octets it is the end of its direction, and stays at the front.
struct Segment {
    arrival: Arrival,
    octets: Bytes,
    mark: Mark,
}

struct Reset {
    arrival: Arrival,
    /// What had arrived and wasn't read is lost with it.
    discards: bool,
}

/// From one end to the other.
struct Direction {
    segments: VecDeque<Segment>,
    /// Octets written and not read.
    buffered: usize,
    /// When the last thing so far arrives.
    last: Mono,
    is_holding: bool,
    /// Its writer has ended it.
    is_finished: bool,
    /// It was ended behind its writer's back: what else is written vanishes.
    is_cut: bool,
    cut_after: Option<u64>,
}

#[derive(Default)]
struct End {
    /// Dropped, reset by its owner, or dead.
    is_closed: bool,
    reset: Option<Reset>,
}

struct State {
    random: Random,
    /// By the side that writes.
    directions: [Direction; 2],
    ends: [End; 2],
    capacity: usize,
    reset_after: Option<u64>,
    is_silent: bool,
    is_counted: bool,
}

/// What a call has to wait for before it is tried again. Each may also be cut short by the side's signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Signal,
    Time(Mono),
    /// The end of the partition.
    Heal,
}

pub(crate) enum Tried<T> {
    Done(T),
    Wait(Until),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Reset,
    /// Octets of another kind than expected.
    WrongMark,
    /// A write after the end.
    Finished,
}

/// What is known when a connection is made.
pub(crate) struct Route {
    pub(crate) number: u64,
    pub(crate) dialler: SocketAddr,
    /// As dialled.
    pub(crate) listener: SocketAddr,
    /// Whose ends belong to which life of the node.
    pub(crate) lives: [Option<u64>; 2],
    /// The address dialled, as faults are aimed at it.
    pub(crate) target: Box<str>,
    /// The end that isn't the node's, if just one isn't.
    pub(crate) far: Option<Box<str>>,
}

pub(crate) struct Connection {
    pub(crate) route: Route,
    settings: NetSettings,
    state: Mutex<State>,
    readable: [Notify; 2],
    writable: [Notify; 2],
}

/// One way, for one segment.
pub(crate) fn delay(
    settings: &NetSettings,
    random: &mut Random,
    faults: &Faults,
    target: &str,
) -> Duration {
    let usual = settings.latency + random.duration_up_to(settings.jitter);
    match faults.strikes(FaultKind::NetLatency, target) {
        Some(strike) => usual + random.duration_up_to(strike.amount.unwrap_or(LATE)),
        None => usual,
    }
}

fn has_arrived(arrival: Arrival, now: Mono) -> bool {
    arrival.is_some_and(|at| at <= now)
}

fn until(arrival: Arrival) -> Until {
    arrival.map_or(Until::Heal, Until::Time)
}

fn mishap_after(random: &mut Random) -> u64 {
    let most = 1 + random.below(MISHAP_OCTETS);
    random.below(most)
}

impl Direction {
    fn new(now: Mono) -> Direction {
        Direction {
            segments: VecDeque::new(),
            buffered: 0,
            last: now,
            is_holding: false,
            is_finished: false,
            is_cut: false,
            cut_after: None,
        }
    }

    fn push(&mut self, arrival: Arrival, octets: Bytes, mark: Mark) {
        self.buffered += octets.len();
        self.segments.push_back(Segment { arrival, octets, mark });
    }

    /// When octets that nobody has read arrive, or have arrived.
    fn unread(&self) -> Option<Arrival> {
        self.segments.front().filter(|first| !first.octets.is_empty()).map(|first| first.arrival)
    }
}

impl Connection {
    /// Draws the faults that a connection is born with.
    pub(crate) fn new(
        route: Route,
        settings: &NetSettings,
        mut random: Random,
        faults: &Faults,
        now: Mono,
    ) -> Connection {
        let strikes = |kind| faults.strikes(kind, &route.target).is_some();
        let mut directions = [Direction::new(now), Direction::new(now)];
        let mut capacity = settings.buffer_octets.max(1);
        if strikes(FaultKind::NetBackPressure) {
            let Range { start, end } = TINY_BUFFER_OCTETS;
            capacity = (start + random.below(end - start)) as usize;
        }
        let reset_after = strikes(FaultKind::NetReset).then(|| mishap_after(&mut random));
        if strikes(FaultKind::NetHalfClose) {
            let which = random.below(2) as usize;
            directions[which].cut_after = Some(mishap_after(&mut random));
        }
        let state = State {
            random,
            directions,
            ends: Default::default(),
            capacity,
            reset_after,
            is_silent: false,
            is_counted: true,
        };
        Connection {
            route,
            settings: settings.clone(),
            state: Mutex::new(state),
            readable: Default::default(),
            writable: Default::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn readable(&self, side: Side) -> &Notify {
        &self.readable[side as usize]
    }

    pub(crate) fn writable(&self, side: Side) -> &Notify {
        &self.writable[side as usize]
    }

    fn wake(&self, side: Side) {
        self.readable(side).notify_one();
        self.writable(side).notify_one();
    }

    pub(crate) fn address(&self, side: Side) -> SocketAddr {
        match side {
            Side::Dialler => self.route.dialler,
            Side::Listener => self.route.listener,
        }
    }

    /// Whether it was counted until now as standing.
    pub(crate) fn uncount(&self) -> bool {
        std::mem::take(&mut self.state().is_counted)
    }

    /// Whether neither end has let go of it.
    pub(crate) fn stands(&self) -> bool {
        self.state().is_counted
    }

    /// Whether the node still has an end of it.
    pub(crate) fn is_of_the_node(&self) -> bool {
        let state = self.state();
        let open = |side: &Side| !state.ends[*side as usize].is_closed;
        Side::BOTH.iter().filter(|side| self.route.lives[**side as usize].is_some()).any(open)
    }

    // ---- On the way -------------------------------------------------------------------------------------

    /// When what leaves `from` now arrives.
    fn arrival(&self, state: &mut State, from: Side, now: Mono, faults: &Faults) -> Arrival {
        let State { random, directions, .. } = state;
        let direction = &mut directions[from as usize];
        if let Some(far) = &self.route.far
            && (direction.is_holding || faults.strikes(FaultKind::NetPartition, far).is_some())
        {
            direction.is_holding = true;
            return None;
        }
        let delay = delay(&self.settings, random, faults, &self.route.target);
        direction.last = direction.last.max(now + delay);
        Some(direction.last)
    }

    /// Lets go what a partition held that is over.
    fn release(&self, state: &mut State, now: Mono, faults: &Faults) {
        let Some(far) = &self.route.far else { return };
        if !state.directions.iter().any(|direction| direction.is_holding)
            || faults.is_active(FaultKind::NetPartition, far)
        {
            return;
        }
        let State { random, directions, ends, .. } = state;
        for from in Side::BOTH {
            let direction = &mut directions[from as usize];
            if !std::mem::take(&mut direction.is_holding) {
                continue;
            }
            let again = random.duration_up_to(RETRANSMISSION);
            let delay = again + delay(&self.settings, random, faults, &self.route.target);
            direction.last = direction.last.max(now + delay);
            for segment in &mut direction.segments {
                segment.arrival.get_or_insert(direction.last);
            }
            if let Some(reset) = &mut ends[from.other() as usize].reset {
                reset.arrival.get_or_insert(direction.last);
            }
        }
    }

    /// RST from one end to the other.
    fn send_reset(&self, state: &mut State, from: Side, now: Mono, faults: &Faults) {
        let other = &state.ends[from.other() as usize];
        if state.is_silent || other.is_closed || other.reset.is_some() {
            return;
        }
        let arrival = self.arrival(state, from, now, faults);
        let discards = state.random.below(2) == 0;
        state.ends[from.other() as usize].reset = Some(Reset { arrival, discards });
        self.wake(from.other());
    }

    fn send_end(&self, state: &mut State, from: Side, now: Mono, faults: &Faults) {
        if state.is_silent {
            return;
        }
        let arrival = self.arrival(state, from, now, faults);
        state.directions[from as usize].push(arrival, Bytes::new(), Mark::Plain);
        self.readable(from.other()).notify_one();
    }

    /// Into the queue, whole or in pieces.
    fn send_octets(
        &self,
        state: &mut State,
        from: Side,
        (mut octets, mark): (Bytes, Mark),
        now: Mono,
        faults: &Faults,
    ) {
        let was_empty = state.directions[from as usize].segments.is_empty();
        if octets.len() > 1
            && faults.strikes(FaultKind::NetPartialWrite, &self.route.target).is_some()
        {
            for _ in 0..=state.random.below(3) {
                if octets.len() < 2 {
                    break;
                }
                let first = 1 + state.random.below(octets.len() as u64 - 1) as usize;
                let piece = octets.split_to(first);
                let arrival = self.arrival(state, from, now, faults);
                let apart = state.random.duration_up_to(PIECES_APART);
                let direction = &mut state.directions[from as usize];
                direction.push(arrival, piece, mark);
                direction.last = direction.last + apart;
            }
        }
        let arrival = self.arrival(state, from, now, faults);
        state.directions[from as usize].push(arrival, octets, mark);
        // Whoever waits for an earlier segment looks again when it has arrived.
        if was_empty {
            self.readable(from.other()).notify_one();
        }
    }

    // ---- Writing ----------------------------------------------------------------------------------------

    /// Writes what there is room for; says how much that was.
    pub(crate) fn try_send(
        &self,
        side: Side,
        (data, mark): (&[u8], Mark),
        now: Mono,
        faults: &Faults,
    ) -> Result<Tried<usize>, Failure> {
        let state = &mut *self.state();
        self.release(state, now, faults);
        let end = &state.ends[side as usize];
        if end.is_closed {
            return Ok(Tried::Wait(Until::Signal));
        }
        if end.reset.as_ref().is_some_and(|reset| has_arrived(reset.arrival, now)) {
            return Err(Failure::Reset);
        }
        if state.directions[side as usize].is_finished {
            return Err(Failure::Finished);
        }
        let room = state.capacity.saturating_sub(state.directions[side as usize].buffered);
        if room == 0 && !data.is_empty() {
            let reset = state.ends[side as usize].reset.as_ref();
            return Ok(Tried::Wait(reset.map_or(Until::Signal, |reset| until(reset.arrival))));
        }
        let taken = &data[..data.len().min(room)];
        Ok(Tried::Done(self.take(state, side, (taken, mark), now, faults)))
    }

    fn take(
        &self,
        state: &mut State,
        side: Side,
        (data, mark): (&[u8], Mark),
        now: Mono,
        faults: &Faults,
    ) -> usize {
        if !state.is_silent {
            state.is_silent = faults.strikes(FaultKind::NetSilence, &self.route.target).is_some();
        }
        if state.is_silent {
            // They stay in the writer's buffer, which nobody acknowledges.
            state.directions[side as usize].buffered += data.len();
            return data.len();
        }
        let passed =
            state.reset_after.map_or(data.len() as u64, |left| left.min(data.len() as u64));
        let data = &data[..passed as usize];
        self.pass(state, side, (data, mark), now, faults);
        if let Some(left) = &mut state.reset_after {
            *left -= passed;
            if *left == 0 {
                state.reset_after = None;
                self.reset_in_the_midst(state, side, now, faults);
            }
        }
        data.len()
    }

    /// Neither end wanted it: `side` learns of it at once, the other later.
    fn reset_in_the_midst(&self, state: &mut State, side: Side, now: Mono, faults: &Faults) {
        self.send_reset(state, side, now, faults);
        let discards = state.random.below(2) == 0;
        state.ends[side as usize].reset.get_or_insert(Reset { arrival: Some(now), discards });
        self.wake(side);
    }

    fn pass(
        &self,
        state: &mut State,
        side: Side,
        (mut data, mark): (&[u8], Mark),
        now: Mono,
        faults: &Faults,
    ) {
        let direction = &mut state.directions[side as usize];
        if direction.is_cut {
            return;
        }
        let mut is_cut_here = false;
        if let Some(left) = &mut direction.cut_after {
            let passed = (*left).min(data.len() as u64);
            data = &data[..passed as usize];
            *left -= passed;
            is_cut_here = *left == 0;
        }
        if state.ends[side.other() as usize].is_closed {
            self.answer_with_reset(state, side, now, faults);
        } else if !data.is_empty() {
            let octets = Bytes::copy_from_slice(data);
            self.send_octets(state, side, (octets, mark), now, faults);
        }
        if is_cut_here {
            self.send_end(state, side, now, faults);
            let direction = &mut state.directions[side as usize];
            (direction.is_cut, direction.cut_after) = (true, None);
        }
    }

    /// What goes to an end that is closed comes back as RST, after a round trip.
    fn answer_with_reset(&self, state: &mut State, side: Side, now: Mono, faults: &Faults) {
        let there = delay(&self.settings, &mut state.random, faults, &self.route.target);
        self.send_reset(state, side.other(), now + there, faults);
    }

    /// FIN.
    pub(crate) fn finish(&self, side: Side, now: Mono, faults: &Faults) {
        let state = &mut *self.state();
        self.release(state, now, faults);
        if !state.ends[side as usize].is_closed {
            self.finish_direction(state, side, now, faults);
        }
    }

    fn finish_direction(&self, state: &mut State, side: Side, now: Mono, faults: &Faults) {
        let direction = &mut state.directions[side as usize];
        if std::mem::replace(&mut direction.is_finished, true) || direction.is_cut {
            return;
        }
        self.send_end(state, side, now, faults);
    }

    // ---- Reading ----------------------------------------------------------------------------------------

    /// Appends what has arrived, of one kind: the one that is wanted, or whatever comes first. 0 octets are the end.
    pub(crate) fn try_receive(
        &self,
        side: Side,
        wanted: Option<Mark>,
        buffer: &mut BytesMut,
        now: Mono,
        faults: &Faults,
    ) -> Result<Tried<(usize, Mark)>, Failure> {
        let state = &mut *self.state();
        self.release(state, now, faults);
        let end = &state.ends[side as usize];
        if end.is_closed {
            return Ok(Tried::Wait(Until::Signal));
        }
        let reset = end.reset.as_ref();
        if reset.is_some_and(|reset| reset.discards && has_arrived(reset.arrival, now)) {
            return Err(Failure::Reset);
        }
        let direction = &state.directions[side.other() as usize];
        let Some(first) = direction.segments.front() else {
            return match reset.map(|reset| reset.arrival) {
                Some(arrival) if has_arrived(arrival, now) => Err(Failure::Reset),
                Some(arrival) => Ok(Tried::Wait(until(arrival))),
                None => Ok(Tried::Wait(Until::Signal)),
            };
        };
        if !has_arrived(first.arrival, now) {
            return Ok(Tried::Wait(until(first.arrival)));
        }
        let (len, mark) = (first.octets.len(), first.mark);
        if len == 0 {
            // RST that comes behind FIN is seen by writers only.
            return Ok(Tried::Done((0, wanted.unwrap_or(mark))));
        }
        if wanted.is_some_and(|wanted| wanted != mark) {
            return Err(Failure::WrongMark);
        }
        let mut most = READ_CHUNK_OCTETS;
        if faults.strikes(FaultKind::NetPartialRead, &self.route.target).is_some() {
            most = 1 + state.random.below(len as u64) as usize;
        }
        let read = take_arrived(&mut state.directions[side.other() as usize], buffer, most, now);
        self.writable(side.other()).notify_one();
        Ok(Tried::Done((read, mark)))
    }

    // ---- Ending -----------------------------------------------------------------------------------------

    /// The owner lets go of an end: FIN, or RST if octets wait unread; RST behind FIN if some are still on their way.
    pub(crate) fn close(&self, side: Side, now: Mono, faults: &Faults) {
        let state = &mut *self.state();
        self.release(state, now, faults);
        if state.ends[side as usize].is_closed {
            return;
        }
        let unread = state.directions[side.other() as usize].unread();
        if !unread.is_some_and(|arrival| has_arrived(arrival, now)) {
            self.finish_direction(state, side, now, faults);
        }
        if let Some(arrival) = unread {
            let noticed = arrival.map_or(now, |at| at.max(now));
            self.send_reset(state, side, noticed, faults);
        }
        self.abandon(state, side);
    }

    /// RST.
    pub(crate) fn reset(&self, side: Side, now: Mono, faults: &Faults) {
        let state = &mut *self.state();
        self.release(state, now, faults);
        if state.ends[side as usize].is_closed {
            return;
        }
        self.send_reset(state, side, now, faults);
        self.abandon(state, side);
    }

    /// The machine at this end is gone, and with it what it hadn't sent.
    pub(crate) fn vanish(&self, side: Side) {
        let state = &mut *self.state();
        if state.ends[side as usize].is_closed {
            return;
        }
        state.is_silent = true;
        let direction = &mut state.directions[side as usize];
        direction.segments.retain(|segment| segment.arrival.is_some());
        if let Some(reset) = &state.ends[side.other() as usize].reset
            && reset.arrival.is_none()
        {
            state.ends[side.other() as usize].reset = None;
        }
        self.abandon(state, side);
    }

    /// Nobody will read here any more.
    fn abandon(&self, state: &mut State, side: Side) {
        state.ends[side as usize].is_closed = true;
        // There is no more room for that: what isn't acknowledged stays in its writer's buffer.
        state.directions[side.other() as usize].segments.clear();
        self.wake(side.other());
    }
}

/// Moves octets of the first one's kind into `buffer`.
fn take_arrived(direction: &mut Direction, buffer: &mut BytesMut, most: usize, now: Mono) -> usize {
    let Some(mark) = direction.segments.front().map(|first| first.mark) else { return 0 };
    let mut room = most;
    while room > 0
        && let Some(first) = direction.segments.front_mut()
        && first.mark == mark
        && !first.octets.is_empty()
        && has_arrived(first.arrival, now)
    {
        let count = first.octets.len().min(room);
        buffer.extend_from_slice(&first.octets[..count]);
        first.octets.advance(count);
        room -= count;
        if first.octets.is_empty() {
            direction.segments.pop_front();
        }
    }
    direction.buffered -= most - room;
    most - room
}

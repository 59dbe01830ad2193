//! At start, while mail is accepted already: what the spool holds from earlier lives goes into the engine; bodies without
//! an envelope are swept afterwards. Invariant: only ids of earlier lives are looked at, each once; a record that can't be
//! read stays where it is and is counted. Nothing is removed but orphans, and they only if no record can have been lost.
use crate::committer::{Submission, Waiter};
use crate::dispatchers::Dispatchers;
use crate::engine_loop::Mail;
use crate::shared::{LoadError, SPOOL_DEADLINE, Shared};
use crate::world::World;
use kumo_core::commit::Work;
use kumo_core::engine::{Admission, Engine, Input, InsertReason};
use kumo_core::health::Call;
use kumo_core::id::SpoolId;
use kumo_core::marks::{Mark, reached};
use kumo_core::port::{Damage, Family, ScanPage, Spool};
use kumo_core::queue_name;
use kumo_core::record::{MetaRecord, decode_meta};
use kumo_core::time::{Duration, Mono};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Entries read at one time.
const PAGE: usize = 1024;
/// Between tries while the spool doesn't answer, or the engine is full.
const PAUSE: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// Names of queues kept so that messages of one queue share one.
const NAMES: usize = 100_000;

#[derive(Debug, Default)]
struct Progress {
    admitted: u64,
    failed: u64,
    /// Something of the spool couldn't be read at all.
    damaged: bool,
}

pub(crate) async fn run<W: World>(shared: Arc<Shared<W>>) {
    let started = shared.now().mono;
    let mut progress = Progress::default();
    let finished = admit_all(&shared, started, &mut progress).await;
    let seconds = shared.now().mono.since(started).as_secs_f64().max(0.001);
    let Progress { admitted, failed, damaged } = progress;
    let rate = admitted as f64 / seconds;
    let end = if finished { "done" } else { "aborted" };
    tracing::info!(
        "start_spool: enumeration {end}, spooled in {admitted} msgs over {seconds:.3}s {rate:.0}/s"
    );
    if failed > 0 {
        let total = admitted + failed;
        tracing::error!("start_spool: {failed}/{total} messages failed and were left in the spool");
    }
    if damaged || shared.world.spool().may_lack_records() {
        tracing::error!(
            "bodies without an envelope are kept: the envelope may be in a part of the spool that is damaged, now or when the folder \
             damaged-* in it was made; remove that once it is of no more use"
        );
    } else if finished {
        sweep(&shared).await;
    }
}

/// False if the process stops before the end.
async fn admit_all<W: World>(shared: &Shared<W>, started: Mono, progress: &mut Progress) -> bool {
    let mut names = HashMap::new();
    let mut from = None;
    let mut report_at = started + REPORT_EVERY;
    loop {
        let Some(page) = page(shared, Family::Meta, from, false).await else { return false };
        progress.damaged |= !page.damaged.is_empty();
        progress.failed += tell_damage(shared, &page.damaged);
        for (id, value) in page.entries {
            if id == SpoolId::PROBE {
                remove(shared, id).await;
                continue;
            }
            if shared.made(id) {
                continue;
            }
            match decode_meta(id, &value) {
                Ok(record) => {
                    let admission = admission(id, &record, &mut names);
                    progress.admitted += 1;
                    shared.tell_engine(Input::Admit(admission)).await;
                }
                Err(error) => {
                    progress.failed += 1;
                    let _: LoadError = shared.damaged(id, &error.to_string());
                }
            }
        }
        let now = shared.now().mono;
        if now >= report_at {
            report_at = now + REPORT_EVERY;
            tracing::info!("start_spool: still enumerating. {} so far", progress.admitted);
        }
        while shared.is_full() && !shared.is_stopping() {
            sleep(PAUSE).await;
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return true,
        }
    }
}

/// How many messages it names.
fn tell_damage<W: World>(shared: &Shared<W>, damaged: &[Damage]) -> u64 {
    let mut named = 0;
    for Damage { family, id, text } in damaged {
        reached(Mark::ScanDamaged);
        shared.health.damaged(shared.now().mono, *family, text);
        match id {
            // What this life made is the engine's, and whoever needs it will read it.
            Some(id) if !shared.made(*id) => {
                named += 1;
                let _: LoadError = shared.damaged(*id, text);
            }
            _ => tracing::error!("a part of the spool can't be read: {text}"),
        }
    }
    named
}

fn admission(id: SpoolId, record: &MetaRecord, names: &mut HashMap<String, Arc<str>>) -> Admission {
    let queue = queue_name::of(&record.envelope, &record.remaining, &record.meta);
    if names.len() >= NAMES {
        names.clear();
    }
    let queue = names.entry(queue).or_insert_with_key(|name| name.as_str().into()).clone();
    Admission {
        id,
        queue,
        recipients: u32::try_from(record.envelope.recipients.len()).unwrap_or(u32::MAX),
        remaining: record.remaining.clone(),
        size: record.size,
        attempts: record.attempts,
        due: record.schedule.due,
        expires: record.schedule.expires,
        reason: InsertReason::Enumerated,
    }
}

/// Tries until it is read; `None` once the process stops.
async fn page<W: World>(
    shared: &Shared<W>,
    family: Family,
    from: Option<SpoolId>,
    keys_only: bool,
) -> Option<ScanPage> {
    while !shared.is_stopping() {
        let scan = shared.world.spool().scan(family, from, PAGE, keys_only);
        match timeout(SPOOL_DEADLINE, scan).await {
            Ok(Ok(page)) => return Some(page),
            Ok(Err(error)) => {
                shared.health.failed(shared.now().mono, family, Call::Read, &error);
                tracing::error!("the spool can't be read: {error}");
            }
            Err(_) => tracing::error!("the spool didn't answer within {SPOOL_DEADLINE:?}"),
        }
        sleep(PAUSE).await;
    }
    None
}

/// Removes bodies of earlier lives that have no envelope: their transactions were never answered 250.
async fn sweep<W: World>(shared: &Arc<Shared<W>>) {
    let mut from = None;
    while let Some(page) = page(shared, Family::Data, from, true).await {
        tell_damage(shared, &page.damaged);
        let old: Vec<SpoolId> =
            page.entries.into_iter().map(|(id, _)| id).filter(|id| !shared.made(*id)).collect();
        for id in not_held(shared, old).await {
            let meta = timeout(SPOOL_DEADLINE, shared.world.spool().get(Family::Meta, id)).await;
            if !matches!(meta, Ok(Ok(None))) {
                continue;
            }
            // It may have been opened again meanwhile.
            if shared.world.spool().may_lack_records() {
                return;
            }
            reached(Mark::OrphanSwept);
            shared.counters.orphans_swept.add(1);
            tracing::info!(%id, "a body without an envelope was swept from the spool");
            remove(shared, id).await;
        }
        let Some(next) = page.next else { return };
        from = Some(next);
    }
}

async fn remove<W: World>(shared: &Shared<W>, id: SpoolId) {
    let work = Work::Remove { id };
    let submission = Submission { work, waiter: Waiter::Nobody, deadline: None };
    let _ = shared.committer.send(submission).await;
}

async fn not_held<W: World>(shared: &Shared<W>, ids: Vec<SpoolId>) -> Vec<SpoolId> {
    let (answer, answered) = oneshot::channel();
    let look = Box::new(move |engine: &Engine, _: &Dispatchers, _| {
        let rest = ids.into_iter().filter(|id| !engine.holds(*id)).collect();
        let _ = answer.send(rest);
    });
    let _ = shared.engine.send(Mail::Query(look)).await;
    answered.await.unwrap_or_default()
}

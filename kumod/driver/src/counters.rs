//! What the driver counts, for metrics: plain atomics, read at scrape time. Names and labels are kumod's business.
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One direction of one service, such as `esmtp_listener` or `smtp_client`.
#[derive(Debug, Default)]
pub struct Service {
    /// Connections that stand now.
    pub connections: Counter,
    pub connections_total: Counter,
    pub connections_denied: Counter,
    /// Messages received, or delivered.
    pub messages: Counter,
    pub failed: Counter,
    pub transiently_failed: Counter,
    pub rejections: Counter,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub esmtp_listener: Service,
    pub http_listener: Service,
    pub smtp_client: Service,
    /// Of outgoing connections: the source's address is on no interface; and addresses of proxies that couldn't be used.
    pub bind_failures: Counter,
    pub proxy_connection_failures: Counter,
    /// Batches handed to the spool with sync, and messages in them.
    pub synced_batches: Counter,
    pub committed_messages: Counter,
    /// Acknowledged without being durable, by reason.
    pub waived_flush_off: Counter,
    pub waived_null_queue: Counter,
    /// Stores that ended after their deadline and were undone.
    pub undone: Counter,
    pub quarantined: Counter,
    pub orphans_swept: Counter,
    /// Log records that nobody could be made to wait for any longer.
    pub records_lost: Counter,
    /// Tasks that outlived their fence, now.
    pub fenced_tasks: Counter,
    pub late_completions: Counter,
    /// Inputs that a slow journal disk made us leave out.
    pub journal_gaps: Counter,
    pub body_cache_octets: Counter,
    pub body_cache_messages: Counter,
}

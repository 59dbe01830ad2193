//! When a message is tried next, and when its time is up (core.md 3.2). Pure arithmetic on the engine's clock.
use crate::config::QueueConfig;
use crate::random::Random;
use crate::time::Duration;

/// What jitter may add or take away, in all.
fn jitter_width(config: &QueueConfig) -> Duration {
    (config.retry_interval / 20).min(Duration::from_secs(60))
}

/// The wait after the `attempts`-th failed attempt (from 1), without jitter.
pub fn retry_delay(config: &QueueConfig, attempts: u16) -> Duration {
    let doublings = u32::from(attempts.saturating_sub(1)).min(63);
    let factor = 1u64 << doublings;
    let nanos = config.retry_interval.as_nanos().saturating_mul(u128::from(factor));
    let delay = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    delay.min(config.max_retry_interval.unwrap_or(Duration::MAX))
}

/// With jitter, uniform over its width and centred on the delay.
pub fn jittered(config: &QueueConfig, delay: Duration, random: &mut Random) -> Duration {
    let width = jitter_width(config);
    (delay + random.duration_up_to(width)).saturating_sub(width / 2)
}

/// `limit · (1 − e^(−0.023 · queued))` rounded up, at most `queued`: a few messages don't open every connection.
/// In fixed point, so that every machine decides the same.
pub fn ideal_connections(limit: u64, queued: u64) -> u64 {
    const ONE: u128 = 1 << 32;
    const RATIO: u128 = 4_197_309_873; // e^-0.023 · 2^32
    let (mut power, mut base, mut exponent) = (ONE, RATIO, queued.min(1 << 20));
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = (power * base) >> 32;
        }
        base = (base * base) >> 32;
        exponent >>= 1;
    }
    let ideal = (u128::from(limit) * (ONE - power)).div_ceil(ONE);
    u64::try_from(ideal).unwrap_or(u64::MAX).min(queued).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn delays_double_up_to_the_maximum() {
        let config = QueueConfig::default();
        let minutes = |attempts| retry_delay(&config, attempts) / 60;
        assert_eq!([minutes(1), minutes(2), minutes(3)].map(|d| d.as_secs()), [20, 40, 80]);
        let hurried = QueueConfig { retry_interval: MINUTE, ..QueueConfig::default() };
        assert_eq!(
            [1, 2, 3].map(|k| retry_delay(&hurried, k) / 60).map(|d| d.as_secs()),
            [1, 2, 4]
        );
        let capped =
            QueueConfig { max_retry_interval: Some(30 * MINUTE), ..QueueConfig::default() };
        assert_eq!(retry_delay(&capped, 2), 30 * MINUTE);
        assert_eq!(retry_delay(&capped, u16::MAX), 30 * MINUTE);
        assert!(retry_delay(&config, u16::MAX) > 1_000_000 * MINUTE, "no overflow");
    }

    #[test]
    fn jitter_is_centred_and_at_most_half_a_minute_each_way() {
        let config = QueueConfig::default();
        let mut random = Random::new(1, "test");
        let draws: alloc::vec::Vec<Duration> =
            (0..1000).map(|_| jittered(&config, 20 * MINUTE, &mut random)).collect();
        assert!(draws.iter().all(|d| *d >= 20 * MINUTE - MINUTE / 2));
        assert!(draws.iter().all(|d| *d <= 20 * MINUTE + MINUTE / 2));
        assert!(draws.iter().any(|d| *d < 20 * MINUTE - MINUTE / 4));
        assert!(draws.iter().any(|d| *d > 20 * MINUTE + MINUTE / 4));
    }

    #[test]
    fn connections_grow_with_the_queue_as_documented() {
        let table = [
            (0, 0),
            (1, 1),
            (4, 3),
            (10, 7),
            (32, 17),
            (64, 25),
            (128, 31),
            (256, 32),
            (1 << 40, 32),
        ];
        for (queued, ideal) in table {
            assert_eq!(ideal_connections(32, queued), ideal, "{queued} queued");
        }
        assert_eq!(ideal_connections(1, 1000), 1);
        assert_eq!(ideal_connections(u64::MAX, 3), 3);
    }
}

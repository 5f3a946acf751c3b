//! How often each limit of the configuration was reached: one counter per key.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::config::LIMITS;

/// A counter per key of [`LIMITS`]. Cloned, it counts the same.
#[derive(Clone)]
pub struct LimitMetrics(IntCounterVec);

impl LimitMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "How often a limit was reached, by its key in the configuration.";
        let reached =
            IntCounterVec::new(Opts::new("sluice_limit_reached_total", help), &["limit"])?;
        registry.register(Box::new(reached.clone()))?;
        // All are there from the start, so that a rate can be taken of the first time too.
        LIMITS.iter().for_each(|key| drop(reached.with_label_values(&[*key])));
        Ok(Self(reached))
    }

    /// The counter of a key, to keep where it is needed often.
    pub fn of(&self, key: &'static str) -> IntCounter {
        debug_assert!(LIMITS.contains(&key), "{key}");
        self.0.with_label_values(&[key])
    }

    /// Counts that the limit of this key was reached.
    pub fn reached(&self, key: &'static str) {
        self.of(key).inc();
    }

    /// Counts the limit that an error tells of, if it does.
    pub fn count(&self, error: &crate::error::PgError) {
        if let Some(key) = error.limit {
            self.reached(key);
        }
    }
}

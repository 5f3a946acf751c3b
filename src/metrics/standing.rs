//! The numbers of how hosts do.

use prometheus::{
    Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

const LABELS: &[&str] = &["database", "shard", "role", "host"];

/// Of all hosts.
pub(super) struct Standings {
    failures: IntCounterVec,
    opened: IntCounterVec,
    rests: IntCounterVec,
    open: IntGaugeVec,
    latency: GaugeVec,
    repeated: IntCounterVec,
}

/// Handles for one host.
#[derive(Clone)]
pub struct StandingMetrics {
    /// Connections that failed or were lost.
    pub failures: IntCounter,
    /// How often the breaker opened.
    pub opened: IntCounter,
    /// How often it rested since it was far from the other replicas.
    pub rests: IntCounter,
    /// 1 while the breaker is open.
    pub open: IntGauge,
    /// As of late, in seconds.
    pub latency: Gauge,
    /// Reads that failed there and were run again.
    pub repeated: IntCounter,
}

impl Standings {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str| {
            let made = IntCounterVec::new(Opts::new(name, help), LABELS)?;
            registry.register(Box::new(made.clone())).map(|()| made)
        };
        let open = Opts::new("sluice_breaker_open", "1 while the host is left alone.");
        let open = IntGaugeVec::new(open, LABELS)?;
        registry.register(Box::new(open.clone()))?;
        let latency = Opts::new("sluice_host_latency_seconds", "Average latency of late.");
        let latency = GaugeVec::new(latency, LABELS)?;
        registry.register(Box::new(latency.clone()))?;
        Ok(Self {
            failures: counters(
                "sluice_host_failures_total",
                "Connections to the host that failed or were lost.",
            )?,
            opened: counters("sluice_breaker_opened_total", "How often a breaker opened.")?,
            rests: counters(
                "sluice_outlier_rests_total",
                "How often a replica rested since it was far from the others.",
            )?,
            repeated: counters(
                "sluice_reads_repeated_total",
                "Reads that failed on the host and were run again on another.",
            )?,
            open,
            latency,
        })
    }

    pub(super) fn forget(&self, labels: &[&str]) {
        // An error only says that there is none.
        let _ = self.open.remove_label_values(labels);
        let _ = self.latency.remove_label_values(labels);
    }

    pub(super) fn of(&self, labels: &[&str]) -> StandingMetrics {
        StandingMetrics {
            failures: self.failures.with_label_values(labels),
            opened: self.opened.with_label_values(labels),
            rests: self.rests.with_label_values(labels),
            open: self.open.with_label_values(labels),
            latency: self.latency.with_label_values(labels),
            repeated: self.repeated.with_label_values(labels),
        }
    }
}

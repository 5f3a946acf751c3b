//! How a host does: how much runs there, how long it takes, whether it may be used now. What every
//! request asks for is a few atomics; what is only there in trouble lies behind a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::balance::{Breaker, Latency, Load, Rest, Rules, Sample, State};
use crate::config::{Config, Preference};
use crate::metrics::StandingMetrics;
use crate::net::Moment;

/// The share of reads that a replica gets which has just come back.
const LEAST_SHARE: f32 = 0.1;
/// Over how long shares of failures are looked at.
const WINDOW: Duration = Duration::from_secs(10);

/// What choosing a host goes by. Shared by the host and its pools.
pub struct Standing {
    /// Connections in use, of all users.
    outstanding: AtomicUsize,
    /// Of a [`Latency`].
    latency: AtomicU64,
    weight: AtomicU32,
    is_far: AtomicBool,
    /// Whether there is more to know: failures, a rest, a slow start.
    is_troubled: AtomicBool,
    trouble: Mutex<Trouble>,
    metrics: StandingMetrics,
}

struct Trouble {
    rules: Rules,
    breaker: Breaker,
    rest: Rest,
    slow_start: Duration,
    /// Since when it is back.
    back_since: Option<Duration>,
    /// Failures since the start.
    failures: u64,
    /// When, requests, failures: at the last look and at the begin of the breaker's window.
    seen: (u64, u64),
    window: (Duration, u64, u64),
}

/// A moment's numbers, for the console.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// `closed`, `open`, `half-open` or `resting`.
    pub breaker: &'static str,
    /// In milliseconds.
    pub latency_ms: f32,
    pub weight: u32,
    /// The part of the weight that counts now, in percent.
    pub share: u32,
    pub failures: u64,
}

impl Standing {
    /// Of a host that nobody has used yet.
    pub fn new(metrics: StandingMetrics) -> Self {
        let rules = Rules { failure_threshold: 5, failure_rate: 0, reset_timeout: WINDOW };
        Self {
            outstanding: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
            weight: AtomicU32::new(1),
            is_far: AtomicBool::new(false),
            is_troubled: AtomicBool::new(false),
            trouble: Mutex::new(Trouble {
                rules,
                breaker: Breaker::default(),
                rest: Rest::default(),
                slow_start: Duration::ZERO,
                back_since: None,
                failures: 0,
                seen: (0, 0),
                window: (Duration::ZERO, 0, 0),
            }),
            metrics,
        }
    }

    /// Takes over what the configuration says.
    pub fn configure(&self, config: &Config, preference: &Preference) {
        let (own, its) = (&config.listen.region, &preference.region);
        let is_far = own.is_some() && its.is_some() && own != its;
        self.weight.store(u32::from(preference.weight), Ordering::Relaxed);
        self.is_far.store(is_far, Ordering::Relaxed);
        let health = &config.health;
        let mut trouble = self.trouble.lock();
        trouble.slow_start = health.slow_start;
        trouble.rules = Rules {
            failure_threshold: health.failure_threshold,
            failure_rate: health.failure_rate,
            reset_timeout: health.reset_timeout,
        };
    }

    /// Connections in use, of all users.
    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// What picking a host needs to know of one that health checks find well.
    pub fn load(&self, now: Moment) -> Load {
        let mut load = Load {
            is_up: true,
            is_far: self.is_far.load(Ordering::Relaxed),
            outstanding: self.outstanding(),
            latency: self.latency().at(milliseconds(now)),
            weight: self.weight.load(Ordering::Relaxed) as f32,
        };
        if self.is_troubled.load(Ordering::Relaxed) {
            let (now, trouble) = (age(now), self.trouble.lock());
            load.is_up = trouble.may_be_used(now);
            load.weight *= trouble.share(now);
        }
        load
    }

    fn latency(&self) -> Latency {
        Latency::from_bits(self.latency.load(Ordering::Relaxed))
    }

    /// Whether a request may go there now; the host is then to be told what became of it, since it may
    /// be the only one that is let through.
    pub fn admit(&self, now: Moment) -> bool {
        if !self.is_troubled.load(Ordering::Relaxed) {
            return true;
        }
        let mut trouble = self.trouble.lock();
        let rules = trouble.rules;
        !trouble.rest.is_resting(age(now)) && trouble.breaker.admit(age(now), &rules)
    }

    /// A request was answered, which took `seconds`.
    pub fn answered(&self, now: Moment, seconds: f64) {
        // Two at once: one of them is not counted.
        let before = self.latency();
        let after = before.observed(milliseconds(now), seconds as f32);
        if after != before {
            self.latency.store(after.to_bits(), Ordering::Relaxed);
        }
        if self.is_troubled.load(Ordering::Relaxed) {
            self.settle(now);
        }
    }

    #[cold]
    fn settle(&self, now: Moment) {
        let mut trouble = self.trouble.lock();
        if trouble.breaker.answered() {
            trouble.back_since = Some(age(now));
            self.metrics.open.set(0);
        }
        self.note_trouble(&trouble, age(now));
    }

    fn note_trouble(&self, trouble: &Trouble, now: Duration) {
        self.is_troubled.store(trouble.is_there(now), Ordering::Relaxed);
    }

    /// It could not be reached, or a connection was lost; whether that opened the breaker.
    pub fn failed(&self, now: Moment) -> bool {
        let mut trouble = self.trouble.lock();
        trouble.failures += 1;
        self.metrics.failures.inc();
        let rules = trouble.rules;
        let opened = trouble.breaker.failed(age(now), &rules);
        self.note_open(opened);
        self.note_trouble(&trouble, age(now));
        opened
    }

    /// A read that failed there is run on another host.
    pub fn repeated(&self) {
        self.metrics.repeated.inc();
    }

    fn note_open(&self, opened: bool) {
        if opened {
            self.metrics.opened.inc();
            self.metrics.open.set(1);
        }
    }

    /// How long nobody is let through.
    pub fn wait(&self, now: Moment) -> Duration {
        let trouble = self.trouble.lock();
        trouble.breaker.wait(age(now), &trouble.rules)
    }

    /// Whether its breaker has opened.
    pub fn is_broken(&self) -> bool {
        self.is_troubled.load(Ordering::Relaxed)
            && !matches!(self.trouble.lock().breaker.state(), State::Closed { .. })
    }

    /// A health check has found it well again: what it was like before does not count.
    pub fn recovered(&self, now: Moment) {
        let mut trouble = self.trouble.lock();
        trouble.breaker = Breaker::default();
        trouble.rest = Rest::default();
        trouble.back_since = Some(age(now));
        self.latency.store(0, Ordering::Relaxed);
        self.metrics.open.set(0);
        self.note_trouble(&trouble, age(now));
    }

    /// Looks at what has been since the last look: `calls` are the requests since the start. Opens the
    /// breaker if too many of them have failed.
    pub fn look(&self, now: Moment, calls: u64, is_up: bool) -> Sample {
        let moment = age(now);
        let mut trouble = self.trouble.lock();
        let (failures, rules) = (trouble.failures, trouble.rules);
        let (since, calls_then, failures_then) = trouble.window;
        let of_window = (calls.saturating_sub(calls_then), failures - failures_then);
        let opened = trouble.breaker.judge(moment, of_window, &rules);
        self.note_open(opened);
        if opened || moment >= since + WINDOW {
            trouble.window = (moment, calls, failures);
        }
        let (calls_seen, failures_seen) = std::mem::replace(&mut trouble.seen, (calls, failures));
        self.note_trouble(&trouble, moment);
        let latency = self.latency().at(milliseconds(now));
        self.metrics.latency.set(latency.into());
        Sample {
            calls: calls.saturating_sub(calls_seen),
            failures: failures - failures_seen,
            latency,
            is_out: !is_up || !trouble.may_be_used(moment),
        }
    }

    /// Notes whether it is far from the other replicas; for how long it rests, if it begins to.
    pub fn compare(&self, now: Moment, is_outlier: bool) -> Option<Duration> {
        let mut trouble = self.trouble.lock();
        let first = trouble.rules.reset_timeout;
        let rest = trouble.rest.look(is_outlier, age(now), first);
        if let Some(rest) = rest {
            self.metrics.rests.inc();
            trouble.back_since = Some(age(now) + rest);
            // What made it rest is not to be held against it afterwards.
            self.latency.store(0, Ordering::Relaxed);
        }
        self.note_trouble(&trouble, age(now));
        rest
    }

    /// The numbers of this moment.
    pub fn show(&self, now: Moment) -> Shown {
        let trouble = self.trouble.lock();
        let breaker = match trouble.breaker.state() {
            State::Closed { .. } if trouble.rest.is_resting(age(now)) => "resting",
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half-open",
        };
        Shown {
            breaker,
            latency_ms: self.latency().at(milliseconds(now)) * 1000.0,
            weight: self.weight.load(Ordering::Relaxed),
            share: (trouble.share(age(now)) * 100.0) as u32,
            failures: trouble.failures,
        }
    }
}

impl Trouble {
    fn may_be_used(&self, now: Duration) -> bool {
        !self.rest.is_resting(now) && self.breaker.would_admit(now, &self.rules)
    }

    /// What of its weight counts, which grows after it has come back.
    fn share(&self, now: Duration) -> f32 {
        match self.back_since {
            Some(since) if !self.slow_start.is_zero() => {
                let grown = now.saturating_sub(since).as_secs_f32() / self.slow_start.as_secs_f32();
                grown.clamp(LEAST_SHARE, 1.0)
            }
            _ => 1.0,
        }
    }

    fn is_there(&self, now: Duration) -> bool {
        !self.breaker.is_untroubled() || self.rest.is_resting(now) || self.share(now) < 1.0
    }
}

/// As the pure machines count it.
fn age(now: Moment) -> Duration {
    Duration::from_nanos(now.nanos().max(0) as u64)
}

fn milliseconds(now: Moment) -> u32 {
    (now.nanos() / 1_000_000) as u32
}

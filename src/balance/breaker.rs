//! A circuit breaker: a host that fails again and again is left alone for a while, then tried by one
//! request at a time.
//!
//! ```text
//!            failures in a row, or too many of all            reset_timeout
//!   Closed ───────────────────────────────────────▶ Open ─────────────────────▶ HalfOpen
//!      ▲                                              ▲                          │    │
//!      │                                              └───────── failed ─────────┘    │
//!      └───────────────────────────────── answered ───────────────────────────────────┘
//! ```

use std::time::Duration;

/// So many requests must have been made before their share of failures says something.
const ENOUGH: u64 = 20;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Failures in a row.
    pub failure_threshold: u32,
    /// Failures among requests, in percent; zero: any share.
    pub failure_rate: u32,
    pub reset_timeout: Duration,
}

/// Times are since any moment in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests go through.
    Closed { failures: u32 },
    /// None does.
    Open { until: Duration },
    /// One is on its way.
    HalfOpen { since: Duration },
}

/// The breaker of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    state: State,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed { failures: 0 } }
    }
}

impl Breaker {
    /// What it is in.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether requests go through and none has failed since the last that was answered.
    pub fn is_untroubled(&self) -> bool {
        self.state == State::Closed { failures: 0 }
    }

    /// Whether a request would be let through now.
    pub fn would_admit(&self, now: Duration, rules: &Rules) -> bool {
        self.wait(now, rules).is_zero()
    }

    /// Whether a request is let through; after a rest it is the only one until it has ended.
    pub fn admit(&mut self, now: Duration, rules: &Rules) -> bool {
        let admits = self.would_admit(now, rules);
        if admits && !matches!(self.state, State::Closed { .. }) {
            self.state = State::HalfOpen { since: now };
        }
        admits
    }

    /// How long no request is let through.
    pub fn wait(&self, now: Duration, rules: &Rules) -> Duration {
        let until = match self.state {
            State::Closed { .. } => now,
            State::Open { until } => until,
            // Then nobody has told what became of it.
            State::HalfOpen { since } => since + rules.reset_timeout,
        };
        until.saturating_sub(now)
    }

    /// A request has failed; whether that opened the breaker.
    pub fn failed(&mut self, now: Duration, rules: &Rules) -> bool {
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < rules.failure_threshold => {
                State::Closed { failures: failures + 1 }
            }
            // Begun before it opened.
            State::Open { .. } => return false,
            _ => State::Open { until: now + rules.reset_timeout },
        };
        matches!(self.state, State::Open { .. })
    }

    /// A request was answered; whether that closed the breaker.
    pub fn answered(&mut self) -> bool {
        match self.state {
            State::Open { .. } => false,
            State::Closed { .. } | State::HalfOpen { .. } => {
                let closes = matches!(self.state, State::HalfOpen { .. });
                *self = Self::default();
                closes
            }
        }
    }

    /// Looks at the requests of a while and how many of them failed; whether that opened the breaker.
    pub fn judge(&mut self, now: Duration, (calls, failures): (u64, u64), rules: &Rules) -> bool {
        let is_closed = matches!(self.state, State::Closed { .. });
        let share = failures.saturating_mul(100) / calls.max(failures).max(1);
        let is_much = rules.failure_rate > 0 && share >= u64::from(rules.failure_rate);
        let opens = is_closed && calls.max(failures) >= ENOUGH && is_much;
        if opens {
            self.state = State::Open { until: now + rules.reset_timeout };
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { failure_threshold: 3, failure_rate: 50, reset_timeout: Duration::from_secs(30) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `f`: failed, `a`: answered, `?`: asked in vain, `!`: asked and let through, `+`: ten seconds later.
    fn play(steps: &str) -> State {
        let (mut breaker, mut now) = (Breaker::default(), at(100));
        for step in steps.chars() {
            match step {
                'f' => drop(breaker.failed(now, &RULES)),
                'a' => drop(breaker.answered()),
                '?' => assert!(!breaker.admit(now, &RULES), "{steps}: {breaker:?}"),
                '!' => assert!(breaker.admit(now, &RULES), "{steps}: {breaker:?}"),
                _ => now += at(10),
            }
        }
        breaker.state()
    }

    #[test]
    fn transitions() {
        for (steps, state) in [
            ("!!", State::Closed { failures: 0 }),
            ("ff!", State::Closed { failures: 2 }),
            ("ffaff!", State::Closed { failures: 2 }),
            ("fff?", State::Open { until: at(130) }),
            // What was begun before says nothing.
            ("fffa?+f?", State::Open { until: at(130) }),
            ("fff++?+!", State::HalfOpen { since: at(130) }),
            ("fff+++!?", State::HalfOpen { since: at(130) }),
            ("fff+++!?a!!", State::Closed { failures: 0 }),
            ("fff+++!f?", State::Open { until: at(160) }),
            ("fff+++!f+++!", State::HalfOpen { since: at(160) }),
            // A probe that nobody hears of.
            ("fff+++!+?+?+!", State::HalfOpen { since: at(160) }),
        ] {
            assert_eq!(play(steps), state, "{steps}");
        }
    }

    #[test]
    fn shares_of_failures() {
        for (calls, failures, opens) in
            [(100, 50, true), (100, 49, false), (19, 19, false), (20, 10, true), (0, 25, true)]
        {
            let mut breaker = Breaker::default();
            assert_eq!(breaker.judge(at(1), (calls, failures), &RULES), opens, "{calls}");
            assert_eq!(breaker.admit(at(2), &RULES), !opens);
        }
        let any = Rules { failure_rate: 0, ..RULES };
        assert!(!Breaker::default().judge(at(1), (100, 100), &any));
    }

    /// Whatever happens: between two that are let through by an open or half-open breaker lies
    /// `reset_timeout`, and an answer to one that was let through ends it.
    #[test]
    fn at_most_one_probe() {
        for seed in 0..300_u64 {
            let (mut breaker, mut now, mut last) = (Breaker::default(), at(100), None);
            let mut random = seed;
            for _ in 0..400 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                let was_closed = matches!(breaker.state(), State::Closed { .. });
                match random >> 60 {
                    0..6 => drop(breaker.failed(now, &RULES)),
                    6 => {
                        let was_open = matches!(breaker.state(), State::Open { .. });
                        breaker.answered();
                        assert_eq!(breaker.is_untroubled(), !was_open);
                    }
                    7..12 => {
                        let admits = breaker.would_admit(now, &RULES);
                        assert_eq!(breaker.admit(now, &RULES), admits);
                        if admits && !was_closed {
                            let early = last.is_some_and(|it| now < it + RULES.reset_timeout);
                            assert!(!early, "two probes");
                            last = Some(now);
                        }
                    }
                    _ => now += at(random >> 32 & 7),
                }
                if breaker.is_untroubled() {
                    last = None;
                }
            }
        }
    }
}

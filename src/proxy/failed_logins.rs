//! Failed logins by address: counted, and held back so that guessing is slow.
//!
//! The answer to a failure is delayed, longer with each one ([`delay::of`]). So that neither hanging
//! up early nor many connections at once help, an address that has failed of late has a few places
//! only: who proves something takes one for that moment, and a failure keeps it for its delay.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::delay;

/// Addresses that are remembered.
const ADDRESSES: usize = 10_000;
/// Failures of one address that are held at a time.
const PLACES: usize = 20;

/// Where logins come from, as coarse as whoever guesses can change it at will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Unix,
    V4(IpAddr),
    /// The first half of the address: a host has all of a /64.
    V6(Ipv6Addr),
    /// Those for whom there was no room.
    Others,
}

impl Source {
    /// Of a client's address; `None`: a Unix socket.
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|it| it.to_canonical()) {
            None => Self::Unix,
            Some(IpAddr::V6(it)) if !it.is_loopback() => {
                Self::V6((u128::from(it) & (u128::MAX << 64)).into())
            }
            Some(it) => Self::V4(it),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("[local]"),
            Self::V4(it) => write!(f, "{it}"),
            Self::V6(it) => write!(f, "{it}/64"),
            Self::Others => f.write_str("(others)"),
        }
    }
}

/// What is known of every address that has failed.
#[derive(Default)]
pub struct FailedLogins(DashMap<Source, Arc<Address>>);

struct Address {
    count: Mutex<Count>,
    places: Arc<Semaphore>,
}

/// How often an address has failed.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    pub total: u64,
    /// Without a pause of [`delay::MEMORY`] between them.
    pub recent: u32,
    pub last: Instant,
    /// Held at this moment.
    pub held: usize,
}

/// A place at the door; free again when dropped.
pub struct Place(Option<OwnedSemaphorePermit>);

impl FailedLogins {
    /// Waits for a place to prove something from; at once where nothing has failed of late.
    pub async fn place(&self, source: Source) -> Place {
        let Some(address) = self.known(source).filter(|it| it.is_recent()) else {
            return Place(None);
        };
        Place(Arc::clone(&address.places).acquire_owned().await.ok())
    }

    /// Counts a failure and holds its place for the delay, whether or not the client waits.
    pub async fn hold(&self, source: Source, place: Place, longest: Duration) {
        let recent = self.count(source);
        let delay = delay::of(recent, longest);
        if delay.is_zero() {
            return;
        }
        let place = match place {
            Place(None) => self.place(source).await,
            taken => taken,
        };
        tokio::time::sleep(delay).await;
        drop(place);
    }

    /// Counts a failure; how many there were of late.
    pub fn count(&self, source: Source) -> u32 {
        let address = self.known(source).unwrap_or_else(|| self.remember(source));
        let mut count = address.count.lock();
        let is_recent = count.last.elapsed() < delay::MEMORY;
        count.recent = if is_recent { count.recent.saturating_add(1) } else { 1 };
        count.total += 1;
        count.last = Instant::now();
        count.recent
    }

    /// Every address that has failed, the worst first.
    pub fn worst(&self) -> Vec<(Source, Count)> {
        let mut all: Vec<_> = self.0.iter().map(|it| (*it.key(), it.value().now())).collect();
        all.sort_by_key(|(source, count)| (std::cmp::Reverse(count.total), *source));
        all
    }

    fn known(&self, source: Source) -> Option<Arc<Address>> {
        let known = |source| self.0.get(&source).map(|it| Arc::clone(&it));
        // Who found no room is among the others.
        known(source).or_else(|| (self.0.len() > ADDRESSES).then(|| known(Source::Others))?)
    }

    fn remember(&self, source: Source) -> Arc<Address> {
        if self.0.len() >= ADDRESSES {
            self.0.retain(|_, it| it.is_recent());
        }
        let source = if self.0.len() >= ADDRESSES { Source::Others } else { source };
        Arc::clone(&self.0.entry(source).or_default())
    }
}

impl Default for Address {
    fn default() -> Self {
        let count = Count { total: 0, recent: 0, last: Instant::now(), held: 0 };
        Self { count: Mutex::new(count), places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl Address {
    fn is_recent(&self) -> bool {
        self.count.lock().last.elapsed() < delay::MEMORY
    }

    fn now(&self) -> Count {
        Count { held: PLACES - self.places.available_permits().min(PLACES), ..*self.count.lock() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(number: u32) -> Source {
        Source::of(Some(IpAddr::V4(number.into())))
    }

    #[test]
    fn sources_are_as_coarse_as_hosts() {
        let of = |text: &str| Source::of(text.parse().ok()).to_string();
        assert_eq!(of(""), "[local]");
        assert_eq!(of("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(of("::1"), "::1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }

    #[test]
    fn the_table_is_bounded() {
        let failed = FailedLogins::default();
        (0..ADDRESSES as u32 + 5).for_each(|it| _ = failed.count(v4(it)));
        assert_eq!(failed.0.len(), ADDRESSES + 1);
        let others = failed.0.get(&Source::Others).unwrap().now();
        assert_eq!((others.total, others.recent), (5, 5));
        assert_eq!(failed.count(v4(0)), 2);
        assert_eq!(failed.count(v4(1_000_000)), 6);
    }

    /// A burst at once gets no more than the places for each delay; a good address waits for nothing.
    #[tokio::test]
    async fn failures_are_held() {
        let failed = Arc::new(FailedLogins::default());
        let (source, longest) = (v4(1), Duration::from_millis(50));
        (0..4).for_each(|_| _ = failed.count(source));
        let begin = Instant::now();
        let burst: Vec<_> = (0..PLACES * 3)
            .map(|_| {
                let failed = Arc::clone(&failed);
                tokio::spawn(async move {
                    let place = failed.place(source).await;
                    failed.hold(source, place, longest).await;
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(failed.worst()[0].1.held, PLACES);
        drop(failed.place(v4(2)).await);
        assert!(begin.elapsed() < longest);
        for it in burst {
            it.await.unwrap();
        }
        assert!(begin.elapsed() >= longest * 3);
        assert_eq!((failed.worst()[0].1.held, failed.worst()[0].1.total), (0, 64));
    }
}

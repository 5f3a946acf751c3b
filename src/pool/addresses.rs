//! The addresses that a host's name means now, as far as they were looked up. A connection to another one
//! is closed as soon as nobody uses it.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// In so many looks, one after the other, an address must be missing before it counts as gone: servers of
/// names may tell some of many addresses at a time.
const LOOKS: u8 = 2;

/// One host's addresses; none where they are not looked up.
#[derive(Debug, Default)]
pub struct Addresses {
    /// With the looks since each was there.
    known: Mutex<Vec<(IpAddr, u8)>>,
}

impl Addresses {
    /// Takes note of what a look has found, which is something; gives all that count now if they are others
    /// than before.
    pub fn note(&self, found: &[IpAddr]) -> Option<Arc<[IpAddr]>> {
        let mut known = self.known.lock();
        let before = known.len();
        let mut has_changed = false;
        for (address, missed) in known.iter_mut() {
            *missed = if found.contains(address) { 0 } else { *missed + 1 };
        }
        known.retain(|it| it.1 < LOOKS);
        has_changed |= known.len() != before;
        for address in found {
            if !known.iter().any(|it| it.0 == *address) {
                known.push((*address, 0));
                has_changed = true;
            }
        }
        has_changed.then(|| known.iter().map(|it| it.0).collect())
    }

    /// All that count now; `None` before the first look.
    pub fn now(&self) -> Option<Arc<[IpAddr]>> {
        let known = self.known.lock();
        (!known.is_empty()).then(|| known.iter().map(|it| it.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn an_address_has_gone_when_it_is_missed_twice() {
        let addresses = Addresses::default();
        assert_eq!(addresses.now(), None);
        assert_eq!(addresses.note(&[ip(1)]).as_deref(), Some(&[ip(1)][..]));
        assert_eq!(addresses.note(&[ip(1)]), None);
        assert_eq!(addresses.note(&[ip(2)]).as_deref(), Some(&[ip(1), ip(2)][..]));
        assert_eq!(addresses.note(&[ip(2)]).as_deref(), Some(&[ip(2)][..]));
        assert_eq!(addresses.now().as_deref(), Some(&[ip(2)][..]));
    }

    #[test]
    fn those_that_are_told_in_turn_all_stay() {
        let addresses = Addresses::default();
        addresses.note(&[ip(1), ip(2)]);
        addresses.note(&[ip(2), ip(3)]);
        for round in 0..9 {
            let found = [ip(round % 3 + 1), ip((round + 1) % 3 + 1)];
            assert_eq!(addresses.note(&found), None, "{round}");
        }
    }
}

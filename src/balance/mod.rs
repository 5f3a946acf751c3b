//! Which host serves: who has seen enough, the healthy ones, least loaded first.

pub mod positions;
pub mod token;

/// What picking needs to know of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub is_up: bool,
    /// Connections in use.
    pub outstanding: usize,
}

/// The eligible hosts that are up, those with the fewest connections in use first; equals in their order.
pub fn order<T>(
    hosts: &[T],
    load: impl Fn(&T) -> Load,
    is_eligible: impl Fn(&T) -> bool,
) -> Vec<&T> {
    let mut up: Vec<(usize, &T)> = hosts
        .iter()
        .filter(|host| is_eligible(host))
        .map(|host| (load(host), host))
        .filter(|(load, _)| load.is_up)
        .map(|(load, host)| (load.outstanding, host))
        .collect();
    up.sort_by_key(|(outstanding, _)| *outstanding);
    up.into_iter().map(|(_, host)| host).collect()
}

/// The first of [`order`].
pub fn first<T>(
    hosts: &[T],
    load: impl Fn(&T) -> Load,
    is_eligible: impl Fn(&T) -> bool,
) -> Option<&T> {
    let eligible = hosts.iter().filter(|host| is_eligible(host)).map(|host| (load(host), host));
    let up = eligible.filter(|(load, _)| load.is_up);
    up.min_by_key(|(load, _)| load.outstanding).map(|(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_and_least_loaded_first() {
        let hosts = [(true, 5), (false, 0), (true, 1), (true, 5)];
        let load = |it: &(bool, usize)| Load { is_up: it.0, outstanding: it.1 };
        assert_eq!(order(&hosts, load, |_| true), [&(true, 1), &(true, 5), &(true, 5)]);
        assert_eq!(first(&hosts, load, |_| true), Some(&(true, 1)));
    }

    #[test]
    fn only_eligible_ones() {
        let hosts = [(true, 5), (false, 0), (true, 1)];
        let load = |it: &(bool, usize)| Load { is_up: it.0, outstanding: it.1 };
        let is_eligible = |it: &(bool, usize)| it.1 != 1;
        assert_eq!(order(&hosts, load, is_eligible), [&(true, 5)]);
        assert_eq!(first(&hosts, load, is_eligible), Some(&(true, 5)));
        assert_eq!(first(&hosts, load, |_| false), None);
    }
}

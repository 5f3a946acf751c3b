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

/// The hosts that are up, those with the fewest connections in use first; equals in their order.
pub fn order<T>(hosts: &[T], load: impl Fn(&T) -> Load) -> Vec<&T> {
    let mut up: Vec<(usize, &T)> = hosts
        .iter()
        .map(|host| (load(host), host))
        .filter(|(load, _)| load.is_up)
        .map(|(load, host)| (load.outstanding, host))
        .collect();
    up.sort_by_key(|(outstanding, _)| *outstanding);
    up.into_iter().map(|(_, host)| host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthy_and_least_loaded_first() {
        let hosts = [(true, 5), (false, 0), (true, 1), (true, 5)];
        let picked = order(&hosts, |it| Load { is_up: it.0, outstanding: it.1 });
        assert_eq!(picked, [&(true, 1), &(true, 5), &(true, 5)]);
    }
}

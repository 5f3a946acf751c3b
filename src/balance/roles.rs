//! Who is a shard's primary: what its hosts say of themselves → roles.
//!
//! The primary is whoever says so. Where two do, the higher timeline is the later promotion; on one
//! timeline the one that we have stays. Whoever takes writes and is not the primary is fenced: neither
//! written to nor read from.

use std::collections::BTreeMap;

/// What is known of one host now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nobody has looked yet.
    Unseen,
    /// It does not answer. `is_down`: there is surely no server that takes writes at this moment.
    Silent {
        is_down: bool,
    },
    Said(Said),
}

/// What a host says of itself; `None` is what it does not tell us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub in_recovery: bool,
    pub system: Option<u64>,
    /// Of a primary: the one it writes. Of a replica: one it has reached.
    pub timeline: Option<u32>,
    /// The timeline that a replica receives now.
    pub follows: Option<u32>,
}

/// What another authority, such as Patroni, says of the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// There is none: servers decide.
    #[default]
    Absent,
    /// It does not answer: servers decide meanwhile.
    Silent,
    /// It was not asked yet.
    Unasked,
    /// None of these hosts.
    Nobody,
    Leader(usize),
}

/// The roles of a shard's hosts, which are numbered in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Whether all hosts were looked at once.
    pub is_settled: bool,
    /// Who takes writes.
    pub primary: Option<usize>,
    /// Who last did.
    pub last: usize,
    /// Who may not be used, and why.
    pub fenced: BTreeMap<usize, String>,
    pub system: Option<u64>,
    /// The highest that was seen.
    pub timeline: Option<u32>,
    /// Whom another authority named last, and the highest timeline then: who was passed over stays so
    /// while that authority is silent.
    pub named: Option<(usize, Option<u32>)>,
}

/// The roles after a look at the hosts. Whom another authority's word does not name is no primary. `None`:
/// hosts, or that authority, are still to be asked for the first time.
pub fn decide(hosts: &[Sight], before: &Roles, word: Word) -> Option<Roles> {
    if word == Word::Unasked {
        return None;
    }
    if let ([only], Word::Absent) = (hosts, word) {
        return Some(alone(only, before));
    }
    let leader = match word {
        Word::Leader(at) => Some(at),
        _ => None,
    };
    let may_be = |at: usize| matches!(word, Word::Absent | Word::Silent) || leader == Some(at);
    if !before.is_settled && hosts.contains(&Sight::Unseen) {
        return None;
    }
    let mut now = Roles { is_settled: true, fenced: BTreeMap::new(), ..before.clone() };
    now.system = before.system.or_else(|| {
        let first = leader.into_iter().chain([before.last]).chain(0..hosts.len());
        first.filter_map(|it| said(hosts, it)).find_map(|it| it.system)
    });
    let is_ours = |it: &Said| it.system.is_none() || it.system == now.system;
    let ours = |at: usize| said(hosts, at).filter(|it| is_ours(it));
    let told = (0..hosts.len()).filter_map(ours).flat_map(|it| [it.timeline, it.follows]);
    now.timeline = told.flatten().chain(before.timeline).max();
    let claims: Vec<usize> = (0..hosts.len())
        .filter(|it| may_be(*it) && ours(*it).is_some_and(|it| !it.in_recovery))
        .collect();
    if let Some(at) = leader {
        now.named = Some((at, now.timeline));
    }
    let is_newest = |at: &usize| {
        let timeline = ours(*at).and_then(|it| it.timeline);
        timeline.is_none() || timeline == now.timeline || now.named == Some((*at, now.timeline))
    };
    // Who was fenced and is none the later may not take over, for as long as the other is silent.
    let may_lead = |at: &usize| {
        let is_later = ours(*at).and_then(|it| it.timeline) > before.timeline;
        is_newest(at) && (!before.fenced.contains_key(at) || is_later || leader == Some(*at))
    };
    let rank = |at: &usize| (leader != Some(*at), before.last != *at, *at);
    let chosen = claims.iter().copied().filter(may_lead).min_by_key(rank);
    let is_silent = |at: usize| said(hosts, at).is_none();
    let was_fenced = before.fenced.contains_key(&before.last);
    let stays = is_silent(before.last) && !was_fenced && may_be(before.last);
    now.primary = chosen.or(stays.then_some(before.last));
    now.last = now.primary.unwrap_or(before.last);
    // The timeline of the primary: not the newest where another was named.
    let line = chosen.and_then(|it| said(hosts, it)?.timeline.or(now.timeline));
    for (at, sight) in hosts.iter().enumerate().filter(|(at, _)| now.primary != Some(*at)) {
        if let Some(why) = why_fenced(at, sight, before, &now, (chosen, line)) {
            now.fenced.insert(at, why);
        }
    }
    Some(now)
}

/// A shard of one host that nobody else decides about has no other to be mistaken for; as a replica it
/// serves what it can.
fn alone(host: &Sight, before: &Roles) -> Roles {
    let mut now = Roles { is_settled: true, primary: Some(0), ..before.clone() };
    (now.last, now.fenced) = (0, BTreeMap::new());
    if let Sight::Said(said) = host {
        (now.system, now.timeline) = (said.system, said.timeline);
    }
    now
}

fn said(hosts: &[Sight], at: usize) -> Option<&Said> {
    match hosts.get(at) {
        Some(Sight::Said(said)) => Some(said),
        _ => None,
    }
}

/// Why a host that is not the primary may not be used at all.
fn why_fenced(
    at: usize,
    sight: &Sight,
    before: &Roles,
    now: &Roles,
    (chosen, line): (Option<usize>, Option<u32>),
) -> Option<String> {
    let Sight::Said(said) = sight else {
        let was_primary = before.last == at && chosen.is_some_and(|it| it != at);
        let gone = "not heard of since another host became the primary";
        return before.fenced.get(&at).cloned().or(was_primary.then(|| gone.to_owned()));
    };
    if let (Some(own), Some(system)) = (said.system, now.system)
        && own != system
    {
        return Some(format!(
            "of another cluster: its system identifier is {own}, the shard's is {system}"
        ));
    }
    let newest = line.or(now.timeline).unwrap_or_default();
    match (said.in_recovery, said.timeline, said.follows) {
        (false, Some(timeline), _) if timeline < newest => Some(format!(
            "an old primary: it writes timeline {timeline}, the shard is on timeline {newest}"
        )),
        (false, _, _) => Some("takes writes, and another host is the primary".to_owned()),
        (true, _, Some(follows)) if line.is_some_and(|it| follows < it) => Some(format!(
            "follows an old primary: it receives timeline {follows}, the shard is on timeline {newest}"
        )),
        (true, reached, follows) if line.is_some_and(|it| reached.max(follows) > Some(it)) => {
            Some("follows another primary than the one that was named".to_owned())
        }
        (true, _, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: Sight = Sight::Silent { is_down: true };

    fn primary(timeline: u32) -> Sight {
        Sight::Said(Said { system: Some(7), timeline: Some(timeline), ..Said::default() })
    }

    fn replica(timeline: u32, follows: Option<u32>) -> Sight {
        let (system, timeline) = (Some(7), Some(timeline));
        Sight::Said(Said { in_recovery: true, system, timeline, follows })
    }

    /// The roles after these looks, one after the other: `P`, `R` or `F` by host, with the reasons.
    fn after(looks: &[&[Sight]]) -> (String, Roles) {
        let mut roles = Roles::default();
        for hosts in looks {
            roles = decide(hosts, &roles, Word::Absent).unwrap_or(roles);
        }
        let letter = |at: usize| match at {
            _ if roles.primary == Some(at) => 'P',
            _ if roles.fenced.contains_key(&at) => 'F',
            _ => 'R',
        };
        ((0..looks[0].len()).map(letter).collect(), roles)
    }

    #[test]
    fn the_primary_is_who_says_so() {
        assert_eq!(after(&[&[primary(1), replica(1, Some(1))]]).0, "PR");
        assert_eq!(after(&[&[replica(1, Some(1)), primary(1)]]).0, "RP");
        assert_eq!(after(&[&[DOWN, replica(1, None), primary(2)]]).0, "FRP");
        assert_eq!(after(&[&[replica(1, None), replica(1, None)]]).0, "RR");
        assert_eq!(after(&[&[DOWN, replica(1, None)]]).0, "PR");
    }

    #[test]
    fn nothing_is_decided_before_everybody_was_looked_at() {
        assert_eq!(decide(&[primary(1), Sight::Unseen], &Roles::default(), Word::Silent), None);
        // Later a newcomer holds nothing up.
        let roles = after(&[&[primary(1)], &[primary(1), Sight::Unseen]]).1;
        assert_eq!(roles.primary, Some(0));
    }

    #[test]
    fn a_promotion_fences_the_old_primary_until_it_follows() {
        let calm = [primary(1), replica(1, Some(1))];
        let promoted = [DOWN, primary(2)];
        let returned = [primary(1), primary(2)];
        let rejoined = [replica(1, Some(2)), primary(2)];
        assert_eq!(after(&[&calm, &promoted]).0, "FP");
        let (roles, it) = after(&[&calm, &promoted, &returned]);
        assert_eq!(roles, "FP");
        assert!(it.fenced[&0].contains("timeline 1, the shard is on timeline 2"), "{it:?}");
        assert_eq!(after(&[&calm, &promoted, &returned, &rejoined]).0, "RP");
        // The new one is silent: nobody goes back.
        assert_eq!(after(&[&calm, &promoted, &[primary(1), DOWN]]).0, "FP");
        // Also if the old one is seen first after a start.
        assert_eq!(after(&[&returned]).0, "FP");
        // A replica knows of the promotion.
        let hosts = [primary(1), DOWN, replica(2, Some(2))];
        let (roles, it) = after(&[&hosts]);
        assert_eq!((roles.as_str(), it.primary), ("FRR", None));
    }

    #[test]
    fn of_two_on_one_timeline_the_one_we_have_stays() {
        let both = [primary(1), primary(1)];
        assert_eq!(after(&[&[replica(1, None), primary(1)], &both]).0, "FP");
        assert_eq!(after(&[&both]).0, "PF");
        // The rival does not take over while ours is silent.
        assert_eq!(after(&[&both, &[DOWN, primary(1)]]).0, "PF");
        assert_eq!(after(&[&both, &[DOWN, primary(2)]]).0, "FP");
        let named = decide(&both, &Roles::default(), Word::Leader(1)).unwrap();
        assert_eq!(named.primary, Some(1));
    }

    #[test]
    fn another_authority_decides() {
        let look = |hosts: &[Sight], roles: &Roles, word| decide(hosts, roles, word).unwrap();
        let split = [primary(1), primary(2)];
        assert_eq!(decide(&split, &Roles::default(), Word::Unasked), None);
        let roles = look(&split, &Roles::default(), Word::Leader(0));
        assert_eq!((roles.primary, roles.fenced.contains_key(&1)), (Some(0), true));
        // Replicas of either: only the leader's serve.
        let followers = [replica(1, Some(1)), replica(2, Some(2)), replica(2, None)];
        let all = [&split[..], &followers[..]].concat();
        let fenced = |leader| look(&all, &Roles::default(), Word::Leader(leader)).fenced;
        assert_eq!(fenced(0).into_keys().collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(fenced(1).into_keys().collect::<Vec<_>>(), [0, 2]);
        // It falls silent: all stays, until somebody is promoted.
        let silent = look(&split, &roles, Word::Silent);
        assert_eq!((silent.primary, silent.fenced.contains_key(&1)), (Some(0), true));
        assert_eq!(look(&[primary(1), primary(3)], &silent, Word::Silent).primary, Some(1));
        // It changes its mind; the leader is waited for.
        let waits = look(&[primary(1), replica(1, None)], &roles, Word::Leader(1));
        assert_eq!((waits.primary, waits.fenced.contains_key(&0)), (None, true));
        assert_eq!(look(&split, &waits, Word::Leader(1)).primary, Some(1));
        assert_eq!(look(&[DOWN, primary(1)], &roles, Word::Nobody).primary, None);
        assert_eq!(look(&[DOWN, primary(1)], &roles, Word::Leader(0)).primary, Some(0));
    }

    #[test]
    fn strangers_are_fenced() {
        let stranger = Said { system: Some(8), timeline: Some(9), ..Said::default() };
        let (roles, it) = after(&[&[primary(1), Sight::Said(stranger.clone())]]);
        assert_eq!((roles.as_str(), it.timeline), ("PF", Some(1)));
        let copy = Sight::Said(Said { in_recovery: true, ..stranger });
        assert_eq!(after(&[&[primary(1), copy]]).0, "PF");
    }

    #[test]
    fn who_follows_an_old_primary_rests() {
        let hosts = [primary(1), primary(2), replica(1, Some(1)), replica(1, None)];
        assert_eq!(after(&[&hosts]).0, "FPFR");
    }

    #[test]
    fn hosts_that_tell_no_timeline() {
        let untold = |in_recovery| Sight::Said(Said { in_recovery, ..Said::default() });
        let calm = [untold(false), untold(true)];
        assert_eq!(after(&[&calm]).0, "PR");
        let promoted = [DOWN, untold(false)];
        assert_eq!(after(&[&calm, &promoted]).0, "FP");
        assert_eq!(after(&[&calm, &promoted, &[untold(false), untold(false)]]).0, "FP");
    }

    #[test]
    fn one_host_is_what_it_says() {
        assert_eq!(after(&[&[DOWN]]).1.primary, Some(0));
        assert_eq!(after(&[&[replica(1, None)]]).1.primary, Some(0));
        assert_eq!(after(&[&[primary(3)], &[primary(1)]]).1.primary, Some(0));
    }
}

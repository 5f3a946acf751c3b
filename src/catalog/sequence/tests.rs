use super::*;

fn counter(start: i64, increment: i64, last: i64, is_called: bool) -> Counter {
    let (min, max) = if increment > 0 { (1, 1000) } else { (-1000, -1) };
    let place = Some(Place { last, is_called });
    Counter { start, increment, min, max, cycle: false, place }
}

fn over(counters: &[Counter]) -> BTreeMap<ShardId, Counter> {
    (0..).map(ShardId).zip(counters.iter().copied()).collect()
}

#[test]
fn interleaved_sequences_are_a_series() {
    let plain = over(&[counter(1, 1, 1, false); 3]);
    assert_eq!(Series::of(&plain), None);
    let series = Series { first: 1, step: 1, stride: 32 };
    assert_eq!(Series::meant(&plain, None, 32), Ok(series));
    let shards = [counter(1, 32, 65, true), counter(2, 32, 2, false), counter(3, 32, 3, true)];
    assert_eq!(Series::of(&over(&shards)), Some(series));
    let down = [counter(-1, -64, -1, false), counter(-3, -64, -67, true)];
    assert_eq!(Series::of(&over(&down)), Some(Series { first: -1, step: -2, stride: 32 }));
}

#[test]
fn whatever_may_meet_is_none() {
    let good = [counter(1, 32, 33, true), counter(2, 32, 2, false)];
    assert!(Series::of(&over(&good)).is_some());
    for change in [
        |it: &mut Counter| it.increment = 16,
        |it: &mut Counter| it.start = 1,
        |it: &mut Counter| it.start = 34,
        |it: &mut Counter| it.cycle = true,
        |it: &mut Counter| it.place = None,
        |it: &mut Counter| it.place = Some(Place { last: 33, is_called: false }),
    ] {
        let mut bad = good;
        change(&mut bad[1]);
        assert_eq!(Series::of(&over(&bad)), None, "{bad:?}");
    }
    // Two shards with steps of two leave no place for a third.
    let three = [counter(1, 2, 1, false), counter(2, 2, 2, false), counter(3, 2, 3, false)];
    assert!(Series::of(&over(&three[..2])).is_some());
    assert_eq!(Series::of(&over(&three)), None);
}

#[test]
fn a_change_keeps_what_it_does_not_name() {
    let known = Some(Series { first: 5, step: 2, stride: 32 });
    let meant = |all: &[Counter]| Series::meant(&over(all), known, 32);
    let same = Series { first: 5, step: 2, stride: 32 };
    let restarted = [counter(5, 64, 100, false), counter(7, 64, 100, false)];
    assert_eq!(meant(&restarted), Ok(same));
    let other_start = [counter(9, 64, 5, true), counter(9, 64, 7, true)];
    assert_eq!(meant(&other_start), Ok(Series { first: 9, ..same }));
    let other_step = [counter(5, 3, 5, true), counter(7, 3, 7, true)];
    assert_eq!(meant(&other_step), Ok(Series { step: 3, ..same }));
    let wide_step = [counter(5, 6, 5, true), counter(7, 6, 7, true)];
    assert_eq!(meant(&wide_step), Ok(Series { step: 6, ..same }), "although they would not meet");
    assert_eq!(Series::meant(&over(&other_step), None, 32), Err(Unshared::Unlike));
    assert_eq!(meant(&[counter(5, 3, 5, true), counter(5, 4, 5, true)]), Err(Unshared::Unlike));
}

#[test]
fn a_shard_that_was_added_is_no_part_of_it() {
    let of = |start| counter(start, 32, start, false);
    let added = over(&[of(1), of(2), of(3), of(1)]);
    assert_eq!(
        (Series::written(&added), Series::meant(&added, None, 32)),
        (None, Err(Unshared::Unlike))
    );
    assert_eq!(Series::guessed(&added), Some(Series { first: 1, step: 1, stride: 32 }));
    let plain = over(&[of(1), of(2), counter(1, 1, 1, false)]);
    assert_eq!(Series::guessed(&plain), Some(Series { first: 1, step: 1, stride: 32 }));
    assert_eq!(Series::guessed(&over(&[of(1); 3])), None);
}

#[test]
fn nobody_begins_before_what_was_given() {
    let series = Series { first: 1, step: 1, stride: 4 };
    let fresh = [counter(1, 1, 1, false); 2];
    assert_eq!(series.unused(&fresh), None);
    let used = [counter(1, 1, 9, true), counter(1, 1, 3, true)];
    assert_eq!(series.unused(&used), Some(10));
    let next: Vec<i128> = (0..4).map(|it| series.from(ShardId(it), 10)).collect();
    assert_eq!(next, [13, 10, 11, 12]);
    assert_eq!(series.unused(&[counter(1, 4, 50, false)]), Some(50));
    let down = Series { first: -1, step: -1, stride: 4 };
    let next: Vec<i128> = (0..4).map(|it| down.from(ShardId(it), -10)).collect();
    assert_eq!(next, [-13, -10, -11, -12]);
    assert_eq!(down.unused(&[counter(-1, -1, -9, true), counter(-1, -1, -3, true)]), Some(-10));
}

#[test]
fn bounds_hold() {
    let series = Series { first: 1, step: 1, stride: 32 };
    let narrow = Counter { max: 20, ..counter(1, 1, 1, false) };
    assert_eq!(series.check(ShardId(0), &narrow), Err(Unshared::Narrow));
    assert_eq!(series.check(ShardId(31), &counter(1, 1, 1, false)), Ok(()));
    let wide = counter(1, 32, 1, true);
    let place = |last, is_called| Some(Place { last, is_called });
    assert_eq!(place_before(993, &series, &wide), place(993, false));
    assert_eq!(place_before(1025, &series, &wide), place(993, true));
    assert_eq!(place_before(2000, &series, &wide), None);
}

//! "Did you mean …": the nearest of the names that are allowed.

/// The allowed name nearest to a written one, if any is near enough to be a slip.
pub(super) fn nearest<'a>(written: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let far = written.chars().count() / 3 + 1;
    let (near, name) = allowed.iter().map(|name| (distance(written, name), *name)).min()?;
    (near <= far).then_some(name)
}

/// How many letters to insert, delete or replace to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn only_near_names_are_suggested() {
        assert_eq!(nearest("adress", &["http", "address"]), Some("address"));
        assert_eq!(nearest("colour", &["http", "address"]), None);
    }
}

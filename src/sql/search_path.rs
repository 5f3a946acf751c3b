//! The schemas of a `search_path` value, in order.

/// The schemas of a value such as `"$user", public`, `pg_catalog` first unless it is named.
pub fn schemas(value: &str, user: &str) -> Vec<String> {
    let mut found: Vec<String> = items(value)
        .into_iter()
        .map(|it| if it == "$user" { user.to_owned() } else { it })
        .filter(|it| !it.is_empty())
        .collect();
    if !found.iter().any(|it| it == "pg_catalog") {
        found.insert(0, "pg_catalog".into());
    }
    found
}

/// The schemas that `SET [SESSION] search_path TO …` names; `None` for DEFAULT.
pub fn of_set(sql: &str, user: &str) -> Option<Vec<String>> {
    let lower = sql.to_ascii_lowercase();
    let after = lower.find("search_path")? + "search_path".len();
    let rest = sql[after..].trim_start();
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        None => rest.get(2..)?, // TO
    };
    let value = value.trim().trim_end_matches(';').trim();
    (!value.eq_ignore_ascii_case("default")).then(|| schemas(value, user))
}

/// Comma-separated names: folded, or quoted by `"` or `'`.
fn items(value: &str) -> Vec<String> {
    let (mut items, mut item, mut chars) = (Vec::new(), String::new(), value.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => {
                while let Some(inner) = chars.next() {
                    if inner != c {
                        item.push(inner);
                    } else if chars.peek() == Some(&c) {
                        item.push(c);
                        chars.next();
                    } else {
                        break;
                    }
                }
            }
            ',' => items.push(std::mem::take(&mut item)),
            c if c.is_whitespace() => (),
            c => item.extend(c.to_lowercase()),
        }
    }
    items.push(item);
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_statements() {
        assert_eq!(schemas("\"$user\", public", "bob"), ["pg_catalog", "bob", "public"]);
        assert_eq!(schemas("", "bob"), ["pg_catalog"]);
        assert_eq!(schemas("B, \"C,\"\"d\", pg_catalog", "x"), ["b", "C,\"d", "pg_catalog"]);
        assert_eq!(of_set("SET search_path TO a, 'B';", "x").unwrap(), ["pg_catalog", "a", "B"]);
        assert_eq!(of_set("set session Search_Path = x", "x").unwrap(), ["pg_catalog", "x"]);
        assert_eq!(of_set("SET search_path TO DEFAULT", "x"), None);
    }
}

//! The rows of the sample: the same at every run.

/// How many tenants the sample has.
pub(super) const TENANTS: u64 = 64;

/// A table of the sample, rows as SQL values.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static str,
    pub(super) rows: Vec<String>,
}

/// All but the events, in an order that keeps the foreign keys.
pub(super) fn tables() -> Vec<Table> {
    let table = |name, columns, rows| Table { name, columns, rows };
    vec![
        table("plans", "plan_id, name, price_cents, seats", plans()),
        table("countries", "country_code, name", countries()),
        table("settings", "key, value", settings()),
        table("tenants", "tenant_id, name, plan_id, country_code, created_at", tenants()),
        table("projects", "tenant_id, id, name, status, created_at", projects()),
        table("orders", "tenant_id, id, project_id, status, amount, created_at", orders()),
    ]
}

/// The events as COPY text, one line each.
pub(super) fn events() -> Vec<String> {
    const KINDS: &[&str] = &["login", "view", "edit", "export", "invite", "logout"];
    each(120, 240, |tenant, id, random| {
        let kind = KINDS[random.below(KINDS.len() as u64) as usize];
        let payload = format!(r#"{{"ms": {}, "page": "/p/{}"}}"#, random.below(900), id % 7);
        format!("{tenant}\t{id}\t{kind}\t{payload}\t{}\n", random.moment())
    })
}

fn plans() -> Vec<String> {
    ["1, 'free', 0, 1", "2, 'team', 4900, 10", "3, 'business', 19900, 100"]
        .map(str::to_owned)
        .into()
}

const COUNTRIES: &[(&str, &str)] = &[
    ("AT", "Austria"),
    ("BR", "Brazil"),
    ("CH", "Switzerland"),
    ("DE", "Germany"),
    ("FR", "France"),
    ("GB", "United Kingdom"),
    ("IN", "India"),
    ("JP", "Japan"),
    ("US", "United States"),
];

fn countries() -> Vec<String> {
    COUNTRIES.iter().map(|(code, name)| format!("'{code}', '{name}'")).collect()
}

fn settings() -> Vec<String> {
    vec!["'theme', 'light'".to_owned(), "'support_email', 'help@example.com'".to_owned()]
}

fn tenants() -> Vec<String> {
    const FIRST: &[&str] = &["Blue", "Green", "North", "Quick", "Silver", "Sunny", "Tall", "Wide"];
    const LAST: &[&str] =
        &["Bakery", "Bikes", "Books", "Cinema", "Garden", "Labs", "Radio", "Works"];
    let mut random = Random(7);
    (1..=TENANTS)
        .map(|tenant| {
            let name = ((tenant - 1) as usize / LAST.len(), (tenant - 1) as usize % LAST.len());
            let country = COUNTRIES[random.below(COUNTRIES.len() as u64) as usize].0;
            let (first, last) = (FIRST[name.0 % FIRST.len()], LAST[name.1]);
            let (plan, moment) = (1 + random.below(3), random.moment());
            format!("{tenant}, '{first} {last}', {plan}, '{country}', '{moment}'")
        })
        .collect()
}

/// Every tenant has at least this many projects, numbered from 1.
const FEWEST_PROJECTS: u64 = 3;

fn projects() -> Vec<String> {
    const STATUS: &[&str] = &["active", "paused", "done"];
    each(FEWEST_PROJECTS, 8, |tenant, id, random| {
        let status = STATUS[random.below(3) as usize];
        format!("{tenant}, {id}, 'Project {id}', '{status}', '{}'", random.moment())
    })
}

fn orders() -> Vec<String> {
    const STATUS: &[&str] = &["new", "paid", "shipped", "cancelled"];
    each(30, 90, |tenant, id, random| {
        let (project, status) =
            (1 + random.below(FEWEST_PROJECTS), STATUS[random.below(4) as usize]);
        let (whole, cents) = (1 + random.below(2_000), random.below(100));
        let moment = random.moment();
        format!("{tenant}, {id}, {project}, '{status}', {whole}.{cents:02}, '{moment}'")
    })
}

/// Between `from` and `to` rows for each tenant, numbered from 1.
fn each(from: u64, to: u64, row: impl Fn(u64, u64, &mut Random) -> String) -> Vec<String> {
    let mut rows = Vec::new();
    for tenant in 1..=TENANTS {
        let mut random = Random(tenant * 1_000 + from);
        let count = from + random.below(to - from + 1);
        rows.extend((1..=count).map(|id| row(tenant, id, &mut random)));
    }
    rows
}

/// Splitmix64: the same numbers at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Some moment of the year 2025.
    fn moment(&mut self) -> String {
        let (month, day) = (1 + self.below(12), 1 + self.below(28));
        let (hour, minute, second) = (self.below(24), self.below(60), self.below(60));
        format!("2025-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}+00")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_columns_and_are_the_same_every_time() {
        for (one, other) in tables().iter().zip(tables()) {
            assert_eq!(one.rows, other.rows);
            for row in &one.rows {
                assert_eq!(row.matches(", ").count(), one.columns.matches(", ").count(), "{row}");
            }
        }
        assert_eq!(tenants().len(), 64);
        assert!(events().len() > 64 * 120);
    }
}

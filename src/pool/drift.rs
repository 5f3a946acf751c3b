//! Where the schemas of shards differ from the home shard's.

use std::collections::BTreeMap;

use super::catalog::{Rows, Source};
use super::control::ControlError;

/// A shard's schema: by object and aspect (`public.users`, `indexes`) the parts and what they are.
pub(super) type Schema = BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>;

/// How many parts a line names.
const NAMED: usize = 3;

/// Object, aspect, part, and what it is. Whatever is not the same by name on every shard (OIDs, where sequences
/// stand) is left out, and what belongs to an extension.
const PARTS: &str = "WITH rel AS (SELECT c.oid, c.relkind, c.relrowsecurity, n.nspname || '.' || c.relname AS name \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't' \
    AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('sluice', 'information_schema')), \
    own AS (SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n \
    WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('sluice', 'information_schema')) \
    SELECT name, 'kind', '', relkind::text || relrowsecurity FROM rel \
    UNION ALL SELECT r.name, 'columns', a.attname, row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum) || ' ' \
    || pg_catalog.format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || a.attidentity::text || a.attgenerated::text || ' ' \
    || coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '') || ' ' || coalesce(co.collname, '') \
    FROM rel r JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped \
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum \
    LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation \
    UNION ALL SELECT r.name, 'constraints', o.conname, pg_catalog.pg_get_constraintdef(o.oid) || ' ' || o.convalidated \
    FROM rel r JOIN pg_catalog.pg_constraint o ON o.conrelid = r.oid \
    UNION ALL SELECT r.name, 'indexes', i.relname, pg_catalog.pg_get_indexdef(x.indexrelid) \
    || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END \
    FROM rel r JOIN pg_catalog.pg_index x ON x.indrelid = r.oid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
    UNION ALL SELECT r.name, 'triggers', t.tgname, pg_catalog.pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text \
    FROM rel r JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal \
    UNION ALL SELECT r.name, 'policies', p.polname, p.polcmd::text || p.polpermissive \
    || coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') || ' ' \
    || coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '') \
    FROM rel r JOIN pg_catalog.pg_policy p ON p.polrelid = r.oid \
    UNION ALL SELECT r.name, 'rules', w.rulename, pg_catalog.pg_get_ruledef(w.oid) \
    FROM rel r JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid WHERE r.relkind <> 'm' \
    UNION ALL SELECT 'function ' || n.nspname || '.' || p.proname || '(' \
    || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')', 'source', '', pg_catalog.pg_get_functiondef(p.oid) \
    FROM pg_catalog.pg_proc p JOIN own n ON n.oid = p.pronamespace WHERE p.prokind IN ('f', 'p') AND NOT EXISTS \
    (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass \
    AND d.objid = p.oid AND d.deptype = 'e') \
    UNION ALL SELECT 'type ' || n.nspname || '.' || t.typname, 'definition', '', t.typtype::text \
    || coalesce((SELECT pg_catalog.string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) \
    FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), '') \
    || CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) || t.typnotnull \
    || coalesce(t.typdefault, '') ELSE '' END \
    || coalesce((SELECT pg_catalog.string_agg(a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod), \
    ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
    WHERE c.oid = t.typrelid AND c.relkind = 'c' AND NOT a.attisdropped), '') \
    FROM pg_catalog.pg_type t JOIN own n ON n.oid = t.typnamespace LEFT JOIN pg_catalog.pg_class k ON k.oid = t.typrelid \
    WHERE t.typtype IN ('e', 'd', 'c') AND coalesce(k.relkind, 'c') = 'c' AND NOT EXISTS \
    (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass \
    AND d.objid = t.oid AND d.deptype = 'e') \
    UNION ALL SELECT 'extension ' || extname, 'version', '', extversion FROM pg_catalog.pg_extension";

/// A shard's schema.
///
/// # Errors
/// As the source.
pub(super) async fn schema(mut source: impl Source) -> Result<Schema, ControlError> {
    Ok(read(&source.rows(PARTS).await?))
}

fn read(rows: &Rows) -> Schema {
    let mut found = Schema::new();
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let parts = found.entry(text(0)).or_default().entry(text(1)).or_default();
        parts.insert(text(2), text(3));
    }
    found
}

/// A line for each object that a shard lacks, has besides, or has otherwise.
pub(super) fn compare(shard: u8, home: &Schema, theirs: &Schema) -> Vec<String> {
    let mut drift = Vec::new();
    for (name, aspects) in home {
        let Some(other) = theirs.get(name) else {
            drift.push(format!("shard {shard}: {name} is missing"));
            continue;
        };
        let none = BTreeMap::new();
        let mut all: Vec<&String> = aspects.keys().chain(other.keys()).collect();
        all.sort();
        all.dedup();
        for aspect in all {
            let (ours, has) =
                (aspects.get(aspect).unwrap_or(&none), other.get(aspect).unwrap_or(&none));
            if ours != has {
                let parts = differing(ours, has);
                drift.push(format!(
                    "shard {shard}: {aspect} of {name} differ from the home shard{parts}"
                ));
            }
        }
    }
    let extra = theirs.keys().filter(|name| !home.contains_key(*name));
    drift.extend(extra.map(|name| format!("shard {shard}: {name} is not on the home shard")));
    drift
}

/// `: by_email is missing, by_name is invalid`
fn differing(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> String {
    let mut told = Vec::new();
    for (name, part) in ours.iter().filter(|(name, _)| !name.is_empty()) {
        match theirs.get(name) {
            None => told.push(format!("{name} is missing")),
            Some(other) if other.ends_with(" INVALID") && !part.ends_with(" INVALID") => {
                told.push(format!("{name} is invalid"));
            }
            Some(other) if other != part => told.push(format!("{name} is another")),
            Some(_) => (),
        }
    }
    let extra = theirs.keys().filter(|name| !ours.contains_key(*name));
    told.extend(extra.map(|name| format!("{name} is there alone")));
    let more = told.len().saturating_sub(NAMED);
    told.truncate(NAMED);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(rows: &[[&str; 4]]) -> Schema {
        read(
            &rows.iter().map(|row| row.iter().map(|it| Some((*it).to_owned())).collect()).collect(),
        )
    }

    #[test]
    fn what_differs_is_named() {
        let home = schema(&[
            ["public.t", "kind", "", "r"],
            ["public.t", "indexes", "a", "CREATE a"],
            ["public.t", "indexes", "b", "CREATE b"],
            ["public.t", "columns", "x", "1 integer"],
            ["public.gone", "kind", "", "r"],
            ["function public.f()", "source", "", "SELECT 1"],
        ]);
        let theirs = schema(&[
            ["public.t", "kind", "", "r"],
            ["public.t", "indexes", "a", "CREATE a INVALID"],
            ["public.t", "columns", "x", "1 bigint"],
            ["public.t", "columns", "y", "2 bigint"],
            ["public.new", "kind", "", "r"],
            ["function public.f()", "source", "", "SELECT 2"],
        ]);
        assert_eq!(
            compare(2, &home, &theirs),
            [
                "shard 2: source of function public.f() differ from the home shard",
                "shard 2: public.gone is missing",
                "shard 2: columns of public.t differ from the home shard: x is another, y is there alone",
                "shard 2: indexes of public.t differ from the home shard: a is invalid, b is missing",
                "shard 2: public.new is not on the home shard",
            ]
        );
        assert!(compare(1, &home, &home).is_empty());
    }
}

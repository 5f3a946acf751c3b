use super::Dated;
use super::*;
use crate::merge::MergeSpec;
use crate::plan::Access;
use crate::shard::{Key, KeyType};
use crate::sql::fingerprint::Fingerprint;

const HOME: ShardId = ShardId(0);

/// Buckets below 128 on shard 0, the others on shard 1: tenants 2, 3 and 7 are on 1, tenant 1 on 1.
fn map() -> Map {
    Map::new(&[(0..=127, ShardId(0)), (128..=255, ShardId(1))], BTreeMap::new()).unwrap()
}

fn owner(key: &str) -> ShardId {
    map().owner(&Key::from_text(KeyType::Text, key).unwrap())
}

fn run(keys: Vec<KeySource>, with_home: bool) -> Run {
    Run {
        access: Access::Read,
        scope: Scope::Keys { keys, with_home },
        combine: Combine::Merge(MergeSpec::default()),
        fallback: None,
        explained: None,
    }
}

fn read(sql: &str) -> Fingerprint {
    let mut fingerprint = Fingerprint::new(7);
    fingerprint.read(sql);
    fingerprint
}

/// Plans `planned` with the key at `@`, then routes `given`; shows the keys or the target.
fn literal(kind: KeyType, planned: &str, given: &str) -> String {
    let (offset, planned) = (planned.find('@').unwrap(), planned.replace('@', ""));
    let (one, other) = (read(&planned), read(given));
    assert_eq!(one.template(), other.template(), "{given}");
    let call =
        Call { sql: given, slots: other.slots(), planned: one.slots(), args: Arguments::None };
    show(route(&run(vec![KeySource::Literal { offset, kind }], false), &map(), HOME, &call))
}

fn show(routed: Result<Routed, PgError>) -> String {
    match routed {
        Err(error) => error.code.into(),
        Ok(Routed { keys, target: Target::Shards(_), .. }) => {
            keys.iter().map(Key::as_str).collect::<Vec<_>>().join(",")
        }
        Ok(routed) => format!("{:?}", routed.target),
    }
}

#[test]
fn literals_are_read_from_the_statement_at_hand() {
    let int = |planned, given| literal(KeyType::Int, planned, given);
    assert_eq!(int("SELECT 'a', b WHERE t = @1", "SELECT 'long', b WHERE t = 0042"), "42");
    assert_eq!(int("SELECT b WHERE t = @-1", "SELECT b WHERE t = -77"), "-77");
    assert_eq!(int("SELECT b WHERE t = @'1'", "SELECT b WHERE t = ' -7 '"), "-7");
    assert_eq!(int("SELECT b WHERE t = @'1'", "SELECT b WHERE t = '1_0'"), "Replan");
    assert_eq!(int("SELECT b WHERE t = @'1'", "SELECT b WHERE t = 'x'"), "Replan");
    assert_eq!(int("SELECT b WHERE t = @1.0", "SELECT b WHERE t = 5.0"), "Replan");
    assert_eq!(int("SELECT b WHERE t = @- -1", "SELECT b WHERE t = - -5"), "Replan");
    assert_eq!(int("SELECT b WHERE t = @-/**/1", "SELECT b WHERE t = -/**/5"), "Replan");
    assert_eq!(int("SELECT b WHERE @t = 1", "SELECT b WHERE t = 5"), "Replan");
    let text = |planned, given| literal(KeyType::Text, planned, given);
    assert_eq!(text("SELECT b WHERE t = @'a'", "SELECT b WHERE t = 'it''s'"), "it's");
    assert_eq!(text("SELECT b WHERE t = @$$a$$", "SELECT b WHERE t = $x$a'b$x$"), "a'b");
    assert_eq!(text("SELECT b WHERE t = @E'a'", r"SELECT b WHERE t = E'\x41\u00e9'"), "Aé");
    assert_eq!(text("SELECT b WHERE t = @N'a'", "SELECT b WHERE t = N'b'"), "Replan");
    assert_eq!(text("INSERT INTO t VALUES (@1)", "INSERT INTO t VALUES (007)"), "7");
}

fn bound(kind: KeyType, value: Option<&[u8]>, format: i16, oid: u32) -> String {
    let params = [value];
    let args = Arguments::Bind { params: &params, formats: &[format], types: &[oid] };
    let call = Call { sql: "", slots: &[], planned: &[], args };
    show(route(&run(vec![KeySource::Param { index: 1, kind }], false), &map(), HOME, &call))
}

#[test]
fn parameters() {
    assert_eq!(bound(KeyType::Int, Some(b" 07"), 0, 0), "7");
    assert_eq!(bound(KeyType::Int, Some(&7_i32.to_be_bytes()), 1, 23), "7");
    assert_eq!(bound(KeyType::Int, Some(b"abc"), 0, 0), "Any");
    assert_eq!(bound(KeyType::Int, Some(b"0x1F"), 0, 0), "0A000");
    assert_eq!(bound(KeyType::Int, Some(b"1_000"), 0, 0), "0A000");
    assert_eq!(bound(KeyType::Int, Some(b"7"), 0, 1700), "0A000");
    assert_eq!(bound(KeyType::Int, Some(b"7"), 2, 0), "08P01");
    assert_eq!(bound(KeyType::Int, None, 0, 20), "NoRows");
    assert_eq!(bound(KeyType::Int, Some(&[1, 2, 3]), 1, 0), "Any");
    assert_eq!(bound(KeyType::Text, Some(b"\xff"), 0, 0), "0A000");
    assert_eq!(bound(KeyType::Text, Some(b"\xff"), 1, 25), "0A000");
    assert_eq!(bound(KeyType::Uuid, Some(b"x"), 0, 2950), "Any");
}

#[test]
fn arrays_of_parameters() {
    let array = |value: &[u8], oid| {
        let params = [Some(value)];
        let args = Arguments::Bind { params: &params, formats: &[], types: &[oid] };
        let call = Call { sql: "", slots: &[], planned: &[], args };
        let source = KeySource::ParamArray { index: 1, kind: KeyType::Int };
        show(route(&run(vec![source], false), &map(), HOME, &call))
    };
    assert_eq!(array(b"{1,NULL,\"2\"}", 0), "1,2");
    assert_eq!(array(b"{}", 1007), "NoRows");
    assert_eq!(array(b"{NULL}", 1007), "NoRows");
    assert_eq!(array(b"{a}", 1007), "Any");
    assert_eq!(array(b"{{1}}", 1007), "0A000");
    assert_eq!(array(b"{1}", 23), "0A000");
}

#[test]
fn home_tables_need_tenants_of_the_home_shard() {
    let target = |value: Option<&[u8]>| {
        let params = [value];
        let args = Arguments::Bind { params: &params, formats: &[], types: &[] };
        let call = Call { sql: "", slots: &[], planned: &[], args };
        let source = KeySource::Param { index: 1, kind: KeyType::Text };
        let routed = route(&run(vec![source], true), &map(), HOME, &call);
        routed.map(|it| it.target).map_err(|it| it.code.into_owned())
    };
    assert_eq!((owner("acme"), owner("1")), (ShardId(0), ShardId(1)));
    assert_eq!(target(Some(b"acme")), Ok(Target::Home));
    assert_eq!(target(None), Ok(Target::Home));
    assert_eq!(target(Some(b"1")), Err("0A000".to_owned()));
}

#[test]
fn other_scopes() {
    let call = Call { sql: "", slots: &[], planned: &[], args: Arguments::None };
    let to = |scope, combine| {
        let run = Run { access: Access::Write, scope, combine, fallback: None, explained: None };
        let map = Map::single(ShardId(3));
        route(&run, &map, HOME, &call).unwrap().target
    };
    let set = |ids: &[u8]| Target::Shards(ids.iter().map(|it| ShardId(*it)).collect());
    assert_eq!(to(Scope::Any, Combine::Same), Target::Any);
    assert_eq!(to(Scope::Home, Combine::Same), Target::Home);
    assert_eq!(to(Scope::All, Combine::Same), set(&[0, 3]));
    assert_eq!(to(Scope::All, Combine::Sum), set(&[3]));
}

#[test]
fn inserts_are_split() {
    let planned = "INSERT INTO t (k, v) VALUES ('acme', 1), ('1', $2), ('x', $1) RETURNING *";
    let given = "INSERT INTO t (k, v) VALUES ('1', 100), ('acme', $2), ('2', $1) RETURNING *";
    let (one, other) = (read(planned), read(given));
    let row = |text: &str| {
        let start = planned.find(text).unwrap();
        let key = KeySource::Literal { offset: start + 1, kind: KeyType::Text };
        (start..start + text.len(), key)
    };
    let rows = vec![row("('acme', 1)"), row("('1', $2)"), row("('x', $1)")];
    let split = Split { rows, returning: true, dated: None, told: Vec::new() };
    let call =
        Call { sql: given, slots: other.slots(), planned: one.slots(), args: Arguments::None };
    assert_eq!(owner("2"), ShardId(1));
    let shards = BTreeMap::from([(ShardId(0), vec![1]), (ShardId(1), vec![0, 2])]);
    assert_eq!(split_rows(&split, &map(), &call), Ok(Rows::Shards(shards)));
    let text = split_sql(&split, &call, &[0, 2], (&[], &[])).unwrap();
    assert_eq!(text, "INSERT INTO t (k, v) VALUES ('1', 100), ('2', $1) RETURNING *");
    let text = split_sql(&split, &call, &[1], (&[], &[])).unwrap();
    let at = planned.find(") VALUES").unwrap();
    let dated =
        Dated { columns: vec!["\"at\"".into()], defaults: vec!["now()".into()], list_end: at };
    let split = Split { dated: Some(dated), ..split };
    let dated = split_sql(&split, &call, &[2], (&["it's".into()], &[])).unwrap();
    assert_eq!(dated, "INSERT INTO t (k, v, \"at\") VALUES ('2', $1, 'it''s') RETURNING *");
    let renumbered = "INSERT INTO t (k, v) VALUES ('acme', $1) RETURNING *";
    assert_eq!(renumber_params(&text), (renumbered.into(), vec![2]));
}

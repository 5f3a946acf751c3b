//! A catalog from a golden file's header. Lines:
//!
//! ```text
//! include shop                         # header lines of tests/golden/shop.schema
//! tables orders=tenant_id:int countries=reference settings=home
//! columns orders id:int name:text@C total:numeric created:timestamptz=now() no:int=sequence:s
//! shared s                             # sequences that give each number once over all shards
//! unique orders tenant_id,id email     # unique keys, the primary one first
//! view recent SELECT …                 # its columns come from `columns recent …`
//! trigger orders audit                 # a trigger's function
//! rules orders
//! function f volatile                  # reads tables; `pure` after the volatility: it does not
//! trusted f
//! params int8 text                     # declared parameter types
//! path public other                    # the session's search path
//! tenant tenant_id                     # the configured tenant column
//! reference languages                  # a configured reference table that does not exist yet
//! collation C
//! global customers(email)              # unique keys that are kept over all shards
//! kept customers(email)                # those of them that every shard keeps
//! cascade orgs tenant_id customers     # rows of customers go with those of orgs
//! writers add_user                     # functions whose text names a table with such a key
//! local_keys
//! generated_keys                       # trust_generated_keys
//! ids                                  # every shard makes ids of its own
//! auto_prepare                         # literals may become parameters
//! operators_on text
//! unsharded
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use pgsluice::catalog::sequence::Series;
use pgsluice::catalog::{
    Cascade, Catalog, Column, ColumnDefault, Function, FunctionKind, SqlType, Table, TableKind,
    Volatility,
};
use pgsluice::shard::KeyType;

/// What a header says.
pub(crate) struct Schema {
    pub(crate) catalog: Catalog,
    pub(crate) sharded: bool,
    pub(crate) params: Vec<u32>,
    pub(crate) path: Option<Vec<String>>,
}

const IMMUTABLE: &str = "abs lower upper length char_length md5 round ceil floor trunc btrim ltrim \
    rtrim substring replace left right date_part jsonb_extract_path sqrt power mod sign initcap \
    split_part string_to_array unnest generate_series like_escape similar_to_escape array_length \
    jsonb_array_elements jsonb_array_elements_text jsonb_typeof width_bucket greatest bit_length \
    octet_length position overlay int4range daterange tstzrange numrange timezone decode encode sha256";
const STABLE: &str = "now to_char date_trunc concat to_json to_jsonb row_to_json current_setting \
    statement_timestamp transaction_timestamp age extract format pg_typeof to_timestamp concat_ws \
    txid_current txid_current_if_assigned currval_stable query_to_xml table_to_xml version \
    pg_backend_pid pg_is_in_recovery jsonb_build_object json_build_object has_table_privilege \
    pg_listening_channels pg_get_serial_sequence";
const VOLATILE: &str = "random clock_timestamp nextval setval currval lastval gen_random_uuid \
    pg_sleep pg_advisory_lock pg_advisory_xact_lock pg_try_advisory_lock pg_advisory_unlock \
    pg_notify set_config pg_cancel_backend timeofday setseed";
const AGGREGATE: &str = "count sum min max avg bool_and bool_or every array_agg string_agg \
    json_agg jsonb_agg stddev variance percentile_cont mode bit_and";
const WINDOW: &str = "row_number rank dense_rank lag lead first_value last_value ntile nth_value";

impl Schema {
    pub(crate) fn read(header: &str) -> Self {
        let mut schema = Self {
            catalog: Catalog {
                search_path: vec!["pg_catalog".into(), "public".into()],
                server_version: 150_018,
                ..Catalog::default()
            },
            sharded: true,
            params: Vec::new(),
            path: None,
        };
        schema.builtins();
        schema.lines(header);
        schema.catalog.types.insert("mood".into(), 16_500);
        schema
    }

    fn lines(&mut self, header: &str) {
        for line in header.lines() {
            let line = line.split('#').next().unwrap().trim();
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            self.line(word, rest.trim());
        }
    }

    fn line(&mut self, word: &str, rest: &str) {
        let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
        let words = || rest.split_whitespace().map(str::to_owned);
        let series = Series { first: 1, step: 1, stride: 32 };
        match word {
            "" => (),
            "include" => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
                self.lines(&fs::read_to_string(root.join(format!("{rest}.schema"))).unwrap());
            }
            "tables" => rest.split_whitespace().for_each(|it| self.table(it)),
            "columns" => self.columns(first, others),
            "unique" => self.unique(first, others),
            "view" => self.entry(first).kind = TableKind::View(others.to_owned()),
            "trigger" => self.entry(first).trigger_functions.push(others.to_owned()),
            "rules" => self.entry(first).has_rules = true,
            "function" => self.function(first, others),
            "trusted" => self.catalog.trusted_functions.extend(words()),
            "params" => self.params = rest.split_whitespace().map(oid).collect(),
            "path" => self.path = Some(words().collect()),
            "tenant" => self.catalog.tenant_column = Some(rest.to_owned()),
            "reference" => self.catalog.reference_tables.extend(words()),
            "collation" => self.catalog.default_collation_is_c = rest == "C",
            "auto_prepare" => self.catalog.auto_prepare = true,
            "shared" => {
                self.catalog.sequences.extend(words().map(|it| (("public".into(), it), series)));
            }
            "ids" => {
                self.catalog.makes_ids = true;
                for name in ["unique_id", "uuid_v7"] {
                    self.function(name, "volatile");
                    let own = self.catalog.functions.get_mut(name).unwrap();
                    own.iter_mut().for_each(|it| it.schema = "sluice".into());
                }
            }
            "global" => self.catalog.global_unique.push(rest.parse().unwrap()),
            "kept" => self.catalog.kept_keys.push(rest.parse().unwrap()),
            "cascade" => self.cascade(first, others),
            "writers" => self.catalog.unique_writers.extend(words()),
            "local_keys" => self.catalog.allow_local_keys = true,
            "generated_keys" => self.catalog.trust_generated_keys = true,
            "operators_on" => self.catalog.operators_on.extend(rest.split_whitespace().map(oid)),
            "unsharded" => self.sharded = false,
            other => panic!("unknown header line {other}"),
        }
    }

    fn entry(&mut self, name: &str) -> &mut Table {
        let (schema, name) = name.split_once('.').unwrap_or(("public", name));
        let table = || Table {
            kind: TableKind::Home,
            columns: Vec::new(),
            unique_keys: Vec::new(),
            primary_key: Vec::new(),
            trigger_functions: Vec::new(),
            has_rules: false,
        };
        self.catalog.tables.entry((schema.to_owned(), name.to_owned())).or_insert_with(table)
    }

    fn table(&mut self, text: &str) {
        let (name, kind) = text.split_once('=').unwrap();
        let (first, second) = kind.split_once(':').unwrap_or((kind, ""));
        let table = self.entry(name);
        table.kind = match first {
            "reference" => TableKind::Reference,
            "home" => TableKind::Home,
            "system" => TableKind::System,
            "unusable" => TableKind::Unusable(second.to_owned()),
            column => {
                table.columns.push(read_column(&format!("{column}:{second}")));
                TableKind::Sharded { column: 0, key: KeyType::of_oid(oid(second)).unwrap() }
            }
        };
    }

    fn columns(&mut self, name: &str, text: &str) {
        let is_c = self.catalog.default_collation_is_c;
        let table = self.entry(name);
        for word in text.split_whitespace() {
            let mut column = read_column(word);
            column.collation_is_c |= is_c;
            table.columns.push(column);
        }
    }

    fn unique(&mut self, name: &str, text: &str) {
        let table = self.entry(name);
        for key in text.split_whitespace() {
            let columns: Vec<usize> = key.split(',').map(|it| table.column(it).unwrap()).collect();
            if table.primary_key.is_empty() {
                table.primary_key.clone_from(&columns);
            }
            table.unique_keys.push(columns);
        }
    }

    fn cascade(&mut self, from: &str, text: &str) {
        let (columns, to) = text.split_once(' ').unwrap();
        let cascade = Cascade {
            table: ("public".into(), to.to_owned()),
            columns: columns.split(',').map(str::to_owned).collect(),
            on_delete: true,
            on_update: true,
        };
        self.catalog.cascades.entry(("public".into(), from.to_owned())).or_default().push(cascade);
    }

    fn function(&mut self, name: &str, text: &str) {
        let volatility = match text.split(' ').next() {
            Some("immutable") => Volatility::Immutable,
            Some("stable") => Volatility::Stable,
            _ => Volatility::Volatile,
        };
        let function = Function {
            schema: "public".into(),
            kind: if text.contains("aggregate") {
                FunctionKind::Aggregate
            } else {
                FunctionKind::Plain
            },
            volatility,
            is_table_free: text.contains("pure"),
            is_strict: false,
        };
        self.catalog.functions.entry(name.to_owned()).or_default().push(function);
    }

    fn builtins(&mut self) {
        let mut add = |names: &str, kind, volatility| {
            let function = Function {
                schema: "pg_catalog".into(),
                kind,
                volatility,
                is_table_free: true,
                is_strict: true,
            };
            let functions: &mut HashMap<_, Vec<_>> = &mut self.catalog.functions;
            for name in names.split_whitespace() {
                functions.entry(name.to_owned()).or_default().push(function.clone());
            }
        };
        add(IMMUTABLE, FunctionKind::Plain, Volatility::Immutable);
        add(STABLE, FunctionKind::Plain, Volatility::Stable);
        add(VOLATILE, FunctionKind::Plain, Volatility::Volatile);
        add(AGGREGATE, FunctionKind::Aggregate, Volatility::Immutable);
        add(WINDOW, FunctionKind::Window, Volatility::Immutable);
    }
}

/// `name:type`, `@C` or `@nondeterministic` after the type, then `=default`.
fn read_column(text: &str) -> Column {
    let (text, default) = text.split_once('=').unwrap_or((text, ""));
    let (name, ty) = text.split_once(':').unwrap();
    let (ty, collation) = ty.split_once('@').unwrap_or((ty, ""));
    Column {
        name: name.to_owned(),
        type_oid: oid(ty),
        collation_is_c: collation == "C",
        collation_is_deterministic: collation != "nondeterministic",
        default: match default {
            "" => ColumnDefault::Constant,
            "sequence" => ColumnDefault::Sequence(None),
            "generated" => ColumnDefault::Generated,
            text => match text.strip_prefix("sequence:") {
                Some(name) => ColumnDefault::Sequence(Some(("public".into(), name.into()))),
                None => ColumnDefault::Computed(text.to_owned()),
            },
        },
        sql_type: SqlType {
            name: ty.to_owned(),
            scalar: (ty != "enum" && !ty.ends_with(']')).then(|| ty.to_owned()),
            collation: (collation == "C").then(|| "pg_catalog.\"C\"".to_owned()),
        },
    }
}

fn oid(name: &str) -> u32 {
    match name {
        "0" => 0,
        "bool" => 16,
        "bytea" => 17,
        "bigint" | "int8" => 20,
        "int2" => 21,
        "int" | "int4" => 23,
        "text" => 25,
        "json" => 114,
        "float" | "float8" => 701,
        "int[]" => 1007,
        "text[]" => 1009,
        "bpchar" => 1042,
        "varchar" => 1043,
        "date" => 1082,
        "timestamp" => 1114,
        "timestamptz" => 1184,
        "interval" => 1186,
        "numeric" => 1700,
        "uuid" => 2950,
        "jsonb" => 3802,
        "enum" => 16_400,
        other => panic!("unknown type {other}"),
    }
}

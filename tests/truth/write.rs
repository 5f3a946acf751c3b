//! Random writes. Each row is changed at most once and by values that its statement determines.

use super::from::Rel;
use super::query::{Generator, Wanted};
use super::schema::{Column, Table, TableKind};
use super::values::{Ty, quoted, tenants, value};

impl Generator<'_> {
    /// A write, and the table it changes.
    pub fn write(&mut self) -> (String, String) {
        let weight = |it: &Table| match it.kind {
            TableKind::Sharded => 10,
            TableKind::Reference => 3,
            TableKind::Home => 1,
            TableKind::View => 0,
        };
        let tables = &self.schema.tables;
        let weights: Vec<usize> = tables.iter().map(weight).collect();
        let table = &tables[self.choices.weighted(&weights)];
        let text = match self.choices.weighted(&[30, 15, 30, 20]) {
            1 => self.insert_select(table),
            2 => self.update(table),
            3 => self.delete(table),
            _ => self.insert(table),
        };
        let text = if self.choices.chance(8) && text.contains(" RETURNING ") {
            format!("WITH w AS ({text}) SELECT * FROM w")
        } else {
            text
        };
        (text, table.name.clone())
    }

    /// Some of the columns that are no key.
    fn some_columns<'t>(&mut self, table: &'t Table) -> Vec<&'t Column> {
        let all = table.columns.iter().filter(|it| !table.key.contains(&it.name));
        all.filter(|_| self.choices.chance(45)).collect()
    }

    fn insert(&mut self, table: &Table) -> String {
        let columns = self.some_columns(table);
        let mut names = table.key.clone();
        names.extend(columns.iter().map(|it| it.name.clone()));
        let tenant = table.columns.iter().find(|it| it.is_tenant);
        let mut rows = Vec::new();
        for _ in 0..1 + self.choices.below(4) {
            let mut row = Vec::new();
            if let Some(tenant) = tenant {
                row.push(match self.choices.chance(5) {
                    true => quoted(self.choices.pick::<&str>(tenants(tenant.ty))),
                    false => self.key(tenant.ty),
                });
                if self.choices.chance(7) {
                    let key = row.remove(0);
                    row.push(format!("coalesce({key}, NULL)::{}", tenant.ty.sql()));
                }
            }
            let is_new = !self.choices.chance(30);
            let id = (self.choices.below(6) + if is_new { 100 } else { 1 }).to_string();
            row.push(id);
            for column in &columns {
                row.push(self.given(column.ty));
            }
            rows.push(format!("({})", row.join(", ")));
        }
        let conflict = self.conflict(table, &columns);
        let text = format!(
            "INSERT INTO {} ({}) VALUES {}{conflict}",
            table.name,
            names.join(", "),
            rows.join(", ")
        );
        self.returning(text, table, &table.name)
    }

    /// A value for a column.
    fn given(&mut self, ty: Ty) -> String {
        match self.choices.below(8) {
            0 => "NULL".to_owned(),
            1 => "DEFAULT".to_owned(),
            2 | 3 => self.operand(ty),
            _ => quoted(value(self.choices, ty)),
        }
    }

    fn conflict(&mut self, table: &Table, columns: &[&Column]) -> String {
        let key = table.key.join(", ");
        match self.choices.below(5) {
            0 => format!(" ON CONFLICT ({key}) DO NOTHING"),
            1 if !columns.is_empty() => {
                let set = |it: &&Column| format!("{0} = EXCLUDED.{0}", it.name);
                let sets: Vec<String> = columns.iter().map(set).collect();
                let filter = format!(" WHERE {}.id > 1", table.name);
                let end = if self.choices.chance(30) { &filter } else { "" };
                format!(" ON CONFLICT ({key}) DO UPDATE SET {}{end}", sets.join(", "))
            }
            2 => " ON CONFLICT DO NOTHING".to_owned(),
            _ => String::new(),
        }
    }

    fn insert_select(&mut self, table: &Table) -> String {
        let columns = self.some_columns(table);
        let mut names = table.key.clone();
        names.extend(columns.iter().map(|it| it.name.clone()));
        let mut types: Vec<Ty> = Vec::new();
        types.extend(columns.iter().map(|it| it.ty));
        self.scopes.push(Vec::new());
        self.depth += 1;
        let has_tenant = table.columns.iter().find(|it| it.is_tenant);
        let fits = |it: &&Table| {
            let other = it.columns.iter().find(|it| it.is_tenant).map(|it| it.ty);
            let fits = |own: &Column| other == Some(own.ty) || other.is_none();
            !it.key.is_empty() && has_tenant.is_none_or(fits)
        };
        let sources: Vec<&Table> = self.schema.tables.iter().filter(fits).collect();
        let source = *self.choices.pick(&sources);
        let alias = self.next_alias();
        let rel = Rel::of(source, alias.clone());
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(rel);
        }
        let mut items = Vec::new();
        if let Some(own) = has_tenant {
            let has_same = source.columns.iter().any(|it| it.is_tenant);
            items.push(match has_same && !self.choices.chance(40) {
                true => format!("{alias}.tenant_id"),
                false => other_tenant(own.ty, &alias, has_same),
            });
        }
        items.push(format!("{alias}.id + 100"));
        for ty in types {
            let text = self.expr(ty, 0);
            items.push(format!("({text})::{}", ty.sql()));
        }
        let filter = self.filter();
        self.depth -= 1;
        self.scopes.pop();
        // Rows of several tenants may have one id: which of them would stay is open.
        let is_open = has_tenant.is_none() && source.columns.iter().any(|it| it.is_tenant);
        let skips = self.choices.chance(30) && !is_open;
        let conflict = if skips { " ON CONFLICT DO NOTHING" } else { "" };
        let text = format!(
            "INSERT INTO {} ({}) SELECT {} FROM {} AS {alias}{filter}{conflict}",
            table.name,
            names.join(", "),
            items.join(", "),
            source.name
        );
        self.returning(text, table, &table.name)
    }

    /// Another table, at most one row of which belongs to a row of the first.
    fn partner(&mut self, table: &Table, alias: &str) -> Option<(String, String)> {
        if !self.choices.chance(25) {
            return None;
        }
        let own = table.columns.iter().find(|it| it.is_tenant).map(|it| it.ty);
        let fits = |it: &&Table| {
            let other = it.columns.iter().find(|it| it.is_tenant).map(|it| it.ty);
            !it.key.is_empty() && (other.is_none() || other == own)
        };
        let others: Vec<&Table> = self.schema.tables.iter().filter(fits).collect();
        if others.is_empty() {
            return None;
        }
        let other = *self.choices.pick(&others);
        let name = self.next_alias();
        let mut on = format!("{name}.id = {alias}.id");
        if other.key.len() > 1 {
            on = format!("{name}.tenant_id = {alias}.tenant_id AND {on}");
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(Rel::of(other, name.clone()));
        }
        Some((format!("{} AS {name}", other.name), on))
    }

    fn update(&mut self, table: &Table) -> String {
        let alias = self.next_alias();
        self.scopes.push(vec![Rel::of(table, alias.clone())]);
        self.depth += 1;
        let partner = self.partner(table, &alias);
        let mut sets = Vec::new();
        for column in self.some_columns(table) {
            let text = match self.choices.chance(40) {
                true => format!("({})::{}", self.expr(column.ty, 1), column.ty.sql()),
                false => self.given(column.ty),
            };
            sets.push(format!("{} = {text}", column.name));
        }
        let tenant = table.columns.iter().find(|it| it.is_tenant);
        if let Some(tenant) = tenant.filter(|_| partner.is_none() && self.choices.chance(20)) {
            sets.push("id = id + 1000".to_owned());
            let new = match self.choices.chance(40) {
                true => self.key(tenant.ty),
                false => other_tenant(tenant.ty, &alias, true),
            };
            sets.push(format!("tenant_id = {new}"));
        }
        if sets.is_empty() {
            sets.push("id = id + 1000".to_owned());
            if partner.is_some() {
                sets = vec![format!("id = {alias}.id + 1000")];
            }
        }
        let filter = self.filter();
        let filter = with_partner(&partner, &filter);
        let from = partner.map_or(String::new(), |it| format!(" FROM {}", it.0));
        let text =
            format!("UPDATE {} AS {alias} SET {}{from}{filter}", table.name, sets.join(", "));
        let text = self.returning(text, table, &alias);
        self.depth -= 1;
        self.scopes.pop();
        text
    }

    fn delete(&mut self, table: &Table) -> String {
        let alias = self.next_alias();
        self.scopes.push(vec![Rel::of(table, alias.clone())]);
        self.depth += 1;
        let partner = self.partner(table, &alias);
        let filter = self.filter();
        let filter = with_partner(&partner, &filter);
        let using = partner.map_or(String::new(), |it| format!(" USING {}", it.0));
        let text = format!("DELETE FROM {} AS {alias}{using}{filter}", table.name);
        let text = self.returning(text, table, &alias);
        self.depth -= 1;
        self.scopes.pop();
        text
    }

    fn returning(&mut self, text: String, table: &Table, alias: &str) -> String {
        match self.choices.below(5) {
            0 | 1 => text,
            2 => format!("{text} RETURNING {alias}.*"),
            _ => {
                self.scopes.push(vec![Rel::of(table, alias.to_owned())]);
                let mut items = Vec::new();
                for _ in 0..1 + self.choices.below(3) {
                    let item = match self.any_column() {
                        Some(col) if self.choices.chance(70) => col.text,
                        _ => self.expr(Ty::Int, 1),
                    };
                    items.push(format!("{item} AS o{}", items.len()));
                }
                self.scopes.pop();
                format!("{text} RETURNING {}", items.join(", "))
            }
        }
    }

    /// A read of any kind.
    pub fn read(&mut self) -> super::query::Query {
        self.query(Wanted { is_top: true, ..Wanted::default() })
    }
}

/// A tenant that follows from a row, another one for each of its tenants or ids.
fn other_tenant(ty: Ty, alias: &str, has_same: bool) -> String {
    let from = if has_same { format!("{alias}.tenant_id") } else { format!("{alias}.id") };
    match ty {
        Ty::Text => format!("'x' || {from}"),
        Ty::Uuid => format!("md5({from}::text)::uuid"),
        _ => format!("{from} + 1"),
    }
}

fn with_partner(partner: &Option<(String, String)>, filter: &str) -> String {
    match (partner, filter.strip_prefix(" WHERE ")) {
        (Some((_, on)), Some(filter)) => format!(" WHERE {on} AND {filter}"),
        (Some((_, on)), None) => format!(" WHERE {on}"),
        (None, _) => filter.to_owned(),
    }
}

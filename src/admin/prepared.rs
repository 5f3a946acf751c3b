//! SHOW PREPARED: the statements that clients have prepared, as servers know them.

use std::collections::HashMap;

use super::show::Table;
use crate::proxy::Proxy;

/// Characters of a statement that are shown.
const SHOWN: usize = 200;

/// One row per statement, by its number. `clients`: how often sessions have it, under a name of theirs, as
/// their unnamed one or in a portal. `servers`: idle servers that hold it now.
pub(super) fn prepared(proxy: &Proxy) -> Table {
    let mut table =
        Table::new(&["name", "database", "clients", "servers", "types", "bytes", "statement"]);
    let (servers, clients) = (held(proxy), proxy.prepared.uses());
    for text in proxy.prepared.texts() {
        let types: Vec<String> = text.told_types().iter().map(u32::to_string).collect();
        table.row([
            text.name.to_string(),
            text.key.database.to_string(),
            clients.get(&text.id).copied().unwrap_or(0).to_string(),
            servers.get(&text.id).copied().unwrap_or(0).to_string(),
            types.join(", "),
            text.sql().len().to_string(),
            String::from_utf8_lossy(text.sql()).chars().take(SHOWN).collect(),
        ]);
    }
    table
}

/// By statement: how many idle servers have it.
fn held(proxy: &Proxy) -> HashMap<u64, usize> {
    let mut held = HashMap::new();
    for pool in proxy.cluster.load().hosts().flat_map(|host| host.pools()) {
        let ids = pool.idle_servers(|server| server.statements.ids().collect::<Vec<_>>());
        for id in ids.into_iter().flatten() {
            *held.entry(id).or_default() += 1;
        }
    }
    held
}

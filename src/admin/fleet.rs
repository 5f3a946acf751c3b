//! SHOW FLEET: this proxy and those that it hears through Redis.

use super::show::Table;
use crate::proxy::Proxy;

/// This proxy first, then the others by database; nothing without `[redis]`.
pub(super) fn fleet(proxy: &Proxy) -> Table {
    let columns = &["proxy", "database", "state", "silent_ms", "writes", "problem"];
    let mut table = Table::new(columns);
    let Some(fleet) = &proxy.fleet else { return table };
    let problem = fleet.problem();
    let state = if problem.is_none() { "this, connected" } else { "this, not connected" };
    let own = format!("{:016x}", fleet.id());
    let nothing = String::new;
    table.row([own, nothing(), state.into(), nothing(), nothing(), problem.unwrap_or_default()]);
    for (database, peers) in fleet.peers() {
        for peer in peers {
            let state = if peer.is_distrusted { "silent" } else { "heard" };
            table.row([
                format!("{:016x}", peer.id),
                database.clone(),
                state.into(),
                (peer.silent_for / 1000).to_string(),
                peer.marks.to_string(),
                nothing(),
            ]);
        }
    }
    table
}

//! What to try, printed when a playground is ready.

use std::path::Path;

use super::cluster::Cluster;

/// The address of the proxy for the user `app`.
pub(super) fn url(port: u16, database: &str) -> String {
    format!("postgres://app:app@127.0.0.1:{port}/{database}")
}

/// Lines to copy.
pub(super) fn hints(cluster: &Cluster, port: u16, file: &Path, sample: bool) -> String {
    let mut text = format!("\nThings to try:\n\n  psql {}\n", url(port, "app"));
    if sample {
        text.push_str(SAMPLE);
    }
    let admin = url(port, crate::config::ADMIN_DATABASE);
    text.push_str(&format!(
        "\nThe proxy's own console:\n\n  psql {admin} -c 'SHOW POOLS'\n\
         \nThe configuration, which takes effect when it is saved:\n\n  {}\n\
         \nBehind the proxy:\n\n",
        file.display()
    ));
    for server in cluster.all() {
        let psql = format!("psql -h 127.0.0.1 -p {} -U postgres app", server.port);
        text.push_str(&format!("  {psql}    # {}\n", server.name));
    }
    text.push_str("\nCtrl-C stops everything.\n");
    text
}

const SAMPLE: &str = "
    SELECT * FROM orders WHERE tenant_id = 7 ORDER BY id LIMIT 5;          -- one shard, a replica
    SELECT status, count(*), sum(amount) FROM orders GROUP BY status;      -- all shards, merged
    SELECT t.name, p.name FROM tenants t JOIN plans p USING (plan_id) WHERE t.tenant_id = 7;
    EXPLAIN (SLUICE) SELECT * FROM events ORDER BY created_at DESC LIMIT 3;
    BEGIN;
    UPDATE projects SET status = 'done' WHERE tenant_id IN (1, 2, 3);      -- two-phase commit
    COMMIT;
    SELECT status, avg(amount) FROM orders GROUP BY status;                -- computed over shipped rows
    SELECT id FROM orders LIMIT 5 FOR UPDATE;                              -- refused, with a reason
";

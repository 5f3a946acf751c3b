//! Which tenants a statement can touch: columns that can hold a tenant key are nodes, equalities
//! are edges, constants are facts.
//!
//! A column is *confined* to keys when rows of its table with another value in it cannot change the
//! answer. An edge `a → b` says: if `a` is confined, so is `b`.

use std::collections::HashSet;

use crate::catalog::unique::GlobalKey;
use crate::plan::KeySource;
use crate::plan::unique::Lookup;
use crate::shard::KeyType;

/// A column of one range variable.
pub(super) type NodeId = usize;

#[derive(Debug)]
struct Node {
    kind: KeyType,
    /// The query block whose FROM holds the range variable.
    block: usize,
    edges: Vec<NodeId>,
    fact: Option<Vec<KeySource>>,
}

/// All nodes of a statement.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    /// Tenant columns of sharded tables, with the table's name.
    sharded: Vec<(NodeId, String)>,
    /// Tenant columns of tables with keys over shards, and the columns of such a key.
    global: Vec<(NodeId, GlobalKey, Vec<NodeId>)>,
}

impl Graph {
    pub(super) fn add(&mut self, kind: KeyType, block: usize) -> NodeId {
        self.nodes.push(Node { kind, block, edges: Vec::new(), fact: None });
        self.nodes.len() - 1
    }

    /// The number of nodes; they are numbered as they come into being.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn kind(&self, node: NodeId) -> KeyType {
        self.nodes[node].kind
    }

    pub(super) fn block(&self, node: NodeId) -> usize {
        self.nodes[node].block
    }

    /// Adds an edge; columns of different key types do not compare as keys.
    pub(super) fn edge(&mut self, from: NodeId, to: NodeId) {
        if self.kind(from) == self.kind(to) {
            self.nodes[from].edges.push(to);
        }
    }

    /// Confines a column; one key wins over a list.
    pub(super) fn fact(&mut self, node: NodeId, keys: Vec<KeySource>) {
        let known = &mut self.nodes[node].fact;
        if known.as_ref().is_none_or(|it| weight(&keys) < weight(it)) {
            *known = Some(keys);
        }
    }

    pub(super) fn sharded(&mut self, node: NodeId, table: String) {
        self.sharded.push((node, table));
    }

    /// A value in these columns belongs to one tenant.
    pub(super) fn global(&mut self, tenant: NodeId, key: GlobalKey, columns: Vec<NodeId>) {
        self.global.push((tenant, key, columns));
    }

    /// A key over shards whose one value tells the tenant of all rows of sharded tables.
    pub(super) fn lookup(&self) -> Option<Lookup> {
        let known = self.spread();
        let value = |node: &NodeId| match self.nodes[known[*node]?].fact.as_deref()? {
            [key] if weight(std::slice::from_ref(key)) == 1 => Some(key.clone()),
            _ => None,
        };
        self.global.iter().find_map(|(tenant, key, columns)| {
            let values: Option<Vec<KeySource>> = columns.iter().map(value).collect();
            let reached = self.reached(*tenant);
            let is_all = self.sharded.iter().all(|(node, _)| reached.contains(node));
            let tenant = self.kind(*tenant);
            Some(Lookup { key: key.clone(), values: values.filter(|_| is_all)?, tenant })
        })
    }

    /// The columns that are confined if one is.
    fn reached(&self, from: NodeId) -> HashSet<NodeId> {
        let (mut reached, mut queue) = (HashSet::new(), vec![from]);
        while let Some(node) = queue.pop() {
            if reached.insert(node) {
                queue.extend(&self.nodes[node].edges);
            }
        }
        reached
    }

    /// The number of sharded range variables.
    pub(super) fn sharded_len(&self) -> usize {
        self.sharded.len()
    }

    pub(super) fn has_sharded(&self) -> bool {
        !self.sharded.is_empty()
    }

    /// The name of some sharded table.
    pub(super) fn any_sharded(&self) -> Option<&str> {
        self.sharded.first().map(|(_, name)| name.as_str())
    }

    /// The keys that confine every sharded table, or the name of a table that none confines.
    pub(super) fn confined(&self) -> Result<Vec<KeySource>, &str> {
        let known = self.spread();
        let (mut keys, mut seen) = (Vec::new(), HashSet::new());
        for (node, table) in &self.sharded {
            let Some(origin) = known[*node] else { return Err(table) };
            for key in self.nodes[origin].fact.iter().flatten() {
                if seen.insert(place(key)) {
                    keys.push(key.clone());
                }
            }
        }
        Ok(keys)
    }

    /// For each node the one whose fact confines it.
    fn spread(&self) -> Vec<Option<NodeId>> {
        let mut known = vec![None; self.nodes.len()];
        let mut origins: Vec<NodeId> =
            (0..self.nodes.len()).filter(|it| self.nodes[*it].fact.is_some()).collect();
        origins.sort_by_key(|it| self.nodes[*it].fact.as_deref().map(weight));
        for origin in origins {
            let mut queue = vec![origin];
            while let Some(node) = queue.pop() {
                if known[node].is_none() {
                    known[node] = Some(origin);
                    queue.extend(&self.nodes[node].edges);
                }
            }
        }
        known
    }
}

/// What tells two keys apart.
fn place(key: &KeySource) -> (u8, usize) {
    match key {
        KeySource::Literal { offset, .. } => (0, *offset),
        KeySource::Param { index, .. } => (1, *index),
        KeySource::ParamArray { index, .. } => (2, *index),
    }
}

/// How many shards keys may need.
fn weight(keys: &[KeySource]) -> usize {
    let array = keys.iter().any(|it| matches!(it, KeySource::ParamArray { .. }));
    if array { usize::MAX } else { keys.len() }
}

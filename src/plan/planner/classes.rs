//! Equality classes of columns within one query block.

use std::collections::HashMap;

use super::graph::NodeId;

/// A union-find; nodes come into being when they are named.
#[derive(Debug, Default)]
pub(super) struct Classes {
    parents: HashMap<NodeId, NodeId>,
}

impl Classes {
    /// The class of a node, as one of its members.
    pub(super) fn root(&self, node: NodeId) -> NodeId {
        let mut at = node;
        while let Some(parent) = self.parents.get(&at) {
            if *parent == at {
                break;
            }
            at = *parent;
        }
        at
    }

    /// Makes two nodes equal.
    pub(super) fn union(&mut self, a: NodeId, b: NodeId) {
        self.parents.entry(a).or_insert(a);
        self.parents.entry(b).or_insert(b);
        let (a, b) = (self.root(a), self.root(b));
        self.parents.insert(a, b);
    }

    /// Whether two nodes are equal.
    pub(super) fn same(&self, a: NodeId, b: NodeId) -> bool {
        self.root(a) == self.root(b)
    }

    /// The nodes equal to this one.
    pub(super) fn members(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let root = self.root(node);
        self.parents.keys().copied().filter(move |it| self.root(*it) == root)
    }
}

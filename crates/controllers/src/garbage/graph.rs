//! Who depends on whom: a graph over all objects of all kinds, holding of each only what garbage collection needs.

use kube::api::ApiResource;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: String,
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub blocks: bool,
}

/// An object as the collector knows it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub uid: String,
    pub resource: Arc<ApiResource>,
    pub namespace: Option<String>,
    pub name: String,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    pub foreground: bool,
    pub orphan: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// Takes in an object as it is now; returns the uids that should be looked at because of it.
    pub(super) fn put(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid.clone();
        let mut look = Vec::new();
        if let Some(old) = self.items.get(&uid) {
            for owner in old.owners.iter().filter(|o| !item.owners.iter().any(|n| n.uid == o.uid)) {
                if let Some(set) = self.dependents.get_mut(&owner.uid) {
                    set.remove(&uid);
                }
                // An owner that waits for its dependents has one fewer.
                look.push(owner.uid.clone());
            }
            let freed = |o: &&Owner| o.blocks && item.owners.iter().any(|n| n.uid == o.uid && !n.blocks);
            look.extend(old.owners.iter().filter(freed).map(|o| o.uid.clone()));
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let unsure = item.owners.iter().any(|o| {
            self.items.get(&o.uid).is_none_or(|i| {
                let elsewhere = i.namespace.is_some() && i.namespace != item.namespace;
                elsewhere || i.name != o.name || (i.deleting && i.foreground)
            })
        });
        if unsure || (item.deleting && (item.foreground || item.orphan)) {
            look.push(uid.clone());
        }
        self.items.insert(uid, item);
        look
    }

    /// Takes out an object that is gone; returns the uids that should be looked at because of it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        let mut look = Vec::new();
        for owner in &item.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            look.push(owner.uid.clone());
        }
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// The uids of all objects of a resource.
    pub(super) fn of_resource(&self, resource: &ApiResource) -> Vec<String> {
        self.items.values().filter(|i| *i.resource == *resource).map(|i| i.uid.clone()).collect()
    }

    /// The objects that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|u| self.items.get(u)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(uid: &str, owners: &[&str]) -> Item {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "Pod".into(),
            plural: "pods".into(),
        };
        Item {
            uid: uid.into(),
            resource: Arc::new(resource),
            namespace: Some("default".into()),
            name: uid.into(),
            owners: owners
                .iter()
                .map(|o| Owner {
                    uid: (*o).into(),
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: (*o).into(),
                    blocks: true,
                })
                .collect(),
            deleting: false,
            foreground: false,
            orphan: false,
        }
    }

    #[test]
    fn what_depends_on_a_gone_object_is_looked_at() {
        let mut graph = Graph::default();
        assert!(graph.put(item("owner", &[])).is_empty());
        assert!(graph.put(item("child", &["owner"])).is_empty(), "its owner is there");
        assert_eq!(graph.remove("owner"), ["child"]);
        assert_eq!(graph.put(item("late", &["owner"])), ["late"], "its owner is not there");
    }

    #[test]
    fn an_owner_that_waits_is_looked_at_when_a_dependent_goes_or_lets_go() {
        let mut graph = Graph::default();
        graph.put(item("owner", &[]));
        graph.put(item("a", &["owner"]));
        graph.put(item("b", &["owner"]));
        assert_eq!(graph.remove("a"), ["owner"]);
        assert_eq!(graph.put(item("b", &[])), ["owner"]);
        assert!(graph.dependents("owner").is_empty());
    }
}

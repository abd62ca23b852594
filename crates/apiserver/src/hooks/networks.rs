//! Network: its ranges and its number. All networks stand in one table, which is written in the transaction of each that comes
//! or goes, so that no two ever overlap.

use crate::{
    cache::{Index, object::Object},
    registry::{Cx, Hooks, Plan, metadata},
};
use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use orlop_api::{
    FieldError, Kind, Status,
    kinds::network::{families, family, first, subnets},
    object::{int, list},
    orlop_v1::GROUP,
};
use orlop_store::{Change, Condition, Entry, Expect, Op, Revision};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

const TABLE: &str = "/registry/allocations/networks";
/// Prefix lengths of the ranges that networks get.
const GIVEN: (u8, u8) = (24, 64);
/// Numbers of networks end here.
const MAX_ID: i32 = (1 << 24) - 1;

/// What a network holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    id: i32,
    ranges: Vec<IpNet>,
}

type Table = BTreeMap<String, Held>;

/// What all networks hold, kept up to date by the cache's feeder.
pub(crate) struct Networks {
    /// Where ranges are given from.
    pools: Vec<IpNet>,
    /// Ranges that no network may have, with what they are.
    reserved: Vec<(&'static str, IpNet)>,
    /// The number of the pod network's own VXLAN.
    pub(super) pod_network: Option<i32>,
    table: RwLock<(Option<Revision>, Table)>,
}

impl Networks {
    pub(crate) fn new(pools: Vec<IpNet>, reserved: Vec<(&'static str, IpNet)>) -> Self {
        Self { pools, reserved, pod_network: None, table: RwLock::default() }
    }

    fn read(&self, entry: &Entry) {
        match serde_json::from_slice(&entry.value) {
            Ok(table) => *self.table.write() = (Some(entry.modified), table),
            Err(error) => tracing::error!(%error, "the table of networks cannot be read"),
        }
    }

    /// Writes the table with a network more or less, unless somebody else does first.
    fn plan(seen: Option<Revision>, table: &Table, plan: &mut Plan) -> Result<(), Status> {
        let expect = seen.map_or(Expect::Absent, Expect::Modified);
        let written = serde_json::to_vec(table).map_err(Status::internal)?;
        plan.txn.conditions.push(Condition { key: TABLE.into(), expect });
        plan.txn.ops.push(Op::Put(TABLE.into(), Bytes::from(written)));
        Ok(())
    }

    /// What overlaps the range, as words for people.
    fn overlap(&self, table: &Table, range: &IpNet) -> Option<String> {
        let meets = |other: &IpNet| other.contains(range) || range.contains(other);
        if let Some((what, other)) = self.reserved.iter().find(|(_, other)| meets(other)) {
            return Some(format!("overlaps {other}, {what}"));
        }
        table.iter().find_map(|(name, held)| {
            let other = held.ranges.iter().find(|other| meets(other))?;
            Some(format!("overlaps {other} of network {name:?}"))
        })
    }

    /// A free range of a family.
    fn free(&self, table: &Table, wanted: &str) -> Option<IpNet> {
        self.pools
            .iter()
            .filter(|pool| family(pool) == wanted)
            .find_map(|pool| parts(pool).find(|range| self.overlap(table, range).is_none()))
    }

    /// Gives the network what it does not name, checks what it names, and returns what it then holds.
    fn settle(&self, table: &Table, network: &mut Value) -> Result<Held, FieldError> {
        let mut ranges = Vec::new();
        for (at, (range, _)) in subnets(network).iter().enumerate() {
            if let Some(what) = self.overlap(table, range) {
                let path = format!("spec.subnets[{at}].cidr");
                return Err(FieldError::invalid(path, range.to_string(), what));
            }
            ranges.push(*range);
        }
        let wanted: Vec<String> = families(network).into_iter().map(str::to_string).collect();
        for wanted in wanted {
            if ranges.iter().any(|range| family(range) == wanted) {
                continue;
            }
            let free = self.free(table, &wanted).and_then(|range| Some((range, first(&range)?)));
            let Some((range, gateway)) = free else {
                let detail = format!("no free {wanted} range is left: name a subnet");
                return Err(FieldError::required("spec.subnets", detail));
            };
            let mut all = list(network, "/spec/subnets").to_vec();
            all.push(json!({"cidr": range.to_string(), "gateway": gateway.to_string()}));
            network["spec"]["subnets"] = json!(all);
            ranges.push(range);
        }
        let taken = |id: i32| table.iter().find(|(_, held)| held.id == id).map(|(name, _)| name);
        let id = match int(network, "/spec/id").and_then(|id| i32::try_from(id).ok()) {
            Some(id) if self.pod_network == Some(id) => {
                return Err(FieldError::invalid("spec.id", id, "is the number of the pods' own network"));
            }
            Some(id) => match taken(id) {
                Some(other) => {
                    let detail = format!("is the number of network {other:?}");
                    return Err(FieldError::invalid("spec.id", id, detail));
                }
                None => id,
            },
            None => (FIRST_ID..=MAX_ID)
                .find(|id| self.pod_network != Some(*id) && taken(*id).is_none())
                .ok_or_else(|| FieldError::required("spec.id", "no number is left to give"))?,
        };
        network["spec"]["id"] = json!(id);
        Ok(Held { id, ranges })
    }
}

/// Numbers below this are left to those who ask for a certain one, and to the pod network's own VXLAN.
const FIRST_ID: i32 = 1 << 16;

/// The ranges into which a pool is divided.
fn parts(pool: &IpNet) -> Box<dyn Iterator<Item = IpNet>> {
    match *pool {
        IpNet::V4(pool) => {
            let prefix = GIVEN.0.max(pool.prefix_len());
            let count = 1u64 << (prefix - pool.prefix_len());
            let (base, size) = (u32::from(pool.network()), 1u64 << (32 - prefix));
            Box::new((0..count).filter_map(move |n| {
                let at = Ipv4Addr::from(base.checked_add((n * size) as u32)?);
                Ipv4Net::new(at, prefix).ok().map(IpNet::V4)
            }))
        }
        IpNet::V6(pool) => {
            let prefix = GIVEN.1.max(pool.prefix_len());
            // More than anybody will look through.
            let count = 1u128 << (prefix - pool.prefix_len()).min(20);
            let (base, shift) = (u128::from(pool.network()), 128 - u32::from(prefix));
            Box::new((0..count).filter_map(move |n| {
                let at = Ipv6Addr::from(base.checked_add(n.checked_shl(shift)?)?);
                Ipv6Net::new(at, prefix).ok().map(IpNet::V6)
            }))
        }
    }
}

impl Index for Networks {
    fn key_prefix(&self) -> &str {
        TABLE
    }

    fn fill(&self, entries: &[Entry]) {
        *self.table.write() = Default::default();
        entries.iter().filter(|e| &*e.key == TABLE).for_each(|entry| self.read(entry));
    }

    fn apply(&self, change: &Change) {
        if &*change.entry.key != TABLE {
            return;
        }
        if change.deleted {
            *self.table.write() = Default::default();
        } else {
            self.read(&change.entry);
        }
    }
}

/// The hooks of Network.
pub(super) struct NetworkHooks {
    pub kind: Kind,
    pub networks: Arc<Networks>,
}

impl Hooks for NetworkHooks {
    fn create(&self, _cx: &Cx<'_>, object: &mut Value, plan: &mut Plan) -> Result<(), Status> {
        let (seen, mut table) = self.networks.table.read().clone();
        let name = metadata::text(object, "name").to_string();
        let held = self.networks.settle(&table, object);
        table.insert(name.clone(), held.map_err(|error| Status::invalid(&self.kind, &name, &[error]))?);
        Networks::plan(seen, &table, plan)
    }

    fn admit_delete(&self, cx: &Cx<'_>, object: &Value) -> Result<(), Status> {
        let Some(attachments) = cx.registry.find(GROUP, "v1", "networkattachments") else { return Ok(()) };
        let name = metadata::text(object, "name");
        let leads_there = |attachment: &Object| attachment.name().rsplit('.').next() == Some(name);
        let there = attachments.cache.snapshot(&attachments.cache.key_prefix, None, 0, leads_there).objects;
        let Some(one) = there.first() else { return Ok(()) };
        let why = format!(
            "{} pods are connected to it, among them that of attachment {}/{}: disconnect them first",
            there.len(),
            one.namespace(),
            one.name()
        );
        Err(Status::conflict(&self.kind, name, &why))
    }

    fn remove(&self, old: &Value, plan: &mut Plan) {
        let (seen, mut table) = self.networks.table.read().clone();
        if table.remove(metadata::text(old, "name")).is_some()
            && let Err(status) = Networks::plan(seen, &table, plan)
        {
            tracing::error!(%status.message, "a network that goes keeps its ranges");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks() -> Networks {
        let pools = vec!["10.64.0.0/22".parse().unwrap(), "fd00:64::/60".parse().unwrap()];
        Networks::new(pools, vec![("the pods' range", "10.42.0.0/16".parse().unwrap())])
    }

    fn network(name: &str, spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        orlop_api::kinds::find(GROUP, "v1", "networks").unwrap().rules.default(&mut object);
        object
    }

    fn add(networks: &Networks, name: &str, spec: Value) -> Result<Value, FieldError> {
        let (_, mut table) = networks.table.read().clone();
        let mut object = network(name, spec);
        table.insert(name.into(), networks.settle(&table, &mut object)?);
        networks.table.write().1 = table;
        Ok(object)
    }

    #[test]
    fn each_network_gets_a_range_and_a_number_of_its_own_until_none_is_left() {
        let networks = networks();
        for (at, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let object = add(&networks, name, json!({"families": ["IPv4", "IPv6"]})).unwrap();
            let ranges: Vec<String> = subnets(&object).iter().map(|(range, _)| range.to_string()).collect();
            let six = if at == 0 { "fd00:64::/64".into() } else { format!("fd00:64:0:{at}::/64") };
            assert_eq!(ranges, [format!("10.64.{at}.0/24"), six]);
            assert_eq!(int(&object, "/spec/id"), Some(i64::from(FIRST_ID) + at as i64));
        }
        let refused = add(&networks, "e", json!({})).unwrap_err();
        assert!(refused.to_string().contains("no free IPv4 range is left"), "{refused}");
    }

    #[test]
    fn what_overlaps_is_refused_with_whom() {
        let networks = networks();
        add(&networks, "a", json!({"subnets": [{"cidr": "10.60.0.0/24"}], "id": 7})).unwrap();
        let refused = |spec: Value| add(&networks, "b", spec).unwrap_err().to_string();
        let subnet = |cidr: &str| json!({"subnets": [{"cidr": cidr}]});
        assert!(refused(subnet("10.60.0.128/25")).contains("overlaps 10.60.0.0/24 of network \"a\""));
        assert!(refused(subnet("10.0.0.0/8")).contains("overlaps 10.42.0.0/16, the pods' range"));
        assert!(
            refused(json!({"id": 7})).contains("spec.id: Invalid value: 7: is the number of network \"a\"")
        );
    }

    #[test]
    fn no_network_has_the_number_of_the_pods_own() {
        let mut networks = networks();
        networks.pod_network = Some(4097);
        let refused = add(&networks, "a", json!({"id": 4097})).unwrap_err().to_string();
        assert!(
            refused.contains("spec.id: Invalid value: 4097: is the number of the pods' own"),
            "{refused}"
        );
        networks.pod_network = Some(FIRST_ID);
        let given = add(&networks, "a", json!({})).unwrap();
        assert_eq!(int(&given, "/spec/id"), Some(i64::from(FIRST_ID) + 1));
    }

    #[test]
    fn a_pool_that_is_smaller_than_a_usual_range_is_given_whole() {
        let pool: IpNet = "10.64.0.0/28".parse().unwrap();
        assert_eq!(parts(&pool).collect::<Vec<_>>(), [pool]);
    }
}

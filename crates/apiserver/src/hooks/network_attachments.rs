//! NetworkAttachment: a pod's addresses in a network. Each is a key of its own, written in the transaction of the attachment
//! that gets it and deleted in the one in which that goes, so that no two pods ever have the same.

use super::allocations::Taken;
use crate::registry::{Cx, Hooks, Plan, Random, metadata};
use bytes::Bytes;
use ipnet::IpNet;
use orlop_api::{
    FieldError, Kind, Status,
    kinds::network::{is_usable, subnets},
    object::{flag, list, text},
    orlop_v1::{GROUP, NETWORK_LABEL},
};
use orlop_store::{Condition, Expect, Op};
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc};

const ADDRESSES: &str = "/registry/allocations/network-addresses/";
/// How many addresses of a large range are looked at.
const MOST: u128 = 1 << 16;

pub(super) struct NetworkAttachments {
    pub kind: Kind,
    pub addresses: Arc<Taken>,
    pub random: Random,
}

/// What keeps the taken addresses.
pub(crate) fn taken() -> Arc<Taken> {
    Taken::new(ADDRESSES)
}

fn key(network: &str, address: IpAddr) -> String {
    format!("{ADDRESSES}{network}/{address}")
}

/// The keys of what an attachment holds.
fn held(attachment: &Value) -> impl Iterator<Item = String> {
    let network = text(attachment, "/spec/networkName");
    let addresses = list(attachment, "/spec/addresses").iter().filter_map(|a| a.as_str()?.parse().ok());
    addresses.map(move |address| key(network, address))
}

/// The address at an offset of a range.
fn nth(range: &IpNet, offset: u128) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(base) => {
            Some(IpAddr::V4(u32::from(base).checked_add(u32::try_from(offset).ok()?)?.into()))
        }
        IpAddr::V6(base) => Some(IpAddr::V6(u128::from(base).checked_add(offset)?.into())),
    }
}

impl NetworkAttachments {
    fn invalid(&self, attachment: &Value, error: FieldError) -> Status {
        Status::invalid(&self.kind, metadata::text(attachment, "name"), &[error])
    }

    /// An address of the range that looks free, starting the search somewhere.
    fn free(&self, network: &str, range: &IpNet, gateway: IpAddr, random: u64) -> Option<IpAddr> {
        let size = 1u128 << (range.max_prefix_len() - range.prefix_len()).min(16);
        let start = u128::from(random) % size;
        (0..size.min(MOST)).map(|n| (start + n) % size).filter_map(|n| nth(range, n)).find(|address| {
            is_usable(range, *address)
                && *address != gateway
                && !self.addresses.contains(&format!("{network}/{address}"))
        })
    }

    /// Gives an address for each range of the network, or checks those that were named.
    fn settle(&self, attachment: &mut Value, network: &Value) -> Result<(), Status> {
        let name = metadata::text(network, "name");
        let named: Vec<IpAddr> = list(attachment, "/spec/addresses")
            .iter()
            .filter_map(|address| address.as_str()?.parse().ok())
            .collect();
        let ranges = subnets(network);
        for (at, address) in named.iter().enumerate() {
            let of = ranges.iter().find(|(range, _)| range.contains(address));
            let detail = match of {
                None => "is in none of the network's subnets".to_string(),
                Some((_, gateway)) if gateway == address => "is the gateway's".into(),
                Some((range, _)) if !is_usable(range, *address) => "is none that a machine may have".into(),
                Some((range, _)) if named[..at].iter().any(|other| range.contains(other)) => {
                    "is the second one of its subnet".into()
                }
                Some(_) => continue,
            };
            let path = format!("spec.addresses[{at}]");
            return Err(self.invalid(attachment, FieldError::invalid(path, address.to_string(), detail)));
        }
        let mut all = Vec::new();
        for (range, gateway) in &ranges {
            let named = named.iter().find(|address| range.contains(*address)).copied();
            let Some(address) = named.or_else(|| self.free(name, range, *gateway, (self.random)() as u64))
            else {
                let detail = format!("no address of {range} is left");
                return Err(self.invalid(attachment, FieldError::required("spec.addresses", detail)));
            };
            all.push(address.to_string());
        }
        attachment["spec"]["addresses"] = json!(all);
        Ok(())
    }
}

/// What the attachment is about, if it is there.
fn referent(cx: &Cx<'_>, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
    let resource = cx.registry.find(group, "v1", plural)?;
    resource.cache.get(&resource.cache.key(namespace, name)).map(|object| object.value())
}

/// The attachment goes with its pod.
fn own(attachment: &mut Value, pod: &Value) {
    let owner = json!({"apiVersion": "v1", "kind": "Pod",
        "name": metadata::text(pod, "name"), "uid": metadata::text(pod, "uid")});
    let mut owners = list(attachment, "/metadata/ownerReferences").to_vec();
    if !owners.iter().any(|other| other["uid"] == owner["uid"]) {
        owners.push(owner);
    }
    attachment["metadata"]["ownerReferences"] = json!(owners);
}

impl Hooks for NetworkAttachments {
    fn create(&self, cx: &Cx<'_>, object: &mut Value, plan: &mut Plan) -> Result<(), Status> {
        let asked: Vec<String> = held(object).collect();
        let (pod, network) =
            (text(object, "/spec/podName").to_string(), text(object, "/spec/networkName").to_string());
        let namespace = metadata::text(object, "namespace").to_string();
        let Some(there) = referent(cx, GROUP, "networks", "", &network) else {
            return Err(self.invalid(object, FieldError::not_found("spec.networkName", network)));
        };
        if metadata::is_deleting(&there) {
            let detail = "the network is being deleted";
            return Err(self.invalid(object, FieldError::invalid("spec.networkName", network, detail)));
        }
        let Some(of) = referent(cx, "", "pods", &namespace, &pod) else {
            return Err(self.invalid(object, FieldError::not_found("spec.podName", pod)));
        };
        let unfit = match text(&of, "/status/phase") {
            "Succeeded" | "Failed" => Some("the pod has ended"),
            _ if metadata::is_deleting(&of) => Some("the pod is being deleted"),
            _ if flag(&of, "/spec/hostNetwork") => Some("the pod has no network of its own"),
            _ => None,
        };
        if let Some(detail) = unfit {
            return Err(self.invalid(object, FieldError::invalid("spec.podName", pod, detail)));
        }
        self.settle(object, &there)?;
        own(object, &of);
        object["metadata"]["labels"][NETWORK_LABEL] = json!(network);
        let owner = format!("{namespace}/{}", metadata::text(object, "name"));
        for key in held(object) {
            let shared: Arc<str> = key.as_str().into();
            plan.txn.conditions.push(Condition { key: shared.clone(), expect: Expect::Absent });
            plan.txn.ops.push(Op::Put(shared.clone(), Bytes::from(owner.clone())));
            if asked.contains(&key) {
                let address = key.rsplit('/').next().unwrap_or_default();
                let error = FieldError::invalid("spec.addresses", address, "is another pod's");
                plan.wanted.push((shared, self.invalid(object, error)));
            }
        }
        Ok(())
    }

    fn remove(&self, old: &Value, plan: &mut Plan) {
        plan.txn.ops.extend(held(old).map(|key| Op::Delete(key.into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachments() -> NetworkAttachments {
        let kind = orlop_api::kinds::find(GROUP, "v1", "networkattachments").unwrap();
        NetworkAttachments { kind: (*kind).clone(), addresses: taken(), random: Arc::new(rand::random) }
    }

    fn network() -> Value {
        json!({"metadata": {"name": "back"}, "spec": {"subnets": [
            {"cidr": "10.60.0.0/29", "gateway": "10.60.0.1"}, {"cidr": "fd00:60::/64"}]}})
    }

    fn settle(attachments: &NetworkAttachments, addresses: Value) -> Result<Vec<IpAddr>, String> {
        let mut attachment = json!({"metadata": {"name": "a.back"},
            "spec": {"podName": "a", "networkName": "back", "addresses": addresses}});
        attachments.settle(&mut attachment, &network()).map_err(|status| status.message)?;
        let given = list(&attachment, "/spec/addresses");
        Ok(given.iter().filter_map(|a| a.as_str()?.parse().ok()).collect())
    }

    #[test]
    fn every_address_but_the_gateways_is_given_once_and_then_none() {
        let attachments = attachments();
        let mut given = std::collections::BTreeSet::new();
        for _ in 0..5 {
            let addresses = settle(&attachments, json!([])).unwrap();
            assert_eq!(addresses.len(), 2, "one for each family: {addresses:?}");
            assert!(given.insert(addresses[0]), "{} twice", addresses[0]);
            assert!(addresses[0] != "10.60.0.1".parse::<IpAddr>().unwrap());
            attachments.addresses.insert(&format!("back/{}", addresses[0]));
        }
        let refused = settle(&attachments, json!([])).unwrap_err();
        assert!(refused.contains("no address of 10.60.0.0/29 is left"), "{refused}");
    }

    #[test]
    fn a_named_address_must_be_one_of_the_network_that_a_pod_may_have() {
        let attachments = attachments();
        assert_eq!(
            settle(&attachments, json!(["10.60.0.4"])).unwrap()[0],
            "10.60.0.4".parse::<IpAddr>().unwrap()
        );
        for (address, word) in [
            ("10.61.0.4", "in none of the network's subnets"),
            ("10.60.0.1", "is the gateway's"),
            ("10.60.0.7", "none that a machine may have"),
        ] {
            let refused = settle(&attachments, json!([address])).unwrap_err();
            assert!(refused.contains(word), "{address}: {refused}");
        }
        let refused = settle(&attachments, json!(["10.60.0.4", "10.60.0.5"])).unwrap_err();
        assert!(refused.contains("spec.addresses[1]"), "{refused}");
    }
}

use crate::objects::{cluster, merge, node, pod};
use k8s_openapi::api::core::v1::Pod;
use orlop_scheduler::{
    decision::Decision,
    plugin::Plugin,
    preemption::Victims,
    snapshot::Snapshot,
    volumes::{Preparation, Volumes},
};
use serde_json::{Value, json};
use std::sync::Arc;

fn uses(name: &str, claim: &str) -> Arc<Pod> {
    pod(name, json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}}))
}

fn claim(volumes: &mut Volumes, name: &str, more: Value) {
    let base = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "late", "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    let claim = serde_json::from_value(merge(base, more)).unwrap();
    volumes.set_claim(("default".into(), name.into()), Some(Arc::new(claim)));
}

fn bound(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume},
        "status": {"phase": "Bound"}})
}

fn volume(volumes: &mut Volumes, name: &str, on: &str, more: Value) {
    let base = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
        "storageClassName": "late", "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "kubernetes.io/hostname", "operator": "In", "values": [on]}]}]}}}, "status": {"phase": "Available"}});
    volumes.set_volume(name, Some(Arc::new(serde_json::from_value(merge(base, more)).unwrap())));
}

fn class(volumes: &mut Volumes, name: &str, provisioner: &str, mode: &str, more: Value) {
    let base = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    volumes.set_class(name, Some(Arc::new(serde_json::from_value(merge(base, more)).unwrap())));
}

fn decide(c: &mut Snapshot, volumes: &Volumes, pod: &Arc<Pod>) -> Result<String, String> {
    let vetoes = volumes.vetoes(pod, c, c.profile(0));
    match c.decide(pod, 0, vetoes) {
        Decision::Node { name, .. } => Ok(name),
        Decision::Unschedulable(diagnosis) => {
            assert!(
                diagnosis
                    .plugins()
                    .iter()
                    .all(|p| p.name().contains("Volume") || p == Plugin::NodeResourcesFit)
            );
            Err(diagnosis.to_string())
        }
    }
}

fn nodes() -> Snapshot {
    cluster(&[
        node("a", json!({})),
        node("b", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "y"}}})),
    ])
}

#[test]
fn claims_that_cannot_be_used_say_why() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    class(&mut v, "now", "p", "Immediate", json!({}));
    claim(&mut v, "waits", json!({"spec": {"storageClassName": "now"}}));
    claim(&mut v, "lost", json!({"spec": {"volumeName": "gone"}, "status": {"phase": "Lost"}}));
    claim(&mut v, "dying", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    for (name, why) in [
        ("missing", "persistentvolumeclaim \"missing\" not found"),
        ("waits", "pod has unbound immediate PersistentVolumeClaims"),
        ("lost", "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"gone\""),
        ("dying", "persistentvolumeclaim \"dying\" is being deleted"),
    ] {
        assert_eq!(
            decide(&mut c, &v, &uses("p", name)).unwrap_err(),
            format!("0/2 nodes are available: {why}.")
        );
    }
}

#[test]
fn a_pod_goes_where_its_volumes_are() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    volume(&mut v, "local", "b", json!({}));
    claim(&mut v, "data", bound("local"));
    assert_eq!(decide(&mut c, &v, &uses("p", "data")).unwrap(), "b");
    volume(&mut v, "local", "c", json!({}));
    assert_eq!(
        decide(&mut c, &v, &uses("p", "data")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
    );
    volume(
        &mut v,
        "zonal",
        "x",
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "x__y"}}, "spec": {"nodeAffinity": null}}),
    );
    claim(&mut v, "data", bound("zonal"));
    assert_eq!(decide(&mut c, &v, &uses("p", "data")).unwrap(), "b");
    claim(&mut v, "data", bound("nowhere"));
    assert_eq!(
        decide(&mut c, &v, &uses("p", "data")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."
    );
}

#[test]
fn claims_that_wait_get_a_volume_of_the_node_or_one_is_made_there() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    class(&mut v, "late", "kubernetes.io/no-provisioner", "WaitForFirstConsumer", json!({}));
    claim(&mut v, "one", json!({}));
    claim(&mut v, "two", json!({}));
    volume(&mut v, "small", "a", json!({"spec": {"capacity": {"storage": "512Mi"}}}));
    volume(&mut v, "big", "a", json!({"spec": {"capacity": {"storage": "9Gi"}}}));
    volume(&mut v, "fits", "a", json!({}));
    assert_eq!(decide(&mut c, &v, &uses("p", "one")).unwrap(), "a");
    let on_a = c.nodes().object(c.nodes().find("a").unwrap()).unwrap().clone();
    let taken = |v: &mut Volumes, claim: &str| match v.reserve(&uses("p", claim), &on_a).as_slice() {
        [Preparation::Take(volume, _)] => volume.metadata.name.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(taken(&mut v, "one"), "fits", "the smallest that is large enough");
    assert_eq!(taken(&mut v, "two"), "big", "what is promised is not had twice");
    claim(&mut v, "three", json!({}));
    assert_eq!(
        decide(&mut c, &v, &uses("q", "three")).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
    );
    let only_y = json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["y"]}]}]});
    class(&mut v, "late", "example.com/p", "WaitForFirstConsumer", only_y);
    assert_eq!(decide(&mut c, &v, &uses("q", "three")).unwrap(), "b");
    let on_b = c.nodes().object(c.nodes().find("b").unwrap()).unwrap().clone();
    assert!(matches!(v.reserve(&uses("q", "three"), &on_b).as_slice(), [Preparation::Select(_)]));
    claim(&mut v, "three", json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "a"}}}));
    assert_eq!(decide(&mut c, &v, &uses("q", "three")).unwrap(), "a", "the choice was made");
}

#[test]
fn a_claim_for_one_pod_is_for_one_pod() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    volume(&mut v, "local", "a", json!({"spec": {"nodeAffinity": null}}));
    claim(&mut v, "alone", merge(bound("local"), json!({"spec": {"accessModes": ["ReadWriteOncePod"]}})));
    let first = uses("first", "alone");
    assert!(decide(&mut c, &v, &first).is_ok());
    v.set_user(&first, Some("a"));
    assert!(decide(&mut c, &v, &first).is_ok());
    assert_eq!(
        decide(&mut c, &v, &uses("second", "alone")).unwrap_err(),
        "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
         ReadWriteOncePod access mode."
    );
    v.set_user(&first, None);
    assert!(decide(&mut c, &v, &uses("second", "alone")).is_ok());
}

/// What a node's driver can attach.
fn csi_node(volumes: &mut Volumes, name: &str, count: Value) {
    let node = json!({"metadata": {"name": name}, "spec": {"drivers": [{"name": "csi.example.com", "nodeID": name,
        "allocatable": {"count": count}}, {"name": "other.example.com", "nodeID": name}]}});
    volumes.set_csi_node(name, Some(&serde_json::from_value(node).unwrap()));
}

/// A claim and its volume, which the driver knows by a handle.
fn csi(volumes: &mut Volumes, name: &str, driver: &str, handle: &str) {
    let source = json!({"driver": driver, "volumeHandle": handle});
    volume(volumes, name, "x", json!({"spec": {"nodeAffinity": null, "csi": source}}));
    claim(volumes, name, bound(name));
}

/// Puts a pod that uses a claim on a node.
fn place(c: &mut Snapshot, v: &mut Volumes, name: &str, claim: &str, node: &str) {
    let pod = uses(name, claim);
    c.place(node, &pod);
    v.set_user(&pod, Some(node));
}

fn vetoed(c: &mut Snapshot, v: &Volumes, claim: &str) -> Vec<String> {
    let vetoes = v.vetoes(&uses("new", claim), c, c.profile(0));
    let mut names: Vec<String> = vetoes.nodes.keys().map(|id| c.nodes().name(*id).to_string()).collect();
    names.sort();
    names
}

const FULL: &str = "0/2 nodes are available: 2 node(s) exceed max volume count.";

#[test]
fn a_node_takes_as_many_volumes_of_a_driver_as_it_says() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    for (name, handle) in [("one", "h1"), ("two", "h2"), ("again", "h1"), ("new", "h3")] {
        csi(&mut v, name, "csi.example.com", handle);
    }
    csi(&mut v, "elsewhere", "other.example.com", "h1");
    assert!(vetoed(&mut c, &v, "new").is_empty(), "nobody says how many");
    csi_node(&mut v, "a", json!(2));
    csi_node(&mut v, "b", json!(1));
    place(&mut c, &mut v, "p1", "one", "a");
    place(&mut c, &mut v, "p2", "one", "b");
    place(&mut c, &mut v, "p3", "again", "a");
    assert_eq!(vetoed(&mut c, &v, "new"), ["b"], "two claims of one volume count once");
    assert_eq!(vetoed(&mut c, &v, "one"), [""; 0], "what is there already needs no room");
    place(&mut c, &mut v, "p4", "two", "a");
    assert_eq!(decide(&mut c, &v, &uses("new", "new")).unwrap_err(), FULL);
    assert!(decide(&mut c, &v, &uses("new", "elsewhere")).is_ok(), "a driver without a number");
    // The claim of a pod that another still uses stays attached.
    v.set_user(&uses("p1", "one"), None);
    assert_eq!(vetoed(&mut c, &v, "new"), ["a", "b"]);
    v.set_user(&uses("p3", "again"), None);
    assert_eq!(vetoed(&mut c, &v, "new"), ["b"]);
    v.set_csi_node("b", None);
    assert!(vetoed(&mut c, &v, "new").is_empty());
}

#[test]
fn volumes_that_are_to_be_made_or_attached_without_a_pod_count_too() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    class(&mut v, "late", "csi.example.com", "WaitForFirstConsumer", json!({}));
    for name in ["one", "two"] {
        claim(&mut v, name, json!({}));
    }
    csi(&mut v, "made", "csi.example.com", "h1");
    csi_node(&mut v, "a", json!(1));
    csi_node(&mut v, "b", json!(1));
    let attachment = json!({"metadata": {"name": "x"}, "spec": {"attacher": "csi.example.com", "nodeName": "b",
        "source": {"persistentVolumeName": "made"}}});
    v.set_attachment("x", Some(&serde_json::from_value(attachment).unwrap()));
    assert_eq!(vetoed(&mut c, &v, "one"), ["b"]);
    place(&mut c, &mut v, "p", "one", "a");
    assert_eq!(decide(&mut c, &v, &uses("q", "two")).unwrap_err(), FULL);
    assert_eq!(vetoed(&mut c, &v, "made"), ["a"], "it is attached to the other");
    v.set_attachment("x", None);
    assert_eq!(vetoed(&mut c, &v, "two"), ["a"]);
    let ephemeral =
        json!({"spec": {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}});
    let ephemeral = pod("q", ephemeral);
    claim(
        &mut v,
        "q-v",
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "q"}]}}),
    );
    v.set_user(&uses("r", "two"), Some("b"));
    assert_eq!(decide(&mut c, &v, &ephemeral).unwrap_err(), FULL);
}

#[test]
fn the_less_important_makes_room_for_volumes() {
    let (mut c, mut v) = (nodes(), Volumes::default());
    for name in ["one", "two", "three", "new"] {
        csi(&mut v, name, "csi.example.com", name);
    }
    csi_node(&mut v, "a", json!(2));
    csi_node(&mut v, "b", json!(1));
    place(&mut c, &mut v, "p1", "two", "a");
    place(&mut c, &mut v, "p2", "two", "a");
    place(&mut c, &mut v, "p3", "one", "a");
    place(&mut c, &mut v, "p4", "three", "b");
    c.place("a", &pod("none", json!({})));
    let important = pod(
        "new",
        merge(serde_json::to_value(&*uses("new", "new")).unwrap(), json!({"spec": {"priority": 9}})),
    );
    let preempt = |c: &mut Snapshot, v: &Volumes| -> Result<Victims, String> {
        let vetoes = v.vetoes(&important, c, c.profile(0));
        c.preempt(&important, 0, vetoes, &[])
    };
    let names =
        |victims: Victims| victims.pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    c.remove_node("b");
    assert_eq!(names(preempt(&mut c, &v).unwrap()), ["p3"], "the other volume is of two pods");
    csi_node(&mut v, "a", json!(0));
    let refused = preempt(&mut c, &v).unwrap_err();
    assert_eq!(refused, "0/1 nodes are available: 1 node(s) exceed max volume count.");
}

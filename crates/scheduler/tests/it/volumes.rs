use crate::objects::{cluster, merge, node, pod};
use k8s_openapi::api::core::v1::Pod;
use orlop_scheduler::{
    decision::Decision,
    plugin::Plugin,
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
                    .all(|p| p.name().starts_with("Volume") || p == Plugin::NodeResourcesFit)
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
    v.set_user(&first, true);
    assert!(decide(&mut c, &v, &first).is_ok());
    assert_eq!(
        decide(&mut c, &v, &uses("second", "alone")).unwrap_err(),
        "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and \
         ReadWriteOncePod access mode."
    );
    v.set_user(&first, false);
    assert!(decide(&mut c, &v, &uses("second", "alone")).is_ok());
}

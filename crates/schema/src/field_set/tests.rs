use super::*;
use proptest::prelude::*;
use serde_json::json;

fn set(paths: &[&[&str]]) -> FieldSet {
    let mut out = FieldSet::default();
    for path in paths {
        out.insert(&path.iter().map(|s| s.to_string()).collect::<Vec<_>>());
    }
    out
}

#[test]
fn a_set_is_written_as_fields_v1_and_read_again() {
    let json = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:replicas": {}},
        "f:finalizers": {"v:\"a\"": {}}});
    let set = FieldSet::from_json(&json).unwrap();
    assert_eq!(set.clone().into_json(), json);
    assert_eq!(
        set.paths(),
        [
            ".finalizers[=\"a\"]",
            ".metadata.labels",
            ".metadata.labels.app",
            ".spec.ports[port=80,protocol=\"TCP\"]",
            ".spec.ports[port=80,protocol=\"TCP\"].port",
            ".spec.replicas",
        ]
    );
    assert!(set.has(&["f:metadata", "f:labels"]) && !set.has(&["f:metadata"]));
}

#[test]
fn keys_are_told_apart_whatever_their_order_and_blanks() {
    let a = FieldSet::from_json(&json!({"k:{\"b\":1,\"a\":2}": {}})).unwrap();
    let b = FieldSet::from_json(&json!({"k:{ \"a\": 2, \"b\": 1 }": {}})).unwrap();
    assert_eq!(a, b);
    assert_eq!(key_step([("b", json!(1)), ("a", json!(2))].into_iter()), "k:{\"a\":2,\"b\":1}");
}

#[test]
fn what_is_no_set_is_refused() {
    for bad in [
        json!(1),
        json!({"x:a": {}}),
        json!({"f:a": 1}),
        json!({"k:{": {}}),
        json!({"i:x": {}}),
        json!({"a": {}}),
    ] {
        assert_eq!(FieldSet::from_json(&bad), None, "{bad}");
    }
}

#[test]
fn pruning_takes_away_whole_branches() {
    let all = set(&[&["f:status"], &["f:status", "f:a"], &["f:spec", "f:b"]]);
    let mut pruned = all.clone();
    pruned.prune(&set(&[&["f:status"]]));
    assert_eq!(pruned, set(&[&["f:spec", "f:b"]]));
    assert_eq!(all.difference(&set(&[&["f:status"]])), set(&[&["f:status", "f:a"], &["f:spec", "f:b"]]));
}

fn sets() -> impl Strategy<Value = FieldSet> {
    let path = proptest::collection::vec(prop_oneof!["f:[a-c]", "v:[1-2]"], 1..4);
    proptest::collection::vec(path, 0..8).prop_map(|paths| {
        let mut set = FieldSet::default();
        paths.iter().for_each(|p| set.insert(p));
        set
    })
}

proptest! {
    #[test]
    fn sets_obey_the_laws_of_sets(a in sets(), b in sets(), c in sets()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.union(&a), a.clone());
        prop_assert!(a.difference(&a).is_empty());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert_eq!(a.union(&b).difference(&b), a.difference(&b));
        prop_assert_eq!(a.union(&b).len(), a.len() + b.len() - a.intersection(&b).len());
        prop_assert_eq!(FieldSet::from_json(&a.clone().into_json()), Some(a));
    }
}

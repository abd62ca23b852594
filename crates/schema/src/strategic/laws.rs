//! What holds of strategic merge patches of every object: random pods, and the patch that kubectl would make out of two of
//! them, written down here once more from the documentation.

use super::*;
use crate::Types;
use proptest::prelude::*;
use serde_json::json;

/// The patch that makes `new` out of `old`.
fn difference(ty: Option<Type<'_>>, old: &Object, new: &Object) -> Object {
    let mut patch = Object::new();
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let rule = rule(ty, key);
        match (old.get(key), value) {
            (Some(before), now) if before == now => {}
            (Some(Value::Object(before)), Value::Object(now)) if !rule.replaces => {
                patch.insert(key.clone(), difference(rule.ty, before, now).into());
            }
            (Some(Value::Array(before)), Value::Array(now)) if rule.merges => {
                list_difference(rule, key, before, now, &mut patch);
            }
            (_, now) => {
                patch.insert(key.clone(), now.clone());
            }
        }
    }
    patch
}

fn list_difference(rule: Rule<'_>, name: &str, old: &[Value], new: &[Value], patch: &mut Object) {
    let order = format!("{ELEMENT_ORDER}{name}");
    let Some(key) = rule.merge_key else {
        let only =
            |a: &[Value], b: &[Value]| a.iter().filter(|x| !b.contains(x)).cloned().collect::<Vec<_>>();
        let (added, gone) = (only(new, old), only(old, new));
        if !added.is_empty() {
            patch.insert(name.into(), added.into());
        }
        if !gone.is_empty() {
            patch.insert(format!("{DELETE_FROM_LIST}{name}"), gone.into());
        }
        patch.insert(order, new.into());
        return;
    };
    let Some(Shape::List { item, .. }) = rule.ty.map(Type::shape) else { panic!("{name} is no list") };
    let find = |list: &[Value], entry: &Value| list.iter().find(|e| e[key] == entry[key]).cloned();
    let mut entries = Vec::new();
    for entry in new {
        match find(old, entry) {
            None => entries.push(entry.clone()),
            Some(before) => {
                let mut change =
                    difference(Some(item), before.as_object().unwrap(), entry.as_object().unwrap());
                if !change.is_empty() {
                    change.insert(key.into(), entry[key].clone());
                    entries.push(change.into());
                }
            }
        }
    }
    let gone = old.iter().filter(|e| find(new, e).is_none());
    entries.extend(gone.map(|e| json!({DIRECTIVE: "delete", key: e[key]})));
    patch.insert(name.into(), entries.into());
    patch.insert(order, new.iter().map(|e| json!({key: e[key]})).collect());
}

fn ty() -> TypeRef {
    Types::of("v1", "Pod").unwrap()
}

fn merged(old: &Value, patch: &Value) -> Value {
    let mut out = old.clone();
    merge(&ty(), &mut out, patch).unwrap_or_else(|e| panic!("{e}: {patch}"));
    out
}

fn between(old: &Value, new: &Value) -> Value {
    let ty = ty();
    difference(Some(ty.as_type()), old.as_object().unwrap(), new.as_object().unwrap()).into()
}

/// Entries with different keys, in any order.
fn entries(
    key: &'static str,
    keys: &'static str,
    rest: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Value> {
    let named = (keys, rest).prop_map(move |(name, mut entry)| {
        entry[key] = json!(name);
        (name, entry)
    });
    proptest::collection::vec(named, 0..4)
        .prop_map(|list| {
            let mut seen = HashSet::new();
            list.into_iter().filter(|(name, _)| seen.insert(name.clone())).map(|(_, e)| e).collect()
        })
        .boxed()
}

fn texts(keys: &'static str) -> impl Strategy<Value = Value> {
    proptest::collection::btree_map(keys, "[0-9]", 0..3)
        .prop_map(|m| m.into_iter().map(|(k, v)| (k, json!(v))).collect::<Object>().into())
}

fn words(of: &'static str) -> impl Strategy<Value = Value> {
    proptest::collection::btree_set(of, 0..4).prop_shuffle_list()
}

/// A set in any order.
trait Shuffled {
    fn prop_shuffle_list(self) -> BoxedStrategy<Value>;
}

impl<S: Strategy<Value = std::collections::BTreeSet<String>> + 'static> Shuffled for S {
    fn prop_shuffle_list(self) -> BoxedStrategy<Value> {
        self.prop_map(|set| set.into_iter().collect::<Vec<_>>()).prop_shuffle().prop_map(|l| json!(l)).boxed()
    }
}

fn pods() -> impl Strategy<Value = Value> {
    let env = || entries("name", "[A-C]", "[0-9]".prop_map(|v| json!({ "value": v })));
    let container =
        (proptest::option::of("[x-z]"), proptest::option::of(env()), proptest::option::of(words("[p-r]")))
            .prop_map(|(image, env, args)| {
                let mut c = json!({});
                for (key, value) in [("image", image.map(Value::from)), ("env", env), ("args", args)] {
                    if let Some(value) = value {
                        c[key] = value;
                    }
                }
                c
            });
    let volume = prop_oneof![
        Just(json!({"emptyDir": {}})),
        "[a-c]".prop_map(|p| json!({"hostPath": {"path": p}})),
        "[a-c]".prop_map(|n| json!({"configMap": {"name": n}})),
    ];
    let parts = (
        entries("name", "[a-d]", container),
        proptest::option::of(entries("name", "[v-x]", volume)),
        proptest::option::of(entries("name", "[s-u]", Just(json!({})))),
        proptest::option::of(texts("[a-c]")),
        proptest::option::of(words("[f-i]")),
        proptest::option::of(texts("[l-n]")),
        proptest::option::of(entries("key", "[t-v]", "[0-9]".prop_map(|v| json!({"value": v})))),
    );
    parts.prop_map(|(containers, volumes, secrets, labels, finalizers, selector, tolerations)| {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
        for (at, key, value) in [
            ("spec", "volumes", volumes),
            ("spec", "imagePullSecrets", secrets),
            ("spec", "nodeSelector", selector),
            ("spec", "tolerations", tolerations),
            ("metadata", "labels", labels),
            ("metadata", "finalizers", finalizers),
        ] {
            if let Some(value) = value {
                pod[at][key] = value;
            }
        }
        pod
    })
}

/// What somebody else put into the pod beside it all.
fn with_siblings(pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["annotations"] = json!({"other": "1"});
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "other", "image": "other"}));
    if let Some(labels) = pod["metadata"].get_mut("labels") {
        labels["other"] = json!("1");
    }
    if let Some(finalizers) = pod["metadata"].get_mut("finalizers") {
        finalizers.as_array_mut().unwrap().push(json!("other"));
    }
    pod
}

fn without_siblings(pod: &Value, meant: &Value) -> Value {
    let mut pod = pod.clone();
    pod["metadata"].as_object_mut().unwrap().remove("annotations");
    pod["spec"]["containers"].as_array_mut().unwrap().retain(|c| c["name"] != "other");
    for (key, list) in [("labels", false), ("finalizers", true)] {
        let Some(there) = pod["metadata"].get_mut(key) else { continue };
        match list {
            true => there.as_array_mut().unwrap().retain(|f| f != "other"),
            false => drop(there.as_object_mut().unwrap().remove("other")),
        }
        if meant["metadata"].get(key).is_none() {
            assert!(list || there == &json!({}) || there.is_null(), "{key}");
        }
    }
    pod
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_difference_of_two_pods_makes_the_one_out_of_the_other(old in pods(), new in pods()) {
        let patch = between(&old, &new);
        prop_assert_eq!(merged(&old, &patch), new, "{}", patch);
    }

    #[test]
    fn applying_a_difference_twice_is_applying_it_once(old in pods(), new in pods()) {
        let patch = between(&old, &new);
        let once = merged(&old, &patch);
        prop_assert_eq!(merged(&once, &patch), once, "{}", patch);
    }

    #[test]
    fn what_a_patch_does_not_name_stays_as_it_is(old in pods(), new in pods()) {
        let patch = between(&old, &new);
        let patched = merged(&with_siblings(&old), &patch);
        prop_assert_eq!(&patched["metadata"]["annotations"]["other"], "1");
        let containers = patched["spec"]["containers"].as_array().unwrap();
        let other = json!({"name": "other", "image": "other"});
        prop_assert!(containers.contains(&other));
        if old["metadata"].get("labels").is_some() && new["metadata"].get("labels").is_some() {
            prop_assert_eq!(&patched["metadata"]["labels"]["other"], "1");
        }
        if old["metadata"].get("finalizers").is_some() && new["metadata"].get("finalizers").is_some() {
            prop_assert!(patched["metadata"]["finalizers"].as_array().unwrap().contains(&json!("other")));
        }
        prop_assert_eq!(&without_siblings(&patched, &new), &new, "{}", patch);
    }

    #[test]
    fn a_replaced_part_is_what_the_patch_says_whatever_was_there(old in pods(), new in pods()) {
        let mut spec = new["spec"].clone();
        spec[DIRECTIVE] = json!("replace");
        prop_assert_eq!(&merged(&old, &json!({ "spec": spec }))["spec"], &new["spec"]);
        let mut containers = new["spec"]["containers"].as_array().unwrap().clone();
        containers.insert(containers.len() / 2, json!({DIRECTIVE: "replace"}));
        let patched = merged(&old, &json!({"spec": {"containers": containers}}));
        prop_assert_eq!(&patched["spec"]["containers"], &new["spec"]["containers"]);
    }

    #[test]
    fn of_an_object_only_the_retained_keys_stay(old in pods(), kept in proptest::collection::btree_set("containers|volumes|nodeSelector|tolerations", 0..4)) {
        let kept: Vec<&String> = kept.iter().collect();
        let patched = merged(&old, &json!({"spec": {RETAIN_KEYS: kept}}));
        let wanted: Object = old["spec"].as_object().unwrap().iter().filter(|(k, _)| kept.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
        prop_assert_eq!(&patched["spec"], &Value::Object(wanted));
    }

    #[test]
    fn deleting_entries_deletes_those_and_no_others(old in pods(), gone in proptest::collection::btree_set("[a-d]", 0..4)) {
        let deletes: Vec<Value> = gone.iter().map(|name| json!({DIRECTIVE: "delete", "name": name})).collect();
        let patched = merged(&old, &json!({"spec": {"containers": deletes}}));
        let left: Vec<Value> = old["spec"]["containers"].as_array().unwrap().iter().filter(|c| !gone.contains(c["name"].as_str().unwrap())).cloned().collect();
        prop_assert_eq!(&patched["spec"]["containers"], &json!(left));
    }

    #[test]
    fn an_order_that_names_all_entries_is_their_order(pod in pods(), seed in any::<u64>()) {
        let mut containers = pod["spec"]["containers"].as_array().unwrap().clone();
        containers.sort_by_key(|c| (c["name"].as_str().unwrap().as_bytes()[0] as u64).wrapping_mul(seed | 1));
        let order: Vec<Value> = containers.iter().map(|c| json!({"name": c["name"]})).collect();
        let patched = merged(&pod, &json!({"spec": {"$setElementOrder/containers": order}}));
        prop_assert_eq!(&patched["spec"]["containers"], &json!(containers));
    }
}

#[test]
fn very_many_retained_keys_are_kept_in_reasonable_time() {
    let keys: Vec<String> = (0..60_000).map(|n| format!("key-{n}")).collect();
    let data: Object = keys.iter().map(|k| (k.clone(), json!("v"))).collect();
    let mut object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data});
    let ty = Types::of("v1", "ConfigMap").unwrap();
    merge(&ty, &mut object, &json!({"data": {RETAIN_KEYS: keys[1..]}})).unwrap();
    assert_eq!(object["data"].as_object().unwrap().len(), 59_999);
}

use super::*;
use crate::Types;
use proptest::prelude::*;
use serde_json::json;

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn merged(object: Value, patch: Value) -> Result<Value, PatchError> {
    let ty = Types::of(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
    let mut out = object;
    merge(&ty, &mut out, &patch).map(|()| out)
}

/// `spec` patched by `patch`.
fn spec(spec: Value, patch: Value) -> Value {
    merged(pod(spec), json!({ "spec": patch })).unwrap()["spec"].take()
}

#[test]
fn list_entries_are_found_by_their_merge_key() {
    // The example of "Update API Objects in Place Using kubectl patch".
    let old =
        json!({"containers": [{"name": "patch-demo-ctr", "image": "nginx"}], "tolerations": [{"key": "a"}]});
    let patch = json!({"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}], "tolerations": [{"key": "b"}]});
    assert_eq!(
        spec(old, patch),
        json!({"containers": [
            {"name": "patch-demo-ctr-2", "image": "redis"}, {"name": "patch-demo-ctr", "image": "nginx"}],
            "tolerations": [{"key": "b"}]})
    );
}

#[test]
fn an_entry_that_is_there_is_merged_in_depth() {
    let old = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]},
        {"name": "b", "image": "2"}]});
    let patch = json!({"containers": [{"name": "a", "image": null, "env": [{"name": "X", "value": "9"}],
        "ports": [{"containerPort": 80}]}]});
    assert_eq!(
        spec(old, patch),
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "9"}, {"name": "Y"}],
            "ports": [{"containerPort": 80}]}, {"name": "b", "image": "2"}]})
    );
}

#[test]
fn entries_and_objects_are_deleted_or_replaced_by_directive() {
    let old = || json!({"containers": [{"name": "a"}, {"name": "b", "image": "x"}], "securityContext": {"runAsUser": 1}});
    for (patch, expected) in [
        (
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "x"}], "securityContext": {"runAsUser": 1}}),
        ),
        (
            json!({"containers": [{"$patch": "replace"}, {"name": "c", "$retainKeys": ["name"]}]}),
            json!({"containers": [{"name": "c"}], "securityContext": {"runAsUser": 1}}),
        ),
        (
            json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}}),
            json!({"containers": [{"name": "a"}, {"name": "b", "image": "x"}], "securityContext": {"runAsGroup": 2}}),
        ),
        (
            json!({"securityContext": {"$patch": "delete"}}),
            json!({"containers": [{"name": "a"}, {"name": "b", "image": "x"}], "securityContext": {}}),
        ),
        (json!({"securityContext": null, "containers": null}), json!({})),
        (
            json!({"containers": [{"name": "b", "$patch": "replace", "command": ["x"]}]}),
            json!({"containers": [], "securityContext": {"runAsUser": 1}}),
        ),
    ] {
        assert_eq!(spec(old(), patch.clone()), expected, "{patch}");
    }
}

#[test]
fn retain_keys_clears_what_it_does_not_name() {
    // The example of the documentation: a Deployment changes its strategy to Recreate.
    let old = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "30%"}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(merged(old.clone(), patch).unwrap()["spec"]["strategy"], json!({"type": "Recreate"}));
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    assert!(matches!(merged(old, patch), Err(PatchError::Malformed(_))));
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let patch =
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]});
    assert_eq!(spec(volumes, patch), json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
}

#[test]
fn the_order_of_a_list_can_be_set_and_entries_of_others_keep_their_place() {
    let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Value>();
    for (old, order, list, expected) in [
        (vec!["a", "b"], vec!["b", "a"], None, vec!["b", "a"]),
        (vec!["a", "x", "b"], vec!["a", "b"], None, vec!["a", "x", "b"]),
        (vec!["a", "x", "b"], vec!["b", "a"], None, vec!["x", "b", "a"]),
        (vec!["x", "a"], vec!["new", "a"], Some(vec!["new"]), vec!["new", "x", "a"]),
        (vec![], vec!["b", "a"], Some(vec!["b", "a"]), vec!["b", "a"]),
    ] {
        let mut patch = json!({"$setElementOrder/containers": named(&order)});
        if let Some(list) = &list {
            patch["containers"] = named(list);
        }
        let before = if old.is_empty() { json!({}) } else { json!({"containers": named(&old)}) };
        assert_eq!(spec(before, patch)["containers"], named(&expected), "{old:?} {order:?} {list:?}");
    }
    let wrong =
        json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}});
    assert!(matches!(merged(pod(json!({})), wrong), Err(PatchError::Malformed(_))));
    let deleting = json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "$patch": "delete"}]});
    assert_eq!(
        spec(json!({"containers": [{"name": "a"}, {"name": "b"}]}), deleting),
        json!({"containers": [{"name": "b"}]})
    );
}

#[test]
fn lists_of_single_values_are_merged_replaced_or_thinned_out() {
    let meta = |finalizers: Value, patch: Value| {
        let mut object = pod(json!({}));
        object["metadata"]["finalizers"] = finalizers;
        merged(object, json!({ "metadata": patch })).unwrap()["metadata"]["finalizers"].take()
    };
    assert_eq!(meta(json!(["a", "b"]), json!({"finalizers": ["b", "c"]})), json!(["a", "b", "c"]));
    assert_eq!(
        meta(json!(["a", "b", "c"]), json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]})),
        json!(["a", "c"])
    );
    assert_eq!(
        meta(
            json!(["a", "b"]),
            json!({"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["c", "b"]})
        ),
        json!(["c", "b"])
    );
    // Only a list that says so is merged.
    let args = |args: Value| json!({"containers": [{"name": "c", "args": args}]});
    assert_eq!(spec(args(json!(["a"])), args(json!(["b"]))), args(json!(["b"])));
}

#[test]
fn new_parts_come_without_directives_and_nulls() {
    let patch = json!({"securityContext": {"runAsUser": null, "sysctls": [{"name": "a", "value": null}]},
        "containers": [{"name": "a", "$setElementOrder/env": [{"name": "E"}], "env": [{"name": "E", "value": null}]},
            {"name": "b", "$patch": "delete"}]});
    assert_eq!(
        spec(json!({}), patch),
        json!({"securityContext": {"sysctls": [{"name": "a"}]}, "containers": [{"name": "a", "env": [{"name": "E"}]}]})
    );
}

#[test]
fn a_patch_that_cannot_be_applied_says_why_and_changes_nothing() {
    let old = pod(json!({"containers": [{"name": "a"}]}));
    for (patch, code, words) in [
        (json!([]), 400, "JSON objects"),
        (json!({"$patch": "burn"}), 400, "unknown patch type: \"burn\""),
        (json!({"spec": {"containers": [{"image": "x"}]}}), 422, "does not contain declared merge key: name"),
        (json!({"spec": {"containers": [{"$patch": "delete"}]}}), 422, "merge key: name"),
        (json!({"spec": {"containers": ["a"]}}), 400, "different types"),
        (json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}), 400, "merging lists"),
        (json!({"spec": {"$setElementOrder/containers": 1}}), 400, "setElementOrder"),
        (json!({"spec": {"$retainKeys": 1}}), 400, "retainKeys"),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}), 400, "primitive list"),
    ] {
        let ty = Types::of("v1", "Pod").unwrap();
        let mut object = old.clone();
        let status = orlop_api::Status::from(merge(&ty, &mut object, &patch).unwrap_err());
        assert_eq!(status.code, code, "{patch}");
        assert!(status.message.contains(words), "{}", status.message);
        assert_eq!(object, old);
    }
    let custom = Types::custom("example.com/v1", "Widget", &Value::Null);
    let status = orlop_api::Status::from(merge(&custom, &mut json!({}), &json!({})).unwrap_err());
    assert_eq!(status.code, 415);
}

#[test]
fn long_lists_are_merged_in_reasonable_time() {
    let list = |from: usize| (from..from + 20_000).map(|i| json!(format!("f{i}"))).collect::<Vec<_>>();
    let mut object = pod(json!({}));
    object["metadata"]["finalizers"] = list(0).into();
    let out = merged(object, json!({"metadata": {"finalizers": list(10_000)}})).unwrap();
    assert_eq!(out["metadata"]["finalizers"].as_array().unwrap().len(), 30_000);
}

fn containers() -> impl Strategy<Value = Value> {
    let container =
        ("[a-e]", proptest::option::of("[x-z]"), proptest::collection::btree_map("[A-C]", "[0-9]", 0..3));
    proptest::collection::vec(container, 0..5).prop_map(|list| {
        let mut seen = HashSet::new();
        list.into_iter()
            .filter(|(name, ..)| seen.insert(name.clone()))
            .map(|(name, image, env)| {
                let mut c = json!({"name": name});
                if let Some(image) = image {
                    c["image"] = json!(image);
                }
                if !env.is_empty() {
                    c["env"] = env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
                }
                c
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn patching_twice_is_patching_once(old in containers(), patch in containers()) {
        let once = spec(json!({"containers": old}), json!({"containers": patch}));
        prop_assert_eq!(spec(once.clone(), json!({"containers": patch})), once);
    }

    #[test]
    fn nothing_of_the_old_list_is_lost_and_all_of_the_patch_is_there(old in containers(), patch in containers()) {
        let out = spec(json!({"containers": old}), json!({"containers": patch}));
        let names = |list: &Value| -> HashSet<String> {
            list.as_array().into_iter().flatten().map(|c| c["name"].as_str().unwrap().to_string()).collect()
        };
        let both: HashSet<String> = names(&old).union(&names(&patch)).cloned().collect();
        prop_assert_eq!(names(&out["containers"]), both);
    }

    #[test]
    fn an_empty_patch_changes_nothing(old in containers()) {
        let object = json!({"containers": old});
        prop_assert_eq!(spec(object.clone(), json!({})), object);
    }
}

use super::*;
use crate::Types;
use proptest::prelude::*;

mod laws;
mod managed;
mod model;

fn now(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: now(0), ignored: &["/status"] }
}

fn ty(object: &Value) -> TypeRef {
    Types::of(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap()
}

fn nothing(config: &Value) -> Value {
    json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {"name": config["metadata"]["name"]}})
}

fn try_apply(live: &Value, config: &Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
    apply(&ty(config), live, config, &writer(manager), force)
}

fn applied(live: &Value, config: &Value, manager: &str) -> Value {
    try_apply(live, config, manager, false).unwrap()
}

/// The object after `manager` wrote it in the ordinary way.
fn updated(old: Option<&Value>, new: &Value, manager: &str) -> Value {
    let mut new = new.clone();
    update_managed_fields(&ty(&new), old, &mut new, &writer(manager));
    new
}

/// Who owns what: `MANAGER OPERATION: PATH PATH …`.
fn owners(object: &Value) -> Vec<String> {
    let managers = Managers::of(object).unwrap();
    managers.iter().map(|m| format!("{} {:?}: {}", m.name, m.operation, m.set.paths().join(" "))).collect()
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "test-cm"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn pod(containers: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}})
}

#[test]
fn an_applied_field_is_owned_and_told_in_managed_fields() {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "test-cm", "namespace": "default", "labels": {"test-label": "test"}}, "data": {"key": "some value"}});
    let object = applied(&nothing(&config), &config, "kubectl");
    // The example of the documentation, "Field management".
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "time": "2023-11-14T22:13:20Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": {"f:labels": {"f:test-label": {}}}, "f:data": {"f:key": {}}}}])
    );
    assert_eq!(object["data"], json!({"key": "some value"}));
}

#[test]
fn changing_what_another_owns_is_a_conflict_that_names_owner_and_field() {
    let first = config_map(json!({"key": "some value"}));
    let object = applied(&nothing(&first), &first, "kubectl");
    // The documentation's next step: somebody else changes the value by an ordinary update.
    let mut changed = object.clone();
    changed["data"]["key"] = json!("new value");
    let object = updated(Some(&object), &changed, "kube-controller-manager");
    assert_eq!(owners(&object), ["kube-controller-manager Update: .data.key"]);

    let error = try_apply(&object, &first, "kubectl", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kube-controller-manager\" using v1: .data.key"
    );
    let status = Status::from(error);
    assert_eq!((status.code, status.reason), (409, "Conflict"));
    assert_eq!(
        status.details.unwrap()["causes"],
        json!([{"reason": "FieldManagerConflict", "field": ".data.key",
            "message": "conflict with \"kube-controller-manager\" using v1"}])
    );
    let object = try_apply(&object, &first, "kubectl", true).unwrap();
    assert_eq!(object["data"]["key"], "some value");
    assert_eq!(owners(&object), ["kubectl Apply: .data.key"]);
}

#[test]
fn very_many_conflicts_below_a_long_key_are_told_within_reason() {
    let env =
        |value: &str| (0..500).map(|n| json!({"name": format!("v{n}"), "value": value})).collect::<Value>();
    let of = |value: &str| pod(json!([{"name": "c".repeat(100_000), "env": env(value)}]));
    let object = updated(None, &of("old"), "one");
    let ApplyError::Conflict(conflicts) = try_apply(&object, &of("new"), "two", false).unwrap_err() else {
        panic!("a conflict")
    };
    assert_eq!(conflicts.len(), 11, "a megabyte");
}

#[test]
fn several_conflicts_are_listed_by_owner() {
    let base = config_map(json!({"a": "1", "b": "1", "c": "1"}));
    let object = updated(None, &base, "one");
    let object = try_apply(&object, &config_map(json!({"c": "2"})), "two", true).unwrap();
    let error =
        try_apply(&object, &config_map(json!({"a": "9", "b": "9", "c": "9"})), "three", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"one\" using v1:\n- .data.a\n- .data.b\nconflicts with \"two\":\n- .data.c"
    );
}

#[test]
fn the_same_value_is_shared_and_goes_with_its_last_owner() {
    let config = config_map(json!({"key": "v"}));
    let object = applied(&nothing(&config), &config, "one");
    let object = applied(&object, &config, "two");
    assert_eq!(owners(&object), ["one Apply: .data.key", "two Apply: .data.key"]);
    let object = applied(&object, &config_map(json!({})), "one");
    assert_eq!(object["data"], json!({"key": "v"}));
    let bare = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "test-cm"}});
    let object = applied(&object, &bare, "two");
    // An empty object is a value too, and still the first one's.
    assert_eq!(object["data"], json!({}));
}

#[test]
fn replicas_can_be_handed_over_to_an_autoscaler() {
    // "Transferring ownership between managers" in the documentation.
    let spec = |replicas: Option<i32>| {
        let mut spec = json!({"selector": {"matchLabels": {"app": "nginx"}}, "template": {
            "metadata": {"labels": {"app": "nginx"}},
            "spec": {"containers": [{"name": "nginx", "image": "nginx:1.14.2"}]}}});
        if let Some(replicas) = replicas {
            spec["replicas"] = json!(replicas);
        }
        deployment(spec)
    };
    let object = applied(&nothing(&spec(None)), &spec(Some(3)), "kubectl");
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(5);
    let object = updated(Some(&object), &scaled, "horizontal-pod-autoscaler");
    let object = applied(&object, &spec(None), "kubectl");
    assert_eq!(object["spec"]["replicas"], 5);
    assert!(owners(&object).contains(&"horizontal-pod-autoscaler Update: .spec.replicas".to_string()));
    // Had the autoscaler not taken it, it would have gone back to the default.
    let object = applied(&nothing(&spec(None)), &spec(Some(3)), "kubectl");
    assert_eq!(applied(&object, &spec(None), "kubectl")["spec"].get("replicas"), None);
}

#[test]
fn list_entries_have_owners_by_their_keys_with_defaults() {
    let one = pod(json!([{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}]));
    let object = applied(&nothing(&one), &one, "one");
    assert_eq!(
        owners(&object),
        [
            "one Apply: .spec.containers[name=\"a\"] .spec.containers[name=\"a\"].image .spec.containers[name=\"a\"].name \
          .spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"] \
          .spec.containers[name=\"a\"].ports[containerPort=80,protocol=\"TCP\"].containerPort"
        ]
    );
    let two = pod(
        json!([{"name": "b", "image": "y"}, {"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}]}]),
    );
    let object = applied(&object, &two, "two");
    assert_eq!(
        object["spec"]["containers"],
        json!([{"name": "b", "image": "y"}, {"name": "a", "image": "x", "ports":
            [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]}])
    );
    let object = applied(&object, &pod(json!([{"name": "a", "image": "x"}])), "one");
    assert_eq!(
        object["spec"]["containers"][1],
        json!({"name": "a", "image": "x", "ports": [{"containerPort": 80, "protocol": "UDP"}]})
    );
    // An entry goes when nobody owns it any more, and all that is in it goes with it.
    let object = applied(&object, &pod(json!([{"name": "b", "image": "y"}])), "two");
    assert_eq!(
        object["spec"]["containers"],
        json!([{"name": "b", "image": "y"}, {"name": "a", "image": "x"}])
    );
}

#[test]
fn atomic_lists_and_objects_have_one_owner() {
    let config = |args: Value, selector: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"nodeSelector": selector, "containers": [{"name": "a", "args": args}]}})
    };
    let first = config(json!(["1"]), json!({"a": "b"}));
    let object = applied(&nothing(&first), &first, "one");
    assert!(
        owners(&object)[0].ends_with(".args .spec.containers[name=\"a\"].name .spec.nodeSelector"),
        "{:?}",
        owners(&object)
    );
    let other = config(json!(["1", "2"]), json!({"a": "b", "c": "d"}));
    let ApplyError::Conflict(conflicts) = try_apply(&object, &other, "two", false).unwrap_err() else {
        panic!("a conflict")
    };
    let paths: Vec<&str> = conflicts.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(paths, [".spec.containers[name=\"a\"].args", ".spec.nodeSelector"]);
    let object = try_apply(&object, &other, "two", true).unwrap();
    assert_eq!(object["spec"]["nodeSelector"], json!({"a": "b", "c": "d"}));
}

#[test]
fn sets_have_owners_by_their_values() {
    let with = |finalizers: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "finalizers": finalizers}});
    let object = applied(&nothing(&with(json!([]))), &with(json!(["a/x", "a/y"])), "one");
    let object = applied(&object, &with(json!(["a/y", "a/z"])), "two");
    assert_eq!(object["metadata"]["finalizers"], json!(["a/x", "a/y", "a/z"]));
    assert!(owners(&object)[0].ends_with(".metadata.finalizers[=\"a/x\"] .metadata.finalizers[=\"a/y\"]"));
    let object =
        applied(&object, &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}), "one");
    assert_eq!(object["metadata"]["finalizers"], json!(["a/y", "a/z"]));
}

#[test]
fn what_nobody_applied_stays_beside_what_is_taken_back() {
    let object = updated(None, &config_map(json!({"theirs": "1"})), "edit");
    let object = applied(&object, &config_map(json!({"mine": "2"})), "me");
    assert_eq!(object["data"], json!({"theirs": "1", "mine": "2"}));
    let object = applied(&object, &config_map(json!({})), "me");
    assert_eq!(object["data"], json!({"theirs": "1"}));
}

#[test]
fn the_first_apply_to_an_object_of_unknown_owners_meets_before_first_apply() {
    let old = config_map(json!({"a": "1", "b": "1"}));
    let error = try_apply(&old, &config_map(json!({"a": "2"})), "me", false).unwrap_err();
    assert!(error.to_string().contains("conflict with \"before-first-apply\" using v1: .data.a"), "{error}");
    let object = applied(&old, &config_map(json!({"a": "1"})), "me");
    assert_eq!(owners(&object), ["me Apply: .data.a", "before-first-apply Update: .data .data.a .data.b"]);
}

#[test]
fn kubectl_server_side_takes_over_what_kubectl_wrote_client_side() {
    let annotated = |data: Value, note: &str| {
        let mut object = config_map(data);
        object["metadata"]["annotations"] = json!({LAST_APPLIED: note});
        object
    };
    let note = config_map(json!({"a": "1", "b": "1"})).to_string();
    let mut changed =
        updated(None, &annotated(json!({"a": "1", "b": "1"}), &note), "kubectl-client-side-apply");
    let before = changed.clone();
    changed["data"]["b"] = json!("elsewhere");
    let live = updated(Some(&before), &changed, "edit");

    // Another manager is refused, kubectl is not, and goes on keeping the annotation.
    let config = config_map(json!({"a": "2"}));
    assert!(try_apply(&live, &config, "other", false).is_err());
    let object = applied(&live, &config, "kubectl");
    assert_eq!(object["data"], json!({"a": "2", "b": "elsewhere"}));
    assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], format!("{config}\n"));
    // What somebody changed since is still a conflict.
    let error = try_apply(&live, &config_map(json!({"a": "2", "b": "2"})), "kubectl", false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"edit\" using v1: .data.b");
}

#[test]
fn a_configuration_that_is_none_is_refused_with_its_reason() {
    let live = nothing(&pod(json!([])));
    for (config, words) in [
        (json!([]), "is an object"),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "managedFields": [{}]}}),
            "metadata.managedFields must be nil",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"}, "spec": {"foo": 1}}),
            "failed to create typed patch object (d/p; v1, Kind=Pod): .spec.foo: field not declared in schema",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostNetwork": "yes"}}),
            ".spec.hostNetwork: json: cannot unmarshal string",
        ),
        (
            pod(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        ),
    ] {
        let error = apply(&Types::of("v1", "Pod").unwrap(), &live, &config, &writer("m"), false).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        let untyped = error.to_string().starts_with("failed to create typed patch object");
        assert_eq!(Status::from(error).code, if untyped { 500 } else { 400 });
    }
}

#[test]
fn what_a_subresource_does_not_touch_is_neither_written_nor_owned() {
    let live = updated(None, &deployment(json!({"replicas": 1})), "creator");
    let mut config = deployment(json!({"replicas": 7}));
    config["status"] = json!({"readyReplicas": 2});
    let status = Writer { manager: "ctl", subresource: "status", now: now(0), ignored: &["/spec"] };
    let object = apply(&ty(&config), &live, &config, &status, false).unwrap();
    assert_eq!((&object["spec"]["replicas"], &object["status"]["readyReplicas"]), (&json!(1), &json!(2)));
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(
        (&entry["subresource"], &entry["fieldsV1"]),
        (&json!("status"), &json!({"f:status": {"f:readyReplicas": {}}}))
    );
    // The same manager on the object itself is somebody else.
    let object = try_apply(&object, &config, "ctl", true).unwrap();
    assert_eq!(object["spec"]["replicas"], 7);
    let of_ctl = owners(&object).into_iter().filter(|o| o.starts_with("ctl")).collect::<Vec<_>>();
    assert_eq!(of_ctl, ["ctl Apply: .spec.replicas", "ctl Apply: .status.readyReplicas"]);
}

#[test]
fn free_form_parts_of_custom_kinds_are_owned_key_by_key() {
    let ty = Types::custom(
        "example.com/v1",
        "Widget",
        &json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}),
    );
    let widget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let one = apply(
        &ty,
        &nothing(&widget(json!({}))),
        &widget(json!({"a": {"b": 1}, "l": [1]})),
        &writer("one"),
        false,
    )
    .unwrap();
    let two = apply(&ty, &one, &widget(json!({"a": {"c": 2}})), &writer("two"), false).unwrap();
    assert_eq!(two["spec"], json!({"a": {"b": 1, "c": 2}, "l": [1]}));
    assert!(apply(&ty, &two, &widget(json!({"l": [1, 2]})), &writer("two"), false).is_err());
    let three = apply(&ty, &two, &widget(json!({"a": {"c": 2}})), &writer("one"), false).unwrap();
    assert_eq!(three["spec"], json!({"a": {"c": 2}}));
}

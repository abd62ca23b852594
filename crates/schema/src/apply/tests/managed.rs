//! Ordinary writes and the bookkeeping of `managedFields`.

use super::*;

fn entry<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|e| e["manager"] == manager).unwrap_or_else(|| panic!("{manager} owns nothing"))
}

#[test]
fn who_creates_owns_all_but_what_is_the_servers() {
    let mut object = deployment(json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "strategy": {"rollingUpdate": {"maxSurge": 1}}}));
    object["metadata"] = json!({"name": "web", "namespace": "d", "uid": "u", "resourceVersion": "1", "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"}});
    object["status"] = json!({"replicas": 1});
    let object = updated(None, &object, "kubectl-create");
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "2023-11-14T22:13:20Z", "fieldsType": "FieldsV1", "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:replicas": {}, "f:selector": {},
                    "f:strategy": {".": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}}}}}])
    );
}

#[test]
fn an_update_takes_what_it_changes_and_leaves_the_rest() {
    let first = updated(None, &config_map(json!({"a": "1", "b": "1"})), "one");
    let mut changed = first.clone();
    changed["data"] = json!({"a": "2", "c": "3"});
    let second = updated(Some(&first), &changed, "two");
    assert_eq!(owners(&second), ["one Update: .data", "two Update: .data.a .data.c"]);
}

#[test]
fn times_change_only_with_the_fields() {
    let first = updated(None, &config_map(json!({"a": "1"})), "one");
    let ty = ty(&first);
    let later = Writer { now: now(60), ..writer("one") };
    let mut same = first.clone();
    same["metadata"]["resourceVersion"] = json!("7");
    update_managed_fields(&ty, Some(&first), &mut same, &later);
    assert_eq!(same["metadata"]["managedFields"], first["metadata"]["managedFields"]);
    let mut changed = first.clone();
    changed["data"]["a"] = json!("2");
    update_managed_fields(&ty, Some(&first), &mut changed, &later);
    assert_eq!(entry(&changed, "one")["time"], "2023-11-14T22:14:20Z");

    let config = config_map(json!({"b": "1"}));
    let live = apply(&ty, &first, &config, &writer("two"), false).unwrap();
    assert_eq!(apply(&ty, &live, &config, &Writer { now: now(60), ..writer("two") }, false).unwrap(), live);
    let config = config_map(json!({"b": "2"}));
    let live = apply(&ty, &live, &config, &Writer { now: now(60), ..writer("two") }, false).unwrap();
    assert_eq!(entry(&live, "two")["time"], "2023-11-14T22:14:20Z");
    assert_eq!(entry(&live, "one")["time"], "2023-11-14T22:13:20Z");
}

#[test]
fn writes_through_a_subresource_are_told_apart() {
    let created = updated(None, &deployment(json!({"replicas": 1})), "ctl");
    let mut with_status = created.clone();
    with_status["status"] = json!({"replicas": 1});
    let status = Writer { manager: "ctl", subresource: "status", now: now(0), ignored: &["/spec"] };
    update_managed_fields(&ty(&created), Some(&created), &mut with_status, &status);
    let entries = with_status["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    let entry = entries.iter().find(|e| e["subresource"] == "status").unwrap();
    assert_eq!(entry["fieldsV1"], json!({"f:status": {".": {}, "f:replicas": {}}}));
}

#[test]
fn a_client_that_leaves_managed_fields_out_loses_nothing_and_one_empty_entry_forgets_them() {
    let first = updated(None, &config_map(json!({"a": "1"})), "one");
    let mut plain = config_map(json!({"a": "1"}));
    update_managed_fields(&ty(&first), Some(&first), &mut plain, &writer("two"));
    assert_eq!(plain, first);
    for broken in
        [json!([]), json!([{"manager": "x"}]), json!("x"), json!([{"operation": "Burn", "apiVersion": "v1"}])]
    {
        let mut object = config_map(json!({"a": "1"}));
        object["metadata"]["managedFields"] = broken;
        update_managed_fields(&ty(&first), Some(&first), &mut object, &writer("two"));
        assert_eq!(object, first);
    }
    let mut reset = first.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    reset["data"]["a"] = json!("2");
    update_managed_fields(&ty(&first), Some(&first), &mut reset, &writer("two"));
    assert_eq!(reset, config_map(json!({"a": "2"})));
    // Nobody is made an owner until somebody applies.
    let mut again = reset.clone();
    again["data"]["a"] = json!("3");
    assert_eq!(updated(Some(&reset), &again, "three"), again);
}

#[test]
fn a_client_may_edit_the_owners_but_not_through_a_subresource() {
    let first = updated(None, &config_map(json!({"a": "1"})), "kubectl-client-side-apply");
    let mut edited = first.clone();
    // What kubectl's upgrade from client-side apply does.
    edited["metadata"]["managedFields"][0]["manager"] = json!("kubectl");
    edited["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    let out = updated(Some(&first), &edited, "kubectl");
    assert_eq!(owners(&out), ["kubectl Apply: .data .data.a"]);
    let mut through = edited.clone();
    let status = Writer { subresource: "status", ..writer("kubectl") };
    update_managed_fields(&ty(&first), Some(&first), &mut through, &status);
    assert_eq!(through["metadata"]["managedFields"], first["metadata"]["managedFields"]);
}

#[test]
fn the_oldest_updaters_are_merged_once_there_are_more_than_ten() {
    let mut object = config_map(json!({}));
    let ty = ty(&object);
    for i in 0..14 {
        let old = object.clone();
        object["data"][format!("k{i:02}")] = json!("v");
        let name = format!("m{i:02}");
        let by = Writer { manager: &name, subresource: "", now: now(i), ignored: &[] };
        update_managed_fields(&ty, (i > 0).then_some(&old), &mut object, &by);
    }
    let told = owners(&object);
    assert_eq!(told.len(), 10, "{told:#?}");
    assert!(told[0].starts_with("ancient-changes Update: "), "{told:#?}");
    for key in ["k00", "k01", "k02", "k03", "k04"] {
        assert!(told[0].contains(key), "{told:#?}");
    }
    assert_eq!(told[9], "m13 Update: .data.k13");
    // Managers that apply are not counted.
    let config = config_map(json!({"own": "v"}));
    assert_eq!(owners(&applied(&object, &config, "applier")).len(), 11);
}

#[test]
fn a_manager_with_nothing_left_is_dropped() {
    let first = updated(None, &config_map(json!({"a": "1"})), "one");
    let mut gone = first.clone();
    gone.as_object_mut().unwrap().remove("data");
    assert_eq!(updated(Some(&first), &gone, "two")["metadata"].get("managedFields"), None);
}

#[test]
fn entries_that_stand_twice_in_a_live_list_do_not_confuse() {
    let twice =
        pod(json!([{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}]));
    let first = updated(None, &twice, "one");
    let mut changed = first.clone();
    changed["spec"]["containers"][0]["env"][1]["value"] = json!("3");
    let second = updated(Some(&first), &changed, "two");
    assert!(owners(&second)[1].contains(".env[name=\"X\"]"), "{:?}", owners(&second));
    let config = pod(json!([{"name": "a", "env": [{"name": "Y", "value": "1"}]}]));
    assert_eq!(applied(&second, &config, "me")["spec"]["containers"][0]["env"].as_array().unwrap().len(), 3);
}

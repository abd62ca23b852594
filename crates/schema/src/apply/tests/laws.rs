//! What holds of every object: random Deployments and Pods.

use super::*;

fn containers() -> impl Strategy<Value = Value> {
    let port = (80u16..84, prop_oneof![Just(None), Just(Some("TCP")), Just(Some("UDP"))]);
    let container = (
        "[a-d]",
        proptest::option::of("[x-z]"),
        proptest::collection::btree_map("[A-C]", "[0-9]", 0..3),
        proptest::collection::vec(port, 0..3),
        proptest::option::of(proptest::collection::vec("[p-r]", 0..3)),
    );
    proptest::collection::vec(container, 0..4).prop_map(|list| {
        let mut seen = std::collections::HashSet::new();
        let mut out = Vec::new();
        for (name, image, env, ports, args) in list {
            if !seen.insert(name.clone()) {
                continue;
            }
            let mut c = json!({"name": name});
            if let Some(image) = image {
                c["image"] = json!(image);
            }
            if !env.is_empty() {
                c["env"] = env.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
            }
            let mut known = std::collections::HashSet::new();
            let ports: Vec<Value> = ports
                .into_iter()
                .filter(|(port, protocol)| known.insert((*port, protocol.unwrap_or("TCP"))))
                .map(|(port, protocol)| match protocol {
                    Some(p) => json!({"containerPort": port, "protocol": p}),
                    None => json!({"containerPort": port}),
                })
                .collect();
            if !ports.is_empty() {
                c["ports"] = ports.into();
            }
            if let Some(args) = args {
                c["args"] = json!(args);
            }
            out.push(c);
        }
        out.into()
    })
}

fn deployments() -> impl Strategy<Value = Value> {
    let labels = || proptest::option::of(proptest::collection::btree_map("[a-c]", "[0-9]", 0..3));
    let parts = (
        containers(),
        labels(),
        proptest::option::of(0..3),
        proptest::option::of(proptest::collection::btree_set("[f-h]", 1..3)),
        labels(),
        proptest::option::of(any::<bool>()),
    );
    parts.prop_map(|(containers, labels, replicas, finalizers, node_selector, paused)| {
        let mut object = deployment(json!({"template": {"spec": {"containers": containers}}}));
        if let Some(labels) = labels {
            object["metadata"]["labels"] = json!(labels);
        }
        if let Some(finalizers) = finalizers {
            object["metadata"]["finalizers"] = json!(finalizers);
        }
        if let Some(replicas) = replicas {
            object["spec"]["replicas"] = json!(replicas);
        }
        if let Some(selector) = node_selector {
            object["spec"]["template"]["spec"]["nodeSelector"] = json!(selector);
        }
        if let Some(paused) = paused {
            object["spec"]["paused"] = json!(paused);
        }
        object
    })
}

fn sets(object: &Value) -> Vec<(String, FieldSet)> {
    let managers = Managers::of(object).unwrap();
    managers.iter().map(|m| (m.name.clone(), m.set.clone())).collect()
}

fn data(object: &Value) -> Value {
    bare(object)
}

/// An object written in the ordinary way by one, applied to by two others.
fn shared(base: &Value, one: &Value, two: &Value) -> Value {
    let object = updated(None, base, "creator");
    let object = try_apply(&object, one, "one", true).unwrap();
    try_apply(&object, two, "two", true).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_twice_is_applying_once(base in deployments(), one in deployments(), two in deployments()) {
        let object = shared(&base, &one, &two);
        prop_assert_eq!(try_apply(&object, &two, "two", false), Ok(object));
    }

    #[test]
    fn what_is_applied_is_there_and_owned(base in deployments(), one in deployments(), two in deployments()) {
        let object = shared(&base, &one, &two);
        let ty = ty(&object);
        let config = owned(field_set(Some(ty.as_type()), &two), &writer("two"));
        let mine = sets(&object).into_iter().find(|(name, _)| name == "two").map(|(_, set)| set);
        prop_assert_eq!(mine.unwrap_or_default(), config);
        prop_assert!(Comparison::of(Some(ty.as_type()), &data(&object), &merge(Some(ty.as_type()), &data(&object), &two)).is_empty());
    }

    #[test]
    fn nothing_is_owned_that_is_not_there(base in deployments(), one in deployments(), two in deployments()) {
        let object = shared(&base, &one, &two);
        let ty = ty(&object);
        let there = Comparison::of(Some(ty.as_type()), &json!({}), &data(&object)).written();
        let there = there.union(&with_parents(Some(ty.as_type()), &field_set(Some(ty.as_type()), &data(&object))));
        for (name, set) in sets(&object) {
            prop_assert!(set.difference(&there).is_empty(), "{name} owns {:?}", set.difference(&there).paths());
        }
    }

    #[test]
    fn taking_everything_back_gives_the_object_that_was_there(base in deployments(), config in deployments()) {
        let object = updated(None, &base, "creator");
        // Without force: only what nobody else owns, or says the same.
        let Ok(with) = try_apply(&object, &config, "guest", false) else { return Ok(()) };
        let back = applied(&with, &nothing(&config), "guest");
        let ty = ty(&object);
        let rest = Comparison::of(Some(ty.as_type()), &data(&object), &data(&back));
        prop_assert!(rest.added.is_empty() && rest.modified.is_empty(), "{:?}", rest);
        let lost: Vec<String> = rest.removed.paths();
        prop_assert!(lost.is_empty(), "{lost:?}");
        prop_assert!(!owners(&back).iter().any(|o| o.starts_with("guest")));
    }

    #[test]
    fn a_value_that_nobody_else_says_has_one_owner(base in deployments(), one in deployments()) {
        let object = updated(None, &base, "creator");
        let object = try_apply(&object, &one, "one", true).unwrap();
        let mut changed = data(&object);
        changed["spec"]["replicas"] = json!(99);
        let object = updated(Some(&object), &changed, "scaler");
        let path = ["f:spec", "f:replicas"];
        let holders: Vec<String> = sets(&object).into_iter().filter(|(_, s)| s.has(&path)).map(|(n, _)| n).collect();
        prop_assert_eq!(holders, ["scaler"]);
    }

    #[test]
    fn an_ordinary_write_of_what_is_there_changes_nothing(base in deployments(), one in deployments(), two in deployments()) {
        let object = shared(&base, &one, &two);
        prop_assert_eq!(updated(Some(&object), &data(&object), "somebody"), object);
    }
}

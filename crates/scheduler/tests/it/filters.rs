use crate::objects::{asks, cluster, decide, fits, node, place, pod};
use serde_json::{Value, json};

fn zone(name: &str) -> Value {
    json!({"metadata": {"labels": {"zone": name}}})
}

#[test]
fn what_does_not_fit_says_how_many_nodes_lack_what() {
    let small = json!({"status": {"allocatable": {"pods": "1"}}});
    let mut c = cluster(&[node("a", small), node("b", json!({}))]);
    assert_eq!(
        decide(&mut c, &asks("big", "5")).unwrap_err(),
        "0/2 nodes are available: 2 Insufficient cpu."
    );
    c.place("a", &asks("p", "1m"));
    let big = pod(
        "big",
        json!({"spec": {"containers": [{"name": "c", "resources":
        {"requests": {"cpu": "5", "memory": "9Gi", "example.com/gpu": "1"}}}]}}),
    );
    assert_eq!(
        decide(&mut c, &big).unwrap_err(),
        "0/2 nodes are available: 1 Too many pods, 2 Insufficient cpu, 2 Insufficient example.com/gpu, 2 \
         Insufficient memory."
    );
    assert_eq!(decide(&mut cluster(&[]), &big).unwrap_err(), "no nodes available to schedule pods");
}

#[test]
fn what_a_removed_pod_took_is_free_again() {
    let mut c = cluster(&[node("a", json!({}))]);
    c.place("a", &asks("p", "4"));
    assert!(decide(&mut c, &asks("q", "1")).is_err());
    assert!(c.remove_pod("p") && !c.remove_pod("p"));
    assert_eq!(decide(&mut c, &asks("q", "1")).unwrap(), "a");
}

#[test]
fn tainted_cordoned_and_other_nodes_are_left_alone() {
    let taint =
        |effect: &str| json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": effect}]}});
    let mut c = cluster(&[
        node("a", taint("NoSchedule")),
        node("b", taint("NoExecute")),
        node("c", json!({"spec": {"unschedulable": true}})),
        node("d", json!({})),
    ]);
    let picky = pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    assert_eq!(
        decide(&mut c, &picky).unwrap_err(),
        "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were \
         unschedulable, 2 node(s) had untolerated taint(s)."
    );
    let tolerant = pod("t", json!({"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}));
    assert_eq!(fits(&mut c, &tolerant), ["a", "b", "d"]);
    let all = pod("all", json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
    assert_eq!(fits(&mut c, &all), ["a", "b", "c", "d"]);
}

#[test]
fn a_pod_that_names_its_nodes_is_looked_at_there_alone() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let on = |name: &str, node: &str| {
        pod(
            name,
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}},
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]}}),
        )
    };
    assert_eq!(place(&mut c, &on("p", "b")).unwrap(), "b");
    assert_eq!(
        decide(&mut c, &on("q", "b")).unwrap_err(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
    assert_eq!(
        decide(&mut c, &on("r", "gone")).unwrap_err(),
        "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
}

#[test]
fn a_port_of_the_node_is_had_once() {
    let port = |name: &str, address: &str, protocol: &str| {
        pod(
            name,
            json!({"spec": {"containers": [{"name": "c", "ports":
            [{"containerPort": 80, "hostPort": 80, "hostIP": address, "protocol": protocol}]}]}}),
        )
    };
    let mut c = cluster(&[node("a", json!({}))]);
    place(&mut c, &port("one", "127.0.0.1", "TCP")).unwrap();
    assert!(decide(&mut c, &port("other-address", "127.0.0.2", "TCP")).is_ok());
    assert!(decide(&mut c, &port("other-protocol", "127.0.0.1", "UDP")).is_ok());
    assert_eq!(
        decide(&mut c, &port("any", "0.0.0.0", "TCP")).unwrap_err(),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
    c.remove_pod("one");
    assert!(decide(&mut c, &port("any", "0.0.0.0", "TCP")).is_ok());
}

fn affinity(kind: &str, key: &str, app: &str) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}]}}}})
}

#[test]
fn pods_come_near_to_those_that_they_need_and_the_first_of_a_series_starts_it() {
    let mut c =
        cluster(&[node("a", zone("x")), node("b", zone("x")), node("c", zone("y")), node("d", json!({}))]);
    let near_db = pod("near", affinity("podAffinity", "zone", "db"));
    assert_eq!(
        decide(&mut c, &near_db).unwrap_err(),
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."
    );
    c.place("a", &pod("db", json!({"metadata": {"labels": {"app": "db"}}})));
    assert_eq!(fits(&mut c, &near_db), ["a", "b"]);
    let series = |name: &str| pod(name, affinity("podAffinity", "zone", "web"));
    assert_eq!(
        fits(&mut c, &series("first")),
        ["a", "b", "c"],
        "a node without the label is no place to start"
    );
    c.place("c", &series("first"));
    assert_eq!(fits(&mut c, &series("second")), ["c"]);
}

#[test]
fn pods_keep_apart_both_ways() {
    let mut c = cluster(&[node("a", zone("x")), node("b", zone("x")), node("c", zone("y"))]);
    let apart = |name: &str| pod(name, affinity("podAntiAffinity", "zone", "web"));
    c.place("a", &apart("first"));
    assert_eq!(fits(&mut c, &apart("second")), ["c"]);
    assert_eq!(fits(&mut c, &pod("plain", json!({}))), ["c"], "it was promised to be alone");
    c.place("c", &pod("plain", json!({})));
    assert_eq!(
        decide(&mut c, &apart("third")).unwrap_err(),
        "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules."
    );
    assert_eq!(fits(&mut c, &pod("db", json!({"metadata": {"labels": {"app": "db"}}}))), ["a", "b", "c"]);
    c.remove_pod("first");
    assert_eq!(fits(&mut c, &apart("third")), ["a", "b"]);
}

#[test]
fn labels_of_namespaces_decide_whose_pods_are_meant() {
    let namespace = |team: &str| {
        serde_json::from_value(json!({"metadata": {"name": "other", "labels": {"team": team}}})).unwrap()
    };
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let mut term = affinity("podAntiAffinity", "kubernetes.io/hostname", "web");
    term["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]["namespaceSelector"] =
        json!({"matchLabels": {"team": "x"}});
    let apart = pod("apart", term);
    c.place("a", &pod("there", json!({"metadata": {"namespace": "other"}})));
    assert_eq!(fits(&mut c, &apart), ["a", "b"]);
    c.set_namespace("other", Some(&namespace("x")));
    assert_eq!(fits(&mut c, &apart), ["b"]);
    c.set_namespace("other", Some(&namespace("y")));
    assert_eq!(fits(&mut c, &apart), ["a", "b"]);
}

fn spread(key: &str, more: Value) -> Value {
    let constraint = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    json!({"spec": {"topologySpreadConstraints": [crate::objects::merge(constraint, more)]}})
}

#[test]
fn topology_spread_keeps_domains_even() {
    let mut c =
        cluster(&[node("a", zone("x")), node("b", zone("x")), node("c", zone("y")), node("d", json!({}))]);
    let even = |name: &str| pod(name, spread("zone", json!({})));
    assert_eq!(fits(&mut c, &even("1")), ["a", "b", "c"]);
    c.place("a", &even("1"));
    assert_eq!(fits(&mut c, &even("2")), ["c"]);
    assert_eq!(
        decide(
            &mut c,
            &pod(
                "2",
                crate::objects::merge(
                    spread("zone", json!({})),
                    json!({"spec": {"nodeSelector": {"zone": "x"}}})
                )
            )
        )
        .unwrap(),
        decide(
            &mut c,
            &pod(
                "2",
                crate::objects::merge(
                    spread("zone", json!({})),
                    json!({"spec": {"nodeSelector": {"zone": "x"}}})
                )
            )
        )
        .unwrap(),
        "only nodes that the pod's affinity allows count",
    );
    let all = json!({"nodeAffinityPolicy": "Ignore"});
    let ignoring = pod(
        "2",
        crate::objects::merge(spread("zone", all), json!({"spec": {"nodeSelector": {"zone": "x"}}})),
    );
    assert_eq!(
        decide(&mut c, &ignoring).unwrap_err(),
        "0/4 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't match pod \
         topology spread constraints."
    );
    let missing = pod("3", spread("rack", json!({})));
    assert_eq!(
        decide(&mut c, &missing).unwrap_err(),
        "0/4 nodes are available: 4 node(s) didn't match pod topology spread constraints (missing required label)."
    );
}

#[test]
fn too_few_domains_count_as_empty_ones_and_taints_as_the_policy_says() {
    let mut tainted = zone("y");
    tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let mut c = cluster(&[node("a", zone("x")), node("b", tainted)]);
    c.place("a", &pod("1", json!({})));
    assert!(decide(&mut c, &pod("2", spread("zone", json!({})))).is_err(), "the tainted zone is emptier");
    let honor = json!({"nodeTaintsPolicy": "Honor"});
    assert_eq!(decide(&mut c, &pod("2", spread("zone", honor.clone()))).unwrap(), "a");
    let many = crate::objects::merge(honor, json!({"minDomains": 2}));
    assert!(decide(&mut c, &pod("2", spread("zone", many))).is_err());
}

#[test]
fn a_node_that_comes_goes_or_changes_is_seen() {
    let mut c = cluster(&[]);
    assert!(decide(&mut c, &pod("p", json!({}))).is_err());
    c.place("late", &asks("early", "3"));
    c.set_node(&node("late", json!({})));
    assert!(decide(&mut c, &asks("p", "2")).is_err(), "its pods were there before it");
    assert!(decide(&mut c, &asks("p", "1")).is_ok());
    c.set_node(&node("late", json!({"status": {"allocatable": {"cpu": "8"}}})));
    assert!(decide(&mut c, &asks("p", "2")).is_ok());
    c.remove_node("late");
    assert!(decide(&mut c, &asks("p", "1")).is_err());
    c.remove_pod("early");
    c.set_node(&node("other", json!({})));
    assert_eq!(decide(&mut c, &asks("p", "4")).unwrap(), "other");
}

#[test]
fn what_pods_of_many_rollouts_wanted_is_forgotten_when_they_are_gone() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let replica = |rollout: usize| {
        let labels = json!({"app": "web", "hash": format!("{rollout}")});
        let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}},
            "matchLabelKeys": ["hash"]});
        pod(
            &format!("p{rollout}"),
            json!({"metadata": {"labels": labels}, "spec": {"affinity": {"podAntiAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}),
        )
    };
    // One pod stays through all of it: what it wants is heeded to the end.
    let stays = pod(
        "stays",
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"tier": "loud"}}}]}}}}),
    );
    c.place("a", &stays);
    let mut most = 0;
    for rollout in 0..2500 {
        place(&mut c, &replica(rollout)).unwrap();
        if rollout > 0 {
            c.remove_pod(&format!("p{}", rollout - 1));
        }
        most = most.max(c.terms());
    }
    assert!(most < 1100, "{most} terms");
    let loud = pod("loud", json!({"metadata": {"labels": {"tier": "loud"}}}));
    assert_eq!(fits(&mut c, &loud), ["b"]);
    let last = replica(2499);
    let mut twin = (*last).clone();
    twin.metadata.uid = Some("twin".into());
    let there = c.placed("p2499").map(|p| c.nodes().name(p.node).to_string()).unwrap();
    assert_eq!(fits(&mut c, &std::sync::Arc::new(twin)).len(), 1, "not beside {there}");
}

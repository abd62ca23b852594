//! What must hold when nothing goes wrong any more and nothing changes any more: the cluster is what its objects say. It looks at what is
//! stored and at nothing else.

use super::facts::{Meta, PodFacts, labels};
use crate::World;
use orlop_api::{
    local_volume::NODE_LABEL,
    object::{int, list, text},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is stored of the kinds that the workload uses, at rest.
struct Ending {
    pods: Vec<PodFacts>,
    all: Vec<(&'static str, Value)>,
    nodes: usize,
    /// Pods whose volume went with its node: they wait for ever.
    lost: BTreeSet<String>,
    wrong: Vec<String>,
}

const KINDS: [(&str, &str); 19] = [
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "configmaps"),
    ("", "endpoints"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("apps", "daemonsets"),
    ("apps", "controllerrevisions"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
    ("policy", "poddisruptionbudgets"),
    ("discovery.k8s.io", "endpointslices"),
];

/// What is wrong with a world at rest.
pub(super) fn check(world: &World) -> Vec<String> {
    let all: Vec<(&str, Value)> = KINDS
        .iter()
        .flat_map(|(group, plural)| world.objects(group, plural).into_iter().map(|o| (*plural, o)))
        .collect();
    check_objects(all)
}

/// The same for objects by the plural names of their kinds.
pub(super) fn check_objects(all: Vec<(&'static str, Value)>) -> Vec<String> {
    let of = |kind: &str| all.iter().filter(|(k, _)| *k == kind).map(|(_, o)| o).collect::<Vec<_>>();
    let pods: Vec<PodFacts> = of("pods").into_iter().map(PodFacts::of).collect();
    let nodes: BTreeSet<&str> = of("nodes").into_iter().map(|n| text(n, "/metadata/name")).collect();
    let lost_volumes: BTreeSet<&str> = of("persistentvolumes")
        .into_iter()
        .filter(|v| {
            labels(v.pointer("/metadata/labels")).get(NODE_LABEL).is_some_and(|n| !nodes.contains(&**n))
        })
        .map(|v| text(v, "/spec/claimRef/uid"))
        .collect();
    let lost_claims: BTreeSet<String> = of("persistentvolumeclaims")
        .into_iter()
        .filter(|c| lost_volumes.contains(text(c, "/metadata/uid")))
        .map(name)
        .collect();
    let is_lost = |p: &&PodFacts| {
        p.claims.iter().any(|claim| lost_claims.contains(&format!("{}/{claim}", p.meta.namespace)))
    };
    let lost = pods.iter().filter(is_lost).map(|p| p.meta.uid.clone()).collect();
    let nodes = nodes.len();
    let mut ending = Ending { pods, nodes, lost, all, wrong: Vec::new() };
    ending.nothing_is_left_over();
    ending.pods_run();
    ending.sets_are_complete();
    ending.stateful_sets_are_complete();
    ending.daemons_are_everywhere();
    ending.jobs_are_over();
    ending.slices_name_what_is_ready();
    ending.budgets_know_what_is_healthy();
    ending.volumes_are_somebodys();
    ending.autoscalers_keep_their_bounds();
    ending.wrong
}

fn name(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

impl Ending {
    fn of(&self, kind: &str) -> Vec<Value> {
        self.all.iter().filter(|(k, _)| *k == kind).map(|(_, o)| o.clone()).collect()
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn pods_of(&self, object: &Value) -> Vec<PodFacts> {
        let uid = text(object, "/metadata/uid");
        self.pods.iter().filter(|p| p.meta.is_of(uid)).cloned().collect()
    }

    /// Nothing waits to be deleted, and nothing belongs to what is gone.
    fn nothing_is_left_over(&mut self) {
        let uids: BTreeSet<String> =
            self.all.iter().map(|(_, o)| text(o, "/metadata/uid").to_string()).collect();
        let namespaces: BTreeSet<String> =
            self.of("namespaces").iter().map(|n| text(n, "/metadata/name").to_string()).collect();
        for (kind, object) in self.all.clone() {
            let meta = Meta::of(&object);
            let name = name(&object);
            self.expect(!meta.deleting, || format!("{kind} {name} is still being deleted"));
            for owner in list(&object, "/metadata/ownerReferences") {
                let there = uids.contains(text(owner, "/uid"));
                let kind_of = text(owner, "/kind");
                self.expect(there || kind_of == "Node", || {
                    format!("{kind} {name} belongs to the {kind_of} {} that is gone", text(owner, "/name"))
                });
            }
            let there = meta.namespace.is_empty() || namespaces.contains(&meta.namespace);
            self.expect(there, || format!("{kind} {name} is in a namespace that is gone"));
        }
    }

    /// Every pod has a node and runs, or has ended.
    fn pods_run(&mut self) {
        for pod in self.pods.clone() {
            let well = self.lost.contains(&pod.meta.uid)
                || pod.is_finished()
                || (pod.phase == "Running" && pod.ready && !pod.node.is_empty());
            let Meta { namespace, name, .. } = &pod.meta;
            self.expect(well, || {
                format!("pod {namespace}/{name} on {:?} is {} and ready: {}", pod.node, pod.phase, pod.ready)
            });
        }
    }

    fn numbers(&mut self, kind: &str, object: &Value, wanted: i64, paths: &[&str]) {
        for path in paths {
            let says = int(object, path).unwrap_or(0);
            self.expect(says == wanted, || {
                format!("{kind} {} wants {wanted}, but {path} is {says}", name(object))
            });
        }
        let (seen, generation) =
            (int(object, "/status/observedGeneration"), int(object, "/metadata/generation"));
        self.expect(seen == generation, || {
            format!("{kind} {} is at generation {generation:?}, observed is {seen:?}", name(object))
        });
    }

    fn sets_are_complete(&mut self) {
        for set in self.of("replicasets") {
            let wanted = int(&set, "/spec/replicas").unwrap_or(1);
            self.numbers("ReplicaSet", &set, wanted, &["/status/replicas", "/status/availableReplicas"]);
            let there = self.pods_of(&set).iter().filter(|p| p.is_active()).count();
            self.expect(i64::try_from(there) == Ok(wanted), || {
                format!("ReplicaSet {} wants {wanted} pods, there are {there}", name(&set))
            });
        }
        for deployment in self.of("deployments") {
            let wanted = int(&deployment, "/spec/replicas").unwrap_or(1);
            let paths = ["/status/replicas", "/status/updatedReplicas", "/status/availableReplicas"];
            self.numbers("Deployment", &deployment, wanted, &paths);
            let uid = text(&deployment, "/metadata/uid");
            let owned: Vec<Value> =
                self.of("replicasets").into_iter().filter(|s| Meta::of(s).is_of(uid)).collect();
            let used = owned.iter().filter(|s| int(s, "/spec/replicas").unwrap_or(1) > 0).count();
            self.expect(used <= 1, || {
                format!("Deployment {} has pods of {used} ReplicaSets", name(&deployment))
            });
        }
    }

    fn stateful_sets_are_complete(&mut self) {
        for set in self.of("statefulsets") {
            if self.pods_of(&set).iter().any(|p| self.lost.contains(&p.meta.uid)) {
                continue;
            }
            let wanted = int(&set, "/spec/replicas").unwrap_or(1);
            let paths = ["/status/replicas", "/status/readyReplicas", "/status/updatedReplicas"];
            self.numbers("StatefulSet", &set, wanted, &paths);
            let base = text(&set, "/metadata/name");
            let expected: BTreeSet<String> = (0..wanted).map(|i| format!("{base}-{i}")).collect();
            let there: BTreeSet<String> = self.pods_of(&set).into_iter().map(|p| p.meta.name).collect();
            self.expect(there == expected, || format!("StatefulSet {} has the pods {there:?}", name(&set)));
        }
    }

    fn daemons_are_everywhere(&mut self) {
        for set in self.of("daemonsets") {
            let pods = self.pods_of(&set);
            let nodes: BTreeSet<&str> = pods.iter().filter(|p| p.is_healthy()).map(|p| &*p.node).collect();
            let (on, all) = (nodes.len(), pods.len());
            let wanted = self.nodes;
            self.expect(on == wanted && all == wanted, || {
                format!("DaemonSet {} has {all} pods, healthy on {on} of {wanted} nodes", name(&set))
            });
            let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
            let paths =
                ["/status/desiredNumberScheduled", "/status/numberReady", "/status/updatedNumberScheduled"];
            self.numbers("DaemonSet", &set, wanted, &paths);
        }
    }

    fn jobs_are_over(&mut self) {
        for job in self.of("jobs") {
            let conditions = list(&job, "/status/conditions");
            let over = conditions
                .iter()
                .any(|c| matches!(text(c, "/type"), "Complete" | "Failed") && text(c, "/status") == "True");
            self.expect(over, || format!("Job {} is not over: {}", name(&job), job["status"]));
            let active = self.pods_of(&job).iter().filter(|p| !p.is_finished()).count();
            self.expect(active == 0, || {
                format!("Job {} is over, but {active} of its pods are not", name(&job))
            });
            let uncounted = list(&job, "/status/uncountedTerminatedPods/succeeded").len()
                + list(&job, "/status/uncountedTerminatedPods/failed").len();
            self.expect(uncounted == 0, || format!("Job {} has {uncounted} uncounted pods", name(&job)));
        }
        let held: Vec<String> = self
            .of("pods")
            .iter()
            .filter(|p| {
                list(p, "/metadata/finalizers").iter().any(|f| f == "batch.kubernetes.io/job-tracking")
            })
            .map(name)
            .collect();
        self.expect(held.is_empty(), || format!("pods are held by Jobs that are over: {held:?}"));
    }

    /// The addresses in a Service's slices are those of its pods that are ready.
    fn slices_name_what_is_ready(&mut self) {
        let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for slice in self.of("endpointslices") {
            let service = text(&slice, "/metadata/labels/kubernetes.io~1service-name");
            let key = format!("{}/{service}", text(&slice, "/metadata/namespace"));
            let ready = list(&slice, "/endpoints").iter().filter(|e| e["conditions"]["ready"] != false);
            let addresses = ready.filter_map(|e| e["addresses"][0].as_str().map(str::to_string));
            told.entry(key).or_default().extend(addresses);
        }
        for service in self.of("services") {
            let selector = labels(service.pointer("/spec/selector"));
            if selector.is_empty() {
                continue;
            }
            let namespace = text(&service, "/metadata/namespace");
            let its = self.pods.iter().filter(|p| p.meta.namespace == namespace && p.has(&selector));
            let ready: BTreeSet<String> = its.filter(|p| p.is_healthy()).map(|p| p.address.clone()).collect();
            let key = name(&service);
            let says = told.get(&key).cloned().unwrap_or_default();
            self.expect(says == ready, || format!("slices of {key} name {says:?}, ready are {ready:?}"));
        }
    }

    /// Each volume has a claim, and the claims of pods have volumes.
    fn volumes_are_somebodys(&mut self) {
        let claims = self.of("persistentvolumeclaims");
        for volume in self.of("persistentvolumes") {
            let claim = text(&volume, "/spec/claimRef/uid");
            let there = claims.iter().any(|c| {
                text(c, "/metadata/uid") == claim
                    && text(c, "/spec/volumeName") == text(&volume, "/metadata/name")
            });
            self.expect(there, || format!("volume {} is nobody's", text(&volume, "/metadata/name")));
        }
        for pod in self.pods.clone().into_iter().filter(|p| p.is_active() && !p.node.is_empty()) {
            for claim in &pod.claims {
                let key = format!("{}/{claim}", pod.meta.namespace);
                let bound = claims.iter().any(|c| name(c) == key && text(c, "/status/phase") == "Bound");
                self.expect(bound, || format!("claim {key} of {} is not bound", pod.meta.name));
            }
        }
    }

    /// What is scaled is as large as its autoscaler lets it be, or was scaled to nothing by somebody.
    fn autoscalers_keep_their_bounds(&mut self) {
        for autoscaler in self.of("horizontalpodautoscalers") {
            let target = &autoscaler["spec"]["scaleTargetRef"];
            let plural = if target["kind"] == "Deployment" { "deployments" } else { "statefulsets" };
            let namespace = text(&autoscaler, "/metadata/namespace");
            let key = format!("{namespace}/{}", text(target, "/name"));
            let Some(scaled) = self.of(plural).into_iter().find(|o| name(o) == key) else { continue };
            let (least, most) =
                (int(&autoscaler, "/spec/minReplicas"), int(&autoscaler, "/spec/maxReplicas"));
            let bounds = least.unwrap_or(1)..=most.unwrap_or(0);
            let has = int(&scaled, "/spec/replicas").unwrap_or(1);
            self.expect(has == 0 || bounds.contains(&has), || {
                format!("{key} has {has} replicas, its autoscaler allows {bounds:?}")
            });
        }
    }

    fn budgets_know_what_is_healthy(&mut self) {
        for budget in self.of("poddisruptionbudgets") {
            let selector = labels(budget.pointer("/spec/selector/matchLabels"));
            let namespace = text(&budget, "/metadata/namespace");
            let healthy = self
                .pods
                .iter()
                .filter(|p| p.meta.namespace == namespace && p.has(&selector) && p.is_healthy())
                .count();
            let says = int(&budget, "/status/currentHealthy").unwrap_or(0);
            self.expect(i64::try_from(healthy) == Ok(says), || {
                format!("budget {} counts {says} healthy pods, there are {healthy}", name(&budget))
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn world() -> Vec<(&'static str, Value)> {
        let meta =
            |name: &str, uid: &str| json!({"namespace": "blue", "name": name, "uid": uid, "generation": 1});
        let owned = |name: &str, uid: &str, kind: &str, owner: &str| {
            let mut meta = meta(name, uid);
            meta["ownerReferences"] = json!([{"kind": kind, "name": "x", "uid": owner, "controller": true}]);
            meta
        };
        let pod = |name: &str, uid: &str, kind: &str, owner: &str, address: &str| {
            let mut metadata = owned(name, uid, kind, owner);
            metadata["labels"] = json!({"app": "web"});
            let conditions = json!([{"type": "Ready", "status": "True"}]);
            json!({"metadata": metadata, "spec": {"nodeName": "n"},
                "status": {"phase": "Running", "podIP": address, "conditions": conditions}})
        };
        let sets = json!({"observedGeneration": 1, "replicas": 1, "availableReplicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
            "desiredNumberScheduled": 1, "numberReady": 1, "updatedNumberScheduled": 1});
        let spec = json!({"replicas": 1, "selector": {"app": "web"}});
        let over = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let app = json!({"selector": {"matchLabels": {"app": "web"}}});
        let slice = json!({"namespace": "blue", "name": "s", "uid": "7", "labels": {"kubernetes.io/service-name": "web"}});
        let endpoints: Vec<Value> =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|a| json!({"addresses": [a]})).into();
        let claim = json!({"metadata": meta("data-db-0", "13"), "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        let of_node = json!({"name": "v", "uid": "14", "labels": {"orlop.dev/node": "n"}});
        let volume = json!({"metadata": of_node, "spec": {"claimRef": {"uid": "13"}}});
        let mut stateful = pod("db-0", "11", "StatefulSet", "3", "10.0.0.2");
        stateful["spec"]["volumes"] = json!([{"persistentVolumeClaim": {"claimName": "data-db-0"}}]);
        let target = json!({"kind": "Deployment", "name": "web"});
        let scaler = json!({"minReplicas": 1, "maxReplicas": 2, "scaleTargetRef": target});
        vec![
            ("namespaces", json!({"metadata": {"name": "blue", "uid": "ns"}})),
            ("nodes", json!({"metadata": {"name": "n", "uid": "n"}})),
            ("deployments", json!({"metadata": meta("web", "1"), "spec": spec, "status": sets})),
            (
                "replicasets",
                json!({"metadata": owned("web-1", "2", "Deployment", "1"), "spec": spec, "status": sets}),
            ),
            ("statefulsets", json!({"metadata": meta("db", "3"), "spec": spec, "status": sets})),
            ("daemonsets", json!({"metadata": meta("log", "4"), "spec": spec, "status": sets})),
            ("jobs", json!({"metadata": meta("work", "5"), "status": over})),
            ("services", json!({"metadata": meta("web", "6"), "spec": spec})),
            ("endpointslices", json!({"metadata": slice, "endpoints": endpoints})),
            (
                "poddisruptionbudgets",
                json!({"metadata": meta("b", "8"), "spec": app, "status": {"currentHealthy": 3}}),
            ),
            ("persistentvolumeclaims", claim),
            ("persistentvolumes", volume),
            ("horizontalpodautoscalers", json!({"metadata": meta("web", "15"), "spec": scaler})),
            ("pods", pod("web-1-a", "10", "ReplicaSet", "2", "10.0.0.1")),
            ("pods", stateful),
            ("pods", pod("log-a", "12", "DaemonSet", "4", "10.0.0.3")),
        ]
    }

    /// What is wrong when one thing of a kind is changed.
    fn wrong(kind: &str, path: &str, value: Value) -> Vec<String> {
        let mut all = world();
        let (_, object) = all.iter_mut().find(|(k, _)| *k == kind).expect("the kind");
        *object.pointer_mut(path).expect("the path") = value;
        check_objects(all)
    }

    #[test]
    fn a_cluster_that_is_what_its_objects_say_passes() {
        assert_eq!(check_objects(world()), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_not_as_it_should_be_is_found() {
        let cases = [
            ("deployments", "/status/availableReplicas", json!(0), "/status/availableReplicas is 0"),
            ("deployments", "/metadata/generation", json!(2), "observed is Some(1)"),
            ("deployments", "/metadata/uid", json!("gone"), "belongs to the Deployment x that is gone"),
            ("replicasets", "/spec/replicas", json!(2), "ReplicaSet blue/web-1 wants 2"),
            ("statefulsets", "/metadata/name", json!("other"), "StatefulSet blue/other has the pods"),
            ("daemonsets", "/status/numberReady", json!(0), "/status/numberReady is 0"),
            ("jobs", "/status/conditions", json!([]), "Job blue/work is not over"),
            ("endpointslices", "/endpoints", json!([]), "slices of blue/web name {}"),
            (
                "poddisruptionbudgets",
                "/status/currentHealthy",
                json!(2),
                "counts 2 healthy pods, there are 3",
            ),
            ("pods", "/status/phase", json!("Pending"), "pod blue/web-1-a on \"n\" is Pending"),
            ("pods", "/spec/nodeName", json!(""), "pod blue/web-1-a on \"\""),
            ("namespaces", "/metadata/name", json!("red"), "in a namespace that is gone"),
            (
                "persistentvolumeclaims",
                "/status/phase",
                json!("Pending"),
                "claim blue/data-db-0 of db-0 is not bound",
            ),
            ("persistentvolumeclaims", "/metadata/uid", json!("new"), "volume v is nobody's"),
            ("persistentvolumeclaims", "/spec/volumeName", json!("w"), "volume v is nobody's"),
            ("horizontalpodautoscalers", "/spec/minReplicas", json!(2), "blue/web has 1 replicas"),
        ];
        for (kind, path, value, what) in cases {
            let found = wrong(kind, path, value.clone());
            let as_expected =
                if what.is_empty() { found.is_empty() } else { found.iter().any(|w| w.contains(what)) };
            assert!(as_expected, "{kind} {path} {value}: {found:?}");
        }
        let mut all = world();
        all[2].1["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(check_objects(all)[0].contains("still being deleted"));
        let mut all = world();
        all.push(("nodes", json!({"metadata": {"name": "m", "uid": "m"}})));
        assert!(check_objects(all)[0].contains("healthy on 1 of 2 nodes"));
    }

    #[test]
    fn who_has_lost_its_volume_with_a_node_may_wait_for_ever_and_nobody_else() {
        let waiting = |node: &str| {
            let mut all = world();
            for (kind, object) in &mut all {
                match (*kind, text(object, "/metadata/name")) {
                    ("persistentvolumes", _) => object["metadata"]["labels"]["orlop.dev/node"] = node.into(),
                    ("pods", "db-0") => object["spec"]["nodeName"] = Value::Null,
                    ("statefulsets", _) => object["status"]["readyReplicas"] = 0.into(),
                    ("endpointslices", _) => {
                        object["endpoints"].as_array_mut().expect("endpoints").remove(1);
                    }
                    ("poddisruptionbudgets", _) => object["status"]["currentHealthy"] = 2.into(),
                    _ => {}
                }
                if *kind == "pods" && object["spec"]["nodeName"].is_null() {
                    object["status"] = json!({"phase": "Pending"});
                }
            }
            check_objects(all)
        };
        assert_eq!(waiting("burned"), Vec::<String>::new());
        assert_eq!(waiting("n").len(), 2, "the pod waits, and its set is not ready");
    }
}

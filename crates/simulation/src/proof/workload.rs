//! What people do to a cluster, drawn from a seed: they make, change, scale and delete workloads of every kind, evict and delete pods, and
//! drop whole namespaces. They do not look at what comes of it.

use crate::{World, random::Random};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, Patch, PatchParams,
        PostParams,
    },
};
use serde_json::{Value, json};
use std::time::Duration;

/// Where things happen.
pub(super) const NAMESPACES: [&str; 2] = ["blue", "red"];

/// The kinds of workloads: group, version, kind, plural.
const KINDS: [(&str, &str, &str, &str); 5] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
];

const AUTOSCALER: (&str, &str, &str, &str) =
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers");

/// Priority classes: name, priority, whether its pods preempt others. The daemons', which cannot go elsewhere, come first.
const PRIORITIES: [(&str, i64, bool); 4] =
    [("low", 100, true), ("patient", 500, false), ("high", 1000, true), (DAEMONS, 2000, true)];
const DAEMONS: &str = "daemons";

/// See the module.
pub(super) struct Workload<'a> {
    world: &'a World,
    client: Client,
    random: Random,
    /// Pods have priorities, for there is not room for all.
    tight: bool,
    made: u64,
}

impl<'a> Workload<'a> {
    pub(super) fn new(world: &'a World, seed: u64, tight: bool) -> Self {
        Self { world, client: world.client(), random: Random::new(seed, "workload"), tight, made: 0 }
    }

    fn api(
        &self,
        (group, version, kind, plural): (&str, &str, &str, &str),
        namespace: &str,
    ) -> Api<DynamicObject> {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    async fn create(&self, kind: (&str, &str, &str, &str), namespace: &str, object: Value) {
        match serde_json::from_value::<DynamicObject>(object) {
            // It may be there already, or its namespace may be going.
            Ok(object) => {
                if let Err(error) = self.api(kind, namespace).create(&PostParams::default(), &object).await {
                    tracing::debug!(%error, kind = kind.2, namespace, "not made");
                }
            }
            Err(error) => tracing::error!(%error, "the workload draws what is no object"),
        }
    }

    /// Makes the namespaces, and waits until pods can be made in them.
    pub(super) async fn begin(&self) {
        for name in NAMESPACES {
            self.make_namespace(name).await;
        }
        for (name, value, preempts) in PRIORITIES {
            let policy = if preempts { "PreemptLowerPriority" } else { "Never" };
            let class = json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy});
            if let Ok(class) = serde_json::from_value::<PriorityClass>(class) {
                let _ = Api::all(self.client.clone()).create(&PostParams::default(), &class).await;
            }
        }
        self.world.run_for(Duration::from_secs(2)).await;
    }

    async fn make_namespace(&self, name: &str) {
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone());
        let mut namespace = k8s_openapi::api::core::v1::Namespace::default();
        namespace.metadata.name = Some(name.into());
        let _ = namespaces.create(&PostParams::default(), &namespace).await;
    }

    fn namespace(&mut self) -> &'static str {
        self.random.pick(&NAMESPACES).copied().unwrap_or("blue")
    }

    /// One thing that somebody does.
    pub(super) async fn act(&mut self) {
        let namespace = self.namespace();
        match self.random.below(20) {
            0..=7 => self.make(namespace).await,
            8..=13 => self.change(namespace).await,
            14..=15 => self.delete(namespace).await,
            16..=17 => self.evict(namespace).await,
            18 => self.delete_pod(namespace).await,
            _ if self.random.chance(200) => self.drop_namespace(namespace).await,
            _ => self.make(namespace).await,
        }
    }

    /// Something of that kind that is there.
    fn some(&mut self, (group, plural): (&str, &str), namespace: &str) -> Option<(String, Value)> {
        let all = self.world.objects(group, plural);
        let here: Vec<&Value> = all.iter().filter(|o| o["metadata"]["namespace"] == namespace).collect();
        let one = (*self.random.pick(&here)?).clone();
        Some((one["metadata"]["name"].as_str()?.to_string(), one))
    }

    fn template(&mut self, app: &str, policy: &str) -> Value {
        let tight = self.tight;
        let r = &mut self.random;
        let version = r.draw() % 1000;
        let mut annotations = json!({});
        if policy == "Always" {
            annotations["simulation.orlop.dev/ready-seconds"] = r.between(0, 8).to_string().into();
            annotations["simulation.orlop.dev/load"] = (r.below(8) * 100).to_string().into();
        } else {
            annotations["simulation.orlop.dev/run-seconds"] = r.between(1, 25).to_string().into();
            annotations["simulation.orlop.dev/fail-percent"] =
                r.pick(&["0", "0", "20", "60"]).copied().into();
        }
        let class = if tight { r.pick(&["low", "low", "patient", "high"]).copied() } else { None };
        json!({
            "metadata": {"labels": {"app": app}, "annotations": annotations},
            "spec": {"priorityClassName": class, "restartPolicy": policy, "terminationGracePeriodSeconds": r.between(1, 20), "containers": [{
                "name": "main", "image": format!("image:{version}"),
                "resources": {"requests": {"cpu": format!("{}m", r.between(1, 8) * 50), "memory": "64Mi"}},
            }]},
        })
    }

    async fn make(&mut self, namespace: &str) {
        self.made += 1;
        let name = format!("w{}", self.made);
        let at = usize::try_from(self.random.below(KINDS.len() as u64)).unwrap_or(0);
        let kind = KINDS[at];
        let metadata = json!({"name": name});
        let selector = json!({"matchLabels": {"app": name}});
        let replicas = self.random.between(0, 5);
        let spec = match kind.2 {
            "Deployment" => {
                let r = &mut self.random;
                let amount = |r: &mut Random| match r.below(3) {
                    0 => json!("25%"),
                    1 => json!("50%"),
                    _ => json!(r.between(0, 2)),
                };
                let (mut surge, unavailable) = (amount(r), amount(r));
                if surge == 0 && unavailable == 0 {
                    surge = json!(1);
                }
                let strategy = match r.chance(150) {
                    true => json!({"type": "Recreate"}),
                    false => json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}),
                };
                let ready = r.pick(&[0, 0, 4]).copied();
                json!({"replicas": replicas, "selector": selector, "strategy": strategy, "minReadySeconds": ready,
                    "revisionHistoryLimit": r.between(0, 3), "template": self.template(&name, "Always")})
            }
            "StatefulSet" => {
                let policy = self.random.pick(&["OrderedReady", "Parallel"]).copied();
                let mut spec = json!({"replicas": replicas, "selector": selector, "serviceName": name,
                    "podManagementPolicy": policy, "template": self.template(&name, "Always")});
                // Volumes are directories of one node: where nodes are full, their pods may wait for ever.
                if !self.tight && self.random.chance(400) {
                    self.give_claims(&mut spec);
                }
                spec
            }
            "DaemonSet" => {
                let mut template = self.template(&name, "Always");
                self.of_daemons(&mut template);
                json!({"selector": selector, "template": template})
            }
            "Job" => self.job(&name),
            _ => {
                let policy = self.random.pick(&["Allow", "Forbid", "Replace"]).copied();
                json!({"schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
                    "jobTemplate": {"spec": self.job(&name)}})
            }
        };
        self.create(kind, namespace, json!({"metadata": metadata, "spec": spec})).await;
        if matches!(kind.2, "Deployment" | "StatefulSet") {
            if self.random.chance(400) {
                let service = json!({"selector": {"app": name}, "ports": [{"port": 80}]});
                let object = json!({"metadata": metadata, "spec": service});
                self.create(("", "v1", "Service", "services"), namespace, object).await;
            }
            if self.random.chance(500) {
                let spec = match self.random.below(3) {
                    0 => json!({"maxUnavailable": 1, "selector": selector}),
                    1 => json!({"minAvailable": "50%", "selector": selector}),
                    _ => json!({"minAvailable": self.random.between(0, 3), "selector": selector}),
                };
                let object = json!({"metadata": metadata, "spec": spec});
                let kind = ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets");
                self.create(kind, namespace, object).await;
            }
            if self.random.chance(250) {
                let mut spec = self.bounds();
                spec["scaleTargetRef"] = json!({"apiVersion": "apps/v1", "kind": kind.2, "name": name});
                self.create(AUTOSCALER, namespace, json!({"metadata": metadata, "spec": spec})).await;
            }
        }
    }

    /// Where nodes are full, daemons ask for little and come first.
    fn of_daemons(&self, template: &mut Value) {
        if self.tight {
            template["spec"]["priorityClassName"] = DAEMONS.into();
            template["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "50m".into();
        }
    }

    fn give_claims(&mut self, set: &mut Value) {
        let mut keeps = || self.random.pick(&["Retain", "Retain", "Delete"]).copied();
        set["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": keeps(), "whenScaled": keeps()});
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        set["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": spec}]);
        set["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
    }

    /// Between how many and how many replicas.
    fn bounds(&mut self) -> Value {
        let least = self.random.between(1, 3);
        json!({"minReplicas": least, "maxReplicas": least + self.random.below(4)})
    }

    fn job(&mut self, name: &str) -> Value {
        let policy = if self.random.chance(700) { "Never" } else { "OnFailure" };
        let r = &mut self.random;
        let mode = if r.chance(500) { "Indexed" } else { "NonIndexed" };
        let mut spec = json!({
            "completions": r.between(1, 5), "parallelism": r.between(1, 3), "backoffLimit": r.between(0, 4),
            "completionMode": mode,
        });
        if mode == "Indexed" && policy == "Never" && r.chance(300) {
            spec["backoffLimitPerIndex"] = json!(r.between(0, 2));
            spec["backoffLimit"] = Value::Null;
        }
        if r.chance(100) {
            spec["ttlSecondsAfterFinished"] = json!(r.between(0, 30));
        }
        spec["template"] = self.template(name, policy);
        spec
    }

    async fn change(&mut self, namespace: &str) {
        if self.random.chance(80) {
            if let Some((name, _)) = self.some((AUTOSCALER.0, AUTOSCALER.3), namespace) {
                let change = json!({"spec": self.bounds()});
                self.patch(AUTOSCALER, namespace, &name, change).await;
            }
            return;
        }
        let at = usize::try_from(self.random.below(KINDS.len() as u64)).unwrap_or(0);
        let kind = KINDS[at];
        let Some((name, object)) = self.some((kind.0, kind.3), namespace) else { return };
        let change = match (kind.2, self.random.below(10)) {
            ("Deployment" | "StatefulSet", 0..=3) => json!({"spec": {"replicas": self.random.between(0, 6)}}),
            ("Deployment", 4) => {
                let paused = object["spec"]["paused"] == true;
                json!({"spec": {"paused": !paused}})
            }
            ("StatefulSet", 4) => {
                let partition = self.random.between(0, 3);
                json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": partition}}}})
            }
            ("Job", 0..=4) => json!({"spec": {"parallelism": self.random.between(0, 4)}}),
            ("Job", _) => json!({"spec": {"suspend": object["spec"]["suspend"] != true}}),
            ("CronJob", _) => json!({"spec": {"suspend": object["spec"]["suspend"] != true}}),
            _ => {
                let mut template = self.template(&name, "Always");
                if kind.2 == "DaemonSet" {
                    self.of_daemons(&mut template);
                }
                json!({"spec": {"template": template}})
            }
        };
        self.patch(kind, namespace, &name, change).await;
    }

    async fn patch(&self, kind: (&str, &str, &str, &str), namespace: &str, name: &str, change: Value) {
        let patched =
            self.api(kind, namespace).patch(name, &PatchParams::default(), &Patch::Merge(change)).await;
        if let Err(error) = patched {
            tracing::debug!(%error, name, "not changed");
        }
    }

    async fn delete(&mut self, namespace: &str) {
        let at = usize::try_from(self.random.below(KINDS.len() as u64)).unwrap_or(0);
        let kind = KINDS[at];
        let Some((name, _)) = self.some((kind.0, kind.3), namespace) else { return };
        let params = match self.random.below(5) {
            0 => DeleteParams::foreground(),
            1 => DeleteParams::orphan(),
            _ => DeleteParams::background(),
        };
        let _ = self.api(kind, namespace).delete(&name, &params).await;
    }

    async fn evict(&mut self, namespace: &str) {
        let Some((name, _)) = self.some(("", "pods"), namespace) else { return };
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(self.client.clone(), namespace);
        let _ = pods.evict(&name, &EvictParams::default()).await;
    }

    async fn delete_pod(&mut self, namespace: &str) {
        let Some((name, _)) = self.some(("", "pods"), namespace) else { return };
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(self.client.clone(), namespace);
        let _ = pods.delete(&name, &DeleteParams::default()).await;
    }

    async fn drop_namespace(&mut self, namespace: &str) {
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone());
        let _ = namespaces.delete(namespace, &DeleteParams::default()).await;
    }

    /// Lets everything come to an end that can: nothing is paused or suspended, and no CronJob makes more work.
    pub(super) async fn end(&self) {
        for (kind, change) in [
            (KINDS[0], json!({"spec": {"paused": false}})),
            (KINDS[1], json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}})),
            (KINDS[3], json!({"spec": {"suspend": false, "parallelism": 2}})),
            (KINDS[4], json!({"spec": {"suspend": true}})),
        ] {
            for object in self.world.objects(kind.0, kind.3) {
                let meta = &object["metadata"];
                let (namespace, name) = (meta["namespace"].as_str(), meta["name"].as_str());
                self.patch(kind, namespace.unwrap_or_default(), name.unwrap_or_default(), change.clone())
                    .await;
            }
        }
    }
}

//! The FlowSchemas and PriorityLevelConfigurations that every cluster has (Kubernetes documentation, "API Priority and
//! Fairness", "Defaults"), and the rules that both kinds share. The mandatory ones are what they are; the suggested ones are a
//! start.

use crate::{
    FieldErrors, Path,
    object::{list, text},
};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// The group of both kinds.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// The plural names of both kinds, schemas first.
pub const PLURALS: [&str; 2] = ["flowschemas", "prioritylevelconfigurations"];

/// An object that every cluster has.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Whether its spec must be just this.
    pub mandatory: bool,
    /// The object.
    pub object: Value,
}

/// All of them, priority levels first.
pub fn defaults() -> &'static [Bootstrap] {
    static ALL: LazyLock<Vec<Bootstrap>> = LazyLock::new(|| levels().into_iter().chain(schemas()).collect());
    &ALL
}

fn level(name: &str, mandatory: bool, spec: Value) -> Bootstrap {
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "PriorityLevelConfiguration", "metadata": {"name": name}, "spec": spec,
    });
    Bootstrap { mandatory, object }
}

fn levels() -> Vec<Bootstrap> {
    let queues = |name: &str, shares: u32, lendable: u32, queues: u32, hand: u32| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing},
        });
        level(name, false, json!({"type": "Limited", "limited": limited}))
    };
    let rejecting = json!({
        "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
    });
    let unlimited = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0});
    vec![
        level("exempt", true, json!({"type": "Exempt", "exempt": unlimited})),
        level("catch-all", true, json!({"type": "Limited", "limited": rejecting})),
        queues("system", 30, 33, 64, 6),
        queues("node-high", 40, 25, 64, 6),
        queues("leader-election", 10, 0, 16, 4),
        queues("workload-high", 40, 50, 128, 6),
        queues("workload-low", 100, 90, 128, 6),
        queues("global-default", 20, 50, 128, 6),
    ]
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn robots(names: &[&str]) -> Vec<Value> {
    let robot = |name: &&str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}});
    names.iter().map(robot).collect()
}

/// What a rule is about.
fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"],
    });
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

/// A rule about everything.
fn everything(subjects: Vec<Value>) -> Value {
    let paths = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
    json!({"subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)], "nonResourceRules": [paths]})
}

fn schema(name: &str, level: &str, precedence: u32, by: Option<&str>, rule: Value) -> Bootstrap {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule],
    });
    if let Some(by) = by {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": {"name": name}, "spec": spec,
    });
    Bootstrap { mandatory: matches!(name, "exempt" | "catch-all"), object }
}

fn schemas() -> Vec<Bootstrap> {
    const ANYBODY: &[&str] = &["system:unauthenticated", "system:authenticated"];
    const MANAGER: &str = "system:kube-controller-manager";
    const SCHEDULER: &str = "system:kube-scheduler";
    let (user, namespace) = (Some("ByUser"), Some("ByNamespace"));
    let held = &["get", "create", "update"];
    let leases = || resources(held, "coordination.k8s.io", &["leases"], false);
    let of_resources =
        |subjects: Vec<Value>, rules: Vec<Value>| json!({"subjects": subjects, "resourceRules": rules});
    let probes = json!({
        "subjects": groups(ANYBODY),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    });
    let electors = [users(&[MANAGER, SCHEDULER]), robots(&["*"])].concat();
    let mirrors =
        [users(&[MANAGER]), robots(&["endpoint-controller", "endpointslicemirroring-controller"])].concat();
    let nodes = vec![
        resources(&["*"], "", &["nodes", "nodes/status"], true),
        resources(&["*"], "coordination.k8s.io", &["leases"], false),
    ];
    let elections = vec![resources(held, "", &["endpoints", "configmaps"], false), leases()];
    vec![
        schema("exempt", "exempt", 1, None, everything(groups(&["system:masters"]))),
        schema("catch-all", "catch-all", 10_000, user, everything(groups(ANYBODY))),
        schema("probes", "exempt", 2, None, probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            user,
            of_resources(electors, vec![leases()]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            user,
            of_resources(mirrors, vec![resources(held, "", &["endpoints"], false)]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            user,
            of_resources(robots(&["*"]), elections),
        ),
        schema("system-node-high", "node-high", 400, user, of_resources(groups(&["system:nodes"]), nodes)),
        schema("system-nodes", "system", 500, user, everything(groups(&["system:nodes"]))),
        schema("kube-controller-manager", "workload-high", 800, namespace, everything(users(&[MANAGER]))),
        schema("kube-scheduler", "workload-high", 800, namespace, everything(users(&[SCHEDULER]))),
        schema("kube-system-service-accounts", "workload-high", 900, namespace, everything(robots(&["*"]))),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            user,
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, user, everything(groups(ANYBODY))),
    ]
}

/// What is wrong with a mandatory object: its spec is not what it must be.
pub(super) fn fixed(errors: &mut FieldErrors, object: &Value) {
    let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
    let same =
        |d: &&Bootstrap| d.mandatory && d.object["kind"] == kind && d.object["metadata"]["name"] == name;
    let Some(wanted) = defaults().iter().find(same) else { return };
    let (mut wanted, mut given) =
        (wanted.object["spec"].clone(), object.get("spec").cloned().unwrap_or_default());
    // How much the exempt level lends is its owner's to say.
    let lends = kind == "PriorityLevelConfiguration" && name == "exempt";
    if lends {
        for spec in [&mut wanted, &mut given] {
            if let Some(spec) = spec.as_object_mut() {
                spec.remove("exempt");
            }
        }
    }
    if wanted != given {
        let but = if lends { " except the 'spec.exempt' field" } else { "" };
        let why = format!("spec of '{name}'{but} must equal the fixed value");
        errors.invalid(Path::new("spec"), object.get("spec").cloned().unwrap_or_default(), why);
    }
}

/// What is wrong with the conditions of a status.
pub(super) fn conditions(errors: &mut FieldErrors, object: &Value) {
    let path = Path::new("status").child("conditions");
    let conditions = list(object, "/status/conditions");
    for (at, condition) in conditions.iter().enumerate() {
        let path = path.index(at).child("type");
        let given = text(condition, "/type");
        if conditions[..at].iter().any(|c| text(c, "/type") == given) {
            errors.duplicate(&path, given);
        }
        if given.is_empty() {
            errors.required(&path, "must not be empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn all_defaults_are_valid_and_say_all_that_defaulting_would_add() {
        assert_eq!(defaults().iter().filter(|d| d.mandatory).count(), 4);
        for default in defaults() {
            let plural = format!("{}s", text(&default.object, "/kind").to_lowercase());
            let kind = kinds::find(GROUP, "v1", &plural).unwrap();
            let mut object = default.object.clone();
            kind.rules.default(&mut object);
            assert_eq!(object, default.object);
            assert_eq!(kind.rules.validate(&object), [], "{object}");
            let level = object.pointer("/spec/priorityLevelConfiguration/name");
            let named = |d: &Bootstrap| {
                d.object["kind"] == "PriorityLevelConfiguration"
                    && Some(&d.object["metadata"]["name"]) == level
            };
            assert!(level.is_none() || defaults().iter().any(named), "{object}");
        }
    }

    #[test]
    fn mandatory_objects_stay_what_they_are() {
        let wrong = |plural: &str, name: &str, change: fn(&mut Value)| {
            let kind = kinds::find(GROUP, "v1", plural).unwrap();
            let same =
                |d: &&Bootstrap| d.object["kind"] == *kind.kind && d.object["metadata"]["name"] == name;
            let mut object = defaults().iter().find(same).unwrap().object.clone();
            change(&mut object);
            kind.rules.validate(&object).into_iter().map(|e| e.detail).collect::<Vec<_>>()
        };
        let last = |o: &mut Value| o["spec"]["matchingPrecedence"] = json!(9999);
        assert_eq!(
            wrong("flowschemas", "catch-all", last),
            ["spec of 'catch-all' must equal the fixed value"]
        );
        assert!(wrong("flowschemas", "global-default", last).is_empty());
        let lends = |o: &mut Value| o["spec"]["exempt"]["lendablePercent"] = json!(50);
        assert!(wrong("prioritylevelconfigurations", "exempt", lends).is_empty());
    }
}

//! What a failed pod means to its Job (`podFailurePolicy`), and when enough indexes have succeeded (`successPolicy`). Pure
//! (Kubernetes documentation, "Handling Pod and container failures with a Pod failure policy" and "Success policy").

use super::Indexes;
use k8s_openapi::api::{
    batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
    core::v1::{ContainerStatus, Pod},
};
use kube::ResourceExt;

/// What follows from a pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// It counts towards the limits.
    Counts,
    /// It is as if it had not been.
    Ignored,
    /// The pod's index is not tried again.
    FailsIndex,
    /// The Job fails, for this reason.
    FailsJob(String),
}

/// What follows from the failure of a pod.
pub(super) fn consequence(spec: &JobSpec, pod: &Pod) -> Consequence {
    let rules = spec.pod_failure_policy.as_ref().map(|p| p.rules.as_slice()).unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Consequence::Ignored,
            "FailIndex" if spec.backoff_limit_per_index.is_some() => Consequence::FailsIndex,
            "FailJob" => Consequence::FailsJob(format!("{why} matching FailJob rule at index {number}")),
            _ => Consequence::Counts,
        };
    }
    Consequence::Counts
}

/// Why a rule speaks of a pod.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let (container, code) = all.filter_map(|c| Some((c, exit_code(wanted, c)?))).next()?;
        return Some(format!("Container {} for pod {name} failed with exit code {code}", container.name));
    }
    let wanted = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let hit = conditions.iter().find(|c| {
        wanted.iter().any(|w| w.type_ == c.type_ && w.status.as_deref().unwrap_or("True") == c.status)
    })?;
    Some(format!("Pod {name} has condition {}", hit.type_))
}

/// The exit code of a container that a rule speaks of.
fn exit_code(wanted: &PodFailurePolicyOnExitCodesRequirement, container: &ContainerStatus) -> Option<i32> {
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = wanted.container_name.as_ref().is_none_or(|n| *n == container.name);
    let listed = wanted.values.contains(&code);
    let hit = code != 0 && named && listed == (wanted.operator == "In");
    hit.then_some(code)
}

/// Why the Job counts as succeeded, if a rule of its success policy is met.
pub(super) fn success(spec: &JobSpec, completed: &Indexes) -> Option<String> {
    let rules = spec.success_policy.as_ref()?.rules.iter().enumerate();
    let met = rules.filter(|_| completed.len() > 0).find(|(_, rule)| {
        let count = rule.succeeded_count.and_then(|c| usize::try_from(c).ok());
        match &rule.succeeded_indexes {
            Some(wanted) => {
                let wanted = Indexes::parse(wanted);
                let have = wanted.common(completed);
                wanted.len() > 0 && have >= count.unwrap_or(wanted.len())
            }
            None => count.is_some_and(|count| completed.len() >= count),
        }
    });
    met.map(|(number, _)| format!("Matched rules at index {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(spec: Value) -> JobSpec {
        let mut whole = json!({"template": {}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn pod(codes: &[(&str, i32)], conditions: &[(&str, &str)]) -> Pod {
        let containers: Vec<_> = codes
            .iter()
            .map(|(name, code)| {
                json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}})
            })
            .collect();
        let conditions: Vec<_> = conditions.iter().map(|(t, s)| json!({"type": t, "status": s})).collect();
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"},
            "status": {"phase": "Failed", "containerStatuses": containers, "conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_speaks_of_a_pod_decides() {
        let policy = json!({"backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [1, 2]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}},
            {"action": "Count", "onExitCodes": {"operator": "NotIn", "values": [4, 5]}},
            {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [4]}},
        ]}});
        let spec = spec(policy);
        let fails = |why: &str| Consequence::FailsJob(why.into());
        for (codes, conditions, want) in [
            (vec![("main", 1)], vec![("DisruptionTarget", "True")], Consequence::Ignored),
            (
                vec![("main", 1)],
                vec![("DisruptionTarget", "False")],
                fails("Container main for pod n/p failed with exit code 1 matching FailJob rule at index 1"),
            ),
            (vec![("side", 1)], vec![], Consequence::Counts),
            (vec![("main", 0), ("side", 3)], vec![], Consequence::FailsIndex),
            (vec![("main", 4)], vec![], Consequence::Ignored),
            (vec![("main", 5)], vec![], Consequence::Counts),
            (vec![("main", 0)], vec![], Consequence::Counts),
        ] {
            assert_eq!(consequence(&spec, &pod(&codes, &conditions)), want, "{codes:?} {conditions:?}");
        }
    }

    #[test]
    fn a_condition_can_fail_a_job_too() {
        let policy = json!({"podFailurePolicy": {"rules": [
            {"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue", "status": "True"}]}]}});
        let want = "Pod n/p has condition ConfigIssue matching FailJob rule at index 0";
        let got = consequence(&spec(policy), &pod(&[], &[("ConfigIssue", "True")]));
        assert_eq!(got, Consequence::FailsJob(want.into()));
    }

    #[test]
    fn a_job_has_succeeded_when_any_rule_is_met() {
        let rules = |rules: Value| spec(json!({"successPolicy": {"rules": rules}}));
        let first = Some("Matched rules at index 0".to_string());
        for (policy, completed, want) in [
            (json!([{"succeededIndexes": "0-2"}]), "0,1", None),
            (json!([{"succeededIndexes": "0-2"}]), "0-2,5", first.clone()),
            (json!([{"succeededCount": 2}]), "7", None),
            (json!([{"succeededCount": 2}]), "7,9", first.clone()),
            (json!([{"succeededIndexes": "0,4-8", "succeededCount": 2}]), "1,4", None),
            (json!([{"succeededIndexes": "0,4-8", "succeededCount": 2}]), "0,8", first),
            (
                json!([{"succeededIndexes": "0"}, {"succeededCount": 1}]),
                "3",
                Some("Matched rules at index 1".to_string()),
            ),
            (json!([{"succeededIndexes": "0"}]), "", None),
        ] {
            assert_eq!(
                success(&rules(policy.clone()), &Indexes::parse(completed)),
                want,
                "{policy} {completed}"
            );
        }
        assert_eq!(success(&spec(json!({})), &Indexes::parse("0-9")), None);
    }
}

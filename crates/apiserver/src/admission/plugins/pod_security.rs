//! PodSecurity: holds pods to the level of the Pod Security Standards that their namespace's labels ask for (Kubernetes
//! documentation, "Pod Security Admission").

use super::pod_security_checks::{Level, Violation, check};
use crate::admission::{Operation, Plugin, Request, notes};
use orlop_api::{
    FieldError, Status,
    object::{list, text},
};
use serde_json::Value;
use std::collections::BTreeMap;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// The minor version of the API that is served: what `latest` means.
const LATEST: u32 = 36;
/// So many pods are looked at when a namespace gets stricter, as in Kubernetes.
const MOST_PODS: usize = 3000;
/// Subresources of pods that carry no pod.
const NO_PODS: &[&str] = &["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];
/// Kinds that make pods, and where the template is.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "replicationcontrollers", "/spec/template"),
    ("", "podtemplates", "/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("batch", "jobs", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
];

pub(super) struct PodSecurity;

/// A level as it was in a version; `None` is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    level: Level,
    minor: Option<u32>,
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

impl Rule {
    const NONE: Self = Self { level: Level::Privileged, minor: None };

    fn check(self, meta: &Value, spec: &Value) -> Vec<Violation> {
        check(self.level, self.minor.map_or(LATEST, |m| m.min(LATEST)), meta, spec)
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    enforce: Rule,
    audit: Rule,
    warn: Rule,
}

/// Reads the labels of a namespace. Labels that make no sense are errors, and enforce the strictest.
fn policy(namespace: &Value) -> (Policy, Vec<FieldError>) {
    let mut errors = Vec::new();
    let mut rule = |mode: &str, otherwise: Level| {
        let label = |suffix: &str| {
            let key = format!("{PREFIX}{mode}{suffix}");
            let value = namespace.pointer("/metadata/labels")?.get(&key)?.as_str()?.to_string();
            Some((format!("metadata.labels[{key}]"), value))
        };
        let mut rule = Rule::NONE;
        if let Some((path, value)) = label("") {
            rule.level = match value.as_str() {
                "privileged" => Level::Privileged,
                "baseline" => Level::Baseline,
                "restricted" => Level::Restricted,
                _ => {
                    let why = "must be one of privileged, baseline, restricted";
                    errors.push(FieldError::invalid(path, value, why));
                    otherwise
                }
            };
        }
        if let Some((path, value)) = label("-version")
            && value != "latest"
        {
            let minor = value
                .strip_prefix("v1.")
                .filter(|m| *m == "0" || !m.starts_with('0'))
                .filter(|m| m.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|m| m.parse().ok());
            if minor.is_none() {
                errors.push(FieldError::invalid(path, value, "must be \"latest\" or \"v1.x\""));
            }
            rule.minor = minor;
        }
        rule
    };
    // What is only told fails open.
    let policy = Policy {
        enforce: rule("enforce", Level::Restricted),
        audit: rule("audit", Level::Privileged),
        warn: rule("warn", Level::Privileged),
    };
    (policy, errors)
}

/// `reason (detail), reason (detail)`.
fn details(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|v| if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) })
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether an update of a pod changes anything that the rules look at and that can change.
fn is_significant(new: &Value, old: &Value) -> bool {
    let annotations = |pod: &Value| -> Vec<(String, String)> {
        orlop_api::object::strings(pod, "/metadata/annotations")
            .into_iter()
            .filter(|(k, _)| k.contains("seccomp.security.alpha.kubernetes.io/"))
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    };
    let images = |pod: &Value, pointer: &str| -> Vec<(String, String)> {
        list(pod, pointer)
            .iter()
            .map(|c| (text(c, "/name").to_string(), text(c, "/image").to_string()))
            .collect()
    };
    annotations(new) != annotations(old)
        || ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"]
            .iter()
            .any(|p| images(new, p) != images(old, p))
}

/// What to tell about the pods of a namespace that gets stricter.
fn existing_pods(namespace: &str, rule: Rule, pods: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    if pods.len() > MOST_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
            pods.len()
        ));
    }
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(MOST_PODS) {
        let violations = rule.check(&pod["metadata"], &pod["spec"]);
        if !violations.is_empty() {
            let reasons = violations.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ");
            found.entry(reasons).or_default().push(text(pod, "/metadata/name"));
        }
    }
    if found.is_empty() {
        return warnings;
    }
    warnings.push(format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{rule}\""
    ));
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, names)| {
            let first = names.iter().min().copied().unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                n => format!("{first} (and {} other pods): {reasons}", n - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

impl PodSecurity {
    fn judge_namespace(request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
        let (new, errors) = policy(namespace);
        let (old, old_errors) = request.old.map_or((new, Vec::new()), policy);
        if !errors.is_empty() && (request.old.is_none() || errors != old_errors) {
            return Err(Status::invalid(request.kind, request.name, &errors));
        }
        let relaxed = new.enforce.minor == old.enforce.minor && new.enforce.level <= old.enforce.level;
        if request.old.is_none() || new.enforce.level == Level::Privileged || relaxed {
            return Ok(());
        }
        let pods = request.look_up_all(("", "v1", "pods"), request.name);
        existing_pods(request.name, new.enforce, &pods).into_iter().for_each(notes::warn);
        Ok(())
    }

    fn judge_pod(request: &Request<'_>, meta: &Value, spec: &Value, enforces: bool) -> Result<(), Status> {
        let namespaces = request.registry.find("", "v1", "namespaces");
        let Some(namespace) = namespaces.and_then(|n| n.get("", request.namespace).ok()) else {
            return Ok(());
        };
        if !namespace.labels.iter().any(|(key, _)| key.starts_with(PREFIX)) {
            return Ok(());
        }
        let (policy, errors) = policy(&namespace.value());
        if !errors.is_empty() {
            let list = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            notes::annotate(format!("{PREFIX}error"), format!("Failed to parse policy: {list}"));
        }
        let audit = policy.audit.check(meta, spec);
        if !audit.is_empty() {
            notes::annotate(
                format!("{PREFIX}audit-violations"),
                format!("would violate PodSecurity \"{}\": {}", policy.audit, details(&audit)),
            );
        }
        if enforces {
            notes::annotate(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
            let violations = policy.enforce.check(meta, spec);
            if !violations.is_empty() {
                let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&violations));
                return Err(request.forbidden(&why));
            }
        }
        let warn = policy.warn.check(meta, spec);
        if !warn.is_empty() {
            notes::warn(format!("would violate PodSecurity \"{}\": {}", policy.warn, details(&warn)));
        }
        Ok(())
    }
}

impl Plugin for PodSecurity {
    fn handles(&self, request: &Request<'_>) -> bool {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return false;
        }
        let (group, plural) = (&*request.kind.group, &*request.kind.plural);
        if group.is_empty() && plural == "pods" {
            return !NO_PODS.contains(&request.subresource);
        }
        request.subresource.is_empty()
            && ((group.is_empty() && plural == "namespaces")
                || TEMPLATES.iter().any(|(g, p, _)| *g == group && *p == plural))
    }

    fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let null = Value::Null;
        match &*request.kind.plural {
            "namespaces" => Self::judge_namespace(request, object),
            "pods" => {
                if request.old.is_some_and(|old| !is_significant(object, old)) {
                    return Ok(());
                }
                let meta = object.get("metadata").unwrap_or(&null);
                Self::judge_pod(request, meta, object.get("spec").unwrap_or(&null), true)
            }
            plural => {
                let template = TEMPLATES
                    .iter()
                    .find(|(_, p, _)| *p == plural)
                    .and_then(|(_, _, pointer)| object.pointer(pointer));
                let Some(template) = template.filter(|t| t.is_object()) else { return Ok(()) };
                let meta = template.get("metadata").unwrap_or(&null);
                Self::judge_pod(request, meta, template.get("spec").unwrap_or(&null), false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_say_level_and_version_and_nonsense_is_the_strictest() {
        let of = |labels: Value| policy(&json!({"metadata": {"labels": labels}}));
        let (policy, errors) = of(json!({
            "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.25",
            "pod-security.kubernetes.io/warn": "restricted",
        }));
        assert!(errors.is_empty());
        assert_eq!(
            (policy.enforce.to_string(), policy.warn.to_string(), policy.audit.to_string()),
            ("baseline:v1.25".into(), "restricted:latest".into(), "privileged:latest".into())
        );
        let (policy, errors) = of(json!({
            "pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/warn-version": "1.2",
        }));
        assert_eq!(policy.enforce.level, Level::Restricted);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
            ]
        );
    }

    #[test]
    fn a_namespace_that_gets_stricter_tells_which_pods_break_it() {
        let pod = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
        let pods =
            [pod("b", json!({"hostPID": true})), pod("a", json!({"hostPID": true})), pod("good", json!({}))];
        let rule = Rule { level: Level::Baseline, minor: None };
        assert_eq!(
            existing_pods("ns", rule, &pods),
            [
                "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): host namespaces",
            ]
        );
        assert!(existing_pods("ns", Rule::NONE, &pods).is_empty());
    }

    #[test]
    fn only_what_can_break_a_rule_is_judged_again() {
        let old = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": "a"}]}});
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"x": "y"});
        assert!(!is_significant(&new, &old));
        new["spec"]["ephemeralContainers"] = json!([{"name": "debug", "image": "b"}]);
        assert!(is_significant(&new, &old));
    }
}

//! Pod: containers that run together on one node.

use super::{base, texts};
use crate::{
    Deletion, FieldError, FieldErrors, Kind, Path, Rules,
    object::{carry_over, int, list, text},
    pod_spec::{defaults, template::decode_spec, update::validate_spec_update, validate},
    print,
    qos::QosClass,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

mod row;
mod status;

/// The description of Pod.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["po"]),
        categories: texts(&["all"]),
        has_status: true,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Ready", "How many containers are ready, of how many."),
            print::text_column("Status", "What its containers are doing, in a word."),
            print::text_column("Restarts", "How often its containers were restarted, and how long ago."),
            print::age_column(),
            print::wide_column("IP", "Its address."),
            print::wide_column("Node", "Where it runs."),
            print::wide_column("Nominated Node", "Where room is being made for it."),
            print::wide_column("Readiness Gates", "How many of its readiness gates are true."),
        ],
        selectable_fields: texts(&[
            "spec.nodeName",
            // What clients of the first days call it.
            "spec.host",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]),
        ..base("", "v1", "Pod", "pods", Pod)
    }
}

struct Pod;

impl Rules for Pod {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            defaults::set_pod_defaults(spec);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let mut status = json!({"phase": "Pending"});
        if let Some(class) = qos_class(object) {
            status["qosClass"] = class.into();
        }
        if !list(object, "/spec/schedulingGates").is_empty() {
            status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates"}]);
        }
        if object.is_object() {
            object["status"] = status;
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        let empty = json!({});
        let (Some(status), old) = (new.get_mut("status"), old.get("status").unwrap_or(&empty)) else {
            return;
        };
        carry_over(status, old, "qosClass");
        status::mirror_addresses(status);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if let Some(spec) = decode_spec(spec, &path, &mut errors) {
            validate::validate_spec(&spec, &path, &mut errors);
            validate::validate_host_network(&spec, true, &path, &mut errors);
            validate::validate_for_pod(&spec, &path, &mut errors);
            let made = crate::object::has(object, "/metadata/resourceVersion");
            if !made && spec.ephemeral_containers.is_some_and(|containers| !containers.is_empty()) {
                errors.forbidden(path.child("ephemeralContainers"), "cannot be set on create");
            }
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        validate_spec_update(&new["spec"], &old["spec"], &mut errors);
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        status::validate(new, old, &mut errors);
        errors.into_vec()
    }

    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "spec.hostNetwork" => crate::object::flag(object, "/spec/hostNetwork").to_string(),
            "spec.host" => text(object, "/spec/nodeName").to_string(),
            "status.podIP" => text(object, "/status/podIPs/0/ip").to_string(),
            // It is a label that Kubernetes knows and never fills in.
            "status.podIPs" => String::new(),
            _ => crate::object::field(object, path),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        row::cells(object, now)
    }

    fn row_conditions(&self, object: &Value) -> Vec<Value> {
        let (reason, message) = match text(object, "/status/phase") {
            "Succeeded" => ("Succeeded", "The pod has completed successfully."),
            "Failed" => ("Failed", "The pod failed."),
            _ => return Vec::new(),
        };
        vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
    }

    fn deletion(&self, object: &Value, grace: Option<i64>) -> Deletion {
        let unscheduled = text(object, "/spec/nodeName").is_empty();
        let finished = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
        let grace = grace.or_else(|| int(object, "/spec/terminationGracePeriodSeconds")).unwrap_or_default();
        match () {
            () if unscheduled || finished || grace == 0 => Deletion::Now,
            // A negative grace in the spec means "at once, but let the node say when it is gone".
            () => Deletion::After(if grace < 0 { 1 } else { grace }),
        }
    }
}

fn qos_class(object: &Value) -> Option<&'static str> {
    let spec = k8s_openapi::api::core::v1::PodSpec::deserialize(object.get("spec")?).ok()?;
    Some(QosClass::of(&spec).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_is_pending_and_has_its_class() {
        let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "x",
            "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}]}, "status": {"phase": "Running"}});
        Pod.default(&mut pod);
        Pod.prepare_create(&mut pod);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
        assert_eq!(Pod.validate(&pod), []);
    }

    #[test]
    fn a_gated_pod_says_that_it_waits() {
        let mut pod = json!({"spec": {"containers": [], "schedulingGates": [{"name": "x"}]}});
        Pod.prepare_create(&mut pod);
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
    }

    #[test]
    fn a_pod_without_containers_is_refused() {
        let wrong = |pod: Value| Pod.validate(&pod).into_iter().map(|e| e.to_string()).collect::<Vec<_>>();
        assert_eq!(wrong(json!({})), ["spec.containers: Required value"]);
        assert!(wrong(json!({"spec": {"containers": "x"}}))[0].starts_with("spec: Invalid value"));
    }

    #[test]
    fn fields_are_what_selectors_see() {
        let pod = json!({"spec": {"nodeName": "n", "hostNetwork": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}});
        for (field, want) in [
            ("spec.nodeName", "n"),
            ("spec.host", "n"),
            ("spec.hostNetwork", "true"),
            ("status.phase", "Running"),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", ""),
            ("status.nominatedNodeName", ""),
        ] {
            assert_eq!(Pod.field(&pod, field), want, "{field}");
        }
    }

    #[test]
    fn only_a_running_pod_is_deleted_with_grace() {
        let scheduled = |phase: &str, grace: i64| json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": grace}, "status": {"phase": phase}});
        for (pod, asked, want) in [
            (scheduled("Running", 30), None, Deletion::After(30)),
            (scheduled("Running", 30), Some(5), Deletion::After(5)),
            (scheduled("Running", 30), Some(0), Deletion::Now),
            (scheduled("Pending", 0), None, Deletion::Now),
            (scheduled("Running", -3), None, Deletion::After(1)),
            (scheduled("Succeeded", 30), None, Deletion::Now),
            (scheduled("Failed", 30), Some(9), Deletion::Now),
            (json!({"spec": {"terminationGracePeriodSeconds": 30}}), None, Deletion::Now),
        ] {
            assert_eq!(Pod.deletion(&pod, asked), want, "{pod} {asked:?}");
        }
    }
}

//! Ephemeral containers: what may stand in one, and how the list of a pod that exists may grow
//! (k8s.io/kubernetes `validateEphemeralContainers`, `ValidatePodEphemeralContainersUpdate`).

use super::containers::validate_container;
use crate::{
    FieldError, FieldErrors, Path, name,
    object::{list, text},
};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};
use serde_json::Value;
use std::collections::BTreeSet;

/// What others containers have and these may not: they come to look, not to serve.
const UNFIT: [&str; 8] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicyRules",
    "startupProbe",
];

/// All ephemeral containers of a pod. `volumes` are the names that mounts may use.
pub(super) fn validate(spec: &PodSpec, volumes: &BTreeSet<&str>, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("ephemeralContainers");
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: BTreeSet<&str> = others.map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    for (at, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(at);
        errors.required_and(&path.child("name"), &container.name, name::dns_label);
        if !container.name.is_empty() && !names.insert(&container.name) {
            errors.duplicate(path.child("name"), container.name.as_str());
        }
        let target = container.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(path.child("targetContainerName"), target));
        }
        validate_one(container, volumes, &path, errors);
    }
}

fn validate_one(
    container: &EphemeralContainer,
    volumes: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Ok(value) = serde_json::to_value(container) else { return };
    if let Some(plain) = errors.decode::<Container>(path, &value) {
        validate_container(&plain, volumes, path, errors);
    }
    let message = "cannot be set for an Ephemeral Container";
    let empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        other => other.is_null(),
    };
    for field in UNFIT.iter().filter(|field| value.get(**field).is_some_and(|v| !empty(v))) {
        errors.forbidden(path.child(field), message);
    }
    if container.restart_policy.is_some() {
        errors.forbidden(path.child("restartPolicy"), message);
    }
    for (at, mount) in list(&value, "/volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if !text(mount, &format!("/{field}")).is_empty() {
                errors.forbidden(path.child("volumeMounts").index(at).child(field), message);
            }
        }
    }
}

/// Makes `new` the pod `old` with the ephemeral containers of `new`: all that the subresource writes.
pub fn keep_ephemeral_containers(new: &mut Value, old: &Value) {
    let given = new.pointer("/spec/ephemeralContainers").cloned();
    super::keep_all_but_managed_fields(new, old);
    if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
        match given.filter(|given| !given.is_null()) {
            Some(given) => spec.insert("ephemeralContainers".into(), given),
            None => spec.remove("ephemeralContainers"),
        };
    }
}

/// All that is wrong with the change: containers may come, but neither change nor go.
pub fn validate_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    if old.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        errors.forbidden("", "static pods do not support ephemeral containers");
        return errors.into_vec();
    }
    let path = Path::new("spec.ephemeralContainers");
    let after = list(new, "/spec/ephemeralContainers");
    for before in list(old, "/spec/ephemeralContainers") {
        let name = text(before, "/name");
        match after.iter().find(|c| text(c, "/name") == name) {
            None => {
                let message = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, message);
            }
            Some(after) if after != before => {
                let message = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.forbidden(&path, message);
            }
            Some(_) => {}
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(container: Value) -> Vec<String> {
        let mut ephemeral = json!({"name": "debug", "image": "x", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"});
        ephemeral.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let spec = json!({"containers": [{"name": "c", "image": "x"}], "ephemeralContainers": [ephemeral]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = FieldErrors::new();
        validate(&spec, &["v"].into(), &Path::new("spec"), &mut errors);
        errors.into_vec().into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn it_may_look_at_a_container_but_not_serve() {
        assert_eq!(wrong(json!({"targetContainerName": "c"})), Vec::<String>::new());
        let at = "spec.ephemeralContainers[0]";
        for (container, want) in [
            (json!({"name": "c"}), "name: Duplicate value: \"c\""),
            (json!({"targetContainerName": "d"}), "targetContainerName: Not found: \"d\""),
            (
                json!({"ports": [{"containerPort": 80, "protocol": "TCP"}]}),
                "ports: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!({"resources": {"limits": {"cpu": "1"}}}),
                "resources: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!({"livenessProbe": {"exec": {}}}),
                "livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                json!({"restartPolicy": "Always"}),
                "restartPolicy: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (json!({"image": ""}), "image: Required value"),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a"}]}),
                "volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
            ),
        ] {
            assert_eq!(wrong(container.clone()), [format!("{at}.{want}")], "{container}");
        }
        assert!(wrong(json!({"resources": {}})).is_empty());
    }

    #[test]
    fn containers_come_and_stay() {
        let pod = |containers: Value| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "ephemeralContainers": containers}});
        let old = pod(json!([{"name": "a", "image": "x"}]));
        let said =
            |new: &Value| validate_change(new, &old).into_iter().map(|e| e.to_string()).collect::<Vec<_>>();
        let mut new = pod(json!([{"name": "b"}, {"name": "a", "image": "x"}]));
        new["spec"]["nodeName"] = json!("other");
        keep_ephemeral_containers(&mut new, &old);
        assert_eq!((&new["spec"]["nodeName"], said(&new)), (&json!("n"), Vec::new()));
        assert!(said(&pod(json!([])))[0].contains("existing ephemeral containers \"a\" may not be removed"));
        assert!(said(&pod(json!([{"name": "a", "image": "y"}])))[0].contains("\"a\" may not be changed"));
    }
}

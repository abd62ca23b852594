//! What caches of pods need not keep. Pods are so many that every KiB of one is more than a hundred MiB of a large cluster, and most of
//! a pod is of interest to its node alone: what its containers run, what is mounted where, and volumes that are made on the spot.

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

/// Takes out of a pod what neither controllers nor the scheduler read. Who writes pods as a whole must not take them from a cache that
/// does this.
pub fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| !is_made_on_the_spot(volume));
        volumes.shrink_to_fit();
    }
    spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
    if let Some(tolerations) = &mut spec.tolerations {
        tolerations.shrink_to_fit();
    }
    spec.ephemeral_containers = None;
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    containers.for_each(container);
}

/// Whether a volume is nothing outside the node: no claim, no disk that two nodes could want.
fn is_made_on_the_spot(volume: &Volume) -> bool {
    volume.projected.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
}

fn container(container: &mut Container) {
    container.args = None;
    container.command = None;
    container.env = None;
    container.env_from = None;
    container.lifecycle = None;
    container.liveness_probe = None;
    container.readiness_probe = None;
    container.startup_probe = None;
    container.termination_message_path = None;
    container.termination_message_policy = None;
    container.volume_devices = None;
    container.volume_mounts = None;
    container.working_dir = None;
    if let Some(ports) = &mut container.ports {
        ports.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_decisions_rest_on_stays_and_what_only_the_node_reads_goes() {
        let mut whole: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeName": "n", "priority": 7, "tolerations": [{"key": "t"}],
                "containers": [{"name": "c", "image": "i", "command": ["x"], "env": [{"name": "e"}],
                    "ports": [{"name": "web", "containerPort": 80}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    "resources": {"requests": {"cpu": "1"}}, "livenessProbe": {"periodSeconds": 1}}],
                "initContainers": [{"name": "i", "args": ["y"], "restartPolicy": "Always"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "t", "projected": {}},
                    {"name": "e", "ephemeral": {}}, {"name": "h", "hostPath": {"path": "/"}}, {"name": "d", "emptyDir": {}}],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .expect("a pod");
        pod(&mut whole);
        let want = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}},
            "spec": {
                "nodeName": "n", "priority": 7, "tolerations": [{"key": "t"}],
                "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}],
                    "resources": {"requests": {"cpu": "1"}}}],
                "initContainers": [{"name": "i", "restartPolicy": "Always"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}},
                    {"name": "e", "ephemeral": {}}, {"name": "h", "hostPath": {"path": "/"}}],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(serde_json::to_value(&whole).expect("JSON"), want);
    }
}

//! What the agent reads again and again of a Pod object, in one place. It knows nothing of what runs.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use std::borrow::Cow;

/// The part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: started in its turn, then kept running.
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Put into the running pod to look at it: started once, never again, and of no account for the pod.
    Ephemeral,
}

/// Whether and when an ended container is started again (pod or container `restartPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// Short ways to the parts of a pod.
pub(crate) trait PodExt {
    fn uid(&self) -> &str;
    fn name(&self) -> &str;
    fn namespace(&self) -> &str;
    fn spec_ref(&self) -> &PodSpec;
    /// All containers with their roles: init containers and sidecars in order, then the main ones.
    fn containers(&self) -> Vec<(Role, &Container)>;
    /// Ephemeral containers, in the shape of the others.
    fn ephemeral(&self) -> Vec<Container>;
    /// Any container by name.
    fn container(&self, name: &str) -> Option<Cow<'_, Container>>;
    fn host_network(&self) -> bool;
    fn restart_policy(&self) -> RestartPolicy;
    /// `terminationGracePeriodSeconds`, 30 if not given.
    fn grace_seconds(&self) -> u64;
    fn deleting(&self) -> bool;
    /// `status.phase` is Succeeded or Failed.
    fn ended(&self) -> bool;
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl PodExt for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn spec_ref(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    fn containers(&self) -> Vec<(Role, &Container)> {
        let spec = self.spec_ref();
        let init = spec.init_containers.iter().flatten().map(|c| {
            let role = if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
            (role, c)
        });
        init.chain(spec.containers.iter().map(|c| (Role::Main, c))).collect()
    }

    fn ephemeral(&self) -> Vec<Container> {
        self.spec_ref().ephemeral_containers.iter().flatten().map(shaped).collect()
    }

    fn container(&self, name: &str) -> Option<Cow<'_, Container>> {
        let plain = self.containers().into_iter().map(|(_, c)| c).find(|c| c.name == name);
        let looking = || self.spec_ref().ephemeral_containers.iter().flatten().find(|c| c.name == name);
        plain.map(Cow::Borrowed).or_else(|| looking().map(|c| Cow::Owned(shaped(c))))
    }

    fn host_network(&self) -> bool {
        self.spec_ref().host_network == Some(true)
    }

    fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy::parse(self.spec_ref().restart_policy.as_deref())
    }

    fn grace_seconds(&self) -> u64 {
        let seconds = self.spec_ref().termination_grace_period_seconds.unwrap_or(30);
        u64::try_from(seconds).unwrap_or(1)
    }

    fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn ended(&self) -> bool {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }
}

/// An ephemeral container as a container: it has the same fields, but for the one that says whose processes it sees.
fn shaped(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}

/// Whether a container that ended with `exit_code` is started again, by its own policy and rules or else the pod's.
pub(crate) fn restarts(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Main => {}
    }
    let matched = container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.action == "Restart"
            && rule.exit_codes.as_ref().is_some_and(|codes| {
                let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
                if codes.operator == "NotIn" { !listed } else { listed }
            })
    });
    if matched {
        return true;
    }
    let policy = match container.restart_policy.as_deref() {
        Some(own) => RestartPolicy::parse(Some(own)),
        None => pod.restart_policy(),
    };
    match (policy, role) {
        // An init container that has done its work is never repeated.
        (RestartPolicy::Always, Role::Init) | (RestartPolicy::OnFailure, _) => exit_code != 0,
        (RestartPolicy::Always, _) => true,
        (RestartPolicy::Never, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": {"name": "p"}, "spec": value })).expect("a pod")
    }

    #[test]
    fn a_container_is_restarted_as_the_policies_say() {
        let cases = [
            ("Always", json!({}), 0, true),
            ("Always", json!({}), 1, true),
            ("OnFailure", json!({}), 0, false),
            ("OnFailure", json!({}), 1, true),
            ("Never", json!({}), 1, false),
            ("Never", json!({"restartPolicy": "OnFailure"}), 1, true),
            ("Always", json!({"restartPolicy": "Never"}), 1, false),
            (
                "Never",
                json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}),
                42,
                true,
            ),
            (
                "Never",
                json!({"restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [42]}}]}),
                42,
                false,
            ),
        ];
        for (policy, mut container, code, expected) in cases {
            container["name"] = "c".into();
            let pod = pod(json!({"restartPolicy": policy, "containers": [container]}));
            let (role, container) = pod.containers()[0];
            assert_eq!(restarts(&pod, role, container, code), expected, "{policy} {container:?} {code}");
        }
    }

    #[test]
    fn an_init_container_that_succeeded_is_not_repeated() {
        let pod = pod(json!({"containers": [{"name": "c"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}));
        let all = pod.containers();
        assert_eq!(all.iter().map(|(r, _)| *r).collect::<Vec<_>>(), [Role::Init, Role::Sidecar, Role::Main]);
        assert!(!restarts(&pod, all[0].0, all[0].1, 0));
        assert!(restarts(&pod, all[0].0, all[0].1, 1));
        assert!(restarts(&pod, all[1].0, all[1].1, 0));
    }
}

//! From the security contexts of pod and container to what the runtime enforces (Kubernetes documentation, "Configure a
//! Security Context for a Pod or Container"). Pure.

use crate::pod::PodExt;
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};
use orlop_runtime::{Image, Seccomp, Security, User};
use std::path::Path;

/// A container's confinement; an error is the message of `CreateContainerConfigError`.
pub(crate) fn of_container(
    pod: &Pod,
    container: &Container,
    image: &Image,
    profiles: &Path,
) -> Result<Security, String> {
    let none = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&none);
    let whole = pod.spec_ref().security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let uid = number(own.run_as_user.or(whole.run_as_user))?;
    if own.run_as_non_root.or(whole.run_as_non_root) == Some(true) {
        not_root(pod, container, image, uid)?;
    }
    let mut groups = Vec::new();
    for group in whole.supplemental_groups.iter().flatten().chain(whole.fs_group.iter()) {
        groups.extend(number(Some(*group))?);
    }
    let capabilities = own.capabilities.clone().unwrap_or_default();
    Ok(Security {
        privileged,
        capabilities_add: names(capabilities.add),
        capabilities_drop: names(capabilities.drop),
        read_only_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        seccomp: seccomp(
            own.seccomp_profile.as_ref().or(whole.seccomp_profile.as_ref()),
            privileged,
            profiles,
        )?,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
        user: User {
            uid,
            gid: number(own.run_as_group.or(whole.run_as_group))?,
            supplemental_groups: groups,
        },
    })
}

/// The kubelet's words for a container that may not run as root but would.
fn not_root(pod: &Pod, container: &Container, image: &Image, uid: Option<u32>) -> Result<(), String> {
    let of = format!(
        "(pod: \"{}_{}({})\", container: {})",
        pod.name(),
        pod.namespace(),
        pod.uid(),
        container.name
    );
    match (uid, image.uid, &image.username) {
        (Some(0), ..) => Err(format!("container's runAsUser breaks non-root policy {of}")),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) | (None, None, None) => {
            Err(format!("container has runAsNonRoot and image will run as root {of}"))
        }
        (None, Some(_), _) => Ok(()),
        (None, None, Some(name)) if name.is_empty() => {
            Err(format!("container has runAsNonRoot and image will run as root {of}"))
        }
        (None, None, Some(name)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {of}"
        )),
    }
}

fn number(id: Option<i64>) -> Result<Option<u32>, String> {
    id.map(|id| u32::try_from(id).map_err(|_| format!("{id} is no user or group id"))).transpose()
}

/// Capabilities without their prefix, in capitals.
fn names(list: Option<Vec<String>>) -> Vec<String> {
    let bare = |c: String| c.to_uppercase().trim_start_matches("CAP_").to_string();
    list.into_iter().flatten().map(bare).collect()
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, folder: &Path) -> Result<Seccomp, String> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    match profile.map(|p| p.type_.as_str()) {
        // Kubernetes' own default is no filter at all; ours is the safe one.
        None | Some("RuntimeDefault") => Ok(Seccomp::RuntimeDefault),
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            let inside = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if name.is_empty() || !inside {
                return Err(format!(
                    "seccomp profile {name:?} must be a path below the node's folder of profiles"
                ));
            }
            Ok(Seccomp::Localhost(folder.join(name)))
        }
        Some(other) => Err(format!("unknown seccomp profile type: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn image(uid: Option<u32>, username: Option<&str>) -> Image {
        let username = username.map(String::from);
        Image { id: "sha256:1".into(), tags: vec![], digests: vec![], size: 0, uid, username }
    }

    fn run(pod: Value, container: Value, image: &Image) -> Result<Security, String> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        of_container(&pod, &pod.spec_ref().containers[0], image, Path::new("/profiles"))
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let got = run(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4, 5],
                "seccompProfile": {"type": "Unconfined"}}),
            json!({"runAsUser": 10, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"add": ["NET_ADMIN", "cap_sys_time"], "drop": ["ALL"]},
                "seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}}),
            &image(Some(0), None),
        )
        .expect("a confinement");
        assert_eq!(got.user.uid, Some(10));
        assert_eq!((got.user.gid, got.user.supplemental_groups), (Some(2), vec![4, 5, 3]));
        assert_eq!(got.capabilities_add, ["NET_ADMIN", "SYS_TIME"]);
        assert_eq!(got.capabilities_drop, ["ALL"]);
        assert!(got.no_new_privileges && got.read_only_rootfs);
        assert_eq!(got.seccomp, Seccomp::Localhost("/profiles/a/b.json".into()));
    }

    #[test]
    fn a_container_that_may_not_be_root_is_refused_in_the_kubelets_words() {
        let of = "(pod: \"p_n(u)\", container: c)";
        let non_root = json!({"runAsNonRoot": true});
        for (container, image, expected) in [
            (json!({}), image(None, None), Err("container has runAsNonRoot and image will run as root")),
            (json!({}), image(Some(0), None), Err("container has runAsNonRoot and image will run as root")),
            (json!({}), image(Some(7), None), Ok(())),
            (
                json!({}),
                image(None, Some("web")),
                Err(
                    "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
                ),
            ),
            (
                json!({"runAsUser": 0}),
                image(Some(7), None),
                Err("container's runAsUser breaks non-root policy"),
            ),
            (json!({"runAsUser": 5}), image(Some(0), None), Ok(())),
            (json!({"runAsNonRoot": false}), image(Some(0), None), Ok(())),
        ] {
            let got = run(non_root.clone(), container.clone(), &image).map(drop);
            assert_eq!(got, expected.map_err(|e| format!("{e} {of}")), "{container}");
        }
    }

    #[test]
    fn profiles_stay_in_their_folder() {
        for name in ["", "../x", "/etc/passwd", "a/../../b"] {
            let profile = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
            assert!(run(json!({}), profile, &image(None, None)).is_err(), "{name}");
        }
        let open = run(json!({}), json!({"privileged": true}), &image(None, None)).expect("a confinement");
        assert_eq!(open.seccomp, Seccomp::Unconfined);
    }
}

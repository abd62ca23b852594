//! Sees that a container's image is here, by its pull policy, with the credentials of its pod and back-off after failures. How an
//! image is fetched is the runtime's.

use crate::{back_off::BackOff, env::Objects, events::PodEvents, pod::PodExt};
use base64::Engine;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use orlop_runtime::{Image, Images, RegistryAuth};
use parking_lot::Mutex;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Instant};

/// Why an image is not here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NoImage {
    /// As `state.waiting.reason`.
    pub reason: &'static str,
    pub message: String,
    /// When to try again.
    pub retry_at: Timestamp,
}

/// The last failure to pull an image.
struct PullFailure {
    backoff: BackOff,
    at: Timestamp,
    why: String,
}

/// Back-offs of pulls, by pod and image.
pub(crate) struct Puller {
    images: Arc<dyn Images>,
    clock: orlop_client::Clock,
    failures: Mutex<HashMap<(String, String), PullFailure>>,
}

impl Puller {
    pub fn new(images: Arc<dyn Images>, clock: orlop_client::Clock) -> Self {
        Self { images, clock, failures: Mutex::default() }
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.failures.lock().retain(|(uid, _), _| uid != pod_uid);
    }

    /// The image of a container.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        objects: &Objects,
        events: &PodEvents,
    ) -> Result<Image, NoImage> {
        let reference = container.image.as_deref().unwrap_or_default();
        let now = (self.clock)();
        // What is pulled for a volume is about the whole pod.
        let name = Some(container.name.as_str()).filter(|n| !n.is_empty());
        let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(reference));
        let here = match self.images.resolve(reference).await {
            Ok(here) => here,
            Err(error @ orlop_runtime::Error::InvalidReference { .. }) => {
                let message = format!(
                    "Failed to apply default image tag \"{reference}\": couldn't parse image name \"{reference}\": {error}"
                );
                events.warning(name, "InspectFailed", message.clone());
                return Err(NoImage {
                    reason: "InvalidImageName",
                    message,
                    retry_at: now + crate::back_off::LAST,
                });
            }
            Err(error) => {
                let message = format!("Failed to inspect image \"{reference}\": {error}");
                events.warning(name, "InspectFailed", message.clone());
                return Err(NoImage {
                    reason: "ImageInspectError",
                    message,
                    retry_at: now + crate::back_off::FIRST,
                });
            }
        };
        match (policy, here) {
            ("Always", _) | ("IfNotPresent", None) => {}
            (_, Some(image)) => {
                events.normal(
                    name,
                    "Pulled",
                    format!("Container image \"{reference}\" already present on machine"),
                );
                return Ok(image);
            }
            (_, None) => {
                let message =
                    format!("Container image \"{reference}\" is not present with pull policy of Never");
                events.warning(name, "ErrImageNeverPull", message.clone());
                return Err(NoImage {
                    reason: "ErrImageNeverPull",
                    message,
                    retry_at: now + crate::back_off::FIRST,
                });
            }
        }
        let key = (pod.uid().to_string(), reference.to_string());
        if let Some(waiting) = self.waiting(&key, now) {
            events.normal(name, "BackOff", waiting.message.clone());
            return Err(waiting);
        }
        self.pull(key, pod, container, objects, events).await
    }

    /// A pull that failed lately must wait.
    fn waiting(&self, key: &(String, String), now: Timestamp) -> Option<NoImage> {
        let failures = self.failures.lock();
        let failure = failures.get(key)?;
        let (_, until) = failure.backoff.waiting(failure.at, now)?;
        let message = format!("Back-off pulling image \"{}\": ErrImagePull: {}", key.1, failure.why);
        Some(NoImage { reason: "ImagePullBackOff", message, retry_at: until })
    }

    async fn pull(
        &self,
        key: (String, String),
        pod: &Pod,
        container: &Container,
        objects: &Objects,
        events: &PodEvents,
    ) -> Result<Image, NoImage> {
        let reference = key.1.clone();
        // What is pulled for a volume is about the whole pod.
        let name = Some(container.name.as_str()).filter(|n| !n.is_empty());
        events.normal(name, "Pulling", format!("Pulling image \"{reference}\""));
        let begun = Instant::now();
        match self.try_all(&reference, credentials(pod, objects, &reference)).await {
            Ok(image) => {
                self.failures.lock().remove(&key);
                let took = begun.elapsed();
                events.normal(
                    name,
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{reference}\" in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.",
                        image.size
                    ),
                );
                Ok(image)
            }
            Err(error) => {
                let now = (self.clock)();
                let why = format!("failed to pull and unpack image \"{reference}\": {error}");
                let mut failures = self.failures.lock();
                let mut backoff = failures.get(&key).map(|f| f.backoff).unwrap_or_default();
                backoff.next(now);
                failures.insert(key, PullFailure { backoff, at: now, why: why.clone() });
                drop(failures);
                events.warning(name, "Failed", format!("Failed to pull image \"{reference}\": {why}"));
                events.warning(name, "Failed", "Error: ErrImagePull");
                // The next look finds the back-off and says so; it is close, so that both reasons are seen.
                let retry_at = now + std::time::Duration::from_secs(2);
                Err(NoImage { reason: "ErrImagePull", message: why, retry_at })
            }
        }
    }

    /// Tries all credentials that fit, and then none.
    async fn try_all(
        &self,
        reference: &str,
        credentials: Vec<RegistryAuth>,
    ) -> Result<Image, orlop_runtime::Error> {
        let tries: Vec<Option<RegistryAuth>> =
            if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
        let mut last = None;
        for auth in tries {
            match self.images.pull(reference, auth).await {
                Ok(image) => return Ok(image),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(orlop_runtime::Error::Timeout("pull")))
    }
}

/// `Always` for `:latest` and no tag, else `IfNotPresent` (Kubernetes documentation, "Images").
fn default_policy(reference: &str) -> &'static str {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.rsplit_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// The registry that a reference names.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// The credentials of a pod's `imagePullSecrets` that fit a reference.
fn credentials(pod: &Pod, objects: &Objects, reference: &str) -> Vec<RegistryAuth> {
    let secrets = pod.spec_ref().image_pull_secrets.iter().flatten();
    let mut found = Vec::new();
    for secret in secrets.filter_map(|s| objects.secrets.get(&s.name)) {
        let data = secret.data.clone().unwrap_or_default();
        let new = data.get(".dockerconfigjson").and_then(|b| serde_json::from_slice::<Value>(&b.0).ok());
        let old = data.get(".dockercfg").and_then(|b| serde_json::from_slice::<Value>(&b.0).ok());
        let auths = new.and_then(|v| v.get("auths").cloned()).or(old);
        for (server, entry) in auths.as_ref().and_then(Value::as_object).into_iter().flatten() {
            if fits(server, reference) {
                found.extend(auth(entry));
            }
        }
    }
    found
}

/// Whether an entry of a docker configuration is for a reference: by host, and by the start of its path if it has one.
fn fits(server: &str, reference: &str) -> bool {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let wanted = registry(reference);
    let hub = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let same = host == wanted
        || (hub(host) && hub(wanted))
        || host
            .strip_prefix("*.")
            .is_some_and(|rest| wanted.split_once('.').is_some_and(|(_, domain)| domain == rest));
    let rest = reference.strip_prefix(wanted).map_or(reference, |r| r.trim_start_matches('/'));
    same && (path.is_empty() || matches!(path, "v1" | "v2") || rest.starts_with(path))
}

fn auth(entry: &Value) -> Option<RegistryAuth> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).map(String::from);
    if let (Some(username), Some(password)) = (text("username"), text("password")) {
        return Some(RegistryAuth { username, password });
    }
    let both = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
    let both = String::from_utf8(both).ok()?;
    let (username, password) = both.split_once(':')?;
    Some(RegistryAuth { username: username.into(), password: password.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_a_policy_the_tag_decides() {
        for (reference, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(default_policy(reference), policy, "{reference}");
        }
    }

    #[test]
    fn credentials_go_to_the_registry_that_they_are_for_only() {
        for (server, reference, fit) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "library/nginx:1", true),
            ("registry.example.com", "registry.example.com/a/b:1", true),
            ("registry.example.com/a", "registry.example.com/a/b:1", true),
            ("registry.example.com/x", "registry.example.com/a/b:1", false),
            ("*.example.com", "registry.example.com/a", true),
            ("*.example.com", "a.registry.example.com/a", false),
            ("localhost:5000", "localhost:5000/a", true),
            ("registry.example.com", "nginx", false),
            ("example.com", "registry.example.com/a", false),
        ] {
            assert_eq!(fits(server, reference), fit, "{server} {reference}");
        }
    }

    #[test]
    fn both_forms_of_a_docker_entry_are_read() {
        let expected = Some(RegistryAuth { username: "u".into(), password: "p:w".into() });
        assert_eq!(auth(&json!({"username": "u", "password": "p:w"})), expected);
        assert_eq!(auth(&json!({"auth": "dTpwOnc="})), expected);
        assert_eq!(auth(&json!({"auth": "%%"})), None);
        assert_eq!(auth(&json!({})), None);
    }
}

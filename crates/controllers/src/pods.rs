//! Questions that several controllers ask of a pod, and the pod that a template makes (apps and core v1).

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use std::hash::Hasher;

/// A condition of the pod by type.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// `status.phase`, `Pending` until there is one.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether its containers have ended for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody has deleted it and it is on its way out.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it runs or will: neither finished nor terminating.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// Whether it takes traffic.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// How long until it counts as available (ready for `min_ready` seconds): zero if it does, `None` if it is not ready.
pub(crate) fn until_available(pod: &Pod, min_ready: i32, now: Timestamp) -> Option<SignedDuration> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    if min_ready <= 0 {
        return Some(SignedDuration::ZERO);
    }
    let since = ready.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(min_ready.into()) - now.duration_since(since);
    Some(left.max(SignedDuration::ZERO))
}

/// The pod that a template makes for its owner; the server completes `prefix` to a name.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    prefix: &str,
    namespace: &str,
    owner: OwnerReference,
) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: Some(namespace.into()),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// A short name for a template, safe as part of a name (no vowels, so it spells nothing).
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // FNV-1a, 32 bits: stable over versions of Rust, unlike the standard hasher.
    struct Fnv(u32);
    impl Hasher for Fnv {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(16_777_619);
            }
        }
        fn finish(&self) -> u64 {
            self.0.into()
        }
    }
    let mut hasher = Fnv(2_166_136_261);
    hasher.write(serde_json::to_string(template).unwrap_or_default().as_bytes());
    if collisions > 0 {
        hasher.write(&collisions.to_le_bytes());
    }
    let digits = hasher.finish().to_string();
    digits.bytes().map(|b| ALPHABET[usize::from(b) % ALPHABET.len()] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collision_gives_a_template_another_hash() {
        let template = PodTemplateSpec::default();
        assert_ne!(template_hash(&template, 0), template_hash(&template, 1));
        assert_eq!(template_hash(&template, 1), template_hash(&template, 1));
    }
}

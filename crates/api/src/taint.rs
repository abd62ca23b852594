//! Taints of nodes and the tolerations of pods (core/v1): who may stay where, and for how long.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They are not scheduled there.
    NoSchedule,
    /// They are scheduled there only where nothing else fits.
    PreferNoSchedule,
    /// They are not scheduled there, and leave.
    NoExecute,
}

impl Effect {
    /// As it stands in objects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }

    /// The effect of a taint; `None` for one that is not known.
    pub fn of(taint: &Taint) -> Option<Self> {
        [Self::NoSchedule, Self::PreferNoSchedule, Self::NoExecute]
            .into_iter()
            .find(|e| e.as_str() == taint.effect)
    }
}

/// Whether the toleration tolerates the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => {
            let (ours, theirs) = (toleration.value.as_deref(), taint.value.as_deref());
            !key.is_empty() && ours.unwrap_or_default() == theirs.unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    }
}

/// The first taint with one of these effects that no toleration tolerates.
pub fn find_untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    effects: &[Effect],
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| Effect::of(taint).is_some_and(|effect| effects.contains(&effect)))
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// The first taint that keeps a pod with these tolerations from being scheduled.
pub fn blocks_scheduling<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    find_untolerated(taints, tolerations, &[Effect::NoSchedule, Effect::NoExecute])
}

/// How long a pod may stay on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// For ever.
    Forever,
    /// So many seconds from when the taint came.
    Seconds(i64),
    /// Not at all.
    Leave,
}

/// How long a pod with these tolerations may stay on a node with these taints: the shortest that any toleration
/// it needs allows. Only `NoExecute` taints count.
pub fn stay(taints: &[Taint], tolerations: &[Toleration]) -> Stay {
    if find_untolerated(taints, tolerations, &[Effect::NoExecute]).is_some() {
        return Stay::Leave;
    }
    let shortest = taints
        .iter()
        .filter(|taint| Effect::of(taint) == Some(Effect::NoExecute))
        // Kubernetes uses the first toleration that matches each taint.
        .filter_map(|taint| tolerations.iter().find(|toleration| tolerates(toleration, taint)))
        .filter_map(|toleration| toleration.toleration_seconds)
        .min();
    match shortest {
        None => Stay::Forever,
        Some(..=0) => Stay::Leave,
        Some(seconds) => Stay::Seconds(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn a_toleration_matches_by_key_operator_value_and_effect() {
        let taint = taint("k", "v", "NoSchedule");
        for (toleration, want) in [
            (toleration("k", "Equal", "v", "NoSchedule"), true),
            (toleration("k", "", "v", ""), true),
            (toleration("k", "Exists", "", ""), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("", "Exists", "", "NoSchedule"), true),
            (toleration("", "Exists", "", "NoExecute"), false),
            (toleration("k", "Equal", "w", ""), false),
            (toleration("j", "Exists", "", ""), false),
            (toleration("", "Equal", "v", ""), false),
            (toleration("k", "Gt", "1", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &taint), want, "{toleration:?}");
        }
    }

    #[test]
    fn a_preference_does_not_block_scheduling() {
        assert!(blocks_scheduling(&[taint("k", "", "PreferNoSchedule")], &[]).is_none());
        assert!(blocks_scheduling(&[taint("k", "", "NoExecute")], &[]).is_some());
    }

    #[test]
    fn a_pod_stays_as_long_as_its_shortest_needed_toleration() {
        let taints = [taint("a", "", "NoExecute"), taint("b", "", "NoExecute"), taint("c", "", "NoSchedule")];
        let for_seconds = |key: &str, seconds| Toleration {
            toleration_seconds: seconds,
            ..toleration(key, "Exists", "", "NoExecute")
        };
        let stays = |tolerations: &[Toleration]| stay(&taints, tolerations);
        assert_eq!(stays(&[]), Stay::Leave);
        assert_eq!(stays(&[for_seconds("a", Some(300))]), Stay::Leave);
        assert_eq!(stays(&[for_seconds("a", Some(300)), for_seconds("b", Some(60))]), Stay::Seconds(60));
        assert_eq!(stays(&[for_seconds("a", None), for_seconds("b", None)]), Stay::Forever);
        assert_eq!(stays(&[for_seconds("a", None), for_seconds("b", Some(-1))]), Stay::Leave);
        assert_eq!(stay(&[], &[]), Stay::Forever);
    }
}

//! Which pods a term means: namespaces and labels together, compiled once for all pods of a template. It counts nothing.

use k8s_openapi::{
    api::core::v1::{PodAffinityTerm, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use orlop_api::selector::Selector;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The labels of namespaces by name.
pub type Namespaces = HashMap<String, Labels>;

/// Pods of some namespaces with some labels.
#[derive(Clone, Debug)]
pub struct PodSelector {
    /// Namespaces by name.
    namespaces: BTreeSet<String>,
    /// And by their labels.
    by_labels: Option<Selector>,
    selector: Selector,
    /// Two selectors that select alike have the same text.
    text: Arc<str>,
}

impl PodSelector {
    fn new(namespaces: BTreeSet<String>, by_labels: Option<Selector>, selector: Selector) -> Self {
        let text = format!("{namespaces:?} {by_labels:?} {selector:?}").into();
        Self { namespaces, by_labels, selector, text }
    }

    /// Pods of one namespace.
    pub fn in_namespace(namespace: &str, selector: Selector) -> Self {
        Self::new(BTreeSet::from([namespace.to_string()]), None, selector)
    }

    /// Two that select alike have the same text.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The one namespace whose pods alone can match.
    pub fn only_namespace(&self) -> Option<&str> {
        match (&self.by_labels, self.namespaces.len()) {
            (None, 1) => self.namespaces.first().map(String::as_str),
            _ => None,
        }
    }

    /// Whether it depends on labels of namespaces.
    pub fn looks_at_namespaces(&self) -> bool {
        self.by_labels.as_ref().is_some_and(|s| !s.is_everything())
    }

    /// Whether a pod of a namespace with these labels is meant.
    pub fn matches(&self, namespace: &str, labels: &Labels, namespaces: &Namespaces) -> bool {
        let here = self.namespaces.contains(namespace)
            || self.by_labels.as_ref().is_some_and(|s| s.matches_labels(namespaces.get(namespace)));
        here && self.selector.matches(labels)
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug)]
pub struct Term {
    /// The pods that it means.
    pub pods: Arc<PodSelector>,
    /// What is near.
    pub topology_key: String,
}

impl Term {
    /// Compiles a term of a pod of some namespace with some labels.
    pub fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let keys = term.match_label_keys.as_deref().unwrap_or_default();
        let not = term.mismatch_label_keys.as_deref().unwrap_or_default();
        let selector = with_keys(term.label_selector.as_ref(), labels, keys, not);
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        let by_labels = term.namespace_selector.as_ref().map(|s| compile(Some(s)));
        if namespaces.is_empty() && by_labels.is_none() {
            namespaces.insert(namespace.to_string());
        }
        let pods = Arc::new(PodSelector::new(namespaces, by_labels, selector));
        Self { pods, topology_key: term.topology_key.clone() }
    }
}

/// A selector that cannot be read selects nothing: the API refuses it where it is written.
fn compile(selector: Option<&LabelSelector>) -> Selector {
    Selector::of(selector).unwrap_or_else(|_| Selector::nothing())
}

/// A selector that also wants the pod's own value of some labels (`matchLabelKeys`), and not its own of others.
fn with_keys(selector: Option<&LabelSelector>, labels: &Labels, keys: &[String], not: &[String]) -> Selector {
    if keys.is_empty() && not.is_empty() {
        return compile(selector);
    }
    let Some(mut merged) = selector.cloned() else { return compile(selector) };
    let mut add = |keys: &[String], operator: &str| {
        for (key, value) in keys.iter().filter_map(|k| labels.get_key_value(k)) {
            let requirement = LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.into(),
                values: Some(vec![value.clone()]),
            };
            let all = merged.match_expressions.get_or_insert_default();
            // The API server adds them itself where it knows how: once is enough.
            if !all.contains(&requirement) {
                all.push(requirement);
            }
        }
    };
    add(keys, "In");
    add(not, "NotIn");
    compile(Some(&merged))
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// `DoNotSchedule`, not `ScheduleAnyway`.
    pub hard: bool,
    /// How uneven it may be.
    pub max_skew: i64,
    /// The fewest domains.
    pub min_domains: i64,
    /// What is spread over.
    pub topology_key: String,
    /// The pods that count; `None` for default constraints, where the pod's workload says.
    pub pods: Option<Arc<PodSelector>>,
    /// Whether only nodes that the pod's node affinity allows count.
    pub honor_affinity: bool,
    /// Whether only nodes whose taints the pod tolerates count.
    pub honor_taints: bool,
}

impl Constraint {
    /// Compiles a constraint of a pod of some namespace with some labels.
    pub fn new(constraint: &TopologySpreadConstraint, namespace: &str, labels: &Labels) -> Self {
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        let selector = with_keys(constraint.label_selector.as_ref(), labels, keys, &[]);
        let honor = |policy: &Option<String>, default: bool| match policy.as_deref() {
            Some(policy) => policy == "Honor",
            None => default,
        };
        Self {
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            topology_key: constraint.topology_key.clone(),
            pods: Some(Arc::new(PodSelector::in_namespace(namespace, selector))),
            honor_affinity: honor(&constraint.node_affinity_policy, true),
            honor_taints: honor(&constraint.node_taints_policy, false),
        }
    }

    /// One of kube-scheduler's defaults: even over a key, softly.
    pub fn default_over(topology_key: &str, max_skew: i64) -> Self {
        Self {
            hard: false,
            max_skew,
            min_domains: 1,
            topology_key: topology_key.into(),
            pods: None,
            honor_affinity: true,
            honor_taints: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn a_term_means_pods_of_its_own_namespace_unless_it_says_otherwise() {
        let spaces = Namespaces::from([
            ("a".to_string(), labels(&[("team", "x")])),
            ("b".to_string(), labels(&[("team", "y")])),
        ]);
        let web = labels(&[("app", "web")]);
        for (term, want) in [
            (json!({}), [true, false]),
            (json!({"namespaces": ["b"]}), [false, true]),
            (json!({"namespaceSelector": {}}), [true, true]),
            (json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}), [false, true]),
            (json!({"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"team": "y"}}}), [true, true]),
        ] {
            let mut whole = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}});
            whole.as_object_mut().unwrap().extend(term.as_object().unwrap().clone());
            let term = Term::new(&serde_json::from_value(whole.clone()).unwrap(), "a", &web);
            assert_eq!(["a", "b"].map(|n| term.pods.matches(n, &web, &spaces)), want, "{whole}");
        }
    }

    #[test]
    fn label_keys_add_the_pods_own_values() {
        let mine = labels(&[("app", "web"), ("hash", "1"), ("tenant", "t")]);
        let term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}},
            "matchLabelKeys": ["hash", "none"], "mismatchLabelKeys": ["tenant"]});
        let term = Term::new(&serde_json::from_value(term).unwrap(), "a", &mine);
        let matches = |l: &Labels| term.pods.matches("a", l, &Namespaces::new());
        assert!(!matches(&mine), "its own tenant is the one it avoids");
        assert!(matches(&labels(&[("app", "web"), ("hash", "1"), ("tenant", "u")])));
        assert!(!matches(&labels(&[("app", "web"), ("hash", "2"), ("tenant", "u")])));
        let none = json!({"topologyKey": "zone"});
        let none = Term::new(&serde_json::from_value(none).unwrap(), "a", &mine);
        assert!(!none.pods.matches("a", &mine, &Namespaces::new()), "no selector selects nothing");
    }
}

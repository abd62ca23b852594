//! A profile: which plugins run for pods of a `schedulerName`, with which weights and arguments. It is data; `config` reads it.

use crate::{
    matcher::Constraint,
    plugin::{Plugin, Plugins},
    strategy::{LeastAllocated, Strategy},
};
use k8s_openapi::api::core::v1::NodeAffinity;
use std::{sync::Arc, time::Duration};

/// The scheduler that pods name by default.
pub const DEFAULT_NAME: &str = "default-scheduler";

/// The weights of kube-scheduler's default profile.
const WEIGHTS: [(Plugin, i64); 7] = [
    (Plugin::TaintToleration, 3),
    (Plugin::NodeAffinity, 2),
    (Plugin::NodeResourcesFit, 1),
    (Plugin::PodTopologySpread, 2),
    (Plugin::InterPodAffinity, 2),
    (Plugin::NodeResourcesBalancedAllocation, 1),
    (Plugin::ImageLocality, 1),
];

/// See the module.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The `schedulerName` of its pods.
    pub name: String,
    /// Plugins asked before a pod is put in line.
    pub pre_enqueue: Plugins,
    /// Plugins that may refuse nodes.
    pub filters: Plugins,
    /// Plugins that may help a pod that fits nowhere.
    pub post_filters: Plugins,
    /// Plugins that compare nodes, with their weights.
    pub scores: Vec<(Plugin, i64)>,
    /// How nodes are compared by their resources.
    pub strategy: Arc<dyn Strategy>,
    /// The resources that the strategy looks at, by weight.
    pub strategy_resources: Vec<(String, i64)>,
    /// The resources that should be used evenly, by weight.
    pub balanced_resources: Vec<(String, i64)>,
    /// Extended resources that are not checked.
    pub ignored_resources: Vec<String>,
    /// Groups of extended resources that are not checked.
    pub ignored_groups: Vec<String>,
    /// Topology spread of pods that say nothing of it.
    pub default_constraints: Vec<Constraint>,
    /// Whether those are kube-scheduler's own, which do not mind nodes without a zone.
    pub system_defaulted: bool,
    /// Node affinity that every pod has besides its own.
    pub added_affinity: Option<NodeAffinity>,
    /// How much a pod is drawn to those that required it near.
    pub hard_pod_affinity_weight: i64,
    /// Whether preferences of pods that are there do not count.
    pub ignore_preferred_terms_of_existing_pods: bool,
    /// Per cent of the nodes to look for victims on.
    pub min_candidate_nodes_percentage: i64,
    /// At least so many nodes to look for victims on.
    pub min_candidate_nodes_absolute: i64,
    /// How long volumes may take to be bound.
    pub bind_timeout: Duration,
}

impl Default for Profile {
    fn default() -> Self {
        let both = || vec![("cpu".to_string(), 1), ("memory".to_string(), 1)];
        Self {
            name: DEFAULT_NAME.into(),
            pre_enqueue: Plugins::all(),
            filters: Plugins::all(),
            post_filters: Plugins::all(),
            scores: WEIGHTS.into(),
            strategy: Arc::new(LeastAllocated),
            strategy_resources: both(),
            balanced_resources: both(),
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            default_constraints: system_default_constraints(),
            system_defaulted: true,
            added_affinity: None,
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            min_candidate_nodes_percentage: 10,
            min_candidate_nodes_absolute: 100,
            bind_timeout: Duration::from_secs(600),
        }
    }
}

/// The weight of a plugin where nothing else is said.
pub fn default_weight(plugin: Plugin) -> Option<i64> {
    WEIGHTS.iter().find(|(p, _)| *p == plugin).map(|(_, weight)| *weight)
}

/// Evenly over nodes and zones, softly.
pub fn system_default_constraints() -> Vec<Constraint> {
    vec![
        Constraint::default_over("kubernetes.io/hostname", 3),
        Constraint::default_over("topology.kubernetes.io/zone", 5),
    ]
}

impl Profile {
    /// The weight of a plugin that compares nodes; zero if it does not.
    pub fn weight(&self, plugin: Plugin) -> i64 {
        if self.strategy.in_turn() {
            return 0;
        }
        self.scores.iter().find(|(p, _)| *p == plugin).map_or(0, |(_, weight)| *weight)
    }

    /// Whether a resource is not to be checked.
    pub fn ignores(&self, resource: &str) -> bool {
        self.ignored_resources.iter().any(|r| r == resource)
            || resource
                .split_once('/')
                .is_some_and(|(group, _)| self.ignored_groups.iter().any(|g| g == group))
    }
}

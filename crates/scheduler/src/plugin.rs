//! The plugins by name, as in the Kubernetes scheduling framework, and the words each refuses a node with. It decides nothing.

use std::fmt;

macro_rules! plugins {
    ($($name:ident),* $(,)?) => {
        /// A plugin of the scheduling framework.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)]
        pub enum Plugin { $($name),* }

        impl Plugin {
            /// All of them, in the order in which they are asked.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in configurations.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

plugins!(
    SchedulingGates,
    PrioritySort,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DefaultBinder,
);

impl Plugin {
    /// The plugin of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|p| p.name() == name)
    }

    /// Its bit in a [`Plugins`].
    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Some of the plugins.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Plugins(u32);

impl Plugins {
    /// Every plugin there is.
    pub fn all() -> Self {
        Plugin::ALL.iter().fold(Self::default(), |all, p| all.with(*p))
    }

    /// These and one more.
    #[must_use]
    pub fn with(self, plugin: Plugin) -> Self {
        Self(self.0 | plugin.bit())
    }

    /// These without one.
    #[must_use]
    pub fn without(self, plugin: Plugin) -> Self {
        Self(self.0 & !plugin.bit())
    }

    /// Whether a plugin is among them.
    pub fn has(self, plugin: Plugin) -> bool {
        self.0 & plugin.bit() != 0
    }

    /// Those that are here or there.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        Plugin::ALL.iter().copied().filter(move |p| self.has(*p))
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Why a filter refuses a node, in the words of kube-scheduler, which people know how to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A sentence that is always the same.
    Words(&'static str),
    /// A resource that does not suffice.
    Insufficient(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// What the first filter that refuses a node says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refusal {
    /// The filter.
    pub plugin: Plugin,
    /// All that it has against the node.
    pub reasons: Vec<Reason>,
    /// Whether it would still refuse if every pod left the node, so that preemption is of no help.
    pub unresolvable: bool,
}

impl Refusal {
    /// One that preemption may resolve.
    pub fn now(plugin: Plugin, words: &'static str) -> Self {
        Self { plugin, reasons: vec![Reason::Words(words)], unresolvable: false }
    }

    /// One that preemption does not resolve.
    pub fn always(plugin: Plugin, words: &'static str) -> Self {
        Self { unresolvable: true, ..Self::now(plugin, words) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_plugins_holds_what_was_put_in() {
        let some = Plugins::default().with(Plugin::NodeName).with(Plugin::ImageLocality);
        assert!(some.has(Plugin::NodeName) && !some.has(Plugin::NodePorts));
        assert_eq!(some.without(Plugin::NodeName).iter().collect::<Vec<_>>(), [Plugin::ImageLocality]);
        assert!(Plugin::ALL.iter().all(|p| Plugins::all().has(*p) && Plugin::of(p.name()) == Some(*p)));
    }
}

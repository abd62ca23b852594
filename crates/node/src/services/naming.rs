//! What annotations say about names: ranks in SRV records, the way to a Service, and whether strangers may know it. What
//! cannot be read counts as not said. Pure.

use orlop_api::endpoint_notes::{self, EndpointNote};
use std::collections::{BTreeMap, HashMap};

/// The annotations of an object.
type Annotations = BTreeMap<String, String>;

/// Of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Naming {
    pub rank: Rank,
    /// Its name leads to nodes and their ports, not to its own address or to pods.
    pub through_nodes: bool,
    /// Whether it is to be in zones for strangers.
    pub export: Option<bool>,
}

/// Parts of an SRV record that are said here, if they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rank {
    pub priority: Option<u16>,
    pub weight: Option<u16>,
}

/// Of a slice.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub rank: Rank,
    /// By address.
    pub endpoints: HashMap<String, EndpointNotes>,
}

/// Of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointNotes {
    pub rank: Rank,
    /// Ports of its node that lead to it, by the name of the Service's port.
    pub ports: BTreeMap<String, u16>,
}

impl Rank {
    fn of(annotations: &Annotations) -> Self {
        let number = |key: &str| annotations.get(key).and_then(|text| text.parse().ok());
        Self { priority: number(endpoint_notes::PRIORITY), weight: number(endpoint_notes::WEIGHT) }
    }

    /// What is not said here is as it is there.
    pub fn or(self, other: Self) -> Self {
        Self { priority: self.priority.or(other.priority), weight: self.weight.or(other.weight) }
    }

    /// What nobody says is as usual.
    pub fn known(self) -> orlop_dns::Rank {
        let usual = orlop_dns::Rank::default();
        orlop_dns::Rank {
            priority: self.priority.unwrap_or(usual.priority),
            weight: self.weight.unwrap_or(usual.weight),
        }
    }
}

impl Naming {
    pub fn of(annotations: Option<&Annotations>) -> Self {
        let Some(annotations) = annotations else { return Self::default() };
        Self {
            rank: Rank::of(annotations),
            through_nodes: annotations.get(endpoint_notes::ACCESS).is_some_and(|access| access == "node"),
            export: annotations.get(endpoint_notes::EXPORT).and_then(|text| text.parse().ok()),
        }
    }
}

impl Notes {
    pub fn of(annotations: Option<&Annotations>) -> Self {
        let Some(annotations) = annotations else { return Self::default() };
        let endpoints = annotations.get(endpoint_notes::OF_SLICE).map(|text| endpoint_notes::read(text));
        let read = |(address, note): (String, EndpointNote)| {
            let rank = Rank { priority: note.priority, weight: note.weight };
            (address, EndpointNotes { rank, ports: note.ports })
        };
        Self {
            rank: Rank::of(annotations),
            endpoints: endpoints.unwrap_or_default().into_iter().map(read).collect(),
        }
    }
}

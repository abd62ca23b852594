//! Annotations about how Services and their endpoints are named, and the note by which the endpoint controller passes on what
//! nodes cannot see in a slice: the ranks of pods, and the ports of their nodes that lead to them. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// SRV priority of a Service, of a pod, or of all endpoints of a slice: lower ones are tried first.
pub const PRIORITY: &str = "orlop.dev/srv-priority";
/// SRV weight, likewise: the share among those of the same priority.
pub const WEIGHT: &str = "orlop.dev/srv-weight";
/// `node`: the Service's name leads to nodes and their ports.
pub const ACCESS: &str = "orlop.dev/dns-access";
/// `true` or `false`: whether a Service is in the zones for strangers.
pub const EXPORT: &str = "orlop.dev/dns-export";
/// On a slice: notes of its endpoints, by address.
pub const OF_SLICE: &str = "orlop.dev/endpoints";

/// What is noted of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointNote {
    /// See [`PRIORITY`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// See [`WEIGHT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Ports of the node that lead to the endpoint, by the name of the Service's port.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
}

impl EndpointNote {
    /// With what a pod's annotations say.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let number = |key: &str| annotations.get(key).and_then(|text| text.parse().ok());
        Self { priority: number(PRIORITY), weight: number(WEIGHT), ports: BTreeMap::new() }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Writes the notes of a slice; `None` if there are none.
#[must_use]
pub fn write(notes: &BTreeMap<String, EndpointNote>) -> Option<String> {
    // Strings and numbers can always be written.
    (!notes.is_empty()).then(|| serde_json::to_string(notes).unwrap_or_default())
}

/// Reads them. What cannot be read says nothing.
#[must_use]
pub fn read(text: &str) -> BTreeMap<String, EndpointNote> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nonsense_says_nothing() {
        let ports = BTreeMap::from([("http".to_owned(), 8080)]);
        let note = EndpointNote { priority: Some(10), ports, ..EndpointNote::default() };
        let notes = BTreeMap::from([("10.42.0.5".to_owned(), note)]);
        let text = write(&notes).unwrap();
        assert_eq!(text, r#"{"10.42.0.5":{"priority":10,"ports":{"http":8080}}}"#);
        assert_eq!(read(&text), notes);
        assert_eq!(write(&BTreeMap::new()), None);
        for nonsense in ["", "[]", "{\"a\": 1}", r#"{"a": {"priority": 70000}}"#] {
            assert!(read(nonsense).is_empty(), "{nonsense}");
        }
        let said =
            BTreeMap::from([(PRIORITY.to_owned(), "7".to_owned()), (WEIGHT.to_owned(), "-1".to_owned())]);
        assert_eq!(EndpointNote::of(&said), EndpointNote { priority: Some(7), ..EndpointNote::default() });
        assert!(EndpointNote::of(&BTreeMap::new()).is_empty());
    }
}

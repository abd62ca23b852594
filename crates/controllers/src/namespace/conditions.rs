//! What the conditions of a namespace say while it is being deleted, in the words of Kubernetes.

use super::Content;
use crate::Error;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, ResourceExt, api::PostParams};
use orlop_client::found;
use std::collections::BTreeMap;

/// A condition's type, and what it says when it holds and when not: reason and message.
struct Text {
    type_: &'static str,
    holds: (&'static str, Option<String>),
    not: (&'static str, &'static str),
}

fn texts(content: &Content) -> [Text; 5] {
    let some = |lines: Vec<String>, before: &str| {
        (!lines.is_empty()).then(|| format!("{before}{}", lines.join(", ")))
    };
    let remains =
        content.remains.iter().map(|r| format!("{} has {} resource instances", r.resource, r.count));
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in content.remains.iter().flat_map(|r| &r.finalizers) {
        *finalizers.entry(finalizer).or_default() += count;
    }
    let finalizers = finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances"));
    let failures = content.failures.iter().map(Error::message);
    let failed = format!("Failed to delete all resource types, {} remaining: ", content.failures.len());
    let undiscovered = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: ",
        content.undiscovered.len()
    );
    [
        Text {
            type_: "NamespaceDeletionDiscoveryFailure",
            holds: ("DiscoveryFailed", some(content.undiscovered.clone(), &undiscovered)),
            not: ("ResourcesDiscovered", "All resources successfully discovered"),
        },
        Text {
            type_: "NamespaceDeletionGroupVersionParsingFailure",
            holds: ("GroupVersionParsingFailed", None),
            not: ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        },
        Text {
            type_: "NamespaceDeletionContentFailure",
            holds: ("ContentDeletionFailed", some(failures.collect(), &failed)),
            not: ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        },
        Text {
            type_: "NamespaceContentRemaining",
            holds: ("SomeResourcesRemain", some(remains.collect(), "Some resources are remaining: ")),
            not: ("ContentRemoved", "All content successfully removed"),
        },
        Text {
            type_: "NamespaceFinalizersRemaining",
            holds: (
                "SomeFinalizersRemain",
                some(finalizers.collect(), "Some content in the namespace has finalizers remaining: "),
            ),
            not: ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        },
    ]
}

fn conditions(old: &[NamespaceCondition], content: &Content, now: Timestamp) -> Vec<NamespaceCondition> {
    let condition = |text: Text| {
        let (status, reason, message) = match text.holds.1 {
            Some(message) => ("True", text.holds.0, message),
            None => ("False", text.not.0, text.not.1.to_string()),
        };
        let same = old.iter().find(|o| o.type_ == text.type_ && o.status == status);
        let since = same.and_then(|o| o.last_transition_time.clone()).unwrap_or(Time(now));
        NamespaceCondition {
            type_: text.type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(since),
        }
    };
    texts(content).into_iter().map(condition).collect()
}

/// Writes what is left, and why, into the namespace's conditions.
pub(super) async fn write(
    api: &Api<Namespace>,
    namespace: &Namespace,
    content: &Content,
    now: Timestamp,
) -> Result<(), Error> {
    let old = namespace.status.clone().unwrap_or_default().conditions.unwrap_or_default();
    let wanted = conditions(&old, content, now);
    if old == wanted {
        return Ok(());
    }
    let mut changed = namespace.clone();
    changed.status.get_or_insert_default().conditions = Some(wanted);
    found(api.replace_status(&namespace.name_any(), &PostParams::default(), &changed).await)
        .map_err(Error::at("writing a namespace's conditions"))?;
    Ok(())
}

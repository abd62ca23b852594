//! DefaultStorageClass and DefaultIngressClass: claims and ingresses that name no class get the one that is marked as default.

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    Status,
    object::{has, text},
};
use serde_json::{Value, json};

/// Where the class of a kind is named, and where classes are marked.
struct Rule {
    group: &'static str,
    plural: &'static str,
    field: &'static str,
    /// An older way to name a class, as a JSON pointer.
    annotation: &'static str,
    classes: (&'static str, &'static str, &'static str),
    /// Annotations that mark the default class.
    marks: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        group: "",
        plural: "persistentvolumeclaims",
        field: "storageClassName",
        annotation: "/metadata/annotations/volume.beta.kubernetes.io~1storage-class",
        classes: ("storage.k8s.io", "v1", "storageclasses"),
        marks: &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
    },
    Rule {
        group: "networking.k8s.io",
        plural: "ingresses",
        field: "ingressClassName",
        annotation: "/metadata/annotations/kubernetes.io~1ingress.class",
        classes: ("networking.k8s.io", "v1", "ingressclasses"),
        marks: &["ingressclass.kubernetes.io/is-default-class"],
    },
];

pub(super) struct DefaultClass;

fn rule(request: &Request<'_>) -> Option<&'static Rule> {
    RULES.iter().find(|r| request.is(r.group, r.plural))
}

/// The default class: of several the newest, then the first by name.
fn default<'a>(classes: &'a [Value], marks: &[&str]) -> Option<&'a str> {
    let marked = |c: &&Value| {
        let annotations = c.pointer("/metadata/annotations");
        marks.iter().any(|m| annotations.and_then(|a| a.get(*m)).is_some_and(|v| v == "true"))
    };
    let key = |c: &&Value| {
        let reversed = std::cmp::Reverse(text(c, "/metadata/name").to_string());
        (text(c, "/metadata/creationTimestamp").to_string(), reversed)
    };
    classes.iter().filter(marked).max_by_key(key).map(|c| text(c, "/metadata/name"))
}

impl Plugin for DefaultClass {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.operation == Operation::Create && rule(request).is_some()
    }

    fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(rule) = rule(request) else { return Ok(()) };
        if has(object, &format!("/spec/{}", rule.field)) || has(object, rule.annotation) {
            return Ok(());
        }
        let classes = request.look_up_all(rule.classes, "");
        if let Some(name) = default(&classes, rule.marks)
            && object.get("spec").is_some_and(Value::is_object)
        {
            object["spec"][rule.field] = json!(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_marked_class_is_the_default() {
        let class = |name: &str, at: &str, mark: &str| json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": {"storageclass.kubernetes.io/is-default-class": mark}}});
        let classes = [
            class("old", "2024-01-01T00:00:00Z", "true"),
            class("new-b", "2025-01-01T00:00:00Z", "true"),
            class("new-a", "2025-01-01T00:00:00Z", "true"),
            class("unmarked", "2026-01-01T00:00:00Z", "false"),
        ];
        assert_eq!(default(&classes, RULES[0].marks), Some("new-a"));
        assert_eq!(default(&classes[3..], RULES[0].marks), None);
    }
}

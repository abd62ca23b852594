//! ResourceClaimTemplate (resource.k8s.io/v1): what the claims are like that each pod gets for itself.

use super::{base, devices::claim};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    metadata::{validate_annotations, validate_labels},
    object::map,
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of ResourceClaimTemplate.
pub(super) fn kind() -> Kind {
    Kind {
        columns: vec![print::name_column(), print::age_column()],
        ..base(
            "resource.k8s.io",
            "v1",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            ResourceClaimTemplate,
        )
    }
}

struct ResourceClaimTemplate;

impl Rules for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/spec/spec") {
            claim::set_defaults(spec);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let meta = path.child("metadata");
        validate_annotations(
            map(object, "/spec/metadata/annotations"),
            &meta.child("annotations"),
            &mut errors,
        );
        validate_labels(map(object, "/spec/metadata/labels"), &meta.child("labels"), &mut errors);
        let spec = object.pointer("/spec/spec").unwrap_or(&Value::Null);
        claim::validate_spec(spec, &path.child("spec"), &mut errors);
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("spec"), new.get("spec"), old.get("spec"));
        errors.into_vec()
    }

    /// What cannot change needs no second look.
    fn validate_change(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.validate_update(new, old)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_is_filled_in_and_checked_as_claims_are_and_stays() {
        let template = |class: &str| {
            let request = json!({"name": "r", "exactly": {"deviceClassName": class}});
            let mut template = json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [request]}}}});
            ResourceClaimTemplate.default(&mut template);
            template
        };
        let good = template("gpu");
        assert_eq!(good["spec"]["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
        assert!(ResourceClaimTemplate.validate(&good).is_empty());
        let errors = ResourceClaimTemplate.validate(&template(""));
        assert_eq!(
            errors[0].to_string(),
            "spec.spec.devices.requests[0].exactly.deviceClassName: Required value"
        );
        let mut labelled = good.clone();
        labelled["spec"]["metadata"]["labels"]["a"] = json!("-");
        assert_eq!(ResourceClaimTemplate.validate(&labelled)[0].path, "spec.metadata.labels");
        assert_eq!(ResourceClaimTemplate.validate_change(&labelled, &good)[0].path, "spec");
    }
}

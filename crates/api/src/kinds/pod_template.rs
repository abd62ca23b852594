//! PodTemplate (core/v1): a template on its own, for others to make pods of.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules,
    object::{list, text},
    pod_spec::{defaults, template},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of PodTemplate.
pub(super) fn kind() -> Kind {
    Kind {
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::text_column("Containers", "Names of the containers in the template."),
            print::text_column("Images", "Images of the containers in the template."),
            print::text_column("Pod Labels", "Labels of pods made of the template."),
        ],
        ..base("", "v1", "PodTemplate", "podtemplates", PodTemplate)
    }
}

struct PodTemplate;

impl Rules for PodTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.pointer_mut("/template/spec") {
            defaults::set_template_defaults(spec);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let template = object.get("template").unwrap_or(&Value::Null);
        let policies = ["Always", "Never", "OnFailure"];
        template::validate(template, &policies, &Path::new("template"), &mut errors);
        errors.into_vec()
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let containers = list(object, "/template/spec/containers");
        let join = |pointer| containers.iter().map(|c| text(c, pointer)).collect::<Vec<_>>().join(",").into();
        vec![
            print::name(object),
            join("/name"),
            join("/image"),
            print::labels(object, "/template/metadata/labels"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_is_filled_in_and_checked_as_those_of_workloads_are() {
        let mut object = json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}}});
        PodTemplate.default(&mut object);
        assert_eq!(object["template"]["spec"]["restartPolicy"], "Always");
        assert!(PodTemplate.validate(&object).is_empty());
        assert_eq!(
            PodTemplate.cells(&object, Timestamp::UNIX_EPOCH),
            [json!("t"), json!("c"), json!("x"), json!("a=b")]
        );
        object["template"]["spec"]["containers"][0]["name"] = json!("");
        assert_eq!(
            PodTemplate.validate(&object)[0].to_string(),
            "template.spec.containers[0].name: Required value"
        );
    }
}

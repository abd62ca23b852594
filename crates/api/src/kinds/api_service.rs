//! APIService (apiregistration.k8s.io/v1): who serves a version of an API group, this server or one behind a Service.

use super::base;
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, Scope, name,
    object::{flag, int, list, set_default_nonzero, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of APIService.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        name_rule: NameRule::PathSegment,
        categories: super::texts(&["api-extensions"]),
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Service", "The reference to the service that hosts this API endpoint."),
            print::text_column("Available", "Whether this service is available."),
            print::age_column(),
        ],
        ..base("apiregistration.k8s.io", "v1", "APIService", "apiservices", ApiService)
    }
}

struct ApiService;

fn in_range(object: &Value, field: &str, most: i64, errors: &mut FieldErrors) {
    let value = int(object, &format!("/spec/{field}")).unwrap_or(0);
    if value <= 0 || value > most {
        let why = format!("must be positive and less than {most}");
        errors.invalid(format!("spec.{field}"), value, &why);
    }
}

impl Rules for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object.pointer_mut("/spec/service").filter(|s| s.is_object()) {
            set_default_nonzero(service, "port", 443);
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let (group, version) = (text(object, "/spec/group"), text(object, "/spec/version"));
        let (own, required) = (text(object, "/metadata/name"), format!("{version}.{group}"));
        if own != required {
            let why = format!("must be `spec.version+\".\"+spec.group`: {required:?}");
            errors.invalid("metadata.name", own, &why);
        }
        if group.is_empty() && version != "v1" {
            errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
        }
        if !group.is_empty() {
            errors.messages(&Path::new("spec.group"), group, name::dns_subdomain(group));
        }
        errors.messages(&Path::new("spec.version"), version, name::dns_1035_label(version));
        in_range(object, "groupPriorityMinimum", 20_000, &mut errors);
        in_range(object, "versionPriority", 1_000, &mut errors);
        let bundle = text(object, "/spec/caBundle");
        let insecure = flag(object, "/spec/insecureSkipTLSVerify");
        if object.pointer("/spec/service").is_none_or(Value::is_null) {
            if !bundle.is_empty() {
                let size = format!("{} bytes", bundle.trim_end_matches('=').len() * 3 / 4);
                errors.invalid("spec.caBundle", size, "local APIServices may not have a caBundle");
            }
            if insecure {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.invalid("spec.insecureSkipTLSVerify", true, why);
            }
            return errors.into_vec();
        }
        for field in ["namespace", "name"] {
            if text(object, &format!("/spec/service/{field}")).is_empty() {
                errors.required(format!("spec.service.{field}"), "");
            }
        }
        if insecure && !bundle.is_empty() {
            errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        for (index, condition) in list(new, "/status/conditions").iter().enumerate() {
            let status = text(condition, "/status");
            if !matches!(status, "True" | "False" | "Unknown") {
                let path = format!("status.conditions[{index}].status");
                errors.push(FieldError::not_supported(path, status, &["True", "False", "Unknown"]));
            }
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let of = |field: &str| text(object, &format!("/spec/service/{field}"));
        let service = match of("name") {
            "" => "Local".to_string(),
            name => format!("{}/{name}", of("namespace")),
        };
        let available = list(object, "/status/conditions").iter().find(|c| text(c, "/type") == "Available");
        let available = match available.map(|c| (text(c, "/status"), text(c, "/reason"))) {
            None => "Unknown".to_string(),
            Some(("True", _)) => "True".to_string(),
            Some((status, reason)) => format!("{status} ({reason})"),
        };
        vec![print::name(object), service.into(), available.into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({
            "metadata": {"name": "v1.example.com"},
            "spec": {
                "group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                "service": {"namespace": "n", "name": "s"}, "caBundle": "QUJD",
            },
        });
        change(&mut object);
        object
    }

    fn wrong(change: impl FnOnce(&mut Value)) -> Vec<String> {
        ApiService.validate(&service(change)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_said_as_kubernetes_says_it() {
        assert!(wrong(|_| {}).is_empty());
        assert_eq!(
            wrong(|o| o["metadata"]["name"] = json!("x")),
            [r#"metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "v1.example.com""#]
        );
        assert_eq!(
            wrong(|o| o["spec"]["groupPriorityMinimum"] = json!(0)),
            ["spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"]
        );
        assert_eq!(
            wrong(|o| o["spec"]["insecureSkipTLSVerify"] = json!(true)),
            ["spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present"]
        );
        assert_eq!(
            wrong(|o| o["spec"]["service"] = Value::Null),
            [r#"spec.caBundle: Invalid value: "3 bytes": local APIServices may not have a caBundle"#]
        );
        assert_eq!(
            wrong(|o| o["spec"]["service"] = json!({})),
            ["spec.service.namespace: Required value", "spec.service.name: Required value"]
        );
    }

    #[test]
    fn the_port_is_that_of_https_where_none_is_given() {
        let mut object = service(|_| {});
        ApiService.default(&mut object);
        assert_eq!(object["spec"]["service"]["port"], 443);
    }

    #[test]
    fn a_row_tells_where_it_is_served_and_why_not() {
        let cells = |change: fn(&mut Value)| ApiService.cells(&service(change), Timestamp::UNIX_EPOCH);
        assert_eq!(cells(|_| {})[1..3], [json!("n/s"), json!("Unknown")]);
        let failing = |o: &mut Value| {
            o["status"] = json!({"conditions": [{"type": "Available", "status": "False", "reason": "ServiceNotFound"}]});
        };
        assert_eq!(cells(failing)[2], "False (ServiceNotFound)");
        assert_eq!(cells(|o| o["spec"]["service"] = Value::Null)[1], "Local");
    }
}

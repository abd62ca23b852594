//! IPAddress (networking.k8s.io/v1): an address that somebody has.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, Scope, name,
    object::{has, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of IPAddress.
pub(super) fn kind() -> Kind {
    Kind {
        singular: "ipaddress".into(),
        short_names: texts(&["ip"]),
        scope: Scope::Cluster,
        name_rule: NameRule::IpAddress,
        columns: vec![print::name_column(), print::text_column("ParentRef", "Who has it.")],
        ..base("networking.k8s.io", "v1", "IPAddress", "ipaddresses", IpAddress)
    }
}

struct IpAddress;

impl Rules for IpAddress {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec.parentRef");
        if !has(object, "/spec/parentRef") {
            errors.required(&path, "");
            return errors.into_vec();
        }
        let field = |name: &str| text(object, &format!("/spec/parentRef/{name}"));
        if !field("group").is_empty() {
            errors.messages(&path.child("group"), field("group"), name::dns_subdomain(field("group")));
        }
        for required in ["resource", "name"] {
            errors.required_and(&path.child(required), field(required), name::path_segment);
        }
        if !field("namespace").is_empty() {
            let wrong = name::path_segment(field("namespace"));
            errors.messages(&path.child("namespace"), field("namespace"), wrong);
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let of = |object: &Value| object.pointer("/spec/parentRef").cloned();
        errors.immutable(&Path::new("spec.parentRef"), of(new).as_ref(), of(old).as_ref());
        errors.into_vec()
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let field = |name: &str| text(object, &format!("/spec/parentRef/{name}"));
        let mut parent = field("resource").to_lowercase();
        if !field("group").is_empty() {
            parent = format!("{parent}.{}", field("group").to_lowercase());
        }
        for part in [field("namespace"), field("name")].into_iter().filter(|part| !part.is_empty()) {
            parent = format!("{parent}/{part}");
        }
        vec![print::name(object), print::or_none(&parent)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_belongs_to_one_for_ever() {
        let address = |name: &str| json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": name}}});
        assert!(IpAddress.validate(&address("a")).is_empty());
        assert_eq!(IpAddress.validate(&json!({}))[0].to_string(), "spec.parentRef: Required value");
        assert_eq!(IpAddress.validate_update(&address("b"), &address("a"))[0].path, "spec.parentRef");
        assert_eq!(IpAddress.cells(&address("a"), Timestamp::UNIX_EPOCH)[1], "services/d/a");
    }

    #[test]
    fn its_name_is_the_address_in_its_one_form() {
        let wrong = |name: &str| name::object_name(NameRule::IpAddress, name);
        assert!(wrong("10.0.0.1").is_empty() && wrong("fd00::1").is_empty());
        assert_eq!(wrong("FD00::1"), ["must be in canonical form (\"fd00::1\")"]);
        assert_eq!(wrong("a"), ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]);
    }
}

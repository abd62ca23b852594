//! NetworkAttachment (orlop.dev/v1): a pod that is connected to a network. Which addresses are free is not known here.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, Path, Rules, name,
    object::{carry_over, condition, list, text},
    orlop_v1::{GROUP, attachment_name},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// The description of NetworkAttachment.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["netattach"]),
        has_status: true,
        columns: vec![
            print::name_column(),
            print::text_column("Pod", "The pod that is connected."),
            print::text_column("Network", "The network that it is connected to."),
            print::text_column("Addresses", "The pod's addresses there."),
            print::text_column("Ready", "Whether the interface is there."),
            print::wide_column("Node", "The pod's node."),
            print::wide_column("Interface", "The interface in the pod."),
            print::age_column(),
        ],
        selectable_fields: texts(&["spec.podName", "spec.networkName"]),
        ..base(GROUP, "v1", "NetworkAttachment", "networkattachments", NetworkAttachment)
    }
}

struct NetworkAttachment;

impl Rules for NetworkAttachment {
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        if list(new, "/spec/addresses").is_empty()
            && let (Some(spec), Some(old)) = (new.get_mut("spec"), old.get("spec"))
        {
            carry_over(spec, old, "addresses");
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        let (pod, network) = (text(object, "/spec/podName"), text(object, "/spec/networkName"));
        errors.required_and(&path.child("podName"), pod, name::dns_subdomain);
        errors.required_and(&path.child("networkName"), network, name::dns_label);
        let addresses = list(object, "/spec/addresses");
        for (at, address) in addresses.iter().map(|a| a.as_str().unwrap_or_default()).enumerate() {
            errors.messages(&path.child("addresses").index(at), address, name::canonical_ip_address(address));
        }
        let (given, wanted) = (text(object, "/metadata/name"), attachment_name(pod, network));
        if given != wanted && errors.is_empty() {
            errors.invalid(
                "metadata.name",
                given,
                format!("must be {wanted:?}: the pod's and the network's"),
            );
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        errors.immutable(&Path::new("spec"), new.get("spec"), old.get("spec"));
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let addresses: Vec<&str> = list(object, "/spec/addresses").iter().filter_map(Value::as_str).collect();
        let ready = match condition(object, "Ready") {
            "" => "Unknown",
            known => known,
        };
        vec![
            print::name(object),
            text(object, "/spec/podName").into(),
            text(object, "/spec/networkName").into(),
            print::or_none(&addresses.join(",")),
            ready.into(),
            print::or_none(text(object, "/status/nodeName")),
            print::or_none(text(object, "/status/interface")),
            print::age(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attachment(name: &str, addresses: Value) -> Value {
        json!({"metadata": {"name": name},
            "spec": {"podName": "web-0", "networkName": "back", "addresses": addresses}})
    }

    #[test]
    fn it_is_named_after_the_pod_and_the_network() {
        assert!(NetworkAttachment.validate(&attachment("web-0.back", json!([]))).is_empty());
        let errors = NetworkAttachment.validate(&attachment("web-0", json!([])));
        assert_eq!(errors[0].path, "metadata.name");
        let errors = NetworkAttachment.validate(&json!({"metadata": {"name": "x"}}));
        assert_eq!(errors[0].to_string(), "spec.podName: Required value");
    }

    #[test]
    fn its_addresses_are_addresses_and_stay() {
        let errors = NetworkAttachment.validate(&attachment("web-0.back", json!(["10.0.0.300"])));
        assert_eq!(errors[0].path, "spec.addresses[0]");
        let (new, old) = (attachment("web-0.back", json!([])), attachment("web-0.back", json!(["10.0.0.3"])));
        assert_eq!(NetworkAttachment.validate_update(&new, &old)[0].path, "spec");
    }
}

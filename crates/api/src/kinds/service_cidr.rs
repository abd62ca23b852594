//! ServiceCIDR (networking.k8s.io/v1): a range of addresses that Services get theirs from.

use super::base;
use crate::{FieldError, FieldErrors, Kind, Path, Rules, Scope, name, object::list, print};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value;

/// The description of ServiceCIDR.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        has_status: true,
        columns: vec![print::name_column(), print::text_column("CIDRs", "The ranges."), print::age_column()],
        ..base("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", ServiceCidr)
    }
}

struct ServiceCidr;

fn cidrs(object: &Value) -> Vec<&str> {
    list(object, "/spec/cidrs").iter().map(|c| c.as_str().unwrap_or_default()).collect()
}

impl Rules for ServiceCidr {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec.cidrs");
        let spec = object.get("spec").cloned().unwrap_or(Value::Null);
        match cidrs(object)[..] {
            [] => errors.required(&path, "at least one CIDR required"),
            [one, other] if !are_dual(one, other) => {
                let message = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.invalid(&path, spec, message);
            }
            [_, _, _, ..] => errors.invalid(&path, spec, "may only hold up to 2 values"),
            ref ranges => {
                for (at, range) in ranges.iter().enumerate() {
                    errors.messages(&path.index(at), range, name::canonical_cidr(range));
                }
            }
        }
        errors.into_vec()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let of = |object: &Value| object.pointer("/spec/cidrs").cloned();
        errors.immutable(&Path::new("spec.cidrs"), of(new).as_ref(), of(old).as_ref());
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), cidrs(object).join(",").into(), print::age(object, now)]
    }
}

/// Whether one range is of IPv4 and the other of IPv6.
fn are_dual(one: &str, other: &str) -> bool {
    match (one.parse::<IpNet>(), other.parse::<IpNet>()) {
        (Ok(one), Ok(other)) => one.addr().is_ipv4() != other.addr().is_ipv4(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_range_of_each_family_for_ever() {
        let ranges = |cidrs: Value| json!({"metadata": {"name": "c"}, "spec": {"cidrs": cidrs}});
        let wrong = |cidrs: Value| {
            ServiceCidr.validate(&ranges(cidrs)).into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
        };
        assert!(wrong(json!(["10.0.0.0/16", "fd00::/108"])).is_empty());
        assert_eq!(wrong(json!([])), ["spec.cidrs: Required value: at least one CIDR required"]);
        assert!(
            wrong(json!(["10.0.0.0/16", "10.1.0.0/16"]))[0]
                .contains("no more than one IP for each IP family")
        );
        assert_eq!(
            wrong(json!(["10.0.0.1/16"])),
            ["spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must be in canonical form (\"10.0.0.0/16\")"]
        );
        let errors =
            ServiceCidr.validate_update(&ranges(json!(["10.1.0.0/16"])), &ranges(json!(["10.0.0.0/16"])));
        assert_eq!(errors[0].path, "spec.cidrs");
    }
}

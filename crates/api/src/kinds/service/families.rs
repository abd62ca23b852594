//! Which address families a Service has: what its policy, its families and its addresses say together, and what the cluster has
//! (KEP-563, "Dual-stack"; Kubernetes documentation, "IPv4/IPv6 dual-stack"). Pure.

use crate::{
    FieldError, FieldErrors, Path,
    object::{len, list, text},
};
use serde_json::{Value, json};
use std::net::IpAddr;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// The name of an address's family.
#[must_use]
pub fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn texts<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    list(service, field).iter().filter_map(Value::as_str).collect()
}

/// Settles policy and families of a Service that is to be stored. `configured` are the cluster's families, the default one first.
///
/// # Errors
/// What does not fit together, or what the cluster does not have.
pub fn settle(new: &mut Value, old: Option<&Value>, configured: &[&str]) -> Result<(), Vec<FieldError>> {
    if text(new, "/spec/type") == "ExternalName" || !new["spec"].is_object() {
        return Ok(());
    }
    let old = old.filter(|old| text(old, "/spec/type") != "ExternalName");
    if old.is_some_and(|old| prefers_as_before(new, old)) {
        return Ok(());
    }
    let headless = text(new, "/spec/clusterIP") == "None";
    // A headless Service whose endpoints somebody else writes may hold addresses of both.
    let foreign = headless && len(new, "/spec/selector") == 0;
    if text(new, "/spec/ipFamilyPolicy").is_empty() {
        let before = old.map(|old| text(old, "/spec/ipFamilyPolicy")).filter(|policy| !policy.is_empty());
        let policy = before.unwrap_or(if foreign { REQUIRE } else { SINGLE }).to_string();
        new["spec"]["ipFamilyPolicy"] = json!(policy);
    }
    let policy = text(new, "/spec/ipFamilyPolicy").to_string();
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    if let Some(old) = old {
        fit_to_before(new, old, &policy, &mut errors);
    }
    if policy == SINGLE {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if len(new, &format!("/spec/{field}")) == 2 {
                let message = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.invalid(path.child("ipFamilyPolicy"), policy.as_str(), message);
            }
        }
    }
    let mut families: Vec<String> = texts(new, "/spec/ipFamilies").iter().map(ToString::to_string).collect();
    for (at, ip) in texts(new, "/spec/clusterIPs").iter().enumerate().skip(families.len()) {
        let Ok(ip) = ip.parse::<IpAddr>() else { break };
        let family = family_of(ip);
        if configured.contains(&family) {
            families.push(family.into());
        } else {
            let message = format!("{family} is not configured on this cluster");
            errors.invalid(path.child("clusterIPs").index(at), new["spec"]["clusterIPs"].clone(), message);
        }
    }
    let errors = errors.into_vec();
    if !errors.is_empty() {
        return Err(errors);
    }
    if !foreign {
        check_configured(&policy, &families, configured)?;
    }
    let default = configured.first().copied().unwrap_or("IPv4");
    if families.is_empty() {
        families.push(default.into());
    }
    if policy != SINGLE && families.len() == 1 && (foreign || configured.len() == 2) {
        let second = other(&families[0]);
        families.push(second.into());
    }
    new["spec"]["ipFamilies"] = json!(families);
    Ok(())
}

fn check_configured(policy: &str, families: &[String], configured: &[&str]) -> Result<(), Vec<FieldError>> {
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    if policy == REQUIRE && configured.len() < 2 {
        let message = "this cluster is not configured for dual-stack services";
        errors.invalid(path.child("ipFamilyPolicy"), policy, message);
    }
    for (at, family) in families.iter().enumerate() {
        if !configured.contains(&family.as_str()) {
            let message = "not configured on this cluster";
            errors.invalid(path.child("ipFamilies").index(at), family.as_str(), message);
        }
    }
    let errors = errors.into_vec();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A Service that prefers two families, and says nothing new, stays as it is when the cluster gets or loses one.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    let same = |field: &str| new.pointer(field) == old.pointer(field);
    text(new, "/spec/ipFamilyPolicy") == PREFER
        && ["/spec/type", "/spec/ipFamilyPolicy", "/spec/clusterIPs", "/spec/ipFamilies"]
            .into_iter()
            .all(same)
}

/// Becoming single-stack by saying so lets go of the second of each; everything else that loses one is an error.
fn fit_to_before(new: &mut Value, old: &Value, policy: &str, errors: &mut FieldErrors) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let pointer = format!("/spec/{field}");
        let (before, after) = (texts(old, &pointer), texts(new, &pointer));
        if policy == SINGLE {
            if before == after && after.len() > 1 {
                let first = after[0].to_string();
                new["spec"][field] = json!([first]);
            }
        } else if !after.is_empty() && after.len() < before.len() && before.starts_with(&after) {
            let message = format!("must be 'SingleStack' to release the secondary {what}");
            errors.invalid(Path::new("spec").child("ipFamilyPolicy"), policy, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUAL: &[&str] = &["IPv4", "IPv6"];

    fn service(spec: Value) -> Value {
        let mut object = json!({"spec": spec});
        super::super::defaults::set_defaults(&mut object);
        object
    }

    fn settled(spec: Value, configured: &[&str]) -> Result<(String, Value), String> {
        let mut object = service(spec);
        settle(&mut object, None, configured).map_err(|errors| errors[0].to_string())?;
        Ok((text(&object, "/spec/ipFamilyPolicy").into(), object["spec"]["ipFamilies"].clone()))
    }

    #[test]
    fn families_follow_policy_addresses_and_cluster() {
        let (v4, v6, both, turned) =
            (json!(["IPv4"]), json!(["IPv6"]), json!(["IPv4", "IPv6"]), json!(["IPv6", "IPv4"]));
        let none = |more: Value| {
            let mut spec = json!({"clusterIP": "None"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        for (spec, configured, policy, families) in [
            (json!({}), &["IPv4"][..], SINGLE, &v4),
            (json!({}), &["IPv6", "IPv4"], SINGLE, &v6),
            (json!({"clusterIP": "fd00::1"}), DUAL, SINGLE, &v6),
            (json!({"ipFamilyPolicy": PREFER}), &["IPv4"], PREFER, &v4),
            (json!({"ipFamilyPolicy": PREFER}), DUAL, PREFER, &both),
            (json!({"ipFamilyPolicy": REQUIRE, "ipFamilies": ["IPv6"]}), DUAL, REQUIRE, &turned),
            (
                json!({"ipFamilyPolicy": REQUIRE, "clusterIPs": ["fd00::1", "10.0.0.1"]}),
                DUAL,
                REQUIRE,
                &turned,
            ),
            (none(json!({"selector": {"a": "b"}})), DUAL, SINGLE, &v4),
            (none(json!({})), &["IPv4"], REQUIRE, &both),
            (none(json!({"ipFamilyPolicy": SINGLE})), DUAL, SINGLE, &v4),
        ] {
            assert_eq!(settled(spec.clone(), configured), Ok((policy.into(), families.clone())), "{spec}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_the_words_of_kubernetes() {
        for (spec, configured, want) in [
            (
                json!({"ipFamilyPolicy": REQUIRE}),
                &["IPv4"][..],
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                &["IPv4"],
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"clusterIP": "fd00::1"}),
                &["IPv4"],
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                DUAL,
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when \
                 multiple IP families are specified",
            ),
        ] {
            assert_eq!(settled(spec.clone(), configured), Err(want.into()), "{spec}");
        }
    }

    #[test]
    fn a_service_goes_to_two_families_and_back_as_its_policy_says() {
        let old =
            service(json!({"ipFamilyPolicy": SINGLE, "ipFamilies": ["IPv4"], "clusterIPs": ["10.0.0.1"]}));
        let mut new = old.clone();
        new["spec"]["ipFamilyPolicy"] = json!(REQUIRE);
        settle(&mut new, Some(&old), DUAL).unwrap();
        assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        new["spec"]["clusterIPs"] = json!(["10.0.0.1", "fd00::1"]);

        let mut back = new.clone();
        back["spec"]["ipFamilyPolicy"] = json!(SINGLE);
        settle(&mut back, Some(&new), DUAL).unwrap();
        assert_eq!(back["spec"]["ipFamilies"], json!(["IPv4"]));
        assert_eq!(back["spec"]["clusterIPs"], json!(["10.0.0.1"]));

        let mut fewer = new.clone();
        fewer["spec"]["clusterIPs"] = json!(["10.0.0.1"]);
        let errors = settle(&mut fewer, Some(&new), DUAL).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary cluster IP"
        );
    }

    #[test]
    fn a_service_that_prefers_two_families_is_not_changed_with_the_cluster() {
        let old =
            service(json!({"ipFamilyPolicy": PREFER, "ipFamilies": ["IPv4"], "clusterIPs": ["10.0.0.1"]}));
        let mut new = old.clone();
        new["metadata"] = json!({"labels": {"a": "b"}});
        settle(&mut new, Some(&old), DUAL).unwrap();
        assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
    }
}

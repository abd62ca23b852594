//! What the kinds of resource.k8s.io need besides their own rules: expressions that select devices compile and are cheap, access
//! to devices that others use is asked for only where a namespace's label allows it, and taints know since when they are.

use crate::admission::{Operation, Plugin, Request};
use orlop_api::{
    FieldError, Path, Status,
    object::{flag, list, text},
};
use orlop_cel::{Decl, Env, FieldDecl, Program, Type};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

const GROUP: &str = "resource.k8s.io";
/// What an expression may cost at most, by the sizes that devices can have.
const MAX_COST: u64 = 1_000_000;
/// The label of namespaces whose claims may ask for devices that are in use.
const ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";

pub(super) struct Devices;

/// A device as expressions see it: attributes and capacities by domain, then by name.
static DEVICE: LazyLock<Env> = LazyLock::new(|| {
    let text = |max| Decl::leaf(Type::String, max);
    let by_name = |value| Decl::map(Decl::map(value, 32), 32);
    let fields = [
        ("driver", text(63)),
        ("attributes", by_name(Decl::leaf(Type::Dyn, 64))),
        ("capacity", by_name(Decl::of(Type::Opaque("kubernetes.Quantity")))),
        ("allowMultipleAllocations", Decl::of(Type::Bool)),
    ];
    let named = |(name, decl): (&str, _)| (name.to_string(), FieldDecl { json: name.to_string(), decl });
    Env::new().with("device", Decl::object("kubernetes.DRADevice", BTreeMap::from(fields.map(named))))
});

impl Plugin for Devices {
    fn handles(&self, request: &Request<'_>) -> bool {
        request.kind.group == GROUP && matches!(request.operation, Operation::Create | Operation::Update)
    }

    fn mutate(&self, request: &Request<'_>, object: &mut Value) -> Result<(), Status> {
        if request.is(GROUP, "resourceslices") {
            date_taints(object, &request.registry.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        Ok(())
    }

    fn validate(&self, request: &Request<'_>, object: Option<&Value>) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        let mut errors = Vec::new();
        let namespace =
            || request.look_up(("", "v1", "namespaces"), "", request.namespace).unwrap_or(Value::Null);
        errors.extend(match request.subresource {
            "" => asks_for_admin_access(object),
            "status" if grants_admin_access(request.old.unwrap_or(&Value::Null)).is_none() => {
                grants_admin_access(object)
            }
            _ => None,
        }
        // The specs of claims and of their templates cannot change.
        .filter(|_| request.old.is_none() || request.subresource == "status")
        .filter(|_| !allows_admin_access(&namespace()))
        .map(|path| {
            let why = format!(
                "admin access to devices requires the `{ADMIN_ACCESS}: true` label on the containing namespace"
            );
            FieldError::forbidden(path, why)
        }));
        if request.subresource.is_empty() {
            errors.extend(check_selectors(object, request.old));
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid(request.kind, request.name, &errors)) }
    }
}

/// A taint without a time is one from now.
fn date_taints(slice: &mut Value, now: &str) {
    let devices = slice.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        orlop_api::object::each(device, "taints", |taint| {
            orlop_api::object::set_default(taint, "timeAdded", now);
        });
    }
}

fn allows_admin_access(namespace: &Value) -> bool {
    let label = namespace.pointer("/metadata/labels").and_then(|labels| labels.get(ADMIN_ACCESS));
    label.is_some_and(|value| value == "true")
}

/// The spec of a claim, or of the claims that a template makes, and where it stands.
fn claim_spec(object: &Value) -> (&Value, Path) {
    match object.pointer("/spec/spec") {
        Some(spec) => (spec, Path::new("spec.spec")),
        None => (object.get("spec").unwrap_or(&Value::Null), Path::new("spec")),
    }
}

/// The first request for devices that may be in use. The path is that of a claim, also where a template asks, as in Kubernetes.
fn asks_for_admin_access(object: &Value) -> Option<Path> {
    let requests = list(claim_spec(object).0, "/devices/requests");
    let at = requests.iter().position(|request| flag(request, "/exactly/adminAccess"))?;
    Some(Path::new("spec.devices.requests").index(at).child("adminAccess"))
}

/// The first allocated device that may be in use.
fn grants_admin_access(claim: &Value) -> Option<Path> {
    let results = list(claim, "/status/allocation/devices/results");
    let at = results.iter().position(|result| flag(result, "/adminAccess"))?;
    Some(Path::new("status.allocation.devices.results").index(at).child("adminAccess"))
}

/// All selectors of a class, a claim or a template, by their paths. Those that `old` has as they are were checked before.
fn check_selectors(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut owners = vec![(object.get("spec").unwrap_or(&Value::Null), Path::new("spec"))];
    let (spec, path) = claim_spec(object);
    for (at, request) in list(spec, "/devices/requests").iter().enumerate() {
        let path = path.child("devices.requests").index(at);
        owners.extend(request.get("exactly").map(|exactly| (exactly, path.child("exactly"))));
        let alternatives = list(request, "/firstAvailable").iter().enumerate();
        owners.extend(alternatives.map(|(at, one)| (one, path.child("firstAvailable").index(at))));
    }
    if old.is_some_and(|old| selectors_stay(object, old)) {
        return Vec::new();
    }
    let selectors = owners.iter().flat_map(|(owner, path)| {
        let selectors = list(owner, "/selectors").iter().enumerate();
        selectors.map(move |(at, s)| {
            (text(s, "/cel/expression"), path.child("selectors").index(at).child("cel.expression"))
        })
    });
    selectors.filter_map(|(source, path)| check(source, &path)).collect()
}

/// Whether nothing is selected anew: the spec of claims stays, and that of a class selects as before.
fn selectors_stay(object: &Value, old: &Value) -> bool {
    let of = |object: &Value, pointer: &str| object.pointer(pointer).cloned().unwrap_or(json!([]));
    let devices = |object: &Value| claim_spec(object).0.get("devices").cloned();
    of(object, "/spec/selectors") == of(old, "/spec/selectors") && devices(object) == devices(old)
}

/// What is wrong with an expression.
fn check(source: &str, path: &Path) -> Option<FieldError> {
    let why = match Program::compile(&DEVICE, source) {
        Err(why) => format!("compilation failed: {why}"),
        Ok(program) if program.cost() > MAX_COST => {
            return Some(FieldError::forbidden(path, "too complex, exceeds cost limit"));
        }
        Ok(program) => match program.result() {
            Type::Bool | Type::Dyn => return None,
            other => format!("must evaluate to bool or the unknown type, not {other}"),
        },
    };
    Some(FieldError::invalid(path, source, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_knows_what_a_device_has_and_says_yes_or_no() {
        for (source, want) in [
            ("device.driver == 'd.example.com'", ""),
            ("device.attributes['d.example.com'].model == 'A' && device.attributes['d'].numa < 2", ""),
            ("device.capacity['d.example.com'].memory.isGreaterThan(quantity('10Gi'))", ""),
            ("'d.example.com' in device.attributes && 'model' in device.attributes['d.example.com']", ""),
            ("device.attributes['d'].version.isGreaterThan(semver('1.2.0'))", ""),
            ("cel.bind(d, device.attributes['d'], d.ecc && d.numa == 0)", ""),
            ("device.allowMultipleAllocations == true", ""),
            ("device.attributes['d'].ecc", ""),
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
            ("device.name == 'x'", "undefined field 'name'"),
            ("claim.name == 'x'", "undeclared reference to 'claim'"),
            ("device.driver ==", "compilation failed: "),
            ("device.capacity['d'].memory == 5", "found no matching overload"),
            (
                "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, a == b && c == d))))",
                "too complex, exceeds cost limit",
            ),
        ] {
            let found = check(source, &Path::new("x")).map(|e| e.to_string()).unwrap_or_default();
            assert!(found.contains(want) && found.is_empty() == want.is_empty(), "{source}: {found}");
        }
    }

    #[test]
    fn expressions_are_found_wherever_they_stand_and_once_is_enough() {
        let wrong = json!([{"cel": {"expression": "1"}}]);
        let devices = json!({"requests": [{"exactly": {"selectors": wrong}}, {"firstAvailable": [{}, {"selectors": wrong}]}]});
        let paths = |object: &Value, old: Option<&Value>| -> Vec<String> {
            check_selectors(object, old).into_iter().map(|e| e.path).collect()
        };
        let claim = json!({"spec": {"devices": devices}});
        assert_eq!(
            paths(&claim, None),
            [
                "spec.devices.requests[0].exactly.selectors[0].cel.expression",
                "spec.devices.requests[1].firstAvailable[1].selectors[0].cel.expression",
            ]
        );
        let template = json!({"spec": {"spec": {"devices": devices}}});
        assert!(paths(&template, None)[0].starts_with("spec.spec.devices.requests[0]"));
        let class = json!({"spec": {"selectors": wrong}});
        assert_eq!(paths(&class, None), ["spec.selectors[0].cel.expression"]);
        for object in [&claim, &template, &class] {
            assert!(paths(object, Some(object)).is_empty(), "{object}");
        }
        assert_eq!(paths(&class, Some(&json!({"spec": {}}))).len(), 1);
    }

    #[test]
    fn a_taint_that_has_no_time_is_from_now() {
        let mut slice =
            json!({"spec": {"devices": [{"taints": [{"key": "a"}, {"key": "b", "timeAdded": "then"}]}]}});
        date_taints(&mut slice, "now");
        assert_eq!(
            slice["spec"]["devices"][0]["taints"],
            json!([{"key": "a", "timeAdded": "now"}, {"key": "b", "timeAdded": "then"}])
        );
    }
}

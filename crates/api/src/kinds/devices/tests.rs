//! What may stand in claims, in their status and in slices, as tables.

use super::*;
use crate::kinds::find;
use serde_json::json;

fn rules(plural: &str) -> std::sync::Arc<crate::Kind> {
    find("resource.k8s.io", "v1", plural).unwrap()
}

fn shown(errors: Vec<FieldError>) -> Vec<String> {
    errors.into_iter().map(|e| e.to_string()).collect()
}

/// All that is wrong with a new claim for these devices.
fn claim(devices: Value) -> Vec<String> {
    let kind = rules("resourceclaims");
    let mut claim = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"devices": devices}});
    kind.rules.default(&mut claim);
    shown(kind.rules.validate(&claim))
}

fn gpu() -> Value {
    json!({"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}})
}

fn choice() -> Value {
    json!({"name": "any", "firstAvailable": [{"name": "big", "deviceClassName": "big"}, {"name": "small", "deviceClassName": "small"}]})
}

#[test]
fn a_request_is_for_one_device_that_tolerates_keys_with_their_values_unless_it_says_otherwise() {
    let kind = rules("resourceclaims");
    let mut made = json!({"spec": {"devices": {"requests": [
        {"name": "a", "exactly": {"deviceClassName": "c", "tolerations": [{"key": "k"}]}},
        {"name": "b", "exactly": {"deviceClassName": "c", "allocationMode": "All"}},
        {"name": "c", "firstAvailable": [{"name": "d", "deviceClassName": "c"}]},
    ]}}});
    kind.rules.default(&mut made);
    let requests = &made["spec"]["devices"]["requests"];
    assert_eq!(
        requests[0]["exactly"],
        json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1, "tolerations": [{"key": "k", "operator": "Equal"}]})
    );
    assert_eq!(requests[1]["exactly"].get("count"), None);
    assert_eq!(requests[2]["firstAvailable"][0]["count"], 1);
    assert!(kind.rules.validate(&made).is_empty());
}

#[test]
fn a_claim_may_ask_for_alternatives_and_speak_of_each() {
    let found = claim(json!({
        "requests": [gpu(), choice()],
        "constraints": [{"requests": ["gpu", "any/big"], "matchAttribute": "d.example.com/numa"}, {"distinctAttribute": "d/x"}],
        "config": [{"requests": ["any"], "opaque": {"driver": "d.example.com", "parameters": {"a": 1}}}],
    }));
    assert_eq!(found, [""; 0]);
    assert_eq!(claim(json!({})), [""; 0], "a claim may ask for nothing");
}

#[test]
fn what_is_wrong_with_a_claim_is_named() {
    let reference = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let exactly = |more: Value| {
        let mut wish = gpu();
        wish["exactly"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"requests": [wish]})
    };
    let constraint = |more: Value| json!({"requests": [gpu(), choice()], "constraints": [more]});
    for (devices, want) in [
        (json!({"requests": [gpu(), gpu()]}), "spec.devices.requests[1]: Duplicate value: \"gpu\"".to_string()),
        (
            json!({"requests": vec![gpu(); 33]}),
            "spec.devices.requests: Too many: 33: must have at most 32 items".into(),
        ),
        (
            json!({"requests": [{"name": "a"}]}),
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required".into(),
        ),
        (
            json!({"requests": [{"name": "a", "exactly": {}, "firstAvailable": [{}]}]}),
            "spec.devices.requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but \
             multiple fields are set"
                .into(),
        ),
        (
            exactly(json!({"deviceClassName": ""})),
            "spec.devices.requests[0].exactly.deviceClassName: Required value".into(),
        ),
        (
            exactly(json!({"count": -1})),
            "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero".into(),
        ),
        (
            exactly(json!({"allocationMode": "All", "count": 2})),
            "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'".into(),
        ),
        (
            exactly(json!({"allocationMode": "Some"})),
            "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \
             \"ExactCount\""
                .into(),
        ),
        (
            exactly(json!({"selectors": [{}]})),
            "spec.devices.requests[0].exactly.selectors[0].cel: Required value".into(),
        ),
        (
            exactly(json!({"tolerations": [{"operator": "Exists", "value": "x"}]})),
            "spec.devices.requests[0].exactly.tolerations[0].value: Invalid value: \"x\": must be empty for operator \
             `Exists`"
                .into(),
        ),
        (
            exactly(json!({"tolerations": [{"operator": "Likes"}]})),
            "spec.devices.requests[0].exactly.tolerations[0].operator: Unsupported value: \"Likes\": supported values: \
             \"Equal\", \"Exists\""
                .into(),
        ),
        (
            exactly(json!({"tolerations": [{"effect": "Flee"}]})),
            "spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: \"Flee\": supported values: \
             \"NoExecute\", \"NoSchedule\", \"None\""
                .into(),
        ),
        (
            json!({"requests": [{"name": "a", "firstAvailable": vec![json!({"name": "b", "deviceClassName": "c"}); 9]}]}),
            "spec.devices.requests[0].firstAvailable: Too many: 9: must have at most 8 items".into(),
        ),
        (
            constraint(json!({"matchAttribute": "d/a", "requests": ["any/none"]})),
            format!("spec.devices.constraints[0].requests[0]: Invalid value: \"any/none\": {reference}"),
        ),
        (
            constraint(json!({"matchAttribute": "d/a", "requests": ["gpu/a/b"]})),
            format!("spec.devices.constraints[0].requests[0]: Invalid value: \"gpu/a/b\": {reference}"),
        ),
        (
            constraint(json!({"matchAttribute": "d/a", "requests": ["gpu", "gpu"]})),
            "spec.devices.constraints[0].requests[1]: Duplicate value: \"gpu\"".into(),
        ),
        (
            constraint(json!({"matchAttribute": "a"})),
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": a fully qualified name must be a domain and \
             a name separated by a slash"
                .into(),
        ),
        (
            constraint(json!({})),
            "spec.devices.constraints[0]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is \
             required, but multiple fields are set"
                .into(),
        ),
        (
            json!({"requests": [gpu()], "config": [{"requests": ["gpu"]}]}),
            "spec.devices.config[0].opaque: Required value".into(),
        ),
    ] {
        assert_eq!(claim(devices), [want]);
    }
}

fn allocated() -> Value {
    json!({
        "metadata": {"name": "c", "namespace": "n"},
        "spec": {"devices": {"requests": [gpu()]}},
        "status": {
            "allocation": {"devices": {"results": [
                {"request": "gpu", "driver": "d.example.com", "pool": "node-1/a", "device": "gpu-0"},
            ]}},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}],
            "devices": [{"driver": "d.example.com", "pool": "node-1/a", "device": "gpu-0",
                "networkData": {"ips": ["10.0.0.1/24"]}, "data": {"a": 1}}],
        },
    })
}

/// What is said where `change` stands at `pointer` of the status of a claim that has just been allocated.
fn status(pointer: &str, change: Value) -> Vec<String> {
    let mut new = allocated();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    new.pointer_mut(&format!("/status{parent}")).unwrap()[field] = change;
    let mut old = allocated();
    old["status"] = json!({});
    shown(rules("resourceclaims").rules.validate_status(&new, &old))
}

#[test]
fn what_is_wrong_with_an_allocation_is_named() {
    let kind = rules("resourceclaims");
    let new = json!({"metadata": {}, "spec": allocated()["spec"]});
    assert_eq!(shown(kind.rules.validate_status(&allocated(), &new)), [""; 0]);
    let result = "/allocation/devices/results/0";
    for (pointer, change, want) in [
        (
            format!("{result}/request"),
            json!("other"),
            "status.allocation.devices.results[0].request: Invalid value: \"other\": must be the name of a request in the \
             claim or the name of a request and a subrequest separated by '/'",
        ),
        (
            format!("{result}/bindingConditions"),
            json!(["a"]),
            "status.allocation.devices.results[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions \
             are required to use bindingConditions",
        ),
        (
            "/allocation/nodeSelector".into(),
            json!({"nodeSelectorTerms": []}),
            "status.allocation.nodeSelector.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            "/allocation/devices/config".into(),
            json!([{"source": "FromMe", "opaque": {"driver": "d", "parameters": {}}}]),
            "status.allocation.devices.config[0].source: Unsupported value: \"FromMe\": supported values: \"FromClaim\", \
             \"FromClass\"",
        ),
        (
            "/reservedFor".into(),
            json!([{"resource": "pods", "name": "p", "uid": "1"}, {"resource": "pods", "name": "q", "uid": "1"}]),
            "status.reservedFor[1]: Duplicate value: \"1\"",
        ),
        (
            "/reservedFor".into(),
            json!([{"resource": "pods", "name": "p"}]),
            "status.reservedFor[0].uid: Required value",
        ),
        (
            "/devices/0/device".into(),
            json!("gpu-1"),
            "status.devices[0]: Invalid value: \"d.example.com/node-1/a/gpu-1\": must be an allocated device in the claim",
        ),
        (
            "/devices/0/networkData".into(),
            json!({"ips": ["10.0.0.1"]}),
            "status.devices[0].networkData.ips[0]: Invalid value: \"10.0.0.1\": must be a valid address in CIDR form, \
             (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
        ),
        (
            "/devices/0/data".into(),
            json!("x"),
            "status.devices[0].data: Invalid value: \"<value omitted>\": must be a valid JSON object",
        ),
    ] {
        assert_eq!(status(&pointer, change), [want], "{pointer}");
    }
    let share = status("/devices/0/shareID", json!("X"));
    assert!(
        share[0].starts_with("status.devices[0].shareID: Invalid value: \"X\": uid must be in RFC 4122"),
        "{share:?}"
    );
}

#[test]
fn an_allocation_stays_until_it_is_taken_back_and_users_go_first() {
    let kind = rules("resourceclaims");
    let old = allocated();
    let mut other = allocated();
    other["status"]["allocation"]["devices"]["results"][0]["pool"] = json!("b");
    other["status"]["devices"] = json!([]);
    let said = shown(kind.rules.validate_status(&other, &old));
    assert!(
        said[0].starts_with("status.allocation: ") && said[0].ends_with(": field is immutable"),
        "{said:?}"
    );

    let mut freed = allocated();
    freed["status"].as_object_mut().unwrap().remove("allocation");
    kind.rules.prepare_status(&mut freed, &old);
    assert_eq!(freed["status"].get("devices"), None, "what drivers said goes with the devices");
    assert_eq!(
        shown(kind.rules.validate_status(&freed, &old)),
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
    );
    freed["status"]["reservedFor"] = json!([]);
    assert!(kind.rules.validate_status(&freed, &old).is_empty());

    let mut deleted = allocated();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(kind.rules.validate_status(&deleted, &old).is_empty());
    deleted["status"]["reservedFor"][0]["uid"] = json!("2");
    assert_eq!(
        shown(kind.rules.validate_status(&deleted, &old)),
        ["status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or \
          `deletionTimestamp` are set"]
    );
}

fn slice(more: Value) -> Value {
    let mut spec = json!({"driver": "d.example.com", "nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    json!({"metadata": {"name": "s"}, "spec": spec})
}

/// All that is wrong with a new slice.
fn offer(more: Value) -> Vec<String> {
    let kind = rules("resourceslices");
    let mut slice = slice(more);
    kind.rules.default(&mut slice);
    kind.rules.prepare_create(&mut slice);
    shown(kind.rules.validate(&slice))
}

#[test]
fn a_slice_offers_devices_of_a_node_or_counters_that_they_share() {
    let device = json!({
        "name": "gpu-0",
        "attributes": {"model": {"string": "A"}, "d.example.com/driver": {"version": "1.2.3-rc.1+b"}, "ecc": {"bool": true}},
        "capacity": {"memory": {"value": "80Gi"}},
        "consumesCounters": [{"counterSet": "set", "counters": {"slots": {"value": "1"}}}],
        "taints": [{"key": "example.com/broken", "effect": "NoSchedule"}],
        "bindingConditions": ["ready"], "bindingFailureConditions": ["failed"],
    });
    assert_eq!(offer(json!({"devices": [device]})), [""; 0]);
    let counters = json!([{"name": "set", "counters": {"slots": {"value": "7"}}}]);
    assert_eq!(offer(json!({"sharedCounters": counters})), [""; 0]);
    let placed = json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": [{"name": "a", "allNodes": true}]});
    assert_eq!(offer(placed), [""; 0]);
}

#[test]
fn what_is_wrong_with_a_slice_is_named() {
    let places =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let devices = |more: Value| {
        let mut device = json!({"name": "a"});
        device.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"devices": [device]})
    };
    let many = |count: usize, taints: Value| {
        let all = (0..count).map(|n| json!({"name": format!("d-{n}"), "taints": taints}));
        json!({"devices": all.collect::<Vec<_>>()})
    };
    let taint = json!([{"key": "k", "effect": "None"}]);
    assert_eq!(offer(many(128, json!([]))), [""; 0]);
    for (more, want) in [
        (many(129, json!([])), "spec.devices: Too many: 129: must have at most 128 items".to_string()),
        (many(65, taint), "spec.devices: Too many: 65: must have at most 64 items".into()),
        (json!({"driver": ""}), "spec.driver: Required value".into()),
        (json!({"pool": {"resourceSliceCount": 1}}), "spec.pool.name: Required value".into()),
        (
            json!({"pool": {"name": "p", "resourceSliceCount": 0}}),
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero".into(),
        ),
        (json!({"nodeName": null}), format!("spec: Required value: {places}")),
        (
            json!({"allNodes": true}),
            format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {places}, but multiple fields are set"),
        ),
        (
            json!({"allNodes": false}),
            "spec.allNodes: Invalid value: false: must be either unset or set to true".into(),
        ),
        (
            json!({"devices": [], "sharedCounters": []}),
            "spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed".into(),
        ),
        (
            json!({"sharedCounters": [{"name": "a", "counters": {}}]}),
            "spec.sharedCounters[0].counters: Required value".into(),
        ),
        (
            json!({"devices": [{"name": "a"}, {"name": "a"}]}),
            "spec.devices[1]: Duplicate value: \"a\"".into(),
        ),
        (
            devices(json!({"attributes": {"a": {"string": "x", "int": 1}}})),
            "spec.devices[0].attributes[a]: Invalid value: {\"int\":1,\"string\":\"x\"}: exactly one value must be \
             specified"
                .into(),
        ),
        (
            devices(json!({"attributes": {"a": {"strings": ["x"]}}})),
            "spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified".into(),
        ),
        (
            devices(json!({"attributes": {"a": {"version": "1.2"}}})),
            "spec.devices[0].attributes[a].version: Invalid value: \"1.2\": must be a string compatible with semver.org \
             spec 2.0.0"
                .into(),
        ),
        (
            devices(json!({"attributes": {"a/b/c": {"int": 1}}})),
            "spec.devices[0].attributes: Invalid value: \"a/b/c\": must not contain more than one slash".into(),
        ),
        (
            devices(json!({"capacity": {"m": {"value": "1", "requestPolicy": {"default": "1"}}}})),
            "spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true".into(),
        ),
        (
            devices(json!({"taints": [{"key": "k"}]})),
            "spec.devices[0].taints[0].effect: Required value".into(),
        ),
        (
            devices(json!({"nodeName": "n"})),
            "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if \
             `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
                .into(),
        ),
        (
            json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": [{"name": "a"}]}),
            "spec.devices[0]: Required value: exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
             `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
                .into(),
        ),
        (
            devices(json!({"bindingConditions": ["a"], "bindingFailureConditions": ["a"]})),
            "spec.devices[0].bindingFailureConditions[0]: Invalid value: \"a\": bindingFailureConditions must not overlap \
             with bindingConditions"
                .into(),
        ),
    ] {
        assert_eq!(offer(more), [want]);
    }
}

#[test]
fn parts_of_a_capacity_come_in_values_or_steps_that_fit_into_it() {
    let policy = |policy: Value| {
        let capacity = json!({"m": {"value": "10Gi", "requestPolicy": policy}});
        let found = offer(
            json!({"devices": [{"name": "a", "allowMultipleAllocations": true, "capacity": capacity}]}),
        );
        let prefix = "spec.devices[0].capacity[m].requestPolicy";
        found.into_iter().map(|e| e.replace(prefix, "")).collect::<Vec<_>>()
    };
    for (given, want) in [
        (json!({"default": "1Gi"}), ""),
        (json!({"default": "1Gi", "validValues": ["1Gi", "2Gi"]}), ""),
        (json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "9Gi", "step": "2Gi"}}), ""),
        (
            json!({"default": "1Gi", "validValues": ["1Gi"], "validRange": {"min": "1Gi"}}),
            ": Forbidden: exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same \
             time",
        ),
        (json!({"validValues": ["1Gi"]}), ".default: Required value: required when validValues is defined"),
        (
            json!({"validRange": {"min": "1Gi"}}),
            ".default: Required value: required when validRange is defined",
        ),
        (
            json!({"default": "1Gi", "validValues": ["2Gi", "1Gi"]}),
            ".validValues[1]: Invalid value: \"1Gi\": values must be sorted in ascending order",
        ),
        (
            json!({"default": "1Gi", "validValues": ["1Gi", "11Gi"]}),
            ".validValues[1]: Invalid value: \"11Gi\": option is larger than capacity value: 10Gi",
        ),
        (
            json!({"default": "3Gi", "validValues": ["1Gi"]}),
            ".validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy",
        ),
        (
            json!({"default": "1Gi", "validRange": {"min": "2Gi"}}),
            ".validRange.default: Invalid value: \"1Gi\": default is less than min: 2Gi",
        ),
        (
            json!({"default": "2Gi", "validRange": {"min": "1Gi", "step": "0"}}),
            ".validRange.step: Invalid value: \"0\": must be greater than zero",
        ),
        (
            json!({"default": "2Gi", "validRange": {"min": "1Gi", "step": "2Gi"}}),
            ".validRange.step: Invalid value: \"2Gi\": value is not a multiple of a given step (2Gi) from (1Gi)",
        ),
    ] {
        let want: Vec<&str> = Some(want).into_iter().filter(|w| !w.is_empty()).collect();
        assert_eq!(policy(given), want);
    }
}

#[test]
fn a_slice_stays_with_its_driver_pool_and_node() {
    let kind = rules("resourceslices");
    let old = slice(json!({}));
    assert!(kind.rules.validate_change(&slice(json!({"devices": [{"name": "a"}]})), &old).is_empty());
    let pool = json!({"name": "q", "generation": 2, "resourceSliceCount": 1});
    let new = slice(json!({"pool": pool, "driver": "e.example.com", "nodeName": "m"}));
    let immutable =
        |field: &str, value: &str| format!("spec.{field}: Invalid value: \"{value}\": field is immutable");
    assert_eq!(
        shown(kind.rules.validate_change(&new, &old)),
        [immutable("pool.name", "q"), immutable("driver", "e.example.com"), immutable("nodeName", "m")]
    );
    assert_eq!(kind.rules.cells(&new, jiff::Timestamp::UNIX_EPOCH)[..4], ["s", "m", "e.example.com", "q"]);
    assert_eq!(kind.rules.field(&new, "spec.driver"), "e.example.com");
}

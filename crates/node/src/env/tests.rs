use super::*;
use k8s_openapi::api::core::v1::Service;
use orlop_api::quantity::Quantity;
use serde_json::{Value as Json, json};

fn objects() -> Objects {
    let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "other": "o"}})).expect("a map");
    let secret: Secret =
        serde_json::from_value(json!({"data": {"pw": "czNjcmV0", "bin": "//4="}})).expect("a secret");
    Objects {
        config_maps: [("cm".to_string(), Arc::new(map))].into(),
        secrets: [("sec".to_string(), Arc::new(secret))].into(),
    }
}

fn run(container: Json, services: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, String> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "q": "a \"b\"\n"}},
        "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [container]},
    }))
    .expect("a pod");
    let ips = ["10.1.0.5".parse().expect("an address")];
    let allocatable =
        [("cpu".into(), Quantity::from_units(4)), ("memory".into(), Quantity::from_bytes(1 << 30))];
    let allocatable = allocatable.into();
    let host_ips = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().expect("an address"));
    let context = FieldContext { pod: &pod, pod_ips: &ips, host_ips: &host_ips, allocatable: &allocatable };
    environment(&context, &pod.spec_ref().containers[0], services, &objects())
}

fn env(list: Json) -> Result<Vec<(String, String)>, String> {
    run(
        json!({"name": "c", "env": list, "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "10Mi"}}}),
        &BTreeMap::new(),
    )
}

fn value_of(source: Json) -> Result<String, String> {
    Ok(env(json!([{"name": "X", "valueFrom": source}]))?.pop().map(|(_, v)| v).unwrap_or_default())
}

#[test]
fn fields_of_the_pod_become_variables() {
    for (path, expected) in [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", "app=\"web\"\nq=\"a \\\"b\\\"\\n\""),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "sa"),
        ("status.podIP", "10.1.0.5"),
        ("status.hostIP", "192.0.2.1"),
        ("status.hostIPs", "192.0.2.1,2001:db8::1"),
    ] {
        assert_eq!(value_of(json!({"fieldRef": {"fieldPath": path}})).as_deref(), Ok(expected), "{path}");
    }
    assert!(value_of(json!({"fieldRef": {"fieldPath": "spec.wrong"}})).is_err());
}

#[test]
fn resources_are_rounded_up_to_the_divisor_and_default_to_the_node() {
    for (resource, divisor, expected) in [
        ("limits.cpu", "1", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1Mi", "1024"),
        ("requests.memory", "1", "10485760"),
        ("requests.cpu", "1", "0"),
    ] {
        let got = value_of(json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}}));
        assert_eq!(got.as_deref(), Ok(expected), "{resource} {divisor}");
    }
}

#[test]
fn missing_references_say_what_is_missing_unless_optional() {
    for (source, message) in [
        (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
        (
            json!({"configMapKeyRef": {"name": "cm", "key": "no"}}),
            "couldn't find key no in ConfigMap shop/cm",
        ),
        (json!({"secretKeyRef": {"name": "no", "key": "k"}}), "secret \"no\" not found"),
        (json!({"secretKeyRef": {"name": "sec", "key": "no"}}), "couldn't find key no in Secret shop/sec"),
    ] {
        assert_eq!(value_of(source.clone()), Err(message.to_string()));
        let mut optional = source;
        for reference in optional.as_object_mut().into_iter().flatten() {
            reference.1["optional"] = true.into();
        }
        assert_eq!(env(json!([{"name": "X", "valueFrom": optional}])), Ok(vec![]));
    }
    assert_eq!(value_of(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})).as_deref(), Ok("v"));
    assert_eq!(value_of(json!({"secretKeyRef": {"name": "sec", "key": "pw"}})).as_deref(), Ok("s3cret"));
}

#[test]
fn variables_see_those_before_them_and_services() {
    let services = [("DB_SERVICE_HOST".to_string(), "10.96.0.7".to_string())].into();
    let all = run(
        json!({"name": "c", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)-$(DB_SERVICE_HOST)"},
            {"name": "C", "value": "3"}, {"name": "A", "value": "again $(A)"}]}),
        &services,
    )
    .expect("an environment");
    let get = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(get("B"), Some("1-$(C)-10.96.0.7"));
    assert_eq!(get("A"), Some("again 1"));
    assert_eq!(all.iter().filter(|(n, _)| n == "A").count(), 1);
}

#[test]
fn whole_maps_come_in_with_a_prefix_and_own_variables_win() {
    let all = run(
        json!({"name": "c", "envFrom": [
                {"prefix": "P_", "configMapRef": {"name": "cm"}}, {"configMapRef": {"name": "no", "optional": true}}],
            "env": [{"name": "P_k", "value": "mine"}]}),
        &BTreeMap::new(),
    )
    .expect("an environment");
    assert_eq!(all, [("P_k".into(), "mine".into()), ("P_other".into(), "o".into())]);
    let missing = run(json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}), &BTreeMap::new());
    assert_eq!(missing, Err("secret \"no\" not found".into()));
}

fn service(namespace: &str, name: &str, address: &str) -> Arc<Service> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": address, "ports": [
                {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}}))
        .expect("a service"),
    )
}

#[test]
fn services_of_the_namespace_and_the_api_are_announced() {
    let all = [
        service("shop", "my-db", "10.96.0.7"),
        service("shop", "headless", "None"),
        service("other", "x", "10.96.0.8"),
        service("default", "kubernetes", "10.96.0.1"),
    ];
    let linked = service_variables(&all, "shop", true);
    for (name, value) in [
        ("MY_DB_SERVICE_HOST", "10.96.0.7"),
        ("MY_DB_SERVICE_PORT", "80"),
        ("MY_DB_SERVICE_PORT_DNS", "53"),
        ("MY_DB_PORT", "tcp://10.96.0.7:80"),
        ("MY_DB_PORT_53_UDP", "udp://10.96.0.7:53"),
        ("MY_DB_PORT_53_UDP_PROTO", "udp"),
        ("MY_DB_PORT_80_TCP_ADDR", "10.96.0.7"),
        ("MY_DB_PORT_80_TCP_PORT", "80"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
    ] {
        assert_eq!(linked.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!linked.keys().any(|k| k.starts_with("X_") || k.starts_with("HEADLESS")));
    let alone = service_variables(&all, "shop", false);
    assert!(alone.keys().all(|k| k.starts_with("KUBERNETES_")));
    assert!(!alone.is_empty());
}

use super::*;
use crate::Types;
use serde_json::json;

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "livenessProbe": {"httpGet": {"port": "http"}}}]}}}
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut object = deployment();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Object(map) => {
            map.insert(key.to_string(), value);
        }
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{parent} has no children"),
    }
    object
}

fn check(mut object: Value) -> (Value, Result<Vec<String>, Mismatch>) {
    let ty = Types::of("apps/v1", "Deployment").unwrap();
    let told = conform(&ty, &mut object).map(|unknown| unknown.iter().map(ToString::to_string).collect());
    (object, told)
}

#[test]
fn a_right_object_stays_as_it_is() {
    assert_eq!(check(deployment()), (deployment(), Ok(vec![])));
}

#[test]
fn unknown_fields_go_and_are_told_with_their_path() {
    let mut object = with("/spec/foo", json!({"a": 1}));
    object["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("x");
    object["bar"] = json!(null);
    let (object, told) = check(object);
    assert_eq!(object, deployment());
    assert_eq!(
        told.unwrap(),
        [
            "unknown field \"bar\"",
            "unknown field \"spec.foo\"",
            "unknown field \"spec.template.spec.containers[0].imag\""
        ]
    );
}

#[test]
fn wrong_types_are_refused_in_the_words_of_go() {
    let field = |message: &str| format!("json: cannot unmarshal {message}");
    let spec = "/spec/template/spec";
    for (pointer, value, path, message) in [
        ("/spec/replicas", json!("3"), "spec.replicas", field("string into Go struct field DeploymentSpec.spec.replicas of type int32")),
        ("/spec/replicas", json!(1.5), "spec.replicas", field("number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32")),
        ("/spec/replicas", json!(3_000_000_000u64), "spec.replicas", field("number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32")),
        ("/spec/paused", json!("yes"), "spec.paused", field("string into Go struct field DeploymentSpec.spec.paused of type bool")),
        ("/spec", json!([]), "spec", field("array into Go struct field Deployment.spec of type v1.DeploymentSpec")),
        ("/metadata/labels", json!("a=b"), "metadata.labels", field("string into Go struct field ObjectMeta.metadata.labels of type map[string]string")),
        ("/metadata/labels/app", json!(1), "metadata.labels.app", field("number into Go struct field ObjectMeta.metadata.labels.app of type string")),
        (&format!("{spec}/containers"), json!({}), "spec.template.spec.containers", field("object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container")),
        (&format!("{spec}/containers/0"), json!("c"), "spec.template.spec.containers[0]", field("string into Go struct field PodSpec.spec.template.spec.containers of type v1.Container")),
        (&format!("{spec}/containers/0/name"), json!(1), "spec.template.spec.containers[0].name", field("number into Go struct field Container.spec.template.spec.containers.name of type string")),
        (&format!("{spec}/containers/0/resources/limits/cpu"), json!("lots"), "spec.template.spec.containers[0].resources.limits.cpu", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_string()),
        (&format!("{spec}/containers/0/livenessProbe/httpGet/port"), json!(true), "spec.template.spec.containers[0].livenessProbe.httpGet.port", field("bool into Go struct field HTTPGetAction.spec.template.spec.containers.livenessProbe.httpGet.port of type int32")),
        ("/metadata/creationTimestamp", json!("yesterday"), "metadata.creationTimestamp", "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"".to_string()),
    ] {
        let (_, told) = check(with(pointer, value));
        let mismatch = told.unwrap_err();
        assert_eq!(mismatch.path, path);
        assert_eq!(mismatch.message, message);
    }
    let (_, told) = check(json!([]));
    assert_eq!(told.unwrap_err().message, "json: cannot unmarshal array into Go value of type v1.Deployment");
    let (_, told) = check(with("/spec/replicas", json!("3")));
    let status = told.unwrap_err().to_status("Deployment", "v1");
    assert_eq!(status.code, 400);
    assert!(
        status.message.starts_with("Deployment in version \"v1\" cannot be handled as a Deployment: json: ")
    );
}

#[test]
fn null_means_not_set_and_in_a_list_or_map_the_empty_value() {
    let (object, told) = check(with("/spec/paused", Value::Null));
    assert_eq!((object, told), (deployment(), Ok(vec![])));
    let (object, _) = check(with("/metadata/labels/app", Value::Null));
    assert_eq!(object["metadata"]["labels"]["app"], "");
    let (object, _) = check(with("/spec/template/spec/containers/0", Value::Null));
    assert_eq!(object["spec"]["template"]["spec"]["containers"], json!([{}]));
}

#[test]
fn quantities_and_times_are_written_in_their_canonical_form() {
    let limits = "/spec/template/spec/containers/0/resources/limits";
    for (written, canonical) in [
        (json!(1), "1"),
        (json!(0.5), "500m"),
        (json!("0.5"), "500m"),
        (json!("1024Mi"), "1Gi"),
        (json!("1e3"), "1e3"),
    ] {
        let (object, _) = check(with(&format!("{limits}/cpu"), written.clone()));
        assert_eq!(object.pointer(&format!("{limits}/cpu")).unwrap(), canonical, "{written}");
    }
    let (object, _) = check(with("/metadata/creationTimestamp", json!("2026-01-02T03:04:05.678+01:00")));
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-02T02:04:05Z");
    let mut lease = json!({"spec": {"renewTime": "2026-01-02T03:04:05Z"}});
    conform(&Types::of("coordination.k8s.io/v1", "Lease").unwrap(), &mut lease).unwrap();
    assert_eq!(lease["spec"]["renewTime"], "2026-01-02T03:04:05.000000Z");
}

#[test]
fn the_data_of_a_secret_is_base64() {
    let ty = Types::of("v1", "Secret").unwrap();
    let check = |text: &str| conform(&ty, &mut json!({"data": {"k": text}})).map_err(|e| e.to_string());
    assert_eq!(check("aGVsbG8="), Ok(vec![]));
    assert_eq!(check("aGVs\nbG8="), Ok(vec![]));
    assert_eq!(check(""), Ok(vec![]));
    assert_eq!(check("a b="), Err("illegal base64 data at input byte 1".to_string()));
    assert!(check("aGVsbG8").is_err());
}

#[test]
fn free_form_json_is_kept_as_it_is() {
    let data = json!({"a": null, "b": [1, {"c": null}], "d": "e"});
    let mut revision = json!({"revision": 1, "data": data});
    assert_eq!(conform(&Types::of("apps/v1", "ControllerRevision").unwrap(), &mut revision).unwrap(), []);
    assert_eq!(revision["data"], data);
}

#[test]
fn schemas_within_a_custom_resource_definition_are_checked_in_all_their_forms() {
    let ty = Types::of("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let schema = |schema: Value| {
        let mut object = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        let told = conform(&ty, &mut object).map_err(|e| e.path)?;
        Ok::<Vec<String>, String>(told.into_iter().map(|u| u.path).collect())
    };
    let at = "spec.versions[0].schema.openAPIV3Schema";
    assert_eq!(schema(json!({"items": {"type": "string"}, "default": null, "enum": [1, "a"]})), Ok(vec![]));
    assert_eq!(schema(json!({"items": [{"typ": "string"}]})), Ok(vec![format!("{at}.items[0].typ")]));
    assert_eq!(schema(json!({"additionalProperties": true})), Ok(vec![]));
    assert_eq!(
        schema(json!({"properties": {"a": {"additionalProperties": {"x": 1}}}})),
        Ok(vec![format!("{at}.properties.a.additionalProperties.x")])
    );
    assert_eq!(schema(json!({"properties": {"a": {"type": 1}}})), Err(format!("{at}.properties.a.type")));
}

#[test]
fn a_custom_kind_keeps_what_its_schema_says_and_no_more() {
    let ty = Types::custom(
        "example.com/v1",
        "Widget",
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer", "nullable": true},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "string"}}}}}}}),
    );
    let mut object = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "nam": "b"},
        "spec": {"size": null, "free": {"x": null, "known": "k"}, "gone": 1}});
    let unknown: Vec<String> = conform(&ty, &mut object).unwrap().into_iter().map(|u| u.path).collect();
    assert_eq!(unknown, ["metadata.nam", "spec.gone"]);
    assert_eq!(object["spec"], json!({"size": null, "free": {"x": null, "known": "k"}}));
}

#[test]
fn strict_validation_lists_every_complaint() {
    assert_eq!(strict_status("Pod", "v1", &[]), None);
    let status =
        strict_status("Pod", "v1", &["unknown field \"a\"".into(), "duplicate field \"b\"".into()]).unwrap();
    assert_eq!(
        status.message,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"a\", duplicate field \"b\""
    );
}

use super::*;
use flate2::read::GzDecoder;
use orlop_api::kinds::table;
use std::io::Read;

fn all() -> OpenApi {
    OpenApi::new(&table(), "v1.36.0")
}

fn unpacked(document: &Document) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(&document.gzip[..]).read_to_end(&mut out).unwrap();
    out
}

fn read(document: &Document) -> Value {
    serde_json::from_slice(&unpacked(document)).unwrap()
}

fn refs(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| match v {
            Value::String(target) if key == "$ref" => drop(out.insert(target.clone())),
            _ => refs(v, out),
        }),
        Value::Array(items) => items.iter().for_each(|v| refs(v, out)),
        _ => {}
    }
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut out = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters") {
            out.push((path.clone(), method.clone(), operation.clone()));
        }
    }
    out
}

#[test]
fn the_index_names_every_group_version_with_an_address_that_changes_with_its_content() {
    let index = read(&all().v3_index(&[]));
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        let hash = url.strip_prefix(&format!("/openapi/v3/{path}?hash=")).unwrap();
        assert_eq!((hash.len(), hash), (64, all().hash(&Name::V3(path.clone())).as_str()));
    }
    assert!(all().v3("apis/nothing/v1").is_none());
    let fewer = OpenApi::new(&table()[1..], "v1.36.0");
    assert_ne!(fewer.hash(&Name::V2Json), all().hash(&Name::V2Json));
    assert_ne!(fewer.v3_index(&[]).etag, all().v3_index(&[]).etag);
    assert_eq!(all().v3_index(&[]).etag, all().v3_index(&[]).etag);
}

#[test]
fn every_document_is_whole_and_has_the_tag_that_was_told_before() {
    let api = all();
    let mut names: Vec<Name> = api.documents().into_iter().map(Name::V3).collect();
    names.push(Name::V2Json);
    assert!(names.len() > 30);
    for name in names {
        let document = match &name {
            Name::V3(path) => api.v3(path).unwrap(),
            _ => api.v2_json(),
        };
        assert_eq!(document.etag, format!("\"{}\"", api.hash(&name)));
        let document = read(&document);
        references_lead_somewhere(&document);
        if name == Name::V2Json {
            operations_are_named_once_and_say_what_they_are_about(&document);
        } else {
            patches_say_that_they_can_be_validated_tried_out_and_be_strategic(&document);
        }
    }
}

fn references_lead_somewhere(document: &Value) {
    let mut found = BTreeSet::new();
    refs(document, &mut found);
    assert!(!document["paths"].as_object().unwrap().is_empty());
    for reference in found {
        // Names of definitions have no `/` in them, so that a reference is a JSON pointer as it stands.
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn operations_are_named_once_and_say_what_they_are_about(document: &Value) {
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_string()), "{id} of {path}");
        assert!(operation["responses"]["200"].is_object(), "{method} {path}");
        // Those that end so are about a group or a version, not about objects; nor are those about tokens.
        if !path.ends_with('/') && !path.contains("openid") {
            assert!(operation["x-kubernetes-action"].is_string(), "{method} {path}");
            assert!(operation["x-kubernetes-group-version-kind"]["kind"].is_string(), "{method} {path}");
        }
    }
    // Names that generated clients are known by.
    for id in [
        "listCoreV1NamespacedPod",
        "listAppsV1DeploymentForAllNamespaces",
        "createBatchV1NamespacedJob",
        "readCoreV1Namespace",
        "replaceAppsV1NamespacedDeploymentScale",
        "patchCoreV1NodeStatus",
        "deleteCoordinationV1CollectionNamespacedLease",
        "connectCoreV1GetNamespacedPodExec",
        "readCoreV1NamespacedPodLog",
        "createCoreV1NamespacedServiceAccountToken",
        "getDiscoveryV1APIResources",
        "getAppsAPIGroup",
        "getCodeVersion",
        "createAuthenticationV1TokenReview",
        "createAuthorizationV1NamespacedLocalSubjectAccessReview",
        "connectCoreV1PutNamespacedServiceProxyWithPath",
        "replaceCoreV1NamespaceFinalize",
        "patchCoreV1NamespacedPodEphemeralcontainers",
        "replaceCertificatesV1CertificateSigningRequestApproval",
    ] {
        assert!(ids.contains(id), "{id} is missing");
    }
}

fn patches_say_that_they_can_be_validated_tried_out_and_be_strategic(document: &Value) {
    let is_patch =
        |method: &str, operation: &Value| method == "patch" && operation["x-kubernetes-action"] == "patch";
    for (path, _, operation) in operations(document).into_iter().filter(|(_, m, o)| is_patch(m, o)) {
        let parameters: Vec<&str> =
            operation["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(parameters, ["dryRun", "fieldManager", "fieldValidation", "force"], "{path}");
        let content = operation["requestBody"]["content"].as_object().unwrap();
        assert!(content.contains_key("application/strategic-merge-patch+json"));
        assert!(content.contains_key("application/apply-patch+yaml"));
    }
}

#[test]
fn a_field_is_found_by_walking_from_its_kind() {
    let document = read(&all().v3("apis/apps/v1").unwrap());
    let resolve = |schema: &Value| -> Value {
        let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        match reference {
            Some(reference) => document.pointer(&reference[1..]).unwrap().clone(),
            None => schema.clone(),
        }
    };
    let mut at = document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].clone();
    assert_eq!(
        at["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    assert_eq!(at.get("required"), None);
    for step in ["spec", "template", "spec", "containers"] {
        let field = at["properties"][step].clone();
        assert!(field["description"].is_string(), "{step}");
        at = resolve(&field);
    }
    assert_eq!(at["x-kubernetes-list-type"], "map");
    assert_eq!(at["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(at["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(at["x-kubernetes-patch-strategy"], "merge");
    let ports = resolve(&at["items"])["properties"]["ports"].clone();
    assert_eq!(resolve(&ports["items"])["properties"]["protocol"]["default"], "TCP");
}

#[test]
fn values_that_are_written_in_two_ways_are_described_in_both_versions() {
    let v2 = read(&all().v2_json());
    let v3 = read(&all().v3("api/v1").unwrap());
    let int_or_string = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
    assert_eq!(v2["definitions"][int_or_string]["format"], "int-or-string");
    assert_eq!(
        v3["components"]["schemas"][int_or_string]["oneOf"],
        json!([{"type": "integer"}, {"type": "string"}])
    );
    let quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity";
    assert_eq!(v2["definitions"][quantity]["type"], "string");
    assert_eq!(
        v3["components"]["schemas"][quantity]["oneOf"],
        json!([{"type": "string"}, {"type": "number"}])
    );
}

#[test]
fn a_custom_kind_is_described_by_its_schema() {
    let widget = Arc::new(Kind {
        group: "example.com".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
        singular: "widget".into(),
        scale: None,
        ..(*table().into_iter().find(|k| k.kind == "Deployment").unwrap()).clone()
    });
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "description": "How large."}, "port": {"x-kubernetes-int-or-string": true}}}}});
    let api = OpenApi::new(&[widget], "v1.36.0").with_schema("example.com/v1", "Widget", schema);
    let document = read(&api.v3("apis/example.com/v1").unwrap());
    let definition = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(definition["properties"]["spec"]["properties"]["size"]["description"], "How large.");
    assert_eq!(definition["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchExampleComV1NamespacedWidget");
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    let mut found = BTreeSet::new();
    refs(&document, &mut found);
    assert!(found.iter().all(|r| document.pointer(&r[1..]).is_some()));
}

/// The fields of a protobuf message: number, and bytes or a number.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut n, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return n;
            }
        }
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        match tag & 7 {
            0 => out.push((tag >> 3, varint(&mut bytes).to_le_bytes().to_vec())),
            2 => {
                let len = varint(&mut bytes) as usize;
                out.push((tag >> 3, bytes[..len].to_vec()));
                bytes = &bytes[len..];
            }
            other => panic!("wire type {other}"),
        }
    }
    out
}

fn field(bytes: &[u8], number: u64) -> Vec<u8> {
    fields(bytes).into_iter().find(|(n, _)| *n == number).unwrap_or_else(|| panic!("no field {number}")).1
}

/// The entries of a list of `Named…` messages.
fn named(bytes: &[u8], number: u64) -> BTreeMap<String, Vec<u8>> {
    let entries = fields(bytes).into_iter().filter(|(n, _)| *n == number);
    entries.map(|(_, e)| (String::from_utf8(field(&e, 1)).unwrap(), field(&e, 2))).collect()
}

#[test]
fn the_protobuf_document_says_what_the_json_one_says() {
    let json = read(&all().v2_json());
    let bytes = unpacked(&all().v2_protobuf());
    assert_eq!(field(&bytes, 1), b"2.0");
    let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let paths = named(&field(&bytes, 8), 2);
    assert_eq!(paths.keys().cloned().collect::<BTreeSet<_>>(), keys(&json["paths"]));
    let definitions = named(&field(&bytes, 9), 1);
    assert_eq!(definitions.keys().cloned().collect::<BTreeSet<_>>(), keys(&json["definitions"]));

    for (name, schema) in &definitions {
        let properties = json["definitions"][name].get("properties").map(keys).unwrap_or_default();
        let told =
            fields(schema).into_iter().find(|(n, _)| *n == 25).map(|(_, p)| named(&p, 1)).unwrap_or_default();
        assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), properties, "{name}");
    }
    let spec = named(&field(&definitions["io.k8s.api.core.v1.PodSpec"], 25), 1);
    let extensions = named(&spec["containers"], 31);
    assert_eq!(field(&extensions["x-kubernetes-patch-merge-key"], 2), b"\"name\"");
    assert_eq!(field(&extensions["x-kubernetes-list-map-keys"], 2), b"[\"name\"]");
    let item = field(&field(&spec["containers"], 23), 1);
    assert_eq!(field(&item, 1), b"#/definitions/io.k8s.api.core.v1.Container");

    let patch = field(&paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"], 8);
    assert_eq!(field(&patch, 5), b"patchAppsV1NamespacedDeployment");
    assert_eq!(field(&named(&patch, 13)["x-kubernetes-action"], 2), b"\"patch\"");
    let parameters: Vec<_> =
        fields(&patch).into_iter().filter(|(n, _)| *n == 8).map(|(_, p)| field(&p, 1)).collect();
    assert_eq!(field(&field(&parameters[0], 1), 2), b"body");
    assert_eq!(field(&field(&field(&parameters[1], 2), 3), 4), b"dryRun");
}

#[test]
fn what_was_made_once_is_not_made_again() {
    let api = all();
    let made = || api.v3("apis/apps/v1").unwrap().gzip;
    let (first, second) = (made(), made());
    assert_eq!(first.as_ptr(), second.as_ptr());
}

#[test]
fn what_other_servers_say_stands_beside_ours_in_v2() {
    let path = "/apis/wardle.example.com/v1/flunders";
    let answer = json!({"200": {"description": "OK", "schema": {"$ref": "#/definitions/Flunder"}}});
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let theirs = json!({
        "paths": {path: {"get": {"responses": answer}}},
        "definitions": {
            "Flunder": {
                "type": "object", "description": "Theirs.",
                "properties": {"metadata": {"$ref": format!("#/definitions/{meta}")}},
            },
            meta: {"type": "object", "description": "Theirs as well."},
        },
    });
    let foreign = Arc::new(Foreign::new(&theirs, "wardle.example.com", "v1"));
    let some = || OpenApi::new(&table()[..1], "v1.36.0");
    let (alone, both) = (some(), some().with_foreign(vec![foreign]));
    assert_ne!(alone.v2_json().etag, both.v2_json().etag);
    assert_ne!(alone.v2_protobuf().gzip, both.v2_protobuf().gzip);
    let (before, after) = (read(&alone.v2_json()), read(&both.v2_json()));
    assert_eq!(after["definitions"]["Flunder"]["description"], "Theirs.");
    assert_eq!(after["definitions"][meta], before["definitions"][meta]);
    assert_eq!(after["paths"][path]["get"]["responses"], answer);
    let own = "/api/v1/configmaps";
    assert!(before["paths"][own].is_object());
    assert_eq!(after["paths"][own], before["paths"][own]);
    let v3 = |openapi: &OpenApi| read(&openapi.v3("api/v1").unwrap());
    assert_eq!(v3(&alone), v3(&both));
}

#[test]
fn what_is_only_read_has_no_path_to_be_written() {
    let document = read(&all().v3("api/v1").unwrap());
    let methods = |path: &str| {
        let item = document["paths"][path].as_object().unwrap();
        item.keys().filter(|key| *key != "parameters").cloned().collect::<Vec<_>>()
    };
    assert_eq!(methods("/api/v1/componentstatuses"), ["get"]);
    assert_eq!(methods("/api/v1/componentstatuses/{name}"), ["get"]);
    let kind = &document["components"]["schemas"]["io.k8s.api.core.v1.ComponentStatus"];
    assert_eq!(kind["x-kubernetes-group-version-kind"][0]["kind"], "ComponentStatus");
}

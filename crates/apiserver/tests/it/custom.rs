//! Custom resources, from their definition to their end.

use crate::{
    support::{ask, send, server, server_with},
    webhook::webhook,
};
use futures::StreamExt;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, WatchEvent, WatchParams},
};
use orlop_apiserver::{ApiServer, Config, Identity};
use orlop_store::embedded::Embedded;
use serde_json::{Value, json};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn crontab() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
            "image": {"type": "string", "default": "busybox"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "jobs": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "n": {"type": "integer"}}}},
        }, "x-kubernetes-validations": [
            {"rule": "self.replicas <= 5 || self.image != 'small'", "message": "small is small"},
            {"rule": "self.image == oldSelf.image || self.replicas == 1", "message": "image is fixed"},
        ]},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "selectableFields": [{"jsonPath": ".spec.image"}],
            }],
        },
    })
}

fn tab(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name}, "spec": spec})
}

/// Waits until a path is there, or is not.
async fn until(server: &Arc<ApiServer>, path: &str, there: bool) {
    for _ in 0..200 {
        if (ask(server, "GET", path, Value::Null).await.0 == 200) == there {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} is{} there", if there { " not" } else { "" });
}

async fn defined(server: &Arc<ApiServer>) {
    let (code, body) = ask(server, "POST", DEFINITIONS, crontab()).await;
    assert_eq!(code, 201, "{body}");
    until(server, TABS, true).await;
}

#[tokio::test]
async fn a_definition_makes_a_resource_and_says_when() {
    let server = server().await;
    assert_eq!(ask(&server, "GET", TABS, Value::Null).await.0, 404);
    defined(&server).await;
    let mut definition = Value::Null;
    for _ in 0..100 {
        definition =
            ask(&server, "GET", &format!("{DEFINITIONS}/crontabs.stable.example.com"), Value::Null).await.1;
        if orlop_api::object::condition(&definition, "Established") == "True" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(orlop_api::object::condition(&definition, "Established"), "True", "{definition}");
    assert_eq!(orlop_api::object::condition(&definition, "NamesAccepted"), "True");
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(definition["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(definition["metadata"]["generation"], 1);

    let (_, groups) = ask(&server, "GET", "/apis", Value::Null).await;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "stable.example.com"));
    let (_, list) = ask(&server, "GET", "/apis/stable.example.com/v1", Value::Null).await;
    let names: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let (code, openapi) = ask(&server, "GET", "/openapi/v3/apis/stable.example.com/v1", Value::Null).await;
    assert_eq!(code, 200);
    let schema = &openapi["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["replicas"]["maximum"], 10);

    let (code, body) = ask(&server, "POST", DEFINITIONS, crontab()).await;
    assert_eq!((code, &body["reason"]), (409, &json!("AlreadyExists")));
    let mut other = crontab();
    other["metadata"]["name"] = json!("tabs.stable.example.com");
    other["spec"]["names"] = json!({"plural": "tabs", "kind": "CronTab"});
    assert_eq!(ask(&server, "POST", DEFINITIONS, other).await.0, 201);
    for _ in 0..100 {
        let (_, other) =
            ask(&server, "GET", &format!("{DEFINITIONS}/tabs.stable.example.com"), Value::Null).await;
        if orlop_api::object::condition(&other, "NamesAccepted") == "False" {
            assert_eq!(orlop_api::object::condition(&other, "Established"), "False");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the conflict was not told");
}

#[tokio::test]
async fn objects_are_defaulted_pruned_validated_and_shown() {
    let server = server().await;
    defined(&server).await;
    let (code, made) =
        ask(&server, "POST", TABS, tab("a", json!({"cronSpec": "* * * * */5", "odd": 1}))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"], json!({"cronSpec": "* * * * */5", "image": "busybox", "replicas": 1}));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], "stable.example.com/v1");

    let (code, refused) = ask(
        &server,
        "POST",
        &format!("{TABS}?fieldValidation=Strict"),
        tab("b", json!({"cronSpec": "* * * * *", "odd": 1})),
    )
    .await;
    assert_eq!(code, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("unknown field \"spec.odd\""), "{refused}");
    for (spec, message) in [
        (json!({}), "spec.cronSpec: Required value"),
        (json!({"cronSpec": "x"}), "spec.cronSpec in body should match"),
        (
            json!({"cronSpec": "* * * * *", "replicas": 11}),
            "spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"cronSpec": "* * * * *", "replicas": "x"}),
            "spec.replicas in body must be of type integer: \"string\"",
        ),
        (
            json!({"cronSpec": "* * * * *", "replicas": 6, "image": "small"}),
            "spec: Invalid value: \"object\": small is small",
        ),
    ] {
        let (code, refused) = ask(&server, "POST", TABS, tab("b", spec)).await;
        assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")), "{refused}");
        assert!(refused["message"].as_str().unwrap().contains(message), "{refused}");
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let admin = || Identity::new("admin", &["system:masters"]);
    let (_, _, shown) = send(&server, admin(), "GET", TABS, "", &table).await;
    assert_eq!(
        shown["rows"][0]["cells"].as_array().unwrap()[..3],
        [json!("a"), json!("* * * * */5"), json!(1)]
    );
    assert_eq!(shown["columnDefinitions"][1]["name"], "Spec");
    let (_, some) =
        ask(&server, "GET", &format!("{TABS}?fieldSelector=spec.image=busybox"), Value::Null).await;
    assert_eq!(some["items"].as_array().unwrap().len(), 1);
    let (_, none) = ask(&server, "GET", &format!("{TABS}?fieldSelector=spec.image=other"), Value::Null).await;
    assert_eq!((none["items"].as_array().unwrap().len(), &none["kind"]), (0, &json!("CronTabList")));
}

#[tokio::test]
async fn status_and_scale_are_written_apart() {
    let server = server().await;
    defined(&server).await;
    let mut object = tab("a", json!({"cronSpec": "* * * * *"}));
    object["status"] = json!({"replicas": 7});
    let (_, made) = ask(&server, "POST", TABS, object).await;
    assert!(made.get("status").is_none(), "{made}");
    let one = format!("{TABS}/a");
    let (code, body) = ask(
        &server,
        "PATCH",
        &format!("{one}/status"),
        json!({"status": {"replicas": 2, "selector": "a=b"}, "spec": {"image": "x"}}),
    )
    .await;
    assert_eq!(code, 200, "{body}");
    assert_eq!((&body["spec"]["image"], &body["metadata"]["generation"]), (&json!("busybox"), &json!(1)));
    let (_, scale) = ask(&server, "GET", &format!("{one}/scale"), Value::Null).await;
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]),
        (&json!(1), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let (code, scaled) =
        ask(&server, "PATCH", &format!("{one}/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)), "{scaled}");
    let (_, now) = ask(&server, "GET", &one, Value::Null).await;
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(4), &json!(2)));
    let (code, refused) = ask(&server, "PATCH", &one, json!({"spec": {"image": "other"}})).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("image is fixed"), "{refused}");
    let (code, refused) =
        ask(&server, "PATCH", &format!("{one}/scale"), json!({"spec": {"replicas": 40}})).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn apply_knows_the_lists_of_a_custom_object() {
    let server = server().await;
    defined(&server).await;
    let apply = async |manager: &str, spec: Value| {
        let uri = format!("{TABS}/a?fieldManager={manager}");
        let admin = Identity::new("admin", &["system:masters"]);
        let headers = [("content-type", "application/apply-patch+yaml")];
        let (code, _, body) = send(&server, admin, "PATCH", &uri, tab("a", spec).to_string(), &headers).await;
        (code, body)
    };
    let (code, body) = apply("one", json!({"cronSpec": "* * * * *", "jobs": [{"name": "x", "n": 1}]})).await;
    assert_eq!(code, 201, "{body}");
    let (code, body) = apply("two", json!({"cronSpec": "* * * * *", "jobs": [{"name": "y", "n": 2}]})).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(body["spec"]["jobs"].as_array().unwrap().len(), 2, "{body}");
    let (code, body) = apply("two", json!({"cronSpec": "* * * * *", "jobs": [{"name": "x", "n": 5}]})).await;
    assert_eq!((code, &body["reason"]), (409, &json!("Conflict")));
    let (code, body) = apply("one", json!({"cronSpec": "* * * * *"})).await;
    assert_eq!((code, body["spec"]["jobs"].as_array().unwrap().len()), (200, 1), "{body}");
    let admin = Identity::new("admin", &["system:masters"]);
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let (code, _, body) = send(&server, admin, "PATCH", &format!("{TABS}/a"), "{}", &strategic).await;
    assert_eq!((code, &body["reason"]), (415, &json!("UnsupportedMediaType")), "{body}");
}

#[tokio::test]
async fn deleting_a_definition_deletes_its_objects_and_ends_its_watches() {
    let server = server().await;
    defined(&server).await;
    assert_eq!(ask(&server, "POST", TABS, tab("a", json!({"cronSpec": "* * * * *"}))).await.0, 201);
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("stable.example.com", "v1", "CronTab"));
    let api: Api<DynamicObject> = Api::default_namespaced_with(crate::support::client(&server), &resource);
    let mut watch = api.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    let (code, going) =
        ask(&server, "DELETE", &format!("{DEFINITIONS}/crontabs.stable.example.com"), Value::Null).await;
    assert_eq!(code, 200, "{going}");
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let deleted = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert!(matches!(deleted, Some(Ok(WatchEvent::Deleted(_)))), "{deleted:?}");
    assert!(tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().is_none());
    until(&server, &format!("{DEFINITIONS}/crontabs.stable.example.com"), false).await;
    until(&server, TABS, false).await;
    let (_, groups) = ask(&server, "GET", "/apis", Value::Null).await;
    assert!(!groups.to_string().contains("stable.example.com"));
    defined(&server).await;
    let (_, list) = ask(&server, "GET", TABS, Value::Null).await;
    assert_eq!(list["items"], json!([]), "what comes again starts empty");
}

#[tokio::test]
async fn definitions_and_objects_survive_a_restart() {
    let store = Arc::new(Embedded::in_memory());
    let first = ApiServer::start(Config::new(store.clone())).await.unwrap();
    defined(&first).await;
    assert_eq!(ask(&first, "POST", TABS, tab("a", json!({"cronSpec": "* * * * *"}))).await.0, 201);
    first.stop();
    drop(first);
    let second = ApiServer::start(Config::new(store)).await.unwrap();
    let (code, body) = ask(&second, "GET", &format!("{TABS}/a"), Value::Null).await;
    assert_eq!((code, &body["spec"]["cronSpec"]), (200, &json!("* * * * *")));
}

#[tokio::test]
async fn versions_without_conversion_differ_in_their_name_and_defaults_come_on_reading() {
    let server = server_with(|_| {}).await;
    let mut definition = crontab();
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] =
        json!({"type": "string", "default": "new"});
    definition["spec"]["versions"].as_array_mut().unwrap().push(second);
    assert_eq!(ask(&server, "POST", DEFINITIONS, definition).await.0, 201);
    until(&server, TABS, true).await;
    assert_eq!(ask(&server, "POST", TABS, tab("a", json!({"cronSpec": "* * * * *"}))).await.0, 201);
    let (_, shown) = ask(&server, "GET", &format!("{}/a", TABS.replace("/v1/", "/v2/")), Value::Null).await;
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]["extra"]),
        (&json!("stable.example.com/v2"), &json!("new")),
        "{shown}"
    );
    let (_, group) = ask(&server, "GET", "/apis/stable.example.com", Value::Null).await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
}

/// Between `{"at": "host:1"}` in v2 and `{"host": "host", "port": 1}` in v1.
fn convert(request: &Value) -> Value {
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let one = |object: &Value| {
        let mut object = object.clone();
        let spec = &object["spec"];
        let new = match spec["at"].as_str().and_then(|at| at.split_once(':')) {
            Some((host, port)) => json!({"host": host, "port": port.parse::<i64>().unwrap()}),
            None => json!({"at": format!("{}:{}", spec["host"].as_str().unwrap(), spec["port"])}),
        };
        (object["apiVersion"], object["spec"]) = (json!(wanted), new);
        object
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(one).collect();
    match objects.iter().any(|o| o["spec"]["host"] == "lost") {
        true => json!({"result": {"status": "Failed", "message": "nobody knows it"}}),
        false => json!({"convertedObjects": objects, "result": {"status": "Success"}}),
    }
}

#[tokio::test]
async fn versions_are_converted_by_a_webhook_on_the_way_in_and_out() {
    let server = server().await;
    let converter = webhook(convert).await;
    let version = |name: &str, storage: bool, properties: Value| {
        let spec = json!({"type": "object", "properties": properties});
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
    };
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "doors.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "doors", "kind": "Door"},
            "versions": [
                version("v1", true, json!({"host": {"type": "string"}, "port": {"type": "integer"}})),
                version("v2", false, json!({"at": {"type": "string"}})),
            ],
            "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                "clientConfig": {"url": converter.url, "caBundle": converter.bundle}}},
        },
    });
    let (code, body) = ask(&server, "POST", DEFINITIONS, definition).await;
    assert_eq!(code, 201, "{body}");
    let path = |version: &str| format!("/apis/example.com/{version}/namespaces/default/doors");
    until(&server, &path("v1"), true).await;
    let door = |version: &str, name: &str, spec: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Door", "metadata": {"name": name}, "spec": spec});
    let v1 = door("v1", "old", json!({"host": "a", "port": 1}));
    assert_eq!(ask(&server, "POST", &path("v1"), v1).await.0, 201);
    assert_eq!(converter.calls.load(Ordering::SeqCst), 0, "what is stored as it came needs nobody");
    let (code, made) = ask(&server, "POST", &path("v2"), door("v2", "new", json!({"at": "b:2"}))).await;
    assert_eq!(
        (code, &made["spec"], &made["apiVersion"]),
        (201, &json!({"at": "b:2"}), &json!("example.com/v2")),
        "{made}"
    );

    let (_, shown) = ask(&server, "GET", &format!("{}/new", path("v1")), Value::Null).await;
    assert_eq!(shown["spec"], json!({"host": "b", "port": 2}), "{shown}");
    let (_, list) = ask(&server, "GET", &path("v2"), Value::Null).await;
    let specs: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|i| &i["spec"]).collect();
    assert_eq!(specs, [&json!({"at": "b:2"}), &json!({"at": "a:1"})], "{list}");
    let patch = json!({"spec": {"at": "c:3"}});
    let (code, changed) = ask(&server, "PATCH", &format!("{}/old", path("v2")), patch).await;
    assert_eq!((code, &changed["spec"]["at"]), (200, &json!("c:3")), "{changed}");
    let (_, shown) = ask(&server, "GET", &format!("{}/old", path("v1")), Value::Null).await;
    assert_eq!(shown["spec"], json!({"host": "c", "port": 3}), "{shown}");

    let (code, refused) = ask(&server, "POST", &path("v2"), door("v2", "x", json!({"at": "lost:9"}))).await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        code == 500
            && message.contains("conversion webhook for example.com")
            && message.contains("nobody knows it"),
        "{refused}"
    );
    assert_eq!(
        ask(&server, "GET", &format!("{}/x", path("v1")), Value::Null).await.0,
        404,
        "nothing is half there"
    );
}

#[tokio::test]
async fn a_definition_that_is_wrong_is_refused_with_the_reason() {
    let server = server().await;
    let mut wrong = crontab();
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"]
        [0]["rule"] = json!("self.nope == 1");
    let (code, refused) = ask(&server, "POST", DEFINITIONS, wrong).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("undefined field 'nope'"), "{refused}");
    let mut wrong = crontab();
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"] =
        json!({});
    let (code, refused) = ask(&server, "POST", DEFINITIONS, wrong).await;
    assert_eq!(code, 422);
    assert!(
        refused["message"].as_str().unwrap().contains(
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[x].type: Required value: must not be empty for specified object fields"
        ),
        "{refused}"
    );
}

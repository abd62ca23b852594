//! Creating, reading, changing, deleting.

use crate::support::{ask, client, config_map, objects, send, server, server_with};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use orlop_apiserver::Identity;
use serde_json::{Value, json};
use std::sync::Arc;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let server = server().await;
    let client = client(&server);
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let made = config_map(&client, "a", json!({"x": "1"}), "v").await;
    let uid = made.metadata.uid.clone().expect("a uid");
    let read = maps.get("a").await.unwrap();
    assert_eq!(read.metadata.uid.as_ref(), Some(&uid));
    assert_eq!(read.metadata.resource_version, made.metadata.resource_version);
    assert!(read.metadata.creation_timestamp.is_some());

    let mut changed = read.clone();
    changed.data.as_mut().unwrap().insert("k".into(), "w".into());
    let changed = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(changed.metadata.resource_version, read.metadata.resource_version);
    let again = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(again.metadata.resource_version, changed.metadata.resource_version, "nothing changed");

    let stale = maps.replace("a", &PostParams::default(), &read).await.unwrap_err();
    let kube::Error::Api(status) = stale else { panic!("{stale}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));

    let patch = Patch::Merge(json!({"data": {"k": null, "n": "1"}}));
    let patched = maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(serde_json::to_value(patched.data).unwrap(), json!({"n": "1"}));

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_wrong_with_a_create_is_said_as_kubernetes_says_it() {
    let server = server().await;
    let (code, _) = ask(&server, "POST", MAPS, map("taken")).await;
    assert_eq!(code, 201);
    let with = |path: &str, value: Value| {
        let mut object = map("fresh");
        match path.rsplit_once('/') {
            Some((parent, key)) => object.pointer_mut(parent).unwrap()[key] = value,
            None => unreachable!("paths begin with a slash"),
        }
        object
    };
    let cases: Vec<(&str, Value, u16, &str, &str)> = vec![
        (MAPS, map("taken"), 409, "AlreadyExists", "configmaps \"taken\" already exists"),
        (MAPS, map("Not_A_Name"), 422, "Invalid", "ConfigMap \"Not_A_Name\" is invalid: metadata.name"),
        (
            MAPS,
            with("/kind", json!("Secret")),
            400,
            "BadRequest",
            "Secret in version \"v1\" cannot be handled as a ConfigMap",
        ),
        (
            MAPS,
            with("/apiVersion", json!("apps/v1")),
            400,
            "BadRequest",
            "the API version in the data (apps/v1) does not match the expected API version (v1)",
        ),
        (
            MAPS,
            with("/metadata/namespace", json!("other")),
            400,
            "BadRequest",
            "the namespace of the provided object does not match",
        ),
        (
            MAPS,
            with("/metadata/resourceVersion", json!("1")),
            400,
            "BadRequest",
            "resourceVersion should not be set on objects to be created",
        ),
        (
            MAPS,
            with("/data", json!("text")),
            400,
            "BadRequest",
            "cannot be handled as a ConfigMap: json: cannot unmarshal string",
        ),
        ("/api/v1/namespaces/none/configmaps", map("x"), 404, "NotFound", "namespaces \"none\" not found"),
        (
            "/api/v1/namespaces/default/nonsense",
            map("x"),
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        ("/api/v1/configmaps", map("x"), 405, "MethodNotAllowed", "the server does not allow this method"),
        ("/api/v1/namespaces/default/configmaps?dryRun=Some", map("x"), 422, "Invalid", "dryRun"),
    ];
    for (uri, body, code, reason, message) in cases {
        let (got, status) = ask(&server, "POST", uri, body.clone()).await;
        assert_eq!((got, status["reason"].as_str()), (code, Some(reason)), "{uri} {body}: {status}");
        assert!(status["message"].as_str().unwrap().contains(message), "{body}: {status}");
        assert_eq!(status["kind"], "Status");
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let server = server().await;
    let admin = || Identity::new("admin", &["system:masters"]);
    let large = json!({"metadata": {"name": "x"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "env": [{"name": "LARGE", "value": "x".repeat(2 << 20)}]},
        ]}},
    }});
    let (code, status) = ask(&server, "POST", "/apis/apps/v1/namespaces/default/deployments", large).await;
    assert_eq!((code, status["reason"].as_str()), (413, Some("RequestEntityTooLarge")), "{status}");
    let cases: Vec<(Vec<u8>, &str, u16)> = vec![
        (b"{".to_vec(), "application/json", 400),
        (b"[1,2]".to_vec(), "application/json", 400),
        ("[".repeat(5000).into_bytes(), "application/json", 400),
        (b"a: [".to_vec(), "application/yaml", 400),
        (b"{}".to_vec(), "application/vnd.kubernetes.protobuf", 400),
        (b"{}".to_vec(), "application/cbor", 415),
        (vec![b' '; 4 << 20], "application/json", 413),
        (b"kind: ConfigMap\nmetadata: {name: from-yaml}\n".to_vec(), "application/yaml", 201),
    ];
    for (body, kind, code) in cases {
        let start = String::from_utf8_lossy(&body[..body.len().min(30)]).into_owned();
        let (got, _, status) = send(&server, admin(), "POST", MAPS, body, &[("content-type", kind)]).await;
        assert_eq!(got, code, "{start}: {status}");
    }
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused_as_the_client_wishes() {
    let server = server().await;
    let admin = || Identity::new("admin", &["system:masters"]);
    for (validation, code, warned) in [("Ignore", 201, false), ("Warn", 201, true), ("Strict", 400, false)] {
        let body = json!({"metadata": {"name": validation.to_lowercase()}, "sepc": 1}).to_string();
        let uri = format!("{MAPS}?fieldValidation={validation}");
        let (got, headers, object) =
            send(&server, admin(), "POST", &uri, body, &[("content-type", "application/json")]).await;
        assert_eq!(got, code, "{object}");
        assert_eq!(headers.contains_key("warning"), warned, "{validation}");
        assert!(object.get("sepc").is_none());
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = server().await;
    let (code, made) = ask(&server, "POST", &format!("{MAPS}?dryRun=All"), map("a")).await;
    assert_eq!(code, 201);
    assert_eq!(made["metadata"]["name"], "a");
    assert_eq!(ask(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.0, 404);
    ask(&server, "POST", MAPS, map("a")).await;
    let (_, before) = ask(&server, "GET", &format!("{MAPS}/a"), Value::Null).await;
    let (code, shown) =
        ask(&server, "PATCH", &format!("{MAPS}/a?dryRun=All"), json!({"data": {"k": "other"}})).await;
    assert_eq!((code, &shown["data"]["k"]), (200, &json!("other")));
    let (code, _) = ask(&server, "DELETE", &format!("{MAPS}/a?dryRun=All"), Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(ask(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.1, before);
}

#[tokio::test]
async fn generated_names_are_unique() {
    let server = server().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let body = json!({"metadata": {"generateName": "job-"}});
        let (code, object) = ask(&server, "POST", MAPS, body).await;
        assert_eq!(code, 201, "{object}");
        names.insert(object["metadata"]["name"].as_str().unwrap().to_string());
    }
    assert_eq!(names.len(), 50);
    assert!(names.iter().all(|n| n.len() == 9 && n.starts_with("job-")));
}

#[tokio::test]
async fn an_object_with_finalizers_goes_when_the_last_of_them_goes() {
    let server = server().await;
    let mut object = map("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    ask(&server, "POST", MAPS, object).await;
    let (code, marked) = ask(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let (code, status) = ask(
        &server,
        "PATCH",
        &format!("{MAPS}/a"),
        json!({"metadata": {"finalizers": ["a.b/c", "example.com/hold"]}}),
    )
    .await;
    assert_eq!(code, 422, "{status}");
    let (code, shown) =
        ask(&server, "PATCH", &format!("{MAPS}/a"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    assert_eq!(shown["metadata"]["finalizers"], Value::Null, "shown as it was asked for");
    assert_eq!(ask(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.0, 404);
}

#[tokio::test]
async fn deletes_respect_preconditions_and_propagation() {
    let server = server().await;
    let (_, made) = ask(&server, "POST", MAPS, map("a")).await;
    let wrong = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "another"}});
    let (code, status) = ask(&server, "DELETE", &format!("{MAPS}/a"), wrong).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let options = json!({
        "preconditions": {"uid": made["metadata"]["uid"]}, "propagationPolicy": "Foreground",
    });
    let (code, marked) = ask(&server, "DELETE", &format!("{MAPS}/a"), options).await;
    assert_eq!(code, 200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = server().await;
    let client = client(&server);
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        config_map(&client, name, json!({"app": app}), "v").await;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=x")).await.unwrap();
    let left: Vec<_> = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .filter_map(|m| m.metadata.name)
        .collect();
    assert_eq!(left, ["c"]);
}

#[tokio::test]
async fn lists_come_in_pages_that_show_one_revision() {
    let server = server().await;
    let client = client(&server);
    for n in 0..25 {
        config_map(&client, &format!("m{n:02}"), json!({}), "v").await;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut params = ListParams::default().limit(10);
    let mut seen = Vec::new();
    let mut remaining = Vec::new();
    loop {
        let page = maps.list(&params).await.unwrap();
        remaining.push(page.metadata.remaining_item_count);
        seen.extend(page.items.into_iter().filter_map(|m| m.metadata.name));
        // What happens meanwhile is not seen on later pages.
        config_map(&client, &format!("m{}x", seen.len()), json!({}), "v").await;
        maps.delete("m24", &DeleteParams::default()).await.ok();
        match page.metadata.continue_ {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(seen, (0..25).map(|n| format!("m{n:02}")).collect::<Vec<_>>());
    assert_eq!(remaining, [Some(15), Some(5), None]);
}

#[tokio::test]
async fn lists_are_selected_by_labels_and_fields() {
    let server = server().await;
    let client = client(&server);
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        config_map(&client, name, json!({"app": app}), "v").await;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let cases: [(ListParams, &[&str]); 5] = [
        (ListParams::default().labels("app=x"), &["a", "b"]),
        (ListParams::default().labels("app notin (x)"), &["c"]),
        (ListParams::default().fields("metadata.name=b"), &["b"]),
        (ListParams::default().fields("metadata.name!=b").labels("app"), &["a", "c"]),
        (ListParams::default().fields("metadata.namespace=other"), &[]),
    ];
    for (params, expected) in cases {
        let list = maps.list(&params).await.unwrap();
        let names: Vec<_> = list.items.iter().filter_map(|m| m.metadata.name.as_deref()).collect();
        assert_eq!(names, expected, "{params:?}");
    }
    for query in ["labelSelector=a%20b", "fieldSelector=spec.x=1", "fieldSelector=nonsense"] {
        let (code, status) = ask(&server, "GET", &format!("{MAPS}?{query}"), Value::Null).await;
        assert_eq!(code, 400, "{query}: {status}");
    }
}

#[tokio::test]
async fn a_namespace_is_emptied_before_it_goes() {
    let server = server().await;
    let namespaces: Api<Namespace> = Api::all(client(&server));
    let names: Vec<_> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .filter_map(|n| n.metadata.name)
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    assert_eq!(ask(&server, "DELETE", "/api/v1/namespaces/default", Value::Null).await.0, 403);

    let body = json!({"metadata": {"name": "room"}});
    let (code, made) = ask(&server, "POST", "/api/v1/namespaces", body).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "room");
    let (_, marked) = ask(&server, "DELETE", "/api/v1/namespaces/room", Value::Null).await;
    assert_eq!(marked["status"]["phase"], "Terminating");
    let (code, status) = ask(&server, "POST", "/api/v1/namespaces/room/configmaps", map("late")).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().unwrap().contains("because it is being terminated"), "{status}");
    let mut empty = marked.clone();
    empty["spec"]["finalizers"] = json!([]);
    let (code, status) = ask(&server, "PUT", "/api/v1/namespaces/room/finalize", empty).await;
    assert_eq!(code, 200, "{status}");
    assert_eq!(ask(&server, "GET", "/api/v1/namespaces/room", Value::Null).await.0, 404);
}

#[tokio::test]
async fn status_and_scale_are_written_apart_from_the_rest() {
    let server = server().await;
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let body = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
        "status": {"replicas": 9},
    });
    let (code, made) = ask(&server, "POST", uri, body).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["status"].get("replicas").is_none(), "a create writes no status: {}", made["status"]);
    assert_eq!(made["metadata"]["generation"], 1);

    let patch = json!({"spec": {"replicas": 7}, "status": {"replicas": 1}});
    let (code, status) = ask(&server, "PATCH", &format!("{uri}/web/status"), patch.clone()).await;
    assert_eq!(code, 200, "{status}");
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(status["metadata"]["generation"], 1);

    let (_, whole) = ask(
        &server,
        "PATCH",
        &format!("{uri}/web"),
        json!({"spec": {"replicas": 3}, "status": {"replicas": 5}}),
    )
    .await;
    assert_eq!((&whole["spec"]["replicas"], &whole["status"]["replicas"]), (&json!(3), &json!(1)));
    assert_eq!(whole["metadata"]["generation"], 2);

    let (code, scale) = ask(&server, "GET", &format!("{uri}/web/scale"), Value::Null).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=web"}));
    let (code, scale) =
        ask(&server, "PATCH", &format!("{uri}/web/scale"), json!({"spec": {"replicas": 4}})).await;
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(4)));
    let (code, _) =
        ask(&server, "PATCH", &format!("{uri}/web/scale"), json!({"spec": {"replicas": -1}})).await;
    assert_eq!(code, 422);
    let object = objects(&client(&server), "apps", "Deployment").get("web").await.unwrap();
    assert_eq!(object.data["spec"]["replicas"], 4);
}

#[tokio::test]
async fn a_server_that_stops_still_answers_writes() {
    let server = server().await;
    server.stop();
    let written = ask(&server, "POST", MAPS, map("late"));
    let (code, _) =
        tokio::time::timeout(std::time::Duration::from_secs(20), written).await.expect("an answer");
    assert_eq!(code, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_race_lose_nothing() {
    let server = server().await;
    ask(&server, "POST", MAPS, json!({"metadata": {"name": "a"}})).await;
    let tasks: Vec<_> = (0..80)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let patch = json!({"data": {format!("k{n}"): "v"}});
                ask(&server, "PATCH", &format!("{MAPS}/a"), patch).await.0
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    let (_, map) = ask(&server, "GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(map["data"].as_object().unwrap().len(), 80);
}

#[tokio::test]
async fn server_side_apply_tells_who_owns_what() {
    let server = server().await;
    let apply = |manager: &'static str, value: &'static str, force: bool| {
        let server = server.clone();
        async move {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
            let uri = format!("{MAPS}/a?fieldManager={manager}&force={force}");
            let admin = Identity::new("admin", &["system:masters"]);
            let headers = [("content-type", "application/apply-patch+yaml")];
            let (code, _, value) = send(&server, admin, "PATCH", &uri, body.to_string(), &headers).await;
            (code, value)
        }
    };
    assert_eq!(apply("one", "1", false).await.0, 201);
    let (code, same) = apply("one", "1", false).await;
    assert_eq!(code, 200);
    let (code, status) = apply("two", "2", false).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")), "{status}");
    assert!(status["message"].as_str().unwrap().contains("conflict with \"one\""), "{status}");
    let (code, forced) = apply("two", "2", true).await;
    assert_eq!((code, &forced["data"]["k"]), (200, &json!("2")));
    assert_ne!(forced["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn strangers_are_told_what_they_may_not() {
    let server = server().await;
    let get = |who: Identity, uri: &'static str| {
        let server = server.clone();
        async move { send(&server, who, "GET", uri, "", &[]).await }
    };
    let (code, _, status) = get(Identity::new("x", &[]), "/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(get(Identity::anonymous(), "/livez").await.0, 200);
    assert_eq!(get(Identity::anonymous(), "/apis").await.0, 403);
    assert_eq!(get(Identity::new("x", &[]), "/apis").await.0, 200);
}

#[tokio::test]
async fn a_list_that_is_continued_too_late_goes_on_as_things_are_then() {
    let minutes = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let clock = minutes.clone();
    let server = server_with(move |config| {
        config.clock = Arc::new(move || {
            let minutes = clock.load(std::sync::atomic::Ordering::SeqCst);
            jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_mins(minutes)
        });
    })
    .await;
    let path = "/api/v1/namespaces/default/configmaps";
    for n in 0..6 {
        ask(&server, "POST", path, json!({"metadata": {"name": format!("m{n}")}})).await;
    }
    let (_, first) = ask(&server, "GET", &format!("{path}?limit=2"), Value::Null).await;
    let text = |value: &Value, pointer: &str| value.pointer(pointer).unwrap().as_str().unwrap().to_string();
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|o| text(o, "/metadata/name")).collect()
    };
    let token = text(&first, "/metadata/continue");
    ask(&server, "DELETE", &format!("{path}/m3"), Value::Null).await;
    minutes.store(5, std::sync::atomic::Ordering::SeqCst);
    let next = format!("{path}?limit=2&continue={token}");
    let (_, second) = ask(&server, "GET", &next, Value::Null).await;
    assert_eq!(
        (names(&second), &second["metadata"]["remainingItemCount"]),
        (vec!["m2".into(), "m3".into()], &json!(2))
    );
    minutes.store(6, std::sync::atomic::Ordering::SeqCst);
    let (code, late) = ask(&server, "GET", &next, Value::Null).await;
    assert_eq!((code, text(&late, "/reason").as_str()), (410, "Expired"));
    assert!(text(&late, "/message").starts_with("The provided continue parameter is too old"));
    let rest = text(&late, "/metadata/continue");
    let (_, second) = ask(&server, "GET", &format!("{path}?limit=2&continue={rest}"), Value::Null).await;
    assert_eq!(
        (names(&second), &second["metadata"]["remainingItemCount"]),
        (vec!["m2".into(), "m4".into()], &json!(1))
    );
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = text(&second, "/metadata/continue");
    let (_, third) = ask(&server, "GET", &format!("{path}?limit=2&continue={token}"), Value::Null).await;
    assert_eq!(third["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["m5".into()], None));
}

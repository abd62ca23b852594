//! ComponentStatus: deprecated, but asked for.

use crate::support::{ask, send, server};
use orlop_apiserver::Identity;
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

const PATH: &str = "/api/v1/componentstatuses";

#[tokio::test]
async fn components_say_themselves_whether_they_are_well() {
    let server = server().await;
    let well = Arc::new(AtomicBool::new(true));
    let seen = well.clone();
    server.show_component("scheduler", move || match seen.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err("it has ended".into()),
    });
    let admin = || Identity::new("admin", &["system:masters"]);
    let (code, headers, all) = send(&server, admin(), "GET", PATH, "", &[]).await;
    assert_eq!((code, &all["kind"]), (200, &json!("ComponentStatusList")));
    assert_eq!(headers["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let names: Vec<_> =
        all["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["etcd-0", "scheduler"]);
    assert_eq!(
        all["items"][0]["conditions"],
        json!([{"type": "Healthy", "status": "True", "message": "ok"}])
    );

    well.store(false, Ordering::Relaxed);
    let (_, one) = ask(&server, "GET", &format!("{PATH}/scheduler"), Value::Null).await;
    assert_eq!(one["conditions"], json!([{"type": "Healthy", "status": "False", "error": "it has ended"}]));
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let (_, _, table) = send(&server, admin(), "GET", PATH, "", &table).await;
    assert_eq!(table["rows"][1]["cells"], json!(["scheduler", "Unhealthy", "", "it has ended"]));

    let (_, selected) =
        ask(&server, "GET", &format!("{PATH}?fieldSelector=metadata.name%3Detcd-0"), Value::Null).await;
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1));
    let (code, status) = ask(&server, "GET", &format!("{PATH}/other"), Value::Null).await;
    assert_eq!((code, &status["message"]), (500, &json!("Component not found: other")));
    assert_eq!(ask(&server, "POST", PATH, json!({"metadata": {"name": "x"}})).await.0, 405);
    assert_eq!(send(&server, Identity::new("joe", &[]), "GET", PATH, "", &[]).await.0, 403);
    let (_, resources) = ask(&server, "GET", "/api/v1", Value::Null).await;
    let listed = resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == "componentstatuses");
    assert_eq!(listed.unwrap()["shortNames"], json!(["cs"]));
}

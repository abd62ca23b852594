//! What containers find in their volumes.

use crate::cluster::{Cluster, shell};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn volumes_hold_what_they_should_and_follow_changes() {
    let cluster = Cluster::start().await;
    let maps = Api::<ConfigMap>::namespaced(cluster.client.clone(), "default");
    let secrets = Api::<Secret>::namespaced(cluster.client.clone(), "default");
    let map = json!({"metadata": {"name": "cm"}, "data": {"color": "red"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
    let secret = json!({"metadata": {"name": "pw"}, "stringData": {"word": "open"}});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let host = cluster.path("host");
    let script = "stat -L -c '%a %g' /pw/word /own; cat /pw/word; echo; stat -f -c %T /pw /mem; cat /token/ns; echo; \
        test -s /token/token && echo token; touch /ro/x || echo read-only; echo kept > /host/file; ls /part; \
        while true; do cat /cm/color; echo; sleep 0.1; done";
    let mut c = shell("c", script);
    c["volumeMounts"] = json!([{"name": "cm", "mountPath": "/cm"}, {"name": "pw", "mountPath": "/pw"},
        {"name": "own", "mountPath": "/own"}, {"name": "own", "mountPath": "/ro", "readOnly": true},
        {"name": "mem", "mountPath": "/mem"}, {"name": "host", "mountPath": "/host"},
        {"name": "cm", "mountPath": "/part/color", "subPath": "color"}, {"name": "token", "mountPath": "/token"}]);
    let spec = json!({"containers": [c], "terminationGracePeriodSeconds": 0, "securityContext": {"fsGroup": 77},
        "volumes": [{"name": "cm", "configMap": {"name": "cm"}},
            {"name": "pw", "secret": {"secretName": "pw", "defaultMode": 0o400}},
            {"name": "own", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": host, "type": "DirectoryOrCreate"}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}]});
    cluster.create("vols", spec).await;
    let pod = cluster.ready("vols").await;
    let log = async |part: &str| {
        for _ in 0..1000 {
            if cluster.log(&pod, "c", 0).contains(part) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{part:?} is not in {}", cluster.log(&pod, "c", 0));
    };
    for part in
        ["440 77\n2777 77\nopen\n", "tmpfs\ntmpfs\n", "default\ntoken\n", "read-only\n", "color\n", "red\n"]
    {
        log(part).await;
    }
    assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "kept\n");
    let patch = json!({"data": {"color": "blue"}});
    maps.patch("cm", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    log("blue\n").await;
}

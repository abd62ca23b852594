//! Bodies in Kubernetes' protobuf, as kubectl's typed commands send them.

use crate::{
    support::{ask, server},
    tls::served,
};
use http_body_util::BodyExt;
use orlop_apiserver::Identity;
use orlop_schema::protobuf;
use serde_json::{Value, json};
use tower::Service;

#[tokio::test]
async fn who_takes_nothing_but_protobuf_gets_it_and_everybody_else_json() {
    let server = server().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let uri = "/api/v1/namespaces/default/configmaps";
    let send = async |method: &str, uri: &str, accept: &str, body: &Value| {
        let body = if body.is_null() { Vec::new() } else { protobuf::encode(body).unwrap() };
        let request = http::Request::builder().method(method).uri(uri).header("accept", accept);
        let request = request.header("content-type", protobuf::MEDIA_TYPE);
        let request = request.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap();
        let admin = Identity::new("admin", &["system:masters"]);
        let response = server.service_for(admin).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let kind = parts.headers["content-type"].to_str().unwrap().to_string();
        (parts.status.as_u16(), kind, body.collect().await.unwrap().to_bytes())
    };
    let (code, kind, bytes) = send("POST", uri, protobuf::MEDIA_TYPE, &map).await;
    assert_eq!((code, kind.as_str()), (201, protobuf::MEDIA_TYPE));
    let (_, stored) = ask(&server, "GET", &format!("{uri}/m"), Value::Null).await;
    assert_eq!(protobuf::decode(&bytes).unwrap(), stored);
    assert_eq!(stored["data"], map["data"]);

    let (_, kind, bytes) = send("GET", uri, protobuf::MEDIA_TYPE, &Value::Null).await;
    assert_eq!(kind, protobuf::MEDIA_TYPE);
    let list = protobuf::decode(&bytes).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["data"]), (&json!("ConfigMapList"), &map["data"]));
    assert!(list["metadata"]["resourceVersion"].is_string());

    let either = format!("{},application/json", protobuf::MEDIA_TYPE);
    assert_eq!(send("GET", uri, &either, &Value::Null).await.1, "application/json");
    let watch = format!("{uri}?watch=true");
    assert_eq!(send("GET", &watch, protobuf::MEDIA_TYPE, &Value::Null).await.0, 406);

    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "another"}});
    let one = format!("{uri}/m");
    assert_eq!(send("DELETE", &one, protobuf::MEDIA_TYPE, &options).await.0, 409, "options are read");
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
    let (code, _, bytes) = send("DELETE", &one, protobuf::MEDIA_TYPE, &options).await;
    assert_eq!((code, &protobuf::decode(&bytes).unwrap()["kind"]), (200, &json!("Status")));
    let patch = send("PATCH", &one, "*/*", &map).await;
    assert_eq!(patch.0, 415, "a patch has no protobuf");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kubectl_sends_as_protobuf_becomes_the_object_it_means() {
    let served = served().await;
    let kubectl = async |line: &str| {
        let args: Vec<&str> = line.split(' ').collect();
        let (out, err, good) = served.kubectl(&args, "").await;
        assert!(good, "kubectl {line}\n{out}{err}");
        out
    };
    let get = async |what: &str| {
        let (kind, name) = what.split_once(' ').expect("a kind and a name");
        let place = match kind {
            "namespace" | "node" => format!("/api/v1/{kind}s"),
            "deployment" => "/apis/apps/v1/namespaces/default/deployments".to_string(),
            "job" => "/apis/batch/v1/namespaces/default/jobs".to_string(),
            _ => format!("/api/v1/namespaces/default/{kind}s"),
        };
        let (code, object) = ask(&served.server, "GET", &format!("{place}/{name}"), Value::Null).await;
        assert_eq!(code, 200, "{what}: {object}");
        object
    };
    let at = |object: &Value, pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();

    kubectl("create namespace x").await;
    assert_eq!(at(&get("namespace x").await, "/status/phase"), "Active");

    kubectl("create configmap c --from-literal=empty= --from-literal=a=b").await;
    assert_eq!(at(&get("configmap c").await, "/data"), json!({"empty": "", "a": "b"}));

    kubectl("create secret generic s --from-literal=password=hunter2").await;
    assert_eq!(at(&get("secret s").await, "/data/password"), "aHVudGVyMg==");

    kubectl("create deployment web --image=registry.example/web:1 --replicas=0 --port=80").await;
    let web = get("deployment web").await;
    assert_eq!(at(&web, "/spec/replicas"), 0, "a zero that says something");
    let container = at(&web, "/spec/template/spec/containers/0");
    assert_eq!(container["imagePullPolicy"], "IfNotPresent", "an empty text says nothing: {container}");
    assert_eq!(container["ports"], json!([{"containerPort": 80, "protocol": "TCP"}]));

    kubectl("expose deployment web --port=8080 --target-port=http --name=front").await;
    assert_eq!(at(&get("service front").await, "/spec/ports/0/targetPort"), "http");
    kubectl("create service clusterip plain --tcp=80:8080").await;
    assert_eq!(at(&get("service plain").await, "/spec/ports/0/targetPort"), 8080);
    kubectl("scale deployment web --replicas=3").await;
    kubectl("scale deployment web --replicas=0").await;
    assert_eq!(at(&get("deployment web").await, "/spec/replicas"), 0);

    kubectl("create serviceaccount robot").await;
    let token = kubectl("create token robot --duration=20m").await;
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    kubectl("create serviceaccount default").await;
    kubectl("run one --image=registry.example/one:1 --restart=Never --env=A=b --labels=app=one").await;
    assert_eq!(at(&get("pod one").await, "/spec/containers/0/env"), json!([{"name": "A", "value": "b"}]));

    kubectl("create job once --image=registry.example/once:1 -- do it").await;
    assert_eq!(at(&get("job once").await, "/spec/template/spec/containers/0/command"), json!(["do", "it"]));

    let (_, err, good) = served.kubectl(&["apply", "-f", "-"], NODE_AND_POD).await;
    assert!(good, "{err}");
    kubectl("cordon n1").await;
    assert_eq!(at(&get("node n1").await, "/spec/unschedulable"), true);
    let out = kubectl("drain n1 --force --grace-period=0 --timeout=20s").await;
    assert!(out.contains("pod/there evicted"), "{out}");
    kubectl("uncordon n1").await;
    assert_eq!(at(&get("node n1").await, "/spec/unschedulable"), Value::Null);

    kubectl("delete namespace/x configmap/c secret/s service/front deployment/web --wait=false").await;
    kubectl("delete pod one --grace-period=0 --force").await;
}

const NODE_AND_POD: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: there}
spec:
  nodeName: n1
  containers: [{name: c, image: 'registry.example/c:1'}]
";

//! The objects that every cluster has from its first moment: the system namespaces and priorities, and the Service through which pods
//! reach the API.

use crate::{
    ApiServer, Config, Error, FrontProxy, Identity,
    identity::MASTERS,
    registry::{Part, Resource, WriteContext, metadata, schema::Body, update::Change},
    request::WriteOptions,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use orlop_api::{Status, kinds::priority_class::SYSTEM_CLASSES};
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const NAME: &str = "kubernetes";

/// Makes what is missing and corrects what has changed.
pub(crate) async fn reconcile(server: &Arc<ApiServer>, service_address: IpAddr) -> Result<(), Error> {
    for name in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(server, ("", "v1", "namespaces"), "", object, false).await?;
    }
    for (name, value) in SYSTEM_CLASSES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
            "description": match name {
                "system-node-critical" => "Used for system critical pods that must not be moved from their current node.",
                _ => "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
            },
        });
        ensure(server, ("scheduling.k8s.io", "v1", "priorityclasses"), "", class, false).await?;
    }
    service_range(server).await?;
    if let Some(authentication) = authentication(&server.config) {
        ensure(server, ("", "v1", "configmaps"), "kube-system", authentication, true).await?;
    }
    if let Some(info) = cluster_info(&server.config) {
        ensure(server, ("", "v1", "configmaps"), "kube-public", info, true).await?;
    }
    let advertise = server.config.advertise;
    let labels = json!({"component": "apiserver", "provider": NAME});
    let port = advertise.port();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": service_address.to_string(), "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    ensure(server, ("", "v1", "services"), "default", service, true).await?;
    if advertise.ip().is_loopback() || advertise.ip().is_unspecified() {
        // No pod could reach the API there, and endpoints must not name such an address.
        tracing::debug!(%advertise, "the kubernetes Service gets no endpoints");
        return Ok(());
    }
    if !server.config.alone {
        return Ok(());
    }
    let address = advertise.ip().to_string();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": NAME, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    ensure(server, ("", "v1", "endpoints"), "default", endpoints, true).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    ensure(server, ("discovery.k8s.io", "v1", "endpointslices"), "default", slice, true).await
}

/// Where the API is and by which authority it can be known, for machines that join (Kubernetes documentation, "kubeadm
/// implementation details", "Make the bootstrap config available"). Who reads it without trust compares it with a pin.
fn cluster_info(config: &Config) -> Option<Value> {
    if config.client_authority.is_empty() || config.advertise.ip().is_unspecified() {
        return None;
    }
    let cluster = json!({
        "certificate-authority-data": BASE64_STANDARD.encode(&config.client_authority),
        "server": format!("https://{}", config.advertise),
    });
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}],
        "contexts": [], "current-context": "", "preferences": {}, "users": [],
    });
    Some(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        // JSON, which every YAML reader takes.
        "data": {"kubeconfig": kubeconfig.to_string()},
    }))
}

/// What a server that gets requests through this one must know to tell who asks (Kubernetes documentation, "Configure the Aggregation
/// Layer").
fn authentication(config: &Config) -> Option<Value> {
    let mut data = json!({});
    if !config.client_authority.is_empty() {
        data["client-ca-file"] = json!(config.client_authority);
    }
    if let Some(proxy) = &config.front_proxy {
        let list = |entry: &str| json!(json!([entry]).to_string());
        data["requestheader-allowed-names"] = list(FrontProxy::NAME);
        data["requestheader-client-ca-file"] = json!(proxy.authority);
        data["requestheader-extra-headers-prefix"] = list("X-Remote-Extra-");
        data["requestheader-group-headers"] = list("X-Remote-Group");
        data["requestheader-uid-headers"] = list("X-Remote-Uid");
        data["requestheader-username-headers"] = list("X-Remote-User");
    }
    let is_empty = data.as_object().is_none_or(|d| d.is_empty());
    (!is_empty).then(|| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        })
    })
}

/// The range of service addresses as an object, for who looks there.
async fn service_range(server: &Arc<ApiServer>) -> Result<(), Error> {
    let (group, version, plural) = ("networking.k8s.io", "v1", "servicecidrs");
    let ranges: Vec<String> =
        server.config.service_ranges.iter().map(|range| range.trunc().to_string()).collect();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME}, "spec": {"cidrs": ranges},
    });
    ensure(server, (group, version, plural), "", object, false).await?;
    let Some(resource) = server.registry.find(group, version, plural) else { return Ok(()) };
    let now = metadata::format_time(server.registry.now());
    let ready = json!({"type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Kubernetes Service CIDR is ready"});
    let written = server
        .registry
        .modify(&resource, Part::Status, ("", NAME), &context(), |_, old| {
            let mut object = old.clone();
            if orlop_api::object::condition(old, "Ready") != "True" {
                object["status"] = json!({"conditions": [ready]});
            }
            Ok(Change { object, warnings: Vec::new(), managed: false })
        })
        .await;
    let failed = |status: Status| Error::Default { what: format!("{plural} {NAME:?}"), why: status.message };
    written.map(drop).map_err(failed)
}

/// How the server itself writes.
fn context() -> WriteContext {
    let options = WriteOptions { field_manager: "kube-apiserver".into(), ..WriteOptions::default() };
    WriteContext { options, who: Arc::new(Identity::new("system:apiserver", &[MASTERS])) }
}

/// Creates an object that is not there, and where `correct` says so makes an existing one what it should be.
async fn ensure(
    server: &Arc<ApiServer>,
    (group, version, plural): (&str, &str, &str),
    namespace: &str,
    object: Value,
    correct: bool,
) -> Result<(), Error> {
    let Some(resource) = server.registry.find(group, version, plural) else { return Ok(()) };
    let resource: Arc<Resource> = resource.clone();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
    let body = |value: Value| Body { value, duplicates: Vec::new() };
    let failed = |status: Status| Error::Default { what: format!("{plural} {name:?}"), why: status.message };
    match resource.get(namespace, &name) {
        Err(_) => match server.registry.create(&resource, namespace, body(object), &context()).await {
            Ok(_) | Err(Status { reason: "AlreadyExists", .. }) => Ok(()),
            Err(status) => Err(failed(status)),
        },
        Ok(_) if !correct => Ok(()),
        Ok(existing) => {
            let mut object = object;
            // The address of an existing Service stays, whatever the range is now.
            if let Some(address) = existing.value().pointer("/spec/clusterIP") {
                object["spec"]["clusterIP"] = address.clone();
            }
            let at = (namespace, name.as_str());
            let updated = server.registry.update(&resource, Part::Whole, at, body(object), &context()).await;
            updated.map(drop).map_err(failed)
        }
    }
}

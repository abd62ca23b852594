//! Values of `fieldRef` and `resourceFieldRef` (the downward API): from the pod, its status and the node.

use crate::pod::PodExt;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use orlop_api::quantity::Quantity;
use std::{collections::BTreeMap, net::IpAddr};

/// What fields are read from.
pub(crate) struct FieldContext<'a> {
    pub pod: &'a Pod,
    /// Addresses of the pod; empty before it has any.
    pub pod_ips: &'a [IpAddr],
    /// Addresses of the node, the primary one first.
    pub host_ips: &'a [IpAddr],
    /// What the node can give: the limit of a container that has none.
    pub allocatable: &'a BTreeMap<String, Quantity>,
}

/// The value of a `fieldRef`.
pub(crate) fn field(context: &FieldContext<'_>, path: &str) -> Result<String, String> {
    let pod = context.pod;
    let ips = || context.pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    if let Some((map, key)) = path.split_once("['").and_then(|(m, k)| Some((m, k.strip_suffix("']")?))) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec_ref();
    Ok(match path {
        "metadata.name" => pod.name().into(),
        "metadata.namespace" => pod.namespace().into(),
        "metadata.uid" => pod.uid().into(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.podIP" => ips().first().cloned().unwrap_or_default(),
        "status.podIPs" => ips().join(","),
        "status.hostIP" => context.host_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.hostIPs" => context.host_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// A map as the downward API writes it: `key="escaped value"`, one a line.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let all = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v)));
    all.collect::<Vec<_>>().join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`, in units of its divisor, rounded up.
pub(crate) fn resource(
    context: &FieldContext<'_>,
    own: Option<&Container>,
    wanted: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = |name: &str| {
        let all = context.pod.containers();
        all.into_iter().map(|(_, c)| c).find(|c| c.name == name).cloned()
    };
    let container = match (&wanted.container_name, own) {
        (Some(name), _) if !name.is_empty() => {
            named(name).ok_or_else(|| format!("container {name} not found"))?
        }
        (_, Some(own)) => own.clone(),
        _ => return Err("resourceFieldRef needs a container name".into()),
    };
    let resources = container.resources.unwrap_or_default();
    let (map, name) = match wanted.resource.split_once('.') {
        Some(("limits", name)) => (resources.limits, name),
        Some(("requests", name)) => (resources.requests, name),
        _ => return Err(format!("unsupported container resource: {}", wanted.resource)),
    };
    let limits = wanted.resource.starts_with("limits.");
    let set = map.as_ref().and_then(|m| m.get(name)).map(Quantity::of).filter(|q| !q.is_zero());
    let amount = match set {
        Some(amount) => amount,
        None if limits => context.allocatable.get(name).copied().unwrap_or_default(),
        None => Quantity::ZERO,
    };
    let divisor = wanted.divisor.as_ref().map(Quantity::of).filter(|d| !d.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    let value = if name == "cpu" {
        ceil(amount.milli_value(), divisor.milli_value())
    } else {
        ceil(amount.value(), divisor.value())
    };
    Ok(value.to_string())
}

fn ceil(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount / divisor + i64::from(amount % divisor > 0)
}

//! Which container of which pod a person means.

use crate::{
    Error,
    api::{AS_JSON, Api},
    resources::Resources,
};
use serde_json::Value;

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A container, found.
pub(crate) struct Found {
    pub(crate) pod: String,
    pub(crate) container: String,
}

/// Finds a pod by its name, as `pod/NAME`, or as one of those that a workload or Service selects (`deploy/web`), and in it the
/// container that was named, or the one that it names itself, or the first.
pub(crate) async fn find(api: &Api, target: &str, container: Option<&str>) -> Result<Found, Error> {
    let object = match target.split_once('/') {
        None => pod_named(api, target).await?,
        Some((kind, name)) => {
            let resources = Resources::discover(api).await?;
            let resource = resources.find(kind)?;
            if resource.kind == "Pod" && resource.group.is_empty() {
                pod_named(api, name).await?
            } else {
                let owner = api.get(&resource.path(Some(&api.namespace), Some(name)), &[], AS_JSON).await?;
                pod_selected_by(api, target, &owner).await?
            }
        }
    };
    let container = choose_container(&object, container)?;
    let pod = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
    Ok(Found { pod, container })
}

fn pods_path(api: &Api, name: Option<&str>) -> String {
    let pods = crate::resources::Resource {
        version: "v1".into(),
        plural: "pods".into(),
        namespaced: true,
        ..Default::default()
    };
    pods.path(Some(&api.namespace), name)
}

/// The path of a subresource of a pod: `log`, `exec`.
pub(crate) fn subresource(api: &Api, pod: &str, name: &str) -> String {
    format!("{}/{name}", pods_path(api, Some(pod)))
}

async fn pod_named(api: &Api, name: &str) -> Result<Value, Error> {
    api.get(&pods_path(api, Some(name)), &[], AS_JSON).await
}

async fn pod_selected_by(api: &Api, target: &str, owner: &Value) -> Result<Value, Error> {
    let selector = selector_of(owner)
        .ok_or_else(|| Error::Usage(format!("{target} selects no pods: name a pod, or a workload")))?;
    let list = api.get(&pods_path(api, None), &[("labelSelector", &selector)], AS_JSON).await?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let running = |pod: &&Value| pod["status"]["phase"] == "Running";
    let chosen = pods.iter().find(running).or(pods.first()).cloned();
    let chosen = chosen.ok_or_else(|| Error::Usage(format!("{target} has no pods")))?;
    if pods.len() > 1 {
        let name = chosen["metadata"]["name"].as_str().unwrap_or_default();
        eprintln!("Found {} pods, using pod/{name}", pods.len());
    }
    Ok(chosen)
}

/// The selector of a workload (a `LabelSelector`) or Service (a map), as a string.
fn selector_of(owner: &Value) -> Option<String> {
    let selector = owner["spec"]["selector"].as_object()?;
    let is_label_selector = selector.contains_key("matchLabels") || selector.contains_key("matchExpressions");
    let labels = if is_label_selector {
        selector.get("matchLabels").and_then(Value::as_object)
    } else {
        Some(selector)
    };
    let mut parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for rule in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = rule["key"].as_str()?;
        let values: Vec<&str> =
            rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match rule["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_string(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

fn choose_container(pod: &Value, asked: Option<&str>) -> Result<String, Error> {
    let names = |key: &str| -> Vec<&str> {
        let containers = pod["spec"][key].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(asked) = asked {
        if [&main, &init, &ephemeral].into_iter().flatten().any(|name| *name == asked) {
            return Ok(asked.to_string());
        }
        return Err(Error::Usage(format!("container {asked} not found in pod {pod_name}")));
    }
    let own = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    if let Some(own) = own.filter(|own| main.contains(own)) {
        return Ok(own.to_string());
    }
    let Some(first) = main.first() else {
        return Err(Error::Answer(format!("pod {pod_name} has no containers")));
    };
    if main.len() > 1 {
        eprintln!("Defaulted container {first:?} out of: {}", main.join(", "));
    }
    Ok((*first).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_of_workloads_and_services_become_queries() {
        let deployment = json!({"spec": {"selector": {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"},
            ],
        }}});
        assert_eq!(selector_of(&deployment).unwrap(), "app=web,tier in (a,b),!old");
        assert_eq!(selector_of(&json!({"spec": {"selector": {"app": "web"}}})).unwrap(), "app=web");
        assert_eq!(selector_of(&json!({"spec": {}})), None);
    }

    #[test]
    fn the_container_is_the_one_named_or_the_pods_own_choice_or_the_first() {
        let mut pod = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
        });
        assert_eq!(choose_container(&pod, None).unwrap(), "a");
        assert_eq!(choose_container(&pod, Some("i")).unwrap(), "i");
        assert!(choose_container(&pod, Some("x")).unwrap_err().to_string().contains("container x not found"));
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(choose_container(&pod, None).unwrap(), "b");
    }
}

//! What pods use, as metrics.k8s.io tells it: the API server would ask the nodes, which here have nobody to ask. The pods that a question
//! selects share the load that they say they have together, as the pods behind a Service do.

use crate::{machine::LOAD, store::Witnessed};
use jiff::Timestamp;
use orlop_api::{
    object::{condition, list, text},
    selector::Selector,
};
use serde_json::{Value, json};

const PATH: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/";

/// The answer to a question about pods of a namespace; `None` where it is none.
pub(crate) fn answer(uri: &http::Uri, store: &Witnessed, now: Timestamp) -> Option<Value> {
    let namespace = uri.path().strip_prefix(PATH)?.strip_suffix("/pods")?;
    let mut query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let selector = query.find(|(key, _)| key == "labelSelector").map(|(_, value)| value.into_owned());
    let selector = Selector::parse(&selector.unwrap_or_default()).ok()?;
    let pods = store.objects(&format!("/registry/core/pods/{namespace}/"));
    Some(of_pods(&pods, &selector, now))
}

fn of_pods(pods: &[Value], selector: &Selector, now: Timestamp) -> Value {
    let labels = |pod: &Value| -> Vec<(String, String)> {
        let labels = pod["metadata"]["labels"].as_object().into_iter().flatten();
        labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect()
    };
    let selected = |pod: &&Value| {
        let labels = labels(pod);
        let value = |key: &str| labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        condition(pod, "Ready") == "True" && selector.matches_with(value)
    };
    let ready: Vec<&Value> = pods.iter().filter(selected).collect();
    let share = |pod: &Value| {
        let load: u64 =
            pod["metadata"]["annotations"][LOAD].as_str().and_then(|l| l.parse().ok()).unwrap_or(0);
        load / ready.len() as u64
    };
    let items = ready.iter().map(|pod| {
        let usage = json!({"cpu": format!("{}m", share(pod)), "memory": "32Mi"});
        let containers = list(pod, "/spec/containers").iter();
        let containers = containers.map(|c| json!({"name": c["name"], "usage": usage})).collect::<Vec<_>>();
        json!({
            "metadata": {"name": text(pod, "/metadata/name"), "namespace": text(pod, "/metadata/namespace")},
            "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "window": "15s", "containers": containers,
        })
    });
    json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_are_ready_share_their_load_and_the_others_are_left_out() {
        let pod = |name: &str, app: &str, ready: &str| {
            json!({"metadata": {"name": name, "labels": {"app": app}, "annotations": {LOAD: "300"}},
                "spec": {"containers": [{"name": "main"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let pods = [
            pod("a", "web", "True"),
            pod("b", "web", "True"),
            pod("c", "web", "False"),
            pod("d", "other", "True"),
        ];
        let selector = Selector::parse("app=web").expect("a selector");
        let told = of_pods(&pods, &selector, Timestamp::UNIX_EPOCH);
        let items = told["items"].as_array().expect("items");
        assert_eq!(items.iter().map(|i| text(i, "/metadata/name")).collect::<Vec<_>>(), ["a", "b"]);
        assert!(items.iter().all(|i| i["containers"][0]["usage"]["cpu"] == "150m"), "{told}");
    }
}

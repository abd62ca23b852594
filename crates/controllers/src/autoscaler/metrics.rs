//! Where the numbers come from: the resource, custom and external metrics APIs, asked for when they are needed. It decides nothing.

use super::calculate::{Sample, Samples};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use orlop_api::{
    object::{list, text},
    quantity::Quantity,
    selector::Selector,
};
use orlop_client::{api_message, api_reason};
use serde_json::Value;

/// Of a custom metric nothing is said about the time that it was measured over.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// The metrics of one namespace.
pub(super) struct Metrics<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
}

/// A text as part of a query.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let one = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(one).collect()
}

fn milli(quantity: &Value) -> Option<i64> {
    Quantity::from_json(quantity).ok().map(Quantity::milli_value)
}

impl Metrics<'_> {
    async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// What the selected pods use of a resource; one of their containers if it is named.
    pub(super) async fn of_pods(
        &self,
        resource: &str,
        selector: &str,
        container: Option<&str>,
    ) -> Result<Samples, String> {
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods?labelSelector={}",
            self.namespace,
            escaped(selector)
        );
        let failed = |why: String| format!("unable to get metrics for resource {resource}: {why}");
        let answer = self.get(&path).await.map_err(|e| {
            failed(format!("unable to fetch metrics from resource metrics API: {}", api_message(&e)))
        })?;
        let pods = list(&answer, "/items");
        if pods.is_empty() {
            return Err(failed("no metrics returned from resource metrics API".into()));
        }
        let mut samples = Samples::new();
        for pod in pods {
            let name = text(pod, "/metadata/name");
            let all = list(pod, "/containers");
            let wanted: Vec<_> =
                all.iter().filter(|c| container.is_none_or(|wanted| text(c, "/name") == wanted)).collect();
            if let Some(container) = container.filter(|_| wanted.is_empty()) {
                let pod = format!("{}/{name}", self.namespace);
                return Err(failed(format!("container {container} not present in metrics for pod {pod}")));
            }
            // A pod of which a container is not known is not known.
            let used: Option<Vec<i64>> = wanted.iter().map(|c| milli(&c["usage"][resource])).collect();
            let Some(used) = used.filter(|u| !u.is_empty()) else { continue };
            let window = text(pod, "/window").parse().unwrap_or(WINDOW);
            let Ok(at) = text(pod, "/timestamp").parse::<Timestamp>() else { continue };
            samples.insert(name.to_string(), Sample { value: used.into_iter().sum(), at, window });
        }
        Ok(samples)
    }

    /// The version of a group of metrics, if somebody serves it.
    async fn version(&self, group: &str) -> Option<String> {
        let groups = self.client.list_api_groups().await.ok()?.groups;
        let group = groups.into_iter().find(|g| g.name == group)?;
        group.preferred_version.or_else(|| group.versions.into_iter().next()).map(|v| v.group_version)
    }

    /// A metric of objects: `object` is the resource and the name, `pods/*` for all that the selector chooses, `metrics` for the
    /// namespace itself.
    pub(super) async fn custom(
        &self,
        object: &str,
        metric: (&str, Option<&LabelSelector>),
        selector: Option<&str>,
    ) -> Result<Samples, String> {
        let failed = |why: &str| format!("unable to fetch metrics from custom metrics API: {why}");
        let Some(version) = self.version("custom.metrics.k8s.io").await else {
            return Err(failed("no custom metrics API (custom.metrics.k8s.io) registered"));
        };
        let name = escaped(metric.0);
        let mut path = format!("/apis/{version}/namespaces/{}/{object}/{name}?", self.namespace);
        let of_metric = metric.1.map(|s| Selector::of(Some(s)).map(|s| s.to_string()));
        let of_metric = of_metric.transpose().map_err(|e| failed(&e.to_string()))?;
        for (name, value) in [("labelSelector", selector), ("metricLabelSelector", of_metric.as_deref())] {
            if let Some(value) = value {
                path.push_str(&format!("{name}={}&", escaped(value)));
            }
        }
        let answer = self.get(path.trim_end_matches(['&', '?'])).await;
        let answer = answer.map_err(|e| failed(&api_message(&e)))?;
        let mut samples = Samples::new();
        for item in list(&answer, "/items") {
            let Some(value) = milli(&item["value"]) else { continue };
            let Ok(at) = text(item, "/timestamp").parse() else { continue };
            let seconds = item["windowSeconds"].as_i64().map_or(WINDOW, SignedDuration::from_secs);
            let name = text(item, "/describedObject/name").to_string();
            samples.insert(name, Sample { value, at, window: seconds });
        }
        if samples.is_empty() {
            return Err("no metrics returned from custom metrics API".into());
        }
        Ok(samples)
    }

    /// A metric of one object.
    pub(super) async fn of_object(
        &self,
        object: &str,
        metric: (&str, Option<&LabelSelector>),
    ) -> Result<i64, String> {
        let samples = self.custom(object, metric, None).await?;
        match samples.values().collect::<Vec<_>>().as_slice() {
            [one] => Ok(one.value),
            several => Err(format!(
                "unable to fetch metrics from custom metrics API: the custom metrics API server returned {} results when we \
                 asked for exactly one",
                several.len()
            )),
        }
    }

    /// The sum of a metric from outside the cluster, in thousandths.
    pub(super) async fn external(&self, name: &str, selector: Option<&LabelSelector>) -> Result<i64, String> {
        let failed = |why: String| format!("unable to fetch metrics from external metrics API: {why}");
        let selector = selector.map(|s| Selector::of(Some(s)).map(|s| s.to_string()));
        let selector = selector.transpose().map_err(|e| failed(e.to_string()))?.unwrap_or_default();
        let mut path =
            format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}", self.namespace, escaped(name));
        if !selector.is_empty() {
            path.push_str(&format!("?labelSelector={}", escaped(&selector)));
        }
        let answer = self.get(&path).await.map_err(|error| {
            failed(match api_reason(&error) {
                Some("NotFound") => format!(
                    "the server could not find the requested resource (get {name}.external.metrics.k8s.io)"
                ),
                _ => api_message(&error),
            })
        })?;
        let values: Vec<i64> = list(&answer, "/items").iter().filter_map(|i| milli(&i["value"])).collect();
        if values.is_empty() {
            return Err("no metrics returned from external metrics API".into());
        }
        Ok(values.into_iter().fold(0, i64::saturating_add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_safe_in_a_query() {
        assert_eq!(escaped("app in (a,b),c!=d é"), "app%20in%20%28a%2Cb%29%2Cc%21%3Dd%20%C3%A9");
    }
}

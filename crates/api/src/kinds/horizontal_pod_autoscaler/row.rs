//! How the metrics of a HorizontalPodAutoscaler stand, on one line.

use crate::object::{list, text};
use serde_json::Value;

const UNKNOWN: &str = "<unknown>";
/// How many metrics are shown.
const SHOWN: usize = 2;

/// `cpu: 40%/80%, 5/10 + 1 more...`
pub(super) fn targets(object: &Value) -> String {
    let metrics = list(object, "/spec/metrics");
    if metrics.is_empty() {
        return crate::print::NONE.into();
    }
    let current = list(object, "/status/currentMetrics");
    let mut shown: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(at, metric)| target(metric, current.get(at).unwrap_or(&Value::Null)))
        .collect();
    let more = shown.len().saturating_sub(SHOWN);
    shown.truncate(SHOWN);
    let shown = shown.join(", ");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

fn target(metric: &Value, status: &Value) -> String {
    let (field, named) = match text(metric, "/type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".into(),
    };
    let wanted = &metric[field]["target"];
    let current = &status[field]["current"];
    let average = amount(wanted, "averageValue");
    if named {
        let name = text(&metric[field], "/name");
        let (current, wanted) = match average {
            Some(wanted) => (amount(current, "averageValue"), Some(wanted)),
            None => (percent(current), Some(percent(wanted).unwrap_or_else(|| "<auto>".into()))),
        };
        return format!("{name}: {}", pair(current, wanted));
    }
    match (field, average) {
        ("pods", average) => pair(amount(current, "averageValue"), average),
        (_, Some(wanted)) => format!("{} (avg)", pair(amount(current, "averageValue"), Some(wanted))),
        (_, None) => pair(amount(current, "value"), amount(wanted, "value")),
    }
}

fn pair(current: Option<String>, wanted: Option<String>) -> String {
    let known = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.into());
    format!("{}/{}", known(current), known(wanted))
}

fn amount(target: &Value, field: &str) -> Option<String> {
    let value = target.get(field).filter(|v| !v.is_null())?;
    crate::quantity::Quantity::from_json(value).ok().map(|q| q.to_string())
}

fn percent(target: &Value) -> Option<String> {
    Some(format!("{}%", target.get("averageUtilization")?.as_i64()?))
}

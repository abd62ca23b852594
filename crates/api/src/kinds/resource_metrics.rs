//! NodeMetrics and PodMetrics (metrics.k8s.io/v1beta1): what nodes and containers use now. They are made when somebody asks and
//! never stored, so they are not in the table.

use super::base;
use crate::{
    Column, Kind, Rules, Scope,
    object::{list, text},
    print,
    quantity::Quantity,
};
use jiff::Timestamp;
use serde_json::Value;

/// Their API group.
pub const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";

/// The description of NodeMetrics.
pub fn node_metrics() -> Kind {
    let base = base(GROUP, VERSION, "NodeMetrics", "nodes", ResourceMetrics);
    Kind { scope: Scope::Cluster, singular: "".into(), columns: columns(), ..base }
}

/// The description of PodMetrics.
pub fn pod_metrics() -> Kind {
    let base = base(GROUP, VERSION, "PodMetrics", "pods", ResourceMetrics);
    Kind { singular: "".into(), columns: columns(), ..base }
}

fn columns() -> Vec<Column> {
    let column = |name: &'static str, format: &'static str, description: &'static str| Column {
        format: format.into(),
        ..print::text_column(name, description)
    };
    vec![
        print::name_column(),
        column("cpu", "quantity", "Processor time that is used, in processors."),
        column("memory", "quantity", "Memory that cannot be reclaimed."),
        column("Window", "duration", "How long the processor time was measured."),
    ]
}

struct ResourceMetrics;

impl Rules for ResourceMetrics {
    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let of = |resource: &str| match object.get("usage") {
            Some(usage) => text(usage, &format!("/{resource}")).to_string(),
            None => sum(object, resource).to_string(),
        };
        vec![print::name(object), of("cpu").into(), of("memory").into(), text(object, "/window").into()]
    }
}

/// What all containers of a pod use together.
fn sum(pod: &Value, resource: &str) -> Quantity {
    let mut all = list(pod, "/containers")
        .iter()
        .filter_map(|c| Quantity::parse(text(c, &format!("/usage/{resource}"))).ok());
    let first = all.next().unwrap_or_else(|| Quantity::from_units(0));
    all.fold(first, |sum, next| sum + next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_s_row_adds_up_its_containers() {
        let pod = json!({
            "metadata": {"name": "p"}, "window": "15s",
            "containers": [{"usage": {"cpu": "1500n", "memory": "3Ki"}}, {"usage": {"cpu": "500n", "memory": "1Ki"}}],
        });
        let cells = ResourceMetrics.cells(&pod, Timestamp::UNIX_EPOCH);
        assert_eq!(cells, ["p", "2u", "4Ki", "15s"].map(Value::from));
        let node = json!({"metadata": {"name": "n"}, "window": "1s", "usage": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(
            ResourceMetrics.cells(&node, Timestamp::UNIX_EPOCH),
            ["n", "1", "1Gi", "1s"].map(Value::from)
        );
        assert_eq!(node_metrics().columns.len(), 4);
    }
}

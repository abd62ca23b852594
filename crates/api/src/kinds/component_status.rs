//! ComponentStatus (v1, deprecated): whether the parts of the control plane are well. It is found out when somebody asks and never
//! stored, so it is not in the table.

use super::base;
use crate::{
    Kind, Rules, Scope,
    object::{list, text},
    print,
};
use jiff::Timestamp;
use serde_json::Value;

/// What everybody is told who asks for it.
pub const WARNING: &str = "v1 ComponentStatus is deprecated in v1.19+";

/// The description of ComponentStatus.
pub fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        short_names: super::texts(&["cs"]),
        columns: vec![
            print::name_column(),
            print::text_column("Status", "Status of the component conditions"),
            print::text_column("Message", "Message of the component conditions"),
            print::text_column("Error", "Error of the component conditions"),
        ],
        ..base("", "v1", "ComponentStatus", "componentstatuses", ComponentStatus)
    }
}

struct ComponentStatus;

impl Rules for ComponentStatus {
    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let healthy = list(object, "/conditions").iter().find(|c| text(c, "/type") == "Healthy");
        let of = |field| healthy.map_or("", |condition| text(condition, field));
        let status = match healthy {
            None => "Unknown",
            Some(_) if of("/status") == "True" => "Healthy",
            Some(_) => "Unhealthy",
        };
        vec![print::name(object), status.into(), of("/message").into(), of("/error").into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_tells_what_the_condition_does() {
        let cells = |conditions: Value| {
            let object = json!({"metadata": {"name": "scheduler"}, "conditions": conditions});
            ComponentStatus.cells(&object, Timestamp::UNIX_EPOCH)
        };
        let well = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
        assert_eq!(cells(well), ["scheduler", "Healthy", "ok", ""]);
        let ill = json!([{"type": "Healthy", "status": "False", "error": "it ended"}]);
        assert_eq!(cells(ill), ["scheduler", "Unhealthy", "", "it ended"]);
        assert_eq!(cells(json!([])), ["scheduler", "Unknown", "", ""]);
    }
}

//! ValidatingAdmissionPolicy: its status says what is odd about its expressions, as soon as they are written.

use crate::{
    admission::type_check,
    registry::{Cx, Hooks, Plan},
};
use orlop_api::{Status, object::int};
use serde_json::{Value, json};

pub(super) struct AdmissionPolicies;

impl Hooks for AdmissionPolicies {
    fn create(&self, cx: &Cx<'_>, object: &mut Value, _plan: &mut Plan) -> Result<(), Status> {
        let checked = type_check::status(cx.registry, object);
        object["status"] = json!({"observedGeneration": 1, "typeChecking": checked});
        Ok(())
    }

    fn update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value, _plan: &mut Plan) -> Result<(), Status> {
        if new.get("spec") != old.get("spec") {
            let generation = int(old, "/metadata/generation").unwrap_or(0) + 1;
            let checked = type_check::status(cx.registry, new);
            new["status"]["observedGeneration"] = json!(generation);
            new["status"]["typeChecking"] = checked;
        }
        Ok(())
    }
}

//! Rules of a pod's status: what a node or controller may write there.

use crate::{
    FieldErrors, Path,
    object::{has, list, text},
};
use serde_json::{Value, json};

/// `podIP` and `hostIP` show the first of `podIPs` and `hostIPs`; whichever is missing is filled in.
pub(super) fn mirror_addresses(status: &mut Value) {
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let first = text(status, &format!("/{all}/0/ip")).to_string();
        let single = text(status, &format!("/{one}")).to_string();
        if !first.is_empty() {
            status[one] = first.into();
        } else if !single.is_empty() {
            status[all] = json!([{"ip": single}]);
        }
    }
}

/// A container that ended for good may not live again, and the node's addresses must be addresses.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    for (at, ip) in list(new, "/status/podIPs").iter().enumerate() {
        let ip = text(ip, "/ip");
        errors.messages(&path.child("podIPs").index(at).child("ip"), ip, crate::name::ip_address(ip));
    }
    let policy = text(old, "/spec/restartPolicy");
    if policy == "Always" {
        return;
    }
    for statuses in ["containerStatuses", "initContainerStatuses"] {
        for (at, status) in list(new, &format!("/status/{statuses}")).iter().enumerate() {
            let name = text(status, "/name");
            let before = list(old, &format!("/status/{statuses}")).iter().find(|s| text(s, "/name") == name);
            let Some(ended) = before.and_then(|s| s.pointer("/state/terminated")) else { continue };
            // With OnFailure, one that failed is started again.
            let may_restart = policy == "OnFailure" && ended["exitCode"].as_i64().unwrap_or_default() != 0;
            let section = if statuses == "containerStatuses" { "containers" } else { "initContainers" };
            let spec = list(old, &format!("/spec/{section}")).iter().find(|c| text(c, "/name") == name);
            let own_policy = spec.is_some_and(|c| has(c, "/restartPolicy"));
            if !may_restart && !own_policy && !has(status, "/state/terminated") {
                let message = "may not be transitioned to non-terminated state";
                errors.forbidden(path.child(statuses).index(at).child("state"), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_shows_twice() {
        let mut status = json!({"podIPs": [{"ip": "10.0.0.1"}], "hostIP": "10.9.9.9"});
        mirror_addresses(&mut status);
        assert_eq!(status["podIP"], "10.0.0.1");
        assert_eq!(status["hostIPs"], json!([{"ip": "10.9.9.9"}]));
    }

    #[test]
    fn what_has_ended_for_good_stays_ended() {
        let pod = |policy: &str, state: Value| json!({"spec": {"restartPolicy": policy}, "status": {"containerStatuses": [{"name": "a", "state": state}]}});
        for (policy, code, refused) in
            [("Always", 1, false), ("OnFailure", 1, false), ("OnFailure", 0, true), ("Never", 1, true)]
        {
            let old = pod(policy, json!({"terminated": {"exitCode": code}}));
            let mut errors = FieldErrors::new();
            validate(&pod(policy, json!({"running": {}})), &old, &mut errors);
            assert_eq!(!errors.is_empty(), refused, "{policy} {code}");
        }
    }
}

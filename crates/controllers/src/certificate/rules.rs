//! What each signer signs, which requests of nodes need no person's word, and when a request is old. Pure.

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest as Request, CertificateSigningRequestSpec as Spec,
};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use orlop_pki::signing_request::{self, Subject};
use std::net::IpAddr;

const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";
const HOUR: i64 = 3600;

/// The signers that sign here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    /// Client certificates for anybody, once a person has approved.
    Client,
    /// Client certificates of nodes.
    NodeClient,
    /// Serving certificates of nodes.
    NodeServing,
}

impl Signer {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Self::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Self::NodeClient),
            "kubernetes.io/kubelet-serving" => Some(Self::NodeServing),
            _ => None,
        }
    }
}

/// What a signer says to a request.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Right,
    /// It will never be signed, for this reason.
    Wrong(String),
}

/// Whether the usages are `needed` and nothing else but `optional`.
fn usages_are(spec: &Spec, needed: &[&str], optional: &str) -> bool {
    let usages = spec.usages.as_deref().unwrap_or_default();
    let has = |usage: &str| usages.iter().any(|u| u == usage);
    needed.iter().all(|usage| has(usage))
        && usages.iter().all(|u| needed.contains(&u.as_str()) || u == optional)
}

fn wrong(why: &str) -> Verdict {
    Verdict::Wrong(why.into())
}

/// What Kubernetes' documentation demands of the subject of a node's certificate.
fn node_subject(subject: &Subject) -> Option<&'static str> {
    if subject.organizations != [NODES] {
        return Some("subject organization is not system:nodes");
    }
    if !subject.common_name.starts_with(NODE) {
        return Some("subject common name does not begin with system:node:");
    }
    None
}

/// Whether the signer signs the request.
pub(super) fn check(signer: Signer, spec: &Spec, subject: &Subject) -> Verdict {
    match signer {
        Signer::Client => {
            let usages = spec.usages.as_deref().unwrap_or_default();
            let known = ["digital signature", "key encipherment", "client auth"];
            if !usages.iter().all(|u| known.contains(&u.as_str()))
                || !usages.iter().any(|u| u == "client auth")
            {
                return wrong("invalid usages for kubernetes.io/kube-apiserver-client");
            }
            Verdict::Right
        }
        Signer::NodeClient => {
            if let Some(why) = node_subject(subject) {
                return wrong(why);
            }
            if !subject.dns_names.is_empty() || !subject.addresses.is_empty() || subject.other_names > 0 {
                return wrong("DNS, IP, email and URI subjectAltNames are not allowed");
            }
            if !usages_are(spec, &["digital signature", "client auth"], "key encipherment") {
                return wrong("usages did not match expected values");
            }
            Verdict::Right
        }
        Signer::NodeServing => {
            if let Some(why) = node_subject(subject) {
                return wrong(why);
            }
            if subject.dns_names.is_empty() && subject.addresses.is_empty() {
                return wrong("DNS or IP subjectAltName is required");
            }
            if subject.other_names > 0 {
                return wrong("email and URI subjectAltNames are not allowed");
            }
            if spec.username.as_deref() != Some(&subject.common_name) {
                return wrong("the requestor is not the node that the certificate is for");
            }
            if !usages_are(spec, &["digital signature", "server auth"], "key encipherment") {
                return wrong("usages did not match expected values");
            }
            Verdict::Right
        }
    }
}

/// Whether a node gets a serving certificate without a person's word: it is for itself, under its own name, at addresses that
/// nobody else has. `others` are the addresses of other nodes and of the API server. Else the reason.
pub(super) fn may_serve(spec: &Spec, subject: &Subject, others: &[IpAddr]) -> Result<(), String> {
    let node = subject.common_name.strip_prefix(NODE).unwrap_or_default();
    if !spec.groups.iter().flatten().any(|g| g == NODES) {
        return Err("the requestor is no node".into());
    }
    if let Some(name) = subject.dns_names.iter().find(|name| *name != node) {
        return Err(format!("{name} is not the name of the node"));
    }
    let foreign = |a: &&IpAddr| others.contains(a) || a.is_unspecified() || a.is_multicast();
    if let Some(address) = subject.addresses.iter().find(foreign) {
        return Err(format!("{address} is the address of another node or of the API server"));
    }
    Ok(())
}

/// Whether a node that has a Lease is alive: it renewed it lately. Seconds since, if so.
pub(super) fn alive_since(lease: &LeaseSpec, now: Timestamp) -> Option<i64> {
    let renewed = lease.renew_time.as_ref()?.0;
    let seconds = now.as_second() - renewed.as_second();
    (seconds <= lease.lease_duration_seconds.unwrap_or(40).into()).then_some(seconds.max(0))
}

/// The node whose certificate is asked for by somebody else, as nodes do that join.
pub(super) fn joining<'a>(signer: Signer, spec: &Spec, subject: &'a Subject) -> Option<&'a str> {
    let own = spec.username.as_deref() == Some(&subject.common_name);
    (signer == Signer::NodeClient && !own).then(|| subject.common_name.strip_prefix(NODE)).flatten()
}

/// The right by which a requestor gets this certificate without a person's word.
pub(super) fn auto_approval(signer: Signer, spec: &Spec, subject: &Subject) -> Option<&'static str> {
    if signer != Signer::NodeClient || check(signer, spec, subject) != Verdict::Right {
        return None;
    }
    let own = spec.username.as_deref() == Some(&subject.common_name);
    Some(if own { "selfnodeclient" } else { "nodeclient" })
}

/// Whether nobody waits for the request any more: an hour after it was decided, a day if it never was, and when its
/// certificate is over.
pub(super) fn is_old(request: &Request, certificate: Option<&str>, now: Timestamp) -> bool {
    let age = |at: Option<Timestamp>| at.map_or(0, |at| now.as_second() - at.as_second());
    let created = age(request.metadata.creation_timestamp.as_ref().map(|t| t.0));
    if certificate.is_some_and(|c| signing_request::is_over(c, now.as_second())) {
        return true;
    }
    let mut decided = false;
    for condition in request.status.iter().flat_map(|s| s.conditions.iter().flatten()) {
        let since = age(condition.last_update_time.as_ref().map(|t| t.0));
        match condition.type_.as_str() {
            "Approved" if certificate.is_some() && since > HOUR => return true,
            "Denied" | "Failed" if since > HOUR => return true,
            "Approved" | "Denied" | "Failed" => decided = true,
            _ => {}
        }
    }
    !decided && created > 24 * HOUR
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(username: &str, usages: &[&str]) -> Spec {
        let usages = usages.iter().map(|u| u.to_string()).collect();
        Spec { username: Some(username.into()), usages: Some(usages), ..Spec::default() }
    }

    fn node(dns_names: usize) -> Subject {
        Subject {
            common_name: "system:node:a".into(),
            organizations: vec![NODES.into()],
            dns_names: vec!["a".into(); dns_names],
            ..Subject::default()
        }
    }

    #[test]
    fn each_signer_signs_what_it_is_for() {
        use Signer::*;
        let client = ["digital signature", "client auth"];
        let server = ["key encipherment", "digital signature", "server auth"];
        let own = "system:node:a";
        let right = |signer, spec: &Spec, subject: &Subject| check(signer, spec, subject) == Verdict::Right;
        assert!(right(Client, &spec("jane", &client), &Subject::default()));
        assert!(right(NodeClient, &spec("system:bootstrap:x", &client), &node(0)));
        assert!(right(NodeServing, &spec(own, &server), &node(1)));
        assert!(!right(Client, &spec("jane", &server), &Subject::default()));
        assert!(!right(Client, &spec("jane", &["digital signature"]), &Subject::default()));
        assert!(!right(NodeClient, &spec(own, &client), &node(1)), "a client has no names");
        assert!(!right(NodeClient, &spec(own, &server), &node(0)));
        assert!(!right(NodeClient, &spec(own, &client), &Subject::default()));
        assert!(!right(NodeServing, &spec(own, &server), &node(0)), "a server needs a name");
        assert!(!right(NodeServing, &spec("system:node:b", &server), &node(1)), "another node's");
        let both = Subject { organizations: vec![NODES.into(), "system:masters".into()], ..node(0) };
        assert!(!right(NodeClient, &spec(own, &client), &both));
    }

    #[test]
    fn only_node_clients_need_no_person() {
        let client = spec("system:node:a", &["digital signature", "client auth"]);
        assert_eq!(auto_approval(Signer::NodeClient, &client, &node(0)), Some("selfnodeclient"));
        let new = spec("system:bootstrap:x", &["digital signature", "client auth"]);
        assert_eq!(auto_approval(Signer::NodeClient, &new, &node(0)), Some("nodeclient"));
        assert_eq!(auto_approval(Signer::Client, &client, &node(0)), None);
        assert_eq!(auto_approval(Signer::NodeClient, &client, &Subject::default()), None);
        assert_eq!(Signer::named("kubernetes.io/legacy-unknown"), None);
    }

    #[test]
    fn a_node_serves_under_its_own_name_and_addresses_only() {
        let of_node = Spec {
            groups: Some(vec![NODES.into()]),
            ..spec("system:node:a", &["digital signature", "server auth"])
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |text: &str| Subject { addresses: vec![address(text)], ..node(1) };
        let others = [address("192.0.2.1"), address("10.43.0.1")];
        assert_eq!(may_serve(&of_node, &at("192.0.2.2"), &others), Ok(()));
        for taken in ["192.0.2.1", "10.43.0.1", "0.0.0.0"] {
            assert!(may_serve(&of_node, &at(taken), &others).unwrap_err().contains(taken));
        }
        let posing = Subject { dns_names: vec!["a".into(), "kubernetes.default.svc".into()], ..node(1) };
        assert!(may_serve(&of_node, &posing, &others).unwrap_err().contains("kubernetes.default.svc"));
        assert!(
            may_serve(&spec("system:node:a", &[]), &at("192.0.2.2"), &others).is_err(),
            "not in the group"
        );
    }

    #[test]
    fn a_name_is_taken_while_its_node_renews_its_lease() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let lease =
            |at: &str| serde_json::from_value(json!({"renewTime": at, "leaseDurationSeconds": 40})).unwrap();
        assert_eq!(alive_since(&lease("2026-01-02T11:59:50.000000Z"), now), Some(10));
        assert_eq!(alive_since(&lease("2026-01-02T12:00:05.000000Z"), now), Some(0), "clocks differ");
        assert_eq!(alive_since(&lease("2026-01-02T11:59:19.000000Z"), now), None);
        let new = spec("system:bootstrap:x", &["digital signature", "client auth"]);
        assert_eq!(joining(Signer::NodeClient, &new, &node(0)), Some("a"));
        assert_eq!(joining(Signer::NodeClient, &spec("system:node:a", &[]), &node(0)), None);
    }

    #[test]
    fn requests_go_when_nobody_waits_for_them() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let old = |created: &str, conditions: Value, certificate: Option<&str>| {
            let request: Request = serde_json::from_value(json!({
                "metadata": {"creationTimestamp": created}, "spec": {"request": "", "signerName": "x"},
                "status": {"conditions": conditions},
            }))
            .unwrap();
            is_old(&request, certificate, now)
        };
        let is = |kind: &str, at: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": at}]);
        assert!(!old("2026-01-02T00:00:00Z", json!([]), None));
        assert!(old("2026-01-01T00:00:00Z", json!([]), None), "nobody decided for a day");
        assert!(!old("2026-01-01T00:00:00Z", is("Denied", "2026-01-02T11:30:00Z"), None));
        assert!(old("2026-01-02T10:00:00Z", is("Denied", "2026-01-02T10:30:00Z"), None));
        let approved = is("Approved", "2026-01-02T10:30:00Z");
        assert!(!old("2026-01-02T10:00:00Z", approved.clone(), None), "its certificate is still to come");
        assert!(old("2026-01-02T10:00:00Z", approved, Some("a certificate")));
    }
}

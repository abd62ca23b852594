//! CertificateSigningRequest (certificates.k8s.io/v1): somebody asks for a certificate, somebody else approves, a signer signs.

use super::{base, texts};
use crate::{
    FieldError, FieldErrors, Kind, NameRule, Path, Rules, Scope, duration, name,
    object::{carry_over, int, list, text},
    print,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const LEGACY: &str = "kubernetes.io/legacy-unknown";
const LEAST_SECONDS: i64 = 600;
/// Conditions that say what became of a request. They never become false and never go.
pub const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The description of CertificateSigningRequest.
pub(super) fn kind() -> Kind {
    Kind {
        scope: Scope::Cluster,
        short_names: texts(&["csr"]),
        has_status: true,
        columns: vec![
            print::name_column(),
            print::age_column(),
            print::text_column("SignerName", "Who is to sign."),
            print::text_column("Requestor", "Who asks."),
            print::text_column("RequestedDuration", "For how long the certificate should be valid."),
            print::text_column("Condition", "What became of it."),
        ],
        selectable_fields: texts(&["spec.signerName"]),
        ..base(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            CertificateSigningRequest,
        )
    }
}

struct CertificateSigningRequest;

/// The PEM text in a field of bytes.
fn pem(object: &Value, pointer: &str) -> String {
    let bytes = BASE64_STANDARD.decode(text(object, pointer)).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

fn validate_signer(signer: &str, path: &Path, errors: &mut FieldErrors) {
    if signer.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = signer.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, signer, why);
    };
    errors.messages(path, signer, name::object_name(NameRule::DnsSubdomain, domain));
    if !domain.contains('.') {
        errors.invalid(path, signer, "should be a domain with at least two segments separated by dots");
    }
    errors.messages(path, signer, name::object_name(NameRule::DnsSubdomain, rest));
}

fn validate_conditions(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status.conditions");
    let mut seen = BTreeSet::new();
    for (at, condition) in list(object, "/status/conditions").iter().enumerate() {
        let here = path.index(at);
        let (kind, status) = (text(condition, "/type"), text(condition, "/status"));
        if kind.is_empty() {
            errors.required(here.child("type"), "");
        }
        if DECISIONS.contains(&kind) && !status.is_empty() {
            errors.one_of(&here.child("status"), status, &["True"]);
        } else {
            errors.required_one_of(&here.child("status"), status, &["True", "False", "Unknown"]);
        }
        if !seen.insert(kind) {
            errors.duplicate(here.child("type"), kind);
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        errors.invalid(&path, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
}

fn validate_certificate(object: &Value, errors: &mut FieldErrors) {
    if text(object, "/status/certificate").is_empty() {
        return;
    }
    if !pem(object, "/status/certificate").contains("-----BEGIN CERTIFICATE-----") {
        let why = "must contain at least one CERTIFICATE PEM block";
        errors.invalid("status.certificate", "<certificate data>", why);
    }
}

/// What is wrong with a change of the status, or of the approval where `approving`: decisions stay, only approving brings
/// them, and a certificate is handed out once.
pub fn validate_decision(new: &Value, old: &Value, approving: bool) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    validate_conditions(new, &mut errors);
    validate_certificate(new, &mut errors);
    let has = |object: &Value, kind: &str| {
        list(object, "/status/conditions").iter().any(|c| text(c, "/type") == kind)
    };
    for kind in DECISIONS {
        if has(old, kind) && !has(new, kind) {
            let why = format!("updates may not remove a condition of type {kind:?}");
            errors.forbidden("status.conditions", why);
        }
        if !approving && kind != "Failed" && has(new, kind) && !has(old, kind) {
            let why = format!("updates may not add a condition of type {kind:?}");
            errors.forbidden("status.conditions", why);
        }
    }
    let (sent, ours) = (text(new, "/status/certificate"), text(old, "/status/certificate"));
    if approving && sent != ours {
        errors.forbidden("status.certificate", "updates may not set certificate content");
    } else if !ours.is_empty() && sent != ours {
        errors.forbidden("status.certificate", "updates may not modify existing certificate content");
    }
    errors.into_vec()
}

/// Fills in when conditions were set: `now` for what is new.
pub fn time_conditions(new: &mut Value, old: &Value, now: &str) {
    let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else {
        return;
    };
    for condition in conditions {
        if text(condition, "/lastUpdateTime").is_empty() {
            condition["lastUpdateTime"] = json!(now);
        }
        if text(condition, "/lastTransitionTime").is_empty() {
            let before = list(old, "/status/conditions").iter().find(|c| {
                text(c, "/type") == text(condition, "/type")
                    && text(c, "/status") == text(condition, "/status")
            });
            let since = before.map(|c| text(c, "/lastTransitionTime")).filter(|t| !t.is_empty());
            condition["lastTransitionTime"] = json!(since.unwrap_or(now));
        }
    }
}

impl Rules for CertificateSigningRequest {
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        carry_over(new, old, "spec");
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = FieldErrors::new();
        let path = Path::new("spec");
        if !pem(object, "/spec/request").contains("-----BEGIN CERTIFICATE REQUEST-----") {
            let sent = object.pointer("/spec/request").cloned().unwrap_or_default();
            errors.invalid(path.child("request"), sent, "PEM block type must be CERTIFICATE REQUEST");
        }
        let usages = list(object, "/spec/usages");
        if usages.is_empty() {
            errors.required(path.child("usages"), "");
        }
        let mut seen = BTreeSet::new();
        for (at, usage) in usages.iter().filter_map(Value::as_str).enumerate() {
            errors.one_of(&path.child("usages").index(at), usage, &USAGES);
            if !seen.insert(usage) {
                errors.duplicate(path.child("usages").index(at), usage);
            }
        }
        match text(object, "/spec/signerName") {
            LEGACY => {
                let why = "the legacy signerName is not allowed via this API version";
                errors.invalid(path.child("signerName"), LEGACY, why);
            }
            signer => validate_signer(signer, &path.child("signerName"), &mut errors),
        }
        if let Some(seconds) = int(object, "/spec/expirationSeconds").filter(|s| *s < LEAST_SECONDS) {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(path.child("expirationSeconds"), seconds, why);
        }
        errors.into_vec()
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate_decision(new, old, false)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let duration = match int(object, "/spec/expirationSeconds") {
            Some(seconds) => duration::human(seconds),
            None => print::NONE.to_string(),
        };
        let has = |kind: &str| list(object, "/status/conditions").iter().any(|c| text(c, "/type") == kind);
        let mut state = match (has("Denied"), has("Approved")) {
            (true, _) => "Denied".to_string(),
            (_, true) => "Approved".to_string(),
            _ => "Pending".to_string(),
        };
        if has("Failed") {
            state.push_str(",Failed");
        }
        if !text(object, "/status/certificate").is_empty() {
            state.push_str(",Issued");
        }
        vec![
            print::name(object),
            print::age(object, now),
            print::or_none(text(object, "/spec/signerName")),
            text(object, "/spec/username").into(),
            duration.into(),
            state.into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Value {
        let pem = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
        json!({"metadata": {"name": "r"}, "spec": {"request": BASE64_STANDARD.encode(pem), "username": "jane",
            "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600}})
    }

    fn wrong(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = request();
        change(&mut object["spec"]);
        CertificateSigningRequest.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_request_says_what_for_whom_and_by_whom() {
        assert_eq!(wrong(|_| {}), Vec::<String>::new());
        assert_eq!(
            wrong(
                |spec| *spec = json!({"usages": ["client auth", "client auth"], "signerName": "x", "expirationSeconds": 1})
            ),
            [
                "spec.request: Invalid value: null: PEM block type must be CERTIFICATE REQUEST",
                "spec.usages[1]: Duplicate value: \"client auth\"",
                "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
        assert_eq!(
            wrong(|spec| {
                spec["usages"] = json!([]);
                spec["signerName"] = json!(LEGACY);
            }),
            [
                "spec.usages: Required value",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
            ]
        );
    }

    fn with(conditions: Value, certificate: &str) -> Value {
        json!({"status": {"conditions": conditions, "certificate": BASE64_STANDARD.encode(certificate)}})
    }

    #[test]
    fn decisions_come_by_approval_and_stay() {
        let is = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let none = json!({});
        let approved = with(json!([is("Approved", "True")]), "");
        let count = |new: &Value, old: &Value, approving| validate_decision(new, old, approving).len();
        assert_eq!(count(&approved, &none, true), 0);
        assert_eq!(count(&approved, &none, false), 1, "the status brings no approval");
        assert_eq!(count(&none, &approved, true), 1, "an approval stays");
        assert_eq!(count(&with(json!([is("Approved", "False")]), ""), &none, true), 1);
        assert_eq!(count(&with(json!([is("Approved", "True"), is("Denied", "True")]), ""), &none, true), 1);
        let issued = with(json!([is("Approved", "True")]), "-----BEGIN CERTIFICATE-----");
        assert_eq!(count(&issued, &approved, false), 0);
        assert_eq!(count(&issued, &approved, true), 1, "approving hands nothing out");
        assert_eq!(count(&approved, &issued, false), 1, "what was handed out stays");
        assert_eq!(count(&with(json!([is("Failed", "True")]), ""), &none, false), 0);
    }

    #[test]
    fn conditions_get_their_times_once() {
        let mut new = with(json!([{"type": "Approved", "status": "True"}]), "");
        time_conditions(&mut new, &json!({}), "now");
        assert_eq!(new["status"]["conditions"][0]["lastTransitionTime"], "now");
        let old = new.clone();
        new["status"]["conditions"][0].as_object_mut().unwrap().remove("lastTransitionTime");
        time_conditions(&mut new, &old, "later");
        assert_eq!(new, old);
    }

    #[test]
    fn the_row_tells_what_became_of_it() {
        let row = |object: &Value| CertificateSigningRequest.cells(object, Timestamp::UNIX_EPOCH);
        let mut object = request();
        assert_eq!(
            row(&object)[2..],
            ["kubernetes.io/kube-apiserver-client", "jane", "60m", "Pending"].map(Value::from)
        );
        object["status"] = with(json!([{"type": "Approved"}]), "x")["status"].take();
        assert_eq!(row(&object)[5], "Approved,Issued");
    }
}

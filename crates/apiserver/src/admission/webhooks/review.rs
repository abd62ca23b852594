//! What is asked of a webhook and what it answers: admission.k8s.io/v1 `AdmissionReview`. Pure.

use crate::admission::{Request, expressions};
use base64::{Engine, engine::general_purpose::STANDARD};
use orlop_api::{
    Status,
    object::{flag, int, list, map, text},
};
use serde_json::{Value, json};

/// The question.
pub(super) fn ask(request: &Request<'_>, object: Option<&Value>, uid: &str, version: &str) -> Value {
    let (group, kind_version, kind) = request.object_kind();
    let typed = |value: Option<&Value>| {
        let mut value = value.cloned().unwrap_or_default();
        if value.is_object() {
            let api_version =
                if group.is_empty() { kind_version.to_string() } else { format!("{group}/{kind_version}") };
            for (field, said) in [("apiVersion", api_version.as_str()), ("kind", kind)] {
                if text(&value, &format!("/{field}")).is_empty() {
                    value[field] = json!(said);
                }
            }
        }
        value
    };
    let mut asked = expressions::request_json(request, uid);
    asked["object"] = typed(object);
    asked["oldObject"] = typed(request.old);
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": asked})
}

/// What a webhook decided.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    /// `None` where the request is allowed.
    pub denied: Option<Status>,
    /// JSON patch, or null.
    pub patch: Value,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

/// Reasons of a `Status` that are known; any other is left out.
fn reason(text: &str) -> &'static str {
    const KNOWN: &[&str] = &[
        "Unauthorized",
        "Forbidden",
        "NotFound",
        "AlreadyExists",
        "Conflict",
        "Gone",
        "Invalid",
        "ServerTimeout",
        "Timeout",
        "TooManyRequests",
        "BadRequest",
        "MethodNotAllowed",
        "NotAcceptable",
        "RequestEntityTooLarge",
        "UnsupportedMediaType",
        "InternalError",
        "Expired",
        "ServiceUnavailable",
    ];
    KNOWN.iter().find(|known| **known == text).copied().unwrap_or("")
}

/// The answer to who was refused, in Kubernetes' words.
fn denial(webhook: &str, result: &Value) -> Status {
    let said = text(result, "/message");
    let why = text(result, "/reason");
    let by = format!("admission webhook {webhook:?} denied the request");
    let message = match (said, why) {
        ("", "") => format!("{by} without explanation"),
        ("", why) => format!("{by}: {why}"),
        (said, _) => format!("{by}: {said}"),
    };
    let code = int(result, "/code").and_then(|c| u16::try_from(c).ok()).filter(|c| (400..600).contains(c));
    let mut status = Status::new(code.unwrap_or(400), reason(why), message);
    status.details = result.get("details").filter(|d| d.is_object()).cloned();
    status
}

/// Bytes as base64 or, since Kubernetes' decoder takes that too and the webhooks of `kube` say it so, as a list of numbers.
fn bytes(value: Option<&Value>) -> Result<Vec<u8>, String> {
    match value {
        Some(Value::Array(numbers)) => numbers
            .iter()
            .map(|n| n.as_u64().and_then(|n| u8::try_from(n).ok()).ok_or_else(|| format!("{n} is no byte")))
            .collect(),
        other => {
            STANDARD.decode(other.and_then(Value::as_str).unwrap_or_default()).map_err(|e| e.to_string())
        }
    }
}

/// Reads the answer of the webhook.
///
/// # Errors
/// Where it is no answer to the question.
pub(super) fn read(webhook: &str, answer: &Value, uid: &str, version: &str) -> Result<Verdict, String> {
    let (api_version, kind) = (text(answer, "/apiVersion"), text(answer, "/kind"));
    let wanted = format!("admission.k8s.io/{version}");
    if version == "v1" && (api_version != wanted || kind != "AdmissionReview") {
        return Err(format!(
            "expected webhook response of {wanted}, Kind=AdmissionReview, got {api_version}, Kind={kind}"
        ));
    }
    let Some(response) = answer.get("response").filter(|r| r.is_object()) else {
        return Err("webhook response was absent".into());
    };
    let theirs = text(response, "/uid");
    if theirs != uid && version == "v1" {
        return Err(format!("expected response.uid={uid:?}, got {theirs:?}"));
    }
    let bytes = bytes(response.get("patch")).map_err(|e| format!("response.patch is not base64: {e}"))?;
    let patch_type = text(response, "/patchType");
    let mut patch = Value::Null;
    if !bytes.is_empty() {
        if version == "v1" && patch_type != "JSONPatch" {
            return Err(if patch_type.is_empty() {
                "webhook returned response.patch but not response.patchType".into()
            } else {
                format!("webhook returned invalid response.patchType of {patch_type:?}")
            });
        }
        patch = serde_json::from_slice(&bytes).map_err(|e| format!("response.patch is not JSON: {e}"))?;
    } else if version == "v1" && !patch_type.is_empty() {
        return Err("webhook returned response.patchType but not response.patch".into());
    }
    let allowed = flag(response, "/allowed");
    let null = Value::Null;
    Ok(Verdict {
        denied: (!allowed).then(|| denial(webhook, response.get("status").unwrap_or(&null))),
        patch,
        warnings: list(response, "/warnings").iter().filter_map(Value::as_str).map(str::to_string).collect(),
        annotations: map(response, "/auditAnnotations")
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((format!("{webhook}/{key}"), value.as_str()?.to_string())))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn an_answer_allows_or_denies_with_words() {
        let denied = |status: Value| {
            let answer = review(json!({"uid": "u", "allowed": false, "status": status}));
            let status = read("a.b.c", &answer, "u", "v1").unwrap().denied.unwrap();
            (status.code, status.reason, status.message)
        };
        let by = "admission webhook \"a.b.c\" denied the request";
        assert_eq!(denied(json!({"message": "no"})), (400, "", format!("{by}: no")));
        assert_eq!(
            denied(json!({"code": 403, "reason": "Forbidden"})),
            (403, "Forbidden", format!("{by}: Forbidden"))
        );
        assert_eq!(denied(Value::Null), (400, "", format!("{by} without explanation")));
        assert_eq!(denied(json!({"code": 200, "message": "no"})).0, 400);
    }

    #[test]
    fn a_patch_comes_decoded_and_nonsense_is_an_error() {
        let patch = STANDARD.encode(r#"[{"op":"add","path":"/a","value":1}]"#);
        let answer = review(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch",
            "warnings": ["w"], "auditAnnotations": {"k": "v"}}));
        let verdict = read("a.b.c", &answer, "u", "v1").unwrap();
        assert_eq!(verdict.patch[0]["path"], "/a");
        let numbers =
            json!({"uid": "u", "allowed": true, "patch": b"[{\"op\":\"x\"}]", "patchType": "JSONPatch"});
        assert_eq!(read("a.b.c", &review(numbers), "u", "v1").unwrap().patch, json!([{"op": "x"}]));
        assert_eq!(
            (verdict.warnings, verdict.annotations),
            (vec!["w".into()], vec![("a.b.c/k".into(), "v".into())])
        );
        for (response, want) in [
            (json!({"uid": "x", "allowed": true}), "expected response.uid=\"u\", got \"x\""),
            (
                json!({"uid": "u", "allowed": true, "patch": "W10="}),
                "webhook returned response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": [7, 256], "patchType": "JSONPatch"}),
                "response.patch is not base64: 256 is no byte",
            ),
        ] {
            assert_eq!(read("a.b.c", &review(response), "u", "v1").unwrap_err(), want);
        }
        let other = json!({"apiVersion": "v1", "kind": "Pod"});
        assert!(read("a.b.c", &other, "u", "v1").unwrap_err().starts_with("expected webhook response of"));
    }
}

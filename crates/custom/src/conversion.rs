//! ConversionReview (apiextensions.k8s.io/v1): what a conversion webhook is asked, and whether its answer may be believed.

use orlop_api::object::{list, text};
use serde_json::{Value, json};

/// The question.
pub fn question(uid: &str, objects: &[Value], api_version: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
        "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
    })
}

/// The converted objects, or why the answer is none. Who converts may change labels and annotations of metadata, and nothing
/// else of it.
pub fn answer(review: &Value, uid: &str, asked: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
    if text(review, "/kind") != "ConversionReview" || text(review, "/apiVersion") != "apiextensions.k8s.io/v1"
    {
        return Err(format!(
            "invalid response: expected apiextensions.k8s.io/v1, Kind=ConversionReview, got {}, Kind={}",
            text(review, "/apiVersion"),
            text(review, "/kind")
        ));
    }
    if text(review, "/response/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(review, "/response/uid")));
    }
    if text(review, "/response/result/status") != "Success" {
        let message = text(review, "/response/result/message");
        let message = if message.is_empty() { "it does not say why" } else { message };
        return Err(message.to_string());
    }
    let converted = list(review, "/response/convertedObjects");
    if converted.len() != asked.len() {
        return Err(format!("expected {} converted objects, got {}", asked.len(), converted.len()));
    }
    asked.iter().zip(converted).enumerate().map(|(at, (old, new))| one(at, old, new, api_version)).collect()
}

fn one(at: usize, old: &Value, new: &Value, api_version: &str) -> Result<Value, String> {
    let bad = |why: String| Err(format!("invalid converted object at index {at}: {why}"));
    if text(new, "/apiVersion") != api_version {
        return bad(format!(
            "invalid groupVersion (expected {api_version}, received {})",
            text(new, "/apiVersion")
        ));
    }
    if text(new, "/kind") != text(old, "/kind") {
        return bad(format!(
            "invalid kind (expected {}, received {})",
            text(old, "/kind"),
            text(new, "/kind")
        ));
    }
    for field in ["name", "namespace", "uid"] {
        let pointer = format!("/metadata/{field}");
        if text(new, &pointer) != text(old, &pointer) {
            return bad(format!("metadata.{field} was changed"));
        }
    }
    // Only labels and annotations are taken over.
    let mut metadata = old.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(members) = metadata.as_object_mut() {
        for field in ["labels", "annotations"] {
            match new.pointer(&format!("/metadata/{field}")).filter(|v| !v.is_null()) {
                Some(value) => members.insert(field.into(), value.clone()),
                None => members.remove(field),
            };
        }
    }
    let mut out = new.clone();
    out["metadata"] = metadata;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_believed_only_where_it_answers_the_question() {
        let old = json!({"apiVersion": "x.y/v1", "kind": "A", "metadata": {"name": "a", "uid": "1", "labels": {"a": "b"}}});
        let mut new = old.clone();
        new["apiVersion"] = json!("x.y/v2");
        new["metadata"] = json!({"name": "a", "uid": "1", "annotations": {"c": "d"}, "finalizers": ["q"]});
        let review = |new: &Value| {
            json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [new]},
            })
        };
        let asked = [old.clone()];
        let got = answer(&review(&new), "u", &asked, "x.y/v2").unwrap();
        assert_eq!(got[0]["metadata"], json!({"name": "a", "uid": "1", "annotations": {"c": "d"}}));
        assert!(answer(&review(&new), "other", &asked, "x.y/v2").unwrap_err().contains("response.uid"));
        assert!(answer(&review(&old), "u", &asked, "x.y/v2").unwrap_err().contains("groupVersion"));
        new["metadata"]["name"] = json!("b");
        assert!(answer(&review(&new), "u", &asked, "x.y/v2").unwrap_err().contains("metadata.name"));
        let failed = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "u", "result": {"status": "Failed", "message": "no"}}});
        assert_eq!(answer(&failed, "u", &asked, "x.y/v2").unwrap_err(), "no");
    }
}

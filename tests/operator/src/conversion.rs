//! Between the versions of a Site. What v1 cannot say is kept in an annotation, so nothing is lost on the way there and back.

use crate::{Result, site::GROUP};
use kube::core::conversion::{ConversionRequest, ConversionResponse, ConversionReview};
use serde_json::{Map, Value, json};

const KEPT: &str = "sites.example.com/v2";
const PAGE: &str = "index.html";

/// The answer to a review. An object that cannot be converted fails all of them.
pub(crate) fn review(review: ConversionReview) -> Result<ConversionReview> {
    let request = ConversionRequest::from_review(review)?;
    let wanted = request.desired_api_version.clone();
    let converted: Result<Vec<Value>> =
        request.objects.iter().map(|object| convert(object.clone(), &wanted)).collect();
    let response = ConversionResponse::for_request(request);
    Ok(match converted {
        Ok(objects) => response.success(objects),
        Err(error) => response.failure(kube::core::Status::failure(&error.to_string(), "Invalid")),
    }
    .into_review())
}

/// One object, in the version that is wanted.
pub(crate) fn convert(mut object: Value, wanted: &str) -> Result<Value> {
    let from = object["apiVersion"].as_str().unwrap_or_default().to_string();
    if from == wanted {
        return Ok(object);
    }
    let spec = object["spec"].as_object().cloned().unwrap_or_default();
    let spec = match (version(&from), version(wanted)) {
        (Some("v1"), Some("v2")) => to_v2(spec, annotations(&mut object))?,
        (Some("v2"), Some("v1")) => to_v1(spec, annotations(&mut object))?,
        _ => return Err(format!("no way from {from} to {wanted}").into()),
    };
    if annotations(&mut object).is_empty() {
        object["metadata"].as_object_mut().map(|metadata| metadata.remove("annotations"));
    }
    object["spec"] = spec;
    object["apiVersion"] = json!(wanted);
    Ok(object)
}

fn version(api_version: &str) -> Option<&str> {
    api_version.strip_prefix(GROUP)?.strip_prefix('/')
}

fn annotations(object: &mut Value) -> &mut Map<String, Value> {
    static NONE: &str = "annotations";
    let metadata = &mut object["metadata"];
    if !metadata[NONE].is_object() {
        metadata[NONE] = json!({});
    }
    match &mut metadata[NONE] {
        Value::Object(annotations) => annotations,
        _ => unreachable!("it was made an object above"),
    }
}

fn to_v1(mut spec: Map<String, Value>, notes: &mut Map<String, Value>) -> Result<Value> {
    let page = spec.get_mut("pages").and_then(|pages| pages.as_object_mut()?.remove(PAGE));
    let copies = spec.remove("replicas");
    let nothing = json!({"pages": {}, "theme": "Plain"});
    if Value::Object(spec.clone()) != nothing {
        notes.insert(KEPT.into(), json!(serde_json::to_string(&spec)?));
    }
    Ok(json!({"page": page.unwrap_or_else(|| json!("")), "copies": copies}))
}

fn to_v2(mut spec: Map<String, Value>, notes: &mut Map<String, Value>) -> Result<Value> {
    let mut wanted = match notes.remove(KEPT) {
        Some(kept) => serde_json::from_str(kept.as_str().unwrap_or_default())?,
        None => json!({"theme": "Plain"}),
    };
    wanted["pages"][PAGE] = spec.remove("page").unwrap_or_else(|| json!(""));
    wanted["replicas"] = spec.remove("copies").filter(|copies| !copies.is_null()).unwrap_or_else(|| json!(1));
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(version: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{GROUP}/{version}"), "kind": "Site", "metadata": {"name": "a"}, "spec": spec})
    }

    #[test]
    fn nothing_is_lost_on_the_way_there_and_back() {
        for spec in [
            json!({"pages": {PAGE: "x"}, "replicas": 2, "theme": "Plain"}),
            json!({"pages": {PAGE: "x", "more": "y"}, "replicas": 0, "theme": "Dark", "exposure": {"inside": {}}}),
        ] {
            let new = site("v2", spec);
            let old = convert(new.clone(), &format!("{GROUP}/v1")).unwrap();
            assert_eq!(old["spec"]["page"], "x");
            assert_eq!(convert(old, new["apiVersion"].as_str().unwrap()).unwrap(), new);
        }
        let old = site("v1", json!({"page": "x", "copies": 3}));
        let new = convert(old.clone(), &format!("{GROUP}/v2")).unwrap();
        assert_eq!(new["spec"], json!({"pages": {PAGE: "x"}, "replicas": 3, "theme": "Plain"}));
    }

    #[test]
    fn what_is_neither_version_is_refused() {
        let error = convert(site("v3", json!({})), &format!("{GROUP}/v1")).unwrap_err();
        assert_eq!(error.to_string(), "no way from sites.example.com/v3 to sites.example.com/v1");
    }
}

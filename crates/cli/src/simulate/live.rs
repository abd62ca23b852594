//! Reading a live cluster: the lists of all kinds that are taken over, in pages. It changes nothing there.

use super::cluster::KEPT;
use crate::{
    Error,
    api::{AS_JSON, Api},
};
use orlop_api::kinds;
use serde_json::Value;

/// How many objects are asked for at once.
const PAGE: &str = "500";

/// Everything that matters, each object with its kind.
pub(crate) async fn read(api: &Api) -> Result<Vec<Value>, Error> {
    let table = kinds::table();
    let mut objects = Vec::new();
    for (api_version, kind) in KEPT {
        let Some(known) = table.iter().find(|k| k.api_version() == api_version && k.kind == kind) else {
            continue;
        };
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let path = format!("/{root}/{api_version}/{}", known.plural);
        let mut from = String::new();
        loop {
            let query = [("limit", PAGE), ("continue", from.as_str())];
            let mut page = match api.get(&path, &query, AS_JSON).await {
                Ok(page) => page,
                // Not every server has every kind.
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            };
            let items = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            objects.extend(items.into_iter().map(|mut item| {
                item["apiVersion"] = api_version.into();
                item["kind"] = kind.into();
                item
            }));
            from = page["metadata"]["continue"].as_str().unwrap_or_default().to_string();
            if from.is_empty() {
                break;
            }
        }
    }
    Ok(objects)
}

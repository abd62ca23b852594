//! What is wrong with a CustomResourceDefinition, in Kubernetes' words.

use super::storage_versions;
use crate::{
    json_path::JsonPath,
    schema::{JsonType, Schema},
    structural,
};
use orlop_api::{
    FieldError, FieldErrors, Path, name,
    object::{has, list, text},
};
use serde_json::Value;
use std::collections::BTreeSet;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE: usize = 8;

/// All that is wrong with a new or changed one.
pub(super) fn definition(definition: &Value) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    let spec = Path::new("spec");
    let (group, plural) = (text(definition, "/spec/group"), text(definition, "/spec/names/plural"));
    let wanted = format!("{plural}.{group}");
    if text(definition, "/metadata/name") != wanted {
        let given = text(definition, "/metadata/name");
        errors.invalid("metadata.name", given, "must be spec.names.plural+\".\"+spec.group");
    }
    let at = spec.child("group");
    if group.is_empty() {
        errors.required(&at, "");
    } else {
        errors.messages(&at, group, name::dns_subdomain(group));
        if !group.contains('.') {
            errors.invalid(&at, group, "should be a domain with at least one dot");
        }
    }
    approved(definition, group, &mut errors);
    errors.required_one_of(&spec.child("scope"), text(definition, "/spec/scope"), &["Cluster", "Namespaced"]);
    if definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(spec.child("preserveUnknownFields"), true, why);
    }
    versions(definition, &spec.child("versions"), &mut errors);
    names(definition, &spec.child("names"), &mut errors);
    conversion(definition, &spec.child("conversion"), &mut errors);
    let stored = status(definition);
    errors.extend(stored);
    errors.into_vec()
}

/// Groups of Kubernetes itself are for those who have its approval.
fn approved(definition: &Value, group: &str, errors: &mut FieldErrors) {
    const KEY: &str = "api-approved.kubernetes.io";
    if !["k8s.io", "kubernetes.io"].iter().any(|g| group == *g || group.ends_with(&format!(".{g}"))) {
        return;
    }
    let path = Path::new("metadata.annotations").key(KEY);
    let said = definition.pointer("/metadata/annotations").and_then(|a| a.get(KEY)).and_then(Value::as_str);
    let about = "see https://github.com/kubernetes/enhancements/pull/1111";
    match said {
        None | Some("") => {
            errors.required(path, &format!("protected groups must have approval annotation {KEY:?}, {about}"));
        }
        Some(said) if said.starts_with("unapproved") || said.starts_with("http://") || said.starts_with("https://") => {}
        Some(said) => errors.invalid(
            path,
            said,
            format!("protected groups must have approval annotation {KEY:?} with either a URL or a reason starting with \"unapproved\", {about}"),
        ),
    }
}

fn versions(definition: &Value, path: &Path, errors: &mut FieldErrors) {
    let versions = list(definition, "/spec/versions");
    if versions.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut seen = BTreeSet::new();
    let mut twice = false;
    for (number, version) in versions.iter().enumerate() {
        let at = path.index(number);
        let name = text(version, "/name");
        errors.messages(&at.child("name"), name, name::dns_1035_label(name));
        twice |= !seen.insert(name);
        self::version(version, &at, errors);
    }
    if twice {
        errors.invalid(path, names_of(versions), "must contain unique version names");
    }
    if storage_versions(definition).len() != 1 {
        errors.invalid(path, names_of(versions), "must have exactly one version marked as storage version");
    }
}

fn names_of(versions: &[Value]) -> Vec<String> {
    versions.iter().map(|v| text(v, "/name").to_string()).collect()
}

fn version(version: &Value, path: &Path, errors: &mut FieldErrors) {
    let warning = text(version, "/deprecationWarning");
    if !warning.is_empty() {
        let at = path.child("deprecationWarning");
        if version.get("deprecated").and_then(Value::as_bool) != Some(true) {
            errors.invalid(&at, warning, "can only be set for deprecated versions");
        } else if warning.len() > 256 {
            errors.push(FieldError::too_long(&at, 256));
        } else if warning.chars().any(char::is_control) {
            errors.invalid(&at, warning, "must only contain printable UTF-8 characters");
        }
    }
    let at = path.child("schema").child("openAPIV3Schema");
    let raw = version.pointer("/schema/openAPIV3Schema").filter(|s| s.is_object());
    let schema = raw.map(Schema::parse);
    match &schema {
        None => errors.required(&at, "schemas are required"),
        Some(schema) => structural::validate(schema, &at, errors),
    }
    subresources(version, &path.child("subresources"), errors);
    for (number, column) in list(version, "/additionalPrinterColumns").iter().enumerate() {
        self::column(column, &path.child("additionalPrinterColumns").index(number), errors);
    }
    selectable(version, schema.as_ref(), &path.child("selectableFields"), errors);
}

fn subresources(version: &Value, path: &Path, errors: &mut FieldErrors) {
    if !has(version, "/subresources/scale") {
        return;
    }
    let at = path.child("scale");
    let below = |path: &str, roots: &[&str]| {
        JsonPath::parse(path).and_then(|p| p.fields().map(|f| f.len() > 1 && roots.contains(&f[0])))
            == Some(true)
            && path.starts_with('.')
    };
    for (field, roots, why) in [
        ("specReplicasPath", &["spec"][..], "should be a json path under .spec"),
        ("statusReplicasPath", &["status"][..], "should be a json path under .status"),
    ] {
        let given = text(version, &format!("/subresources/scale/{field}"));
        if given.is_empty() {
            errors.required(at.child(field), "");
        } else if !below(given, roots) {
            errors.invalid(at.child(field), given, why);
        }
    }
    let given = text(version, "/subresources/scale/labelSelectorPath");
    if !given.is_empty() && !below(given, &["spec", "status"]) {
        let why = "should be a json path under either .spec or .status";
        errors.invalid(at.child("labelSelectorPath"), given, why);
    }
}

fn column(column: &Value, path: &Path, errors: &mut FieldErrors) {
    if text(column, "/name").is_empty() {
        errors.required(path.child("name"), "");
    }
    errors.required_one_of(&path.child("type"), text(column, "/type"), &COLUMN_TYPES);
    let format = text(column, "/format");
    if !format.is_empty() {
        errors.one_of(&path.child("format"), format, &COLUMN_FORMATS);
    }
    let at = path.child("jsonPath");
    match text(column, "/jsonPath") {
        "" => errors.required(&at, ""),
        given if !given.starts_with(['.', '[']) && !given.starts_with('{') => {
            errors.invalid(&at, given, "is an invalid path: must start with '.' or '['");
        }
        given if JsonPath::parse(given).is_none() => {
            errors.invalid(&at, given, "is an invalid path: it cannot be read");
        }
        _ => {}
    }
}

fn selectable(version: &Value, schema: Option<&Schema>, path: &Path, errors: &mut FieldErrors) {
    let fields = list(version, "/selectableFields");
    if fields.len() > MAX_SELECTABLE {
        errors.push(FieldError::too_many(path, fields.len(), MAX_SELECTABLE));
    }
    let mut seen = BTreeSet::new();
    for (number, field) in fields.iter().enumerate() {
        let at = path.index(number).child("jsonPath");
        let given = text(field, "/jsonPath");
        if given.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if !seen.insert(given) {
            errors.duplicate(&at, given);
            continue;
        }
        let parsed = JsonPath::parse(given);
        let steps = parsed.as_ref().filter(|_| given.starts_with('.')).and_then(JsonPath::fields);
        let Some(steps) = steps.filter(|s| !s.is_empty()) else {
            errors.invalid(&at, given, "is an invalid path: must be a simple path of field names");
            continue;
        };
        if steps[0] == "metadata" {
            errors.invalid(&at, given, "must not point to fields in metadata");
            continue;
        }
        let Some(schema) = schema else { continue };
        let found = steps.iter().try_fold(schema, |s, step| s.properties.get(*step));
        match found.map(|s| s.ty) {
            Some(Some(JsonType::String | JsonType::Boolean | JsonType::Integer)) => {}
            Some(_) => errors.invalid(
                &at,
                given,
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            ),
            None => errors.invalid(&at, given, "is an invalid path: does not refer to a valid field"),
        }
    }
}

fn names(definition: &Value, path: &Path, errors: &mut FieldErrors) {
    let spec = |field: &str| text(definition, &format!("/spec/names/{field}"));
    for field in ["plural", "singular"] {
        errors.required_and(&path.child(field), spec(field), name::dns_1035_label);
    }
    for field in ["kind", "listKind"] {
        let given = spec(field);
        let at = path.child(field);
        if given.is_empty() {
            errors.required(&at, "");
            continue;
        }
        for message in name::dns_1035_label(&given.to_lowercase()) {
            errors.invalid(&at, given, format!("may have mixed case, but should otherwise match: {message}"));
        }
    }
    if !spec("kind").is_empty() && spec("kind") == spec("listKind") {
        errors.invalid(path.child("listKind"), spec("listKind"), "kind and listKind may not be the same");
    }
    for field in ["shortNames", "categories"] {
        for (number, given) in list(definition, &format!("/spec/names/{field}")).iter().enumerate() {
            let given = given.as_str().unwrap_or_default();
            errors.messages(&path.child(field).index(number), given, name::dns_1035_label(given));
        }
    }
}

fn conversion(definition: &Value, path: &Path, errors: &mut FieldErrors) {
    let strategy = text(definition, "/spec/conversion/strategy");
    errors.required_one_of(&path.child("strategy"), strategy, &["None", "Webhook"]);
    let webhook = definition.pointer("/spec/conversion/webhook").filter(|w| !w.is_null());
    let at = path.child("webhook");
    if strategy != "Webhook" {
        if webhook.is_some() {
            errors.forbidden(&at, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    let Some(webhook) = webhook else {
        errors.required(&at, "required when strategy is set to Webhook");
        return;
    };
    let client = at.child("clientConfig");
    match webhook.get("clientConfig").filter(|c| c.is_object()) {
        None => errors.required(&client, "required when strategy is set to Webhook"),
        Some(config) => {
            let (url, service) = (text(config, "/url"), config.get("service").filter(|s| s.is_object()));
            match (url, service) {
                ("", None) => errors.required(&client, "exactly one of url or service is required"),
                (url, Some(_)) if !url.is_empty() => {
                    errors.required(&client, "exactly one of url or service is required");
                }
                (url, None) if !url.starts_with("https://") => {
                    let why = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                    errors.invalid(client.child("url"), url, why);
                }
                (_, Some(service)) => {
                    for field in ["namespace", "name"] {
                        if text(service, &format!("/{field}")).is_empty() {
                            errors.required(client.child("service").child(field), "");
                        }
                    }
                }
                _ => {}
            }
        }
    }
    let versions = list(webhook, "/conversionReviewVersions");
    let at = at.child("conversionReviewVersions");
    if versions.is_empty() {
        errors.required(&at, "");
    } else if !versions.iter().any(|v| v == "v1") {
        errors.invalid(&at, versions.to_vec(), "must include at least one of v1");
    }
}

/// What is wrong with the status: every version that objects may be stored in must still be there.
pub(super) fn status(definition: &Value) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    let path = Path::new("status.storedVersions");
    let stored = list(definition, "/status/storedVersions");
    let names = names_of(list(definition, "/spec/versions"));
    for (number, version) in stored.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        if !names.iter().any(|n| n == version) {
            let why = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"
            );
            errors.invalid(path.index(number), version, &why);
        }
    }
    for version in storage_versions(definition) {
        if !stored.is_empty() && !stored.iter().any(|v| v == version) {
            let why = format!("must have the storage version {version}");
            errors.invalid(&path, Value::from(stored.to_vec()), why);
        }
    }
    errors.into_vec()
}

/// What may not change: the group ever, scope and kind once it is established.
pub(super) fn change(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = FieldErrors::new();
    let mut fixed = |pointer: &str, path: &str| {
        errors.immutable(&Path::new(path), new.pointer(pointer), old.pointer(pointer));
    };
    fixed("/spec/group", "spec.group");
    fixed("/spec/names/plural", "spec.names.plural");
    if orlop_api::object::condition(old, "Established") == "True" {
        fixed("/spec/scope", "spec.scope");
        fixed("/spec/names/kind", "spec.names.kind");
    }
    errors.into_vec()
}

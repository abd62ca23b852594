//! The registry's way to `orlop-schema`: bodies are read, checked against the kind's type and patched there.

use super::{Part, Resource, WriteContext};
use crate::request::{body, options::FieldValidation};
use http::HeaderMap;
use jiff::Timestamp;
use orlop_api::Status;
use orlop_schema::{Duplicate, ParseError, Parsed, TypeRef, apply::Writer, conform::strict_status, protobuf};
use serde_json::{Map, Value};

/// What a body says, with what was odd about it.
pub(crate) struct Body {
    pub value: Value,
    /// Keys that stand twice.
    pub duplicates: Vec<Duplicate>,
}

impl From<Parsed> for Body {
    fn from(parsed: Parsed) -> Self {
        Self { value: parsed.value, duplicates: parsed.duplicates }
    }
}

fn unreadable(error: ParseError) -> Status {
    match error {
        ParseError::Json(message) => {
            Status::bad_request(format!("couldn't get version/kind; json parse error: {message}"))
        }
        other => Status::bad_request(other.to_string()),
    }
}

/// Reads the body of a create or update, in the format that its header tells.
pub(crate) fn read(headers: &HeaderMap, bytes: &[u8]) -> Result<Body, Status> {
    match body::content_type(headers).as_str() {
        "" | "application/json" | "*/*" | "text/plain" => read_json(bytes),
        "application/yaml" | "text/yaml" | "application/x-yaml" => read_yaml(bytes),
        protobuf::MEDIA_TYPE => {
            let value = protobuf::decode(bytes).map_err(|e| match e {
                protobuf::Error::Kind { .. } => Status::unsupported_media_type(e.to_string()),
                e => Status::bad_request(e.to_string()),
            })?;
            Ok(Body { value, duplicates: Vec::new() })
        }
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf, but it was {other:?}"
        ))),
    }
}

/// Reads JSON.
pub(crate) fn read_json(bytes: &[u8]) -> Result<Body, Status> {
    orlop_schema::parse_json(bytes).map(Body::from).map_err(unreadable)
}

/// Reads YAML, or JSON, which is YAML too.
pub(crate) fn read_yaml(bytes: &[u8]) -> Result<Body, Status> {
    let parsed = if bytes.trim_ascii_start().starts_with(b"{") {
        orlop_schema::parse_json(bytes).or_else(|_| orlop_schema::parse_yaml(bytes))
    } else {
        orlop_schema::parse_yaml(bytes)
    };
    parsed.map(Body::from).map_err(unreadable)
}

/// What Kubernetes' YAML parser says of keys that stand twice.
fn yaml_complaints(duplicates: &[Duplicate]) -> Vec<String> {
    let told = |d: &Duplicate| Some(format!("line {}: key {:?} already set in map", d.line?, d.key));
    duplicates.iter().filter_map(told).collect()
}

fn unmarshal_errors(lines: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", lines.join("\n  "))
}

/// What is wrong with the fields of a body. Decoders of built-in (`typed`) kinds do not look into fields that they do not
/// know; for custom ones duplicates are found first.
fn field_complaints(unknown: &[String], duplicates: &[Duplicate], typed: bool) -> Vec<String> {
    let below = |path: &str, field: &str| {
        path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let twice = duplicates
        .iter()
        .filter(|d| d.line.is_none() && !(typed && unknown.iter().any(|field| below(&d.path, field))))
        .map(ToString::to_string);
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    if typed { unknown.chain(twice).collect() } else { twice.chain(unknown).collect() }
}

impl Resource {
    fn types(&self) -> Result<&TypeRef, Status> {
        self.types.as_ref().ok_or_else(|| Status::internal(format!("no type is known for {:?}", self.kind)))
    }

    /// Checks that the body is of this kind. A missing `apiVersion` or `kind` is filled in, as Kubernetes does.
    pub(crate) fn check_kind(&self, value: &mut Value) -> Result<(), Status> {
        let kind = &self.kind;
        let Some(object) = value.as_object_mut() else {
            let message =
                "couldn't get version/kind; json parse error: json: cannot unmarshal the body into an object";
            return Err(Status::bad_request(message));
        };
        let given = |object: &Map<String, Value>, key: &str| {
            object.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_string)
        };
        let version = given(object, "apiVersion").unwrap_or_else(|| kind.api_version());
        let name = given(object, "kind").unwrap_or_else(|| kind.kind.to_string());
        if version != kind.api_version() {
            return Err(Status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({})",
                kind.api_version()
            )));
        }
        if name != kind.kind {
            return Err(Status::bad_request(format!(
                "{name} in version {version:?} cannot be handled as a {}: converting ({name}) to ({}): unknown conversion",
                kind.kind, kind.kind
            )));
        }
        object.insert("apiVersion".into(), version.into());
        object.insert("kind".into(), name.into());
        Ok(())
    }

    /// Makes the value fit the kind's type: unknown fields go, wrong types are a 400. Returns warnings.
    pub(crate) fn conform(
        &self,
        value: &mut Value,
        duplicates: &[Duplicate],
        validation: FieldValidation,
    ) -> Result<Vec<String>, Status> {
        let (unknown, typed): (Vec<String>, bool) = match self.kind.rules.fit(value) {
            Some(Ok(unknown)) => (unknown, false),
            Some(Err(why)) => return Err(Status::bad_request(why)),
            None => {
                let unknown = orlop_schema::conform(self.types()?, value)
                    .map_err(|m| m.to_status(&self.kind.kind, &self.kind.version))?;
                (unknown.into_iter().map(|u| u.path).collect(), true)
            }
        };
        let mut complaints = field_complaints(&unknown, duplicates, typed);
        let lines = yaml_complaints(duplicates);
        match validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(lines.into_iter().chain(complaints).collect()),
            FieldValidation::Strict => {
                if !lines.is_empty() {
                    complaints.insert(0, unmarshal_errors(&lines));
                }
                match strict_status(&self.kind.kind, &self.kind.version, &complaints) {
                    Some(status) => Err(status),
                    None => Ok(Vec::new()),
                }
            }
        }
    }

    /// Makes what is to be applied fit the kind's type. Fields that the type does not have are left for the apply, which
    /// never takes them, however lenient the client is. Returns warnings.
    pub(crate) fn conform_applied(
        &self,
        config: &mut Value,
        duplicates: &[Duplicate],
        validation: FieldValidation,
    ) -> Result<Vec<String>, Status> {
        let unknown = orlop_schema::conform(self.types()?, &mut config.clone());
        if unknown.is_ok_and(|unknown| unknown.is_empty()) {
            self.conform(config, &[], FieldValidation::Ignore)?;
        }
        let lines = yaml_complaints(duplicates);
        match validation {
            FieldValidation::Strict if !lines.is_empty() => Err(Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: {}",
                unmarshal_errors(&lines)
            ))),
            FieldValidation::Warn => Ok(lines),
            FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
        }
    }

    /// Applies a strategic merge patch.
    pub(crate) fn strategic(&self, object: &mut Value, patch: &Value) -> Result<(), Status> {
        Ok(orlop_schema::strategic::merge(self.types()?, object, patch)?)
    }

    /// Server-side apply: the object to store, with its managed fields.
    pub(crate) fn apply(
        &self,
        live: &Value,
        config: &Value,
        part: Part,
        cx: &WriteContext,
        now: Timestamp,
    ) -> Result<Value, Status> {
        let writer = self.writer(part, cx, now);
        Ok(orlop_schema::apply::apply(self.types()?, live, config, &writer, cx.options.force)?)
    }

    /// Notes in `new` who owns which field, after a write that was no apply.
    pub(crate) fn manage(
        &self,
        old: Option<&Value>,
        new: &mut Value,
        part: Part,
        cx: &WriteContext,
        now: Timestamp,
    ) -> Result<(), Status> {
        let writer = self.writer(part, cx, now);
        orlop_schema::apply::update_managed_fields(self.types()?, old, new, &writer);
        Ok(())
    }

    fn writer<'a>(&self, part: Part, cx: &'a WriteContext, now: Timestamp) -> Writer<'a> {
        let ignored: &'static [&'static str] = match part {
            Part::Status => &["/spec"],
            _ if self.kind.has_status => &["/status"],
            _ => &[],
        };
        Writer { manager: &cx.options.field_manager, subresource: part.subresource(), now, ignored }
    }
}

//! Query parameters and `DeleteOptions`, parsed and checked (meta/v1 `ListOptions`, `CreateOptions`, `DeleteOptions`).

use orlop_api::Status;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{borrow::Cow, time::Duration};

/// The parameters of a query string. Of a repeated one the first counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        Self(
            form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned())).collect(),
        )
    }

    /// The value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether a parameter is there and not false. As in Kubernetes, `?watch` alone means yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .is_some_and(|(_, v)| !matches!(v.to_lowercase().as_str(), "false" | "0"))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, Status> {
        self.get(key)
            .map(|v| {
                v.parse().map_err(|_| {
                    Status::bad_request(format!(
                        "invalid value {v:?} of the query parameter {key}: not an integer"
                    ))
                })
            })
            .transpose()
    }
}

/// How a `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// `ListOptions`, without the selectors.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// 0: all.
    pub limit: usize,
    pub continue_token: Option<String>,
    /// `None` where it is unset.
    pub resource_version: Option<u64>,
    pub resource_version_match: Option<Match>,
    pub timeout: Option<Duration>,
    pub bookmarks: bool,
    /// `sendInitialEvents`, if it is given.
    pub send_initial_events: Option<bool>,
}

fn invalid_list_options(field: &str, kind: (&str, &str), message: &str) -> Status {
    let (reason, words) = kind;
    let whole = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {words}: {message}");
    let mut status = Status::new(422, "Invalid", whole);
    status.details = Some(json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [
        {"reason": reason, "message": format!("{words}: {message}"), "field": field}
    ]}));
    status
}

const FORBIDDEN: (&str, &str) = ("FieldValueForbidden", "Forbidden");

impl ListOptions {
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let resource_version = query.get("resourceVersion").map(parse_revision).transpose()?;
        let resource_version_match = match query.get("resourceVersionMatch") {
            None => None,
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            Some(other) => {
                return Err(invalid_list_options(
                    "resourceVersionMatch",
                    ("FieldValueNotSupported", "Unsupported value"),
                    &format!("{other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""),
                ));
            }
        };
        let options = Self {
            label_selector: query.get("labelSelector").map(str::to_string),
            field_selector: query.get("fieldSelector").map(str::to_string),
            limit: query.integer("limit")?.unwrap_or(0).max(0) as usize,
            continue_token: query.get("continue").map(str::to_string),
            resource_version,
            resource_version_match,
            timeout: query
                .integer("timeoutSeconds")?
                .filter(|s| *s > 0)
                .map(|s| Duration::from_secs(s as u64)),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
        };
        options.check(watch)?;
        Ok(options)
    }

    /// Kubernetes documentation, "API Concepts", "Resource versions".
    fn check(&self, watch: bool) -> Result<(), Status> {
        let forbidden = |field, message| Err(invalid_list_options(field, FORBIDDEN, message));
        if watch {
            return match (self.send_initial_events, self.resource_version_match) {
                (Some(_), Some(Match::NotOlderThan)) | (None, None) => Ok(()),
                (Some(_), _) => forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                (None, Some(_)) => forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
            };
        }
        if self.send_initial_events.is_some() {
            return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if self.resource_version_match.is_some() {
            if self.continue_token.is_some() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if self.resource_version.is_none() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if self.resource_version == Some(0) && self.resource_version_match == Some(Match::Exact) {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if self.continue_token.is_some() && self.resource_version.is_some_and(|v| v != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(())
    }
}

/// A `resourceVersion` from a client.
pub(crate) fn parse_revision(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        Status::bad_request(format!(
            "resourceVersion: Invalid value: {text:?}: it must be an unsigned integer"
        ))
    })
}

/// What happens to fields that the schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// Its name in a query.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ignore => "Ignore",
            Self::Warn => "Warn",
            Self::Strict => "Strict",
        }
    }
}

/// `CreateOptions`, `UpdateOptions` and `PatchOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    pub force: bool,
    /// Whether they are those of a patch.
    pub patch: bool,
    /// Why an update or apply must not create what is not there: whoever makes it lacks the right.
    pub no_create: Option<Box<Status>>,
}

impl WriteOptions {
    /// `agent` is the client's `User-Agent`: its first word is the manager's name where none is given.
    pub(crate) fn parse(query: &Query, agent: &str) -> Result<Self, Status> {
        let field_validation = match query.get("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(invalid_options(
                    "fieldValidation",
                    &format!(
                        "Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
                    ),
                ));
            }
        };
        let field_manager = match query.get("fieldManager") {
            Some(name) if name.chars().count() > 128 => {
                return Err(invalid_options("fieldManager", "Too long: may not be more than 128 bytes"));
            }
            Some(name) => name.to_string(),
            None => agent.split('/').next().unwrap_or_default().chars().take(128).collect(),
        };
        Ok(Self {
            dry_run: dry_run(query.all("dryRun").map(Cow::Borrowed))?,
            field_manager,
            field_validation,
            force: query.flag("force"),
            patch: false,
            no_create: None,
        })
    }
}

fn invalid_options(field: &str, message: &str) -> Status {
    let whole = format!("CreateOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
    let mut status = Status::new(422, "Invalid", whole);
    status.details = Some(json!({"group": "meta.k8s.io", "kind": "CreateOptions", "causes": [
        {"reason": "FieldValueInvalid", "message": message, "field": field}
    ]}));
    status
}

fn dry_run<'a>(values: impl Iterator<Item = Cow<'a, str>>) -> Result<bool, Status> {
    let mut dry = false;
    for value in values {
        match &*value {
            "All" => dry = true,
            "" => {}
            other => {
                return Err(invalid_options(
                    "dryRun",
                    &format!("Unsupported value: [{other:?}]: supported values: \"All\""),
                ));
            }
        }
    }
    Ok(dry)
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `DeleteOptions.preconditions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub preconditions: Option<Preconditions>,
    pub orphan_dependents: Option<bool>,
    pub propagation_policy: Option<Propagation>,
    dry_run: Option<Vec<String>>,
    #[serde(skip)]
    pub dry: bool,
    /// Whether it is an eviction, which admission has judged as such.
    #[serde(skip)]
    pub evicts: bool,
}

impl DeleteOptions {
    /// From a body, if there is one, else from the query.
    pub(crate) fn parse(query: &Query, body: Option<Value>) -> Result<Self, Status> {
        let mut options = match body {
            Some(body) => {
                if let Some(kind) = body.get("kind").and_then(Value::as_str)
                    && kind != "DeleteOptions"
                {
                    return Err(Status::bad_request(format!(
                        "a body of kind {kind} cannot be handled as DeleteOptions"
                    )));
                }
                serde_json::from_value::<Self>(body).map_err(|e| {
                    Status::bad_request(format!("the body is not a DeleteOptions object: {e}"))
                })?
            }
            None => Self {
                grace_period_seconds: query.integer("gracePeriodSeconds")?,
                orphan_dependents: query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
                propagation_policy: match query.get("propagationPolicy") {
                    None => None,
                    Some("Orphan") => Some(Propagation::Orphan),
                    Some("Background") => Some(Propagation::Background),
                    Some("Foreground") => Some(Propagation::Foreground),
                    Some(other) => {
                        return Err(invalid_options(
                            "propagationPolicy",
                            &format!(
                                "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
                            ),
                        ));
                    }
                },
                ..Self::default()
            },
        };
        let named = options.dry_run.iter().flatten().map(|s| Cow::Borrowed(s.as_str()));
        options.dry = dry_run(named.chain(query.all("dryRun").map(Cow::Borrowed)))?;
        if options.orphan_dependents.is_some() && options.propagation_policy.is_some() {
            return Err(invalid_options(
                "propagationPolicy",
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        // Anything negative means "now", as in Kubernetes.
        options.grace_period_seconds = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_options_follow_the_rules_of_resource_versions() {
        let cases = [
            ("", false, None),
            ("resourceVersion=5&resourceVersionMatch=Exact", false, None),
            ("resourceVersion=0&resourceVersionMatch=Exact", false, Some(422)),
            ("resourceVersionMatch=Exact", false, Some(422)),
            ("resourceVersion=5&resourceVersionMatch=Sometimes", false, Some(422)),
            ("continue=abc&resourceVersion=5", false, Some(400)),
            ("continue=abc&resourceVersion=0", false, None),
            ("resourceVersion=abc", false, Some(400)),
            ("limit=x", false, Some(400)),
            ("sendInitialEvents=true", false, Some(422)),
            ("sendInitialEvents=true", true, Some(422)),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true, None),
            ("resourceVersion=1&resourceVersionMatch=Exact", true, Some(422)),
        ];
        for (query, watch, code) in cases {
            let got = ListOptions::parse(&Query::parse(query), watch).err().map(|s| s.code);
            assert_eq!(got, code, "{query} watch={watch}");
        }
    }

    #[test]
    fn a_manager_without_a_name_is_called_after_its_client() {
        let options = WriteOptions::parse(&Query::parse(""), "kubectl/v1.32 (linux)").unwrap();
        assert_eq!(options.field_manager, "kubectl");
        let options = WriteOptions::parse(&Query::parse("fieldManager=me&dryRun=All"), "kubectl/v1").unwrap();
        assert_eq!((options.field_manager.as_str(), options.dry_run), ("me", true));
        assert!(WriteOptions::parse(&Query::parse("dryRun=Some"), "").is_err());
    }

    #[test]
    fn delete_options_come_from_the_body_or_the_query() {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan", "gracePeriodSeconds": 3});
        let options = DeleteOptions::parse(&Query::parse(""), Some(body)).unwrap();
        assert_eq!(options.propagation_policy, Some(Propagation::Orphan));
        assert_eq!(options.grace_period_seconds, Some(3));
        let options = DeleteOptions::parse(&Query::parse("gracePeriodSeconds=0&dryRun=All"), None).unwrap();
        assert_eq!((options.grace_period_seconds, options.dry), (Some(0), true));
        assert!(DeleteOptions::parse(&Query::parse("propagationPolicy=Never"), None).is_err());
    }
}

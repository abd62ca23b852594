//! What a claim asks for: requests of devices, constraints over them, and configuration. Shared by ResourceClaim and
//! ResourceClaimTemplate.

use super::{
    MAX_CONFIGURATIONS, bounded, distinct, texts_of, validate_configuration, validate_fully_qualified,
    validate_label, validate_selectors, validate_tolerations,
};
use crate::{
    FieldErrors, Path, name,
    object::{each, has, int, list, set_default_nonzero, text},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const MAX_REQUESTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_CONSTRAINTS: usize = 32;
const WRONG_REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// Fills in how many devices a request wants, and how it tolerates taints. `spec` is that of a claim.
pub(in crate::kinds) fn set_defaults(spec: &mut Value) {
    let default = |request: &mut Value| {
        set_default_nonzero(request, "allocationMode", "ExactCount");
        if text(request, "/allocationMode") == "ExactCount" {
            set_default_nonzero(request, "count", 1);
        }
        super::default_tolerations(request);
    };
    if let Some(devices) = spec.get_mut("devices") {
        each(devices, "requests", |request| {
            if let Some(exactly) = request.get_mut("exactly") {
                default(exactly);
            }
            each(request, "firstAvailable", default);
        });
    }
}

/// The names that the rest of a claim may call its requests by.
pub(super) struct RequestNames<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> RequestNames<'a> {
    /// Those of the claim with this spec.
    pub(super) fn of(spec: &'a Value) -> Self {
        let alternatives = |request: &'a Value| {
            list(request, "/firstAvailable").iter().map(|alternative| text(alternative, "/name")).collect()
        };
        let requests = list(spec, "/devices/requests").iter();
        Self(requests.map(|request| (text(request, "/name"), alternatives(request))).collect())
    }

    fn has(&self, request: &str) -> bool {
        let (request, alternative) = match request.split_once('/') {
            Some((request, alternative)) => (request, Some(alternative)),
            None => (request, None),
        };
        self.0.get(request).is_some_and(|all| alternative.is_none_or(|one| all.contains(one)))
    }

    /// Whether there is a request of that name, or an alternative of one.
    pub(super) fn validate(&self, request: &str, path: &Path, errors: &mut FieldErrors) {
        if request.split('/').count() > 2 {
            return errors.invalid(path, request, WRONG_REFERENCE);
        }
        for part in request.split('/') {
            validate_label(part, path, errors);
        }
        if !self.has(request) {
            errors.invalid(path, request, WRONG_REFERENCE);
        }
    }

    /// The `requests` that something is about.
    pub(super) fn validate_list(&self, owner: &Value, path: &Path, errors: &mut FieldErrors) {
        let path = path.child("requests");
        let requests = bounded(owner, "/requests", MAX_REQUESTS, &path, errors);
        for (at, request) in texts_of(requests).enumerate() {
            self.validate(request, &path.index(at), errors);
        }
        distinct(texts_of(requests).map(String::from), &path, errors);
    }
}

/// All that is wrong with the spec of a claim.
pub(in crate::kinds) fn validate_spec(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("devices");
    let names = RequestNames::of(spec);
    let at = path.child("requests");
    let requests = bounded(spec, "/devices/requests", MAX_REQUESTS, &at, errors);
    for (number, request) in requests.iter().enumerate() {
        validate_request(request, &at.index(number), errors);
    }
    distinct(requests.iter().map(|r| text(r, "/name").to_string()), &at, errors);
    let at = path.child("constraints");
    let constraints = bounded(spec, "/devices/constraints", MAX_CONSTRAINTS, &at, errors);
    for (number, constraint) in constraints.iter().enumerate() {
        validate_constraint(constraint, &names, &at.index(number), errors);
    }
    let at = path.child("config");
    let configurations = bounded(spec, "/devices/config", MAX_CONFIGURATIONS, &at, errors);
    for (number, configuration) in configurations.iter().enumerate() {
        names.validate_list(configuration, &at.index(number), errors);
        validate_configuration(configuration, &at.index(number), errors);
    }
}

fn validate_request(request: &Value, path: &Path, errors: &mut FieldErrors) {
    validate_label(text(request, "/name"), &path.child("name"), errors);
    let exactly = request.get("exactly").filter(|exactly| !exactly.is_null());
    let alternatives = list(request, "/firstAvailable");
    match (exactly, alternatives.is_empty()) {
        (None, true) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (Some(_), false) => {
            let message =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, Value::Null, message);
        }
        (Some(exactly), true) => validate_wish(exactly, &path.child("exactly"), errors),
        (None, false) => {
            let path = path.child("firstAvailable");
            let alternatives = bounded(request, "/firstAvailable", MAX_ALTERNATIVES, &path, errors);
            for (at, alternative) in alternatives.iter().enumerate() {
                let path = path.index(at);
                validate_label(text(alternative, "/name"), &path.child("name"), errors);
                validate_wish(alternative, &path, errors);
            }
            distinct(alternatives.iter().map(|a| text(a, "/name").to_string()), &path, errors);
        }
    }
}

/// Which devices, and how many.
fn validate_wish(wish: &Value, path: &Path, errors: &mut FieldErrors) {
    let class = text(wish, "/deviceClassName");
    errors.required_and(&path.child("deviceClassName"), class, name::dns_subdomain);
    validate_selectors(wish, path, errors);
    let count = int(wish, "/count").unwrap_or_default();
    match text(wish, "/allocationMode") {
        "All" if count != 0 => {
            let message = "must not be specified when allocationMode is 'All'";
            errors.invalid(path.child("count"), count, message);
        }
        "ExactCount" if count <= 0 => {
            errors.invalid(path.child("count"), count, "must be greater than zero");
        }
        mode => errors.one_of(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    validate_tolerations(wish, path, errors);
}

fn validate_constraint(constraint: &Value, names: &RequestNames<'_>, path: &Path, errors: &mut FieldErrors) {
    names.validate_list(constraint, path, errors);
    for field in ["matchAttribute", "distinctAttribute"] {
        if has(constraint, &format!("/{field}")) {
            let attribute = constraint.get(field).and_then(Value::as_str).unwrap_or_default();
            return validate_fully_qualified(attribute, &path.child(field), errors);
        }
    }
    // In the words of Kubernetes, which mean that none is set.
    let message =
        "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
    errors.required(path, message);
}

//! What MutatingWebhookConfiguration and ValidatingWebhookConfiguration have in common: defaults, rules and columns of lists of
//! webhooks.

use super::{admission_rules as shared, base, texts};
use crate::{
    FieldErrors, Kind, NameRule, Path, Rules, Scope, name,
    object::{each, has, int, len, list, set_default, text},
    print,
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The rules of both kinds.
pub(super) struct Webhooks {
    /// Whether the webhooks may change objects.
    pub mutating: bool,
}

/// The description of one of the two kinds.
pub(super) fn describe(kind: &'static str, plural: &'static str, mutating: bool) -> Kind {
    Kind {
        categories: texts(&["api-extensions"]),
        scope: Scope::Cluster,
        name_rule: NameRule::DnsSubdomain,
        has_generation: true,
        columns: vec![
            print::name_column(),
            print::int_column("Webhooks", "How many webhooks there are."),
            print::age_column(),
        ],
        ..base("admissionregistration.k8s.io", "v1", kind, plural, Webhooks { mutating })
    }
}

/// What is wrong with a name of a webhook: it is a domain of three parts or more.
fn qualified(value: &str) -> Vec<String> {
    let mut messages = name::dns_subdomain(value);
    if messages.is_empty() && value.split('.').count() < 3 {
        messages.push("should be a domain with at least three segments separated by dots".into());
    }
    messages
}

fn client_config(errors: &mut FieldErrors, path: &Path, config: &Value) {
    let url = text(config, "/url");
    match (has(config, "/url"), has(config, "/service")) {
        (true, true) | (false, false) => {
            errors.required(path, "exactly one of url or service is required");
        }
        (true, false) => check_url(errors, &path.child("url"), url),
        (false, true) => {
            let path = path.child("service");
            for field in ["name", "namespace"] {
                if text(config, &format!("/service/{field}")).is_empty() {
                    let detail = format!("service {field} is required");
                    errors.required(path.child(field), &detail);
                }
            }
            if let Some(port) = int(config, "/service/port").filter(|p| !(1..=65535).contains(p)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.invalid(path.child("port"), port, why);
            }
            let target = text(config, "/service/path");
            if !target.is_empty() && !target.starts_with('/') {
                errors.invalid(path.child("path"), target, "must start with a '/'");
            }
        }
    }
}

fn check_url(errors: &mut FieldErrors, path: &Path, url: &str) {
    let Some(rest) = url.strip_prefix("https://") else {
        let scheme = url.split_once("://").map_or("", |(s, _)| s);
        let why = format!(
            "'https' is the only allowed URL scheme: {scheme:?}; desired format: https://host[/path]"
        );
        return errors.invalid(path, url, why);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        errors.invalid(path, url, "host must be specified; desired format: https://host[/path]");
    }
    if authority.contains('@') {
        errors.invalid(
            path,
            url,
            "user information is not permitted in the URL; desired format: https://host[/path]",
        );
    }
    for (mark, noun) in [('#', "fragments"), ('?', "query parameters")] {
        if rest.contains(mark) {
            let why = format!("{noun} are not permitted in the URL; desired format: https://host[/path]");
            errors.invalid(path, url, why);
        }
    }
}

impl Rules for Webhooks {
    fn default(&self, object: &mut Value) {
        each(object, "webhooks", |hook| {
            set_default(hook, "failurePolicy", "Fail");
            shared::default_matching(hook, "rules");
            set_default(hook, "timeoutSeconds", json!(10));
            if self.mutating {
                set_default(hook, "reinvocationPolicy", "Never");
            }
            if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|s| s.is_object()) {
                set_default(service, "port", json!(443));
            }
        });
    }

    fn validate(&self, object: &Value) -> Vec<crate::FieldError> {
        let mut errors = FieldErrors::new();
        let hooks = list(object, "/webhooks");
        for (at, hook) in hooks.iter().enumerate() {
            let path = Path::new("webhooks").index(at);
            let given = text(hook, "/name");
            errors.required_and(&path.child("name"), given, qualified);
            if hooks[..at].iter().any(|h| text(h, "/name") == given) {
                errors.duplicate(path.child("name"), given);
            }
            let versions = list(hook, "/admissionReviewVersions");
            let at_versions = path.child("admissionReviewVersions");
            if versions.is_empty() {
                errors.required(&at_versions, "must specify one of v1, v1beta1");
            } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
                let why = "must include at least one of v1, v1beta1";
                errors.invalid(&at_versions, versions.to_vec(), why);
            }
            let effects = ["None", "NoneOnDryRun"];
            errors.required_one_of(&path.child("sideEffects"), text(hook, "/sideEffects"), &effects);
            errors.one_of(&path.child("failurePolicy"), text(hook, "/failurePolicy"), &["Fail", "Ignore"]);
            if self.mutating {
                let policies = ["IfNeeded", "Never"];
                errors.one_of(
                    &path.child("reinvocationPolicy"),
                    text(hook, "/reinvocationPolicy"),
                    &policies,
                );
            }
            if let Some(seconds) = int(hook, "/timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
                let why = "the timeout value must be between 1 and 30 seconds";
                errors.invalid(path.child("timeoutSeconds"), seconds, why);
            }
            shared::rules(&mut errors, &path.child("rules"), list(hook, "/rules"));
            shared::matching(&mut errors, &path, hook);
            let conditions = list(hook, "/matchConditions");
            shared::match_conditions(&mut errors, &path.child("matchConditions"), conditions);
            let null = Value::Null;
            let config = hook.get("clientConfig").unwrap_or(&null);
            client_config(&mut errors, &path.child("clientConfig"), config);
        }
        errors.into_vec()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), len(object, "/webhooks").into(), print::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: Value) -> Vec<String> {
        let mut hook = json!({
            "name": "a.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://x/y"},
        });
        hook.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut object = json!({"webhooks": [hook]});
        let rules = Webhooks { mutating: true };
        rules.default(&mut object);
        rules.validate(&object).into_iter().map(|e| e.to_string()).collect()
    }

    #[test]
    fn a_webhook_says_what_it_wants_and_where_it_is() {
        assert!(wrong(json!({})).is_empty());
        for (change, want) in [
            (
                json!({"name": "short.name"}),
                "webhooks[0].name: Invalid value: \"short.name\": should be a domain with at least three segments separated by dots",
            ),
            (
                json!({"sideEffects": "Some"}),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                json!({"timeoutSeconds": 31}),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                json!({"admissionReviewVersions": []}),
                "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
            ),
            (
                json!({"clientConfig": {}}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                json!({"clientConfig": {"url": "http://x"}}),
                "webhooks[0].clientConfig.url: Invalid value: \"http://x\": 'https' is the only allowed URL scheme: \"http\"; desired format: https://host[/path]",
            ),
            (
                json!({"matchConditions": [{"name": "x", "expression": " "}]}),
                "webhooks[0].matchConditions[0].expression: Required value",
            ),
        ] {
            assert_eq!(wrong(change), [want]);
        }
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let mut object = json!({"webhooks": [{"rules": [{}], "clientConfig": {"service": {"name": "s"}}}]});
        Webhooks { mutating: true }.default(&mut object);
        let hook = &object["webhooks"][0];
        assert_eq!((&hook["failurePolicy"], &hook["timeoutSeconds"]), (&json!("Fail"), &json!(10)));
        assert_eq!(
            (&hook["rules"][0]["scope"], &hook["clientConfig"]["service"]["port"]),
            (&json!("*"), &json!(443))
        );
        assert_eq!(hook["reinvocationPolicy"], "Never");
    }
}

//! Validation of what a Job says about failed and succeeded pods: `podFailurePolicy`, `successPolicy` and
//! `podReplacementPolicy`.

use crate::{
    FieldError, FieldErrors, Path, name,
    object::{has, int, len, list, text},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
const MAX_INDEXES: usize = 64 * 1024;

/// All policies of a Job's spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    if has(spec, "/podFailurePolicy") {
        validate_failure(spec, &path.child("podFailurePolicy.rules"), errors);
    }
    if let Some(policy) = spec.get("successPolicy").filter(|p| !p.is_null()) {
        let at = path.child("successPolicy");
        if text(spec, "/completionMode") == "Indexed" {
            validate_success(spec, &at.child("rules"), errors);
        } else {
            errors.invalid(&at, policy.clone(), "requires indexed completion mode");
        }
    }
    let replacement = text(spec, "/podReplacementPolicy");
    if !replacement.is_empty() {
        let known: &[&str] =
            if has(spec, "/podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        errors.one_of(&path.child("podReplacementPolicy"), replacement, known);
    }
}

fn validate_failure(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let rules = list(spec, "/podFailurePolicy/rules");
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_many(path, rules.len(), MAX_RULES));
    }
    let containers: BTreeSet<&str> = ["/template/spec/containers", "/template/spec/initContainers"]
        .iter()
        .flat_map(|pointer| list(spec, pointer))
        .map(|container| text(container, "/name"))
        .collect();
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        let action = text(rule, "/action");
        let known = ["Count", "FailIndex", "FailJob", "Ignore"];
        if action == "FailIndex" && !has(spec, "/backoffLimitPerIndex") {
            errors.invalid(path.child("action"), action, "requires the backoffLimitPerIndex to be set");
        } else {
            one_of(action, &known, &path.child("action"), errors);
        }
        let by_code = has(rule, "/onExitCodes");
        let by_condition = len(rule, "/onPodConditions") > 0;
        if by_code {
            validate_exit_codes(&rule["onExitCodes"], &containers, &path.child("onExitCodes"), errors);
        }
        if by_condition {
            let conditions = list(rule, "/onPodConditions");
            validate_conditions(conditions, &path.child("onPodConditions"), errors);
        }
        let message = match (by_code, by_condition) {
            (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError { value: None, ..FieldError::invalid(&path, Value::Null, message) });
    }
}

/// A value that must be there and be one of a few, in the words of this part of the API.
fn one_of(value: &str, known: &[&str], path: &Path, errors: &mut FieldErrors) {
    if value.is_empty() {
        let list = known.iter().map(|k| format!("{k:?}")).collect::<Vec<_>>().join(" ");
        errors.required(path, &format!("valid values: [{list}]"));
    } else {
        errors.one_of(path, value, known);
    }
}

fn validate_exit_codes(
    requirement: &Value,
    containers: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let operator = text(requirement, "/operator");
    one_of(operator, &["In", "NotIn"], &path.child("operator"), errors);
    if let Some(container) = requirement["containerName"].as_str().filter(|c| !containers.contains(c)) {
        let message = "must be one of the container or initContainer names in the pod template";
        errors.invalid(path.child("containerName"), container, message);
    }
    let path = path.child("values");
    let codes: Vec<i64> = list(requirement, "/values").iter().filter_map(Value::as_i64).collect();
    if codes.is_empty() {
        errors.invalid(&path, json!(codes), "at least one value is required");
    } else if codes.len() > MAX_EXIT_CODES {
        errors.push(FieldError::too_many(&path, codes.len(), MAX_EXIT_CODES));
    }
    let mut seen = BTreeSet::new();
    for (at, code) in codes.iter().enumerate() {
        if operator == "In" && *code == 0 {
            errors.invalid(path.index(at), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            errors.duplicate(path.index(at), *code);
        }
    }
    if !codes.is_sorted() {
        errors.invalid(&path, json!(codes), "must be ordered");
    }
}

fn validate_conditions(conditions: &[Value], path: &Path, errors: &mut FieldErrors) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(path, conditions.len(), MAX_CONDITIONS));
    }
    for (at, pattern) in conditions.iter().enumerate() {
        let path = path.index(at);
        let kind = text(pattern, "/type");
        errors.messages(&path.child("type"), kind, name::qualified_name(kind));
        one_of(text(pattern, "/status"), &["False", "True", "Unknown"], &path.child("status"), errors);
    }
}

fn validate_success(spec: &Value, path: &Path, errors: &mut FieldErrors) {
    let rules = list(spec, "/successPolicy/rules");
    if rules.is_empty() {
        errors.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_many(path, rules.len(), MAX_RULES));
    }
    let completions = int(spec, "/completions").unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let path = path.index(at);
        let (count, indexes) = (int(rule, "/succeededCount"), rule["succeededIndexes"].as_str());
        if count.is_none() && indexes.is_none() {
            let message = "at least one of succeededCount or succeededIndexes must be specified";
            errors.required(&path, message);
        }
        let mut listed = None;
        if let Some(indexes) = indexes {
            let path = path.child("succeededIndexes");
            if indexes.len() > MAX_INDEXES {
                errors.push(FieldError::too_long(&path, MAX_INDEXES));
            }
            listed = Some(count_indexes(indexes, completions).unwrap_or_else(|why| {
                errors.invalid(&path, indexes, format!("error parsing succeededIndexes: {why}"));
                0
            }));
        }
        let Some(count) = count else { continue };
        let path = path.child("succeededCount");
        errors.not_negative(&path, Some(count));
        if count > completions {
            let message =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&path, count, message);
        }
        if let Some(listed) = listed.filter(|listed| count > *listed) {
            let message = format!(
                "must be less than or equal to {listed} (the number of indexes in the specified succeededIndexes \
                 field)"
            );
            errors.invalid(&path, count, message);
        }
    }
}

/// How many indexes `0,3-5` names.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| match text.parse::<i64>() {
        Ok(number) if number >= completions => Err(format!("too large index: {text:?}")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
    };
    let mut total = 0;
    let mut previous: Option<i64> = None;
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = match interval.split('-').collect::<Vec<_>>()[..] {
            [only] => (number(only)?, number(only)?),
            [first, last] => (number(first)?, number(last)?),
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two \
                     parts separated by '-'"
                ));
            }
        };
        if last < first || (last == first && interval.contains('-')) {
            return Err(format!("non-increasing order, previous: {first}, current: {last}"));
        }
        if let Some(previous) = previous.filter(|previous| *previous >= first) {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        total += last - first + 1;
        previous = Some(last);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(policies: Value) -> Vec<String> {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5, "podReplacementPolicy": "Failed",
            "template": {"spec": {"containers": [{"name": "c"}]}}});
        spec.as_object_mut().unwrap().extend(policies.as_object().unwrap().clone());
        let mut errors = FieldErrors::new();
        validate(&spec, &Path::new("spec"), &mut errors);
        errors.into_vec().into_iter().map(|e| e.to_string()).collect()
    }

    fn failure(rule: Value) -> Vec<String> {
        wrong(json!({"podFailurePolicy": {"rules": [rule]}}))
    }

    fn success(rule: Value) -> Vec<String> {
        wrong(json!({"successPolicy": {"rules": [rule]}}))
    }

    #[test]
    fn rules_about_failed_pods() {
        let none: Vec<String> = Vec::new();
        assert_eq!(
            failure(
                json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})
            ),
            none
        );
        let codes = |more: Value| {
            let mut rule = json!({"operator": "In", "values": [1, 3]});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"action": "FailJob", "onExitCodes": rule})
        };
        assert_eq!(failure(codes(json!({"containerName": "c"}))), none);
        let at = "spec.podFailurePolicy.rules[0]";
        for (rule, want) in [
            (
                codes(json!({"containerName": "d"})),
                "onExitCodes.containerName: Invalid value: \"d\": must be one of the container or initContainer names in the pod template",
            ),
            (codes(json!({"values": [3, 1]})), "onExitCodes.values: Invalid value: [3,1]: must be ordered"),
            (codes(json!({"values": [1, 1]})), "onExitCodes.values[1]: Duplicate value: 1"),
            (
                codes(json!({"values": []})),
                "onExitCodes.values: Invalid value: []: at least one value is required",
            ),
            (
                codes(json!({"operator": ""})),
                "onExitCodes.operator: Required value: valid values: [\"In\" \"NotIn\"]",
            ),
            (
                json!({"action": "FailIndex", "onPodConditions": [{"type": "a", "status": "True"}]}),
                "action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            ),
            (
                json!({"action": "Count", "onPodConditions": [{"type": "a", "status": "x"}]}),
                "onPodConditions[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\"",
            ),
        ] {
            assert_eq!(failure(rule), [format!("{at}.{want}")]);
        }
        assert_eq!(
            failure(json!({"action": "Count"})),
            [format!("{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required")]
        );
        assert_eq!(
            wrong(json!({"podFailurePolicy": {}, "podReplacementPolicy": "TerminatingOrFailed"})),
            [
                "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\""
            ]
        );
    }

    #[test]
    fn rules_about_succeeded_indexes() {
        assert_eq!(success(json!({"succeededIndexes": "0,2-4", "succeededCount": 3})), Vec::<String>::new());
        let at = "spec.successPolicy.rules[0]";
        for (rule, want) in [
            (
                json!({}),
                ": Required value: at least one of succeededCount or succeededIndexes must be specified",
            ),
            (
                json!({"succeededCount": 6}),
                ".succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)",
            ),
            (
                json!({"succeededCount": 2, "succeededIndexes": "1"}),
                ".succeededCount: Invalid value: 2: must be less than or equal to 1 (the number of indexes in the specified succeededIndexes field)",
            ),
            (
                json!({"succeededIndexes": "5"}),
                ".succeededIndexes: Invalid value: \"5\": error parsing succeededIndexes: too large index: \"5\"",
            ),
            (
                json!({"succeededIndexes": "2,1"}),
                ".succeededIndexes: Invalid value: \"2,1\": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1",
            ),
            (
                json!({"succeededIndexes": "a"}),
                ".succeededIndexes: Invalid value: \"a\": error parsing succeededIndexes: cannot convert string to integer for index: \"a\"",
            ),
        ] {
            assert_eq!(success(rule), [format!("{at}{want}")]);
        }
        assert_eq!(
            wrong(json!({"successPolicy": {}})),
            [
                "spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified"
            ]
        );
    }
}

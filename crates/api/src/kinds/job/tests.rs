//! Jobs: what they get, what is refused, what stays.

use super::*;

fn job(spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {
        "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Job.default(&mut object);
    Job.prepare_create(&mut object);
    object
}

fn wrong(spec: Value) -> Vec<String> {
    Job.validate(&job(spec)).into_iter().map(|e| e.to_string()).collect()
}

#[test]
fn a_bare_job_runs_one_pod_and_selects_it_by_uid() {
    let object = job(json!({}));
    let spec = &object["spec"];
    assert_eq!(
        (&spec["parallelism"], &spec["completions"], &spec["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!((&spec["completionMode"], &spec["suspend"]), (&json!("NonIndexed"), &json!(false)));
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}));
    assert_eq!(
        spec["template"]["metadata"]["labels"],
        json!({"a": "b", "controller-uid": "u1", "batch.kubernetes.io/controller-uid": "u1",
            "job-name": "j", "batch.kubernetes.io/job-name": "j"})
    );
    assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(wrong(json!({})), Vec::<String>::new());
}

#[test]
fn a_work_queue_has_no_completions() {
    let object = job(json!({"parallelism": 3}));
    assert_eq!(object["spec"].get("completions"), None);
    assert_eq!(completions(&object), "0/1 of 3");
}

#[test]
fn wrong_fields_are_named() {
    let template = |policy: &str, labels: Value| {
        json!({"template": {"metadata": {"labels": labels},
            "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "x"}]}}})
    };
    for (spec, want) in [
        (
            json!({"backoffLimit": -1}),
            "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            template("", json!({})),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            json!({"completionMode": "Indexed", "parallelism": 2}),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            json!({"backoffLimitPerIndex": 1}),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            template("Never", json!({"job-name": "other"})),
            "spec.template.metadata.labels[job-name]: Invalid value: \"other\": must be 'j'",
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}]}}),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1, "maxFailedIndexes": 3}),
            "spec.maxFailedIndexes: Invalid value: 3: must be less than or equal to completions",
        ),
        (
            json!({"managedBy": "me"}),
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
    ] {
        assert_eq!(wrong(spec.clone()), [want], "{spec}");
    }
    let by_hand = json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}});
    assert_eq!(wrong(by_hand), Vec::<String>::new());
    assert_eq!(wrong(json!({"manualSelector": true})), ["spec.selector: Required value"]);
}

#[test]
fn template_and_selector_may_not_change() {
    let old = job(json!({}));
    let paths = |change: &dyn Fn(&mut Value), old: &Value| {
        let mut new = old.clone();
        change(&mut new);
        Job.validate_update(&new, old).into_iter().map(|e| e.path).collect::<Vec<_>>()
    };
    assert!(paths(&|j| j["spec"]["parallelism"] = json!(5), &old).is_empty());
    assert_eq!(paths(&|j| j["spec"]["completions"] = json!(5), &old), ["spec.completions"]);
    assert_eq!(paths(&|j| j["spec"]["selector"] = json!({}), &old), ["spec.selector"]);
    let place = |j: &mut Value| j["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    assert_eq!(paths(&place, &old), ["spec.template"]);
    assert!(paths(&place, &job(json!({"suspend": true}))).is_empty());
    let indexed = job(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    let grow = |j: &mut Value| {
        j["spec"]["completions"] = json!(3);
        j["spec"]["parallelism"] = json!(3);
    };
    assert!(paths(&grow, &indexed).is_empty());
}

#[test]
fn the_row_reads_as_kubectl_prints_it() {
    let now = "2026-01-01T00:10:00Z".parse().unwrap();
    let mut object = job(json!({"completions": 5}));
    object["status"] = json!({"succeeded": 2, "startTime": "2026-01-01T00:00:00Z"});
    let row = Job.cells(&object, now);
    assert_eq!(row[1..4], ["Running", "2/5", "10m"].map(Value::from));
    object["status"]["completionTime"] = json!("2026-01-01T00:01:10Z");
    object["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
    assert_eq!(Job.cells(&object, now)[1..4], ["Complete", "2/5", "70s"].map(Value::from));
    assert_eq!(Job.field(&object, "status.successful"), "2");
}

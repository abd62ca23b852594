//! Rules against requests, and rules against rules.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn rule(value: serde_json::Value) -> PolicyRule {
    serde_json::from_value(value).expect("a rule")
}

fn on<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: &'a str) -> Request<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Request::Resource { verb, group, resource, subresource, name }
}

#[test]
fn a_rule_allows_what_it_names_and_nothing_else() {
    let pods = rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]}));
    assert!(pods.allows(on("get", "", "pods", "a")) && pods.allows(on("list", "", "pods", "")));
    assert!(pods.allows(on("get", "", "replicationcontrollers/scale", "a")));
    for request in [
        on("delete", "", "pods", "a"),
        on("get", "apps", "pods", "a"),
        on("get", "", "pods/log", "a"),
        on("get", "", "secrets", "a"),
        Request::Path { verb: "get", path: "/api/v1/pods" },
    ] {
        assert!(!pods.allows(request), "{request:?}");
    }
    let all = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
    assert!(all.allows(on("escalate", "x.y", "z/w", "n")));
    assert!(!all.allows(Request::Path { verb: "get", path: "/metrics" }));
}

#[test]
fn a_rule_with_names_allows_only_requests_that_name_one() {
    let named = rule(
        json!({"verbs": ["*"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]}),
    );
    assert!(named.allows(on("get", "", "secrets", "b")) && named.allows(on("list", "", "secrets", "a")));
    assert!(!named.allows(on("get", "", "secrets", "c")) && !named.allows(on("list", "", "secrets", "")));
}

#[test]
fn a_star_at_the_end_of_a_path_stands_for_the_rest() {
    let paths = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
    let get = |path| Request::Path { verb: "get", path };
    assert!(paths.allows(get("/healthz")) && paths.allows(get("/apis/apps")) && paths.allows(get("/apis/")));
    assert!(!paths.allows(get("/healthz/etcd")) && !paths.allows(get("/apis")));
    assert!(rule(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})).allows(get("/anything")));
}

#[test]
fn what_is_missing_is_told_on_as_few_lines_as_possible() {
    let held = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
    let wanted = [
        rule(json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods"]})),
        rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]})),
        rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})),
    ];
    let lines: Vec<String> = compact(uncovered(&held, &wanted)).iter().map(describe).collect();
    assert_eq!(
        lines,
        [
            r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#,
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#,
            r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["a"], Verbs:["get"]}"#,
        ]
    );
}

#[test]
fn only_a_rule_at_least_as_wide_covers() {
    let cases = [
        (json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}), true),
        (json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["*/scale"]}), true),
        (json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}), true),
        (json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments"]}), false),
        (
            json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["a"]}),
            false,
        ),
    ];
    let wanted = [rule(json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}))];
    for (held, covered) in cases {
        assert_eq!(uncovered(&[rule(held.clone())], &wanted).is_empty(), covered, "{held}");
    }
    let star = [rule(json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}))];
    assert_eq!(uncovered(&wanted, &star).len(), 1, "a star is more than any list");
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(of).prop_map(str::to_string), 1..3)
}

fn any_rule() -> impl Strategy<Value = PolicyRule> {
    (
        some(&["get", "list", "*"]),
        some(&["", "apps", "*"]),
        some(&["pods", "pods/log", "*/log", "*"]),
        prop_oneof![Just(Vec::new()), some(&["a", "b"])],
    )
        .prop_map(|(verbs, api_groups, resources, resource_names)| PolicyRule {
            verbs,
            api_groups,
            resources,
            resource_names,
            ..PolicyRule::default()
        })
}

proptest! {
    #[test]
    fn whoever_holds_enough_to_give_a_rule_away_may_do_all_that_it_allows(
        held in prop::collection::vec(any_rule(), 0..4), wanted in any_rule(),
        verb in prop::sample::select(vec!["get", "list", "delete"]),
        group in prop::sample::select(vec!["", "apps", "batch"]),
        resource in prop::sample::select(vec!["pods", "pods/log", "jobs", "jobs/log"]),
        name in prop::sample::select(vec!["", "a", "b", "c"]),
    ) {
        let request = on(verb, group, resource, name);
        if uncovered(&held, std::slice::from_ref(&wanted)).is_empty() && wanted.allows(request) {
            prop_assert!(held.iter().any(|rule| rule.allows(request)));
        }
    }

    #[test]
    fn full_authority_covers_everything_and_everything_covers_itself(rules in prop::collection::vec(any_rule(), 0..4)) {
        prop_assert!(uncovered(&full_authority(), &rules).is_empty());
        prop_assert!(uncovered(&rules, &rules).is_empty());
        prop_assert!(uncovered(&rules, &compact(rules.clone())).is_empty());
        prop_assert!(uncovered(&compact(rules.clone()), &rules).is_empty());
    }
}

use super::*;

fn policy(rules: &str) -> Policy {
    Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}")).unwrap()
}

fn wrong(rules: &str) -> String {
    Policy::parse(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}")).unwrap_err().to_string()
}

fn jane() -> Identity {
    Identity::new("jane", &["dev"])
}

/// `verb group resource subresource namespace name`, with `-` for what is empty; or `verb /path`.
fn level(policy: &Policy, who: Option<&Identity>, request: &str) -> Level {
    let words: Vec<&str> =
        request.split_whitespace().map(|word| if word == "-" { "" } else { word }).collect();
    let what = match words.as_slice() {
        [verb, path] => Attributes { verb, path, ..Attributes::default() },
        [verb, group, resource, subresource, namespace, name] => {
            Attributes { verb, group, resource, subresource, namespace, name, ..Attributes::default() }
        }
        _ => panic!("{request:?}"),
    };
    policy.decide(who, &what).level
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(
        r#"
rules:
- {level: None, users: [bot], verbs: [get]}
- {level: Request, userGroups: [dev], resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, namespaces: [prod]}
- {level: None, nonResourceURLs: ["/healthz*", "/version"]}
- {level: Metadata, nonResourceURLs: ["*"]}
- {level: Metadata, resources: [{group: apps}]}
"#,
    );
    use Level::*;
    let bot = Identity::new("bot", &[]);
    for (who, request, expected) in [
        (&bot, "get - pods - prod p", None),
        (&bot, "list - pods - prod -", RequestResponse),
        (&jane(), "get - secrets - prod s", Request),
        (&bot, "get - secrets - default s", None),
        (&bot, "list - secrets - default -", None),
        (&jane(), "list - pods - default -", None),
        (&jane(), "get apps deployments scale x d", Metadata),
        (&jane(), "get /healthz/etcd", None),
        (&jane(), "get /versions", Metadata),
        (&jane(), "get /version", None),
    ] {
        assert_eq!(level(&policy, Some(who), request), expected, "{} {request}", who.user);
    }
}

#[test]
fn resources_are_named_with_their_subresources_and_wildcards() {
    for (pattern, request, matches) in [
        ("pods", "get - pods - n p", true),
        ("pods", "get - pods log n p", false),
        ("pods/log", "get - pods log n p", true),
        ("pods/log", "get - pods - n p", false),
        ("pods/*", "get - pods exec n p", true),
        // As Kubernetes matches, not as its documentation reads.
        ("pods/*", "get - pods - n p", true),
        ("*/scale", "get - things scale n p", true),
        ("*/scale", "get - things - n p", false),
        ("*", "get - pods log n p", true),
        ("*", "get apps deployments - n p", false),
    ] {
        let policy = policy(&format!(
            "rules: [{{level: Metadata, resources: [{{group: \"\", resources: [\"{pattern}\"]}}]}}]"
        ));
        assert_eq!(level(&policy, Some(&jane()), request) == Level::Metadata, matches, "{pattern} {request}");
    }
}

#[test]
fn a_rule_may_be_about_some_names_or_about_what_is_in_no_namespace() {
    let named = policy(
        "rules: [{level: Metadata, resources: [{group: \"\", resources: [configmaps], resourceNames: [a, b]}]}]",
    );
    assert_eq!(level(&named, Some(&jane()), "get - configmaps - n b"), Level::Metadata);
    assert_eq!(level(&named, Some(&jane()), "get - configmaps - n c"), Level::None);
    let cluster = policy("rules: [{level: Metadata, namespaces: [\"\"]}]");
    assert_eq!(level(&cluster, Some(&jane()), "get - nodes - - n"), Level::Metadata);
    assert_eq!(level(&cluster, Some(&jane()), "get - pods - n p"), Level::None);
    assert_eq!(level(&cluster, Some(&jane()), "get /metrics"), Level::None);
}

#[test]
fn who_proved_nothing_matches_no_rule_about_users() {
    let policy = policy("rules: [{level: Metadata, users: [jane]}, {level: Request}]");
    assert_eq!(level(&policy, None, "get /metrics"), Level::Request);
}

#[test]
fn stages_are_left_out_by_the_policy_and_by_the_rule() {
    let policy = policy(
        r#"
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: Metadata, verbs: [get], omitStages: [ResponseStarted], omitManagedFields: false}
- {level: Metadata}
"#,
    );
    let of = |verb| policy.decide(None, &Attributes { verb, path: "/", ..Attributes::default() });
    let noted = |verb| Stage::ALL.into_iter().filter(|s| of(verb).notes(*s)).collect::<Vec<_>>();
    assert_eq!(noted("get"), [Stage::ResponseComplete, Stage::Panic]);
    assert_eq!(noted("post"), [Stage::ResponseStarted, Stage::ResponseComplete, Stage::Panic]);
    assert!(!of("get").omit_managed_fields && of("post").omit_managed_fields);
}

#[test]
fn what_is_wrong_is_named_with_its_field() {
    for (rules, expected) in [
        ("rules: []", "loaded illegal policy with 0 rules"),
        ("rules: [{users: [x]}]", "rules[0].level: Required value"),
        (
            "rules: [{level: All}]",
            r#"rules[0].level: Unsupported value: "All": supported values: "None", "Metadata", "Request", "RequestResponse""#,
        ),
        ("rules: [{level: None, user: x}]", r#"unknown field "rules[0].user""#),
        ("rules: [{level: None, users: x}]", "rules[0].users: Invalid value: must be a list"),
        (
            "rules: [{level: None, nonResourceURLs: [x, '/a*b']}]",
            r#"[rules[0].nonResourceURLs[0]: Invalid value: "x": non-resource URL rules must begin with a '/' character, rules[0].nonResourceURLs[1]: Invalid value: "/a*b": non-resource URL wildcards '*' must be the final character of the rule]"#,
        ),
        (
            "rules: [{level: None}, {level: None, namespaces: [a], nonResourceURLs: ['/x']}]",
            r#"rules[1].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs"#,
        ),
        (
            "rules: [{level: None, omitStages: [Start]}]",
            r#"rules[0].omitStages[0]: Invalid value: "Start": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"#,
        ),
        (
            "rules: [{level: None, resources: [{group: '', resourceNames: [x]}]}]",
            r#"rules[0].resources[0].resourceNames: Invalid value: ["x"]: using resourceNames requires at least one resource"#,
        ),
    ] {
        assert_eq!(wrong(rules), expected, "{rules}");
    }
    assert!(
        wrong("rules: [{level: None, resources: [{group: apps/v1}]}]")
            .starts_with("rules[0].resources[0].group: ")
    );
    assert!(Policy::parse("kind: Policy").is_err() && Policy::parse("{").is_err());
}

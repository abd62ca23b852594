//! Selectors: what is read, what is refused, what matches.

use super::*;
use crate::kinds;
use proptest::prelude::*;

fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter(|p| !p.is_empty()).filter_map(|p| p.split_once('='));
    pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

#[test]
fn a_query_selects_by_labels() {
    for (selector, of, want) in [
        ("", "", true),
        ("a=b", "a=b", true),
        ("a==b", "a=b", true),
        ("a=b", "a=c", false),
        ("a=", "a=", true),
        ("a=", "", false),
        ("a!=b", "a=c", true),
        ("a!=b", "", true),
        ("a!=b", "a=b", false),
        ("a in (b,c)", "a=c", true),
        ("a in (b,c)", "", false),
        ("a notin (b, c)", "a=b", false),
        ("a notin (b,c)", "", true),
        ("a in (,b)", "a=", true),
        ("a in (,)", "a=", true),
        ("a", "a=x", true),
        ("a", "", false),
        ("!a", "", true),
        ("! a", "a=x", false),
        ("a>3", "a=4", true),
        ("a>3", "a=3", false),
        ("a>3", "a=x", false),
        ("a<3", "a=2", true),
        ("in in (in)", "in=in", true),
        ("a=b,c notin (d),!e", "a=b,c=x", true),
        ("a=b,c notin (d),!e", "a=b,e=x", false),
        (" a = b , c ", "a=b,c=", true),
        ("x.io/a=b", "x.io/a=b", true),
    ] {
        let parsed = Selector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        assert_eq!(parsed.matches(&labels(of)), want, "{selector:?} of {of:?}");
        let again = Selector::parse(&parsed.to_string()).unwrap();
        assert_eq!(again, parsed, "{selector:?} is written as {parsed}");
    }
}

#[test]
fn a_bad_query_is_refused_in_kubernetes_words() {
    for (bad, want) in [
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a=b,", "found '', expected: identifier after ','"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        (
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be \
             empty",
        ),
        (
            "a>b",
            "unable to parse requirement: values: Invalid value: [\"b\"]: for 'Gt', 'Lt' operators, the value must be an integer",
        ),
        ("a=(b", "unable to parse requirement: found '(', expected: identifier"),
    ] {
        assert_eq!(Selector::parse(bad).unwrap_err().to_string(), want, "{bad:?}");
    }
    let message = Selector::parse("a/b/c=d").unwrap_err().to_string();
    assert!(
        message.starts_with("unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a qualified name")
    );
    let message = Selector::parse("a=-").unwrap_err().to_string();
    assert!(
        message.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label")
    );
}

#[test]
fn a_label_selector_of_an_object_matches_all_it_says() {
    let of = |v: Value| Selector::from_json(Some(&v)).unwrap();
    let both = of(json!({"matchLabels": {"b": "1"}, "matchExpressions": [
        {"key": "a", "operator": "In", "values": ["y", "x"]},
        {"key": "c", "operator": "DoesNotExist"}]}));
    assert_eq!(both.to_string(), "a in (x,y),b=1,!c");
    assert!(both.matches(&labels("a=x,b=1")));
    assert!(!both.matches(&labels("a=x,b=1,c=")));
    assert!(of(json!({})).matches(&labels("")));
    assert!(!Selector::of(None).unwrap().matches(&labels("a=b")));
    assert_eq!(
        Selector::from_json(Some(&json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})))
            .unwrap_err()
            .to_string(),
        "\"Like\" is not a valid label selector operator"
    );
}

#[test]
fn a_wrong_label_selector_names_the_field() {
    let typed: LabelSelector =
        serde_json::from_value(json!({"matchLabels": {"a b": "-"}, "matchExpressions": [
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "-", "operator": "Like", "values": ["x"]}]}))
        .unwrap();
    let paths: Vec<String> = validate(&typed, "spec.selector").into_iter().map(|e| e.path).collect();
    assert_eq!(
        paths,
        [
            "spec.selector.matchLabels",
            "spec.selector.matchLabels",
            "spec.selector.matchExpressions[0].values",
            "spec.selector.matchExpressions[1].values",
            "spec.selector.matchExpressions[2].operator",
            "spec.selector.matchExpressions[2].key",
        ]
    );
}

#[test]
fn a_query_selects_by_fields() {
    let get = |path: &str| match path {
        "status.phase" => "Running".to_string(),
        "metadata.name" => "a,b=c\\".to_string(),
        _ => String::new(),
    };
    for (text, want) in [
        ("", true),
        ("status.phase=Running", true),
        ("status.phase==Running", true),
        ("status.phase!=Running", false),
        ("status.phase=Running,spec.nodeName=", true),
        ("status.phase=Running,spec.nodeName!=", false),
        (r"metadata.name=a\,b\=c\\", true),
    ] {
        let selector = FieldSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(selector.matches_with(get), want, "{text}");
        assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector, "{text}");
    }
    assert_eq!(
        FieldSelector::parse("a").unwrap_err().to_string(),
        "invalid selector: 'a'; can't understand 'a'"
    );
    assert!(FieldSelector::parse("a=b=c").is_err());
}

#[test]
fn a_field_that_the_kind_does_not_know_is_refused() {
    let check = |plural, text| {
        let group = if plural == "jobs" { "batch" } else { "" };
        let kind = kinds::find(group, "v1", plural).unwrap();
        FieldSelector::parse(text).unwrap().check(&kind).map_err(|e| e.to_string())
    };
    assert_eq!(check("pods", "spec.nodeName=x,metadata.namespace=y"), Ok(()));
    assert_eq!(check("pods", "spec.x=y"), Err("field label not supported: spec.x".to_string()));
    assert_eq!(check("jobs", "a=b"), Err("field label \"a\" not supported for batchv1.Job".to_string()));
    assert_eq!(
        check("configmaps", "data.x=y"),
        Err("\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            .to_string())
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_and_never_panics(text in "[a-c1!=<>(), inot.\\-/\\\\é]{0,24}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn a_requirement_and_its_opposite_never_agree(
        values in proptest::collection::vec("[a-c]", 1..3),
        label in proptest::option::of("[a-c]"),
    ) {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let requirement = |operator| Requirement::new("k", operator, &values).unwrap();
        let label = label.as_deref();
        prop_assert_ne!(requirement(Operator::In).accepts(label), requirement(Operator::NotIn).accepts(label));
    }
}

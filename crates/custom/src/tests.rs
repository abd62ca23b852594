use crate::{definition, fit, lists, patterns::Patterns, rules, schema::Schema, structural, value, version};
use orlop_api::{FieldErrors, Path};
use proptest::prelude::*;
use serde_json::{Value, json};

fn problems(schema: &Value) -> Vec<String> {
    let mut errors = FieldErrors::new();
    structural::validate(&Schema::parse(schema), &Path::new("s"), &mut errors);
    errors.into_vec().into_iter().map(|e| e.to_string()).collect()
}

fn spec(field: Value) -> Value {
    json!({"type": "object", "properties": {"spec": field}})
}

#[test]
fn a_schema_that_is_not_structural_is_refused_with_the_reason() {
    let at = "s.properties[spec]";
    for (schema, expected) in [
        (json!({}), "s.type: Required value: must not be empty at the root".to_string()),
        (json!({"type": "string"}), "s.type: Invalid value: \"string\": must be object at the root".into()),
        (spec(json!({})), format!("{at}.type: Required value: must not be empty for specified object fields")),
        (
            spec(json!({"type": "array", "items": {}})),
            format!("{at}.items.type: Required value: must not be empty for specified array items"),
        ),
        (spec(json!({"type": "array"})), format!("{at}.items: Required value: must be specified")),
        (
            spec(json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}})),
            format!("{at}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
        ),
        (spec(json!({"$ref": "x", "type": "string"})), format!("{at}.$ref: Forbidden: $ref is not supported")),
        (
            spec(json!({"type": "string", "uniqueItems": true})),
            format!("{at}.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
        ),
        (
            spec(json!({"type": "integer", "allOf": [{"type": "integer"}]})),
            format!("{at}.allOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (
            spec(json!({"type": "string", "x-kubernetes-int-or-string": true})),
            format!("{at}.type: Invalid value: \"string\": must be empty if x-kubernetes-int-or-string is true"),
        ),
        (
            spec(json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]})),
            format!("{at}.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"),
        ),
        (
            spec(json!({"type": "integer", "default": "x"})),
            format!("{at}.default: Invalid value: \"string\": {at}.default in body must be of type integer: \"string\""),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified".into(),
        ),
        (
            spec(json!({"type": "strange"})),
            format!("{at}.type: Unsupported value: \"strange\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""),
        ),
        (
            spec(json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self.x > 1"}]})),
            format!("{at}.x-kubernetes-validations[0].rule: Invalid value: \"self.x > 1\": compilation failed: ERROR: <input>:1:5: type 'int' does not support field selection\n | self.x > 1\n | ....^"),
        ),
    ] {
        let found = problems(&schema);
        assert!(found.contains(&expected), "{schema}: {found:#?}");
    }
    let good = spec(json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "pattern": "^a+$", "maxLength": 5, "default": "aa"},
        "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "c": {"x-kubernetes-preserve-unknown-fields": true},
        "d": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
    }, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}));
    assert_eq!(problems(&good), Vec::<String>::new());
}

#[test]
fn a_rule_that_could_cost_too_much_is_refused() {
    let unbounded = spec(json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [
        {"rule": "self.all(a, self.all(b, a != b))"}]}));
    let found = problems(&unbounded);
    assert!(found[0].contains("estimated rule cost exceeds budget by factor of more than 100x"), "{found:?}");
    let bounded = spec(json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10},
        "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a != b))"}]}));
    assert_eq!(problems(&bounded), Vec::<String>::new());
}

fn wrong(schema: Value, spec: Value) -> Vec<String> {
    let schema = Schema::parse(&self::spec(schema));
    let object = json!({"apiVersion": "x.y/v1", "kind": "A", "metadata": {"name": "a"}, "spec": spec});
    let mut errors = value::validate(&schema, &Patterns::of(&schema), &object);
    lists::validate_lists(&schema, &object, "", &mut errors);
    errors.into_vec().into_iter().map(|e| e.to_string()).collect()
}

#[test]
fn a_value_is_judged_in_kubernetes_words() {
    for (schema, value, expected) in [
        (
            json!({"type": "integer"}),
            json!("x"),
            "spec: Invalid value: \"string\": spec in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 10, "exclusiveMaximum": true}),
            json!(10),
            "spec: Invalid value: 10: spec in body should be less than 10",
        ),
        (
            json!({"type": "number", "multipleOf": 0.5}),
            json!(0.7),
            "spec: Invalid value: 0.7: spec in body should be a multiple of 0.5",
        ),
        (
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            "spec: Invalid value: \"b\": spec in body should match '^a$'",
        ),
        (
            json!({"type": "string", "maxLength": 1}),
            json!("bb"),
            "spec: Too long: may not be more than 1 bytes",
        ),
        (
            json!({"type": "string", "minLength": 3}),
            json!("bb"),
            "spec: Invalid value: \"bb\": spec in body should be at least 3 chars long",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "spec: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("c"),
            "spec: Invalid value: \"c\": spec in body must be of type date-time: \"c\"",
        ),
        (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
            json!([1, 2]),
            "spec: Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}}),
            json!([1, "a"]),
            "spec[1]: Invalid value: \"string\": spec[1] in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}, "x-kubernetes-list-type": "set"}),
            json!([1, 1]),
            "spec[1]: Duplicate value: 1",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec: Invalid value: \"boolean\": spec in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({}),
            "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
        ),
        (
            json!({"type": "string", "nullable": false}),
            json!(null),
            "spec: Invalid value: \"null\": spec in body must be of type string: \"null\"",
        ),
    ] {
        let found = wrong(schema.clone(), value);
        assert!(found.iter().any(|f| f == expected), "{schema}: {found:#?}");
    }
    assert_eq!(wrong(json!({"type": "string", "nullable": true}), json!(null)), Vec::<String>::new());
    assert_eq!(wrong(json!({"x-kubernetes-int-or-string": true}), json!("5%")), Vec::<String>::new());
}

#[test]
fn numbers_are_written_as_go_writes_them() {
    for (number, text) in
        [(1.0, "1"), (0.5, "0.5"), (100_000.0, "100000"), (1_000_000.0, "1e+06"), (1e-5, "1e-05"), (0.0, "0")]
    {
        assert_eq!(value::float(number), text);
    }
}

#[test]
fn undeclared_fields_go_and_defaults_come() {
    let schema = Schema::parse(&spec(json!({"type": "object", "properties": {
        "a": {"type": "integer", "default": 1}, "b": {"type": "string", "default": "x", "nullable": true},
        "c": {"type": "object", "default": {}, "properties": {"d": {"type": "integer", "default": 2}}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"e": {"type": "object"}}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"f": {"type": "integer", "default": 3}}}},
    }})));
    let mut object = json!({"apiVersion": "x", "kind": "y", "metadata": {"name": "a", "labels": {}}, "other": 1, "spec": {
        "a": null, "b": null, "open": {"q": 1, "e": {"gone": 1}}, "list": [{"z": 1}]}});
    let gone = fit::prune(&schema, &mut object, true);
    assert_eq!(gone, ["other", "spec.list[0].z", "spec.open.e.gone"]);
    fit::default(&schema, &mut object);
    assert_eq!(
        object["spec"],
        json!({
        "a": 1, "b": null, "c": {"d": 2}, "open": {"q": 1, "e": {}}, "list": [{"f": 3}]})
    );
}

fn judged(rule: Value, new: Value, old: Option<Value>) -> Vec<String> {
    let schema = Schema::parse(&spec(json!({"type": "object", "properties": {
        "size": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"}},
        "x-kubernetes-validations": [rule]})));
    let (compiled, broken) = rules::compile(&schema, "s");
    assert!(broken.is_empty(), "{}", broken[0].why);
    let object = |spec: Value| json!({"spec": spec});
    let old = old.map(object);
    let mut errors = FieldErrors::new();
    rules::validate(&compiled, &object(new), old.as_ref(), &mut errors);
    errors.into_vec().into_iter().map(|e| e.to_string()).collect()
}

#[test]
fn rules_say_what_is_wrong_and_where() {
    let bad = json!({"size": 5, "max": 3});
    assert_eq!(
        judged(json!({"rule": "self.size <= self.max"}), bad.clone(), None),
        ["spec: Invalid value: \"object\": failed rule: self.size <= self.max"]
    );
    assert_eq!(
        judged(
            json!({"rule": "self.size <= self.max", "message": "too large", "fieldPath": ".size", "reason": "FieldValueForbidden"}),
            bad.clone(),
            None
        ),
        ["spec.size: Forbidden: too large"]
    );
    assert_eq!(
        judged(
            json!({"rule": "self.size <= self.max", "messageExpression": "'at most ' + string(self.max)"}),
            bad.clone(),
            None
        ),
        ["spec: Invalid value: \"object\": at most 3"]
    );
    let fixed = json!({"rule": "self.size >= oldSelf.size", "message": "may not shrink"});
    assert_eq!(
        judged(fixed.clone(), bad.clone(), None),
        Vec::<String>::new(),
        "there is nothing to compare with"
    );
    assert_eq!(
        judged(fixed, json!({"size": 4}), Some(json!({"size": 5}))),
        ["spec: Invalid value: \"object\": may not shrink"]
    );
    let first = json!({"rule": "oldSelf.hasValue() || self.size == 1", "optionalOldSelf": true});
    assert_eq!(judged(first.clone(), json!({"size": 2}), None).len(), 1);
    assert!(judged(first, json!({"size": 2}), Some(json!({"size": 1}))).is_empty());
    let limited = json!({"rule": "self.size <= self.max"});
    assert!(
        judged(limited, bad.clone(), Some(bad)).is_empty(),
        "what was wrong and is unchanged is tolerated"
    );
}

#[test]
fn a_definition_of_the_documentation_is_accepted() {
    let rules = definition::kind().rules.clone();
    let mut crontab = json!({"metadata": {"name": "crontabs.stable.example.com"}, "spec": {
        "group": "stable.example.com", "scope": "Namespaced",
        "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    rules.default(&mut crontab);
    rules.prepare_create(&mut crontab);
    assert_eq!(crontab["spec"]["names"]["singular"], "crontab");
    assert_eq!(crontab["spec"]["names"]["listKind"], "CronTabList");
    assert_eq!(crontab["status"]["storedVersions"], json!(["v1"]));
    assert!(rules.validate(&crontab).is_empty(), "{:?}", rules.validate(&crontab));
    let wrong = |pointer: &str, value: Value| {
        let mut other = crontab.clone();
        *other.pointer_mut(pointer).unwrap() = value;
        rules.validate(&other).into_iter().map(|e| e.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        wrong("/metadata/name", json!("x")),
        ["metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group"]
    );
    assert!(
        wrong("/spec/versions/0/storage", json!(false))[0]
            .contains("must have exactly one version marked as storage version")
    );
    assert!(
        wrong("/spec/versions/0/schema", json!({}))[0]
            .contains("openAPIV3Schema: Required value: schemas are required")
    );
    assert!(wrong("/spec/scope", json!("Everywhere"))[0].starts_with("spec.scope: Unsupported value"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5i64..5).prop_map(Value::from),
        (-2.0f64..2.0).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let keys = prop_oneof!["[a-c]", Just("spec".to_string()), Just("metadata".to_string())];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys, inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Schemas, right and wrong ones.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string", "maxLength": 2, "pattern": "^a*$"})),
        Just(json!({"type": "integer", "minimum": 0, "default": 1})),
        Just(json!({"type": "number", "multipleOf": 2, "nullable": true})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
        Just(json!({"type": "boolean", "enum": [true], "default": "wrong"})),
        any_json(),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        let fields = proptest::collection::btree_map("[a-c]|spec", inner.clone(), 0..4);
        prop_oneof![
            (fields, any::<bool>(), any::<bool>()).prop_map(|(fields, open, embedded)| json!({
                "type": "object", "properties": fields, "x-kubernetes-preserve-unknown-fields": open,
                "x-kubernetes-embedded-resource": embedded, "required": ["a"], "default": {},
                "x-kubernetes-validations": [{"rule": "has(self.a) && self.a == oldSelf.a", "fieldPath": ".a"}],
            })),
            inner.clone().prop_map(|i| json!({"type": "object", "additionalProperties": i, "maxProperties": 3})),
            inner.clone().prop_map(|i| json!({"type": "array", "items": i, "x-kubernetes-list-type": "set"})),
            inner.clone().prop_map(|i| json!({"type": "array", "items": i, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["a"], "x-kubernetes-validations": [{"rule": "self.all(x, x == self[0])"}]})),
            proptest::collection::vec(inner, 1..3).prop_map(|all| json!({"type": "object", "anyOf": all, "allOf": all, "not": all[0]})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pruning_and_defaulting_twice_is_as_once(schema in any_schema(), object in any_json()) {
        let schema = Schema::parse(&schema);
        let mut once = object;
        fit::prune(&schema, &mut once, true);
        let mut twice = once.clone();
        prop_assert!(fit::prune(&schema, &mut twice, true).is_empty());
        prop_assert_eq!(&twice, &once);
        fit::default(&schema, &mut once);
        let mut twice = once.clone();
        fit::default(&schema, &mut twice);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn no_schema_and_no_object_makes_it_panic(schema in any_schema(), new in any_json(), old in any_json()) {
        problems(&schema);
        let definition = json!({"metadata": {"name": "a.b.c"}, "spec": {"group": "b.c", "names": {"plural": "a", "kind": "A"}},
            "status": {"acceptedNames": {"plural": "a", "kind": "A"}}});
        definition::kind().rules.validate(&definition);
        let served = version::build(&definition, &json!({"name": "v1", "schema": {"openAPIV3Schema": schema}}));
        let rules = &served.kind.rules;
        let mut new = new;
        rules.fit(&mut new);
        rules.default(&mut new);
        rules.validate(&new);
        rules.validate_change(&new, &old);
        rules.cells(&new, jiff::Timestamp::UNIX_EPOCH);
    }
}

#[test]
fn choices_within_choices_are_each_looked_at_once() {
    for choice in ["anyOf", "oneOf", "allOf"] {
        let nested = (0..60).fold(json!({"minimum": 5}), |inner, _| json!({ choice: [inner] }));
        let schema = Schema::parse(&json!({"type": "integer", choice: [nested]}));
        let errors = value::validate(&schema, &Patterns::of(&schema), &json!(1));
        assert!(errors.iter().any(|e| e.detail.contains("should be greater than or equal to 5")), "{choice}");
    }
}

#[test]
fn an_object_with_more_errors_than_anyone_reads_is_told_so_many_and_is_never_tolerated() {
    let schema = Schema::parse(&json!({"type": "array", "items": {"type": "string"}}));
    let list: Vec<Value> = (0..50_000).map(Value::from).collect();
    let errors = value::validate(&schema, &Patterns::of(&schema), &list.into()).into_vec();
    assert_eq!(errors.len(), 10_001);
    assert_eq!(errors[10_000].to_string(), "<nil>: Invalid value: \"\": too many errors");
}

#[test]
fn texts_that_are_cut_inside_a_character_have_no_format_and_break_nothing() {
    for text in ["\u{e9}".repeat(5), "2026-01-01\u{fffd}0:00:00Z0000".to_string(), "\u{1f600}".repeat(9)] {
        for format in ["isbn", "isbn10", "isbn13", "date-time", "date", "uuid", "mac", "hexcolor"] {
            assert!(!value::has_format(format, &text), "{text} {format}");
        }
    }
}

/// How many bytes the errors of a version's schema and of an object take.
fn told(errors: &[orlop_api::FieldError]) -> usize {
    errors.iter().map(|e| e.to_string().len()).sum()
}

#[test]
fn very_many_errors_below_a_long_key_are_told_within_reason() {
    let key = "k".repeat(200_000);
    let untyped: serde_json::Map<String, Value> = (0..5000).map(|n| (format!("f{n}"), json!({}))).collect();
    let schema = json!({"type": "object", "properties": {&key: {"type": "object", "properties": untyped}}});
    let mut errors = FieldErrors::new();
    structural::validate(&Schema::parse(&schema), &Path::new("spec"), &mut errors);
    let errors = errors.into_vec();
    assert!(errors.len() > 500 && told(&errors) < 16 << 20, "{} {}", errors.len(), told(&errors));

    let rule = json!([{"rule": "self.x == 1"}]);
    let ruled: serde_json::Map<String, Value> = (0..500)
        .map(|n| (format!("f{n}"), json!({"type": "object", "x-kubernetes-validations": rule})))
        .collect();
    let schema = json!({"type": "object", "properties": {&key: {"type": "object", "properties": ruled}}});
    let mut errors = FieldErrors::new();
    structural::validate(&Schema::parse(&schema), &Path::new("spec"), &mut errors);
    let errors = errors.into_vec();
    assert!(errors.len() > 400 && told(&errors) < 16 << 20, "{} {}", errors.len(), told(&errors));

    let of_texts = json!({"type": "object", "additionalProperties": {"type": "array", "x-kubernetes-list-type": "set",
        "items": {"type": "string", "maxLength": 1}}});
    let schema = Schema::parse(&of_texts);
    let object = json!({&key: vec!["long"; 50_000]});
    let mut errors = value::validate(&schema, &Patterns::of(&schema), &object);
    lists::validate_lists(&schema, &object, "", &mut errors);
    let errors = errors.into_vec();
    assert!(errors.len() > 500 && told(&errors) < 16 << 20, "{} {}", errors.len(), told(&errors));
}

#[test]
fn a_long_value_that_breaks_very_many_rules_is_told_within_reason() {
    let parts: Vec<Value> = (0..3000).map(|n| json!({"pattern": format!("^a{n}$")})).collect();
    let schema = Schema::parse(&json!({"type": "string", "allOf": parts}));
    let errors = value::validate(&schema, &Patterns::of(&schema), &"x".repeat(100_000).into()).into_vec();
    assert!(errors.len() > 10 && told(&errors) < 16 << 20, "{} {}", errors.len(), told(&errors));
}

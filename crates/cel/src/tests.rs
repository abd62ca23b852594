use super::*;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

fn env() -> Env {
    let field = |name: &str, decl: Arc<Decl>| (name.to_string(), FieldDecl { json: name.to_string(), decl });
    let spec = Decl::object(
        "selfType.spec",
        BTreeMap::from([
            field("replicas", Decl::leaf(Type::Int, 1)),
            field("names", Decl::list(Decl::leaf(Type::String, 20), 10, ListType::Set)),
            field("long", Decl::list(Decl::leaf(Type::String, 1000), 3_000_000, ListType::Atomic)),
            field("labels", Decl::map(Decl::leaf(Type::String, 20), 10)),
            field("at", Decl::leaf(Type::Timestamp, 30)),
            (
                "__namespace__".to_string(),
                FieldDecl { json: "namespace".into(), decl: Decl::leaf(Type::String, 20) },
            ),
        ]),
    );
    let root = Decl::object("selfType", BTreeMap::from([field("spec", spec)]));
    Env::new().with("self", root).with("any", Decl::of(Type::Dyn))
}

fn object() -> Json {
    json!({"spec": {
        "replicas": 3, "names": ["b", "a"], "labels": {"k": "v", "x.y": "z"}, "at": "2026-01-02T03:04:05Z",
        "namespace": "default",
    }})
}

fn run(source: &str) -> Result<Value, String> {
    let env = env();
    let program = Program::compile(&env, source).map_err(|e| e.to_string())?;
    let this = env.find("self").unwrap().value(&object());
    let any = Value::from_json(&json!({"a": {"b": [1, 2.5, "x", null, true]}}));
    let vars = [("self", this), ("any", any)];
    program.eval(&vars, &mut Budget::new(1_000_000, 1_000_000)).map_err(|e| e.to_string())
}

#[test]
fn what_is_true_is_true() {
    for source in [
        "self.spec.replicas == 3 && self.spec.replicas < 4.5",
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && -7 / 2 == -3 && -7 % 2 == -1",
        "'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.matches('^a.c$')",
        "self.spec.names.exists(n, n == 'a') && !self.spec.names.all(n, n == 'a')",
        "self.spec.names == ['a', 'b']",
        "self.spec.labels.all(k, self.spec.labels[k] != '')",
        "'x.y' in self.spec.labels && !('q' in self.spec.labels)",
        "has(self.spec.labels.k) && !has(self.spec.labels.q) && has(self.spec.replicas)",
        "self.spec.labels.?q.orValue('none') == 'none' && self.spec.labels[?'k'].hasValue()",
        "self.spec.at < timestamp('2027-01-01T00:00:00Z') && self.spec.at.getFullYear() == 2026",
        "self.spec.__namespace__ == 'default'",
        "any.a.b[0] == 1 && any.a.b[1] == 2.5 && any.a.b[3] == null && type(any.a.b[2]) == string",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6] && [1, 2, 3].filter(x, x > 1) == [2, 3]",
        "[1, 2, 3].exists_one(x, x == 2) && [1, 2, 3].map(x, x > 1, x) == [2, 3]",
        "[1, 2].all(i, v, i + 1 == v) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && [5].transformList(i, v, i + v) == [5]",
        "cel.bind(x, 2, x * x) == 4 && optional.of(2).optMap(x, x + 1).value() == 3",
        "true || 1 / 0 > 0",
        "1 / 0 > 0 || true",
        "!(false && 1 / 0 > 0) && !(1 / 0 > 0 && false)",
        "duration('1h30m').getMinutes() == 90 && duration('60s') == duration('1m')",
        "timestamp('2026-01-01T00:00:00Z') + duration('24h') == timestamp('2026-01-02T00:00:00Z')",
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && ' x '.trim() == 'x'",
        "'hello'.substring(1, 3) == 'el' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3",
        "'Ab'.lowerAscii() == 'ab' && 'aaa'.replace('a', 'b', 2) == 'bba' && 'abc'.charAt(1) == 'b'",
        "'%s-%d-%.2f-%x'.format(['a', 2, 1.5, 255]) == 'a-2-1.50-ff'",
        "[1, 2, 3].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && [3, 1].max() == 3 && [1].indexOf(2) == -1",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2])",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "isURL('https://a.b:80/c?d=e') && url('https://a.b:80/c?d=e').getPort() == '80' && url('/x?a=1').getQuery() == {'a': ['1']}",
        "isIP('::1') && ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && !isCIDR('x')",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('50k').add(20).compareTo(quantity('50020')) == 0",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('1.0', true) && !isSemver('1.0')",
        "!format.dns1123Label().validate('ok').hasValue() && format.named('uuid').value().validate('x').hasValue()",
        "int('7') == 7 && string(7) == '7' && double(1) == 1.0 && uint(3) == 3u && b'a' == bytes('a')",
        "r'a\\b' == 'a\\\\b' && '\\u00e4' == 'ä' && \"\"\"a\nb\"\"\" == 'a\\nb'",
        "dyn(1) == dyn(1.0) && 1 < 1.5 && 2u > 1",
        "{1: 'a', 2: 'b'}[2] == 'b' && [[1], [2]][1][0] == 2",
        "size('äö') == 2 && [1, 2].size() == 2 && {}.size() == 0",
        "0x1F == 31 && 1e3 == 1000.0 && .5 == 0.5 // a comment",
        "(1 == 1 ? 'a' : 'b') == 'a'",
    ] {
        assert!(matches!(run(source), Ok(Value::Bool(true))), "{source}: {:?}", run(source));
    }
}

#[test]
fn what_cannot_be_is_told_when_compiling() {
    for (source, expected) in [
        (
            "self.spec.nope == 1",
            "ERROR: <input>:1:10: undefined field 'nope'\n | self.spec.nope == 1\n | .........^",
        ),
        ("nope", "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope\n | ^"),
        (
            "self.spec.replicas == 'a'",
            "ERROR: <input>:1:20: found no matching overload for '_==_' applied to '(int, string)'\n | self.spec.replicas == 'a'\n | ...................^",
        ),
        (
            "self.spec.replicas.startsWith('a')",
            "ERROR: <input>:1:30: found no matching overload for 'startsWith' applied to 'int.(string)'\n | self.spec.replicas.startsWith('a')\n | .............................^",
        ),
        (
            "self.spec.replicas.all(x, true)",
            "ERROR: <input>:1:10: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.spec.replicas.all(x, true)\n | .........^",
        ),
        ("[1, 'a']", "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        ("namespace", "ERROR: <input>:1:1: reserved identifier: namespace\n | namespace\n | ^"),
    ] {
        assert_eq!(run(source).unwrap_err(), expected, "{source}");
    }
    for source in
        ["1 +", "(1", "'a", "a b", "self.", "[1, 2", "1 == ", "x.map(1, 2)", "has(1)", "@", "nosuch(1)"]
    {
        assert!(run(source).unwrap_err().starts_with("ERROR: <input>:1:"), "{source}");
    }
}

#[test]
fn what_fails_says_why() {
    for (source, expected) in [
        ("self.spec.labels['nope'] == ''", "no such key: nope"),
        ("[1][3] == 1", "index out of bounds: 3"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("-9223372036854775808 / -1 > 0", "integer overflow"),
        ("any.nope == 1", "no such key: nope"),
        ("any.a.b[2] + 1 == 2", "no such overload"),
        ("optional.none().value() == 1", "optional.none() dereference"),
    ] {
        assert_eq!(run(source).unwrap_err(), expected, "{source}");
    }
}

#[test]
fn the_cost_is_estimated_from_the_declared_sizes() {
    let cost = |source: &str| Program::compile(&env(), source).unwrap().cost();
    assert!(cost("self.spec.replicas > 1") < 10);
    assert!(cost("self.spec.names.all(n, n.startsWith('a'))") < 1000);
    assert!(cost("self.spec.long.all(a, self.spec.long.all(b, a != b))") > 10_000_000);
    assert_eq!(cost("any.a.all(x, true)"), u64::MAX);
}

#[test]
fn an_expensive_evaluation_is_cut_off() {
    let program = Program::compile(&env(), "any.all(a, any.all(b, any.all(c, a + b + c >= 0)))").unwrap();
    let any = Value::list((0..1000).map(Value::Int).collect());
    let vars = [("any", any)];
    let mut budget = Budget::new(10_000_000, 1_000_000);
    assert_eq!(program.eval(&vars, &mut budget).unwrap_err(), EvalError::CallCost);
    assert!(budget.remaining < 9_000_001);
    let mut budget = Budget::new(1000, 1_000_000);
    assert_eq!(program.eval(&vars, &mut budget).unwrap_err(), EvalError::Cost);
    let over = || true;
    let mut budget = Budget { interrupt: Some(&over), ..Budget::new(u64::MAX, u64::MAX) };
    assert_eq!(program.eval(&vars, &mut budget).unwrap_err(), EvalError::Interrupted);
}

#[test]
fn an_expression_may_ask_an_authorizer() {
    struct Only;
    impl Authorizer for Only {
        fn check(&self, question: &Question) -> Result<(bool, String), String> {
            Ok((
                question.verb == "create" && question.resource == "pods" && question.namespace == "x",
                "why".into(),
            ))
        }
    }
    let env = Env::new()
        .with("authorizer", Decl::of(AUTHORIZER))
        .with("authorizer.requestResource", Decl::of(RESOURCE_CHECK));
    let source = "authorizer.group('').resource('pods').namespace('x').check('create').allowed() && !authorizer.requestResource.check('get').allowed()";
    let program = Program::compile(&env, source).unwrap();
    let who = Value::authorizer(Arc::new(Only));
    let vars = [("authorizer", who.clone()), ("authorizer.requestResource", who)];
    let out = program.eval(&vars, &mut Budget::new(10_000_000, 1_000_000));
    assert!(matches!(out, Ok(Value::Bool(true))), "{out:?}");
}

#[test]
fn depth_is_bounded() {
    for source in [
        "(".repeat(50_000),
        "-".repeat(50_000) + "x",
        "1+".repeat(40_000) + "1",
        "a.b".to_string() + &".b".repeat(40_000),
        "[".repeat(30_000),
        "true?".repeat(10_000),
        "(1+".repeat(20_000),
    ] {
        assert!(Program::compile(&env(), &source).is_err());
    }
    let deep = "(".repeat(50) + &"1+".repeat(100) + "1" + &")".repeat(50) + " > 0";
    assert!(Program::compile(&env(), &deep).is_ok());
}

/// Evaluates with as much as all rules of an object may cost.
fn limited(source: &str, this: &Json) -> Result<Value, EvalError> {
    let env = Env::new().with("self", Decl::of(Type::Dyn));
    let program = Program::compile(&env, source).unwrap_or_else(|e| panic!("{e}"));
    // A tenth of the usual work, for this is not optimized.
    let mut budget = Budget { work: 10_000_000, ..Budget::new(10_000_000, 1_000_000) };
    program.eval(&[("self", Value::from_json(this))], &mut budget)
}

/// `[self, self]`, of that again two, and so on.
fn doubled(times: usize, then: &str, of: &dyn Fn(&str) -> String) -> String {
    (0..times)
        .rev()
        .fold(then.replace("last", &format!("x{times}")), |inner, n| {
            format!("cel.bind(x{}, {}, {inner})", n + 1, of(&format!("x{n}")))
        })
        .replace("x0", "self")
}

#[test]
fn what_shares_its_parts_is_not_looked_at_part_by_part_without_end() {
    for then in ["last == last", "'%s'.format([last]) == ''", "last in [last]", "[last].indexOf(last) == 0"] {
        let source = doubled(40, then, &|x| format!("[{x}, {x}]"));
        assert!(limited(&source, &json!([1])).is_err(), "{then}");
    }
    let handed_out = doubled(40, "last", &|x| format!("[{x}, {x}]"));
    assert_eq!(limited(&handed_out, &json!([1])).unwrap_err(), EvalError::CallCost);
    let types = doubled(50, "size(last) == 1", &|x| format!("{{{x}: {x}}}"));
    assert!(limited(&types, &json!("a")).is_err(), "a map is no key");
    assert!(matches!(
        limited(&doubled(5, "last == last", &|x| format!("[{x}, {x}]")), &json!([1])),
        Ok(Value::Bool(true))
    ));
}

#[test]
fn texts_and_lists_that_grow_beyond_their_price_are_paid_for() {
    let text = json!("a".repeat(200_000));
    for source in [
        "self.replace('a', self) == ''",
        "[1, 2, 3, 4, 5].all(x, self.split('').map(c, self).join(self) == '')",
        "'%s'.format([[[self, self, self, self, self, self, self, self], [self, self, self, self, self, self, self],
            [self, self, self, self, self, self, self, self], [self, self, self, self, self, self, self, self],
            [self, self, self, self, self, self, self, self], [self, self, self, self, self, self, self, self],
            [self, self, self, self, self, self, self, self]]]) == ''",
    ] {
        assert_eq!(limited(source, &text).unwrap_err(), EvalError::CallCost, "{source}");
    }
    assert!(matches!(limited("'abc'.replace('b', 'xyz') == 'axyzc'", &text), Ok(Value::Bool(true))));
}

#[test]
fn what_is_cheap_by_its_price_takes_no_longer_than_it_may() {
    let list: Json = (0..6_000).map(|n| json!(format!("word number {n}"))).collect();
    for source in [
        "self.all(x, [1].exists(y, self == self))",
        "self.all(x, !'aaaaaaaaaaaaaaaaaaaaaaa'.matches('(a|b){50}' + x))",
        "self.all(x, self.lastIndexOf('') < 0)",
    ] {
        let error = limited(source, &list).unwrap_err();
        assert!(matches!(error, EvalError::Interrupted | EvalError::CallCost), "{source}: {error}");
    }
    let found = limited("self.all(x, self.exists(y, true))", &json!((0..20_000).collect::<Vec<_>>()));
    assert!(matches!(found, Ok(Value::Bool(true))), "{found:?}");
}

#[test]
fn long_sets_are_compared_without_comparing_each_with_each() {
    let decl = |list| Decl::list(Decl::of(Type::Dyn), 1_000_000, list);
    for (list, of) in [
        (ListType::Set, (|n: i64| json!(n)) as fn(i64) -> Json),
        (ListType::Map(vec!["k".into()]), |n| json!({"k": n, "v": "w"})),
    ] {
        let decl = decl(list);
        let env = Env::new().with("a", decl.clone()).with("b", decl.clone());
        let program = Program::compile(&env, "a == b && (a + b).size() == a.size()").unwrap();
        let forth: Json = (0..50_000).map(of).collect();
        let back: Json = (0..50_000).rev().map(of).collect();
        let vars = [("a", decl.value(&forth)), ("b", decl.value(&back))];
        let out = program.eval(&vars, &mut Budget::new(10_000_000, 1_000_000));
        assert!(matches!(out, Ok(Value::Bool(true))), "{out:?}");
    }
}

#[test]
fn of_very_many_errors_the_first_are_told_and_the_others_counted() {
    let told = run(&format!("[{}]", "nope,".repeat(15_000))).unwrap_err();
    assert!(told.len() < 400_000, "{}", told.len());
    assert!(told.starts_with("ERROR: <input>:1:2: undeclared reference to 'nope'"));
    assert!(told.ends_with("more errors were truncated"), "{}", &told[told.len() - 50..]);
}

#[test]
fn places_in_texts_are_those_of_characters() {
    for source in [
        "'äöäö'.indexOf('ö') == 1 && 'äöäö'.indexOf('ö', 2) == 3 && 'äöä'.indexOf('x') == -1 && 'ä'.indexOf('', 1) == 1",
        "'äöäö'.lastIndexOf('ö') == 3 && 'äöäö'.lastIndexOf('ö', 2) == 1 && 'äöäö'.lastIndexOf('öä', 1) == 1",
        "'äöäö'.lastIndexOf('ä', 0) == 0 && 'äö'.lastIndexOf('') == 2 && 'äöä'.lastIndexOf('öä', 0) == -1",
    ] {
        assert!(matches!(run(source), Ok(Value::Bool(true))), "{source}: {:?}", run(source));
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(source in "[-a-c0-9.\\[\\]{}()'\"?:,+*/%!&|=<> \\\\nsef]{0,60}") {
        let _ = run(&source);
    }

    #[test]
    fn no_expression_makes_it_panic(words in proptest::collection::vec(proptest::sample::select(vec![
        "self", ".spec", ".names", ".labels", ".replicas", "any", ".a", ".b", "[0]", "[?'k']", ".?k", "(", ")", " + ", " - ",
        " * ", " / ", " % ", " == ", " in ", " && ", " || ", "!", "-", " ? ", " : ", "[", "]", "{", "}", ", ", ": ", "1", "2.5",
        "'a'", "x", ".all(x, ", ".map(x, ", ".exists(x, y, ", ".size()", ".matches('a+')", "9223372036854775807", "null", "true",
        ".format([1, 'a'])", "Object{", "JSONPatch{op: ", "timestamp('2026-01-01T00:00:00Z')", "duration('1h')", ".substring(1)", "quantity('1')", "int(", "ip('::1')",
    ]), 0..14)) {
        let _ = run(&words.concat());
    }
}

/// Evaluates with the types of mutations.
fn make(source: &str) -> Result<Value, String> {
    let env = Env::new().with("object", Decl::of(Type::Dyn)).with_patches();
    let program = Program::compile(&env, source).map_err(|e| e.to_string())?;
    let object = Value::from_json(&json!({"spec": {"replicas": 2, "names": ["a", "b"]}}));
    program.eval(&[("object", object)], &mut Budget::new(10_000, 10_000)).map_err(|e| e.to_string())
}

#[test]
fn objects_are_made_of_whatever_fields() {
    let source = "Object{
        metadata: Object.metadata{labels: {'a/b': 'c'}, ?name: optional.none(), ?uid: optional.of('u')},
        spec: Object.spec{replicas: object.spec.replicas + 1, list: object.spec.names.map(n, Object.spec.list{name: n})},
    }";
    let made = make(source).unwrap();
    assert_eq!(
        made.to_json().unwrap(),
        json!({
            "metadata": {"labels": {"a/b": "c"}, "uid": "u"},
            "spec": {"replicas": 3, "list": [{"name": "a"}, {"name": "b"}]},
        })
    );
    let Value::Message(message) = made else { panic!("not made") };
    assert_eq!((&*message.name, message.check_names()), ("Object", Ok(())));
}

#[test]
fn the_type_of_a_part_says_where_it_stands() {
    let wrong = |source: &str| match make(source).unwrap() {
        Value::Message(message) => message.check_names().unwrap_err(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        wrong("Object{spec: Object.specx{a: 1}}"),
        "unexpected type name \"Object.specx\", expected \"Object.spec\", which matches field name path from root Object type"
    );
    assert!(wrong("Object.spec{a: [{'k': Object.spec.b{}}]}").contains("expected \"Object.spec.a\""));
}

#[test]
fn what_was_made_can_be_looked_at() {
    for source in [
        "Object{a: 'x'}.a == 'x' && has(Object{a: 1}.a) && !has(Object{}.a)",
        "Object{a: 1} == Object{a: 1} && Object{a: 1} != Object{a: 2} && Object{} == Object{}",
        "JSONPatch{op: 'add'}.op == 'add' && JSONPatch{}.path == '' && !has(JSONPatch{}.value)",
        "JSONPatch{op: 'add', value: 1} != JSONPatch{op: 'add', value: '1'}",
        "type(Object.spec{}) == Object.spec && Object{`a-b`: 1}.`a-b` == 1",
        "(true ? [JSONPatch{op: 'add'}] : []) + [] == [JSONPatch{op: 'add'}]",
        "jsonpatch.escapeKey('k8s.io/x~y') == 'k8s.io~1x~0y'",
    ] {
        assert!(matches!(make(source), Ok(Value::Bool(true))), "{source}: {:?}", make(source));
    }
}

#[test]
fn what_cannot_be_made_is_told_when_compiling() {
    for (source, why) in [
        ("Thing{a: 1}", "1:6: undeclared reference to 'Thing' (in container '')"),
        ("Objects{}", "1:8: undeclared reference to 'Objects' (in container '')"),
        ("JSONPatch{op: 1}", "1:13: expected type of field 'op' is 'string' but provided type is 'int'"),
        ("JSONPatch{ops: 'a'}", "1:14: undefined field 'ops'"),
        ("[Object.a{}, Object.b{}]", "1:22: expected type 'Object.a' but found 'Object.b'"),
        ("Object{a 1}", "1:10: Syntax error: mismatched input '1' expecting ':'"),
    ] {
        let told = make(source).unwrap_err();
        assert!(told.starts_with(&format!("ERROR: <input>:{why}\n")), "{source}: {told}");
    }
    // Elsewhere there are no such types.
    assert!(run("Object{}").unwrap_err().contains("undeclared reference to 'Object'"));
    assert!(run("JSONPatch{op: 'x'}").is_err());
    let result =
        |source: &str| Program::compile(&Env::new().with_patches(), source).unwrap().result().to_string();
    assert_eq!(result("[JSONPatch{}]"), "list(JSONPatch)");
    assert_eq!(result("true ? Object{} : Object{a: 1}"), "Object");
}

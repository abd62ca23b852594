//! `x-kubernetes-validations`: the CEL rules of a schema, compiled with it and evaluated on every write (Kubernetes
//! documentation, "Custom Resources", "Validation rules").

use crate::{
    fit::type_of,
    lists::{identity, same},
    place::{child, entry, index, shown},
    schema::{Additional, JsonType, Rule, Schema},
};
use orlop_api::{FieldError, FieldErrors, field_path::longer};
use orlop_cel::{Budget, Decl, Env, EvalError, FieldDecl, ListType, Program, Type, Value as Cel, escape};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What an object on the wire may measure at most.
const REQUEST: u64 = 3 << 20;
/// What a single evaluation may cost.
const PER_CALL: u64 = 1_000_000;
/// What all rules of an object may cost.
const PER_OBJECT: u64 = 10_000_000;
/// What a rule may cost by the sizes that its schema allows.
pub const PER_RULE: u64 = 10_000_000;
/// What all rules of a schema may cost.
pub const PER_SCHEMA: u64 = 100_000_000;

/// A rule, compiled.
#[derive(Debug)]
pub struct Compiled {
    source: Rule,
    program: Program,
    message: Option<Program>,
    /// Whether it compares with the object before.
    transition: bool,
}

/// The rules of a schema and of what is below it. `None` where there are none at all.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Compiled>,
    decl: Option<Arc<Decl>>,
    fields: BTreeMap<String, Rules>,
    values: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    list_keys: Option<Vec<String>>,
}

/// A rule that is none.
pub struct Broken {
    /// Where it stands, as messages about schemas say it: `.properties[spec].x-kubernetes-validations[0].rule`.
    pub path: String,
    /// The value to show.
    pub value: Value,
    /// Why; `forbidden` says whether it may not be rather than cannot be.
    pub why: String,
    /// Whether it is a `Forbidden` error rather than an `Invalid` one.
    pub forbidden: bool,
}

fn least_size(schema: &Schema) -> u64 {
    match schema.ty {
        Some(JsonType::Object) => {
            let required = schema.required.iter().filter_map(|name| {
                let field = schema.properties.get(name).filter(|f| f.default.is_none())?;
                Some(name.len() as u64 + least_size(field) + 4)
            });
            2 + required.sum::<u64>()
        }
        Some(JsonType::Boolean) => 4,
        Some(JsonType::Array | JsonType::String) => 2,
        _ => 1,
    }
}

fn least(max: Option<i64>, otherwise: u64) -> u64 {
    max.map_or(otherwise, |max| u64::try_from(max).unwrap_or(0))
}

fn text_decl(schema: &Schema) -> Arc<Decl> {
    match schema.format.as_str() {
        "byte" => Decl::leaf(Type::Bytes, least(schema.max_length, REQUEST - 2)),
        "duration" => Decl::leaf(Type::Duration, least(schema.max_length, REQUEST - 2)),
        "date" => Decl::leaf(Type::Timestamp, 12),
        "date-time" | "datetime" => Decl::leaf(Type::Timestamp, 32),
        _ => {
            let longest = schema.choices.as_ref().map(|choices| {
                choices.iter().filter_map(Value::as_str).map(|c| c.chars().count() as u64).max().unwrap_or(0)
            });
            // A character may take four bytes.
            let max = longest.unwrap_or_else(|| match schema.max_length {
                Some(max) => u64::try_from(max).unwrap_or(0).saturating_mul(4),
                None => REQUEST - 2,
            });
            Decl::leaf(Type::String, max)
        }
    }
}

/// What expressions see of a value of this schema; `None` where they cannot see it.
pub fn decl(schema: &Schema, whole: bool) -> Option<Arc<Decl>> {
    if schema.int_or_string {
        return Some(Decl::leaf(Type::Dyn, REQUEST - 2));
    }
    match schema.ty? {
        JsonType::Boolean => Some(Decl::leaf(Type::Bool, 1)),
        JsonType::Integer => Some(Decl::leaf(Type::Int, 1)),
        JsonType::Number => Some(Decl::leaf(Type::Double, 1)),
        JsonType::String => Some(text_decl(schema)),
        JsonType::Array => {
            let items = schema.items.as_deref()?;
            let most = least(schema.max_items, (REQUEST - 2) / (least_size(items) + 1));
            let list = match schema.list_type.as_deref() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(schema.list_map_keys.clone()),
                _ => ListType::Atomic,
            };
            Some(Decl::list(decl(items, items.embedded)?, most, list))
        }
        JsonType::Object => {
            if let Some(Additional::Schema(values)) = &schema.additional {
                let most = least(schema.max_properties, (REQUEST - 2) / (least_size(values) + 6));
                return Some(Decl::map(decl(values, values.embedded)?, most));
            }
            let mut fields = BTreeMap::new();
            for (name, field) in &schema.properties {
                if let (Some(said), Some(decl)) = (escape(name), decl(field, field.embedded)) {
                    fields.insert(said, FieldDecl { json: name.clone(), decl });
                }
            }
            if whole || schema.embedded {
                let text = |max: u64| Decl::leaf(Type::String, max);
                let field =
                    |name: &str, decl: Arc<Decl>| (name.to_string(), FieldDecl { json: name.into(), decl });
                let known = |name: &str| {
                    let metadata = schema.properties.get("metadata");
                    metadata.and_then(|m| m.properties.get(name)).map_or_else(|| text(253), text_decl)
                };
                let metadata = BTreeMap::from([
                    field("name", known("name")),
                    field("generateName", known("generateName")),
                ]);
                fields.extend([
                    field("apiVersion", text(253)),
                    field("kind", text(63)),
                    field("metadata", Decl::object("object.metadata", metadata)),
                ]);
            }
            Some(Decl::object("object", fields))
        }
    }
}

/// How often a value below a schema can occur.
struct Place {
    path: String,
    times: u64,
    /// The part of the schema that cannot be compared with the object before, if one is inside of it.
    uncorrelated: Option<String>,
    whole: bool,
}

/// Compiles all rules of a schema. `path` is where the schema stands.
pub fn compile(schema: &Schema, path: &str) -> (Rules, Vec<Broken>) {
    let mut compiler = Compiler { broken: Vec::new(), total: 0, costly: Vec::new() };
    let place = Place { path: path.to_string(), times: 1, uncorrelated: None, whole: true };
    let rules = compiler.schema(schema, &place).unwrap_or_default();
    if compiler.total > PER_SCHEMA {
        compiler.costly.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (at, cost) in std::mem::take(&mut compiler.costly).into_iter().take(4) {
            if cost > PER_SCHEMA / 100 {
                let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
                compiler.broken.push(Broken {
                    path: at,
                    value: Value::Null,
                    why: why.into(),
                    forbidden: true,
                });
            }
        }
        let why = over(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
            compiler.total,
            PER_SCHEMA,
        );
        compiler.broken.push(Broken { path: path.to_string(), value: Value::Null, why, forbidden: true });
    }
    (rules, compiler.broken)
}

fn over(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let advice = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    if factor > 100.0 {
        format!("{what} exceeds budget by factor of more than 100x {advice}")
    } else if factor < 1.5 {
        format!("{what} exceeds budget by factor of {factor:.6}x {advice}")
    } else {
        format!("{what} exceeds budget by factor of {factor:.1}x {advice}")
    }
}

struct Compiler {
    broken: Vec<Broken>,
    total: u64,
    costly: Vec<(String, u64)>,
}

impl Compiler {
    fn schema(&mut self, schema: &Schema, place: &Place) -> Option<Rules> {
        let mut out = Rules::default();
        if !schema.rules.is_empty() {
            let decl = decl(schema, place.whole || schema.embedded);
            match decl {
                Some(decl) => {
                    for (at, rule) in schema.rules.iter().enumerate() {
                        let here = format!("{}.x-kubernetes-validations[{at}]", place.path);
                        out.rules.extend(self.rule(rule, &decl, &here, place));
                    }
                    out.decl = Some(decl);
                }
                None => self.broken.push(Broken {
                    path: format!("{}.x-kubernetes-validations", place.path),
                    value: Value::Null,
                    why: "rules cannot see a value of this schema".to_string(),
                    forbidden: true,
                }),
            }
        }
        let below = |path: String, times: u64, uncorrelated: Option<String>| Place {
            path,
            times: place.times.saturating_mul(times),
            uncorrelated: uncorrelated.or_else(|| place.uncorrelated.clone()),
            whole: false,
        };
        for (name, field) in &schema.properties {
            let at = below(longer(&place.path, format_args!(".properties[{name}]")), 1, None);
            if let Some(rules) = self.schema(field, &at) {
                out.fields.insert(name.clone(), rules);
            }
        }
        if let Some(Additional::Schema(values)) = &schema.additional {
            let most = least(schema.max_properties, (REQUEST - 2) / (least_size(values) + 6));
            let at = below(longer(&place.path, format_args!(".additionalProperties")), most, None);
            out.values = self.schema(values, &at).map(Box::new);
        }
        if let Some(items) = &schema.items {
            let most = least(schema.max_items, (REQUEST - 2) / (least_size(items) + 1));
            let keyed = schema.list_type.as_deref() == Some("map");
            let lost = if keyed { None } else { Some(place.path.clone()) };
            let at = below(longer(&place.path, format_args!(".items")), most, lost);
            out.items = self.schema(items, &at).map(Box::new);
            out.list_keys = keyed.then(|| schema.list_map_keys.clone());
        }
        let empty =
            out.rules.is_empty() && out.fields.is_empty() && out.values.is_none() && out.items.is_none();
        if empty { None } else { Some(out) }
    }

    fn rule(&mut self, rule: &Rule, decl: &Arc<Decl>, path: &str, place: &Place) -> Option<Compiled> {
        if rule.rule.trim().is_empty() {
            // That it is missing has been told.
            return None;
        }
        let old = if rule.optional_old_self == Some(true) {
            Arc::new(Decl { ty: Type::optional(decl.ty.clone()), ..(**decl).clone() })
        } else {
            decl.clone()
        };
        let env = Env::new().with("self", decl.clone()).with("oldSelf", old);
        let at = |part: &str| format!("{path}.{part}");
        let mut broken = |part: &str, value: &str, why: String, forbidden: bool| {
            self.broken.push(Broken { path: at(part), value: value.into(), why, forbidden });
        };
        let program = match Program::compile(&env, &rule.rule) {
            Ok(program) => program,
            Err(error) => {
                broken("rule", &rule.rule, format!("compilation failed: {error}"), false);
                return None;
            }
        };
        if !matches!(program.result(), Type::Bool | Type::Dyn) {
            broken("rule", &rule.rule, "cel expression must evaluate to a bool".to_string(), false);
            return None;
        }
        let cost = program.cost().saturating_mul(place.times);
        if cost > PER_RULE {
            broken("rule", "", over("estimated rule cost", cost, PER_RULE), true);
        }
        let transition = program.mentions("oldSelf");
        if transition && let Some(within) = &place.uncorrelated {
            let why =
                format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            broken("rule", &rule.rule, why, false);
        }
        if rule.optional_old_self.is_some() && !transition {
            broken("optionalOldSelf", "", "may not be set if oldSelf is not used in rule".to_string(), false);
        }
        let mut message_cost = 0;
        let message = if rule.message_expression.is_empty() {
            None
        } else {
            match Program::compile(&env, &rule.message_expression) {
                Ok(program) if !matches!(program.result(), Type::String | Type::Dyn) => {
                    let why = "messageExpression must evaluate to a string".to_string();
                    broken("messageExpression", &rule.message_expression, why, false);
                    None
                }
                Ok(program) => {
                    message_cost = program.cost().saturating_mul(place.times);
                    if message_cost > PER_RULE {
                        let why = over("estimated messageExpression cost", message_cost, PER_RULE);
                        broken("messageExpression", "", why, true);
                    }
                    Some(program)
                }
                Err(error) => {
                    let why = format!("messageExpression compilation failed: {error}");
                    broken("messageExpression", &rule.message_expression, why, false);
                    None
                }
            }
        };
        let both = cost.saturating_add(message_cost);
        self.total = self.total.saturating_add(both);
        self.costly.push((at("rule"), both));
        Some(Compiled { source: rule.clone(), program, message, transition })
    }
}

/// Evaluates all rules on an object. `old` is the object before, of an update.
pub fn validate(rules: &Rules, new: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let mut run = Run { budget: Budget::new(PER_OBJECT, PER_CALL), errors, over: false };
    run.value(rules, new, old, "");
}

struct Run<'a> {
    budget: Budget<'a>,
    errors: &'a mut FieldErrors,
    over: bool,
}

impl Run<'_> {
    fn value(&mut self, rules: &Rules, new: &Value, old: Option<&Value>, path: &str) {
        if self.over || self.errors.is_full() {
            return;
        }
        if let Some(decl) = &rules.decl
            && !new.is_null()
        {
            self.own(rules, decl, new, old, path);
        }
        match new {
            Value::Object(map) => {
                for (key, value) in map {
                    let before = old.and_then(|o| o.get(key));
                    if let Some(rules) = rules.fields.get(key) {
                        self.value(rules, value, before, &child(path, key));
                    } else if let Some(rules) = &rules.values {
                        self.value(rules, value, before, &entry(path, key));
                    }
                }
            }
            Value::Array(entries) => {
                let Some(items) = &rules.items else { return };
                let mut known = HashMap::new();
                if let (Some(keys), Some(Value::Array(entries))) = (&rules.list_keys, old) {
                    for entry in entries {
                        known.entry(identity(entry, keys)).or_insert(entry);
                    }
                }
                for (at, entry) in entries.iter().enumerate() {
                    let before = match &rules.list_keys {
                        Some(keys) if !known.is_empty() => known.get(&identity(entry, keys)).copied(),
                        _ => None,
                    };
                    self.value(items, entry, before, &index(path, at));
                }
            }
            _ => {}
        }
    }

    fn own(&mut self, rules: &Rules, decl: &Decl, new: &Value, old: Option<&Value>, path: &str) {
        let this = decl.value(new);
        let before = old.map(|o| decl.value(o));
        let unchanged = old.is_some_and(|o| same(o, new));
        for rule in &rules.rules {
            let optional = rule.source.optional_old_self == Some(true);
            let mut vars = vec![("self", this.clone())];
            if rule.transition {
                match (&before, optional) {
                    (Some(before), false) => vars.push(("oldSelf", before.clone())),
                    (before, true) => vars.push(("oldSelf", Cel::Optional(before.clone().map(Arc::new)))),
                    // A transition rule has nothing to compare a new object with.
                    (None, false) => continue,
                }
            }
            // What was wrong before and has not changed is tolerated.
            let tolerated = unchanged && !rule.transition;
            match rule.program.eval(&vars, &mut self.budget) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) if tolerated => {}
                Ok(Cel::Bool(false)) => {
                    let error = self.broken(rule, &vars, new, path);
                    self.errors.push(error);
                }
                Err(error @ (EvalError::Cost | EvalError::Interrupted)) => {
                    self.over = true;
                    self.errors.push(FieldError::invalid(shown(path), type_of(new), error.to_string()));
                    return;
                }
                _ if tolerated => {}
                Ok(_) => {
                    let detail = format!("cel expression must evaluate to a bool for rule: {}", told(rule));
                    self.errors.push(FieldError::invalid(shown(path), type_of(new), detail));
                }
                Err(error) => {
                    let detail = match &error {
                        EvalError::Failed(why) if why.starts_with("no such overload") => format!(
                            "call arguments did not match a supported operator, function or macro signature for rule: {}",
                            told(rule)
                        ),
                        EvalError::CallCost => {
                            format!(
                                "no further validation rules will be run due to call cost exceeds limit for rule: {}",
                                told(rule)
                            )
                        }
                        _ => format!("{error} evaluating rule: {}", told(rule)),
                    };
                    self.errors.push(FieldError::invalid(shown(path), type_of(new), detail));
                }
            }
        }
    }

    fn broken(&mut self, rule: &Compiled, vars: &[(&str, Cel)], new: &Value, path: &str) -> FieldError {
        let from_expression = rule.message.as_ref().and_then(|m| match m.eval(vars, &mut self.budget) {
            Ok(Cel::String(text)) => Some(text.trim().to_string())
                .filter(|t| !t.is_empty() && !t.contains('\n') && t.len() <= 5120),
            _ => None,
        });
        let detail = from_expression.unwrap_or_else(|| {
            if rule.source.message.is_empty() {
                format!("failed rule: {}", rule.source.rule.trim())
            } else {
                rule.source.message.trim().to_string()
            }
        });
        let path = shown(&field_path(path, &rule.source.field_path));
        match rule.source.reason.as_deref() {
            Some("FieldValueForbidden") => FieldError::forbidden(path, detail),
            Some("FieldValueRequired") => FieldError::required(path, detail),
            Some("FieldValueDuplicate") => FieldError { detail, ..FieldError::duplicate(path, type_of(new)) },
            _ => FieldError::invalid(path, type_of(new), detail),
        }
    }
}

fn told(rule: &Compiled) -> &str {
    if rule.source.message.is_empty() { rule.source.rule.trim() } else { rule.source.message.trim() }
}

/// A path with the `fieldPath` of a rule (`.spec.x`, `['a.b']`) appended.
fn field_path(path: &str, below: &str) -> String {
    let below = below.trim();
    if below.is_empty() {
        return path.to_string();
    }
    if path.is_empty() { below.trim_start_matches('.').to_string() } else { format!("{path}{below}") }
}

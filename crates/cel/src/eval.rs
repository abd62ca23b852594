//! The evaluator. Errors are values of the language (`false && error` is false); cost and time are not.

use crate::{
    Budget,
    ast::{Bind, BindKind, Expr, Fold, FoldKind, Literal, Node},
    check::type_value,
    cost,
    library::{self, operators},
    message::{self, Message},
    value::{Key, Value},
    work,
};
use std::{collections::BTreeMap, sync::Arc};

/// After how many turns of macros it is asked whether to go on.
const CHECK_EVERY: u32 = 100;

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression failed: a missing key, a division by zero.
    #[error("{0}")]
    Failed(String),
    /// It costs more than a single evaluation may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CallCost,
    /// It costs more than is left of what all evaluations together may.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    Cost,
    /// Its time was over.
    #[error("operation interrupted")]
    Interrupted,
}

type Outcome = Result<Value, EvalError>;

pub(crate) struct Machine<'a, 'b> {
    pub vars: &'a [(&'a str, Value)],
    pub scope: Vec<(&'a str, Value)>,
    pub budget: &'a mut Budget<'b>,
    pub spent: u64,
    pub turns: u32,
}

fn failed(why: impl Into<String>) -> EvalError {
    EvalError::Failed(why.into())
}

fn no_overload() -> EvalError {
    failed("no such overload")
}

impl<'a> Machine<'a, '_> {
    fn pay(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.budget.per_call {
            Err(EvalError::CallCost)
        } else if self.spent > self.budget.remaining {
            Err(EvalError::Cost)
        } else {
            Ok(())
        }
    }

    /// Takes from the work that may still be done.
    fn work(&mut self, amount: u64) -> Result<(), EvalError> {
        self.budget.work = self.budget.work.saturating_sub(amount);
        if self.budget.work == 0 { Err(EvalError::Interrupted) } else { Ok(()) }
    }

    /// The value, unless it has more parts than an object may: whoever gets it may write it out.
    pub(crate) fn result(&mut self, value: Value) -> Outcome {
        if work::weight(&value, work::RESULT) >= work::RESULT { Err(EvalError::CallCost) } else { Ok(value) }
    }

    fn turn(&mut self) -> Result<(), EvalError> {
        self.pay(cost::TURN)?;
        self.work(1)?;
        self.turns += 1;
        if self.turns.is_multiple_of(CHECK_EVERY) && self.budget.interrupt.is_some_and(|stop| stop()) {
            return Err(EvalError::Interrupted);
        }
        Ok(())
    }

    pub(crate) fn eval(&mut self, expr: &'a Expr) -> Outcome {
        match &expr.node {
            Node::Literal(literal) => Ok(match literal {
                Literal::Null => Value::Null,
                Literal::Bool(b) => Value::Bool(*b),
                Literal::Int(n) => Value::Int(*n),
                Literal::Uint(n) => Value::Uint(*n),
                Literal::Double(n) => Value::Double(*n),
                Literal::String(text) => Value::string(text.as_str()),
                Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
            }),
            Node::Ident(name) => self.ident(name),
            Node::Select { operand, field, test, optional } => {
                let operand = self.eval(operand)?;
                self.pay(1)?;
                select(&operand, field, *test, *optional)
            }
            Node::Call { function, target, args } => self.call(function, target.as_deref(), args),
            Node::List(entries) => {
                self.pay(cost::LIST)?;
                let mut out = Vec::with_capacity(entries.len());
                for (entry, optional) in entries {
                    match self.eval(entry)? {
                        Value::Optional(inner) if *optional => out.extend(inner.map(|v| (*v).clone())),
                        value => out.push(value),
                    }
                }
                Ok(Value::list(out))
            }
            Node::Map(entries) => {
                self.pay(cost::MAP)?;
                let mut out = BTreeMap::new();
                for (key, value, optional) in entries {
                    let shown = self.eval(key)?;
                    let key = shown.key().ok_or_else(|| failed("unsupported key type"))?;
                    let value = match self.eval(value)? {
                        Value::Optional(None) if *optional => continue,
                        Value::Optional(Some(inner)) if *optional => (*inner).clone(),
                        value => value,
                    };
                    if out.insert(key, value).is_some() {
                        return Err(failed(format!(
                            "Failed with repeated key: {}",
                            operators::show_key(&shown)
                        )));
                    }
                }
                Ok(Value::Map(Arc::new(out)))
            }
            Node::Message { name, fields } => {
                self.pay(cost::MESSAGE)?;
                let mut out = BTreeMap::new();
                for field in fields {
                    let value = match self.eval(&field.value)? {
                        Value::Optional(None) if field.optional => continue,
                        Value::Optional(Some(inner)) if field.optional => (*inner).clone(),
                        value => value,
                    };
                    out.insert(field.name.as_str().into(), value);
                }
                Ok(Value::Message(Arc::new(Message { name: name.as_str().into(), fields: out })))
            }
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
        }
    }

    fn ident(&mut self, name: &str) -> Outcome {
        self.pay(1)?;
        let local = self.scope.iter().rev().find(|(n, _)| *n == name);
        match local.or_else(|| self.vars.iter().find(|(n, _)| *n == name)) {
            Some((_, Value::Failed(why))) => Err(failed(why.to_string())),
            Some((_, value)) => Ok(value.clone()),
            None if type_value(name) || message::named(name).is_some() => Ok(Value::Type(name.into())),
            None => Err(failed(format!("no such attribute(s): {name}"))),
        }
    }

    fn call(&mut self, function: &str, target: Option<&'a Expr>, args: &'a [Expr]) -> Outcome {
        match (function, args) {
            ("_&&_", [a, b]) => return self.logic(a, b, false),
            ("_||_", [a, b]) => return self.logic(a, b, true),
            ("_?_:_", [condition, a, b]) => {
                return match self.eval(condition)? {
                    Value::Bool(true) => self.eval(a),
                    Value::Bool(false) => self.eval(b),
                    _ => Err(no_overload()),
                };
            }
            ("orValue" | "or", [other]) => {
                let Some(target) = target else { return Err(no_overload()) };
                self.pay(1)?;
                return match self.eval(target)? {
                    Value::Optional(None) => self.eval(other),
                    Value::Optional(Some(value)) if function == "orValue" => Ok((*value).clone()),
                    value @ Value::Optional(_) => Ok(value),
                    _ => Err(no_overload()),
                };
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            values.push(self.eval(arg)?);
        }
        self.work(work::of(function, &values, self.budget.work))?;
        self.pay(work::growth(function, &values))?;
        let mut sizes = [1; 4];
        for (size, value) in sizes.iter_mut().zip(&values) {
            *size = value.size();
        }
        self.pay(cost::call(function, &sizes[..values.len().min(4)]))?;
        let out = library::call(function, &values).map_err(EvalError::Failed)?;
        self.pay(work::parts(function, &out))?;
        Ok(out)
    }

    /// `&&` and `||`: `decides` is the value that settles it, from whichever side.
    fn logic(&mut self, a: &'a Expr, b: &'a Expr, decides: bool) -> Outcome {
        let left = match self.eval(a) {
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Ok(Value::Bool(_)) => None,
            Ok(_) => Some(no_overload()),
            Err(EvalError::Failed(why)) => Some(EvalError::Failed(why)),
            Err(fatal) => return Err(fatal),
        };
        match self.eval(b)? {
            Value::Bool(value) if value == decides => Ok(Value::Bool(decides)),
            Value::Bool(value) => left.map_or(Ok(Value::Bool(value)), Err),
            _ => Err(left.unwrap_or_else(no_overload)),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Outcome {
        let range = self.eval(&fold.range)?;
        let depth = self.scope.len();
        let out = match &range {
            Value::Map(map) => self.turns(fold, map.iter().map(|(k, v)| (key_value(k), v.clone())), true),
            list => {
                let entries = list.entries().ok_or_else(no_overload)?;
                let pairs = entries.iter().enumerate().map(|(at, v)| (Value::Int(at as i64), v.clone()));
                self.turns(fold, pairs, false)
            }
        };
        self.scope.truncate(depth);
        out
    }

    fn turns(
        &mut self,
        fold: &'a Fold,
        pairs: impl Iterator<Item = (Value, Value)>,
        is_map: bool,
    ) -> Outcome {
        let depth = self.scope.len();
        let (mut list, mut map, mut found, mut error) = (Vec::new(), BTreeMap::new(), 0, None);
        for (key, value) in pairs {
            self.turn()?;
            self.scope.truncate(depth);
            let one = if is_map { key.clone() } else { value.clone() };
            match &fold.second {
                Some(second) => {
                    self.scope.push((&fold.var, key.clone()));
                    self.scope.push((second, value));
                }
                None => self.scope.push((&fold.var, one.clone())),
            }
            if let Some(filter) = &fold.filter {
                match self.eval(filter)? {
                    Value::Bool(true) => {}
                    Value::Bool(false) => continue,
                    _ => return Err(no_overload()),
                }
            }
            let step = match (self.eval(&fold.step), fold.kind) {
                // One settled turn outweighs a failed one.
                (Err(EvalError::Failed(why)), FoldKind::All | FoldKind::Exists) => {
                    error.get_or_insert(EvalError::Failed(why));
                    continue;
                }
                (step, _) => step?,
            };
            match (fold.kind, step) {
                (FoldKind::All, Value::Bool(false)) => return Ok(Value::Bool(false)),
                (FoldKind::Exists, Value::Bool(true)) => return Ok(Value::Bool(true)),
                (FoldKind::All | FoldKind::Exists, Value::Bool(_)) => {}
                (FoldKind::ExistsOne, Value::Bool(b)) => found += u64::from(b),
                (FoldKind::Filter, Value::Bool(true)) => {
                    self.pay(cost::LIST)?;
                    list.push(one);
                }
                (FoldKind::Filter, Value::Bool(false)) => {}
                (FoldKind::Map, value) => {
                    self.pay(cost::LIST)?;
                    list.push(value);
                }
                (FoldKind::TransformMap, value) => {
                    map.insert(key.key().ok_or_else(no_overload)?, value);
                }
                _ => return Err(no_overload()),
            }
        }
        match (fold.kind, error) {
            (_, Some(error)) => Err(error),
            (FoldKind::All, None) => Ok(Value::Bool(true)),
            (FoldKind::Exists, None) => Ok(Value::Bool(false)),
            (FoldKind::ExistsOne, None) => Ok(Value::Bool(found == 1)),
            (FoldKind::Map | FoldKind::Filter, None) => Ok(Value::list(list)),
            (FoldKind::TransformMap, None) => Ok(Value::Map(Arc::new(map))),
        }
    }

    fn bind(&mut self, bind: &'a Bind) -> Outcome {
        let init = self.eval(&bind.init)?;
        self.pay(1)?;
        let value = match (bind.kind, init) {
            (BindKind::Value, value) => value,
            (_, Value::Optional(None)) => return Ok(Value::Optional(None)),
            (_, Value::Optional(Some(value))) => (*value).clone(),
            _ => return Err(no_overload()),
        };
        let depth = self.scope.len();
        self.scope.push((&bind.var, value));
        let out = self.eval(&bind.body);
        self.scope.truncate(depth);
        match (bind.kind, out?) {
            (BindKind::OptMap, value) => Ok(Value::Optional(Some(Arc::new(value)))),
            (_, value) => Ok(value),
        }
    }
}

fn key_value(key: &Key) -> Value {
    match key {
        Key::Bool(b) => Value::Bool(*b),
        Key::Int(n) => i64::try_from(*n).map_or_else(|_| Value::Uint(*n as u64), Value::Int),
        Key::String(s) => Value::String(s.clone()),
    }
}

fn select(operand: &Value, field: &str, test: bool, optional: bool) -> Outcome {
    if let Value::Optional(inner) = operand {
        let found = inner.as_ref().and_then(|v| select(v, field, false, false).ok());
        if test {
            return Ok(Value::Bool(found.is_some()));
        }
        return Ok(match found {
            Some(value @ Value::Optional(_)) => value,
            found => Value::Optional(found.map(Arc::new)),
        });
    }
    if let Value::Message(message) = operand {
        let found = message.get(field);
        return match (found, test, optional) {
            (found, true, _) => Ok(Value::Bool(found.is_some())),
            (found, _, true) => Ok(Value::Optional(found.map(|v| Arc::new(v.clone())))),
            (Some(found), ..) => Ok(found.clone()),
            (None, ..) => message.unsaid(field).ok_or_else(|| failed(format!("no such key: {field}"))),
        };
    }
    let Value::Map(map) = operand else {
        if optional && matches!(operand, Value::Null) {
            return Ok(Value::Optional(None));
        }
        if matches!(operand, Value::Null) {
            return Err(failed(format!("no such key: {field}")));
        }
        return Err(no_overload());
    };
    // Borrowed lookup would need an owned key: text is cheap to make.
    let found = map.get(&Key::String(field.into()));
    if test {
        // A field that is null was not said.
        return Ok(Value::Bool(found.is_some_and(|v| !matches!(v, Value::Null))));
    }
    if optional {
        return Ok(Value::Optional(found.map(|v| Arc::new(v.clone()))));
    }
    match found {
        Some(Value::Failed(why)) => Err(failed(why.to_string())),
        Some(value) => Ok(value.clone()),
        None => Err(failed(format!("no such key: {field}"))),
    }
}

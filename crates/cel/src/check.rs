//! The type checker, which is also the estimator: one walk tells what an expression gives, whether every part of it fits,
//! and the most that it can cost. Messages are those of cel-go.

use crate::{
    Env,
    ast::{Bind, BindKind, Expr, FieldInit, Fold, FoldKind, Literal, Node},
    cost,
    decl::Decl,
    library::signatures::overloads,
    types::{Bindings, Type, join},
};
use std::{borrow::Cow, sync::Arc};

/// What is known of an expression.
#[derive(Clone)]
pub(crate) struct Known {
    pub decl: Arc<Decl>,
    /// The most that it costs.
    pub cost: u64,
}

impl Known {
    fn new(ty: Type, max: u64, cost: u64) -> Self {
        Self { decl: Decl::leaf(ty, max), cost }
    }

    fn ty(&self) -> &Type {
        &self.decl.ty
    }
}

pub(crate) struct Checker<'a> {
    pub env: &'a Env,
    /// Names of macros and binds, innermost last.
    scope: Vec<(String, Arc<Decl>)>,
    pub errors: Vec<(usize, String)>,
    /// Whether the list that comes next may hold all sorts: the arguments of `format`.
    mixed: bool,
}

/// Names that are types.
pub(crate) fn type_value(name: &str) -> bool {
    matches!(
        name,
        "int"
            | "uint"
            | "double"
            | "bool"
            | "string"
            | "bytes"
            | "list"
            | "map"
            | "null_type"
            | "type"
            | "optional_type"
            | "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "net.IP"
            | "net.CIDR"
    )
}

impl<'a> Checker<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self { env, scope: Vec::new(), errors: Vec::new(), mixed: false }
    }

    fn error(&mut self, at: usize, message: String) -> Known {
        self.errors.push((at, message));
        Known::new(Type::Dyn, u64::MAX, 0)
    }

    fn expect(&mut self, at: usize, wanted: &Type, given: &Type) {
        if !Bindings::default().accepts(wanted, given) {
            self.errors.push((at, format!("expected type '{wanted}' but found '{given}'")));
        }
    }

    pub(crate) fn check(&mut self, expr: &Expr) -> Known {
        match &expr.node {
            Node::Literal(literal) => match literal {
                Literal::Null => Known::new(Type::Null, 1, 0),
                Literal::Bool(_) => Known::new(Type::Bool, 1, 0),
                Literal::Int(_) => Known::new(Type::Int, 1, 0),
                Literal::Uint(_) => Known::new(Type::Uint, 1, 0),
                Literal::Double(_) => Known::new(Type::Double, 1, 0),
                Literal::String(text) => Known::new(Type::String, text.chars().count() as u64, 0),
                Literal::Bytes(bytes) => Known::new(Type::Bytes, bytes.len() as u64, 0),
            },
            Node::Ident(name) => self.ident(expr.at, name),
            Node::Select { operand, field, test, optional } => {
                let operand = self.check(operand);
                let known = self.select(expr.at, &operand, field, *optional);
                if *test { Known::new(Type::Bool, 1, known.cost) } else { known }
            }
            Node::Call { function, target, args } => self.call(expr.at, function, target.as_deref(), args),
            Node::List(entries) => self.list(entries),
            Node::Map(entries) => self.map(entries),
            Node::Message { name, fields } => self.message(expr.at, name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind(bind) => self.bind(bind),
        }
    }

    fn ident(&mut self, at: usize, name: &str) -> Known {
        if let Some((_, decl)) = self.scope.iter().rev().find(|(n, _)| n == name) {
            return Known { decl: decl.clone(), cost: 1 };
        }
        if let Some(decl) = self.env.find(name) {
            return Known { decl: decl.clone(), cost: 1 };
        }
        if type_value(name) || self.env.message(name).is_some() {
            return Known::new(Type::Type, 1, 1);
        }
        self.error(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn select(&mut self, at: usize, operand: &Known, field: &str, optional: bool) -> Known {
        let cost = operand.cost.saturating_add(1);
        let (inner, was_optional): (Cow<'_, Type>, bool) = match operand.ty() {
            Type::Optional(inner) => (Cow::Owned((**inner).clone()), true),
            ty => (Cow::Borrowed(ty), false),
        };
        let decl = match &*inner {
            Type::Dyn | Type::Param(_) => Decl::leaf(Type::Dyn, u64::MAX),
            Type::Map(_, value) => operand.decl.entry.clone().unwrap_or_else(|| Decl::of((**value).clone())),
            Type::Object(object) => match (operand.decl.fields.get(field), object.field(field)) {
                (Some(found), _) => found.decl.clone(),
                (None, Some(ty)) => Decl::of(ty.clone()),
                (None, None) => return self.error(at, format!("undefined field '{field}'")),
            },
            other => return self.error(at, format!("type '{other}' does not support field selection")),
        };
        if !(optional || was_optional) || matches!(decl.ty, Type::Optional(_)) {
            return Known { decl, cost };
        }
        let decl = Decl { ty: Type::optional(decl.ty.clone()), ..(*decl).clone() };
        Known { decl: Arc::new(decl), cost }
    }

    fn call(&mut self, at: usize, function: &str, target: Option<&Expr>, args: &[Expr]) -> Known {
        let mut known: Vec<Known> = target.into_iter().map(|e| self.check(e)).collect();
        for arg in args {
            self.mixed = function == "format" && target.is_some();
            known.push(self.check(arg));
            self.mixed = false;
        }
        let sizes: Vec<u64> = known.iter().map(|k| k.decl.max).collect();
        let own = cost::call(function, &sizes);
        let sum = known.iter().fold(own, |sum, k| sum.saturating_add(k.cost));
        let total = match (function, known.as_slice()) {
            ("_?_:_", [c, a, b]) => c.cost.saturating_add(a.cost.max(b.cost)),
            _ => sum,
        };
        let method = target.is_some();
        let Some(overloads) = overloads(function) else {
            return self.error(at, format!("undeclared reference to '{function}' (in container '')"));
        };
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.method == method && o.args.len() == known.len()) {
            let mut bindings = Bindings::default();
            if overload.args.iter().zip(&known).all(|(wanted, k)| bindings.accepts(wanted, k.ty())) {
                let ty = bindings.apply(&overload.result);
                result = Some(match result {
                    None => ty,
                    Some(before) if before == ty => before,
                    Some(_) => Type::Dyn,
                });
            }
        }
        let Some(mut ty) = result else {
            let types: Vec<String> = known.iter().map(|k| k.ty().to_string()).collect();
            let shown = if method {
                format!("{}.({})", types[0], types[1..].join(", "))
            } else {
                format!("({})", types.join(", "))
            };
            return self
                .error(at, format!("found no matching overload for '{function}' applied to '{shown}'"));
        };
        let entry = match (function, known.first()) {
            ("_[_]", Some(container)) => container.decl.entry.clone(),
            ("_?_:_", _) => {
                ty = join(known[1].ty(), known[2].ty());
                let larger = if known[1].decl.max >= known[2].decl.max { &known[1] } else { &known[2] };
                Some(larger.decl.clone()).filter(|d| d.ty == ty)
            }
            ("dyn", Some(_)) => None,
            _ => None,
        };
        let decl = match entry {
            Some(decl) if decl.ty == ty => decl,
            _ => {
                let mut decl = Decl::clone(&Decl::of(ty));
                decl.max = cost::result(function, &sizes);
                if let ("_+_", Some(first)) = (function, known.first()) {
                    decl.entry.clone_from(&first.decl.entry);
                }
                if matches!(function, "value" | "orValue" | "_[_]") || decl.ty.is_dyn() {
                    decl.max = known.first().map_or(u64::MAX, |k| k.decl.max);
                }
                Arc::new(decl)
            }
        };
        Known { decl, cost: total }
    }

    /// The type of things that stand together; what does not fit is an error.
    fn together(&mut self, sofar: Option<Type>, at: usize, given: &Type) -> Type {
        match sofar {
            None => given.clone(),
            Some(wanted) => {
                self.expect(at, &wanted, given);
                join(&wanted, given)
            }
        }
    }

    fn list(&mut self, entries: &[(Expr, bool)]) -> Known {
        let (mut ty, mut total, mut entry_decl) = (None, cost::LIST, None);
        let mixed = std::mem::take(&mut self.mixed);
        for (entry, optional) in entries {
            let known = self.check(entry);
            total = total.saturating_add(known.cost);
            let given = match known.ty() {
                Type::Optional(inner) if *optional => (**inner).clone(),
                given => given.clone(),
            };
            ty = Some(if mixed { Type::Dyn } else { self.together(ty, entry.at, &given) });
            entry_decl = Some(known.decl);
        }
        let ty = ty.unwrap_or(Type::Param('E'));
        let entry = entry_decl.filter(|d| d.ty == ty).unwrap_or_else(|| Decl::of(ty));
        let decl = Decl::list(entry, entries.len() as u64, crate::decl::ListType::Atomic);
        Known { decl, cost: total }
    }

    fn map(&mut self, entries: &[(Expr, Expr, bool)]) -> Known {
        let (mut key_type, mut value_type, mut total) = (None, None, cost::MAP);
        for (key, value, optional) in entries {
            let (k, v) = (self.check(key), self.check(value));
            total = total.saturating_add(k.cost).saturating_add(v.cost);
            // A map or a list is no key, which evaluation tells. As part of a type it would double it at every level.
            let k = if matches!(k.ty(), Type::Map(..) | Type::List(_) | Type::Optional(_)) {
                &Type::Dyn
            } else {
                k.ty()
            };
            key_type = Some(self.together(key_type, key.at, k));
            let given = match v.ty() {
                Type::Optional(inner) if *optional => (**inner).clone(),
                given => given.clone(),
            };
            value_type = Some(self.together(value_type, value.at, &given));
        }
        let ty = Type::map(key_type.unwrap_or(Type::Param('K')), value_type.unwrap_or(Type::Param('V')));
        let mut decl = Decl::clone(&Decl::of(ty));
        decl.max = entries.len() as u64;
        Known { decl: Arc::new(decl), cost: total }
    }

    fn message(&mut self, at: usize, name: &str, fields: &[FieldInit]) -> Known {
        let Some(ty) = self.env.message(name) else {
            return self.error(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        let mut total = cost::MESSAGE;
        for field in fields {
            let known = self.check(&field.value);
            total = total.saturating_add(known.cost);
            let given = match known.ty() {
                Type::Optional(inner) if field.optional => inner,
                given => given,
            };
            let wanted = if let Type::Object(object) = &ty { object.field(&field.name) } else { None };
            let why = match wanted {
                None => format!("undefined field '{}'", field.name),
                Some(wanted) if Bindings::default().accepts(wanted, given) => continue,
                Some(wanted) => format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{given}'",
                    field.name
                ),
            };
            self.errors.push((field.at, why));
        }
        Known { decl: Decl::of(ty), cost: total }
    }

    fn fold(&mut self, fold: &Fold) -> Known {
        let range = self.check(&fold.range);
        let any = || Decl::leaf(Type::Dyn, u64::MAX);
        let entry = |ty: &Type| range.decl.entry.clone().unwrap_or_else(|| Decl::of(ty.clone()));
        let (key, value): (Arc<Decl>, Arc<Decl>) = match range.ty() {
            Type::List(ty) => (Decl::leaf(Type::Int, 1), entry(ty)),
            // A key is as long as the text that it may be part of.
            Type::Map(key, ty) => (Decl::leaf((**key).clone(), 1024), entry(ty)),
            Type::Dyn | Type::Param(_) => (any(), any()),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.error(fold.range.at, message);
            }
        };
        let is_list = matches!(range.ty(), Type::List(_));
        let depth = self.scope.len();
        let first = match &fold.second {
            Some(second) => {
                self.scope.push((fold.var.clone(), key.clone()));
                self.scope.push((second.clone(), value));
                key.clone()
            }
            None => {
                let first = if is_list { value } else { key.clone() };
                self.scope.push((fold.var.clone(), first.clone()));
                first
            }
        };
        let filter = fold.filter.as_ref().map(|f| (f.at, self.check(f)));
        let step = self.check(&fold.step);
        self.scope.truncate(depth);
        let mut turn = cost::TURN.saturating_add(step.cost);
        if let Some((at, filter)) = filter {
            turn = turn.saturating_add(filter.cost);
            self.expect(at, &Type::Bool, filter.ty());
        }
        if matches!(fold.kind, FoldKind::Map | FoldKind::Filter | FoldKind::TransformMap) {
            turn = turn.saturating_add(cost::LIST);
        } else {
            self.expect(fold.step.at, &Type::Bool, step.ty());
        }
        let max = range.decl.max;
        let total = range.cost.saturating_add(max.saturating_mul(turn)).saturating_add(1);
        let decl = match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Decl::leaf(Type::Bool, 1),
            FoldKind::Map => Decl::list(step.decl, max, crate::decl::ListType::Atomic),
            FoldKind::Filter => {
                self.expect(fold.step.at, &Type::Bool, step.ty());
                Decl::list(first, max, crate::decl::ListType::Atomic)
            }
            FoldKind::TransformMap => {
                let ty = Type::map(key.ty.clone(), step.ty().clone());
                Arc::new(Decl { max, entry: Some(step.decl), ..Decl::clone(&Decl::of(ty)) })
            }
        };
        Known { decl, cost: total }
    }

    fn bind(&mut self, bind: &Bind) -> Known {
        let init = self.check(&bind.init);
        let bound = match (bind.kind, init.ty()) {
            (BindKind::Value, _) => init.decl.clone(),
            (_, Type::Optional(inner)) => Arc::new(Decl { ty: (**inner).clone(), ..(*init.decl).clone() }),
            (_, Type::Dyn) => Decl::leaf(Type::Dyn, u64::MAX),
            (kind, other) => {
                let name = if kind == BindKind::OptMap { "optMap" } else { "optFlatMap" };
                let message = format!("found no matching overload for '{name}' applied to '{other}.(dyn)'");
                return self.error(bind.init.at, message);
            }
        };
        self.scope.push((bind.var.clone(), bound));
        let body = self.check(&bind.body);
        self.scope.pop();
        let cost = init.cost.saturating_add(body.cost).saturating_add(1);
        let decl = match bind.kind {
            BindKind::OptMap => {
                Arc::new(Decl { ty: Type::optional(body.ty().clone()), ..(*body.decl).clone() })
            }
            _ => body.decl,
        };
        Known { decl, cost }
    }
}

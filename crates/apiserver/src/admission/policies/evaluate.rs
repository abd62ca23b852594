//! Evaluates the expressions of a policy: with its variables, each of them when an expression looks at it and never twice, within
//! what they may cost.

use super::Evaluator;
use crate::admission::expressions::Names;
use orlop_api::object::{list, text};
use orlop_cel::{Budget, Value as Cel};
use serde_json::Value;

/// The names that expressions of a policy may use.
pub(in crate::admission) fn names(policy: &Value) -> Names {
    let variables = list(policy, "/spec/variables").iter().map(|v| text(v, "/name").to_string()).collect();
    Names { policy: true, patches: false, variables }
}

/// What the expressions of a policy see.
pub(super) struct Scope<'a> {
    names: Names,
    values: Vec<(&'a str, Cel)>,
    variables: Vec<Variable<'a>>,
}

struct Variable<'a> {
    name: String,
    source: &'a str,
    /// Once an expression has looked at it.
    value: Option<Cel>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(policy: &'a Value, values: &[(&'a str, Cel)]) -> Self {
        let variables = list(policy, "/spec/variables").iter().map(|v| Variable {
            name: format!("variables.{}", text(v, "/name")),
            source: text(v, "/expression"),
            value: None,
        });
        Self { names: names(policy), values: values.to_vec(), variables: variables.collect() }
    }

    /// The same for expressions that make patches.
    pub(super) fn with_patches(mut self) -> Self {
        self.names.patches = true;
        self
    }
}

impl Evaluator<'_> {
    /// The value of one expression.
    pub(super) fn eval(
        &self,
        scope: &mut Scope<'_>,
        source: &str,
        budget: &mut Budget<'_>,
    ) -> Result<Cel, String> {
        let names = scope.names.clone();
        self.eval_with(&names, scope, source, budget)
    }

    fn eval_with(
        &self,
        names: &Names,
        scope: &mut Scope<'_>,
        source: &str,
        budget: &mut Budget<'_>,
    ) -> Result<Cel, String> {
        let program = self.expressions.program(names, source)?;
        for at in 0..scope.variables.len() {
            let variable = &mut scope.variables[at];
            if variable.value.is_some() || !program.mentions(&variable.name) {
                continue;
            }
            // One that looks at itself fails, as one does that is not there.
            let source = variable.source;
            variable.value = Some(Cel::Failed("it is not known yet".into()));
            let plain = Names { patches: false, ..names.clone() };
            // What fails is told to whoever looks at it, and to nobody else.
            let value = self.eval_with(&plain, scope, source, budget);
            scope.variables[at].value = Some(value.unwrap_or_else(|why| Cel::Failed(why.as_str().into())));
        }
        let known = scope.variables.iter().filter_map(|v| Some((v.name.as_str(), v.value.clone()?)));
        let values: Vec<(&str, Cel)> = scope.values.iter().cloned().chain(known).collect();
        match program.eval(&values, budget) {
            Ok(Cel::Failed(why)) => Err(why.to_string()),
            Ok(value) => Ok(value),
            Err(error) => Err(error.to_string()),
        }
    }
}

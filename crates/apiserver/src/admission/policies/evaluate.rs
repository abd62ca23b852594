//! Evaluates the expressions of a policy: with its variables, within what they may cost.

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

impl Evaluator<'_> {
    /// The value of one expression.
    pub(super) fn eval(
        &self,
        names: &Names,
        source: &str,
        values: &[(&str, Cel)],
        budget: &mut Budget<'_>,
    ) -> Result<Cel, String> {
        let program = self.expressions.program(names, source)?;
        match program.eval(values, budget) {
            Ok(Cel::Failed(why)) => Err(why.to_string()),
            Ok(value) => Ok(value),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Runs `work` with the values and those of the policy's variables.
    pub(super) fn with_variables<T>(
        &self,
        policy: &Value,
        values: &[(&str, Cel)],
        budget: &mut Budget<'_>,
        work: impl FnOnce(&[(&str, Cel)], &mut Budget<'_>) -> T,
    ) -> T {
        let names = names(policy);
        let variables: Vec<(String, &str)> = list(policy, "/spec/variables")
            .iter()
            .map(|v| (format!("variables.{}", text(v, "/name")), text(v, "/expression")))
            .collect();
        let mut values = values.to_vec();
        for (name, source) in &variables {
            // What fails is told to whoever looks at it, and to nobody else.
            let value = self
                .eval(&names, source, &values, budget)
                .unwrap_or_else(|why| Cel::Failed(why.as_str().into()));
            values.push((name, value));
        }
        work(&values, budget)
    }
}

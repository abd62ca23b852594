//! Kubernetes' authorizer library: an expression asks whether somebody may do something.

use super::Outcome;
use crate::value::{Authorization, Question, Value};
use std::sync::Arc;

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    let Some(Value::Authorization(authorization)) = args.first() else { return None };
    let with = |change: &dyn Fn(&mut Question)| {
        let mut next = Authorization::clone(authorization);
        change(&mut next.question);
        Ok(Value::Authorization(Arc::new(next)))
    };
    let answer = || authorization.answer.clone().unwrap_or_else(|| Err("nothing was asked".into()));
    Some(match (function, &args[1..]) {
        ("path", [Value::String(path)]) => {
            if path.trim().is_empty() {
                return Some(Err("path must not be empty".into()));
            }
            with(&|q| q.path = Some(path.to_string()))
        }
        ("group", [Value::String(group)]) => with(&|q| q.group = group.to_string()),
        ("serviceAccount", [Value::String(namespace), Value::String(name)]) => {
            with(&|q| q.service_account = Some((namespace.to_string(), name.to_string())))
        }
        ("resource", [Value::String(resource)]) => {
            if resource.trim().is_empty() {
                return Some(Err("resource must not be empty".into()));
            }
            with(&|q| q.resource = resource.to_string())
        }
        ("subresource", [Value::String(s)]) => with(&|q| q.subresource = s.to_string()),
        ("namespace", [Value::String(s)]) => with(&|q| q.namespace = s.to_string()),
        ("name", [Value::String(s)]) => with(&|q| q.name = s.to_string()),
        ("fieldSelector", [Value::String(s)]) => with(&|q| q.field_selector = Some(s.to_string())),
        ("labelSelector", [Value::String(s)]) => with(&|q| q.label_selector = Some(s.to_string())),
        ("check", [Value::String(verb)]) => {
            let mut next = Authorization::clone(authorization);
            next.question.verb = verb.to_string();
            next.answer = Some(next.authorizer.check(&next.question));
            Ok(Value::Authorization(Arc::new(next)))
        }
        ("allowed", []) => Ok(Value::Bool(matches!(answer(), Ok((true, _))))),
        ("reason", []) => Ok(Value::string(answer().map(|a| a.1).unwrap_or_default())),
        ("errored", []) => Ok(Value::Bool(answer().is_err())),
        ("error", []) => Ok(Value::string(answer().err().unwrap_or_default())),
        _ => return None,
    })
}

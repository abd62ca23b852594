//! Kubernetes' list library: `isSorted`, `sum`, `min`, `max`, `indexOf`, `lastIndexOf`.

use super::{Outcome, operators};
use crate::value::Value;
use std::cmp::Ordering;

pub(super) fn call(function: &str, args: &[Value]) -> Option<Outcome> {
    let list = args.first()?.entries()?;
    let extreme = |wanted: Ordering| -> Outcome {
        let mut best = list.first().ok_or_else(|| {
            let name = if wanted == Ordering::Less { "min" } else { "max" };
            format!("{name} called on empty list")
        })?;
        for entry in list {
            match entry.compare(best) {
                Some(order) if order == wanted => best = entry,
                Some(_) => {}
                None => return Err("no such overload".into()),
            }
        }
        Ok(best.clone())
    };
    let at = |at: Option<usize>| Ok(Value::Int(at.map_or(-1, |at| at as i64)));
    Some(match (function, &args[1..]) {
        ("isSorted", []) => {
            Ok(Value::Bool(list.windows(2).all(|w| w[0].compare(&w[1]).is_some_and(Ordering::is_le))))
        }
        // Only of what is summed in no time: text would be copied again at every step.
        ("sum", [])
            if !matches!(
                list.first(),
                None | Some(Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_))
            ) =>
        {
            Err("no such overload".into())
        }
        ("sum", []) => {
            let mut entries = list.iter();
            let first = entries.next().cloned().unwrap_or(Value::Int(0));
            entries.try_fold(first, |sum, entry| {
                operators::call("_+_", &[sum, entry.clone()])
                    .unwrap_or_else(|| Err("no such overload".to_string()))
            })
        }
        ("min", []) => extreme(Ordering::Less),
        ("max", []) => extreme(Ordering::Greater),
        ("indexOf", [wanted]) => at(list.iter().position(|e| e == wanted)),
        ("lastIndexOf", [wanted]) => at(list.iter().rposition(|e| e == wanted)),
        _ => return None,
    })
}

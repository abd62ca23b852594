//! Labels of nodes: which words mean what, and what is in the way.

use super::edit::edit;
use crate::{Error, api::Api, print};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What becomes of each key; `None`: it goes.
pub(super) type Changes = BTreeMap<String, Option<String>>;

/// Reads `KEY=VALUE` and `KEY-`.
pub(super) fn parse(words: &[String]) -> Result<Changes, Error> {
    let mut changes = Changes::new();
    for word in words {
        let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value.to_string())),
            (None, Some(key)) => (key, None),
            (None, None) => {
                return Err(Error::Usage(format!(
                    "{word:?}: write KEY=VALUE to put a label on, KEY- to take it off"
                )));
            }
        };
        if key.is_empty() {
            return Err(Error::Usage(format!("{word:?} has no key")));
        }
        if changes.insert(key.to_string(), value).is_some() {
            return Err(Error::Usage(format!("{key:?} is said twice")));
        }
    }
    Ok(changes)
}

pub(super) async fn run(api: &Api, node: &str, changes: &Changes, overwrite: bool) -> Result<(), Error> {
    let done = edit(api, node, |now| decide(now, changes, overwrite)).await?;
    print(&format!("node/{node} {}\n", if done { "labeled" } else { "not labeled: it is so already" }))
}

fn decide(node: &Value, changes: &Changes, overwrite: bool) -> Result<Option<Value>, Error> {
    let has = |key: &str| node["metadata"]["labels"][key].as_str();
    let mut labels = Map::new();
    for (key, wanted) in changes {
        match (has(key), wanted) {
            (is, wanted) if is == wanted.as_deref() => {}
            (Some(is), Some(_)) if !overwrite => {
                return Err(Error::Usage(format!(
                    "the node has {key}={is} already: change it with --overwrite"
                )));
            }
            _ => {
                labels.insert(key.clone(), wanted.clone().map_or(Value::Null, Value::from));
            }
        }
    }
    Ok((!labels.is_empty()).then(|| json!({"metadata": {"labels": labels}})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<Changes, Error> {
        parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn only_what_is_otherwise_is_written_and_nothing_is_overwritten_unasked() {
        let node = json!({"metadata": {"labels": {"zone": "a", "disk": "ssd"}}});
        let patch = |w: &[&str], overwrite| decide(&node, &words(w).unwrap(), overwrite);
        assert_eq!(patch(&["zone=a", "none-"], false).unwrap(), None);
        let made = patch(&["rack=4", "disk-", "zone=a"], false).unwrap().unwrap();
        assert_eq!(made, json!({"metadata": {"labels": {"rack": "4", "disk": null}}}));
        assert!(patch(&["zone=b"], false).unwrap_err().to_string().contains("--overwrite"));
        assert_eq!(patch(&["zone=b"], true).unwrap().unwrap()["metadata"]["labels"]["zone"], "b");
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for wrong in [&["rack"][..], &["=4"], &["-"], &["a=1", "a-"]] {
            assert!(words(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! Prints a `Table` of meta/v1 as kubectl does: columns as wide as their widest cell, three spaces between.

use serde_json::Value;

/// Columns in print: the least width of a column with its gap, and the gap.
const LEAST: usize = 6;
const GAP: usize = 3;

/// How tables are printed, and how wide the columns of the last one were.
#[derive(Default)]
pub(crate) struct Printer {
    /// Columns that are not always shown, too.
    pub(crate) wide: bool,
    /// A first column with the namespace.
    pub(crate) with_namespace: bool,
    /// The kind before each name: `deployment.apps/`.
    pub(crate) prefix: Option<String>,
    /// No headings.
    pub(crate) no_headers: bool,
    /// So far.
    pub(crate) widths: Vec<usize>,
}

impl Printer {
    /// The lines of a table. Columns never get narrower from call to call, so that watched rows stay in line; headings come
    /// with `first`.
    pub(crate) fn print(&mut self, table: &Value, first: bool) -> String {
        let columns: Vec<(usize, String)> = table["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, column)| self.wide || column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|(n, column)| (n, column["name"].as_str().unwrap_or_default().to_uppercase()))
            .collect();
        let mut lines = Vec::new();
        if first && !self.no_headers {
            let namespace = self.with_namespace.then(|| "NAMESPACE".to_string());
            lines.push(
                namespace.into_iter().chain(columns.iter().map(|(_, name)| name.clone())).collect::<Vec<_>>(),
            );
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            let namespace = self.with_namespace.then(|| cell(&row["object"]["metadata"]["namespace"]));
            let cells = columns.iter().enumerate().map(|(shown, (n, _))| {
                let text = cell(&row["cells"][*n]);
                match (&self.prefix, shown) {
                    (Some(prefix), 0) => format!("{prefix}/{text}"),
                    _ => text,
                }
            });
            lines.push(namespace.into_iter().chain(cells).collect());
        }
        self.lay_out(&lines)
    }

    fn lay_out(&mut self, lines: &[Vec<String>]) -> String {
        for line in lines {
            self.widths.resize(self.widths.len().max(line.len()), LEAST);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count() + GAP);
            }
        }
        let mut out = String::new();
        for line in lines {
            for (n, cell) in line.iter().enumerate() {
                out.push_str(cell);
                if n + 1 < line.len() {
                    out.extend(std::iter::repeat_n(' ', self.widths[n] - cell.chars().count()));
                }
            }
            out.push('\n');
        }
        out
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        // A cell is one line, whatever is in it; and what a stranger wrote must not steer the terminal.
        Value::String(text) => match text.split_once('\n') {
            Some((first, _)) => format!("{}...", printable(first)),
            None => printable(text),
        },
        other => other.to_string(),
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A table of plain cells.
pub(crate) fn plain(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let headings = headings.iter().map(ToString::to_string).collect();
    let lines: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    Printer::default().lay_out(&lines)
}

/// A table of names, for servers that make none.
pub(crate) fn of_objects(objects: &[Value]) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            serde_json::json!({
                "cells": [object["metadata"]["name"], object["metadata"]["creationTimestamp"]], "object": object,
            })
        })
        .collect();
    serde_json::json!({"columnDefinitions": [{"name": "Name"}, {"name": "Created At"}], "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Value {
        json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "Age", "priority": 0},
                {"name": "Node", "priority": 1},
            ],
            "rows": [
                {"cells": ["web-1", "1/1", "5s", null], "object": {"metadata": {"namespace": "default"}}},
                {"cells": ["a-much-longer-name", 3, "10m", "n1\nn2"], "object": {"metadata": {"namespace": "x"}}},
            ],
        })
    }

    #[test]
    fn a_table_looks_as_that_of_kubectl() {
        assert_eq!(
            Printer::default().print(&pods(), true),
            "NAME                 READY   AGE\n\
             web-1                1/1     5s\n\
             a-much-longer-name   3       10m\n"
        );
        let mut wide =
            Printer { wide: true, with_namespace: true, prefix: Some("pod".into()), ..Default::default() };
        assert_eq!(
            wide.print(&pods(), true),
            "NAMESPACE   NAME                     READY   AGE   NODE\n\
             default     pod/web-1                1/1     5s    <none>\n\
             x           pod/a-much-longer-name   3       10m   n1...\n"
        );
    }

    #[test]
    fn rows_that_come_later_stay_in_line() {
        let mut printer = Printer::default();
        printer.print(&pods(), true);
        let later = json!({"columnDefinitions": pods()["columnDefinitions"], "rows": [{"cells": ["b", "0/1", "0s"]}]});
        assert_eq!(printer.print(&later, false), "b                    0/1     0s\n");
    }

    #[test]
    fn nothing_in_a_cell_steers_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb")), "a?[2Jb");
    }
}

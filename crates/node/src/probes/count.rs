//! Counts answers of a probe until enough of a kind came in a row. Pure.

/// How many answers in a row change the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thresholds {
    pub success: i32,
    pub failure: i32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Count {
    thresholds: Thresholds,
    last: Option<bool>,
    run: i32,
    result: Option<bool>,
}

impl Count {
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, last: None, run: 0, result: None }
    }

    /// Takes an answer; gives the new result if it has changed.
    pub fn take<E>(&mut self, answer: &Result<(), E>) -> Option<bool> {
        let well = answer.is_ok();
        self.run = if self.last == Some(well) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(well);
        let needed = if well { self.thresholds.success } else { self.thresholds.failure };
        if self.run < needed.max(1) || self.result == Some(well) {
            return None;
        }
        self.result = Some(well);
        Some(well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_changes_after_enough_answers_in_a_row() {
        for (success, failure, answers, changes) in [
            (1, 3, "+", vec![(0, true)]),
            (1, 3, "---", vec![(2, false)]),
            (1, 3, "--+--+---", vec![(2, true), (8, false)]),
            (2, 1, "+-++", vec![(1, false), (3, true)]),
            (1, 1, "+++--", vec![(0, true), (3, false)]),
            (0, 0, "+-", vec![(0, true), (1, false)]),
        ] {
            let mut count = Count::new(Thresholds { success, failure });
            let got: Vec<(usize, bool)> = answers
                .chars()
                .enumerate()
                .filter_map(|(i, c)| Some((i, count.take(&if c == '+' { Ok(()) } else { Err(()) })?)))
                .collect();
            assert_eq!(got, changes, "{success} {failure} {answers}");
        }
    }
}

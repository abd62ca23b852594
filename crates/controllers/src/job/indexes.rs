//! Sets of completion indexes as `status.completedIndexes` writes them: `1,3-5,7`.

use std::collections::BTreeSet;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads the text; what cannot be read is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut all = BTreeSet::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                all.extend(first..=last);
            }
        }
        Self(all)
    }

    /// Those below a number.
    pub(super) fn below(mut self, end: i32) -> Self {
        self.0.retain(|index| *index < end);
        self
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// Says whether it is new.
    pub(super) fn insert(&mut self, index: i32) -> bool {
        self.0.insert(index)
    }

    /// How many are in both.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        let mut numbers = self.0.iter().copied().peekable();
        while let Some(first) = numbers.next() {
            let mut last = first;
            while numbers.peek() == Some(&(last + 1)) {
                last += 1;
                numbers.next();
            }
            match last - first {
                0 => parts.push(first.to_string()),
                1 => parts.extend([first.to_string(), last.to_string()]),
                _ => parts.push(format!("{first}-{last}")),
            }
        }
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_or_more_in_a_row_are_a_range() {
        assert_eq!(Indexes([1, 3, 4, 5, 7].into()).to_string(), "1,3-5,7");
        assert_eq!(Indexes([1, 2].into()).to_string(), "1,2");
        assert_eq!(Indexes::default().to_string(), "");
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(set in prop::collection::btree_set(0..200i32, 0..60)) {
            let indexes = Indexes(set);
            prop_assert_eq!(Indexes::parse(&indexes.to_string()), indexes);
        }
    }
}

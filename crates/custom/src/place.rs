//! Where a value stands in an object, as messages say it: `spec.list[0].map[key]`; empty for the object itself. A place that
//! is absurdly long is not told in full.

use orlop_api::field_path::{cut, longer};

/// A field of what stands at `path`.
pub(crate) fn child(path: &str, key: &str) -> String {
    if path.is_empty() {
        let mut key = key.to_string();
        cut(&mut key);
        key
    } else {
        longer(path, format_args!(".{key}"))
    }
}

/// An entry of the list at `path`.
pub(crate) fn index(path: &str, at: usize) -> String {
    longer(path, format_args!("[{at}]"))
}

/// An entry of the map at `path`.
pub(crate) fn entry(path: &str, key: &str) -> String {
    longer(path, format_args!("[{key}]"))
}

/// As messages name it.
pub(crate) fn shown(path: &str) -> String {
    if path.is_empty() { "<nil>".to_string() } else { path.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_in_full_unless_it_is_absurdly_long() {
        assert_eq!(entry(&index(&child(&child("", "spec"), "list"), 3), "k"), "spec.list[3][k]");
        let long = child("", &"é".repeat(100_000));
        assert!(long.starts_with("é") && long.ends_with("é...") && long.len() < 5000);
        assert_eq!(child(&long, "a"), long);
    }
}

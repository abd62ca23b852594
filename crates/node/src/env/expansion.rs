//! `$(VAR)` in variables, commands and arguments (Kubernetes documentation, "Define Dependent Environment Variables").

/// Replaces `$(NAME)` by what `find` knows, leaves it as it is where nothing is known, and turns `$$` into `$`, so that
/// `$$(NAME)` stays `$(NAME)`.
pub(crate) fn expand<'a>(text: &str, find: impl Fn(&str) -> Option<&'a String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match find(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn references_are_replaced_and_everything_else_is_left() {
        let known: BTreeMap<String, String> =
            [("A", "a"), ("EMPTY", ""), ("REF", "$(A)")].map(|(k, v)| (k.into(), v.into())).into();
        for (given, expected) in [
            ("$(A)", "a"),
            ("x-$(A)-$(A)", "x-a-a"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$$", "$"),
            ("$()", "$()"),
            ("$(REF)", "$(A)"),
            ("a)$(A)b", "a)ab"),
            ("é$(A)ü", "éaü"),
        ] {
            assert_eq!(expand(given, |n| known.get(n)), expected, "{given}");
        }
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_never_changes(text in "[^$]*") {
            prop_assert_eq!(expand(&text, |_| None), text);
        }
    }
}

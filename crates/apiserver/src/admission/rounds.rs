//! Who is asked again once others have changed the object (`reinvocationPolicy: IfNeeded` of mutating policies and webhooks,
//! Kubernetes documentation, "Reinvocation policy"): each at most once more. Pure.

/// A round of asking, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Everybody.
    First,
    /// Those that wish so and have not seen the last change.
    Again {
        /// Those before this place have not.
        unseen: usize,
    },
}

impl Round {
    /// The round after one in which the last change came from the place `last`, and `others` changed the object after it.
    pub(super) fn after(last: Option<usize>, others: bool) -> Self {
        Self::Again { unseen: if others { usize::MAX } else { last.unwrap_or(0) } }
    }

    /// Whether the one at a place is asked. `wishes` tells whether it was asked before and wants to be again, `changed` whether
    /// somebody has changed the object in this round.
    pub(super) fn asks(self, at: usize, wishes: bool, changed: bool) -> bool {
        match self {
            Self::First => true,
            Self::Again { unseen } => wishes && (at < unseen || changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_seen_the_last_change_is_asked_again() {
        let asked =
            |round: Round, changed| (0..4).map(|at| round.asks(at, true, changed)).collect::<Vec<_>>();
        assert_eq!(asked(Round::First, false), [true; 4]);
        assert_eq!(asked(Round::after(Some(2), false), false), [true, true, false, false]);
        assert_eq!(asked(Round::after(None, false), false), [false; 4]);
        assert_eq!(asked(Round::after(None, true), false), [true; 4]);
        assert_eq!(asked(Round::after(None, false), true), [true; 4]);
        assert!(!Round::after(None, true).asks(0, false, true));
    }
}

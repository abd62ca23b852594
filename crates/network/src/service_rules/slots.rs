//! How endpoints share the slots that a packet draws from. Pure.

use crate::{Endpoint, family::Family};
use std::{collections::BTreeMap, net::IpAddr};

/// Address and port of an endpoint.
pub(crate) type Backend = (IpAddr, u16);
/// How many slots each endpoint has.
pub(super) type Shares = BTreeMap<Backend, u16>;

/// The slots that the endpoints of a family should have: in relation to their weights, and as few as that allows.
pub(super) fn shares(family: Family, endpoints: &[Endpoint]) -> Shares {
    let ours = endpoints.iter().filter(|endpoint| Family::of(endpoint.to.ip()) == family);
    let mut shares: Shares = ours
        .map(|endpoint| {
            let weight = endpoint.weight.clamp(1, Endpoint::MAX_WEIGHT);
            ((endpoint.to.ip(), endpoint.to.port()), weight)
        })
        .collect();
    let divisor = shares.values().copied().fold(0, greatest_common_divisor).max(1);
    shares.values_mut().for_each(|share| *share /= divisor);
    shares
}

fn greatest_common_divisor(one: u16, other: u16) -> u16 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// Puts endpoints into slots 0.. so that those that were there keep their slots wherever that leaves no hole.
pub(super) fn arrange(before: &[Backend], shares: &Shares) -> Vec<Backend> {
    let total = shares.values().map(|share| usize::from(*share)).sum();
    let mut left = shares.clone();
    let mut slots: Vec<Option<Backend>> = vec![None; total];
    for (slot, backend) in slots.iter_mut().zip(before) {
        if let Some(left) = left.get_mut(backend).filter(|left| **left > 0) {
            *left -= 1;
            *slot = Some(*backend);
        }
    }
    let mut rest = left.into_iter().flat_map(|(backend, left)| std::iter::repeat_n(backend, left.into()));
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(last: u8, weight: u16) -> Endpoint {
        Endpoint { weight, ..Endpoint::new(([10, 42, 0, last], 80).into(), true) }
    }

    #[test]
    fn weights_are_shares_in_lowest_terms_and_never_nothing() {
        let counts = |weights: &[u16]| -> Vec<u16> {
            let endpoints: Vec<Endpoint> =
                (1..).zip(weights).map(|(last, weight)| endpoint(last, *weight)).collect();
            shares(Family::V4, &endpoints).into_values().collect()
        };
        assert_eq!(counts(&[1, 1, 1]), [1, 1, 1]);
        assert_eq!(counts(&[100, 100]), [1, 1]);
        assert_eq!(counts(&[10, 30, 20]), [1, 3, 2]);
        assert_eq!(counts(&[0, 65535]), [1, 100]);
        assert!(shares(Family::V6, &[endpoint(1, 1)]).is_empty());
    }

    proptest! {
        #[test]
        fn every_endpoint_has_its_share_and_slots_that_can_stay_stay(
            old in proptest::collection::btree_map(0u8..8, 1u16..5, 0..6),
            new in proptest::collection::btree_map(0u8..8, 1u16..5, 0..6),
        ) {
            let backend = |last: u8| (IpAddr::from([10, 42, 0, last]), 80);
            let of = |map: &BTreeMap<u8, u16>| -> Shares { map.iter().map(|(last, share)| (backend(*last), *share)).collect() };
            let before = arrange(&[], &of(&old));
            let after = arrange(&before, &of(&new));
            let mut counted = Shares::new();
            for backend in &after {
                *counted.entry(*backend).or_default() += 1;
            }
            prop_assert_eq!(&counted, &of(&new));
            let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
            let lost = before.iter().take(after.len()).filter(|old| !counted.contains_key(*old)).count();
            let fewer: usize = old.iter().map(|(last, share)| usize::from(share.saturating_sub(new.get(last).copied().unwrap_or(0)))).sum();
            prop_assert!(moved <= lost.max(fewer), "{:?} {:?}", before, after);
        }
    }
}

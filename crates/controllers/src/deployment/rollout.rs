//! How far each ReplicaSet of a Deployment should be scaled now: pure arithmetic over what is there (Kubernetes
//! documentation, "Deployments", "Strategy" and "Proportional scaling"). It knows nothing of the API.

/// A ReplicaSet as the arithmetic sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    /// `spec.replicas`.
    pub replicas: i32,
    /// `status.availableReplicas`.
    pub available: i32,
    /// Its creation, for "older" and "newer".
    pub created: i64,
    /// The annotation `deployment.kubernetes.io/max-replicas`: the Deployment's size with surge when this set was last scaled.
    pub max_replicas: Option<i32>,
}

/// The numbers of a Deployment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// `spec.replicas`.
    pub replicas: i32,
    /// How many pods more than that there may be.
    pub surge: i32,
    /// How many of them may be missing.
    pub unavailable: i32,
}

impl Wanted {
    /// Resolves percentages: surge is rounded up, unavailable down; both zero would never move, so then one may be missing.
    pub(super) fn new(replicas: i32, surge: i32, unavailable: i32) -> Self {
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        Self { replicas, surge, unavailable }
    }
}

fn total(sets: &[Set]) -> i32 {
    sets.iter().map(|s| s.replicas).sum()
}

/// Size of a new set that `existing` pods stand beside, its own included; `now` is what it has.
pub(super) fn new_set_size(wanted: Wanted, existing: i32, now: i32) -> i32 {
    let room = wanted.replicas + wanted.surge - existing;
    if room <= 0 {
        return now;
    }
    (now + room).min(wanted.replicas).max(now)
}

/// Sizes of the old sets in the next step of a rolling update, in their order; `new` is the set that replaces them.
pub(super) fn shrink_old(wanted: Wanted, new: &Set, old: &[Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|s| s.replicas).collect();
    let min_available = wanted.replicas - wanted.unavailable;
    let new_unavailable = new.replicas - new.available;
    let mut may_go = total(old) + new.replicas - min_available - new_unavailable;
    if may_go <= 0 {
        return sizes;
    }
    let mut oldest_first: Vec<usize> = (0..old.len()).collect();
    oldest_first.sort_by_key(|i| old[*i].created);
    // Those that serve nobody go first.
    for &i in &oldest_first {
        let unhealthy = (old[i].replicas - old[i].available).max(0).min(may_go);
        sizes[i] -= unhealthy;
        may_go -= unhealthy;
    }
    // Of the healthy ones, as many as are above what must be available.
    let available: i32 = new.available + old.iter().map(|s| s.available).sum::<i32>();
    let mut healthy = (available - min_available).max(0).min(may_go);
    for &i in &oldest_first {
        let goes = sizes[i].min(healthy);
        sizes[i] -= goes;
        healthy -= goes;
    }
    sizes
}

/// Sizes when the Deployment was resized in the middle of a rollout: growth or shrinkage is shared in proportion.
pub(super) fn proportional(wanted: Wanted, sets: &[Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = sets.iter().map(|s| s.replicas).collect();
    let allowed = if wanted.replicas > 0 { wanted.replicas + wanted.surge } else { 0 };
    let to_add = allowed - total(sets);
    if to_add == 0 {
        return sizes;
    }
    let mut order: Vec<usize> = (0..sets.len()).filter(|i| sets[*i].replicas > 0).collect();
    // Larger sets first; among equals the newer one grows first and the older one shrinks first.
    order.sort_by_key(|i| {
        let s = &sets[*i];
        (-s.replicas, if to_add > 0 { -s.created } else { s.created })
    });
    let mut added = 0;
    for &i in &order {
        let set = &sets[i];
        let base = set.max_replicas.filter(|m| *m > 0).unwrap_or(wanted.replicas.max(1));
        let share = if wanted.replicas == 0 {
            -set.replicas
        } else {
            let exact = f64::from(set.replicas) * f64::from(allowed) / f64::from(base);
            exact.round() as i32 - set.replicas
        };
        let left = to_add - added;
        let share = if to_add > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        sizes[i] += share;
        added += share;
    }
    // What rounding left over goes to the first that can take it.
    for &i in &order {
        let rest = (to_add - added).max(-sizes[i]);
        sizes[i] += rest;
        added += rest;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(replicas: i32, available: i32, created: i64) -> Set {
        Set { replicas, available, created, max_replicas: None }
    }

    #[test]
    fn a_new_set_takes_the_room_that_surge_leaves() {
        let wanted = Wanted::new(10, 3, 2);
        assert_eq!(new_set_size(wanted, 10, 0), 3);
        assert_eq!(new_set_size(wanted, 13, 3), 3);
        assert_eq!(new_set_size(wanted, 11, 3), 5);
        assert_eq!(new_set_size(wanted, 0, 0), 10);
    }

    #[test]
    fn old_sets_shrink_by_what_may_be_unavailable_and_the_unhealthy_go_first() {
        let wanted = Wanted::new(10, 0, 2);
        assert_eq!(shrink_old(wanted, &set(0, 0, 9), &[set(10, 10, 1)]), [8]);
        assert_eq!(shrink_old(wanted, &set(2, 0, 9), &[set(8, 8, 1)]), [8], "the new ones are not there yet");
        assert_eq!(shrink_old(wanted, &set(2, 2, 9), &[set(8, 8, 1)]), [6]);
        assert_eq!(shrink_old(Wanted::new(10, 2, 0), &set(0, 0, 9), &[set(10, 7, 1), set(2, 2, 2)]), [8, 2]);
    }

    #[test]
    fn resizing_during_a_rollout_is_shared_in_proportion() {
        // The example of the documentation: 10 replicas, surge 3, stuck at 8 + 5, resized to 15.
        let sets =
            [Set { max_replicas: Some(13), ..set(8, 8, 1) }, Set { max_replicas: Some(13), ..set(5, 0, 2) }];
        assert_eq!(proportional(Wanted::new(15, 3, 2), &sets), [11, 7]);
        assert_eq!(proportional(Wanted::new(0, 3, 2), &sets), [0, 0]);
    }

    fn sets() -> impl Strategy<Value = Vec<Set>> {
        prop::collection::vec((0..30i32, 0..30i32, 0..100i64), 1..5)
            .prop_map(|v| v.into_iter().map(|(r, a, c)| set(r, a.min(r), c)).collect())
    }

    proptest! {
        #[test]
        fn a_step_never_takes_healthy_pods_below_what_must_be_available(
            all in sets(), replicas in 0..40i32, surge in 0..10i32, unavailable in 0..10i32
        ) {
            let wanted = Wanted::new(replicas, surge, unavailable);
            let (new, old) = all.split_first().expect("at least one");
            let sizes = shrink_old(wanted, new, old);
            let before: i32 = all.iter().map(|s| s.available).sum();
            let after: i32 = new.available
                + old.iter().zip(&sizes).map(|(s, size)| s.available.min(*size)).sum::<i32>();
            let floor = (wanted.replicas - wanted.unavailable).min(before);
            prop_assert!(after >= floor, "{before} -> {after}, floor {floor}");
            prop_assert!(sizes.iter().zip(old).all(|(size, s)| *size >= 0 && *size <= s.replicas));
        }

        #[test]
        fn proportional_scaling_reaches_the_allowed_size(
            all in sets(), replicas in 0..40i32, surge in 0..10i32
        ) {
            let wanted = Wanted::new(replicas, surge, 0);
            prop_assume!(all.iter().any(|s| s.replicas > 0));
            let allowed = if replicas > 0 { replicas + surge } else { 0 };
            let sizes = proportional(wanted, &all);
            prop_assert_eq!(sizes.iter().sum::<i32>(), allowed);
            prop_assert!(sizes.iter().all(|s| *s >= 0));
        }
    }
}

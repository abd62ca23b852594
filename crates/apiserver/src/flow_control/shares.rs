//! How many seats each priority level has: its share of the server's, and what levels lend each other (Kubernetes documentation,
//! "API Priority and Fairness", "Priority levels"). Pure arithmetic.

/// What a level is configured with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// `nominalConcurrencyShares`.
    pub shares: u32,
    /// `lendablePercent`.
    pub lendable: u32,
    /// `borrowingLimitPercent`, where there is one.
    pub borrowing: Option<u32>,
}

/// Between which numbers a level's seats lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// What its shares are worth.
    pub nominal: usize,
    /// What it keeps whatever others need.
    pub least: usize,
    /// What it can have if others lend it theirs.
    pub most: usize,
}

fn percent(of: usize, percent: u32) -> usize {
    (of as f64 * f64::from(percent) / 100.0).round() as usize
}

/// The bounds of all levels, of `total` seats.
pub(super) fn bounds(total: usize, shares: &[Share]) -> Vec<Bounds> {
    let sum: f64 = shares.iter().map(|s| f64::from(s.shares)).sum();
    let bounds = |share: &Share| {
        let nominal =
            if sum > 0.0 { (total as f64 * f64::from(share.shares) / sum).ceil() as usize } else { 0 };
        let most = share.borrowing.map_or(total, |limit| nominal.saturating_add(percent(nominal, limit)));
        Bounds {
            nominal,
            least: nominal - percent(nominal, share.lendable.min(100)),
            most: most.clamp(nominal, total.max(nominal)),
        }
    };
    shares.iter().map(bounds).collect()
}

/// What a level had to do lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    pub bounds: Bounds,
    /// The most seats that were wanted at once since the last time.
    pub high: usize,
    /// The same, over a longer time.
    pub smooth: f64,
}

impl Demand {
    /// Nobody takes from a level what it needs of its own.
    fn floor(&self) -> usize {
        self.bounds.least.max(self.bounds.nominal.min(self.high))
    }

    fn seats(&self, fraction: f64) -> usize {
        let target = (self.floor() as f64).max(self.smooth);
        ((target * fraction) as usize).clamp(self.floor(), self.bounds.most.max(self.floor()))
    }
}

/// The demand over a longer time: it rises at once and falls slowly.
pub(super) fn smooth(before: f64, high: usize) -> f64 {
    let high = high as f64;
    high.max(0.977 * before + 0.023 * high)
}

/// The seats of all levels until the next time: each has what it needs of its own, and what is left is lent by what was wanted.
pub(super) fn allot(total: usize, levels: &[Demand]) -> Vec<usize> {
    let sum = |fraction: f64| levels.iter().map(|l| l.seats(fraction)).sum::<usize>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < total && high < 1e9 {
        high *= 2.0;
    }
    // Sums grow with the fraction: halving finds the largest that fits.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if sum(middle) <= total { low = middle } else { high = middle }
    }
    levels.iter().map(|l| l.seats(low)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(shares: u32, lendable: u32, borrowing: Option<u32>) -> Share {
        Share { shares, lendable, borrowing }
    }

    #[test]
    fn shares_divide_the_seats() {
        let found = bounds(
            600,
            &[share(30, 33, None), share(100, 90, Some(50)), share(0, 0, None), share(20, 0, Some(0))],
        );
        assert_eq!(found[0], Bounds { nominal: 120, least: 80, most: 600 });
        assert_eq!(found[1], Bounds { nominal: 400, least: 40, most: 600 });
        assert_eq!(found[2], Bounds { nominal: 0, least: 0, most: 600 });
        assert_eq!(found[3], Bounds { nominal: 80, least: 80, most: 80 });
        assert_eq!(bounds(600, &[share(0, 0, None)])[0].nominal, 0);
    }

    #[test]
    fn what_nobody_needs_is_lent_and_comes_back() {
        let both = bounds(100, &[share(1, 80, None), share(1, 80, None)]);
        let demand = |at: usize, high: usize| Demand { bounds: both[at], high, smooth: smooth(0.0, high) };
        assert_eq!(allot(100, &[demand(0, 500), demand(1, 0)]), [90, 10]);
        assert_eq!(allot(100, &[demand(0, 500), demand(1, 30)]), [70, 30]);
        assert_eq!(allot(100, &[demand(0, 500), demand(1, 500)]), [50, 50]);
        let idle = allot(100, &[demand(0, 0), demand(1, 0)]);
        assert_eq!(idle, [50, 50]);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        assert_eq!(smooth(1.0, 50), 50.0);
        let later = smooth(50.0, 0);
        assert!(later > 48.0 && later < 50.0, "{later}");
    }

    proptest! {
        #[test]
        fn nobody_gets_less_than_it_keeps_or_more_than_it_may(
            shares in proptest::collection::vec((0u32..200, 0u32..=100, proptest::option::of(0u32..300), 0usize..2000), 1..12),
            total in 1usize..2000,
        ) {
            let config: Vec<Share> = shares.iter().map(|(s, l, b, _)| share(*s, *l, *b)).collect();
            let bounds = bounds(total, &config);
            let levels: Vec<Demand> = bounds
                .iter()
                .zip(&shares)
                .map(|(bounds, (.., high))| Demand { bounds: *bounds, high: *high, smooth: *high as f64 })
                .collect();
            let seats = allot(total, &levels);
            for (level, seats) in levels.iter().zip(&seats) {
                prop_assert!(*seats >= level.floor() && *seats >= level.bounds.least);
                prop_assert!(*seats <= level.bounds.most.max(level.floor()));
            }
            let floors: usize = levels.iter().map(Demand::floor).sum();
            prop_assert!(seats.iter().sum::<usize>() <= total.max(floors));
        }
    }
}

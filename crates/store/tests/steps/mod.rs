//! Random steps for the model of the suite.

use orlop_store::suite::model::{Expected, Step};
use proptest::prelude::*;

pub fn step() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        1 => Just(Expected::Absent),
        1 => Just(Expected::Present),
        4 => Just(Expected::Same),
        1 => (0_u8..6).prop_map(Expected::Ago),
    ];
    let conditions = proptest::collection::vec((0_usize..8, expected), 0..3);
    let writes = proptest::collection::vec((0_usize..8, proptest::option::weighted(0.7, any::<u8>())), 0..4);
    prop_oneof![
        12 => (conditions, writes).prop_map(|(conditions, writes)| Step::Commit { conditions, writes }),
        6 => (0_usize..7, proptest::option::of(0_usize..8), proptest::option::of(-1_i8..20), 0_usize..5)
            .prop_map(|(prefix, after, back, limit)| Step::List { prefix, after, back, limit }),
        1 => (-1_i8..20).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

//! A short run of every fuzz target: its seeds, and a fixed number of mutations of them, the same in every run.

use orlop_fuzz::{
    Target,
    mutate::{Dice, mutation, words},
    targets,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn drive(name: &str) {
    let target = Target::named(name).expect("a target");
    let seeds = target.seeds().expect("seeds");
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let try_one = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
            let file = std::env::temp_dir().join(format!("orlop-fuzz-{name}-{}", std::process::id()));
            std::fs::write(&file, input).expect("written");
            panic!("{name} does not keep its promise for the input in {}", file.display());
        }
    };
    seeds.iter().for_each(|seed| try_one(seed));
    let words = words(&seeds);
    // For longer runs by hand, and other ones.
    let asked = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let mut dice = Dice::new(asked("ORLOP_FUZZ_SEED").unwrap_or(name.len() as u64));
    for _ in 0..asked("ORLOP_FUZZ_TRIES").map_or(target.tries, |n| n as usize) {
        try_one(&mutation(&mut dice, &seeds, &words));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        mod no_input_breaks {
            $(#[test] fn $name() { super::drive(stringify!($name)); })*
        }
    };
}

targets! {
    bodies json_patch strategic_merge apply selectors scalars custom_resources cel spdy channels log_lines
    store_log archives image_documents certificates dns requests
}

#[test]
fn every_target_is_tested() {
    let all: Vec<&str> = targets::ALL.iter().map(|t| t.name).collect();
    assert_eq!(all, TESTED);
}

//! The program that libFuzzer drives: runs the target that `ORLOP_FUZZ_TARGET` names. Made and started by `fuzz.sh`.
#![no_main]

use orlop_fuzz::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("ORLOP_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("ORLOP_FUZZ_TARGET={name:?} is no target"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));

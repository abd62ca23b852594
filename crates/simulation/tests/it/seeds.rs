//! Clusters live through what seeds draw. Other seeds, and a closer look at one that fails: `src/bin/campaign.rs`.

use std::process::{Command, Output};

/// How many seeds a test lives through: 200 in all, of lives that are short,
const BLOCK: u64 = 25;
const ACTS: &str = "3";
/// and some of as many acts as the campaign has, if nobody says otherwise.
const LONG_BLOCK: u64 = 5;

fn campaign(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_campaign")).args(["--jobs", "1"]).args(arguments).output().unwrap()
}

fn live_through(block: u64, size: u64, more: &[&str]) {
    let seeds = format!("{}..{}", block * size, (block + 1) * size);
    let output = campaign(&[&["--seeds", &seeds], more].concat());
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "see it again with cargo run -p orlop-simulation --bin campaign -- …\n{told}"
    );
    assert_eq!(told.matches("history").count() as u64, size, "{told}");
}

#[test]
fn a_seed_gives_the_same_history_again_and_another_gives_another() {
    let life = |seed| {
        let output = campaign(&["--acts", "8", "--seeds", seed]);
        let told = String::from_utf8(output.stdout).unwrap();
        told.split_once("history ").map(|(_, history)| history.trim().to_string()).unwrap()
    };
    let first = life("2");
    assert_eq!(first, life("2"));
    assert_ne!(first, life("3"));
}

#[test]
fn a_campaign_says_what_it_does_not_understand() {
    let output = campaign(&["--seeds", "some"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not like 7, 3,5 or 0..100"));
}

macro_rules! blocks {
    ($size:expr, $more:expr, $($name:ident: $number:expr,)+) => {
        $(#[test]
        fn $name() {
            live_through($number, $size, $more);
        })+
    };
}

blocks! {
    BLOCK, &["--acts", ACTS],
    clusters_live_through_the_seeds_from_0: 0,
    clusters_live_through_the_seeds_from_25: 1,
    clusters_live_through_the_seeds_from_50: 2,
    clusters_live_through_the_seeds_from_75: 3,
    clusters_live_through_the_seeds_from_100: 4,
    clusters_live_through_the_seeds_from_125: 5,
    clusters_live_through_the_seeds_from_150: 6,
    clusters_live_through_the_seeds_from_175: 7,
}

blocks! {
    LONG_BLOCK, &[],
    clusters_live_through_some_seeds_at_length: 0,
}

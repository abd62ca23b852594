//! Lives through many seeds, on as many processors as there are, and prints what went wrong and how to see it again.
//!
//! `cargo run -p orlop-simulation --bin campaign --release -- [--seeds FIRST..END | --seeds SEED,SEED] [--acts N] [--jobs N] [--trace]`
//!
//! Each seed lives in a process of its own, where nothing before it has left a trace, and where hash tables are ordered alike every time:
//! the standard library asks the C library's `getrandom` for the keys of its hash tables, and in this program that answers with numbers
//! that follow from the seed. The product has its keys from the kernel.
#![allow(
    unsafe_code,
    reason = "a function of the C library is replaced; there is no other way to std's hash keys"
)]

use orlop_simulation::proof::{Plan, live, seeds};
use parking_lot::Mutex;
use std::{
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};

/// What `getrandom` says next.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// getrandom(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: as for the function that it replaces, the caller hands in a place of that length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    for byte in bytes {
        let last = NEXT.load(Ordering::Relaxed);
        let next = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        NEXT.store(next, Ordering::Relaxed);
        *byte = (next >> 56) as u8;
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

/// What is asked for on the command line.
struct Arguments {
    seeds: Vec<u64>,
    acts: u64,
    jobs: usize,
    trace: bool,
    /// This process is to live through its one seed itself.
    alone: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seeds: (0..1000).collect(),
        acts: Plan::ACTS,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        trace: false,
        alone: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => {
                let text = value()?;
                arguments.seeds = seeds(&text).ok_or(format!("{text:?} is not like 7, 3,5 or 0..100"))?;
            }
            "--acts" => arguments.acts = value()?.parse().map_err(|e| format!("--acts: {e}"))?,
            "--jobs" => arguments.jobs = value()?.parse().map_err(|e| format!("--jobs: {e}"))?,
            "--trace" => arguments.trace = true,
            "--alone" => arguments.alone = true,
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if let (true, Some(seed)) = (arguments.alone, arguments.seeds.first()) {
        return alone(Plan { seed: *seed, acts: arguments.acts, trace: arguments.trace });
    }
    let (next, failed, start) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
    let jobs = if arguments.trace { 1 } else { arguments.jobs.max(1) };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(seed) = arguments.seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !live_apart(*seed, &arguments) {
                        println!("  again: --seeds {seed} --acts {} --trace", arguments.acts);
                        failed.lock().push(*seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    eprintln!(
        "{} seeds in {:.1?}, {} failed: {failed:?}",
        arguments.seeds.len(),
        start.elapsed(),
        failed.len()
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}

/// Lives through a seed in this process.
fn alone(plan: Plan) -> ExitCode {
    NEXT.store(plan.seed, Ordering::Relaxed);
    // A thread of its own: the main thread has drawn its keys by now. Deep futures of debug builds need room.
    let life = std::thread::Builder::new().stack_size(16 << 20).spawn(move || live(plan));
    let outcome = match life.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(outcome))) => outcome,
        Ok(Ok(Err(error))) => {
            println!("seed {}: the world did not begin: {error}", plan.seed);
            return ExitCode::FAILURE;
        }
        _ => {
            println!("seed {}: the simulation panicked", plan.seed);
            return ExitCode::FAILURE;
        }
    };
    println!("seed {}: {outcome}", plan.seed);
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

/// Lives through a seed in a process of its own. Whether all was well.
fn live_apart(seed: u64, arguments: &Arguments) -> bool {
    let Ok(program) = std::env::current_exe() else { return false };
    let mut command = Command::new(program);
    command.args(["--alone", "--seeds", &seed.to_string(), "--acts", &arguments.acts.to_string()]);
    if arguments.trace {
        command.arg("--trace").stderr(Stdio::inherit());
    }
    match command.stdout(Stdio::piped()).spawn().and_then(std::process::Child::wait_with_output) {
        Ok(output) => {
            // In one piece, whoever else prints.
            print!("{}", String::from_utf8_lossy(&output.stdout));
            output.status.success()
        }
        Err(error) => {
            println!("seed {seed}: {error}");
            false
        }
    }
}

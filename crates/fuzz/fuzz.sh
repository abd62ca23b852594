#!/bin/sh
# Fuzzes one target with libFuzzer on the stable toolchain: crates/fuzz/fuzz.sh TARGET [libFuzzer's options]
# What it finds new is kept in the cache, not among the seeds: crates/fuzz/fuzz.sh cel -max_total_time=600
# A finding is written to the folder it is started in; give its file instead of options to run it again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$1
shift
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$here/../../target}" RUSTC_WORKSPACE_WRAPPER="$here/instrument.sh"
cargo build --quiet --locked --package orlop-fuzz --features libfuzzer --bin orlop-libfuzzer
found="${XDG_CACHE_HOME:-$HOME/.cache}/orlop-fuzz/$target"
mkdir -p "$found"
export ORLOP_FUZZ_TARGET="$target"
set -- -timeout=10 -rss_limit_mb=2048 -max_len=16384 "$@"
for last; do :; done
[ -f "$last" ] || set -- "$@" "$found" "$here/corpus/$target"
exec "$CARGO_TARGET_DIR/debug/orlop-libfuzzer" "$@"

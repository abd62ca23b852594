#!/bin/sh
# rustc for our own crates, with the coverage counters that libFuzzer reads; what cargo builds for itself stays as it is.
case " $* " in
*" --crate-type proc-macro "* | *" build_script_"* | *" --print "* | *" -vV "*) exec "$@" ;;
esac
exec "$@" -Copt-level=1 -Cdebug-assertions=on -Coverflow-checks=on -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares

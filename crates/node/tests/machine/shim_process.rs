//! The process that tests start as a shim.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(|verb| verb.to_str()) {
        Some("shim") => orlop_runtime::shim::main(arguments),
        _ => ExitCode::from(2),
    }
}

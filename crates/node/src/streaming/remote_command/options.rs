//! Which streams a client of exec or attach wants. Pure.

use super::super::{request::Query, response::Refusal};

/// The wanted streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    /// Never with a terminal, which has one output only.
    pub stderr: bool,
    pub tty: bool,
}

impl Streams {
    /// Reads the kubelet's names (`input`, `output`, `error`) and those of core/v1 `PodExecOptions` (`stdin`, …).
    pub fn parse(query: &Query) -> Result<Self, Refusal> {
        let tty = query.flag("tty");
        let streams = Self {
            stdin: query.flag("input") || query.flag("stdin"),
            stdout: query.flag("output") || query.flag("stdout"),
            stderr: (query.flag("error") || query.flag("stderr")) && !tty,
            tty,
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(streams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read_and_a_terminal_has_no_stderr() {
        let parse = |q| Streams::parse(&Query::parse(q)).ok();
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(parse("input=1&output=1&error=1"), Some(all));
        assert_eq!(parse("stdin=true&stdout=true&stderr=true"), Some(all));
        assert_eq!(
            parse("input=1&output=1&error=1&tty=1"),
            Some(Streams { stderr: false, tty: true, ..all })
        );
        assert_eq!(parse("error=1&tty=1"), None);
        assert_eq!(parse("command=ls"), None);
    }
}

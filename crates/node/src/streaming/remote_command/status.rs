//! What a client is told at the end: a `Status` (meta/v1) in JSON, or for the oldest protocols plain text. Pure.

use super::Verb;
use bytes::Bytes;
use orlop_runtime::{Error, ExitStatus};
use serde_json::json;

/// The last message, for the error channel; none if the protocol has nothing to say about success.
pub fn last_words(version: u8, verb: Verb, outcome: &Result<ExitStatus, Error>) -> Option<Bytes> {
    let failure = match outcome {
        // How the main process ended stands in the pod's status; who was attached to it has succeeded.
        Ok(exit) if exit.code == 0 || verb == Verb::Attach => None,
        Ok(exit) => Some(non_zero(exit.code)),
        Err(e) => Some(internal(verb, e)),
    };
    match failure {
        None if version >= 4 => Some(json!({ "metadata": {}, "status": "Success" }).to_string().into()),
        None => None,
        Some(status) if version >= 4 => Some(status.to_string().into()),
        Some(status) => status["message"].as_str().map(|text| Bytes::copy_from_slice(text.as_bytes())),
    }
}

fn non_zero(code: i32) -> serde_json::Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn internal(verb: Verb, error: &Error) -> serde_json::Value {
    let doing = match verb {
        Verb::Exec => "error executing command in container",
        Verb::Attach => "error attaching to container",
    };
    let mut why = format!("{doing}: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        why = format!("{why}: {e}");
        cause = e.source();
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": why }] },
        "code": 500,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: u8, verb: Verb, outcome: Result<ExitStatus, Error>) -> Option<String> {
        last_words(version, verb, &outcome).map(|b| String::from_utf8(b.to_vec()).expect("text"))
    }

    #[test]
    fn an_exit_code_is_a_failure_with_its_cause() {
        let status = said(4, Verb::Exec, Ok(ExitStatus { code: 7 })).expect("a status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": "7" }]));
        let text = said(1, Verb::Exec, Ok(ExitStatus { code: 7 }));
        assert_eq!(text.as_deref(), Some("command terminated with non-zero exit code: exit status 7"));
    }

    #[test]
    fn success_is_said_by_new_protocols_only() {
        let ok = || Ok(ExitStatus { code: 0 });
        assert_eq!(said(5, Verb::Exec, ok()).as_deref(), Some(r#"{"metadata":{},"status":"Success"}"#));
        assert_eq!(said(1, Verb::Exec, ok()), None);
        assert!(said(4, Verb::Attach, Ok(ExitStatus { code: 3 })).is_some_and(|s| s.contains("Success")));
    }

    #[test]
    fn what_could_not_start_is_told_with_its_reason() {
        let error = Error::Start("exec: \"nope\": executable file not found in $PATH".into());
        let status = said(5, Verb::Exec, Err(error)).expect("a status");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        assert_eq!(status["code"], 500);
        let want = "Internal error occurred: error executing command in container: exec: \"nope\": executable file not found in $PATH";
        assert_eq!(status["message"], want);
    }
}

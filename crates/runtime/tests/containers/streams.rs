use crate::machine::Machine;
use orlop_runtime::{ContainerRuntime, Error, ExecSpec, LogLimits, Session, TerminalSize};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn exec_spec(script: &str, tty: bool) -> ExecSpec {
    let command = ["sh", "-c", script].map(String::from).to_vec();
    ExecSpec { command, tty, stdin: true, stdout: true, stderr: true }
}

async fn all(session: &mut Session) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    if let Some(mut stderr) = session.stderr.take() {
        stderr.read_to_string(&mut err).await.unwrap();
    }
    (out, err)
}

async fn read_until(session: &mut Session, text: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 256];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let read = session.stdout.as_mut().unwrap().read(&mut buffer);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        assert!(read > 0, "ended after {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_command_has_its_own_streams_and_code() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    let mut session =
        ContainerRuntime::exec(&*machine, "c", exec_spec("cat; echo oops >&2; exit 4", false)).await.unwrap();
    let text = "x".repeat(300_000);
    let mut stdin = session.stdin.take().unwrap();
    let sent = text.clone();
    let writing = tokio::spawn(async move { stdin.write_all(sent.as_bytes()).await });
    let (out, err) = all(&mut session).await;
    writing.await.unwrap().unwrap();
    assert_eq!((out == text, err.as_str()), (true, "oops\n"));
    assert_eq!(session.exit.await.unwrap().code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executed_command_may_have_a_terminal_that_can_be_resized() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    let script =
        "trap 'stty size; exit 9' WINCH; test -t 0 && echo terminal; tty; while :; do sleep 0.05; done";
    let mut session = ContainerRuntime::exec(&*machine, "c", exec_spec(script, true)).await.unwrap();
    let seen = read_until(&mut session, "/dev/pts/").await;
    assert!(seen.contains("terminal\r\n"), "{seen}");
    session.resize.send(TerminalSize { width: 101, height: 33 }).await.unwrap();
    let (out, _) = all(&mut session).await;
    assert!(out.contains("33 101"), "{out}");
    assert_eq!(session.exit.await.unwrap().code, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_there_says_so() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    let spec = ExecSpec { command: vec!["none".into()], stdout: true, ..ExecSpec::default() };
    let error = ContainerRuntime::exec(&*machine, "c", spec).await.err().unwrap();
    assert_eq!(error.to_string(), r#"exec: "none": executable file not found in $PATH"#);
    assert!(matches!(error, Error::Start(_)));
    machine.stop_container("c", Duration::ZERO).await.unwrap();
    let error = ContainerRuntime::exec(&*machine, "c", exec_spec("true", false)).await.err().unwrap();
    assert!(matches!(error, Error::State(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_gets_output_and_code_and_is_killed_when_it_takes_too_long() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine.start(machine.container_spec("c", "s", "sleep 100")).await;
    let command = |script: &str| ["sh", "-c", script].map(String::from).to_vec();
    let long = Duration::from_secs(30);
    let output = machine.exec_sync("c", command("echo a; echo b >&2; exit 2"), long).await.unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice(), output.code),
        (&b"a\n"[..], &b"b\n"[..], 2)
    );
    let output = machine.exec_sync("c", command("head -c 1000000 /dev/zero"), long).await.unwrap();
    assert_eq!((output.stdout.len(), output.code), (16 << 10, 0));
    let slow =
        machine.exec_sync("c", command("echo $$ > /pid; sleep 77 & wait"), Duration::from_millis(300)).await;
    assert!(matches!(slow, Err(Error::Timeout(_))));
    let (_, left) = machine.exec("c", "ps | grep -c '[s]leep 77'").await;
    assert_eq!(left, "0\n");
    // What it leaves in the background does not hold up the answer.
    let output = machine.exec_sync("c", command("echo on; sleep 50 &"), long).await.unwrap();
    assert_eq!(output.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_streams_with_the_main_process() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec =
        machine.container_spec("c", "s", "echo early; while read line; do echo got $line; done; exit 6");
    spec.stdin = true;
    spec.stdin_once = true;
    machine.start(spec).await;
    machine.printed("c", "early").await;
    let mut session = machine.attach("c", true, true, true).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"one\n").await.unwrap();
    assert_eq!(read_until(&mut session, "got one\n").await, "got one\n");
    let mut second = machine.attach("c", false, true, false).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"two\n").await.unwrap();
    assert_eq!(read_until(&mut second, "\n").await, "got two\n");
    // The first client closes its input, so the process ends, and both see how.
    drop(session.stdin.take());
    assert_eq!(session.exit.await.unwrap().code, 6);
    assert_eq!(second.exit.await.unwrap().code, 6);
    assert_eq!(machine.log("c"), "early\ngot one\ngot two\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_to_a_terminal_sees_what_is_typed() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    let mut spec =
        machine.container_spec("c", "s", "test -t 1 && echo tty; read line; stty size; echo got $line");
    (spec.tty, spec.stdin) = (true, true);
    machine.start(spec).await;
    machine.printed("c", "tty").await;
    let mut session = machine.attach("c", true, true, true).await.unwrap();
    assert!(session.stderr.is_none());
    session.resize.send(TerminalSize { width: 90, height: 20 }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let (out, _) = all(&mut session).await;
    assert!(out.contains("20 90\r\ngot hello\r\n"), "{out:?}");
    assert_eq!(session.exit.await.unwrap().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lines_are_cut_and_big_logs_are_put_aside() {
    let mut machine = Machine::closed();
    machine.config.log_limits = LogLimits { max_size: 64 << 10, max_files: 3 };
    machine.open().await;
    machine.sandbox("s").await;
    machine
        .run(machine.container_spec("long", "s", "head -c 20000 /dev/zero | tr '\\0' x; echo; printf end"))
        .await;
    let entries: Vec<(String, usize)> = machine
        .raw_log("long")
        .lines()
        .map(|l| (l.split(' ').nth(2).unwrap().to_string(), l.splitn(4, ' ').nth(3).unwrap().len()))
        .collect();
    let want = [("P", 16384), ("F", 20000 - 16384), ("P", 3)].map(|(tag, n)| (tag.to_string(), n));
    assert_eq!(entries, want);
    machine
        .run(machine.container_spec(
            "big",
            "s",
            "i=0; while [ $i -lt 4000 ]; do echo line number $i; i=$((i+1)); done",
        ))
        .await;
    let size =
        |suffix: &str| std::fs::metadata(machine.path(&format!("logs/big.log{suffix}"))).map(|m| m.len());
    assert!(size("").unwrap() <= 64 << 10 && size(".1").unwrap() <= 64 << 10 && size(".2").is_ok());
    assert!(size(".3").is_err());
    assert!(machine.log("big").ends_with("line number 3999\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_moved_away_is_begun_anew_on_request() {
    let machine = Machine::new().await;
    machine.sandbox("s").await;
    machine
        .start(machine.container_spec(
            "c",
            "s",
            "echo a; read x < /dev/null; while [ ! -e /go ]; do sleep 0.02; done; echo b; sleep 100",
        ))
        .await;
    machine.printed("c", "a").await;
    std::fs::rename(machine.path("logs/c.log"), machine.path("logs/old")).unwrap();
    machine.reopen_log("c").await.unwrap();
    machine.exec("c", "touch /go").await;
    machine.printed("c", "b").await;
    assert_eq!(machine.log("c"), "b\n");
}

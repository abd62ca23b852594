//! Pods from inside: logs, exec, attach, port-forward, ephemeral containers, resize and eviction.

use super::ensure;
use crate::Result;
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{AttachParams, EvictParams, LogParams, Patch, PatchParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const IMAGE: &str = "e2e.test/busybox:1";
const MAIN: &str = "echo first; echo second >&2; echo served > /www/index.html; httpd -p 8080 -h /www; while read line; do echo got $line; done";

pub(super) async fn check(client: Client, namespace: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "it"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", MAIN], "stdin": true}],
        },
    }))?;
    let made = pods.create(&PostParams::default(), &pod).await?;
    await_condition(pods.clone(), "it", conditions::is_pod_running()).await?;
    logs(&pods).await?;
    exec(&pods).await?;
    attach(&pods).await?;
    forward(&pods).await?;
    extend(&pods).await?;
    let evicted = pods.evict("it", &EvictParams::default()).await?;
    ensure!(evicted.is_success(), "evicted: {evicted:?}");
    let uid = made.uid().ok_or("it has no uid")?;
    await_condition(pods, "it", conditions::is_deleted(&uid)).await?;
    Ok(())
}

async fn logs(pods: &Api<Pod>) -> Result<()> {
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("it", &follow).await?.lines();
    let mut two = [lines.try_next().await?, lines.try_next().await?];
    two.sort();
    ensure!(two == [Some("first".into()), Some("second".into())], "followed: {two:?}");
    let tail = LogParams { tail_lines: Some(1), timestamps: true, ..LogParams::default() };
    let last = pods.logs("it", &tail).await?;
    ensure!(last.trim_end().contains("Z "), "with its time: {last:?}");
    Ok(())
}

async fn exec(pods: &Api<Pod>) -> Result<()> {
    let talk = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut shell = pods.exec("it", ["sh", "-c", "cat; echo bad >&2; exit 3"], &talk).await?;
    let (mut stdin, mut stdout, mut stderr) = (
        shell.stdin().ok_or("no stdin")?,
        shell.stdout().ok_or("no stdout")?,
        shell.stderr().ok_or("no stderr")?,
    );
    let status = shell.take_status().ok_or("no status")?;
    let text = "x".repeat(100_000);
    let (sent, text) = (async { stdin.write_all(text.as_bytes()).await.and(stdin.shutdown().await) }, &text);
    let (mut out, mut err) = (String::new(), String::new());
    let (sent, read, complained) =
        tokio::join!(sent, stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
    sent?;
    read?;
    complained?;
    ensure!(&out == text, "{} bytes came back of {}", out.len(), text.len());
    ensure!(err == "bad\n", "on stderr: {err:?}");
    let status = status.await.ok_or("no status came")?;
    ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "it ended with {status:?}");
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    ensure!(code.is_some_and(|code| code.message.as_deref() == Some("3")), "it ended because of {causes:?}");
    let mut terminal = pods.exec("it", ["sh", "-c", "tty"], &AttachParams::interactive_tty()).await?;
    let mut out = String::new();
    terminal.stdout().ok_or("no stdout")?.read_to_string(&mut out).await?;
    ensure!(out.starts_with("/dev/pts/"), "on a terminal: {out:?}");
    Ok(())
}

async fn attach(pods: &Api<Pod>) -> Result<()> {
    let mut attached =
        pods.attach("it", &AttachParams::default().stdin(true).stdout(true).stderr(true)).await?;
    let (mut stdin, stdout) = (attached.stdin().ok_or("no stdin")?, attached.stdout().ok_or("no stdout")?);
    stdin.write_all(b"hello\n").await?;
    let mut lines = tokio_lines(stdout);
    ensure!(lines.next().await == Some("got hello".into()), "attached, something else came");
    Ok(())
}

/// The lines of what tokio reads.
fn tokio_lines(reader: impl tokio::io::AsyncRead + Unpin) -> impl futures::Stream<Item = String> + Unpin {
    use tokio::io::AsyncBufReadExt as _;
    let lines = tokio::io::BufReader::new(reader).lines();
    Box::pin(futures::stream::unfold(lines, |mut lines| async {
        lines.next_line().await.ok().flatten().map(|line| (line, lines))
    }))
}

async fn forward(pods: &Api<Pod>) -> Result<()> {
    let mut forwarder = pods.portforward("it", &[8080]).await?;
    let mut stream = forwarder.take_stream(8080).ok_or("no stream")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("served\n"), "forwarded: {answer:?}");
    drop(stream);
    forwarder.abort();
    let mut forwarder = pods.portforward("it", &[81]).await?;
    let error = forwarder.take_error(81).ok_or("no error")?.await.unwrap_or_default();
    ensure!(error.contains("refused"), "where nobody listens: {error:?}");
    Ok(())
}

async fn extend(pods: &Api<Pod>) -> Result<()> {
    let look = json!({"spec": {"ephemeralContainers": [{
        "name": "look", "image": IMAGE, "command": ["sleep", "3600"], "targetContainerName": "main"}]}});
    pods.patch_ephemeral_containers("it", &PatchParams::default(), &Patch::Strategic(look)).await?;
    let held = pods.get_ephemeral_containers("it").await?.spec.and_then(|spec| spec.ephemeral_containers);
    ensure!(
        held.is_some_and(|held| held.len() == 1 && held[0].name == "look"),
        "the ephemeral container is not held"
    );
    let more = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "20m"}}}]}});
    let resized = pods.patch_resize("it", &PatchParams::default(), &Patch::Strategic(more)).await;
    // A pod of BestEffort stays one: that it says so is what is looked at.
    let (code, _, message) = super::refusal(resized)?;
    ensure!(
        code == 422 && message.contains("Pod QOS Class may not change as a result of resizing"),
        "{code} {message}"
    );
    Ok(())
}

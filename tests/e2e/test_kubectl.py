"""The commands of kubectl that people use every day, as they are typed."""

import json
import os
import pty
import select
import signal
import subprocess
import time
import urllib.request

import pytest

from cluster import condition, deployment, eventually, pod, service

IMAGE = "e2e.test/busybox:1"


def test_create_run_expose_and_scale(ns):
    ns.kubectl("create", "deployment", "web", f"--image={IMAGE}", "--port=8080", "--", "httpd", "-f", "-p", "8080", "-h", "/www")
    ns.kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
    ns.kubectl("scale", "deployment", "web", "--current-replicas=1", "--replicas=2")
    ns.wait_rollout("deployment/web")
    ns.kubectl("run", "one", f"--image={IMAGE}", "--labels=app=one", "--", "sleep", "3600")
    ns.kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=30s")
    spec = ns.get("service", "web")["spec"]
    assert spec["selector"] == {"app": "web"} and spec["ports"][0]["targetPort"] == 8080
    eventually(lambda: len(ns.get("endpoints", "web")["subsets"][0]["addresses"]) == 2)
    assert "Expected replicas" in ns.refused("scale", "deployment", "web", "--current-replicas=9", "--replicas=1")
    out = ns.kubectl("run", "once", f"--image={IMAGE}", "--rm", "-i", "--restart=Never", "-q", "--", "sh", "-c", "read line; echo got $line",
                     input="what is attached sees what comes after it\n")
    assert "got what is attached" in out
    assert "NotFound" in ns.refused("get", "pod", "once")


def test_create_of_every_kind_it_knows(ns):
    ns.kubectl("create", "configmap", "settings", "--from-literal=a=1")
    ns.kubectl("create", "secret", "generic", "keys", "--from-literal=token=abc")
    ns.kubectl("create", "secret", "docker-registry", "login", "--docker-server=r.test", "--docker-username=u", "--docker-password=p")
    ns.kubectl("create", "serviceaccount", "robot")
    ns.kubectl("create", "service", "clusterip", "front", "--tcp=80:8080")
    ns.kubectl("create", "service", "externalname", "away", "--external-name=example.com")
    ns.kubectl("create", "job", "sum", f"--image={IMAGE}", "--", "true")
    ns.kubectl("wait", "--for=condition=complete", "job/sum", "--timeout=30s")
    token = ns.kubectl("create", "token", "robot", "--duration=1h").strip()
    assert token.count(".") == 2
    who = json.loads(ns.kubectl("auth", "whoami", "-o", "json", "--token", token, "--client-certificate=", "--client-key="))
    assert who["status"]["userInfo"]["username"]
    assert ns.get("secret", "login")["type"] == "kubernetes.io/dockerconfigjson"


def test_rollout_verbs(ns):
    ns.apply(deployment("web", 1))
    ns.wait_rollout("deployment/web")
    ns.kubectl("rollout", "restart", "deployment/web")
    ns.wait_rollout("deployment/web")
    ns.kubectl("annotate", "deployment/web", "kubernetes.io/change-cause=because")
    history = ns.kubectl("rollout", "history", "deployment/web")
    assert "because" in history and len(history.split("REVISION")[1].strip().splitlines()) == 3, history
    assert IMAGE in ns.kubectl("rollout", "history", "deployment/web", "--revision=1")
    ns.kubectl("rollout", "undo", "deployment/web", "--to-revision=1")
    ns.wait_rollout("deployment/web")
    template = ns.get("deployment", "web")["spec"]["template"]["metadata"]
    assert "kubectl.kubernetes.io/restartedAt" not in template.get("annotations", {})


def test_cordon_drain_and_uncordon(ns, cluster):
    ns.apply(deployment("drained", 1))
    ns.wait_rollout("deployment/drained")
    [before] = ns.pods("app=drained")
    try:
        assert "cordoned" in cluster.kubectl("cordon", cluster.node)
        assert "SchedulingDisabled" in cluster.kubectl("get", "node", cluster.node)
        cluster.kubectl("drain", cluster.node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                        "--pod-selector=app=drained", "--timeout=30s")
        eventually(lambda: before["metadata"]["name"] not in [p["metadata"]["name"] for p in ns.pods()])
        [replacement] = eventually(lambda: ns.pods("app=drained"))
        event = eventually(lambda: [e for e in ns.events(replacement["metadata"]["name"]) if e["reason"] == "FailedScheduling"])[0]
        assert "1 node(s) were unschedulable" in event["message"]
    finally:
        cluster.kubectl("uncordon", cluster.node)
    ns.wait_rollout("deployment/drained")


def test_label_annotate_patch_and_edit(ns, tmp_path):
    ns.kubectl("create", "configmap", "m", "--from-literal=a=1")
    ns.kubectl("label", "configmap", "m", "tier=x")
    assert "already has a value" in ns.refused("label", "configmap", "m", "tier=y")
    ns.kubectl("label", "configmap", "m", "tier=y", "--overwrite")
    ns.kubectl("annotate", "configmap", "m", "note=hello")
    ns.kubectl("label", "configmap", "m", "tier-")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/a: \"1\"/a: \"2\"/' \"$1\"\n")
    editor.chmod(0o755)
    command = ["kubectl", "--kubeconfig", str(ns.cluster.kubeconfig), "-n", ns.name, "edit", "configmap", "m"]
    subprocess.run(command, env={**os.environ, "KUBE_EDITOR": str(editor)}, check=True, capture_output=True, timeout=30)
    seen = ns.get("configmap", "m")
    assert seen["data"] == {"a": "2"}
    assert seen["metadata"]["annotations"]["note"] == "hello" and "labels" not in seen["metadata"]
    ns.kubectl("replace", "-f", "-", input={**seen, "data": {"b": "3"}})
    assert ns.get("configmap", "m")["data"] == {"b": "3"}


def test_describe_tells_the_story(ns, cluster):
    ns.apply(deployment("web", 1), service("web"))
    ns.wait_rollout("deployment/web")
    assert "ScalingReplicaSet" in ns.kubectl("describe", "deployment", "web")
    described = eventually(lambda: (lambda text: text if "Started" in text else None)(ns.kubectl("describe", "pod", "-l", "app=web")))
    for words in ("Scheduled", "Pulled", "Created", "Readiness:", "kube-api-access", "QoS Class:"):
        assert words in described, words
    assert ns.pods("app=web")[0]["status"]["podIP"] in ns.kubectl("describe", "service", "web")
    node = cluster.kubectl("describe", "node", cluster.node)
    for words in ("Allocatable:", "Non-terminated Pods:", "Allocated resources:", "KubeletReady", "Container Runtime Version:"):
        assert words in node, words
    [name] = [p["metadata"]["name"] for p in ns.pods("app=web")]
    assert "Started" in ns.kubectl("events", "--for", f"pod/{name}")
    assert "Started" in ns.kubectl("get", "events", "--sort-by=.lastTimestamp", "--field-selector", f"involvedObject.name={name}")


def test_who_am_i_and_what_is_here(cluster):
    who = json.loads(cluster.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]
    assert "system:masters" in who["groups"]
    assert cluster.kubectl("auth", "can-i", "create", "deployments").strip() == "yes"
    assert cluster.kubectl("auth", "can-i", "--list").count("*") > 1
    assert f":{cluster.port}" in cluster.kubectl("cluster-info")
    versions = cluster.kubectl("api-versions").split()
    assert {"v1", "apps/v1", "batch/v1", "discovery.k8s.io/v1", "coordination.k8s.io/v1"} <= set(versions)
    assert "Server Version: v1.36" in cluster.kubectl("version")
    explained = cluster.kubectl("explain", "pod", "--recursive")
    for field in ("livenessProbe", "projected", "fsGroup", "podIPs"):
        assert field in explained
    assert "readyz check passed" in cluster.raw("/readyz?verbose")


def test_get_watches_selects_and_prints(ns):
    command = ["kubectl", "--kubeconfig", str(ns.cluster.kubeconfig), "-n", ns.name, "get", "pods", "-w", "-o", "name"]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ns.apply(pod("seen", "sleep", "3600"))
        assert watch.stdout.readline().strip() == "pod/seen"
    finally:
        watch.kill()
        watch.wait()
    ns.wait_ready("seen")
    assert ns.kubectl("get", "pod", "seen", "-o", "jsonpath={.status.phase}") == "Running"
    assert ns.kubectl("get", "pods", "-o", "custom-columns=N:.metadata.name", "--no-headers").strip() == "seen"
    assert ns.kubectl("get", "pods", "--field-selector=status.phase=Running", "-o", "name").strip() == "pod/seen"
    assert ns.kubectl("get", "pods", "--field-selector=status.phase!=Running", "-o", "name").strip() == ""
    assert "seen" in ns.kubectl("get", "pods", "-A", "--field-selector", f"metadata.namespace={ns.name}")
    ns.kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/seen", "--timeout=10s")
    ns.kubectl("delete", "pod", "seen", "--now")
    assert "timed out" in ns.refused("wait", "--for=condition=never", "namespace", ns.name, "--timeout=1s")


def test_logs_of_all_containers(ns):
    both = pod("it", "sh", "-c", "echo from main; sleep 3600")
    both["spec"]["containers"].append({"name": "side", "image": IMAGE, "command": ["sh", "-c", "echo from side; sleep 3600"]})
    both["spec"]["initContainers"] = [{"name": "first", "image": IMAGE, "command": ["echo", "from init"]}]
    ns.apply(both)
    ns.wait_ready("it")
    everything = eventually(lambda: (lambda t: t if t.count("from") == 3 else None)(ns.logs("it", "--all-containers", "--prefix")))
    assert "[pod/it/side] from side" in everything and "from init" in everything
    assert ns.logs("it", "-c", "side") == "from side\n"
    assert "from main" in ns.kubectl("logs", "-l", "app=it", "-c", "main", "--tail=-1")
    assert "container none is not valid" in ns.refused("logs", "it", "-c", "none")
    assert ns.logs("it", "-c", "main", "--limit-bytes=4") == "from"
    assert ns.logs("it", "-c", "main", "--since=1h") == "from main\n"


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *command):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.output = ""

    def type(self, text):
        os.write(self.file, text.encode())

    def read_until(self, words, seconds=20):
        deadline = time.monotonic() + seconds
        while words not in self.output:
            ready, _, _ = select.select([self.file], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{words!r} never came: {self.output!r}"
            try:
                more = os.read(self.file, 4096)
            except OSError:
                more = b""
            assert more, f"it ended without {words!r}: {self.output!r}"
            self.output += more.decode(errors="replace")
        return self.output

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.file)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("tool", ["kubectl", "orlop"])
def test_a_shell_on_a_terminal(ns, tool):
    import fcntl
    import struct
    import termios

    from cluster import BINARY

    ns.apply(pod("it", "sleep", "3600"))
    ns.wait_ready("it")
    program = {"kubectl": "kubectl", "orlop": BINARY}[tool]
    os.environ["KUBECONFIG"], before = str(ns.cluster.kubeconfig), os.environ.get("KUBECONFIG")
    try:
        terminal = Terminal(program, "exec", "-n", ns.name, "-it", "it", "--", "sh")
    finally:
        os.environ.pop("KUBECONFIG") if before is None else os.environ.update(KUBECONFIG=before)
    try:
        terminal.type("tty; echo $((6*7))\n")
        terminal.read_until("/dev/pts/")
        terminal.read_until("42")
        fcntl.ioctl(terminal.file, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        os.kill(terminal.pid, signal.SIGWINCH)
        terminal.type("while [ \"$(stty size)\" != '33 77' ]; do sleep 0.1; done; echo re''sized\n")
        terminal.read_until("resized")
        # Said by what is to be interrupted: before that it may not be the terminal's foreground yet.
        terminal.type("sh -c \"echo sleep''ing; exec sleep 1000\"\n")
        terminal.read_until("sleeping")
        terminal.type("\x03")
        terminal.type("echo interr''upted\n")
        terminal.read_until("interrupted")
        terminal.type("exit 7\n")
        status = eventually(lambda: os.waitid(os.P_PID, terminal.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        assert status.si_status == 7
    finally:
        terminal.end()


def test_port_forward_to_a_service(ns):
    ns.apply(deployment("web", 1), service("web"))
    ns.wait_rollout("deployment/web")
    command = ["kubectl", "--kubeconfig", str(ns.cluster.kubeconfig), "-n", ns.name, "port-forward", "service/web", ":80"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split()[0])
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read().decode().strip()
        assert answer == ns.pods("app=web")[0]["metadata"]["name"]
    finally:
        process.terminate()
        process.wait(10)


def test_copying_files_needs_no_more_than_tar(ns, tmp_path):
    ns.apply(pod("it", "sleep", "3600"))
    ns.wait_ready("it")
    source = tmp_path / "there"
    source.write_bytes(os.urandom(300_000))
    ns.kubectl("cp", source, f"{ns.name}/it:/tmp/there")
    ns.kubectl("cp", f"{ns.name}/it:/tmp/there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_taint_that_executes_drives_pods_away(ns, cluster):
    ns.apply(pod("plain", "sleep", "3600"))
    ns.apply(pod("tolerant", "sleep", "3600", spec={"tolerations": [{"operator": "Exists"}]}))
    ns.wait_ready("plain")
    ns.wait_ready("tolerant")
    cluster.kubectl("taint", "node", cluster.node, "e2e.test/away=now:NoExecute")
    try:
        eventually(lambda: "plain" not in [p["metadata"]["name"] for p in ns.pods()])
        assert condition(ns.get("pod", "tolerant"), "Ready") == "True"
    finally:
        cluster.kubectl("taint", "node", cluster.node, "e2e.test/away-")

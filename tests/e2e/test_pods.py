"""Containers as pod specs ask for them, seen from inside."""

import base64
import json
import ssl
import subprocess
import urllib.request

from cluster import condition, eventually, pod


def test_env_command_user_and_directory(ns):
    ns.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"color": "green"}})
    ns.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "s3cret"}})
    ns.apply(pod(
        "it", "sh", "-c", 'echo "$GREETING $COLOR $TOKEN $NAME $FROM_IMAGE $CPU"; id; pwd; sleep 3600',
        env=[
            {"name": "WHO", "value": "world"},
            {"name": "GREETING", "value": "hello-$(WHO)"},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        ],
        workingDir="/home",
        resources={"limits": {"cpu": "500m", "memory": "64Mi"}},
        securityContext={"runAsUser": 1000, "runAsGroup": 1000},
    ))
    ns.wait_ready("it")
    lines = ns.logs("it").splitlines()
    assert lines[0] == "hello-world green s3cret it yes 500"
    assert lines[1].startswith("uid=1000(web) gid=1000(web)") and "2000(extra)" in lines[1]
    assert lines[2] == "/home"


def test_limits_are_in_the_cgroup(ns):
    ns.apply(pod("it", "sleep", "3600", resources={"limits": {"memory": "64Mi", "cpu": "250m"}}))
    ns.wait_ready("it")
    read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert ns.exec("it", "sh", "-c", read).strip() == str(64 << 20)


def test_capabilities_seccomp_and_masked_paths(ns):
    ns.apply(pod("plain", "sleep", "3600"))
    ns.apply(pod("bare", "sleep", "3600", securityContext={"capabilities": {"drop": ["ALL"]}}))
    ns.apply(pod("mighty", "sleep", "3600", securityContext={"privileged": True}))
    for name in ("plain", "bare", "mighty"):
        ns.wait_ready(name)
    status = lambda name, field: next(
        line.split()[1] for line in ns.exec(name, "cat", "/proc/1/status").splitlines() if line.startswith(field + ":")
    )
    assert status("plain", "CapEff") == "00000000a80425fb"
    assert status("bare", "CapEff") == "0000000000000000"
    assert status("plain", "Seccomp") == "2"
    assert status("mighty", "Seccomp") == "0"
    assert ns.exec("plain", "sh", "-c", "cat /proc/timer_list | wc -c").strip() == "0"
    assert ns.run("exec", "plain", "--", "sh", "-c", "echo 1 > /proc/sys/kernel/panic", check=False).returncode != 0


def test_volumes_of_every_kind(ns):
    ns.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a.conf": "one"}})
    ns.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "s3cret"}})
    mounts = ["scratch", "ram", "settings", "keys", "about", "host", "mixed"]
    ns.apply(pod(
        "it", "sleep", "3600",
        volumeMounts=[{"name": m, "mountPath": f"/v/{m}"} for m in mounts],
        labels={"app": "it", "tier": "test"},
        spec={"volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
            {"name": "about", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"name": "host", "hostPath": {"path": "/etc/hostname", "type": "File"}},
            {"name": "mixed", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "somebody"}},
                {"configMap": {"name": "settings", "items": [{"key": "a.conf", "path": "deep/b.conf"}]}},
            ]}},
        ]},
    ))
    ns.wait_ready("it")
    cat = lambda path: ns.exec("it", "cat", path)
    assert ns.exec("it", "sh", "-c", "echo x > /v/scratch/f && cat /v/scratch/f").strip() == "x"
    assert "tmpfs" in ns.exec("it", "sh", "-c", "mount | grep /v/ram")
    assert cat("/v/settings/a.conf") == "one"
    assert cat("/v/keys/token") == "s3cret"
    assert ns.exec("it", "stat", "-L", "-c", "%a", "/v/keys/token").strip() == "400"
    assert 'tier="test"' in cat("/v/about/labels")
    assert cat("/v/mixed/deep/b.conf") == "one"
    claims = json.loads(base64.urlsafe_b64decode(cat("/v/mixed/token").split(".")[1] + "=="))
    assert claims["aud"] == ["somebody"] and claims["kubernetes.io"]["pod"]["name"] == "it"
    ns.kubectl("patch", "configmap", "settings", "-p", '{"data": {"a.conf": "two"}}')
    eventually(lambda: cat("/v/settings/a.conf") == "two", timeout=90)


def test_a_pod_speaks_to_the_api_with_its_token(ns):
    ns.apply(pod("it", "sleep", "3600"))
    ns.wait_ready("it")
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert ns.exec("it", "cat", f"{folder}/namespace") == ns.name
    assert "BEGIN CERTIFICATE" in ns.exec("it", "cat", f"{folder}/ca.crt")
    environment = dict(line.split("=", 1) for line in ns.exec("it", "env").splitlines())
    url = f"https://{environment['KUBERNETES_SERVICE_HOST']}:{environment['KUBERNETES_SERVICE_PORT']}/version"
    context = ssl.create_default_context(cadata=ns.exec("it", "cat", f"{folder}/ca.crt"))
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + ns.exec("it", "cat", f"{folder}/token")})
    assert b'"gitVersion"' in urllib.request.urlopen(request, context=context, timeout=10).read()


def test_init_containers_run_in_order_before_the_others(ns):
    write = lambda text: ["sh", "-c", f"echo {text} >> /shared/log"]
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}], "image": "e2e.test/busybox:1"}
    ns.apply(pod("it", "sh", "-c", "cat /shared/log; sleep 3600", **{k: v for k, v in mount.items() if k != "image"}, spec={
        "volumes": [{"name": "shared", "emptyDir": {}}],
        "initContainers": [{"name": "one", "command": write("one"), **mount}, {"name": "two", "command": write("two"), **mount}],
    }))
    ns.wait_ready("it")
    assert ns.logs("it").split() == ["one", "two"]


def test_a_failing_container_restarts_with_back_off(ns):
    ns.apply(pod("it", "sh", "-c", "echo dying; exit 3"))
    looping = lambda p: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
    seen = ns.wait_pod("it", looping, what="CrashLoopBackOff")
    status = seen["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert "CrashLoopBackOff" in ns.kubectl("get", "pod", "it")
    ns.wait_pod("it", lambda p: p["status"]["containerStatuses"][0]["restartCount"] >= 1, timeout=40)
    assert "dying" in ns.logs("it", "--previous")


def test_exit_codes_decide_the_phase(ns):
    never = {"restartPolicy": "Never"}
    ns.apply(pod("good", "true", spec=never))
    ns.apply(pod("bad", "sh", "-c", "exit 7", spec=never))
    ns.wait_phase("good", "Succeeded")
    bad = ns.wait_phase("bad", "Failed")
    terminated = bad["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (7, "Error")
    assert "Completed" in ns.kubectl("get", "pod", "good")


def test_a_command_that_does_not_exist_says_so(ns):
    ns.apply(pod("it", "/no/such/program", spec={"restartPolicy": "Never"}))
    seen = ns.wait_phase("it", "Failed")
    state = seen["status"]["containerStatuses"][0]["state"]["terminated"]
    assert state["exitCode"] in (127, 128) and "no such file" in state["message"].lower(), state


def test_using_too_much_memory_is_reported(ns):
    eat = "x=a; while true; do x=$x$x; done"
    ns.apply(pod("it", "sh", "-c", eat, resources={"limits": {"memory": "16Mi"}}, spec={"restartPolicy": "Never"}))
    seen = ns.wait_phase("it", "Failed")
    state = seen["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137), state


def test_a_missing_image_waits_and_says_why(ns):
    ns.apply(pod("it", image="127.0.0.1:1/none:1"))
    waits = lambda p: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason") in ("ErrImagePull", "ImagePullBackOff")
    ns.wait_pod("it", waits, what="waiting for its image")
    eventually(lambda: {"Pulling", "Failed", "BackOff"} <= {e["reason"] for e in ns.events("it")})
    ns.apply(pod("never", image="127.0.0.1:1/none:1", imagePullPolicy="Never"))
    refused = lambda p: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == "ErrImageNeverPull"
    ns.wait_pod("never", refused)
    ns.apply(pod("malformed", image="UPPER/Case:1"))
    invalid = lambda p: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == "InvalidImageName"
    ns.wait_pod("malformed", invalid)


def test_probes_decide_over_ready_started_and_restart(ns):
    exists = lambda path, **more: {"exec": {"command": ["cat", path]}, "periodSeconds": 1, **more}
    ns.apply(pod(
        "it", "sh", "-c", "touch /tmp/live; sleep 3600",
        startupProbe=exists("/tmp/live"), readinessProbe=exists("/tmp/ready"),
        livenessProbe=exists("/tmp/live", failureThreshold=1),
    ))
    ns.wait_pod("it", lambda p: p["status"]["containerStatuses"][0]["started"], what="started")
    assert condition(ns.get("pod", "it"), "Ready") == "False"
    ns.exec("it", "touch", "/tmp/ready")
    ns.wait_ready("it")
    ns.exec("it", "rm", "/tmp/live")
    ns.wait_pod("it", lambda p: p["status"]["containerStatuses"][0]["restartCount"] == 1, what="restarted")
    reasons = eventually(lambda: {"Unhealthy", "Killing"} <= {e["reason"] for e in ns.events("it")})
    assert reasons


def test_termination_is_graceful_then_forced(ns):
    polite = "trap 'echo bye; exit 0' TERM; while true; do sleep 0.05; done"
    ns.apply(pod("polite", "sh", "-c", polite, spec={"terminationGracePeriodSeconds": 30}))
    ns.apply(pod("deaf", "sh", "-c", "trap '' TERM; while true; do sleep 0.05; done", spec={"terminationGracePeriodSeconds": 1}))
    ns.wait_ready("polite")
    ns.wait_ready("deaf")
    ns.kubectl("delete", "pod", "polite", "deaf", "--timeout=20s")
    assert "NotFound" in ns.refused("get", "pod", "polite")


def test_logs_follow_tail_and_time(ns):
    ns.apply(pod("it", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; sleep 3600"))
    ns.wait_ready("it")
    eventually(lambda: "oops" in ns.logs("it"))
    assert ns.logs("it").splitlines()[:5] == [f"line {i}" for i in range(1, 6)]
    assert len(ns.logs("it", "--tail=2").splitlines()) == 2
    assert ns.logs("it", "--timestamps").startswith("20")
    ns.apply(pod("short", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done", spec={"restartPolicy": "Never"}))
    ns.wait_pod("short", lambda p: p["status"]["phase"] in ("Running", "Succeeded"))
    assert ns.logs("short", "-f").split() == ["1", "2", "3"]


def test_exec_passes_input_output_and_exit_code(ns):
    ns.apply(pod("it", "sleep", "3600"))
    ns.wait_ready("it")
    assert ns.kubectl("exec", "-i", "it", "--", "cat", input="typed") == "typed"
    result = ns.run("exec", "it", "--", "sh", "-c", "echo out; echo err >&2; exit 5", check=False)
    assert (result.returncode, result.stdout) == (5, "out\n") and "err" in result.stderr
    big = ns.exec("it", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
    assert len(big) == 3000000


def test_attach_sees_output(ns):
    echo = "while read line; do echo got $line; done; echo end"
    ns.apply(pod("it", "sh", "-c", echo, stdin=True, stdinOnce=True, spec={"restartPolicy": "Never"}))
    ns.wait_ready("it")
    assert "got hello" in ns.kubectl("attach", "-i", "it", input="hello\n", timeout=20)
    ns.wait_phase("it", "Succeeded")
    assert ns.logs("it").split() == ["got", "hello", "end"]


def test_port_forward_reaches_the_pod(ns):
    ns.apply(pod("it", "sh", "-c", "echo deep > /www/index.html; exec httpd -f -p 8080 -h /www"))
    ns.wait_ready("it")
    command = ["kubectl", "--kubeconfig", str(ns.cluster.kubeconfig), "-n", ns.name, "port-forward", "pod/it", ":8080"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        port = int(line.split("127.0.0.1:")[1].split()[0])
        for _ in range(3):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read() == b"deep\n"
    finally:
        process.terminate()
        process.wait(10)


def test_host_network_and_host_port(ns, cluster):
    ns.apply(pod("host", "sleep", "3600", spec={"hostNetwork": True}))
    ns.apply(pod("port", "sh", "-c", "echo hi > /www/index.html; exec httpd -f -p 8080 -h /www",
                 ports=[{"containerPort": 8080, "hostPort": 31990}]))
    host = ns.wait_ready("host")
    ns.wait_ready("port")
    node = cluster.get("node", cluster.node)
    address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    assert host["status"]["podIP"] == address
    assert urllib.request.urlopen(f"http://{address}:31990/", timeout=5).read() == b"hi\n"


def test_the_node_tells_how_long_its_work_takes(ns):
    ns.apply(pod("it", "sleep", "3600"))
    node = ns.wait_ready("it")["spec"]["nodeName"]
    metrics = ns.cluster.raw(f"/api/v1/nodes/{node}/proxy/metrics")
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert int(values['kubelet_runtime_operations_duration_seconds_count{operation_type="run_podsandbox"}']) >= 1
    assert int(values["kubelet_pod_start_duration_seconds_count"]) >= 1
    assert int(values['kubelet_running_containers{container_state="running"}']) >= 1

"""The rarer parts of pod specs: hooks, sidecars, deadlines, users, subpaths, big logs."""

from cluster import condition, eventually, pod

IMAGE = "e2e.test/busybox:1"
VOLUME = {"volumes": [{"name": "v", "emptyDir": {}}]}
MOUNT = [{"name": "v", "mountPath": "/v"}]


def test_hooks_run_after_the_start_and_before_the_stop(ns):
    write = lambda text: {"exec": {"command": ["sh", "-c", f"echo {text} >> /v/log"]}}
    looks_on = {"name": "other", "image": IMAGE, "command": ["sh", "-c", "trap '' TERM; tail -F /v/log & sleep 4"], "volumeMounts": MOUNT}
    main = pod("it", "sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.05; done", volumeMounts=MOUNT,
               lifecycle={"postStart": write("started"), "preStop": write("stopping")},
               spec={**VOLUME, "terminationGracePeriodSeconds": 20})
    main["spec"]["containers"].append(looks_on)
    ns.apply(main)
    ns.wait_pod("it", lambda p: p["status"]["containerStatuses"][0]["ready"], what="main ready")
    assert ns.kubectl("exec", "it", "-c", "main", "--", "cat", "/v/log") == "started\n"
    ns.kubectl("delete", "pod", "it", "--wait=false")
    eventually(lambda: "stopping" in ns.logs("it", "-c", "other"))
    bad = pod("bad", "sleep", "3600", lifecycle={"postStart": {"exec": {"command": ["false"]}}})
    ns.apply(bad)
    eventually(lambda: any(e["reason"] == "FailedPostStartHook" for e in ns.events("bad")))


def test_a_sidecar_starts_first_and_ends_last(ns):
    sidecar = {
        "name": "side", "image": IMAGE, "restartPolicy": "Always", "volumeMounts": MOUNT,
        "command": ["sh", "-c", "touch /v/side; trap 'exit 0' TERM; while true; do sleep 0.05; done"],
        "startupProbe": {"exec": {"command": ["cat", "/v/side"]}, "periodSeconds": 1},
    }
    ns.apply(pod("it", "sh", "-c", "ls /v", volumeMounts=MOUNT,
                 spec={**VOLUME, "initContainers": [sidecar], "restartPolicy": "Never"}))
    done = ns.wait_phase("it", "Succeeded")
    assert ns.logs("it", "-c", "main") == "side\n"
    assert done["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_a_failing_init_container_holds_the_pod(ns):
    first = [{"name": "first", "image": IMAGE, "command": ["sh", "-c", "exit 9"]}]
    ns.apply(pod("never", "sleep", "1", spec={"initContainers": first, "restartPolicy": "Never"}))
    ns.apply(pod("always", "sleep", "1", spec={"initContainers": first}))
    failed = ns.wait_phase("never", "Failed")
    assert failed["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 9
    assert condition(failed, "Initialized") == "False"
    eventually(lambda: "Init:" in ns.kubectl("get", "pod", "always"))


def test_a_deadline_ends_a_pod(ns):
    ns.apply(pod("it", "sleep", "3600", spec={"activeDeadlineSeconds": 1}))
    assert ns.wait_phase("it", "Failed")["status"]["reason"] == "DeadlineExceeded"


def test_a_finished_job_is_removed_in_time(ns):
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "brief"},
        "spec": {"ttlSecondsAfterFinished": 0, "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "main", "image": IMAGE, "command": ["true"]}]}}},
    }
    ns.apply(job)
    eventually(lambda: "NotFound" in ns.run("get", "job", "brief", check=False).stderr)
    eventually(lambda: not ns.pods())


def test_root_is_refused_where_it_must_not_be(ns):
    ns.apply(pod("it", "sleep", "3600", securityContext={"runAsNonRoot": True}))
    waits = lambda p: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"
    seen = ns.wait_pod("it", waits)
    assert "run as root" in seen["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    ns.apply(pod("web", "id", "-u", securityContext={"runAsNonRoot": True, "runAsUser": 1000}, spec={"restartPolicy": "Never"}))
    ns.wait_phase("web", "Succeeded")
    assert ns.logs("web") == "1000\n"


def test_a_read_only_root_takes_writes_in_volumes_only(ns):
    ns.apply(pod("it", "sh", "-c", "touch /v/yes && ! touch /no", securityContext={"readOnlyRootFilesystem": True},
                 volumeMounts=MOUNT, spec={**VOLUME, "restartPolicy": "Never"}))
    ns.wait_phase("it", "Succeeded")
    assert "Read-only" in ns.logs("it")


def test_volumes_belong_to_the_group_of_the_pod(ns):
    ns.apply(pod("it", "sh", "-c", "id; touch /v/file; stat -c '%g' /v /v/file", volumeMounts=MOUNT, spec={
        **VOLUME, "restartPolicy": "Never", "securityContext": {"fsGroup": 4321, "runAsUser": 1000, "supplementalGroups": [99]}}))
    ns.wait_phase("it", "Succeeded")
    identity, folder, file = ns.logs("it").splitlines()
    assert "4321" in identity and "99" in identity
    assert (folder, file) == ("4321", "4321")


def test_a_subpath_shows_one_part_of_a_volume(ns):
    ns.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"a.conf": "A", "b.conf": "B"}})
    mounts = [
        {"name": "files", "mountPath": "/etc/only.conf", "subPath": "a.conf"},
        {"name": "v", "mountPath": "/data", "subPathExpr": "of-$(NAME)"},
        {"name": "v", "mountPath": "/whole"},
    ]
    ns.apply(pod("it", "sh", "-c", "cat /etc/only.conf; touch /data/x; ls /whole/of-it", volumeMounts=mounts,
                 env=[{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                 spec={"volumes": [{"name": "files", "configMap": {"name": "files"}}, *VOLUME["volumes"]], "restartPolicy": "Never"}))
    ns.wait_phase("it", "Succeeded")
    assert ns.logs("it") == "Ax\n"
    bad = pod("out", "true", volumeMounts=[{"name": "v", "mountPath": "/d", "subPath": "../up"}], spec=VOLUME)
    assert "must not contain '..'" in ns.refused("apply", "-f", "-", input=bad)


def test_what_a_pod_waits_for_is_named(ns):
    ns.apply(pod("map", "sleep", "1", spec={"volumes": [{"name": "v", "configMap": {"name": "late"}}]}, volumeMounts=MOUNT))
    ns.apply(pod("key", "sleep", "3600", env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "a"}}}]))
    waits = lambda p: p["status"]["containerStatuses"][0]["state"].get("waiting", {}).get("reason")
    ns.wait_pod("key", lambda p: waits(p) == "CreateContainerConfigError")
    eventually(lambda: any('configmap "late" not found' in e["message"] for e in ns.events("map") if e["reason"] == "FailedMount"))
    ns.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"a": "1"}})
    ns.wait_ready("key")
    ns.wait_pod("map", lambda p: p["status"].get("phase") in ("Running", "Succeeded"))


FLOOD = "awk 'BEGIN { for (i = 1; i <= 200000; i++) printf \"line %09d of a log that grows and grows\\n\", i }'; echo done"


def test_a_flood_of_output_is_rotated_and_read_in_order(ns):
    ns.apply(pod("it", "sh", "-c", FLOOD, spec={"restartPolicy": "Never"}))
    ns.wait_phase("it", "Succeeded")
    numbers = [int(line.split()[1]) for line in ns.logs("it").splitlines() if line.startswith("line")]
    assert numbers[-1] == 200_000 and ns.logs("it", "--tail=1") == "done\n"
    assert numbers == list(range(numbers[0], 200_001))
    uid = ns.get("pod", "it")["metadata"]["uid"]
    [folder] = (ns.cluster.data).glob(f"**/logs/pods/{ns.name}_it_{uid}/main")
    sizes = [f.stat().st_size for f in folder.iterdir()]
    assert len(sizes) > 1 and max(sizes) < 11 << 20, sizes


def test_processes_are_shared_where_asked_for(ns):
    shared = pod("it", "sleep", "1111", spec={"shareProcessNamespace": True})
    shared["spec"]["containers"].append({"name": "side", "image": IMAGE, "command": ["sleep", "3600"]})
    ns.apply(shared, pod("alone", "sleep", "3600"))
    ns.wait_ready("it")
    ns.wait_ready("alone")
    assert "sleep 1111" in ns.kubectl("exec", "it", "-c", "side", "--", "ps")
    assert ns.exec("alone", "cat", "/proc/1/comm") == "sleep\n"

"""The Python client as programs use it: typed, dynamic, asynchronous, with informers and leader election; and an operator of kopf."""

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading

import kubernetes
import pytest
import yaml
from kubernetes import client as k8s
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient, EagerDiscoverer
from kubernetes.dynamic import exceptions as refused

from cluster import deployment, eventually, pod, service
from test_custom import definition, tab


@pytest.fixture(scope="module")
def connection(cluster):
    return kubernetes.config.new_client_from_config(str(cluster.kubeconfig))


def policy_rule(**more):
    return {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"], **more}


POD = {"containers": [{"name": "main", "image": "e2e.test/busybox:1", "command": ["sleep", "3600"]}]}
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": POD}
CHOSEN = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}
NEVER = {"nodeSelector": {"e2e.test/never": ""}}
NAMESPACED = [
    ("CoreV1Api", "config_map", {"data": {"a": "1"}}),
    ("CoreV1Api", "secret", {"stringData": {"a": "1"}}),
    ("CoreV1Api", "service", {"spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}}),
    ("CoreV1Api", "service_account", {}),
    ("CoreV1Api", "pod", {"spec": {**POD, **NEVER}}),
    ("CoreV1Api", "pod_template", {"template": TEMPLATE}),
    ("CoreV1Api", "replication_controller", {"spec": {"replicas": 0, "selector": {"app": "x"}, "template": TEMPLATE}}),
    ("CoreV1Api", "limit_range", {"spec": {"limits": [{"type": "Pod", "max": {"cpu": "9"}}]}}),
    ("CoreV1Api", "resource_quota", {"spec": {"hard": {"pods": "90"}}}),
    ("CoreV1Api", "persistent_volume_claim", {"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none",
                                                      "resources": {"requests": {"storage": "1Gi"}}}}),
    ("CoreV1Api", "endpoints", {"subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]}),
    ("AppsV1Api", "deployment", {"spec": {"replicas": 0, **CHOSEN}}),
    ("AppsV1Api", "replica_set", {"spec": {"replicas": 0, **CHOSEN}}),
    ("AppsV1Api", "stateful_set", {"spec": {"replicas": 0, "serviceName": "x", **CHOSEN}}),
    ("AppsV1Api", "daemon_set", {"spec": {**CHOSEN, "template": {**TEMPLATE, "spec": {**POD, **NEVER}}}}),
    ("BatchV1Api", "job", {"spec": {"suspend": True, "template": {"spec": {**POD, "restartPolicy": "Never"}}}}),
    ("BatchV1Api", "cron_job", {"spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {"spec": {**POD, "restartPolicy": "Never"}}}}}}),
    ("AutoscalingV1Api", "horizontal_pod_autoscaler", {"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "none", "apiVersion": "apps/v1"}}}),
    ("AutoscalingV2Api", "horizontal_pod_autoscaler", {"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "none", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
    ("PolicyV1Api", "pod_disruption_budget", {"spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "x"}}}}),
    ("NetworkingV1Api", "ingress", {"spec": {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}}),
    ("NetworkingV1Api", "network_policy", {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}),
    ("DiscoveryV1Api", "endpoint_slice", {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": [{"port": 80}]}),
    ("CoordinationV1Api", "lease", {"spec": {"holderIdentity": "x", "renewTime": "2026-01-01T00:00:00.000000Z"}}),
    ("EventsV1Api", "event", {"action": "a", "reason": "r", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z",
                              "reportingController": "example.com/e2e", "reportingInstance": "x", "regarding": {"kind": "Pod", "name": "x", "namespace": "SPACE"}}),
    ("RbacAuthorizationV1Api", "role", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
    ("RbacAuthorizationV1Api", "role_binding", {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x"},
                                                "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "joe"}]}),
]
CLUSTER_WIDE = [
    ("CoreV1Api", "namespace", {}),
    ("CoreV1Api", "persistent_volume", {"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
                                                 "hostPath": {"path": "/tmp/none"}}}),
    ("StorageV1Api", "storage_class", {"provisioner": "example.com/none"}),
    ("StorageV1Api", "csi_driver", {"spec": {"attachRequired": False}}),
    ("SchedulingV1Api", "priority_class", {"value": 7}),
    ("NodeV1Api", "runtime_class", {"handler": "none"}),
    ("NetworkingV1Api", "ingress_class", {"spec": {"controller": "example.com/none"}}),
    ("RbacAuthorizationV1Api", "cluster_role", {"rules": [{"nonResourceURLs": ["/none"], "verbs": ["get"]}]}),
    ("RbacAuthorizationV1Api", "cluster_role_binding", {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "x"}}),
    ("AdmissionregistrationV1Api", "validating_webhook_configuration", {"webhooks": []}),
    ("AdmissionregistrationV1Api", "mutating_webhook_configuration", {"webhooks": []}),
    ("AdmissionregistrationV1Api", "validating_admission_policy", {"spec": {
        "matchConstraints": {"resourceRules": [policy_rule(resources=["none"])]}, "validations": [{"expression": "true"}]}}),
]


def every_verb(api, kind, name, body, *namespace):
    """What a typed client does with an object in its life; all answers go through the client's own models."""
    scope = "namespaced_" if namespace else ""
    call = lambda verb, *arguments, **more: getattr(api, f"{verb}_{scope}{kind}")(*arguments, **more)
    made = call("create", *namespace, body={"metadata": {"name": name, "labels": {"e2e": name}}, **body})
    assert made.metadata.uid
    read = call("read", name, *namespace)
    assert read.metadata.uid == made.metadata.uid
    patched = call("patch", name, *namespace, body={"metadata": {"annotations": {"a": "1"}}})
    assert patched.metadata.annotations["a"] == "1"
    for _ in range(5):
        read = call("read", name, *namespace)
        read.metadata.annotations["b"] = "2"
        try:
            replaced = call("replace", name, *namespace, body=read)
            break
        except ApiException as error:
            # A controller was quicker.
            assert error.status == 409, error.body
    assert replaced.metadata.annotations["b"] == "2" and replaced.metadata.labels == {**replaced.metadata.labels, "e2e": name}
    listed = call("list", *namespace, label_selector=f"e2e={name}")
    assert [item.metadata.name for item in listed.items] == [name] and listed.metadata.resource_version
    following = kubernetes.watch.Watch()
    for event in following.stream(getattr(api, f"list_{scope}{kind}"), *namespace, label_selector=f"e2e={name}", timeout_seconds=5):
        assert event["type"] == "ADDED" and event["object"].metadata.name == name
        following.stop()
    call("delete", name, *namespace, propagation_policy="Background")
    if kind not in ("namespace", "pod", "persistent_volume", "persistent_volume_claim"):
        with pytest.raises(ApiException) as error:
            call("read", name, *namespace)
        assert error.value.status == 404
    with pytest.raises(ApiException) as error:
        call("delete", "none", *namespace)
    assert error.value.status == 404 and '"reason":"NotFound"' in error.value.body


def test_the_typed_client_takes_every_kind_through_its_life(ns, connection):
    for group, kind, body in NAMESPACED:
        try:
            body = json.loads(json.dumps(body).replace("SPACE", ns.name))
            every_verb(getattr(k8s, group)(connection), kind, "typed", body, ns.name)
        except Exception as error:
            raise AssertionError(f"{group} {kind}: {error}") from error
    for group, kind, body in CLUSTER_WIDE:
        name = f"{ns.name}.example.com" if kind in ("csi_driver",) else f"{ns.name}-typed"
        try:
            every_verb(getattr(k8s, group)(connection), kind, name, body)
        except Exception as error:
            raise AssertionError(f"{group} {kind}: {error}") from error


def test_the_typed_client_creates_from_files(ns, connection, tmp_path):
    documents = [deployment("web", 0), service("web"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}},
                 {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}]}]
    file = tmp_path / "all.yaml"
    file.write_text("---\n".join(map(yaml.safe_dump, documents)))
    kubernetes.utils.create_from_yaml(connection, str(file), namespace=ns.name)
    apps = k8s.AppsV1Api(connection)
    assert apps.read_namespaced_deployment("web", ns.name).spec.strategy.rolling_update.max_surge == "25%"
    assert k8s.CoreV1Api(connection).read_namespaced_secret("s", ns.name).type == "Opaque"
    with pytest.raises(kubernetes.utils.FailToCreateError, match="AlreadyExists"):
        kubernetes.utils.create_from_yaml(connection, str(file), namespace=ns.name)
    kubernetes.utils.create_from_yaml(connection, str(file), namespace=ns.name, apply=True)
    scaled = apps.patch_namespaced_deployment_scale("web", ns.name, {"spec": {"replicas": 1}})
    assert scaled.spec.replicas == 1
    for verb, path in (("add", "/metadata/labels"), ("replace", "/spec/replicas")):
        apps.patch_namespaced_deployment("web", ns.name, [{"op": verb, "path": path, "value": {"x": "y"} if verb == "add" else 0}])
    assert apps.read_namespaced_deployment_status("web", ns.name).metadata.labels == {"x": "y"}


def test_the_typed_client_asks_and_evicts(ns, connection):
    core, asks = k8s.CoreV1Api(connection), k8s.AuthorizationV1Api(connection)
    review = k8s.V1SelfSubjectAccessReview(spec=k8s.V1SelfSubjectAccessReviewSpec(
        resource_attributes=k8s.V1ResourceAttributes(verb="get", resource="pods", namespace=ns.name)))
    assert asks.create_self_subject_access_review(review).status.allowed
    assert k8s.VersionApi(connection).get_code().minor == "36"
    token = core.create_namespaced_service_account_token("default", ns.name, k8s.AuthenticationV1TokenRequest(spec=k8s.V1TokenRequestSpec(audiences=[])))
    said = k8s.AuthenticationV1Api(connection).create_token_review(k8s.V1TokenReview(spec=k8s.V1TokenReviewSpec(token=token.status.token)))
    assert said.status.user.username == f"system:serviceaccount:{ns.name}:default"
    core.create_namespaced_pod(ns.name, pod("it", "sleep", "3600"))
    ns.wait_ready("it")
    core.create_namespaced_pod_eviction("it", ns.name, k8s.V1Eviction(metadata=k8s.V1ObjectMeta(name="it")))
    eventually(lambda: not core.list_namespaced_pod(ns.name).items, what="the evicted pod gone")
    assert core.list_node().items[0].status.node_info.kubelet_version.startswith("v1.36")


def test_the_dynamic_client_finds_applies_and_watches(cluster, ns, connection, tmp_path):
    group = f"{ns.name}.example.com"
    cached = tmp_path / "discovery.json"
    client = DynamicClient(connection, cache_file=str(cached))
    assert cached.exists() or client.resources
    with pytest.raises(refused.ResourceNotFoundError):
        client.resources.get(api_version=f"{group}/v1", kind="CronTab")
    crds = client.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    crds.server_side_apply(body=definition(group), field_manager="e2e")
    eventually(lambda: any(c.type == "Established" and c.status == "True" for c in crds.get(name=f"crontabs.{group}").status.conditions or []))
    try:
        # A discovery that was cached before the kind came finds it: by asking again.
        tabs = client.resources.get(api_version=f"{group}/v1", kind="CronTab")
        assert tabs.namespaced and {"status", "scale"} <= set(tabs.subresources)
        applied = lambda manager, **spec: tabs.server_side_apply(
            body=tab(group, **spec), namespace=ns.name, field_manager=manager)
        assert applied("one", replicas=2).spec.replicas == 2
        with pytest.raises(refused.ConflictError, match="conflict with"):
            applied("two", replicas=3)
        tabs.status.patch(body={"status": {"replicas": 1, "selector": "a=b"}}, name="a", namespace=ns.name, content_type="application/merge-patch+json")
        scale = tabs.subresources["scale"].get(name="a", namespace=ns.name)
        assert (scale.spec.replicas, scale.status.replicas, scale.status.selector) == (2, 1, "a=b")
        tabs.subresources["scale"].patch(body={"spec": {"replicas": 4}}, name="a", namespace=ns.name, content_type="application/merge-patch+json")
        assert tabs.get(name="a", namespace=ns.name).spec.replicas == 4
        seen = queue.Queue()
        follow = threading.Thread(daemon=True, target=lambda: [seen.put((e["type"], e["object"].metadata.name)) for e in tabs.watch(namespace=ns.name, timeout=5)])
        follow.start()
        assert seen.get(timeout=5) == ("ADDED", "a")
        tabs.patch(body={"spec": {"replicas": 5}}, name="a", namespace=ns.name, content_type="application/merge-patch+json")
        assert seen.get(timeout=5) == ("MODIFIED", "a")
        tabs.delete(name="a", namespace=ns.name)
        assert seen.get(timeout=5) == ("DELETED", "a")
        tabs.create(body=tab(group, "b"), namespace=ns.name)
        tabs.delete(namespace=ns.name, label_selector="none!=x")
        assert not tabs.get(namespace=ns.name).items
        eager = DynamicClient(connection, cache_file=str(tmp_path / "eager.json"), discoverer=EagerDiscoverer)
        assert eager.resources.get(short_names=["deploy"], group="apps").kind == "Deployment"
        assert len(list(eager.resources.search(kind="Event"))) == 2
        assert {k.kind for k in client.resources.search(group=group)} == {"CronTab", "CronTabList"}
    finally:
        crds.delete(name=f"crontabs.{group}")
    with pytest.raises(refused.NotFoundError):
        eventually(lambda: tabs.get(namespace=ns.name) and None)


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"w": "1"}}, "data": data}


def test_an_informer_follows_through_watches_that_end(ns, connection):
    from kubernetes.informer import SharedInformer

    core, told = k8s.CoreV1Api(connection), []
    # Each watch ends after a second, as those of long-lived programs do after minutes, and goes on where it was.
    informer = SharedInformer(core.list_namespaced_config_map, namespace=ns.name, label_selector="w=1", resync_period=1)
    for kind in ("ADDED", "DELETED", "ERROR"):
        informer.add_event_handler(kind, lambda thing, kind=kind: told.append((kind, thing.metadata.name if kind != "ERROR" else thing)))
    informer.start()
    try:
        ns.apply(config_map("a"), config_map("b"))
        eventually(lambda: ("ADDED", "b") in told)
        ns.kubectl("delete", "configmap", "a")
        eventually(lambda: ("DELETED", "a") in told)
        eventually(lambda: informer._watch is None, timeout=5, pause=0.001, what="the end of a watch")
        ns.apply(config_map("c", x="y"))
        eventually(lambda: informer.cache.get_by_key(f"{ns.name}/c"))
        assert sorted(informer.cache.list_keys()) == [f"{ns.name}/b", f"{ns.name}/c"]
        assert not [thing for kind, thing in told if kind == "ERROR"], told
    finally:
        informer.stop()


def test_an_informer_outlives_a_restart_after_which_its_version_is_too_old(own_cluster):
    from kubernetes.informer import SharedInformer

    own_cluster.start()
    core = k8s.CoreV1Api(kubernetes.config.new_client_from_config(str(own_cluster.kubeconfig)))
    own_cluster.apply(config_map("before"), "default")
    old = core.list_namespaced_config_map("default").metadata.resource_version
    informer, failures = SharedInformer(core.list_namespaced_config_map, namespace="default", label_selector="w=1"), []
    informer.add_event_handler("ERROR", lambda error: failures.append(getattr(error, "status", None)))
    informer.start()
    try:
        eventually(lambda: informer.cache.list_keys() == ["default/before"])
        own_cluster.kubectl("create", "namespace", "other")
        own_cluster.end()
        own_cluster.start()
        own_cluster.kubectl("delete", "configmap", "before")
        own_cluster.apply(config_map("after"), "default")
        eventually(lambda: informer.cache.list_keys() == ["default/after"])
        assert 410 in failures
    finally:
        informer.stop()
    raw = core.list_namespaced_config_map("default", watch=True, resource_version=old, timeout_seconds=5, _preload_content=False)
    event = json.loads(raw.data.splitlines()[0])
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_one_of_two_candidates_leads_and_the_other_takes_over(cluster, ns):
    from kubernetes.leaderelection import electionconfig, leaderelection
    from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
    from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

    # The library's locks take the default configuration.
    kubernetes.config.load_kube_config(str(cluster.kubeconfig))

    class Election:
        """Two candidates for a lock of one kind."""

        def __init__(self, kind):
            self.kind, self.told, self.dead = kind, queue.Queue(), threading.Event()
            self.stand("first")
            assert self.told.get(timeout=5) == "first"
            self.stand("second")
            self.dead.set()

        def stand(self, name):
            class Lock(self.kind):
                def update(lock, *arguments, **more):
                    return not (name == "first" and self.dead.is_set()) and super().update(*arguments, **more)

            # The shortest times that the library takes.
            config = electionconfig.Config(Lock(self.kind.__name__.lower(), ns.name, name), lease_duration=3, renew_deadline=2, retry_period=1.1,
                                           onstarted_leading=lambda: self.told.put(name), onstopped_leading=lambda: self.told.put(f"{name} stopped"))
            threading.Thread(target=leaderelection.LeaderElection(config).run, daemon=True).start()

    for election in [Election(LeaseLock), Election(ConfigMapLock)]:
        assert {election.told.get(timeout=12), election.told.get(timeout=12)} == {"first stopped", "second"}


def test_the_asynchronous_client_lists_watches_and_executes(cluster, ns):
    from kubernetes import aio

    async def use():
        await aio.config.load_kube_config(str(cluster.kubeconfig))
        async with aio.client.ApiClient() as connection:
            core = aio.client.CoreV1Api(connection)
            await asyncio.gather(*(core.create_namespaced_config_map(ns.name, config_map(f"m{n}")) for n in range(10)))
            assert len((await core.list_namespaced_config_map(ns.name, label_selector="w=1")).items) == 10
            seen = set()
            async with aio.watch.Watch().stream(core.list_namespaced_config_map, ns.name, label_selector="w=1", timeout_seconds=5) as events:
                async for event in events:
                    seen.add(event["object"].metadata.name)
                    if len(seen) == 10:
                        break
            await core.create_namespaced_pod(ns.name, pod("it", "sleep", "3600"))
        await asyncio.to_thread(ns.wait_ready, "it")
        async with aio.stream.WsApiClient() as connection:
            core = aio.client.CoreV1Api(connection)
            return await core.connect_get_namespaced_pod_exec("it", ns.name, command=["echo", "hello"], stderr=True, stdin=False, stdout=True, tty=False)

    assert asyncio.run(use()).strip() == "hello"


HANDLERS = """
import kopf

@kopf.on.startup()
def configure(settings, **_):
    settings.posting.level = 20
    settings.persistence.finalizer = "example.com/kopf"
    settings.batching.error_delays = [1]

@kopf.on.create("GROUP", "v1", "crontabs")
def created(spec, name, namespace, patch, retry, **_):
    if retry == 0:
        raise kopf.TemporaryError("not yet", delay=0.1)
    kopf.info({"apiVersion": "GROUP/v1", "kind": "CronTab", "metadata": {"name": name, "namespace": namespace}}, reason="Planted", message="as told")
    patch.status["replicas"] = spec["replicas"]

@kopf.on.field("GROUP", "v1", "crontabs", field="spec.replicas")
def scaled(old, new, patch, **_):
    patch.status["replicas"] = new

@kopf.on.delete("GROUP", "v1", "crontabs")
def deleted(name, **_):
    print(f"{name} is cleaned up", flush=True)
"""


def test_an_operator_written_with_kopf_works(cluster, ns, tmp_path):
    group = f"{ns.name}.example.com"
    cluster.apply(definition(group))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/crontabs.{group}", "--timeout=10s")
    handlers, log = tmp_path / "handlers.py", tmp_path / "kopf.log"
    handlers.write_text(HANDLERS.replace("GROUP", group))
    with open(log, "wb") as out:
        operator = subprocess.Popen(
            [sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", ns.name, handlers], stdout=out, stderr=out,
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)})
    try:
        ns.apply(tab(group, replicas=2))
        seen = lambda: ns.get("crontab", "a")
        eventually(lambda: seen().get("status", {}).get("replicas") == 2, what=f"the status that kopf writes\n{log.read_text()}")
        assert seen()["metadata"]["finalizers"] == ["example.com/kopf"]
        ns.kubectl("scale", "crontab/a", "--replicas=3")
        eventually(lambda: seen()["status"]["replicas"] == 3)
        eventually(lambda: "Planted" in [event["reason"] for event in ns.events("a")])
        ns.kubectl("delete", "crontab", "a", "--timeout=10s")
        assert "a is cleaned up" in log.read_text()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from None
    finally:
        operator.terminate()
        operator.wait(10)
        cluster.kubectl("delete", "crd", f"crontabs.{group}", "--wait=false")

"""What the conformance programme asks of quotas: each object is counted as it comes and goes."""

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

from cluster import deployment, eventually, pod

HARD = {
    "pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1", "replicationcontrollers": "10",
    "resourcequotas": "1", "configmaps": "10", "secrets": "10", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi",
    "persistentvolumeclaims": "10", "requests.storage": "10Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10",
    "count/replicasets.apps": "5", "requests.example.com/dongle": "3",
}


@pytest.fixture
def core(cluster):
    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(str(cluster.kubeconfig)))


@pytest.fixture
def quota(ns, core):
    core.create_namespaced_resource_quota(ns.name, {"metadata": {"name": "test-quota"}, "spec": {"hard": HARD}})
    eventually(lambda: ns.get("configmap", "kube-root-ca.crt"))
    return lambda **wanted: uses(ns, "test-quota", **wanted)


def uses(ns, name, **wanted):
    """Waits until so much is used of each: names with `_` for the signs between words."""
    plain = lambda text: "".join(c if c.isalnum() else "_" for c in text)

    def look():
        status = ns.get("quota", name)["status"]
        assert set(status["used"]) == set(status["hard"])
        used = {plain(resource): amount for resource, amount in status["used"].items()}
        return {resource: used[resource] for resource in wanted} == wanted or used

    eventually(lambda: look() is True, timeout=10, what=f"{name} with {wanted}")


def refused(make, *words):
    with pytest.raises(ApiException) as error:
        make()
    assert error.value.status == 403
    for word in ("exceeded quota: test-quota", *words):
        assert word in error.value.body, error.value.body


def port(kind, name, **spec):
    return {"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}], **spec}}


def test_it_counts_itself_and_every_service(ns, core, quota):
    quota(resourcequotas="1", services="0")
    core.create_namespaced_service(ns.name, port("ClusterIP", "it"))
    core.create_namespaced_service(ns.name, port("NodePort", "np"))
    refused(lambda: core.create_namespaced_service(ns.name, port("LoadBalancer", "lb", allocateLoadBalancerNodePorts=True)),
            "requested: services.nodeports=1", "used: services.nodeports=1", "limited: services.nodeports=1")
    quota(services="2", services_nodeports="1", services_loadbalancers="0")
    core.delete_namespaced_service("it", ns.name)
    core.delete_namespaced_service("np", ns.name)
    quota(services="0", services_nodeports="0")


def test_it_counts_secrets_config_maps_controllers_and_sets(ns, core, quota):
    quota(secrets="0", configmaps="1", replicationcontrollers="0", count_replicasets_apps="0")
    core.create_namespaced_secret(ns.name, {"metadata": {"name": "it"}})
    core.create_namespaced_config_map(ns.name, {"metadata": {"name": "it"}})
    labels = {"name": "it"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "it", "image": "e2e.test/busybox:1"}]}}
    core.create_namespaced_replication_controller(
        ns.name, {"metadata": {"name": "it"}, "spec": {"replicas": 0, "selector": labels, "template": template}})
    apps = kubernetes.client.AppsV1Api(core.api_client)
    apps.create_namespaced_replica_set(
        ns.name, {"metadata": {"name": "it"}, "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}})
    quota(secrets="1", configmaps="2", replicationcontrollers="1", count_replicasets_apps="1")
    core.delete_namespaced_secret("it", ns.name)
    core.delete_namespaced_config_map("it", ns.name)
    core.delete_namespaced_replication_controller("it", ns.name)
    apps.delete_namespaced_replica_set("it", ns.name)
    quota(secrets="0", configmaps="1", replicationcontrollers="0", count_replicasets_apps="0")


def test_it_counts_what_pods_ask_for(ns, core, quota):
    eventually(lambda: ns.get("serviceaccount", "default"))
    asks = {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"}

    def one(name, **requests):
        dongle = {k: v for k, v in requests.items() if "/" in k}
        return {"metadata": {"name": name}, "spec": {"containers": [
            {"name": "pause", "image": "e2e.test/busybox:1", "resources": {"requests": requests, "limits": dongle}}]}}

    made = core.create_namespaced_pod(ns.name, one("it", **asks))
    used = {"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral_storage": "30Gi", "requests_example_com_dongle": "2"}
    quota(**used)
    refused(lambda: core.create_namespaced_pod(ns.name, one("more", cpu="600m", memory="100Mi")), "cpu=600m")
    refused(lambda: core.create_namespaced_pod(ns.name, one("more", **{**asks, "memory": "100Mi", "ephemeral-storage": "1Gi"})),
            "requested: requests.example.com/dongle=2")
    made.metadata.resource_version = None
    made.spec.containers[0].resources.requests = {"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "10Gi"}
    with pytest.raises(ApiException) as error:
        core.replace_namespaced_pod("it", ns.name, made)
    assert error.value.status == 422
    quota(**used)
    core.delete_namespaced_pod("it", ns.name, grace_period_seconds=0)
    quota(pods="0", cpu="0", memory="0", ephemeral_storage="0", requests_example_com_dongle="0")


@pytest.mark.parametrize("scopes, inside, outside", [
    (("BestEffort", "NotBestEffort"), {}, {"resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "20m"}}}),
    (("Terminating", "NotTerminating"), {"deadline": 3600}, {}),
])
def test_scopes_choose_the_pods_that_count(ns, core, scopes, inside, outside):
    eventually(lambda: ns.get("serviceaccount", "default"))
    for scope in scopes:
        core.create_namespaced_resource_quota(
            ns.name, {"metadata": {"name": scope.lower()}, "spec": {"hard": {"pods": "5"}, "scopes": [scope]}})
    counts = lambda first, second: [uses(ns, scope.lower(), pods=n) for scope, n in zip(scopes, (first, second))]
    counts("0", "0")
    for what, now in ((inside, ("1", "0")), (outside, ("0", "1"))):
        deadline = what.get("deadline")
        more = {k: v for k, v in what.items() if k != "deadline"}
        ns.apply(pod("it", "sleep", "3600", spec={"activeDeadlineSeconds": deadline} if deadline else {}, **more))
        counts(*now)
        core.delete_namespaced_pod("it", ns.name, grace_period_seconds=0)
        counts("0", "0")


def test_it_is_listed_patched_updated_and_deleted_and_follows_its_spec(ns, core):
    first = {"metadata": {"name": "it", "labels": {"mine": ns.name}}, "spec": {"hard": {"cpu": "1", "memory": "500Mi"}}}
    core.create_namespaced_resource_quota(ns.name, first)
    [listed] = core.list_resource_quota_for_all_namespaces(label_selector=f"mine={ns.name}").items
    assert listed.spec.hard == {"cpu": "1", "memory": "500Mi"}
    patched = core.patch_namespaced_resource_quota("it", ns.name, {"metadata": {"labels": {"it": "patched"}}, "spec": {"hard": {"memory": "750Mi"}}})
    assert patched.metadata.labels["it"] == "patched" and patched.spec.hard == {"cpu": "1", "memory": "750Mi"}
    follows = lambda **hard: eventually(lambda: ns.get("quota", "it")["status"]["hard"] == hard, timeout=10)
    follows(cpu="1", memory="750Mi")
    now = core.read_namespaced_resource_quota("it", ns.name)
    now.spec.hard = {"cpu": "2", "memory": "1Gi"}
    assert core.replace_namespaced_resource_quota("it", ns.name, now).spec.hard == {"cpu": "2", "memory": "1Gi"}
    follows(cpu="2", memory="1Gi")
    # What somebody else writes into its status is seen, and put right again.
    watch = kubernetes.watch.Watch()
    events = watch.stream(core.list_namespaced_resource_quota, ns.name, timeout_seconds=10)
    next(events)
    wrong = core.patch_namespaced_resource_quota_status("it", ns.name, {"status": {"hard": {"cpu": "3", "memory": "3Gi"}}})
    assert wrong.status.hard == {"cpu": "3", "memory": "3Gi"} and wrong.spec.hard == {"cpu": "2", "memory": "1Gi"}
    assert next(events)["object"].status.hard == {"cpu": "3", "memory": "3Gi"}
    watch.stop()
    follows(cpu="2", memory="1Gi")
    core.delete_collection_namespaced_resource_quota(ns.name, label_selector=f"mine={ns.name}")
    assert core.list_namespaced_resource_quota(ns.name).items == []


def test_describe_quota_and_namespace_show_what_is_used(ns, core, quota):
    ns.apply(deployment("web"))
    quota(count_replicasets_apps="1")
    described = ns.kubectl("describe", "quota", "test-quota").splitlines()
    assert "count/replicasets.apps 1 5".split() in [line.split() for line in described]
    assert "test-quota" in ns.kubectl("describe", "namespace", ns.name)

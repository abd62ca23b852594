"""A small operator written with kube (tests/operator), run as people run theirs: as pods with an account of its own, its webhooks behind
a Service, over TLS. And what else people do with kube, as checks of the same program from outside the cluster."""

import base64
import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

import images
from cluster import BINARY, Cluster, Namespace, eventually
from registry import Registry

OPERATOR = pathlib.Path(BINARY).with_name("orlop-test-operator")
SYSTEM, GROUP = "site-system", "sites.example.com"
ADMISSION = "admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def operator():
    """The path of the program."""
    assert OPERATOR.exists(), "build it first: cargo build --package orlop-test-operator"
    return OPERATOR


def program_layer(program, folder):
    """A layer with a program, without its symbols, and the libraries that it is linked with."""
    libraries = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout)
    subprocess.run(["strip", "-o", folder / "stripped", program], check=True)
    files = {"bin/operator": (folder / "stripped").read_bytes()} | {path.lstrip("/"): pathlib.Path(path).read_bytes() for path in libraries}
    return images.layer(files)


def certificates(folder, name):
    """An authority, and a certificate of it for a Service: PEM texts of the authority, the certificate and its key."""
    ssl = lambda *arguments: subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=folder)
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    ssl("req", "-x509", *new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
    ssl("req", "-x509", *new, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", "ca.crt", "-CAkey", "ca.key", "-keyout", "tls.key", "-out", "tls.crt")
    return [(folder / file).read_text() for file in ("ca.crt", "tls.crt", "tls.key")]


def rights():
    rule = lambda groups, resources, *verbs: {"apiGroups": groups, "resources": resources, "verbs": list(verbs)}
    return [
        rule([GROUP], ["sites"], "get", "list", "watch", "patch"),
        rule([GROUP], ["sites/status"], "patch"),
        rule([GROUP], ["sites/finalizers"], "update"),
        rule(["", "apps"], ["configmaps", "deployments"], "get", "list", "watch", "create", "patch"),
        rule(["events.k8s.io"], ["events"], "create", "patch"),
        rule(["coordination.k8s.io"], ["leases"], "get", "create", "update"),
    ]


def manifests(image, certificate, key):
    """What is installed before the kind and the webhooks, as an operator's chart has it."""
    meta = {"name": "site-operator", "namespace": SYSTEM}
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    field = lambda name, path: {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
    container = {
        "name": "operator", "image": image, "command": ["/bin/operator", "run"],
        "env": [field("NAMESPACE", "metadata.namespace"), field("POD", "metadata.name"), {"name": "CERTIFICATE", "value": "/certificate"}],
        "ports": [{"name": "https", "containerPort": 8443}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "https", "scheme": "HTTPS"}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "runAsUser": 1000,
                            "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "certificate", "mountPath": "/certificate", "readOnly": True}],
    }
    spec = {"serviceAccountName": "site-operator", "containers": [container], "terminationGracePeriodSeconds": 2,
            "volumes": [{"name": "certificate", "secret": {"secretName": "site-operator"}}]}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {**rbac, "kind": "ClusterRole", "metadata": {"name": "site-operator"}, "rules": rights()},
        {**rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "site-operator"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "site-operator"},
         "subjects": [{"kind": "ServiceAccount", "name": "site-operator", "namespace": SYSTEM}]},
        {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": meta, "stringData": {"tls.crt": certificate, "tls.key": key}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta,
         "spec": {"selector": {"app": "site-operator"}, "ports": [{"port": 443, "targetPort": "https"}]}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "site-operator"}},
            "template": {"metadata": {"labels": {"app": "site-operator"}}, "spec": spec}}},
    ]


def reached_by(path, authority):
    bundle = base64.b64encode(authority.encode()).decode()
    return {"caBundle": bundle, "service": {"namespace": SYSTEM, "name": "site-operator", "path": path}}


def webhooks(authority):
    """Rules about v2: what comes in v1 is converted for them."""
    hook = lambda verb, *operations: {
        "name": f"{verb}.{GROUP}", "clientConfig": reached_by(f"/{verb}", authority), "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "rules": [{"apiGroups": [GROUP], "apiVersions": ["v2"], "operations": list(operations), "resources": ["sites"]}]}
    meta = {"name": "site-operator"}
    return [
        {"apiVersion": ADMISSION, "kind": "MutatingWebhookConfiguration", "metadata": meta, "webhooks": [hook("mutate", "CREATE", "UPDATE")]},
        {"apiVersion": ADMISSION, "kind": "ValidatingWebhookConfiguration", "metadata": meta,
         "webhooks": [hook("validate", "CREATE", "UPDATE", "DELETE")]},
    ]


class Installed:
    """A cluster with the operator in it."""

    def __init__(self, cluster, operator, folder, image):
        self.cluster, self.operator = cluster, operator
        self.authority, certificate, key = certificates(folder, f"site-operator.{SYSTEM}.svc")
        self.apply_kind("v1")
        cluster.apply({"apiVersion": "v1", "kind": "List", "items": manifests(image, certificate, key)})
        cluster.kubectl("wait", "--for=condition=Established", f"crd/sites.{GROUP}", "--timeout=10s")
        cluster.kubectl("rollout", "status", "-n", SYSTEM, "deployment/site-operator", "--timeout=60s")
        for configuration in webhooks(self.authority):
            cluster.apply(configuration)
        eventually(self.leader, what="a leader")

    def kind(self, stored):
        """The definition that kube derives, with its conversion."""
        text = subprocess.run([self.operator, "crd", stored], capture_output=True, text=True, check=True).stdout
        definition = json.loads(text)
        webhook = {"clientConfig": reached_by("/convert", self.authority), "conversionReviewVersions": ["v1"]}
        definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
        return definition

    def apply_kind(self, stored):
        self.cluster.apply(self.kind(stored))

    def leader(self):
        return self.cluster.get("lease", "-n", SYSTEM, "site-operator")["spec"].get("holderIdentity")

    def log(self):
        return self.cluster.kubectl("logs", "-n", SYSTEM, "-l", "app=site-operator", "--prefix", "--tail=50")


@pytest.fixture(scope="module")
def installed(tmp_path_factory, archive, operator):
    folder = tmp_path_factory.mktemp("operator")
    cluster = Cluster(folder / "cluster")
    cluster.root.mkdir()
    with Registry(folder) as registry:
        registry.start()
        registry.push("site-operator", "1", program_layer(operator, folder))
        try:
            cluster.start()
            cluster.import_image(archive)
            yield Installed(cluster, operator, folder, f"{registry.address}/site-operator:1")
        finally:
            cluster.end()
            cluster.reset()


@pytest.fixture
def sites(installed, request):
    """A namespace for the sites of one test."""
    name = re.sub(r"[^a-z]+", "-", request.node.name)[5:40].strip("-")
    installed.cluster.kubectl("create", "namespace", name)
    namespace = Namespace(installed.cluster, name)
    namespace.installed = installed
    return namespace


def site(name, version="v2", notes=None, **spec):
    return {"apiVersion": f"{GROUP}/{version}", "kind": "Site", "metadata": {"name": name, "annotations": notes or {}}, "spec": spec}


def ready(sites, name, replicas=1):
    def check():
        found = sites.get(f"sites.v2.{GROUP}", name)
        assert found["status"]["replicas"] == replicas and found["status"]["observedGeneration"] == found["metadata"]["generation"], found
        return found["status"]["conditions"][0]["status"] == "True" and found

    try:
        return eventually(check, what=f"site {name} ready")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{sites.installed.log()}") from None


def page(sites, name, file):
    pod = sites.pods(f"site={name}")[0]["metadata"]["name"]
    return sites.kubectl("get", "--raw", f"/api/v1/namespaces/{sites.name}/pods/{pod}:8080/proxy/{file}")


def test_sites_of_both_versions_are_served_and_read_in_either(sites):
    old = sites.run("apply", "-f", "-", input=site("old", "v1", page="from v1\n"))
    assert "Warning: sites.example.com/v1 is old: say v2" in old.stderr
    sites.apply(site("new", pages={"index.html": "from v2\n", "more": "again\n"}, replicas=2, theme="Dark"))
    ready(sites, "old"), ready(sites, "new", 2)
    assert page(sites, "old", "index.html") == "from v1\n" and page(sites, "new", "more") == "again\n"
    assert sites.get("configmap", "new")["data"]["style.css"].startswith("body")
    assert sites.get(f"sites.v2.{GROUP}", "old")["spec"] == {"pages": {"index.html": "from v1\n"}, "replicas": 1, "theme": "Plain"}
    both = sites.get(f"sites.v1.{GROUP}")["items"]
    assert {(s["metadata"]["name"], s["apiVersion"], s["spec"]["page"], s["spec"].get("copies")) for s in both} == {
        ("old", f"{GROUP}/v1", "from v1\n", 1), ("new", f"{GROUP}/v1", "from v2\n", 2)}
    # A write in v1 keeps what only v2 can say.
    sites.kubectl("patch", f"sites.v1.{GROUP}", "new", "--type=merge", "-p", '{"spec": {"page": "changed\\n"}}')
    spec = sites.get(f"sites.v2.{GROUP}", "new")["spec"]
    assert spec == {"pages": {"index.html": "changed\n", "more": "again\n"}, "replicas": 2, "theme": "Dark"}
    assert re.search(r"NAME +WANTED +READY\nnew +2 +True\nold +1 +True", sites.kubectl("get", "web"))
    owner = sites.get("deployment", "new")["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "Site" and owner["controller"] and owner["apiVersion"] == f"{GROUP}/v2"
    assert "Served" in sites.kubectl("events", "--for", "site/new")
    described = sites.kubectl("describe", "site", "old")
    assert "1 of 1 pods are ready" in described and "Served" in described


def test_the_webhooks_change_warn_and_refuse_in_either_version(sites):
    sites.apply(site("a", pages={"one": "1"}))
    made = sites.get("site", "a")
    assert made["metadata"]["labels"][f"{GROUP}/pages"] == "2" and made["spec"]["pages"]["index.html"] == "The pages of a\n"
    sites.apply(site("b", "v1", page="x"))
    assert sites.get("site", "b")["metadata"]["labels"][f"{GROUP}/pages"] == "1"
    denied = f'admission webhook "validate.{GROUP}" denied the request: 6 replicas are too many: at most 5'
    assert denied in sites.refused("apply", "-f", "-", input=site("c", pages={}, replicas=6))
    assert denied in sites.refused("apply", "-f", "-", input=site("c", "v1", page="", copies=6))
    assert "Warning: nobody will serve this site" in sites.run("patch", "site", "b", "--type=merge", "-p", '{"spec": {"replicas": 0}}').stderr
    # What the definition itself forbids, as derived.
    dark = sites.run("patch", "site", "a", "--type=merge", "-p", '{"spec": {"theme": "Dark"}}')
    assert "patched" in dark.stdout
    refused = lambda spec: sites.refused("patch", "site", "a", "--type=merge", "-p", json.dumps({"spec": spec}))
    assert "failed rule: oldSelf != 'Dark' || self == 'Dark'" in refused({"theme": "Plain"})
    assert "spec.replicas in body should be greater than or equal to 0" in refused({"replicas": -1})
    assert "nobody serves what is exposed" in refused({"replicas": 0, "exposure": {"inside": {}}})
    assert "Duplicate value" in refused({"aliases": ["x", "x"]})


def test_a_site_is_scaled_kept_and_cleaned_up(sites):
    sites.apply(site("a", pages={"x": "y"}, notes={f"{GROUP}/keep": "true"}))
    ready(sites, "a")
    sites.kubectl("scale", "site/a", "--replicas=2")
    ready(sites, "a", 2)
    scale = json.loads(sites.kubectl("get", "--raw", f"/apis/{GROUP}/v2/namespaces/{sites.name}/sites/a/scale"))
    assert scale["spec"]["replicas"] == 2 and scale["status"] == {"replicas": 2, "selector": "site=a"}
    # The operator puts back what others take away.
    sites.kubectl("delete", "deployment", "a")
    ready(sites, "a", 2)
    sites.kubectl("patch", "configmap", "a", "--type=merge", "-p", '{"data": {"x": "spoilt"}}')
    eventually(lambda: sites.get("configmap", "a")["data"]["x"] == "y")
    assert "the site is kept: remove the annotation first" in sites.refused("delete", "site", "a")
    sites.kubectl("annotate", "site", "a", f"{GROUP}/keep-")
    sites.kubectl("delete", "site", "a", "--timeout=10s")
    assert sites.get("configmap", "ledger")["data"] == {"a": "2 pages"}
    # The collector looks for new kinds now and then: as in Kubernetes, the first time may take it half a minute.
    eventually(lambda: not sites.pods() and not sites.get("deployments")["items"], timeout=75, what="the children gone")


def test_another_pod_takes_over_and_nothing_is_lost(installed, sites):
    cluster = installed.cluster
    sites.apply(site("before", pages={}))
    ready(sites, "before")
    first = installed.leader()
    cluster.kubectl("delete", "pod", "-n", SYSTEM, first, "--grace-period=0", "--force")
    # The Service may still name the dead pod for a moment.
    eventually(lambda: sites.kubectl("apply", "-f", "-", input=site("between", pages={})))
    eventually(lambda: sites.kubectl("delete", "site", "before", "--wait=false"))
    ready(sites, "between")
    second = installed.leader()
    assert second and second != first
    eventually(lambda: sites.run("get", "site", "before", check=False).returncode != 0, what="the site gone")
    # Through a restart of the server: its watches end, its caches and their history are new.
    cluster.end(signal.SIGKILL)
    cluster.start()
    eventually(lambda: sites.kubectl("apply", "-f", "-", input=site("after", pages={})))
    sites.kubectl("patch", "site", "between", "--type=merge", "-p", '{"spec": {"replicas": 2}}')
    ready(sites, "after"), ready(sites, "between", 2)
    stored = lambda: json.loads(cluster.raw(f"/api/v1/namespaces/{SYSTEM}/services/https:site-operator:443/proxy/sites"))
    here = lambda: [name for name in stored() if name.startswith(f"{sites.name}/")]
    eventually(lambda: here() == [f"{sites.name}/after", f"{sites.name}/between"], what="the reflector's store")


def test_the_stored_version_moves_and_the_old_one_goes(installed, sites):
    cluster, crd = installed.cluster, f"sites.{GROUP}"
    sites.apply(site("a", "v1", page="x\n"), site("b", pages={"index.html": "y\n", "more": "z"}, theme="Dark"))
    installed.apply_kind("v2")
    eventually(lambda: cluster.get("crd", crd)["status"]["storedVersions"] == ["v1", "v2"])
    without = installed.kind("v2")
    without["spec"]["versions"] = [version for version in without["spec"]["versions"] if version["name"] == "v2"]
    without["spec"]["conversion"] = {"strategy": "None"}
    assert 'status.storedVersions[0]: Invalid value: "v1": missing from spec.versions' in cluster.refused("apply", "-f", "-", input=without)
    # Every object is written anew: it is stored in v2 then, even if it is as it was.
    # The operator writes their status meanwhile.
    write = lambda: cluster.kubectl("replace", "-f", "-", input=cluster.get(f"sites.v2.{GROUP}", "--all-namespaces"))
    eventually(write, what="everything written anew")
    cluster.kubectl("patch", "crd", crd, "--subresource=status", "--type=merge", "-p", '{"status": {"storedVersions": ["v2"]}}')
    # Without the operator v1 cannot be read, and v2 can.
    cluster.kubectl("scale", "-n", SYSTEM, "deployment/site-operator", "--replicas=0")
    cluster.kubectl("wait", "-n", SYSTEM, "--for=delete", "pod", "-l", "app=site-operator", "--timeout=20s")
    assert f"conversion webhook for {GROUP}/v2, Kind=Site failed" in sites.refused("get", f"sites.v1.{GROUP}", "a")
    for kind in ("mutating", "validating"):
        cluster.kubectl("delete", f"{kind}webhookconfiguration", "site-operator")
    cluster.apply(without)
    eventually(lambda: sites.run("get", f"sites.v1.{GROUP}", check=False).returncode != 0, what="v1 gone")
    assert {s["metadata"]["name"]: s["spec"]["pages"] for s in sites.get("sites")["items"]} == {
        "a": {"index.html": "x\n"}, "b": {"index.html": "y\n", "more": "z"}}
    assert [s["metadata"]["name"] for s in sites.get("si", "--field-selector=spec.theme=Dark")["items"]] == ["b"]
    # Without webhooks it is the definition alone that refuses: enumerations, one of several keys.
    refused = lambda spec: sites.refused("patch", "site", "a", "--type=merge", "-p", json.dumps({"spec": spec}))
    assert 'Unsupported value: "Green": supported values: "Plain", "Dark"' in refused({"theme": "Green"})
    assert "must validate one and only one schema (oneOf)" in refused({"exposure": {"inside": {}, "nodePort": {"port": 30000}}})
    # Who would clean up is gone.
    for name in ("a", "b"):
        sites.kubectl("patch", "site", name, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def check(operator, cluster, name, namespace, **more):
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    return subprocess.Popen([operator, "check", name, namespace], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["discovering", "pods", "watching", "writing"])
def test_what_people_do_with_kube(operator, ns, name):
    process = check(operator, ns.cluster, name, ns.name)
    _, complaint = process.communicate(timeout=90)
    assert process.returncode == 0, complaint


def test_a_watcher_goes_on_through_a_restart_after_which_its_version_is_too_old(operator, own_cluster):
    followed = lambda name: {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"followed": "yes"}}}
    own_cluster.start()
    own_cluster.apply(followed("a"), "default")
    own_cluster.apply(followed("b"), "default")
    process = check(operator, own_cluster, "following", "default")
    try:
        assert process.stdout.readline() == "listed a b\n"
        own_cluster.apply(followed("c"), "default")
        assert process.stdout.readline() == "changed a b c\n"
        own_cluster.kubectl("create", "namespace", "other")
        own_cluster.end(signal.SIGKILL)
        own_cluster.start()
        own_cluster.kubectl("delete", "configmap", "a")
        own_cluster.apply(followed("d"), "default")
        lines = []
        while not lines or "b c d" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1], f"it ended: {lines} {process.stderr.read()}"
        assert any("too old" in line for line in lines) and not any("a b c d" in line for line in lines), lines
    finally:
        process.kill()
        process.wait()

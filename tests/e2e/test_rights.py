"""Each right from the side of someone who lacks it: a table of requests and of what each needs. For each right of each row somebody
holds all others of the table and is refused with Kubernetes' words, and somebody holds what the row names and nothing else, and may."""

import base64
import http.client
import json
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from cluster import WEB, deployment, pod
from test_identity import certificate_request, signing_request

GROUPS = {
    "deployments": "apps", "events5": "events.k8s.io", "leases": "coordination.k8s.io",
    "roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io",
    "clusterroles": "rbac.authorization.k8s.io", "clusterrolebindings": "rbac.authorization.k8s.io",
    "certificatesigningrequests": "certificates.k8s.io", "signers": "certificates.k8s.io",
    "tokenreviews": "authentication.k8s.io", "uids": "authentication.k8s.io", "userextras": "authentication.k8s.io",
    "subjectaccessreviews": "authorization.k8s.io", "localsubjectaccessreviews": "authorization.k8s.io",
    "customresourcedefinitions": "apiextensions.k8s.io", "storageclasses": "storage.k8s.io",
}
CLUSTER_WIDE = {"nodes", "namespaces", "clusterroles", "clusterrolebindings", "certificatesigningrequests", "tokenreviews",
                "subjectaccessreviews", "customresourcedefinitions", "storageclasses", "users", "groups", "uids", "userextras"}
# What whoever grants it does not hold.
UNHELD = [{"apiGroups": ["example.com"], "resources": ["unicorns"], "verbs": ["get"]}]
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
WEBSOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
             "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(), "Sec-WebSocket-Protocol": "v5.channel.k8s.io"}


class Api:
    """The API over plain HTTP, as whoever a token or a certificate says."""

    def __init__(self, cluster, folder):
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        user, server = config["users"][0]["user"], config["clusters"][0]["cluster"]
        authority = base64.b64decode(server["certificate-authority-data"]).decode()
        pem = folder / "admin.pem"
        pem.write_bytes(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
        self.port = cluster.port
        self.anybody = ssl.create_default_context(cadata=authority)
        self.administrator = ssl.create_default_context(cadata=authority)
        self.administrator.load_cert_chain(pem)

    def ask(self, method, path, body=None, kind="application/json", token=None, headers=()):
        """Code and body of an answer; of one that never ends (a watch) the code alone."""
        context = self.anybody if token else self.administrator
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)
        headers = {"Content-Type": kind, **({"Authorization": f"Bearer {token}"} if token else {}), **dict(headers)}
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            endless = answer.status == 101 or "watch=1" in path and answer.status == 200
            return answer.status, b"" if endless else answer.read()
        finally:
            connection.close()

    def make(self, path, body):
        code, answer = self.ask("POST", path, body)
        assert code in (200, 201), (path, answer)
        return json.loads(answer)


class Row:
    """A request, the code of its answer to those who may, and the rights that it needs, the authorizer's first."""

    def __init__(self, *rights, via, body=None, kind="application/json", headers=(), code=200, says=None):
        self.rights, self.body, self.kind, self.headers, self.code = rights, body, kind, headers, code
        self.method, self.path = via.split(" ")
        # What those are told who lack the second right, where the authorizer does not word it.
        self.says = says

    def __repr__(self):
        return f"{self.method} {self.path}"


def rule(right):
    """A rule of RBAC out of "verb resource/subresource", "verb resource:name" or "verb /path"."""
    verb, what = right.split(" ")
    if what.startswith("/"):
        return {"verbs": [verb], "nonResourceURLs": [what]}
    what, _, name = what.partition(":")
    return {"verbs": [verb], "apiGroups": [GROUPS.get(what.split("/")[0], "")], "resources": [what.replace("events5", "events")],
            **({"resourceNames": [name]} if name else {})}


def map_named(name, **more):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **more}, "data": {"a": "1"}}


def role_named(name, kind="Role"):
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "rules": UNHELD}


def binding_named(name, to, kind="Role"):
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": to},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "joe"}]}


def rows(space, node, requests):
    """The table. Every name in it exists, or is made by its row."""
    approved, signed = ({**request, "status": {"conditions": [{"type": kind, "status": "True", "reason": "E2e", "message": "e2e"}]}}
                        for request, kind in zip(requests, ("Approved", "Failed")))
    path_of = lambda request: "/apis/certificates.k8s.io/v1/certificatesigningrequests/" + request["metadata"]["name"]
    core, maps, pods = f"/api/v1/namespaces/{space}", f"/api/v1/namespaces/{space}/configmaps", f"/api/v1/namespaces/{space}/pods"
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space}"
    web = f"/apis/apps/v1/namespaces/{space}/deployments/web"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "new"}, "spec": {}}
    space_itself = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}, "spec": {"finalizers": ["kubernetes"]}}
    granting = "is attempting to grant RBAC permissions not currently held:\n"
    granted = '{APIGroups:["example.com"], Resources:["unicorns"], Verbs:["get"]}'
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web", "namespace": space}, "spec": {"replicas": 0}}
    me = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    authorization = {"apiVersion": "authorization.k8s.io/v1", "spec": {"user": "joe", "resourceAttributes": {"verb": "get", "resource": "pods"}}}
    here = {**authorization["spec"], "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": space}}
    return [
        # Every verb, on a kind of a namespace.
        Row("get configmaps", via=f"GET {maps}/kept"),
        Row("list configmaps", via=f"GET {maps}"),
        Row("watch configmaps", via=f"GET {maps}?watch=1"),
        Row("watch configmaps", via=f"GET /api/v1/watch/namespaces/{space}/configmaps?watch=1"),
        Row("create configmaps", via=f"POST {maps}", body=map_named("made"), code=201),
        Row("create configmaps", via=f"POST {maps}?dryRun=All", body=map_named("never"), code=201),
        Row("update configmaps", via=f"PUT {maps}/kept", body=map_named("kept")),
        Row("patch configmaps", via=f"PATCH {maps}/kept", body={"data": {"b": "2"}}, kind=MERGE),
        Row("patch configmaps", via=f"PATCH {maps}/kept?fieldManager=e2e&force=true", body=map_named("kept"), kind=APPLY),
        Row("patch configmaps", "create configmaps", via=f"PATCH {maps}/applied?fieldManager=e2e", body=map_named("applied"), kind=APPLY, code=201),
        Row("delete configmaps", via=f"DELETE {maps}/leaving"),
        Row("deletecollection configmaps", via=f"DELETE {maps}?labelSelector=none"),
        Row("update leases", "create leases", via=f"PUT /apis/coordination.k8s.io/v1/namespaces/{space}/leases/new", body=lease, code=201),
        # By name, which lists and watches are when their field selector names one.
        Row("get secrets:named", via=f"GET {core}/secrets/named"),
        Row("patch secrets:named", via=f"PATCH {core}/secrets/named", body={"stringData": {"b": "2"}}, kind=MERGE),
        Row("list secrets:named", via=f"GET {core}/secrets?fieldSelector=metadata.name%3Dnamed"),
        Row("watch secrets:named", via=f"GET {core}/secrets?watch=1&fieldSelector=metadata.name%3Dnamed"),
        Row("delete secrets:going", via=f"DELETE {core}/secrets/going"),
        # The same kind in two groups.
        Row("list events", via=f"GET {core}/events"),
        Row("list events5", via=f"GET /apis/events.k8s.io/v1/namespaces/{space}/events"),
        # What is of no namespace, and what is asked for in all.
        Row("get nodes", via=f"GET /api/v1/nodes/{node}"),
        Row("list nodes", via="GET /api/v1/nodes"),
        Row("patch nodes", via=f"PATCH /api/v1/nodes/{node}?dryRun=All", body={"metadata": {"labels": {"e2e": "x"}}}, kind=MERGE),
        Row("patch nodes/status", via=f"PATCH /api/v1/nodes/{node}/status?dryRun=All", body={"status": {}}, kind=MERGE),
        Row("get nodes/proxy", via=f"GET /api/v1/nodes/{node}/proxy/healthz"),
        Row("get namespaces", via=f"GET {core}"),
        Row("create namespaces", via="POST /api/v1/namespaces?dryRun=All", code=201,
            body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "never"}}),
        Row("update namespaces/finalize", via=f"PUT {core}/finalize", body=space_itself),
        Row("list customresourcedefinitions", via="GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
        Row("create storageclasses", via="POST /apis/storage.k8s.io/v1/storageclasses?dryRun=All", code=201, body={
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "never"}, "provisioner": "example.com/none"}),
        Row("list services", via="GET /api/v1/services"),
        # Subresources are rights of their own.
        Row("get deployments/scale", via=f"GET {web}/scale"),
        Row("update deployments/scale", via=f"PUT {web}/scale", body=scale),
        Row("patch deployments/scale", via=f"PATCH {web}/scale", body={"spec": {"replicas": 0}}, kind=MERGE),
        Row("get deployments/status", via=f"GET {web}/status"),
        Row("patch deployments/status", via=f"PATCH {web}/status", body={"status": {"observedGeneration": 0}}, kind=MERGE),
        Row("get pods/log", via=f"GET {pods}/it/log"),
        Row("get pods/status", via=f"GET {pods}/it/status"),
        Row("create pods/exec", via=f"POST {pods}/it/exec?command=true&stdout=1", code=400),
        Row("get pods/exec", "create pods/exec", via=f"GET {pods}/it/exec?command=true&stdout=1", headers=WEBSOCKET, code=101),
        Row("create pods/attach", via=f"POST {pods}/it/attach?stdout=1", code=400),
        Row("get pods/attach", "create pods/attach", via=f"GET {pods}/it/attach?stdout=1", headers=WEBSOCKET, code=101),
        Row("create pods/portforward", via=f"POST {pods}/it/portforward?ports=8080", code=400),
        Row("get pods/portforward", "create pods/portforward", via=f"GET {pods}/it/portforward?ports=8080", code=101,
            headers={**WEBSOCKET, "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io"}),
        Row("get pods/proxy", via=f"GET {pods}/it:8080/proxy/"),
        Row("create pods/proxy", via=f"POST {pods}/it:8080/proxy/", body={}, code=501),
        Row("get services/proxy", via=f"GET {core}/services/none/proxy/", code=404),
        Row("create pods/eviction", via=f"POST {pods}/it/eviction?dryRun=All", code=201,
            body={"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "it"}}),
        Row("create pods/binding", via=f"POST {pods}/it/binding", code=409, body={
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "it"}, "target": {"kind": "Node", "name": node}}),
        Row("patch pods/ephemeralcontainers", via=f"PATCH {pods}/it/ephemeralcontainers?dryRun=All", kind=MERGE,
            body={"spec": {"ephemeralContainers": [{"name": "x", "image": "e2e.test/busybox:1"}]}}),
        Row("patch pods/resize", via=f"PATCH {pods}/it/resize?dryRun=All", kind="application/strategic-merge-patch+json",
            body={"spec": {"containers": [{"name": "main", "resources": {}}]}}),
        Row("create serviceaccounts/token", via=f"POST {core}/serviceaccounts/default/token", code=201,
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        # Rights that are checked beside the verb of the request.
        Row("create roles", "escalate roles", via=f"POST {rbac}/roles", body=role_named("made"), code=201, says=f"{granting}{granted}"),
        Row("update roles", "escalate roles", via=f"PUT {rbac}/roles/kept", says=f"{granting}{granted}", body={
            **role_named("kept"), "rules": [*UNHELD, *UNHELD]}),
        Row("create clusterroles", "escalate clusterroles", via="POST /apis/rbac.authorization.k8s.io/v1/clusterroles?dryRun=All",
            body=role_named("never", "ClusterRole"), code=201, says=f"{granting}{granted}"),
        Row("create rolebindings", "bind roles:kept", via=f"POST {rbac}/rolebindings", body=binding_named("made", "kept"),
            code=201, says=f"{granting}{granted}"),
        Row("create rolebindings", "bind clusterroles", via=f"POST {rbac}/rolebindings", code=201, says=granting,
            body=binding_named("more", "cluster-admin", "ClusterRole")),
        Row("impersonate users", via=f"POST {me}", body=review, code=201, headers={"Impersonate-User": "joe"}),
        Row("impersonate users", "impersonate groups:dev", via=f"POST {me}", body=review, code=201,
            headers={"Impersonate-User": "joe", "Impersonate-Group": "dev"},
            says='groups "dev" is forbidden: User "{user}" cannot impersonate resource "groups" in API group "" at the cluster scope'),
        Row("impersonate users", "impersonate uids", via=f"POST {me}", body=review, code=201,
            headers={"Impersonate-User": "joe", "Impersonate-Uid": "7"}, says='cannot impersonate resource "uids" in API group "authentication.k8s.io"'),
        Row("impersonate users", "impersonate userextras/scopes", via=f"POST {me}", body=review, code=201,
            headers={"Impersonate-User": "joe", "Impersonate-Extra-Scopes": "view"},
            says='cannot impersonate resource "userextras/scopes" in API group "authentication.k8s.io"'),
        Row("impersonate serviceaccounts", via=f"POST {me}", body=review, code=201,
            headers={"Impersonate-User": f"system:serviceaccount:{space}:default"}),
        Row("update certificatesigningrequests/approval", "approve signers:example.com/e2e", via=f"PUT {path_of(approved)}/approval", body=approved,
            says='user not permitted to approve requests with signerName "example.com/e2e"'),
        Row("update certificatesigningrequests/status", "sign signers:example.com/*", via=f"PUT {path_of(signed)}/status", body=signed,
            says='user not permitted to sign requests with signerName "example.com/e2e"'),
        Row("create tokenreviews", via="POST /apis/authentication.k8s.io/v1/tokenreviews", code=201,
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}}),
        Row("create subjectaccessreviews", via="POST /apis/authorization.k8s.io/v1/subjectaccessreviews", code=201,
            body={**authorization, "kind": "SubjectAccessReview"}),
        Row("create localsubjectaccessreviews", via=f"POST /apis/authorization.k8s.io/v1/namespaces/{space}/localsubjectaccessreviews",
            code=201, body={**authorization, "kind": "LocalSubjectAccessReview", "spec": here}),
        # Paths that are no resources.
        Row("get /metrics", via="GET /metrics"),
        Row("get /custom/*", via="GET /custom/path", code=404),
        Row("post /custom", via="POST /custom", body={}, code=404),
    ]


@pytest.fixture
def api(cluster, tmp_path):
    return Api(cluster, tmp_path)


class People:
    """Service accounts with the given rights in the whole cluster."""

    def __init__(self, api, space):
        self.api, self.space = api, space

    def user(self, name):
        return f"system:serviceaccount:{self.space}:{name}"

    def add(self, name, rights):
        """The token of a new one."""
        core, rbac = f"/api/v1/namespaces/{self.space}", "/apis/rbac.authorization.k8s.io/v1"
        # RBAC's own rule: paths and resources are not in one rule, and each right of ours is one.
        meta = {"name": f"{self.space}-{name}", "labels": {"e2e": self.space}}
        self.api.make(f"{core}/serviceaccounts", {"metadata": {"name": name}})
        self.api.make(f"{rbac}/clusterroles", {"metadata": meta, "rules": [rule(right) for right in sorted(rights)]})
        self.api.make(f"{rbac}/clusterrolebindings", {
            "metadata": meta, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": meta["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.space}]})
        return self.api.make(f"{core}/serviceaccounts/{name}/token", {"spec": {}})["status"]["token"]

    def forget(self):
        for kind in ("clusterrolebindings", "clusterroles"):
            self.api.ask("DELETE", f"/apis/rbac.authorization.k8s.io/v1/{kind}?labelSelector=e2e%3D{self.space}")


@pytest.fixture
def people(api, ns):
    people = People(api, ns.name)
    yield people
    people.forget()


def refusal(right, user, space, row):
    """The words of Kubernetes' authorizer to someone who lacks a right."""
    verb, what = right.split(" ")
    if what.startswith("/"):
        return f'forbidden: User "{user}" cannot {verb} path "{row.path}"'
    resource = what.partition(":")[0]
    kind, group = resource.split("/")[0], GROUPS.get(resource.split("/")[0], "")
    shown, kind = resource.replace("events5", "events"), kind.replace("events5", "events")
    where = "at the cluster scope"
    if f"/namespaces/{space}" in row.path and kind not in CLUSTER_WIDE or verb == "impersonate" and kind == "serviceaccounts":
        where = f'in the namespace "{space}"'
    if kind == "namespaces":
        where = f'in the namespace "{space}"' if space in row.path else where
    return f'is forbidden: User "{user}" cannot {verb} resource "{shown}" in API group "{group}" {where}'


def test_whoever_lacks_a_right_is_refused_and_whoever_has_it_alone_may(cluster, ns, api, people, tmp_path):
    maps = f"/api/v1/namespaces/{ns.name}/configmaps"
    ns.apply(pod("it", *WEB), deployment("web", 0))
    for name in ("kept", "leaving"):
        api.make(maps, map_named(name))
    for name in ("named", "going"):
        api.make(f"/api/v1/namespaces/{ns.name}/secrets", {"metadata": {"name": name}})
    api.make(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ns.name}/roles", role_named("kept"))
    request = signing_request(tmp_path, "/CN=joe")[1]
    requests = [api.make("/apis/certificates.k8s.io/v1/certificatesigningrequests",
                         certificate_request(f"{ns.name}-{end}", request, "example.com/e2e")) for end in ("approved", "signed")]
    table = rows(ns.name, cluster.node, requests)
    everything = {right for row in table for right in row.rights}
    ns.wait_ready("it")

    def without(right):
        """What everybody of the table may but those who lack the right are told."""
        name = f"lacks-{sorted(everything).index(right)}"
        token, answers = people.add(name, everything - {right}), []
        for row in table:
            if right in row.rights:
                code, body = api.ask(row.method, row.path, row.body, row.kind, token, row.headers)
                words = refusal(right, people.user(name), ns.name, row)
                if row.says and row.rights.index(right) > 0:
                    words = row.says.replace("{user}", people.user(name))
                answers.append((row, right, code, body, words))
        return answers

    def alone(number):
        row = table[number]
        token = people.add(f"has-{number}", row.rights)
        return row, *api.ask(row.method, row.path, row.body, row.kind, token, row.headers)

    wrong = []
    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(without, sorted(everything)):
            for row, right, code, body, words in answers:
                status = json.loads(body) if code == 403 else {}
                if (code, status.get("reason"), status.get("kind")) != (403, "Forbidden", "Status") or words not in status["message"]:
                    wrong.append(f"{row} without {right}: {code} {body}\n   wanted: {words}")
        for row, code, body in pool.map(alone, range(len(table))):
            if code != row.code:
                wrong.append(f"{row} with {row.rights}: {code}, not {row.code}: {body}")
    cluster.kubectl("delete", "csr", *(request["metadata"]["name"] for request in requests))
    assert not wrong, "\n".join(wrong)


def test_a_name_opens_nothing_else(ns, api, people):
    secrets = f"/api/v1/namespaces/{ns.name}/secrets"
    for name in ("named", "other"):
        api.make(secrets, {"metadata": {"name": name}})
    verbs = ("get", "list", "watch", "delete", "create", "deletecollection")
    token = people.add("somebody", [f"{verb} secrets:named" for verb in verbs])
    for method, path in (("GET", f"{secrets}/other"), ("GET", secrets), ("GET", f"{secrets}?watch=1"), ("DELETE", f"{secrets}/other"),
                         ("GET", f"{secrets}?fieldSelector=metadata.name%3Dother"), ("DELETE", secrets),
                         ("GET", f"{secrets}?fieldSelector=metadata.name!%3Dother")):
        assert api.ask(method, path, token=token)[0] == 403, (method, path)
    # A create has no name when it is authorized.
    assert api.ask("POST", secrets, {"metadata": {"name": "named"}}, token=token)[0] == 403
    # Nor does a collection that is deleted, whatever selects it.
    assert api.ask("DELETE", f"{secrets}?fieldSelector=metadata.name%3Dnamed", token=token)[0] == 403
    assert api.ask("DELETE", f"{secrets}/named", token=token)[0] == 200
    assert api.ask("GET", f"{secrets}/named")[0] == 404 and api.ask("GET", f"{secrets}/other")[0] == 200


def test_whoever_is_unknown_is_told_so_and_whoever_is_anonymous_sees_health_alone(api):
    assert api.ask("GET", "/api/v1/pods", token="no.such.token")[0] == 401
    for path, code in (("/healthz", 200), ("/version", 200), ("/api", 403), ("/api/v1/pods", 403), ("/metrics", 403), ("/apis", 403)):
        connection = http.client.HTTPSConnection("127.0.0.1", api.port, context=api.anybody, timeout=20)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        assert answer.status == code, (path, body)
        if code == 403:
            assert 'User "system:anonymous" cannot' in json.loads(body)["message"].replace('\\"', '"'), body

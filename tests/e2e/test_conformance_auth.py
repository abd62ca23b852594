"""What the conformance programme asks of accounts, tokens, reviews and certificate requests."""

import base64
import http.client
import json
import socket
import ssl
import subprocess
import urllib.parse

import kubernetes
import pytest
from kubernetes.client.rest import ApiException

from cluster import eventually, pod

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.fixture(scope="module")
def client(cluster):
    return kubernetes.config.new_client_from_config(str(cluster.kubeconfig))


@pytest.fixture
def core(client):
    return kubernetes.client.CoreV1Api(client)


def part(token, number):
    text = token.split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def header(token):
    return part(token, 0)


def claims(token):
    return part(token, 1)


def review(cluster, token, **spec):
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, **spec}}
    return json.loads(cluster.kubectl("create", "--raw", path, "-f", "-", input=body))["status"]


def test_the_token_mounted_in_a_pod_says_who_the_pod_is(ns, core):
    core.create_namespaced_service_account(ns.name, {"metadata": {"name": "mount-test"}})
    ns.apply(pod("it", "sleep", "3600", spec={"serviceAccountName": "mount-test", "restartPolicy": "Never"}))
    ns.wait_ready("it")
    token, root, namespace = (ns.exec("it", "cat", f"{MOUNT}/{file}") for file in ("token", "ca.crt", "namespace"))
    assert namespace == ns.name
    assert root == core.read_namespaced_config_map("kube-root-ca.crt", ns.name).data["ca.crt"]
    status = review(ns.cluster, token)
    user = status["user"]
    assert status["authenticated"] and "error" not in status
    assert user["username"] == f"system:serviceaccount:{ns.name}:mount-test"
    assert {"system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{ns.name}"} <= set(user["groups"])
    extra = {key.removeprefix("authentication.kubernetes.io/"): value for key, value in user["extra"].items()}
    here, node = ns.get("pod", "it"), ns.cluster.get("node", ns.cluster.node)
    assert extra == {
        "pod-name": ["it"], "pod-uid": [here["metadata"]["uid"]],
        "node-name": [ns.cluster.node], "node-uid": [node["metadata"]["uid"]],
        "credential-id": [f"JTI={claims(token)['jti']}"],
    }


def test_a_pod_may_go_without_a_token(ns, core):
    """Tried as dry runs: admission alone decides. What the pod says counts more than what the account says."""
    for name, mounts in (("mount", True), ("nomount", False)):
        core.create_namespaced_service_account(ns.name, {"metadata": {"name": name}, "automountServiceAccountToken": mounts})
    eventually(lambda: ns.get("serviceaccount", "default"))
    mounted = {}
    for account in ("default", "mount", "nomount"):
        for on_pod in (None, True, False):
            spec = {"serviceAccountName": account, **({} if on_pod is None else {"automountServiceAccountToken": on_pod})}
            made = core.create_namespaced_pod(ns.name, pod("it", "true", spec=spec), dry_run="All")
            mounted[account, on_pod] = any(m.mount_path == MOUNT for m in made.spec.containers[0].volume_mounts or [])
    assert {case for case, is_mounted in mounted.items() if not is_mounted} == {
        ("nomount", None), ("default", False), ("mount", False), ("nomount", False)}


def test_a_token_of_ones_own_audience_is_projected(ns):
    projected = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600, "audience": "vault"}}
    ns.apply(pod("it", "sh", "-c", "ls -lnL /there/token; cat /there/token", volumeMounts=[{"name": "t", "mountPath": "/there", "readOnly": True}],
                 spec={"restartPolicy": "Never", "volumes": [{"name": "t", "projected": {"sources": [projected]}}]}))
    ns.wait_phase("it", "Succeeded")
    row, token = ns.logs("it").splitlines()
    assert row.startswith("-rw-r--r--"), row
    assert claims(token)["aud"] == ["vault"]
    assert claims(token)["exp"] - claims(token)["iat"] == 3600
    assert claims(token)["kubernetes.io"]["pod"]["name"] == "it"
    assert not review(ns.cluster, token).get("authenticated"), "it is for another audience"
    assert review(ns.cluster, token, audiences=["vault", "x"])["audiences"] == ["vault"]


def test_the_issuer_can_be_discovered_from_a_pod(ns):
    binding = f"{ns.name}-issuer"
    ns.cluster.kubectl("create", "clusterrolebinding", binding, "--clusterrole=system:service-account-issuer-discovery",
                       f"--serviceaccount={ns.name}:default")
    try:
        projected = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "oidc"}}
        ns.apply(pod("it", "sleep", "3600", volumeMounts=[{"name": "t", "mountPath": "/there"}],
                     spec={"volumes": [{"name": "t", "projected": {"sources": [projected]}}]}))
        ns.wait_ready("it")
        token = ns.exec("it", "cat", f"{MOUNT}/token")
        issuer = claims(ns.exec("it", "cat", "/there/token"))["iss"]
        context = ssl.create_default_context(cadata=ns.exec("it", "cat", f"{MOUNT}/ca.crt"))
        inside = ns.exec("it", "sh", "-c", "echo $KUBERNETES_SERVICE_HOST").strip()

        def get(url, with_token=True):
            """As a pod would get it: names of the cluster lead to the Service of the API server."""
            parts = urllib.parse.urlsplit(url)
            address = inside if parts.hostname.startswith("kubernetes.default") else parts.hostname
            connection = http.client.HTTPSConnection(parts.hostname, parts.port or 443, context=context, timeout=5)
            connection.sock = context.wrap_socket(socket.create_connection((address, connection.port), 5), server_hostname=parts.hostname)
            connection.request("GET", parts.path, headers={"Authorization": f"Bearer {token}"} if with_token else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        assert get(f"{issuer}/.well-known/openid-configuration", with_token=False)[0] == 403
        status, document = get(f"{issuer}/.well-known/openid-configuration")
        assert status == 200 and document["issuer"] == issuer == claims(token)["iss"]
        assert document["response_types_supported"] == ["id_token"] and document["subject_types_supported"] == ["public"]
        status, keys = get(document["jwks_uri"])
        head = header(token)
        assert status == 200 and any((k["kid"], k["alg"], k["use"]) == (head["kid"], head["alg"], "sig") for k in keys["keys"])
        assert set(document["id_token_signing_alg_values_supported"]) == {k["alg"] for k in keys["keys"]}
    finally:
        ns.cluster.kubectl("delete", "clusterrolebinding", binding)


def test_an_account_lives(ns, core):
    made = core.create_namespaced_service_account(ns.name, {"metadata": {"name": "it", "labels": {"static": "true"}}})
    assert core.read_namespaced_service_account("it", ns.name).metadata.uid == made.metadata.uid
    watch = kubernetes.watch.Watch()
    events = watch.stream(core.list_namespaced_service_account, ns.name, label_selector="static=true", timeout_seconds=20)
    assert next(events)["type"] == "ADDED"
    core.patch_namespaced_service_account("it", ns.name, {"automountServiceAccountToken": False})
    assert next(events)["type"] == "MODIFIED"
    [listed] = core.list_service_account_for_all_namespaces(label_selector="static=true").items
    assert listed.automount_service_account_token is False
    listed.automount_service_account_token = True
    assert core.replace_namespaced_service_account("it", ns.name, listed).automount_service_account_token is True
    assert next(events)["type"] == "MODIFIED"
    core.delete_collection_namespaced_service_account(ns.name)
    assert next(events)["type"] == "DELETED"
    watch.stop()
    eventually(lambda: ns.get("serviceaccount", "default"), what="the default account is back")


def test_an_empty_token_request_gives_a_token_that_is_good(ns, core):
    core.create_namespaced_service_account(ns.name, {"metadata": {"name": "it"}})
    response = core.create_namespaced_service_account_token("it", ns.name, {"spec": {}})
    assert response.status.token and response.spec.expiration_seconds == 3600 and response.spec.audiences
    status = review(ns.cluster, response.status.token)
    assert status["authenticated"] and "error" not in status
    assert not review(ns.cluster, "nonsense").get("authenticated")
    core.delete_namespaced_service_account("it", ns.name)
    assert not review(ns.cluster, response.status.token).get("authenticated")


def test_the_root_certificate_is_put_back_when_it_is_deleted_or_changed(ns, core):
    name = "kube-root-ca.crt"
    first = eventually(lambda: ns.get("configmap", name))["data"]["ca.crt"]
    core.delete_namespaced_config_map(name, ns.name, grace_period_seconds=0)

    def is_back():
        try:
            return core.read_namespaced_config_map(name, ns.name).data["ca.crt"] == first
        except ApiException as error:
            assert error.status == 404
            return False

    eventually(is_back, timeout=5)
    core.replace_namespaced_config_map(name, ns.name, {"metadata": {"name": name}, "data": {"ca.crt": ""}})
    eventually(is_back, timeout=5)


def test_reviews_tell_what_an_account_may(ns, client, core):
    authorization = kubernetes.client.AuthorizationV1Api(client)
    account = core.create_namespaced_service_account(ns.name, {"metadata": {"name": "e2e"}})
    who = {"user": f"system:serviceaccount:{ns.name}:e2e", "uid": account.metadata.uid,
           "groups": ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{ns.name}"]}
    acts = [f"--as={who['user']}", f"--as-uid={who['uid']}", *(f"--as-group={g}" for g in who["groups"])]
    attributes = {"verb": "list", "resource": "configmaps", "namespace": ns.name, "version": "v1"}

    def said():
        one = authorization.create_subject_access_review({"spec": {"resourceAttributes": attributes, **who}})
        local = authorization.create_namespaced_local_subject_access_review(
            ns.name, {"metadata": {"namespace": ns.name}, "spec": {"resourceAttributes": attributes, **who}})
        assert one.status.allowed == local.status.allowed
        return one.status.allowed

    assert said() is False
    assert "Forbidden" in ns.refused("get", "configmaps", *acts)
    ns.kubectl("create", "rolebinding", "e2e", "--clusterrole=view", f"--serviceaccount={ns.name}:e2e")
    eventually(said)
    assert "kube-root-ca.crt" in ns.kubectl("get", "configmaps", *acts)
    with pytest.raises(ApiException) as elsewhere:
        authorization.create_namespaced_local_subject_access_review(
            "default", {"spec": {"resourceAttributes": attributes, **who}})
    assert elsewhere.value.status == 400 or elsewhere.value.status == 422
    myself = json.loads(ns.kubectl("auth", "whoami", "-o", "json", *acts))
    assert myself["kind"] == "SelfSubjectReview" and myself["status"]["userInfo"]["uid"] == who["uid"]


def test_certificate_requests_have_every_verb_and_two_subresources(ns, client, tmp_path):
    certificates = kubernetes.client.CertificatesV1Api(client)
    found = {r.name: r.verbs for r in certificates.get_api_resources().resources}
    assert {"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status"} <= set(found)
    assert set(found["certificatesigningrequests/approval"]) == {"get", "patch", "update"}
    key, request, own = tmp_path / "key.pem", tmp_path / "request.pem", tmp_path / "own.pem"
    make = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key]
    subprocess.run([*make, "-subj", "/CN=e2e.test", "-addext", "subjectAltName=DNS:e2e.test", "-out", request], check=True, capture_output=True)
    subprocess.run([*make, "-subj", "/CN=e2e.test", "-x509", "-days", "1", "-out", own], check=True, capture_output=True)
    signer = f"e2e.test/{ns.name}"
    body = {"metadata": {"generateName": "e2e-csr-"}, "spec": {
        "request": base64.b64encode(request.read_bytes()).decode(), "signerName": signer, "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth"]}}
    name = [certificates.create_certificate_signing_request(body) for _ in range(3)][-1].metadata.name
    mine = {"field_selector": f"spec.signerName={signer}"}
    listed = certificates.list_certificate_signing_request(**mine)
    assert len(listed.items) == 3
    watch = kubernetes.watch.Watch()
    events = watch.stream(certificates.list_certificate_signing_request, field_selector=f"metadata.name={name}",
                          resource_version=listed.metadata.resource_version, timeout_seconds=20)
    patched = certificates.patch_certificate_signing_request(name, {"metadata": {"annotations": {"patched": "true"}}})
    patched.metadata.annotations["updated"] = "true"
    certificates.replace_certificate_signing_request(name, patched)
    event = next(events)
    assert event["type"] == "MODIFIED" and event["object"].metadata.annotations["patched"] == "true"
    watch.stop()

    patch = {"metadata": {"annotations": {"patchedapproval": "true"}},
             "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}}
    patched = certificates.patch_certificate_signing_request_approval(name, patch)
    assert [c.type for c in patched.status.conditions] == ["ApprovalPatch"]
    assert patched.metadata.annotations["patchedapproval"] == "true"
    patched.status.conditions.append(kubernetes.client.V1CertificateSigningRequestCondition(
        type="Approved", status="True", reason="E2E", message="Set from a test"))
    approved = certificates.replace_certificate_signing_request_approval(name, patched)
    assert [c.type for c in approved.status.conditions] == ["ApprovalPatch", "Approved"]

    patch = {"metadata": {"annotations": {"patchedstatus": "true"}},
             "status": {"certificate": base64.b64encode(own.read_bytes()).decode()}}
    patched = certificates.patch_certificate_signing_request_status(name, patch)
    assert patched.status.certificate and patched.metadata.annotations["patchedstatus"] == "true"
    patched.status.conditions.append(kubernetes.client.V1CertificateSigningRequestCondition(
        type="StatusUpdate", status="True", reason="E2E", message="Set from a test"))
    updated = certificates.replace_certificate_signing_request_status(name, patched)
    assert [c.type for c in updated.status.conditions] == ["ApprovalPatch", "Approved", "StatusUpdate"]

    certificates.delete_certificate_signing_request(name)
    with pytest.raises(ApiException) as gone:
        certificates.read_certificate_signing_request(name)
    assert gone.value.status == 404
    assert len(certificates.list_certificate_signing_request(**mine).items) == 2
    certificates.delete_collection_certificate_signing_request(**mine)
    assert certificates.list_certificate_signing_request(**mine).items == []

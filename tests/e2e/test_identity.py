"""Tokens, certificates and acting as others: how somebody proves who they are."""

import base64
import json
import subprocess
import time

from cluster import eventually


def signing_request(folder, subject):
    """A key and a certificate signing request, as a user makes them."""
    key, request = folder / "key.pem", folder / "request.pem"
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-subj", subject, "-out", request], check=True, capture_output=True)
    return key, base64.b64encode(request.read_bytes()).decode()


def certificate_request(name, request, signer="kubernetes.io/kube-apiserver-client", usages=("client auth",)):
    return {"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": request, "signerName": signer, "usages": list(usages), "expirationSeconds": 3600}}


def test_an_approved_request_becomes_a_certificate_that_proves_who_one_is(ns, tmp_path):
    key, request = signing_request(tmp_path, "/O=dev/CN=jane")
    name = ns.name
    ns.cluster.apply(certificate_request(name, request))
    try:
        assert "Pending" in ns.cluster.kubectl("get", "csr", name)
        ns.cluster.kubectl("certificate", "approve", name)
        issued = eventually(lambda: ns.cluster.get("csr", name)["status"].get("certificate"), what="a certificate")
        assert "Approved,Issued" in ns.cluster.kubectl("get", "csr", name)
        certificate = tmp_path / "jane.crt"
        certificate.write_bytes(base64.b64decode(issued))
        said = ns.cluster.kubectl("--kubeconfig=/dev/null", f"--server=https://127.0.0.1:{ns.cluster.port}",
                                  "--insecure-skip-tls-verify", f"--client-certificate={certificate}", f"--client-key={key}",
                                  "auth", "whoami", "-o", "json")
        info = json.loads(said)["status"]["userInfo"]
        assert info["username"] == "jane" and "dev" in info["groups"]
    finally:
        ns.cluster.kubectl("delete", "csr", name)


def test_a_denied_request_gets_nothing_and_a_node_is_approved_by_itself(ns, tmp_path):
    _, request = signing_request(tmp_path, "/O=dev/CN=joe")
    denied, node, wrong = (f"{ns.name}-{end}" for end in ("denied", "node", "wrong"))
    try:
        ns.cluster.apply(certificate_request(denied, request))
        ns.cluster.kubectl("certificate", "deny", denied)
        masters = signing_request(tmp_path, "/O=system:masters/CN=joe")[1]
        assert "system:masters group is not allowed" in ns.cluster.refused(
            "create", "-f", "-", input=certificate_request("x", masters))
        # The right of bootstrappers is bound by whoever sets a cluster up; here it is the administrator who has it.
        client = ("digital signature", "client auth")
        of_node = signing_request(tmp_path, "/O=system:nodes/CN=system:node:new")[1]
        ns.cluster.apply(certificate_request(node, of_node, "kubernetes.io/kube-apiserver-client-kubelet", client))
        eventually(lambda: ns.cluster.get("csr", node)["status"].get("certificate"), what="a node's certificate")
        ns.cluster.apply(certificate_request(wrong, request, "kubernetes.io/kubelet-serving", ("digital signature", "server auth")))
        ns.cluster.kubectl("certificate", "approve", wrong)
        eventually(lambda: "Approved,Failed" in ns.cluster.kubectl("get", "csr", wrong), what="the refusal")
        assert "certificate" not in ns.cluster.get("csr", denied)["status"]
    finally:
        ns.cluster.kubectl("delete", "csr", denied, node, wrong, "--ignore-not-found")


def test_a_secret_of_the_right_type_gets_a_token_and_goes_with_its_account(ns):
    ns.kubectl("create", "serviceaccount", "robot")
    ns.apply({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
              "metadata": {"name": "robot", "annotations": {"kubernetes.io/service-account.name": "robot"}}})
    data = eventually(lambda: ns.get("secret", "robot").get("data"), what="a token")
    assert base64.b64decode(data["namespace"]).decode() == ns.name and "ca.crt" in data
    token = base64.b64decode(data["token"]).decode()
    options = ["--kubeconfig=/dev/null", f"--server=https://127.0.0.1:{ns.cluster.port}", "--insecure-skip-tls-verify", f"--token={token}"]
    assert f"system:serviceaccount:{ns.name}:robot" in ns.cluster.kubectl(*options, "auth", "whoami")
    ns.kubectl("delete", "serviceaccount", "robot")
    assert "Unauthorized" in ns.cluster.refused(*options, "auth", "whoami")
    eventually(lambda: ns.run("get", "secret", "robot", check=False).returncode != 0, what="the Secret gone")


def test_somebody_may_act_as_whom_they_may(ns):
    whoami = json.loads(ns.kubectl("auth", "whoami", "-o", "json", "--as=jane", "--as-group=dev"))
    assert whoami["status"]["userInfo"]["username"] == "jane"
    assert whoami["status"]["userInfo"]["groups"] == ["dev", "system:authenticated"]
    assert 'User "jane" cannot list resource "pods"' in ns.refused("get", "pods", "--as=jane")
    robot = f"system:serviceaccount:{ns.name}:default"
    assert ns.run("auth", "can-i", "list", "pods", f"--as={robot}", check=False).stdout.strip() == "no"
    ns.kubectl("create", "rolebinding", "robot", "--clusterrole=view", f"--serviceaccount={ns.name}:default")
    assert ns.kubectl("auth", "can-i", "list", "pods", f"--as={robot}").strip() == "yes"


def test_a_bootstrap_token_asks_for_a_node_certificate_until_it_expires(ns):
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
              "metadata": {"name": "bootstrap-token-e2e123", "namespace": "kube-system"},
              "stringData": {"token-id": "e2e123", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
                             "expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 4))}}
    ns.cluster.apply(secret)
    options = ["--kubeconfig=/dev/null", f"--server=https://127.0.0.1:{ns.cluster.port}", "--insecure-skip-tls-verify",
               "--token=e2e123.0123456789abcdef"]
    assert "system:bootstrap:e2e123" in ns.cluster.kubectl(*options, "auth", "whoami")
    gone = ["get", "secret", "-n", "kube-system", "bootstrap-token-e2e123"]
    eventually(lambda: ns.cluster.run(*gone, check=False).returncode != 0, timeout=15, what="the expired token gone")
    assert "Unauthorized" in ns.cluster.refused(*options, "auth", "whoami")


def test_secrets_are_encrypted_on_disk_and_keys_can_be_changed(own_cluster):
    own_cluster.start()
    for name in ("first", "second"):
        own_cluster.kubectl("create", "secret", "generic", name, "--from-literal=key=the-plain-text")
    own_cluster.kubectl("create", "configmap", "plain", "--from-literal=key=another-plain-text")
    plain = base64.b64encode(b"the-plain-text")

    def on_disk(text):
        return any(text in file.read_bytes() for file in (own_cluster.data / "store").rglob("*") if file.is_file())

    assert on_disk(b"another-plain-text") and not on_disk(plain) and not on_disk(b"the-plain-text")
    own_cluster.end()
    keys = own_cluster.data / "tls" / "secrets.keys"
    keys.write_text(base64.b64encode(bytes(range(32))).decode() + "\n" + keys.read_text())
    own_cluster.start()
    own_cluster.end()
    # Everything is encrypted with the new key now: the old one can go.
    keys.write_text(keys.read_text().splitlines()[0])
    own_cluster.start()
    assert own_cluster.get("secret", "first")["data"]["key"] == plain.decode()

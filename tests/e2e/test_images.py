"""Images come from a real registry: with passwords, by digest, late, and forged."""

import base64
import gzip
import json

import pytest

import images
from cluster import eventually, pod
from registry import LOGIN, Registry, digest


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path) as registry:
        yield registry.start()


@pytest.fixture(scope="module")
def layer():
    return images.busybox_layer({"etc/origin": "a registry\n"})


def waiting(pod):
    return (pod["status"].get("containerStatuses") or [{}])[0].get("state", {}).get("waiting", {})


def refused(ns, name, reasons=("ErrImagePull", "ImagePullBackOff")):
    seen = ns.wait_pod(name, lambda p: waiting(p).get("reason") in reasons, what=f"waiting: {reasons}")
    return waiting(seen).get("message", "") + " ".join(e["message"] for e in ns.events(name))


def test_an_image_is_pulled_by_tag_and_by_digest(ns, registry, layer):
    manifest = registry.push("team/tool", "v1", layer)
    ns.apply(pod("tag", image=f"{registry.address}/team/tool:v1"))
    ns.apply(pod("digest", image=f"{registry.address}/team/tool@{manifest}"))
    for name in ("tag", "digest"):
        seen = ns.wait_ready(name)
        assert ns.exec(name, "cat", "/etc/origin") == "a registry\n"
        assert seen["status"]["containerStatuses"][0]["imageID"]
    reasons = [e["reason"] for e in ns.events("tag")]
    assert "Pulling" in reasons and "Pulled" in reasons
    # What is there is not pulled again.
    registry.stop()
    ns.apply(pod("again", image=f"{registry.address}/team/tool:v1", imagePullPolicy="IfNotPresent"))
    ns.wait_ready("again")


def test_a_registry_with_passwords_wants_a_pull_secret(ns, tmp_path, layer):
    with Registry(tmp_path, passwords=True) as registry:
        registry.start().push("private/tool", "v1", layer)
        image = f"{registry.address}/private/tool:v1"
        ns.apply(pod("stranger", image=image))
        assert "401" in (said := refused(ns, "stranger")) or "nauthorized" in said, said
        login = {"auths": {registry.address: {"auth": LOGIN}}}
        wrong = {"auths": {registry.address: {"auth": base64.b64encode(b"user:guess").decode()}}}
        for name, content in (("login", login), ("wrong", wrong)):
            secret = {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": json.dumps(content)}}
            ns.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, **secret})
        ns.apply(pod("wrong", image=image, spec={"imagePullSecrets": [{"name": "wrong"}]}))
        refused(ns, "wrong")
        ns.apply(pod("friend", image=image, spec={"imagePullSecrets": [{"name": "login"}]}))
        ns.wait_ready("friend")
        # A policy of Always asks the registry each time: having the image does not open it to strangers.
        ns.apply(pod("neighbour", image=image, imagePullPolicy="Always"))
        refused(ns, "neighbour")


def test_a_pod_starts_when_its_registry_comes_back(ns, registry, layer):
    registry.push("late/tool", "v1", layer)
    registry.stop()
    ns.apply(pod("it", image=f"{registry.address}/late/tool:v1"))
    assert "refused" in refused(ns, "it")
    registry.start()
    ns.wait_ready("it", timeout=60)


def test_an_image_that_is_not_what_its_digest_says_is_refused(ns, registry, layer):
    other = images.busybox_layer({"etc/origin": "another\n"})
    registry.push("forged/tool", "v1", other)
    registry.corrupt(digest(gzip.compress(other, 1, mtime=0)))
    ns.apply(pod("forged", image=f"{registry.address}/forged/tool:v1"))
    ns.apply(pod("missing", image=f"{registry.address}/forged/tool:v2"))
    ns.apply(pod("nowhere", image=f"{registry.address}/forged/tool@sha256:{'0' * 64}"))
    assert "digest" in (said := refused(ns, "forged")).lower(), said
    for name in ("missing", "nowhere"):
        assert "not found" in (said := refused(ns, name)).lower(), said
    eventually(lambda: {"Pulling", "Failed"} <= {e["reason"] for e in ns.events("forged")})
    assert "forged" not in ns.cluster.orlop("image", "ls", "--data-dir", ns.cluster.data).stdout


def test_the_image_verbs_pull_and_list(cluster, registry, layer):
    registry.push("team/verb", "v1", layer)
    reference = f"{registry.address}/team/verb:v1"
    cluster.orlop("image", "pull", "--data-dir", cluster.data, reference)
    assert f"{registry.address}/team/verb" in cluster.orlop("image", "ls", "--data-dir", cluster.data).stdout
    missing = cluster.orlop("image", "pull", "--data-dir", cluster.data, reference + "0", check=False)
    assert missing.returncode != 0 and "not found" in missing.stderr.lower(), missing.stderr

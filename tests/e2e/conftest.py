"""Fixtures: one cluster for all tests that do not break it, and a namespace for each test."""

import itertools

import pytest

import images
from cluster import Cluster, Namespace
from hook_server import Hooks
from http_api import Api

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The image e2e.test/busybox:1 as a docker archive."""
    folder = tmp_path_factory.mktemp("images")
    return images.docker_archive(folder / "busybox.tar", "e2e.test/busybox:1", [images.busybox_layer()])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, archive):
    """A cluster with the test image, for tests that leave it as it was."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        cluster.import_image(archive)
        yield cluster
    finally:
        cluster.end()
        cluster.reset()


@pytest.fixture
def own_cluster(tmp_path, archive):
    """A cluster of the test's own, to be stopped and killed at will. Call start() and import_image() yourself."""
    cluster = Cluster(tmp_path)
    cluster.archive = archive
    try:
        yield cluster
    finally:
        cluster.end()
        cluster.reset()


@pytest.fixture
def ns(cluster, request):
    """A namespace for one test; deleted afterwards without waiting."""
    name = f"t{next(_numbers)}-" + request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")
    name = name[:50].strip("-")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield Namespace(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def api(cluster):
    """The administrator's plain HTTP."""
    return Api(cluster)


@pytest.fixture
def hooks(tmp_path, ns):
    """Webhooks behind a Service of the test's namespace."""
    hooks = Hooks(tmp_path, ns)
    yield hooks
    hooks.end()

"""What would happen to a cluster: `orlop simulate` on a live one, which stays as it is, and on files."""

import json

import pytest

from cluster import deployment

SELECTED = "nodes,deployments,replicasets,pods,services,poddisruptionbudgets,configmaps,serviceaccounts"


@pytest.fixture
def web(ns):
    """Two pods that run, with a budget that wants both."""
    ns.apply(deployment("web", 2, container={"readinessProbe": None}),
             {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "both"},
              "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}})
    ns.wait_rollout("deployment/web")
    ns.kubectl("wait", "pdb/both", "--for=jsonpath={.status.currentHealthy}=2", "--timeout=20s")
    return ns


def simulate(cluster, *arguments, **more):
    return cluster.orlop("simulate", *arguments, check=False, **more)


def of(ns, found):
    """What happens in a namespace: the other tests of this cluster may not have ended everything yet."""
    return [(e["object"].split()[0], e["what"]) for e in found["timeline"] if f" {ns.name}/" in e["object"]]


def test_a_live_cluster_is_asked_what_would_be_and_stays_as_it_is(cluster, web):
    versions = lambda: web.kubectl("get", SELECTED.removeprefix("nodes,"), "-o", "jsonpath={.items[*].metadata.resourceVersion}")
    before = versions()
    alone = json.loads(simulate(cluster, "--live", "-o", "json").stdout)
    assert of(web, alone) == []

    manifest = {**deployment("web", 3, container={"readinessProbe": None, "image": "e2e.test/busybox:2"})}
    result = simulate(cluster, "--live", "-n", web.name, "--apply", "-", "-o", "json", input=json.dumps(manifest))
    found = json.loads(result.stdout)
    told = of(web, found)
    assert told[:2] == [("Deployment", "scaled from 2 to 3"), ("Deployment", "changed its pods' template")], result.stderr
    assert told[-1][1] in ("rolled out", "gone") and ("Deployment", "rolled out") in told
    assert sum(found["placed"][f"Deployment {web.name}/web"].values()) >= 3

    # The budget wants both, and there is nowhere to go.
    drained = simulate(cluster, "--live", "--drain", cluster.node)
    assert drained.returncode == 2
    assert f"{cluster.node} is not drained" in drained.stdout
    assert "The disruption budget both needs 2 healthy pods and has 2 currently" in drained.stdout
    assert versions() == before


def test_a_file_is_a_cluster_too(cluster, web, tmp_path):
    file, big = tmp_path / "cluster.yaml", tmp_path / "big.yaml"
    parts = [cluster.kubectl("get", "nodes", "-o", "yaml"), web.kubectl("get", SELECTED.removeprefix("nodes,"), "-o", "yaml")]
    file.write_text("---\n".join(parts))
    alone = simulate(cluster, "--cluster", file)
    assert (alone.stdout, alone.returncode) == ("Nothing happens.\n", 0), alone.stderr

    wants = deployment("big", 2, container={"readinessProbe": None, "resources": {"requests": {"cpu": "1000"}}})
    big.write_text(json.dumps(wants))
    arguments = ["--cluster", file, "-n", web.name, "--apply", big]
    short = simulate(cluster, *arguments)
    assert short.returncode == 2
    assert f"Deployment {web.name}/big stays without a node" in short.stdout and "Insufficient cpu" in short.stdout
    assert "For that,\n  - ask for " in short.stdout
    enough = simulate(cluster, *arguments, "--add-nodes", "2x1000cpu,4Gi")
    assert enough.returncode == 0, enough.stdout
    assert "new-1: 1, new-2: 1" in enough.stdout and enough.stdout.endswith("All is settled after 3s.\n"), enough.stdout


@pytest.mark.parametrize("arguments, text, why", [
    (["--cluster", "-"], "a: [", "error: -: not valid YAML"),
    (["--cluster", "-"], "apiVersion: example.com/v1\nkind: Herd\nmetadata: {name: h}", "error: -: Herd h: there is no kind Herd in example.com/v1"),
    (["--cluster", "-", "--drain", "gone"], "apiVersion: v1\nkind: Node\nmetadata: {name: one}", "error: --drain gone: there is no such node: there are one"),
    (["--cluster", "-", "--add-nodes", "2xmanycpu,1Gi"], "", 'error: --add-nodes 2xmanycpu,1Gi: "many" is no quantity'),
    (["--cluster", "-", "--for", "soon"], "", 'error: --for: "soon" is no time'),
    ([], "", "error: name one cluster: --cluster FILE or --live"),
    (["--cluster", "-"], "apiVersion: v1\nkind: Node\nmetadata: {name: one}\nstatus: {allocatable: {cpu: much}}",
     'error: -: Node one: status.allocatable.cpu: "much" is no quantity'),
    (["--cluster", "-", "--apply", "/missing.yaml"], "", "error: /missing.yaml: No such file"),
])
def test_what_is_no_cluster_is_refused_in_a_sentence(cluster, arguments, text, why):
    result = simulate(cluster, *arguments, input=text)
    assert (result.returncode, result.stdout) == (1, "")
    assert why in result.stderr


def test_what_the_server_would_refuse_is_told_in_its_words(cluster):
    wrong = deployment("web", 1)
    wrong["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "8Gi"}}}
    file = cluster.root / "node.json"
    file.write_text(json.dumps(node))
    result = simulate(cluster, "--cluster", file, "--apply", "-", input=json.dumps(wrong))
    assert result.returncode == 1
    assert 'The Deployment "web" is invalid' in result.stderr or "`selector` does not match template `labels`" in result.stderr

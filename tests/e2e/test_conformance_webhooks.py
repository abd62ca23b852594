"""Admission webhooks as the conformance programme tries them: behind a Service, effective at once, with its exact words."""

import itertools

import pytest

from cluster import eventually, pod

_numbers = itertools.count(1)
REGISTRATION = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture
def register(api, ns, hooks):
    """Registers webhooks of one kind; they are gone after the test."""
    made = []

    def register(kind, *webhooks, **metadata):
        name = f"conformance-{next(_numbers)}"
        body = {"metadata": {"name": name, **metadata}, "webhooks": list(webhooks)}
        path = f"{REGISTRATION}/{kind}webhookconfigurations"
        answer = api.post(path, body)
        made.append(f"{path}/{name}")
        return answer

    yield register
    for path in made:
        api.delete(path)


def rule(resource, *operations, group="", versions=("v1",)):
    return {"apiGroups": [group], "apiVersions": list(versions), "operations": list(operations), "resources": [resource]}


def webhook(hooks, path, *rules, name=None, trusted=True, **more):
    return {"name": name or f"{path.strip('/')}.k8s.io", "clientConfig": hooks.client_config(path, trusted), "rules": list(rules),
            "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": hooks.ns.name}}, **more}


def config_map(name, **data):
    return {"metadata": {"name": name}, "data": data}


@pytest.fixture
def maps(ns):
    return f"/api/v1/namespaces/{ns.name}/configmaps"


def test_config_maps_are_denied_however_they_are_written(api, ns, hooks, register, maps):
    assert register("validating", webhook(hooks, "/configmaps", rule("configmaps", "CREATE", "UPDATE")),
                    webhook(hooks, "/deny", rule("configmaps", "CREATE"), name="fail-open.k8s.io", trusted=False,
                            failurePolicy="Ignore")).code == 201
    denied = api.post(maps, config_map("no", mark="unwanted"))
    assert denied.code == 400 and denied.json["message"] == (
        'admission webhook "configmaps.k8s.io" denied the request: the configmap contains unwanted key and value')
    made = api.post(maps, config_map("yes", admit="this")).ok()
    assert "unwanted key" in api.put(f"{maps}/yes", {**made, "data": {"mark": "unwanted"}}).text
    assert "unwanted key" in api.patch(f"{maps}/yes", {"data": {"mark": "unwanted"}}, "strategic-merge-patch").text


def test_a_pod_is_denied_and_a_webhook_that_hangs_is_given_up(api, ns, hooks, register):
    register("validating", webhook(hooks, "/pods", rule("pods", "CREATE"), timeoutSeconds=1))
    path = f"/api/v1/namespaces/{ns.name}/pods"
    assert "the pod contains unwanted label" in api.post(path, pod("a", labels={"mark": "unwanted"})).text
    hung = api.post(path, pod("b", labels={"mark": "hang"}))
    assert hung.code == 500 and hung.json["reason"] == "InternalError"
    assert "webhook" in hung.text and "deadline" in hung.text and "/pods?timeout=1s" in hung.text
    assert api.get(f"{path}/b").code == 404


def test_a_webhook_that_nobody_can_talk_to_fails_closed(api, hooks, register, maps):
    register("validating", webhook(hooks, "/configmaps", rule("configmaps", "CREATE"), trusted=False))
    refused = api.post(maps, config_map("foo"))
    assert (refused.code, refused.json["reason"]) == (500, "InternalError")
    assert 'failed calling webhook "configmaps.k8s.io": failed to call webhook: Post "https://hooks.' in refused.text.replace("\\", "")


def test_time_limits_are_kept(api, hooks, register, maps):
    slow = webhook(hooks, "/wait", rule("configmaps", "CREATE"), timeoutSeconds=1)
    register("validating", slow)
    refused = api.post(maps, config_map("a")).text
    assert "context deadline exceeded" in refused and "/wait?timeout=1s" in refused


def test_an_unwanted_delay_is_ignored_where_the_policy_says_so(api, hooks, register, maps):
    register("validating", webhook(hooks, "/wait", rule("configmaps", "CREATE"), timeoutSeconds=1, failurePolicy="Ignore"))
    assert api.post(maps, config_map("a")).code == 201


def test_mutations_come_in_stages(api, hooks, register, maps):
    changes = [webhook(hooks, "/stages", rule("configmaps", "CREATE"), name=f"stage-{n}.k8s.io") for n in (1, 2)]
    register("mutating", *changes)
    made = api.post(maps, config_map("a", start="yes")).ok()
    assert made["data"] == {"start": "yes", "stage-1": "yes", "stage-2": "yes"}


def test_match_conditions_skip_by_name_and_are_kept_as_written(api, hooks, register, maps):
    conditions = [{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]
    made = register("mutating", webhook(hooks, "/stages", rule("configmaps", "CREATE"), matchConditions=conditions)).ok()
    assert made["webhooks"][0]["matchConditions"] == conditions
    assert "stage-1" in api.post(maps, config_map("other", start="yes")).ok()["data"]
    assert api.post(maps, config_map("skip-me", start="yes")).ok()["data"] == {"start": "yes"}
    made["webhooks"][0]["matchConditions"].append({"name": "two", "expression": "object.metadata.namespace == 'staging'"})
    path = f"{REGISTRATION}/mutatingwebhookconfigurations/{made['metadata']['name']}"
    assert len(api.put(path, made).ok()["webhooks"][0]["matchConditions"]) == 2


@pytest.mark.parametrize("kind", ["validating", "mutating"])
def test_conditions_that_do_not_compile_are_refused(hooks, register, kind):
    bad = [{"name": "bad", "expression": "... [] bad expression"}]
    refused = register(kind, webhook(hooks, "/deny", rule("configmaps", "CREATE"), matchConditions=bad))
    assert refused.code == 422 and "compilation failed" in refused.text


def test_a_pod_is_defaulted_after_it_was_changed(api, ns, hooks, register):
    register("mutating", webhook(hooks, "/init-container", rule("pods", "CREATE")))
    made = api.post(f"/api/v1/namespaces/{ns.name}/pods", pod("a", "sleep", "1")).ok()
    [container] = made["spec"]["initContainers"]
    assert container["name"] == "added" and container["terminationMessagePolicy"] == "File"


@pytest.mark.parametrize("kind, path", [("validating", "/configmaps"), ("mutating", "/stages")])
def test_a_configuration_is_effective_at_once(api, hooks, register, maps, kind, path):
    def acts():
        answer = api.post(maps, config_map(f"m{next(_numbers)}", mark="unwanted", start="yes"))
        return answer.code == 400 or "stage-1" in answer.ok()["data"]

    made = register(kind, webhook(hooks, path, rule("configmaps", "CREATE"))).ok()
    url = f"{REGISTRATION}/{kind}webhookconfigurations/{made['metadata']['name']}"
    assert acts()
    made["webhooks"][0]["rules"][0]["operations"] = ["UPDATE"]
    api.put(url, made).ok()
    assert not acts()
    again = [{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]
    api.patch(url, again, "json-patch").ok()
    assert acts()


@pytest.mark.parametrize("kind", ["validating", "mutating"])
def test_configurations_are_listed_and_deleted_by_label(api, hooks, register, maps, kind):
    path = {"validating": "/configmaps", "mutating": "/stages"}[kind]
    mark = f"run-{next(_numbers)}"
    for _ in range(10):
        register(kind, webhook(hooks, path, rule("configmaps", "CREATE")), labels={"run": mark})
    url = f"{REGISTRATION}/{kind}webhookconfigurations"
    assert len(api.get(url, labelSelector=f"run={mark}").ok()["items"]) == 10
    api.delete(url, labelSelector=f"run={mark}").ok()
    assert api.get(url, labelSelector=f"run={mark}").ok()["items"] == []
    assert api.post(maps, config_map("a", mark="unwanted", start="yes")).ok()["data"] == {"mark": "unwanted", "start": "yes"}


def test_configurations_themselves_are_beyond_webhooks(api, hooks, register):
    everywhere = {"namespaceSelector": {}}
    about = rule("*", "CREATE", "DELETE", group="admissionregistration.k8s.io", versions=("*",))
    register("validating", webhook(hooks, "/deny", about, **everywhere))
    register("mutating", webhook(hooks, "/label", about, **everywhere))
    for kind in ("validating", "mutating"):
        made = register(kind, webhook(hooks, "/deny", rule("invalid", "CREATE"))).ok()
        assert "labels" not in made["metadata"]
        assert api.delete(f"{REGISTRATION}/{kind}webhookconfigurations/{made['metadata']['name']}").code == 200


def test_attaching_is_denied(ns, hooks, register):
    register("validating", webhook(hooks, "/attach", rule("pods/attach", "CONNECT")))
    ns.apply(pod("a", "sleep", "60"))
    ns.wait_phase("a", "Running")
    assert "attaching to pod 'a' is not allowed" in ns.refused("attach", "a", "-i", "-c=main")


def test_a_definition_is_denied(api, hooks, register):
    register("validating", {**webhook(hooks, "/definitions", rule("customresourcedefinitions", "CREATE", group="apiextensions.k8s.io", versions=("*",))),
                            "namespaceSelector": {}, "objectSelector": {"matchLabels": {"run": hooks.ns.name}}})
    body = definition(f"g{next(_numbers)}.example.com", ["v1"])
    body["metadata"]["labels"] = {"run": hooks.ns.name, "mark": "unwanted"}
    denied = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    assert denied.code == 400 and "the crd contains unwanted label" in denied.text


ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition(group, versions, schema=ANYTHING):
    names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"things.{group}"},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [
                {"name": v, "served": True, "storage": v == versions[0], "schema": {"openAPIV3Schema": schema}} for v in versions]}}


@pytest.fixture
def define(api):
    made = []

    def define(versions, schema=ANYTHING):
        group = f"w{next(_numbers)}.example.com"
        made.append(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}")
        api.post(made[-1].rpartition("/")[0], definition(group, versions, schema)).ok()
        eventually(lambda: "Established" in [c["type"] for c in api.get(made[-1]).ok()["status"]["conditions"] if c["status"] == "True"])
        return group

    yield define
    for path in made:
        api.delete(path)


def thing(group, name, version="v1", **data):
    return {"apiVersion": f"{group}/{version}", "kind": "Thing", "metadata": {"name": name}, "data": data}


def test_custom_objects_are_guarded_in_all_they_go_through(api, ns, hooks, register, define):
    group = define(["v1"])
    register("validating", webhook(hooks, "/custom", rule("things", "CREATE", "UPDATE", "DELETE", group=group)))
    path = f"/apis/{group}/v1/namespaces/{ns.name}/things"
    assert "the custom resource contains unwanted data" in api.post(path, thing(group, "a", mark="unwanted")).text
    made = api.post(path, thing(group, "b", mark="kept")).ok()
    assert "the custom resource contains unwanted data" in api.put(f"{path}/b", {**made, "data": {"mark": "unwanted"}}).text
    assert "cannot be deleted because it contains unwanted key and value" in api.delete(f"{path}/b").text
    api.put(f"{path}/b", {**made, "data": {"mark": "fine"}}).ok()
    api.delete(f"{path}/b").ok()


@pytest.mark.parametrize("prunes", [False, True])
def test_custom_objects_are_changed_and_pruned(api, ns, hooks, register, define, prunes):
    fields = {name: {"type": "string"} for name in ("start", "stage-1")}
    strict = {"type": "object", "properties": {"data": {"type": "object", "properties": fields}}}
    group = define(["v1"], strict if prunes else ANYTHING)
    about = rule("things", "CREATE", "UPDATE", group=group)
    register("mutating", *[webhook(hooks, "/stages", about, name=f"stage-{n}.k8s.io") for n in (1, 2)])
    made = api.post(f"/apis/{group}/v1/namespaces/{ns.name}/things", thing(group, "a", start="yes")).ok()
    assert made["data"] == {"start": "yes", "stage-1": "yes", **({} if prunes else {"stage-2": "yes"})}


def test_custom_objects_are_changed_after_the_stored_version_did(api, ns, hooks, register, define):
    group = define(["v1", "v2"])
    about = rule("things", "CREATE", "UPDATE", group=group, versions=("v1", "v2"))
    register("mutating", webhook(hooks, "/stages", about, name="stage-1.k8s.io"),
             webhook(hooks, "/stages", {**about, "operations": ["CREATE", "UPDATE"]}, name="stage-2.k8s.io"))
    path = f"/apis/{group}/%s/namespaces/{ns.name}/things"
    api.post(path % "v1", thing(group, "a", start="yes")).ok()
    versions = definition(group, ["v2", "v1"])["spec"]["versions"]
    api.patch(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}", {"spec": {"versions": versions}},
              "strategic-merge-patch").ok()
    patched = api.patch(f"{path % 'v2'}/a", [{"op": "add", "path": "/dummy", "value": "test"}], "json-patch").ok()
    assert patched["dummy"] == "test" and patched["data"] == {"start": "yes", "stage-1": "yes", "stage-2": "yes"}


def test_webhook_resources_are_in_discovery(api):
    group = api.get("/apis/admissionregistration.k8s.io").ok()
    assert {"groupVersion": "admissionregistration.k8s.io/v1", "version": "v1"} in group["versions"]
    assert group["name"] in [g["name"] for g in api.get("/apis").ok()["groups"]]
    names = [r["name"] for r in api.get(REGISTRATION).ok()["resources"]]
    assert {"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} <= set(names)

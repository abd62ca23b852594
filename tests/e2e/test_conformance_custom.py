"""Custom resources as the conformance programme tries them: definitions, defaulting, conversion, selectable fields, the
published OpenAPI, field validation, discovery."""

import itertools
import json
import re
import threading

import pytest

from cluster import eventually

_numbers = itertools.count(1)
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


def definition(group, *versions, schema=ANYTHING, scope="Namespaced", **spec):
    """Versions are names, or whole entries."""
    names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
    entries = [v if isinstance(v, dict) else {"name": v, "schema": {"openAPIV3Schema": schema}} for v in versions]
    entries = [{"served": True, "storage": at == 0, **entry} for at, entry in enumerate(entries)]
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"things.{group}"},
            "spec": {"group": group, "scope": scope, "names": names, "versions": entries, **spec}}


def established(crd):
    return any(c["type"] == "Established" and c["status"] == "True" for c in crd.get("status", {}).get("conditions", []))


class Things:
    """A definition, and where its objects are."""

    def __init__(self, api, group, crd):
        self.api, self.group, self.crd = api, group, crd
        self.url = f"{DEFINITIONS}/things.{group}"

    def at(self, ns=None, version="v1"):
        return f"/apis/{self.group}/{version}/" + (f"namespaces/{ns.name}/things" if ns else "things")

    def body(self, name, version="v1", **more):
        return {"apiVersion": f"{self.group}/{version}", "kind": "Thing", "metadata": {"name": name}, **more}


@pytest.fixture
def define(api):
    made = []

    def define(*versions, **more):
        group = f"c{next(_numbers)}.example.com"
        crd = api.post(DEFINITIONS, definition(group, *versions, **more)).ok()
        made.append(f"{DEFINITIONS}/{crd['metadata']['name']}")
        crd = eventually(lambda: (lambda c: established(c) and c)(api.get(made[-1]).ok()), timeout=5, what="established")
        return Things(api, group, crd)

    yield define
    for path in made:
        api.delete(path)


def test_definitions_come_and_go_and_their_objects_are_served_at_once(api, define):
    things = define("v1", scope="Cluster")
    listed = api.get(things.at()).ok()
    with api.watch(things.at(), resourceVersion=listed["metadata"]["resourceVersion"]) as events:
        api.post(things.at(), things.body("first")).ok()
        assert next(events)[0] == "ADDED"
        api.delete(f"{things.at()}/first").ok()
        assert next(events)[0] == "DELETED"
    api.delete(things.url).ok()
    eventually(lambda: api.get(things.url).code == 404, timeout=5)
    eventually(lambda: api.get(things.at()).code == 404, timeout=5)


def test_definitions_are_listed_and_deleted_by_label(api):
    mark = f"run-{next(_numbers)}"
    made = []
    for n in range(10):
        body = definition(f"list{n}.{mark}.example.com", "v1", scope="Cluster")
        body["metadata"]["labels"] = {"run": mark}
        made.append(api.post(DEFINITIONS, body).ok())
    found = api.get(DEFINITIONS, labelSelector=f"run={mark}").ok()["items"]
    assert {c["metadata"]["name"]: c["spec"] for c in found} == {c["metadata"]["name"]: c["spec"] for c in made}
    api.delete(DEFINITIONS, labelSelector=f"run={mark}").ok()
    eventually(lambda: api.get(DEFINITIONS, labelSelector=f"run={mark}").ok()["items"] == [], timeout=5)


def test_the_status_of_a_definition_is_read_written_and_patched(api, define):
    things = define("v1", scope="Cluster")
    crd = api.get(f"{things.url}/status").ok()
    assert crd["spec"] == things.crd["spec"]
    crd["status"]["conditions"].append({"type": "", "status": "", "message": "updated"})
    updated = api.put(f"{things.url}/status", crd).ok()
    assert "updated" in [c.get("message") for c in updated["status"]["conditions"]]
    patch = [{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]
    patched = api.patch(f"{things.url}/status", patch, "json-patch").ok()
    assert [c.get("message") for c in patched["status"]["conditions"]] == ["patched"]


def test_defaults_come_with_requests_and_from_storage(api, define):
    text = {"type": "string"}
    things = define("v1", scope="Cluster", schema={**ANYTHING, "properties": {"a": text, "b": text}})
    api.post(things.at(), things.body("one")).ok()
    at = "/spec/versions/0/schema/openAPIV3Schema/properties"
    api.patch(things.url, [{"op": "add", "path": f"{at}/a/default", "value": "A"}], "json-patch").ok()
    eventually(lambda: api.get(f"{things.at()}/one").ok().get("a") == "A", timeout=5)
    assert api.post(things.at(), things.body("two")).ok()["a"] == "A"
    api.patch(things.url, [{"op": "remove", "path": f"{at}/a/default"}, {"op": "add", "path": f"{at}/b/default", "value": "B"}],
              "json-patch").ok()
    two = eventually(lambda: (lambda t: t.get("b") and t)(api.get(f"{things.at()}/two").ok()), timeout=5)
    assert (two["a"], two["b"]) == ("A", "B")
    assert "a" not in api.get(f"{things.at()}/one").ok(), "a default is written when the object is"


def test_watches_see_the_objects_of_one_name(api, define):
    things = define("v1", scope="Cluster")
    with api.watch(things.at(), fieldSelector="metadata.name=one", patience=1) as one:
        api.post(things.at(), things.body("one")).ok()
        api.post(things.at(), things.body("two")).ok()
        api.patch(f"{things.at()}/two", [{"op": "add", "path": "/dummy", "value": "test"}], "json-patch").ok()
        api.patch(f"{things.at()}/one", [{"op": "add", "path": "/dummy", "value": "test"}], "json-patch").ok()
        api.delete(f"{things.at()}/two").ok()
        api.delete(f"{things.at()}/one").ok()
        assert [(kind, o["metadata"]["name"]) for kind, o in one] == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


def test_watches_outlive_changes_of_the_definition_that_do_not_concern_them(api, define):
    things = define("v1", "v2", scope="Cluster")
    with api.watch(things.at(), patience=3) as events:
        api.patch(things.url, {"metadata": {"labels": {"a": "b"}}}).ok()
        api.patch(things.url, {"spec": {"names": {"shortNames": ["th"]}}}).ok()
        other = [{"op": "add", "path": "/spec/versions/1/schema/openAPIV3Schema/description", "value": "new"}]
        api.patch(things.url, other, "json-patch").ok()
        eventually(lambda: '"th"' in api.get(f"/apis/{things.group}/v1").text, timeout=5)
        eventually(lambda: '"new"' in api.get(f"/openapi/v3/apis/{things.group}/v2").text, timeout=5)
        api.post(things.at(), things.body("one")).ok()
        assert next(events)[0] == "ADDED"


HOST_PORT = [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {"hostPort": {"type": "string"}}}},
              "selectableFields": [{"jsonPath": ".hostPort"}]},
             {"name": "v2", "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                 "host": {"type": "string"}, "port": {"type": "string"}}}},
              "selectableFields": [{"jsonPath": ".host"}, {"jsonPath": ".port"}]}]


def converted(hooks):
    webhook = {"clientConfig": hooks.client_config("/convert"), "conversionReviewVersions": ["v1", "v1beta1"]}
    return {"strategy": "Webhook", "webhook": webhook}


def test_objects_are_converted_and_so_is_a_list_of_mixed_ones(api, ns, hooks, define):
    things = define(*HOST_PORT, conversion=converted(hooks))
    api.post(things.at(ns), things.body("one", hostPort="localhost:8080")).ok()
    one = api.get(f"{things.at(ns, 'v2')}/one").ok()
    assert one["apiVersion"].endswith("/v2") and (one["host"], one["port"]) == ("localhost", "8080") and "hostPort" not in one
    crd = api.get(things.url).ok()
    for version in crd["spec"]["versions"]:
        version["storage"] = version["name"] == "v2"
    api.put(things.url, crd).ok()
    api.post(things.at(ns), things.body("two", hostPort="localhost:8080")).ok()
    for version, check in (("v1", {"hostPort": "localhost:8080"}), ("v2", {"host": "localhost", "port": "8080"})):
        items = api.get(things.at(ns, version)).ok()["items"]
        assert [i["metadata"]["name"] for i in items] == ["one", "two"]
        for item in items:
            assert {k: v for k, v in item.items() if k not in ("metadata", "kind")} == {"apiVersion": f"{things.group}/{version}", **check}


def test_fields_of_each_version_select(api, ns, hooks, define):
    things = define(*HOST_PORT, conversion=converted(hooks))
    v1, v2 = things.at(ns), things.at(ns, "v2")
    seen = {}

    def follow(url, selector):
        with api.watch(url, fieldSelector=selector, patience=2) as events:
            started.release()
            seen[selector] = [(kind, o["metadata"]["name"]) for kind, o in events]

    started = threading.Semaphore(0)
    followers = [threading.Thread(target=follow, args=pair) for pair in
                 ((v2, "host=host1"), (v2, "host=host1,port=80"), (v1, "hostPort=host1:80"))]
    for follower in followers:
        follower.start()
        started.acquire()
    for name, fields in (("a", {"host": "host1", "port": "80"}), ("b", {"host": "host1", "port": "8080"}), ("c", {"host": "host2"})):
        api.post(v2, things.body(name, "v2", **fields)).ok()
    names = lambda url, selector: [i["metadata"]["name"] for i in api.get(url, fieldSelector=selector).ok()["items"]]
    assert names(v2, "host=host1") == ["a", "b"] and names(v2, "host=host1,port=80") == ["a"]
    assert names(v1, "hostPort=host1:80") == ["a"] and names(v1, "hostPort=host1:8080") == ["b"]
    assert names(v2, "host!=host1") == ["c"]
    api.delete(v2, fieldSelector="host=host1,port=80").ok()
    changed = api.get(f"{v2}/b").ok()
    api.put(f"{v2}/b", {**changed, "host": "host2"}).ok()
    assert names(v2, "host=host1") == [] and names(v2, "host=host2") == ["b", "c"]
    refused = api.get(v1, fieldSelector="host=host1")
    assert refused.code == 400 and "field label not supported: host" in refused.text
    for follower in followers:
        follower.join()
    assert seen == {
        "host=host1": [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a"), ("DELETED", "b")],
        "host=host1,port=80": [("ADDED", "a"), ("DELETED", "a")],
        "hostPort=host1:80": [("ADDED", "a"), ("DELETED", "a")]}


FOO = {"description": "Foo CRD for Testing", "type": "object", "properties": {
    "spec": {"type": "object", "description": "Specification of Foo", "properties": {"bars": {
        "description": "List of Bars and their specs.", "type": "array", "items": {
            "type": "object", "required": ["name"], "properties": {
                "name": {"description": "Name of Bar.", "type": "string"},
                "age": {"description": "Age of Bar.", "type": "string"},
                "feeling": {"description": "Whether Bar is feeling great.", "type": "string", "enum": ["Great", "Down"]},
                "bazs": {"description": "List of Bazs.", "items": {"type": "string"}, "type": "array"}}}}}},
    "status": {"description": "Status of Foo", "type": "object", "properties": {"bars": {
        "description": "List of Bars and their statuses.", "type": "array", "items": {"type": "object", "properties": {
            "available": {"description": "Whether the Bar is installed.", "type": "boolean"},
            "quxType": {"description": "Indicates to external qux type.", "pattern": "in-tree|out-of-tree", "type": "string"}}}}}}}}


def published(api, group, version):
    """The definition as /openapi/v2 has it, without what every object has."""
    answer = api.get("/openapi/v2")
    name = ".".join(reversed(group.split("."))) + f".{version}.Thing"
    found = answer.ok()["definitions"].get(name)
    if found:
        for field in ("metadata", "apiVersion", "kind"):
            found.get("properties", {}).pop(field, None)
        gvk = found.pop("x-kubernetes-group-version-kind")
        assert gvk == [{"group": group, "version": version, "kind": "Thing"}]
    return found


def test_the_schema_is_published_for_each_served_version(api, define):
    things = define("v2", "v3", schema=FOO)
    assert published(api, things.group, "v2") == published(api, things.group, "v3") == FOO
    before = api.get("/openapi/v2").headers["etag"]
    rename = [{"op": "test", "path": "/spec/versions/1/name", "value": "v3"}, {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]
    api.patch(things.url, rename, "json-patch").ok()
    eventually(lambda: published(api, things.group, "v4") == FOO, timeout=5)
    assert published(api, things.group, "v3") is None and published(api, things.group, "v2") == FOO
    assert api.get("/openapi/v2", headers={"If-None-Match": before}).code == 200
    crd = api.get(things.url).ok()
    crd["spec"]["versions"][1]["served"] = False
    api.put(things.url, crd).ok()
    eventually(lambda: published(api, things.group, "v4") is None, timeout=5)
    assert published(api, things.group, "v2") == FOO
    now = api.get("/openapi/v2").headers["etag"]
    assert api.get("/openapi/v2", headers={"If-None-Match": now}).code == 304
    api.delete(things.url).ok()
    eventually(lambda: published(api, things.group, "v2") is None, timeout=5)


def test_objects_without_a_schema_are_published_as_any(api, define):
    things = define("v1")
    assert published(api, things.group, "v1") == {"type": "object"}


def test_kubectl_explains_and_checks_by_the_schema(ns, define):
    things = define("v1", schema=FOO)
    kubectl, plural = ns.kubectl, f"things.{things.group}"
    good = things.body("a", spec={"bars": [{"name": "test-bar"}]})
    for verb in ("create", "apply"):
        kubectl(verb, "-f", "-", input=good)
        kubectl("delete", plural, "a")
    for verb in ("create", "apply"):
        refused = lambda **spec: ns.refused(verb, "-f", "-", input=things.body("a", spec=spec))
        assert 'Unsupported value: "NonExistentValue"' in refused(bars=[{"name": "x", "feeling": "NonExistentValue"}])
        assert 'unknown field "spec.foo"' in refused(foo=True)
        assert "spec.bars[0].name: Required value" in refused(bars=[{"age": "10"}])
    for path, pattern in {
        "": r"DESCRIPTION:.*Foo CRD for Testing.*FIELDS:.*apiVersion.*<string>.*APIVersion defines.*spec.*<Object>.*Specification of Foo",
        ".metadata": r"DESCRIPTION:.*Standard object's metadata.*FIELDS:.*creationTimestamp.*<string>.*CreationTimestamp is a timestamp",
        ".spec": r"DESCRIPTION:.*Specification of Foo.*FIELDS:.*bars.*<\[\]Object>.*List of Bars and their specs",
        ".spec.bars": r"(FIELD|RESOURCE):.*bars.*<\[\]Object>.*DESCRIPTION:.*List of Bars and their specs.*FIELDS:.*bazs.*<\[\]string>.*List of Bazs.*name.*<string>.*Name of Bar",
    }.items():
        for form in ((), ("--output=plaintext-openapiv2",)):
            text = kubectl("explain", plural + path, *form)
            assert re.search(pattern, text, re.S), f"{path} {form}: {text}"
    assert 'field "bars2" does not exist' in ns.refused("explain", plural + ".spec.bars2")


@pytest.mark.parametrize("schema, field, explained", [
    (ANYTHING, "a", r"DESCRIPTION:.*<empty>"),
    ({**ANYTHING, "description": "at the root", "properties": {"spec": {"type": "object"}}}, "a", r"KIND:.*Thing"),
    ({"type": "object", "description": "preserved in a nested field", "properties": {"spec": ANYTHING}}, "spec",
     r"DESCRIPTION:.*preserved in a nested field"),
])
def test_unknown_fields_pass_kubectl_where_they_are_preserved(ns, define, schema, field, explained):
    things = define("v1", schema=schema)
    for verb in ("create", "apply"):
        ns.kubectl(verb, "-f", "-", input=things.body("a", **{field: {"a": None, "b": [{"c": "d"}]}}))
        ns.kubectl("delete", f"things.{things.group}", "a")
    assert re.search(explained, ns.kubectl("explain", f"things.{things.group}"), re.S)


CRON = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
    "foo": {"type": "string"},
    "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
    "ports": {"type": "array", "x-kubernetes-list-map-keys": ["containerPort", "protocol"], "x-kubernetes-list-type": "map",
              "items": {"type": "object", "required": ["containerPort", "protocol"], "properties": {
                  "containerPort": {"format": "int32", "type": "integer"}, "name": {"type": "string"},
                  "protocol": {"type": "string"}}}}}}}}

YAML = """
apiVersion: %s/v1
kind: Thing
metadata:
  name: mytest
%sspec:
%s  foo: foo1
%s  cronSpec: "* * * * */5"
  ports:
  - name: x
    containerPort: 80
    protocol: TCP"""


def strict_apply(api, things, metadata="", top="", spec=""):
    body = YAML % (things.group, metadata, top, spec)
    return api.patch(f"{things.at()}/mytest", body, "application/apply-patch+yaml", fieldManager="m", fieldValidation="Strict")


def test_strict_validation_names_unknown_fields_and_duplicates(api, ns, define):
    things = define("v1", scope="Cluster", schema=CRON)
    assert strict_apply(api, things).code == 201
    assert ".unknownField: field not declared in schema" in strict_apply(api, things, "unknownField: unknown\n").text
    assert ".metadata.unknownMeta: field not declared in schema" in strict_apply(api, things, "  unknownMeta: unknown\n").text
    loose = json.loads(json.dumps(CRON))
    loose["properties"]["spec"] |= {"x-kubernetes-preserve-unknown-fields": True}
    other = define("v1", scope="Cluster", schema=loose)
    answer = strict_apply(api, other, spec="  foo: foo2\n", top="  unknown: uk1\n")
    assert 'line 9: key \\"foo\\" already set in map' in answer.text, answer.text
    any_schema = define("v1", scope="Cluster")
    assert strict_apply(api, any_schema, top="  unknown: uk1\n").code == 201


def test_strict_validation_of_a_built_in_kind(api, ns):
    metadata = '"metadata": {"name": "my-dep", %s "labels": {"app": "nginx"}}'
    spec = ('"spec": {%s "selector": {"matchLabels": {"app": "nginx"}}, "template": {"metadata": {"labels": {"app": "nginx"}},'
            ' "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}}}')
    body = '{"apiVersion": "apps/v1", "kind": "Deployment", %s, %s}'
    post = lambda m, s: api.post(f"/apis/apps/v1/namespaces/{ns.name}/deployments", body % (metadata % m, spec % s),
                                 fieldManager="m", fieldValidation="Strict").json["message"]
    assert 'strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"' in post(
        "", '"unknownField": "foo", "replicas": 2, "replicas": 3,')
    assert 'strict decoding error: unknown field "metadata.unknownMeta"' in post('"unknownMeta": "foo",', "")


BUILT_IN = """v1/namespaces apiregistration.k8s.io/v1/apiservices admissionregistration.k8s.io/v1/validatingwebhookconfigurations
apiextensions.k8s.io/v1/customresourcedefinitions apps/v1/deployments authentication.k8s.io/v1/tokenreviews
authorization.k8s.io/v1/selfsubjectaccessreviews autoscaling/v1/horizontalpodautoscalers autoscaling/v2/horizontalpodautoscalers
batch/v1/jobs certificates.k8s.io/v1/certificatesigningrequests coordination.k8s.io/v1/leases
discovery.k8s.io/v1/endpointslices events.k8s.io/v1/events networking.k8s.io/v1/ingresses node.k8s.io/v1/runtimeclasses
policy/v1/poddisruptionbudgets scheduling.k8s.io/v1/priorityclasses storage.k8s.io/v1/csinodes""".split()


def aggregated(api, path):
    return {f"{group['metadata'].get('name', '')}/{version['version']}/{resource['resource']}".lstrip("/")
            for group in api.get(path, accept=AGGREGATED).ok()["items"]
            for version in group["versions"] for resource in version["resources"]}


def test_discovery_lists_what_is_built_in_and_what_is_defined(api, define):
    things = define("v1")
    found = aggregated(api, "/apis") | aggregated(api, "/api")
    assert set(BUILT_IN) <= found and f"{things.group}/v1/things" in found
    for entry in BUILT_IN:
        version, _, resource = entry.rpartition("/")
        listed = api.get(("/apis/" if "/" in version else "/api/") + version).ok()
        assert listed["groupVersion"] == version and resource in [r["name"] for r in listed["resources"]]
    for group in api.get("/apis/").ok()["groups"]:
        one = api.get(f"/apis/{group['name']}/").ok()
        assert one["preferredVersion"] in one["versions"] == group["versions"]

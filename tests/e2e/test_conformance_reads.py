"""Lists, watches and tables as the conformance programme and the documentation of `resourceVersion` ask for them."""

import gzip
import itertools
import random
import threading

import pytest

from cluster import pod

_numbers = itertools.count(1)
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.fixture
def maps(ns):
    return f"/api/v1/namespaces/{ns.name}/configmaps"


def labelled(name, label, **data):
    return {"metadata": {"name": name, "labels": {"watch-this": label}}, "data": data}


def test_a_list_comes_in_pages(api, ns):
    path, total = f"/api/v1/namespaces/{ns.name}/podtemplates", 60
    for n in range(total):
        container = {"name": "test", "image": "test2"}
        api.post(path, {"metadata": {"name": f"template-{n:04}"}, "template": {"spec": {"containers": [container]}}}).ok()
    found, token, versions = [], {}, set()
    while True:
        limit = random.randint(1, total // 10)
        page = api.get(path, limit=limit, **token).ok()
        versions.add(page["metadata"]["resourceVersion"])
        found += [i["metadata"]["name"] for i in page["items"]]
        left = page["metadata"].get("remainingItemCount")
        assert len(page["items"]) <= limit and len(found) + (left or 0) == total
        if not page["metadata"].get("continue"):
            break
        token = {"continue": page["metadata"]["continue"]}
    assert left is None and len(versions) == 1 and found == [f"template-{n:04}" for n in range(total)]
    assert len(api.get(path, limit=total + 1).ok()["items"]) == total
    first = api.get(path, limit=2, accept=TABLE).ok()
    second = api.get(path, accept=TABLE, **{"continue": first["metadata"]["continue"]}).ok()
    assert [r["cells"][0] for r in first["rows"] + second["rows"][:1]] == [f"template-{n:04}" for n in range(3)]


def test_watchers_see_what_their_selectors_mean(api, ns, maps):
    seen, started = {}, threading.Semaphore(0)

    def follow(selector):
        with api.watch(maps, labelSelector=f"watch-this in ({selector})", patience=1.5) as events:
            started.release()
            seen[selector] = [(kind, o["metadata"]["name"], (o.get("data") or {}).get("n")) for kind, o in events]

    followers = [threading.Thread(target=follow, args=(s,)) for s in ("a", "b", "a,b")]
    for follower in followers:
        follower.start()
        started.acquire()
    api.post(maps, labelled("one", "a")).ok()
    for n in "12":
        api.patch(f"{maps}/one", {"data": {"n": n}}).ok()
    api.delete(f"{maps}/one").ok()
    api.post(maps, labelled("two", "b")).ok()
    api.patch(f"{maps}/two", {"metadata": {"labels": {"watch-this": "wrong"}}}).ok()
    api.patch(f"{maps}/two", {"data": {"n": "2"}}).ok()
    api.patch(f"{maps}/two", {"metadata": {"labels": {"watch-this": "b"}}}).ok()
    api.delete(f"{maps}/two").ok()
    for follower in followers:
        follower.join()
    one = [("ADDED", "one", None), ("MODIFIED", "one", "1"), ("MODIFIED", "one", "2"), ("DELETED", "one", "2")]
    two = [("ADDED", "two", None), ("DELETED", "two", None), ("ADDED", "two", "2"), ("DELETED", "two", "2")]
    assert seen == {"a": one, "b": two, "a,b": one + two}


def test_a_watch_starts_where_it_is_told(api, maps):
    api.post(maps, labelled("one", "x")).ok()
    first = api.patch(f"{maps}/one", {"data": {"n": "1"}}).ok()
    second = api.patch(f"{maps}/one", {"data": {"n": "2"}}).ok()
    api.delete(f"{maps}/one").ok()
    with api.watch(maps, labelSelector="watch-this=x", resourceVersion=first["metadata"]["resourceVersion"]) as events:
        assert next(events) == ("MODIFIED", {**second, "apiVersion": "v1", "kind": "ConfigMap"})
        assert next(events)[0] == "DELETED"


def test_watches_from_every_version_see_the_same_order(api, maps):
    version = api.get(maps).ok()["metadata"]["resourceVersion"]
    for n in range(30):
        api.post(maps, {"metadata": {"name": f"m{n % 7}"}})
        api.patch(f"{maps}/m{n % 7}", {"data": {"n": str(n)}})
        if n % 3 == 0:
            api.delete(f"{maps}/m{n % 7}")
    with api.watch(maps, resourceVersion=version, patience=1) as events:
        order = [o["metadata"]["resourceVersion"] for _, o in events]
    assert order == sorted(order, key=int) and len(set(order)) == len(order) > 30
    for at in range(0, len(order), 25):
        with api.watch(maps, resourceVersion=order[at], patience=0.3) as events:
            assert [o["metadata"]["resourceVersion"] for _, o in events] == order[at + 1:]


def test_resource_versions_mean_what_is_documented(api, maps):
    for name in ("a", "b"):
        api.post(maps, {"metadata": {"name": name}}).ok()
    names = lambda listed: {i["metadata"]["name"] for i in listed.ok()["items"]} & {"a", "b", "c"}
    before = api.get(maps).ok()["metadata"]["resourceVersion"]
    api.post(maps, {"metadata": {"name": "c"}}).ok()
    now = api.get(maps).ok()["metadata"]["resourceVersion"]
    everything, past = {"a", "b", "c"}, {"a", "b"}
    cases = [
        ({}, everything), ({"resourceVersion": "0"}, everything), ({"resourceVersion": before}, everything),
        ({"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}, everything),
        ({"resourceVersion": before, "resourceVersionMatch": "NotOlderThan"}, everything),
        ({"resourceVersion": before, "resourceVersionMatch": "Exact"}, past),
        ({"resourceVersion": before, "resourceVersionMatch": "Exact", "limit": "10"}, past),
        ({"resourceVersion": now, "resourceVersionMatch": "Exact"}, everything),
        ({"resourceVersion": before, "limit": "10"}, past),
        ({"resourceVersion": "0", "limit": "10"}, everything),
        ({"resourceVersion": before, "resourceVersionMatch": "NotOlderThan", "limit": "10"}, everything),
    ]
    for query, wanted in cases:
        assert names(api.get(maps, **query)) == wanted, query
    for query, code, words in [
        ({"resourceVersionMatch": "Exact"}, 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        ({"resourceVersion": "0", "resourceVersionMatch": "Exact"}, 422, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'),
        ({"resourceVersion": "1", "resourceVersionMatch": "foo"}, 422, 'supported values: "Exact", "NotOlderThan", ""'),
        ({"resourceVersion": "abc"}, 400, "Invalid value"),
        ({"sendInitialEvents": "true"}, 422, "sendInitialEvents is forbidden for list"),
        ({"continue": "x", "resourceVersionMatch": "Exact", "resourceVersion": "1"}, 422, "resourceVersionMatch is forbidden when continue is provided"),
        ({"watch": "1", "resourceVersion": "1", "resourceVersionMatch": "Exact"}, 422, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
        ({"watch": "1", "sendInitialEvents": "true"}, 422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        ({"watch": "1", "sendInitialEvents": "true", "resourceVersion": "1", "resourceVersionMatch": "Exact"}, 422, "sendInitialEvents"),
    ]:
        answer = api.get(maps, **query)
        assert answer.code == code and words in answer.text.replace("\\", ""), (query, answer.code, answer.text)


def test_a_version_that_has_not_come_is_waited_for_and_then_refused(api, maps):
    far = str(int(api.get(maps).ok()["metadata"]["resourceVersion"]) + 1_000_000)
    answer = api.get(maps, resourceVersion=far)
    assert answer.code == 504 and answer.json["reason"] == "Timeout", answer.text
    assert answer.json["message"].startswith(f"Timeout: Too large resource version: {far}, current: ")
    [cause] = answer.json["details"]["causes"]
    assert cause == {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    assert answer.json["details"]["retryAfterSeconds"] == 1


def test_initial_events_end_with_a_bookmark(api, maps):
    api.post(maps, labelled("one", "x")).ok()
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true",
             "labelSelector": "watch-this=x"}
    for version in ("", "0"):
        with api.watch(maps, resourceVersion=version, **query) as events:
            assert next(events)[0] == "ADDED"
            kind, mark = next(events)
            assert kind == "BOOKMARK" and mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    with api.watch(maps, patience=1, **{**query, "sendInitialEvents": "false"}) as events:
        assert [kind for kind, _ in events if kind != "BOOKMARK"] == []


def test_tables_have_a_cell_for_each_column(api, ns):
    pods = f"/api/v1/namespaces/{ns.name}/pods"
    api.post(pods, pod("pod-1", "sleep", "1")).ok()
    for accept in (TABLE, "application/json;as=Table;v=v1beta1;g=meta.k8s.io"):
        table = api.get(f"{pods}/pod-1", accept=accept).ok()
        [row] = table["rows"]
        assert table["kind"] == "Table" and table["columnDefinitions"][0]["name"] == "Name" and row["cells"][0] == "pod-1"
        assert len(row["cells"]) == len(table["columnDefinitions"]) > 2 and accept.split("v=")[1].split(";")[0] in table["apiVersion"]
    nodes = api.get("/api/v1/nodes", accept=TABLE).ok()
    assert nodes["metadata"]["resourceVersion"] and nodes["rows"][0]["cells"][0] == ns.cluster.node


def test_what_has_no_metadata_is_no_table(api):
    review = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
    refused = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, accept=TABLE)
    assert refused.code == 406 and refused.json["code"] == 406 and refused.json["reason"] == "NotAcceptable"


def test_large_answers_are_compressed_for_who_takes_that(api, maps):
    api.post(maps, {"metadata": {"name": "large"}, "data": {"a": "x" * 200_000}}).ok()
    answer = api.pool.request("GET", f"{api.server}{maps}/large", headers={"Accept-Encoding": "gzip"}, decode_content=False)
    assert answer.headers["content-encoding"] == "gzip" and len(answer.data) < 10_000
    assert b"xxxx" in gzip.decompress(answer.data)
    assert "content-encoding" not in api.pool.request("GET", f"{api.server}/version", headers={"Accept-Encoding": "gzip"}).headers


SELECTORS = """
/api/v1/pods metadata.name metadata.namespace spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase status.podIP status.podIPs status.nominatedNodeName
/api/v1/nodes metadata.name spec.unschedulable
/api/v1/namespaces metadata.name status.phase
/api/v1/events metadata.name metadata.namespace involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type
/apis/events.k8s.io/v1/events metadata.name reason reportingController type regarding.kind regarding.namespace regarding.name regarding.uid regarding.apiVersion regarding.resourceVersion regarding.fieldPath
/api/v1/secrets metadata.name type
/api/v1/services metadata.name spec.clusterIP spec.type
/api/v1/replicationcontrollers metadata.name status.replicas
/apis/apps/v1/replicasets metadata.name status.replicas
/apis/batch/v1/jobs metadata.name status.successful
/apis/certificates.k8s.io/v1/certificatesigningrequests metadata.name spec.signerName
/apis/apps/v1/deployments metadata.name metadata.namespace
/apis/apiextensions.k8s.io/v1/customresourcedefinitions metadata.name
""".strip().splitlines()


@pytest.mark.parametrize("line", SELECTORS, ids=lambda line: line.split()[0])
def test_documented_fields_select_and_others_are_refused(api, line):
    path, *fields = line.split()
    for field in fields:
        assert api.get(path, fieldSelector=f"{field}=nothing-is-called-so").code == 200, field
    refused = api.get(path, fieldSelector="spec.nonsense=1")
    assert refused.code == 400 and refused.json["reason"] == "BadRequest"
    message = refused.json["message"]
    known = "field label not supported: spec.nonsense" in message
    known = known or 'field label "spec.nonsense" not supported for batchv1.Job' in message
    assert known or 'is not a known field selector: only "metadata.name", "metadata.namespace"' in message, message


def test_pods_are_selected_by_what_they_are(api, ns):
    ns.apply(pod("a", "sleep", "60", spec={"restartPolicy": "Never"}))
    ready = ns.wait_phase("a", "Running")
    for selector in ("spec.restartPolicy=Never", "spec.restartPolicy!=Always", "spec.schedulerName=default-scheduler",
                     "spec.serviceAccountName=default", f"spec.nodeName={ns.cluster.node}", "status.phase=Running", "spec.hostNetwork=false",
                     f"status.podIP={ready['status']['podIP']}", "status.nominatedNodeName="):
        found = api.get(f"/api/v1/namespaces/{ns.name}/pods", fieldSelector=selector).ok()["items"]
        assert [p["metadata"]["name"] for p in found] == ["a"], selector


def test_the_version_is_made_of_numbers(api):
    version = api.get("/version").ok()
    assert version["major"].isdigit() and version["minor"].isdigit()

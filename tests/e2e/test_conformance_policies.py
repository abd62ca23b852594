"""Admission policies and flow control as the conformance programme tries them: every operation of their APIs, and what policies do."""

import pytest

from cluster import deployment, eventually

ADMISSION, FLOWS = "admissionregistration.k8s.io", "flowcontrol.apiserver.k8s.io"
ABOUT_DEPLOYMENTS = {
    "resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}]
}
ANNOTATED = "Object{metadata: Object.metadata{annotations: {'mutated-by': 'admission-policy'}}}"


def applied(expression):
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


# Of each resource: its group, a spec, and two changes of it, one by patch and one by update.
RESOURCES = {
    "validatingadmissionpolicies": (
        ADMISSION,
        {"matchConstraints": ABOUT_DEPLOYMENTS, "validations": [{"expression": "object.spec.replicas <= 100"}]},
        {"failurePolicy": "Ignore"},
        {"failurePolicy": "Fail"},
    ),
    "validatingadmissionpolicybindings": (
        ADMISSION,
        {"policyName": "replicalimit-policy.example.com", "validationActions": ["Deny"]},
        {"validationActions": ["Warn"]},
        {"validationActions": ["Deny"]},
    ),
    "mutatingadmissionpolicies": (
        ADMISSION,
        {"matchConstraints": ABOUT_DEPLOYMENTS, "mutations": [applied(ANNOTATED)], "reinvocationPolicy": "Never"},
        {"reinvocationPolicy": "IfNeeded"},
        {"reinvocationPolicy": "Never"},
    ),
    "mutatingadmissionpolicybindings": (ADMISSION, {"policyName": "replicalimit-policy.example.com"}, {}, {}),
    "flowschemas": (
        FLOWS,
        {
            "matchingPrecedence": 10000,
            "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                }
            ],
        },
        {"matchingPrecedence": 9999},
        {"matchingPrecedence": 9000},
    ),
    "prioritylevelconfigurations": (
        FLOWS,
        {"type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}},
        {"limited": {"nominalConcurrencyShares": 4}},
        {"limited": {"nominalConcurrencyShares": 6}},
    ),
}
WITH_STATUS = ["validatingadmissionpolicies", "flowschemas", "prioritylevelconfigurations"]


def says(wanted, there):
    """Whether all that is wanted is there."""
    if isinstance(wanted, dict):
        return all(key in there and says(value, there[key]) for key, value in wanted.items())
    return wanted == there


def put_over(spec, change):
    for key, value in change.items():
        spec[key] = put_over(spec[key], value) if isinstance(value, dict) else value
    return spec


@pytest.mark.parametrize("plural", RESOURCES)
def test_every_operation_of_a_resource_works(api, plural):
    group, spec, patch, update = RESOURCES[plural]
    groups = {g["name"]: [v["version"] for v in g["versions"]] for g in api.get("/apis").ok()["groups"]}
    assert "v1" in groups[group]
    assert "v1" in [v["version"] for v in api.get(f"/apis/{group}").ok()["versions"]]
    served = [r["name"] for r in api.get(f"/apis/{group}/v1").ok()["resources"]]
    assert plural in served
    assert (f"{plural}/status" in served) == (plural in WITH_STATUS)

    path, chosen = f"/apis/{group}/v1/{plural}", f"example-e2e={plural}"
    listed = lambda: api.get(path, labelSelector=chosen).ok()
    template = {"metadata": {"generateName": "e2e-example-", "labels": {"example-e2e": plural}}, "spec": spec}
    try:
        made = [api.post(path, template).ok() for _ in range(3)][-1]
        one, uid, version = f"{path}/{made['metadata']['name']}", made["metadata"]["uid"], made["metadata"]["resourceVersion"]
        assert api.get(one).ok()["metadata"]["uid"] == uid
        items = listed()
        assert len(items["items"]) == 3
        with api.watch(path, labelSelector=chosen, resourceVersion=items["metadata"]["resourceVersion"]) as events:
            patched = api.patch(one, {"metadata": {"annotations": {"patched": "true"}}, "spec": patch}).ok()
            assert patched["metadata"]["annotations"]["patched"] == "true" and says(patch, patched["spec"])
            assert int(patched["metadata"]["resourceVersion"]) > int(version)
            updated = put_again(api, one, update).ok()
            assert updated["metadata"]["annotations"]["updated"] == "true" and says(update, updated["spec"])
            for kind, seen in events:
                assert kind == "MODIFIED"
                if seen["metadata"].get("annotations", {}).get("patched") == "true":
                    break
            else:
                pytest.fail("nothing was told of the change")
        if plural in WITH_STATUS:
            try_status(api, one, uid, updated["kind"])
        api.delete(one).ok()
        assert api.get(one).code == 404
        assert len(listed()["items"]) == 2
        api.delete(path, labelSelector=chosen).ok()
        assert listed()["items"] == []
    finally:
        api.delete(path, labelSelector=chosen)


def put_again(api, one, update):
    """Reads, changes and writes, until nobody else (who keeps its status) wrote in between."""
    for _ in range(5):
        current = api.get(one).ok()
        current["metadata"]["annotations"]["updated"] = "true"
        put_over(current["spec"], update)
        answer = api.put(one, current)
        if answer.code != 409:
            break
    return answer


def try_status(api, one, uid, kind):
    status = api.get(f"{one}/status").ok()
    assert (status["kind"], status["metadata"]["uid"]) == (kind, uid)
    failed = {"type": "PatchStatusFailed", "status": "False", "reason": "e2e", "message": "Set from an e2e test",
              "lastTransitionTime": "2024-01-01T00:00:00Z"}
    if "flowcontrol" in one:
        del failed["message"], failed["lastTransitionTime"]
    types = lambda answer: [c["type"] for c in answer.ok()["status"]["conditions"]]
    assert "PatchStatusFailed" in types(api.patch(f"{one}/status", {"status": {"conditions": [failed]}}))

    def update():
        current = api.get(one).ok()
        current.setdefault("status", {}).setdefault("conditions", []).append(
            {**failed, "type": "StatusUpdateFailed", "reason": "E2E", "message": "Set from an e2e test",
             "lastTransitionTime": "2026-01-01T00:00:00Z"})
        answer = api.put(f"{one}/status", current)
        return answer.code != 409 and answer

    assert "StatusUpdateFailed" in types(eventually(update))


@pytest.fixture
def bind(api, ns):
    """Makes a policy of one of the two kinds about deployments, and binds it, both for the test's namespace only."""
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns.name}}}
    made = []

    def make(kind, bound=None, **spec):
        spec = {"matchConstraints": {**ABOUT_DEPLOYMENTS, **here}, **spec}
        for plural, spec in ((f"{kind}admissionpolicies", spec),
                             (f"{kind}admissionpolicybindings", {"policyName": ns.name, "matchResources": here, **(bound or {})})):
            path = f"/apis/{ADMISSION}/v1/{plural}"
            api.post(path, {"metadata": {"name": ns.name}, "spec": spec}).ok()
            made.append(f"{path}/{ns.name}")

    yield make
    for path in made:
        api.delete(path)


@pytest.fixture
def create(api, ns):
    """Creates a Deployment that is paused, so that no pods come of it."""
    path = f"/apis/apps/v1/namespaces/{ns.name}/deployments"
    return lambda name, replicas: api.post(path, deployment(name, replicas, paused=True))


DENY = {"validationActions": ["Deny"]}


def test_a_policy_validates_against_a_deployment(bind, create):
    bind("validating", DENY, validations=[
        {"expression": "object.spec.replicas > 1", "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"}])
    answer = create("marker-deployment", 1)
    assert (answer.code, answer.json["reason"]) == (422, "Invalid")
    # The expression of the message adds a text and a number, which is none: the expression of the rule is told.
    assert answer.json["message"].endswith("denied request: failed expression: object.spec.replicas > 1")
    create("replicated", 2).ok()


def test_a_policy_for_deployments_is_none_for_replica_sets(bind, api, ns):
    bind("validating", DENY, validations=[{"expression": "object.spec.replicas > 1"}])
    spec = deployment("non-replicated", 1)["spec"]
    spec = {key: spec[key] for key in ("replicas", "selector", "template")}
    api.post(f"/apis/apps/v1/namespaces/{ns.name}/replicasets", {"metadata": {"name": "non-replicated"}, "spec": spec}).ok()


def test_expressions_refer_to_variables(bind, create):
    variables = [{"name": "replicas", "expression": "object.spec.replicas"}, {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}]
    bind("validating", DENY, variables=variables,
         validations=[{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}])
    for name, replicas, told in (("marker-deployment", 1, "variables.replicas > 1"), ("replicated", 2, "variables.oddReplicas")):
        answer = create(name, replicas)
        assert (answer.code, answer.json["reason"]) == (422, "Invalid")
        assert answer.json["message"].endswith(f"denied request: failed expression: {told}")
    create("odd", 3).ok()


@pytest.mark.parametrize(
    "expression, changed",
    [
        (ANNOTATED, {"metadata": {"annotations": {"mutated-by": "admission-policy"}}}),
        ("Object{spec: Object.spec{replicas: 1337}}", {"spec": {"replicas": 1337}}),
    ],
)
def test_a_policy_mutates_a_deployment(bind, create, expression, changed):
    bind("mutating", mutations=[applied(expression)], reinvocationPolicy="Never")
    assert says(changed, create("marker-deployment", 1).ok())

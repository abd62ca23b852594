"""RBAC from the side of those who lack each right: a service account with a token of its own."""

import json

import pytest

from cluster import eventually


class Someone:
    """A service account of the test's namespace, used through a kubeconfig with its token."""

    def __init__(self, ns, name):
        self.ns, self.name = ns, name
        ns.kubectl("create", "serviceaccount", name)
        token = ns.kubectl("create", "token", name).strip()
        self.user = f"system:serviceaccount:{ns.name}:{name}"
        self.options = ["--kubeconfig=/dev/null", f"--server=https://127.0.0.1:{ns.cluster.port}",
                        "--insecure-skip-tls-verify", f"--token={token}", f"--namespace={ns.name}"]

    def run(self, *arguments, **more):
        return self.ns.cluster.run(*self.options, *arguments, check=False, **more)

    def may(self, *arguments, **more):
        result = self.run(*arguments, **more)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def may_not(self, *arguments, **more):
        result = self.run(*arguments, **more)
        assert result.returncode != 0, result.stdout
        assert "forbidden" in result.stderr.lower(), result.stderr
        return result.stderr


@pytest.fixture
def jane(ns):
    return Someone(ns, "jane")


def test_a_token_is_worth_what_is_bound_to_its_account(ns, jane):
    assert jane.user in jane.may("auth", "whoami")
    assert f'User "{jane.user}" cannot list resource "pods" in API group "" in the namespace "{ns.name}"' in jane.may_not("get", "pods")
    ns.kubectl("create", "role", "reader", "--verb=get,list,watch", "--resource=pods,configmaps")
    ns.kubectl("create", "rolebinding", "jane", "--role=reader", f"--serviceaccount={ns.name}:jane")
    assert jane.may("get", "configmaps", "-o", "name").strip() == "configmap/kube-root-ca.crt"
    jane.may_not("get", "secrets")
    jane.may_not("get", "pods", "--all-namespaces")
    jane.may_not("create", "configmap", "x")
    jane.may_not("delete", "configmap", "kube-root-ca.crt")
    assert jane.may("auth", "can-i", "list", "pods").strip() == "yes"
    assert jane.run("auth", "can-i", "delete", "pods").stdout.strip() == "no"
    rights = jane.may("auth", "can-i", "--list")
    assert "[get list watch]" in rights and "selfsubjectreviews.authentication.k8s.io" in rights
    ns.kubectl("delete", "rolebinding", "jane")
    jane.may_not("get", "pods")


def test_view_edit_and_admin_reach_as_far_as_they_do_in_kubernetes(ns, jane):
    everyone = {name: Someone(ns, name) for name in ("viewer", "editor", "owner")}
    for name, role in (("viewer", "view"), ("editor", "edit"), ("owner", "admin")):
        ns.kubectl("create", "rolebinding", name, f"--clusterrole={role}", f"--serviceaccount={ns.name}:{name}")
    viewer, editor, owner = everyone.values()
    # The roles are put together by a controller.
    eventually(lambda: viewer.run("get", "pods").returncode == 0 and owner.run("get", "roles").returncode == 0)
    viewer.may_not("get", "secrets")
    viewer.may_not("create", "configmap", "x")
    editor.may("create", "configmap", "x")
    editor.may("get", "secrets")
    editor.may_not("get", "roles")
    owner.may("create", "role", "pods", "--verb=get", "--resource=pods")
    owner.may("create", "rolebinding", "pods", "--role=pods", "--user=joe")
    said = owner.may_not("create", "rolebinding", "x", "--clusterrole=cluster-admin", "--user=joe")
    assert "is attempting to grant RBAC permissions not currently held" in said
    said = owner.may_not("create", "role", "nodes", "--verb=get", "--resource=nodes")
    assert '{APIGroups:[""], Resources:["nodes"], Verbs:["get"]}' in said
    for someone in everyone.values():
        someone.may_not("get", "nodes")
        someone.may_not("create", "clusterrole", "x", "--verb=get", "--resource=pods")


def test_reconcile_adds_what_is_missing_and_keeps_what_is_there(ns):
    ns.kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    role = ns.get("role", "r")
    role["rules"] = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]
    ns.kubectl("auth", "reconcile", "-f", "-", input=json.dumps(role))
    rules = ns.get("role", "r")["rules"]
    assert [rule["resources"] for rule in rules] == [["pods"], ["secrets"]]
    assert "CREATED AT" in ns.kubectl("get", "roles")
    assert "cannot change roleRef" in rebound(ns)


def rebound(ns):
    ns.kubectl("create", "rolebinding", "b", "--role=r", "--user=jane")
    binding = ns.get("rolebinding", "b")
    binding["roleRef"]["name"] = "other"
    return ns.refused("replace", "-f", "-", input=json.dumps(binding))


def test_a_cluster_role_takes_in_the_rules_of_those_that_it_selects(ns, jane):
    label = f"{ns.name}.example.com/aggregate"
    try:
        ns.kubectl("create", "clusterrole", ns.name, f"--aggregation-rule={label}=true")
        ns.kubectl("create", "rolebinding", "jane", f"--clusterrole={ns.name}", f"--serviceaccount={ns.name}:jane")
        jane.may_not("get", "secrets")
        ns.kubectl("create", "clusterrole", f"{ns.name}-part", "--verb=list", "--resource=secrets")
        ns.kubectl("label", "clusterrole", f"{ns.name}-part", f"{label}=true")
        eventually(lambda: jane.run("get", "secrets").returncode == 0, what="the aggregated right")
    finally:
        ns.kubectl("delete", "clusterrole", ns.name, f"{ns.name}-part")

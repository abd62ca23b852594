"""An API server of somebody else on this machine, behind a Service without selector, as the documentation of the aggregation layer wants
it: it knows the front proxy by its certificate, believes it who asks, and asks the cluster whether they may."""

import hashlib
import json
import ssl
import threading
import urllib.parse

import urllib3

from host_server import Handler, Identity, Server, bundle, endpoints

CONFIG = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"


class Cluster:
    """The cluster as a ServiceAccount sees it."""

    def __init__(self, server, authority, token):
        self.server = server
        context = ssl.create_default_context(cadata=authority)
        self.pool = urllib3.PoolManager(ssl_context=context, headers={"Authorization": f"Bearer {token}"}, retries=False)

    def ask(self, method, path, body=None):
        headers = {**self.pool.headers, "Content-Type": "application/json"}
        answer = self.pool.request(method, self.server + path, body=json.dumps(body) if body else None, headers=headers)
        assert answer.status < 300, f"{answer.status}: {answer.data}"
        return answer.json()

    def who_has(self, token):
        review = self.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}})
        return review["status"]["user"] if review["status"].get("authenticated") else None

    def may(self, user, attributes):
        spec = {"user": user["username"], "groups": user.get("groups", []), "uid": user.get("uid", ""),
                "extra": user.get("extra", {}), **attributes}
        return self.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})["status"]["allowed"]


class Samples(Handler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, value, etag=None):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(body)

    def fail(self, code, reason, message):
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                           "message": message, "reason": reason, "code": code})

    def asker(self):
        """Who asks: whom the front proxy names, or whose token it is."""
        own = self.server.extension
        subject = dict(pair[0] for pair in (self.connection.getpeercert() or {}).get("subject", []))
        if subject.get("commonName") in json.loads(own.known["requestheader-allowed-names"]):
            names = {key: json.loads(own.known[f"requestheader-{key}-headers"])[0] for key in ("username", "group", "uid")}
            prefix = json.loads(own.known["requestheader-extra-headers-prefix"])[0]
            extra = {urllib.parse.unquote(key[len(prefix):].lower()): self.headers.get_all(key)
                     for key in set(self.headers) if key.lower().startswith(prefix.lower())}
            return {"username": self.headers[names["username"]], "groups": self.headers.get_all(names["group"], []),
                    "uid": self.headers.get(names["uid"], ""), "extra": extra}
        kind, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return own.cluster.who_has(token) if kind == "Bearer" else None

    def serve(self):
        own, url = self.server.extension, urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        user = self.asker()
        own.seen.append({"method": self.command, "path": url.path, "query": query, "user": user, "headers": dict(self.headers)})
        if user is None:
            return self.fail(401, "Unauthorized", "Unauthorized")
        parts = url.path.removeprefix(own.root).strip("/").split("/")
        if not url.path.startswith(f"{own.root}/namespaces/"):
            if not own.cluster.may(user, {"nonResourceAttributes": {"path": url.path, "verb": self.command.lower()}}):
                return self.fail(403, "Forbidden", f"{user['username']} may not {self.command} {url.path}")
            return self.document(url.path)
        namespace, name = parts[1], "/".join(parts[3:4])
        verb = {"POST": "create", "DELETE": "delete"}.get(self.command, "get" if name else "watch" if "watch" in query else "list")
        attributes = {"group": own.group, "version": own.version, "resource": own.plural, "namespace": namespace, "name": name,
                      "verb": verb, "subresource": "/".join(parts[4:5])}
        if not own.cluster.may(user, {"resourceAttributes": attributes}):
            return self.fail(403, "Forbidden", f"{user['username']} may not {verb} {own.plural} in {namespace}")
        if parts[4:]:
            return self.echo()
        getattr(self, verb)((namespace, name), body)

    do_GET = do_POST = do_DELETE = serve

    def document(self, path):
        own = self.server.extension
        if path in own.documents:
            return self.answer(200, own.documents[path], hashlib.sha256(path.encode()).hexdigest())
        self.fail(404, "NotFound", "the server could not find the requested resource")

    def create(self, at, body):
        made = json.loads(body)
        made["metadata"]["namespace"] = at[0]
        self.server.extension.objects[at[0], made["metadata"]["name"]] = made
        self.answer(201, made)

    def get(self, at, _body):
        found = self.server.extension.objects.get(at)
        self.answer(200, found) if found else self.missing(at)

    def delete(self, at, _body):
        gone = self.server.extension.objects.pop(at, None)
        self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}) if gone else self.missing(at)

    def missing(self, at):
        own = self.server.extension
        self.fail(404, "NotFound", f'{own.plural}.{own.group} "{at[1]}" not found')

    def list(self, at, _body):
        own = self.server.extension
        items = [o for (namespace, _), o in own.objects.items() if namespace == at[0]]
        self.answer(200, {"kind": f"{own.kind}List", "apiVersion": own.api_version, "metadata": {"resourceVersion": "1"}, "items": items})

    def watch(self, at, _body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for (namespace, _), found in list(self.server.extension.objects.items()):
            if namespace == at[0]:
                line = json.dumps({"type": "ADDED", "object": found}).encode() + b"\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                self.wfile.flush()
        self.server.extension.ending.wait(10)
        self.wfile.write(b"0\r\n\r\n")

    def echo(self):
        """Gives back, in capitals, what comes over the connection."""
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", self.headers["Upgrade"])
        self.end_headers()
        while line := self.rfile.readline():
            self.wfile.write(line.upper())
            self.wfile.flush()
        self.close_connection = True


class Extension:
    """A server of one kind behind the Service `sample-api` of a namespace, at port 7443 there."""

    group, version, kind, plural = "sample.example.com", "v1", "Sample", "samples"

    def __init__(self, folder, ns, server, authority):
        self.ns, self.seen, self.objects, self.ending = ns, [], {}, threading.Event()
        self.api_version, self.root = f"{self.group}/{self.version}", f"/apis/{self.group}/{self.version}"
        self.register()
        self.cluster = Cluster(server, authority, ns.kubectl("create", "token", "default").strip())
        self.known = self.cluster.ask("GET", CONFIG)["data"]
        self.identity = Identity(folder, f"DNS:sample-api.{ns.name}.svc")
        self.bundle = bundle(self.identity)
        self.documents = self.described()
        self.start()

    def start(self, port=0):
        clients = self.known["requestheader-client-ca-file"]
        self.http = Server(("0.0.0.0", port), Samples, self.identity, clients, extension=self)
        self.port = self.http.server_port
        self.endpoints(ready=True)

    def register(self):
        """What an extension server needs: to ask who somebody is and whether they may, and to read by which certificate proxies are known."""
        me = {"kind": "ServiceAccount", "name": "default", "namespace": self.ns.name}
        rbac = "rbac.authorization.k8s.io"
        self.ns.apply(
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"{self.ns.name}:auth-delegator"},
             "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "system:auth-delegator"}, "subjects": [me]},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"}, "spec": {"ports": [{"port": 7443}]}})
        self.ns.cluster.apply(
            {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": {"name": f"{self.ns.name}-auth-reader"},
             "roleRef": {"apiGroup": "", "kind": "Role", "name": "extension-apiserver-authentication-reader"}, "subjects": [me]},
            "kube-system")

    def unregister(self):
        self.ns.cluster.kubectl("delete", "clusterrolebinding", f"{self.ns.name}:auth-delegator")
        self.ns.cluster.kubectl("delete", "rolebinding", f"{self.ns.name}-auth-reader", "-n", "kube-system")

    def endpoints(self, ready):
        endpoints(self.ns, "sample-api", self.port, ready)

    def api_service(self, **spec):
        service = {"namespace": self.ns.name, "name": "sample-api", "port": 7443}
        return {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": f"{self.version}.{self.group}"},
                "spec": {"group": self.group, "version": self.version, "service": service, "caBundle": self.bundle,
                         "groupPriorityMinimum": 2000, "versionPriority": 200, **spec}}

    def described(self):
        """Discovery and OpenAPI."""
        resource = {"name": self.plural, "singularName": self.kind.lower(), "namespaced": True, "kind": self.kind,
                    "shortNames": ["smp"], "verbs": ["create", "delete", "get", "list", "watch"]}
        definition = "com.example.sample.v1.Sample"
        schema = {"type": "object", "description": "A sample of the extension server.",
                  "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
                                 "spec": {"type": "object", "description": "What is wanted of a sample."}},
                  "x-kubernetes-group-version-kind": [{"group": self.group, "version": self.version, "kind": self.kind}]}
        path, v3 = f"{self.root}/namespaces/{{namespace}}/{self.plural}", f"/openapi/v3{self.root}"
        info = {"title": "samples", "version": "v0"}
        operation = {"operationId": "listSample", "x-kubernetes-action": "list", "responses": {"200": {"description": "OK"}},
                     "x-kubernetes-group-version-kind": schema["x-kubernetes-group-version-kind"][0]}
        return {
            self.root: {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": self.api_version, "resources": [resource]},
            "/openapi/v3": {"paths": {self.root[1:]: {"serverRelativeURL": f"{v3}?hash=A1"}}},
            v3: {"openapi": "3.0.0", "info": info, "paths": {path: {"get": operation}}, "components": {"schemas": {definition: schema}}},
            "/openapi/v2": {"swagger": "2.0", "info": info, "paths": {path: {"get": operation}}, "definitions": {definition: schema}},
        }

    def end(self):
        self.ending.set()
        self.http.end()

"""A server of admission and conversion webhooks on this machine, reached through a Service without selector: a Service, an
EndpointSlice that points to the host, and a certificate for the Service's name."""

import base64
import json
import time

from host_server import Handler, Identity, Server, bundle, endpoints


def _patch(*operations):
    return {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(list(operations)).encode()).decode()}


def _deny(why):
    return {"allowed": False, "status": {"message": why}}


def deny(_request):
    return _deny("this webhook denies all requests")


def wait(_request, seconds=5):
    time.sleep(seconds)
    return {"allowed": True}


def config_maps(request):
    """Refuses what carries a certain value."""
    unwanted = (request["object"].get("data") or {}).get("mark") == "unwanted"
    return _deny("the configmap contains unwanted key and value") if unwanted else {"allowed": True}


def stages(request):
    """Adds the next stage to `data`: the first, and the second where the first is there."""
    data = request["object"].get("data") or {}
    for before, after in (("start", "stage-1"), ("stage-1", "stage-2")):
        if data.get(before) == "yes" and after not in data:
            return {"allowed": True, **_patch({"op": "add", "path": f"/data/{after}", "value": "yes"})}
    return {"allowed": True}


def pods(request):
    labels = request["object"]["metadata"].get("labels") or {}
    if labels.get("mark") == "hang":
        time.sleep(30)
    return _deny("the pod contains unwanted label") if labels.get("mark") == "unwanted" else {"allowed": True}


def init_container(_request):
    container = {"name": "added", "image": "e2e.test/busybox:1", "command": ["true"]}
    return {"allowed": True, **_patch({"op": "add", "path": "/spec/initContainers", "value": [container]})}


def attach(request):
    asked, name = request["object"], request["name"]
    if asked["kind"] == "PodAttachOptions" and asked.get("stdin") and asked.get("container") == "main":
        return _deny(f"attaching to pod {name!r} is not allowed")
    return {"allowed": True}


def custom(request):
    """Refuses unwanted data, and the deletion of what is marked."""
    if request["operation"] == "DELETE":
        kept = (request["oldObject"].get("data") or {}).get("mark") == "kept"
        return _deny("it cannot be deleted because it contains unwanted key and value") if kept else {"allowed": True}
    unwanted = (request["object"].get("data") or {}).get("mark") == "unwanted"
    return _deny("the custom resource contains unwanted data") if unwanted else {"allowed": True}


def definitions(request):
    labels = request["object"]["metadata"].get("labels") or {}
    return _deny("the crd contains unwanted label") if labels.get("mark") == "unwanted" else {"allowed": True}


def label(_request):
    return {"allowed": True, **_patch({"op": "add", "path": "/metadata/labels", "value": {"added": "yes"}})}


def convert(value, wanted):
    """v1 has `hostPort`, v2 `host` and `port`."""
    value = {**value, "apiVersion": wanted}
    if wanted.endswith("/v2") and "hostPort" in value:
        value["host"], _, port = value.pop("hostPort").partition(":")
        value.update({"port": port} if port else {})
    elif wanted.endswith("/v1") and "host" in value:
        value["hostPort"] = ":".join(filter(None, [value.pop("host"), value.pop("port", "")]))
    return value


ADMIT = {"/deny": deny, "/wait": wait, "/configmaps": config_maps, "/stages": stages, "/pods": pods, "/attach": attach,
         "/init-container": init_container, "/custom": custom, "/definitions": definitions, "/label": label}


class Webhooks(Handler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.partition("?")[0]
        self.server.seen.append((path, review["request"]))
        if path == "/convert":
            asked = review["request"]
            objects = [convert(o, asked["desiredAPIVersion"]) for o in asked["objects"]]
            response = {"uid": asked["uid"], "convertedObjects": objects, "result": {"status": "Success"}}
        else:
            response = {"uid": review["request"]["uid"], **ADMIT[path](review["request"])}
        body = json.dumps({"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # Who asked has given up.


class Hooks:
    """The server behind the Service `hooks` of a namespace."""

    def __init__(self, folder, ns):
        self.ns = ns
        identity = Identity(folder, f"DNS:hooks.{ns.name}.svc")
        self.bundle = bundle(identity)
        self.http = Server(("0.0.0.0", 0), Webhooks, identity, seen=[])
        ns.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hooks"}, "spec": {"ports": [{"port": 8443}]}})
        endpoints(ns, "hooks", self.http.server_port)

    @property
    def seen(self):
        """What was asked: (path, request)."""
        return self.http.seen

    def client_config(self, path, trusted=True):
        service = {"namespace": self.ns.name, "name": "hooks", "path": path, "port": 8443}
        return {"service": service, **({"caBundle": self.bundle} if trusted else {})}

    def end(self):
        self.http.end()

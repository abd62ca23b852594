"""Plain HTTP to the API server: for what neither kubectl nor the Python client shows (codes, headers, raw watches)."""

import base64
import contextlib
import json
import ssl
import tempfile
import urllib.parse

import urllib3
import yaml


class Answer:
    """What came back."""

    def __init__(self, response):
        self.code, self.headers, self.text = response.status, response.headers, response.data.decode()

    @property
    def json(self):
        return json.loads(self.text)

    def ok(self):
        assert self.code < 300, f"{self.code}: {self.text[:2000]}"
        return self.json


class Api:
    """The administrator's way in, without a client library."""

    def __init__(self, cluster):
        config = yaml.safe_load(cluster.kubeconfig.read_text())
        user, self.server = config["users"][0]["user"], config["clusters"][0]["cluster"]["server"]
        with tempfile.NamedTemporaryFile("wb", suffix=".pem") as pem:
            pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pem.flush()
            context = ssl.create_default_context(
                cadata=base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode())
            context.load_cert_chain(pem.name)
        self.pool = urllib3.PoolManager(ssl_context=context, maxsize=32, retries=False)

    def ask(self, method, path, body=None, type="application/json", accept="application/json", headers=None, **query):
        if query:
            path += "?" + urllib.parse.urlencode(query, doseq=True)
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        headers = {"Accept": accept, **({"Content-Type": type} if body is not None else {}), **(headers or {})}
        return Answer(self.pool.request(method, self.server + path, body=body, headers=headers, timeout=40))

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body, **more):
        return self.ask("POST", path, body, **more)

    def put(self, path, body, **more):
        return self.ask("PUT", path, body, **more)

    def delete(self, path, body=None, **more):
        return self.ask("DELETE", path, body, **more)

    def patch(self, path, body, type="merge-patch", **more):
        return self.ask("PATCH", path, body, type=f"application/{type}+json" if "/" not in type else type, **more)

    @contextlib.contextmanager
    def watch(self, path, **query):
        """The events of a watch as an iterator of (type, object); it ends when nothing came for `patience` seconds."""
        patience = query.pop("patience", 10)
        url = self.server + path + "?" + urllib.parse.urlencode({"watch": "1", **query})
        response = self.pool.request("GET", url, preload_content=False, timeout=urllib3.Timeout(connect=5, read=patience))
        try:
            yield events(response)
        finally:
            response.close()


def events(response):
    assert response.status == 200, f"{response.status}: {response.read()[:500]}"
    rest = b""
    try:
        for chunk in response.stream(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = json.loads(line)
                yield event["type"], event["object"]
    except urllib3.exceptions.ReadTimeoutError:
        return

"""A registry on the loopback for the tests: Debian's docker-registry, filled over its HTTP API."""

import base64
import gzip
import hashlib
import json
import pathlib
import socket
import subprocess
import urllib.error
import urllib.request

from cluster import eventually

# User `user`, password `secret`, bcrypt.
HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
LOGIN = base64.b64encode(b"user:secret").decode()
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """Keeps its port and its images while it is stopped. It ends with the `with` block."""

    def __init__(self, folder, passwords=False):
        self.folder, self.passwords, self.process = pathlib.Path(folder), passwords, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "blobs")}},
            "http": {"addr": self.address},
        }
        if self.passwords:
            (self.folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}
        (self.folder / "registry.yml").write_text(json.dumps(config))
        command = ["docker-registry", "serve", str(self.folder / "registry.yml")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: self.request("GET", "/v2/").status == 200, what="the registry")
        return self

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def request(self, method, url, data=None, kind="application/octet-stream"):
        url = url if url.startswith("http") else f"http://{self.address}{url}"
        headers = {"Content-Type": kind, **({"Authorization": f"Basic {LOGIN}"} if self.passwords else {})}
        try:
            return urllib.request.urlopen(urllib.request.Request(url, data=data, method=method, headers=headers), timeout=10)
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as error:
            raise AssertionError(f"{method} {url}: {error}") from None

    def push_blob(self, repository, data):
        upload = self.request("POST", f"/v2/{repository}/blobs/uploads/", b"").headers["Location"]
        joint = "&" if "?" in upload else "?"
        self.request("PUT", f"{upload}{joint}digest={digest(data)}", data)
        return {"size": len(data), "digest": digest(data)}

    def push(self, repository, tag, layer):
        """Pushes an image of one layer; gives the digest of its manifest."""
        config = json.dumps({
            "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sleep", "3600"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }).encode()
        kind = "application/vnd.docker."
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": kind + "container.image.v1+json", **self.push_blob(repository, config)},
            "layers": [{
                "mediaType": kind + "image.rootfs.diff.tar.gzip",
                **self.push_blob(repository, gzip.compress(layer, 1, mtime=0)),
            }],
        }).encode()
        self.request("PUT", f"/v2/{repository}/manifests/{tag}", manifest, MANIFEST)
        return digest(manifest)

    def corrupt(self, blob):
        """Changes what is stored behind a digest, as a broken disk or a forger would."""
        algorithm, value = blob.split(":")
        file = self.folder / "blobs/docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

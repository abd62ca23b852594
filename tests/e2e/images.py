"""Images for the tests, made from Debian's static busybox: nothing is fetched from a network registry."""

import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import tarfile

FETCH = pathlib.Path(__file__).parents[2] / "examples" / "web" / "image" / "fetch"


def _add(tar, name, data=b"", mode=0o755, link=None, kind=None):
    info = tarfile.TarInfo(name)
    info.mode = mode
    if link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif kind is not None:
        info.type = kind
    else:
        info.size = len(data)
    tar.addfile(info, io.BytesIO(data) if info.isreg() else None)


def busybox_layer(files=()):
    """A layer with busybox, its applets and the given files ({path: text})."""
    busybox = shutil.which("busybox")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("bin", "etc", "tmp", "www", "home"):
            _add(tar, folder, kind=tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755)
        with open(busybox, "rb") as file:
            _add(tar, "bin/busybox", file.read())
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                _add(tar, f"bin/{applet}", link="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n", mode=0o644)
        _add(tar, "etc/group", b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n", mode=0o644)
        # The example's fetch: the wget of Debian's static busybox crashes.
        _add(tar, "bin/fetch", FETCH.read_bytes())
        for path, text in dict(files).items():
            _add(tar, path, text.encode())
    return out.getvalue()


def layer(files):
    """A layer of programs ({path: bytes}) and the folders that they are in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in sorted({str(parent) for path in files for parent in pathlib.PurePath(path).parents} - {"."}):
            _add(tar, folder, kind=tarfile.DIRTYPE)
        for path, data in files.items():
            _add(tar, path, data)
    return out.getvalue()


def docker_archive(path, reference, layers, config=None):
    """Writes a `docker save` archive."""
    digest = lambda data: hashlib.sha256(data).hexdigest()
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sleep", "3600"], **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for layer in layers]},
    }
    body = json.dumps(image).encode()
    manifest = [{"Config": f"{digest(body)}.json", "RepoTags": [reference], "Layers": [f"{digest(l)}.tar" for l in layers]}]
    with tarfile.open(path, "w") as tar:
        _add(tar, "manifest.json", json.dumps(manifest).encode(), mode=0o644)
        _add(tar, f"{digest(body)}.json", body, mode=0o644)
        for layer in layers:
            _add(tar, f"{digest(layer)}.tar", layer, mode=0o644)
    return path

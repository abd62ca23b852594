"""Clients that break the rules of HTTP, or of politeness, over the wire: each is told so or dropped, and others notice nothing."""

import base64
import pathlib
import resource
import socket
import ssl

import yaml

from cluster import eventually


def connect(cluster, protocol=None):
    """A TLS connection as the administrator."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    user = yaml.safe_load(cluster.kubeconfig.read_text())["users"][0]["user"]
    folder = cluster.root / "bad-client"
    folder.mkdir(exist_ok=True)
    for name in ("client-certificate", "client-key"):
        data = user.get(f"{name}-data")
        text = base64.b64decode(data) if data else pathlib.Path(user[name]).read_bytes()
        (folder / name).write_bytes(text)
    context.load_cert_chain(folder / "client-certificate", folder / "client-key")
    if protocol:
        context.set_alpn_protocols([protocol])
    raw = socket.create_connection(("127.0.0.1", cluster.port), timeout=20)
    return context.wrap_socket(raw)


def answer(connection):
    """What comes until the connection is closed or enough is there."""
    got = b""
    while b"\r\n\r\n" not in got or len(got) < 200:
        try:
            piece = connection.recv(65536)
        except (ConnectionError, ssl.SSLError):
            break
        if not piece:
            break
        got += piece
    return got.decode(errors="replace")


def resident(cluster):
    lines = pathlib.Path(f"/proc/{cluster.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def test_what_is_no_request_is_told_or_dropped(cluster):
    cases = {
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": ("401", "403", "413", "200"),
        "POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n": ("413",),
        "GET /" + "a" * 400_000 + " HTTP/1.1\r\nHost: x\r\n\r\n": ("414", "431", "400"),
        "GET / HTTP/1.1\r\n" + "".join(f"x{n}: y\r\n" for n in range(500)) + "\r\n": ("431", "400"),
        "nonsense\r\n\r\n": ("400",),
        "POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": ("400",),
    }
    for request, codes in cases.items():
        with connect(cluster) as connection:
            try:
                connection.sendall(request.encode())
            except (ConnectionError, ssl.SSLError):
                pass
            got = answer(connection)
            if "HTTP/1.1" in got:
                assert got.split()[1] in codes, (request[:80], got[:300])
    assert cluster.kubectl("get", "--raw", "/readyz").strip() == "ok"


def test_a_body_that_comes_too_slowly_holds_nobody_up(cluster, ns):
    slow = []
    for _ in range(20):
        connection = connect(cluster)
        connection.sendall(b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
        slow.append(connection)
    ns.kubectl("create", "configmap", "quick", "--from-literal=a=b")
    assert ns.kubectl("get", "configmap", "quick", "-o", "jsonpath={.data.a}") == "b"
    for connection in slow:
        connection.close()


def test_very_many_idle_connections_cost_little_and_go_without_a_trace(cluster):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(400, soft - 200)
    files = lambda: len(list(pathlib.Path(f"/proc/{cluster.process.pid}/fd").iterdir()))
    before, memory = files(), resident(cluster)
    held = []
    for _ in range(many):
        held.append(socket.create_connection(("127.0.0.1", cluster.port), timeout=20))
    eventually(lambda: files() >= before + many - 5, what="all connections accepted")
    assert cluster.kubectl("get", "--raw", "/readyz").strip() == "ok"
    assert resident(cluster) - memory < 100
    for connection in held:
        connection.close()
    eventually(lambda: files() < before + 50, timeout=20, what="connections closed")


def test_a_watcher_that_never_reads_makes_nobody_wait_and_the_server_not_grow(cluster, ns):
    watchers = []
    for _ in range(10):
        connection = connect(cluster)
        connection.sendall(f"GET /api/v1/namespaces/{ns.name}/configmaps?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        watchers.append(connection)
    before = resident(cluster)
    for n in range(5):
        ns.kubectl("create", "configmap", f"large-{n}", f"--from-literal=a={'x' * 100_000}")
    # Each holds a piece at most, beside what the kernel takes.
    assert resident(cluster) - before < 40
    for connection in watchers:
        connection.close()

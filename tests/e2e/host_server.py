"""HTTPS servers on this machine, behind Services without selector: what webhooks and extension servers are to a cluster."""

import base64
import http.server
import ssl
import subprocess
import threading

EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _openssl(*command):
    subprocess.run(["openssl", *command], check=True, capture_output=True)


class Identity:
    """A key and certificate for a name or address (`DNS:a.b.svc`, `IP:127.0.0.1`), of an authority of its own."""

    def __init__(self, folder, alternative):
        file = lambda name: str(folder / name)
        _openssl("req", "-x509", *EC, "-days", "1", "-subj", "/CN=test-ca", "-keyout", file("ca.key"), "-out", file("ca.crt"))
        _openssl("req", *EC, "-subj", "/CN=test", "-keyout", file("key"), "-out", file("csr"))
        (folder / "ext").write_text(f"subjectAltName={alternative}\n")
        _openssl("x509", "-req", "-in", file("csr"), "-CA", file("ca.crt"), "-CAkey", file("ca.key"), "-CAcreateserial", "-days", "1",
                 "-extfile", file("ext"), "-out", file("crt"))
        self.key, self.certificate, self.authority = file("key"), file("crt"), folder / "ca.crt"


class SelfSigned:
    """A key and a certificate that vouches for itself and for nobody else."""

    def __init__(self, folder, alternative, *extensions):
        self.key, self.certificate, self.authority = str(folder / "key.pem"), str(folder / "cert.pem"), folder / "cert.pem"
        more = [word for extension in (f"subjectAltName={alternative}", *extensions) for word in ("-addext", extension)]
        _openssl("req", "-x509", *EC, "-days", "1", "-subj", "/CN=test", *more, "-keyout", self.key, "-out", self.certificate)


def bundle(identity):
    """The `caBundle` by which an identity is known."""
    return base64.b64encode(identity.authority.read_bytes()).decode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers without a word on the terminal."""

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Serves from its making until `end`. `clients` is the authority, as PEM, of certificates that clients may show."""

    daemon_threads = True

    def __init__(self, address, handler, identity, clients=None, **told):
        super().__init__(address, handler)
        vars(self).update(told)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.certificate, identity.key)
        if clients:
            context.load_verify_locations(cadata=clients)
            context.verify_mode = ssl.CERT_OPTIONAL
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *_):
        pass  # Clients that do not trust us hang up.

    def end(self):
        self.shutdown()
        self.server_close()


def endpoints(ns, name, port, ready=True):
    """This machine, at a port, is what a Service without selector leads to."""
    addresses = ns.cluster.get("node", ns.cluster.node)["status"]["addresses"]
    host = next(a["address"] for a in addresses if a["type"] == "InternalIP")
    ns.apply({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
              "ports": [{"name": "", "port": port, "protocol": "TCP"}],
              "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
              "endpoints": [{"addresses": [host], "conditions": {"ready": ready}}]})

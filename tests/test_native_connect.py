"""How the client connects: whom it trusts, through which proxy; and what it never says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from tollway import LLM, Embedder
from tollway.errors import APIConnectionError, ConfigurationError, RetriesExhaustedError
from tollway.retry import RetryPolicy
from tollway.simulator import Simulator
from tollway.transport import NativeTransport, Request
from wire import Wire, answer, eventually

KEY = "sk-secret"
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in (*PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES), "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


def post(url, body=b"{}"):
    return Request("POST", url, {"authorization": f"Bearer {KEY}"}, body)


async def fails(url, match, **options):
    with pytest.raises(APIConnectionError, match=match) as caught:
        await NativeTransport(**options).send(post(url))
    shown = "".join(traceback.format_exception(caught.value))
    for secret in (KEY, "hunter2", base64.b64encode(b"user:hunter2").decode()):
        assert secret not in shown
    return shown


# TLS


class Authority:
    """A private authority, and files of what it issues."""

    def __init__(self, folder):
        self.ca, self.folder = trustme.CA(), folder
        self.bundle = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(self.bundle)

    def server(self, *names, asks=False, protocols=("http/1.1",)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(protocols)
        self.ca.issue_cert(*names).configure_cert(context)
        if asks:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self):
        issued = self.ca.issue_cert("client@example.com")
        certificate, key, both = (self.folder / f"{it}.pem" for it in ("cert", "key", "both"))
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        issued.private_key_and_cert_chain_pem.write_to_path(both)
        return certificate, key, both


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_a_private_authority_is_trusted_where_it_is_named(authority, monkeypatch):
    with Wire(context=authority.server("127.0.0.1", "localhost")) as wire:
        transport = NativeTransport(ca_bundle=authority.bundle)
        for url in (wire.url, wire.url.replace("127.0.0.1", "localhost")):
            for _ in range(3):
                assert (await transport.send(post(url))).body == b"{}"
        assert wire.connections == 2
        shown = await fails(wire.url, "no secure connection")
        assert "ca_bundle" in shown


async def test_a_certificate_of_another_name_is_refused(authority):
    with Wire(context=authority.server("other.example")) as wire:
        await fails(wire.url, "no secure connection", ca_bundle=authority.bundle)
    assert wire.requests == []


async def test_an_authority_that_serves_itself_is_refused_with_what_to_do(authority):
    """Others take such a certificate, as `openssl req -x509` makes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.ca.private_key_pem.write_to_path(authority.folder / "ca.key")
    context.load_cert_chain(authority.bundle, authority.folder / "ca.key")
    with Wire(context=context) as wire:
        told = r"CaUsedAsEndEntity.*basicConstraints=CA:FALSE.*http_client="
        await fails(wire.url, told, ca_bundle=authority.bundle)


NO_AUTHORITY = """
import asyncio, sys
from tollway.errors import ConfigurationError
from tollway.transport import NativeTransport, Request
async def main():
    transport = NativeTransport()
    await transport.open()
    assert (await transport.send(Request("GET", sys.argv[1], {}))).status == 200
    try:
        await transport.send(Request("GET", sys.argv[1].replace("http:", "https:"), {}))
    except ConfigurationError as error:
        print(error)
asyncio.run(main())
"""


def test_a_system_without_authorities_is_no_matter_to_plain_http(tmp_path):
    none = tmp_path / "none.pem"
    environment = {**os.environ, "SSL_CERT_FILE": f"{none}", "SSL_CERT_DIR": f"{tmp_path}"}
    with Wire() as wire:
        command = [sys.executable, "-c", NO_AUTHORITY, wire.url]
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    assert (run.returncode, run.stderr) == (0, "")
    assert "no certificate authority is known" in run.stdout
    assert f"{none}" in run.stdout


async def test_what_does_not_speak_tls(authority):
    def script(connection):
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Wire(script) as wire:
        url = wire.url.replace("http:", "https:")
        await fails(url, "no secure connection", ca_bundle=authority.bundle)


@pytest.mark.parametrize("is_pair", [True, False])
async def test_a_client_certificate(authority, is_pair):
    certificate, key, both = authority.client()
    with Wire(context=authority.server("127.0.0.1", asks=True)) as wire:
        transport = NativeTransport(
            ca_bundle=authority.bundle, client_cert=(certificate, key) if is_pair else both
        )
        assert (await transport.send(post(wire.url))).status == 200
        await fails(wire.url, "client_cert|broke off", ca_bundle=authority.bundle)
    assert len(wire.requests) == 1


def test_files_that_cannot_be_used(authority, tmp_path):
    certificate, key, _ = authority.client()
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(other)
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for options, match in [
        ({"ca_bundle": tmp_path / "none.pem"}, "ca_bundle .*none.pem cannot be read"),
        ({"ca_bundle": empty}, "ca_bundle .*empty.pem holds no certificate"),
        ({"client_cert": tmp_path / "none.pem"}, "client_cert .*none.pem cannot be read"),
        ({"client_cert": certificate}, "key of client_cert .*cert.pem cannot be read"),
        ({"client_cert": (certificate, other)}, "client_cert cannot be used"),
        ({"client_cert": (empty, key)}, "client_cert .*empty.pem holds no certificate"),
    ]:
        with pytest.raises(ConfigurationError, match=match):
            NativeTransport(**options)


async def test_a_large_answer_over_tls(authority):
    body = bytes(range(256)) * 40_000

    def script(connection):
        while connection.read() is not None:
            connection.send(answer(body))

    with Wire(script, authority.server("127.0.0.1")) as wire:
        transport = NativeTransport(ca_bundle=authority.bundle)
        for _ in range(3):
            assert (await transport.send(post(wire.url, body))).body == body
        assert wire.connections == 1
    assert [sent == body for _, sent in wire.requests] == [True] * 3


# HTTP/2


def http2(connection):
    """Answers every stream with the body it was sent, after it was sent all of it."""
    config = h2.config.H2Configuration(client_side=False)
    peer = h2.connection.H2Connection(config)
    peer.initiate_connection()
    connection.send(peer.data_to_send())
    bodies = {}
    while data := connection.sock.recv(65_536):
        for event in peer.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                bodies[event.stream_id] = b""
                connection.wire.requests.append((dict(event.headers), event.stream_id))
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                connection.wire.ended.set()
            elif isinstance(event, h2.events.StreamEnded):
                if bodies[event.stream_id] == b"never":
                    continue
                peer.send_headers(event.stream_id, [(":status", "200"), ("x-is", "two")])
                peer.send_data(event.stream_id, bodies[event.stream_id], end_stream=True)
        connection.send(peer.data_to_send())


async def test_http2_where_it_is_offered_and_taken(authority):
    with Wire(http2, authority.server("127.0.0.1", protocols=["h2", "http/1.1"])) as wire:
        transport = NativeTransport(ca_bundle=authority.bundle, http2=True)
        first = await transport.send(post(wire.url, b"0"))
        assert (first.status, first.body, first.headers) == (200, b"0", {"x-is": "two"})
        sent = [transport.send(post(wire.url, f"{i}".encode())) for i in range(1, 30)]
        bodies = {answer.body for answer in await asyncio.gather(*sent)}
        assert bodies == {f"{i}".encode() for i in range(1, 30)}
        assert wire.connections == 1
        # One request that is given up leaves the others their connection.
        task = asyncio.create_task(transport.send(post(wire.url, b"never")))
        assert await asyncio.to_thread(eventually, lambda: len(wire.requests) == 31)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(wire.ended.wait, 30)
        assert (await transport.send(post(wire.url, b"again"))).body == b"again"
        assert wire.connections == 1
    assert wire.requests[0][0][b":path"] == b"/v1/embeddings"


def files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="counts the files of /proc")
async def test_requests_that_share_a_connection_take_no_files(authority):
    with Wire(http2, authority.server("127.0.0.1", protocols=["h2"])) as wire:
        transport = NativeTransport(ca_bundle=authority.bundle, http2=True)
        await transport.send(post(wire.url, b"first"))
        before = files()
        sent = [asyncio.create_task(transport.send(post(wire.url, b"never"))) for _ in range(50)]
        assert await asyncio.to_thread(eventually, lambda: len(wire.requests) == 51)
        assert files() < before + 25
        for task in sent:
            task.cancel()
        await asyncio.wait(sent)


async def test_http2_is_not_spoken_where_it_is_not_taken(authority):
    with Wire(context=authority.server("127.0.0.1")) as wire:
        transport = NativeTransport(ca_bundle=authority.bundle, http2=True)
        assert (await transport.send(post(wire.url))).status == 200
    assert wire.requests[0][0].startswith("POST /v1/embeddings HTTP/1.1")


# Proxies


class Proxy:
    """A proxy that asks for a user and password, and knows where names are."""

    def __init__(self, names, status=None):
        self.names, self.status, self.targets = names, status, []
        self.wire = Wire(self.script)

    def __enter__(self):
        self.wire.__enter__()
        self.address = f"http://user:hunter2@127.0.0.1:{self.wire.port}"
        return self

    def __exit__(self, *_):
        self.wire.__exit__()

    def script(self, connection):
        head, _ = connection.read()
        method, target, _version = head.split(" ", 2)
        self.targets.append(f"{method} {target}")
        expected = base64.b64encode(b"user:hunter2").decode()
        if f"proxy-authorization: Basic {expected}" not in head.split("\r\n"):
            connection.send(answer(b"", "407 Proxy Authentication Required"))
        elif self.status:
            connection.send(answer(b"", self.status))
        elif method == "CONNECT":
            connection.send(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
            self.join(connection.sock, self.names[target])
        else:
            connection.send(answer(b"by proxy"))
            connection.wait_for_the_end()

    @staticmethod
    def join(one, port):
        with socket.create_connection(("127.0.0.1", port)) as other:
            back = threading.Thread(target=Proxy.pump, args=(other, one))
            back.start()
            Proxy.pump(one, other)
            back.join(30)

    @staticmethod
    def pump(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


async def test_a_tunnel_through_a_proxy(authority, monkeypatch):
    with (
        Wire(context=authority.server("api.example")) as wire,
        Proxy({"api.example:443": wire.port}) as proxy,
    ):
        url = "https://api.example/v1/embeddings"
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
        for address in (None, proxy.address):
            transport = NativeTransport(proxy=address, ca_bundle=authority.bundle)
            for _ in range(2):
                assert (await transport.send(post(url))).status == 200
            await transport.aclose()
    assert proxy.targets == ["CONNECT api.example:443"] * 2
    # The proxy's password is not the server's business.
    assert len(wire.requests) == 4
    assert not any("proxy-authorization" in head for head, _ in wire.requests)


async def test_plain_http_through_a_proxy():
    with Proxy({}) as proxy:
        transport = NativeTransport(proxy=proxy.address)
        assert (await transport.send(post("http://api.example/v1?x=1"))).body == b"by proxy"
    assert proxy.targets == ["POST http://api.example/v1?x=1"]


async def test_the_environments_proxies_are_not_for_this_machine(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Wire() as wire:
        assert (await NativeTransport().send(post(wire.url))).status == 200
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert (await NativeTransport(proxy="").send(post(wire.url))).status == 200


async def test_proxies_that_refuse(authority):
    url = "https://api.example/v1?key=hunter2"
    with Proxy({}) as proxy:
        wrong = proxy.address.replace("hunter2", "hunter2hunter2")
        await fails(url, r"asks for a user and password \(407\)", proxy=wrong)
    with Proxy({}, "403 Forbidden") as proxy:
        await fails(url, r"refuses a connection to api.example:443 \(403\)", proxy=proxy.address)
    with Wire(lambda connection: connection.send(b"220 smtp\r\n\r\n")) as wire:
        await fails(url, "proxy's answer is not HTTP", proxy=f"127.0.0.1:{wire.port}")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        await fails(
            url, f"the proxy 127.0.0.1:{port} could not be reached", proxy=f"127.0.0.1:{port}"
        )


async def test_a_proxy_that_cannot_be_is_refused_without_its_password(monkeypatch):
    with pytest.raises(ConfigurationError, match=r"^proxy must be an address") as caught:
        NativeTransport(proxy="ftp://user:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("HTTPS_PROXY", "ftp://user:hunter2@127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY must be an address") as caught:
        await NativeTransport().send(post("https://api.example/v1"))
    assert "hunter2" not in str(caught.value)


SOCKS = "socks5h://user:hunter2@127.0.0.1:1"


async def test_a_socks_proxy_is_refused_with_what_to_do_instead(monkeypatch):
    model = "openai/text-embedding-3-small"
    told = r"names a SOCKS proxy.*pip install 'httpx\[socks\]' and give http_client="
    with pytest.raises(ConfigurationError, match=f"proxy {told}") as caught:
        Embedder(model, api_key=KEY, proxy=SOCKS)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    async with Embedder(model, api_key=KEY, base_url="https://api.example/v1") as embedder:
        with pytest.raises(ConfigurationError, match=f"ALL_PROXY {told}") as caught:
            await embedder.embed(["one"])
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_socks_proxy_is_nothing_to_what_is_reached_without_it(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    with Wire() as wire:
        assert (await NativeTransport().send(post(wire.url))).status == 200
        assert (await NativeTransport(proxy="").send(post(wire.url))).status == 200
    with Proxy({}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        answer = await NativeTransport().send(post("http://api.example/v1"))
    assert answer.body == b"by proxy"


async def test_a_socks_proxy_without_what_httpx_needs_for_it(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", SOCKS)
    monkeypatch.setitem(sys.modules, "socksio", None)
    async with LLM("openai/gpt-4o", api_key=KEY, base_url="https://api.example/v1") as llm:
        with pytest.raises(ConfigurationError, match=r"SOCKS proxy.*socksio") as caught:
            await llm.complete("hello")
    assert "hunter2" not in str(caught.value)


# What is not said


async def test_what_is_secret_is_in_no_message():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        shown = await fails(f"{url}?key=hunter2", "could not be reached")
        assert url in shown
    transport = NativeTransport(
        headers={"x-key": "hunter2"}, proxy="http://user:hunter2@127.0.0.1:1"
    )
    shown = repr(transport) + repr(vars(transport)) + repr(post("http://127.0.0.1/"))
    assert "hunter2" not in shown
    assert KEY not in shown


# Through the embedder


async def test_options_of_an_embedder(authority):
    with Simulator() as sim:
        plain = int(re.search(r":(\d+)", sim.base_url)[1])

        def tls_to_plain(connection):
            Proxy.join(connection.sock, plain)

        options = {
            "api_key": "any",
            "retry": RetryPolicy(max_retries=1, base_delay=0),
            "headers": {"x-team": "search"},
            "timeout": 60.0,
        }
        with Wire(tls_to_plain, authority.server("localhost")) as wire:
            url = f"https://localhost:{wire.port}/v1"
            model = "openai/text-embedding-3-small"
            async with Embedder(
                model, base_url=url, ca_bundle=authority.bundle, **options
            ) as embedder:
                assert (await embedder.embed(["a", "b"])).shape == (2, 1536)
            async with Embedder(model, base_url=url, **options) as embedder:
                with pytest.raises(RetriesExhaustedError, match="ca_bundle"):
                    await embedder.embed(["a", "b"])


def test_options_that_do_not_belong_together():
    for options in ({"http_client": object(), "proxy": ""}, {"transport": object(), "timeout": 1}):
        with pytest.raises(ConfigurationError, match="belong to the http_client or transport"):
            Embedder("openai/text-embedding-3-small", api_key="any", **options)
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'proxies'"):
        Embedder("openai/text-embedding-3-small", api_key="any", proxies={})

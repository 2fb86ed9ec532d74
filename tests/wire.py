"""A server on loopback whose every byte is scripted: what real servers do wrong, and when."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

__all__ = ["Connection", "Wire", "answer", "eventually"]


def answer(body=b"{}", status="200 OK", *headers):
    """The bytes of an answer with a content-length."""
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def eventually(what, seconds=30.0):
    """Whether `what()` becomes true; the time only bounds a failure."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class Connection:
    """One connection, as the script of it sees it."""

    def __init__(self, wire, sock):
        self.wire, self.sock, self._rest = wire, sock, b""

    def read(self):
        """The head and body of the next request; None where the client has gone."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            more = self.sock.recv(65_536)
            if not more:
                return None
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        fields = head.decode("latin-1").lower().split("\r\n")[1:]
        length = int(dict(field.split(": ", 1) for field in fields).get("content-length", 0))
        while len(body) < length:
            body += self.sock.recv(65_536)
        self._rest = body[length:]
        request = (head.decode("latin-1"), body[:length])
        self.wire.requests.append(request)
        return request

    def send(self, data):
        self.sock.sendall(data)

    def wait_for_the_end(self):
        """Read until the client closes the connection, and tell."""
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65_536):
                pass
        self.wire.ended.set()


class Wire:
    """Runs a script for each connection, in a thread of its own.

    Args:
        script: Called with a `Connection`; the connection is closed when it returns. An int is the
            status of the answer to every request.
        context: An `ssl.SSLContext`.
    """

    def __init__(self, script=None, context=None):
        self._script = script or self.always
        self._context = context
        self.requests, self.connections = [], 0
        self.ended = threading.Event()
        self._open, self._threads = set(), []

    @staticmethod
    def always(connection):
        """Answer every request."""
        while connection.read() is not None:
            connection.send(answer())

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        scheme = "https" if self._context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}/v1/embeddings"
        thread = threading.Thread(target=self._accept)
        thread.start()
        self._threads.append(thread)
        return self

    def _accept(self):
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(accepted,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock):
        self._open.add(sock)
        with contextlib.suppress(ValueError):
            try:
                if self._context:
                    wrapped = self._context.wrap_socket(sock, server_side=True)
                    self._open.discard(sock)
                    sock = wrapped
                    self._open.add(sock)
                self._script(Connection(self, sock))
            except OSError:
                # The client went before the script came to wait for it.
                self.ended.set()
            finally:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
                self._open.discard(sock)

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

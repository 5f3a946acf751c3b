"""A client of Postgres' wire protocol, as small as measuring needs: it sees every frame."""

import base64
import hashlib
import hmac
import os
import socket
import struct


class ServerError(Exception):
    """An ErrorResponse: `code` is its SQLSTATE."""

    def __init__(self, fields):
        self.code = fields.get("C", "")
        super().__init__(f"{self.code}: {fields.get('M', '')}")


def frame(kind, body=b""):
    return kind + struct.pack("!i", len(body) + 4) + body


def text(value):
    return value.encode() + b"\0"


def query(sql):
    return frame(b"Q", text(sql))


def parse(name, sql):
    return frame(b"P", text(name) + text(sql) + b"\0\0")


def bind(portal, name, values):
    """Parameters and results in text."""
    body = text(portal) + text(name) + struct.pack("!hh", 0, len(values))
    for value in values:
        data = str(value).encode()
        body += struct.pack("!i", len(data)) + data
    return frame(b"B", body + struct.pack("!h", 0))


def describe(kind, name):
    return frame(b"D", kind + text(name))


def execute(portal="", limit=0):
    return frame(b"E", text(portal) + struct.pack("!i", limit))


SYNC = frame(b"S")
FLUSH = frame(b"H")


def hello(user, database):
    body = struct.pack("!i", 196608) + b"user\0" + text(user) + b"database\0" + text(database) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def cancel(port, key):
    """Asks for the cancel of what a client with this BackendKeyData does."""
    with socket.create_connection(("127.0.0.1", port), 10) as stream:
        stream.sendall(struct.pack("!ii", 12 + len(key) - 4, 80877102) + key)
        stream.recv(1)


class Client:
    """A logged-in client. Frames are (kind, body)."""

    def __init__(self, port, user="app", database="app", password=None, timeout=60):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data, self.at = b"", 0
        self.key, self.status, self.scram = b"", b"", None
        self.notifications = []
        self.send(hello(user, database))
        try:
            self._log_in(password)
        except BaseException:
            self.stream.close()
            raise

    def _log_in(self, password):
        while True:
            kind, body = self.frame()
            if kind == b"E":
                raise ServerError(fields(body))
            if kind == b"K":
                self.key = body
            if kind == b"R":
                self._authenticate(body, password)
            if kind == b"Z":
                self.status = body
                self.scram = None
                return

    def _authenticate(self, body, password):
        [method] = struct.unpack("!i", body[:4])
        if method == 10:
            self.scram = Scram(password or "")
            first = self.scram.first()
            self.send(frame(b"p", text("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first))
        elif method == 11:
            self.send(frame(b"p", self.scram.answer(body[4:])))
        elif method not in (0, 12):
            raise NotImplementedError(f"authentication {method}")

    def fileno(self):
        return self.stream.fileno()

    def send(self, data):
        self.stream.sendall(data)

    def _need(self, count):
        while len(self.data) - self.at < count:
            chunk = self.stream.recv(65536)
            if not chunk:
                raise ConnectionError("the connection was closed")
            self.data, self.at = self.data[self.at:] + chunk, 0

    def frame(self):
        """The next frame, whatever it is."""
        self._need(5)
        kind = self.data[self.at:self.at + 1]
        [length] = struct.unpack_from("!i", self.data, self.at + 1)
        self._need(length + 1)
        body = self.data[self.at + 5:self.at + 1 + length]
        self.at += length + 1
        return kind, body

    def answer(self):
        """Frames up to ReadyForQuery, without notifications, notices and settings."""
        frames = []
        while True:
            kind, body = self.frame()
            if kind == b"A":
                self.notifications.append(notification(body))
            elif kind == b"Z":
                self.status = body
                return frames
            elif kind not in (b"N", b"S"):
                frames.append((kind, body))

    def rows(self, sql):
        """Rows of a simple query; the first error is raised."""
        self.send(query(sql))
        return rows(self.answer())

    def table(self, sql):
        """Rows of a simple query as dictionaries by column."""
        self.send(query(sql))
        frames = self.answer()
        names = [name for kind, body in frames if kind == b"T" for name in columns(body)]
        return [dict(zip(names, it)) for it in rows(frames)]

    def close(self):
        try:
            self.send(frame(b"X"))
        except OSError:
            pass
        self.stream.close()


def rows(frames):
    """The rows of an answer as lists of texts; an error in it is raised."""
    for kind, body in frames:
        if kind == b"E":
            raise ServerError(fields(body))
    return [row(body) for kind, body in frames if kind == b"D"]


def row(body):
    [count] = struct.unpack_from("!h", body)
    at, cells = 2, []
    for _ in range(count):
        [length] = struct.unpack_from("!i", body, at)
        at += 4
        cells.append(None if length < 0 else body[at:at + length].decode())
        at += max(length, 0)
    return cells


def columns(body):
    """Names in a RowDescription."""
    at, names = 2, []
    while at < len(body):
        end = body.index(b"\0", at)
        names.append(body[at:end].decode())
        at = end + 19
    return names


def notification(body):
    """(channel, payload)"""
    channel, payload, _ = body[4:].split(b"\0")
    return channel.decode(), payload.decode()


def fields(body):
    return {it[:1].decode(): it[1:].decode("utf-8", "replace") for it in body.split(b"\0") if it}


class Scram:
    """The client's side of SCRAM-SHA-256."""

    salted = {}

    def __init__(self, password):
        self.password, self.nonce = password.encode(), base64.b64encode(os.urandom(18)).decode()

    def first(self):
        self.bare = f"n=,r={self.nonce}"
        return f"n,,{self.bare}".encode()

    def answer(self, challenge):
        challenge = challenge.decode()
        said = dict(it.split("=", 1) for it in challenge.split(","))
        which = (self.password, said["s"], int(said["i"]))
        if which not in self.salted:
            self.salted[which] = hashlib.pbkdf2_hmac(
                "sha256", self.password, base64.b64decode(said["s"]), which[2])
        without_proof = f"c=biws,r={said['r']}"
        sign = lambda key, message: hmac.digest(key, message, "sha256")
        client_key = sign(self.salted[which], b"Client Key")
        signature = sign(hashlib.sha256(client_key).digest(),
                         f"{self.bare},{challenge},{without_proof}".encode())
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

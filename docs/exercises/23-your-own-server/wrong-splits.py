# Caught by "chapter 3: the request line": the request line is split at any white space.
#
#     python3 docs/exercises/23-your-own-server/solution.py 8000
import hashlib
import re
import socket
import sys
import threading
from email.utils import formatdate
from urllib.parse import unquote_to_bytes

MAX_LINE = 65536  # bytes in a line of the head, with its line end
MAX_FIELDS = 100
MAX_SECTION = 256 * 1024
MAX_BODY = 1 << 30
TIMEOUT = 2  # seconds for each read
TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
HOST = re.compile(rb"(\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]|(?:[-._~0-9A-Za-z]|%[0-9A-Fa-f]{2})+)(:[0-9]*)?")


class Refusal(Exception):
    """An error that has an answer."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class Head:
    """The lines of one head. All of them end in CR LF, or all in LF."""

    def __init__(self, reader):
        self.reader, self.end, self.size = reader, None, 0

    def line(self, too_long):
        """Return a line without its end; None if nothing was asked."""
        raw = self.reader.readline(MAX_LINE + 1)
        self.size += len(raw)
        if len(raw) > MAX_LINE:
            raise Refusal(too_long, "the line is too long")
        if not raw and self.end is None:
            return None
        if not raw.endswith(b"\n"):
            raise Refusal("400 Bad Request", "expected an empty line to end the head")
        end = b"\r\n" if raw.endswith(b"\r\n") else b"\n"
        line = raw[: -len(end)]
        if b"\r" in line or self.end not in (None, end):
            raise Refusal("400 Bad Request", "expected lines that all end in CR LF or all in LF")
        self.end = end
        return line


class Request:
    """A request; what was understood of it, when it is refused."""

    method, version, fields = b"", b"HTTP/1.0", []
    path, query, authority = b"/", b"", None
    length, body = None, b""

    def read(self, reader):
        """Read all of a request. Return False if nothing was asked."""
        if reader.peek(1)[:1] == b"\x16":
            raise Refusal("400 Bad Request", "this is TLS: use http:// instead of https://")
        head = Head(reader)
        line = head.line("414 URI Too Long")
        if line == b"":  # old clients send one behind a body
            head.end = None
            line = head.line("414 URI Too Long")
        if line is None:
            return False
        self.parse_line(line)
        if self.version != b"HTTP/0.9":  # which is one line
            self.fields = list(read_fields(head))
            self.check_fields()
            self.read_body(reader)
        return True

    def parse_line(self, line):
        parts = line.split()
        if len(parts) == 2 and parts[0] == b"GET" and parts[1].startswith(b"/"):
            self.method, target, self.version = *parts, b"HTTP/0.9"
        elif len(parts) == 3 and TOKEN.fullmatch(parts[0]):
            self.method, target, version = parts
            if not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
                raise Refusal("400 Bad Request", "expected a version like HTTP/1.0")
            if not version.startswith(b"HTTP/1."):
                raise Refusal("505 HTTP Version Not Supported", "this is HTTP/1.0")
            self.version = version
        else:
            raise Refusal("400 Bad Request", "expected a line like GET /path HTTP/1.0")
        self.parse_target(target)

    def parse_target(self, target):
        if self.method == b"CONNECT" or (self.method, target) == (b"OPTIONS", b"*"):
            raise Refusal("501 Not Implemented", "this method is not implemented")
        absolute = re.match(rb"(?i)http://([^/?#]*)", target)
        if absolute:
            self.authority = absolute[1].rpartition(b"@")[2]  # without user and password
            if not HOST.fullmatch(self.authority):
                raise Refusal("400 Bad Request", "expected http://host/path")
            target = target[absolute.end():]
            if not target.startswith(b"/"):
                target = b"/" + target
        if not target.startswith(b"/") or CONTROL.search(target):
            raise Refusal("400 Bad Request", "expected a target that begins with /")
        path, _, self.query = target.partition(b"#")[0].partition(b"?")
        self.path = unquote_to_bytes(path)
        if re.search(rb"%(?![0-9A-Fa-f]{2})", path) or CONTROL.search(self.path):
            raise Refusal("400 Bad Request", "the path has a bad escape")

    def values(self, name):
        return [value for key, value in self.fields if key.lower() == name]

    def check_fields(self):
        """Hold the fields that decide how a request is read to their rules."""
        for name in (b"host", b"content-length", b"content-type"):
            if len(self.values(name)) > 1:
                raise Refusal("400 Bad Request", "a field that may come once came twice")
        if self.values(b"transfer-encoding"):
            raise Refusal("501 Not Implemented", "send a Content-Length")
        for host in self.values(b"host"):
            if host and not HOST.fullmatch(host):
                raise Refusal("400 Bad Request", "Host is host or host:port")
        for length in self.values(b"content-length"):
            if not re.fullmatch(rb"[0-9]+", length):
                raise Refusal("400 Bad Request", "Content-Length is digits")
            if len(length.lstrip(b"0")) > 10 or int(length) > MAX_BODY:
                raise Refusal("413 Content Too Large", "the body is too large")
            self.length = length

    def read_body(self, reader):
        wanted = int(self.length or 0)
        while len(self.body) < wanted:
            piece = reader.read1(min(65536, wanted - len(self.body)))
            if not piece:
                raise Refusal("400 Bad Request", "the body is cut short")
            self.body += piece

    def environ(self, local, remote):
        """Return the CGI variables, as bytes."""
        environ = {}
        for name, value in self.fields:
            key = name.upper().replace(b"-", b"_")
            if b"_" in name or key == b"PROXY":
                continue  # two names, one key; and httpoxy
            if key not in (b"CONTENT_TYPE", b"CONTENT_LENGTH"):
                key = b"HTTP_" + key
            if key in environ:
                value = environ[key] + (b"; " if key == b"HTTP_COOKIE" else b",") + value
            environ[key] = value
        if self.authority:
            environ[b"HTTP_HOST"] = self.authority
        environ.update({
            b"GATEWAY_INTERFACE": b"CGI/1.1", b"SERVER_SOFTWARE": b"mine/1.0",
            b"SERVER_NAME": local[0].encode(), b"SERVER_PORT": str(local[1]).encode(),
            b"REMOTE_ADDR": remote[0].encode(), b"REMOTE_PORT": str(remote[1]).encode(),
            b"REQUEST_METHOD": self.method, b"SERVER_PROTOCOL": self.version,
            b"SCRIPT_NAME": b"", b"PATH_INFO": self.path, b"QUERY_STRING": self.query,
            b"wsgi.url_scheme": b"http",
        })
        return environ


def read_fields(head):
    """Yield the header fields, up to the empty line."""
    start, count = head.size, 0
    while line := head.line("431 Request Header Fields Too Large"):
        count += 1
        if count > MAX_FIELDS or head.size - start > MAX_SECTION:
            raise Refusal("431 Request Header Fields Too Large", "too many header fields")
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Refusal("400 Bad Request", "expected a line like Name: value")
        if CONTROL.search(value.replace(b"\t", b" ")):
            raise Refusal("400 Bad Request", "a value has no control characters")
        yield name, value.strip(b" \t")


def respond(connection, request, status, page):
    """Send an answer: HTTP/0.9 has no head, and HEAD no body."""
    head = (f"HTTP/1.0 {status}\r\nDate: {formatdate(usegmt=True)}\r\nServer: mine/1.0\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(page)}\r\n\r\n").encode()
    if request.version == b"HTTP/0.9":
        head = b""
    if request.method == b"HEAD":
        page = b""
    connection.sendall(head + page)


def hang_up(connection):
    """End our half, and read on until the client ends: a reset would overtake the answer."""
    connection.shutdown(socket.SHUT_WR)
    read = 0
    while read < 8 << 20 and (piece := connection.recv(65536)):
        read += len(piece)


def serve(connection, remote):
    """Answer one request."""
    request = Request()
    try:
        if not request.read(connection.makefile("rb")):
            return
        lines = [key + b": " + value for key, value in
                 sorted(request.environ(connection.getsockname(), remote).items())]
        digest = hashlib.sha256(request.body).hexdigest()
        lines += [f"BODY-LENGTH: {len(request.body)}\nBODY-SHA256: {digest}\n".encode()]
        status, page = "200 OK", b"\n".join(lines)
    except Refusal as refusal:
        status, page = refusal.status, f"{refusal.status}\n\n{refusal}\n".encode()
    except TimeoutError:
        status, page = "408 Request Timeout", b"408 Request Timeout\n"
    respond(connection, request, status, page)
    hang_up(connection)


def run(connection, remote):
    with connection:
        connection.settimeout(TIMEOUT)
        try:
            serve(connection, remote)
        except OSError:
            pass  # this client has left


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
    while True:
        threading.Thread(target=run, args=listener.accept(), daemon=True).start()


if __name__ == "__main__":
    main()

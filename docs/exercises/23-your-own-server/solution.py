# Solution of exercise 23: run_wsgi_server, as the posts have it, made right. It runs any WSGI
# application, one thread for each connection:
#
#     python3 docs/exercises/23-your-own-server/solution.py 8000              environ, as a page
#     python3 docs/exercises/23-your-own-server/solution.py 8000 module:app   yours, or Flask's
import hashlib
import importlib
import io
import re
import socket
import sys
import threading
import time
import traceback
from email.utils import formatdate
from urllib.parse import unquote_to_bytes

TIMEOUT = 10  # seconds for the head, for each read of the body, for each write
LINGER = 2  # seconds for the client to end after the answer
MAX_LINE, MAX_SECTION, MAX_FIELDS = 65536, 256 * 1024, 100  # of the head, in bytes and lines
MAX_BODY = 1 << 30  # bytes
TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
HOST = re.compile(rb"(\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\]"
                  rb"|(?:[-._~!$&'()*+;=0-9A-Za-z]|%[0-9A-Fa-f]{2})+)(:[0-9]*)?")
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te",
              "trailer", "transfer-encoding", "upgrade"}


class Refusal(Exception):
    """An error of the client: it is sent as the answer."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class ClientLeft(Exception):
    """The answer cannot be sent any more."""


def run_wsgi_server(application, host="127.0.0.1", port=8000):
    listener = socket.create_server((host, port), backlog=100)
    print(f"Serving on http://{host}:{port} ...", flush=True)
    while True:
        try:
            connection, client = listener.accept()
        except OSError:
            time.sleep(0.1)  # e.g. out of descriptors: wait for some to be closed
            continue
        arguments = (application, connection, client)
        threading.Thread(target=serve, args=arguments, daemon=True).start()


def serve(application, connection, client):
    """Answer the one request of a connection."""
    with connection:
        request = Request(connection)
        response = Response(connection, request)
        try:
            try:
                if not request.read_head():
                    return  # nothing was asked
                environ = request.environ(connection.getsockname(), client)
                run(application, environ, response)
            except Refusal as refusal:
                response.refuse(refusal)
            hang_up(connection)
        except (ClientLeft, OSError):
            pass  # this client has left; others have not
        line = request.line.decode("latin-1")
        print(f"{client[0]} {line!r} {response.status}", file=sys.stderr)


def run(application, environ, response):
    """Call the application and send each block as it comes: PEP 3333's half of the server."""
    body = None
    try:
        body = application(environ, response.start_response)
        response.blocks = len(body) if hasattr(body, "__len__") else None
        for block in body:
            response.write(block, written=False)
        response.send_head()
    except (Refusal, ClientLeft):
        raise
    except Exception:
        traceback.print_exc()
        response.refuse(Refusal("500 Internal Server Error", "the application has failed"))
    finally:
        if hasattr(body, "close"):
            body.close()


class Wire(io.RawIOBase):
    """The receiving half of a connection. No read waits longer than until the deadline."""

    def __init__(self, connection):
        self.connection, self.deadline = connection, time.monotonic() + TIMEOUT

    def readable(self):
        return True

    def readinto(self, buffer):
        try:
            self.connection.settimeout(max(0.001, self.deadline - time.monotonic()))
            return self.connection.recv_into(buffer)
        except TimeoutError:
            raise Refusal("408 Request Timeout", f"waited {TIMEOUT} s for the client")
        except OSError as error:
            raise ClientLeft from error


class Input(io.RawIOBase):
    """wsgi.input: it ends after Content-Length bytes, and never waits for more."""

    def __init__(self, request, reader, wire, left):
        self.request, self.reader, self.wire, self.left = request, reader, wire, left

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.left == 0 or len(buffer) == 0:
            return 0
        self.request.send_continue()
        self.wire.deadline = time.monotonic() + TIMEOUT
        piece = self.reader.read1(min(len(buffer), self.left))
        if not piece:
            raise Refusal("400 Bad Request", f"the body ends {self.left} bytes too early")
        buffer[:len(piece)] = piece
        self.left -= len(piece)
        return len(piece)


class Request:
    """The head of a request. Before it is read, it is the request that a refusal answers."""

    def __init__(self, connection):
        self.connection = connection
        self.wire = Wire(connection)
        self.reader = io.BufferedReader(self.wire)
        self.line, self.method, self.version = b"", b"", b"HTTP/1.0"
        self.path, self.query, self.authority, self.fields = b"/", b"", None, []
        self.line_end, self.size, self.expects = None, 0, False

    def read_head(self):
        """Read the request line and the fields. Return False if nothing was asked."""
        try:
            first = self.reader.peek(1)[:1]
        except Refusal:
            return False  # a client that says nothing gets no answer
        if first == b"\x16":
            raise Refusal("400 Bad Request", "this is TLS: use http:// instead of https://")
        line = self.read_line("414 URI Too Long")
        if line == b"":  # old clients send one after a body
            self.line_end = None
            line = self.read_line("414 URI Too Long")
        if line is None:
            return False
        self.line = line
        self.parse_line(line)
        if self.version != b"HTTP/0.9":  # which is one line
            self.read_fields()
            self.check_fields()
        return True

    def read_line(self, too_long):
        """Return a line without its end. All lines end in CR LF, or all in LF."""
        raw = self.reader.readline(MAX_LINE + 1)
        self.size += len(raw)
        if len(raw) > MAX_LINE:
            raise Refusal(too_long, f"a line has at most {MAX_LINE} bytes")
        if not raw and self.line_end is None:
            return None
        if not raw.endswith(b"\n"):
            raise Refusal("400 Bad Request", "expected an empty line to end the head")
        end = b"\r\n" if raw.endswith(b"\r\n") else b"\n"
        line = raw[:-len(end)]
        if b"\r" in line or self.line_end not in (None, end):
            raise Refusal("400 Bad Request", "expected CR LF after all lines, or LF after all")
        self.line_end = end
        return line

    def parse_line(self, line):
        parts = line.split(b" ")
        self.method = parts[0]  # a refused HEAD is a HEAD
        if len(parts) == 2 and parts[0] == b"GET" and parts[1].startswith(b"/"):
            target, self.version = parts[1], b"HTTP/0.9"
        elif len(parts) == 3 and TOKEN.fullmatch(parts[0]):
            _, target, version = parts
            if not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version):
                raise Refusal("400 Bad Request", "expected a version like HTTP/1.0")
            if not version.startswith(b"HTTP/1."):
                raise Refusal("505 HTTP Version Not Supported", "this server speaks HTTP/1.0")
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

    def read_fields(self):
        start, too_large = self.size, "431 Request Header Fields Too Large"
        while line := self.read_line(too_large):
            if len(self.fields) == MAX_FIELDS or self.size - start > MAX_SECTION:
                raise Refusal(too_large, "too many header fields")
            name, colon, value = line.partition(b":")
            if not colon or not TOKEN.fullmatch(name):
                raise Refusal("400 Bad Request", "expected a line like Name: value")
            if CONTROL.search(value.replace(b"\t", b" ")):
                raise Refusal("400 Bad Request", "a value has no control characters")
            self.fields.append((name, value.strip(b" \t")))

    def values(self, name):
        return [value for key, value in self.fields if key.lower() == name]

    def check_fields(self):
        """Check the fields that decide how the request is understood."""
        for name in (b"host", b"content-length", b"content-type"):
            if len(self.values(name)) > 1:
                raise Refusal("400 Bad Request", f"{name.decode()} came twice")
        if self.values(b"transfer-encoding"):
            raise Refusal("501 Not Implemented", "send a Content-Length")
        hosts, modern = self.values(b"host"), self.version == b"HTTP/1.1"
        if not hosts and modern:
            raise Refusal("400 Bad Request", "HTTP/1.1 needs a Host")
        if hosts and hosts[0] and not HOST.fullmatch(hosts[0]):
            raise Refusal("400 Bad Request", "Host is host or host:port")
        for length in self.values(b"content-length"):
            if not re.fullmatch(rb"[0-9]+", length):
                raise Refusal("400 Bad Request", "Content-Length is digits")
            if len(length.lstrip(b"0")) > 10 or int(length) > MAX_BODY:
                raise Refusal("413 Content Too Large", "the body is too large")
        self.expects = modern and b"100-continue" in [v.lower() for v in self.values(b"expect")]

    def send_continue(self):
        """Ask for the body when the application first reads it, if the client waits for that."""
        if self.expects:
            self.expects = False
            self.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def environ(self, local, client):
        """Return environ. Its strings hold the bytes of the request, as latin-1."""
        variables = {}
        for name, value in self.fields:
            key = name.upper().replace(b"-", b"_")
            if b"_" in name or key == b"PROXY":
                continue  # two names would be one key; and httpoxy
            if key not in (b"CONTENT_TYPE", b"CONTENT_LENGTH"):
                key = b"HTTP_" + key
            if key in variables:
                separator = b"; " if key == b"HTTP_COOKIE" else b","
                value = variables[key] + separator + value
            variables[key] = value
        if self.authority is not None:
            variables[b"HTTP_HOST"] = self.authority
        length = int(variables.get(b"CONTENT_LENGTH", b"0"))
        environ = {key.decode("latin-1"): value.decode("latin-1")
                   for key, value in variables.items()}
        environ.update({
            "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "mine/1.0",
            "SERVER_NAME": local[0], "SERVER_PORT": str(local[1]),
            "REMOTE_ADDR": client[0], "REMOTE_PORT": str(client[1]),
            "REQUEST_METHOD": self.method.decode(), "SERVER_PROTOCOL": self.version.decode(),
            "SCRIPT_NAME": "", "PATH_INFO": self.path.decode("latin-1"),
            "QUERY_STRING": self.query.decode("latin-1"),
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
            "wsgi.input": io.BufferedReader(Input(self, self.reader, self.wire, length)),
            "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        })
        return environ


class Response:
    """One answer. start_response stores its head; the first block that is not empty sends it."""

    def __init__(self, connection, request):
        self.connection, self.request = connection, request
        self.status, self.headers, self.head_sent = None, [], False
        self.blocks = None  # how many the body has, if that is known
        self.left = None  # bytes of the announced Content-Length that are still to be sent

    def start_response(self, status, headers, exc_info=None):
        if exc_info:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # it would keep its frames alive
        elif self.status is not None:
            raise AssertionError("start_response was called twice")
        if not re.fullmatch(r"[2-5][0-9]{2} [^\x00-\x1f\x7f]*", status):
            raise AssertionError(f"expected a status like 200 OK, got {status!r}")
        for name, value in headers:
            raw_name, raw_value = name.encode("latin-1"), value.encode("latin-1")
            if not TOKEN.fullmatch(raw_name) or CONTROL.search(raw_value):
                raise AssertionError(f"expected a name and a value, got {name!r}: {value!r}")
            if name.lower() in HOP_BY_HOP or name.lower() == "status":
                raise AssertionError(f"{name} belongs to the server")
        self.status, self.headers = status, list(headers)
        return self.write

    def write(self, block, written=True):
        """Send a block: write() of the application, and each block of its body."""
        if written:
            self.blocks = None  # there may be more
        if not isinstance(block, bytes):
            raise AssertionError(f"expected bytes, got {type(block).__name__}")
        if not block:
            return
        self.send_head(len(block))
        if self.left is not None:
            block = block[:self.left]  # never more than was announced
            self.left -= len(block)
        if self.has_body():
            self.transmit(block)

    def send_head(self, first=0):
        """Send the head, once. A body of one block, or of none, has a known length."""
        if self.head_sent:
            return
        if self.status is None:
            raise AssertionError("start_response was not called")
        sent = {name.lower(): value for name, value in self.headers}
        headers = list(self.headers)
        if "content-length" in sent:
            self.left = int(sent["content-length"])
        elif self.status[:3] not in ("204", "304") and (self.blocks == 1 or first == 0):
            self.left = first
            headers.append(("Content-Length", str(first)))
        if "date" not in sent:
            headers.append(("Date", formatdate(usegmt=True)))
        if "server" not in sent:
            headers.append(("Server", "mine/1.0"))
        lines = [f"HTTP/1.0 {self.status}"] + [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join(lines) + "\r\n\r\n"
        self.head_sent = True
        if self.request.version != b"HTTP/0.9":  # which has no head
            self.transmit(head.encode("latin-1"))

    def has_body(self):
        return self.request.method != b"HEAD" and self.status[:3] not in ("204", "304")

    def transmit(self, data):
        try:
            while data:
                self.connection.settimeout(TIMEOUT)
                data = data[self.connection.send(data):]
        except OSError as error:
            raise ClientLeft from error

    def refuse(self, refusal):
        """Answer with an error, if the head has not been sent; else the answer ends here."""
        if self.head_sent:
            return
        page = f"{refusal.status}\n\n{refusal}\n".encode()
        self.status, self.blocks = refusal.status, 1
        self.headers = [("Content-Type", "text/plain")]
        self.write(page, written=False)


def hang_up(connection):
    """End our half, and read on until the client ends: a reset would overtake the answer."""
    connection.shutdown(socket.SHUT_WR)
    deadline, left = time.monotonic() + LINGER, 8 << 20
    while left > 0 and (wait := deadline - time.monotonic()) > 0:
        connection.settimeout(wait)
        piece = connection.recv(65536)
        if not piece:
            return
        left -= len(piece)


def environ_app(environ, start_response):
    """The application that docs/conformance.md asks for: environ, and what the body was."""
    body = environ["wsgi.input"].read()
    lines = [f"{key}: {value}" for key, value in sorted(environ.items())
             if isinstance(value, str)]
    digest = hashlib.sha256(body).hexdigest()
    lines += [f"BODY-LENGTH: {len(body)}", f"BODY-SHA256: {digest}", ""]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\n".join(lines).encode("latin-1")]


if __name__ == "__main__":
    chosen = environ_app
    if len(sys.argv) > 2:
        module, _, name = sys.argv[2].partition(":")
        sys.path.insert(0, "")
        chosen = getattr(importlib.import_module(module), name)
    try:
        run_wsgi_server(chosen, port=int(sys.argv[1]))
    except KeyboardInterrupt:
        pass  # Ctrl-C

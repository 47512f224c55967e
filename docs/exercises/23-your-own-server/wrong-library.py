# Caught by "chapter 3: the request line": Python's own http.server reads the request.
import hashlib
import sys
from wsgiref.simple_server import make_server


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    lines = [f"{key}: {value}" for key, value in sorted(environ.items()) if type(value) is str]
    lines += [f"BODY-LENGTH: {len(body)}", f"BODY-SHA256: {hashlib.sha256(body).hexdigest()}", ""]
    page = "\n".join(lines).encode("latin-1", "replace")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
    return [page]


make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()

# The environ application for Python's servers, to grade them with docs/conformance.md:
#
#     python3 docs/environ_app.py 9000                          (wsgiref)
#     cd docs && gunicorn -b 127.0.0.1:9000 environ_app:app
#     cd docs && waitress-serve --listen 127.0.0.1:9000 environ_app:app
#     cd docs && uwsgi --http-socket 127.0.0.1:9000 --plugin python3 --wsgi-file environ_app.py --callable app
#
# then: go run docs/check.go server 127.0.0.1:9000
import hashlib
import sys


def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if len(body) < int(environ.get("CONTENT_LENGTH") or 0):
        raise IOError("the body is cut short")
    lines = [f"{key}: {value}" for key, value in sorted(environ.items()) if type(value) is str]
    lines += [f"BODY-LENGTH: {len(body)}", f"BODY-SHA256: {hashlib.sha256(body).hexdigest()}", ""]
    page = "\n".join(lines).encode("latin-1", "replace")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(page)))])
    return [page]


if __name__ == "__main__":
    from wsgiref.simple_server import make_server
    server = make_server("127.0.0.1", int(sys.argv[1]), app)
    print("Serving HTTP on 127.0.0.1 port", server.server_port, "...", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C

# The applications of docs/08-start-response.md in Python, under wsgiref:
#
#     python3 docs/wsgi_app.py 9000
#     go run docs/check.go gateway 127.0.0.1:9000
import sys
import time
from wsgiref.simple_server import make_server

import environ_app


def text():
    return [("Content-Type", "text/plain; charset=utf-8")]


def hello(environ, start_response):
    start_response("200 OK", text())
    return [b"Hello, World!\n"]


def clock(environ, start_response):
    start_response("200 OK", text())

    def ticks():
        try:
            for n in range(10):
                if n > 0:
                    time.sleep(1)
                yield time.strftime("%H:%M:%S\n").encode()
        finally:
            environ["wsgi.errors"].write("the clock is closed\n")
    return ticks()


def write(environ, start_response):
    write = start_response("200 OK", text())
    for n in (3, 2, 1):
        write(f"{n}...\n".encode())
    return [b"and the rest is returned\n"]


def before(environ, start_response):
    raise RuntimeError("the application failed before its head was sent")


def after(environ, start_response):
    start_response("200 OK", text())
    yield b"This page will never be comp"
    raise RuntimeError("the application failed after its head was sent")


def excinfo(environ, start_response):
    start_response("200 OK", text())
    try:
        raise RuntimeError("the database is on fire")
    except RuntimeError as err:
        start_response("503 Service Unavailable", text(), sys.exc_info())
        return [f"Sorry: {err}\n".encode()]


def twice(environ, start_response):
    start_response("200 OK", text())
    start_response("200 OK", text())  # without exc_info: an AssertionError
    return []


def hop(environ, start_response):
    start_response("200 OK", [("Connection", "close")])  # the gateway's: an AssertionError
    return []


routes = {"/hello": hello, "/clock": clock, "/write": write, "/errors/before": before,
          "/errors/after": after, "/errors/excinfo": excinfo, "/errors/twice": twice,
          "/errors/hop": hop}


def application(environ, start_response):
    return routes.get(environ["PATH_INFO"], environ_app.app)(environ, start_response)


if __name__ == "__main__":
    server = make_server("127.0.0.1", int(sys.argv[1]), application)
    print("Serving HTTP on 127.0.0.1 port", server.server_port, "...", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C

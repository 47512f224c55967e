# The applications of docs/08-start-response.md in Python, under wsgiref:
#
#     python3 docs/wsgi_app.py 9000
import sys
import time
from wsgiref.simple_server import make_server


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


def excinfo(environ, start_response):
    start_response("200 OK", text())
    try:
        raise RuntimeError("the database is on fire")
    except RuntimeError as err:
        start_response("503 Service Unavailable", text(), sys.exc_info())
        return [f"Sorry: {err}\n".encode()]


def application(environ, start_response):
    routes = {"/clock": clock, "/errors/excinfo": excinfo}
    return routes.get(environ["PATH_INFO"], hello)(environ, start_response)


if __name__ == "__main__":
    server = make_server("127.0.0.1", int(sys.argv[1]), application)
    print("Serving HTTP on 127.0.0.1 port", server.server_port, "...", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C

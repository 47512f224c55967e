# Exercise 23: your own server. See docs/exercises/23-your-own-server/README.md.
#
#     python3 mine/23-your-own-server.py 8000
import socket
import sys


def serve(connection):
    """Answer one request."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(4096)
        if not piece:
            return  # the client has left
        head += piece
    page = b"Hello, World!\n"
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + page)


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(2)
            try:
                serve(connection)
            except OSError:
                pass  # one client has left, or was silent for too long


main()

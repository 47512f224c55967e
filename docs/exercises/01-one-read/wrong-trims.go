//go:build ignore

// Caught by "a line of one space is not empty": spaces are trimmed before it compares.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"strings"
	"time"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		log.Fatal(err) // e.g. another program has the port
	}
	fmt.Printf("Serving on http://%s/\n", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err) // e.g. out of file descriptors
		}
		go serveConn(c)
	}
}

// serveConn answers one request with the size of its head.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	head, err := readHead(c)
	if err != nil {
		respond(c, "400 Bad Request", "expected an empty line\n")
		return
	}
	respond(c, "200 OK", fmt.Sprintf("head: %d bytes\n", len(head)))
}

// readHead returns the head of a request, up to and with the empty line.
func readHead(c net.Conn) (string, error) {
	r, head := bufio.NewReader(c), ""
	for {
		line, err := r.ReadString('\n')
		head += line
		if err != nil || strings.TrimSpace(line) == "" {
			return head, err
		}
	}
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

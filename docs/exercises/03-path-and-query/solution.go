//go:build ignore

// Solution of exercise 03.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/url"
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

// serveConn answers one request with its path and query.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	r := bufio.NewReader(c)
	first, err := r.ReadString('\n')
	for line := first; err == nil && line != "\r\n"; { // the rest of the head
		line, err = r.ReadString('\n')
	}
	parts := strings.Split(strings.TrimSuffix(first, "\r\n"), " ")
	if err != nil || len(parts) != 3 {
		respond(c, "400 Bad Request", "expected a request line\n")
		return
	}
	path, query, err := parseTarget(parts[1])
	if err != nil {
		respond(c, "400 Bad Request", err.Error()+"\n")
		return
	}
	respond(c, "200 OK", "path: "+path+"\nquery: "+query+"\n")
}

// parseTarget splits a target at its first question mark, and decodes the path once.
//
//	/a%20b?x=1%202 → "/a b", "x=1%202"
func parseTarget(target string) (path, query string, err error) {
	if !strings.HasPrefix(target, "/") {
		return "", "", fmt.Errorf("expected a target that begins with /, got %.80q", target)
	}
	path, query, _ = strings.Cut(target, "?")
	path, err = url.PathUnescape(path)
	return path, query, err
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

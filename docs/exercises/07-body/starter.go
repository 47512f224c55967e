//go:build ignore

// Exercise 07: a body. See docs/exercises/07-body/README.md.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"strconv"
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

// serveConn answers one request with its body.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	c.SetWriteDeadline(time.Now().Add(4 * time.Second))
	r := bufio.NewReader(c)
	length, err := readHead(r)
	if err != nil {
		respond(c, "400 Bad Request", err.Error()+"\n")
		return
	}
	body := make([]byte, length)
	n, _ := c.Read(body) // your code
	respond(c, "200 OK", string(body[:n]))
}

// readHead reads a head and returns its Content-Length, 0 without one.
func readHead(r *bufio.Reader) (length int64, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			return length, nil
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			n, err := strconv.ParseUint(strings.Trim(value, " \t"), 10, 63) // no sign
			if err != nil {
				return 0, err
			}
			length = int64(n)
		}
	}
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

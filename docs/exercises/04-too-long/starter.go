//go:build ignore

// Exercise 04: a head too long. See docs/exercises/04-too-long/README.md.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
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

const (
	maxLine   = 1000 // bytes, with CR LF
	maxFields = 10   // header lines
)

// serveConn answers one request with ok, or says why not.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	status := readHead(bufio.NewReader(c))
	page := "ok\n"
	if status != "200 OK" {
		page = status + "\n"
	}
	respond(c, status, page)
	hangUp(c)
}

// readHead reads a head and returns the status of the answer.
func readHead(r *bufio.Reader) (status string) {
	if _, err := r.ReadString('\n'); err != nil { // your code: 414 after maxLine bytes
		return "400 Bad Request"
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "400 Bad Request"
		}
		if line == "\r\n" {
			return "200 OK"
		}
	}
}

// hangUp ends our half of the connection and reads until the client ends, or for a second,
// so that no reset overtakes the answer.
func hangUp(c net.Conn) {
	c.(*net.TCPConn).CloseWrite() // fails if the client has left
	c.SetReadDeadline(time.Now().Add(time.Second))
	io.Copy(io.Discard, c) // an error is an end as well
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

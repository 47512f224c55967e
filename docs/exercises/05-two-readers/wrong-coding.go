//go:build ignore

// Caught by "any other coding": only the name and value that it expects are refused.
package main

import (
	"bufio"
	"fmt"
	"io"
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

// serveConn answers one request with the size of its body.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	r := bufio.NewReader(c)
	length, status, err := readHead(r)
	if err != nil {
		respond(c, status, err.Error()+"\n")
		return
	}
	n, err := io.CopyN(io.Discard, r, length)
	if err != nil {
		respond(c, "400 Bad Request", err.Error()+"\n")
		return
	}
	respond(c, "200 OK", fmt.Sprintf("body: %d bytes\n", n))
}

// readHead reads a head and returns the length of the body, or a status and what is wrong.
func readHead(r *bufio.Reader) (length int64, status string, err error) {
	if _, err := r.ReadString('\n'); err != nil { // the request line
		return 0, "400 Bad Request", err
	}
	seen := false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, "400 Bad Request", err
		}
		if !strings.HasSuffix(line, "\r\n") {
			return 0, "400 Bad Request", fmt.Errorf("LF alone")
		}
		line = strings.TrimSuffix(line, "\r\n")
		if line == "" {
			return length, "", nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(name, " \t") || strings.ContainsAny(line, "\r\x00") {
			return 0, "400 Bad Request", fmt.Errorf("bad line")
		}
		value = strings.TrimSpace(value)
		if name == "Transfer-Encoding" && value == "chunked" {
			return 0, "501 Not Implemented", fmt.Errorf("chunked")
		}
		if strings.EqualFold(name, "Content-Length") {
			if seen || strings.HasPrefix(value, "+") || strings.HasPrefix(value, "-") {
				return 0, "400 Bad Request", fmt.Errorf("length")
			}
			seen = true
			if length, err = strconv.ParseInt(value, 10, 64); err != nil {
				return 0, "400 Bad Request", err
			}
		}
	}
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

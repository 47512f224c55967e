//go:build ignore

// Solution of exercise 07.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
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
	c.SetWriteDeadline(time.Now().Add(4 * time.Second)) // later: the answer may be a 408
	r := bufio.NewReader(c)
	length, err := readHead(r)
	var body []byte
	if err == nil {
		body, err = readBody(r, length)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		respond(c, "408 Request Timeout", "waited 2 s\n")
	case err != nil:
		respond(c, "400 Bad Request", err.Error()+"\n")
	default:
		respond(c, "200 OK", string(body))
	}
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

// readBody reads length bytes, no less and no more.
func readBody(r *bufio.Reader, length int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, length))
	if err == nil && int64(len(body)) < length {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

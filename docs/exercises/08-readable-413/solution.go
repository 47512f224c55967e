//go:build ignore

// Solution of exercise 08.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"time"
)

const maxBody = 1000 // bytes

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
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	r := bufio.NewReader(c)
	length, err := readHead(r)
	switch {
	case errors.Is(err, strconv.ErrRange) || length > maxBody:
		respond(c, "413 Content Too Large", "at most 1,000 bytes\n")
		drain(c, r)
		return
	case err == nil:
		_, err = io.CopyN(io.Discard, r, length)
	}
	if err != nil {
		respond(c, "400 Bad Request", err.Error()+"\n")
		return
	}
	respond(c, "200 OK", fmt.Sprintf("body: %d bytes\n", length))
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

// drain ends our half of the connection, and reads until the client ends, or for 2 s.
func drain(c net.Conn, r io.Reader) {
	c.(*net.TCPConn).CloseWrite() // fails if the client has left
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	io.Copy(io.Discard, r) // an error is an end as well
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

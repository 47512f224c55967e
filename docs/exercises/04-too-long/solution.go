//go:build ignore

// Solution of exercise 04.
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
	status := readHead(bufio.NewReaderSize(c, maxLine))
	page := "ok\n"
	if status != "200 OK" {
		page = status + "\n"
	}
	respond(c, status, page)
	hangUp(c)
}

// readHead reads a head and returns the status of the answer.
func readHead(r *bufio.Reader) (status string) {
	if _, status := readLine(r, "414 URI Too Long"); status != "" {
		return status
	}
	const tooLarge = "431 Request Header Fields Too Large"
	for fields := 0; ; fields++ {
		line, status := readLine(r, tooLarge)
		switch {
		case status != "":
			return status
		case line == "\r\n":
			return "200 OK"
		case fields == maxFields:
			return tooLarge
		}
	}
}

// readLine reads a line that fits into the reader's buffer, or returns the status of the
// answer to one that does not.
func readLine(r *bufio.Reader, tooLong string) (line, status string) {
	raw, err := r.ReadSlice('\n')
	switch {
	case err == bufio.ErrBufferFull:
		return "", tooLong
	case err != nil:
		return "", "400 Bad Request"
	}
	return string(raw), ""
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

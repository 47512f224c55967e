//go:build ignore

// Solution of exercise 05.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"regexp"
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
	const bad = "400 Bad Request"
	if _, err := readLine(r); err != nil { // the request line
		return 0, bad, err
	}
	lengths := 0
	for {
		line, err := readLine(r)
		if err != nil {
			return 0, bad, err
		}
		if line == "" {
			return length, "", nil
		}
		name, value, err := parseField(line)
		if err != nil {
			return 0, bad, err
		}
		switch strings.ToLower(name) {
		case "transfer-encoding":
			return 0, "501 Not Implemented", errors.New("send a Content-Length")
		case "content-length":
			lengths++
			if length, err = parseLength(value); err != nil || lengths > 1 {
				return 0, bad, errors.New("expected one Content-Length of digits")
			}
		}
	}
}

// readLine reads a line that ends in CR LF and has no other control character but tabs.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	for i := range len(line) {
		if line[i] < ' ' && line[i] != '\t' || line[i] == 0x7f {
			ok = false
		}
	}
	if !ok {
		return "", errors.New("expected a line that ends in CR LF, without control characters")
	}
	return line, nil
}

// A token is what a name may be. (RFC 9110 §5.6.2)
var token = regexp.MustCompile(`^[-!#$%&'*+.^_|~0-9A-Za-z` + "`" + `]+$`)

// parseField splits a line at its colon. A folded line and a name with a space are no tokens.
func parseField(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !token.MatchString(name) {
		return "", "", errors.New("expected a line like Name: value")
	}
	return name, strings.Trim(value, " \t"), nil
}

// parseLength reads digits. strconv accepts a sign, too.
func parseLength(value string) (int64, error) {
	if strings.Trim(value, "0123456789") != "" {
		return 0, errors.New("expected digits")
	}
	return strconv.ParseInt(value, 10, 64)
}

// respond sends a page. If that fails, the client has left.
func respond(c net.Conn, status, page string) {
	fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		status, len(page), page)
}

//go:build ignore

// Exercise 20: keep-alive and chunks. See docs/exercises/20-keep-alive/README.md.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
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

// A request is what matters of one.
type request struct {
	method, path, version string
	fields                map[string]string // by name in small letters
	size                  int64             // bytes in the body
}

// page returns the pieces of a page: the length of several is not known in advance.
func page(q *request) []string {
	if q.path == "/stream" {
		return []string{"first\n", "and then a second\n"}
	}
	return []string{fmt.Sprintf("%s %s %d\n", q.method, q.path, q.size)}
}

// serveConn answers one request.
func serveConn(c net.Conn) {
	defer hangUp(c)
	r := bufio.NewReader(c)
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	c.SetWriteDeadline(time.Now().Add(4 * time.Second)) // the answer is written later
	if _, err := r.Peek(1); err != nil {
		return // nobody has asked
	}
	q, err := readHead(r)
	if err == nil {
		err = readBody(r, q)
	}
	if err != nil {
		fmt.Fprintf(c, "HTTP/1.0 400 Bad Request\r\n\r\n%v\n", err)
		return
	}
	answer(c, q)
}

// readBody reads the body and counts it.
func readBody(r *bufio.Reader, q *request) error {
	length, err := strconv.ParseUint("0"+q.fields["content-length"], 10, 31)
	if err != nil {
		return err
	}
	q.size, err = io.CopyN(io.Discard, r, int64(length))
	return err
}

// answer sends the page.
func answer(c net.Conn, q *request) {
	pieces := page(q)
	fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n")
	if len(pieces) == 1 {
		fmt.Fprintf(c, "Content-Length: %d\r\n", len(pieces[0]))
	}
	fmt.Fprint(c, "\r\n"+strings.Join(pieces, ""))
}

// readHead reads a request line and the fields.
func readHead(r *bufio.Reader) (*request, error) {
	line, err := readLine(r)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return nil, errors.New("expected a request line")
	}
	q := &request{method: parts[0], path: parts[1], version: parts[2], fields: map[string]string{}}
	for {
		line, err := readLine(r)
		if err != nil || line == "" {
			return q, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, errors.New("expected Name: value")
		}
		name, value = strings.ToLower(name), strings.Trim(value, " \t")
		if earlier, twice := q.fields[name]; twice {
			if slices.Contains(onlyOnce, name) {
				return nil, errors.New("expected this field once: " + name)
			}
			value = earlier + ", " + value
		}
		q.fields[name] = value
	}
}

// onlyOnce has the fields of which two readers could take two different ones.
var onlyOnce = []string{"host", "content-length", "transfer-encoding"}

// readLine reads a line that ends in CR LF.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok || strings.ContainsAny(line, "\r\x00") {
		return "", errors.New("expected CR LF")
	}
	return line, nil
}

// hangUp ends our half and reads on for a moment, so that no reset overtakes the answer.
func hangUp(c net.Conn) {
	c.(*net.TCPConn).CloseWrite() // fails if the client has left
	c.SetReadDeadline(time.Now().Add(time.Second))
	io.Copy(io.Discard, c) // an error is an end as well
	c.Close()
}

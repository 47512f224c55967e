//go:build ignore

// Solution of exercise 20.
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

// serveConn answers one request after the other.
func serveConn(c net.Conn) {
	defer hangUp(c)
	r := bufio.NewReader(c)
	for {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		c.SetWriteDeadline(time.Now().Add(4 * time.Second)) // the answer is written later
		if _, err := r.Peek(1); err != nil {
			return // nobody asks any more
		}
		q, err := readRequest(r)
		if err != nil {
			fmt.Fprintf(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n%v\n", err)
			return // nobody knows where the next request begins
		}
		if stays := answer(c, q); !stays {
			return
		}
	}
}

// readRequest reads a request to its end, so that the next one can follow.
func readRequest(r *bufio.Reader) (*request, error) {
	q, err := readHead(r)
	if err != nil {
		return nil, err
	}
	if _, ok := q.fields["host"]; !ok && q.version == "HTTP/1.1" {
		return nil, errors.New("expected Host")
	}
	return q, readBody(r, q)
}

// readBody reads the body and counts it.
func readBody(r *bufio.Reader, q *request) error {
	coding, coded := q.fields["transfer-encoding"]
	value, hasLength := q.fields["content-length"]
	switch {
	case coded && hasLength:
		return errors.New("expected either a length or chunks")
	case coded && !strings.EqualFold(coding, "chunked"):
		return errors.New("expected chunks")
	case coded:
		return readChunks(r, q)
	}
	if !hasLength {
		return nil
	}
	length, err := strconv.ParseUint(value, 10, 31) // no sign, and not empty
	if err != nil {
		return err
	}
	q.size, err = io.CopyN(io.Discard, r, int64(length))
	return err
}

// readChunks reads chunks up to that of size 0, and the trailer.
func readChunks(r *bufio.Reader, q *request) error {
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		digits, _, _ := strings.Cut(line, ";")
		size, err := strconv.ParseUint(digits, 16, 31)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		n, err := io.CopyN(io.Discard, r, int64(size))
		q.size += n
		if err != nil {
			return err
		}
		if end, err := readLine(r); err != nil || end != "" {
			return errors.New("expected CR LF after a chunk")
		}
	}
	for {
		if line, err := readLine(r); err != nil || line == "" {
			return err
		}
	}
}

// answer sends the page and reports whether the connection stays.
func answer(c net.Conn, q *request) (stays bool) {
	pieces := page(q)
	modern := q.version == "HTTP/1.1"
	stays = modern && !hasMember(q.fields["connection"], "close")
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	if !stays {
		head += "Connection: close\r\n"
	}
	chunked := modern && len(pieces) > 1
	if chunked {
		head += "Transfer-Encoding: chunked\r\n"
	} else if len(pieces) == 1 {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(pieces[0]))
	}
	fmt.Fprint(c, head+"\r\n")
	for _, piece := range pieces {
		if chunked {
			piece = fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece)
		}
		fmt.Fprint(c, piece) // if it fails, the client has left
	}
	if chunked {
		fmt.Fprint(c, "0\r\n\r\n")
	}
	return stays
}

// hasMember reports whether a list like "close, TE" has a member, in upper or lower case.
func hasMember(list, member string) bool {
	for _, m := range strings.Split(list, ",") {
		if strings.EqualFold(strings.Trim(m, " \t"), member) {
			return true
		}
	}
	return false
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

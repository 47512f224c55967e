//go:build ignore

// Step 3b, the request line: take it apart into method, target and version.
//
//	go run docs/steps/03b-target.go
//	curl -i 'http://127.0.0.1:8000/a%20b?x=1'
//
// Still missing: the path's escapes, and all header fields.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"regexp"
	"strings"
	"time"
)

// timeout is how long a client has to send its head, and then to receive the answer.
const timeout = 2 * time.Second

// maxLine limits a line of the head: so many bytes, with its line end.
const maxLine = 65536

// The statuses of requests that are refused.
const (
	badRequest     = "400 Bad Request"
	requestTimeout = "408 Request Timeout"
	targetTooLong  = "414 URI Too Long"
	headTooLarge   = "431 Request Header Fields Too Large"
	notImplemented = "501 Not Implemented"
	badVersion     = "505 HTTP Version Not Supported"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		log.Fatal(err) // e.g. another program has the port
	}
	fmt.Printf("Serving HTTP on http://%s/ ...\n", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err) // e.g. out of file descriptors
		}
		serveConn(c)
	}
}

// serveConn serves one connection: it reads a request, answers it, and hangs up.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(timeout)) // an error will be returned by Read
	request, err := readRequest(bufio.NewReaderSize(c, maxLine+1))
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		respond(c, request, refusal.Status, refusal.page())
	case err == nil:
		respond(c, request, "200 OK", showRequest(request))
	} // otherwise nothing was asked, or the client has left
}

// A Refusal is an error that is sent to the client.
type Refusal struct {
	Status string // "400 Bad Request"
	Source string // the rule: "RFC 9112 §5.1"
	Reason string // what was expected, what came
}

func refuse(status, source, format string, args ...any) error {
	return &Refusal{status, source, fmt.Sprintf(format, args...)}
}

// Error returns the refusal on one line.
func (r *Refusal) Error() string { return r.Reason + " (" + r.Source + ")" }

// page returns the refusal for the client.
func (r *Refusal) page() string { return r.Status + "\n\n" + r.Error() + "\n" }

// A Request is the head of a request, taken apart.
type Request struct {
	Method  string // "GET", as it came: methods are case-sensitive
	Path    string // "/a%20b"
	Query   string // "x=1", without its "?"
	Version string // "HTTP/1.0", "HTTP/0.9"; "" before it is read
}

// readRequest reads the head of one request, and leaves r at the first byte of the body.
// The request is never nil: with an error it holds what was read so far.
func readRequest(r *bufio.Reader) (*Request, error) {
	q := &Request{}
	if first, _ := r.Peek(1); string(first) == "\x16" { // RFC 8446 §5.1
		return q, refuse(badRequest, "RFC 9112 §3", "expected a request in plain text, got a "+
			"TLS handshake: use http:// instead of https://")
	}
	h := &headReader{r: r}
	line, err := h.line(targetTooLong)
	if err == nil && line == "" { // old clients sent one after a body (RFC 9112 §2.2)
		h.end = "" // the skipped line is no part of the head
		line, err = h.line(targetTooLong)
	}
	if err == nil {
		err = q.parseLine(line)
	}
	for err == nil && line != "" && q.Version != "HTTP/0.9" {
		line, err = h.line(headTooLarge)
	}
	return q, err
}

// A headReader reads the lines of one head.
type headReader struct {
	r   *bufio.Reader // with a buffer of maxLine+1 bytes
	end string        // "\r\n" or "\n", once a line has shown it
}

// line reads one line and returns it without its line end. The lines of a head end all in
// CRLF or all in LF: what one reader takes for a line end, another may take for text. A
// line over maxLine bytes is refused with the status tooLong. (RFC 9112 §2.2)
//
//	"Host: h\r\n" → "Host: h"
func (h *headReader) line(tooLong string) (string, error) {
	raw, err := h.r.ReadSlice('\n')
	switch {
	case len(raw) > maxLine:
		if tooLong == targetTooLong && !strings.Contains(string(raw), " ") {
			tooLong = badRequest // no target has come
		}
		return "", refuse(tooLong, "RFC 9112 §3", "expected lines of %d bytes at most", maxLine)
	case err != nil && len(raw) == 0 && h.end == "":
		return "", err // nothing was asked, so nothing is answered
	case err != nil:
		return "", incomplete(err, "an empty line to end the head")
	}
	line, end := string(raw[:len(raw)-1]), "\n"
	if strings.HasSuffix(line, "\r") {
		line, end = line[:len(line)-1], "\r\n"
	}
	if strings.Contains(line, "\r") || h.end != "" && h.end != end {
		return "", refuse(badRequest, "RFC 9112 §2.2", `expected lines that all end in \r\n `+
			`or all in \n, and no other \r, got %.80q`, raw)
	}
	h.end = end
	return line, nil
}

// incomplete explains a request that stops before its end.
func incomplete(err error, expected string) error {
	switch {
	case err == io.EOF:
		return refuse(badRequest, "RFC 9112 §8", "expected %s, but the client ended", expected)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(requestTimeout, "RFC 9110 §15.5.9", "expected %s, waited %v", expected,
			timeout)
	}
	return err // e.g. connection reset by peer: nobody is left to answer
}

// parseLine takes the request line apart: method SP target SP version, with one space
// each. A line with only GET and a path is HTTP/0.9. (RFC 1945 §5.1, §4.1; RFC 9112 §3)
//
//	"GET /a?b HTTP/1.0" → Method "GET", Path "/a", Query "b", Version "HTTP/1.0"
//	"GET /a"            → Method "GET", Path "/a", Version "HTTP/0.9"
func (q *Request) parseLine(line string) error {
	method, rest, _ := strings.Cut(line, " ")
	target, version, full := strings.Cut(rest, " ")
	q.Method = method
	if !full && method == "GET" && strings.HasPrefix(target, "/") {
		q.Version = "HTTP/0.9"
		return q.parseTarget(target)
	}
	switch {
	case !token.MatchString(method) || target == "":
		return refuse(badRequest, "RFC 1945 §5.1", "expected a request line like GET /path "+
			"HTTP/1.0 with single spaces, got %.80q", line)
	case !versionForm.MatchString(version):
		return refuse(badRequest, "RFC 9112 §2.3", "expected a version like HTTP/1.0 at the "+
			"end of the line, got %.80q", version)
	case version[len("HTTP/")] != '1': // another major version is another protocol
		return refuse(badVersion, "RFC 9110 §15.6.6", "expected HTTP/1.0 or HTTP/1.1, got %s",
			version)
	}
	q.Version = version
	return q.parseTarget(target)
}

// The forms of what a head is made of: a method or a name, and a version.
var (
	token       = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$") // RFC 9110 §5.6.2
	versionForm = regexp.MustCompile(`^HTTP/[0-9]\.[0-9]$`)           // RFC 9112 §2.3
	control     = regexp.MustCompile(`[\x00-\x1f\x7f]`)               // ASCII's
)

// parseTarget splits the target at its first "?". A fragment should not have been sent:
// it is cut. (RFC 1945 §5.1.2, RFC 9112 §3.2)
//
//	/a%20b?x=1#f → Path "/a%20b", Query "x=1"
func (q *Request) parseTarget(target string) error {
	if q.Method == "CONNECT" || q.Method == "OPTIONS" && target == "*" {
		return refuse(notImplemented, "RFC 9112 §3.2", "expected a path, got %s %.80q",
			q.Method, target)
	}
	if !strings.HasPrefix(target, "/") || control.MatchString(target) {
		return refuse(badRequest, "RFC 9112 §3.2", "expected a target that begins with / and "+
			"has no control characters, got %.80q", target)
	}
	target, _, _ = strings.Cut(target, "#")
	q.Path, q.Query, _ = strings.Cut(target, "?")
	return nil
}

// respond sends an answer: a status line, header fields, an empty line, the page. The end
// of the connection is the end of the page. HTTP/0.9 has no head. (RFC 1945 §6)
func respond(c net.Conn, q *Request, status, page string) {
	head := "HTTP/1.0 " + status + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"\r\n"
	if q.Version == "HTTP/0.9" {
		head = ""
	}
	c.SetWriteDeadline(time.Now().Add(timeout)) // an error will be returned by the write
	io.WriteString(c, head+page)                // if it fails, the client has left
}

// showRequest is the page: the request as we understand it.
func showRequest(q *Request) string {
	return fmt.Sprintf("method   %q\npath     %q\nquery    %q\nversion  %q\n",
		q.Method, q.Path, q.Query, q.Version)
}

//go:build ignore

// Step 3a, lines: read a head line by line, whole or in pieces, with a limit. What is no
// head is refused, and the answer says why.
//
//	go run docs/steps/03a-lines.go
//	curl -i http://127.0.0.1:8000/
//
// Still missing: the meaning of the lines, and a limit to their number.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
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
		respond(c, refusal.Status, refusal.page())
	case err == nil:
		respond(c, "200 OK", showRequest(request))
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

// A Request is the head of a request.
type Request struct {
	Line string // the request line, without its line end
}

// readRequest reads the head of one request, and leaves r at the first byte of the body.
// The request is never nil: with an error it holds what was read so far.
func readRequest(r *bufio.Reader) (*Request, error) {
	q := &Request{}
	h := &headReader{r: r}
	line, err := h.line(targetTooLong)
	if err == nil && line == "" { // old clients sent one after a body (RFC 9112 §2.2)
		h.end = "" // the skipped line is no part of the head
		line, err = h.line(targetTooLong)
	}
	q.Line = line
	for err == nil && line != "" {
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

// respond sends an answer: a status line, header fields, an empty line, the page. The end
// of the connection is the end of the page. (RFC 1945 §6)
func respond(c net.Conn, status, page string) {
	head := "HTTP/1.0 " + status + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"\r\n"
	c.SetWriteDeadline(time.Now().Add(timeout)) // an error will be returned by the write
	io.WriteString(c, head+page)                // if it fails, the client has left
}

// showRequest is the page: the request as we understand it.
func showRequest(q *Request) string { return fmt.Sprintf("line     %q\n", q.Line) }

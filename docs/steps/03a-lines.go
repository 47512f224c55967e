//go:build ignore

// Step 3a, lines: read a head line by line, whole or in pieces, with limits, and answer
// what is no head with a page that points at the first wrong byte.
//
//	go run docs/steps/03a-lines.go
//	go run . send -split 1 127.0.0.1:8000 'GET / HTTP/1.0\r\nA: b\n\n'
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
	"strconv"
	"strings"
	"time"
)

// timeout is how long a client has to send its head, and then to receive the answer.
const timeout = 2 * time.Second

// Limits of a head. No buffer of these sizes is allocated in advance.
const (
	maxLine = 65536 // bytes in a request line or header line, with its line end
)

// The statuses of requests that this file refuses.
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
	c.SetReadDeadline(time.Now().Add(timeout)) // fails if closed, and so will Read
	request, err := readRequest(bufio.NewReader(c))
	if err == errSilent {
		return
	}
	if refusal, ok := err.(*Refusal); ok {
		fmt.Printf("%s: %v\n", refusal.Status, refusal)
		respond(c, refusal.Status, string(refusal.page()))
	} else {
		respond(c, "200 OK", showRequest(request))
	}
}

// errSilent reports a client that connected and left without sending a byte, as browsers
// do with connections that they open in advance. Nothing is answered or logged.
var errSilent = errors.New("nothing was asked")

// A Request is the head of a request.
type Request struct {
	Line string // the whole request line without its line end, for the log
}

// readRequest reads the head of one request from r and leaves r behind its empty line.
//
// The request is never nil: with an error it holds what was read so far, for the log. The
// error is a *Refusal when there is something to answer, and errSilent when not one byte
// of a request has come. (RFC 1945 §5)
func readRequest(r *bufio.Reader) (*Request, error) {
	request := &Request{}
	h := &headReader{r: r}
	if err := refuseTLS(r); err != nil {
		return request, err
	}
	line, err := h.line(targetTooLong)
	if err == nil && line == "" { // old clients sent one after a body (RFC 9112 §2.2)
		h = &headReader{r: r} // an empty line does not decide how the head ends its lines
		line, err = h.line(targetTooLong)
	}
	if err != nil && h.size == 0 {
		return request, errSilent
	}
	request.Line = line
	for err == nil && line != "" {
		line, err = h.line(headTooLarge)
	}
	return request, err
}

// refuseTLS refuses a client that uses https://. A TLS connection begins with a record of
// type 22, a handshake. (RFC 8446 §5.1)
func refuseTLS(r *bufio.Reader) error {
	first, err := r.Peek(1)
	if err != nil || first[0] != 22 {
		return nil // the error will come again, when the line is read
	}
	return refuse(badRequest, "RFC 9112 §3", string(first), 0, "expected a request in plain "+
		"text, got a TLS handshake: use http:// instead of https://")
}

// A headReader reads the lines of one head: a request line and header section.
type headReader struct {
	r    *bufio.Reader
	end  string // "\r\n" or "\n", once a line has shown it
	size int    // bytes read, line ends included
}

// line reads one line and returns it without its line end. CRLF is the rule. A bare LF is
// accepted, so that printf 'GET / HTTP/1.0\n\n' works, but one head must not mix the two:
// what one reader takes for a line end, another may take for text.
//
//	"Host: h\r\n" → "Host: h"
//
// A line over maxLine bytes is refused with the status tooLong. (RFC 9112 §2.2)
func (h *headReader) line(tooLong string) (string, error) {
	raw, err := h.rawLine(tooLong)
	if err != nil {
		return "", err
	}
	end := "\n"
	if strings.HasSuffix(raw, "\r\n") {
		end = "\r\n"
	}
	line := strings.TrimSuffix(raw, end)
	if i := strings.IndexByte(line, '\r'); i >= 0 {
		return "", refuse(badRequest, "RFC 9112 §2.2", raw, i, `expected \n behind each \r`)
	}
	if h.end != "" && h.end != end {
		return "", refuse(badRequest, "RFC 9112 §2.2", raw, len(line), "expected %s, with "+
			"which this head began: one head does not mix line ends", visible(h.end))
	}
	h.end = end
	return line, nil
}

// rawLine reads one line, with its line end, in pieces of the reader's buffer.
func (h *headReader) rawLine(tooLong string) (line string, err error) {
	err = bufio.ErrBufferFull
	for err == bufio.ErrBufferFull && len(line) <= maxLine {
		var piece []byte
		piece, err = h.r.ReadSlice('\n')
		line += string(piece)
	}
	h.size += len(line)
	switch {
	case len(line) > maxLine:
		source := "RFC 6585 §5"
		if tooLong == targetTooLong {
			source = "RFC 9110 §15.5.15"
		}
		err = refuse(tooLong, source, line, maxLine,
			"expected at most %d bytes in a line, with its line end", maxLine)
	case err != nil && h.size == 0:
		err = incomplete(err, "", "expected a head, got nothing")
	case err != nil:
		err = incomplete(err, line, "expected an empty line to end the head")
	}
	return line, err
}

// incomplete explains a request that stops before its end: 400 if no more bytes can come,
// 408 if they do not come in time. line is the part of a line that came last. (RFC 9112 §8,
// RFC 9110 §15.5.9)
func incomplete(err error, line, format string, args ...any) *Refusal {
	status, source := badRequest, "RFC 9112 §8"
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		status, source = requestTimeout, "RFC 9110 §15.5.9"
	}
	reason := fmt.Sprintf(format, args...)
	return &Refusal{status, source, line, len(line), fmt.Sprintf("%s: %v", reason, err), err}
}

// A Refusal is an error that has an answer: it tells the client what is wrong with the
// request, and points at the byte.
type Refusal struct {
	Status string // "400 Bad Request"
	Source string // the rule: "RFC 9112 §5.1"
	Line   string // the line of the head that is at fault; "" if none is
	Offset int    // of the first bad byte in Line; len(Line) if bytes are missing
	Reason string // what was expected, what came, what to do
	Err    error  // the cause: io.ErrUnexpectedEOF, a timeout, or nil
}

// refuse makes a Refusal of the line and the offset in it. format makes its Reason.
func refuse(status, source, line string, offset int, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Source: source, Line: line, Offset: offset,
		Reason: fmt.Sprintf(format, args...)}
}

// Error returns the refusal on one line, for a log:
//
//	expected a name, a colon and a value: byte 4 of "Host : x" (RFC 9112 §5.1)
func (r *Refusal) Error() string {
	if r.Line == "" {
		return fmt.Sprintf("%s (%s)", r.Reason, r.Source)
	}
	before, after := r.excerpt()
	return fmt.Sprintf(`%s: byte %d of "%s%s" (%s)`, r.Reason, r.Offset, before, after, r.Source)
}

// page returns the refusal for the client, with a caret under the first bad byte:
//
//	400 Bad Request
//
//	Host : x
//	    ^ expected a name, a colon and a value
//	RFC 9112 §5.1
//
// Some clients take any answer for HTML, so the page never has a "<".
func (r *Refusal) page() []byte {
	mark := ""
	if r.Line != "" {
		before, after := r.excerpt()
		mark = before + after + "\n" + strings.Repeat(" ", len(before)) + "^ "
	}
	reason := strings.ReplaceAll(r.Reason, "<", `\x3c`)
	return fmt.Appendf(nil, "%s\n\n%s%s\n%s\n", r.Status, mark, reason, r.Source)
}

// excerpt returns the printable parts of Line before and from the bad byte, at most 40
// bytes of each.
func (r *Refusal) excerpt() (before, after string) {
	const width = 40
	offset := max(0, min(r.Offset, len(r.Line)))
	before, after = r.Line[:offset], r.Line[offset:]
	if len(before) > width {
		before = "..." + before[len(before)-width:]
	}
	if len(after) > width {
		after = after[:width] + "..."
	}
	return harmless(before), harmless(after)
}

// harmless returns visible(s) without "<".
func harmless(s string) string { return strings.ReplaceAll(visible(s), "<", `\x3c`) }

// visible shows bytes on one line of ASCII, as in a Go string: CR LF as \r\n, bytes beyond
// ASCII as \xNN, a quote as \".
func visible(s string) string {
	var b strings.Builder
	for i := range len(s) {
		quoted := strconv.Quote(s[i : i+1]) // alone, a byte beyond ASCII is not UTF-8
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// showRequest shows the fields of a request.
func showRequest(request *Request) string {
	return fmt.Sprintf("Line     %q\n", request.Line)
}

// respond sends an answer: a status line, header fields, an empty line, the page. The end
// of the connection is the end of the page. (RFC 1945 §6)
func respond(c net.Conn, status, page string) {
	head := "HTTP/1.0 " + status + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"\r\n"
	c.SetWriteDeadline(time.Now().Add(timeout)) // fails if closed, and so will the write
	io.WriteString(c, head+page)                // if it fails, the client has left
}

//go:build ignore

// Step 3b, the request line: take it apart into a method, a target and a version, and the
// target into a path and a query.
//
//	go run docs/steps/03b-request-line.go
//	curl -i 'http://127.0.0.1:8000/a%20b?x=1'
//
// Still missing: header fields, which are read and thrown away.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/url"
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
	c.SetReadDeadline(time.Now().Add(timeout)) // fails if closed, and so will Read
	request, err := readRequest(bufio.NewReader(c))
	if err == errSilent {
		return
	}
	if refusal, ok := err.(*Refusal); ok {
		fmt.Printf("%s: %v\n", refusal.Status, refusal)
		respond(c, request, refusal.Status, string(refusal.page()))
	} else {
		respond(c, request, "200 OK", showRequest(request))
	}
}

// errSilent reports a client that connected and left without sending a byte, as browsers
// do with connections that they open in advance. Nothing is answered or logged.
var errSilent = errors.New("nothing was asked")

// A Request is the head of a request, taken apart.
type Request struct {
	Line    string // the whole request line without its line end, for the log
	Method  string // "GET", as it came: methods are case-sensitive
	Target  string // "/a%20b?x=1", as it came
	Path    string // "/a b": decoded once and otherwise untouched
	Query   string // "x=1": never decoded, and without its "?"
	Version string // "HTTP/1.0", "HTTP/1.1", "HTTP/0.9"; "" before it is read
}

// readRequest reads the head of one request from r and leaves r behind its empty line.
//
//	GET /a%20b?x=1 HTTP/1.0\r\nHost: h\r\n\r\n
//	→ Request{Method: "GET", Path: "/a b", Query: "x=1", Version: "HTTP/1.0", …}
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
	if err != nil {
		return request, err
	}
	if err := request.parseLine(line); err != nil || request.Version == "HTTP/0.9" {
		return request, err // a 0.9 request is one line: nothing else will come
	}
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

// parseLine takes the request line apart: method SP target SP version, with one space
// each. A line with only GET and a path is HTTP/0.9.
//
//	"GET /a?b HTTP/1.0" → Method "GET", Path "/a", Query "b", Version "HTTP/1.0"
//	"GET /a"            → Method "GET", Path "/a", Version "HTTP/0.9"
//
// The version is checked before the target: it decides what a target may be. (RFC 1945
// §5.1, §4.1; RFC 9112 §3)
func (q *Request) parseLine(line string) error {
	q.Line = line
	method, rest, _ := strings.Cut(line, " ")
	target, version, full := strings.Cut(rest, " ")
	q.Method, q.Target = method, target
	if !full && method == "GET" && strings.HasPrefix(target, "/") {
		q.Version = "HTTP/0.9"
		return q.parseTarget()
	}
	if i := indexNonToken(method); i >= 0 {
		return refuse(badRequest, "RFC 9110 §5.6.2", line, i, "expected a method made of "+
			"letters, digits and !#$%%&'*+-.^_`|~, then one space")
	}
	if target == "" || version == "" {
		missing := len(line) // where a target or version should begin
		if target == "" {
			missing = min(len(method)+1, len(line))
		}
		return refuse(badRequest, "RFC 1945 §5.1", line, missing, "expected a request line "+
			"like GET /path HTTP/1.0, with single spaces")
	}
	if err := q.checkVersion(version); err != nil {
		return err
	}
	q.Version = version
	return q.parseTarget()
}

// checkVersion accepts "HTTP/1.0" to "HTTP/1.9". HTTP is upper case, with one digit on
// each side of the point; another major version is another protocol. (RFC 9112 §2.3)
func (q *Request) checkVersion(version string) error {
	const form = "HTTP/1.0"
	start := len(q.Line) - len(version)
	for i := range max(len(form), len(version)) {
		if i < min(len(form), len(version)) && (version[i] == form[i] ||
			isDigit(version[i]) && isDigit(form[i])) {
			continue
		}
		return refuse(badRequest, "RFC 9112 §2.3", q.Line, start+i,
			"expected a version like HTTP/1.0 at the end of the line")
	}
	if major := len("HTTP/"); version[major] != '1' {
		return refuse(badVersion, "RFC 9110 §15.6.6", q.Line, start+major,
			"expected HTTP/1.0 or HTTP/1.1: this server speaks HTTP/1.0")
	}
	return nil
}

// parseTarget splits the target into Path and Query. The path is decoded exactly once:
// %2541 is %41. Dots and double slashes stay: the application decides what they mean. A
// fragment should not have been sent: it is cut.
//
//	/a%20b?x=%201#f → Path "/a b", Query "x=%201"
//
// (RFC 1945 §5.1.2, RFC 9112 §3.2, RFC 3875 §4.1.5)
func (q *Request) parseTarget() error {
	target, _, _ := strings.Cut(q.Target, "#")
	start := len(q.Method) + 1 // of the target in the line
	if q.Method == "CONNECT" || q.Method == "OPTIONS" && target == "*" {
		return refuse(notImplemented, "RFC 9112 §3.2", q.Line, start, "expected a path: "+
			"this request is not for an application, and this server has no answer of its own")
	}
	if i := indexControl(q.Target); i >= 0 {
		return refuse(badRequest, "RFC 9112 §3.2", q.Line, start+i,
			"expected a target without control characters")
	}
	if !strings.HasPrefix(target, "/") {
		return refuse(badRequest, "RFC 9112 §3.2", q.Line, start,
			"expected a target that begins with /")
	}
	path, query, _ := strings.Cut(target, "?")
	if i := badEscape(path); i >= 0 {
		return refuse(badRequest, "RFC 3986 §2.1", q.Line, start+i,
			"expected two hex digits after %%, which itself is %%25")
	}
	if i := controlEscape(path); i >= 0 {
		return refuse(badRequest, "RFC 3875 §4.1.5", q.Line, start+i,
			"expected a path without control characters, also behind %%")
	}
	q.Query = query
	q.Path, _ = url.PathUnescape(path) // badEscape has found no error
	return nil
}

// indexNonToken returns the offset of the first byte that keeps s from being a token, which
// is a method or a header name: letters, digits and fifteen other characters, all ASCII.
// It returns -1 if s is a token, and 0 if s is empty. (RFC 9110 §5.6.2)
func indexNonToken(s string) int {
	for i := range len(s) {
		letter := 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z'
		if !letter && !isDigit(s[i]) && strings.IndexByte("-!#$%&'*+.^_`|~", s[i]) < 0 {
			return i
		}
	}
	if s == "" {
		return 0
	}
	return -1
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// indexControl returns the offset of the first ASCII control character in s, 0 to 31 or
// 127, or -1.
func indexControl(s string) int {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return i
		}
	}
	return -1
}

// badEscape returns the offset of the first % in s that two hex digits do not follow, or -1.
// (RFC 3986 §2.1)
func badEscape(s string) int {
	for i := range len(s) {
		if s[i] != '%' {
			continue
		}
		if _, err := url.PathUnescape(s[i:min(i+3, len(s))]); err != nil {
			return i
		}
	}
	return -1
}

// controlEscape returns the offset of the first escape in s, all of which are good, that
// stands for a control character, or -1: %00 to %1F, and %7F.
func controlEscape(s string) int {
	for i := range len(s) {
		if s[i] == '%' && (s[i+1] < '2' || strings.EqualFold(s[i:i+3], "%7f")) {
			return i
		}
	}
	return -1
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
	return fmt.Sprintf("Method   %q\nPath     %q\nQuery    %q\nVersion  %q\n",
		request.Method, request.Path, request.Query, request.Version)
}

// respond sends an answer: a status line, header fields, an empty line, the page. The end
// of the connection is the end of the page. An HTTP/0.9 client gets the page alone.
// (RFC 1945 §6)
func respond(c net.Conn, request *Request, status, page string) {
	head := "HTTP/1.0 " + status + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"\r\n"
	if request.Version == "HTTP/0.9" {
		head = ""
	}
	c.SetWriteDeadline(time.Now().Add(timeout)) // fails if closed, and so will the write
	io.WriteString(c, head+page)                // if it fails, the client has left
}

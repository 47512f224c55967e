//go:build ignore

// Step 8a, the call: an application is a function that the gateway calls. It begins its
// answer with startResponse, and returns the blocks of a body.
//
//	go run docs/steps/08a-call.go
//	curl -i http://127.0.0.1:8000/hello
//
// Still missing: blocks that are sent as soon as they are there.
package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// timeout is how long a client has to send its head, then for each read of its body, and
// for each write of the answer.
const timeout = 2 * time.Second

const software = "rawsgi/1.0"

// Limits of a request.
const (
	maxLine    = 65536      // bytes in a line, with its line end
	maxFields  = 100        // header fields
	maxSection = 256 * 1024 // bytes in all of them
	maxBody    = 1 << 20    // bytes
)

// The statuses of requests that are refused.
const (
	badRequest     = "400 Bad Request"
	requestTimeout = "408 Request Timeout"
	tooLarge       = "413 Content Too Large"
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
func serveConn(socket net.Conn) {
	c := &conn{Conn: socket}
	defer hangUp(c)
	c.SetReadDeadline(time.Now().Add(timeout)) // an error will be returned by Read
	r := bufio.NewReaderSize(c, maxLine+1)
	request, err := readRequest(r)
	response := &Response{out: c, withHead: request.Version != "HTTP/0.9",
		withBody: request.Method != "HEAD"}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		response.refuse(refusal)
	case err == nil:
		c.eachRead = true
		input := newInput(r, request, c.sendContinue)
		run(gallery, newEnviron(request, input, c), response)
	} // otherwise nothing was asked, or the client has left
}

// hangUp closes the connection when the client has read the answer. Closing it while
// bytes from the client are unread makes the operating system send a reset, which can
// destroy the answer on its way. (RFC 9112 §9.6)
func hangUp(c *conn) {
	c.Conn.(*net.TCPConn).CloseWrite() // fails if the client has left
	c.SetReadDeadline(time.Now().Add(timeout))
	io.CopyN(io.Discard, c.Conn, 64<<20) // any error ends the wait too
	c.Close()
}

// A conn is a connection with deadlines.
type conn struct {
	net.Conn
	eachRead bool // each read has its own deadline; before that, the whole head has one
}

func (c *conn) Read(p []byte) (int, error) {
	if c.eachRead {
		c.SetReadDeadline(time.Now().Add(timeout)) // an error will be returned by Read
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(timeout)) // an error will be returned by Write
	return c.Conn.Write(p)
}

// sendContinue tells the client to send the body. HTTP/1.0 has no such answer, so it says
// HTTP/1.1, which the client speaks.
func (c *conn) sendContinue() {
	io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") // if it fails, the next read will
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
	Method    string   // "GET", as it came: methods are case-sensitive
	Authority string   // "host:81" from http://host:81/path, otherwise ""
	Path      string   // "/a b": decoded once and otherwise untouched
	Query     string   // "x=%201": never decoded, and without its "?"
	Version   string   // "HTTP/1.0", "HTTP/0.9"; "" before it is read
	Header    []Header // in the order of arrival, nothing joined
	Length    int64    // Content-Length in bytes; 0 without one
}

// A Header is one header field.
type Header struct{ Name, Value string }

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
	if err != nil || q.Version == "HTTP/0.9" {
		return q, err // a 0.9 request is one line: nothing else will come
	}
	if q.Header, err = readHeader(h); err != nil {
		return q, err
	}
	return q, q.checkHeader()
}

// A headReader reads the lines of one head.
type headReader struct {
	r    *bufio.Reader // with a buffer of maxLine+1 bytes
	end  string        // "\r\n" or "\n", once a line has shown it
	size int           // bytes read, line ends included
}

// line reads one line and returns it without its line end. The lines of a head end all in
// CRLF or all in LF: what one reader takes for a line end, another may take for text. A
// line over maxLine bytes is refused with the status tooLong. (RFC 9112 §2.2)
//
//	"Host: h\r\n" → "Host: h"
func (h *headReader) line(tooLong string) (string, error) {
	raw, err := h.r.ReadSlice('\n')
	h.size += len(raw)
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

// parseTarget splits the target into Path and Query, and Authority if it has one. The
// path is decoded exactly once: %2541 is %41. A fragment should not have been sent: it is
// cut. (RFC 1945 §5.1.2, RFC 9112 §3.2, RFC 3875 §4.1.5)
//
//	/a%20b?x=%201#f     → Path "/a b", Query "x=%201"
//	http://u@h:81?x=1   → Path "/", Query "x=1", Authority "h:81"
func (q *Request) parseTarget(target string) error {
	if q.Method == "CONNECT" || q.Method == "OPTIONS" && target == "*" {
		return refuse(notImplemented, "RFC 9112 §3.2", "expected a path, got %s %.80q",
			q.Method, target)
	}
	rest, ok := target, strings.HasPrefix(target, "/")
	if parts := absoluteForm.FindStringSubmatch(target); parts != nil {
		q.Authority, rest, ok = parts[1], parts[2], isHost(parts[1])
	}
	if !ok || control.MatchString(target) {
		return refuse(badRequest, "RFC 9112 §3.2", "expected a target that begins with / or "+
			"http://host and has no control characters, got %.80q", target)
	}
	rest, _, _ = strings.Cut(rest, "#")
	path, query, _ := strings.Cut(rest, "?")
	if path == "" {
		path = "/"
	}
	decoded, err := url.PathUnescape(path)
	if err != nil || control.MatchString(decoded) {
		return refuse(badRequest, "RFC 3986 §2.1", "expected two hex digits after each %%, "+
			"and no control character in the path, got %.80q", path)
	}
	q.Path, q.Query = decoded, query
	return nil
}

// absoluteForm finds "h:81" and "/p" in http://u:pw@h:81/p. (RFC 9112 §3.2.2)
var absoluteForm = regexp.MustCompile(`^(?i:http)://(?:[^/?#]*@)?([^:/?#][^/?#]*)(.*)$`)

// hostForm is a name, which may have escapes, or an IPv6 address in brackets; a port may
// follow. (RFC 9110 §7.2, RFC 3986 §3.2.2)
var hostForm = regexp.MustCompile("^(?:(?:[-.~!$&'()*+;=0-9A-Z_a-z]|%[0-9A-Fa-f]{2})*|" +
	`\[([0-9A-Fa-f:.]+)\])(?::[0-9]*)?$`)

// isHost reports whether s is name, name:port, [IPv6] or [IPv6]:port.
func isHost(s string) bool {
	parts := hostForm.FindStringSubmatch(s)
	if parts == nil || parts[1] == "" {
		return parts != nil
	}
	addr, err := netip.ParseAddr(parts[1])
	return err == nil && addr.Is6()
}

// readHeader reads a header section and the empty line that ends it. (RFC 1945 §4.2)
//
//	"Host: h\r\nX-A:\t1 \r\n\r\n" → [{"Host", "h"}, {"X-A", "1"}]
func readHeader(h *headReader) ([]Header, error) {
	var fields []Header
	for start := h.size; ; {
		line, err := h.line(headTooLarge)
		if err != nil || line == "" {
			return fields, err
		}
		if len(fields) == maxFields || h.size-start > maxSection {
			return fields, refuse(headTooLarge, "RFC 6585 §5", "expected at most %d header "+
				"fields of %d bytes together", maxFields, maxSection)
		}
		field, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields = append(fields, field)
	}
}

// parseField takes one header line apart. A space before the colon, or before the name,
// is refused: proxies have read both in different ways, which is how requests are
// smuggled past them. (RFC 9112 §5.1, §5.2; RFC 9110 §5.5)
//
//	"Name: \t value \t " → {"Name", "value"}
func parseField(line string) (Header, error) {
	name, value, found := strings.Cut(line, ":")
	if !found || !token.MatchString(name) {
		return Header{}, refuse(badRequest, "RFC 9112 §5.1", `expected a header line like `+
			`"Name: value", with no space before the colon, got %.80q`, line)
	}
	if control.MatchString(strings.ReplaceAll(value, "\t", " ")) {
		return Header{}, refuse(badRequest, "RFC 9110 §5.5", "expected a header value without "+
			"control characters, got %.80q", line)
	}
	return Header{name, strings.Trim(value, " \t")}, nil // TrimSpace would cut U+0085 too
}

// checkHeader validates the fields that decide how to read the request. (RFC 9112 §3.2)
func (q *Request) checkHeader() error {
	if _, n := lookup(q.Header, "Transfer-Encoding"); n > 0 {
		return refuse(notImplemented, "RFC 9112 §6.1", "expected a Content-Length instead of "+
			"Transfer-Encoding: this server speaks HTTP/1.0")
	}
	if _, n := lookup(q.Header, "Host"); n > 1 || n == 0 && q.Version == "HTTP/1.1" {
		return refuse(badRequest, "RFC 9112 §3.2", "expected one Host, got %d (HTTP/1.0 needs "+
			"none)", n)
	}
	if host, _ := lookup(q.Header, "Host"); !isHost(host) {
		return refuse(badRequest, "RFC 9112 §3.2", "expected Host: name or Host: name:port, "+
			"got %.80q", host)
	}
	if _, n := lookup(q.Header, "Content-Type"); n > 1 {
		return refuse(badRequest, "RFC 9110 §5.3", "expected one Content-Type, got %d", n)
	}
	length, err := contentLength(q.Header)
	if length > maxBody {
		return refuse(tooLarge, "RFC 9110 §15.5.14", "expected at most %d bytes in a body, "+
			"Content-Length is larger", maxBody)
	}
	q.Length = max(length, 0)
	return err
}

// contentLength returns the Content-Length among fields, -1 if there is none. It is
// digits and nothing else: "+5" and "5, 5" are refused. (RFC 9110 §8.6)
func contentLength(fields []Header) (int64, error) {
	value, count := lookup(fields, "Content-Length")
	if count == 0 {
		return -1, nil
	}
	if count > 1 || !digits.MatchString(value) {
		return -1, refuse(badRequest, "RFC 9110 §8.6", "expected one Content-Length of digits "+
			"only, got %.80q", value)
	}
	n, _ := strconv.ParseInt(value, 10, 64) // too large for 63 bits: the largest number
	return n, nil
}

var digits = regexp.MustCompile(`^[0-9]+$`)

// lookup returns the value of the last field of that name, and how many there are. Upper
// and lower case are the same in a name. (RFC 9110 §5.1)
func lookup(fields []Header, name string) (value string, count int) {
	for _, field := range fields {
		if strings.EqualFold(field.Name, name) {
			value, count = field.Value, count+1
		}
	}
	return value, count
}

// Environ is what an application knows of its request. Keys in capitals are CGI's and
// hold strings; keys with a dot are the gateway's. (PEP 3333, "environ Variables")
type Environ map[string]any

// Get returns the string under key, or "" when there is none.
func (e Environ) Get(key string) string {
	value, _ := e[key].(string)
	return value
}

// newEnviron makes the environ of one request. (RFC 3875 §4.1)
func newEnviron(q *Request, input *Input, c net.Conn) Environ {
	server, client := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	e := Environ{
		"REQUEST_METHOD":    q.Method,                // "GET"
		"SCRIPT_NAME":       "",                      // the application is at the root
		"PATH_INFO":         q.Path,                  // "/environ"
		"QUERY_STRING":      q.Query,                 // "a=4"
		"SERVER_NAME":       server.IP.String(),      // "127.0.0.1"
		"SERVER_PORT":       fmt.Sprint(server.Port), // "8000"
		"SERVER_PROTOCOL":   q.Version,               // "HTTP/1.1": the client's version
		"SERVER_SOFTWARE":   software,                // "rawsgi/1.0"
		"GATEWAY_INTERFACE": "CGI/1.1",               // the names are CGI's
		"REMOTE_ADDR":       client.IP.String(),      // "127.0.0.1"
		"wsgi.version":      [2]int{1, 0},            // Python's tuple (1, 0)
		"wsgi.url_scheme":   "http",
		"wsgi.input":        input,     // io.Reader
		"wsgi.errors":       os.Stderr, // io.Writer
		"wsgi.multithread":  false,     // may run twice at once in this process
		"wsgi.multiprocess": false,     // may run in another process too
		"wsgi.run_once":     false,     // this process will answer more
	}
	for _, field := range q.Header {
		e.addHeader(field)
	}
	if q.Authority != "" {
		e["HTTP_HOST"] = q.Authority // an absolute target overrides Host (RFC 9112 §3.2.2)
	}
	return e
}

// addHeader puts a header field under its key and joins it to an earlier one of the same
// name: with a comma, and cookies with a semicolon, in which a comma would be part of the
// value. (RFC 9110 §5.3, RFC 9113 §8.2.3)
func (e Environ) addHeader(field Header) {
	key := environKey(field.Name)
	earlier, again := e[key].(string)
	switch {
	case key == "": // the application does not see this field
	case !again:
		e[key] = field.Value
	case key == "HTTP_COOKIE":
		e[key] = earlier + "; " + field.Value
	default:
		e[key] = earlier + "," + field.Value
	}
}

// environKey returns the key in environ for a header name, "" if there is none. (RFC 3875
// §4.1.18; CVE-2016-5385 for Proxy)
//
//	"X-Forwarded-For" → "HTTP_X_FORWARDED_FOR"    "Content-Type" → "CONTENT_TYPE"
//	"X_A" → none: "X-A" would have the same key, and a proxy in front that
//	        sets X-A may have let X_A through
//	"Proxy" → none: many programs take HTTP_PROXY for their own setting
func environKey(name string) string {
	if strings.Contains(name, "_") || strings.EqualFold(name, "Proxy") {
		return ""
	}
	key := strings.ReplaceAll(strings.ToUpper(name), "-", "_")
	if key == "CONTENT_TYPE" || key == "CONTENT_LENGTH" {
		return key // these two describe the body and are CGI's own
	}
	return "HTTP_" + key
}

// Input is wsgi.input, the body of the request. It ends after Content-Length bytes, so
// that nobody waits for more, and never returns the bytes after them.
type Input struct {
	r      *bufio.Reader
	length int64  // bytes in the whole body
	read   int64  // bytes read so far
	before func() // runs ahead of the first read; nil if there is nothing to do
}

// newInput makes the body of a request. A client that expects a 100 gets it when the body
// is first read; a client of HTTP/1.0 does not know it. (RFC 9110 §10.1.1)
func newInput(r *bufio.Reader, q *Request, sendContinue func()) *Input {
	in := &Input{r: r, length: q.Length}
	for _, field := range q.Header {
		if q.Version != "HTTP/1.0" && continueForm.MatchString(field.Name+":"+field.Value) {
			in.before = sendContinue
		}
	}
	return in
}

var continueForm = regexp.MustCompile(`(?i)^expect:(.*,)?[ \t]*100-continue[ \t]*(,|$)`)

func (in *Input) Read(p []byte) (int, error) {
	if in.read == in.length {
		return 0, io.EOF
	}
	if in.read == 0 && in.before != nil {
		in.before()
	}
	n, err := in.r.Read(p[:min(int64(len(p)), in.length-in.read)])
	in.read += int64(n)
	if err != nil {
		err = incomplete(err, fmt.Sprintf("%d body bytes, got %d", in.length, in.read))
	}
	return n, err
}

// Application is what a gateway calls, once for each request. (PEP 3333, "The
// Application/Framework Side")
type Application func(environ Environ, startResponse StartResponse) Body

// StartResponse is how an application begins its answer. It stores the status ("200 OK")
// and headers. (PEP 3333, "The start_response() Callable")
type StartResponse func(status string, headers []Header)

// A Body is what an application returns, Python's iterable of bytestrings.
type Body interface {
	All() iter.Seq[[]byte]
}

// Blocks is a body whose blocks are there already, like Python's [b"…"].
type Blocks [][]byte

func (b Blocks) All() iter.Seq[[]byte] { return slices.Values(b) }

// A Response is the state of one answer.
type Response struct {
	out      io.Writer // the connection
	withHead bool      // false for HTTP/0.9
	withBody bool      // false for HEAD
	status   string    // "200 OK"; "" before startResponse is called
	headers  []Header  // a copy
}

// startResponse implements StartResponse. It copies headers, which may be used again.
func (r *Response) startResponse(status string, headers []Header) {
	r.status, r.headers = status, slices.Clone(headers)
}

// run calls the application once and sends the body that it returns. It knows nothing of
// sockets: this is the gateway interface. (PEP 3333, "The Server/Gateway Side")
func run(application Application, environ Environ, r *Response) {
	defer func() {
		if reason := recover(); reason != nil { // where Python raises, we panic
			r.fail(reason)
		}
	}()
	page := ""
	for block := range application(environ, r.startResponse).All() {
		page += string(block)
	}
	r.send(page)
}

// send sends the answer. HEAD has the head of GET, and no page. (RFC 1945 §8.2)
func (r *Response) send(page string) {
	if r.status == "" {
		panic(errors.New("startResponse must be called before the first block that is not " +
			"empty, and before the body ends"))
	}
	head := r.head(len(page))
	if !r.withHead {
		head = ""
	}
	if !r.withBody {
		page = ""
	}
	io.WriteString(r.out, head+page) // if it fails, the client has left
}

// head returns the status line and the header fields. Date and Server are added, unless
// the application gave its own. (RFC 1945 §6.1; RFC 9110 §6.6.1, §8.6)
//
//	HTTP/1.0 200 OK\r\nDate: …\r\nServer: …\r\nContent-Type: …\r\nContent-Length: 5\r\n\r\n
func (r *Response) head(length int) string {
	head := "HTTP/1.0 " + r.status + "\r\n"
	if _, n := lookup(r.headers, "Date"); n == 0 {
		head += "Date: " + time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n"
	}
	if _, n := lookup(r.headers, "Server"); n == 0 {
		head += "Server: " + software + "\r\n"
	}
	for _, header := range r.headers {
		head += header.Name + ": " + header.Value + "\r\n"
	}
	return head + "Content-Length: " + strconv.Itoa(length) + "\r\n\r\n"
}

// fail answers for an application that has panicked. A *Refusal keeps its status, such as
// a body cut short. (PEP 3333, "Error Handling")
func (r *Response) fail(reason any) {
	var refusal *Refusal
	if err, _ := reason.(error); !errors.As(err, &refusal) {
		log.Printf("the application failed: %v", reason)
		refusal = &Refusal{"500 Internal Server Error", `PEP 3333, "Error Handling"`,
			"the application failed; the server's error log says how"}
	}
	r.refuse(refusal)
}

// refuse answers with the page of a refusal.
func (r *Response) refuse(refusal *Refusal) {
	r.status, r.headers = refusal.Status, textPlain
	r.send(refusal.page())
}

var textPlain = []Header{{"Content-Type", "text/plain; charset=utf-8"}}

// gallery is the application that this server runs: several, each at its own path.
func gallery(environ Environ, startResponse StartResponse) Body {
	switch environ.Get("PATH_INFO") {
	case "/hello":
		return hello(environ, startResponse)
	}
	return showEnviron(environ, startResponse)
}

// hello is the smallest application.
func hello(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", textPlain)
	return Blocks{[]byte("Hello, World!\n")}
}

// showEnviron prints environ, sorted. Then it reads the body, so that a client can check
// that it arrived whole.
func showEnviron(environ Environ, startResponse StartResponse) Body {
	page := ""
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		switch value := environ[key].(type) {
		case string, bool, [2]int:
			page += fmt.Sprintf("%s: %v\n", key, value)
		default: // the type of wsgi.input says more than its address
			page += fmt.Sprintf("%s: %T\n", key, value)
		}
	}
	sum := sha256.New()
	length, err := io.Copy(sum, environ["wsgi.input"].(io.Reader))
	if err != nil {
		panic(err) // the gateway answers a body cut short with 400, a slow one with 408
	}
	page += fmt.Sprintf("BODY-LENGTH: %d\nBODY-SHA256: %x\n", length, sum.Sum(nil))
	startResponse("200 OK", textPlain)
	return Blocks{[]byte(page)}
}

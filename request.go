// request.go: bytes in.
//
// A request arrives as bytes and leaves this file as an environ, the map that every
// application gets. Nothing here knows about sockets: all of it reads a *bufio.Reader.
//
//	GET /environ?a=4 HTTP/1.0 CRLF     REQUEST_METHOD "GET"    PATH_INFO "/environ"
//	                                   QUERY_STRING "a=4"      SERVER_PROTOCOL "HTTP/1.0"
//	Host: localhost:8000 CRLF          HTTP_HOST "localhost:8000"
//	Content-Length: 5 CRLF             CONTENT_LENGTH "5"
//	CRLF                               (the empty line ends the head)
//	HELLO                              wsgi.input, a reader that ends after 5 bytes
//
// readRequest reads the head and checks it, newEnviron turns it into the map, and Input
// is the body. A Go string holds bytes, so PEP 3333's "native string" and "bytestring" are
// both just string here: nothing is decoded, and no rune is ever looked at.
//
// Sources: RFC 1945 (HTTP/1.0), RFC 9112 and 9110 where they say the same more sharply,
// RFC 3875 (CGI) for the names in environ, PEP 3333 for the rest of it.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Limits of a head. Nothing of these sizes is allocated ahead.
const (
	maxLine    = 65536      // bytes in a request line or header line, with its line end
	maxFields  = 100        // header fields in one section
	maxSection = 256 * 1024 // bytes in one header section
)

// The answers that this file gives, by refusing a request.
const (
	badRequest     = "400 Bad Request"
	requestTimeout = "408 Request Timeout"
	tooLarge       = "413 Content Too Large"
	targetTooLong  = "414 URI Too Long"
	headTooLarge   = "431 Request Header Fields Too Large"
	notImplemented = "501 Not Implemented"
	badVersion     = "505 HTTP Version Not Supported"
)

// A Refusal is an error that has an answer: the request was understood well enough to
// tell the client what is wrong with it.
type Refusal struct {
	Status string // "400 Bad Request"
	Reason string // what was expected, what came, what to do
	Source string // the rule: "RFC 9112 §5.1"
	Err    error  // what lies beneath: io.ErrUnexpectedEOF, a time-out, or nil
	Rest   string // of the last line read: what stands from the first bad byte on
	Field  string // the name of the header field that is refused, if it is one
}

func (r *Refusal) Error() string { return r.Reason + " (" + r.Source + ")" }

// Unwrap makes errors.Is(err, io.ErrUnexpectedEOF) work for a body that is cut short.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(status, source, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Source: source, Reason: fmt.Sprintf(format, args...)}
}

// at says where in the line the fault begins, and about in which field it is.
func (r *Refusal) at(rest string) *Refusal { r.Rest = rest; return r }

func (r *Refusal) about(field string) *Refusal { r.Field = field; return r }

// errSilent says that nothing was asked, so nothing is answered or logged: a client
// connected and left, as browsers do with the connections they open in advance.
var errSilent = errors.New("nothing was asked")

// A Request is the head of a request, taken apart.
type Request struct {
	Line      string   // the whole request line without its line end, for the log
	Method    string   // "GET", as it came: methods are case-sensitive
	Target    string   // "/a%20b?x=1", as it came
	Path      string   // "/a b": decoded once and otherwise untouched
	Query     string   // "x=1": never decoded, and without its "?"
	Authority string   // "host:81" from http://host:81/path, otherwise ""
	Version   string   // "HTTP/1.0", "HTTP/1.1", "HTTP/0.9", or "" if we did not get so far
	Header    []Header // in the order of arrival, nothing joined
	Length    int64    // Content-Length in bytes; 0 without one
}

// readRequest reads the head of one request from r and leaves r at the first byte of the
// body. maxBody is the largest Content-Length to accept, in bytes.
//
//	GET /a%20b?x=1 HTTP/1.0\r\nHost: h\r\n\r\n
//	→ Request{Method: "GET", Path: "/a b", Query: "x=1", Version: "HTTP/1.0", …}
//
// The request is never nil: with an error it holds what was understood, for the log. The
// error is a *Refusal when there is something to answer, errSilent when nothing was
// asked, otherwise what reading gave. (RFC 1945 §5)
func readRequest(r *bufio.Reader, maxBody int64) (*Request, error) {
	request := &Request{}
	h := &headReader{r: r}
	if err := h.begin(); err != nil {
		return request, err
	}
	line, err := h.line(targetTooLong)
	if err != nil {
		return request, err
	}
	if err := request.parseLine(line); err != nil || request.Version == "HTTP/0.9" {
		return request, err // a 0.9 request is one line: nothing else will come
	}
	if request.Header, err = readHeader(h); err != nil {
		return request, err
	}
	return request, request.checkHeader(maxBody)
}

// A headReader reads the lines of one head: a request line and header section, or only
// the section in which a CGI program or another server answers.
type headReader struct {
	r    *bufio.Reader
	end  string // the line end of this head, "\r\n" or "\n", once a line has shown it
	size int    // bytes read, line ends included
}

// begin waits for the first byte of a request and passes over one empty line before it,
// which old clients sent after a body. (RFC 9112 §2.2)
func (h *headReader) begin() error {
	first, err := h.r.Peek(1)
	if err == nil && (first[0] == '\r' || first[0] == '\n') {
		if _, err := h.line(targetTooLong); err != nil {
			return err
		}
		h.end = "" // the empty line does not decide how the head ends its lines
		first, err = h.r.Peek(1)
	}
	if err != nil {
		return errSilent // e.g. the client connected and left, or said nothing in time
	}
	if first[0] == 0x16 { // a TLS record of type "handshake" (RFC 8446 §5.1)
		return refuse(badRequest, "RFC 9112 §3",
			"expected a request in plain text, got a TLS handshake: "+
				"use http:// instead of https://")
	}
	return nil
}

// line reads one line and returns it without its line end. CRLF is the rule and a bare
// LF is accepted, so that printf 'GET / HTTP/1.0\n\n' works, but a head must not mix
// the two: what one reader takes for a line end, another may take for text.
//
//	"Host: h\r\n" → "Host: h"
//
// A line over maxLine bytes is refused with the status tooLong. (RFC 9112 §2.2)
func (h *headReader) line(tooLong string) (string, error) {
	raw, err := h.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		raw, err = h.longLine(raw)
	}
	h.size += len(raw)
	if len(raw) > maxLine {
		return "", refuse(tooLong, "RFC 9110 §15.5.15",
			"a line of the head may have %d bytes, this one is longer", maxLine).
			at(string(raw[maxLine:]))
	}
	if err != nil {
		return "", h.cut(raw, err)
	}
	line, end := string(raw[:len(raw)-1]), "\n"
	if strings.HasSuffix(line, "\r") {
		line, end = line[:len(line)-1], "\r\n"
	}
	if i := strings.IndexByte(line, '\r'); i >= 0 {
		return "", refuse(badRequest, "RFC 9112 §2.2",
			`CR must be followed by LF, here it stands alone: %s`, quote(line)).at(line[i:])
	}
	if h.end != "" && h.end != end {
		return "", refuse(badRequest, "RFC 9112 §2.2",
			`lines end in \r\n or all in \n, this head mixes both: %s`, quote(line)).at(end)
	}
	h.end = end
	return line, nil
}

// longLine goes on with a line that did not fit into the reader's buffer, in pieces,
// until it ends or is longer than maxLine.
func (h *headReader) longLine(piece []byte) ([]byte, error) {
	long := append([]byte(nil), piece...) // the next read overwrites piece
	err := bufio.ErrBufferFull
	for err == bufio.ErrBufferFull && len(long) <= maxLine {
		piece, err = h.r.ReadSlice('\n')
		long = append(long, piece...)
	}
	return long, err
}

// cut explains why a head stopped in the middle, after the bytes of rest.
func (h *headReader) cut(rest []byte, err error) error {
	came := "what came ends with " + quote(string(rest))
	switch {
	case len(rest) == 0 && h.end == "":
		came = "nothing came"
	case len(rest) == 0:
		came = "what came ends with a whole line"
	}
	switch {
	case err == io.EOF:
		return &Refusal{Status: badRequest, Reason: "expected an empty line to end the head, " +
			came, Source: "RFC 1945 §5", Err: err}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Refusal{Status: requestTimeout, Reason: fmt.Sprintf("expected an empty line to "+
			"end the head in time, %s: %v", came, err),
			Source: "RFC 9110 §15.5.9", Err: err}
	}
	return err // e.g. connection reset by peer: nobody is left to answer
}

// parseLine takes the request line apart: method SP target SP version, with one space
// each. Only GET and a path is HTTP/0.9, which has no version.
//
//	"GET /a?b HTTP/1.0" → Method "GET", Path "/a", Query "b", Version "HTTP/1.0"
//	"GET /a"            → Method "GET", Path "/a", Version "HTTP/0.9"
//
// The version is judged before the target: what a target may be is for its version to
// say. (RFC 1945 §5.1, §4.1; RFC 9112 §3)
func (q *Request) parseLine(line string) error {
	q.Line = line
	method, rest, _ := strings.Cut(line, " ")
	target, version, full := strings.Cut(rest, " ")
	q.Method, q.Target = method, target
	if !full && method == "GET" && strings.HasPrefix(target, "/") {
		q.Version = "HTTP/0.9"
		return q.parseTarget()
	}
	if method == "" || target == "" || version == "" {
		bad := rest[len(target):]
		if method == "" {
			bad = line
		} else if target == "" {
			bad = rest
		}
		return refuse(badRequest, "RFC 1945 §5.1", "expected a request line like "+
			"GET /path HTTP/1.0 with single spaces, got %s", quote(line)).at(bad)
	}
	if i := nonToken(method); i >= 0 {
		return refuse(badRequest, "RFC 9110 §5.6.2", "expected a method made of letters, "+
			"digits and !#$%%&'*+-.^_`|~, got %s", quote(method)).at(line[i:])
	}
	if err := checkVersion(version); err != nil {
		return err
	}
	q.Version = version
	return q.parseTarget()
}

// checkVersion accepts "HTTP/1.0" to "HTTP/1.9". HTTP is upper case, with one digit on
// each side of the point; another major version is another protocol. (RFC 9112 §2.3)
func checkVersion(version string) error {
	digits, ok := strings.CutPrefix(version, "HTTP/")
	if !ok || len(digits) != 3 || digits[1] != '.' || !isDigit(digits[0]) ||
		!isDigit(digits[2]) {
		return refuse(badRequest, "RFC 9112 §2.3",
			"expected a version like HTTP/1.0, got %s", quote(version)).at(version)
	}
	if digits[0] != '1' {
		return refuse(badVersion, "RFC 9110 §15.6.6",
			"this server speaks HTTP/1.0, the request is %s", version).at(version)
	}
	return nil
}

// parseTarget splits the target into Path and Query, and Authority if it has one. The
// path is decoded exactly once: %2541 is %41. Dots and double slashes stay, for they mean
// what the application says they mean. A fragment should not have been sent: it is cut.
//
//	/a%20b?x=%201#f     → Path "/a b", Query "x=%201"
//	http://u@h:81?x=1   → Path "/", Query "x=1", Authority "h:81"
//
// (RFC 1945 §5.1.2, RFC 9112 §3.2, RFC 3875 §4.1.5)
func (q *Request) parseTarget() error {
	target, _, _ := strings.Cut(q.Target, "#")
	if q.Method == "CONNECT" || q.Method == "OPTIONS" && target == "*" {
		return refuse(notImplemented, "RFC 9112 §3.2",
			"%s %s is not for an application, and this server has no answer of its own",
			q.Method, quote(q.Target)).at(q.rest(0))
	}
	if i := control(q.Target); i >= 0 {
		return refuse(badRequest, "RFC 9112 §3.2",
			"a target has no control characters, this one has: %s", quote(q.Target)).at(q.rest(i))
	}
	if !strings.HasPrefix(target, "/") {
		var ok bool
		if q.Authority, target, ok = cutAuthority(target); !ok {
			return refuse(badRequest, "RFC 9112 §3.2", "expected a target that starts "+
				"with / or http://host, got %s", quote(q.Target)).at(q.rest(0))
		}
	}
	path, query, _ := strings.Cut(target, "?")
	if path == "" {
		path = "/"
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return refuse(badRequest, "RFC 3986 §2.1", "expected two hex digits after each %% "+
			"(a %% itself is %%25), got %s", quote(path)).at(q.rest(badEscape(q.Target)))
	}
	if control(decoded) >= 0 {
		return refuse(badRequest, "RFC 3875 §4.1.5",
			"a path has no control characters, not escaped either: %s", quote(path)).at(q.rest(0))
	}
	q.Path, q.Query = decoded, query
	return nil
}

// rest is the request line from byte i of the target on.
func (q *Request) rest(i int) string {
	return q.Target[i:] + strings.TrimPrefix(q.Line, q.Method+" "+q.Target)
}

// badEscape returns where the first % stands that no two hex digits follow.
func badEscape(target string) int {
	for i := range len(target) {
		if target[i] == '%' {
			if _, err := url.PathUnescape(target[i:min(i+3, len(target))]); err != nil {
				return i
			}
		}
	}
	return 0
}

// cutAuthority splits an absolute target: "http://u:p@h:81/p" → "h:81", "/p", true. A
// name and password in it are dropped. (RFC 9112 §3.2.2)
func cutAuthority(target string) (authority, rest string, ok bool) {
	const scheme = "http://"
	if len(target) < len(scheme) || !strings.EqualFold(target[:len(scheme)], scheme) {
		return "", "", false
	}
	authority = target[len(scheme):]
	if i := strings.IndexAny(authority, "/?"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	return authority, rest, authority != "" && authority[0] != ':' && isHost(authority)
}

// readHeader reads a header section up to and with the empty line that ends it.
//
//	"Host: h\r\nX-A:\t1 \r\n\r\n" → [{"Host", "h"}, {"X-A", "1"}]
//
// More than maxFields fields or maxSection bytes are refused with 431. It serves for every
// head of this form, whoever sent it. (RFC 1945 §4.2)
func readHeader(h *headReader) ([]Header, error) {
	fields := make([]Header, 0, 8)
	for start := h.size; ; {
		line, err := h.line(headTooLarge)
		if err != nil || line == "" {
			return fields, err
		}
		if len(fields) == maxFields || h.size-start > maxSection {
			return fields, refuse(headTooLarge, "RFC 6585 §5",
				"at most %d header fields of %d bytes together are read, here come more",
				maxFields, maxSection).at(line)
		}
		field, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields = append(fields, field)
	}
}

// parseField takes one header line apart.
//
//	"Name: \t value \t " → {"Name", "value"}
//
// Nothing may stand between the name and its colon, spaces and tabs around the value
// are no part of it, and a line that continues the one before is refused: proxies have
// read both kinds in different ways, which is how requests are smuggled past them.
// (RFC 9112 §5.1, §5.2; RFC 9110 §5.5)
func parseField(line string) (Header, error) {
	if line[0] == ' ' || line[0] == '\t' {
		return Header{}, refuse(badRequest, "RFC 9112 §5.2",
			"a header line must not start with a space or tab: %s", quote(line)).at(line)
	}
	name, value, found := strings.Cut(line, ":")
	if bad := nonToken(name); !found || bad >= 0 {
		if bad < 0 {
			bad = len(line) // where the colon should be
		}
		return Header{}, refuse(badRequest, "RFC 9112 §5.1",
			"expected a header line like Name: value, without a space before "+
				"the colon, got %s", quote(line)).at(line[bad:])
	}
	value = strings.Trim(value, " \t") // TrimSpace would cut U+0085 and U+00A0 too
	if i := control(strings.ReplaceAll(line, "\t", " ")); i >= 0 {
		return Header{}, refuse(badRequest, "RFC 9110 §5.5",
			"a header value has no control characters, this one has: %s", quote(line)).at(line[i:])
	}
	return Header{name, value}, nil
}

// checkHeader holds the header fields on which the reading of the request depends to
// their rules, and sets Length.
func (q *Request) checkHeader(maxBody int64) error {
	for _, name := range [...]string{"Host", "Content-Length", "Content-Type"} {
		if _, n := lookup(q.Header, name); n > 1 {
			return refuse(badRequest, "RFC 9110 §5.3",
				"%s may be sent once, it came %d times", name, n).about(name)
		}
	}
	if value, n := lookup(q.Header, "Transfer-Encoding"); n > 0 {
		return refuse(notImplemented, "RFC 9112 §6.1", "this server speaks HTTP/1.0: send a "+
			"Content-Length instead of Transfer-Encoding: %s", quote(value)).
			about("Transfer-Encoding")
	}
	if host, _ := lookup(q.Header, "Host"); host != "" && !isHost(host) {
		return refuse(badRequest, "RFC 9112 §3.2",
			"expected Host: name or Host: name:port, got %s", quote(host)).about("Host")
	}
	if value, n := lookup(q.Header, "Content-Length"); n > 0 {
		return q.setLength(value, maxBody)
	}
	return nil
}

// setLength reads a Content-Length: digits and nothing else, so "+5", "0x5" and "5, 5"
// get 400; more than maxBody gets 413. (RFC 9110 §8.6)
func (q *Request) setLength(value string, maxBody int64) error {
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return refuse(badRequest, "RFC 9110 §8.6",
			"expected digits for Content-Length, got %s", quote(value)).about("Content-Length")
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n > maxBody { // the one error that is left: beyond 64 bits
		return refuse(tooLarge, "RFC 9110 §15.5.14",
			"at most %d body bytes are accepted, Content-Length is %s", maxBody, quote(value)).
			about("Content-Length")
	}
	q.Length = n
	return nil
}

// lookup returns the value of the first field of that name, in any case, and how many
// there are. Names are ASCII by now, so EqualFold cannot fold anything else into them.
func lookup(fields []Header, name string) (value string, count int) {
	for _, field := range fields {
		if len(field.Name) == len(name) && strings.EqualFold(field.Name, name) {
			if count++; count == 1 {
				value = field.Value
			}
		}
	}
	return value, count
}

// isToken reports whether s can be a method or a header name: one or more letters,
// digits and fifteen other characters, all ASCII. (RFC 9110 §5.6.2)
func isToken(s string) bool { return nonToken(s) < 0 }

// nonToken returns where the first byte stands that keeps s from being a token: 0 if s is
// empty, -1 if it is one.
func nonToken(s string) int {
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

// hasControl reports whether s has an ASCII control character: 0 to 31, or 127.
func hasControl(s string) bool { return control(s) >= 0 }

// control returns where the first of them stands, -1 if there is none.
func control(s string) int {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return i
		}
	}
	return -1
}

// isHost reports whether s is name, name:port, [IPv6] or [IPv6]:port. The name is not
// resolved and need not exist. (RFC 9110 §7.2, RFC 3986 §3.2.2)
func isHost(s string) bool {
	name, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		name, port = s[:i], s[i+1:]
	}
	if strings.Trim(port, "0123456789") != "" {
		return false
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && addr.Is6() && addr.Zone() == "" && strings.HasSuffix(inner, "]")
	}
	_, err := url.PathUnescape(name) // a name may have escapes, whole ones
	ascii := !strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 })
	return err == nil && ascii && !hasControl(name) &&
		!strings.ContainsAny(name, " \t\"<>\\^`{|}/?#@[]:,")
}

// Environ is what an application knows of its request. Keys in capitals are CGI's and
// hold strings; keys with a dot are the gateway's and hold what their comment below says.
// (PEP 3333, "environ Variables")
type Environ map[string]any

// Get returns the string under key, or "" when there is none.
func (e Environ) Get(key string) string {
	value, _ := e[key].(string)
	return value
}

// A Gateway is the part of environ that a request does not bring along. The fields of
// type any hold strings: a string that is put into a map of any is copied to the heap
// each time, and these are the same for many requests.
type Gateway struct {
	ServerName   any // never empty: the address if there is no better name
	ServerPort   any // "8000"
	RemoteAddr   any // "127.0.0.1", no port, brackets or zone; "" on a Unix socket
	RemotePort   any // "49152"; "" on a Unix socket
	URLScheme    any // "http" or "https"
	MultiThread  bool
	MultiProcess bool
	RunOnce      bool
	Errors       io.Writer
	Application  Application // the outermost one, for who must ask it something else
}

// Values that are the same in each environ, made once.
var (
	serverSoftware any = software
	wsgiVersion    any = [2]int{1, 0} // Python's tuple (1, 0)
	fileWrapper    any = newFileWrapper
	noScriptName   any = ""
)

// newEnviron makes the environ of one request: a map of its own for each, which the
// application may change at will. (PEP 3333, "environ Variables"; RFC 3875 §4.1)
func newEnviron(q *Request, input *Input, g *Gateway) Environ {
	// The exact size is known: growing the map later would cost more.
	e := make(Environ, 21+len(q.Header))

	e["REQUEST_METHOD"] = boxed(q.Method)   // "GET"
	e["SCRIPT_NAME"] = noScriptName         // where the application is mounted: at the root
	e["PATH_INFO"] = q.Path                 // "/environ"
	e["QUERY_STRING"] = q.Query             // "a=4"
	e["SERVER_NAME"] = g.ServerName         // "127.0.0.1"
	e["SERVER_PORT"] = g.ServerPort         // "8000"
	e["SERVER_PROTOCOL"] = boxed(q.Version) // "HTTP/1.1": the client's version, not ours
	e["SERVER_SOFTWARE"] = serverSoftware
	e["GATEWAY_INTERFACE"] = "CGI/1.1"
	e["REMOTE_ADDR"] = g.RemoteAddr // "127.0.0.1"
	e["REMOTE_PORT"] = g.RemotePort // "49152": usual, though not in the RFC

	e["rawsgi.request_uri"] = q.Target // "/environ?a=4": nothing decoded
	e.addGateway(input, g)
	for _, field := range q.Header {
		e.addHeader(field)
	}
	if q.Authority != "" {
		e["HTTP_HOST"] = q.Authority // an absolute target overrides Host (RFC 9112 §3.2.2)
	}
	return e
}

// addGateway sets the keys that every gateway sets, wherever the others come from.
func (e Environ) addGateway(input *Input, g *Gateway) {
	e["wsgi.version"] = wsgiVersion
	e["wsgi.url_scheme"] = g.URLScheme      // "http"
	e["wsgi.input"] = input                 // *Input
	e["wsgi.errors"] = g.Errors             // io.Writer
	e["wsgi.multithread"] = g.MultiThread   // may run twice at once in this process
	e["wsgi.multiprocess"] = g.MultiProcess // may run in another process too
	e["wsgi.run_once"] = g.RunOnce          // this process answers nothing else
	e["wsgi.file_wrapper"] = fileWrapper    // func(io.Reader, ...int) Body
	e["rawsgi.application"] = g.Application // Application
}

// boxed returns s for the map, the common ones without a copy.
func boxed(s string) any {
	switch s {
	case "GET":
		return "GET"
	case "HTTP/1.0":
		return "HTTP/1.0"
	case "HTTP/1.1":
		return "HTTP/1.1"
	}
	return s
}

// addHeader puts a header field under its key and joins it to an earlier one of the same
// name: with a comma, and cookies with a semicolon, in which a comma would be part of the
// value. (RFC 9110 §5.3, RFC 6265 §5.4)
func (e Environ) addHeader(field Header) {
	key, ok := environKey(field.Name)
	if !ok {
		return
	}
	value := field.Value
	if earlier, again := e[key].(string); again {
		separator := ","
		if key == "HTTP_COOKIE" {
			separator = "; "
		}
		value = earlier + separator + value
	}
	e[key] = value
}

// environKey returns the key in environ for a header name, false if there is none:
//
//	"X-Forwarded-For" → "HTTP_X_FORWARDED_FOR"    "Content-Type" → "CONTENT_TYPE"
//	"X_A" → none: "X-A" would have the same key, and a proxy in front that
//	        sets X-A may have let X_A through
//	"Proxy" → none: many programs take HTTP_PROXY for their own setting
//
// (RFC 3875 §4.1.18; CVE-2016-5385 for Proxy)
func environKey(name string) (key string, ok bool) {
	if key, ok := knownKeys[name]; ok {
		return key, true
	}
	if strings.Contains(name, "_") || strings.EqualFold(name, "Proxy") {
		return "", false
	}
	upper := []byte("HTTP_" + name)
	for i, c := range upper {
		switch {
		case 'a' <= c && c <= 'z': // strings.ToUpper would look at runes
			upper[i] = c - 'a' + 'A'
		case c == '-':
			upper[i] = '_'
		}
	}
	key = string(upper)
	if key == "HTTP_CONTENT_TYPE" || key == "HTTP_CONTENT_LENGTH" {
		key = key[len("HTTP_"):] // these two describe the body and are CGI's own
	}
	return key, true
}

// knownKeys holds the keys of common names, spelled as clients spell them, so that most
// keys need not be built. Filled below by environKey itself.
var knownKeys = map[string]string{}

func init() {
	for _, name := range [...]string{"Accept", "Accept-Encoding", "Accept-Language",
		"Cache-Control", "Connection", "Content-Length", "Content-Type", "Cookie", "Host",
		"If-Modified-Since", "Referer", "Upgrade-Insecure-Requests", "User-Agent"} {
		knownKeys[name], _ = environKey(name)
		knownKeys[strings.ToLower(name)] = knownKeys[name]
	}
}

// Input is wsgi.input: the body of the request. It ends after Content-Length bytes, so
// that nobody waits for more than there is, and never gives what comes after them. A
// body that is cut short ends in a *Refusal around io.ErrUnexpectedEOF instead of io.EOF.
// (PEP 3333, "Input and Error Streams")
type Input struct {
	r      *bufio.Reader
	length int64  // bytes in the whole body
	left   int64  // bytes not read yet
	before func() // runs ahead of the first read; nil if there is nothing to do
	err    error  // how the body ended; it stays that way
}

// Read reads at most len(p) bytes of the body.
func (in *Input) Read(p []byte) (int, error) {
	if in.err != nil || in.left == 0 {
		return 0, in.end()
	}
	if in.before != nil {
		in.before()
		in.before = nil
	}
	n, err := in.r.Read(p[:min(int64(len(p)), in.left)])
	in.left -= int64(n)
	if err != nil {
		in.err = in.broken(err)
	}
	return n, in.err
}

func (in *Input) end() error {
	if in.err == nil {
		in.err = io.EOF
	}
	return in.err
}

// broken explains a body that ended before its time. If the client has left, nobody
// will read the answer; the log will.
func (in *Input) broken(err error) error {
	status := badRequest
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		status = requestTimeout
	}
	return &Refusal{Status: status, Reason: fmt.Sprintf("expected %d body bytes, got %d: %v",
		in.length, in.length-in.left, err), Source: "RFC 9112 §8", Err: err}
}

// ReadLine is Python's readline(limit): it returns the next line with its "\n", at most
// limit bytes of it, or without a limit if that is 0 or less. Only LF ends a line. At the
// end of the body it returns what is left, then io.EOF.
//
//	"a\nbc\r\nd" → "a\n", "bc\r\n", "d", io.EOF
func (in *Input) ReadLine(limit int) ([]byte, error) {
	var line []byte
	var one [1]byte // byte by byte: in.r buffers what the connection gives
	for limit <= 0 || len(line) < limit {
		n, err := in.Read(one[:])
		line = append(line, one[:n]...)
		if n == 1 && one[0] == '\n' {
			break
		}
		if err == io.EOF && len(line) > 0 {
			break
		}
		if err != nil {
			return line, err
		}
	}
	return line, nil
}

// Lines gives the lines of the body, as iterating over Python's wsgi.input does. Where
// Python raises because the body is cut short, it panics.
func (in *Input) Lines() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			line, err := in.ReadLine(0)
			if err == io.EOF {
				return
			}
			if err != nil {
				panic(err)
			}
			if !yield(line) {
				return
			}
		}
	}
}

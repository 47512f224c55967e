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
// PEP 3333's "native string" is a string here, whose bytes are never decoded into runes; a
// "bytestring", like a block of a body, is a []byte.
//
// Sources: RFC 1945 (HTTP/1.0), RFC 9112 and 9110 where they say the same more precisely,
// RFC 3875 (CGI) for the names in environ, PEP 3333 for the rest of it.

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Limits of a head. No buffer of these sizes is allocated in advance.
const (
	maxLine    = 65536      // bytes in a request line or header line, with its line end
	maxFields  = 100        // header fields in one section
	maxSection = 256 * 1024 // bytes in one header section
)

// The statuses of refusals.
const (
	badRequest     = "400 Bad Request"
	requestTimeout = "408 Request Timeout"
	tooLarge       = "413 Content Too Large"
	targetTooLong  = "414 URI Too Long"
	headTooLarge   = "431 Request Header Fields Too Large"
	notImplemented = "501 Not Implemented"
	unavailable    = "503 Service Unavailable"
	badVersion     = "505 HTTP Version Not Supported"
)

// A Refusal is an error that is sent to the client: it says what is wrong with the
// request, and points at the byte.
type Refusal struct {
	Status string // "400 Bad Request"
	Source string // the rule: "RFC 9112 §5.1"
	Line   string // the line of the head with the bad byte; "" if no line has one
	Offset int    // of the first bad byte in Line; len(Line) if bytes are missing
	Reason string // what was expected, what came, what to do
	Err    error  // the cause: io.ErrUnexpectedEOF, a timeout, or nil
	Place  string // the function that refuses: "request.go#parseTarget"
}

// refuse returns a Refusal that points at byte offset of line, with a formatted Reason.
func refuse(status, source, line string, offset int, format string, a ...any) *Refusal {
	reason := fmt.Sprintf(format, a...)
	return &Refusal{status, source, line, offset, reason, nil, caller()}
}

// caller returns a Refusal's Place: the function that has called refuse or incomplete.
func caller() string {
	pc, file, _, _ := runtime.Caller(2)
	function := runtime.FuncForPC(pc).Name()         // "main.(*Request).parseTarget"
	function, _, _ = strings.Cut(function, "-range") // of a loop over a function
	return path.Base(file) + "#" + strings.TrimPrefix(path.Ext(function), ".")
}

// Unwrap makes errors.Is(err, io.ErrUnexpectedEOF) work for a body that is cut short.
func (r *Refusal) Unwrap() error { return r.Err }

// Error returns the refusal on one line, for a log. Bytes are counted from 0:
//
//	expected a name, a colon and a value: byte 4 of "Host : x" (RFC 9112 §5.1)
func (r *Refusal) Error() string {
	if r.Line == "" {
		return fmt.Sprintf("%s (%s)", r.Reason, r.Source)
	}
	before, after := r.excerpt()
	return fmt.Sprintf(`%s: byte %d of "%s%s" (%s)`, r.Reason, r.Offset, before, after,
		r.Source)
}

// page returns the refusal for the client, with a caret under the first bad byte:
//
//	400 Bad Request
//
//	Host : x
//	    ^ expected a name, a colon and a value
//	RFC 9112 §5.1
//
// Some clients take any answer for HTML, so the page never has a "<". What stands before
// the caret is escaped before its length is taken.
func (r *Refusal) page() []byte {
	mark := ""
	if r.Line != "" {
		before, after := r.excerpt()
		before = escapeTags(before)
		mark = before + after + "\n" + strings.Repeat(" ", len(before)) + "^ "
	}
	return []byte(escapeTags(r.Status + "\n\n" + mark + r.Reason + "\n" + r.Source + "\n"))
}

func escapeTags(s string) string { return strings.ReplaceAll(s, "<", `\x3c`) }

// excerpt returns Line before the bad byte, and from it on: at most 40 bytes of each, in
// ASCII, because a foreign letter may look like the one that was expected.
func (r *Refusal) excerpt() (before, after string) {
	const most = 40
	offset := max(0, min(r.Offset, len(r.Line))) // an application may have made r
	before, after = r.Line[:offset], r.Line[offset:]
	if len(before) > most {
		before = "..." + before[len(before)-most:]
	}
	if len(after) > most {
		after = after[:most] + "..."
	}
	return bare(strconv.QuoteToASCII(before)), bare(strconv.QuoteToASCII(after))
}

// quote returns the first 80 characters of s, printable and in quotes, for a message.
// visible shows all of a text; printable, in server.go, is for lines of a log.
func quote(s string) string { return fmt.Sprintf("%.80q", s) }

// visible shows bytes on one line, with the escapes of a Go string: CR LF as \r\n, a byte
// that is not UTF-8 as \xff, a backslash as \\. Quotes and other text stay as they are.
func visible(s string) string { return bare(strconv.Quote(s)) }

// bare undoes what strconv.Quote does for quotes: `"say \"hi\""` → `say "hi"`.
func bare(s string) string { return strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`) }

// errSilent reports a client that has sent nothing, or only an empty line, before it left
// or its time was over: browsers open connections in advance. Nothing is answered or
// logged.
var errSilent = errors.New("nothing was asked")

// A Request is the head of a request, taken apart.
type Request struct {
	Line      string   // the whole request line without its line end, for the log
	Method    string   // "GET", as it came: methods are case-sensitive
	Target    string   // "/a%20b?x=1", as it came
	Path      string   // "/a b": decoded once and otherwise untouched
	Query     string   // "x=1": never decoded, and without its "?"
	Scheme    string   // "http" from http://host:81/path, otherwise ""
	Authority string   // "host:81" from http://host:81/path, otherwise ""
	Version   string   // "HTTP/1.0", "HTTP/1.1", "HTTP/0.9"; "" before it is read
	Header    []Header // in the order of arrival, nothing joined
	Length    int64    // Content-Length in bytes; 0 without one
	lines     []string // of the head, as they came, each with its line end
}

// readRequest reads the head of one request, up to the first byte of the body. maxBody is
// the largest Content-Length to accept, in bytes.
//
//	GET /a%20b?x=1 HTTP/1.0\r\nHost: h\r\n\r\n
//	→ Request{Method: "GET", Path: "/a b", Query: "x=1", Version: "HTTP/1.0", …}
//
// With an error the request holds what was read so far, for the log. The error is
// errSilent or a *Refusal. (RFC 1945 §5)
func readRequest(r *bufio.Reader, maxBody int64) (*Request, error) {
	q := &Request{}
	if err := refuseTLS(r); err != nil {
		return q, err
	}
	h := &headReader{r: r}
	defer func() { q.lines = h.lines }()
	line, err := h.line(targetTooLong)
	if err == nil && line == "" { // as old clients send after a body (RFC 9112 §2.2)
		h = &headReader{r: r} // an empty line does not decide how the head ends its lines
		line, err = h.line(targetTooLong)
	}
	if err != nil && h.size == 0 {
		return q, errSilent
	} else if err != nil {
		return q, err
	}
	if err := q.parseLine(line); err != nil || q.Version == "HTTP/0.9" {
		return q, err // a 0.9 request is one line: nothing else will come
	}
	if q.Header, err = readHeader(h); err != nil {
		return q, err
	}
	return q, q.checkHeader(h.lines[1:], maxBody)
}

// refuseTLS refuses a client that uses https://. A TLS connection begins with a record of
// type 22, a handshake. (RFC 8446 §5.1)
func refuseTLS(r *bufio.Reader) error {
	first, err := r.Peek(1)
	if err != nil || first[0] != 22 {
		return nil // reading the line will return the error again
	}
	return refuse(badRequest, "RFC 9112 §3", string(first), 0, "expected a request in "+
		"plain text, got a TLS handshake: use http:// instead of https://")
}

// A headReader reads the head of a request, a CGI program or another server.
type headReader struct {
	r     *bufio.Reader
	end   string   // "\r\n" or "\n", once a line has shown it
	size  int      // bytes read, line ends included
	lines []string // read, with their line ends
	mixed bool     // line ends may be mixed: a CGI program's
}

// line reads one line and returns it without its line end: "Host: h\r\n" → "Host: h". A
// bare LF is accepted, so that printf 'GET / HTTP/1.0\n\n' works, but one head must not
// mix the two: what one reader takes for a line end, another may take for text. A line
// over maxLine bytes is refused with the status tooLong. (RFC 9112 §2.2)
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
		return "", refuse(badRequest, "RFC 9112 §2.2", raw, i, `expected \n after each \r`)
	}
	if h.end != "" && h.end != end && !h.mixed {
		return "", refuse(badRequest, "RFC 9112 §2.2", raw, len(line), "expected %s, with "+
			"which this head began: one head does not mix line ends", visible(h.end))
	}
	h.end = end
	return line, nil
}

// rawLine reads one line, with its line end, in pieces of the reader's buffer.
func (h *headReader) rawLine(tooLong string) (line string, err error) {
	err = bufio.ErrBufferFull // as if a piece had been read that did not end the line
	for err == bufio.ErrBufferFull && len(line) <= maxLine {
		var piece []byte
		piece, err = h.r.ReadSlice('\n')
		line += string(piece)
	}
	h.size, h.lines = h.size+len(line), append(h.lines, line)
	switch {
	case len(line) > maxLine:
		if tooLong == targetTooLong && !strings.Contains(line[:maxLine], " ") {
			tooLong = badRequest // the method is too long, not the target
		}
		source := map[string]string{targetTooLong: "RFC 9110 §15.5.15",
			badRequest: "RFC 9112 §3", headTooLarge: "RFC 6585 §5"}[tooLong]
		err = refuse(tooLong, source, line, maxLine,
			"expected at most %d bytes in a line, with its line end", maxLine)
	case err != nil && h.size == 0: // a client gets no answer; badGateway logs it
		err = incomplete(err, "", "expected a head, got nothing")
	case err != nil:
		err = incomplete(err, line, "expected an empty line to end the head")
	}
	return line, err
}

// incomplete refuses a request that stops before its end: with 400 if the connection
// ends, with 408 if no byte comes in time. (RFC 9112 §8, RFC 9110 §15.5.9)
func incomplete(err error, line, expected string) *Refusal {
	r := &Refusal{badRequest, "RFC 9112 §8", line, len(line), "", err, caller()}
	if err == io.EOF {
		r.Err = io.ErrUnexpectedEOF
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		r.Status, r.Source = requestTimeout, "RFC 9110 §15.5.9"
	}
	r.Reason = expected + ": " + r.Err.Error()
	return r
}

// parseLine takes the request line apart, at its two spaces. A line with only GET and a
// path is HTTP/0.9.
//
//	"GET /a?b HTTP/1.0" → Method "GET", Path "/a", Query "b", Version "HTTP/1.0"
//	"GET /a"            → Method "GET", Path "/a", Version "HTTP/0.9"
//
// The version is checked before the target, which may have another form in another
// version. (RFC 1945 §5.1, §4.1; RFC 9112 §3)
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
		missing := len(line) // where a version should begin
		if target == "" {
			missing -= len(rest)
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

// versionForm matches a version, or as much of it as begins one.
var versionForm = regexp.MustCompile(`^(?:HTTP/[0-9]\.[0-9]|HTTP/[0-9]\.?|HTTP/?|HTT?|H?)`)

// checkVersion accepts "HTTP/1.0" to "HTTP/1.9". Another major version is another
// protocol. (RFC 9112 §2.3)
func (q *Request) checkVersion(version string) error {
	start, good := len(q.Line)-len(version), len(versionForm.FindString(version))
	if good < len("HTTP/1.0") || good < len(version) { // too short, or too long
		return refuse(badRequest, "RFC 9112 §2.3", q.Line, start+good,
			"expected a version like HTTP/1.0 at the end of the line")
	}
	if major := len("HTTP/"); version[major] != '1' {
		return refuse(badVersion, "RFC 9110 §15.6.6", q.Line, start+major,
			"expected HTTP/1.0 or HTTP/1.1: this server speaks HTTP/1.0")
	}
	return nil
}

// parseTarget splits the target. The path is decoded exactly once: %2541 is %41. Dots and
// double slashes stay: the application decides what they mean. A fragment is cut.
//
//	/a%20b?x=%201#f     → Path "/a b", Query "x=%201"
//	http://u@h:81?x=1   → Path "/", Query "x=1", Authority "h:81"
//
// (RFC 1945 §5.1.2, RFC 9112 §3.2, RFC 3875 §4.1.5)
func (q *Request) parseTarget() error {
	target, _, _ := strings.Cut(q.Target, "#")
	start := len(q.Method) + 1 // the offset of target in the line
	end := start + len(target)
	if q.Method == "CONNECT" || q.Method == "OPTIONS" && target == "*" {
		return refuse(notImplemented, "RFC 9112 §3.2", q.Line, start, "expected a path: "+
			"this request is not for an application, and this server has no answer of its own")
	}
	if i := indexControl(q.Target); i >= 0 {
		return refuse(badRequest, "RFC 9112 §3.2", q.Line, start+i,
			"expected a target without control characters")
	}
	if !strings.HasPrefix(target, "/") {
		var err error
		if target, err = q.cutAuthority(target); err != nil {
			return err
		}
		start = end - len(target)
	}
	target, q.Query, _ = strings.Cut(target, "?")
	if good := len(pathForm.FindString(target)); good < len(target) {
		return refuse(badRequest, "RFC 3986 §2.1, RFC 3875 §4.1.5", q.Line, start+good,
			"expected two hex digits after %%, not those of a control character; %%25 is %% itself")
	}
	q.Path, _ = url.PathUnescape(cmp.Or(target, "/")) // never fails: pathForm has matched
	return nil
}

// pathForm matches a path up to a % without two hex digits or with a control character's.
var pathForm = regexp.MustCompile(`^(?:[^%]|%[2-689A-Fa-f][0-9A-Fa-f]|%7[0-9A-Ea-e])*`)

// absoluteForm matches http:// or https://, or as much of it as begins the target.
var absoluteForm = regexp.MustCompile(`^(?i:https?(?::/{0,2})?)?`)

// cutAuthority splits an absolute target: "http://u:p@h:81/p" → Scheme "http", Authority
// "h:81", rest "/p". A name and password are dropped. (RFC 9112 §3.2.2)
func (q *Request) cutAuthority(target string) (rest string, err error) {
	scheme := absoluteForm.FindString(target)
	start := len(q.Method) + 1 + len(scheme)
	if !strings.HasSuffix(scheme, "://") {
		return "", refuse(badRequest, "RFC 9112 §3.2", q.Line, start,
			"expected a target that begins with / or http://host")
	}
	q.Scheme = strings.ToLower(strings.TrimSuffix(scheme, "://"))
	authority := target[len(scheme):]
	if i := strings.IndexAny(authority, "/?"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	user := strings.LastIndexByte(authority, '@') + 1
	q.Authority = authority[user:]
	bad := indexNonHost(q.Authority)
	if q.Authority == "" || q.Authority[0] == ':' {
		bad = 0
	}
	if bad >= 0 {
		return "", refuse(badRequest, "RFC 9112 §3.2", q.Line, start+user+bad,
			"expected a host after ://, like http://name:port/")
	}
	return rest, nil
}

// readHeader reads a header section and the empty line that ends it.
//
//	"Host: h\r\nX-A:\t1 \r\n\r\n" → [{"Host", "h"}, {"X-A", "1"}]
//
// More than maxFields fields or maxSection bytes are refused with 431. (RFC 1945 §4.2)
func readHeader(h *headReader) ([]Header, error) {
	fields := make([]Header, 0, 8)
	for start := h.size; ; {
		line, err := h.line(headTooLarge)
		if err != nil || line == "" {
			return fields, err
		}
		if len(fields) == maxFields || h.size-start > maxSection {
			return fields, refuse(headTooLarge, "RFC 6585 §5", line, 0,
				"expected at most %d header fields of %d bytes together", maxFields, maxSection)
		}
		field, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields = append(fields, field)
	}
}

// parseField takes one header line apart: "Name: \t value \t " → {"Name", "value"}. A
// space before the colon and a line that continues the one before are refused: proxies
// read them in different ways, which lets a client smuggle requests past them. (RFC 9112
// §5.1, §5.2; RFC 9110 §5.5)
func parseField(line string) (Header, error) {
	if line[0] == ' ' || line[0] == '\t' {
		return Header{}, refuse(badRequest, "RFC 9112 §5.2", line, 0,
			"expected a header line that does not begin with a space or tab")
	}
	name, value, found := strings.Cut(line, ":")
	bad := indexNonToken(name)
	if bad < 0 && !found {
		bad = len(line) // where the colon should be
	}
	if bad >= 0 {
		return Header{}, refuse(badRequest, "RFC 9112 §5.1", line, bad,
			`expected a header line like "Name: value", with no space before the colon`)
	}
	if i := indexControl(strings.ReplaceAll(line, "\t", " ")); i >= 0 {
		return Header{}, refuse(badRequest, "RFC 9110 §5.5", line, i,
			"expected a header value without control characters")
	}
	return Header{name, strings.Trim(value, " \t")}, nil // TrimSpace would cut U+0085 too
}

// checkHeader validates the fields that decide how to read the request, and sets Length.
// lines are the header lines, one for each field. After a refusal, q.Header ends before
// the field with the mistake. (RFC 9110 §5.3, RFC 9112 §3.2)
func (q *Request) checkHeader(lines []string, maxBody int64) error {
	fields := q.Header
	for i, field := range fields {
		line := strings.TrimRight(lines[i], "\r\n")
		start := strings.LastIndex(line, field.Value) // of the value in the line
		q.Header = fields[:i]
		_, before := lookup(q.Header, field.Name)
		switch {
		case field.is("Transfer-Encoding"):
			return refuse(notImplemented, "RFC 9112 §6.1", line, start, "expected a "+
				"Content-Length instead of Transfer-Encoding: this server speaks HTTP/1.0")
		case before > 0 && field.is("Host"):
			return refuse(badRequest, "RFC 9112 §3.2", line, 0, "expected one Host, not two")
		case before > 0 && (field.is("Content-Length") || field.is("Content-Type")):
			return refuse(badRequest, "RFC 9110 §5.3", line, 0,
				"expected one %s, not two", field.Name)
		case field.is("Host") && indexNonHost(field.Value) >= 0:
			return refuse(badRequest, "RFC 9112 §3.2", line, start+indexNonHost(field.Value),
				"expected Host: name or Host: name:port")
		case field.is("Content-Length"):
			if err := q.setLength(line, start, maxBody); err != nil {
				return err
			}
		}
	}
	q.Header = fields
	if _, n := lookup(q.Header, "Host"); n == 0 && q.Version != "HTTP/1.0" {
		return refuse(badRequest, "RFC 9112 §3.2", q.Line, len(q.Line), "expected a header "+
			"line like Host: name, which every request in %s has; HTTP/1.0 needs none", q.Version)
	}
	return nil
}

// setLength reads the Content-Length that begins at byte start of line: digits only, so
// "+5", "0x5" and "5, 5" get 400; more than maxBody gets 413. (RFC 9110 §8.6)
func (q *Request) setLength(line string, start int, maxBody int64) error {
	value := strings.TrimRight(line[start:], " \t")
	digits := len(value) - len(strings.TrimLeft(value, "0123456789"))
	if value == "" || digits < len(value) {
		return refuse(badRequest, "RFC 9110 §8.6", line, start+digits,
			"expected a Content-Length of digits only")
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n > maxBody { // the only error possible: more than 63 bits
		return refuse(tooLarge, "RFC 9110 §15.5.14", line, start,
			"expected at most %d bytes in a body", maxBody)
	}
	q.Length = n
	return nil
}

// is reports whether the field has this name, in upper or lower case.
func (h Header) is(name string) bool { return strings.EqualFold(h.Name, name) }

// lookup returns the value of the first field of that name, and how many there are.
func lookup(fields []Header, name string) (value string, count int) {
	for _, field := range slices.Backward(fields) { // the first comes last, and stays
		if field.is(name) {
			value, count = field.Value, count+1
		}
	}
	return value, count
}

// listed reports whether name is one of items, comma-separated, in upper or lower case.
// (RFC 9110 §5.6.1)
func listed(items, name string) bool {
	for item := range strings.SplitSeq(items, ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), name) {
			return true
		}
	}
	return false
}

// indexNonToken returns the offset of the first byte not allowed in a token, which is a
// method or a header name: letters, digits and fifteen other characters, all ASCII. It
// returns -1 if s is a token, and 0 if s is empty. (RFC 9110 §5.6.2)
func indexNonToken(s string) int {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	good := len(s) - len(strings.TrimLeft(s, letters+"0123456789-!#$%&'*+.^_`|~"))
	if good == len(s) && s != "" {
		return -1
	}
	return good
}

// indexControl returns the offset of the first ASCII control character in s, 0 to 31 or
// 127, or -1.
func indexControl(s string) int {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// hostForm matches a host, with a port or without. (RFC 9110 §7.2, RFC 3986 §3.2.2)
var hostForm = regexp.MustCompile(`^(?:\[[0-9A-Fa-f:.]+\]|(?:[0-9A-Za-z_.~!$&'()*+;=-]|` +
	`%[0-9A-Fa-f]{2})*)(?::[0-9]*)?`)

// indexNonHost returns the offset of the first byte not allowed in a host, or -1. It does
// not look the name up.
func indexNonHost(s string) int {
	if good := len(hostForm.FindString(s)); good < len(s) {
		return good
	}
	if inner, _, found := strings.Cut(strings.TrimPrefix(s, "["), "]"); found {
		if addr, err := netip.ParseAddr(inner); err != nil || !addr.Is6() {
			return 0
		}
	}
	return -1
}

// Environ is what an application knows about its request. Keys in capitals are CGI's and
// hold strings; keys with a dot are the gateway's. (PEP 3333, "environ Variables")
type Environ map[string]any

// Get returns the string under key, or "" when there is none.
func (e Environ) Get(key string) string {
	value, _ := e[key].(string)
	return value
}

const software = "rawsgi/1.0"

// newEnviron makes the environ of one request, which the application may change. server
// and client are the addresses of the connection. addInterface adds the keys that begin
// with wsgi. (RFC 3875 §4.1)
func newEnviron(q *Request, server, client net.Addr) Environ {
	name, port := serverName(server)
	address, clientPort := hostPort(client)
	e := make(Environ, 21+len(q.Header)) // with room for the gateway's keys
	e["REQUEST_METHOD"] = q.Method       // "GET"
	e["SCRIPT_NAME"] = ""                // where the application is mounted: at the root
	e["PATH_INFO"] = q.Path              // "/environ"
	e["QUERY_STRING"] = q.Query          // "a=4"
	e["SERVER_NAME"] = name              // "127.0.0.1"
	e["SERVER_PORT"] = port              // "8000"
	e["SERVER_PROTOCOL"] = q.Version     // "HTTP/1.1": the client's version, not ours
	e["SERVER_SOFTWARE"] = software      // "rawsgi/1.0"
	e["GATEWAY_INTERFACE"] = "CGI/1.1"   // also over a socket: the names are CGI's
	e["REMOTE_ADDR"] = address           // "127.0.0.1"; "" on a Unix socket
	e["REMOTE_PORT"] = clientPort        // "49152": usual, though not in the RFC
	e["rawsgi.request_uri"] = q.Target   // "/environ?a=4": nothing decoded
	for _, field := range q.Header {
		e.addHeader(field)
	}
	if q.Authority != "" {
		e["HTTP_HOST"] = q.Authority // an absolute target overrides Host (RFC 9112 §3.2.2)
	}
	return e
}

// serverName returns SERVER_NAME, which is the address as in a URL, and SERVER_PORT. (RFC
// 3875 §4.1.14)
//
//	127.0.0.1:8000 → "127.0.0.1", "8000"    [::1]:8000 → "[::1]", "8000"
func serverName(addr net.Addr) (name, port string) {
	name, port = hostPort(addr)
	if name == "" { // a Unix socket has no name for a URL
		return "localhost", "80"
	} else if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	return name, port
}

// hostPort takes a TCP address apart: [fe80::1%eth0]:8000 → "fe80::1", "8000". For any
// other address both are "".
func hostPort(addr net.Addr) (host, port string) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "", ""
	}
	return tcp.IP.String(), strconv.Itoa(tcp.Port)
}

// addHeader puts a header field under its key and joins it to an earlier one of the same
// name: with a comma, and cookies with a semicolon, since a comma may be part of a
// cookie. (RFC 9110 §5.3, RFC 9113 §8.2.3)
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
	if strings.Contains(name, "_") || strings.EqualFold(name, "Proxy") {
		return "", false
	}
	key = strings.ReplaceAll(strings.ToUpper(name), "-", "_")
	if key == "CONTENT_TYPE" || key == "CONTENT_LENGTH" {
		return key, true // these two describe the body and are CGI's own
	}
	return "HTTP_" + key, true
}

// Input is wsgi.input: the body of the request. It ends after Content-Length bytes, so
// that no application waits for more. A body that is cut short ends in a *Refusal around
// io.ErrUnexpectedEOF instead of io.EOF. (PEP 3333, "Input and Error Streams")
type Input struct {
	r      *bufio.Reader
	length int64  // bytes in the whole body
	read   int64  // bytes read so far
	before func() // runs ahead of the first read; nil if there is nothing to do
	err    error  // how the body ended; every later Read returns it
}

// Read reads at most len(p) bytes of the body. Its error is io.EOF or a *Refusal.
func (in *Input) Read(p []byte) (int, error) {
	if in.err == nil && in.read == in.length {
		in.err = io.EOF
	}
	if in.err != nil {
		return 0, in.err
	}
	if in.before != nil {
		in.before()
		in.before = nil
	}
	n, err := in.r.Read(p[:min(int64(len(p)), in.length-in.read)])
	in.read += int64(n)
	if err != nil {
		in.err = incomplete(err, "",
			fmt.Sprintf("expected %d body bytes, got %d", in.length, in.read))
	}
	return n, in.err
}

// ReadLine is Python's readline(limit): it returns the next line with its "\n", or the
// first limit bytes of it; 0 or less is no limit. Only LF ends a line. At the end of the
// body it returns the rest, then io.EOF.
//
//	"a\nbc\r\nd" → "a\n", "bc\r\n", "d", io.EOF
func (in *Input) ReadLine(limit int) ([]byte, error) {
	var line []byte
	var one [1]byte // byte by byte: in.r buffers what the connection gives
	for limit <= 0 || len(line) < limit {
		n, err := in.Read(one[:])
		line = append(line, one[:n]...)
		if n == 1 && one[0] == '\n' || err == io.EOF && len(line) > 0 {
			break
		}
		if err != nil {
			return line, err
		}
	}
	return line, nil
}

// Lines gives the lines of the body, as iterating over Python's wsgi.input does. It
// panics if the body is cut short.
func (in *Input) Lines() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			line, err := in.ReadLine(0)
			if err != nil && err != io.EOF {
				panic(err)
			}
			if err == io.EOF || !yield(line) {
				return
			}
		}
	}
}

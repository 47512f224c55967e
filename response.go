// response.go: bytes out.
//
// An application calls startResponse with a status and headers, which are checked and
// stored. Then it returns (or writes) blocks of bytes. The first that is not empty sends
// the head ahead of it:
//
//	startResponse("200 OK", …)     nothing is sent: the application may still fail
//	block ""                       nothing is sent
//	block "Hello"                  HTTP/1.0 200 OK CRLF … CRLF CRLF Hello, in one write
//	block " world"                 " world", before the next block is asked for
//	the body ends                  nothing to send; Close is called, once
//
// run drives any application to any io.Writer: a socket and a CGI program's standard
// output differ only in the first line of the head.
//
// Sources: PEP 3333 for all of it, RFC 1945 §6 for the head, RFC 9110 §6.4 and §8.6 for
// which answers have a body and a Content-Length.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

const pieceSize = 64 * 1024 // bytes that are read or written with one timeout

// A Header is one header field, Python's (name, value) tuple.
type Header struct{ Name, Value string }

// StartResponse begins an answer: it stores the status ("200 OK") and headers and returns
// PEP 3333's write() callable. A second call replaces them, with its reason in excInfo.
// It panics where Python raises: for a broken rule, for a second call without excInfo,
// and with excInfo if the head has been sent. (PEP 3333, "The start_response() Callable")
type StartResponse func(status string, headers []Header, excInfo ...error) io.Writer

// A Body is what an application returns, Python's iterable of bytestrings. It may also
// have the methods Len, which returns the number of its blocks, and Close.
type Body interface {
	All() iter.Seq[[]byte]
}

// blocks is body.All(), or a panic that explains what is wrong with a nil body.
func blocks(body Body) iter.Seq[[]byte] {
	if body == nil {
		panic(errors.New("the application returned no body: an empty one is Blocks{}"))
	}
	return body.All()
}

// closeBody calls the Close of a body or a file, if it has one.
func closeBody(body any) error {
	if closer, ok := body.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// Blocks is a body like Python's [b"…"]: a single block gets a Content-Length.
type Blocks [][]byte

// All gives the blocks in order.
func (b Blocks) All() iter.Seq[[]byte] { return slices.Values(b) }

// Len is the number of blocks, Python's len(result).
func (b Blocks) Len() int { return len(b) }

// Stream is a body that is made while it is sent, like a Python generator. What it
// defers runs at its end, or when the gateway stops early.
type Stream iter.Seq[[]byte]

// All returns the function itself.
func (s Stream) All() iter.Seq[[]byte] { return iter.Seq[[]byte](s) }

// A fileBody is what wsgi.file_wrapper returns. Unless middleware changes it, the gateway
// sends a regular file with sendfile(2).
type fileBody struct {
	file io.Reader
	size int // bytes in a block, where blocks are made
}

// newFileWrapper is wsgi.file_wrapper: the rest of file as a body, in blocks of blockSize
// bytes (8192 if absent). (PEP 3333, "Optional Platform-Specific File Handling")
func newFileWrapper(file io.Reader, blockSize ...int) Body {
	size := 8192
	if len(blockSize) > 0 && blockSize[0] > 0 {
		size = blockSize[0]
	}
	return &fileBody{file, size}
}

// All gives the file in blocks, for middleware.
func (b *fileBody) All() iter.Seq[[]byte] { return readBlocks(b.file, b.size).All() }

// readBlocks gives what it reads, in blocks of at most size bytes. A failing read panics.
func readBlocks(reader io.Reader, size int) Stream {
	return func(yield func([]byte) bool) {
		block := make([]byte, size)
		for {
			n, err := reader.Read(block)
			if n > 0 && !yield(block[:n]) || err == io.EOF {
				return
			}
			if err != nil {
				panic(err)
			}
		}
	}
}

// Close closes the file, if it can be closed.
func (b *fileBody) Close() error { return closeBody(b.file) }

// A Response is the state of one answer.
type Response struct {
	out       io.Writer // the connection, or a CGI program's standard output
	firstLine string    // how the head begins, see below
	withBody  bool      // false for HEAD
	errors    io.Writer // wsgi.errors
	now       func() time.Time
	seeIt     string // the last line of a refusal's page, with its line end

	started  bool     // startResponse was called
	status   string   // "200 OK"; "" until a call of startResponse has passed its checks
	headers  []Header // a copy, and an inferred Content-Length
	length   int64    // Content-Length, -1 if there is none
	headSent bool
	sent     int64 // body bytes
	brokeOff bool  // the body ended too early
	err      error // the client could not be reached: nothing more is sent
}

// The beginning of a head, which differs between the gateways.
const (
	httpLine = "HTTP/1.0 " // whatever the client speaks (RFC 9110 §2.5)
	cgiLine  = "Status: "  // RFC 3875 §6.3.3
	noHead   = ""          // an HTTP/0.9 client gets the body alone (RFC 1945 §6)
)

// newResponse makes the answer to a request for method, on its way to out.
func newResponse(out io.Writer, firstLine, method string, errorLog io.Writer) Response {
	return Response{out: out, firstLine: firstLine, withBody: method != "HEAD",
		errors: errorLog, now: time.Now, length: -1}
}

// httpDate is the form of dates that HTTP prefers. (RFC 9110 §5.6.7)
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// The panics for an application that calls startResponse too often, or not in time.
var (
	errStartedTwice = errors.New("startResponse was called before: a second call needs excInfo")
	errNotStarted   = errors.New("startResponse must be called, without a panic, before the " +
		"first block that is not empty, and before the body ends")
)

// startResponse implements StartResponse.
func (r *Response) startResponse(status string, headers []Header,
	excInfo ...error) io.Writer {
	if len(excInfo) > 0 && excInfo[0] != nil {
		if r.headSent {
			panic(excInfo[0]) // too late: the application's own error ends the answer
		}
	} else if r.started {
		panic(errStartedTwice)
	}
	r.started, r.status = true, ""
	length, err := checkHead(status, headers)
	if err != nil {
		panic(err)
	}
	// Replaced, not merged; and copied, because the application may use its slice again.
	r.status, r.headers, r.length = status, slices.Clone(headers), length
	return r
}

// checkHead checks the arguments of startResponse and returns the Content-Length among
// them, -1 if there is none. (PEP 3333, "The start_response() Callable")
func checkHead(status string, headers []Header) (length int64, err error) {
	err = checkStatus(status)
	for _, header := range headers {
		err = cmp.Or(err, checkField(header))
	}
	value, count := lookup(headers, "Content-Length")
	if err != nil || count == 0 {
		return -1, err
	}
	n, err := strconv.ParseUint(value, 10, 63) // takes digits only, no sign
	if err != nil || count > 1 {
		return -1, fmt.Errorf("expected one Content-Length of digits, got %s", quote(value))
	}
	return int64(n), nil
}

// checkStatus accepts "200 OK": three digits from 200 to 599, a space, a reason that
// neither starts nor ends with a space and may be empty. Only the gateway sends 1xx.
func checkStatus(status string) error {
	code, reason, ok := strings.Cut(status, " ")
	number, err := strconv.ParseUint(code, 10, 16)
	if !ok || err != nil || len(code) != 3 || number < 200 || number > 599 ||
		reason != strings.Trim(reason, " ") || indexControl(reason) >= 0 {
		return fmt.Errorf(`expected a status like "200 OK", from 200 to 599 and without `+
			"control characters, got %s", quote(status))
	}
	return nil
}

// hopByHop lists the fields about the connection, and Status, which begins the head of a
// CGI program. (PEP 3333, "Other HTTP Features"; RFC 2616 §13.5.1)
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Status", "TE",
	"Proxy-Authorization", "Trailer", "Trailers", "Transfer-Encoding", "Upgrade"}

// checkField checks one header of an application. Its value may not even have a tab: PEP
// 3333 forbids "any control characters".
func checkField(header Header) error {
	switch {
	case indexNonToken(header.Name) >= 0:
		return fmt.Errorf("expected a header name of letters, digits and -, got %s",
			quote(header.Name))
	case slices.ContainsFunc(hopByHop, header.is):
		return fmt.Errorf("the header %s belongs to the gateway, not to an application",
			header.Name)
	case indexControl(header.Value) >= 0:
		return fmt.Errorf("the value of %s must not contain control characters: %s",
			header.Name, quote(header.Value))
	}
	return nil
}

// run calls the application once, sends the body that it returns, and closes it, even
// after a panic: this is the gateway interface. (PEP 3333, "The Server/Gateway Side")
func run(application Application, environ Environ, r *Response) {
	var body Body
	complete := false
	defer func() { // runs after a panic and after runtime.Goexit too
		if !complete {
			r.fail(recover())
		}
		r.close(body)
	}()
	body = application(environ, r.startResponse)
	r.sendBody(body)
	r.finish()
	complete = true
}

// close calls the body's Close, if it has one. An error or a panic there is logged: the
// answer is on its way already.
func (r *Response) close(body Body) {
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Fprintf(r.errors, "Close: %s", failure(reason))
		}
	}()
	if err := closeBody(body); err != nil {
		fmt.Fprintf(r.errors, "Close: %v\n", err)
	}
}

// sendBody sends the blocks one by one, until the body ends or no more is wanted.
func (r *Response) sendBody(body Body) {
	if file, ok := body.(*fileBody); ok && r.sendFile(file) {
		return
	}
	sized, ok := body.(interface{ Len() int })
	single := ok && sized.Len() == 1
	for block := range blocks(body) {
		if single {
			r.inferLength(int64(len(block)))
		}
		_, err := r.Write(block)
		if err != nil || r.sent == r.length || r.headSent && !r.hasBody() {
			return // no more is wanted: without a length, r.length is -1
		}
	}
}

// inferLength sets the Content-Length of a body that is known to be n bytes long, unless
// there is one, the head has been sent, or the status has no body.
func (r *Response) inferLength(n int64) {
	if r.length < 0 && !r.headSent && !bodyless(r.status) {
		r.length = n
		r.headers = append(r.headers, Header{"Content-Length", strconv.FormatInt(n, 10)})
	}
}

// bodyless reports whether answers with this status have no body. (RFC 9110 §15.3.5,
// §15.3.6, §15.4.5)
func bodyless(status string) bool {
	return slices.Contains([]string{"204 ", "205 ", "304 "}, status[:min(4, len(status))])
}

// hasBody reports whether body bytes go to the client. An application need not care: it
// answers HEAD as if it were GET, and its body is dropped. (RFC 1945 §8.2)
func (r *Response) hasBody() bool { return r.withBody && !bodyless(r.status) }

// errTooLong is what write() returns for a body longer than its Content-Length.
var errTooLong = errors.New("more bytes than the Content-Length: they were not sent")

// Write is PEP 3333's write(); the gateway sends each block of a body with it, too. It
// returns when the operating system has the bytes. (PEP 3333, "The write() Callable",
// "Handling the Content-Length Header")
func (r *Response) Write(block []byte) (int, error) {
	if len(block) == 0 || r.err != nil {
		return 0, r.err
	}
	wanted := r.clip(int64(len(block)))
	r.send(block[:wanted])
	if r.err != nil {
		return 0, r.err
	}
	if r.hasBody() && wanted < int64(len(block)) {
		return int(wanted), errTooLong
	}
	return len(block), nil
}

// clip returns how many of the next n bytes of the body may be sent: none if the answer
// has no body, and none beyond its Content-Length, which is logged.
func (r *Response) clip(n int64) int64 {
	if !r.hasBody() {
		return 0
	}
	rest := r.length - r.sent
	if r.length < 0 || n <= rest {
		return n
	}
	fmt.Fprintf(r.errors, "Content-Length is %d, the body is longer: the rest is not sent\n",
		r.length)
	return rest
}

// send sends block, and first the head if it has not been sent. A block of up to 16 KiB
// leaves in one write with the head: two writes would often be two packets.
func (r *Response) send(block []byte) {
	if r.status == "" {
		panic(errNotStarted)
	}
	head := ""
	if !r.headSent && r.firstLine != noHead {
		head = r.head()
	}
	if len(block) <= 16*1024 {
		block = append([]byte(head), block...)
	} else if head != "" {
		_, r.err = io.WriteString(r.out, head)
		head = ""
	}
	r.headSent = true
	if r.err == nil && len(block) > 0 {
		var n int
		n, r.err = r.out.Write(block)
		r.sent += int64(max(0, n-len(head)))
	}
}

// head formats the stored status and headers. A server adds Date and Server if they are
// not there; a CGI program leaves them to its server. 204 has no Content-Length, and that
// of 205 is 0. (RFC 1945 §6.1; RFC 9110 §6.6.1, §8.6, §15.3.6)
//
//	HTTP/1.0 200 OK\r\nDate: …\r\nServer: rawsgi/1.0\r\nContent-Length: 5\r\n\r\n
func (r *Response) head() string {
	var b strings.Builder
	b.WriteString(r.firstLine + r.status + "\r\n")
	if _, n := lookup(r.headers, "Date"); n == 0 && r.firstLine == httpLine {
		b.WriteString(r.now().UTC().Format("Date: " + httpDate + "\r\n"))
	}
	if _, n := lookup(r.headers, "Server"); n == 0 && r.firstLine == httpLine {
		b.WriteString("Server: " + software + "\r\n")
	}
	code, _, _ := strings.Cut(r.status, " ")
	for _, header := range r.headers {
		if code != "204" && code != "205" || !header.is("Content-Length") {
			b.WriteString(header.Name + ": " + header.Value + "\r\n")
		}
	}
	if code == "205" {
		b.WriteString("Content-Length: 0\r\n")
	}
	return b.String() + "\r\n"
}

// sendFile sends the rest of a regular file, in pieces that each have their own deadline,
// and reports false for any other file. io.CopyN calls the connection's ReadFrom, which
// uses the system call sendfile(2): the bytes never enter this program.
func (r *Response) sendFile(body *fileBody) bool {
	file, ok := body.file.(*os.File)
	if !ok {
		return false
	}
	offset, rest := restOf(file)
	if rest <= 0 {
		return false // empty, a pipe, or made while it is read, as in /proc
	}
	r.inferLength(rest)
	end := offset + r.clip(rest)
	r.send(nil)
	for offset < end && r.err == nil {
		n, err := io.CopyN(r.out, file, min(end-offset, pieceSize))
		r.sent, offset = r.sent+n, offset+n
		if err == io.EOF {
			break // the file has become shorter; finish says so
		}
		if err != nil {
			if failed := readError(file, offset); failed != nil && failed != io.EOF {
				panic(err) // the file's error, not the client's
			}
		}
		r.err = err
	}
	return true
}

// restOf returns the offset in a regular file, and the number of bytes from there to its
// end; 0 for anything else. The size of a file in /sys is wrong: it has no last byte.
func restOf(file *os.File) (offset, rest int64) {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || readError(file, info.Size()-1) != nil {
		return 0, 0
	}
	offset, err = file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, 0 // it cannot be measured, so it is read like any other reader
	}
	return offset, info.Size() - offset
}

// readError returns the error of reading the byte at offset of a file, io.EOF at its end.
func readError(file *os.File, offset int64) error {
	_, err := file.ReadAt(make([]byte, 1), offset)
	return err
}

// finish ends an answer: it sends the head if no block has, and logs a body cut short.
func (r *Response) finish() {
	if !r.headSent {
		if r.hasBody() {
			r.inferLength(0) // an empty body to HEAD says nothing about that of GET
		}
		r.send(nil)
	}
	if r.hasBody() && r.sent < r.length && r.err == nil {
		r.brokeOff = true
		fmt.Fprintf(r.errors, "Content-Length is %d, but the body ended after %d bytes: "+
			"the connection is cut\n", r.length, r.sent)
	}
}

// needsReset reports whether the answer broke off and the client would not notice:
// without a Content-Length, the end of the connection is the end of the body.
func (r *Response) needsReset() bool {
	return (r.brokeOff || r.err != nil) && (r.length < 0 || r.firstLine == noHead)
}

// fail ends an answer that a panic has stopped: with an error page if the head has not
// been sent; otherwise the answer breaks off. A panic with a *Refusal keeps its status.
// reason is nil after runtime.Goexit. (PEP 3333, "Error Handling")
func (r *Response) fail(reason any) {
	r.brokeOff = r.headSent && r.hasBody()
	clientLeft, refusal := r.classify(reason)
	switch {
	case clientLeft: // nothing is wrong with the application
	case refusal != nil:
		r.refuse(refusal)
	default:
		fmt.Fprintf(r.errors, "the application failed: %s", failure(reason))
		r.sendPage(refuse("500 Internal Server Error", `PEP 3333, "Error Handling"`, "", 0,
			"the application failed; the server's error log says how"))
	}
}

// classify reports whether a panic repeats the error of a client that has left, and
// returns the *Refusal in it, or nil.
func (r *Response) classify(reason any) (clientLeft bool, refusal *Refusal) {
	defer func() {
		if recover() != nil { // from a method of the application's error
			refusal = nil
		}
	}()
	err, _ := reason.(error)
	if errors.As(err, &refusal) && checkStatus(refusal.Status) != nil {
		refusal = nil
	}
	return r.err != nil && errors.Is(err, r.err), refusal
}

// refuse logs a refusal and answers with it.
func (r *Response) refuse(refusal *Refusal) {
	fmt.Fprintf(r.errors, "%s: %v\n", refusal.Status, refusal)
	r.sendPage(refusal)
}

// sendPage answers with the page of a refusal, if the head has not been sent.
func (r *Response) sendPage(refusal *Refusal) {
	if !r.headSent {
		page := append(refusal.page(), r.seeIt...)
		r.status, r.length = refusal.Status, -1
		r.headers = []Header{{"Content-Type", "text/plain; charset=utf-8"},
			{"X-Content-Type-Options", "nosniff"}}
		r.inferLength(int64(len(page)))
		r.Write(page) // if it fails, the client has left: r.err ends the answer
	}
}

// failure formats a panic's value, and the application's functions on the stack, the
// innermost first:
//
//	the application failed before its head was sent (set RAWSGI_STACK=1 to see the …)
//		app.go:LINE failing
//
// It ends with a line end. It must be called while the deferred function that recovers
// runs: afterwards the stack of the panic is gone.
func failure(reason any) string {
	if reason == nil {
		reason = "runtime.Goexit was called"
	}
	if os.Getenv("RAWSGI_STACK") != "" {
		return fmt.Sprintf("%v\n%s", reason, debug.Stack())
	}
	return fmt.Sprintf("%v (set RAWSGI_STACK=1 to see the whole stack)\n%s", reason, frames())
}

// frame matches a function of this program, or of its tests (rawsgi), in debug.Stack, with
// its file and line. One with [...] in its name is generic, and of another package.
var frame = regexp.MustCompile(`(?m)^(?:main|rawsgi)\.([^\s[]+)\(.*\)\n` +
	`\t.*?([^/]+\.go)(:\d+)`)

// frames lists the functions on the stack of a panic, without those of the gateway.
func frames() (lines string) {
	_, stack, _ := strings.Cut(string(debug.Stack()), "\npanic(")
	for _, f := range frame.FindAllStringSubmatch(stack, -1) {
		if f[1] == "run" || f[1] == "callApplication" {
			break
		}
		if !slices.Contains([]string{"server.go", "request.go", "response.go"}, f[2]) &&
			!strings.Contains(f[1], "watched") { // those are the recorder's
			lines += "\t" + f[2] + f[3] + " " + f[1] + "\n"
		}
	}
	return lines
}

// response.go: bytes out.
//
// An application answers in two halves. It calls startResponse with a status and headers,
// which are checked and stored; then it returns (or writes) blocks of bytes. The first
// block that is not empty sends the head ahead of it:
//
//	startResponse("200 OK", …)     nothing is sent: the application may still fail
//	block ""                       nothing is sent
//	block "Hello"                  HTTP/1.0 200 OK CRLF … CRLF CRLF Hello, in one write
//	block " world"                 " world", before the next block is asked for
//	the body ends                  nothing to send; Close is called, once
//
// Half of a gateway is here: run drives any application to any io.Writer. What differs
// between a socket and a CGI program's standard output is the first line of the head.
//
// Sources: PEP 3333 for all of it, RFC 1945 §6 for the head, RFC 9110 §6.4 and §8.6 for
// which answers have a body and a Content-Length.
package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	software  = "rawsgi/1.0"
	pieceSize = 64 * 1024 // bytes that must reach the client within one -timeout
)

// A Header is one header field, Python's (name, value) tuple.
type Header struct{ Name, Value string }

// StartResponse is how an application begins its answer. It stores the status ("200 OK")
// and headers and returns PEP 3333's write() callable. Calling it again is allowed only
// with excInfo, the error that made the application change its mind; when the head has
// been sent already, it panics with that error. It panics for a status or header that
// breaks a rule, too: where Python raises, we panic. (PEP 3333, "The start_response()
// Callable")
type StartResponse func(status string, headers []Header, excInfo ...error) io.Writer

// A Body is what an application returns, Python's iterable of bytestrings. It may also
// have a Len method, the number of its blocks, and be an io.Closer.
type Body interface {
	All() iter.Seq[[]byte]
}

// Blocks is a body whose blocks are there already, like Python's [b"…"]. Its length is
// known, so a single block gets a Content-Length.
type Blocks [][]byte

// All gives the blocks in order.
func (b Blocks) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, block := range b {
			if !yield(block) {
				return
			}
		}
	}
}

// Len is the number of blocks, Python's len(result).
func (b Blocks) Len() int { return len(b) }

// Stream is a body that is made while it is sent, like a Python generator. What it
// defers runs at its end, or when the gateway stops early.
type Stream iter.Seq[[]byte]

// All returns the function itself.
func (s Stream) All() iter.Seq[[]byte] { return iter.Seq[[]byte](s) }

// A fileBody is what wsgi.file_wrapper returns. If it reaches the gateway as it is, and
// holds a real file, the file goes to the socket without passing through this program.
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

// All gives the file in blocks, for middleware and for what is not a real file.
func (b *fileBody) All() iter.Seq[[]byte] { return readBlocks(b.file, b.size).All() }

// readBlocks gives what it reads, in blocks of at most size bytes. A read that fails
// panics, as in Python it would raise.
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
func (b *fileBody) Close() error {
	if c, ok := b.file.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// A Response is the state of one answer.
type Response struct {
	out       io.Writer // the connection
	firstLine string    // what stands in front of the status, see below
	withBody  bool      // false for HEAD
	errors    io.Writer // wsgi.errors
	now       func() time.Time

	started  bool     // startResponse was called
	status   string   // "200 OK"; "" until a call of startResponse has passed its checks
	headers  []Header // a copy
	length   int64    // Content-Length, -1 if there is none
	headSent bool
	sent     int64 // body bytes, for the access log
	err      error // the client could not be reached: nothing more is sent
}

// The beginnings of a head: this is how gateways differ.
const (
	httpLine = "HTTP/1.0 " // whatever the client speaks (RFC 9110 §2.5)
	cgiLine  = "Status: "  // RFC 3875 §6.3.3
	noHead   = ""          // an HTTP/0.9 client gets the body alone (RFC 1945 §6)
)

// newResponse makes the answer to a request for method, on its way to out.
func newResponse(out io.Writer, firstLine, method string, errors io.Writer) Response {
	return Response{out: out, firstLine: firstLine, withBody: method != "HEAD",
		errors: errors, now: time.Now, length: -1}
}

// errNotStarted is what an application gets that sends a body before a head.
var errNotStarted = errors.New("startResponse must be called before the first block " +
	"that is not empty, and before the body ends")

// errStartedTwice is what it gets that does not say why it changes its mind.
var errStartedTwice = errors.New("startResponse was called before: a second call needs excInfo")

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
	if err := checkStatus(status); err != nil {
		return -1, err
	}
	length = -1
	for _, header := range headers {
		if err := checkField(header); err != nil {
			return -1, err
		}
		if !strings.EqualFold(header.Name, "Content-Length") {
			continue
		}
		n, err := strconv.ParseUint(header.Value, 10, 63)
		if err != nil || length >= 0 {
			return -1, fmt.Errorf("expected one Content-Length of digits, got %s",
				quote(header.Value))
		}
		length = int64(n)
	}
	return length, nil
}

// checkStatus accepts "200 OK": three digits from 200 to 599, a space, a reason that
// neither starts nor ends with a space and may be empty. 1xx is the gateway's own business.
func checkStatus(status string) error {
	code, reason, ok := strings.Cut(status, " ")
	number, err := strconv.ParseUint(code, 10, 16)
	if !ok || len(code) != 3 || err != nil || number < 200 || number > 599 ||
		reason != strings.Trim(reason, " ") || hasControl(reason) {
		return fmt.Errorf(`expected a status like "200 OK", from 200 to 599 and without `+
			"control characters, got %s", quote(status))
	}
	return nil
}

// hopByHop lists the fields that are about the connection, which is the gateway's, and
// Status, which a CGI program would take for its first line. (PEP 3333, "Other HTTP
// Features"; RFC 2616 §13.5.1)
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Status", "TE",
	"Proxy-Authorization", "Trailer", "Trailers", "Transfer-Encoding", "Upgrade"}

func isHopByHop(name string) bool {
	return slices.ContainsFunc(hopByHop, func(hop string) bool {
		return len(hop) == len(name) && strings.EqualFold(hop, name)
	})
}

// checkField checks one header of an application. Not even a tab may stand in its value:
// "any control characters" is what the PEP says.
func checkField(header Header) error {
	switch {
	case !isToken(header.Name):
		return fmt.Errorf("expected a header name of letters, digits and -, got %s",
			quote(header.Name))
	case isHopByHop(header.Name):
		return fmt.Errorf("the header %s belongs to the gateway, not to an application",
			header.Name)
	case hasControl(header.Value):
		return fmt.Errorf("the value of %s must not contain control characters: %s",
			header.Name, quote(header.Value))
	}
	return nil
}

// run calls the application once, sends what it returns and closes that, whatever
// happens on the way. It knows nothing of sockets: this is the gateway interface.
// (PEP 3333, "The Server/Gateway Side")
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
	closer, ok := body.(io.Closer)
	if !ok {
		return
	}
	defer func() {
		if reason := recover(); reason != nil {
			r.logPanic("Close", reason)
		}
	}()
	if err := closer.Close(); err != nil {
		fmt.Fprintf(r.errors, "Close: %v\n", err)
	}
}

// sendBody sends one block after the other, until the body ends or no more is wanted.
func (r *Response) sendBody(body Body) {
	if body == nil {
		panic(errors.New("the application returned no body: an empty one is Blocks{}"))
	}
	if file, ok := body.(*fileBody); ok && r.sendFile(file) {
		return
	}
	if blocks, ok := body.(Blocks); ok { // the usual body, without the cost of an iterator
		for _, block := range blocks {
			if !r.sendBlock(block, len(blocks) == 1) {
				return
			}
		}
		return
	}
	l, ok := body.(interface{ Len() int })
	only := ok && l.Len() == 1
	for block := range body.All() {
		if !r.sendBlock(block, only) {
			return
		}
	}
}

// sendBlock sends one block of a body, maybe its only one, and reports whether more are
// wanted.
func (r *Response) sendBlock(block []byte, only bool) (more bool) {
	if only {
		r.inferLength(int64(len(block)))
	}
	n, err := r.Write(block)
	if err == errTooLong {
		fmt.Fprintf(r.errors, "Content-Length is %d: of a block of %d bytes, %d were sent\n",
			r.length, len(block), n)
	}
	done := r.sent == r.length || r.headSent && !r.hasBody()
	return err == nil && !done
}

// inferLength sets the Content-Length of a body that is known to be n bytes long, unless
// the application has set one or has sent bytes already.
func (r *Response) inferLength(n int64) {
	if r.length < 0 && !r.headSent && !r.bodyless() {
		r.length = n
	}
}

// bodyless reports whether the status is one that has neither body nor, in the case of
// 204, Content-Length. (RFC 9110 §15.3.5, §15.4.5)
func (r *Response) bodyless() bool {
	return strings.HasPrefix(r.status, "204 ") || strings.HasPrefix(r.status, "304 ")
}

// hasBody reports whether body bytes go to the client. An application need not care: it
// answers HEAD as if it were GET, and its body is dropped. (RFC 1945 §8.2)
func (r *Response) hasBody() bool { return r.withBody && !r.bodyless() }

// errTooLong is what write() returns when the body is longer than the Content-Length
// that the application announced.
var errTooLong = errors.New("more bytes than the Content-Length: they were not sent")

// Write sends one block, and the head ahead of the first that is not empty. It is both
// PEP 3333's write() and the way of every block of a body, and returns when the bytes are
// with the operating system. (PEP 3333, "The write() Callable", "Handling the
// Content-Length Header")
func (r *Response) Write(block []byte) (int, error) {
	if len(block) == 0 || r.err != nil {
		return 0, r.err
	}
	if r.status == "" {
		panic(errNotStarted)
	}
	wanted, tooLong := block, error(nil)
	if !r.hasBody() {
		wanted = nil
	} else if r.length >= 0 && int64(len(block)) > r.length-r.sent {
		wanted, tooLong = block[:r.length-r.sent], errTooLong
	}
	if r.transmit(wanted); r.err != nil {
		return 0, r.err
	}
	if tooLong != nil {
		return len(wanted), tooLong
	}
	return len(block), nil
}

// transmit sends block, and the head ahead of it if that is still here. Head and small
// block leave in one write: two would be two system calls, and often two packets.
func (r *Response) transmit(block []byte) {
	head := 0 // bytes in front of the block that are not part of the body
	if !r.headSent && r.firstLine != noHead {
		b := r.appendHead(make([]byte, 0, 512))
		if len(block) <= 16*1024 {
			head, block = len(b), append(b, block...)
		} else {
			_, r.err = r.out.Write(b)
		}
	}
	r.headSent = true
	if r.err != nil || len(block) == 0 {
		return
	}
	n, err := r.out.Write(block)
	r.sent += int64(max(0, n-head))
	r.err = err
}

// appendHead appends the head to b. Date and Server are added by a server unless the
// application gave its own; a CGI program leaves them to the server that started it.
// (RFC 1945 §6.1, RFC 9110 §6.6.1)
//
//	HTTP/1.0 200 OK\r\nDate: …\r\nServer: rawsgi/1.0\r\nContent-Length: 5\r\n\r\n
func (r *Response) appendHead(b []byte) []byte {
	b = append(append(append(b, r.firstLine...), r.status...), "\r\n"...)
	if _, n := lookup(r.headers, "Date"); n == 0 && r.firstLine == httpLine {
		b = r.now().UTC().AppendFormat(b, "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")
	}
	if _, n := lookup(r.headers, "Server"); n == 0 && r.firstLine == httpLine {
		b = append(b, "Server: "+software+"\r\n"...)
	}
	ownLength := false
	for _, header := range r.headers {
		if strings.EqualFold(header.Name, "Content-Length") {
			if ownLength = true; strings.HasPrefix(r.status, "204 ") {
				continue
			}
		}
		b = append(append(append(b, header.Name...), ": "...), header.Value...)
		b = append(b, "\r\n"...)
	}
	if r.length >= 0 && !ownLength {
		b = strconv.AppendInt(append(b, "Content-Length: "...), r.length, 10)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...)
}

// sendFile sends what is left of a real file, in pieces that each have their own
// deadline, and reports whether it could. io.CopyN finds the connection's ReadFrom, and
// that the system call sendfile(2): the bytes never enter this program.
func (r *Response) sendFile(body *fileBody) bool {
	file, ok := body.file.(*os.File)
	if !ok {
		return false
	}
	left := restOf(file)
	if left <= 0 {
		return false // empty, a pipe, or made while it is read, as in /proc
	}
	if r.status == "" {
		panic(errNotStarted)
	}
	r.inferLength(left)
	if r.length >= 0 {
		left = min(left, r.length-r.sent)
	}
	if r.transmit(nil); !r.hasBody() {
		return true
	}
	for left > 0 && r.err == nil {
		n, err := io.CopyN(r.out, file, min(left, pieceSize))
		r.sent += n
		left -= n
		if err == io.EOF {
			break // the file has become shorter; finish says so
		}
		r.err = err // it may be the file's: sendfile(2) does not say whose
	}
	return true
}

// restOf returns how many bytes a regular file has from its current offset to its end,
// 0 for anything else. Some only say so, as in /sys, and some cannot be read: the last byte
// has to be there.
func restOf(file *os.File) int64 {
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	offset, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0 // it cannot be measured, so it is read like any other reader
	}
	if _, err := file.ReadAt(make([]byte, 1), info.Size()-1); err != nil {
		return 0
	}
	return info.Size() - offset
}

// finish ends an answer whose body has ended: it sends the head if no block has.
func (r *Response) finish() {
	if r.status == "" {
		panic(errNotStarted)
	}
	if !r.headSent {
		if r.hasBody() {
			r.inferLength(0) // an empty body to HEAD says nothing about that of GET
		}
		r.transmit(nil)
	}
	if r.hasBody() && r.sent < r.length && r.err == nil {
		fmt.Fprintf(r.errors, "Content-Length is %d, but the body ended after %d bytes: "+
			"the client was hung up on\n", r.length, r.sent)
	}
}

// fail ends an answer that something has stopped: an error page while the head is still
// here, otherwise nothing, and the connection is closed in the middle of the answer. A
// *Refusal that the application has let through, such as a body cut short, keeps its own
// status. (PEP 3333, "Error Handling")
func (r *Response) fail(reason any) {
	err, _ := reason.(error)
	if r.err != nil && errors.Is(err, r.err) {
		return // the client has left and the application said so: nothing is wrong
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		r.logPanic("the application failed", reason)
		refusal = &Refusal{Status: "500 Internal Server Error", Source: `PEP 3333, "Error Handling"`,
			Reason: "the application failed; the server's error log says how"}
	} else {
		r.logRefusal(refusal)
	}
	if !r.headSent {
		r.refuse(refusal)
	}
}

// refuse answers with the status of a refusal, and its reason as plain text.
func (r *Response) refuse(refusal *Refusal) {
	page := []byte(refusal.Status + "\n\n" + refusal.Error() + "\n")
	r.status, r.length = refusal.Status, int64(len(page))
	r.headers = []Header{{"Content-Type", "text/plain; charset=utf-8"}}
	r.Write(page) // if it fails, the client has left: r.err ends the answer
}

// logRefusal writes a refusal to wsgi.errors.
func (r *Response) logRefusal(refusal *Refusal) {
	fmt.Fprintf(r.errors, "%s: %v\n", refusal.Status, refusal)
}

// logPanic writes a panic's value and stack to wsgi.errors. The value is nil after
// runtime.Goexit.
func (r *Response) logPanic(where string, reason any) {
	if reason == nil {
		reason = "runtime.Goexit was called"
	}
	fmt.Fprintf(r.errors, "%s: %v\n%s", where, reason, debug.Stack())
}

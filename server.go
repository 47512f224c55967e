// server.go: gateways, which connect applications to clients.
//
// A connection is accepted, a request is read from it (request.go), the application is
// run (response.go), and the connection is closed in a way that lets the client read the
// whole answer. One request per connection, as in HTTP/1.0 (RFC 1945 §1.4):
//
//	Serve → serveConn → readRequest → answer → newEnviron → run → end → hangUp
//
// The interface, in four types whose rules are in the other files:
//
//	type Environ map[string]any                                           request.go
//	type Application func(environ Environ, startResponse StartResponse) Body  app.go
//	type StartResponse func(status string, headers []Header,
//		excInfo ...error) io.Writer                                      response.go
//	type Body interface { All() iter.Seq[[]byte] }                       response.go
//
// Clients may send nothing, send slowly, read slowly, come in large numbers or leave in
// the middle. Two shorter gateways end this file: serveCGI, which answers the one request
// in this process's environment, and callApplication, which has no client.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"net"
	"net/url"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Server is the HTTP/1.0 gateway, made by newServer. Its exported fields may be changed
// before Serve.
type Server struct {
	Application Application
	Scheme      string        // wsgi.url_scheme: "http", or "https" behind a TLS proxy
	Serial      bool          // one application call at a time
	Worker      bool          // one of several processes
	Timeout     time.Duration // for a whole head, each read of a body, each 64 KiB written
	MaxBody     int64         // bytes in a request's body
	MaxConns    int           // connections open at once; more wait in the backlog
	AccessLog   *log.Logger   // one line a request; nil for none
	ErrorLog    *log.Logger   // wsgi.errors and the server's own troubles

	// Watch, if set, is called with each connection and the application. It returns those
	// to use instead, and a function that is called with the result of readRequest.
	Watch func(net.Conn, Application) (net.Conn, Application, func(*Request, error))

	// Lab is the path of the lab, to which a refusal's page leads; "" for none.
	Lab string

	// Shutdown calls OnStop, if set, when requests have not ended in time.
	OnStop func()

	turn     chan bool       // holds a value while an application runs in serial mode
	running  sync.WaitGroup  // Serve, and the connections that it serves
	stopping atomic.Bool     // Shutdown has been called
	givenUp  context.Context // done when Shutdown has waited long enough
	giveUp   func()          // makes givenUp done
	mu       sync.Mutex      // guards what follows
	listener net.Listener
	conns    map[*conn]bool
}

// newServer returns a Server with the default limits of the command line.
func newServer(application Application) *Server {
	s := &Server{
		Application: application,
		Scheme:      urlScheme(os.Getenv("HTTPS")),
		Timeout:     10 * time.Second,
		MaxBody:     1 << 30,
		MaxConns:    8192,
		ErrorLog:    log.New(os.Stderr, "", 0),
		turn:        make(chan bool, 1),
		conns:       map[*conn]bool{},
	}
	s.givenUp, s.giveUp = context.WithCancel(context.Background())
	return s
}

// urlScheme derives wsgi.url_scheme from the variable HTTPS, which is set where a proxy
// terminates TLS. (PEP 3333, "URL Reconstruction")
func urlScheme(https string) string {
	if https == "on" || https == "1" || https == "yes" {
		return "https"
	}
	return "http"
}

// Serve accepts connections until Shutdown, and serves each in a goroutine. In serial
// mode only the calls of the application take turns: a slow client blocks no other. While
// the server stops, connections from the backlog wait longer than accept does for one
// more, so until it is empty: a client that has its answer could connect again, and the
// backlog would never end.
func (s *Server) Serve(l net.Listener) {
	s.mu.Lock()
	s.listener = l
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer l.Close() // fails if it is closed already
	slots := make(chan bool, s.MaxConns)
	for {
		select {
		case slots <- true:
		case <-s.givenUp.Done():
			return
		}
		c, err := s.accept(l)
		if err != nil {
			return
		}
		s.running.Add(1)
		go func() {
			defer s.running.Done()
			defer func() { <-slots }()
			if s.stopping.Load() {
				time.Sleep(2 * lull) // until the backlog is empty, see above
			}
			s.serveConn(c)
		}()
	}
}

// accept waits for the next connection. It fails when the listener has been closed, or
// when the server is stopping and no connection has come from the backlog for a lull. A
// deadline that passes counts only if the Accept began after the stop: the stop itself
// ends one that runs, perhaps as a connection comes.
func (s *Server) accept(l net.Listener) (net.Conn, error) {
	for failed := false; ; {
		stopping := s.stopping.Load()
		if stopping {
			limitAccept(l)
		}
		c, err := l.Accept()
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if err == nil || errors.Is(err, net.ErrClosed) || late && stopping {
			return c, err
		}
		if late {
			continue
		}
		if !failed {
			s.ErrorLog.Printf("cannot accept a connection, retrying: %v", err)
		}
		failed = true
		time.Sleep(lull) // e.g. out of descriptors; wait for some to be closed
	}
}

// An exchange is one connection: one request with its answer.
type exchange struct {
	server   *Server
	conn     conn
	reader   *bufio.Reader
	request  *Request
	input    Input
	errors   errorStream
	response Response
}

// readers holds the buffers of ended exchanges: a new one costs 5% of an exchange. Most
// heads fit into 2 KiB, and an idle client costs no more.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 2048) }}

// serveConn serves one connection: it reads a request, answers it, and hangs up.
func (s *Server) serveConn(c net.Conn) {
	application, onHead := s.Application, func(*Request, error) {}
	if s.Watch != nil {
		c, application, onHead = s.Watch(c, application)
	}
	e := &exchange{server: s, conn: conn{Conn: c, timeout: s.Timeout},
		reader: readers.Get().(*bufio.Reader), errors: errorStream{log: s.ErrorLog}}
	e.reader.Reset(&e.conn)
	defer e.end() // even if an application calls runtime.Goexit

	s.setState(&e.conn, false, s.Timeout) // the time for the head begins
	var err error
	e.request, err = readRequest(e.reader, s.MaxBody)
	err = s.reconsider(e.request, err)
	onHead(e.request, err)
	if err == errSilent {
		return
	}
	s.setState(&e.conn, true, 0)
	firstLine := httpLine
	if e.request.Version == "HTTP/0.9" {
		firstLine = noHead
	}
	e.response = newResponse(&e.conn, firstLine, e.request.Method, &e.errors)
	if refusal, ok := err.(*Refusal); ok {
		e.response.seeIt = e.seeIt(refusal)
		e.response.refuse(refusal)
	} else {
		e.answer(application)
	}
}

// seeIt returns the last line of a refusal's page, for a client on this machine: the URL
// of the lab with the head, unless that is too long for a URL.
func (e *exchange) seeIt(refusal *Refusal) string {
	client, ok := e.conn.RemoteAddr().(*net.TCPAddr)
	head := cmp.Or(strings.Join(e.request.lines, ""), refusal.Line) // of TLS, no line is read
	if !ok || !client.IP.IsLoopback() || e.server.Lab == "" || len(head) > 2000 {
		return ""
	}
	ended := strings.HasSuffix(head, "\n\r\n") || strings.HasSuffix(head, "\n\n")
	if refusal.Err == nil && !ended {
		head += "\r\n" // the rest of the head has not been read
	}
	return fmt.Sprintf("see it: http://%v%s#request=%s\n", e.conn.LocalAddr(), e.server.Lab,
		url.QueryEscape(visible(head)))
}

// reconsider returns the parser's error, or one that the parser cannot know: an https://
// target is for a server behind TLS (RFC 9110 §7.4), and a server that stops does not
// wait for the rest of a head.
func (s *Server) reconsider(q *Request, err error) error {
	if err == nil && q.Scheme == "https" && s.Scheme != "https" {
		return refuse("421 Misdirected Request", "RFC 9110 §7.4", q.Line,
			len(q.Method)+1, "expected http://: this request came without TLS")
	}
	if late, ok := err.(*Refusal); ok && late.Status == requestTimeout && s.stopping.Load() {
		return refuse(unavailable, "RFC 9110 §15.6.4", late.Line, late.Offset,
			"expected an empty line to end the head before this server stopped")
	}
	return err
}

// answer runs the application, with an environ made of the request.
func (e *exchange) answer(application Application) {
	s := e.server
	e.input = Input{r: e.reader, length: e.request.Length}
	if expectsContinue(e.request) {
		e.input.before = e.sendContinue
	}
	environ := newEnviron(e.request, e.conn.LocalAddr(), e.conn.RemoteAddr())
	environ.addInterface(s.Scheme, !s.Serial, s.Worker, false, &e.input, &e.errors)
	environ["rawsgi.application"] = application // for a local redirect (RFC 3875 §6.2.2)
	e.conn.eachRead = true
	if s.Serial {
		select {
		case s.turn <- true:
			defer func() { <-s.turn }()
		case <-s.givenUp.Done():
			e.response.refuse(refuse(unavailable, "RFC 9110 §15.6.4", "", 0,
				"this server stopped before it was this request's turn"))
			return
		}
	}
	run(application, environ, &e.response)
}

// addInterface adds the keys that say how the application is run, and those with which it
// reads its request and reports errors. (PEP 3333, "environ Variables")
func (e Environ) addInterface(scheme string, threads, processes, once bool, input *Input,
	errorLog io.Writer) {
	e["wsgi.version"] = [2]int{1, 0}        // Python's tuple (1, 0)
	e["wsgi.url_scheme"] = scheme           // "http" or "https"
	e["wsgi.multithread"] = threads         // it may run twice at once in this process
	e["wsgi.multiprocess"] = processes      // it may run in another process too
	e["wsgi.run_once"] = once               // this process will answer no more
	e["wsgi.input"] = input                 // *Input
	e["wsgi.errors"] = errorLog             // io.Writer
	e["wsgi.file_wrapper"] = newFileWrapper // func(io.Reader, ...int) Body
}

// expectsContinue reports whether the client waits for a 100 before it sends the body. An
// HTTP/1.0 client does not know it. (RFC 9110 §10.1.1)
func expectsContinue(q *Request) bool {
	asks := func(field Header) bool {
		return field.is("Expect") && listed(field.Value, "100-continue")
	}
	return q.Length > 0 && q.Version != "HTTP/1.0" && slices.ContainsFunc(q.Header, asks)
}

// sendContinue asks the client for the body when the application first reads it, unless
// the head has been sent. (PEP 3333, "HTTP 1.1 Expect/Continue")
func (e *exchange) sendContinue() {
	if !e.response.headSent {
		io.WriteString(&e.conn, "HTTP/1.1 100 Continue\r\n\r\n") // if it fails, so does Read
	}
}

// end logs the exchange and closes the connection, even after a panic in the gateway.
func (e *exchange) end() {
	if reason := recover(); reason != nil {
		e.server.ErrorLog.Printf("a fault in the gateway: %v\n%s", reason, debug.Stack())
	}
	if e.conn.answering {
		e.errors.Flush()
		e.server.logAccess(e)
		e.hangUp()
	}
	e.conn.Close() // fails if it is closed already
	e.server.mu.Lock()
	delete(e.server.conns, &e.conn)
	e.server.mu.Unlock()
	if e.input.length == 0 { // else an application may have kept wsgi.input, which uses it
		e.reader.Reset(nil)
		readers.Put(e.reader)
	}
}

// hangUp closes only the sending half, and reads until the client has read the answer and
// closes. If it closed both halves while bytes from the client are unread, the operating
// system would send a reset, which can destroy the answer on its way. When an application
// was called and has read the whole body, a moment is enough. An answer that broke off
// but would seem whole ends with a reset. (RFC 9112 §9.6)
func (e *exchange) hangUp() {
	if e.response.needsReset() {
		e.conn.cut(true)
		return
	}
	half, ok := e.conn.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return // it is closed, or has no halves
	}
	limit := e.server.Timeout
	called := e.input.r != nil
	if called && e.input.read == e.input.length {
		limit = moment
	}
	e.server.setState(&e.conn, false, limit) // the time to close begins
	// Not from e.conn, whose Read may begin a new time. Any error ends the wait too.
	io.CopyN(io.Discard, e.conn.Conn, drainLimit)
}

// logAccess writes the access log line of an exchange, in wsgiref's form:
//
//	127.0.0.1 - - [21/Nov/2026 09:07:30] "GET / HTTP/1.1" 200 18
func (s *Server) logAccess(e *exchange) {
	if s.AccessLog == nil {
		return
	}
	r := &e.response
	client, _ := hostPort(e.conn.RemoteAddr())
	code, _, _ := strings.Cut(r.status, " ")
	s.AccessLog.Printf(`%s - - [%s] %+.1000q %s %d`, cmp.Or(client, "-"),
		r.now().Format("02/Jan/2006 15:04:05"), e.request.Line, code, r.sent)
}

// A conn is a connection with deadlines.
type conn struct {
	net.Conn
	timeout   time.Duration
	answering bool // the client waits for an answer, and Shutdown too; guarded by Server.mu
	eachRead  bool // each read has its own deadline; before that, the whole head has one
}

// Read reads, and says in a deadline error how long the timeout is.
func (c *conn) Read(p []byte) (int, error) {
	if c.eachRead {
		c.SetReadDeadline(time.Now().Add(c.timeout)) // an error here will be returned by Read
	}
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("waited %v: %w", c.timeout, os.ErrDeadlineExceeded)
	}
	return n, err
}

// Write writes p in pieces, each with its own deadline: a slow client may take any time
// for a long answer, if it reads 64 KiB within each timeout.
func (c *conn) Write(p []byte) (int, error) {
	written := 0
	for piece := range slices.Chunk(p, pieceSize) {
		c.SetWriteDeadline(time.Now().Add(c.timeout)) // an error here will be returned by Write
		n, err := c.Conn.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// ReadFrom is what io.Copy calls if the destination has it. On a TCP connection, and from
// a file, that is sendfile(2).
func (c *conn) ReadFrom(source io.Reader) (int64, error) {
	c.SetWriteDeadline(time.Now().Add(c.timeout)) // for all of it: see pieceSize
	return io.Copy(c.Conn, source)
}

// cut closes the connection: with a reset in an answer, so that the client cannot take
// the beginning of it for all of it.
func (c *conn) cut(reset bool) {
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok && reset {
		tcp.SetLinger(0) // fails if it is closed already
	}
	c.Close() // fails if it is closed already
}

const (
	lull       = 50 * time.Millisecond  // for the next connection in the backlog to come
	moment     = 500 * time.Millisecond // for what a client should do at once
	drainLimit = 64 << 20               // bytes that are discarded after an answer
)

// setState sets whether a connection is being answered. If not, limit is the client's
// time to send a head or to close, and at most a moment while the server stops.
func (s *Server) setState(c *conn, answering bool, limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c], c.answering = true, answering
	if s.stopping.Load() {
		limit = min(limit, moment)
	}
	if !answering {
		c.SetReadDeadline(time.Now().Add(limit)) // an error here will be returned by Read
	}
}

// Shutdown stops the server in three steps. It accepts the connections in the backlog and
// no more, and gives silent clients a moment. It waits up to wait for the answers to end.
// Then it gives up: a request that waits for its turn gets 503, and the rest is cut.
// Several calls may wait, each for its own time.
func (s *Server) Shutdown(wait time.Duration) {
	s.stopAccepting()
	ended := make(chan bool)
	go func() { s.running.Wait(); close(ended) }()
	if endsWithin(ended, wait) {
		return
	}
	s.giveUp()
	if endsWithin(ended, lull) {
		return
	}
	s.mu.Lock()
	for c := range s.conns {
		go c.cut(c.answering) // with a trace it may wait for a log that nobody reads
	}
	s.mu.Unlock()
	if s.OnStop != nil {
		s.OnStop()
	}
	endsWithin(ended, time.Second) // or not, e.g. if an application does not end
}

// endsWithin waits until a channel is closed, and reports false if that takes too long.
func endsWithin(end <-chan bool, limit time.Duration) bool {
	select {
	case <-end:
		return true
	case <-time.After(limit):
		return false
	}
}

// stopAccepting lets Serve accept until the backlog is empty, at most for a moment, and
// limits the wait for silent clients.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping.Store(true)
	for c := range s.conns {
		if !c.answering {
			c.SetReadDeadline(time.Now().Add(moment)) // an error will be returned by Read
		}
	}
	if l := s.listener; l != nil {
		limitAccept(l)
		time.AfterFunc(moment, func() { l.Close() }) // fails if it is closed already
	}
}

// limitAccept sets the deadline of the next Accept, or closes a listener without one.
func limitAccept(l net.Listener) {
	if timed, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
		timed.SetDeadline(time.Now().Add(lull)) // an error here will be returned by Accept
	} else {
		l.Close()
	}
}

// busy returns how many requests are being answered.
func (s *Server) busy() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.answering {
			n++
		}
	}
	return n
}

// errorStream is wsgi.errors of one exchange. It writes whole lines to the error log, so
// that lines of concurrent requests do not mix, and no character that a terminal would
// obey. (PEP 3333, "Input and Error Streams")
type errorStream struct {
	mu   sync.Mutex // an application may share it among its goroutines
	log  *log.Logger
	rest []byte // the beginning of a line
}

// Write never fails: there is nowhere to report it.
func (e *errorStream) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rest = append(e.rest, p...)
	for {
		line, rest, whole := bytes.Cut(e.rest, []byte("\n"))
		if !whole && len(line) < maxLine { // a longer line is logged in parts
			return len(p), nil
		}
		e.log.Print(printable(string(line)))
		e.rest = rest
	}
}

// Flush writes a line that has no end yet.
func (e *errorStream) Flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.rest) > 0 {
		e.log.Print(printable(string(e.rest)))
		e.rest = nil
	}
}

// obeyed matches what a terminal might obey or could not show: characters that are not
// letters, marks, numbers, punctuation, symbols, spaces, tabs or joiners.
var obeyed = regexp.MustCompile(`[^\pL\pM\pN\pP\pS\p{Zs}\t\x{200c}\x{200d}]`)

// printable replaces those characters, and bytes that are not UTF-8, in a line for a log.
func printable(line string) string {
	line = strings.ToValidUTF8(strings.TrimSuffix(line, "\r"), "\uFFFD")
	return obeyed.ReplaceAllString(line, "\uFFFD")
}

// serveCGI is the CGI gateway: it answers the one request that a web server has put into
// the environment of this process, from standard input to standard output. The head
// begins with Status. (RFC 3875 §4 and §6; PEP 3333, "The Server/Gateway Side")
func serveCGI(application Application, variables []string, stdin io.Reader,
	stdout io.Writer, errorLog *log.Logger) {
	environ := cgiEnviron(variables)
	stream := &errorStream{log: errorLog}
	defer stream.Flush()
	response := newResponse(stdout, cgiLine, environ.Get("REQUEST_METHOD"), stream)
	q := &Request{}
	if length := environ.Get("CONTENT_LENGTH"); length != "" { // its size is the server's concern
		if err := q.setLength(length, 0, math.MaxInt64); err != nil {
			response.refuse(err.(*Refusal))
			return
		}
	}
	input := &Input{r: bufio.NewReader(stdin), length: q.Length}
	environ.addInterface(urlScheme(environ.Get("HTTPS")), false, true, true, input, stream)
	environ["rawsgi.application"] = application
	run(application, environ, &response)
}

// cgiEnviron makes an environ of the variables of a process, "KEY=value" each.
func cgiEnviron(variables []string) Environ {
	environ := Environ{}
	for _, variable := range variables {
		key, value, _ := strings.Cut(variable, "=")
		environ[key] = value
	}
	delete(environ, "HTTP_CONTENT_TYPE")   // it is called CONTENT_TYPE
	delete(environ, "HTTP_CONTENT_LENGTH") // it is called CONTENT_LENGTH
	delete(environ, "HTTP_PROXY")          // many programs take it for their own setting
	for key, value := range cgiDefaults {
		if environ.Get(key) == "" {
			environ[key] = value
		}
	}
	if environ.Get("SCRIPT_NAME") == "" && environ.Get("PATH_INFO") == "" {
		environ["PATH_INFO"] = "/" // the PEP wants one of them
	}
	return environ
}

// cgiDefaults are for variables that are not set, as in a terminal without a web server.
var cgiDefaults = map[string]string{"REQUEST_METHOD": "GET", "SCRIPT_NAME": "",
	"PATH_INFO": "", "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
	"SERVER_PROTOCOL": "HTTP/1.0", "SERVER_SOFTWARE": software,
	"GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_ADDR": ""}

// callApplication runs an application without any server: it calls it, iterates over the
// body and closes it. Missing variables of environ get plausible values.
func callApplication(application Application, environ Environ) (
	status string, headers []Header, body []byte) {
	setTestingDefaults(environ)
	var out bytes.Buffer
	r := newResponse(&out, noHead, environ.Get("REQUEST_METHOD"),
		environ["wsgi.errors"].(io.Writer))
	result := application(environ, r.startResponse)
	defer closeBody(result) // an error is for a server to log
	r.sendBody(result)
	r.finish()
	return r.status, r.headers, out.Bytes()
}

// setTestingDefaults completes an environ, for a request from this machine for / or for
// the application that is mounted at SCRIPT_NAME.
func setTestingDefaults(environ Environ) {
	defaults := cgiEnviron([]string{"SERVER_NAME=127.0.0.1", "REMOTE_ADDR=127.0.0.1"})
	defaults["HTTP_HOST"] = cmp.Or(environ.Get("SERVER_NAME"), "127.0.0.1")
	if environ["SCRIPT_NAME"] != nil {
		defaults["PATH_INFO"] = ""
	}
	scheme := urlScheme(environ.Get("HTTPS"))
	if scheme == "https" {
		defaults["SERVER_PORT"] = "443"
	}
	defaults.addInterface(scheme, false, false, false, &Input{}, io.Discard)
	maps.Copy(defaults, environ) // what is there is kept
	maps.Copy(environ, defaults)
}

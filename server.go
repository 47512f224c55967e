// server.go: gateways, which connect applications to clients.
//
// A connection is accepted here, a request is read from it (request.go), the application
// is run (response.go), and the connection is closed in a way that lets the client read
// the answer to its end. One request a connection, as in HTTP/1.0 (RFC 1945 §1.4):
//
//	Serve → serveConn → readRequest → newEnviron → run → hangUp
//
// This file also handles clients that send nothing, send slowly, read slowly, come in large
// numbers or leave in the middle, and a signal to stop.
//
// At the end stand two shorter gateways: serveCGI, which answers the one request that a web
// server has put into this process's environment, and callApplication, which has neither
// client nor server.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Server is the HTTP/1.0 gateway. newServer sets every field; each may be changed before
// Serve.
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

	// Watch, if set, is given each connection and the application. It returns what to use
	// instead, and a function that is told what the parser has made of the head.
	Watch func(net.Conn, Application) (net.Conn, Application, func(*Request, error))

	// Shutdown calls OnStop, if set, when requests have not ended in time.
	OnStop func()

	turn     sync.Mutex     // held by the one application call that runs in serial mode
	running  sync.WaitGroup // Serve, and the connections that it serves
	gaveUp   chan bool      // closed when Shutdown has waited long enough
	mu       sync.Mutex     // guards what follows
	listener net.Listener
	conns    map[*conn]bool
	stopping bool // Shutdown has been called
}

// newServer returns a Server with the limits of the command line's defaults.
func newServer(application Application) *Server {
	return &Server{
		Application: application,
		Scheme:      urlScheme(os.Getenv("HTTPS")),
		Timeout:     10 * time.Second,
		MaxBody:     1 << 30,
		MaxConns:    8192,
		ErrorLog:    log.New(os.Stderr, "", 0),
		gaveUp:      make(chan bool),
		conns:       map[*conn]bool{},
	}
}

// urlScheme derives wsgi.url_scheme from the variable HTTPS, which is set where a proxy
// terminates TLS. (PEP 3333, "URL Reconstruction")
func urlScheme(https string) string {
	switch https {
	case "on", "1", "yes":
		return "https"
	}
	return "http"
}

// Serve accepts connections until Shutdown, and serves each in a goroutine. In serial mode
// only the calls of the application take turns: an idle connection blocks no other.
func (s *Server) Serve(l net.Listener) {
	defer l.Close() // fails if it is closed already
	if !s.register(l) {
		return
	}
	defer s.running.Done()
	slots := make(chan bool, s.MaxConns)
	for {
		select {
		case slots <- true:
		case <-s.gaveUp:
			return
		}
		c, err := s.accept(l)
		if err != nil {
			<-slots
			break
		}
		s.start(c, slots)
	}
	waiting := acceptWaiting(l, slots)
	l.Close()
	if s.Worker && len(waiting) > 0 {
		time.Sleep(lull) // the other workers may be about to close theirs
	}
	for _, c := range waiting {
		s.start(c, slots)
	}
}

// register stores the listener for Shutdown, and reports false after a Shutdown.
func (s *Server) register(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.listener = l
		s.running.Add(1)
	}
	return !s.stopping
}

// start serves a connection in a goroutine, which frees a slot at its end.
func (s *Server) start(c net.Conn, slots <-chan bool) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer func() { <-slots }()
		s.serveConn(c)
	}()
}

// accept waits for the next connection. Its error means that the server stops.
func (s *Server) accept(l net.Listener) (net.Conn, error) {
	for failed := false; ; failed = true {
		c, err := l.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) ||
			errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
		if !failed {
			s.ErrorLog.Printf("cannot accept a connection, retrying: %v", err)
		}
		time.Sleep(50 * time.Millisecond) // e.g. for want of descriptors: some will be closed
	}
}

// How long a server that stops waits.
const (
	lull   = 50 * time.Millisecond  // for another connection in the backlog
	moment = 500 * time.Millisecond // for the request of a new connection
)

// acceptWaiting accepts the connections in the backlog. They are served after the listener
// is closed: until then, their clients wait for the answers and open no new connections, so
// that the backlog becomes empty.
func acceptWaiting(l net.Listener, slots chan<- bool) (waiting []net.Conn) {
	timed, ok := l.(interface{ SetDeadline(time.Time) error })
	for end := time.Now().Add(moment); ok && time.Now().Before(end); {
		select {
		case slots <- true:
		default:
			return waiting // all slots are taken
		}
		timed.SetDeadline(time.Now().Add(lull)) // fails if closed, and so will Accept
		c, err := l.Accept()
		if err != nil {
			return waiting
		}
		waiting = append(waiting, c)
	}
	return waiting
}

// An exchange is one connection: one request with its answer. Its parts are fields and
// not pointers, so that they come with a single allocation.
type exchange struct {
	server   *Server
	conn     conn
	reader   *bufio.Reader
	request  *Request
	input    Input
	errors   errorStream
	response Response
}

// readers holds the buffers of exchanges that have ended. A new one for each would make an
// exchange slower. Most heads fit into 2 KiB, and an idle client costs no more.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 2048) }}

// serveConn serves one connection: it reads a request, answers it, and hangs up.
func (s *Server) serveConn(c net.Conn) {
	application, onHead := s.Application, func(*Request, error) {}
	if s.Watch != nil {
		c, application, onHead = s.Watch(c, application)
	}
	e := &exchange{server: s, conn: conn{Conn: c, timeout: s.Timeout}}
	e.reader = readers.Get().(*bufio.Reader)
	e.reader.Reset(&e.conn)
	defer e.end() // even if an application calls runtime.Goexit

	s.setState(&e.conn, asking) // the time for the head begins
	var err error
	e.request, err = s.readRequest(e.reader)
	onHead(e.request, err)
	if err == errSilent {
		return
	}
	s.setState(&e.conn, answering)
	e.begin()
	if refusal, ok := err.(*Refusal); ok {
		e.response.refuse(refusal)
	} else {
		e.answer(application)
	}
}

// readRequest reads a request that this server can answer: an https:// target can only be
// meant for a server behind TLS (RFC 9110 §7.4), and a server that stops does not wait for
// the rest of a head.
func (s *Server) readRequest(r *bufio.Reader) (*Request, error) {
	request, err := readRequest(r, s.MaxBody)
	if err == nil && request.Scheme == "https" && s.Scheme != "https" {
		err = refuse("421 Misdirected Request", "RFC 9110 §7.4", request.Line,
			len(request.Method)+1, "expected http://: nothing has decrypted this request")
	}
	if late, ok := err.(*Refusal); ok && late.Status == requestTimeout && s.isStopping() {
		err = refuse("503 Service Unavailable", "RFC 9110 §15.6.4", late.Line, late.Offset,
			"expected an empty line to end the head before this server stopped")
	}
	return request, err
}

// begin prepares the answer.
func (e *exchange) begin() {
	firstLine := httpLine
	if e.request.Version == "HTTP/0.9" {
		firstLine = noHead
	}
	e.errors.log = e.server.ErrorLog
	e.response = newResponse(&e.conn, firstLine, e.request.Method, &e.errors)
}

// answer runs the application, with an environ made of the request.
func (e *exchange) answer(application Application) {
	environ := newEnviron(e.request, e.conn.LocalAddr(), e.conn.RemoteAddr())
	environ["wsgi.url_scheme"] = e.server.Scheme
	environ["wsgi.multithread"] = !e.server.Serial // may run twice at once in this process
	environ["wsgi.multiprocess"] = e.server.Worker // may run in another process too
	environ["wsgi.run_once"] = false               // this process will answer more
	e.input = Input{r: e.reader, length: e.request.Length}
	if expectsContinue(e.request) {
		e.input.before = e.sendContinue
	}
	environ.addInterface(&e.input, &e.errors)
	environ["rawsgi.application"] = application // for a local redirect (RFC 3875 §6.2.2)
	e.conn.eachRead = true
	if e.server.Serial {
		e.server.turn.Lock()
		defer e.server.turn.Unlock()
	}
	run(application, environ, &e.response)
}

// addInterface adds the keys with which an application reads its request and reports
// errors. (PEP 3333, "environ Variables")
func (e Environ) addInterface(input *Input, errorLog io.Writer) {
	e["wsgi.version"] = [2]int{1, 0}        // Python's tuple (1, 0)
	e["wsgi.input"] = input                 // *Input
	e["wsgi.errors"] = errorLog             // io.Writer
	e["wsgi.file_wrapper"] = newFileWrapper // func(io.Reader, ...int) Body
}

// expectsContinue reports whether the client waits for a 100 before it sends the body. An
// HTTP/1.0 client does not know it. (RFC 9110 §10.1.1)
func expectsContinue(q *Request) bool {
	value, _ := lookup(q.Header, "Expect")
	return strings.EqualFold(value, "100-continue") && q.Length > 0 &&
		q.Version != "HTTP/1.0"
}

// sendContinue tells the client to send the body, when the application first reads it. It
// is too late for that when the head has been sent. (PEP 3333, "HTTP 1.1 Expect/Continue")
func (e *exchange) sendContinue() {
	if !e.response.headSent {
		// An error is not lost: the next read will return it.
		io.WriteString(&e.conn, "HTTP/1.1 100 Continue\r\n\r\n")
	}
}

// end logs the exchange and closes the connection, after a panic in the gateway too.
func (e *exchange) end() {
	if reason := recover(); reason != nil {
		e.server.ErrorLog.Printf("a fault in the gateway: %v\n%s", reason, debug.Stack())
	}
	if e.conn.state == answering {
		e.errors.Flush()
		e.server.logAccess(e)
	}
	e.hangUp()
	e.server.setState(&e.conn, closed)
	if e.input.length == 0 { // an application may have kept a wsgi.input that has bytes
		e.reader.Reset(nil)
		readers.Put(e.reader)
	}
}

// drainLimit is how many bytes hangUp discards so that the client can read the answer.
const drainLimit = 64 << 20

// hangUp closes the connection. Closing it while bytes from the client are unread makes the
// operating system send a reset, which can destroy the answer on its way. If there may be
// such bytes, hangUp first closes only the sending half, and reads until the client has read
// the answer and closes, or the time is over. (RFC 9112 §9.6)
func (e *exchange) hangUp() {
	half, ok := e.conn.Conn.(interface{ CloseWrite() error })
	if ok && e.mayBeUnread() && half.CloseWrite() == nil {
		e.server.setState(&e.conn, answered)          // the time to close begins
		io.CopyN(io.Discard, e.conn.Conn, drainLimit) // any error ends the wait too
	}
	e.conn.Close() // fails if it is closed already
}

// mayBeUnread reports whether the client may have sent, or be sending, bytes that nobody
// has read: the rest of a refused request or of a body, header lines behind an HTTP/0.9
// request, a line end behind a body, or a body without Content-Length.
func (e *exchange) mayBeUnread() bool {
	if e.conn.state == asking { // without a request
		return false
	}
	q := e.request
	bodyless := q.Version != "HTTP/0.9" && (q.Method == "GET" || q.Method == "HEAD")
	ran := e.conn.eachRead // otherwise the request was refused
	return !ran || !bodyless || q.Length > 0 || e.reader.Buffered() > 0 || e.conn.full
}

// logAccess writes the access log line of an exchange.
func (s *Server) logAccess(e *exchange) {
	if s.AccessLog == nil {
		return
	}
	client, _ := hostPort(e.conn.RemoteAddr())
	r := &e.response
	s.AccessLog.Print(accessLine(client, r.now(), e.request.Line, r.status, r.sent))
}

// accessLine is a line of the access log, in wsgiref's form:
//
//	127.0.0.1 - - [21/Nov/2026 09:07:30] "GET / HTTP/1.1" 200 18
func accessLine(client string, now time.Time, requestLine, status string, sent int64) string {
	if client == "" {
		client = "-"
	}
	code, _, _ := strings.Cut(status, " ")
	return fmt.Sprintf(`%s - - [%s] "%s" %s %d`, client,
		now.Format("02/Jan/2006 15:04:05"), visible(requestLine), code, sent)
}

// A conn is a connection with deadlines.
type conn struct {
	net.Conn
	timeout  time.Duration
	state    connState // guarded by Server.mu, as is since
	since    time.Time // when the client began to owe a head, or its close
	eachRead bool      // each read has its own deadline; before that, the whole head has one
	full     bool      // the last read filled its buffer: there may have been more
}

// Read reads, and adds the timeout to a deadline error.
func (c *conn) Read(p []byte) (int, error) {
	if c.eachRead {
		c.SetReadDeadline(time.Now().Add(c.timeout)) // fails if closed, and so will Read
	}
	n, err := c.Conn.Read(p)
	c.full = n == len(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("waited %v: %w", c.timeout, os.ErrDeadlineExceeded)
	}
	return n, err
}

// Write writes p in pieces, each with its own deadline: a slow client may take any time for
// a long answer, if it reads 64 KiB within each timeout.
func (c *conn) Write(p []byte) (int, error) {
	written := 0
	for piece := range slices.Chunk(p, pieceSize) {
		c.SetWriteDeadline(time.Now().Add(c.timeout)) // fails if closed, and so will Write
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
	c.SetWriteDeadline(time.Now().Add(c.timeout)) // as in Write
	return io.Copy(c.Conn, source)
}

// A connState tells Shutdown whether to wait for a connection.
type connState int

const (
	asking    connState = iota // the head has not been read
	answering                  // Shutdown waits for it
	answered                   // the client may still send, and has to close
	closed
)

// setState sets the state of a connection. A client that has no answer to expect gets a
// time limit, to send a head or to close.
func (s *Server) setState(c *conn, state connState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.state = state
	switch state {
	case asking, answered:
		s.conns[c], c.since = true, time.Now()
		s.limit(c)
	case closed:
		delete(s.conns, c)
	}
}

// limit sets the time limit of a client that has no answer to expect. s.mu is held.
func (s *Server) limit(c *conn) {
	deadline := c.since.Add(s.Timeout)
	if s.stopping {
		deadline = time.Now().Add(lull)
		if fresh := c.since.Add(moment); c.state == asking && fresh.After(deadline) {
			deadline = fresh
		}
	}
	c.SetReadDeadline(deadline) // fails if closed, and so will Read
}

// Shutdown stops the server: it accepts what waits in the backlog, answers what has been
// asked, closes connections that stay silent, and returns when all exchanges have ended.
// After grace it closes what is still open and gives that a second to end.
func (s *Server) Shutdown(grace time.Duration) {
	s.stopAccepting()
	ended := make(chan bool)
	go func() { s.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return
	case <-time.After(grace):
	}
	s.closeAll()
	if s.OnStop != nil {
		s.OnStop()
	}
	select {
	case <-ended:
	case <-time.After(time.Second): // e.g. an application that does not end
	}
}

// stopAccepting ends the wait in Serve, and limits the wait for clients that have no answer
// to expect.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for c := range s.conns {
		if c.state != answering {
			s.limit(c)
		}
	}
	if timed, ok := s.listener.(interface{ SetDeadline(time.Time) error }); ok {
		timed.SetDeadline(time.Now()) // fails if it is closed, which serves as well
	} else if s.listener != nil {
		s.listener.Close()
	}
}

// closeAll closes every connection, and stops a Serve that waits for a connection to end.
func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close() // fails if it is closed already
	}
	select {
	case <-s.gaveUp: // a second Shutdown
	default:
		close(s.gaveUp)
	}
}

// isStopping reports whether Shutdown has been called, and has shortened the time limits.
func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// busy returns how many requests are being answered.
func (s *Server) busy() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.state == answering {
			n++
		}
	}
	return n
}

// errorStream is wsgi.errors of one exchange. It hands whole lines to the error log, so
// that those of concurrent requests do not mix, and nothing that a terminal would obey.
// (PEP 3333, "Input and Error Streams")
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

// printable replaces control characters except tabs, characters that begin a line or change
// its direction, which a terminal would obey, and bytes that are not UTF-8.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case ' ' <= r && r <= '~' || r == '\t': // most are
			return r
		case unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			return '\uFFFD'
		}
		return r // bytes that are not UTF-8 have become U+FFFD already
	}, strings.TrimSuffix(line, "\r"))
}

// serveCGI is the CGI gateway: it answers the one request that a web server has put into
// the environment of this process, from standard input to standard output. Environ comes
// from the process, the head begins with Status, and the rest is as for a socket.
// (RFC 3875 §4 and §6; PEP 3333, "The Server/Gateway Side")
func serveCGI(application Application, variables []string, stdin io.Reader,
	stdout io.Writer, errorLog *log.Logger) {
	environ := cgiEnviron(variables)
	environ["wsgi.url_scheme"] = urlScheme(environ.Get("HTTPS"))
	environ["wsgi.multithread"] = false
	environ["wsgi.multiprocess"] = true
	environ["wsgi.run_once"] = true
	stream := &errorStream{log: errorLog}
	defer stream.Flush()
	response := newResponse(stdout, cgiLine, environ.Get("REQUEST_METHOD"), stream)
	q := &Request{}
	if length := environ.Get("CONTENT_LENGTH"); length != "" {
		// The web server has checked how large it is.
		if err := q.setLength(length, 0, math.MaxInt64); err != nil {
			response.refuse(err.(*Refusal))
			return
		}
	}
	environ.addInterface(&Input{r: bufio.NewReader(stdin), length: q.Length}, stream)
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
	// The first two are called CONTENT_TYPE and CONTENT_LENGTH. Many programs take the last
	// for their own setting, but here a client's header sets it. (RFC 3875 §4.1.18)
	for _, key := range []string{"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_PROXY"} {
		delete(environ, key)
	}
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

// cgiDefaults replace variables that a web server should have set, so that one can try a
// CGI program in a terminal.
var cgiDefaults = map[string]string{"REQUEST_METHOD": "GET", "SCRIPT_NAME": "",
	"PATH_INFO": "", "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
	"SERVER_PROTOCOL": "HTTP/1.0", "SERVER_SOFTWARE": software,
	"GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_ADDR": ""}

// callApplication runs an application without any server, and is the shortest gateway
// there is: it calls, iterates, closes. Missing variables of environ get plausible values.
func callApplication(application Application, environ Environ) (
	status string, headers []Header, body []byte) {
	if environ == nil {
		environ = Environ{}
	}
	setTestingDefaults(environ)
	var out bytes.Buffer
	startResponse := func(s string, h []Header, excInfo ...error) io.Writer {
		if status != "" && (len(excInfo) == 0 || excInfo[0] == nil) {
			panic(errStartedTwice)
		}
		if _, err := checkHead(s, h); err != nil {
			panic(err)
		}
		status, headers = s, slices.Clone(h)
		return &out
	}
	result := application(environ, startResponse)
	defer closeBody(result) // an error is for a server to log
	for block := range blocks(result) {
		if status == "" && len(block) > 0 {
			break
		}
		out.Write(block)
	}
	if status == "" {
		panic(errNotStarted)
	}
	return status, headers, out.Bytes()
}

// setTestingDefaults completes an environ as if a client on this machine had asked for /,
// or for the application that is mounted at SCRIPT_NAME.
func setTestingDefaults(environ Environ) {
	request := &Request{Method: "GET", Target: "/", Path: "/", Version: "HTTP/1.0"}
	if environ["SCRIPT_NAME"] != nil {
		request.Path = ""
	}
	loopback, scheme, port := net.IPv4(127, 0, 0, 1), urlScheme(environ.Get("HTTPS")), 80
	if scheme == "https" {
		port = 443
	}
	defaults := newEnviron(request, &net.TCPAddr{IP: loopback, Port: port},
		&net.TCPAddr{IP: loopback, Port: 49152})
	defaults["HTTP_HOST"] = loopback.String()
	if name := environ.Get("SERVER_NAME"); name != "" {
		defaults["HTTP_HOST"] = name
	}
	defaults["wsgi.url_scheme"] = scheme
	defaults["wsgi.multithread"] = false
	defaults["wsgi.multiprocess"] = false
	defaults["wsgi.run_once"] = false
	defaults.addInterface(&Input{}, io.Discard)
	maps.Copy(defaults, environ) // what is there is kept
	maps.Copy(environ, defaults)
}

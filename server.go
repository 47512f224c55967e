// server.go: gateways, which is to say who calls the application.
//
// A connection is accepted here, a request is read from it (request.go), the application
// is run (response.go), and the connection is closed in a way that lets the client read
// the answer to its end. One request a connection, as in HTTP/1.0 (RFC 1945 §1.4):
//
//	Serve → serveConn → readRequest → newEnviron → run → hangUp
//
// What a server has to fear is here as well: clients that say nothing, send slowly, read
// slowly, come in crowds, leave in the middle; and a signal to stop.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server is the HTTP/1.0 gateway. Every field stands as newServer sets it, or may be
// changed before Serve.
type Server struct {
	Application Application
	Serial      bool          // one application call at a time
	Worker      bool          // one of several processes
	Timeout     time.Duration // for a whole head, each read of a body, each 64 KiB written
	MaxBody     int64         // bytes in a request's body
	MaxConns    int           // connections open at once; more wait in the backlog
	AccessLog   *log.Logger   // one line a request; nil for none
	ErrorLog    *log.Logger   // wsgi.errors and the server's own troubles

	Trace func() *recorder // makes one for each exchange; nil if nobody watches

	turn     sync.Mutex // held by the one application call that runs in serial mode
	addr     net.Addr   // at which the server listens
	gateway  Gateway    // what environ says of every connection
	running  sync.WaitGroup
	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[*conn]bool
	closed   bool
}

// newServer returns a Server with the limits of the command line's defaults.
func newServer(application Application) *Server {
	return &Server{
		Application: application,
		Timeout:     10 * time.Second,
		MaxBody:     1 << 30,
		MaxConns:    8192,
		ErrorLog:    log.New(os.Stderr, "", 0),
		conns:       map[*conn]bool{},
	}
}

// urlScheme guesses wsgi.url_scheme from the variable HTTPS, with which whoever puts TLS
// in front of a gateway says so. (PEP 3333, "URL Reconstruction")
func urlScheme(https string) string {
	switch https {
	case "on", "1", "yes":
		return "https"
	}
	return "http"
}

// listen opens the listening socket: "host:port", or "unix:/path". Port 0 is any free
// port, and no host is 127.0.0.1, not every address of this machine.
func listen(addr string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		removeStale(path)
		return net.Listen("unix", path)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("-addr is host:port or unix:/path: %w", err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	// Keep-alive probes are for long silences, which a deadline ends here: not switching
	// them on saves 4 of 12 system calls a connection. Multipath TCP, Go's default for
	// listeners, makes a connection 10% dearer and is of no use to a short one.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
}

// removeStale removes the socket that a killed server has left behind: one at which
// nobody answers.
func removeStale(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return // nothing there, or something that is not ours to remove
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close() // somebody serves there: Listen will say so
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path) // if that fails, Listen says so
	}
}

// Serve accepts connections until Shutdown, a goroutine for each. In serial mode that is
// so too, and the applications take turns: a browser's idle connection blocks nobody.
func (s *Server) Serve(l net.Listener) {
	s.gateway = Gateway{URLScheme: urlScheme(os.Getenv("HTTPS")),
		MultiThread: !s.Serial, MultiProcess: s.Worker, Application: s.Application}
	s.addr = l.Addr()
	s.gateway.setServer(s.addr)
	s.mu.Lock()
	s.listener = l
	closed := s.closed
	s.mu.Unlock()
	if closed { // Shutdown came first and had no listener to close
		l.Close()
	}
	slots := make(chan bool, s.MaxConns)
	for failing := false; ; {
		slots <- true
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // e.g. out of file descriptors: some will be closed
			if !failing {
				s.ErrorLog.Printf("cannot accept a connection, trying on: %v", err)
			}
			failing = true
			time.Sleep(50 * time.Millisecond)
			<-slots
			continue
		}
		failing = false
		go func() {
			defer func() { <-slots }()
			s.serveConn(c)
		}()
	}
}

// Shutdown stops accepting, hangs up on clients that have not asked anything yet, lets
// running requests finish within grace, and then closes what is still open.
func (s *Server) Shutdown(grace time.Duration) {
	s.mu.Lock()
	s.closed = true
	if s.listener != nil {
		s.listener.Close() // an error would mean that it is closed already
	}
	for c := range s.conns {
		if !c.asked.Load() {
			c.Close()
		}
	}
	s.mu.Unlock()
	idle := make(chan bool)
	go func() { s.running.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-time.After(grace):
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
	}
}

// admit registers a connection for Shutdown, and reports false when that has begun.
func (s *Server) admit(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.running.Add(1)
		s.conns[c] = true
	}
	return !s.closed
}

func (s *Server) dismiss(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.running.Done()
}

// An exchange is one connection: one request with its answer. Its parts are fields and
// not pointers, so that they come with a single allocation.
type exchange struct {
	server   *Server
	conn     conn
	reader   *bufio.Reader
	request  *Request
	gateway  Gateway
	input    Input
	response Response
	errors   errorStream
	trace    *recorder // nil if nobody watches
	answered bool      // there is an answer: the exchange is logged
	unread   bool      // the client may have sent, or be sending, what nobody will read
}

// readers holds the buffers of exchanges that have ended. A new one for each would make an
// exchange 20% slower. Most heads fit into 2 KiB, and an idle client costs no more.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 2048) }}

// serveConn serves one connection: it reads a request, has it answered, and hangs up.
func (s *Server) serveConn(connection net.Conn) {
	e := &exchange{server: s, conn: conn{Conn: connection, timeout: s.Timeout}}
	if !s.admit(&e.conn) {
		connection.Close()
		return
	}
	if s.Trace != nil {
		e.trace = s.Trace()
		e.conn.Conn = e.trace.accepted(connection)
	}
	e.reader = readers.Get().(*bufio.Reader)
	e.reader.Reset(&e.conn)
	defer e.end() // even if an application calls runtime.Goexit

	e.conn.SetReadDeadline(time.Now().Add(s.Timeout)) // for the whole head
	var err error
	e.request, err = readRequest(e.reader, s.MaxBody)
	e.conn.asked.Store(true)
	if e.trace != nil {
		e.trace.understood(e.request, e.reader.Buffered(), err)
	}
	if err == nil {
		e.begin()
		e.answer()
	} else if refusal, ok := err.(*Refusal); ok {
		e.begin()
		e.response.logRefusal(refusal)
		e.response.refuse(refusal)
	} // otherwise nothing was asked, or the client has left: hang up
}

// begin prepares the answer.
func (e *exchange) begin() {
	e.answered, e.unread = true, true
	e.errors.log = e.server.ErrorLog
	e.gateway = e.server.gateway
	e.gateway.Errors = &e.errors
	if tcp, ok := e.server.addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		e.gateway.setServer(e.conn.LocalAddr()) // of all our addresses, the one it came to
	}
	host, port := hostPort(e.conn.RemoteAddr())
	e.gateway.RemoteAddr, e.gateway.RemotePort = host, port
	firstLine := httpLine
	if e.request.Version == "HTTP/0.9" {
		firstLine = noHead
	}
	e.response = newResponse(&e.conn, firstLine, e.request.Method, &e.errors)
	if e.trace != nil {
		e.trace.response, e.errors.heard = &e.response, e.trace.logged
	}
}

// answer runs the application.
func (e *exchange) answer() {
	q := e.request
	e.input = Input{r: e.reader, length: q.Length, left: q.Length}
	if expectsContinue(q) {
		e.input.before = e.sendContinue
	}
	environ := newEnviron(q, &e.input, &e.gateway)
	if e.trace != nil {
		e.trace.complete(environ)
	}
	e.conn.eachRead = true
	if e.server.Serial {
		e.server.turn.Lock()
		defer e.server.turn.Unlock()
	}
	run(e.server.Application, environ, &e.response)
	// A request without Content-Length may be followed by a body all the same, unless its
	// method has none, and an HTTP/0.9 request by header lines.
	bodyless := q.Version != "HTTP/0.9" && (q.Method == "GET" || q.Method == "HEAD")
	e.unread = e.input.left > 0 || e.reader.Buffered() > 0 || q.Length == 0 && !bodyless
}

// expectsContinue reports whether the client waits for a 100 before it sends the body. An
// HTTP/1.0 client does not know it. (RFC 9110 §10.1.1)
func expectsContinue(q *Request) bool {
	expect, _ := lookup(q.Header, "Expect")
	return strings.EqualFold(expect, "100-continue") && q.Length > 0 &&
		q.Version != "HTTP/1.0"
}

// sendContinue tells the client to send the body, when the application first reads it.
// It is too late for that when the answer has begun. (PEP 3333, "HTTP 1.1
// Expect/Continue")
func (e *exchange) sendContinue() {
	if !e.response.headSent {
		// An error is not lost: the read that comes next will meet it.
		io.WriteString(&e.conn, "HTTP/1.1 100 Continue\r\n\r\n")
	}
}

// end logs the exchange and closes the connection, after a panic in the gateway too.
func (e *exchange) end() {
	if reason := recover(); reason != nil {
		e.server.ErrorLog.Printf("a fault in the gateway: %v\n%s", reason, debug.Stack())
	}
	if e.answered {
		e.errors.Flush()
		e.server.logAccess(e)
	}
	e.conn.hangUp(e.unread)
	e.server.dismiss(&e.conn)
	if e.input.length == 0 { // an application may have kept a wsgi.input that has bytes
		e.reader.Reset(nil)
		readers.Put(e.reader)
	}
}

// setServer sets SERVER_NAME and SERVER_PORT from the address at which the server
// listens. Without a name of its own, its address is its name. (RFC 3875 §4.1.14)
func (g *Gateway) setServer(addr net.Addr) {
	host, port := hostPort(addr)
	switch {
	case host == "": // a Unix socket has nothing that could stand in a URL
		host, port = "localhost", "80"
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	g.ServerName, g.ServerPort = host, port
}

// hostPort takes an address apart: [fe80::1%eth0]:8000 → "fe80::1", "8000". For anything
// but TCP both are "".
func hostPort(addr net.Addr) (host, port string) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "", ""
	}
	a := tcp.AddrPort()
	text := netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()).String()
	colon := strings.LastIndexByte(text, ':')
	return strings.Trim(text[:colon], "[]"), text[colon+1:]
}

// logAccess writes the access log line of an exchange, in wsgiref's form:
//
//	127.0.0.1 - - [21/Nov/2026 09:07:30] "GET / HTTP/1.1" 200 18
func (s *Server) logAccess(e *exchange) {
	if s.AccessLog == nil {
		return
	}
	client, r := e.gateway.RemoteAddr, e.response
	if client == "" {
		client = "-"
	}
	code, _, _ := strings.Cut(r.status, " ")
	s.AccessLog.Printf(`%s - - [%s] "%s" %s %d`, client,
		r.now().Format("02/Jan/2006 15:04:05"), visible(e.request.Line), code, r.sent)
}

// A conn is a connection with deadlines.
type conn struct {
	net.Conn
	timeout  time.Duration
	eachRead bool        // each read has its own deadline; before that, the whole head has one
	asked    atomic.Bool // the head is read: Shutdown waits for the answer
}

// Read reads, and says how long it waited if that was in vain.
func (c *conn) Read(p []byte) (int, error) {
	if c.eachRead {
		c.SetReadDeadline(time.Now().Add(c.timeout)) // fails if closed, and so will Read
	}
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("waited %v: %w", c.timeout, os.ErrDeadlineExceeded)
	}
	return n, err
}

// Write writes p in pieces, each with its own deadline: a slow reader may take as long as
// it likes for a long answer, if it takes 64 KiB in that time.
func (c *conn) Write(p []byte) (written int, err error) {
	for len(p) > 0 && err == nil {
		piece := p[:min(len(p), pieceSize)]
		p = p[len(piece):]
		c.SetWriteDeadline(time.Now().Add(c.timeout)) // fails if closed, and so will Write
		n, writeErr := c.Conn.Write(piece)
		written, err = written+n, writeErr
	}
	return written, err
}

// ReadFrom is what io.Copy calls if the destination has it. On a TCP connection, and from
// a file, that is sendfile(2).
func (c *conn) ReadFrom(source io.Reader) (int64, error) {
	c.SetWriteDeadline(time.Now().Add(c.timeout)) // as in Write
	return io.Copy(c.Conn, source)
}

// drainLimit is how many bytes are read and thrown away for the sake of an answer.
const drainLimit = 64 << 20

// hangUp closes the connection. Closing it while bytes from the client lie unread makes
// the operating system send a reset, which can destroy the answer on its way. So, if
// there may be such bytes, we end our half first, and read until the client has read the
// answer and closes, for a while. (RFC 9112 §9.6)
func (c *conn) hangUp(unread bool) {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if unread && ok && half.CloseWrite() == nil {
		c.SetReadDeadline(time.Now().Add(c.timeout))
		// Any error ends the wait, as the end of the bytes does.
		io.CopyN(io.Discard, c.Conn, drainLimit)
	}
	c.Close() // an error would mean that it is closed already
}

// errorStream is wsgi.errors of one exchange. It hands whole lines to the error log, so
// that those of concurrent requests do not mix, and nothing that a terminal would obey.
// (PEP 3333, "Input and Error Streams")
type errorStream struct {
	mu    sync.Mutex // an application may share it among its goroutines
	log   *log.Logger
	rest  []byte       // the beginning of a line
	heard func([]byte) // is given what is written; nil if nobody watches
}

// Write never fails: there is nowhere to report it.
func (e *errorStream) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard != nil {
		e.heard(p)
	}
	e.rest = append(e.rest, p...)
	for {
		line, rest, whole := bytes.Cut(e.rest, []byte("\n"))
		if !whole && len(line) < maxLine { // a longer one is not waited for
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

// printable replaces control characters, but for tabs, and what is not UTF-8.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, line)
}

// visible shows bytes on one line of ASCII: CR LF as \r\n, other control characters and
// bytes beyond ASCII as \xNN, quotes and backslashes as \" and \\.
func visible(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\n':
			b.WriteString(`\n`)
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// quote shows the beginning of what a client or application sent, for an error message.
// Some client may take the message for HTML: it holds no "<".
func quote(s string) string {
	const enough = 80
	dots := ""
	if len(s) > enough {
		s, dots = s[:enough], "…"
	}
	return `"` + strings.ReplaceAll(visible(s), "<", `\x3c`) + `"` + dots
}

// serveCGI is the CGI gateway: it answers the one request that a web server has put into
// the environment of our process, from standard input to standard output. Environ comes
// from the process, the head begins with Status, and the rest is as for a socket: the same
// run. (RFC 3875 §4 and §6; PEP 3333, "The Server/Gateway Side")
func serveCGI(application Application, variables []string, stdin io.Reader,
	stdout io.Writer, errorLog *log.Logger, trace *recorder) {
	environ := Environ{}
	for _, variable := range variables {
		key, value, _ := strings.Cut(variable, "=")
		environ[key] = value
	}
	for key, value := range cgiDefaults {
		if environ.Get(key) == "" {
			environ[key] = value
		}
	}
	errors := &errorStream{log: errorLog}
	defer errors.Flush()
	q := &Request{}
	var err error
	if length := environ.Get("CONTENT_LENGTH"); length != "" {
		err = q.setLength(length, math.MaxInt64) // how much is too much, the server has judged
	}
	input := &Input{r: bufio.NewReader(stdin), length: q.Length, left: q.Length}
	environ.addGateway(input, &Gateway{URLScheme: urlScheme(environ.Get("HTTPS")),
		MultiProcess: true, RunOnce: true, Errors: errors, Application: application})
	if trace != nil {
		stdout = traceWriter{stdout, trace}
	}
	response := newResponse(stdout, cgiLine, environ.Get("REQUEST_METHOD"), errors)
	if trace != nil {
		trace.response, errors.heard = &response, trace.logged
		trace.complete(environ)
	}
	if refusal, ok := err.(*Refusal); ok {
		response.logRefusal(refusal)
		response.refuse(refusal)
		return
	}
	run(application, environ, &response)
}

// cgiDefaults stand in for variables that a web server should have set, so that somebody
// can try a CGI program in a terminal.
var cgiDefaults = map[string]string{"REQUEST_METHOD": "GET", "SCRIPT_NAME": "",
	"PATH_INFO": "", "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
	"SERVER_PROTOCOL": "HTTP/1.0", "SERVER_SOFTWARE": software,
	"GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_ADDR": ""}

// workerVariable marks a worker process in its environment, and workerSocket and
// workerLife are the two files that it inherits.
const (
	workerVariable = "RAWSGI_WORKER"
	workerSocket   = 3
	workerLife     = 4
)

// prefork serves with n worker processes that share one listening socket: the system
// gives each connection to one that waits in Accept. It returns when stop is closed and all
// workers have ended.
//
// The name is gunicorn's and Apache's, who fork: the child goes on where the parent was.
// A Go program has threads, which do not survive a fork, so we execute the program again.
func prefork(l net.Listener, n int, stop <-chan bool, errorLog *log.Logger) error {
	filer, ok := l.(interface{ File() (*os.File, error) })
	if !ok || runtime.GOOS == "windows" {
		return errors.New("-mode prefork needs Unix: a socket that processes can inherit")
	}
	socket, err := filer.File()
	if err != nil {
		return err
	}
	// Workers wait for the end of this pipe, whose other end only we have: it comes when
	// we end, even if we are killed and cannot tell them.
	life, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	defer life.Close()
	p := &parent{stop: stop, files: []*os.File{socket, life}, log: errorLog}
	var all sync.WaitGroup
	for range n {
		all.Add(1)
		go func() {
			defer all.Done()
			p.keepWorker()
		}()
	}
	<-stop
	p.mu.Lock() // not while a worker is started, which takes the socket's number
	l.Close()   // errors would mean that they are closed already
	socket.Close()
	p.mu.Unlock()
	all.Wait()
	return nil
}

// A parent is what the process that starts workers knows.
type parent struct {
	stop  <-chan bool
	files []*os.File // that a worker inherits, from number 3 on
	log   *log.Logger
	mu    sync.Mutex // held while a worker is started
}

// keepWorker starts a worker, and another whenever it dies, until stop is closed. One that
// dies at once will do so again, so there is a pause before the next.
func (p *parent) keepWorker() {
	for {
		begin := time.Now()
		worker, ended := p.startWorker()
		select {
		case err := <-ended:
			p.log.Printf("a worker has ended (%v), starting another", err)
		case <-p.stop:
			if worker != nil {
				worker.Signal(syscall.SIGTERM) // fails if it has ended just now
				<-ended
			}
			return
		}
		pause := time.Second - time.Since(begin)
		select {
		case <-time.After(max(pause, 0)):
		case <-p.stop:
			return
		}
	}
}

// startWorker starts a worker, and sends how it ends, or why it could not start.
func (p *parent) startWorker() (*os.Process, <-chan error) {
	ended := make(chan error, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stop:
		return nil, ended
	default:
	}
	worker := exec.Command(os.Args[0], os.Args[1:]...)
	if path, err := os.Executable(); err == nil {
		worker.Path = path // Args[0] need not be one
	}
	worker.Env = append(os.Environ(), workerVariable+"=1")
	worker.Stdout, worker.Stderr = os.Stdout, os.Stderr
	worker.ExtraFiles = p.files
	if err := worker.Start(); err != nil {
		ended <- err
		return nil, ended
	}
	go func() { ended <- worker.Wait() }()
	return worker.Process, ended
}

// inherit is a worker's first act: it returns the socket that it shares, and ends the
// process when the parent has ended.
func inherit() (net.Listener, error) {
	life := os.NewFile(workerLife, "life")
	go func() {
		io.Copy(io.Discard, life) // nothing is sent: it returns when the parent is gone
		os.Exit(exitOK)
	}()
	socket := os.NewFile(workerSocket, "socket")
	defer socket.Close() // FileListener makes a copy
	return net.FileListener(socket)
}

// An event is one step of an exchange, for whoever watches it: the narration of -trace and
// the lab page.
type event struct {
	At   int64  `json:"at"`   // microseconds since the connection was accepted
	Kind string `json:"kind"` // "in", "key", "call", …, as below
	Text string `json:"text"` // what happens, in printable characters

	// The bytes of the request that the event is about, the first and the one after the last.
	From int `json:"from"`
	To   int `json:"to"`

	Key     string            `json:"key,omitempty"`     // what they become in environ
	Value   string            `json:"value,omitempty"`   // the same; the rule of a refusal
	Data    []byte            `json:"data,omitempty"`    // bytes that come or go
	Environ map[string]string `json:"environ,omitempty"` // all of it, when it is complete
}

// A recorder tells of one exchange, event by event. It listens on the connection, on
// wsgi.errors and, as middleware, between the applications. What the parser did is told
// from what it returned: the code that does the work knows nothing of it.
type recorder struct {
	emit func(event)
	now  func() time.Time

	mu       sync.Mutex // an application may read its input in a goroutine of its own
	begin    time.Time
	received []byte    // until the head is understood
	count    int       // bytes received
	drains   bool      // our half is closed: what comes now is thrown away
	response *Response // from the moment there is one
	headLeft bool      // the head of the answer is on its way
	sent     int       // bytes to the client
}

func newRecorder(now func() time.Time, emit func(event)) *recorder {
	return &recorder{emit: emit, now: now, begin: now()}
}

// add tells of an event.
func (t *recorder) add(e event) {
	e.At = t.now().Sub(t.begin).Microseconds()
	t.emit(e)
}

func (t *recorder) say(kind, format string, args ...any) {
	t.add(event{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// accepted begins the record of a connection, and returns one that is listened on.
func (t *recorder) accepted(c net.Conn) net.Conn {
	client := "a client"
	if address := c.RemoteAddr().String(); address != "" {
		client = address
	}
	t.say("accept", "a connection from %s is accepted", client)
	return &tracedConn{c, t}
}

// A tracedConn tells what passes through a connection.
type tracedConn struct {
	net.Conn
	trace *recorder
}

func (c *tracedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.trace.came(p[:n])
	}
	switch {
	case err == io.EOF:
		c.trace.say("eof", "the client has ended its half of the connection")
	case err != nil:
		c.trace.say("eof", "reading ends: %v", err)
	}
	return n, err
}

func (c *tracedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.trace.left(p[:n])
	if err != nil {
		c.trace.say("eof", "writing ends: %v", err)
	}
	return n, err
}

// CloseWrite ends our half, if such a connection has halves.
func (c *tracedConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	c.trace.mu.Lock()
	c.trace.drains = true
	c.trace.mu.Unlock()
	c.trace.say("drain", "we end our half, and read on until the client has read the answer")
	return half.CloseWrite()
}

func (c *tracedConn) Close() error {
	c.trace.say("close", "the connection is closed")
	return c.Conn.Close()
}

// A traceWriter tells what passes through standard output.
type traceWriter struct {
	io.Writer
	trace *recorder
}

func (w traceWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.trace.left(p[:n])
	return n, err
}

// came tells of bytes from the client.
func (t *recorder) came(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := t.count
	t.count += len(p)
	if t.drains {
		t.say("drained", "%d bytes that nobody wanted are thrown away", len(p))
		return
	}
	t.received = append(t.received, p...)
	t.add(event{Kind: "in", From: from, To: t.count, Data: bytes.Clone(p),
		Text: fmt.Sprintf("%d bytes come: %d to %d", len(p), from, t.count-1)})
	if t.response != nil {
		t.received = nil // it is body by now
	}
}

// left tells of bytes to the client: first the head, and why it has a Content-Length.
func (t *recorder) left(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent += len(p)
	r := t.response
	if r != nil && !t.headLeft && r.firstLine != noHead && !bytes.HasPrefix(p, []byte("HTTP/1.1 100")) {
		t.headLeft = true
		t.say("length", "%s", lengthReason(r))
		end := bytes.Index(p, []byte("\r\n\r\n")) + 4
		t.add(event{Kind: "out", Data: bytes.Clone(p[:end]),
			Text: fmt.Sprintf("the head leaves, %d bytes", end)})
		p = p[end:]
	}
	if len(p) > 0 {
		t.add(event{Kind: "out", Data: bytes.Clone(p), Text: fmt.Sprintf("%d bytes leave", len(p))})
	}
}

func (t *recorder) bytesSent() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent
}

// lengthReason says why an answer has the Content-Length that it has.
func lengthReason(r *Response) string {
	_, own := lookup(r.headers, "Content-Length")
	switch {
	case r.bodyless():
		return "no Content-Length is inferred: " + r.status + " has no body"
	case own > 0:
		return "the application has given a Content-Length"
	case r.length >= 0:
		return fmt.Sprintf("Content-Length %d is inferred: the whole body is known", r.length)
	}
	return "no Content-Length: nobody knows how long the body will be, " +
		"so the end of the connection ends it"
}

// understood tells what the parser made of the bytes received, of which it has left unread
// some. Its error, if it is a *Refusal, says where the bad byte is.
func (t *recorder) understood(q *Request, unread int, err error) {
	t.mu.Lock()
	head := string(t.received[:len(t.received)-unread])
	t.received = nil
	t.mu.Unlock()
	spans := lineSpans(head)
	if q.Version != "" {
		t.requestLine(q, spans[0].from)
	}
	seen := Environ{}
	for i, field := range q.Header {
		t.field(q, field, spans[i+1], seen)
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		from, to := refusal.span(q, head, spans)
		t.add(event{Kind: "refused", From: from, To: to, Value: refusal.Source,
			Text: refusal.Status + ": " + refusal.Reason})
	case err != nil:
		t.say("eof", "%v: there will be no answer", err)
	case q.Length > 0:
		t.add(event{Kind: "body", From: len(head), To: len(head) + int(q.Length),
			Key: "wsgi.input", Value: fmt.Sprintf("%d bytes", q.Length),
			Text: fmt.Sprintf("the body begins: %d bytes, says Content-Length", q.Length)})
	default:
		t.add(event{Kind: "body", From: len(head), To: len(head), Key: "wsgi.input", Value: "0 bytes",
			Text: "there is no Content-Length, so there is no body"})
	}
}

// A span is a range of the bytes received: the first, and the one after the last.
type span struct{ from, to int }

// lineSpans returns where the lines of a head are, without their line ends, and without an
// empty line in front.
func lineSpans(head string) (spans []span) {
	from := 0
	for line := range strings.Lines(head) {
		text := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if text != "" || len(spans) > 0 {
			spans = append(spans, span{from, from + len(text)})
		}
		from += len(line)
	}
	return spans
}

// key tells what bytes of the request have become.
func (t *recorder) key(s span, key, value, note string) {
	t.add(event{Kind: "key", From: s.from, To: s.to, Key: key, Value: visible(value),
		Text: fmt.Sprintf("%s is %s%s", key, quote(value), note)})
}

func (t *recorder) dropped(s span, format string, args ...any) {
	t.add(event{Kind: "dropped", From: s.from, To: s.to, Text: fmt.Sprintf(format, args...)})
}

// requestLine tells what the request line, which begins at byte from, has become.
func (t *recorder) requestLine(q *Request, from int) {
	target := from + len(q.Method) + 1
	t.key(span{from, target - 1}, "REQUEST_METHOD", q.Method, "")
	if q.Path != "" { // otherwise the target is refused
		t.target(q, target)
	}
	if end := from + len(q.Line); q.Version != "HTTP/0.9" {
		t.key(span{end - len(q.Version), end}, "SERVER_PROTOCOL", q.Version, "")
	}
}

func (t *recorder) target(q *Request, at int) {
	target, fragment, found := strings.Cut(q.Target, "#")
	if q.Authority != "" {
		end := len("http://") + strings.IndexAny(target[len("http://"):]+"/", "/?")
		t.key(span{at + end - len(q.Authority), at + end}, "HTTP_HOST", q.Authority,
			": an absolute target decides")
		at, target = at+end, target[end:]
	}
	path, note := target, ""
	if i := strings.IndexByte(target, '?'); i >= 0 {
		path = target[:i]
	}
	if path != q.Path {
		note = ", decoded once"
	}
	t.key(span{at, at + len(path)}, "PATH_INFO", q.Path, note)
	end := at + len(target)
	t.key(span{end - len(q.Query), end}, "QUERY_STRING", q.Query, "")
	if found {
		t.dropped(span{end, end + 1 + len(fragment)}, "#%s is cut off: a fragment is for the "+
			"client alone", visible(fragment))
	}
}

// field tells what a header field has become, or why it has not.
func (t *recorder) field(q *Request, field Header, s span, seen Environ) {
	key, ok := environKey(field.Name)
	switch {
	case !ok && strings.Contains(field.Name, "_"):
		t.dropped(s, "%s is dropped: with a - instead of _ it would have the same key", field.Name)
	case !ok:
		t.dropped(s, "%s is dropped: many programs take HTTP_PROXY for their own setting", field.Name)
	case key == "HTTP_HOST" && q.Authority != "":
		t.dropped(s, "Host is dropped: the target says %s", visible(q.Authority))
	default:
		note := ""
		if seen[key] != nil {
			note = ": joined to what came before"
		}
		seen.addHeader(field)
		t.key(s, key, seen.Get(key), note)
	}
}

// span returns which bytes of the head are to blame; if bytes are missing, the place where
// they should be.
func (r *Refusal) span(q *Request, head string, spans []span) (from, to int) {
	for i, field := range slices.Backward(q.Header) {
		if strings.EqualFold(field.Name, r.Field) {
			return spans[i+1].from, spans[i+1].to
		}
	}
	switch {
	case head == "": // not even a line was read: its first byte was enough
		return 0, 1
	case r.Rest != "" && strings.HasSuffix(head, r.Rest):
		return len(head) - len(r.Rest), len(head)
	case len(spans) == 0:
		return len(head), len(head)
	}
	end := spans[len(spans)-1].to
	return end - len(r.Rest), end
}

// complete tells what environ is, and puts the recorder into it for traced.
func (t *recorder) complete(environ Environ) {
	all := map[string]string{}
	for key, value := range environ {
		all[key] = fmt.Sprintf("%T", value)
		switch value.(type) {
		case string, bool, [2]int:
			all[key] = visible(fmt.Sprint(value))
		}
	}
	t.add(event{Kind: "environ", Text: fmt.Sprintf("environ is complete: %d keys", len(all)),
		Environ: all})
	environ["rawsgi.trace"] = t
}

// logged tells of what is written to wsgi.errors, without the stacks of panics.
func (t *recorder) logged(p []byte) {
	text, _, _ := strings.Cut(string(p), "\ngoroutine ")
	t.say("log", "wsgi.errors: %s", printable(strings.TrimSpace(text)))
}

// traced puts a middleware around an application that tells the recorder, if environ has
// one, what the application does. It changes nothing of that.
func traced(name string, application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		t, ok := environ["rawsgi.trace"].(*recorder)
		if !ok {
			return application(environ, startResponse)
		}
		l := layer{t, name}
		l.tell("call", " is called with environ and startResponse")
		var body Body
		l.guard("", func() { body = application(environ, l.listen(startResponse)) })
		l.tell("return", " returns a body, %T", body)
		return l.wrap(body)
	}
}

// A layer is one application or middleware, as traced sees it.
type layer struct {
	*recorder
	name string
}

func (l layer) tell(kind, format string, args ...any) {
	l.say(kind, "%s%s", l.name, fmt.Sprintf(format, args...))
}

// guard does something, and tells if that does not come to its end. The panic goes on.
func (l layer) guard(what string, do func()) {
	finished := false
	defer func() {
		if !finished {
			l.tell("panic", "%s panics", what)
		}
	}()
	do()
	finished = true
}

// listen tells of calls of startResponse, and of the write() that it returns.
func (l layer) listen(startResponse StartResponse) StartResponse {
	return func(status string, headers []Header, excInfo ...error) (out io.Writer) {
		var names []string
		for _, header := range headers {
			names = append(names, visible(header.Name))
		}
		l.tell("start", " calls startResponse(%s) with headers: %s", quote(status),
			strings.Join(names, ", "))
		l.guard("'s call of startResponse", func() { out = startResponse(status, headers, excInfo...) })
		l.tell("started", " has it back: status and headers are stored, %d bytes have been sent",
			l.bytesSent())
		return layerWriter{out, l}
	}
}

type layerWriter struct {
	io.Writer
	layer
}

func (w layerWriter) Write(p []byte) (int, error) {
	w.tell("write", " calls write() with %d bytes", len(p))
	return w.Writer.Write(p)
}

// wrap tells of a body's blocks and of its Close. A file is left as it is: the gateway asks
// for that type, and would send it differently if it were another.
func (l layer) wrap(body Body) Body {
	if _, isFile := body.(*fileBody); isFile || body == nil {
		return body
	}
	if sized, ok := body.(interface{ Len() int }); ok {
		return sizedTracedBody{tracedBody{body, l}, sized.Len()}
	}
	return tracedBody{body, l}
}

type tracedBody struct {
	Body
	layer layer
}

func (b tracedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		b.layer.guard("'s body", func() {
			for block := range b.Body.All() {
				b.layer.tell("block", " gives a block of %d bytes", len(block))
				if !yield(block) {
					b.layer.tell("enough", " is asked for no more blocks")
					return
				}
			}
			b.layer.tell("enough", " has no more blocks")
		})
	}
}

// Close closes a body that can be closed.
func (b tracedBody) Close() error {
	closer, ok := b.Body.(io.Closer)
	if !ok {
		return nil
	}
	b.layer.tell("closed", " has its body closed")
	return closer.Close()
}

// A sizedTracedBody knows how many blocks it has, so that the gateway can ask.
type sizedTracedBody struct {
	tracedBody
	n int
}

func (b sizedTracedBody) Len() int { return b.n }

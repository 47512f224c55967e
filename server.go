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
	"log"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
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

	// Watch, if set, is given each connection and the application, and returns what to use
	// instead.
	Watch func(net.Conn, Application) (net.Conn, Application)

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
	// them on saves system calls, which a short connection would feel. Multipath TCP, Go's
	// default for listeners, makes such a connection dearer and is of no use to it.
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
	s.setAddr(l.Addr())
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

// setAddr prepares what environ says of every connection to the address.
func (s *Server) setAddr(addr net.Addr) {
	s.addr = addr
	s.gateway = Gateway{URLScheme: urlScheme(os.Getenv("HTTPS")),
		MultiThread: !s.Serial, MultiProcess: s.Worker, Application: s.Application}
	s.gateway.setServer(addr)
}

// Shutdown stops accepting, hangs up on clients that have not asked anything yet, lets
// running requests finish within grace, and then closes what is still open and gives it a
// second to end.
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
		endScripts() // an exchange may wait for one
		select {
		case <-idle:
		case <-time.After(time.Second): // an application that does not end
		}
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
	server      *Server
	application Application
	conn        conn
	reader      *bufio.Reader
	request     *Request
	gateway     Gateway
	input       Input
	response    Response
	errors      errorStream
	answered    bool // there is an answer: the exchange is logged
	unread      bool // the client may have sent, or be sending, what nobody will read
}

// readers holds the buffers of exchanges that have ended. A new one for each would make an
// exchange slower. Most heads fit into 2 KiB, and an idle client costs no more.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 2048) }}

// serveConn serves one connection: it reads a request, has it answered, and hangs up.
func (s *Server) serveConn(connection net.Conn) {
	application := s.Application
	if s.Watch != nil {
		connection, application = s.Watch(connection, application)
	}
	e := &exchange{server: s, application: application,
		conn: conn{Conn: connection, timeout: s.Timeout}}
	if !s.admit(&e.conn) {
		e.conn.Close()
		return
	}
	e.reader = readers.Get().(*bufio.Reader)
	e.reader.Reset(&e.conn)
	defer e.end() // even if an application calls runtime.Goexit

	e.conn.SetReadDeadline(time.Now().Add(s.Timeout)) // for the whole head
	var err error
	e.request, err = readRequest(e.reader, s.MaxBody)
	e.conn.asked.Store(true)
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
}

// answer runs the application.
func (e *exchange) answer() {
	q := e.request
	e.input = Input{r: e.reader, length: q.Length, left: q.Length}
	if expectsContinue(q) {
		e.input.before = e.sendContinue
	}
	environ := newEnviron(q, &e.input, &e.gateway)
	e.conn.eachRead = true
	if e.server.Serial {
		e.server.turn.Lock()
		defer e.server.turn.Unlock()
	}
	run(e.application, environ, &e.response)
	// A body may be unread, or followed by a line end that belongs to nothing; a request
	// without Content-Length may have one all the same, unless its method has none; and
	// an HTTP/0.9 request may be followed by header lines.
	bodyless := q.Version != "HTTP/0.9" && (q.Method == "GET" || q.Method == "HEAD")
	e.unread = !bodyless || q.Length > 0 || e.reader.Buffered() > 0 || e.conn.full
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

// logAccess writes the access log line of an exchange.
func (s *Server) logAccess(e *exchange) {
	if s.AccessLog != nil {
		r := &e.response
		s.AccessLog.Print(accessLine(e.gateway.RemoteAddr.(string), r.now(), e.request.Line,
			r.status, r.sent))
	}
}

// accessLine is a line of the access log, in wsgiref's form:
//
//	127.0.0.1 - - [21/Nov/2026 09:07:30] "GET / HTTP/1.1" 200 18
func accessLine(client string, now time.Time, line, status string, sent int64) string {
	if client == "" {
		client = "-"
	}
	code, _, _ := strings.Cut(status, " ")
	return fmt.Sprintf(`%s - - [%s] "%s" %s %d`, client, now.Format("02/Jan/2006 15:04:05"),
		visible(line), code, sent)
}

// A conn is a connection with deadlines.
type conn struct {
	net.Conn
	timeout  time.Duration
	eachRead bool        // each read has its own deadline; before that, the whole head has one
	asked    atomic.Bool // the head is read: Shutdown waits for the answer
	full     bool        // the last read filled its buffer: there may have been more
}

// Read reads, and says how long it waited if that was in vain.
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

// printable replaces what a terminal would obey: control characters, but for tabs, what
// begins a line or turns it round; and what is not UTF-8.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case ' ' <= r && r <= '~' || r == '\t': // most are
			return r
		case unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			return '\uFFFD'
		}
		return r // what is not UTF-8 has become U+FFFD already
	}, strings.TrimSuffix(line, "\r"))
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
	stdout io.Writer, errorLog *log.Logger) {
	environ := Environ{}
	for _, variable := range variables {
		key, value, _ := strings.Cut(variable, "=")
		environ[key] = value
	}
	// The first two have names of their own. The last is for programs that take it as their
	// setting; from a web server, it is a client's header. (RFC 3875 §4.1.18)
	for _, key := range []string{"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_PROXY"} {
		delete(environ, key)
	}
	for key, value := range cgiDefaults {
		if environ.Get(key) == "" {
			environ[key] = value
		}
	}
	if environ.Get("SCRIPT_NAME") == "" && environ.Get("PATH_INFO") == "" {
		environ["PATH_INFO"] = "/" // one of them is there, says the PEP
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
	response := newResponse(stdout, cgiLine, environ.Get("REQUEST_METHOD"), errors)
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
	err := worker.Start()
	// Start makes the socket blocking, for all who share it: an Accept that waits could not
	// be ended by Close. Making a listener of it, as a worker does, undoes that; if it
	// fails, the next worker will.
	if l, listenErr := net.FileListener(p.files[0]); listenErr == nil {
		l.Close()
	}
	if err != nil {
		ended <- err
		return nil, ended
	}
	go func() { ended <- worker.Wait() }()
	return worker.Process, ended
}

// inherit is a worker's first act: it returns the socket that it shares, and ends the
// process when the parent has ended.
func inherit() (net.Listener, error) {
	syscall.CloseOnExec(workerSocket) // they are not for CGI programs
	syscall.CloseOnExec(workerLife)
	life := os.NewFile(workerLife, "life")
	go func() {
		io.Copy(io.Discard, life) // nothing is sent: it returns when the parent is gone
		endScripts()
		os.Exit(exitOK)
	}()
	socket := os.NewFile(workerSocket, "socket")
	defer socket.Close() // FileListener makes a copy
	return net.FileListener(socket)
}

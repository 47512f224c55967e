// rawsgi is a web server gateway interface, from a raw socket up: it reads HTTP/1.0 by
// hand, builds an environ, calls an application and sends what that returns.
//
//	main.go      this file: choose an application, wrap middleware around it, serve it;
//	             then send and -trace, the tools to watch it with
//	server.go    the gateway: sockets, deadlines, who calls the application
//	request.go   bytes in: request line, header fields, body → environ
//	response.go  bytes out: startResponse, blocks → status line, header fields, body
//	app.go       the other side of the interface: applications and middleware
//
// Read them in this order and you have followed a request from the first byte to the last.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit statuses.
const (
	exitOK     = 0 // also after a signal that asks us to end
	exitFailed = 1 // something went wrong at run time
	exitUsage  = 2 // the command line was wrong
)

// command is the whole program: it returns the exit status.
func command(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "send" && !hosted() {
		return send(args[1:], stdout, stderr)
	}
	if hosted() && len(args) > 0 && hasFlags(os.Getenv("QUERY_STRING")) {
		return answerCGI(refuseFlags, false, stdout, stderr)
	}
	o, err := parseFlags(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return usage(stderr, err)
	}
	if o.list {
		list(stdout)
		return exitOK
	}
	application, err := choose(applications(o.config), o.app, o.use, o.config.Trace)
	if err != nil {
		return usage(stderr, err)
	}
	if o.cgi || hosted() {
		return answerCGI(application, o.config.Trace, stdout, stderr)
	}
	return serve(application, o, stdout, stderr)
}

// hosted reports whether a web server has started us, as a CGI program.
func hosted() bool { return os.Getenv("GATEWAY_INTERFACE") != "" }

// answerCGI answers the one request of a CGI program.
func answerCGI(application Application, tell bool, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGPIPE) // the application is told by an error, and closed
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endings()...)
	go func() {
		<-signals
		endScripts()
		os.Exit(exitFailed)
	}()
	var trace *recorder
	if tell {
		trace = newNarrator(stderr, "").record()
	}
	serveCGI(application, os.Environ(), os.Stdin, stdout, log.New(stderr, "", 0), trace)
	return exitOK
}

// hasFlags reports whether a query could give a CGI program flags. A web server may pass
// one without = as arguments, its words separated by +, and they look like ours: any
// client could choose the application, and the program it runs. A shell in between may
// separate words at blanks and line ends, too. (RFC 3875 §4.4)
func hasFlags(query string) bool {
	text := strings.NewReplacer("%2d", "-", "%2D", "-", "%20", "+", "%09", "+",
		"%0a", "+", "%0A", "+", "%0d", "+", "%0D", "+").Replace("+" + query)
	return !strings.Contains(query, "=") && strings.Contains(text, "+-")
}

// refuseFlags is the answer to such a query.
func refuseFlags(Environ, StartResponse) Body {
	panic(refuse(badRequest, "RFC 3875 §4.4", "expected a query with = or without a word that "+
		"begins with -, which could be taken for a flag of this CGI program"))
}

// serve runs the application under one of the gateways that listen.
func serve(application Application, o *options, stdout, stderr io.Writer) int {
	server := newServer(application)
	server.Serial = o.mode == "serial"
	server.Timeout = o.timeout
	server.MaxBody = o.maxBody
	server.ErrorLog = log.New(stderr, "", 0)
	server.Worker = os.Getenv(workerVariable) != ""
	open := func() (net.Listener, error) { return listen(o.addr) }
	if server.Worker {
		open = inherit
		server.ErrorLog.SetPrefix(fmt.Sprintf("[%d] ", os.Getpid()))
	}
	if o.config.Trace {
		server.Trace = newNarrator(stderr, server.ErrorLog.Prefix()).record
	}
	if !o.quiet {
		server.AccessLog = server.ErrorLog
	}
	listener, err := open()
	if err != nil {
		return cannotListen(stderr, err)
	}
	if !server.Worker {
		announce(listener.Addr(), stdout, stderr)
	}
	if o.mode == "prefork" && !server.Worker {
		if err := prefork(listener, o.workers, onSignal(false), server.ErrorLog); err != nil {
			fmt.Fprintf(stderr, "rawsgi: %v\n", err)
			return exitFailed
		}
		return exitOK
	}
	serveUntilSignal(server, listener)
	return exitOK
}

// options are what the command line says.
type options struct {
	addr, app, use, mode string
	quiet, list, cgi     bool
	workers              int
	timeout              time.Duration
	maxBody              int64
	config               Config
}

// parseFlags reads the command line. An error is the user's; flag.ErrHelp is none.
func parseFlags(args []string, stdout, stderr io.Writer) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("rawsgi", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are printed by usage, once
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8000", "`host:port` or unix:/path; "+
		"port 0 picks a free one")
	flags.StringVar(&o.app, "app", "gallery", "`application` to serve, see -list")
	flags.StringVar(&o.use, "use", "", "`middleware` around it, comma-separated, outermost first")
	flags.StringVar(&o.mode, "mode", "concurrent", "`mode`: concurrent, serial for one "+
		"application call at a time, or prefork for several processes")
	flags.IntVar(&o.workers, "workers", 2, "`number` of processes for -mode prefork")
	flags.BoolVar(&o.cgi, "cgi", false, "answer one CGI request on standard input and output; "+
		"on by itself when GATEWAY_INTERFACE is set")
	flags.StringVar(&o.config.Root, "root", "docs", "`directory` for the application files")
	flags.StringVar(&o.config.Script, "script", "", "`file` or directory of CGI programs for "+
		"the application cgi")
	flags.StringVar(&o.config.Upstream, "upstream", "", "`host:port,host:port` for the "+
		"application proxy")
	flags.BoolVar(&o.config.Trace, "trace", false, "tell every step of every exchange "+
		"on standard error")
	flags.BoolVar(&o.config.OpenLab, "open-lab", false, "let other machines use the application lab")
	flags.BoolVar(&o.quiet, "quiet", false, "no access log")
	flags.BoolVar(&o.list, "list", false, "list applications and middleware")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "`time` for the whole head, for "+
		"each read of the body, for each 64 KiB written")
	flags.Int64Var(&o.maxBody, "max-body", 1<<30, "largest request body in `bytes`")
	flags.Usage = func() {}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, "Usage: rawsgi [flags]          serve an application\n"+
			"       rawsgi send ADDR TEXT   send raw bytes and show the reply\n\nFlags:\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
	}
	// The words of a query may follow, if a web server has started us: see hasFlags.
	if err == nil && flags.NArg() > 0 && !hosted() {
		err = fmt.Errorf("unexpected argument %q: an application is chosen with -app", flags.Arg(0))
	}
	if err == nil {
		err = o.check()
	}
	o.config.Timeout = o.timeout
	return o, err
}

// check says what a flag should have been.
func (o *options) check() error {
	switch {
	case !slices.Contains([]string{"concurrent", "serial", "prefork"}, o.mode):
		return fmt.Errorf("-mode is concurrent, serial or prefork, not %q", o.mode)
	case o.workers < 1:
		return fmt.Errorf("-workers must be at least 1; it is %d", o.workers)
	case o.timeout <= 0:
		return fmt.Errorf("-timeout must be more than 0, like 10s; it is %v", o.timeout)
	case o.maxBody < 0:
		return fmt.Errorf("-max-body must not be negative; it is %d", o.maxBody)
	}
	return nil
}

func usage(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "rawsgi: %v\nSee -help for the flags, -list for the applications.\n", err)
	return exitUsage
}

// choose finds an application by its name and wraps middleware around it.
func choose(entries []entry, app, use string, trace bool) (Application, error) {
	var application Application
	var names []string
	for _, entry := range entries {
		names = append(names, entry.name)
		if entry.name == app {
			application = entry.app
		}
	}
	if application == nil {
		return nil, fmt.Errorf("no application is called %q; there are %s", app,
			strings.Join(names, ", "))
	}
	return wrap(application, use, trace)
}

// wrap puts middleware around an application. The first name is the outermost layer, so
// it is wrapped around last.
func wrap(application Application, use string, trace bool) (Application, error) {
	if use == "" {
		return application, nil
	}
	for _, name := range slices.Backward(strings.Split(use, ",")) {
		middleware, err := findMiddleware(name)
		if err != nil {
			return nil, err
		}
		if application = middleware(application); trace {
			application = traced(name, application)
		}
	}
	return application, nil
}

func findMiddleware(name string) (Middleware, error) {
	var names []string
	for _, middleware := range middlewares {
		if middleware.name == name {
			return middleware.wrap, nil
		}
		names = append(names, middleware.name)
	}
	return nil, fmt.Errorf("no middleware is called %q; there are %s", name,
		strings.Join(names, ", "))
}

// list prints what -app and -use can choose.
func list(stdout io.Writer) {
	fmt.Fprintln(stdout, "Applications (-app name):")
	for _, entry := range applications(Config{}) {
		fmt.Fprintf(stdout, "  %-10s%s\n", entry.name, entry.about)
	}
	fmt.Fprintln(stdout, "\nMiddleware (-use name,name, outermost first):")
	for _, middleware := range middlewares {
		fmt.Fprintf(stdout, "  %-10s%s\n", middleware.name, middleware.about)
	}
}

// cannotListen explains why there is no listening socket.
func cannotListen(stderr io.Writer, err error) int {
	var addrErr *net.AddrError
	if errors.As(err, &addrErr) {
		return usage(stderr, err)
	}
	fmt.Fprintf(stderr, "rawsgi: %v\n", err)
	if errors.Is(err, syscall.EADDRINUSE) {
		fmt.Fprintln(stderr, "Stop the program that has this address, "+
			"or let -addr :0 pick a free port.")
	}
	return exitFailed
}

// announce says where the server can be reached, and by whom.
func announce(addr net.Addr, stdout, stderr io.Writer) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		fmt.Fprintf(stdout, "Serving HTTP on %s ...\n", addr)
		return
	}
	fmt.Fprintf(stdout, "Serving HTTP on %s port %d (http://%s/) ...\n", tcp.IP, tcp.Port, tcp)
	if !tcp.IP.IsLoopback() {
		fmt.Fprintln(stderr, "Warning: other machines can reach this server. It is made for "+
			"learning, not for the open network.")
	}
}

// onSignal closes the channel at the first SIGINT, SIGTERM or SIGHUP, and ends the program at
// the second. A worker leaves to its parent what reaches all processes of a terminal: Ctrl-C,
// and the terminal's end.
func onSignal(worker bool) <-chan bool {
	signals, stop := make(chan os.Signal, 2), make(chan bool)
	if worker {
		signal.Notify(make(chan os.Signal, 1), endings()...) // nobody listens
		signal.Notify(signals, syscall.SIGTERM)
	} else {
		signal.Notify(signals, endings()...)
	}
	go func() {
		<-signals
		close(stop)
		<-signals
		endScripts()
		os.Exit(exitOK)
	}()
	return stop
}

// endings are the signals that ask a program to end. SIGHUP is none for one that nohup(1)
// has started.
func endings() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// serveUntilSignal serves until a signal and then lets running requests finish, for 5 s
// at most.
func serveUntilSignal(server *Server, listener net.Listener) {
	stop, stopped := onSignal(server.Worker), make(chan bool)
	go func() {
		<-stop
		server.Shutdown(5 * time.Second)
		close(stopped)
	}()
	server.Serve(listener)
	<-stopped
	endScripts() // of exchanges that did not end in time
}

// send is the other end of the wire: it sends raw bytes, at once or in pieces with pauses,
// and shows the reply with its line ends.
func send(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("rawsgi send", flag.ContinueOnError)
	flags.SetOutput(stderr)
	split := flags.Int("split", 0, "send in pieces of `n` bytes; 0 sends all at once")
	delay := flags.Duration("delay", 50*time.Millisecond, "`pause` between the pieces")
	half := flags.Bool("half-close", false, "end our half of the connection after sending")
	flags.Usage = func() {
		fmt.Fprintln(stderr, `Usage: rawsgi send [flags] ADDR 'GET / HTTP/1.0\r\n\r\n'`)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitOK
	} else if err != nil {
		return exitUsage // Parse has said why
	}
	if flags.NArg() != 2 {
		flags.Usage()
		return exitUsage
	}
	text, err := unescape(flags.Arg(1))
	if err != nil {
		fmt.Fprintf(stderr, "rawsgi: %v\n", err)
		return exitUsage
	}
	if err := converse(flags.Arg(0), pieces(text, *split), *delay, *half, stdout); err != nil {
		fmt.Fprintf(stderr, "rawsgi: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// unescape turns the escapes of a Go string into bytes: `\r\n` into two, `\x00` into one.
func unescape(text string) (string, error) {
	var b strings.Builder
	for rest := text; rest != ""; {
		quote := byte('"') // so that \" is understood, as we show it, and a " alone as well
		if rest[0] == '"' {
			quote = 0
		}
		if rest[0] >= 0x80 { // a byte of what need not be UTF-8
			b.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		char, multibyte, tail, err := strconv.UnquoteChar(rest, quote)
		if err != nil {
			return "", fmt.Errorf(`expected escapes like \r \n \t \\ \x00, got "%s"`, rest)
		}
		if rest = tail; multibyte {
			b.WriteRune(char)
		} else {
			b.WriteByte(byte(char))
		}
	}
	return b.String(), nil
}

// pieces cuts text into pieces of n bytes.
func pieces(text string, n int) []string {
	var all []string
	for n > 0 && len(text) > n {
		all = append(all, text[:n])
		text = text[n:]
	}
	return append(all, text)
}

// converse sends the pieces to addr, then prints what comes back, line by line.
func converse(addr string, pieces []string, delay time.Duration, half bool, out io.Writer) error {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var sendErr error
	for i, piece := range pieces {
		if i > 0 {
			time.Sleep(delay)
		}
		for line := range strings.Lines(piece) {
			fmt.Fprintf(out, "> %s\n", visible(line))
		}
		if _, sendErr = io.WriteString(c, piece); sendErr != nil {
			break // the server has hung up, and may have said why
		}
	}
	if h, ok := c.(interface{ CloseWrite() error }); ok && half {
		h.CloseWrite() // fails if the server has hung up, which the reply will show
	}
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			fmt.Fprintf(out, "< %s\n", visible(string(line)))
		}
		if err == io.EOF {
			return sendErr
		}
		if err != nil && err != bufio.ErrBufferFull { // a full buffer is a long line's part
			return err
		}
	}
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
// from what it returned: neither that nor the gateway interface knows anything of it.
type recorder struct {
	emit        func(event)
	now         func() time.Time
	tellsErrors bool // wsgi.errors need not go to the error log as well

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
	e.At = t.elapsed()
	t.emit(e)
}

// elapsed returns the microseconds since the beginning.
func (t *recorder) elapsed() int64 { return t.now().Sub(t.begin).Microseconds() }

func (t *recorder) say(kind, format string, args ...any) {
	t.add(event{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// accepted begins the record of a connection, and returns one that is listened on.
func (t *recorder) accepted(c net.Conn) net.Conn {
	from := "" // a client on a Unix socket has no address
	if host, port := hostPort(c.RemoteAddr()); host != "" {
		from = " from " + net.JoinHostPort(host, port)
	}
	t.say("accept", "a connection%s is accepted", from)
	return &tracedConn{c, t}
}

// hear makes the recorder hear of an answer and of wsgi.errors; instead of the error log, if
// it tells that as well.
func (t *recorder) hear(r *Response, errors *errorStream) {
	t.response, errors.heard = r, t.logged
	if t.tellsErrors {
		errors.log = log.New(io.Discard, "", 0)
	}
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

// A traceReader tells what passes through standard input.
type traceReader struct {
	io.Reader
	trace *recorder
}

func (r traceReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.trace.came(p[:n])
	}
	return n, err
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
	if t.response == nil { // otherwise it is body by now
		t.received = append(t.received, p...)
	}
	text := fmt.Sprintf("%d bytes come: %d to %d", len(p), from, t.count-1)
	if len(p) == 1 {
		text = fmt.Sprintf("1 byte comes: %d", from)
	}
	t.add(event{Kind: "in", From: from, To: t.count, Data: bytes.Clone(p), Text: text})
}

// left tells of bytes to the client: first the head, and why it has a Content-Length.
func (t *recorder) left(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) == 0 {
		return
	}
	t.sent += len(p)
	r := t.response
	interim := bytes.HasPrefix(p, []byte("HTTP/1.1 100"))
	if t.headLeft || interim || r == nil || r.firstLine == noHead {
		t.add(event{Kind: "out", Data: bytes.Clone(p), Text: fmt.Sprintf("%d bytes leave", len(p))})
		return
	}
	t.headLeft = true
	if r.refusal != nil {
		t.refused(r.refusal, t.count, t.count)
	}
	t.say("length", "%s", lengthReason(r))
	t.head(p)
}

// head tells of the head, and of what leaves in the same write.
func (t *recorder) head(p []byte) {
	head, _, whole := bytes.Cut(p, []byte("\r\n\r\n"))
	if whole { // otherwise the client has left in the middle of it
		head = p[:len(head)+4]
	}
	e := event{Kind: "out", At: t.elapsed(), Data: bytes.Clone(head),
		Text: fmt.Sprintf("the head leaves, %d bytes", len(head))}
	rest := p[len(head):]
	if len(rest) == 0 {
		t.emit(e)
		return
	}
	e.Text += fmt.Sprintf(", in one write with %d bytes of the body", len(rest))
	t.emit(e)
	e.Data, e.Text = bytes.Clone(rest), fmt.Sprintf("%d bytes of the body leave, in that same write", len(rest))
	t.emit(e)
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
		t.refused(refusal, from, to)
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

// refused tells of a refusal, and which bytes are to blame.
func (t *recorder) refused(r *Refusal, from, to int) {
	t.add(event{Kind: "refused", From: from, To: to, Value: r.Source, Text: r.Status + ": " + r.Reason})
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
	if path == "" {
		note = ": an empty path is the root"
	} else if path != q.Path {
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

// logged tells of what is written to wsgi.errors, without the stacks of panics if they are in
// the error log as well.
func (t *recorder) logged(p []byte) {
	text := string(p)
	if !t.tellsErrors {
		text, _, _ = strings.Cut(text, "\ngoroutine ")
	}
	for line := range strings.Lines(text) {
		t.say("log", "wsgi.errors: %s", printable(strings.TrimRight(line, "\r\n")))
	}
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
		l.tell("return", " returns a body, %T", untraced(body))
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
	if _, isFile := body.(*fileBody); isFile {
		l.tell("file", "'s body is a file: the gateway reads it, sends it and closes it")
		return body
	}
	if body == nil {
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
	if _, ok := untraced(b.Body).(io.Closer); !ok {
		return nil
	}
	b.layer.tell("closed", " has its body closed")
	return b.Body.(io.Closer).Close()
}

// untraced returns a body as the application made it.
func untraced(body Body) Body {
	switch b := body.(type) {
	case tracedBody:
		return untraced(b.Body)
	case sizedTracedBody:
		return untraced(b.Body)
	}
	return body
}

// A sizedTracedBody knows how many blocks it has, so that the gateway can ask.
type sizedTracedBody struct {
	tracedBody
	n int
}

func (b sizedTracedBody) Len() int { return b.n }

// A narrator tells exchanges on a terminal as they happen, line by line: > is what comes
// from the client and < what goes to it, as curl shows them, and * is what becomes of it.
//
//	#1   0.012 ms > GET /hello HTTP/1.0\r\n
//	#1   0.030 ms * REQUEST_METHOD is "GET" (bytes 0 to 2)
type narrator struct {
	mu     sync.Mutex
	out    io.Writer
	prefix string // in front of each line: which process it is
	colour bool
	count  int // exchanges begun
}

// newNarrator makes a narrator, with colours if out is a terminal and NO_COLOR is not set.
func newNarrator(out io.Writer, prefix string) *narrator {
	n := &narrator{out: out, prefix: prefix}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := file.Stat()
		n.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return n
}

// record begins the record of one exchange. Its number keeps it apart from others.
func (n *narrator) record() *recorder {
	n.mu.Lock()
	n.count++
	number := n.count
	n.mu.Unlock()
	r := newRecorder(time.Now, func(e event) { n.tell(number, e) })
	r.tellsErrors = true
	return r
}

// The colours of a terminal: what comes, what goes, what is wrong.
const cyan, green, red, plain = "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[0m"

// tell prints an event.
func (n *narrator) tell(number int, e event) {
	sign, colour, lines := "*", "", []string{e.Text}
	switch e.Kind {
	case "in":
		sign, colour, lines = ">", cyan, shorten(e.Data)
	case "out":
		sign, colour, lines = "<", green, shorten(e.Data)
	case "refused", "panic", "log":
		colour = red
	}
	switch {
	case e.Kind == "refused":
		lines[0] += " (" + e.Value + fmt.Sprintf(", byte %d)", e.From)
	case e.Kind != "in" && e.To > e.From:
		lines[0] += fmt.Sprintf(" (bytes %d to %d)", e.From, e.To-1)
	}
	end := plain
	if !n.colour {
		colour, end = "", ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, line := range lines {
		fmt.Fprintf(n.out, "%s#%d %8.3f ms %s%s %s%s\n", n.prefix, number, float64(e.At)/1000, colour,
			sign, line, end)
	}
}

// shorten shows bytes line by line, of many lines the first and of long ones the beginning.
func shorten(data []byte) (lines []string) {
	const most, width = 12, 90
	for line := range strings.Lines(string(data)) {
		if len(lines) == most {
			return append(lines, fmt.Sprintf("… and more: %d bytes in all", len(data)))
		}
		rest := ""
		if len(line) > width {
			rest = fmt.Sprintf("… (%d bytes)", len(line))
			line = line[:width]
		}
		lines = append(lines, visible(line)+rest)
	}
	return lines
}

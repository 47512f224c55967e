// rawsgi is a web server gateway interface, from a raw socket up: it reads HTTP/1.0 by
// hand, builds an environ, calls an application and sends the body that it returns.
//
//	main.go      this file: choose an application, wrap middleware around it, listen, serve
//	server.go    the gateway: connections, deadlines, the call of the application
//	request.go   bytes in: request line, header fields, body → environ
//	response.go  bytes out: startResponse, blocks → status line, header fields, body
//	app.go       the other side of the interface: applications, middleware, tools to watch
//
// Read them in this order and you have followed a request from the first byte to the last.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	outliveLogs()
	os.Exit(command(os.Args[1:], os.Stdout, os.Stderr))
}

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
		return serveHost(refuseFlags, Config{}, stdout, stderr)
	}
	o, err := parseFlags(args, stdout)
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
		return serveHost(application, o.config, stdout, stderr)
	}
	return serve(application, o, stdout, stderr)
}

// outliveLogs keeps the program alive when the reader of its output has ended, as after
// Ctrl-C in "rawsgi | tee log": a write then returns an error. It does not ignore SIGPIPE,
// because CGI programs would inherit that.
func outliveLogs() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// hosted reports whether a web server has started this program, as a CGI program.
func hosted() bool { return os.Getenv("GATEWAY_INTERFACE") != "" }

// serveHost answers the one request of a CGI program.
func serveHost(application Application, c Config, stdout, stderr io.Writer) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, endings()...)
	go func() {
		<-signals
		endScripts()
		os.Exit(exitOK)
	}()
	var stdin io.Reader = os.Stdin
	errorLog := log.New(stderr, "", 0)
	if c.Trace {
		stdin, stdout, application = narrateCGI(stdin, stdout, application, errorLog, c.Brief)
	}
	serveCGI(application, os.Environ(), stdin, stdout, errorLog)
	return exitOK
}

// hasFlags reports whether a query could give a CGI program flags. A web server may pass
// a query without = as arguments, its words separated by +, and they look like ours: any
// client could choose the application, and the program it runs. A shell in between may
// separate words at blanks and line ends, too. (RFC 3875 §4.4)
func hasFlags(query string) bool {
	text := strings.NewReplacer("%2d", "-", "%2D", "-", "%20", "+", "%09", "+",
		"%0a", "+", "%0A", "+", "%0d", "+", "%0D", "+").Replace("+" + query)
	return !strings.Contains(query, "=") && strings.Contains(text, "+-")
}

// refuseFlags is the application that refuses such a query.
func refuseFlags(Environ, StartResponse) Body {
	panic(refuse(badRequest, "RFC 3875 §4.4", "", 0, "expected a query with = or without a "+
		"word that begins with -, which could be taken for a flag of this CGI program"))
}

// options are what the command line says.
type options struct {
	addr, app, use, mode string
	quiet, list, cgi     bool
	workers              int
	maxBody              int64
	config               Config
}

// parseFlags reads the command line. It returns flag.ErrHelp after -help, and any other
// error for a wrong command line.
func parseFlags(args []string, stdout io.Writer) (*options, error) {
	o := &options{maxBody: 1 << 30, config: Config{Timeout: 10 * time.Second}}
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
	flags.IntVar(&o.config.Programs, "programs", 64, "largest `number` of CGI programs that run "+
		"at once, in each process")
	flags.StringVar(&o.config.Upstream, "upstream", "", "`host:port,host:port` for the "+
		"application proxy")
	flags.BoolFunc("trace", "tell every step of every exchange on standard error; "+
		"-trace=brief tells the most important ones", o.setTrace)
	flags.BoolVar(&o.config.OpenLab, "open-lab", false, "let other machines use the application lab")
	flags.BoolVar(&o.quiet, "quiet", false, "no access log")
	flags.BoolVar(&o.list, "list", false, "list applications and middleware")
	flags.Func("timeout", "`time` for the whole head, for each read of the body, for each "+
		"64 KiB written (default 10s)", o.setTimeout)
	flags.Func("max-body", "largest request body in `bytes` (default 1073741824)", o.setMaxBody)
	flags.Usage = func() {}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, "Usage: rawsgi [flags]          serve an application\n"+
			"       rawsgi send ADDR TEXT   send raw bytes and show the reply\n\nFlags:\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
	}
	// If a web server has started us, the words of a query may follow: see hasFlags.
	if err == nil && flags.NArg() > 0 && !hosted() {
		err = fmt.Errorf("unexpected argument %q: an application is chosen with -app", flags.Arg(0))
	}
	if err == nil {
		err = o.check()
	}
	return o, err
}

// setTrace sets -trace. Without a value, package flag passes "true".
func (o *options) setTrace(text string) error {
	o.config.Trace, o.config.Brief = text != "false", text == "brief"
	if !slices.Contains([]string{"true", "false", "brief"}, text) {
		return errors.New("expected -trace or -trace=brief")
	}
	return nil
}

func (o *options) setTimeout(text string) (err error) {
	o.config.Timeout, err = time.ParseDuration(text)
	if err != nil || o.config.Timeout <= 0 {
		return errors.New("expected a time over 0 with its unit, like 5s or 500ms")
	}
	return nil
}

func (o *options) setMaxBody(text string) (err error) {
	o.maxBody, err = strconv.ParseInt(text, 10, 64)
	if err != nil || o.maxBody < 0 {
		return errors.New("expected a number of bytes in digits, like 1000000")
	}
	return nil
}

// check returns an error for a flag with a wrong value.
func (o *options) check() error {
	if err := checkAddr(o.addr); err != nil {
		return fmt.Errorf("-addr %w", err)
	}
	if err := checkUpstreams(o.config.Upstream); err != nil {
		return fmt.Errorf("-upstream %w", err)
	}
	if !slices.Contains([]string{"concurrent", "serial", "prefork"}, o.mode) {
		return fmt.Errorf("-mode is concurrent, serial or prefork, not %q", o.mode)
	}
	if o.workers < 1 {
		return fmt.Errorf("-workers must be at least 1; it is %d", o.workers)
	}
	if o.config.Programs < 1 || o.config.Programs > 1<<16 {
		return fmt.Errorf("-programs must be from 1 to %d; it is %d", 1<<16, o.config.Programs)
	}
	return nil
}

// checkAddr returns an error for an address that is not host:port or unix:/path.
func checkAddr(addr string) error {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	_, port, err := net.SplitHostPort(addr)
	switch {
	case isUnix && path == "":
		return errors.New("needs a path after unix:, like unix:/tmp/rawsgi.sock")
	case !isUnix && (err != nil || strings.Contains(port, "/")):
		return fmt.Errorf("is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not %q", addr)
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
		names = append(names, entry.Name)
		if entry.Name == app {
			application = entry.App
		}
	}
	if application == nil {
		return nil, fmt.Errorf("no application is called %q; there are %s", app,
			strings.Join(names, ", "))
	}
	return withMiddleware(application, use, trace)
}

// list prints what -app and -use can choose.
func list(stdout io.Writer) {
	fmt.Fprintln(stdout, "Applications (-app name):")
	for _, entry := range applications(Config{}) {
		fmt.Fprintf(stdout, "  %-10s%s\n", entry.Name, entry.About)
	}
	fmt.Fprintln(stdout, "\nMiddleware (-use name,name, outermost first):")
	for _, middleware := range middlewares {
		fmt.Fprintf(stdout, "  %-10s%s\n", middleware.name, middleware.about)
	}
}

// serve runs the application under one of the gateways that listen.
func serve(application Application, o *options, stdout, stderr io.Writer) int {
	server := newServer(application)
	server.Serial = o.mode == "serial"
	server.Timeout = o.config.Timeout
	server.MaxBody = o.maxBody
	server.ErrorLog = log.New(stderr, "", 0)
	server.OnStop = endScripts // a request may wait for a CGI program
	if !o.quiet {
		server.AccessLog = server.ErrorLog
	}
	server.Worker = os.Getenv(workerVariable) != ""
	if server.Worker {
		server.ErrorLog.SetPrefix(fmt.Sprintf("[%d] ", os.Getpid()))
	}
	if o.config.Trace {
		narrate(server, o.config.Brief)
	}
	if server.Worker {
		return serveWorker(server)
	}
	listener, err := listen(o.addr)
	if err != nil {
		return cannotListen(stderr, err)
	}
	announce(listener.Addr(), stdout, stderr)
	if o.mode == "prefork" {
		err := prefork(listener, o.workers, server.ErrorLog)
		if err != nil {
			fmt.Fprintf(stderr, "rawsgi: %v\n", err)
			return exitFailed
		}
		return exitOK
	}
	serveUntil(onSignal(endings(), endScripts), server, listener)
	return exitOK
}

// listen opens the listening socket: "host:port", or "unix:/path". Port 0 is any free
// port, and no host is 127.0.0.1, not every address of this machine.
func listen(addr string) (net.Listener, error) {
	if runtime.GOOS == "wasip1" { // where net pretends, and nobody could connect
		return nil, errors.New("WASI has no network for this program: start it with -cgi")
	}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listenUnix(path)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err // checkAddr has said so
	}
	if host == "" {
		host = "127.0.0.1"
	}
	// Keep-alive probes find a dead peer; here the deadlines do, and a short connection
	// would pay for the system calls. Multipath TCP, Go's default for listeners, makes a
	// short connection more expensive too, and is of no use to it.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp", net.JoinHostPort(host, port))
}

// A unixListener removes its socket when it is closed, but not one that a newer server has
// made at the same path.
type unixListener struct {
	*net.UnixListener
	path   string
	socket os.FileInfo
}

// listenUnix replaces the socket that a killed server has left: one at which nobody answers.
func listenUnix(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there, and is not a socket", path)
	}
	if err == nil {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close() // another server is there: Listen will say so
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(path) // if that fails, Listen says so
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	socket, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{l, path, socket}, nil
}

// Close closes the listener.
func (l *unixListener) Close() error {
	if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.socket) {
		os.Remove(l.path) // if that fails, the next server replaces it
	}
	return l.UnixListener.Close()
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
	host, url := tcp.IP.String(), tcp.String()
	if tcp.IP.IsUnspecified() { // every address of this machine, IPv6 or not: none to type
		host, url = "0.0.0.0", fmt.Sprintf("127.0.0.1:%d", tcp.Port)
	}
	fmt.Fprintf(stdout, "Serving HTTP on %s port %d (http://%s/) ...\n", host, tcp.Port, url)
	if tcp.IP.IsLoopback() {
		return
	}
	if tcp.IP.IsUnspecified() {
		for _, ip := range ownAddresses() {
			fmt.Fprintf(stdout, "From other machines: http://%s:%d/\n", ip, tcp.Port)
		}
	}
	fmt.Fprintln(stderr, "Warning: other machines can reach this server. It is made for "+
		"learning, not for the open network.")
}

// ownAddresses returns the IPv4 addresses of this machine, which a class can type.
func ownAddresses() (ips []net.IP) {
	addrs, _ := net.InterfaceAddrs() // without them, there is nothing to print
	for _, addr := range addrs {
		if ip, ok := addr.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			ips = append(ips, ip.IP)
		}
	}
	return ips
}

// endings returns the signals that ask this program to end. SIGHUP is not one of them if
// nohup(1) has started the program.
func endings() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if runtime.GOOS != "wasip1" && !signal.Ignored(syscall.SIGHUP) { // wasip1 has no signals
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// onSignal closes the channel at the first signal. At the second it calls atOnce and ends
// the program.
func onSignal(signals []os.Signal, atOnce func()) <-chan bool {
	received, stop := make(chan os.Signal, 2), make(chan bool)
	signal.Notify(received, signals...)
	go func() {
		<-received
		close(stop)
		<-received
		atOnce()
		os.Exit(exitOK)
	}()
	return stop
}

const grace = 5 * time.Second // in which running requests may end after a signal

// serveUntil serves until stop is closed, and then lets running requests finish.
func serveUntil(stop <-chan bool, server *Server, listener net.Listener) {
	stopped := make(chan bool)
	go func() {
		<-stop
		if n := server.busy(); n > 0 { // a log that nobody reads may block for ever
			go server.ErrorLog.Printf("stopping: waiting up to %v for %s to end; "+
				"press Ctrl-C again to stop at once", grace, count(n, "request"))
		}
		server.Shutdown(grace)
		close(stopped)
	}()
	server.Serve(listener)
	<-stopped
	endScripts() // of exchanges that did not end in time
}

// workerVariable marks a worker process in its environment, and workerSocket and
// workerLife are the two files that it inherits.
const (
	workerVariable = "RAWSGI_WORKER"
	workerSocket   = 3
	workerLife     = 4
)

// prefork serves with n worker processes that share one listening socket: the system
// gives each connection to one that waits in Accept. It returns after a signal, when all
// workers have ended.
//
// The name is gunicorn's and Apache's, which fork: the child continues where the parent was.
// A Go program has threads, which do not survive a fork, so it executes itself again.
//
// The workers inherit the reading end of a pipe on which nothing is sent. It ends when the
// parent closes the writing end, or is killed, and that stops the workers.
func prefork(l net.Listener, n int, errorLog *log.Logger) error {
	filer, ok := l.(interface{ File() (*os.File, error) })
	if !ok || runtime.GOOS == "windows" {
		return errors.New("-mode prefork needs Unix: a socket that processes can inherit")
	}
	socket, err := filer.File()
	if err != nil {
		return err
	}
	life, parentsEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	p := &parent{files: []*os.File{socket, life}, log: errorLog, workers: map[*os.Process]bool{}}
	p.stop = onSignal(endings(), p.terminate)
	var all sync.WaitGroup
	for range n {
		all.Add(1)
		go func() {
			defer all.Done()
			p.keepWorker()
		}()
	}
	<-p.stop
	p.mu.Lock() // not while a worker is started, which inherits these numbers
	l.Close()   // from here on the socket is the workers' alone
	socket.Close()
	life.Close()
	p.mu.Unlock()
	parentsEnd.Close() // asks the workers to stop
	all.Wait()
	return nil
}

// A parent is the state of the process that starts workers.
type parent struct {
	stop    <-chan bool
	files   []*os.File // that a worker inherits, from number 3 on
	log     *log.Logger
	mu      sync.Mutex // held while a worker is started
	workers map[*os.Process]bool
}

// keepWorker starts a worker, and another whenever it ends, until stop is closed. A worker
// that ends at once will do so again, so there is a pause before the next. One that hangs
// is killed in the end.
func (p *parent) keepWorker() {
	for {
		begin := time.Now()
		worker, ended := p.startWorker()
		select {
		case how := <-ended:
			p.log.Printf("a worker has ended (%v), starting another", how)
		case <-p.stop:
			if worker == nil {
				return
			}
			select {
			case <-ended:
			case <-time.After(grace + 2*time.Second):
				worker.Kill() // fails if it has ended just now
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
func (p *parent) startWorker() (*os.Process, <-chan any) {
	ended := make(chan any, 1)
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
	// Start makes the socket blocking for every process that shares it, and then Close
	// does not end a waiting Accept. FileListener makes it non-blocking again; if that
	// fails here, the next worker's own call will do it.
	if l, listenErr := net.FileListener(p.files[0]); listenErr == nil {
		l.Close()
	}
	if err != nil {
		ended <- err
		return nil, ended
	}
	p.workers[worker.Process] = true
	go func() {
		worker.Wait() // its error is in the state
		p.mu.Lock()
		delete(p.workers, worker.Process)
		p.mu.Unlock()
		ended <- worker.ProcessState
	}()
	return worker.Process, ended
}

// terminate ends the workers at once.
func (p *parent) terminate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for worker := range p.workers {
		worker.Signal(syscall.SIGTERM) // fails if it has ended
	}
}

// serveWorker is a worker: it serves the socket that it inherits until SIGTERM, or until
// its parent stops or is killed.
func serveWorker(server *Server) int {
	syscall.CloseOnExec(workerSocket) // CGI programs must not inherit the two files
	syscall.CloseOnExec(workerLife)
	socket := os.NewFile(workerSocket, "socket")
	listener, err := net.FileListener(socket)
	socket.Close() // FileListener has made a copy
	if err != nil {
		server.ErrorLog.Printf("rawsgi: a worker needs the socket of its parent: %v", err)
		return exitFailed
	}
	serveUntil(workerStop(listener), server, listener)
	return exitOK
}

// workerStop returns a channel that is closed when a worker has to stop. After SIGTERM to
// this worker alone, the backlog is left to the others; when the parent stops or is killed,
// the last worker answers it. A SIGTERM to all of them, as systemd sends it, reaches worker
// and parent in any order.
func workerStop(listener net.Listener) <-chan bool {
	// Ctrl-C and a hangup reach every process of a terminal: only the parent obeys.
	signal.Notify(make(chan os.Signal, 1), endings()...)
	terminated, orphaned := onSignal([]os.Signal{syscall.SIGTERM}, endScripts), make(chan bool)
	stop := make(chan bool)
	go func() {
		io.Copy(io.Discard, os.NewFile(workerLife, "life")) // until the parent ends it
		close(orphaned)
	}()
	go func() {
		defer close(stop)
		select {
		case <-orphaned:
			return
		case <-terminated:
		}
		select {
		case <-orphaned:
		case <-time.After(moment): // the parent goes on
			listener.Close()
		}
	}()
	go func() {
		<-orphaned
		select {
		case <-terminated: // together with the parent
		case <-time.After(lull):
			<-terminated // the parent's second signal
			endScripts()
			os.Exit(exitOK)
		}
	}()
	return stop
}

// send is a client: it sends raw bytes, at once or in pieces with pauses, and shows the reply
// with its line ends.
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
		if flags.NArg() > 2 && strings.HasPrefix(flags.Arg(2), "-") {
			fmt.Fprintln(stderr, "rawsgi: flags stand before ADDR")
		}
		flags.Usage()
		return exitUsage
	}
	if err := checkAddr(flags.Arg(0)); err != nil {
		fmt.Fprintf(stderr, "rawsgi: ADDR %v\n", err)
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
		delimiter := byte('"') // UnquoteChar takes \" then, as visible shows it
		if rest[0] == '"' {
			delimiter = 0 // and now a bare quote
		}
		if rest[0] >= 0x80 { // the text need not be UTF-8
			b.WriteByte(rest[0])
			rest = rest[1:]
			continue
		}
		char, multibyte, tail, err := strconv.UnquoteChar(rest, delimiter)
		if err != nil {
			return "", fmt.Errorf(`expected escapes like \r \n \t \\ \x00, got "%s"`, rest)
		}
		rest = tail
		if multibyte {
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

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
	"syscall"
	"time"
	"unicode/utf8"
)

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit statuses.
const (
	exitOK     = 0 // also after a signal that asks us to end
	exitFailed = 1 // something went wrong at run time
	exitUsage  = 2 // the command line was wrong
)

// command is the whole program: it reports an error and returns the exit status.
func command(args []string, stdout, stderr io.Writer) int {
	err := execute(args, stdout, stderr)
	if err == nil || err == flag.ErrHelp {
		return exitOK
	}
	fmt.Fprintf(stderr, "rawsgi: %v\n", err)
	if !errors.As(err, new(usageError)) {
		return exitFailed
	}
	fmt.Fprintln(stderr, "See -help for the flags, -list for the applications.")
	return exitUsage
}

// A usageError is an error of the command line.
type usageError struct{ error }

// execute does what the command line says. To a CGI program, the words "send" and "call"
// may come from a client.
func execute(args []string, stdout, stderr io.Writer) error {
	if hosted() && len(args) > 0 && hasFlags(os.Getenv("QUERY_STRING")) {
		return serveHost(refuseFlags, Config{}, stdout, stderr)
	}
	if !hosted() && len(args) > 0 && args[0] == "send" {
		return send(args[1:], stdout)
	}
	o, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	application, err := choose(applications(o.config), o.app, o.use, o.config.Trace)
	switch {
	case o.list:
		return list(stdout)
	case err != nil:
		return usageError{err}
	case o.call != "":
		return callOnce(application, o.call, stdout, stderr)
	case o.cgi || hosted():
		return serveHost(application, o.config, stdout, stderr)
	}
	return serve(application, o, stdout, stderr)
}

// hosted reports whether a web server has started this program, as a CGI program.
func hosted() bool { return os.Getenv("GATEWAY_INTERFACE") != "" }

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

// options are the values of the command line.
type options struct {
	addr, app, use, mode string
	call                 string // the path after "call", or ""
	quiet, list, cgi     bool
	workers              int
	maxBody              int64
	config               Config
}

const usage = "Usage: rawsgi [flags]                      serve an application\n" +
	"       rawsgi call [flags] '/path?query'  call it once, without a server\n" +
	"       rawsgi send [flags] ADDR TEXT      send raw bytes and show the reply\n"

// parseFlags reads the command line. It returns flag.ErrHelp after -help.
func parseFlags(args []string, stdout io.Writer) (*options, error) {
	o := &options{maxBody: 1 << 30, config: Config{Timeout: 10 * time.Second}}
	flags, config := flag.NewFlagSet("rawsgi", flag.ContinueOnError), &o.config
	call, app := !hosted() && len(args) > 0 && args[0] == "call", "gallery"
	if call {
		args, app = args[1:], "environ"
	}
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8000", "`host:port` or unix:/path; port 0 picks one")
	flags.StringVar(&o.app, "app", app, "`application`, see -list")
	flags.StringVar(&o.use, "use", "", "`middleware` around it, comma-separated, outermost first")
	flags.StringVar(&o.mode, "mode", "concurrent", "`mode`: concurrent, serial for one "+
		"application call at a time, or prefork for several processes")
	flags.IntVar(&o.workers, "workers", 2, "`number` of processes for -mode prefork")
	flags.BoolVar(&o.cgi, "cgi", false, "answer one CGI request on standard input and output; "+
		"on by itself when GATEWAY_INTERFACE is set")
	flags.StringVar(&config.Root, "root", "docs", "`directory` for the application files")
	flags.StringVar(&config.Script, "script", "", "CGI `program` for cgi, or a directory of them")
	flags.IntVar(&config.Programs, "programs", 64, "largest `number` of CGI programs that run "+
		"at once, in each process")
	flags.StringVar(&config.Upstream, "upstream", "", "`host:port,host:port` for proxy")
	flags.BoolFunc("trace", "tell every step of every exchange on standard error; "+
		"-trace=brief tells the most important ones", o.setTrace)
	flags.BoolVar(&config.OpenLab, "open-lab", false, "let other machines use the application lab")
	flags.BoolVar(&o.quiet, "quiet", false, "no access log")
	flags.BoolVar(&o.list, "list", false, "list applications and middleware")
	flags.Func("timeout", "`time` for the whole head, for each read of the body, for each "+
		"64 KiB written (default 10s)", o.setTimeout)
	flags.Func("max-body", "largest request body in `bytes` (default 1073741824)", o.setMaxBody)
	if err := readFlags(flags, args, stdout); err != nil {
		return nil, err
	}
	if call {
		o.call = flags.Arg(0)
	} else if flags.NArg() > 0 && !hosted() { // else the words of a query may follow: see hasFlags
		return nil, usageError{fmt.Errorf("unexpected argument %q: an application is chosen "+
			"with -app", flags.Arg(0))}
	}
	if call && (flags.NArg() != 1 || !strings.HasPrefix(o.call, "/")) {
		return nil, usageError{errors.New("expected rawsgi call [flags] '/path?query'")}
	}
	return o, o.check()
}

// readFlags parses flags. After -help it prints them and returns flag.ErrHelp.
func readFlags(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	var help strings.Builder
	flags.SetOutput(&help)
	flags.Usage = func() { help.WriteString(usage + "\nFlags:\n"); flags.PrintDefaults() }
	err := flags.Parse(args)
	if err == flag.ErrHelp {
		if _, err := io.WriteString(stdout, help.String()); err != nil {
			return err
		}
	} else if err != nil {
		return usageError{err}
	}
	return err
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
	if err != nil || o.config.Timeout < time.Millisecond {
		return errors.New("expected a time of at least 1ms with its unit, like 5s or 500ms")
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
func (o *options) check() (err error) {
	switch {
	case !slices.Contains([]string{"concurrent", "serial", "prefork"}, o.mode):
		err = fmt.Errorf("-mode is concurrent, serial or prefork, not %q", o.mode)
	case o.mode == "prefork" && runtime.GOOS == "windows":
		err = errors.New("-mode prefork needs Unix: a socket that processes can inherit")
	case o.workers < 1:
		err = fmt.Errorf("-workers must be at least 1; it is %d", o.workers)
	case o.config.Programs < 1 || o.config.Programs > 1<<16:
		err = fmt.Errorf("-programs must be from 1 to %d; it is %d", 1<<16, o.config.Programs)
	case checkUpstreams(o.config.Upstream) != nil:
		err = checkUpstreams(o.config.Upstream)
	default:
		return checkAddr("-addr", o.addr)
	}
	return usageError{err}
}

// checkAddr returns an error for an address that is not host:port or unix:/path.
func checkAddr(name, addr string) error {
	file, isUnix := strings.CutPrefix(addr, "unix:")
	longest := 103 // the system stores it in 104 bytes with a 0 at the end, or in 108
	if runtime.GOOS == "linux" || runtime.GOOS == "windows" {
		longest = 107
	}
	_, port, err := net.SplitHostPort(addr)
	want := ""
	switch {
	case isUnix && file == "":
		want = "needs a path after unix:, like unix:/tmp/rawsgi.sock"
	case isUnix && file[0] == '@':
		want = "needs the path of a file: unix:./" + file + ", not an abstract socket, unix:" + file
	case isUnix && len(file) > longest:
		want = fmt.Sprintf("has a path of %d bytes, and %s allows %d for a Unix socket", len(file),
			runtime.GOOS, longest)
	case !isUnix && (err != nil || strings.Contains(port, "/")):
		want = fmt.Sprintf("is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not %q", addr)
	default:
		return nil
	}
	return usageError{errors.New(name + " " + want)}
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

// list prints the names for -app and -use.
func list(stdout io.Writer) error {
	text := []byte("Applications (-app name):\n")
	for _, entry := range applications(Config{}) {
		text = fmt.Appendf(text, "  %-10s%s\n", entry.Name, entry.About)
	}
	text = append(text, "\nMiddleware (-use name,name, outermost first):\n"...)
	for _, middleware := range middlewares {
		text = fmt.Appendf(text, "  %-10s%s\n", middleware.name, middleware.about)
	}
	_, err := stdout.Write(text)
	return err
}

// callOnce calls an application without any server, and prints the status, the headers, an
// empty line and the body.
func callOnce(application Application, target string, stdout, stderr io.Writer) error {
	var q Request
	if err := q.parseLine("GET " + target + " HTTP/1.0"); err != nil {
		return usageError{err}
	}
	problems := &errorStream{log: log.New(stderr, "", 0)}
	defer problems.Flush()
	err := errors.New("the application called runtime.Goexit")
	untilSignal(exitFailed, func() {
		defer func() {
			if reason := recover(); reason != nil {
				err = errors.New("the application panicked: " + strings.TrimSpace(failure(reason)))
			}
		}()
		status, headers, body := callApplication(application, Environ{
			"PATH_INFO": q.Path, "QUERY_STRING": q.Query, "rawsgi.request_uri": q.Target,
			"wsgi.errors": problems})
		text := status + "\n"
		for _, header := range headers {
			text += header.Name + ": " + header.Value + "\n"
		}
		_, err = io.WriteString(stdout, text+"\n"+string(body))
	})
	return err
}

// serveHost answers the one request of a CGI program.
func serveHost(application Application, c Config, stdout, stderr io.Writer) error {
	outliveLogs()
	var stdin io.Reader = os.Stdin
	errorLog := log.New(stderr, "", 0)
	if c.Trace {
		stdin, stdout, application = narrateCGI(stdin, stdout, application, errorLog, c.Brief)
	}
	untilSignal(exitOK, func() { serveCGI(application, os.Environ(), stdin, stdout, errorLog) })
	return nil
}

// untilSignal calls do. A signal ends the program, and the CGI programs it has started.
func untilSignal(status int, do func()) {
	signals, done := caught(endings()...), make(chan bool)
	defer signal.Stop(signals)
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-signals:
		endScripts()
		os.Exit(status)
	}
}

// serve runs the application under one of the gateways that listen, until a signal.
func serve(application Application, o *options, stdout, stderr io.Writer) error {
	outliveLogs()
	server := newServer(application)
	server.Lab = map[string]string{"gallery": "/lab", "lab": "/"}[o.app]
	server.Serial = o.mode == "serial"
	server.Worker = os.Getenv(workerVariable) != ""
	server.Timeout, server.MaxBody = o.config.Timeout, o.maxBody
	server.OnStop = endScripts // a request may wait for a CGI program
	server.ErrorLog = log.New(stderr, "", 0)
	if server.Worker {
		server.ErrorLog.SetPrefix(fmt.Sprintf("[%d] ", os.Getpid()))
	}
	if !o.quiet {
		server.AccessLog = server.ErrorLog
	}
	if o.config.Trace {
		narrate(server, o.config.Brief)
	}
	if server.Worker {
		return serveWorker(server)
	}
	signals := caught(endings()...) // first, so that a signal closes the listener
	listener, err := listen(o.addr)
	if err != nil {
		return err
	}
	announce(listener.Addr(), stdout, stderr)
	if o.mode == "prefork" {
		return prefork(listener, o.workers, signals, server.ErrorLog)
	}
	serveUntil(signals, server, listener)
	return nil
}

// outliveLogs keeps a server alive when the reader of its output has ended, as after
// Ctrl-C in "rawsgi | tee log": a write then returns an error. It does not ignore SIGPIPE,
// because CGI programs would inherit that.
func outliveLogs() { caught(syscall.SIGPIPE) }

// listen opens the listening socket: "host:port", or "unix:/path". Port 0 is any free
// port, and no host is 127.0.0.1, not every address of this machine.
func listen(addr string) (net.Listener, error) {
	if runtime.GOOS == "wasip1" { // where net pretends, and nobody could connect
		return nil, errors.New("WASI has no network for this program: start it with -cgi")
	}
	if file, ok := strings.CutPrefix(addr, "unix:"); ok {
		return listenUnix(file)
	}
	if strings.HasPrefix(addr, ":") {
		addr = "127.0.0.1" + addr
	}
	// Keep-alive probes find a dead peer; here the deadlines do, and a short connection
	// would pay for the system calls. Multipath TCP, Go's default for listeners, makes a
	// short connection more expensive too, and is of no use to it.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", addr)
	return l, withAdvice(err)
}

// withAdvice adds advice to an error of listen.
func withAdvice(err error) error {
	switch {
	case errors.As(err, new(*net.AddrError)):
		return usageError{err}
	case isErrno(err, syscall.EADDRINUSE, 10048):
		return fmt.Errorf("%w\nStop the program that has this address, "+
			"or let -addr :0 pick a free port", err)
	}
	return err
}

// isErrno reports whether err is this error of the system. For sockets, Windows has numbers
// of its own, which package syscall does not translate.
func isErrno(err error, unix, windows syscall.Errno) bool {
	var number syscall.Errno
	return errors.As(err, &number) &&
		(number == unix || runtime.GOOS == "windows" && number == windows)
}

// A unixListener removes its socket when it is closed, but not one that a newer server has
// made at the same path.
type unixListener struct {
	*net.UnixListener
	file   string
	socket os.FileInfo
}

// listenUnix replaces the socket that a killed server has left: one at which nobody answers.
func listenUnix(file string) (net.Listener, error) {
	info, err := os.Lstat(file)
	if err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is there, and is not a socket", file)
	}
	if c, err := net.Dial("unix", file); err == nil {
		c.Close() // another server is there: Listen will return an error
	} else if isErrno(err, syscall.ECONNREFUSED, 10061) {
		os.Remove(file) // if that fails, so does Listen
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
	if err != nil {
		return nil, withAdvice(err)
	}
	l.SetUnlinkOnClose(false)
	socket, err := os.Lstat(file)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{l, file, socket}, nil
}

// Close closes the listener.
func (l *unixListener) Close() error {
	if err := l.UnixListener.Close(); err != nil {
		return err // it was closed before, and the file may be another's
	}
	if info, err := os.Lstat(l.file); err == nil && os.SameFile(info, l.socket) {
		os.Remove(l.file) // if that fails, the next server replaces it
	}
	return nil
}

// announce prints where the server can be reached, and a warning if it is not only here.
func announce(addr net.Addr, stdout, stderr io.Writer) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		fmt.Fprintf(stdout, "Serving HTTP on %s ...\n", addr)
		return
	}
	host, here := tcp.IP.String(), tcp.String()
	if tcp.IP.IsUnspecified() { // every address of this machine, IPv6 or not: none to type
		host, here = "0.0.0.0", fmt.Sprintf("127.0.0.1:%d", tcp.Port)
	}
	fmt.Fprintf(stdout, "Serving HTTP on %s port %d (http://%s/) ...\n", host, tcp.Port, here)
	if tcp.IP.IsLoopback() {
		return
	}
	for _, ip := range ownAddresses() {
		if tcp.IP.IsUnspecified() {
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

// caught returns a channel for signals, which have no other effect from then on. The first
// asks a server to stop, and the second not to wait for running requests.
func caught(signals ...os.Signal) chan os.Signal {
	received := make(chan os.Signal, 2)
	signal.Notify(received, signals...)
	return received
}

const grace = 5 * time.Second // in which running requests may end after a signal

// serveUntil serves until the first signal, and then lets running requests finish. The
// second signal ends the program.
func serveUntil(signals <-chan os.Signal, server *Server, listener net.Listener) {
	stopped := make(chan bool)
	go func() {
		<-signals
		go func() {
			<-signals
			listener.Close() // fails if Serve has closed it
			endScripts()
			os.Exit(exitOK)
		}()
		if n := server.busy(); n > 0 { // a log that nobody reads may block for ever
			go server.ErrorLog.Printf("stopping: waiting up to %v for %s to end; "+
				"press Ctrl-C again to stop at once", grace, plural(n, "request"))
		}
		server.Shutdown(grace)
		close(stopped)
	}()
	server.Serve(listener)
	<-stopped
	endScripts() // of exchanges that did not end in time
}

// prefork serves with n worker processes that share one listening socket: the system
// gives each connection to one that waits in Accept. It returns after a signal, when all
// workers have ended.
//
// The name is gunicorn's and Apache's, which fork: the child continues where the parent was.
// A Go program has threads, which do not survive a fork, so it executes itself again.
func prefork(l net.Listener, n int, signals <-chan os.Signal, errorLog *log.Logger) error {
	socket, err := inheritable(l)
	if err != nil {
		return err
	}
	life, kill := context.WithCancel(context.Background())
	defer kill()
	replace, workers := make(chan *worker, n), map[*worker]bool{}
	for range n {
		workers[startWorker(life, socket, replace)] = true
	}
	for {
		select {
		case w := <-replace:
			delete(workers, w)
			// A log that nobody reads may block for ever, which must not keep us from stopping.
			go errorLog.Printf("a worker has ended (%v), starting another", w.how)
			workers[startWorker(life, socket, replace)] = true
		case <-signals:
			l.Close() // from here on the socket is the workers' alone
			stopWorkers(workers, signals, kill)
			runtime.KeepAlive(socket) // its finalizer would close the descriptor again
			return nil
		}
	}
}

// inheritable returns a file for a listener's socket that workers can inherit. It shares the
// descriptor with l, which closes it. The file that l.File returns makes the socket blocking
// for all processes whenever a program is started with it, and nothing ends the wait in a
// blocking Accept.
func inheritable(l net.Listener) (socket *os.File, err error) {
	raw, err := l.(syscall.Conn).SyscallConn() // both kinds of listener have it
	if err == nil {
		err = raw.Control(func(descriptor uintptr) { socket = os.NewFile(descriptor, "socket") })
	}
	return socket, err
}

// A worker is a process. Its standard input is a pipe: a byte from the parent asks it to
// stop, as does the end of the pipe if the parent was killed. The end after a byte asks it
// not to wait for running requests.
type worker struct {
	pipe  *os.File  // its writing end, or nil
	ended chan bool // closed when it has ended
	how   any       // its state then, or why it could not start
}

// workerVariable marks a worker process in its environment, and workerSocket is the number
// of the socket that it inherits.
const (
	workerVariable = "RAWSGI_WORKER"
	workerSocket   = 3
)

// startWorker starts a worker, and sends it to replace when it has ended. One that ends at
// once will do so again, so that takes a second at least.
func startWorker(life context.Context, socket *os.File, replace chan<- *worker) *worker {
	program, _ := os.Executable() // without it, Start fails
	process := exec.CommandContext(life, program, os.Args[1:]...)
	process.Env = append(os.Environ(), workerVariable+"=1")
	process.Stdout, process.Stderr = os.Stdout, os.Stderr
	process.ExtraFiles = []*os.File{socket} // from number 3 on
	begin := time.Now()
	stdin, pipe, err := os.Pipe()
	if err == nil {
		process.Stdin = stdin
		err = process.Start()
		stdin.Close() // the worker has its own
	}
	w := &worker{pipe: pipe, ended: make(chan bool), how: err}
	go func() {
		if err == nil {
			process.Wait() // its error is in the state
			w.how = process.ProcessState
		}
		pipe.Close()
		close(w.ended)
		time.Sleep(time.Until(begin.Add(time.Second)))
		replace <- w
	}()
	return w
}

// stopWorkers asks the workers to stop and waits for them. A second signal shortens the
// wait. A worker that hangs is killed in the end.
func stopWorkers(workers map[*worker]bool, signals <-chan os.Signal, kill func()) {
	for w := range workers {
		io.WriteString(w.pipe, "x") // fails if it has ended
	}
	timer := time.AfterFunc(grace+moment, kill)
	go func() {
		<-signals
		for w := range workers {
			w.pipe.Close() // fails if it has ended
		}
		timer.Reset(moment)
	}()
	for w := range workers {
		<-w.ended
	}
}

// serveWorker is a worker: it serves the socket that it inherits until SIGTERM, or until
// its parent stops or is killed.
func serveWorker(server *Server) error {
	signals := workerSignals()
	syscall.CloseOnExec(workerSocket) // CGI programs must not inherit it
	socket := os.NewFile(workerSocket, "socket")
	listener, err := net.FileListener(socket)
	socket.Close() // FileListener has made a copy
	if err != nil {
		return fmt.Errorf("a worker needs the socket of its parent: %w", err)
	}
	serveUntil(signals, server, listener)
	return nil
}

// workerSignals returns a channel with a first signal when a worker has to stop, and with a
// second when it must not wait. A SIGTERM to all processes, as systemd sends it, reaches
// worker and parent in any order, and is one signal.
func workerSignals() <-chan os.Signal {
	caught(endings()...) // Ctrl-C and a hangup reach every process: only the parent obeys
	terminated, asked := caught(syscall.SIGTERM), make(chan bool, 1)
	signals := make(chan os.Signal, 2)
	go func() {
		n, _ := os.Stdin.Read(make([]byte, 1)) // a byte, or the end of the pipe
		asked <- true
		if n > 0 {
			os.Stdin.Read(make([]byte, 1)) // the end of the pipe
			signals <- syscall.SIGTERM
		}
	}()
	go func() {
		select {
		case <-asked:
		case <-terminated:
		}
		signals <- syscall.SIGTERM
	}()
	return signals
}

// send is a client: it sends raw bytes, at once or in pieces with pauses, and shows the reply
// with its line ends.
func send(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("rawsgi send", flag.ContinueOnError)
	split := flags.Int("split", 0, "send in pieces of `n` bytes; 0 sends all at once")
	delay := flags.Duration("delay", 50*time.Millisecond, "`pause` between the pieces")
	half := flags.Bool("half-close", false, "end our half of the connection after sending")
	if err := readFlags(flags, args, stdout); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return usageError{errors.New("expected flags, ADDR and TEXT, in this order: " +
			`rawsgi send [flags] ADDR 'GET / HTTP/1.0\r\n\r\n'`)}
	}
	if err := checkAddr("ADDR", flags.Arg(0)); err != nil {
		return err
	}
	text, err := unescape(flags.Arg(1))
	if err != nil {
		return usageError{err}
	}
	return converse(flags.Arg(0), pieces(text, *split), *delay, *half, stdout)
}

// unescape turns the escapes of a Go string into bytes: `\r\n` into two, `\x00` into one.
func unescape(text string) (string, error) {
	var b []byte
	for rest := text; rest != ""; {
		if rest[0] == '"' || rest[0] >= 0x80 { // a bare quote, or text that need not be UTF-8
			b, rest = append(b, rest[0]), rest[1:]
			continue
		}
		char, multibyte, tail, err := strconv.UnquoteChar(rest, '"')
		if err != nil {
			return "", fmt.Errorf(`expected escapes like \r \n \t \\ \x00, got "%s"`, rest)
		}
		if rest = tail; multibyte {
			b = utf8.AppendRune(b, char)
		} else {
			b = append(b, byte(char))
		}
	}
	return string(b), nil
}

// pieces cuts text into pieces of n bytes, or not at all.
func pieces(text string, n int) (all []string) {
	for ; n > 0 && len(text) > n; text = text[n:] {
		all = append(all, text[:n])
	}
	return append(all, text)
}

// converse sends pieces to addr, then prints the reply.
func converse(addr string, all []string, delay time.Duration, half bool, out io.Writer) error {
	network := "tcp"
	if file, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", file
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var sendErr error // the server has hung up, and may have sent the reason
	for i := 0; i < len(all) && sendErr == nil; i++ {
		if i > 0 {
			time.Sleep(delay)
		}
		if err := show(out, ">", strings.NewReader(all[i])); err != nil {
			return err
		}
		_, sendErr = io.WriteString(c, all[i])
	}
	if h, ok := c.(interface{ CloseWrite() error }); ok && half {
		h.CloseWrite() // fails if the server has hung up, which the reply will show
	}
	if err := show(out, "<", c); err != nil {
		return err
	}
	return sendErr
}

// show prints all bytes of source, line by line, with a mark before each line.
func show(out io.Writer, mark string, source io.Reader) error {
	for r := bufio.NewReader(source); ; {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			if _, err := fmt.Fprintf(out, "%s %s\n", mark, visible(string(line))); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil && err != bufio.ErrBufferFull { // a full buffer is a long line's part
			return err
		}
	}
}

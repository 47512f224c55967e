// rawsgi is a web server gateway interface, from a raw socket up: it reads HTTP/1.0 by
// hand, builds an environ, calls an application and sends the body that it returns.
//
//	main.go      this file: choose an application, wrap middleware around it, listen, serve
//	server.go    the gateway: connections, deadlines, the call of the application
//	request.go   bytes in: request line, header fields, body → environ
//	response.go  bytes out: startResponse, blocks → status line, header fields, body
//	app.go       the other side of the interface: applications, middleware, tools to watch
//
// The interface itself is an afternoon's reading: begin with the applications of app.go,
// from hello to mount, then follow a request from its first byte to the last in server.go,
// request.go and response.go. The rest can wait: flags, signals and processes in this file,
// and in app.go the form, the files, the CGI host, the proxy, Validate, Watching and Lab.
package main

import (
	"bufio"
	"cmp"
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
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

// command is the whole program. It prints an error and returns the exit status: 1 for an
// error at run time, 2 for a wrong command line, 0 also if a signal has ended a server.
func command(args []string, stdout, stderr io.Writer) int {
	err := execute(args, stdout, stderr)
	if err == nil || err == flag.ErrHelp {
		return 0
	}
	fmt.Fprintf(stderr, "rawsgi: %v\n", err)
	if !errors.As(err, new(usageError)) {
		return 1
	}
	hint := "See -help for the flags, -list for the applications."
	if len(args) > 0 && (args[0] == "send" || args[0] == "call") {
		hint = "See rawsgi " + args[0] + " -help."
	}
	fmt.Fprintln(stderr, hint)
	return 2
}

// A usageError is an error of the command line.
type usageError struct{ error }

// execute does what the command line says. A CGI program ignores the words send and call:
// a web server may pass it the words of a client's query. (RFC 3875 §4.4)
func execute(args []string, stdout, stderr io.Writer) error {
	asCGI := os.Getenv("GATEWAY_INTERFACE") != "" // a web server has started it
	switch {
	case len(args) == 0: // no words, and no flags
	case asCGI && hasFlags(os.Getenv("QUERY_STRING")):
		return serveAsCGI(refuseFlags, Config{}, stdout, stderr)
	case !asCGI && args[0] == "send":
		return send(args[1:], stdout)
	case !asCGI && args[0] == "call":
		return callOnce(args[1:], stdout, stderr)
	}
	o, err := parseFlags(args, "gallery", stdout)
	switch {
	case err != nil:
		return err
	case o.list:
		return list(stdout)
	case len(o.rest) > 0 && !asCGI: // else the words of a query may follow: see hasFlags
		return usageError{fmt.Errorf("%q: an application is chosen with -app", o.rest[0])}
	}
	// A write to a log without a reader, as after Ctrl-C in "rawsgi | tee log", must not
	// end a server. SIGPIPE is caught, not ignored: CGI programs would inherit that.
	catchSignals(syscall.SIGPIPE)
	if o.cgi || asCGI {
		return serveAsCGI(o.application, o.config, stdout, stderr)
	}
	return serve(o, stdout, stderr)
}

// hasFlags reports whether a query could give a CGI program flags. A web server may pass
// a query without = as arguments, its words separated by +, and they look like ours: any
// client could choose the application, and the program it runs. A shell in between may
// separate words at blanks and line ends, too. (RFC 3875 §4.4)
func hasFlags(query string) bool {
	word := regexp.MustCompile(`(?i)(^|\+|%20|%0[9ad])(-|%2d)`) // how one begins
	return !strings.Contains(query, "=") && word.MatchString(query)
}

// refuseFlags is the application that refuses such a query.
func refuseFlags(Environ, StartResponse) Body {
	panic(refuse(badRequest, "RFC 3875 §4.4", "", 0, "expected a query with = or without a "+
		"word that begins with -, which could be taken for a flag of this CGI program"))
}

// options are the values of the command line.
type options struct {
	addr, app, use, mode string
	quiet, list, cgi     bool
	workers              int
	maxBody              int64
	config               Config
	rest                 []string    // the arguments that follow the flags
	application          Application // app, with the middleware around it
}

const usage = "Usage: rawsgi [flags]                      serve an application\n" +
	"       rawsgi call [flags] '/path?query'  call it once, without a server\n" +
	"       rawsgi send [flags] ADDR TEXT      send raw bytes and show the reply\n"

// parseFlags reads the command line.
func parseFlags(args []string, app string, stdout io.Writer) (*options, error) {
	o := &options{}
	flags, c := flag.NewFlagSet("rawsgi", flag.ContinueOnError), &o.config
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8000", "`host:port` or unix:/path; :0 picks a port")
	flags.StringVar(&o.app, "app", app, "`application`, see -list")
	flags.StringVar(&o.use, "use", "", "`middleware,middleware` around it, outermost first")
	flags.StringVar(&o.mode, "mode", "concurrent", "`mode`: concurrent, serial for one "+
		"application call at a time, or prefork for several processes")
	flags.IntVar(&o.workers, "workers", 2, "`number` of processes for -mode prefork")
	flags.BoolVar(&o.cgi, "cgi", false, "be a CGI program, as if GATEWAY_INTERFACE were set")
	flags.StringVar(&c.Root, "root", "docs", "`directory` for the application files")
	flags.StringVar(&c.Script, "script", "", "CGI `program` for cgi, or a directory of them")
	flags.IntVar(&c.Programs, "programs", maxPrograms, "largest `number` of CGI programs "+
		"that run at once, in each process")
	flags.StringVar(&c.Upstream, "upstream", "", "`host:port,host:port` for proxy")
	flags.BoolFunc("trace", "print every step of every exchange on standard error; "+
		"-trace=brief prints the most important ones", o.setTrace)
	flags.BoolVar(&c.OpenLab, "open-lab", false, "let other machines use the lab")
	flags.BoolVar(&o.quiet, "quiet", false, "no access log")
	flags.BoolVar(&o.list, "list", false, "list applications and middleware")
	flags.DurationVar(&c.Timeout, "timeout", 10*time.Second, "`time` for the whole head, "+
		"for each read of the body, for each 64 KiB written")
	flags.Int64Var(&o.maxBody, "max-body", 1<<30, "largest request body in `bytes`")
	if err := readFlags(flags, args, stdout); err != nil {
		return nil, err
	}
	o.rest = flags.Args()
	return o, o.check()
}

// setTrace sets -trace. Without a value, package flag passes "true".
func (o *options) setTrace(text string) error {
	o.config.Trace, o.config.Brief = text != "false", text == "brief"
	if !slices.Contains([]string{"true", "false", "brief"}, text) {
		return errors.New("expected -trace or -trace=brief")
	}
	return nil
}

// readFlags parses flags. After -help it prints them and returns flag.ErrHelp.
func readFlags(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if err == flag.ErrHelp {
		_, failed := io.WriteString(stdout, usage+"\nFlags:\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return cmp.Or(failed, err)
	}
	if err == nil {
		return nil
	}
	text, expected := err.Error(), "expected digits, like 1000000"
	if strings.Contains(text, "-timeout") || strings.Contains(text, "-delay") {
		expected = "expected a time with its unit, like 5s or 500ms"
	} else if strings.Contains(text, "boolean") {
		expected = "expected the flag alone"
	}
	return usageError{errors.New(strings.Replace(text, "parse error", expected, 1))}
}

// check returns an error for a flag with a wrong value, and finds the application.
func (o *options) check() error {
	c := o.config
	modes := []string{"concurrent", "serial", "prefork"}
	info, rootErr := os.Stat(c.Root)
	if rootErr == nil && !info.IsDir() {
		rootErr = errors.New(c.Root + " is not a directory")
	}
	_, scriptErr := os.Stat(c.Script)
	for _, check := range []struct {
		wrong bool
		text  string
	}{
		{!slices.Contains(modes, o.mode), "-mode is concurrent, serial or prefork"},
		{o.mode == "prefork" && runtime.GOOS == "windows",
			"-mode prefork needs Unix: a socket that processes can inherit"},
		{o.workers < 1, "-workers must be at least 1"},
		{c.Programs < 1 || c.Programs > 1<<16, "-programs must be from 1 to 65536"},
		{c.Timeout < time.Millisecond, "-timeout must be a time of 1ms at least"},
		{o.maxBody < 0, "-max-body must be at least 0"},
		// The default, docs, may be missing: files then answers 404.
		{c.Root != "docs" && rootErr != nil, fmt.Sprint("-root: ", rootErr)},
		{c.Script != "" && scriptErr != nil, fmt.Sprint("-script: ", scriptErr)},
	} {
		if check.wrong {
			return usageError{errors.New(check.text)}
		}
	}
	err := checkUpstreams(c.Upstream)
	if err == nil && !o.list {
		o.application, err = choose(applications(c), o.app, o.use)
	}
	if err != nil {
		return usageError{err}
	}
	return nil
}

// choose finds an application by its name and wraps middleware around it.
func choose(entries []entry, app, use string) (Application, error) {
	i := slices.IndexFunc(entries, func(e entry) bool { return e.Name == app })
	if i < 0 {
		return nil, fmt.Errorf("no application is called %q: see -list", app)
	}
	return withMiddleware(entries[i].App, use)
}

// list prints the names for -app and -use.
func list(stdout io.Writer) error {
	text := []byte("Applications (-app name):\n")
	for _, each := range applications(Config{}) {
		text = fmt.Appendf(text, "  %-10s%s\n", each.Name, each.About)
	}
	text = append(text, "\nMiddleware (-use name,name, outermost first):\n"...)
	for _, middleware := range middlewares {
		text = fmt.Appendf(text, "  %-10s%s\n", middleware.name, middleware.about)
	}
	_, err := stdout.Write(text)
	return err
}

// callOnce calls an application without any server, and prints the status, the headers,
// an empty line and the body.
func callOnce(args []string, stdout, stderr io.Writer) error {
	o, err := parseFlags(args, "environ", stdout)
	if err != nil {
		return err
	}
	if len(o.rest) != 1 || !strings.HasPrefix(o.rest[0], "/") {
		return usageError{errors.New("expected rawsgi call [flags] '/path?query'")}
	}
	var q Request
	if err := q.parseLine("GET " + o.rest[0] + " HTTP/1.0"); err != nil {
		return usageError{err}
	}
	problems := &errorStream{log: log.New(stderr, "", 0)}
	defer problems.Flush()
	err = errors.New("the application called runtime.Goexit")
	untilSignal(1, func() {
		defer func() {
			if reason := recover(); reason != nil {
				err = errors.New("the application panicked: " + strings.TrimSpace(failure(reason)))
			}
		}()
		status, headers, body := callApplication(o.application, Environ{
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

// serveAsCGI answers the one request of a CGI program.
func serveAsCGI(application Application, c Config, stdout, stderr io.Writer) error {
	var stdin io.Reader = os.Stdin
	errorLog := log.New(stderr, "", 0)
	if c.Trace {
		stdin, stdout, application = narrateCGI(stdin, stdout, application, errorLog, c.Brief)
	}
	untilSignal(0, func() { serveCGI(application, os.Environ(), stdin, stdout, errorLog) })
	return nil
}

// untilSignal calls do. A signal that comes before it returns ends the program, with this
// exit status, and the CGI programs that it has started.
func untilSignal(status int, do func()) {
	signals, done := catchSignals(), make(chan bool)
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
func serve(o *options, stdout, stderr io.Writer) error {
	server := newServer(o.application)
	server.Serial, server.Worker = o.mode == "serial", os.Getenv(workerVariable) != ""
	server.Lab = map[string]string{"gallery": "/lab", "lab": "/"}[o.app]
	server.Timeout, server.MaxBody = o.config.Timeout, o.maxBody
	server.OnStop = endScripts // a request may wait for a CGI program
	server.ErrorLog = log.New(stderr, "", 0)
	if !o.quiet {
		server.AccessLog = server.ErrorLog
	}
	if o.config.Trace {
		narrate(server, o.config.Brief)
	}
	if server.Worker {
		return serveWorker(server)
	}
	signals := catchSignals() // first, so that a signal closes the listener
	listener, err := listen(o.addr)
	if err != nil {
		return err
	}
	go announce(listener.Addr(), stdout, stderr) // it may block for ever, as any log may
	if o.mode == "prefork" {
		prefork(listener, o.workers, signals, server.ErrorLog)
	} else {
		serveUntil(signals, signals, server, listener)
	}
	return nil
}

// parseAddr splits host:port or unix:/path into the arguments of net.Listen and net.Dial.
// No host means 127.0.0.1, not every address of this machine. An error begins with name.
func parseAddr(name, addr string) (network, address string, err error) {
	if file, ok := strings.CutPrefix(addr, "unix:"); ok {
		// Some systems store the path in 104 bytes, with a 0 at the end.
		if file == "" || file[0] == '@' || len(file) > 103 {
			err = fmt.Errorf("%s is unix: and the path of a file, of at most 103 bytes, not %q",
				name, addr)
		}
		return "unix", file, err
	}
	host, port, err := net.SplitHostPort(addr)
	_, badPort := net.LookupPort("tcp", port)
	if err != nil || badPort != nil {
		err = fmt.Errorf("%s is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not %q",
			name, addr)
	}
	return "tcp", net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port), err
}

// listen opens the listening socket. Port 0 is any free port.
func listen(addr string) (net.Listener, error) {
	if runtime.GOOS == "wasip1" { // where package net has no network
		return nil, errors.New("WASI has no network for this program: start it with -cgi")
	}
	network, address, err := parseAddr("-addr", addr)
	if err != nil {
		return nil, usageError{err}
	}
	if network == "unix" { // the socket that a killed server has left is replaced
		if info, err := os.Lstat(address); err == nil && info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is there, and is not a socket", address)
		}
		if c, err := net.Dial(network, address); err == nil {
			c.Close() // another server is there: Listen will return an error
		} else if isErrno(err, syscall.ECONNREFUSED, 10061) {
			os.Remove(address) // if that fails, so does Listen
		}
	}
	// Keep-alive probes find a dead peer; here the deadlines do, and a short connection
	// would pay for the system calls. Multipath TCP, Go's default for listeners, makes a
	// short connection more expensive too, and is of no use to it.
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), network, address)
	if isErrno(err, syscall.EADDRINUSE, 10048) {
		return nil, fmt.Errorf("%w\nStop the program that has this address, "+
			"or let -addr :0 pick a free port", err)
	}
	if unix, ok := l.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
		socket, _ := os.Lstat(address) // if another has removed it, Close has nothing to do
		return &unixListener{unix, socket}, nil
	}
	return l, err
}

// isErrno reports whether err is this error; for sockets, Windows has its own numbers.
func isErrno(err error, unix, windows syscall.Errno) bool {
	return errors.Is(err, unix) || errors.Is(err, windows)
}

// A unixListener removes its socket when it is closed, but not that of a newer server.
type unixListener struct {
	*net.UnixListener
	socket os.FileInfo // as it was made
}

func (l *unixListener) Close() error {
	there, err := os.Lstat(l.Addr().String())
	if err == nil && os.SameFile(there, l.socket) {
		os.Remove(l.Addr().String()) // fails if another Close has removed it
	}
	return l.UnixListener.Close()
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
	addrs, _ := net.InterfaceAddrs() // without them, there is nothing to print
	for _, each := range addrs {     // the IPv4 ones, which a class can type
		ip, ok := each.(*net.IPNet)
		if ok && tcp.IP.IsUnspecified() && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			fmt.Fprintf(stdout, "From other machines: http://%s:%d/\n", ip.IP, tcp.Port)
		}
	}
	if !tcp.IP.IsLoopback() {
		fmt.Fprintln(stderr, "Warning: other machines can reach this server. It is made for "+
			"learning, not for the open network.")
	}
}

// catchSignals returns a channel for signals, which have no other effect from then on: a
// caller that drops the channel ignores them. Without arguments it catches those that ask
// a program to end: not SIGHUP, if nohup(1) has started it, or on WASI, which has none.
func catchSignals(signals ...os.Signal) chan os.Signal {
	if len(signals) == 0 {
		signals = []os.Signal{os.Interrupt, syscall.SIGTERM}
		if runtime.GOOS != "wasip1" && !signal.Ignored(syscall.SIGHUP) {
			signals = append(signals, syscall.SIGHUP)
		}
	}
	received := make(chan os.Signal, 2)
	signal.Notify(received, signals...)
	return received
}

const grace = 5 * time.Second // in which running requests may end after a signal

// serveUntil serves until a signal asks it to stop, and then lets running requests
// finish. A signal on now cuts their connections. With one channel for both, the second
// signal does.
func serveUntil(stop, now <-chan os.Signal, server *Server, listener net.Listener) {
	go func() {
		<-stop
		if n := server.busy(); n > 0 {
			// A log that nobody reads may block for ever.
			go server.ErrorLog.Printf("stopping: waiting up to %v for %s to end; "+
				"press Ctrl-C again to stop at once", grace, plural(n, "request"))
		}
		go server.Shutdown(grace) // ends Serve
		for <-now == syscall.SIGHUP {
			// A closed terminal sends one, and its shell another: they do not count.
		}
		server.Shutdown(0)
		os.Exit(0)
	}()
	server.Serve(listener)
	server.Shutdown(grace) // Serve returns before its connections have ended
	endScripts()           // of applications that have outlived the exchange, too
}

// prefork serves with n worker processes that share one listening socket: the system
// gives each connection to one that waits in Accept. It returns after a signal, when all
// workers have ended.
//
// The name is gunicorn's and Apache's, which fork: the child continues where the parent
// was. Threads do not survive a fork, so a Go program executes itself again.
func prefork(l net.Listener, n int, signals <-chan os.Signal, errorLog *log.Logger) {
	socket := inheritable(l)
	stop, askToStop := context.WithCancel(context.Background())
	defer askToStop()
	ended := make(chan error)
	for range n {
		startWorker(stop, socket, ended)
	}
	for stop.Err() == nil {
		select {
		case how := <-ended:
			// A log without a reader may block for ever; the signals must still work.
			go errorLog.Printf("a worker has ended (%v), starting another", how)
			startWorker(stop, socket, ended)
		case <-signals:
			l.Close() // from here on the socket is the workers' alone
			askToStop()
		}
	}
	go func() {
		for <-signals == syscall.SIGHUP {
			// As in serveUntil.
		}
		os.Exit(0) // the end of their pipes asks the workers not to wait
	}()
	for range n {
		<-ended
	}
	runtime.KeepAlive(socket) // its finalizer would close the descriptor again
}

// inheritable returns a file for a listener's socket that workers can inherit. It shares
// the descriptor with l, which closes it. The file that l.File returns makes the socket
// blocking for all processes whenever a program is started with it, and nothing ends the
// wait in a blocking Accept.
func inheritable(l net.Listener) (socket *os.File) {
	raw, _ := l.(syscall.Conn).SyscallConn() // it and Control fail if l is closed
	raw.Control(func(descriptor uintptr) { socket = os.NewFile(descriptor, "socket") })
	return socket
}

const workerVariable = "RAWSGI_WORKER" // marks a worker process in its environment

// startWorker starts a worker process, and sends how it has ended. Its standard input is
// a pipe: a byte asks it to stop, as does the end of the pipe if the parent was killed;
// the end after a byte asks it not to wait for running requests. ended gets nothing in
// the first second, so that workers that fail at once are not started in a busy loop.
func startWorker(stop context.Context, socket *os.File, ended chan<- error) {
	pause := time.After(time.Second)
	executable, _ := os.Executable() // without it, Start fails
	process := exec.CommandContext(stop, executable, os.Args[1:]...)
	process.Env = append(os.Environ(), workerVariable+"=1")
	process.Stdout, process.Stderr = os.Stdout, os.Stderr
	process.ExtraFiles = []*os.File{socket} // from number 3 on
	pipe, err := process.StdinPipe()
	if err == nil {
		process.Cancel = func() error { _, err := io.WriteString(pipe, "x"); return err }
		process.WaitDelay = grace + moment // a worker that hangs is killed then
		err = process.Start()
	}
	go func() {
		if err == nil {
			process.Wait() // its error is in the state
			err = errors.New(process.ProcessState.String())
		}
		select {
		case <-stop.Done():
		case <-pause:
		}
		ended <- err
	}()
}

// serveWorker is a worker: it serves the socket that it inherits until SIGTERM, or until
// its parent stops or is killed.
func serveWorker(server *Server) error {
	const number = 3 // of the socket
	server.ErrorLog.SetPrefix(fmt.Sprintf("[%d] ", os.Getpid()))
	stop, now := workerSignals()
	syscall.CloseOnExec(number) // CGI programs must not inherit it
	socket := os.NewFile(number, "socket")
	listener, err := net.FileListener(socket)
	socket.Close() // FileListener has made a copy
	if err != nil {
		return fmt.Errorf("a worker needs the socket of its parent: %w", err)
	}
	serveUntil(stop, now, server, listener)
	return nil
}

// workerSignals returns channels that ask a worker to stop, and to end now. A SIGTERM to
// all processes, as systemd sends it, reaches worker and parent in any order: it and the
// byte of the parent are one reason to stop.
func workerSignals() (stop, now chan os.Signal) {
	catchSignals() // Ctrl-C and a hangup reach every process: only the parent obeys
	stop, now = catchSignals(syscall.SIGTERM), make(chan os.Signal)
	go func() {
		n, _ := os.Stdin.Read(make([]byte, 1)) // a byte, or the end of the pipe
		select {
		case stop <- syscall.SIGTERM:
		default: // it has been asked already
		}
		if n > 0 {
			os.Stdin.Read(make([]byte, 1)) // the end of the pipe
			now <- syscall.SIGTERM
		}
	}()
	return stop, now
}

// send is a client: it sends raw bytes, at once or in pieces with pauses, and shows the
// reply with its line ends.
func send(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("rawsgi send", flag.ContinueOnError)
	size := flags.Int("split", 0, "send in pieces of `n` bytes; 0 sends all at once")
	delay := flags.Duration("delay", 50*time.Millisecond, "`pause` between the pieces")
	half := flags.Bool("half-close", false, "end our half of the connection after sending")
	if err := readFlags(flags, args, stdout); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return usageError{errors.New(`expected rawsgi send [flags] ADDR 'GET / HTTP/1.0\r\n\r\n'`)}
	}
	network, address, err := parseAddr("ADDR", flags.Arg(0))
	text, wrong := unescape(flags.Arg(1))
	if err = cmp.Or(err, wrong); err != nil {
		return usageError{err}
	}
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	for i, piece := range pieces(text, *size) {
		if i > 0 {
			time.Sleep(*delay)
		}
		if err := show(stdout, ">", strings.NewReader(piece)); err != nil {
			return err
		}
		if _, err = io.WriteString(c, piece); err != nil {
			break // the server has hung up, and may have sent the reason
		}
	}
	if h, ok := c.(interface{ CloseWrite() error }); ok && *half {
		h.CloseWrite() // fails if the server has hung up
	}
	return cmp.Or(show(stdout, "<", c), err)
}

// show prints all bytes of source, line by line, with a mark before each line.
func show(out io.Writer, mark string, source io.Reader) (err error) {
	r := bufio.NewReader(source)
	for err == nil || err == bufio.ErrBufferFull { // a full buffer is a long line's part
		var line []byte
		if line, err = r.ReadSlice('\n'); len(line) > 0 {
			_, failed := fmt.Fprintf(out, "%s %s\n", mark, visible(string(line)))
			err = cmp.Or(failed, err)
		}
	}
	if err == io.EOF {
		return nil
	}
	return err
}

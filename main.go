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
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
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
	var stdin io.Reader = os.Stdin
	errorLog := log.New(stderr, "", 0)
	if tell {
		stdin, stdout, application = narrateCGI(stdin, stdout, application, errorLog)
	}
	serveCGI(application, os.Environ(), stdin, stdout, errorLog)
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
	if !o.quiet {
		server.AccessLog = server.ErrorLog
	}
	if o.config.Trace {
		narrate(server)
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
			application = watched(name, application)
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

// server_test.go: all tests, in parts. The order is that of the program: the bytes of one
// exchange, what an application may do, what goes wrong around it, then the pages that
// describe all this, and tools for whoever learns from it.
//
//	Exchanges from outside        the rows of docs/conformance.md, through docs/check.go
//	Bytes in, no sockets          request.go by itself
//	The application's side        response.go: startResponse, blocks, close, files
//	The server's troubles         server.go: clients that leave or wait, deadlines, shutdown, logs
//	Applications and command      app.go and main.go: what is printed, signals, lost logs
//	Gateways and hosts            main.go: pre-fork; app.go: CGI, proxy, forms, files, middleware
//	Docs                          the pages: transcripts, excerpts, form, links, servers.md
//	Steps                         the programs of the course in docs/steps
//	The trace and the lab         the recorder, -trace, the lab
//	Exercises                     docs/check.go, and through it each exercise
//	Faults and load               clients that break off, thousands of connections, a soak
//	Fuzzing                       go test -fuzz
//	Speed and memory              go test -bench
//
// Names such as R05 and W13 are rules of docs/conformance.md. The flags: -all adds the tests that
// take long or need other programs; -update writes pages anew, with -run Docs or -run Servers.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cgi"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

// TestMain runs the program itself when a test starts this binary again as a child. After
// the tests it counts goroutines and descriptors: none may be left behind.
func TestMain(m *testing.M) {
	if os.Getenv("RAWSGI_AS_PROGRAM") != "" {
		main()
	}
	flag.Parse()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each child would wait a second before it ends
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		parallel.Value.Set("6") // tests that run at once mostly wait, for a program or a peer
	}
	warmUp()
	goroutines, files := runtime.NumGoroutine(), openFiles()
	code := m.Run()
	for _, reason := range slices.Sorted(maps.Keys(skips)) {
		fmt.Printf("skipped %d: %s\n", skips[reason], reason)
	}
	os.RemoveAll(checkerDir) // "" if it was not built
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // fuzzing keeps goroutines of its own
	}
	http.DefaultClient.CloseIdleConnections()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if runtime.NumGoroutine() <= goroutines && openFiles() <= files {
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond) // the end of a goroutine is no event
	}
	stacks := make([]byte, 1<<20)
	fmt.Printf("FAIL: left behind: goroutines %d → %d, descriptors %d → %d\n%s\n", goroutines,
		runtime.NumGoroutine(), files, openFiles(), stacks[:runtime.Stack(stacks, true)])
	os.Exit(1)
}

var all = flag.Bool("all", false, "run the tests that take long or need other programs, too")

// skips counts the skipped tests by reason. The last lines of a run list them: without -v, nothing
// else does.
var (
	skipLock sync.Mutex
	skips    = map[string]int{}
)

// skip skips a test, and counts it. If a program is missing, packages provide it.
func skip(t testing.TB, reason string, packages ...string) {
	t.Helper()
	if len(packages) > 0 {
		reason += ": apt-get install " + strings.Join(packages, " ")
	}
	skipLock.Lock()
	skips[reason]++
	skipLock.Unlock()
	t.Skip(reason)
}

// only skips a test on other systems than these; without any, on those that are no Unix.
func only(t testing.TB, reason string, systems ...string) {
	t.Helper()
	if !slices.Contains(systems, runtime.GOOS) && (len(systems) > 0 || runtime.GOOS == "windows") {
		skip(t, reason)
	}
}

// long skips a test that takes long, or is about other programs, unless -all is given. When
// -run names the test, long fails it instead: "ok" would be a lie.
func long(t testing.TB) {
	t.Helper()
	if *all {
		return
	}
	name, _ := strings.CutPrefix(t.Name(), "Test")
	if strings.Contains(flag.Lookup("test.run").Value.String(), name) {
		t.Fatal("this test takes long or needs other programs: add -all to run it")
	}
	skip(t, "takes long or needs other programs (go test -all)")
}

// longer skips a test that takes many seconds when -short is given.
func longer(t testing.TB) {
	t.Helper()
	if testing.Short() {
		skip(t, "takes many seconds (go test without -short)")
	}
}

// warmUp makes the runtime open what it keeps open (the network poller, the goroutine for
// signals), so that it does not count as a leak.
func warmUp() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	signal.Stop(signals)
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
}

// openFiles counts this process's file descriptors, where the system can tell (Linux).
func openFiles() int {
	if runtime.GOOS != "linux" {
		return 0 // Wine has a /proc, too
	}
	entries, _ := os.ReadDir("/proc/self/fd") // fails without /proc: 0
	return len(entries)
}

// must stops a test at an error that is not its subject.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// same fails the test if what it got is not what it wants.
func same[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if any(got) != any(want) {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

// has fails the test unless a text has each of wants, in which ! comes before what it must not
// have, and ^ and $ are the text's ends.
func has(t testing.TB, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		want, not := strings.CutPrefix(want, "!")
		if strings.Contains("^"+text+"$", want) == not {
			t.Errorf("not so: %q (of %q) in:\n%.4000s", want, wants, text)
		}
	}
}

// holds is has for a list with | between.
func holds(t testing.TB, text, wants string) {
	t.Helper()
	has(t, text, strings.Split(wants, "|")...)
}

// noError fails the test if something that it needs fails.
func noError(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// wait waits for an event, not for ever.
func wait[T any](t testing.TB, what string, event <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-event:
	case <-time.After(20 * time.Second):
		t.Fatalf("waited 20s for %s", what)
	}
	return value
}

// eventually waits for something that has no event.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20s for %s", what)
		}
	}
}

// inBackground runs do, and tells when it has ended.
func inBackground(do func()) <-chan bool {
	ended := make(chan bool)
	go func() { do(); close(ended) }()
	return ended
}

// together runs do n times at once.
func together(n int, do func()) {
	var all sync.WaitGroup
	for range n {
		all.Add(1)
		go func() { defer all.Done(); do() }()
	}
	all.Wait()
}

// tempFile makes a file.
func tempFile(t testing.TB, content []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	noError(t, os.WriteFile(path, content, 0o600))
	return path
}

// A running is a server under test, with what it wrote to its logs.
type running struct {
	*Server
	addr   string
	access *lockedBuffer
	errors *lockedBuffer
	served <-chan bool // closed when Serve has returned
}

// A lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start serves an application on a free port until the test ends or calls stop.
func start(t testing.TB, application Application, change ...func(*Server)) *running {
	return startOn(t, "127.0.0.1:0", application, change...)
}

func startOn(t testing.TB, addr string, application Application, change ...func(*Server)) *running {
	t.Helper()
	return startWith(t, must(listen(addr))(t), application, change...)
}

func startWith(t testing.TB, l net.Listener, application Application,
	change ...func(*Server)) *running {
	r := &running{newServer(application), l.Addr().String(), &lockedBuffer{}, &lockedBuffer{}, nil}
	r.AccessLog, r.ErrorLog = log.New(r.access, "", 0), log.New(r.errors, "", 0)
	for _, change := range change {
		change(r.Server)
	}
	r.served = inBackground(func() { r.Serve(l) })
	t.Cleanup(func() { r.stop(); <-r.served })
	eventually(t, "Serve", func() bool { // or a stop could come before it
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.listener != nil
	})
	return r
}

// stop shuts the server down; when it returns, the logs are complete.
func (r *running) stop() { r.Shutdown(10 * time.Second) }

// open returns how many connections the server has.
func (r *running) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// dial connects to a server under test.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c := must(net.Dial("tcp", addr))(t).(*net.TCPConn)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// sendTo connects to a server and sends a request. It fails if the server hangs up before.
func sendTo(t testing.TB, addr, request string) *net.TCPConn {
	t.Helper()
	c := dial(t, addr)
	must(io.WriteString(c, request))(t)
	return c
}

// readRest reads to the end of an answer.
func readRest(t testing.TB, r io.Reader) string {
	t.Helper()
	return string(must(io.ReadAll(r))(t))
}

// ask sends a request and returns the whole reply.
func ask(t testing.TB, addr, request string) string {
	t.Helper()
	return must(askUntil(t, addr, request))(t)
}

// replies holds the reply to a request to wants, as holds does; Date and Server are left out.
func replies(t testing.TB, addr, request, wants string) {
	t.Helper()
	holds(t, ourHeaders.ReplaceAllString(ask(t, addr, request), ""), wants)
}

// answers serves an application, and holds its reply and the error log to wants.
func answers(t testing.TB, application Application, request, want, log string) {
	t.Helper()
	s := start(t, application)
	replies(t, s.addr, request, want)
	s.stop()
	holds(t, s.errors.String(), log)
}

// askCut is ask for an answer that breaks off with a reset.
func askCut(t testing.TB, addr, request string) string {
	t.Helper()
	reply, err := askUntil(t, addr, request)
	same(t, "a reset", isReset(err), true)
	return reply
}

// askUntil sends a request, and with end the end of it, and returns all that comes back.
func askUntil(t testing.TB, addr, request string, end ...bool) (string, error) {
	t.Helper()
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	c := must(net.Dial(network, addr))(t)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	sent := inBackground(func() {
		io.WriteString(c, request) // fails if the server has answered without waiting for the rest
		if slices.Contains(end, true) {
			c.(interface{ CloseWrite() error }).CloseWrite()
		}
	})
	reply, err := io.ReadAll(c)
	c.Close()
	<-sent
	return string(reply), err
}

// isReset reports a reset, also by Windows' numbers: WSAECONNRESET and WSAECONNABORTED.
func isReset(err error) bool {
	var number syscall.Errno
	return errors.Is(err, syscall.ECONNRESET) ||
		errors.As(err, &number) && (number == 10054 || number == 10053)
}

// splitReply takes a reply apart and holds its head to RFC 1945 §6.
func splitReply(t *testing.T, reply string) (status string, header []string, content string) {
	t.Helper()
	head, content, ok := strings.Cut(reply, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	status, isHTTP := strings.CutPrefix(lines[0], "HTTP/1.0 ")
	if !ok || !isHTTP || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
		t.Fatalf("expected a head of HTTP/1.0, got %.200q", reply)
	}
	return status, lines[1:], content
}

// get makes the usual request out of header lines.
func get(lines ...string) string {
	return "GET / HTTP/1.0\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
}

// post makes a request with a body. Its length is among the lines.
func post(body string, lines ...string) string {
	return "POST" + strings.TrimPrefix(get(lines...), "GET") + body
}

// body returns what the environ application says about a body, in two lines.
func body(content string) []string {
	return []string{fmt.Sprintf("BODY-LENGTH: %d", len(content)),
		fmt.Sprintf("BODY-SHA256: %x", sha256.Sum256([]byte(content)))}
}

// wholeBody is what a reply has that ends with them, for replies.
func wholeBody(content string) string {
	return "^" + ok200 + "|\n" + strings.Join(body(content), "\n") + "\n$"
}

func allBytes() string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return string(all)
}

// ---------------------------------------------------------------- Exchanges from outside
//
// docs/check.go reads the table of docs/conformance.md, and grades. It is built once and held
// here, and holds our server.

var update = flag.Bool("update", false,
	"write the pages in docs anew, with -run Docs or -run Servers")

// checkerDir is where the checker is built; TestMain removes it.
var checkerDir string

// checker builds docs/check.go and returns its path.
var checker = sync.OnceValue(func() string {
	var err error
	if checkerDir, err = os.MkdirTemp("", "rawsgi-checker-"); err != nil {
		panic(err)
	}
	path := filepath.Join(checkerDir, "check.exe") // a name that runs everywhere
	if out, err := exec.Command("go", "build", "-o", path,
		"docs/check.go").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("docs/check.go: %v\n%s", err, out))
	}
	return path
})

// check runs the checker, for five minutes at most, and returns what it prints and its status.
func check(t testing.TB, args ...string) (printed string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, checker(), args...)
	// So that it ends its children.
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	out, err := command.CombinedOutput()
	if command.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("check %q: %v %v\n%s", args, err, ctx.Err(), out)
	}
	return string(out), command.ProcessState.ExitCode()
}

// A graded is a row of docs/conformance.md, and how a server did on it: see docs/check.go.
type graded struct {
	Chapter         int
	Name, Want, How string // How: "then end" our half, or "+": more is sent than is read
	Send            []byte
	Outcome, Fault  string
}

// rule is the row's name without its own case.
func (g graded) rule() string {
	rule, _, _ := strings.Cut(g.Name, ": ")
	return rule
}

// allRows has the rows of docs/conformance.md that are bytes alone.
var allRows = sync.OnceValue(func() (rows []graded) {
	out, err := exec.Command(checker(), "rows").Output()
	if err := cmp.Or(err, json.Unmarshal(out, &rows)); err != nil {
		panic(err)
	}
	return rows
})

// grade has the checker grade. Arguments say what, which rows and how: server ADDR 3-5 -jobs 8.
func grade(t testing.TB, args ...string) (rows []graded) {
	t.Helper()
	out, _ := check(t, append(args, "-json")...)
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatalf("%v: %.2000s", err, out)
	}
	return rows
}

// passes fails the test for each row that ours does not pass, but for the exceptions of its mode.
// There must be at least so many rows.
func passes(t *testing.T, mode string, least int, args ...string) {
	t.Helper()
	rows := grade(t, append(args, "-strict")...)
	for _, row := range rows {
		if row.Outcome != "passes" && exceptions()[mode+" "+row.Name] == "" {
			t.Errorf("%s: %s %s; given %q", row.Name, row.Outcome, row.Fault, row.Send)
		}
	}
	if len(rows) < least {
		t.Errorf("%d rows, expected %d", len(rows), least)
	}
}

// exceptions are the rows that a mode cannot keep, with the reason: what is between the
// client and the application speaks for itself. They are on the page, too.
var exceptions = sync.OnceValue(func() map[string]string {
	page, err := os.ReadFile("docs/conformance.md")
	if err != nil {
		panic(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Where a mode differs\n")
	section, _, _ = strings.Cut(section, "\n## ")
	reasons := map[string]string{}
	line := regexp.MustCompile(`(?m)^\| (\w+) \| (.*) \| (.*) \|$`)
	for _, line := range line.FindAllStringSubmatch(section, -1) {
		reasons[line[1]+" "+line[2]] = line[3]
	}
	return reasons
})

// TestConformance holds the program to every row of docs/conformance.md in every mode, whole and
// byte by byte.
func TestConformance(t *testing.T) {
	modes := map[string]string{}
	for _, mode := range []string{"serial", "concurrent"} {
		modes[mode] = start(t, showEnviron, func(s *Server) { s.Serial = mode == "serial" }).addr
	}
	modes["traced"] = start(t, watched("environ", showEnviron), func(s *Server) {
		s.ErrorLog = log.New(io.Discard, "", 0)
		narrate(s, false)
	}).addr
	modes["proxy"] = start(t, newProxy(modes["concurrent"], 20*time.Second)).addr
	if runtime.GOOS != "windows" {
		script := asProgram(t, t.TempDir(), "self", "-app environ")
		modes["CGI"] = start(t, newCGI(script, 20*time.Second, 0)).addr
		program, addr, _ := startCommand(t, rawsgi("-addr", "127.0.0.1:0", "-mode", "prefork",
			"-app", "environ", "-quiet"))
		modes["prefork"] = addr
		t.Cleanup(func() { program.Process.Signal(syscall.SIGTERM); program.Wait() })
	}
	for mode, addr := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			passes(t, mode, 200, "server", addr, "-jobs", "8")
			if mode != "CGI" {
				passes(t, mode, 200, "server", addr, "-jobs", "8", "-bytewise")
			}
		})
	}
}

// ---------------------------------------------------------------- Bytes in, no sockets

// parse reads one request with its body from bytes.
func parse(source io.Reader) (*Request, []byte, error) {
	r := bufio.NewReader(source)
	request, err := readRequest(r, 1<<30)
	if err != nil {
		return request, nil, err
	}
	content, err := io.ReadAll(&Input{r: r, length: request.Length})
	return request, content, err
}

// TestReadRequest runs the rows of the table through the parser alone, whole and one byte at a
// time. Each row that is refused names its rule, and if it is refused for a byte, points at that
// byte: in the list below it has a mark in front of it, and a space is ␣.
func TestReadRequest(t *testing.T) {
	longLines := map[string]string{"414": "RFC 9110 §15.5.15", "431": "RFC 6585 §5"}
	var points []string
	for _, row := range allRows() {
		whole, content, err := parse(bytes.NewReader(row.Send))
		slow, slowContent, slowErr := parse(iotest.OneByteReader(bytes.NewReader(row.Send)))
		if !reflect.DeepEqual(whole, slow) || !bytes.Equal(content, slowContent) ||
			fmt.Sprint(err) != fmt.Sprint(slowErr) {
			t.Errorf("%s: whole: %+v %q %v\nslow:  %+v %q %v", row.Name, whole, content, err, slow,
				slowContent, slowErr)
		}
		var refusal *Refusal
		status := "200"
		if err == errSilent {
			status = "nothing"
		} else if errors.As(err, &refusal) {
			status = refusal.Status[:3]
		}
		if status != row.Want && !(row.Want == "body" && (status == "200" || status == "400")) {
			t.Errorf("%s: expected %s, got %s: %v", row.Name, row.Want, status, err)
		}
		if refusal == nil {
			continue
		}
		page, lines := string(refusal.page()), strings.Split(string(refusal.page()), "\n")
		before, after := refusal.excerpt()
		before, after = escapeTags(before), escapeTags(after)
		if refusal.Reason == "" || !strings.Contains(refusal.Source, cmp.Or(longLines[status], "§")) ||
			strings.Contains(page, "<") || strings.Contains(refusal.Error(), "\n") || refusal.Line != "" &&
			(lines[2] != before+after || strings.IndexByte(lines[3], '^') != len(before)) {
			t.Errorf("%s: not fit for a client or a log: %q, %q", row.Name, page, refusal)
		}
		if refusal.Line == "" {
			continue
		}
		point := before[max(0, len(before)-4):] + "‸" + after[:min(len(after), 2)]
		if point = strings.ReplaceAll(point, " ", "␣"); !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	same(t, "the refusals", strings.Join(points, " "), strings.Join(strings.Fields(badBytes), " "))
}

const badBytes = `
GET␣‸*␣ ONS␣‸*␣ ECT␣‸h: ET␣/‸%z A:␣x‸\r .0\r‸\n xxxx‸xx ‸\x \x00‸ TTP/‸2. GE‸\x GET‸:␣ G‸"T bla‸:r
GET‸\u ‸␣/ GET␣‸ex GET␣‸fo GET␣‸!␣ PUT␣‸s: GET␣‸ft p://‸/␣ p://‸/p //a␣‸b/ //h:‸x/ p://‸[: http‸␣H
T␣/x‸ D␣/x‸ /1.1‸ GET‸ GET␣‸ ‸␣ TP/1‸ /1.0‸x T␣/␣‸ht /9.9‸.9 TTP/‸-9 TP/9‸09 T␣/␣‸FT TP/1‸11 /1.1‸0
TP/0‸1. TP/1‸,0 TTP/‸\u TTP/‸3. TTP/‸0. ␣/a␣‸b␣ GET␣‸␣/ /1.0‸␣ GET‸\t ‸␣G 1.0␣‸x T␣/␣‸ ET␣/‸\r
/1.1‸\r A:␣b‸\r ‸\r T␣/a‸\x ET␣/‸\x T␣/a‸\t T␣/?‸\x T␣/#‸\x ‸␣c ‸\t ‸␣A ‸Ho ‸ho ‸Co xx\r‸\n ‸A: baz‸
/␣HT‸ foo‸ ngth‸␣1 ngth‸␣: ‸:␣ Fo‸@: Foo‸\x ngth‸\u ‸\u A:␣b‸\x A:␣b‸\a A:␣b‸\f th:␣‸99 th:␣‸92
th:␣‸10 ng:␣‸ch th:␣‸+5 th:␣‸-1 th:␣‸-0 h:␣0‸_1 h:␣0‸x3 h:␣3‸␣1 h:␣5‸.0 h:␣5‸, h:␣5‸,␣ h:␣1‸Z
th:␣‸ab th:␣‸ th:␣‸\u 9999‸x ng:␣‸id ng:␣‸,c ng:␣‸\x ng:␣‸ A‸␣: T␣/a‸%␣ T␣/a‸%4 T␣/a‸%0 ET␣/‸%7
t:␣a‸␣b t:␣a‸/b :␣a:‸b t:␣u‸@h t:␣a‸%z t:␣a‸,b st:␣‸[: st:␣‸[1 a:80‸:8 t:␣h‸\x p://‸:8
`

// TestInput reads from wsgi.input: r3 are up to 3 bytes, l0 a line, l2 up to 2 bytes of one.
func TestInput(t *testing.T) {
	pipe, w := io.Pipe() // a read of more than it has would block for ever
	go w.Write([]byte("hello"))
	breaks := func(err error) io.Reader {
		return io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(err))
	}
	const got3 = `"abc" expected 10 body bytes, got 3`
	for _, c := range []struct {
		name        string
		source      io.Reader
		length      int64
		reads, want string
		cause       error // of the last error
	}{
		{"I01 ends at Content-Length", pipe, 5, "r3 r0 r9 r1 r1", `"hel" "" "lo" EOF EOF`, io.EOF},
		{"I02 lines", strings.NewReader("a\nb\rc\r\n\nd"), 9, "l0 l0 l0 l0 l0",
			`"a\n" "b\rc\r\n" "\n" "d" EOF`, io.EOF},
		{"I02 lines with a limit", strings.NewReader("abcd\n"), 5, "l2 l2 l2 l2",
			`"ab" "cd" "\n" EOF`, io.EOF},
		{"I04 mixed reads of slow bytes, I05 before what follows",
			iotest.OneByteReader(strings.NewReader("one\ntwo\nthree\nGET")), 14, "l0 r2 l0 l2 r1 l0 r1",
			`"one\n" "t" "wo\n" "th" "r" "ee\n" EOF`, io.EOF},
		{"I05 lines stop before what follows", strings.NewReader("x\nyGET"), 3, "l0 l0 r9",
			`"x\n" "y" EOF`, io.EOF},
		{"B08 cut short", breaks(io.EOF), 10, "r9 r9 r9", got3, io.ErrUnexpectedEOF},
		{"B08 stalled", breaks(os.ErrDeadlineExceeded), 10, "r9 r9 l0", got3, os.ErrDeadlineExceeded},
	} {
		in, got, last := &Input{r: bufio.NewReader(c.source), length: c.length}, "", error(nil)
		for read := range strings.FieldsSeq(c.reads) {
			block, err := make([]byte, int(read[1]-'0')), error(nil)
			if read[0] == 'l' {
				block, err = in.ReadLine(len(block))
			} else {
				n := 0
				n, err = in.Read(block)
				block = block[:n]
			}
			if err != nil {
				got, last = got+err.Error()+" ", err
			} else {
				got += fmt.Sprintf("%q ", block)
			}
		}
		if !strings.HasPrefix(got, c.want) || !errors.Is(last, c.cause) {
			t.Errorf("%s: got %s, because of %v", c.name, got, last)
		}
		func() {
			defer func() { same(t, "Lines panics", recover() != nil, c.cause != io.EOF) }() // I03
			for range in.Lines() {
			}
		}()
	}
	three := &Input{r: bufio.NewReader(strings.NewReader("x\nyz")), length: 3}
	same(t, "I03 lines", fmt.Sprintf("%q", slices.Collect(three.Lines())), `["x\n" "y"]`)
}

func TestURLScheme(t *testing.T) { // E17
	for https, want := range map[string]string{"": "http", "on": "https", "1": "https",
		"yes": "https", "foo": "http"} {
		same(t, "HTTPS="+https, urlScheme(https), want)
	}
	misdirected := "GET https://h/ HTTP/1.0\r\n\r\n"
	answers(t, showEnviron, misdirected,
		"HTTP/1.0 421 |GET https://h/ HTTP/1.0\n    ^ expected http://",
		"421 Misdirected")
	t.Setenv("HTTPS", "on")
	answers(t, showEnviron, misdirected, "\nHTTP_HOST: h\n|\nwsgi.url_scheme: https\n", "^$")
}

// ---------------------------------------------------------------- The application's side

// A probe counts what a gateway does to an application, and holds one that waits.
type probe struct {
	calls, closes atomic.Int32
	wait          chan bool
	file          *os.File // that was opened last
}

// closing is a body whose Close is counted, and fails.
type closing struct {
	Body
	p     *probe
	badly bool
}

func (c closing) Close() error {
	c.p.closes.Add(1)
	if c.badly {
		panic("a bad end")
	}
	return errors.New("Close's error")
}

// lying claims to have one block, and spitefulSize panics when it is asked.
type lying struct{ Body }
type spitefulSize struct{ closing }

func (lying) Len() int        { return 1 }
func (spitefulSize) Len() int { panic("no length") }

// A spiteful error panics when it is asked anything.
type spiteful struct{}

func (spiteful) Error() string   { panic("no message") }
func (spiteful) Is(error) bool   { panic("no comparison") }
func (spiteful) As(any) bool     { panic("no conversion") }
func (spiteful) Unwrap() []error { panic("no cause") }

// reasons are what an application of a test panics with.
var reasons = map[string]any{"": errors.New("the block failed"), "nil": nil, "spite": spiteful{},
	"nil Refusal": (*Refusal)(nil), "empty Refusal": &Refusal{},
	"lost Refusal": &Refusal{Status: "400 X", Line: "a", Offset: 9, Reason: "<b>"}}

// does makes an application that does one thing after the other:
//
//	start 404 No|X: 1     startResponse; "again" has an error, "nil" none, "spite" a bad one
//	ok, ok 3              startResponse with 200 OK, with this Content-Length
//	try 200 OK            startResponse, whose panic is swallowed
//	write abc             what startResponse returned; "exceed" expects an error, "must" panics
//	log abc               to wsgi.errors
//	return abc|def        the body is a list of two blocks; "lie" says that it has one
//	input, flags          one block: the request's body; how the application is run
//	file go.mod 5         the body is a file, from an offset; "text abc" another reader
//	broken, unsized       a file that cannot be read; a body whose Len panics
//	nothing, nothing yet  the body is nil, or a Stream that is nil
//	yield abc             the body is an iteration, in which this and the rest is done
//	insist abc            as yield, but does not stop when it is told to
//	tick, flood           yield until no more is wanted, bytes or MiB
//	drop file go.mod      close this body, and go on
//	panic, panic spite    with one of reasons
//	exit, clear           runtime.Goexit, and no environ any more
//	wait, pause 1s        until the test says go, or for some time
//	close, close badly    the body has a Close, which returns an error or panics
func (p *probe) does(text string) Application {
	steps := strings.Split(text, "; ")
	return func(environ Environ, startResponse StartResponse) Body {
		p.calls.Add(1)
		body := (&actor{p, environ, startResponse, nil}).act(steps, nil)
		if _, closes := body.(io.Closer); !closes && strings.HasPrefix(steps[0], "close") {
			body = closing{body, p, steps[0] == "close badly"}
		}
		return body
	}
}

// alone does steps where nobody asks how often.
func alone(text string) Application { return (&probe{}).does(text) }

// An actor is one call of an application that does steps.
type actor struct {
	*probe
	environ       Environ
	startResponse StartResponse
	out           io.Writer
}

// excInfos are the arguments of a step that calls startResponse.
var excInfos = map[string][]error{"start": {}, "nil": {nil}, "spite": {spiteful{}},
	"again": {errors.New("changed")}}

// act does steps, and returns the body. With the first block of an iteration, it leaves the rest
// to a Stream, which calls it once more, with its yield. Its blocks use one array, which a gateway
// must not keep (W17).
func (a *actor) act(steps []string, yield func([]byte) bool) Body {
	var block []byte
	for i, step := range steps {
		verb, what, _ := strings.Cut(step, " ")
		if yield == nil && slices.Contains([]string{"yield", "insist", "tick", "flood"}, verb) {
			return Stream(func(yield func([]byte) bool) { a.act(steps[i:], yield) })
		}
		if excInfo, ok := excInfos[verb]; ok {
			a.start(what, excInfo...)
			continue
		}
		block = append(block[:0], what...)
		switch verb {
		case "close", "none":
		case "yield":
			if !yield(block) {
				return nil
			}
		case "insist":
			yield(block)
		case "tick":
			for yield([]byte("x")) {
				time.Sleep(50 * time.Millisecond) // an application that takes its time
			}
		case "flood":
			for block := make([]byte, 1<<20); yield(block); {
			}
		case "ok":
			if what != "" {
				what = "|Content-Length: " + what
			}
			a.start("200 OK" + what)
		case "try":
			func() {
				defer func() { recover() }()
				a.start(what)
			}()
		case "write", "exceed":
			n, err := io.WriteString(a.out, what)
			if whole := n == len(what) && err == nil; whole == (verb == "exceed") {
				panic(fmt.Sprint("write gave ", n, err))
			}
		case "must":
			if _, err := io.WriteString(a.out, what); err != nil {
				panic(fmt.Errorf("cannot write: %w", err))
			}
		case "log":
			io.WriteString(a.environ["wsgi.errors"].(io.Writer), what)
		case "drop":
			closeBody(a.act([]string{what}, nil))
		case "panic":
			panic(reasons[what])
		case "exit":
			runtime.Goexit()
		case "clear":
			clear(a.environ)
		case "wait":
			<-a.wait
		case "pause":
			d, _ := time.ParseDuration(what) // never fails
			time.Sleep(d)
		default:
			return a.body(verb, what)
		}
	}
	return Blocks{}
}

// body returns the body that the last step names.
func (a *actor) body(verb, what string) Body {
	list := Blocks{}
	for block := range strings.SplitSeq(what, "|") {
		list = append(list, []byte(block))
	}
	switch verb {
	case "return":
		return list
	case "lie":
		return lying{list}
	case "unsized":
		return spitefulSize{closing{list, a.probe, false}}
	case "nothing":
		return map[string]Body{"yet": Stream(nil)}[what]
	case "flags":
		return Blocks{fmt.Append(nil, a.environ["wsgi.multithread"],
			a.environ["wsgi.multiprocess"], a.environ["wsgi.run_once"])}
	case "input":
		content, err := io.ReadAll(a.environ["wsgi.input"].(io.Reader))
		if err != nil {
			panic(fmt.Errorf("while reading the body: %w", err))
		}
		return Blocks{content}
	case "file":
		path, offset, _ := strings.Cut(what, " ")
		n, _ := strconv.ParseInt(offset, 10, 64) // 0 where there is none
		a.file = opened(path)
		a.file.Seek(n, io.SeekStart) // fails for what has no offset
		return a.environ["wsgi.file_wrapper"].(func(io.Reader, ...int) Body)(a.file, 8192)
	case "text":
		return newFileWrapper(iotest.DataErrReader(strings.NewReader(what)))
	case "broken":
		return newFileWrapper(iotest.ErrReader(errors.New("bad disk")))
	}
	panic("no step is called " + verb)
}

// start calls startResponse. The slice of headers stays the application's own (S16).
func (a *actor) start(head string, excInfo ...error) {
	fields := strings.Split(head, "|")
	headers := make([]Header, 0, 8)
	for _, field := range fields[1:] {
		name, value, _ := strings.Cut(field, ": ")
		headers = append(headers, Header{name, value})
	}
	a.out = a.startResponse(fields[0], headers, excInfo...)
	for i := range headers {
		headers[i].Value = "changed"
	}
	if spare := headers[:len(headers)+1]; spare[len(headers)].Name != "" {
		panic("the gateway wrote into the application's slice")
	}
}

func opened(path string) *os.File {
	file, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	return file
}

// A story is a small application, and what becomes of it. steps are for does; what the client
// sends may be before them, with an arrow between. want is the reply without Date and Server; a
// number is an error page, and "cut" a reset after the block abc. log is something that is in the
// error log, which is empty if it is "".
type story struct{ name, steps, want, log string }

const (
	ok200     = "HTTP/1.0 200 OK\r\n"
	length0   = ok200 + "Content-Length: 0\r\n\r\n"
	length3   = ok200 + "Content-Length: 3\r\n\r\nabc"
	asHead    = "HEAD / HTTP/1.0\r\n\r\n → "
	errorPage = "the application failed; the server's error log says how\n" +
		"PEP 3333, \"Error Handling\"\n"
)

// stories are the rules for applications, S, W, C and I08.
func stories() []story {
	const twice, never = "startResponse was called before", "startResponse must be called"
	const length, control = "expected one Content-Length", "control characters"
	const whole, closed, failed = ok200 + "\r\nabc", "Close's error", "the application failed"
	cases := []story{
		{"S03 startResponse in the first iteration", "yield ; ok; yield abc", whole, ""},
		{"S04 a block without startResponse", "return x", "500", never},
		{"S04 an empty body without startResponse", "none", "500", never},
		{"S04 a file without startResponse", "file go.mod", "500", never},
		{"S04 empty blocks first", "yield ; yield ; start 404 Not Found; yield x",
			"HTTP/1.0 404 Not Found\r\n\r\nx", ""},
		{"S05 a second call", "ok; start 201 Created", "500", twice},
		{"S05 a second call after a failed one", "try no status; ok", "500", twice},
		{"S05 a failed call, ignored", "try no status", "500", never},
		{"S05 an excInfo whose methods panic", "spite 200 OK", length0, ""},
		{"S06 excInfo replaces", "ok 3; again 503 Sorry|X-New: 1; return x",
			"HTTP/1.0 503 Sorry\r\nX-New: 1\r\nContent-Length: 1\r\n\r\nx", ""},
		{"S06 excInfo of nil is none", "ok; nil 200 OK", "500", twice},
		{"S07 excInfo after the head is sent", "close; ok; yield abc; again 500 Oh", "cut",
			"failed: changed"},
		{"S15 order and case are kept", "start 200 OK|set-Cookie: a|X: 1|Set-Cookie: b",
			ok200 + "set-Cookie: a\r\nX: 1\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n", ""},
		{"S08 an empty reason", "start 200 ", "HTTP/1.0 200 \r\nContent-Length: 0\r\n\r\n", ""},
		{"S12 S14 odd and legal", "start 299 Caf\xe9|Content_Type: \xff",
			"HTTP/1.0 299 Caf\xe9\r\nContent_Type: \xff\r\nContent-Length: 0\r\n\r\n", ""},
		{"S17 own Date and Server are not doubled", "start 200 OK|date: then|SERVER: mine",
			ok200 + "date: then\r\nSERVER: mine\r\nContent-Length: 0\r\n\r\n", ""},
		{"W09 Content-Length twice", "start 200 OK|Content-Length: 1|content-length: 2", "500", length},
		{"W01 one block", "ok; return abc", length3, ""},
		{"W02 write and one block", "ok; write abc; return def", whole + "def", ""},
		{"W03 no Len", "ok; yield abc", whole, ""},
		{"W03 two blocks", "ok; return a|bc", whole, ""},
		{"W04 an empty body", "ok", length0, ""},
		{"W04 empty blocks", "ok; yield ; yield ", length0, ""},
		{"W05 Len is a lie", "ok; lie abc|def", length3, ""},
		{"W06 more than Content-Length", "close; ok 3; yield abcdef; panic", length3,
			"Content-Length is 3"},
		{"W06 exactly Content-Length", "close; ok 3; yield abc; panic", length3, closed},
		{"W07 write more than Content-Length", "ok 3; exceed abcdef; log so", length3,
			"Content-Length is 3, the body is longer: the rest is not sent\nso\n"},
		{"W08 less than Content-Length", "ok 10; return abc",
			ok200 + "Content-Length: 10\r\n\r\nabc", "the body ended after 3 bytes"},
		{"W10 Content-Length 0", "ok 0; return abc", length0, "Content-Length is 0"},
		{"W11 HEAD", asHead + "ok; return abc", strings.TrimSuffix(length3, "abc"), ""},
		{"W11 C02 HEAD stops after the head", asHead + "close; ok; yield abc; panic", ok200 + "\r\n",
			closed},
		{"W11 HEAD without a block", asHead + "ok 12", ok200 + "Content-Length: 12\r\n\r\n", ""},
		{"W11 HEAD with nothing at all", asHead + "ok", ok200 + "\r\n", ""},
		{"W11 HEAD with write", asHead + "ok; write abc; write abc", ok200 + "\r\n", ""},
		{"W11 HEAD of an error", asHead + "ok; yield ; panic", "500", "the block failed"},
		{"W14 all bytes", "ok; yield " + allBytes() + "; yield \r\n; yield \r",
			ok200 + "\r\n" + allBytes() + "\r\n\r", ""},
		{"W17 the array of a block is used again", "ok; yield a; yield b; yield c", whole, ""},
		{"R08 no head for HTTP/0.9", "GET /\r\n → ok; return abc", "abc", ""},
		{"R08 no head for an error in HTTP/0.9", "GET /\r\n → ok; yield ; panic",
			"500 Internal Server Error\n\n" + errorPage, "the block failed"},
		{"B08 a body cut short, let through by the application",
			post("abc", "Content-Length: 9") + " → ok; input", "400", "expected 9 body bytes, got 3"},
		{"C01 a body whose Len panics", "close; ok; unsized abc", "500", failed + ": no length"},
		{"C02 Close after the last block", "close; ok; yield a; yield bc", whole, "Close: Close's error"},
		{"C03 C06 a panic before the head", "close; start 200 OK|X-Stored: 1; yield ; panic", "500",
			"the block failed"},
		{"C03 C07 a panic after the head", "close; ok; yield abc; panic", "cut", "the block failed"},
		{"C05 a panic in Close", "close badly; ok; yield abc", whole, "Close: a bad end"},
		{"C05 C08 panics in iteration and in Close", "close badly; ok; yield ; panic", "500",
			"Close: a bad end"},
		{"C06 a panic before startResponse", "panic", "500", failed + ": the block failed"},
		{"C07 a panic whose Refusal points nowhere", "panic lost Refusal",
			"HTTP/1.0 400 X\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: " +
				"nosniff\r\nContent-Length: 20\r\n\r\n400 X\n\na\n ^ \\x3cb>\n\n",
			`400 X: <b>: byte 9 of "a"`},
		{"C07 a panic whose Refusal is nil", "panic nil Refusal", "500", failed},
		{"C07 a panic whose Refusal is empty", "panic empty Refusal", "500", failed},
		{"C07 a panic whose methods panic", "panic spite", "500", failed},
		{"C08 panic(nil)", "panic nil", "500", failed},
		{"C08 a nil body", "ok; nothing", "500", failed},
		{"C08 a nil Stream", "ok; nothing yet", "500", failed},
		{"C08 Goexit", "exit", "500", "runtime.Goexit was called"},
		{"C08 Goexit in iteration", "close; ok; yield abc; exit", "cut", "runtime.Goexit was called"},
		{"C08 a body that does not stop", "ok 3; insist abc; insist def", length3,
			"range function continued"},
		{"I08 wsgi.errors",
			"log ab\xff\x1b[2J 값\tc\u00a0👩\u200d👩\u202e\u2028\u009b\r\nhalf ; log a line; ok",
			length0, "ab\uFFFD\uFFFD[2J 값\tc\u00a0👩\u200d👩\uFFFD\uFFFD\uFFFD\nhalf a line\n"},
		{"E01 a map of its own", "clear; ok; return abc", length3, ""},
	}
	for _, bad := range []struct{ ids, steps, log, values string }{ // values with a slash between
		{"S08 S09 S18", "start @", "expected a status like",
			"200/20x OK/200OK/200_OK/99 OK/1000 OK/ 200 OK/200 OK //200  OK/" +
				"199 OK/600 OK/+20 OK/100 Continue/101 Switching Protocols/200 OK\r\nX-Evil: 1/" +
				"200 O\nK/200 \x00/200 O\tK/200\r\n/\xd9\xa2\xd9\xa0\xd9\xa0 OK"},
		{"S11", "start 200 OK|@: v", "expected a header name", "X-A:/X A//X-A\r\nX/X-\xc3\xa9/X\x00"},
		{"S12 S13", "start 200 OK|@: v", "belongs to the gateway", "Connection/keep-alive/TE/" +
			"Proxy-Authenticate/PROXY-AUTHORIZATION/Trailer/Trailers/transfer-Encoding/Upgrade/Status"},
		{"S09 S10", "start 200 OK|X: @", control, "a\r\nX-Evil: 1/a\n/\x00/\x01/a\tb/\x7f"},
		{"W09", "start 200 OK|Content-Length: @", length, "abc/-1/+5//5, 5/99999999999999999999"},
	} {
		for value := range strings.SplitSeq(bad.values, "/") {
			cases = append(cases, story{fmt.Sprintf("%s %q", bad.ids, value),
				strings.Replace(bad.steps, "@", value, 1), "500", bad.log})
		}
	}
	for _, c := range [][3]string{ // a status, the length of its empty body, and that of its own
		{"204 No Content"}, {"205 Reset Content", "Content-Length: 0\r\n"},
		{"304 Not Modified", "", "Content-Length: 3\r\n"}} {
		start, head := "start "+c[0], "HTTP/1.0 "+c[0]+"\r\n"+c[1]
		for _, body := range []string{"; none", "; return abc", "; file go.mod"} {
			cases = append(cases, story{"W12 " + c[0] + body, start + body, head + "\r\n", ""})
		}
		cases = append(cases, story{"W12 a length, " + c[0], start + "|Content-Length: 3; return abc",
			head + c[2] + "\r\n", ""})
	}
	return cases
}

// ourHeaders are the lines that the gateway adds to each head.
var ourHeaders = regexp.MustCompile(`Date: [^\r]+ GMT\r\nServer: ` + software + `\r\n`)

// TestApplication runs each small application once behind a real server.
func TestApplication(t *testing.T) {
	for _, c := range stories() {
		c.run(t, asIs)
	}
}

// asIs is no middleware.
func asIs(application Application) Application { return application }

// run plays the story behind a server, with middleware around it.
func (c story) run(t *testing.T, middleware Middleware, change ...func(*Server)) {
	t.Run(c.name, func(t *testing.T) {
		t.Parallel()
		send, steps, ok := strings.Cut(c.steps, " → ")
		if !ok {
			send, steps = get(), c.steps
		}
		p := &probe{}
		s := start(t, middleware(p.does(steps)), change...)
		reply, err := askUntil(t, s.addr, send, true)
		s.stop()
		if isReset(err) != (c.want == "cut") || c.want != "cut" && err != nil {
			t.Errorf("after %d bytes: %v", len(reply), err)
		}
		c.check(t, send, ourHeaders.ReplaceAllString(reply, ""))
		if log := s.errors.String(); !strings.Contains(log, c.log) || c.log == "" && log != "" {
			t.Errorf("expected %q in the log:\n%s", c.log, log)
		}
		same(t, "calls", p.calls.Load(), 1) // C01, C02
		same(t, "calls of Close", p.closes.Load() == 1, strings.HasPrefix(steps, "close"))
		same(t, "lines in the access log", strings.Count(s.access.String(), "\n"), 1) // C10
		if p.file != nil {
			same(t, "the file is closed", errors.Is(p.file.Close(), os.ErrClosed), true)
		}
	})
}

// check holds a reply to what the story wants.
func (c story) check(t *testing.T, send, reply string) {
	t.Helper()
	if c.want == "cut" {
		same(t, "the reply", reply, ok200+"\r\nabc")
	} else if len(c.want) > 3 || c.want == "abc" {
		same(t, "the reply", reply, c.want)
	} else { // an error page, with nothing of the application's
		status, header, content := splitReply(t, reply)
		page := "500 Internal Server Error\n\n" + errorPage
		if status[:3] != c.want || len(header) != 3 ||
			c.want == "500" && content != page && !strings.HasPrefix(send, "HEAD") {
			t.Errorf("expected a %s, got %q", c.want, reply)
		}
	}
}

// A wire records what reaches the network, write by write.
type wire struct {
	writes []string
	fail   error
}

func (w *wire) Write(p []byte) (int, error) {
	w.writes = append(w.writes, string(p))
	return len(p), w.fail
}

// runOn runs an application against a wire, without any server.
func runOn(w io.Writer, application Application) (*Response, string) {
	var errors bytes.Buffer
	r := newResponse(w, httpLine, "GET", &errors)
	environ := Environ{}
	setTestingDefaults(environ)
	run(application, environ, &r)
	return &r, errors.String()
}

// TestHeadIsHeldBack shows S01, S02 and the one write: nothing leaves before the first
// block that is not empty, and that leaves together with the head. And C04: the first write that
// fails is the last, Close is called, and an application that panics with the error it got makes
// no noise in the log.
func TestHeadIsHeldBack(t *testing.T) {
	w := &wire{}
	runOn(w, alone("ok; write ; yield ; yield a; yield b"))
	if len(w.writes) != 2 || !strings.HasSuffix(w.writes[0], "\r\n\r\na") || w.writes[1] != "b" {
		t.Errorf("expected the head and a in one write, then b, got %q", w.writes)
	}
	gone := errors.New("broken pipe")
	for steps, want := range map[string]string{
		"close; ok; exceed a; yield b; panic": "^Close: Close's error\n$",
		"ok; yield a; yield b; panic":         "^$",
		"ok; must a; yield b":                 "^$",
		"ok; exceed a; panic":                 "^the application failed: the block failed",
	} {
		w := &wire{fail: gone}
		r, log := runOn(w, alone(steps))
		has(t, log, strings.Split(want, "|")...)
		if len(w.writes) != 1 || r.err != gone {
			t.Errorf("%s: wrote %q, %v", steps, w.writes, r.err)
		}
	}
}

// TestExcInfoIsNotKept shows C09: whoever has the answer does not have the error.
func TestExcInfoIsNotKept(t *testing.T) {
	freed := make(chan bool)
	r := newResponse(&wire{}, httpLine, "GET", io.Discard)
	func() {
		problem := &Refusal{Reason: "some error"}
		runtime.AddCleanup(problem, func(freed chan bool) { close(freed) }, freed)
		r.startResponse("200 OK", nil)
		r.startResponse("500 Oh", nil, problem)
	}()
	runtime.GC()
	wait(t, "the end of the error", freed)
	runtime.KeepAlive(&r)
}

// TestFileWrapper shows F01 to F03. Each file is closed.
func TestFileWrapper(t *testing.T) {
	const size = 5 << 20
	content := strings.Repeat("0123456789abcdef", size/16)
	large, small := "file "+tempFile(t, []byte(content)), "file "+tempFile(t, []byte("hello"))
	length := func(n int, content string) string {
		return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", ok200, n, content)
	}
	last, dir := fmt.Sprint(" ", size-5), t.TempDir()
	const mtu = "/sys/class/net/lo/mtu" // is not as long as it says
	mtuContent, err := os.ReadFile(mtu)
	for _, c := range []story{
		{"F01 whole", "ok; " + large, length(size, content), ""},
		{"F01 from its offset", "ok; " + large + last, length(5, "bcdef"), ""},
		{"F01 at its end", "ok; " + large + fmt.Sprint(" ", size), length(0, ""), ""},
		{"F02 no file, no Close, no block size", "ok; text abc", ok200 + "\r\nabc", ""},
		{"F02 made and not returned", "ok; drop " + large + "; return other", length(5, "other"), ""},
		{"F02 in middleware", "ok; " + large + last, ok200 + "\r\nbcdef", "log: "},
		{"F03 HEAD", asHead + "ok; " + large, length(size, ""), ""},
		{"F03 a smaller Content-Length", "ok 3; " + small, length(3, "hel"),
			"Content-Length is 3, the body is longer: the rest is not sent\n"},
		{"F03 a file that shrinks", "ok 6; " + small, length(6, "hello"), "the body ended after 5 bytes"},
		{"F03 after write", "ok; write first ; " + large + last, ok200 + "\r\nfirst bcdef", ""},
		{"F03 a file that is not as long as it says", "ok; file " + mtu, ok200 + "\r\n" +
			string(mtuContent), ""},
		{"C06 a file that cannot be read", "ok; file " + dir, "500", dir},
		{"C06 a read that fails", "ok; broken", "500", "bad disk"},
	} {
		if c.name == "F02 in middleware" {
			c.run(t, logging)
		} else if err == nil || !strings.Contains(c.steps, mtu) { // Linux has it
			c.run(t, asIs)
		}
	}
	t.Run("C07 a file that breaks off", func(t *testing.T) {
		p := &probe{}
		r, log := runOn(writeFunc(func(block []byte) (int, error) {
			p.file.Close() // when the head is sent
			return len(block), nil
		}), p.does("ok; "+small))
		has(t, log, "the application failed: read "+strings.TrimPrefix(small, "file "))
		same(t, "the error of the connection", r.err, nil)
	})
	t.Run("C07 a file that shrinks under a slow client", func(t *testing.T) {
		file := tempFile(t, []byte("hello"))
		r, log := runOn(writeFunc(func(block []byte) (int, error) {
			if string(block) != "hello" {
				return len(block), nil // the head
			}
			return 0, errors.Join(os.Truncate(file, 0), os.ErrDeadlineExceeded)
		}), alone("ok; file "+file))
		has(t, log, "^$")
		same(t, "the client was slow", errors.Is(r.err, os.ErrDeadlineExceeded), true)
	})
}

// TestSendfile proves that a file reaches the socket by sendfile(2): it runs one case of
// TestFileWrapper under strace and adds up what that system call sent.
func TestSendfile(t *testing.T) {
	only(t, "strace is for Linux", "linux")
	strace, err := exec.LookPath("strace")
	if err != nil {
		skip(t, "needs strace", "strace")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	// On 32 bits the system call is sendfile64.
	child := exec.Command(strace, "-f", "-e", "trace=/^sendfile", "-e", "signal=none", "-o", trace,
		os.Args[0], "-test.run", "TestFileWrapper/F01_whole")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	total, sent := 0, regexp.MustCompile(`(?m)= (\d+)$`)
	for _, match := range sent.FindAllSubmatch(must(os.ReadFile(trace))(t), -1) {
		total += must(strconv.Atoi(string(match[1])))(t)
	}
	same(t, "bytes sent by sendfile", total, 5<<20)
}

// ---------------------------------------------------------------- The server's troubles

// A scene is played by a small application and its clients, step by step.
type scene struct {
	name   string
	app    string // what the application does, see does
	change func(*Server)
	steps  string
}

// play plays a scene: it has these steps, in which a and b are clients.
//
//	a                     connects, as each does before its first step
//	a send GET /          sends bytes; "get" a request, "post 3 abc" one with a length and a body
//	a until first         reads until this is the last that has come
//	a rest World!         reads to the end, in an answer that holds this
//	a reset, a leave      reads to a reset; resets the connection
//	go                    lets an application that waits go on
//	calls 2, closes 1     awaits calls of the application and of Close; "now calls 2" does not
//	open 2, busy 2        awaits connections that the server has, and requests
//	logged 1              awaits lines in the access log
//	stop 1ms              begins Shutdown with this grace; "stopped" and "served" await ends
//	refused               nobody listens any more
func (c scene) play(t *testing.T) {
	p := &probe{wait: make(chan bool)}
	goOn := sync.OnceFunc(func() { close(p.wait) })
	defer goOn()
	if c.change == nil {
		c.change = func(*Server) {}
	}
	s := start(t, p.does(c.app), c.change)
	counts := map[string]func() int{
		"calls":  func() int { return int(p.calls.Load()) },
		"closes": func() int { return int(p.closes.Load()) },
		"logged": func() int { return strings.Count(s.access.String(), "\n") },
		"open":   s.open, "busy": s.busy,
	}
	clients := map[string]*net.TCPConn{}
	var stopped <-chan bool
	for step := range strings.SplitSeq(c.steps, "; ") {
		step, now := strings.CutPrefix(step, "now ")
		who, rest, _ := strings.Cut(step, " ")
		if count := counts[who]; count != nil {
			number := must(strconv.Atoi(rest))(t)
			if now {
				same(t, step, count(), number)
			}
			eventually(t, step, func() bool { return count() == number })
			continue
		}
		switch who {
		case "go":
			goOn()
		case "stop":
			grace := must(time.ParseDuration(rest))(t)
			stopped = inBackground(func() { s.Shutdown(grace) })
			eventually(t, step, s.stopping.Load)
		case "stopped":
			wait(t, step, stopped)
		case "served":
			wait(t, step, s.served)
		case "refused":
			refuses(t, s.addr)
		default:
			if clients[who] == nil {
				clients[who] = dial(t, s.addr)
				defer clients[who].Close()
			}
			takes(t, clients[who], rest)
		}
	}
}

// takes has a client take a step of a scene.
func takes(t *testing.T, client *net.TCPConn, step string) {
	t.Helper()
	switch verb, what, _ := strings.Cut(step, " "); verb {
	case "get":
		takes(t, client, "send "+get())
	case "post":
		length, content, _ := strings.Cut(what, " ")
		takes(t, client, "send "+post(content, "Content-Length: "+length))
	case "send":
		must(io.WriteString(client, what))(t)
	case "until":
		one := make([]byte, 1)
		for got := ""; !strings.HasSuffix(got, what); got += string(one) {
			must(io.ReadFull(client, one))(t)
		}
	case "rest":
		holds(t, readRest(t, client), what)
	case "reset":
		_, err := io.Copy(io.Discard, client)
		same(t, step, isReset(err), true)
	case "leave":
		client.SetLinger(0) // the system sends a reset
		client.Close()
	}
}

// play plays scenes at the same time, each several times if what can go wrong is a race.
func play(t *testing.T, times int, scenes ...scene) {
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			t.Parallel()
			for range times {
				scene.play(t)
			}
		})
	}
}

// hold is an application that waits, greet one that does not.
const hold, greet = "ok; wait; return whole", "ok; return World!"

// short gives a server a time-out that tests can wait for, and patient one that none waits for.
func short(s *Server)   { s.Timeout = 100 * time.Millisecond }
func patient(s *Server) { s.Timeout = time.Hour }

func serial(s *Server) { s.Serial = true }
func two(s *Server)    { s.MaxConns = 2 }

// TestScenes shows the rules about time: what a client gets, and when.
func TestScenes(t *testing.T) {
	const input, late = "ok; input", "; a rest HTTP/1.0 408 Request Timeout\r\n"
	const steps = "a get; a until first; go; a rest second"
	const fails, ends = "ok 9; yield abc; panic", "ok 9; yield abc"
	const expects = "a send POST / HTTP/1.1\r\nHost: h\r\nExpect: foo, 100-Continue\r\n" +
		"Content-Length: 3\r\n\r\n"
	block := strings.Repeat("0123456789abcdef", 1<<20)
	play(t, 1,
		// The client has one block before the application makes the next.
		scene{"W13 block", "ok; yield first; wait; yield second", nil, steps},
		scene{"W13 write", "ok; write first; wait; return second", nil, steps},
		scene{"W15 a client that starts to read late", "ok; return " + block, nil,
			"a get; calls 1; a rest \r\n\r\n" + block},
		scene{"C04 a client that leaves in an answer", "close; ok; flood", nil,
			"a get; a until H; a leave; closes 1"},
		// An answer that breaks off must not look whole to a client that cannot count its bytes.
		scene{"C07 a panic", fails, nil, "a get; a rest 9\r\n\r\nabc"},
		scene{"C07 a panic in HTTP/0.9", fails, nil, "a send GET /\r\n; a reset"},
		scene{"W08 a short body", ends, nil, "a get; a rest 9\r\n\r\nabc"},
		scene{"W08 a short body in HTTP/0.9", ends, nil, "a send GET /\r\n; a reset"},
		scene{"T04 a client that reads again, too late", "close; ok; flood", short,
			"a get; closes 1; logged 1; a reset"},
		scene{"T04 a client that never reads a file", "ok; file " + os.Args[0], short, "a get; logged 1"},
		scene{"R18 silence", input, short, "a rest ; open 0"},
		scene{"R18 an empty line", input, short, "a send \r\n; a rest ; open 0"},
		scene{"T03 half a request line", input, short, "a send GET / HT; a rest GET / HT\n" +
			"        ^ expected an empty line to end the head: waited 100ms"},
		scene{"T03 half a head", input, short, "a send GET / HTTP/1.0\r\nA: b\r\n" + late},
		scene{"T03 half a header", input, short, "a send GET / HTTP/1.0\r\nA:" + late},
		scene{"T03 half a body", input, short,
			"a post 12 abc; a rest expected 12 body bytes, got 3: waited 100ms"},
		// 100 Continue goes out when the body is first read, and not after the answer has begun.
		scene{"B14 when the body is read", input, nil, expects + "; a until HTTP/1.1 100 Continue\r\n" +
			"\r\n; a send abc; a until " + ok200 + "; a rest \r\n\r\nabc"},
		scene{"B14 not without that", greet, nil, expects + "abc; a until " + ok200 + "; a rest World!"},
		scene{"B14 not after the head", "ok; write begun ; input", nil,
			expects + "abc; a until " + ok200 + "; a rest \r\n\r\nbegun abc"},
		scene{"B07 a body as large as it may be", input, func(s *Server) { s.MaxBody = 3 },
			"a post 3 abc; a rest \r\n\r\nabc"},
		scene{"E18 serial", "ok; flags", serial, "a get; a rest false false false"},
		scene{"E18 concurrent", "ok; flags", nil, "a get; a rest true false false"},
		scene{"T02 one slow", input, nil,
			"a post 3 a; calls 1; b post 3 abc; b rest abc; a send bc; a rest abc"},
		scene{"T05 a third waits", greet, two, "a; b; open 2; c get; open 2; a leave; c rest World!"})
	play(t, 20, scene{"T01 one call at a time", hold, serial, // whether two overlap is a race
		"a; b get; calls 1; c get; busy 2; now calls 1; go; b rest whole; c rest whole"})
	t.Run("T03 one byte at a time", func(t *testing.T) {
		t.Parallel()
		second := func(s *Server) { s.Timeout = time.Second } // also for a busy machine to read the 408
		c := dial(t, start(t, hello, second).addr)
		sent := inBackground(func() {
			for err := error(nil); err == nil; _, err = c.Write([]byte("G")) {
				time.Sleep(10 * time.Millisecond) // each byte comes in time, the head does not
			}
		})
		line, _ := bufio.NewReader(c).ReadString('\n')
		same(t, "the answer", line, "HTTP/1.0 408 Request Timeout\r\n")
		c.Close()
		<-sent
	})
}

// TestUnreadBody shows B10, R23, R24 and T04: a client that has sent more than was read has its
// answer and no reset. Then it has some time to close, and not more.
func TestUnreadBody(t *testing.T) {
	large := "a send " + post(strings.Repeat("x", 8<<20), "Content-Length: 8388608")
	slow := func(s *Server) { s.Timeout = 300 * time.Millisecond }
	const ends = "; a rest World!; open 0"
	play(t, 1, scene{"a body that the application does not want", greet, slow, large + ends},
		scene{"half a body", greet, slow, "a post 9 abc" + ends},
		scene{"a client that does not close", greet, patient, "a get" + ends},
		scene{"after a body, too", "ok; input", patient, "a post 3 abc; a rest abc; open 0"},
		// The time to read begins with the end of the answer, which takes longer than any read may.
		scene{"a slow application", "pause 400ms; " + greet, slow, large + ends})
	races := []scene{{"what is sent while the application works", hold, nil,
		"a get; calls 1; a send what nobody reads; go; a rest whole"}}
	for _, size := range []int{3, 100000} { // as from old browsers, which do not count it
		content := strings.Repeat("x", size)
		races = append(races, scene{fmt.Sprint("a line end after ", size), "ok; input", nil,
			"a send " + post(content+"\r\n", fmt.Sprint("Content-Length: ", size)) + "; a rest " + content})
	}
	for _, size := range []int{2047, 2048, 2049, 4096} { // a buffer ends with the head
		head := getPath("/" + strings.Repeat("x", size-len(getPath("/"))))
		for _, more := range []string{"\r\n", getPath("/2")} {
			races = append(races, scene{fmt.Sprintf("%d bytes and %q", size, more), greet, nil,
				"a send " + head + more + "; a rest World!"})
		}
	}
	play(t, 10, races...)
}

// TestKeptInput shows I05: whoever keeps wsgi.input reads nothing that is not his.
func TestKeptInput(t *testing.T) {
	var kept io.Reader
	s := start(t, func(environ Environ, startResponse StartResponse) Body {
		if environ.Get("REQUEST_METHOD") == "POST" {
			kept = environ["wsgi.input"].(io.Reader)
		}
		return hello(environ, startResponse)
	})
	ask(t, s.addr, post("abcde", "Content-Length: 5"))
	for range 20 {
		ask(t, s.addr, get("A: secret"))
	}
	p := make([]byte, 5)
	n, err := kept.Read(p)
	same(t, "what was kept", fmt.Sprint(string(p[:n]), err), "abcde<nil>")
}

// A tapeConn records reads and the deadlines set for them.
type tapeConn struct {
	memoryConn
	tape strings.Builder
}

func (c *tapeConn) note(what string) error { c.tape.WriteString(what); return nil }
func (c *tapeConn) Read(p []byte) (int, error) {
	c.note("r")
	return c.memoryConn.Read(p[:1])
}
func (c *tapeConn) Write(p []byte) (int, error)         { return len(p), c.note("W") }
func (c *tapeConn) SetReadDeadline(at time.Time) error  { return c.note("d") }
func (c *tapeConn) SetWriteDeadline(at time.Time) error { return c.note("D") }

// TestDeadlines shows that the head has one deadline, each read of the body its own, and
// each piece of an answer too.
func TestDeadlines(t *testing.T) {
	head, long := get("Content-Length: 3"), make([]byte, 2*pieceSize+1)
	for app, want := range map[string]string{"ok; input": "drdrdrDW",
		"ok; return " + string(long):    "DW" + "DWDWDW",
		"ok; file " + tempFile(t, long): "DW" + "DWWDWWDW"} { // io.Copy writes 32 KiB at a time
		conn := &tapeConn{memoryConn: memoryConn{closed: make(chan bool, 1)}}
		conn.in.Reset(head + "abc")
		quiet(alone(app)).serveConn(conn)
		same(t, app[:8], conn.tape.String(), "d"+strings.Repeat("r", len(head))+want)
	}
}

// TestManyClients shows T05: no more connections than the limit are open.
func TestManyClients(t *testing.T) {
	var s running
	var most atomic.Int32
	addr := start(t, func(environ Environ, startResponse StartResponse) Body {
		for n := int32(s.open()); n > most.Load(); {
			most.Store(n) // lost updates do not matter: it only has to exceed 2
		}
		return hello(environ, startResponse)
	}, two, func(server *Server) { s.Server = server }).addr
	together(50, func() { ask(t, addr, get()) })
	same(t, "more than two connections", most.Load() > 2, false)
}

// A fickleListener accepts through a function.
type fickleListener struct {
	*net.TCPListener
	accept func(*net.TCPListener) (net.Conn, error)
}

func (l fickleListener) Accept() (net.Conn, error) { return l.accept(l.TCPListener) }

// TestCrowded: running out of descriptors passes, with one line in the log. A server that stops
// meanwhile answers its backlog all the same.
func TestCrowded(t *testing.T) {
	var free atomic.Int32 // descriptors for connections
	l := fickleListener{must(listen("127.0.0.1:0"))(t).(*net.TCPListener),
		func(l *net.TCPListener) (net.Conn, error) {
			if free.Load() == 0 {
				return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
			}
			c, err := l.Accept()
			if err == nil {
				free.Add(-1)
			}
			return c, err
		}}
	var clients []net.Conn
	for range 3 {
		clients = append(clients, sendTo(t, l.Addr().String(), get()))
	}
	s := startWith(t, l, func(environ Environ, startResponse StartResponse) Body {
		free.Store(9) // for the others when the first is served
		return hello(environ, startResponse)
	})
	complaints := func() int { return strings.Count(s.errors.String(), "cannot accept a connection") }
	eventually(t, "a line in the log", func() bool { return complaints() > 0 })
	stopped := inBackground(s.stop)
	eventually(t, "the stop", s.stopping.Load)
	free.Store(1)
	for _, c := range clients {
		has(t, readRest(t, c), ok200)
		c.Close()
	}
	wait(t, "Shutdown", stopped)
	same(t, fmt.Sprint("more than two complaints: ", s.errors), complaints() > 2, false)
}

func TestShutdown(t *testing.T) { // T06
	play(t, 1, scene{"a running request ends, a silent client is hung up on", hold, patient,
		"a get; b; calls 1; stop 10s; b rest ; refused; go; a rest whole; stopped"},
		scene{"an answer that is cut does not look whole, and Close is called before it returns",
			"close; ok; tick", nil, "a get; a until H; stop 1ms; stopped; now closes 1; a reset"},
		scene{"an endless answer is cut", "close; ok; flood", nil,
			"a get; a until H; stop 1ms; closes 1; stopped"},
		scene{"in serial mode, a request that waits for its turn gets 503", hold, serial,
			"a get; calls 1; b get; busy 2; stop 1ms; b rest HTTP/1.0 503 ; go; stopped"},
		scene{"while applications that never end have all slots", hold,
			func(s *Server) { s.MaxConns = 1 },
			"a get; calls 1; stop 1ms; served; go; stopped"},
		scene{"a client that has its answer is not waited for", greet, patient,
			"a post 9 abc; a rest World!; stop 1h; stopped"},
		scene{"a request that comes a moment late is answered", greet, patient,
			"a; open 1; stop 1h; a get; a rest World!; stopped"},
		scene{"half a head is not said to be late", greet, patient, "a send GET / HTTP/1.0\r\nHos; " +
			"open 1; stop 1h; a rest HTTP/1.0 503 Service Unavailable\r\n|Hos\n   ^ expected an empty " +
			"line to end the head before this server stopped\n; stopped"},
	)
	t.Run("while nobody reads the log of a watcher", func(t *testing.T) {
		t.Parallel()
		p := &probe{wait: make(chan bool)}
		s := start(t, p.does(hold), func(s *Server) {
			s.Watch = func(c net.Conn, a Application) (net.Conn, Application, func(*Request, error)) {
				return closeWaits{c, p.wait}, a, func(*Request, error) {}
			}
		})
		sendTo(t, s.addr, get())
		eventually(t, "the call", func() bool { return s.busy() == 1 })
		wait(t, "Shutdown", inBackground(func() { s.Shutdown(time.Millisecond) }))
		close(p.wait)
	})
	t.Run("while connections come, and somebody watches", func(t *testing.T) {
		t.Parallel()
		for i := range 5 { // what can go wrong is a race
			s := start(t, hello, func(s *Server) { s.Watch = watchQuietly })
			c := dial(t, s.addr)
			time.Sleep(time.Duration(i) * 100 * time.Microsecond)
			stopped := inBackground(func() { s.Shutdown(time.Second) })
			c.Close()
			<-stopped
		}
	})
}

// refuses waits until nobody listens at an address.
func refuses(t testing.TB, addr string) {
	t.Helper()
	eventually(t, "a refused connection", func() bool { return !listens(addr) })
}

// closeWaits is a connection whose Close waits.
type closeWaits struct {
	net.Conn
	until <-chan bool
}

func (c closeWaits) Close() error { <-c.until; return c.Conn.Close() }

// TestLogs shows C10, C11 and I07.
func TestLogs(t *testing.T) {
	pieces := strings.Repeat("log the beginning, ; log the end\n; ", 100) // which must stay together
	s := start(t, alone(pieces+"ok; return Hello, World!\n"))
	together(20, func() { ask(t, s.addr, getPath("/é\x9f\"\\")) })
	ask(t, s.addr, getPath("/\x1b[2J"))
	s.stop()
	seen := map[string]int{}
	numbers := regexp.MustCompile(`\[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\]|400 \d+|: byte.*`)
	for line := range strings.Lines(s.access.String() + s.errors.String()) {
		seen[numbers.ReplaceAllString(line, "[]")]++
	}
	want := map[string]int{"127.0.0.1 - - [] \"GET /\\u00e9\\x9f\\\"\\\\ HTTP/1.0\" 200 14\n": 20,
		"127.0.0.1 - - [] \"GET /\\x1b[2J HTTP/1.0\" []\n": 1, "the beginning, the end\n": 2000,
		"400 Bad Request: expected a target without control characters[]\n": 1}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("got %q", seen)
	}
}

// TestAddresses shows E11 and E13, over IPv4, IPv6 and a Unix socket.
func TestAddresses(t *testing.T) {
	for _, c := range []struct{ listen, name string }{{"127.0.0.1:0", "127.0.0.1"},
		{":0", "127.0.0.1"}, {"0.0.0.0:0", "127.0.0.1"}, {"[::1]:0", "[::1]"}} {
		t.Run("listening on "+c.listen, func(t *testing.T) {
			l, err := net.Listen("tcp", c.listen)
			if err != nil {
				skip(t, fmt.Sprint("this machine has no IPv6: ", err))
			}
			l.Close()
			port := portOf(startOn(t, c.listen, showEnviron).addr)
			replies(t, c.name+":"+port, get(), "\nSERVER_NAME: "+c.name+"\n|\nSERVER_PORT: "+port+
				"\n|\nREMOTE_ADDR: "+strings.Trim(c.name, "[]")+"\n")
		})
	}
	t.Run("Unix socket", func(t *testing.T) {
		path := socketPath(t)
		stale := must(net.Listen("unix", path))(t).(*net.UnixListener)
		stale.SetUnlinkOnClose(false) // as if the server before had been killed
		stale.Close()
		s := startOn(t, "unix:"+path, showEnviron)
		replies(t, s.addr, get(), "\nSERVER_NAME: localhost\n|\nSERVER_PORT: 80\n|"+
			"\nREMOTE_ADDR: \n|\nREMOTE_PORT: \n")
		_, err := listen("unix:" + path)
		same(t, "in use", isErrno(err, syscall.EADDRINUSE, 10048), true)
		noError(t, os.Remove(path))
		newer := startOn(t, "unix:"+path, hello)
		s.stop()
		has(t, s.access.String(), "- - - [")
		has(t, ask(t, path, get()), ok200) // the socket of a newer server is left alone
		newer.stop()
		_, err = os.Lstat(path)
		same(t, "the socket is removed", errors.Is(err, os.ErrNotExist), true)
	})
	t.Run("what is announced", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		announce(&net.TCPAddr{IP: net.IPv6zero, Port: 8000}, &stdout, &stderr)
		others := regexp.MustCompile(`From other machines: http://\d+(\.\d+){3}:8000/\n`)
		same(t, "the banner", others.ReplaceAllString(stdout.String(), ""),
			"Serving HTTP on 0.0.0.0 port 8000 (http://127.0.0.1:8000/) ...\n")
		has(t, stderr.String(), "Warning: other machines")
	})
	t.Run("T07 the same port again at once", func(t *testing.T) {
		first := start(t, hello)
		ask(t, first.addr, get())
		first.stop()
		has(t, ask(t, startOn(t, first.addr, hello).addr, get()), ok200)
	})
}

// TestGatewayFault shows that even a fault of ours costs one connection, not the server.
func TestGatewayFault(t *testing.T) {
	s := start(t, hello, func(s *Server) {
		s.Watch = func(c net.Conn, a Application) (net.Conn, Application, func(*Request, error)) {
			return c, a, func(*Request, error) { panic("a fault") } // between our own functions
		}
	})
	same(t, "what the client gets", ask(t, s.addr, get()), "")
	s.stop()
	has(t, s.errors.String(), "a fault in the gateway: a fault")
}

// ---------------------------------------------------------------- Applications and command

// call runs an application of ours without a server.
func call(name, path string, change Environ) (status string, headers []Header, body string) {
	application, err := choose(applications(Config{Root: "docs"}), name, "")
	if err != nil {
		panic(err)
	}
	environ := Environ{"PATH_INFO": path}
	maps.Copy(environ, change)
	status, headers, content := callApplication(application, environ)
	return status, headers, string(content)
}

func TestApplications(t *testing.T) {
	for target, want := range map[string]string{
		"/hello/": "^200 OK|\nHello, World!\n$", "/class": "\nHello from an object",
		"/write":       "\n3...\n2...\n1...\nand the rest is returned\n$",
		"/environ/a/b": "\nPATH_INFO: /a/b\n|\nSCRIPT_NAME: /environ\n",
		"/echo":        "<h1>Echo</h1>|curl --data-binary @README.md http://127.0.0.1/echo<",
		"/errors":      `<a href="/errors/before">|<a href="/errors/after">|<a href="/errors/excinfo">`,
		"/errors/x":    "^404 Not Found|Try before, after, excinfo, twice or hop under /errors/\n$",
		"/proxy":       "go run . -upstream 127", "/cgi": "go run . -script path", "/lab": "^200 ",
		"/form": "^200 ", "/mount": "^200 |SCRIPT_NAME: /mount\n", "/files": "^301 ",
		"/helloo": "^404 Not Found|The index is at /\n$", "": "^200 OK|<h1>The gallery</h1>",
	} {
		status, headers, body := call("gallery", target, nil)
		holds(t, fmt.Sprintf("%s %q\n%s", status, headers, body), want)
		if !strings.HasPrefix(body, "Hello") { // those are small
			holds(t, fmt.Sprint(headers), "{Content-Type text/|{X-Content-Type-Options nosniff}")
		}
	}
	_, _, clock := callApplication(newClock(3, time.Millisecond), Environ{})
	same(t, "three times", regexp.MustCompile(`^(\d\d:\d\d:\d\d\n){3}$`).Match(clock), true)
	for given, want := range map[string]string{ // M09
		"": "REQUEST_METHOD=GET SCRIPT_NAME= PATH_INFO=/ HTTP_HOST=127.0.0.1 SERVER_PORT=80 " +
			"wsgi.url_scheme=http SERVER_PROTOCOL=HTTP/1.0",
		"HTTPS=on":                         "wsgi.url_scheme=https SERVER_PORT=443",
		"SERVER_NAME=h SCRIPT_NAME=/app":   "HTTP_HOST=h SERVER_NAME=h PATH_INFO=",
		"REQUEST_METHOD=PUT SERVER_PORT=1": "REQUEST_METHOD=PUT SERVER_PORT=1",
	} {
		environ := Environ{}
		for variable := range strings.FieldsSeq(given) {
			key, value, _ := strings.Cut(variable, "=")
			environ[key] = value
		}
		setTestingDefaults(environ)
		for variable := range strings.FieldsSeq(want) {
			key, value, _ := strings.Cut(variable, "=")
			same(t, given+": "+key, environ[key], any(value))
		}
	}
	for text, want := range map[string]error{"ok; ok": errStartedTwice, "return x": errNotStarted} {
		func() { // callApplication is a gateway
			defer func() { same(t, text, recover(), any(want)) }()
			callApplication(alone(text), Environ{})
		}()
	}
	var reported bytes.Buffer
	callApplication(func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", []Header{{"Content-Length", "5"}})
		return Blocks{[]byte("Hi")}
	}, Environ{"wsgi.errors": &reported})
	has(t, reported.String(), "Content-Length is 5, but the body ended after 2 bytes")
	has(t, ask(t, start(t, echo).addr, post("a\x00\xff", "Content-Length: 3")),
		"\r\nContent-Length: 3\r\n", "\r\n\r\na\x00\xff")
}

// TestIndex shows that the gallery's page names each application, with a command that
// works where it is mounted, and escapes what the client sent.
func TestIndex(t *testing.T) {
	_, headers, page := call("gallery", "/", Environ{"SCRIPT_NAME": "/a b",
		"HTTP_HOST": "<script>'h'", "wsgi.url_scheme": "https"})
	kind, _ := lookup(headers, "Content-Type")
	same(t, "Content-Type", kind, "text/html; charset=utf-8")
	has(t, page, "curl -i https://&lt;script&gt;&#39;h&#39;/a%20b/hello<")
	for _, entry := range applications(Config{}) {
		if entry.Name == "gallery" {
			continue
		}
		has(t, page, `<a href="/a%20b/`+entry.Name+`">`,
			`<a href="/a%20b/files/`+entry.Chapter+`.md">chapter `+entry.Chapter[:2]+`</a>`)
		must(os.Stat("docs/" + entry.Chapter + ".md"))(t)
	}
	if found := regexp.MustCompile(`<script|(src|href)="(https?:)?//`).FindString(page); found != "" {
		t.Errorf("not escaped, or from elsewhere: %s", found)
	}
}

func TestMount(t *testing.T) { // E03
	show := func(name string) Application {
		return func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return Blocks{[]byte(name + " " + environ.Get("SCRIPT_NAME") + " " + environ.Get("PATH_INFO"))}
		}
	}
	application := mount(map[string]Application{"/app": show("app"), "/app/sub": show("sub"),
		"/a b": show("space")}, show("none"))
	for path, want := range map[string]string{
		"/app": "app /root/app ", "/app/": "app /root/app /", "/app/x": "app /root/app /x",
		"/application": "none /root /application", "/app/sub": "sub /root/app/sub ",
		"/app/sub/x": "sub /root/app/sub /x", "/app/subx": "app /root/app /subx",
		"/app//sub": "app /root/app //sub", "": "none /root ", "/": "none /root /",
		"/a b/c": "space /root/a b /c"} {
		_, _, got := callApplication(application, Environ{"SCRIPT_NAME": "/root", "PATH_INFO": path})
		same(t, path, string(got), want)
	}
}

func TestMiddleware(t *testing.T) { // M01, M03
	wrap := func(use string) Middleware {
		return func(a Application) Application { return must(withMiddleware(a, use))(t) }
	}
	for _, use := range []string{"log", "upper", "catch", "log,upper,catch"} {
		answers(t, wrap(use)(alone("ok; nothing")), get(), "HTTP/1.0 500",
			"failed: the application returned no body")
	}
	for use, log := range map[string]string{
		"onion,onion": "onion 1: before\n  onion 2: before\nthe application\n" +
			"  onion 2: after\nonion 1: after\nClose: Close's error\n",
		"log": "log: GET /x?y=1\nthe application\nlog: startResponse \"200 OK\", 1 headers\n" +
			"log: a block of 3 bytes: \"a\\r\\n\"\nlog: a block of 0 bytes: \"\"\nClose: Close's error\n",
	} {
		story{use, getPath("/x?y=1") +
			" → close; log the application\n; start 200 OK|X: y; yield a\r\n; " +
			"yield ", ok200 + "X: y\r\n\r\na\r\n", log}.run(t, wrap(use))
	}
}

// TestCommand runs the command in this process: what it prints, and on which stream. An exit
// status other than 0 comes with a message on standard error, and only that.
func TestCommand(t *testing.T) {
	busy := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer busy.Close()
	addr := start(t, hello).addr
	const upstream, misplaced = "-upstream is host:port", "rawsgi send [flags] ADDR"
	const noApplication, socket = `no application is called "helo"`, "is unix: and the path"
	for _, c := range []struct {
		code    int
		args    string // separated by single spaces; a quoted one at the end may have some
		printed string
	}{
		{0, "-help", "Usage: rawsgi"},
		{0, "-list", "\n  hello     The smallest application"},
		{2, "-prot 80", "flag provided but not defined: -prot"},
		{2, "-app helo", noApplication},
		{2, "-use log,nion", `no middleware is called "nion"; there are log, onion, upper`},
		{2, "-mode fast", "-mode is concurrent, serial or prefork"},
		{2, "-timeout 0s", "-timeout must be a time of 1ms at least"},
		{2, "-timeout 1ns", "-timeout must be a time of 1ms at least"},
		{2, "-timeout 5", "with its unit, like 5s or 500ms"},
		{2, "-max-body -1", "-max-body must be at least 0"},
		{2, "-max-body 1GB", "expected digits, like 1000000"},
		{2, "hello", "an application is chosen with -app"},
		{2, "-upstream http://h:1", upstream + ", like 127.0.0.1:9000, or several"},
		{2, "-upstream 'h:1, h:2'", `commas and no spaces between, not "h:1, h:2"`},
		{2, "-upstream h:1,h", upstream},
		{2, "-upstream h:65536", upstream}, {2, "-upstream h:1,", upstream},
		{2, "-addr localhost", ` 127.0.0.1:8000 or :8000, or unix:/path, not "localhost"`},
		{2, "-addr 8000", "-addr is host:port, like"}, {2, "-addr 127.0.0.1:99999", "-addr is host:port"},
		{2, "-addr unix:", socket}, {2, "-addr unix:@name", socket},
		{2, "-addr unix:/none/" + strings.Repeat("x", 98), socket + " of a file, of at most 103 bytes"},
		{1, "-addr unix:docs", "docs is there, and is not a socket"},
		{1, "-addr " + busy.Addr().String(),
			"\nStop the program that has this address, or let -addr :0 pick a free port"}, // T07
		{2, "-programs 65537", "-programs must be from 1 to 65536"},
		{2, "-script nosuch", "-script: "}, {2, "-root nosuch", "-root: "},
		{2, "-root README.md", "-root: README.md is not a directory"},
		{0, "send -h", "-half-close"},
		{0, "send -half-close " + addr + ` 'GET / HTTP/1.0\r\n\r\n'`,
			"> GET / HTTP/1.0\\r\\n\n> \\r\\n\n< HTTP/1.0 200 OK\\r\\n\n"},
		{0, "send -split 6 -delay 1ms " + addr + ` 'GET / HTTP/1.0\n\x0a'`,
			"> GET / \n> HTTP/1\n> .0\\n\n> \\n\n< HTTP/1.0 200 OK"},
		{0, "send -half-close " + addr + " '", ""},
		{0, "send " + addr + " '\xff한\"\\\"\\\\ \\xff\\r\\n\r\n", `> \xff한""\\ \xff\r\n` + "\n"},
		{2, "send " + addr + ` \q`, `expected escapes like \r \n \t \\ \x00, got "\q"`},
		{2, "send " + addr + ` \`, "expected escapes"}, {2, "send " + addr + ` a\x0`, "expected escapes"},
		{2, "send " + addr, misplaced}, {2, "send", "\nSee rawsgi send -help.\n"},
		{2, "send " + addr + " x -split 3", misplaced},
		{2, "send http://127.0.0.1:8000 x",
			`ADDR is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not "http://127.0.0.1:8000"`},
		{1, "send 127.0.0.1:1 x", "127.0.0.1:1: connect"},
		{0, "call -h", "rawsgi call [flags] '/path?query'"},
		{0, "call -app hello /",
			"200 OK\nContent-Type: text/plain; charset=utf-8\nContent-Length: 14\n\nHello, World!\n"},
		{0, "call /a%20b?x=%201", "\nPATH_INFO: /a b\nQUERY_STRING: x=%201\n"},
		{0, "call -app hello -use upper /", "\n\nHELLO, WORLD!\n"},
		{2, "call -app helo /", noApplication},
		{2, "call", "rawsgi call [flags] '/path?query'"},
		{2, "call /%zz", "expected two hex digits after %"},
		{1, "call -app errors /before",
			"the application panicked: the application failed before its head was sent"},
	} {
		var stdout, stderr bytes.Buffer
		plain, quoted, ok := strings.Cut(c.args, " '")
		args := strings.Fields(plain)
		if ok {
			args = append(args, strings.TrimSuffix(quoted, "'"))
		}
		code := command(args, &stdout, &stderr)
		printed, other := stdout.String(), stderr.String()
		if code != 0 {
			printed, other = other, ""
		}
		if code != c.code || !strings.Contains(printed, c.printed) || other != "" {
			t.Errorf("%s: exit %d\nstdout %q\nstderr %q", c.args, code, stdout.String(), stderr.String())
		}
	}
}

// halfEcho begins an exchange with the echo application, which has the beginning of its answer.
func halfEcho(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c := sendTo(t, addr, post("abc", "Content-Length: 6"))
	must(io.ReadFull(c, make([]byte, 1)))(t)
	return c
}

// TestProgram runs the program as a user does, and stops it in the middle of an answer. After one
// signal, the answer ends. A second one cuts it, and the client can tell; but a second SIGHUP is
// none: when a terminal is closed, its shell and the system send one each. A terminal sends its
// signals to all processes.
func TestProgram(t *testing.T) { // T06
	only(t, "signals are for Unix")
	for _, c := range []struct{ mode, first, second string }{{"concurrent", "INT", ""},
		{"concurrent", "TERM", ""}, {"prefork", "INT", ""}, {"prefork", "TERM", ""},
		{"concurrent", "INT", "INT"}, {"serial", "TERM", "TERM"}, {"prefork", "TERM", "TERM"},
		{"concurrent", "HUP", "HUP"}, {"prefork", "HUP", "HUP"}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			t.Parallel()
			if c.first == "HUP" && signal.Ignored(syscall.SIGHUP) {
				skip(t, "SIGHUP is ignored here, as nohup(1) does")
			}
			signals := map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM,
				"HUP": syscall.SIGHUP, "": syscall.Signal(0)}
			program := rawsgi("-addr", "127.0.0.1:0", "-app", "echo", "-quiet", "-timeout", "1h",
				"-mode", c.mode)
			program.SysProcAttr = ownGroup()
			_, addr, log := startCommand(t, program)
			pid := program.Process.Pid
			busy, workers := halfEcho(t, addr), children(t, pid)
			if c.first != "TERM" {
				pid = -pid
			}
			tell(pid, signals[c.first])
			eventually(t, "the message", func() bool {
				return strings.Contains(log.String(),
					"waiting up to 5s for 1 request to end; press Ctrl-C again")
			})
			begin := time.Now()
			tell(pid, signals[c.second])
			cut := c.second == "INT" || c.second == "TERM"
			if !cut {
				refuses(t, addr)
				time.Sleep(100 * time.Millisecond) // in which it could cut the answer
				io.WriteString(busy, "def")
			}
			reply, err := io.ReadAll(busy)
			busy.Close() // or the server would wait for it
			whole := err == nil && bytes.HasSuffix(reply, []byte("abcdef"))
			if whole == cut || isReset(err) != cut {
				t.Errorf("got %q, %v", reply, err)
			}
			if err, took := ended(t, program), time.Since(begin); err != nil || took > grace-time.Second {
				t.Errorf("the program ended with %v after %v", err, took)
			}
			haveEnded(t, workers...)
		})
	}
}

// TestLostLog shows that a program lives on when nobody reads its log any more, as after
// Ctrl-C in "rawsgi | tee log"; and that a CGI program has the usual SIGPIPE all the same. When
// its log or its banner finds the output full, it serves and stops all the same.
func TestLostLog(t *testing.T) {
	script := writeScript(t, "", "pipe", `printf '\n'; kill -PIPE $$; echo ignored`)
	for name, flags := range map[string]string{"no reader": "", "no reader, prefork": "-mode prefork",
		"full log": "-quiet", "full banner": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read, write, err := os.Pipe()
			noError(t, err)
			defer read.Close()
			path := socketPath(t)
			program := rawsgi(strings.Fields("-addr unix:" + path + " -script " + script + " " + flags)...)
			program.Stderr = write
			if name == "full banner" {
				program.Stdout, program.Stderr = write, nil
			}
			if strings.HasPrefix(name, "full") { // a write into a full pipe blocks
				write.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				for err == nil {
					_, err = write.Write(make([]byte, 1<<10))
				}
			} else {
				read.Close()
			}
			noError(t, program.Start(), write.Close())
			t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
			eventually(t, "a socket", func() bool { return listens("unix:" + path) })
			for i := 0; i < 20 && name != "full log"; i++ { // each writes to the log
				has(t, ask(t, path, getPath("/errors/before")), "HTTP/1.0 500")
				has(t, ask(t, path, getPath("/cgi")), "!ignored")
			}
			busy := must(net.Dial("unix", path))(t)
			defer busy.Close()
			busy.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(busy, "POST /echo HTTP/1.0\r\nContent-Length: 6\r\n\r\nabc")
			must(io.ReadFull(busy, make([]byte, 1)))(t)
			program.Process.Signal(syscall.SIGTERM)
			eventually(t, "no socket", func() bool { return !listens("unix:" + path) })
			io.WriteString(busy, "def")
			has(t, readRest(t, busy), "abcdef$")
			busy.Close() // or the server would wait for it
			same(t, "how the program ends", ended(t, program), nil)
		})
	}
}

// ---------------------------------------------------------------- Gateways and hosts
//
// What the last tables of docs/conformance.md say of forms, CGI programs and upstreams is not
// said again here.

func TestCGIGateway(t *testing.T) {
	for _, c := range []struct {
		name                 string
		app                  Application
		variables, want, log string
	}{
		{"G01 Status, no Date, no Server", hello, "REQUEST_METHOD=GET", "^Status: 200 OK\r\n" +
			"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\r\nHello, World!\n$", "^$"},
		{"G02 E17 E18 E21 the environment is environ", validate(showEnviron),
			"REQUEST_METHOD=PUT|X=a=\xff|HTTPS=on|SERVER_PORT=443|PATH_INFO=/a b|HTTP_X_A=1",
			"\nREQUEST_METHOD: PUT\n|\nX: a=\xff\n|\nPATH_INFO: /a b\n|\nHTTP_X_A: 1\n|" +
				"url_scheme: https\n|multithread: false\n|multiprocess: true\n|run_once: true\n", "^$"},
		{"G02 H17 what a server should not have set", validate(showEnviron), "REQUEST_METHOD=POST|" +
			"CONTENT_LENGTH=3|HTTP_CONTENT_LENGTH=3|HTTP_CONTENT_TYPE=a/b|HTTP_PROXY=evil|HTTP_A=1",
			"\nHTTP_A: 1\n|!HTTP_CONTENT|!evil", "^$"},
		{"G02 the defaults keep the rules", validate(hello), "", "^Status: 200 OK\r\n", "^$"},
		{"G03 standard input ends at CONTENT_LENGTH", showEnviron, "CONTENT_LENGTH=3",
			strings.Join(body("012"), "\n|"), "^$"},
		{"G04 before its head", failing, "PATH_INFO=/before", "^Status: 500|!goroutine", "failing"},
		{"G04 after its head", failing, "PATH_INFO=/after", "^Status: 200|!goroutine", "failing"},
		{"G04 an error without a line end", alone("log no end; ok"), "", "^Status: 200", "no end"},
		{"G04 a wrong length", failing, "CONTENT_LENGTH=+3", "^Status: 400 Bad Request\r\n", "digits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errors lockedBuffer
			endless, w := io.Pipe()
			defer w.Close()
			stdin := io.MultiReader(strings.NewReader("0123456789"), endless)
			wait(t, "its end", inBackground(func() {
				serveCGI(c.app, strings.Split(c.variables, "|"), stdin, &out, log.New(&errors, "", 0))
			}))
			holds(t, out.String(), c.want)
			holds(t, errors.String(), c.log)
		})
	}
}

// rawsgi is the program itself, with arguments.
func rawsgi(args ...string) *exec.Cmd {
	program := exec.Command(os.Args[0], args...)
	program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
	return program
}

// TestCGIArguments shows that a query never is a flag, although web servers pass some as
// arguments: those of RFC 3875 §4.4 word by word, Python's in one.
func TestCGIArguments(t *testing.T) {
	const refused, answered = "^Status: 400 Bad Request\r\n", "^Status: 200 OK\r\n"
	for query, c := range map[string]struct{ args, want string }{
		"-app+environ": {"-app environ", refused}, "-list": {"-list", refused},
		"%2Dapp%3Denviron": {"-app=environ", refused}, "x+-app+environ": {"-app environ", refused},
		"%0a-app%0Denviron": {"-app environ", refused}, "%20%2dlist": {"-list", refused},
		"send+127.0.0.1:1+x": {"send 127.0.0.1:1 x", answered}, "call+/x": {"call /x", answered},
		"foo+bar": {"-quiet foo bar", answered}, "-x": {"", answered},
		"a-b":  {"-app environ", answered + "|QUERY_STRING: a-b\n"},
		"-a=b": {"-app environ", answered + "|QUERY_STRING: -a=b\n"},
	} {
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			program := rawsgi(strings.Fields(c.args)...)
			program.Env = append(program.Env, "GATEWAY_INTERFACE=CGI/1.1", "QUERY_STRING="+query)
			holds(t, string(must(program.Output())(t)), c.want)
		})
	}
}

// asProgram makes a shell script that runs this binary as the program, with arguments.
func asProgram(t *testing.T, dir, name, args string) string {
	return writeScript(t, dir, name, "RAWSGI_AS_PROGRAM=1 GORACE=atexit_sleep_ms=0 exec '"+
		must(filepath.Abs(os.Args[0]))(t)+"' "+args)
}

// writeScript makes a program of shell commands, in a directory of its own if dir is "".
func writeScript(t *testing.T, dir, name, commands string) string {
	t.Helper()
	only(t, "the scripts are for a Unix shell")
	path := filepath.Join(cmp.Or(dir, t.TempDir()), name)
	noError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+commands+"\n"), 0o755))
	return path
}

// freeAddr returns an address at which nobody listens. Its port is below those that systems
// give to ":0" and to clients, so that no test that runs beside this one gets it, and has four
// digits as those of the pages: lengths stay the same.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 7000 {
		port := 2000 + (int64(os.Getpid())*37+ports.Add(1))%7000
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port from 2000 to 8999 is free")
	return ""
}

// ports counts the ports that tests have tried, from another one in each process: what one
// test has chosen, another does not.
var ports atomic.Int64

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// listens reports whether somebody listens at an address.
func listens(addr string) bool {
	network, address, _ := parseAddr("", addr)
	c, err := net.Dial(network, address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// background runs a server until the test ends, and waits until it answers.
func background(t *testing.T, addr string, command *exec.Cmd) {
	t.Helper()
	var out lockedBuffer
	command.Stdout, command.Stderr = &out, &out
	noError(t, command.Start())
	t.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		defer time.AfterFunc(10*time.Second, func() { command.Process.Kill() }).Stop()
		command.Wait() // says that it was stopped
		if t.Failed() {
			t.Logf("%s said:\n%s", command.Path, out.String())
		}
	})
	eventually(t, command.Path, func() bool { return listens(addr) })
}

// TestCGIHost shows what a program gets, and what becomes of its answer.
func TestCGIHost(t *testing.T) {
	t.Cleanup(func() { // after all cases; Fatal here would lose what they have reported
		end := time.Now().Add(20 * time.Second)
		for len(children(t, "self")) > 0 && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
		same(t, "programs that run after 20s", fmt.Sprint(children(t, "self")), "[]")
	})
	script := func(t *testing.T, commands string) string { // in which hi is the smallest answer
		hi := "hi() { printf 'Content-Type: text/plain\\n\\nhi'; }\n"
		return writeScript(t, "", "p", hi+commands)
	}
	mounted := func(host, others Application) Application {
		return mount(map[string]Application{"/cgi": host}, others)
	}
	const hi, brokeOff = "^" + ok200 + "Content-Type: text/plain\r\n\r\nhi$", "the answer broke off"
	const waits = "while [ ! -e $0.pid ]; do sleep 0.01; done; "
	for _, c := range []struct{ name, script, request, want, log string }{
		{"X05 a local redirect is GET, without a body", `printf 'Location: /other?x=1\n\n'`,
			"POST /cgi HTTP/1.0\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc",
			"REQUEST_METHOD: GET\n|PATH_INFO: /other\n|QUERY_STRING: x=1\n|BODY-LENGTH: 0|!CONTENT_", "^$"},
		{"X05 a loop of them", `printf 'Location: /cgi\n\n'`, "", " 502 ", "there are more than 10 in a row"},
		{"X05 it may work on after a local redirect", `printf 'Location: /\n\n'; exec >&-; sleep 0.4
			echo x >&2`, "", " 200 OK|PATH_INFO: /\n", "x\n|!signal"},
		{"X08 no empty line, but more", `printf 'Content-Type: text/html\n<p>\n'`, "", " 502 ",
			"hint for |then an empty line"},
		{"X08 output before the head", `echo hi`, "", " 502 ", "hint for |print a head, like "},
		{"X08 an HTTP status line", `printf 'HTTP/1.0 200 OK\n\nhi'`, "", " 502 ", "print Status: 200"},
		{"X08 a line end of Windows", "#!/bin/sh\r\necho hi\r\n", "", " 502 ",
			"hint for |in \\r\\n: save it"},
		{"X08 the same, with env", "#!/usr/bin/env sh\r\n", "", " 502 ", "hint for |in \\r\\n: save it"},
		{"X08 no first line", "#!", "", " 502 ",
			"hint for |does not name an interpreter, like #!/bin/sh"},
		{"X08 a head without end", `yes A: b`, "", " 502 ",
			"is the empty line after it missing?|!print a head"},
		{"X08 a wrong first line", "#!/bin/nosuch\n", "", " 502 ",
			`hint for |not exist: "#!/bin/nosuch"`},
		{"X08 all output is read, after a length", `printf 'Content-Length: 2\n'; hi; sleep 0.2
			echo more; echo x >&2`, "", "\r\n\r\nhi$", "x\n|!signal"},
		{"X08 all output is read, for HEAD", `hi; head -c 200000 /dev/zero; sleep 0.2; echo x >&2`,
			"HEAD /cgi HTTP/1.0\r\n\r\n", "\r\n\r\n$", "x\n|!signal"},
		{"X08 a program may work on", `hi; exec >&-; sleep 0.2; echo x >&2`, "", hi, "x\n|!signal"},
		{"X09 a program that does not read", `exec <&-; hi`, "POST /cgi HTTP/1.0\r\nContent-Length: " +
			"999999\r\n\r\n" + strings.Repeat("x", 999999), hi, "^$"},
		{"X12 timeout: it hangs", `sleep 1000`, "", " 504 ", "waited 1s"},
		{"X12 timeout: it stalls", `hi; sleep 1000`, "", hi, "waited 1s|" + brokeOff},
		{"X12 timeout: it drips", `while sleep 0.1; do printf x; done`, "", " 504 ", "waited 1s"},
		{"X12 timeout: its child hangs", `sleep 1000 & echo $! > $0.pid; wait`, "", " 504 ", "waited 1s"},
		{"X12 timeout: a child has left the group", `setsid sh -c 'echo $$ > $0.pid
			while sleep 0.1; do echo x; done' $0 2>/dev/null & ` + waits + "hi", "", "\r\n\r\nhi", brokeOff},
		{"X12 timeout: it leaves its group",
			`exec perl -e 'setpgrp(0, getpgrp(getppid)); sleep 1000'`, "",
			" 504 ", "waited 1s"},
		{"X12 it leaves a child", `sleep 1000 & echo $! > $0.pid; hi`, "", hi, ""},
		{"X12 it is killed", `hi; kill -9 $$`, "", hi, brokeOff},
		{"X12 killed after its head", `printf 'Status: 200\n\n'; kill -9 $$`, "", " 502 ", "killed"},
		{"X12 it dies", `echo oops >&2; exit 3`, "", " 502 ", "oops\n|exit status 3"},
		{"X12 it floods standard error", `head -c 3000000 /dev/zero | tr '\0' 'x' >&2; hi`, "", hi,
			strings.Repeat("x", maxLine)},
	} {
		file := script(t, c.script) // none is written while others start: it would be busy for them
		if text, raw := strings.CutPrefix(c.script, "#!"); raw {
			writeFile(t, file, strings.TrimSuffix("#!"+text, "#!")+"\n")
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, tool := range []string{"setsid", "perl"} {
				if _, err := exec.LookPath(tool); err != nil && strings.Contains(c.script, tool+" ") {
					skip(t, "needs "+tool)
				}
			}
			timeout, ask := time.Minute, ask // longer than a busy machine takes
			if strings.Contains(c.name, "timeout") {
				timeout = time.Second
			}
			if strings.Contains(c.log, brokeOff) {
				ask = askCut
			}
			s := start(t, mounted(newCGI(file, timeout, 0), showEnviron))
			begin := time.Now()
			reply := ask(t, s.addr, cmp.Or(c.request, getPath("/cgi")))
			holds(t, ourHeaders.ReplaceAllString(reply, ""), c.want)
			s.stop()
			if took := time.Since(begin); took > 5*time.Second/2 && strings.HasSuffix(c.script, "1000") {
				t.Errorf("it was ended after %v", took)
			}
			holds(t, s.errors.String(), c.log)
			if strings.Contains(c.script, "$0.pid") {
				haveEnded(t, pidIn(t, file+".pid"))
			}
		})
	}
	t.Run("X01 X02 X03 X09 X11 the environment", func(t *testing.T) { // the rest is rows
		t.Setenv("RAWSGI_SECRET", "hidden")
		file := script(t, `printf 'Content-Type: text/plain\n\n'; env; echo "cwd $(pwd)"; cat`)
		dir := filepath.Dir(file)
		addr := start(t, mounted(newCGI(dir, time.Minute, 0), hello)).addr
		replies(t, addr, "POST /cgi/p/a%20b?q HTTP/1.0\r\nContent-Length: 3\r\nAuthorization: x\r\n"+
			"Proxy-Authorization: y\r\nProxy: z\r\nX_Y: u\r\nX-A: 1\r\n\r\nabcd", "\nSCRIPT_NAME=/cgi/p\n|"+
			"\nSERVER_SOFTWARE="+software+"\n|\nPATH_INFO=/a b\n|\nREQUEST_URI=/cgi/p/a%20b?q\n|"+
			"\nREMOTE_HOST=127.0.0.1\n|\nHTTP_X_A=1\n|"+
			"\nPATH_TRANSLATED="+dir+"/a b\n|\ncwd "+dir+
			"\n|\nabc$|!AUTHORIZATION|!hidden|!HTTP_PROXY|!X_Y=u|!CONTENT_TYPE")
		replies(t, addr, getPath("/cgi/p/../../../etc/passwd"), "TRANSLATED="+dir+"/etc/passwd\n")
		_, _, page := callApplication(newCGI(file, time.Minute, 0), Environ{"HTTP_PROXY": "evil",
			"SECRET": "evil", "PATH": "evil", "SCRIPT_FILENAME": "evil", "PATH_TRANSLATED": "evil"})
		holds(t, string(page), "\nSCRIPT_FILENAME="+file+"\n|\nPATH="+os.Getenv("PATH")+"\n|!evil")
	})
	t.Run("X11 what is no program", func(t *testing.T) {
		dir := filepath.Dir(script(t, "hi"))
		writeFile(t, dir+"/data", "")
		noError(t, os.Symlink("/bin/true", dir+"/link"), os.Mkdir(dir+"/dir", 0o700))
		addr := start(t, newCGI(dir, time.Minute, 0)).addr
		for target, want := range map[string]string{"/": "404", "/nothing": "404", "/dir": "403",
			"/data": "403", "/link": "403", "/../" + filepath.Base(dir) + "/p": "404",
			"/..%2fp": "404", "/p": "200"} {
			replies(t, addr, getPath(target), "^HTTP/1.0 "+want)
		}
		replies(t, addr, getPath("/link"), "It is not a program: a file, and no link")
	})
	t.Run("X09 the body's file has no name while it is there", func(t *testing.T) {
		spooled := t.TempDir()
		t.Setenv("TMPDIR", spooled)
		c := sendTo(t, start(t, newCGI(script(t, "hi"), time.Minute, 0)).addr,
			"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
		takes(t, c, "until Continue\r\n\r\n") // it reads now
		same(t, "files", len(must(os.ReadDir(spooled))(t)), 0)
		takes(t, c, "send abc")
		takes(t, c, "rest hi")
		same(t, "files", len(must(os.ReadDir(spooled))(t)), 0)
	})
	t.Run("X09 the body's file cannot be made", func(t *testing.T) {
		t.Setenv("TMPDIR", t.TempDir()+"/none")
		answers(t, newCGI(script(t, "hi"), time.Minute, 0), post("a", "Content-Length: 1"), " 502 ",
			"none/rawsgi-body-|!hint")
	})
	t.Run("X01 more than the system can pass to a program", func(t *testing.T) {
		only(t, "the limit of 128 KiB for a variable is Linux's", "linux")
		long := "X-A: " + strings.Repeat("a", 60000)
		answers(t, newCGI(script(t, "hi"), time.Minute, 1), get(long, long, long), " 431 ", "431")
	})
	slow := script(t, "hi; for i in 1 2 3; do sleep 0.2; echo $i; done")
	t.Run("X12 the time in which the client reads does not count", func(t *testing.T) {
		t.Parallel()
		body := called(newCGI(slow, 500*time.Millisecond, 0), Environ{})
		defer closeBody(body)
		page := ""
		for block := range body.All() {
			time.Sleep(400 * time.Millisecond) // with its 200, longer than it may be silent
			page += string(block)
		}
		same(t, "the page", page, "hi1\n2\n3\n")
	})
	t.Run("X12 one program at a time", func(t *testing.T) {
		file := script(t, "echo x >&2; "+waits+`[ $QUERY_STRING ] && hi || printf 'Location: /cgi?x\n\n'`)
		host := newCGI(file, time.Minute, 1)
		s := start(t, mounted(host, hello))
		for range 2 { // a body that does not arrive whole keeps no place
			half := "POST /cgi HTTP/1.0\r\nContent-Length: 3\r\n\r\na"
			holds(t, must(askUntil(t, s.addr, half, true))(t), " 400 ")
		}
		first := sendTo(t, s.addr, getPath("/cgi"))
		eventually(t, "the program", func() bool { return strings.Contains(s.errors.String(), "x\n") })
		unread := iotest.ErrReader(errors.New("it must not be read"))
		status, headers, _ := callApplication(host, Environ{"CONTENT_LENGTH": "3", "wsgi.input": unread})
		holds(t, fmt.Sprint(status, headers), "503 |{Retry-After 1}")
		writeFile(t, file+".pid", "")
		holds(t, readRest(t, first), "\r\n\r\nhi$") // its place was free for the second
		replies(t, s.addr, getPath("/cgi"), "\r\n\r\nhi$")
	})
	for _, name := range []string{"a gateway", "a server, at the second signal", "a server, in time"} {
		file := script(t, "echo $$ > $0.new; mv $0.new $0.pid; sleep 1000")
		t.Run("X12 ends, and its programs with it: "+name, func(t *testing.T) {
			only(t, "looks for processes in /proc", "linux")
			t.Parallel()
			if name == "a server, in time" {
				long(t) // five seconds
			}
			program := rawsgi("-addr", "127.0.0.1:0", "-app", "cgi", "-script", file, "-timeout", "1h")
			if name == "a gateway" {
				program.Env = append(program.Env, "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET")
				noError(t, program.Start())
			} else {
				_, addr, _ := startCommand(t, program)
				sendTo(t, addr, get())
			}
			pid := pidIn(t, file+".pid")
			program.Process.Signal(syscall.SIGTERM)
			if name == "a server, at the second signal" {
				time.Sleep(100 * time.Millisecond) // two at once may arrive as one
				program.Process.Signal(syscall.SIGTERM)
			}
			ended(t, program) // how it ends is for other tests
			haveEnded(t, pid)
		})
	}
}

// pidIn waits until a file has the number of a process.
func pidIn(t testing.TB, file string) (pid int) {
	t.Helper()
	eventually(t, file, func() bool {
		text, _ := os.ReadFile(file) // it may not be there yet
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return pid > 0
	})
	return pid
}

// children returns the numbers of a process's children, where the system tells (Linux).
func children(t testing.TB, process any) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%v/task/*/children", process))
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may have ended
		for _, pid := range strings.Fields(string(text)) {
			pids = append(pids, must(strconv.Atoi(pid))(t))
		}
	}
	return pids
}

// alive reports whether a process is running. A zombie is not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// tell sends a signal to a process, or to its group if the number is negative.
func tell(pid int, signal os.Signal) {
	if p, err := os.FindProcess(pid); err == nil {
		p.Signal(signal) // fails if it has ended
		p.Release()      // it may hold a descriptor
	}
}

// startCommand starts a command that runs our source, or nearly so, on a free port, as a user
// does, and returns the address that it prints, and its log.
func startCommand(t *testing.T, program *exec.Cmd) (*exec.Cmd, string, *lockedBuffer) {
	t.Helper()
	log := &lockedBuffer{}
	program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
	if program.Stderr == nil {
		program.Stderr = log
	}
	stdout := must(program.StdoutPipe())(t)
	noError(t, program.Start())
	t.Cleanup(func() {
		program.Process.Kill() // fails if it has ended, as it should
		program.Wait()         // says that it was killed
	})
	defer time.AfterFunc(20*time.Second, func() { program.Process.Kill() }).Stop()
	r := bufio.NewReader(stdout)
	banner := must(r.ReadString('\n'))(t)
	address := regexp.MustCompile(`^Serving HTTP on (?:.*\bhttp://([^/]*)/\)?|(/\S*)) \.\.\.\n$`)
	match := address.FindStringSubmatch(banner)
	if match == nil {
		t.Fatalf("the banner is %q", banner)
	}
	go io.Copy(io.Discard, r) // what it prints for its reader; ends with the program
	if match[2] != "" {
		return program, "unix:" + match[2], log
	}
	return program, match[1], log
}

// ended waits for the end of a program, not for ever.
func ended(t testing.TB, program *exec.Cmd) error {
	t.Helper()
	end := make(chan error, 1)
	go func() { end <- program.Wait() }()
	return wait(t, "the end of the program", end)
}

// socketPath returns a path for a Unix socket. That of t.TempDir may be too long for one.
func socketPath(t testing.TB) string {
	dir := must(os.MkdirTemp("", "r"))(t)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil && runtime.GOOS == "windows" {
		skip(t, "this Windows has no Unix sockets")
	}
	must(l, err)(t).Close() // this removes the socket
	return path
}

// startPrefork starts the program with two workers, and waits until they are themselves.
func startPrefork(t *testing.T, program *exec.Cmd) (addr string, log *lockedBuffer, workers []int) {
	t.Helper()
	only(t, "looks for processes in /proc", "linux")
	program.Args = append(program.Args, "-addr", "127.0.0.1:0", "-mode", "prefork")
	_, addr, log = startCommand(t, program)
	eventually(t, "two workers", func() bool {
		workers = children(t, program.Process.Pid)
		for _, pid := range workers { // what has only been forked is still its parent
			environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if !bytes.Contains(environment, []byte(workerVariable+"=1")) {
				return false
			}
		}
		return len(workers) == 2
	})
	return addr, log, workers
}

func TestPrefork(t *testing.T) {
	t.Run("E18 several processes answer", func(t *testing.T) {
		addr, log, workers := startPrefork(t, rawsgi("-app", "environ"))
		eventually(t, "an answer of each", func() bool {
			together(8, func() { replies(t, addr, get(), "\nwsgi.multiprocess: true\n") })
			return strings.Contains(log.String(), fmt.Sprintf("[%d] 127", workers[0])) &&
				strings.Contains(log.String(), fmt.Sprintf("[%d] 127", workers[1]))
		})
	})
	t.Run("a worker that cannot be started again", func(t *testing.T) {
		t.Parallel() // waits until it may be
		only(t, "looks for processes in /proc", "linux")
		path := filepath.Join(t.TempDir(), "rawsgi")
		if err := os.Link(os.Args[0], path); err != nil { // another file system
			noError(t, os.WriteFile(path, must(os.ReadFile(os.Args[0]))(t), 0o700))
		}
		addr, log, workers := startPrefork(t, exec.Command(path, "-app", "hello"))
		noError(t, os.Remove(path))
		tell(workers[0], os.Kill)
		eventually(t, "a failure", func() bool { return strings.Contains(log.String(), "no such file") })
		replies(t, addr, get(), "World!\n$")
	})
	t.Run("a worker that hangs does not keep its parent", func(t *testing.T) {
		t.Parallel()
		long(t) // five seconds
		program := rawsgi("-app", "hello", "-quiet")
		_, _, workers := startPrefork(t, program)
		must(exec.Command("kill", "-STOP", strconv.Itoa(workers[0])).Output())(t)
		begin := time.Now()
		program.Process.Signal(syscall.SIGTERM)
		err := ended(t, program)
		if took := time.Since(begin); err != nil || took > grace+time.Second || alive(workers[0]) {
			t.Errorf("it ended with %v after %v, or the worker is left behind", err, took)
		}
	})
}

// TestEarlySignal shows that a server ends at once and properly, at any moment after its banner:
// its workers have ended, also when it was killed, and its port or the file of its socket is free.
func TestEarlySignal(t *testing.T) {
	only(t, "signals are for Unix")
	times := 6
	if *all {
		times = 50
	}
	early := func(t *testing.T, mode, addr string, i int) {
		program, where, _ := startCommand(t,
			rawsgi(append([]string{"-addr", addr, "-mode"}, strings.Fields(mode)...)...))
		time.Sleep(time.Duration(i*15%100) * time.Millisecond) // any moment of their start
		workers, begin, end := children(t, program.Process.Pid), time.Now(), os.Signal(syscall.SIGTERM)
		killed := i%2 == 1 && strings.HasPrefix(mode, "prefork")
		if killed {
			end = os.Kill
		}
		program.Process.Signal(end)
		same(t, "whether it fails", ended(t, program) != nil, killed)
		haveEnded(t, workers...)
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %v to stop", took)
		}
		if killed { // and has perhaps started one more worker
			eventually(t, "the end of all workers", func() bool { return !listens(where) })
		}
		if file, isUnix := strings.CutPrefix(where, "unix:"); !isUnix {
			must(listen(where))(t).Close()
		} else if _, err := os.Lstat(file); err == nil && !killed {
			t.Error("the socket is left behind")
		}
	}
	for _, mode := range []string{"concurrent", "serial", "prefork", "prefork -workers 8"} {
		for _, addr := range []string{"127.0.0.1:0", "unix:" + socketPath(t)} {
			t.Run(mode+" "+addr[:5], func(t *testing.T) {
				t.Parallel()
				for i := range times {
					early(t, mode, addr, i)
				}
			})
		}
	}
}

// haveEnded waits for the end of processes that this one did not start itself.
func haveEnded(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, "the end of a process", func() bool { return !alive(pid) })
	}
}

// TestOutputErrors shows what happens when standard output is full, or its reader has gone.
func TestOutputErrors(t *testing.T) {
	addr := start(t, alone("ok; flood")).addr
	full := writeFunc(func([]byte) (int, error) { return 0, syscall.ENOSPC })
	for _, args := range []string{"send " + addr + ` \n\n`, "-list", "-help", "call /"} {
		var stderr bytes.Buffer
		same(t, args, command(strings.Fields(args), full, &stderr), 1)
		has(t, stderr.String(), syscall.ENOSPC.Error())
	}
	read, nobody, err := os.Pipe()
	noError(t, err, read.Close())
	defer nobody.Close()
	program := rawsgi("send", addr, get())
	program.Stdout = nobody
	noError(t, program.Start())
	t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
	same(t, "success", ended(t, program) == nil, false)
}

// TestNothingLost: 32 clients ask in a loop while the server, or one of its workers, gets a
// signal. Whoever could connect gets a whole answer, unless its worker was killed. (T06)
func TestNothingLost(t *testing.T) {
	only(t, "Windows has no SIGTERM")
	for name, mode := range map[string]string{"the server": "concurrent", "the parent": "prefork",
		"all processes at once": "prefork", // as systemd stops a service
		"one worker":            "prefork", "a killed worker": "prefork"} {
		t.Run(name, func(t *testing.T) {
			command := rawsgi("-addr", "127.0.0.1:0", "-mode", mode, "-app", "hello", "-quiet")
			command.SysProcAttr = ownGroup()
			program, addr, log := startCommand(t, command)
			var answers, lost, refused atomic.Int64
			var stopped atomic.Bool
			finished := inBackground(func() {
				together(32, func() {
					for !stopped.Load() {
						c, err := net.Dial("tcp", addr)
						if err != nil {
							refused.Add(1) // the server has ended
							return
						}
						c.SetDeadline(time.Now().Add(20 * time.Second))
						io.WriteString(c, get()) // fails if the server has hung up
						reply, err := io.ReadAll(c)
						c.Close()
						if answers.Add(1); err != nil || !bytes.HasSuffix(reply, []byte("World!\n")) {
							lost.Add(1)
							t.Logf("lost: %q, %v", reply, err)
						}
					}
				})
			})
			eventually(t, "1000 answers", func() bool { return answers.Load() > 1000 })
			pid, mayLose := program.Process.Pid, int64(0)
			switch name {
			case "all processes at once":
				pid = -pid
			case "one worker", "a killed worker":
				only(t, "looks for processes in /proc", "linux")
				worker, before, end := children(t, pid)[0], answers.Load(), os.Signal(syscall.SIGTERM)
				if name == "a killed worker" {
					end, mayLose = os.Kill, 32 // the request of each client
				}
				tell(worker, end)
				eventually(t, "more answers, and another worker", func() bool {
					now := children(t, pid)
					return answers.Load() > before+2000 && len(now) == 2 && !slices.Contains(now, worker) &&
						strings.Contains(log.String(), "starting another")
				})
				same(t, "refused", refused.Load(), 0)
				stopped.Store(true)
				wait(t, "the clients", finished)
			}
			tell(pid, syscall.SIGTERM)
			wait(t, "the clients", finished)
			ended(t, program) // how it ends is for other tests
			if lost.Load() > mayLose {
				t.Errorf("%d of %d answers were lost", lost.Load(), answers.Load())
			}
		})
	}
}

// fake is an upstream that answers every request with fixed bytes, does what comes after them,
// and closes. It records what it got.
func fake(t *testing.T, answer string, after func(net.Conn)) (addr string, got *lockedBuffer) {
	got = &lockedBuffer{}
	return accepts(t, func(_ net.Listener, c net.Conn) {
		for lines := bufio.NewScanner(io.TeeReader(c, got)); lines.Scan() && lines.Text() != ""; {
		}
		io.WriteString(c, answer)
		if after != nil {
			after(c)
		}
	}), got
}

// accepts listens, and has each connection served and closed.
func accepts(t *testing.T, serve func(net.Listener, net.Conn)) (addr string) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(l, c)
			}()
		}
	}()
	return l.Addr().String()
}

func stay(c net.Conn) { io.Copy(io.Discard, c) } // until the other side closes

// drip sends a byte now and then: n of them, or without end if it is 0.
func drip(n int) func(net.Conn) {
	return func(c net.Conn) {
		for i, err := 0, error(nil); err == nil && (n == 0 || i < n); i++ {
			time.Sleep(50 * time.Millisecond)
			_, err = io.WriteString(c, "x")
		}
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	const ok, brokeOff = "HTTP/1.0 200 OK\r\n", "the answer broke off: "
	const two = ok + "Content-Length: 2\r\n\r\nhi"
	through := func(t *testing.T, upstreams string) string {
		proxy := newProxy(upstreams, 300*time.Millisecond)
		return start(t, mount(map[string]Application{"/p": proxy}, hello)).addr
	}
	for _, c := range []struct {
		name, answer string
		after        func(net.Conn)
		want, log    string
	}{
		{"nothing of its length", ok + "Content-Length: 5\r\n\r\n", nil,
			" 502 |" + brokeOff + "expected 5 body bytes, got 0|\nRFC 9110 §15.6.3\n", brokeOff},
		{"less than its length", ok + "Content-Length: 5\r\n\r\nab", nil,
			"^" + ok + "Content-Length: 5\r\n\r\nab$", brokeOff},
		{"it stalls before its head", "HTTP/1.0 200", stay, " 504 ", "i/o timeout"},
		{"it stalls before its body", ok + "Content-Length: 5\r\n\r\n", stay,
			" 504 |" + brokeOff + "|\nRFC 9110 §15.6.5\n", brokeOff},
		{"it stalls in its body", ok + "Content-Length: 5\r\n\r\nabc", stay,
			"^" + ok + "Content-Length: 5\r\n\r\nabc$", brokeOff},
		{"it stays after an empty body", ok + "Content-Length: 0\r\n\r\n", stay, " 200 ", "^$"},
		{"a head byte by byte", ok + "X: ", drip(0), " 504 ", "i/o timeout"},
		// This takes longer than each of its bytes may.
		{"a body byte by byte", ok + "Content-Length: 10\r\n\r\n", drip(10), "\r\n\r\nxxxxxxxxxx$", "^$"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr, _ := fake(t, c.answer, c.after)
			answers(t, newProxy(addr, 300*time.Millisecond), get(), c.want, c.log)
		})
	}
	t.Run("an upload that takes longer than any of its pieces may", func(t *testing.T) {
		t.Parallel()
		c := sendTo(t, through(t, start(t, showEnviron).addr),
			"POST /p HTTP/1.0\r\nContent-Length: 10\r\n\r\n")
		drip(10)(c)
		has(t, readRest(t, c), body("xxxxxxxxxx")...)
	})
	t.Run("below SCRIPT_NAME, too, a target keeps its bytes", func(t *testing.T) { // the rest is rows
		addr, got := fake(t, two, nil)
		proxy := newProxy(addr, time.Second)
		s := start(t, mount(map[string]Application{"/p": proxy,
			"/q": func(environ Environ, startResponse StartResponse) Body { // but not if it is changed
				environ["PATH_INFO"] = "/b c"
				return proxy(environ, startResponse)
			}}, hello))
		for sent, want := range map[string]string{"/p": "/", "/p?": "/?", "/p/a?b?": "/a?b?",
			"/p%2Fa": "/a", "/p/a%2Fb?x=%2F": "/a%2Fb?x=%2F", "/%70/a%2Fb": "/a%2Fb", "/p/a#b": "/a",
			"/p/a://b": "/a://b", "/p/\x80\"<": "/\x80\"<", "http://h/p?": "/?",
			"http://u@h/%70/%2f%2F?": "/%2f%2F?", "/q/a?q": "/b%20c?q"} {
			before := len(got.String())
			ask(t, s.addr, getPath(sent))
			holds(t, got.String()[before:], "^GET "+want+" HTTP/1.0\r\n")
		}
	})
	t.Run("it is its own upstream", func(t *testing.T) {
		addr := freeAddr(t)
		s := startOn(t, addr, newProxy(addr, time.Second))
		replies(t, addr, get("Via: 1.0 rawsgi-x"), " 508 ")
		s.stop()
		same(t, "lines in the access log", strings.Count(s.access.String(), "\n"), 2)
	})
	t.Run("two proxies are no loop, and Via names them", func(t *testing.T) {
		addr, got := fake(t, two, nil)
		second := start(t, newProxy(addr, time.Second))
		ask(t, through(t, second.addr), "GET /p HTTP/1.1\r\nHost: h\r\nVia: 1.0 fred\r\n\r\n")
		holds(t, regexp.MustCompile(`rawsgi-\w+`).ReplaceAllString(got.String(), "NAME"),
			"\nVia: 1.0 fred, 1.1 NAME, 1.0 NAME\r\n")
	})
	t.Run("in turn, past one that refuses", func(t *testing.T) {
		one, _ := fake(t, ok+"\r\n1", nil)
		two, _ := fake(t, ok+"\r\n2", nil)
		proxy := through(t, one+","+freeAddr(t)+","+two)
		for _, turn := range "221221" { // the one after the refusing takes its turn
			replies(t, proxy, getPath("/p"), string(turn)+"$")
		}
		replies(t, through(t, freeAddr(t)), getPath("/p"), " 502 ")
	})
	t.Run("block by block", func(t *testing.T) {
		p := &probe{wait: make(chan bool)}
		slow := start(t, p.does("ok; yield first; wait; yield second"))
		c := sendTo(t, through(t, slow.addr), getPath("/p"))
		takes(t, c, "until first")
		close(p.wait)
		takes(t, c, "rest second")
	})
}

// TestApplicationRows, TestHostRows and TestProxyRows hold ours to the last tables of
// docs/conformance.md, through the checker.
func TestApplicationRows(t *testing.T) {
	addr := start(t, must(choose(applications(Config{Root: "docs"}), "gallery", ""))(t)).addr
	passes(t, "", 9, "gateway", addr)
	passes(t, "", 61, "applications", addr)
}

func TestHostRows(t *testing.T) {
	only(t, "the programs are for a Unix shell")
	dir := t.TempDir()
	passes(t, "", 38, "host", "http://"+start(t, newCGI(dir, 10*time.Second, 0)).addr+"/", dir)
}

func TestProxyRows(t *testing.T) {
	upstream := freeAddr(t) // the checker listens there
	passes(t, "", 43, "proxy", start(t, newProxy(upstream, 10*time.Second)).addr, upstream)
}

// TestForm shows what a form costs, and one that does not arrive whole. The rest is rows.
func TestForm(t *testing.T) {
	const name = "Content-Disposition: form-data; name=\"n\"\r\n\r\n"
	const file = "Content-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n"
	const multipart = "multipart/form-data; boundary=B"
	cut := post("--B\r\n"+name+"v", "Content-Type: "+multipart, "Content-Length: 1000")
	s := start(t, form, short)
	replies(t, s.addr, cut, " 408 ")
	empty := post("", "Content-Type: "+multipart, "Content-Length: 0")
	replies(t, s.addr, empty, " 400 |expected one part or more|!EOF")
	replies(t, s.addr, getPath("/?a=%<b"), ` 400 |invalid URL escape "%\x3cb"|!<`)
	holds(t, must(askUntil(t, s.addr, cut, true))(t), " 400 |expected 1000")
	read := func(body io.Reader) (page []byte, refusal *Refusal) {
		defer func() { refusal, _ = recover().(*Refusal) }()
		_, _, page = callApplication(form, Environ{"CONTENT_TYPE": multipart, "wsgi.input": body})
		return page, nil
	}
	whole := "--B\r\n" + name + "one\r\n--B\r\n" + file + "\r\n--A\r\n--B\r\n" + name + "\r\n--B--"
	for n := range len(whole) + 1 { // a form that ends anywhere before its closing delimiter
		_, refusal := read(strings.NewReader(whole[:n]))
		if n == len(whole) != (refusal == nil) || refusal != nil && refusal.Status != badRequest {
			t.Errorf("cut at %d, after %q: %v", n, whole[max(0, n-20):n], refusal)
		}
	}
	_, refusal := read(strings.NewReader("--B\r\n\r\n--B--"))
	same(t, "the function that knows the rule", refusal.Place, "app.go#disposition")
	_, refusal = read(strings.NewReader("--B\r\nA: " + strings.Repeat("x", partHead)))
	same(t, "where a form is too large", refusal.Place, "app.go#Read")
	before := totalAlloc()
	page, _ := read(io.MultiReader(strings.NewReader("--B\r\n"+file), io.LimitReader(zeros{}, 256<<20),
		strings.NewReader("\r\n--B--\r\n")))
	holds(t, string(page), "268435456 bytes")
	if used := totalAlloc() - before; used > 8<<20 {
		t.Errorf("a large file is held in memory: %d bytes", used)
	}
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFiles shows files, links and directories that no row can have.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for name, content := range map[string]string{"secret": "hidden", "root/a.txt": "text",
		"root/b.html": "<p>", "root/empty": "", "root/sub/d & e.md": "# d",
		"root/with/index.html": "index", "list/a/b/c": ""} {
		path := filepath.Join(dir, name)
		noError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		writeFile(t, path, content)
	}
	for link, target := range map[string]string{"root/out": "../secret", "root/abs": "/etc/passwd",
		"root/in": "a.txt", "link": "list/a/b"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			skip(t, fmt.Sprint("this system has no symbolic links: ", err))
		}
	}
	for name, when := range map[string]time.Time{"empty": time.Unix(0, 0),
		"a.txt": time.Date(2020, 2, 3, 4, 5, 6, 7, time.UTC), "b.html": time.Now().Add(time.Hour)} {
		noError(t, os.Chtimes(filepath.Join(root, name), when, when))
	}
	addr := start(t, mount(map[string]Application{"/f": newFiles(root),
		"/none": newFiles(filepath.Join(dir, "none"))}, newFiles(root))).addr
	for target, want := range map[string]string{
		"/a.txt": " 200 |Last-Modified: Mon, 03 Feb 2020 04:05:06 GMT\r\n|\r\n\r\ntext$",
		"/b.html": " 200 |Content-Type: text/html; charset=utf-8\r\n" +
			"X-Content-Type-Options: nosniff\r\nContent-Length: 3\r\n\r\n<p>$",
		"/empty": " 200 |Content-Length: 0\r\n\r\n$", "/in": " 200 |text$",
		"/out": " 404 ", "/abs": " 404 ", "/f": " 301 |/f/\r\n", "/none": " 404 ",
		"/sub/":  `<h1>/sub/</h1>|<a href="./d%20&amp;%20e.md">d &amp; e.md</a>`,
		"/":      `<a href="./a.txt">|<a href="./sub/">sub/</a>|"./in"|!"./out"|!"./abs"`,
		"/with/": " 200 |\r\n\r\nindex$",
		// Dates: the file's, later, earlier, in the two old forms, none, beside If-None-Match.
		"/a.txt Mon, 03 Feb 2020 04:05:06 GMT": " 304 ", "/a.txt Mon, 03 Feb 2020 04:05:07 GMT": " 304 ",
		"/a.txt Mon, 03 Feb 2020 04:05:05 GMT": " 200 ", "/a.txt Monday, 03-Feb-20 04:05:06 GMT": " 304 ",
		"/a.txt Mon Feb  3 04:05:06 2020": " 304 ", "/a.txt Mon Feb  3 04:05:05 2020": " 200 ",
		"/a.txt ": " 200 ", "/a.txt Mon, 03 Feb 2020 04:05:06 GMT\r\nIf-None-Match: \"x\"": " 200 ",
	} {
		target, since, _ := strings.Cut(target, " ")
		replies(t, addr, "GET "+target+" HTTP/1.0\r\nIf-Modified-Since: "+since+"\r\n\r\n",
			want+"|!hidden|!root:")
	}
	for ahead := range 100 { // a year of two digits is not more than 50 years ahead
		want := " 304 " // or not in the future, and then the file is older
		if 1 <= ahead && ahead <= 50 {
			want = " 200 "
		}
		replies(t, addr, fmt.Sprintf("GET /empty HTTP/1.0\r\nIf-Modified-Since: "+
			"Monday, 01-Jan-%02d 00:00:00 GMT\r\n\r\n", (time.Now().Year()+ahead)%100), want)
	}
	_, headers, _ := callApplication(newFiles(root), Environ{"PATH_INFO": "/b.html"})
	date, _ := lookup(headers, "Last-Modified") // not in the future
	same(t, date, must(time.Parse(httpDate, date))(t).After(time.Now()), false)
	if os.Geteuid() > 0 { // root may read everything, and Windows has no chmod
		index := filepath.Join(root, "with/index.html")
		noError(t, os.Chmod(index, 0))
		defer os.Chmod(index, 0o600)
		replies(t, addr, getPath("/with/"), " 403 |!<a")
	}
	t.Run("pipes, sockets and names with control characters", func(t *testing.T) {
		odd := t.TempDir()
		for _, name := range []string{"a\nb", "c\x7f", "d\te", "ok"} {
			if err := os.WriteFile(filepath.Join(odd, name), nil, 0o600); err != nil {
				skip(t, fmt.Sprint("no such name here: ", err))
			}
		}
		if exec.Command("mkfifo", odd+"/pipe", odd+"/index.html").Run() != nil {
			skip(t, "this system has no mkfifo")
		}
		if l, err := net.Listen("unix", odd+"/socket"); err == nil { // or too long a path
			defer l.Close()
		}
		addr := start(t, newFiles(odd)).addr
		replies(t, addr, get(), "<ul>\n<li><a href=\"./ok\">ok</a></li>\n</ul>")
		replies(t, addr, getPath("/pipe"), " 404 ") // and it does not wait for somebody who writes
	})
	t.Run("a directory that is removed while it is listed", func(t *testing.T) {
		only(t, "/proc has the names of open directories", "linux")
		gone := t.TempDir()
		directory := opened(gone)
		defer directory.Close()
		noError(t, os.Remove(gone))
		answers(t, newFiles(fmt.Sprint("/proc/self/fd/", directory.Fd())), get(), " 404 ", "^$")
	})
	t.Run("a name in Latin-1", func(t *testing.T) {
		if err := os.Mkdir(dir+"/caf\xe9", 0o700); err != nil || runtime.GOOS == "windows" {
			skip(t, fmt.Sprint("this file system wants UTF-8: ", err))
		}
		answers(t, newFiles(dir), getPath("/caf%E9/"), "<h1>/caf\uFFFD/</h1>|!\xe9", "^$")
		answers(t, newFiles(dir), get(), "<a href=\"./caf%E9/\">caf\uFFFD/</a>", "^$")
	})
	// A whole answer, or 503.
	for path, whole := range map[string]string{"/root/a.txt": "text", "/root/with/": "index",
		"/": `"./link/"`} { // whose target needs one more
		t.Run("fewer and fewer descriptors: "+path, func(t *testing.T) {
			only(t, "needs ulimit")
			t.Parallel()
			program, addr, log := startCommand(t, exec.Command("sh", "-c", `ulimit -n 40 && exec "$0" "$@"`,
				os.Args[0], "-addr", "127.0.0.1:0", "-app", "files", "-root", dir, "-timeout", "1m"))
			reply := ask(t, addr, getPath(path))
			for n := 0; n < 40 && !strings.HasPrefix(reply, "HTTP/1.0 503 "); n++ {
				holds(t, reply, "^HTTP/1.0 200 |"+whole)
				sendTo(t, addr, "GET ") // one descriptor less
				reply = ask(t, addr, getPath(path))
			}
			holds(t, reply, "^HTTP/1.0 503 ")
			eventually(t, "its log", func() bool { return strings.Contains(log.String(), "503: ") })
			program.Process.Kill()
			ended(t, program) // it was killed
		})
	}
}

// TestSystemErrors shows what becomes of errors of the system that a test cannot bring about
// everywhere, root's permissions among them.
func TestSystemErrors(t *testing.T) {
	const forbidden, busy = "^403 |!Retry-After|!503: ", "^503 |Retry-After|\n503: "
	full := func(what string) error { return os.NewSyscallError(what, syscall.ENFILE) }
	fork := func(err error) error { return &os.PathError{Op: "fork", Path: "a", Err: err} }
	for _, c := range []struct {
		serve func(Environ, StartResponse, error) Body
		err   error
		want  string
	}{
		{cannotServe, syscall.EACCES, forbidden}, {cannotServe, syscall.EPERM, forbidden},
		{cannotServe, full("open"), busy + "open: "},
		{badGateway, fork(syscall.EMFILE), busy + "fork a: "},
		{badGateway, fork(syscall.EAGAIN), busy + "fork a: "},
		{badGateway, fmt.Errorf("no x: %w", &net.OpError{Err: full("socket")}), busy + "no x: "},
	} {
		var log bytes.Buffer
		status, headers, _ := callApplication(func(environ Environ, startResponse StartResponse) Body {
			return c.serve(environ, startResponse, c.err)
		}, Environ{"wsgi.errors": &log})
		holds(t, fmt.Sprint(status, headers, "\n", &log), c.want)
	}
}

// TestUpper shows M02, M03 and M04.
func TestUpper(t *testing.T) {
	const plain = "start 200 OK|Content-Type: text/plain"
	const typed = ok200 + "Content-Type: text/plain\r\n"
	for _, c := range []story{
		{"M02 M03 M04 plain text", "close; " + plain + "|Content-Length: 6; yield abc; yield é\xff",
			typed + "\r\nABCé\xff", "Close's error"},
		{"M04 another type is left alone", "start 200 OK|Content-Type: text/html|Content-Length: 3; " +
			"yield abc", ok200 + "Content-Type: text/html\r\nContent-Length: 3\r\n\r\nabc", ""},
		{"M04 text that is coded", plain + "|Content-Encoding: gzip; yield abc",
			typed + "Content-Encoding: gzip\r\n\r\nabc", ""},
		{"M04 a type in capitals", "start 200 OK|Content-Type: Text/Plain; yield abc",
			ok200 + "Content-Type: Text/Plain\r\n\r\nABC", ""},
		{"M04 what is written", plain + "; write abc; return def", typed + "\r\nABCDEF", ""},
		{"M04 startResponse in the iteration", "yield ; " + plain + "; yield a", typed + "\r\nA", ""},
		{"M05 excInfo is passed on", plain + "; again 503 Sorry|Content-Type: text/plain; return x",
			"HTTP/1.0 503 Sorry\r\nContent-Type: text/plain\r\n\r\nX", ""},
		{"M03 Close after a panic", "close; " + plain + "; yield ; panic", "500", "the block failed"},
	} {
		c.run(t, upper)
	}
	out := slices.Collect(called(upper(alone(plain+"; yield a; yield ; yield b")), Environ{}).All())
	same(t, "M02: a block out for each block in", len(out), 3)
}

// called calls an application, with a startResponse that does nothing, and returns its body.
func called(application Application, environ Environ) Body {
	setTestingDefaults(environ)
	return application(environ, func(string, []Header, ...error) io.Writer { return io.Discard })
}

func TestCatch(t *testing.T) {
	const page = "^HTTP/1.0 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"X-Content-Type-Options: nosniff\r\n|"
	const failed = "The application failed: the block failed (set|\tserver_test.go:"
	for _, steps := range []string{"panic", "ok; yield ; panic"} { // in the call, in an iteration
		for lines, want := range map[string]string{"From: ::1": failed,
			"From: 192.0.2.1":                         "\r\n\r\nThe application failed.\n$",
			"From: ::1\r\nX-Forwarded-For: 192.0.2.1": "!the block failed"} {
			answers(t, catch(func(environ Environ, startResponse StartResponse) Body {
				environ["REMOTE_ADDR"] = environ.Get("HTTP_FROM")
				return alone(steps)(environ, startResponse)
			}), get(lines), page+want, "catch: "+failed)
		}
	}
	for _, c := range []story{
		{"after the head", "close; ok; yield abc; panic", "cut", "the block failed"},
		{"a body cut short keeps its status", post("abc", "Content-Length: 9") + " → ok; input", "400",
			"expected 9 body bytes"},
		{"nothing wrong", "close; ok; yield abc", ok200 + "\r\nabc", "Close's error"},
	} {
		c.run(t, catch)
	}
	t.Run("a panic when no more is wanted", func(t *testing.T) {
		defer func() { holds(t, fmt.Sprint(recover()), "^the block failed$") }()
		for range called(catch(alone("ok; insist a; panic")), Environ{}).All() {
			break
		}
	})
	// That the client has left is no failure of an application.
	for steps, want := range map[string]string{"ok; must x": "^$",
		"ok; yield ; must x": "^$", "panic": "catch: The application failed",
		"yield x": "startResponse must be called|!catch:"} {
		var log bytes.Buffer
		_, more := runOn(&wire{fail: io.ErrClosedPipe}, func(e Environ, s StartResponse) Body {
			e["wsgi.errors"] = &log
			return catch(alone(steps))(e, s)
		})
		holds(t, log.String()+more, want)
	}
}

func TestAuth(t *testing.T) {
	const welcome = " 200 |\nREMOTE_USER: reader\n"
	const who = " 401 |\r\nWWW-Authenticate: Basic realm=\"rawsgi\", charset=\"UTF-8\"\r\n"
	s := start(t, auth(showEnviron))
	for credentials, want := range map[string]string{"Basic cmVhZGVyOndzZ2k=": welcome, // reader:wsgi
		"bASIC cmVhZGVyOndzZ2k=": welcome, "Basic cmVhZGVyOndzZ2o=": who, "": who, "Basic": who,
		"Basic cmVhZGVyOndzZ2k": who, "Digest cmVhZGVyOndzZ2k=": who} {
		replies(t, s.addr, get("Authorization: "+credentials), want)
	}
	replies(t, s.addr, get(), who)
}

// TestValidate shows M07: each rule is named, with the side that breaks it.
func TestValidate(t *testing.T) {
	const html, no = "start 200 OK|Content-Type: text/html; ", "start 204 No Content"
	for steps, want := range map[string]string{ // "" where nothing is wrong
		html + "return x": "", html + "yield ; yield x": "", "start 205 Reset Content; none": "",
		no + "; yield ; yield ": "",
		// M05
		html + "write a; yield ; write b": "write() is called before the body is " +
			"iterated",
		no + "; write x":                                   "204 No Content has no body",
		html + html + "return x":                           "a second call needs excInfo",
		"start 200|Content-Type: a/b; return x":            "status and headers are well-formed: expected a status",
		"ok; return x":                                     "200 OK has a Content-Type",
		no + "|Content-Type: a/b; none":                    "204 No Content has no Content-Type",
		"start 205 Reset|Content-Type: a/b; none":          "205 Reset has no Content-Type",
		"start 205 Reset; yield ; yield x":                 "205 Reset has no body",
		"start 304 Not Modified; return x":                 "304 Not Modified has no body",
		"start 200 OK|Content-Type: a/b|X_A: b; return x":  "a header name with _",
		"start 200 OK|Content-Type: a/b|X: a\tb; return x": "status and headers are well-formed: the value of X",
		"return x":       "startResponse is called before",
		"none":           "startResponse is called",
		html + "nothing": "it returns an iterable",
		html + "lie x|y": "Len is the number",
	} {
		_, log := runOn(&wire{}, validate(alone(steps)))
		if want = "application breaks the rule that " + want; strings.HasSuffix(want, "that ") {
			want = "^$"
		}
		holds(t, log, want)
	}
	_, log := runOn(&wire{}, validate(func(environ Environ, startResponse StartResponse) Body {
		line, err := environ["wsgi.input"].(interface{ ReadLine(int) ([]byte, error) }).ReadLine(0)
		same(t, "a line of no body", fmt.Sprint(string(line), err), "EOF")
		return hello(environ, startResponse)
	}))
	holds(t, log, "^$")
	breaks := func(rule string, environ Environ, do func(Body)) { // by a gateway
		defer func() { holds(t, fmt.Sprint(recover()), "the gateway breaks the rule that |"+rule) }()
		do(called(validate(hello), environ))
	}
	all := func(b Body) {
		for range b.All() {
		}
	}
	breaks("a body is iterated once", Environ{}, func(b Body) { all(b); all(b) })
	breaks("Close is called once", Environ{}, func(b Body) { closeBody(b); closeBody(b) })
	breaks("no block is asked for after Close", Environ{}, func(b Body) { closeBody(b); all(b) })
	for _, environ := range []Environ{{"X": 1}, {"REQUEST_METHOD": ""}, {"SERVER_NAME": ""},
		{"SERVER_PORT": "x"}, {"HTTP_CONTENT_TYPE": "a/b"}, {"SCRIPT_NAME": "/"}, {"SCRIPT_NAME": "x"},
		{"PATH_INFO": "x"}, {"wsgi.version": "1.0"}, {"wsgi.url_scheme": ""}, {"wsgi.run_once": nil},
		{"wsgi.errors": nil}, {"CONTENT_LENGTH": "-1"}} {
		for key := range maps.Clone(environ) {
			breaks(key, environ, func(Body) {})
		}
	}
}

// TestValidateEverything runs every row, and every application, with validate around it:
// our gateway and our applications keep the rules.
func TestValidateEverything(t *testing.T) {
	// validate hides Len, as wsgiref's validator does, so the application says how long it is.
	s := start(t, validate(func(environ Environ, startResponse StartResponse) Body {
		r := newResponse(io.Discard, noHead, "GET", io.Discard)
		page := showEnviron(environ, r.startResponse).(Blocks)
		r.inferLength(int64(len(page[0])))
		startResponse(r.status, r.headers)
		return page
	}))
	passes(t, "validate", 200, "server", s.addr, "-jobs", "8")
	s.stop()
	holds(t, s.errors.String(), "!validate:")
	var requests []graded
	for _, request := range []string{post("a=b", "Content-Length: 3"), "HEAD / HTTP/1.0\r\n\r\n",
		getPath("/excinfo"), getPath("/README.md")} {
		requests = append(requests, graded{Send: []byte(request)})
	}
	for _, row := range allRows() {
		if len(row.Send) < 70000 {
			requests = append(requests, row)
		}
	}
	for _, entry := range applications(Config{Root: "docs"}) {
		t.Run(entry.Name, func(t *testing.T) {
			t.Parallel()
			if entry.Name == "clock" {
				entry.App = newClock(2, time.Millisecond)
			}
			s := start(t, validate(entry.App))
			for _, row := range requests { // the answer is the application's own matter
				_, err := askUntil(t, s.addr, string(row.Send), row.How == "then end")
				same(t, fmt.Sprint("an error: ", err), err != nil && row.How != "+", false)
			}
			s.stop()
			holds(t, s.errors.String(), "!validate:")
		})
	}
}

// TestCGIUnderOthers runs the program as a CGI program of a server that is not ours.
func TestCGIUnderOthers(t *testing.T) {
	script := asProgram(t, t.TempDir(), "self", "-app environ")
	s := &http.Server{Handler: &cgi.Handler{Path: script, Root: "/self", Stderr: io.Discard}}
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	go s.Serve(l)
	defer s.Close()
	replies(t, l.Addr().String(), "POST /self/a%20b?q=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"+
		"Content-Length: 3\r\n\r\nabc", "\nPATH_INFO: /a b\n|\nQUERY_STRING: q=1\n|"+
		"\nwsgi.run_once: true\n|"+strings.Join(body("abc"), "\n|"))
}

// debianPython is the one that sees Debian's packages.
const debianPython = "/usr/bin/python3"

// lighttpdConf makes lighttpd a CGI host. TestOtherServers fills in what is in capitals.
const lighttpdConf = `server.document-root = "DIR"
server.bind = "127.0.0.1"
server.port = PORT
server.modules = ("mod_cgi")
cgi.assign = (".cgi" => "")
`

// What the environ application must show of a request to another server, without a proxy and with.
const (
	shown     = "PATH_INFO: /a b\n|QUERY_STRING: q=1\n|CONTENT_TYPE: text/x\n|BODY-LENGTH: 3\n"
	forwarded = shown + "|HTTP_HOST: h\n|HTTP_X_FORWARDED_FOR: 127.0.0.1"
)

// postTo makes that request.
func postTo(target string) string {
	return "POST " + target + " HTTP/1.0\r\nHost: h\r\nContent-Type: text/x\r\n" +
		"Content-Length: 3\r\n\r\nabc"
}

// TestOtherServers has us behind and in front of servers that are not ours, over each interface.
func TestOtherServers(t *testing.T) {
	long(t)
	const here, self = "/a%20b?q=1", "/cgi-bin/self.cgi/a%20b?q=1"
	const version = debianPython + " -V"
	const cgiHost = "exec " + debianPython + " -m http.server --cgi --bind 127.0.0.1 PORT"
	underCGI := "#!" + debianPython + "\nfrom wsgiref.handlers import CGIHandler\n" +
		strings.Replace(string(must(os.ReadFile("docs/environ_app.py"))(t)), "if __name__ ==", "CGIHandler().run(app)\nif not", 1)
	nginxConf := strings.NewReplacer("127.0.0.1:8080", "ADDR", "http://127.0.0.1:8000", "OURS").
		Replace(string(must(os.ReadFile("docs/nginx.conf"))(t)))
	nginx := "exec nginx -p . -c conf -g 'daemon off;'"
	if os.Getuid() == 0 { // its workers could not enter the directory
		nginx = "exec nginx -p . -c conf -g 'daemon off; user root;'"
	}
	shell := func(command string) *exec.Cmd {
		return exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin; "+command)
	}
	for _, c := range []struct{ name, install, needs, conf, command, target, want string }{
		{"lighttpd", "lighttpd", "lighttpd -v", lighttpdConf, "exec lighttpd -D -f conf", self, shown},
		{"http.server", "python3", version, "", cgiHost, self, shown},
		{"http.server, arguments", "python3", version, "", cgiHost, "/cgi-bin/self.cgi?x+-app+hello",
			"400 Bad Request\n"},
		{"nginx", "nginx-light", "nginx -v", nginxConf, nginx, here, forwarded + "\n"},
		{"nginx, Unix socket", "nginx-light", "nginx -v", nginxConf, nginx, here, forwarded + "\n"},
		{"nginx, our proxy", "nginx-light", "nginx -v", nginxConf, nginx, here, forwarded + ", 127."},
		{"wsgiref under our host", "python3", version, underCGI, "", here, shown},
	} {
		t.Run(c.name, func(t *testing.T) {
			if shell(c.needs).Run() != nil {
				skip(t, "needs "+c.install, c.install)
			}
			dir, addr := must(os.MkdirTemp("", "rawsgi-others-"))(t), freeAddr(t)
			defer os.RemoveAll(dir)
			ours := addr
			if strings.HasSuffix(c.name, "socket") {
				ours = "unix:" + startOn(t, "unix:"+dir+"/s", showEnviron).addr
			} else if strings.HasPrefix(c.name, "nginx") {
				ours = start(t, showEnviron).addr
			}
			fill := strings.NewReplacer("ADDR", addr, "PORT", portOf(addr), "DIR", dir,
				"OURS", "http://"+ours).Replace
			noError(t, os.Chmod(dir, 0o755), os.Mkdir(dir+"/cgi-bin", 0o755), // Python's runs them as nobody
				os.WriteFile(dir+"/program", must(os.ReadFile(os.Args[0]))(t), 0o755),
				os.WriteFile(dir+"/conf", []byte(fill(c.conf)), 0o755))
			writeScript(t, dir+"/cgi-bin", "self.cgi",
				"RAWSGI_AS_PROGRAM=1 exec "+dir+`/program -app environ "$@"`)
			if c.command == "" { // a program for our host
				addr = start(t, newCGI(dir+"/conf", 30*time.Second, 0)).addr
			} else {
				command := shell(fill(c.command))
				command.Dir = dir
				background(t, addr, command)
			}
			if strings.HasSuffix(c.name, "our proxy") {
				addr = start(t, newProxy(addr, 10*time.Second)).addr
			}
			replies(t, addr, postTo(c.target), c.want)
		})
	}
}

// TestGrade shows what the checker says of servers that do something wrong.
func TestGrade(t *testing.T) {
	t.Parallel()
	silent := must(net.Listen("tcp", "127.0.0.1:0"))(t) // accepts, and that is all
	t.Cleanup(func() { silent.Close() })
	wrong := start(t, func(e Environ, startResponse StartResponse) Body {
		e["PATH_INFO"] = e.Get("PATH_INFO") + "?" + e.Get("QUERY_STRING")
		return showEnviron(e, startResponse)
	}).addr
	const head = ok200 + "Date: Sat, 21 Nov 2026 11:52:29 GMT\r\nServer: x\r\n" +
		"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
	upstream := func(answer string, after func(net.Conn)) (addr string) {
		addr, _ = fake(t, answer, after)
		return addr
	}
	ours, hi := start(t, showEnviron).addr, upstream(head+"hi", nil)
	endless := func(c net.Conn) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, strings.Repeat("\x00\xff\x1b[31m", 1000))
		}
	}
	mortal := accepts(t, func(l net.Listener, c net.Conn) { // ends at the first byte beyond ASCII
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // or a row without a line is waited for
		line, _ := bufio.NewReader(c).ReadString('\n')            // what came is enough
		if strings.ContainsFunc(line, func(r rune) bool { return r > 127 }) {
			l.Close()
			return
		}
		io.WriteString(c, "HTTP/1.0 400 Bad Request\r\nContent-Length: 2\r\n\r\nhi") // or it has left
	})
	refuses := accepts(t, func(_ net.Listener, c net.Conn) { // hangs up where 400 is due
		server, err := net.Dial("tcp", ours)
		if err != nil {
			return
		}
		defer server.Close()
		go func() { // copies as reader and writer: splice(2) would keep its pipes open
			io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{c})
			server.(*net.TCPConn).CloseWrite()
		}()
		if reply, _ := io.ReadAll(server); bytes.HasPrefix(reply, []byte("HTTP/1.0 200")) {
			c.Write(reply)
		}
	})
	for _, c := range []struct {
		name, addr, rows, want string
		status                 int
	}{
		{"no such row", ours, "R99", `no row of docs/conformance.md is "R99"|!pass`, 2},
		{"a URL", "http://h:8000", "", `expected host:port, not "http://h:8000"|!empty line`, 1},
		{"nobody", freeAddr(t), "", "Nobody listens on |!rows pass", 1},
		{"slow: a silent one", silent.Addr().String(), "", " does not answer GET / HTTP|!rows pass", 1},
		{"one that closes", upstream("", nil), "", " closes the connection without an answer to GET / " +
			"HTTP/1.0.\nThat is chapter 1.|next: give it one (|!rows pass", 1},
		{"one that ends", mortal, "3-4", "NO  chapter 3  R20 a target has no control characters (1 of " +
			"7 rows): the server has ended here: |\nchapter 4    0 of  45 rows pass, 45 not tried  (|" +
			"!NO  chapter 4", 1},
		{"fixed text", hi, "R04", "NO  chapter 3  R04 a method is a token (6 of 6 rows): expected " +
			"HTTP/1.0 400, got HTTP/1.0 200 OK\n|0 of   6 rows pass, 6 fail|!expected the line", 1},
		{"a body for HEAD", hi, "W11",
			"NO  chapter 6  W11 HEAD has the head of GET and no body|expected no body, got hi|!S17", 1},
		{"no Date", upstream(ok200+"\r\nhi", nil), "S17", "expected one Date, got none\n|!chapter 3", 1},
		{"slow: one that stays open", upstream(head+"hi", stay), "R01",
			"NO  chapter 3  R01 a request |the connection stays open: in HTTP/1.0|!not tried", 1},
		{"garbage without end", upstream("", endless), "R01",
			"the answer has no end|chapter 3    0 of   1 rows pass, 1 fail|!\x1b", 1},
		{"one that hangs up on what it refuses", refuses, "3-4",
			" hung up: 400 would say why|chapter 4   |!NO  ", 0},
		{"a query left in PATH_INFO", wrong, "E09", "NO  chapter 7  E09 the query is raw, from the " +
			"first ? on (4 of 4 rows): expected PATH_INFO: /p, got PATH_INFO: /p?|" +
			"fails: E09 the query is raw, from the first ? on: /p?a?b%20c+d\n|" +
			`sent      GET /p?a?b%20c+d HTTP/1.0\r\n\r\n` + "\n|expected  PATH_INFO: /p\n" +
			"       came      PATH_INFO: /p?a?b%20c+d\n" +
			"                              ^ cut at the first ?, and leave the query alone\n" +
			"       rule      PEP environ; 3875 4.1.7; level M; docs/07-environ.md\n|" +
			"chapter 7    0 of   4 rows pass, 4 fail|!PASS", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(c.name, "slow") {
				long(t)
			}
			out, status := check(t, "server", c.addr, c.rows)
			holds(t, out, c.want)
			same(t, "the status", status, c.status)
		})
	}
}

// TestMutants proves the table: each mistake in our source, one that real servers and students have
// made, is found by the row that is about it, and by few others. The hunts are such mistakes.
func TestMutants(t *testing.T) {
	t.Parallel()
	long(t)
	if out, status := check(t, "author", "hunts"); status != 0 || strings.Count(out, "  ok ") < 40 {
		t.Error(out)
	}
}

// TestStoppedEarly: a server that is stopped before it serves answers its backlog all the same.
func TestStoppedEarly(t *testing.T) {
	s, l := newServer(hello), must(listen("127.0.0.1:0"))(t)
	s.Shutdown(time.Second)
	waiting := sendTo(t, l.Addr().String(), get())
	s.Serve(l) // accepts what waits, and returns
	holds(t, readRest(t, waiting), "^"+ok200)
	refuses(t, l.Addr().String())
}

// TestLateAccept: a stop answers a connection that waits, on a machine that is too slow to accept
// it before the first deadline.
func TestLateAccept(t *testing.T) {
	s := newServer(hello)
	var accepts atomic.Int32
	l := fickleListener{must(listen("127.0.0.1:0"))(t).(*net.TCPListener),
		func(l *net.TCPListener) (net.Conn, error) {
			if accepts.Add(1) > 1 {
				return l.Accept()
			}
			for !s.stopping.Load() { // the first sees only its deadline
				time.Sleep(time.Millisecond)
			}
			return nil, os.ErrDeadlineExceeded
		}}
	waiting := sendTo(t, l.Addr().String(), get())
	go s.Serve(l)
	eventually(t, "Accept", func() bool { return accepts.Load() == 1 })
	s.Shutdown(5 * time.Second)
	holds(t, readRest(t, waiting), "^"+ok200)
}

// TestSendCut: send does not hide that the server has hung up before it had all.
func TestSendCut(t *testing.T) {
	addr := accepts(t, func(_ net.Listener, c net.Conn) {
		io.ReadFull(c, make([]byte, 3))
		c.(*net.TCPConn).SetLinger(0) // and so ends with a reset
	})
	var stdout, stderr bytes.Buffer
	args := []string{"send", "-split", "1", "-delay", "20ms", addr, "GET / HTTP/1.0"}
	same(t, "the exit status", command(args, &stdout, &stderr), 1)
	if !regexp.MustCompile("write|read").Match(stderr.Bytes()) {
		t.Errorf("got %q, %q", stdout.String(), stderr.String())
	}
}

// ---------------------------------------------------------------- Docs

// eachPage runs a test for each page of the course and its exercises, in parallel: -run
// DocsLinks/03 chooses chapter 3. With -update, a page is written as test returns it.
func eachPage(t *testing.T, test func(t *testing.T, page, text string) (updated string)) {
	for _, pattern := range []string{"docs/*.md", "README.md", "docs/exercises/README.md",
		"docs/exercises/*/README.md"} {
		for _, page := range must(filepath.Glob(pattern))(t) {
			page = filepath.ToSlash(page)
			t.Run(strings.ReplaceAll(page, "/", "_"), func(t *testing.T) {
				t.Parallel()
				text := string(must(os.ReadFile(page))(t))
				if updated := test(t, page, text); *update && updated != text {
					writeFile(t, page, updated)
					t.Logf("%s is written anew", page)
				}
			})
		}
	}
}

// fenced finds the blocks of a page: the info after the fence, and the content.
var fenced = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

// refilled returns a page with other contents in its blocks. line is that of the fence.
func refilled(text string, fill func(line int, info, content string) string) string {
	var b strings.Builder
	end := 0
	for _, at := range fenced.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(text[end:at[4]])
		line := 1 + strings.Count(text[:at[0]], "\n")
		b.WriteString(fill(line, text[at[2]:at[3]], text[at[4]:at[5]]))
		end = at[5]
	}
	return b.String() + text[end:]
}

// matched returns how many of the lines that came are those of a page, in which a line "..." is
// any lines, or -1. If whole, all have to be.
func matched(want, came string, whole bool) int {
	pattern := "^" + anyLines.ReplaceAllString(regexp.QuoteMeta(want), `(?:.*\n)*?`)
	if whole {
		pattern += "$"
	}
	at := regexp.MustCompile(pattern).FindStringIndex(came)
	if at == nil {
		return -1
	}
	return strings.Count(came[:at[1]], "\n")
}

var anyLines = regexp.MustCompile(`(?m)^\\\.\\\.\\\.\n`)

// difference shows two texts from the first line in which they differ.
func difference(want, came string) string {
	same := 0
	for same < min(len(want), len(came)) && want[same] == came[same] {
		same++
	}
	same = 1 + strings.LastIndex(want[:same], "\n")
	return fmt.Sprintf("expected\n%.600s\ncame\n%.600s", want[same:], came[same:])
}

// TestDocsTranscripts runs the commands of each block marked "console" and compares what
// they print with the page; -update writes it anew. "console 2" is a second terminal, and
// "console unreplayed" is left alone.
//
//	$ command         bash runs it, in the repository's root
//	output            of that command, or, at the beginning of a block, of the program that
//	                  still runs in this terminal
//	...               any lines
//	^C                SIGINT for the program that runs; what it has printed before may be left out
//
// A command that is followed by ^C or by more output in its terminal, and one that says
// "Serving HTTP", runs on. Any other has to end, and to print nothing else.
func TestDocsTranscripts(t *testing.T) {
	t.Parallel()
	longer(t)
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil || runtime.GOOS == "windows" {
			skip(t, "transcripts need "+tool, tool)
		}
	}
	_, noPython := exec.LookPath("python3")
	eachPage(t, func(t *testing.T, page, text string) string {
		if noPython != nil && strings.Contains(text, "$ python3 ") {
			skip(t, "this page needs python3", "python3")
		}
		return replayed(t, text, *update)
	})
}

// A turn is a command of a page, "^C\n", or "" where the page goes on with a program's output.
type turn struct {
	line                    int // its block's
	terminal, command, want string
	runsOn                  bool
}

var typed = regexp.MustCompile(`(?m)^(?:\$ (?:.*\\\n)*.*\n|\^C\n)`)

// turnsOf cuts the blocks marked "console" into turns.
func turnsOf(text string) (turns []turn) {
	last := map[string]int{} // the terminal's last turn
	refilled(text, func(line int, info, content string) string {
		terminal, ok := strings.CutPrefix(info, "console")
		if !ok || terminal == " unreplayed" {
			return content
		}
		commands := append([]string{""}, typed.FindAllString(content, -1)...)
		for i, output := range typed.Split(content, -1) {
			turn := turn{line, terminal, commands[i], output, commands[i] == ""}
			if turn.command+output == "" {
				continue // the block begins with a command
			}
			if before, ok := last[terminal]; ok && !strings.HasPrefix(turn.command, "$") {
				turns[before].runsOn = true
			}
			turn.runsOn = turn.runsOn || strings.Contains(output, "Serving HTTP")
			last[terminal] = len(turns)
			turns = append(turns, turn)
		}
		return content
	})
	return turns
}

// replayed runs the commands of a page and returns the page as it should be.
func replayed(t *testing.T, text string, updating bool) string {
	r := &replay{t, updating, t.TempDir(), map[string]string{}}
	for _, port := range []string{"8000", "8001", "8002", "8080", "9000"} {
		r.here[port] = portOf(freeAddr(t))
	}
	terminals, fresh := map[string]*terminal{}, map[int]string{}
	for _, turn := range turnsOf(text) {
		if t.Failed() && !updating {
			break // what follows would fail for the same reason
		}
		x := terminals[turn.terminal]
		if x == nil {
			x = &terminal{replay: r, ended: inBackground(func() {})}
			terminals[turn.terminal] = x
			defer x.stop()
		}
		fresh[turn.line] += turn.command + x.do(turn)
	}
	return refilled(text, func(line int, info, content string) string {
		return cmp.Or(fresh[line], content)
	})
}

// A replay is one page whose commands are run.
type replay struct {
	*testing.T
	updating bool              // wrong output is replaced, not reported
	dir      string            // takes the place of /tmp, and of mine
	here     map[string]string // ports and numbers of processes: on the page → on this machine
}

// fromPage makes a command of the page one for this machine, and onPage is the opposite.
func (r *replay) fromPage(text string) string {
	text = regexp.MustCompile(`(^|[\s=:'"])/tmp/`).ReplaceAllString(text, "${1}"+r.dir+"/")
	text = regexp.MustCompile(`(^|[\s='"])mine\b`).ReplaceAllString(text, "${1}"+r.dir+"/mine")
	return regexp.MustCompile(`\b\d{4,}\b`).ReplaceAllStringFunc(text, func(number string) string {
		return cmp.Or(r.here[number], number)
	})
}

func (r *replay) onPage(text string) string {
	text = strings.NewReplacer("\r\n", "\n", r.dir+"/mine", "mine", r.dir+"/", "/tmp/").Replace(text)
	for onPage, here := range r.here {
		text = regexp.MustCompile(`\b`+here+`\b`).ReplaceAllString(text, onPage)
	}
	return text
}

// normal are the rules that make two runs of a command comparable: a pattern, and what takes its
// place.
var normal = [][2]string{
	{`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d`, "DATE"},
	{`\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d`, "TIME"},
	{` *\d+(\.\d+)?( ?[nµm]?s|m\d+(\.\d+)?s)\b`, " DURATION"},
	{`(?m)^\d\d:\d\d:\d\d$`, "TIME"},        // the clock's page
	{`(/environ[^"]*" 200) \d+`, "$1 SIZE"}, // in the access log
	{`((127\.0\.0\.1|\[::1\]):|REMOTE_PORT: )\d{5}\b`, "${1}PORT"},
	{`\b(curl|[Pp]ython|nginx|go)([/ ]?)\d+(\.\d+)+`, "$1${2}VERSION"},
	{processes.String(), "${1}PID"}, {`(?m) +$`, ""},
}

// processes finds the numbers of processes.
var processes = regexp.MustCompile(`(\[|(?i:\b(?:pid|worker|workers|process)[ :=]+))(\d+)\b`)

// normalised applies the rules to a text.
func normalised(text string) string {
	for _, rule := range normal {
		text = regexp.MustCompile(rule[0]).ReplaceAllString(text, rule[1])
	}
	if strings.Contains(text, "curl/") { // an answer with a version of curl has no fixed length
		text = regexp.MustCompile(`Content-Length: \d+`).ReplaceAllString(text, "Content-Length: N")
	}
	return text
}

// A terminal runs a command of the page, or has run one.
type terminal struct {
	*replay
	shell  *exec.Cmd
	ended  <-chan bool  // closed when the command has ended
	screen lockedBuffer // all that has been printed
	shown  int          // the bytes of it that the page has shown
	text   string       // the others
	skips  bool         // the page shows the rest of the output as "..."
}

// asOnPage comes before each command. curl would show a progress meter and hold its output
// back, because it does not write to a terminal. "go run" runs this test's own program or has
// other ports, and reports how it ended.
const asOnPage = `
curl() { command curl --no-progress-meter -N "$@"; }
go() {
	local built=$DIR/$RANDOM$RANDOM
	case "$1 $2" in
	"run .") RAWSGI_AS_PROGRAM=1 ours "$RAWSGI" "${@:3}" ;;
	"run -overlay") command go build -ldflags=-w -overlay "$3" -o $built . && ours $built "${@:5}" ;;
	"run "*) sed "$PORTS" "$2" > $built.go && command go build -o $built $built.go &&
		report $built "${@:3}" ;;
	*) command go "$@" ;;
	esac
}
ours() {
	case "$* " in
	*" send "*|*" call "*|*" -addr "*|*" -cgi "*|*" -list "*|*" -h "*|*" -help "*) report "$@" ;;
	*) report "$1" -addr 127.0.0.1:$PORT "${@:2}" ;;
	esac
}
report() {
	"$@"; local status=$?
	case $status in
	0) ;;
	130) echo "signal: interrupt" >&2 ;;
	137) echo "signal: killed" >&2 ;;
	143) echo "signal: terminated" >&2 ;;
	*) echo "exit status $status" >&2 ;;
	esac
	return $((status > 0))
}
trap : INT
`

// run starts a command. Its standard input stays silent, as a terminal's does.
func (x *terminal) run(command string) {
	mapped := ""
	for onPage, here := range x.here {
		mapped += "s/127\\.0\\.0\\.1:" + onPage + "/127.0.0.1:" + here + "/g;"
	}
	x.shell = exec.Command("bash", "--norc", "--noprofile", "-c", asOnPage+x.fromPage(command))
	must(x.shell.StdinPipe())(x) // nobody writes to it
	x.shell.Stdout, x.shell.Stderr, x.shell.SysProcAttr = &x.screen, &x.screen, ownGroup()
	x.shell.WaitDelay = 5 * time.Second // for a program that has left the group
	x.shell.Env = append(os.Environ(), "RAWSGI="+os.Args[0], "DIR="+x.dir, "PORT="+x.here["8000"],
		"PORTS="+mapped, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8",
		"http_proxy=", "GORACE=atexit_sleep_ms=0")
	noError(x, x.shell.Start())
	x.ended = inBackground(func() { x.shell.Wait() }) // how it ends is on the screen
}

// stop ends the command.
func (x *terminal) stop() {
	if _, over := x.printed(); !over {
		tell(-x.shell.Process.Pid, syscall.SIGTERM)
		defer time.AfterFunc(5*time.Second, func() { tell(-x.shell.Process.Pid, os.Kill) }).Stop()
		<-x.ended
	}
}

// do gives the terminal a command, ^C, or nothing, and returns the output that the page
// should show: the turn's, if that is right.
func (x *terminal) do(turn turn) string {
	x.Helper()
	want := turn.want
	if turn.command == "^C\n" || turn.command == "" && x.skips {
		want = "...\n" + want // a log need not be shown before it ends
	}
	switch turn.command {
	case "": // its program goes on
	case "^C\n":
		if x.updating {
			x.until(time.Second, func(string, bool) bool { return false })
			x.shown = len(x.screen.String()) // is not what comes after it
		}
		tell(-x.shell.Process.Pid, os.Interrupt)
	default:
		if !x.until(30*time.Second, func(_ string, ended bool) bool { return ended }) {
			x.Fatalf("line %d: a program still runs here: end it with ^C, or use another terminal",
				turn.line)
		}
		x.shown = len(x.screen.String())
		x.run(turn.command[len("$ "):])
	}
	x.skips = strings.HasSuffix("\n"+want, "\n...\n")
	patience := 30 * time.Second
	if x.updating && turn.runsOn {
		patience = 3 * time.Second
	}
	used, came, ended := -1, "", false
	x.until(patience, func(text string, over bool) bool {
		came, ended = text, over
		used = matched(normalised(want), normalised(came), ended)
		return ended || used >= 0 && turn.runsOn
	})
	here := processes.FindAllStringSubmatch(came, -1)
	for i, onPage := range processes.FindAllStringSubmatch(want, -1) { // the processes of the page
		number := onPage[2]
		if i < len(here) && len(number) >= 4 && x.here[number] == "" { // else it is a date's day
			x.here[number] = here[i][2]
		}
	}
	if right := used >= 0 && (ended || turn.runsOn); right {
		came = turn.want
	} else {
		used = strings.Count(came, "\n")
		if !x.updating {
			x.Errorf("line %d: %s%s\n-update writes the page anew", turn.line, turn.command,
				difference(normalised(turn.want), normalised(came)))
		}
	}
	for line := range strings.Lines(x.text) {
		if used--; used >= 0 || ended {
			x.shown += len(line)
		}
	}
	return came
}

// until looks at what the terminal prints, until done says so or for so long without a word, and
// reports whether done did.
func (x *terminal) until(silence time.Duration, done func(came string, ended bool) bool) bool {
	before := ""
	for end := time.Now().Add(silence); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		came, ended := x.printed()
		if state := fmt.Sprint(ended, came); state != before { // done takes its time
			if done(came, ended) {
				return true
			}
			end, before = time.Now().Add(silence), state
		}
	}
	return false
}

// printed returns the whole lines that have come, the last one, too, if the command has ended.
func (x *terminal) printed() (came string, ended bool) {
	select {
	case <-x.ended:
		ended = true
	default:
	}
	x.text = x.screen.String()[x.shown:]
	came = x.text
	if line := came[strings.LastIndex(came, "\n")+1:]; line != "" && ended {
		came += "\n"
	} else {
		came = strings.TrimSuffix(came, line)
	}
	return x.onPage(came), ended
}

// A declaration is a name of a Go file's top level. A package that it imports is one, too.
type declaration struct {
	name    string // "readRequest", "headReader.line", "maxLine", `"net"`
	text    string // with its comment; runs of spaces are one, because gofmt aligns groups
	excerpt string // as a page shows it: for one of a group, the group
}

// parsed has the declarations of the Go files that pages show and name.
var parsed = sync.OnceValue(func() map[string][]declaration {
	files := map[string][]declaration{}
	for _, pattern := range []string{"*.go", "docs/*.go", "docs/steps/*.go"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			panic(err)
		}
		for _, path := range paths {
			files[filepath.ToSlash(path)] = declarationsOf(path)
		}
	}
	return files
})

func declarationsOf(path string) (list []declaration) {
	source, err := os.ReadFile(path)
	files := token.NewFileSet()
	file, err2 := parser.ParseFile(files, path, source, parser.ParseComments)
	if err := errors.Join(err, err2); err != nil {
		panic(err)
	}
	// lines returns a declaration from its comment, if any, to the end of its last line.
	lines := func(doc *ast.CommentGroup, node ast.Node) string {
		from, to := files.Position(node.Pos()).Offset, files.Position(node.End()).Offset
		if doc != nil {
			from = files.Position(doc.Pos()).Offset
		}
		rest, _, _ := bytes.Cut(source[to:], []byte("\n"))
		return string(source[from:to]) + string(rest) + "\n"
	}
	add := func(name, text, excerpt string) {
		text = regexp.MustCompile(`[ \t]+`).ReplaceAllString(text, " ")
		list = append(list, declaration{name, text, excerpt})
	}
	method := regexp.MustCompile(`^func \((?:\w+ )?\*?(\w+)\) `)
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if receiver := method.FindStringSubmatch(lines(nil, d)); receiver != nil {
				name = receiver[1] + "." + name
			}
			add(name, lines(d.Doc, d), lines(d.Doc, d))
		case *ast.GenDecl:
			excerpt, alone := lines(d.Doc, d), d.Doc
			if d.Lparen.IsValid() { // it is that of a group
				alone = nil
			}
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.ImportSpec:
					add(spec.Path.Value, "", "")
				case *ast.TypeSpec:
					add(spec.Name.Name, lines(cmp.Or(spec.Doc, alone), spec), excerpt)
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						add(name.Name, lines(cmp.Or(spec.Doc, alone), spec), excerpt)
					}
				}
			}
		}
	}
	return list
}

// declared returns the declarations of a name in a file: "Write" is every method of that
// name, "Response.Write" one, "" all that there are.
func declared(path, name string) (found []declaration) {
	for _, d := range parsed()[path] {
		if name == "" || d.name == name || strings.HasSuffix(d.name, "."+name) {
			found = append(found, d)
		}
	}
	return found
}

// placed finds a fence that shows a declaration, "go request.go#readHeader", or a file.
var placed = regexp.MustCompile(`^go (\S+\.go)(?:#([\w.]+))?$`)

// TestDocsExcerpts compares the code on the pages with the source; -update refills it. A
// line "// …" stands for lines that are left out; such an excerpt is mended by hand.
func TestDocsExcerpts(t *testing.T) {
	leftOut := regexp.MustCompile(`(?m)^[ \t]*// …$`)
	eachPage(t, func(t *testing.T, page, text string) string {
		return refilled(text, func(line int, info, content string) string {
			place := placed.FindStringSubmatch(info)
			if place == nil {
				if _, err := format.Source([]byte(content)); info == "go" && err != nil {
					t.Errorf("line %d: this is not Go: %v", line, err)
				}
				return content
			}
			found := declared(place[1], place[2])
			var source string
			if place[2] == "" {
				source = string(must(os.ReadFile(place[1]))(t))
			} else if len(found) == 1 {
				source = found[0].excerpt
			} else {
				t.Errorf("line %d: %s: there are %d, named %q; Type.method is one of several",
					line, info, len(found), found)
				return content
			}
			shown := leftOut.ReplaceAllString(content, "...")
			if shown != content && !strings.HasPrefix(shown, "//") {
				shown = "...\n" + shown // its comment is left out, too
			}
			switch {
			case matched(shown, source, true) >= 0:
				return content
			case shown == content && *update:
				return source
			}
			t.Errorf("line %d: %s is otherwise: %s", line, info, difference(shown, source))
			return content
		})
	})
}

// TestDocsChapters holds each chapter to 1,500 words, and its paragraphs that begin with
// "Import:", "New:", "Changed:" and "Removed:" to its steps: -update writes these anew. What is
// new or changed has to be shown.
func TestDocsChapters(t *testing.T) {
	paragraph := regexp.MustCompile("(?m)^(Import|New|Changed|Removed):( `.*\n| *$\n?)(`.*\n)*")
	wrap := regexp.MustCompile(`(.{1,90})(?: |$)`)
	eachPage(t, func(t *testing.T, page, text string) string {
		number := regexp.MustCompile(`^docs/(\d\d)-`).FindStringSubmatch(page)
		if number == nil {
			return text
		}
		if n := len(strings.Fields(fenced.ReplaceAllString(text, ""))); n > 1500 {
			t.Errorf("%d words outside fences, expected at most 1,500", n)
		}
		shown := map[string]bool{}
		for _, block := range fenced.FindAllStringSubmatch(text, -1) {
			if place := placed.FindStringSubmatch(block[1]); place != nil {
				for _, d := range declared(place[1], place[2]) {
					shown[place[1]+d.excerpt] = true
				}
			}
		}
		var want []string
		before := map[string]string{} // the texts of the declarations
		for _, s := range steps {
			ours := strings.HasPrefix(s.name, number[1])
			here, lists := map[string]string{}, map[string][]string{}
			for _, d := range declared(s.path(), "") {
				here[d.name] = d.text
				old, known := before[d.name]
				title := "Changed:"
				switch {
				case known && old == d.text:
					continue
				case d.name[0] == '"':
					title = "Import:"
				case !known:
					title = "New:"
				}
				lists[title] = append(lists[title], "`"+d.name+"`")
				if ours && title != "Import:" && !shown[s.path()+d.excerpt] {
					t.Errorf("%s#%s is not shown", s.path(), d.name)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(before)) {
				if _, still := here[name]; !still {
					lists["Removed:"] = append(lists["Removed:"], "`"+name+"`")
				}
			}
			for _, title := range []string{"Import:", "New:", "Changed:", "Removed:"} {
				names := strings.Join(lists[title], ", ")
				first := title == "Import:" && len(before) == 0 // which is shown whole
				if ours && names != "" && !first {
					want = append(want, wrap.ReplaceAllString(title+" "+names, "$1\n"))
				}
			}
			before = here
		}
		n := 0
		updated := paragraph.ReplaceAllStringFunc(text, func(old string) string {
			n++
			return append(want, old)[min(n-1, len(want))]
		})
		if n != len(want) || updated != text && !*update {
			t.Errorf("there are %d paragraphs, expected\n%s", n, strings.Join(want, ""))
		}
		return updated
	})
}

// TestDocsNames looks in the program for the names in the lists with which the chapters end:
// each item of one word, and each word likeThis.
func TestDocsNames(t *testing.T) {
	names := map[string]bool{}
	field := regexp.MustCompile(`(?m)^ (\w+) `)
	for _, file := range []string{"main.go", "server.go", "request.go", "response.go", "app.go"} {
		for _, d := range declared(file, "") {
			names[d.name[strings.LastIndex(d.name, ".")+1:]] = true
			if strings.Contains(d.text, d.name+" struct {") {
				for _, line := range field.FindAllStringSubmatch(d.text, -1) {
					names[line[1]] = true
				}
			}
		}
	}
	list := regexp.MustCompile("(?s)Where the rest[^:]*:\n\n```text\n(.*?)```|" +
		"New in the full program: (.*?)\n\n")
	name := regexp.MustCompile(`^(?:\w+\.)?(\w+)$|\b([a-z]+[A-Z]\w*)`)
	inProse := regexp.MustCompile("`([a-z]+[A-Z]\\w*)`")
	sources := "" // those and others that pages name
	for _, file := range slices.Concat(must(filepath.Glob("docs/*.[gh]*"))(t),
		must(filepath.Glob("docs/steps/*"))(t), must(filepath.Glob("docs/exercises/*/*.*"))(t),
		must(filepath.Glob("*.go"))(t)) {
		if filepath.Ext(file) != ".md" && file != "server_test.go" {
			sources += string(must(os.ReadFile(file))(t))
		}
	}
	lists := map[string]int{} // pages with lists, and how many names those have
	for _, page := range must(filepath.Glob("docs/*.md"))(t) {
		text := string(must(os.ReadFile(page))(t))
		for _, found := range inProse.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(sources, found[1]) && !strings.Contains(text, found[1]+"(") {
				t.Errorf("%s: no source has %s", page, found[0])
			}
		}
		for _, found := range list.FindAllStringSubmatch(text, -1) {
			items := regexp.MustCompile(`(?m)^(?:\S.*?)? {2,}`).ReplaceAllString(found[1], ",") + found[2]
			for _, item := range regexp.MustCompile("[,;:`\n ]*[,;:`\n] *").Split(items, -1) {
				for _, word := range name.FindAllStringSubmatch(item, -1) {
					lists[page]++
					same(t, page+": "+word[1]+word[2], names[word[1]+word[2]], true)
				}
			}
		}
	}
	same(t, "pages with such lists", len(lists), 6)
}

// TestDocsLinks follows the links of each page to files, to headings and into the lab, and looks
// for the declarations and tests that it names.
func TestDocsLinks(t *testing.T) {
	each := func(pattern, text string, check func(parts []string)) {
		for _, parts := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			check(parts)
		}
	}
	eachPage(t, func(t *testing.T, page, text string) string {
		each(`\]\(([^):#\s]*)#?([^):\s]*)\)`, fenced.ReplaceAllString(text, ""), func(link []string) {
			path := filepath.Join(filepath.Dir(page), link[1])
			if link[1] == "" {
				path = page
			}
			_, err := os.Stat(path)
			content, _ := os.ReadFile(path) // of a directory nothing
			if err != nil || link[2] != "" && !slices.Contains(anchors(string(content)), link[2]) {
				t.Errorf("there is no %s", link[0])
			}
		})
		each("`([\\w/-]+\\.go)#([\\w.]+)`", text, func(place []string) {
			if declared(place[1], place[2]) == nil {
				t.Errorf("there is no %s", place[0])
			}
		})
		each(`http://127\.0\.0\.1:8000/lab#([^\s)>\x60]*)`, text, func(link []string) {
			if _, err := url.ParseQuery(link[1]); err != nil {
				t.Errorf("%s: %v", link[0], err)
			}
		})
		each("(?:`|-run )((?:Test|Fuzz)[A-Z]\\w+)", text, func(test []string) {
			if declared("server_test.go", test[1]) == nil {
				t.Errorf("there is no %s", test[1])
			}
		})
		return text
	})
}

// anchors returns those that GitHub gives the headings of a page, and its own, as in a row of the
// glossary.
func anchors(text string) (list []string) {
	text = fenced.ReplaceAllString(text, "")
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		heading := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).
			ReplaceAllString(strings.ToLower(heading[1]), "")
		list = append(list, strings.ReplaceAll(heading, " ", "-"))
	}
	for _, own := range regexp.MustCompile(`<a id="(.*?)"></a>`).FindAllStringSubmatch(text, -1) {
		list = append(list, own[1])
	}
	return list
}

// TestDocsApplication calls the application that the map adds, in a copy of app.go.
func TestDocsApplication(t *testing.T) {
	t.Parallel()
	longer(t)
	_, text, _ := strings.Cut(string(must(os.ReadFile("docs/00-map.md"))(t)),
		"\n## Write your own application\n")
	blocks := fenced.FindAllStringSubmatch(text, 2)
	function, row := blocks[0][2], blocks[1][2]
	const list = "entries := []entry{\n"
	source := strings.Replace(string(must(os.ReadFile("app.go"))(t)), list, list+row, 1)
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "app.go"), filepath.Join(dir, "overlay.json")
	writeFile(t, changed, source+"\n"+function)
	writeFile(t, overlay, fmt.Sprintf(`{"Replace": {"app.go": %q}}`, changed))
	out, err := exec.Command("go", "run", "-overlay", overlay, ".", "call", "-app", "gallery",
		"/greet/Ada").CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "\n\nHello, Ada!\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDocsRules: the names of rows differ, and the exceptions on docs/conformance.md are rows.
func TestDocsRules(t *testing.T) {
	names := map[string]bool{"row": true} // the head of the table of exceptions
	for _, row := range allRows() {
		same(t, "another row is called "+row.Name, names[row.Name], false)
		names[row.Name] = true
	}
	for exception := range exceptions() {
		_, name, _ := strings.Cut(exception, " ")
		same(t, "there is a row for the exception "+exception, names[name], true)
	}
}

// The servers that docs/servers.md compares.
var servers = []struct {
	name, install    string
	version, command string // version prints it; command runs in docs, on ADDR or PORT
	clients          int    // how many rows at once
}{
	{"rawsgi", "", "echo " + software, "started by the test", 8},
	{"net/http", "", "echo " + runtime.Version(), "started by the test", 8},
	{"wsgiref", "python3", debianPython + " --version", debianPython + " environ_app.py PORT", 1},
	{"gunicorn", "gunicorn", "gunicorn --version", "gunicorn --threads 8 -b ADDR environ_app:app", 8},
	{"waitress", "python3-waitress", debianPython +
		` -c "import importlib.metadata as m; print('waitress', m.version('waitress'))"`,
		"waitress-serve --listen ADDR environ_app:app", 8},
	{"uWSGI", "uwsgi-core uwsgi-plugin-python3", "uwsgi --version", "uwsgi --http-socket ADDR " +
		"--plugin python3 --wsgi-file environ_app.py --callable app --threads 8", 8},
}

// TestServers puts our proxy before each server, holds docs/servers.md to what the servers do by
// themselves, and writes its tables anew with -update. The page is about the versions that it names:
// with others, it has to be written anew.
func TestServers(t *testing.T) {
	if !*update {
		t.Parallel()
		long(t)
	}
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	go netHTTP(environHandler)(l)
	addrs := map[string]string{"rawsgi": start(t, showEnviron).addr, "net/http": l.Addr().String()}
	versions := "| server | version | command, in docs |\n|---|---|---|\n"
	for _, server := range servers {
		version, err := exec.Command("sh", "-c", server.version).CombinedOutput()
		if err != nil {
			skip(t, "needs "+server.name, strings.Fields(server.install)...)
		}
		command := func(addr string) string {
			return strings.NewReplacer("ADDR", addr, "PORT", portOf(addr)).Replace(server.command)
		}
		versions += fmt.Sprintf("| %s | %s | `%s` |\n", server.name, bytes.TrimSpace(version),
			command("127.0.0.1:9000"))
		if addrs[server.name] == "" {
			addr := freeAddr(t)
			args := strings.Fields(command(addr))
			program := exec.Command(args[0], args[1:]...)
			program.Dir, program.Env = "docs", append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
			background(t, addr, program)
			addrs[server.name] = addr
		}
		proxy := start(t, newProxy(addrs[server.name], 10*time.Second))
		replies(t, proxy.addr, postTo("/a%20b?q=1"), forwarded)
		proxy.stop()
	}
	page := string(must(os.ReadFile("docs/servers.md"))(t))
	if !*update && !strings.Contains(page, versions) {
		skip(t, "docs/servers.md is about other versions (go test -run Servers -update)")
	}
	outcomes := make([][]graded, len(servers))
	var next atomic.Int64
	together(len(servers), func() {
		i := next.Add(1) - 1
		outcomes[i] = grade(t, "server", addrs[servers[i].name], "-jobs", strconv.Itoa(servers[i].clients))
	})
	chapter := func(row graded) string { return strconv.Itoa(row.Chapter) }
	tables := versions + table("chapter", outcomes, chapter) + table("rule", outcomes, graded.rule)
	marks := regexp.MustCompile(`(?s)(<!-- tables -->\n)(.*)(<!-- end of tables -->\n)`)
	switch old := marks.FindStringSubmatch(page); {
	case old == nil:
		t.Fatal("docs/servers.md has lost the marks of its tables")
	case *update:
		writeFile(t, "docs/servers.md", strings.Replace(page, old[0], old[1]+tables+old[3], 1))
	case old[2] != tables:
		t.Errorf("docs/servers.md says otherwise; go test -run Servers -update writes\n%s", tables)
	}
}

// environHandler is the environ application for net/http: what it says is what a gateway
// can make of a request that net/http has read.
func environHandler(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q := &Request{Method: r.Method, Path: cmp.Or(r.URL.Path, "/"), Query: r.URL.RawQuery,
		Version: r.Proto, Authority: r.Host}
	for name, values := range r.Header {
		for _, value := range values {
			q.Header = append(q.Header, Header{name, value})
		}
	}
	client, _ := net.ResolveTCPAddr("tcp", r.RemoteAddr) // it is one
	e := newEnviron(q, r.Context().Value(http.LocalAddrContextKey).(net.Addr), client)
	e["wsgi.input"] = bytes.NewReader(content)
	_, fields, page := callApplication(showEnviron, e)
	for _, field := range append(fields, Header{"Server", "net/http"}) {
		w.Header().Set(field.Name, field.Value)
	}
	w.Write(page) // fails if the client has left
}

// table counts the outcomes of the rows that have a key in common: a line for each chapter, or
// for each rule about which somebody differs.
func table(title string, outcomes [][]graded, key func(graded) string) string {
	text, done := "\n| "+title+" |", map[string]bool{}
	for _, server := range servers {
		text += " " + server.name + " |"
	}
	text += "\n|---|" + strings.Repeat("---|", len(servers)) + "\n"
	for _, first := range outcomes[0] {
		line, differs := "| "+key(first)+" |", title == "chapter"
		for _, rows := range outcomes {
			n := map[string]int{}
			for _, row := range rows {
				// Where a server resets, it is a race whether this answer arrives.
				if key(row) == key(first) && !strings.HasPrefix(row.Name, "B10 too large, and sent") {
					n[row.Outcome]++
				}
			}
			line += fmt.Sprint(" ", n["passes"])
			for _, sign := range [][2]string{{"differs", " ~%d"}, {"hung up", " ⌿%d"},
				{"fails", " **✗%d**"}} {
				if n := n[sign[0]]; n > 0 {
					line += fmt.Sprintf(sign[1], n)
					differs = true
				}
			}
			line += " |"
		}
		if differs && !done[key(first)] {
			text += line + "\n"
		}
		done[key(first)] = true
	}
	return text
}

// ---------------------------------------------------------------- Steps

// A step is a program of the course in docs/steps. It passes the rows that match one pattern
// and fails one that matches the other; both are matched with "ch03/R01".
type step struct {
	name, passes, fails string
}

var steps = []step{
	{"01-connection", "^$", "ch03"},
	{"02-response", "^$", "ch03"},
	{"03a-lines", "ch03/R1[5679]", "ch03"},
	{"03b-target", "ch03", "ch04"},
	{"03c-decode", "ch03", "ch04"},
	{"04a-fields", "ch03|ch04/H(0|1[0-2]|19|2[0-2])", "ch04"},
	{"04b-repeats", "ch0[34]", "ch05"},
	{"05-body", "ch0[3-5]", "ch06"},
	{"06a-response", "ch0[3-5]|ch06/[RSTW]", "ch07"}, // Linux keeps the answers that B10 is about
	{"06b-ending", "ch0[3-6]", "ch07"},
	{"07a-environ", "ch0[3-6]|ch07/E", "ch07"},
	{"07b-host", "ch0[3-7]", ""},
	{"08a-call", "ch0[3-7]", ""},
	{"08b-blocks", "ch0[3-7]", ""},
	{"08c-write", "ch0[3-7]", ""},
	{"08d-rules", "ch0[3-7]", ""},
}

func (s step) path() string { return "docs/steps/" + s.name + ".go" }

// TestSteps holds each step to what its chapter says: it compiles, runs, passes its rows, fails
// one of the next chapter's, and does what no row shows.
func TestSteps(t *testing.T) {
	t.Parallel()
	longer(t)
	building := make(chan bool, 2) // the go command is busy itself
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			building <- true
			path := s.build(t)
			<-building
			_, addr, _ := startCommand(t, exec.Command(path))
			s.grade(t, addr)
			s.answers(t, addr)
		})
	}
}

// build compiles and vets the step, with a port that is free.
func (s step) build(t *testing.T) (path string) {
	if _, err := exec.LookPath("go"); err != nil {
		skip(t, "needs go", "golang-go")
	}
	const addr = `"127.0.0.1:8000"`
	source := string(must(os.ReadFile(s.path()))(t))
	same(t, addr, strings.Count(source, addr), 1)
	path = filepath.Join(t.TempDir(), s.name+".exe")
	writeFile(t, path+".go", strings.Replace(source, addr, `"127.0.0.1:0"`, 1))
	for _, args := range [][]string{{"vet", s.path()},
		{"build", "-trimpath", "-ldflags", "-s -w", "-o", path, path + ".go"}} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return path
}

// grade sends the table's rows to a step: it has to pass those of its chapters, and to fail one
// of others. What it need not show yet is unseen.
func (s step) grade(t *testing.T, addr string) {
	args := []string{"server", addr}
	if s.name >= "06" { // the head is whole from here on
		args = append(args, "-strict")
	}
	failed := s.fails == ""
	for _, row := range grade(t, args...) {
		place := fmt.Sprintf("ch%02d/%s", row.Chapter, row.Name[:3])
		right := row.Outcome == "passes" || row.Outcome == "unseen"
		switch {
		case s.name < "06b" && strings.Contains(row.Fault, "reset"):
			// the answer was lost, as step 6b explains
		case !regexp.MustCompile(s.passes).MatchString(place):
			failed = failed || !right && regexp.MustCompile(s.fails).MatchString(place)
		case !right:
			t.Errorf("%s: %s %s", row.Name, row.Outcome, row.Fault)
		}
	}
	same(t, "it fails a row of "+s.fails, failed, true)
}

// answers shows what the rows do not: patience, and how an answer ends. Each is for the steps from
// the one that is named.
func (s step) answers(t *testing.T, addr string) {
	expects := "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, a := range []struct{ from, sent, answer string }{
		{"03a", "GET / HTTP/1.0\r\n", `^HTTP/1\.0 408 .*waited 2s`},
		{"04b", "GET / HTTP/1.1\r\n\r\n", `^HTTP/1\.0 400 .*RFC 9112 §3\.2`},
		{"04b", "GET / HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 `},
		{"05", post("abc", "Content-Length: 9"), `^HTTP/1\.0 408 .*9 body bytes, got 3`},
		{"05", expects + "Expect:\r\nExpect: a, 100-Continue\r\nContent-Length: 9\r\n\r\nabc",
			`^HTTP/1\.1 100 Continue\r\n\r\nHTTP/1\.0 408 `},
		{"05", expects + "Expect: 100-continued\r\nContent-Length: 3\r\n\r\nabc", `^HTTP/1\.0 200 `},
		{"06b", post(strings.Repeat("x", 3<<20), "Content-Length: 3145728", "A : b"), `^HTTP/1\.0 400 `},
		{"08a", getPath("/hello"), `^HTTP/1\.0 200 OK\r\n.*Content-Length: 14\r\n\r\nHello, World!\n$`},
		{"08b", "HEAD /hello HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 OK\r\n.*Content-Length: 14\r\n\r\n$`},
		{"08b", getPath("/errors/after"), `^HTTP/1\.0 200 .*\r\n\r\nThis page will never be comp`},
		{"08c", "HEAD /write HTTP/1.0\r\n\r\n", `charset=utf-8\r\n\r\n$`},
	} {
		if s.name < a.from {
			continue
		}
		reply, err := askUntil(t, addr, a.sent)
		if err != nil {
			reply += err.Error()
		}
		if !regexp.MustCompile("(?s)" + a.answer).MatchString(reply) {
			t.Errorf("%.60q: expected %s, got %.300q", a.sent, a.answer, reply)
		}
	}
	if s.name >= "08b" { // the clock's first block comes long before its last
		c := sendTo(t, addr, getPath("/clock"))
		c.SetReadDeadline(time.Now().Add(5 * time.Second)) // the last comes after nine
		takes(t, c, "until \r\n\r\n")
		same(t, "bytes of a block", must(c.Read(make([]byte, 100)))(t), len("12:00:00\n"))
		c.Close() // the step sees that its client has left, and answers the next
	}
	if s.name >= "08d" { // and while one client is silent, the next waits, as chapter 9 shows
		passes(t, "", 9, "gateway", addr)
		first := dial(t, addr)
		replies(t, addr, get(), "^"+ok200)
		first.SetReadDeadline(time.Now().Add(time.Second)) // a server of both keeps it longer
		same(t, "what the first client gets after that", readRest(t, first), "")
	}
}

// TestStepSizes holds each step to 120 new lines, and its lines to 90 characters.
func TestStepSizes(t *testing.T) {
	before := map[string]int{} // how often each line is there
	for i, s := range steps {
		here, added := map[string]int{}, 0
		for n, line := range strings.Split(string(must(os.ReadFile(s.path()))(t)), "\n") {
			if utf8.RuneCountInString(line) > 90 {
				t.Errorf("%s:%d has more than 90 characters", s.path(), n+1)
			}
			if here[line]++; here[line] > before[line] {
				added++
			}
		}
		if i > 0 && added > 120 {
			t.Errorf("%s has %d new lines, expected 120 or fewer", s.path(), added)
		}
		before = here
	}
	if found := must(filepath.Glob("docs/steps/*.go"))(t); len(found) != len(steps) {
		t.Errorf("docs/steps has %d programs, expected %d", len(found), len(steps))
	}
}

// ---------------------------------------------------------------- The trace and the lab

// told returns what happens to a request of a client that then waits, or ends its half of the
// connection.
func told(application Application, request string, ends bool) []event {
	var seen eventLog
	seen.serve(watched("app", application), &labConn{port: 8000, pieces: []string{request},
		ends: ends, end: time.Now().Add(time.Minute)})
	return seen.events
}

// watchQuietly watches every exchange of a server, and forgets what it sees.
func watchQuietly(c net.Conn, application Application) (
	net.Conn, Application, func(*Request, error)) {
	return newRecorder(time.Now, func(event) {}).watch(c, application)
}

// ofKind picks events.
func ofKind(events []event, kinds ...string) (some []event) {
	for _, e := range events {
		if slices.Contains(kinds, e.Kind) {
			some = append(some, e)
		}
	}
	return some
}

// texts are the sentences of events, a line each, with a panic's place and the layer that logs.
func texts(events []event) (all string) {
	for _, e := range events {
		all += e.Text + map[string]string{"panic": " @" + e.Place, "log": " by " + e.Layer}[e.Kind] + "\n"
	}
	return all
}

// inOrder fails the test unless a text has each of wants, a list with | between, after the one
// before it.
func inOrder(t testing.TB, all, wants string) {
	t.Helper()
	rest := all
	for want := range strings.SplitSeq(wants, "|") {
		_, after, ok := strings.Cut(rest, want)
		if rest = after; !ok {
			t.Errorf("no %q in its place in\n%.4000s", want, all)
			return
		}
	}
}

// fromRequest finds the keys of environ that bytes of the request become, and fieldKey those of
// header fields among them.
var (
	fromRequest = regexp.MustCompile(
		`^(HTTP_.*|REQUEST_METHOD|PATH_INFO|QUERY_STRING|SERVER_PROTOCOL|CONTENT_.*)$`)
	fieldKey = regexp.MustCompile(`^(HTTP|CONTENT)_`)
)

// checkEvents holds a record to the bytes that came and to the environ that came of them.
func checkEvents(t *testing.T, request string, events []event) {
	t.Helper()
	in, keys := "", Environ{}
	for _, e := range events {
		switch e.Kind {
		case "in":
			same(t, "from and to", [2]int{e.From, e.To}, [2]int{len(in), len(in) + len(e.Data)})
			in += string(e.Data)
		case "key", "dropped", "refused":
			if e.From < 0 || e.From > e.To || e.To > len(in) {
				t.Fatalf("%s: bytes %d to %d of %d", e.Text, e.From, e.To, len(in))
			}
		case "environ":
			for key, value := range e.Environ {
				if fromRequest.MatchString(key) && value != "HTTP/0.9" {
					same(t, key, keys.Get(key), value)
				}
			}
		}
		if e.Kind != "key" {
			continue
		}
		keys[e.Key] = e.Value
		text := in[e.From:e.To]
		if e.Key == "PATH_INFO" {
			text, _ = url.PathUnescape(cmp.Or(text, "/")) // an error shows as ""
		}
		_, value, _ := strings.Cut(text, ":") // the last of the values that were joined
		joined := fieldKey.MatchString(e.Key) &&
			strings.HasSuffix(e.Value, visible(strings.Trim(value, " \t")))
		if visible(text) != e.Value && !joined && !strings.HasSuffix(e.Value, "…") { // cut
			t.Errorf("%s is %q, its bytes are %q", e.Key, e.Value, text)
		}
	}
	same(t, "what came", strings.HasPrefix(request, in), true)
}

// TestRecord holds the record of every row to what came and what was made of it. Each step of
// a row or an application leads to code that is there, and each refusal to a chapter.
func TestRecord(t *testing.T) {
	there := func(place string) bool { // "app.go#watched"
		file, name, _ := strings.Cut(place, "#")
		return declared(file, name) != nil
	}
	known := map[string]bool{} // kinds, by the page
	for _, at := range regexp.MustCompile(`(?m)^\t"?([\w ]+)"?: "(\w+\.go#\w+)",`).
		FindAllStringSubmatch(labPage, -1) {
		known[at[1]] = there(at[2])
	}
	kinds := regexp.MustCompile(`Kind(?::|[^=\n]* =) "([a-z ]+)"|gives\("(\w+)"`)
	for _, kind := range kinds.FindAllStringSubmatch(string(must(os.ReadFile("app.go"))(t)), -1) {
		same(t, "the page knows where it is done: "+kind[1], known[kind[1]+kind[2]], true)
	}
	_, refusing, _ := strings.Cut(labPage, "const refusing = {")
	refusing, _, _ = strings.Cut(refusing, "}")
	line := regexp.MustCompile(`^app\.go:\d+$`)
	checkPlaces := func(t *testing.T, events []event) {
		for _, e := range events {
			_, function, _ := strings.Cut(e.Place, "#")
			if e.Text == "" || e.Place != "" && !there(e.Place) && !line.MatchString(e.Place) ||
				e.Kind == "start" && e.Place == "" ||
				e.Kind == "refused" && !strings.Contains(refusing, function+": ") {
				t.Errorf("%s: %s, %q", e.Text, e.Place, e.Rule)
			}
		}
	}
	for _, row := range allRows() {
		if len(row.Send) > labData {
			continue // more than is told
		}
		t.Run(row.Name, func(t *testing.T) {
			events := told(showEnviron, string(row.Send), row.How == "then end")
			checkEvents(t, string(row.Send), events)
			checkPlaces(t, events)
			refused, out := ofKind(events, "refused"), ofKind(events, "head", "out")
			var refusal *Refusal
			_, _, err := parse(bytes.NewReader(row.Send))
			wanted := errors.As(err, &refusal) || row.Want[0] == '4' // 421 is not the parser's
			atEnd := row.Name[:3] == "B08"                           // the request is cut
			if (len(refused) == 1) != wanted || atEnd && refused[0].From != len(row.Send) {
				t.Errorf("refused: %+v", refused)
			} else if refusal != nil && refusal.Line != "" {
				holds(t, string(row.Send[refused[0].From:]), "^"+refusal.Line[refusal.Offset:])
			}
			if row.Want != "nothing" && row.Want != "body" {
				holds(t, string(out[0].Data), "^HTTP/1.0 "+row.Want)
			}
			same(t, "the last event", events[len(events)-1].Kind, "close")
		})
	}
	for _, entry := range applications(Config{Root: "docs"}) {
		if entry.Name == "clock" {
			entry.App = newClock(3, 0)
		}
		for _, path := range []string{"/", "/before", "/after", "/a/x", "/lab.html"} {
			checkPlaces(t, told(entry.App, getPath(path), false))
		}
	}
}

// TestSeeIt holds the link on a refusal's page to the head that was refused.
func TestSeeIt(t *testing.T) {
	s := start(t, hello, func(s *Server) { s.Lab = "/lab" })
	link := regexp.MustCompile(`see it: http://127\.0\.0\.1:\d+/lab#request=(.*)\n$`)
	for _, head := range []string{get("Host: a", "Host: b"), "GET / HTTP/1.0\r\nHost: x",
		"GET / HTTP/1.0\nHost: a\r\n", "\r\nGET /\x80 HTTP/9.9\r\n", "GET /%zz HTTP/1.0\r\n", "\x16\r\n", "GET / HTTP/1.0\r\nA: b\n\r\n",
		"GET / HTTP/1.1\n\n"} {
		page := must(askUntil(t, s.addr, head, true))(t)
		found := link.FindStringSubmatch(page)
		if found == nil {
			t.Errorf("%q: no link in %q", head, page)
			continue
		}
		seen := must(unescape(must(url.QueryUnescape(found[1]))(t)))(t)
		same(t, "the bytes of the link", strings.Trim(seen, "\r\n"), strings.Trim(head, "\r\n"))
		var refusal *Refusal
		_, _, err := parse(strings.NewReader(seen))
		if !errors.As(err, &refusal) || !strings.Contains(page, refusal.Reason) {
			t.Errorf("%q leads to %q: %v", head, seen, err)
		}
	}
	replies(t, s.addr, "GET / HTTP/1.0\r\nA : "+strings.Repeat("x", 2000)+"\r\n\r\n", " 400 |!see it")
}

// TestBadByte shows that a refusal points at the first byte that is wrong, also where the same
// bytes come once more. TestReadRequest has those of the rows.
func TestBadByte(t *testing.T) {
	line := "GET / HTTP/1.0\r\n"
	for _, request := range []string{ // ‸ is before that byte
		"\r\nGET‸\r\n\r\n", get("A: b", "‸ c"), get("A: b‸\rc"), line + "A: b‸\n\r\n",
		get("Content-Length: ‸+5", "A: +5"), get("Host: a‸ b", "X-Host: a b", "Host: a b"),
		get("Host: a", "‸Host: a", "Host: a"), get("Transfer-Encoding: ‸x", "Transfer-Encoding: x"),
		line + "A: b\r\nA: b‸", line + "A: b\r\nA: b‸\n\r\n", line + "\r‸",
		"GET /‸%zz HTTP/1.0\r\nGET /%zz HTTP/1.0\r\n", "GET /" + strings.Repeat("x", 65531) + "‸x",
		line + strings.Repeat("A: b\r\n", 100) + "‸A: b\r\n\r\n",
	} {
		before, after, _ := strings.Cut(request, "‸")
		refused := ofKind(told(showEnviron, before+after, true), "refused")
		if len(refused) != 1 || refused[0].From != len(before) || refused[0].To > len(before)+1 {
			t.Errorf("%.80q: expected byte %d, got %+v", request, len(before), refused)
		}
	}
}

// TestRecordTells shows, in their order, events that the bytes of a request do not decide.
func TestRecordTells(t *testing.T) {
	inner := watched("inner", hello)
	mid := watched("mid", mount(map[string]Application{"/x": inner}, nil))
	both := watched("outer", func(environ Environ, startResponse StartResponse) Body {
		watched("first", alone("log one"))(environ, startResponse)
		io.WriteString(environ["wsgi.errors"].(io.Writer), "two\n")
		return inner(environ, startResponse)
	})
	for request, c := range map[string]struct {
		app  Application
		want string
	}{
		post(strings.Repeat("x", 9000), "Content-Length: 9000"): {hello, "the gateway ends " +
			"its half|bytes more, read and discarded|the client has ended its half|the gateway closes"},
		"": {hello, "a connection from 127.0.0.1:49152 is accepted|" +
			"the client has ended its half|nothing was asked: there will be no answer"},
		get(): {hello, "the request has no Content-Length: no body|app gives a block of 14 " +
			"bytes|a Content-Length of 14|the head leaves: 200 OK, in one write with 14 bytes of the body"},
		post("", "Content-Length: 0"): {showEnviron,
			"the request has a Content-Length of 0: no body|calls the application app"},
		post("abc", "Content-Length: 10"): {showEnviron, "app panics @|\n400 Bad Request: " +
			"expected 10 body bytes, got 3|the head leaves"},
		"GET http://a HTTP/1.0\r\nHost: b\r\n\r\n": {hello, `HTTP_HOST is "a", from the absolute ` +
			`target|"/": an empty path is the root|Host is dropped: the target says a`},
		getPath("/README.md"): {newFiles("docs"), "the gateway itself reads, sends and " +
			"closes the body of app|the head leaves|bytes of the body leave"},
		"HEAD / HTTP/1.0\r\n\r\n": {clock, "a block of 9 bytes|the answer has no Content-Length: " +
			"nobody " +
			"knows how long the body of GET would be\n|is asked for no more blocks"},
		getPath("/write"): {write, "app calls write() with 5 bytes|the answer has no Content-Length: " +
			"nobody knows|the head leaves|app calls write() with 5 bytes|app returns a body, Blocks"},
		getPath("/304"): {alone("start 304 Not Modified"),
			"the answer gets no Content-Length: 304 Not Modified has no body"},
		getPath("/304/5"): {alone("start 304 N|Content-Length: 5"),
			"the answer has the Content-Length that the application has given"},
		getPath("/205"): {alone("start 205 R|Content-Length: 5"),
			"the answer gets a Content-Length of 0: 205 R has no body"},
		"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc": {
			showEnviron, "25 bytes leave|the status and 2 headers; 25 bytes sent so far|" +
				"a Content-Length of|the head leaves"},
		getPath("/a/x"): {watched("outer", mount(map[string]Application{"/a": mid}, nil)), "app calls " +
			`the application outer|outer sets PATH_INFO to "/x"; it was "/a/x"|outer sets SCRIPT_NAME to ` +
			`"/a"; it was ""|outer calls the application mid|` +
			`mid sets PATH_INFO to ""; it was "/x"|mid calls`},
		getPath("/both"): {both, "app calls the application outer|outer calls the application first|" +
			"one by first\n|two by outer\n|outer calls the application inner|the head leaves"},
		getPath("/excinfo"): {failing, `app calls startResponse("503 Service Unavailable") with 2 ` +
			"headers: Content-Type, X-Content-Type-Options, because of an error: the database is on " +
			"fire|replaces what it has stored|the head leaves"},
		"GET /\r\n": {hello, "a block of 14 bytes|14 bytes of the body leave|closes"},
		getPath("/log"): {logging(inner), "wsgi.errors: log: GET /log by app\n|app calls the " +
			"application inner|wsgi.errors: log: startResponse|the head leaves"},
		getPath("/two"): {alone("log one, ; log two\n; ok"), "wsgi.errors: one, two by app\n|" +
			"app calls startResponse"},
		getPath("/before"): {failing, "\napp panics @app.go:|\nthe gateway logs: the application " +
			"failed: |\nthe gateway logs: \tapp.go:|the head leaves: 500 Internal Server Error, in one"},
		getPath("/after"): {failing, "the head leaves|the body of app panics @app.go:|" +
			"the gateway logs: the application failed: |closes"},
		getPath("/200"): {alone("start 200"), "the call of startResponse by app panics|\napp panics"},
	} {
		t.Run(fmt.Sprintf("%.30q", request), func(t *testing.T) {
			inOrder(t, texts(told(c.app, request, true)), c.want)
		})
	}
	var seen eventLog
	seen.serve(watched("app", hello), &labConn{pieces: []string{get()}}) // its time is over
	holds(t, texts(ofKind(seen.events, "timeout", "head")), "^writing ends: its deadline has passed\n")
	seen = eventLog{}
	half := &tap{out: io.Discard, recorder: newRecorder(time.Now, seen.add)}
	half.Write([]byte("HTTP/1.0 2")) // a part of a head
	same(t, "the head", string(ofKind(seen.events, "head")[0].Data), "HTTP/1.0 2")
	for want, ends := range map[string]bool{"\n400 Bad Request: expected 10 body bytes": true,
		"\n408 Request Timeout": false} { // told once if somebody reads, otherwise not
		cut := post("abc", "Content-Length: 10")
		same(t, "nobody reads: refused", len(ofKind(told(hello, cut, ends), "refused")), 0)
		both := texts(told(watched("inner", showEnviron), cut, ends)) // a panic leaves both
		same(t, want, strings.Count(both, want), 1)
	}
}

// TestTraceSendfile shows that a watched file is sent as any other: by the connection, if there is
// one that can.
func TestTraceSendfile(t *testing.T) {
	c := &labConn{end: time.Now().Add(time.Minute)}
	tcp := dial(t, accepts(t, func(_ net.Listener, c net.Conn) { stay(c) }))
	for want, to := range map[string]*tap{
		"5 bytes of the file leave by sendfile(2)": {tcp, nil, nil, nil},
		"the head leaves|!sendfile":                {c, c, c, nil},
		"one write with 0 bytes|!sendfile":         {nil, nil, io.Discard, nil}, // as a CGI program
	} {
		var seen eventLog
		to.recorder = newRecorder(time.Now, seen.add)
		n, err := to.ReadFrom(strings.NewReader("12345"))
		same(t, want, fmt.Sprint(n, err), "5 <nil>")
		holds(t, texts(seen.events), want)
	}
}

// volatile are the parts of a narration that differ from run to run.
var volatile = regexp.MustCompile(
	`Date: .* GMT|127\.0\.0\.1:\d+|\d\d/.*\d\d:\d\d:\d\d|#\d   \(\d+ms later\)\n()`)

// narration is what -trace prints of requests to an application in layers, at a width.
func narration(t *testing.T, width any, brief bool, app, use string, requests ...string) string {
	t.Helper()
	t.Setenv("COLUMNS", fmt.Sprint(width))
	entries := applications(Config{Root: "docs"})
	application := must(choose(entries, app, use))(t)
	var out lockedBuffer
	s := start(t, application, func(s *Server) {
		s.ErrorLog = log.New(&out, "", 0)
		s.AccessLog = s.ErrorLog
		narrate(s, brief)
	})
	for _, request := range requests {
		ask(t, s.addr, request)
		eventually(t, "the end of the exchange", func() bool { return s.open() == 0 })
	}
	s.stop()
	return strings.ReplaceAll(volatile.ReplaceAllString(out.String(), "-"), "-#", "#")
}

// TestNarration holds what -trace prints to the letter: > for what comes, < for what leaves, =
// for what waits, brackets for calls.
func TestNarration(t *testing.T) {
	got := narration(t, 80, false, "hello", "upper", "GET /%41?c=4#f HTTP/1.0\r\nX_A: 1\r\n"+
		"Cookie: a\r\nCookie: b\r\n\r\n", get("Host : h"))
	holds(t, got, `^#1   a connection from - is accepted
#1 > GET /%41?c=4#f HTTP/1.0\r\n
#1 > X_A: 1\r\n
#1 > Cookie: a\r\n
#1 > Cookie: b\r\n
#1 > \r\n
#1   REQUEST_METHOD   "GET" (bytes 0 to 2)
#1   PATH_INFO        "/A", decoded once (bytes 4 to 7)
#1   QUERY_STRING     "c=4" (bytes 9 to 11)
#1   (dropped)        #f is cut off: a fragment is for the client alone
#1   SERVER_PROTOCOL  "HTTP/1.0" (bytes 15 to 22)
#1   (dropped)        X_A is dropped: with a - instead of _ it would have the
#1     same key
#1   HTTP_COOKIE      "a" (bytes 33 to 41)
#1   HTTP_COOKIE      "a; b": joined to what came before (bytes 44 to 52)
#1   the request has no Content-Length: no body
#1   environ is complete: 22 keys
#1   ┌ upper
#1   │ ┌ hello
#1   │ │ startResponse("200 OK") with 1 header: Content-Type
#1   │ startResponse("200 OK") with 1 header: Content-Type
#1 = the gateway stores the status and 1 header; 0 bytes sent so far
#1   │ └ returns Blocks
#1   └ returns changedBody
#1   · · block of 14 bytes: "Hello, World!\n"
#1   · block of 14 bytes: "HELLO, WORLD!\n"
#1   the answer has no Content-Length: nobody knows how long the body will be,
#1     so the end of the connection ends it
#1 < HTTP/1.0 200 OK\r\n
#1 < -\r\n
#1 < Server: rawsgi/1.0\r\n
#1 < Content-Type: text/plain; charset=utf-8\r\n
#1 < \r\n
#1 < HELLO, WORLD!\n
#1   · · hello has no more blocks
#1   · upper has no more blocks
#1   · Close is called on the body of upper
127.0.0.1 - - [-] "GET /%41?c=4#f HTTP/1.0" 200 14
#1   the gateway ends its half, and reads on until the client closes
#1   the client has ended its half of the connection
#1   the gateway closes the connection
`+"|\n\n#2   a connection|\n#2 ! 400 Bad Request: |\n#2 < RFC 9112 §5.1\\n\n")
	got = narration(t, 80, false, "echo", "", post("<a>", "Content-Length: 3"))
	holds(t, got, `block of 3 bytes: "<a>"`) // on a terminal, < is <
	got = narration(t, 80, true, "hello", "", get("Host: h"))
	holds(t, got, "^#1 > GET / HTTP/1.0\\r\\n … and 11 bytes more\n"+
		"#1   environ is complete: 22 keys\n|"+
		"\"Hello, World!\\n\"\n#1 < HTTP/1.0 200 OK\\r\\n … and 134 bytes more\n127.0.0.1 - - ")
	same(t, "lines of a brief trace", strings.Count(got, "\n"), 10)
	got = narration(t, 80, true, "gallery", "", getPath("/errors/before"))
	inOrder(t, got, `gallery sets SCRIPT_NAME to "/errors"; it was ""|`+
		"\n#1 ! │ └ errors panics\n|the application failed|app.go:")
	holds(t, got, "!watched") // the recorder is no application's frame
}

// TestNarrationWidth shows that many layers and long words are printed in few lines, which are
// as wide as the terminal is said to be.
func TestNarrationWidth(t *testing.T) {
	long, layers := strings.Repeat("x", 60_000), strings.Repeat("onion,", 20)+"upper,log"
	for columns, width := range map[string]int{"40": 40, "120": 120, "-1": 40, "99999999999": 1000} {
		got := narration(t, columns, false, "gallery", layers, "POST /echo?"+long+
			" HTTP/1.0\r\nLong: "+long+"\r\nContent-Length: 60000\r\n\r\n"+long,
			"GET /errors/after HTTP/1.0\r\n"+long+"\r\n\r\n", "GET /"+long+"%zz HTTP/1.0\r\n\r\n")
		widest := 0
		for line := range strings.Lines(got) {
			if strings.HasPrefix(line, "#") { // otherwise it is the log's
				widest = max(widest, utf8.RuneCountInString(line)-len("\n"))
			}
		}
		if widest > width || width < 200 && widest < width-1 ||
			strings.Count(got, "\n") > 6000 || !strings.Contains(got, " 200 60000\n") {
			t.Errorf("COLUMNS=%s: a line has %d columns: %.2000s", columns, widest, got)
		}
	}
	for line, want := range map[string]string{
		"  │ one two three four": "  │ one two|  │   three|  │   four",
		"! one two three":        "! one two|    three",
		"  abcdefghijklmnopq":    "  abcdefghij|    klmnopq"} {
		same(t, line, strings.Join(wrapWords(line, 12), "|"), want)
	}
}

// TestNarrator shows what depends on the terminal, that exchanges are kept apart, and that
// time is told where it matters.
func TestNarrator(t *testing.T) {
	terminal := must(os.OpenFile(os.DevNull, os.O_WRONLY, 0))(t) // a character device as well
	defer terminal.Close()
	var out bytes.Buffer
	narratorOn := func(out io.Writer) *narrator { return newNarrator(log.New(out, "[7] ", 0), false) }
	t.Setenv("NO_COLOR", "")
	if runtime.GOOS != "windows" { // whose NUL is a character device for some versions only
		same(t, "colours on a terminal", narratorOn(terminal).colours != nil, true)
	}
	same(t, "colours in a file", narratorOn(&out).colours != nil, false)
	t.Setenv("NO_COLOR", "1")
	same(t, "colours against NO_COLOR", narratorOn(terminal).colours != nil, false)
	n := narratorOn(&out)
	n.colours = colours
	one, two := n.recorder(), n.recorder()
	(&tap{in: strings.NewReader(strings.Repeat("a\n", 20)), recorder: two}).Read(make([]byte, 99))
	one.add(event{Kind: "refused", Rule: "RFC", From: 3, To: 9}, "no: ")
	later := one.begin.Add(time.Second)
	one.begin = later.Add(-time.Second) // a clock that has not moved before
	one.now = func() time.Time { return later }
	one.onError("reading", io.EOF)
	inOrder(t, out.String(), "[7] #2 \x1b[36m> a\\n\x1b[0m\n|> a\\n … and 16 bytes more\x1b[0m\n\n"+
		"[7] #1 \x1b[31m! no:  (RFC, byte 3, counted from 0)\x1b[0m\n[7] #1   (1s later)\n"+
		"[7] #1   the client has ended its half of the connection\n")
	holds(t, fmt.Sprint((&options{}).setTrace("short")), "-trace=brief")
}

// narrated makes a server narrate for nobody. Its own log is the same as without.
func narrated(brief bool) func(*Server) {
	return func(s *Server) {
		errorLog := s.ErrorLog
		s.ErrorLog = log.New(io.Discard, "", 0)
		narrate(s, brief)
		s.ErrorLog = errorLog
	}
}

// TestTraceChangesNothing runs each small application with somebody watching.
func TestTraceChangesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range stories() {
		c.run(t, func(app Application) Application { return watched("app", app) }, narrated(true))
	}
	play(t, 1, scene{"a client that leaves", "close; ok; flood", narrated(false),
		"a get; a until H; a leave; closes 1; logged 1"})
}

// TestTraceAndLog compares what a client and the logs get with and without -trace, over all
// applications.
func TestTraceAndLog(t *testing.T) {
	t.Parallel()
	variable := regexp.MustCompile(`Date: [^\r]*|\[[^]]*:\d\d:\d\d\]|(REMOTE|SERVER)_PORT: \d+|` +
		`127\.0\.0\.1:\d+|\d\d:\d\d:\d\d`)
	requests := []string{get("Host: h"), "GET /\r\n", getPath("/before"), getPath("/after"),
		getPath("/excinfo"), "HEAD / HTTP/1.0\r\n\r\n", getPath("/a/x"), post("abc", "Content-Length: 9"),
		post("abc", "Content-Length: 3"), get("Host : h"), "GET /" + strings.Repeat("x", 70_000), "",
		"GET / HTTP/1.0\r\n"}
	see := func(application Application, change func(*Server)) string {
		s := start(t, application, change)
		seen := ""
		for _, request := range requests {
			c := dial(t, s.addr)
			io.WriteString(c, request) // it may be refused before all is sent
			c.CloseWrite()
			reply, err := io.ReadAll(c)
			seen += fmt.Sprintf("%s%v", reply, err)
			c.Close()
		}
		s.stop()
		return variable.ReplaceAllString(seen+s.access.String()+s.errors.String(), "-")
	}
	for _, app := range applications(Config{Root: "docs"}) {
		if slices.Contains([]string{"clock", "lab", "gallery"}, app.Name) {
			continue // takes its time, or is another's
		}
		for _, use := range []string{"", "log,catch,upper"} {
			application := must(withMiddleware(app.App, use))(t)
			want := see(application, func(*Server) {})
			for _, brief := range []bool{true, false} {
				if got := see(application, narrated(brief)); got != want {
					t.Errorf("%s: %s", app.Name, difference(want, got))
				}
			}
		}
	}
}

// TestTraceCGI shows that environ is complete once, also if a CGI program redirects; and that the
// narration of one of ours goes to standard error, and nothing of it to the server.
func TestTraceCGI(t *testing.T) {
	script := writeScript(t, "", "redirect", `printf 'Location: /hello\n\n'`)
	cgi := watched("cgi", newCGI(script, 10*time.Second, 0))
	routes := map[string]Application{"/hello": watched("hello", hello)}
	events := told(watched("outer", mount(routes, cgi)), get(), true)
	same(t, "environ is complete, a head is stored", len(ofKind(events, "environ", "stored")), 2)
	holds(t, string(ofKind(events, "head")[0].Data), "Hello, World!\n$")
	program := rawsgi("-app", "echo", "-trace", "-cgi")
	program.Env = append(program.Env, "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=POST",
		"CONTENT_LENGTH=3")
	var stderr bytes.Buffer
	program.Stdin, program.Stderr = strings.NewReader("abc"), &stderr
	holds(t, string(must(program.Output())(t)), "^Status: 200 OK\r\n|\r\n\r\nabc$")
	inOrder(t, stderr.String(), "environ is complete|┌ echo|> abc\n|< Status: 200 OK\\r\\n|< abc\n")
	in, _, app := narrateCGI(zeros{}, io.Discard, hello, log.New(io.Discard, "", 0), true)
	app(Environ{}, func(string, []Header, ...error) io.Writer { return io.Discard })
	in.Read(make([]byte, 9))
	same(t, "bytes of the body that are kept", len(in.(*tap).head), 0)
}

// runLab is a request to the lab as its page makes it, with changes.
func runLab(application Application, content string, change ...Environ) (answer string) {
	environ := Environ{"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/lab", "PATH_INFO": "/run",
		"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8000", "SERVER_PORT": "8123",
		"HTTP_ORIGIN": "http://localhost:8000", "HTTP_SEC_FETCH_SITE": "same-origin",
		"CONTENT_TYPE": "application/json", "wsgi.url_scheme": "http",
		"wsgi.input": strings.NewReader(content)}
	for _, change := range change {
		maps.Copy(environ, change)
	}
	status, _, body := callApplication(application, environ)
	return status + "\n" + string(body)
}

// experimented runs what the page sends, with other text in the place of some.
func experimented(t *testing.T, lab Application, change ...string) (events []event) {
	t.Helper()
	answer, ok := strings.CutPrefix(runLab(lab, labExperiment(change...)), "200 OK\n")
	if err := json.Unmarshal([]byte(answer), &events); !ok || err != nil || len(answer) > 2<<20 {
		t.Fatalf("%v, %d bytes: %.3000s", err, len(answer), answer)
	}
	return events
}

func labExperiment(change ...string) string {
	return strings.NewReplacer(change...).Replace(
		`{"request": "GET / HTTP/1.0\\r\\nA: b\\r\\n\\r\\n", ` +
			`"app": "hello", "use": "upper", "arrival": "at once"}`)
}

// TestLab shows who may use the lab, and for what.
func TestLab(t *testing.T) {
	entries := applications(Config{Root: "docs"})
	entries = entries[:len(entries)-2] // without itself and the gallery
	lab, open := newLab(entries, false), newLab(entries, true)
	events := experimented(t, lab)
	holds(t, string(ofKind(events, "head")[0].Data), "HELLO, WORLD!\n$")
	same(t, "calls", len(ofKind(events, "call")), 2)
	environ := ofKind(events, "environ")[0].Environ
	same(t, "where", environ["SERVER_PORT"]+" "+environ["REMOTE_ADDR"], "8123 127.0.0.1")
	const here = "this machine alone"
	for why, changes := range map[string]string{
		here: "REMOTE_ADDR=192.0.2.1|REMOTE_ADDR=|HTTP_X_FORWARDED_FOR=192.0.2.1|HTTP_VIA=1.0 x|" +
			"HTTP_FORWARDED=for=192.0.2.1|HTTP_HOST=192.0.2.1|HTTP_HOST=evil.example:8000",
		"own page": "HTTP_ORIGIN=http://evil.example|HTTP_ORIGIN=http://localhost:9000|" +
			"HTTP_ORIGIN=null|" +
			"HTTP_SEC_FETCH_SITE=cross-site|CONTENT_TYPE=text/plain|REQUEST_METHOD=GET",
		"The lab is at /lab": "PATH_INFO=/x|PATH_INFO=/go.mod|PATH_INFO=/.|PATH_INFO=/docs/lab.html|" +
			"PATH_INFO=/../go.mod",
	} {
		for change := range strings.SplitSeq(changes, "|") {
			key, value, _ := strings.Cut(change, "=")
			holds(t, runLab(lab, labExperiment(), Environ{key: value}), why+"|!^200 OK")
			if why == here { // but not with -open-lab
				holds(t, runLab(open, labExperiment(), Environ{key: value, "HTTP_ORIGIN": ""}), "^200 OK")
				holds(t, runLab(lab, "", Environ{key: value, "PATH_INFO": ""}), why+"|!^200 OK") // the page
			}
		}
	}
	many := strings.Repeat("upper,", 10)
	for content, why := range map[string]string{
		"{": "cannot be read", "{}": "no application here is called",
		labExperiment("hello", "cgi"):                           `no application here is called "cgi"`,
		labExperiment("hello", "proxy"):                         `is called "proxy"`,
		labExperiment("hello", "gallery"):                       `is called "gallery"`,
		labExperiment("hello", "lab"):                           `is called "lab"`,
		labExperiment("upper", "lower"):                         "no middleware is called",
		labExperiment("upper", many+"log"):                      "at most 10 layers",
		labExperiment("at once", "never"):                       "no arrival is called",
		labExperiment("GET", `\\q`):                             "expected escapes",
		labExperiment("GET", strings.Repeat("x", labRequest)):   "at most 65536 bytes",
		labExperiment("GET", strings.Repeat("x", 9*labRequest)): "cannot be read",
	} {
		holds(t, runLab(lab, content), "^400 |"+why)
	}
	page := func(path string) string {
		status, headers, body := callApplication(lab, Environ{"REMOTE_ADDR": "::1",
			"SCRIPT_NAME": "/x/lab", "PATH_INFO": path, "HTTP_HOST": "[::1]:8000"})
		return fmt.Sprint(status, headers, "\n", string(body))
	}
	holds(t, page("/request.go"), "^200 OK|\n// request.go: ")
	content := page("")
	has(t, content, "200 OK[", "{Content-Security-Policy default-src 'none';",
		`<meta name="lab" content="/x/lab">`)
	elsewhere := regexp.MustCompile(`(src|href)="(https?:)?//|@import|url\(|innerHTML`)
	same(t, "something from elsewhere, or HTML", elsewhere.FindString(content), "")
	for _, path := range must(filepath.Glob("docs/[0-9][0-9]-*.md"))(t) {
		has(t, content, `"`+strings.TrimSuffix(filepath.Base(path), ".md")+`"`)
	}
	apps, uses := "", ""
	for _, entry := range entries {
		if entry.Name != "cgi" && entry.Name != "proxy" {
			apps += `, "` + entry.Name + `"`
		}
	}
	for _, middleware := range middlewares {
		uses += `, "` + middleware.name + `"`
	}
	has(t, content, "app: ["+apps[2:]+"],", "use: ["+uses[2:]+"],")
}

// TestLabArrival shows that each way in which the page lets a request arrive is known, and
// that time passes on the connection's own clock.
func TestLabArrival(t *testing.T) {
	lab := newLab([]entry{{Name: "hello", App: hello}}, false)
	head := func(change ...string) string {
		e := ofKind(experimented(t, lab, change...), "head")[0]
		at := (time.Duration(e.At) * time.Microsecond).Round(time.Second)
		return fmt.Sprintf("%s %v", e.Data[9:12], at)
	}
	_, offered, _ := strings.Cut(labPage, "arrival: [")
	offered, _, _ = strings.Cut(offered, "]")
	arrivals := map[string]string{"at once": "200 0s", "byte by byte": "200 0s",
		"a pause of 2 s before each line": "200 6s", "all, then the client ends its half": "200 0s",
		"the first half, then silence": "408 10s", "the first half, then the client leaves": "400 0s"}
	for arrival, want := range arrivals {
		same(t, arrival, head("at once", arrival), want)
		has(t, offered, `"`+arrival+`"`)
	}
	same(t, "arrivals that the page offers", strings.Count(offered, `"`), 2*len(arrivals))
	same(t, "two lines", head("at once", "a pause of 2 s before each line", `A: b\\r\\n`, "", "GET /",
		"GET /"+strings.Repeat("x", 5000)), "200 4s")
}

// TestLabLimits: an experiment is bounded in number, time and size.
func TestLabLimits(t *testing.T) {
	begun, release := make(chan bool), make(chan bool)
	block := func(environ Environ, startResponse StartResponse) Body {
		begun <- true
		<-release
		return hello(environ, startResponse)
	}
	busy := newLab([]entry{{Name: "block", App: block}, {Name: "echo", App: echo}}, false)
	blocked := labExperiment("hello", "block")
	class := inBackground(func() {
		together(30, func() { holds(t, runLab(busy, blocked), "^200 OK") })
	})
	for range labAtOnce {
		wait(t, "an experiment", begun)
	}
	holds(t, runLab(busy, "{"), "^400") // it is read before it waits
	apps := map[string]Application{"hello": alone("exit"), "block": func(Environ, StartResponse) Body {
		<-release
		return Blocks{}
	}}
	full := &lab{running: make(chan bool), patience: time.Millisecond, apps: apps}
	hasty := &lab{running: make(chan bool, 1), patience: time.Millisecond, apps: apps}
	holds(t, runLab(full.app, blocked), "^503|Too many")
	holds(t, runLab(hasty.app, blocked), "^503|has not ended")
	close(release)
	hasty.running <- true // when the experiment has ended
	<-hasty.running
	hasty.patience = time.Minute
	holds(t, runLab(hasty.app, labExperiment()), "^200 OK|runtime.Goexit was called")
	for range 30 - labAtOnce {
		wait(t, "an experiment", begun)
	}
	wait(t, "the class", class)
	body, fields := strings.Repeat("x", labRequest-100), ""
	for range 99 {
		fields += "A: " + strings.Repeat(`\\x80`, 600) + `\\r\\n`
	}
	for _, change := range [][]string{
		{"GET", "POST", "A: b", fmt.Sprintf("Content-Length: %d", len(body)), `\\r\\n"`,
			`\\r\\n` + body + `"`, "at once", "byte by byte"},
		{`A: b\\r\\n`, fields, "upper", "log,log,upper,upper,catch"},
	} {
		if n := len(experimented(t, busy, append(change, "hello", "echo")...)); n > labEvents+1 {
			t.Errorf("%d events", n)
		}
	}
	var seen eventLog
	for range 3 {
		seen.add(event{Data: make([]byte, labData/2-10)})
	}
	same(t, "what is told", seen.events[1].Data != nil && seen.events[2].Data == nil, true)
	has(t, seen.events[2].Text, "not shown")
}

// ---------------------------------------------------------------- Exercises
//
// The checker is graded: docs/check.go author 07 holds an exercise to its starter, its solution
// and its wrong answers.

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	must(0, os.WriteFile(path, []byte(content), 0o600))(t)
}

// every is for whoever edits an exercise: all its wrong answers take minutes.
var every = flag.Bool("every", false, "with -all, check all wrong answers of the exercises, "+
	"instead of one of each, another each day")

// TestExercises checks each exercise: its starter, its solutions, and one wrong answer, another
// each day. With -every, the solutions run 20 times and all wrong answers are checked.
func TestExercises(t *testing.T) {
	t.Parallel()
	long(t)
	dirs := must(filepath.Glob("docs/exercises/[0-9][0-9]*-*"))(t)
	same(t, "23 exercises or more", len(dirs) >= 23, true)
	building := make(chan bool, 2) // the go command is busy itself
	heading := regexp.MustCompile(`(?m)^## (.*)$`)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			number, _, _ := strings.Cut(filepath.Base(dir), "-")
			args := []string{"author", number, "-times", "20"}
			if !*every {
				wrong := heading.FindAllStringSubmatch(string(must(os.ReadFile(dir+"/wrong.md"))(t)), -1)
				args = []string{"author", number, wrong[time.Now().YearDay()%len(wrong)][1]}
				for _, file := range must(filepath.Glob(dir + "/s[to]*.*"))(t) { // starter, solutions
					args = append(args, filepath.Base(file))
				}
			}
			building <- true
			defer func() { <-building }()
			out, status := check(t, args...)
			if status != 0 || strings.Count(out, "  ok ") < len(args)-2 {
				t.Errorf("status %d\n%s", status, out)
			}
		})
	}
}

// teapot is a right answer to exercise 09, in a style of its own: it uses our names.
const teapot = `//go:build ignore

package main

func hello(page string) []byte { return []byte(page + "\n") }

func teapot(environ Environ, startResponse StartResponse) Body {
	if environ.Get("PATH_INFO") == "/tea" {
		startResponse("200 OK", []Header{{"content-type", "text/plain"}})
		return Blocks{hello("tea")}
	}
	startResponse("418 I'm a teapot", []Header{{"X-Pot", "short"}, {"Content-Type", "text/plain"}})
	return Blocks{hello("short and stout")}
}
`

// TestExercise goes the way of a student in a copy of the repository: begin, fail, take a hint,
// solve, and see the progress.
func TestExercise(t *testing.T) {
	t.Parallel()
	longer(t)
	dir := t.TempDir()
	noError(t, os.CopyFS(filepath.Join(dir, "docs"), os.DirFS("docs")))
	for name := range strings.FieldsSeq("go.mod main.go server.go request.go response.go app.go") {
		writeFile(t, filepath.Join(dir, name), string(must(os.ReadFile(name))(t)))
	}
	mine := filepath.Join("mine", "09-teapot.go")
	raced := strings.Replace(teapot, "func teapot(", "var n int\n\nfunc teapot(", 1)
	raced = strings.Replace(raced, "\tif environ", "\tn++\n\tif environ", 1)
	for _, step := range []struct {
		file, args string
		status     int
		want       string
	}{
		{"", "", 0, "  09   A teapot"},
		{"", "09", 0, "start here: mine/09-teapot.go"},
		{"", "9", 1, "\n  --   once more: not tried yet\n"},
		{"", "9", 1, " of 22 pass\nnext      go run docs/check.go -hint 1 09\n"},
		{"", "-hint 1 09", 0, "Hint 1 of 3"},
		{"package main\nfunc teapot() { undefined() }\n", "09", 1, mine + ":2"},
		{strings.Replace(teapot, "stout", "stout!", 1), "09 " + mine, 1,
			"came      short and stout!\\n\n                                ^ "},
		{raced, "09", 1, "one of them is at 09-teapot.go:10\n"},
		{teapot, "teapot", 0, "22 of 22 pass"},
		{"", "09", 0, "\nnext      go run docs/check.go 10\nprogress  [#."},
		{"", "", 0, "  ok   09   A teapot"},
		{"", "77", 2, `there is no exercise "77"`},
		{"", "server", 2, `"server" needs more arguments`},
		{"", "hunt 1 -answer X99", 1, "It is not X99. It breaks a rule of chapter 3."},
		{"", "hunt 1 -answer r02", 0, "Right, it is R02."},
		{"", "hunt -hint 3 1", 0, `get / HTTP/1.0\r\n\r\n`},
		{"", "hunt 99", 2, "the hunts are "},
		{"outside", "09", 2, "is not in the course"},
	} {
		if _, err := exec.LookPath("gcc"); err != nil && step.file == raced {
			continue // there is no race detector without it
		}
		command := exec.Command(checker(), strings.Fields(step.args)...)
		if command.Dir = dir; step.file == "outside" {
			command.Dir = t.TempDir()
		} else if step.file != "" {
			writeFile(t, filepath.Join(dir, mine), step.file)
		}
		out, _ := command.CombinedOutput() // the status says enough
		same(t, step.args, command.ProcessState.ExitCode(), step.status)
		printed := strings.Replace(string(out), "two goroutines use the same data", "", 1)
		has(t, printed, step.want, "!FAIL", "!goroutine", "!check.go:") // which are not for a student
	}
}

// TestClass checks a class: of right and wrong answers, copies, and files that are no programs.
func TestClass(t *testing.T) {
	t.Parallel()
	longer(t)
	class, report := t.TempDir(), t.TempDir()
	starter := string(must(os.ReadFile("docs/exercises/09-teapot/starter.go"))(t))
	students := [][3]string{ // file, content, points and notes
		{"ada/09-teapot.go", teapot, `"10","22","","equal to ben"`},
		{"ben/mine/09-teapot.go", "// mine\n" + teapot, `"10","22","","equal to ada"`},
		{"[c]/09-teapot.go", strings.Replace(teapot, "stout", "stout!", 1), ``},
		{"dan/9-teapot.go", teapot, `"0","0","","not handed in"`},
		{"eve/09-teapot.go", "package", `"0","0","does not compile",""`},
		{"fay/09-teapot.go", starter, `"0","0","","the starter"`},
		{"gus/09-teapot.go", strings.Repeat("//", 1<<20), `"0","0","does not compile",""`},
		{"hal/09-teapot.go.orig", "package", `"0","0","","not handed in"`},
		{"=ida/09-teapot.go/file", "a directory", `"0","0","does not compile",""`},
		{"jon/go.mod", "module mine\n", `"0","0",`},
		{"kim/mine/01-no-close.go", "package main", `"0","0","","not handed in"`},
	}
	for _, student := range students {
		path := filepath.Join(class, student[0])
		noError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		writeFile(t, path, student[1])
	}
	if runtime.GOOS != "windows" {
		must(exec.Command("mkfifo", filepath.Join(class, "jon/09-teapot.go")).CombinedOutput())(t)
	}
	out, status := check(t, "class", class, "09", "-o", report)
	same(t, "the status", status, 0)
	has(t, out, "1 of 11 students: 09 the body\n")
	text := func(file string) string {
		return string(must(os.ReadFile(filepath.Join(report, file)))(t))
	}
	for _, student := range students {
		name, _, _ := strings.Cut(strings.Replace(student[0], "=", "'=", 1), "/")
		has(t, text("class.csv"), fmt.Sprintf("%q,\"09-teapot\",%s", name, student[2]))
	}
	has(t, text("class.csv"), "\ncomplete\n")
	has(t, text("dan.txt"), "not recognised: 9-teapot.go", "like 09-teapot.go")
	has(t, text("hal.txt"), "not recognised: 09-teapot.go.orig")
	has(t, text("fay.txt"), "the starter, as it was")
	has(t, text("kim.txt"), "no file here has the name of a starter", "!not recognised")
	has(t, out, "eve                   build\n")
	has(t, text("_c_.txt"), "came      short and stout!")
}

// TestChildren checks a program that an exercise must survive, and what it has started, in a
// group of its own.
func TestChildren(t *testing.T) {
	t.Parallel()
	long(t)
	only(t, "needs setsid", "linux")
	alive, file := filepath.Join(t.TempDir(), "alive"), filepath.Join(t.TempDir(), "server.py")
	must(exec.Command("mkfifo", alive).CombinedOutput())(t)
	writeFile(t, file, "import subprocess\n"+
		"subprocess.Popen(['setsid', 'sh', '-c', 'sleep 60 > "+alive+"'])\n"+
		"raise ValueError('no')\n")
	checks := exec.Command(checker(), "23", file)
	noError(t, checks.Start())
	defer checks.Wait()   // that the program does not pass is no error here
	pipe := opened(alive) // waits until sleep has it
	defer pipe.Close()
	pipe.SetReadDeadline(time.Now().Add(20 * time.Second))
	same(t, "what is said by what it has started", readRest(t, pipe), "")
}

// ---------------------------------------------------------------- Faults and load

// troubled goes wrong in every way that a server must survive.
var troubled = mount(map[string]Application{"/panic": alone("must fail without a head"),
	"/after": alone("ok; yield abc; panic"), "/goexit": alone("exit"),
	"/endless": endless}, showEnviron)

// endless holds a goroutine and two files until its body is closed.
func endless(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", textPlain)
	read, write, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	go func() { io.Copy(io.Discard, read); read.Close() }()
	return struct {
		Stream
		io.Closer
	}{func(yield func([]byte) bool) {
		for yield(make([]byte, 1000)) {
		}
	}, write}
}

// getPath asks for one page.
func getPath(path string) string { return "GET " + path + " HTTP/1.0\r\n\r\n" }

// sends are what bad clients send, and good ones to bad applications.
var sends = []string{"", halfHead, post("abc", "Content-Length: 9"), get(), getPath("/panic"),
	getPath("/after"), getPath("/goexit"), getPath("/endless"), strings.Repeat("\x00", 100_000),
	strings.Repeat(get("A: b"), 5000), strings.Repeat(allBytes(), 40),
	"POST /panic HTTP/1.0\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 200_000)}

const halfHead = "GET / HTTP/1.0\r\nHost: a"

// deeds are what they do then.
var deeds = []struct {
	name string
	do   func(c *net.TCPConn)
}{
	{"leaves", func(c *net.TCPConn) {}},
	{"resets", func(c *net.TCPConn) { c.SetLinger(0) }},
	{"reads a little and resets", func(c *net.TCPConn) { c.Read(make([]byte, 9)); c.SetLinger(0) }},
	{"half-closes", func(c *net.TCPConn) { c.CloseWrite(); io.CopyN(io.Discard, c, 1<<20) }},
	{"goes silent", func(c *net.TCPConn) { io.CopyN(io.Discard, c, 1<<20) }}, // until it is hung up on
	{"never reads, but sends more", func(c *net.TCPConn) { io.CopyN(c, zeros{}, 1<<20) }},
}

// misbehave sends something, does one of the deeds, and closes.
func misbehave(t *testing.T, addr, sent string, deed func(*net.TCPConn)) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, sent) // may fail: the server may have answered already
	deed(c.(*net.TCPConn))
}

// TestFaults does all that at once, in both modes, and asks for everything that opens a file or a
// process. Afterwards the server answers, and holds nothing, although the garbage collector is off,
// which would close forgotten files some time.
func TestFaults(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	requests, routes := sends, map[string]Application{}
	if runtime.GOOS != "windows" { // the scripts are for a Unix shell
		dir, up := t.TempDir(), start(t, showEnviron)
		writeScript(t, dir, "hi", `printf 'Content-Type: text/plain\n\nhi'`)
		writeScript(t, dir, "bad", `printf 'hi'`)
		writeScript(t, dir, "hang", `sleep 1000`)
		noError(t, os.WriteFile(filepath.Join(dir, "broken"), []byte("#!/nowhere\n"), 0o700))
		routes["/f"], routes["/c"] = newFiles(dir), newCGI(dir, 100*time.Millisecond, 0)
		routes["/form"], routes["/p"] = form, newProxy(up.addr, time.Second)
		for path := range strings.FieldsSeq("/f/ /f/hi /f/nothing " +
			"/c/hi /c/bad /c/hang /c/broken /c/none /p/") {
			requests = append(requests, getPath(path))
		}
		const part = "--B\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\nabc\r\n--B--\r\n"
		requests = append(requests, "HEAD /f/hi HTTP/1.0\r\n\r\n", "HEAD /c/hi HTTP/1.0\r\n\r\n",
			"GET /f/hi HTTP/1.0\r\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n",
			"POST /c/hi HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", "POST /form HTTP/1.0\r\nContent-Type: "+
				"multipart/form-data; boundary=B\r\nContent-Length: "+strconv.Itoa(len(part))+"\r\n\r\n"+part)
	}
	for mode, times := range map[string]int{"concurrent": 10, "serial": 2} {
		s := start(t, mount(routes, troubled), short, func(s *Server) { s.Serial = mode == "serial" })
		ask(t, s.addr, get())
		for _, deed := range deeds {
			t.Run(mode+"/"+deed.name, func(t *testing.T) {
				goroutines, files := runtime.NumGoroutine(), openFiles()
				var next atomic.Int64
				together(times*len(requests), func() {
					misbehave(t, s.addr, requests[next.Add(1)%int64(len(requests))], deed.do)
				})
				replies(t, s.addr, post("abc", "Content-Length: 3"), wholeBody("abc"))
				eventually(t, "goroutines and files to be back", func() bool {
					return runtime.NumGoroutine() <= goroutines && openFiles() <= files
				})
			})
		}
		s.stop()
	}
}

// TestManyIdle: clients that have sent half a head do not keep others from theirs, unless there are
// more than descriptors. Then the others wait, and when places are free again, all is well.
func TestManyIdle(t *testing.T) {
	for limit, clients := range map[string]int{"ulimit -n 40": 60, "ulimit -n 6000": 5000} {
		t.Run(limit, func(t *testing.T) {
			if clients > 1000 {
				long(t)
			}
			if exec.Command("/bin/sh", "-c", limit).Run() != nil {
				skip(t, "needs "+limit)
			}
			program, addr, log := startCommand(t, exec.Command("/bin/sh", "-c", limit+` && exec "$0" "$@"`,
				os.Args[0], "-addr", "127.0.0.1:0", "-app", "environ", "-quiet", "-timeout", "1m"))
			descriptors := func() int { // 0 where the system cannot tell
				entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", program.Process.Pid))
				return len(entries)
			}
			replies(t, addr, get(), "^"+ok200)
			before := descriptors()
			var conns []net.Conn
			for range clients {
				conns = append(conns, sendTo(t, addr, halfHead))
			}
			answered := inBackground(func() { replies(t, addr, get(), "^"+ok200) })
			if clients > 1000 {
				wait(t, "an answer", answered)
			} else { // this one waits for a place
				eventually(t, "a word about it", func() bool {
					return strings.Contains(log.String(), "cannot accept")
				})
			}
			for _, c := range conns {
				c.Close()
			}
			wait(t, "an answer", answered)
			eventually(t, "the descriptors", func() bool { return descriptors() <= before })
			replies(t, addr, get(), "^"+ok200)
			program.Process.Signal(syscall.SIGTERM)
			if err := ended(t, program); err != nil || strings.Count(log.String(), "cannot accept") > 3 {
				t.Errorf("%v, log %.500s", err, log)
			}
		})
	}
}

var soak = flag.Duration("soak", time.Minute, "how long TestSoak lasts; with -short, 2s")

// TestSoak is a minute at full load, good clients and bad ones mixed. No good client misses
// a byte, and each answer that was cut has its line in the log.
func TestSoak(t *testing.T) {
	t.Parallel()
	long(t)
	if testing.Short() {
		*soak = 2 * time.Second
	}
	s := start(t, troubled, func(s *Server) {
		s.Timeout, s.AccessLog = 5*time.Second, nil // bad clients and a busy machine make it wait
	})
	var cut, workers atomic.Int64
	end := time.Now().Add(*soak)
	together(32, func() {
		worker := workers.Add(1)
		random := rand.New(rand.NewPCG(3, uint64(worker)))
		for time.Now().Before(end) && !t.Failed() {
			switch {
			case worker%2 == 0: // most of these wait most of the time
				misbehave(t, s.addr, sends[random.IntN(len(sends))], deeds[random.IntN(len(deeds))].do)
			case random.IntN(20) == 0:
				cut.Add(1)
				has(t, askCut(t, s.addr, getPath("/after")), "\r\n\r\nabc$")
			default:
				content := strings.Repeat("x", random.IntN(1000)*random.IntN(20))
				replies(t, s.addr, post(content, "Content-Length: "+strconv.Itoa(len(content))),
					wholeBody(content))
			}
		}
	})
	s.stop()
	lines := strings.Count(s.errors.String(), "the application failed: the block failed")
	if int64(lines) < cut.Load() { // bad clients have such lines, too
		t.Errorf("%d lines about %d answers that were cut", lines, cut.Load())
	}
}

// ---------------------------------------------------------------- Fuzzing

// addRows begins a fuzzer's corpus with what the rows send.
func addRows(f *testing.F) {
	for _, row := range allRows() {
		if len(row.Send) < 5000 {
			f.Add(row.Send)
		}
	}
}

// FuzzReadRequest: whatever comes, the parser does not panic, gives the same for slow
// bytes, lets nothing into environ that could be taken for a line end, and what it
// accepts means the same when it is written out again.
func FuzzReadRequest(f *testing.F) {
	addRows(f)
	ours := regexp.MustCompile(`^(wsgi|rawsgi)\.[a-z_]+$`)
	f.Fuzz(func(t *testing.T, data []byte) {
		request, content, err := parse(bytes.NewReader(data))
		slow, slowContent, slowErr := parse(iotest.OneByteReader(bytes.NewReader(data)))
		if !reflect.DeepEqual(request, slow) || !bytes.Equal(content, slowContent) ||
			fmt.Sprint(err) != fmt.Sprint(slowErr) {
			t.Fatalf("whole: %+v %v\nslow: %+v %v", request, err, slow, slowErr)
		}
		if err != nil {
			return
		}
		environ := newEnviron(request, memoryAddr, memoryAddr)
		for key, value := range environ {
			text, isText := value.(string)
			known := isText && (strings.HasPrefix(key, "HTTP_") || slices.Contains(cgiNames, key)) // E15
			if !known && !ours.MatchString(key) || strings.ContainsAny(key+text, "\r\n\x00") {     // E19
				t.Errorf("%q: %q", key, value)
			}
		}
		text := fmt.Sprintf("%s %s %s\r\n", request.Method, request.Target, request.Version)
		if request.Version == "HTTP/0.9" {
			text = "GET " + request.Target
		}
		for _, field := range request.Header {
			text += fmt.Sprintf("%s: %s\r\n", field.Name, field.Value)
		}
		again, _, err := parse(strings.NewReader(text + "\r\n" + string(content)))
		if err != nil {
			t.Fatalf("%q is refused: %v", text, err)
		}
		second := newEnviron(again, memoryAddr, memoryAddr)
		if fmt.Sprint(environ) != fmt.Sprint(second) {
			t.Errorf("%v\nbecame %v", environ, second)
		}
	})
}

// stricter are the rules by which we refuse what net/http's parser reads; its server, which
// the fuzzer does not call, has some of them too. looser are its errors for what we read.
// Each of these differences is decided; any other is a fault in one of the two.
var (
	stricter = map[string]string{
		"501 RFC 9112 §6.1":                  "Transfer-Encoding: they decode chunked, but not in HTTP/1.0",
		"501 RFC 9112 §3.2":                  "OPTIONS *: they leave it to a handler",
		"505 RFC 9110 §15.6.6":               "HTTP/2.0, HTTP/0.9: they leave it to their server",
		"400 RFC 9112 §3.2":                  "Host is checked, targets begin with / or http://host",
		"400 RFC 9112 §5.2":                  "folded lines: they join them",
		"400 RFC 9112 §5.1":                  "a space before the colon: they leave it to their server",
		"400 RFC 9110 §5.5":                  "control characters in values: they leave it to their server",
		"400 RFC 9110 §5.3":                  "two equal Content-Lengths, two types: they take the first",
		"400 RFC 9112 §2.2":                  "mixed line ends, CR within a line",
		"400 RFC 3986 §2.1, RFC 3875 §4.1.5": "escaped control characters in a path",
		"413 RFC 9110 §15.5.14":              "a limit", "414 RFC 9110 §15.5.15": "a limit",
		"431 RFC 9110 §15.5.15": "a limit", "431 RFC 6585 §5": "a limit",
	}
	looser = regexp.MustCompile("malformed HTTP request|" + // HTTP/0.9, and an empty line first
		"invalid userinfo|" + // in http://user@host: it is dropped unread
		"invalid URL escape") // %41 in a host is RFC 3986's, they want none of ASCII
)

// FuzzAgainstNetHTTP: our parser and Go's read the same in each request that both accept,
// and where one of them refuses, the difference is one of those that are listed.
func FuzzAgainstNetHTTP(f *testing.F) {
	addRows(f)
	// They leave a fragment to the url package, and we cut it off.
	fragment := regexp.MustCompile(`^([^ \n]* [^ #\n]*)#[^ \n]*`)
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, content, ourErr := parse(bytes.NewReader(data))
		var theirContent []byte
		data = fragment.ReplaceAll(data, []byte("$1"))
		theirs, theirErr := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
		if theirErr == nil {
			theirContent, theirErr = io.ReadAll(theirs.Body)
		}
		var refusal *Refusal
		switch {
		case ourErr != nil && theirErr != nil:
		case ourErr != nil && theirs.Method == "CONNECT":
			// No application of ours sees one; they read even one that names no host.
		case errors.As(ourErr, &refusal):
			if rule := refusal.Status[:4] + refusal.Source; stricter[rule] == "" {
				t.Errorf("only net/http reads it; our rule is %s: %v", rule, ourErr)
			}
		case theirErr != nil:
			if !looser.MatchString(theirErr.Error()) {
				t.Errorf("only we read it: %+v; they say %v", ours, theirErr)
			}
		case ours != nil:
			header, host := http.Header{}, ours.Authority
			for _, field := range ours.Header {
				if !strings.EqualFold(field.Name, "Host") {
					header.Add(field.Name, field.Value)
				} else if host == "" {
					host = field.Value
				}
			}
			const form = "%s %q %q %s %q %q %q"
			a := fmt.Sprintf(form, ours.Method, ours.Path, ours.Query, ours.Version, host, header, content)
			b := fmt.Sprintf(form, theirs.Method, cmp.Or(theirs.URL.Path, "/"), theirs.URL.RawQuery,
				theirs.Proto, theirs.Host, theirs.Header, theirContent)
			if a != b {
				t.Errorf("ours:   %s\ntheirs: %s", a, b)
			}
		}
	})
}

// FuzzRecord: whatever comes, the record fits the bytes and environ.
func FuzzRecord(f *testing.F) {
	addRows(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		checkEvents(t, string(data), told(hello, string(data), true))
	})
}

// FuzzStartResponse: whatever an application says, the client gets one well-formed head
// with nothing added to it, or a 500.
func FuzzStartResponse(f *testing.F) {
	for _, status := range []string{"200 OK", "404 ", "99 X", "200 OK\r\nX: y", "204 No"} {
		for _, header := range []Header{{"X-A", "b"}, {"Content-Length", "3"}, {"X:", "\n"},
			{"connection", "close"}, {"Date", "now"}} {
			f.Add(status, header.Name, header.Value, "abc")
		}
	}
	f.Fuzz(func(t *testing.T, status, name, value, block string) {
		w := &wire{}
		runOn(w, func(environ Environ, startResponse StartResponse) Body {
			startResponse(status, []Header{{name, value}})
			return Blocks{[]byte(block)}
		})
		got, header, content := splitReply(t, strings.Join(w.writes, ""))
		own := name + ": " + value
		if got != status {
			if !strings.HasPrefix(got, "500 ") || len(header) != 5 || slices.Contains(header, "X: y") {
				t.Fatalf("%q %q: got %q %q", status, own, got, header)
			}
			return
		}
		dropped := strings.HasPrefix(status, "204 ") && strings.EqualFold(name, "Content-Length")
		if slices.Contains(header, own) == dropped || len(header) > 4 {
			t.Errorf("%q became %q", own, header)
		}
		if !strings.HasPrefix(block, content) {
			t.Errorf("%q became %q", block, content)
		}
	})
}

// ---------------------------------------------------------------- Speed and memory

// Benchmarks compare contestants that take turns in one run, and report ratios: the time
// of a machine says little, and what else it does changes between runs.

// A contestant does something n times.
type contestant struct {
	name string
	do   func(n int)
}

// compare lets the contestants take turns until each has done its b.N parts, and reports the
// time of the first, and its ratio to each other one.
func compare(b *testing.B, contestants ...contestant) {
	const turns = 20
	times := make([]time.Duration, len(contestants))
	b.ResetTimer()
	for turn := range turns {
		for i, c := range contestants {
			begin := time.Now()
			c.do(b.N*(turn+1)/turns - b.N*turn/turns)
			times[i] += time.Since(begin)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(times[0].Nanoseconds())/float64(b.N), "ns/op")
	for i, c := range contestants[1:] {
		b.ReportMetric(float64(times[0])/float64(times[i+1]), "×"+c.name)
	}
}

// quiet makes a server without logs.
func quiet(application Application) *Server {
	s := newServer(application)
	s.ErrorLog = log.New(io.Discard, "", 0)
	return s
}

// netHTTP makes one of net/http's.
func netHTTP(handler http.HandlerFunc) func(net.Listener) {
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: handler}
	return func(l net.Listener) { server.Serve(l) }
}

// helloLikeGo answers as hello does.
func helloLikeGo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Server", software)
	io.WriteString(w, "Hello, World!\n")
}

// overTCP makes a contestant of a server. So many clients at once open a connection for each do.
func overTCP(b *testing.B, name string, serve func(net.Listener), clients int,
	do func(net.Conn) error) contestant {
	l := must(listen("127.0.0.1:0"))(b)
	b.Cleanup(func() { l.Close() })
	go serve(l)
	dialer := net.Dialer{KeepAlive: -1}
	return contestant{name, func(n int) {
		var next atomic.Int64
		together(clients, func() {
			for next.Add(1) <= int64(n) && !b.Failed() {
				c, err := dialer.Dial("tcp", l.Addr().String())
				if err == nil {
					err = do(c)
					c.Close()
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}}
}

// getHello does a request, and readHello reads the answer.
func getHello(c net.Conn) error {
	io.WriteString(c, request) // without it, there is no answer
	return readHello(c)
}

func readHello(c net.Conn) error {
	reply, err := io.ReadAll(c)
	if !bytes.HasSuffix(reply, []byte("World!\n")) {
		return fmt.Errorf("got %q, %v", reply, err)
	}
	return err
}

// request has one header field. Each more costs two allocations: its line, and its value
// in the map.
const request = "GET /hello?a=4 HTTP/1.0\r\nHost: 127.0.0.1:8000\r\n\r\n"

// A memoryConn is a connection in memory. As on a real one, a read beyond the request
// waits: until a deadline in the past ends it, as net/http does, or wake is closed.
type memoryConn struct {
	in     strings.Reader
	out    int
	waits  func() // if set, is called before that
	wake   chan bool
	closed chan bool
}

var memoryAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000}

func (c *memoryConn) Read(p []byte) (int, error) {
	if c.in.Len() > 0 {
		return c.in.Read(p)
	}
	if c.waits != nil {
		c.waits()
	}
	if <-c.wake {
		return 0, os.ErrDeadlineExceeded
	}
	return 0, io.EOF
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Unix() < 10 {
		c.wake <- true
	}
	return nil
}

func (c *memoryConn) Write(p []byte) (int, error)      { c.out += len(p); return len(p), nil }
func (c *memoryConn) Close() error                     { c.closed <- true; return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return memoryAddr }
func (c *memoryConn) RemoteAddr() net.Addr             { return memoryAddr }
func (c *memoryConn) SetDeadline(time.Time) error      { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// A memoryListener accepts the connections that are put into it, until it is closed.
type memoryListener chan net.Conn

// listenInMemory starts a server that gets its connections in memory.
func listenInMemory(b *testing.B, serve func(net.Listener)) memoryListener {
	l := make(memoryListener)
	b.Cleanup(func() { close(l) })
	go serve(l)
	return l
}

func (l memoryListener) Accept() (net.Conn, error) {
	if c := <-l; c != nil {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l memoryListener) Close() error   { return nil }
func (l memoryListener) Addr() net.Addr { return memoryAddr }

// BenchmarkExchange has one request answered over a connection in memory: by serveConn
// itself, and by Serve, which adds what net/http cannot be measured without, a listener
// and a goroutine for each connection.
func BenchmarkExchange(b *testing.B) {
	exchanges := func(name string, connect func(net.Conn)) contestant {
		c := &memoryConn{closed: make(chan bool, 1), wake: make(chan bool, 1)}
		return contestant{name, func(n int) {
			for range n {
				c.out = 0
				c.in.Reset(request)
				connect(c)
				if <-c.closed; c.out < 100 {
					b.Fatalf("%d bytes", c.out)
				}
			}
		}}
	}
	watching := quiet(watched("hello", hello))
	watching.Watch = watchQuietly
	ours, theirs := listenInMemory(b, quiet(hello).Serve), listenInMemory(b, netHTTP(helloLikeGo))
	direct := exchanges("untraced", quiet(hello).serveConn)
	through := exchanges("", func(c net.Conn) { ours <- c })
	yardstick := exchanges("net/http", func(c net.Conn) { theirs <- c })
	b.Run("serveConn", func(b *testing.B) { compare(b, direct, yardstick) })
	b.Run("Serve", func(b *testing.B) { compare(b, through, yardstick) })
	b.Run("traced", func(b *testing.B) { compare(b, exchanges("", watching.serveConn), direct) })
	b.Run("allocations", func(b *testing.B) { b.ReportAllocs(); direct.do(b.N) })
}

// BenchmarkServe has 64 clients open a connection for each request. canned accepts, reads once,
// writes a fixed answer and closes: no server does less. Run it on one CPU, where the time that
// passes is the CPU time that client and server use:
//
//	taskset -c 0 go test -run '^$' -bench Serve -benchtime 40000x .
func BenchmarkServe(b *testing.B) {
	canned := func(l net.Listener) {
		answer := []byte(ok200 + "Date: Sat, 21 Nov 2026 09:07:30 GMT\r\nServer: " + software +
			"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 14\r\n\r\nHello, World!\n")
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				defer c.Close()
				c.Read(make([]byte, 4096)) // errors are the client's to notice
				c.Write(answer)
			}()
		}
	}
	compare(b, overTCP(b, "ours", quiet(hello).Serve, 64, getHello),
		overTCP(b, "canned", canned, 64, getHello),
		overTCP(b, "net/http", netHTTP(helloLikeGo), 64, getHello))
}

// BenchmarkMemory measures what a connection costs that has sent part of a head: heap and
// stack, without the system's own buffers.
func BenchmarkMemory(b *testing.B) {
	const conns = 2000
	inUse := func() uint64 {
		runtime.GC()
		runtime.GC() // the first only empties pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	measure := func(l memoryListener) (used float64) {
		var waiting sync.WaitGroup // until the server waits for more of each head
		waiting.Add(conns)
		wake, goroutines, before := make(chan bool), runtime.NumGoroutine(), inUse()
		for range conns {
			c := &memoryConn{waits: sync.OnceFunc(waiting.Done), wake: wake, closed: make(chan bool, 9)}
			c.in.Reset("GET / HTTP/1.0\r\nHost: 127.0.0.1")
			l <- c
		}
		waiting.Wait()
		used = float64(inUse()-before) / conns
		close(wake)
		eventually(b, "the end of all", func() bool { return runtime.NumGoroutine() <= goroutines })
		return used
	}
	ours, theirs := 0.0, 0.0
	for range b.N {
		ours += measure(listenInMemory(b, quiet(hello).Serve))
		theirs += measure(listenInMemory(b, netHTTP(helloLikeGo)))
	}
	b.ReportMetric(ours/float64(b.N), "bytes/conn")
	b.ReportMetric(ours/theirs, "×net/http")
}

func totalAlloc() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// transferred is what an upload and a download move.
const transferred = 512 << 20

// BenchmarkUpload sends 512 MiB to an application that reads and forgets them, as the
// reading half of echo does. Run it on one CPU, like BenchmarkServe:
//
//	taskset -c 0 go test -run '^$' -bench 'load' -benchtime 40x .
func BenchmarkUpload(b *testing.B) {
	app := func(environ Environ, startResponse StartResponse) Body {
		for range readBlocks(environ["wsgi.input"].(io.Reader), pieceSize) {
		}
		return hello(environ, startResponse)
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 32*1024)) // as io.Copy would
		helloLikeGo(w, r)
	}
	block := make([]byte, 256*1024)
	upload := func(c net.Conn) error {
		fmt.Fprintf(c, "POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n", transferred)
		for range transferred / len(block) {
			must(c.Write(block))(b)
		}
		return readHello(c)
	}
	b.SetBytes(transferred)
	compare(b, overTCP(b, "ours", quiet(app).Serve, 1, upload),
		overTCP(b, "net/http", netHTTP(handler), 1, upload))
}

// BenchmarkDownload fetches a file of 512 MiB through wsgi.file_wrapper.
func BenchmarkDownload(b *testing.B) {
	path := tempFile(b, make([]byte, transferred))
	app := alone("ok; file " + path)
	handler := func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) }
	block := make([]byte, 256*1024)
	download := func(c net.Conn) error {
		io.WriteString(c, request)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, block)
		if n < transferred {
			return fmt.Errorf("%d bytes, %v", n, err)
		}
		return err
	}
	b.SetBytes(transferred)
	compare(b, overTCP(b, "ours", quiet(app).Serve, 1, download),
		overTCP(b, "net/http", netHTTP(handler), 1, download))
}

// BenchmarkGateways compares a call in this process with the same through the proxy, and as
// a CGI program that is started for each request.
func BenchmarkGateways(b *testing.B) {
	script := filepath.Join(b.TempDir(), "self")
	must(exec.Command("go", "build", "-o", script, ".").CombinedOutput())(b)
	python := tempFile(b, []byte(`#!/usr/bin/python3
from wsgiref.handlers import CGIHandler
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, World!\n"]
CGIHandler().run(app)
`))
	noError(b, os.Chmod(python, 0o700))
	gallery := must(choose(applications(Config{}), "gallery", ""))(b)
	upstream := start(b, gallery).addr
	direct := overTCP(b, "in-process", quiet(gallery).Serve, 1, getHello)
	for name, app := range map[string]Application{"proxy": newProxy(upstream, time.Minute),
		"CGI": newCGI(script, time.Minute, 0), "Python-CGI": newCGI(python, time.Minute, 0)} {
		b.Run(name, func(b *testing.B) {
			compare(b, overTCP(b, name, quiet(app).Serve, 1, getHello), direct)
		})
	}
}

// server_test.go: all tests, in parts. The order is that of the program: the bytes of one
// exchange, what an application may do, what goes wrong around it, then the pages that
// describe all this, and tools for whoever learns from it.
//
//	Exchanges from outside        the rows of docs/conformance.md, through docs/check.go
//	Bytes in, no sockets          request.go by itself
//	The application's side        response.go: startResponse, blocks, close, files
//	The server's troubles         server.go: clients that leave or wait, deadlines, shutdown, logs
//	Applications and command      app.go and main.go
//	Gateways and hosts            CGI on both sides, pre-fork, the proxy, other servers, mutants
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
	"io/fs"
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
	fmt.Print(skips.line())
	os.RemoveAll(checkerDir) // "" if it was not built
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // fuzzing keeps goroutines of its own
	}
	http.DefaultClient.CloseIdleConnections()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if runtime.NumGoroutine() <= goroutines && openFiles() <= files {
			os.Exit(code)
		}
		time.Sleep(10 * time.Millisecond) // goroutines end without telling anyone
	}
	stacks := make([]byte, 1<<20)
	fmt.Printf("FAIL: left behind: goroutines %d → %d, descriptors %d → %d\n%s\n", goroutines,
		runtime.NumGoroutine(), files, openFiles(), stacks[:runtime.Stack(stacks, true)])
	os.Exit(1)
}

var all = flag.Bool("all", false, "run the tests that take long or need other programs, too")

// skips counts the skipped tests by reason. The run's last line lists them, because without
// -v nothing else does.
var skips = skipList{reasons: map[string]int{}}

const missing = "needs a program that is missing here"

type skipList struct {
	mu       sync.Mutex
	reasons  map[string]int
	packages []string // to install
}

// skip skips a test, and counts it. Where a program is missing, packages provide it.
func skip(t testing.TB, reason string, packages ...string) {
	t.Helper()
	skips.mu.Lock()
	defer skips.mu.Unlock()
	counted := reason
	if len(packages) > 0 {
		counted = missing
		reason += ": apt-get install " + strings.Join(packages, " ")
	}
	skips.reasons[counted]++
	skips.packages = append(skips.packages, packages...)
	t.Skip(reason)
}

// line is "" when nothing was skipped.
func (s *skipList) line() string {
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(s.reasons)) {
		part := fmt.Sprintf("%d: %s", s.reasons[reason], reason)
		if reason == missing {
			slices.Sort(s.packages)
			part += " (apt-get install " + strings.Join(slices.Compact(s.packages), " ") + ")"
		}
		parts = append(parts, part)
	}
	if parts == nil {
		return ""
	}
	return "skipped " + strings.Join(parts, "; ") + "\n"
}

// long skips a test that takes long, or is about other programs, unless -all is given. When
// -run names the test, long fails it instead: "ok" would be a lie.
func long(t testing.TB) {
	t.Helper()
	switch {
	case *all:
	case named(t.Name(), flag.Lookup("test.run").Value.String()):
		t.Fatal("this test takes long or needs other programs: add -all to run it")
	default:
		skip(t, "takes long or needs other programs (go test -all)")
	}
}

// longer skips a test that takes many seconds when -short is given.
func longer(t testing.TB) {
	t.Helper()
	if testing.Short() {
		skip(t, "takes many seconds (go test without -short)")
	}
}

// named reports whether a pattern of -run has a test's name in it, or a part of that.
func named(test, pattern string) bool {
	if strings.Count(test, "/") != strings.Count(pattern, "/") {
		return false
	}
	words := strings.FieldsFunc(pattern[strings.LastIndex(pattern, "/")+1:], func(r rune) bool {
		return strings.ContainsRune("^$|()", r)
	})
	return slices.ContainsFunc(words, func(word string) bool {
		return word != "Test" && strings.Contains(test[strings.LastIndex(test, "/")+1:], word)
	})
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

// ---------------------------------------------------------------- Exchanges from outside
//
// docs/check.go reads the table of docs/conformance.md, and grades. It is built once and held
// here, and holds our server.

var update = flag.Bool("update", false, "write the pages in docs anew, with -run Docs or -run Servers")

// checkerDir is where the checker is built; TestMain removes it.
var checkerDir string

// checker builds docs/check.go and returns its path.
var checker = sync.OnceValue(func() string {
	var err error
	if checkerDir, err = os.MkdirTemp("", "rawsgi-checker-"); err != nil {
		panic(err)
	}
	path := filepath.Join(checkerDir, "check.exe") // a name that runs everywhere
	if out, err := exec.Command("go", "build", "-o", path, "docs/check.go").CombinedOutput(); err != nil {
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
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) } // it ends its children
	out, err := command.CombinedOutput()
	if command.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("check %q: %v %v\n%s", args, err, ctx.Err(), out)
	}
	return string(out), command.ProcessState.ExitCode()
}

// A row is one rule of HTTP/1.0 or CGI, shown by bytes alone: what is sent to a server
// that runs the environ application, and what must come back.
type row struct {
	chapter string   // "ch03"
	name    string   // "R05 an absolute target"
	send    string   // the exact bytes
	how     string   // "then end" our half, "byte by byte", or "+": more is sent than is read
	want    string   // status code; "body" for a body alone; "nothing"
	has     []string // lines that the answer's body must have
	not     []string // beginnings of lines that it must not have
}

// id is the first of the row's ids.
func (row row) id() string { return row.name[:3] }

// A graded is a row, and how a server did on it: see docs/check.go.
type graded struct {
	Chapter         int
	Name, Want, How string
	Send            []byte
	Outcome, Fault  string
}

// rule is the row's name without its own case.
func (g graded) rule() string {
	rule, _, _ := strings.Cut(g.Name, ": ")
	return rule
}

// allRows has the rows of docs/conformance.md.
var allRows = sync.OnceValue(func() (rows []row) {
	out, err := exec.Command(checker(), "rows").Output()
	var list []graded
	if err := cmp.Or(err, json.Unmarshal(out, &list)); err != nil {
		panic(err)
	}
	for _, r := range list {
		rows = append(rows, row{chapter: fmt.Sprintf("ch%02d", r.Chapter), name: r.Name,
			send: string(r.Send), how: r.How, want: r.Want})
	}
	return rows
})

// gradeRows has the checker grade a server. Arguments choose rows, and how: 3-5, -strict, -jobs 8.
func gradeRows(t testing.TB, addr string, args ...string) (rows []graded) {
	t.Helper()
	out, _ := check(t, append([]string{"server", "-json", addr}, args...)...)
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatalf("%v: %.2000s", err, out)
	}
	return rows
}

// get makes the usual request out of header lines.
func get(lines ...string) string {
	return "GET / HTTP/1.0\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\n"
}

// post makes a request with a body. Its length is among the lines.
func post(body string, lines ...string) string {
	return "POST" + strings.TrimPrefix(get(lines...), "GET") + body
}

// body returns what the environ application says about a body.
func body(content string) []string {
	return []string{fmt.Sprintf("BODY-LENGTH: %d", len(content)),
		fmt.Sprintf("BODY-SHA256: %x", sha256.Sum256([]byte(content)))}
}

func allBytes() string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return string(all)
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
	for _, line := range regexp.MustCompile(`(?m)^\| (\w+) \| (.*) \| (.*) \|$`).FindAllStringSubmatch(section, -1) {
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
		program, addr, _ := startProgram(t, "-mode", "prefork", "-app", "environ", "-quiet")
		modes["prefork"] = addr
		t.Cleanup(func() { program.Process.Signal(syscall.SIGTERM); program.Wait() })
	}
	for mode, addr := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			holdToRows(t, mode, addr)
			if mode != "CGI" {
				holdToRows(t, mode, addr, "-bytewise")
			}
		})
	}
}

// holdToRows fails the test for each row that a server of ours does not pass, but for exceptions.
func holdToRows(t *testing.T, mode, addr string, args ...string) {
	t.Helper()
	rows := gradeRows(t, addr, append(args, "-strict", "-jobs", "8")...)
	for _, row := range rows {
		if row.Outcome != "passes" && exceptions()[mode+" "+row.Name] == "" {
			t.Errorf("%s: %s %s", row.Name, row.Outcome, row.Fault)
		}
	}
	if len(rows) < 200 {
		t.Errorf("%d rows", len(rows))
	}
}

// check fails the test if a reply has not the status, or not the lines, that a row wants. It is
// for rows that are not on the page.
func (row row) check(t *testing.T, reply string) {
	t.Helper()
	status, _, content := splitReply(t, reply)
	lines := strings.Split(content, "\n")
	for _, line := range row.has {
		if !slices.Contains(lines, line) {
			t.Errorf("expected the line %q in %q", line, content)
		}
	}
	for _, prefix := range row.not {
		if slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, prefix) }) {
			t.Errorf("expected no line that begins with %q in %q", prefix, content)
		}
	}
	if status[:3] != row.want {
		t.Errorf("expected %s, got %q", row.want, reply)
	}
}

// exchangeWith sends a request to a server, in pieces of a size, and returns all that comes back.
func exchangeWith(t *testing.T, addr string, row row, size int) string {
	t.Helper()
	c := dial(t, addr)
	sent := make(chan bool)
	go func() {
		defer close(sent)
		for piece := range slices.Chunk([]byte(row.send), size) {
			c.Write(piece) // fails if the server has answered without waiting for the rest
		}
		if row.how == "then end" {
			c.CloseWrite()
		}
	}()
	reply, err := io.ReadAll(c)
	c.Close()
	<-sent
	if err != nil && !(row.how == "+" && len(reply) > 0) {
		t.Errorf("after %d bytes: %v", len(reply), err)
	}
	return string(reply)
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

// A running is a server under test, with what it wrote to its logs.
type running struct {
	*Server
	addr   string
	access *lockedBuffer
	errors *lockedBuffer
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
	r := &running{newServer(application), "", &lockedBuffer{}, &lockedBuffer{}}
	r.AccessLog, r.ErrorLog = log.New(r.access, "", 0), log.New(r.errors, "", 0)
	for _, change := range change {
		change(r.Server)
	}
	l := must(listen(addr))(t)
	r.addr = l.Addr().String()
	done := make(chan bool)
	go func() { r.Serve(l); close(done) }()
	t.Cleanup(func() { r.stop(); <-done })
	return r
}

// stop shuts the server down; when it returns, the logs are complete.
func (r *running) stop() { r.Shutdown(10 * time.Second) }

// ask sends a request and returns the whole reply.
func ask(t testing.TB, addr, request string) string {
	t.Helper()
	return must(askUntil(t, addr, request))(t)
}

// askCut does the same for an answer that breaks off with a reset.
func askCut(t testing.TB, addr, request string) string {
	t.Helper()
	reply, err := askUntil(t, addr, request)
	if !isReset(err) {
		t.Errorf("expected a reset after %q, got %v", reply, err)
	}
	return reply
}

// isReset reports a reset, also by Windows' numbers: WSAECONNRESET and WSAECONNABORTED.
func isReset(err error) bool {
	var number syscall.Errno
	return errors.Is(err, syscall.ECONNRESET) || errors.As(err, &number) && (number == 10054 || number == 10053)
}

func askUntil(t testing.TB, addr, request string) (string, error) {
	t.Helper()
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	c := must(net.Dial(network, addr))(t)
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	must(io.WriteString(c, request))(t)
	reply, err := io.ReadAll(c)
	return string(reply), err
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

// TestReadRequest runs the same rows through the parser alone, whole and one byte at a
// time, and compares statuses and results.
func TestReadRequest(t *testing.T) {
	for _, row := range allRows() {
		t.Run(row.name, func(t *testing.T) {
			whole, content, err := parse(strings.NewReader(row.send))
			slow, slowContent, slowErr := parse(iotest.OneByteReader(strings.NewReader(row.send)))
			if !reflect.DeepEqual(whole, slow) || !bytes.Equal(content, slowContent) ||
				fmt.Sprint(err) != fmt.Sprint(slowErr) {
				t.Errorf("whole: %+v %q %v\nslow:  %+v %q %v", whole, content, err, slow,
					slowContent, slowErr)
			}
			var refusal *Refusal
			status := "200"
			switch {
			case err == errSilent:
				status = ""
			case errors.As(err, &refusal):
				status = refusal.Status[:3]
				if refusal.Reason == "" || !strings.ContainsAny(refusal.Source, "§") {
					t.Errorf("a refusal without its rule: %+v", refusal)
				}
			}
			want := strings.NewReplacer("body", "200", "nothing", "").Replace(row.want)
			if status != want && !(row.want == "body" && status == "400") {
				t.Errorf("expected %q, got %q: %v", want, status, err)
			}
		})
	}
}

// TestRefusalsPoint: every row of the table that is refused for a byte points at that byte,
// which here has a mark in front of it.
func TestRefusalsPoint(t *testing.T) {
	var points []string
	for _, row := range allRows() {
		_, _, err := parse(strings.NewReader(row.send))
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Line == "" {
			continue
		}
		before, after := refusal.excerpt()
		before, after = escapeLess(before), escapeLess(after)
		page := string(refusal.page())
		lines := strings.Split(page, "\n")
		if lines[2] != before+after || !strings.HasPrefix(lines[3], strings.Repeat(" ", len(before))+"^") {
			t.Errorf("the caret is not under the byte:\n%s", page)
		}
		if strings.Contains(page, "<") || strings.Contains(refusal.Error(), "\n") {
			t.Errorf("not fit for a client or a log: %q, %q", page, refusal)
		}
		if len(before) > 40 {
			before = "..." + before[len(before)-12:]
		}
		if len(after) > 40 {
			after = after[:12] + "..."
		}
		point := refusal.Status[:3] + " " + before + "‸" + after
		if !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	if got := strings.Join(points, "\n"); got != badBytesOfRows {
		t.Errorf("the refusals point at\n%s", got)
	}
}

// TestTooLong: the rule is another for a request line and for a header line.
func TestTooLong(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for request, source := range map[string]string{"GET /" + long: "RFC 9110 §15.5.15",
		"GET / HTTP/1.0\r\nA: " + long: "RFC 6585 §5"} {
		_, _, err := parse(strings.NewReader(request))
		if refusal, ok := err.(*Refusal); !ok || refusal.Source != source || refusal.Offset != maxLine {
			t.Errorf("%.20s: %v", request, err)
		}
	}
}

const badBytesOfRows = `400 GET ‸* HTTP/1.1
501 OPTIONS ‸* HTTP/1.1
501 CONNECT ‸h:443 HTTP/1.1
400 GET /‸%zz
400 A: x‸\r\n
414 ...x HTTP/1.0\r‸\n
400 ...xxxxxxxxxxxx‸xxxxxxxxxxxx...
414 ...xxxxxxxxxxxx‸xxxxxxxxxxxx...
400 ‸\x16
400 ...\x00\x00\x00‸
505 PRI * HTTP/‸2.0
400 GE‸\x00T / HTTP/1.0
400 GET‸: / HTTP/1.0
400 G‸"T / HTTP/1.0
400 bla‸:rgh / HTTP/1.0
400 GET‸\u00df / HTTP/1.0
400 ‸ / HTTP/1.0
400 GET ‸example.com:443 HTTP/1.1
400 GET ‸foo/bar HTTP/1.1
400 GET ‸! HTTP/1.1
400 PUT ‸s://]ufd/: HTTP/1.1
400 GET ‸ftp://h/ HTTP/1.0
400 GET http://‸/ HTTP/1.0
400 GET http://‸/p HTTP/1.0
400 GET http://a ‸b/ HTTP/1.0
400 GET http://h:‸x/ HTTP/1.0
400 GET http://‸[::1/ HTTP/1.0
400 GET http‸ HTTP/1.0
400 POST /x‸
400 HEAD /x‸
400 GET HTTP/1.1‸
400 GET‸
400 GET ‸
400 ‸ 
400 GET / HTTP/1‸
400 GET / HTTP/1.0‸x
400 GET / ‸http/1.0
400 GET / HTTP/9.9‸.9
400 GET / HTTP/‸-9_9_9.+9_9_9
400 GET / HTTP/9‸09876543210.0
400 GET / ‸FTP/1.1
400 GET / HTTP/1‸11
400 GET / HTTP/1.1‸0
400 GET / HTTP/0‸1.0
400 GET / HTTP/1‸,0
400 GET / HTTP/‸\u0661.0
505 GET / HTTP/‸2.0
505 GET / HTTP/‸3.0
505 GET / HTTP/‸0.9
400 GET /a ‸b HTTP/1.0
400 GET ‸ /  HTTP/1.0
400 GET / HTTP/1.0‸ 
400 GET‸\t/\tHTTP/1.0
400 ‸ GET / HTTP/1.0
400 GET /\u00a0k\vHTTP/1.0 ‸x
400 GET / ‸
400 GET ‸ /
400 GET /‸\r HTTP/1.0\r\n
400 GET / HTTP/1.1‸\rLine: 1\r\n
400 A: b‸\rZ: c\r\n
400 A: b‸\r\r\n
400 ‸\rZ: c\r\n
400 ‸\rGET / HTTP/1.0\r\n
400 GET /a‸\x01b HTTP/1.0
400 GET /‸\x7f HTTP/1.0
400 GET /‸\x00 HTTP/1.0
400 GET /a‸\tb HTTP/1.0
400 GET /?‸\x1b HTTP/1.0
400 GET /#‸\x00 HTTP/1.0
400 ‸ c
400 ‸\tc
400 ‸ A: b
400 ‸Host: a
400 ‸host: b
400 ‸Content-Type: c/d
431 ...xxxxxxxxxx\r‸\n
431 ‸A: b
431 ‸A: xxxxxxxxx...
400 baz‸
400 GET / HT‸
400 GET / HTTP/1.1‸
400 GET http://h/ HTTP/1.1‸
400 foo‸
400 Content-Length‸ 10
400 Content-Length‸ : 3
400 ‸: b
400 Fo‸@: x
400 Foo‸\x01: x
400 ‸\xefoo: x
400 Content-Length‸\u00df: 3
400 ‸\u017fhost: a
400 A: b‸\x00c
400 A: b‸\ac
400 A: b‸\x7fc
400 A: b‸\fc
400 A: b‸\x1bc
400 A: b‸\x01\tc
400 ‸Content-Length: 3
400 ‸Content-Length: 4
413 Content-Length: ‸99999999999999999999
413 Content-Length: ‸9223372036854775807
413 Content-Length: ‸1073741825
501 Transfer-Encoding: ‸chunked
400 Content-Length: ‸+5
400 Content-Length: ‸-1
400 Content-Length: ‸-0
400 Content-Length: 0‸_1
400 Content-Length: 0‸x3
400 Content-Length: 3‸ 1
400 Content-Length: 5‸.0
400 Content-Length: 5‸,
400 Content-Length: 5‸, 5
400 Content-Length: 1‸Z
400 Content-Length: ‸abc
400 Content-Length: ‸
400 Content-Length: ‸\u0663
400 Content-Length: 99999999999999999999‸x
501 Transfer-Encoding: ‸identity
501 Transfer-Encoding: ‸,chunked
501 Transfer-Encoding: ‸\xa0chunked
501 Transfer-Encoding: ‸chun\u212aed
501 Transfer-Encoding: ‸
400 ‸\x3cscript>alert(1)\x3c/script>
400 A‸ : b
400 GET /‸%zz HTTP/1.0
400 GET /a‸% HTTP/1.0
400 GET /a‸%4 HTTP/1.0
400 GET /a‸%00b HTTP/1.0
400 GET /a‸%0d%0ab HTTP/1.0
400 GET /‸%7f HTTP/1.0
400 Host: a‸ b
400 Host: a‸/b
400 Host: a:‸b
400 Host: u‸@h
400 Host: a‸%zz
400 Host: a‸,b
400 Host: ‸[::1
400 Host: ‸[1.2.3.4]
400 Host: ‸[::1%25e]
400 Host: a:80‸:80
400 Host: h‸\xc0\xaf
400 GET http://‸:80/ HTTP/1.0`

// TestReadRequestFields shows what each part of a head becomes.
func TestReadRequestFields(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("PUT http://u@h:81/a%20b?c=%20#d HTTP/1.1\r\n" +
		"Host: h\r\nX-A: 1\r\ncontent-length: 4\r\nx-a:2\r\n\r\nbodyrest"))
	got, err := readRequest(r, 100)
	want := &Request{Line: "PUT http://u@h:81/a%20b?c=%20#d HTTP/1.1", Method: "PUT",
		Target: "http://u@h:81/a%20b?c=%20#d", Path: "/a b", Query: "c=%20", Scheme: "http", Authority: "h:81",
		Version: "HTTP/1.1", Length: 4,
		Header: []Header{{"Host", "h"}, {"X-A", "1"}, {"content-length", "4"}, {"x-a", "2"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if rest := must(io.ReadAll(r))(t); string(rest) != "bodyrest" {
		t.Errorf("the reader stands at %q", rest)
	}
}

// TestReadErrors shows what becomes of a connection that breaks in the head: an answer if
// somebody may be there to read it.
func TestReadErrors(t *testing.T) {
	reset := errors.New("connection reset")
	for _, c := range []struct {
		name, bytes string
		err         error
		want        string
	}{
		{"R18 time-out before anything", "", os.ErrDeadlineExceeded, "silent"},
		{"R18 time-out after an empty line", "\r\n", os.ErrDeadlineExceeded, "silent"},
		{"T03 time-out in the request line", "GET / HT", os.ErrDeadlineExceeded, requestTimeout},
		{"T03 time-out in a header", "GET / HTTP/1.0\r\nA:", os.ErrDeadlineExceeded, requestTimeout},
		{"H22 the end in a header", "GET / HTTP/1.0\r\nA:", io.EOF, badRequest},
		{"a reset", "GET / HTTP/1.0\r\nA:", reset, badRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := io.MultiReader(strings.NewReader(c.bytes), iotest.ErrReader(c.err))
			_, err := readRequest(bufio.NewReader(source), 0)
			var refusal *Refusal
			got := fmt.Sprint(err)
			if errors.As(err, &refusal) {
				got = refusal.Status
			} else if err == errSilent {
				got = "silent"
			}
			if got != c.want {
				t.Errorf("expected %s, got %s", c.want, got)
			}
		})
	}
}

// newInput makes a wsgi.input of length bytes in front of a connection's bytes.
func newInput(source io.Reader, length int64) *Input {
	return &Input{r: bufio.NewReader(source), length: length}
}

func TestInput(t *testing.T) {
	t.Run("I01 ends at Content-Length without asking for more", func(t *testing.T) {
		pipe, w := io.Pipe() // it would block for ever
		go w.Write([]byte("hello"))
		in := newInput(pipe, 5)
		var sizes []int
		for _, n := range []int{3, 0, 10, 1} {
			got, err := in.Read(make([]byte, n))
			sizes = append(sizes, got)
			if last := len(sizes) == 4; last != (err == io.EOF) {
				t.Errorf("read %d: %v", n, err)
			}
		}
		if !slices.Equal(sizes, []int{3, 0, 2, 0}) {
			t.Errorf("read %v", sizes)
		}
	})
	t.Run("I02 lines", func(t *testing.T) {
		in := newInput(strings.NewReader("a\nb\rc\r\n\nd"), 9)
		var lines []string
		for {
			line, err := in.ReadLine(0)
			if err == io.EOF {
				break
			}
			lines = append(lines, string(line))
		}
		if want := []string{"a\n", "b\rc\r\n", "\n", "d"}; !slices.Equal(lines, want) {
			t.Errorf("got %q", lines)
		}
	})
	t.Run("I02 lines with a limit", func(t *testing.T) {
		in := newInput(strings.NewReader("abcd\n"), 5)
		for _, want := range []string{"ab", "cd", "\n", ""} {
			if line, _ := in.ReadLine(2); string(line) != want {
				t.Errorf("expected %q, got %q", want, line)
			}
		}
	})
	t.Run("I03 I05 iteration stops before what follows", func(t *testing.T) {
		in := newInput(strings.NewReader("x\nyGET /2 HTTP/1.0\n"), 3)
		var lines []string
		for line := range in.Lines() {
			lines = append(lines, string(line))
		}
		if !slices.Equal(lines, []string{"x\n", "y"}) {
			t.Errorf("got %q", lines)
		}
	})
	t.Run("I04 mixed reads of slow bytes", func(t *testing.T) {
		const content = "one\ntwo\nthree, and a long end without a line end"
		in := newInput(iotest.OneByteReader(strings.NewReader(content)), int64(len(content)))
		var got []byte
		for step, err := 0, error(nil); err != io.EOF; step++ {
			part := make([]byte, 1+step)
			n := 0
			if step%2 == 0 {
				part, err = in.ReadLine(step)
				n = len(part)
			} else {
				n, err = in.Read(part)
			}
			got = append(got, part[:n]...)
		}
		if string(got) != content {
			t.Errorf("got %q", got)
		}
	})
	for name, broken := range map[string]error{
		"B08 cut short": io.EOF, "B08 stalled": os.ErrDeadlineExceeded,
		"C04 reset": syscall.ECONNRESET} {
		t.Run(name, func(t *testing.T) {
			source := io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))
			in := newInput(source, 10)
			content, err := io.ReadAll(in)
			_, again := in.Read(make([]byte, 1))
			var refusal *Refusal
			if string(content) != "abc" || !errors.As(err, &refusal) || again != err {
				t.Fatalf("got %q, %v, then %v", content, err, again)
			}
			if broken == io.EOF {
				broken = io.ErrUnexpectedEOF
			}
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), "expected 10 body bytes, got 3") {
				t.Errorf("got %v", err)
			}
			defer func() {
				if recover() != err {
					t.Error("Lines passed over a broken body")
				}
			}()
			for range in.Lines() {
			}
		})
	}
}

func TestEnvironKey(t *testing.T) {
	for name, want := range map[string]string{"Host": "HTTP_HOST", "host": "HTTP_HOST",
		"hOST": "HTTP_HOST", "X-Forwarded-For": "HTTP_X_FORWARDED_FOR",
		"content-TYPE": "CONTENT_TYPE", "Content-Length": "CONTENT_LENGTH", "X_A": "",
		"PROXY": "", "proxy": "", "Proxy-Authorization": "HTTP_PROXY_AUTHORIZATION"} {
		if key, ok := environKey(name); key != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", name, key, ok)
		}
	}
}

func TestURLScheme(t *testing.T) { // E17
	for https, want := range map[string]string{"": "http", "on": "https", "1": "https",
		"yes": "https", "foo": "http"} {
		if got := urlScheme(https); got != want {
			t.Errorf("HTTPS=%s: %s", https, got)
		}
	}
	misdirected := "GET https://h/ HTTP/1.0\r\n\r\n"
	if reply := ask(t, start(t, showEnviron).addr, misdirected); !strings.HasPrefix(reply, "HTTP/1.0 421 ") ||
		!strings.Contains(reply, "GET https://h/ HTTP/1.0\n    ^ expected http://") {
		t.Errorf("got %q", reply)
	}
	t.Setenv("HTTPS", "on")
	if reply := ask(t, start(t, showEnviron).addr, misdirected); !strings.Contains(reply, "\nHTTP_HOST: h\n") {
		t.Errorf("got %q", reply)
	}
	if reply := ask(t, start(t, showEnviron).addr, get()); !strings.Contains(reply, "\nwsgi.url_scheme: https\n") {
		t.Errorf("got %q", reply)
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

// TestWaitingBytes: R23, R24 and B10, where a buffer ends with the head: what is behind it
// does not destroy the answer.
func TestWaitingBytes(t *testing.T) {
	s := start(t, func(_ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", nil)
		return Blocks{bytes.Repeat([]byte("x"), 1<<20)}
	})
	for _, size := range []int{2047, 2048, 2049, 4096} {
		for _, more := range []string{"\r\n", "GET /2 HTTP/1.0\r\n\r\n"} {
			head := "GET /" + strings.Repeat("x", size-len("GET / HTTP/1.0\r\n\r\n")) + " HTTP/1.0\r\n\r\n"
			c := dial(t, s.addr)
			must(io.WriteString(c, head+more))(t)
			time.Sleep(5 * time.Millisecond) // the answer waits to be read, as it may
			if reply, err := io.ReadAll(c); err != nil || len(reply) < 1<<20 {
				t.Errorf("%d bytes and %q: %d bytes of an answer, %v", size, more, len(reply), err)
			}
			c.Close()
		}
	}
}

// TestDrainAfterALongCall shows B10: the time for that begins when the answer has been given.
func TestDrainAfterALongCall(t *testing.T) {
	s := start(t, func(environ Environ, startResponse StartResponse) Body {
		time.Sleep(300 * time.Millisecond) // longer than any read may take
		return hello(environ, startResponse)
	}, func(s *Server) { s.Timeout = 200 * time.Millisecond })
	c := dial(t, s.addr)
	must(io.WriteString(c, post(strings.Repeat("x", 8<<20), "Content-Length: 8388608")))(t)
	c.CloseWrite()
	if reply, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(reply, []byte("World!\n")) {
		t.Errorf("got %q, %v", reply, err)
	}
}

// TestSendsMeanwhile shows B10: a client that sends more while the application works reads
// its answer, not a reset.
func TestSendsMeanwhile(t *testing.T) {
	working, more := make(chan bool), make(chan bool)
	s := start(t, func(environ Environ, startResponse StartResponse) Body {
		working <- true
		<-more
		return hello(environ, startResponse)
	})
	for range 20 {
		c := dial(t, s.addr)
		io.WriteString(c, get())
		wait(t, "the call", working)
		must(io.WriteString(c, "what nobody reads"))(t)
		more <- true
		if reply, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(reply, []byte("World!\n")) {
			t.Errorf("got %q, %v", reply, err)
		}
		c.Close()
	}
}

// TestNeverCloses: a client whose request has been read whole, and that does not close, holds
// its connection for a moment, not for the time of a head.
func TestNeverCloses(t *testing.T) {
	s := start(t, showEnviron, func(s *Server) { s.Timeout = time.Hour })
	for _, request := range []string{get(), post("abc", "Content-Length: 3")} {
		c := dial(t, s.addr)
		io.WriteString(c, request)
		must(io.ReadAll(c))(t) // the server has ended its half
		eventually(t, "the end of the connection", func() bool { return idle(s) })
	}
}

// TestDrainEnds shows T04: a client that does not close has some time to do so, not more.
func TestDrainEnds(t *testing.T) {
	s := start(t, hello, func(s *Server) { s.Timeout = 100 * time.Millisecond })
	c := dial(t, s.addr)
	io.WriteString(c, post("abc", "Content-Length: 9"))
	must(io.ReadAll(c))(t) // the server has ended its half
	ended := make(chan bool)
	go func() { s.Shutdown(time.Hour); close(ended) }()
	wait(t, "the end of the exchange", ended)
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
	if n, err := kept.Read(p); string(p[:n]) != "abcde" || err != nil {
		t.Errorf("got %q, %v", p[:n], err)
	}
}

// ---------------------------------------------------------------- The application's side

// A probe counts what a gateway does to an application.
type probe struct{ calls, closes atomic.Int32 }

// closing is a body whose Close is counted, and may fail.
type closing struct {
	Body
	p    *probe
	fail any
}

func (c closing) Close() error {
	c.p.closes.Add(1)
	if c.fail != nil {
		panic(c.fail)
	}
	return errors.New("Close's error")
}

// stream makes a body of blocks whose length is not known. A nil block panics.
func stream(blocks ...string) Stream {
	return func(yield func([]byte) bool) {
		for _, block := range blocks {
			if block == "panic" {
				panic(errors.New("the block failed"))
			}
			if !yield([]byte(block)) {
				return
			}
		}
	}
}

// lying claims to have one block.
type lying struct{ Stream }

func (lying) Len() int { return 1 }

type spitefulSize struct{ closing }

func (spitefulSize) Len() int { panic("no length") }

// An appCase is a small application and the answer that it gets.
type appCase struct {
	name   string
	app    func(p *probe, environ Environ, startResponse StartResponse) Body
	send   string // get() if empty
	want   string // the reply without Date and Server; with "500", the error page
	closes int32
	log    string // what the error log must contain; if "", it must be empty
	cut    bool   // the reply ends with a reset
}

const ok200 = "HTTP/1.0 200 OK\r\n"

// panics makes an application that panics with a value.
func panics(reason any) func(*probe, Environ, StartResponse) Body {
	return func(*probe, Environ, StartResponse) Body { panic(reason) }
}

// A spiteful error panics when it is asked anything.
type spiteful struct{}

func (spiteful) Error() string   { panic("no message") }
func (spiteful) Is(error) bool   { panic("no comparison") }
func (spiteful) As(any) bool     { panic("no conversion") }
func (spiteful) Unwrap() []error { panic("no cause") }

// returns makes an application that answers with a status, headers and a body.
func returns(status string, headers []Header, body Body) func(*probe, Environ, StartResponse) Body {
	return func(p *probe, environ Environ, startResponse StartResponse) Body {
		startResponse(status, headers)
		return body
	}
}

// closes is returns with a body that has a Close method.
func closes(status string, headers []Header, body Body) func(*probe, Environ, StartResponse) Body {
	return func(p *probe, environ Environ, startResponse StartResponse) Body {
		startResponse(status, headers)
		return closing{Body: body, p: p}
	}
}

func contentLength(value string) []Header { return []Header{{"Content-Length", value}} }

func headCases() []appCase {
	cases := []appCase{
		{name: "S03 startResponse in the first iteration", want: ok200 + "\r\nabc",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				return Stream(func(yield func([]byte) bool) {
					startResponse("200 OK", nil)
					yield([]byte("abc"))
				})
			}},
		{name: "S04 a block without startResponse", want: "500", log: "startResponse must be called",
			app: func(*probe, Environ, StartResponse) Body { return Blocks{[]byte("x")} }},
		{name: "S04 an empty body without startResponse", want: "500",
			log: "startResponse must be called",
			app: func(*probe, Environ, StartResponse) Body { return Blocks{} }},
		{name: "S04 a file without startResponse", want: "500", log: "startResponse must be called",
			app: func(*probe, Environ, StartResponse) Body { return newFileWrapper(openSelf()) }},
		{name: "S04 empty blocks first", want: "HTTP/1.0 404 Not Found\r\n\r\nx",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				return Stream(func(yield func([]byte) bool) {
					if yield(nil) && yield([]byte{}) {
						startResponse("404 Not Found", nil)
						yield([]byte("x"))
					}
				})
			}},
		{name: "S05 a second call", want: "500", log: "startResponse was called before",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				startResponse("201 Created", nil)
				return Blocks{}
			}},
		{name: "S05 a second call after a failed one", want: "500",
			log: "startResponse was called before",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				func() {
					defer func() { recover() }() // the application swallows the complaint
					startResponse("no status", nil)
				}()
				startResponse("200 OK", nil)
				return Blocks{}
			}},
		{name: "S05 a failed call, ignored", want: "500", log: "startResponse must be called",
			app: func(p *probe, environ Environ, startResponse StartResponse) (body Body) {
				defer func() { recover(); body = Blocks{} }()
				startResponse("no status", nil)
				return nil
			}},
		{name: "S06 excInfo replaces", want: "HTTP/1.0 503 Sorry\r\nX-New: 1\r\nContent-Length: 1\r\n\r\nx",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", []Header{{"X-Old", "1"}, {"Content-Length", "3"}})
				startResponse("503 Sorry", []Header{{"X-New", "1"}}, errors.New("changed"))
				return Blocks{[]byte("x")}
			}},
		{name: "S06 excInfo of nil is none", want: "500", log: "startResponse was called before",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				startResponse("200 OK", nil, nil)
				return Blocks{}
			}},
		{name: "S07 excInfo after the head is sent", want: ok200 + "\r\nabc", closes: 1, cut: true,
			log: "the application failed: too late",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				return closing{p: p, Body: Stream(func(yield func([]byte) bool) {
					yield([]byte("abc"))
					startResponse("500 Oh", nil, errors.New("too late"))
				})}
			}},
		{name: "S15 order and case are kept", app: returns("200 OK", []Header{{"set-Cookie", "a"},
			{"X", "1"}, {"Set-Cookie", "b"}}, Blocks{}),
			want: ok200 + "set-Cookie: a\r\nX: 1\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"},
		{name: "S08 an empty reason", app: returns("200 ", nil, Blocks{}),
			want: "HTTP/1.0 200 \r\nContent-Length: 0\r\n\r\n"},
		{name: "S12 S14 odd and legal", app: returns("299 Caf\xe9", []Header{{"Content_Type", "\xff"}},
			Blocks{}), want: "HTTP/1.0 299 Caf\xe9\r\nContent_Type: \xff\r\nContent-Length: 0\r\n\r\n"},
		{name: "S16 the headers are copied", want: ok200 + "X: 1\r\nContent-Length: 0\r\n\r\n",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				headers := append(make([]Header, 0, 8), Header{"X", "1"})
				startResponse("200 OK", headers)
				headers[0].Value = "2"
				if spare := headers[:2]; spare[1].Name != "" {
					panic("the gateway wrote into the application's slice")
				}
				return Blocks{}
			}},
	}
	for _, status := range []string{"200", "20x OK", "200OK", "200_OK", "99 OK", "1000 OK",
		" 200 OK", "200 OK ", "", "200  OK", "199 OK", "600 OK", "+20 OK", "100 Continue",
		"101 Switching Protocols", "200 OK\r\nX-Evil: 1", "200 O\nK", "200 \x00", "200 O\tK",
		"200\r\n", "\xd9\xa2\xd9\xa0\xd9\xa0 OK"} {
		cases = append(cases, appCase{name: fmt.Sprintf("S08 S09 S18 status %q", status),
			app: returns(status, nil, Blocks{}), want: "500", log: "expected a status like"})
	}
	for _, name := range []string{"X-A:", "X A", "", "X-A\r\nX", "X-\xc3\xa9", "X\x00"} {
		cases = append(cases, appCase{name: fmt.Sprintf("S11 header name %q", name), want: "500",
			app: returns("200 OK", []Header{{name, "v"}}, Blocks{}), log: "expected a header name"})
	}
	for _, name := range []string{"Connection", "keep-alive", "Proxy-Authenticate", "TE",
		"PROXY-AUTHORIZATION", "Trailer", "Trailers", "transfer-Encoding", "Upgrade", "Status"} {
		cases = append(cases, appCase{name: "S12 S13 " + name, want: "500",
			app: returns("200 OK", []Header{{name, "v"}}, Blocks{}), log: "belongs to the gateway"})
	}
	for _, value := range []string{"a\r\nX-Evil: 1", "a\n", "\x00", "\x01", "a\tb", "\x7f"} {
		cases = append(cases, appCase{name: fmt.Sprintf("S09 S10 value %q", value), want: "500",
			app: returns("200 OK", []Header{{"X", value}}, Blocks{}), log: "control characters"})
	}
	for _, length := range []string{"abc", "-1", "+5", "", "5, 5", "99999999999999999999"} {
		cases = append(cases, appCase{name: fmt.Sprintf("W09 Content-Length %q", length),
			app: returns("200 OK", contentLength(length), Blocks{}), want: "500",
			log: "expected one Content-Length"})
	}
	return append(cases, appCase{name: "W09 Content-Length twice", want: "500",
		app: returns("200 OK", append(contentLength("1"), Header{"content-length", "2"}), Blocks{}),
		log: "expected one Content-Length"})
}

func bodyCases() []appCase {
	abc := Blocks{[]byte("abc")}
	const head, length3 = "HEAD / HTTP/1.0\r\n\r\n", ok200 + "Content-Length: 3\r\n\r\n"
	cases := []appCase{
		{name: "W01 one block", app: returns("200 OK", nil, abc), want: length3 + "abc"},
		{name: "W02 write and one block", want: ok200 + "\r\nabcdef",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				io.WriteString(startResponse("200 OK", nil), "abc")
				return Blocks{[]byte("def")}
			}},
		{name: "W03 two blocks", app: returns("200 OK", nil, Blocks{[]byte("a"), []byte("b")}),
			want: ok200 + "\r\nab"},
		{name: "W03 no Len", app: returns("200 OK", nil, stream("abc")), want: ok200 + "\r\nabc"},
		{name: "W04 an empty body", app: returns("200 OK", nil, Blocks{}),
			want: ok200 + "Content-Length: 0\r\n\r\n"},
		{name: "W04 empty blocks", app: returns("200 OK", nil, stream("", "")),
			want: ok200 + "Content-Length: 0\r\n\r\n"},
		{name: "W05 Len is a lie", app: returns("200 OK", nil, lying{stream("abc", "def")}),
			want: length3 + "abc"},
		{name: "W06 more than Content-Length", want: length3 + "abc", closes: 1,
			app: closes("200 OK", contentLength("3"), stream("abcdef", "panic")),
			log: "Content-Length is 3"},
		{name: "W06 exactly Content-Length", want: length3 + "abc", closes: 1, log: "Close's error",
			app: closes("200 OK", contentLength("3"), stream("abc", "panic"))},
		{name: "W07 write more than Content-Length", want: length3 + "abc",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				n, err := io.WriteString(startResponse("200 OK", contentLength("3")), "abcdef")
				if n != 3 || err == nil {
					panic(fmt.Sprint("write gave ", n, err))
				}
				return Blocks{}
			}, log: "Content-Length is 3, the body is longer"},
		{name: "W08 less than Content-Length", want: ok200 + "Content-Length: 10\r\n\r\nabc",
			app: returns("200 OK", contentLength("10"), abc), log: "the body ended after 3 bytes"},
		{name: "W10 Content-Length 0", want: ok200 + "Content-Length: 0\r\n\r\n",
			app: returns("200 OK", contentLength("0"), abc), log: "Content-Length is 0"},
		{name: "W11 HEAD", send: head, want: length3, closes: 0, app: returns("200 OK", nil, abc)},
		{name: "W11 C02 HEAD stops after the head", send: head, want: ok200 + "\r\n", closes: 1,
			app: closes("200 OK", nil, stream("abc", "panic")), log: "Close's error"},
		{name: "W11 HEAD without a block", send: head, want: ok200 + "Content-Length: 12345\r\n\r\n",
			app: returns("200 OK", contentLength("12345"), Blocks{})},
		{name: "W11 HEAD with nothing at all", send: head, want: ok200 + "\r\n",
			app: returns("200 OK", nil, Blocks{})},
		{name: "W11 HEAD with write", send: head, want: ok200 + "\r\n",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				out := startResponse("200 OK", nil)
				for range 2 {
					if n, err := io.WriteString(out, "abc"); n != 3 || err != nil {
						panic(fmt.Sprint("write gave ", n, err))
					}
				}
				return Blocks{}
			}},
		{name: "W11 HEAD of an error", send: head, want: "500", log: "the block failed",
			app: returns("200 OK", nil, stream("panic"))},
		{name: "W14 all bytes", app: returns("200 OK", nil, stream(allBytes(), "\r\n", "\r")),
			want: ok200 + "\r\n" + allBytes() + "\r\n\r"},
		{name: "W17 the array of a block is used again", want: ok200 + "\r\nabc",
			app: returns("200 OK", nil, Stream(func(yield func([]byte) bool) {
				block := make([]byte, 1)
				for _, c := range []byte("abc") {
					block[0] = c
					yield(block)
				}
			}))},
		{name: "R08 no head for HTTP/0.9", send: "GET /\r\n", want: "abc",
			app: returns("200 OK", nil, abc)},
		{name: "R08 no head for an error in HTTP/0.9", send: "GET /\r\n", log: "the block failed",
			want: "500 Internal Server Error\n\n" + errorPage, app: returns("200 OK", nil, stream("panic"))},
	}
	for _, status := range []string{"204 No Content", "205 Reset Content", "304 Not Modified"} {
		first, own := "HTTP/1.0 "+status+"\r\n", ""
		switch status[:3] {
		case "205":
			first += "Content-Length: 0\r\n"
		case "304":
			own = "Content-Length: 3\r\n"
		}
		cases = append(cases,
			appCase{name: "W12 " + status, want: first + "\r\n", app: returns(status, nil, Blocks{})},
			appCase{name: "W12 a block, " + status, want: first + "\r\n",
				app: returns(status, nil, abc)},
			appCase{name: "W12 a length, " + status, want: first + own + "\r\n",
				app: returns(status, contentLength("3"), abc)},
			appCase{name: "W12 a file, " + status, want: first + "\r\n",
				app: func(p *probe, environ Environ, startResponse StartResponse) Body {
					startResponse(status, nil)
					return newFileWrapper(openSelf())
				}})
	}
	return cases
}

func openSelf() *os.File {
	file, err := os.Open("go.mod")
	if err != nil {
		panic(err)
	}
	return file
}

func lifeCases() []appCase {
	return []appCase{
		{name: "C02 Close after the last block", want: ok200 + "\r\nabc", closes: 1,
			log: "Close: Close's error", app: closes("200 OK", nil, stream("a", "bc"))},
		{name: "C03 C06 a panic before the head", want: "500", closes: 1, log: "the block failed",
			app: closes("200 OK", []Header{{"X-Stored", "1"}}, stream("", "panic"))},
		{name: "C03 C07 a panic after the head", want: ok200 + "\r\nabc", closes: 1, cut: true,
			log: "the block failed", app: closes("200 OK", nil, stream("abc", "panic"))},
		{name: "C05 a panic in Close", want: ok200 + "\r\nabc", closes: 1, log: "Close: a bad end",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				return closing{stream("abc"), p, "a bad end"}
			}},
		{name: "C05 C08 panics in iteration and in Close", want: "500", closes: 1,
			log: "Close: a bad end",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				return closing{stream("panic"), p, "a bad end"}
			}},
		{name: "C06 a panic before startResponse", want: "500", log: "the application failed: oh",
			app: func(*probe, Environ, StartResponse) Body { panic("oh") }},
		{name: "C08 a nil body", want: "500", log: "returned no body",
			app: returns("200 OK", nil, nil)},
		{name: "C08 panic(nil)", want: "500", log: "panic called with nil",
			app: func(*probe, Environ, StartResponse) Body { panic(nil) }},
		{name: "C08 Goexit", want: "500", log: "runtime.Goexit was called",
			app: func(*probe, Environ, StartResponse) Body { runtime.Goexit(); return nil }},
		{name: "C08 Goexit in iteration", want: ok200 + "\r\nabc", closes: 1, cut: true,
			log: "runtime.Goexit was called",
			app: closes("200 OK", nil, Stream(func(yield func([]byte) bool) {
				yield([]byte("abc"))
				runtime.Goexit()
			}))},
		{name: "C07 a panic whose Refusal is nil", want: "500", log: "the application failed", closes: 0,
			app: panics((*Refusal)(nil))},
		{name: "C07 a panic whose Refusal is empty", want: "500", log: "the application failed",
			app: panics(&Refusal{})},
		{name: "C07 a panic whose Refusal points nowhere", want: "HTTP/1.0 400 X\r\n" +
			"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" +
			"Content-Length: 20\r\n\r\n400 X\n\na\n ^ \\x3cb>\n\n",
			log: `400 X: <b>: byte 9 of "a"`, app: panics(&Refusal{Status: "400 X", Line: "a", Offset: 9, Reason: "<b>"})},
		{name: "C07 a panic whose methods panic", want: "500", log: "the application failed: ",
			app: panics(spiteful{})},
		{name: "S05 an excInfo whose methods panic", want: ok200 + "Content-Length: 0\r\n\r\n",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil, spiteful{})
				return Blocks{}
			}},
		{name: "C01 a body whose Len panics", want: "500", closes: 1, log: "the application failed: no length",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				return spitefulSize{closing{Body: stream("abc"), p: p}}
			}},
		{name: "C08 a nil Stream", want: "500", log: "nil pointer",
			app: returns("200 OK", nil, Stream(nil))},
		{name: "C08 a body that does not stop", want: length3, log: "range function continued",
			app: returns("200 OK", contentLength("3"), Stream(func(yield func([]byte) bool) {
				yield([]byte("abc"))
				yield([]byte("def"))
			}))},
		{name: "I08 wsgi.errors", want: ok200 + "Content-Length: 0\r\n\r\n",
			log: "ab\uFFFD\uFFFD[2J 값\tc\nhalf a line\n",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				out := environ["wsgi.errors"].(io.Writer)
				io.WriteString(out, "ab\xff\x1b[2J 값\tc\nhalf ")
				io.WriteString(out, "a line")
				startResponse("200 OK", nil)
				return Blocks{}
			}},
		{name: "B08 a body cut short, let through by the application", want: "400", closes: 0,
			send: post("abc", "Content-Length: 9"), log: "expected 9 body bytes, got 3", app: readAll},
		{name: "E01 a map of its own", want: ok200 + "Content-Length: 3\r\n\r\nabc",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				clear(environ)
				startResponse("200 OK", nil)
				return Blocks{[]byte("abc")}
			}},
	}
}

const length3 = ok200 + "Content-Length: 3\r\n\r\nabc"

// readAll lets the error of a broken body through.
func readAll(p *probe, environ Environ, startResponse StartResponse) Body {
	if _, err := io.ReadAll(environ["wsgi.input"].(io.Reader)); err != nil {
		panic(fmt.Errorf("while reading the body: %w", err))
	}
	startResponse("200 OK", nil)
	return Blocks{}
}

const errorPage = "the application failed; the server's error log says how\n" +
	"PEP 3333, \"Error Handling\"\n"

// ourHeaders are the lines that the gateway adds to each head.
var ourHeaders = regexp.MustCompile(`Date: [^\r]+ GMT\r\nServer: ` + software + `\r\n`)

// TestApplication runs each small application once behind a real server.
func TestApplication(t *testing.T) {
	for _, c := range slices.Concat(headCases(), bodyCases(), lifeCases()) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, func(application Application) Application { return application })
		})
	}
}

func (c appCase) check(t *testing.T, reply, log string) {
	t.Helper()
	if len(c.want) == 3 && c.want != "abc" { // an error page, with nothing of the application's
		status, header, content := splitReply(t, reply)
		if status[:3] != c.want || len(header) != 5 {
			t.Errorf("expected a %s, got %q", c.want, reply)
		}
		if c.want == "500" && content != "500 Internal Server Error\n\n"+errorPage &&
			!strings.HasPrefix(c.send, "HEAD") {
			t.Errorf("the error page is %q", content)
		}
	} else if got := ourHeaders.ReplaceAllString(reply, ""); got != c.want {
		t.Errorf("expected %q\ngot %q", c.want, got)
	}
	if !strings.Contains(log, c.log) || c.log == "" && log != "" {
		t.Errorf("expected %q in the log:\n%s", c.log, log)
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

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// runOn runs an application against a wire, without any server.
func runOn(w *wire, application Application) (*Response, string) {
	var errors bytes.Buffer
	r := newResponse(w, httpLine, "GET", &errors)
	environ := Environ{}
	setTestingDefaults(environ)
	run(application, environ, &r)
	return &r, errors.String()
}

// TestHeadIsHeldBack shows S01, S02 and the one write: nothing leaves before the first
// block that is not empty, and that leaves together with the head.
func TestHeadIsHeldBack(t *testing.T) {
	w := &wire{}
	runOn(w, func(environ Environ, startResponse StartResponse) Body {
		out := startResponse("200 OK", nil)
		io.WriteString(out, "")
		return Stream(func(yield func([]byte) bool) {
			if yield(nil); len(w.writes) > 0 {
				t.Errorf("sent too early: %q", w.writes)
			}
			yield([]byte("a"))
			if len(w.writes) != 1 || !strings.HasSuffix(w.writes[0], "\r\n\r\na") {
				t.Errorf("expected the head and a in one write, got %q", w.writes)
			}
			yield([]byte("b"))
			if len(w.writes) != 2 || w.writes[1] != "b" { // W13
				t.Errorf("expected b to be sent before the next block, got %q", w.writes)
			}
		})
	})
}

// TestOwnDateAndServer shows S17: an application's own are not doubled.
func TestOwnDateAndServer(t *testing.T) {
	w := &wire{}
	runOn(w, func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", []Header{{"date", "then"}, {"SERVER", "mine"}})
		return Blocks{}
	})
	want := ok200 + "date: then\r\nSERVER: mine\r\nContent-Length: 0\r\n\r\n"
	if got := strings.Join(w.writes, ""); got != want {
		t.Errorf("got %q", got)
	}
}

// TestClientGone shows C04: the first write that fails is the last, Close is called, and
// an application that panics with the error it got makes no noise in the log.
func TestClientGone(t *testing.T) {
	gone := errors.New("broken pipe")
	for name, loud := range map[string]bool{"quiet": false, "loud": true} {
		t.Run(name, func(t *testing.T) {
			w, p := &wire{fail: gone}, &probe{}
			r, log := runOn(w, func(environ Environ, startResponse StartResponse) Body {
				out := startResponse("200 OK", nil)
				if _, err := io.WriteString(out, "a"); err != gone {
					t.Errorf("write gave %v", err)
				} else if loud {
					panic(fmt.Errorf("cannot write: %w", err))
				}
				return closing{Body: stream("b", "panic"), p: p}
			})
			if len(w.writes) != 1 || r.err != gone || strings.Contains(log, "failed") {
				t.Errorf("wrote %q, logged %q", w.writes, log)
			}
			if loud == (p.closes.Load() == 1) {
				t.Errorf("closed %d times", p.closes.Load())
			}
		})
	}
	t.Run("another error", func(t *testing.T) {
		_, log := runOn(&wire{fail: gone}, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return stream("a", "b", "panic")
		})
		if log != "" {
			t.Errorf("iteration went on: %s", log)
		}
		_, log = runOn(&wire{fail: gone}, func(environ Environ, startResponse StartResponse) Body {
			io.WriteString(startResponse("200 OK", nil), "a")
			panic("something else")
		})
		if !strings.Contains(log, "something else") {
			t.Errorf("a fault of the application is not in the log: %q", log)
		}
	})
}

// TestFileWrapper shows F01 to F03.
func TestFileWrapper(t *testing.T) {
	t.Run("F03 a file that is not as long as it says", func(t *testing.T) {
		const path = "/sys/class/net/lo/mtu"
		content, err := os.ReadFile(path)
		if err != nil {
			skip(t, "there is no such file")
		}
		reply := ask(t, start(t, func(_ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(must(os.Open(path))(t))
		}).addr, get())
		if reply = ourHeaders.ReplaceAllString(reply, ""); reply != ok200+"\r\n"+string(content) {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("C06 a file that cannot be read", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := start(t, func(_ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(must(os.OpenFile(path, os.O_WRONLY, 0))(t))
		})
		if reply := ask(t, s.addr, get()); !strings.HasPrefix(reply, "HTTP/1.0 500") {
			t.Errorf("got %q", reply)
		}
		if s.stop(); !strings.Contains(s.errors.String(), path) {
			t.Errorf("the log is %q", s.errors)
		}
	})
	t.Run("F03 more than its Content-Length is logged", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := &wire{}
		_, log := runOn(w, func(_ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", contentLength("3"))
			return newFileWrapper(must(os.Open(path))(t))
		})
		if !strings.HasSuffix(strings.Join(w.writes, ""), "\r\n\r\nhel") ||
			log != "Content-Length is 3, the body is longer: the rest is not sent\n" {
			t.Errorf("wrote %q, logged %q", w.writes, log)
		}
	})
	t.Run("C07 a file that breaks off", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
			t.Fatal(err)
		}
		file := must(os.Open(path))(t)
		var log bytes.Buffer
		r := newResponse(writeFunc(func(p []byte) (int, error) {
			file.Close() // when the head is sent
			return len(p), nil
		}), httpLine, "GET", &log)
		run(func(_ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(file)
		}, Environ{}, &r)
		if r.err != nil || !strings.Contains(log.String(), "the application failed: read "+path) {
			t.Errorf("%v, and the log is %q", r.err, log.String())
		}
	})
	const size = 5 << 20
	path := filepath.Join(t.TempDir(), "file")
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	var file *os.File
	serveFile := func(headers []Header, offset int64, wrap func(Body) Body) Application {
		return func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", headers)
			file, _ = os.Open(path)
			file.Seek(offset, io.SeekStart)
			wrapper := environ["wsgi.file_wrapper"].(func(io.Reader, ...int) Body)
			return wrap(wrapper(file, 8192))
		}
	}
	asIs := func(b Body) Body { return b }
	for _, c := range []struct {
		name    string
		app     Application
		send    string
		length  string // Content-Length in the head
		content []byte
	}{
		{"F01 whole", serveFile(nil, 0, asIs), get(), "5242880", content},
		{"F01 from its offset", serveFile(nil, size-5, asIs), get(), "5", content[size-5:]},
		{"F01 at its end", serveFile(nil, size, asIs), get(), "0", nil},
		{"F02 in middleware", logging(serveFile(nil, size-5, asIs)), get(), "", content[size-5:]},
		{"F02 made and not returned", serveFile(nil, 0, func(b Body) Body {
			b.(io.Closer).Close()
			return Blocks{[]byte("other")}
		}), get(), "5", []byte("other")},
		{"F03 a smaller Content-Length", serveFile(contentLength("3"), 0, asIs), get(), "3",
			content[:3]},
		{"F03 HEAD", serveFile(nil, 0, asIs), "HEAD / HTTP/1.0\r\n\r\n", "5242880", nil},
		{"F03 after write", func(environ Environ, startResponse StartResponse) Body {
			body := serveFile(nil, size-5, asIs)(environ, func(s string, h []Header, _ ...error) io.Writer {
				out := startResponse(s, h)
				io.WriteString(out, "first ")
				return out
			})
			return body
		}, get(), "", append([]byte("first "), content[size-5:]...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.app)
			head, got, _ := strings.Cut(ask(t, s.addr, c.send), "\r\n\r\n")
			s.stop()
			if got != string(c.content) {
				t.Errorf("got %d bytes instead of %d", len(got), len(c.content))
			}
			_, length, _ := strings.Cut(head, "Content-Length: ")
			if length != c.length {
				t.Errorf("expected Content-Length %q, got %q", c.length, length)
			}
			if err := file.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("the file was not closed: %v", err)
			}
		})
	}
	t.Run("F02 no file, no Close, no block size", func(t *testing.T) {
		w := &wire{}
		runOn(w, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(iotest.DataErrReader(strings.NewReader("abc")))
		})
		if got := strings.Join(w.writes, ""); !strings.HasSuffix(got, "\r\n\r\nabc") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("a read that fails", func(t *testing.T) {
		w := &wire{}
		_, log := runOn(w, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(iotest.ErrReader(errors.New("bad disk")))
		})
		if !strings.HasPrefix(w.writes[0], "HTTP/1.0 500") || !strings.Contains(log, "bad disk") {
			t.Errorf("got %q, %s", w.writes, log)
		}
	})
	t.Run("a file that shrinks", func(t *testing.T) {
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", contentLength(strconv.Itoa(size+1)))
			return serveFile(nil, 0, asIs)(environ, func(string, []Header, ...error) io.Writer { return nil })
		})
		ask(t, s.addr, get())
		s.stop()
		if !strings.Contains(s.errors.String(), "the body ended after 5242880 bytes") {
			t.Errorf("the log says %q", s.errors)
		}
	})
}

// TestSendfile proves that a file reaches the socket by sendfile(2): it runs one case of
// TestFileWrapper under strace and adds up what that system call sent.
func TestSendfile(t *testing.T) {
	if runtime.GOOS != "linux" {
		skip(t, "strace is for Linux")
	}
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
	total := 0
	for _, match := range regexp.MustCompile(`(?m)= (\d+)$`).FindAllSubmatch(must(os.ReadFile(trace))(t), -1) {
		total += must(strconv.Atoi(string(match[1])))(t)
	}
	if total != 5<<20 {
		t.Errorf("sendfile sent %d of %d bytes", total, 5<<20)
	}
}

// ---------------------------------------------------------------- The server's troubles

// dial connects to a server under test.
func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c := must(net.Dial("tcp", addr))(t).(*net.TCPConn)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
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

// TestBlocksArriveAtOnce shows W13 on the wire: the client has one block before the
// application makes the next.
func TestBlocksArriveAtOnce(t *testing.T) {
	for _, how := range []string{"block", "write"} {
		t.Run(how, func(t *testing.T) {
			seen := make(chan bool)
			s := start(t, func(environ Environ, startResponse StartResponse) Body {
				out := startResponse("200 OK", nil)
				if how == "write" {
					io.WriteString(out, "first\n")
					<-seen
					return Blocks{}
				}
				return Stream(func(yield func([]byte) bool) {
					yield([]byte("first\n"))
					<-seen
				})
			})
			c := dial(t, s.addr)
			io.WriteString(c, get())
			for lines := bufio.NewScanner(c); lines.Scan(); {
				if lines.Text() == "first" {
					seen <- true
				}
			}
		})
	}
}

// A tapeConn records reads and the deadlines set for them.
type tapeConn struct {
	memoryConn
	tape strings.Builder
}

func (c *tapeConn) Read(p []byte) (int, error) {
	c.tape.WriteString("r")
	return c.memoryConn.Read(p[:1])
}

func (c *tapeConn) SetReadDeadline(time.Time) error {
	c.tape.WriteString("d")
	return nil
}

func (c *tapeConn) SetWriteDeadline(time.Time) error {
	c.tape.WriteString("D")
	return nil
}

func (c *tapeConn) Write(p []byte) (int, error) {
	c.tape.WriteString("W")
	return len(p), nil
}

// TestDeadlines shows that the head has one deadline, each read of the body its own, and
// each piece of an answer too.
func TestDeadlines(t *testing.T) {
	head := get("Content-Length: 3")
	reads := "d" + strings.Repeat("r", len(head))
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 2*pieceSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		app  Application
		want string
	}{
		{"a body", showEnviron, reads + "drdrdrDW"},
		{"a long block", func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return Blocks{make([]byte, 2*pieceSize+1)}
		}, reads + "DW" + "DWDWDW"},
		{"a file", func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(must(os.Open(path))(t))
		}, reads + "DW" + "DWWDWWDW"}, // io.Copy writes 32 KiB at a time
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := &tapeConn{memoryConn: memoryConn{closed: make(chan bool, 1)}}
			conn.in.Reset(head + "abc")
			quiet(c.app).serveConn(conn)
			if conn.tape.String() != c.want {
				t.Errorf("expected %s\ngot %s", c.want, conn.tape.String())
			}
		})
	}
}

// TestSlowReader shows W15: a block of 16 MiB reaches a client that starts to read late.
func TestSlowReader(t *testing.T) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	called := make(chan bool, 1)
	s := start(t, func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", nil)
		called <- true
		return Blocks{block}
	})
	c := dial(t, s.addr)
	io.WriteString(c, get())
	wait(t, "the call", called)
	_, content, _ := strings.Cut(string(must(io.ReadAll(c))(t)), "\r\n\r\n")
	if content != string(block) {
		t.Errorf("got %d bytes", len(content))
	}
}

// An answer that breaks off must not look whole to a client that cannot count its bytes.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	breaks := func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", []Header{{"Content-Length", "9"}})
		return Stream(func(yield func([]byte) bool) {
			if yield([]byte("abc")) && environ.Get("PATH_INFO") == "/panic" {
				panic("on fire")
			}
		})
	}
	for _, path := range []string{"/panic", "/short"} {
		t.Run("HTTP/0.9, which has no Content-Length "+path, func(t *testing.T) {
			askCut(t, start(t, breaks).addr, "GET "+path+"\r\n")
		})
		t.Run("HTTP/1.0, which has one "+path, func(t *testing.T) {
			reply := ask(t, start(t, breaks).addr, getPath(path))
			if !strings.HasSuffix(reply, "\r\n\r\nabc") {
				t.Errorf("got %q", reply)
			}
		})
	}
	t.Run("a client that reads again, too late", func(t *testing.T) {
		closed := make(chan bool, 1)
		s := start(t, endless(closed), short)
		c := dial(t, s.addr)
		io.WriteString(c, get())
		wait(t, "the end of the iteration", closed)
		eventually(t, "the end of the exchange", func() bool { return s.access.String() != "" })
		if n, err := io.Copy(io.Discard, c); !isReset(err) {
			t.Errorf("the client got %d bytes and then %v, expected a reset", n, err)
		}
	})
}

// endless sends blocks until nobody wants them, and tells when it is closed.
func endless(closed chan<- bool) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", nil)
		return Stream(func(yield func([]byte) bool) {
			defer func() { closed <- true }()
			for block := make([]byte, 1<<20); yield(block); {
			}
		})
	}
}

func TestClientLeaves(t *testing.T) { // C04
	closed := make(chan bool, 1)
	s := start(t, endless(closed))
	c := dial(t, s.addr)
	io.WriteString(c, get())
	must(io.ReadFull(c, make([]byte, 1<<16)))(t)
	c.SetLinger(0) // the system sends a reset
	c.Close()
	wait(t, "the end of the iteration", closed)
	s.stop()
	if log := s.errors.String(); log != "" {
		t.Errorf("the log says %s", log)
	}
}

// short gives a server a time-out that tests can wait for.
func short(s *Server) { s.Timeout = 100 * time.Millisecond }

func TestTimeouts(t *testing.T) { // T03, T04
	t.Parallel()
	t.Run("T04 a client that never reads", func(t *testing.T) {
		closed := make(chan bool, 1)
		s := start(t, endless(closed), short)
		io.WriteString(dial(t, s.addr), get())
		wait(t, "the end of the iteration", closed)
	})
	t.Run("T04 a client that never reads a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return newFileWrapper(must(os.Open(path))(t))
		}, short)
		io.WriteString(dial(t, s.addr), get())
		eventually(t, "the end of the exchange", func() bool { return s.access.String() != "" })
	})
	for _, c := range []struct{ name, send, want, reason string }{
		{"T03 silence", "", "", ""},
		{"T03 half a request line", "GET / HT", "408", "GET / HT\n        ^ expected an empty line to end the head: waited 100ms"},
		{"T03 half a head", "GET / HTTP/1.0\r\nA: b\r\n", "408", "waited 100ms"},
		{"T03 half a body", post("abc", "Content-Length: 12"), "408",
			"expected 12 body bytes, got 3: waited 100ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, showEnviron, short)
			reply := ask(t, s.addr, c.send)
			if c.want == "" && reply == "" {
				return
			}
			if status, _, content := splitReply(t, reply); status[:3] != c.want ||
				!strings.Contains(content, c.reason) {
				t.Errorf("got %q", reply)
			}
		})
	}
	t.Run("T03 one byte at a time for ever", func(t *testing.T) {
		s := start(t, showEnviron, short)
		c := dial(t, s.addr)
		go func() {
			for { // each byte comes in time, the head does not
				if _, err := c.Write([]byte("G")); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		line, _ := bufio.NewReader(c).ReadString('\n')
		if line != "HTTP/1.0 408 Request Timeout\r\n" {
			t.Errorf("got %q", line)
		}
		c.Close()
	})
}

func TestSerialAndConcurrent(t *testing.T) { // T01, T02, E18
	const clients = 50
	t.Run("T01 serial", func(t *testing.T) {
		var inside, overlaps atomic.Int32
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			if environ["wsgi.multithread"] != false || environ["wsgi.multiprocess"] != false || environ["wsgi.run_once"] != false {
				t.Error("there is one call at a time, in one process, for many requests")
			}
			return Stream(func(yield func([]byte) bool) {
				if inside.Add(1) > 1 {
					overlaps.Add(1)
				}
				startResponse("200 OK", nil)
				yield([]byte("a"))
				runtime.Gosched()
				inside.Add(-1)
			})
		}, func(s *Server) { s.Serial = true })
		dial(t, s.addr) // a browser's idle connection does not count
		together(clients, func() { ask(t, s.addr, get()) })
		if overlaps.Load() > 0 {
			t.Errorf("%d calls overlapped", overlaps.Load())
		}
	})
	t.Run("T02 concurrent, one slow", func(t *testing.T) {
		release, slow := make(chan bool), make(chan string)
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			if environ["wsgi.multithread"] != true || environ["wsgi.multiprocess"] != false || environ["wsgi.run_once"] != false {
				t.Error("there are many calls at a time, in one process, for many requests")
			}
			startResponse("200 OK", nil)
			if environ.Get("PATH_INFO") == "/slow" {
				<-release
			}
			return Blocks{[]byte(environ.Get("PATH_INFO"))}
		})
		go func() { slow <- ask(t, s.addr, "GET /slow HTTP/1.0\r\n\r\n") }()
		together(clients, func() {
			if reply := ask(t, s.addr, get()); !strings.HasSuffix(reply, "\r\n\r\n/") {
				t.Errorf("got %q", reply)
			}
		})
		close(release)
		if reply := wait(t, "the slow answer", slow); !strings.HasSuffix(reply, "/slow") {
			t.Errorf("got %q", reply)
		}
	})
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

// TestManyClients shows T05: no more connections than the limit are open, and those that
// had to wait are answered.
func TestManyClients(t *testing.T) {
	var server *Server
	open := func() int {
		server.mu.Lock()
		defer server.mu.Unlock()
		return len(server.conns)
	}
	var most atomic.Int32
	s := start(t, func(environ Environ, startResponse StartResponse) Body {
		for n := int32(open()); n > most.Load(); {
			most.Store(n) // lost updates do not matter: it only has to exceed 2
		}
		return hello(environ, startResponse)
	}, func(s *Server) { server, s.MaxConns = s, 2 })
	together(50, func() { ask(t, s.addr, get()) })
	if most.Load() > 2 {
		t.Errorf("%d connections were open", most.Load())
	}
	eventually(t, "an end", func() bool { return open() == 0 })
	first, second := dial(t, s.addr), dial(t, s.addr)
	eventually(t, "two connections", func() bool { return open() == 2 })
	third := dial(t, s.addr)
	io.WriteString(third, get())
	if open() > 2 {
		t.Errorf("%d connections are open", open())
	}
	first.Close()
	if reply := must(io.ReadAll(third))(t); !strings.HasPrefix(string(reply), ok200) {
		t.Errorf("got %q", reply)
	}
	second.Close()
}

// A failingListener fails to accept, and then does.
type failingListener struct {
	net.Listener
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

// TestAcceptFails shows that running out of descriptors passes, with one line in the log.
func TestAcceptFails(t *testing.T) {
	s, errors := newServer(hello), &lockedBuffer{}
	s.ErrorLog = log.New(errors, "", 0)
	l := must(listen("127.0.0.1:0"))(t)
	done := make(chan bool)
	go func() { s.Serve(&failingListener{l, 3}); close(done) }()
	if reply := ask(t, l.Addr().String(), get()); !strings.HasPrefix(reply, ok200) {
		t.Errorf("got %q", reply)
	}
	s.Shutdown(time.Second)
	<-done
	if n := strings.Count(errors.String(), "cannot accept"); n != 1 {
		t.Errorf("%d lines in the log: %s", n, errors)
	}
}

func TestShutdown(t *testing.T) { // T06
	t.Parallel()
	t.Run("a running request ends, a silent client is hung up on", func(t *testing.T) {
		called, release := make(chan bool), make(chan bool)
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			called <- true
			<-release
			return Blocks{[]byte("whole")}
		}, func(s *Server) { s.Timeout = time.Hour })
		busy, silent := dial(t, s.addr), dial(t, s.addr)
		io.WriteString(busy, get())
		wait(t, "the call", called)
		stopped := make(chan bool)
		go func() { s.stop(); close(stopped) }()
		if n, err := silent.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("the silent client got %d bytes, %v", n, err)
		}
		eventually(t, "a refused connection", func() bool {
			c, err := net.Dial("tcp", s.addr)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		release <- true
		if reply := must(io.ReadAll(busy))(t); !strings.HasSuffix(string(reply), "whole") {
			t.Errorf("got %q", reply)
		}
		wait(t, "Shutdown", stopped)
	})
	t.Run("an answer that is cut does not look whole", func(t *testing.T) {
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return Stream(func(yield func([]byte) bool) {
				for yield([]byte("x")) {
					time.Sleep(time.Millisecond)
				}
			})
		})
		busy := dial(t, s.addr)
		io.WriteString(busy, get())
		must(io.ReadFull(busy, make([]byte, 1)))(t)
		s.Shutdown(time.Millisecond)
		if n, err := io.Copy(io.Discard, busy); !isReset(err) {
			t.Errorf("the client got %d bytes and then %v, expected a reset", n, err)
		}
	})
	t.Run("Close is called before it returns", func(t *testing.T) {
		p := &probe{}
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return closing{Body: Stream(func(yield func([]byte) bool) {
				for yield([]byte("x")) {
					time.Sleep(50 * time.Millisecond) // an application that takes its time
				}
			}), p: p}
		})
		c := dial(t, s.addr)
		io.WriteString(c, get())
		must(io.ReadFull(c, make([]byte, 1)))(t)
		if s.Shutdown(time.Millisecond); p.closes.Load() != 1 {
			t.Errorf("Close was called %d times", p.closes.Load())
		}
	})
	t.Run("while connections come, and somebody watches", func(t *testing.T) {
		for i := range 5 { // what can go wrong is a race
			s := start(t, hello, func(s *Server) {
				s.Watch = watchQuietly
			})
			c := dial(t, s.addr)
			time.Sleep(time.Duration(i) * 100 * time.Microsecond)
			s.Shutdown(time.Second)
			c.Close()
		}
	})
	t.Run("in serial mode, a request that waits for its turn gets 503", func(t *testing.T) {
		called, release := make(chan bool, 1), make(chan bool)
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			called <- true
			<-release
			return hello(environ, startResponse)
		}, func(s *Server) { s.Serial = true })
		first, second := dial(t, s.addr), dial(t, s.addr)
		io.WriteString(first, get())
		wait(t, "the call", called)
		io.WriteString(second, get())
		eventually(t, "the second request", func() bool { return s.busy() == 2 })
		go s.Shutdown(time.Millisecond)
		reply := must(io.ReadAll(second))(t)
		if !bytes.HasPrefix(reply, []byte("HTTP/1.0 503 ")) {
			t.Errorf("got %q", reply)
		}
		close(release)
	})
	t.Run("while nobody reads the log of a watcher", func(t *testing.T) {
		blocked, release := make(chan bool, 1), make(chan bool)
		defer close(release)
		s := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return Stream(func(yield func([]byte) bool) {
				blocked <- true
				<-release
			})
		}, func(s *Server) {
			s.Watch = func(c net.Conn, application Application) (net.Conn, Application,
				func(*Request, error)) {
				return closeWaits{c, release}, application, func(*Request, error) {}
			}
		})
		c := dial(t, s.addr)
		io.WriteString(c, get())
		wait(t, "the call", blocked)
		stopped := make(chan bool)
		go func() { s.Shutdown(time.Millisecond); close(stopped) }()
		wait(t, "Shutdown", stopped)
	})
	t.Run("an endless answer is cut", func(t *testing.T) {
		closed := make(chan bool, 1)
		s := start(t, endless(closed))
		c := dial(t, s.addr)
		io.WriteString(c, get())
		must(io.ReadFull(c, make([]byte, 1)))(t)
		s.Shutdown(time.Millisecond)
		wait(t, "the end of the iteration", closed)
		c.Close()
	})
	t.Run("a client that has its answer is not waited for", func(t *testing.T) {
		s := start(t, hello, func(s *Server) { s.Timeout = time.Hour })
		c := dial(t, s.addr)
		io.WriteString(c, post("abc", "Content-Length: 9"))
		must(io.ReadAll(c))(t) // the server has ended its half, and drains
		stopped := make(chan bool)
		go func() { s.Shutdown(time.Hour); close(stopped) }()
		wait(t, "Shutdown", stopped)
	})
	t.Run("a request that comes a moment late is answered", func(t *testing.T) {
		s := start(t, hello)
		c := dial(t, s.addr)
		eventually(t, "the connection", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.conns) == 1
		})
		stopped := make(chan bool)
		go func() { s.Shutdown(time.Hour); close(stopped) }()
		eventually(t, "the end of accepting", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.stopping.Load()
		})
		io.WriteString(c, get())
		if reply := must(io.ReadAll(c))(t); !strings.HasSuffix(string(reply), "World!\n") {
			t.Errorf("got %q", reply)
		}
		wait(t, "Shutdown", stopped)
	})
	t.Run("half a head is not said to be late", func(t *testing.T) {
		s := start(t, hello, func(s *Server) { s.Timeout = time.Hour })
		c := dial(t, s.addr)
		io.WriteString(c, "GET / HTTP/1.0\r\nHos")
		eventually(t, "the connection", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.conns) == 1
		})
		s.Shutdown(time.Hour)
		reply := string(must(io.ReadAll(c))(t))
		if !strings.HasPrefix(reply, "HTTP/1.0 503") || !strings.Contains(reply, "Hos\n   ^ expected an empty line to "+
			"end the head before this server stopped\n") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("while applications that never end have all slots", func(t *testing.T) {
		release := make(chan bool)
		s := newServer(func(environ Environ, startResponse StartResponse) Body {
			<-release
			return Blocks{}
		})
		s.MaxConns, s.ErrorLog = 1, log.New(io.Discard, "", 0)
		l := must(listen("127.0.0.1:0"))(t)
		served := make(chan bool)
		go func() { s.Serve(l); close(served) }()
		c := dial(t, l.Addr().String())
		io.WriteString(c, get())
		eventually(t, "the call", func() bool { return s.busy() == 1 })
		go s.Shutdown(time.Millisecond)
		wait(t, "the end of Serve", served)
		close(release)
		c.Close()
		s.running.Wait()
	})
	t.Run("before Serve", func(t *testing.T) {
		s := newServer(hello)
		s.Shutdown(0)
		l := must(listen("127.0.0.1:0"))(t)
		s.Serve(l) // returns
		if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
			t.Error("the port is still open")
		}
	})
}

// closeWaits is a connection whose Close waits.
type closeWaits struct {
	net.Conn
	until <-chan bool
}

func (c closeWaits) Close() error { <-c.until; return c.Conn.Close() }

// A crowdedListener has no descriptor for a connection until the server stops, then for one,
// and for others when that has been served.
type crowdedListener struct {
	*net.TCPListener
	s      *Server
	calls  int
	served atomic.Bool
}

func (l *crowdedListener) Accept() (net.Conn, error) {
	if l.s.stopping.Load() {
		l.calls++
	}
	if l.calls == 0 || l.calls > 1 && !l.served.Load() {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.TCPListener.Accept()
}

// TestCrowdedStop: a server that stops while it is out of descriptors answers its backlog all
// the same, and says what was in the way.
func TestCrowdedStop(t *testing.T) {
	l := &crowdedListener{TCPListener: must(listen("127.0.0.1:0"))(t).(*net.TCPListener)}
	l.s = newServer(func(environ Environ, startResponse StartResponse) Body {
		l.served.Store(true)
		return hello(environ, startResponse)
	})
	errors := &lockedBuffer{}
	l.s.ErrorLog = log.New(errors, "", 0)
	var clients []net.Conn
	for range 3 {
		c := dial(t, l.Addr().String())
		io.WriteString(c, get())
		clients = append(clients, c)
	}
	go l.s.Serve(l)
	eventually(t, "a line in the log", func() bool {
		return strings.Contains(errors.String(), "cannot accept a connection")
	})
	go l.s.Shutdown(time.Minute)
	for _, c := range clients {
		if reply := must(io.ReadAll(c))(t); !bytes.HasPrefix(reply, []byte(ok200)) {
			t.Errorf("got %q", reply)
		}
	}
	l.s.running.Wait()
}

// TestHalfClose shows T08: the end of the client's half is not the end of the answer.
func TestHalfClose(t *testing.T) {
	s := start(t, newClock(3, time.Millisecond))
	reply := exchangeWith(t, s.addr, row{send: get(), how: "then end"}, 100)
	if lines := strings.Count(reply, "\n"); lines != 6+3 {
		t.Errorf("%d lines: %q", lines, reply)
	}
}

// TestUnreadBody shows B10: a client that sends all of its body before it reads can do so,
// although the application does not want it, and then has its answer.
func TestUnreadBody(t *testing.T) {
	s := start(t, hello)
	c := dial(t, s.addr)
	must(io.WriteString(c, post(strings.Repeat("x", 8<<20), "Content-Length: 8388608")))(t)
	c.CloseWrite()
	if reply := must(io.ReadAll(c))(t); !bytes.HasSuffix(reply, []byte("Hello, World!\n")) {
		t.Errorf("got %q", reply)
	}
}

// TestTrailingLineEnd: B10, for what old browsers send behind a body that they do not count.
func TestTrailingLineEnd(t *testing.T) {
	for _, n := range []int{3, 100000} {
		for range 5 {
			s := start(t, showEnviron)
			c := dial(t, s.addr)
			must(io.WriteString(c, post(strings.Repeat("x", n)+"\r\n", "Content-Length: "+strconv.Itoa(n))))(t)
			if reply := must(io.ReadAll(c))(t); !bytes.Contains(reply, []byte(fmt.Sprintf("BODY-LENGTH: %d\n", n))) {
				t.Errorf("got %q", reply)
			}
			c.Close()
			s.stop()
		}
	}
}

// TestContinue shows B14: 100 Continue goes out when the body is first read, to a client
// that waits for it, and not after the answer has begun.
func TestContinue(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: foo, 100-Continue\r\nContent-Length: 3\r\n\r\n"
	s := start(t, showEnviron)
	c := dial(t, s.addr)
	io.WriteString(c, head)
	r := bufio.NewReader(c)
	line := must(r.ReadString('\n'))(t) + must(r.ReadString('\n'))(t)
	if line != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("got %q", line)
	}
	io.WriteString(c, "abc")
	if reply := string(must(io.ReadAll(r))(t)); !strings.HasPrefix(reply, ok200) ||
		!strings.Contains(reply, "BODY-LENGTH: 3\n") {
		t.Errorf("got %q", reply)
	}
	unread := start(t, hello)
	if reply := ask(t, unread.addr, head+"abc"); !strings.HasPrefix(reply, ok200) {
		t.Errorf("the body was not asked for, and yet: %q", reply)
	}
	late := start(t, func(environ Environ, startResponse StartResponse) Body {
		io.WriteString(startResponse("200 OK", nil), "begun ")
		return readBlocks(environ["wsgi.input"].(io.Reader), 10)
	})
	if reply := ask(t, late.addr, head+"abc"); !strings.HasSuffix(reply, "\r\n\r\nbegun abc") {
		t.Errorf("got %q", reply)
	}
}

// TestLogs shows C10, C11 and I07.
func TestLogs(t *testing.T) {
	s := start(t, func(environ Environ, startResponse StartResponse) Body {
		out := environ["wsgi.errors"].(io.Writer)
		for range 100 { // in two pieces, which lines of other requests must not part
			io.WriteString(out, "the beginning, ")
			io.WriteString(out, "the end\n")
		}
		return hello(environ, startResponse)
	})
	together(20, func() { ask(t, s.addr, "GET /\x9f\"\\ HTTP/1.0\r\n\r\n") })
	ask(t, s.addr, "GET /\x1b[2J HTTP/1.0\r\n\r\n")
	s.stop()
	for _, line := range strings.Split(strings.TrimSpace(s.errors.String()), "\n") {
		if line != "the beginning, the end" && !strings.HasPrefix(line, "400 Bad Request: expected a target without control") {
			t.Errorf("a line of the error log: %q", line)
		}
	}
	form := regexp.MustCompile(`^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "([^ ]+ [^ ]+ [^ ]+)" (\d+) (\d+)$`)
	seen := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(s.access.String()), "\n") {
		match := form.FindStringSubmatch(line)
		if match == nil {
			t.Fatalf("a line of the access log: %q", line)
		}
		seen[match[1]+" "+match[2]]++
		if match[2] == "200" && match[3] != "14" {
			t.Errorf("expected 14 body bytes in %q", line)
		}
	}
	want := map[string]int{`GET /\x9f\"\\ HTTP/1.0 200`: 20, `GET /\x1b[2J HTTP/1.0 400`: 1}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("got %v", seen)
	}
}

// TestAddresses shows E11 and E13, over IPv4, IPv6 and a Unix socket.
func TestAddresses(t *testing.T) {
	check := func(t *testing.T, s *running, want ...string) {
		lines := strings.Split(ask(t, s.addr, get()), "\n")
		for _, line := range want {
			if !slices.Contains(lines, line) {
				t.Errorf("expected %q in %q", line, lines)
			}
		}
	}
	for _, addr := range []string{"127.0.0.1:0", ":0"} {
		t.Run("listening on "+addr, func(t *testing.T) {
			s := startOn(t, addr, showEnviron)
			_, port, _ := net.SplitHostPort(s.addr)
			check(t, s, "SERVER_NAME: 127.0.0.1", "SERVER_PORT: "+port, "REMOTE_ADDR: 127.0.0.1")
		})
	}
	t.Run("listening on every address", func(t *testing.T) {
		s := startOn(t, "0.0.0.0:0", showEnviron)
		_, port, _ := net.SplitHostPort(s.addr)
		s.addr = "127.0.0.1:" + port
		check(t, s, "SERVER_NAME: 127.0.0.1", "SERVER_PORT: "+port)
	})
	t.Run("IPv6", func(t *testing.T) {
		if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
			skip(t, fmt.Sprint("this machine has no IPv6: ", err))
		} else {
			l.Close()
		}
		s := startOn(t, "[::1]:0", showEnviron)
		_, port, _ := net.SplitHostPort(s.addr)
		check(t, s, "SERVER_NAME: [::1]", "SERVER_PORT: "+port, "REMOTE_ADDR: ::1")
	})
	t.Run("Unix socket", func(t *testing.T) {
		path := socketPath(t)
		stale := must(net.Listen("unix", path))(t).(*net.UnixListener)
		stale.SetUnlinkOnClose(false) // as if the server before had been killed
		stale.Close()
		s := startOn(t, "unix:"+path, showEnviron)
		check(t, s, "SERVER_NAME: localhost", "SERVER_PORT: 80", "REMOTE_ADDR: ", "REMOTE_PORT: ")
		if _, err := listen("unix:" + path); !isErrno(err, syscall.EADDRINUSE, 10048) {
			t.Errorf("a second server got %v", err)
		}
		s.stop()
		if !strings.HasPrefix(s.access.String(), "- - - [") {
			t.Errorf("the access log says %q", s.access)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	t.Run("a Unix socket of a newer server", func(t *testing.T) {
		path := socketPath(t)
		old := startOn(t, "unix:"+path, hello)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		startOn(t, "unix:"+path, showEnviron)
		old.stop()
		if reply := ask(t, path, get()); !strings.Contains(reply, "SERVER_NAME: localhost") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("what is announced", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		own := regexp.MustCompile(`From other machines: http://\d+(\.\d+){3}:8000/`)
		announce(&net.TCPAddr{IP: net.IPv6zero, Port: 8000}, &stdout, &stderr)
		first, rest, _ := strings.Cut(stdout.String(), "\n")
		if first != "Serving HTTP on 0.0.0.0 port 8000 (http://127.0.0.1:8000/) ..." ||
			strings.Trim(own.ReplaceAllString(rest, ""), "\n") != "" ||
			!strings.HasPrefix(stderr.String(), "Warning: other machines") {
			t.Errorf("got %q and %q", stdout.String(), stderr.String())
		}
	})
	t.Run("a file in the way of a Unix socket", func(t *testing.T) {
		path := socketPath(t)
		if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := listen("unix:" + path); err == nil {
			t.Error("it was replaced")
		}
		if content := must(os.ReadFile(path))(t); string(content) != "data" {
			t.Errorf("it holds %q", content)
		}
	})
	t.Run("T07 the same port again at once", func(t *testing.T) {
		first := start(t, hello)
		ask(t, first.addr, get())
		first.stop()
		if reply := ask(t, startOn(t, first.addr, hello).addr, get()); !strings.HasPrefix(reply, ok200) {
			t.Errorf("got %q", reply)
		}
	})
}

// A brokenConn panics in the middle of the gateway's own work.
type brokenConn struct{ net.Conn }

func (brokenConn) RemoteAddr() net.Addr { panic("a fault") }

// TestGatewayFault shows that even a fault of ours costs one connection, not the server.
func TestGatewayFault(t *testing.T) {
	s, errors := newServer(hello), &lockedBuffer{}
	s.ErrorLog = log.New(errors, "", 0)
	client, server := net.Pipe()
	go io.WriteString(client, get())
	s.serveConn(brokenConn{server})
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is open: %v", err)
	}
	if !strings.Contains(errors.String(), "a fault in the gateway: a fault") {
		t.Errorf("the log says %q", errors)
	}
}

// ---------------------------------------------------------------- Applications and command

// call runs an application of ours without a server.
func call(name, path string, change ...Environ) (status string, headers []Header, body string) {
	application, err := choose(applications(Config{Root: "docs"}), name, "", false)
	if err != nil {
		panic(err)
	}
	environ := Environ{"PATH_INFO": path}
	for _, change := range change {
		for key, value := range change {
			environ[key] = value
		}
	}
	status, headers, content := callApplication(application, environ)
	return status, headers, string(content)
}

func TestApplications(t *testing.T) {
	for _, c := range []struct{ name, path, status, body string }{
		{"hello", "/", "200 OK", "^Hello, World!\n$"},
		{"class", "/", "200 OK", "^Hello from an object"},
		{"write", "/", "200 OK", `^3\.\.\.\n2\.\.\.\n1\.\.\.\nand the rest is returned\n$`},
		{"environ", "/x", "200 OK", `(?m)^PATH_INFO: /x$`},
		{"echo", "/", "200 OK", "(?s)<h1>Echo</h1>.*curl --data-binary @README.md http://127.0.0.1/<"},
		{"errors", "/excinfo", "503 Service Unavailable", "^Sorry: the database is on fire\n$"},
		{"errors", "/", "200 OK", `(?s)<a href="/before">.*<a href="/after">.*<a href="/excinfo">`},
		{"errors", "/x", "404 Not Found", "Try before, after or excinfo under /\n"},
		{"proxy", "/", "200 OK", "go run . -upstream 127"},
		{"cgi", "/", "200 OK", "go run . -script path"},
		{"gallery", "/hello", "200 OK", "^Hello, World!"},
		{"gallery", "/hello/", "200 OK", "^Hello, World!"},
		{"gallery", "/helloo", "404 Not Found", "The index is at /\n"},
		{"gallery", "/environ/a/b", "200 OK", `(?ms)^PATH_INFO: /a/b$.*^SCRIPT_NAME: /environ$`},
		{"gallery", "", "200 OK", "<h1>The gallery</h1>"},
	} {
		t.Run(c.name+c.path, func(t *testing.T) {
			status, headers, body := call(c.name, c.path)
			if status != c.status || !regexp.MustCompile(c.body).MatchString(body) {
				t.Errorf("got %s %q", status, body)
			}
			if sniffable(headers) && !strings.HasPrefix(body, "Hello") { // hello is as small as can be
				t.Errorf("a browser may guess the type: %v", headers)
			}
		})
	}
	t.Run("clock", func(t *testing.T) {
		_, _, body := callApplication(newClock(3, time.Millisecond), Environ{})
		if !regexp.MustCompile(`^(\d\d:\d\d:\d\d\n){3}$`).Match(body) {
			t.Errorf("got %q", body)
		}
	})
	t.Run("M09 testing defaults", func(t *testing.T) {
		for _, c := range []struct{ given, want Environ }{
			{Environ{}, Environ{"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1",
				"SERVER_PORT": "80", "wsgi.url_scheme": "http", "SERVER_PROTOCOL": "HTTP/1.0"}},
			{Environ{"HTTPS": "on"}, Environ{"wsgi.url_scheme": "https", "SERVER_PORT": "443"}},
			{Environ{"SERVER_NAME": "h", "SCRIPT_NAME": "/app"}, Environ{"HTTP_HOST": "h", "SERVER_NAME": "h", "PATH_INFO": ""}},
			{Environ{"REQUEST_METHOD": "PUT", "SERVER_PORT": "1"}, Environ{"REQUEST_METHOD": "PUT", "SERVER_PORT": "1"}},
		} {
			callApplication(func(environ Environ, startResponse StartResponse) Body {
				for key, want := range c.want {
					if environ[key] != want {
						t.Errorf("%v: %s is %v", c.given, key, environ[key])
					}
				}
				return hello(environ, startResponse)
			}, c.given)
		}
	})
	for name, application := range map[string]Application{
		"startResponse twice": func(_ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			startResponse("200 OK", nil)
			return Blocks{}
		},
		"no startResponse": func(Environ, StartResponse) Body { return Blocks{[]byte("x")} },
	} {
		t.Run("callApplication is a gateway: "+name, func(t *testing.T) {
			defer func() {
				if err, _ := recover().(error); err != errStartedTwice && err != errNotStarted {
					t.Errorf("it says %v", err)
				}
			}()
			callApplication(application, Environ{})
		})
	}
	t.Run("echo", func(t *testing.T) {
		s := start(t, echo)
		reply := ask(t, s.addr, post(allBytes(), "Content-Length: 256"))
		if _, header, content := splitReply(t, reply); content != allBytes() ||
			!slices.Contains(header, "Content-Length: 256") {
			t.Errorf("got %q", reply)
		}
	})
	for _, when := range []string{"/before", "/after"} {
		t.Run("errors"+when, func(t *testing.T) {
			s := start(t, failing)
			get := map[string]func(testing.TB, string, string) string{"/before": ask, "/after": askCut}[when]
			reply := get(t, s.addr, "GET "+when+" HTTP/1.0\r\n\r\n")
			if when == "/before" != strings.HasPrefix(reply, "HTTP/1.0 500 ") ||
				when == "/after" != strings.HasSuffix(reply, "will never be comp") {
				t.Errorf("got %q", reply)
			}
		})
	}
}

// sniffable reports whether an answer is a text and does not say nosniff.
func sniffable(headers []Header) bool {
	kind, _ := lookup(headers, "Content-Type")
	options, _ := lookup(headers, "X-Content-Type-Options")
	return strings.HasPrefix(kind, "text/") && options != "nosniff"
}

// TestIndex shows that the gallery's page names each application, with a command that
// works where it is mounted, and escapes what the client sent.
func TestIndex(t *testing.T) {
	_, headers, page := call("gallery", "/", Environ{"SCRIPT_NAME": "/a b",
		"HTTP_HOST": "<script>'h'", "wsgi.url_scheme": "https"})
	if value, _ := lookup(headers, "Content-Type"); value != "text/html; charset=utf-8" {
		t.Errorf("Content-Type: %s", value)
	}
	for _, entry := range applications(Config{}) {
		if entry.Name == "gallery" {
			continue
		}
		if link := `<a href="/a%20b/` + entry.Name + `">`; !strings.Contains(page, link) {
			t.Errorf("no %s in %s", link, page)
		}
		_, err := os.Stat("docs/" + entry.Chapter + ".md")
		link := `<a href="/a%20b/files/` + entry.Chapter + `.md">chapter ` + entry.Chapter[:2] + `</a>`
		if err != nil || !strings.Contains(page, link) {
			t.Errorf("no %s in %s: %v", link, page, err)
		}
		if entry.Name == "clock" {
			continue // it takes ten seconds
		}
		status, headers, _ := call("gallery", "/"+entry.Name, Environ{"PATH_INFO": "/" + entry.Name})
		kind, _ := lookup(headers, "Content-Type")
		if status != "200 OK" && status != "301 Moved Permanently" || !strings.HasPrefix(kind, "text/") {
			t.Errorf("the link to %s leads to %s, %s", entry.Name, status, kind)
		}
	}
	if strings.Contains(page, "<script") ||
		!strings.Contains(page, "curl -i https://&lt;script&gt;&#39;h&#39;/a%20b/hello<") {
		t.Errorf("not escaped: %s", page)
	}
	if regexp.MustCompile(`(src|href)="(https?:)?//`).MatchString(page) {
		t.Error("the page needs something from elsewhere")
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
		if string(got) != want {
			t.Errorf("%s: expected %q, got %q", path, want, got)
		}
	}
}

func TestMiddleware(t *testing.T) { // M01, M03
	for _, use := range []string{"log", "upper", "catch", "log,upper,catch"} {
		t.Run("no body under "+use, func(t *testing.T) {
			wrapped := must(withMiddleware(func(environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", textPlain)
				return nil
			}, use, false))(t)
			s := start(t, wrapped)
			reply := ask(t, s.addr, get())
			s.stop()
			if log := s.errors.String(); !strings.HasPrefix(reply, "HTTP/1.0 500") ||
				!strings.Contains(log, "failed: the application returned no body") {
				t.Errorf("got %s, the log is %.300s", reply, log)
			}
		})
	}
	for _, c := range []struct{ use, want string }{
		{"onion,onion", "onion 1: before\n  onion 2: before\nthe application\n" +
			"  onion 2: after\nonion 1: after\nclosed\n"},
		{"log", "log: GET /x?y=1\nthe application\nlog: startResponse \"200 OK\", 1 headers\n" +
			"log: a block of 3 bytes: \"a\\r\\n\"\nlog: a block of 0 bytes: \"\"\nclosed\n"},
	} {
		t.Run(c.use, func(t *testing.T) {
			var out bytes.Buffer
			application := func(environ Environ, startResponse StartResponse) Body {
				io.WriteString(&out, "the application\n")
				startResponse("200 OK", textPlain)
				return telling{stream("a\r\n", ""), &out}
			}
			wrapped := must(withMiddleware(application, c.use, false))(t)
			environ := Environ{"wsgi.errors": &out, "PATH_INFO": "/x", "QUERY_STRING": "y=1"}
			if _, _, body := callApplication(wrapped, environ); string(body) != "a\r\n" {
				t.Errorf("got %q", body)
			}
			if out.String() != c.want {
				t.Errorf("expected %q\ngot %q", c.want, out.String())
			}
		})
	}
}

// telling is a body that prints when it is closed.
type telling struct {
	Body
	out io.Writer
}

func (b telling) Close() error {
	_, err := io.WriteString(b.out, "closed\n")
	return err
}

func TestCommand(t *testing.T) {
	busy := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer busy.Close()
	served := start(t, hello)
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"help", []string{"-help"}, 0, "Usage: rawsgi", ""},
		{"list", []string{"-list"}, 0, "\n  hello     The smallest application", ""},
		{"a wrong flag", []string{"-prot", "80"}, 2, "", "flag provided but not defined: -prot"},
		{"a wrong application", []string{"-app", "helo"}, 2, "",
			`no application is called "helo"` + "\nSee -help for the flags, -list for the applications."},
		{"a wrong middleware", []string{"-use", "log,nion"}, 2, "",
			`no middleware is called "nion"; there are log, onion, upper`},
		{"a wrong mode", []string{"-mode", "fast"}, 2, "", "-mode is concurrent, serial or prefork"},
		{"a wrong time", []string{"-timeout", "0s"}, 2, "", "-timeout must be a time of 1ms at least"},
		{"a wrong size", []string{"-max-body", "-1"}, 2, "", "-max-body must be at least 0"},
		{"an argument too many", []string{"hello"}, 2, "", "an application is chosen with -app"},
		{"an upstream that is a URL", []string{"-upstream", "http://h:1"}, 2, "", `-upstream is host:port, like 127.0.0.1:9000, or several`},
		{"upstreams with a space", []string{"-upstream", "h:1, h:2"}, 2, "", `commas and no spaces between, not "h:1, h:2"`},
		{"an upstream without a port", []string{"-upstream", "h:1,h"}, 2, "", "-upstream is host:port"},
		{"an upstream with a large port", []string{"-upstream", "h:65536"}, 2, "", "-upstream is host:port"},
		{"an empty upstream", []string{"-upstream", "h:1,"}, 2, "", "-upstream is host:port"},
		{"an address without a port", []string{"-addr", "localhost"}, 2, "",
			`-addr is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not "localhost"`},
		{"T07 a port in use", []string{"-addr", busy.Addr().String()}, 1, "",
			"\nStop the program that has this address, or let -addr :0 pick a free port"},
		{"send", []string{"send", "-half-close", served.addr, `GET / HTTP/1.0\r\n\r\n`}, 0,
			"> GET / HTTP/1.0\\r\\n\n> \\r\\n\n< HTTP/1.0 200 OK\\r\\n\n", ""},
		{"send in pieces", []string{"send", "-split", "6", "-delay", "1ms", served.addr,
			`GET / HTTP/1.0\n\x0a`}, 0, "> GET / \n> HTTP/1\n> .0\\n\n> \\n\n< HTTP/1.0 200 OK", ""},
		{"send a wrong escape", []string{"send", served.addr, `\q`}, 2, "",
			`expected escapes like \r \n \t \\ \x00, got "\q"`},
		{"send too little", []string{"send", served.addr}, 2, "", "expected rawsgi send [flags] ADDR"},
		{"send with a flag behind", []string{"send", served.addr, "x", "-split", "3"}, 2, "",
			"expected rawsgi send [flags] ADDR"},
		{"send to a URL", []string{"send", "http://127.0.0.1:8000", "x"}, 2, "",
			`ADDR is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not "http://127.0.0.1:8000"`},
		{"a time without a unit", []string{"-timeout", "5"}, 2, "", "with its unit, like 5s or 500ms"},
		{"a size with a unit", []string{"-max-body", "1GB"}, 2, "", "in digits, like 1000000"},
		{"a port alone", []string{"-addr", "8000"}, 2, "", "-addr is host:port, like 127.0.0.1:8000"},
		{"too many programs", []string{"-programs", "65537"}, 2, "", "-programs must be from 1 to 65536"},
		{"a Unix socket where a directory is", []string{"-addr", "unix:docs"}, 1, "", "docs is there, and is not a socket"},
		{"a Unix socket without a path", []string{"-addr", "unix:"}, 2, "", "is unix: and the path of a file"},
		{"a time that is too short", []string{"-timeout", "1ns"}, 2, "", "a time of 1ms at least"},
		{"a Unix socket with a long path", []string{"-addr", "unix:/" + strings.Repeat("x", 107)}, 2, "",
			"the path of a file, of at most 103 bytes"},
		{"an abstract socket", []string{"-addr", "unix:@name"}, 2, "", "is unix: and the path of a file"},
		{"help to call", []string{"call", "-h"}, 0, "rawsgi call [flags] '/path?query'", ""},
		{"help to send", []string{"send", "-h"}, 0, "-half-close", ""},
		{"call", []string{"call", "-app", "hello", "/"}, 0,
			"200 OK\nContent-Type: text/plain; charset=utf-8\nContent-Length: 14\n\nHello, World!\n", ""},
		{"call with a query", []string{"call", "/a%20b?x=%201"}, 0, "\nPATH_INFO: /a b\nQUERY_STRING: x=%201\n", ""},
		{"call with middleware", []string{"call", "-app", "hello", "-use", "upper", "/"}, 0, "\n\nHELLO, WORLD!\n", ""},
		{"call a wrong application", []string{"call", "-app", "helo", "/"}, 2, "",
			`no application is called "helo"`},
		{"call nothing", []string{"call"}, 2, "", "rawsgi call [flags] '/path?query'"},
		{"call a wrong path", []string{"call", "/%zz"}, 2, "", "expected two hex digits after %"},
		{"call an application that panics", []string{"call", "-app", "errors", "/before"}, 1, "",
			"the application panicked: the application failed before its head was sent"},
		{"send to nobody", []string{"send", "127.0.0.1:1", "x"}, 1, "", "127.0.0.1:1: connect"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := command(c.args, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) ||
				!strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit %d\nstdout %q\nstderr %q", code, stdout.String(), stderr.String())
			}
			if c.code != 0 && stderr.Len() == 0 || c.code == 0 && stderr.Len() > 0 {
				t.Errorf("exit %d, and on standard error %q", code, stderr.String())
			}
		})
	}
}

// TestProgram runs the program as a user does, and stops it with a signal in the middle
// of an answer.
func TestProgram(t *testing.T) { // T06
	if runtime.GOOS == "windows" {
		skip(t, "signals are for Unix")
	}
	for _, c := range []struct {
		name    string
		signals []os.Signal
		finish  bool // let the running request end
	}{
		{"SIGINT", []os.Signal{os.Interrupt}, true},
		{"SIGTERM", []os.Signal{syscall.SIGTERM}, true},
		{"SIGHUP", []os.Signal{syscall.SIGHUP}, true},
		{"twice", []os.Signal{os.Interrupt, os.Interrupt}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if slices.Contains(c.signals, os.Signal(syscall.SIGHUP)) && signal.Ignored(syscall.SIGHUP) {
				skip(t, "SIGHUP is ignored here, as nohup(1) does")
			}
			program, addr, _ := startProgram(t, "-app", "echo", "-quiet")
			busy := dial(t, addr)
			io.WriteString(busy, post("abc", "Content-Length: 6"))
			must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
			for i, each := range c.signals {
				if program.Process.Signal(each); i > 0 {
					break
				}
				eventually(t, "a refused connection", func() bool {
					c, err := net.Dial("tcp", addr)
					if err == nil {
						c.Close()
					}
					return err != nil
				})
			}
			if c.finish {
				io.WriteString(busy, "def")
				if reply := must(io.ReadAll(busy))(t); !strings.HasSuffix(string(reply), "abcdef") {
					t.Errorf("got %q", reply)
				}
				busy.Close() // or the server would wait for it
			}
			if err := ended(t, program); err != nil {
				t.Errorf("the program ended with %v", err)
			}
		})
	}
}

// TestPrintable shows I07 and I08: a log has text, and nothing that a terminal obeys.

// TestLostLog shows that a program lives on when nobody reads its log any more, as after
// Ctrl-C in "rawsgi | tee log"; and that a CGI program has the usual SIGPIPE all the same.
func TestLostLog(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "signals are for Unix")
	}
	script := writeScript(t, t.TempDir(), "pipe", `printf '\n'; kill -PIPE $$; echo ignored`)
	for _, mode := range []string{"concurrent", "prefork"} {
		t.Run(mode, func(t *testing.T) {
			program := exec.Command(os.Args[0], "-addr", "127.0.0.1:0", "-mode", mode, "-script", script)
			program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
			stdout, log := must(program.StdoutPipe())(t), must(program.StderrPipe())(t)
			if err := program.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
			banner := must(bufio.NewReader(stdout).ReadString('\n'))(t)
			addr := regexp.MustCompile(`[\d.]+:\d+`).FindString(banner)
			log.Close()
			for range 20 {
				if reply := ask(t, addr, getPath("/errors/before")); !strings.HasPrefix(reply, "HTTP/1.0 500") {
					t.Fatalf("got %q", reply)
				}
			}
			if reply := ask(t, addr, getPath("/cgi")); strings.Contains(reply, "ignored") {
				t.Errorf("got %q", reply)
			}
			program.Process.Signal(syscall.SIGTERM)
			if err := ended(t, program); err != nil {
				t.Errorf("the program ended with %v", err)
			}
		})
	}
}

// TestStopIsTold shows what Ctrl-C says during a request.
func TestStopIsTold(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "signals are for Unix")
	}
	program, addr, log := startProgram(t, "-app", "echo", "-quiet")
	busy := dial(t, addr)
	io.WriteString(busy, post("abc", "Content-Length: 6"))
	must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
	program.Process.Signal(os.Interrupt)
	eventually(t, "the message", func() bool {
		return strings.Contains(log.String(), "waiting up to 5s for 1 request to end; press Ctrl-C again")
	})
	program.Process.Signal(os.Interrupt)
	ended(t, program) // the second signal, which TestProgram shows
	busy.Close()
}

// TestWASI: as wasip1, this is a CGI program. It cannot listen, and says so.
func TestWASI(t *testing.T) {
	long(t)
	node, err := exec.LookPath("node")
	if err != nil {
		skip(t, "needs node", "nodejs")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "rawsgi.wasm"), ".")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	runner := filepath.Join(dir, "run.mjs")
	text := `import { WASI } from "wasi"; import { readFileSync } from "fs"
const wasi = new WASI({ version: "preview1", args: ["rawsgi", ...process.argv.slice(2)], returnOnExit: true })
const module = await WebAssembly.compile(readFileSync(import.meta.dirname + "/rawsgi.wasm"))
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()))`
	if err := os.WriteFile(runner, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{"-cgi -app hello": "\r\n\r\nHello, World!\n", "-addr 127.0.0.1:0": "start it with -cgi",
		"-addr 127.0.0.1:0 -mode prefork": "start it with -cgi"} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		command := exec.CommandContext(ctx, node, append([]string{"--no-warnings", runner}, strings.Fields(args)...)...)
		out, err := command.CombinedOutput()
		cancel()
		if !strings.Contains(string(out), want) || strings.Contains(string(out), "Serving") {
			t.Errorf("%s: got %q, %v", args, out, err)
		}
	}
}

// TestBlockedLog: nobody reads the log any more, and it is full. The server stops all the same.
func TestBlockedLog(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		skip(t, "signals are for Unix")
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	write.SetWriteDeadline(time.Now().Add(time.Second)) // a write into a full pipe blocks
	for err == nil {
		_, err = write.Write([]byte("x"))
	}
	program := exec.Command(os.Args[0], "-addr", "127.0.0.1:0", "-app", "echo", "-quiet")
	program.Env, program.Stderr = append(os.Environ(), "RAWSGI_AS_PROGRAM=1"), write
	stdout := must(program.StdoutPipe())(t)
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	defer program.Process.Kill() // fails if it has ended, as it should
	banner := must(bufio.NewReader(stdout).ReadString('\n'))(t)
	busy := dial(t, regexp.MustCompile(`[\d.]+:\d+`).FindString(banner))
	io.WriteString(busy, post("abc", "Content-Length: 6"))
	must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
	program.Process.Signal(syscall.SIGTERM)
	eventually(t, "a refused connection", func() bool {
		c, err := net.Dial("tcp", busy.RemoteAddr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	io.WriteString(busy, "def")
	if reply := must(io.ReadAll(busy))(t); !bytes.HasSuffix(reply, []byte("def")) {
		t.Errorf("got %q", reply)
	}
	busy.Close()
	ended(t, program) // how it ends is for others
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{"a\u00a0b \u3000\t한": "a\u00a0b \u3000\t한", "👩\u200d👩": "👩\u200d👩", "a\r": "a",
		"\x1b[2J\r\a\x7f\u009b": "\uFFFD[2J\uFFFD\uFFFD\uFFFD\uFFFD", "\xff\u202e\u2028": "\uFFFD\uFFFD\uFFFD"} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

// TestUnescape shows what send makes of its argument.
func TestUnescape(t *testing.T) {
	for text, want := range map[string]string{`a\r\n`: "a\r\n", `\x00\xff`: "\x00\xff", "\xff한\"": "\xff한\"", `\"\\`: "\"\\", "": ""} {
		if got, err := unescape(text); got != want || err != nil {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
	for _, text := range []string{`\`, `\q`, `a\x0`} {
		if got, err := unescape(text); err == nil || !strings.Contains(err.Error(), "expected escapes like") {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
	}
}

// ---------------------------------------------------------------- Gateways and hosts
//
// What the last tables of docs/conformance.md say of forms, CGI programs and upstreams is not
// said again here.

// holds fails the test unless a text has each of wants, a list with | between. In it, ! comes
// before what the text must not have, and ^ and $ are the text's ends.
func holds(t testing.TB, text, wants string) {
	t.Helper()
	for want := range strings.SplitSeq(wants, "|") {
		want, not := strings.CutPrefix(want, "!")
		if strings.Contains("^"+text+"$", want) == not {
			t.Errorf("not so: %q (in %q) in:\n%.4000s", want, wants, text)
		}
	}
}

// replies asks a server, and holds its answer to wants; Date and Server are left out.
func replies(t testing.TB, addr, request, wants string) {
	t.Helper()
	holds(t, ourHeaders.ReplaceAllString(ask(t, addr, request), ""), wants)
}

// noError fails the test if something that it needs fails.
func noError(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// only skips a test on other systems than these; without any, on those that are no Unix.
func only(t testing.TB, reason string, systems ...string) {
	t.Helper()
	if !slices.Contains(systems, runtime.GOOS) && (len(systems) > 0 || runtime.GOOS == "windows") {
		skip(t, reason)
	}
}

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
		{"G04 an error without a line end", func(e Environ, s StartResponse) Body {
			io.WriteString(e["wsgi.errors"].(io.Writer), "no line end")
			return hello(e, s)
		}, "", "^Status: 200", "no line end"},
		{"G04 a wrong length", failing, "CONTENT_LENGTH=+3", "^Status: 400 Bad Request\r\n", "digits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errors lockedBuffer
			endless, w := io.Pipe()
			defer w.Close()
			stdin := io.MultiReader(strings.NewReader("0123456789"), endless)
			done := make(chan bool)
			go func() {
				defer close(done)
				variables := strings.Split(c.variables, "|")
				serveCGI(c.app, variables, stdin, &out, log.New(&errors, "", 0))
			}()
			wait(t, "its end", done)
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
	for _, c := range []struct {
		query string
		args  []string
		want  string
	}{
		{"-app+environ", []string{"-app", "environ"}, refused},
		{"-list", []string{"-list"}, refused},
		{"%2Dapp%3Denviron", []string{"-app=environ"}, refused},
		{"x+-app+environ", []string{"-app", "environ"}, refused},
		{"%0a-app%0Denviron", []string{"-app", "environ"}, refused},
		{"%20%2dlist", []string{"-list"}, refused},
		{"send+127.0.0.1:1+x", []string{"send", "127.0.0.1:1", "x"}, answered},
		{"call+/x", []string{"call", "/x"}, answered},
		{"foo+bar", []string{"-quiet", "foo", "bar"}, answered},
		{"", []string{""}, answered},
		{"-x", nil, answered},
		{"a-b", []string{"-app", "environ"}, answered + "|QUERY_STRING: a-b\n"},
		{"-a=b", []string{"-app", "environ"}, answered + "|QUERY_STRING: -a=b\n"},
	} {
		t.Run(c.query, func(t *testing.T) {
			t.Parallel()
			program := rawsgi(c.args...)
			program.Env = append(program.Env, "GATEWAY_INTERFACE=CGI/1.1", "QUERY_STRING="+c.query)
			holds(t, string(must(program.Output())(t)), c.want)
		})
	}
}

// asProgram makes a shell script that runs this binary as the program, with arguments.
func asProgram(t *testing.T, dir, name, args string) string {
	return writeScript(t, dir, name, "RAWSGI_AS_PROGRAM=1 GORACE=atexit_sleep_ms=0 exec '"+
		must(filepath.Abs(os.Args[0]))(t)+"' "+args)
}

// writeScript makes a program of shell commands.
func writeScript(t *testing.T, dir, name, commands string) string {
	t.Helper()
	only(t, "the scripts are for a Unix shell")
	path := filepath.Join(dir, name)
	noError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+commands+"\n"), 0o755))
	return path
}

// freeAddr returns an address at which nobody listens. Its port is below those that systems
// give to ":0" and to clients, so that no test that runs beside this one gets it.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 20000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+ports.Add(1)%20000)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no port from 10000 to 29999 is free")
	return ""
}

// ports counts the ports that tests have tried, from another one in each process: what one
// test has chosen, another does not.
var ports = func() *atomic.Int64 {
	n := &atomic.Int64{}
	n.Store(int64(os.Getpid()) * 37)
	return n
}()

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// listens reports whether somebody listens at an address.
func listens(addr string) bool {
	c, err := net.Dial("tcp", addr)
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
		if pids := children(t, "self"); len(pids) > 0 {
			t.Errorf("after 20s, programs are running: %v", pids)
		}
	})
	script := func(t *testing.T, commands string) string { // in which hi is the smallest answer
		hi := "hi() { printf 'Content-Type: text/plain\\n\\nhi'; }\n"
		return writeScript(t, t.TempDir(), "p", hi+commands)
	}
	const hi, brokeOff = "^" + ok200 + "Content-Type: text/plain\r\n\r\nhi$", "the answer broke off"
	const waits = "while [ ! -e $0.pid ]; do sleep 0.01; done; "
	for _, c := range []struct{ name, script, request, want, log string }{
		{"X05 a local redirect is GET, without a body", `printf 'Location: /other?x=1\n\n'`,
			"POST /cgi HTTP/1.0\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc",
			"REQUEST_METHOD: GET\n|PATH_INFO: /other\n|QUERY_STRING: x=1\n|BODY-LENGTH: 0|!CONTENT_", "^$"},
		{"X05 a local redirect to nowhere", `printf 'Location: /a%%zz\n\n'`, "", " 502 ",
			`cannot follow the local redirect to "/a%zz"`},
		{"X05 a loop of them", `printf 'Location: /cgi\n\n'`, "", " 502 ", "it is one too many"},
		{"X08 no answer", `true`, "", " 502 ", "expected a head, got nothing"},
		{"X08 no empty line", `printf 'Content-Type: text/plain\n'`, "", " 502 ",
			"expected an empty line to end the head: unexpected EOF"},
		{"X08 no empty line, but more", `printf 'Content-Type: text/html\n<p>\n'`, "", " 502 ",
			"hint for |then an empty line"},
		{"X08 output before the head", `echo hi`, "", " 502 ", "hint for |print a head, like "},
		{"X08 an HTTP status line", `printf 'HTTP/1.0 200 OK\n\nhi'`, "", " 502 ", "print Status: 200"},
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
		{"X12 it leaves a child", `sleep 1000 & echo $! > $0.pid; hi`, "", hi, ""},
		{"X12 it is killed", `hi; kill -9 $$`, "", hi, brokeOff},
		{"X12 killed after its head", `printf 'Status: 200\n\n'; kill -9 $$`, "", " 502 ", "killed"},
		{"X12 it dies", `echo oops >&2; exit 3`, "", " 502 ", "oops\n|exit status 3"},
		{"X12 it floods standard error", `head -c 3000000 /dev/zero | tr '\0' 'x' >&2; hi`, "", hi,
			strings.Repeat("x", maxLine)},
	} {
		file := script(t, c.script) // none is written while others start: it would be busy for them
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath("setsid"); err != nil && strings.HasPrefix(c.script, "setsid") {
				skip(t, "needs setsid")
			}
			timeout, ask := time.Minute, ask // longer than a busy machine takes
			if strings.Contains(c.name, "timeout") {
				timeout = time.Second
			}
			if strings.Contains(c.log, brokeOff) {
				ask = askCut
			}
			s := start(t, mount(map[string]Application{"/cgi": newCGI(file, timeout, 0)}, showEnviron))
			begin := time.Now()
			reply := ask(t, s.addr, cmp.Or(c.request, getPath("/cgi")))
			holds(t, ourHeaders.ReplaceAllString(reply, ""), c.want)
			s.stop()
			if took := time.Since(begin); took > 5*time.Second/2 && strings.HasSuffix(c.script, "1000") {
				t.Errorf("it was ended after %v", took)
			}
			holds(t, s.errors.String(), c.log)
			if strings.Contains(c.script, "$0.pid") {
				pid := pidIn(t, file+".pid")
				eventually(t, "the end of its child", func() bool { return !alive(pid) })
			}
		})
	}
	for text, hint := range map[string]string{
		"#!/bin/sh\r\necho hi\r\n":         `ends in \r\n: save it`,
		"#!/usr/bin/env sh\r\necho hi\r\n": `ends in \r\n: save it`,
		"echo hi\n":                        "does not name an interpreter, like #!/bin/sh",
		"#!/bin/nosuch\necho hi\n":         `does not exist: "#!/bin/nosuch"`,
	} {
		file := script(t, "")
		writeFile(t, file, text)
		s := start(t, newCGI(file, 10*time.Second, 0))
		replies(t, s.addr, get(), " 502 ")
		s.stop()
		holds(t, s.errors.String(), "hint for "+file+": |"+hint)
	}
	t.Run("X01 X02 X03 X09 X11 the environment", func(t *testing.T) {
		t.Setenv("RAWSGI_SECRET", "hidden")
		file := script(t, `printf 'Content-Type: text/plain\n\n'; env; echo "cwd $(pwd)"; cat`)
		dir := filepath.Dir(file)
		s := start(t, mount(map[string]Application{"/cgi": newCGI(dir, time.Minute, 0)}, hello))
		replies(t, s.addr, "POST /cgi/p/a%20b?q HTTP/1.0\r\nContent-Length: 3\r\nAuthorization: x\r\n"+
			"Proxy-Authorization: y\r\nProxy: z\r\nX_Y: u\r\nX-A: 1\r\n\r\nabcd", "GATEWAY_INTERFACE=CGI/1|"+
			"\nQUERY_STRING=q\n|\nREMOTE_ADDR=127.0.0.1\n|\nREQUEST_METHOD=POST\n|\nSCRIPT_NAME=/cgi/p\n|"+
			"\nPATH_INFO=/a b\n|\nSERVER_NAME=127.0.0.1\n|\nHTTP_X_A=1\n|\nSERVER_PROTOCOL=HTTP/1.0\n|"+
			"\nSERVER_SOFTWARE="+software+"\n|\nCONTENT_LENGTH=3\n|\nREQUEST_URI=/cgi/p/a%20b?q\n|"+
			"\nREMOTE_HOST=127.0.0.1\n|\nPATH_TRANSLATED="+dir+"/a b\n|\ncwd "+dir+"\n|\nabc$|"+
			"!AUTHORIZATION|!hidden|!HTTP_PROXY|!X_Y=u|!CONTENT_TYPE")
		replies(t, s.addr, getPath("/cgi/p/../../../etc/passwd"), "TRANSLATED="+dir+"/etc/passwd\n")
		_, _, page := callApplication(newCGI(file, time.Minute, 0), Environ{"HTTP_PROXY": "evil",
			"SECRET": "evil", "PATH": "evil", "SCRIPT_FILENAME": "evil", "PATH_TRANSLATED": "evil"})
		holds(t, string(page), "\nSCRIPT_FILENAME="+file+"\n|\nPATH="+os.Getenv("PATH")+"\n|!evil")
	})
	t.Run("X11 what is no program", func(t *testing.T) {
		dir := filepath.Dir(script(t, "hi"))
		in := func(name string) string { return filepath.Join(dir, name) }
		writeFile(t, in("data"), "")
		noError(t, os.Symlink("/bin/true", in("link")), os.Mkdir(in("dir"), 0o700))
		s := start(t, newCGI(dir, time.Minute, 0))
		for target, want := range map[string]string{"/": "404", "/nothing": "404", "/dir": "403",
			"/data": "403", "/link": "403", "/../" + filepath.Base(dir) + "/p": "404",
			"/..%2fp": "404", "/p": "200"} {
			replies(t, s.addr, getPath(target), "^HTTP/1.0 "+want)
		}
	})
	t.Run("X09 the body's file has no name while it is there", func(t *testing.T) {
		spooled := t.TempDir()
		t.Setenv("TMPDIR", spooled)
		c := dial(t, start(t, newCGI(script(t, "hi"), time.Minute, 0)).addr)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost:\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
		must(io.ReadFull(c, make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))))(t) // it reads now
		for _, rest := range []string{"abc", ""} {
			if left := must(os.ReadDir(spooled))(t); len(left) > 0 {
				t.Errorf("there is %v", left)
			}
			io.WriteString(c, rest)
			must(io.ReadAll(c))(t)
		}
	})
	t.Run("X01 more than the system can pass to a program", func(t *testing.T) {
		only(t, "the limit of 128 KiB for a variable is Linux's", "linux")
		long := "X-A: " + strings.Repeat("a", 60000)
		replies(t, start(t, newCGI(script(t, "hi"), time.Minute, 1)).addr, get(long, long, long), " 431 ")
	})
	slow := script(t, "hi; for i in 1 2 3; do sleep 0.2; echo $i; done")
	t.Run("X12 the time in which the client reads does not count", func(t *testing.T) {
		t.Parallel()
		_, _, page := callApplication(func(environ Environ, startResponse StartResponse) Body {
			body := newCGI(slow, 500*time.Millisecond, 0)(environ, startResponse)
			return Stream(func(yield func([]byte) bool) {
				defer body.(io.Closer).Close()
				for block := range body.All() {
					time.Sleep(400 * time.Millisecond) // with its 200, longer than it may be silent
					yield(block)
				}
			})
		}, Environ{})
		holds(t, string(page), "^hi1\n2\n3\n$")
	})
	t.Run("X12 one program at a time", func(t *testing.T) {
		file := script(t, "echo x >&2; "+waits+`[ $QUERY_STRING ] && hi || printf 'Location: /cgi?x\n\n'`)
		host := newCGI(file, time.Minute, 1)
		s := start(t, mount(map[string]Application{"/cgi": host}, hello))
		for range 2 { // a body that does not arrive whole keeps no place
			cut := row{how: "then end", send: "POST /cgi HTTP/1.0\r\nContent-Length: 3\r\n\r\na"}
			holds(t, exchangeWith(t, s.addr, cut, 1<<10), " 400 ")
		}
		first := make(chan string)
		go func() { first <- ask(t, s.addr, getPath("/cgi")) }()
		eventually(t, "the program", func() bool { return strings.Contains(s.errors.String(), "x\n") })
		unread := readerFunc(func([]byte) (int, error) { t.Error("the body is read"); return 0, io.EOF })
		status, headers, _ := callApplication(host, Environ{"CONTENT_LENGTH": "3", "wsgi.input": unread})
		holds(t, fmt.Sprint(status, headers), "503 |{Retry-After 1}")
		writeFile(t, file+".pid", "")
		holds(t, wait(t, "the first answer", first), "\r\n\r\nhi$") // its place was free for the second
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
			program.Env = append(program.Env, "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET")
			addr, log := "", &lockedBuffer{}
			if name == "a gateway" {
				noError(t, program.Start())
			} else {
				_, addr, log = startCommand(t, program)
				io.WriteString(dial(t, addr), get())
			}
			pid := pidIn(t, file+".pid")
			program.Process.Signal(syscall.SIGTERM)
			if name == "a server, at the second signal" {
				eventually(t, "a refused connection", func() bool { return !listens(addr) })
				program.Process.Signal(syscall.SIGHUP)
			} else if name == "a server, in time" {
				eventually(t, "its log", func() bool { return strings.Contains(log.String(), `0" 502`) })
			}
			ended(t, program) // how it ends is for other tests
			eventually(t, "its end", func() bool { return !alive(pid) })
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

// startProgram runs the program as a user does, and returns the address that it prints.
func startProgram(t *testing.T, args ...string) (*exec.Cmd, string, *lockedBuffer) {
	t.Helper()
	return startCommand(t, rawsgi(append([]string{"-addr", "127.0.0.1:0"}, args...)...))
}

// startCommand starts a command that runs our source, or nearly so, on a free port.
func startCommand(t *testing.T, program *exec.Cmd) (*exec.Cmd, string, *lockedBuffer) {
	t.Helper()
	program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
	log := &lockedBuffer{}
	program.Stderr = log
	stdout := must(program.StdoutPipe())(t)
	noError(t, program.Start())
	t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
	defer time.AfterFunc(20*time.Second, func() { program.Process.Kill() }).Stop()
	banner := must(bufio.NewReader(stdout).ReadString('\n'))(t)
	address := regexp.MustCompile(`^Serving HTTP on 127.0.0.1 port \d+ \(http://(.*)/\) \.\.\.\n$`)
	match := address.FindStringSubmatch(banner)
	if match == nil {
		t.Fatalf("the banner is %q", banner)
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
		program := rawsgi("-app", "environ")
		addr, log, workers := startPrefork(t, program)
		eventually(t, "an answer of each", func() bool {
			together(8, func() { replies(t, addr, get(), "\nwsgi.multiprocess: true\n") })
			return strings.Contains(log.String(), fmt.Sprintf("[%d] 127", workers[0])) &&
				strings.Contains(log.String(), fmt.Sprintf("[%d] 127", workers[1]))
		})
		program.Process.Signal(syscall.SIGTERM)
		if err := ended(t, program); err != nil || alive(workers[0]) || alive(workers[1]) {
			t.Errorf("the program ended with %v, or a worker has survived: %s", err, log)
		}
	})
	t.Run("a worker that cannot be started again", func(t *testing.T) {
		t.Parallel() // waits until it may be
		path := filepath.Join(t.TempDir(), "rawsgi")
		if err := os.Link(os.Args[0], path); err != nil { // another file system
			noError(t, os.WriteFile(path, must(os.ReadFile(os.Args[0]))(t), 0o700))
		}
		program := exec.Command(path, "-app", "hello")
		addr, log, workers := startPrefork(t, program)
		noError(t, os.Remove(path))
		tell(workers[0], os.Kill)
		eventually(t, "a failure", func() bool { return strings.Contains(log.String(), "no such file") })
		replies(t, addr, get(), "World!\n$")
		program.Process.Signal(syscall.SIGTERM)
		ended(t, program) // how it ends is for others
	})
	for signals := 1; signals <= 2; signals++ {
		t.Run(fmt.Sprint("a signal lets requests end, a second does not: ", signals), func(t *testing.T) {
			program := rawsgi("-app", "echo", "-quiet", "-timeout", "1h")
			addr, _, workers := startPrefork(t, program)
			busy := dial(t, addr)
			io.WriteString(busy, post("abc", "Content-Length: 6"))
			must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
			begin := time.Now()
			program.Process.Signal(syscall.SIGTERM)
			eventually(t, "a refused connection", func() bool { return !listens(addr) })
			if signals == 2 {
				program.Process.Signal(syscall.SIGTERM)
			} else {
				io.WriteString(busy, "def")
				holds(t, string(must(io.ReadAll(busy))(t)), "abcdef$")
				busy.Close() // or the server would wait for it
			}
			if err := ended(t, program); err != nil || time.Since(begin) > grace-time.Second {
				t.Errorf("it ended with %v, after %v", err, time.Since(begin))
			}
			for _, worker := range workers {
				eventually(t, "the end of a worker", func() bool { return !alive(worker) })
			}
		})
	}
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
	for _, mode := range []string{"concurrent", "serial", "prefork", "prefork -workers 8"} {
		for _, addr := range []string{"127.0.0.1:0", "unix:" + socketPath(t)} {
			t.Run(mode+" "+addr[:5], func(t *testing.T) {
				t.Parallel()
				for i := range times {
					program := rawsgi(append([]string{"-addr", addr, "-mode"}, strings.Fields(mode)...)...)
					banner := make([]byte, 200)
					stdout := must(program.StdoutPipe())(t)
					noError(t, program.Start())
					t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
					n := must(stdout.Read(banner))(t)
					time.Sleep(time.Duration(i*15%100) * time.Millisecond) // any moment of their start
					workers, begin := children(t, program.Process.Pid), time.Now()
					signal := os.Signal(syscall.SIGTERM)
					if i%2 == 1 && strings.HasPrefix(mode, "prefork") {
						signal = os.Kill
					}
					program.Process.Signal(signal)
					if err := ended(t, program); err != nil && signal != os.Kill {
						t.Errorf("the program ended with %v", err)
					}
					for _, worker := range workers {
						eventually(t, "the end of a worker", func() bool { return !alive(worker) })
					}
					if took := time.Since(begin); took > 2*time.Second {
						t.Errorf("it took %v to stop", took)
					}
					if file, ok := strings.CutPrefix(addr, "unix:"); !ok {
						must(listen(regexp.MustCompile(`[\d.]+:\d+`).FindString(string(banner[:n]))))(t).Close()
					} else if _, err := os.Lstat(file); err == nil && signal != os.Kill {
						t.Error("the socket is left behind")
					}
				}
			})
		}
	}
}

// inherited is not closed by its finalizer, because its descriptor is the listener's.
var inherited *os.File

// TestInheritedSocket shows that the socket still does not block when a program has been
// started with it: an Accept ends at its deadline.
func TestInheritedSocket(t *testing.T) {
	only(t, "-mode prefork needs Unix")
	l := must(listen("127.0.0.1:0"))(t)
	defer l.Close()
	inherited = inheritable(l)
	program := rawsgi("-list")
	program.ExtraFiles = []*os.File{inherited}
	must(program.Output())(t)
	l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond))
	blocked := time.AfterFunc(5*time.Second, func() { listens(l.Addr().String()) }) // ends an Accept
	defer blocked.Stop()
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Accept says %v", err)
	}
}

// TestOutputErrors shows what happens when standard output is full, or its reader has gone.
func TestOutputErrors(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		skip(t, "needs /dev/full")
	}
	defer full.Close()
	read, nobody, err := os.Pipe()
	noError(t, err, read.Close())
	defer nobody.Close()
	send := []string{"send", start(t, endless(make(chan bool, 10))).addr, get()}
	for _, c := range []struct {
		stdout *os.File
		args   []string
		want   string // of its exit status and standard error
	}{
		{full, send, "^1 |no space left"}, {full, []string{"-list"}, "^1 |no space left"},
		{full, []string{"-help"}, "^1 |no space left"},
		{full, []string{"call", "/"}, "^1 |no space left"},
		{full, []string{"-addr", "127.0.0.1:99999"}, "!^0|!no space"}, // a server needs no output
		{nobody, send, "!^0"},
	} {
		var stderr lockedBuffer
		program := rawsgi(c.args...)
		program.Stdout, program.Stderr = c.stdout, &stderr
		noError(t, program.Start())
		t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
		ended(t, program)                            // its status is compared below
		holds(t, fmt.Sprint(program.ProcessState.ExitCode(), " ", &stderr), c.want)
	}
}

// TestNothingLost: 32 clients ask in a loop while the server, or one of its workers, gets a
// signal. Whoever could connect gets a whole answer, unless its worker was killed. (T06)
func TestNothingLost(t *testing.T) {
	only(t, "Windows has no SIGTERM")
	for _, name := range []string{"the server", "the parent of workers", "all processes at once",
		"one worker", "a killed worker"} {
		t.Run(name, func(t *testing.T) {
			mode, signal, mayLose := "prefork", os.Signal(syscall.SIGTERM), int64(0)
			switch name {
			case "the server":
				mode = "concurrent"
			case "a killed worker":
				signal, mayLose = os.Kill, 32 // the request of each client
			}
			if strings.HasSuffix(name, "worker") {
				t.Parallel() // mostly waits for another
			}
			command := rawsgi("-addr", "127.0.0.1:0", "-mode", mode, "-app", "hello", "-quiet")
			command.SysProcAttr = ownGroup()
			program, addr, log := startCommand(t, command)
			var answers, lost, refused atomic.Int64
			var stopped atomic.Bool
			finished := make(chan bool)
			go func() {
				defer close(finished)
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
			}()
			eventually(t, "1000 answers", func() bool { return answers.Load() > 1000 })
			before := answers.Load()
			switch pid := program.Process.Pid; {
			case name == "all processes at once":
				tell(-pid, syscall.SIGTERM) // as systemd stops a service
			case strings.HasSuffix(name, "worker"):
				only(t, "looks for processes in /proc", "linux")
				worker := children(t, pid)[0]
				tell(worker, signal)
				eventually(t, "more answers, and another worker", func() bool {
					now := children(t, pid)
					return answers.Load() > before+2000 && len(now) == 2 && !slices.Contains(now, worker) &&
						strings.Contains(log.String(), "starting another")
				})
				if refused.Load() > 0 {
					t.Errorf("%d clients were refused", refused.Load())
				}
				stopped.Store(true)
				wait(t, "the clients", finished)
				fallthrough
			default:
				tell(pid, syscall.SIGTERM)
			}
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
	through := func(t *testing.T, upstreams string) *running {
		proxy := newProxy(upstreams, 300*time.Millisecond)
		return start(t, mount(map[string]Application{"/p": proxy}, hello))
	}
	const ok, brokeOff = "HTTP/1.0 200 OK\r\n", "the answer broke off: "
	for _, c := range []struct {
		name, answer string
		after        func(net.Conn)
		want, log    string
	}{
		{"no answer", "", nil, " 502 ", "expected a head, got nothing"},
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
			s := through(t, addr)
			replies(t, s.addr, getPath("/p"), c.want)
			s.stop()
			holds(t, s.errors.String(), c.log)
		})
	}
	t.Run("an upload that takes longer than any of its pieces may", func(t *testing.T) {
		t.Parallel()
		c := dial(t, through(t, start(t, showEnviron).addr).addr)
		io.WriteString(c, "POST /p HTTP/1.0\r\nContent-Length: 10\r\n\r\n")
		drip(10)(c)
		holds(t, string(must(io.ReadAll(c))(t)), strings.Join(body("xxxxxxxxxx"), "\n|"))
	})
	t.Run("the target", func(t *testing.T) {
		addr, got := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", nil)
		s := through(t, addr)
		for sent, want := range map[string]string{"/p": "/", "/p/": "/", "/p?": "/?", "/p?x": "/?x",
			"/p//a": "//a", "/p/a?": "/a?", "/p/a?b?": "/a?b?", "/p/%61": "/%61", "/p/%25": "/%25",
			"/p%2Fa":         "/a",
			"/p/a%2Fb?x=%2F": "/a%2Fb?x=%2F", "/%70/a%2Fb": "/a%2Fb", "/p/a;b=%C3%A9": "/a;b=%C3%A9",
			"/p/a#b": "/a", "/p/a://b": "/a://b", "/p/\x80\"<": "/\x80\"<", "http://h/p?": "/?",
			"http://h/p/a%2Fb": "/a%2Fb", "http://h/p/?a#b": "/?a", "http://u@h/%70/%2f%2F?": "/%2f%2F?"} {
			before := len(got.String())
			ask(t, s.addr, getPath(sent))
			holds(t, got.String()[before:], "^GET "+want+" HTTP/1.0\r\n")
		}
	})
	t.Run("it is its own upstream", func(t *testing.T) {
		addr := freeAddr(t)
		s := startOn(t, addr, newProxy(addr, time.Second))
		replies(t, addr, get("Via: 1.0 rawsgi-x"), " 508 ")
		if s.stop(); strings.Count(s.access.String(), "\n") != 2 {
			t.Errorf("the access log is %s", s.access)
		}
	})
	t.Run("two proxies are no loop, and Via names them", func(t *testing.T) {
		addr, got := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", nil)
		second := start(t, newProxy(addr, time.Second))
		ask(t, through(t, second.addr).addr, "GET /p HTTP/1.1\r\nHost: h\r\nVia: 1.0 fred\r\n\r\n")
		holds(t, regexp.MustCompile(`rawsgi-\w+`).ReplaceAllString(got.String(), "NAME"),
			"\nVia: 1.0 fred, 1.1 NAME, 1.0 NAME\r\n")
	})
	t.Run("in turn, past one that refuses", func(t *testing.T) {
		one, _ := fake(t, "HTTP/1.0 200 OK\r\n\r\n1", nil)
		two, _ := fake(t, "HTTP/1.0 200 OK\r\n\r\n2", nil)
		s := through(t, one+","+freeAddr(t)+","+two)
		answers := ""
		for range 6 {
			reply := ask(t, s.addr, getPath("/p"))
			answers += reply[len(reply)-1:]
		}
		holds(t, answers, "^221221$") // the one after the refusing takes its turn
		replies(t, through(t, freeAddr(t)).addr, getPath("/p"), " 502 ")
	})
	t.Run("block by block", func(t *testing.T) {
		seen := make(chan bool)
		slow := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return Stream(func(yield func([]byte) bool) { yield([]byte("first\n")); <-seen })
		})
		defer close(seen)
		c := dial(t, through(t, slow.addr).addr)
		io.WriteString(c, getPath("/p"))
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if lines.Text() == "first" {
				return
			}
		}
		t.Error("the first block did not come before the second was made")
	})
}

// TestApplicationRows, TestHostRows and TestProxyRows hold ours to the last tables of
// docs/conformance.md, through the checker.
func TestApplicationRows(t *testing.T) {
	s := start(t, must(choose(applications(Config{Root: "docs"}), "gallery", "", false))(t))
	checkEdges(t, 7, "gateway", s.addr)
	checkEdges(t, 61, "applications", s.addr)
}

func TestHostRows(t *testing.T) {
	only(t, "the programs are for a Unix shell")
	dir := t.TempDir()
	s := start(t, newCGI(dir, 10*time.Second, 0))
	checkEdges(t, 38, "host", "http://"+s.addr+"/", dir)
}

func TestProxyRows(t *testing.T) {
	upstream := freeAddr(t) // the checker listens there
	checkEdges(t, 43, "proxy", start(t, newProxy(upstream, 10*time.Second)).addr, upstream)
}

// checkEdges has the checker grade one of ours, and wants all rows to pass, so many at least.
func checkEdges(t *testing.T, least int, args ...string) {
	t.Helper()
	out, _ := check(t, append([]string{"-strict", "-json"}, args...)...)
	var rows []graded
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) < least {
		t.Fatalf("expected %d rows, got %d: %v\n%.2000s", least, len(rows), err, out)
	}
	for _, r := range rows {
		if r.Outcome != "passes" {
			t.Errorf("%s %s: %s; given %q", r.Name, r.Outcome, r.Fault, r.Send)
		}
	}
}

// TestForm shows what a form costs, and one that does not arrive whole. The rest is rows.
func TestForm(t *testing.T) {
	const name = "Content-Disposition: form-data; name=\"n\"\r\n\r\n"
	const multipart = "multipart/form-data; boundary=B"
	s := start(t, form)
	replies(t, s.addr, getPath("/?a=%<b"), ` 400 |invalid URL escape \"%\x3cb\"|!<`) // is not HTML
	cut := post("--B\r\n"+name+"v", "Content-Type: "+multipart, "Content-Length: 1000")
	reply := exchangeWith(t, s.addr, row{how: "then end", send: cut}, 1<<20)
	holds(t, reply, " 400 |expected 1000 body bytes")
	replies(t, start(t, form, short).addr, cut, " 408 ")
	read := func(body io.Reader) (page []byte, refusal *Refusal) {
		defer func() { refusal, _ = recover().(*Refusal) }()
		_, _, page = callApplication(form, Environ{"CONTENT_TYPE": multipart, "wsgi.input": body})
		return page, nil
	}
	t.Run("a form that ends anywhere before its closing delimiter", func(t *testing.T) {
		whole := "--B\r\n" + name + "one\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; " +
			"filename=\"x\"\r\nContent-Type: a/b\r\n\r\n\r\n--A\r\n--B\r\n" + name + "\r\n--B--"
		for n := range len(whole) + 1 {
			_, refusal := read(strings.NewReader(whole[:n]))
			if n == len(whole) != (refusal == nil) || refusal != nil && refusal.Status != badRequest {
				t.Errorf("cut at %d, after %q: %v", n, whole[max(0, n-20):n], refusal)
			}
		}
	})
	t.Run("a large file is not held in memory", func(t *testing.T) {
		head := "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n"
		before := totalAlloc()
		page, _ := read(io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, 256<<20),
			strings.NewReader("\r\n--B--\r\n")))
		holds(t, string(page), "268435456 bytes")
		if used := totalAlloc() - before; used > 8<<20 {
			t.Errorf("allocated %d bytes", used)
		}
	})
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

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
	then := time.Date(2020, 2, 3, 4, 5, 6, 7, time.UTC)
	noError(t, os.Chtimes(filepath.Join(root, "a.txt"), then, then))
	s := start(t, mount(map[string]Application{"/f": newFiles(root)}, hello))
	for _, c := range []struct{ name, line, want string }{
		{"a text", "GET /f/a.txt", " 200 |Content-Type: text/plain; charset=utf-8\r\n|\r\n\r\ntext$"},
		{"its date", "GET /f/a.txt", "Last-Modified: Mon, 03 Feb 2020 04:05:06 GMT\r\n"},
		{"a page", "GET /f/b.html", " 200 |Content-Type: text/html; charset=utf-8\r\n" +
			"X-Content-Type-Options: nosniff\r\nContent-Length: 3\r\n\r\n<p>$"},
		{"empty", "GET /f/empty", " 200 |Content-Length: 0\r\n\r\n$"},
		{"a link inside", "GET /f/in", " 200 |text$"},
		{"a list", "GET /f/sub/", `<h1>/sub/</h1>|<a href="./d%20&amp;%20e.md">d &amp; e.md</a>`},
		{"the root's list has what can be served", "GET /f/",
			`<a href="./a.txt">|<a href="./sub/">sub/</a>|"./in"|!"./out"|!"./abs"`},
		{"an index page", "GET /f/with/", " 200 |\r\n\r\nindex$"},
		{"what a query may not have", "GET /f/sub?a=%&%4\x80\"[|]%41?b/c:d@e",
			" 301 |Location: http://127.0.0.1:80/f/sub/?a=%25&%254%80%22%5B%7C%5D%41?b/c:d@e\r\n"},
		{"the root without its slash", "GET /f", " 301 |/f/\r\n"},
		{"a link out", "GET /f/out", " 404 "},
		{"an absolute link", "GET /f/abs", " 404 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			replies(t, s.addr, c.line+" HTTP/1.0\r\nHost: 127.0.0.1:80\r\n\r\n", c.want+"|!hidden|!root:")
		})
	}
	for since, want := range map[string]string{"Mon, 03 Feb 2020 04:05:06 GMT": " 304 ",
		"Mon, 03 Feb 2020 04:05:07 GMT": " 304 ", "Mon, 03 Feb 2020 04:05:05 GMT": " 200 ",
		"Monday, 03-Feb-20 04:05:06 GMT": " 304 ", "Mon Feb  3 04:05:06 2020": " 304 ",
		"Mon Feb  3 04:05:05 2020": " 200 ", "": " 200 ",
		"Mon, 03 Feb 2020 04:05:06 GMT\r\nIf-None-Match: \"x\"": " 200 "} {
		replies(t, s.addr, "GET /f/a.txt HTTP/1.0\r\nIf-Modified-Since: "+since+"\r\n\r\n", want)
	}
	t.Run("a year of two digits is not more than 50 years ahead", func(t *testing.T) {
		old := time.Unix(0, 0)
		noError(t, os.Chtimes(filepath.Join(root, "empty"), old, old))
		for ahead := range 100 {
			want := "304" // or not in the future, and then the file is older
			if 1 <= ahead && ahead <= 50 {
				want = "200"
			}
			year := (time.Now().Year() + ahead) % 100
			status, _, _ := callApplication(newFiles(root), Environ{"PATH_INFO": "/empty",
				"HTTP_IF_MODIFIED_SINCE": fmt.Sprintf("Monday, 01-Jan-%02d 00:00:00 GMT", year)})
			if status[:3] != want {
				t.Errorf("since %02d: expected %s, got %s", year, want, status)
			}
		}
	})
	t.Run("a file of the future", func(t *testing.T) {
		future := time.Now().Add(time.Hour)
		noError(t, os.Chtimes(filepath.Join(root, "b.html"), future, future))
		_, headers, _ := callApplication(newFiles(root), Environ{"PATH_INFO": "/b.html"})
		date, _ := lookup(headers, "Last-Modified")
		if modified := must(time.Parse(httpDate, date))(t); modified.After(time.Now()) {
			t.Errorf("modified on %s", date)
		}
	})
	t.Run("pipes, sockets and names with control characters", func(t *testing.T) {
		odd := t.TempDir()
		mkfifo := exec.Command("mkfifo", filepath.Join(odd, "pipe"), filepath.Join(odd, "index.html"))
		for _, name := range []string{"a\nb", "c\x7f", "d\te", "ok"} {
			if err := os.WriteFile(filepath.Join(odd, name), nil, 0o600); err != nil {
				skip(t, fmt.Sprint("no such name here: ", err))
			}
		}
		if err := mkfifo.Run(); err != nil {
			skip(t, "this system has no mkfifo")
		}
		if l, err := net.Listen("unix", filepath.Join(odd, "socket")); err == nil { // or too long a path
			defer l.Close()
		}
		addr := start(t, newFiles(odd)).addr
		replies(t, addr, get(), "<ul>\n<li><a href=\"./ok\">ok</a></li>\n</ul>")
		replies(t, addr, getPath("/pipe"), " 404 ") // and it does not wait for somebody who writes
	})
	t.Run("a directory that is removed while it is listed", func(t *testing.T) {
		only(t, "/proc has the names of open directories", "linux")
		gone := filepath.Join(t.TempDir(), "gone")
		noError(t, os.Mkdir(gone, 0o700))
		directory := must(os.Open(gone))(t)
		defer directory.Close()
		noError(t, os.Remove(gone))
		s := start(t, newFiles(fmt.Sprint("/proc/self/fd/", directory.Fd())))
		replies(t, s.addr, get(), " 404 ")
	})
	t.Run("a name in Latin-1", func(t *testing.T) {
		err := os.Mkdir(filepath.Join(dir, "caf\xe9"), 0o700)
		if err != nil || runtime.GOOS == "windows" {
			t.Skip("this file system wants UTF-8: ", err)
		}
		addr := start(t, newFiles(dir)).addr
		replies(t, addr, getPath("/caf%E9/"), "<h1>/caf\uFFFD/</h1>|!\xe9")
		replies(t, addr, get(), "<a href=\"./caf%E9/\">caf\uFFFD/</a>")
	})
	replies(t, start(t, newFiles(filepath.Join(dir, "none"))).addr, get(), " 404 ")
	// A whole answer, or 503.
	for path, whole := range map[string]string{"/root/a.txt": "text", "/root/with/": "index",
		"/": `"./link/"`} { // whose target needs one more
		t.Run("fewer and fewer descriptors: "+path, func(t *testing.T) {
			only(t, "needs ulimit")
			t.Parallel()
			program, addr, log := startCommand(t, exec.Command("sh", "-c", `ulimit -n 40 && exec "$0" "$@"`,
				os.Args[0], "-addr", "127.0.0.1:0", "-app", "files", "-root", dir, "-timeout", "1m"))
			var status string
			for range 40 {
				reply := ask(t, addr, getPath(path))
				if status, _, _ = splitReply(t, reply); status[:3] == "503" {
					break
				}
				holds(t, reply, whole)
				must(io.WriteString(dial(t, addr), "GET "))(t) // one descriptor less
			}
			holds(t, status, "503")
			eventually(t, "its log", func() bool { return strings.Contains(log.String(), "503: ") })
			program.Process.Kill()
			ended(t, program) // it was killed
		})
	}
}

// TestSystemErrors shows what becomes of errors of the system that a test cannot bring about
// everywhere, root's permissions among them.
func TestSystemErrors(t *testing.T) {
	full := func(what string) error { return os.NewSyscallError(what, syscall.ENFILE) }
	for _, c := range []struct {
		serve     func(Environ, StartResponse, error) Body
		err       error
		want, log string
	}{
		{cannotServe, syscall.EACCES, "403", "^$"}, {cannotServe, syscall.EPERM, "403", "^$"},
		{cannotServe, full("open"), "503", "^503: open: "},
		{cannotServe, &os.PathError{Op: "open", Path: "a", Err: syscall.EMFILE}, "503", "^503: open a: "},
		{badGateway, &os.PathError{Op: "fork", Path: "a", Err: syscall.EMFILE}, "503", "^503: fork a: "},
		{badGateway, fmt.Errorf("no x: %w", &net.OpError{Err: full("socket")}), "503", "^503: no x: "},
	} {
		var log bytes.Buffer
		status, headers, _ := callApplication(func(environ Environ, startResponse StartResponse) Body {
			return c.serve(environ, startResponse, c.err)
		}, Environ{"wsgi.errors": &log})
		_, retry := lookup(headers, "Retry-After")
		if status[:3] != c.want || retry == 1 != (c.want == "503") {
			t.Errorf("%v: expected %s, got %s %v", c.err, c.want, status, headers)
		}
		holds(t, log.String(), c.log)
	}
}

// TestUpper shows M02, M03 and M04.
func TestUpper(t *testing.T) {
	const plain = "Content-Type: text/plain; charset=utf-8\r\n\r\n"
	text := append(contentLength("6"), textPlain...)
	typed := func(kind string, more ...Header) func(*probe, Environ, StartResponse) Body {
		return returns("200 OK", append([]Header{{"Content-Type", kind}}, more...), stream("abc"))
	}
	for _, c := range []appCase{
		{name: "M02 M03 M04 plain text", app: closes("200 OK", text, stream("abc", "é\xff")), closes: 1,
			log: "Close's error", want: ok200 + plain + "ABCé\xff"},
		{name: "M04 another type is left alone", app: typed("text/html", Header{"Content-Length", "3"}),
			want: ok200 + "Content-Type: text/html\r\nContent-Length: 3\r\n\r\nabc"},
		{name: "M04 text that is coded", app: typed("text/plain", Header{"Content-Encoding", "gzip"}),
			want: ok200 + "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\nabc"},
		{name: "M04 a type in capitals", app: typed("Text/Plain"),
			want: ok200 + "Content-Type: Text/Plain\r\n\r\nABC"},
		{name: "M04 what is written", want: ok200 + plain + "ABCDEF",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				io.WriteString(startResponse("200 OK", textPlain), "abc")
				return Blocks{[]byte("def")}
			}},
		{name: "M04 startResponse in the first iteration", app: func(_ *probe, e Environ,
			s StartResponse) Body {
			return class(e, s)
		}, want: ok200 + plain + "HELLO FROM AN OBJECT'S METHOD ALL\n"},
		{name: "M05 excInfo is passed on", want: "HTTP/1.0 503 Sorry\r\n" + plain + "X",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", textPlain)
				startResponse("503 Sorry", textPlain, errors.New("changed"))
				return Blocks{[]byte("x")}
			}},
		{name: "M03 Close after a panic", app: closes("200 OK", text, stream("panic")), closes: 1,
			want: "500", log: "the block failed"},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, upper) })
	}
	three := simple(returns("200 OK", textPlain, stream("a", "", "b")))
	blocks := 0 // M02: one block out for each block in
	for range called(upper(three), Environ{}).All() {
		blocks++
	}
	if blocks != 3 {
		t.Errorf("%d blocks", blocks)
	}
}

// simple makes an application of that of an appCase without a probe.
func simple(app func(*probe, Environ, StartResponse) Body) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		return app(nil, environ, startResponse)
	}
}

// called calls an application, with a startResponse that does nothing, and returns its body.
func called(application Application, environ Environ) Body {
	setTestingDefaults(environ)
	return application(environ, func(string, []Header, ...error) io.Writer { return io.Discard })
}

// run runs the case behind a server, with middleware around it.
func (c appCase) run(t *testing.T, middleware Middleware, change ...func(*Server)) {
	p := &probe{}
	s := start(t, middleware(func(environ Environ, startResponse StartResponse) Body {
		p.calls.Add(1)
		return c.app(p, environ, startResponse)
	}), change...)
	client := dial(t, s.addr)
	io.WriteString(client, cmp.Or(c.send, get())) // fails if the answer came before all was sent
	client.CloseWrite()
	reply, err := io.ReadAll(client)
	if isReset(err) != c.cut || !c.cut && err != nil {
		t.Errorf("after %d bytes: %v", len(reply), err)
	}
	s.stop()
	c.check(t, string(reply), s.errors.String())
	if p.calls.Load() != 1 || p.closes.Load() != c.closes { // C01, C02
		t.Errorf("called %d times, closed %d times", p.calls.Load(), p.closes.Load())
	}
	if n := strings.Count(s.access.String(), "\n"); n != 1 { // C10
		t.Errorf("%d lines in the access log", n)
	}
}

func TestCatch(t *testing.T) {
	const page = "^HTTP/1.0 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"X-Content-Type-Options: nosniff\r\n|"
	fails := func(func([]byte) bool) { panic("oh no") }
	for name, app := range map[string]func(*probe, Environ, StartResponse) Body{
		"in the call":            panics("oh no"),
		"in the first iteration": returns("200 OK", textPlain, Stream(fails)),
		"after an empty block": returns("200 OK", textPlain, Stream(func(yield func([]byte) bool) {
			yield(nil)
			fails(yield)
		})),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, catch(func(environ Environ, startResponse StartResponse) Body {
				environ["REMOTE_ADDR"] = environ.Get("HTTP_FROM")
				return app(nil, environ, startResponse)
			}))
			replies(t, s.addr, get("From: ::1"), page+"The application failed: oh no (set|\tserver_test.go:")
			replies(t, s.addr, get("From: 192.0.2.1"), page+"\r\n\r\nThe application failed.\n$")
			replies(t, s.addr, get("From: ::1", "X-Forwarded-For: 192.0.2.1"), page+"!oh no")
			if s.stop(); strings.Count(s.errors.String(), "catch: The application failed: oh no") != 3 {
				t.Errorf("the log is %s", s.errors)
			}
		})
	}
	for _, c := range []appCase{
		{name: "after the head", app: closes("200 OK", nil, stream("abc", "panic")), closes: 1, cut: true,
			want: ok200 + "\r\nabc", log: "the block failed"},
		{name: "a body cut short keeps its status", app: readAll, want: "400",
			send: post("abc", "Content-Length: 9"), log: "expected 9 body bytes"},
		{name: "nothing wrong", app: closes("200 OK", nil, stream("abc")), closes: 1,
			want: ok200 + "\r\nabc", log: "Close's error"},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, catch) })
	}
	t.Run("a panic when no more is wanted", func(t *testing.T) {
		defer func() { holds(t, fmt.Sprint(recover()), "^too late$") }()
		late := Stream(func(yield func([]byte) bool) {
			defer func() { panic("too late") }()
			yield([]byte("a"))
		})
		for range called(catch(simple(returns("200 OK", nil, late))), Environ{}).All() {
			break
		}
	})
	writes := func(_ Environ, startResponse StartResponse) Body {
		out := startResponse("200 OK", textPlain)
		return Stream(func(func([]byte) bool) {
			if _, err := io.WriteString(out, "x"); err != nil {
				panic(fmt.Errorf("cannot go on: %w", err))
			}
		})
	}
	for _, c := range []struct {
		app  Application
		want string // in the gateway's log
	}{{write, "^$"}, {writes, "^$"}, {simple(panics("oh no")), "catch: The application failed"},
		{simple(func(*probe, Environ, StartResponse) Body { return stream("x") }),
			"startResponse must be called before|!catch:"}} {
		log := &bytes.Buffer{}
		left := &wire{fail: errors.New("the client has left")}
		_, more := runOn(left, func(e Environ, s StartResponse) Body {
			e["wsgi.errors"] = log
			return catch(c.app)(e, s)
		})
		holds(t, log.String()+more, c.want) // that the client has left is no failure of an application
	}
}

func TestAuth(t *testing.T) {
	s := start(t, auth(showEnviron))
	const welcome = " 200 |\nREMOTE_USER: reader\n"
	const who = " 401 |\r\nWWW-Authenticate: Basic realm=\"rawsgi\", charset=\"UTF-8\"\r\n"
	for header, want := range map[string]string{
		"X: y":                                   who,
		"Authorization: Basic cmVhZGVyOndzZ2k=":  welcome, // reader:wsgi
		"Authorization: bASIC cmVhZGVyOndzZ2k=":  welcome,
		"Authorization: Basic cmVhZGVyOndzZ2o=":  who,
		"Authorization: Basic cmVhZGVyOndzZ2k":   who,
		"Authorization: Basic":                   who,
		"Authorization: Digest cmVhZGVyOndzZ2k=": who,
	} {
		replies(t, s.addr, get(header), want)
	}
}

// TestValidate shows M07: each rule is named, with the side that breaks it.
func TestValidate(t *testing.T) {
	ok, none := Blocks{[]byte("x")}, Blocks{}
	html := []Header{{"Content-Type", "text/html"}}
	for _, c := range []struct {
		name string
		app  func(*probe, Environ, StartResponse) Body
		want string // with "", nothing is wrong
	}{
		{"nothing wrong", returns("200 OK", html, ok), ""},
		{"startResponse late", returns("200 OK", html, stream("", "x")), ""},
		{"205", returns("205 Reset Content", nil, none), ""},
		{"204 and an empty block", returns("204 No Content", nil, stream("", "")), ""},
		{"lines of the body", func(_ *probe, environ Environ, startResponse StartResponse) Body {
			line, err := environ["wsgi.input"].(interface{ ReadLine(int) ([]byte, error) }).ReadLine(0)
			if string(line) != "" || err != io.EOF {
				panic(fmt.Sprintf("got %q, %v", line, err))
			}
			startResponse("200 OK", html)
			return ok
		}, ""},
		{"write() late", func(_ *probe, _ Environ, startResponse StartResponse) Body { // M05
			out := startResponse("200 OK", html)
			io.WriteString(out, "before")
			return Stream(func(yield func([]byte) bool) { io.WriteString(out, "late") })
		}, "write() is called before the body is iterated"},
		{"a body written with 204", func(_ *probe, _ Environ, startResponse StartResponse) Body {
			io.WriteString(startResponse("204 No Content", nil), "x")
			return none
		}, "204 No Content has no body"},
		{"twice", func(_ *probe, _ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", html)
			startResponse("200 OK", html)
			return ok
		}, "a second call needs excInfo"},
		{"no status", returns("200", html, ok), "expected a status"},
		{"no type", returns("200 OK", nil, ok), "200 OK has a Content-Type"},
		{"a type with 204", returns("204 No Content", html, none), "204 No Content has no Content-Type"},
		{"a type with 205", returns("205 Reset", html, none), "205 Reset has no Content-Type"},
		{"a body with 205", returns("205 Reset", nil, stream("", "x")), "205 Reset has no body"},
		{"a body with 304", returns("304 Not Modified", nil, ok), "304 Not Modified has no body"},
		{"an underscore", returns("200 OK", []Header{{"X_A", "b"}}, ok), "a header name with _"},
		{"a control character", returns("200 OK", []Header{{"X", "a\tb"}}, ok), "the value of X"},
		{"no body", returns("200 OK", html, nil), "it returns an iterable"},
		{"a wrong Len", returns("200 OK", html, lying{stream("x", "y")}), "Len is the number"},
		{"no startResponse", func(*probe, Environ, StartResponse) Body { return ok },
			"startResponse is called before"},
		{"nor a block", func(*probe, Environ, StartResponse) Body { return none },
			"startResponse is called"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, log := runOn(&wire{}, validate(simple(c.app)))
			if c.want == "" {
				holds(t, log, "^$")
			} else {
				holds(t, log, "application breaks a rule: "+c.want)
			}
		})
	}
	all := func(b Body) {
		for range b.All() {
		}
	}
	closed := func(b Body) Body { b.(io.Closer).Close(); return b }
	for want, do := range map[string]func(b Body){
		"a body is iterated once":           func(b Body) { all(b); all(b) },
		"Close is called once":              func(b Body) { closed(closed(b)) },
		"no block is asked for after Close": func(b Body) { all(closed(b)) },
	} {
		breaks(t, want, func() { do(called(validate(hello), Environ{})) })
	}
	for _, environ := range []Environ{{"X": 1}, {"REQUEST_METHOD": ""}, {"SERVER_NAME": ""},
		{"SERVER_PORT": "x"}, {"HTTP_CONTENT_TYPE": "a/b"}, {"SCRIPT_NAME": "/"}, {"SCRIPT_NAME": "x"},
		{"PATH_INFO": "x"},
		{"wsgi.version": "1.0"}, {"wsgi.url_scheme": ""}, {"wsgi.run_once": nil}, {"wsgi.errors": nil},
		{"CONTENT_LENGTH": "-1"}} {
		for key := range maps.Clone(environ) {
			breaks(t, key, func() { called(validate(hello), environ) })
		}
	}
}

// breaks wants do to panic because a gateway breaks a rule.
func breaks(t *testing.T, rule string, do func()) {
	t.Helper()
	defer func() { t.Helper(); holds(t, fmt.Sprint(recover()), "the gateway breaks a rule: |"+rule) }()
	do()
}

// TestValidateEverything runs every row, and every application, with validate around it:
// our gateway and our applications keep the rules.
func TestValidateEverything(t *testing.T) {
	// validate hides Len, as wsgiref's validator does, so the application says how long it is.
	s := start(t, validate(func(e Environ, startResponse StartResponse) Body {
		var headers []Header
		store := func(_ string, h []Header, _ ...error) io.Writer { headers = h; return nil }
		page := showEnviron(e, store).(Blocks)
		startResponse("200 OK", append(contentLength(strconv.Itoa(len(page[0]))), headers...))
		return page
	}))
	holdToRows(t, "validate", s.addr)
	s.stop()
	holds(t, s.errors.String(), "!validate:")
	for _, entry := range applications(Config{Root: "docs"}) {
		t.Run(entry.Name, func(t *testing.T) {
			t.Parallel()
			if entry.Name == "clock" {
				entry.App = newClock(2, time.Millisecond)
			}
			s := start(t, validate(entry.App))
			for _, row := range allRows() {
				if len(row.send) < 70000 {
					exchangeWith(t, s.addr, row, len(row.send)+1) // the answer is the application's own matter
				}
			}
			for _, request := range []string{get(), post("a=b", "Content-Length: 3"),
				"HEAD / HTTP/1.0\r\n\r\n",
				getPath("/excinfo"), getPath("/README.md")} {
				ask(t, s.addr, request)
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
	const post = " HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
	holds(t, ask(t, l.Addr().String(), "POST /self/a%20b?q=1"+post), "\nPATH_INFO: /a b\n|"+
		"\nQUERY_STRING: q=1\n|\nwsgi.run_once: true\n|"+strings.Join(body("abc"), "\n|"))
}

// debianPython is the one that sees Debian's packages.
const debianPython = "/usr/bin/python3"

// lighttpdConf makes lighttpd a CGI host. TestOtherServers fills in what is in capitals.
const lighttpdConf = `
server.document-root = "DIR"
server.bind = "127.0.0.1"
server.port = PORT
server.modules = ("mod_cgi")
cgi.assign = (".cgi" => "")
`

// TestOtherServers has us behind and in front of servers that are not ours, over each interface.
func TestOtherServers(t *testing.T) {
	long(t)
	const here, self = "/a%20b?q=1", "/cgi-bin/self.cgi/a%20b?q=1"
	const hostile = "/cgi-bin/self.cgi?x+-app+hello"
	const version, has = debianPython + " -V", debianPython + " -c 'import "
	const cgiHost = "exec " + debianPython + " -m http.server --cgi --bind 127.0.0.1 PORT"
	const wsgiref = "exec " + debianPython + " conf PORT"
	const gunicorn = "ln conf app.py; exec " + debianPython + " -m gunicorn -b ADDR app:app"
	const environ = "PATH_INFO: /a b\n|QUERY_STRING: q=1\n|CONTENT_TYPE: text/x\n|BODY-LENGTH: 3\n"
	const forwarded = environ + "|HTTP_HOST: h\n|HTTP_X_FORWARDED_FOR: 127.0.0.1"
	environApp := string(must(os.ReadFile("docs/environ_app.py"))(t))
	underCGI := "#!" + debianPython + "\nfrom wsgiref.handlers import CGIHandler\n" +
		strings.Replace(environApp, "if __name__ ==", "CGIHandler().run(app)\nif not", 1)
	nginxConf := strings.NewReplacer("127.0.0.1:8080", "ADDR", "http://127.0.0.1:8000", "OURS").
		Replace(string(must(os.ReadFile("docs/nginx.conf"))(t)))
	nginx := "exec nginx -p . -c conf -g 'daemon off;'"
	if os.Getuid() == 0 { // its workers could not enter the directory
		nginx = "exec nginx -p . -c conf -g 'daemon off; user root;'"
	}
	for _, c := range []struct{ name, install, needs, conf, command, target, want string }{
		{"lighttpd", "lighttpd", "lighttpd -v", lighttpdConf, "exec lighttpd -D -f conf", self, environ},
		{"http.server", "python3", version, "", cgiHost, self, environ},
		{"http.server, arguments", "python3", version, "", cgiHost, hostile, "400 Bad Request\n"},
		{"nginx", "nginx-light", "nginx -v", nginxConf, nginx, here, forwarded + "\n"},
		{"nginx, Unix socket", "nginx-light", "nginx -v", nginxConf, nginx, here, forwarded + "\n"},
		{"nginx, our proxy", "nginx-light", "nginx -v", nginxConf, nginx, here, forwarded + ", 127."},
		{"wsgiref, our proxy", "python3", version, environApp, wsgiref, here, forwarded + "\n"},
		{"gunicorn, our proxy", "gunicorn", has + "gunicorn'", environApp, gunicorn, here, forwarded},
		{"wsgiref under our host", "python3", version, underCGI, "", here, environ},
	} {
		t.Run(c.name, func(t *testing.T) {
			shell := func(command string) *exec.Cmd {
				return exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin; "+command)
			}
			if shell(c.needs).Run() != nil {
				skip(t, "needs "+c.install, c.install)
			}
			dir, addr := must(os.MkdirTemp("", "rawsgi-others-"))(t), freeAddr(t)
			defer os.RemoveAll(dir)
			ours := addr
			if strings.HasPrefix(c.name, "nginx") {
				ours = start(t, showEnviron).addr
			}
			if strings.HasSuffix(c.name, "socket") {
				ours = "unix:" + startOn(t, "unix:"+dir+"/s", showEnviron).addr
			}
			fill := strings.NewReplacer("ADDR", addr, "PORT", portOf(addr), "DIR", dir,
				"OURS", "http://"+ours).Replace
			program, bin := filepath.Join(dir, "program"), filepath.Join(dir, "cgi-bin")
			noError(t, os.Chmod(dir, 0o755), os.Mkdir(bin, 0o755), // Python's runs programs as nobody
				os.WriteFile(program, must(os.ReadFile(os.Args[0]))(t), 0o755),
				os.WriteFile(filepath.Join(dir, "conf"), []byte(fill(c.conf)), 0o755))
			writeScript(t, bin, "self.cgi", "RAWSGI_AS_PROGRAM=1 exec "+program+` -app environ "$@"`)
			if c.command == "" { // a program for our host
				addr = start(t, newCGI(filepath.Join(dir, "conf"), 30*time.Second, 0)).addr
			} else {
				command := shell(fill(c.command))
				command.Dir = dir
				background(t, addr, command)
			}
			if strings.HasSuffix(c.name, "our proxy") {
				addr = start(t, newProxy(addr, 10*time.Second)).addr
			}
			replies(t, addr, "POST "+c.target+" HTTP/1.0\r\nHost: h\r\nContent-Type: text/x\r\n"+
				"Content-Length: 3\r\n\r\nabc", c.want)
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
			if holds(t, out, c.want); status != c.status {
				t.Errorf("expected status %d, got %d", c.status, status)
			}
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
	waiting := dial(t, l.Addr().String())
	io.WriteString(waiting, get())
	s.Serve(l) // accepts what waits, and returns
	if reply := must(io.ReadAll(waiting))(t); !bytes.HasPrefix(reply, []byte(ok200)) {
		t.Errorf("got %q", reply)
	}
}

// TestSecondSignal: it does not wait for an answer, and the client can tell that it was cut. A
// second SIGHUP is none: when a terminal is closed, its shell and the system send one each.
func TestSecondSignal(t *testing.T) {
	if runtime.GOOS == "windows" || signal.Ignored(syscall.SIGHUP) {
		skip(t, "signals are for Unix, and nohup(1) ignores SIGHUP")
	}
	for _, mode := range []string{"concurrent", "serial", "prefork"} {
		for _, sent := range []os.Signal{syscall.SIGTERM, syscall.SIGHUP} {
			t.Run(mode+" "+sent.String(), func(t *testing.T) {
				program, addr, log := startProgram(t, "-app", "echo", "-quiet", "-mode", mode)
				busy := dial(t, addr)
				io.WriteString(busy, post("abc", "Content-Length: 6"))
				must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
				program.Process.Signal(sent)
				eventually(t, "the message", func() bool { return strings.Contains(log.String(), "stopping") })
				begin := time.Now()
				program.Process.Signal(sent)
				if sent == syscall.SIGHUP {
					time.Sleep(100 * time.Millisecond) // in which it could cut the answer
					io.WriteString(busy, "def")
				}
				reply, err := io.ReadAll(busy)
				busy.Close()
				whole := err == nil && bytes.HasSuffix(reply, []byte("abcdef"))
				if whole != (sent == syscall.SIGHUP) || !whole && !isReset(err) {
					t.Errorf("got %q, %v", reply, err)
				}
				if err, took := ended(t, program), time.Since(begin); err != nil || took > grace-time.Second {
					t.Errorf("the program ended with %v after %v", err, took)
				}
			})
		}
	}
}

// TestBlockedBanner: nobody reads the output, which is full. The server stops all the same.
func TestBlockedBanner(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "signals are for Unix")
	}
	read, full, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	full.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // then it is full
	for err == nil {
		_, err = full.Write([]byte("x"))
	}
	path := socketPath(t)
	program := exec.Command(os.Args[0], "-addr", "unix:"+path, "-app", "hello")
	program.Env, program.Stdout = append(os.Environ(), "RAWSGI_AS_PROGRAM=1"), full
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	full.Close()
	defer program.Process.Kill() // fails if it has ended, as it should
	eventually(t, "an answer", func() bool {
		c, err := net.Dial("unix", path)
		if err != nil {
			return false
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		io.WriteString(c, get())
		reply, _ := io.ReadAll(c) // at the deadline, an error
		return bytes.HasPrefix(reply, []byte(ok200))
	})
	program.Process.Signal(syscall.SIGTERM)
	if err := ended(t, program); err != nil {
		t.Errorf("the program ended with %v", err)
	}
}

// TestSendCut: send does not hide that the server has hung up before it had all.
func TestSendCut(t *testing.T) {
	addr := accepts(t, func(_ net.Listener, c net.Conn) {
		io.ReadFull(c, make([]byte, 3))
		c.(*net.TCPConn).SetLinger(0) // and so ends with a reset
	})
	var stdout, stderr bytes.Buffer
	code := command([]string{"send", "-split", "1", "-delay", "20ms", addr, "GET / HTTP/1.0"}, &stdout, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), "write") && !strings.Contains(stderr.String(), "read") {
		t.Errorf("exit %d, %q, %q", code, stdout.String(), stderr.String())
	}
}

// ---------------------------------------------------------------- Docs

// docPages returns the pages that the tests hold to the program: the course and its exercises.
func docPages(t *testing.T) []string {
	found := []string{"README.md"}
	err := filepath.WalkDir("docs", func(path string, _ fs.DirEntry, err error) error {
		path = filepath.ToSlash(path)
		inExercises := strings.HasPrefix(path, "docs/exercises/") && strings.HasSuffix(path, "/README.md")
		if ok, _ := filepath.Match("docs/*.md", path); ok || inExercises { // the pattern is right
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// eachPage runs a test for each page, in parallel: -run DocsForm/03 chooses chapter 3.
func eachPage(t *testing.T, test func(t *testing.T, page, text string) (updated string)) {
	for _, page := range docPages(t) {
		t.Run(strings.ReplaceAll(page, "/", "_"), func(t *testing.T) {
			t.Parallel()
			text := string(must(os.ReadFile(page))(t))
			if updated := test(t, page, text); *update && updated != text {
				if err := os.WriteFile(page, []byte(updated), 0o644); err != nil {
					t.Fatal(err)
				}
				t.Logf("%s is written anew", page)
			}
		})
	}
}

// A block is what stands between two fences of a page.
type block struct {
	info  string // what follows the fence: "go docs/steps/05-body.go#main"
	lines []string
	first int // the index of the first line in the page
}

// blocksOf returns the blocks of a page.
func blocksOf(text string) (blocks []block) {
	inside := false
	for i, line := range strings.Split(text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && inside:
			inside = false
		case fence:
			inside = true
			blocks = append(blocks, block{info: strings.TrimSpace(info), first: i + 1})
		case inside:
			last := &blocks[len(blocks)-1]
			last.lines = append(last.lines, line)
		}
	}
	return blocks
}

// refill puts new lines into blocks of a page.
func refill(text string, blocks []block, lines map[int][]string) string {
	page := strings.Split(text, "\n")
	for i := len(blocks) - 1; i >= 0; i-- { // from the end, because lines move
		if lines, ok := lines[i]; ok {
			page = slices.Replace(page, blocks[i].first, blocks[i].first+len(blocks[i].lines), lines...)
		}
	}
	return strings.Join(page, "\n")
}

// mayStayUnreplayed is how many blocks may be marked "console unreplayed". Each page says why.
const mayStayUnreplayed = 12

// TestDocsTranscripts runs the commands of each block marked "console" and compares what
// they print with the page; -update writes it anew. "console 2" is a second terminal.
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
	unreplayed := 0
	for _, page := range docPages(t) {
		unreplayed += strings.Count(string(must(os.ReadFile(page))(t)), "\n```console unreplayed")
	}
	if unreplayed > mayStayUnreplayed {
		t.Errorf("%d blocks are marked \"console unreplayed\", expected at most %d", unreplayed, mayStayUnreplayed)
	}
	self := built(t)
	_, noPython := exec.LookPath("python3")
	eachPage(t, func(t *testing.T, page, text string) string {
		if noPython != nil && strings.Contains(text, "$ python3 ") {
			skip(t, "this page needs python3", "python3")
		}
		return replayed(t, page, text, self, *update)
	})
}

// built returns a function that builds our own program, once, and returns its path.
func built(t *testing.T) func() string {
	return sync.OnceValue(func() string {
		path := filepath.Join(t.TempDir(), "rawsgi")
		if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return path
	})
}

// TestDocsReplay shows the forms of a transcript, and that each wrong output is mended.
func TestDocsReplay(t *testing.T) {
	t.Parallel()
	longer(t)
	if _, err := exec.LookPath("bash"); err != nil || runtime.GOOS == "windows" {
		skip(t, "transcripts need bash", "bash")
	}
	const right = `
` + "```console" + `
$ echo a; printf b
a
b
$ for word in one two; do echo $word; done | \
sed s/o/0/
0ne
tw0
` + "```\n```console server" + `
$ go run . -app hello
Serving HTTP on 127.0.0.1 port 8000 (http://127.0.0.1:8000/) ...
` + "```\n```console" + `
$ go run . send 127.0.0.1:8000 'GET / HTTP/1.0\r\n\r\n' | grep -c '^<'
7
$ go run . -app nothing 2>&1 | head -c 21; echo
rawsgi: no applicatio
$ (exit 3); echo $?
3
$ go run . send
...
exit status 2
` + "```\n```console server" + `
127.0.0.1 - - [25/Nov/2026 01:21:34] "GET / HTTP/1.0" 200 14
^C
$ echo ended
ended
` + "```\n```console" + `
$ sleep 1000 & echo "pid $!"
pid 99999
$ kill 99999 && echo it is gone
it is gone
` + "```\n```console 3" + `
$ (trap "echo caught; n=1" INT; echo ready; until [ $n ]; do sleep 0.1; done; sleep 0.1; echo done)
ready
^C
caught
done
` + "```\n```text\nnot run\n```\n"
	self := built(t)
	if got := replayed(t, "right", right, self, false); got != right {
		t.Errorf("right is changed to %s", got)
	}
	for _, c := range []struct{ from, to string }{
		{"0ne", "one"}, {"a\nb\n$", "a\n$"}, {"7\n$", "7\n9\n$"}, {"\" 200 14", "\" 200 15"},
		{"3\n$", "$"}, {"it is gone\n", ""}, {"ended\n\x60", "...\nended\nmore\n\x60"},
		{"$ echo ended", "no line\n$ echo ended"},
	} {
		if got := replayed(t, "wrong", strings.Replace(right, c.from, c.to, 1), self, true); len(got) != len(right) {
			t.Errorf("%q is mended to %s", c.to, got)
		}
	}
}

// A turn is a command of a page, "^C", or "" where the page goes on with a program's output.
type turn struct {
	block    int // the index of its block
	line     int // its line in the page
	terminal string
	typed    []string // the lines of the command, as they are on the page
	command  string
	want     []string // the output
	runsOn   bool
}

// turnsOf cuts the blocks marked "console" into turns.
func turnsOf(blocks []block) (turns []turn) {
	for i, b := range blocks {
		terminal, ok := strings.CutPrefix(b.info, "console")
		if terminal = strings.TrimSpace(terminal); !ok || terminal == "unreplayed" {
			continue
		}
		typing := false // the command goes on in the next line
		for j, line := range b.lines {
			command, typed := strings.CutPrefix(line, "$ ")
			if typed || line == "^C" || j == 0 {
				turns = append(turns, turn{block: i, line: b.first + j + 1, terminal: terminal})
			}
			last := &turns[len(turns)-1]
			if typed || line == "^C" || typing {
				last.typed = append(last.typed, line)
				last.command = strings.TrimPrefix(last.command+"\n"+command, "\n")
				typing = strings.HasSuffix(line, `\`)
			} else {
				last.want = append(last.want, line)
			}
		}
	}
	next := map[string]string{}
	for i := len(turns) - 1; i >= 0; i-- {
		command, ok := next[turns[i].terminal]
		turns[i].runsOn = ok && (command == "" || command == "^C") || turns[i].command == "" ||
			strings.Contains(strings.Join(turns[i].want, "\n"), "Serving HTTP")
		next[turns[i].terminal] = turns[i].command
	}
	return turns
}

// replayed runs the commands of a page and returns the page as it should be.
func replayed(t *testing.T, page, text string, self func() string, updating bool) string {
	r := &replay{T: t, page: page, updating: updating, self: self, dir: t.TempDir(),
		here: map[string]string{}, terminals: map[string]*terminal{}}
	for _, port := range []string{"8000", "8001", "8002", "8080", "9000"} {
		r.here[port] = freePort(t)
	}
	defer func() {
		for _, terminal := range r.terminals {
			terminal.stop()
		}
	}()
	blocks, fresh := blocksOf(text), map[int][]string{}
	for _, turn := range turnsOf(blocks) {
		if t.Failed() && !updating {
			break // what follows would fail for the same reason
		}
		lines := r.terminal(turn.terminal).do(turn)
		fresh[turn.block] = slices.Concat(fresh[turn.block], turn.typed, lines)
	}
	return refill(text, blocks, fresh)
}

// freePort returns a port that no other page gets, with four digits as those of the pages:
// lengths stay the same.
func freePort(t *testing.T) string {
	for {
		port := fmt.Sprint(2000 + ports.Add(1)%6000)
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
}

// A replay is one page whose commands are run.
type replay struct {
	*testing.T
	page      string
	updating  bool              // wrong output is replaced, not reported
	dir       string            // takes the place of /tmp, and of mine
	here      map[string]string // ports and numbers of processes: on the page → on this machine
	self      func() string     // builds our own program, and returns its path
	terminals map[string]*terminal
}

// command makes a command of the page one for this machine, and onPage is the opposite.
func (r *replay) command(text string) string {
	text = regexp.MustCompile(`(^|[\s=:'"])/tmp/`).ReplaceAllString(text, "${1}"+r.dir+"/")
	text = regexp.MustCompile(`(^|[\s='"])mine\b`).ReplaceAllString(text, "${1}"+r.dir+"/mine")
	return regexp.MustCompile(`\b\d{4,}\b`).ReplaceAllStringFunc(text, func(number string) string {
		return cmp.Or(r.here[number], number)
	})
}

func (r *replay) onPage(line string) string {
	line = strings.ReplaceAll(strings.TrimSuffix(line, "\r"), r.dir+"/mine", "mine")
	line = strings.ReplaceAll(line, r.dir+"/", "/tmp/")
	for onPage, here := range r.here {
		line = regexp.MustCompile(`\b`+here+`\b`).ReplaceAllString(line, onPage)
	}
	return line
}

// normal are the rules that make two runs of a command comparable.
var normal = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d`), "DATE"},
	{regexp.MustCompile(`\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d|\d{4}/\d\d/\d\d \d\d:\d\d:\d\d`), "TIME"},
	{regexp.MustCompile(` *\d+(\.\d+)?( ?[nµm]?s|m\d+(\.\d+)?s)\b`), " DURATION"},
	{regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d$`), "TIME"},        // the clock's page
	{regexp.MustCompile(`(/environ[^"]*" 200) \d+`), "$1 SIZE"}, // in the access log
	{regexp.MustCompile(`((127\.0\.0\.1|\[::1\]):|REMOTE_PORT: )\d{5}\b`), "${1}PORT"},
	{regexp.MustCompile(`\b(curl|[Pp]ython|nginx|go)([/ ]?)\d+(\.\d+)+`), "$1${2}VERSION"},
	{processes, "${1}PID"},
	{regexp.MustCompile(`(?m) +$`), ""},
}

// processes finds the numbers of processes.
var processes = regexp.MustCompile(`(\[|(?i:\b(?:pid|worker|workers|process)[ :=]+))(\d+)\b`)

// comparable returns the lines of a page and those that came after the rules. A page with a
// version of curl or with a client's port has no fixed length.
func comparable(want, came []string) (normalWant, normalCame []string) {
	varies := slices.ContainsFunc(came, func(line string) bool {
		return strings.Contains(line, "curl/") || strings.Contains(line, "REMOTE_PORT")
	})
	normalised := func(lines []string) (result []string) {
		text := strings.Join(lines, "\n")
		for _, rule := range normal {
			text = rule.pattern.ReplaceAllString(text, rule.with)
		}
		if varies {
			text = regexp.MustCompile(`Content-Length: \d+`).ReplaceAllString(text, "Content-Length: N")
		}
		return strings.Split(text, "\n")[:len(lines)]
	}
	return normalised(want), normalised(came)
}

// matchLines matches the lines of a page with the first of those that came, in which "..." are
// any lines, and returns how many are used. If whole, that has to be all.
func matchLines(want, came []string, whole bool) (used int, ok bool) {
	if len(want) == 0 {
		return 0, !whole || len(came) == 0
	}
	if want[0] == "..." {
		for skip := range len(came) + 1 {
			if n, ok := matchLines(want[1:], came[skip:], whole); ok {
				return skip + n, true
			}
		}
		return 0, false
	}
	if len(came) == 0 || want[0] != came[0] {
		return 0, false
	}
	n, ok := matchLines(want[1:], came[1:], whole)
	return n + 1, ok
}

// difference shows where the lines that came begin to differ from those of the page.
func difference(want, came []string) string {
	normalWant, normalCame := comparable(want, came)
	same := 0
	for same < min(len(want), len(came)) && normalWant[same] == normalCame[same] {
		same++
	}
	show := func(lines []string) string {
		return strings.Join(lines[min(same, len(lines)):min(same+12, len(lines))], "\n\t")
	}
	return fmt.Sprintf("after %d lines, expected\n\t%s\ncame\n\t%s", same, show(want), show(came))
}

// A terminal is a bash that reads commands from file 3, while its standard input stays
// silent, as a terminal's does. After each command it prints \x1e.
type terminal struct {
	*replay
	bash     *exec.Cmd
	commands *os.File
	screen   *os.File
	silent   *os.File
	came     chan string // what is printed, in pieces
	text     string      // what has come and is not yet shown on the page
	running  bool
	skips    bool // the page shows the rest of the output as "..."
}

// bashLoop is the terminal's program. curl would show a progress meter and hold its output
// back, because it does not write to a terminal. "go run" runs what is built already or has
// other ports, and reports how it ended.
const bashLoop = `
curl() { command curl --no-progress-meter -N "$@"; }
go() {
	local built=$DIR/$RANDOM$RANDOM
	case "$1 $2" in
	"run .") ours "$RAWSGI" "${@:3}" ;;
	"run -overlay") command go build -overlay "$3" -o $built . && ours $built "${@:5}" ;;
	"run "*) sed "$PORTS" "$2" > $built.go && command go build -o $built $built.go && report $built "${@:3}" ;;
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
while IFS= read -r -d '' command <&3; do eval "$command" 3<&-; printf '\036'; done`

// terminal returns the terminal of that name, and opens it if it is new.
func (r *replay) terminal(name string) *terminal {
	if r.terminals[name] != nil {
		return r.terminals[name]
	}
	x := &terminal{replay: r, came: make(chan string, 100)}
	fromUs, toBash, err := os.Pipe()
	screen, toScreen, err2 := os.Pipe()
	silence, silent, err3 := os.Pipe()
	if err := errors.Join(err, err2, err3); err != nil {
		r.Fatal(err)
	}
	x.commands, x.screen, x.silent = toBash, screen, silent
	mapped := ""
	for onPage, here := range r.here {
		mapped += "s/127\\.0\\.0\\.1:" + onPage + "/127.0.0.1:" + here + "/g;"
	}
	x.bash = exec.Command("bash", "--norc", "--noprofile", "-c", bashLoop)
	x.bash.Stdin, x.bash.Stdout, x.bash.Stderr = silence, toScreen, toScreen
	x.bash.ExtraFiles = []*os.File{fromUs}
	x.bash.SysProcAttr = ownGroup()
	x.bash.Env = append(os.Environ(), "RAWSGI="+r.self(), "DIR="+r.dir, "PORT="+r.here["8000"], "PORTS="+mapped,
		"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8", "http_proxy=", "GORACE=atexit_sleep_ms=0")
	if err := x.bash.Start(); err != nil {
		r.Fatal(err)
	}
	for _, file := range []*os.File{fromUs, toScreen, silence} {
		file.Close() // bash has its own
	}
	go func() {
		defer close(x.came)
		buffer := make([]byte, 1<<16)
		for {
			n, err := screen.Read(buffer)
			if x.came <- string(buffer[:n]); err != nil {
				return // all programs have ended, or stop has closed the screen
			}
		}
	}()
	r.terminals[name] = x
	return x
}

// signal sends a signal to all programs of the terminal.
func (x *terminal) signal(signal os.Signal) {
	if group, err := os.FindProcess(-x.bash.Process.Pid); err == nil {
		group.Signal(signal) // fails if all have ended
	}
}

// stop ends the terminal.
func (x *terminal) stop() {
	x.commands.Close()
	x.signal(syscall.SIGTERM)
	patience := time.AfterFunc(5*time.Second, func() {
		x.signal(os.Kill)
		x.screen.Close() // if a program has left the group
	})
	for range x.came { // until nobody can print any more
	}
	patience.Stop()
	x.bash.Wait() // says that it was ended
	x.screen.Close()
	x.silent.Close()
}

// do gives the terminal a command, ^C, or nothing, and returns the output that the page
// should show: the turn's, if that is right.
func (x *terminal) do(turn turn) []string {
	x.Helper()
	want := turn.want
	if turn.command == "^C" || turn.command == "" && x.skips {
		want = append([]string{"..."}, want...) // a log need not be shown before it ends
	}
	switch turn.command {
	case "": // its program goes on
	case "^C":
		if x.updating {
			x.until(time.Second, func([]string, bool) bool { return false })
			x.text = "" // is not what comes after it
		}
		x.signal(os.Interrupt)
	default:
		if !x.until(30*time.Second, func(_ []string, ended bool) bool { return ended }) {
			x.Fatalf("%s:%d: a program still runs in this terminal: end it with ^C, or use another", x.page, turn.line)
		}
		x.text, x.running = "", true
		if _, err := io.WriteString(x.commands, x.command(turn.command)+"\x00"); err != nil {
			x.Fatalf("%s:%d: %v", x.page, turn.line, err)
		}
	}
	x.skips = len(want) > 0 && want[len(want)-1] == "..."
	patience := 30 * time.Second
	if x.updating && turn.runsOn {
		patience = 3 * time.Second
	}
	used, right := 0, false
	x.until(patience, func(came []string, ended bool) bool {
		normalWant, normalCame := comparable(want, came)
		used, right = matchLines(normalWant, normalCame, ended)
		return ended || right && turn.runsOn
	})
	came, ended := x.lines()
	right = right && (ended || turn.runsOn)
	if !right {
		used = len(came)
	}
	x.learn(want, came[:used])
	x.forget(used, ended)
	if right {
		return turn.want
	}
	if !x.updating {
		x.Errorf("%s:%d: $ %s\n%s\n-update writes the page anew", x.page, turn.line, turn.command, difference(turn.want, came))
	}
	return came
}

// until reads what the terminal prints until done says so, or for so long without a word, and
// reports whether done did.
func (x *terminal) until(silence time.Duration, done func(lines []string, ended bool) bool) bool {
	for !done(x.lines()) {
		select {
		case text, open := <-x.came:
			if x.text += text; !open {
				x.Fatalf("%s: the terminal is closed; what came is %q", x.page, x.text)
			}
		case <-time.After(silence):
			return false
		}
	}
	return true
}

// lines returns the whole lines that have come, the last one, too, if the command has ended.
func (x *terminal) lines() (lines []string, ended bool) {
	text, rest, ended := strings.Cut(x.text, "\x1e")
	text += rest
	if ended = ended || !x.running; !ended {
		text = text[:strings.LastIndex(text, "\n")+1]
	}
	for line := range strings.Lines(text) {
		lines = append(lines, x.onPage(strings.TrimSuffix(line, "\n")))
	}
	return lines, ended
}

// forget removes lines that the page shows.
func (x *terminal) forget(lines int, ended bool) {
	x.running = x.running && !ended
	x.text = strings.Replace(x.text, "\x1e", "", 1)
	for range lines {
		_, x.text, _ = strings.Cut(x.text, "\n")
	}
}

// learn remembers which numbers the processes of the page have here.
func (x *terminal) learn(want, came []string) {
	onPage := processes.FindAllStringSubmatch(strings.Join(want, "\n"), -1)
	here := processes.FindAllStringSubmatch(strings.Join(came, "\n"), -1)
	for i := range min(len(onPage), len(here)) {
		if number := onPage[i][2]; len(number) >= 4 && x.here[number] == "" { // else it is a date's day
			x.here[onPage[i][2]] = here[i][2]
		}
	}
}

// An excerpt is a declaration as it stands in its file, with its comment, and the names in
// it: a method has two, a group many.
type excerpt struct {
	text  string
	names []string
}

// parsed holds the excerpts of files.
var parsed sync.Map

// excerpts returns the declarations of a name in a Go file: "Write" finds every method of that
// name, "Response.Write" one.
func excerpts(t testing.TB, path, name string) []excerpt {
	t.Helper()
	if _, ok := parsed.Load(path); !ok {
		parsed.Store(path, excerptsOf(t, path))
	}
	all, _ := parsed.Load(path)
	if name == "" { // the whole file
		whole := excerpt{text: strings.TrimSuffix(string(must(os.ReadFile(path))(t)), "\n")}
		for _, e := range all.([]excerpt) {
			whole.names = append(whole.names, e.names...)
		}
		return []excerpt{whole}
	}
	return slices.DeleteFunc(slices.Clone(all.([]excerpt)), func(e excerpt) bool {
		return !slices.Contains(e.names, name)
	})
}

func excerptsOf(t testing.TB, path string) (all []excerpt) {
	t.Helper()
	source := must(os.ReadFile(path))(t)
	files := token.NewFileSet()
	file := must(parser.ParseFile(files, path, source, parser.ParseComments))(t)
	for _, d := range file.Decls {
		doc, names := namesOf(d)
		from, to := files.Position(d.Pos()).Offset, files.Position(d.End()).Offset
		if doc != nil {
			from = files.Position(doc.Pos()).Offset
		}
		if end := bytes.IndexByte(source[to:], '\n'); end > 0 { // a comment on its last line
			to += end
		}
		all = append(all, excerpt{string(source[from:to]), names})
	}
	return all
}

// namesOf returns the comment of a declaration and the names that it declares.
func namesOf(d ast.Decl) (doc *ast.CommentGroup, names []string) {
	if f, ok := d.(*ast.FuncDecl); ok {
		names = []string{f.Name.Name}
		if f.Recv != nil {
			receiver := f.Recv.List[0].Type
			if pointer, ok := receiver.(*ast.StarExpr); ok {
				receiver = pointer.X
			}
			names = append(names, receiver.(*ast.Ident).Name+"."+f.Name.Name)
		}
		return f.Doc, names
	}
	group := d.(*ast.GenDecl)
	for _, spec := range group.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			names = append(names, spec.Name.Name)
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				names = append(names, name.Name)
			}
		}
	}
	return group.Doc, names
}

// placed finds a fence that shows a declaration, "go request.go#readHeader", or a file.
var placed = regexp.MustCompile(`^go (\S+\.go)(?:#([\w.]+))?$`)

// TestDocsExcerpts compares the code on the pages with the source; -update refills it. A
// line "// …" stands for lines that are left out; such an excerpt is mended by hand.
func TestDocsExcerpts(t *testing.T) {
	eachPage(t, func(t *testing.T, page, text string) string {
		blocks, fresh := blocksOf(text), map[int][]string{}
		for i, b := range blocks {
			place := placed.FindStringSubmatch(b.info)
			if place == nil {
				if _, err := format.Source([]byte(strings.Join(b.lines, "\n"))); b.info == "go" && err != nil {
					t.Errorf("%s:%d: this is not Go: %v", page, b.first, err)
				}
				continue
			}
			found := excerpts(t, place[1], place[2])
			if len(found) != 1 {
				t.Errorf("%s:%d: %s has %d declarations of %s; a method may be named Type.method", page,
					b.first, place[1], len(found), place[2])
				continue
			}
			source, shown := strings.Split(found[0].text, "\n"), slices.Clone(b.lines)
			whole := true
			for i, line := range shown {
				if strings.TrimSpace(line) == "// …" {
					shown[i], whole = "...", false
				}
			}
			if !whole && !strings.HasPrefix(shown[0], "//") {
				shown = append([]string{"..."}, shown...) // its comment is left out, too
			}
			if _, ok := matchLines(shown, source, true); ok {
				continue
			}
			if fresh[i] = source; !whole || !*update {
				fresh[i] = b.lines
				t.Errorf("%s:%d: %s#%s is otherwise: %s", page, b.first, place[1], place[2], difference(shown, source))
			}
		}
		return refill(text, blocks, fresh)
	})
}

// chapterHeadings are those of each chapter. Code and Run it may come several times, with
// a colon and what they are about. Chapter 0 has its own form.
var chapterHeadings = strings.Split("What fails today,Bytes,Code,Run it,Break it,In rawsgi,In Python,"+
	"What you know now,Exercises,Questions", ",")

// chapterTime is the line below the first sentence of a chapter.
var chapterTime = regexp.MustCompile(`(?m)^Time: (\d+) minutes\. Needs: [^.\n]+\.( Steps?: docs/steps/[\w/., \n-]+\.go\.)?$`)

// TestDocsForm holds each chapter to its form, and what it calls new or changed to its steps.
func TestDocsForm(t *testing.T) {
	eachPage(t, func(t *testing.T, page, text string) string {
		name := regexp.MustCompile(`^docs/(\d\d)-[\w-]+\.md$`).FindStringSubmatch(page)
		if name == nil {
			return text
		}
		prose := proseOf(text)
		if n := len(strings.Fields(prose)); n > 1500 {
			t.Errorf("%s has %d words outside fences, expected at most 1,500", page, n)
		}
		chapter := must(strconv.Atoi(name[1]))(t)
		if chapter == 0 {
			return text
		}
		title := fmt.Sprintf("# %d. ", chapter)
		if !strings.HasPrefix(text, title) {
			t.Errorf("%s: expected a title that begins with %q", page, title)
		}
		if got := headingsOf(prose); !slices.Equal(got, chapterHeadings) {
			t.Errorf("%s: expected the headings\n\t%q, got\n\t%q", page, chapterHeadings, got)
		}
		intro, _, _ := strings.Cut(prose, "\n## ")
		line := chapterTime.FindString(intro)
		if line == "" {
			t.Errorf("%s: expected a line like \"Time: 20 minutes. Needs: chapter 2. Step: docs/steps/05-body.go.\"", page)
		}
		steps, before := stepsOfChapter(t, chapter)
		for _, step := range steps {
			if !strings.Contains(line, step) {
				t.Errorf("%s: expected %s in the line %q", page, step, line)
			}
		}
		if _, questions, _ := strings.Cut(prose, "\n## Questions\n"); strings.Count(questions, "<details><summary>") != 3 ||
			strings.Count(questions, "</details>") != 3 {
			t.Errorf("%s: expected three questions, each in <details><summary>question</summary> answer </details>", page)
		}
		namesTerminals(t, page, text)
		runsOften(t, page, text)
		return changesOf(t, page, text, steps, before)
	})
}

// headingsOf returns the headings of a chapter. A pair of Code and Run it counts once.
func headingsOf(prose string) (headings []string) {
	for _, heading := range regexp.MustCompile(`(?m)^## ([^:\n]*)(: .*)?$`).FindAllStringSubmatch(prose, -1) {
		headings = append(headings, heading[1])
		if n := len(headings); n >= 4 && slices.Equal(headings[n-4:n-2], headings[n-2:]) {
			headings = headings[:n-2]
		}
	}
	return headings
}

// proseOf is a page without what stands between fences.
func proseOf(text string) string {
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
}

// stepsOfChapter returns the chapter's programs, and the one before them, or "".
func stepsOfChapter(t *testing.T, chapter int) (chapterSteps []string, before string) {
	for _, s := range steps {
		switch prefix := fmt.Sprintf("%02d", chapter); {
		case strings.HasPrefix(s.name, prefix):
			chapterSteps = append(chapterSteps, s.path())
		case s.name < prefix:
			before = s.path()
		}
	}
	return chapterSteps, before
}

// namesTerminals holds a chapter to saying above a block in which terminal it is typed, unless
// the block before was typed there, too.
func namesTerminals(t *testing.T, page, text string) {
	lines, last := strings.Split(text, "\n"), ""
	for _, b := range blocksOf(text) {
		number, ok := strings.CutPrefix(b.info, "console")
		if number = cmp.Or(strings.TrimSpace(number), "1"); !ok || number == "unreplayed" {
			continue
		}
		above := strings.Join(lines[max(0, b.first-6):b.first-1], " ")
		if number != last && !strings.Contains(above, "Terminal "+number+":") {
			t.Errorf("%s:%d: expected a line \"Terminal %s:\" above this block", page, b.first, number)
		}
		last = number
	}
}

// runsOften holds a chapter to something to run after at most 100 new lines of code.
func runsOften(t *testing.T, page, text string) {
	lines := 0
	for _, b := range blocksOf(text) {
		if strings.HasPrefix(b.info, "console") && strings.Contains(strings.Join(b.lines, "\n"), "$ go run docs/steps/") {
			lines = 0
		}
		place := placed.FindStringSubmatch(b.info)
		if place == nil || !strings.HasPrefix(place[1], "docs/steps/") {
			continue
		}
		i := slices.IndexFunc(steps, func(s step) bool { return s.path() == place[1] })
		before := ""
		if i > 0 {
			before = string(must(os.ReadFile(steps[i-1].path()))(t))
		}
		for _, line := range b.lines {
			code := strings.TrimSpace(line)
			if code != "" && !strings.HasPrefix(code, "//") && !strings.Contains(before, "\n"+line+"\n") {
				lines++
			}
		}
		if lines > 100 {
			t.Errorf("%s:%d: %d new lines of code since the last run, expected at most 100", page, b.first, lines)
		}
	}
}

// changesOf holds the paragraphs that begin with "Import:", "New:" and "Changed:" to the steps,
// one after the other, and returns the page with the right ones. What they name has to be shown.
func changesOf(t *testing.T, page, text string, steps []string, before string) string {
	shown := map[string]bool{}
	for _, b := range blocksOf(text) {
		if place := placed.FindStringSubmatch(b.info); place != nil {
			for _, e := range excerpts(t, place[1], place[2]) {
				for _, name := range e.names {
					shown[place[1]+"#"+name] = true
				}
			}
		}
	}
	var want, missing []string
	for _, step := range steps {
		added, changed := stepChanges(t, before, step)
		for _, list := range []struct {
			title string
			names []string
		}{{"Import:", newImports(t, before, step)}, {"New:", added}, {"Changed:", changed}} {
			if len(list.names) > 0 {
				want = append(want, wrapped(list.title+" `"+strings.Join(list.names, "`, `")+"`"))
			}
			for _, name := range list.names {
				if list.title != "Import:" && !shown[step+"#"+name] {
					missing = append(missing, step+"#"+name)
				}
			}
		}
		before = step
	}
	if missing != nil {
		t.Errorf("%s does not show what is new or changed:\n\t%s", page, strings.Join(missing, "\n\t"))
	}
	found := regexp.MustCompile("(?m)^(Import|New|Changed):( `.*\n| *$\n?)(`.*\n)*").FindAllStringIndex(text, -1)
	if len(found) != len(want) {
		t.Errorf("%s: expected the %d paragraphs\n%s\ngot %d", page, len(want), strings.Join(want, ""), len(found))
		return text
	}
	for i := len(found) - 1; i >= 0; i-- {
		if got := text[found[i][0]:found[i][1]]; got != want[i] {
			if !*update {
				t.Errorf("%s: expected\n%sgot\n%s", page, want[i], got)
			}
			text = text[:found[i][0]] + want[i] + text[found[i][1]:]
		}
	}
	return text
}

// newImports returns the packages that the second of two Go files imports and the first does
// not; there may be no first.
func newImports(t *testing.T, before, after string) (paths []string) {
	imports := func(path string) (list []string) {
		if path == "" {
			return nil
		}
		for _, spec := range must(parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly))(t).Imports {
			list = append(list, spec.Path.Value)
		}
		return list
	}
	if before == "" {
		return nil // the page shows the whole file
	}
	return slices.DeleteFunc(imports(after), func(path string) bool { return slices.Contains(imports(before), path) })
}

// wrapped breaks a paragraph into lines.
func wrapped(text string) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		if i > 0 && column+1+len(word) > 90 {
			b.WriteString("\n")
			column = 0
		} else if i > 0 {
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String() + "\n"
}

// TestDocsCoverage lists the declarations of the program that no page names.
func TestDocsCoverage(t *testing.T) {
	words := map[string]bool{}
	for _, page := range docPages(t) {
		for _, word := range regexp.MustCompile(`\w+`).FindAllString(string(must(os.ReadFile(page))(t)), -1) {
			words[word] = true
		}
	}
	for _, file := range []string{"server.go", "request.go", "response.go", "main.go", "app.go"} {
		for _, d := range declarations(t, file) {
			if bare := d.name[strings.LastIndex(d.name, ".")+1:]; bare != "_" && !words[bare] {
				t.Errorf("no page names %s#%s", file, d.name)
			}
		}
	}
}

// TestDocsLinks follows the links of each page: to files, to headings, to declarations, and
// into the lab.
func TestDocsLinks(t *testing.T) {
	eachPage(t, func(t *testing.T, page, text string) string {
		prose := proseOf(text)
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(prose, -1) {
			checkLink(t, page, link[1])
		}
		for _, place := range regexp.MustCompile("`((?:[\\w-]+/)*[\\w-]+\\.go)#([\\w.]+)`").FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(place[1]); err != nil {
				t.Errorf("%s names %s, which is not there", page, place[0])
			} else if len(excerpts(t, place[1], place[2])) == 0 {
				t.Errorf("%s names %s, which is not there", page, place[0])
			}
		}
		for _, link := range regexp.MustCompile(`http://127\.0\.0\.1:8000/lab#([^\s)>\x60]*)`).FindAllStringSubmatch(text, -1) {
			checkLabLink(t, page, link[1])
		}
		return text
	})
}

// checkLink follows a link of a page. Those to other sites are not followed.
func checkLink(t *testing.T, page, link string) {
	if strings.Contains(link, ":") {
		return
	}
	name, anchor, _ := strings.Cut(link, "#")
	path := filepath.ToSlash(filepath.Join(filepath.Dir(page), name))
	if name == "" {
		path = page
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s links to %s: %v", page, link, err)
		return
	}
	if anchor == "" {
		return
	}
	content := string(must(os.ReadFile(path))(t))
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(proseOf(content), -1) {
		if anchorOf(heading[1]) == anchor {
			return
		}
	}
	if !strings.Contains(content, `<a id="`+anchor+`"></a>`) { // as in a row of the glossary
		t.Errorf("%s links to %s, but there is no such heading", page, link)
	}
}

// anchorOf is the anchor that GitHub gives a heading.
func anchorOf(heading string) string {
	heading = regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(heading, " ", "-")
}

// checkLabLink holds a link into the lab to its form: JSON, or nothing. That the experiment
// ends as the page says is for the lab's own tests.
func checkLabLink(t *testing.T, page, fragment string) {
	text, err := url.PathUnescape(fragment)
	if err != nil || strings.HasPrefix(text, "{") && !json.Valid([]byte(text)) {
		t.Errorf("%s: the lab cannot read %s", page, fragment)
	}
}

// TestDocsMap holds the walk along one request to the bytes that travel.
func TestDocsMap(t *testing.T) {
	const page = "docs/00-map.md"
	text := string(must(os.ReadFile(page))(t))
	const request = `POST /environ/a%20b?c=4 HTTP/1.0\r\nHost: localhost:8000\r\nContent-Length: 5\r\n\r\nHELLO`
	if !strings.Contains(text, request) || len(must(unescape(request))(t)) != 82 {
		t.Fatalf("%s no longer follows its 82 bytes", page)
	}
	// Its answer, when the server's port has four digits and the client's five.
	s := start(t, mount(map[string]Application{"/environ": showEnviron}, hello))
	c := dial(t, s.addr)
	io.WriteString(c, must(unescape(request))(t))
	_, _, content := splitReply(t, string(must(io.ReadAll(c))(t)))
	_, ours := hostPort(c.RemoteAddr())
	_, theirs := hostPort(c.LocalAddr())
	want := fmt.Sprintf(`Content-Length: %d\r\n`, len(content)-len(ours)+4-len(theirs)+5)
	if !strings.Contains(text, want) {
		t.Errorf("%s does not have the %q that comes", page, want)
	}
}

// TestDocsApplication builds the program with the application that the map adds, in a copy of
// app.go, and asks it and the gallery's index.
func TestDocsApplication(t *testing.T) {
	t.Parallel()
	text := string(must(os.ReadFile("docs/00-map.md"))(t))
	_, text, _ = strings.Cut(text, "\n## Write your own application\n")
	blocks := blocksOf(text)
	function, row := strings.Join(blocks[0].lines, "\n"), blocks[1].lines[0]
	const list = "entries := []entry{\n"
	source := strings.Replace(string(must(os.ReadFile("app.go"))(t)), list, list+row+"\n", 1)
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, "app.go"), filepath.Join(dir, "overlay.json")
	replace := map[string]any{"Replace": map[string]string{must(filepath.Abs("app.go"))(t): changed}}
	writeFile(t, changed, source+"\n"+function+"\n")
	writeFile(t, overlay, string(must(json.Marshal(replace))(t)))
	program := filepath.Join(dir, "greeter.exe")
	out, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for path, want := range map[string]string{"/greet/Ada": "\n\nHello, Ada!\n", "/": "Greets by name."} {
		out, err := exec.Command(program, "call", "-app", "gallery", path).Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: expected %q, got %q, %v", path, want, out, err)
		}
	}
}

// TestDocsContents holds the opening comment of this file to its parts.
func TestDocsContents(t *testing.T) {
	source := string(must(os.ReadFile("server_test.go"))(t))
	opening, _, _ := strings.Cut(source, "\npackage main\n")
	var listed, parts []string
	for _, line := range regexp.MustCompile(`(?m)^//\t(.*?)  +\S`).FindAllStringSubmatch(opening, -1) {
		listed = append(listed, line[1])
	}
	for _, heading := range regexp.MustCompile(`(?m)^// -{64} (.*)$`).FindAllStringSubmatch(source, -1) {
		parts = append(parts, heading[1])
	}
	if !slices.Equal(listed, parts) {
		t.Errorf("the opening comment lists\n\t%q, the parts are\n\t%q", listed, parts)
	}
}

// TestDocsRules holds docs/conformance.md to be whole: every rule is a row, a test
// that exists, or left out with a reason.
func TestDocsRules(t *testing.T) {
	page := string(must(os.ReadFile("docs/conformance.md"))(t))
	tests := string(must(os.ReadFile("server_test.go"))(t))
	seen := map[string]bool{}
	for line := range strings.Lines(page) {
		ids := regexp.MustCompile(`^\| ((?:[A-Z]\d\d )+)\|`).FindStringSubmatch(line)
		if ids == nil {
			continue
		}
		for _, id := range strings.Fields(ids[1]) {
			seen[id] = true
		}
		test := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindStringSubmatch(line)
		if test != nil && !strings.Contains(tests, "func "+test[1]+"(") {
			t.Errorf("%s is not a test: %s", test[1], line)
		}
	}
	names := map[string]bool{}
	for _, row := range allRows() {
		if names["proxy "+row.name] {
			t.Errorf("two rows are called %s", row.name)
		}
		names["proxy "+row.name], names["CGI "+row.name] = true, true
	}
	for name := range exceptions() {
		if name != "mode row" && !names[name] {
			t.Errorf("there is no row for the exception %q", name)
		}
	}
	rules := 0
	for letter, n := range map[string]int{"R": 24, "H": 23, "B": 15, "E": 22, "I": 8, "S": 18, "W": 17,
		"C": 11, "F": 3, "M": 9, "T": 8, "G": 4, "X": 18, "A": 7, "P": 11} {
		for i := 1; i <= n; i++ {
			if id := fmt.Sprintf("%s%02d", letter, i); !seen[id] {
				t.Errorf("%s is not on the page", id)
			}
			rules++
		}
	}
	if rules != 198 || len(allRows()) < 200 {
		t.Errorf("%d rules, %d rows", rules, len(allRows()))
	}
}

// TestPosts holds docs/posts.md to its 84 things, and to tests that exist.
func TestPosts(t *testing.T) {
	page := string(must(os.ReadFile("docs/posts.md"))(t))
	for i := 1; i <= 84; i++ {
		if n := strings.Count(page, fmt.Sprintf("\n| %d | ", i)); n != 1 {
			t.Errorf("thing %d is there %d times", i, n)
		}
	}
	tests := string(must(os.ReadFile("server_test.go"))(t))
	for _, name := range regexp.MustCompile(`-run (Test\w+)`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(tests, "\nfunc "+name[1]+"(") {
			t.Errorf("%s is not a test", name[1])
		}
	}
}

// TestTeaching holds the minutes in the contents to those of the chapters, and those of each
// lesson plan to their sum. A class may run what a chapter has its reader type: in less time.
func TestTeaching(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\| (\d+) \| (?:\[[^\]]*\]\(([^)#]+)\))?(.*)`)
	// minutes adds up the rows of a table, and says which pages it has.
	minutes := func(table string) (sum int, pages []string) {
		for _, cells := range row.FindAllStringSubmatch(table, -1) {
			sum += must(strconv.Atoi(cells[1]))(t)
			if cells[2] == "" {
				continue
			}
			page := filepath.Join("docs", cells[2])
			pages = append(pages, page)
			own := chapterTime.FindStringSubmatch(string(must(os.ReadFile(page))(t)))
			if own == nil || own[1] != cells[1] && !strings.Contains(cells[3], "not typed") {
				t.Errorf("%s minutes for %s, which says %q", cells[1], page, own)
			}
		}
		return sum, pages
	}
	_, listed := minutes(string(must(os.ReadFile("docs/README.md"))(t)))
	chapters := must(filepath.Glob("docs/[0-9][0-9]-*.md"))(t)
	if !slices.Equal(listed, chapters) {
		t.Errorf("the contents list\n\t%q, expected\n\t%q", listed, chapters)
	}
	found := 0
	for _, plan := range strings.Split(string(must(os.ReadFile("docs/teaching.md"))(t)), "\n### ") {
		title := regexp.MustCompile(`^(\d+) minutes: .*`).FindStringSubmatch(plan)
		if title == nil {
			continue
		}
		found++
		if sum, _ := minutes(plan); strconv.Itoa(sum) != title[1] {
			t.Errorf("%s: the rows add up to %d minutes", title[0], sum)
		}
	}
	if found != 3 {
		t.Errorf("found %d lesson plans, expected 3", found)
	}
}

// The servers that docs/servers.md compares.
var servers = []struct {
	name, install string
	version       []string // a command that prints it; nil for ours
	command       []string // what to run in docs; ADDR, HOST and PORT are filled in
	clients       int      // how many rows at once
}{
	{"rawsgi", "", nil, nil, 8},
	{"net/http", "", nil, nil, 8},
	{"wsgiref", "python3", []string{debianPython, "--version"}, []string{debianPython, "environ_app.py", "PORT"}, 1},
	{"gunicorn", "gunicorn", []string{"gunicorn", "--version"},
		[]string{"gunicorn", "--threads", "8", "-b", "ADDR", "environ_app:app"}, 8},
	{"waitress", "python3-waitress", []string{debianPython, "-c",
		"import importlib.metadata as m; print('waitress', m.version('waitress'))"},
		[]string{"waitress-serve", "--listen", "ADDR", "environ_app:app"}, 8},
	{"uWSGI", "uwsgi-core uwsgi-plugin-python3", []string{"uwsgi", "--version"}, []string{"uwsgi", "--http-socket", "ADDR",
		"--plugin", "python3", "--wsgi-file", "environ_app.py", "--callable", "app", "--threads", "8"}, 8},
}

// TestServers holds docs/servers.md to what the servers do, and writes its tables anew with
// -update. It is about the versions that the page names: with others, the page has to be
// written anew.
func TestServers(t *testing.T) {
	if !*update {
		t.Parallel()
		long(t)
	}
	versions, outcomes := []string{}, map[string][]graded{}
	for _, server := range servers {
		version := map[string]string{"rawsgi": software, "net/http": runtime.Version()}[server.name]
		if server.version != nil {
			out, err := exec.Command(server.version[0], server.version[1:]...).CombinedOutput()
			if err != nil {
				skip(t, "needs "+server.name, strings.Fields(server.install)...)
			}
			version = strings.TrimSpace(string(out))
		}
		command := strings.Join(server.command, " ")
		if command == "" {
			command = "started by the test"
		}
		command = strings.ReplaceAll(strings.ReplaceAll(command, "ADDR", "127.0.0.1:9000"), "PORT", "9000")
		versions = append(versions, fmt.Sprintf("| %s | %s | `%s` |\n", server.name, version, command))
	}
	page := string(must(os.ReadFile("docs/servers.md"))(t))
	if !*update && !strings.Contains(page, strings.Join(versions, "")) {
		skip(t, "docs/servers.md is about other versions (go test -run Servers -update)")
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, server := range servers {
		addr := startOther(t, server.name, server.command)
		all.Add(1)
		go func() {
			defer all.Done()
			result := gradeRows(t, addr, "-jobs", strconv.Itoa(server.clients))
			mu.Lock()
			outcomes[server.name] = result
			mu.Unlock()
		}()
	}
	all.Wait()
	tables := serverTables(versions, outcomes)
	before, rest, _ := strings.Cut(page, "<!-- tables -->\n")
	old, after, ok := strings.Cut(rest, "<!-- end of tables -->\n")
	switch {
	case !ok:
		t.Fatal("docs/servers.md has lost the marks of its tables")
	case *update:
		page = before + "<!-- tables -->\n" + tables + "<!-- end of tables -->\n" + after
		if err := os.WriteFile("docs/servers.md", []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	case old != tables:
		t.Errorf("docs/servers.md says otherwise; go test -run Servers -update writes\n%s", tables)
	}
}

// startOther starts one of the servers on a free port.
func startOther(t *testing.T, name string, command []string) string {
	switch name {
	case "rawsgi":
		return start(t, showEnviron).addr
	case "net/http":
		l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
		server := &http.Server{Handler: http.HandlerFunc(environHandler), ErrorLog: log.New(io.Discard, "", 0)}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		return l.Addr().String()
	}
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	var args []string
	for _, arg := range command {
		args = append(args, strings.NewReplacer("ADDR", addr, "PORT", port).Replace(arg))
	}
	program := exec.Command(args[0], args[1:]...)
	program.Dir = "docs"
	program.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	background(t, addr, program)
	return addr
}

// environHandler is the environ application for net/http: what it says is what a gateway
// can make of a request that net/http has read.
func environHandler(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	host, port, _ := net.SplitHostPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	e := Environ{"REQUEST_METHOD": r.Method, "SCRIPT_NAME": "", "PATH_INFO": r.URL.Path,
		"QUERY_STRING": r.URL.RawQuery, "SERVER_NAME": host, "SERVER_PORT": port,
		"SERVER_PROTOCOL": r.Proto, "SERVER_SOFTWARE": "net/http", "GATEWAY_INTERFACE": "CGI/1.1",
		"REMOTE_ADDR": client, "wsgi.url_scheme": "http"}
	for name, values := range r.Header {
		for _, value := range values {
			e.addHeader(Header{name, value})
		}
	}
	if r.Host != "" {
		e["HTTP_HOST"] = r.Host
	}
	if r.URL.Path == "" { // of http://host
		e["PATH_INFO"] = "/"
	}
	e["wsgi.input"] = bytes.NewReader(content)
	headers := w.Header()
	headers.Set("Server", "net/http")
	showEnviron(e, func(status string, fields []Header, excInfo ...error) io.Writer {
		for _, field := range fields {
			headers.Set(field.Name, field.Value)
		}
		return w
	}).All()(func(block []byte) bool {
		headers.Set("Content-Length", strconv.Itoa(len(block)))
		_, err := w.Write(block)
		return err == nil
	})
}

// serverTables writes the tables of docs/servers.md.
func serverTables(versions []string, outcomes map[string][]graded) string {
	var b, names strings.Builder
	b.WriteString("| server | version | command, in docs |\n|---|---|---|\n" + strings.Join(versions, ""))
	for _, server := range servers {
		fmt.Fprintf(&names, " %s |", server.name)
	}
	line := strings.Repeat("---|", len(servers)) + "\n"
	count := func(first string, include func(graded) bool, always bool) {
		var cells strings.Builder
		same := true
		for _, server := range servers {
			n := map[string]int{}
			for _, row := range outcomes[server.name] {
				// Where a server resets, it is a race whether this answer arrives.
				if include(row) && !strings.HasPrefix(row.Name, "B10 too large, and sent") {
					n[row.Outcome]++
				}
			}
			cell := strconv.Itoa(n["passes"])
			if n["differs"] > 0 {
				cell += fmt.Sprintf(" ~%d", n["differs"])
			}
			if n["hung up"] > 0 {
				cell += fmt.Sprintf(" ⌿%d", n["hung up"])
			}
			if n["fails"] > 0 {
				cell += fmt.Sprintf(" **✗%d**", n["fails"])
			}
			same = same && n["differs"]+n["hung up"]+n["fails"] == 0
			fmt.Fprintf(&cells, " %s |", cell)
		}
		if always || !same {
			fmt.Fprintf(&b, "| %s |%s\n", first, cells.String())
		}
	}
	fmt.Fprintf(&b, "\n| chapter |%s\n|---|%s", names.String(), line)
	var chapters []int
	var rules []string
	for _, row := range outcomes["rawsgi"] {
		if !slices.Contains(chapters, row.Chapter) {
			chapters = append(chapters, row.Chapter)
		}
		if rule := row.rule(); !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	for _, chapter := range chapters {
		count(strconv.Itoa(chapter), func(r graded) bool { return r.Chapter == chapter }, true)
	}
	fmt.Fprintf(&b, "\n| rule |%s\n|---|%s", names.String(), line)
	for _, rule := range rules {
		count(rule, func(r graded) bool { return r.rule() == rule }, false)
	}
	return b.String()
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

// TestSteps holds each step to what its chapter says: it compiles, runs, passes its rows and
// fails one of the next chapter's.
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
			s.grade(t, s.start(t, path))
		})
	}
}

// grade sends the table's rows to a step: it has to pass those of its chapters, and to fail one
// of others. What it need not show yet is unseen.
func (s step) grade(t *testing.T, addr string) {
	args := []string{}
	if s.name >= "06" { // the head is whole from here on
		args = append(args, "-strict")
	}
	failed := s.fails == ""
	for _, row := range gradeRows(t, addr, args...) {
		place := fmt.Sprintf("ch%02d/%s", row.Chapter, row.Name[:3])
		right := row.Outcome == "passes" || row.Outcome == "unseen"
		switch {
		case s.name < "06b" && strings.Contains(row.Fault, "reset"):
			// the answer was lost, as step 6b explains
		case regexp.MustCompile(s.passes).MatchString(place):
			if !right {
				t.Errorf("%s: %s %s", row.Name, row.Outcome, row.Fault)
			}
		case regexp.MustCompile(s.fails).MatchString(place):
			failed = failed || !right
		}
	}
	if !failed {
		t.Errorf("expected it to fail a row of %s", s.fails)
	}
}

// stepAnswers are exchanges with steps from the first that is named on, up to the last.
var stepAnswers = []struct{ from, to, sent, answer string }{
	{"03a", "09", "GET / HTTP/1.0\r\n", `^HTTP/1\.0 408 .*waited 2s`},
	{"04b", "09", "GET / HTTP/1.1\r\n\r\n", `^HTTP/1\.0 400 .*RFC 9112 §3\.2`},
	{"04b", "09", "GET / HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 `},
	{"05", "09", post("abc", "Content-Length: 9"), `^HTTP/1\.0 408 .*9 body bytes, got 3`},
	{"05", "09", "POST / HTTP/1.1\r\nHost: a\r\nExpect:\r\nExpect: a, 100-Continue\r\nContent-Length: 9\r\n\r\nabc",
		`^HTTP/1\.1 100 Continue\r\n\r\nHTTP/1\.0 408 `},
	{"05", "09", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continued\r\nContent-Length: 3\r\n\r\nabc", `^HTTP/1\.0 200 `},
	{"06b", "09", post(strings.Repeat("x", 3<<20), "Content-Length: 3145728", "A : b"), `^HTTP/1\.0 400 `},
	{"08a", "09", "GET /hello HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 OK\r\n.*Content-Length: 14\r\n\r\nHello, World!\n$`},
	{"08b", "09", "HEAD /hello HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 OK\r\n.*Content-Length: 14\r\n\r\n$`},
	{"08b", "09", "GET /errors/before HTTP/1.0\r\n\r\n", `^HTTP/1\.0 500 .*Content-Length: \d+\r\n\r\n500 `},
	{"08b", "08c", "GET /errors/after HTTP/1.0\r\n\r\n", `^HTTP/1\.0 200 .*\r\n\r\nThis page will never be comp$`},
	{"08d", "09", "GET /errors/after HTTP/1.0\r\n\r\n", `connection reset`},
	{"08d", "09", "GET /errors/excinfo HTTP/1.0\r\n\r\n", `^HTTP/1\.0 503 .*\r\n\r\nSorry: the database is on fire\n$`},
	{"08c", "09", "GET /write HTTP/1.0\r\n\r\n", `\r\n\r\n3\.\.\.\n2\.\.\.\n1\.\.\.\nand the rest is returned\n$`},
	{"08c", "09", "HEAD /write HTTP/1.0\r\n\r\n", `charset=utf-8\r\n\r\n$`},
}

// TestStepAnswers shows what the rows do not: patience, and the applications of chapter 8.
func TestStepAnswers(t *testing.T) {
	t.Parallel()
	longer(t)
	for _, s := range steps[2:] {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			addr := s.start(t, s.build(t))
			for _, a := range stepAnswers {
				if s.name < a.from || s.name > a.to+"~" {
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
			if s.name >= "08b" {
				s.ticks(t, addr)
			}
			if s.name >= "08d" {
				s.waits(t, addr)
			}
		})
	}
}

// ticks sees the clock's first block long before its last.
func (s step) ticks(t *testing.T, addr string) {
	c := dial(t, addr)
	io.WriteString(c, "GET /clock HTTP/1.0\r\n\r\n")
	c.SetReadDeadline(time.Now().Add(5 * time.Second)) // the last comes after nine
	block := make([]byte, 1024)
	if n, err := c.Read(block); err != nil || !regexp.MustCompile(`\d\d:\d\d:\d\d\n$`).Match(block[:n]) {
		t.Errorf("got %q, %v", block[:n], err)
	}
	c.Close() // the step sees that its client has left, and answers the next
}

// build compiles and vets the step, with a port that is free.
func (s step) build(t *testing.T) (path string) {
	if _, err := exec.LookPath("go"); err != nil {
		skip(t, missing, "golang-go")
	}
	source := string(must(os.ReadFile(s.path()))(t))
	const addr = `"127.0.0.1:8000"`
	if strings.Count(source, addr) != 1 {
		t.Fatalf("expected %s once", addr)
	}
	dir := t.TempDir()
	file, path := filepath.Join(dir, s.name+".go"), filepath.Join(dir, s.name+".exe")
	source = strings.Replace(source, addr, `"127.0.0.1:0"`, 1)
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vet", file}, {"build", "-ldflags", "-s -w", "-o", path, file}} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return path
}

// start runs the step until the test ends, and returns its address.
func (s step) start(t *testing.T, path string) (addr string) {
	program := exec.Command(path)
	stdout := must(program.StdoutPipe())(t)
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		program.Process.Kill() // fails if it has ended by itself, which a row has seen
		program.Wait()         // says that it was killed
	})
	r := bufio.NewReader(stdout)
	banner := must(r.ReadString('\n'))(t)
	match := regexp.MustCompile(`^Serving HTTP on http://(.*)/ \.\.\.\n$`).FindStringSubmatch(banner)
	if match == nil {
		t.Fatalf("the banner is %q", banner)
	}
	go io.Copy(io.Discard, r) // what it prints for its reader; ends with the program
	return match[1]
}

// waits shows what chapter 9 is about: while one client of the last step is silent, the next
// waits. Its answer comes only when the first has been hung up on.
func (s step) waits(t *testing.T, addr string) {
	first := dial(t, addr)
	if reply := ask(t, addr, get()); !strings.HasPrefix(reply, ok200) {
		t.Errorf("got %q", reply)
	}
	first.SetReadDeadline(time.Now().Add(time.Second)) // a server that serves both keeps it longer
	if n, err := first.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the first client got %d bytes, %v, after the second had its answer", n, err)
	}
}

// TestStepSizes holds each step to 120 new lines, and its lines to 90 characters.
func TestStepSizes(t *testing.T) {
	for i, s := range steps {
		source := string(must(os.ReadFile(s.path()))(t))
		lines := strings.Split(source, "\n")
		for n, line := range lines {
			if utf8.RuneCountInString(line) > 90 {
				t.Errorf("%s:%d has more than 90 characters", s.path(), n+1)
			}
		}
		if i == 0 {
			continue
		}
		before := strings.Split(string(must(os.ReadFile(steps[i-1].path()))(t)), "\n")
		if added := len(lines) - inCommon(before, lines); added > 120 {
			t.Errorf("%s has %d new lines, expected 120 or fewer", s.path(), added)
		}
	}
	if found := must(filepath.Glob("docs/steps/*.go"))(t); len(found) != len(steps) {
		t.Errorf("docs/steps has %d programs, expected %d", len(found), len(steps))
	}
}

// inCommon returns how many lines two texts have in common, in the same order: what diff
// does not show.
func inCommon(a, b []string) int {
	row := make([]int, len(b)+1) // row[j] is the number for the lines of a so far and b[:j]
	for _, line := range a {
		diagonal := 0
		for j := range b {
			above := row[j+1]
			if b[j] == line {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(above, row[j])
			}
			diagonal = above
		}
	}
	return row[len(b)]
}

// A declaration is one of the top level, a constant or variable of a group by itself.
type declaration struct {
	name  string // "readRequest", "headReader.line", "maxLine"
	text  string // with its comment; runs of spaces are one, because gofmt aligns groups
	whole string // as it stands in the file, for one of a group the whole group
	lines int    // without its comment
}

// declarations returns those of a Go file in their order.
func declarations(t testing.TB, path string) (list []declaration) {
	t.Helper()
	files := token.NewFileSet()
	source := must(os.ReadFile(path))(t)
	file := must(parser.ParseFile(files, path, source, parser.ParseComments))(t)
	between := func(from, to token.Pos) string {
		return string(source[files.Position(from).Offset:files.Position(to).Offset])
	}
	add := func(name string, decl, node ast.Node, doc, comment *ast.CommentGroup) {
		from, to := node.Pos(), node.End()
		lines := files.Position(to).Line - files.Position(from).Line + 1
		if doc != nil {
			from = doc.Pos()
		}
		if comment != nil {
			to = comment.End()
		}
		text := regexp.MustCompile(`[ \t]+`).ReplaceAllString(between(from, to), " ")
		list = append(list, declaration{name, text, between(decl.Pos(), decl.End()), lines})
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			name := f.Name.Name
			if f.Recv != nil {
				receiver := f.Recv.List[0].Type
				if pointer, ok := receiver.(*ast.StarExpr); ok {
					receiver = pointer.X
				}
				name = receiver.(*ast.Ident).Name + "." + name
			}
			add(name, f, f, f.Doc, nil)
			continue
		}
		group := d.(*ast.GenDecl)
		for _, spec := range group.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				add(spec.Name.Name, group, spec, cmp.Or(spec.Doc, group.Doc), spec.Comment)
			case *ast.ValueSpec:
				doc := spec.Doc
				if !group.Lparen.IsValid() {
					doc = group.Doc
				}
				add(spec.Names[0].Name, group, spec, doc, spec.Comment)
			}
		}
	}
	return list
}

// stepChanges compares two Go files, the first of which may be "", and returns the names of
// the declarations that the second has anew or otherwise, in its order.
func stepChanges(t testing.TB, before, after string) (added, changed []string) {
	t.Helper()
	old := map[string]string{}
	if before != "" {
		for _, d := range declarations(t, before) {
			old[d.name] = d.text
		}
	}
	for _, d := range declarations(t, after) {
		switch text, ok := old[d.name]; {
		case !ok:
			added = append(added, d.name)
		case text != d.text:
			changed = append(changed, d.name)
		}
	}
	return added, changed
}

func TestStepChanges(t *testing.T) {
	before, after := filepath.Join(t.TempDir(), "a.go"), filepath.Join(t.TempDir(), "b.go")
	for path, source := range map[string]string{
		before: "package p\n\nconst (\n\ta = 1\n\tlong = 2\n)\n\n// T is.\ntype T int\n\nfunc (t *T) f() {}\n\nfunc g() {}\n",
		after: "package p\n\nimport \"io\"\n\nvar _ = io.EOF\n\nconst (\n\ta = 1 // one\n\tb = 3\n)\n\n// T was.\n" +
			"type T int\n\nfunc (t *T) f() {}\n\nfunc f() {}\n\nfunc g() { f() }\n",
	} {
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	added, changed := stepChanges(t, before, after)
	if got := fmt.Sprint(added, changed); got != "[_ b f] [a T g]" {
		t.Errorf("got %s", got)
	}
	if added, changed = stepChanges(t, "", before); len(added) != 5 || changed != nil {
		t.Errorf("without a step before: %q %q", added, changed)
	}
}

// ---------------------------------------------------------------- The trace and the lab

// told returns what happens to a request that a client sends and then waits, or ends its
// half of the connection.
func told(application Application, request string, ends bool) []event {
	return watch(watched("app", application), &labConn{port: 8000, pieces: []string{request}, ends: ends,
		end: time.Now().Add(time.Minute)})
}

// watchQuietly watches every exchange of a server, and forgets what it sees.
func watchQuietly(c net.Conn, application Application) (net.Conn, Application, func(*Request, error)) {
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

// checkEvents holds a record to the bytes that came and to the environ that came of them.
func checkEvents(t *testing.T, request string, events []event) {
	t.Helper()
	var in []byte
	for _, e := range ofKind(events, "in") {
		if e.From != len(in) || e.To != len(in)+len(e.Data) {
			t.Errorf("bytes %d to %d come after %d", e.From, e.To, len(in))
		}
		in = append(in, e.Data...)
	}
	if !strings.HasPrefix(request, string(in)) {
		t.Errorf("the record has %.200q of %.200q", in, request)
	}
	keys := Environ{}
	for _, e := range ofKind(events, "key", "dropped", "refused") {
		if e.From < 0 || e.From > e.To || e.To > len(in) {
			t.Fatalf("%s: bytes %d to %d of %d", e.Text, e.From, e.To, len(in))
		}
		if e.Kind != "key" {
			continue
		}
		keys[e.Key] = e.Value
		if strings.HasSuffix(e.Value, "…") { // it is too long to be shown
			continue
		}
		bytes := visible(string(in[e.From:e.To]))
		switch e.Key {
		case "REQUEST_METHOD", "QUERY_STRING", "SERVER_PROTOCOL":
			if bytes != e.Value {
				t.Errorf("%s is %q, its bytes are %q", e.Key, e.Value, bytes)
			}
		case "PATH_INFO":
			decoded, _ := url.PathUnescape(string(in[e.From:e.To])) // an error shows as ""
			if visible(decoded) != e.Value && bytes+e.Value != "/" {
				t.Errorf("%s is %q, its bytes are %q", e.Key, e.Value, bytes)
			}
		default: // the last of the values that were joined
			if value := strings.Trim(bytes[strings.Index(bytes, ":")+1:], " "); !strings.HasSuffix(e.Value, value) &&
				!strings.Contains(bytes, `\t`) && !(e.Key == "HTTP_HOST" && bytes == e.Value) {
				t.Errorf("%s is %q, its bytes are %q", e.Key, e.Value, bytes)
			}
		}
	}
	for _, e := range ofKind(events, "environ") {
		for key, value := range e.Environ {
			fromRequest := strings.HasPrefix(key, "HTTP_") || slices.Contains([]string{"REQUEST_METHOD", "PATH_INFO",
				"QUERY_STRING", "SERVER_PROTOCOL", "CONTENT_LENGTH", "CONTENT_TYPE"}, key)
			if fromRequest && keys.Get(key) != value && !(key == "SERVER_PROTOCOL" && value == "HTTP/0.9") {
				t.Errorf("%s is %q in environ, %q in the record", key, value, keys.Get(key))
			}
		}
	}
}

// TestRecord holds the record of every row to what came and what was made of it.
func TestRecord(t *testing.T) {
	for _, row := range allRows() {
		if len(row.send) > labData {
			continue // more than is told
		}
		t.Run(row.name, func(t *testing.T) {
			events := told(showEnviron, row.send, row.how == "then end")
			checkEvents(t, row.send, events)
			refused, out := ofKind(events, "refused"), ofKind(events, "head", "out")
			wantRefused := row.want[0] != '2' && row.want != "nothing" &&
				!strings.Contains(row.name, "R08") || strings.HasSuffix(row.name, "an error")
			if (len(refused) == 1) != wantRefused || row.id() == "B08" && refused[0].From != len(row.send) {
				t.Errorf("refused: %+v", refused)
			}
			if row.want != "nothing" && row.want != "body" && !bytes.HasPrefix(out[0].Data, []byte("HTTP/1.0 "+row.want)) {
				t.Errorf("out: %q", out[0].Data)
			}
			if last := events[len(events)-1]; last.Kind != "close" {
				t.Errorf("the last event is %+v", last)
			}
		})
	}
}

// TestBadByte shows that a refusal points at the first byte that is wrong.
func TestBadByte(t *testing.T) {
	for _, request := range []string{ // ‸ stands in front of it
		"G‸\x00T / HTTP/1.0\r\n\r\n", "‸ / HTTP/1.0\r\n\r\n", "GET ‸ / HTTP/1.0\r\n\r\n", "POST /‸\r\n\r\n",
		"GET / ‸http/1.0\r\n\r\n", "GET / HTTP/‸2.0\r\n\r\n", "GET /a ‸b HTTP/1.0\r\n\r\n", "GET /a‸\x01b HTTP/1.0\r\n\r\n",
		"GET ‸foo HTTP/1.0\r\n\r\n", "GET /%41‸%4g?%zz HTTP/1.0\r\n\r\n", "GET /%41%4‸\r\n", "GET /‸%00 HTTP/1.0\r\n\r\n",
		"CONNECT ‸h:1 HTTP/1.0\r\n\r\n", "\r\nGET‸\r\n\r\n", "‸\x16\x03",
		get("A: b", "‸ c"), get("‸: b"), get("A‸ : b"), get("A: b", "foo‸"), get("A: b‸\x07c"), get("A: b‸\rc"),
		"GET / HTTP/1.0\r\nA: b‸\n\r\n", get("Host: a", "‸Host: a", "B: c"), get("A: b", "Host: a‸ b", "C: d"),
		get("Content-Length: ‸+5", "A: +5"), get("A: b", "Transfer-Encoding: ‸x"), get("Content-Length: ‸99999999999"),
		get("Host: a‸ b", "X-Host: a b", "Host: a b"), get("Host: a", "Host: b", "Host: b")[:25] + "‸" + get("Host: a", "Host: b", "Host: b")[25:],
		get("Host: a", "‸Host: a", "Host: a"), get("Transfer-Encoding: ‸x", "Transfer-Encoding: x"), "GET ‸https://h/ HTTP/1.0\r\nA: b\r\n\r\n",
		"GET / HTTP/1.0\r\nA: b\r\nA: b‸", "GET / HTTP/1.0\r\nA: b\r\nA: b‸\n\r\n", "GET /‸%zz HTTP/1.0\r\nGET /%zz HTTP/1.0\r\n", "GET / HTTP/1.0\r\n\r‸",
		"GET / HTTP/1.0\r\nA: b‸", "GET /" + strings.Repeat("x", 65531) + "‸x",
		"GET / HTTP/1.0\r\n" + strings.Repeat("A: b\r\n", 100) + "‸A: b\r\n\r\n",
	} {
		sent := strings.Replace(strings.Replace(request, "‸", "", 1), "GET /%41%4\r\n", "GET /%41%4 HTTP/1.0\r\n\r\n", 1)
		want := strings.Index(request, "‸")
		if strings.HasPrefix(request, "GET /%41%4‸") {
			want = len("GET /%41")
		}
		refused := ofKind(told(showEnviron, sent, true), "refused")
		if len(refused) != 1 || refused[0].From != want {
			t.Errorf("%.80q: expected byte %d, got %+v", request, want, refused)
		}
	}
}

// TestRecordTells shows events that the bytes of a request alone do not decide.
func TestRecordTells(t *testing.T) {
	unwanted := "POST / HTTP/1.0\r\nContent-Length: 9000\r\n\r\n" + strings.Repeat("x", 9000)
	for _, c := range []struct {
		name, request string
		app           Application
		want          []string
	}{
		{"a body that nobody reads", unwanted, hello, []string{"the gateway ends its half", "bytes more, which nobody reads",
			"the client has ended its half", "the gateway closes the connection"}},
		{"nothing", "", hello, []string{"the client has ended its half", "nothing was asked: there will be no answer"}},
		{"no body", get(), hello, []string{"the request has no Content-Length: no body"}},
		{"a target that decides", "GET http://a HTTP/1.0\r\nHost: b\r\n\r\n", hello,
			[]string{`HTTP_HOST is "a": an absolute target decides`, `"/": an empty path is the root`, "Host is dropped: the target says a"}},
		{"a file", "GET /README.md HTTP/1.0\r\n\r\n", newFiles("docs"), []string{"the body of app is a file: the gateway reads, sends and closes it",
			"the head leaves", "bytes of the body leave"}},
		{"bytes one by one", "G", hello, []string{"1 byte received, from byte 0 on"}},
		{"HEAD", "HEAD / HTTP/1.0\r\n\r\n", clock, []string{"app gives a block of 9 bytes", "is asked for no more blocks"}},
		{"write()", get(), write, []string{"app calls write() with 5 bytes", "the answer has no Content-Length: nobody knows",
			"the head leaves", "app calls write() with 5 bytes", "app returns a body, Blocks"}},
		{"no body by its status", get(), func(environ Environ, startResponse StartResponse) Body {
			startResponse("304 Not Modified", nil)
			return Blocks{}
		}, []string{"the answer gets no Content-Length: 304 Not Modified has no body"}},
		{"100 Continue", "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", showEnviron,
			[]string{"25 bytes leave", "a Content-Length of 6", "the head leaves"}},
		{"a body of no bytes", "POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", showEnviron, []string{"the request has a Content-Length of 0: no body",
			"the gateway calls the application app"}},
		{"a path that moves", "GET /a/x HTTP/1.0\r\n\r\n", watched("outer", mount(map[string]Application{"/a": watched("inner", hello)}, nil)),
			[]string{"app calls the application outer", `outer sets PATH_INFO to "/x"; it was "/a/x"`,
				`outer sets SCRIPT_NAME to "/a"; it was ""`, "outer calls the application inner"}},
		{"a change of mind", "GET /excinfo HTTP/1.0\r\n\r\n", failing, []string{`app calls startResponse("503 Service Unavailable") ` +
			"with 2 headers: Content-Type, X-Content-Type-Options, because of an error: the database is on fire", "replaces what it has stored", "the head leaves"}},
		{"an answer of the gateway", get("A : b"), hello, []string{"400 Bad Request: ", "the answer is the gateway's own", "the head leaves"}},
		{"HTTP/0.9", "GET /\r\n", hello, []string{"gives a block of 14 bytes", "14 bytes of the body leave", "the gateway closes"}},
		{"wsgi.errors", get(), logging(hello), []string{"wsgi.errors: log: GET /", "the head leaves"}},
		{"a line without an end", get(), func(environ Environ, startResponse StartResponse) Body {
			fmt.Fprint(environ["wsgi.errors"].(io.Writer), "one, ")
			fmt.Fprint(environ["wsgi.errors"].(io.Writer), "two")
			environ["wsgi.errors"].(*errorStream).Flush()
			return hello(environ, startResponse)
		}, []string{"wsgi.errors: one, two\n", "app calls startResponse"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rest := ""
			for _, e := range told(c.app, c.request, true) {
				rest += e.Text + "\n"
			}
			all := rest
			for _, want := range c.want { // in this order
				_, after, ok := strings.Cut(rest, want)
				if rest = after; !ok {
					t.Fatalf("no %q in its place in\n%s", want, all)
				}
			}
		})
	}
	gone := watch(watched("app", hello), &labConn{pieces: []string{get()}, end: time.Now().Add(-time.Second)})
	if out, ends := ofKind(gone, "head"), ofKind(gone, "timeout"); len(out) > 0 || len(ends) != 1 ||
		ends[0].Text != "writing ends: i/o timeout" {
		t.Errorf("a client that has left: %+v %+v", out, ends)
	}
	var some []event
	r := newRecorder(time.Now, func(e event) { some = append(some, e) })
	r.onWrite([]byte("HTTP/1.0 2"))
	if out := ofKind(some, "head"); len(out) != 1 || string(out[0].Data) != "HTTP/1.0 2" {
		t.Errorf("part of a head: %+v", out)
	}
	events := told(hello, get(), true)
	if e := ofKind(events, "environ")[0].Environ; e["SERVER_PORT"] != "8000" || e["REMOTE_ADDR"] != "127.0.0.1" {
		t.Errorf("environ is %v", e)
	}
}

// volatile are the parts of a narration that differ from run to run.
var volatile = regexp.MustCompile(`Date: .* GMT|127\.0\.0\.1:\d+|\d\d/.*\d\d:\d\d:\d\d|  \(\d+ms later\)\n`)

// narration is what -trace prints of requests to an application in layers, at a width.
func narration(t *testing.T, width any, brief bool, app, use string, requests ...string) string {
	t.Helper()
	t.Setenv("COLUMNS", fmt.Sprint(width))
	application := must(choose(applications(Config{Trace: true, Root: "docs"}), app, use, true))(t)
	var out lockedBuffer
	s := start(t, application, func(s *Server) {
		s.ErrorLog = log.New(&out, "", 0)
		s.AccessLog = s.ErrorLog
		narrate(s, brief)
	})
	for _, request := range requests {
		ask(t, s.addr, request)
		eventually(t, "the end of the exchange", func() bool { return idle(s) })
	}
	s.stop()
	return volatile.ReplaceAllString(out.String(), "-")
}

// TestNarration holds what -trace prints to the letter: > for what comes, < for what leaves, =
// for what waits, brackets for calls.
func TestNarration(t *testing.T) {
	got := narration(t, 80, false, "hello", "upper", "GET /%41?c=4#f HTTP/1.0\r\nHost: h\r\nX_A: 1\r\nCookie: a\r\nCookie: b\r\n\r\n",
		"GET / HTTP/1.0\r\nHost : h\r\n\r\n")
	want := `#1   a connection from - is accepted
#1 > GET /%41?c=4#f HTTP/1.0\r\n
#1 > Host: h\r\n
#1 > X_A: 1\r\n
#1 > Cookie: a\r\n
#1 > Cookie: b\r\n
#1 > \r\n
#1   REQUEST_METHOD   "GET"                                         bytes 0 to 2
#1   PATH_INFO        "/A", decoded once                            bytes 4 to 7
#1   QUERY_STRING     "c=4"                                        bytes 9 to 11
#1   (dropped)        #f is cut off: a fragment is for the client alone
#1   SERVER_PROTOCOL  "HTTP/1.0"                                  bytes 15 to 22
#1   HTTP_HOST        "h"                                         bytes 25 to 31
#1   (dropped)        X_A is dropped: with a - instead of _ it would have the
#1     same key
#1   HTTP_COOKIE      "a"                                         bytes 42 to 50
#1   HTTP_COOKIE      "a; b": joined to what came before          bytes 53 to 61
#1   the request has no Content-Length: no body
#1   environ is complete: 23 keys
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

#2   a connection from - is accepted
#2 > GET / HTTP/1.0\r\n
#2 > Host : h\r\n
#2 > \r\n
#2   REQUEST_METHOD   "GET"                                         bytes 0 to 2
#2   PATH_INFO        "/"                                                 byte 4
#2   QUERY_STRING     ""
#2   SERVER_PROTOCOL  "HTTP/1.0"                                   bytes 6 to 13
#2 ! 400 Bad Request: expected a header line like "Name: value", with no space
#2     before the colon (RFC 9112 §5.1, byte 20)
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if !strings.Contains(got, "\n#2 < RFC 9112 §5.1\\n\n") {
		t.Errorf("no § in\n%s", got)
	}
	if got := narration(t, 80, false, "echo", "", "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n<a>"); !strings.Contains(got, `block of 3 bytes: "<a>"`) {
		t.Errorf("on a terminal, < is <:\n%s", got)
	}
}

// TestNarrationBrief: ten lines for a hello, and the important ones of others.
func TestNarrationBrief(t *testing.T) {
	const want = `#1 > GET / HTTP/1.0\r\n … and 11 bytes more
#1   environ is complete: 22 keys
#1   ┌ hello
#1   │ startResponse("200 OK") with 1 header: Content-Type
#1 = the gateway stores the status and 1 header; 0 bytes sent so far
#1   └ returns Blocks
#1   · block of 14 bytes: "Hello, World!\n"
#1 < HTTP/1.0 200 OK\r\n … and 134 bytes more
127.0.0.1 - - [-] "GET / HTTP/1.0" 200 14
#1   the gateway closes the connection
`
	if got := narration(t, 80, true, "hello", "", get("Host: h")); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	got := narration(t, 80, true, "gallery", "", "GET /errors/before HTTP/1.0\r\n\r\n")
	for _, want := range []string{`gallery sets SCRIPT_NAME to "/errors"; it was ""`, "\n#1 ! │ └ errors panics\n", "app.go:", "the application failed"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "watched") {
		t.Errorf("the recorder is no application's frame:\n%s", got)
	}
	if err := (&options{}).setTrace("short"); err == nil || !strings.Contains(err.Error(), "-trace=brief") {
		t.Errorf("got %v", err)
	}
}

// TestNarrationWidth shows that no line is longer than the terminal is wide, and that no word
// is broken.
func TestNarrationWidth(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, width := range []int{80, 120} {
		got := narration(t, width, false, "gallery", "onion,upper,log", "GET /files/lab.html?"+long+" HTTP/1.0\r\n\r\n",
			"POST /echo HTTP/1.0\r\nContent-Length: 300\r\nLong: "+long+"\r\n\r\n"+long, "GET /errors/after HTTP/1.0\r\n"+long+"\r\n\r\n")
		widest := 0
		for line := range strings.Lines(got) {
			if strings.HasPrefix(line, "#") { // otherwise it is the log's
				widest = max(widest, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")))
			}
		}
		if widest > width || widest < width-1 {
			t.Errorf("at %d columns, a line has %d:\n%s", width, widest, got)
		}
	}
	for _, c := range []struct{ line, want string }{
		{"│ one two three four", "│ one two|│   three|│   four"},
		{"one two three", "one two|  three"},
		{"abcdefghijklmnopq", "abcdefghijkl|  mnopq"},
		{"│ │ │ │ │ │ │ abcdefg", "│ │ │ │ │ │|│ │ │ │|│ │ │ abcdef|│ │ │ g"}, // an indentation that is too long
	} {
		if got := strings.Join(wrapWords(c.line, 12), "|"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// TestNarrationEnds shows that many layers and long words are printed in few lines, however
// narrow the terminal is said to be.
func TestNarrationEnds(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	for _, width := range []string{"-1", "40", "80", "x", "99999999999", "9223372036854775807"} {
		got := narration(t, width, false, "echo", strings.Repeat("onion,", 20)+"onion", "POST /?"+long+" HTTP/1.0\r\nLong: "+long+
			"\r\nContent-Length: 60000\r\n\r\n"+long, "GET /"+long+"%zz HTTP/1.0\r\n\r\n")
		events := 0
		for line := range strings.Lines(got) {
			if events++; strings.HasPrefix(line, "#") && utf8.RuneCountInString(line) > 1020 { // with the end of a "(… later)"
				t.Errorf("COLUMNS=%s: %.200s…", width, line)
			}
		}
		if events > 3000 || !strings.Contains(got, " 200 60000\n") {
			t.Errorf("COLUMNS=%s: %d lines, %.200s", width, events, got[max(0, len(got)-200):])
		}
	}
}

// TestNarrator shows what depends on the terminal, that exchanges are kept apart, and that time
// is told where it matters.
func TestNarrator(t *testing.T) {
	terminal := must(os.OpenFile(os.DevNull, os.O_WRONLY, 0))(t) // a character device as well
	defer terminal.Close()
	t.Setenv("NO_COLOR", "")
	narratorOn := func(out io.Writer) *narrator { return newNarrator(log.New(out, "[7] ", 0), false) }
	if runtime.GOOS != "windows" && !narratorOn(terminal).colour {
		t.Error("no colours on a terminal")
	}
	if narratorOn(&bytes.Buffer{}).colour {
		t.Error("colours in a buffer")
	}
	t.Setenv("NO_COLOR", "1")
	if narratorOn(terminal).colour {
		t.Error("colours against NO_COLOR")
	}
	var out bytes.Buffer
	n := narratorOn(&out)
	n.colour = true
	one, two := n.recorder(), n.recorder()
	two.onRead([]byte(strings.Repeat("a\n", 20)))
	one.add(event{Kind: "refused", Value: "no", Rule: "RFC", From: 3, To: 9})
	later := one.begin.Add(time.Second)
	one.begin, one.last, one.now = later.Add(-time.Second), 0, func() time.Time { return later } // a clock that has not moved before
	one.onError("reading", io.EOF)
	got := out.String()
	if !strings.HasPrefix(got, "[7] #2 \x1b[36m> a\\n\x1b[0m\n") || !strings.Contains(got, "> a\\n … and 16 bytes more\x1b[0m\n\n[7] #1 ") ||
		!strings.HasSuffix(got, "\x1b[31m! no:  (RFC, byte 3)\x1b[0m\n[7] #1   (1s later)\n[7] #1   the client has ended its half of the connection\n") {
		t.Errorf("got %q", got)
	}
}

// TestTraceChangesNothing runs each small application with somebody watching.
func TestTraceChangesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range slices.Concat(headCases(), bodyCases(), lifeCases()) {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, func(app Application) Application { return watched("app", app) },
				func(s *Server) {
					s.Watch = watchQuietly
				})
		})
	}
}

// TestTraceAndLog compares what a client and the logs get with and without -trace.
func TestTraceAndLog(t *testing.T) {
	t.Parallel()
	variable := regexp.MustCompile(`Date: [^\r]*|\[[^]]*:\d\d:\d\d\]|REMOTE_PORT: \d+|SERVER_PORT: \d+|127\.0\.0\.1:\d+|\d\d:\d\d:\d\d`)
	entries := applications(Config{Trace: true, Root: "docs"})
	apps := map[string]Application{"flush": watched("flush", func(environ Environ, startResponse StartResponse) Body {
		errors := environ["wsgi.errors"].(*errorStream)
		io.WriteString(errors, "one, ")
		io.WriteString(errors, "two")
		errors.Flush()
		io.WriteString(errors, "three")
		return hello(environ, startResponse)
	}), "empty": watched("empty", func(environ Environ, startResponse StartResponse) Body {
		startResponse("204 No Content", nil)
		return Blocks{}
	}), "large": watched("large", func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", textPlain)
		return Stream(func(yield func([]byte) bool) {
			for yield(make([]byte, 1<<20)) {
			}
		})
	})}
	for _, e := range entries {
		if e.Name != "clock" && e.Name != "lab" && e.Name != "gallery" {
			apps[e.Name] = e.App
		}
	}
	requests := []string{get("Host: h"), "GET /\r\n", "GET /before HTTP/1.0\r\n\r\n", "GET /after HTTP/1.0\r\n\r\n",
		"GET /excinfo HTTP/1.0\r\n\r\n", "HEAD / HTTP/1.0\r\n\r\n", "POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\nabc", "GET /a/x HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", get("Host : h"), "GET /" + strings.Repeat("x", 70_000), "", "GET / HTTP/1.0\r\n"}
	see := func(application Application, reset bool, change func(*Server)) string {
		s := start(t, application, change)
		var seen strings.Builder
		for _, request := range requests {
			c := dial(t, s.addr)
			io.WriteString(c, request) // it may be refused before all is sent
			if reset {
				io.ReadFull(c, make([]byte, 1<<20))
				c.SetLinger(0)
				c.Close()
				break
			}
			c.CloseWrite()
			reply, err := io.ReadAll(c)
			fmt.Fprintf(&seen, "%s%v", reply, err)
			c.Close()
		}
		s.stop()
		access := s.access.String()
		lines := strings.Split(s.errors.String(), "\n")
		if reset { // how much has been sent by then is chance, and how many equal blocks
			access = access[:max(0, strings.LastIndex(access, " "))]
			lines = slices.Compact(lines)
		}
		return variable.ReplaceAllString(seen.String()+access+strings.Join(lines, "\n"), "-")
	}
	for name, application := range apps {
		for _, use := range []string{"", "log,catch,upper"} {
			if name == "large" && use != "" {
				continue // how many blocks are logged is chance
			}
			application := must(withMiddleware(application, use, true))(t)
			want := see(application, name == "large", func(*Server) {})
			for _, brief := range []bool{true, false} {
				got := see(application, name == "large", func(s *Server) {
					errorLog := s.ErrorLog
					s.ErrorLog = log.New(io.Discard, "", 0) // the narrator's
					narrate(s, brief)
					s.ErrorLog = errorLog
				})
				if got != want {
					t.Errorf("%s:\n%.3000s\nwith -trace\n%.3000s", name, want, got)
				}
			}
		}
	}
}

// TestTraceLocalRedirect shows that environ is complete once, also if a CGI program redirects.
func TestTraceLocalRedirect(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a script needs Unix")
	}
	script := filepath.Join(t.TempDir(), "redirect")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nprintf 'Location: /hello\\n\\n'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cgi := watched("cgi", newCGI(script, 10*time.Second, 0))
	application := watched("outer", mount(map[string]Application{"/hello": watched("hello", hello)}, cgi))
	events := told(application, get(), true)
	if len(ofKind(events, "environ")) != 1 || len(ofKind(events, "stored")) != 1 || !bytes.HasSuffix(ofKind(events, "head")[0].Data, []byte("Hello, World!\n")) {
		t.Errorf("got %+v", events)
	}
}

// TestTraceWhoLogs shows that a line of wsgi.errors belongs to the layer that writes it, also
// when that is called by the one inside it.
func TestTraceWhoLogs(t *testing.T) {
	inner := watched("inner", hello)
	for _, e := range ofKind(told(logging(inner), get(), true), "log") {
		if e.Layer != "app" || e.Depth != 1 || e.Note != "wsgi.errors" {
			t.Errorf("%s: %s at %d", e.Text, e.Layer, e.Depth)
		}
	}
}

// TestTraceOneWrite shows that the head and the first block leave in one write, which is one
// event.
func TestTraceOneWrite(t *testing.T) {
	out := ofKind(told(hello, get(), true), "head", "out")
	if len(out) != 1 || !bytes.HasSuffix(out[0].Data[:out[0].Head], []byte("\r\n\r\n")) || string(out[0].Data[out[0].Head:]) != "Hello, World!\n" ||
		!strings.HasSuffix(out[0].Text, "in one write with 14 bytes of the body") || out[0].Size != len(out[0].Data) {
		t.Errorf("got %+v", out)
	}
}

// TestTraceCutShort shows that a body that is cut short is told once, as the refusal that the
// client gets, and one that nobody read is not.
func TestTraceCutShort(t *testing.T) {
	const request = "POST / HTTP/1.0\r\nContent-Length: 10\r\n\r\nabc"
	for _, ends := range []bool{true, false} { // the client leaves, or is silent
		events := told(showEnviron, request, ends)
		out, refused := ofKind(events, "head"), ofKind(events, "refused")
		if len(refused) != 1 || refused[0].From != len(request) || refused[0].Place != "request.go#Read" || refused[0].Chapter != 5 ||
			!bytes.Contains(out[0].Data, []byte(strings.TrimPrefix(refused[0].Text, refused[0].Value+": "))) {
			t.Errorf("refused: %+v, out: %q", refused, out[0].Data)
		}
		if refused := ofKind(told(hello, request, ends), "refused"); len(refused) > 0 {
			t.Errorf("nobody read the body: %+v", refused)
		}
	}
}

// TestTraceSendfile shows that a watched file is sent as any other: by the connection.
func TestTraceSendfile(t *testing.T) {
	for name, c := range map[string]struct {
		conn net.Conn
		want string
	}{"with": {&filingConn{}, "5 bytes of the file leave by sendfile(2)"}, "without": {&labConn{end: time.Now().Add(time.Minute)}, "the head leaves"}} {
		var events []event
		r := newRecorder(time.Now, func(e event) { events = append(events, e) })
		n, err := (&tap{c.conn, c.conn, c.conn, r}).ReadFrom(strings.NewReader("12345"))
		if n != 5 || err != nil || len(events) == 0 || !strings.HasPrefix(events[len(events)-1].Text, c.want) {
			t.Errorf("%s ReadFrom: %d, %v, %+v", name, n, err, events)
		}
	}
}

// A filingConn is a connection that sends files by itself.
type filingConn struct{ net.Conn }

func (c *filingConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) }

// TestTracePanics shows that a panic is told where it happens, and passes on.
func TestTracePanics(t *testing.T) {
	for path, want := range map[string]string{"/before": "app panics", "/after": "the body of app panics"} {
		events := told(failing, "GET "+path+" HTTP/1.0\r\n\r\n", true)
		if panics := ofKind(events, "panic"); len(panics) != 1 || panics[0].Text != want || !regexp.MustCompile(`^app\.go:\d+$`).MatchString(panics[0].Place) {
			t.Errorf("got %+v", panics)
		}
		if logs := ofKind(events, "log"); len(logs) != 2 ||
			!strings.HasPrefix(logs[0].Text, "the gateway logs: the application failed: ") ||
			!strings.HasPrefix(logs[1].Text, "the gateway logs: \tapp.go:") {
			t.Errorf("got %+v", logs)
		}
	}
	events := told(func(environ Environ, startResponse StartResponse) Body {
		startResponse("200", nil)
		return nil
	}, get(), true)
	if panics := ofKind(events, "panic"); len(panics) != 2 || panics[0].Text != "the call of startResponse by app panics" {
		t.Errorf("got %+v", panics)
	}
}

// TestTraceCGI shows that a CGI program's narration goes to standard error, and nothing of it
// to the server.
func TestTraceCGI(t *testing.T) {
	program := exec.Command(os.Args[0], "-app", "echo", "-trace", "-cgi")
	program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1", "GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=POST",
		"CONTENT_LENGTH=3")
	program.Stdin = strings.NewReader("abc")
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	if err := program.Run(); err != nil {
		t.Fatal(err)
	}
	if out := stdout.String(); !strings.HasPrefix(out, "Status: 200 OK\r\n") || !strings.HasSuffix(out, "\r\n\r\nabc") {
		t.Errorf("got %q", out)
	}
	for _, want := range []string{"environ is complete", "┌ echo", "> abc\n", `< Status: 200 OK\r\n`, "< abc\n"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("no %q in %s", want, stderr.String())
		}
	}
}

// TestLabConn shows that time passes on the connection's own clock, and when reading fails.
func TestLabConn(t *testing.T) {
	for arrival, want := range map[string]struct {
		status string
		at     time.Duration
	}{
		"at once":                                {"200", 0},
		"byte by byte":                           {"200", 0},
		"a pause of 2 s before each line":        {"200", 6 * time.Second},
		"all, then the client ends its half":     {"200", 0},
		"the first half, then the client leaves": {"400", 0},
		"the first half, then silence":           {"408", 10 * time.Second},
	} {
		x := experiment{`GET / HTTP/1.0\r\nA: b\r\n\r\n`, "hello", "", arrival}
		events := must(x.run(map[string]Application{"hello": hello}, 8000))(t)
		out := ofKind(events, "head")[0]
		late := time.Duration(out.At)*time.Microsecond - want.at
		if !strings.HasPrefix(string(out.Data), "HTTP/1.0 "+want.status) || late < -time.Second || late > time.Second {
			t.Errorf("%s: after %v: %q", arrival, time.Duration(out.At)*time.Microsecond, out.Data)
		}
	}
	x := experiment{"GET /" + strings.Repeat("x", 5000) + ` HTTP/1.0\r\n\r\n`, "hello", "", "a pause of 2 s before each line"}
	events := must(x.run(map[string]Application{"hello": hello}, 8000))(t)
	if at := time.Duration(ofKind(events, "head")[0].At) * time.Microsecond; at.Round(time.Second) != 4*time.Second {
		t.Errorf("two lines take %v", at)
	}
	late := &labConn{end: time.Now().Add(-time.Second)}
	if _, err := late.Write([]byte("x")); err == nil {
		t.Error("an experiment may go on for ever")
	}
}

// runLab is a request to the lab as its page makes it, with changes.
func runLab(application Application, content string, change ...Environ) (status, answer string) {
	environ := Environ{"REQUEST_METHOD": "POST", "SCRIPT_NAME": "/lab", "PATH_INFO": "/run", "REMOTE_ADDR": "127.0.0.1",
		"HTTP_HOST": "localhost:8000", "HTTP_ORIGIN": "http://localhost:8000", "HTTP_SEC_FETCH_SITE": "same-origin",
		"CONTENT_TYPE": "application/json", "wsgi.url_scheme": "http", "wsgi.input": strings.NewReader(content)}
	for _, change := range change {
		maps.Copy(environ, change)
	}
	status, _, body := callApplication(application, environ)
	return status, string(body)
}

// TestLab shows who may use the lab, and for what.
func TestLab(t *testing.T) {
	const good = `{"request": "GET / HTTP/1.0\\r\\n\\r\\n", "app": "hello", "use": "upper", "arrival": "at once"}`
	entries := applications(Config{Root: "docs"})
	entries = entries[:len(entries)-2] // without itself and the gallery
	lab, open := newLab(entries, false), newLab(entries, true)
	status, answer := runLab(lab, good)
	var events []event
	if err := json.Unmarshal([]byte(answer), &events); err != nil || status != "200 OK" ||
		len(ofKind(events, "call")) != 2 || !bytes.HasSuffix(ofKind(events, "head")[0].Data, []byte("HELLO, WORLD!\n")) {
		t.Errorf("%s, %v: %s", status, err, answer)
	}
	for _, c := range []struct {
		name, content string
		change        Environ
		status, why   string
	}{
		{"another machine", good, Environ{"REMOTE_ADDR": "192.0.2.1"}, "403", "this machine alone"},
		{"a Unix socket", good, Environ{"REMOTE_ADDR": ""}, "403", "this machine alone"},
		{"through a proxy", good, Environ{"HTTP_X_FORWARDED_FOR": "192.0.2.1"}, "403", "this machine alone"},
		{"through another proxy", good, Environ{"HTTP_FORWARDED": "for=192.0.2.1"}, "403", "this machine alone"},
		{"through a gateway", good, Environ{"HTTP_VIA": "1.0 x"}, "403", "this machine alone"},
		{"a name that was rebound", good, Environ{"HTTP_HOST": "evil.example:8000"}, "403", "not at evil.example"},
		{"an address elsewhere", good, Environ{"HTTP_HOST": "192.0.2.1"}, "403", "not at 192.0.2.1"},
		{"the page, for another machine", "", Environ{"REMOTE_ADDR": "192.0.2.1", "REQUEST_METHOD": "GET",
			"PATH_INFO": ""}, "403", "this machine alone"},
		{"another origin", good, Environ{"HTTP_ORIGIN": "http://evil.example"}, "403", "own page"},
		{"another port", good, Environ{"HTTP_ORIGIN": "http://localhost:9000"}, "403", "own page"},
		{"no origin to speak of", good, Environ{"HTTP_ORIGIN": "null"}, "403", "own page"},
		{"another site", good, Environ{"HTTP_ORIGIN": "", "HTTP_SEC_FETCH_SITE": "cross-site"}, "403", "own page"},
		{"a form", good, Environ{"CONTENT_TYPE": "text/plain"}, "403", "own page"},
		{"GET", good, Environ{"REQUEST_METHOD": "GET"}, "403", "own page"},
		{"no JSON", "{", nil, "400", "cannot be read"},
		{"an empty experiment", "{}", nil, "400", "no application here is called"},
		{"the cgi application", strings.Replace(good, "hello", "cgi", 1), nil, "400", `no application here is called "cgi"`},
		{"the proxy application", strings.Replace(good, "hello", "proxy", 1), nil, "400", `is called "proxy"`},
		{"the gallery, which has them", strings.Replace(good, "hello", "gallery", 1), nil, "400", `is called "gallery"`},
		{"the lab in the lab", strings.Replace(good, "hello", "lab", 1), nil, "400", `is called "lab"`},
		{"another middleware", strings.Replace(good, "upper", "lower", 1), nil, "400", "no middleware is called"},
		{"too much middleware", strings.Replace(good, "upper", strings.Repeat("upper,", 20)+"upper", 1), nil, "400", "enough"},
		{"another arrival", strings.Replace(good, "at once", "never", 1), nil, "400", "no request arrives"},
		{"no escapes", strings.Replace(good, "GET", `\\q`, 1), nil, "400", "expected escapes"},
		{"a large request", strings.Replace(good, "GET", strings.Repeat("x", labRequest), 1), nil, "400", "may have 65536 bytes"},
		{"a huge request", strings.Replace(good, "GET", strings.Repeat("x", 9*labRequest), 1), nil, "400", "cannot be read"},
		{"elsewhere", "", Environ{"PATH_INFO": "/x"}, "404", "/lab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, answer := runLab(lab, c.content, c.change)
			if status[:3] != c.status || !strings.Contains(answer, c.why) {
				t.Errorf("got %s %.300s", status, answer)
			}
			status, _ = runLab(open, c.content, c.change)
			if why := c.why == "this machine alone" || strings.HasPrefix(c.why, "not at"); why && status != "200 OK" &&
				c.change["HTTP_HOST"] == nil {
				t.Errorf("-open-lab: %s", status)
			}
		})
	}
	page := func(path string) (status string, headers []Header, content string) {
		status, headers, body := callApplication(lab, Environ{"REMOTE_ADDR": "::1", "SCRIPT_NAME": "/x/lab", "PATH_INFO": path, "HTTP_HOST": "[::1]:8000"})
		return status, headers, string(body)
	}
	t.Run("the page", func(t *testing.T) {
		status, headers, content := page("")
		policy, _ := lookup(headers, "Content-Security-Policy")
		if status != "200 OK" || !strings.HasPrefix(policy, "default-src 'none';") || !strings.Contains(content, `<meta name="lab" content="/x/lab">`) {
			t.Errorf("got %s %v", status, headers)
		}
		if regexp.MustCompile(`(src|href)="(https?:)?//|@import|url\(`).MatchString(content) || strings.Contains(content, "innerHTML") {
			t.Error("the page needs something from elsewhere, or writes HTML")
		}
	})
	t.Run("the chapters", func(t *testing.T) {
		for _, path := range must(filepath.Glob("docs/[0-9][0-9]-*.md"))(t) {
			if name := strings.TrimSuffix(filepath.Base(path), ".md"); !strings.Contains(labPage, `"`+name+`"`) {
				t.Errorf("the page does not know %s", path)
			}
		}
	})
	t.Run("the choices", func(t *testing.T) {
		var names, layers []string
		for _, entry := range entries {
			if entry.Name != "cgi" && entry.Name != "proxy" {
				names = append(names, entry.Name)
			}
		}
		for _, middleware := range middlewares {
			layers = append(layers, middleware.name)
		}
		for name, all := range map[string][]string{"app": names, "use": layers} {
			if list := name + `: ["` + strings.Join(all, `", "`) + `"],`; !strings.Contains(labPage, list) {
				t.Errorf("the page does not offer %s", list)
			}
		}
		for _, arrival := range regexp.MustCompile(`(?s)arrival: \["(.*?)"\],`).FindStringSubmatch(labPage)[1:] {
			for _, way := range regexp.MustCompile(`",\s+"`).Split(arrival, -1) {
				if status, answer := runLab(lab, strings.Replace(good, "at once", way, 1)); status != "200 OK" {
					t.Errorf("%s: %s", way, answer)
				}
			}
		}
	})
	t.Run("the code", func(t *testing.T) {
		if status, _, content := page("/request.go"); status != "200 OK" || !strings.HasPrefix(content, "// request.go: ") {
			t.Errorf("got %s %.100s", status, content)
		}
		for _, path := range []string{"/go.mod", "/../go.mod", "/docs/lab.html", "/."} {
			if status, _, _ := page(path); status != "404 Not Found" {
				t.Errorf("%s: %s", path, status)
			}
		}
	})
	t.Run("the server's port", func(t *testing.T) {
		_, answer := runLab(lab, good, Environ{"SERVER_PORT": "8123"})
		var events []event
		if err := json.Unmarshal([]byte(answer), &events); err != nil || ofKind(events, "environ")[0].Environ["SERVER_PORT"] != "8123" {
			t.Errorf("%v: %s", err, answer)
		}
	})
}

// TestPlaces shows that each step of every row and preset leads to code that is there, and
// each refusal to a chapter.
func TestPlaces(t *testing.T) {
	there := map[string]bool{}
	for _, file := range []string{"main.go", "server.go", "request.go", "response.go", "app.go"} {
		for _, declaration := range must(parser.ParseFile(token.NewFileSet(), file, nil, 0))(t).Decls {
			for _, name := range declaredNames(declaration) {
				there[file+"#"+name] = true
			}
		}
	}
	kinds := map[string]bool{} // that the page knows
	for _, at := range regexp.MustCompile(`(?m)^\t"?([\w ]+)"?: "(\w+\.go#\w+)",`).FindAllStringSubmatch(labPage, -1) {
		if kinds[at[1]] = true; !there[at[2]] {
			t.Errorf("%s: there is no %s", at[1], at[2])
		}
	}
	for kind := range sentences {
		if !kinds[kind] {
			t.Errorf("the page does not know where %s is done", kind)
		}
	}
	line := regexp.MustCompile(`^app\.go:\d+$`)
	check := func(events []event) {
		for _, e := range events {
			if e.Text == "" || e.Place != "" && !there[e.Place] && !line.MatchString(e.Place) ||
				e.Kind == "start" && e.Place == "" || e.Kind == "refused" && e.Chapter == 0 {
				t.Errorf("%s: %s, %q, chapter %d", e.Text, e.Place, e.Rule, e.Chapter)
			}
		}
	}
	for _, row := range allRows() {
		if len(row.send) <= labData {
			check(watch(watched("environ", showEnviron), &labConn{pieces: []string{row.send}, ends: row.how == "then end",
				end: time.Now().Add(time.Minute)}))
		}
	}
	for _, entry := range applications(Config{Root: "docs"}) {
		if entry.Name == "clock" {
			entry.App = newClock(3, 0)
		}
		for _, path := range []string{"/", "/before", "/after", "/a/x", "/lab.html"} {
			check(watch(watched(entry.Name, entry.App), &labConn{pieces: []string{"GET " + path + " HTTP/1.0\r\n\r\n"}, end: time.Now().Add(time.Minute)}))
		}
	}
}

// declaredNames are the names that a declaration gives.
func declaredNames(declaration ast.Decl) (names []string) {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		names = append(names, d.Name.Name)
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			if s, ok := spec.(*ast.TypeSpec); ok {
				names = append(names, s.Name.Name)
			}
		}
	}
	return names
}

// TestLabLimits: an experiment is bounded in number, time and size.
func TestLabLimits(t *testing.T) {
	begun, release := make(chan bool), make(chan bool)
	hasty := &lab{running: make(chan bool), patience: time.Millisecond}
	lab := newLab([]entry{{Name: "block", App: func(environ Environ, startResponse StartResponse) Body {
		begun <- true
		<-release
		return hello(environ, startResponse)
	}}, {Name: "echo", App: echo}}, false)
	const blocked = `{"request": "GET / HTTP/1.0\\r\\n\\r\\n", "app": "block", "arrival": "at once"}`
	var all sync.WaitGroup
	for range 30 { // a class presses Run
		all.Add(1)
		go func() {
			defer all.Done()
			if status, answer := runLab(lab, blocked); status != "200 OK" {
				t.Errorf("got %s %s", status, answer)
			}
		}()
	}
	for range labAtOnce {
		wait(t, "an experiment", begun)
	}
	if status, answer := runLab(lab, "{"); status[:3] != "400" { // it is read before it waits for its turn
		t.Errorf("got %s %s", status, answer)
	}
	if status, answer := runLab(hasty.app, blocked); status[:3] != "503" {
		t.Errorf("got %s %s", status, answer)
	}
	hasty.apps, hasty.running = map[string]Application{"block": func(Environ, StartResponse) Body {
		<-release
		return Blocks{}
	}}, make(chan bool, 1)
	if status, answer := runLab(hasty.app, blocked); status[:3] != "503" || !strings.Contains(answer, "not ended") {
		t.Errorf("got %s %s", status, answer)
	}
	close(release)
	hasty.running <- true // when the experiment has ended
	<-hasty.running
	hasty.patience = time.Minute
	for name, app := range map[string]Application{"goexit": func(Environ, StartResponse) Body {
		runtime.Goexit()
		return nil
	}, "nil": nil} {
		hasty.apps["block"] = app
		if status, answer := runLab(hasty.app, blocked); status[:3] == "503" {
			t.Errorf("%s: got %s %s", name, status, answer)
		}
	}
	for range 30 - labAtOnce {
		wait(t, "an experiment", begun)
	}
	all.Wait()
	body := strings.Repeat("x", labRequest-100)
	request := fmt.Sprintf(`POST / HTTP/1.0\\r\\nContent-Length: %d\\r\\n\\r\\n%s`, len(body), body)
	status, answer := runLab(lab, `{"request": "`+request+`", "app": "echo", "arrival": "byte by byte"}`)
	var events []event
	if err := json.Unmarshal([]byte(answer), &events); err != nil || status != "200 OK" || len(events) > labEvents+1 {
		t.Errorf("%s, %v, %d events", status, err, len(events))
	}
	fields := strings.Repeat(`A: `+strings.Repeat(`\\x80`, 600)+`\\r\\n`, 99)
	_, answer = runLab(lab, `{"request": "GET / HTTP/1.0\\r\\n`+fields+`\\r\\n", "app": "echo", "use": "log,log,upper,upper,catch", "arrival": "at once"}`)
	if !strings.Contains(answer, "HTTP_A") || len(answer) > 2<<20 {
		t.Errorf("the answer has %d bytes: %.200s", len(answer), answer)
	}
	var log eventLog
	for range 3 {
		log.add(event{Data: make([]byte, labData/2)})
	}
	if log.events[1].Data == nil || log.events[2].Data != nil || !strings.Contains(log.events[2].Text, "not shown") {
		t.Error("too many bytes are told")
	}
}

// ---------------------------------------------------------------- Exercises
//
// The checker is graded: docs/check.go author 07 holds an exercise to its starter, its solution
// and its wrong answers.

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
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
	if len(dirs) < 23 {
		t.Fatalf("%d exercises", len(dirs))
	}
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
				for _, pattern := range []string{"/starter.*", "/solution.*"} {
					for _, file := range must(filepath.Glob(dir + pattern))(t) {
						args = append(args, filepath.Base(file))
					}
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
	if err := os.CopyFS(filepath.Join(dir, "docs"), os.DirFS("docs")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "main.go", "server.go", "request.go", "response.go", "app.go"} {
		writeFile(t, filepath.Join(dir, name), string(must(os.ReadFile(name))(t)))
	}
	mine := filepath.Join(dir, "mine", "09-teapot.go")
	for _, step := range []struct {
		file, args string
		status     int
		want       string
	}{
		{"", "", 0, "  09   A teapot"},
		{"", "09", 1, "start here: mine/09-teapot.go"},
		{"", "9", 1, "  NO   a status is a code and a reason\n"},
		{"", "-hint 1 09", 0, "Hint 1 of 3"},
		{"package main\nfunc teapot() { undefined() }\n", "09", 1, filepath.Join("mine", "09-teapot.go") + ":2"},
		{strings.Replace(teapot, "stout", "stout!", 1), "09", 1, "came      short and stout!\\n\n                                ^ "},
		{strings.Replace(teapot, "X-Pot", "X-Pan", 1), "teapot", 1, "expected  X-Pot: short\n"},
		{teapot, "09", 0, "solved "},
		{"", "", 0, "  ok   09   A teapot"},
		{"", "77", 2, `there is no exercise "77"`},
		{"", "09 mine/09-teapot.go", 0, "17 of 17 pass"},
		{"", "hunt 1 -answer X99", 1, "It is not X99. It breaks a rule of chapter 3."},
		{"", "hunt 1 -answer r02", 0, "Right, it is R02."},
		{"", "hunt -hint 3 1", 0, `get / HTTP/1.0\r\n\r\n`},
		{"", "hunt 99", 2, "the hunts are "},
	} {
		if step.file != "" {
			writeFile(t, mine, step.file)
		}
		command := exec.Command(checker(), strings.Fields(step.args)...)
		command.Dir = dir
		out, err := command.CombinedOutput()
		if command.ProcessState == nil {
			t.Fatal(err)
		}
		if status := command.ProcessState.ExitCode(); status != step.status || !strings.Contains(string(out), step.want) {
			t.Errorf("%s: status %d, expected %d and %q:\n%s", step.args, status, step.status, step.want, out)
		}
		if regexp.MustCompile(`FAIL|goroutine|check\.go:\d`).Match(out) {
			t.Errorf("%s: not for a student:\n%s", step.args, out)
		}
	}
	outside := exec.Command(checker(), "09")
	outside.Dir = filepath.Dir(dir)
	if out, _ := outside.CombinedOutput(); !strings.Contains(string(out), "is not in the course") {
		t.Errorf("outside the course: %s", out)
	}
}

// TestClass checks a class: of right and wrong answers, copies, and files that are no programs.
func TestClass(t *testing.T) {
	t.Parallel()
	longer(t)
	class, report := t.TempDir(), t.TempDir()
	starter := string(must(os.ReadFile("docs/exercises/09-teapot/starter.go"))(t))
	for path, content := range map[string]string{
		"ada/09-teapot.go":       teapot,
		"ben/mine/09-teapot.go":  "// mine\n" + teapot,
		"[c]/09-teapot.go":       strings.Replace(teapot, "stout", "stout!", 1),
		"dan/9-teapot.go":        teapot,
		"eve/09-teapot.go":       "package",
		"fay/09-teapot.go":       starter,
		"gus/09-teapot.go":       strings.Repeat("//", 1<<20),
		"hal/09-teapot.go.orig":  "package",
		"=ida/09-teapot.go/file": "a directory",
		"jon/go.mod":             "module mine\n",
	} {
		path = filepath.Join(class, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, path, content)
	}
	if runtime.GOOS != "windows" {
		if out, err := exec.Command("mkfifo", filepath.Join(class, "jon/09-teapot.go")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, status := check(t, "class", class, "09", "-o", report)
	table := string(must(os.ReadFile(filepath.Join(report, "class.csv")))(t))
	for _, want := range []string{
		`"ada","09-teapot","10","17","","equal to ben"`,
		`"ben","09-teapot","10","17","","equal to ada"`,
		`"[c]","09-teapot",`,
		`"dan","09-teapot","0","0","","not handed in"`,
		`"dan","","","","","not recognised: 9-teapot.go"`,
		`"eve","09-teapot","0","0","does not compile",""`,
		`"fay","09-teapot","0","0","","the starter"`,
		`"gus","09-teapot","0","0","does not compile",""`,
		`"hal","09-teapot","0","0","","not handed in"`,
		`"'=ida","09-teapot","0","0","does not compile",""`,
		`"jon","09-teapot","0","0",`, "\ncomplete\n"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %s in\n%s", want, table)
		}
	}
	if status != 0 || !strings.Contains(out, "1 of 10 students: 09 the body\n") {
		t.Errorf("status %d: %s", status, out)
	}
	feedback := string(must(os.ReadFile(filepath.Join(report, "_c_.txt")))(t))
	if !strings.Contains(feedback, "came      short and stout!") {
		t.Errorf("the feedback is %s", feedback)
	}
}

// TestChildren checks programs that an exercise must survive, and what they have started, also
// in a group of its own.
func TestChildren(t *testing.T) {
	t.Parallel()
	long(t)
	if runtime.GOOS != "linux" {
		skip(t, "needs Linux: setsid")
	}
	alive := filepath.Join(t.TempDir(), "alive")
	if out, err := exec.Command("mkfifo", alive).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "server.py")
	writeFile(t, file, "import subprocess\nsubprocess.Popen(['setsid', 'sh', '-c', 'sleep 60 > "+alive+"'])\nraise ValueError('no')\n")
	checks := exec.Command(checker(), "23", file)
	if err := checks.Start(); err != nil {
		t.Fatal(err)
	}
	defer checks.Wait()             // that the program does not pass is no error here
	pipe := must(os.Open(alive))(t) // waits until sleep has it
	defer pipe.Close()
	pipe.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(pipe); err != nil {
		t.Errorf("what a program has started lives on: %v", err)
	}
}

// ---------------------------------------------------------------- Faults and load

// A troubled application goes wrong in every way that a server must survive.
type troubled struct {
	release chan bool // lets /block go on
	closed  chan bool // tells that the body of /endless was
}

func newTroubled() *troubled {
	return &troubled{make(chan bool), make(chan bool, 1000)}
}

func (a *troubled) app(environ Environ, startResponse StartResponse) Body {
	switch environ.Get("PATH_INFO") {
	case "/panic":
		panic("the application panics")
	case "/after":
		startResponse("200 OK", textPlain)
		return stream("abc", "panic")
	case "/goexit":
		runtime.Goexit()
	case "/block":
		<-a.release
	case "/endless":
		return endless(a.closed)(environ, startResponse)
	case "/leak": // a goroutine and a file are held until the body is closed
		startResponse("200 OK", textPlain)
		return newLeaky()
	}
	return hashing(environ, startResponse)
}

// hashing is environ, by a name that a variable of that name does not hide.
var hashing Application = showEnviron

// A leaky body would leave a goroutine and a file behind if nobody closed it.
type leaky struct {
	Stream
	file *os.File
	over chan bool
}

func newLeaky() Body {
	l := leaky{file: openSelf(), over: make(chan bool)}
	blocks := make(chan []byte)
	go func() {
		for {
			select {
			case blocks <- make([]byte, 1000):
			case <-l.over:
				return
			}
		}
	}()
	l.Stream = func(yield func([]byte) bool) {
		for yield(<-blocks) {
		}
	}
	return l
}

func (l leaky) Close() error {
	close(l.over)
	return l.file.Close()
}

// A fault is what a bad client does to one connection.
type fault struct {
	name string
	do   func(t *testing.T, a *troubled, c *net.TCPConn)
}

// reset makes the client vanish: the server gets a reset at its next step.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// sends writes text and then does what follows.
func sends(text string, then func(c *net.TCPConn)) func(*testing.T, *troubled, *net.TCPConn) {
	return func(t *testing.T, a *troubled, c *net.TCPConn) {
		io.WriteString(c, text) // may fail: the server may have answered already
		then(c)
	}
}

func leave(c *net.TCPConn)        { c.Close() }
func readToEnd(c *net.TCPConn)    { io.Copy(io.Discard, c) } // a reset is an end, too
func halfClose(c *net.TCPConn)    { c.CloseWrite(); readToEnd(c) }
func readAndLeave(c *net.TCPConn) { io.ReadFull(c, make([]byte, 200)); c.Close() }
func readAndReset(c *net.TCPConn) { io.ReadFull(c, make([]byte, 200)); reset(c) }

// garbage is the same in each run.
var garbage = func() string {
	random, junk := rand.New(rand.NewPCG(1, 2)), make([]byte, 10_000)
	for i := range junk {
		junk[i] = byte(random.Uint32())
	}
	return string(junk)
}()

// getPath asks for one of the troubled application's.
func getPath(path string) string { return "GET " + path + " HTTP/1.0\r\n\r\n" }

var (
	halfHead = "GET / HTTP/1.0\r\nHost: a"
	halfBody = post("abc", "Content-Length: 9")
	faults   = []fault{
		{"leaves without a word", sends("", leave)},
		{"resets without a word", sends("", reset)},
		{"leaves in the head", sends(halfHead, leave)},
		{"resets in the head", sends(halfHead, reset)},
		{"leaves in the body", sends(halfBody, leave)},
		{"resets in the body", sends(halfBody, reset)},
		{"leaves before the answer", sends(get(), leave)},
		{"resets before the answer", sends(get(), reset)},
		{"leaves in the answer", sends(getPath("/leak"), readAndLeave)},
		{"resets in the answer", sends(getPath("/leak"), readAndReset)},
		{"half-closes without a word", sends("", halfClose)},
		{"half-closes in the head", sends(halfHead, halfClose)},
		{"half-closes in the body", sends(halfBody, halfClose)},
		{"half-closes after the request", sends(get(), halfClose)},
		{"goes silent", sends("", readToEnd)},
		{"goes silent in the head", sends(halfHead, readToEnd)},
		{"goes silent in the body", sends(halfBody, readToEnd)},
		{"never reads", func(t *testing.T, a *troubled, c *net.TCPConn) {
			io.WriteString(c, getPath("/endless"))
			wait(t, "the server to give up", a.closed)
		}},
		{"sends garbage", sends(garbage, halfClose)},
		{"sends NULs", sends(strings.Repeat("\x00", 100_000), halfClose)},
		{"pipelines junk", sends(strings.Repeat(get("A: b"), 5000), readToEnd)},
		{"sends a body that nobody wants", sends("POST /panic HTTP/1.0\r\nContent-Length: 200000\r\n\r\n"+
			strings.Repeat("x", 200_000), readToEnd)},
		{"an application panics", sends(getPath("/panic"), readToEnd)},
		{"an application panics in its answer", sends(getPath("/after"), readToEnd)},
		{"an application ends its goroutine", sends(getPath("/goexit"), readToEnd)},
		{"an application blocks", func(t *testing.T, a *troubled, c *net.TCPConn) {
			io.WriteString(c, getPath("/block"))
			select {
			case a.release <- true:
			case <-time.After(20 * time.Second):
				t.Error("the application was not called")
			}
			readToEnd(c)
		}},
	}
)

// TestFaults does each of them twenty times at once, in both modes. Afterwards the server
// answers, and holds nothing.
func TestFaults(t *testing.T) {
	for _, serial := range []bool{false, true} {
		a := newTroubled()
		s := start(t, a.app, func(s *Server) { s.Serial, s.Timeout = serial, 100*time.Millisecond })
		ask(t, s.addr, get())
		goroutines, files := runtime.NumGoroutine(), openFiles()
		for _, fault := range faults {
			t.Run(fmt.Sprintf("serial=%v/%s", serial, fault.name), func(t *testing.T) {
				before := runtime.NumGoroutine() // with this test's own
				together(20, func() { fault.on(t, a, s.addr) })
				reply := ask(t, s.addr, post("abc", "Content-Length: 3"))
				(row{want: "200", has: body("abc")}).check(t, reply)
				eventually(t, "goroutines and files to be given back", func() bool {
					return runtime.NumGoroutine() <= before && openFiles() <= files
				})
			})
		}
		eventually(t, "all of them", func() bool { return runtime.NumGoroutine() <= goroutines })
		s.stop()
	}
}

// on makes a connection and does to it what the fault does.
func (f fault) on(t *testing.T, a *troubled, addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	f.do(t, a, c.(*net.TCPConn))
}

// TestFilesAreClosed asks for everything that opens a file or a process, while the garbage
// collector, which would close forgotten ones some time, is off.
func TestFilesAreClosed(t *testing.T) {
	dir := t.TempDir()
	writeScript(t, dir, "hi", `printf 'Content-Type: text/plain\n\nhi'`)
	writeScript(t, dir, "bad", `printf 'hi'`)
	writeScript(t, dir, "hang", `sleep 1000`)
	if err := os.WriteFile(filepath.Join(dir, "broken"), []byte("#!/nowhere\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	up := start(t, showEnviron)
	s := start(t, mount(map[string]Application{"/f": newFiles(dir), "/c": newCGI(dir, 200*time.Millisecond, 0), "/form": form,
		"/p": newProxy(up.addr, time.Second)}, hello))
	const upload = "--B\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\nabc\r\n--B--\r\n"
	requests := []string{getPath("/f/"), getPath("/f/hi"), getPath("/f/nothing"), "HEAD /f/hi HTTP/1.0\r\n\r\n",
		"GET /f/hi HTTP/1.0\r\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n",
		getPath("/c/hi"), getPath("/c/bad"), getPath("/c/hang"), getPath("/c/broken"), getPath("/c/none"), getPath("/p/"),
		"HEAD /c/hi HTTP/1.0\r\n\r\n", "POST /c/hi HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
		"POST /form HTTP/1.0\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: " +
			strconv.Itoa(len(upload)) + "\r\n\r\n" + upload}
	ask(t, s.addr, get())
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for _, request := range requests {
		name, _, _ := strings.Cut(request, "\r\n")
		t.Run(name, func(t *testing.T) {
			eventually(t, "earlier connections to end", func() bool { return idle(s) && idle(up) })
			before := openFiles()
			ask(t, s.addr, request)
			eventually(t, "its files to be closed", func() bool { return idle(s) && openFiles() <= before })
		})
	}
}

// idle reports whether a server has no connection.
func idle(s *running) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) == 0
}

// TestFiveThousandIdle: clients that have sent half a head do not keep others from theirs.
func TestFiveThousandIdle(t *testing.T) {
	long(t)
	program, addr, _ := startProgram(t, "-app", "environ", "-quiet", "-timeout", "1m")
	ask(t, addr, get())
	files := filesOf(program)
	var idle []net.Conn
	closeAll := func() {
		for _, c := range idle {
			c.Close()
		}
	}
	defer closeAll()
	for range 5000 {
		c, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.EMFILE) {
			skip(t, "needs 5,100 file descriptors (ulimit -n 6000)")
		}
		idle = append(idle, must(c, err)(t))
		must(io.WriteString(c, halfHead))(t)
	}
	for range 50 {
		(row{want: "200"}).check(t, ask(t, addr, get()))
	}
	closeAll()
	eventually(t, "their descriptors", func() bool { return filesOf(program) <= files })
	(row{want: "200"}).check(t, ask(t, addr, get()))
	program.Process.Signal(syscall.SIGTERM)
	if err := program.Wait(); err != nil {
		t.Error(err)
	}
}

// filesOf counts a program's file descriptors, where the system can tell (Linux).
func filesOf(program *exec.Cmd) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", program.Process.Pid)) // none elsewhere
	return len(entries)
}

// TestDescriptorsRunOut: more clients than descriptors. Those who find a place are served,
// the others wait, and when places are free again, all is well.
func TestDescriptorsRunOut(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "needs ulimit")
	}
	program, addr, log := startCommand(t, exec.Command("/bin/sh", "-c", `ulimit -n 40 && exec "$0" "$@"`,
		os.Args[0], "-addr", "127.0.0.1:0", "-app", "environ", "-quiet", "-timeout", "1m"))
	ask(t, addr, get())
	files := filesOf(program)
	var idle []net.Conn
	for range 60 {
		c := dial(t, addr)
		must(io.WriteString(c, halfHead))(t)
		idle = append(idle, c)
	}
	eventually(t, "a word about it", func() bool { return strings.Contains(log.String(), "cannot accept") })
	reply := make(chan string)
	go func() { reply <- ask(t, addr, get()) }() // this one waits for a place
	for _, c := range idle {
		c.Close()
	}
	(row{want: "200"}).check(t, wait(t, "an answer", reply))
	eventually(t, "the descriptors", func() bool { return filesOf(program) <= files })
	program.Process.Signal(syscall.SIGTERM)
	if err := program.Wait(); err != nil || strings.Count(log.String(), "cannot accept") > 3 {
		t.Errorf("%v, log %.500s", err, log)
	}
}

// TestSlowHTTPTest has a tool for slow attacks look at us: heads and bodies that trickle, and
// readers that sip.
func TestSlowHTTPTest(t *testing.T) {
	long(t)
	tool, err := exec.LookPath("slowhttptest")
	if err != nil {
		skip(t, "needs slowhttptest", "slowhttptest")
	}
	for name, mode := range map[string]string{"heads": "-H", "bodies": "-B", "readers": "-X"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, addr, _ := startProgram(t, "-quiet", "-timeout", "1s")
			place := "/environ"
			if mode == "-X" {
				place = "/files/conformance.md"
			}
			ask(t, addr, get())
			files := filesOf(program)
			command := exec.Command(tool, mode, "-c", "400", "-r", "400", "-i", "1", "-l", "4", "-p", "3",
				"-u", "http://"+addr+place)
			out := make(chan string)
			go func() {
				text, err := command.CombinedOutput()
				out <- fmt.Sprint(string(text), err)
			}()
			var text string
			for text == "" {
				select {
				case text = <-out:
				default:
					(row{want: "200"}).check(t, ask(t, addr, getPath("/environ")))
				}
			}
			last := text[max(0, strings.LastIndex(text, "service available")):]
			if !strings.Contains(last, "YES") || !strings.HasSuffix(text, "<nil>") {
				t.Errorf("the tool says %.2000s", text)
			}
			eventually(t, "its connections to end", func() bool { return filesOf(program) <= files })
			program.Process.Signal(syscall.SIGTERM)
			program.Wait() // TestProgram looks at the status
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
	a := newTroubled()
	access, errorLog := &lineCounter{}, &lineCounter{substring: "the application failed: the block failed"}
	s := start(t, a.app, func(s *Server) {
		s.Timeout = 5 * time.Second // bad clients keep it waiting, a busy machine does too
		s.AccessLog, s.ErrorLog = log.New(access, "", 0), log.New(errorLog, "", 0)
	})
	var good, bad, cut, workers atomic.Int64
	end := time.Now().Add(*soak)
	together(32, func() {
		worker := workers.Add(1)
		random := rand.New(rand.NewPCG(3, uint64(worker)))
		for time.Now().Before(end) && !t.Failed() {
			switch {
			case worker%2 == 0: // most of these wait most of the time
				bad.Add(1)
				faults[random.IntN(len(faults))].on(t, a, s.addr)
			case random.IntN(20) == 0:
				cut.Add(1)
				if reply := askCut(t, s.addr, getPath("/after")); !strings.HasSuffix(reply, "\r\n\r\nabc") {
					t.Errorf("got %q", reply)
				}
			default:
				good.Add(1)
				content := strings.Repeat("x", random.IntN(1000)*random.IntN(20))
				reply := ask(t, s.addr, post(content, "Content-Length: "+strconv.Itoa(len(content))))
				(row{want: "200", has: body(content)}).check(t, reply)
			}
		}
	})
	s.stop()
	t.Logf("%d good requests, %d faults, %d answers cut, %d lines of access log", good.Load(), bad.Load(),
		cut.Load(), access.lines.Load())
	// Some of the faults have an answer that is cut, or a line, too.
	if access.lines.Load() < good.Load()+cut.Load() || errorLog.lines.Load() < cut.Load() {
		t.Errorf("%d lines of access log, %d of cut answers", access.lines.Load(), errorLog.lines.Load())
	}
}

// A lineCounter is a log of which only the number of lines is kept, of those that have a
// substring.
type lineCounter struct {
	substring string
	lines     atomic.Int64
}

func (l *lineCounter) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(l.substring)) {
		l.lines.Add(1)
	}
	return len(p), nil
}

// ---------------------------------------------------------------- Fuzzing

// FuzzReadRequest: whatever comes, the parser does not panic, gives the same for slow
// bytes, lets nothing into environ that could be taken for a line end, and what it
// accepts means the same when it is written out again.
func FuzzReadRequest(f *testing.F) {
	for _, row := range allRows() {
		if len(row.send) < 5000 {
			f.Add([]byte(row.send))
		}
	}
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
			if text, _ := value.(string); strings.ContainsAny(key+text, "\r\n\x00") {
				t.Errorf("%q: %q", key, text)
			}
			if _, ok := value.(string); !ok && !strings.Contains(key, ".") { // E15
				t.Errorf("%q is no string", key)
			}
			known := strings.HasPrefix(key, "HTTP_") || slices.Contains(cgiNames, key)
			if !known && !regexp.MustCompile(`^(wsgi|rawsgi)\.[a-z_]+$`).MatchString(key) { // E19
				t.Errorf("%q is nobody's key", key)
			}
		}
		again, _, err := parse(strings.NewReader(serialise(request) + string(content)))
		if err != nil {
			t.Fatalf("%q is refused: %v", serialise(request), err)
		}
		if second := newEnviron(again, memoryAddr, memoryAddr); fmt.Sprint(environ) != fmt.Sprint(second) {
			t.Errorf("%v\nbecame %v", environ, second)
		}
	})
}

// serialise writes a request out again.
func serialise(request *Request) string {
	if request.Version == "HTTP/0.9" {
		return "GET " + request.Target + "\r\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", request.Method, request.Target, request.Version)
	for _, field := range request.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", field.Name, field.Value)
	}
	return b.String() + "\r\n"
}

// stricter are the rules by which we refuse what net/http's parser reads; its server, which
// the fuzzer does not call, has some of them too. looser are its errors for what we read.
// Each of these differences is decided; any other is a fault in one of the two.
var (
	stricter = map[string]string{
		"501 RFC 9112 §6.1":                  "Transfer-Encoding: they decode chunked and ignore the rest in HTTP/1.0",
		"501 RFC 9112 §3.2":                  "OPTIONS *: they leave it to a handler",
		"505 RFC 9110 §15.6.6":               "HTTP/2.0, HTTP/0.9: they leave it to their server",
		"400 RFC 9112 §3.2":                  "Host is checked, targets begin with / or http://host, without control characters",
		"400 RFC 9112 §5.2":                  "folded lines: they join them",
		"400 RFC 9112 §5.1":                  "a space before the colon: they leave it to their server",
		"400 RFC 9110 §5.5":                  "control characters in values: they leave it to their server",
		"400 RFC 9110 §5.3":                  "two equal Content-Lengths, two Content-Types: they take the first",
		"400 RFC 9112 §2.2":                  "mixed line ends, CR within a line",
		"400 RFC 3986 §2.1, RFC 3875 §4.1.5": "escaped control characters in a path",
		"413 RFC 9110 §15.5.14":              "a limit",
		"414 RFC 9110 §15.5.15":              "a limit",
		"431 RFC 9110 §15.5.15":              "a limit",
		"431 RFC 6585 §5":                    "a limit",
	}
	looser = []string{
		"malformed HTTP request", // HTTP/0.9, and an empty line first
		"invalid userinfo",       // in http://user@host: it is dropped unread
		"invalid URL escape",     // %41 in a host is RFC 3986's, they want none of ASCII
	}
)

// FuzzAgainstNetHTTP: our parser and Go's read the same in each request that both accept,
// and where one of them refuses, the difference is one of those that are listed.
func FuzzAgainstNetHTTP(f *testing.F) {
	for _, row := range allRows() {
		if len(row.send) < 5000 {
			f.Add([]byte(row.send))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, content, ourErr := parse(bytes.NewReader(data))
		theirs, theirContent, theirErr := parseLikeGo(data)
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
			if !slices.ContainsFunc(looser, func(s string) bool { return strings.Contains(theirErr.Error(), s) }) {
				t.Errorf("only we read it: %+v; they say %v", ours, theirErr)
			}
		case ours != nil:
			if a, b := summary(ours, content), goSummary(theirs, theirContent); a != b {
				t.Errorf("ours:   %s\ntheirs: %s", a, b)
			}
		}
	})
}

// parseLikeGo reads a request as net/http does, but for its fragment, which that leaves to
// the url package and we cut off.
func parseLikeGo(data []byte) (*http.Request, []byte, error) {
	data = regexp.MustCompile(`^([^ \n]* [^ #\n]*)#[^ \n]*`).ReplaceAll(data, []byte("$1"))
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data)))
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(request.Body)
	return request, content, err
}

// summary says what a request means, and goSummary says it of one of net/http's.
func summary(q *Request, content []byte) string {
	header := http.Header{}
	for _, field := range q.Header {
		if !strings.EqualFold(field.Name, "Host") {
			header.Add(field.Name, field.Value)
		}
	}
	host, _ := lookup(q.Header, "Host")
	if q.Authority != "" {
		host = q.Authority
	}
	return fmt.Sprintf("%s %q %q %s %q %q %q", q.Method, q.Path, q.Query, q.Version, host, header, content)
}

func goSummary(q *http.Request, content []byte) string {
	path := q.URL.Path
	if path == "" {
		path = "/"
	}
	return fmt.Sprintf("%s %q %q %s %q %q %q", q.Method, path, q.URL.RawQuery, q.Proto, q.Host,
		q.Header, content)
}

// FuzzRecord: whatever comes, the record fits the bytes and environ.
func FuzzRecord(f *testing.F) {
	for _, row := range allRows() {
		if len(row.send) < 5000 {
			f.Add([]byte(row.send))
		}
	}
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

// compare lets the contestants take turns until each has done its b.N parts, and reports the
// time of the first, and its ratio to each other one.
func compare(b *testing.B, names []string, do func(contestant, n int)) {
	const turns = 20
	times := make([]time.Duration, len(names))
	b.ResetTimer()
	for turn := range turns {
		n := b.N*(turn+1)/turns - b.N*turn/turns
		for i := range names {
			begin := time.Now()
			do(i, n)
			times[i] += time.Since(begin)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(times[0].Nanoseconds())/float64(b.N), "ns/op")
	for i, name := range names[1:] {
		b.ReportMetric(float64(times[0])/float64(times[i+1]), "×"+name)
	}
}

// netHTTP answers as hello does.
func netHTTP() *http.Server {
	return &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Server", software)
			io.WriteString(w, "Hello, World!\n")
		})}
}

// quiet makes a server without logs.
func quiet(application Application) *Server {
	s := newServer(application)
	s.ErrorLog = log.New(io.Discard, "", 0)
	return s
}

// request has one header field. Each more costs two allocations: its line, and its value
// in the map.
const request = "GET /?a=4 HTTP/1.0\r\nHost: 127.0.0.1:8000\r\n\r\n"

// A memoryConn is a connection in memory. As on a real one, a read beyond the request
// waits: until a deadline in the past ends it, as net/http does, or the connection closes.
type memoryConn struct {
	in     strings.Reader
	out    int
	wake   chan bool
	closed chan bool
}

var memoryAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000}

func (c *memoryConn) Read(p []byte) (int, error) {
	if c.in.Len() == 0 {
		<-c.wake
		return 0, os.ErrDeadlineExceeded
	}
	return c.in.Read(p)
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

// A memoryListener accepts the connections that are put into it.
type memoryListener struct {
	conns  chan net.Conn
	closed chan bool
	once   sync.Once
}

func newMemoryListener() *memoryListener {
	return &memoryListener{conns: make(chan net.Conn), closed: make(chan bool)}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *memoryListener) Addr() net.Addr { return memoryAddr }

// BenchmarkExchange has one request answered over a connection in memory: by serveConn
// itself, and by Serve, which adds what net/http cannot be measured without, a listener
// and a goroutine for each connection.
func BenchmarkExchange(b *testing.B) {
	server, ours, theirs := quiet(hello), newMemoryListener(), newMemoryListener()
	go server.Serve(ours)
	go netHTTP().Serve(theirs)
	defer ours.Close()
	defer theirs.Close()
	exchange := func(n int, connect func(*memoryConn)) {
		c := &memoryConn{closed: make(chan bool, 1), wake: make(chan bool, 1)}
		for range n {
			c.out = 0
			c.in.Reset(request)
			connect(c)
			if <-c.closed; c.out < 100 {
				b.Fatalf("%d bytes", c.out)
			}
		}
	}
	direct := func(n int) { exchange(n, func(c *memoryConn) { server.serveConn(c) }) }
	through := func(l *memoryListener) func(int) {
		return func(n int) { exchange(n, func(c *memoryConn) { l.conns <- c }) }
	}
	direct(1) // so that Serve has begun
	for name, contestant := range map[string]func(int){"serveConn": direct, "Serve": through(ours)} {
		b.Run(name, func(b *testing.B) {
			compare(b, []string{name, "net/http"}, func(i, n int) {
				[]func(int){contestant, through(theirs)}[i](n)
			})
		})
	}
	watchedServer := quiet(watched("hello", hello))
	watchedServer.Watch = watchQuietly
	b.Run("traced", func(b *testing.B) {
		compare(b, []string{"traced", "untraced"}, func(i, n int) {
			exchange(n, func(c *memoryConn) { []*Server{watchedServer, server}[i].serveConn(c) })
		})
	})
	b.Run("allocations", func(b *testing.B) {
		b.ReportAllocs()
		direct(b.N)
	})
}

// canned accepts, reads once, writes a fixed answer and closes: no server does less.
func canned(l net.Listener) {
	answer := []byte("HTTP/1.0 200 OK\r\nDate: Sat, 21 Nov 2026 09:07:30 GMT\r\nServer: " +
		software + "\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"Content-Length: 14\r\n\r\nHello, World!\n")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			c.Read(make([]byte, 4096)) // errors are the client's to notice
			c.Write(answer)
		}()
	}
}

// BenchmarkServe has 64 clients open a connection for each request. Run it on one CPU,
// where the time that passes is the CPU time that client and server use:
//
//	taskset -c 0 go test -run '^$' -bench Serve -benchtime 40000x .
func BenchmarkServe(b *testing.B) {
	ours, theirs := must(listen("127.0.0.1:0"))(b), must(net.Listen("tcp", "127.0.0.1:0"))(b)
	fixed := must(listen("127.0.0.1:0"))(b)
	listeners := []net.Listener{ours, fixed, theirs}
	for _, l := range listeners {
		defer l.Close()
	}
	go quiet(hello).Serve(ours)
	go canned(fixed)
	go netHTTP().Serve(theirs)
	compare(b, []string{"ours", "canned", "net/http"}, func(i, n int) {
		load(b, listeners[i].Addr().String(), n)
	})
}

// load has 64 clients send n requests in all.
func load(b *testing.B, addr string, n int) {
	var next atomic.Int64
	dialer := net.Dialer{KeepAlive: -1}
	together(64, func() {
		reply := make([]byte, 4096)
		for next.Add(1) <= int64(n) {
			c, err := dialer.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			io.WriteString(c, request)
			size, err := io.ReadFull(c, reply)
			if c.Close(); err != io.ErrUnexpectedEOF || !bytes.HasSuffix(reply[:size], []byte("World!\n")) {
				b.Errorf("got %q, %v", reply[:size], err)
				return
			}
		}
	})
}

// A stalledConn sends part of a head and then nothing. It tells when the server waits for
// more, which is when its memory is counted.
type stalledConn struct {
	memoryConn
	waiting *sync.WaitGroup
	over    chan bool
}

func (c *stalledConn) Read(p []byte) (int, error) {
	if c.in.Len() > 0 {
		return c.in.Read(p)
	}
	c.waiting.Done()
	<-c.over
	return 0, io.EOF
}

func (c *stalledConn) SetReadDeadline(time.Time) error { return nil }

// BenchmarkMemory measures what a connection costs that has sent part of a head: heap and
// stack, without the system's own buffers.
func BenchmarkMemory(b *testing.B) {
	const conns = 2000
	measure := func(serve func(net.Listener)) float64 {
		l, waiting, over := newMemoryListener(), &sync.WaitGroup{}, make(chan bool)
		go serve(l)
		waiting.Add(conns)
		before := memoryInUse()
		for range conns {
			c := &stalledConn{waiting: waiting, over: over}
			c.closed = make(chan bool, 9)
			c.in.Reset("GET / HTTP/1.0\r\nHost: 127.0.0.1")
			l.conns <- c
		}
		waiting.Wait()
		used := int64(memoryInUse() - before) // less than nothing if old garbage went, too
		close(over)
		l.Close()
		return float64(used) / conns
	}
	var ours, theirs float64
	for range b.N {
		ours += measure(quiet(hello).Serve)
		theirs += measure(func(l net.Listener) { netHTTP().Serve(l) })
	}
	b.ReportMetric(ours/float64(b.N), "bytes/conn")
	b.ReportMetric(ours/theirs, "×net/http")
}

func totalAlloc() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func memoryInUse() uint64 {
	runtime.GC()
	runtime.GC() // the first only empties pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkUpload sends 512 MiB to an application that reads and forgets them, as the
// reading half of echo does. Run it on one CPU, like BenchmarkServe:
//
//	taskset -c 0 go test -run '^$' -bench 'load' -benchtime 40x .
func BenchmarkUpload(b *testing.B) {
	const size = 512 << 20
	reading := func(environ Environ, startResponse StartResponse) Body {
		for range readBlocks(environ["wsgi.input"].(io.Reader), pieceSize) {
		}
		return hello(environ, startResponse)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 32*1024)) // as io.Copy would
		io.WriteString(w, "Hello, World!\n")
	})
	block := make([]byte, 256*1024)
	transfer(b, size, reading, handler, func(c net.Conn) {
		fmt.Fprintf(c, "POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n", size)
		for range size / len(block) {
			must(c.Write(block))(b)
		}
		if reply := must(io.ReadAll(c))(b); !bytes.HasSuffix(reply, []byte("Hello, World!\n")) {
			b.Errorf("got %q", reply)
		}
	})
}

// BenchmarkDownload fetches a file of 512 MiB through wsgi.file_wrapper.
func BenchmarkDownload(b *testing.B) {
	const size = 512 << 20
	path := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	wrapped := func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", textPlain)
		return newFileWrapper(must(os.Open(path))(b))
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, path)
	})
	block := make([]byte, 256*1024)
	transfer(b, size, wrapped, handler, func(c net.Conn) {
		io.WriteString(c, get())
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, block)
		if err != nil || n < size {
			b.Errorf("%d bytes, %v", n, err)
		}
	})
}

// transfer compares our server to net/http's over TCP, an exchange of many bytes at a
// time, and reports what ours allocated: bytes that it never held cannot pile up.
func transfer(b *testing.B, size int64, app Application, handler http.Handler, do func(net.Conn)) {
	ours, theirs := must(listen("127.0.0.1:0"))(b), must(net.Listen("tcp", "127.0.0.1:0"))(b)
	defer ours.Close()
	defer theirs.Close()
	go quiet(app).Serve(ours)
	go http.Serve(theirs, handler)
	var allocated uint64
	listeners := []net.Listener{ours, theirs}
	b.SetBytes(size)
	compare(b, []string{"ours", "net/http"}, func(i, n int) {
		for range n {
			before := totalAlloc()
			c := must(net.Dial("tcp", listeners[i].Addr().String()))(b)
			do(c)
			c.Close()
			if i == 0 {
				allocated += totalAlloc() - before
			}
		}
	})
	b.ReportMetric(float64(allocated)/float64(b.N), "allocated-B")
}

// BenchmarkGateways has one application answer in this process, through the proxy, and as
// a CGI program that is started for each request.
func BenchmarkGateways(b *testing.B) {
	script := filepath.Join(b.TempDir(), "self")
	if out, err := exec.Command("go", "build", "-o", script, ".").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	python := filepath.Join(b.TempDir(), "app.py")
	if err := os.WriteFile(python, []byte("#!/usr/bin/python3"+`
from wsgiref.handlers import CGIHandler
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, World!\n"]
CGIHandler().run(app)
`), 0o700); err != nil {
		b.Fatal(err)
	}
	direct := start(b, must(choose(applications(Config{}), "gallery", "", false))(b))
	addrs := []string{direct.addr, start(b, newProxy(direct.addr, time.Minute)).addr,
		start(b, newCGI(script, time.Minute, 0)).addr, start(b, newCGI(python, time.Minute, 0)).addr}
	times := make([]time.Duration, len(addrs))
	b.ResetTimer()
	for range b.N {
		for i, addr := range addrs {
			begin := time.Now()
			if reply := ask(b, addr, "GET /hello HTTP/1.0\r\n\r\n"); !strings.HasSuffix(reply, "World!\n") {
				b.Fatalf("got %q", reply)
			}
			times[i] += time.Since(begin)
		}
	}
	for i, name := range []string{"proxy", "CGI", "Python-CGI"} {
		b.ReportMetric(float64(times[i+1])/float64(times[0]), name+"/in-process")
	}
}

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
		announce(&net.TCPAddr{IP: net.IPv6zero, Port: 8000}, &stdout, &stderr)
		first, rest, _ := strings.Cut(stdout.String(), "\n")
		if first != "Serving HTTP on 0.0.0.0 port 8000 (http://127.0.0.1:8000/) ..." ||
			strings.Count(rest, "From other machines: http://") != len(ownAddresses()) ||
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
			`no application is called "helo"; there are hello, class, environ`},
		{"a wrong middleware", []string{"-use", "log,nion"}, 2, "",
			`no middleware is called "nion"; there are log, onion, upper`},
		{"a wrong mode", []string{"-mode", "fast"}, 2, "", "-mode is concurrent, serial or prefork"},
		{"a wrong time", []string{"-timeout", "0s"}, 2, "", `invalid value "0s" for flag -timeout: expected a time of at least 1ms with its unit, like 5s`},
		{"a wrong size", []string{"-max-body", "-1"}, 2, "", `invalid value "-1" for flag -max-body: expected a number of bytes in digits`},
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
		{"send too little", []string{"send", served.addr}, 2, "", "expected flags, ADDR and TEXT, in this order: rawsgi send [flags] ADDR"},
		{"send with a flag behind", []string{"send", served.addr, "x", "-split", "3"}, 2, "",
			"expected flags, ADDR and TEXT"},
		{"send to a URL", []string{"send", "http://127.0.0.1:8000", "x"}, 2, "",
			`ADDR is host:port, like 127.0.0.1:8000 or :8000, or unix:/path, not "http://127.0.0.1:8000"`},
		{"a time without a unit", []string{"-timeout", "5"}, 2, "", "with its unit, like 5s or 500ms"},
		{"a size with a unit", []string{"-max-body", "1GB"}, 2, "", "in digits, like 1000000"},
		{"a port alone", []string{"-addr", "8000"}, 2, "", "-addr is host:port, like 127.0.0.1:8000"},
		{"too many programs", []string{"-programs", "65537"}, 2, "", "-programs must be from 1 to 65536"},
		{"a Unix socket where a directory is", []string{"-addr", "unix:docs"}, 1, "", "docs is there, and is not a socket"},
		{"a Unix socket without a path", []string{"-addr", "unix:"}, 2, "", "needs a path after unix:"},
		{"a time that is too short", []string{"-timeout", "1ns"}, 2, "", "a time of at least 1ms"},
		{"a Unix socket with a long path", []string{"-addr", "unix:/" + strings.Repeat("x", 107)}, 2, "",
			"-addr has a path of 108 bytes, and " + runtime.GOOS + " allows 10"},
		{"an abstract socket", []string{"-addr", "unix:@name"}, 2, "", "needs the path of a file: unix:./@name"},
		{"help to call", []string{"call", "-h"}, 0, "rawsgi call [flags] '/path?query'", ""},
		{"help to send", []string{"send", "-h"}, 0, "-half-close", ""},
		{"call", []string{"call", "-app", "hello", "/"}, 0,
			"200 OK\nContent-Type: text/plain; charset=utf-8\nContent-Length: 14\n\nHello, World!\n", ""},
		{"call with a query", []string{"call", "/a%20b?x=%201"}, 0, "\nPATH_INFO: /a b\nQUERY_STRING: x=%201\n", ""},
		{"call with middleware", []string{"call", "-app", "hello", "-use", "upper", "/"}, 0, "\n\nHELLO, WORLD!\n", ""},
		{"call a wrong application", []string{"call", "-app", "helo", "/"}, 2, "",
			`no application is called "helo"; there are hello, class, environ`},
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

// gatewayOut runs the CGI gateway on a request.
func gatewayOut(app Application, stdin io.Reader, variables ...string) (stdout, stderr string) {
	var out, errors bytes.Buffer
	serveCGI(app, variables, stdin, &out, log.New(&errors, "", 0))
	return out.String(), errors.String()
}

func TestCGIGateway(t *testing.T) {
	t.Run("G01 Status, no Date, no Server", func(t *testing.T) {
		out, _ := gatewayOut(hello, strings.NewReader(""), "REQUEST_METHOD=GET")
		if out != "Status: 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Content-Length: 14\r\n\r\nHello, World!\n" {
			t.Errorf("got %q", out)
		}
	})
	t.Run("G02 E17 E18 E21 the environment is environ", func(t *testing.T) {
		out, _ := gatewayOut(validate(showEnviron), strings.NewReader(""), "REQUEST_METHOD=PUT",
			"X=a=\xff", "HTTPS=on", "SERVER_PORT=443", "PATH_INFO=/a b", "HTTP_X_A=1")
		for _, want := range []string{"REQUEST_METHOD: PUT", "X: a=\xff", "PATH_INFO: /a b",
			"HTTP_X_A: 1", "wsgi.url_scheme: https", "wsgi.multithread: false",
			"wsgi.multiprocess: true", "wsgi.run_once: true"} {
			if !slices.Contains(strings.Split(out, "\n"), want) {
				t.Errorf("no %q in %.3000s", want, out)
			}
		}
	})
	t.Run("G02 H17 what a server should not have set", func(t *testing.T) {
		out, log := gatewayOut(validate(showEnviron), strings.NewReader("abc"), "REQUEST_METHOD=POST", "CONTENT_LENGTH=3",
			"HTTP_CONTENT_LENGTH=3", "HTTP_CONTENT_TYPE=a/b", "HTTP_PROXY=evil", "HTTP_A=1")
		if log != "" || strings.Contains(out, "HTTP_CONTENT") || strings.Contains(out, "evil") || !strings.Contains(out, "\nHTTP_A: 1\n") {
			t.Errorf("got %q, log %q", out, log)
		}
	})
	t.Run("G02 the defaults keep the rules", func(t *testing.T) {
		if out, log := gatewayOut(validate(hello), strings.NewReader("")); !strings.HasPrefix(out, "Status: 200 OK\r\n") {
			t.Errorf("got %q, log %q", out, log)
		}
	})
	t.Run("G03 standard input ends at CONTENT_LENGTH", func(t *testing.T) {
		open, w := io.Pipe() // it never ends
		go io.WriteString(w, "0123456789")
		out, _ := gatewayOut(showEnviron, open, "CONTENT_LENGTH=3")
		if !strings.Contains(out, "BODY-LENGTH: 3\n") {
			t.Errorf("got %q", out)
		}
		open.Close()
	})
	for _, c := range []struct{ name, path, variable, want, log string }{
		{"G04 a failure before the head", "/before", "", "Status: 500 Internal", "failing\n"},
		{"G04 a failure after the head", "/after", "", "Status: 200 OK", "failing.func1\n"},
		{"G04 no variables, an empty body", "/x", "", "Status: 404 Not Found", ""},
		{"G04 a wrong length", "/", "CONTENT_LENGTH=+3", "Status: 400 Bad Request", "digits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, log := gatewayOut(failing, strings.NewReader(""), "PATH_INFO="+c.path, c.variable)
			if !strings.HasPrefix(out, c.want) || !strings.Contains(out, "\r\n\r\n") ||
				!strings.Contains(log, c.log) || strings.Contains(out, "goroutine") {
				t.Errorf("got %q, log %q", out, log)
			}
		})
	}
}

// TestCGIArguments shows that a query never is a flag, although web servers pass some as
// arguments: those of RFC 3875 §4.4 word by word, Python's in one.
func TestCGIArguments(t *testing.T) {
	for _, c := range []struct {
		query string
		args  []string
		want  string // in the answer
	}{
		{"-app+environ", []string{"-app", "environ"}, "Status: 400 Bad Request\r\n"},
		{"-list", []string{"-list"}, "Status: 400 Bad Request\r\n"},
		{"%2Dapp%3Denviron", []string{"-app=environ"}, "Status: 400 Bad Request\r\n"},
		{"x+-app+environ", []string{"-app", "environ"}, "Status: 400 Bad Request\r\n"},
		{"%0a-app%0Denviron", []string{"-app", "environ"}, "Status: 400 Bad Request\r\n"},
		{"%20%2dlist", []string{"-list"}, "Status: 400 Bad Request\r\n"},
		{"send+127.0.0.1:1+x", []string{"send", "127.0.0.1:1", "x"}, "Status: 200 OK\r\n"},
		{"call+/x", []string{"call", "/x"}, "Status: 200 OK\r\n"},
		{"foo", []string{"foo"}, "Status: 200 OK\r\n"},
		{"foo+bar", []string{"-quiet", "foo", "bar"}, "Status: 200 OK\r\n"},
		{"", []string{""}, "Status: 200 OK\r\n"},
		{"-a=b", nil, "Status: 200 OK\r\n"},
		{"-x", nil, "Status: 200 OK\r\n"},
		{"a-b", []string{"-app", "environ"}, "QUERY_STRING: a-b\n"},
		{"-a=b", []string{"-app", "environ"}, "QUERY_STRING: -a=b\n"},
	} {
		t.Run(fmt.Sprintf("%q %q", c.query, c.args), func(t *testing.T) {
			t.Parallel()
			program := exec.Command(os.Args[0], c.args...)
			program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1", "GATEWAY_INTERFACE=CGI/1.1", "QUERY_STRING="+c.query)
			if out, err := program.Output(); err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%v, %q", err, out)
			}
		})
	}
}

// asProgram makes a shell script that runs this binary as the program, with arguments.
func asProgram(t *testing.T, dir, name, args string) string {
	return writeScript(t, dir, name, "RAWSGI_AS_PROGRAM=1 GORACE=atexit_sleep_ms=0 exec '"+must(filepath.Abs(os.Args[0]))(t)+"' "+args)
}

// writeScript makes a program of shell commands.
func writeScript(t *testing.T, dir, name, commands string) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		skip(t, "the scripts are for a Unix shell")
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+commands+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCGIUnderOthers runs the program as a CGI program of servers that are not ours.
func TestCGIUnderOthers(t *testing.T) {
	check := func(t *testing.T, url string) {
		t.Helper()
		response := must(http.Post(url+"/a%20b?q=1", "text/x", strings.NewReader("abc")))(t)
		defer response.Body.Close()
		reply := string(must(io.ReadAll(response.Body))(t))
		for _, want := range append(body("abc"), "PATH_INFO: /a b", "QUERY_STRING: q=1",
			"CONTENT_TYPE: text/x", "wsgi.run_once: true") {
			if !slices.Contains(strings.Split(reply, "\n"), want) {
				t.Errorf("no %q in %d %s", want, response.StatusCode, reply)
			}
		}
	}
	t.Run("net/http/cgi", func(t *testing.T) {
		script := asProgram(t, t.TempDir(), "self", "-app environ")
		l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
		s := &http.Server{Handler: &cgi.Handler{Path: script, Root: "/self", Stderr: io.Discard}}
		go s.Serve(l)
		defer s.Close()
		check(t, "http://"+l.Addr().String()+"/self")
	})
	t.Run("our own host", func(t *testing.T) {
		script := asProgram(t, t.TempDir(), "self", "-cgi -app environ")
		s := start(t, mount(map[string]Application{"/cgi": newCGI(script, time.Minute, 0)}, hello))
		check(t, "http://"+s.addr+"/cgi")
	})
	t.Run("python -m http.server --cgi", func(t *testing.T) {
		long(t)
		python, err := exec.LookPath("/usr/bin/python3")
		if err != nil {
			skip(t, "needs /usr/bin/python3", "python3")
		}
		// As root, that server runs programs as nobody, who must be let in.
		dir := must(os.MkdirTemp("", "rawsgi-cgi-"))(t)
		defer os.RemoveAll(dir)
		bin := filepath.Join(dir, "cgi-bin")
		if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(bin, 0o755)); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, "program")
		if err := os.WriteFile(copied, must(os.ReadFile(os.Args[0]))(t), 0o755); err != nil {
			t.Fatal(err)
		}
		script := writeScript(t, bin, "self", "RAWSGI_AS_PROGRAM=1 exec "+copied+" -app environ")
		passing := writeScript(t, bin, "passing", "RAWSGI_AS_PROGRAM=1 exec "+copied+" -app environ \"$@\"")
		if err := errors.Join(os.Chmod(script, 0o755), os.Chmod(passing, 0o755)); err != nil {
			t.Fatal(err)
		}
		addr := freeAddr(t)
		_, port, _ := net.SplitHostPort(addr)
		background(t, addr, exec.Command(python, "-m", "http.server", "--cgi", "--bind", "127.0.0.1",
			"--directory", dir, port))
		check(t, "http://"+addr+"/cgi-bin/self")
		// This server passes a query without = as an argument.
		for query, want := range map[string]string{"": "QUERY_STRING: \n", "?foo": "QUERY_STRING: foo\n",
			"?foo+bar": "QUERY_STRING: foo+bar\n", "?-list": "400 Bad Request\n", "?x+-app+hello": "400 Bad Request\n"} {
			response := must(http.Get("http://" + addr + "/cgi-bin/passing/x" + query))(t)
			page := must(io.ReadAll(response.Body))(t)
			if response.Body.Close(); !bytes.Contains(page, []byte(want)) {
				t.Errorf("%q: got %q", query, page)
			}
		}
	})
	t.Run("lighttpd", func(t *testing.T) {
		long(t)
		lighttpd, err := exec.LookPath("/usr/sbin/lighttpd")
		if err != nil {
			skip(t, "needs lighttpd", "lighttpd")
		}
		dir, addr := t.TempDir(), freeAddr(t)
		asProgram(t, dir, "self.cgi", "-app environ")
		_, port, _ := net.SplitHostPort(addr)
		config := filepath.Join(dir, "lighttpd.conf")
		text := fmt.Sprintf("server.document-root = %q\nserver.bind = \"127.0.0.1\"\nserver.port = %s\n"+
			"server.modules = (\"mod_cgi\")\ncgi.assign = (\".cgi\" => \"\")\n", dir, port)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		background(t, addr, exec.Command(lighttpd, "-D", "-f", config))
		check(t, "http://"+addr+"/self.cgi")
	})
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

// background runs a server until the test ends, and waits until it answers.
func background(t *testing.T, addr string, command *exec.Cmd) {
	t.Helper()
	var out lockedBuffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan bool)
	go func() { command.Wait(); close(ended) }()
	t.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			command.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", command.Path, out.String())
		}
	})
	eventually(t, command.Path, func() bool {
		network := "tcp"
		if strings.HasPrefix(addr, "/") {
			network = "unix"
		}
		c, err := net.Dial(network, addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestCGIHost shows X01 to X12: what a program gets, and what becomes of its answer.
func TestCGIHost(t *testing.T) {
	for _, tool := range strings.Fields("cat env head mv sleep touch tr") {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, "its scripts need "+tool+" in PATH")
		}
	}
	dir := t.TempDir()
	t.Cleanup(func() { // after all cases; Fatal here would lose what they have reported
		end := time.Now().Add(20 * time.Second)
		for len(children(t)) > 0 && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
		}
		if pids := children(t); len(pids) > 0 {
			t.Errorf("after 20s, programs are running: %v", pids)
		}
	})
	for name, commands := range map[string]string{
		"env":    `printf 'Content-Type: text/plain\n\n'; env; echo "cwd $(pwd)"; cat`,
		"lf":     `printf 'Content-Type: text/plain\n\nhi'`,
		"away":   `printf 'Location: http://h/x\n\n'`,
		"moved":  `printf 'Status: 301 Gone\nLocation: http://h/x\n\nbody'`,
		"local":  `printf 'Location: /other?x=1\n\n'`,
		"astray": `printf 'Location: /a%%zz\n\n'`,
		"loop":   `printf 'Location: /cgi/loop\n\n'`,
		"none":   `true`,
		"nohead": `echo hello`,
		"noend":  `printf 'Content-Type: text/plain\n'`,
		"fold":   `printf 'Content-Type: text/plain\n x\n\nhi'`,
		"plain":  `printf 'X: y\n\nhi'`,
		"evil":   `printf 'Status: 200 O\001K\n\nhi'`,
		"hang":   `sleep 1000`,
		"stall":  `printf 'Content-Type: text/plain\n\nhi'; sleep 1000`,
		"killed": `printf 'Content-Type: text/plain\n\nhi'; kill -9 $$`,
		"dead":   `printf 'Content-Type: text/plain\n\n'; kill -9 $$`,
		"die":    `echo oops >&2; exit 3`,
		"noisy":  `head -c 3000000 /dev/zero | tr '\0' 'x' >&2; printf 'Content-Type: text/plain\n\nhi'`,
		"child":  `sleep 1000 & printf 'Content-Type: text/plain\n\nhi'`,
		"brood":  `sleep 1000 & echo $! > $0.pid; printf 'Content-Type: text/plain\n\nhi'`,
		"broody": `sleep 1000 & echo $! > $0.pid; wait`,
		"login":  `printf 'Status: 303 See Other\nSet-Cookie: a=b\nLocation: /ok\n\n'`,
		"typed":  `printf 'Location: /ok\nContent-Type: text/plain\n\nbody'`,
		"worker": `printf 'Content-Type: text/plain\n\nhi'; exec >&-; sleep 0.2; touch $0.done`,
		"late":   `printf 'Content-Type: text/plain\nContent-Length: 3\n\nabc'; sleep 0.2; echo more; touch $0.done`,
		"long":   `printf 'Content-Type: text/plain\n\n'; head -c 200000 /dev/zero; sleep 0.2; touch $0.done`,
		"steps":  `printf 'Content-Type: text/plain\n\n'; for i in 1 2 3; do sleep 0.2; echo $i; done`,
		"deaf":   `exec <&-; printf 'Content-Type: text/plain\n\nhi'`,
	} {
		writeScript(t, dir, name, commands)
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/true", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	host := newCGI(dir, time.Second, 0)
	for _, c := range []struct {
		name, path string
		want       string // the reply without Date and Server, or the status code
		log        string
	}{
		{"X05 a local redirect", "/local", length3[:len(ok200)] + "Content-Length: 11\r\n\r\n/other ?x=1", ""},
		{"X05 a local redirect to nowhere", "/astray", "502", "cannot follow the local redirect to \"/a%zz\""},
		{"X05 a loop of them", "/loop", "502", "it is one too many"},
		{"X06 a redirect", "/away", "HTTP/1.0 302 Found\r\nLocation: http://h/x\r\nContent-Length: 0\r\n\r\n", ""},
		{"X06 a redirect with a body", "/moved", "HTTP/1.0 301 Gone\r\nLocation: http://h/x\r\n\r\nbody", ""},
		{"X06 a redirect to a path, with Status", "/login",
			"HTTP/1.0 303 See Other\r\nSet-Cookie: a=b\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n", ""},
		{"X06 a redirect to a path, with a body", "/typed",
			"HTTP/1.0 302 Found\r\nLocation: /ok\r\nContent-Type: text/plain\r\n\r\nbody", ""},
		{"X08 no answer", "/none", "502", "expected a head, got nothing"},
		{"X08 no header", "/nohead", "502", "expected a header line"},
		{"X08 no empty line", "/noend", "502", "expected an empty line to end the head: unexpected EOF"},
		{"X08 a folded header", "/fold", "502", "expected a header line that does not begin with a space"},
		{"X08 none of CGI's headers", "/plain", "502", "expected Status, Location or Content-Type"},
		{"X08 a control character", "/evil", "502", "control character"},
		{"X11 missing", "/nothing", "404", ""},
		{"X11 a directory", "/dir", "403", ""},
		{"X11 not executable", "/data", "403", ""},
		{"X11 a symbolic link", "/link", "403", ""},
		{"X11 a way out", "/../" + filepath.Base(dir) + "/lf", "404", ""},
		{"X11 an escaped way out", "/..%2flf", "404", ""},
		{"X11 nothing at all", "/", "404", ""},
		{"X12 it hangs", "/hang", "504", "waited 1s"},
		{"X12 it stalls", "/stall", ok200 + "Content-Type: text/plain\r\n\r\nhi", "the answer broke off"},
		{"X12 it is killed", "/killed", ok200 + "Content-Type: text/plain\r\n\r\nhi", "the answer broke off"},
		{"X12 it is killed after its head", "/dead", "502", "signal: killed"},
		{"X12 it dies", "/die", "502", "exit status 3"},
		{"X12 it floods standard error", "/noisy", ok200 + "Content-Type: text/plain\r\n\r\nhi", strings.Repeat("x", maxLine)},
		{"X12 it leaves a child", "/child", ok200 + "Content-Type: text/plain\r\n\r\nhi", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := newCGI(dir, time.Minute, 0) // longer than a busy machine takes
			if c.name == "X12 it hangs" || c.name == "X12 it stalls" {
				host = newCGI(dir, time.Second, 0)
			}
			s := start(t, mount(map[string]Application{"/cgi": host}, func(environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", nil)
				return Blocks{[]byte(environ.Get("PATH_INFO") + " ?" + environ.Get("QUERY_STRING"))}
			}))
			get := ask
			if c.log == "the answer broke off" {
				get = askCut
			}
			reply := get(t, s.addr, "GET /cgi"+c.path+" HTTP/1.0\r\n\r\n")
			s.stop()
			if len(c.want) == 3 {
				if status, _, _ := splitReply(t, reply); status[:3] != c.want {
					t.Errorf("expected %s, got %q", c.want, reply)
				}
			} else if got := ourHeaders.ReplaceAllString(reply, ""); got != c.want {
				t.Errorf("expected %q\ngot %q", c.want, got)
			}
			if !strings.Contains(s.errors.String(), c.log) {
				t.Errorf("the log is %q", s.errors)
			}
		})
	}
	t.Run("X09 the body's file is removed", func(t *testing.T) {
		spooled := t.TempDir()
		t.Setenv("TMPDIR", spooled)
		ask(t, start(t, host).addr, "POST /lf HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
		if left := must(os.ReadDir(spooled))(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	t.Run("X09 the body's file is removed while the body comes", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			skip(t, "an open file cannot be removed there")
		}
		spooled := t.TempDir()
		t.Setenv("TMPDIR", spooled)
		c := dial(t, start(t, host).addr)
		io.WriteString(c, "POST /lf HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		must(io.ReadFull(c, make([]byte, len("HTTP/1.1 100 Continue\r\n\r\n"))))(t) // the host has begun to read
		if left := must(os.ReadDir(spooled))(t); len(left) > 0 {
			t.Errorf("there is %v", left)
		}
		io.WriteString(c, "abc")
		must(io.ReadAll(c))(t)
	})
	t.Run("X05 a local redirect asks with GET and without a body", func(t *testing.T) {
		s := start(t, mount(map[string]Application{"/cgi": host}, showEnviron))
		reply := ask(t, s.addr, "POST /cgi/local HTTP/1.0\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc")
		(row{want: "200", has: append(body(""), "REQUEST_METHOD: GET", "PATH_INFO: /other"),
			not: []string{"CONTENT_"}}).check(t, reply)
	})
	for request, name := range map[string]string{"GET /late": "late", "HEAD /long": "long", "GET /worker": "worker"} {
		t.Run("X08 all output is read: "+request, func(t *testing.T) {
			done := filepath.Join(dir, name) + ".done"
			s := start(t, host)
			ask(t, s.addr, request+" HTTP/1.0\r\n\r\n")
			s.stop()
			if _, err := os.Stat(done); err != nil || strings.Contains(s.errors.String(), "signal") {
				t.Errorf("%v, log %q", err, s.errors)
			}
		})
	}
	t.Run("X12 the time in which the client reads does not count", func(t *testing.T) {
		var out, log lockedBuffer
		slow := writeFunc(func(p []byte) (int, error) {
			time.Sleep(400 * time.Millisecond) // with the program's 200, longer than it may be silent
			return out.Write(p)
		})
		r := newResponse(slow, httpLine, "GET", &log)
		environ := Environ{"wsgi.errors": &log}
		setTestingDefaults(environ)
		if run(newCGI(filepath.Join(dir, "steps"), 500*time.Millisecond, 0), environ, &r); log.String() != "" ||
			!strings.HasSuffix(out.String(), "1\n2\n3\n") {
			t.Errorf("got %q, log %q", &out, &log)
		}
	})
	t.Run("X11 PATH_TRANSLATED stays below the directory", func(t *testing.T) {
		reply := ask(t, start(t, host).addr, "GET /env/../../../../../etc/passwd HTTP/1.0\r\n\r\n")
		if !strings.Contains(reply, "\nPATH_TRANSLATED="+dir+"/etc/passwd\n") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("X01 X02 X03 X09 the environment", func(t *testing.T) {
		os.Setenv("RAWSGI_SECRET", "hidden")
		defer os.Unsetenv("RAWSGI_SECRET")
		s := start(t, mount(map[string]Application{"/cgi": host}, hello))
		reply := ask(t, s.addr, "POST /cgi/env/a%20b?q HTTP/1.0\r\nContent-Length: 3\r\n"+
			"Authorization: Basic x\r\nProxy-Authorization: y\r\nProxy: z\r\nX_Y: u\r\nX-A: 1\r\n\r\nabcdef")
		lines := strings.Split(reply, "\n")
		for _, want := range []string{"GATEWAY_INTERFACE=CGI/1.1", "QUERY_STRING=q", "REMOTE_ADDR=127.0.0.1",
			"REQUEST_METHOD=POST", "SCRIPT_NAME=/cgi/env", "PATH_INFO=/a b", "SERVER_NAME=127.0.0.1",
			"SERVER_PROTOCOL=HTTP/1.0", "SERVER_SOFTWARE=" + software, "CONTENT_LENGTH=3", "HTTP_X_A=1",
			"PATH_TRANSLATED=" + dir + "/a b", "cwd " + dir, "abc", "REQUEST_URI=/cgi/env/a%20b?q", "REMOTE_HOST=127.0.0.1"} {
			if !slices.Contains(lines, want) {
				t.Errorf("no %q", want)
			}
		}
		for _, secret := range []string{"Basic x", "hidden", "HTTP_PROXY", "X_Y=u", "CONTENT_TYPE"} {
			if strings.Contains(reply, secret) {
				t.Errorf("%q is in %q", secret, reply)
			}
		}
	})
	t.Run("X09 a program that does not read", func(t *testing.T) {
		s := start(t, mount(map[string]Application{"/cgi": host}, hello))
		big := strings.Replace(post(strings.Repeat("x", 1<<20), "Content-Length: 1048576"), " / ", " /cgi/deaf ", 1)
		if reply := ask(t, s.addr, big); !strings.HasSuffix(reply, "hi") {
			t.Errorf("got %q", reply)
		}
	})
	for _, name := range []string{"brood", "broody"} {
		t.Run("X12 what a program leaves running is ended: "+name, func(t *testing.T) {
			if runtime.GOOS != "linux" {
				skip(t, "looks for processes in /proc")
			}
			ask(t, start(t, host).addr, "GET /"+name+" HTTP/1.0\r\n\r\n")
			text := string(must(os.ReadFile(filepath.Join(dir, name+".pid")))(t))
			pid := must(strconv.Atoi(strings.TrimSpace(text)))(t)
			eventually(t, "the end of "+text, func() bool { return !alive(pid) })
		})
	}
	for name, signals := range map[string][]syscall.Signal{"after the time for it": {syscall.SIGTERM},
		"at the second signal": {syscall.SIGTERM, syscall.SIGHUP}} {
		t.Run("X12 the server ends, and its programs with it, "+name, func(t *testing.T) {
			if runtime.GOOS != "linux" {
				skip(t, "looks for processes in /proc")
			}
			t.Parallel()
			if len(signals) == 1 {
				long(t) // five seconds
			}
			pidFile := filepath.Join(t.TempDir(), "pid")
			script := writeScript(t, t.TempDir(), "endless", "echo $$ > "+pidFile+".new; mv "+pidFile+".new "+pidFile+"; sleep 1000")
			program, addr, log := startProgram(t, "-app", "cgi", "-script", script, "-timeout", "1h")
			c := dial(t, addr)
			io.WriteString(c, get())
			var text []byte
			eventually(t, "the program", func() bool {
				text, _ = os.ReadFile(pidFile)
				return len(text) > 0
			})
			for _, each := range signals {
				program.Process.Signal(each)
				time.Sleep(100 * time.Millisecond) // or the two could become one
			}
			program.Wait() // how it ends is for other tests
			pid := must(strconv.Atoi(strings.TrimSpace(string(text))))(t)
			eventually(t, "its end", func() bool { return !alive(pid) })
			if len(signals) == 1 && !strings.Contains(log.String(), `"GET / HTTP/1.0" 502`) {
				t.Errorf("the log is %q", log)
			}
		})
	}
	t.Run("X12 a gateway is ended, and its program with it", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			skip(t, "looks for processes in /proc")
		}
		gateway := exec.Command(os.Args[0], "-cgi", "-app", "cgi", "-script", filepath.Join(dir, "broody"))
		gateway.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1", "REQUEST_METHOD=GET")
		if err := os.RemoveAll(filepath.Join(dir, "broody.pid")); err != nil {
			t.Fatal(err)
		}
		if err := gateway.Start(); err != nil {
			t.Fatal(err)
		}
		pid := 0
		eventually(t, "the program", func() bool {
			text, _ := os.ReadFile(filepath.Join(dir, "broody.pid"))
			pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
			return pid > 0
		})
		gateway.Process.Signal(syscall.SIGTERM)
		if err := gateway.Wait(); err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
		eventually(t, "its end", func() bool { return !alive(pid) })
	})
	t.Run("X03 what a host's own environment does not pass on", func(t *testing.T) {
		environ := Environ{"HTTP_PROXY": "evil", "HTTP_A": "1", "SECRET": "s", "PATH": "/no", "SCRIPT_FILENAME": "/no",
			"PATH_TRANSLATED": "/no", "REMOTE_USER": "u", "wsgi.input": "x", "PATH_INFO": "/x"}
		got := cgiVariables("/dir/p", environ)
		slices.Sort(got)
		want := []string{"HTTP_A=1", "PATH=" + os.Getenv("PATH"), "PATH_INFO=/x", "PATH_TRANSLATED=" + filepath.FromSlash("/dir/x"),
			"REMOTE_HOST=", "REMOTE_USER=u", "SCRIPT_FILENAME=/dir/p"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("X01 more than the system can pass to a program", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("the limit of 128 KiB for a variable is Linux's")
		}
		long := "X-A: " + strings.Repeat("a", 60000)
		(row{want: "431"}).check(t, ask(t, start(t, newCGI(filepath.Join(dir, "lf"), time.Minute, 1)).addr, get(long, long, long)))
	})
	t.Run("X12 a silent program is ended when its time is over, not when its answer is closed", func(t *testing.T) {
		h := &cgiHost{timeout: 100 * time.Millisecond, slots: make(chan bool, 1)}
		h.slots <- true
		p := must(h.start(filepath.Join(dir, "hang"), Environ{"wsgi.errors": io.Discard}))(t)
		defer p.end(0)
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read says %v", err)
		}
		wait(t, "its end", p.ended)
	})
	t.Run("X12 a head that comes a byte at a time", func(t *testing.T) {
		t.Parallel()
		drips := writeScript(t, t.TempDir(), "drips", `printf 'X: '; while sleep 0.1; do printf x; done`)
		s := start(t, newCGI(drips, 500*time.Millisecond, 0))
		(row{chapter: "ch11", want: "504"}).check(t, ask(t, s.addr, get()))
		if s.stop(); !strings.Contains(s.errors.String(), "waited 500ms") {
			t.Errorf("the log is %q", s.errors)
		}
	})
	t.Run("X12 a process that has left the group", func(t *testing.T) {
		if _, err := exec.LookPath("setsid"); err != nil {
			skip(t, "needs setsid")
		}
		t.Parallel()
		pid := filepath.Join(t.TempDir(), "pid")
		leaves := writeScript(t, t.TempDir(), "leaves", `setsid sh -c 'echo $$ > `+pid+`; while sleep 0.1; do echo x; done' 2>/dev/null &
while [ ! -s `+pid+` ]; do sleep 0.01; done; printf 'Content-Type: text/plain\n\nhi'`)
		s := start(t, newCGI(leaves, 500*time.Millisecond, 0))
		c := dial(t, s.addr)
		io.WriteString(c, get())
		answer, err := io.ReadAll(c) // has an end, and a client learns that it is not whole
		reply := string(answer)
		if err == nil {
			t.Error("the answer seems to be whole")
		}
		syscallKill(must(strconv.Atoi(strings.TrimSpace(string(must(os.ReadFile(pid))(t)))))(t))
		if s.stop(); !strings.Contains(reply, "\r\n\r\nhi") || !strings.Contains(s.errors.String(), "the answer broke off") {
			t.Errorf("got %q, the log is %q", reply, s.errors)
		}
	})
	t.Run("X12 no body is read for a program that cannot run", func(t *testing.T) {
		h := &cgiHost{script: filepath.Join(dir, "lf"), timeout: time.Second, slots: make(chan bool)} // no slot is free
		status, _, _ := callApplication(h.app, Environ{"CONTENT_LENGTH": "3", "wsgi.input": readerFunc(func([]byte) (int, error) {
			t.Error("the body is read")
			return 0, io.EOF
		})})
		if status != "503 Service Unavailable" {
			t.Errorf("got %s", status)
		}
	})
	t.Run("X12 a body that does not arrive whole keeps no slot", func(t *testing.T) {
		s := start(t, newCGI(filepath.Join(dir, "lf"), time.Second, 1))
		for range 2 {
			reply := exchangeWith(t, s.addr, row{how: "then end", send: post("a", "Content-Length: 3")}, 1<<10)
			(row{chapter: "ch11", want: "400"}).check(t, reply)
		}
		if reply := ask(t, s.addr, get()); !strings.HasPrefix(reply, ok200) {
			t.Errorf("got %q", reply)
		}
	})
	for name, c := range map[string]struct{ text, status, hint string }{
		"X08 line ends of Windows":       {"#!/bin/sh\r\necho hi\r\n", "502", `ends in \r\n: save it`},
		"X08 the same, with env":         {"#!/usr/bin/env sh\r\necho hi\r\n", "502", `ends in \r\n: save it`},
		"X08 no interpreter":             {"echo hi\n", "502", "does not name an interpreter, like #!/bin/sh"},
		"X08 an interpreter that is not": {"#!/bin/nosuch\necho hi\n", "502", "does not exist: \"#!/bin/nosuch\""},
		"X08 an HTTP status line":        {"#!/bin/sh\nprintf 'HTTP/1.0 200 OK\\n\\nhi'\n", "502", "print Status: 200 OK instead of"},
		"X08 output before the head":     {"#!/bin/sh\necho hi\n", "502", "print a head, like Content-Type: text/plain, then an empty"},
		"X08 no empty line":              {"#!/bin/sh\nprintf 'Content-Type: text/html\\n<p>\\n'\n", "502", "then an empty line"},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				skip(t, "the scripts are for a Unix shell")
			}
			file := filepath.Join(t.TempDir(), "program")
			if err := os.WriteFile(file, []byte(c.text), 0o700); err != nil {
				t.Fatal(err)
			}
			s := start(t, newCGI(file, 10*time.Second, 0))
			(row{chapter: "ch11", want: c.status}).check(t, ask(t, s.addr, get()))
			if s.stop(); !strings.Contains(s.errors.String(), "hint for "+file+": ") || !strings.Contains(s.errors.String(), c.hint) {
				t.Errorf("the log is %q", s.errors)
			}
		})
	}
	t.Run("X12 programs that run at once", func(t *testing.T) {
		s := start(t, mount(map[string]Application{"/cgi": newCGI(dir, time.Minute, 1)}, hello))
		writeScript(t, dir, "gate", `touch $0.runs; while [ ! -e $0.open ]; do sleep 0.05; done; printf 'Content-Type: text/plain\n\nhi'`)
		first := make(chan string)
		go func() { first <- ask(t, s.addr, "GET /cgi/gate HTTP/1.0\r\n\r\n") }()
		eventually(t, "the program", func() bool {
			_, err := os.Stat(filepath.Join(dir, "gate.runs"))
			return err == nil
		})
		if reply := ask(t, s.addr, "GET /cgi/lf HTTP/1.0\r\n\r\n"); !strings.HasPrefix(reply, "HTTP/1.0 503 ") ||
			!strings.Contains(reply, "\r\nRetry-After: 1\r\n") {
			t.Errorf("got %q", reply)
		}
		if err := os.WriteFile(filepath.Join(dir, "gate.open"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if reply := wait(t, "the first answer", first); !strings.HasPrefix(reply, ok200) {
			t.Errorf("got %q", reply)
		}
		writeScript(t, dir, "again", `printf 'Location: /cgi/lf\n\n'`)
		for range 3 { // each place is given back, before a local redirect too
			if reply := ask(t, s.addr, "GET /cgi/again HTTP/1.0\r\n\r\n"); !strings.HasPrefix(reply, ok200) {
				t.Errorf("got %q", reply)
			}
		}
		eventually(t, "the end of all programs", func() bool {
			n := 0
			programs.Range(func(any, any) bool { n++; return true })
			return n == 0
		})
	})
	t.Run("X12 the client leaves", func(t *testing.T) {
		s := start(t, newCGI(filepath.Join(dir, "hang"), time.Hour, 0))
		c := dial(t, s.addr)
		io.WriteString(c, get())
		eventually(t, "the program", func() bool { return len(children(t)) > 0 })
		s.Shutdown(time.Millisecond) // cuts the connection; the program is silent
		for _, pid := range children(t) {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill() // it would be silent for an hour
			}
		}
	})
}

// children returns the process numbers of our children, where the system tells (Linux).
func children(t *testing.T) (pids []int) {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may have ended
		for _, pid := range strings.Fields(string(text)) {
			pids = append(pids, must(strconv.Atoi(pid))(t))
		}
	}
	return pids
}

// startProgram runs the program as a user does, and returns the address that it prints.
func startProgram(t *testing.T, args ...string) (*exec.Cmd, string, *lockedBuffer) {
	t.Helper()
	return startCommand(t, exec.Command(os.Args[0], append([]string{"-addr", "127.0.0.1:0"}, args...)...))
}

// startCommand starts a command that runs our source, or nearly so, on a free port.
func startCommand(t *testing.T, program *exec.Cmd) (*exec.Cmd, string, *lockedBuffer) {
	t.Helper()
	program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
	log := &lockedBuffer{}
	program.Stderr = log
	stdout := must(program.StdoutPipe())(t)
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
	silent := time.AfterFunc(20*time.Second, func() { program.Process.Kill() })
	defer silent.Stop()
	banner := must(bufio.NewReader(stdout).ReadString('\n'))(t)
	match := regexp.MustCompile(`^Serving HTTP on 127.0.0.1 port \d+ \(http://(.*)/\) \.\.\.\n$`).
		FindStringSubmatch(banner)
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

// alive reports whether a process is running. A zombie is not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// workersOf returns the process numbers of a program's children.
func workersOf(t *testing.T, program *exec.Cmd) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", program.Process.Pid))
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may have ended
		for _, pid := range strings.Fields(string(text)) {
			pids = append(pids, must(strconv.Atoi(pid))(t))
		}
	}
	return pids
}

func TestPrefork(t *testing.T) {
	if runtime.GOOS != "linux" {
		skip(t, "looks for processes in /proc")
	}
	two := func(t *testing.T, program *exec.Cmd) []int {
		eventually(t, "two workers", func() bool {
			pids := workersOf(t, program)
			for _, pid := range pids { // what has only been forked is still its parent
				environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
				if !bytes.Contains(environment, []byte(workerVariable+"=1")) {
					return false
				}
			}
			return len(pids) == 2
		})
		return workersOf(t, program)
	}
	t.Run("E18 several processes answer", func(t *testing.T) {
		program, addr, log := startProgram(t, "-mode", "prefork", "-app", "environ")
		pids := two(t, program)
		answered := regexp.MustCompile(`(?m)^\[(\d+)\] 127`)
		eventually(t, "an answer of each", func() bool {
			together(8, func() {
				if reply := ask(t, addr, get()); !strings.Contains(reply, "\nwsgi.multiprocess: true\n") {
					t.Errorf("got %q", reply)
				}
			})
			seen := map[string]bool{}
			for _, match := range answered.FindAllStringSubmatch(log.String(), -1) {
				seen[match[1]] = true
			}
			return seen[strconv.Itoa(pids[0])] && seen[strconv.Itoa(pids[1])]
		})
		program.Process.Signal(syscall.SIGTERM)
		if err := ended(t, program); err != nil {
			t.Errorf("the program ended with %v: %s", err, log)
		}
		if alive(pids[0]) || alive(pids[1]) {
			t.Error("a worker has survived")
		}
	})
	t.Run("a worker killed under load", func(t *testing.T) {
		t.Parallel() // mostly waits until a worker may be started again
		program, addr, log := startProgram(t, "-mode", "prefork", "-app", "hello")
		pids := two(t, program)
		var whole, cut, refused atomic.Int32
		go syscallKill(pids[0])
		together(20, func() {
			for range 50 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					refused.Add(1)
					continue
				}
				io.WriteString(c, get())
				reply, _ := io.ReadAll(c) // a reset if its worker was killed
				c.Close()
				if bytes.HasSuffix(reply, []byte("World!\n")) {
					whole.Add(1)
				} else {
					cut.Add(1)
				}
			}
		})
		// Only what the killed worker had accepted may be lost: at most one for each client.
		if refused.Load() > 0 || cut.Load() > 20 || whole.Load() < 980 {
			t.Errorf("%d whole, %d cut, %d refused", whole.Load(), cut.Load(), refused.Load())
		}
		eventually(t, "another worker", func() bool {
			now := workersOf(t, program)
			return len(now) == 2 && !slices.Contains(now, pids[0])
		})
		eventually(t, "its line in the log", func() bool {
			return strings.Contains(log.String(), "a worker has ended (signal: killed), starting another")
		})
		program.Process.Signal(os.Interrupt)
		ended(t, program) // how it ends is for the case above
		// What a worker has logged, it has answered.
		if lines := strings.Count(log.String(), "] 127.0.0.1 - - ["); lines > int(whole.Load()) {
			t.Errorf("%d answers, of %d that were sent", whole.Load(), lines)
		}
	})
	t.Run("a worker that cannot be started again", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "rawsgi")
		if err := os.Link(os.Args[0], path); err != nil {
			content := must(os.ReadFile(os.Args[0]))(t) // another file system
			if err := os.WriteFile(path, content, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		program, addr, log := startCommand(t, exec.Command(path, "-addr", "127.0.0.1:0", "-mode", "prefork", "-app", "hello"))
		pids := two(t, program)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		syscallKill(pids[0])
		eventually(t, "a failure", func() bool { return strings.Contains(log.String(), "no such file") })
		if reply := ask(t, addr, get()); !strings.HasSuffix(reply, "World!\n") {
			t.Errorf("got %q", reply)
		}
		program.Process.Signal(syscall.SIGTERM)
		ended(t, program) // how it ends is for others
	})
	for stage, begun := range map[string]string{"idle": "", "in the head": "POST / HT", "in the body": post("ab", "Content-Length: 3"),
		"in the answer": post(strings.Repeat("x", 100), "Content-Length: 101")} {
		t.Run("a worker killed while its clients are "+stage, func(t *testing.T) {
			program, addr, log := startProgram(t, "-mode", "prefork", "-app", "echo")
			pids := two(t, program)
			var clients []*net.TCPConn
			for range 20 {
				c := dial(t, addr)
				io.WriteString(c, begun)
				clients = append(clients, c)
				if stage == "in the answer" {
					must(io.ReadFull(c, make([]byte, 1)))(t)
				}
			}
			syscallKill(pids[0])
			eventually(t, "its end", func() bool { return !alive(pids[0]) })
			whole, want := post("abc", "Content-Length: 3"), "abc"
			if stage == "in the answer" {
				whole, want = begun+"x", strings.Repeat("x", 101)
			}
			answered := 0
			for _, c := range clients {
				io.WriteString(c, strings.TrimPrefix(whole, begun)) // fails if its worker is dead
				if reply, err := io.ReadAll(c); err == nil && bytes.HasSuffix(reply, []byte(want)) {
					answered++
				}
				c.Close()
			}
			program.Process.Signal(syscall.SIGTERM)
			ended(t, program) // how it ends is for the first case
			// Of the one that lives, each client has its answer.
			if lines := strings.Count(log.String(), `"POST / HTTP/1.0" 200`); answered != lines {
				t.Errorf("%d answers, of %d that were sent", answered, lines)
			}
		})
	}
	t.Run("the second signal does not wait", func(t *testing.T) {
		program, addr, _ := startProgram(t, "-mode", "prefork", "-app", "echo", "-quiet", "-timeout", "1h")
		pids := two(t, program)
		busy := dial(t, addr)
		io.WriteString(busy, post("abc", "Content-Length: 6"))
		must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
		program.Process.Signal(syscall.SIGTERM)
		eventually(t, "the end of the idle worker", func() bool { return !alive(pids[0]) || !alive(pids[1]) })
		program.Process.Signal(syscall.SIGTERM)
		if err := ended(t, program); err != nil {
			t.Errorf("it ended with %v", err)
		}
		eventually(t, "the end of the workers", func() bool { return !alive(pids[0]) && !alive(pids[1]) })
	})
	t.Run("no worker survives a killed parent", func(t *testing.T) {
		program, _, _ := startProgram(t, "-mode", "prefork")
		pids := two(t, program)
		program.Process.Kill()
		ended(t, program) // it was killed
		eventually(t, "the end of the workers", func() bool { return !alive(pids[0]) && !alive(pids[1]) })
	})
	t.Run("SIGTERM lets requests end", func(t *testing.T) {
		program, addr, _ := startProgram(t, "-mode", "prefork", "-app", "echo", "-quiet")
		two(t, program)
		busy := dial(t, addr)
		io.WriteString(busy, post("abc", "Content-Length: 6"))
		must(io.ReadFull(busy, make([]byte, 1)))(t) // the answer has begun
		program.Process.Signal(syscall.SIGTERM)
		eventually(t, "a refused connection", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		io.WriteString(busy, "def")
		if reply := must(io.ReadAll(busy))(t); !strings.HasSuffix(string(reply), "abcdef") {
			t.Errorf("got %q", reply)
		}
		busy.Close() // or the server would wait for it
		if err := ended(t, program); err != nil {
			t.Errorf("the program ended with %v", err)
		}
	})
}

// syscallKill kills a process as kill -9 does.
func syscallKill(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		p.Kill()    // fails if it has ended
		p.Release() // it may hold a descriptor
	}
}

// TestEarlySignal shows that a signal right after the banner ends a server properly, and that
// the file of a Unix socket is removed.
func TestEarlySignal(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "signals are for Unix")
	}
	times := 50
	if !*all {
		times = 8
	}
	for _, mode := range []string{"concurrent", "serial", "prefork"} {
		for _, addr := range []string{"127.0.0.1:0", "unix:" + socketPath(t)} {
			t.Run(mode+" "+addr[:5], func(t *testing.T) {
				for range times {
					program := exec.Command(os.Args[0], "-addr", addr, "-mode", mode)
					program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
					stdout := must(program.StdoutPipe())(t)
					if err := program.Start(); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
					must(stdout.Read(make([]byte, 100)))(t)
					program.Process.Signal(syscall.SIGTERM)
					if err := ended(t, program); err != nil {
						t.Fatalf("the program ended with %v", err)
					}
					if file, ok := strings.CutPrefix(addr, "unix:"); ok {
						if _, err := os.Lstat(file); err == nil {
							t.Fatal("the socket is left behind")
						}
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
	if runtime.GOOS == "windows" {
		skip(t, "-mode prefork needs Unix")
	}
	l := must(listen("127.0.0.1:0"))(t)
	defer l.Close()
	inherited = must(inheritable(l))(t)
	program := exec.Command(os.Args[0], "-list")
	program.Env, program.ExtraFiles = append(os.Environ(), "RAWSGI_AS_PROGRAM=1"), []*os.File{inherited}
	must(program.Output())(t)
	l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Millisecond))
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	select {
	case err := <-accepted:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Accept blocks")
		dial(t, l.Addr().String()) // ends it
	}
}

// TestIdleWorkers shows that workers that wait for connections stop at once, at the signal
// and at the end of their parent.
func TestIdleWorkers(t *testing.T) {
	if runtime.GOOS != "linux" {
		skip(t, "looks for processes in /proc")
	}
	for _, n := range []int{4, 8} {
		for i := range 20 {
			program, addr, _ := startProgram(t, "-mode", "prefork", "-workers", strconv.Itoa(n))
			time.Sleep(time.Duration(i) * 5 * time.Millisecond) // any moment of their start
			workers, begin := workersOf(t, program), time.Now()
			if i%2 == 0 {
				program.Process.Signal(syscall.SIGTERM)
			} else {
				program.Process.Kill()
			}
			if err := ended(t, program); err != nil && i%2 == 0 {
				t.Errorf("the program ended with %v", err)
			}
			for _, worker := range workers {
				eventually(t, "the end of a worker", func() bool { return !alive(worker) })
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("%d workers took %v to stop", n, took)
			}
			must(listen(addr))(t).Close()
		}
	}
}

// TestOutputErrors shows what happens when standard output is full, or its reader has gone.
func TestOutputErrors(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil || runtime.GOOS == "windows" {
		skip(t, "needs /dev/full")
	}
	served := start(t, endless(make(chan bool, 10)))
	run := func(stdout *os.File, args ...string) (string, error) {
		program := exec.Command(os.Args[0], args...)
		var stderr bytes.Buffer
		program.Env = append(os.Environ(), "RAWSGI_AS_PROGRAM=1")
		program.Stdout, program.Stderr = stdout, &stderr
		if err := program.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { program.Process.Kill() }) // fails if it has ended, as it should
		stdout.Close()
		err := ended(t, program)
		return stderr.String(), err
	}
	send := []string{"send", served.addr, get()}
	for _, args := range [][]string{send, {"-list"}, {"-help"}, {"call", "/"}} {
		full := must(os.OpenFile("/dev/full", os.O_WRONLY, 0))(t)
		stderr, err := run(full, args...)
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 ||
			!strings.Contains(stderr, "no space left") {
			t.Errorf("%q >/dev/full: %v, %q", args, err, stderr)
		}
	}
	full := must(os.OpenFile("/dev/full", os.O_WRONLY, 0))(t)
	if stderr, err := run(full, "-addr", "127.0.0.1:99999"); strings.Contains(stderr, "no space") {
		t.Errorf("a server needs its output: %v, %q", err, stderr)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	if _, err := run(write, send...); err == nil {
		t.Error("send ended as if somebody had read its output")
	}
}

// TestStoppedWorker shows that a worker that hangs does not keep its parent.
func TestStoppedWorker(t *testing.T) {
	long(t)
	if runtime.GOOS == "windows" {
		skip(t, "-mode prefork needs Unix")
	}
	program, addr, _ := startProgram(t, "-mode", "prefork", "-app", "hello", "-quiet")
	ask(t, addr, get())
	worker := workersOf(t, program)[0]
	must(exec.Command("kill", "-STOP", strconv.Itoa(worker)).Output())(t)
	begin := time.Now()
	program.Process.Signal(syscall.SIGTERM)
	if err := ended(t, program); err != nil {
		t.Errorf("the program ended with %v", err)
	}
	if took := time.Since(begin); took > grace+time.Second {
		t.Errorf("that took %v", took)
	}
	if alive(worker) {
		t.Error("the worker is left behind")
	}
}

// TestNothingLost: 32 clients ask in a loop while the server, or one of its workers, gets
// SIGTERM. Whoever could connect gets a whole answer. (T06)
func TestNothingLost(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "Windows has no SIGTERM")
	}
	for _, c := range []struct {
		name   string
		args   []string
		signal func(t *testing.T, program *exec.Cmd)
	}{
		{"the server", nil, func(t *testing.T, program *exec.Cmd) {
			program.Process.Signal(syscall.SIGTERM)
		}},
		{"the parent of workers", []string{"-mode", "prefork"}, func(t *testing.T, program *exec.Cmd) {
			program.Process.Signal(syscall.SIGTERM)
		}},
		{"all processes at once", []string{"-mode", "prefork"}, func(t *testing.T, program *exec.Cmd) {
			group := must(os.FindProcess(-program.Process.Pid))(t) // as systemd stops a service
			group.Signal(syscall.SIGTERM)
			group.Release()
		}},
		{"one worker", []string{"-mode", "prefork"}, func(t *testing.T, program *exec.Cmd) {
			worker := must(os.FindProcess(workersOf(t, program)[0]))(t)
			worker.Signal(syscall.SIGTERM)
			worker.Release()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := exec.Command(os.Args[0], append(c.args, "-addr", "127.0.0.1:0", "-app", "hello", "-quiet")...)
			command.SysProcAttr = ownGroup()
			program, addr, _ := startCommand(t, command)
			var answers, lost atomic.Int64
			var first atomic.Value
			stop := make(chan bool)
			var clients sync.WaitGroup
			for range 32 {
				clients.Add(1)
				go func() {
					defer clients.Done()
					for {
						select {
						case <-stop:
							return
						default:
						}
						c, err := net.Dial("tcp", addr)
						if err != nil {
							return // refused: the server has ended
						}
						c.SetDeadline(time.Now().Add(20 * time.Second))
						io.WriteString(c, get()) // fails if the server has hung up
						reply, err := io.ReadAll(c)
						c.Close()
						if err != nil || !strings.HasSuffix(string(reply), "World!\n") {
							lost.Add(1)
							first.CompareAndSwap(nil, fmt.Sprintf("%q, %v", reply, err))
						}
						answers.Add(1)
					}
				}()
			}
			eventually(t, "1000 answers", func() bool { return answers.Load() > 1000 })
			before := answers.Load()
			c.signal(t, program)
			if c.name == "one worker" {
				eventually(t, "more answers", func() bool { return answers.Load() > before+2000 })
				close(stop)
				clients.Wait()
				program.Process.Signal(syscall.SIGTERM)
			}
			clients.Wait()
			ended(t, program)
			if lost.Load() > 0 {
				t.Errorf("%d of %d answers were lost, the first: %v", lost.Load(), answers.Load(),
					first.Load())
			}
			t.Logf("%d answers", answers.Load())
		})
	}
}

// fake is an upstream that answers every request with fixed bytes and closes, and records
// what it got.
func fake(t *testing.T, answer string, after func(net.Conn)) (addr string, got *lockedBuffer) {
	got = &lockedBuffer{}
	return accepts(t, func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			line, err := r.ReadString('\n')
			io.WriteString(got, line)
			if err != nil || line == "\r\n" {
				break
			}
		}
		io.WriteString(c, answer)
		if after != nil {
			after(c)
		}
	}), got
}

// accepts listens, and has each connection served and closed.
func accepts(t *testing.T, serve func(net.Conn)) (addr string) {
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
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	t.Parallel()
	through := func(t *testing.T, upstreams string) *running {
		return start(t, mount(map[string]Application{"/p": newProxy(upstreams, 300*time.Millisecond)}, hello))
	}
	t.Run("an upload that takes longer than any of its pieces may", func(t *testing.T) {
		s := through(t, start(t, showEnviron).addr)
		c := dial(t, s.addr)
		io.WriteString(c, strings.Replace(post("", "Content-Length: 6"), " / ", " /p ", 1))
		for range 6 {
			time.Sleep(100 * time.Millisecond) // six of them: twice the proxy's time
			io.WriteString(c, "x")
		}
		(row{want: "200", has: body("xxxxxx")}).check(t, string(must(io.ReadAll(c))(t)))
	})
	t.Run("what is forwarded", func(t *testing.T) {
		addr, got := fake(t, "HTTP/1.1 200 OK\r\nX: a\tb\r\nConnection: X-Drop\r\nX-Drop: 1\r\nKeep-Alive: 1\r\n\r\nhi", nil)
		s := through(t, addr)
		reply := ask(t, s.addr, "GET /p/a%20b%25?q=%20 HTTP/1.1\r\nHost: h:1\r\nX-Forwarded-For: 1.2.3.4\r\n"+
			"Connection: close, X-Secret\r\nX-Secret: 1\r\nTE: trailers\r\nX-A: 1\r\nX-A: 2\r\nX-Empty:\r\n\r\n")
		if reply := ourHeaders.ReplaceAllString(reply, ""); reply != ok200+"X: a b\r\n\r\nhi" {
			t.Errorf("got %q", reply)
		}
		want := "GET /a%20b%25?q=%20 HTTP/1.0\r\nX-Forwarded-For: 1.2.3.4, 127.0.0.1\r\n" +
			"X-Forwarded-Proto: http\r\nVia: 1.1 NAME\r\nHost: h:1\r\nX-A: 1,2\r\nX-Empty: \r\n\r\n"
		if regexp.MustCompile(`rawsgi-\w{10,}`).ReplaceAllString(got.String(), "NAME") != want {
			t.Errorf("upstream got %q", got)
		}
	})
	for _, c := range []struct{ name, answer, want, log string }{
		{"no answer", "", "502", "expected a head, got nothing"},
		{"garbage", "hello\r\n\r\n", "502", "expected a status line"},
		{"a wrong status", "HTTP/1.0 99 X\r\n\r\n", "502", "expected a status like"},
		{"nothing but 100", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 11), "502", "more than 10 interim answers"},
		{"a folded header", "HTTP/1.0 200 OK\r\nA: b\r\n c\r\n\r\n", "502", "does not begin with a space"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "502", "Transfer-Encoding"},
		{"nothing of its length", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", "502", "the answer broke off"},
		{"less than its length", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nab", ok200 + "Content-Length: 5\r\n\r\nab", "the answer broke off"},
		{"304", "HTTP/1.0 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.0 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, _ := fake(t, c.answer, nil)
			s := through(t, addr)
			reply := ask(t, s.addr, "GET /p HTTP/1.0\r\n\r\n")
			s.stop()
			if got := ourHeaders.ReplaceAllString(reply, ""); got != c.want && !strings.HasPrefix(got, "HTTP/1.0 "+c.want+" ") {
				t.Errorf("got %q", got)
			}
			if !strings.Contains(s.errors.String(), c.log) || c.log == "" && s.errors.String() != "" {
				t.Errorf("the log is %q", s.errors)
			}
		})
	}
	t.Run("it is its own upstream", func(t *testing.T) {
		addr := freeAddr(t)
		s := startOn(t, addr, newProxy(addr, time.Second))
		(row{want: "508"}).check(t, ask(t, addr, get("Via: 1.0 rawsgi-x")))
		if s.stop(); strings.Count(s.access.String(), "\n") != 2 {
			t.Errorf("the access log is %s", s.access)
		}
	})
	t.Run("two proxies are no loop, and Via names them", func(t *testing.T) {
		addr, got := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", nil)
		ask(t, through(t, start(t, newProxy(addr, time.Second)).addr).addr, "GET /p HTTP/1.1\r\nHost: h\r\nVia: 1.0 fred\r\n\r\n")
		if !regexp.MustCompile(`\nVia: 1\.0 fred, 1\.1 rawsgi-\w+, 1\.0 rawsgi-\w+\r\n`).MatchString(got.String()) {
			t.Errorf("upstream got %q", got)
		}
	})
	for raw, want := range map[string]string{"/p/a%2Fb?x=%2F": "/a%2Fb?x=%2F", "/p/%61": "/%61", "/p": "/", "/p?x": "/?x", "/p/": "/", "/p//a": "//a",
		"/p/a;b=%C3%A9": "/a;b=%C3%A9", "/%70/a%2Fb": "/a%2Fb", "/p%2Fa": "/a", "http://h/p/a%2Fb": "/a%2Fb", "/p?": "/?", "/p/a?": "/a?", "/p/a?b?": "/a?b?",
		"http://h/p?": "/?", "http://u@h/%70/%2f%2F?": "/%2f%2F?", "http://h/p/?a#b": "/?a", "/p/a://b": "/a://b", "/p/\x80\"<": "/\x80\"<", "/p/a#b": "/a", "/p/%25": "/%25"} {
		t.Run("the target "+raw, func(t *testing.T) {
			addr, got := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", nil)
			ask(t, through(t, addr).addr, "GET "+raw+" HTTP/1.0\r\n\r\n")
			if !strings.HasPrefix(got.String(), "GET "+want+" HTTP/1.0\r\n") {
				t.Errorf("upstream got %q", got)
			}
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		addr, _ := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", nil)
		reply := ask(t, through(t, addr).addr, "HEAD /p HTTP/1.0\r\n\r\n")
		if got := ourHeaders.ReplaceAllString(reply, ""); got != ok200+"Content-Length: 5\r\n\r\n" {
			t.Errorf("got %q", got)
		}
	})
	for _, c := range []struct{ name, answer, want string }{
		{"it stalls before its head", "HTTP/1.0 200", "504"},
		{"it stays after an empty body", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "200"},
		{"it stalls before its body", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", "504"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, _ := fake(t, c.answer, func(c net.Conn) { io.Copy(io.Discard, c) })
			reply := ask(t, through(t, addr).addr, "GET /p HTTP/1.0\r\n\r\n")
			if !strings.HasPrefix(reply, "HTTP/1.0 "+c.want) {
				t.Errorf("got %q", reply)
			}
		})
	}
	t.Run("a head that comes a byte at a time", func(t *testing.T) {
		addr, _ := fake(t, "HTTP/1.0 200 OK\r\nX: ", func(c net.Conn) {
			for err := error(nil); err == nil; time.Sleep(50 * time.Millisecond) {
				_, err = c.Write([]byte("x"))
			}
		})
		(row{chapter: "ch13", want: "504"}).check(t, ask(t, through(t, addr).addr, "GET /p HTTP/1.0\r\n\r\n"))
	})
	t.Run("a body that comes a byte at a time", func(t *testing.T) {
		addr, _ := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n", func(c net.Conn) {
			for range 10 { // longer than any of its pieces may take
				time.Sleep(50 * time.Millisecond)
				c.Write([]byte("x"))
			}
		})
		if reply := ask(t, through(t, addr).addr, "GET /p HTTP/1.0\r\n\r\n"); !strings.HasSuffix(reply, "\r\n\r\nxxxxxxxxxx") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("it stalls in its body", func(t *testing.T) {
		addr, _ := fake(t, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabc", func(c net.Conn) { io.Copy(io.Discard, c) })
		s := through(t, addr)
		reply := ask(t, s.addr, "GET /p HTTP/1.0\r\n\r\n")
		if got := ourHeaders.ReplaceAllString(reply, ""); got != ok200+"Content-Length: 5\r\n\r\nabc" {
			t.Errorf("got %q", reply)
		}
		if s.stop(); !strings.Contains(s.errors.String(), "the answer broke off: ") {
			t.Errorf("the log is %q", s.errors)
		}
	})
	t.Run("in turn, past one that refuses", func(t *testing.T) {
		one, _ := fake(t, "HTTP/1.0 200 OK\r\n\r\n1", nil)
		two, _ := fake(t, "HTTP/1.0 200 OK\r\n\r\n2", nil)
		s := through(t, one+","+freeAddr(t)+","+two)
		counts := map[string]int{}
		for range 9 {
			reply := ask(t, s.addr, "GET /p HTTP/1.0\r\n\r\n")
			counts[reply[len(reply)-1:]]++
		}
		if counts["1"] != 3 || counts["2"] != 6 { // the one after the refusing takes its turn
			t.Errorf("got %v", counts)
		}
		if reply := ask(t, through(t, freeAddr(t)).addr, "GET /p HTTP/1.0\r\n\r\n"); !strings.HasPrefix(reply, "HTTP/1.0 502") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("bodies both ways, block by block", func(t *testing.T) {
		upstream := start(t, echo)
		big := strings.Repeat("0123456789", 1<<19)
		s := through(t, upstream.addr)
		reply := exchangeWith(t, s.addr, row{send: strings.Replace(post(big, "Content-Length: 5242880"), " / ", " /p ", 1)}, 1<<16)
		if !strings.HasSuffix(reply, "\r\n\r\n"+big) {
			t.Errorf("got %d bytes", len(reply))
		}
		seen := make(chan bool)
		slow := start(t, func(environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", nil)
			return Stream(func(yield func([]byte) bool) {
				yield([]byte("first\n"))
				<-seen
			})
		})
		c := dial(t, through(t, slow.addr).addr)
		io.WriteString(c, "GET /p HTTP/1.0\r\n\r\n")
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if lines.Text() == "first" {
				close(seen)
				return
			}
		}
		t.Error("the first block did not come before the second was made")
		close(seen)
	})
}

// TestApplicationRows, TestHostRows and TestProxyRows hold ours to the last tables of
// docs/conformance.md, through the checker.
func TestApplicationRows(t *testing.T) {
	s := start(t, must(choose(applications(Config{Root: "docs"}), "gallery", "", false))(t))
	checkEdges(t, 7, "gateway", s.addr)
	checkEdges(t, 10, "applications", s.addr)
}

func TestHostRows(t *testing.T) {
	if runtime.GOOS == "windows" {
		skip(t, "the programs are for a Unix shell")
	}
	dir := t.TempDir()
	s := start(t, newCGI(dir, 10*time.Second, 0))
	checkEdges(t, 30, "host", "http://"+s.addr+"/", dir)
}

func TestProxyRows(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	upstream := l.Addr().String()
	l.Close() // the checker listens there
	checkEdges(t, 34, "proxy", start(t, newProxy(upstream, 10*time.Second)).addr, upstream)
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
		t.Run(r.Name, func(t *testing.T) {
			if r.Outcome != "passes" {
				t.Errorf("%s: %s; given %q", r.Outcome, r.Fault, r.Send)
			}
		})
	}
}

// TestForm shows what becomes of query strings, bodies and files, whole and broken.
func TestForm(t *testing.T) {
	s := start(t, form)
	multi := func(parts ...string) string {
		content := ""
		for _, part := range parts {
			content += "--B\r\n" + part + "\r\n"
		}
		content += "--B--\r\n"
		return post(content, "Content-Type: multipart/form-data; boundary=B", fmt.Sprint("Content-Length: ", len(content)))
	}
	coded := func(content string) string {
		return post(content, "Content-Type: application/x-www-form-urlencoded", fmt.Sprint("Content-Length: ", len(content)))
	}
	const name = "Content-Disposition: form-data; name=\"n\"\r\n\r\n"
	for _, c := range []struct{ name, send, want, has string }{
		{"nothing", get(), "200", "</th></tr>\n</table>"},
		{"a query", "GET /?b=2&a=%3Cb%3E&a=+ HTTP/1.0\r\n\r\n", "200",
			"<td>query</td><td>b</td><td>2</td></tr>\n<tr><td>query</td><td>a</td><td>&lt;b&gt;</td></tr>\n<tr><td>query</td><td>a</td><td> </td>"},
		{"a broken query", "GET /?a=%zz HTTP/1.0\r\n\r\n", "400", "invalid URL escape"},
		{"a body", coded("x=%ED%95%9C&y=1"), "200", "<td>body</td><td>x</td><td>한</td>"},
		{"another charset", post("x=%E9", "Content-Length: 5", "Content-Type: application/x-www-form-urlencoded; charset=latin1"),
			"415", "expected a form in UTF-8"},
		{"UTF-8, and it says so", post("x=%E9", "Content-Length: 5",
			"Content-Type: application/x-www-form-urlencoded; charset=UTF-8"), "200", "<td>\uFFFD</td>"},
		{"a long name", multi("Content-Disposition: form-data; name=\"" + strings.Repeat("n", partHead) + "\"\r\n\r\n1"), "413",
			"the head of a part may have 2048 bytes"},
		{"10,001 fields", coded(strings.Repeat("a&", formFields) + "a"), "413", "a form may have 10000 fields"},
		{"10,000 fields", coded(strings.Repeat("a&", formFields-1) + "a"), "200", "<td>a</td>"},
		{"10,001 fields in the query", "GET /?" + strings.Repeat("a&", formFields) + "a HTTP/1.0\r\n\r\n", "413",
			"a form may have 10000 fields"},
		{"a body that is not UTF-8", coded("x=%FF<"), "200", "<td>\uFFFD&lt;</td>"},
		{"a broken body", coded("%"), "400", "invalid URL escape"},
		{"a body too large", coded(strings.Repeat("x", formBytes+1)), "413", "send files as multipart"},
		{"a body as large as can be", coded(strings.Repeat("x", formBytes)), "200", "xxxx"},
		{"parts", multi(name+"v<", name+"w"), "200", "<td>part</td><td>n</td><td>v&lt;</td></tr>\n<tr><td>part</td><td>n</td><td>w</td>"},
		{"a file", multi("Content-Disposition: form-data; name=\"f\"; filename=\"<a>.txt\"\r\nContent-Type: text/x\r\n\r\n" + strings.Repeat("z", 5000)),
			"200", "<td>the file &lt;a&gt;.txt, 5000 bytes of text/x</td>"},
		{"a long part", multi(name + strings.Repeat("z", 1001)), "200", strings.Repeat("z", 1000) + "…</td>"},
		{"too many parts", multi(slices.Repeat([]string{name}, formParts+1)...), "413", "a form may have 1000 parts"},
		{"a query that is not one", "GET /?a=%<b HTTP/1.0\r\n\r\n", "400", `invalid URL escape \"%\x3cb\"`},
		{"a part with a line that is not a header", multi("<script>\r\n\r\nx"), "400", "a part cannot be read"},
		{"other header fields", multi("X-A: " + strings.Repeat("a", partHead-100) + "\r\n" + name + "v"), "200", "<td>n</td><td>v</td>"},
		{"too many of them", multi("X-A: " + strings.Repeat("a", 1<<20) + "\r\n" + name + "v"), "413", "the head of a part may have 2048 bytes"},
		{"too many of them in the second part", multi(name+strings.Repeat("v", 1<<20), "X-A: "+strings.Repeat("a", 1<<20)+"\r\n"+name+"v"), "413",
			"the head of a part may have 2048 bytes"},
		{"parts without an end", post("--B\r\n"+name+"v", "Content-Type: multipart/form-data; boundary=B",
			fmt.Sprint("Content-Length: ", 5+len(name)+1)), "400", "a part cannot be read"},
		{"parts without a boundary", post("x", "Content-Type: multipart/form-data", "Content-Length: 1"), "400", "a part cannot be read"},
		{"another kind of body", post("x", "Content-Type: text/plain", "Content-Length: 1"), "200", "</th></tr>\n</table>"},
		{"semicolons", coded("a;b=c;d&&;&=e"), "200", "<td>a;b</td><td>c;d</td></tr>\n<tr><td>body</td><td>;</td><td></td></tr>\n" +
			"<tr><td>body</td><td></td><td>e</td>"},
		{"a type that cannot be read", post("x", "Content-Type: multipart/", "Content-Length: 1"), "400", "expected a Content-Type like"},
		{"a type with a parameter that cannot be read", post("a=b", "Content-Type: application/x-www-form-urlencoded; charset", "Content-Length: 3"), "400", "expected a Content-Type like"},
		{"a part without a name", multi("Content-Disposition: form-data\r\n\r\nx"), "400", "expected one Content-Disposition"},
		{"a part with an empty name", multi("Content-Disposition: form-data; name=\"\"\r\n\r\nx"), "200", "<td></td><td>x</td>"},
		{"a part that is an attachment", multi("Content-Disposition: attachment; name=\"n\"\r\n\r\nx"), "400", "expected one Content-Disposition"},
		{"a part with two names", multi("Content-Disposition: form-data; name=\"n\"; name=\"m\"\r\n\r\nx"), "400", "expected one Content-Disposition"},
		{"a part with two dispositions", multi("Content-Disposition: form-data; name=\"n\"\r\n" + name + "x"), "400", "expected one Content-Disposition"},
		{"a part with name* alone", multi("Content-Disposition: form-data; name*=UTF-8''n\r\n\r\nx"), "400", "expected one Content-Disposition"},
		{"filename* first", multi("Content-Disposition: form-data; filename*=UTF-8''evil; name=\"n\"; filename=\"a\"\r\n\r\nx"), "200", "the file a, 1 bytes"},
		{"filename* alone", multi("Content-Disposition: form-data; name=\"n\"; FileName*0*=UTF-8''evil\r\n\r\nx"), "200", "<td>n</td><td>x</td>"},
		{"filename* inside a name", multi("Content-Disposition: form-data; name=\"a;filename*=\\\"b\"; filename=\"c\"\r\n\r\nx"), "200",
			"<td>a;filename*=&#34;b</td><td>the file c, 1 bytes"},
		{"a part in base64", multi("Content-Transfer-Encoding: base64\r\n" + name + "eA=="), "200", "<td>eA==</td>"},
		{"a part in quoted-printable", multi("Content-Transfer-Encoding: quoted-printable\r\n" + name + "=41="), "200", "<td>=41=</td>"},
		{"the closing delimiter alone", post("--B--", "Content-Type: multipart/form-data; boundary=B", "Content-Length: 5"), "400", "a part cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reply := exchangeWith(t, s.addr, row{send: c.send}, 1<<20)
			status, _, content := splitReply(t, reply)
			if status[:3] != c.want || !strings.Contains(content, c.has) {
				t.Errorf("expected %s with %q, got %s", c.want, c.has, reply)
			}
			if c.want != "200" && strings.Contains(content, "<") {
				t.Errorf("a refusal that could be HTML: %s", content)
			}
		})
	}
	var manyFields strings.Builder
	for n := 0; manyFields.Len() < partHead-100; n++ {
		fmt.Fprintf(&manyFields, "%x:\n", n)
	}
	for what, head := range map[string]string{"a field that goes on": "X-A: " + strings.Repeat("a", 1<<20),
		"a field that is just not too long": "X-A: " + strings.Repeat("a", partHead-100),
		"many fields":                       manyFields.String()} {
		t.Run("200 clients that wait in the head of a part: "+what, func(t *testing.T) {
			before := memoryInUse()
			var waiting, all sync.WaitGroup
			leave := make(chan bool)
			for range 200 {
				waiting.Add(1)
				arrived := sync.OnceFunc(waiting.Done) // at the end of the bytes, or when it is refused
				all.Add(1)
				go func() {
					defer all.Done()
					defer arrived()
					defer func() { recover() }() // the refusal is for other tests
					callApplication(form, Environ{"CONTENT_TYPE": "multipart/form-data; boundary=B",
						"wsgi.input": io.MultiReader(strings.NewReader("--B\r\n"+head), readerFunc(func([]byte) (int, error) {
							arrived()
							<-leave
							return 0, io.EOF
						}))})
				}()
			}
			waiting.Wait()
			if used := int64(memoryInUse()) - int64(before); used > 64<<20 {
				t.Errorf("they hold %d MiB", used>>20)
			} else {
				t.Logf("they hold %d MiB", used>>20)
			}
			close(leave)
			all.Wait()
		})
	}
	t.Run("a form that ends anywhere before its closing delimiter", func(t *testing.T) {
		whole := "--B\r\n" + name + "one\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n" +
			"Content-Type: a/b\r\n\r\n\r\n--A\r\n--B\r\n" + name + "\r\n--B--"
		for n := range len(whole) + 1 {
			func() {
				defer func() {
					refusal, _ := recover().(*Refusal)
					if n == len(whole) != (refusal == nil) || refusal != nil && refusal.Status != badRequest {
						t.Errorf("cut at %d, after %q: %v", n, whole[max(0, n-20):n], refusal)
					}
				}()
				callApplication(form, Environ{"CONTENT_TYPE": "multipart/form-data; boundary=B", "wsgi.input": strings.NewReader(whole[:n])})
			}()
		}
	})
	t.Run("a part cut short", func(t *testing.T) {
		reply := exchangeWith(t, s.addr, row{how: "then end", send: post("--B\r\n"+name+"v",
			"Content-Type: multipart/form-data; boundary=B", "Content-Length: 1000")}, 1<<20)
		if !strings.HasPrefix(reply, "HTTP/1.0 400") || !strings.Contains(reply, "expected 1000 body bytes") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("a form that never ends", func(t *testing.T) {
		s := start(t, form, short)
		reply := ask(t, s.addr, post("--B\r\n"+name+"v", "Content-Type: multipart/form-data; boundary=B",
			"Content-Length: 1000"))
		if !strings.HasPrefix(reply, "HTTP/1.0 408") {
			t.Errorf("got %q", reply)
		}
	})
	t.Run("a large file is not held in memory", func(t *testing.T) {
		const size = 256 << 20
		head := "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\n"
		tail := "\r\n--B--\r\n"
		body := io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, size), strings.NewReader(tail))
		before := totalAlloc()
		_, _, page := callApplication(form, Environ{"REQUEST_METHOD": "POST", "wsgi.input": body,
			"CONTENT_TYPE": "multipart/form-data; boundary=B"})
		if used := totalAlloc() - before; used > 8<<20 || !strings.Contains(string(page), "268435456 bytes") {
			t.Errorf("allocated %d bytes: %s", used, page)
		}
	})
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("secret", "hidden")
	write("root/a.txt", "text")
	write("root/b.html", "<p>")
	write("root/c.unknown", "data")
	write("root/sub/d & e.md", "# d")
	write("root/with/index.html", "index")
	write("root/empty", "")
	for link, target := range map[string]string{"out": "../secret", "abs": "/etc/passwd", "in": "a.txt"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			skip(t, fmt.Sprint("this system has no symbolic links: ", err))
		}
	}
	then := time.Date(2020, 2, 3, 4, 5, 6, 7, time.UTC)
	os.Chtimes(filepath.Join(root, "a.txt"), then, then)
	s := start(t, mount(map[string]Application{"/f": newFiles(root)}, hello))
	for _, c := range []struct{ name, line, want, has string }{
		{"a text", "GET /f/a.txt", "200", "Content-Type: text/plain; charset=utf-8\r\n"},
		{"its date", "GET /f/a.txt", "200", "Last-Modified: Mon, 03 Feb 2020 04:05:06 GMT\r\n"},
		{"a page", "GET /f/b.html", "200", "Content-Type: text/html; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 3\r\n\r\n<p>"},
		{"unknown", "GET /f/c.unknown", "200", "application/octet-stream"},
		{"empty", "GET /f/empty", "200", "Content-Length: 0\r\n\r\n"},
		{"HEAD", "HEAD /f/a.txt", "200", "Content-Length: 4\r\n\r\n"},
		{"a link inside", "GET /f/in", "200", "text"},
		{"a list", "GET /f/sub/", "200", `<a href="./d%20&amp;%20e.md">d &amp; e.md</a>`},
		{"the title of a list", "GET /f/sub/", "200", "<h1>/sub/</h1>"},
		{"the root's list", "GET /f/", "200", `<a href="./sub/">sub/</a>`},
		{"an index page", "GET /f/with/", "200", "\r\n\r\nindex"},
		{"a directory without its slash", "GET /f/sub?q=1", "301", "Location: http://127.0.0.1:80/f/sub/?q=1\r\n"},
		{"the root without its slash", "GET /f", "301", "/f/\r\n"},
		{"a file with a slash", "GET /f/a.txt/", "404", ""},
		{"missing", "GET /f/nothing", "404", ""},
		{"POST", "POST /f/a.txt", "405", "Allow: GET, HEAD\r\n"},
		{"a way out", "GET /f/../secret", "404", ""},
		{"a longer way out", "GET /f/sub/../../secret", "404", ""},
		{"an escaped way out", "GET /f/..%2fsecret", "404", ""},
		{"a backslash", "GET /f/..%5csecret", "404", ""},
		{"a link out", "GET /f/out", "404", ""},
		{"an absolute link", "GET /f/abs", "404", ""},
		{"an absolute path", "GET /f//etc/passwd", "404", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			reply := ask(t, s.addr, c.line+" HTTP/1.0\r\nHost: 127.0.0.1:80\r\n\r\n")
			if status, _, _ := splitReply(t, reply); status[:3] != c.want || !strings.Contains(reply, c.has) ||
				strings.Contains(reply, "hidden") || strings.Contains(reply, "root:") {
				t.Errorf("expected %s with %q, got %q", c.want, c.has, reply)
			}
		})
	}
	t.Run("a list has what can be served", func(t *testing.T) {
		if l, err := net.Listen("unix", filepath.Join(root, "socket")); err == nil {
			defer l.Close()
		}
		reply := ask(t, s.addr, "GET /f/ HTTP/1.0\r\n\r\n")
		items := regexp.MustCompile(`href="\./([^"]*)"`).FindAllStringSubmatch(reply, -1)
		got := ""
		for _, item := range items {
			got += item[1] + " "
		}
		if got != "a.txt b.html c.unknown empty in sub/ with/ " {
			t.Errorf("the list has %s", got)
		}
	})
	t.Run("a pipe in place of a file", func(t *testing.T) { // which it becomes after it has been looked at
		pipes := t.TempDir()
		if err := exec.Command("mkfifo", filepath.Join(pipes, "p"), filepath.Join(pipes, "index.html")).Run(); err != nil {
			skip(t, "this system has no mkfifo")
		}
		root := must(os.OpenRoot(pipes))(t)
		defer root.Close()
		opened := make(chan error)
		go func() {
			_, _, err := openFile(root, "p")
			opened <- err
		}()
		if err := wait(t, "a pipe that nobody writes to", opened); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
		addr := start(t, newFiles(pipes)).addr
		(row{chapter: "ch10", want: "404"}).check(t, ask(t, addr, getPath("/p")))
		if reply := ask(t, addr, get()); !strings.Contains(reply, "<ul>\n</ul>") {
			t.Errorf("the list is %q", reply)
		}
	})
	t.Run("a directory that is removed while it is listed", func(t *testing.T) {
		gone := filepath.Join(t.TempDir(), "gone")
		if err := os.Mkdir(gone, 0o700); err != nil {
			t.Fatal(err)
		}
		root := must(os.OpenRoot(gone))(t)
		defer root.Close()
		directory := must(root.Open("."))(t)
		defer directory.Close()
		if os.Remove(gone) != nil || runtime.GOOS != "linux" {
			skip(t, "an open directory cannot be removed here, or is empty then")
		}
		if _, err := listDirectory(root, ".", directory, Environ{}, nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("names with control characters", func(t *testing.T) {
		odd := t.TempDir()
		for _, name := range []string{"a\nb", "c\x7f", "d\te", "ok"} {
			if err := os.WriteFile(filepath.Join(odd, name), nil, 0o600); err != nil {
				skip(t, fmt.Sprint("no such name here: ", err))
			}
		}
		reply := ask(t, start(t, newFiles(odd)).addr, get())
		if !strings.Contains(reply, "<ul>\n<li><a href=\"./ok\">ok</a></li>\n</ul>") {
			t.Errorf("the list is %q", reply)
		}
	})
	t.Run("years of two digits", func(t *testing.T) {
		for year := range 100 {
			date, err := parseDate(fmt.Sprintf("Monday, 03-Feb-%02d 04:05:06 GMT", year))
			limit := time.Now().AddDate(50, 0, 0)
			if err != nil || date.Year()%100 != year || date.After(limit) || !date.AddDate(100, 0, 0).After(limit) {
				t.Errorf("%02d is %v, %v", year, date, err)
			}
		}
	})
	for query, want := range map[string]string{"": "", "?": "", "?a=b&c": "?a=b&c", "?\x80\"": "?%80%22", "?%": "?%25",
		"?%4": "?%254", "?%41": "?%41", "?[|]": "?%5B%7C%5D", "?a?b/c:d@e": "?a?b/c:d@e"} {
		reply := ask(t, s.addr, "GET /f/sub"+query+" HTTP/1.0\r\nHost: h\r\n\r\n")
		if !strings.Contains(reply, "\r\nLocation: http://h/f/sub/"+want+"\r\n") {
			t.Errorf("%s: got %q", query, reply)
		}
	}
	t.Run("a name in Latin-1", func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(dir, "caf\xe9"), 0o700); err != nil {
			t.Skip("this file system wants UTF-8: ", err)
		}
		if runtime.GOOS == "windows" {
			t.Skip("names are UTF-16 on Windows")
		}
		reply := ask(t, start(t, newFiles(dir)).addr, "GET /caf%E9/ HTTP/1.0\r\n\r\n")
		list := ask(t, start(t, newFiles(dir)).addr, get())
		if strings.ToValidUTF8(reply, "") != reply || !strings.Contains(reply, "<h1>/caf\uFFFD/</h1>") ||
			!strings.Contains(list, "<a href=\"./caf%E9/\">caf\uFFFD/</a>") {
			t.Errorf("got %q and %q", reply, list)
		}
	})
	for err, want := range map[error]string{os.ErrNotExist: "404", syscall.ENOTDIR: "404", errors.New("path escapes"): "404",
		syscall.EACCES: "403", syscall.EPERM: "403", syscall.EMFILE: "503", syscall.ENFILE: "503"} {
		t.Run("why a file is not served: "+err.Error(), func(t *testing.T) {
			var log bytes.Buffer
			cannotServe(Environ{"wsgi.errors": &log}, func(status string, headers []Header, _ ...error) io.Writer {
				if _, retry := lookup(headers, "Retry-After"); status[:3] != want || (want == "503") != (retry == 1) {
					t.Errorf("expected %s, got %s %v", want, status, headers)
				}
				return nil
			}, &os.PathError{Op: "open", Path: "a", Err: err})
			if (want == "503") != strings.Contains(log.String(), "open a: "+err.Error()) {
				t.Errorf("the log is %q", &log)
			}
		})
	}
	t.Run("permission", func(t *testing.T) {
		if os.Geteuid() <= 0 {
			t.Skip("root may read everything")
		}
		write("root/private", "hidden")
		if err := os.Chmod(filepath.Join(root, "private"), 0); err != nil {
			t.Fatal(err)
		}
		(row{want: "403"}).check(t, ask(t, s.addr, "GET /f/private HTTP/1.0\r\n\r\n"))
	})
	t.Run("the rule of an answer that breaks off", func(t *testing.T) {
		for err, want := range map[error]string{os.ErrDeadlineExceeded: "504 Gateway Timeout\n\nthe answer broke off: i/o timeout\nRFC 9110 §15.6.5\n",
			incomplete(io.EOF, "", "expected 3 body bytes, got 1"): "502 Bad Gateway\n\nthe answer broke off: " +
				"expected 3 body bytes, got 1: unexpected EOF (RFC 9112 §8)\nRFC 9110 §15.6.3\n"} {
			_, err := (upstreamBody{Reader: readerFunc(func([]byte) (int, error) { return 0, err })}).Read(nil)
			if got := string(err.(*Refusal).page()); got != want {
				t.Errorf("expected %q, got %q", want, got)
			}
		}
	})
	t.Run("descriptors for a program or an upstream", func(t *testing.T) {
		for name, err := range map[string]error{"pipe": os.NewSyscallError("pipe2", syscall.EMFILE),
			"fork":   &os.PathError{Op: "fork/exec", Path: "a", Err: syscall.EMFILE},
			"socket": fmt.Errorf("no upstream answers: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.ENFILE)})} {
			var log bytes.Buffer
			badGateway(Environ{"wsgi.errors": &log}, func(status string, headers []Header, _ ...error) io.Writer {
				if status != "503 Service Unavailable" {
					t.Errorf("%s: got %s", name, status)
				}
				return nil
			}, err)
			if !strings.HasPrefix(log.String(), "503: ") {
				t.Errorf("%s: the log is %q", name, &log)
			}
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		if _, err := exec.LookPath("sh"); err != nil || runtime.GOOS == "windows" {
			t.Skip("needs ulimit: ", err)
		}
		program, addr, log := startCommand(t, exec.Command("sh", "-c", `ulimit -n 40 && exec "$0" "$@"`,
			os.Args[0], "-addr", "127.0.0.1:0", "-app", "files", "-root", root, "-quiet", "-timeout", "1m"))
		var idle []net.Conn
		for range 60 {
			c := dial(t, addr)
			must(io.WriteString(c, "GET /a.txt HTTP/1.0\r\n"))(t)
			idle = append(idle, c)
		}
		eventually(t, "a word about it", func() bool { return strings.Contains(log.String(), "cannot accept") })
		io.WriteString(idle[0], "\r\n")
		(row{want: "503"}).check(t, string(must(io.ReadAll(idle[0]))(t)))
		eventually(t, "a line in the log", func() bool { return strings.Contains(log.String(), "too many open files") })
		program.Process.Kill()
		program.Wait() // says that it was killed
	})
	t.Run("fewer and fewer descriptors", func(t *testing.T) { // a whole answer, or 503
		if runtime.GOOS == "windows" {
			t.Skip("needs ulimit")
		}
		index, list := t.TempDir(), t.TempDir()
		os.WriteFile(filepath.Join(index, "index.html"), []byte("the page"), 0o600)
		os.MkdirAll(filepath.Join(list, "a", "b"), 0o700)
		os.Symlink(filepath.Join("a", "b"), filepath.Join(list, "link"))
		for directory, whole := range map[string]string{index: "the page", list: `"./link/"`} {
			program, addr, _ := startCommand(t, exec.Command("sh", "-c", `ulimit -n 40 && exec "$0" "$@"`,
				os.Args[0], "-addr", "127.0.0.1:0", "-app", "files", "-root", directory, "-timeout", "1m"))
			for range 40 {
				reply := ask(t, addr, get())
				if status, _, _ := splitReply(t, reply); status[:3] == "503" {
					break
				} else if !strings.Contains(reply, whole) {
					t.Fatalf("expected %q, got %q", whole, reply)
				}
				must(io.WriteString(dial(t, addr), "GET "))(t) // one descriptor less
			}
			program.Process.Kill()
			program.Wait() // says that it was killed
		}
	})
	for since, want := range map[string]string{"Mon, 03 Feb 2020 04:05:06 GMT": "304",
		"Mon, 03 Feb 2020 04:05:07 GMT": "304", "Mon, 03 Feb 2020 04:05:05 GMT": "200",
		"Monday, 03-Feb-20 04:05:06 GMT": "304", "Mon Feb  3 04:05:06 2020": "304", "Mon Feb  3 04:05:05 2020": "200",
		"Fri, 01 Jan 2100 00:00:00 GMT": "200", "Mon, 03 Feb 2020 04:05:06 GMT\r\nIf-None-Match: \"x\"": "200",
		"yesterday": "200", "": "200"} {
		reply := ask(t, s.addr, "GET /f/a.txt HTTP/1.0\r\nIf-Modified-Since: "+since+"\r\n\r\n")
		if status, _, _ := splitReply(t, reply); status[:3] != want {
			t.Errorf("since %q: expected %s, got %q", since, want, reply)
		}
	}
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "root", "a.txt"), future, future); err != nil {
		t.Fatal(err)
	}
	reply := ask(t, s.addr, "GET /f/a.txt HTTP/1.0\r\n\r\n")
	date := regexp.MustCompile(`\nLast-Modified: (.*)\r\n`).FindStringSubmatch(reply)
	if modified, err := time.Parse(httpDate, date[1]); err != nil || modified.After(time.Now()) {
		t.Errorf("modified in the future: %q", reply)
	}
	if reply := ask(t, start(t, newFiles(filepath.Join(dir, "none"))).addr, get()); !strings.HasPrefix(reply, "HTTP/1.0 404") {
		t.Errorf("without a root: %q", reply)
	}
}

// TestUpper shows M02, M03 and M04.
func TestUpper(t *testing.T) {
	text := append(contentLength("6"), textPlain...)
	for _, c := range []appCase{
		{name: "M02 M03 M04 plain text", app: closes("200 OK", text, stream("abc", "é\xff")), closes: 1, log: "Close's error",
			want: ok200 + "Content-Type: text/plain; charset=utf-8\r\n\r\nABCé\xff"},
		{name: "M04 another type is left alone", app: returns("200 OK", []Header{{"Content-Type", "text/html"}, {"Content-Length", "3"}}, stream("<p>")),
			want: ok200 + "Content-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>"},
		{name: "M04 text that is coded", app: returns("200 OK", []Header{{"Content-Type", "text/plain"}, {"Content-Encoding", "gzip"}}, stream("abc")),
			want: ok200 + "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\nabc"},
		{name: "M04 a type in capitals", app: returns("200 OK", []Header{{"Content-Type", "Text/Plain"}}, stream("abc")),
			want: ok200 + "Content-Type: Text/Plain\r\n\r\nABC"},
		{name: "M04 what is written", want: ok200 + "Content-Type: text/plain; charset=utf-8\r\n\r\nABCDEF",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				io.WriteString(startResponse("200 OK", textPlain), "abc")
				return Blocks{[]byte("def")}
			}},
		{name: "M04 startResponse in the first iteration", want: ok200 + "Content-Type: text/plain; charset=utf-8\r\n\r\nHELLO FROM AN OBJECT'S METHOD ALL\n",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				return class(environ, startResponse)
			}},
		{name: "M05 excInfo is passed on", want: "HTTP/1.0 503 Sorry\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nX",
			app: func(p *probe, environ Environ, startResponse StartResponse) Body {
				startResponse("200 OK", textPlain)
				startResponse("503 Sorry", textPlain, errors.New("changed"))
				return Blocks{[]byte("x")}
			}},
		{name: "M03 Close after a panic", app: closes("200 OK", text, stream("panic")), closes: 1, want: "500", log: "the block failed"},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, upper) })
	}
	blocks := 0 // M02: one block out for each block in
	inner := func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", textPlain)
		return stream("a", "", "b")
	}
	environ := Environ{}
	setTestingDefaults(environ)
	for range upper(inner)(environ, func(string, []Header, ...error) io.Writer { return io.Discard }).All() {
		blocks++
	}
	if blocks != 3 {
		t.Errorf("%d blocks", blocks)
	}
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
	content, err := io.ReadAll(client)
	reply := string(content)
	if isReset(err) != c.cut || !c.cut && err != nil {
		t.Errorf("after %d bytes: %v", len(reply), err)
	}
	s.stop()
	c.check(t, reply, s.errors.String())
	if p.calls.Load() != 1 || p.closes.Load() != c.closes { // C01, C02
		t.Errorf("called %d times, closed %d times", p.calls.Load(), p.closes.Load())
	}
	if n := strings.Count(s.access.String(), "\n"); n != 1 { // C10
		t.Errorf("%d lines in the access log", n)
	}
}

func TestCatch(t *testing.T) {
	page := "HTTP/1.0 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
	for name, app := range map[string]func(*probe, Environ, StartResponse) Body{
		"in the call":            func(*probe, Environ, StartResponse) Body { panic("oh no") },
		"in the first iteration": returns("200 OK", textPlain, Stream(func(func([]byte) bool) { panic("oh no") })),
		"after an empty block": returns("200 OK", textPlain, Stream(func(yield func([]byte) bool) {
			yield(nil)
			panic("oh no")
		})),
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, catch(func(environ Environ, startResponse StartResponse) Body {
				environ["REMOTE_ADDR"] = environ.Get("HTTP_FROM")
				return app(nil, environ, startResponse)
			}))
			near := ask(t, s.addr, get("From: ::1"))
			far := ask(t, s.addr, get("From: 192.0.2.1"))
			proxied := ask(t, s.addr, get("From: ::1", "X-Forwarded-For: 192.0.2.1"))
			if near = ourHeaders.ReplaceAllString(near, ""); !strings.HasPrefix(near, page) ||
				!strings.Contains(near, "The application failed: oh no (set") || !strings.Contains(near, "\tserver_test.go:") {
				t.Errorf("near: %q", near)
			}
			if far = ourHeaders.ReplaceAllString(far, ""); !strings.HasPrefix(far, page) ||
				!strings.HasSuffix(far, "\r\n\r\nThe application failed.\n") {
				t.Errorf("far: %q", far)
			}
			if strings.Contains(proxied, "oh no") {
				t.Errorf("proxied: %q", proxied)
			}
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
		defer func() {
			if reason := recover(); reason != "too late" {
				t.Errorf("it is %v", reason)
			}
		}()
		environ := Environ{}
		setTestingDefaults(environ)
		start := func(string, []Header, ...error) io.Writer { return io.Discard }
		for range catch(func(Environ, StartResponse) Body {
			return Stream(func(yield func([]byte) bool) {
				defer func() { panic("too late") }()
				yield([]byte("a"))
			})
		})(environ, start).All() {
			break
		}
	})
	for name, app := range map[string]Application{"in the call": write, "in the body": func(_ Environ, startResponse StartResponse) Body {
		out := startResponse("200 OK", textPlain)
		return Stream(func(func([]byte) bool) {
			if _, err := io.WriteString(out, "x"); err != nil {
				panic(fmt.Errorf("cannot go on: %w", err))
			}
		})
	}} {
		var log bytes.Buffer
		r := newResponse(&wire{fail: errors.New("the client has left")}, httpLine, "GET", &log)
		environ := Environ{"wsgi.errors": &log}
		setTestingDefaults(environ)
		if run(catch(app), environ, &r); log.Len() > 0 {
			t.Errorf("a client that leaves %s is no failure of the application: the log is %s", name, &log)
		}
	}
	_, log := runOn(&wire{}, catch(func(Environ, StartResponse) Body { return stream("x") }))
	if strings.Count(log, "startResponse must be called before") != 1 || strings.Contains(log, "catch:") {
		t.Errorf("a block without startResponse: the log is %s", log)
	}
}

func TestAuth(t *testing.T) {
	s := start(t, auth(showEnviron))
	for header, want := range map[string]string{
		"":                                       "401",
		"Authorization: Basic cmVhZGVyOndzZ2k=":  "200", // reader:wsgi
		"Authorization: bASIC cmVhZGVyOndzZ2k=":  "200",
		"Authorization: Basic cmVhZGVyOndzZ2o=":  "401",
		"Authorization: Basic cmVhZGVyOndzZ2k":   "401",
		"Authorization: Basic":                   "401",
		"Authorization: Digest cmVhZGVyOndzZ2k=": "401",
	} {
		request := get("X: y", header)
		if header == "" {
			request = get()
		}
		status, lines, content := splitReply(t, ask(t, s.addr, request))
		if status[:3] != want {
			t.Errorf("%q: %s", header, status)
		}
		if want == "401" && !slices.Contains(lines, `WWW-Authenticate: Basic realm="rawsgi", charset="UTF-8"`) {
			t.Errorf("%q: %q", header, lines)
		}
		if want == "200" && !strings.Contains(content, "\nREMOTE_USER: reader\n") {
			t.Errorf("%q: %q", header, content)
		}
	}
}

// TestValidate shows M07: each rule is named, with the side that breaks it.
func TestValidate(t *testing.T) {
	ok := Blocks{[]byte("x")}
	html := []Header{{"Content-Type", "text/html"}}
	for _, c := range []struct {
		name string
		app  func(*probe, Environ, StartResponse) Body
		want string
	}{
		{"nothing wrong", returns("200 OK", html, ok), ""},
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
		}, "application breaks a rule: write() is called before the body is iterated"},
		{"startResponse late", returns("200 OK", html, stream("", "x")), ""},
		{"no status", returns("200", html, ok), "application breaks a rule: expected a status"},
		{"no type", returns("200 OK", nil, ok), "application breaks a rule: 200 OK has a Content-Type"},
		{"a type with 204", returns("204 No Content", html, Blocks{}), "application breaks a rule: 204 No Content has no Content-Type"},
		{"a type with 205", returns("205 Reset Content", html, Blocks{}), "application breaks a rule: 205 Reset Content has no Content-Type"},
		{"205", returns("205 Reset Content", nil, Blocks{}), ""},
		{"a body with 205", returns("205 Reset Content", nil, stream("", "x")), "application breaks a rule: 205 Reset Content has no body"},
		{"a body with 304", returns("304 Not Modified", nil, ok), "application breaks a rule: 304 Not Modified has no body"},
		{"204 and an empty block", returns("204 No Content", nil, stream("", "")), ""},
		{"a body written with 204", func(_ *probe, _ Environ, startResponse StartResponse) Body {
			io.WriteString(startResponse("204 No Content", nil), "x")
			return Blocks{}
		}, "application breaks a rule: 204 No Content has no body"},
		{"an underscore", returns("200 OK", []Header{{"Content_Type", "a/b"}}, ok), "application breaks a rule: a header name with _"},
		{"a control character", returns("200 OK", []Header{{"X", "a\tb"}}, ok), "application breaks a rule: the value of X"},
		{"no body", returns("200 OK", html, nil), "application breaks a rule: it returns an iterable"},
		{"a wrong Len", returns("200 OK", html, lying{stream("x", "y")}), "application breaks a rule: Len is the number"},
		{"no startResponse", func(*probe, Environ, StartResponse) Body { return ok }, "application breaks a rule: startResponse is called before"},
		{"no startResponse, no block", func(*probe, Environ, StartResponse) Body { return Blocks{} }, "application breaks a rule: startResponse is called"},
		{"twice", func(p *probe, environ Environ, startResponse StartResponse) Body {
			startResponse("200 OK", html)
			startResponse("200 OK", html)
			return ok
		}, "application breaks a rule: a second call needs excInfo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, log := runOn(&wire{}, validate(func(environ Environ, startResponse StartResponse) Body {
				return c.app(nil, environ, startResponse)
			}))
			if c.want == "" && log != "" || !strings.Contains(log, c.want) {
				t.Errorf("expected %q, got %s", c.want, log)
			}
		})
	}
	for _, c := range []struct {
		key   string
		value any
	}{{"REQUEST_METHOD", ""}, {"SERVER_NAME", ""}, {"SERVER_PORT", "x"}, {"X", 1}, {"HTTP_CONTENT_TYPE", "a/b"},
		{"SCRIPT_NAME", "/"}, {"SCRIPT_NAME", "x"}, {"PATH_INFO", "x"}, {"wsgi.version", "1.0"}, {"wsgi.url_scheme", ""},
		{"wsgi.run_once", nil}, {"wsgi.errors", nil}, {"CONTENT_LENGTH", "-1"}} {
		t.Run(c.key, func(t *testing.T) {
			defer func() {
				if reason := fmt.Sprint(recover()); !strings.Contains(reason, "the gateway breaks a rule: ") || !strings.Contains(reason, c.key) {
					t.Errorf("got %s", reason)
				}
			}()
			environ := Environ{c.key: c.value}
			setTestingDefaults(environ)
			validate(hello)(environ, func(string, []Header, ...error) io.Writer { return io.Discard })
		})
	}
	for name, do := range map[string]func(b Body){
		"a body is iterated once": func(b Body) {
			for range 2 {
				for range b.All() {
				}
			}
		},
		"Close is called once": func(b Body) { b.(io.Closer).Close(); b.(io.Closer).Close() },
		"no block is asked for after Close": func(b Body) {
			b.(io.Closer).Close()
			for range b.All() {
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if reason := fmt.Sprint(recover()); !strings.Contains(reason, "the gateway breaks a rule: "+name) {
					t.Errorf("got %s", reason)
				}
			}()
			environ := Environ{}
			setTestingDefaults(environ)
			do(validate(hello)(environ, func(string, []Header, ...error) io.Writer { return io.Discard }))
		})
	}
}

// TestValidateEverything runs every row, and every application, with validate around it:
// our gateway and our applications keep the rules.
func TestValidateEverything(t *testing.T) {
	// validate hides Len, as wsgiref's validator does, so the application says how long it is.
	s := start(t, validate(func(e Environ, startResponse StartResponse) Body {
		var status string
		var headers []Header
		blocks := showEnviron(e, func(s string, h []Header, _ ...error) io.Writer {
			status, headers = s, h
			return io.Discard
		}).(Blocks)
		startResponse(status, append(contentLength(strconv.Itoa(len(blocks[0]))), headers...))
		return blocks
	}))
	holdToRows(t, "validate", s.addr)
	if s.stop(); strings.Contains(s.errors.String(), "validate:") {
		t.Errorf("the log says %s", s.errors)
	}
	for _, entry := range applications(Config{Root: "docs"}) {
		t.Run(entry.Name, func(t *testing.T) {
			if entry.Name == "clock" {
				entry.App = newClock(2, time.Millisecond)
			}
			s := start(t, validate(entry.App))
			for _, row := range allRows() {
				if len(row.send) < 70000 {
					exchangeWith(t, s.addr, row, len(row.send)+1) // what comes back is the application's own matter
				}
			}
			for _, request := range []string{get(), "HEAD / HTTP/1.0\r\n\r\n", post("a=b", "Content-Length: 3"),
				"GET /excinfo HTTP/1.0\r\n\r\n", "GET /README.md HTTP/1.0\r\n\r\n"} {
				ask(t, s.addr, request)
			}
			if s.stop(); strings.Contains(s.errors.String(), "validate:") {
				t.Errorf("the log says %s", s.errors)
			}
		})
	}
}

// TestNginxInFront runs docs/nginx.conf in front of us, over TCP and over a Unix socket.
func TestNginxInFront(t *testing.T) {
	long(t)
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		if nginx, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			skip(t, "needs nginx", "nginx-light")
		}
	}
	config := string(must(os.ReadFile("docs/nginx.conf"))(t))
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			dir, front := t.TempDir(), freeAddr(t)
			addr, pass := "127.0.0.1:0", "http://"
			if network == "unix" {
				addr, pass = "unix:"+dir+"/s", "http://unix:"
			}
			s := startOn(t, addr, showEnviron)
			text := strings.NewReplacer("127.0.0.1:8080", front, "http://127.0.0.1:8000", pass+s.addr).Replace(config)
			path := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			directives := "daemon off;"
			if os.Getuid() == 0 {
				directives += " user root;" // or its workers could not enter our directory
			}
			background(t, front, exec.Command(nginx, "-p", dir, "-c", path, "-g", directives))
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for range 3 { // over one connection of the client's
				reply := must(client.Post("http://"+front+"/a%20b?q=1", "text/x", strings.NewReader("abc")))(t)
				content := string(must(io.ReadAll(reply.Body))(t))
				reply.Body.Close()
				for _, want := range append(body("abc"), "PATH_INFO: /a b", "QUERY_STRING: q=1",
					"SERVER_PROTOCOL: HTTP/1.0", "HTTP_HOST: "+front, "HTTP_X_FORWARDED_FOR: 127.0.0.1") {
					if !slices.Contains(strings.Split(content, "\n"), want) {
						t.Errorf("no %q in %d %s", want, reply.StatusCode, content)
					}
				}
			}
			behind := start(t, newProxy(front, 10*time.Second)) // and nginx behind our proxy
			if reply := ask(t, behind.addr, get()); !strings.Contains(reply, "\nHTTP_X_FORWARDED_FOR: 127.0.0.1, 127.0.0.1\n") {
				t.Errorf("got %q", reply)
			}
		})
	}
}

// debianPython is the one that sees Debian's packages.
const debianPython = "/usr/bin/python3"

// needsPython skips a test where a Python package is missing.
func needsPython(t *testing.T, module, install string) {
	t.Helper()
	if err := exec.Command(debianPython, "-c", "import "+module).Run(); err != nil {
		skip(t, "needs "+module, install)
	}
}

// pythonApp is a WSGI application for Python servers behind our proxy.
const pythonApp = `
def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-From", "python")])
    return [environ["PATH_INFO"].encode("latin-1"), b"|", environ["HTTP_X_FORWARDED_FOR"].encode(), b"|", body]
if __name__ == "__main__":
    import sys
    from wsgiref.simple_server import make_server
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
`

// TestProxyToOthers has the proxy in front of servers that are not ours.
func TestProxyToOthers(t *testing.T) {
	long(t)
	for _, server := range []struct{ name, module, install string }{
		{"wsgiref", "wsgiref", "python3"}, {"gunicorn", "gunicorn", "gunicorn"},
	} {
		t.Run(server.name, func(t *testing.T) {
			needsPython(t, server.module, server.install)
			dir, addr := t.TempDir(), freeAddr(t)
			_, port, _ := net.SplitHostPort(addr)
			if err := os.WriteFile(filepath.Join(dir, "wsgiapp.py"), []byte(pythonApp), 0o600); err != nil {
				t.Fatal(err)
			}
			command := exec.Command(debianPython, "wsgiapp.py", port)
			if server.name == "gunicorn" {
				command = exec.Command(debianPython, "-m", "gunicorn", "-b", addr, "wsgiapp:app")
			}
			command.Dir = dir
			background(t, addr, command)
			s := start(t, newProxy(addr, 10*time.Second))
			for range 3 {
				reply := ask(t, s.addr, "POST /a%20b HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc")
				if !strings.HasPrefix(reply, ok200) || !strings.Contains(reply, "X-From: python\r\n") ||
					!strings.HasSuffix(reply, "\r\n\r\n/a b|127.0.0.1|abc") {
					t.Errorf("got %q", reply)
				}
			}
		})
	}
}

// TestPythonUnderCGI runs Python's frameworks as CGI programs under our host.
func TestPythonUnderCGI(t *testing.T) {
	long(t)
	for _, c := range []struct{ module, install, program string }{
		{"flask", "python3-flask", `
from flask import Flask, request
app = Flask(__name__)
@app.route("/a b", methods=["POST"])
def page(): return "flask " + request.args["q"] + " " + request.get_data(as_text=True)
`},
		{"django", "python3-django", `
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x")
from django.http import HttpResponse
from django.urls import path
def page(request): return HttpResponse("django " + request.GET["q"] + " " + request.body.decode())
urlpatterns = [path("a b", page)]
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
`},
	} {
		t.Run(c.module, func(t *testing.T) {
			needsPython(t, c.module, c.install)
			script := filepath.Join(t.TempDir(), "app.py")
			text := "#!" + debianPython + c.program + "from wsgiref.handlers import CGIHandler\nCGIHandler().run(app)\n"
			if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
			s := start(t, mount(map[string]Application{"/cgi": newCGI(script, 30*time.Second, 0)}, hello))
			reply := ask(t, s.addr, "POST /cgi/a%20b?q=1 HTTP/1.0\r\nHost: localhost\r\nContent-Length: 3\r\n"+
				"Content-Type: text/plain\r\n\r\nabc")
			if s.stop(); !strings.HasPrefix(reply, ok200) || !strings.HasSuffix(reply, c.module+" 1 abc") {
				t.Errorf("got %q, log %s", reply, s.errors)
			}
		})
	}
}

// TestGrade shows what the checker says of servers that do something wrong.
func TestGrade(t *testing.T) {
	t.Parallel()
	silent := must(net.Listen("tcp", "127.0.0.1:0"))(t) // accepts, and that is all
	t.Cleanup(func() { silent.Close() })
	var asked atomic.Int64
	tired := start(t, func(e Environ, startResponse StartResponse) Body {
		if asked.Add(1) > 3 {
			time.Sleep(4 * time.Second) // longer than a row is waited for
		}
		return showEnviron(e, startResponse)
	})
	wrong := start(t, func(e Environ, startResponse StartResponse) Body {
		e["PATH_INFO"] = e.Get("PATH_INFO") + "?" + e.Get("QUERY_STRING")
		return showEnviron(e, startResponse)
	})
	const head = "HTTP/1.0 200 OK\r\nDate: Sat, 21 Nov 2026 11:52:29 GMT\r\nServer: x\r\nContent-Type: text/plain\r\n" +
		"Content-Length: 2\r\n"
	hi, _ := fake(t, head+"\r\nhi", nil)
	bare, _ := fake(t, "HTTP/1.0 200 OK\r\n\r\nhi", nil)
	nothing, _ := fake(t, "", nil)
	stays, _ := fake(t, head+"\r\nhi", func(c net.Conn) { io.Copy(io.Discard, c) })
	endless, _ := fake(t, "", func(c net.Conn) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, strings.Repeat("\x00\xff\x1b[31m", 1000))
		}
	})
	for _, c := range []struct {
		name, addr, rows string
		want             []string
		not              string
		status           int
		slow             bool
	}{
		{"ours", start(t, showEnviron).addr, "", []string{"chapter 3   87 of  87 rows pass  (",
			"chapter 7   51 of  51 rows pass  ("}, "NO  ", 0, false},
		{"a chapter", start(t, showEnviron).addr, "4", []string{"chapter 4   45 of  45 rows pass  (",
			"then go run docs/check.go server "}, "chapter 3 ", 0, false},
		{"no such row", start(t, showEnviron).addr, "R99", []string{`no row of docs/conformance.md is "R99"`}, "pass", 2, false},
		{"a URL", "http://127.0.0.1:8000", "", []string{`expected host:port, not "http://127.0.0.1:8000"`}, "empty line", 1, false},
		{"nobody", freeAddr(t), "", []string{"Nobody listens on "}, "rows pass", 1, false},
		{"one that is silent", silent.Addr().String(), "", []string{" does not answer GET / HTTP/1.0: "}, "rows pass", 1, true},
		{"one that closes", nothing, "", []string{" closes the connection without an answer to GET / HTTP/1.0.\nThat is chapter 1.",
			"next: give it one ("}, "rows pass", 1, false},
		{"one that gets tired", tired.addr, "7", []string{"since this row the server answers nothing, not even GET / HTTP/1.0",
			" 2 of  51 rows pass, 1 fail, 48 not tried  (", "\nnext: start it again, then go run docs/check.go server "}, "PASS", 1, true},
		{"one that ends", mortal(t), "3-4", []string{
			"NO  chapter 3  R20 a target has no control characters (1 of 7 rows): the server has ended here: ",
			"\nchapter 4    0 of  45 rows pass, 45 not tried  ("}, "NO  chapter 4", 1, false},
		{"fixed text", hi, "R04", []string{
			"NO  chapter 3  R04 a method is a token (6 of 6 rows): expected HTTP/1.0 400, got HTTP/1.0 200 OK\n",
			"chapter 3    0 of   6 rows pass, 6 fail  ("}, "expected the line", 1, false},
		{"fixed text, when environ is due", start(t, hello).addr, "7", []string{
			"chapter 7   18 of  51 rows pass, 33 cannot be judged  (", "\nnext: answer with environ, "}, "docs/08", 0, false},
		{"a rule that holds", start(t, showEnviron).addr, "R04", []string{
			"chapter 3    6 of   6 rows pass  (", "\nnext: go run docs/check.go server "}, "docs/04", 0, false},
		{"a body for HEAD", hi, "W11", []string{"NO  chapter 6  W11 HEAD has the head of GET and no body", "expected no body, got hi"},
			"S17", 1, false},
		{"no Date", bare, "S17", []string{"expected one Date, got none\n"}, "NO  chapter 3", 1, false},
		{"one that stays open", stays, "R01", []string{"NO  chapter 3  R01 a request ", "the connection stays open: in HTTP/1.0"},
			"not tried", 1, true},
		{"garbage without end", endless, "R01", []string{"the answer has no end",
			"chapter 3    0 of   1 rows pass, 1 fail"}, "\x1b", 1, false},
		{"one that hangs up on what it refuses", refusesSilently(t, start(t, showEnviron).addr), "3-4", []string{
			" hung up: 400 would say why", "chapter 4   "}, "NO  ", 0, false},
		{"a query left in PATH_INFO", wrong.addr, "E09", []string{
			"NO  chapter 7  E09 the query is raw, from the first ? on (4 of 4 rows): expected PATH_INFO: /p, got PATH_INFO: /p?",
			"fails: E09 the query is raw, from the first ? on: /p?a?b%20c+d\n",
			`sent      GET /p?a?b%20c+d HTTP/1.0\r\n\r\n` + "\n",
			"expected  PATH_INFO: /p\n" +
				"       came      PATH_INFO: /p?a?b%20c+d\n" +
				"                              ^ cut at the first ?, and leave the query alone\n" +
				"       rule      PEP environ; 3875 4.1.7; level M; " + chapterSeven + "\n",
			"chapter 7    0 of   4 rows pass, 4 fail"}, "PASS", 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.slow {
				long(t)
			}
			out, status := check(t, "server", c.addr, c.rows)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%.3000s", want, out)
				}
			}
			if strings.Contains(out, c.not) || status != c.status {
				t.Errorf("status %d, expected %d and no %q in\n%.3000s", status, c.status, c.not, out)
			}
		})
	}
}

const chapterSeven = "docs/07-environ.md"

// mortal is a program that ends at the first byte beyond ASCII: it closes its listener as well.
func mortal(t *testing.T) (addr string) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n') // what came is enough
			if strings.ContainsFunc(line, func(r rune) bool { return r > 127 }) {
				l.Close()
			} else { // fails if the client has left
				io.WriteString(c, "HTTP/1.0 400 Bad Request\r\nContent-Length: 2\r\n\r\nhi")
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

// refusesSilently stands in front of a server and passes on its answers of 200 alone.
func refusesSilently(t *testing.T, addr string) string {
	return accepts(t, func(c net.Conn) {
		server, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			// Only as reader and writer: splice(2) would keep its pipes open.
			io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{c})
			server.(*net.TCPConn).CloseWrite()
		}()
		if reply, _ := io.ReadAll(server); bytes.HasPrefix(reply, []byte("HTTP/1.0 200")) {
			c.Write(reply)
		}
	})
}

// TestMutants proves the table and the tests: each mistake in our source, one that real servers
// and students have made, is found by the row that is about it, and by few others, or by a test.
// The hunts are such mistakes.
func TestMutants(t *testing.T) {
	t.Parallel()
	long(t)
	t.Run("hunts", func(t *testing.T) {
		t.Parallel()
		if out, status := check(t, "author", "hunts"); status != 0 || strings.Count(out, "  ok ") < 40 {
			t.Error(out)
		}
	})
	for _, m := range []struct{ mistake, test, file, old, new string }{
		{"the head is sent too early", "TestHeadIsHeldBack", "response.go", "status, slices.Clone(headers), length\n",
			"status, slices.Clone(headers), length; r.send(nil)\n"},
		{"close is forgotten", "TestApplication", "response.go", "r.close(body)\n", "_ = body\n"},
		{"nothing is drained", "TestUnreadBody", "server.go", "io.CopyN(io.Discard, e.conn.Conn, drainLimit)", ""},
	} {
		t.Run(m.mistake, func(t *testing.T) {
			t.Parallel()
			source := string(must(os.ReadFile(m.file))(t))
			if n := strings.Count(source, m.old); n != 1 {
				t.Fatalf("%q is in %s %d times, so the mistake cannot be made", m.old, m.file, n)
			}
			dir := t.TempDir()
			changed, overlay := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
			replace := map[string]any{"Replace": map[string]string{must(filepath.Abs(m.file))(t): changed}}
			writeFile(t, changed, strings.Replace(source, m.old, m.new, 1))
			writeFile(t, overlay, string(must(json.Marshal(replace))(t)))
			out, err := exec.Command("go", "test", "-overlay", overlay, "-run", "^"+m.test+"$", ".").CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("--- FAIL: "+m.test)) {
				t.Errorf("%s does not see it: %v\n%.2000s", m.test, err, out)
			}
		})
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

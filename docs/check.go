//go:build ignore

// Check grades programs from outside: it sends bytes and looks at what comes back.
//
//	go run docs/check.go                        what there is, and how far you have come
//	go run docs/check.go 07                     exercise 07; the first time, its starter
//	go run docs/check.go -watch 07              again after each save
//	go run docs/check.go -hint 1 07             hint 1, 2 or 3
//	go run docs/check.go -serve 07              serve it on 127.0.0.1:8000
//	go run docs/check.go 07 FILE                check another file than the one in mine/
//	go run docs/check.go server ADDR [3|3-5|R04]     grade any server
//	go run docs/check.go host URL DIR           grade a CGI host that serves DIR as URL
//	go run docs/check.go proxy ADDR UPSTREAM    grade a proxy that forwards to UPSTREAM
//	go run docs/check.go gateway ADDR           grade a gateway by chapter 8's applications
//	go run docs/check.go applications ADDR      grade a gallery of applications
//	go run docs/check.go hunt 3                 find a mistake; -answer R05, -hint 1
//	go run docs/check.go class DIR [07 ...]     check a directory of students
//	go run docs/check.go author 07              hold an exercise to its wrong answers
//
// The exit status is 0 for solved, 1 for not yet, 2 for wrong usage.
//
// Nothing here knows what an exercise is about. The tables in docs/exercises/*/README.md
// and docs/conformance.md are the checks, and this program is their interpreter. It is in
// the order of a check: bytes, a program, a client, a verdict; then what is made of that:
// any server, exercises, hunts, a class.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Exit statuses.
const (
	solved     = 0
	notYet     = 1
	wrongUsage = 2
)

func exitStatus(ok bool) int {
	if ok {
		return solved
	}
	return notYet
}

var (
	hintAsked = flag.Int("hint", 0, "show hint 1, 2 or 3")
	serving   = flag.Bool("serve", false, "serve the program instead of checking it")
	watching  = flag.Bool("watch", false, "check again after each save")
	answer    = flag.String("answer", "", "the id of the row that a hunt breaks, like R05")
	output    = flag.String("o", "", "class: the directory of the report")
	jobs      = flag.Int("jobs", 0, "how many at once: server 1, class 3 for each core")
	asJSON    = flag.Bool("json", false, "print results for a program")
	strict    = flag.Bool("strict", false, "server: no row may differ, nor any head")
	bytewise  = flag.Bool("bytewise", false, "server: send each byte by itself")
	times     = flag.Int("times", 1, "author: how often the solution must pass")
)

const self = "go run docs/check.go" // as messages show it

func main() {
	flag.Usage = usage
	args := append(positional(os.Args[1:]), "", "", "")
	if path, err := filepath.Abs(args[1]); err == nil && args[1] != "" {
		if _, missing := os.Stat(path); missing == nil {
			args[1] = path // the working directory changes now
		}
	}
	if args[0] == "host" && args[2] != "" {
		args[2], _ = filepath.Abs(args[2]) // fails as findRoot would
	}
	findRoot()
	os.Exit(command(args[0], args[1], strings.Fields(strings.Join(args[2:], " "))))
}

// positional parses flags wherever they are, and returns the other arguments.
func positional(args []string) (rest []string) {
	for {
		flag.CommandLine.Parse(args) // exits with 2 if a flag is wrong
		if flag.NArg() == 0 {
			return rest
		}
		rest, args = append(rest, flag.Arg(0)), flag.Args()[1:]
	}
}

// command runs what the arguments ask for, and returns the exit status.
func command(verb, object string, rest []string) int {
	switch {
	case verb == "":
		return overview()
	case verb == "rows":
		return printJSON(readRows())
	case verb == "server" && object != "":
		return gradeServer(object, strings.Join(rest, ""))
	case verb == "gateway" && object != "":
		return gradeApplications(object, "Gateways")
	case verb == "applications" && object != "":
		return gradeApplications(object, "Applications")
	case verb == "host" && len(rest) > 0:
		return gradeHost(object, strings.Join(rest, " "))
	case verb == "proxy" && len(rest) == 1:
		return gradeProxy(object, rest[0])
	case verb == "hunt":
		return hunt(object)
	case verb == "class" && object != "":
		return checkClass(object, rest)
	case verb == "author" && object != "":
		return author(object, rest)
	}
	if x := exerciseNamed(verb); x != nil {
		return x.work(object)
	}
	fmt.Fprintf(os.Stderr, "there is no exercise %q, and no such command\n", verb)
	usage()
	return wrongUsage
}

func usage() {
	_, text, _ := strings.Cut(page("docs/check.go"), "back.\n//\n")
	text, _, _ = strings.Cut(text, "//\n//")
	fmt.Fprint(os.Stderr, "usage:\n", strings.ReplaceAll(text, "//\t", "  "))
}

// findRoot changes to the root of the repository, upwards from the working directory.
func findRoot() {
	begin, err := os.Getwd()
	for dir := begin; err == nil; dir = filepath.Dir(dir) {
		_, module := os.Stat(filepath.Join(dir, "go.mod"))
		_, table := os.Stat(filepath.Join(dir, "docs", "conformance.md"))
		if module == nil && table == nil {
			err = os.Chdir(dir)
			break
		}
		if dir == filepath.Dir(dir) {
			err = fmt.Errorf("%s is not in the course: expected a directory, here or "+
				"above, with go.mod and docs/conformance.md", begin)
		}
	}
	die(err)
}

// die ends the program if there is an error that is not the student's.
func die(err error) {
	if err != nil {
		stopAll()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongUsage)
	}
}

// page returns a file of the repository.
func page(path string) string {
	content, err := os.ReadFile(path)
	die(err)
	return string(content)
}

// glob returns the files of a pattern, which is one of ours and so is not malformed.
func glob(pattern string) []string {
	files, err := filepath.Glob(pattern)
	die(err)
	return files
}

func write(path, content string) {
	die(os.MkdirAll(filepath.Dir(path), 0o755))
	die(os.WriteFile(path, []byte(content), 0o644))
}

func printJSON(value any) int {
	die(json.NewEncoder(os.Stdout).Encode(value))
	return solved
}

// several calls do(0) to do(n-1), so many at a time.
func several(atATime, n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(atATime, n) {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		}()
	}
	all.Wait()
}

// ---------------------------------------------------------------- Bytes
//
// A cell of a table has bytes as in a Go string, \r\n and \x00, and between << and >>
// what is repeated or drawn at random: docs/exercises/README.md has the list.

// Drawn has the random values of one check by their names.
type drawn map[string]string

var special = regexp.MustCompile(`<<\?([a-z]+)(?::([^>]*))?>>|<<=([a-z]+)([+-]\d+)>>|` +
	`<<(x?)#([a-z]+)>>|<<(.*?)\*(\w+)>>`)

// expand returns the bytes of a cell.
func (d drawn) expand(cell string) string {
	return unescape(special.ReplaceAllStringFunc(cell, func(text string) string {
		m := special.FindStringSubmatch(text)
		switch {
		case m[1] != "":
			if d[m[1]] == "" {
				d[m[1]] = draw(m[2])
			}
			return d[m[1]]
		case m[3] != "":
			return strconv.Itoa(number(d[m[3]]) + number(m[4]))
		case m[5] != "":
			return strconv.FormatInt(int64(len(d[m[6]])), 16)
		case m[6] != "":
			return strconv.Itoa(len(d[m[6]]))
		}
		unit := strings.NewReplacer("[[", "<<", "]]", ">>").Replace(m[7])
		if inner := special.FindString(unit); inner != "" {
			unit = strings.Replace(unit, inner, d.expand(inner), 1)
		}
		return strings.Repeat(unit, number(cmp.Or(d[m[8]], m[8])))
	}))
}

// draw returns a random value: "300-999", a date, hex digits, or a word.
func draw(kind string) string {
	letters, n := "abcdefghijklmnopqrstuvwxyz", 5+rand.IntN(5)
	if low, high, ok := strings.Cut(kind, "-"); ok {
		return strconv.Itoa(number(low) + rand.IntN(number(high)-number(low)+1))
	} else if kind == "date" {
		seconds := time.Duration(rand.IntN(25*365*24*3600)) * time.Second
		return time.Date(1995, 1, 1, 0, 0, 0, 0, time.UTC).Add(seconds).Format(http.TimeFormat)
	} else if kind == "hex" {
		letters, n = "0123456789abcdef", 20+rand.IntN(41)
	}
	text := make([]byte, n)
	for i := range text {
		text[i] = letters[rand.IntN(len(letters))]
	}
	return string(text)
}

// number and unescape panic: a mistake in a table is its author's.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		panic(fmt.Sprintf("a table of checks has %q where it needs a number", digits))
	}
	return n
}

// unescape turns the escapes of a Go string into bytes; quotes need none.
func unescape(text string) string {
	var b strings.Builder
	for text != "" {
		if text[0] != '\\' {
			b.WriteByte(text[0])
			text = text[1:]
			continue
		}
		char, multibyte, rest, err := strconv.UnquoteChar(text, 0)
		if err != nil {
			panic(fmt.Sprintf(`a table of checks has %q, expected escapes like \r \\ \x00`, text))
		}
		if text = rest; multibyte {
			b.WriteRune(char)
		} else {
			b.WriteByte(byte(char))
		}
	}
	return b.String()
}

// visible shows bytes on one line of ASCII, as in a Go string.
func visible[T ~string | ~[]byte](text T) string {
	var b strings.Builder
	for i := range len(text) {
		quoted := strconv.Quote(string(text[i : i+1])) // alone, a byte is no UTF-8
		b.WriteString(strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
	}
	return b.String()
}

// window shows 72 bytes of a text around byte at, and returns the column of that byte.
func window(text string, at int) (shown string, column int) {
	from := min(max(0, at-48), len(text))
	to := min(len(text), from+72)
	shown, column = visible(text[from:to]), len(visible(text[from:min(max(at, from), to)]))
	if from > 0 {
		shown, column = "... "+shown, column+4
	}
	if to < len(text) {
		shown += " ..."
	}
	return cmp.Or(shown, "(nothing)"), column
}

// ---------------------------------------------------------------- A program
//
// A program under test runs in an empty directory and a process group of its own. It is
// ended together with all that it has started.

// A child is a program while it runs.
type child struct {
	addr    string
	stdin   io.WriteCloser
	stdout  limitedBuffer // of a program that reads standard input
	printed limitedBuffer
	secret  string        // marks the lines of our probes, and the processes
	ended   chan struct{} // closed when it has ended
	process *os.Process
}

// A limitedBuffer keeps the first 64 KiB of what a program prints, which may be endless.
type limitedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p[:max(0, min(len(p), 65536-l.b.Len()))])
	return len(p), nil
}

func (l *limitedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a command that will listen on addr, or read standard input if addr is "".
func start(addr string, command ...string) (*child, error) {
	dir, err := os.MkdirTemp("", "check-empty-")
	die(err)
	secret := fmt.Sprintf("#%08x", rand.Uint32())
	p := &child{addr: addr, ended: make(chan struct{}), secret: secret}
	program := exec.Command(command[0], command[1:]...)
	program.Dir, program.Stdout, program.Stderr = dir, &p.printed, &p.printed
	program.WaitDelay, program.SysProcAttr = time.Second, ownGroup()
	program.Env = append(os.Environ(), "PROBE_SECRET="+secret, "GORACE=atexit_sleep_ms=0",
		"PYTHONDONTWRITEBYTECODE=1")
	if addr == "" {
		program.Stdout = &p.stdout
		p.stdin, err = program.StdinPipe()
		die(err)
	}
	if err := program.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	p.process = program.Process
	running.Store(p, true)
	go func() {
		program.Wait() // that it was killed is no error
		running.Delete(p)
		os.RemoveAll(dir)
		close(p.ended)
	}()
	return p, nil
}

// ownGroup asks for a process group, where there are any. The field is looked up by name
// because Windows' SysProcAttr has none.
func ownGroup() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{}
	if field := reflect.ValueOf(attributes).Elem().FieldByName("Setpgid"); field.IsValid() {
		field.SetBool(true)
	}
	return attributes
}

// running has the programs that Ctrl-C must end: in other groups, they do not get it.
var running sync.Map

func stopAll() {
	running.Range(func(p, _ any) bool { p.(*child).stop(); return true })
}

func init() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		stopAll()
		os.Exit(notYet)
	}()
}

// stop kills the program with its children, and reports whether it had ended by itself. A
// child that has left the group is found by the secret in its environment, on Linux.
func (p *child) stop() (died bool) {
	if died = p.endsWithin(0); !died && runtime.GOOS == "windows" {
		exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(p.process.Pid)).Run()
	}
	pids := []int{p.process.Pid}
	if runtime.GOOS != "windows" {
		pids = append(pids, -p.process.Pid) // the group
	}
	files := glob("/proc/[0-9]*/environ")
	for _, file := range files {
		environ, err := os.ReadFile(file) // fails for another user's
		if err == nil && bytes.Contains(environ, []byte("PROBE_SECRET="+p.secret)) {
			pids = append(pids, number(strings.Split(file, "/")[2]))
		}
	}
	for _, pid := range pids {
		if process, err := os.FindProcess(pid); err == nil {
			process.Kill() // fails if it has ended, as it should
		}
	}
	<-p.ended
	return died
}

// endsWithin gives the program time to end by itself, and reports whether it did.
func (p *child) endsWithin(patience time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(patience):
		return false
	}
}

var errDeaf = errors.New("nobody listens: the program's address must be 127.0.0.1:8000")

// dial waits until the program listens, or has ended.
func (p *child) dial() (*net.TCPConn, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			return c.(*net.TCPConn), nil
		}
		if p.endsWithin(5 * time.Millisecond) {
			return nil, errors.New("the program has ended")
		}
	}
	return nil, errDeaf
}

func (p *child) listens() error {
	c, err := p.dial()
	if err == nil {
		c.Close()
	}
	return err
}

// log returns what the program has printed. Lines of our probes lose their secret; a line
// that only looks like one of them is left out.
func (p *child) log() string {
	imitations := regexp.MustCompile(`(?m)^(called|closed|in|out|seen) \S+\n`)
	genuine := imitations.ReplaceAllString(p.printed.String(), "")
	return strings.ReplaceAll(genuine, p.secret+" ", "")
}

var lastPort atomic.Int64

// freePort returns a port for a program that will listen soon. It is below those that
// systems give to clients, so that no client of another program takes it first.
func freePort() string {
	for {
		port := strconv.FormatInt(12000+(int64(os.Getpid())*97+lastPort.Add(1))%18000, 10)
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			return port
		}
	}
}

// ---------------------------------------------------------------- A client
//
// What a client does is a script: bytes, with words between them.

const (
	atOnce = time.Second     // what need not wait is over: shorter than any time-out of 2 s
	atMost = 4 * time.Second // longer than those
)

// An exchange is the last reply to a script, and how it ended.
type exchange struct {
	reply string
	after time.Duration // from the last byte sent to the end of the reply
	err   error         // why it did not end well
}

// A client talks to a program.
type client struct {
	*net.TCPConn        // nil before the first byte and after the last
	exchange            // on the connection before
	got          []byte // on this connection
	last         string // the bytes sent last
	late, more   bool   // see do
	slowly       bool
	opened       []net.Conn
}

var scriptWords = regexp.MustCompile("`[^`]*`|[a-z]+")

// talk plays a script. A patient client waits for any answer as long as for a late one.
func (p *child) talk(script string, d drawn, patient bool) exchange {
	words := scriptWords.FindAllString(script, -1)
	has := func(word string) bool { return slices.Contains(words, word) }
	c := &client{late: patient || has("late"), more: has("more") || has("close")}
	defer func() {
		for _, connection := range c.opened {
			connection.Close() // most are closed already
		}
	}()
	for _, word := range words {
		switch word {
		case "again":
			c.finish()
		case "late", "more", "fresh", "soon":
		default:
			if c.TCPConn == nil {
				connection, err := p.dial()
				if err != nil {
					return exchange{err: err}
				}
				c.TCPConn, c.opened = connection, append(c.opened, connection)
				c.SetDeadline(time.Now().Add(atMost))
			}
			c.do(word, d)
		}
	}
	c.finish()
	return c.exchange
}

// do is for one word of a script; docs/exercises/README.md says what they mean.
func (c *client) do(word string, d drawn) {
	switch word {
	case "pause": // a server that answers early ends it
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		c.readByte() // an error comes again in finish
	case "slowly":
		c.slowly = true
	case "answered", "close":
		if c.readByte(); len(c.got) == 0 {
			c.err = errors.New("no answer had begun when the client wanted to go on")
		} else if word == "close" {
			c.Write([]byte(c.last)) // fails if the server has closed, as it should
		}
	case "drip":
		for end := time.Now().Add(atMost); time.Now().Before(end); {
			c.SetDeadline(time.Now().Add(200 * time.Millisecond))
			c.Write([]byte("x")) // fails if the server has closed, which Read shows
			if err := c.readByte(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
		}
		c.err = fmt.Errorf("after %v the server still waits for a client that is slow", atMost)
	case "end":
		c.CloseWrite() // fails if the server has closed, which the reply shows
	case "leave":
		c.CloseWrite()
		c.finish()
		c.err = nil
	case "vanish":
		c.SetLinger(0) // with a reset
		c.Close()
		c.TCPConn = nil
	case "stay":
		c.TCPConn = nil
	default:
		if word[0] != '`' {
			panic("a table of checks has an unknown word: " + word)
		}
		c.send(d.expand(strings.Trim(word, "`")))
	}
}

// readByte reads the first byte of an answer, if it comes in time.
func (c *client) readByte() error {
	first := make([]byte, 1)
	n, err := c.Read(first)
	c.got = append(c.got, first[:n]...)
	return err
}

func (c *client) send(text string) {
	size := 1 << 20
	if c.slowly {
		size = 1
	}
	for piece := range slices.Chunk([]byte(text), size) {
		if _, err := c.Write(piece); err != nil && !c.more {
			c.err = fmt.Errorf("the connection broke while the client was sending: %w", err)
			return
		}
		if size == 1 {
			time.Sleep(time.Millisecond) // or the system would put the bytes together
		}
	}
	c.last, c.slowly = text, false
}

// finish reads the answer to its end.
func (c *client) finish() {
	if c.TCPConn == nil {
		return
	}
	const endless = 4 << 20 // bytes
	begin := time.Now()
	c.SetDeadline(begin.Add(atMost))
	rest, err := io.ReadAll(io.LimitReader(c, endless))
	c.after = time.Since(begin)
	c.reply = string(append(c.got, rest...))
	switch {
	case len(rest) == endless:
		c.err = errors.New("the answer has no end")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.err = fmt.Errorf("after %v the server has not closed the connection", atMost)
	case err != nil && !(c.more && c.reply != ""):
		c.err = fmt.Errorf("the connection broke: %w", err)
	case c.after > atOnce && !c.late && c.err == nil:
		c.err = errLate
	}
	c.Close()
	c.got, c.TCPConn = nil, nil
}

var errLate = errors.New("what need not wait is answered and ended at once")

// feed runs a script for a program that reads standard input.
func (p *child) feed(script string, d drawn) (e exchange) {
	for _, word := range scriptWords.FindAllString(script, -1) {
		if word == "pause" {
			time.Sleep(100 * time.Millisecond)
		} else if word[0] == '`' {
			io.WriteString(p.stdin, d.expand(strings.Trim(word, "`"))) // it may have read enough
		}
	}
	p.stdin.Close()
	if !p.endsWithin(atMost) {
		e.err = fmt.Errorf("after %v the program has not ended", atMost)
	}
	e.reply = p.stdout.String()
	return e
}

// ---------------------------------------------------------------- A verdict

// A mismatch says in what a check fails.
type mismatch struct {
	expected, came string
	at             int      // offset in both of the first wrong byte
	notes          []string // causes, and what else is known
	printed        string   // by the program
	late           bool     // all is well but the time
}

// differ is a mismatch at the first byte in which two texts differ.
func differ(expected, came string, notes ...string) *mismatch {
	m := &mismatch{expected: expected, came: came, notes: notes}
	for m.at < min(len(expected), len(came)) && expected[m.at] == came[m.at] {
		m.at++
	}
	return m
}

const theEnd = "an answer, then the end of the connection"

var expectation = regexp.MustCompile("([a-z ]*)`([^`]*)`")

// judge compares an exchange and a log with what is expected: words, each before a span.
func judge(expected string, d drawn, e exchange, log string) *mismatch {
	if expected == "nothing" && e.reply != "" {
		return &mismatch{expected: "no answer", came: e.reply}
	}
	for _, span := range expectation.FindAllStringSubmatch(expected, -1) {
		if m := match(strings.TrimSpace(span[1]), d.expand(span[2]), e.reply, log); m != nil {
			return m
		}
	}
	switch {
	case e.err == errLate:
		return &mismatch{expected: fmt.Sprintf("the end of the connection within %v", atOnce),
			came: fmt.Sprintf("it after %.1f s", e.after.Seconds()), late: true}
	case e.err != nil:
		return &mismatch{expected: theEnd, came: e.reply, at: len(e.reply)}
	}
	return nil
}

// match holds a reply, or a log, to one expectation; docs/exercises/README.md says what
// the words mean.
func match(about, text, reply, log string) *mismatch {
	if rest, ok := strings.CutPrefix(about, "cgi "); ok {
		about, reply = rest, fromCGI(reply)
	}
	head, content, whole := strings.Cut(reply, "\r\n\r\n")
	came, ok := reply, false
	switch about {
	case "", "status":
		text, came = "HTTP/1.0 "+text, head
		ok = regexp.MustCompile(`^HTTP/1\.[01] ` + text[9:] + `[ \r]`).MatchString(reply)
	case "header", "member":
		came = headerLine(head, text)
		ok = sameHeader(text, came, about == "member")
	case "no header":
		came = headerLine(head, text)
		ok = came == ""
	case "date":
		text, came = "Date: "+time.Now().UTC().Format(http.TimeFormat), headerLine(head, "Date")
		date, err := time.Parse(http.TimeFormat, strings.TrimPrefix(came, "Date: "))
		ok = err == nil && time.Since(date).Abs() < 5*time.Second &&
			came == "Date: "+date.Format(http.TimeFormat)
	case "body":
		came, ok = content, content == text
	case "prints":
		text, came = trimLines(text), trimLines(reply)
		ok = came == text
	case "chunks":
		came = dechunk(content)
		ok = came == text
	case "unzipped":
		came = gunzip(content)
		ok = came == text
	case "has", "not":
		ok = strings.Contains(reply, text) == (about == "has")
	case "log", "no log":
		came, ok = log, strings.Contains(log, text) == (about == "log")
	default:
		panic("a table of checks has an unknown expectation: " + about)
	}
	switch {
	case ok:
		return nil
	case about == "has" || about == "log":
		return likeliest(about+" ", text, came)
	case about == "not" || about == "no log" || about == "no header":
		at := max(0, strings.Index(came, text))
		return &mismatch{expected: about + " " + text, came: came, at: at}
	case !whole && reply != "" && about != "" && about != "prints":
		return differ(text, came, "the head has no end: an empty line is missing")
	}
	return differ(text, came)
}

// likeliest shows a text from the place where it is most like one that is missing in it.
func likeliest(about, missing, text string) *mismatch {
	const few = 4 // equal bytes: less is chance
	for n := len(missing) - 1; n >= few; n-- {
		if i := strings.Index(text, missing[:n]); i >= 0 {
			return differ(missing, text[i:])
		}
	}
	return &mismatch{expected: about + missing, came: text}
}

// headerLine returns the fields of a head with a header's name, each on its line.
func headerLine(head, header string) string {
	name, _, _ := strings.Cut(header, ":")
	var found []string
	for _, line := range strings.Split(head, "\r\n")[1:] {
		if n, value, _ := strings.Cut(line, ":"); strings.EqualFold(n, name) {
			found = append(found, name+": "+strings.Trim(value, " \t"))
		}
	}
	return strings.Join(found, "\r\n")
}

// sameHeader compares fields by their meaning: as lists, on one line or several.
func sameHeader(want, came string, member bool) bool {
	name, value, _ := strings.Cut(want, ": ")
	lines := strings.Split(came, "\r\n")
	if strings.EqualFold(name, "Set-Cookie") {
		return slices.Contains(lines, want)
	}
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], name+": ")
	}
	wanted, have := members(name, value), members(name, strings.Join(lines, ","))
	if member {
		return slices.Contains(have, strings.Join(wanted, ""))
	}
	return came != "" && slices.Equal(wanted, have)
}

var caseless = regexp.MustCompile(
	`(?i)^(Content-Type|Content-Encoding|Transfer-Encoding|Connection|Vary|Accept-Ranges)$`)

// members takes a list apart; their order and the white space around them mean nothing.
func members(name, value string) (list []string) {
	if caseless.MatchString(name) {
		value = strings.ReplaceAll(strings.ToLower(value), `"`, "")
	}
	for member := range strings.SplitSeq(value, ",") {
		if member = strings.TrimSpace(member); member != "" {
			list = append(list, regexp.MustCompile(`\s*;\s*`).ReplaceAllString(member, "; "))
		}
	}
	slices.Sort(list)
	return list
}

// fromCGI turns a CGI document into the answer in HTTP that it asks for. It is the reply
// or, if that is HTTP already, its body.
func fromCGI(reply string) string {
	if strings.HasPrefix(reply, "HTTP/") {
		_, reply, _ = strings.Cut(reply, "\r\n\r\n")
	}
	cut := regexp.MustCompile(`\r?\n\r?\n`).FindStringIndex(reply)
	if cut == nil {
		return reply
	}
	head, status := "", "200 OK"
	for line := range strings.Lines(reply[:cut[0]]) {
		line = strings.TrimRight(line, "\r\n")
		if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "Status") {
			status = strings.TrimSpace(value)
		} else {
			head += "\r\n" + line
		}
	}
	return "HTTP/1.0 " + status + head + "\r\n\r\n" + reply[cut[1]:]
}

func trimLines(text string) string {
	return strings.TrimSpace(regexp.MustCompile(`[ \t\r]*\n`).ReplaceAllString(text, "\n"))
}

// dechunk and gunzip return what was coded, or what is wrong with it.
func dechunk(content string) string {
	head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	reply, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head+content)), nil)
	if err != nil {
		return err.Error()
	}
	return readOrSay(reply.Body)
}

func gunzip(content string) string {
	r, err := gzip.NewReader(strings.NewReader(content))
	if err != nil {
		return "not gzip: " + content
	}
	return readOrSay(r)
}

func readOrSay(r io.Reader) string {
	plain, err := io.ReadAll(r)
	if err != nil {
		return fmt.Sprintf("%s (and then: %v)", plain, err)
	}
	return string(plain)
}

// explain prints a mismatch in ASCII, so that any terminal can show it: expected and came
// are cut in the same window, and the caret is under the first wrong byte.
func (m *mismatch) explain(w io.Writer, sent, rule string) {
	line := func(name, text string) {
		for text != "" {
			cut := len(text)
			if cut > 68 {
				cut = cmp.Or(max(0, strings.LastIndexByte(text[:68], ' ')), 68)
			}
			fmt.Fprintf(w, "       %-9s %s\n", name, text[:cut])
			name, text = "", strings.TrimPrefix(text[cut:], " ")
		}
	}
	expected, _ := window(m.expected, m.at)
	came, column := window(m.came, m.at)
	fmt.Fprintf(w, "       sent      %.120s\n", sent)
	fmt.Fprintf(w, "       expected  %s\n       came      %s\n", expected, came)
	notes := append(slices.Clone(m.notes), "")
	fmt.Fprintf(w, "       %-9s %s^ %s\n", "", strings.Repeat(" ", column), notes[0])
	for _, note := range notes[1:] {
		line("", note)
	}
	line("printed", visible(mainLine(m.printed)))
	line("rule", rule)
}

// mainLine returns the line of a program's output that says most: the error with which it
// has ended, a failure in its log, or else the first line that is not the starter's own.
func mainLine(printed string) string {
	for _, pattern := range []string{`(?m)^(panic|fatal error): .*`,
		`(?m)^\w*(Error|Exception)\b.*`, `(?m)^.*the application failed: .*`} {
		if found := regexp.MustCompile(pattern).FindString(printed); found != "" {
			return found
		}
	}
	for line := range strings.Lines(printed) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Serving ") {
			return line
		}
	}
	return ""
}

// ---------------------------------------------------------------- The table
//
// docs/conformance.md is read here and nowhere else; its section "How to read a row" is
// the specification of this part.

// A row is one rule, shown by bytes alone: what is sent to a server that runs the environ
// application, and what must come back.
type row struct {
	Chapter int
	Name    string   // "R05 an absolute target"
	Level   string   // M, S or P; with a star if others may differ
	Source  string   // "RFC 1945 5.1"
	Send    []byte   // the exact bytes
	Want    string   // a status code; "body" for a body without a head; "nothing"
	Has     [][]byte // lines that the answer's body must have
	Not     [][]byte // beginnings of lines that it must not have
	How     string   // "then end" our half, "byte by byte"; "+": more is sent than read
	Empty   bool     // the answer has no body, whatever its Content-Length
}

// readRows returns the rows of the chapters, in the order of the page.
func readRows() (rows []row) {
	chapter := 0
	for line := range strings.Lines(page("docs/conformance.md")) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			chapter = 0
			fmt.Sscanf(heading, "Chapter %d:", &chapter) // leaves 0 for another heading
		}
		if cells := rowCells(line); chapter > 0 && cells != nil {
			rows = append(rows, newRow(chapter, cells))
		}
	}
	return rows
}

// rowCells returns the six cells of a row, nil for any other line.
func rowCells(line string) []string {
	cells := strings.Split(strings.Trim(line, "| \n"), " | ")
	if len(cells) != 6 || !regexp.MustCompile(`^[A-Z]\d\d`).MatchString(cells[0]) {
		return nil
	}
	return cells
}

// newRow reads one line of a table: id, level, rule, source, sent, expected.
func newRow(chapter int, cells []string) row {
	spans := regexp.MustCompile("(not )?`([^`]*)`")
	r := row{Chapter: chapter, Name: cells[0] + " " + cells[2], Level: cells[1],
		Source: cells[3],
		Want:   strings.Trim(strings.Fields(cells[5])[0], "`"),
		Empty:  strings.Contains(cells[5], "no body"),
		How:    regexp.MustCompile(`(then end|byte by byte|\+)?$`).FindString(cells[4])}
	if sent := spans.FindStringSubmatch(cells[4]); sent != nil {
		r.Send = []byte(drawn{}.expand(sent[2]))
	}
	for i, match := range spans.FindAllStringSubmatch(cells[5], -1) {
		text := []byte(drawn{}.expand(match[2]))
		if match[1] != "" {
			r.Not = append(r.Not, text)
		} else if i > 0 || r.Want == "body" {
			r.Has = append(r.Has, text)
		}
	}
	return r
}

// id is the first of the row's ids; "E04 E06 E08 a path ..." has three.
func (r row) id() string { return r.Name[:3] }

func (r row) ids() []string {
	return strings.Fields(regexp.MustCompile(`^([A-Z]\d\d )*`).FindString(r.Name))
}

// rule is the row's name without its own case.
func (r row) rule() string {
	rule, _, _ := strings.Cut(r.Name, ": ")
	return rule
}

// hint is what the page says about mistakes that many make.
func (r row) hint() string {
	_, hints, _ := strings.Cut(page("docs/conformance.md"), "\n## Hints\n")
	_, hint, _ := strings.Cut(hints, "\n| "+r.id()+" | ")
	hint, _, _ = strings.Cut(hint, " |\n")
	return hint
}

// chapterPage is the page to read, "docs/03-request-line.md".
func chapterPage(chapter int) string {
	pages := glob(fmt.Sprintf("docs/%02d-*.md", chapter))
	return filepath.ToSlash(append(pages, fmt.Sprintf("chapter %d", chapter))[0])
}

// ask sends the row's bytes and returns what comes back, at most 1 MiB of it. Reading
// goes on while it sends: a server may refuse a row before it has read it all.
func (r row) ask(addr string, patience time.Duration) (reply string, err error) {
	connection, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	c := connection.(*net.TCPConn)
	c.SetDeadline(time.Now().Add(patience))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		size, longest := 1<<20, 70000
		if runtime.GOOS == "windows" {
			longest = 10000 // 64 KiB take 20 s under Wine
		}
		if r.How == "byte by byte" || *bytewise && len(r.Send) < longest {
			size = 1
		}
		for piece := range slices.Chunk(r.Send, size) {
			c.Write(piece) // fails if the server has answered already
			if r.How == "byte by byte" {
				time.Sleep(time.Millisecond) // or the system would put the bytes together
			}
		}
		if r.How == "then end" {
			c.CloseWrite()
		}
	}()
	const endless = 1 << 20
	var raw bytes.Buffer
	in := bufio.NewReader(io.TeeReader(io.LimitReader(c, endless), &raw))
	reply, err = r.readAnswer(c, in)
	c.Close()
	<-sent
	switch {
	case raw.Len() == endless:
		err = errors.New("the answer has no end")
	case r.How == "+" && raw.Len() > 0 && isReset(err):
		err = nil // bytes that arrive when all is over are answered by a reset
	}
	return cmp.Or(reply, raw.String()), err
}

var errStaysOpen = errors.New("the answer is whole, but the connection stays open: in " +
	"HTTP/1.0 the server closes it after its answer (in Python, each file made from it)")

// readAnswer reads what belongs to one answer, and returns one in HTTP/1.1 as it would be
// in HTTP/1.0. In HTTP/1.1 the connection may stay; in HTTP/1.0 it ends. Only R01 waits
// long for that: one fault is told once.
func (r row) readAnswer(c net.Conn, in *bufio.Reader) (reply string, err error) {
	method, _, _ := strings.Cut(string(r.Send), " ")
	whole := false
	for interim := !*strict; interim; {
		answer, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			break // what net/http cannot read is shown all the same
		}
		if interim = answer.StatusCode == http.StatusContinue; interim {
			continue
		}
		body, err := io.ReadAll(answer.Body)
		if answer.ProtoAtLeast(1, 1) || !answer.Close {
			reply = inHTTP10(answer, body)
		}
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF):
			return reply, nil // framing will tell
		case err != nil || !answer.Close:
			return reply, err
		}
		whole = answer.ContentLength >= 0
	}
	if whole && r.id() != "R01" {
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	}
	rest, err := io.ReadAll(in) // perhaps too much is sent
	if reply != "" {
		reply += string(rest)
	}
	if whole && errors.Is(err, os.ErrDeadlineExceeded) {
		if err = errStaysOpen; r.id() != "R01" {
			err = nil
		}
	}
	return reply, err
}

// inHTTP10 writes an answer as a server of HTTP/1.0 would.
func inHTTP10(answer *http.Response, body []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.0 %s\r\n", answer.Status)
	if answer.TransferEncoding != nil {
		answer.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	answer.Header.Write(&b) // to memory: cannot fail
	return b.String() + "\r\n" + string(body)
}

// isRefused reports that nobody listens: a dial on this machine fails for no other
// reason.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !op.Timeout()
}

// isReset reports a reset, also by Windows' numbers, WSAECONNRESET and WSAECONNABORTED.
func isReset(err error) bool {
	var number syscall.Errno
	return errors.Is(err, syscall.ECONNRESET) ||
		errors.As(err, &number) && (number == 10054 || number == 10053)
}

// verdict compares a reply with what the row wants; nil if it is that. Lines of environ
// are looked for only if the server shows environ.
func (r row) verdict(reply string, err error, environ bool) *mismatch {
	text := reply
	switch _, isStatus := strconv.Atoi(r.Want); {
	case err != nil:
		return &mismatch{expected: theEnd, came: reply, at: len(reply),
			notes: []string{"the exchange did not end well: " + err.Error()}}
	case r.Want == "nothing" && reply != "":
		return &mismatch{expected: "no answer", came: reply}
	case r.Want == "body" && (reply == "" || strings.HasPrefix(reply, "HTTP/")):
		return &mismatch{expected: "a body without a head", came: reply}
	case isStatus == nil:
		if m := cmp.Or(match("status", r.Want, reply, ""), r.framing(reply)); m != nil {
			return m
		}
		_, text, _ = strings.Cut(reply, "\r\n\r\n")
	}
	if !environ {
		return nil
	}
	lines := strings.Split(text, "\n")
	first := func(beginning string) (line string) {
		for _, line := range lines {
			if strings.HasPrefix(line, beginning) {
				return line
			}
		}
		return ""
	}
	for _, line := range r.Has {
		key, _, _ := strings.Cut(string(line), ": ")
		if !slices.Contains(lines, string(line)) {
			return differ(string(line), cmp.Or(first(key+": "), "(no such line)"))
		}
	}
	for _, beginning := range append(r.Not, []byte("<script")) {
		if line := first(string(beginning)); line != "" {
			return &mismatch{expected: "no line " + string(beginning) + "...", came: line}
		}
	}
	return nil
}

// framing holds a head to what a client relies on, RFC 1945 §6. In the answer to S17, or
// with -strict in each, four headers must be there.
func (r row) framing(reply string) *mismatch {
	head, content, whole := strings.Cut(reply, "\r\n\r\n")
	bare := strings.ReplaceAll(head, "\r\n", "")
	length := headerLine(head, "Content-Length")
	right := fmt.Sprintf("Content-Length: %d", len(content))
	empty := r.Empty || bytes.HasPrefix(r.Send, []byte("HEAD "))
	switch {
	case !whole, !strings.HasPrefix(head, "HTTP/1.0 "),
		strings.ContainsAny(bare, "\r\n\x00"):
		return differ("HTTP/1.0 "+r.Want+" ..., lines that end in CR LF, an empty line", head)
	case r.Empty && content != "":
		return &mismatch{expected: "no body", came: content}
	case !empty && length != "" && length != right:
		return differ(right, length)
	}
	for _, name := range []string{"Date", "Server", "Content-Type", "Content-Length"} {
		came := headerLine(head, name)
		optional := !*strict && r.id() != "S17" || empty && name == "Content-Length"
		if strings.Contains(came, "\r\n") || came == "" && !optional {
			return &mismatch{expected: "one " + name, came: cmp.Or(came, "none")}
		}
	}
	date := headerLine(head, "Date")
	if _, err := time.Parse("Date: "+http.TimeFormat, date); date != "" && err != nil {
		return differ("Date: "+http.TimeFormat, date)
	}
	came := headerLine(head, "Transfer-Encoding")
	if *strict {
		came += headerLine(head, "Connection")
	}
	if came != "" {
		return &mismatch{expected: "no field that HTTP/1.0 has not", came: came}
	}
	return nil
}

// brief is a mismatch in a line.
func (m *mismatch) brief() string {
	if m.notes != nil {
		return m.notes[0]
	}
	line, _, _ := strings.Cut(m.came, "\n")
	got := cmp.Or(visible(strings.TrimSpace(line)), "nothing")
	return fmt.Sprintf("expected %.60s, got %.60s", visible(m.expected), got)
}

// ---------------------------------------------------------------- Any server
//
// A server that is not ours may differ where a row has a star or the level P, refuse with
// another status, speak HTTP/1.1, and show any page until chapter 7. With -strict it may
// not.

// A result is how one row went: it "passes", "fails", "differs" where it may, has "hung
// up" instead of a refusal, or is "unseen": right as far as a page shows that is not
// environ. It is "untried" when the server answers no more.
type result struct {
	row
	Outcome string
	Fault   string // in a line
	m       *mismatch
}

// A grading is a server under test.
type grading struct {
	addr     string
	environ  bool          // its page is that of the environ application
	patience time.Duration // for an answer
	silent   atomic.Int64  // rows without one
	gone     atomic.Bool   // it answers no more
}

var plainRow = row{Name: "R01", Send: []byte("GET / HTTP/1.0\r\n\r\n"), Want: "200"}

func gradeServer(addr, which string) int {
	rows := chosenRows(which)
	if len(rows) == 0 {
		fmt.Fprintf(os.Stderr, "no row of docs/conformance.md is %q: 3, 3-5 or R04?\n", which)
		return wrongUsage
	}
	g := &grading{addr: addr, patience: 3 * time.Second}
	if *strict {
		g.patience = 20 * time.Second
	}
	reply, err := plainRow.ask(addr, g.patience)
	g.gone.Store(reply == "")
	if reply == "" && !*asJSON {
		fmt.Println(noAnswer(addr, err))
		return notYet
	}
	g.environ = strings.Contains(reply, "REQUEST_METHOD: GET")
	results := g.try(rows)
	if *asJSON {
		return printJSON(results)
	}
	return g.report(results, regexp.MustCompile(`^[A-Z]`).MatchString(which))
}

// chosenRows returns the rows of a chapter, 3, of several, 3-5, or of a rule, R04.
func chosenRows(which string) []row {
	low, high, _ := strings.Cut(which, "-")
	return slices.DeleteFunc(readRows(), func(r row) bool {
		chapter := strconv.Itoa(r.Chapter)
		return which != "" && (chapter < low || chapter > cmp.Or(high, low)) &&
			!slices.Contains(r.ids(), which)
	})
}

// noAnswer explains what may be wrong with a server that answers nothing at all.
func noAnswer(addr string, err error) string {
	var wrong *net.AddrError
	switch {
	case errors.As(err, &wrong):
		return fmt.Sprintf("expected host:port, not %q: %v\nnext: %s server 127.0.0.1:8000",
			addr, err, self)
	case isRefused(err):
		return fmt.Sprintf("Nobody listens on %s: %v\nnext: start your server, and look at "+
			"the address that it prints (%s)", addr, err, chapterPage(1))
	case err == nil || isReset(err):
		return fmt.Sprintf("%s closes the connection without an answer to GET / HTTP/1.0.\n"+
			"That is chapter 1. No row can pass before there is an answer.\n"+
			"next: give it one (%s)", addr, chapterPage(2))
	}
	return fmt.Sprintf("%s does not answer GET / HTTP/1.0: %v\nnext: answer when the empty "+
		"line has come; do not wait for more (%s)", addr, err, chapterPage(2))
}

// try sends the rows.
func (g *grading) try(rows []row) []result {
	results := make([]result, len(rows))
	several(max(1, *jobs), len(rows), func(i int) { results[i] = g.tryRow(rows[i]) })
	return results
}

// tryRow sends a row. After five rows without an answer it waits less long for one. A
// server that does not answer a plain request afterwards has not survived the row.
func (g *grading) tryRow(r row) result {
	if g.gone.Load() {
		return result{row: r, Outcome: "untried"}
	}
	patience := g.patience
	if g.silent.Load() >= 5 {
		patience = min(patience, 500*time.Millisecond)
	}
	reply, err := r.ask(g.addr, patience)
	m := r.verdict(reply, err, g.environ)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		g.silent.Add(1)
	}
	if m != nil && reply == "" && !*strict {
		plain, err := plainRow.ask(g.addr, patience)
		if plain == "" && !g.gone.Swap(true) {
			m.notes = []string{"since this row the server answers nothing, not even " +
				"GET / HTTP/1.0: is it in a loop?"}
			if isRefused(err) {
				m.notes = []string{"the server has ended here: its terminal says why"}
			}
			return result{r, "fails", m.brief(), m}
		}
	}
	switch {
	case m != nil:
		return result{r, r.outcome(reply, err), m.brief(), m}
	case !g.environ && len(r.Has)+len(r.Not) > 0:
		return result{row: r, Outcome: "unseen"}
	}
	return result{row: r, Outcome: "passes"}
}

// outcome says what it means that a reply is not the one expected.
func (r row) outcome(reply string, err error) string {
	refusal := regexp.MustCompile(`^(HTTP/1.[01] )?[45]\d\d`)
	wanted := refusal.MatchString(r.Want)
	switch {
	case *strict:
		return "fails"
	case wanted && reply == "" && !errors.Is(err, os.ErrDeadlineExceeded):
		return "hung up"
	case r.Level == "P", strings.HasSuffix(r.Level, "*"),
		wanted && refusal.MatchString(reply):
		return "differs"
	}
	return "fails"
}

// report has a line for each rule that is broken, explains the first row that fails, or
// three of the one rule that was asked for, and counts by chapter.
func (g *grading) report(results []result, one bool) int {
	var failed *result
	broken, all := map[string]int{}, map[string]int{}
	for i, r := range results {
		if all[r.rule()]++; r.Outcome == "fails" {
			broken[r.rule()]++
			failed = cmp.Or(failed, &results[i])
		}
	}
	fmt.Printf("\n%s, %d rows of docs/conformance.md:\n\n", g.addr, len(results))
	for _, r := range results {
		if n := broken[r.rule()]; r.Outcome == "fails" && n > 0 {
			fmt.Printf("NO  chapter %d  %s (%d of %d rows): %s\n", r.Chapter, r.rule(), n,
				all[r.rule()], r.Fault)
			broken[r.rule()] = 0
		}
	}
	explained := 0
	for i := range results {
		if r := &results[i]; r == failed || one && r.m != nil && explained < 3 {
			fmt.Printf("\n%s: %s\n", r.Outcome, r.Name)
			r.m.notes = append([]string{r.hint()}, r.m.notes...)
			rule := r.Source + "; level " + r.Level + "; " + chapterPage(r.Chapter)
			r.m.explain(os.Stdout, visible(r.Send), rule)
			explained++
		}
	}
	fmt.Println()
	unseen := g.total(results)
	last := results[len(results)-1].Chapter
	next := chapterPage(last + 1)
	next += fmt.Sprintf(", then %s server %s 3-%d", self, g.addr, last+1)
	switch {
	case failed != nil:
		fmt.Printf("the first row that fails: %s\n", failed.Name)
		next = fmt.Sprintf("%s server %s %s", self, g.addr, failed.id())
		if g.gone.Load() {
			next = "start it again, then " + next
		}
	case one:
		next = fmt.Sprintf("%s server %s %d", self, g.addr, last)
	case last == 7 && unseen:
		next = "answer with environ, a line like REQUEST_METHOD: GET for each key " +
			"(docs/conformance.md)"
	case last == 7:
		next = chapterPage(8)
	}
	fmt.Println("next:", next)
	return exitStatus(failed == nil)
}

// total counts by chapter, and reports whether something could not be judged.
func (g *grading) total(results []result) (unseen bool) {
	for rest := results; len(rest) > 0; {
		chapter, n := rest[0].Chapter, map[string]int{}
		for ; len(rest) > 0 && rest[0].Chapter == chapter; rest = rest[1:] {
			n[rest[0].Outcome]++
			n["all"]++
		}
		fmt.Printf("chapter %d  %3d of %3d rows pass", chapter, n["passes"], n["all"])
		for _, other := range [][2]string{{"fails", "fail"},
			{"differs", "differ where they may"}, {"hung up", "hung up: 400 would say why"},
			{"unseen", "cannot be judged"}, {"untried", "not tried"}} {
			if n[other[0]] > 0 {
				fmt.Printf(", %d %s", n[other[0]], other[1])
			}
		}
		fmt.Printf("  (%s)\n", chapterPage(chapter))
		unseen = unseen || n["unseen"] > 0
	}
	if unseen {
		fmt.Println("What cannot be judged has the right status, but does not show environ.")
	}
	return unseen
}

// ---------------------------------------------------------------- Hosts and proxies
//
// These rows come from the last tables of docs/conformance.md. They have two sides: bytes
// are given on one, and a message is looked at on the other.

// An edge is one of these rows.
type edge struct {
	row
	expected string // the sixth cell
}

// edges reads the table under a heading: id, level, rule, source, given, expected.
func edges(heading string) (rows []edge) {
	_, section, _ := strings.Cut(page("docs/conformance.md"), "\n### "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	for line := range strings.Lines(section) {
		cells := rowCells(line)
		if cells == nil {
			continue
		}
		e := edge{row{Name: cells[0] + " " + cells[2], Level: cells[1], Source: cells[3]},
			cells[5]}
		if given, ok := strings.CutPrefix(cells[4], "`"); ok { // or nothing
			e.Send = []byte(drawn{}.expand(strings.TrimSuffix(given, "`")))
		}
		rows = append(rows, e)
	}
	return rows
}

// judge compares the message on the other side with the row. The version of an answer is
// the server's own matter, and so is the case of letters.
func (e *edge) judge(message string) *mismatch {
	spans := regexp.MustCompile("(not |body |page )?`([^`]*)`")
	head, body, _ := strings.Cut(message, "\r\n\r\n")
	end := regexp.MustCompile(`\r?\n\r?\n`).FindStringIndex(message)
	if end != nil && !*strict {
		head, body = message[:end[0]], message[end[1]:] // LF alone: RFC 9112 §2.2
		head = regexp.MustCompile(`\r?\n`).ReplaceAllString(head, "\r\n")
	}
	head = regexp.MustCompile(`^HTTP/1\.\d `).ReplaceAllString(head, "")
	for i, span := range spans.FindAllStringSubmatch(e.expected, -1) {
		about, text := span[1], drawn{}.expand(span[2])
		found := strings.Contains(strings.ToLower("\r\n"+head), "\r\n"+strings.ToLower(text))
		switch {
		case i == 0:
			if e.Want = text; !strings.HasPrefix(head, text) {
				return differ(text, head)
			}
		case about == "body " && body != text:
			return differ(text, body)
		case about == "page " && !strings.Contains(body, text):
			return likeliest("a page with ", text, body)
		case about == "not " && found:
			return &mismatch{expected: "no field " + text, came: headerLine(head, text)}
		case about == "" && !found && !sameOnLines(text, head):
			return differ(text, cmp.Or(headerLine(head, text), "(no such field)"))
		}
	}
	if e.Want == "" && message != "" {
		return &mismatch{expected: "nothing", came: message}
	}
	return nil
}

// sameOnLines reports whether a head has a field's list on several lines, in its order:
// RFC 9110 §5.3 leaves it to a proxy whether it joins them.
func sameOnLines(field, head string) bool {
	name, value, _ := strings.Cut(field, ": ")
	lines := strings.ReplaceAll(headerLine(head, field), "\r\n"+name+": ", ",")
	return lines == name+": "+value
}

// result judges a row's message; an exchange that failed is its cause.
func (e edge) result(message string, err error) result {
	m := e.judge(message)
	if m == nil {
		return result{row: e.row, Outcome: "passes"}
	}
	if err != nil && message == "" {
		m.notes = []string{"the exchange did not end well: " + err.Error()}
	}
	return result{e.row, e.outcome(message, err), m.brief(), m}
}

// gradeApplications sends rows to the applications of a gallery.
func gradeApplications(addr, heading string) int {
	var results []result
	for _, e := range edges(heading) {
		results = append(results, e.result(e.ask(addr, edgePatience)))
	}
	return reportEdges(addr, results)
}

const edgePatience = 10 * time.Second // for a program to start, or for an upstream

// gradeHost asks a CGI host for programs that it writes into a directory which the host
// serves under an address like http://127.0.0.1:8000/cgi-bin/.
func gradeHost(address, dir string) int {
	target, err := url.Parse(strings.TrimSuffix(address, "/") + "/")
	if err == nil && (target.Scheme != "http" || target.Port() == "") {
		err = fmt.Errorf("expected an address like http://127.0.0.1:8000/cgi-bin/, not %q",
			address)
	}
	die(err)
	var results []result
	for i, e := range edges("CGI hosts") {
		file := fmt.Sprintf("row%02d.cgi", i+1)
		die(os.WriteFile(filepath.Join(dir, file), []byte(printer(e.Send)), 0o755))
		get := e.row
		get.Send = fmt.Appendf(nil, "GET %s%s HTTP/1.0\r\nHost: %s\r\n\r\n", target.Path, file,
			target.Host)
		results = append(results, e.result(get.ask(target.Host, edgePatience)))
	}
	return reportEdges(address, results)
}

// printer is a program for a Unix shell that prints these bytes, each in octal.
func printer(output []byte) string {
	var octal strings.Builder
	for _, b := range output {
		fmt.Fprintf(&octal, `\0%03o`, b)
	}
	return "#!/bin/sh\nprintf %b '" + octal.String() + "'\n"
}

// An upstream is the server to which a proxy forwards. It answers each connection once.
type upstream struct {
	net.Listener
	mu     sync.Mutex
	answer []byte
	got    *limitedBuffer // what arrives
}

// gradeProxy is both the client and the upstream of a proxy.
func gradeProxy(addr, upstreamAddr string) int {
	l, err := net.Listen("tcp", upstreamAddr)
	die(err)
	defer l.Close()
	u := &upstream{Listener: l}
	go u.serve()
	var results []result
	for _, e := range edges("Proxies: what is forwarded") {
		got := u.expect([]byte("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
		_, err := e.ask(addr, edgePatience)
		results = append(results, e.result(got.String(), err))
	}
	for _, e := range edges("Proxies: what is answered") {
		u.expect(e.Send)
		get := e.row
		get.Send = plainRow.Send
		results = append(results, e.result(get.ask(addr, edgePatience)))
	}
	return reportEdges(addr, results)
}

// expect sets the answer to the connections from now on.
func (u *upstream) expect(answer []byte) (got *limitedBuffer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer, u.got = answer, &limitedBuffer{}
	return u.got
}

func (u *upstream) serve() {
	for {
		c, err := u.Accept()
		if err != nil {
			return // closed: all rows are done
		}
		u.mu.Lock()
		answer, got := u.answer, u.got
		u.mu.Unlock()
		go func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(edgePatience))
			request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, got)))
			if err == nil {
				io.Copy(io.Discard, request.Body) // an error leaves it short, as the row shows
			}
			c.Write(answer) // fails if the proxy has gone, which the client sees
		}()
	}
}

// reportEdges has a line for each row that fails, explains the first, and counts.
func reportEdges(name string, results []result) int {
	if *asJSON {
		return printJSON(results)
	}
	fmt.Printf("\n%s, %d rows of docs/conformance.md:\n\n", name, len(results))
	count := map[string]int{}
	var failed *result
	for i, r := range results {
		if count[r.Outcome]++; r.Outcome == "fails" {
			fmt.Printf("NO  %s: %s\n", r.Name, r.Fault)
			failed = cmp.Or(failed, &results[i])
		}
	}
	if failed != nil {
		fmt.Printf("\n%s: %s\n", failed.Outcome, failed.Name)
		failed.m.explain(os.Stdout, visible(failed.Send), failed.Source+"; level "+failed.Level)
	}
	fmt.Printf("\n%d of %d rows pass, %d fail, %d hung up, %d differ where they may\n",
		count["passes"], len(results), count["fails"], count["hung up"], count["differs"])
	return exitStatus(failed == nil)
}

// ---------------------------------------------------------------- Exercises

// An exercise is a directory of docs/exercises.
type exercise struct {
	name   string // "07-body"
	number string // "07"
	dir    string // docs/exercises/07-body
	title  string // "A body may come in pieces"
	served string // inside rawsgi, what is served: "gzipped(probes)"; otherwise ""
	stdin  bool   // it reads standard input
	staged bool   // its checks are stages: after the first that fails, there is no next
	checks []check
	hints  []string
}

// A check is a line of an exercise's table; the cause is a usual one if it fails.
type check struct{ name, sent, expected, rule, cause string }

// exercises reads docs/exercises.
var exercises = sync.OnceValue(func() (all []*exercise) {
	dirs := glob("docs/exercises/[0-9][0-9]*-*")
	for _, dir := range dirs {
		x := &exercise{name: filepath.Base(dir), dir: filepath.ToSlash(dir)}
		x.number, _, _ = strings.Cut(x.name, "-")
		x.read(page(filepath.Join(dir, "README.md")))
		for _, hint := range strings.Split(page(filepath.Join(dir, "hints.md")), "\n## ")[1:] {
			_, text, _ := strings.Cut(hint, "\n")
			x.hints = append(x.hints, strings.TrimSpace(text))
		}
		all = append(all, x)
	}
	return all
})

// read reads a README: its heading, its kind, the table of checks, and the usual causes.
func (x *exercise) read(text string) {
	heading, _, _ := strings.Cut(text, "\n")
	_, x.title, _ = strings.Cut(heading, ". ")
	kinds := regexp.MustCompile("(?m)^Kind: .*?(standard input.*|served as `(.*)`.*)?$")
	if kind := kinds.FindStringSubmatch(text); kind != nil {
		x.served, x.stdin = kind[2], strings.HasPrefix(kind[1], "standard input")
	}
	causes := map[string]string{}
	usual := regexp.MustCompile("(?m)^- `(.*?)`: (.*)$")
	for _, cause := range usual.FindAllStringSubmatch(text, -1) {
		causes[cause[1]] = cause[2]
	}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(line, "|\n "), " | ")
		if len(cells) >= 4 && cells[0] != "check" {
			cause := strings.Join(append(cells[4:], causes[cells[0]]), "")
			x.checks = append(x.checks, check{cells[0], cells[1], cells[2], cells[3], cause})
			x.staged = x.staged || strings.HasPrefix(cells[1], "rows ")
		}
	}
}

// exerciseNamed finds an exercise: 7, 07, 00a, teapot.
func exerciseNamed(which string) *exercise {
	if n, err := strconv.Atoi(which); err == nil {
		which = fmt.Sprintf("%02d", n)
	}
	for _, x := range exercises() {
		if x.number == which || len(which) > 3 && strings.Contains(x.name, which) {
			return x
		}
	}
	return nil
}

// overview lists the exercises and what is passed.
func overview() int {
	for _, x := range exercises() {
		mark := ""
		if file, content := x.find("mine"); x.passed(content) {
			mark = "ok"
		} else if file != "" {
			mark = "..."
		}
		fmt.Printf("  %-3s  %-3s  %s\n", mark, x.number, x.title)
	}
	fmt.Printf("also      %d hunts: %s hunt 1\n", len(hunts()), self)
	progress()
	return solved
}

// work begins an exercise, shows a hint, serves it, or checks it.
func (x *exercise) work(file string) int {
	own := file == ""
	if own {
		file, _ = x.find("mine")
	}
	switch {
	case *hintAsked > 0:
		n := min(*hintAsked, len(x.hints))
		fmt.Printf("Hint %d of %d for %s\n\n%s\n", n, len(x.hints), x.name, x.hints[n-1])
		return solved
	case file == "":
		fmt.Printf("\nExercise %s  %s\n", x.number, x.title)
		fmt.Printf("  start here: %s\n", strings.Join(x.begin(), " or "))
		fmt.Printf("  read      %s/README.md\n  then      %s %s\n", x.dir, self, x.number)
		return notYet
	case *serving:
		command, dir, err := x.build(file, "8000")
		defer os.RemoveAll(dir)
		return serveByHand(command, err)
	}
	for {
		before := stamp(file)
		code := x.checkFile(file, own)
		if !*watching {
			return code
		}
		fmt.Printf("watching %s; end it with Ctrl-C\n", file)
		for stamp(file) == before {
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// stamp changes when a file is saved.
func stamp(file string) string {
	stat, err := os.Stat(file)
	if err != nil {
		return "" // an editor may be replacing it
	}
	return fmt.Sprint(stat.ModTime(), stat.Size())
}

func (x *exercise) checkFile(file string, own bool) int {
	content, _ := readSource(file) // attempt says what is wrong with it
	a := x.attempt(os.Stdout, file, false)
	if a.ok() {
		solutions := glob(x.dir + "/solution.*")
		fmt.Printf("solved    another solution: %s\n", strings.Join(solutions, ", "))
	}
	if own {
		x.note(content, a.ok())
		progress()
	}
	return exitStatus(a.ok())
}

// begin puts the starters of an exercise where students work: a module of its own, so
// that neither git nor ./... sees what they do there.
func (x *exercise) begin() (files []string) {
	starters := glob(x.dir + "/starter.*")
	for _, starter := range starters {
		file := "mine/" + x.name + filepath.Ext(starter)
		write(file, page(starter))
		files = append(files, file)
	}
	write("mine/go.mod", "module mine\n")
	return files
}

var languages = []string{".go", ".js", ".py"}

// find returns the student's file in a directory, "" if there is none. Of several, in
// different languages, the one that is no longer its starter is meant.
func (x *exercise) find(dir string) (file string, content []byte) {
	for _, extension := range languages {
		candidate := filepath.Join(dir, x.name+extension)
		if _, err := os.Lstat(candidate); err != nil {
			continue
		}
		file = candidate
		starter, _ := os.ReadFile(x.dir + "/starter" + extension) // none: all differs
		if content, _ = readSource(file); !bytes.Equal(starter, content) {
			break // without content, build says why
		}
	}
	return file, content
}

// readSource reads a student's file, which may be anything: a pipe would block for ever.
func readSource(file string) ([]byte, error) {
	const most = 1 << 20 // bytes
	stat, err := os.Stat(file)
	if err == nil && (!stat.Mode().IsRegular() || stat.Size() > most) {
		err = fmt.Errorf("%s: expected a regular file of at most %d bytes", file, most)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// passedLine is the line of mine/passed.txt about a file that passes: a change of it
// makes that untrue.
func (x *exercise) passedLine(content []byte) string {
	return fmt.Sprintf("%s %x\n", x.name, sha256.Sum256(content))
}

func (x *exercise) passed(content []byte) bool {
	list, _ := os.ReadFile("mine/passed.txt") // not there before the first passes
	return strings.Contains(string(list), x.passedLine(content))
}

// note writes down whether a file passes.
func (x *exercise) note(content []byte, passes bool) {
	list, _ := os.ReadFile("mine/passed.txt") // not there before the first passes
	text := regexp.MustCompile("(?m)^"+x.name+" .*\n").ReplaceAllString(string(list), "")
	if passes {
		text += x.passedLine(content)
	}
	write("mine/passed.txt", text)
}

// progress prints how many exercises pass, and which is the next.
func progress() {
	done, next := 0, ""
	for _, x := range exercises() {
		if _, content := x.find("mine"); x.passed(content) {
			done++
		} else if next == "" {
			next = x.number
			fmt.Printf("next      %s %s\n", self, next)
		}
	}
	n := len(exercises())
	bar := strings.Repeat("#", done) + strings.Repeat(".", n-done)
	fmt.Printf("progress  [%s] %d of %d\n", bar, done, n)
}

// serveByHand runs a program on the terminal until Ctrl-C.
func serveByHand(command []string, err error) int {
	die(err)
	signal.Ignore(os.Interrupt) // it is for the program
	program := exec.Command(command[0], command[1:]...)
	program.Stdin, program.Stdout, program.Stderr = os.Stdin, os.Stdout, os.Stderr
	fmt.Println("Serving on http://127.0.0.1:8000/; end it with Ctrl-C.")
	program.Run() // that it was interrupted is no error
	return solved
}

// ---------------------------------------------------------------- From file to program

// build makes a program of a student's file that serves on a port. A file for rawsgi is
// compiled together with its sources and the probes. The caller removes the directory.
func (x *exercise) build(file, port string, flags ...string) (
	command []string, dir string, err error) {
	source, err := readSource(file)
	if err != nil {
		return nil, "", err
	}
	interpreters := map[string]string{".py": "python3", ".js": "node"}
	if interpreter := interpreters[filepath.Ext(file)]; interpreter != "" {
		path, err := filepath.Abs(file)
		return []string{interpreter, path, port}, "", err
	}
	text := strings.ReplaceAll(string(source), "127.0.0.1:8000", "127.0.0.1:"+port)
	files := map[string]string{"student.go": positioned(file, text)}
	if x.served != "" {
		own := declares(text)
		files["served.go"] = "package main\nfunc init() { serveExercise(" + x.served + ") }\n"
		const probes = "docs/exercises/probes.go"
		tools := setAside(page(probes), own)
		files["probes.go"] = positioned(probes, tools)
		maps.Copy(own, declares(tools))
		for _, name := range strings.Fields("main.go server.go request.go response.go app.go") {
			files[name] = positioned(name, setAside(page(name), own))
		}
	}
	return compile(files, port, flags...)
}

// compile builds student.go, or rawsgi if there are other files, which then are put in
// the place of its own.
func compile(files map[string]string, port string, flags ...string) (
	command []string, dir string, err error) {
	dir, err = os.MkdirTemp("", "check-")
	die(err)
	program := filepath.Join(dir, "program.exe") // a name that runs everywhere
	overlay, what := filepath.Join(dir, "overlay.json"), "."
	if len(files) == 1 && files["student.go"] != "" {
		what = filepath.Join(dir, "student.go")
	}
	replace := map[string]string{}
	for name, content := range files {
		original, err := filepath.Abs(name)
		die(err)
		replace[original] = filepath.Join(dir, name)
		write(replace[original], content)
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	die(err)
	write(overlay, string(list))
	args := append([]string{"build", "-gcflags", "-N -l", "-ldflags", "-s -w", // fast
		"-overlay", overlay, "-o", program}, append(flags, what)...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return nil, dir, fmt.Errorf("%s%v", out, cmp.Or(ctx.Err(), err))
	}
	return []string{program, port}, dir, nil
}

// raceFlags are those of a build with the race detector, where there is a C compiler.
var raceFlags = sync.OnceValue(func() (flags []string) {
	out, err := exec.Command("go", "env", "CGO_ENABLED", "CC").Output()
	enabled, compiler, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	_, missing := exec.LookPath(compiler)
	if err == nil && missing == nil && enabled == "1" {
		flags = []string{"-race"}
	}
	return flags
})

// positioned returns a source that says where it is from, so that the compiler's errors
// name the file that the student knows. Its build constraint is gone.
func positioned(file, source string) string {
	path, err := filepath.Abs(file)
	die(err)
	source = strings.Replace(source, "//go:build ignore\n", "\n", 1)
	return fmt.Sprintf("//line %s:1\n%s", path, source)
}

// declares returns the names that a source declares for its package.
func declares(source string) map[string]bool {
	// The compiler says better what is wrong with it.
	file, _ := parser.ParseFile(token.NewFileSet(), "", source, 0)
	names := map[string]bool{}
	for name := range file.Scope.Objects {
		names[name] = true
	}
	return names
}

// setAside appends a "_" to names in a source of ours, those that the student's file
// declares: students may give a function any name.
func setAside(source string, names map[string]bool) string {
	var out strings.Builder
	last := 0
	for offset, name := range tokens(source) {
		if names[name] {
			out.WriteString(source[last:offset+len(name)] + "_")
			last = offset + len(name)
		}
	}
	return out.String() + source[last:]
}

// tokens yields what a Go source is made of, without white space and comments.
func tokens(source string) func(yield func(offset int, text string) bool) {
	return func(yield func(int, string) bool) {
		var s scanner.Scanner
		file := token.NewFileSet().AddFile("", -1, len(source))
		s.Init(file, []byte(source), func(token.Position, string) {}, 0)
		for {
			position, kind, text := s.Scan()
			if kind == token.EOF || !yield(file.Offset(position), cmp.Or(text, kind.String())) {
				return
			}
		}
	}
}

// ---------------------------------------------------------------- Checks

// An attempt is what came of one file.
type attempt struct {
	broken string // what the compiler says
	passed int
	failed []string // names of checks, in their order
}

func (a attempt) ok() bool { return a.broken == "" && a.failed == nil }

// onceMore is the check after all others: the table again, in one process.
const onceMore = "once more"

// attempt builds a file, runs all checks or some, and reports them as they are done; the
// first that fails is explained. When all pass, they run once more, with the race
// detector. To build with that takes long; it is done at once if raced.
func (x *exercise) attempt(w io.Writer, file string, raced bool, only ...string) attempt {
	a := attempt{}
	fmt.Fprintf(w, "\nExercise %s  %s\n", x.number, x.title)
	wanted := func(name string) bool { return only == nil || slices.Contains(only, name) }
	var flags []string
	if raced {
		flags = raceFlags()
	}
	port := freePort()
	command, dir, err := x.build(file, port, flags...)
	defer os.RemoveAll(dir)
	if err != nil {
		fmt.Fprintf(w, "  it does not compile:\n%s\n", err)
		return attempt{broken: err.Error()}
	}
	report := func(c check, m *mismatch) {
		if m == nil {
			a.passed++
			fmt.Fprintf(w, "  ok   %s\n", c.name)
			return
		}
		fmt.Fprintf(w, "  NO   %s\n", c.name)
		if a.failed = append(a.failed, c.name); len(a.failed) == 1 {
			m.explain(w, strings.ReplaceAll(c.sent, "`", ""), c.rule)
			fmt.Fprintf(w, "       next      %s -hint 1 %s\n", self, x.number)
		}
	}
	for _, c := range x.checks {
		if !wanted(c.name) {
			continue
		}
		waiting := time.AfterFunc(3*time.Second, func() {
			fmt.Fprintf(os.Stderr, "  ...  waiting: %s\n", c.name)
		})
		m := x.run(c, port, command)
		waiting.Stop()
		report(c, m)
		if m != nil && (x.staged || slices.Contains(m.notes, errDeaf.Error())) {
			break // none of the others could pass
		}
	}
	if x.total() > len(x.checks) && a.failed == nil && wanted(onceMore) {
		if flags == nil && raceFlags() != nil {
			command, dir, err = x.build(file, port, raceFlags()...)
			defer os.RemoveAll(dir)
			die(err) // it has compiled before
		}
		report(x.again(port, command))
	}
	fmt.Fprintf(w, "%d of %d pass\n", a.passed, x.total())
	return a
}

// total is the number of checks, with the one that comes after the table.
func (x *exercise) total() int {
	if x.stdin || x.staged {
		return len(x.checks)
	}
	return len(x.checks) + 1
}

// run tries a check with a new process. Being late is looked at twice: the machine may be
// busy.
func (x *exercise) run(c check, port string, command []string) *mismatch {
	m := x.try(c, port, command)
	if m != nil && m.late {
		m = x.try(c, port, command)
	}
	return m
}

func (x *exercise) try(c check, port string, command []string) (m *mismatch) {
	addr := "127.0.0.1:" + port
	if x.stdin {
		addr = ""
	}
	p, err := start(addr, command...)
	if err != nil {
		return &mismatch{expected: "a program that starts", came: err.Error()}
	}
	defer p.stop()
	var e exchange
	d := drawn{}
	kind, which, _ := strings.Cut(c.sent, " ")
	switch {
	case kind == "rows":
		m = p.rows(number(strings.TrimPrefix(which, "ch")))
	case kind == "with":
		e.reply, e.err = p.askWith(which)
	case x.stdin:
		e = p.feed(c.sent, d)
	default:
		e = p.talk(c.sent, d, false)
	}
	if e.reply == "" {
		p.endsWithin(200 * time.Millisecond) // it may be about to
	}
	if strings.Contains(c.expected, "no log `") {
		time.Sleep(50 * time.Millisecond) // a log may be later than the answer
	}
	for end := time.Now().Add(time.Second); m == nil; time.Sleep(5 * time.Millisecond) {
		log := p.log()
		m = judge(c.expected, d, e, log)
		if m == nil || time.Now().After(end) || !strings.HasSuffix(log, m.came) {
			break
		}
		m = nil // what is missing in the log may come
	}
	if m == nil && !x.stdin {
		m = cmp.Or(x.stillAnswers(p), x.raceIn(p))
	}
	if m != nil {
		m.conclude(c.cause, e, p)
	}
	return m
}

// conclude adds to a mismatch the usual cause, and how the connection and the program
// have ended.
func (m *mismatch) conclude(cause string, e exchange, p *child) {
	m.notes = append([]string{cause}, m.notes...)
	if m.came == "" && e.reply == "" && e.after > 0 {
		m.came = fmt.Sprintf("(nothing: hung up after %.1f s)", e.after.Seconds())
	}
	if e.err != nil {
		m.notes = append(m.notes, e.err.Error())
	}
	if p.endsWithin(0) && p.addr != "" {
		m.notes = append(m.notes, "the program has ended")
	}
	m.printed = p.log()
}

// stillAnswers sends the bytes of the first check. Any answer will do, but it must not be
// the program's last.
func (x *exercise) stillAnswers(p *child) *mismatch {
	first := x.checks[0]
	if first.expected == "nothing" {
		return nil
	}
	p.endsWithin(20 * time.Millisecond) // it may be about to
	e := p.talk(first.sent, drawn{}, true)
	if e.reply != "" && !p.endsWithin(10*time.Millisecond) {
		return nil
	}
	m := &mismatch{expected: "an answer also to the next client", came: e.reply,
		notes: []string{"this check went well, but not what came after it"}}
	if e.err != nil {
		m.notes = append(m.notes, e.err.Error())
	}
	return m
}

// again sends the table once more, to one process, four rows at a time: what one client
// leaves behind must not reach another.
func (x *exercise) again(port string, command []string) (c check, m *mismatch) {
	c = check{name: onceMore, sent: "all of the table, four rows at a time, to one process",
		rule: "docs/09-many-at-once.md"}
	p, err := start("127.0.0.1:"+port, command...)
	if err != nil {
		return c, &mismatch{expected: "a program that starts", came: err.Error()}
	}
	defer p.stop()
	mismatches := make([]*mismatch, len(x.checks))
	logs := regexp.MustCompile("(no )?log `[^`]*`")
	several(4, len(x.checks), func(i int) {
		sent, d := x.checks[i].sent, drawn{}
		if slices.Contains(scriptWords.FindAllString(sent, -1), "fresh") {
			return
		}
		e := p.talk(sent, d, true)
		mismatches[i] = judge(logs.ReplaceAllString(x.checks[i].expected, ""), d, e, "")
		if mismatches[i] != nil {
			const cause = "by itself, this check passes: does one client meet another's data?"
			mismatches[i].conclude(cause, e, p)
		}
	})
	m = x.stillAnswers(p)
	for i, found := range slices.Backward(mismatches) {
		if found != nil {
			m, c.rule = found, x.checks[i].rule
			c.sent = x.checks[i].sent + " (as in " + x.checks[i].name + ")"
		}
	}
	p.stop()
	m = cmp.Or(m, x.raceIn(p))
	for _, fresh := range x.checks { // these have a process each
		if m == nil && strings.HasSuffix(fresh.sent, " fresh") {
			m = x.try(fresh, port, command)
		}
	}
	return c, m
}

// raceIn finds what the race detector has printed.
func (x *exercise) raceIn(p *child) *mismatch {
	_, race, found := strings.Cut(p.printed.String(), "WARNING: DATA RACE\n")
	if !found {
		return nil
	}
	m := &mismatch{expected: "no data race", came: race,
		notes: []string{"two goroutines use the same data without a lock"}}
	places := regexp.MustCompile(`[^/\s]*(` + x.name + `|starter|solution)\.go:\d+`)
	m.notes = append(m.notes, places.FindAllString(race, 3)...)
	return m
}

// rows sends the rows that a source demands of everyone, and returns the first that
// fails.
func (p *child) rows(chapter int) *mismatch {
	if err := p.listens(); err != nil {
		return &mismatch{expected: "a server", notes: []string{err.Error()}}
	}
	rows := slices.DeleteFunc(readRows(), func(r row) bool {
		return r.Chapter != chapter || r.Level != "M"
	})
	g := &grading{addr: p.addr, environ: true, patience: atMost}
	results := g.try(rows)
	first := slices.IndexFunc(results, func(r result) bool { return r.m != nil })
	if first < 0 {
		return nil
	}
	m := results[first].m
	m.notes = append(m.notes, "row "+rows[first].Name+", "+rows[first].Source,
		"sent "+visible(rows[first].Send), rows[first].hint())
	return m
}

// askWith has curl, chromium, or nginx in front of it, talk to a server. If that program
// is not here, it counts as passed.
func (p *child) askWith(name string) (reply string, err error) {
	if _, err := exec.LookPath(name); err != nil {
		fmt.Fprintf(os.Stderr, "  ...  not tried: there is no %s here\n", name)
		return "HTTP/1.0 200 OK\r\n\r\nREQUEST_METHOD: GET\n", nil
	}
	args, front := []string{"curl", "-sSi", "--max-time", "5"}, p
	switch name {
	case "chromium":
		args = []string{name, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"}
	case "nginx":
		dir, err := os.MkdirTemp("", "check-nginx-")
		die(err)
		defer os.RemoveAll(dir)
		addr, conf := "127.0.0.1:"+freePort(), filepath.Join(dir, "conf")
		write(conf, fmt.Sprintf("daemon off; error_log stderr; pid %s/pid; events {}\n"+
			"http { access_log off; server { listen %s;\n"+
			"location / { proxy_pass http://%s; } } }\n",
			dir, addr, p.addr))
		if front, err = start(addr, name, "-p", dir, "-c", conf); err != nil {
			return "", err
		}
		defer front.stop()
	}
	for _, server := range []*child{p, front} { // until both listen
		if err := server.listens(); err != nil {
			return server.printed.String(), err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args = append(args, "http://"+front.addr+"/a%20b?x=1")
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// ---------------------------------------------------------------- Mistakes
//
// A mistake is a change to a program that works: a wrong answer to an exercise, or a
// hunt.

type mistake struct {
	name     string
	caughtBy string      // the check, or the row's id
	file     string      // of rawsgi, for a hunt
	changes  [][2]string // old and new
	program  string      // instead of changes
}

// mistakes reads a page of them: for each a heading, a line "Refused by `check`: why",
// and pairs of code blocks, "was" and "is".
func mistakes(path string) (list []mistake) {
	block := regexp.MustCompile("(?ms)^```\\w+ (?:(\\S+) )?(was|is|program)\n(.*?)^```$")
	for _, section := range strings.Split(page(path), "\n## ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		m := mistake{name: strings.TrimSpace(name)}
		_, refused, _ := strings.Cut(text, "Refused by `")
		m.caughtBy, _, _ = strings.Cut(refused, "`")
		for _, b := range block.FindAllStringSubmatch(text, -1) {
			switch m.file = cmp.Or(m.file, b[1]); b[2] {
			case "was":
				m.changes = append(m.changes, [2]string{b[3]})
			case "is":
				m.changes[len(m.changes)-1][1] = b[3]
			case "program":
				m.program = b[3]
			}
		}
		list = append(list, m)
	}
	return list
}

// apply makes the mistake in a source.
func (m mistake) apply(source string) (string, error) {
	if m.program != "" {
		return m.program, nil
	}
	for _, change := range m.changes {
		old, new := change[0], change[1]
		if strings.Count(source, old) != 1 { // it may be a part of a line
			old, new = strings.TrimSuffix(old, "\n"), strings.TrimSuffix(new, "\n")
		}
		if n := strings.Count(source, old); n != 1 {
			return "", fmt.Errorf("%s: expected once, found %d times:\n%s", m.name, n, old)
		}
		source = strings.Replace(source, old, new, 1)
	}
	return source, nil
}

// hunts are rawsgi with one mistake each.
var hunts = sync.OnceValue(func() []mistake {
	return mistakes("docs/exercises/hunts.md")
})

// build makes a program of rawsgi with the mistake.
func (m mistake) build(port string) (command []string, dir string, err error) {
	source, err := m.apply(page(m.file))
	if err != nil {
		return nil, "", err
	}
	command, dir, err = compile(map[string]string{m.file: source}, port)
	if err == nil {
		command = append(command[:1], "-quiet", "-app", "environ", "-timeout", "2s",
			"-addr", "127.0.0.1:"+port)
	}
	return command, dir, err
}

// hunt builds and serves a hunt's program, gives a hint, or takes the answer.
func hunt(which string) int {
	n, err := strconv.Atoi(which)
	if err != nil || n < 1 || n > len(hunts()) {
		fmt.Fprintf(os.Stderr, "the hunts are %s hunt 1 to hunt %d\n", self, len(hunts()))
		return wrongUsage
	}
	m := hunts()[n-1]
	rows := chosenRows(m.caughtBy)
	clues := []string{fmt.Sprintf("It breaks a rule of chapter %d.", rows[0].Chapter),
		"The rule comes from " + rows[0].Source + ".", "One of these shows it:"}
	var ids []string // of its rows: each is a right answer
	for _, r := range rows {
		ids = append(ids, r.ids()...)
		clues[2] += fmt.Sprintf("\n  %.200s", visible(r.Send))
	}
	given := strings.ToUpper(*answer)
	switch {
	case *hintAsked > 0:
		fmt.Println(clues[min(*hintAsked, 3)-1])
		return solved
	case slices.Contains(ids, given):
		fmt.Printf("Right, it is %s. The mistake: %s.\nnext: %s hunt %d\n", given, m.name,
			self, n%len(hunts())+1)
		return solved
	case given != "":
		fmt.Printf("It is not %s. %s For more: %s -hint 2 hunt %d\n", given, clues[0], self, n)
		return notYet
	}
	fmt.Printf("Hunt %d: this program breaks a row of docs/conformance.md. Send it bytes,\n"+
		"then  %s hunt %d -answer ID\n", n, self, n)
	command, dir, err := m.build("8000")
	defer os.RemoveAll(dir)
	return serveByHand(command, err)
}

// author holds an exercise to itself: the starter fails, the solution passes, each wrong
// answer is refused by its check; and the hunts to their rows.
func author(which string, names []string) int {
	code := solved
	hold := func(name string, problem func() string) {
		if len(names) > 0 && !slices.Contains(names, filepath.Base(name)) {
			return
		}
		if text := problem(); text != "" {
			fmt.Printf("  NO   %s: %s\n", name, text)
			code = notYet
			return
		}
		fmt.Printf("  ok   %s\n", name)
	}
	if which == "hunts" {
		for _, m := range hunts() {
			hold(m.name, m.unseen)
		}
		return code
	}
	x := exerciseNamed(which)
	if x == nil {
		die(errors.New("there is no exercise " + which))
	}
	starters := glob(x.dir + "/starter.*")
	solutions := glob(x.dir + "/solution.*")
	for _, file := range starters {
		hold(file, func() string {
			passes := x.attempt(io.Discard, file, false).ok()
			return map[bool]string{true: "the starter passes"}[passes]
		})
	}
	for _, file := range solutions {
		hold(file, func() string {
			for n := range *times {
				var report strings.Builder
				if !x.attempt(&report, file, n > 0).ok() {
					return fmt.Sprintf("fails, the time number %d\n%s", n+1, report.String())
				}
			}
			return ""
		})
	}
	for _, m := range mistakes(x.dir + "/wrong.md") {
		hold(m.name, func() string { return x.accepts(m, solutions[0]) })
	}
	return code
}

// accepts says why a wrong answer is not refused as it should be.
func (x *exercise) accepts(m mistake, solution string) (problem string) {
	source, err := m.apply(page(solution))
	if err != nil {
		return err.Error()
	}
	dir, err := os.MkdirTemp("", "check-wrong-")
	die(err)
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, x.name+filepath.Ext(solution))
	write(file, source)
	var report strings.Builder
	a := x.attempt(&report, file, m.caughtBy == onceMore, m.caughtBy)
	if !slices.Contains(a.failed, m.caughtBy) {
		return fmt.Sprintf("expected the check %q to refuse it\n%s", m.caughtBy, &report)
	}
	return ""
}

// unseen says why a hunt is not refused by its row, and few others.
func (m mistake) unseen() string {
	port := freePort()
	command, dir, err := m.build(port)
	defer os.RemoveAll(dir)
	if err != nil {
		return err.Error()
	}
	p, err := start("127.0.0.1:"+port, command...)
	die(err)
	defer p.stop()
	die(p.listens())
	*strict = true
	caught := map[string]bool{}
	rows := slices.DeleteFunc(readRows(), func(r row) bool {
		return len(r.Send) > 1<<17 // they take long, and are about limits
	})
	g := &grading{addr: p.addr, environ: true, patience: 5 * time.Second}
	for _, r := range g.try(rows) {
		if r.m != nil {
			caught[r.id()] = true
		}
	}
	if !caught[m.caughtBy] || len(caught) > 6 {
		return fmt.Sprintf("expected %s and few others to refuse it, got %q", m.caughtBy,
			slices.Sorted(maps.Keys(caught)))
	}
	return ""
}

// ---------------------------------------------------------------- A class

// A student is a directory of a class, and what came of it.
type student struct {
	name, dir string
	cells     []string // for the table, one for each exercise
	lines     []string // for class.csv
	failing   []string // "07 cut short": the first that fails, in programs that compile
	unknown   []string // files that belong to no exercise
}

// checkClass checks the files of all students, two students at a time. It prints a table,
// and writes class.csv and a file of feedback for each student.
func checkClass(dir string, which []string) int {
	chosen := slices.DeleteFunc(slices.Clone(exercises()), func(x *exercise) bool {
		isThis := func(w string) bool { return exerciseNamed(w) == x }
		return len(which) > 0 && !slices.ContainsFunc(which, isThis)
	})
	entries, err := os.ReadDir(dir)
	die(err)
	var students []*student
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if stat, err := os.Stat(path); err == nil && stat.IsDir() { // a link may lead to one
			students = append(students, &student{name: entry.Name(), dir: path})
		}
	}
	if len(chosen) == 0 || students == nil {
		die(errors.New(dir + ": expected a directory for each student, and exercises"))
	}
	report := cmp.Or(*output, filepath.Clean(dir)+"-report")
	fmt.Println("This runs the programs of students. Do it where they can do no harm: in " +
		"a container without network, or under an account of its own.")
	owners := owners(students, chosen)
	var mu sync.Mutex
	writeCSV(report, students, false)
	several(cmp.Or(*jobs, 3*runtime.NumCPU()), len(students), func(i int) {
		students[i].check(chosen, owners, report)
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stderr, "checked: %s\n", visible(students[i].name))
	})
	writeCSV(report, students, true)
	printClass(students, chosen)
	fmt.Println("all of it:", report)
	return solved
}

// source finds a student's file of an exercise, in the directory or in its mine/.
func (s *student) source(x *exercise) (string, []byte) {
	file, content := x.find(s.dir)
	if file == "" {
		file, content = x.find(filepath.Join(s.dir, "mine"))
	}
	return file, content
}

// fingerprint is a program without its comments and white space.
func (x *exercise) fingerprint(source []byte) string {
	words := []string{x.number}
	for _, text := range tokens(string(source)) {
		words = append(words, strings.TrimSpace(text))
	}
	return strings.Join(words, " ")
}

// owners says who has which program: starters, solutions and students.
func owners(students []*student, chosen []*exercise) map[string][]string {
	owners := map[string][]string{}
	for _, x := range chosen {
		ours := glob(x.dir + "/s[ot]*.*")
		for _, file := range ours {
			key := x.fingerprint([]byte(page(file)))
			name, _, _ := strings.Cut(filepath.Base(file), ".")
			owners[key] = append(owners[key], "the "+name)
		}
		for _, s := range students {
			if _, content := s.source(x); content != nil {
				key := x.fingerprint(content)
				owners[key] = append(owners[key], s.name)
			}
		}
	}
	return owners
}

// check checks a student's files, and writes the feedback.
func (s *student) check(chosen []*exercise, owners map[string][]string, report string) {
	var feedback strings.Builder
	fmt.Fprintf(&feedback, "Feedback for %s\n", visible(s.name))
	for _, x := range chosen {
		s.checkOne(x, owners, &feedback)
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, "mine")} {
		entries, _ := os.ReadDir(dir) // there may be no mine/
		for _, entry := range entries {
			file, extension := entry.Name(), filepath.Ext(entry.Name())
			x := exerciseNamed(strings.TrimSuffix(file, extension))
			if !slices.Contains(languages, extension) || x != nil && x.name+extension == file {
				continue
			}
			s.unknown = append(s.unknown, file)
			s.lines = append(s.lines, csvLine(s.name, "", "", "", "", "not recognised: "+file))
			fmt.Fprintf(&feedback, "\nnot recognised: %s; a file keeps the name of its starter, "+
				"like %s.go\n", visible(file), exercises()[0].name)
		}
	}
	name := regexp.MustCompile(`[^\w.-]`).ReplaceAllString(s.name, "_")
	write(filepath.Join(report, name+".txt"), feedback.String())
}

// checkOne checks one exercise. An untouched starter needs no check.
func (s *student) checkOne(x *exercise, owners map[string][]string, feedback io.Writer) {
	file, content := s.source(x)
	var others []string
	for _, owner := range owners[x.fingerprint(content)] {
		if owner != s.name {
			others = append(others, owner)
		}
	}
	cell, first, remark, a := "-", "", "", attempt{}
	switch {
	case file == "":
		remark = "not handed in"
	case slices.Contains(others, "the starter"):
		cell, remark = "start", "the starter"
	default:
		a = x.attempt(feedback, file, true)
		first = strings.Join(a.failed[:min(1, len(a.failed))], "")
		cell = fmt.Sprintf("%d/%d", a.passed, x.total())
		if a.broken != "" {
			first = "does not compile"
		} else if a.ok() {
			cell = "ok"
		} else {
			s.failing = append(s.failing, x.number+" "+first)
		}
		if others != nil {
			cell, remark = cell+"=", "equal to "+strings.Join(others, ", ")
		}
	}
	s.cells = append(s.cells, cell)
	s.lines = append(s.lines, csvLine(s.name, x.name, strconv.Itoa(10*a.passed/x.total()),
		strconv.Itoa(a.passed), first, remark))
}

// writeCSV writes class.csv; its last line says whether that is all.
func writeCSV(report string, students []*student, complete bool) {
	text := "student,exercise,points,checks passed,first failing check,remark\n"
	for _, s := range students {
		text += strings.Join(s.lines, "")
	}
	end := "complete\n"
	if !complete {
		end = "INCOMPLETE: the class is being checked, or was not to the end\n"
	}
	write(filepath.Join(report, "class.csv"), text+end)
}

// csvLine puts texts into quotes. A spreadsheet would compute one that begins with "=".
func csvLine(cells ...string) string {
	for i, cell := range cells {
		cell = strings.ReplaceAll(visible(cell), `"`, `""`)
		cells[i] = `"` + regexp.MustCompile(`^[=+@-]`).ReplaceAllString(cell, "'$0") + `"`
	}
	return strings.Join(cells, ",") + "\n"
}

func printClass(students []*student, chosen []*exercise) {
	fmt.Printf("\n%-20s", "student")
	for _, x := range chosen {
		fmt.Printf(" %6s", x.number)
	}
	failing := map[string]int{}
	for _, s := range students {
		fmt.Printf("\n%-20.20s", visible(s.name))
		for _, cell := range s.cells {
			fmt.Printf(" %6s", cell)
		}
		for _, name := range s.unknown {
			fmt.Printf("  not recognised: %s", visible(name))
		}
		for _, check := range s.failing {
			failing[check]++
		}
	}
	fmt.Println("\n\n= is equal to the solution or to another's.\n" +
		"Checks that fail first:")
	most := slices.SortedFunc(maps.Keys(failing), func(a, b string) int {
		return cmp.Or(failing[b]-failing[a], strings.Compare(a, b))
	})
	for _, name := range most[:min(10, len(most))] {
		fmt.Printf("  %d of %d students: %s\n", failing[name], len(students), name)
	}
}

//go:build ignore

// Check grades programs from outside: it sends bytes and looks at what comes back.
//
//	go run docs/check.go                        what there is, and how far you have come
//	go run docs/check.go 07                     exercise 07; the first time it gives you a starter
//	go run docs/check.go -watch 07              again after each save
//	go run docs/check.go -hint 1 07             hint 1, 2 or 3
//	go run docs/check.go -serve 07              serve it on 127.0.0.1:8000, to try it by hand
//	go run docs/check.go 07 FILE                check another file than the one in mine/
//	go run docs/check.go server ADDR [3|3-5|R04]     grade any server by docs/conformance.md
//	go run docs/check.go hunt 3                 serve a program with a mistake; -answer R05, -hint 1
//	go run docs/check.go class DIR [07 ...]     check a directory of students
//	go run docs/check.go author 07              hold the exercise itself to its wrong answers
//
// The exit status is 0 for solved, 1 for not yet, 2 for wrong usage. Nothing in this file knows
// what an exercise is about: the tables in docs/exercises/*/README.md and docs/conformance.md are
// the checks, and this program is their interpreter. It is in the order of a check: tables, bytes,
// a program, a client, a verdict; then what is built on that: servers, exercises, hunts, a class.
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
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
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

var (
	hintAsked = flag.Int("hint", 0, "show hint 1, 2 or 3")
	serving   = flag.Bool("serve", false, "serve the program on 127.0.0.1:8000 instead of checking it")
	watching  = flag.Bool("watch", false, "check again after each save")
	answer    = flag.String("answer", "", "the id of the row that a hunt's program breaks, like R05")
	output    = flag.String("o", "", "hunt: build the program here; class: the directory of the report")
	jobs      = flag.Int("jobs", 0, "how many at once (default: server 1, class 2)")
	asJSON    = flag.Bool("json", false, "print results for a program, not for a reader")
	strict    = flag.Bool("strict", false, "server: no row may differ; each head is held to all rules")
	bytewise  = flag.Bool("bytewise", false, "server: send each byte by itself")
	times     = flag.Int("times", 1, "author: how often the solution must pass")
)

const self = "go run docs/check.go" // as it is shown in messages

func main() {
	flag.Usage = func() { usage(os.Stderr) }
	args := positional(os.Args[1:])
	if len(args) > 1 && (args[0] == "class" || !slices.Contains([]string{"server", "hunt", "author"}, args[0])) {
		if path, err := filepath.Abs(args[1]); err == nil {
			args[1] = path // the working directory changes now
		}
	}
	if err := findRoot(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongUsage)
	}
	os.Exit(command(args))
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

func usage(w io.Writer) {
	source, err := os.ReadFile("docs/check.go")
	_, text, _ := strings.Cut(string(source), "back.\n//\n")
	text, _, _ = strings.Cut(text, "//\n//")
	if err != nil || text == "" {
		text = "see docs/exercises/README.md\n"
	}
	fmt.Fprint(w, "usage:\n", strings.ReplaceAll(text, "//\t", "  "))
}

// findRoot changes to the repository's root, upwards from the working directory.
func findRoot() error {
	start, err := os.Getwd()
	for dir := start; err == nil; dir = filepath.Dir(dir) {
		_, noModule := os.Stat(filepath.Join(dir, "go.mod"))
		_, noTable := os.Stat(filepath.Join(dir, "docs", "conformance.md"))
		if noModule == nil && noTable == nil {
			return os.Chdir(dir)
		}
		if dir == filepath.Dir(dir) {
			return fmt.Errorf("%s is not in the course: expected a directory, here or above, "+
				"with go.mod and docs/conformance.md", start)
		}
	}
	return err
}

func command(args []string) (status int) {
	first := append(args, "")[0]
	switch {
	case first == "":
		return overview()
	case first == "server" && (len(args) == 2 || len(args) == 3):
		return gradeServer(args[1], append(args, "")[2])
	case first == "rows" && *asJSON:
		return printJSON(readRows())
	case first == "hunt" && len(args) <= 2:
		return hunt(append(args, "")[1])
	case first == "class" && len(args) >= 2:
		return checkClass(args[1], args[2:])
	case first == "author" && len(args) >= 2:
		return author(args[1], args[2:])
	}
	x := exerciseNamed(first)
	if x == nil || len(args) > 2 {
		fmt.Fprintf(os.Stderr, "there is no exercise %q and no such command\n", strings.Join(args, " "))
		usage(os.Stderr)
		return wrongUsage
	}
	return x.work(append(args, "")[1])
}

func printJSON(value any) int {
	encoder := json.NewEncoder(os.Stdout)
	if err := encoder.Encode(value); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return notYet
	}
	return solved
}

// ---------------------------------------------------------------- The table
//
// docs/conformance.md is read here and nowhere else; its section "How to read a row" is the
// specification of this part.

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
	How     string   // "then end" our half, "byte by byte", or "+": more is sent than is read
	Empty   bool     // the answer has no body, whatever its Content-Length
}

var spans = regexp.MustCompile("(not )?`([^`]*)`")

// readRows returns the rows of the chapters, in the order of the page.
func readRows() (rows []row) {
	chapter := 0
	for line := range strings.Lines(page("docs/conformance.md")) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			chapter = 0 // Sscanf leaves it so if this is no chapter
			fmt.Sscanf(heading, "Chapter %d:", &chapter)
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if chapter > 0 && len(cells) == 6 && regexp.MustCompile(`^[A-Z]\d\d`).MatchString(cells[0]) {
			rows = append(rows, newRow(chapter, cells))
		}
	}
	return rows
}

// newRow reads one line of a table: id, level, rule, source, sent, expected.
func newRow(chapter int, cells []string) row {
	r := row{Chapter: chapter, Name: cells[0] + " " + cells[2], Level: cells[1], Source: cells[3],
		Want: strings.Trim(strings.Fields(cells[5])[0], "`"), Empty: strings.Contains(cells[5], "no body")}
	if sent := spans.FindStringSubmatch(cells[4]); sent != nil {
		r.Send = []byte(expand(sent[2], nil))
	}
	for _, how := range []string{"then end", "byte by byte", "+"} {
		if strings.HasSuffix(cells[4], " "+how) {
			r.How = how
		}
	}
	for i, match := range spans.FindAllStringSubmatch(cells[5], -1) {
		text := []byte(expand(match[2], nil))
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

// rule is the row's name without its own case.
func (r row) rule() string {
	rule, _, _ := strings.Cut(r.Name, ": ")
	return rule
}

// hintFor returns the line about an id in the page's table of hints.
func hintFor(id string) string {
	_, hints, _ := strings.Cut(page("docs/conformance.md"), "\n## Hints\n")
	hint := regexp.MustCompile(`(?m)^\| ` + id + ` \| (.*) \|$`).FindStringSubmatch(hints)
	return append(hint, "", "")[1]
}

// page returns a file of the repository; without it nothing can be checked.
func page(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongUsage)
	}
	return string(content)
}

// chapterPage is the page to read, "docs/03-request-line.md".
func chapterPage(chapter int) string {
	pages, _ := filepath.Glob(fmt.Sprintf("docs/%02d-*.md", chapter)) // the pattern is right
	return filepath.ToSlash(append(pages, fmt.Sprintf("chapter %d", chapter))[0])
}

// ---------------------------------------------------------------- Bytes
//
// A cell has bytes as in a Go string, \r\n and \x00, and in << >> what is repeated or drawn at
// random: docs/exercises/README.md has the list.

var special = regexp.MustCompile(`<<\?([a-z]+)(?::([^>]*))?>>|<<=([a-z]+)([+-]\d+)>>|` +
	`<<(x?)#([a-z]+)>>|<<(.*?)\*(\w+)>>`)

// expand returns the bytes of a cell. Values drawn before are in drawn; others are added.
func expand(cell string, drawn map[string]string) string {
	cell = special.ReplaceAllStringFunc(cell, func(text string) string {
		m := special.FindStringSubmatch(text)
		switch {
		case m[1] != "":
			if drawn[m[1]] == "" {
				drawn[m[1]] = draw(m[2])
			}
			return drawn[m[1]]
		case m[3] != "":
			return strconv.Itoa(number(drawn[m[3]]) + number(m[4]))
		case m[6] != "":
			return fmt.Sprintf(map[string]string{"": "%d", "x": "%x"}[m[5]], len(drawn[m[6]]))
		}
		unit := strings.NewReplacer("[[", "<<", "]]", ">>").Replace(m[7])
		if inner := special.FindString(unit); inner != "" {
			unit = strings.Replace(unit, inner, expand(inner, drawn), 1)
		}
		return strings.Repeat(unit, number(cmp.Or(drawn[m[8]], m[8])))
	})
	return unescape(cell)
}

// draw returns a random value of a kind: a word, "300-999", "date" or "hex".
func draw(kind string) string {
	letters := func(from string, n int) string {
		text := make([]byte, n)
		for i := range text {
			text[i] = from[rand.IntN(len(from))]
		}
		return string(text)
	}
	low, high, isRange := strings.Cut(kind, "-")
	switch {
	case isRange:
		return strconv.Itoa(number(low) + rand.IntN(number(high)-number(low)+1))
	case kind == "date":
		from := time.Date(1995, 1, 1, 0, 0, 0, 0, time.UTC)
		return from.Add(time.Duration(rand.IntN(25*365*86400)) * time.Second).Format(http.TimeFormat)
	case kind == "hex":
		return letters("0123456789abcdef", 20+rand.IntN(41))
	}
	return letters("abcdefghijklmnopqrstuvwxyz", 5+rand.IntN(5))
}

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
			panic(fmt.Sprintf(`a table of checks needs escapes like \r \n \\ \x00, not %q`, text))
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
func visible(text string) string {
	var b strings.Builder
	for i := range len(text) {
		quoted := strconv.Quote(text[i : i+1]) // alone, a byte beyond ASCII is not UTF-8
		b.WriteString(strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
	}
	return b.String()
}

// window shows 72 bytes of a text around byte at, and returns the column of that byte.
func window(text string, at int) (shown string, column int) {
	from := max(0, at-48)
	to := min(len(text), from+72)
	if from > len(text) {
		return "(nothing)", 0
	}
	shown, column = visible(text[from:to]), len(visible(text[from:min(at, to)]))
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
// A program under test is started in an empty directory and in a process group of its own,
// and ended together with all that it has started.

// A child is a program while it runs.
type child struct {
	addr    string
	printed limitedBuffer
	secret  string        // marks the lines of our own probes, and the process with its children
	ended   chan struct{} // closed when it has ended
	process *os.Process
	stdin   io.WriteCloser
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

// start runs a command whose last argument is the port that it serves. If it reads standard
// input instead, stdout collects what it prints.
func start(command []string, stdout io.Writer) (*child, error) {
	p := &child{addr: "127.0.0.1:" + command[len(command)-1], ended: make(chan struct{}),
		secret: fmt.Sprintf("#%08x", rand.Uint32())}
	dir, err := os.MkdirTemp("", "check-empty-")
	if err != nil {
		return nil, err
	}
	program := exec.Command(command[0], command[1:]...)
	program.Dir, program.Stdout, program.Stderr = dir, &p.printed, &p.printed
	program.WaitDelay, program.SysProcAttr = time.Second, ownGroup()
	program.Env = append(os.Environ(), "PROBE_SECRET="+p.secret, "GORACE=atexit_sleep_ms=0",
		"PYTHONDONTWRITEBYTECODE=1")
	if stdout != nil {
		program.Stdout = stdout
		if p.stdin, err = program.StdinPipe(); err != nil {
			return nil, err
		}
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

// ownGroup asks for a process group of its own, where there are process groups. The field is
// looked up by name because Windows' SysProcAttr has none.
func ownGroup() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{}
	if field := reflect.ValueOf(attributes).Elem().FieldByName("Setpgid"); field.IsValid() {
		field.SetBool(true)
	}
	return attributes
}

// running has the programs that Ctrl-C must end: being in other groups, they do not get it.
var running sync.Map

func init() {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		running.Range(func(p, _ any) bool { p.(*child).stop(); return true })
		os.Exit(notYet)
	}()
}

// stop kills the program with its children, and reports whether it had ended by itself.
func (p *child) stop() (died bool) {
	select {
	case <-p.ended:
		died = true
	default:
		if runtime.GOOS == "windows" {
			exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(p.process.Pid)).Run()
		}
		p.process.Kill() // fails if it has ended meanwhile
	}
	if group, err := os.FindProcess(-p.process.Pid); err == nil && runtime.GOOS != "windows" {
		group.Kill() // fails if all have ended, as they should
	}
	for _, stray := range p.strays() {
		stray.Kill() // fails if it has ended meanwhile
	}
	<-p.ended
	return died
}

// strays finds children that have left the group, by the secret in their environment. Only
// Linux shows that to everyone.
func (p *child) strays() (list []*os.Process) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is right
	for _, file := range files {
		environ, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environ, []byte("PROBE_SECRET="+p.secret)) {
			continue // e.g. another user's
		}
		if stray, err := os.FindProcess(number(strings.Split(file, "/")[2])); err == nil {
			list = append(list, stray)
		}
	}
	return list
}

// mayEnd gives the program a moment to end by itself, and reports whether it did.
func (p *child) mayEnd(patience time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(patience):
		return false
	}
}

// dial waits until the program listens, or has ended.
func (p *child) dial() (*net.TCPConn, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if c, err := net.Dial("tcp", p.addr); err == nil {
			return c.(*net.TCPConn), nil
		}
		if p.mayEnd(5 * time.Millisecond) {
			return nil, errors.New("the program has ended")
		}
	}
	return nil, errDeaf
}

var errDeaf = errors.New("nobody listens: the program's address must be 127.0.0.1:8000")

// log returns what the program has printed. Lines of our probes lose their secret; a line that
// only looks like one of them is left out.
func (p *child) log() string {
	imitations := regexp.MustCompile(`(?m)^(called|closed|in|out) \d+\n`)
	return strings.ReplaceAll(imitations.ReplaceAllString(p.printed.String(), ""), p.secret+" ", "")
}

var lastPort atomic.Int64

// freePort returns a port for a program that will listen soon. It is below those that systems
// give to clients, so that no client of another program takes it first.
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
	atOnce = time.Second     // what need not wait is over by then: shorter than any time-out of 2 s
	atMost = 4 * time.Second // longer than any time-out of 2 s
)

// An exchange is what came of a script: the last reply, and how it ended.
type exchange struct {
	reply string
	after time.Duration // from the last byte sent to the end of the reply
	err   error         // why it did not end well
}

// A client talks to a program.
type client struct {
	*net.TCPConn        // nil before the first byte and after the last
	exchange            // of the connection before
	got          []byte // of this connection
	last         string // the bytes that were sent last
	slowly, more bool   // see do
	late         bool
	stayed       []net.Conn
}

var scriptWords = regexp.MustCompile("`[^`]*`|[a-z]+")

// talk plays a script and returns how its last exchange went.
func talk(p *child, script string, drawn map[string]string, patient bool) exchange {
	words := scriptWords.FindAllString(script, -1)
	c := &client{more: slices.Contains(words, "more") || slices.Contains(words, "close"),
		late: patient || slices.Contains(words, "late")}
	defer func() {
		for _, connection := range c.stayed {
			connection.Close() // most are closed already
		}
	}()
	for _, word := range words {
		if slices.Contains([]string{"again", "more", "late", "soon", "fresh"}, word) {
			if word == "again" {
				c.finish()
			}
			continue
		}
		if c.TCPConn == nil {
			connection, err := p.dial()
			if err != nil {
				return exchange{err: err}
			}
			c.TCPConn, c.stayed = connection, append(c.stayed, connection)
			c.SetDeadline(time.Now().Add(atMost))
		}
		c.do(word, drawn)
	}
	c.finish()
	return c.exchange
}

// do is for one word of a script.
//
//	`bytes`   are sent
//	pause     the server has time to read what was sent so far
//	slowly    the bytes that follow come one at a time
//	answered  the client goes on when an answer has begun
//	close     then it sends the last bytes once more: there must be no second answer
//	drip      it sends one byte after the other until the server closes the connection
//	end       the client ends its half of the connection
//	leave     it ends, and the server is done with it; the next bytes are another client's
//	vanish    it is gone, with a reset; the next bytes are another client's
//	stay      it keeps its connection and says no more; the next bytes are another client's
//	again     it reads its answer; the next bytes are another client's
//	more      more is sent than is read: a reset after the answer is no fault
//	late      the answer may take as long as time-outs do
func (c *client) do(word string, drawn map[string]string) {
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
		c.SetLinger(0)
		c.Close()
		c.TCPConn = nil
	case "stay":
		c.TCPConn = nil
	default:
		if word[0] != '`' {
			panic("a table of checks has an unknown word: " + word)
		}
		c.send(expand(strings.Trim(word, "`"), drawn))
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
	c.last = text
	size := 1 << 20
	if c.slowly {
		size, c.slowly = 1, false
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
	c.got = append(c.got, rest...)
	switch {
	case len(rest) == endless:
		c.err = errors.New("the answer has no end")
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.err = fmt.Errorf("after %v the server has not closed the connection", atMost)
	case err != nil && !(c.more && len(c.got) > 0):
		c.err = fmt.Errorf("the connection broke: %w", err)
	case c.after > atOnce && !c.late && c.err == nil:
		c.err = errLate{c.after}
	}
	c.Close()
	c.reply, c.got, c.TCPConn = string(c.got), nil, nil
}

// errLate is an answer that came well, but not at once.
type errLate struct{ after time.Duration }

func (e errLate) Error() string {
	return fmt.Sprintf("it was over only after %.1f s: what can be answered at once must be, "+
		"and the connection closed", e.after.Seconds())
}

// ---------------------------------------------------------------- A verdict

// A mismatch says in what a check fails.
type mismatch struct {
	expected, came string
	at             int      // offset in both of the first wrong byte
	cause          string   // a usual one, or what is certain
	notes          []string // what else is known: how the connection or the program ended
	printed        string   // by the program
}

var expectation = regexp.MustCompile("([a-z ]*)`([^`]*)`")

// judge compares a reply and a log with what is expected: words, each before a span. The first
// span is a status, in which a point is any digit. See match for the words.
func judge(expected string, drawn map[string]string, reply, log string) *mismatch {
	if expected == "nothing" && reply != "" {
		return &mismatch{expected: "no answer", came: reply}
	}
	for _, span := range expectation.FindAllStringSubmatch(expected, -1) {
		if m := match(strings.TrimSpace(span[1]), expand(span[2], drawn), reply, log); m != nil {
			return m
		}
	}
	return nil
}

// match holds a reply to one expectation.
//
//	status `200`                    also without the word
//	header `A: b`, no header `A`    a field of the head; no such name
//	member `A: b`                   b is a member of the field's list
//	body `b`, prints `b`            the whole body; all that was printed but for white space
//	chunks `b`, unzipped `b`        the body, decoded
//	has `b`, not `b`                some part of the reply
//	log `b`, no log `b`             some part of what the program printed
//	cgi ...                         the same of the CGI document that the reply is or has
func match(about, text, reply, log string) *mismatch {
	if rest, ok := strings.CutPrefix(about, "cgi "); ok {
		return match(rest, text, fromCGI(reply), log)
	}
	head, content, whole := strings.Cut(reply, "\r\n\r\n")
	came, ok := reply, false
	switch about {
	case "", "status":
		text, came = "HTTP/1.0 "+text, head
		ok = regexp.MustCompile(`^HTTP/1\.[01] ` + text[9:] + `[ \r]`).MatchString(reply)
	case "header", "no header", "member":
		came = headerLine(head, text)
		ok = about == "no header" && came == "" || about != "no header" && sameHeader(text, came, about == "member")
	case "body":
		came, ok = content, content == text
	case "prints":
		text, came = trimLines(text), trimLines(reply)
		ok = came == text
	case "chunks", "unzipped":
		came = map[string]func(string) string{"chunks": dechunk, "unzipped": gunzip}[about](content)
		ok = came == text
	case "has", "not":
		ok = strings.Contains(reply, text) == (about == "has")
	case "log", "no log":
		came, ok = log, strings.Contains(log, text) == (about == "log")
	default:
		panic("a table of checks has an unknown expectation: " + about)
	}
	if ok {
		return nil
	}
	m := &mismatch{expected: text, came: came}
	switch about {
	case "has", "log":
		m.expected = about + " " + text
		m.came, m.at = likeliest(text, came)
		if m.at > 0 {
			m.expected = text
		}
	case "not", "no log", "no header":
		m.expected, m.at = about+" "+text, max(0, strings.Index(came, text))
	default:
		for m.at < min(len(text), len(came)) && text[m.at] == came[m.at] {
			m.at++
		}
		if !whole && reply != "" && about != "" && about != "prints" {
			m.notes = []string{"the head has no end: an empty line is missing"}
		}
	}
	return m
}

// likeliest returns a text from the place where it is most like one that is missing in it, and
// where the two begin to differ.
func likeliest(missing, text string) (from string, at int) {
	const few = 4 // equal bytes: less is chance
	for n := len(missing) - 1; n >= few; n-- {
		if i := strings.Index(text, missing[:n]); i >= 0 {
			return text[i:], n
		}
	}
	return text, 0
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

// sameHeader compares fields by their meaning: lists in any order, on one line or several.
func sameHeader(want, came string, member bool) bool {
	name, value, _ := strings.Cut(want, ": ")
	var values []string
	for line := range strings.SplitSeq(came, "\r\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			values = append(values, v)
		}
	}
	if strings.EqualFold(name, "Set-Cookie") {
		return slices.Contains(values, value)
	}
	wanted, have := members(name, value), members(name, strings.Join(values, ","))
	if member {
		return slices.Contains(have, append(wanted, "")[0])
	}
	return values != nil && slices.Equal(wanted, have)
}

var caseless = regexp.MustCompile(
	`(?i)^(Content-Type|Content-Encoding|Transfer-Encoding|Connection|Vary|Accept-Ranges)$`)

func members(name, value string) (list []string) {
	if caseless.MatchString(name) {
		value = strings.ReplaceAll(strings.ToLower(value), `"`, "")
	}
	for member := range strings.SplitSeq(value, ",") {
		list = append(list, regexp.MustCompile(`\s*;\s*`).ReplaceAllString(strings.TrimSpace(member), "; "))
	}
	slices.Sort(list)
	return slices.DeleteFunc(list, func(s string) bool { return s == "" && value != "" })
}

// fromCGI turns a CGI document into the answer in HTTP that it asks for. It is the reply itself
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

// dechunk returns what chunks hold, or what is wrong with them.
func dechunk(content string) string {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	r := bufio.NewReader(strings.NewReader(head + content))
	reply, err := http.ReadResponse(r, nil)
	if err != nil {
		return err.Error()
	}
	return readOrSay(reply.Body)
}

// gunzip returns what a gzip stream holds, or what is wrong with it.
func gunzip(content string) string {
	r, err := gzip.NewReader(strings.NewReader(content))
	if err != nil {
		return "not gzip: " + content
	}
	return readOrSay(r)
}

func readOrSay(r io.Reader) string {
	plain, err := io.ReadAll(r)
	return strings.TrimSuffix(fmt.Sprintf("%s (and then %v)", plain, err), " (and then <nil>)")
}

// explain prints a mismatch in ASCII, so that any terminal can show it: expected and came are
// cut in the same window, and the caret is under the first wrong byte.
func explain(w io.Writer, sent string, m *mismatch, rule string) {
	line := func(name, text string) {
		for _, part := range wrap(text, 68) {
			fmt.Fprintf(w, "       %-9s %s\n", name, part)
			name = ""
		}
	}
	expected, _ := window(m.expected, m.at)
	came, column := window(m.came, m.at)
	fmt.Fprintf(w, "       sent      %.120s\n       expected  %s\n       came      %s\n", sent, expected, came)
	fmt.Fprintf(w, "       %-9s %s^ %s\n", "", strings.Repeat(" ", column), m.cause)
	for _, note := range m.notes {
		line("", note)
	}
	if text := mainLine(m.printed); text != "" {
		line("printed", visible(text))
	}
	line("rule", rule)
}

// wrap cuts a text into lines of at most so many bytes, between words where it can.
func wrap(text string, width int) (lines []string) {
	for len(text) > width {
		cut := strings.LastIndexByte(text[:width], ' ')
		if cut <= 0 {
			cut = width
		}
		lines, text = append(lines, text[:cut]), strings.TrimPrefix(text[cut:], " ")
	}
	return append(lines, text)
}

// mainLine returns the line of a program's output that says most: the error with which it has
// ended, or a failure in its log, or else the first line that is not the starter's own.
func mainLine(printed string) string {
	for _, pattern := range []string{`(?m)^(panic|fatal error): .*`, `(?m)^\S*(Error|Exception): .*`,
		`(?m)^.*the application failed: .*`} {
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

// ---------------------------------------------------------------- Any server
//
// A server that is not ours may differ where a row has a star or the level P, refuse with
// another status, speak HTTP/1.1, and show any text until chapter 7. With -strict it may not.

// A result is how one row went: it "passes", "fails", "differs" where it may, "hung up" in
// place of a refusal, or is "unseen": right as far as a page shows that is not environ. It is
// "untried" when the server answers no more.
type result struct {
	row
	Outcome string
	Fault   string // in a line
	Reply   []byte
	m       *mismatch
}

// A grading is a server under test.
type grading struct {
	addr     string
	environ  bool          // its page is that of the environ application
	patience time.Duration // for an answer
	stalls   atomic.Int64  // rows without one
	gone     atomic.Bool   // it answers no more
}

var plainRow = row{Name: "R01 ", Send: []byte("GET / HTTP/1.0\r\n\r\n"), Want: "200"}

func gradeServer(addr, which string) int {
	rows := chosenRows(which)
	if rows == nil {
		fmt.Fprintf(os.Stderr, "%q chooses no row of docs/conformance.md: say 3, 3-5 or R04\n", which)
		return wrongUsage
	}
	g := &grading{addr: addr, patience: 3 * time.Second}
	if *strict {
		g.patience = 20 * time.Second
	}
	reply, err := plainRow.ask(addr, g.patience)
	if reply == "" {
		fmt.Println(noAnswer(addr, err))
		return notYet
	}
	g.environ = strings.Contains(reply, "REQUEST_METHOD: GET")
	results := make([]result, len(rows))
	several(max(1, *jobs), len(rows), func(i int) { results[i] = g.try(rows[i]) })
	if *asJSON {
		return printJSON(results)
	}
	return g.report(results, which)
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

// chosenRows returns the rows of a chapter, of several, 3-5, or of a rule, R04.
func chosenRows(which string) (rows []row) {
	low, high, isRange := strings.Cut(which, "-")
	if !isRange {
		high = low
	}
	for _, r := range readRows() {
		chapter := fmt.Sprint(r.Chapter)
		ids := regexp.MustCompile(`^([A-Z]\d\d )*`).FindString(r.Name)
		if which == "" || low <= chapter && chapter <= high || strings.Contains(ids, which+" ") {
			rows = append(rows, r)
		}
	}
	return rows
}

// noAnswer explains what may be wrong with a server that answers nothing at all.
func noAnswer(addr string, err error) string {
	var wrong *net.AddrError
	next := "give it an answer (" + chapterPage(2) + ")"
	text := addr + " closes the connection without an answer to GET / HTTP/1.0.\nThat is chapter 1. " +
		"No row can pass before there is an answer."
	switch {
	case errors.As(err, &wrong):
		text, next = fmt.Sprintf("expected host:port, not %q: %v", addr, err), "say "+self+" server 127.0.0.1:8000"
	case isRefused(err):
		text = fmt.Sprintf("Nobody listens on %s: %v", addr, err)
		next = "start your server, and look at the address that it prints (" + chapterPage(1) + ")"
	case err != nil && !isReset(err):
		text = fmt.Sprintf("%s does not answer GET / HTTP/1.0: %v", addr, err)
		next = "answer when the empty line has come; do not wait for more (" + chapterPage(2) + ")"
	}
	return text + "\nnext: " + next
}

// isRefused reports that nobody listens: a dial on this machine fails for no other reason.
func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !op.Timeout()
}

// isReset reports a reset, also by Windows' numbers, WSAECONNRESET and WSAECONNABORTED.
func isReset(err error) bool {
	var number syscall.Errno
	return errors.Is(err, syscall.ECONNRESET) || errors.As(err, &number) && (number == 10054 || number == 10053)
}

// try sends a row. A server that is silent five times is waited for less long; one that does not
// answer a plain request afterwards has not survived the row.
func (g *grading) try(r row) result {
	if g.gone.Load() {
		return result{row: r, Outcome: "untried"}
	}
	patience := g.patience
	if g.stalls.Load() >= 5 {
		patience = min(patience, 500*time.Millisecond)
	}
	reply, err := r.ask(g.addr, patience)
	end := result{row: r, Reply: []byte(reply), Outcome: "passes"}
	if end.m = r.verdict(reply, err, g.environ); end.m == nil {
		if !g.environ && len(r.Has)+len(r.Not) > 0 {
			end.Outcome = "unseen"
		}
		return end
	}
	end.Fault = end.m.brief()
	end.Outcome = r.outcome(reply, err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		g.stalls.Add(1)
	}
	if reply == "" && !*strict {
		if plain, err := plainRow.ask(g.addr, patience); plain == "" && !g.gone.Swap(true) {
			end.Outcome = "fails"
			end.Fault = "after this row the server answers nothing, not even GET / HTTP/1.0: is it in a loop?"
			if isRefused(err) {
				end.Fault = "the server has ended here: its terminal says why, perhaps an error that nothing caught"
			}
			end.m.notes = append(end.m.notes, end.Fault)
		}
	}
	return end
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
	case r.Level == "P" || strings.HasSuffix(r.Level, "*") || wanted && refusal.MatchString(reply):
		return "differs"
	}
	return "fails"
}

// ask sends the row's bytes and returns what comes back, at most 1 MiB of it.
func (r row) ask(addr string, patience time.Duration) (reply string, err error) {
	connection, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return "", err
	}
	c := connection.(*net.TCPConn)
	c.SetDeadline(time.Now().Add(patience))
	size := 1 << 20
	if r.How == "byte by byte" || *bytewise && len(r.Send) < 70000 {
		size = 1
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for piece := range slices.Chunk(r.Send, size) {
			if _, err := c.Write(piece); err != nil {
				return // the server has answered without waiting for the rest
			}
			if r.How == "byte by byte" {
				time.Sleep(time.Millisecond) // or the system would put the bytes together
			}
		}
		if r.How == "then end" {
			c.CloseWrite()
		}
	}()
	var raw bytes.Buffer
	const endless = 1 << 20
	limited := io.TeeReader(io.LimitReader(c, endless), &raw)
	if *strict {
		_, err = io.Copy(io.Discard, limited)
	} else {
		err = r.readAnswer(c, bufio.NewReader(limited))
	}
	c.Close()
	<-sent
	if raw.Len() == endless {
		err = errors.New("the answer has no end")
	}
	if r.How == "+" && raw.Len() > 0 && isReset(err) {
		err = nil // bytes that arrive when all is over are answered by a reset
	}
	if !*strict {
		return inHTTP10(raw.String(), string(r.Send)), err
	}
	return raw.String(), err
}

var errStaysOpen = errors.New("the answer is whole, but the connection stays open: in HTTP/1.0 " +
	"the server closes it after its answer (in Python, also each file made from the socket)")

// readAnswer reads what belongs to one answer: in HTTP/1.1 the connection may stay. In HTTP/1.0
// it may not; R01 is held to that, and others are read on for a moment, if too much is sent.
func (r row) readAnswer(c net.Conn, in *bufio.Reader) error {
	method, _, _ := strings.Cut(string(r.Send), " ")
	reply, err := http.ReadResponse(in, &http.Request{Method: method})
	for err == nil && reply.StatusCode == http.StatusContinue {
		reply, err = http.ReadResponse(in, &http.Request{Method: method})
	}
	whole := false
	if err == nil {
		_, err = io.Copy(io.Discard, reply.Body)
		whole = err == nil && reply.ContentLength >= 0
		if err == nil && !reply.Close {
			return nil
		}
	}
	if whole && r.id() != "R01" {
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	}
	_, err = io.Copy(io.Discard, in) // what net/http cannot read is shown all the same
	if whole && errors.Is(err, os.ErrDeadlineExceeded) {
		if err = nil; r.id() == "R01" {
			err = errStaysOpen
		}
	}
	return err
}

// inHTTP10 returns an answer in HTTP/1.1 as it would be in HTTP/1.0.
func inHTTP10(reply, request string) string {
	head, content, _ := strings.Cut(reply, "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/") {
		return reply
	}
	head = strings.Replace(head, "HTTP/1.1 ", "HTTP/1.0 ", 1)
	head = regexp.MustCompile(`(?i)\r\n(connection|keep-alive):[^\r]*`).ReplaceAllString(head, "")
	chunked := regexp.MustCompile(`(?i)\r\ntransfer-encoding: *chunked`)
	if chunked.MatchString(head) && strings.Contains(request, "HTTP/1.1\r\n") {
		content = dechunk(content)
		head = chunked.ReplaceAllString(head, fmt.Sprintf("\r\nContent-Length: %d", len(content)))
	}
	return head + "\r\n\r\n" + content
}

// verdict compares a reply with what the row wants; nil if it is that. Lines of environ are
// looked for only if the server shows environ.
func (r row) verdict(reply string, err error, environ bool) *mismatch {
	if err != nil {
		return &mismatch{expected: "an answer, then the end of the connection", came: reply,
			at: len(reply), notes: []string{"the exchange did not end well: " + err.Error()}}
	}
	text := reply
	switch r.Want {
	case "nothing":
		if reply != "" {
			return &mismatch{expected: "no answer", came: reply}
		}
		return nil
	case "body":
		if strings.HasPrefix(reply, "HTTP/") || reply == "" {
			return &mismatch{expected: "a body without a head", came: reply}
		}
	default:
		if m := match("status", r.Want, reply, ""); m != nil {
			return m
		}
		if m := r.framing(reply); m != nil {
			return m
		}
		_, text, _ = strings.Cut(reply, "\r\n\r\n")
	}
	if r.Empty && text != "" {
		return &mismatch{expected: "no body", came: text}
	}
	lines := strings.Split(text, "\n")
	for _, line := range r.Has {
		if environ && !slices.Contains(lines, string(line)) {
			return nearest(string(line), lines)
		}
	}
	for _, prefix := range append(r.Not, []byte("<script")) {
		for _, line := range lines {
			if environ && strings.HasPrefix(line, string(prefix)) {
				return &mismatch{expected: "no line that begins with " + string(prefix), came: line}
			}
		}
	}
	return nil
}

// nearest compares a line that is missing with the one of the same key.
func nearest(want string, lines []string) *mismatch {
	m := &mismatch{expected: want, came: "no such line"}
	key, _, _ := strings.Cut(want, ": ")
	for _, line := range lines {
		if strings.HasPrefix(line, key+": ") {
			for m.came = line; m.at < min(len(want), len(line)) && want[m.at] == line[m.at]; {
				m.at++
			}
		}
	}
	return m
}

// framing holds a head to what a client relies on: RFC 1945 §6. In the answer to S17, or with
// -strict in each, four headers must be there.
func (r row) framing(reply string) *mismatch {
	head, content, whole := strings.Cut(reply, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	if !whole || !strings.HasPrefix(head, "HTTP/1.0 ") || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
		return &mismatch{expected: "a head of HTTP/1.0, lines that end in CR LF, an empty line", came: head}
	}
	empty := r.Empty || bytes.HasPrefix(r.Send, []byte("HEAD "))
	if came, _ := strings.CutPrefix(headerLine(head, "Content-Length"), "Content-Length: "); came != "" &&
		!empty && came != strconv.Itoa(len(content)) {
		return &mismatch{expected: fmt.Sprintf("Content-Length: %d", len(content)), came: "Content-Length: " + came, at: 16}
	}
	if empty && content != "" {
		return &mismatch{expected: "no body", came: content}
	}
	for _, name := range []string{"Date", "Server", "Content-Type", "Content-Length"} {
		came := headerLine(head, name)
		optional := !*strict && r.id() != "S17" || empty && name == "Content-Length"
		if strings.Contains(came, "\r\n") || came == "" && !optional {
			return &mismatch{expected: "one " + name, came: cmp.Or(came, "none in: "+head)}
		}
		if _, err := time.Parse("Date: "+http.TimeFormat, came); name == "Date" && came != "" && err != nil {
			return &mismatch{expected: "Date: " + http.TimeFormat, came: came}
		}
	}
	if came := headerLine(head, "Transfer-Encoding") + headerLine(head, "Connection"); came != "" {
		return &mismatch{expected: "a head of HTTP/1.0, which has no such field", came: came}
	}
	return nil
}

// brief is a mismatch in a line.
func (m *mismatch) brief() string {
	if m.notes != nil {
		return m.notes[0]
	}
	line, _, _ := strings.Cut(m.came, "\n")
	return fmt.Sprintf("expected %.60s, got %.60s", visible(m.expected), cmp.Or(visible(strings.TrimSpace(line)), "nothing"))
}

// report has a line for each rule that is broken, explains the first row that fails, or three
// of a rule that was asked for, and counts by chapter.
func (g *grading) report(results []result, which string) int {
	var failed *result
	broken, all := map[string]int{}, map[string]int{}
	for _, r := range results {
		all[r.rule()]++
		if r.Outcome == "fails" {
			broken[r.rule()]++
		}
	}
	fmt.Printf("\n%s, %d rows of docs/conformance.md:\n\n", g.addr, len(results))
	for i, r := range results {
		if r.Outcome == "fails" && broken[r.rule()] > 0 {
			fmt.Printf("NO  chapter %d  %s (%d of %d rows): %s\n", r.Chapter, r.rule(), broken[r.rule()], all[r.rule()], r.Fault)
			broken[r.rule()] = 0
		}
		if r.Outcome == "fails" && failed == nil {
			failed = &results[i]
		}
	}
	one := regexp.MustCompile(`^[A-Z]`).MatchString(which)
	explained := 0
	for i := range results {
		if r := &results[i]; r == failed || one && r.m != nil && explained < 3 {
			fmt.Printf("\n%s: %s\n", r.Outcome, r.Name)
			r.m.cause = hintFor(r.id())
			explain(os.Stdout, visible(string(r.Send)), r.m, r.Source+"; level "+r.Level+"; "+chapterPage(r.Chapter))
			explained++
		}
	}
	g.total(results, failed, which)
	if failed != nil {
		return notYet
	}
	return solved
}

// total counts by chapter, and says what to do next.
func (g *grading) total(results []result, failed *result, which string) {
	fmt.Println()
	last := results[len(results)-1].Chapter
	unseen := 0
	for chapter := results[0].Chapter; chapter <= last; chapter++ {
		n := map[string]int{}
		for _, r := range results {
			if r.Chapter == chapter {
				n[r.Outcome]++
				n["all"]++
			}
		}
		if n["all"] == 0 {
			continue
		}
		fmt.Printf("chapter %d  %3d of %3d rows pass", chapter, n["passes"], n["all"])
		for _, other := range [][2]string{{"fails", "fail"}, {"differs", "differ where they may"},
			{"hung up", "hung up: 400 would say why"}, {"unseen", "cannot be judged"}, {"untried", "not tried"}} {
			if n[other[0]] > 0 {
				fmt.Printf(", %d %s", n[other[0]], other[1])
			}
		}
		fmt.Printf("  (%s)\n", chapterPage(chapter))
		unseen += n["unseen"]
	}
	if unseen > 0 {
		fmt.Println("What cannot be judged has the right status, but the page does not show environ.")
	}
	next := chapterPage(last+1) + fmt.Sprintf(", then %s server %s 3-%d", self, g.addr, last+1)
	switch {
	case g.gone.Load():
		fmt.Printf("the row that the server did not survive: %s\n", failed.Name)
		next = fmt.Sprintf("start it again, then %s server %s %s", self, g.addr, failed.id())
	case failed != nil:
		fmt.Printf("the first row that fails: %s\n", failed.Name)
		next = fmt.Sprintf("%s server %s %s", self, g.addr, failed.id())
	case regexp.MustCompile(`^[A-Z]`).MatchString(which):
		next = fmt.Sprintf("%s server %s %d", self, g.addr, last)
	case last == 7 && unseen > 0:
		next = "answer with environ, a line like REQUEST_METHOD: GET for each key (docs/conformance.md)"
	case last == 7:
		next = chapterPage(8)
	}
	fmt.Println("next:", next)
}

// ---------------------------------------------------------------- Exercises

// An exercise is a directory of docs/exercises.
type exercise struct {
	name   string // "07-body"
	number string // "07"
	dir    string // docs/exercises/07-body
	title  string // "A body may come in pieces"
	served string // inside rawsgi, what is served: "gzipped(probes)"; otherwise ""
	stdin  bool   // it reads standard input and prints
	checks []check
	hints  []string
}

// A check is a line of an exercise's table: what is sent, in the words of do; what must hold, in
// the words of match; its rule and chapter; and a usual cause.
type check struct{ name, sent, expected, rule, cause string }

// onceMore is the check after all others: the table again, in one process.
const onceMore = "once more"

// exercises reads docs/exercises.
var exercises = sync.OnceValue(func() (all []*exercise) {
	dirs, _ := filepath.Glob("docs/exercises/[0-9][0-9]*-*") // the pattern is right
	for _, dir := range dirs {
		name := filepath.Base(dir)
		number, _, _ := strings.Cut(name, "-")
		x := &exercise{name: name, number: number, dir: filepath.ToSlash(dir)}
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
	kind := regexp.MustCompile(`(?m)^Kind: .*`).FindString(text)
	x.served = append(regexp.MustCompile("served as `(.*)`").FindStringSubmatch(kind), "", "")[1]
	x.stdin = strings.Contains(kind, "standard input")
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(line, "|\n "), " | ")
		if len(cells) >= 4 && cells[0] != "check" {
			x.checks = append(x.checks, check{cells[0], cells[1], cells[2], cells[3], append(cells, "")[4]})
		}
	}
	for _, cause := range regexp.MustCompile("(?m)^- `(.*?)`: (.*)$").FindAllStringSubmatch(text, -1) {
		for i := range x.checks {
			if x.checks[i].name == cause[1] {
				x.checks[i].cause = cause[2]
			}
		}
	}
}

// exerciseNamed finds an exercise by number, 7 or 07 or 00a, or by its name or a part of it.
func exerciseNamed(which string) *exercise {
	if n, err := strconv.Atoi(which); err == nil {
		which = fmt.Sprintf("%02d", n)
	}
	for _, x := range exercises() {
		if x.number == which || x.name == which || len(which) > 3 && strings.Contains(x.name, which) {
			return x
		}
	}
	return nil
}

// overview lists the exercises and what is passed.
func overview() int {
	for _, x := range exercises() {
		mark := "    "
		if file, content := x.find("mine"); file != "" {
			mark = map[bool]string{true: "ok  ", false: "... "}[x.passed(content)]
		}
		fmt.Printf("  %s %-3s %s\n", mark, x.number, x.title)
	}
	fmt.Printf("also: %d hunts (%s hunt 1), any server (%s server ADDR), a class (%s class DIR)\n",
		len(hunts()), self, self, self)
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
		hint := x.hints[min(*hintAsked, len(x.hints))-1]
		fmt.Printf("Hint %d of %d for exercise %s\n\n%s\n", min(*hintAsked, len(x.hints)), len(x.hints), x.number, hint)
		return solved
	case file == "":
		fmt.Printf("\nExercise %s  %s\n  start here: %s\n  read      %s/README.md\n  then      %s %s\n",
			x.number, x.title, strings.Join(x.begin(), " or "), x.dir, self, x.number)
		return notYet
	case *serving:
		return x.serve(file)
	}
	for {
		before := stamp(file)
		status := x.checkFile(file, own)
		if !*watching {
			return status
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
	content, err := readSource(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return wrongUsage
	}
	a := x.attempt(os.Stdout, file, false)
	if a.ok() {
		solutions, _ := filepath.Glob(x.dir + "/solution.*") // the pattern is right
		fmt.Printf("solved; a solution: %s\n", strings.Join(solutions, ", "))
	}
	if own {
		x.note(content, a.ok())
		progress()
	}
	return map[bool]int{true: solved, false: notYet}[a.ok()]
}

// begin puts the starters of an exercise where students work: a module of its own, so that
// neither git nor ./... sees what they do there.
func (x *exercise) begin() (files []string) {
	starters, _ := filepath.Glob(x.dir + "/starter.*") // the pattern is right
	for _, starter := range starters {
		files = append(files, "mine/"+x.name+filepath.Ext(starter))
		write(files[len(files)-1], page(starter))
	}
	write("mine/go.mod", "module mine\n")
	return files
}

func write(path, content string) {
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err := cmp.Or(err, os.WriteFile(path, []byte(content), 0o644)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongUsage)
	}
}

// find returns the student's file in a directory, "" if there is none. Of several, in different
// languages, the one that is no longer its starter is meant.
func (x *exercise) find(dir string) (file string, content []byte) {
	for _, extension := range []string{".go", ".js", ".py"} {
		candidate := filepath.Join(dir, x.name+extension)
		if _, err := os.Lstat(candidate); err != nil {
			continue
		}
		file = candidate
		starter, _ := os.ReadFile(x.dir + "/starter" + extension) // none: all differs
		if content, _ = readSource(file); !bytes.Equal(starter, content) {
			break // without content, prepare says why
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

// note writes down in mine/passed.txt whether a file passes; a later change makes it count no more.
func (x *exercise) note(content []byte, passes bool) {
	list, _ := os.ReadFile("mine/passed.txt") // not there before the first passes
	text := regexp.MustCompile("(?m)^"+x.name+" .*\n").ReplaceAllString(string(list), "")
	if passes {
		text += x.passedLine(content)
	}
	write("mine/passed.txt", text)
}

func (x *exercise) passedLine(content []byte) string {
	return fmt.Sprintf("%s %x\n", x.name, sha256.Sum256(content))
}

func (x *exercise) passed(content []byte) bool {
	list, _ := os.ReadFile("mine/passed.txt") // not there before the first passes
	return strings.Contains(string(list), x.passedLine(content))
}

// progress prints how many exercises pass, and which is the next.
func progress() {
	done, next := 0, ""
	for _, x := range exercises() {
		if _, content := x.find("mine"); x.passed(content) {
			done++
		} else {
			next = cmp.Or(next, x.number)
		}
	}
	n := len(exercises())
	if next != "" {
		fmt.Printf("next      %s %s\n", self, next)
	}
	fmt.Printf("progress  [%s%s] %d of %d\n", strings.Repeat("#", done), strings.Repeat(".", n-done), done, n)
}

// serve runs the program on the terminal until Ctrl-C.
func (x *exercise) serve(file string) int {
	built, err := x.build(file, "8000")
	if err != nil {
		fmt.Println(err)
		return notYet
	}
	defer built.remove()
	return runByHand(built.command)
}

func runByHand(command []string) int {
	signal.Ignore(os.Interrupt) // it is for the program
	program := exec.Command(command[0], command[1:]...)
	program.Stdin, program.Stdout, program.Stderr = os.Stdin, os.Stdout, os.Stderr
	fmt.Println("Serving on http://127.0.0.1:8000/; end it with Ctrl-C.")
	program.Run() // that it was interrupted is no error
	return solved
}

// ---------------------------------------------------------------- From a file to a program

// A built is a program that can be started, and its directory.
type built struct {
	command []string
	dir     string
}

func (b built) remove() { os.RemoveAll(b.dir) }

// interpreters run an exercise's file that is not Go.
var interpreters = map[string]string{".py": "python3", ".js": "node"}

// build makes a program of a student's file that serves on a port. A file for rawsgi is compiled
// together with its sources and the probes, through an overlay.
func (x *exercise) build(file, port string, flags ...string) (b built, err error) {
	source, err := readSource(file)
	if err != nil {
		return b, err
	}
	if interpreter := interpreters[filepath.Ext(file)]; interpreter != "" {
		path, err := filepath.Abs(file)
		return built{command: []string{interpreter, path, port}}, err
	}
	files := map[string]string{}
	text := strings.ReplaceAll(string(source), "127.0.0.1:8000", "127.0.0.1:"+port)
	if x.served != "" {
		own := declares(text)
		tools := setAside(page("docs/exercises/probes.go"), own)
		files["served.go"] = positioned(x.dir+"/README.md",
			"package main\nfunc init() { serveExercise("+x.served+") }\n")
		files["probes.go"] = positioned("docs/exercises/probes.go", tools)
		maps.Copy(own, declares(tools))
		for _, name := range []string{"main.go", "server.go", "request.go", "response.go", "app.go"} {
			files[name] = positioned(name, setAside(page(name), own))
		}
	}
	files["student.go"] = positioned(file, text)
	return compile(files, x.served != "", port, flags...)
}

// compile builds a package of one file, student.go, or rawsgi with files put in its place.
func compile(files map[string]string, inside bool, port string, flags ...string) (b built, err error) {
	if b.dir, err = os.MkdirTemp("", "check-"); err != nil {
		return b, err
	}
	program := filepath.Join(b.dir, "program.exe") // a name that runs everywhere
	args := slices.Concat([]string{"build", "-gcflags", "-N -l", "-ldflags", "-s -w", "-o", program}, flags)
	replace := map[string]string{}
	for name, content := range files {
		original, err := filepath.Abs(name)
		if err != nil {
			return b, err
		}
		replace[original] = filepath.Join(b.dir, name)
		write(replace[original], content)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return b, err
	}
	write(filepath.Join(b.dir, "overlay.json"), string(overlay))
	if inside {
		args = append(args, "-overlay", filepath.Join(b.dir, "overlay.json"), ".")
	} else {
		args = append(args, filepath.Join(b.dir, "student.go"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput()
	if ctx.Err() != nil {
		out = append(out, "the compiler has not come to an end in 3 minutes"...)
	}
	if err != nil {
		b.remove()
		return b, errors.New(cmp.Or(strings.TrimSpace(string(out)), err.Error()))
	}
	b.command = []string{program, port}
	return b, nil
}

// raceFlags are those of a build with the race detector, where there is a C compiler.
var raceFlags = sync.OnceValue(func() (flags []string) {
	out, err := exec.Command("go", "env", "CGO_ENABLED", "CC").Output()
	enabled, compiler, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if _, missing := exec.LookPath(compiler); err == nil && missing == nil && enabled == "1" {
		flags = []string{"-race"}
	}
	return flags
})

// positioned returns a source that says where it is from, so that the compiler's errors name the
// file that the student knows. Its build constraint is gone.
func positioned(file, source string) string {
	text, line := source, 1
	if strings.HasPrefix(source, "//go:build ignore") {
		_, text, _ = strings.Cut(source, "\n")
		line = 2
	}
	if path, err := filepath.Abs(file); err == nil {
		file = path
	}
	return fmt.Sprintf("//line %s:%d\n%s", file, line, text)
}

// declares returns the names that a source declares for its package.
func declares(source string) map[string]*ast.Object {
	file, _ := parser.ParseFile(token.NewFileSet(), "", source, 0) // the compiler says it better
	return file.Scope.Objects
}

// setAside appends a "_" to names in a source of ours, those that the student's file declares:
// students may give a function any name.
func setAside(source string, names map[string]*ast.Object) string {
	var out strings.Builder
	last := 0
	eachToken(source, func(offset int, kind token.Token, text string) {
		if kind == token.IDENT && names[text] != nil {
			out.WriteString(source[last:offset+len(text)] + "_")
			last = offset + len(text)
		}
	})
	return out.String() + source[last:]
}

func eachToken(source string, do func(offset int, kind token.Token, text string)) {
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(source))
	s.Init(file, []byte(source), func(token.Position, string) {}, 0)
	for position, kind, text := s.Scan(); kind != token.EOF; position, kind, text = s.Scan() {
		do(file.Offset(position), kind, text)
	}
}

// ---------------------------------------------------------------- The checks of an exercise

// An attempt is what came of one file.
type attempt struct {
	broken string // what the compiler says
	passed int
	failed []string // names of checks, in their order
}

func (a attempt) ok() bool { return a.broken == "" && a.failed == nil }

// attempt builds a file, runs all checks, and reports them as they are done; only the first
// that fails is explained. When all pass, they run once more, with the race detector, which
// takes long to build with; raced has it built in from the beginning.
func (x *exercise) attempt(w io.Writer, file string, raced bool, only ...string) (a attempt) {
	fmt.Fprintf(w, "\nExercise %s  %s\n", x.number, x.title)
	var flags []string
	if raced {
		flags = raceFlags()
	}
	program, err := x.build(file, freePort(), flags...)
	if err != nil {
		fmt.Fprintf(w, "  it does not compile:\n%s\n", err)
		return attempt{broken: err.Error()}
	}
	defer program.remove()
	done := func(c check, m *mismatch) {
		if m == nil {
			a.passed++
			fmt.Fprintf(w, "  ok   %s\n", c.name)
			return
		}
		fmt.Fprintf(w, "  NO   %s\n", c.name)
		if a.failed = append(a.failed, c.name); len(a.failed) == 1 {
			explain(w, withoutQuotes(c.sent), m, c.rule)
			fmt.Fprintf(w, "       next      %s -hint 1 %s\n", self, x.number)
		}
	}
	for _, c := range x.checks {
		if only != nil && !slices.Contains(only, c.name) {
			continue
		}
		waiting := time.AfterFunc(3*time.Second, func() { fmt.Fprintf(os.Stderr, "  ...  waiting: %s\n", c.name) })
		m := x.run(c, program.command)
		waiting.Stop()
		done(c, m)
		if m != nil && slices.Contains(m.notes, errDeaf.Error()) || a.failed != nil && x.staged() {
			break // no other check waits for that again
		}
	}
	if a.failed == nil && !x.stdin && !x.staged() && (only == nil || slices.Contains(only, onceMore)) {
		if flags == nil && raceFlags() != nil {
			program.remove()
			if program, err = x.build(file, freePort(), raceFlags()...); err != nil {
				return attempt{broken: err.Error()} // e.g. without the race detector's library
			}
		}
		done(x.again(program.command))
	}
	fmt.Fprintf(w, "%d of %d pass\n", a.passed, len(x.checks)+1)
	return a
}

func withoutQuotes(sent string) string { return strings.ReplaceAll(sent, "`", "") }

// staged is an exercise whose checks are stages: after the first that fails, there is no next.
func (x *exercise) staged() bool {
	return slices.ContainsFunc(x.checks, func(c check) bool { return strings.HasPrefix(c.sent, "rows ") })
}

// run tries one check with a new process. Being late is looked at twice: the machine may be busy.
func (x *exercise) run(c check, command []string) *mismatch {
	m, late := x.try(c, command)
	if late {
		m, _ = x.try(c, command)
	}
	return m
}

func (x *exercise) try(c check, command []string) (m *mismatch, late bool) {
	if x.stdin {
		return feed(c, command), false
	}
	p, err := start(command, nil)
	if err != nil {
		return &mismatch{expected: "a program that starts", came: err.Error()}, false
	}
	defer p.stop()
	drawn := map[string]string{}
	var e exchange
	if kind, which, special := strings.Cut(c.sent, " "); special && (kind == "rows" || kind == "with") {
		if kind == "rows" {
			m = p.rows(number(strings.TrimPrefix(which, "ch")))
		} else {
			e.reply, e.err = askWith(which, p)
		}
		if kind == "with" && e.err == nil {
			m = judge(c.expected, drawn, e.reply, "")
		}
		if m == nil && e.err == nil {
			return nil, false
		}
	} else {
		e = talk(p, c.sent, drawn, false)
		if e.reply == "" {
			p.mayEnd(200 * time.Millisecond)
		}
		m = judge(c.expected, drawn, e.reply, p.log())
	}
	if m == nil && e.err == nil {
		m = x.stillAnswers(p)
	}
	if m == nil && e.err == nil {
		return nil, false
	}
	if m == nil {
		m = &mismatch{expected: "an answer, then the end of the connection", came: e.reply, at: len(e.reply)}
	} else if m.cause == "" {
		m.cause = c.cause
	}
	m.finish(p, e)
	_, late = e.err.(errLate)
	return m, late
}

// finish adds to a mismatch how the connection and the program have ended.
func (m *mismatch) finish(p *child, e exchange) {
	if m.came == "" && e.after > 0 && e.reply == "" {
		m.came = fmt.Sprintf("(nothing: hung up after %.1f s)", e.after.Seconds())
	}
	if e.err != nil {
		m.notes = append(m.notes, e.err.Error())
	}
	if p.stop() {
		m.notes = append(m.notes, "the program has ended")
	}
	m.printed = p.printed.String()
}

// stillAnswers sends the first check's bytes: any answer will do.
func (x *exercise) stillAnswers(p *child) *mismatch {
	first := x.checks[0]
	if first.expected == "nothing" {
		return nil
	}
	e := talk(p, first.sent, map[string]string{}, true)
	if e.reply != "" && !p.mayEnd(0) {
		return nil
	}
	m := &mismatch{expected: "an answer also to the next client", came: e.reply,
		cause: "this check went well, but not what came after it"}
	if e.err != nil {
		m.notes = []string{e.err.Error()}
	}
	return m
}

// again sends all rows once more to one process, four at a time: what one client leaves behind
// must not reach another.
func (x *exercise) again(command []string) (check, *mismatch) {
	c := check{name: onceMore, sent: "all of the table, four at a time, to one process", rule: "docs/09-many-at-once.md"}
	p, err := start(command, nil)
	if err != nil {
		return c, &mismatch{expected: "a program that starts", came: err.Error()}
	}
	defer p.stop()
	mismatches := make([]*mismatch, len(x.checks))
	noLog := regexp.MustCompile("(no )?log `[^`]*`")
	several(4, len(x.checks), func(i int) {
		if regexp.MustCompile(`\b(fresh|rows|with)\b`).MatchString(withoutBytes(x.checks[i].sent)) {
			return
		}
		drawn := map[string]string{}
		e := talk(p, x.checks[i].sent, drawn, true)
		m := judge(noLog.ReplaceAllString(x.checks[i].expected, ""), drawn, e.reply, "")
		if m == nil && e.err != nil {
			m = &mismatch{expected: "an answer, then the end of the connection", came: e.reply, at: len(e.reply)}
		}
		if m != nil {
			m.cause = "by itself, this check passes: does one client meet another's data?"
			m.finish(&child{ended: p.ended, process: p.process}, e)
		}
		mismatches[i] = m
	})
	m := x.stillAnswers(p)
	for i := len(mismatches) - 1; i >= 0; i-- {
		if mismatches[i] != nil {
			m = mismatches[i]
			c.sent, c.rule = x.checks[i].sent+"  (the check: "+x.checks[i].name+")", x.checks[i].rule
		}
	}
	if _, race, found := strings.Cut(p.printed.String(), "WARNING: DATA RACE\n"); found && m == nil {
		m = &mismatch{expected: "no data race", came: race, cause: "two goroutines use the same data without a lock"}
		for _, place := range regexp.MustCompile(`\S*mine/\S+:\d+|\S*`+x.name+`\S*:\d+`).FindAllString(race, 3) {
			m.notes = append(m.notes, place)
		}
	}
	return c, m
}

func withoutBytes(script string) string {
	return regexp.MustCompile("`[^`]*`").ReplaceAllString(script, "")
}

// feed runs a program that reads standard input.
func feed(c check, command []string) *mismatch {
	var printed limitedBuffer
	p, err := start(command, &printed)
	if err != nil {
		return &mismatch{expected: "a program that starts", came: err.Error()}
	}
	defer p.stop()
	drawn := map[string]string{}
	for _, word := range scriptWords.FindAllString(c.sent, -1) {
		switch {
		case word == "pause":
			time.Sleep(100 * time.Millisecond)
		case word[0] == '`':
			io.WriteString(p.stdin, expand(strings.Trim(word, "`"), drawn)) // it may have read enough
		}
	}
	p.stdin.Close()
	e := exchange{}
	if !p.mayEnd(atMost) {
		e.err = fmt.Errorf("after %v the program has not ended", atMost)
	}
	e.reply = printed.String()
	m := judge(c.expected, drawn, e.reply, p.log())
	if m == nil && e.err == nil {
		return nil
	}
	m = cmp.Or(m, &mismatch{expected: "the end of the program", came: e.reply, at: len(e.reply)})
	m.cause = c.cause
	if e.err != nil {
		m.notes = append(m.notes, e.err.Error())
	}
	p.stop()
	m.printed = p.printed.String()
	return m
}

// rows sends the rows that a source demands of everyone, and returns the first that fails.
func (p *child) rows(chapter int) (m *mismatch) {
	first, err := p.dial()
	if err != nil {
		return &mismatch{expected: "a server", notes: []string{err.Error()}}
	}
	first.Close()
	passed, failed := 0, 0
	for _, r := range readRows() {
		if r.Chapter != chapter || r.Level != "M" || failed == 10 {
			continue
		}
		reply, err := r.ask(p.addr, atMost)
		fault := r.verdict(reply, err, true)
		if fault == nil {
			passed++
			continue
		}
		if failed++; m == nil {
			m = fault
			m.cause = hintFor(r.id())
			m.notes = append(m.notes, "row "+r.Name+", "+r.Source, "sent "+visible(string(r.Send)))
		}
	}
	if m != nil {
		m.notes = append(m.notes, fmt.Sprintf("%d rows pass, %d fail", passed, failed))
	}
	return m
}

// askWith has another program talk to a server: curl, chromium, or nginx in front of it. If the
// program is not here, that counts as passed and is said.
func askWith(name string, p *child) (reply string, err error) {
	if _, err := exec.LookPath(name); err != nil {
		fmt.Fprintf(os.Stderr, "  ...  not tried: there is no %s here\n", name)
		return "HTTP/1.0 200 OK\r\n\r\nREQUEST_METHOD: GET\n", nil
	}
	c, err := p.dial()
	if err != nil {
		return "", err
	}
	c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	addr := p.addr
	args := []string{"-sSi", "--max-time", "5"}
	switch name {
	case "chromium":
		args = []string{"--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"}
	case "nginx":
		dir, err := os.MkdirTemp("", "check-nginx-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(dir)
		addr = "127.0.0.1:" + freePort()
		write(filepath.Join(dir, "conf"), "daemon off; error_log stderr; pid "+dir+"/pid; events {}\n"+
			"http { access_log off; server { listen "+addr+"; location / { proxy_pass http://"+p.addr+"; } } }\n")
		front, err := start([]string{"nginx", "-p", dir, "-c", filepath.Join(dir, "conf"), "-g", "", addr[10:]}, nil)
		if err != nil {
			return "", err
		}
		defer front.stop()
		if c, err = front.dial(); err != nil {
			return front.printed.String(), err
		}
		c.Close()
		name = "curl"
	}
	out, err := exec.CommandContext(ctx, name, append(args, "http://"+addr+"/a%20b?x=1")...).CombinedOutput()
	return string(out), err
}

// ---------------------------------------------------------------- Mistakes
//
// A mistake is a change to a program that works: a wrong answer to an exercise, or a hunt.

type mistake struct {
	name     string
	caughtBy string // the check, or the row's id
	why      string
	file     string // of rawsgi, for a hunt
	changes  [][2]string
	program  string // instead of changes
}

// mistakes reads a page of them: for each a heading, a line "Refused by `check`: why", and pairs
// of code blocks, "was" and "is".
func mistakes(path string) (list []mistake) {
	block := regexp.MustCompile("(?ms)^```(\\w+) (?:(\\S+) )?(was|is|program)\n(.*?)^```$")
	for _, section := range strings.Split("\n"+page(path), "\n## ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		m := mistake{name: strings.TrimSpace(name)}
		refused := regexp.MustCompile("(?s)Refused by `(.*?)`: (.*?)\n\n").FindStringSubmatch(text + "\n\n")
		refused = append(refused, "", "", "")
		m.caughtBy, m.why = refused[1], refused[2]
		for _, b := range block.FindAllStringSubmatch(text, -1) {
			m.file = cmp.Or(m.file, b[2])
			switch b[3] {
			case "was":
				m.changes = append(m.changes, [2]string{b[4]})
			case "is":
				m.changes[len(m.changes)-1][1] = b[4]
			case "program":
				m.program = b[4]
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
		if strings.Count(source, change[0]) != 1 { // a part of a line
			change[0], change[1] = strings.TrimSuffix(change[0], "\n"), strings.TrimSuffix(change[1], "\n")
		}
		if n := strings.Count(source, change[0]); n != 1 {
			return "", fmt.Errorf("%s: expected once, found %d times:\n%s", m.name, n, change[0])
		}
		source = strings.Replace(source, change[0], change[1], 1)
	}
	return source, nil
}

// hunts are rawsgi with one mistake each, in the order of the page.
var hunts = sync.OnceValue(func() []mistake { return mistakes("docs/exercises/hunts.md") })

// program builds rawsgi with the mistake.
func (m mistake) build(port string) (built, error) {
	source, err := m.apply(page(m.file))
	if err != nil {
		return built{}, err
	}
	b, err := compile(map[string]string{m.file: source}, true, port)
	if err == nil {
		b.command = []string{b.command[0], "-quiet", "-app", "environ", "-timeout", "2s", "-addr", "127.0.0.1:" + port}
	}
	return b, err
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
		ids = append(ids, regexp.MustCompile(`\b[A-Z]\d\d\b`).FindAllString(strings.SplitN(r.Name, "a", 2)[0], -1)...)
		clues[2] += fmt.Sprintf("\n  %.200s", visible(string(r.Send)))
	}
	given := strings.ToUpper(*answer)
	switch {
	case *hintAsked > 0:
		fmt.Println(clues[min(*hintAsked, 3)-1])
		return solved
	case slices.Contains(ids, given):
		fmt.Printf("Right, it is %s. The mistake: %s.\nnext: %s hunt %d\n", given, m.name, self, n%len(hunts())+1)
		return solved
	case given != "":
		fmt.Printf("It is not %s. %s For more: %s -hint 2 hunt %d\n", given, clues[0], self, n)
		return notYet
	}
	b, err := m.build("8000")
	if err != nil {
		fmt.Println(err)
		return wrongUsage
	}
	defer b.remove()
	fmt.Printf("Hunt %d: this program breaks one row of docs/conformance.md. Send it bytes, then\n"+
		"  %s hunt %d -answer ID\n", n, self, n)
	return runByHand(b.command)
}

// author holds an exercise to itself: the starter fails, the solution passes, each wrong answer
// is refused by its check. It does the same for the hunts and their rows.
func author(which string, names []string) int {
	status := solved
	say := func(name, problem string) {
		if problem == "" {
			fmt.Printf("  ok   %s\n", name)
			return
		}
		fmt.Printf("  NO   %s: %s\n", name, problem)
		status = notYet
	}
	chosen := func(name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	if which == "hunts" {
		for i, m := range hunts() {
			if chosen(m.name) || chosen(strconv.Itoa(i+1)) {
				say(m.name, m.unseen())
			}
		}
		return status
	}
	x := exerciseNamed(which)
	if x == nil {
		fmt.Fprintln(os.Stderr, "there is no exercise "+which)
		return wrongUsage
	}
	ours, _ := filepath.Glob(x.dir + "/s[ot]*.*") // the pattern is right
	for _, file := range ours {
		switch starter := strings.HasPrefix(filepath.Base(file), "starter"); {
		case !chosen(filepath.Base(file)):
		case starter && x.attempt(io.Discard, file, false).ok():
			say(file, "the starter passes")
		case starter:
			say(file, "")
		default:
			problem := ""
			for n := 0; n < *times && problem == ""; n++ {
				var report strings.Builder
				if a := x.attempt(&report, file, n > 0); !a.ok() {
					problem = fmt.Sprintf("fails, the time number %d\n%s", n+1, report.String())
				}
			}
			say(file, problem)
		}
	}
	for _, m := range mistakes(x.dir + "/wrong.md") {
		if chosen(m.name) {
			say(m.name, x.accepts(m))
		}
	}
	return status
}

// accepts says why a wrong answer is not refused as it should be.
func (x *exercise) accepts(m mistake) (problem string) {
	solution, _ := filepath.Glob(x.dir + "/solution.*") // the pattern is right
	source, err := m.apply(page(append(solution, x.dir+"/solution.go")[0]))
	dir, failed := os.MkdirTemp("", "check-wrong-")
	if err := cmp.Or(err, failed); err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, x.name+filepath.Ext(solution[0]))
	write(file, source)
	var report strings.Builder
	a := x.attempt(&report, file, m.caughtBy == onceMore, m.caughtBy)
	if !slices.Contains(a.failed, m.caughtBy) {
		return fmt.Sprintf("expected the check %q to refuse it\n%s", m.caughtBy, report.String())
	}
	return ""
}

// unseen says why a hunt is not refused by its row, and few others.
func (m mistake) unseen() string {
	b, err := m.build(freePort())
	if err != nil {
		return err.Error()
	}
	defer b.remove()
	p, err := start(append(b.command, b.command[len(b.command)-1][10:])[:len(b.command)], nil)
	if err != nil {
		return err.Error()
	}
	defer p.stop()
	p.addr = b.command[len(b.command)-1]
	if c, err := p.dial(); err != nil {
		return err.Error()
	} else {
		c.Close()
	}
	caught := map[string]bool{}
	*strict = true
	for _, r := range readRows() {
		if len(r.Send) < 1<<17 { // longer ones take long, and are about limits
			reply, err := r.ask(p.addr, 5*time.Second)
			if r.verdict(reply, err, true) != nil {
				caught[r.id()] = true
			}
		}
	}
	if !caught[m.caughtBy] || len(caught) > 6 {
		return fmt.Sprintf("expected %s and few others to refuse it, got %q", m.caughtBy, slices.Sorted(maps.Keys(caught)))
	}
	return ""
}

// ---------------------------------------------------------------- A class

// A student is a directory of a class, and what came of it.
type student struct {
	name    string
	dir     string
	cells   []string // for each exercise
	lines   []string // for class.csv
	failing []string // "07 cut short": the check that fails first, of programs that compile
	unknown []string // files that belong to no exercise
}

// checkClass checks the files of all students, two students at a time. It prints a table and
// writes a directory with class.csv and a file of feedback for each student.
func checkClass(dir string, which []string) int {
	var chosen []*exercise
	for _, x := range exercises() {
		if len(which) == 0 || slices.ContainsFunc(which, func(w string) bool { return exerciseNamed(w) == x }) {
			chosen = append(chosen, x)
		}
	}
	entries, err := os.ReadDir(dir)
	var students []*student
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if stat, err := os.Stat(path); err == nil && stat.IsDir() { // a link may lead to one
			students = append(students, &student{name: entry.Name(), dir: path})
		}
	}
	if err != nil || len(chosen) == 0 || students == nil {
		fmt.Fprintf(os.Stderr, "%s: expected a directory with one for each student, and exercises (%v)\n", dir, err)
		return wrongUsage
	}
	report := cmp.Or(*output, filepath.Clean(dir)+"-report")
	fmt.Println("This runs the programs of students. Do it where they can do no harm: in a " +
		"container without network, or under an account of its own.")
	owners := fingerprints(students, chosen)
	writeCSV(report, students, false)
	var mu sync.Mutex
	several(cmp.Or(*jobs, 2), len(students), func(i int) {
		students[i].check(chosen, owners, report)
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(os.Stderr, "done: %s\n", visible(students[i].name))
		writeCSV(report, students, false) // now: somebody may stop it
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

// fingerprints are who has which program, without its comments and white space.
func fingerprints(students []*student, chosen []*exercise) map[string][]string {
	owners := map[string][]string{}
	for _, x := range chosen {
		ours, _ := filepath.Glob(x.dir + "/s[ot]*.*") // the pattern is right
		for _, file := range ours {
			key := x.number + fingerprint(page(file))
			owners[key] = append(owners[key], "the "+strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
		}
		for _, s := range students {
			if _, content := s.source(x); content != nil {
				key := x.number + fingerprint(string(content))
				owners[key] = append(owners[key], s.name)
			}
		}
	}
	return owners
}

func fingerprint(source string) string {
	var b strings.Builder
	eachToken(source, func(_ int, _ token.Token, text string) { b.WriteString(strings.TrimSpace(text) + " ") })
	return b.String()
}

// check checks a student's files, and writes the feedback.
func (s *student) check(chosen []*exercise, owners map[string][]string, report string) {
	var feedback strings.Builder
	fmt.Fprintf(&feedback, "Feedback for %s\n", visible(s.name))
	for _, x := range chosen {
		file, content := s.source(x)
		if file == "" {
			s.cells = append(s.cells, "-")
			s.lines = append(s.lines, fmt.Sprintf("%s,%s,0,%d,0,,not handed in", csvText(s.name), x.name, len(x.checks)+1))
			continue
		}
		a := x.attempt(&feedback, file, true)
		others := slices.DeleteFunc(slices.Clone(owners[x.number+fingerprint(string(content))]),
			func(owner string) bool { return owner == s.name })
		cell, first := fmt.Sprintf("%d/%d", a.passed, len(x.checks)+1), append(a.failed, "")[0]
		points := 10 * a.passed / (len(x.checks) + 1)
		remark := ""
		if others != nil {
			remark = "equal to " + strings.Join(others, ", ")
		}
		switch {
		case a.broken != "":
			first = "does not compile"
		case a.ok():
			cell, points = "ok", 10
		case !slices.Contains(others, "the starter"):
			s.failing = append(s.failing, x.number+" "+first)
		}
		if slices.Contains(others, "the starter") {
			points = 0
		}
		if others != nil {
			cell += "="
		}
		s.cells = append(s.cells, cell)
		s.lines = append(s.lines, fmt.Sprintf("%s,%s,%d,%d,%d,%s,%s", csvText(s.name), x.name, a.passed,
			len(x.checks)+1, points, csvText(first), csvText(remark)))
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, "mine")} {
		files, _ := filepath.Glob(escapeGlob(dir) + "/*.[gpj][oys]") // the pattern is right
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
			if !slices.ContainsFunc(exercises(), func(x *exercise) bool { return x.name == name }) {
				s.unknown = append(s.unknown, filepath.Base(file))
				fmt.Fprintf(&feedback, "\nnot recognised: %s; names are those that the checker gives, like %s.go\n",
					visible(filepath.Base(file)), exercises()[0].name)
			}
		}
	}
	write(filepath.Join(report, fileName(s.name)+".txt"), feedback.String())
}

func escapeGlob(dir string) string {
	return regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(dir, `[$0]`)
}

func fileName(name string) string {
	return regexp.MustCompile(`[^\w.-]`).ReplaceAllString(name, "_")
}

// writeCSV writes what is known; its last line says whether that is all.
func writeCSV(report string, students []*student, complete bool) {
	text := "student,exercise,passed,checks,points,first failing check,remark\n"
	for _, s := range students {
		text += strings.Join(append(s.lines, ""), "\n")
		for _, name := range s.unknown {
			text += fmt.Sprintf("%s,,,,,,%s\n", csvText(s.name), csvText("not recognised: "+name))
		}
	}
	text += map[bool]string{true: "complete\n", false: "INCOMPLETE: the check is not over\n"}[complete]
	write(filepath.Join(report, "class.csv"), text)
}

// csvText puts a text into quotes. A spreadsheet would compute one that begins with "=".
func csvText(text string) string {
	text = strings.ReplaceAll(visible(text), `"`, `""`)
	if text != "" && strings.Contains("=+-@", text[:1]) {
		text = "'" + text
	}
	return `"` + text + `"`
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
	fmt.Println("\n\n= is equal to the starter, the solution or another's\nchecks that fail first:")
	for i, name := range slices.SortedFunc(maps.Keys(failing), func(a, b string) int {
		return cmp.Or(failing[b]-failing[a], strings.Compare(a, b))
	}) {
		if i < 10 {
			fmt.Printf("  %d of %d students: %s\n", failing[name], len(students), name)
		}
	}
}

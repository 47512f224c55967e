//go:build ignore

// Check grades programs from outside: it sends bytes and looks at the bytes that return.
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
// and docs/conformance.md are the checks, and this program interprets them. It is in the
// order of a check: bytes, a program, a client, a verdict, the tables. Then come the
// commands: grading servers, exercises, hunts, a class.
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

const self = "go run docs/check.go" // as messages show it

func main() {
	flag.Usage = usage
	var args []string
	for rest := os.Args[1:]; ; rest = flag.Args()[1:] { // flags may be anywhere
		flag.CommandLine.Parse(rest) // exits with 2 if a flag is wrong
		if flag.NArg() == 0 {
			break
		}
		args = append(args, flag.Arg(0))
	}
	args = append(args, "", "", "")
	for i := 1; i < 3; i++ { // a file or directory: the working directory changes now
		_, missing := os.Stat(args[i])
		if missing == nil && (i == 1 || args[0] == "host") {
			args[i] = must(filepath.Abs(args[i]))
		}
	}
	findRoot()
	os.Exit(command(args[0], args[1], strings.Fields(strings.Join(args[2:], " "))))
}

// command does what the arguments ask for, and returns the exit status.
func command(verb, object string, rest []string) int {
	x := exerciseNamed(verb)
	switch {
	case verb == "":
		progress(true)
		return solved
	case verb == "rows":
		return printJSON(chosenRows(""))
	case verb == "server" && object != "":
		return gradeServer(object, strings.Join(rest, ""))
	case (verb == "gateway" || verb == "applications") && object != "":
		section := map[string]string{"gateway": "Gateways"}[verb]
		g := newGrading(object, edgePatience)
		return g.report(g.try(chosenRows(cmp.Or(section, "Applications"))), false)
	case verb == "host" && len(rest) > 0:
		return gradeHost(object, strings.Join(rest, " "))
	case verb == "proxy" && len(rest) == 1:
		return gradeProxy(object, rest[0])
	case verb == "hunt":
		return hunt(object)
	case verb == "class" && object != "":
		return checkClass(object, rest)
	case verb == "author" && object == "hunts":
		return authorHunts()
	case verb == "author" && exerciseNamed(object) != nil:
		return exerciseNamed(object).author(rest)
	case x != nil:
		return x.work(object)
	}
	fmt.Fprintf(os.Stderr, "there is no exercise %q, and no such command\n", verb)
	usage()
	return wrongUsage
}

// usage prints the commands that the comment of this file lists.
func usage() {
	text := between(page("docs/check.go"), "return.\n//\n", "//\n//")
	fmt.Fprint(os.Stderr, "usage:\n", strings.ReplaceAll(text, "//\t", "  "))
}

// findRoot changes to the root of the repository, upwards from the working directory.
func findRoot() {
	begin := must(os.Getwd())
	for dir := begin; ; dir = filepath.Dir(dir) {
		_, module := os.Stat(filepath.Join(dir, "go.mod"))
		_, table := os.Stat(filepath.Join(dir, "docs", "conformance.md"))
		if module == nil && table == nil {
			die(os.Chdir(dir))
			return
		} else if dir == filepath.Dir(dir) {
			die(fmt.Errorf("%s is not in the course: expected a directory, here or above, "+
				"with go.mod and docs/conformance.md", begin))
		}
	}
}

// die ends the program if there is an error that is not the student's.
func die(err error) {
	if err != nil {
		stopAll()
		fmt.Fprintln(os.Stderr, err)
		os.Exit(wrongUsage)
	}
}

func must[T any](value T, err error) T {
	die(err)
	return value
}

// page returns a file of the repository.
func page(path string) string { return string(must(os.ReadFile(path))) }

// glob returns the files of a pattern, which is one of ours and so is not malformed.
func glob(pattern string) []string { return must(filepath.Glob(pattern)) }

func write(path, content string) {
	die(os.MkdirAll(filepath.Dir(path), 0o755))
	die(os.WriteFile(path, []byte(content), 0o644))
}

func printJSON(value any) int {
	die(json.NewEncoder(os.Stdout).Encode(value))
	return solved
}

// between returns the text that follows one text and ends before another.
func between(text, from, to string) string {
	_, text, _ = strings.Cut(text, from)
	text, _, _ = strings.Cut(text, to)
	return text
}

// several calls do(0) to do(n-1), so many at a time.
func several(atATime, n int, do func(i int)) {
	places := make(chan bool, atATime)
	for i := range n {
		places <- true
		go func() { do(i); <-places }()
	}
	for range atATime {
		places <- true // the last have ended
	}
}

// ---------------------------------------------------------------- Bytes
//
// A cell of a table has bytes as in a Go string, \r\n and \x00, and between << and >>
// text that is repeated or drawn at random: docs/exercises/README.md has the list.

// Drawn has the random values of one check by their names.
type drawn map[string]string

// special is a value <<?a:kind>>, a sum <<=a+13>>, a size <<#a>> or <<x#a>>, or a
// repetition <<x*9>>.
var special = regexp.MustCompile(`<<(?:\?([a-z]+)(?::([^>]*))?|=([a-z]+)([+-]\d+)|` +
	`(x?)#([a-z]+)|([^<>]*)\*(\w+))>>`)

// expand returns the bytes of a cell. What is inside a repetition is expanded first.
func (d drawn) expand(cell string) string {
	for special.MatchString(cell) {
		cell = special.ReplaceAllStringFunc(cell, d.special)
	}
	return must(strconv.Unquote(`"` + strings.ReplaceAll(cell, `"`, `\"`) + `"`))
}

func (d drawn) special(text string) string {
	m := special.FindStringSubmatch(text)
	switch value, sum, size := m[1], m[3], d[m[6]]; {
	case value != "":
		if d[value] == "" {
			d[value] = draw(m[2])
		}
		return d[value]
	case sum != "":
		return strconv.Itoa(number(d[sum]) + number(m[4]))
	case m[5] == "x":
		return strconv.FormatInt(int64(len(size)), 16)
	case m[6] != "":
		return strconv.Itoa(len(size))
	}
	return strings.Repeat(m[7], number(cmp.Or(d[m[8]], m[8])))
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

// number is of digits in a table: a mistake there is its author's.
func number(digits string) int { return must(strconv.Atoi(digits)) }

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

// A program is a command that listens on addr, or reads standard input if addr is "".
type program struct {
	command []string
	addr    string
	dir     string // its files, which remove removes
}

func (p program) remove() { os.RemoveAll(p.dir) } // what Windows keeps is temporary

// A child is a program while it runs.
type child struct {
	program
	stdin   io.WriteCloser
	stdout  transcript // of a program that reads standard input
	printed transcript
	secret  string        // marks the lines of our probes, and the processes
	ended   chan struct{} // closed when it has ended
	process *os.Process
}

// A transcript keeps the first 64 KiB of what a program prints, which may be endless.
type transcript struct {
	mu   sync.Mutex
	text []byte
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[:min(len(p), 65536-len(t.text))]...)
	return len(p), nil
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// start runs a program.
func (p program) start() (*child, error) {
	dir := must(os.MkdirTemp("", "check-empty-"))
	c := &child{program: p, ended: make(chan struct{}),
		secret: fmt.Sprintf("#%08x", rand.Uint32())}
	run := exec.Command(p.command[0], p.command[1:]...)
	run.Dir, run.Stdout, run.Stderr = dir, &c.printed, &c.printed
	run.WaitDelay, run.SysProcAttr = time.Second, ownGroup()
	run.Env = append(os.Environ(), "PROBE_SECRET="+c.secret, "GORACE=atexit_sleep_ms=0",
		"PYTHONDONTWRITEBYTECODE=1")
	if p.addr == "" {
		run.Stdout, c.stdin = &c.stdout, must(run.StdinPipe())
	}
	if err := run.Start(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	c.process = run.Process
	running.Store(c, true)
	go func() {
		run.Wait() // that it was killed is no error
		running.Delete(c)
		os.RemoveAll(dir)
		close(c.ended)
	}()
	return c, nil
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
	running.Range(func(c, _ any) bool { c.(*child).stop(); return true })
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

// stop kills the program with its children. A child that has left the group is found by
// the secret in its environment, on Linux.
func (c *child) stop() {
	pids := []int{c.process.Pid, -c.process.Pid} // the latter is the group
	if runtime.GOOS == "windows" {
		exec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(pids[0])).Run()
	}
	for _, file := range glob("/proc/[0-9]*/environ") {
		environ, err := os.ReadFile(file) // fails for another user's
		if err == nil && bytes.Contains(environ, []byte("PROBE_SECRET="+c.secret)) {
			pids = append(pids, number(strings.Split(file, "/")[2]))
		}
	}
	for _, pid := range pids {
		if process, err := os.FindProcess(pid); err == nil {
			process.Kill() // fails if it has ended, as it should
		}
	}
	<-c.ended
}

// endsWithin gives the program time to end by itself, and reports whether it did.
func (c *child) endsWithin(patience time.Duration) bool {
	select {
	case <-c.ended:
		return true
	case <-time.After(patience):
		return false
	}
}

var errDeaf = errors.New("nobody listens: the program's address must be 127.0.0.1:8000")

// dial waits until the program listens, or has ended.
func (c *child) dial() (net.Conn, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if connection, err := net.Dial("tcp", c.addr); err == nil {
			return connection, nil
		}
		if c.endsWithin(5 * time.Millisecond) {
			return nil, errors.New("the program has ended")
		}
	}
	return nil, errDeaf
}

// log returns what the program has printed. Lines of our probes lose their secret; a line
// that only looks like one of them is left out.
func (c *child) log() string {
	imitations := regexp.MustCompile(`(?m)^(called|closed|in|out|seen) \S+\n`)
	genuine := imitations.ReplaceAllString(c.printed.String(), "")
	return strings.ReplaceAll(genuine, c.secret+" ", "")
}

var lastPort atomic.Int64

// freeAddr returns an address for a program that will listen soon. Its port is below
// those that systems give to clients, so that no client of another program takes it first.
func freeAddr() string {
	for {
		port := 12000 + (int64(os.Getpid())*97+lastPort.Add(1))%18000
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
}

// ---------------------------------------------------------------- A client
//
// What a client does is a script: bytes, with words between them.

const (
	soon   = time.Second     // need not wait: shorter than any timeout of 2 s
	late   = 3 * time.Second // waits for a timeout of 2 s
	atMost = 4 * time.Second // is waited for
)

// An exchange is the last answer to a script, and how it ended.
type exchange struct {
	reply           string
	err             error         // why it did not end well
	refused, silent bool          // nobody listens; or the end was awaited in vain
	after, limit    time.Duration // from the last byte sent to the end; 0 is no limit
}

// A client talks to a server.
type client struct {
	dial     func() (net.Conn, error)
	patience time.Duration // for an answer
	timed    bool          // answers must come soon, or late
	row      *check        // of docs/conformance.md, see finish

	*net.TCPConn        // nil before the first byte and after the last
	exchange            // on the connection before
	got          []byte // on this connection
	last         string // the bytes sent last
	more, slowly bool   // see docs/exercises/README.md
}

var scriptWords = regexp.MustCompile("`[^`]*`|[a-z]+")

// talk plays a script.
func (c *client) talk(script string, d drawn) exchange {
	words := scriptWords.FindAllString(script, -1)
	has := func(word string) bool { return slices.Contains(words, word) }
	if c.more = has("more") || has("close"); c.timed {
		c.limit = soon
	}
	if c.timed && has("late") {
		c.limit = late
	}
	for _, word := range words {
		switch word {
		case "again", "later":
			if c.finish(); word == "later" {
				time.Sleep(2500 * time.Millisecond)
			}
		case "late", "more", "fresh": // are about the whole script
		default:
			if c.TCPConn == nil {
				connection, err := c.dial()
				if err != nil {
					return exchange{err: err, refused: true}
				}
				defer connection.Close() // those that stay; the others are closed already
				c.TCPConn = connection.(*net.TCPConn)
				c.SetDeadline(time.Now().Add(c.patience))
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
		c.readByte(100 * time.Millisecond) // an error comes again in finish
	case "slowly":
		c.slowly = true
	case "answered", "close":
		if c.readByte(c.patience); len(c.got) == 0 {
			c.err = errors.New("no answer had begun when the client wanted to go on")
		} else if word == "close" {
			c.Write([]byte(c.last)) // fails if the server has closed, as it should
		}
	case "drip", "linger":
		c.drip(word == "linger")
	case "end":
		c.CloseWrite() // fails if the server has closed, which the reply shows
	case "leave":
		c.CloseWrite() // as for end
		c.finish()
		c.err = nil
	case "vanish":
		c.SetLinger(0) // with a reset
		c.Close()
		c.TCPConn = nil
	case "stay":
		c.TCPConn = nil
	default:
		c.send(d.expand(strings.Trim(word, "`")))
	}
}

// readByte reads a byte of an answer, if it comes in time.
func (c *client) readByte(patience time.Duration) error {
	c.SetReadDeadline(time.Now().Add(patience))
	first := make([]byte, 1)
	n, err := c.Read(first)
	c.got = append(c.got, first[:n]...)
	return err
}

// drip sends bytes until the server answers or, after its answer, until it closes.
func (c *client) drip(answered bool) {
	if answered {
		rest, _ := io.ReadAll(io.LimitReader(c, 1<<20)) // an error comes again in finish
		c.got = append(c.got, rest...)
	}
	for end := time.Now().Add(late); time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		_, err := c.Write([]byte("x"))
		if err == nil && !answered {
			err = c.readByte(100 * time.Millisecond)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
	c.err = fmt.Errorf("after %v the server still reads what a client sends", late)
}

func (c *client) send(text string) {
	size := 1 << 20
	if c.slowly || c.row != nil && *bytewise && len(text) < 10000 {
		size = 1
	}
	for piece := range slices.Chunk([]byte(text), size) {
		_, err := c.Write(piece)
		mayEnd := c.more || c.slowly && c.row != nil // a row may be answered early
		if err != nil && !mayEnd {
			c.err = broken(err)
			break
		}
		if c.slowly {
			time.Sleep(time.Millisecond) // or the system would put the bytes together
		}
	}
	c.last, c.slowly = text, false
}

// finish reads the answer to its end. As a connection may stay open in HTTP/1.1, a
// silence ends the answer to a row. Only R01 asks for the close: one fault is told once.
func (c *client) finish() {
	if c.TCPConn == nil {
		return
	}
	const endless = 4 << 20 // bytes
	begin, mayStay := time.Now(), c.row != nil && !*strict && c.row.id() != "R01"
	c.SetDeadline(begin.Add(c.patience))
	var n int
	var err error
	for block := make([]byte, 65536); err == nil && len(c.got) < endless; {
		n, err = c.Read(block)
		if c.got = append(c.got, block[:n]...); mayStay && n > 0 {
			c.SetReadDeadline(time.Now().Add(600 * time.Millisecond))
		}
	}
	c.after, c.reply = time.Since(begin), string(c.got)
	timeout := errors.Is(err, os.ErrDeadlineExceeded)
	isOver := err == io.EOF || timeout && mayStay && c.reply != ""
	switch c.silent = timeout && !isOver; {
	case isOver:
	case err == nil:
		c.err = errors.New("the answer has no end")
	case c.silent && c.reply == "":
		c.err = fmt.Errorf("after %v there is no answer", c.patience)
	case c.silent:
		c.err = fmt.Errorf("after %v the connection stays open: in HTTP/1.0 the server closes "+
			"it after its answer (in Python, each file made from it)", c.patience)
	case !c.more || c.reply == "":
		c.err = broken(err)
	}
	c.Close()
	c.got, c.TCPConn = nil, nil
}

// broken is an error of a connection without its addresses.
func broken(err error) error {
	_, why, _ := strings.Cut(err.Error(), ": ")
	return errors.New("the connection broke: " + why)
}

// inHTTP10 returns an answer in HTTP/1.1 as a server of HTTP/1.0 would send it.
func inHTTP10(reply string) string {
	reply = regexp.MustCompile(`^HTTP/1\.1 100 (.*\r\n)*?\r\n`).ReplaceAllString(reply, "")
	head, content, _ := strings.Cut(reply, "\r\n\r\n")
	head, isNew := strings.CutPrefix(head, "HTTP/1.1 ")
	if !isNew {
		return reply
	}
	if headerLine(head, "Transfer-Encoding") != "" {
		content = decoded("chunks", content)
		head = regexp.MustCompile(`(?i)\r\ntransfer-encoding:[^\r]*`).ReplaceAllString(head, "")
	}
	return "HTTP/1.0 " + head + "\r\n\r\n" + content
}

// feed plays a script for a program that reads standard input.
func (c *child) feed(script string, d drawn) (e exchange) {
	for _, word := range scriptWords.FindAllString(script, -1) {
		io.WriteString(c.stdin, d.expand(strings.Trim(word, "`"))) // it may have read enough
	}
	c.stdin.Close()
	if !c.endsWithin(atMost) {
		e.err = fmt.Errorf("after %v the program has not ended", atMost)
	}
	e.reply = c.stdout.String()
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
	inLog          bool     // the log may not be complete yet
}

// differ is a mismatch at the first byte in which two texts differ.
func differ(expected, came string, notes ...string) *mismatch {
	m := &mismatch{expected: expected, came: came, notes: notes}
	for m.at < min(len(expected), len(came)) && expected[m.at] == came[m.at] {
		m.at++
	}
	return m
}

// An expectation is a word and a text, as in: header `Allow: GET`.
type expectation struct{ word, text string }

// judge compares an exchange and a log with what is expected; nil if all is well.
func (c check) judge(d drawn, e exchange, log string) *mismatch {
	for _, x := range c.expected {
		m := match(x.word, d.expand(x.text), e.reply, log)
		if m != nil && e.err != nil {
			m.notes = append(m.notes, e.err.Error())
		}
		if m != nil {
			return m
		}
	}
	if e.err != nil {
		m := &mismatch{expected: "an answer, then the end of the connection"}
		m.came = e.err.Error()
		if shown, _ := window(e.reply, 0); e.reply != "" {
			m.notes = []string{"before that came " + shown}
		}
		return m
	} else if e.limit > 0 && e.after > e.limit {
		return &mismatch{expected: fmt.Sprintf("the end of the connection within %v", e.limit),
			came: fmt.Sprintf("it after %.1f s", e.after.Seconds()), late: true}
	}
	return nil
}

// match compares a reply, or a log, with one expectation. It is as long as the list of
// words, which docs/exercises/README.md and docs/conformance.md explain. After "no",
// nothing like the text must be there.
func match(word, text, reply, log string) *mismatch {
	about, isCGI := strings.CutPrefix(word, "cgi ")
	if isCGI {
		reply = fromCGI(reply)
	}
	about, negated := strings.CutPrefix(about, "no ")
	if about == "not" {
		about, negated = "has", true
	}
	head, content, whole := strings.Cut(reply, "\r\n\r\n")
	came, expected, ok := content, text, false
	switch about {
	case "nothing":
		came, ok = reply, reply == ""
	case "status":
		came, expected = head, "HTTP/1.0 "+text
		ok = regexp.MustCompile(`^HTTP/1\.[01] ` + text + `([ \r]|$)`).MatchString(head)
	case "header", "member", "field":
		came = headerLine(head, text)
		ok = sameHeader(about, text, came)
	case "date": // so many seconds old
		came = headerLine(head, "Date")
		expected = time.Now().UTC().Format("Date: " + http.TimeFormat)
		date, err := time.Parse("Date: "+http.TimeFormat, came)
		ok = err == nil && time.Since(date).Abs() <= time.Duration(number(text))*time.Second
	case "one":
		came, expected = cmp.Or(headerLine(head, text), "none"), "one "+text
		ok = came != "none" && !strings.Contains(came, "\r\n")
	case "lines":
		came, expected = head, "HTTP/1.0 200 ..., lines that end in CR LF, an empty line"
		ok = whole && strings.HasPrefix(head, text) &&
			!strings.ContainsAny(strings.ReplaceAll(head, "\r\n", ""), "\r\n\x00")
	case "length":
		came = headerLine(head, "Content-Length")
		expected = fmt.Sprint("Content-Length: ", len(content))
		ok = came == "" || came == expected
	case "body":
		expected, ok = cmp.Or(text, "no body"), content == text
	case "chunks", "unzipped":
		came = decoded(about, content)
		ok = came == text
	case "prints":
		came, expected = trimLines(reply), trimLines(text)
		ok = came == expected
	case "some":
		came, ok = reply, reply != ""
	case "headless": // HTTP/0.9
		came, expected = reply, "a body without a head"
		ok = reply != "" && !strings.HasPrefix(reply, "HTTP/")
	case "line":
		came = lineLike(text, cmp.Or(content, reply))
		ok = came == text
	case "begins": // but for the version of an answer
		came = regexp.MustCompile(`^HTTP/1\.\d `).ReplaceAllString(head, "")
		ok = strings.HasPrefix(came, text)
	case "has", "page", "log":
		came = map[string]string{"has": reply, "page": content, "log": log}[about]
		ok, expected = strings.Contains(came, text), about+" "+text
	default:
		panic("a table of checks has an unknown expectation: " + word)
	}
	switch at := strings.Index(came, text); {
	case negated && at >= 0:
		return &mismatch{expected: word + " " + text, came: came, at: at}
	case negated, ok:
		return nil
	case about == "has" || about == "page" || about == "log":
		m := likeliest(expected, text, came)
		m.inLog = about == "log"
		return m
	case !whole && strings.HasPrefix(reply, "HTTP/"):
		return differ(expected, came, "the head has no end: an empty line is missing")
	}
	return differ(expected, came)
}

// likeliest shows a text from the place where it is most like one that is missing in it.
func likeliest(expected, missing, text string) *mismatch {
	const few = 4 // equal bytes: less is chance
	for n := len(missing) - 1; n >= few; n-- {
		if i := strings.Index(text, missing[:n]); i >= 0 {
			return differ(missing, text[i:])
		}
	}
	return &mismatch{expected: expected, came: text}
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

// sameHeader compares fields by their meaning: as lists, on one line or several. A member
// is one of the list. A field is a beginning, in any case: a proxy keeps the order.
func sameHeader(about, want, came string) bool {
	name, _, _ := strings.Cut(want, ": ")
	if strings.EqualFold(name, "Set-Cookie") {
		return slices.Contains(strings.Split(came, "\r\n"), want)
	}
	came = strings.ReplaceAll(came, "\r\n"+name+": ", ",")
	switch about {
	case "field":
		return strings.HasPrefix(strings.ToLower(came), strings.ToLower(want))
	case "member":
		return slices.Contains(members(came), strings.Join(members(want), ""))
	}
	return came != "" && slices.Equal(members(came), members(want))
}

var caseless = regexp.MustCompile(
	`(?i)^(Content-Type|Content-Encoding|Transfer-Encoding|Connection|Vary|Accept-Ranges): `)

// members takes a list apart; their order and the white space around them mean nothing.
func members(field string) (list []string) {
	_, value, _ := strings.Cut(field, ": ")
	if caseless.MatchString(field) {
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

// lineLike returns the line that begins with a text or, if there is none, with its key.
func lineLike(text, page string) string {
	key, _, _ := strings.Cut(text, ": ")
	for _, beginning := range []string{text, key + ": "} {
		for line := range strings.SplitSeq(page, "\n") {
			if strings.HasPrefix(line, beginning) {
				return line
			}
		}
	}
	return ""
}

// decoded returns what was sent in chunks or zipped, or what is wrong with it.
func decoded(how, content string) string {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	var plain io.Reader
	answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head+content)), nil)
	if how == "chunks" && err == nil {
		plain = answer.Body
	} else if how == "unzipped" {
		plain, err = gzip.NewReader(strings.NewReader(content))
	}
	if err != nil {
		return fmt.Sprintf("(%v) %s", err, content)
	}
	text, err := io.ReadAll(plain)
	if err != nil {
		return fmt.Sprintf("%s (and then: %v)", text, err)
	}
	return string(text)
}

func trimLines(text string) string {
	return strings.TrimSpace(regexp.MustCompile(`[ \t\r]*\n`).ReplaceAllString(text, "\n"))
}

// withCRLF ends the lines of a head in CR LF, where a program may use LF alone.
func withCRLF(message string) string {
	end := regexp.MustCompile(`\r?\n\r?\n`).FindStringIndex(message)
	if end == nil {
		return message
	}
	head := strings.ReplaceAll(message[:end[0]], "\r\n", "\n")
	return strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + message[end[1]:]
}

// fromCGI turns a CGI document into the answer in HTTP that it asks for. It is the reply
// or, if that is HTTP already, its body.
func fromCGI(reply string) string {
	if strings.HasPrefix(reply, "HTTP/") {
		_, reply, _ = strings.Cut(reply, "\r\n\r\n")
	}
	head, body, whole := strings.Cut("\r\n"+withCRLF(reply), "\r\n\r\n")
	if !whole {
		return reply
	}
	status := cmp.Or(headerLine(head, "Status"), "Status: 200 OK")
	head = regexp.MustCompile(`(?i)\r\nstatus:[^\r]*`).ReplaceAllString(head, "")
	return "HTTP/1.0 " + strings.TrimPrefix(status, "Status: ") + head + "\r\n\r\n" + body
}

// brief is a mismatch in a line.
func (m *mismatch) brief() string {
	line, _, _ := strings.Cut(m.came, "\n")
	came := cmp.Or(visible(strings.TrimSpace(line)), "nothing")
	expected := cmp.Or(visible(m.expected), "nothing")
	return fmt.Sprintf("expected %.60s, got %.90s", expected, came)
}

// explain prints a mismatch in ASCII, so that any terminal can show it: expected and came
// are cut in the same window, and the caret is under the first wrong byte.
func (m *mismatch) explain(w io.Writer, sent, rule string) {
	expected, _ := window(m.expected, m.at)
	came, column := window(m.came, m.at)
	notes := append(slices.Clone(m.notes), "")
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "       %-9s %s\n", name, text)
		}
	}
	line("sent", fmt.Sprintf("%.120s", sent))
	line("expected", expected)
	line("came", came)
	line("", strings.Repeat(" ", column)+"^ "+notes[0])
	for _, note := range notes[1:] {
		line("", note)
	}
	line("printed", visible(mainLine(m.printed)))
	line("rule", rule)
}

// mainLine returns the line of a program's output that says most: the error with which it
// has ended, a failure in its log, or else the first line that is not the starter's own.
func mainLine(printed string) string {
	failure := regexp.MustCompile(`(?m)^(panic: |fatal error: |\w*(Error|Exception)\b|` +
		`.*the application failed: ).*`)
	if found := failure.FindString(printed); found != "" {
		return found
	}
	for line := range strings.Lines(printed) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Serving ") {
			return line
		}
	}
	return ""
}

// ---------------------------------------------------------------- The tables

// A check is a row of a table: a script, and what must hold afterwards. Those of
// docs/conformance.md are rules, shown by bytes alone.
type check struct {
	Chapter  int    // 0 for an exercise, and for rows about hosts and proxies
	Name     string // "R05 an absolute target"
	Level    string // M, S or P; with a star if others may differ
	Source   string // "RFC 1945 5.1"
	Send     []byte // the bytes of a row
	How      string // "then end" our half, "byte by byte"; "+": more is sent than read
	Want     string // a status code; "body" for a body without a head; "nothing"
	section  string // "Chapter 3", "CGI hosts"
	script   string
	expected []expectation
	hint     string // about mistakes that many make
}

// cellsOf returns the cells of a line of a table, or the line.
func cellsOf(line string) []string {
	return strings.Split(strings.Trim(line, "| \n"), " | ")
}

// conformance has the rows of docs/conformance.md, in the order of the page. Its section
// "How to read a row" specifies them.
var conformance = sync.OnceValue(func() (rows []check) {
	text, section := page("docs/conformance.md"), ""
	hints := between(text, "\n## Hints\n", "\n## ")
	for line := range strings.Lines(text) {
		cells := cellsOf(line)
		if strings.HasPrefix(line, "#") {
			section = strings.Trim(line, "# \n")
		} else if len(cells) == 6 && regexp.MustCompile(`^[A-Z]\d\d`).MatchString(cells[0]) {
			r := newRow(section, cells)
			hint := func(about string) string { return between(hints, "\n| "+about+" | ", " |") }
			r.hint = cmp.Or(hint(r.Name), hint(r.id()))
			rows = append(rows, r)
		}
	}
	return rows
})

// newRow reads one line of a table: id, level, rule, source, sent, expected.
func newRow(section string, cells []string) check {
	scripts := map[string]string{"": "%s", "then end": "%s end", "byte by byte": "slowly %s",
		"+": "%s more"}
	r := check{Name: cells[0] + " " + cells[2], Level: cells[1], Source: cells[3],
		Want: strings.Trim(strings.Fields(cells[5])[0], "`"), section: section,
		How: regexp.MustCompile(`(then end|byte by byte|\+)?$`).FindString(cells[4])}
	span := regexp.MustCompile("`[^`]*`").FindString(cells[4]) // or nothing
	r.Send = []byte(drawn{}.expand(strings.Trim(span, "`")))
	r.script = fmt.Sprintf(scripts[r.How], span)
	if _, err := fmt.Sscanf(section, "Chapter %d:", &r.Chapter); err != nil {
		r.expected = expectations(cells[5], "begins", "field")
		return r
	}
	r.section = fmt.Sprintf("chapter %d", r.Chapter)
	r.expected = expectations(cells[5], "status", "line")
	if r.Want == "body" {
		r.expected[0].word = "line"
		r.expected = slices.Insert(r.expected, 0, expectation{"headless", ""})
	} else if r.Want != "nothing" {
		isHead := strings.HasPrefix(span, "`HEAD ")
		framing := framing(strings.Contains(cells[5], "no body"), isHead)
		r.expected = slices.Insert(r.expected, 1, framing...)
	}
	return r
}

// framing is what a client relies on in each head, RFC 1945 §6, and with -strict also
// what our server promises.
func framing(isEmpty, isHead bool) []expectation {
	cell := "lines `HTTP/1.0 ` no header `Transfer-Encoding`"
	if *strict {
		cell += " one `Date` one `Server` one `Content-Type` no header `Connection`"
	}
	if isEmpty {
		cell += " body ``"
	} else if !isHead {
		cell += " length ``"
	}
	if *strict && !isEmpty && !isHead {
		cell += " one `Content-Length`"
	}
	return expectations(cell, "", "")
}

// expectations reads a cell: spans of text, each after its word. Rows of
// docs/conformance.md leave out the words that most of them need.
func expectations(cell, first, other string) (list []expectation) {
	if cell == "nothing" {
		return []expectation{{"nothing", ""}}
	}
	spans := regexp.MustCompile("([a-z ]*)`([^`]*)`").FindAllStringSubmatch(cell, -1)
	for i, span := range spans {
		word := cmp.Or(strings.TrimSpace(span[1]), other)
		if i == 0 && strings.TrimSpace(span[1]) == "" {
			word = first
		} else if word == "not" && other != "" {
			word = "no " + other
		}
		list = append(list, expectation{word, span[2]})
	}
	return list
}

// without leaves some expectations out.
func (c check) without(words ...string) check {
	c.expected = slices.DeleteFunc(slices.Clone(c.expected), func(x expectation) bool {
		return slices.Contains(words, x.word)
	})
	return c
}

// id is the first of a row's ids; "E04 E06 E08 a path ..." has three.
func (c check) id() string { return c.Name[:3] }

func (c check) ids() []string {
	return strings.Fields(regexp.MustCompile(`^([A-Z]\d\d )*`).FindString(c.Name))
}

// rule is a row's name without its own case.
func (c check) rule() string {
	rule, _, _ := strings.Cut(c.Name, ": ")
	return rule
}

// chosenRows returns the rows of a chapter, 3, of several, 3-5, of a rule, R04, of a
// section, Proxies, or of all chapters.
func chosenRows(which string) []check {
	low, high, _ := strings.Cut(which, "-")
	return slices.DeleteFunc(slices.Clone(conformance()), func(r check) bool {
		if r.Chapter == 0 {
			return which == "" || !strings.HasPrefix(r.section, which)
		}
		chapter := strconv.Itoa(r.Chapter)
		return (chapter < low || chapter > cmp.Or(high, low, "9")) &&
			!slices.Contains(r.ids(), which)
	})
}

// chapterPage is the page to read, "docs/03-request-line.md".
func chapterPage(chapter int) string {
	if chapter == 0 {
		return "docs/conformance.md"
	}
	return filepath.ToSlash(glob(fmt.Sprintf("docs/%02d-*.md", chapter))[0])
}

// ---------------------------------------------------------------- Any server
//
// A server that is not ours may differ where a row has a star or the level P, refuse with
// another status, speak HTTP/1.1, and show any page until chapter 7. With -strict it may
// not.

// Outcomes other than "passes", and how a report counts them.
var outcomes = []struct{ name, text string }{
	{"fails", "fail"},
	{"differs", "differ where they may"},
	{"hung up", "hung up: 400 would say why"}, // instead of a refusal
	{"unseen", "cannot be judged"},            // right as far as any page but environ shows
	{"untried", "not tried"},                  // as the server answers no more
}

// A result is how one row went.
type result struct {
	check
	Outcome string
	Fault   string // in a line
	m       *mismatch
}

// A grading is a server under test.
type grading struct {
	addr     string
	dial     func() (net.Conn, error)
	patience time.Duration
	ask      func(r check) exchange // plays the row
	environ  bool                   // its page is that of the environ application
	silent   atomic.Int64           // rows without an answer
	gone     atomic.Bool            // it answers no more
}

// newGrading is of a server that should listen on addr.
func newGrading(addr string, patience time.Duration) *grading {
	g := &grading{addr: addr, patience: patience}
	g.dial = func() (net.Conn, error) { return net.DialTimeout("tcp", addr, patience) }
	g.ask = g.play
	return g
}

// play sends a row. After five rows without an answer it waits less long for one.
func (g *grading) play(r check) exchange {
	c := client{dial: g.dial, patience: g.patience, row: &r}
	if g.silent.Load() >= 5 {
		c.patience = min(c.patience, 500*time.Millisecond)
	}
	e := c.talk(r.script, drawn{})
	if !*strict && r.Chapter > 0 {
		e.reply = inHTTP10(e.reply)
	} else if !*strict {
		e.reply = withCRLF(e.reply) // RFC 9112 §2.2
	}
	return e
}

// plainRow is the simplest of questions.
var plainRow = check{Name: "plain", script: "`GET / HTTP/1.0\\r\\n\\r\\n`",
	Send: []byte("GET / HTTP/1.0\r\n\r\n")}

// gradeServer sends rows to a server, and reports how it did.
func gradeServer(addr, which string) int {
	rows := chosenRows(which)
	if len(rows) == 0 {
		fmt.Fprintf(os.Stderr, "no row of docs/conformance.md is %q: chapters 3 to 7 have "+
			"rows; type 3, 3-5 or R04\n", which)
		return wrongUsage
	}
	g := newGrading(addr, 3*time.Second)
	if *strict {
		g.patience = 20 * time.Second
	}
	e := g.play(plainRow)
	if g.gone.Store(e.reply == ""); e.reply == "" && !*asJSON {
		fmt.Println(noAnswer(addr, e))
		return notYet
	}
	g.environ = strings.Contains(e.reply, "REQUEST_METHOD: GET")
	return g.report(g.try(rows), slices.Contains(rows[0].ids(), which))
}

// noAnswer explains what may be wrong with a server that answers nothing at all.
func noAnswer(addr string, e exchange) string {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Sprintf("expected host:port, not %q: %v\nnext: %s server 127.0.0.1:8000",
			addr, err, self)
	} else if e.refused {
		return fmt.Sprintf("Nobody listens on %s: %v\nnext: start your server, and look at "+
			"the address that it prints (%s)", addr, e.err, chapterPage(1))
	} else if e.silent {
		return fmt.Sprintf("%s does not answer GET / HTTP/1.0: %v\nnext: answer when the "+
			"empty line has come; do not wait for more (%s)", addr, e.err, chapterPage(2))
	}
	return fmt.Sprintf("%s closes the connection without an answer to GET / HTTP/1.0.\n"+
		"That is chapter 1. No row can pass before there is an answer.\n"+
		"next: give it one (%s)", addr, chapterPage(2))
}

// try sends rows, in any order if there are several -jobs.
func (g *grading) try(rows []check) []result {
	results := make([]result, len(rows))
	several(max(1, *jobs), len(rows), func(i int) { results[i] = g.tryRow(rows[i]) })
	return results
}

// tryRow sends a row. A server that does not answer a plain request afterwards has not
// survived the row.
func (g *grading) tryRow(r check) result {
	if g.gone.Load() {
		return result{check: r, Outcome: "untried"}
	}
	seen := r
	if !g.environ && r.Chapter > 0 {
		seen = r.without("line", "no line")
	}
	e := g.ask(r)
	m := seen.judge(drawn{}, e, "")
	if e.silent {
		g.silent.Add(1)
	}
	switch {
	case m == nil && len(seen.expected) < len(r.expected):
		return result{check: r, Outcome: "unseen"}
	case m == nil:
		return result{check: r, Outcome: "passes"}
	}
	fault := m.brief()
	if e.reply == "" && r.Chapter > 0 && !*strict {
		plain := g.play(plainRow)
		if plain.reply == "" && !g.gone.Swap(true) {
			fault = "since this row the server answers nothing, not even GET / HTTP/1.0: " +
				"is it in a loop?"
			if plain.refused {
				fault = "the server has ended here: its terminal says why"
			}
			m.notes = []string{fault}
		}
	}
	m.notes = append([]string{r.hint}, m.notes...)
	return result{r, r.outcome(e), fault, m}
}

// outcome says what it means that an answer is not the one expected.
func (c check) outcome(e exchange) string {
	refusal := regexp.MustCompile(`^(HTTP/1.[01] )?[45]\d\d`)
	wanted := refusal.MatchString(c.Want)
	switch {
	case *strict:
		return "fails"
	case wanted && e.reply == "" && !e.silent && !e.refused:
		return "hung up"
	case c.Level == "P", strings.HasSuffix(c.Level, "*"),
		wanted && refusal.MatchString(e.reply):
		return "differs"
	}
	return "fails"
}

// report has a line for each rule that is broken, explains the first row that fails, or
// three of the one rule that was asked for, counts by section, and says what is next.
func (g *grading) report(results []result, one bool) int {
	if *asJSON {
		return printJSON(results)
	}
	n := map[string]int{} // of each rule and section, and of each outcome there
	var failed *result
	for i, r := range results {
		for _, part := range []string{r.rule(), r.section} {
			n[part]++
			n[part+r.Outcome]++
		}
		if r.Outcome == "fails" {
			failed = cmp.Or(failed, &results[i])
		}
	}
	fmt.Printf("\n%s, %d rows of docs/conformance.md:\n\n", g.addr, len(results))
	for _, r := range results {
		if rule := r.rule(); r.Outcome == "fails" && n[rule+"told"] == 0 {
			n[rule+"told"]++
			fmt.Printf("NO  %s  %s (%d of %d rows): %s\n", r.section, rule, n[rule+"fails"],
				n[rule], r.Fault)
		}
	}
	for i, explained := 0, 0; i < len(results); i++ {
		if r := &results[i]; r == failed || one && r.m != nil && explained < 3 {
			fmt.Printf("\n%s: %s\n", r.Outcome, r.Name)
			rule := r.Source + "; level " + r.Level + "; " + chapterPage(r.Chapter)
			r.m.explain(os.Stdout, visible(r.Send), rule)
			explained++
		}
	}
	fmt.Println()
	unseen := total(results, n)
	if failed != nil {
		fmt.Printf("the first row that fails: %s\n", failed.Name)
	}
	if last := results[len(results)-1].Chapter; last > 0 {
		fmt.Println("next:", g.next(failed, last, one, unseen))
	}
	return exitStatus(failed == nil)
}

// total prints the counts of each section, and reports whether a row could not be judged.
func total(results []result, n map[string]int) (unseen bool) {
	for i, r := range results {
		if i == 0 || r.section != results[i-1].section {
			fmt.Printf("%s  %3d of %3d rows pass", r.section, n[r.section+"passes"], n[r.section])
			for _, o := range outcomes {
				if count := n[r.section+o.name]; count > 0 {
					fmt.Printf(", %d %s", count, o.text)
				}
			}
			fmt.Printf("  (%s)\n", chapterPage(r.Chapter))
		}
		unseen = unseen || r.Outcome == "unseen"
	}
	if unseen {
		fmt.Println("What cannot be judged has the right status, but does not show environ.")
	}
	return unseen
}

// next says what to do after the rows of a chapter, the last of those that were sent.
func (g *grading) next(failed *result, last int, one, unseen bool) string {
	again := fmt.Sprintf("%s server %s ", self, g.addr)
	switch {
	case failed != nil && g.gone.Load():
		return "start it again, then " + again + failed.id()
	case failed != nil:
		return again + failed.id()
	case one:
		return again + strconv.Itoa(last)
	case last == 7 && unseen:
		return "answer with environ, a line like REQUEST_METHOD: GET for each key " +
			"(docs/conformance.md)"
	case last == 7:
		return fmt.Sprintf("%s, then %s gateway %s", chapterPage(8), self, g.addr)
	}
	return fmt.Sprintf("%s, then %s3-%d", chapterPage(last+1), again, last+1)
}

// ---------------------------------------------------------------- Hosts and proxies
//
// These rows come from the last tables of docs/conformance.md. They have two sides: bytes
// are given on one, and a message is looked at on the other.

const edgePatience = 10 * time.Second // for a program to start, or for an upstream

// gradeHost asks a CGI host for programs that it writes into a directory which the host
// serves under an address like http://127.0.0.1:8000/cgi-bin/. Each is for a Unix shell,
// and prints the bytes of its row, in octal.
func gradeHost(address, dir string) int {
	target, err := url.Parse(strings.TrimSuffix(address, "/") + "/")
	if err == nil && (target.Scheme != "http" || target.Port() == "") {
		err = fmt.Errorf("expected an address like http://127.0.0.1:8000/cgi-bin/, not %q",
			address)
	}
	die(err)
	g := newGrading(target.Host, edgePatience)
	n := 0
	g.ask = func(r check) exchange {
		n++
		file, octal := fmt.Sprintf("row%02d.cgi", n), ""
		for _, b := range r.Send {
			octal += fmt.Sprintf(`\0%03o`, b)
		}
		text := "#!/bin/sh\nprintf %b '" + octal + "'\n"
		die(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755))
		r.script = fmt.Sprintf("`GET %s%s HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n`", target.Path,
			file, target.Host)
		r.Send = plainRow.Send // GET, too
		return g.play(r)
	}
	return g.report(g.try(chosenRows("CGI hosts")), false)
}

// An upstream is the server to which a proxy forwards, for one row.
type upstream struct {
	answer []byte
	got    transcript // what arrives
}

// gradeProxy is both the client and the upstream of a proxy.
func gradeProxy(addr, upstreamAddr string) int {
	l, err := net.Listen("tcp", upstreamAddr)
	die(err)
	defer l.Close()
	var now atomic.Pointer[upstream]
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() { // until it is closed
			go now.Load().serve(c)
		}
	}()
	g := newGrading(addr, edgePatience)
	g.ask = func(r check) exchange {
		if r.section == "Proxies: what is answered" {
			now.Store(&upstream{answer: r.Send})
			return g.play(plainRow)
		}
		u := &upstream{answer: []byte("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")}
		now.Store(u)
		e := g.play(r)
		return exchange{reply: u.got.String(), err: e.err, silent: e.silent, refused: e.refused}
	}
	return g.report(g.try(chosenRows("Proxies")), false)
}

// serve answers a connection once.
func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(edgePatience))
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &u.got)))
	if err == nil {
		io.Copy(io.Discard, request.Body) // an error leaves it short, as the row shows
	}
	c.Write(u.answer) // fails if the proxy has gone, which the client sees
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

// onceMore is the check after all others: the table again, in one process.
const onceMore = "once more"

// exercises reads docs/exercises.
var exercises = sync.OnceValue(func() (all []*exercise) {
	for _, dir := range glob("docs/exercises/[0-9][0-9]*-*") {
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
	x.title = between(text, ". ", "\n")
	kind := regexp.MustCompile("(?m)^Kind:.*?(standard input.*|served as `(.*)`.*)?$").
		FindStringSubmatch(text)
	x.served, x.stdin = kind[2], strings.HasPrefix(kind[1], "standard input")
	for line := range strings.Lines(text) {
		cells := cellsOf(line)
		if len(cells) != 4 || cells[0] == "check" {
			continue
		}
		x.checks = append(x.checks, check{Name: cells[0], script: cells[1], Source: cells[3],
			expected: expectations(cells[2], "status", ""),
			hint:     between(text, "\n- `"+cells[0]+"`: ", "\n")})
		x.staged = x.staged || strings.HasPrefix(cells[1], "rows ")
	}
	if !x.stdin && !x.staged {
		x.checks = append(x.checks, check{Name: onceMore, Source: "docs/09-many-at-once.md",
			script: "all of the table, four rows at a time, to one process"})
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

// progress prints how many exercises pass, and which is the next, perhaps after a list.
func progress(list bool) {
	done, next := 0, ""
	for _, x := range exercises() {
		mark := ""
		if file, content := x.find("mine"); x.passed(content) {
			mark = "ok"
			done++
		} else if next = cmp.Or(next, x.number); file != "" {
			mark = "..."
		}
		if list {
			fmt.Printf("  %-3s  %-3s  %s\n", mark, x.number, x.title)
		}
	}
	if list {
		fmt.Printf("also      %d hunts: %s hunt 1\n", len(hunts()), self)
	}
	if strings.HasPrefix(next, "00") {
		next += "   (00a to 00e are optional; the chapters begin with 01)"
	}
	if next != "" {
		fmt.Printf("next      %s %s\n", self, next)
	}
	n := len(exercises())
	bar := strings.Repeat("#", done) + strings.Repeat(".", n-done)
	fmt.Printf("progress  [%s] %d of %d\n", bar, done, n)
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
		return solved // nothing is wrong yet
	case *serving:
		return serveByHand(x.build(file, "127.0.0.1:8000", false))
	}
	for {
		content, _ := readSource(file) // attempt says what is wrong with it
		a := x.attempt(os.Stdout, file, false)
		if a.ok() {
			others := strings.Join(glob(x.dir+"/solution.*"), ", ")
			fmt.Printf("solved    another solution: %s\n", others)
		}
		if own {
			x.note(content, a.ok())
		}
		if own && a.ok() {
			progress(false)
		}
		if !*watching {
			return exitStatus(a.ok())
		}
		fmt.Printf("watching %s; end it with Ctrl-C\n", file)
		for now := content; bytes.Equal(now, content); now, _ = readSource(file) {
			time.Sleep(200 * time.Millisecond)
		}
	}
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
	list, _ := os.ReadFile("mine/passed.txt") // as in passed
	text := strings.ReplaceAll(string(list), x.passedLine(content), "")
	if passes {
		text += x.passedLine(content)
	}
	write("mine/passed.txt", text)
}

// begin puts the starters of an exercise where students work: a module of its own, so
// that neither git nor ./... sees what they do there.
func (x *exercise) begin() (files []string) {
	for _, starter := range glob(x.dir + "/starter.*") {
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

// serveByHand runs a program on the terminal until Ctrl-C.
func serveByHand(p program, err error) int {
	defer p.remove()
	die(err)
	signal.Ignore(os.Interrupt) // it is for the program
	run := exec.Command(p.command[0], p.command[1:]...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	fmt.Println("Serving on http://127.0.0.1:8000/; end it with Ctrl-C.")
	run.Run() // that it was interrupted is no error
	return solved
}

// ---------------------------------------------------------------- From file to program

// build makes a program of a student's file that serves on an address. A file for rawsgi
// is compiled together with its sources and the probes. The caller removes the program.
func (x *exercise) build(file, addr string, raced bool) (program, error) {
	source, err := readSource(file)
	if err != nil {
		return program{}, err
	}
	interpreters := map[string]string{".py": "python3", ".js": "node"}
	if interpreter := interpreters[filepath.Ext(file)]; interpreter != "" {
		path := must(filepath.Abs(file))
		return program{command: []string{interpreter, path, portOf(addr)}, addr: addr}, nil
	}
	text := strings.ReplaceAll(string(source), "127.0.0.1:8000", addr)
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
	if x.stdin {
		addr = ""
	}
	if raced { // fails where there is no C compiler, or with an error of the student's
		p, err := compile(files, addr, "-race")
		if err == nil {
			return p, nil
		}
		p.remove()
	}
	return compile(files, addr)
}

func portOf(addr string) string { return strings.TrimPrefix(addr, "127.0.0.1:") }

// compile builds student.go, or rawsgi if there are other files, which then are put in
// the place of its own.
func compile(files map[string]string, addr string, flags ...string) (program, error) {
	dir, what := must(os.MkdirTemp("", "check-")), "."
	p := program{dir: dir, addr: addr} // .exe is a name that runs everywhere
	p.command = []string{filepath.Join(dir, "program.exe"), portOf(addr)}
	if len(files) == 1 && files["student.go"] != "" {
		what = filepath.Join(dir, "student.go")
	}
	replace := map[string]string{}
	for name, content := range files {
		replace[must(filepath.Abs(name))] = filepath.Join(dir, name)
		write(filepath.Join(dir, name), content)
	}
	overlay := filepath.Join(dir, "overlay.json")
	write(overlay, string(must(json.Marshal(map[string]any{"Replace": replace}))))
	args := append([]string{"build", "-gcflags", "-N -l", "-ldflags", "-s -w", // fast
		"-overlay", overlay, "-o", p.command[0]}, append(flags, what)...)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return p, fmt.Errorf("%s%v", out, cmp.Or(ctx.Err(), err))
	}
	return p, nil
}

// positioned returns a source that says where it is from, so that the compiler's errors
// name the file that the student knows. Its build constraint is gone.
func positioned(file, source string) string {
	source = strings.Replace(source, "//go:build ignore\n", "\n", 1)
	return fmt.Sprintf("//line %s:1\n%s", must(filepath.Abs(file)), source)
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

// goTokens finds comments, texts, names and other characters in a source.
var goTokens = regexp.MustCompile("(?s)//[^\n]*|/\\*.*?\\*/|`[^`]*`|" +
	`"(\\.|[^"\\])*"|'(\\.|[^'\\])*'|\w+|\S`)

// setAside appends a "_" to names in a source of ours, those that the student's file
// declares: students may give a function any name.
func setAside(source string, names map[string]bool) string {
	return goTokens.ReplaceAllStringFunc(source, func(text string) string {
		if names[text] {
			return text + "_"
		}
		return text
	})
}

// ---------------------------------------------------------------- Checks

// An attempt is what came of one file.
type attempt struct {
	broken string // what the compiler says
	passed int
	failed []string // names of checks, in their order
}

func (a attempt) ok() bool { return a.broken == "" && a.failed == nil }

// attempt builds a file, runs all checks or some, and reports them as they are done; the
// first that fails is explained. When all pass, they run once more, with the race
// detector. To build with that takes long; it is done at once if raced.
func (x *exercise) attempt(w io.Writer, file string, raced bool, only ...string) attempt {
	a := attempt{}
	fmt.Fprintf(w, "\nExercise %s  %s\n", x.number, x.title)
	p, err := x.build(file, freeAddr(), raced)
	defer func() { p.remove() }()
	if err != nil {
		fmt.Fprintf(w, "  it does not compile:\n%s\n", err)
		return attempt{broken: err.Error()}
	}
	over := false
	for _, c := range x.checks {
		if only != nil && !slices.Contains(only, c.Name) {
			continue
		} else if over || c.Name == onceMore && a.failed != nil {
			fmt.Fprintf(w, "  --   %s: not tried yet\n", c.Name)
			continue
		}
		if c.Name == onceMore && !raced {
			p.remove()
			p = must(x.build(file, freeAddr(), true)) // it has compiled before
		}
		m := x.try(&c, p)
		if m != nil && m.late { // being late is looked at twice: the machine may be busy
			m = x.try(&c, p)
		}
		if m == nil {
			a.passed++
			fmt.Fprintf(w, "  ok   %s\n", c.Name)
			continue
		}
		fmt.Fprintf(w, "  NO   %s\n", c.Name)
		if a.failed = append(a.failed, c.Name); len(a.failed) == 1 {
			m.explain(w, strings.ReplaceAll(c.script, "`", ""), c.Source)
		}
		// None of the others could pass.
		over = over || x.staged || slices.Contains(m.notes, errDeaf.Error())
	}
	fmt.Fprintf(w, "%d of %d pass\n", a.passed, len(x.checks))
	if a.failed != nil {
		fmt.Fprintf(w, "next      %s -hint 1 %s\n", self, x.number)
	}
	return a
}

// try starts a program for one check.
func (x *exercise) try(c *check, p program) *mismatch {
	waiting := time.AfterFunc(3*time.Second, func() {
		fmt.Fprintf(os.Stderr, "  ...  waiting: %s\n", c.Name)
	})
	defer waiting.Stop()
	child, err := p.start()
	if err != nil {
		return &mismatch{expected: "a program that starts", came: err.Error()}
	}
	defer child.stop()
	kind, which, _ := strings.Cut(c.script, " ")
	switch {
	case c.Name == onceMore:
		return x.again(c, child)
	case kind == "rows":
		return child.rows(which)
	case kind == "with":
		return child.askWith(which, *c)
	}
	m := child.hold(*c, true)
	if m == nil && !x.stdin {
		m = x.stillAnswers(child)
	}
	return m
}

// hold plays a check's script to a program and judges what comes. A mismatch is completed
// by the usual cause, and by how the program has ended. Beside other clients, a check is
// not timed.
func (c *child) hold(row check, alone bool) *mismatch {
	d := drawn{}
	var e exchange
	if c.addr == "" {
		e = c.feed(row.script, d)
	} else {
		e = (&client{dial: c.dial, patience: atMost, timed: alone}).talk(row.script, d)
	}
	if e.reply == "" {
		c.endsWithin(200 * time.Millisecond) // it may be about to
	}
	if len(row.without("no log").expected) < len(row.expected) {
		time.Sleep(50 * time.Millisecond) // a log may be later than the answer
	}
	m := row.judge(d, e, c.log())
	for end := time.Now().Add(time.Second); m != nil && m.inLog && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond) // what is missing in the log may come
		m = row.judge(d, e, c.log())
	}
	if m == nil {
		return nil
	}
	m.notes = append([]string{row.hint}, m.notes...)
	if m.came == "" && e.reply == "" && e.after > 0 {
		m.came = fmt.Sprintf("(nothing: hung up after %.1f s)", e.after.Seconds())
	}
	if c.addr != "" && c.endsWithin(time.Millisecond) {
		m.notes = append(m.notes, "the program has ended")
	}
	m.printed = c.log()
	return m
}

// stillAnswers sends the bytes of the first check again. Any answer will do, but it must
// not be the program's last, and there must have been no data race.
func (x *exercise) stillAnswers(c *child) *mismatch {
	first := x.checks[0]
	first.hint = "this check went well, but not what came after it"
	if first.expected[0].word != "nothing" {
		first.expected = []expectation{{"some", "an answer also to the next client"}}
	}
	c.endsWithin(20 * time.Millisecond) // it may be about to
	m := c.hold(first, false)
	if m == nil && c.endsWithin(10*time.Millisecond) {
		m = &mismatch{expected: "a program that goes on", came: "the end of it",
			notes: []string{first.hint}, printed: c.log()}
	}
	if race := match("no log", "WARNING: DATA RACE", "", c.printed.String()); race != nil {
		race.notes = []string{"two goroutines use the same data without a lock"}
		return race
	}
	return m
}

// again sends the table once more, to one process, four rows at a time: what one client
// leaves behind must not reach another. The check becomes the row that fails.
func (x *exercise) again(c *check, child *child) *mismatch {
	rows := x.checks[:len(x.checks)-1]
	mismatches := make([]*mismatch, len(rows)+1)
	isFresh := func(row check) bool { return strings.HasSuffix(row.script, " fresh") }
	several(4, len(rows), func(i int) {
		row := rows[i].without("log", "no log")
		row.hint = "by itself, this check passes: does one client meet another's data?"
		if !isFresh(row) {
			mismatches[i] = child.hold(row, false)
		}
	})
	mismatches[len(rows)] = x.stillAnswers(child)
	child.stop()
	for i, row := range append(slices.Clone(rows), *c) {
		if isFresh(row) { // it has a process of its own
			mismatches[i] = x.try(&row, child.program)
		}
		if mismatches[i] != nil {
			c.Source, c.script = row.Source, row.script+" (as in "+row.Name+")"
			return mismatches[i]
		}
	}
	return nil
}

// rows sends the rows of a chapter that a source demands of everyone, and returns the
// first that fails.
func (c *child) rows(chapter string) *mismatch {
	g := newGrading(c.addr, atMost)
	g.dial, g.environ = c.dial, true
	for _, r := range chosenRows(strings.TrimPrefix(chapter, "ch0")) {
		if r.Level != "M" {
			continue
		}
		if m := g.tryRow(r).m; m != nil {
			m.notes = append(m.notes, "row "+r.Name+", "+r.Source, "sent "+visible(r.Send))
			m.printed = c.log()
			return m
		}
	}
	return nil
}

// askWith has curl, chromium, or nginx in front of it, talk to a server. If that program
// is not here, it counts as passed.
func (c *child) askWith(name string, row check) *mismatch {
	if _, err := exec.LookPath(name); err != nil {
		fmt.Fprintf(os.Stderr, "  ...  not tried: there is no %s here\n", name)
		return nil
	}
	args, front := []string{"curl", "-sSi", "--max-time", "5"}, c
	if name == "chromium" {
		args = []string{name, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"}
	} else if name == "nginx" {
		dir := must(os.MkdirTemp("", "check-nginx-"))
		conf := filepath.Join(dir, "conf")
		p := program{[]string{name, "-p", dir, "-c", conf}, freeAddr(), dir}
		defer p.remove()
		write(conf, fmt.Sprintf("daemon off; error_log stderr; pid %s/pid; events {}\n"+
			"http { access_log off; server { listen %s;\n"+
			"location / { proxy_pass http://%s; } } }\n", dir, p.addr, c.addr))
		front = must(p.start())
		defer front.stop()
	}
	for _, server := range []*child{c, front} { // until both listen
		if connection, err := server.dial(); err == nil {
			connection.Close()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args = append(args, "http://"+front.addr+"/a%20b?x=1")
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	m := row.judge(drawn{}, exchange{reply: string(out), err: err}, "")
	if m != nil {
		m.notes, m.printed = append([]string{row.hint}, m.notes...), front.log()
	}
	return m
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
		m.caughtBy = between(text, "Refused by `", "`")
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
func (m mistake) apply(source string) string {
	if m.program != "" {
		return m.program
	}
	for _, change := range m.changes {
		old, new := change[0], change[1]
		if strings.Count(source, old) != 1 { // it may be a part of a line
			old, new = strings.TrimSuffix(old, "\n"), strings.TrimSuffix(new, "\n")
		}
		if n := strings.Count(source, old); n != 1 {
			die(fmt.Errorf("%s: expected once, found %d times:\n%s", m.name, n, old))
		}
		source = strings.Replace(source, old, new, 1)
	}
	return source
}

// hunts are rawsgi with one mistake each.
var hunts = sync.OnceValue(func() []mistake {
	return mistakes("docs/exercises/hunts.md")
})

// build makes a program of rawsgi with the mistake.
func (m mistake) build(addr string) (program, error) {
	p, err := compile(map[string]string{m.file: m.apply(page(m.file))}, addr)
	p.command = append(p.command[:1], "-quiet", "-app", "environ", "-timeout", "2s",
		"-addr", addr)
	return p, err
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
	chapter := fmt.Sprintf("It breaks a rule of chapter %d.", rows[0].Chapter)
	shown := "One of these shows it:"
	var ids []string // of its rows: each is a right answer
	for _, r := range rows {
		ids = append(ids, r.ids()...)
		shown += fmt.Sprintf("\n  %.200s", visible(r.Send))
	}
	given := strings.ToUpper(*answer)
	switch {
	case *hintAsked > 0:
		clues := []string{chapter, "The rule comes from " + rows[0].Source + ".", shown}
		fmt.Println(clues[min(*hintAsked, 3)-1])
		return solved
	case slices.Contains(ids, given):
		fmt.Printf("Right, it is %s. The mistake: %s.\nnext: %s hunt %d\n", given, m.name,
			self, n%len(hunts())+1)
		return solved
	case given != "":
		fmt.Printf("It is not %s. %s For more: %s -hint 2 hunt %d\n", given, chapter, self, n)
		return notYet
	}
	fmt.Printf("Hunt %d: this program breaks a row of docs/conformance.md. Send it bytes,\n"+
		"then  %s hunt %d -answer ID\n", n, self, n)
	return serveByHand(m.build("127.0.0.1:8000"))
}

// author holds an exercise to itself: a starter fails, a solution passes, and each wrong
// answer is refused by its check.
func (x *exercise) author(names []string) int {
	solution := glob(x.dir + "/solution.*")[0]
	trials := mistakes(x.dir + "/wrong.md")
	for _, file := range append(glob(x.dir+"/starter.*"), solution) {
		trials = append(trials, mistake{name: filepath.Base(file), file: file})
	}
	return holdAll(trials, names, func(m mistake) (fault string) {
		file, only := m.file, []string(nil)
		if file == "" {
			dir := must(os.MkdirTemp("", "check-wrong-"))
			defer os.RemoveAll(dir)
			file, only = filepath.Join(dir, x.name+filepath.Ext(solution)), []string{m.caughtBy}
			write(file, m.apply(page(solution)))
		}
		var report strings.Builder
		a := x.attempt(&report, file, m.caughtBy == onceMore, only...)
		for n := 1; n < *times && a.ok() && file == solution; n++ {
			a = x.attempt(&report, file, true)
		}
		if a.ok() != (file == solution) || only != nil && !slices.Equal(a.failed, only) {
			fault = "expected " + cmp.Or(m.caughtBy, m.name) + "\n" + report.String()
		}
		return fault
	})
}

// authorHunts holds each hunt to its row, which must refuse it with few others.
func authorHunts() int {
	*strict = true
	rows := slices.DeleteFunc(chosenRows(""), func(r check) bool {
		return len(r.Send) > 1<<17 // they take long, and are about limits
	})
	return holdAll(hunts(), nil, func(m mistake) (fault string) {
		p, err := m.build(freeAddr())
		defer p.remove()
		die(err)
		c := must(p.start())
		defer c.stop()
		g := newGrading(p.addr, 5*time.Second)
		g.dial, g.environ = c.dial, true
		caught := map[string]bool{}
		for _, r := range g.try(rows) {
			if r.m != nil {
				caught[r.id()] = true
			}
		}
		if !caught[m.caughtBy] || len(caught) > 6 {
			fault = fmt.Sprintf("expected %s and few others, got %v", m.caughtBy, caught)
		}
		return fault
	})
}

// holdAll reports the faults of trials, or of those with some names.
func holdAll(trials []mistake, names []string, faultOf func(m mistake) string) int {
	code := solved
	for _, m := range trials {
		if len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		} else if fault := faultOf(m); fault != "" {
			fmt.Printf("  NO   %s: %s\n", m.name, fault)
			code = notYet
		} else {
			fmt.Printf("  ok   %s\n", m.name)
		}
	}
	return code
}

// ---------------------------------------------------------------- A class

// A paper is what a student has handed in for an exercise, and what came of it.
type paper struct {
	student, file string
	key           string    // see fingerprint
	x             *exercise // nil for a file that belongs to none
	feedback      strings.Builder
	cell          string // of the table that is printed
	passed        int
	first, remark string // the check that fails first, in class.csv
}

// checkClass checks the files of all students, some at a time. It prints a table, and
// writes class.csv and a file of feedback for each student.
func checkClass(dir string, which []string) int {
	owners := map[string][]string{} // of each program: starter, solution, students
	chosen := slices.DeleteFunc(slices.Clone(exercises()), func(x *exercise) bool {
		isThis := func(w string) bool { return exerciseNamed(w) == x }
		return len(which) > 0 && !slices.ContainsFunc(which, isThis)
	})
	for _, x := range chosen {
		for _, file := range append(glob(x.dir+"/starter.*"), glob(x.dir+"/solution.*")...) {
			name, _, _ := strings.Cut(filepath.Base(file), ".")
			key := x.fingerprint([]byte(page(file)))
			owners[key] = append(owners[key], "the "+name)
		}
	}
	var papers []*paper
	for _, entry := range must(os.ReadDir(dir)) {
		path := filepath.Join(dir, entry.Name())
		if stat, err := os.Stat(path); err == nil && stat.IsDir() { // a link may lead to one
			papers = append(papers, papersOf(entry.Name(), path, chosen)...)
		}
	}
	if len(papers) == 0 {
		die(errors.New(dir + ": expected a directory for each student, and exercises"))
	}
	for _, p := range papers {
		owners[p.key] = append(owners[p.key], p.student)
	}
	fmt.Println("This runs the programs of students. Do it where they can do no harm: in " +
		"a container without network, or under an account of its own.")
	report := cmp.Or(*output, filepath.Clean(dir)+"-report")
	writeCSV(report, nil, "INCOMPLETE: the class is being checked, or was not to the end\n")
	several(cmp.Or(*jobs, 3*runtime.NumCPU()), len(papers), func(i int) {
		if p := papers[i]; p.x != nil {
			p.check(owners)
			fmt.Fprintf(os.Stderr, "checked: %s %s\n", visible(p.student), p.x.number)
		}
	})
	writeCSV(report, papers, "complete\n")
	reportClass(report, papers, chosen)
	return solved
}

// papersOf finds a student's files, in the directory or in its mine/. After those of the
// exercises come those that belong to none.
func papersOf(student, dir string, chosen []*exercise) (papers []*paper) {
	mine := filepath.Join(dir, "mine")
	for _, x := range chosen {
		file, content := x.find(dir)
		if file == "" {
			file, content = x.find(mine)
		}
		papers = append(papers, &paper{student: student, file: file, x: x,
			key: x.fingerprint(content)})
	}
	entries, _ := os.ReadDir(dir) // it was there
	more, _ := os.ReadDir(mine)   // it need not be there
	for _, entry := range append(entries, more...) {
		file, extension := entry.Name(), filepath.Ext(entry.Name())
		x := exerciseNamed(strings.TrimSuffix(file, extension))
		if slices.Contains(languages, extension) && (x == nil || x.name+extension != file) {
			p := &paper{student: student, remark: "not recognised: " + file}
			fmt.Fprintf(&p.feedback, "\nnot recognised: %s; a file keeps the name of its "+
				"starter, like %s.go\n", visible(file), exercises()[0].name)
			papers = append(papers, p)
		}
	}
	return papers
}

// fingerprint is a program without its comments and white space.
func (x *exercise) fingerprint(content []byte) string {
	isComment := func(t string) bool {
		return strings.HasPrefix(t, "//") || strings.HasPrefix(t, "/*")
	}
	tokens := goTokens.FindAllString(string(content), -1)
	return x.number + " " + strings.Join(slices.DeleteFunc(tokens, isComment), " ")
}

// check checks a paper. An untouched starter needs no check.
func (p *paper) check(owners map[string][]string) {
	others := slices.DeleteFunc(slices.Clone(owners[p.key]), func(owner string) bool {
		return owner == p.student || p.key == p.x.fingerprint(nil) // it is no program
	})
	if p.cell, p.remark = "-", "not handed in"; p.file == "" {
		return
	} else if slices.Contains(others, "the starter") {
		p.cell, p.remark = "start", "the starter"
		return
	}
	a := p.x.attempt(&p.feedback, p.file, true)
	p.passed, p.remark = a.passed, ""
	if p.cell = fmt.Sprintf("%d/%d", a.passed, len(p.x.checks)); a.ok() {
		p.cell = "ok"
	} else if p.first = "does not compile"; a.broken == "" {
		p.first = a.failed[0]
	}
	if len(others) > 0 {
		p.cell, p.remark = p.cell+"=", "equal to "+strings.Join(others, ", ")
	}
}

// writeCSV writes class.csv; its last line says whether that is all. A spreadsheet would
// compute a text that begins with "=".
func writeCSV(report string, papers []*paper, end string) {
	text := "student,exercise,points,checks passed,first failing check,remark\n"
	for _, p := range papers {
		cells := []string{p.student, "", "", "", p.first, p.remark}
		if p.x != nil {
			cells[1], cells[3] = p.x.name, strconv.Itoa(p.passed)
			cells[2] = strconv.Itoa(10 * p.passed / len(p.x.checks))
		}
		for i, cell := range cells {
			cell = strings.ReplaceAll(visible(cell), `"`, `""`)
			cells[i] = `"` + regexp.MustCompile(`^[=+@-]`).ReplaceAllString(cell, "'$0") + `"`
		}
		text += strings.Join(cells, ",") + "\n"
	}
	write(filepath.Join(report, "class.csv"), text+end)
}

// reportClass writes the feedback, prints the table, and the checks at which most fail
// first, of those whose programs compile.
func reportClass(report string, papers []*paper, chosen []*exercise) {
	fmt.Printf("\n%-20s", "student")
	for _, x := range chosen {
		fmt.Printf(" %6s", x.number)
	}
	failing, feedback, students := map[string]int{}, "", 0
	for i, p := range papers {
		if i == 0 || p.student != papers[i-1].student {
			students++
			fmt.Printf("\n%-20.20s", visible(p.student))
			feedback = "Feedback for " + visible(p.student) + "\n"
		}
		fmt.Printf(" %6s", cmp.Or(p.cell, " "+visible(p.remark)))
		if p.first != "" && p.first != "does not compile" {
			failing[p.x.number+" "+p.first]++
		}
		feedback += p.feedback.String()
		name := regexp.MustCompile(`[^\w.-]`).ReplaceAllString(p.student, "_")
		write(filepath.Join(report, name+".txt"), feedback)
	}
	fmt.Println("\n\n= is equal to the solution or to another's.\nChecks that fail first:")
	most := slices.SortedFunc(maps.Keys(failing), func(a, b string) int {
		return cmp.Or(failing[b]-failing[a], strings.Compare(a, b))
	})
	for _, name := range most[:min(10, len(most))] {
		fmt.Printf("  %d of %d students: %s\n", failing[name], students, name)
	}
	fmt.Println("all of it:", report)
}

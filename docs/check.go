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
// The exit status is 0 for solved, 1 for not yet, 2 for wrong usage. Beginning an
// exercise, hints, lists and a class are no tests: their status is 0.
//
// Nothing here knows what an exercise is about. The tables in docs/exercises/*/README.md
// and docs/conformance.md are the checks, and this program interprets them. Each check is
// a row of a table: a script for a client, and what must hold afterwards. A client plays
// the script to a target and returns an exchange. judge compares it with what must hold,
// and returns a fault, or nil. A check with its fault is a result, and commands report
// results.
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

const (
	self       = "go run docs/check.go" // as messages show it
	wrongUsage = 2                      // an exit status
)

func main() {
	go func() {
		<-interrupted.Done()
		alive.Wait()
		os.Exit(exitStatus[false])
	}()
	flag.Usage = func() { fmt.Fprint(os.Stderr, "usage:\n", usage()) }
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
	commands := map[string]func() int{
		"gateway":      func() int { return newTarget(object).grade("Gateways") },
		"applications": func() int { return newTarget(object).grade("Applications") },
		"server":       func() int { return gradeServer(object, strings.Join(rest, "")) },
		"host":         func() int { return gradeHost(object, strings.Join(rest, " ")) },
		"proxy":        func() int { return gradeProxy(object, strings.Join(rest, " ")) },
		"class":        func() int { return checkClass(object, rest) },
		"author":       func() int { return author(object, rest) },
	}
	x, problem := exerciseNamed(verb), "there is no exercise %q, and no such command\n"
	isWhole := object != "" && (len(rest) > 0 || verb != "host" && verb != "proxy")
	switch {
	case verb == "":
		return progress(true)
	case verb == "rows":
		return printJSON(chosenRows(""))
	case verb == "hunt":
		return hunt(object)
	case commands[verb] != nil && isWhole:
		return commands[verb]()
	case commands[verb] != nil:
		problem = "%q needs more arguments\n"
	case x != nil:
		return x.work(object)
	}
	fmt.Fprintf(os.Stderr, problem+"usage:\n%s", verb, usage())
	return wrongUsage
}

// exitStatus says whether all is solved.
var exitStatus = map[bool]int{true: 0, false: 1}

// usage returns the commands that the comment of this file lists.
func usage() string {
	text := between(page("docs/check.go"), "return.\n//\n", "//\n//")
	return strings.ReplaceAll(text, "//\t", "  ")
}

// findRoot changes to the root of the repository, upwards from the working directory.
func findRoot() {
	for dir := must(os.Getwd()); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "docs", "conformance.md")); err == nil {
			die(os.Chdir(dir))
			return
		} else if dir == filepath.Dir(dir) {
			die(errors.New("this directory is not in the course: type cd and its path first"))
		}
	}
}

// die ends the program if there is an error that is not the student's.
func die(err error) {
	if err != nil {
		endAll()
		alive.Wait()
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
	return 0
}

// between returns the text that follows one text and ends before another.
func between(text, from, to string) string {
	_, text, _ = strings.Cut(text, from)
	text, _, _ = strings.Cut(text, to)
	return text
}

// sections returns the sections of a page, each with its heading first.
func sections(text string) []string { return strings.Split(text, "\n## ")[1:] }

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

// An expectation is a word and a text, as in: header `Allow: GET`.
type expectation struct{ word, text string }

// A result is a check and how it went.
type result struct {
	check
	Outcome string // "passes", or one of outcomes
	Fault   string // in a line
	*fault         // nil if it passes
}

// having returns the results that have an outcome; nil if there are none.
func having(outcome string, results []result) (some []result) {
	for _, r := range results {
		if r.Outcome == outcome {
			some = append(some, r)
		}
	}
	return some
}

// groups divides a list by a key. The order stays.
func groups[T any](list []T, key func(T) string) (divided [][]T) {
	for _, item := range list {
		i := slices.IndexFunc(divided, func(g []T) bool { return key(g[0]) == key(item) })
		if i < 0 {
			i, divided = len(divided), append(divided, nil)
		}
		divided[i] = append(divided[i], item)
	}
	return divided
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
		} else if len(cells) == 6 && rowID.MatchString(cells[0]) {
			r := newRow(section, cells)
			hint := func(about string) string { return between(hints, "\n| "+about+" | ", " |") }
			r.hint = cmp.Or(hint(r.Name), hint(r.id()))
			rows = append(rows, r)
		}
	}
	return rows
})

// A name begins with one id or several: "E04 E06 E08 a path ..." has three.
var rowID = regexp.MustCompile(`^([A-Z]\d\d( |$))+`)

func (c check) ids() []string { return strings.Fields(rowID.FindString(c.Name)) }
func (c check) id() string    { return c.Name[:3] }

// rule is a row's name without its own case.
func (c check) rule() string {
	rule, _, _ := strings.Cut(c.Name, ": ")
	return rule
}

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
	first, others, _ := strings.Cut(cells[5], "`") // "body" or nothing, and a span
	if first == "body " {
		cells[5] = "headless `` line `" + others
	} else if r.Want != "nothing" {
		status, lines, _ := strings.Cut(others, "`")
		cells[5] = "status `" + status + "` " + framing(lines, span) + lines
	}
	r.expected = expectations(cells[5], "", "line")
	return r
}

// framing is what a client relies on in each head, RFC 1945 §6, and with -strict also
// what our server promises.
func framing(lines, sent string) string {
	cell := "lines `HTTP/1.0 ` no header `Transfer-Encoding` "
	if *strict {
		cell += "one `Date` one `Server` one `Content-Type` no header `Connection` "
	}
	if strings.Contains(lines, "no body") {
		return cell + "body `` "
	} else if strings.HasPrefix(sent, "`HEAD ") {
		return cell
	} else if *strict {
		cell += "one `Content-Length` "
	}
	return cell + "length `` "
}

var spans = regexp.MustCompile("([a-z ]*)`([^`]*)`")

// expectations reads a cell: spans of text, each after its word. A table may leave out
// the word before the first span, and one before others, to which "not" belongs as well.
func expectations(cell, first, other string) (list []expectation) {
	if cell == "nothing" {
		return []expectation{{"nothing", ""}}
	}
	for _, span := range spans.FindAllStringSubmatch(cell, -1) {
		word := cmp.Or(strings.TrimSpace(span[1]), first, other)
		if word == "not" && other != "" {
			word = "no " + other
		}
		list, first = append(list, expectation{word, span[2]}), other
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

// ---------------------------------------------------------------- Bytes
//
// A cell of a table has bytes as in a Go string, \r\n and \x00, and between << and >>
// text that is repeated or drawn at random: docs/exercises/README.md has the list.

// drawn has the random values of one check by their names.
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
		second := time.Date(1995, 1, rand.IntN(9000), 0, 0, rand.IntN(86400), 0, time.UTC)
		return second.Format(http.TimeFormat)
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
	*exec.Cmd
	stdin           io.WriteCloser
	stdout, printed transcript    // all is printed, if there is no stdin
	secret          string        // marks the lines of our probes, and the processes
	ended           chan struct{} // closed when it has ended
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

// Ctrl-C must be passed on to children, because they are in other groups.
var (
	interrupted, _ = signal.NotifyContext(context.Background(), os.Interrupt,
		syscall.SIGTERM)
	living, endAll = context.WithCancel(interrupted)
	alive          sync.WaitGroup // children
)

// start runs a program. One that cannot be run has ended, and its log says why.
func (p program) start() *child {
	c := &child{program: p, ended: make(chan struct{}),
		secret: fmt.Sprintf("#%08x", rand.Uint32())}
	c.Cmd = exec.CommandContext(living, p.command[0], p.command[1:]...)
	c.Dir, c.Stdout, c.Stderr = must(os.MkdirTemp("", "check-empty-")), &c.printed,
		&c.printed
	c.Cancel, c.WaitDelay, c.SysProcAttr = c.kill, time.Second, &syscall.SysProcAttr{}
	// By its name, because Windows' SysProcAttr has no such field.
	if own := reflect.ValueOf(c.SysProcAttr).Elem().FieldByName("Setpgid"); own.IsValid() {
		own.SetBool(true)
	}
	c.Env = append(os.Environ(), "PROBE_SECRET="+c.secret, "GORACE=atexit_sleep_ms=0",
		"PYTHONDONTWRITEBYTECODE=1", "TZ=Asia/Seoul") // so that local time is not GMT
	if p.addr == "" {
		c.Stdout, c.stdin = &c.stdout, must(c.StdinPipe())
	}
	if err := c.Start(); err != nil {
		fmt.Fprintln(&c.printed, err)
	}
	alive.Add(1)
	go func() {
		c.Wait() // that it was killed, or has not started, is no error
		os.RemoveAll(c.Dir)
		close(c.ended)
		alive.Done()
	}()
	return c
}

// stop kills the program with all that it has started.
func (c *child) stop() {
	c.kill() // fails if it has ended, as it should
	<-c.ended
}

// kill finds a child that has left the group by the secret in its environment, on Linux.
func (c *child) kill() error {
	if c.Process == nil {
		return nil
	}
	pids := []int{c.Process.Pid, -c.Process.Pid} // the latter is the group
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
			process.Kill() // fails if it has ended
		}
	}
	return nil
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

var errDeaf = errors.New("after 10 s nobody listens: the program's address must be " +
	"127.0.0.1:8000, and it must come to Listen")

// dial waits until the program listens, or has ended.
func (c *child) dial() (net.Conn, error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if connection, err := net.Dial("tcp", c.addr); err == nil {
			return connection, nil
		} else if c.endsWithin(5 * time.Millisecond) {
			return nil, errors.New("the program has ended")
		}
	}
	return nil, errDeaf
}

// An imitation looks like a line of our probes, but has no secret.
var imitation = regexp.MustCompile(`(?m)^(called|closed|in|out|seen) \S+\n`)

// log returns what the program has printed, without imitations and secrets.
func (c *child) log() string {
	genuine := imitation.ReplaceAllString(c.printed.String(), "")
	return strings.ReplaceAll(genuine, c.secret+" ", "")
}

var lastPort atomic.Int64

// freeAddr returns an address for a program that will listen soon. Its port is below
// those that systems give to clients, so that no client of another program takes it
// first.
func freeAddr() string {
	port := 12000 + (int64(os.Getpid())*97+lastPort.Add(1))%18000
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return freeAddr() // the next one
	}
	l.Close()
	return addr
}

// ---------------------------------------------------------------- A client
//
// What a client does is a script: bytes, with words between them, which
// docs/exercises/README.md explains.

const (
	soon   = time.Second     // need not wait: shorter than any timeout of 2 s
	late   = 3 * time.Second // waits for a timeout of 2 s
	atMost = 4 * time.Second // is waited for
)

// An exchange is the last answer to a script, and how it ended.
type exchange struct {
	reply, log      string
	err             error         // why it did not end well
	refused, silent bool          // nobody listens; or the end was awaited in vain
	after           time.Duration // from the last byte sent to the end
}

// A client talks to a server.
type client struct {
	dial     func() (net.Conn, error)
	patience time.Duration // for an answer
	mayStay  bool          // the connection may, in HTTP/1.1: a silence ends the answer

	more, slowly bool   // see docs/exercises/README.md
	*net.TCPConn        // nil before the first byte and after the last
	exchange            // on the connection before
	got          []byte // on this connection
}

var scriptWords = regexp.MustCompile("`[^`]*`|[a-z]+")

// says reports whether a check's script has a word.
func (c check) says(word string) bool {
	return slices.Contains(scriptWords.FindAllString(c.script, -1), word)
}

// talk plays a check's script.
func (c *client) talk(row check, d drawn) exchange {
	c.more, c.slowly = row.says("more"), row.says("slowly")
	for _, word := range scriptWords.FindAllString(row.script, -1) {
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
	c.finish()
	return c.exchange
}

// do is for one word of a script, or for its bytes. Calls that fail because the server
// has closed are no fault by themselves: finish sees it.
func (c *client) do(word string, d drawn) {
	switch word {
	case "again":
		c.finish()
	case "later":
		c.finish()
		time.Sleep(2500 * time.Millisecond)
	case "pause": // the first byte of an answer ends it
		if len(c.got) > 0 {
			time.Sleep(100 * time.Millisecond)
		} else {
			c.readByte(100 * time.Millisecond)
		}
	case "late", "more", "slowly", "fresh": // are about all of the script
	case "answered":
		if c.readByte(c.patience); len(c.got) == 0 {
			c.err = errors.New("no answer had begun when the client wanted to go on")
		}
	case "drip", "linger":
		c.drip(word == "linger")
	case "end":
		c.CloseWrite()
	case "leave":
		c.CloseWrite()
		c.finish()
		c.err = nil
	case "vanish":
		c.SetLinger(0) // with a reset
		c.Close()
		c.got, c.TCPConn = nil, nil
	case "stay":
		c.got, c.TCPConn = nil, nil
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

// drip sends bytes until the server closes, which a client that reads sees sooner. One
// that lingers has read the answer before.
func (c *client) drip(lingers bool) {
	if lingers {
		answer, _ := io.ReadAll(io.LimitReader(c, 1<<20))
		c.got = append(c.got, answer...)
	}
	for end := time.Now().Add(late); time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
		_, err := c.Write([]byte("x"))
		if err == nil && !lingers {
			err = c.readByte(100 * time.Millisecond)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
	c.err = fmt.Errorf("after %v the server still reads what a client sends", late)
}

// send sends bytes at once, or one at a time.
func (c *client) send(text string) {
	size := len(text) + 1
	if c.slowly || *bytewise && len(text) < 10000 {
		size = 1
	}
	for piece := range slices.Chunk([]byte(text), size) {
		if _, err := c.Write(piece); err != nil && !c.more {
			c.err = broken(err)
			return
		} else if c.slowly {
			time.Sleep(time.Millisecond) // or the system would put the bytes together
		}
	}
}

// finish reads the answer to its end, and closes the connection.
func (c *client) finish() {
	if c.TCPConn == nil {
		return
	}
	const endless = 4 << 20 // bytes
	begin, n, err := time.Now(), 0, error(nil)
	c.SetDeadline(begin.Add(c.patience))
	for block := make([]byte, 65536); err == nil && len(c.got) < endless; {
		n, err = c.Read(block)
		if c.got = append(c.got, block[:n]...); c.mayStay && n > 0 {
			c.SetReadDeadline(time.Now().Add(600 * time.Millisecond))
		}
	}
	c.after, c.reply = time.Since(begin), string(c.got)
	timeout := errors.Is(err, os.ErrDeadlineExceeded)
	isOver := err == io.EOF || timeout && c.mayStay && c.reply != ""
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

// broken is an error of a connection without its addresses. Most come from a program that
// closes while there are bytes that it has not read.
func broken(err error) error {
	why := err.Error()[strings.LastIndex(err.Error(), ": ")+2:]
	return errors.New("the connection broke: " + why + ": answer, then read on")
}

// feed plays a script for a program that reads standard input.
func (c *child) feed(row check, d drawn) (e exchange) {
	for _, word := range scriptWords.FindAllString(row.script, -1) {
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

// A fault says in what a check fails.
type fault struct {
	expected, came string
	at             int      // offset in both of the first wrong byte
	notes          []string // causes, and what else is known
	printed        string   // by the program
	late           bool     // all is well but the time
	inLog          bool     // the log may not be complete yet
}

// differ is a fault at the first byte in which two texts differ.
func differ(expected, came string, notes ...string) *fault {
	f := &fault{expected: expected, came: came, notes: notes}
	for f.at < min(len(expected), len(came)) && expected[f.at] == came[f.at] {
		f.at++
	}
	return f
}

// judge compares an exchange with what is expected, and its time with a limit if that is
// not 0. It returns nil if all is well. The first note is the usual cause.
func (c check) judge(d drawn, e exchange, limit time.Duration) *fault {
	for _, x := range c.expected {
		if f := match(x.word, d.expand(x.text), e); f != nil {
			f.notes = append([]string{c.hint}, f.notes...)
			if e.err != nil {
				f.notes = append(f.notes, e.err.Error())
			}
			return f
		}
	}
	f := &fault{notes: []string{c.hint}}
	if shown, _ := window(e.reply, 0); e.reply != "" {
		f.notes = append(f.notes, "before that came "+shown)
	}
	if e.err != nil {
		f.expected, f.came = "an answer, then the end of the connection", e.err.Error()
		return f
	} else if f.late = limit > 0 && e.after > limit; f.late {
		f.expected = fmt.Sprintf("the end of the connection within %v", limit)
		f.came = fmt.Sprintf("it after %.1f s", e.after.Seconds())
		return f
	}
	return nil
}

// match compares an exchange with one expectation. It is as long as the list of words,
// which docs/exercises/README.md and docs/conformance.md explain. After "no", nothing
// like the text may come.
func match(word, text string, e exchange) *fault {
	about, isCGI := strings.CutPrefix(word, "cgi ")
	if isCGI {
		e.reply = fromCGI(e.reply)
	}
	about, negated := strings.CutPrefix(about, "no ")
	if about == "not" {
		about, negated = "has", true
	}
	head, content, whole := strings.Cut(e.reply, "\r\n\r\n")
	came, expected, ok := headerLine(head, text), text, false
	switch about {
	case "header", "member", "field":
		ok = sameHeader(about, text, came)
	case "one":
		came, expected = cmp.Or(came, "none"), "one "+text
		ok = came != "none" && !strings.Contains(came, "\r\n")
	case "date": // so many seconds old
		came = headerLine(head, "Date")
		expected = time.Now().UTC().Format("Date: " + http.TimeFormat)
		date, err := time.Parse("Date: "+http.TimeFormat, came)
		ok = err == nil && time.Since(date).Abs() <= time.Duration(number(text))*time.Second
	case "length": // if it is announced
		came = headerLine(head, "Content-Length")
		expected = fmt.Sprint("Content-Length: ", len(content))
		ok = came == ""
	case "status":
		came, expected = head, "HTTP/1.0 "+text
		ok = regexp.MustCompile(`^HTTP/1\.[01] ` + text + ` `).MatchString(head)
		if strings.HasPrefix(came, expected) { // then the space is missing
			expected += " "
		}
	case "begins": // but for the version of an answer
		came = regexp.MustCompile(`^HTTP/1\.\d `).ReplaceAllString(head, "")
		ok = strings.HasPrefix(came, text)
	case "lines":
		came, expected = head, "HTTP/1.0 200 ..., lines that end in CR LF, an empty line"
		ok = whole && strings.HasPrefix(head, text) &&
			!strings.ContainsAny(strings.ReplaceAll(head, "\r\n", ""), "\r\n\x00")
	case "headless": // HTTP/0.9
		came, expected = e.reply, "a body without a head"
		ok = came != "" && !strings.HasPrefix(came, "HTTP/")
	case "nothing":
		came = e.reply
	case "body":
		came, expected, ok = content, cmp.Or(text, "no body"), content == text
	case "chunks", "unzipped":
		came = decoded(about, content)
	case "prints":
		came, expected = trimLines(e.reply), trimLines(text)
	case "line":
		came = lineLike(text, cmp.Or(content, e.reply))
	case "has", "page", "log":
		came = map[string]string{"has": e.reply, "page": content, "log": e.log}[about]
		expected = about + " " + cmp.Or(text, "any answer")
		ok = came != "" && strings.Contains(came, text)
	default:
		panic("a table of checks has an unknown expectation: " + word)
	}
	at := strings.Index(came, text)
	switch {
	case negated && at >= 0:
		return &fault{expected: word + " " + text, came: came, at: at}
	case negated, ok, came == expected:
		return nil
	case about == "has" || about == "page" || about == "log":
		f := likeliest(expected, text, came)
		f.inLog = about == "log"
		return f
	case !whole && strings.HasPrefix(e.reply, "HTTP/"):
		return differ(expected, came, "the head has no end: an empty line is missing")
	}
	return differ(expected, came)
}

// likeliest shows a text from the place where it is most like one that is missing in it.
func likeliest(expected, missing, text string) *fault {
	const few = 4 // equal bytes: less is chance
	for n := len(missing) - 1; n >= few; n-- {
		if i := strings.Index(text, missing[:n]); i >= 0 {
			return differ(missing, text[i:])
		}
	}
	return &fault{expected: expected, came: text}
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
// is one of the list. A field is a beginning, in upper or lower case: a proxy keeps the
// order.
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

var (
	caseless = regexp.MustCompile(`(?i)^(Content-Type|Content-Encoding|Transfer-Encoding|` +
		`Connection|Vary|Accept-Ranges): `)
	semicolon = regexp.MustCompile(`\s*;\s*`)
)

// members takes a list apart; their order and the white space around them mean nothing.
func members(field string) (list []string) {
	_, value, _ := strings.Cut(field, ": ")
	if caseless.MatchString(field) {
		value = strings.ReplaceAll(strings.ToLower(value), `"`, "")
	}
	for member := range strings.SplitSeq(value, ",") {
		if member = strings.TrimSpace(member); member != "" {
			list = append(list, semicolon.ReplaceAllString(member, "; "))
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

// decoded returns what was sent in chunks or zipped, and what is wrong with it.
func decoded(how, content string) string {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	answer := must(http.ReadResponse(bufio.NewReader(strings.NewReader(head+content)), nil))
	plain, err := io.Reader(answer.Body), error(nil)
	if how == "unzipped" {
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
	return "HTTP/1.0 " + strings.TrimPrefix(status, "Status: ") + " " + head + "\r\n\r\n" + body
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

// brief is a fault in a line.
func (f *fault) brief() string {
	line, _, _ := strings.Cut(f.came, "\n")
	expected, came := visible(f.expected), visible(strings.TrimSpace(line))
	return fmt.Sprintf("expected %.60s, got %.90s", cmp.Or(expected, "nothing"),
		cmp.Or(came, "nothing"))
}

// explain prints a fault in ASCII, so that any terminal can show it: expected and came
// are cut in the same window, and the caret is under the first wrong byte.
func (f *fault) explain(w io.Writer, sent, rule string) {
	expected, _ := window(f.expected, f.at)
	came, column := window(f.came, f.at)
	causes := strings.Join(f.notes, "\n                 ")
	for _, line := range [][2]string{{"sent", fmt.Sprintf("%.120s", sent)},
		{"expected", expected}, {"came", came},
		{"", strings.Repeat(" ", column) + "^ " + causes},
		{"printed", visible(mainLine(f.printed))}, {"rule", rule}} {
		if line[1] != "" {
			fmt.Fprintf(w, "       %-9s %s\n", line[0], line[1])
		}
	}
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

var failure = regexp.MustCompile(`(?m)^(panic: |fatal error: |\w*(Error|Exception)\b|` +
	`.*the application failed: ).*`)

// mainLine returns the line of a program's output that says most: the error with which it
// has ended, a failure in its log, or else the first line that is not the starter's own.
func mainLine(printed string) string {
	own := regexp.MustCompile(`(?m)^\s*(Serving .*)?\n|\s+$`)
	first, _, _ := strings.Cut(own.ReplaceAllString(printed, ""), "\n")
	return strings.TrimSpace(cmp.Or(failure.FindString(printed), first))
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

// A target is a server under test.
type target struct {
	addr     string
	dial     func() (net.Conn, error)
	patience time.Duration
	ask      func(r check) exchange // plays the row
	environ  bool                   // its page is that of the environ application
	silent   atomic.Int64           // rows without an answer
	gone     atomic.Bool            // it answers no more
}

// newTarget is a server that should listen on addr. It may have to start a program first.
func newTarget(addr string) *target {
	t := &target{addr: addr, patience: 10 * time.Second}
	t.dial = func() (net.Conn, error) { return net.DialTimeout("tcp", addr, t.patience) }
	t.ask = t.play
	return t
}

// play sends a row. After five rows without an answer it waits less long for one. Only
// R01 asks that the connection ends: one fault is told once.
func (t *target) play(r check) exchange {
	c := client{dial: t.dial, patience: t.patience, mayStay: !*strict && r.id() != "R01"}
	if t.silent.Load() >= 5 {
		c.patience = min(c.patience, 500*time.Millisecond)
	}
	e := c.talk(r, drawn{})
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

// gradeServer grades a server that answers at all, or says what may be wrong with it.
func gradeServer(addr, which string) int {
	t := newTarget(addr)
	if t.patience = 3 * time.Second; *strict {
		t.patience = 20 * time.Second
	}
	e := t.play(plainRow)
	t.gone.Store(e.reply == "")
	t.environ = strings.Contains(e.reply, "REQUEST_METHOD: GET")
	_, _, malformed := net.SplitHostPort(addr)
	const next = "%s %v\nnext: %s (%s)\n"
	switch {
	case len(chosenRows(which)) == 0:
		fmt.Fprintf(os.Stderr, "no row of docs/conformance.md is %q: chapters 3 to 7 have "+
			"rows; type 3, 3-5 or R04\n", which)
		return wrongUsage
	case e.reply != "" || *asJSON:
		return t.grade(which)
	case malformed != nil:
		fmt.Printf(next, fmt.Sprintf("expected host:port, not %q:", addr), malformed,
			self+" server 127.0.0.1:8000", chapterPage(1))
	case e.refused:
		fmt.Printf(next, "Nobody listens on "+addr+":", e.err,
			"start your server, and look at the address that it prints", chapterPage(1))
	case e.silent:
		fmt.Printf(next, addr+" does not answer GET / HTTP/1.0:", e.err,
			"answer when the empty line has come; do not wait for more", chapterPage(2))
	default:
		fmt.Printf(next, addr, "closes the connection without an answer to GET / HTTP/1.0.\n"+
			"That is chapter 1. No row can pass before there is an answer.", "give it one",
			chapterPage(2))
	}
	return exitStatus[false]
}

// grade sends rows, in any order if there are several -jobs, and reports how they went.
func (t *target) grade(which string) int {
	rows := chosenRows(which)
	results := t.try(rows)
	if *asJSON {
		return printJSON(results)
	}
	return t.report(results, slices.Contains(rows[0].ids(), which))
}

func (t *target) try(rows []check) []result {
	results := make([]result, len(rows))
	several(max(1, *jobs), len(rows), func(i int) { results[i] = t.tryRow(rows[i]) })
	return results
}

// tryRow sends a row. A server that does not answer a plain request afterwards has not
// survived the row.
func (t *target) tryRow(r check) result {
	if t.gone.Load() {
		return result{check: r, Outcome: "untried"}
	}
	seen := r
	if !t.environ && r.Chapter > 0 {
		seen = r.without("line", "no line")
	}
	e := t.ask(r)
	if e.silent {
		t.silent.Add(1)
	}
	f := seen.judge(drawn{}, e, 0)
	switch {
	case f == nil && len(seen.expected) < len(r.expected):
		return result{check: r, Outcome: "unseen"}
	case f == nil:
		return result{check: r, Outcome: "passes"}
	}
	told := f.brief()
	if e.reply == "" && r.Chapter > 0 && !*strict {
		plain := t.play(plainRow)
		if plain.reply == "" && !t.gone.Swap(true) {
			told = "since this row the server answers nothing, not even GET / HTTP/1.0: " +
				"is it in a loop?"
			if plain.refused {
				told = "the server has ended here: its terminal says why"
			}
			f.notes = []string{r.hint, told}
		}
	}
	return result{r, r.outcome(e), told, f}
}

var refusal = regexp.MustCompile(`^(HTTP/1.[01] )?[45]\d\d`)

// outcome says what it means that an answer is not the one expected.
func (c check) outcome(e exchange) string {
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
func (t *target) report(results []result, one bool) int {
	fmt.Printf("\n%s, %d rows of docs/conformance.md:\n", t.addr, len(results))
	for _, rows := range groups(results, func(r result) string { return r.rule() }) {
		if bad := having("fails", rows); len(bad) > 0 {
			fmt.Printf("NO  %s  %s (%d of %d rows): %s\n", rows[0].section, rows[0].rule(),
				len(bad), len(rows), bad[0].Fault)
		}
	}
	failed := having("fails", results)
	explained := failed[:min(len(failed), 1)]
	if one {
		isRight := func(r result) bool { return r.fault == nil }
		explained = slices.DeleteFunc(slices.Clone(results), isRight)
	}
	for _, r := range explained[:min(len(explained), 3)] {
		fmt.Printf("\n%s: %s\n", r.Outcome, r.Name)
		rule := r.Source + "; level " + r.Level + "; " + chapterPage(r.Chapter)
		r.explain(os.Stdout, visible(r.Send), rule)
	}
	fmt.Println()
	for _, rows := range groups(results, func(r result) string { return r.section }) {
		fmt.Printf("%s  %3d of %3d rows pass", rows[0].section, len(having("passes", rows)),
			len(rows))
		for _, o := range outcomes {
			if n := len(having(o.name, rows)); n > 0 {
				fmt.Printf(", %d %s", n, o.text)
			}
		}
		fmt.Printf("  (%s)\n", chapterPage(rows[0].Chapter))
	}
	unseen := len(having("unseen", results)) > 0
	if unseen {
		fmt.Println("What cannot be judged has the right status, but does not show environ.")
	}
	if failed != nil {
		fmt.Printf("the first row that fails: %s\n", failed[0].Name)
	}
	if last := results[len(results)-1].Chapter; last > 0 {
		fmt.Println("next:", t.next(failed, last, one, unseen))
	}
	return exitStatus[failed == nil]
}

// next says what to do after the rows of a chapter, the last of those that were sent.
func (t *target) next(failed []result, last int, one, unseen bool) string {
	again := fmt.Sprintf("%s server %s ", self, t.addr)
	switch {
	case failed != nil && t.gone.Load():
		return "start it again, then " + again + failed[0].id()
	case failed != nil:
		return again + failed[0].id()
	case one:
		return again + strconv.Itoa(last)
	case last == 7 && unseen:
		return "answer with environ, a line like REQUEST_METHOD: GET for each key " +
			"(docs/conformance.md)"
	case last == 7:
		return fmt.Sprintf("%s, then %s gateway %s", chapterPage(8), self, t.addr)
	}
	return fmt.Sprintf("%s, then %s3-%d", chapterPage(last+1), again, last+1)
}

// ---------------------------------------------------------------- Hosts and proxies
//
// These rows come from the last tables of docs/conformance.md. They have two sides: bytes
// are given on one, and a message is looked at on the other.

// gradeHost asks a CGI host for programs that it writes into a directory which the host
// serves under an address like http://127.0.0.1:8000/cgi-bin/. Each is for a Unix shell,
// and prints the bytes of its row, in octal.
func gradeHost(address, dir string) int {
	under, err := url.Parse(strings.TrimSuffix(address, "/") + "/")
	if err == nil && (under.Scheme != "http" || under.Port() == "") {
		err = fmt.Errorf("expected an address like http://127.0.0.1:8000/cgi-bin/, not %q",
			address)
	}
	die(err)
	t, n := newTarget(under.Host), 0
	t.ask = func(r check) exchange {
		n++
		file, octal := fmt.Sprintf("row%02d.cgi", n), ""
		for _, b := range r.Send {
			octal += fmt.Sprintf(`\0%03o`, b)
		}
		text := "#!/bin/sh\nprintf %b '" + octal + "'\n"
		die(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755))
		r.script = fmt.Sprintf("`GET %s%s HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n`", under.Path,
			file, under.Host)
		return t.play(r)
	}
	return t.grade("CGI hosts")
}

// An upstream is the server to which a proxy forwards, for one row.
type upstream struct {
	answer []byte
	got    transcript // what arrives
}

// gradeProxy is both the client and the upstream of a proxy.
func gradeProxy(addr, upstreamAddr string) int {
	l := must(net.Listen("tcp", upstreamAddr))
	defer l.Close()
	var now atomic.Pointer[upstream]
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() { // until it is closed
			go now.Load().serve(c)
		}
	}()
	t := newTarget(addr)
	t.ask = func(r check) exchange {
		if r.section == "Proxies: what is answered" {
			now.Store(&upstream{answer: r.Send})
			return t.play(plainRow)
		}
		u := &upstream{answer: []byte("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")}
		now.Store(u)
		e := t.play(r)
		e.reply = u.got.String()
		return e
	}
	return t.grade("Proxies")
}

// serve answers a connection once.
func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
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

// exercises reads docs/exercises: of each README the heading, the kind, the table of
// checks and the usual causes.
var exercises = sync.OnceValue(func() (all []*exercise) {
	kinds := regexp.MustCompile("(?m)^Kind:.*?(standard input.*|served as `(.*)`.*)?$")
	for _, dir := range glob("docs/exercises/[0-9][0-9]*-*") {
		text, hints := page(dir+"/README.md"), page(dir+"/hints.md")
		kind := kinds.FindStringSubmatch(text)
		x := &exercise{name: filepath.Base(dir), dir: filepath.ToSlash(dir),
			title: between(text, ". ", "\n"), served: kind[2], hints: sections(hints),
			stdin: strings.HasPrefix(kind[1], "standard input")}
		x.number, _, _ = strings.Cut(x.name, "-")
		for line := range strings.Lines(text) {
			if cells := cellsOf(line); len(cells) == 4 && cells[0] != "check" {
				x.checks = append(x.checks, check{Name: cells[0], script: cells[1],
					expected: expectations(cells[2], "status", ""), Source: cells[3],
					hint: between(text, "\n- `"+cells[0]+"`: ", "\n")})
				x.staged = x.staged || strings.HasPrefix(cells[1], "rows ")
			}
		}
		if !x.stdin && !x.staged {
			x.checks = append(x.checks, check{Name: onceMore, Source: "docs/09-many-at-once.md",
				script: "all of the table, four rows at a time, to one process"})
		}
		all = append(all, x)
	}
	return all
})

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

// progress prints how many exercises pass, and which is the next: the last that was
// begun, or one after it. With a list it shows each exercise.
func progress(list bool) int {
	all, done, last, next := exercises(), map[*exercise]bool{}, 0, ""
	for i, x := range all {
		mark := ""
		file, content := x.find("mine")
		if file != "" {
			mark, last = "...", i
		}
		if strings.Contains(passedFiles(), x.stamp(content)) {
			mark, done[x] = "ok", true
		}
		if list {
			fmt.Printf("  %-3s  %-3s  %s\n", mark, x.number, x.title)
		}
	}
	if list {
		fmt.Printf("also      %d hunts: %s hunt 1\n", len(hunts()), self)
	}
	for _, x := range slices.Concat(all[last:], all[:last]) {
		if !done[x] {
			next = cmp.Or(next, x.number)
		}
	}
	if strings.HasPrefix(next, "00") {
		next += "   (00a to 00e are optional; the chapters begin with 01)"
	}
	if next != "" {
		fmt.Printf("next      %s %s\n", self, next)
	}
	bar := strings.Repeat("#", len(done)) + strings.Repeat(".", len(all)-len(done))
	fmt.Printf("progress  [%s] %d of %d\n", bar, len(done), len(all))
	return 0
}

// passedFiles has a stamp, a line, for each file that has passed.
func passedFiles() string {
	list, _ := os.ReadFile("mine/passed.txt") // not there before the first passes
	return string(list)
}

// stamp is of a file and its content: a change makes it untrue that the file passes.
func (x *exercise) stamp(content []byte) string {
	return fmt.Sprintf("%s %x\n", x.name, sha256.Sum256(content))
}

// work puts the starters of an exercise into mine/, which git ignores; or it shows a
// hint, serves the student's file, or checks it.
func (x *exercise) work(file string) int {
	own := file == ""
	if own {
		file, _ = x.find("mine")
	}
	switch {
	case *hintAsked > 0:
		n := min(*hintAsked, len(x.hints))
		_, hint, _ := strings.Cut(x.hints[n-1], "\n")
		fmt.Printf("Hint %d of %d for %s\n%s", n, len(x.hints), x.name, hint)
		return 0
	case file == "":
		fmt.Printf("\nExercise %s  %s\n", x.number, x.title)
		for _, starter := range glob(x.dir + "/starter.*") {
			file := "mine/" + x.name + filepath.Ext(starter)
			write(file, page(starter))
			fmt.Println("  start here:", file)
		}
		write("mine/go.mod", "module mine\n") // so that ./... does not include it
		fmt.Printf("  read      %s/README.md\n  then      %s %s\n", x.dir, self, x.number)
		return 0
	case *serving:
		return serveByHand(x.build(file, "127.0.0.1:8000", false))
	}
	for {
		content, _ := readSource(file) // attempt says what is wrong with it
		isSolved := passesAll(x.attempt(os.Stdout, file, false))
		passed := strings.ReplaceAll(passedFiles(), x.stamp(content), "")
		if isSolved {
			others := strings.Join(glob(x.dir+"/solution.*"), ", ")
			fmt.Println("solved    another solution:", others)
			passed += x.stamp(content)
		}
		if own {
			write("mine/passed.txt", passed)
		}
		if own && isSolved {
			progress(false)
		}
		if !*watching {
			return exitStatus[isSolved]
		}
		fmt.Printf("watching %s; end it with Ctrl-C\n", file)
		for now := content; bytes.Equal(now, content); now, _ = readSource(file) {
			time.Sleep(200 * time.Millisecond)
		}
	}
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

// serveByHand runs a program on the terminal until Ctrl-C, which is for the program.
func serveByHand(p program, err error) int {
	defer p.remove()
	die(err)
	signal.Ignore(os.Interrupt)
	run := exec.Command(p.command[0], p.command[1:]...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	fmt.Println("Serving on http://127.0.0.1:8000/; end it with Ctrl-C.")
	run.Run() // that it was interrupted is no error
	return 0
}

// ---------------------------------------------------------------- From file to program

var interpreters = map[string]string{".py": "python3", ".js": "node"}

// build makes a program of a student's file that serves on an address. A file for rawsgi
// is compiled together with its sources and the probes. The caller removes the program.
func (x *exercise) build(file, addr string, raced bool) (program, error) {
	source, err := readSource(file)
	port := strings.TrimPrefix(addr, "127.0.0.1:")
	if err != nil {
		return program{}, err
	} else if interpreter := interpreters[filepath.Ext(file)]; interpreter != "" {
		return program{[]string{interpreter, must(filepath.Abs(file)), port}, addr, ""}, nil
	}
	text := strings.ReplaceAll(string(source), "127.0.0.1:8000", addr)
	files := map[string]string{"student.go": positioned(file, text)}
	if x.served != "" {
		files["served.go"] = "package main\nfunc init() { serveExercise(" + x.served + ") }\n"
		taken := declared(text)
		probes := setAside(page("docs/exercises/probes.go"), taken)
		files["probes.go"] = positioned("docs/exercises/probes.go", probes)
		maps.Copy(taken, declared(probes))
		for _, name := range strings.Fields("main.go server.go request.go response.go app.go") {
			files[name] = positioned(name, setAside(page(name), taken))
		}
	}
	listens := addr
	if x.stdin {
		listens = ""
	}
	p, err := compile(files, listens, "-race="+strconv.FormatBool(raced))
	if p.command = append(p.command, port); raced && err != nil {
		p.remove() // there is no C compiler, or the student made an error
		return x.build(file, addr, false)
	}
	return p, err
}

// compile builds student.go, or rawsgi if there are other files, which then are put in
// the place of its own.
func compile(files map[string]string, addr string, flags ...string) (program, error) {
	dir, what := must(os.MkdirTemp("", "check-")), "."
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
	p := program{[]string{filepath.Join(dir, "program.exe")}, addr, dir} // on any system
	args := []string{"build", "-gcflags", "-N -l", "-ldflags", "-s -w", "-overlay", overlay,
		"-o", p.command[0]} // which is built fast
	args = append(append(args, flags...), what)
	ctx, cancel := context.WithTimeout(living, 3*time.Minute)
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

// declared returns the names that a source declares for its package.
func declared(source string) map[string]bool {
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

// attempt builds a file, runs all checks or some, and reports them as they are done; the
// first that fails is explained. When all pass, they run once more, with the race
// detector. To build with that takes long; it is done at once if raced.
func (x *exercise) attempt(w io.Writer, file string, raced bool,
	only ...string) (results []result) {
	fmt.Fprintf(w, "\nExercise %s  %s\n", x.number, x.title)
	p, err := x.build(file, freeAddr(), raced)
	defer func() { p.remove() }()
	if err != nil {
		fmt.Fprintf(w, "  it does not compile:\n%s\n", err)
		return []result{{check: check{Name: notCompiled}, Outcome: "fails"}}
	}
	over := false // as no other check can pass
	for _, c := range x.checks {
		if only != nil && !slices.Contains(only, c.Name) {
			continue
		}
		r, failed := result{check: c, Outcome: "passes"}, having("fails", results) != nil
		if over || failed && c.Name == onceMore {
			r.Outcome = "untried"
		} else {
			if c.Name == onceMore && !raced {
				p.remove()
				p = must(x.build(file, freeAddr(), true)) // it has compiled before
			}
			r.fault = x.try(&r.check, p)
			if r.fault != nil && r.late { // the machine may be busy
				r.fault = x.try(&r.check, p)
			}
		}
		if r.fault != nil {
			r.Outcome = "fails"
			over = x.staged || slices.Contains(r.notes, errDeaf.Error())
		}
		fmt.Fprintf(w, marks[r.Outcome], c.Name)
		if r.fault != nil && !failed {
			r.explain(w, strings.ReplaceAll(r.script, "`", ""), r.Source)
		}
		results = append(results, r)
	}
	fmt.Fprintf(w, "%d of %d pass\n", len(having("passes", results)), len(x.checks))
	if !passesAll(results) {
		fmt.Fprintf(w, "next      %s -hint 1 %s\n", self, x.number)
	}
	return results
}

// marks are the lines of an attempt. After a failure, some checks cannot pass.
var marks = map[string]string{"passes": "  ok   %s\n", "fails": "  NO   %s\n",
	"untried": "  --   %s: not tried yet\n"}

const notCompiled = "does not compile"

func passesAll(results []result) bool {
	return len(having("passes", results)) == len(results)
}

// try starts a program for one check.
func (x *exercise) try(c *check, p program) *fault {
	waiting := time.AfterFunc(3*time.Second, func() {
		fmt.Fprintf(os.Stderr, "  ...  waiting: %s\n", c.Name)
	})
	defer waiting.Stop()
	child := p.start()
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
	f := child.hold(*c, true)
	if f == nil && !x.stdin {
		f = x.stillAnswers(child)
	}
	return f
}

// hold plays a check's script to a program and judges what comes. A fault is completed by
// the usual cause, and by how the program has ended. Only if it is alone is it timed.
func (c *child) hold(row check, alone bool) *fault {
	d, limit := drawn{}, time.Duration(0)
	if alone && row.says("late") {
		limit = late
	} else if alone {
		limit = soon
	}
	var e exchange
	if c.addr == "" {
		e = c.feed(row, d)
	} else {
		e = (&client{dial: c.dial, patience: atMost}).talk(row, d)
	}
	if e.reply == "" {
		c.endsWithin(200 * time.Millisecond) // it may be about to
	}
	if len(row.without("no log").expected) < len(row.expected) {
		time.Sleep(50 * time.Millisecond) // a log may be later than the answer
	}
	e.log = c.log()
	f := row.judge(d, e, limit)
	for end := time.Now().Add(time.Second); f != nil && f.inLog && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond) // what is missing in the log may come
		e.log = c.log()
		f = row.judge(d, e, limit)
	}
	if f == nil {
		return nil
	} else if f.came == "" && e.reply == "" && e.after > 0 {
		how := map[bool]string{true: "still connected", false: "hung up"}[e.silent]
		f.came = fmt.Sprintf("(nothing: %s after %.1f s)", how, e.after.Seconds())
	}
	if c.addr != "" && c.endsWithin(time.Millisecond) {
		f.notes = append(f.notes, "the program has ended")
	}
	f.printed = c.log()
	return f
}

// stillAnswers sends the bytes of the first check again. Any answer will do, but it must
// not be the program's last, and there must have been no data race.
func (x *exercise) stillAnswers(c *child) *fault {
	first := x.checks[0]
	first.hint = "this check went well, but not what came after it"
	if first.expected[0].word != "nothing" {
		first.expected = []expectation{{"has", ""}}
	}
	c.endsWithin(20 * time.Millisecond) // it may be about to
	f := c.hold(first, false)
	if f == nil && c.endsWithin(10*time.Millisecond) {
		f = &fault{expected: "a program that goes on", came: "the end of it",
			notes: []string{first.hint}, printed: c.log()}
	}
	race := match("no log", "WARNING: DATA RACE", exchange{log: c.printed.String()})
	if race != nil {
		race.notes = []string{"two goroutines use the same data without a lock"}
		line := regexp.MustCompile(regexp.QuoteMeta(x.name) + `\.go:\d+`)
		if at := line.FindString(c.printed.String()); at != "" {
			race.notes = append(race.notes, "one of them is at "+at)
		}
		return race
	}
	return f
}

// again sends the table once more, to one process, four rows at a time: what one client
// leaves behind must not reach another. The check becomes the row that fails.
func (x *exercise) again(c *check, child *child) *fault {
	rows := x.checks[:len(x.checks)-1]
	faults := make([]*fault, len(rows))
	several(4, len(rows), func(i int) {
		row := rows[i].without("log", "no log")
		row.hint = "alone, this check passes: do clients share data, a deadline or a turn?"
		if !row.says("fresh") {
			faults[i] = child.hold(row, false)
		}
	})
	after := x.stillAnswers(child)
	child.stop()
	for i, row := range rows {
		if row.says("fresh") { // it has a process of its own
			faults[i] = x.try(&row, child.program)
		}
		if faults[i] != nil {
			c.Source, c.script = row.Source, row.script+" (row \""+row.Name+"\")"
			return faults[i]
		}
	}
	return after
}

// rows sends the rows of a chapter that a source demands of everyone, and returns the
// first fault.
func (c *child) rows(chapter string) *fault {
	t := newTarget(c.addr)
	t.dial, t.environ, t.patience = c.dial, true, atMost
	for _, r := range chosenRows(strings.TrimPrefix(chapter, "ch0")) {
		if r.Level != "M" {
			continue
		}
		if f := t.tryRow(r).fault; f != nil {
			f.notes = append(f.notes, "row "+r.Name+", "+r.Source, "sent "+visible(r.Send))
			f.printed = c.log()
			return f
		}
	}
	return nil
}

// askWith has curl, chromium, or nginx in front of it, talk to a server. If that program
// is not here, it counts as passed.
func (c *child) askWith(name string, row check) *fault {
	if _, err := exec.LookPath(name); err != nil {
		fmt.Fprintf(os.Stderr, "  ...  not tried: there is no %s here\n", name)
		return nil
	}
	command, front := "curl -sSi --max-time 5", c
	switch name {
	case "chromium":
		command = "chromium --headless --no-sandbox --disable-gpu --dump-dom"
	case "nginx":
		dir := must(os.MkdirTemp("", "check-nginx-"))
		conf := filepath.Join(dir, "conf")
		p := program{[]string{name, "-p", dir, "-c", conf}, freeAddr(), dir}
		defer p.remove()
		write(conf, fmt.Sprintf("daemon off; error_log stderr; pid %s/pid; events {}\n"+
			"http { access_log off; server { listen %s;\n"+
			"location / { proxy_pass http://%s; } } }\n", dir, p.addr, c.addr))
		front = p.start()
		defer front.stop()
	}
	for _, server := range []*child{c, front} { // until both listen
		if connection, err := server.dial(); err == nil {
			connection.Close()
		}
	}
	ctx, cancel := context.WithTimeout(living, 20*time.Second)
	defer cancel()
	args := append(strings.Fields(command), "http://"+front.addr+"/a%20b?x=1")
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	f := row.judge(drawn{}, exchange{reply: string(out), err: err}, 0)
	if f != nil {
		f.printed = front.log()
	}
	return f
}

// ---------------------------------------------------------------- Mistakes
//
// A mistake is a change to a program that works: a wrong answer to an exercise, or a
// hunt, which is rawsgi with a mistake.

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
	for _, section := range sections(page(path)) {
		name, text, _ := strings.Cut(section, "\n")
		caughtBy := between(text, "Refused by `", "`")
		m := mistake{name: strings.TrimSpace(name), caughtBy: caughtBy}
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
	return cmp.Or(m.program, source)
}

var hunts = sync.OnceValue(func() []mistake {
	return mistakes("docs/exercises/hunts.md")
})

// build makes a hunt's program.
func (m mistake) build(addr string) (program, error) {
	p, err := compile(map[string]string{m.file: m.apply(page(m.file))}, addr)
	p.command = append(p.command, "-quiet", "-app", "environ", "-timeout", "2s", "-addr",
		addr)
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
		return 0
	case slices.Contains(ids, given):
		fmt.Printf("Right, it is %s. The mistake: %s.\nnext: %s hunt %d\n", given, m.name,
			self, n%len(hunts())+1)
		return 0
	case given != "":
		fmt.Printf("It is not %s. %s For more: %s -hint 2 hunt %d\n", given, chapter, self, n)
		return exitStatus[false]
	}
	fmt.Printf("Hunt %d: this program breaks a row of docs/conformance.md. Send it bytes,\n"+
		"then  %s hunt %d -answer ID\n", n, self, n)
	return serveByHand(m.build("127.0.0.1:8000"))
}

// author holds an exercise to itself: a starter fails, a solution passes, and each wrong
// answer, or those with some names, is refused by its check.
func author(which string, names []string) int {
	x := exerciseNamed(which)
	if which == "hunts" {
		return authorHunts()
	} else if x == nil {
		return command(which, "", nil) // says that there is none
	}
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
		results := x.attempt(&report, file, m.caughtBy == onceMore, only...)
		for n := 1; n < *times && file == solution && passesAll(results); n++ {
			results = x.attempt(&report, file, true)
		}
		if passesAll(results) != (file == solution) ||
			only != nil && results[0].Name != only[0] {
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
		p := must(m.build(freeAddr()))
		defer p.remove()
		c := p.start()
		defer c.stop()
		t := newTarget(p.addr)
		t.dial, t.environ, t.patience = c.dial, true, atMost
		caught := map[string]bool{}
		for _, r := range having("fails", t.try(rows)) {
			caught[r.id()] = true
		}
		if !caught[m.caughtBy] || len(caught) > 6 {
			fault = fmt.Sprintf("expected %s and few others, got %v", m.caughtBy, caught)
		}
		return fault
	})
}

// holdAll reports the faults of trials, or of those with some names.
func holdAll(trials []mistake, names []string, faultOf func(m mistake) string) int {
	good := true
	for _, m := range trials {
		if len(names) > 0 && !slices.Contains(names, m.name) {
			continue
		} else if fault := faultOf(m); fault != "" {
			fmt.Printf("  NO   %s: %s\n", m.name, fault)
			good = false
		} else {
			fmt.Printf("  ok   %s\n", m.name)
		}
	}
	return exitStatus[good]
}

// ---------------------------------------------------------------- A class

// A paper is what a student has handed in for an exercise, and what came of it.
type paper struct {
	student, file string
	x             *exercise // nil for a file that belongs to none
	key           string    // see fingerprint
	feedback      strings.Builder
	results       []result
	cell, remark  string // in the table that is printed, and in class.csv
}

// checkClass checks the files of all students, some at a time, and reports.
func checkClass(dir string, which []string) int {
	owners := map[string][]string{} // of each program: starter, solution, students
	var chosen []*exercise
	for _, x := range exercises() {
		isThis := func(w string) bool { return exerciseNamed(w) == x }
		if len(which) > 0 && !slices.ContainsFunc(which, isThis) {
			continue
		}
		chosen = append(chosen, x)
		for _, file := range glob(x.dir + "/s[to]*.*") { // both begin so
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
	write(filepath.Join(report, "class.csv"), "INCOMPLETE: the class is being checked, or "+
		"was not to the end\n")
	several(cmp.Or(*jobs, 3*runtime.NumCPU()), len(papers), func(i int) {
		if p := papers[i]; p.x != nil {
			p.check(owners)
			fmt.Fprintf(os.Stderr, "checked: %s %s\n", visible(p.student), p.x.number)
		}
	})
	reportClass(report, papers, chosen)
	return 0
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
	pages := ""
	for _, file := range glob("docs/*.md") {
		pages += page(file)
	}
	entries, _ := os.ReadDir(dir) // it was there
	more, _ := os.ReadDir(mine)   // it need not be there
	for _, entry := range append(entries, more...) {
		file, extension := entry.Name(), filepath.Ext(entry.Name())
		x := exerciseNamed(strings.TrimSuffix(file, extension))
		isProgram := regexp.MustCompile(`\.(go|js|py)\b`).MatchString(file)
		isKnown := x != nil && x.name+extension == file ||
			strings.Contains(pages, "mine/"+file) // a chapter asks for it
		if isProgram && !isKnown {
			p := &paper{student: student, remark: "not recognised: " + file}
			fmt.Fprintf(&p.feedback, "\nnot recognised: %s; a file keeps the name of its "+
				"starter, like %s.go\n", visible(file), chosen[0].name)
			papers = append(papers, p)
		}
	}
	return papers
}

// fingerprint is a program without its comments and white space.
func (x *exercise) fingerprint(content []byte) string {
	tokens := goTokens.FindAllString(string(content), -1)
	return x.number + " " + strings.Join(slices.DeleteFunc(tokens, func(t string) bool {
		return strings.HasPrefix(t, "//") || strings.HasPrefix(t, "/*")
	}), " ")
}

// check checks a paper. An untouched starter needs no check.
func (p *paper) check(owners map[string][]string) {
	others := slices.DeleteFunc(slices.Clone(owners[p.key]), func(owner string) bool {
		return owner == p.student || p.key == p.x.fingerprint(nil) // it is no program
	})
	if p.file == "" {
		p.cell, p.remark = "-", "not handed in"
		return
	} else if slices.Contains(others, "the starter") {
		p.cell, p.remark = "start", "the starter"
		fmt.Fprintf(&p.feedback, "\nExercise %s  the starter, as it was\n", p.x.number)
		return
	}
	p.results = p.x.attempt(&p.feedback, p.file, true)
	p.cell = fmt.Sprintf("%d/%d", len(having("passes", p.results)), len(p.x.checks))
	if passesAll(p.results) {
		p.cell = "ok"
	} else if p.results[0].Name == notCompiled {
		p.cell = "build"
	}
	if len(others) > 0 {
		p.cell, p.remark = p.cell+"=", "equal to "+strings.Join(others, ", ")
	}
}

// reportClass prints a table, and the checks at which most programs fail first, of those
// that compile. It writes class.csv, and a file of feedback for each student.
func reportClass(report string, papers []*paper, chosen []*exercise) {
	csv := "student,exercise,points,checks passed,first failing check,remark\n"
	failing := map[string]int{}
	fmt.Printf("\n%-20s", "student")
	for _, x := range chosen {
		fmt.Printf(" %6s", x.number)
	}
	students := groups(papers, func(p *paper) string { return p.student })
	for _, papers := range students {
		student := papers[0].student
		fmt.Printf("\n%-20.20s", visible(student))
		title := "Feedback for " + visible(student) + "\n"
		feedback := title
		for _, p := range papers {
			fmt.Printf(" %6s", cmp.Or(p.cell, " "+visible(p.remark)))
			feedback += p.feedback.String()
			first := ""
			if failed := having("fails", p.results); failed != nil {
				first = failed[0].Name
			}
			if first != "" && first != notCompiled {
				failing[p.x.number+" "+first]++
			}
			name, points, passed := "", "", ""
			if p.x != nil {
				n := len(having("passes", p.results))
				name, passed = p.x.name, strconv.Itoa(n)
				points = strconv.Itoa(10 * n / len(p.x.checks))
			}
			csv += csvLine(student, name, points, passed, first, p.remark)
		}
		if feedback == title {
			feedback += "\nno file here has the name of a starter, like " + chosen[0].name + ".go\n"
		}
		file := regexp.MustCompile(`[^\w.-]`).ReplaceAllString(student, "_")
		write(filepath.Join(report, file+".txt"), feedback)
	}
	write(filepath.Join(report, "class.csv"), csv+"complete\n")
	fmt.Println("\n\nbuild does not compile; = is equal to the solution or to another's.\n" +
		"Checks that fail first:")
	most := slices.SortedFunc(maps.Keys(failing), func(a, b string) int {
		return cmp.Or(failing[b]-failing[a], strings.Compare(a, b))
	})
	for _, name := range most[:min(10, len(most))] {
		fmt.Printf("  %d of %d students: %s\n", failing[name], len(students), name)
	}
	fmt.Println("all of it:", report)
}

// csvLine quotes cells. A spreadsheet would compute a text that begins with "=".
func csvLine(cells ...string) string {
	for i, cell := range cells {
		cell = strings.ReplaceAll(visible(cell), `"`, `""`)
		cells[i] = `"` + regexp.MustCompile(`^[=+@-]`).ReplaceAllString(cell, "'$0") + `"`
	}
	return strings.Join(cells, ",") + "\n"
}

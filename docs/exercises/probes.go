//go:build ignore

// Probes: the applications around which an exercise's middleware is wrapped, and which an
// exercise's gateway calls. Each shows one thing that an application may do, and prints to
// standard error what happens to it. The checker adds this file to rawsgi, with the student's.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// serveExercise serves an application on the port that is the program's argument.
func serveExercise(application Application) {
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	newServer(application).Serve(l)
}

// secret is known to the checker alone: it marks the lines that a probe has printed.
var secret = os.Getenv("PROBE_SECRET")

func init() { os.Unsetenv("PROBE_SECRET") }

// probed prints a line that the checker believes.
func probed(format string, args ...any) {
	fmt.Fprintf(os.Stderr, secret+" "+format+"\n", args...)
}

// calls and closes count for all probes.
var calls, closes atomic.Int64

// A probeStream is a body that has Close, but no Len. It must not be read after Close.
type probeStream struct {
	blocks Stream
	closed *atomic.Bool
}

func streamed(blocks Stream) Body { return probeStream{blocks, &atomic.Bool{}} }

func (p probeStream) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		p.mustBeOpen()
		p.blocks(func(block []byte) bool {
			p.mustBeOpen()
			goesOn := yield(block)
			if goesOn {
				p.mustBeOpen()
			}
			return goesOn
		})
	}
}

func (p probeStream) mustBeOpen() {
	if p.closed.Load() {
		panic(errors.New("the body is read after its Close"))
	}
}

func (p probeStream) Close() error {
	p.closed.Store(true)
	probed("closed %d", closes.Add(1))
	return nil
}

// A probeBlocks is one that has Len, too.
type probeBlocks struct {
	probeStream
	n int
}

func (p probeBlocks) Len() int { return p.n }

// blocks is a body of a known number of blocks.
func blocks(texts ...string) Body {
	stream := func(yield func([]byte) bool) {
		for _, text := range texts {
			if !yield([]byte(text)) {
				return
			}
		}
	}
	return probeBlocks{streamed(stream).(probeStream), len(texts)}
}

// one is a body of one block.
func one(text string) Body { return blocks(text) }

// probes is all of them: the path chooses.
func probes(environ Environ, startResponse StartResponse) Body {
	probed("called %d", calls.Add(1))
	plain := []Header{{"Content-Type", "text/plain"}}
	html := []Header{{"Content-Type", "text/html; charset=utf-8"}}
	json := []Header{{"Content-Type", "application/json"}, {"X-Kept", "yes"}}
	switch environ.Get("PATH_INFO") {
	case "/hello":
		startResponse("200 OK", plain)
		return one("Hello, World!\n")
	case "/page": // long, and its length is announced
		page := strings.Repeat("rawsgi ", 1000)
		startResponse("200 OK", append(html, Header{"Content-Length", "7000"}))
		return one(page)
	case "/blocks":
		startResponse("200 OK", plain)
		return streamed(numbered("one\n", "two\n", "three\n"))
	case "/write":
		fmt.Fprint(startResponse("200 OK", plain), "written ")
		return one("returned\n")
	case "/empty":
		startResponse("204 No Content", nil)
		return blocks()
	case "/nothing":
		startResponse("200 OK", plain)
		return blocks()
	case "/plain": // a body without Close
		startResponse("200 OK", plain)
		return Blocks{[]byte("no Close\n")}
	case "/long": // it says whether it was asked for less than all of its blocks
		startResponse("200 OK", plain)
		return streamed(func(yield func([]byte) bool) {
			for range 1000 {
				if !yield([]byte("more\n")) {
					probed("given up")
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	case "/asks": // its second block waits for the request's body
		startResponse("200 OK", plain)
		return streamed(func(yield func([]byte) bool) {
			yield([]byte("first\n"))
			if _, err := io.ReadAll(environ["wsgi.input"].(io.Reader)); err != nil {
				panic(err)
			}
			yield([]byte("second\n"))
		})
	case "/late":
		return streamed(func(yield func([]byte) bool) {
			startResponse("200 OK", plain)
			yield([]byte("started late\n"))
		})
	case "/excinfo":
		startResponse("200 OK", append(plain, Header{"X-Old", "yes"}))
		startResponse("503 Service Unavailable", plain, errors.New("the database is on fire"))
		return one("sorry\n")
	case "/fail": // before its first block, but after startResponse
		startResponse("200 OK", plain)
		return streamed(func(yield func([]byte) bool) { panic(errors.New("the probe fails")) })
	case "/broken": // after its first block
		startResponse("200 OK", plain)
		return streamed(func(yield func([]byte) bool) {
			yield([]byte("begun\n"))
			panic(errors.New("the probe fails"))
		})
	case "/twice":
		startResponse("200 OK", plain)
		startResponse("200 OK", plain)
		return one("a second call needs excInfo\n")
	case "/never":
		return one("no startResponse\n")
	case "/twice-late":
		return streamed(func(yield func([]byte) bool) {
			startResponse("200 OK", plain)
			yield([]byte("begun\n"))
			startResponse("200 OK", plain)
			yield([]byte("and again\n"))
		})
	case "/lying": // Len is 1, and it has three blocks
		startResponse("200 OK", plain)
		return probeBlocks{streamed(numbered("one\n", "two\n", "three\n")).(probeStream), 1}
	case "/wait":
		startResponse("200 OK", plain)
		return streamed(func(yield func([]byte) bool) {
			yield([]byte("now\n"))
			time.Sleep(300 * time.Millisecond)
			yield([]byte("later\n"))
		})
	case "/cookies":
		startResponse("200 OK", append(plain, Header{"Set-Cookie", "a=1"}, Header{"Set-Cookie", "b=2"}))
		return one("two cookies\n")
	case "/small": // the name of a header in small letters
		startResponse("200 OK", append(plain, Header{"content-length", "14"}))
		return one("Hello, World!\n")
	case "/gaps/blocks": // an empty block is a block
		startResponse("200 OK", plain)
		return streamed(numbered("one\n", "", "three\n"))
	case "/errors":
		fmt.Fprintln(environ["wsgi.errors"].(io.Writer), "a line for the log")
		startResponse("200 OK", plain)
		return one("logged\n")
	case "/part":
		startResponse("206 Partial Content", append(plain, Header{"Content-Range", "bytes 0-4/26"}))
		return one("abcde")
	case "/encoded":
		startResponse("200 OK", append(plain, Header{"Content-Encoding", "br"}))
		return one("as if compressed\n")
	case "/varies":
		startResponse("200 OK", append(plain, Header{"Vary", "Cookie"}))
		return one("one page for each cookie\n")
	case "/json":
		startResponse("200 OK", append(json, Header{"Content-Length", "29"}))
		return one(`{"name":"rawsgi","year":2026}`)
	case "/json/blocks":
		startResponse("203 Non-Authoritative Information", json)
		return streamed(numbered(`{"na`, `me":"<b>&`, `</b>"}`))
	case "/json/write":
		fmt.Fprint(startResponse("200 OK", json), `{"name":`)
		return one(`"written"}`)
	case "/json/list":
		startResponse("200 OK", json)
		return one(`[1,2]`)
	case "/json/charset":
		startResponse("200 OK", []Header{{"Content-Type", "application/json; charset=utf-8"}})
		return one(`{"a":1}`)
	case "/json/case":
		startResponse("200 OK", []Header{{"Content-Type", "Application/JSON"}})
		return one(`{"a":1}`)
	case "/json/bytes": // more bytes than characters
		startResponse("200 OK", json)
		return one(`{"a":"Grüße"}`)
	case "/json/null":
		startResponse("200 OK", json)
		return one(`null`)
	case "/json/two": // not in the order of the alphabet, and with a name to escape
		startResponse("200 OK", json)
		return one(`{"z<b>":"1","a&b":"2"}`)
	case "/json/again":
		return streamed(func(yield func([]byte) bool) {
			startResponse("200 OK", json)
			if !yield([]byte(`{"old":1}`)) {
				return
			}
			startResponse("503 Service Unavailable", json, errors.New("the database is on fire"))
			yield([]byte(`{"new":1}`))
		})
	case "/json/no-more": // to a page of no type
		return streamed(func(yield func([]byte) bool) {
			startResponse("200 OK", json)
			if !yield([]byte(`{"old":1}`)) {
				return
			}
			startResponse("503 Service Unavailable", nil, errors.New("the database is on fire"))
			yield([]byte(`{"new":1}`))
		})
	case "/json/small": // the names of headers in small letters, and a line end
		startResponse("200 OK", []Header{{"content-type", "application/json"}, {"content-length", "8"}})
		return one(`{"a":1}` + "\n")
	case "/json/second":
		startResponse("200 OK", json)
		startResponse("200 OK", json)
		return one(`{"a":1}`)
	case "/json/bad":
		startResponse("200 OK", json)
		return one(`{"name":`)
	case "/json/more": // two values
		startResponse("200 OK", json)
		return one(`{"a":1} {"b":2}`)
	case "/json/none": // no member
		startResponse("200 OK", json)
		return one(`{}`)
	case "/written":
		n, err := io.WriteString(startResponse("200 OK", plain), "taken:")
		if err != nil {
			panic(err)
		}
		return one(fmt.Sprintf(" %d bytes\n", n))
	case "/changes": // to a body that is coded already
		startResponse("200 OK", plain)
		startResponse("503 Service Unavailable", append(plain, Header{"Content-Encoding", "br"}),
			errors.New("the database is on fire"))
		return one("as if compressed\n")
	case "/blank": // its one block is empty
		startResponse("200 OK", plain)
		return streamed(func(yield func([]byte) bool) {
			yield([]byte{})
			panic(errors.New("the probe fails"))
		})
	case "/too-late":
		return streamed(func(yield func([]byte) bool) {
			startResponse("200 OK", plain)
			yield([]byte("begun\n"))
			startResponse("503 Service Unavailable", plain, errors.New("the database is on fire"))
			yield([]byte("sorry\n"))
		})
	case "/echo":
		body, err := io.ReadAll(environ["wsgi.input"].(io.Reader))
		if err != nil {
			panic(err)
		}
		startResponse("200 OK", plain)
		return one(string(body))
	}
	if code, ok := strings.CutPrefix(environ.Get("PATH_INFO"), "/status/"); ok {
		startResponse(code+" as asked", nil)
		return blocks()
	}
	if mediaType, ok := strings.CutPrefix(environ.Get("PATH_INFO"), "/type/"); ok {
		startResponse("200 OK", []Header{{"Content-Type", mediaType}})
		return one(`{"a":1}`)
	}
	startResponse("200 OK", plain)
	return one(listing(environ))
}

// listing is environ as lines "KEY: value", with [] around what may be empty.
func listing(environ Environ) string {
	var page strings.Builder
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		fmt.Fprintf(&page, "%s=[%v]\n", key, environ[key])
	}
	return page.String()
}

// numbered yields blocks, and says which is asked for.
func numbered(blocks ...string) Stream {
	return func(yield func([]byte) bool) {
		for i, block := range blocks {
			probed("in %d", i+1)
			if !yield([]byte(block)) {
				return
			}
		}
	}
}

// observed is between the gateway and an exercise's middleware. It prints which block comes
// out of it, and for /wait also what a client can read by then.
func observed(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		body := application(environ, startResponse)
		path := environ.Get("PATH_INFO")
		if body == nil || !strings.HasSuffix(path, "/blocks") && path != "/wait" {
			return body
		}
		return observedBody{body, path == "/wait"}
	}
}

type observedBody struct {
	Body
	shows bool
}

func (b observedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		n := 0
		var all []byte
		for block := range b.Body.All() {
			n++
			probed("out %d", n)
			if all = append(all, block...); b.shows {
				probed("seen %q", readable(all))
			}
			if !yield(block) {
				return
			}
		}
		if l, ok := b.Body.(interface{ Len() int }); ok && l.Len() != n {
			probed("Len is %d", l.Len())
		}
	}
}

// readable is what a client can make of the beginning of a body, which may be gzip.
func readable(begun []byte) string {
	r, err := gzip.NewReader(bytes.NewReader(begun))
	if err != nil {
		return string(begun)
	}
	plain, _ := io.ReadAll(r) // that it is only a beginning is an error
	return string(plain)
}

func (b observedBody) Close() error {
	if c, ok := b.Body.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// probeClock is what the exercise about time has for a clock. It moves when a request says
// X-Later: 30s. It does not begin with a full minute, and takes a millisecond to read, so that
// who reads it without a lock is seen.
var probeClock = struct {
	sync.Mutex
	time.Time
}{Time: time.Unix(1_800_000_017, 0)}

func probeNow() time.Time {
	time.Sleep(time.Millisecond)
	probeClock.Lock()
	defer probeClock.Unlock()
	return probeClock.Time
}

// limits puts two limits side by side: three requests a minute and, for X-Limit: five, five in
// ten seconds.
func limits(newLimit func(int, time.Duration, func() time.Time) Middleware) Application {
	three := newLimit(3, time.Minute, probeNow)(probes)
	five := newLimit(5, 10*time.Second, probeNow)(probes)
	return func(environ Environ, startResponse StartResponse) Body {
		if environ.Get("HTTP_X_LIMIT") == "five" {
			return five(environ, startResponse)
		}
		return three(environ, startResponse)
	}
}

// clients lets a request say who sends it (X-Client), when (X-Later), and, with the path
// /race, that it comes 20 times at once: then the statuses are counted.
func clients(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if client := environ.Get("HTTP_X_CLIENT"); client != "" {
			environ["REMOTE_ADDR"] = client
		}
		later, _ := time.ParseDuration(environ.Get("HTTP_X_LATER")) // 0 if there is none
		probeClock.Lock()
		probeClock.Time = probeClock.Add(later)
		probeClock.Unlock()
		if environ.Get("PATH_INFO") != "/race" {
			return application(environ, startResponse)
		}
		var passed atomic.Int64
		var all sync.WaitGroup
		for range 20 {
			all.Add(1)
			go func() {
				defer all.Done()
				start := func(status string, _ []Header, _ ...error) io.Writer {
					if status == "200 OK" {
						passed.Add(1)
					}
					return io.Discard
				}
				for range application(maps.Clone(environ), start).All() {
				}
			}()
		}
		all.Wait()
		startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
		return one(fmt.Sprintf("%d of 20 passed\n", passed.Load()))
	}
}

// cgiProgram shows what a CGI gateway does: for each request this program runs once more,
// as a CGI program, and all that it prints is the answer's body. Behind the request's
// body, standard input has bytes that are not for it, and with X-Stdin it does not end there:
// RFC 3875 §4.2 allows both. A program that waits for the end is killed.
func cgiProgram(gateway func(Application)) Application {
	if os.Getenv("GATEWAY_INTERFACE") != "" {
		gateway(probes)
		os.Exit(0)
	}
	return func(environ Environ, startResponse StartResponse) Body {
		self, err := os.Executable()
		if err != nil {
			panic(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		program := exec.CommandContext(ctx, self)
		program.Env = append(os.Environ(), "GATEWAY_INTERFACE=CGI/1.1", "PROBE_SECRET="+secret)
		if environ.Get("HTTP_X_HTTPS") != "" {
			program.Env = append(program.Env, "HTTPS="+environ.Get("HTTP_X_HTTPS"))
		}
		for key, value := range environ {
			if text, ok := value.(string); ok && !strings.Contains(key, ".") {
				program.Env = append(program.Env, key+"="+text)
			}
		}
		var errors bytes.Buffer
		printed := answerBegun{begun: make(chan bool)}
		program.Stdout, program.Stderr = &printed, &errors
		in, out, err := os.Pipe()
		if err != nil {
			panic(err)
		}
		defer out.Close() // fails if it is closed already
		copied := make(chan bool)
		go func() { // if it fails, the program has ended
			if environ.Get("PATH_INFO") == "/asks" {
				select {
				case <-printed.begun:
				case <-ctx.Done():
				}
			}
			io.Copy(out, io.MultiReader(environ["wsgi.input"].(io.Reader), strings.NewReader("NOT FOR YOU")))
			if environ.Get("HTTP_X_STDIN") != "open" {
				out.Close()
			}
			close(copied)
		}()
		program.Stdin = in
		failed := program.Run()
		if ctx.Err() != nil {
			failed = fmt.Errorf("killed after 3 seconds: did it wait for standard input to end?")
		}
		in.Close()
		<-copied
		fmt.Fprintf(os.Stderr, "%sexit: %v\n", errors.Bytes(), failed)
		startResponse("200 OK", []Header{{"Content-Type", "application/octet-stream"}})
		return Blocks{printed.text.Bytes()}
	}
}

// An answerBegun is what a CGI program prints. It closes begun after the first block of the body.
type answerBegun struct {
	text  bytes.Buffer
	begun chan bool
	once  sync.Once
}

func (a *answerBegun) Write(p []byte) (int, error) {
	n, err := a.text.Write(p)
	if bytes.Contains(a.text.Bytes(), []byte("first\n")) {
		a.once.Do(func() { close(a.begun) })
	}
	return n, err
}

// probeRoutes has a router put probes side by side: /a, /a/b, a long one, and /n, which has a router of
// its own behind it. A router that tries prefixes in the order of a map finds the right one
// by chance, so /a/b is asked for up to 50 times.
func probeRoutes(route func(map[string]Application, Application) Application) Application {
	nowhere := func(environ Environ, startResponse StartResponse) Body {
		startResponse("404 Not Found", []Header{{"Content-Type", "text/plain"}})
		return one(listing(environ))
	}
	router := route(map[string]Application{
		"/a": named("a"), "/a/b": named("ab"), "/b": named("b"),
		"/long/prefix/of/four": named("four"), "/n": route(map[string]Application{"/in": named("in")}, nowhere),
	}, nowhere)
	return func(environ Environ, startResponse StartResponse) Body {
		var page bytes.Buffer
		result := ""
		for range 50 {
			start := func(status string, _ []Header, _ ...error) io.Writer {
				result = status
				return &page
			}
			page.Reset()
			for block := range router(maps.Clone(environ), start).All() {
				page.Write(block)
			}
			if !strings.Contains(page.String(), "probe.name=[ab]") {
				break // it should not have been asked for, or it was not found
			}
		}
		startResponse(result, []Header{{"Content-Type", "text/plain"}})
		return Blocks{page.Bytes()}
	}
}

// named is a probe that says which it is. It reads environ as late as in its body.
func named(name string) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		environ["probe.name"] = name
		startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
		return streamed(func(yield func([]byte) bool) { yield([]byte(listing(environ))) })
	}
}

// scgi listens instead of serveExercise: a gateway for SCGI speaks another protocol than
// HTTP, and is given each connection.
func scgi(serve func(net.Conn, Application)) Application {
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err) // e.g. out of file descriptors
		}
		go func() {
			c.SetDeadline(time.Now().Add(2 * time.Second))
			serve(c, probes)
			c.(*net.TCPConn).CloseWrite() // fails if it is closed already
			io.Copy(io.Discard, c)        // so that no reset overtakes the answer
			c.Close()
		}()
	}
}

// An Event is what passes between an application in the style of ASGI and its server.
type Event map[string]any

// An AsyncApplication is one in the style of ASGI: it is told what is asked (scope), receives
// the request's body in events, and sends its answer in events.
type AsyncApplication func(scope Event, receive func() Event, send func(Event))

// mounted puts an application under /mounted as well.
func mounted(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if rest, ok := strings.CutPrefix(environ.Get("PATH_INFO"), "/mounted"); ok {
			environ["SCRIPT_NAME"], environ["PATH_INFO"] = "/mounted", rest
		}
		return application(environ, startResponse)
	}
}

// asyncProbes is a probe for each path.
func asyncProbes(scope Event, receive func() Event, send func(Event)) {
	start := func(status int, headers ...[2]string) {
		headers = append([][2]string{{"content-type", "text/plain"}}, headers...)
		send(Event{"type": "http.response.start", "status": status, "headers": headers})
	}
	body := func(text string, more bool) {
		send(Event{"type": "http.response.body", "body": []byte(text), "more_body": more})
	}
	switch scope["path"] {
	case "/echo":
		var all []byte
		for more := true; more; {
			event := receive()
			block, _ := event["body"].([]byte) // may be absent: empty
			all = append(all, block...)
			more, _ = event["more_body"].(bool) // may be absent: false
		}
		start(200)
		body(string(all), false)
	case "/afterwards": // there is nothing more to receive
		for more := true; more; {
			more, _ = receive()["more_body"].(bool)
		}
		start(200)
		body(fmt.Sprint(receive()["type"], "\n"), false)
	case "/missing":
		start(404, [2]string{"set-cookie", "a=1"}, [2]string{"set-cookie", "b=2"})
		body("nothing here\n", false)
	case "/blocks":
		start(200)
		for i, text := range []string{"one\n", "two\n", "three\n"} {
			probed("in %d", i+1)
			body(text, i < 2)
		}
	case "/too-much":
		start(200)
		body("all\n", false)
		body("and more\n", false)
	case "/fail":
		start(200)
		panic(errors.New("the probe fails"))
	case "/broken":
		start(200)
		body("begun\n", true)
		panic(errors.New("the probe fails"))
	case "/events": // the last event of a body says that it is the last
		more := true
		for event := receive(); event["type"] == "http.request"; event = receive() {
			more, _ = event["more_body"].(bool) // may be absent: false
		}
		start(200)
		body(fmt.Sprintf("more=[%v]\n", more), false)
	case "/long": // it is not told that the client has left
		start(200)
		for range 200 {
			body("more\n", true)
			time.Sleep(time.Millisecond)
		}
		probed("sent all")
	case "/bare": // body and more_body are absent
		start(200)
		send(Event{"type": "http.response.body"})
	case "/kept": // it keeps the blocks that it receives
		var all [][]byte
		for more := true; more; {
			event := receive()
			block, _ := event["body"].([]byte)
			all = append(all, block)
			more, _ = event["more_body"].(bool)
		}
		start(200)
		body(string(bytes.Join(all, nil)), false)
	case "/silent":
	case "/unfinished":
		start(200)
		body("begun\n", true)
	case "/early":
		body("no start\n", false)
	default:
		start(200)
		page := ""
		for _, key := range []string{"type", "method", "path", "query_string", "root_path", "scheme"} {
			page += fmt.Sprintf("%s=[%v]\n", key, scope[key])
		}
		headers, _ := scope["headers"].([][2]string) // empty if they have another type
		slices.SortFunc(headers, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
		for _, header := range headers {
			page += fmt.Sprintf("header %s=[%s]\n", header[0], header[1])
		}
		body(page, false)
	}
}

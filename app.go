// app.go: the other side of the interface, applications and middleware.
//
// An application takes an environ and a startResponse and returns a body. It imports no
// server, and any gateway can run it. Middleware is a function from an application to an
// application: towards the gateway it is an application, towards the application it is a
// gateway. (PEP 3333, "Middleware: Components that Play Both Sides")
//
// Each of these shows one thing and fits on a slide. The two tables at the top are what
// -app and -use choose from; add yours there.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"html"
	"io"
	"iter"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Application is what a gateway calls, once for each request: a function, a method value
// or a closure, as in Python a function, a bound method or an object with __call__.
// (PEP 3333, "The Application/Framework Side")
type Application func(environ Environ, startResponse StartResponse) Body

// Middleware wraps an application.
type Middleware func(Application) Application

// An entry is an application with its name, a line about it and a command to try it,
// in which URL stands for the place where it is mounted.
type entry struct {
	name, about, try string
	app              Application
}

// The applications, in the order in which they are best met. The gallery, which shows
// this table, joins it in init.
var applications = []entry{
	{"hello", "The smallest application: a function that returns one block.",
		"curl -i URL", hello},
	{"class", "The body is an object, and startResponse is called when its blocks are asked for.",
		"curl -i URL", class},
	{"environ", "What an application knows of its request, and how long the body was.",
		"curl -d name=value 'URL/path?a=4&b=4'", environ},
	{"write", "The imperative way: startResponse returns a writer.",
		"curl -i URL", write},
	{"clock", "A generator: ten blocks, one each second, each sent at once.",
		"curl -N URL", clock},
	{"echo", "Sends the body of the request back, block by block.",
		"curl --data-binary @README.md URL", echo},
	{"errors", "Fails before its head is sent, or after it, or changes its mind in time.",
		"curl -i URL/before URL/after URL/excinfo", failing},
}

func init() {
	routes := map[string]Application{}
	for _, entry := range applications {
		routes["/"+entry.name] = entry.app
	}
	applications = append(applications, entry{"gallery", "The default: all of these, mounted " +
		"under their names, with an index page.", "curl -i URL", mount(routes, index)})
}

// The middleware.
var middlewares = []struct {
	name, about string
	wrap        Middleware
}{
	{"log", "Prints the request URI, the status and each block of the answer.", logging},
	{"onion", "Prints a line before and after the call: onion,onion shows who wraps whom.", onion},
}

var textPlain = []Header{{"Content-Type", "text/plain; charset=utf-8"}}

// hello is the smallest application.
func hello(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", textPlain)
	return Blocks{[]byte("Hello, World!\n")}
}

// class returns an object. Nothing has happened when it does: the gateway's first step
// into the loop of All runs startResponse, which PEP 3333 allows.
func class(environ Environ, startResponse StartResponse) Body {
	return AppClass{environ, startResponse}
}

// AppClass is the body of class, PEP 3333's class with an __iter__ method.
type AppClass struct {
	environ       Environ
	startResponse StartResponse
}

// All starts the response and gives its only block.
func (a AppClass) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		a.startResponse("200 OK", textPlain)
		yield([]byte("Hello from an object's method All\n"))
	}
}

// environ prints its environ, sorted, and then reads the request's body, so that a client
// can check that it arrived whole.
func environ(environ Environ, startResponse StartResponse) Body {
	sum := sha256.New()
	length, err := io.Copy(sum, environ["wsgi.input"].(io.Reader))
	if err != nil {
		panic(err) // the gateway answers a body cut short with 400, a slow one with 408
	}
	startResponse("200 OK", textPlain)
	var page bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		switch value := environ[key].(type) {
		case string, bool, [2]int:
			fmt.Fprintf(&page, "%s: %v\n", key, value)
		default: // wsgi.input and the like: what they are says more than their address
			fmt.Fprintf(&page, "%s: %T\n", key, value)
		}
	}
	fmt.Fprintf(&page, "BODY-LENGTH: %d\nBODY-SHA256: %x\n", length, sum.Sum(nil))
	return Blocks{page.Bytes()}
}

// write sends its body through the writer that startResponse returns, as programs do that
// cannot be turned inside out into a generator. (PEP 3333, "The write() Callable")
func write(environ Environ, startResponse StartResponse) Body {
	out := startResponse("200 OK", textPlain)
	for n := 3; n > 0; n-- {
		if _, err := fmt.Fprintf(out, "%d...\n", n); err != nil {
			panic(err) // the client has left
		}
	}
	return Blocks{[]byte("and the rest is returned\n")}
}

// clock ticks ten times.
var clock = newClock(10, time.Second)

// newClock makes an application whose body takes time: a block, a pause, and so on. Each
// block is sent before the next is asked for. What a generator in Python cleans up when
// it is closed, defer cleans up here: it runs when the client has left, too.
func newClock(ticks int, pause time.Duration) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", textPlain)
		return Stream(func(yield func([]byte) bool) {
			ticker := time.NewTicker(pause)
			defer ticker.Stop()
			for n := range ticks {
				if n > 0 {
					<-ticker.C
				}
				if !yield([]byte(time.Now().Format("15:04:05\n"))) {
					return
				}
			}
		})
	}
}

// echo sends back what it reads, without ever holding more than one block of it.
func echo(environ Environ, startResponse StartResponse) Body {
	headers := []Header{{"Content-Type", "application/octet-stream"}}
	if length := environ.Get("CONTENT_LENGTH"); length != "" {
		headers = append(headers, Header{"Content-Length", length})
	}
	startResponse("200 OK", headers)
	return readBlocks(environ["wsgi.input"].(io.Reader), pieceSize)
}

// failing fails in three ways. (PEP 3333, "Error Handling")
func failing(environ Environ, startResponse StartResponse) Body {
	switch environ.Get("PATH_INFO") {
	case "/before": // nothing is sent yet: the gateway answers 500
		panic(errors.New("the application failed before its head was sent"))
	case "/after": // too late for a 500: the gateway hangs up
		startResponse("200 OK", textPlain)
		return Stream(func(yield func([]byte) bool) {
			yield([]byte("This page will never be comp"))
			panic(errors.New("the application failed after its head was sent"))
		})
	case "/excinfo": // the application makes its own error page, while it still can
		startResponse("200 OK", textPlain)
		err := errors.New("the database is on fire")
		startResponse("503 Service Unavailable", textPlain, err)
		return Blocks{[]byte("Sorry: " + err.Error() + "\n")}
	}
	return notFound(environ, startResponse, "Try /before, /after or /excinfo under "+
		environ.Get("SCRIPT_NAME"))
}

// notFound answers 404 and says what could be asked instead.
func notFound(environ Environ, startResponse StartResponse, hint string) Body {
	startResponse("404 Not Found", textPlain)
	return Blocks{[]byte("Nothing here. " + hint + "\n")}
}

// mount puts applications side by side, each under the prefix that is its key: "/app"
// has /app, /app/ and /app/x, but not /application. The longest prefix that fits wins, and
// moves from PATH_INFO, which is what is left for the application to interpret, to
// SCRIPT_NAME, which is where it is:
//
//	SCRIPT_NAME ""     PATH_INFO "/app/x"
//	SCRIPT_NAME "/app" PATH_INFO "/x"
//
// Without a match, fallback is called. (RFC 3875 §4.1.5, §4.1.13)
func mount(routes map[string]Application, fallback Application) Application {
	prefixes := slices.SortedFunc(maps.Keys(routes), func(a, b string) int {
		return len(b) - len(a)
	})
	return func(environ Environ, startResponse StartResponse) Body {
		path := environ.Get("PATH_INFO")
		for _, prefix := range prefixes {
			rest, ok := strings.CutPrefix(path, prefix)
			if ok && (rest == "" || rest[0] == '/') {
				environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + prefix
				environ["PATH_INFO"] = rest
				return routes[prefix](environ, startResponse)
			}
		}
		return fallback(environ, startResponse)
	}
}

// index is the page of the gallery. It needs nothing from elsewhere, not even an icon.
func index(environ Environ, startResponse StartResponse) Body {
	script := environ.Get("SCRIPT_NAME")
	if path := environ.Get("PATH_INFO"); path != "/" && path != "" {
		return notFound(environ, startResponse, "The index is at "+script+"/")
	}
	startResponse("200 OK", []Header{{"Content-Type", "text/html; charset=utf-8"}})
	var page strings.Builder
	page.WriteString(indexTop)
	for _, entry := range applications[:len(applications)-1] { // without the gallery itself
		place := (&url.URL{Path: script + "/" + entry.name}).EscapedPath()
		fmt.Fprintf(&page, "<dt><a href=\"%s\">%s</a>\n<dd>%s\n<pre>%s</pre>\n",
			html.EscapeString(place), entry.name, entry.about, html.EscapeString(
				strings.ReplaceAll(entry.try, "URL", baseURL(environ)+place)))
	}
	page.WriteString(indexEnd)
	return Blocks{[]byte(page.String())}
}

// baseURL reconstructs the front of the URL that the client asked for: Host, if it sent
// one, is what it calls this server. (PEP 3333, "URL Reconstruction")
func baseURL(environ Environ) string {
	host := environ.Get("HTTP_HOST")
	if host == "" {
		host = environ.Get("SERVER_NAME") + ":" + environ.Get("SERVER_PORT")
	}
	return environ.Get("wsgi.url_scheme") + "://" + host
}

const indexTop = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rawsgi: the gallery</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 0 auto; padding: 1rem }
dt { font-weight: bold; margin-top: 1.5rem }
dd { margin: 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
pre { padding: .5rem; margin: .25rem 0; border: 1px solid }
</style>
</head>
<body>
<h1>The gallery</h1>
<p>Each application here is a Go function in <code>app.go</code>, called by the gateway
that you started. Follow a link, or paste a command into another terminal and watch
the bytes.</p>
<dl>
`

const indexEnd = `</dl>
</body>
</html>
`

// logging prints what passes between gateway and application to wsgi.errors. It calls
// the application once: an answer that is to be both logged and sent is passed on block
// by block.
func logging(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		out := environ["wsgi.errors"].(io.Writer)
		uri := environ.Get("SCRIPT_NAME") + environ.Get("PATH_INFO")
		if query := environ.Get("QUERY_STRING"); query != "" {
			uri += "?" + query
		}
		fmt.Fprintf(out, "log: %s %s\n", environ.Get("REQUEST_METHOD"), uri)
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			fmt.Fprintf(out, "log: startResponse %q, %d headers\n", status, len(headers))
			return startResponse(status, headers, excInfo...)
		}
		return loggedBody{application(environ, start), out}
	}
}

// A loggedBody is a body whose blocks are printed on their way. It has no Len, because
// middleware should promise nothing about a body that it did not make.
type loggedBody struct {
	Body
	out io.Writer
}

// All gives each block of the body as soon as that does.
func (b loggedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range b.Body.All() {
			fmt.Fprintf(b.out, "log: a block of %d bytes: %s\n", len(block), quote(string(block)))
			if !yield(block) {
				return
			}
		}
	}
}

// Close passes the gateway's call on: whoever wraps a body has to.
// (PEP 3333, "Middleware: Components that Play Both Sides")
func (b loggedBody) Close() error {
	if c, ok := b.Body.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// onion prints a line on the way in and one on the way out. Layers find out how deep they
// are from a key of their own in environ.
func onion(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		depth, _ := environ["rawsgi.onion"].(int)
		environ["rawsgi.onion"] = depth + 1
		out, indent := environ["wsgi.errors"].(io.Writer), strings.Repeat("  ", depth)
		fmt.Fprintf(out, "%sonion %d: before\n", indent, depth+1)
		body := application(environ, startResponse)
		fmt.Fprintf(out, "%sonion %d: after\n", indent, depth+1)
		return body
	}
}

// callApplication runs an application without any server, and is the shortest gateway
// there is: it calls, iterates, closes. Whatever environ lacks gets a plausible value.
func callApplication(application Application, environ Environ) (
	status string, headers []Header, body []byte) {
	setTestingDefaults(environ)
	var out bytes.Buffer
	startResponse := func(s string, h []Header, excInfo ...error) io.Writer {
		if _, err := checkHead(s, h); err != nil {
			panic(err)
		}
		status, headers = s, slices.Clone(h)
		return &out
	}
	result := application(environ, startResponse)
	if c, ok := result.(io.Closer); ok {
		defer c.Close() // an error is for a server to log
	}
	for block := range result.All() {
		out.Write(block)
	}
	return status, headers, out.Bytes()
}

// setTestingDefaults completes an environ as if GET / had been asked.
func setTestingDefaults(environ Environ) {
	request := &Request{Method: "GET", Path: "/", Target: "/", Version: "HTTP/1.0",
		Header: []Header{{"Host", "127.0.0.1"}}}
	empty := &Input{r: bufio.NewReader(strings.NewReader(""))}
	defaults := newEnviron(request, empty, &Gateway{ServerName: "127.0.0.1", ServerPort: "80",
		RemoteAddr: "127.0.0.1", RemotePort: "49152", URLScheme: "http", Errors: io.Discard})
	for key, value := range defaults {
		if _, present := environ[key]; !present {
			environ[key] = value
		}
	}
}

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
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"iter"
	"log"
	"maps"
	"math"
	"mime"
	"mime/multipart"
	"net"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Application is what a gateway calls, once for each request: a function, a method value
// or a closure, as in Python a function, a bound method or an object with __call__.
// (PEP 3333, "The Application/Framework Side")
type Application func(environ Environ, startResponse StartResponse) Body

// Middleware wraps an application.
type Middleware func(Application) Application

// An entry is an application with its name, where it comes from, a line about it, and a
// command to try it, in which URL stands for the place where it is mounted.
type entry struct {
	name, from, about, try string
	app                    Application
}

// Config is what some applications need from the command line.
type Config struct {
	Root     string        // a directory, for files
	Script   string        // a CGI program or a directory of them, for cgi
	Upstream string        // host:port,host:port, for proxy
	Timeout  time.Duration // for a script or an upstream
	Trace    bool          // somebody watches what the applications do
	OpenLab  bool          // others than this machine may use the lab
}

// applications returns all of them, in the order in which they are best met.
func applications(c Config) []entry {
	const pep, rfc = "PEP 3333", "RFC 3875, chapter 11"
	entries := []entry{
		{"hello", pep + ", chapter 8", "The smallest application: a function that returns one block.",
			"curl -i URL", hello},
		{"class", pep + ", chapter 8", "The body is an object; startResponse is called when its " +
			"blocks are asked for.", "curl -i URL", class},
		{"environ", pep + ", chapter 7", "What an application knows of its request, and how long " +
			"the body was.", "curl -d name=value 'URL/path?a=4&b=4'", environ},
		{"write", pep + ", chapter 8", "The imperative way: startResponse returns a writer.",
			"curl -i URL", write},
		{"clock", pep + ", chapter 8", "A generator: ten blocks, one each second, each sent at once.",
			"curl -N URL", clock},
		{"echo", pep + ", chapter 5", "Sends the body of the request back, block by block.",
			"curl --data-binary @README.md URL", echo},
		{"errors", pep + ", chapter 8", "Fails before its head is sent, or after it, or changes its " +
			"mind in time.", "curl -i URL/before URL/after URL/excinfo", failing},
		{"form", "Python's cgi module, chapter 10", "A form and an upload, taken apart and shown back.",
			"curl -F name=value -F file=@README.md URL", form},
		{"files", "RFC 1945, chapter 10", "A directory (-root) with wsgi.file_wrapper and " +
			"If-Modified-Since.", "curl -i URL/", newFiles(c.Root)},
		{"mount", "mod_wsgi's WSGIScriptAlias, chapter 10", "Two applications side by side: the path " +
			"moves to SCRIPT_NAME.", "curl URL/a/x URL/b/x",
			mount(map[string]Application{"/a": environ, "/b": hello}, environ)},
		{"proxy", "RFC 9110, chapter 13", "Forwards to other servers (-upstream), in turn, over " +
			"HTTP/1.0.", "curl -i URL/", newProxy(c.Upstream, c.Timeout)},
		{"cgi", rfc, "Runs a CGI program (-script) for each request.",
			"curl -i URL", newCGI(c.Script, c.Timeout)},
	}
	entries = append(entries, entry{"lab", "our own, chapter 0", "Type raw bytes, and watch what becomes of " +
		"each, step by step.", "open URL in a browser", newLab(entries, c.OpenLab)})
	routes := map[string]Application{}
	for i, entry := range entries {
		if c.Trace {
			entry.app = traced(entry.name, entry.app)
			entries[i] = entry
		}
		routes["/"+entry.name] = entry.app
	}
	gallery := mount(routes, newIndex(entries))
	if c.Trace {
		gallery = traced("gallery", gallery)
	}
	return append(entries, entry{"gallery", "our own, chapter 0", "The default: all of these, mounted under " +
		"their names, with an index page.", "curl -i URL", gallery})
}

// The middleware.
var middlewares = []struct {
	name, about string
	wrap        Middleware
}{
	{"log", "Prints the request URI, the status and each block of the answer.", logging},
	{"onion", "Prints a line before and after the call: onion,onion shows who wraps whom.",
		onion},
	{"upper", "Rewrites the answer: every letter of a plain text becomes a capital.", upper},
	{"catch", "Turns a panic into an error page, with the stack for this machine only.", catch},
	{"auth", "Asks for a user and password (reader, wsgi).", auth},
	{"validate", "Holds both sides to the rules of PEP 3333, and names who breaks one.",
		validate},
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
		case *recorder: // who watches wants to see what there is without him
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
	return notFound(environ, startResponse, "Try before, after or excinfo under "+
		environ.Get("SCRIPT_NAME")+"/")
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

// groups has the headings of the index, each above the application that begins the group.
var groups = map[string]string{"form": "What web applications do",
	"mount": "Applications made of others", "lab": "Watch it"}

// newIndex makes the page of the gallery. It needs nothing from elsewhere, not even an icon.
func newIndex(entries []entry) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		script := environ.Get("SCRIPT_NAME")
		if path := environ.Get("PATH_INFO"); path != "/" && path != "" {
			return notFound(environ, startResponse, "The index is at "+script+"/")
		}
		startResponse("200 OK", []Header{{"Content-Type", "text/html; charset=utf-8"}})
		var page strings.Builder
		page.WriteString(indexTop)
		for _, entry := range entries {
			if heading := groups[entry.name]; heading != "" {
				fmt.Fprintf(&page, "</dl>\n<h2>%s</h2>\n<dl>\n", heading)
			}
			place := escapePath(script + "/" + entry.name)
			fmt.Fprintf(&page, "<dt><a href=\"%s\">%s</a>\n<dd>%s <small>(%s)</small>\n<pre>%s</pre>\n",
				html.EscapeString(place), entry.name, html.EscapeString(entry.about),
				html.EscapeString(entry.from),
				html.EscapeString(strings.ReplaceAll(entry.try, "URL", baseURL(environ)+place)))
		}
		page.WriteString(indexEnd)
		return Blocks{[]byte(page.String())}
	}
}

// escapePath is the reverse of what the gateway did for PATH_INFO.
func escapePath(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// baseURL reconstructs the front of the URL that the client asked for: Host, if it sent
// one, is what it calls this server. (PEP 3333, "URL Reconstruction")
func baseURL(environ Environ) string {
	host := environ.Get("HTTP_HOST")
	if host == "" {
		host = environ.Get("SERVER_NAME") + ":" + environ.Get("SERVER_PORT")
	}
	return environ.Get("wsgi.url_scheme") + "://" + host
}

const (
	formTop = pageTop + `<title>rawsgi: a form</title>
</head>
<body>
<h1>A form</h1>
<form method="post" enctype="multipart/form-data">
<p><label>Name <input name="name"></label></p>
<p><label>File <input type="file" name="file"></label></p>
<p><button>Send</button></p>
</form>
<table>
<caption>What came with this request</caption>
<tr><th>from</th><th>name</th><th>value</th></tr>
`
	formEnd = "</table>\n</body>\n</html>\n"
	listTop = pageTop + `<title>rawsgi: files</title>
</head>
<body>
<h1>%s</h1>
<ul>
`
)

// pageTop begins every page, for a phone and in the dark too.
const pageTop = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 0 auto; padding: 1rem }
dt { font-weight: bold; margin-top: 1.5rem }
dd { margin: 0 }
pre, td { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid; padding: .5rem }
pre { margin: .25rem 0 }
</style>
`

const indexTop = pageTop + `<title>rawsgi: the gallery</title>
</head>
<body>
<h1>The gallery</h1>
<p>Each application here is a Go function in <code>app.go</code>, called by the gateway
that you started. Follow a link, or paste a command into another terminal and watch
the bytes. The chapters are those of the course, which will stand in <code>docs</code>.</p>
<h2>The interface</h2>
<dl>
`

const indexEnd = `</dl>
</body>
</html>
`

// form shows what a browser makes of a form: the query string, a body in the coding of
// query strings, or a body of parts with files in it. What is broken or too large is
// refused, and a file passes by without being held.
func form(environ Environ, startResponse StartResponse) Body {
	fields, err := readForm(environ)
	if err != nil {
		panic(err) // a *Refusal, which the gateway answers with its status
	}
	startResponse("200 OK", []Header{{"Content-Type", "text/html; charset=utf-8"}})
	var page strings.Builder
	page.WriteString(formTop)
	for _, field := range fields {
		page.WriteString("<tr>")
		for _, cell := range []string{field.from, field.name, field.value} {
			cell = strings.ToValidUTF8(cell, "\uFFFD") // the page says that it is UTF-8
			fmt.Fprintf(&page, "<td>%s</td>", html.EscapeString(cell))
		}
		page.WriteString("</tr>\n")
	}
	page.WriteString(formEnd)
	return Blocks{[]byte(page.String())}
}

// A formField is one line of the table that form shows.
type formField struct{ from, name, value string }

const (
	formBytes = 1 << 20 // in an urlencoded body, which is held in memory
	formParts = 1000    // in a body of parts
	partBytes = 1000    // of each part are shown
	nameBytes = 1 << 16 // in the names of all parts, of files and of types
)

// readForm takes query string and body apart. Its errors are *Refusals.
func readForm(environ Environ) ([]formField, error) {
	fields, err := readQuery("query", environ.Get("QUERY_STRING"))
	if err != nil {
		return nil, err
	}
	input := environ["wsgi.input"].(io.Reader)
	kind, params, _ := mime.ParseMediaType(environ.Get("CONTENT_TYPE")) // "" if malformed
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, refuse("415 Unsupported Media Type", "RFC 9110 §15.5.16", "expected a form in UTF-8, "+
			"as the page asks for, got charset=%s", quote(charset))
	}
	switch kind {
	case "application/x-www-form-urlencoded":
		body, err := io.ReadAll(io.LimitReader(input, formBytes+1))
		if err != nil {
			return nil, err
		}
		if len(body) > formBytes {
			return nil, refuse(tooLarge, "RFC 9110 §15.5.14", "a form may have %d bytes; "+
				"send files as multipart/form-data", formBytes)
		}
		more, err := readQuery("body", string(body))
		return append(fields, more...), err
	case "multipart/form-data":
		more, err := readParts(multipart.NewReader(input, params["boundary"]))
		return append(fields, more...), err
	}
	return fields, nil
}

// readQuery takes "a=1&b=%20" apart: names in order, values as they came.
func readQuery(from, text string) (fields []formField, err error) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, refuse(badRequest, "HTML 4.01 §17.13.4", "expected name=value&name=value: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			fields = append(fields, formField{from, name, value})
		}
	}
	return fields, nil
}

// readParts goes through the parts of a body and keeps the beginning of each.
func readParts(reader *multipart.Reader) (fields []formField, err error) {
	names := 0
	for len(fields) < formParts {
		part, err := reader.NextPart()
		if err == io.EOF {
			return fields, nil
		}
		var start []byte
		var rest int64
		if err == nil {
			start, err = io.ReadAll(io.LimitReader(part, partBytes))
		}
		if err == nil {
			rest, err = io.Copy(io.Discard, part)
		}
		var refusal *Refusal
		if errors.As(err, &refusal) {
			return nil, err // the body did not arrive whole
		}
		if err != nil {
			return nil, refuse(badRequest, "RFC 7578 §4", "a part cannot be read: %v", err)
		}
		kind := part.Header.Get("Content-Type")
		if names += len(part.Header.Get("Content-Disposition")) + len(kind); names > nameBytes {
			return nil, refuse(tooLarge, "RFC 9110 §15.5.14", "the names in a form may have %d bytes", nameBytes)
		}
		field := formField{"part", part.FormName(), string(start)}
		if file := part.FileName(); file != "" {
			field.value = fmt.Sprintf("the file %s, %d bytes of %s", file,
				int64(len(start))+rest, kind)
		} else if rest > 0 {
			field.value += "…"
		}
		fields = append(fields, field)
	}
	return nil, refuse(tooLarge, "RFC 9110 §15.5.14", "a form may have %d parts", formParts)
}

// newFiles makes an application that serves the files of a directory and never leaves
// it: os.Root refuses each way out, by "..", by an escape or by a symbolic link.
func newFiles(directory string) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if method := environ.Get("REQUEST_METHOD"); method != "GET" && method != "HEAD" {
			startResponse("405 Method Not Allowed", append(textPlain[:1:1], Header{"Allow", "GET, HEAD"}))
			return Blocks{[]byte("A file can only be read.\n")}
		}
		root, err := os.OpenRoot(directory)
		if err != nil {
			return notFound(environ, startResponse, "The server's -root is not a directory.")
		}
		defer root.Close() // files opened below stay open
		path := environ.Get("PATH_INFO")
		name := strings.Trim(path, "/")
		if name == "" {
			name = "."
		}
		info, err := root.Stat(name)
		switch {
		case err != nil, !info.IsDir() && (strings.HasSuffix(path, "/") || !info.Mode().IsRegular()):
			return notFound(environ, startResponse, "No file has this name.")
		case info.IsDir() && !strings.HasSuffix(path, "/"):
			return redirect(environ, startResponse, environ.Get("SCRIPT_NAME")+path+"/")
		case info.IsDir():
			return serveDirectory(root, name, environ, startResponse)
		}
		return serveFile(root, name, environ, startResponse)
	}
}

// redirect sends the client to another path here. RFC 1945 §10.11 wants a whole URL.
func redirect(environ Environ, startResponse StartResponse, path string) Body {
	location := baseURL(environ) + escapePath(path)
	if query := environ.Get("QUERY_STRING"); query != "" {
		location += "?" + query
	}
	startResponse("301 Moved Permanently", append(textPlain[:1:1], Header{"Location", location}))
	return Blocks{[]byte("See " + location + "\n")}
}

// serveFile sends a file, or 304 if the client has it already. (RFC 1945 §10.9)
func serveFile(root *os.Root, name string, environ Environ, startResponse StartResponse) Body {
	file, err := root.Open(name)
	if err != nil {
		return notFound(environ, startResponse, "This file cannot be read.")
	}
	info, err := file.Stat()
	if err != nil {
		panic(err)
	}
	modified := info.ModTime().UTC().Truncate(time.Second)
	if now := time.Now().UTC(); modified.After(now) {
		modified = now // an answer is not older than what it sends (RFC 1945 §10.10)
	}
	headers := []Header{{"Last-Modified", modified.Format(httpDate)}}
	if !modifiedSince(modified, environ) {
		file.Close()
		startResponse("304 Not Modified", headers)
		return Blocks{}
	}
	kind := mime.TypeByExtension(path.Ext(name))
	switch {
	case path.Ext(name) == ".md" || path.Ext(name) == ".go":
		kind = textPlain[0].Value // so that browsers show them
	case kind == "":
		kind = "application/octet-stream"
	}
	startResponse("200 OK", append(headers, Header{"Content-Type", kind},
		Header{"X-Content-Type-Options", "nosniff"}))
	if wrapper, ok := environ["wsgi.file_wrapper"].(func(io.Reader, ...int) Body); ok {
		return wrapper(file)
	}
	return newFileWrapper(file) // a gateway need not have one
}

// httpDate is the form of dates that HTTP prefers, and httpDates has those that it had
// before, too. (RFC 9110 §5.6.7)
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

var httpDates = []string{httpDate, "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC}

// modifiedSince reports whether the client does not have what was modified then. It may
// not if it asks in another way, or its date cannot be read or has yet to come. (RFC 1945
// §10.9; RFC 9110 §13.1.3)
func modifiedSince(modified time.Time, environ Environ) bool {
	if environ["HTTP_IF_NONE_MATCH"] != nil {
		return true
	}
	for _, form := range httpDates {
		since, err := time.Parse(form, environ.Get("HTTP_IF_MODIFIED_SINCE"))
		if err == nil {
			return modified.After(since) || since.After(time.Now())
		}
	}
	return true
}

// serveDirectory sends the directory's index.html, or a list of what is in it.
func serveDirectory(root *os.Root, name string, environ Environ, startResponse StartResponse) Body {
	index := path.Join(name, "index.html")
	if info, err := root.Stat(index); err == nil && info.Mode().IsRegular() {
		return serveFile(root, index, environ, startResponse)
	}
	directory, err := root.Open(name)
	if err != nil {
		return notFound(environ, startResponse, "This directory cannot be read.")
	}
	defer directory.Close()
	entries, err := directory.ReadDir(-1)
	if err != nil {
		panic(err)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	startResponse("200 OK", []Header{{"Content-Type", "text/html; charset=utf-8"}})
	var page strings.Builder
	fmt.Fprintf(&page, listTop, html.EscapeString(environ.Get("PATH_INFO")))
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() {
			name += "/"
		}
		fmt.Fprintf(&page, "<li><a href=\"./%s\">%s</a></li>\n",
			html.EscapeString(url.PathEscape(entry.Name())+strings.TrimPrefix(name, entry.Name())),
			html.EscapeString(strings.ToValidUTF8(name, "\uFFFD")))
	}
	page.WriteString("</ul>\n</body>\n</html>\n")
	return Blocks{[]byte(page.String())}
}

// newProxy makes an application that forwards each request to one of several servers, in
// turn, over HTTP/1.0, written by hand like the rest: role 3 of middleware in PEP 333's
// list, load balancing and remote processing.
func newProxy(upstreams string, timeout time.Duration) Application {
	servers := strings.FieldsFunc(upstreams, func(r rune) bool { return r == ',' })
	var turn atomic.Uint64
	return func(environ Environ, startResponse StartResponse) Body {
		if len(servers) == 0 {
			return notFound(environ, startResponse, "Start the server with -upstream host:port.")
		}
		first := turn.Add(1)
		var c net.Conn
		err := errors.New("no upstream")
		for i := uint64(0); i < uint64(len(servers)) && err != nil; i++ {
			c, err = net.DialTimeout("tcp", servers[(first+i)%uint64(len(servers))], timeout)
		}
		if err != nil {
			return badGateway(environ, startResponse, fmt.Errorf("no upstream answers: %w", err))
		}
		passed := false
		defer func() {
			if !passed {
				c.Close() // after a panic, too
			}
		}()
		upstream := &conn{Conn: c, timeout: timeout, eachRead: true}
		body, err := forward(environ, startResponse, upstream)
		if err != nil {
			return badGateway(environ, startResponse, err)
		}
		passed = true
		return body
	}
}

// badGateway answers for somebody who did not: 504 if it took too long, else 502. If the
// head of an answer is stored already, this one replaces it.
func badGateway(environ Environ, startResponse StartResponse, err error) Body {
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "bad gateway: %v\n", err)
	status := gatewayStatus(err)
	startResponse(status, textPlain, err)
	return Blocks{[]byte(status + "\n")}
}

func gatewayStatus(err error) string {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "504 Gateway Timeout"
	}
	return "502 Bad Gateway"
}

// forward sends the request to upstream and passes on its answer. Once a body is
// returned, that closes the connection.
func forward(environ Environ, startResponse StartResponse, upstream *conn) (Body, error) {
	if _, err := io.WriteString(upstream, upstreamHead(environ)); err != nil {
		return nil, err
	}
	// As a mere writer, upstream has a deadline for each piece; io.Copy would prefer its
	// ReadFrom, which has one for all.
	if _, err := io.Copy(struct{ io.Writer }{upstream}, environ["wsgi.input"].(io.Reader)); err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			panic(err) // the client's fault, and the gateway's to answer
		}
		// Otherwise upstream may have answered without reading it all.
	}
	h := &headReader{r: bufio.NewReader(upstream)}
	status, err := readStatusLine(h)
	if err != nil {
		return nil, err
	}
	fields, err := readHeader(h)
	if err != nil {
		return nil, err
	}
	if coding, n := lookup(fields, "Transfer-Encoding"); n > 0 {
		return nil, fmt.Errorf("upstream answers HTTP/1.0 with Transfer-Encoding: %s", coding)
	}
	headers := endToEnd(fields)
	length, err := checkHead(status, headers)
	if err != nil {
		return nil, err
	}
	var body io.Reader = h.r
	if length >= 0 {
		body = &Input{r: h.r, length: length, left: length}
	}
	if environ.Get("REQUEST_METHOD") == "HEAD" || status[:3] == "204" || status[:3] == "304" {
		body = strings.NewReader("") // whatever its Content-Length says
	}
	startResponse(status, headers)
	return newFileWrapper(answer{body, upstream}, pieceSize), nil
}

// readStatusLine reads the first line of an answer.
//
//	"HTTP/1.1 404 Not Found\r\n" → "404 Not Found"
//
// The reason may be missing, its space not, for startResponse; and it has spaces for tabs.
// What is no line of HTTP/1.x is an error. (RFC 1945 §6.1)
func readStatusLine(h *headReader) (status string, err error) {
	line, err := h.line(headTooLarge)
	if err != nil {
		return "", err
	}
	version, rest, _ := strings.Cut(line, " ")
	if !strings.HasPrefix(version, "HTTP/1.") {
		return "", fmt.Errorf("expected a status line, got %s", quote(line))
	}
	code, reason, _ := strings.Cut(rest, " ")
	return code + " " + strings.TrimSpace(strings.ReplaceAll(reason, "\t", " ")), nil
}

// An answer is the body of somebody else's answer, and what to close after it. If it
// breaks before its first block, there is still time for a 502.
type answer struct {
	io.Reader
	io.Closer
}

func (a answer) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = refuse(gatewayStatus(err), "RFC 9110 §15.6.3", "the answer broke off: %v", err)
	}
	return n, err
}

// endToEnd returns the fields that are not about the connection on which they came, with
// spaces for tabs, which startResponse refuses.
func endToEnd(fields []Header) []Header {
	var kept []Header
	connection := ""
	for _, field := range fields {
		if strings.EqualFold(field.Name, "Connection") {
			connection += "," + field.Value
		}
	}
	for _, field := range fields {
		if passesOn(connection, field.Name) {
			kept = append(kept, Header{field.Name, strings.ReplaceAll(field.Value, "\t", " ")})
		}
	}
	return kept
}

// passesOn reports whether a field is for whoever is at the other end, and not only about
// one connection, as those that Connection lists are. What it may not list passes on all
// the same: without its length, a body would be read as a request of its own.
// Proxy-Connection, which no RFC has, an application may use. (RFC 9110 §7.6.1)
func passesOn(connection, name string) bool {
	return listed("Content-Length,Content-Type,Host", name) ||
		!isHopByHop(name) && !listed(connection, name) && !strings.EqualFold(name, "Proxy-Connection")
}

// listed reports whether name stands in a comma-separated list, in any case.
func listed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(item, " \t"), name) {
			return true
		}
	}
	return false
}

// upstreamHead makes the head of the request to an upstream out of an environ.
func upstreamHead(environ Environ) string {
	target := escapePath(environ.Get("PATH_INFO"))
	if target == "" {
		target = "/"
	}
	if query := environ.Get("QUERY_STRING"); query != "" {
		target += "?" + query
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.0\r\n", environ.Get("REQUEST_METHOD"), target)
	clients := environ.Get("REMOTE_ADDR")
	if clients == "" {
		clients = "unknown" // a Unix socket
	}
	if earlier := environ.Get("HTTP_X_FORWARDED_FOR"); earlier != "" {
		clients = earlier + ", " + clients
	}
	fmt.Fprintf(&b, "X-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\n", clients,
		environ.Get("wsgi.url_scheme"))
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		name, ok := strings.CutPrefix(key, "HTTP_")
		if (key == "CONTENT_TYPE" || key == "CONTENT_LENGTH") && environ.Get(key) != "" {
			name, ok = key, true
		}
		name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if ok && passesOn(environ.Get("HTTP_CONNECTION"), name) &&
			!listed("Expect,X-Forwarded-For,X-Forwarded-Proto", name) {
			fmt.Fprintf(&b, "%s: %s\r\n", name, environ.Get(key))
		}
	}
	return b.String() + "\r\n"
}

// newCGI makes the host's side of CGI: an application that starts a program for each
// request. script is that program, or a directory of them, in which the first segment of
// the path is the name. (RFC 3875)
func newCGI(script string, timeout time.Duration) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if script == "" {
			return notFound(environ, startResponse, "Start the server with -script.")
		}
		program, err := filepath.Abs(script)
		if err != nil {
			panic(err)
		}
		info, err := os.Stat(program)
		if err == nil && info.IsDir() {
			name, rest, slash := strings.Cut(strings.TrimPrefix(environ.Get("PATH_INFO"), "/"), "/")
			if name == "" || !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) {
				return notFound(environ, startResponse, "Name a program after "+environ.Get("SCRIPT_NAME")+"/")
			}
			program = filepath.Join(program, name)
			info, err = os.Lstat(program) // a link could lead out of the directory
			environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + "/" + name
			environ["PATH_INFO"] = rest
			if slash {
				environ["PATH_INFO"] = "/" + rest
			}
		}
		switch {
		case err != nil:
			return notFound(environ, startResponse, "No program has this name.")
		case !info.Mode().IsRegular() || runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
			startResponse("403 Forbidden", textPlain)
			return Blocks{[]byte("This is not a program.\n")}
		}
		return runScript(program, timeout, environ, startResponse)
	}
}

// runScript starts a program, gives it the request, and passes on its answer.
func runScript(program string, timeout time.Duration, environ Environ,
	startResponse StartResponse) Body {
	input, err := spool(environ)
	if err != nil {
		panic(err)
	}
	defer input.Close() // the program has its own descriptor
	s, err := startScript(program, input, timeout, environ)
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	passed := false
	defer func() {
		if !passed {
			s.end(100 * time.Millisecond) // after a panic, too
		}
	}()
	h := &headReader{r: bufio.NewReader(s)}
	fields, err := readHeader(h)
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	if location, _ := lookup(fields, "Location"); strings.HasPrefix(location, "/") && len(fields) == 1 {
		return localRedirect(location, environ, startResponse)
	}
	status, headers, err := cgiAnswer(fields)
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	startResponse(status, headers)
	passed = true
	return newFileWrapper(answer{h.r, s}, pieceSize)
}

// spool writes the body of the request to a file: a program can then read it or not, in
// its own time, and gets its end when it has read CONTENT_LENGTH bytes. (RFC 3875 §4.2)
func spool(environ Environ) (*os.File, error) {
	if length := environ.Get("CONTENT_LENGTH"); length == "" || length == "0" {
		return os.Open(os.DevNull)
	}
	file, err := os.CreateTemp("", "rawsgi-body-")
	if err != nil {
		return nil, err
	}
	// On Unix, it lives on while it is open, whatever happens to us; on Windows this fails,
	// and it stays.
	os.Remove(file.Name())
	if _, err = io.Copy(file, environ["wsgi.input"].(io.Reader)); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// A script is a CGI program that runs.
type script struct {
	command *exec.Cmd
	output  *os.File
	errors  *os.File // its standard error
	timeout time.Duration
	timer   *time.Timer
	late    atomic.Bool // it was killed, because it was silent for too long
	ended   chan bool   // closed when it has ended, and all that it started
}

// scripts are the CGI programs that run: the keys are *script.
var scripts sync.Map

// endScripts ends them all, before this program ends: nobody else would.
func endScripts() {
	scripts.Range(func(s, _ any) bool {
		s.(*script).kill()
		return true
	})
}

// startScript starts the program in its directory, with a small clean environment and in
// a process group of its own.
func startScript(program string, input *os.File, timeout time.Duration,
	environ Environ) (*script, error) {
	output, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close() // the program has its own
	problems, problem, err := os.Pipe()
	if err != nil {
		output.Close()
		return nil, err
	}
	defer problem.Close()
	s := &script{command: exec.Command(program), output: output, errors: problems,
		timeout: timeout, ended: make(chan bool)}
	s.command.Dir = filepath.Dir(program)
	s.command.Env = cgiVariables(program, environ)
	s.command.Stdin, s.command.Stdout, s.command.Stderr = input, out, problem
	s.command.SysProcAttr = ownGroup()
	if err := s.command.Start(); err != nil {
		output.Close()
		problems.Close()
		return nil, err
	}
	scripts.Store(s, nil)
	s.timer = time.AfterFunc(timeout, s.expire)
	go s.wait(environ["wsgi.errors"].(io.Writer))
	return s, nil
}

// wait logs what the program says on standard error and how it ends, and ends what it has
// left running.
func (s *script) wait(log io.Writer) {
	copied := make(chan bool)
	go func() {
		io.Copy(log, s.errors) // ends with the program, or when we close it
		close(copied)
	}()
	if err := s.command.Wait(); err != nil {
		fmt.Fprintf(log, "%s: %v\n", s.command.Path, err)
	}
	s.kill()
	scripts.Delete(s)
	select {
	case <-copied:
	case <-time.After(time.Second): // somebody left the group and keeps it open
	}
	s.errors.Close()
	<-copied
	close(s.ended)
}

// expire ends a program that has been silent for too long.
func (s *script) expire() {
	s.late.Store(true)
	select {
	case <-s.ended: // and its number may be another's by now
	default:
		s.kill()
	}
	s.output.Close()
}

// ownGroup asks for a process group, where the system has them. The field Setpgid is not
// there on Windows, and this is the one file for all systems, hence reflect.
func ownGroup() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{}
	if field := reflect.ValueOf(attributes).Elem().FieldByName("Setpgid"); field.IsValid() {
		field.SetBool(true)
	}
	return attributes
}

// kill ends the program and its children. A negative number is a group, as for kill(2).
func (s *script) kill() {
	pid := -s.command.Process.Pid
	if runtime.GOOS == "windows" {
		pid = -pid
	}
	if group, err := os.FindProcess(pid); err == nil {
		group.Kill() // fails if all have ended, as they should
	}
}

// Read reads from the program's output; each read sets its time limit anew.
func (s *script) Read(p []byte) (int, error) {
	s.timer.Reset(s.timeout)
	n, err := s.output.Read(p)
	s.timer.Stop() // until the client has taken what was read
	if err != nil && s.late.Load() {
		err = fmt.Errorf("%s: waited %v: %w", s.command.Path, s.timeout, os.ErrDeadlineExceeded)
	}
	return n, err
}

// Close reads the rest of the output and throws it away, so that the program can do its
// work to the end although its answer has been cut, by HEAD or by its own Content-Length.
// There is a limit, for the client may have left. (RFC 3875 §6.4)
func (s *script) Close() error {
	s.timer.Reset(s.timeout)                   // for all of it
	io.CopyN(io.Discard, s.output, drainLimit) // any error ends it, as its end does
	return s.end(s.timeout)
}

// end gives the program, which may have said all, a time to end by itself, and then ends it.
func (s *script) end(grace time.Duration) error {
	s.timer.Stop()
	s.output.Close() // an error would mean that expire has closed it
	select {
	case <-s.ended:
	case <-time.After(grace):
		s.kill()
		<-s.ended
	}
	return nil
}

// cgiNames are the variables of RFC 3875 §4.1 that environ may have, and two that everybody
// sets beside those and HTTP_*.
var cgiNames = []string{"AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "PATH_INFO",
	"QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_USER", "REQUEST_METHOD",
	"SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SERVER_SOFTWARE",
	"HTTPS", "REMOTE_PORT"}

// cgiVariables makes the environment of a CGI program: of environ what is CGI's, for we may
// be a CGI program ourselves and have more in it, and PATH to find its interpreter.
// Passwords are withheld. (RFC 3875 §4.1, §9.2)
func cgiVariables(program string, environ Environ) []string {
	variables := []string{"PATH=" + os.Getenv("PATH"), "SCRIPT_FILENAME=" + program}
	if root := os.Getenv("SystemRoot"); root != "" {
		variables = append(variables, "SystemRoot="+root) // Windows programs need it
	}
	if info := environ.Get("PATH_INFO"); info != "" {
		below := filepath.FromSlash(path.Clean("/" + info)) // no ".." leads out
		variables = append(variables, "PATH_TRANSLATED="+filepath.Join(filepath.Dir(program), below))
	}
	for key, value := range environ {
		text, ok := value.(string)
		public := strings.HasPrefix(key, "HTTP_") &&
			!listed("HTTP_AUTHORIZATION,HTTP_PROXY_AUTHORIZATION,HTTP_PROXY", key)
		if ok && (public || slices.Contains(cgiNames, key)) && (key != "CONTENT_LENGTH" || text != "0") {
			variables = append(variables, key+"="+text)
		}
	}
	return variables
}

// cgiAnswer turns the head of a CGI program's answer into a status and headers.
//
//	Status: 404 Gone\n Content-Type: text/plain\n → "404 Gone", [{"Content-Type", …}]
//	Location: http://h/\n                        → "302 Found", [{"Location", …}]
//
// (RFC 3875 §6.2, §6.3)
func cgiAnswer(fields []Header) (status string, headers []Header, err error) {
	status, hasStatus := lookup(fields, "Status")
	_, isRedirect := lookup(fields, "Location")
	_, hasType := lookup(fields, "Content-Type")
	switch {
	case hasStatus+isRedirect+hasType == 0:
		return "", nil, errors.New("expected Status, Location or Content-Type in the answer of " +
			"a CGI program")
	case hasStatus == 0 && isRedirect > 0:
		status = "302 Found"
	case hasStatus == 0:
		status = "200 OK"
	case !strings.Contains(status, " "):
		status += " "
	}
	headers = endToEnd(fields)
	_, err = checkHead(status, headers)
	return status, headers, err
}

// localRedirect has the whole server answer another path, as if it had been asked for
// that, 10 times at most. (RFC 3875 §6.2.2)
func localRedirect(location string, environ Environ, startResponse StartResponse) Body {
	count, _ := environ["rawsgi.redirects"].(int)
	application, ok := environ["rawsgi.application"].(Application)
	q := &Request{Method: "GET", Target: location}
	err := q.parseTarget()
	switch {
	case count == 10:
		err = errors.New("it comes after 10 others")
	case !ok:
		err = errors.New("nobody knows the application")
	}
	if err != nil {
		return badGateway(environ, startResponse, fmt.Errorf("cannot follow the local redirect "+
			"to %s: %w", quote(location), err))
	}
	next := maps.Clone(environ)
	next["rawsgi.redirects"] = count + 1
	next["REQUEST_METHOD"], next["SCRIPT_NAME"] = "GET", ""
	next["PATH_INFO"], next["QUERY_STRING"] = q.Path, q.Query
	next["wsgi.input"] = &Input{}
	delete(next, "CONTENT_LENGTH")
	delete(next, "CONTENT_TYPE")
	return application(next, startResponse)
}

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
		return loggedBody{wrappedBody{application(environ, start)}, out}
	}
}

// A wrappedBody is what middleware returns around a body. Its Close passes the gateway's
// call on, as whoever wraps a body has to, and it has no Len: middleware should promise
// nothing about a body that it did not make. (PEP 3333, "Middleware")
type wrappedBody struct{ Body }

// Close closes the inner body, if it can be closed.
func (b wrappedBody) Close() error {
	if c, ok := b.Body.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// A loggedBody is a body whose blocks are printed on their way.
type loggedBody struct {
	wrappedBody
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

// upper rewrites a plain text into capitals, PEP 3333's Latinator in small. Whoever changes
// a body must drop its Content-Length and its Len, change what is written as well as what
// is returned, and pass on a block for each block. (PEP 3333, "Middleware", "Block
// Boundaries")
func upper(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		text := false
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			kind, _ := lookup(headers, "Content-Type")
			_, coded := lookup(headers, "Content-Encoding") // what it hides is no text
			if text = strings.HasPrefix(strings.ToLower(kind), "text/plain") && coded == 0; !text {
				return startResponse(status, headers, excInfo...)
			}
			headers = slices.DeleteFunc(slices.Clone(headers), func(h Header) bool {
				return strings.EqualFold(h.Name, "Content-Length")
			})
			return upperWriter{startResponse(status, headers, excInfo...)}
		}
		return upperBody{wrappedBody{application(environ, start)}, &text}
	}
}

// capitals returns a copy with ASCII letters in capitals: a block may end inside a rune.
func capitals(block []byte) []byte {
	block = bytes.Clone(block)
	for i, c := range block {
		if 'a' <= c && c <= 'z' {
			block[i] = c - 'a' + 'A'
		}
	}
	return block
}

type upperWriter struct{ out io.Writer }

func (w upperWriter) Write(block []byte) (int, error) { return w.out.Write(capitals(block)) }

type upperBody struct {
	wrappedBody
	text *bool // known once startResponse has been called, maybe in the first iteration
}

func (b upperBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range b.Body.All() {
			if *b.text {
				block = capitals(block)
			}
			if !yield(block) {
				return
			}
		}
	}
}

// catch turns a panic of the application into a page. Whether that is still possible, it
// does not know: it calls startResponse with the error, and if the head has left, that
// panics in turn. The stack stands on the page for a client on this machine only.
// (PEP 3333, "Error Handling"; Python's cgitb)
func catch(application Application) Application {
	return func(environ Environ, startResponse StartResponse) (body Body) {
		page := func(reason any) []byte {
			err, ok := reason.(error)
			if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
				panic(err) // the request is at fault, and the gateway knows what to say
			}
			if !ok {
				err = fmt.Errorf("%v", reason)
			}
			text := fmt.Sprintf("The application failed: %v\n", err)
			stack := debug.Stack()
			fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "catch: %s%s", text, stack)
			startResponse("500 Internal Server Error", textPlain, err)
			if !onThisMachine(environ) {
				return []byte("The application failed.\n")
			}
			return append([]byte(text), stack...)
		}
		defer func() {
			if reason := recover(); reason != nil {
				body = Blocks{page(reason)}
			}
		}()
		return caughtBody{wrappedBody{application(environ, startResponse)}, page}
	}
}

type caughtBody struct {
	wrappedBody
	page func(reason any) []byte
}

func (b caughtBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		outside := false // the gateway works, and it may panic as well
		defer func() {
			if reason := recover(); outside && reason != nil {
				panic(reason)
			} else if reason != nil {
				yield(b.page(reason))
			}
		}()
		b.Body.All()(func(block []byte) bool {
			outside = true
			more := yield(block)
			outside = false
			return more
		})
	}
}

// auth asks for a name and password: Basic authentication, for which RFC 7617 wants TLS.
// Comparing digests takes the same time whatever was guessed.
func auth(application Application) Application {
	want := sha256.Sum256([]byte("reader:wsgi"))
	return func(environ Environ, startResponse StartResponse) Body {
		scheme, coded, _ := strings.Cut(environ.Get("HTTP_AUTHORIZATION"), " ")
		pair, err := base64.StdEncoding.DecodeString(strings.TrimLeft(coded, " "))
		got := sha256.Sum256(pair)
		if !strings.EqualFold(scheme, "Basic") || err != nil ||
			subtle.ConstantTimeCompare(got[:], want[:]) == 0 {
			startResponse("401 Unauthorized", append(textPlain[:1:1],
				Header{"WWW-Authenticate", `Basic realm="rawsgi", charset="UTF-8"`}))
			return Blocks{[]byte("Who are you? Try curl -u reader:wsgi\n")}
		}
		environ["REMOTE_USER"], environ["AUTH_TYPE"] = "reader", "Basic"
		return application(environ, startResponse)
	}
}

// validate stands between a gateway and an application and holds both to PEP 3333. It
// panics at the first breach, with the side that is at fault and the rule. What wsgiref's
// validator checks and Go's compiler has checked already: that there are two arguments,
// that status and header values are strings, that headers are a list of pairs, that
// blocks are bytes.
func validate(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		checkEnviron(environ)
		v := &validator{method: environ.Get("REQUEST_METHOD")}
		environ["wsgi.input"] = &validInput{environ["wsgi.input"].(lineReader)}
		body := application(environ, v.wrap(startResponse))
		v.must("application", body != nil, "it returns an iterable, not nil", "The Application Side")
		return &validBody{wrappedBody: wrappedBody{body}, v: v}
	}
}

// A validator knows what has happened in one exchange.
type validator struct {
	method    string
	status    string
	started   bool
	iterating bool
	closed    bool
}

// must panics if a rule does not hold.
func (v *validator) must(side string, holds bool, rule, section string) {
	if !holds {
		panic(fmt.Errorf("validate: the %s breaks a rule: %s (PEP 3333, %q)", side, rule, section))
	}
}

// checkEnviron holds the gateway to what an environ has to be.
func checkEnviron(environ Environ) {
	var v validator
	gateway := func(holds bool, rule string) { v.must("gateway", holds, rule, "environ Variables") }
	for _, key := range []string{"REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"} {
		gateway(environ.Get(key) != "", key+" is never empty")
	}
	for key, value := range environ {
		_, text := value.(string)
		gateway(text || strings.Contains(key, "."), key+", a CGI variable, is a string")
	}
	for _, key := range []string{"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} {
		_, present := environ[key]
		gateway(!present, key+" is called "+key[5:])
	}
	script, path := environ.Get("SCRIPT_NAME"), environ.Get("PATH_INFO")
	gateway(script != "/", "the root's SCRIPT_NAME is empty, and PATH_INFO is /")
	gateway(script == "" || script[0] == '/', "SCRIPT_NAME begins with /")
	gateway(path == "" || path[0] == '/', "PATH_INFO begins with /")
	gateway(script != "" || path != "", "SCRIPT_NAME or PATH_INFO is there")
	for _, key := range []string{"SERVER_PORT", "CONTENT_LENGTH"} {
		gateway(strings.Trim(environ.Get(key), "0123456789") == "", key+" has digits only")
	}
	gateway(isToken(environ.Get("REQUEST_METHOD")), "REQUEST_METHOD is a token")
	gateway(environ["wsgi.version"] == [2]int{1, 0}, "wsgi.version is (1, 0)")
	gateway(environ.Get("wsgi.url_scheme") != "", "wsgi.url_scheme is there")
	for _, key := range []string{"wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"} {
		_, ok := environ[key].(bool)
		gateway(ok, key+" is true or false")
	}
	_, ok := environ["wsgi.input"].(lineReader)
	gateway(ok, "wsgi.input can be read, and line by line")
	_, ok = environ["wsgi.errors"].(io.Writer)
	gateway(ok, "wsgi.errors can be written")
}

// wrap checks each call of startResponse, and when its writer is used.
func (v *validator) wrap(startResponse StartResponse) StartResponse {
	const section = "The start_response() Callable"
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		changed := len(excInfo) > 0 && excInfo[0] != nil
		v.must("application", !v.started || changed, "a second call needs excInfo", section)
		v.must("application", len(excInfo) < 2, "there is one excInfo at most", section)
		_, err := checkHead(status, headers)
		v.must("application", err == nil, fmt.Sprint(err), section)
		for _, header := range headers {
			v.must("application", !strings.ContainsAny(header.Name, "_"),
				"a header name with _ is a mistake for -: "+header.Name, section)
		}
		_, typed := lookup(headers, "Content-Type")
		bodyless := status[:3] == "204" || status[:3] == "304"
		v.must("application", !bodyless || typed == 0, status+" has no Content-Type", section)
		v.must("application", bodyless || typed > 0, status+" has a Content-Type", section)
		v.started, v.status = true, status
		out := startResponse(status, headers, excInfo...)
		v.must("gateway", out != nil, "startResponse returns write()", section)
		return validWriter{out, v}
	}
}

// A validWriter is a write() that knows when it may be called.
type validWriter struct {
	io.Writer
	v *validator
}

func (w validWriter) Write(p []byte) (int, error) {
	w.v.must("application", !w.v.iterating, "write() is called before the body is iterated",
		"The write() Callable")
	return w.Writer.Write(p)
}

// A validBody checks how a body is used and what it gives.
type validBody struct {
	wrappedBody
	v        *validator
	iterated bool
}

// All gives the blocks.
func (b *validBody) All() iter.Seq[[]byte] {
	v := b.v
	return func(yield func([]byte) bool) {
		v.must("gateway", !b.iterated, "a body is iterated once", "The Server/Gateway Side")
		v.must("gateway", !v.closed, "no block is asked for after Close", "The Server/Gateway Side")
		b.iterated = true
		blocks := 0
		v.iterating = true
		for block := range b.Body.All() {
			blocks++
			v.must("application", v.started || len(block) == 0,
				"startResponse is called before the first block", "The start_response() Callable")
			if !yield(block) {
				return
			}
		}
		v.must("application", v.started, "startResponse is called", "The start_response() Callable")
		if l, ok := b.Body.(interface{ Len() int }); ok {
			v.must("application", l.Len() == blocks, "Len is the number of blocks",
				"Handling the Content-Length Header")
		}
	}
}

// Close passes the call on, once.
func (b *validBody) Close() error {
	b.v.must("gateway", !b.v.closed, "Close is called once", "The Server/Gateway Side")
	b.v.closed = true
	return b.wrappedBody.Close()
}

// A lineReader is what wsgi.input has to be. (PEP 3333, "Input and Error Streams")
type lineReader interface {
	io.Reader
	ReadLine(limit int) ([]byte, error)
	Lines() iter.Seq[[]byte]
}

// A validInput checks what the gateway's input gives.
type validInput struct{ lineReader }

// Read reads, and counts.
func (in *validInput) Read(p []byte) (int, error) {
	n, err := in.lineReader.Read(p)
	var v validator
	v.must("gateway", n >= 0 && n <= len(p), "no more is read than was asked for",
		"Input and Error Streams")
	return n, err
}

// callApplication runs an application without any server, and is the shortest gateway
// there is: it calls, iterates, closes. Whatever environ lacks gets a plausible value.
func callApplication(application Application, environ Environ) (
	status string, headers []Header, body []byte) {
	if environ == nil {
		environ = Environ{}
	}
	setTestingDefaults(environ)
	var out bytes.Buffer
	startResponse := func(s string, h []Header, excInfo ...error) io.Writer {
		if status != "" && (len(excInfo) == 0 || excInfo[0] == nil) {
			panic(errStartedTwice)
		}
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
		if status == "" && len(block) > 0 {
			break
		}
		out.Write(block)
	}
	if status == "" {
		panic(errNotStarted)
	}
	return status, headers, out.Bytes()
}

// setTestingDefaults completes an environ as if GET / had been asked; of a server with a name,
// or over HTTPS, if environ says so; or of an application that is mounted, if it says where.
func setTestingDefaults(environ Environ) {
	host, port, scheme := environ.Get("SERVER_NAME"), "80", urlScheme(environ.Get("HTTPS"))
	if host == "" {
		host = "127.0.0.1"
	}
	if scheme == "https" {
		port = "443"
	}
	request := &Request{Method: "GET", Path: "/", Target: "/", Version: "HTTP/1.0",
		Header: []Header{{"Host", host}}}
	if environ["SCRIPT_NAME"] != nil {
		request.Path = ""
	}
	empty := &Input{r: bufio.NewReader(strings.NewReader(""))}
	defaults := newEnviron(request, empty, &Gateway{ServerName: host, ServerPort: port,
		RemoteAddr: "127.0.0.1", RemotePort: "49152", URLScheme: scheme, Errors: io.Discard})
	for key, value := range defaults {
		if _, present := environ[key]; !present {
			environ[key] = value
		}
	}
}

//go:embed docs/lab.html
var labPage string

// Limits of one experiment in the lab.
const (
	labRequest = 64 * 1024       // bytes of the request
	labData    = 256 * 1024      // bytes told of, in and out
	labEvents  = 5000            // events told of
	labTime    = 5 * time.Second // for the application
	labAtOnce  = 4               // experiments
)

// A lab is a page on which one types the bytes of a request, and a place to which that page
// sends them. They go through a server like this one, over a connection in memory, and what
// its recorder tells goes back.
type lab struct {
	apps    map[string]Application
	page    string
	running chan bool // holds a value for each experiment that runs
	open    bool      // to other machines as well
}

// newLab makes the lab. No proxy or CGI program can be reached: what an experiment does stays
// here.
func newLab(entries []entry, open bool) Application {
	l := &lab{apps: map[string]Application{}, running: make(chan bool, labAtOnce), open: open}
	var names []string
	for _, entry := range entries {
		if entry.name != "proxy" && entry.name != "cgi" {
			names = append(names, entry.name)
			l.apps[entry.name] = traced(entry.name, entry.app)
		}
	}
	l.apps["clock"] = traced("clock", newClock(3, 100*time.Millisecond))
	l.page = labChoices(names)
	return l.app
}

// app answers with the page, or with the events of an experiment.
func (l *lab) app(environ Environ, startResponse StartResponse) Body {
	if reason := notWelcome(environ); reason != "" && !l.open {
		return plainly(startResponse, "403 Forbidden", reason)
	}
	switch environ.Get("PATH_INFO") {
	case "", "/":
		startResponse("200 OK", labHeaders)
		return Blocks{[]byte(l.page)}
	case "/run":
		return l.run(environ, startResponse)
	}
	return notFound(environ, startResponse, "The lab is at "+environ.Get("SCRIPT_NAME"))
}

// plainly answers with a line of text.
func plainly(startResponse StartResponse, status, reason string) Body {
	startResponse(status, textPlain)
	return Blocks{[]byte(reason + "\n")}
}

// run makes an experiment, if it may and can.
func (l *lab) run(environ Environ, startResponse StartResponse) Body {
	if environ.Get("REQUEST_METHOD") != "POST" || crossSite(environ) ||
		environ.Get("CONTENT_TYPE") != "application/json" { // which no form can send
		return plainly(startResponse, "403 Forbidden",
			"An experiment is a POST of application/json from the lab's own page.")
	}
	var x experiment
	input := io.LimitReader(environ["wsgi.input"].(io.Reader), 8*labRequest)
	if err := json.NewDecoder(input).Decode(&x); err != nil {
		return plainly(startResponse, badRequest, "The experiment cannot be read: "+err.Error())
	}
	select {
	case l.running <- true:
		defer func() { <-l.running }()
	default:
		return plainly(startResponse, "503 Service Unavailable",
			"Too many experiments at once: try again.")
	}
	events, err := x.run(l.apps)
	if err != nil {
		return plainly(startResponse, badRequest, err.Error())
	}
	answer, err := json.Marshal(events)
	if err != nil {
		panic(err) // impossible: it is made of strings and numbers
	}
	startResponse("200 OK", []Header{{"Content-Type", "application/json"},
		{"Cache-Control", "no-store"}})
	return Blocks{answer}
}

// The page is whole in itself, and may fetch from where it comes from only.
var labHeaders = []Header{{"Content-Type", "text/html; charset=utf-8"},
	{"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; " +
		"script-src 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'none'; " +
		"base-uri 'none'; frame-ancestors 'none'"},
	{"X-Content-Type-Options", "nosniff"}, {"Referrer-Policy", "no-referrer"}}

// labChoices fills the page's menus.
func labChoices(names []string) string {
	var apps, layers, ways strings.Builder
	for _, name := range names {
		fmt.Fprintf(&apps, "<option>%s</option>\n", name)
	}
	for _, middleware := range middlewares {
		fmt.Fprintf(&layers, "<option>%s</option>\n", middleware.name)
	}
	for _, arrival := range arrivals {
		fmt.Fprintf(&ways, "<option>%s</option>\n", arrival.name)
	}
	return strings.NewReplacer("<!-- applications -->", apps.String(),
		"<!-- middleware -->", layers.String(), "<!-- arrivals -->", ways.String()).Replace(labPage)
}

// onThisMachine reports whether the client is on this machine and has not come through a
// proxy that is.
func onThisMachine(environ Environ) bool {
	client, err := netip.ParseAddr(environ.Get("REMOTE_ADDR"))
	return err == nil && client.IsLoopback() && environ.Get("HTTP_X_FORWARDED_FOR") == "" &&
		environ.Get("HTTP_FORWARDED") == "" && environ.Get("HTTP_VIA") == ""
}

// notWelcome says why a client may not use the lab, "" if it may: it has to be on this
// machine, must not have come through a proxy, and must call us by a name of this machine,
// for a page elsewhere can give its own name our address.
func notWelcome(environ Environ) string {
	if !onThisMachine(environ) {
		return "The lab is for this machine alone, unless it is started with -open-lab."
	}
	host := (&url.URL{Host: environ.Get("HTTP_HOST")}).Hostname()
	if name, err := netip.ParseAddr(host); host != "" && host != "localhost" &&
		(err != nil || !name.IsLoopback()) {
		return "The lab is at localhost or 127.0.0.1, not at " + visible(host) + "."
	}
	return ""
}

// crossSite reports whether a page from elsewhere makes the browser ask.
func crossSite(environ Environ) bool {
	site, origin := environ.Get("HTTP_SEC_FETCH_SITE"), environ.Get("HTTP_ORIGIN")
	return site != "" && site != "same-origin" || origin != "" && origin != baseURL(environ)
}

// An experiment is what the lab's page sends.
type experiment struct {
	Request string `json:"request"` // with the escapes of rawsgi send; line breaks do not count
	App     string `json:"app"`
	Use     string `json:"use"`     // middleware
	Arrival string `json:"arrival"` // one of arrivals
}

// An arrival is a way in which the bytes of a request reach the server: the pieces, the
// pause before each, and whether the client then ends its half of the connection.
type arrival struct {
	name  string
	cut   func(text string) []string
	pause time.Duration
	ends  bool
}

// The page lists them in this order, the usual one first.
var arrivals = []arrival{
	{"at once", whole, 0, false},
	{"byte by byte", eachByte, 0, false},
	{"a pause of 2 s before each line", lines, 2 * time.Second, false},
	{"all, then the client ends its half", whole, 0, true},
	{"the first half, then the client leaves", firstHalf, 0, true},
	{"the first half, then silence", firstHalf, 0, false},
}

func whole(text string) []string     { return []string{text} }
func eachByte(text string) []string  { return pieces(text, 1) }
func lines(text string) []string     { return slices.Collect(strings.Lines(text)) }
func firstHalf(text string) []string { return []string{text[:len(text)/2]} }

// run sends the request through a server and returns the events of that exchange.
func (x experiment) run(apps map[string]Application) ([]event, error) {
	text, err := unescape(strings.NewReplacer("\r", "", "\n", "").Replace(x.Request))
	application := apps[x.App]
	way := slices.IndexFunc(arrivals, func(a arrival) bool { return a.name == x.Arrival })
	switch {
	case err != nil:
		return nil, err
	case len(text) > labRequest:
		return nil, fmt.Errorf("a request may have %d bytes here, this one has %d", labRequest, len(text))
	case application == nil:
		return nil, fmt.Errorf("no application here is called %s", quote(x.App))
	case way < 0:
		return nil, fmt.Errorf("no request arrives like this: %s", quote(x.Arrival))
	case strings.Count(x.Use, ",") >= 10:
		return nil, errors.New("ten layers of middleware are enough")
	}
	if application, err = wrap(application, x.Use, true); err != nil {
		return nil, err
	}
	arrives := arrivals[way]
	return watch(application, &labConn{pieces: arrives.cut(text), pause: arrives.pause,
		ends: arrives.ends, end: time.Now().Add(labTime)}), nil
}

// watch serves one connection and returns what happens.
func watch(application Application, conn *labConn) []event {
	server := newServer(application)
	server.ErrorLog, server.MaxBody = log.New(io.Discard, "", 0), 1<<20
	server.setAddr(labServer)
	var told eventLog
	server.Trace = func() *recorder { return newRecorder(conn.now, told.add) }
	server.serveConn(conn)
	return told.events
}

// An eventLog collects events, up to the limits.
type eventLog struct {
	mu     sync.Mutex
	events []event
	data   int
}

func (c *eventLog) add(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.data += len(e.Data); c.data > labData {
		e.Data = nil
		e.Text += " (not shown: there were too many before)"
	}
	if len(c.events) == labEvents {
		e = event{At: e.At, Kind: "enough", Text: "The rest is not shown."}
	}
	if len(c.events) <= labEvents {
		c.events = append(c.events, e)
	}
}

var (
	labServer = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8000}
	labClient = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 49152}
)

// A labConn is the server's end of a connection to a client that follows a script. It does
// not wait for pauses and deadlines to pass: its clock does.
type labConn struct {
	pieces []string      // to come
	pause  time.Duration // before each
	inside bool          // a part of the first piece has been read
	ends   bool          // after the last piece the client ends its half; otherwise it waits
	passed time.Duration // by which its clock is ahead
	left   time.Duration // until a read fails
	shut   bool          // the server has ended its half, so the client will end its own
	end    time.Time     // when the experiment must be over
}

func (c *labConn) now() time.Time { return time.Now().Add(c.passed) }

// wait lets time pass, until the deadline at most.
func (c *labConn) wait(d time.Duration) error {
	if d > c.left {
		c.passed, c.left = c.passed+c.left, 0
		return os.ErrDeadlineExceeded
	}
	c.passed, c.left = c.passed+d, c.left-d
	return nil
}

func (c *labConn) Read(p []byte) (int, error) {
	for len(c.pieces) > 0 && c.pieces[0] == "" {
		c.pieces, c.inside = c.pieces[1:], false
	}
	if len(c.pieces) == 0 {
		if c.ends || c.shut {
			return 0, io.EOF
		}
		return 0, c.wait(math.MaxInt64)
	}
	if !c.inside {
		if err := c.wait(c.pause); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pieces[0])
	c.pieces[0], c.inside = c.pieces[0][n:], true
	return n, nil
}

// Write takes everything: the recorder has seen it.
func (c *labConn) Write(p []byte) (int, error) {
	if time.Now().After(c.end) {
		return 0, os.ErrDeadlineExceeded
	}
	return len(p), nil
}

// SetReadDeadline sets how much time may pass. Less than 10 ms have, between time.Now and here.
func (c *labConn) SetReadDeadline(t time.Time) error {
	c.left = max(0, time.Until(t).Round(10*time.Millisecond))
	return nil
}

func (c *labConn) SetWriteDeadline(time.Time) error { return nil }
func (c *labConn) SetDeadline(time.Time) error      { return nil }
func (c *labConn) CloseWrite() error                { c.shut = true; return nil }
func (c *labConn) Close() error                     { return nil }
func (c *labConn) LocalAddr() net.Addr              { return labServer }
func (c *labConn) RemoteAddr() net.Addr             { return labClient }

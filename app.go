// app.go: the other side of the interface, applications and middleware.
//
// An application takes an environ and a startResponse and returns a body. It imports no
// server, and any gateway can run it. Middleware is a function from an application to an
// application: towards the gateway it is an application, towards the application it is a
// gateway. (PEP 3333, "Middleware: Components that Play Both Sides")
//
// The two tables at the top are what -app and -use choose from; add yours there. The
// parts of this file, each under a heading of its name:
//
//	Applications   from hello to a form and a directory of files: each shows one thing
//	CGI host       starts a program for each request
//	Proxy          forwards each request to another server
//	Middleware     log, onion, upper, catch, auth
//	Validate       the middleware that checks both sides against PEP 3333
//	Watching       the recorder, and the narrator of -trace
//	Lab            a page that shows what becomes of each byte
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
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
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

// Application is what a gateway calls, once for each request: a function, a method value
// or a closure, as in Python a function, a bound method or an object with __call__.
// (PEP 3333, "The Application/Framework Side")
type Application func(environ Environ, startResponse StartResponse) Body

// Middleware wraps an application.
type Middleware func(Application) Application

// An entry is an application with its name, its source and chapter, a command to try it,
// in which URL stands for the place where it is mounted, and a line about it.
type entry struct {
	name, from, try string
	app             Application
	about           string
}

// Config is what some applications need from the command line.
type Config struct {
	Root     string        // the directory of files
	Script   string        // the CGI program of cgi, or a directory of them
	Programs int           // CGI programs that run at once; 0 means 64
	Upstream string        // the servers behind proxy, host:port,host:port
	Timeout  time.Duration // for a CGI program or an upstream
	Trace    bool          // a narrator watches the applications
	Brief    bool          // the narrator tells the most important steps only
	OpenLab  bool          // other machines may use the lab
}

// applications returns all of them, in the order in which they are best met.
func applications(c Config) []entry {
	entries := []entry{
		{"hello", "PEP 3333, chapter 8", "curl -i URL", hello,
			"The smallest application: a function that returns one block."},
		{"class", "PEP 3333, chapter 8", "curl -i URL", class,
			"The body is an object; it calls startResponse when its blocks are asked for."},
		{"environ", "PEP 3333, chapter 7", "curl -d name=value 'URL/path?a=4&b=4'", environ,
			"Prints what an application knows of its request, and how long the body was."},
		{"write", "PEP 3333, chapter 8", "curl -i URL", write,
			"The imperative way: startResponse returns a writer."},
		{"clock", "PEP 3333, chapter 8", "curl -N URL", clock,
			"A generator: ten blocks, one each second, each sent at once."},
		{"echo", "PEP 3333, chapter 5", "curl --data-binary @README.md URL", echo,
			"Sends the body of the request back, block by block."},
		{"errors", "PEP 3333, chapter 8", "curl -i URL/before URL/after URL/excinfo", failing,
			"Fails before its head is sent, or after it, or changes its mind in time."},
		{"form", "the cgi module, chapter 10", "curl -F name=value -F file=@README.md URL", form,
			"Takes a form and an upload apart and shows the fields."},
		{"files", "RFC 1945, chapter 10", "curl -i URL/", newFiles(c.Root),
			"A directory (-root), sent with wsgi.file_wrapper and If-Modified-Since."},
		{"mount", "mod_wsgi's WSGIScriptAlias, chapter 10", "curl URL/a/x URL/b/x",
			mount(map[string]Application{"/a": watched("environ", environ),
				"/b": watched("hello", hello)}, environ),
			"Two applications side by side: the path moves to SCRIPT_NAME."},
		{"proxy", "RFC 9110, chapter 13", "curl -i URL/", newProxy(c.Upstream, c.Timeout),
			"Forwards to other servers (-upstream), in turn, over HTTP/1.0."},
		{"cgi", "RFC 3875, chapter 11", "curl -i URL",
			newCGI(c.Script, c.Timeout, c.Programs), "Runs a CGI program (-script) for each request."},
	}
	entries = append(entries, entry{"lab", "our own, chapter 0", "open URL in a browser",
		newLab(entries, c.OpenLab), "Type raw bytes, and watch what becomes of each."})
	routes := map[string]Application{}
	for i, entry := range entries {
		if c.Trace {
			entry.app = watched(entry.name, entry.app)
			entries[i] = entry
		}
		routes["/"+entry.name] = entry.app
	}
	gallery := mount(routes, newIndex(entries))
	if c.Trace {
		gallery = watched("gallery", gallery)
	}
	return append(entries, entry{"gallery", "our own, chapter 0", "curl -i URL", gallery,
		"The default: all of these, mounted under their names, with an index page."})
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
	{"catch", "Turns a panic into an error page, with the stack for this machine only.",
		catch},
	{"auth", "Asks for a user and password (reader, wsgi).", auth},
	{"validate", "Checks both sides against PEP 3333, and names the one that breaks a rule.",
		validate},
}

// withMiddleware puts middleware around an application. The first name is the outermost
// layer, so it is wrapped around last.
func withMiddleware(application Application, use string, trace bool) (Application, error) {
	if use == "" {
		return application, nil
	}
	for _, name := range slices.Backward(strings.Split(use, ",")) {
		middleware, err := findMiddleware(name)
		if err != nil {
			return nil, err
		}
		application = middleware(application)
		if trace {
			application = watched(name, application)
		}
	}
	return application, nil
}

// findMiddleware returns the middleware of that name, or an error that lists all.
func findMiddleware(name string) (Middleware, error) {
	var names []string
	for _, middleware := range middlewares {
		if middleware.name == name {
			return middleware.wrap, nil
		}
		names = append(names, middleware.name)
	}
	return nil, fmt.Errorf("no middleware is called %q; there are %s", name,
		strings.Join(names, ", "))
}

// ---------------------------------------------------------------- Applications

// textPlain is the header of a plain text. A browser first waits for enough bytes to guess
// the type; nosniff tells it to show each block as it comes, and never to guess.
var (
	textPlain  = []Header{{"Content-Type", "text/plain; charset=utf-8"}}
	textAtOnce = []Header{textPlain[0], nosniff}
	nosniff    = Header{"X-Content-Type-Options", "nosniff"}
)

// hello is the smallest application.
func hello(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", textPlain)
	return Blocks{[]byte("Hello, World!\n")}
}

// class returns an object and has done nothing else. The gateway's first step into the
// loop of All runs startResponse, which PEP 3333 allows.
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

// environ reads the request's body and prints its environ, sorted, then the body's length
// and checksum, so that a client can check that it arrived whole.
func environ(environ Environ, startResponse StartResponse) Body {
	sum := sha256.New()
	length, err := io.Copy(sum, environ["wsgi.input"].(io.Reader))
	if err != nil {
		panic(err) // the gateway answers a body cut short with 400, a slow one with 408
	}
	startResponse("200 OK", textAtOnce)
	var page bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		switch value := environ[key].(type) {
		case *layer: // of the lab or -trace: hides its own key
		case string, bool, [2]int:
			fmt.Fprintf(&page, "%s: %v\n", key, value)
		default: // the type of wsgi.input says more than its address
			fmt.Fprintf(&page, "%s: %T\n", key, value)
		}
	}
	fmt.Fprintf(&page, "BODY-LENGTH: %d\nBODY-SHA256: %x\n", length, sum.Sum(nil))
	return Blocks{page.Bytes()}
}

// write sends its body through the writer that startResponse returns, for programs that
// print as they go and cannot become a generator. (PEP 3333, "The write() Callable")
func write(environ Environ, startResponse StartResponse) Body {
	out := startResponse("200 OK", textAtOnce)
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
// block is sent before the next is asked for. A generator in Python cleans up when it is
// closed; here defer does, at the end or when the client has left.
func newClock(ticks int, pause time.Duration) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		startResponse("200 OK", textAtOnce)
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

// echo sends back the body that it reads, and never holds more than one block of it.
func echo(environ Environ, startResponse StartResponse) Body {
	length, method := environ.Get("CONTENT_LENGTH"), environ.Get("REQUEST_METHOD")
	if length == "" && (method == "GET" || method == "HEAD") {
		place := escapePath(cmp.Or(environ.Get("SCRIPT_NAME"), "/"))
		return htmlPage(startResponse, "echo", baseURL(environ)+place)
	}
	headers := []Header{{"Content-Type", "application/octet-stream"}}
	if length != "" {
		headers = append(headers, Header{"Content-Length", length})
	}
	startResponse("200 OK", headers)
	return readBlocks(environ["wsgi.input"].(io.Reader), pieceSize)
}

// failing fails in three ways. (PEP 3333, "Error Handling")
func failing(environ Environ, startResponse StartResponse) Body {
	mounted := escapePath(environ.Get("SCRIPT_NAME"))
	switch environ.Get("PATH_INFO") {
	case "/before": // nothing is sent yet: the gateway answers 500
		panic(errors.New("the application failed before its head was sent"))
	case "/after": // too late for a 500: the gateway hangs up
		startResponse("200 OK", textAtOnce)
		return Stream(func(yield func([]byte) bool) {
			yield([]byte("This page will never be comp"))
			panic(errors.New("the application failed after its head was sent"))
		})
	case "/excinfo": // the application makes its own error page, while it still can
		startResponse("200 OK", textAtOnce)
		err := errors.New("the database is on fire")
		startResponse("503 Service Unavailable", textAtOnce, err)
		return Blocks{[]byte("Sorry: " + err.Error() + "\n")}
	case "", "/":
		return htmlPage(startResponse, "errors", mounted) // links to the three
	}
	return notFound(startResponse, "Try before, after or excinfo under "+mounted+"/")
}

// plainly answers with a line of text.
func plainly(startResponse StartResponse, status, text string, more ...Header) Body {
	startResponse(status, slices.Concat(textAtOnce, more))
	return Blocks{[]byte(text + "\n")}
}

// notFound answers 404 and says what could be asked instead.
func notFound(startResponse StartResponse, hint string) Body {
	return plainly(startResponse, "404 Not Found", "Nothing here. "+hint)
}

// unavailable answers 503 to a request that this server could serve at another time.
func unavailable(startResponse StartResponse, reason string) Body {
	return plainly(startResponse, "503 Service Unavailable", reason,
		Header{"Retry-After", "1"})
}

// mount puts applications side by side, each under the prefix that is its key: "/app"
// has /app, /app/ and /app/x, but not /application. The longest prefix that fits wins. It
// moves from PATH_INFO, the path that the application may interpret, to SCRIPT_NAME, the
// place where the application is:
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
		info := environ.Get("PATH_INFO")
		for _, prefix := range prefixes {
			rest, ok := strings.CutPrefix(info, prefix)
			if ok && (rest == "" || rest[0] == '/') {
				environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + prefix
				environ["PATH_INFO"] = rest
				return routes[prefix](environ, startResponse)
			}
		}
		return fallback(environ, startResponse)
	}
}

//go:embed docs/pages.html
var pageTemplates string

var pages = template.Must(template.New("").Parse(pageTemplates))

// htmlPage answers with a page of docs/pages.html, filled with data. The page says that
// it is UTF-8; what a client or a file system has given need not be.
func htmlPage(startResponse StartResponse, name string, data any) Body {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		panic(err) // the template does not fit the data
	}
	startResponse("200 OK", []Header{{"Content-Type", "text/html; charset=utf-8"}, nosniff})
	return Blocks{bytes.ToValidUTF8(page.Bytes(), []byte("\uFFFD"))}
}

// headings are those of the index, each above the first application of its group.
var headings = map[string]string{"hello": "The interface", "form": "What web applications do",
	"mount": "Applications made of others", "lab": "Watch it"}

// chapters are the pages of the course in docs that show an application, by their number.
var chapters = map[string]string{"0": "00-map.md", "5": "05-body.md", "7": "07-environ.md",
	"8": "08-start-response.md", "10": "10-middleware.md", "11": "11-cgi.md",
	"13": "13-in-front-and-behind.md"}

// An indexItem is an application on the index. Page is its chapter, shown by files.
type indexItem struct{ Heading, Link, Name, From, Chapter, Page, About, Try, Lab string }

// newIndex makes the page of the gallery. The page loads nothing else, not even an icon.
func newIndex(entries []entry) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		mounted := environ.Get("SCRIPT_NAME")
		if info := environ.Get("PATH_INFO"); info != "/" && info != "" {
			return notFound(startResponse, "The index is at "+escapePath(mounted)+"/")
		}
		var items []indexItem
		for _, entry := range entries {
			place := escapePath(mounted + "/" + entry.name)
			from, chapter, _ := strings.Cut(entry.from, ", chapter ")
			items = append(items, indexItem{Heading: headings[entry.name], Link: place,
				Name: entry.name, From: from, Chapter: chapter, About: entry.about,
				Page: escapePath(mounted + "/files/" + chapters[chapter]),
				Lab:  labLink(escapePath(mounted+"/lab"), entry.name),
				Try:  strings.ReplaceAll(entry.try, "URL", baseURL(environ)+place)})
		}
		return htmlPage(startResponse, "index", items)
	}
}

// escapePath reverses the gateway's decoding of PATH_INFO.
func escapePath(decoded string) string { return (&url.URL{Path: decoded}).EscapedPath() }

// baseURL reconstructs the front of the URL that the client asked for. Host, if there is
// one, is the name by which the client calls this server. (PEP 3333, "URL
// Reconstruction")
func baseURL(environ Environ) string {
	host := environ.Get("HTTP_HOST")
	if host == "" {
		host = environ.Get("SERVER_NAME") + ":" + environ.Get("SERVER_PORT")
	}
	return environ.Get("wsgi.url_scheme") + "://" + host
}

// form shows the fields that a browser makes of a form: the query string, a body in the
// coding of query strings, or a body of parts with files in it. What is broken or too
// large is refused, and a file passes by without being held.
func form(environ Environ, startResponse StartResponse) Body {
	fields, err := readForm(environ)
	if err != nil {
		panic(err) // a *Refusal, which the gateway answers with its status
	}
	return htmlPage(startResponse, "form", fields)
}

// A formField is one line of the table that form shows.
type formField struct{ From, Name, Value string }

// Limits of a form.
const (
	formBytes  = 1 << 20 // in an urlencoded body, which is held in memory
	formFields = 10000   // in a query string or an urlencoded body
	formParts  = 1000    // in a body of parts
	partHead   = 1 << 13 // bytes in the head of one part
	partBytes  = 1000    // of each part are shown
	nameBytes  = 1 << 16 // in the names of all parts, of files and of types
)

// tooLargeForm refuses a form that is over one of its limits.
func tooLargeForm(format string, limit int) *Refusal {
	return refuse(tooLarge, "RFC 9110 §15.5.14", "", 0, format, limit)
}

// readForm takes query string and body apart. Its errors are *Refusals.
func readForm(environ Environ) ([]formField, error) {
	fields, err := readQuery("query", environ.Get("QUERY_STRING"))
	if err != nil {
		return nil, err
	}
	input := environ["wsgi.input"].(io.Reader)
	kind, params, _ := mime.ParseMediaType(environ.Get("CONTENT_TYPE")) // "" if malformed
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, refuse("415 Unsupported Media Type", "RFC 9110 §15.5.16", "", 0,
			"expected a form in UTF-8, as the page asks for, got charset=%s", quote(charset))
	}
	var more []formField
	switch kind {
	case "application/x-www-form-urlencoded":
		more, err = readCoded(input)
	case "multipart/form-data":
		more, err = readParts(input, params["boundary"])
	}
	return append(fields, more...), err
}

// readCoded reads a body in the coding of query strings.
func readCoded(input io.Reader) ([]formField, error) {
	body, err := io.ReadAll(io.LimitReader(input, formBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > formBytes {
		return nil, tooLargeForm("a form may have %d bytes; send files as "+
			"multipart/form-data", formBytes)
	}
	return readQuery("body", string(body))
}

// readQuery takes "a=1&b=%20" apart: names in order, values as they came.
func readQuery(from, text string) (fields []formField, err error) {
	if strings.Count(text, "&") >= formFields { // more than url.ParseQuery takes
		return nil, tooLargeForm("a form may have %d fields", formFields)
	}
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, refuse(badRequest, "HTML 4.01 §17.13.4", "", 0,
			"expected name=value&name=value, escaped as in a URL: %s", quote(err.Error()))
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		for _, value := range values[name] {
			fields = append(fields, formField{from, name, value})
		}
	}
	return fields, nil
}

// readParts goes through the parts of a body and keeps the beginning of each.
func readParts(input io.Reader, boundary string) (fields []formField, err error) {
	limited := &headLimit{Reader: input}
	reader := multipart.NewReader(limited, boundary)
	names := 0
	for len(fields) < formParts {
		limited.inHead, limited.allowed = true, partHead
		part, err := reader.NextPart()
		limited.inHead = false
		if err == io.EOF {
			return fields, nil
		}
		if err != nil {
			return nil, badPart(err)
		}
		names += len(part.Header.Get("Content-Disposition"))
		names += len(part.Header.Get("Content-Type"))
		if names > nameBytes {
			return nil, tooLargeForm("the names in a form may have %d bytes", nameBytes)
		}
		field, err := readPart(part)
		if err != nil {
			return nil, badPart(err)
		}
		fields = append(fields, field)
	}
	return nil, tooLargeForm("a form may have %d parts", formParts)
}

// readPart keeps the beginning of a part and reads the rest.
func readPart(part *multipart.Part) (formField, error) {
	start, err := io.ReadAll(io.LimitReader(part, partBytes))
	if err != nil {
		return formField{}, err
	}
	rest, err := io.Copy(io.Discard, part)
	value := string(start)
	if file := part.FileName(); file != "" {
		value = fmt.Sprintf("the file %s, %d bytes of %s", file, int64(len(start))+rest,
			part.Header.Get("Content-Type"))
	} else if rest > 0 {
		value += "…"
	}
	return formField{"part", part.FormName(), value}, err
}

// badPart returns a refusal for an error of mime/multipart: the *Refusal in it, if the body
// did not arrive whole or the head of a part is too large, otherwise a 400.
func badPart(err error) *Refusal {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	return refuse(badRequest, "RFC 7578 §4", "", 0, "a part cannot be read: %s", quote(err.Error()))
}

// A headLimit limits the head of each part of a body, of which mime/multipart alone would
// hold 10 MB. That package reads ahead, so the limit counts the bytes that it reads
// between the end of one part and the end of the next head.
type headLimit struct {
	io.Reader
	inHead  bool
	allowed int // bytes, while inHead
}

func (h *headLimit) Read(p []byte) (int, error) {
	if !h.inHead {
		return h.Reader.Read(p)
	}
	if h.allowed == 0 {
		return 0, tooLargeForm("the head of a part may have %d bytes", partHead)
	}
	n, err := h.Reader.Read(p[:min(len(p), h.allowed)])
	h.allowed -= n
	return n, err
}

// newFiles makes an application that serves the files of a directory and never leaves
// it: os.Root refuses each way out, by "..", by an escape or by a symbolic link.
func newFiles(directory string) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if method := environ.Get("REQUEST_METHOD"); method != "GET" && method != "HEAD" {
			return plainly(startResponse, "405 Method Not Allowed",
				"A file can only be read.", Header{"Allow", "GET, HEAD"})
		}
		root, err := os.OpenRoot(directory)
		if errors.Is(err, os.ErrNotExist) {
			return notFound(startResponse, "The server's -root does not exist.")
		}
		if err != nil {
			return cannotServe(environ, startResponse, err)
		}
		defer root.Close() // files opened below stay open
		return servePath(root, environ, startResponse)
	}
}

// servePath serves the file or directory that PATH_INFO names.
func servePath(root *os.Root, environ Environ, startResponse StartResponse) Body {
	info := environ.Get("PATH_INFO")
	name := cmp.Or(strings.Trim(info, "/"), ".")
	slash := strings.HasSuffix(info, "/")
	stat, err := root.Stat(name)
	switch {
	case err != nil:
		return cannotServe(environ, startResponse, err)
	case stat.IsDir() && !slash:
		return redirect(environ, startResponse, environ.Get("SCRIPT_NAME")+info+"/")
	case stat.IsDir():
		return serveDirectory(root, name, environ, startResponse)
	case slash || !stat.Mode().IsRegular(): // a pipe or a device could block for ever
		return cannotServe(environ, startResponse, os.ErrNotExist)
	}
	return serveFile(root, name, environ, startResponse)
}

// cannotServe answers for a file that cannot be opened: 403 if this server may not, 503
// if too many files are open, otherwise 404, so that nobody learns which files exist
// outside the directory.
func cannotServe(environ Environ, startResponse StartResponse, err error) Body {
	switch {
	case errors.Is(err, os.ErrPermission):
		return plainly(startResponse, "403 Forbidden", "This server may not read it.")
	case outOfFiles(err):
		return tooManyFiles(environ, startResponse, err)
	}
	return notFound(startResponse, "No file has this name.")
}

// outOfFiles reports whether this process, or the whole system, has too many open files.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// tooManyFiles logs that and answers 503: nobody else is at fault.
func tooManyFiles(environ Environ, startResponse StartResponse, err error) Body {
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "503: %v\n", err)
	return unavailable(startResponse, "Too many files are open: try again.")
}

// redirect sends the client to another path of this server. RFC 1945 §10.11 wants a whole
// URL.
func redirect(environ Environ, startResponse StartResponse, to string) Body {
	location := baseURL(environ) + escapePath(to)
	if query := environ.Get("QUERY_STRING"); query != "" {
		location += "?" + query
	}
	return plainly(startResponse, "301 Moved Permanently",
		"A directory ends with a slash: see the header Location.",
		Header{"Location", location})
}

// serveFile sends a file, or 304 if the client has it already. (RFC 1945 §10.9)
func serveFile(root *os.Root, name string, environ Environ,
	startResponse StartResponse) Body {
	file, err := root.Open(name)
	if err != nil {
		return cannotServe(environ, startResponse, err)
	}
	stat, err := file.Stat()
	if err != nil {
		panic(err)
	}
	modified := stat.ModTime().UTC().Truncate(time.Second)
	if now := time.Now().UTC(); modified.After(now) {
		modified = now // an answer is not older than the file in it (RFC 1945 §10.10)
	}
	headers := []Header{{"Last-Modified", modified.Format(httpDate)}}
	if !modifiedSince(modified, environ) {
		file.Close()
		startResponse("304 Not Modified", headers)
		return Blocks{}
	}
	headers = append(headers, Header{"Content-Type", contentType(name)}, nosniff)
	startResponse("200 OK", headers)
	if wrapper, ok := environ["wsgi.file_wrapper"].(func(io.Reader, ...int) Body); ok {
		return wrapper(file)
	}
	return newFileWrapper(file) // a gateway need not have one
}

// contentType guesses the type of a file from its name.
func contentType(name string) string {
	switch extension := path.Ext(name); extension {
	case ".md", ".go":
		return textPlain[0].Value // so that browsers show them
	default:
		return cmp.Or(mime.TypeByExtension(extension), "application/octet-stream")
	}
}

// httpDate is the form of dates that HTTP prefers.
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// parseDate reads a date in this form or in one of the two that HTTP had before. (RFC
// 9110 §5.6.7)
func parseDate(text string) (date time.Time, err error) {
	for _, layout := range []string{httpDate, "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC} {
		if date, err = time.Parse(layout, text); err == nil {
			break
		}
	}
	return date, err
}

// modifiedSince reports whether a file was modified after the client's copy. The answer
// is yes without a date that can be read and is not in the future; and with
// If-None-Match, for which a server ignores the date. (RFC 1945 §10.9; RFC 9110 §13.1.3)
func modifiedSince(modified time.Time, environ Environ) bool {
	since, err := parseDate(environ.Get("HTTP_IF_MODIFIED_SINCE"))
	return err != nil || environ["HTTP_IF_NONE_MATCH"] != nil ||
		modified.After(since) || since.After(time.Now())
}

// A listing is the page of a directory. Its links are relative and escaped.
type listing struct {
	Path  string
	Items []struct{ Link, Name string }
}

// serveDirectory sends the directory's index.html, or a list of its files and
// directories. The list leaves out what servePath always refuses: links that lead out or
// nowhere, pipes and devices.
func serveDirectory(root *os.Root, name string, environ Environ,
	startResponse StartResponse) Body {
	index := path.Join(name, "index.html")
	if stat, err := root.Stat(index); err == nil && stat.Mode().IsRegular() {
		return serveFile(root, index, environ, startResponse)
	}
	directory, err := root.Open(name)
	if err != nil {
		return cannotServe(environ, startResponse, err)
	}
	defer directory.Close()
	names, err := directory.Readdirnames(-1)
	if err != nil {
		panic(err)
	}
	slices.Sort(names)
	list := listing{Path: environ.Get("PATH_INFO")}
	for _, item := range names {
		stat, err := root.Stat(path.Join(name, item))
		if err != nil || !stat.IsDir() && !stat.Mode().IsRegular() {
			continue
		}
		slash := ""
		if stat.IsDir() {
			slash = "/"
		}
		list.Items = append(list.Items, struct{ Link, Name string }{
			url.PathEscape(item) + slash, item + slash})
	}
	return htmlPage(startResponse, "listing", list)
}

// ---------------------------------------------------------------- CGI host

// A cgiHost is the host's side of CGI: an application that starts a program for each
// request. (RFC 3875)
type cgiHost struct {
	script  string // the program, or a directory of programs
	timeout time.Duration
	slots   chan bool // holds a value for each program that runs
}

// newCGI makes the application; programs is how many may run at once, 0 means 64.
func newCGI(script string, timeout time.Duration, programs int) Application {
	h := &cgiHost{script, timeout, make(chan bool, cmp.Or(programs, 64))}
	return h.app
}

// app runs the program that the request names.
func (h *cgiHost) app(environ Environ, startResponse StartResponse) Body {
	if h.script == "" {
		return htmlPage(startResponse, "cgi", nil) // says how to name one
	}
	program, stat, err := h.find(environ)
	switch {
	case errors.Is(err, errNoName):
		return notFound(startResponse, "Name a program after "+
			escapePath(environ.Get("SCRIPT_NAME"))+"/")
	case err != nil:
		return cannotServe(environ, startResponse, err)
	case !stat.Mode().IsRegular() || runtime.GOOS != "windows" && stat.Mode()&0o111 == 0:
		return plainly(startResponse, "403 Forbidden", "This is not a program.")
	}
	return h.run(program, environ, startResponse)
}

var errNoName = errors.New("the path does not begin with the name of a program")

// find returns the path of the program. If there is a directory of them, the first
// segment of PATH_INFO is the name, and moves to SCRIPT_NAME.
func (h *cgiHost) find(environ Environ) (program string, stat os.FileInfo, err error) {
	if program, err = filepath.Abs(h.script); err != nil {
		return "", nil, err
	}
	stat, err = os.Stat(program)
	if err != nil || !stat.IsDir() {
		return program, stat, err
	}
	name, rest, slash := strings.Cut(strings.TrimPrefix(environ.Get("PATH_INFO"), "/"), "/")
	if name == "" || !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) {
		return "", nil, errNoName
	}
	if slash {
		rest = "/" + rest
	}
	environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + "/" + name
	environ["PATH_INFO"] = rest
	program = filepath.Join(program, name)
	stat, err = os.Lstat(program) // a link could lead out of the directory
	return program, stat, err
}

// run starts a program, gives it the request, and passes on its answer.
func (h *cgiHost) run(program string, environ Environ, startResponse StartResponse) Body {
	input, err := spool(environ)
	if outOfFiles(err) {
		return tooManyFiles(environ, startResponse, err)
	}
	if err != nil {
		panic(err)
	}
	defer input.Close() // the program has its own descriptor
	select {
	case h.slots <- true: // until script.wait takes it out
	default:
		return unavailable(startResponse, "Too many CGI programs run at once: try again.")
	}
	s, err := h.start(program, input, environ)
	if err != nil {
		<-h.slots
	}
	if errors.Is(err, syscall.E2BIG) {
		panic(refuse(headTooLarge, "RFC 6585 §5", "", 0, "the target and the header fields are "+
			"the program's environment, and larger than this system allows"))
	}
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	body, err := s.answer(environ, startResponse)
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	return body
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
	// On Unix, the file without a name lives while it is open, whatever happens to us. On
	// Windows this fails, and the file stays.
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
	host     *cgiHost
	command  *exec.Cmd
	output   *os.File
	problems *os.File  // its standard error
	ended    chan bool // closed when it and its child processes have ended
}

// scripts are the CGI programs that run: the keys are *script.
var scripts sync.Map

// endScripts ends them all, before this program ends.
func endScripts() {
	scripts.Range(func(s, _ any) bool {
		s.(*script).kill()
		return true
	})
}

// start starts the program in its directory, with a small clean environment and in a
// process group of its own.
func (h *cgiHost) start(program string, input *os.File, environ Environ) (*script, error) {
	output, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close() // the program has its own
	problems, stderr, err := os.Pipe()
	if err != nil {
		output.Close()
		return nil, err
	}
	defer stderr.Close()
	s := &script{host: h, command: exec.Command(program), output: output, problems: problems,
		ended: make(chan bool)}
	s.command.Dir = filepath.Dir(program)
	s.command.Env = cgiVariables(program, environ)
	s.command.Stdin, s.command.Stdout, s.command.Stderr = input, stdout, stderr
	s.command.SysProcAttr = ownGroup()
	if err := s.command.Start(); err != nil {
		output.Close()
		problems.Close()
		return nil, err
	}
	scripts.Store(s, nil)
	go s.wait(environ["wsgi.errors"].(io.Writer))
	return s, nil
}

// answer reads the head of the program's answer and returns its body, which ends the
// program when it is closed.
func (s *script) answer(environ Environ, startResponse StartResponse) (body Body, err error) {
	defer func() {
		if body == nil { // an error, or a panic
			s.stop(100 * time.Millisecond)
		}
	}()
	h := &headReader{r: bufio.NewReader(s)}
	fields, err := readHeader(h)
	if err != nil {
		return nil, err
	}
	location, _ := lookup(fields, "Location")
	if strings.HasPrefix(location, "/") && len(fields) == 1 {
		s.stop(100 * time.Millisecond) // the other path may be a program of this host too
		return localRedirect(location, environ, startResponse)
	}
	status, headers, err := cgiHead(fields)
	if err != nil {
		return nil, err
	}
	startResponse(status, headers)
	return newFileWrapper(upstreamBody{h.r, s}, pieceSize), nil
}

// wait logs the program's standard error and how it ends, and ends its child processes.
func (s *script) wait(errorLog io.Writer) {
	copied := make(chan bool)
	go func() {
		io.Copy(errorLog, s.problems) // ends with the program, or when we close it
		close(copied)
	}()
	if err := s.command.Wait(); err != nil {
		fmt.Fprintf(errorLog, "%s: %v\n", s.command.Path, err)
	}
	s.kill()
	scripts.Delete(s)
	select {
	case <-copied:
	case <-time.After(time.Second): // a process has left the group and keeps it open
	}
	s.problems.Close()
	<-copied
	<-s.host.slots
	close(s.ended)
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
	select {
	case <-s.ended: // and its process number may be another's by now
		return
	default:
	}
	pid := -s.command.Process.Pid
	if runtime.GOOS == "windows" {
		pid = -pid
	}
	if processes, err := os.FindProcess(pid); err == nil {
		processes.Kill() // fails if all have ended, as they should
	}
}

// Read reads from the program's output, and kills a program that has been silent for too
// long. (Not on Windows, where pipes have no deadlines.)
func (s *script) Read(p []byte) (int, error) {
	// An error would mean that output is closed, and Read fails as well.
	s.output.SetReadDeadline(time.Now().Add(s.host.timeout))
	n, err := s.output.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.kill()
		err = fmt.Errorf("%s: waited %v: %w", s.command.Path, s.host.timeout, err)
	}
	return n, err
}

// Close reads the rest of the output and throws it away, so that the program can do its
// work to the end although its answer has been cut, by HEAD or by its own Content-Length.
// There is a limit, for the client may have left. (RFC 3875 §6.4)
func (s *script) Close() error {
	s.output.SetReadDeadline(time.Now().Add(s.host.timeout)) // for all of it
	io.CopyN(io.Discard, s.output, drainLimit)               // an error ends it as well
	s.stop(s.host.timeout)
	return nil
}

// stop gives the program some time to end by itself, and then ends it.
func (s *script) stop(grace time.Duration) {
	s.output.Close() // an error would mean that it is closed already
	select {
	case <-s.ended:
	case <-time.After(grace):
		s.kill()
		<-s.ended
	}
}

// cgiNames are the variables of RFC 3875 §4.1 that environ may have, and two more that
// are usual, beside HTTP_*.
var cgiNames = []string{"AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE",
	"PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_USER",
	"REQUEST_METHOD", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL",
	"SERVER_SOFTWARE", "HTTPS", "REMOTE_PORT"}

// cgiVariables makes the environment of a CGI program: CGI's variables of environ, in
// which there may be others if we are a CGI program ourselves, and PATH to find an
// interpreter. Passwords are withheld. (RFC 3875 §4.1, §9.2)
func cgiVariables(program string, environ Environ) []string {
	variables := []string{"PATH=" + os.Getenv("PATH"), "SCRIPT_FILENAME=" + program}
	if root := os.Getenv("SystemRoot"); root != "" {
		variables = append(variables, "SystemRoot="+root) // Windows programs need it
	}
	if info := environ.Get("PATH_INFO"); info != "" {
		below := filepath.FromSlash(path.Clean("/" + info)) // no ".." leads out
		variables = append(variables,
			"PATH_TRANSLATED="+filepath.Join(filepath.Dir(program), below))
	}
	for key, value := range environ {
		text, ok := value.(string)
		public := strings.HasPrefix(key, "HTTP_") &&
			!listed("HTTP_AUTHORIZATION,HTTP_PROXY_AUTHORIZATION,HTTP_PROXY", key)
		empty := key == "CONTENT_LENGTH" && text == "0"
		if ok && !empty && (public || slices.Contains(cgiNames, key)) {
			variables = append(variables, key+"="+text)
		}
	}
	return variables
}

// cgiHead turns the head of a CGI program's answer into a status and headers.
//
//	Status: 404 Gone\n Content-Type: text/plain\n → "404 Gone", [{"Content-Type", …}]
//	Location: http://h/\n                        → "302 Found", [{"Location", …}]
//
// (RFC 3875 §6.2, §6.3)
func cgiHead(fields []Header) (status string, headers []Header, err error) {
	status, hasStatus := lookup(fields, "Status")
	_, isRedirect := lookup(fields, "Location")
	_, hasType := lookup(fields, "Content-Type")
	switch {
	case hasStatus+isRedirect+hasType == 0:
		return "", nil, errors.New("expected Status, Location or Content-Type in the " +
			"answer of a CGI program")
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

// localRedirect answers with another path of this server, as if the client had asked for it.
// It follows at most 10 redirects. (RFC 3875 §6.2.2)
func localRedirect(location string, environ Environ,
	startResponse StartResponse) (Body, error) {
	count, _ := environ["rawsgi.redirects"].(int)
	application, ok := environ["rawsgi.application"].(Application)
	q := &Request{Method: "GET", Target: location}
	err := q.parseTarget()
	switch {
	case count == 10:
		err = errors.New("it comes after 10 others")
	case !ok:
		err = errors.New("the gateway does not name its application")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot follow the local redirect to %s: %w",
			quote(location), err)
	}
	next := maps.Clone(environ)
	next["rawsgi.redirects"] = count + 1
	next["rawsgi.request_uri"] = location
	next["REQUEST_METHOD"], next["SCRIPT_NAME"] = "GET", ""
	next["PATH_INFO"], next["QUERY_STRING"] = q.Path, q.Query
	next["wsgi.input"] = &Input{}
	delete(next, "CONTENT_LENGTH")
	delete(next, "CONTENT_TYPE")
	return application(next, startResponse), nil
}

// An upstreamBody is the body of another program's answer, and the program or connection
// to close after it. If it breaks before its first block, a 502 can still be sent.
type upstreamBody struct {
	io.Reader
	io.Closer
}

func (b upstreamBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = refuse(gatewayStatus(err), "RFC 9110 §15.6.3", "", 0, "the answer broke off: %s",
			quote(err.Error()))
	}
	return n, err
}

// badGateway answers in place of a program or server that did not: 504 if it took too
// long, else 502. If startResponse has stored the head of another answer, this one
// replaces it. Without a file for a pipe or connection, there was nobody to ask.
func badGateway(environ Environ, startResponse StartResponse, err error) Body {
	if outOfFiles(err) {
		return tooManyFiles(environ, startResponse, err)
	}
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "bad gateway: %v\n", err)
	status := gatewayStatus(err)
	startResponse(status, textAtOnce, err)
	return Blocks{[]byte(status + "\n")}
}

func gatewayStatus(err error) string {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "504 Gateway Timeout"
	}
	return "502 Bad Gateway"
}

// endToEnd returns the fields that are not about the connection on which they came, with
// spaces for tabs, which startResponse refuses.
func endToEnd(fields []Header) []Header {
	var kept []Header
	connection := ""
	for _, field := range fields {
		if field.is("Connection") {
			connection += "," + field.Value
		}
	}
	for _, field := range fields {
		if isEndToEnd(connection, field.Name) {
			value := strings.ReplaceAll(field.Value, "\t", " ")
			kept = append(kept, Header{field.Name, value})
		}
	}
	return kept
}

// isEndToEnd reports whether a field is end-to-end. The others are hop-by-hop: those that
// no application may use, those that Connection lists, and Proxy-Connection, which is in
// no RFC. Connection may not list the first three: without its length, a body would be
// read as a request of its own. (RFC 9110 §7.6.1)
func isEndToEnd(connection, name string) bool {
	return listed("Content-Length,Content-Type,Host", name) ||
		!slices.ContainsFunc(hopByHop, Header{Name: name}.is) &&
			!listed(connection, name) && !listed("Proxy-Connection", name)
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

// ---------------------------------------------------------------- Proxy

// A proxy forwards each request to one of several servers, in turn, over HTTP/1.0,
// written by hand like the rest: load balancing and remote processing are the third role
// of middleware in PEP 333's list. RFC 9110 §3.7 calls it a gateway.
type proxy struct {
	servers []string
	timeout time.Duration
	turn    atomic.Uint64
	name    string // in Via, by which this proxy recognises a request that it has forwarded
}

// newProxy makes the application; upstreams is a list of host:port with commas between.
func newProxy(upstreams string, timeout time.Duration) Application {
	p := &proxy{timeout: timeout, name: "rawsgi-" + rand.Text()}
	p.servers = strings.FieldsFunc(upstreams, func(r rune) bool { return r == ',' })
	return p.app
}

// app forwards a request, unless it has come here before: the server that it goes to
// would send it here again, without end. (RFC 9110 §7.6.3)
func (p *proxy) app(environ Environ, startResponse StartResponse) Body {
	if len(p.servers) == 0 {
		return htmlPage(startResponse, "proxy", nil) // says how to name one
	}
	if strings.Contains(environ.Get("HTTP_VIA"), p.name) {
		return plainly(startResponse, "508 Loop Detected",
			"This proxy forwards to itself: see -upstream.")
	}
	c, err := p.dial()
	if err != nil {
		return badGateway(environ, startResponse, fmt.Errorf("no upstream answers: %w", err))
	}
	upstream := &conn{Conn: c, timeout: p.timeout, eachRead: true}
	body, err := p.forward(environ, startResponse, upstream)
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	return body
}

// dial connects to the server whose turn it is, or to the first after it that answers.
func (p *proxy) dial() (c net.Conn, err error) {
	first, count := p.turn.Add(1), uint64(len(p.servers))
	for i := range count {
		c, err = net.DialTimeout("tcp", p.servers[(first+i)%count], p.timeout)
		if err == nil {
			break
		}
	}
	return c, err
}

// forward sends the request to upstream and returns the body of its answer, which closes
// the connection when it is closed.
func (p *proxy) forward(environ Environ, startResponse StartResponse, upstream *conn) (
	body Body, err error) {
	defer func() {
		if body == nil { // an error, or a panic
			upstream.Close()
		}
	}()
	if _, err := io.WriteString(upstream, p.requestHead(environ)); err != nil {
		return nil, err
	}
	// Write has a deadline for each piece. The struct hides ReadFrom, which has one for the
	// whole body and which io.Copy would call.
	out, in := struct{ io.Writer }{upstream}, environ["wsgi.input"].(io.Reader)
	_, err = io.Copy(out, in)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(err) // the client's fault: the gateway answers
	}
	// Any other error is upstream's: it may have answered without reading the whole body.
	h := &headReader{r: bufio.NewReader(upstream)}
	status, headers, err := readAnswer(h)
	if err != nil {
		return nil, err
	}
	length, err := checkHead(status, headers)
	if err != nil {
		return nil, err
	}
	var content io.Reader = h.r
	if length >= 0 {
		content = &Input{r: h.r, length: length}
	}
	if environ.Get("REQUEST_METHOD") == "HEAD" || status[:3] == "204" || status[:3] == "304" {
		content = strings.NewReader("") // whatever its Content-Length says
	}
	startResponse(status, headers)
	return newFileWrapper(upstreamBody{content, upstream}, pieceSize), nil
}

// requestHead makes the head of the request to an upstream out of an environ.
func (p *proxy) requestHead(environ Environ) string {
	var b strings.Builder
	method, target := environ.Get("REQUEST_METHOD"), upstreamTarget(environ)
	client := cmp.Or(environ.Get("REMOTE_ADDR"), "unknown") // a Unix socket has none
	version := strings.TrimPrefix(environ.Get("SERVER_PROTOCOL"), "HTTP/")
	fmt.Fprintf(&b, "%s %s HTTP/1.0\r\n", method, target)
	clients := addItem(environ.Get("HTTP_X_FORWARDED_FOR"), client)
	fmt.Fprintf(&b, "X-Forwarded-For: %s\r\n", clients)
	fmt.Fprintf(&b, "X-Forwarded-Proto: %s\r\n", environ.Get("wsgi.url_scheme"))
	fmt.Fprintf(&b, "Via: %s\r\n", addItem(environ.Get("HTTP_VIA"), version+" "+p.name))
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		name, ok := strings.CutPrefix(key, "HTTP_")
		if (key == "CONTENT_TYPE" || key == "CONTENT_LENGTH") && environ.Get(key) != "" {
			name, ok = key, true
		}
		name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if ok && isEndToEnd(environ.Get("HTTP_CONNECTION"), name) &&
			!listed("Expect,X-Forwarded-For,X-Forwarded-Proto,Via", name) {
			fmt.Fprintf(&b, "%s: %s\r\n", name, environ.Get(key))
		}
	}
	return b.String() + "\r\n"
}

// addItem appends an item to a comma-separated list, which may be empty.
func addItem(items, item string) string {
	if items == "" {
		return item
	}
	return items + ", " + item
}

// upstreamTarget returns the target for upstream: the path below SCRIPT_NAME as the
// client sent it, for /a%2Fb and /a/b have the same PATH_INFO and need not be the same to
// upstream. If that path is not PATH_INFO, because middleware has changed one of them or
// the client sent a whole URL, PATH_INFO is escaped.
func upstreamTarget(environ Environ) string {
	info := environ.Get("PATH_INFO")
	sent, _, _ := strings.Cut(environ.Get("rawsgi.request_uri"), "?")
	target := strings.TrimPrefix(sent, escapePath(environ.Get("SCRIPT_NAME")))
	decoded, err := url.PathUnescape(target)
	if err != nil || decoded != info || !strings.HasPrefix(target, "/") {
		target = cmp.Or(escapePath(info), "/")
	}
	if query := environ.Get("QUERY_STRING"); query != "" {
		target += "?" + query
	}
	return target
}

// readAnswer reads the head of an upstream's answer. It skips the heads of interim answers,
// such as 100 Continue and 103 Early Hints, but not a 101, for which nobody has asked.
// (RFC 9110 §15.2)
func readAnswer(h *headReader) (status string, headers []Header, err error) {
	for range 11 {
		if status, err = readStatusLine(h); err != nil {
			return "", nil, err
		}
		fields, err := readHeader(h)
		if err != nil {
			return "", nil, err
		}
		if strings.HasPrefix(status, "1") && !strings.HasPrefix(status, "101") {
			continue
		}
		if coding, n := lookup(fields, "Transfer-Encoding"); n > 0 {
			return "", nil, fmt.Errorf("expected an answer for HTTP/1.0, got "+
				"Transfer-Encoding: %s", quote(coding))
		}
		return status, endToEnd(fields), nil
	}
	return "", nil, errors.New("upstream sends more than 10 interim answers")
}

// readStatusLine reads the first line of an answer.
//
//	"HTTP/1.1 404 Not Found\r\n" → "404 Not Found"
//
// The reason may be missing, its space not, for startResponse; and it has spaces for
// tabs. A line that is not of HTTP/1.x is an error. (RFC 1945 §6.1)
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

// ---------------------------------------------------------------- Middleware

// logging prints what passes between gateway and application to wsgi.errors. It calls the
// application once, and passes each block of the answer on when it has printed it.
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
		return mappedBody{application(environ, start), func(block []byte) []byte {
			text := quote(string(block))
			fmt.Fprintf(out, "log: a block of %d bytes: %s\n", len(block), text)
			return block
		}}
	}
}

// A mappedBody gives what change returns for each block of another body. Its Close passes
// the gateway's call on, as a body around a body has to, and it has no Len: middleware
// should promise nothing about a body that it did not make. (PEP 3333, "Middleware")
type mappedBody struct {
	body   Body
	change func(block []byte) []byte
}

// All gives each block as soon as the other body gives it.
func (b mappedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range blocks(b.body) {
			if !yield(b.change(block)) {
				return
			}
		}
	}
}

// Close closes the other body.
func (b mappedBody) Close() error { return closeBody(b.body) }

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

// upper rewrites a plain text into capitals, a small form of PEP 3333's Latinator.
// Middleware that changes a body must drop its Content-Length and its Len, change written
// blocks as well as returned ones, and pass on a block for each block. (PEP 3333,
// "Middleware", "Block Boundaries")
func upper(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		text := false // known when startResponse is called, maybe in the first iteration
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			kind, _ := lookup(headers, "Content-Type")
			_, coded := lookup(headers, "Content-Encoding") // its bytes are not letters
			text = strings.HasPrefix(strings.ToLower(kind), "text/plain") && coded == 0
			if !text {
				return startResponse(status, headers, excInfo...)
			}
			headers = slices.DeleteFunc(slices.Clone(headers), func(h Header) bool {
				return h.is("Content-Length")
			})
			return upperWriter{startResponse(status, headers, excInfo...)}
		}
		return mappedBody{application(environ, start), func(block []byte) []byte {
			if text {
				block = capitals(block)
			}
			return block
		}}
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

// catch turns a panic of the application into a page. It does not know whether that is
// still possible: it calls startResponse with the error, which panics with that error if
// the head has been sent. The stack is on the page for a client on this machine only.
// (PEP 3333, "Error Handling"; Python's cgitb)
func catch(application Application) Application {
	return func(environ Environ, startResponse StartResponse) (body Body) {
		page := func(reason any) []byte { return failurePage(environ, startResponse, reason) }
		defer func() {
			if reason := recover(); reason != nil {
				body = Blocks{page(reason)}
			}
		}()
		return caughtBody{application(environ, startResponse), page}
	}
}

// failurePage logs a panic, starts the answer anew, and returns its only block.
func failurePage(environ Environ, startResponse StartResponse, reason any) []byte {
	err, ok := reason.(error)
	if !ok {
		err = fmt.Errorf("%v", reason)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(err) // the request is at fault, and the gateway knows what to say
	}
	text := "The application failed: " + failure(err)
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "catch: %s", text)
	startResponse("500 Internal Server Error", textAtOnce, err)
	if !onThisMachine(environ) {
		return []byte("The application failed.\n")
	}
	return []byte(text)
}

// A caughtBody ends with a page in place of a panic.
type caughtBody struct {
	body Body
	page func(reason any) []byte
}

// All gives the blocks of the other body. Only a panic of that body becomes a page, and
// only while more blocks are wanted: the gateway, which works while it has a block, may
// panic too.
func (b caughtBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		catching := true
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			if !catching {
				panic(reason)
			}
			yield(b.page(reason))
		}()
		for block := range blocks(b.body) {
			catching = false
			if !yield(block) {
				return
			}
			catching = true
		}
	}
}

// Close closes the other body.
func (b caughtBody) Close() error { return closeBody(b.body) }

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
			return plainly(startResponse, "401 Unauthorized",
				"Who are you? Try curl -u reader:wsgi",
				Header{"WWW-Authenticate", `Basic realm="rawsgi", charset="UTF-8"`})
		}
		environ["REMOTE_USER"], environ["AUTH_TYPE"] = "reader", "Basic"
		return application(environ, startResponse)
	}
}

// ---------------------------------------------------------------- Validate

// validate stands between a gateway and an application and holds both to PEP 3333. It
// panics at the first breach, with the side that is at fault and the rule. Go's compiler
// has checked the rest of what wsgiref's validator checks: that there are two arguments,
// that status and header values are strings, headers a list of pairs, and blocks bytes.
func validate(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		checkEnviron(environ)
		v := &validator{}
		body := application(environ, v.checkedStart(startResponse))
		expect("application", body != nil, "it returns an iterable, not nil",
			"The Application Side")
		return &validBody{body: body, v: v}
	}
}

// expect panics if a rule does not hold.
func expect(side string, holds bool, rule, section string) {
	if !holds {
		panic(fmt.Errorf("validate: the %s breaks a rule: %s (PEP 3333, %q)",
			side, rule, section))
	}
}

// checkEnviron checks the environ that the gateway has made.
func checkEnviron(environ Environ) {
	gateway := func(holds bool, rule string) {
		expect("gateway", holds, rule, "environ Variables")
	}
	for _, key := range []string{"REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT",
		"SERVER_PROTOCOL"} {
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
	name, info := environ.Get("SCRIPT_NAME"), environ.Get("PATH_INFO")
	gateway(name != "/", "the root's SCRIPT_NAME is empty, and PATH_INFO is /")
	gateway(name == "" || name[0] == '/', "SCRIPT_NAME begins with /")
	gateway(info == "" || info[0] == '/', "PATH_INFO begins with /")
	gateway(name != "" || info != "", "SCRIPT_NAME or PATH_INFO is there")
	for _, key := range []string{"SERVER_PORT", "CONTENT_LENGTH"} {
		gateway(strings.Trim(environ.Get(key), "0123456789") == "", key+" has digits only")
	}
	gateway(indexNonToken(environ.Get("REQUEST_METHOD")) < 0, "REQUEST_METHOD is a token")
	gateway(environ["wsgi.version"] == [2]int{1, 0}, "wsgi.version is (1, 0)")
	gateway(environ.Get("wsgi.url_scheme") != "", "wsgi.url_scheme is there")
	for _, key := range []string{"wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"} {
		_, ok := environ[key].(bool)
		gateway(ok, key+" is true or false")
	}
	_, ok := environ["wsgi.input"].(interface {
		io.Reader
		ReadLine(limit int) ([]byte, error)
		Lines() iter.Seq[[]byte]
	})
	gateway(ok, "wsgi.input can be read, and line by line")
	_, ok = environ["wsgi.errors"].(io.Writer)
	gateway(ok, "wsgi.errors can be written")
}

// A validator knows what has happened in one exchange.
type validator struct{ started, iterating, closed bool }

// checkedStart checks each call of startResponse, and when its writer is used.
func (v *validator) checkedStart(startResponse StartResponse) StartResponse {
	const section = "The start_response() Callable"
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		changed := len(excInfo) > 0 && excInfo[0] != nil
		expect("application", !v.started || changed, "a second call needs excInfo", section)
		expect("application", len(excInfo) < 2, "there is one excInfo at most", section)
		_, err := checkHead(status, headers)
		expect("application", err == nil, fmt.Sprint(err), section)
		for _, header := range headers {
			expect("application", !strings.Contains(header.Name, "_"),
				"a header name with _ is a mistake for -: "+header.Name, section)
		}
		_, typed := lookup(headers, "Content-Type")
		bodyless := status[:3] == "204" || status[:3] == "304"
		expect("application", !bodyless || typed == 0, status+" has no Content-Type", section)
		expect("application", bodyless || typed > 0, status+" has a Content-Type", section)
		v.started = true
		out := startResponse(status, headers, excInfo...)
		expect("gateway", out != nil, "startResponse returns write()", section)
		return validWriter{out, v}
	}
}

// A validWriter is a write() that knows when it may be called.
type validWriter struct {
	io.Writer
	v *validator
}

func (w validWriter) Write(p []byte) (int, error) {
	expect("application", !w.v.iterating, "write() is called before the body is iterated",
		"The write() Callable")
	return w.Writer.Write(p)
}

// A validBody checks its blocks and how the gateway uses it.
type validBody struct {
	body Body
	v    *validator
}

// All gives the blocks.
func (b *validBody) All() iter.Seq[[]byte] {
	const server, start = "The Server/Gateway Side", "The start_response() Callable"
	v := b.v
	return func(yield func([]byte) bool) {
		expect("gateway", !v.iterating, "a body is iterated once", server)
		expect("gateway", !v.closed, "no block is asked for after Close", server)
		v.iterating = true
		count := 0
		for block := range b.body.All() {
			count++
			expect("application", v.started || len(block) == 0,
				"startResponse is called before the first block", start)
			if !yield(block) {
				return
			}
		}
		expect("application", v.started, "startResponse is called", start)
		if l, ok := b.body.(interface{ Len() int }); ok {
			expect("application", l.Len() == count, "Len is the number of blocks",
				"Handling the Content-Length Header")
		}
	}
}

// Close passes the call on, once.
func (b *validBody) Close() error {
	expect("gateway", !b.v.closed, "Close is called once", "The Server/Gateway Side")
	b.v.closed = true
	return closeBody(b.body)
}

// ---------------------------------------------------------------- Watching
//
// A recorder watches one exchange in three places: the connection, the result of the parser
// and the call of the application. It makes events of what it sees. The narrator of -trace
// prints them, and the lab's page draws them.

// An event is one step of an exchange.
type event struct {
	At      int64             `json:"at"`                // microseconds since the beginning
	Pause   time.Duration     `json:"-"`                 // since the event before
	Kind    string            `json:"kind"`              // one of those in sentences
	Text    string            `json:"text"`              // its sentence
	From    int               `json:"from"`              // the first byte of the request that
	To      int               `json:"to"`                // it is about, and the one after
	Layer   string            `json:"layer,omitempty"`   // the application or middleware
	Depth   int               `json:"depth,omitempty"`   // 1 is called by the gateway
	Key     string            `json:"key,omitempty"`     // of environ
	Value   string            `json:"value,omitempty"`   // of the key; a status, type or line
	Note    string            `json:"note,omitempty"`    // more about the value
	Place   string            `json:"place,omitempty"`   // "request.go#line" or "app.go:221"
	Rule    string            `json:"rule,omitempty"`    // the source of a refusal
	Chapter int               `json:"chapter,omitempty"` // of the course, about a refusal
	Headers []Header          `json:"headers,omitempty"` // given to startResponse
	Size    int               `json:"size,omitempty"`    // of Data, which may be cut
	Head    int               `json:"head,omitempty"`    // bytes of Data that are the head
	Data    []byte            `json:"data,omitempty"`    // bytes that come, leave or are given
	Environ map[string]string `json:"environ,omitempty"` // all of it
}

// sentences describe the kinds of events.
var sentences = map[string]string{
	"accept":   "a connection{note} is accepted",
	"in":       "{size} received, from byte {from} on",
	"eof":      "the client has ended its half of the connection",
	"timeout":  "{note} ends: {value}",
	"broken":   "{note} ends: {value}",
	"silent":   "nothing was asked: there will be no answer",
	"key":      "{key} is {quoted}{note}",
	"dropped":  "{value} is {note}",
	"body":     "the body of the request begins: {value}, says Content-Length",
	"no body":  "the request has {note}: no body",
	"refused":  "{value}: {note}",
	"environ":  "environ is complete: {keys}",
	"changed":  "{layer} sets {key} to {quoted}; it was {was}",
	"call":     "{note} calls the {value} {layer}",
	"start":    "{layer} calls startResponse({quoted}) with {headers}{note}",
	"stored":   "the gateway {note} the status and {headers}; {size} sent so far",
	"started":  "startResponse returns write() to {layer}",
	"return":   "{layer} returns a body, {value}",
	"file":     "the body of {layer} is a file: the gateway reads, sends and closes it",
	"write":    "{layer} calls write() with {size}",
	"block":    "{layer} gives a block of {size}",
	"enough":   "{layer} {note}",
	"closed":   "Close is called on the body of {layer}",
	"panic":    "{note}{layer} panics",
	"log":      "{note}: {value}",
	"length":   "the answer {note}",
	"head":     "the head leaves, in one write with {body} of the body",
	"out":      "{size} of the body leave",
	"continue": "{size} leave: the client may send the body",
	"sendfile": "{size} of the file leave by sendfile(2): they never enter this program",
	"drain":    "the gateway ends its half, and reads on until the client closes",
	"drained":  "{size} more, which nobody reads",
	"close":    "the gateway closes the connection",
	"limit":    "the rest is not shown",
}

// fill puts the fields of an event into a sentence.
func (e event) fill(sentence string) string {
	return strings.NewReplacer("{layer}", e.Layer, "{key}", e.Key, "{value}", e.Value,
		"{note}", e.Note, "{quoted}", inQuotes(e.Value), "{was}", inQuotes(e.Note),
		"{size}", plural(e.Size, "byte"), "{body}", plural(e.Size-e.Head, "byte"),
		"{headers}", plural(len(e.Headers), "header"), "{keys}", plural(len(e.Environ), "key"),
		"{from}", strconv.Itoa(e.From), "{rule}", e.Rule, "{data}", quote(string(e.Data)),
	).Replace(sentence)
}

// plural returns "1 byte" or "2 bytes".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// cut shortens a text to n characters, and shows that.
func cut(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:max(0, n-1)]) + "…"
}

// inQuotes returns the beginning of a text that is printable already.
func inQuotes(text string) string { return `"` + cut(text, 80) + `"` }

// A recorder makes the events of one exchange.
type recorder struct {
	mu       sync.Mutex // an application may have goroutines
	emit     func(event)
	now      func() time.Time
	begin    time.Time
	last     int64             // when the last event was
	logs     bool              // lines of the log are events, too
	head     []byte            // bytes received, until they are parsed
	received int               // bytes in all
	parsed   bool              // the head
	refused  bool              // the request
	drains   bool              // our half is closed: nobody reads what comes
	environ  map[string]string // as it was seen last
	status   string            // stored by startResponse
	headers  []Header          // as well
	headSent bool
	sent     int // bytes
}

func newRecorder(now func() time.Time, emit func(event)) *recorder {
	return &recorder{emit: emit, now: now, begin: now()}
}

// add completes an event and emits it.
func (t *recorder) add(e event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(e)
}

// put is add for those that hold t.mu.
func (t *recorder) put(e event) {
	e.At = t.now().Sub(t.begin).Microseconds()
	e.Pause, t.last = time.Duration(e.At-t.last)*time.Microsecond, e.At
	e.Value, e.Note = cut(e.Value, longValue), cut(e.Note, longValue)
	e.Text = cut(printable(e.fill(sentences[e.Kind])), longText)
	t.emit(e)
}

// watch is a Server's Watch.
func (t *recorder) watch(c net.Conn, application Application) (
	net.Conn, Application, func(*Request, error)) {
	from := "" // a client on a Unix socket has no address
	if host, port := hostPort(c.RemoteAddr()); host != "" {
		from = " from " + net.JoinHostPort(host, port)
	}
	t.add(event{Kind: "accept", Note: from})
	return &tap{c, c, c, t}, watchedGateway(t, application), t.onHead
}

// A tap records what passes through a connection, or through the two streams of a CGI
// program, which has no Conn.
type tap struct {
	net.Conn
	in  io.Reader
	out io.Writer
	*recorder
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if n > 0 {
		c.onRead(p[:n])
	}
	if err != io.EOF || c.Conn != nil {
		c.onError("reading", err)
	}
	return n, err
}

func (c *tap) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	if n > 0 {
		c.onWrite(p[:n])
	}
	c.onError("writing", err)
	return n, err
}

// ReadFrom leaves a file to sendfile(2): only its size is seen.
func (c *tap) ReadFrom(source io.Reader) (int64, error) {
	direct, ok := c.out.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, source)
	}
	n, err := direct.ReadFrom(source)
	c.add(event{Kind: "sendfile", Size: int(n)})
	c.onError("writing", err)
	return n, err
}

// CloseWrite ends our half, if such a connection has halves.
func (c *tap) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	c.add(event{Kind: "drain"})
	c.mu.Lock()
	c.drains = true
	c.mu.Unlock()
	return half.CloseWrite()
}

func (c *tap) Close() error {
	c.add(event{Kind: "close"})
	return c.Conn.Close()
}

// onError records how reading or writing has failed, if it has.
func (t *recorder) onError(what string, err error) {
	if err == nil {
		return
	}
	e := event{Kind: "broken", Note: what, Value: err.Error()}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e.Kind = "timeout"
	} else if err == io.EOF {
		e.Kind = "eof"
	}
	t.add(e)
}

// onRead records bytes from the client.
func (t *recorder) onRead(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := event{Kind: "in", From: t.received, To: t.received + len(p), Size: len(p)}
	t.received = e.To
	if t.drains {
		e.Kind = "drained"
	} else {
		e.Data = bytes.Clone(p)
	}
	if !t.parsed {
		t.head = append(t.head, p...)
	}
	t.put(e)
}

// onWrite records bytes to the client: first the head, and why it has a Content-Length.
func (t *recorder) onWrite(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := event{Kind: "out", Size: len(p), Data: bytes.Clone(p)}
	if head, _, _ := strings.Cut(string(p), "\r\n\r\n"); t.headSent {
	} else if strings.HasPrefix(head, "HTTP/1.1 100 ") {
		e.Kind = "continue"
	} else {
		e.Kind, e.Head = "head", min(len(head)+len("\r\n\r\n"), len(p))
		t.headSent = true
		t.put(event{Kind: "length", Note: t.lengthReason(head)})
	}
	t.sent += len(p)
	t.put(e)
}

// lengthReason says why a head has a Content-Length, or has none.
func (t *recorder) lengthReason(head string) string {
	first, _, _ := strings.Cut(head, "\r\n")
	_, status, _ := strings.Cut(first, " ")
	_, after, given := strings.Cut(head, "\r\nContent-Length: ")
	length, _, _ := strings.Cut(after, "\r\n")
	switch _, own := lookup(t.headers, "Content-Length"); {
	case status != t.status:
		return "is the gateway's own: its Content-Length is " + length
	case strings.HasPrefix(status, "204") || strings.HasPrefix(status, "304"):
		return "gets no Content-Length: " + status + " has no body"
	case own > 0:
		return "has the Content-Length that the application has given"
	case given:
		return "gets a Content-Length of " + length + ": the whole body is known"
	}
	return "has no Content-Length: nobody knows how long the body will be, so the end of " +
		"the connection ends it"
}

// onHead records what the parser has made of a head: which bytes became which key, and
// where the body begins or which byte was refused.
func (t *recorder) onHead(q *Request, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parsed, t.headSent = true, q.Version == "HTTP/0.9" // whose answer has no head
	head := string(t.head)
	lines := lineSpans(head)
	if q.Version != "" { // otherwise the request line is refused
		t.putLine(q, lines[0].from)
	}
	for i := range q.Header {
		t.putField(q, i, lines[i+1])
	}
	refusal, refused := err.(*Refusal)
	length, n := lookup(q.Header, "Content-Length")
	switch {
	case refused:
		from := badByte(q, refusal, head, lines)
		t.refuse(refusal, from, from+max(0, len(refusal.Line)-refusal.Offset))
	case err != nil:
		t.put(event{Kind: "silent"})
	case q.Length > 0:
		from := lines[len(q.Header)+1].next
		t.put(event{Kind: "body", From: from, To: from + int(q.Length), Key: "wsgi.input",
			Value: length + " bytes"})
	case n > 0:
		t.put(event{Kind: "no body", Note: "a Content-Length of 0"})
	default:
		t.put(event{Kind: "no body", Note: "no Content-Length"})
	}
}

// A span is a line: its first byte, the one after its text, and the next line's first.
type span struct{ from, to, next int }

// lineSpans finds the lines of a head, without an empty line ahead of it.
func lineSpans(head string) (lines []span) {
	at := 0
	for line := range strings.Lines(head) {
		text := strings.TrimSuffix(strings.TrimSuffix(line, "\r\n"), "\n")
		if text != "" || len(lines) > 0 {
			lines = append(lines, span{at, at + len(text), at + len(line)})
		}
		at += len(line)
	}
	return lines
}

// lineParts finds the parts of a request line, which become the keys in lineKeys. The one
// without a key is a fragment.
var (
	lineParts = regexp.MustCompile(`^([^ ]+) (?:\w+://(?:[^/?# ]*@)?([^/?# ]*))?` +
		`([^?# ]*)\??([^# ]*)(#[^ ]*)?(?: (.+))?$`)
	lineKeys = []string{"REQUEST_METHOD", "HTTP_HOST", "PATH_INFO", "QUERY_STRING", "",
		"SERVER_PROTOCOL"}
)

// putLine records what the request line has become, which begins at byte from.
func (t *recorder) putLine(q *Request, from int) {
	at := lineParts.FindStringSubmatchIndex(q.Line)
	for i, value := range []string{q.Method, q.Authority, q.Path, q.Query, "", q.Version} {
		first, end := at[2*i+2], at[2*i+3]
		isTarget := 0 < i && i < 5
		if first < 0 || isTarget && q.Path == "" { // absent, or refused
			continue
		}
		e := event{Kind: "key", From: from + first, To: from + end, Key: lineKeys[i],
			Value: visible(value)}
		switch text := q.Line[first:end]; {
		case e.Key == "":
			e.Kind, e.Value = "dropped", visible(text)
			e.Note = "cut off: a fragment is for the client alone"
		case e.Key == "HTTP_HOST":
			e.Note = ": an absolute target decides"
		case text == "" && value == "/":
			e.Note = ": an empty path is the root"
		case text != value:
			e.Note = ", decoded once"
		}
		t.put(e)
	}
}

// putField records what header field i has become, or why it is dropped.
func (t *recorder) putField(q *Request, i int, line span) {
	name := q.Header[i].Name
	key, ok := environKey(name)
	e := event{Kind: "dropped", From: line.from, To: line.to, Value: name}
	switch {
	case !ok && strings.Contains(name, "_"):
		e.Note = "dropped: with a - instead of _ it would have the same key"
	case !ok:
		e.Note = "dropped: many programs take HTTP_PROXY for their own setting"
	case key == "HTTP_HOST" && q.Authority != "":
		e.Note = "dropped: the target says " + visible(q.Authority)
	default:
		joined := Environ{}
		for _, field := range q.Header[:i+1] {
			if field.is(name) {
				joined.addHeader(field)
			}
		}
		e.Kind, e.Key, e.Value = "key", key, visible(joined.Get(key))
		if _, n := lookup(q.Header[:i], name); n > 0 {
			e.Note = ": joined to what came before"
		}
	}
	t.put(e)
}

// badByte returns which byte a refusal of a head is about, or the end if bytes are missing.
func badByte(q *Request, r *Refusal, head string, lines []span) int {
	n := 0 // lines without a mistake
	if q.Header != nil {
		n = 1 + len(q.Header)
	}
	if n == len(lines) || r.Line == "" {
		return len(head)
	}
	if n == 0 || lines[n].from < lines[n].to {
		return lines[n].from + r.Offset
	}
	for i, field := range q.Header { // each is good by itself: one of them, or line 0
		_, before := lookup(q.Header[:i], field.Name)
		isSecond := before > 0 // and therefore refused, at its first byte
		if head[lines[i+1].from:lines[i+1].to] == r.Line && isSecond == (r.Offset == 0) {
			return lines[i+1].from + r.Offset
		}
	}
	return lines[0].from + r.Offset
}

// chapterOf lists the chapters that are about the functions that refuse.
var chapterOf = map[string]int{"refuseTLS": 3, "line": 3, "rawLine": 3, "parseLine": 3,
	"checkVersion": 3, "parseTarget": 3, "cutAuthority": 3, "readHeader": 4, "parseField": 4,
	"checkHeader": 4, "setLength": 5, "Read": 5, "readRequest": 7}

// refuse records a refusal, once.
func (t *recorder) refuse(r *Refusal, from, to int) {
	if _, function, _ := strings.Cut(r.Place, "#"); !t.refused {
		t.put(event{Kind: "refused", From: from, To: to, Value: r.Status, Note: r.Reason,
			Rule: r.Source, Place: r.Place, Chapter: chapterOf[function]})
	}
	t.refused = true
}

// A layer is an application or middleware in one call, and the gateway around them. The
// application that is called next finds it in environ, under layerKey.
type layer struct {
	*recorder
	name  string
	depth int
}

const layerKey = "rawsgi.layer"

func (l *layer) add(e event) {
	if e.Depth = l.depth; e.Depth > 0 {
		e.Layer = l.name
	}
	l.recorder.add(e)
}

// Write records a line that the layer logs.
func (l *layer) Write(p []byte) (int, error) {
	e := event{Kind: "log", Note: "wsgi.errors", Value: strings.TrimSuffix(string(p), "\n")}
	if l.depth == 0 {
		e.Note = "the gateway logs"
	}
	l.add(e)
	return len(p), nil
}

// watchedGateway is between the gateway and the outermost layer.
func watchedGateway(t *recorder, application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if environ[layerKey] == nil { // a local redirect has one
			t.environ = describe(environ)
			t.add(event{Kind: "environ", Environ: t.environ})
			environ[layerKey] = &layer{t, "the gateway", 0}
		}
		return application(environ, startResponse)
	}
}

// describe shows the values of environ, without our own.
func describe(environ Environ) map[string]string {
	all := map[string]string{}
	for key, value := range environ {
		switch value.(type) {
		case *layer:
		case string, bool, int, [2]int:
			all[key] = cut(visible(fmt.Sprint(value)), longValue)
		default:
			all[key] = typeName(value)
		}
	}
	return all
}

func typeName(value any) string {
	return strings.ReplaceAll(fmt.Sprintf("%T", value), "main.", "")
}

// watched puts a middleware around an application that records what it does, if environ has
// a layer, and changes nothing. The functions that may be on the stack of a panic are called
// watched: the log leaves them out.
func watched(name string, application Application) Application {
	role := "application"
	if _, err := findMiddleware(name); err == nil {
		role = "middleware"
	}
	return func(environ Environ, startResponse StartResponse) Body {
		caller, ok := environ[layerKey].(*layer)
		if !ok {
			return application(environ, startResponse)
		}
		caller.changes(environ)
		l, done := &layer{caller.recorder, name, caller.depth + 1}, false
		environ[layerKey] = l
		defer func() { environ[layerKey] = caller }()
		if l.logs {
			outer, own := environ["wsgi.errors"], &errorStream{log: log.New(l, "", 0)}
			environ["wsgi.errors"] = own
			defer func() { own.Flush(); environ["wsgi.errors"] = outer }()
		}
		l.add(event{Kind: "call", Value: role, Note: caller.name})
		defer watchedEnd(l, "", &done)
		body := application(environ, watchedStart(l, startResponse))
		done = true
		return l.watchBody(body)
	}
}

// changes records which keys of environ a layer has changed before it calls the next.
func (l *layer) changes(environ Environ) {
	l.mu.Lock()
	was, now := l.environ, describe(environ)
	l.environ = now
	l.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if before, had := was[key]; !had || before != now[key] {
			l.add(event{Kind: "changed", Key: key, Value: now[key], Note: before})
		}
	}
}

// watchedEnd, when deferred, records a panic, which goes on, or runtime.Goexit.
func watchedEnd(l *layer, what string, done *bool) {
	if *done {
		return
	}
	reason := recover()
	place, _, _ := strings.Cut(strings.TrimSpace(frames()), " ")
	l.add(event{Kind: "panic", Note: what, Place: place})
	if r, ok := reason.(*Refusal); ok && r != nil && checkStatus(r.Status) == nil {
		l.mu.Lock() // e.g. a body is cut short
		l.refuse(r, l.received, l.received)
		l.mu.Unlock()
	}
	if reason != nil {
		panic(reason)
	}
}

// watchedStart records calls of startResponse, and of the write() that it returns.
func watchedStart(l *layer, startResponse StartResponse) StartResponse {
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		e := event{Kind: "start", Value: visible(status), Headers: slices.Clone(headers)}
		for i, header := range headers {
			e.Note += []string{": ", ", "}[min(i, 1)] + header.Name
		}
		if len(excInfo) > 0 && excInfo[0] != nil {
			e.Note += ", because of an error: " + excInfo[0].Error()
		}
		if _, file, line, ok := runtime.Caller(1); ok {
			e.Place = fmt.Sprintf("%s:%d", path.Base(file), line)
		}
		l.add(e)
		done := false
		defer watchedEnd(l, "the call of startResponse by ", &done)
		out := startResponse(status, headers, excInfo...)
		if done = true; l.depth == 1 {
			l.stores(status, e.Headers)
		}
		l.add(event{Kind: "started"})
		return watchedWriter{out, l}
	}
}

// stores records what the gateway now holds.
func (l *layer) stores(status string, headers []Header) {
	l.mu.Lock()
	defer l.mu.Unlock()
	does := "stores"
	if l.status != "" {
		does = "replaces what it has stored by"
	}
	l.status, l.headers = status, headers
	l.put(event{Kind: "stored", Value: visible(status), Headers: headers, Note: does,
		Size: l.sent})
}

type watchedWriter struct {
	out   io.Writer
	layer *layer
}

func (w watchedWriter) Write(p []byte) (int, error) {
	w.layer.gives("write", p)
	return w.out.Write(p)
}

// gives records a block: its beginning is enough.
func (l *layer) gives(kind string, p []byte) {
	l.add(event{Kind: kind, Size: len(p), Data: bytes.Clone(p[:min(len(p), longValue)])})
}

// watchBody records a body, its blocks and its Close. A file stays as it is: the gateway
// recognises it by its type.
func (l *layer) watchBody(body Body) Body {
	l.add(event{Kind: "return", Value: typeName(unwatched(body))})
	if _, isFile := body.(*fileBody); isFile {
		l.add(event{Kind: "file"})
		return body
	}
	if body == nil {
		return nil
	}
	if sized, ok := body.(interface{ Len() int }); ok {
		return watchedSized{watchedBody{body, l}, sized.Len()}
	}
	return watchedBody{body, l}
}

// unwatched returns a body as the application has made it.
func unwatched(body Body) Body {
	switch b := body.(type) {
	case watchedBody:
		return unwatched(b.Body)
	case watchedSized:
		return unwatched(b.Body)
	}
	return body
}

type watchedBody struct {
	Body
	layer *layer
}

// A watchedSized is a body with Len, which the gateway asks for.
type watchedSized struct {
	watchedBody
	n int
}

func (b watchedSized) Len() int { return b.n }

func (b watchedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		done, how := false, "has no more blocks"
		defer watchedEnd(b.layer, "the body of ", &done)
		for block := range b.Body.All() {
			b.layer.gives("block", block)
			if !yield(block) {
				how = "is asked for no more blocks"
				break
			}
		}
		done = true
		b.layer.add(event{Kind: "enough", Note: how})
	}
}

func (b watchedBody) Close() error {
	if _, ok := unwatched(b).(io.Closer); ok {
		b.layer.add(event{Kind: "closed"})
	}
	return closeBody(b.Body)
}

// A narrator prints exchanges as they happen. Bytes from the client begin with >, bytes to
// it with <, what waits in the gateway with =. A call and its return form a bracket; a dotted
// line is a body that is asked for blocks:
//
//	#1 > GET /hello HTTP/1.0\r\n
//	#1   REQUEST_METHOD   "GET"                                         bytes 0 to 2
//	#1   ┌ hello
//	#1   │ startResponse("200 OK") with 1 header: Content-Type
//	#1 = the gateway stores the status and 1 header; 0 bytes sent so far
//	#1   └ returns Blocks
//	#1   · block of 14 bytes: "Hello, World!\n"
//	#1 < HTTP/1.0 200 OK\r\n
type narrator struct {
	mu     sync.Mutex
	out    io.Writer // of the error log
	prefix string    // ahead of each line: which process it is
	brief  bool
	colour bool
	width  int // columns
	count  int // exchanges begun
	last   int // the exchange of the last line
}

// newNarrator makes a narrator, in colours if the log is a terminal and NO_COLOR is not set,
// as wide as the variable COLUMNS says.
func newNarrator(errorLog *log.Logger, brief bool) *narrator {
	n := &narrator{out: errorLog.Writer(), prefix: errorLog.Prefix(), brief: brief, width: 80}
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil {
		n.width = max(40, min(width, 1000))
	}
	if file, ok := n.out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := file.Stat()
		n.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return n
}

// narrate has a narrator print what a server does.
func narrate(s *Server, brief bool) {
	n := newNarrator(s.ErrorLog, brief)
	s.Watch = func(c net.Conn, application Application) (
		net.Conn, Application, func(*Request, error)) {
		return n.recorder().watch(c, application)
	}
}

// narrateCGI does the same for the one exchange of a CGI program.
func narrateCGI(stdin io.Reader, stdout io.Writer, application Application,
	errorLog *log.Logger, brief bool) (io.Reader, io.Writer, Application) {
	t := newNarrator(errorLog, brief).recorder()
	streams := &tap{nil, stdin, stdout, t}
	return streams, streams, watchedGateway(t, application)
}

// recorder returns a recorder of an exchange, whose events are printed with its number.
func (n *narrator) recorder() *recorder {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count++
	number := n.count
	return newRecorder(time.Now, func(e event) { n.tell(number, e) })
}

// terse has a sign and the words for events whose place in a bracket says the rest.
var terse = map[string]string{
	"dropped": " (dropped)        {value} is {note}",
	"refused": "!{value}: {note} ({rule}, byte {from})",
	"stored":  "=" + sentences["stored"],
	"call":    " ┌ {layer}",
	"start":   " startResponse({quoted}) with {headers}{note}",
	"write":   " write() of {size}: {data}",
	"return":  " └ returns {value}",
	"panic":   "!└ {note}{layer} panics",
	"block":   "block of {size}: {data}",
	"enough":  sentences["enough"],
	"closed":  sentences["closed"],
}

// details are the events that a brief trace leaves out.
var details = []string{"accept", "key", "body", "no body", "length", "enough", "drain",
	"drained", "eof"}

// tell prints an event, and the time since the one before if that is long.
func (n *narrator) tell(number int, e event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Kind == "started" || n.brief && slices.Contains(details, e.Kind) {
		return // that startResponse returns, the bracket shows
	}
	if unit := 50 * time.Millisecond; e.Pause > unit {
		n.print(number, " ", fmt.Sprintf("(%v later)", e.Pause.Round(unit)))
	}
	short, ok := terse[e.Kind]
	switch e.Kind {
	case "in":
		n.printBytes(number, ">", e.Data)
	case "head", "out", "continue":
		n.printBytes(number, "<", e.Data)
	case "key":
		n.printKey(number, e)
	case "block", "enough", "closed":
		n.print(number, " ", strings.Repeat("· ", e.Depth)+e.fill(short))
	case "call", "return", "panic":
		n.print(number, short[:1], strings.Repeat("│ ", e.Depth-1)+e.fill(short[1:]))
	default:
		if !ok {
			short = " " + e.Text
		}
		n.print(number, short[:1], strings.Repeat("│ ", e.Depth)+e.fill(short[1:]))
	}
}

// printKey prints a key of environ in columns: key, value, bytes.
func (n *narrator) printKey(number int, e event) {
	where := ""
	switch e.To - e.From {
	case 0: // e.g. an empty query
	case 1:
		where = fmt.Sprintf("byte %d", e.From)
	default:
		where = fmt.Sprintf("bytes %d to %d", e.From, e.To-1)
	}
	room := n.room(number) - len(where) - 1
	value := strings.TrimPrefix(e.Text, e.Key+" is ")
	n.print(number, " ", fmt.Sprintf("%-*s %s", room,
		cut(fmt.Sprintf("%-16s %s", e.Key, value), room), where))
}

// printBytes prints bytes line by line: of many lines the first, in a brief trace only one.
func (n *narrator) printBytes(number int, sign string, data []byte) {
	most := 12
	if n.brief {
		most = 1
	}
	lines, left := slices.Collect(strings.Lines(string(data))), len(data)
	for i, line := range lines[:min(len(lines), most)] {
		more := ""
		if left -= len(line); i == most-1 && left > 0 {
			more = " … and " + plural(left, "byte") + " more"
		}
		room := n.room(number) - utf8.RuneCountInString(more)
		n.print(number, sign, cut(visible(line[:min(len(line), n.width)]), room)+more)
	}
}

// room is how many columns there are after the number and the sign.
func (n *narrator) room(number int) int {
	return n.width - len(fmt.Sprintf("%s#%d > ", n.prefix, number))
}

// The colours of a terminal for what comes, what leaves, what waits and what is wrong.
var colours = map[string]string{">": "\x1b[36m", "<": "\x1b[32m", "=": "\x1b[33m",
	"!": "\x1b[31m"}

// print prints a line with its sign, after an empty line if the last one was about another
// exchange. A line that is too long is broken between words.
func (n *narrator) print(number int, sign, line string) {
	if n.last != 0 && n.last != number {
		fmt.Fprintln(n.out)
	}
	n.last = number
	colour, plain := colours[sign], "\x1b[0m"
	if !n.colour || colour == "" {
		colour, plain = "", ""
	}
	for i, part := range wrapWords(line, n.room(number)) {
		if i > 0 {
			sign = " "
		}
		part = strings.TrimRight(sign+" "+part, " ")
		fmt.Fprintf(n.out, "%s#%d %s%s%s\n", n.prefix, number, colour, part, plain)
	}
}

// wrapWords breaks a line between words, and a word that has no end in the second half of
// the width. What follows is indented like the first line.
func wrapWords(line string, width int) (parts []string) {
	indent := line[:len(line)-len(strings.TrimLeft(line, " │·"))] + "  "
	indent = string([]rune(indent)[:min(utf8.RuneCountInString(indent), width/2)])
	for utf8.RuneCountInString(line) > width {
		runes, at := []rune(line), width
		for at > width/2 && runes[at] != ' ' {
			at--
		}
		if at == width/2 {
			at = width
		}
		parts = append(parts, string(runes[:at]))
		line = indent + strings.TrimLeft(string(runes[at:]), " ")
	}
	return append(parts, line)
}

// ---------------------------------------------------------------- Lab

//go:embed docs/lab.html
var labPage string

// The page shows the code that does a step.
//
//go:embed main.go server.go request.go response.go app.go
var sources embed.FS

// Limits of the lab; the last two are the narrator's as well.
const (
	labAtOnce  = 4               // experiments that run
	labTime    = 5 * time.Second // for the application
	labRequest = 64 * 1024       // bytes of the request
	labBody    = 1 << 20         // bytes of a body that Content-Length may announce
	labLayers  = 10              // of middleware
	labEvents  = 5000            // events shown
	labData    = 256 * 1024      // bytes in them, with their texts
	longText   = 400             // characters of a sentence
	longValue  = 512             // characters of a value, bytes of a block
)

// A lab answers with a page, and runs the experiments of that page: the bytes of a request go
// to a server like this one, over a connection in memory, and the events of its recorder
// back to the page. Without a server, the page starts this program as a CGI program.
type lab struct {
	apps     map[string]Application
	running  chan bool     // holds a value for each experiment that runs
	patience time.Duration // with which others wait, and its client
	open     bool          // to other machines as well
}

// newLab makes the lab. No proxy or CGI program can be reached: what an experiment does
// stays here.
func newLab(entries []entry, open bool) Application {
	l := &lab{apps: map[string]Application{}, running: make(chan bool, labAtOnce),
		patience: 2 * labTime, open: open}
	for _, entry := range entries {
		if entry.name != "proxy" && entry.name != "cgi" {
			l.apps[entry.name] = watched(entry.name, entry.app)
		}
	}
	l.apps["clock"] = watched("clock", newClock(3, 100*time.Millisecond))
	return l.app
}

// app answers with the page, with what it needs, or with the events of an experiment.
func (l *lab) app(environ Environ, startResponse StartResponse) Body {
	if reason := notWelcome(environ); reason != "" && !l.open {
		return plainly(startResponse, "403 Forbidden", reason)
	}
	name := environ.Get("PATH_INFO")
	switch name {
	case "", "/":
		startResponse("200 OK", labHeaders)
		place := template.HTMLEscapeString(environ.Get("SCRIPT_NAME"))
		return Blocks{[]byte(strings.Replace(labPage, "<!-- where the lab is -->",
			`<meta name="lab" content="`+place+`">`, 1))}
	case "/run":
		return l.run(environ, startResponse)
	}
	if code, err := sources.ReadFile(strings.TrimPrefix(name, "/")); err == nil {
		startResponse("200 OK", []Header{{"Content-Type", "text/plain; charset=utf-8"},
			{"X-Content-Type-Options", "nosniff"}})
		return Blocks{code}
	}
	return notFound(startResponse, "The lab is at "+environ.Get("SCRIPT_NAME"))
}

// run makes an experiment, if it may and can. With many at once, it waits for its turn: a
// class presses Run at the same time.
func (l *lab) run(environ Environ, startResponse StartResponse) Body {
	if environ.Get("REQUEST_METHOD") != "POST" || crossSite(environ) ||
		environ.Get("CONTENT_TYPE") != "application/json" { // which no form can send
		return plainly(startResponse, "403 Forbidden",
			"An experiment is a POST of application/json from the lab's own page.")
	}
	var x experiment
	input := io.LimitReader(environ["wsgi.input"].(io.Reader), 8*labRequest)
	if err := json.NewDecoder(input).Decode(&x); err != nil {
		return plainly(startResponse, badRequest,
			"The experiment cannot be read: "+err.Error())
	}
	select {
	case l.running <- true: // until the experiment ends
	case <-time.After(l.patience):
		return plainly(startResponse, "503 Service Unavailable",
			"Too many experiments at once: try again.")
	}
	port, _ := strconv.Atoi(environ.Get("SERVER_PORT")) // on a Unix socket, there is none
	events, err := l.await(x, port)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return plainly(startResponse, "503 Service Unavailable", "The application has not "+
			"ended: does it wait for ever, or loop? Only the end of this server can stop it.")
	}
	if err != nil {
		return plainly(startResponse, badRequest, err.Error())
	}
	content, err := json.Marshal(events)
	if err != nil {
		panic(err) // impossible: it is made of strings and numbers
	}
	startResponse("200 OK", []Header{{"Content-Type", "application/json"},
		{"Cache-Control", "no-store"}})
	return Blocks{content}
}

// await makes an experiment, and waits for its end with patience. Nobody can end a
// goroutine from outside.
func (l *lab) await(x experiment, port int) ([]event, error) {
	var events []event
	var err error
	ended := make(chan bool)
	go func() {
		defer close(ended) // also after runtime.Goexit
		defer func() {
			<-l.running
			if reason := recover(); reason != nil { // e.g. middleware that fails to wrap
				err = fmt.Errorf("the experiment failed: %v", reason)
			}
		}()
		events, err = x.run(l.apps, port)
	}()
	select {
	case <-ended:
		return events, err
	case <-time.After(l.patience):
		return nil, os.ErrDeadlineExceeded
	}
}

// The page is whole in itself, and may fetch from where it comes from only.
var labHeaders = []Header{{"Content-Type", "text/html; charset=utf-8"},
	{"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; " +
		"script-src 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'none'; " +
		"base-uri 'none'; frame-ancestors 'none'"},
	{"X-Content-Type-Options", "nosniff"}, {"Referrer-Policy", "no-referrer"}}

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
	Request string `json:"request"` // with the escapes of rawsgi send
	App     string `json:"app"`
	Use     string `json:"use"`     // middleware
	Arrival string `json:"arrival"` // how its bytes reach the server
}

// watchable has requests for the applications to which another is more telling than GET /.
var watchable = map[string]string{"environ": "GET /path?a=4&b=4 HTTP/1.0\\r\\n\\r\\n",
	"echo":   "POST / HTTP/1.0\\r\\nContent-Length: 5\\r\\n\\r\\nHELLO",
	"errors": "GET /before HTTP/1.0\\r\\n\\r\\n", "mount": "GET /a/x HTTP/1.0\\r\\n\\r\\n",
	"form": "GET /?name=value HTTP/1.0\\r\\n\\r\\n", "files": "GET /README.md HTTP/1.0\\r\\n\\r\\n"}

// labLink is a link to an experiment with an application, "" if the lab does not have it.
func labLink(lab, name string) string {
	if slices.Contains([]string{"proxy", "cgi", "lab", "gallery"}, name) {
		return ""
	}
	request := cmp.Or(watchable[name], "GET / HTTP/1.0\\r\\n\\r\\n")
	return lab + "#" + url.Values{"request": {request}, "app": {name}}.Encode()
}

// run sends the request through a server and returns the events of that exchange.
func (x experiment) run(apps map[string]Application, port int) ([]event, error) {
	text, err := unescape(x.Request)
	application := apps[x.App]
	switch {
	case err != nil:
		return nil, err
	case len(text) > labRequest:
		return nil, fmt.Errorf("a request may have %d bytes here, this one has %d",
			labRequest, len(text))
	case application == nil:
		return nil, fmt.Errorf("no application here is called %s", quote(x.App))
	case strings.Count(x.Use, ",") >= labLayers:
		return nil, fmt.Errorf("%d layers of middleware are enough", labLayers)
	}
	c := &labConn{pieces: []string{text}, end: time.Now().Add(labTime), port: port}
	switch half := text[:len(text)/2]; x.Arrival {
	case "at once":
	case "byte by byte":
		c.pieces = pieces(text, 1)
	case "a pause of 2 s before each line":
		c.pieces, c.pause = slices.Collect(strings.Lines(text)), 2*time.Second
	case "all, then the client ends its half":
		c.ends = true
	case "the first half, then the client leaves":
		c.pieces, c.ends = []string{half}, true
	case "the first half, then silence":
		c.pieces = []string{half}
	default:
		return nil, fmt.Errorf("no request arrives like this: %s", quote(x.Arrival))
	}
	if application, err = withMiddleware(application, x.Use, true); err != nil {
		return nil, err
	}
	return watch(application, c), nil
}

// watch serves one connection and returns what happens.
func watch(application Application, conn *labConn) []event {
	server := newServer(application)
	server.MaxBody = labBody
	var seen eventLog
	t := newRecorder(conn.now, seen.add)
	t.logs = true
	server.Watch, server.ErrorLog = t.watch, log.New(&layer{recorder: t}, "", 0)
	server.serveConn(conn)
	return seen.events
}

// An eventLog collects events up to the limits. A recorder adds one at a time.
type eventLog struct {
	events []event
	size   int
}

func (c *eventLog) add(e event) {
	c.size += len(e.Data) + len(e.Value) + len(e.Note) + len(e.Text)
	for _, header := range e.Headers {
		c.size += len(header.Name) + len(header.Value)
	}
	if c.size > labData {
		e.Data, e.Value, e.Note, e.Headers = nil, cut(e.Value, 40), "", nil
		e.Text = cut(e.Text, 80) + " (not shown: there was too much before)"
	}
	if len(c.events) == labEvents {
		e = event{At: e.At, Kind: "limit", Text: sentences["limit"]}
	}
	if len(c.events) <= labEvents {
		c.events = append(c.events, e)
	}
}

// A labConn is the server's end of a connection to a simulated client. It does not wait for
// pauses and deadlines to pass: its clock goes ahead.
type labConn struct {
	pieces []string      // to come
	pause  time.Duration // before each
	inside bool          // a part of the first piece has been read
	ends   bool          // after the last piece the client ends its half, or waits
	passed time.Duration // by which its clock is ahead
	left   time.Duration // until a read fails
	shut   bool          // the server has ended its half, so the client will end its own
	end    time.Time     // when the experiment must be over
	port   int           // of the server
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

// SetReadDeadline sets how much time may pass. Less than 10 ms have since time.Now.
func (c *labConn) SetReadDeadline(t time.Time) error {
	c.left = max(0, time.Until(t).Round(10*time.Millisecond))
	return nil
}

func (c *labConn) SetWriteDeadline(time.Time) error { return nil }
func (c *labConn) SetDeadline(time.Time) error      { return nil }
func (c *labConn) CloseWrite() error                { c.shut = true; return nil }
func (c *labConn) Close() error                     { return nil }
func (c *labConn) LocalAddr() net.Addr              { return loopback(c.port) }
func (c *labConn) RemoteAddr() net.Addr             { return loopback(49152) }

func loopback(port int) net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
}

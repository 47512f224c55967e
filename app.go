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

// An entry is a line of the table of applications.
type entry struct {
	Name    string
	From    string // the specification or program that it comes from
	Chapter string // the page in docs that shows it
	Try     string // a command; URL is the place where it is mounted
	App     Application
	About   string
}

// Config is what some applications need from the command line.
type Config struct {
	Root     string        // the directory of files
	Script   string        // the CGI program of cgi, or a directory of them
	Programs int           // CGI programs that run at once; 0 means maxPrograms
	Upstream string        // the servers behind proxy, host:port,host:port
	Timeout  time.Duration // for a CGI program or an upstream
	Trace    bool          // a narrator prints each step
	Brief    bool          // the most important steps only
	OpenLab  bool          // other machines may use the lab
}

// applications returns the table of applications, in the order in which to read them.
// watched, in the part Watching, returns an application that does what the given one does.
func applications(c Config) []entry {
	two := mount(map[string]Application{"/a": watched("environ", showEnviron),
		"/b": watched("hello", hello)}, showEnviron)
	entries := []entry{
		{"hello", "PEP 3333", "08-start-response", "curl -i URL", hello,
			"The smallest application: a function that returns one block."},
		{"class", "PEP 3333", "08-start-response", "curl -i URL", class,
			"The body is an object; it calls startResponse when its blocks are asked for."},
		{"environ", "PEP 3333", "07-environ", "curl -d a=b 'URL/path?a=4&b=4'", showEnviron,
			"Prints what an application knows of its request, and how long the body was."},
		{"write", "PEP 3333", "08-start-response", "curl -i URL", write,
			"The imperative way: startResponse returns a writer."},
		{"clock", "PEP 3333", "08-start-response", "curl -N URL", clock,
			"A generator: ten blocks, one each second, each sent at once."},
		{"echo", "PEP 3333", "05-body", "curl --data-binary @README.md URL", echo,
			"Sends the body of the request back, block by block."},
		{"errors", "PEP 3333", "08-start-response", "curl -i URL/before URL/after URL/excinfo",
			failing, "Fails before its head or after it, breaks a rule, changes its mind in time."},
		{"form", "the cgi module", "11-middleware", "curl -F name=value -F file=@README.md URL",
			form, "Takes a form and an upload apart and shows the fields."},
		{"files", "RFC 1945", "11-middleware", "curl -i URL/", newFiles(c.Root),
			"A directory (-root), sent with wsgi.file_wrapper and If-Modified-Since."},
		{"mount", "mod_wsgi's WSGIScriptAlias", "11-middleware", "curl URL/a/x URL/b/x", two,
			"Two applications side by side: the path moves to SCRIPT_NAME."},
		{"proxy", "RFC 9110", "14-in-front-and-behind", "curl -i URL/",
			newProxy(c.Upstream, c.Timeout),
			"Forwards to other servers (-upstream), in turn, over HTTP/1.0."},
		{"cgi", "RFC 3875", "12-cgi", "curl -i URL", newCGI(c.Script, c.Timeout, c.Programs),
			"Runs a CGI program (-script) for each request."},
	}
	routes := map[string]Application{}
	for i, each := range entries {
		entries[i].App = watched(each.Name, each.App)
		routes["/"+each.Name] = entries[i].App
	}
	routes["/lab"] = watched("lab", newLab(entries, c.OpenLab))
	entries = append(entries, entry{"lab", "our own", "00-map", "open URL in a browser",
		routes["/lab"], "Type raw bytes, and watch what becomes of each."})
	return append(entries, entry{"gallery", "our own", "00-map", "curl -i URL",
		watched("gallery", mount(routes, newIndex(entries))),
		"The default: all of these, mounted under their names, with an index page."})
}

// The middleware.
var middlewares = []struct {
	name, about string
	wrap        Middleware
}{
	{"log", "Prints the path, the status and each block of the answer.", logging},
	{"onion", "Prints a line around the call: onion,onion shows who wraps whom.", onion},
	{"upper", "Rewrites the answer: every letter of a plain text becomes a capital.", upper},
	{"catch", "Turns a panic into an error page, with the stack for this machine.", catch},
	{"auth", "Asks for a user and password (reader, wsgi).", auth},
	{"validate", "Checks both sides against PEP 3333, and names the one that breaks a rule.",
		validate},
}

// withMiddleware puts middleware around an application. The first name is the outermost
// layer, so it is wrapped around last.
func withMiddleware(application Application, use string) (Application, error) {
	if use == "" {
		return application, nil
	}
	for _, name := range slices.Backward(strings.Split(use, ",")) {
		middleware, err := findMiddleware(name)
		if err != nil {
			return nil, err
		}
		application = watched(name, middleware(application))
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

// textPlain is the header of a plain text. A browser first waits for enough bytes to
// guess the type; nosniff tells it to show each block as it comes, and never to guess.
var (
	textPlain  = []Header{{"Content-Type", "text/plain; charset=utf-8"}}
	textAtOnce = []Header{textPlain[0], nosniff}
	nosniff    = Header{"X-Content-Type-Options", "nosniff"}
	retryAfter = Header{"Retry-After", "1"} // seconds, after which it may work
)

// hello is the smallest application.
func hello(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", textPlain)
	return Blocks{[]byte("Hello, World!\n")}
}

// class only returns an object. Its All calls startResponse when the gateway asks for the
// first block, which PEP 3333 allows.
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

// showEnviron reads the request's body and prints its environ, sorted, then the body's
// length and checksum, so that a client can check that it arrived whole.
func showEnviron(environ Environ, startResponse StartResponse) Body {
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

// failing shows five ways to fail, one of which is mended in time. (PEP 3333, "Error
// Handling", "Other HTTP Features")
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
		startResponse(unavailable, textAtOnce, err)
		return Blocks{[]byte("Sorry: " + err.Error() + "\n")}
	case "/twice": // without an error, a second call is a mistake: startResponse panics
		startResponse("200 OK", textAtOnce)
		return plainly(startResponse, unavailable, "Sorry")
	case "/hop": // a field of the connection is the gateway's: startResponse panics
		return plainly(startResponse, "200 OK", "Bye", Header{"Connection", "close"})
	case "", "/":
		return htmlPage(startResponse, "errors", mounted) // links to the five
	}
	return notFound(startResponse,
		"Try before, after, excinfo, twice or hop under "+mounted+"/")
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

var pages = template.Must(template.New("").Funcs(template.FuncMap{"listed": listed,
	"replace": strings.ReplaceAll}).Parse(pageTemplates))

// htmlPage answers with a page of docs/pages.html, filled with data. The page is UTF-8,
// but data from a client or a file system need not be.
func htmlPage(startResponse StartResponse, name string, data any) Body {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		panic(err) // the template does not fit the data
	}
	startResponse("200 OK", []Header{{"Content-Type", "text/html; charset=utf-8"}, nosniff})
	return Blocks{bytes.ToValidUTF8(page.Bytes(), []byte("\uFFFD"))}
}

// newIndex makes the page of the gallery. The page loads nothing else, not even an icon.
func newIndex(entries []entry) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		mounted := escapePath(environ.Get("SCRIPT_NAME"))
		if info := environ.Get("PATH_INFO"); info != "/" && info != "" {
			return notFound(startResponse, "The index is at "+mounted+"/")
		}
		return htmlPage(startResponse, "index", map[string]any{"Entries": entries,
			"Mounted": mounted, "Base": baseURL(environ)})
	}
}

// escapePath reverses the gateway's decoding of PATH_INFO.
func escapePath(decoded string) string { return (&url.URL{Path: decoded}).EscapedPath() }

// baseURL returns scheme, host and port of the URL that the client asked for: from the
// Host field if there is one. (PEP 3333, "URL Reconstruction")
func baseURL(environ Environ) string {
	host := environ.Get("SERVER_NAME") + ":" + environ.Get("SERVER_PORT")
	return environ.Get("wsgi.url_scheme") + "://" + cmp.Or(environ.Get("HTTP_HOST"), host)
}

// A formField is one line of the table that form shows.
type formField struct {
	From, Name, Value string
	File, Type        string // of a part with a file: the file's name and type
	Size              int64  // bytes in the part; Value has the beginning of them
}

// Limits of a form, and the rule for what is larger.
const (
	sizeRule = "RFC 9110 §15.5.14"

	formBytes  = 1 << 20 // in an urlencoded body, which is held in memory
	formFields = 10000   // in a query string or an urlencoded body
	formParts  = 1000    // in a body of parts
	partHead   = 2048    // bytes in the head of one part: its name is held in memory
	partBytes  = 1000    // of each part are shown
)

// form shows the fields of a form, as a browser sends them: in the query string, in a
// body that is coded like one, or in a body of parts, with files. It panics with a
// *Refusal for a form that is broken or too large: the gateway answers with its status.
func form(environ Environ, startResponse StartResponse) Body {
	fields := readQuery("query", environ.Get("QUERY_STRING"))
	if contentType := environ.Get("CONTENT_TYPE"); contentType != "" {
		kind, params, err := mime.ParseMediaType(contentType)
		allow(err == nil, badRequest, "RFC 9110 §8.3.1", "expected a Content-Type like "+
			"text/plain; charset=utf-8, got %s", quote(contentType))
		charset := cmp.Or(params["charset"], "utf-8")
		allow(strings.EqualFold(charset, "utf-8"), "415 Unsupported Media Type",
			"RFC 9110 §15.5.16", "expected a form in UTF-8, got charset=%s", quote(charset))
		input := environ["wsgi.input"].(io.Reader)
		switch kind {
		case "application/x-www-form-urlencoded":
			body, err := io.ReadAll(io.LimitReader(input, formBytes+1))
			allowPart(err)
			allow(len(body) <= formBytes, tooLarge, sizeRule, "a form may have %d bytes; send "+
				"files as multipart/form-data", formBytes)
			fields = append(fields, readQuery("body", string(body))...)
		case "multipart/form-data":
			fields = append(fields, readParts(input, params["boundary"])...)
		}
	}
	return htmlPage(startResponse, "form", fields)
}

// allow panics with a *Refusal unless a rule for forms holds.
func allow(holds bool, status, source, format string, args ...any) {
	if !holds {
		refusal := refuse(status, source, "", 0, format, args...)
		refusal.Place = caller() // which knows the rule
		panic(refusal)
	}
}

// allowPart panics if there is an error: with the *Refusal in it, because the body was
// cut short or the head of a part is too large, or else with a 400.
func allowPart(err error) {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(refusal)
	}
	ends := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	allow(!ends, badRequest, "RFC 2046 §5.1.1",
		"expected one part or more, and the closing delimiter after the last")
	allow(err == nil, badRequest, "RFC 7578 §4", "a part cannot be read: %s",
		quote(fmt.Sprint(err)))
}

// readQuery takes a query string apart. url.ParseQuery would refuse a semicolon, which is
// an ordinary character. (WHATWG URL, "application/x-www-form-urlencoded parsing")
//
//	"a=1&b=%20;" → "a" is "1", "b" is " ;"
func readQuery(from, text string) (fields []formField) {
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		allow(len(fields) < formFields, tooLarge, sizeRule, "a form may have %d fields",
			formFields)
		name, value, _ := strings.Cut(pair, "=")
		name, badName := url.QueryUnescape(name)
		value, badValue := url.QueryUnescape(value)
		err := errors.Join(badName, badValue)
		allow(err == nil, badRequest, "HTML 4.01 §17.13.4", "expected name=value&name=value, "+
			"escaped as in a URL: %v", err)
		fields = append(fields, formField{From: from, Name: name, Value: value})
	}
	return fields
}

// readParts reads the parts of a body and keeps the first partBytes of each, and its
// size. A body that ends before its closing delimiter has been cut. (RFC 7578 §4.1, RFC
// 2046 §5.1.1)
func readParts(input io.Reader, boundary string) (fields []formField) {
	// The line end after the closing delimiter is optional, but mime/multipart needs it.
	limited := &headLimit{Reader: io.MultiReader(input, strings.NewReader("\r\n"))}
	parts := multipart.NewReader(limited, boundary)
	for {
		limited.allowed = partHead
		part, err := parts.NextRawPart() // a part has no coding of its own (RFC 7578 §4.7)
		if err == io.EOF && len(fields) > 0 {
			return fields
		}
		allowPart(err) // with io.EOF, a form without a part
		allow(len(fields) < formParts, tooLarge, sizeRule, "a form may have %d parts",
			formParts)
		name, file := disposition(part.Header["Content-Disposition"])
		limited.allowed = math.MaxInt
		start, err := io.ReadAll(io.LimitReader(part, partBytes))
		allowPart(err)
		rest, err := io.Copy(io.Discard, part)
		allowPart(err)
		fields = append(fields, formField{"part", name, string(start), file,
			part.Header.Get("Content-Type"), int64(len(start)) + rest})
	}
}

// A headLimit limits the head of each part of a body, of which mime/multipart alone would
// hold 10 MB. That package reads ahead, so the limit counts the bytes that it reads
// between the end of one part and the end of the next head. The closing delimiter of a
// whole form comes before io.EOF, which therefore becomes io.ErrUnexpectedEOF.
type headLimit struct {
	io.Reader
	allowed int // bytes
}

func (h *headLimit) Read(p []byte) (int, error) {
	allow(h.allowed > 0, tooLarge, sizeRule, "the head of a part may have %d bytes", partHead)
	n, err := h.Reader.Read(p[:min(len(p), h.allowed)])
	h.allowed -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// extended matches a quoted string, or a parameter with * at the end of its name.
var extended = regexp.MustCompile(`("(?:[^"\\]|\\.)*")|;[^"=;]*\*[ \t]*=[^";]*`)

// disposition returns the name of a part, and that of the file in it, "" if there is
// none. filename* must not be used. (RFC 7578 §4.2)
//
//	form-data; name="a"; filename="b.txt"; filename*=UTF-8''c → "a", "b.txt"
func disposition(values []string) (name, file string) {
	value := strings.Join(values, ", ")
	kind, params, err := mime.ParseMediaType(extended.ReplaceAllString(value, "$1"))
	name, named := params["name"]
	allow(err == nil && kind == "form-data" && named, badRequest, "RFC 7578 §4.2",
		`expected one Content-Disposition: form-data; name="x" in each part, got %s`,
		quote(value))
	return name, params["filename"]
}

// newFiles makes an application that serves the files of a directory.
func newFiles(directory string) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if method := environ.Get("REQUEST_METHOD"); method != "GET" && method != "HEAD" {
			return plainly(startResponse, "405 Method Not Allowed",
				"A file can only be read.", Header{"Allow", "GET, HEAD"})
		}
		body, err := servePath(directory, environ, startResponse)
		if err != nil {
			return cannotServe(environ, startResponse, err)
		}
		return body
	}
}

// servePath serves the file or directory that PATH_INFO names, and never leaves top:
// os.Root refuses each way out, by "..", by an escape or by a symbolic link. An error
// means that it cannot be opened.
func servePath(top string, environ Environ, startResponse StartResponse) (Body, error) {
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, err
	}
	defer root.Close() // files opened below stay open
	info := environ.Get("PATH_INFO")
	name := cmp.Or(strings.Trim(info, "/"), ".")
	file, stat, err := openFile(root, name)
	slash := strings.HasSuffix(info, "/") // it asks for a directory
	switch {
	case err != nil:
		return nil, err
	case !slash && stat.IsDir():
		file.Close()
		return redirect(environ, startResponse, environ.Get("SCRIPT_NAME")+info+"/"), nil
	case !slash:
		return serveFile(file, stat, environ, startResponse), nil
	}
	defer file.Close()
	index, found, err := openFile(root, path.Join(name, "index.html"))
	if err == nil && found.Mode().IsRegular() {
		return serveFile(index, found, environ, startResponse), nil
	} else if exhausted(err) || errors.Is(err, os.ErrPermission) {
		return nil, err // there may be one: then nobody should see a list
	}
	index.Close() // fails if there is none
	return listDirectory(root, name, file, environ, startResponse)
}

// nonblock is O_NONBLOCK, which package syscall does not have for every system.
var nonblock = map[string]int{"linux": 0x800, "darwin": 4, "freebsd": 4, "netbsd": 4,
	"openbsd": 4, "dragonfly": 4}[runtime.GOOS]

// openFile opens a file or directory. A pipe could block for ever: it is opened without
// waiting, and never served. Stat asks the open file, because another file may have its
// name by now.
func openFile(root *os.Root, name string) (*os.File, os.FileInfo, error) {
	file, err := root.OpenFile(name, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, nil, err
	}
	stat, err := file.Stat()
	if err == nil && !stat.IsDir() && !stat.Mode().IsRegular() {
		err = os.ErrNotExist
	}
	if err != nil {
		file.Close()
	}
	return file, stat, err
}

// cannotServe answers for a file that cannot be opened: 403 if this server may not, 503
// if the system has too little, which is nobody else's fault, otherwise 404, so that nobody
// learns which files exist outside the directory.
func cannotServe(environ Environ, startResponse StartResponse, err error) Body {
	switch {
	case errors.Is(err, os.ErrPermission):
		return plainly(startResponse, "403 Forbidden", "This server may not read it: see chmod.")
	case exhausted(err):
		fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "503: %v\n", err)
		return plainly(startResponse, unavailable,
			"Too many files are open, or too many programs run: try again.", retryAfter)
	}
	return notFound(startResponse, "No file has this name.")
}

// exhausted reports whether this process, or the whole system, has too many open files, too
// many processes or too little memory.
func exhausted(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains([]syscall.Errno{syscall.EMFILE,
		syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM}, errno)
}

// badInURI matches a byte that a URI must escape, or a whole escape. (RFC 3986 §2)
var badInURI = regexp.MustCompile(`%[0-9A-Fa-f]{2}|[^!#$&'()*+,./0-9:;=?@A-Z_a-z~-]`)

// redirect sends the client to another path of this server. RFC 1945 §10.11 wants a whole
// URL.
//
//	query "a b?q=%41%" → Location: http://h/path?a%20b?q=%41%25
func redirect(environ Environ, startResponse StartResponse, to string) Body {
	location := baseURL(environ) + escapePath(to)
	if query := environ.Get("QUERY_STRING"); query != "" {
		location += "?" + badInURI.ReplaceAllStringFunc(query, func(bad string) string {
			if len(bad) == len("%41") && bad[0] == '%' {
				return bad
			}
			return url.PathEscape(bad)
		})
	}
	return plainly(startResponse, "301 Moved Permanently",
		"A directory ends with a slash: see the header Location.",
		Header{"Location", location})
}

// serveFile sends a file, or 304 if the client has it already. (RFC 1945 §10.9)
func serveFile(file *os.File, stat os.FileInfo, environ Environ,
	startResponse StartResponse) Body {
	modified := stat.ModTime().UTC().Truncate(time.Second)
	if now := time.Now().UTC(); modified.After(now) {
		modified = now // an answer is not older than the file in it (RFC 1945 §10.10)
	}
	headers := []Header{{"Last-Modified", modified.Format(httpDate)}}
	since, err := parseDate(environ.Get("HTTP_IF_MODIFIED_SINCE"))
	// A date in the future is none. If-None-Match, which this server does not know, overrides
	// If-Modified-Since. (RFC 1945 §10.9; RFC 9110 §13.1.3)
	if err == nil && environ["HTTP_IF_NONE_MATCH"] == nil &&
		!modified.After(since) && !since.After(time.Now()) {
		file.Close()
		startResponse("304 Not Modified", headers)
		return Blocks{}
	}
	kind := textPlain[0].Value // so that browsers show the course and the source
	if extension := path.Ext(stat.Name()); !listed(".md,.go", extension) {
		kind = cmp.Or(mime.TypeByExtension(extension), "application/octet-stream")
	}
	startResponse("200 OK", append(headers, Header{"Content-Type", kind}, nosniff))
	if wrapper, ok := environ["wsgi.file_wrapper"].(func(io.Reader, ...int) Body); ok {
		return wrapper(file)
	}
	return newFileWrapper(file) // a gateway need not have one
}

// parseDate reads a date in the form that HTTP prefers or in one of the two that it had
// before, of which the one with dashes has a year of two digits: not more than 50 years
// ahead. (RFC 9110 §5.6.7)
func parseDate(text string) (date time.Time, err error) {
	for _, layout := range []string{httpDate, "Monday, 02-Jan-06 15:04:05 GMT", time.ANSIC} {
		if date, err = time.Parse(layout, text); err == nil {
			break
		}
	}
	later := date.AddDate(100, 0, 0) // package time takes 69 for 1969
	if strings.Contains(text, "-") && later.Before(time.Now().AddDate(50, 0, 0)) {
		date = later
	}
	return date, err
}

// listDirectory sends a list of the files and directories in a directory, whose links are
// relative and escaped. The list leaves out what is always refused: names with control
// characters, links that lead out or nowhere, pipes and devices.
func listDirectory(root *os.Root, name string, directory *os.File, environ Environ,
	startResponse StartResponse) (Body, error) {
	names, err := directory.Readdirnames(-1)
	if err != nil {
		return nil, err // it is a file, or has been removed
	}
	links := map[string]string{} // the template takes them in order
	for _, item := range names {
		stat, err := root.Stat(path.Join(name, item))
		if exhausted(err) {
			return nil, err // a list without it would not be whole
		} else if err != nil || indexControl(item) >= 0 {
			continue
		}
		if stat.IsDir() {
			links[item+"/"] = url.PathEscape(item) + "/"
		} else if stat.Mode().IsRegular() {
			links[item] = url.PathEscape(item)
		}
	}
	return htmlPage(startResponse, "listing", map[string]any{"Links": links,
		"Path": environ.Get("PATH_INFO")}), nil
}

// ---------------------------------------------------------------- CGI host

// Limits of the CGI host and of the proxy, beside Config.Timeout.
const (
	maxPrograms  = 64                     // that run at once, unless -programs is set
	maxRedirects = 10                     // local ones in a row
	maxInterim   = 10                     // interim answers of an upstream in a row
	killAfter    = 100 * time.Millisecond // until a program with an unused answer is killed
)

// newCGI makes the host's side of CGI: an application that starts a program for each
// request and passes on its answer. script is the program, or a directory of them; limit
// is how many may run at once. (RFC 3875)
func newCGI(script string, timeout time.Duration, limit int) Application {
	slots := make(chan bool, cmp.Or(limit, maxPrograms))
	return func(environ Environ, startResponse StartResponse) Body {
		if script == "" {
			return htmlPage(startResponse, "cgi", nil) // says how to name one
		}
		file, err := findProgram(script, environ)
		if err == errNoProgram {
			return plainly(startResponse, "403 Forbidden", "It is "+err.Error()+".")
		} else if err != nil {
			return cannotServe(environ, startResponse, err)
		}
		select {
		case slots <- true: // until the program has ended
		default:
			return plainly(startResponse, unavailable,
				"Too many CGI programs run at once: try again.", retryAfter)
		}
		p := &program{Cmd: exec.Command(file), slots: slots, timeout: timeout,
			patience: timeout, ended: make(chan bool)}
		body, err := p.answer(environ, startResponse)
		if err != nil {
			body = badGateway(environ, startResponse, err)
			logHint(environ, file, err)
		}
		return body
	}
}

var errNoProgram = errors.New("not a program: a file, and no link, that may be executed " +
	"(see chmod)")

// findProgram returns the path of the program. In a directory of them, the first segment
// of PATH_INFO is its name, and moves to SCRIPT_NAME. A symbolic link is refused.
func findProgram(script string, environ Environ) (file string, err error) {
	file, _ = filepath.Abs(script) // without a working directory, Stat fails too
	stat, err := os.Stat(file)
	if err == nil && stat.IsDir() {
		info := environ.Get("PATH_INFO")
		name, _, _ := strings.Cut(strings.TrimPrefix(info, "/"), "/")
		if !filepath.IsLocal(name) || strings.Contains(name, `\`) {
			return "", os.ErrNotExist
		}
		environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + "/" + name
		environ["PATH_INFO"] = strings.TrimPrefix(info, "/"+name)
		file = filepath.Join(file, name)
		stat, err = os.Lstat(file)
	}
	if err == nil && (!stat.Mode().IsRegular() ||
		runtime.GOOS != "windows" && stat.Mode()&0o111 == 0) {
		err = errNoProgram
	}
	return file, err
}

// A program is a CGI program that runs. Read reads its output.
type program struct {
	*exec.Cmd
	slots    chan bool // holds a value for each program
	timeout  time.Duration
	output   *os.File
	body     string        // the file of its standard input; "" if the request has no body
	used     bool          // its answer is passed on or followed
	patience time.Duration // for the next Read
	ended    chan bool     // closed when it and its child processes have ended
}

// programs are the CGI programs that run: the keys are *program.
var programs sync.Map

// start gives the request to a program, which runs in its directory, with a small clean
// environment and in a process group of its own.
func (p *program) start(environ Environ) error {
	defer func() {
		if p.Process == nil { // it did not start, or a body did not arrive whole
			p.output.Close() // fails if there is none yet
			p.free()
		}
	}()
	p.Dir, p.Env = filepath.Dir(p.Path), cgiVariables(p.Path, environ)
	p.Stderr = environ["wsgi.errors"].(io.Writer)
	p.SysProcAttr, p.WaitDelay = ownGroup(), moment
	if length := environ.Get("CONTENT_LENGTH"); length != "" && length != "0" {
		body, err := os.CreateTemp("", "rawsgi-body-")
		if err != nil {
			return err
		}
		defer body.Close() // the program has its own descriptor
		p.Stdin, p.body = body, body.Name()
		spool(body, environ)
	}
	output, stdout, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdout.Close()
	p.output, p.Stdout = output, stdout
	if err := p.Start(); err != nil {
		return err
	}
	programs.Store(p, nil)
	go p.wait()
	return nil
}

// spool writes the body of the request to a file: a program can then read it or not, in
// its own time, and gets its end when it has read CONTENT_LENGTH bytes. (RFC 3875 §4.2)
func spool(file *os.File, environ Environ) {
	// On Unix, the file without a name lives while it is open, whatever happens to us. On
	// Windows this fails, and free removes the file.
	os.Remove(file.Name())
	_, err := io.Copy(file, environ["wsgi.input"].(io.Reader))
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		panic(err) // often a *Refusal: the client's fault
	}
}

// wait waits for the end of the program, ends its child processes, and logs a failure. If
// a child has left the group and keeps standard error open, it waits for a moment.
func (p *program) wait() {
	err := p.Wait()
	p.kill() // its child processes
	programs.Delete(p)
	if err != nil {
		fmt.Fprintf(p.Stderr, "%s: %v\n", p.Path, err)
	}
	p.free()
	close(p.ended)
}

// free frees what the program has used.
func (p *program) free() {
	os.Remove(p.body) // fails without a body, and where spool has removed it
	<-p.slots
}

// endScripts ends all programs, before this program ends.
func endScripts() {
	programs.Range(func(p, _ any) bool {
		p.(*program).kill()
		return true
	})
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

// kill ends the program, which may have left its group, and the processes in that, if they
// have not ended. A negative number is a group, as for kill(2); Windows has none.
func (p *program) kill() {
	p.Process.Kill() // fails if it has ended, as it should
	if runtime.GOOS != "windows" {
		group, _ := os.FindProcess(-p.Process.Pid) // never fails there
		group.Kill()                               // fails if all have ended
	}
}

// Read reads the program's output, and kills a program that keeps it waiting for too
// long. The whole head has one timeout, each later read its own. After the program's end
// there is one for the rest: a process that has left the group may keep the output open.
// (Not on Windows, where pipes have no deadlines.) The output of a program that was
// killed is not whole.
func (p *program) Read(b []byte) (int, error) {
	if _, runs := programs.Load(p); runs && p.used {
		p.patience = p.timeout
	}
	begin := time.Now()
	p.output.SetReadDeadline(begin.Add(p.patience)) // an error here will be returned by Read
	n, err := p.output.Read(b)
	p.patience -= time.Since(begin)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.kill()
		err = fmt.Errorf("%s: waited %v: %w", p.Path, p.timeout, err)
	} else if err == io.EOF && endsWithin(p.ended, moment) && !p.ProcessState.Exited() {
		err = fmt.Errorf("%s: %v", p.Path, p.ProcessState)
	}
	return n, err
}

// Close gives the program some time to end by itself, and then ends it. If its answer is
// used, the rest of its output is read and thrown away, so that it can do its work to the
// end although the answer has been cut, by HEAD or by its own Content-Length. There is a
// limit, for the client may have left. (RFC 3875 §6.4)
func (p *program) Close() error {
	limit := killAfter
	if p.used {
		limit = p.timeout
		p.output.SetReadDeadline(time.Now().Add(limit)) // for all of it
		io.CopyN(io.Discard, p.output, drainLimit)      // an error ends it as well
	}
	defer time.AfterFunc(limit, p.kill).Stop()
	err := p.output.Close()
	<-p.ended
	return err
}

// answer starts the program and passes on its answer. (RFC 3875 §6.2)
func (p *program) answer(environ Environ, startResponse StartResponse) (
	body Body, err error) {
	if err := p.start(environ); err != nil {
		return nil, err
	}
	defer closeUnused(&body, p)
	h := &headReader{r: bufio.NewReader(p), mixed: true}
	fields, err := readHeader(h)
	if err != nil {
		return nil, err
	}
	fields = slices.DeleteFunc(fields, func(field Header) bool { return field.Value == "" })
	location, _ := lookup(fields, "Location")
	if strings.HasPrefix(location, "/") && len(fields) == 1 {
		p.used = true // so that it may do its work to the end
		p.Close()     // the other path may be a program of this host too, and need its slot
		return localRedirect(location, environ, startResponse)
	}
	status, err := cgiStatus(fields)
	if err != nil {
		return nil, err
	}
	p.used, p.patience = true, p.timeout
	return relay(environ, startResponse, p, h, status, fields)
}

// cgiNames are the variables of RFC 3875 §4.1 that environ may have, and three more that
// are usual, beside HTTP_*.
var cgiNames = []string{"AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE",
	"PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_USER",
	"REQUEST_METHOD", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL",
	"SERVER_SOFTWARE", "HTTPS", "REMOTE_PORT", "REQUEST_URI"}

// cgiVariables makes the environment of a CGI program: the CGI variables in environ,
// which also has others if this program is a CGI program itself, and PATH to find an
// interpreter. Of two with one name, the last counts. It leaves out passwords. (RFC 3875
// §4.1, §9.2)
func cgiVariables(file string, environ Environ) []string {
	variables := []string{"PATH=" + os.Getenv("PATH"), "SCRIPT_FILENAME=" + file,
		"REMOTE_HOST=" + environ.Get("REMOTE_ADDR")} // unless environ has one (§4.1.9)
	for key, value := range environ {
		text, ok := value.(string)
		cgi := strings.HasPrefix(key, "HTTP_") || slices.Contains(cgiNames, key)
		secret := listed("HTTP_AUTHORIZATION,HTTP_PROXY_AUTHORIZATION,HTTP_PROXY", key)
		noBody := key == "CONTENT_LENGTH" && text == "0" // so it has no length (§4.1.2)
		if ok && cgi && !secret && !noBody {
			variables = append(variables, key+"="+text)
		}
	}
	if target := environ.Get("rawsgi.request_uri"); target != "" {
		variables = append(variables, "REQUEST_URI="+originForm(target))
	}
	if info := environ.Get("PATH_INFO"); info != "" {
		below := filepath.FromSlash(path.Clean("/" + info)) // no ".." leads out
		variables = append(variables,
			"PATH_TRANSLATED="+filepath.Join(filepath.Dir(file), below))
	}
	if root := os.Getenv("SystemRoot"); root != "" {
		variables = append(variables, "SystemRoot="+root) // Windows programs need it
	}
	return variables
}

// cgiStatus returns the status of a CGI program's answer. fields has none without a
// value, which counts as not sent. (RFC 3875 §6.2, §6.3)
//
//	Status: 410 Gone\n Content-Type: text/plain\n → "410 Gone"
//	Location: http://h/\n                        → "302 Found"
func cgiStatus(fields []Header) (status string, err error) {
	status, statuses := lookup(fields, "Status")
	_, locations := lookup(fields, "Location")
	_, types := lookup(fields, "Content-Type")
	switch most := max(statuses, locations, types); {
	case most != 1:
		err = fmt.Errorf("expected Status, Location or Content-Type in the answer of a CGI "+
			"program, each once at most, got one of them %d times", most)
	case statuses+locations == 0:
		status = "200 OK"
	case statuses == 0:
		status = "302 Found"
	}
	return status, err
}

// logHint logs how to mend the commonest mistakes in a CGI program.
func logHint(environ Environ, file string, err error) {
	start := make([]byte, 200)
	if f, err := os.Open(file); err == nil {
		f.Read(start) // it may be empty
		f.Close()
	}
	first, _, _ := strings.Cut(string(start), "\n")
	script := strings.HasPrefix(first, "#!")
	hint := "print a head, like Content-Type: text/plain, then an empty line, then the body"
	var refusal *Refusal
	var failed *os.PathError
	badHead := errors.As(err, &refusal)
	badStart := errors.As(err, &failed) && failed.Path == file // not e.g. that of its input
	switch {
	case !badHead && !badStart:
		return
	case script && strings.HasSuffix(first, "\r"):
		hint = `its first line ends in \r\n: save it with the line ends of Unix, \n`
	case script && errors.Is(err, os.ErrNotExist):
		hint = "the interpreter in its first line does not exist: " + quote(first)
	case errors.Is(err, syscall.ENOEXEC):
		hint = "its first line does not name an interpreter, like #!/bin/sh"
	case !badHead || refusal.Line == "":
		return
	case refusal.Status == headTooLarge:
		hint = "its head is too large: is the empty line after it missing?"
	case strings.HasPrefix(refusal.Line, "HTTP/"):
		hint = "print Status: 200 OK instead of HTTP/1.0 200 OK"
	}
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "hint for %s: %s\n", file, hint)
}

// localRedirect answers with another path of this server, as if the client had asked for
// it. (RFC 3875 §6.2.2)
func localRedirect(location string, environ Environ,
	startResponse StartResponse) (Body, error) {
	followed, _ := environ["rawsgi.redirects"].(int)
	application, ok := environ["rawsgi.application"].(Application)
	q := &Request{Method: "GET", Target: strings.ReplaceAll(location, " ", "%20")}
	err := q.parseTarget()
	switch {
	case err != nil:
	case followed == maxRedirects:
		err = fmt.Errorf("there are more than %d in a row", maxRedirects)
	case !ok:
		err = errors.New("environ has no rawsgi.application, as in rawsgi call")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot follow the local redirect to %s: %w",
			quote(location), err)
	}
	next := maps.Clone(environ)
	next["rawsgi.redirects"], next["rawsgi.request_uri"] = followed+1, q.Target
	next["REQUEST_METHOD"], next["SCRIPT_NAME"] = "GET", ""
	next["PATH_INFO"], next["QUERY_STRING"] = q.Path, q.Query
	next["wsgi.input"] = &Input{}
	delete(next, "CONTENT_LENGTH")
	delete(next, "CONTENT_TYPE")
	return application(next, startResponse), nil
}

// relay passes on the answer of a CGI program or another server, whose head has been
// read. Closing the body closes origin. startResponse refuses a status with a tab, or
// with spaces around the reason, or without the space before it.
//
//	"404 Not\tFound " → "404 Not Found"    "404" → "404 "
func relay(environ Environ, startResponse StartResponse, origin io.Closer, h *headReader,
	status string, fields []Header) (Body, error) {
	code, reason, _ := strings.Cut(strings.ReplaceAll(status, "\t", " "), " ")
	status, headers := code+" "+strings.Trim(reason, " "), endToEnd(fields)
	length, err := checkHead(status, headers)
	if err != nil {
		return nil, err
	}
	var content io.Reader = h.r
	if environ.Get("REQUEST_METHOD") == "HEAD" || bodyless(status) {
		content = strings.NewReader("") // whatever its Content-Length says
	} else if length >= 0 {
		content = &Input{r: h.r, length: length}
	}
	startResponse(status, headers)
	return newFileWrapper(upstreamBody{content, origin}, pieceSize), nil
}

// An upstreamBody is the body of another program's answer, and the program or connection
// to close after it. If it breaks off before its first block, the gateway can answer 502.
type upstreamBody struct {
	io.Reader
	io.Closer
}

func (b upstreamBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		status, source := gatewayStatus(err)
		err = refuse(status, source, "", 0, "the answer broke off: %v", err)
	}
	return n, err
}

// closeUnused closes origin after an error or panic: there is no body to close it.
func closeUnused(body *Body, origin io.Closer) {
	if *body == nil {
		origin.Close()
	}
}

// badGateway answers for a program or server that has failed. If it could not be started
// because a limit of this system is reached, the status says so. startResponse is given
// err, which a trace shows.
func badGateway(environ Environ, startResponse StartResponse, err error) Body {
	switch {
	case exhausted(err):
		return cannotServe(environ, startResponse, err)
	case errors.Is(err, syscall.E2BIG):
		panic(refuse(headTooLarge, "RFC 6585 §5", "", 0, "the target and the header fields "+
			"are too large for a program's environment on this system"))
	}
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "bad gateway: %v\n", err)
	status, _ := gatewayStatus(err)
	startResponse(status, textAtOnce, err)
	return Blocks{[]byte(status + "\n")}
}

// gatewayStatus returns the status for a program or server that failed, 504 if it took
// too long, else 502, and its source.
func gatewayStatus(err error) (status, source string) {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "504 Gateway Timeout", "RFC 9110 §15.6.5"
	}
	return "502 Bad Gateway", "RFC 9110 §15.6.3"
}

// endToEnd returns the end-to-end fields, with spaces for tabs, which startResponse
// refuses.
func endToEnd(fields []Header) (kept []Header) {
	connection := "" // what all fields of this name list
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

// isEndToEnd reports whether a field is end-to-end. Hop-by-hop are the fields in
// hopByHop, those that Connection lists, and Proxy-Connection, which is in no RFC.
// Connection may not list three fields: without Content-Length, a body would be read as a
// second request. (RFC 9110 §7.6.1)
func isEndToEnd(connection, name string) bool {
	return listed("Content-Length,Content-Type,Host", name) ||
		!slices.ContainsFunc(hopByHop, Header{Name: name}.is) &&
			!listed("Proxy-Connection,"+connection, name)
}

// ---------------------------------------------------------------- Proxy

// A proxy forwards each request to one of several servers, in turn, over HTTP/1.0,
// written by hand like the rest: load balancing and remote processing are the third role
// of middleware in PEP 3333's list. RFC 9110 §3.7 calls it a gateway.
type proxy struct {
	servers []string
	timeout time.Duration
	turn    atomic.Uint64
	name    string // in Via, by which this proxy recognises a request that it has forwarded
}

// newProxy makes the application; upstreams is a list of host:port with commas between.
func newProxy(upstreams string, timeout time.Duration) Application {
	p := &proxy{timeout: timeout, name: "rawsgi-" + rand.Text()}
	if upstreams != "" {
		p.servers = strings.Split(upstreams, ",")
	}
	return p.app
}

// checkUpstreams returns an error for a list that newProxy cannot use.
func checkUpstreams(upstreams string) error {
	for upstream := range strings.SplitSeq(upstreams, ",") {
		host, port, err := net.SplitHostPort(upstream)
		_, badPort := strconv.ParseUint(port, 10, 16)
		bad := err != nil || badPort != nil || strings.ContainsAny(host, " \t/@")
		if bad && upstreams != "" {
			return fmt.Errorf("-upstream is host:port, like 127.0.0.1:9000, or several with "+
				"commas and no spaces between, not %q", upstreams)
		}
	}
	return nil
}

// app forwards a request, unless it may go no further, or has come here before: the
// server that it goes to would send it here again, without end. (RFC 9110 §7.6.2, §7.6.3)
func (p *proxy) app(environ Environ, startResponse StartResponse) Body {
	switch {
	case len(p.servers) == 0:
		return htmlPage(startResponse, "proxy", nil) // says how to name one
	case strings.Contains(environ.Get("HTTP_VIA"), p.name):
		return plainly(startResponse, "508 Loop Detected",
			"This proxy forwards to itself: see -upstream.")
	case !takeForward(environ):
		return plainly(startResponse, notImplemented,
			"Max-Forwards is 0, and this proxy has no answer of its own.")
	}
	var body Body
	upstream, err := p.dial()
	if err == nil {
		body, err = p.forward(environ, startResponse, upstream)
	}
	if err != nil {
		body = badGateway(environ, startResponse, err)
	}
	return body
}

// takeForward takes one from the Max-Forwards of TRACE and OPTIONS, and reports false if
// none is left. It ignores what is not a number, and other methods. (RFC 9110 §7.6.2)
func takeForward(environ Environ) bool {
	n, err := strconv.ParseUint(environ.Get("HTTP_MAX_FORWARDS"), 10, 63)
	method := environ.Get("REQUEST_METHOD")
	if method != "TRACE" && method != "OPTIONS" || errors.Is(err, strconv.ErrSyntax) {
		return true
	}
	environ["HTTP_MAX_FORWARDS"] = fmt.Sprint(max(n, 1) - 1)
	return n > 0
}

// dial connects to the server whose turn it is, or to the first after it that answers.
func (p *proxy) dial() (*conn, error) {
	first := int(p.turn.Add(1) % uint64(len(p.servers)))
	var failed error
	for _, server := range slices.Concat(p.servers[first:], p.servers[:first]) {
		c, err := net.DialTimeout("tcp", server, p.timeout)
		if err == nil {
			return &conn{Conn: c, timeout: p.timeout}, nil
		}
		failed = fmt.Errorf("no upstream answers: %w", err)
	}
	return nil, failed
}

// forward sends the request to upstream and passes on its answer.
func (p *proxy) forward(environ Environ, startResponse StartResponse, upstream *conn) (
	body Body, err error) {
	defer closeUnused(&body, upstream)
	p.send(environ, upstream)
	upstream.SetReadDeadline(time.Now().Add(p.timeout)) // for the whole head
	h := &headReader{r: bufio.NewReader(upstream)}
	status, fields, err := readAnswer(h)
	if err != nil {
		return nil, err
	}
	upstream.eachRead = true
	return relay(environ, startResponse, upstream, h, status, fields)
}

// send sends the request. Write has a deadline for each piece of the body; the struct
// hides ReadFrom, which has one for all of it and which io.Copy would call. An error in
// writing is ignored: upstream may have answered before it has read the whole body.
func (p *proxy) send(environ Environ, upstream *conn) {
	content := io.MultiReader(strings.NewReader(p.requestHead(environ)),
		environ["wsgi.input"].(io.Reader))
	_, err := io.Copy(struct{ io.Writer }{upstream}, content)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(err) // the client's fault: the gateway answers
	}
}

// requestHead makes the head of the request to an upstream out of an environ.
func (p *proxy) requestHead(environ Environ) string {
	var b strings.Builder
	more := func(key, item string) string { // a list with one more item
		return strings.TrimLeft(environ.Get(key)+", "+item, ", ")
	}
	client := cmp.Or(environ.Get("REMOTE_ADDR"), "unknown") // a Unix socket has none
	version := strings.TrimPrefix(environ.Get("SERVER_PROTOCOL"), "HTTP/")
	fmt.Fprintf(&b, "%s %s HTTP/1.0\r\nX-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\n"+
		"Via: %s\r\n", environ.Get("REQUEST_METHOD"), upstreamTarget(environ),
		more("HTTP_X_FORWARDED_FOR", client), environ.Get("wsgi.url_scheme"),
		more("HTTP_VIA", version+" "+p.name))
	for _, key := range slices.Sorted(maps.Keys(environ)) {
		name, ok := strings.CutPrefix(key, "HTTP_")
		ok = ok || listed("CONTENT_TYPE,CONTENT_LENGTH", key) && environ.Get(key) != ""
		name = textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if ok && isEndToEnd(environ.Get("HTTP_CONNECTION"), name) &&
			!listed("Expect,X-Forwarded-For,X-Forwarded-Proto,Via", name) {
			fmt.Fprintf(&b, "%s: %s\r\n", name, environ.Get(key))
		}
	}
	return b.String() + "\r\n"
}

// upstreamTarget returns the target for upstream: the bytes after SCRIPT_NAME as the
// client sent them, because /a%2Fb and /a/b have the same PATH_INFO but may differ for
// upstream. If middleware has changed the path, it is made of PATH_INFO.
func upstreamTarget(environ Environ) string {
	name, info := environ.Get("SCRIPT_NAME"), environ.Get("PATH_INFO")
	sent, query, asks := strings.Cut(originForm(environ.Get("rawsgi.request_uri")), "?")
	target := sent
	for range len(name) { // each byte of it has been sent as one byte or as three
		size := 1
		if strings.HasPrefix(target, "%") {
			size = len("%2F")
		}
		target = target[min(size, len(target)):]
	}
	decoded, err := url.PathUnescape(sent)
	if err != nil || decoded != name+info || target != "" && target[0] != '/' {
		target = escapePath(info)
	}
	want := environ.Get("QUERY_STRING")
	if want != "" || asks && query == "" {
		want = "?" + want
	}
	return cmp.Or(target, "/") + want
}

// originForm returns a target without the scheme and host of its absolute form, and
// without a fragment: "http://h/a?b#c" → "/a?b".
func originForm(target string) string {
	target, _, _ = strings.Cut(target, "#")
	if _, after, ok := strings.Cut(target, "://"); ok && target[0] != '/' {
		target = after[strings.IndexAny(after+"/", "/?"):]
	}
	return target
}

// statusLine is the first line of an answer: HTTP/1 and a digit, and the status. (RFC
// 9112 §4)
var statusLine = regexp.MustCompile(`(?s)^HTTP/1\.[0-9](?: (.*))?$`)

// readAnswer reads the head of an upstream's answer. It skips the heads of interim
// answers, such as 100 Continue and 103 Early Hints, but not a 101, for which nobody has
// asked. (RFC 9110 §15.2)
//
//	"HTTP/1.1 404 Not Found\r\n" → "404 Not Found"
func readAnswer(h *headReader) (string, []Header, error) {
	for range maxInterim + 1 {
		line, err := h.line(headTooLarge)
		if err != nil {
			return "", nil, err
		}
		match := statusLine.FindStringSubmatch(line)
		if match == nil {
			return "", nil, fmt.Errorf("expected a status line, got %s", quote(line))
		}
		status := match[1]
		fields, err := readHeader(h)
		coding, codings := lookup(fields, "Transfer-Encoding")
		if err == nil && strings.HasPrefix(status, "1") && !strings.HasPrefix(status, "101") {
			continue
		} else if err == nil && codings > 0 {
			err = fmt.Errorf("expected an answer for HTTP/1.0, got Transfer-Encoding: %s",
				quote(coding))
		}
		return status, fields, err
	}
	return "", nil, fmt.Errorf("upstream sends more than %d interim answers", maxInterim)
}

// ---------------------------------------------------------------- Middleware

// A changedBody is a Stream of the changed blocks of another body. Its Close closes the
// other body, as PEP 3333 demands, and it has no Len: middleware does not know how many
// blocks a body will have that it did not make. (PEP 3333, "Middleware")
type changedBody struct {
	Stream
	inner any // the other body
}

// Close closes the other body.
func (b changedBody) Close() error { return closeBody(b.inner) }

// A writeFunc is a function as an io.Writer, for middleware around write().
type writeFunc func(block []byte) (int, error)

// Write calls the function.
func (f writeFunc) Write(block []byte) (int, error) { return f(block) }

// changed returns a body that passes on the result of change for each block.
func changed(body Body, change func(block []byte) []byte) Body {
	return changedBody{func(yield func([]byte) bool) {
		for block := range blocks(body) {
			if !yield(change(block)) {
				return
			}
		}
	}, body}
}

// logging prints the request, the call of startResponse and each block to wsgi.errors. It
// calls the application once, and passes each block on when it has printed it.
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
		return changed(application(environ, start), func(block []byte) []byte {
			fmt.Fprintf(out, "log: a block of %d bytes: %.80q\n", len(block), block)
			return block
		})
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

// upper rewrites a plain text into capitals, a small form of PEP 3333's Latinator.
// Middleware that changes a body must drop its Content-Length and its Len, change written
// blocks as well as returned ones, and pass on a block for each block. (PEP 3333,
// "Middleware", "Block Boundaries")
func upper(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		text := false // known when startResponse is called, maybe in the first iteration
		change := func(block []byte) []byte {
			block = bytes.Clone(block)
			for i, c := range block { // letters of ASCII: a block may end inside a rune
				if text && 'a' <= c && c <= 'z' {
					block[i] = c - 'a' + 'A'
				}
			}
			return block
		}
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			kind, _ := lookup(headers, "Content-Type")
			_, coded := lookup(headers, "Content-Encoding")
			text = strings.HasPrefix(strings.ToLower(kind), "text/plain") && coded == 0
			if text {
				headers = slices.DeleteFunc(slices.Clone(headers), func(h Header) bool {
					return h.is("Content-Length")
				})
			}
			out := startResponse(status, headers, excInfo...)
			return writeFunc(func(block []byte) (int, error) { return out.Write(change(block)) })
		}
		return changed(application(environ, start), change)
	}
}

// catch turns a panic of the application into a page: in the call, and while the gateway
// waits for a block. While the gateway sends a block, a panic is its own. (PEP 3333,
// "Error Handling"; Python's cgitb)
func catch(application Application) Application {
	return func(environ Environ, startResponse StartResponse) (body Body) {
		defer func() {
			if reason := recover(); reason != nil {
				body = Blocks{failurePage(environ, startResponse, reason)}
			}
		}()
		inner := application(environ, startResponse)
		return changedBody{func(yield func([]byte) bool) {
			sending := false // the gateway sends a block
			defer func() {
				if sending {
					return
				}
				if reason := recover(); reason != nil {
					yield(failurePage(environ, startResponse, reason))
				}
			}()
			for block := range blocks(inner) {
				sending = true
				if !yield(block) {
					return
				}
				sending = false
			}
		}, inner}
	}
}

// failurePage starts a new answer after a panic, logs the panic, and returns the only
// block. If the head has been sent, startResponse panics with the error, for the gateway.
// Only a client on this machine gets the stack.
func failurePage(environ Environ, startResponse StartResponse, reason any) []byte {
	err, ok := reason.(error)
	if !ok {
		err = fmt.Errorf("%v", reason)
	}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(err) // the request is at fault, and the gateway knows what to say
	}
	startResponse("500 Internal Server Error", textAtOnce, err)
	text := "The application failed: " + failure(err)
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "catch: %s", text)
	if !onThisMachine(environ) {
		return []byte("The application failed.\n")
	}
	return []byte(text)
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
			return plainly(startResponse, "401 Unauthorized",
				"Who are you? Try curl -u reader:wsgi",
				Header{"WWW-Authenticate", `Basic realm="rawsgi", charset="UTF-8"`})
		}
		environ["REMOTE_USER"], environ["AUTH_TYPE"] = "reader", "Basic"
		return application(environ, startResponse)
	}
}

// ---------------------------------------------------------------- Validate

// validate checks the gateway and the application against PEP 3333. It panics when one
// breaks a rule, and names the side and the rule. Go's compiler has checked the rest of
// the rules in wsgiref's validator: that there are two arguments, that status and header
// values are strings, headers a list of pairs, and blocks bytes.
func validate(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		checkEnviron(environ)
		v := &validator{}
		v.body = application(environ, v.checkedStart(startResponse))
		expect("application", "The Application Side", v.body != nil,
			"it returns an iterable, not nil")
		return changedBody{v.checkedBlocks, v}
	}
}

// The sections of PEP 3333 with most of the rules.
const (
	gatewaySide = "The Server/Gateway Side"
	startSide   = "The start_response() Callable"
	writeSide   = "The write() Callable"
)

// expect panics if a rule does not hold. rule continues the sentence.
func expect(side, section string, holds bool, rule string) {
	if !holds {
		panic(fmt.Errorf("validate: the %s breaks the rule that %s (PEP 3333, %q)",
			side, rule, section))
	}
}

// checkEnviron checks the environ that the gateway has made.
func checkEnviron(environ Environ) {
	gateway := func(holds bool, rule string) {
		expect("gateway", "environ Variables", holds, rule)
	}
	for key, value := range environ {
		text, ok := value.(string)
		gateway(ok || strings.Contains(key, "."), key+", a CGI variable, is a string")
		switch key {
		case "HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH":
			gateway(false, key+" is called "+strings.TrimPrefix(key, "HTTP_"))
		case "SERVER_PORT", "CONTENT_LENGTH":
			gateway(strings.Trim(text, "0123456789") == "", key+" has digits only")
		case "SCRIPT_NAME", "PATH_INFO":
			gateway(strings.HasPrefix(text+"/", "/"), key+" begins with /")
		}
	}
	for _, key := range []string{"REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT",
		"SERVER_PROTOCOL", "wsgi.url_scheme"} {
		gateway(environ.Get(key) != "", key+" is never empty")
	}
	name, info := environ.Get("SCRIPT_NAME"), environ.Get("PATH_INFO")
	gateway(name != "/", "the root's SCRIPT_NAME is empty, and PATH_INFO is /")
	gateway(name+info != "", "SCRIPT_NAME or PATH_INFO is there")
	gateway(indexNonToken(environ.Get("REQUEST_METHOD")) < 0, "REQUEST_METHOD is a token")
	gateway(environ["wsgi.version"] == [2]int{1, 0}, "wsgi.version is (1, 0)")
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
type validator struct {
	body      Body   // the application's
	status    string // "" until startResponse is called
	iterating bool
	closed    bool
}

// checkedStart checks each call of startResponse, and when its writer is used.
func (v *validator) checkedStart(startResponse StartResponse) StartResponse {
	application := func(holds bool, rule string) {
		expect("application", startSide, holds, rule)
	}
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		changes := len(excInfo) > 0 && excInfo[0] != nil
		application(v.status == "" || changes, "a second call needs excInfo")
		application(len(excInfo) < 2, "there is one excInfo at most")
		_, err := checkHead(status, headers)
		application(err == nil, fmt.Sprint("status and headers are well-formed: ", err))
		for _, header := range headers {
			application(!strings.Contains(header.Name, "_"),
				"a header name with _ is a mistake for -: "+header.Name)
		}
		_, types := lookup(headers, "Content-Type")
		application(!bodyless(status) || types == 0, status+" has no Content-Type")
		application(bodyless(status) || types > 0, status+" has a Content-Type")
		v.status = status
		out := startResponse(status, headers, excInfo...)
		expect("gateway", writeSide, out != nil, "startResponse returns write()")
		return writeFunc(func(block []byte) (int, error) {
			expect("application", writeSide, !v.iterating,
				"write() is called before the body is iterated")
			v.checkBlock(block)
			return out.Write(block)
		})
	}
}

// checkBlock checks that a block may be sent.
func (v *validator) checkBlock(block []byte) {
	expect("application", startSide, v.status != "" || len(block) == 0,
		"startResponse is called before the first block")
	expect("application", gatewaySide, len(block) == 0 || !bodyless(v.status),
		v.status+" has no body")
}

// checkedBlocks gives the blocks, and checks them and how the gateway asks for them.
func (v *validator) checkedBlocks(yield func([]byte) bool) {
	expect("gateway", gatewaySide, !v.iterating, "a body is iterated once")
	expect("gateway", gatewaySide, !v.closed, "no block is asked for after Close")
	v.iterating = true
	n := 0
	for block := range v.body.All() {
		n++
		v.checkBlock(block)
		if !yield(block) {
			return
		}
	}
	expect("application", startSide, v.status != "", "startResponse is called")
	sized, ok := v.body.(interface{ Len() int })
	expect("application", "Handling the Content-Length Header", !ok || sized.Len() == n,
		"Len is the number of blocks")
}

// Close passes the call on, once.
func (v *validator) Close() error {
	expect("gateway", gatewaySide, !v.closed, "Close is called once")
	v.closed = true
	return closeBody(v.body)
}

// ---------------------------------------------------------------- Watching
//
// A recorder watches one exchange in three places: the connection, the result of the
// parser and the call of the application. It turns each step into an event. The narrator
// of -trace prints the events, and the lab's page draws them.

// An event is one step of an exchange.
type event struct {
	At      int64             `json:"at"`                // microseconds since the beginning
	Kind    string            `json:"kind"`              // the page has code for each
	Text    string            `json:"text"`              // a sentence about it
	From    int               `json:"from"`              // its first byte in the request
	To      int               `json:"to"`                // the byte after its last one
	Layer   string            `json:"layer,omitempty"`   // the application or middleware
	Depth   int               `json:"depth,omitempty"`   // 1 is called by the gateway
	Key     string            `json:"key,omitempty"`     // of environ
	Value   string            `json:"value,omitempty"`   // of Key; a status, type or line
	Place   string            `json:"place,omitempty"`   // "request.go#line" or "app.go:221"
	Rule    string            `json:"rule,omitempty"`    // the source of a refusal
	Headers []Header          `json:"headers,omitempty"` // given to startResponse
	Size    int               `json:"size,omitempty"`    // of Data, which may be cut
	Head    int               `json:"head,omitempty"`    // bytes of Data that are the head
	Data    []byte            `json:"data,omitempty"`    // that come, leave or are given
	Environ map[string]string `json:"environ,omitempty"` // all of it
}

// A recorder makes the events of one exchange. The goroutines of an application may call
// add at the same time; the other methods are called by one goroutine at a time.
type recorder struct {
	mu       sync.Mutex
	emit     func(event)
	now      func() time.Time
	begin    time.Time
	logs     bool              // lines of wsgi.errors are events, too
	head     []byte            // bytes received, until they are parsed
	received int               // bytes in all
	parsed   bool              // the head
	refused  bool              // the request
	drains   bool              // our half is closed: what comes is discarded
	method   string            // of the request
	environ  map[string]string // as it was seen last
	stored   event             // the call whose status and headers the gateway has stored
	closed   atomic.Bool       // the connection
	headSent bool
	sent     int // bytes
}

func newRecorder(now func() time.Time, emit func(event)) *recorder {
	return &recorder{emit: emit, now: now, begin: now()}
}

// add completes an event and emits it. Its sentence is formatted as by Sprintf.
func (t *recorder) add(e event, sentence string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.At = t.now().Sub(t.begin).Microseconds()
	e.Value = shorten(e.Value, longValue)
	e.Text = shorten(printable(fmt.Sprintf(sentence, args...)), longText)
	t.emit(e)
}

// plural returns "1 byte" or "2 bytes".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// shorten cuts a text to n characters, and shows that.
func shorten(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-1]) + "…"
}

// inQuotes quotes a value for a sentence; visible has escaped it.
func inQuotes(value string) string { return `"` + shorten(value, 80) + `"` }

// watch is a Server's Watch.
func (t *recorder) watch(c net.Conn, application Application) (
	net.Conn, Application, func(*Request, error)) {
	from := "" // a client on a Unix socket has no address
	if host, port := hostPort(c.RemoteAddr()); host != "" {
		from = " from " + net.JoinHostPort(host, port)
	}
	t.add(event{Kind: "accept"}, "a connection%s is accepted", from)
	return &tap{c, c, c, t}, t.watchedGateway(application), t.onHead
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
	e := event{Kind: "in", From: c.received, To: c.received + n, Size: n}
	c.received = e.To
	if !c.parsed {
		c.head = append(c.head, p[:n]...)
	}
	if n > 0 && c.drains {
		e.Kind = "drained"
		c.add(e, "%s more, read and discarded", plural(n, "byte"))
	} else if n > 0 {
		e.Data = bytes.Clone(p[:n])
		c.add(e, "%s received, from byte %d on", plural(n, "byte"), e.From)
	}
	c.onError("reading", err)
	return n, err
}

// Write also records why the head has a Content-Length, or has none.
func (c *tap) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	e := event{Kind: "out", Size: n, Data: bytes.Clone(p[:n])}
	c.sent += n
	switch head, _, _ := strings.Cut(string(p[:n]), "\r\n\r\n"); {
	case n == 0:
	case c.headSent:
		c.add(e, "%s of the body leave", plural(n, "byte"))
	case strings.HasPrefix(head, "HTTP/1.1 100 "):
		e.Kind = "continue"
		c.add(e, "%s leave: the client may send the body", plural(n, "byte"))
	default:
		e.Kind, e.Head, c.headSent = "head", min(len(head)+len("\r\n\r\n"), n), true
		line, fields, _ := strings.Cut(head, "\r\n")
		_, status, _ := strings.Cut(line, " ")
		c.add(event{Kind: "length"}, "the answer %s", c.lengthReason(status, fields))
		c.add(e, "the head leaves: %s, in one write with %s of the body", status,
			plural(n-e.Head, "byte"))
	}
	c.onError("writing", err)
	return n, err
}

// ReadFrom leaves a file to sendfile(2): only its size is seen.
func (c *tap) ReadFrom(source io.Reader) (int64, error) {
	direct, ok := c.Conn.(io.ReaderFrom) // a CGI program has no Conn: what it writes is seen
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, source)
	}
	n, err := direct.ReadFrom(source)
	c.add(event{Kind: "sendfile", Size: int(n)}, "%s of the file leave by sendfile(2): they "+
		"never enter this program", plural(int(n), "byte"))
	c.onError("writing", err)
	return n, err
}

// CloseWrite ends our half, if such a connection has halves.
func (c *tap) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	c.add(event{Kind: "drain"},
		"the gateway ends its half, and reads on until the client closes")
	c.drains = true
	return half.CloseWrite()
}

// SetLinger asks for a reset in place of an end, where there are resets.
func (c *tap) SetLinger(seconds int) error {
	if tcp, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return tcp.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}

func (c *tap) Close() error {
	if !c.closed.Swap(true) { // a second Close changes nothing
		c.add(event{Kind: "close"}, "the gateway closes the connection")
	}
	return c.Conn.Close()
}

// onError records how reading or writing has failed, if it has.
func (t *recorder) onError(what string, err error) {
	switch {
	case err == nil:
	case err == io.EOF:
		t.add(event{Kind: "eof"}, "the client has ended its half of the connection")
	case errors.Is(err, os.ErrDeadlineExceeded):
		t.add(event{Kind: "timeout"}, "%s ends: its deadline has passed", what)
	default:
		t.add(event{Kind: "broken"}, "%s ends: %v", what, err)
	}
}

// lengthReason says why a head has a Content-Length, or has none.
func (t *recorder) lengthReason(status, fields string) string {
	_, after, found := strings.Cut("\r\n"+fields, "\r\nContent-Length: ")
	length, _, _ := strings.Cut("a Content-Length of "+after, "\r\n")
	if !found {
		length = "no Content-Length"
	}
	_, given := lookup(t.stored.Headers, "Content-Length")
	switch {
	case status != t.stored.Value:
		return "is the gateway's own: it has " + length
	case bodyless(status) && (given == 0 || !strings.HasPrefix(status, "304 ")):
		return "gets " + length + ": " + status + " has no body"
	case given > 0:
		return "has the Content-Length that the application has given"
	case found:
		return "gets " + length + ": the whole body is known"
	case t.method == "HEAD":
		return "has " + length + ": nobody knows how long the body of GET would be"
	}
	return "has " + length + ": nobody knows how long the body will be, so the end of the " +
		"connection ends it"
}

// headLine matches each line of a head, maybe with its CR.
var headLine = regexp.MustCompile(`(?m)^.*$`)

// onHead records what the parser has made of a head: which bytes became which key, and
// where the body begins or which byte was refused.
func (t *recorder) onHead(q *Request, err error) {
	t.parsed, t.headSent = true, q.Version == "HTTP/0.9" // whose answer has no head
	head := string(t.head)
	lines := headLine.FindAllStringIndex(head, -1)
	if strings.HasPrefix(head, "\n") || strings.HasPrefix(head, "\r\n") {
		lines = lines[1:] // an empty line may come before the request line
	}
	if q.Version != "" { // otherwise the request line is refused
		t.addLine(q, lines[0][0])
	}
	environ := Environ{}
	for i, field := range q.Header {
		from, to := lines[i+1][0], lines[i+1][1]
		text := strings.TrimSuffix(head[from:to], "\r")
		t.addField(q, environ, field, event{From: from, To: from + len(text)})
	}
	refusal, refused := err.(*Refusal)
	length, n := lookup(q.Header, "Content-Length")
	switch {
	case refused:
		from, to := badByte(q, refusal, head, lines)
		t.refuse(refusal, from, to)
	case err != nil:
		t.add(event{Kind: "silent"}, "nothing was asked: there will be no answer")
	case q.Length > 0:
		from := lines[len(q.Header)+2][0]
		t.add(event{Kind: "body", From: from, To: from + int(q.Length), Key: "wsgi.input",
			Value: length + " bytes"},
			"the body of the request begins: %s bytes, says Content-Length", length)
	case n > 0:
		t.add(event{Kind: "no body"}, "the request has a Content-Length of 0: no body")
	default:
		t.add(event{Kind: "no body"}, "the request has no Content-Length: no body")
	}
}

// lineParts finds the parts of a request line, which become the keys in lineKeys. The one
// without a key is a fragment.
var (
	lineParts = regexp.MustCompile(`^([^ ]+) (?:\w+://(?:[^/?# ]*@)?([^/?# ]*))?` +
		`([^?# ]*)\??([^# ]*)(#[^ ]*)?(?: (.+))?$`)
	lineKeys = []string{"REQUEST_METHOD", "HTTP_HOST", "PATH_INFO", "QUERY_STRING", "",
		"SERVER_PROTOCOL"}
)

// addLine records what the request line has become, which begins at byte from.
func (t *recorder) addLine(q *Request, from int) {
	at := lineParts.FindStringSubmatchIndex(q.Line)
	for i, value := range []string{q.Method, q.Authority, q.Path, q.Query, "", q.Version} {
		first, end := at[2*i+2], at[2*i+3]
		isTarget := 0 < i && i < 5
		if first < 0 || isTarget && q.Path == "" { // absent, or refused
			continue
		}
		e := event{From: from + first, To: from + end, Key: lineKeys[i]}
		switch text := q.Line[first:end]; {
		case e.Key == "":
			t.drop(e, text, "cut off: a fragment is for the client alone")
		case e.Key == "HTTP_HOST":
			t.tie(e, value, ", from the absolute target")
		case text == "" && value == "/":
			t.tie(e, value, ": an empty path is the root")
		case text != value:
			t.tie(e, value, ", decoded once")
		default:
			t.tie(e, value, "")
		}
	}
}

// addField records in e what a header field has become, or why it is dropped. environ has
// the fields before it.
func (t *recorder) addField(q *Request, environ Environ, field Header, e event) {
	key, ok := environKey(field.Name)
	_, again := environ[key]
	environ.addHeader(field)
	e.Key = key
	switch {
	case !ok && strings.Contains(field.Name, "_"):
		t.drop(e, field.Name, "dropped: with a - instead of _ it would have the same key")
	case !ok:
		t.drop(e, field.Name, "dropped: many programs take HTTP_PROXY for their own setting")
	case key == "HTTP_HOST" && q.Authority != "":
		t.drop(e, field.Name, "dropped: the target says "+visible(q.Authority))
	case again:
		t.tie(e, environ.Get(key), ": joined to what came before")
	default:
		t.tie(e, environ.Get(key), "")
	}
}

// tie records bytes that have become a key of environ, and drop some that have not.
func (t *recorder) tie(e event, value, note string) {
	e.Kind, e.Value = "key", visible(value)
	t.add(e, "%s is %s%s", e.Key, inQuotes(e.Value), note)
}

func (t *recorder) drop(e event, text, why string) {
	e.Kind, e.Key, e.Value = "dropped", "", visible(text)
	t.add(e, "%s is %s", e.Value, why)
}

// badByte returns where the byte of a refusal begins and ends in head: both are the same
// if bytes are missing there.
func badByte(q *Request, r *Refusal, head string, lines [][]int) (from, to int) {
	n := 0 // lines without a mistake
	if q.Header != nil {
		n = 1 + len(q.Header)
	}
	rest := head[lines[n][0]:]
	if rest == "" || r.Line == "" {
		return len(head), len(head)
	}
	if rest[0] == '\n' || strings.HasPrefix(rest, "\r\n") {
		n = 0 // no field has a mistake: one is missing, or the target is not for us
	}
	from = lines[n][0] + r.Offset
	return from, from + min(1, len(r.Line)-r.Offset)
}

// refuse records a refusal, once.
func (t *recorder) refuse(r *Refusal, from, to int) {
	if !t.refused {
		t.add(event{Kind: "refused", From: from, To: to, Value: r.Status, Rule: r.Source,
			Place: r.Place}, "%s: %s", r.Status, r.Reason)
	}
	t.refused = true
}

// watchedGateway records the finished environ, and stores the gateway as a layer in it.
func (t *recorder) watchedGateway(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		if environ[layerKey] == nil { // a local redirect has one
			t.parsed, t.method = true, environ.Get("REQUEST_METHOD")
			t.environ = describe(environ)
			t.add(event{Kind: "environ", Environ: t.environ}, "environ is complete: %s",
				plural(len(t.environ), "key"))
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
			all[key] = shorten(visible(fmt.Sprint(value)), longValue)
		default:
			all[key] = typeName(value)
		}
	}
	return all
}

func typeName(value any) string {
	return strings.ReplaceAll(fmt.Sprintf("%T", value), "main.", "")
}

// A layer is an application or middleware in one call, and the gateway around them. The
// application that is called next finds it in environ, under layerKey.
type layer struct {
	*recorder
	name  string
	depth int
}

const layerKey = "rawsgi.layer"

func (l *layer) add(e event, sentence string, args ...any) {
	if e.Depth = l.depth; e.Depth > 0 {
		e.Layer = l.name
	}
	l.recorder.add(e, sentence, args...)
}

// Write records a line that the layer logs.
func (l *layer) Write(p []byte) (int, error) {
	to, line := "wsgi.errors", strings.TrimSuffix(string(p), "\n")
	if l.depth == 0 {
		to = "the gateway logs"
	}
	l.add(event{Kind: "log", Value: line}, "%s: %s", to, line)
	return len(p), nil
}

// watched returns an application that does the same and records it, if environ has a
// layer. The names of the recorder's functions on the stack of a panic begin with
// "watched", so that frames leaves them out.
func watched(name string, application Application) Application {
	role := "application"
	if _, err := findMiddleware(name); err == nil {
		role = "middleware"
	}
	return func(environ Environ, startResponse StartResponse) (body Body) {
		outer, ok := environ[layerKey].(*layer)
		if !ok {
			return application(environ, startResponse)
		}
		outer.changes(environ)
		l := &layer{outer.recorder, name, outer.depth + 1}
		environ[layerKey] = l
		defer func() { environ[layerKey] = outer }()
		if l.logs {
			stream, own := environ["wsgi.errors"], &errorStream{log: log.New(l, "", 0)}
			environ["wsgi.errors"] = own
			defer func() { own.Flush(); environ["wsgi.errors"] = stream }()
		}
		l.add(event{Kind: "call"}, "%s calls the %s %s", outer.name, role, name)
		l.watchedCall("", func() { body = application(environ, l.watchedStart(startResponse)) })
		return l.record(body)
	}
}

// changes records which keys of environ a layer has changed before it calls the next.
func (l *layer) changes(environ Environ) {
	was, now := l.environ, describe(environ)
	l.environ = now
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if before, had := was[key]; !had || before != now[key] {
			l.add(event{Kind: "changed", Key: key, Value: now[key]}, "%s sets %s to %s; it was %s",
				l.name, key, inQuotes(now[key]), inQuotes(before))
		}
	}
}

// watchedCall calls do, and records a panic that leaves it, or runtime.Goexit.
func (l *layer) watchedCall(what string, do func()) {
	done := false
	defer func() {
		if done {
			return
		}
		reason := recover()
		place, _, _ := strings.Cut(strings.TrimSpace(frames()), " ")
		l.add(event{Kind: "panic", Place: place}, "%s%s panics", what, l.name)
		if r, ok := reason.(*Refusal); ok && r != nil && checkStatus(r.Status) == nil {
			l.refuse(r, l.received, l.received) // e.g. a body is cut short
		}
		if reason != nil {
			panic(reason)
		}
	}()
	do()
	done = true
}

// watchedStart records calls of startResponse, and of the write() that it returns.
func (l *layer) watchedStart(startResponse StartResponse) StartResponse {
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		e := event{Kind: "start", Value: visible(status), Headers: slices.Clone(headers)}
		size, given, separator := plural(len(headers), "header"), "", ": "
		for _, header := range headers {
			given, separator = given+separator+header.Name, ", "
		}
		if len(excInfo) > 0 && excInfo[0] != nil {
			given += fmt.Sprint(", because of an error: ", excInfo[0]) // or a panic of its Error
		}
		if _, file, line, ok := runtime.Caller(1); ok {
			e.Place = fmt.Sprintf("%s:%d", path.Base(file), line)
		}
		l.add(e, "%s calls startResponse(%s) with %s%s", l.name, inQuotes(e.Value), size, given)
		var out io.Writer
		l.watchedCall("the call of startResponse by ", func() {
			out = startResponse(status, headers, excInfo...)
		})
		if l.depth == 1 {
			does := "stores"
			if l.stored.Kind != "" {
				does = "replaces what it has stored with"
			}
			l.stored = event{Kind: "stored", Value: status, Headers: e.Headers, Size: l.sent}
			l.recorder.add(l.stored, "the gateway %s the status and %s; %s sent so far",
				does, size, plural(l.sent, "byte"))
		}
		l.add(event{Kind: "started"}, "startResponse returns write() to %s", l.name)
		return writeFunc(func(block []byte) (int, error) {
			l.gives("write", "calls write() with", block)
			return out.Write(block)
		})
	}
}

// gives records a block: its size and its first longValue bytes.
func (l *layer) gives(kind, verb string, block []byte) {
	start := bytes.Clone(block[:min(len(block), longValue)])
	l.add(event{Kind: kind, Size: len(block), Data: start}, "%s %s %s", l.name, verb,
		plural(len(block), "byte"))
}

// A watchedBody records the blocks of a body, and its Close.
type watchedBody struct {
	Body
	made  Body // by the application: inside, there may be another watchedBody
	layer *layer
}

// A watchedSized is a body with Len, which the gateway asks for.
type watchedSized struct{ watchedBody }

func (b watchedSized) Len() int { return b.Body.(interface{ Len() int }).Len() }

func (b watchedBody) unwatched() Body { return b.made }

// record returns a body that is recorded. A file is returned as it is: the gateway
// recognises it by its type.
func (l *layer) record(body Body) Body {
	b := watchedBody{body, body, l}
	if inner, ok := body.(interface{ unwatched() Body }); ok {
		b.made = inner.unwatched()
	}
	e := event{Kind: "return", Value: typeName(b.made)}
	l.add(e, "%s returns a body, %s", l.name, e.Value)
	switch body.(type) {
	case nil:
		return nil
	case *fileBody:
		l.add(event{Kind: "file"}, "the gateway itself reads, sends and closes the body of %s",
			l.name)
		return body
	case interface{ Len() int }:
		return watchedSized{b}
	}
	return b
}

func (b watchedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		how := "has no more blocks"
		b.layer.watchedCall("the body of ", func() {
			for block := range b.Body.All() {
				b.layer.gives("block", "gives a block of", block)
				if !yield(block) {
					how = "is asked for no more blocks"
					break
				}
			}
		})
		b.layer.add(event{Kind: "enough"}, "%s %s", b.layer.name, how)
	}
}

func (b watchedBody) Close() error {
	if _, ok := b.made.(io.Closer); ok {
		b.layer.add(event{Kind: "closed"}, "Close is called on the body of %s", b.layer.name)
	}
	return closeBody(b.Body)
}

// A narrator prints exchanges as they happen. Bytes from the client begin with >, bytes
// to it with <, what waits in the gateway with =. A call and its return form a bracket; a
// dotted line is a body that is asked for blocks:
//
//	#1 > GET /hello HTTP/1.0\r\n
//	#1   REQUEST_METHOD   "GET" (bytes 0 to 2)
//	#1   ┌ hello
//	#1   │ startResponse("200 OK") with 1 header: Content-Type
//	#1 = the gateway stores the status and 1 header; 0 bytes sent so far
//	#1   └ returns Blocks
//	#1   · block of 14 bytes: "Hello, World!\n"
//	#1 < HTTP/1.0 200 OK\r\n
type narrator struct {
	mu      sync.Mutex
	log     *log.Logger
	brief   bool
	colours map[string]string // of lines, by their signs
	width   int               // columns
	count   int               // exchanges begun
	last    int               // the exchange of the last line
}

// The colours of a terminal for what comes, what leaves, what waits and what is wrong.
var colours = map[string]string{">": "\x1b[36m", "<": "\x1b[32m", "=": "\x1b[33m",
	"!": "\x1b[31m"}

// newNarrator makes a narrator for lines of COLUMNS characters, or 80, and with colours
// if the log is a terminal and NO_COLOR is not set.
func newNarrator(errorLog *log.Logger, brief bool) *narrator {
	n := &narrator{log: errorLog, brief: brief, width: 80}
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil {
		n.width = max(40, min(width, 1000))
	}
	if file, ok := errorLog.Writer().(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		if info, err := file.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			n.colours = colours
		}
	}
	return n
}

// narrate makes a narrator print the exchanges of a server.
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
	return streams, streams, t.watchedGateway(application)
}

// recorder returns a recorder of an exchange, whose events are printed with its number.
func (n *narrator) recorder() *recorder {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count++
	number, last := n.count, int64(0)
	return newRecorder(time.Now, func(e event) {
		n.print(number, n.lines(e, time.Duration(e.At-last)*time.Microsecond))
		last = e.At
	})
}

// details are the events that a brief trace leaves out.
var details = []string{"accept", "key", "body", "no body", "length", "enough", "drain",
	"drained", "eof"}

// lines returns the lines of an event, and before them the time since the event before, if
// that is long. Of bytes that come or leave it shows 12 lines, or 1 in a brief trace.
func (n *narrator) lines(e event, pause time.Duration) (lines []string) {
	if e.Kind == "started" || n.brief && slices.Contains(details, e.Kind) {
		return nil // the line of startResponse is enough
	}
	if unit := 50 * time.Millisecond; pause > unit {
		lines = append(lines, fmt.Sprintf("  (%v later)", pause.Round(unit)))
	}
	sign := map[string]string{"in": "> ", "head": "< ", "out": "< ", "continue": "< "}[e.Kind]
	if sign == "" {
		return append(lines, e.line())
	}
	most, left := 12, len(e.Data)
	if n.brief {
		most = 1
	}
	for line := range strings.Lines(string(e.Data)) {
		shown := sign + shorten(visible(line[:min(len(line), longValue)]), 2*n.width)
		left -= len(line)
		if most--; most == 0 && left > 0 {
			return append(lines, shown+" … and "+plural(left, "byte")+" more")
		}
		lines = append(lines, shown)
	}
	return lines
}

// line returns the line of -trace for an event: its sign, its depth, and its sentence
// without the words that the sign or the bracket replaces.
func (e event) line() string {
	dots, bars := strings.Repeat("· ", e.Depth), strings.Repeat("│ ", e.Depth)
	outer, data := strings.TrimSuffix(bars, "│ "), ": "+quote(string(e.Data))
	_, does, _ := strings.Cut(e.Text, " calls ")
	switch e.Kind {
	case "key":
		value := strings.TrimPrefix(e.Text, e.Key+" is ")
		return fmt.Sprintf("  %-16s %s (%s)", e.Key, value, e.span())
	case "dropped":
		return "  (dropped)        " + e.Text
	case "refused":
		return fmt.Sprintf("! %s (%s, byte %d, counted from 0)", e.Text, e.Rule, e.From)
	case "stored":
		return "= " + e.Text
	case "call":
		return "  " + outer + "┌ " + e.Layer
	case "start":
		return "  " + bars + does
	case "write":
		return "  " + bars + does + data
	case "return":
		return "  " + outer + "└ returns " + e.Value
	case "panic":
		return "! " + outer + "└ " + e.Text
	case "block":
		return "  " + dots + "block of " + plural(e.Size, "byte") + data
	case "enough", "closed":
		return "  " + dots + e.Text
	}
	return "  " + bars + e.Text
}

// span names the bytes of an event.
func (e event) span() string {
	switch e.To - e.From {
	case 0:
		return "no byte"
	case 1:
		return fmt.Sprint("byte ", e.From)
	}
	return fmt.Sprintf("bytes %d to %d", e.From, e.To-1)
}

// print prints lines of an exchange. An empty line separates those of two exchanges.
func (n *narrator) print(number int, lines []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	mark := fmt.Sprintf("#%d ", number)
	for _, line := range lines {
		if n.last != 0 && n.last != number {
			fmt.Fprintln(n.log.Writer())
		}
		n.last = number
		colour, plain := n.colours[line[:1]], ""
		if colour != "" {
			plain = "\x1b[0m"
		}
		for _, part := range wrapWords(line, n.width-len(n.log.Prefix()+mark)) {
			n.log.Print(mark + colour + part + plain)
		}
	}
}

// wrapWords breaks a line at the last space in the second half of the width, or else at
// the width. The following lines are indented like the first, without its sign.
func wrapWords(line string, width int) (parts []string) {
	text := strings.TrimLeft(line, "!=<> │·")
	indent := []rune(" " + line[1:len(line)-len(text)] + "  ")
	indent = indent[:min(len(indent), width/2)]
	runes := []rune(line)
	for len(runes) > width {
		at := width
		for at > width/2 && runes[at] != ' ' {
			at--
		}
		if at == width/2 {
			at = width
		}
		parts = append(parts, string(runes[:at]))
		rest := strings.TrimLeft(string(runes[at:]), " ")
		runes = append(slices.Clone(indent), []rune(rest)...)
	}
	return append(parts, string(runes))
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
	labLayers  = 10              // of middleware
	labEvents  = 5000            // events shown
	labData    = 256 * 1024      // bytes in them, with their texts
	longText   = 400             // characters of a sentence
	longValue  = 512             // characters of a value, bytes of a block
)

// A lab answers with a page, and runs the experiments of that page: it sends the bytes of
// a request to another Server, over a connection in memory, and the events back to the
// page. A page without a server runs this program in the browser, compiled to WebAssembly,
// with -cgi.
type lab struct {
	apps     map[string]Application
	running  chan bool     // holds a value for each experiment that runs
	patience time.Duration // for a turn, and for the end of an experiment
	open     bool          // to other machines as well
}

// newLab makes the lab. It has no proxy and no CGI host: an experiment reaches nothing
// outside this program.
func newLab(entries []entry, open bool) Application {
	l := &lab{apps: map[string]Application{}, running: make(chan bool, labAtOnce),
		patience: 2 * labTime, open: open}
	for _, each := range entries {
		l.apps[each.Name] = each.App
	}
	delete(l.apps, "proxy")
	delete(l.apps, "cgi")
	l.apps["clock"] = watched("clock", newClock(3, 100*time.Millisecond))
	return l.app
}

// The page loads nothing, and may send requests only to the server that it comes from.
var labHeaders = []Header{{"Content-Type", "text/html; charset=utf-8"},
	{"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; " +
		"script-src 'unsafe-inline'; connect-src 'self'; img-src data:; form-action 'none'; " +
		"base-uri 'none'; frame-ancestors 'none'"}, nosniff, {"Referrer-Policy", "no-referrer"}}

// app answers with the page, a source file, or the events of an experiment. The client
// must be on this machine, and Host must be a name of this machine: another site could
// give its own name our address.
func (l *lab) app(environ Environ, startResponse StartResponse) Body {
	host := (&url.URL{Host: environ.Get("HTTP_HOST")}).Hostname()
	name, err := netip.ParseAddr(host)
	isOurs := host == "" || host == "localhost" || err == nil && name.IsLoopback()
	if !l.open && !(isOurs && onThisMachine(environ)) {
		return plainly(startResponse, "403 Forbidden", "The lab is for this machine alone, at "+
			"localhost or 127.0.0.1, unless it is started with -open-lab.")
	}
	place, info := environ.Get("SCRIPT_NAME"), environ.Get("PATH_INFO")
	code, err := sources.ReadFile(strings.TrimPrefix(info, "/"))
	switch {
	case info == "" || info == "/":
		startResponse("200 OK", labHeaders)
		return Blocks{[]byte(strings.Replace(labPage, "<!-- where the lab is -->",
			`<meta name="lab" content="`+template.HTMLEscapeString(place)+`">`, 1))}
	case info == "/run":
		return l.run(environ, startResponse)
	case err == nil:
		startResponse("200 OK", textAtOnce)
		return Blocks{code}
	}
	return notFound(startResponse, "The lab is at "+place)
}

// onThisMachine reports whether the client is on this machine and has not come through a
// proxy that is.
func onThisMachine(environ Environ) bool {
	client, err := netip.ParseAddr(environ.Get("REMOTE_ADDR"))
	return err == nil && client.IsLoopback() && environ.Get("HTTP_X_FORWARDED_FOR") == "" &&
		environ.Get("HTTP_FORWARDED") == "" && environ.Get("HTTP_VIA") == ""
}

// run makes an experiment. If many run at once, it waits for its turn: a whole class may
// press Run at the same time. Its wait for an application has a limit, because nothing
// can end a goroutine from outside.
func (l *lab) run(environ Environ, startResponse StartResponse) Body {
	site, origin := environ.Get("HTTP_SEC_FETCH_SITE"), environ.Get("HTTP_ORIGIN")
	if site != "" && site != "same-origin" || origin != "" && origin != baseURL(environ) ||
		environ.Get("REQUEST_METHOD") != "POST" ||
		environ.Get("CONTENT_TYPE") != "application/json" { // which no form can send
		return plainly(startResponse, "403 Forbidden",
			"An experiment is a POST of application/json from the lab's own page.")
	}
	application, client, err := l.prepare(environ["wsgi.input"].(io.Reader))
	if err != nil {
		return plainly(startResponse, badRequest, err.Error())
	}
	client.port, _ = strconv.Atoi(environ.Get("SERVER_PORT")) // a Unix socket has none
	select {
	case l.running <- true: // until the experiment ends
	case <-time.After(l.patience):
		return plainly(startResponse, unavailable,
			"Too many experiments at once: try again.", retryAfter)
	}
	var seen eventLog
	ended := make(chan bool)
	go func() {
		defer func() { <-l.running; close(ended) }() // also after runtime.Goexit
		client.end = time.Now().Add(labTime)
		seen.serve(application, client)
	}()
	if !endsWithin(ended, l.patience) {
		return plainly(startResponse, unavailable, "The application has not "+
			"ended: does it wait for ever, or loop? Only the end of this server can stop it.")
	}
	content, err := json.Marshal(seen.events)
	if err != nil {
		panic(err) // impossible: it is made of strings and numbers
	}
	startResponse("200 OK", []Header{{"Content-Type", "application/json"},
		{"Cache-Control", "no-store"}})
	return Blocks{content}
}

// prepare returns the application of an experiment, with its middleware, and the client.
// The lab's page sends an experiment as JSON.
func (l *lab) prepare(input io.Reader) (Application, *labConn, error) {
	type experiment struct {
		Request string // with the escapes of rawsgi send
		App     string
		Use     string // middleware
		Arrival string // how its bytes reach the server
	}
	var x experiment
	err := json.NewDecoder(io.LimitReader(input, 8*labRequest)).Decode(&x)
	if err != nil {
		return nil, nil, fmt.Errorf("the experiment cannot be read: %w", err)
	}
	text, err := unescape(x.Request)
	whole, half := []string{text}, []string{text[:len(text)/2]}
	lines := slices.Collect(strings.Lines(text))
	client := map[string]*labConn{
		"at once":                                {pieces: whole},
		"byte by byte":                           {pieces: pieces(text, 1)},
		"a pause of 2 s before each line":        {pieces: lines, pause: 2 * time.Second},
		"all, then the client ends its half":     {pieces: whole, ends: true},
		"the first half, then the client leaves": {pieces: half, ends: true},
		"the first half, then silence":           {pieces: half},
	}[x.Arrival]
	application := l.apps[x.App]
	switch {
	case err != nil:
	case len(text) > labRequest:
		err = fmt.Errorf("expected at most %d bytes in a request, got %d", labRequest, len(text))
	case application == nil:
		err = fmt.Errorf("no application here is called %s", quote(x.App))
	case strings.Count(x.Use, ",") >= labLayers:
		err = fmt.Errorf("expected at most %d layers of middleware", labLayers)
	case client == nil:
		err = fmt.Errorf("no arrival is called %s", quote(x.Arrival))
	default:
		application, err = withMiddleware(application, x.Use)
	}
	return application, client, err
}

// escape matches an escape of a Go string, or the beginning of a wrong one.
var escape = regexp.MustCompile(`(?s)\\(x..|u.{4}|U.{8}|[0-7]{3}|.)?`)

// unescape turns the escapes of a Go string into bytes: `\r\n` into two, `\x00` into one.
func unescape(text string) (plain string, err error) {
	plain = escape.ReplaceAllStringFunc(text, func(escaped string) string {
		char, wrong := strconv.Unquote(`"` + escaped + `"`)
		if wrong != nil && err == nil {
			err = fmt.Errorf(`expected escapes like \r \n \t \\ \x00, got "%s"`, escaped)
		}
		return char
	})
	return plain, err
}

// pieces cuts text into pieces of n bytes, or not at all.
func pieces(text string, n int) (all []string) {
	for ; n > 0 && len(text) > n; text = text[n:] {
		all = append(all, text[:n])
	}
	return append(all, text)
}

// An eventLog collects events up to the limits. A recorder adds one at a time.
type eventLog struct {
	events []event
	size   int
}

// serve serves one connection and collects what happens.
func (l *eventLog) serve(application Application, client *labConn) {
	server := newServer(application)
	t := newRecorder(client.now, l.add)
	t.logs = true
	server.Watch, server.ErrorLog = t.watch, log.New(&layer{recorder: t}, "", 0)
	server.serveConn(client)
}

func (l *eventLog) add(e event) {
	l.size += len(e.Data) + len(e.Value+e.Text) + len(fmt.Sprint(e.Headers))
	if l.size > labData {
		e.Data, e.Value, e.Headers = nil, shorten(e.Value, 40), nil
		e.Text = shorten(e.Text, 80) + " (not shown: there was too much before)"
	}
	if len(l.events) == labEvents {
		e = event{At: e.At, Kind: "limit", Text: "the rest is not shown"}
	}
	if len(l.events) <= labEvents {
		l.events = append(l.events, e)
	}
}

// A labConn is the server's end of a connection to a simulated client. It does not wait
// for pauses and deadlines to pass: its clock goes ahead.
type labConn struct {
	net.Conn               // nil: a server calls no more than the methods below
	pieces   []string      // to come
	pause    time.Duration // before each
	rest     string        // of the piece that comes now
	ends     bool          // after the last piece the client ends its half, or waits
	ahead    time.Duration // the clock
	left     time.Duration // until a read fails
	end      time.Time     // when the experiment must be over
	port     int           // of the server
}

func (c *labConn) now() time.Time { return time.Now().Add(c.ahead) }

// wait lets time pass, until the deadline at most.
func (c *labConn) wait(d time.Duration) error {
	passes := min(d, c.left)
	c.ahead, c.left = c.ahead+passes, c.left-passes
	if passes < d {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *labConn) Read(p []byte) (int, error) {
	if c.rest == "" && len(c.pieces) > 0 {
		if err := c.wait(c.pause); err != nil {
			return 0, err
		}
		c.rest, c.pieces = c.pieces[0], c.pieces[1:]
	}
	if c.rest == "" && c.ends {
		return 0, io.EOF
	} else if c.rest == "" {
		return 0, c.wait(math.MaxInt64)
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Write takes everything: the recorder has seen it.
func (c *labConn) Write(p []byte) (int, error) {
	if time.Now().After(c.end) {
		return 0, os.ErrDeadlineExceeded
	}
	return len(p), nil
}

// SetReadDeadline sets how much time may pass. Rounding removes what has passed already.
func (c *labConn) SetReadDeadline(t time.Time) error {
	c.left = max(0, time.Until(t).Round(10*time.Millisecond))
	return nil
}

// CloseWrite makes the client end its half after its last piece.
func (c *labConn) CloseWrite() error { c.ends = true; return nil }

func (c *labConn) SetWriteDeadline(time.Time) error { return nil }
func (c *labConn) Close() error                     { return nil }
func (c *labConn) LocalAddr() net.Addr              { return loopback(c.port) }
func (c *labConn) RemoteAddr() net.Addr             { return loopback(49152) }

func loopback(port int) net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
}

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
	"context"
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
		{"hello", "PEP 3333", "08-start-response", "curl -i URL", hello,
			"The smallest application: a function that returns one block."},
		{"class", "PEP 3333", "08-start-response", "curl -i URL", class,
			"The body is an object; it calls startResponse when its blocks are asked for."},
		{"environ", "PEP 3333", "07-environ", "curl -d name=value 'URL/path?a=4&b=4'",
			showEnviron, "Prints what an application knows of its request, and how long the " +
				"body was."},
		{"write", "PEP 3333", "08-start-response", "curl -i URL", write,
			"The imperative way: startResponse returns a writer."},
		{"clock", "PEP 3333", "08-start-response", "curl -N URL", clock,
			"A generator: ten blocks, one each second, each sent at once."},
		{"echo", "PEP 3333", "05-body", "curl --data-binary @README.md URL", echo,
			"Sends the body of the request back, block by block."},
		{"errors", "PEP 3333", "08-start-response", "curl -i URL/before URL/after URL/excinfo",
			failing, "Fails before its head is sent, or after it, or changes its mind in time."},
		{"form", "the cgi module", "10-middleware",
			"curl -F name=value -F file=@README.md URL", form,
			"Takes a form and an upload apart and shows the fields."},
		{"files", "RFC 1945", "10-middleware", "curl -i URL/", newFiles(c.Root),
			"A directory (-root), sent with wsgi.file_wrapper and If-Modified-Since."},
		{"mount", "mod_wsgi's WSGIScriptAlias", "10-middleware", "curl URL/a/x URL/b/x",
			mount(map[string]Application{"/a": showEnviron, "/b": hello}, showEnviron),
			"Two applications side by side: the path moves to SCRIPT_NAME."},
		{"proxy", "RFC 9110", "13-in-front-and-behind", "curl -i URL/",
			newProxy(c.Upstream, c.Timeout),
			"Forwards to other servers (-upstream), in turn, over HTTP/1.0."},
		{"cgi", "RFC 3875", "11-cgi", "curl -i URL", newCGI(c.Script, c.Timeout, c.Programs),
			"Runs a CGI program (-script) for each request."},
	}
	entries = append(entries, entry{"lab", "our own", "00-map", "open URL in a browser",
		newLab(entries, c.OpenLab), "Type raw bytes, and watch what becomes of each."})
	routes := map[string]Application{}
	for i, entry := range entries {
		if c.Trace {
			entry.App = watched(entry.Name, entry.App)
			entries[i] = entry
		}
		routes["/"+entry.Name] = entry.App
	}
	gallery := mount(routes, newIndex(entries))
	if c.Trace {
		gallery = watched("gallery", gallery)
	}
	return append(entries, entry{"gallery", "our own", "00-map", "curl -i URL", gallery,
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

// textPlain is the header of a plain text. A browser first waits for enough bytes to
// guess the type; nosniff tells it to show each block as it comes, and never to guess.
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
		case *recorder: // of the lab or -trace: hides its own key
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

// Command returns the command to try an application that is mounted at a URL.
func (e entry) Command(mounted string) string {
	return strings.ReplaceAll(e.Try, "URL", mounted+"/"+e.Name)
}

// Lab returns a link to an experiment with it in the lab at place, "" if there is none.
func (e entry) Lab(place string) string { return labLink(place, e.Name) }

// newIndex makes the page of the gallery. The page loads nothing else, not even an icon.
func newIndex(entries []entry) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		mounted := escapePath(environ.Get("SCRIPT_NAME"))
		if info := environ.Get("PATH_INFO"); info != "/" && info != "" {
			return notFound(startResponse, "The index is at "+mounted+"/")
		}
		return htmlPage(startResponse, "index", map[string]any{"Entries": entries,
			"Mounted": mounted, "URL": baseURL(environ) + mounted, "Lab": mounted + "/lab"})
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

// escapeURI percent-encodes the bytes that a URI may not have. (RFC 3986 §2)
//
//	/a b?q="%41%" → /a%20b?q=%22%41%25%22
func escapeURI(s string) string {
	var b strings.Builder
	for i := range len(s) {
		_, badEscape := url.PathUnescape(s[i:min(i+3, len(s))])
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`"<>[\]^{|}`+"`", s[i]) >= 0 ||
			s[i] == '%' && badEscape != nil {
			fmt.Fprintf(&b, "%%%02X", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// form shows the fields that a browser makes of a form: the query string, a body in the
// coding of query strings, or a body of parts with files in it. What is broken or too
// large is refused, by a panic with a *Refusal, which the gateway answers with its
// status.
func form(environ Environ, startResponse StartResponse) Body {
	return htmlPage(startResponse, "form", readForm(environ))
}

// A formField is one line of the table that form shows.
type formField struct{ From, Name, Value string }

// Limits of a form.
const (
	formBytes  = 1 << 20 // in an urlencoded body, which is held in memory
	formFields = 10000   // in a query string or an urlencoded body
	formParts  = 1000    // in a body of parts
	partHead   = 2048    // bytes in the head of one part: its name is held in memory
	partBytes  = 1000    // of each part are shown
)

// readForm takes the query string and the body apart.
func readForm(environ Environ) []formField {
	fields := readQuery("query", environ.Get("QUERY_STRING"))
	contentType, input := environ.Get("CONTENT_TYPE"), environ["wsgi.input"].(io.Reader)
	if contentType == "" {
		return fields
	}
	kind, params, err := mime.ParseMediaType(contentType)
	allow(err == nil, badRequest, "RFC 9110 §8.3.1",
		"expected a Content-Type like text/plain; charset=utf-8, got %s", quote(contentType))
	charset := cmp.Or(params["charset"], "utf-8")
	allow(strings.EqualFold(charset, "utf-8"), "415 Unsupported Media Type",
		"RFC 9110 §15.5.16", "expected a form in UTF-8, got charset=%s", quote(charset))
	switch kind {
	case "application/x-www-form-urlencoded":
		body, err := io.ReadAll(io.LimitReader(input, formBytes+1))
		allowPart(err)
		allowSize(len(body) <= formBytes, "a form may have %d bytes; send files as "+
			"multipart/form-data", formBytes)
		return append(fields, readQuery("body", string(body))...)
	case "multipart/form-data":
		return append(fields, readParts(input, params["boundary"])...)
	}
	return fields
}

// allow panics with a *Refusal if a form breaks a rule.
func allow(holds bool, status, source, format string, args ...any) {
	if !holds {
		panic(refuse(status, source, "", 0, format, args...))
	}
}

// allowSize panics with a 413 if a form is over one of its limits.
func allowSize(holds bool, format string, limit int) {
	allow(holds, tooLarge, "RFC 9110 §15.5.14", format, limit)
}

// allowPart panics with a 400 for an error of mime/multipart, or with the *Refusal in it,
// if the body did not arrive whole or the head of a part is too large.
func allowPart(err error) {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(refusal)
	}
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
		allowSize(len(fields) < formFields, "a form may have %d fields", formFields)
		name, value, _ := strings.Cut(pair, "=")
		name, badName := url.QueryUnescape(name)
		value, badValue := url.QueryUnescape(value)
		err := errors.Join(badName, badValue)
		allow(err == nil, badRequest, "HTML 4.01 §17.13.4", "expected name=value&name=value, "+
			"escaped as in a URL: %s", quote(fmt.Sprint(err)))
		fields = append(fields, formField{from, name, value})
	}
	return fields
}

// readParts goes through the parts of a body and keeps the beginning of each. A body that
// ends before its closing delimiter has been cut. (RFC 7578 §4.1, RFC 2046 §5.1.1)
func readParts(input io.Reader, boundary string) (fields []formField) {
	// The line end after the closing delimiter is optional, but mime/multipart needs it.
	limited := &headLimit{Reader: io.MultiReader(input, strings.NewReader("\r\n"))}
	parts := multipart.NewReader(limited, boundary)
	for {
		limited.inHead, limited.allowed = true, partHead
		part, err := parts.NextRawPart() // a part has no coding of its own (RFC 7578 §4.7)
		limited.inHead = false
		if err == io.EOF && len(fields) > 0 {
			return fields
		}
		allowPart(err) // with io.EOF, a form without a part
		allowSize(len(fields) < formParts, "a form may have %d parts", formParts)
		name, file := disposition(part.Header["Content-Disposition"])
		fields = append(fields, formField{"part", name, readPart(part, file)})
	}
}

// extended matches a parameter like filename*=UTF-8”x, and each quoted string as a whole.
var extended = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|;[^"=;]*\*[ \t]*=[^";]*`)

// disposition returns the name of a part, and that of the file in it, "" if there is
// none. filename* must not be used. (RFC 7578 §4.2)
//
//	form-data; name="a"; filename="b.txt"; filename*=UTF-8''c → "a", "b.txt"
func disposition(values []string) (name, file string) {
	value := strings.Join(values, ", ")
	plain := extended.ReplaceAllStringFunc(value, func(match string) string {
		if match[0] == '"' {
			return match
		}
		return ""
	})
	kind, params, err := mime.ParseMediaType(plain)
	name, named := params["name"]
	allow(err == nil && kind == "form-data" && named, badRequest, "RFC 7578 §4.2",
		`expected one Content-Disposition: form-data; name="x" in each part, got %s`,
		quote(value))
	return name, params["filename"]
}

// readPart returns the beginning of a field, or says how large a file is.
func readPart(part *multipart.Part, file string) string {
	start, err := io.ReadAll(io.LimitReader(part, partBytes))
	allowPart(err)
	rest, err := io.Copy(io.Discard, part)
	allowPart(err)
	switch {
	case file != "":
		return fmt.Sprintf("the file %s, %d bytes of %s", file, int64(len(start))+rest,
			part.Header.Get("Content-Type"))
	case rest > 0:
		return string(start) + "…"
	}
	return string(start)
}

// A headLimit limits the head of each part of a body, of which mime/multipart alone would
// hold 10 MB. That package reads ahead, so the limit counts the bytes that it reads
// between the end of one part and the end of the next head. It does not read to the end
// of a form that is whole.
type headLimit struct {
	io.Reader
	inHead  bool
	allowed int // bytes, while inHead
}

func (h *headLimit) Read(p []byte) (int, error) {
	if h.inHead {
		allowSize(h.allowed > 0, "the head of a part may have %d bytes", partHead)
		p = p[:min(len(p), h.allowed)]
	}
	n, err := h.Reader.Read(p)
	h.allowed -= n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
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
		var body Body
		root, err := os.OpenRoot(directory)
		if err == nil {
			defer root.Close() // files opened below stay open
			body, err = servePath(root, environ, startResponse)
		}
		if err != nil {
			return cannotServe(environ, startResponse, err)
		}
		return body
	}
}

// servePath serves the file or directory that PATH_INFO names. An error means that it
// cannot be opened.
func servePath(root *os.Root, environ Environ, startResponse StartResponse) (Body, error) {
	info := environ.Get("PATH_INFO")
	name := cmp.Or(strings.Trim(info, "/"), ".")
	file, stat, err := openFile(root, name)
	if err != nil {
		return nil, err
	}
	slash := strings.HasSuffix(info, "/")
	if !stat.IsDir() && !slash {
		return serveFile(file, stat, environ, startResponse), nil
	}
	defer file.Close()
	switch {
	case !stat.IsDir():
		return nil, os.ErrNotExist
	case !slash:
		return redirect(environ, startResponse, environ.Get("SCRIPT_NAME")+info+"/"), nil
	}
	index, stat, err := openFile(root, path.Join(name, "index.html"))
	if err == nil && !stat.IsDir() {
		return serveFile(index, stat, environ, startResponse), nil
	}
	index.Close() // fails if there is none
	return listDirectory(root, name, file, environ, startResponse)
}

// nonblock is O_NONBLOCK, which package syscall does not have for every system.
var nonblock = map[string]int{"linux": 0x800, "darwin": 4, "freebsd": 4, "netbsd": 4,
	"openbsd": 4, "dragonfly": 4}[runtime.GOOS]

// openFile opens a file or directory. A pipe or a device could block for ever: neither is
// opened for waiting, nor served. The opened file is asked, because names can change.
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
// if too many files are open, which is nobody else's fault, otherwise 404, so that nobody
// learns which files exist outside the directory.
func cannotServe(environ Environ, startResponse StartResponse, err error) Body {
	switch {
	case errors.Is(err, os.ErrPermission):
		return plainly(startResponse, "403 Forbidden", "This server may not read it.")
	case outOfFiles(err):
		fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "503: %v\n", err)
		return unavailable(startResponse, "Too many files are open: try again.")
	}
	return notFound(startResponse, "No file has this name.")
}

// outOfFiles reports whether this process, or the whole system, has too many open files.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// redirect sends the client to another path of this server. RFC 1945 §10.11 wants a whole
// URL.
func redirect(environ Environ, startResponse StartResponse, to string) Body {
	location := baseURL(environ) + escapePath(to)
	if query := environ.Get("QUERY_STRING"); query != "" {
		location += "?" + escapeURI(query)
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
	if !modifiedSince(modified, environ) {
		file.Close()
		startResponse("304 Not Modified", headers)
		return Blocks{}
	}
	headers = append(headers, Header{"Content-Type", contentType(stat.Name())}, nosniff)
	startResponse("200 OK", headers)
	if wrapper, ok := environ["wsgi.file_wrapper"].(func(io.Reader, ...int) Body); ok {
		return wrapper(file)
	}
	return newFileWrapper(file) // a gateway need not have one
}

// contentType guesses the type of a file from its name.
func contentType(name string) string {
	if extension := path.Ext(name); !listed(".md,.go", extension) {
		return cmp.Or(mime.TypeByExtension(extension), "application/octet-stream")
	}
	return textPlain[0].Value // so that browsers show them
}

// httpDate is the form of dates that HTTP prefers.
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// parseDate reads a date in this form or in one of the two that HTTP had before. The
// second has a year of two digits: not more than 50 years ahead. (RFC 9110 §5.6.7)
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

// modifiedSince reports whether a file was modified after the client's copy. The answer
// is yes without a date that can be read and is not in the future; and with
// If-None-Match, for which a server ignores the date. (RFC 1945 §10.9; RFC 9110 §13.1.3)
func modifiedSince(modified time.Time, environ Environ) bool {
	since, err := parseDate(environ.Get("HTTP_IF_MODIFIED_SINCE"))
	return err != nil || environ["HTTP_IF_NONE_MATCH"] != nil ||
		modified.After(since) || since.After(time.Now())
}

// listDirectory sends a list of the files and directories in a directory, whose links are
// relative and escaped. The list leaves out what is always refused: names with control
// characters, links that lead out or nowhere, pipes and devices.
func listDirectory(root *os.Root, name string, directory *os.File, environ Environ,
	startResponse StartResponse) (Body, error) {
	names, err := directory.Readdirnames(-1)
	if err != nil {
		return nil, err // e.g. it has been removed
	}
	links := map[string]string{} // the template takes them in order
	for _, item := range names {
		stat, err := root.Stat(path.Join(name, item))
		if err != nil || indexControl(item) >= 0 {
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

// A cgiHost is the host's side of CGI: an application that starts a program for each
// request. (RFC 3875)
type cgiHost struct {
	script  string // the program, or a directory of programs
	timeout time.Duration
	slots   chan bool // holds a value for each program that runs
}

// newCGI makes the application; limit is how many programs may run at once, 0 means 64.
func newCGI(script string, timeout time.Duration, limit int) Application {
	h := &cgiHost{script, timeout, make(chan bool, cmp.Or(limit, 64))}
	return h.app
}

// app runs the program that the request names, and passes on its answer.
func (h *cgiHost) app(environ Environ, startResponse StartResponse) Body {
	if h.script == "" {
		return htmlPage(startResponse, "cgi", nil) // says how to name one
	}
	file, stat, err := h.find(environ)
	switch {
	case err != nil:
		return cannotServe(environ, startResponse, err)
	case !stat.Mode().IsRegular() || runtime.GOOS != "windows" && stat.Mode()&0o111 == 0:
		return plainly(startResponse, "403 Forbidden", "This is not a program: see chmod +x.")
	}
	select {
	case h.slots <- true: // until the program has ended
	default:
		return unavailable(startResponse, "Too many CGI programs run at once: try again.")
	}
	var body Body
	p, err := h.start(file, environ)
	if err == nil {
		body, err = p.respond(environ, startResponse)
	}
	if err != nil {
		body = badGateway(environ, startResponse, err)
		logHint(environ, file, err)
	}
	return body
}

// find returns the path of the program. In a directory of them, the first segment of
// PATH_INFO is its name, and moves to SCRIPT_NAME. A link could lead out of there.
func (h *cgiHost) find(environ Environ) (file string, stat os.FileInfo, err error) {
	if file, err = filepath.Abs(h.script); err == nil {
		stat, err = os.Stat(file)
	}
	if err != nil || !stat.IsDir() {
		return file, stat, err
	}
	info := environ.Get("PATH_INFO")
	name, _, _ := strings.Cut(strings.TrimPrefix(info, "/"), "/")
	if name == "" || !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) {
		return "", nil, os.ErrNotExist
	}
	environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + "/" + name
	environ["PATH_INFO"] = strings.TrimPrefix(info, "/"+name)
	file = filepath.Join(file, name)
	stat, err = os.Lstat(file)
	return file, stat, err
}

// start gives the request to a program, which runs in its directory, with a small clean
// environment and in a process group of its own.
func (h *cgiHost) start(file string, environ Environ) (*program, error) {
	ctx, kill := context.WithCancel(context.Background())
	p := &program{Cmd: exec.CommandContext(ctx, file), timeout: h.timeout, kill: kill,
		patience: h.timeout, ended: make(chan bool), slots: h.slots}
	p.Dir, p.Env = filepath.Dir(file), cgiVariables(file, environ)
	p.Stderr = environ["wsgi.errors"].(io.Writer)
	p.SysProcAttr, p.Cancel, p.WaitDelay = ownGroup(), p.killGroup, moment
	started := false
	defer func() {
		if !started { // an error, or a panic about a body that did not arrive whole
			p.free()
		}
	}()
	body, err := spool(environ)
	if err != nil {
		return nil, err
	}
	defer body.Close() // the program has its own descriptor
	if body != nil {
		p.Stdin, p.body = body, body.Name()
	}
	output, stdout, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	p.output, p.Stdout = output, stdout
	if err := p.Start(); err != nil {
		output.Close()
		return nil, err
	}
	started = true
	programs.Store(p, nil)
	go p.wait()
	return p, nil
}

// A program is a CGI program that runs. Read reads its output.
type program struct {
	*exec.Cmd
	timeout  time.Duration
	body     string // the file of its standard input; "" if the request has no body
	output   *os.File
	hasHead  bool          // the head of its answer has been read
	patience time.Duration // for the next Read
	kill     func()        // ends it and its child processes
	ended    chan bool     // closed when they have ended
	slots    <-chan bool
}

// programs are the CGI programs that run: the keys are *program.
var programs sync.Map

// endScripts ends them all, before this program ends.
func endScripts() {
	programs.Range(func(p, _ any) bool {
		p.(*program).killGroup() // fails if it has just ended
		return true
	})
}

// spool writes the body of the request to a file, nil if there is none: a program can
// then read it or not, in its own time, and gets its end when it has read CONTENT_LENGTH
// bytes. (RFC 3875 §4.2)
func spool(environ Environ) (file *os.File, err error) {
	if length := environ.Get("CONTENT_LENGTH"); length == "" || length == "0" {
		return nil, nil
	}
	if file, err = os.CreateTemp("", "rawsgi-body-"); err != nil {
		return nil, err
	}
	// On Unix, the file without a name lives while it is open, whatever happens to us. On
	// Windows this fails, and free removes the file.
	os.Remove(file.Name())
	if _, err = io.Copy(file, environ["wsgi.input"].(io.Reader)); err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		file.Close()
		os.Remove(file.Name())
		panic(err) // often a *Refusal: the client's fault
	}
	return file, nil
}

// wait waits for the end of the program, ends the processes that it has left, and logs a
// failure. One that has left the group and keeps standard error is waited for a moment.
func (p *program) wait() {
	err := p.Wait()
	p.killGroup() // fails if all have ended, as they should
	programs.Delete(p)
	if err != nil {
		fmt.Fprintf(p.Stderr, "%s: %v\n", p.Path, err)
	}
	p.free()
	close(p.ended)
}

// free frees what the program has used.
func (p *program) free() {
	p.kill()          // and with it the context
	os.Remove(p.body) // fails without a body, and where spool has removed it
	<-p.slots
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

// killGroup ends the program and its child processes. A negative number is a group, as
// for kill(2); Windows has none.
func (p *program) killGroup() error {
	if runtime.GOOS == "windows" {
		return p.Process.Kill()
	}
	group, err := os.FindProcess(-p.Process.Pid)
	if err != nil {
		return err
	}
	return group.Kill()
}

// Read reads the program's output, and kills a program that keeps it waiting for too
// long. The whole head has one timeout, each later read its own. After the program's end
// there is one for the rest: a process that has left the group may keep the output open.
// (Not on Windows, where pipes have no deadlines.)
func (p *program) Read(b []byte) (int, error) {
	begin, hasEnded := time.Now(), false
	p.output.SetReadDeadline(begin.Add(p.patience)) // fails if closed, and so will Read
	n, err := p.output.Read(b)
	select {
	case <-p.ended:
		hasEnded = true
	default:
	}
	if !p.hasHead || hasEnded {
		p.patience -= time.Since(begin)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.kill()
		err = fmt.Errorf("%s: waited %v: %w", p.Path, p.timeout, err)
	}
	return n, err
}

// Close reads the rest of the output and throws it away, so that the program can do its
// work to the end although its answer has been cut, by HEAD or by its own Content-Length.
// There is a limit, for the client may have left. (RFC 3875 §6.4)
func (p *program) Close() error {
	p.output.SetReadDeadline(time.Now().Add(p.timeout)) // for all of it
	io.CopyN(io.Discard, p.output, drainLimit)          // an error ends it as well
	p.end(p.timeout)
	return nil
}

// end gives the program some time to end by itself, and then ends it.
func (p *program) end(grace time.Duration) {
	p.output.Close() // an error would mean that it is closed already
	defer time.AfterFunc(grace, p.kill).Stop()
	<-p.ended
}

// respond reads the head of the program's answer and returns its body, which ends the
// program when it is closed.
func (p *program) respond(environ Environ, startResponse StartResponse) (
	body Body, err error) {
	defer func() {
		if body == nil { // an error, or a panic
			p.end(100 * time.Millisecond)
		}
	}()
	h := &headReader{r: bufio.NewReader(p), mixed: true}
	fields, err := readHeader(h)
	if err != nil {
		return nil, err
	}
	p.hasHead, p.patience = true, p.timeout
	fields = slices.DeleteFunc(fields, func(field Header) bool { return field.Value == "" })
	location, _ := lookup(fields, "Location")
	if strings.HasPrefix(location, "/") && len(fields) == 1 {
		p.end(100 * time.Millisecond) // the other path may be a program of this host too
		return localRedirect(location, environ, startResponse)
	}
	status, headers, err := cgiHead(fields)
	if err != nil {
		return nil, err
	}
	startResponse(status, headers)
	return newFileWrapper(upstreamBody{h.r, p}, pieceSize), nil
}

// cgiNames are the variables of RFC 3875 §4.1 that environ may have, and three more that
// are usual, beside HTTP_*.
var cgiNames = []string{"AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE",
	"PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_USER",
	"REQUEST_METHOD", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL",
	"SERVER_SOFTWARE", "HTTPS", "REMOTE_PORT", "REQUEST_URI"}

// cgiVariables makes the environment of a CGI program: CGI's variables of environ, in
// which there may be others if we are a CGI program ourselves, and PATH to find an
// interpreter. Passwords are withheld. (RFC 3875 §4.1, §9.2)
func cgiVariables(file string, environ Environ) (list []string) {
	all := maps.Clone(environ)
	if target := environ.Get("rawsgi.request_uri"); target != "" {
		all["REQUEST_URI"] = originForm(target)
	}
	if address := environ.Get("REMOTE_ADDR"); environ.Get("REMOTE_HOST") == "" {
		all["REMOTE_HOST"] = address // its name would have to be looked up (§4.1.9)
	}
	if environ.Get("CONTENT_LENGTH") == "0" {
		delete(all, "CONTENT_LENGTH") // there is no body (§4.1.2)
	}
	for key, value := range all {
		text, ok := value.(string)
		public := strings.HasPrefix(key, "HTTP_") &&
			!listed("HTTP_AUTHORIZATION,HTTP_PROXY_AUTHORIZATION,HTTP_PROXY", key)
		if ok && (public || slices.Contains(cgiNames, key)) {
			list = append(list, key+"="+text)
		}
	}
	if info := environ.Get("PATH_INFO"); info != "" {
		below := filepath.FromSlash(path.Clean("/" + info)) // no ".." leads out
		list = append(list, "PATH_TRANSLATED="+filepath.Join(filepath.Dir(file), below))
	}
	if root := os.Getenv("SystemRoot"); root != "" {
		list = append(list, "SystemRoot="+root) // Windows programs need it
	}
	return append(list, "PATH="+os.Getenv("PATH"), "SCRIPT_FILENAME="+file)
}

// cgiHead turns the head of a CGI program's answer into a status and headers. It gets no
// field without a value: that counts as not sent.
//
//	Status: 404 Gone\n Content-Type: text/plain\n → "404 Gone", [{"Content-Type", …}]
//	Location: http://h/\n                        → "302 Found", [{"Location", …}]
//
// (RFC 3875 §6.2, §6.3)
func cgiHead(fields []Header) (status string, headers []Header, err error) {
	status, statuses := lookup(fields, "Status")
	_, locations := lookup(fields, "Location")
	_, types := lookup(fields, "Content-Type")
	switch most := max(statuses, locations, types); {
	case most != 1:
		return "", nil, fmt.Errorf("expected Status, Location or Content-Type in the answer "+
			"of a CGI program, each once at most, got one of them %d times", most)
	case statuses+locations == 0:
		status = "200 OK"
	case statuses == 0:
		status = "302 Found"
	}
	status, headers = tidyStatus(status), endToEnd(fields)
	_, err = checkHead(status, headers)
	return status, headers, err
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
	switch {
	case script && strings.HasSuffix(first, "\r"):
		hint = `its first line ends in \r\n: save it with the line ends of Unix, \n`
	case script && errors.Is(err, os.ErrNotExist):
		hint = "the interpreter in its first line does not exist: " + quote(first)
	case errors.Is(err, syscall.ENOEXEC):
		hint = "its first line does not name an interpreter, like #!/bin/sh"
	case !errors.As(err, &refusal) || refusal.Line == "":
		return
	case strings.HasPrefix(refusal.Line, "HTTP/"):
		hint = "print Status: 200 OK instead of HTTP/1.0 200 OK"
	}
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "hint for %s: %s\n", file, hint)
}

// localRedirect answers with another path of this server, as if the client had asked for
// it. It follows at most 10 redirects. (RFC 3875 §6.2.2)
func localRedirect(location string, environ Environ,
	startResponse StartResponse) (Body, error) {
	followed, _ := environ["rawsgi.redirects"].(int)
	application, ok := environ["rawsgi.application"].(Application)
	q := &Request{Method: "GET", Target: strings.ReplaceAll(location, " ", "%20")}
	err := q.parseTarget()
	if followed == 10 || !ok {
		err = errors.New("it is one too many, or the gateway names no application")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot follow the local redirect to %s: %w",
			quote(location), err)
	}
	next := maps.Clone(environ)
	next["rawsgi.redirects"] = followed + 1
	next["rawsgi.request_uri"] = q.Target
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
		status, source := gatewayStatus(err)
		err = refuse(status, source, "", 0, "the answer broke off: %v", err)
	}
	return n, err
}

// badGateway answers in place of a program or server that did not: 504 if it took too
// long, else 502. If startResponse has stored the head of another answer, this one
// replaces it. If the system has too little for a program or connection, nobody was
// asked.
func badGateway(environ Environ, startResponse StartResponse, err error) Body {
	switch {
	case outOfFiles(err):
		return cannotServe(environ, startResponse, err)
	case errors.Is(err, syscall.E2BIG):
		panic(refuse(headTooLarge, "RFC 6585 §5", "", 0, "the target and the header fields "+
			"are the program's environment, and larger than this system allows"))
	}
	fmt.Fprintf(environ["wsgi.errors"].(io.Writer), "bad gateway: %v\n", err)
	status, _ := gatewayStatus(err)
	startResponse(status, textAtOnce, err)
	return Blocks{[]byte(status + "\n")}
}

// gatewayStatus returns the status for a program or server that failed, and its source.
func gatewayStatus(err error) (status, source string) {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "504 Gateway Timeout", "RFC 9110 §15.6.5"
	}
	return "502 Bad Gateway", "RFC 9110 §15.6.3"
}

// tidyStatus makes a status for startResponse of that of a program or an upstream: spaces
// for tabs, and none around the reason, which may be missing.
//
//	"404 Not\tFound " → "404 Not Found"    "404" → "404 "
func tidyStatus(status string) string {
	code, reason, _ := strings.Cut(strings.ReplaceAll(status, "\t", " "), " ")
	return code + " " + strings.Trim(reason, " ")
}

// endToEnd returns the end-to-end fields, with spaces for tabs, which startResponse
// refuses.
func endToEnd(fields []Header) (kept []Header) {
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

// isEndToEnd reports whether a field is end-to-end, not hop-by-hop: those that no
// application may use, those that Connection lists, and Proxy-Connection, which is in no
// RFC. Connection may not list the first three: without its length, a body would be read
// as a request of its own. (RFC 9110 §7.6.1)
func isEndToEnd(connection, name string) bool {
	return listed("Content-Length,Content-Type,Host", name) ||
		!slices.ContainsFunc(hopByHop, Header{Name: name}.is) &&
			!listed("Proxy-Connection,"+connection, name)
}

// listed reports whether name is in a comma-separated list; case does not matter.
func listed(list, name string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(item string) bool {
		return strings.EqualFold(strings.Trim(item, " \t"), name)
	})
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
			return fmt.Errorf("is host:port, like 127.0.0.1:9000, or several of them with "+
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
	case !mayForward(environ):
		return plainly(startResponse, "501 Not Implemented",
			"Max-Forwards is 0, and this proxy has no answer of its own.")
	}
	c, err := p.dial()
	if err != nil {
		return badGateway(environ, startResponse, fmt.Errorf("no upstream answers: %w", err))
	}
	body, err := p.forward(environ, startResponse, &conn{Conn: c, timeout: p.timeout})
	if err != nil {
		return badGateway(environ, startResponse, err)
	}
	return body
}

// mayForward counts Max-Forwards down and reports false if it is 0. With another method
// than these two, or if it is not a number, it is passed on as it is. (RFC 9110 §7.6.2)
func mayForward(environ Environ) bool {
	n, err := strconv.ParseUint(environ.Get("HTTP_MAX_FORWARDS"), 10, 63)
	counts := listed("TRACE,OPTIONS", environ.Get("REQUEST_METHOD"))
	if !counts || errors.Is(err, strconv.ErrSyntax) {
		return true
	}
	environ["HTTP_MAX_FORWARDS"] = fmt.Sprint(max(n, 1) - 1)
	return n > 0
}

// dial connects to the server whose turn it is, or to the first after it that answers.
func (p *proxy) dial() (c net.Conn, err error) {
	first, servers := p.turn.Add(1), uint64(len(p.servers))
	for i := range servers {
		c, err = net.DialTimeout("tcp", p.servers[(first+i)%servers], p.timeout)
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
	if err := p.send(environ, upstream); err != nil {
		return nil, err
	}
	upstream.SetReadDeadline(time.Now().Add(p.timeout)) // for the whole head
	h := &headReader{r: bufio.NewReader(upstream)}
	status, headers, err := readAnswer(h)
	if err != nil {
		return nil, err
	}
	length, err := checkHead(status, headers)
	if err != nil {
		return nil, err
	}
	upstream.eachRead = true
	var content io.Reader = h.r
	if length >= 0 {
		content = &Input{r: h.r, length: length}
	}
	if environ.Get("REQUEST_METHOD") == "HEAD" || !hasBody(status) {
		content = strings.NewReader("") // whatever its Content-Length says
	}
	startResponse(status, headers)
	return newFileWrapper(upstreamBody{content, upstream}, pieceSize), nil
}

// send sends the request. Write has a deadline for each piece of the body; the struct
// hides ReadFrom, which has one for all of it and which io.Copy would call.
func (p *proxy) send(environ Environ, upstream *conn) error {
	if _, err := io.WriteString(upstream, p.requestHead(environ)); err != nil {
		return err
	}
	out, in := struct{ io.Writer }{upstream}, environ["wsgi.input"].(io.Reader)
	_, err := io.Copy(out, in)
	var refusal *Refusal
	if errors.As(err, &refusal) {
		panic(err) // the client's fault: the gateway answers
	}
	return nil // any other error is upstream's: it may have answered without the whole body
}

// requestHead makes the head of the request to an upstream out of an environ.
func (p *proxy) requestHead(environ Environ) string {
	var b strings.Builder
	client := cmp.Or(environ.Get("REMOTE_ADDR"), "unknown") // a Unix socket has none
	version := strings.TrimPrefix(environ.Get("SERVER_PROTOCOL"), "HTTP/")
	method, target := environ.Get("REQUEST_METHOD"), upstreamTarget(environ)
	fmt.Fprintf(&b, "%s %s HTTP/1.0\r\n", method, target)
	more := func(key, item string) string { // a list with one more item
		return strings.TrimLeft(environ.Get(key)+", "+item, ", ")
	}
	fmt.Fprintf(&b, "X-Forwarded-For: %s\r\n", more("HTTP_X_FORWARDED_FOR", client))
	fmt.Fprintf(&b, "X-Forwarded-Proto: %s\r\n", environ.Get("wsgi.url_scheme"))
	fmt.Fprintf(&b, "Via: %s\r\n", more("HTTP_VIA", version+" "+p.name))
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

// upstreamTarget returns the target for upstream: the bytes below SCRIPT_NAME as the
// client sent them, for /a%2Fb and /a/b have the same PATH_INFO and need not be the same
// to upstream. If middleware has changed the path or the query, it is made of environ.
func upstreamTarget(environ Environ) string {
	name, info := environ.Get("SCRIPT_NAME"), environ.Get("PATH_INFO")
	sent, query, asks := strings.Cut(originForm(environ.Get("rawsgi.request_uri")), "?")
	at := 0 // where, in the path as it was sent, the application begins
	for n := 0; n < len(name) && at < len(sent); n++ {
		if sent[at] == '%' {
			at += len("25")
		}
		at++
	}
	target := sent[min(at, len(sent)):]
	decoded, err := url.PathUnescape(sent)
	if err != nil || decoded != name+info || target != "" && target[0] != '/' {
		target = escapePath(info)
	}
	if want := environ.Get("QUERY_STRING"); query != want {
		query, asks = want, want != ""
	}
	if asks {
		query = "?" + query
	}
	return cmp.Or(target, "/") + query
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

// readAnswer reads the head of an upstream's answer. It skips the heads of interim
// answers, such as 100 Continue and 103 Early Hints, but not a 101, for which nobody has
// asked. The version of the status line is HTTP/1 and a digit. (RFC 9110 §15.2; RFC 9112
// §4)
//
//	"HTTP/1.1 404 Not Found\r\n" → "404 Not Found"
func readAnswer(h *headReader) (status string, headers []Header, err error) {
	for range 11 {
		line, err := h.line(headTooLarge)
		if err != nil {
			return "", nil, err
		}
		version, status, _ := strings.Cut(line, " ")
		minor, ok := strings.CutPrefix(version, "HTTP/1.")
		if !ok || len(minor) != 1 || !isDigit(minor[0]) {
			return "", nil, fmt.Errorf("expected a status line, got %s", quote(line))
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
		return tidyStatus(status), endToEnd(fields), nil
	}
	return "", nil, errors.New("upstream sends more than 10 interim answers")
}

// ---------------------------------------------------------------- Middleware

// A changedBody is a body that is changed as it passes: a Stream of what becomes of the
// blocks of another body. Its Close passes the gateway's call on, as a body around a body
// has to, and it has no Len: middleware should promise nothing about a body that it did
// not make. (PEP 3333, "Middleware")
type changedBody struct {
	Stream
	inner any // the other body
}

// Close closes the other body.
func (b changedBody) Close() error { return closeBody(b.inner) }

// A writeFunc is a write() around another, PEP 3333's callable.
type writeFunc func(block []byte) (int, error)

// Write calls the function.
func (f writeFunc) Write(block []byte) (int, error) { return f(block) }

// changed returns a body of what change returns for each block, as soon as it is there.
func changed(body Body, change func(block []byte) []byte) Body {
	return changedBody{func(yield func([]byte) bool) {
		for block := range blocks(body) {
			if !yield(change(block)) {
				return
			}
		}
	}, body}
}

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
		return changed(application(environ, start), func(block []byte) []byte {
			text := quote(string(block))
			fmt.Fprintf(out, "log: a block of %d bytes: %s\n", len(block), text)
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
			if text {
				block = capitals(block)
			}
			return block
		}
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			if text = isPlainText(headers); text {
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

// isPlainText reports whether a body is a plain text, whose bytes are not coded.
func isPlainText(headers []Header) bool {
	kind, _ := lookup(headers, "Content-Type")
	_, coded := lookup(headers, "Content-Encoding")
	return strings.HasPrefix(strings.ToLower(kind), "text/plain") && coded == 0
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

// catch turns a panic of the application into a page: in the call, and while the gateway
// asks for a block. While it has one, the gateway works, and may panic too. (PEP 3333,
// "Error Handling"; Python's cgitb)
func catch(application Application) Application {
	return func(environ Environ, startResponse StartResponse) (body Body) {
		asked := true // the application works
		caught := func(show func(page []byte)) {
			if !asked {
				return
			}
			if reason := recover(); reason != nil {
				show(failurePage(environ, startResponse, reason))
			}
		}
		defer caught(func(page []byte) { body = Blocks{page} })
		inner := application(environ, startResponse)
		return changedBody{func(yield func([]byte) bool) {
			defer caught(func(page []byte) { yield(page) })
			for block := range blocks(inner) {
				asked = false
				if !yield(block) {
					return
				}
				asked = true
			}
		}, inner}
	}
}

// failurePage starts the answer anew after a panic, logs it, and returns its only block.
// If the head has been sent, startResponse panics with the error, and the gateway logs
// it, unless it is only that the client has left. The stack is for a client on this
// machine.
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

// validate is between a gateway and an application and holds both to PEP 3333. It panics
// at the first breach, with the side that is at fault and the rule. Go's compiler has
// checked the rest of what wsgiref's validator checks: that there are two arguments, that
// status and header values are strings, headers a list of pairs, and blocks bytes.
func validate(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		checkEnviron(environ)
		v := &validator{}
		v.body = application(environ, v.checkedStart(startResponse))
		expect("application", v.body != nil, "it returns an iterable, not nil",
			"The Application Side")
		return changedBody{v.checkedBlocks, v}
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
	for key, value := range environ {
		_, text := value.(string)
		gateway(text || strings.Contains(key, "."), key+", a CGI variable, is a string")
	}
	for _, key := range strings.Fields("REQUEST_METHOD SERVER_NAME SERVER_PORT " +
		"SERVER_PROTOCOL wsgi.url_scheme") {
		gateway(environ.Get(key) != "", key+" is never empty")
	}
	for _, key := range []string{"CONTENT_TYPE", "CONTENT_LENGTH"} {
		gateway(environ["HTTP_"+key] == nil, "HTTP_"+key+" is called "+key)
	}
	for _, key := range []string{"SERVER_PORT", "CONTENT_LENGTH"} {
		gateway(strings.Trim(environ.Get(key), "0123456789") == "", key+" has digits only")
	}
	for _, key := range []string{"SCRIPT_NAME", "PATH_INFO"} {
		gateway(strings.HasPrefix(environ.Get(key)+"/", "/"), key+" begins with /")
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
		expect("application", holds, rule, "The start_response() Callable")
	}
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		changes := len(excInfo) > 0 && excInfo[0] != nil
		application(v.status == "" || changes, "a second call needs excInfo")
		application(len(excInfo) < 2, "there is one excInfo at most")
		_, err := checkHead(status, headers)
		application(err == nil, fmt.Sprint(err))
		for _, header := range headers {
			application(!strings.Contains(header.Name, "_"),
				"a header name with _ is a mistake for -: "+header.Name)
		}
		_, types := lookup(headers, "Content-Type")
		application(hasBody(status) || types == 0, status+" has no Content-Type")
		application(!hasBody(status) || types > 0, status+" has a Content-Type")
		v.status = status
		out := startResponse(status, headers, excInfo...)
		expect("gateway", out != nil, "startResponse returns write()", "The write() Callable")
		return writeFunc(func(block []byte) (int, error) {
			expect("application", !v.iterating, "write() is called before the body is iterated",
				"The write() Callable")
			v.checkBlock(block)
			return out.Write(block)
		})
	}
}

// checkBlock checks that a block may be sent.
func (v *validator) checkBlock(block []byte) {
	expect("application", v.status != "" || len(block) == 0,
		"startResponse is called before the first block", "The start_response() Callable")
	expect("application", len(block) == 0 || hasBody(v.status), v.status+" has no body",
		"The Server/Gateway Side")
}

// checkedBlocks gives the blocks, and checks them and how the gateway asks for them.
func (v *validator) checkedBlocks(yield func([]byte) bool) {
	const server = "The Server/Gateway Side"
	expect("gateway", !v.iterating, "a body is iterated once", server)
	expect("gateway", !v.closed, "no block is asked for after Close", server)
	v.iterating = true
	n := 0
	for block := range v.body.All() {
		n++
		v.checkBlock(block)
		if !yield(block) {
			return
		}
	}
	expect("application", v.status != "", "startResponse is called",
		"The start_response() Callable")
	sized, ok := v.body.(interface{ Len() int })
	expect("application", !ok || sized.Len() == n, "Len is the number of blocks",
		"Handling the Content-Length Header")
}

// Close passes the call on, once.
func (v *validator) Close() error {
	expect("gateway", !v.closed, "Close is called once", "The Server/Gateway Side")
	v.closed = true
	return closeBody(v.body)
}

// hasBody reports whether an answer with this status has a body. (RFC 9110 §15.3.5,
// §15.3.6, §15.4.5)
func hasBody(status string) bool { return !listed("204,205,304", status[:3]) }

// ---------------------------------------------------------------- Watching
//
// A gateway has two openings: the connection, and the call of the application. A recorder
// stands in both, and the gateway does not know. What the parser made of a head, the
// recorder finds by calling the parser again on the bytes that it saw.

// An event is one step of an exchange, for -trace and for the lab's page.
type event struct {
	At   int64  `json:"at"`   // microseconds since the connection was accepted
	Kind string `json:"kind"` // "in", "key", "call", …, as below
	Text string `json:"text"` // a sentence, in printable characters

	// The bytes of the request that it is about, the first and the one after the last.
	From int64 `json:"from"`
	To   int64 `json:"to"`

	Place   string `json:"place"`             // where the code is: "request.go#parseTarget"
	Chapter int    `json:"chapter,omitempty"` // of the course, about the rule of a refusal

	Layer string `json:"layer,omitempty"` // the application or middleware that acts
	Depth int    `json:"depth,omitempty"` // 1 is called by the gateway, 2 by that one

	Key     string            `json:"key,omitempty"`     // what bytes become in environ
	Value   string            `json:"value,omitempty"`   // its value, or a status
	Rule    string            `json:"rule,omitempty"`    // the source of a refusal
	Headers []Header          `json:"headers,omitempty"` // given to startResponse
	Size    int               `json:"size,omitempty"`    // bytes in a block
	Head    int               `json:"head,omitempty"`    // bytes of Data that are the head
	Data    []byte            `json:"data,omitempty"`    // bytes that come or go
	Environ map[string]string `json:"environ,omitempty"` // all of it, when it is complete
}

// A recorder records one exchange, event by event.
type recorder struct {
	emit      func(event)
	now       func() time.Time
	begin     time.Time
	server    *Server // whose connection it is; nil for the CGI gateway
	client    string  // its address
	keepsLogs bool    // wsgi.errors is told as events and need not go to the log as well

	mu       sync.Mutex // an application may read its input in a goroutine of its own
	received []byte     // until the head is understood
	count    int64      // bytes received
	err      error      // what the connection gave with the last read
	request  *Request   // the head, once it is understood
	headSize int64      // bytes in it
	refusal  *Refusal   // the one that has been told
	environ  map[string]string
	depth    int    // of the layer that runs
	caller   string // its name
	status   string // stored by startResponse, as are the headers
	headers  []Header
	drains   bool // our half is closed: nobody reads what comes now
	headSent bool
	sent     int64 // bytes to the client
	body     int64 // those of the body
	answer   string
	inStack  bool // the log is in the middle of a panic's stack
}

func newRecorder(s *Server, now func() time.Time, emit func(event)) *recorder {
	return &recorder{server: s, emit: emit, now: now, begin: now(), caller: "the gateway"}
}

// watch stands in both openings of a server's exchange.
func (t *recorder) watch(c net.Conn, application Application) (net.Conn, Application, func(*Request, error)) {
	from := "" // a client on a Unix socket has no address
	host, port := hostPort(c.RemoteAddr())
	if t.client = host; host != "" {
		from = " from " + net.JoinHostPort(host, port)
	}
	t.say("accept", "a connection%s is accepted", from)
	return &watchedConn{c, t}, t.gateway(application), func(*Request, error) {}
}

// watchCGI does the same for the CGI gateway, whose connection is two streams.
func (t *recorder) watchCGI(stdin io.Reader, stdout io.Writer, application Application) (
	io.Reader, io.Writer, Application) {
	return watchedReader{stdin, t}, watchedWriter{stdout, t}, t.gateway(application)
}

// add records an event.
func (t *recorder) add(e event) {
	e.At = t.now().Sub(t.begin).Microseconds()
	e.Place = place(e)
	t.emit(e)
}

// places says which declaration does what an event records: of each kind of event, of some
// keys, and of the refusals by each rule, those of which a chapter of the course is about.
var places = map[string]string{
	"accept": "server.go#serveConn", "in": "server.go#Read", "key": "request.go#addHeader",
	"dropped": "request.go#environKey", "body": "request.go#setLength",
	"environ": "request.go#newEnviron", "call": "response.go#run",
	"changed": "app.go#mount",
	"stored":  "response.go#startResponse", "started": "response.go#startResponse",
	"return": "response.go#sendBody", "length": "response.go#inferLength",
	"out": "response.go#Write", "file": "response.go#sendFile",
	"sendfile": "response.go#sendFile", "enough": "response.go#sendBody",
	"closed": "response.go#close", "panic": "response.go#fail",
	"log": "server.go#errorStream", "refused": "request.go#refuse", "eof": "server.go#Read",
	"drain": "server.go#hangUp", "drained": "server.go#hangUp",
	"close": "server.go#hangUp", "enough of it": "app.go#eventLog",

	"REQUEST_METHOD": "request.go#parseLine", "SERVER_PROTOCOL": "request.go#checkVersion",
	"PATH_INFO": "request.go#parseTarget", "QUERY_STRING": "request.go#parseTarget",
	"wsgi.input": "request.go#Input",

	"errors": "app.go#failing", "files": "app.go#newFiles", "clock": "app.go#newClock",
	"gallery": "app.go#mount", "cgi": "app.go#newCGI", "proxy": "app.go#newProxy",
	"lab": "app.go#newLab",
}

// rules says where the refusals by a rule are made, and which chapter is about it.
var rules = map[string]struct {
	place   string
	chapter int
}{
	"RFC 9112 §3":       {"request.go#refuseTLS", 3},
	"RFC 9112 §2.2":     {"request.go#line", 3},
	"RFC 9110 §15.5.15": {"request.go#line", 3},
	"RFC 9110 §15.5.9":  {"request.go#incomplete", 2},
	"RFC 9110 §15.6.4":  {"server.go#readRequest", 9},
	"RFC 1945 §5.1":     {"request.go#parseLine", 3},
	"RFC 9110 §5.6.2":   {"request.go#parseLine", 3},
	"RFC 9112 §2.3":     {"request.go#checkVersion", 3},
	"RFC 9110 §15.6.6":  {"request.go#checkVersion", 3},
	"RFC 9112 §3.2":     {"request.go#parseTarget", 3},
	"RFC 3986 §2.1":     {"request.go#parseTarget", 3},
	"RFC 3875 §4.1.5":   {"request.go#parseTarget", 3},
	"RFC 9110 §7.4":     {"server.go#readRequest", 7},
	"RFC 6585 §5":       {"request.go#readHeader", 4},
	"RFC 9112 §5.2":     {"request.go#parseField", 4},
	"RFC 9112 §5.1":     {"request.go#parseField", 4},
	"RFC 9110 §5.5":     {"request.go#parseField", 4},
	"RFC 9110 §5.3":     {"request.go#checkHeader", 4},
	"RFC 9112 §6.1":     {"request.go#checkHeader", 5},
	"RFC 9110 §8.6":     {"request.go#setLength", 5},
	"RFC 9110 §15.5.14": {"request.go#setLength", 5},
	"RFC 9112 §8":       {"request.go#Read", 5},
}

// place returns where the code is that does what an event records.
func place(e event) string {
	if rule, ok := rules[e.Rule]; ok {
		return rule.place
	}
	if at, ok := places[e.Key]; ok && e.Kind == "key" {
		return at
	}
	acts := []string{"start", "write", "block", "panic"}
	if e.Layer == "" || !slices.Contains(acts, e.Kind) {
		return places[e.Kind]
	}
	if at, ok := places[e.Layer]; ok && e.Layer != "log" { // which is a kind of event, too
		return at
	}
	return "app.go#" + strings.Replace(e.Layer, "log", "logging", 1)
}

func (t *recorder) say(kind, format string, args ...any) {
	t.add(event{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// A watchedConn tells what passes through a connection.
type watchedConn struct {
	net.Conn
	trace *recorder
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.trace.onRead(p[:n], err)
	return n, err
}

func (c *watchedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.trace.onWrite(p[:n], err)
	return n, err
}

// ReadFrom leaves sendfile(2) what it is: of a file, only the size is seen.
func (c *watchedConn) ReadFrom(source io.Reader) (int64, error) {
	to, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, source)
	}
	n, err := to.ReadFrom(source)
	c.trace.onFile(n, err)
	return n, err
}

// CloseWrite ends our half, if such a connection has halves.
func (c *watchedConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	c.trace.onCloseWrite()
	return half.CloseWrite()
}

func (c *watchedConn) Close() error {
	c.trace.onClose()
	return c.Conn.Close()
}

// A watchedReader tells what passes through standard input.
type watchedReader struct {
	io.Reader
	trace *recorder
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.trace.onRead(p[:n], err)
	return n, err
}

// A watchedWriter tells what passes through standard output.
type watchedWriter struct {
	io.Writer
	trace *recorder
}

func (w watchedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.trace.onWrite(p[:n], err)
	return n, err
}

// onRead records bytes from the client, or of their end.
func (t *recorder) onRead(p []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(p) > 0 && t.drains:
		t.count += int64(len(p))
		t.say("drained", "%s more, which nobody reads", count(len(p), "byte"))
	case len(p) > 0:
		t.onBytes(p)
	}
	t.err = err
	switch {
	case err == io.EOF && t.server != nil:
		t.say("eof", "the client has ended its half of the connection")
	case err != nil && err != io.EOF:
		t.say("eof", "reading ends: %v", err)
	}
}

// onBytes records bytes of the request.
func (t *recorder) onBytes(p []byte) {
	from := t.count
	t.count += int64(len(p))
	if t.request == nil { // otherwise it is body by now
		t.received = append(t.received, p...)
	}
	text := fmt.Sprintf("%d bytes come: %d to %d", len(p), from, t.count-1)
	if len(p) == 1 {
		text = fmt.Sprintf("1 byte comes: %d", from)
	}
	t.add(event{Kind: "in", From: from, To: t.count, Data: bytes.Clone(p), Text: text})
}

// onWrite records bytes to the client: first the head, and why it has a Content-Length.
func (t *recorder) onWrite(p []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.understand()
	if len(p) > 0 {
		t.onAnswer(p)
	}
	if err != nil {
		t.say("eof", "writing ends: %v", err)
	}
}

func (t *recorder) onAnswer(p []byte) {
	t.sent += int64(len(p))
	e := event{Kind: "out", Data: bytes.Clone(p)}
	switch {
	case t.headSent || t.request != nil && t.request.Version == "HTTP/0.9":
		t.headSent = true
		t.body += int64(len(p))
		e.Text = count(len(p), "byte") + " of the body leave"
	case bytes.HasPrefix(p, []byte("HTTP/1.1 100")):
		e.Text = fmt.Sprintf("%d bytes leave: the client may send the body", len(p))
	default:
		t.headSent = true
		e.Head, e.Text = t.onHead(p)
		t.body += int64(len(p) - e.Head)
	}
	t.add(e)
}

// onHead records what the head in p holds, and returns its size and a sentence.
func (t *recorder) onHead(p []byte) (size int, text string) {
	head, _, whole := bytes.Cut(p, []byte("\r\n\r\n"))
	if size = len(head); whole { // otherwise the client has left in the middle of it
		size += len("\r\n\r\n")
	}
	first, rest, _ := strings.Cut(string(head), "\r\n")
	_, t.answer, _ = strings.Cut(first, " ")
	if r := t.cutShort(); r != nil && r.Status == t.answer {
		t.onRefusal(r, t.count, t.count)
	}
	t.say("length", "%s", t.lengthReason(rest))
	text = fmt.Sprintf("the head leaves, %s", count(size, "byte"))
	if more := len(p) - size; more > 0 {
		text += fmt.Sprintf(", in one write with %s of the body", count(more, "byte"))
	}
	return size, text
}

// lengthReason says why an answer has the Content-Length that it has.
func (t *recorder) lengthReason(head string) string {
	var fields []Header
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		fields = append(fields, Header{name, value})
	}
	length, given := lookup(fields, "Content-Length")
	_, own := lookup(t.headers, "Content-Length")
	switch {
	case t.answer != t.status && given > 0:
		return "the answer is the gateway's own: its Content-Length is " + length
	case strings.HasPrefix(t.answer, "204") || strings.HasPrefix(t.answer, "304"):
		return "the answer gets no Content-Length: " + visible(t.answer) + " has no body"
	case own > 0:
		return "the answer has the Content-Length that the application has given"
	case given > 0:
		return "the answer gets a Content-Length of " + length + ": the whole body is known"
	}
	return "the answer has no Content-Length: nobody knows how long the body will be, " +
		"so the end of the connection ends it"
}

// onFile records bytes of a file, which the operating system has sent.
func (t *recorder) onFile(n int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent, t.body = t.sent+n, t.body+n
	if n > 0 {
		t.say("sendfile", "%d bytes of the file leave: sendfile(2) sends them, they never "+
			"enter this program", n)
	}
	if err != nil {
		t.say("eof", "writing ends: %v", err)
	}
}

func (t *recorder) onCloseWrite() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drains = true
	t.say("drain", "the gateway ends its half, and reads on until the client has read "+
		"the answer")
}

func (t *recorder) onClose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.understand()
	t.say("close", "the gateway closes the connection")
}

// accessLine is the line of the access log.
func (t *recorder) accessLine() string {
	return accessLine(t.client, time.Now(), t.request.Line, t.answer, t.body)
}

// onLog records a line that the gateway logs. A refusal is told already.
func (t *recorder) onLog(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.understand()
	if r := t.cutShort(); r != nil && line == r.Status+": "+r.Error() {
		t.onRefusal(r, t.count, t.count)
	}
	told := t.refusal != nil && line == t.refusal.Status+": "+t.refusal.Error()
	t.inStack = t.inStack || strings.HasPrefix(line, "goroutine ")
	if !told && !t.inStack && !ownFrame.MatchString(line) {
		line = printable(line)
		t.add(event{Kind: "log", Value: line, Text: "the gateway logs: " + line})
	}
}

// ownFrame matches a line about a function of this part in the log of a panic.
var ownFrame = regexp.MustCompile(`^\t\S+ \(?\*?(layer|watched|recorder)`)

// onErrors records what the application writes to wsgi.errors.
func (t *recorder) onErrors(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		if line = printable(strings.TrimRight(line, "\r\n")); ownFrame.MatchString(line) {
			continue
		}
		t.add(event{Kind: "log", Layer: t.caller, Depth: t.depth, Value: line,
			Text: "wsgi.errors: " + line})
	}
}

// again is a connection that gives once more what another gave: bytes, then an error.
type again struct {
	net.Conn // none: it is only read from
	bytes    io.Reader
	err      error
}

func (a *again) Read(p []byte) (int, error) {
	n, err := a.bytes.Read(p)
	if err == io.EOF && a.err != nil {
		err = a.err
	}
	return n, err
}

// understand reads the head as the gateway has: the parser is a function of bytes.
func (t *recorder) understand() {
	if t.server == nil || t.request != nil {
		return
	}
	received := bytes.NewReader(t.received)
	once := &again{bytes: received, err: t.err}
	r := bufio.NewReader(&conn{Conn: once, timeout: t.server.Timeout})
	q, err := t.server.readRequest(r)
	head := string(t.received[:len(t.received)-received.Len()-r.Buffered()])
	t.request, t.headSize, t.received = q, int64(len(head)), nil
	spans := lineSpans(head)
	if q.Version != "" {
		t.requestLine(q, spans[0].from)
	}
	seen := Environ{}
	for i, field := range q.Header {
		t.field(q, field, spans[i+1], seen)
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		from, to := badBytes(refusal, head, spans)
		t.onRefusal(refusal, int64(from), int64(to))
	case err != nil:
		t.say("eof", "%v: there will be no answer", err)
	default:
		t.bodyBegins(q)
	}
}

// bodyBegins tells how long the body is, and why.
func (t *recorder) bodyBegins(q *Request) {
	_, given := lookup(q.Header, "Content-Length")
	text := "the request has no Content-Length, so it has no body"
	if q.Length > 0 {
		text = fmt.Sprintf("the body of the request begins: %d bytes, says Content-Length",
			q.Length)
	} else if given > 0 {
		text = "the request has a Content-Length of 0: no body"
	}
	t.add(event{Kind: "body", From: t.headSize, To: t.headSize + q.Length, Text: text,
		Key: "wsgi.input", Value: fmt.Sprintf("%d bytes", q.Length)})
}

// onRefusal records a refusal, and which bytes are to blame.
func (t *recorder) onRefusal(r *Refusal, from, to int64) {
	if t.refusal == nil {
		t.add(event{Kind: "refused", From: from, To: to, Value: r.Status, Rule: r.Source,
			Chapter: rules[r.Source].chapter, Text: r.Status + ": " + r.Reason})
	}
	t.refusal = r
}

// cutShort returns what a reader of the body got if the connection failed under it, nil if
// it did not. The reader is asked again; it does not look at the bytes, so others serve.
func (t *recorder) cutShort() (refusal *Refusal) {
	if t.request == nil || t.err == nil || t.count-t.headSize >= t.request.Length {
		return nil
	}
	received := &again{bytes: io.LimitReader(padding{}, t.count-t.headSize), err: t.err}
	input := &Input{r: bufio.NewReader(&conn{Conn: received, timeout: t.server.Timeout}),
		length: t.request.Length}
	_, err := io.Copy(io.Discard, input)
	errors.As(err, &refusal)
	return refusal
}

type padding struct{}

func (padding) Read(p []byte) (int, error) { return len(p), nil }

// A span is a range of the bytes received: the first, and the one after the last.
type span struct{ from, to int }

// lineSpans returns where the lines of a head are, without their line ends, and without an
// empty line in front.
func lineSpans(head string) (spans []span) {
	from := 0
	for line := range strings.Lines(head) {
		text := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if text != "" || len(spans) > 0 {
			spans = append(spans, span{from, from + len(text)})
		}
		from += len(line)
	}
	return spans
}

// badBytes returns which bytes of the head are to blame: from the first bad byte to the end
// of its line. If bytes are missing, it is the place where they should be.
func badBytes(r *Refusal, head string, spans []span) (from, to int) {
	if head == "" { // the first byte was enough
		return 0, 1
	}
	for _, line := range slices.Backward(spans) {
		if head[line.from:line.to] == strings.TrimRight(r.Line, "\r\n") {
			from = line.from + r.Offset
			return from, max(from, line.from+len(r.Line))
		}
	}
	return len(head), len(head)
}

// key tells what bytes of the request have become.
func (t *recorder) key(s span, key, value, note string) {
	t.add(event{Kind: "key", From: int64(s.from), To: int64(s.to), Key: key,
		Value: visible(value), Text: fmt.Sprintf("%s is %s%s", key, quote(value), note)})
}

func (t *recorder) dropped(s span, format string, args ...any) {
	t.add(event{Kind: "dropped", From: int64(s.from), To: int64(s.to),
		Text: fmt.Sprintf(format, args...)})
}

// requestLine tells what the request line, which begins at byte from, has become.
func (t *recorder) requestLine(q *Request, from int) {
	target := from + len(q.Method) + 1
	t.key(span{from, target - 1}, "REQUEST_METHOD", q.Method, "")
	if q.Path != "" { // otherwise the target is refused
		t.target(q, target)
	}
	if end := from + len(q.Line); q.Version != "HTTP/0.9" {
		t.key(span{end - len(q.Version), end}, "SERVER_PROTOCOL", q.Version, "")
	}
}

func (t *recorder) target(q *Request, at int) {
	target, fragment, found := strings.Cut(q.Target, "#")
	if q.Authority != "" {
		authority := strings.Index(target, "//") + 2
		end := authority + strings.IndexAny(target[authority:]+"/", "/?")
		t.key(span{at + end - len(q.Authority), at + end}, "HTTP_HOST", q.Authority,
			": an absolute target decides")
		at, target = at+end, target[end:]
	}
	path, note := target, ""
	if i := strings.IndexByte(target, '?'); i >= 0 {
		path = target[:i]
	}
	if path == "" {
		note = ": an empty path is the root"
	} else if path != q.Path {
		note = ", decoded once"
	}
	t.key(span{at, at + len(path)}, "PATH_INFO", q.Path, note)
	end := at + len(target)
	t.key(span{end - len(q.Query), end}, "QUERY_STRING", q.Query, "")
	if found {
		t.dropped(span{end, end + 1 + len(fragment)}, "#%s is cut off: a fragment is for "+
			"the client alone", visible(fragment))
	}
}

// field tells what a header field has become, or why it has not.
func (t *recorder) field(q *Request, field Header, s span, seen Environ) {
	key, ok := environKey(field.Name)
	switch {
	case !ok && strings.Contains(field.Name, "_"):
		t.dropped(s, "%s is dropped: with a - instead of _ it would have the same key",
			field.Name)
	case !ok:
		t.dropped(s, "%s is dropped: many programs take HTTP_PROXY for their own setting",
			field.Name)
	case key == "HTTP_HOST" && q.Authority != "":
		t.dropped(s, "Host is dropped: the target says %s", visible(q.Authority))
	default:
		note := ""
		if seen[key] != nil {
			note = ": joined to what came before"
		}
		seen.addHeader(field)
		t.key(s, key, seen.Get(key), note)
	}
}

// gateway stands in the second opening: between the gateway and the outermost application.
func (t *recorder) gateway(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		t.complete(environ)
		if out, ok := environ["wsgi.errors"].(io.Writer); ok && t.keepsLogs {
			environ["wsgi.errors"] = watchedErrors{out, t}
		}
		environ["rawsgi.trace"] = t // for watched
		return application(environ, t.storing(startResponse))
	}
}

// A watchedErrors is a wsgi.errors that tells what is written to it.
type watchedErrors struct {
	io.Writer
	trace *recorder
}

func (w watchedErrors) Write(p []byte) (int, error) {
	w.trace.onErrors(p)
	return len(p), nil
}

// complete tells what environ is.
func (t *recorder) complete(environ Environ) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.understand()
	t.environ = describe(environ)
	t.add(event{Kind: "environ", Environ: maps.Clone(t.environ),
		Text: fmt.Sprintf("environ is complete: %d keys", len(t.environ))})
}

// describe shows the values of environ, but the recorder.
func describe(environ Environ) map[string]string {
	all := map[string]string{}
	for key, value := range environ {
		switch value.(type) {
		case *recorder:
		case string, bool, int, [2]int:
			all[key] = visible(fmt.Sprint(value))
		default:
			all[key] = typeName(value)
		}
	}
	return all
}

// changes tells which keys of environ have changed since it was seen last.
func (t *recorder) changes(environ Environ) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := describe(environ)
	for _, key := range slices.Sorted(maps.Keys(now)) {
		was, had := t.environ[key]
		if had && was == now[key] || key == "wsgi.errors" { // our own change
			continue
		}
		t.add(event{Kind: "changed", Layer: t.caller, Depth: t.depth, Key: key,
			Value: now[key], Text: fmt.Sprintf(`%s sets %s to "%s"; it was "%s"`, t.caller,
				key, now[key], was)})
	}
	t.environ = now
}

// storing tells what startResponse leaves with the gateway: nothing is sent.
func (t *recorder) storing(startResponse StartResponse) StartResponse {
	return func(status string, headers []Header, excInfo ...error) io.Writer {
		out := startResponse(status, headers, excInfo...)
		t.mu.Lock()
		defer t.mu.Unlock()
		stores := "stores"
		if t.status != "" {
			stores = "replaces what it has stored by"
		}
		t.status, t.headers = status, slices.Clone(headers)
		t.add(event{Kind: "stored", Value: visible(status), Headers: t.headers,
			Text: fmt.Sprintf("the gateway %s the status and %s; %s been sent", stores,
				count(len(headers), "header"), haveBytes(t.sent))})
		return out
	}
}

// count is "1 byte" or "2 bytes".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func haveBytes(n int64) string {
	if n == 1 {
		return "1 byte has"
	}
	return fmt.Sprintf("%d bytes have", n)
}

// watched puts a middleware around an application that tells the recorder, if environ has
// one, what the application does. It changes nothing of that.
func watched(name string, application Application) Application {
	role := "application"
	if _, err := findMiddleware(name); err == nil {
		role = "middleware"
	}
	return func(environ Environ, startResponse StartResponse) Body {
		t, ok := environ["rawsgi.trace"].(*recorder)
		if !ok {
			return application(environ, startResponse)
		}
		t.changes(environ)
		caller, depth := t.running()
		l := layer{t, name, depth + 1, caller}
		defer t.enter(name, l.depth)()
		l.tell("call", "%s calls the %s %s", l.caller, role, name)
		var body Body
		l.guard(name, func() { body = application(environ, l.listen(startResponse)) })
		l.add(event{Kind: "return", Value: typeName(unwatched(body)),
			Text: fmt.Sprintf("%s returns a body, %s", l, typeName(unwatched(body)))})
		return l.wrap(body)
	}
}

// running is the layer that runs.
func (t *recorder) running() (name string, depth int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.caller, t.depth
}

// enter says that a layer runs now. What it returns says that the one before does again.
func (t *recorder) enter(name string, depth int) (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	caller, before := t.caller, t.depth
	t.caller, t.depth = name, depth
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.caller, t.depth = caller, before
	}
}

func typeName(value any) string {
	return strings.ReplaceAll(fmt.Sprintf("%T", value), "main.", "")
}

// A layer is one application or middleware, in one call.
type layer struct {
	*recorder
	name   string
	depth  int
	caller string // the layer around it
}

// String names the layer in a sentence.
func (l layer) String() string {
	if l.name == "environ" {
		return "the application environ"
	}
	return l.name
}

func (l layer) tell(kind, format string, args ...any) {
	l.add(event{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

func (l layer) add(e event) {
	e.Layer, e.Depth = l.name, l.depth
	l.recorder.add(e)
}

// guard does something, and tells if that does not come to its end. The panic goes on.
func (l layer) guard(what string, do func()) {
	finished := false
	defer func() {
		if !finished {
			l.tell("panic", "%s panics", what)
		}
	}()
	do()
	finished = true
}

// listen records calls of startResponse, and of the write() that it returns.
func (l layer) listen(startResponse StartResponse) StartResponse {
	return func(status string, headers []Header, excInfo ...error) (out io.Writer) {
		text := fmt.Sprintf("%s calls startResponse(%s) %s", l, quote(status),
			headerNames(headers))
		if len(excInfo) > 0 && excInfo[0] != nil {
			text += ", because of an error: " + printable(excInfo[0].Error())
		}
		l.add(event{Kind: "start", Value: visible(status), Text: text,
			Headers: slices.Clone(headers)})
		l.guard(l.String()+"'s call of startResponse", func() {
			defer l.enter(l.caller, l.depth-1)() // whose function it is
			out = startResponse(status, headers, excInfo...)
		})
		l.tell("started", "startResponse returns write() to %s", l)
		return layerWriter{out, l}
	}
}

// headerNames is "with 2 headers: A, B".
func headerNames(headers []Header) string {
	if len(headers) == 0 {
		return "without headers"
	}
	var names []string
	for _, header := range headers {
		names = append(names, visible(header.Name))
	}
	return "with " + count(len(headers), "header") + ": " + strings.Join(names, ", ")
}

type layerWriter struct {
	io.Writer
	layer
}

func (w layerWriter) Write(p []byte) (int, error) {
	w.block("write", p, "%s calls write() with %s")
	defer w.enter(w.caller, w.depth-1)()
	return w.Writer.Write(p)
}

// block records a block: the beginning of it is enough.
func (l layer) block(kind string, p []byte, format string) {
	const enough = 512
	l.add(event{Kind: kind, Size: len(p), Data: bytes.Clone(p[:min(len(p), enough)]),
		Text: fmt.Sprintf(format, l, count(len(p), "byte"))})
}

// wrap records a body's blocks and of its Close. A file is left as it is: the gateway asks
// for that type, and would send it differently if it were another.
func (l layer) wrap(body Body) Body {
	if _, isFile := body.(*fileBody); isFile {
		l.tell("file", "the body of %s is a file: the gateway reads it, sends it and "+
			"closes it", l)
		return body
	}
	if body == nil {
		return body
	}
	if sized, ok := body.(interface{ Len() int }); ok {
		return sizedWatchedBody{watchedBody{body, l}, sized.Len()}
	}
	return watchedBody{body, l}
}

type watchedBody struct {
	Body
	layer layer
}

func (b watchedBody) All() iter.Seq[[]byte] {
	l := b.layer
	return func(yield func([]byte) bool) {
		leave := l.enter(l.name, l.depth)
		defer func() { leave() }()
		l.guard("the body of "+l.String(), func() {
			for block := range b.Body.All() {
				l.block("block", block, "%s gives a block of %s")
				leave()
				more := yield(block)
				leave = l.enter(l.name, l.depth)
				if !more {
					l.tell("enough", "%s is asked for no more blocks", l)
					return
				}
			}
			l.tell("enough", "%s has no more blocks", l)
		})
	}
}

// Close closes a body that can be closed.
func (b watchedBody) Close() error {
	if _, ok := unwatched(b.Body).(io.Closer); !ok {
		return nil
	}
	b.layer.tell("closed", "Close is called on the body of %s", b.layer)
	return b.Body.(io.Closer).Close()
}

// unwatched returns a body as the application made it.
func unwatched(body Body) Body {
	switch b := body.(type) {
	case watchedBody:
		return unwatched(b.Body)
	case sizedWatchedBody:
		return unwatched(b.Body)
	}
	return body
}

// A sizedWatchedBody knows how many blocks it has, so that the gateway can ask.
type sizedWatchedBody struct {
	watchedBody
	n int
}

func (b sizedWatchedBody) Len() int { return b.n }

// A narrator tells exchanges on a terminal as they happen. Bytes from the client begin with
// >, bytes to it with <, what waits in the gateway with =. A call and its return form a
// bracket, so that it is seen who is inside whom; a dotted line is a body being asked for
// blocks:
//
//	#1 > GET /hello HTTP/1.0\r\n
//	#1   REQUEST_METHOD   "GET"                                         bytes 0 to 2
//	#1   ┌ hello
//	#1   │ startResponse("200 OK") with 1 header: Content-Type
//	#1 = the gateway stores the status and 1 header; 0 bytes have been sent
//	#1   └ returns Blocks
//	#1   · block of 14 bytes: "Hello, World!\n"
//	#1 < HTTP/1.0 200 OK\r\n
type narrator struct {
	mu     sync.Mutex
	out    io.Writer
	prefix string // in front of each line: which process it is
	colour bool
	brief  bool
	width  int               // columns
	count  int               // exchanges begun
	last   int               // the exchange of the last line
	at     map[int]int64     // when the last event of an exchange was
	open   map[int]*recorder // those that have received something and not ended
}

// newNarrator makes a narrator, with colours if out is a terminal and NO_COLOR is not set,
// as wide as the variable COLUMNS says.
func newNarrator(out io.Writer, prefix string) *narrator {
	n := &narrator{out: out, prefix: prefix, width: 80, at: map[int]int64{},
		open: map[int]*recorder{}}
	if width, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && width >= 40 {
		n.width = width
	}
	if file, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		info, err := file.Stat()
		n.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return n
}

// narrate has a narrator tell what a server does, on the error log.
func narrate(s *Server, brief bool) {
	n := newNarrator(s.ErrorLog.Writer(), s.ErrorLog.Prefix())
	n.brief = brief
	s.ErrorLog = log.New(n, "", 0)
	access := s.AccessLog != nil
	s.AccessLog = nil // the narrator knows the exchange's number
	s.Watch = func(c net.Conn, application Application) (net.Conn, Application, func(*Request, error)) {
		return n.record(s, access).watch(c, application)
	}
}

// narrateCGI does the same for the one exchange of a CGI program.
func narrateCGI(stdin io.Reader, stdout io.Writer, application Application,
	errorLog *log.Logger, brief bool) (io.Reader, io.Writer, Application) {
	n := newNarrator(errorLog.Writer(), "")
	n.brief = brief
	errorLog.SetOutput(n)
	return n.record(nil, false).watchCGI(stdin, stdout, application)
}

// record begins the record of one exchange. Its number keeps it apart from others.
func (n *narrator) record(s *Server, access bool) *recorder {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.count++
	number := n.count
	var t *recorder
	t = newRecorder(s, time.Now, func(e event) {
		n.mu.Lock()
		defer n.mu.Unlock()
		switch e.Kind {
		case "in", "environ":
			n.open[number] = t
		case "drain", "close": // the gateway has nothing more to log
			if n.open[number] != nil && access && t.headSent {
				n.print(number, "", t.accessLine())
			}
			delete(n.open, number)
		}
		n.tell(number, e)
	})
	t.keepsLogs = true
	return t
}

// Write is the error log of a server that is watched. It does not say which exchange a line
// belongs to: if there is one, it is that.
func (n *narrator) Write(p []byte) (int, error) {
	line := strings.TrimSuffix(string(p), "\n")
	n.mu.Lock()
	open := slices.Collect(maps.Values(n.open))
	if len(open) != 1 {
		fmt.Fprintf(n.out, "%s%s\n", n.prefix, line)
	}
	n.mu.Unlock()
	if len(open) == 1 {
		open[0].onLog(line)
	}
	return len(p), nil
}

// The colours of a terminal: what comes, what goes, what waits, what is wrong.
const (
	cyan, green = "\x1b[36m", "\x1b[32m"
	yellow, red = "\x1b[33m", "\x1b[31m"
	plain       = "\x1b[0m"
)

// details are the events that a brief trace leaves out.
var details = []string{"accept", "key", "body", "length", "enough", "drain", "drained",
	"eof"}

// tell prints an event, and says so if time has passed since the one before.
func (n *narrator) tell(number int, e event) {
	if e.Kind == "started" || n.brief && slices.Contains(details, e.Kind) {
		return // that startResponse returns, the bracket shows
	}
	const worthSaying = 50_000 // microseconds
	if pause := e.At - n.at[number]; n.at[number] > 0 && pause > worthSaying {
		n.print(number, "", fmt.Sprintf("  (%v later)",
			(time.Duration(pause)*time.Microsecond).Round(worthSaying*time.Microsecond)))
	}
	n.at[number] = e.At
	switch e.Kind {
	case "close":
		delete(n.at, number)
		n.print(number, "", "  "+e.Text)
	case "in":
		n.printBytes(number, cyan, "> ", e.Data)
	case "out":
		n.printBytes(number, green, "< ", e.Data)
	case "stored":
		n.print(number, yellow, "= "+e.Text)
	case "refused":
		n.print(number, red, fmt.Sprintf("! %s (%s, byte %d)", e.Text, e.Rule, e.From))
	case "panic":
		n.print(number, red, "! "+inBars(e))
	case "key":
		n.printKey(number, e)
	case "dropped":
		n.print(number, "", "  (dropped)        "+e.Text)
	default:
		n.print(number, "", "  "+inBars(e))
	}
}

// bars are the layers that are open, and a sign for the innermost.
func bars(depth int, sign string) string {
	if depth == 0 {
		return ""
	}
	return strings.Repeat("│ ", depth-1) + sign
}

// inBars is what an event of a layer is in its bracket.
func inBars(e event) string {
	switch e.Kind {
	case "call":
		return bars(e.Depth, "┌ ") + e.Layer
	case "return":
		return bars(e.Depth, "└ ") + "returns " + e.Value
	case "panic":
		if e.Text == e.Layer+" panics" { // the call ends here
			return bars(e.Depth, "└ ") + e.Text
		}
	case "start":
		return bars(e.Depth, "│ ") + strings.TrimPrefix(e.Text, e.Layer+" calls ")
	case "block":
		return strings.Repeat("· ", e.Depth) + "block of " + sizeAndStart(e)
	case "write":
		return bars(e.Depth, "│ ") + "write() of " + sizeAndStart(e)
	case "enough", "closed":
		return strings.Repeat("· ", e.Depth) + e.Text
	}
	return bars(e.Depth, "│ ") + e.Text
}

// sizeAndStart is the size of a block and its beginning.
func sizeAndStart(e event) string { return count(e.Size, "byte") + ": " + quote(string(e.Data)) }

// printKey prints a key of environ in columns: key, value, bytes.
func (n *narrator) printKey(number int, e event) {
	where := ""
	switch {
	case e.To == e.From+1:
		where = fmt.Sprintf("byte %d", e.From)
	case e.To > e.From:
		where = fmt.Sprintf("bytes %d to %d", e.From, e.To-1)
	}
	_, value, _ := strings.Cut(e.Text, " is ")
	room := n.room(number) - len("  ") - len(where) - 1
	left := fmt.Sprintf("%-16s %s", e.Key, value)
	n.print(number, "", "  "+pad(cut(left, room), room)+" "+where)
}

// room is how many columns there are behind the number of an exchange.
func (n *narrator) room(number int) int {
	return n.width - len(n.prefix) - len(fmt.Sprintf("#%d ", number))
}

// pad fills a line up to a width; cut cuts it, and shows that.
func pad(line string, width int) string {
	return line + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(line)))
}

func cut(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(0, width-1)]) + "…"
}

// printBytes prints bytes line by line: of many lines the first, in a brief trace only one.
func (n *narrator) printBytes(number int, colour, sign string, data []byte) {
	most := 12
	if n.brief {
		most = 1
	}
	room := n.room(number) - len(sign)
	for rest := string(data); rest != ""; most-- {
		line, after, _ := strings.Cut(rest, "\n")
		line = rest[:len(rest)-len(after)] // with its line end
		more := fmt.Sprintf(" … and %s more", count(len(after), "byte"))
		if rest = after; most > 1 || after == "" {
			n.print(number, colour, sign+cut(asText(line), room))
			continue
		}
		left := room - utf8.RuneCountInString(more)
		n.print(number, colour, sign+cut(asText(line), left)+more)
		return
	}
}

// asText shows a line as visible does, but text in UTF-8 and quotes as they are.
func asText(line string) string {
	var b strings.Builder
	for i, r := range line {
		part := string(r)
		switch {
		case r == utf8.RuneError: // a byte that is no text
			b.WriteString(visible(line[i : i+1]))
		case r == '"', r >= 0xa0 && printable(part) == part:
			b.WriteString(part)
		default:
			b.WriteString(visible(part))
		}
	}
	return b.String()
}

// print prints a line of an exchange, with an empty line in front if the last one was
// another's. A line that is too long is broken between words.
func (n *narrator) print(number int, colour, line string) {
	if n.last != 0 && n.last != number {
		fmt.Fprintln(n.out)
	}
	n.last = number
	end := plain
	if !n.colour || colour == "" {
		colour, end = "", ""
	}
	for _, part := range wrapWords(line, n.room(number)) {
		part = strings.TrimRight(part, " ")
		fmt.Fprintf(n.out, "%s#%d %s%s%s\n", n.prefix, number, colour, part, end)
	}
}

// wrapWords breaks a line between words. What follows is indented like the first line.
func wrapWords(line string, width int) (parts []string) {
	indent := line[:len(line)-len(strings.TrimLeft(line, " │·=!"))]
	indent = strings.NewReplacer("=", " ", "!", " ").Replace(indent) + "  "
	for utf8.RuneCountInString(line) > width {
		runes := []rune(line)
		at := width
		for at > width/2 && runes[at] != ' ' {
			at--
		}
		if at == width/2 {
			at = width // a word that is longer than that
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
// its recorder tells goes back. Without a server, the page starts this program itself, as a
// web server starts a CGI program.
type lab struct {
	apps     map[string]Application
	names    []string      // of apps, in order
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
		if entry.Name != "proxy" && entry.Name != "cgi" {
			l.names = append(l.names, entry.Name)
			l.apps[entry.Name] = watched(entry.Name, entry.App)
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
	path := environ.Get("PATH_INFO")
	switch path {
	case "", "/":
		startResponse("200 OK", labHeaders)
		place := template.HTMLEscapeString(environ.Get("SCRIPT_NAME"))
		return Blocks{[]byte(strings.Replace(labPage, "<!-- where the lab is -->",
			`<meta name="lab" content="`+place+`">`, 1))}
	case "/choices":
		return l.choices(startResponse)
	case "/run":
		return l.run(environ, startResponse)
	}
	if code, err := sources.ReadFile(strings.TrimPrefix(path, "/")); err == nil {
		startResponse("200 OK", []Header{{"Content-Type", "text/plain; charset=utf-8"},
			{"X-Content-Type-Options", "nosniff"}})
		return Blocks{code}
	}
	return notFound(startResponse, "The lab is at "+environ.Get("SCRIPT_NAME"))
}

// choices answers with what the page's menus offer.
func (l *lab) choices(startResponse StartResponse) Body {
	var layers, ways []string
	for _, middleware := range middlewares {
		layers = append(layers, middleware.name)
	}
	for _, arrival := range arrivals {
		ways = append(ways, arrival.name)
	}
	return inJSON(startResponse, map[string][]string{"app": l.names, "use": layers,
		"arrival": ways})
}

// inJSON answers with a value.
func inJSON(startResponse StartResponse, value any) Body {
	content, err := json.Marshal(value)
	if err != nil {
		panic(err) // impossible: it is made of strings and numbers
	}
	startResponse("200 OK", []Header{{"Content-Type", "application/json"},
		{"Cache-Control", "no-store"}})
	return Blocks{content}
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
	return inJSON(startResponse, events)
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
	Arrival string `json:"arrival"` // one of arrivals
}

// watchable has a request for each application that the gallery's index offers to watch.
var watchable = map[string]string{
	"hello": "GET / HTTP/1.0\\r\\n\\r\\n", "class": "GET / HTTP/1.0\\r\\n\\r\\n",
	"environ": "GET /path?a=4&b=4 HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n",
	"write":   "GET / HTTP/1.0\\r\\n\\r\\n", "clock": "GET / HTTP/1.0\\r\\n\\r\\n",
	"echo":   "POST / HTTP/1.0\\r\\nContent-Length: 5\\r\\n\\r\\nHELLO",
	"errors": "GET /before HTTP/1.0\\r\\n\\r\\n", "mount": "GET /a/x HTTP/1.0\\r\\n\\r\\n",
	"form":  "GET /?name=value HTTP/1.0\\r\\n\\r\\n",
	"files": "GET /README.md HTTP/1.0\\r\\n\\r\\n",
}

// labLink is a link to an experiment with an application, "" if there is none.
func labLink(lab, name string) string {
	request, ok := watchable[name]
	if !ok {
		return ""
	}
	return lab + "#" + url.Values{"request": {request}, "app": {name}}.Encode()
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
func (x experiment) run(apps map[string]Application, port int) ([]event, error) {
	text, err := unescape(x.Request)
	application := apps[x.App]
	way := slices.IndexFunc(arrivals, func(a arrival) bool { return a.name == x.Arrival })
	switch {
	case err != nil:
		return nil, err
	case len(text) > labRequest:
		return nil, fmt.Errorf("a request may have %d bytes here, this one has %d",
			labRequest, len(text))
	case application == nil:
		return nil, fmt.Errorf("no application here is called %s", quote(x.App))
	case way < 0:
		return nil, fmt.Errorf("no request arrives like this: %s", quote(x.Arrival))
	case strings.Count(x.Use, ",") >= 10:
		return nil, errors.New("ten layers of middleware are enough")
	}
	if application, err = withMiddleware(application, x.Use, true); err != nil {
		return nil, err
	}
	arrives := arrivals[way]
	return watch(application, &labConn{pieces: arrives.cut(text), pause: arrives.pause,
		ends: arrives.ends, end: time.Now().Add(labTime), port: port}), nil
}

// watch serves one connection and returns what happens.
func watch(application Application, conn *labConn) []event {
	server := newServer(application)
	server.MaxBody = 1 << 20
	var told eventLog
	t := newRecorder(server, conn.now, told.add)
	t.keepsLogs = true
	server.Watch, server.ErrorLog = t.watch, log.New(logLines(t.onLog), "", 0)
	server.serveConn(conn)
	return told.events
}

// logLines is a log that hands each of its lines on.
type logLines func(line string)

func (f logLines) Write(p []byte) (int, error) {
	f(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
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
		e = event{At: e.At, Kind: "enough of it", Place: places["enough of it"],
			Text: "the rest is not shown"}
	}
	if len(c.events) <= labEvents {
		c.events = append(c.events, e)
	}
}

// A labConn is the server's end of a connection to a client that follows a script. It does
// not wait for pauses and deadlines to pass: its clock does.
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

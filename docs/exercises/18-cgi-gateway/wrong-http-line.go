//go:build ignore

// Caught by "the first line is Status": the gateway writes the web server's line, as the posts' sockets do.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// runWithCGI calls an application with the request that this process was started for.
func runWithCGI(application Application) {
	r := &cgiResponse{}
	var body Body
	defer func() {
		if reason := recover(); reason != nil {
			r.fail(reason)
		}
		if c, ok := body.(io.Closer); ok {
			c.Close() // the answer is sent: an error changes nothing
		}
	}()
	body = application(cgiEnviron(), r.startResponse)
	for block := range body.All() {
		if _, err := r.Write(block); err != nil {
			return // the web server has left
		}
	}
	r.sendHead()
}

// cgiEnviron makes environ of the environment variables and standard input.
func cgiEnviron() Environ {
	environ := Environ{}
	for _, variable := range os.Environ() {
		key, value, _ := strings.Cut(variable, "=")
		environ[key] = value
	}
	length, _ := strconv.ParseInt(environ.Get("CONTENT_LENGTH"), 10, 64) // 0 if absent
	scheme := "http"
	if https := environ.Get("HTTPS"); https == "on" || https == "1" {
		scheme = "https"
	}
	environ["wsgi.version"] = [2]int{1, 0}
	environ["wsgi.url_scheme"] = scheme
	environ["wsgi.input"] = io.LimitReader(os.Stdin, length)
	environ["wsgi.errors"] = os.Stderr
	environ["wsgi.multithread"] = false
	environ["wsgi.multiprocess"] = true
	environ["wsgi.run_once"] = true
	return environ
}

// A cgiResponse is the answer, on its way to standard output.
type cgiResponse struct {
	status   string
	headers  []Header
	headSent bool
}

// startResponse stores the head. It may be called again only with excInfo.
func (r *cgiResponse) startResponse(status string, headers []Header, excInfo ...error) io.Writer {
	switch {
	case len(excInfo) > 0 && r.headSent:
		panic(excInfo[0])
	case len(excInfo) == 0 && r.status != "":
		panic(errors.New("startResponse was called twice"))
	}
	r.status, r.headers = status, headers
	return r
}

// Write sends a block, and the head ahead of the first.
func (r *cgiResponse) Write(block []byte) (int, error) {
	if len(block) == 0 {
		return 0, nil
	}
	r.sendHead()
	return os.Stdout.Write(block)
}

// sendHead sends the head, once.
func (r *cgiResponse) sendHead() {
	if r.headSent {
		return
	}
	if r.status == "" {
		panic(errors.New("startResponse was not called"))
	}
	r.headSent = true
	fmt.Printf("HTTP/1.1 %s\r\n", r.status)
	for _, header := range r.headers {
		fmt.Printf("%s: %s\r\n", header.Name, header.Value)
	}
	fmt.Print("\r\n")
}

// fail logs a failure, and answers 500 if there is still time.
func (r *cgiResponse) fail(reason any) {
	fmt.Fprintln(os.Stderr, reason)
	if !r.headSent {
		fmt.Print("Status: 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\nfailed\n")
	}
}

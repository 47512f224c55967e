//go:build ignore

// Caught by "standard input need not end": it reads all of standard input, and cuts it then.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

type cgiAnswer struct {
	status  string
	headers []Header
	sent    bool
}

func (a *cgiAnswer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	a.head()
	return os.Stdout.Write(p)
}

func (a *cgiAnswer) head() {
	if a.sent {
		return
	}
	if a.status == "" {
		panic(errors.New("no head"))
	}
	a.sent = true
	fmt.Printf("Status: %s\r\n", a.status)
	for _, h := range a.headers {
		fmt.Printf("%s: %s\r\n", h.Name, h.Value)
	}
	fmt.Print("\r\n")
}

func runWithCGI(application Application) {
	environ := Environ{}
	for _, v := range os.Environ() {
		key, value, _ := strings.Cut(v, "=")
		environ[key] = value
	}
	n, _ := strconv.ParseInt(environ.Get("CONTENT_LENGTH"), 10, 64)
	environ["wsgi.version"] = [2]int{1, 0}
	environ["wsgi.url_scheme"] = "http"
	if environ.Get("HTTPS") == "on" || environ.Get("HTTPS") == "1" {
		environ["wsgi.url_scheme"] = "https"
	}
	environ["wsgi.input"] = readAll(n)
	environ["wsgi.errors"] = os.Stderr
	environ["wsgi.multithread"] = false
	environ["wsgi.multiprocess"] = true
	environ["wsgi.run_once"] = true
	a := &cgiAnswer{}
	defer func() {
		if reason := recover(); reason != nil {
			fmt.Fprintln(os.Stderr, reason)
			if !a.sent {
				a.status, a.headers = "500 Internal Server Error", []Header{{"Content-Type", "text/plain"}}
				a.Write([]byte("failed\n"))
			}
		}
	}()
	body := application(environ, func(status string, headers []Header, excInfo ...error) io.Writer {
		if len(excInfo) > 0 && a.sent {
			panic(excInfo[0])
		}
		if len(excInfo) == 0 && a.status != "" {
			panic(errors.New("twice"))
		}
		a.status, a.headers = status, headers
		return a
	})
	if c, ok := body.(io.Closer); ok {
		defer c.Close()
	}
	for block := range body.All() {
		a.Write(block)
	}
	a.head()
}

// readAll returns the first n bytes of standard input.
func readAll(n int64) io.Reader {
	all, _ := io.ReadAll(os.Stdin)
	return strings.NewReader(string(all[:min(n, int64(len(all)))]))
}

//go:build ignore

// Caught by "what was not sent is none": a type assertion panics for a key that is absent.
package main

import (
	"fmt"
	"io"
)

// whoami says what environ knows of the request.
func whoami(environ Environ, startResponse StartResponse) Body {
	length, err := io.Copy(io.Discard, environ["wsgi.input"].(io.Reader))
	if err != nil {
		panic(err) // the gateway answers a body cut short with 400
	}
	startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
	page := fmt.Sprintf("method: %s\npath: %s\nquery: %s\nagent: %s\ntype: %s\nbody: %d bytes\n",
		environ.Get("REQUEST_METHOD"), environ.Get("PATH_INFO"), orNone(environ.Get("QUERY_STRING")),
		orNone(environ["HTTP_USER_AGENT"].(string)), orNone(environ.Get("CONTENT_TYPE")), length)
	return Blocks{[]byte(page)}
}

// orNone makes the absence of a value visible.
func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}

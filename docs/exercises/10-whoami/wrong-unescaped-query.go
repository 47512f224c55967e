//go:build ignore

// Caught by "the query is not decoded": the query is decoded.
package main

import (
	"fmt"
	"io"
	"net/url"
)

// whoami says what environ knows of the request.
func whoami(environ Environ, startResponse StartResponse) Body {
	length, err := io.Copy(io.Discard, environ["wsgi.input"].(io.Reader))
	if err != nil {
		panic(err) // the gateway answers a body cut short with 400
	}
	startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
	page := fmt.Sprintf("method: %s\npath: %s\nquery: %s\nagent: %s\ntype: %s\nbody: %d bytes\n",
		environ.Get("REQUEST_METHOD"), environ.Get("PATH_INFO"), orNone(decoded(environ.Get("QUERY_STRING"))),
		orNone(environ.Get("HTTP_USER_AGENT")), orNone(environ.Get("CONTENT_TYPE")), length)
	return Blocks{[]byte(page)}
}

func decoded(query string) string {
	query, _ = url.QueryUnescape(query)
	return query
}

// orNone makes the absence of a value visible.
func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}

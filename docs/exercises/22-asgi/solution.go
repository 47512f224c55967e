//go:build ignore

// Solution of exercise 22.
package main

import (
	"fmt"
	"io"
	"strings"
)

// adapt makes an application of one in the style of ASGI. That one runs while the gateway
// asks for blocks: what it sends is yielded at once.
func adapt(application AsyncApplication) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		return Stream(func(yield func([]byte) bool) {
			open := true // until the end of the answer
			send := func(event Event) {
				switch event["type"] {
				case "http.response.start":
					startResponse(fmt.Sprintf("%d ", event["status"]), headersOf(event))
				case "http.response.body":
					block, _ := event["body"].([]byte)
					more, _ := event["more_body"].(bool)
					open = open && yield(block) && more
				}
			}
			application(scopeOf(environ), receiver(environ["wsgi.input"].(io.Reader)), send)
		})
	}
}

// headersOf returns the headers of an event.
func headersOf(event Event) (headers []Header) {
	pairs, _ := event["headers"].([][2]string)
	for _, pair := range pairs {
		headers = append(headers, Header{pair[0], pair[1]})
	}
	return headers
}

// scopeOf describes the request.
func scopeOf(environ Environ) Event {
	var headers [][2]string
	for key := range environ {
		name, isHeader := strings.CutPrefix(key, "HTTP_")
		if isHeader || key == "CONTENT_TYPE" || key == "CONTENT_LENGTH" {
			name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
			headers = append(headers, [2]string{name, environ.Get(key)})
		}
	}
	script := environ.Get("SCRIPT_NAME")
	return Event{"type": "http", "method": environ.Get("REQUEST_METHOD"),
		"path": script + environ.Get("PATH_INFO"), "root_path": script,
		"query_string": environ.Get("QUERY_STRING"),
		"scheme":       environ.Get("wsgi.url_scheme"), "headers": headers}
}

// receiver returns the request's body in events, and then says that there is no more.
func receiver(input io.Reader) func() Event {
	ended := false
	return func() Event {
		if ended {
			return Event{"type": "http.disconnect"}
		}
		block := make([]byte, 65536)
		n, err := input.Read(block)
		if err != nil && err != io.EOF {
			panic(err) // the gateway answers 400
		}
		ended = err == io.EOF
		return Event{"type": "http.request", "body": block[:n], "more_body": !ended}
	}
}

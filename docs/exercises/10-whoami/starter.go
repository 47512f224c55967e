//go:build ignore

// Exercise 10: who am I? See docs/exercises/10-whoami/README.md.
package main

import "fmt"

// whoami says what environ knows of the request.
func whoami(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", nil)
	page := fmt.Sprintf("method: %s\n", environ.Get("REQUEST_METHOD"))
	return Blocks{[]byte(page)}
}

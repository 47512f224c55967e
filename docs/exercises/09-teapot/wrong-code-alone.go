//go:build ignore

// Caught by "a status is a code and a reason": the status has no reason.
package main

func teapot(environ Environ, startResponse StartResponse) Body {
	if environ.Get("PATH_INFO") == "/tea" {
		startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
		return Blocks{[]byte("tea\n")}
	}
	startResponse("418", []Header{{"Content-Type", "text/plain"}, {"X-Pot", "short"}})
	return Blocks{[]byte("short and stout\n")}
}

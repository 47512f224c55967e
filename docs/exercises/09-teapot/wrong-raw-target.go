//go:build ignore

// Caught by "the query is not in the path": the raw target is compared.
package main

func teapot(environ Environ, startResponse StartResponse) Body {
	if environ.Get("rawsgi.request_uri") == "/tea" {
		startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
		return Blocks{[]byte("tea\n")}
	}
	startResponse("418 I'm a teapot", []Header{{"Content-Type", "text/plain"}, {"X-Pot", "short"}})
	return Blocks{[]byte("short and stout\n")}
}

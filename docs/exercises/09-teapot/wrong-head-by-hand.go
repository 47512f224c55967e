//go:build ignore

// Caught by "HEAD has the head of GET": for HEAD it returns nothing, so the length is lost.
package main

func teapot(environ Environ, startResponse StartResponse) Body {
	if environ.Get("PATH_INFO") == "/tea" {
		startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
		return Blocks{[]byte("tea\n")}
	}
	startResponse("418 I'm a teapot", []Header{{"Content-Type", "text/plain"}, {"X-Pot", "short"}})
	if environ.Get("REQUEST_METHOD") == "HEAD" {
		return Blocks{}
	}
	return Blocks{[]byte("short and stout\n")}
}

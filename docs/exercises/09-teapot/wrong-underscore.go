//go:build ignore

// Caught by "a header of your own": the name is Content_Type, as in some posts.
package main

func teapot(environ Environ, startResponse StartResponse) Body {
	if environ.Get("PATH_INFO") == "/tea" {
		startResponse("200 OK", []Header{{"Content_Type", "text/plain"}})
		return Blocks{[]byte("tea\n")}
	}
	startResponse("418 I'm a teapot", []Header{{"Content_Type", "text/plain"}, {"X-Pot", "short"}})
	return Blocks{[]byte("short and stout\n")}
}

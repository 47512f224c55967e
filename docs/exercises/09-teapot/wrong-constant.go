//go:build ignore

// Caught by "a path of its own": every request gets the same answer.
package main

func teapot(environ Environ, startResponse StartResponse) Body {
	startResponse("418 I'm a teapot", []Header{{"Content-Type", "text/plain"}, {"X-Pot", "short"}})
	return Blocks{[]byte("short and stout\n")}
}

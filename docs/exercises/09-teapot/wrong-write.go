//go:build ignore

// Caught by "one block has a length": write() sends the head before the length is known.
package main

import "fmt"

func teapot(environ Environ, startResponse StartResponse) Body {
	if environ.Get("PATH_INFO") == "/tea" {
		fmt.Fprint(startResponse("200 OK", []Header{{"Content-Type", "text/plain"}}), "tea\n")
		return Blocks{}
	}
	fmt.Fprint(startResponse("418 I'm a teapot", []Header{{"Content-Type", "text/plain"}, {"X-Pot", "short"}}),
		"short and stout\n")
	return Blocks{}
}

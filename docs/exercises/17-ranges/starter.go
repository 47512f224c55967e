//go:build ignore

// Exercise 17: 304 and ranges. See docs/exercises/17-ranges/README.md.
package main

const letters = "abcdefghijklmnopqrstuvwxyz"

// alphabet sends the letters, or a part of them, or nothing if the client has them.
func alphabet(environ Environ, startResponse StartResponse) Body {
	startResponse("200 OK", []Header{{"Content-Type", "text/plain"}, {"ETag", `"v1"`}})
	return Blocks{[]byte(letters)} // your code
}

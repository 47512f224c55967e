//go:build ignore

// Exercise 09: your first application. See docs/exercises/09-teapot/README.md.
package main

// teapot answers /tea with 200 OK, and everything else with 418 I'm a teapot.
func teapot(environ Environ, startResponse StartResponse) Body {
	// Your code: call startResponse with a status and headers, then return the blocks.
	return Blocks{[]byte("Hello, World!\n")}
}

//go:build ignore

// Caught by "a longer path is another path": the beginning of the path decides.
package main

import "strings"

// teapot answers /tea with 200 OK, and everything else with 418 I'm a teapot.
func teapot(environ Environ, startResponse StartResponse) Body {
	if strings.HasPrefix(environ.Get("PATH_INFO"), "/tea") {
		startResponse("200 OK", []Header{{"Content-Type", "text/plain"}})
		return Blocks{[]byte("tea\n")}
	}
	startResponse("418 I'm a teapot", []Header{{"Content-Type", "text/plain"}, {"X-Pot", "short"}})
	return Blocks{[]byte("short and stout\n")}
}

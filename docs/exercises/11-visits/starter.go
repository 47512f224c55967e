//go:build ignore

// Exercise 11: visits. See docs/exercises/11-visits/README.md.
package main

import "fmt"

// count is how often somebody has come.
var count int

// visits counts how often a client has come.
func visits(environ Environ, startResponse StartResponse) Body {
	count++
	startResponse("200 OK", nil)
	return Blocks{[]byte(fmt.Sprintf("visit %d\n", count))}
}

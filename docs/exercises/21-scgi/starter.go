//go:build ignore

// Exercise 21: SCGI. See docs/exercises/21-scgi/README.md.
package main

import (
	"bufio"
	"net"
)

// serveSCGI answers the one request on a connection.
func serveSCGI(c net.Conn, application Application) {
	r := bufio.NewReader(c)
	r.ReadString(':') // your code: the length, the variables, the comma
}

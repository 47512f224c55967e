//go:build ignore

// Exercise 18: run_with_cgi. See docs/exercises/18-cgi-gateway/README.md.
package main

import (
	"fmt"
	"io"
	"os"
)

// runWithCGI calls an application with the request that this process was started for.
func runWithCGI(application Application) {
	environ := Environ{}
	startResponse := func(status string, headers []Header, excInfo ...error) io.Writer {
		fmt.Printf("HTTP/1.1 %s\r\n\r\n", status)
		return os.Stdout
	}
	for block := range application(environ, startResponse).All() {
		os.Stdout.Write(block)
	}
}

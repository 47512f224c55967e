//go:build ignore

// Exercise 13: called once. See docs/exercises/13-called-once/README.md.
package main

import (
	"fmt"
	"os"
)

// logged prints the path of each request and the blocks of its answer.
func logged(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		fmt.Fprintln(os.Stderr, "uri", environ.Get("PATH_INFO"))
		for block := range application(environ, startResponse).All() {
			fmt.Fprintf(os.Stderr, "data %q\n", block)
		}
		return application(environ, startResponse)
	}
}

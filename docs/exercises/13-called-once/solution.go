//go:build ignore

// Solution of exercise 13.
package main

import (
	"fmt"
	"io"
	"iter"
	"os"
)

// logged prints the path of each request and the blocks of its answer.
func logged(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		fmt.Fprintln(os.Stderr, "uri", environ.Get("PATH_INFO"))
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			return loggedWriter{startResponse(status, headers, excInfo...)}
		}
		return loggedBody{application(environ, start)}
	}
}

// A loggedWriter is a write() that prints.
type loggedWriter struct{ io.Writer }

func (w loggedWriter) Write(block []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "data %q\n", block)
	return w.Writer.Write(block)
}

// A loggedBody prints each block when the gateway asks for it. It has no Len: it promises
// nothing about a body that it did not make.
type loggedBody struct{ Body }

func (b loggedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range b.Body.All() {
			fmt.Fprintf(os.Stderr, "data %q\n", block)
			if !yield(block) {
				return
			}
		}
	}
}

// Close closes the application's body, if it can be closed.
func (b loggedBody) Close() error {
	if c, ok := b.Body.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

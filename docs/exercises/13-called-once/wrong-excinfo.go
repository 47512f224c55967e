//go:build ignore

// Caught by "excInfo is passed on": the third argument is dropped.
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
			return loggedWriter{startResponse(status, headers)}
		}
		body := application(environ, start)
		if sized, ok := body.(interface{ Len() int }); ok {
			return sizedBody{loggedBody{body}, sized.Len()}
		}
		return loggedBody{body}
	}
}

// A loggedWriter is a write() that prints.
type loggedWriter struct{ io.Writer }

func (w loggedWriter) Write(block []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "data %q\n", block)
	return w.Writer.Write(block)
}

// A loggedBody prints each block when the gateway asks for it.
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

// A sizedBody is a loggedBody of known length.
type sizedBody struct {
	loggedBody
	n int
}

func (b sizedBody) Len() int { return b.n }

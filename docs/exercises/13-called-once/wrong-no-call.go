//go:build ignore

// Caught by "called once": the application is called again when the body is read.
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
		body := application(environ, start)
		again := func() Body {
			return application(environ, func(string, []Header, ...error) io.Writer { return io.Discard })
		}
		if sized, ok := body.(interface{ Len() int }); ok {
			return sizedBody{loggedBody{body, again}, sized.Len()}
		}
		return loggedBody{body, again}
	}
}

// A loggedWriter is a write() that prints.
type loggedWriter struct{ io.Writer }

func (w loggedWriter) Write(block []byte) (int, error) {
	fmt.Fprintf(os.Stderr, "data %q\n", block)
	return w.Writer.Write(block)
}

// A loggedBody prints each block when the gateway asks for it.
type loggedBody struct {
	Body
	again func() Body
}

func (b loggedBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range b.again().All() {
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

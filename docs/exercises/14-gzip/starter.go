//go:build ignore

// Exercise 14: gzip. See docs/exercises/14-gzip/README.md.
package main

import (
	"bytes"
	"compress/gzip"
	"io"
)

// gzipped compresses answers for clients that accept it.
func gzipped(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		start := func(status string, headers []Header, excInfo ...error) io.Writer {
			headers = append(headers, Header{"Content-Encoding", "gzip"})
			return startResponse(status, headers, excInfo...)
		}
		var buffer bytes.Buffer
		zip := gzip.NewWriter(&buffer)
		for block := range application(environ, start).All() {
			zip.Write(block) // a bytes.Buffer has no errors
		}
		zip.Close()
		return Blocks{buffer.Bytes()}
	}
}

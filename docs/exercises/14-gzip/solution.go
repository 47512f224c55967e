//go:build ignore

// Solution of exercise 14.
package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// gzipped compresses answers for clients that accept it.
func gzipped(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		g := &gzipBody{accepted: acceptsGzip(environ.Get("HTTP_ACCEPT_ENCODING")), start: startResponse}
		g.body = application(environ, g.startResponse)
		return g
	}
}

// acceptsGzip reports whether gzip is among the codings, and not with q=0.
func acceptsGzip(accepted string) bool {
	for _, coding := range strings.Split(accepted, ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			_, q, weighted := strings.Cut(weight, "=") // q is the only parameter
			quality, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
			return !weighted || err == nil && quality > 0
		}
	}
	return false
}

// A gzipBody compresses what an application sends, be it by write() or as a body.
type gzipBody struct {
	accepted bool
	start    StartResponse
	write    io.Writer // the gateway's write()
	body     Body
	buffer   bytes.Buffer
	zip      *gzip.Writer // into buffer; nil for an answer that stays as it is
}

// startResponse decides whether this answer is compressed, and says so in its head.
func (g *gzipBody) startResponse(status string, headers []Header, excInfo ...error) io.Writer {
	// 204, 205 and 304 have no body; the numbers in a 206 count bytes of the plain page.
	code, _, _ := strings.Cut(status, " ")
	compress := g.accepted && !slices.Contains([]string{"204", "205", "206", "304"}, code)
	for _, header := range headers {
		compress = compress && !strings.EqualFold(header.Name, "Content-Encoding")
	}
	changed := []Header{{"Vary", "Accept-Encoding"}}
	for _, header := range headers {
		if !compress || !strings.EqualFold(header.Name, "Content-Length") {
			changed = append(changed, header)
		}
	}
	g.zip = nil
	if compress {
		changed = append(changed, Header{"Content-Encoding", "gzip"})
		g.zip = gzip.NewWriter(&g.buffer)
	}
	g.write = g.start(status, changed, excInfo...)
	return g
}

// Write is the application's write().
func (g *gzipBody) Write(block []byte) (int, error) {
	if _, err := g.write.Write(g.compress(block)); err != nil {
		return 0, err
	}
	return len(block), nil
}

// compress returns what the compressed stream has for a block.
func (g *gzipBody) compress(block []byte) []byte {
	if g.zip == nil || len(block) == 0 {
		return block
	}
	g.zip.Write(block) // into a bytes.Buffer, which has no errors
	g.zip.Flush()
	return g.take()
}

func (g *gzipBody) take() []byte {
	out := bytes.Clone(g.buffer.Bytes())
	g.buffer.Reset()
	return out
}

// All gives a compressed block for each block, and the end of the stream.
func (g *gzipBody) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range g.body.All() {
			if !yield(g.compress(block)) {
				return
			}
		}
		if g.zip != nil {
			g.zip.Close()
			yield(g.take())
		}
	}
}

// Close closes the application's body, if it can be closed.
func (g *gzipBody) Close() error {
	if c, ok := g.body.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

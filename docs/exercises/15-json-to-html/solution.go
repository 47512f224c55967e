//go:build ignore

// Solution of exercise 15.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// jsonToHTML shows JSON answers as HTML.
func jsonToHTML(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		p := &jsonPage{start: startResponse}
		p.body = application(environ, p.startResponse)
		return p
	}
}

// A jsonPage holds a JSON answer back until it is whole. Other answers pass through it.
type jsonPage struct {
	start     StartResponse
	body      Body
	started   bool // startResponse was called
	isJSON    bool
	status    string
	headers   []Header
	excInfo   []error
	collected bytes.Buffer
}

// startResponse stores the head of a JSON answer: its length is not known yet.
func (p *jsonPage) startResponse(status string, headers []Header, excInfo ...error) io.Writer {
	if p.started && len(excInfo) == 0 {
		panic(errors.New("startResponse was called twice")) // the gateway has not seen the first
	}
	p.started, p.isJSON = true, false
	p.collected.Reset() // what was collected belongs to the answer that is given up
	for _, header := range headers {
		if strings.EqualFold(header.Name, "Content-Type") {
			mediaType, _, _ := strings.Cut(header.Value, ";")
			p.isJSON = strings.EqualFold(strings.TrimSpace(mediaType), "application/json")
		}
	}
	if !p.isJSON {
		return p.start(status, headers, excInfo...)
	}
	p.status, p.headers, p.excInfo = status, headers, excInfo
	return &p.collected
}

// All collects JSON, with an empty block for each, and then gives the page.
func (p *jsonPage) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for block := range p.body.All() {
			if p.isJSON {
				p.collected.Write(block) // a bytes.Buffer has no errors
				block = nil
			}
			if !yield(block) {
				return
			}
		}
		if p.isJSON {
			yield(p.finish())
		}
	}
}

// finish starts the response that was held back and returns its only block.
func (p *jsonPage) finish() []byte {
	var object map[string]any
	err := json.Unmarshal(p.collected.Bytes(), &object)
	if err != nil || object == nil { // null is JSON, but no object
		p.start(p.status, p.headers, p.excInfo...) // it stays as it is
		return p.collected.Bytes()
	}
	page := "<dl>"
	for _, name := range slices.Sorted(maps.Keys(object)) {
		page += "<dt>" + html.EscapeString(name) + "<dd>" +
			html.EscapeString(fmt.Sprint(object[name])) + "\n"
	}
	page += "</dl>\n"
	headers := []Header{{"Content-Type", "text/html; charset=utf-8"},
		{"Content-Length", strconv.Itoa(len(page))}}
	for _, header := range p.headers {
		if !strings.EqualFold(header.Name, "Content-Type") &&
			!strings.EqualFold(header.Name, "Content-Length") {
			headers = append(headers, header)
		}
	}
	p.start(p.status, headers, p.excInfo...)
	return []byte(page)
}

// Close closes the application's body, if it can be closed.
func (p *jsonPage) Close() error {
	if c, ok := p.body.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

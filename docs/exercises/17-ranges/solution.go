//go:build ignore

// Solution of exercise 17.
package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

const letters = "abcdefghijklmnopqrstuvwxyz"

// alphabet sends the letters, or a range of them, or nothing if the client has them.
func alphabet(environ Environ, startResponse StartResponse) Body {
	method := environ.Get("REQUEST_METHOD")
	if method != "GET" && method != "HEAD" {
		startResponse("405 Method Not Allowed", []Header{{"Allow", "GET, HEAD"}})
		return Blocks{}
	}
	headers := []Header{{"ETag", `"v1"`}, {"Last-Modified", "Sat, 21 Nov 2026 11:52:29 GMT"},
		{"Accept-Ranges", "bytes"}}
	if unchanged(environ) {
		startResponse("304 Not Modified", headers)
		return Blocks{}
	}
	headers = append(headers, Header{"Content-Type", "text/plain"})
	wanted := environ.Get("HTTP_RANGE")
	ifRange := environ.Get("HTTP_IF_RANGE")
	if method != "GET" || ifRange != "" && ifRange != `"v1"` {
		wanted = ""
	}
	first, end, ok := parseRange(wanted, len(letters))
	switch {
	case !ok:
		startResponse("200 OK", headers)
		return Blocks{[]byte(letters)}
	case first >= end:
		startResponse("416 Range Not Satisfiable",
			append(headers, Header{"Content-Range", fmt.Sprintf("bytes */%d", len(letters))}))
		return Blocks{}
	}
	startResponse("206 Partial Content", append(headers,
		Header{"Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, end-1, len(letters))}))
	return Blocks{[]byte(letters[first:end])}
}

// unchanged reports whether the client has this page. A date counts only without a tag.
func unchanged(environ Environ) bool {
	if tags := environ.Get("HTTP_IF_NONE_MATCH"); tags != "" {
		for _, tag := range strings.Split(tags, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == `"v1"` || tag == "*" {
				return true
			}
		}
		return false
	}
	const format = "Mon, 02 Jan 2006 15:04:05 GMT"
	modified := time.Date(2026, 11, 21, 11, 52, 29, 0, time.UTC)
	since, err := time.Parse(format, environ.Get("HTTP_IF_MODIFIED_SINCE"))
	return err == nil && !modified.After(since)
}

// parseRange reads one range of bytes: "bytes=20-", "bytes=0-4" or "bytes=-5". It returns the
// first byte and the one after the last; ok is false for a range that is to be ignored.
func parseRange(value string, size int) (first, end int, ok bool) {
	unit, spec, _ := strings.Cut(value, "=")
	from, to, found := strings.Cut(spec, "-")
	a, okA := parsePosition(from)
	b, okB := parsePosition(to)
	switch {
	case !strings.EqualFold(unit, "bytes") || !found:
		return 0, 0, false
	case from == "" && okB:
		return max(0, size-b), size, true
	case okA && to == "":
		return a, size, true
	case okA && okB && a <= b:
		return a, min(b, size-1) + 1, true
	}
	return 0, 0, false
}

// parsePosition reads digits. A number too large is larger than any page.
func parsePosition(digits string) (n int, ok bool) {
	value, err := strconv.ParseUint(digits, 10, 31) // the largest value, for ErrRange
	return int(value), err == nil || errors.Is(err, strconv.ErrRange)
}

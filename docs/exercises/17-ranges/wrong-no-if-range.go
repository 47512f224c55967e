//go:build ignore

// Caught by "a range of another version": If-Range is not looked at.
package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const letters = "abcdefghijklmnopqrstuvwxyz"

// alphabet sends the letters, or a part of them, or nothing if the client has them.
func alphabet(environ Environ, startResponse StartResponse) Body {
	headers := []Header{{"ETag", `"v1"`}, {"Last-Modified", "Sat, 21 Nov 2026 11:52:29 GMT"},
		{"Accept-Ranges", "bytes"}}
	if unchanged(environ) {
		startResponse("304 Not Modified", headers)
		return Blocks{}
	}
	headers = append(headers, Header{"Content-Type", "text/plain"})
	wanted := environ.Get("HTTP_RANGE")
	if environ.Get("REQUEST_METHOD") != "GET" {
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
// first byte and the one behind the last; ok is false for a range that is to be ignored.
func parseRange(value string, size int) (first, end int, ok bool) {
	spec, isBytes := strings.CutPrefix(value, "bytes=")
	from, to, found := strings.Cut(spec, "-")
	a, failedA := strconv.ParseUint(from, 10, 31)
	b, failedB := strconv.ParseUint(to, 10, 31)
	switch {
	case !isBytes || !found:
		return 0, 0, false
	case from == "" && failedB == nil:
		return max(0, size-int(b)), size, true
	case failedA == nil && to == "":
		return int(a), size, true
	case failedA == nil && failedB == nil && a <= b:
		return int(a), min(int(b)+1, size), true
	}
	return 0, 0, false
}

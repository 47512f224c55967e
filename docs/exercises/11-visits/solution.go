//go:build ignore

// Solution of exercise 11.
package main

import (
	"fmt"
	"strconv"
	"strings"
)

// visits counts how often a client has come, in a cookie.
func visits(environ Environ, startResponse StartResponse) Body {
	n := earlierVisits(environ.Get("HTTP_COOKIE")) + 1
	startResponse("200 OK", []Header{{"Content-Type", "text/plain"}, {"Cache-Control", "no-store"},
		{"Set-Cookie", fmt.Sprintf("visits=%d; Path=/; HttpOnly; SameSite=Lax", n)}})
	return Blocks{[]byte(fmt.Sprintf("visit %d\n", n))}
}

// earlierVisits returns the number in the cookie "visits", or 0.
func earlierVisits(cookies string) int {
	for _, pair := range strings.Split(cookies, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		n, err := strconv.ParseUint(value, 10, 32) // no sign
		if name == "visits" && err == nil && n <= 999999 {
			return int(n)
		}
	}
	return 0
}

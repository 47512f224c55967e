//go:build ignore

// Caught by "escapes are decoded already": it looks at the raw target.
package main

import (
	"maps"
	"slices"
	"strings"
)

// route puts applications side by side, each under the prefix that is its key.
func route(routes map[string]Application, fallback Application) Application {
	prefixes := slices.SortedFunc(maps.Keys(routes), func(a, b string) int { return len(b) - len(a) })
	return func(environ Environ, startResponse StartResponse) Body {
		for _, prefix := range prefixes {
			rest, ok := strings.CutPrefix(environ.Get("rawsgi.request_uri"), prefix)
			if ok && (rest == "" || rest[0] == '/') {
				environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + prefix
				environ["PATH_INFO"] = rest
				return routes[prefix](environ, startResponse)
			}
		}
		return fallback(environ, startResponse)
	}
}

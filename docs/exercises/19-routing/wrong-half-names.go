//go:build ignore

// Caught by "/ab is not under /a": any path that begins with the prefix fits.
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
			rest, ok := strings.CutPrefix(environ.Get("PATH_INFO"), prefix)
			if ok {
				environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + prefix
				environ["PATH_INFO"] = rest
				return routes[prefix](environ, startResponse)
			}
		}
		return fallback(environ, startResponse)
	}
}

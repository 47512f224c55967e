//go:build ignore

// Caught by "the longest prefix wins": prefixes are tried in the order of the map.
package main

import (
	"maps"
	"slices"
	"strings"
)

// route puts applications side by side, each under the prefix that is its key.
func route(routes map[string]Application, fallback Application) Application {
	prefixes := slices.Collect(maps.Keys(routes))
	return func(environ Environ, startResponse StartResponse) Body {
		prefixes = slices.Collect(maps.Keys(routes))
		for _, prefix := range prefixes {
			rest, ok := strings.CutPrefix(environ.Get("PATH_INFO"), prefix)
			if ok && (rest == "" || rest[0] == '/') {
				environ["SCRIPT_NAME"] = environ.Get("SCRIPT_NAME") + prefix
				environ["PATH_INFO"] = rest
				return routes[prefix](environ, startResponse)
			}
		}
		return fallback(environ, startResponse)
	}
}

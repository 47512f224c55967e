//go:build ignore

// Exercise 19: routing. See docs/exercises/19-routing/README.md.
package main

import "strings"

// route puts applications side by side, each under the prefix that is its key.
func route(routes map[string]Application, fallback Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		for prefix, application := range routes {
			if strings.HasPrefix(environ.Get("PATH_INFO"), prefix) {
				return application(environ, startResponse)
			}
		}
		return fallback(environ, startResponse)
	}
}

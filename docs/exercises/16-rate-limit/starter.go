//go:build ignore

// Exercise 16: a rate limit. See docs/exercises/16-rate-limit/README.md.
package main

import "time"

// newLimit lets each client ask n times in a window of time.
func newLimit(n int, window time.Duration, now func() time.Time) Middleware {
	return func(application Application) Application {
		return application // your code
	}
}

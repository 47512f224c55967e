//go:build ignore

// Caught by "at once": the look and the count are locked apart.
package main

import (
	"strconv"
	"sync"
	"time"
)

// newLimit lets each client ask n times in a window of time.
func newLimit(n int, length time.Duration, now func() time.Time) Middleware {
	l := &limit{n: n, length: length, now: now, windows: map[string]*window{}}
	return func(application Application) Application {
		return func(environ Environ, startResponse StartResponse) Body {
			wait, ok := l.allow(environ.Get("REMOTE_ADDR"))
			if ok {
				return application(environ, startResponse)
			}
			seconds := (wait + time.Second - 1) / time.Second
			startResponse("429 Too Many Requests", []Header{{"Content-Type", "text/plain"},
				{"Retry-After", strconv.Itoa(int(seconds))}})
			return Blocks{[]byte("Too many requests.\n")}
		}
	}
}

// A limit is the state that all requests share.
type limit struct {
	n       int
	length  time.Duration
	now     func() time.Time
	mu      sync.Mutex         // guards windows
	windows map[string]*window // by client
}

// A window is one client's.
type window struct {
	end   time.Time
	count int
}

// allow counts a request and reports whether it may pass, or when the client's window ends.
func (l *limit) allow(client string) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	w := l.windows[client]
	l.mu.Unlock()
	time.Sleep(10 * time.Millisecond) // others come in between
	l.mu.Lock()
	if w == nil || !now.Before(w.end) {
		w = &window{end: now.Add(l.length)}
		l.windows[client] = w
	}
	w.count++
	return w.end.Sub(now), w.count <= l.n
}

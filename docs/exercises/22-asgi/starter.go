//go:build ignore

// Exercise 22: ASGI. See docs/exercises/22-asgi/README.md.
package main

// adapt makes an application of one in the style of ASGI.
func adapt(application AsyncApplication) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		scope := Event{"type": "http"}
		receive := func() Event { return Event{"type": "http.request"} }
		var blocks Blocks
		application(scope, receive, func(event Event) {
			if block, ok := event["body"].([]byte); ok {
				blocks = append(blocks, block)
			}
		})
		startResponse("200 OK", nil)
		return blocks
	}
}

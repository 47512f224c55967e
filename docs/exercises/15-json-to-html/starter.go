//go:build ignore

// Exercise 15: JSON to HTML. See docs/exercises/15-json-to-html/README.md.
package main

// jsonToHTML shows JSON answers as HTML.
func jsonToHTML(application Application) Application {
	return func(environ Environ, startResponse StartResponse) Body {
		return application(environ, startResponse) // your code
	}
}

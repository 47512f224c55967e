//go:build ignore

// Exercise 00d: a header's key in environ. See docs/exercises/00d-environ-key/README.md.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(environKey(string(input)))
}

// environKey returns the key of a field in environ, or "none".
//
//	"User-Agent" → "HTTP_USER_AGENT"
func environKey(name string) string {
	return "HTTP_HOST" // your code
}

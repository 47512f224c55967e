//go:build ignore

// Solution of exercise 00c.
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
	fmt.Println(contentLength(string(input)))
}

// contentLength returns the header line for a page.
//
//	"HELLO" → "Content-Length: 5"
func contentLength(page string) string {
	return fmt.Sprintf("Content-Length: %d", len(page))
}

//go:build ignore

// Exercise 00b: find the end of a head. See docs/exercises/00b-end-of-head/README.md.
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
	fmt.Println(headLength(string(input)))
}

// headLength returns the number of bytes up to and with the empty line, or "more".
//
//	"GET / HTTP/1.0\r\n\r\nhello" → "18"
func headLength(request string) string {
	return fmt.Sprint(len(request)) // your code
}

//go:build ignore

// Solution of exercise 00b.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"strings"
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
	end := strings.Index(request, "\r\n\r\n")
	if end < 0 {
		return "more"
	}
	return fmt.Sprint(end + len("\r\n\r\n"))
}

//go:build ignore

// Solution of exercise 00a.
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
	fmt.Println(statusCode(string(input)))
}

// statusCode returns the code of a status line, or "bad".
//
//	"HTTP/1.0 404 Not Found\r\n" → "404"
func statusCode(line string) string {
	parts := strings.SplitN(strings.TrimSuffix(line, "\r\n"), " ", 3)
	if len(parts) != 3 || parts[0] != "HTTP/1.0" && parts[0] != "HTTP/1.1" {
		return "bad"
	}
	if len(parts[1]) != 3 || strings.Trim(parts[1], "0123456789") != "" {
		return "bad"
	}
	return parts[1]
}

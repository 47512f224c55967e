//go:build ignore

// Solution of exercise 00d.
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
	fmt.Println(environKey(string(input)))
}

// environKey returns the key of a field in environ, or "none".
//
//	"User-Agent" → "HTTP_USER_AGENT"
func environKey(name string) string {
	if strings.Contains(name, "_") || strings.EqualFold(name, "Proxy") {
		return "none"
	}
	key := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	if key == "CONTENT_TYPE" || key == "CONTENT_LENGTH" {
		return key
	}
	return "HTTP_" + key
}

//go:build ignore

// Solution of exercise 00e.
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
	method, answer, _ := strings.Cut(string(input), "\n")
	if maySend(method, answer) {
		fmt.Println("yes")
	} else {
		fmt.Println("no")
	}
}

// maySend reports whether the head and the body of an answer to a method agree.
func maySend(method, answer string) bool {
	head, body, ok := strings.Cut(answer, "\r\n\r\n")
	if !ok {
		return false
	}
	lines := strings.Split(head, "\r\n")
	status := strings.Split(lines[0]+" ", " ")[1]
	if method == "HEAD" || status == "204" || status == "304" {
		return body == ""
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			return strings.TrimSpace(value) == fmt.Sprint(len(body))
		}
	}
	return false
}

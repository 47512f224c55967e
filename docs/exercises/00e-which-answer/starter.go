//go:build ignore

// Exercise 00e: which answer may be sent?. See docs/exercises/00e-which-answer/README.md.
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
	return true // your code
}

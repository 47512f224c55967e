//go:build ignore

// Exercise 12: the head must wait. See docs/exercises/12-head-must-wait/README.md.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"net"
	"strings"
	"time"
)

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		log.Fatal(err) // e.g. another program has the port
	}
	fmt.Printf("Serving on http://%s/\n", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err) // e.g. out of file descriptors
		}
		go serveConn(c)
	}
}

// serveConn reads a request and has the application answer it.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	r := bufio.NewReader(c)
	first, err := r.ReadString('\n')
	for line := first; err == nil && line != "\r\n"; {
		line, err = r.ReadString('\n')
	}
	parts := strings.Split(first, " ")
	if err != nil || len(parts) != 3 {
		return // nobody has asked anything
	}
	run(parts[1], r, &response{c: c})
}

// A response is the answer, on its way to the client.
type response struct {
	c net.Conn
}

// run calls the application and sends what it yields.
func run(path string, input io.Reader, r *response) {
	defer func() {
		if reason := recover(); reason != nil {
			log.Print(reason)
			fmt.Fprint(r.c, "HTTP/1.1 500 Internal Server Error\r\n\r\n")
		}
	}()
	for block := range application(path, input, r.startResponse) {
		r.c.Write(block) // if it fails, the client has left
	}
}

// startResponse sends the head.
func (r *response) startResponse(status string, headers []Header, excInfo ...error) {
	fmt.Fprintf(r.c, "HTTP/1.1 %s\r\n", status)
	for _, header := range headers {
		fmt.Fprintf(r.c, "%s: %s\r\n", header.Name, header.Value)
	}
	fmt.Fprint(r.c, "\r\n")
}

// A Header is a name and a value.
type Header struct{ Name, Value string }

// A startResponse begins an answer; excInfo says why an application changes its mind.
type startResponse func(status string, headers []Header, excInfo ...error)

// application has a body for each path. It may wait for bytes of the client: input.
func application(path string, input io.Reader, start startResponse) iter.Seq[[]byte] {
	plain := []Header{{"Content-Type", "text/plain"}}
	onFire := errors.New("the database is on fire")
	if path == "/fail" { // before it returns a body
		start("200 OK", append(plain, Header{"X-Old", "yes"}))
		panic(onFire)
	}
	page := "Hello, World!\n"
	if path == "/late" {
		page = "late\n"
	}
	return func(yield func([]byte) bool) {
		send := func(text string) { yield([]byte(text)) }
		switch path {
		case "/late-fail":
			start("200 OK", plain)
			send("")
			panic("the page is on fire") // any value can be one
		case "/blank":
			start("200 OK", plain)
			send("")
			start("503 Service Unavailable", plain, onFire)
			send("sorry\n")
		case "/change":
			start("200 OK", append(plain, Header{"X-Old", "yes"}))
			start("503 Service Unavailable", plain, onFire)
			send("sorry\n")
		case "/sorry":
			start("503 Service Unavailable", plain, onFire)
			send("sorry\n")
		case "/twice":
			start("200 OK", plain)
			start("200 OK", plain)
			send("a page\n")
		case "/twice-late":
			start("200 OK", plain)
			send("begun\n")
			start("200 OK", plain)
			send("a page\n")
		case "/too-late":
			start("200 OK", plain)
			send("begun\n")
			start("503 Service Unavailable", plain, onFire)
			send("sorry\n")
		case "/empty":
			start("200 OK", append(plain, Header{"X-Empty", "yes"}))
		case "/cookies":
			start("200 OK", append(plain, Header{"Set-Cookie", "a=1"}, Header{"Set-Cookie", "b=2"}))
			send("two\n")
		case "/never":
			send("a page\n")
		case "/wait":
			start("200 OK", plain)
			send("first\n")
			if _, err := input.Read(make([]byte, 1)); err != nil {
				panic(err)
			}
			send("second\n")
		default: // "/", and "/late": nothing happens before the first iteration
			start("200 OK", plain)
			send(page)
		}
	}
}

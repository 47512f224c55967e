//go:build ignore

// Solution of exercise 12.
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
	c        net.Conn
	status   string // "" before startResponse
	headers  []Header
	headSent bool
}

// run calls the application and sends what it yields.
func run(path string, input io.Reader, r *response) {
	defer func() {
		if reason := recover(); reason != nil {
			log.Print(reason)
			r.fail()
		}
	}()
	for block := range application(path, input, r.startResponse) {
		r.send(block)
	}
	r.sendHead()
}

// startResponse stores the head. It may be called again only with excInfo.
func (r *response) startResponse(status string, headers []Header, excInfo ...error) {
	switch {
	case len(excInfo) > 0 && r.headSent:
		panic(excInfo[0])
	case len(excInfo) == 0 && r.status != "":
		panic("startResponse was called twice")
	}
	r.status, r.headers = status, headers
}

// send sends a block, and the head ahead of the first that is not empty.
func (r *response) send(block []byte) {
	if len(block) > 0 {
		r.sendHead()
		r.c.Write(block) // if it fails, the client has left
	}
}

// sendHead sends the head, once.
func (r *response) sendHead() {
	if r.headSent {
		return
	}
	if r.status == "" {
		panic("startResponse was not called")
	}
	r.headSent = true
	fmt.Fprintf(r.c, "HTTP/1.0 %s\r\n", r.status)
	for _, header := range r.headers {
		fmt.Fprintf(r.c, "%s: %s\r\n", header.Name, header.Value)
	}
	fmt.Fprint(r.c, "\r\n")
}

// fail answers 500 if there is still time. If not, the answer ends here.
func (r *response) fail() {
	if !r.headSent {
		fmt.Fprint(r.c, "HTTP/1.0 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\nfailed\n")
	}
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

//go:build ignore

// Solution of exercise 06.
package main

import (
	"bufio"
	"fmt"
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

// serveConn reads a request line and the rest of the head, and chooses a page.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	r := bufio.NewReader(c)
	first, err := r.ReadString('\n')
	for line := first; err == nil && line != "\r\n"; {
		line, err = r.ReadString('\n')
	}
	parts := strings.Split(first, " ")
	if err != nil || len(parts) != 3 {
		return // nobody has asked anything
	}
	method := parts[0]
	path, _, _ := strings.Cut(parts[1], "?") // the query does not choose the page
	switch {
	case method != "GET" && method != "HEAD":
		answer(c, method, "405 Method Not Allowed", "405 Method Not Allowed\n", "Allow: GET, HEAD\r\n")
	case path == "/":
		answer(c, method, "200 OK", "Grüße\n", "")
	case path == "/empty":
		answer(c, method, "204 No Content", "", "")
	default:
		answer(c, method, "404 Not Found", "404 Not Found: "+path+"\n", "")
	}
}

// answer sends a page with a head. The field is one more header line, with its line end.
func answer(c net.Conn, method, status, page, field string) {
	head := "HTTP/1.0 " + status + "\r\n" +
		"Date: " + time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n" +
		"Server: mine/1.0\r\n" + field
	if !strings.HasPrefix(status, "204") {
		head += "Content-Type: text/plain; charset=utf-8\r\n" +
			fmt.Sprintf("Content-Length: %d\r\n", len(page))
	}
	if method == "HEAD" {
		page = ""
	}
	fmt.Fprint(c, head+"\r\n"+page) // if it fails, the client has left
}

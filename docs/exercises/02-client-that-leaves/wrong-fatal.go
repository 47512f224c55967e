//go:build ignore

// Caught by "a client leaves at once": an error of one connection ends the program.
package main

import (
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

// serveConn answers one request.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	head, buffer := "", make([]byte, 1024)
	for !strings.Contains(head, "\r\n\r\n") {
		n, err := c.Read(buffer)
		head += string(buffer[:n])
		if err != nil {
			log.Fatal(err)
		}
	}
	page := "Hello, World!\n"
	_, err := fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(page), page)
	if err != nil {
		log.Print(err) // the client has left
	}
}

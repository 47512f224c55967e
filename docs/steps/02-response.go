//go:build ignore

// Step 2, a response: read a head up to its empty line, and answer every request alike.
//
//	go run docs/steps/02-response.go
//	curl -i http://127.0.0.1:8000/
//
// Still missing: the meaning of the lines, and limits to their length and number.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"time"
)

// timeout is how long a client has to send its head, and then to receive the answer.
const timeout = 2 * time.Second

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:8000")
	if err != nil {
		log.Fatal(err) // e.g. another program has the port
	}
	fmt.Printf("Serving HTTP on http://%s/ ...\n", l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err) // e.g. out of file descriptors
		}
		serveConn(c)
	}
}

// serveConn serves one connection: it reads a head, answers, and hangs up.
func serveConn(c net.Conn) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(timeout)) // an error will be returned by Read
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			fmt.Println("read:", err) // e.g. i/o timeout, or EOF: the client has left
			return
		}
		fmt.Printf("%q\n", line)
		if line == "\r\n" || line == "\n" {
			break // the empty line ends the head
		}
	}
	respond(c, "200 OK", "Hello, World!\n")
}

// respond sends an answer: a status line, header fields, an empty line, the page. The end
// of the connection is the end of the page. (RFC 1945 §6)
func respond(c net.Conn, status, page string) {
	head := "HTTP/1.0 " + status + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\n" +
		"\r\n"
	c.SetWriteDeadline(time.Now().Add(timeout)) // an error will be returned by the write
	io.WriteString(c, head+page)                // if it fails, the client has left
}

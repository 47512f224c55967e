//go:build ignore

// Step 1, a connection: accept a client, read once, print the bytes, hang up.
//
//	go run docs/steps/01-connection.go
//	curl http://127.0.0.1:8000/
//
// Still missing: an answer.
package main

import (
	"fmt"
	"log"
	"net"
)

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

// serveConn serves one connection: it prints what has arrived first, and hangs up.
func serveConn(c net.Conn) {
	defer c.Close()
	buffer := make([]byte, 4096)
	n, err := c.Read(buffer) // waits until at least one byte is there
	if err != nil {
		fmt.Println("read:", err) // e.g. EOF: the client has sent nothing and left
		return
	}
	fmt.Printf("%q\n", buffer[:n])
}

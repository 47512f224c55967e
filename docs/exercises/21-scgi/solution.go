//go:build ignore

// Solution of exercise 21.
package main

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
)

const maxHead = 64 * 1024 // bytes in the netstring

// serveSCGI answers the one request on a connection. What is no SCGI gets no answer.
func serveSCGI(c net.Conn, application Application) {
	r := bufio.NewReader(c)
	errorLog := log.New(os.Stderr, "", 0)
	variables, err := readSCGI(r)
	if err != nil {
		errorLog.Print(err)
		return
	}
	stays := func(environ Environ, startResponse StartResponse) Body {
		environ["wsgi.run_once"] = false
		return application(environ, startResponse)
	}
	serveCGI(stays, variables, r, c, errorLog)
}

// readSCGI reads the variables of a request, and returns them as "NAME=value".
func readSCGI(r *bufio.Reader) (variables []string, err error) {
	head, err := readNetstring(r)
	if err != nil {
		return nil, err
	}
	texts := strings.Split(head, "\x00")
	if len(texts)%2 != 1 || texts[len(texts)-1] != "" || texts[0] != "CONTENT_LENGTH" {
		return nil, errors.New("expected names and values, CONTENT_LENGTH first")
	}
	values := map[string]string{}
	for i := 0; i+1 < len(texts); i += 2 {
		name, value := texts[i], texts[i+1]
		if _, twice := values[name]; twice || name == "" {
			return nil, errors.New("expected each name once")
		}
		values[name] = value
		variables = append(variables, name+"="+value)
	}
	if values["SCGI"] != "1" {
		return nil, errors.New("expected SCGI 1")
	}
	if _, err := strconv.ParseUint(values["CONTENT_LENGTH"], 10, 63); err != nil {
		return nil, errors.New("expected CONTENT_LENGTH to be digits")
	}
	return variables, nil
}

// readNetstring reads a length, a colon, that many bytes and a comma.
func readNetstring(r *bufio.Reader) (string, error) {
	digits := ""
	for {
		b, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == ':' {
			break
		}
		if digits += string(b); len(digits) > 6 {
			return "", errors.New("expected a length and a colon")
		}
	}
	length, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || length > maxHead {
		return "", errors.New("expected a length of at most 64 KiB")
	}
	text := make([]byte, length+1)
	if _, err := io.ReadFull(r, text); err != nil {
		return "", err
	}
	if text[length] != ',' {
		return "", errors.New("expected a comma after the variables")
	}
	return string(text[:length]), nil
}

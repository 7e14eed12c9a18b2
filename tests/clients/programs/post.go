// Posts files with Go's client. Arguments: a URL, then pairs of type and file.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	for at := 2; at < len(os.Args); at += 2 {
		file, err := os.Open(os.Args[at+1])
		if err != nil {
			panic(err)
		}
		response, err := http.Post(os.Args[1], os.Args[at], file) // of unknown length: chunked
		if err != nil {
			panic(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(body))
	}
}

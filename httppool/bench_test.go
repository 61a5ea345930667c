package httppool_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/taskpool-go/taskpool"
	"github.com/taskpool-go/taskpool/httppool"
)

// BenchmarkHandler is a request that does next to nothing, alone and through a pool with a free
// slot, without the network.
func BenchmarkHandler(b *testing.B) {
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "answer")
	})
	p := newPool(b)
	classify := httppool.Routes(map[string]taskpool.Task{"POST /a": {Priority: taskpool.High}})
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"alone", next}, {"pool", httppool.Handler(p, next, nil)}, {"pool, classified", httppool.Handler(p, next, classify)}} {
		b.Run(c.name, func(b *testing.B) {
			w := &discard{header: make(http.Header)}
			body := strings.NewReader("body")
			r := httptest.NewRequest(http.MethodPost, "/a", body)
			b.ReportAllocs()
			for b.Loop() {
				body.Reset("body")
				c.h.ServeHTTP(w, r)
			}
		})
	}
}

// BenchmarkWrite is an answer of 1 MB in pieces, on a connection.
func BenchmarkWrite(b *testing.B) {
	p := newPool(b)
	for _, size := range []int{100, 32 << 10} {
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			piece := make([]byte, size)
			for range 1 << 20 / size {
				_, _ = w.Write(piece)
			}
		})
		for name, h := range map[string]http.Handler{"alone": next, "pool": httppool.Handler(p, next, nil)} {
			b.Run(fmt.Sprintf("%d bytes/%s", size, name), func(b *testing.B) {
				server, client := serve(b, false, h, io.Discard)
				for b.Loop() {
					resp, err := client.Get(server.URL)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
	}
}

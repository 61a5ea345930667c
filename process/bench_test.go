//go:build unix

package process_test

import (
	"context"
	"testing"

	"github.com/taskpool-go/taskpool/process"
)

// A round trip of a small call.
func BenchmarkCall(b *testing.B) {
	w := start(b, process.WithWorkers(1), process.WithEnv("GOMAXPROCS=1"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := add.Call(context.Background(), w, point{1, 2}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCallParallel(b *testing.B) {
	w := start(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := add.Call(context.Background(), w, point{1, 2}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A MiB there and back.
func BenchmarkCallWithAMiB(b *testing.B) {
	w := start(b, process.WithWorkers(1))
	data := make([]byte, 1<<20)
	b.SetBytes(2 << 20)
	for b.Loop() {
		if _, err := echo.Call(context.Background(), w, data); err != nil {
			b.Fatal(err)
		}
	}
}

// From the end of one child to the first result of the next.
func BenchmarkReplacement(b *testing.B) {
	w := start(b, process.WithWorkers(1), process.WithMaxCalls(1))
	for b.Loop() {
		if _, err := add.Call(context.Background(), w, point{1, 2}); err != nil {
			b.Fatal(err)
		}
	}
}

// An element of a Map of an empty function.
func BenchmarkMap(b *testing.B) {
	w := start(b, process.WithWorkers(2))
	b.ReportAllocs()
	n := 0
	for _, err := range process.Map(context.Background(), w, next, numbers(b.N)) {
		if n++; err != nil {
			b.Fatal(err)
		}
	}
}

package taskpool

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A numbered is an element of a heap by key, and knows its index.
type numbered struct{ key, i int }

func TestHeapStaysOneAsElementsSinkAndLeave(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		h := indexedHeap[*numbered]{
			less:  func(a, b *numbered) bool { return a.key < b.key },
			moved: func(x *numbered, i int) { x.i = i },
		}
		check := func() {
			t.Helper()
			for i, x := range h.items {
				require.Equal(t, i, x.i)
				require.False(t, i > 0 && h.Less(i, (i-1)/2), "index %d of %d", i, len(h.items))
			}
		}
		for range 1 + r.IntN(40) {
			h.add(&numbered{key: r.IntN(20)})
			check()
		}
		for len(h.items) > 0 {
			x := h.items[r.IntN(len(h.items))]
			if r.IntN(3) > 0 {
				x.key += r.IntN(10)
				h.sink(x.i)
			} else {
				n := len(h.items)
				h.remove(x.i)
				require.Equal(t, -1, x.i)
				require.Len(t, h.items, n-1)
			}
			check()
		}
	}
}

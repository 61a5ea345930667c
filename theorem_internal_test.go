package taskpool

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The theorems of docs/starvation.md, on the queue alone: every short trace
// instead of random ones, and times that no clock shows. The tests on the pool
// are in theorem_test.go.

// A shortTask is a task in a short trace.
type shortTask struct {
	h        *Handle
	lane     laneKey
	deadline int // it must be taken by this pop
}

// A shortTrace checks the promises of the fair share, with or without a
// restriction, by counting.
type shortTrace struct {
	q        priorityQueue
	n        int
	waiting  []shortTask // in order of arrival
	order    int64
	pops     [2]int // unrestricted; all
	choices  [2]int
	lastLost [2]int
	handles  []*Handle // for use again
}

// The operations of a short trace; three priorities, the first two of which may
// have reserved slots.
const (
	opPush0 = iota
	opPush1
	opPush2
	opResume1
	opPop
	opPopRestricted
	opCancelOldest
	numOps
)

// do makes one operation and returns which promise it broke.
func (s *shortTrace) do(op int) error {
	switch op {
	case opPush0, opPush1, opPush2:
		s.push(laneKey{Priority(op - opPush0), false})
	case opResume1:
		s.push(laneKey{1, true})
	case opCancelOldest:
		if len(s.waiting) > 0 {
			s.q.remove(s.waiting[0].h)
			s.waiting = s.waiting[1:]
			s.refresh()
		}
	case opPop:
		return s.pop(0, false)
	case opPopRestricted:
		return s.pop(1, true)
	}
	return nil
}

func (s *shortTrace) push(k laneKey) {
	s.order++
	if int(s.order) > len(s.handles) {
		s.handles = append(s.handles, &Handle{item: item{state: StateQueued}})
	}
	h := s.handles[s.order-1]
	s.q.push(entry{h: h, order: s.order}, k.priority, k.resuming)
	s.waiting = append(s.waiting, shortTask{h, k, math.MaxInt})
	s.refresh()
}

// able returns the number of pops so far that could have taken t.
func (s *shortTrace) able(t *shortTask) int {
	if s.q.reserve != nil && t.lane.priority > *s.q.reserve {
		return s.pops[0]
	}
	return s.pops[1]
}

func (s *shortTrace) refresh() {
	if s.n == 0 {
		return
	}
	for m := range s.waiting {
		t := &s.waiting[m]
		limit := s.n * (m + 1)
		if s.q.reserve != nil && t.lane.priority <= *s.q.reserve {
			limit += s.n - 1
		}
		t.deadline = min(t.deadline, s.able(t)+limit)
	}
}

func (s *shortTrace) pop(kind int, restricted bool) error {
	if restricted && s.q.reserve == nil {
		return nil
	}
	inReach := func(t shortTask) bool { return !restricted || t.lane.priority <= *s.q.reserve }
	e, pr, ok := s.q.pop(restricted)
	if !ok {
		if slices.ContainsFunc(s.waiting, inReach) {
			return fmt.Errorf("nothing taken")
		}
		return nil
	}
	i := slices.IndexFunc(s.waiting, func(t shortTask) bool { return t.h == e.h })
	if i < 0 || !inReach(s.waiting[i]) || s.waiting[i].lane.priority != pr {
		return fmt.Errorf("the wrong task taken")
	}
	x := s.waiting[i]
	choice, lost := false, false
	for j, w := range s.waiting {
		if !inReach(w) {
			continue
		}
		choice = choice || w.lane != x.lane
		lost = lost || w.lane.priority < pr || w.lane.priority == pr && w.lane.resuming && !x.lane.resuming
		if j < i && (w.lane == x.lane || s.n == 1) {
			return fmt.Errorf("passed an older one")
		}
	}
	if choice {
		s.choices[kind]++
	}
	if lost {
		if last := s.lastLost[kind]; s.n == 0 || last > 0 && s.choices[kind]-last < s.n {
			return fmt.Errorf("urgent work lost choice %d after %d", s.choices[kind], last)
		}
		s.lastLost[kind] = s.choices[kind]
	}
	if s.pops[1]++; !restricted {
		s.pops[0]++
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	if able := s.able(&x); s.n > 0 && able > x.deadline {
		return fmt.Errorf("taken by pop %d, bound %d", able, x.deadline)
	}
	for j := range s.waiting {
		if w := &s.waiting[j]; s.n > 0 && s.able(w) >= w.deadline {
			return fmt.Errorf("not taken by its bound %d", w.deadline)
		}
	}
	s.refresh()
	return nil
}

// reset makes the queue as good as new, but for the lanes it keeps.
func (s *shortTrace) reset() {
	for _, w := range s.waiting {
		s.q.remove(w.h)
	}
	s.q.turn = [2]uint64{}
	*s = shortTrace{q: s.q, n: s.n, waiting: s.waiting[:0], handles: s.handles}
}

// Every trace of 6 operations, 117,649 with reserved workers and 46,656 without,
// from a backlog of two tasks.
func TestTheoremFairShareHoldsForEveryShortTrace(t *testing.T) {
	const length = 6
	for _, n := range []int{0, 1, 2, 3} {
		for _, reserve := range []bool{false, true} {
			t.Run(fmt.Sprintf("n=%d,reserved=%v", n, reserve), func(t *testing.T) {
				s := &shortTrace{n: n}
				s.q.share = uint64(n)
				if reserve {
					pr := Priority(1)
					s.q.reserve = &pr
				}
				s.q.init()
				traces := 0
				var ops [length]int
				for more := true; more; more = nextOps(ops[:]) {
					if !reserve && slices.Contains(ops[:], opPopRestricted) {
						continue
					}
					traces++
					s.reset()
					s.push(laneKey{2, false})
					s.push(laneKey{1, false})
					for i, op := range ops {
						if err := s.do(op); err != nil {
							t.Fatalf("operations %v: %v", ops[:i+1], err)
						}
					}
				}
				require.Equal(t, map[bool]int{false: 46_656, true: 117_649}[reserve], traces)
			})
		}
	}
}

// nextOps counts ops up like the digits of a number, and returns false at its
// end.
func nextOps(ops []int) bool {
	for i := range ops {
		if ops[i]++; ops[i] < numOps {
			return true
		}
		ops[i] = 0
	}
	return false
}

// The promise of aging in exact arithmetic, with any priorities, steps and
// times, 10,000 traces: saturation weakens it nowhere.
func TestTheoremAgingHoldsInExactArithmetic(t *testing.T) {
	type waiting struct {
		pr Priority
		at int64
		n  int
	}
	ends := []int64{math.MinInt64, math.MinInt64 + 1, math.MinInt64 / 2, -1 << 32, -1, 0, 1, 1 << 32,
		math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64}
	passed := 0
	for seed := range uint64(10_000) {
		rng := rand.New(rand.NewPCG(seed, 79))
		number := func() int64 { // of any magnitude, often near an end
			switch x := ends[rng.IntN(len(ends))]; rng.IntN(3) {
			case 0:
				return x
			case 1:
				return int64(rng.Uint64()) >> rng.IntN(64)
			default:
				return int64(rng.IntN(20)) - 10
			}
		}
		var q priorityQueue
		q.step = max(time.Duration(number()), 1)
		q.init()
		var tasks []waiting // in order of arrival
		at, added := int64(0), 0
		for added < 16 || len(tasks) > 0 {
			if added < 16 && (len(tasks) == 0 || rng.IntN(5) < 3) {
				if late := number(); late > 0 && rng.IntN(2) == 0 {
					at = addSaturating(at, late)
				}
				w := waiting{Priority(number()), at, added}
				q.push(entry{f: func() { added = -w.n }, order: w.at}, w.pr, false)
				tasks = append(tasks, w)
				added++
				continue
			}
			e, _, ok := q.pop(false)
			require.True(t, ok, "seed %d", seed)
			was := added
			e.f() // tells which task it is
			n := -added
			added = was
			i := slices.IndexFunc(tasks, func(w waiting) bool { return w.n == n })
			x := tasks[i]
			for _, w := range tasks[:i] { // x passes these, which are no younger
				passed++
				head := new(big.Int).Sub(big.NewInt(int64(w.pr)), big.NewInt(int64(x.pr)))
				head.Mul(head, big.NewInt(int64(q.step)))
				if late := big.NewInt(x.at - w.at); late.Cmp(head) >= 0 {
					t.Fatalf("seed %d, step %d: priority %d passed %d, which came %v before, head start %v",
						seed, q.step, x.pr, w.pr, late, head)
				}
			}
			tasks = slices.Delete(tasks, i, i+1)
		}
	}
	require.Greater(t, passed, 100_000)
}

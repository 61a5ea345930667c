//go:build invariants

package taskpool

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// A naiveQueue is the reference for priorityQueue: the waiting tasks in order
// of arrival, all of them looked at each time.
type naiveQueue struct {
	share uint64
	step  time.Duration
	turn  uint64
	tasks []naiveTask
}

type naiveTask struct {
	id       int
	h        *Handle // nil for a function
	priority Priority
	order    int64
	key      int64
	fresh    bool
	resuming bool
	older    int // tasks that waited when it came
	pops     int // dispatches since then
}

// clamp returns the int64 next to x.
func clamp(x *big.Int) *big.Int {
	if x.IsInt64() {
		return x
	}
	if x.Sign() > 0 {
		return big.NewInt(math.MaxInt64)
	}
	return big.NewInt(math.MinInt64)
}

func (q *naiveQueue) push(t naiveTask) {
	t.key, t.older = int64(t.priority), len(q.tasks)
	if q.step > 0 {
		head := new(big.Int).Mul(big.NewInt(int64(t.priority)), big.NewInt(int64(q.step)))
		t.key = clamp(new(big.Int).Add(big.NewInt(t.order), clamp(head))).Int64()
	}
	q.tasks = append(q.tasks, t)
}

// choice reports whether tasks of more than one lane wait.
func (q *naiveQueue) choice() bool {
	return slices.ContainsFunc(q.tasks, func(t naiveTask) bool {
		return t.priority != q.tasks[0].priority || t.resuming != q.tasks[0].resuming
	})
}

// next returns the index of the task whose turn it is. There must be one.
func (q *naiveQueue) next() int {
	if q.share > 0 && q.choice() && q.turn+1 >= q.share {
		return 0
	}
	best := 0
	for i := range q.tasks {
		a, b := &q.tasks[i], &q.tasks[best]
		switch c := cmp.Compare(a.key, b.key); {
		case c < 0, c == 0 && q.step == 0 && a.resuming && !b.resuming:
			best = i
		case c == 0 && q.step > 0 && (a.order < b.order || a.order == b.order && a.priority < b.priority):
			best = i
		}
	}
	if q.step > 0 { // who resumes goes before those of its priority that do not
		for i, t := range q.tasks {
			if t.resuming && t.priority == q.tasks[best].priority {
				return i
			}
		}
	}
	return best
}

func (q *naiveQueue) pop() (naiveTask, bool) {
	if len(q.tasks) == 0 {
		return naiveTask{}, false
	}
	i := q.next()
	if q.share > 0 && q.choice() {
		q.turn = (q.turn + 1) % q.share
	}
	t := q.takeAt(i)
	for i := range q.tasks {
		q.tasks[i].pops++
	}
	return t, true
}

func (q *naiveQueue) shed(pr Priority) (naiveTask, bool) {
	worst := -1
	for i, t := range q.tasks {
		if t.fresh && t.priority > pr && (worst < 0 || t.priority >= q.tasks[worst].priority) {
			worst = i
		}
	}
	if worst < 0 {
		return naiveTask{}, false
	}
	return q.takeAt(worst), true
}

func (q *naiveQueue) takeAt(i int) naiveTask {
	t := q.tasks[i]
	q.tasks = slices.Delete(q.tasks, i, i+1)
	return t
}

// A queuePair drives a queue and its reference through the same operations.
type queuePair struct {
	t      *testing.T
	q      *priorityQueue
	ref    naiveQueue
	nextID int
	called int      // number of the function that was called last
	op     string   // the last operation
	lane   Priority // and the lane it touched, if any
}

func newQueuePair(t *testing.T, share uint64, step time.Duration, shed bool) *queuePair {
	p := &queuePair{t: t, q: new(priorityQueue), ref: naiveQueue{share: share, step: step}}
	p.q.share, p.q.step, p.q.shed = share, step, shed
	p.q.init()
	return p
}

func (p *queuePair) push(pr Priority, order int64, handle, fresh bool) {
	p.op = fmt.Sprintf("push(%d, %d, handle %v, fresh %v)", pr, order, handle, fresh)
	id := p.nextID
	p.nextID++
	n := naiveTask{id: id, priority: pr, order: order, fresh: fresh || !handle}
	e := entry{order: order}
	if handle {
		n.h = &Handle{id: uint64(id)}
		if !fresh {
			n.h.attempts = 1
			if n.resuming = id%3 == 0; n.resuming {
				n.h.state = StateParked
			}
		}
		e.h = n.h
	} else {
		e.f = func() { p.called = id }
	}
	p.q.push(e, pr, n.resuming)
	p.ref.push(n)
	p.lane = pr
}

// same compares what the queue gave with what the reference gave.
func (p *queuePair) same(e entry, pr Priority, ok bool, want naiveTask, wantOK bool) {
	p.t.Helper()
	if ok != wantOK {
		p.t.Fatalf("%s: got a task: %v, want %v", p.op, ok, wantOK)
	}
	if !ok {
		if e.live() {
			p.t.Fatalf("%s: no task, but an entry", p.op)
		}
		return
	}
	p.lane = pr
	if id := p.id(e); id != want.id || pr != want.priority || e.order != want.order {
		p.t.Fatalf("%s: got task %d of priority %d and order %d, want %d, %d, %d",
			p.op, id, pr, e.order, want.id, want.priority, want.order)
	}
	if e.h != nil && e.h.place != (place{}) {
		p.t.Fatalf("%s: task %d still has a place", p.op, want.id)
	}
}

func (p *queuePair) id(e entry) int {
	if e.h != nil {
		return int(e.h.id)
	}
	p.called = -1
	e.f()
	return p.called
}

func (p *queuePair) pop() {
	p.t.Helper()
	p.op = "pop"
	var peeked int
	if p.q.n > 0 { // as restoreLocked does at the door
		l, _ := p.q.next(false)
		peeked = p.id(*l.front())
	}
	want, wantOK := p.ref.pop()
	e, pr, ok := p.q.pop(false)
	p.same(e, pr, ok, want, wantOK)
	if ok && peeked != want.id {
		p.t.Fatalf("next was %d, but pop gave %d", peeked, want.id)
	}
	if n := int(p.ref.share); ok && n > 0 && want.pops+1 > n*(want.older+1) {
		p.t.Fatalf("task %d with %d older ones took %d dispatches with a fair share of 1 in %d",
			want.id, want.older, want.pops+1, n)
	}
}

func (p *queuePair) shed(pr Priority) {
	p.t.Helper()
	p.op = fmt.Sprintf("shed(%d)", pr)
	want, wantOK := p.ref.shed(pr)
	e, victim, ok := p.q.takeShed(pr)
	p.same(e, victim, ok, want, wantOK)
}

// removeAt removes the i-th oldest task, if it is a handle.
func (p *queuePair) removeAt(i int) (removed bool) {
	p.t.Helper()
	n := p.ref.tasks[i]
	if n.h == nil {
		return false
	}
	p.op = fmt.Sprintf("remove(%d)", n.id)
	p.ref.takeAt(i)
	p.same(p.q.remove(n.h), n.priority, true, n, true)
	return true
}

// check looks at the invariants after an operation. It looks at the slots of no
// lane but the one that was touched.
func (p *queuePair) check() {
	p.t.Helper()
	if err := p.q.checkHeaps(true); err != nil {
		p.t.Fatalf("after %s: %v", p.op, err)
	}
	for _, resuming := range []bool{false, true} {
		if l := p.q.lanes[laneKey{p.lane, resuming}]; l != nil {
			if err := l.check(); err != nil {
				p.t.Fatalf("after %s: lane %v: %v", p.op, l.laneKey, err)
			}
		}
	}
	if p.q.n != len(p.ref.tasks) || p.q.turn[0] != p.ref.turn {
		p.t.Fatalf("after %s: %d tasks wait and the turn is %d, want %d and %d",
			p.op, p.q.n, p.q.turn[0], len(p.ref.tasks), p.ref.turn)
	}
}

// checkAll looks at every slot, and compares the queue's content with the
// reference's.
func (p *queuePair) checkAll() {
	p.t.Helper()
	p.check()
	for pr, l := range p.q.lanes {
		if err := l.check(); err != nil {
			p.t.Fatalf("after %s: lane %v: %v", p.op, pr, err)
		}
	}
	want := slices.Clone(p.ref.tasks)
	slices.SortStableFunc(want, func(a, b naiveTask) int {
		if a.priority == b.priority && a.resuming != b.resuming {
			return map[bool]int{true: -1, false: 1}[a.resuming]
		}
		return cmp.Compare(a.priority, b.priority)
	})
	i := 0
	for pr, e := range p.q.all() {
		if pr != want[i].priority || e.h != want[i].h || e.order != want[i].order {
			p.t.Fatalf("after %s: task %d by priority differs", p.op, i)
		}
		i++
	}
	if i != len(want) {
		p.t.Fatalf("after %s: all lists %d tasks, want %d", p.op, i, len(want))
	}
}

func TestQueueAgreesWithNaiveQueue(t *testing.T) {
	consecutive := func(n int) (prs []Priority) {
		for i := range n {
			prs = append(prs, Priority(i-n/2))
		}
		return prs
	}
	sets := []struct {
		name       string
		priorities []Priority
		waiting    int // the trace goes up and down between 0 and about this many
		ops        int
	}{
		{"3 priorities", consecutive(3), 300, 1200},
		{"200 priorities", consecutive(200), 300, 1000},
		{"extremes", []Priority{math.MinInt, math.MinInt + 1, -1, 0, 1, math.MaxInt - 1, math.MaxInt}, 30, 600},
	}
	for _, mode := range queueModes() {
		for _, set := range sets {
			t.Run(mode.name+","+set.name, func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(7, uint64(len(set.priorities))))
				p := newQueuePair(t, mode.share, mode.step, mode.shed)
				pick := func() Priority { return set.priorities[rng.IntN(len(set.priorities))] }
				order := int64(0)
				if set.name == "extremes" && mode.step > 0 {
					order = math.MaxInt64 - 1_000_000 // near the end of time
				}
				push := func() {
					if mode.step == 0 {
						order++
					} else if rng.IntN(3) > 0 { // else at the same instant
						order += rng.Int64N(min(int64(mode.step), 100) + 1)
					}
					p.push(pick(), order, rng.IntN(4) > 0, rng.IntN(3) > 0)
				}
				growing := true
				for op := range set.ops {
					if n := len(p.ref.tasks); n == 0 {
						growing = true
					} else if n > set.waiting {
						growing = false
					}
					weight := 35
					if growing {
						weight = 75
					}
					switch r := rng.IntN(100); {
					case r < weight:
						push()
					case r < weight+15 || len(p.ref.tasks) == 0:
						p.pop()
					case mode.shed && r%3 == 0:
						p.shed(pick())
					case r%3 == 1:
						p.removeAt(rng.IntN(len(p.ref.tasks)))
					default:
						p.pop()
					}
					if p.check(); op%32 == 0 {
						p.checkAll()
					}
				}
				for len(p.ref.tasks) > 0 {
					p.pop()
					p.check()
				}
				p.checkAll()
				p.pop() // of an empty queue
				p.shed(math.MinInt)
			})
		}
	}
}

// The bound holds whatever comes, so this trace pushes nothing but more urgent
// tasks behind the one that waits.
func TestQueueKeepsTheFairShareAgainstUrgentArrivals(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 16} {
		p := newQueuePair(t, n, 0, false)
		order := int64(0)
		for i := range 40 {
			order++
			p.push(Priority(1000-i), order, true, true)
		}
		popsLow := 0
		for i := range 40 * int(n) {
			order++
			p.push(Priority(-i), order, false, true)
			p.pop() // checks the bound of every task
			if p.ref.tasks[0].priority <= 0 {
				break
			}
			popsLow++
		}
		p.checkAll()
		require.Equal(t, 40*int(n)-1, popsLow, "with one dispatch in %d the 40th task must be the %dth", n, 40*n)
	}
}

func TestQueueKeepsLongLanesInOrder(t *testing.T) {
	const tasks = 2500 // some 30 segments
	removals := map[string]func(rng *rand.Rand, n int) int{
		"front":  func(*rand.Rand, int) int { return 0 },
		"back":   func(_ *rand.Rand, n int) int { return n - 1 },
		"middle": func(_ *rand.Rand, n int) int { return n / 2 },
		"random": func(rng *rand.Rand, n int) int { return rng.IntN(n) },
		"ends":   func(rng *rand.Rand, n int) int { return rng.IntN(2) * (n - 1) },
	}
	for name, pick := range removals {
		for _, mode := range []queueMode{{share: 2, shed: true}, {step: 10}} {
			t.Run(fmt.Sprintf("%s,share=%d,step=%d", name, mode.share, mode.step), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(11, 13))
				p := newQueuePair(t, mode.share, mode.step, mode.shed)
				order := int64(0)
				for range tasks {
					order++
					p.push(Low, order, true, rng.IntN(2) == 0)
				}
				p.checkAll()
				for i := 0; len(p.ref.tasks) > tasks/20; i++ {
					p.removeAt(pick(rng, len(p.ref.tasks)))
					if i%5 == 0 {
						order++
						p.push(Low, order, true, true)
					}
					if i%7 == 0 {
						p.pop()
					}
					if err := p.q.checkHeaps(true); err != nil {
						t.Fatalf("after %s: %v", p.op, err)
					}
					if i%16 == 0 {
						p.check()
					}
				}
				p.checkAll()
				for len(p.ref.tasks) > 0 {
					p.removeAt(pick(rng, len(p.ref.tasks)))
					p.check()
				}
				p.checkAll()
				require.Nil(t, p.q.lanes[laneKey{Low, false}].head, "an empty lane has no segment")
			})
		}
	}
}

// Only so many empty lanes are kept, however many priorities come and go.
func TestQueueForgetsLanesOfPastPriorities(t *testing.T) {
	p := newQueuePair(t, 16, 0, true)
	for i := range 5000 {
		p.push(Priority(i), int64(i), true, true)
		p.pop()
	}
	p.checkAll()
	require.Len(t, p.q.lanes, keptLanes, "5000 priorities have come and gone")
}

func TestPlacesForRecentLanesGrowWithThem(t *testing.T) {
	var q priorityQueue
	q.init()
	want := leastRecent
	for n := 1; n <= mostRecent+10; n++ {
		q.push(entry{f: func() {}, order: int64(n)}, Priority(n), false)
		for want < min(n, mostRecent) {
			want *= 2
		}
		require.Len(t, q.recent, want, "%d lanes", n)
	}
	require.NoError(t, q.checkHeaps(true))
}

// Lanes that are forgotten and made again, those in q.recent among them.
func TestQueueAgreesWithNaiveQueueWhileLanesAreForgotten(t *testing.T) {
	for _, mode := range []queueMode{{share: 16, shed: true}, {step: 10}} {
		rng := rand.New(rand.NewPCG(23, 29))
		p := newQueuePair(t, mode.share, mode.step, mode.shed)
		forgotten := 0
		for op := range 6000 {
			lanes := len(p.q.lanes)
			if n := len(p.ref.tasks); n == 0 || n < 300 && rng.IntN(2) == 0 {
				p.push(Priority(rng.IntN(4*keptLanes)), int64(op), rng.IntN(2) == 0, rng.IntN(2) == 0)
			} else if rng.IntN(4) > 0 || !p.removeAt(rng.IntN(n)) {
				p.pop()
			}
			if len(p.q.lanes) < lanes {
				forgotten++
			}
			if p.check(); op%64 == 0 {
				p.checkAll()
			}
		}
		require.Greater(t, forgotten, 500)
	}
}

// After a backlog of very many priorities the queue is made anew while some wait.
func TestQueueAgreesWithNaiveQueueWhileItShrinks(t *testing.T) {
	const priorities = 20 * keptLanes
	reserve := Priority(priorities - 100)
	p := newQueuePair(t, 0, 0, true)
	p.q.reserve = &reserve
	p.q.init()
	for i := range priorities {
		p.push(Priority(i), int64(i), i%2 == 0, true)
	}
	require.Equal(t, priorities, p.q.peak)
	shrunk := false
	for len(p.ref.tasks) > 0 {
		if len(p.ref.tasks) == keptLanes && !shrunk {
			for pr := range Priority(4) { // empty lanes that are kept, now recent ones
				require.NotNil(t, p.q.lanes[laneKey{pr, false}])
				p.push(pr, priorities, false, true)
				p.pop()
			}
		}
		if n := len(p.ref.tasks); n%2 == 0 && n > 2*keptLanes {
			p.shed(math.MinInt)
		} else {
			p.pop()
		}
		if p.q.peak < priorities && !shrunk {
			shrunk = true
			p.checkAll()
			require.Equal(t, keptLanes-1, len(p.ref.tasks), "waited when the queue shrank")
			require.Len(t, p.q.lanes, len(p.ref.tasks), "without empty lanes")
			for _, h := range p.q.heaps() {
				require.Less(t, cap(h.lanes), 2*keptLanes, "heap %d", h.id)
			}
			p.push(Low, priorities, true, true)
		}
		if n := len(p.ref.tasks); n%512 == 0 || shrunk && n%16 == 0 {
			p.checkAll()
		}
	}
	require.True(t, shrunk)
}

func TestAllHeapsShrink(t *testing.T) {
	for _, mode := range []queueMode{{share: 16}, {step: time.Second}} {
		var q priorityQueue
		q.share, q.step = mode.share, mode.step
		q.init()
		for i := range 20 * keptLanes {
			q.push(entry{f: func() {}, order: int64(i)}, Priority(i), false)
		}
		for q.n >= keptLanes {
			q.pop(false)
		}
		for _, h := range q.heaps() {
			require.Less(t, cap(h.lanes), 2*keptLanes, "heap %d", h.id)
		}
	}
}

// The sizes of the segments follow from what waits in the lane at that time.
func TestSegmentsGrowWithTheirLane(t *testing.T) {
	var q priorityQueue
	q.init()
	sizes := func() (sizes []int) {
		for s := q.lanes[laneKey{Low, false}].head; s != nil; s = s.next {
			sizes = append(sizes, len(s.slots))
		}
		return sizes
	}
	push := func(n int) {
		for range n {
			q.push(entry{f: func() {}}, Low, false)
		}
	}
	small, middle, large := segmentSlots[0], segmentSlots[1], segmentSlots[2]
	push(1)
	require.Equal(t, []int{small}, sizes())
	push(small)
	require.Equal(t, []int{small, middle}, sizes())
	push(middle)
	require.Equal(t, []int{small, middle, large}, sizes())
	push(large)
	require.Equal(t, []int{small, middle, large, large}, sizes())
	for range 1000 { // with few waiting
		for q.n > 2 {
			q.pop(false)
		}
		push(1)
		require.LessOrEqual(t, len(sizes()), 2)
	}
	require.Equal(t, middle, sizes()[0])
	for q.n > 0 {
		q.pop(false)
	}
	push(1)
	require.Equal(t, []int{small}, sizes())
	push(small)
	for range small { // the first segment
		q.pop(false)
	}
	push(middle) // one more than the second holds, with as many waiting
	require.Equal(t, []int{middle, large}, sizes())
}

// A run ends where a task was removed, and its lane then begins behind the gap.
func TestSkipPassesWhatWasRemoved(t *testing.T) {
	var q priorityQueue
	q.init()
	called, h := -1, &Handle{}
	for i := range 5 {
		e := entry{f: func() { called = i }, order: int64(i)}
		if i == 2 {
			e.f, e.h = nil, h
		}
		q.push(e, Low, false)
	}
	q.remove(h)
	l := q.lane(laneKey{Low, false})
	clear(l.head.slots[:2])
	q.skip(l, 2)
	require.NoError(t, q.checkHeaps(true))
	require.NoError(t, l.check())
	e, _, _ := q.pop(false)
	e.f()
	require.Equal(t, 3, called)
}

// A lane of which no task may be shed, as all have started, has some again.
func TestTasksOfABatchMayBeShed(t *testing.T) {
	var q priorityQueue
	q.shed = true
	q.init()
	q.push(entry{h: &Handle{item: item{attempts: 1}}, order: 1}, Low, false)
	q.push(entry{f: func() {}, order: 2}, High, false)
	s := q.segment(batchSize)
	for i := range int64(worthWhole) {
		s.slots[i] = entry{f: func() {}, order: i}
	}
	s.base = 3
	q.pushSegment(s, worthWhole, Low)
	require.NoError(t, q.checkHeaps(true))
	e, pr, ok := q.takeShed(High)
	require.True(t, ok)
	require.Equal(t, Low, pr)
	require.EqualValues(t, worthWhole+2, e.order)
}

func TestSegmentsHaveTheirSize(t *testing.T) {
	for size, slots := range segmentSlots {
		s := newSegment(int32(size))
		require.EqualValues(t, size, s.size)
		require.Len(t, s.slots, slots)
	}
}

func TestOnlySoManyEmptySegmentsAreKept(t *testing.T) {
	var q priorityQueue
	q.init()
	for _, priorities := range []int{1, 1000, 20_000} {
		for i := range 20_000 {
			q.push(entry{f: func() {}}, Priority(i%priorities), false)
		}
		for q.n > 0 {
			q.pop(false)
		}
		require.NoError(t, q.checkHeaps(true)) // it counts them
	}
	for size, free := range q.free[:len(q.free)-1] { // the last size is for arrivals
		require.Equal(t, keptSlots/segmentSlots[size], free.n, "of size %d", segmentSlots[size])
	}
}

func TestKeyArithmeticSaturates(t *testing.T) {
	values := []int64{math.MinInt64, math.MinInt64 + 1, math.MinInt64 / 2, -1 << 32, -3, -2, -1, 0,
		1, 2, 3, 1 << 32, math.MaxInt64 / 2, math.MaxInt64/2 + 1, math.MaxInt64 - 1, math.MaxInt64}
	for _, a := range values {
		for _, b := range values {
			x, y := big.NewInt(a), big.NewInt(b)
			require.Equal(t, clamp(new(big.Int).Add(x, y)).Int64(), addSaturating(a, b), "%d + %d", a, b)
			require.Equal(t, clamp(new(big.Int).Mul(x, y)).Int64(), mulSaturating(a, b), "%d × %d", a, b)
		}
	}
}

func TestExtremePrioritiesKeepTheirOrder(t *testing.T) {
	for _, step := range []time.Duration{0, 1, time.Second, math.MaxInt64} {
		var q priorityQueue
		q.step = step
		q.init()
		prs := []Priority{math.MaxInt, 1, 0, -1, math.MinInt}
		for _, pr := range prs { // all at the same instant
			q.push(entry{f: func() {}, order: 7}, pr, false)
		}
		for i := len(prs) - 1; i >= 0; i-- {
			_, pr, ok := q.pop(false)
			require.True(t, ok)
			require.Equal(t, prs[i], pr, "step %d", step)
		}
	}
}

// Where saturation makes keys equal, the older task goes first.
func TestSaturatedKeysGoOldestFirst(t *testing.T) {
	var q priorityQueue
	q.step = math.MaxInt64
	q.init()
	for i, pr := range []Priority{5, 3, math.MaxInt, 2} { // all are at the end of time
		q.push(entry{f: func() {}, order: int64(i)}, pr, false)
	}
	var got []Priority
	for _, pr, ok := q.pop(false); ok; _, pr, ok = q.pop(false) {
		got = append(got, pr)
	}
	require.Equal(t, []Priority{5, 3, math.MaxInt, 2}, got)
}

// A retained is what a task's closure refers to.
type retained struct {
	self *retained // keeps it out of the tiny allocator
	_    [64]byte
}

//go:noinline
func pushRetained(q *priorityQueue, pr Priority, order int64, handle bool) (weak.Pointer[retained], weak.Pointer[Handle]) {
	r := &retained{}
	if handle {
		h := &Handle{task: Task{Name: "x", Run: func(context.Context) error { r.self = r; return nil }}}
		q.push(entry{h: h, order: order}, pr, false)
		return weak.Make(r), weak.Make(h)
	}
	q.push(entry{f: func() { r.self = r }, order: order}, pr, false)
	return weak.Make(r), weak.Pointer[Handle]{}
}

//go:noinline
func removePlaced(q *priorityQueue, h weak.Pointer[Handle]) { q.remove(h.Value()) }

func TestTakenTaskIsGarbageAtOnce(t *testing.T) {
	const tasks = 250 // of them every third is taken, so that its neighbors stay
	ways := map[string]func(q *priorityQueue, hs []weak.Pointer[Handle]) []int{
		"pop": func(q *priorityQueue, _ []weak.Pointer[Handle]) (taken []int) {
			for i := range tasks / 2 {
				q.pop(false)
				taken = append(taken, i)
			}
			return taken
		},
		"shed": func(q *priorityQueue, _ []weak.Pointer[Handle]) (taken []int) {
			for i := range tasks / 2 {
				q.takeShed(High)
				taken = append(taken, tasks-1-i)
			}
			return taken
		},
		"remove": func(q *priorityQueue, hs []weak.Pointer[Handle]) (taken []int) {
			for i := range hs {
				if i%3 == 1 && hs[i].Value() != nil {
					removePlaced(q, hs[i])
					taken = append(taken, i)
				}
			}
			return taken
		},
		"all": func(q *priorityQueue, _ []weak.Pointer[Handle]) (taken []int) {
			for i := range tasks {
				q.pop(false)
				taken = append(taken, i)
			}
			return taken
		},
	}
	for name, take := range ways {
		t.Run(name, func(t *testing.T) {
			var q priorityQueue
			q.share, q.shed = 16, true
			q.init()
			var rs []weak.Pointer[retained]
			var hs []weak.Pointer[Handle]
			for i := range tasks {
				r, h := pushRetained(&q, Low, int64(i), i%2 == 1 || name == "remove")
				rs, hs = append(rs, r), append(hs, h)
			}
			taken := take(&q, hs)
			require.NotEmpty(t, taken)
			runtime.GC()
			for i := range rs {
				if slices.Contains(taken, i) {
					require.Nil(t, rs[i].Value(), "task %d was taken and is still referred to", i)
					require.Nil(t, hs[i].Value(), "handle %d was taken and is still referred to", i)
				} else {
					require.NotNil(t, rs[i].Value(), "task %d waits", i)
				}
			}
			runtime.KeepAlive(&q)
		})
	}
}

// countComparisons has *n count the comparisons that q's heaps make.
func countComparisons(q *priorityQueue) (n *int) {
	n = new(int)
	for _, h := range q.heaps() {
		less := h.less
		h.less = func(a, b *lane) bool { *n++; return less(a, b) }
	}
	return n
}

// queueCost is what operations cost in comparisons: each at most, and all
// together.
type queueCost struct{ push, pop, remove, shed, sum int }

// measureQueue fills a queue with lanes priorities of depth tasks each and
// returns what a mix of operations costs that keeps it filled.
func measureQueue(mode queueMode, lanes, depth int) (c queueCost) {
	var q priorityQueue
	q.share, q.step, q.shed = mode.share, mode.step, mode.shed
	q.init()
	order := int64(0)
	var handles []*Handle
	add := func(pr Priority) {
		order++
		h := &Handle{}
		handles = append(handles, h)
		q.push(entry{h: h, order: order}, pr, false)
	}
	for range depth {
		for pr := range lanes {
			add(Priority(pr))
		}
	}
	n := countComparisons(&q)
	rng := rand.New(rand.NewPCG(3, 5))
	measure := func(most *int, op func()) {
		before := *n
		op()
		*most = max(*most, *n-before)
	}
	for range 300 {
		var gone Priority
		measure(&c.pop, func() { _, gone, _ = q.pop(false) })
		measure(&c.push, func() { add(gone) })
		for h := handles[rng.IntN(len(handles))]; ; h = handles[rng.IntN(len(handles))] {
			if l := h.place.lane; l != nil {
				gone = l.priority
				measure(&c.remove, func() { q.remove(h) })
				break
			}
		}
		measure(&c.push, func() { add(gone) })
		if mode.shed {
			measure(&c.shed, func() { _, gone, _ = q.takeShed(math.MinInt) })
			measure(&c.push, func() { add(gone) })
		}
	}
	c.sum = *n
	return c
}

func TestCostDoesNotGrowWithWaitingTasks(t *testing.T) {
	for _, mode := range queueModes() {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			const lanes = 4
			few, many := measureQueue(mode, lanes, 10), measureQueue(mode, lanes, 10_000)
			for _, c := range []queueCost{few, many} {
				// Three heaps of three levels, at most three comparisons a level.
				for _, most := range []int{c.push, c.pop, c.remove, c.shed} {
					require.LessOrEqual(t, most, 27, "%+v", c)
				}
			}
			require.LessOrEqual(t, many.sum, few.sum+few.sum/5+100, "10 and 10,000 tasks a lane: %+v, %+v", few, many)
		})
	}
}

func TestPushAndPopWithinALaneCompareNothing(t *testing.T) {
	for _, mode := range []queueMode{{}, {shed: true}} {
		var q priorityQueue
		q.share, q.step, q.shed = mode.share, mode.step, mode.shed
		q.init()
		for i := range 1000 {
			q.push(entry{f: func() {}, order: int64(i)}, Priority(i%10), false)
		}
		n := countComparisons(&q)
		for i := range 90 {
			q.push(entry{f: func() {}, order: int64(1000 + i)}, High, false)
		}
		entered := *n
		for range 89 {
			q.pop(false)
		}
		require.LessOrEqual(t, entered, 12, "only the first of a lane moves it in the heaps")
		require.Equal(t, entered, *n, "a lane that stays where it is needs no comparison")
	}
}

func TestCostGrowsWithTheLogarithmOfPriorities(t *testing.T) {
	for _, mode := range queueModes() {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			for _, lanes := range []int{2, 16, 128, 1024, 4096} {
				// Depth 1 empties and fills lanes all the time, depth 3 does not.
				for _, depth := range []int{1, 3} {
					levels := bits.Len(uint(lanes))
					c := measureQueue(mode, lanes, depth)
					ops := 1200
					if mode.shed {
						ops = 1800
					}
					// Up to three heaps a change, and one lane brought up to
					// date for each that lags.
					require.LessOrEqual(t, c.push, 3*levels, "%d lanes: %+v", lanes, c)
					for _, most := range []int{c.remove, c.shed} {
						require.LessOrEqual(t, most, 9*levels, "%d lanes: %+v", lanes, c)
					}
					require.LessOrEqual(t, c.sum, ops*6*levels, "%d lanes: %+v", lanes, c)
					if mode.share == 0 { // else only the sum is bounded so, see oldest
						require.LessOrEqual(t, c.pop, 9*levels, "%d lanes: %+v", lanes, c)
					}
				}
			}
		})
	}
}

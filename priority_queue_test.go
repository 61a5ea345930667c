//go:build invariants

package taskpool

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
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
	p.q.pushTask(e, pr, n.resuming)
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
	if p.q.n > 0 { // as restoreLocked does for submitters
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
	e, victim, ok := p.q.takeShed(pr, nil)
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
	for _, kind := range []laneKind{kindOrdinary, kindResuming} {
		if l := p.q.lanes[laneKey{p.lane, kind}]; l != nil {
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
				require.Nil(t, p.q.lanes[laneKey{Low, kindOrdinary}].head, "an empty lane has no segment")
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
		q.pushTask(entry{f: func() {}, order: int64(n)}, Priority(n), false)
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
		forgotten, ops := 0, 6000
		if raceDetector() {
			ops /= 3
		}
		for op := range ops {
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
		require.Greater(t, forgotten, ops/12)
	}
}

// After a backlog of very many priorities the queue is made anew while some wait.
func TestQueueAgreesWithNaiveQueueWhileItShrinks(t *testing.T) {
	priorities := 20 * keptLanes
	if raceDetector() {
		priorities = 17 * keptLanes // with 16 it would not shrink
	}
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
				require.NotNil(t, p.q.lanes[laneKey{pr, kindOrdinary}])
				p.push(pr, int64(priorities), false, true)
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
				require.Less(t, cap(h.items), 2*keptLanes, "heap %d", h.id)
			}
			p.push(Low, int64(priorities), true, true)
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
			q.pushTask(entry{f: func() {}, order: int64(i)}, Priority(i), false)
		}
		for q.n >= keptLanes {
			q.pop(false)
		}
		for _, h := range q.heaps() {
			require.Less(t, cap(h.items), 2*keptLanes, "heap %d", h.id)
		}
	}
}

// The sizes of the segments follow from what waits in the lane at that time.
func TestSegmentsGrowWithTheirLane(t *testing.T) {
	var q priorityQueue
	q.init()
	sizes := func() (sizes []int) {
		for s := q.lanes[laneKey{Low, kindOrdinary}].head; s != nil; s = s.next {
			sizes = append(sizes, len(s.slots))
		}
		return sizes
	}
	push := func(n int) {
		for range n {
			q.pushTask(entry{f: func() {}}, Low, false)
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
		q.pushTask(e, Low, false)
	}
	q.remove(h)
	l := q.lane(laneKey{Low, kindOrdinary})
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
	q.pushTask(entry{h: &Handle{item: item{attempts: 1}}, order: 1}, Low, false)
	q.pushTask(entry{f: func() {}, order: 2}, High, false)
	s := q.segment(batchSize)
	for i := range int64(worthWhole) {
		s.slots[i] = entry{f: func() {}, order: i}
	}
	s.base = 3
	q.pushSegment(s, worthWhole, Low)
	require.NoError(t, q.checkHeaps(true))
	e, pr, ok := q.takeShed(High, nil)
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
			q.pushTask(entry{f: func() {}}, Priority(i%priorities), false)
		}
		for q.n > 0 {
			q.pop(false)
		}
		require.NoError(t, q.checkHeaps(true)) // it counts them
	}
	for size, free := range q.free[:batchSize] {
		require.Equal(t, keptSlots/segmentSlots[size], free.n, "of size %d", segmentSlots[size])
	}
	for range 2 * keptLanes {
		f := &flow{}
		f.queue.init(f)
		q.pushTask(entry{h: &Handle{item: item{flow: f}}}, Low, false)
	}
	for q.n > 0 {
		q.pop(false)
	}
	require.Len(t, q.freeLanes, keptLanes)
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
			q.pushTask(entry{f: func() {}, order: 7}, pr, false)
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
		q.pushTask(entry{f: func() {}, order: int64(i)}, pr, false)
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
		h := &Handle{task: pattern{Name: "x", Run: func(context.Context) error { r.self = r; return nil }}}
		q.pushTask(entry{h: h, order: order}, pr, false)
		return weak.Make(r), weak.Make(h)
	}
	q.pushTask(entry{f: func() { r.self = r }, order: order}, pr, false)
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
				q.takeShed(High, nil)
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
		q.pushTask(entry{h: h, order: order}, pr, false)
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
			measure(&c.shed, func() { _, gone, _ = q.takeShed(math.MinInt, nil) })
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
			q.pushTask(entry{f: func() {}, order: int64(i)}, Priority(i%10), false)
		}
		n := countComparisons(&q)
		for i := range 90 {
			q.pushTask(entry{f: func() {}, order: int64(1000 + i)}, High, false)
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

// Each start in a flow with one place holds the flow back, and each end lets it go.
func TestHoldingAFlowBackCostsAsMuchWithManyPriorities(t *testing.T) {
	for _, overflow := range []Overflow{OverflowReject, OverflowShed} {
		for _, priorities := range []int{10, 1000} {
			var s scheduler
			s.init(&config{workers: 2, capacity: 1 << 20, overflow: overflow, fairShare: 16})
			submit := func(pr Priority) {
				h := &Handle{id: 1, item: item{priority: pr}}
				s.joinFlow(h, "a", flowPolicy{limit: 1})
				s.enqueue(entry{h: h}, pr, 0)
			}
			for pr := range priorities {
				submit(Priority(pr))
			}
			n := countComparisons(&s.queue)
			for range 100 {
				before := *n
				e, _ := s.next(true)
				s.hold(false)
				s.release(false)
				s.end(e.h, StateSucceeded)
				require.LessOrEqual(t, *n-before, 8, "%d priorities, %v", priorities, overflow)
				submit(e.h.priority)
			}
		}
	}
}

func TestHolderThatBecomesLessUrgentIsLentTo(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 2, capacity: unbounded, fairShare: 16})
	var holder *Handle
	for pr := range Priority(2) {
		h := &Handle{id: 1, item: item{priority: pr}}
		s.joinFlow(h, "a", flowPolicy{limit: 1})
		s.enqueue(entry{h: h}, pr, 0)
		if pr == 0 {
			e, _ := s.next(true)
			s.hold(false)
			holder = e.h
		}
	}
	require.EqualValues(t, 0, holder.urgency())
	require.True(t, s.setPriority(holder, 2, 0))
	require.EqualValues(t, 1, holder.urgency(), "as the one that it keeps waiting")
}

// The promises here were found by changing the library one thing at a time and
// looking for what no test noticed, see tools/mutate.

// With a reservation the lanes are in two classes, and there is a fair share of
// its own for the slots that only the first class may have. The reference looks
// at all tasks that a slot may have, and at nothing else.
func TestQueueWithReservationAgreesWithNaiveQueue(t *testing.T) {
	const ops = 2000
	for _, mode := range queueModes() {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(17, 19))
			reserve := Medium
			var q priorityQueue
			q.share, q.step, q.shed, q.reserve = mode.share, mode.step, mode.shed, &reserve
			q.init()

			var waiting []naiveTask
			var turn [2]uint64
			called := -1
			id := func(e entry) int {
				if e.h != nil {
					return int(e.h.id)
				}
				e.f()
				return called
			}
			order := int64(0)
			push := func(n int) {
				if order++; mode.step > 0 && rng.IntN(3) == 0 {
					order-- // at the same instant
				}
				pr := Priority(rng.IntN(7) - 3)
				task := naiveTask{id: n, priority: pr, order: order, fresh: true}
				e := entry{f: func() { called = n }, order: order}
				if kind := rng.IntN(4); kind > 0 {
					e.f, e.h = nil, &Handle{id: uint64(n)}
					if kind > 1 { // a retry, or an attempt that asks to go on
						e.h.attempts, task.fresh = 1, false
					}
					if kind > 2 {
						e.h.state, task.resuming = StateParked, rng.IntN(2) == 0
					}
				}
				task.h = e.h
				ref := naiveQueue{step: mode.step} // computes the key
				ref.push(task)
				waiting = append(waiting, ref.tasks[0])
				q.pushTask(e, pr, task.resuming)
			}
			take := func(i int) {
				n := naiveQueue{tasks: waiting}
				n.takeAt(i)
				waiting = n.tasks
			}
			pop := func(restricted bool) {
				r := 0
				ref := naiveQueue{share: mode.share, step: mode.step, tasks: waiting}
				if restricted {
					r, ref.tasks = 1, nil
					for _, n := range waiting {
						if n.priority <= reserve {
							ref.tasks = append(ref.tasks, n)
						}
					}
				}
				ref.turn = turn[r]
				var want naiveTask
				some := len(ref.tasks) > 0
				if some {
					want = ref.tasks[ref.next()]
					if mode.share > 0 && ref.choice() {
						turn[r] = (turn[r] + 1) % mode.share
					}
				}
				l, _ := q.next(restricted)
				require.Equal(t, some, l != nil, "restricted: %v", restricted)
				e, pr, ok := q.pop(restricted)
				require.Equal(t, some, ok, "restricted: %v", restricted)
				if !some {
					return
				}
				require.Equal(t, want.id, id(e), "restricted: %v", restricted)
				require.Equal(t, want.priority, pr)
				for i := range waiting {
					if waiting[i].id == want.id {
						take(i)
						break
					}
				}
			}

			growing, restrictedPops := true, 0
			for n := range ops {
				if len(waiting) == 0 {
					growing = true
				} else if len(waiting) > 60 {
					growing = false
				}
				switch r := rng.IntN(10); {
				case r < 4 || growing && r < 6:
					push(n)
				case r < 7:
					restrictedPops++
					pop(true)
				case r < 9 || len(waiting) == 0:
					pop(false)
				default:
					if i := rng.IntN(len(waiting)); waiting[i].h != nil {
						require.Equal(t, waiting[i].h, q.remove(waiting[i].h).h)
						take(i)
					}
				}
				require.Equal(t, turn, q.turn)
				require.NoError(t, q.checkHeaps(true))
				parked := make(map[laneKey]int)
				for _, n := range waiting {
					if n.h != nil && n.h.state == StateParked {
						parked[taskKey(n.priority, n.resuming)]++
					}
				}
				for k, l := range q.lanes {
					require.Equal(t, parked[k], l.parked, "parked attempts in lane %v", k)
				}
			}
			require.Greater(t, restrictedPops, ops/20)
		})
	}
}

func TestQueueWithNothingToGiveGivesNothing(t *testing.T) {
	reserve := Medium
	for _, share := range []uint64{0, 1, 16} {
		var q priorityQueue
		q.share, q.shed, q.reserve = share, true, &reserve
		q.init()
		nothing := func(e entry, pr Priority, ok bool) {
			t.Helper()
			require.False(t, ok)
			require.False(t, e.live())
			require.Zero(t, pr)
		}
		least := func(want Priority, waits bool) {
			t.Helper()
			pr, ok := q.leastPriority()
			require.Equal(t, waits, ok)
			require.Equal(t, want, pr)
		}
		for range 3 { // as it was at first, also after tasks have come and gone
			nothing(q.pop(false))
			nothing(q.pop(true))
			nothing(q.takeShed(math.MinInt, nil))
			least(0, false)
			q.pushTask(entry{f: func() {}, order: 1}, Low, false)
			least(Low, true)
			nothing(q.pop(true))
			nothing(q.takeShed(Low, nil))
			q.pushTask(entry{h: &Handle{item: item{attempts: 1}}, order: 2}, 7, false)
			nothing(q.takeShed(Low, nil)) // it has started
			for want := range 2 {
				_, pr, ok := q.pop(false)
				require.True(t, ok)
				require.Equal(t, []Priority{Low, 7}[want], pr)
			}
		}
	}
}

// A lane that moves along needs a new segment for each 84 tasks, and gives one
// back as often.
func TestQueueOfSteadyLengthAllocatesNothing(t *testing.T) {
	for _, depth := range []int{1, 83, 84, 85, 1000} {
		var q priorityQueue
		q.share = 16
		q.init()
		order := int64(0)
		f := func() {}
		push := func() { order++; q.pushTask(entry{f: f, order: order}, Low, false) }
		for range depth {
			push()
		}
		q.pop(false)
		push()
		allocs := testing.AllocsPerRun(100, func() {
			for range 840 {
				push()
				q.pop(false)
			}
		})
		require.Zero(t, allocs, "840 pushes and pops with %d tasks waiting", depth)
	}
}

// Priorities that come and go share one segment.
func TestForgottenLanesLeaveTheirSegmentBehind(t *testing.T) {
	var q priorityQueue
	q.init()
	segments := make(map[*segment]bool)
	for i := range 1000 {
		q.pushTask(entry{f: func() {}, order: int64(i)}, Priority(i), false)
		if i >= 2*keptLanes {
			segments[q.lanes[laneKey{Priority(i), kindOrdinary}].head] = true
		}
		q.pop(false)
		require.LessOrEqual(t, len(q.lanes), keptLanes)
	}
	require.Len(t, q.lanes, keptLanes, "so many empty lanes are kept")
	require.Len(t, segments, 1, "for 872 lanes")
}

//go:noinline
func weakLanes(q *priorityQueue) (lanes []weak.Pointer[lane]) {
	for _, l := range q.lanes {
		lanes = append(lanes, weak.Make(l))
	}
	return lanes
}

func TestForgottenLaneIsGarbageAtOnce(t *testing.T) {
	for _, mode := range []queueMode{{share: 16, shed: true}, {step: time.Second, shed: true}} {
		const priorities = 3 * keptLanes
		var q priorityQueue
		q.share, q.step, q.shed = mode.share, mode.step, mode.shed
		q.init()
		for i := range priorities {
			q.pushTask(entry{f: func() {}, order: int64(i)}, Priority(i), false)
		}
		lanes := weakLanes(&q)
		require.Len(t, lanes, priorities)
		for range priorities {
			q.pop(false)
		}
		runtime.GC()
		kept := 0
		for _, l := range lanes {
			if l.Value() != nil {
				kept++
			}
		}
		require.Equal(t, keptLanes, kept, "share %d, step %v", mode.share, mode.step)
		runtime.KeepAlive(&q)
	}
}

// Only the front of a lane has a say in its place.
func TestRemovingFromBehindTheFrontComparesNothing(t *testing.T) {
	for _, mode := range []queueMode{{}, {share: 16}, {step: time.Second}, {step: time.Second, shed: true}} {
		var q priorityQueue
		q.share, q.step, q.shed = mode.share, mode.step, mode.shed
		q.init()
		handles := make([]*Handle, 1000)
		for i := range handles {
			handles[i] = &Handle{}
			q.pushTask(entry{h: handles[i], order: int64(i)}, Priority(i%4), false)
		}
		n := countComparisons(&q)
		removed := 0
		for i := len(handles) - 1; i >= 4; i-- { // i < 4 are the fronts
			if i%3 > 0 {
				q.remove(handles[i])
				removed++
			}
		}
		require.Equal(t, 664, removed)
		require.Zero(t, *n, "share %d, step %v", mode.share, mode.step)
		require.NoError(t, q.checkHeaps(true))
	}
}

func TestListingTheQueueMayStopAnywhere(t *testing.T) {
	var q priorityQueue
	q.init()
	for i := range 300 {
		q.pushTask(entry{h: &Handle{id: uint64(i)}, order: int64(i)}, Priority(i%3), i%2 == 0)
	}
	for stop := range 300 {
		seen := 0
		for range q.all() {
			if seen++; seen > stop {
				break
			}
		}
		require.Equal(t, stop+1, seen)
	}
}

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
		s.push(laneKey{Priority(op - opPush0), kindOrdinary})
	case opResume1:
		s.push(laneKey{1, kindResuming})
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
	s.q.push(entry{h: h, order: s.order}, k)
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
		lost = lost || w.lane.priority < pr || w.lane.priority == pr && w.lane.kind.resumes() && !x.lane.kind.resumes()
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
// from a backlog of two tasks; of 5 with the race detector.
func TestTheoremFairShareHoldsForEveryShortTrace(t *testing.T) {
	length := 6
	if raceDetector() {
		length = 5
	}
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
				ops := make([]int, length)
				for more := true; more; more = nextOps(ops) {
					if !reserve && slices.Contains(ops, opPopRestricted) {
						continue
					}
					traces++
					s.reset()
					s.push(laneKey{2, kindOrdinary})
					s.push(laneKey{1, kindOrdinary})
					for i, op := range ops {
						if err := s.do(op); err != nil {
							t.Fatalf("operations %v: %v", ops[:i+1], err)
						}
					}
				}
				require.EqualValues(t, math.Pow(map[bool]float64{false: 6, true: 7}[reserve], float64(length)), traces)
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
				q.pushTask(entry{f: func() { added = -w.n }, order: w.at}, w.pr, false)
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

// Submitters of a flow that were lent to are in the class of their own priority, and so between
// others of their flow in the order of urgency.
func TestFaceOfEachClassIsTheLaneThatGoesFirst(t *testing.T) {
	for _, kinds := range [][]laneKind{{kindOrdinary, kindOrdinaryLent}, {kindOrdinaryLent, kindOrdinary}} {
		var s scheduler
		s.init(&config{workers: 2, capacity: 1, reserved: 1, reservedFor: 1, fairShare: 16})
		q := &s.admission
		f := s.newFlow()
		lanes := map[laneKey]*lane{}
		for pr := range Priority(4) {
			for _, kind := range kinds {
				k := laneKey{pr, kind}
				h := &Handle{item: item{priority: 3, flow: f, loan: &loan{urgency: pr}}}
				q.push(entry{h: h, order: int64(pr)}, k)
				lanes[k] = q.laneOf(f, k, false)
				_, err := q.check(true, true)
				require.NoError(t, err, "after %v", k)
			}
		}
		require.Same(t, lanes[laneKey{0, kindOrdinary}], f.rare.door.open.face[0])
		require.Same(t, lanes[laneKey{0, kindOrdinaryLent}], f.rare.door.open.face[1])
		q.removeFrom(&place{lanes[laneKey{0, kindOrdinary}], lanes[laneKey{0, kindOrdinary}].head, 0, q.in})
		_, err := q.check(true, true)
		require.NoError(t, err)
		require.Same(t, lanes[laneKey{1, kindOrdinary}], f.rare.door.open.face[0])
	}
}

// newFlowsInQueue returns n flows, each without tasks.
func newFlowsInQueue(n int) []*flow {
	flows := make([]*flow, n)
	for i := range flows {
		flows[i] = &flow{}
		flows[i].queue.init(flows[i])
	}
	return flows
}

// Lanes, segments and groups of flows that have gone are used again.
func TestFlowsThatComeAndGoAllocateNothing(t *testing.T) {
	for _, n := range []int{1, 2, 5} {
		var q priorityQueue
		q.share = 2
		q.init()
		flows, order := newFlowsInQueue(n), int64(0)
		handles := make([]Handle, n)
		round := func() {
			for i, f := range flows {
				order++
				handles[i].flow = f
				q.push(entry{h: &handles[i], order: order}, laneKey{Medium, kindOrdinary})
			}
			for range flows {
				q.pop(false)
			}
		}
		round()
		require.Zero(t, testing.AllocsPerRun(100, round), "%d flows", n)
		require.Len(t, q.freeLanes, n)
		for _, l := range q.freeLanes {
			require.Zero(t, *l.flow, "the flow can be garbage")
		}
	}
}

// A map keeps the memory for the most that it has held, so those of many flows are replaced.
func TestMapsOfManyFlowsAreReplacedWhenFlowsHaveGone(t *testing.T) {
	const most = 16 * keptLanes // kept
	for _, n := range []int{most, most + 1} {
		var q priorityQueue
		q.share = 16
		q.init()
		handles := make([]Handle, n)
		for i, f := range newFlowsInQueue(n) {
			handles[i].flow = f
			q.push(entry{h: &handles[i], order: int64(i)}, laneKey{Priority(i), kindOrdinary})
		}
		require.Len(t, q.groups, n)
		groups := q.groups
		for q.n > 0 {
			q.pop(false)
		}
		require.Len(t, q.freeLanes, keptLanes)
		for kind, ring := range q.rings {
			require.Less(t, cap(ring.items), leastShrunk, "ring %d", kind)
		}
		q.groups[groupKey{}] = &laneGroup{}
		require.Len(t, groups, most+1-n, "of %d groups", n)
		require.Equal(t, n*(most+1-n), q.mostGroups, "of %d groups", n)
	}
	for _, n := range []int{most, most + 1} {
		var s scheduler
		s.init(&config{workers: 1, capacity: unbounded})
		handles := make([]Handle, n)
		for i := range handles {
			s.joinFlow(&handles[i], strconv.Itoa(i), flowPolicy{})
		}
		flows := s.flows
		require.Equal(t, Priority(math.MinInt), flows["0"].lent, "nobody holds a place")
		for i := range handles[keptLanes:] {
			s.leaveFlow(&handles[keptLanes+i])
		}
		require.Equal(t, n, s.mostFlows)
		require.Len(t, flows, keptLanes)
		for i := range handles[:keptLanes] {
			if s.leaveFlow(&handles[i]); n > most {
				require.Len(t, flows, keptLanes-1, "the map that is no longer used")
				require.Equal(t, keptLanes-1, s.mostFlows)
			} else {
				require.Equal(t, n, s.mostFlows)
			}
			require.Len(t, s.flows, keptLanes-1-i)
			for j := i + 1; j < keptLanes && i == 0; j++ {
				require.Same(t, handles[j].flow, s.flows[strconv.Itoa(j)])
			}
		}
		require.Len(t, s.freeFlows, keptLanes)
	}
}

// So is all else that a flow needs.
func TestTasksOfFlowsThatComeAndGoAllocateNothing(t *testing.T) {
	names := []string{"A", "B", "C"}
	for n := 1; n <= len(names); n += 2 {
		var s scheduler
		s.init(&config{workers: n, capacity: unbounded, fairShare: 2})
		handles := make([]Handle, 2*n)
		round := func() {
			for i := range handles {
				h := &handles[i]
				h.item = item{priority: Medium}
				s.joinFlow(h, names[i/2], flowPolicy{limit: 1})
				s.enqueue(entry{h: h}, Medium, 0)
			}
			for range 2 {
				for range n {
					if e, _ := s.next(true); e.live() {
						s.hold(false)
					}
				}
				for i := range handles {
					if h := &handles[i]; h.state == StateRunning {
						s.end(h, StateSucceeded)
						s.release(false)
					}
				}
			}
		}
		round()
		require.Zero(t, testing.AllocsPerRun(100, round), "%d flows", n)
		require.Empty(t, s.flows)
		require.Zero(t, s.outstanding())
		require.Len(t, s.freeFlows, n)
		for _, f := range s.freeFlows {
			require.Equal(t, flow{queue: flowLanes{open: laneSet{lanes: f.queue.open.lanes}}, holders: f.holders}, *f, "as of no flow")
			require.Empty(t, f.holders)
		}
	}
}

// Then nothing is paid for flows any more.
func TestTasksWithoutAFlowAreAloneAgainWhenTheyAreServedAfterTheOthers(t *testing.T) {
	var q priorityQueue
	q.init()
	for order := range int64(4) {
		q.pushTask(entry{f: func() {}, order: order}, Medium, false)
	}
	h := &Handle{item: item{flow: newFlowsInQueue(1)[0]}}
	q.push(entry{h: h, order: 4}, laneKey{Medium, kindOrdinary})
	for i := range 3 {
		require.True(t, q.fair)
		require.Len(t, q.groups, 1)
		e, _, _ := q.pop(false)
		require.Equal(t, i == 1, e.h == h)
	}
	require.False(t, q.fair)
	require.Empty(t, q.groups)
	require.Equal(t, 2, q.n)
}

func TestHeapByAgeForgetsTheLanesTakenOut(t *testing.T) {
	var h ageHeap
	for i := range 5 {
		heap.Push(&h, &lane{age: int64(i)})
	}
	for i := range 5 {
		l := heap.Pop(&h).(*lane)
		require.Equal(t, int64(i), l.age)
		require.Equal(t, int32(-1), l.pos[heapOld])
		require.NotContains(t, h[:cap(h)], l)
	}
}

// What is taken out of the lists of a flow can be garbage, and lists that were long are copied
// to less memory.
func TestListsOfFlowsLetGoOfWhatIsTakenOut(t *testing.T) {
	const n = 4 * leastShrunk
	flows := newFlowsInQueue(n)

	var q priorityQueue
	q.init()
	for _, f := range flows {
		q.hold(&f.queue, true)
	}
	require.Len(t, q.heldFlows, n)
	for i := range flows {
		fl := &flows[(i*7+3)%n].queue // each once
		q.hold(fl, false)
		require.Len(t, q.heldFlows, n-1-i)
		require.False(t, slices.Contains(q.heldFlows[:cap(q.heldFlows)], fl))
	}
	require.Less(t, cap(q.heldFlows), leastShrunk)

	var s scheduler
	s.init(&config{workers: n, capacity: unbounded})
	f, handles := flows[0], make([]Handle, n)
	for i := range handles {
		handles[i].flow = f
		s.takePlace(&handles[i])
	}
	require.Len(t, f.holders, n)
	for i := range handles {
		h := &handles[(i*7+3)%n]
		s.givePlace(h)
		require.Len(t, f.holders, n-1-i)
		require.False(t, slices.Contains(f.holders[:cap(f.holders)], h))
	}
	require.Less(t, cap(f.holders), leastShrunk)
	require.Zero(t, f.places)
	require.Equal(t, Priority(math.MinInt), f.lent)
}

// leaveByContext has n tasks with flows as join says be parked and on their way out.
func leaveByContext(s *scheduler, n int, join func(h *Handle, i int)) []*Handle {
	handles := make([]*Handle, n)
	for i := range handles {
		h := &Handle{item: item{state: StateParked, attempts: 1}}
		handles[i] = h
		s.count[StateParked]++
		join(h, i)
		s.askFirst(h)
	}
	return handles
}

func TestTaskThatHasGotItsPlaceOnItsWayOutIsForgottenByItsFlow(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 1, capacity: unbounded})
	handles := leaveByContext(&s, 4, func(h *Handle, _ int) { s.joinFlow(h, "A", flowPolicy{limit: 1}) })
	f := handles[0].flow
	waiting := f.exits()
	require.Equal(t, handles[1:], waiting)
	for i, h := range handles {
		e, _ := s.next(false)
		require.Same(t, h, e.h)
		s.unpark(h)
		s.end(h, StateFailed)
		if i < len(waiting) {
			require.Nil(t, waiting[i])
		}
		if i == len(waiting)-1 {
			require.Nil(t, f.rare.exits, "the list is empty")
		}
	}
	require.Nil(t, f.rare)
}

// Those without a flow, which may have a limit too, come last.
func TestLiftedLimitsLetFlowsGoInTheOrderOfTheirNames(t *testing.T) {
	const n = 20
	var s scheduler
	s.init(&config{workers: 1, capacity: unbounded})
	policy := flowPolicy{limit: 1}
	s.setPlainFlow(policy)
	join := func(h *Handle, i int) {
		name := ""
		if i > 0 {
			name = flowName(i * 7 % n)
		}
		s.joinFlow(h, name, policy)
	}
	leaveByContext(&s, n, join)
	waiting := leaveByContext(&s, n, join)
	require.Equal(t, n, s.exitsInFlows())
	s.liftLimits()
	require.Zero(t, s.exitsInFlows())
	require.Len(t, s.exiting[0], 2*n)
	slices.SortFunc(waiting[1:], func(a, b *Handle) int { return cmp.Compare(a.flow.name, b.flow.name) })
	for i, x := range s.exiting[0][n:] {
		require.Same(t, waiting[(i+1)%n], x.h)
	}
}

// A handle that stands for a function is used for others when the function begins.
func TestHandleOfAFunctionThatBeginsIsForgottenByItsFlow(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 2, capacity: unbounded})
	s.setPlainFlow(flowPolicy{limit: 2})
	handles := []*Handle{{item: item{priority: Low}}, {item: item{priority: Low}}, {item: item{priority: High}}}
	for i, h := range handles {
		h.flow = s.plainFlow
		s.enqueue(entry{h: h}, h.priority, 0)
		if i < 2 {
			e, _ := s.next(true)
			require.Same(t, h, e.h)
			s.hold(false)
		}
	}
	require.Equal(t, handles[:2], s.flowLoans, "what is held back has lent to both")
	s.becomeFunction(handles[0])
	require.Equal(t, handles[1:2], s.flowLoans)
	require.Equal(t, handles[1:2], s.plainFlow.holders)
	require.EqualValues(t, 2, s.plainFlow.places, "the function holds it now")
	require.Equal(t, High, s.plainFlow.lent)
}

func TestTaskOnItsWayOutThatWaitsForAPlaceLendsWhatItIsLent(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 2, capacity: unbounded})
	handles := leaveByContext(&s, 3, func(h *Handle, _ int) {
		h.priority = Low
		s.joinFlow(h, "A", flowPolicy{limit: 2})
	})
	require.True(t, s.lend(handles[2], Medium, 0))
	for _, h := range handles[:2] {
		require.Equal(t, Medium, h.urgency())
	}
	require.Equal(t, handles[:2], s.flowLoans)
	require.True(t, s.setPriority(handles[2], High, 0))
	for _, h := range handles[:2] {
		require.Equal(t, High, h.urgency())
	}
}

func TestTaskThatHoldsAPlaceLendsNothingToOthersOfItsFlow(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 2, capacity: unbounded})
	handles := leaveByContext(&s, 2, func(h *Handle, _ int) {
		h.priority = Low
		s.joinFlow(h, "A", flowPolicy{limit: 2})
	})
	require.True(t, s.setPriority(handles[0], High, 0))
	require.Equal(t, High, handles[0].urgency())
	require.Equal(t, Low, handles[1].urgency())
	e, _ := s.next(false)
	s.unpark(e.h)
	s.resume(e.h)
	require.True(t, s.setPriority(handles[0], High-1, 0), "it runs now")
	require.Equal(t, Low, handles[1].urgency())
	require.Empty(t, s.flowLoans)
}

func TestTaskAsUrgentAsWhatIsHeldBackIsLentNothing(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 1, capacity: unbounded})
	for range 3 {
		h := &Handle{item: item{priority: High}}
		s.joinFlow(h, "A", flowPolicy{limit: 1})
		s.enqueue(entry{h: h}, High, 0)
	}
	for range 3 {
		e, _ := s.next(true)
		require.Empty(t, s.flowLoans)
		s.end(e.h, StateSucceeded)
	}
}

func TestTaskOnItsWayOutThatWaitsForAPlaceCanBeWithdrawn(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 1, capacity: unbounded})
	handles := leaveByContext(&s, 3, func(h *Handle, _ int) { s.joinFlow(h, "A", flowPolicy{limit: 1}) })
	h, f := handles[1], handles[0].flow
	require.True(t, h.waits())
	s.withdraw(h)
	s.unpark(h)
	s.end(h, StateFailed)
	require.Equal(t, handles[2:], f.exits())
}

func TestTaskOnItsWayOutLendsItsUrgencyAsItComes(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 1, capacity: unbounded})
	handles := leaveByContext(&s, 2, func(h *Handle, i int) {
		h.priority = []Priority{Low, High}[i]
		s.joinFlow(h, "A", flowPolicy{limit: 1})
	})
	require.Equal(t, High, handles[0].urgency())
	require.Equal(t, High, handles[0].flow.lent)
}

func TestTaskThatDoesNotWaitForAPlaceLendsNothing(t *testing.T) {
	var s scheduler
	s.init(&config{workers: 1, capacity: unbounded})
	policy := flowPolicy{limit: 1}
	holder := leaveByContext(&s, 1, func(h *Handle, _ int) {
		h.priority = Low
		s.joinFlow(h, "A", policy)
	})[0]
	parked := &Handle{item: item{priority: Low, state: StateParked, attempts: 1}}
	s.joinFlow(parked, "A", policy)
	require.True(t, s.lend(parked, High, 0))
	require.Equal(t, Low, holder.urgency())
}

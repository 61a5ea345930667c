package taskpool

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// A flow is whose work some tasks are: those with its name as Task.Flow. Protected by Pool.mu.
//
// At most limit tasks of a flow hold a place of it, from the start of an attempt to its end,
// in Yield and Block too. A task that waits for another or for room gives its place back, and
// needs one again to go on. While all places are held, the flow is held back: those of its
// tasks that wait and hold none wait in lanes that are in no heap, see priorityQueue.hold. So they
// delay nobody, take no room, and Yield does not give way to them. They lend their urgency to
// those that hold a place.
//
// Invariants, for every flow f:
//
//   - f is in scheduler.flows while it has tasks that have not settled, or submitters that
//     wait for room: live is how many these are.
//   - holders are the handles whose item.placed is set; places counts these and, for tasks
//     without a flow, functions that run. places is no larger than limit, unless limit has
//     been lowered, or none.
//   - f is held back if and only if it has a limit and places is not below that; then exits
//     may have tasks, else it has none.
//   - queued and retrying are how many of its tasks are Queued, and wait for a retry. asking and
//     promoted are its part of those of the scheduler, of tasks that hold no place. While f is
//     held back, the scheduler's are without them.
//   - Each holder counts as no less urgent than lent, which is no less urgent than what is
//     held back.
//   - f is full if and only if its capacity is not above queued and retrying together; then its
//     submitters are held back.
type flow struct {
	name     string
	policy   flowPolicy
	limit    int32 // places; 0: no limit
	live     int32
	places   int32
	queued   int32
	retrying int32
	asking   [2]int32 // the less urgent ones second
	promoted [2]int32
	held     bool
	full     bool
	lent     Priority // the least urgent that a holder may count as; math.MinInt without holders
	holders  []*Handle
	queue    flowLanes
	rare     *rareFlow // nil until there is something
}

// A rareFlow is what few flows have.
type rareFlow struct {
	door  flowLanes // in admission
	exits []*Handle // exiting tasks that need a place, in order
}

// A flowPolicy is a [FlowPolicy] in few bytes.
type flowPolicy struct {
	limit, capacity int32
	weight          uint16 // 0 is 1
}

// in returns what f has waiting in q.
func (f *flow) in(q *priorityQueue) *flowLanes {
	if q.in == inQueue {
		return &f.queue
	}
	r := f.makeRare()
	q.hold(&r.door, f.full)
	return &r.door
}

func (f *flow) makeRare() *rareFlow {
	if f.rare == nil {
		f.rare = &rareFlow{}
		f.rare.door.init(f)
	}
	return f.rare
}

// exits returns the tasks of f on their way out that need a place.
func (f *flow) exits() []*Handle {
	if f.rare == nil {
		return nil
	}
	return f.rare.exits
}

// init has f be that of flow of.
func (f *flowLanes) init(of *flow) {
	f.flow, f.open.of = of, f
	for kind := range f.ring {
		f.ringI[kind] = -1
	}
}

// set gives f policy p.
func (f *flow) set(p flowPolicy) {
	f.policy, f.limit = p, p.limit
}

// unbounded reports whether f, which is nil for tasks without a flow, has neither a limit nor a
// capacity, so that nothing waits for one of its tasks to settle.
func (f *flow) unbounded() bool { return f == nil || f.limit == 0 && f.policy.capacity == 0 }

// A flowSet is the flows of a scheduler.
type flowSet struct {
	flows     map[string]*flow
	mostFlows int       // the largest number that the map has held
	plainFlow *flow     // of tasks without a flow; nil if they have the default policy
	unlimited bool      // limits have been lifted
	flowLoans []*Handle // that were lent to for their flow, for the caller of the scheduler to pass on
	freeFlows []*flow
}

// flowOf returns the flow of h or, if that is nil, of a function; nil if it has none.
func (s *scheduler) flowOf(h *Handle) *flow {
	if h == nil {
		return s.plainFlow
	}
	return h.flow
}

// lanesOf returns the lanes of the flow of that name, which may be empty, in the queue.
func (s *scheduler) lanesOf(name string) (lanes []*lane) {
	f := s.flows[name]
	if name == "" {
		if f = s.plainFlow; f == nil {
			return slices.Collect(maps.Values(s.queue.lanes))
		}
	}
	for _, set := range f.queue.sets() {
		if set != nil {
			lanes = append(lanes, set.lanes...)
		}
	}
	return lanes
}

// setPlainFlow gives a policy to the tasks without a flow.
func (s *scheduler) setPlainFlow(p flowPolicy) {
	s.plainFlow = s.newFlow()
	s.plainFlow.set(p)
}

// joinFlow has h, which is being submitted, be of the flow of that name. It returns true if
// that has changed the flow's policy, so that others may start or be let in.
func (s *scheduler) joinFlow(h *Handle, name string, p flowPolicy) (changed bool) {
	if name == "" {
		h.flow = s.plainFlow
		return false
	}
	f := s.flows[name]
	if f == nil {
		f = s.newFlow()
		f.name = name
		if f.set(p); s.unlimited {
			f.limit = 0
		}
		if s.flows == nil {
			s.flows = make(map[string]*flow)
		}
		s.flows[name] = f
		s.mostFlows = max(s.mostFlows, len(s.flows))
	} else if f.policy != p && !s.unlimited {
		s.setPolicy(f, p)
		changed = true
	}
	f.live++
	h.flow = f
	return changed
}

func (s *scheduler) newFlow() *flow {
	var f *flow
	if last := len(s.freeFlows) - 1; last >= 0 {
		f = s.freeFlows[last]
		s.freeFlows = s.freeFlows[:last]
	} else {
		f = &flow{}
	}
	f.lent = math.MinInt
	f.queue.init(f)
	return f
}

// leaveFlow has h, which has settled or was not accepted, be of no flow.
func (s *scheduler) leaveFlow(h *Handle) {
	f := h.flow
	h.flow = nil
	if f == nil || f == s.plainFlow {
		return
	}
	if f.live--; f.live > 0 {
		return
	}
	delete(s.flows, f.name)
	if s.mostFlows > 16*keptLanes && len(s.flows) < keptLanes { // a map keeps the memory for the most that it has held
		flows := make(map[string]*flow, len(s.flows))
		for name, f := range s.flows {
			flows[name] = f
		}
		s.flows, s.mostFlows = flows, len(flows)
	}
	if len(s.freeFlows) < keptLanes {
		*f = flow{queue: flowLanes{open: laneSet{lanes: f.queue.open.lanes}}, holders: f.holders}
		s.freeFlows = append(s.freeFlows, f)
	}
}

// joinBatch is joinFlow for h, which was accepted as part of a batch.
func (s *scheduler) joinBatch(h *Handle, name string, p flowPolicy) (changed bool) {
	changed = s.joinFlow(h, name, p)
	h.flow.queued++
	s.roomChanged(h.flow)
	return changed
}

// setPolicy gives f another policy, which counts at once.
func (s *scheduler) setPolicy(f *flow, p flowPolicy) {
	f.set(p)
	// By another weight the flow is longer or shorter. Only tasks without a place are shed.
	if open := &f.queue.open; open.spare != nil && !open.out {
		s.queue.spare.fix(open.spare)
	}
	s.placesChanged(f)
}

// liftLimits ends all limits, now and in time to come.
func (s *scheduler) liftLimits() {
	s.unlimited = true
	all := slices.Collect(maps.Values(s.flows))
	slices.SortFunc(all, func(a, b *flow) int { return cmp.Compare(a.name, b.name) })
	if s.plainFlow != nil {
		all = append(all, s.plainFlow)
	}
	for _, f := range all {
		p := f.policy
		p.limit = 0
		s.setPolicy(f, p)
	}
}

// Places.

// takePlace gives a place of its flow to h, which is about to run, if it has none. h is nil
// for a function.
func (s *scheduler) takePlace(h *Handle) {
	f := s.flowOf(h)
	switch {
	case f == nil || h != nil && h.placed:
		return
	case h == nil:
		f.places++
		s.placesChanged(f)
		return
	}
	s.holdPlace(f, h)
	s.placesChanged(f)
	if pr, ok := f.queue.mostUrgentHeldBack(); ok {
		s.lendHolder(h, pr)
	}
	f.lent = max(f.lent, h.urgency())
}

// holdPlace gives h a place of f, which the caller then brings up to date.
func (s *scheduler) holdPlace(f *flow, h *Handle) {
	asks := h.asks
	if asks {
		s.asks(h, -1)
	}
	h.placed, h.holderI = true, int32(len(f.holders))
	if asks {
		s.asks(h, +1)
	}
	f.places++
	f.holders = append(f.holders, h)
}

// givePlace takes back the place of h, if it has one. h must not ask for a slot.
func (s *scheduler) givePlace(h *Handle) {
	if f := h.flow; s.dropHolder(h) {
		s.givePlaceOf(f)
	}
}

// becomeFunction has the place of h, which stands for a function that is about to run, be the
// function's. h may be used for another after that.
func (s *scheduler) becomeFunction(h *Handle) {
	if s.dropHolder(h) && len(s.flowLoans) > 0 {
		s.flowLoans = slices.DeleteFunc(s.flowLoans, func(o *Handle) bool { return o == h })
	}
}

// dropHolder has h, which may hold a place, hold none. The place stays taken.
func (s *scheduler) dropHolder(h *Handle) bool {
	if !h.placed {
		return false
	}
	h.placed = false
	f := h.flow
	last := len(f.holders) - 1
	o := f.holders[last]
	f.holders[h.holderI], o.holderI = o, h.holderI
	f.holders[last] = nil
	f.holders = shrunk(f.holders[:last])
	return true
}

// adoptPlace has h, which stands for a function that runs, hold the function's place.
func (s *scheduler) adoptPlace(h *Handle) {
	if f := s.plainFlow; f != nil {
		h.flow = f
		f.places--
		s.holdPlace(f, h)
		f.lent = max(f.lent, h.urgency())
		s.placesChanged(f)
	}
}

// givePlaceOf takes back a place of f.
func (s *scheduler) givePlaceOf(f *flow) {
	if f.places--; f.places == 0 {
		f.lent = math.MinInt
	}
	s.placesChanged(f)
}

// placesChanged brings f up to date with its places and its policy.
func (s *scheduler) placesChanged(f *flow) {
	for len(f.exits()) > 0 && (f.limit == 0 || f.places < f.limit) {
		h := f.rare.exits[0]
		f.rare.exits[0] = nil
		if f.rare.exits = f.rare.exits[1:]; len(f.rare.exits) == 0 {
			f.rare.exits = nil
		}
		s.holdPlace(f, h)
		f.lent = max(f.lent, h.urgency())
		s.exit(h)
	}
	if held := f.limit > 0 && f.places >= f.limit; held != f.held {
		f.held = held
		s.queue.hold(&f.queue, held)
		f.queue.justShown = !held
		if s.delays != nil && !held {
			s.delays.shown = append(s.delays.shown, f)
		}
		n := 1
		if held {
			n = -1
		}
		s.asking += n * int(f.asking[0])
		s.askingLess += n * int(f.asking[1])
		for i := range s.promoted {
			s.promoted[i] += n * int(f.promoted[i])
		}
	}
	if f.held {
		s.lendHolders(f)
	}
	s.roomChanged(f)
}

// lendHolders lends the urgency of what f's limit holds back to those that hold a place, as
// what is held back waits for one of them.
func (s *scheduler) lendHolders(f *flow) {
	if pr, ok := f.queue.mostUrgentHeldBack(); ok {
		s.lendAllHolders(f, pr)
	}
}

func (s *scheduler) lendAllHolders(f *flow, pr Priority) {
	if pr >= f.lent {
		return
	}
	for _, h := range f.holders {
		s.lendHolder(h, pr)
	}
	f.lent = pr
}

func (s *scheduler) lendHolder(h *Handle, pr Priority) {
	if pr < h.urgency() && s.lend(h, pr, 0) { // without aging the time makes no difference
		s.flowLoans = append(s.flowLoans, h)
	}
}

// heldBackChanged is called when h, which f's limit may hold back, has come or counts as more
// urgent.
func (s *scheduler) heldBackChanged(h *Handle) {
	switch f := h.flow; {
	case f == nil:
	case h.place.in == inExiting && !h.placed:
		s.lendAllHolders(f, h.urgency())
	default:
		s.lendHolders(f)
	}
}

// exitInFlow has h, whose context has ended, wait for a place first of its flow. It lends its
// urgency to those that hold one as it comes: who gets one after that, before it, is on its way
// out itself. exitInFlow returns false if h need not wait for a place.
func (s *scheduler) exitInFlow(h *Handle) bool {
	f := h.flow
	switch {
	case f == nil || h.placed:
		return false
	case !f.held:
		s.holdPlace(f, h)
		f.lent = max(f.lent, h.urgency())
		s.placesChanged(f)
		return false
	}
	r := f.makeRare()
	r.exits = append(r.exits, h)
	h.place = place{in: inExiting}
	s.lendAllHolders(f, h.urgency())
	return true
}

// exitsInFlows returns how many tasks on their way out wait for a place of their flow.
func (s *scheduler) exitsInFlows() (n int) {
	for _, fl := range s.queue.heldFlows {
		n += len(fl.flow.exits())
	}
	return n
}

// queued counts that h, which is nil for a function, is Queued, if n is 1, or no longer is, if
// n is -1.
func (s *scheduler) queued(h *Handle, n int) {
	s.count[StateQueued] += n
	if s.delays != nil {
		s.delays.queued(h.priority, n)
	}
	if f := s.flowOf(h); f != nil {
		f.queued += int32(n)
		s.roomChanged(f)
	}
}

// ready returns how many tasks are Queued and not held back.
func (s *scheduler) ready() int { return s.count[StateQueued] - s.queue.heldQueued }

// retries counts that h waits for a retry, if n is 1, or no longer does, if n is -1.
func (s *scheduler) retries(h *Handle, n int) {
	s.retrying += n
	if f := h.flow; f != nil {
		f.retrying += int32(n)
		s.roomChanged(f)
	}
}

// Room.

// roomChanged brings f up to date with how many of its tasks wait.
func (s *scheduler) roomChanged(f *flow) {
	capacity := int(f.policy.capacity)
	if capacity == 0 && f.held {
		capacity = s.capacity // nothing else bounds what is held back
	} else if capacity == 0 {
		capacity = unbounded
	}
	full := capacity != unbounded && int(f.queued+f.retrying) >= capacity
	if full == f.full {
		return
	}
	if f.full = full; f.rare != nil {
		s.admission.hold(&f.rare.door, full)
	}
}

// atDoor reports whether submitters of f wait for room.
func (f *flow) atDoor() bool { return f.rare != nil && f.rare.door.waits(false) > 0 }

// flowRoom reports whether f lets one more of its tasks, of priority pr, be accepted. One that
// could start at once is not held up, unless others of f wait for room.
func (s *scheduler) flowRoom(f *flow, pr Priority) bool {
	if !f.full {
		return true
	}
	if f.atDoor() {
		return false
	}
	free, promised := s.free(pr)
	free += max(promised-(s.ready()-int(f.queued)), 0) // those promised to f: others may be served first
	if f.limit > 0 {
		free = min(free, int(f.limit-f.places))
	}
	return int(f.queued+f.retrying) < int(f.policy.capacity)+free
}

// takeShed takes a task that is to be shed for one of flow f, which may be nil, and of priority
// pr; false if there is none. If f is full, that is one of f.
func (s *scheduler) takeShed(pr Priority, f *flow) (entry, Priority, bool) {
	if f == nil || !f.full {
		return s.queue.takeShed(pr, f)
	}
	l := f.queue.open.spare
	if l == nil || l.priority <= pr {
		return entry{}, 0, false
	}
	return s.queue.takeNewest(l), l.priority, true
}

// outstays reports whether the flow of l would stay no shorter than f there, if it lost a task
// to f: by their weights, and counting the tasks that have never started.
func (l *lane) outstays(q *priorityQueue, f *flow) bool {
	have := int64(0)
	if f == nil {
		if o := q.lanes[l.laneKey]; o != nil {
			have = int64(o.fresh)
		}
	} else if o := f.queue.open.find(l.laneKey); o != nil {
		have = int64(o.fresh)
	}
	return int64(l.fresh-1)*q.owner(l).flow.cost() >= (have+1)*f.cost()
}

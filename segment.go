package taskpool

// A segment is a run of slots of a lane. A slot is cleared as soon as its task is
// taken, so that a finished task's closure is garbage; a task removed from the
// middle leaves an empty slot behind, and a segment left without a live slot
// leaves the lane.
type segment struct {
	prev, next *segment
	slots      []entry
	head, tail int32 // live entries are within slots[head:tail]
	live       int32
	fresh      int32
	size       int32 // index in segmentSlots
	handles    int32 // of the arrivals: how many entries in slots are not functions
	base       int64 // to be added to the orders in slots
}

// segmentSlots is the sizes that segments have: a lane's first is small, since it
// may be one of very many, and those of a long lane are large. Those of the last
// size come from the inbox.
var segmentSlots = [...]int{4, 20, 82, 1020}

// newSegment returns a segment of size segmentSlots[size], in one allocation. With
// the 8 bytes that the runtime adds to all but the first size, they fill allocation
// classes of 176, 576, 2048 and 24576 bytes.
func newSegment(size int32) *segment {
	switch size {
	case 0:
		s := new(struct {
			segment
			array [4]entry
		})
		s.slots = s.array[:]
		return &s.segment
	case 1:
		s := new(struct {
			segment
			array [20]entry
		})
		s.slots, s.size = s.array[:], 1
		return &s.segment
	case 2:
		s := new(struct {
			segment
			array [82]entry
		})
		s.slots, s.size = s.array[:], 2
		return &s.segment
	default:
		s := new(struct {
			segment
			array [1020]entry
		})
		s.slots, s.size = s.array[:], 3
		return &s.segment
	}
}

// A segmentStack keeps empty segments of one size for the pushes that need one, as
// long as they have at most keptSlots slots together. The one on top was used last
// and is likely in the processor's cache.
type segmentStack struct {
	top *segment // linked by next
	n   int
}

const keptSlots = 4096

// appendSegment gives l an empty segment at its back.
func (q *priorityQueue) appendSegment(l *lane) *segment {
	size := int32(0)
	if l.tail != nil {
		size = 1
	}
	if l.n >= segmentSlots[1] {
		size = 2
	}
	s := q.segment(size)
	l.link(s)
	return s
}

// segment returns an empty segment of size segmentSlots[size].
func (q *priorityQueue) segment(size int32) *segment {
	free := &q.free[size]
	s := free.top
	if s == nil {
		return newSegment(size)
	}
	free.top = s.next
	free.n--
	s.next = nil
	return s
}

// release keeps an empty segment for the next push that needs one, or leaves it to
// the garbage collector.
func (q *priorityQueue) release(s *segment) {
	free := &q.free[s.size]
	if (free.n+1)*len(s.slots) > keptSlots {
		return
	}
	s.prev, s.next, s.head, s.tail, s.handles, s.base = nil, free.top, 0, 0, 0, 0
	free.top = s
	free.n++
}

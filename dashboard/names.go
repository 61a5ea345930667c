package dashboard

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	maxNames    = 200       // what tasks of more names do counts together
	forgetNames = time.Hour // after that a name that nothing is told of makes room for another
	lookForRoom = 10 * time.Second
)

// A tally is what hooks have told about the tasks of one name.
type tally struct {
	told    time.Duration // when, since the epoch
	ends    [sketchSteps]*step[ends]
	run     sketch
	last    string    // error
	lastAt  time.Time // zero: there was none
	lastNum uint64    // its failure's number: texts may come out of order
}

// ends counts tasks in one step of the last minute.
type ends struct{ succeeded, failed uint64 }

// tallies are those of a pool's names, the first maxNames.
type tallies struct {
	byName  map[string]*tally
	other   *tally // of all further names; nil: there are none
	cleared time.Duration
}

// of returns the tally of a name.
func (t *tallies) of(name string, now time.Duration) *tally {
	name = cut(name, maxName)
	one := t.byName[name]
	if one == nil {
		if len(t.byName) >= maxNames {
			t.makeRoom(now)
		}
		switch {
		case len(t.byName) < maxNames:
			if t.byName == nil {
				t.byName = make(map[string]*tally)
			}
			one = &tally{}
			t.byName[name] = one
		case t.other == nil:
			t.other = &tally{}
			fallthrough
		default:
			one = t.other
		}
	}
	one.told = now
	return one
}

// makeRoom forgets names of which nothing was told for long. It does not look all the time.
func (t *tallies) makeRoom(now time.Duration) {
	if now-t.cleared < lookForRoom {
		return
	}
	t.cleared = now
	for name, one := range t.byName {
		if now-one.told > forgetNames {
			delete(t.byName, name)
		}
	}
}

// end counts weight tasks that ended in a state.
func (t *tally) end(now time.Duration, state taskpool.State, weight uint64) {
	e := stepAt(t.ends[:], sketchStepLen, now)
	switch state {
	case taskpool.StateSucceeded:
		e.succeeded += weight
	case taskpool.StateFailed:
		e.failed += weight
	}
}

// fail notes the error of an attempt.
func (t *tally) fail(number uint64, at time.Time, text string) {
	if number > t.lastNum {
		t.lastNum, t.lastAt, t.last = number, at, cut(text, maxName)
	}
}

// A nameView is a row of the table of names.
type nameView struct {
	Key   string
	Name  string
	Other bool // all further names
	atWork
	Done      float64 // a second, over the last minute
	FailShare float64 // of what succeeded or failed, in percent
	Run       quantiles
	LastError string
	LastAt    time.Time
	failed    uint64
}

// view returns what the tally says of the last minute.
func (t *tally) view(now, since time.Duration) nameView {
	v := nameView{Run: t.run.quantiles(now), LastError: t.last, LastAt: t.lastAt}
	var succeeded uint64
	for _, e := range lately(t.ends[:], sketchStepLen, now) {
		succeeded += e.succeeded
		v.failed += e.failed
	}
	first := now/sketchStepLen - sketchSteps + 1
	began := max(first*sketchStepLen, since)
	if over := max(now-began, time.Second); succeeded+v.failed > 0 {
		v.Done = float64(succeeded+v.failed) / over.Seconds()
		v.FailShare = 100 * float64(v.failed) / float64(succeeded+v.failed)
	}
	return v
}

// atWork counts the tasks of a name that have not ended.
type atWork struct{ Running, Waiting, Parked, Delayed int }

// All returns how many these are.
func (n atWork) All() int { return n.Running + n.Waiting + n.Parked + n.Delayed }

func (n *atWork) add(o atWork) {
	n.Running += o.Running
	n.Waiting += o.Waiting
	n.Parked += o.Parked
	n.Delayed += o.Delayed
}

// nameSeed makes the keys of names: those that are cut may be the same.
var nameSeed = maphash.MakeSeed()

func hashed(s string) string { return strconv.FormatUint(maphash.String(nameSeed, s), 36) }

// names makes the table of names: those of which a task fails first, then those of which most
// are done. What is beyond maxNames is in a last row together.
func (h *history) names(now time.Duration, counts map[string]atWork) []nameView {
	var rows []nameView
	for name, t := range h.tallies.byName {
		v := t.view(now, h.since)
		v.Key, v.Name = "n"+hashed(name), name
		v.atWork = counts[name]
		rows = append(rows, v)
	}
	other := nameView{Key: "other", Other: true}
	if t := h.tallies.other; t != nil {
		other = t.view(now, h.since)
		other.Key, other.Other = "other", true
	}
	var more []nameView
	for name, n := range counts {
		if h.tallies.byName[name] == nil {
			more = append(more, nameView{Key: "n" + hashed(name), Name: name, atWork: n})
		}
	}
	most := func(a, b nameView) int {
		return cmp.Or(cmp.Compare(b.failed, a.failed), cmp.Compare(b.Done, a.Done), cmp.Compare(b.All(), a.All()),
			cmp.Compare(a.Name, b.Name))
	}
	slices.SortFunc(more, most)
	room := max(maxNames-len(rows), 0)
	rows = append(rows, more[:min(room, len(more))]...)
	for _, v := range more[min(room, len(more)):] {
		other.add(v.atWork)
	}
	slices.SortFunc(rows, most)
	if h.tallies.other != nil || len(more) > room {
		rows = append(rows, other)
	}
	return rows
}

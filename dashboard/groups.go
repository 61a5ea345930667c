package dashboard

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	maxGroups    = 50
	groupMinutes = 60 // that a group's curve is of
)

// A groupKey is what failures have in common that are shown as one: how the attempt ended, and
// the task's name and the error's text without digits, which mostly number things.
type groupKey struct {
	kind       taskpool.Result
	name, text string
}

func (f *failure) groupKey() groupKey {
	return groupKey{f.Kind, withoutDigits(f.Name), withoutDigits(cut(f.Text, maxName))}
}

// withoutDigits returns s with # for each run of digits.
func withoutDigits(s string) string {
	if !strings.ContainsAny(s, "0123456789") {
		return s
	}
	var b strings.Builder
	digit := false
	for _, r := range s {
		was := digit
		if digit = '0' <= r && r <= '9'; !digit {
			b.WriteRune(r)
		} else if !was {
			b.WriteByte('#')
		}
	}
	return b.String()
}

// A group is failures that are alike.
type group struct {
	count       uint64
	first, last failure // without their stacks
	sameName    bool    // all have the name of the first
	sameText    bool    // and its text
	minutes     [groupMinutes]struct{ number, count int64 }
}

// noteGroupLocked counts a failure, whose text is known.
func (h *history) noteGroupLocked(f failure) {
	f.stack = nil
	key := f.groupKey()
	g := h.groups[key]
	if g == nil {
		if len(h.groups) >= maxGroups {
			h.forgetGroupLocked()
		}
		if h.groups == nil {
			h.groups = make(map[groupKey]*group)
		}
		g = &group{first: f, sameName: true, sameText: true}
		h.groups[key] = g
	}
	g.count++
	g.sameName = g.sameName && f.Name == g.first.Name
	g.sameText = g.sameText && f.Text == g.first.Text
	if f.Number > g.last.Number {
		g.last = f
	}
	minute := int64(f.At.Sub(h.epoch) / time.Minute)
	if m := &g.minutes[minute%groupMinutes]; m.number == minute {
		m.count++
	} else if minute > m.number || m.count == 0 {
		m.number, m.count = minute, 1
	}
}

// forgetGroupLocked forgets the group whose last failure is the oldest.
func (h *history) forgetGroupLocked() {
	var oldest groupKey
	var last *group
	for key, g := range h.groups {
		if last == nil || g.last.Number < last.last.Number {
			oldest, last = key, g
		}
	}
	delete(h.groups, oldest)
}

// A groupView is a group as the templates show it.
type groupView struct {
	Key         string
	Kind        taskpool.Result
	Name, Text  string // with # for what differs
	Count       uint64
	First, Last time.Time
	Curve       curve
	Failures    []failure // those that are kept, the newest first
	newest      uint64    // number of a failure
}

// groupsLocked returns the groups, that of the newest failure first, with the failures given,
// which are in the same order.
func (h *history) groupsLocked(now time.Time, failures []failure) []groupView {
	views := make(map[groupKey]*groupView)
	for key, g := range h.groups {
		v := &groupView{Kind: key.kind, Name: key.name, Text: key.text, Count: g.count, First: g.first.At, Last: g.last.At, newest: g.last.Number}
		if g.sameName {
			v.Name = g.first.Name
		}
		if g.sameText {
			v.Text = g.first.Text
		}
		v.Curve = g.curve(int64(now.Sub(h.epoch) / time.Minute))
		views[key] = v
	}
	for _, f := range failures {
		key := f.groupKey()
		v := views[key]
		if v == nil { // its text has not come, or its group was forgotten
			v = &groupView{Kind: f.Kind, Name: f.Name, Text: f.Text, First: f.At, Last: f.At, newest: f.Number}
			views[key] = v
		}
		v.Failures = append(v.Failures, f)
		v.Count = max(v.Count, uint64(len(v.Failures)))
		if f.At.Before(v.First) {
			v.First = f.At
		}
	}
	var all []groupView
	for key, v := range views {
		v.Key = "g" + hashed(string(key.kind)+"\x00"+key.name+"\x00"+key.text)
		all = append(all, *v)
	}
	slices.SortFunc(all, func(a, b groupView) int {
		return cmp.Compare(b.newest, a.newest)
	})
	return all
}

// curve draws how many failures there were in each of the last 60 minutes.
func (g *group) curve(now int64) curve {
	values := make([]float64, groupMinutes)
	for _, m := range g.minutes {
		if ago := now - m.number; ago >= 0 && ago < groupMinutes && m.count > 0 {
			values[groupMinutes-1-ago] = float64(m.count)
		}
	}
	return newSteps(values)
}

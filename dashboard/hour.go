package dashboard

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	hourStep   = 10 * time.Second // least time between two points
	hourPoints = int(time.Hour / hourStep)
)

// An hour is what a pool did in the last hour. No timer takes its points, but the hooks of
// what happens, and who looks, if the one before is old enough. So none is taken of a pool in
// which nothing happens, and what came after the last point of a busy time is spread over the
// time until the next.
type hour struct {
	asked atomic.Int64 // when the last point was taken, since the epoch

	mu     sync.Mutex // protects the fields below
	points []hourPoint
	last   [2]point // in full, the older first
}

// An hourPoint is some of a pool's counts at one moment.
type hourPoint struct {
	At                               time.Time
	Succeeded, Failed, Shed, Refused uint64
	Waiting, Running                 int
}

// note takes a point if it is time for one. No lock is held meanwhile.
func (h *hour) note(p *taskpool.Pool, epoch time.Time, now time.Duration) {
	last := h.asked.Load()
	if now-time.Duration(last) < hourStep || !h.asked.CompareAndSwap(last, int64(now)) {
		return
	}
	h.add(epoch.Add(now), p.Stats())
}

func (h *hour) add(now time.Time, s taskpool.Stats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := hourPoint{now, s.Succeeded, s.Failed, s.Shed, s.Refused, s.Queued, s.Running}
	if n := len(h.points); n > 0 {
		if b := h.points[n-1]; !p.At.After(b.At) || p.Succeeded < b.Succeeded || p.Failed < b.Failed || p.Shed < b.Shed || p.Refused < b.Refused {
			return // it was taken late
		}
	}
	for len(h.points) > 1 && now.Sub(h.points[1].At) >= time.Hour { // one stays that is older
		h.points = h.points[1:]
	}
	h.points = append(h.points, p)
	h.last = [2]point{h.last[1], {now, s}}
}

// recent returns the newest point that is after one time and before another, if it is among the
// last two.
func (h *hour) recent(after, before time.Time) (p point, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range slices.Backward(h.last[:]) {
		if p.at.After(after) && p.at.Before(before) {
			return p, true
		}
	}
	return point{}, false
}

// A chart is drawn into 360 by 40 units, ten seconds each, the newest on the right.
type chart struct {
	Name string
	Max  float64
	Line string // a path of SVG
	bad  bool
}

// Bad reports whether it is of what should not be.
func (c chart) Bad() bool { return c.bad }

// An hourView is what the page shows of the last hour.
type hourView struct {
	points []hourPoint
	Charts []chart
	Heat   []heatCell
	Most   uint64 // waits in the fullest cell
}

// view draws the charts. Their end moves on each 10 seconds, so that they need not be sent
// each second.
func (h *hour) view(now time.Time, v *hourView) {
	h.mu.Lock()
	points := append([]hourPoint(nil), h.points...)
	h.mu.Unlock()
	v.points = points
	if len(points) < 2 {
		return
	}
	end := now.Truncate(hourStep)
	perSecond := func(total func(hourPoint) uint64) func(a, b hourPoint) float64 {
		return func(a, b hourPoint) float64 { return float64(total(b)-total(a)) / b.At.Sub(a.At).Seconds() }
	}
	level := func(of func(hourPoint) int) func(a, b hourPoint) float64 {
		return func(a, _ hourPoint) float64 { return float64(of(a)) }
	}
	v.Charts = []chart{
		newChart("Succeeded/s", end, points, perSecond(func(p hourPoint) uint64 { return p.Succeeded })),
		newChart("Failed, shed and refused/s", end, points, perSecond(func(p hourPoint) uint64 { return p.Failed + p.Shed + p.Refused })),
		newChart("Waiting", end, points, level(func(p hourPoint) int { return p.Waiting })),
		newChart("Running", end, points, level(func(p hourPoint) int { return p.Running })),
	}
	v.Charts[1].bad = true
}

// newChart draws what value says of the time between each two points.
func newChart(name string, end time.Time, points []hourPoint, value func(a, b hourPoint) float64) chart {
	c := chart{Name: name}
	for i, p := range points[1:] {
		if end.Sub(p.At) < time.Hour {
			c.Max = max(c.Max, value(points[i], p))
		}
	}
	x := func(at time.Time) float64 {
		return math.Round(10*max(0, min(float64(hourPoints), float64(hourPoints)-end.Sub(at).Seconds()/hourStep.Seconds()))) / 10
	}
	const height = 39.
	var line strings.Builder
	before := math.NaN()
	for i, p := range points[1:] {
		from, to := x(points[i].At), x(p.At)
		if to <= from {
			continue
		}
		y := height
		if c.Max > 0 {
			y = math.Round(10*(height-(height-1)*value(points[i], p)/c.Max)) / 10
		}
		switch {
		case line.Len() == 0:
			fmt.Fprintf(&line, "M%g %gH%g", from, y, to)
		case y == before:
			fmt.Fprintf(&line, "H%g", to)
		default:
			fmt.Fprintf(&line, "V%gH%g", y, to)
		}
		before = y
	}
	c.Line = line.String()
	return c
}

const (
	heatColumns = 30
	heatColumn  = 2 * time.Minute
	heatRows    = 8 // waits under 1 ms, 10 ms and so on to 1,000 s, and longer
)

// A heat counts waits by when they ended and how long they were.
type heat struct {
	columns [heatColumns]*step[heatWaits]
}

type heatWaits [heatRows]uint64

func (h *heat) add(now, wait time.Duration, weight uint64) {
	row := 0
	for limit := time.Millisecond; row < heatRows-1 && wait >= limit; limit *= 10 {
		row++
	}
	stepAt(h.columns[:], heatColumn, now)[row] += weight
}

// A heatCell is a cell of the map in which waits are, 0 0 being that of the oldest and
// longest.
type heatCell struct {
	X, Y  int
	Share float64 // from .15 to 1: how many there are, on a scale of logarithms
}

func (h *heat) view(now time.Duration, v *hourView) {
	for _, waits := range lately(h.columns[:], heatColumn, now) {
		v.Most = max(v.Most, slices.Max(waits[:]))
	}
	for x, waits := range lately(h.columns[:], heatColumn, now) {
		for row, n := range waits {
			if n > 0 {
				share := math.Log1p(float64(n)) / math.Log1p(float64(v.Most))
				v.Heat = append(v.Heat, heatCell{x, heatRows - 1 - row, math.Round(100*(.15+.85*share)) / 100})
			}
		}
	}
}

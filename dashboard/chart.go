package dashboard

import (
	"fmt"
	"strings"
	"time"
)

// A segment is a part of the bar that shows what workers do.
type segment struct {
	Class    string
	From, To float64 // percent
}

// Bar returns the segments of the bar of slots.
func (v *poolView) Bar() (all []segment) {
	total := float64(max(v.Workers, v.Running+v.Lost))
	from := 0.
	for _, s := range []struct {
		class string
		n     int
	}{{"busy", v.Running}, {"lost", v.Lost}} {
		if s.n > 0 {
			width := 100 * float64(s.n) / total
			all = append(all, segment{s.class, from, width})
			from += width
		}
	}
	return all
}

// A curve is drawn into 60 by 16 units, a second each, the newest on the right.
type curve struct {
	Line, Area string // paths of SVG; empty if there is nothing to draw
	Max        float64
}

type sample struct {
	at    time.Time
	value float64
}

// newCurve draws samples, the oldest first. Where nobody looked for a while, there is
// a gap.
func newCurve(now time.Time, samples []sample) (c curve) {
	for _, s := range samples {
		if now.Sub(s.at) <= time.Minute {
			c.Max = max(c.Max, s.value)
		}
	}
	const height = 15.
	var line, area strings.Builder
	var before time.Time
	x := 0.
	for _, s := range samples {
		if now.Sub(s.at) > time.Minute {
			continue
		}
		gap := before.IsZero() || s.at.Sub(before) > gapAfter
		if gap && line.Len() > 0 {
			fmt.Fprintf(&area, "V%g", height+.5)
		}
		x = 60 - now.Sub(s.at).Seconds()
		y := height
		if c.Max > 0 {
			y = height - (height-1)*s.value/c.Max
		}
		command := "L"
		if gap {
			command = "M"
			fmt.Fprintf(&area, "M%.1f %gL", x, height+.5)
		} else {
			area.WriteString("L")
		}
		fmt.Fprintf(&line, "%s%.1f %.1f", command, x, y)
		fmt.Fprintf(&area, "%.1f %.1f", x, y)
		before = s.at
	}
	if line.Len() > 0 {
		fmt.Fprintf(&area, "V%g", height+.5)
	}
	c.Line, c.Area = line.String(), area.String()
	return c
}

// newSteps draws values that are of one minute each, the newest last, into the same units.
func newSteps(values []float64) (c curve) {
	for _, v := range values {
		c.Max = max(c.Max, v)
	}
	if c.Max == 0 {
		return c
	}
	const height = 15.
	var line strings.Builder
	width := 60 / float64(len(values))
	for i, v := range values {
		command := "L"
		if i == 0 {
			command = "M"
		}
		y := height - (height-1)*v/c.Max
		if i == 0 || v != values[i-1] {
			if i > 0 {
				fmt.Fprintf(&line, "H%.4g", width*float64(i))
			}
			fmt.Fprintf(&line, "%s%.4g %.1f", command, width*float64(i), y)
		}
	}
	line.WriteString("H60")
	c.Line = line.String()
	c.Area = fmt.Sprintf("M0 %g", height+.5) + "L" + c.Line[1:] + fmt.Sprintf("V%g", height+.5)
	return c
}

package starvation

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The policies' colors, which everybody can tell apart, and the widths of their
// lines, so that one can be seen under another. High is drawn with solid lines,
// Low with dashed ones.
var (
	colors = []color.Color{color.RGBA{R: 213, G: 94, A: 255}, color.RGBA{G: 114, B: 178, A: 255}, color.RGBA{G: 158, B: 115, A: 255}}
	widths = []vg.Length{vg.Points(4), vg.Points(2.6), vg.Points(1.6)}
	dashes = []vg.Length{vg.Points(5), vg.Points(3)}
)

const (
	width, height = vg.Length(960), vg.Length(420)
	margin        = vg.Length(12)
	legendHeight  = vg.Length(56)

	// The axis of the waits.
	first, last = 100 * time.Microsecond, 100 * time.Second
)

// picture draws the distributions of the waits, a panel for each load.
func picture(results []*result) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.SetColor(color.White) // so that it can be read on a dark page too
	all.Fill(all.Rectangle.Path())
	panel := (width - 2*margin) / vg.Length(len(loads()))
	for i, l := range loads() {
		p, err := newPanel(l, results)
		if err != nil {
			return nil, err
		}
		left := margin + vg.Length(i)*panel
		p.Draw(draw.Crop(all, left, left+panel-width-margin/2, margin+legendHeight, -margin))

		legend := plot.NewLegend()
		legend.TextStyle.Font.Size = vg.Points(13)
		legend.ThumbnailWidth = vg.Points(34)
		legend.Padding = vg.Points(6)
		legend.Left = true
		for j, pr := range priorities {
			legend.Add(fmt.Sprintf("%s: %s tasks", policies()[i].name, []string{"High", "Low"}[j]), &plotter.Line{LineStyle: style(i, pr == priorities[1])})
		}
		legend.Draw(draw.Crop(all, left+40, 0, margin, 0))
	}
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	// Where the font is missing, its look-alikes do.
	const family = "font-family:Liberation Sans"
	return bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif")), nil
}

func style(policy int, low bool) draw.LineStyle {
	s := draw.LineStyle{Color: colors[policy], Width: widths[policy]}
	if low {
		s.Dashes = dashes
	}
	return s
}

// newPanel returns the plot for a load: for each time the share of the tasks
// that had started within it. A curve that ends below 100 % is of tasks that
// had not started when the simulation ended.
func newPanel(l load, results []*result) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = l.name
	p.Title.TextStyle.Font.Size = vg.Points(15)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text = "wait, logarithmic"
	p.Y.Label.Text = "tasks that have started"
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(13)
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Label.Font.Size = vg.Points(11)
		axis.Padding = 0
	}
	p.X.Min, p.X.Max = position(first), position(last)
	p.Y.Min, p.Y.Max = 0, 101 // so that a curve at 100 % is seen whole
	var times, percent plot.ConstantTicks
	for d := first; d <= last; d *= 10 {
		tick := plot.Tick{Value: position(d)}
		if len(times)%2 == 1 { // there is not room for all
			tick.Label = label(d)
		}
		times = append(times, tick)
	}
	for y := 0; y <= 100; y += 20 {
		percent = append(percent, plot.Tick{Value: float64(y), Label: fmt.Sprintf("%d %%", y)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = times, percent

	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{Y: 205}, color.Gray{Y: 205}
	p.Add(grid)
	for i, pol := range policies() {
		for _, r := range results {
			if r.load != l || r.policy.name != pol.name {
				continue
			}
			line, err := plotter.NewLine(curve(r))
			if err != nil {
				return nil, err
			}
			line.LineStyle = style(i, r.priority == priorities[1])
			p.Add(line)
		}
	}
	return p, nil
}

// curve returns the cumulative distribution of the waits, in percent, at 30
// points a decade.
func curve(r *result) (xys plotter.XYs) {
	for x := position(first); x <= position(last)+1e-9; x += 1. / 30 {
		d := time.Duration(math.Pow(10, x) * float64(time.Second))
		y := 100 * r.share(d)
		if n := len(xys); n > 1 && xys[n-2].Y == y && xys[n-1].Y == y {
			xys = xys[:n-1] // in the middle of a level stretch
		}
		xys = append(xys, plotter.XY{X: x, Y: y})
	}
	return xys
}

func position(d time.Duration) float64 { return math.Log10(d.Seconds()) }

// label returns d with a space before its unit.
func label(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

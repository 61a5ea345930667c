package urgency

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

	"github.com/taskpool-go/taskpool"
)

// The colors of the variants, which everybody can tell apart. The requests are drawn with
// solid lines, the Medium tasks with dashed ones.
var (
	colors = []color.Color{color.RGBA{G: 114, B: 178, A: 255}, color.RGBA{R: 213, G: 94, A: 255}}
	dashes = []vg.Length{vg.Points(5), vg.Points(3)}
)

const (
	width, height = vg.Length(720), vg.Length(400)
	margin        = vg.Length(12)
	legendHeight  = vg.Length(56)

	// The axis of the times.
	first, last = time.Millisecond, 10 * time.Second
)

// names of what the picture shows, by priority.
var names = map[taskpool.Priority]string{taskpool.High: "High requests", taskpool.Medium: "Medium tasks"}

// picture draws the distributions of the times.
func picture(results []*result) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.SetColor(color.White) // so that it can be read on a dark page too
	all.Fill(all.Rectangle.Path())

	p := newPlot()
	legends := [2]plot.Legend{}
	for i, v := range variants() {
		l := plot.NewLegend()
		l.TextStyle.Font.Size = vg.Points(13)
		l.ThumbnailWidth = vg.Points(34)
		l.Padding = vg.Points(6)
		l.Left = true
		for _, r := range results {
			name, ok := names[r.priority]
			if !ok || r.variant.name != v.name {
				continue
			}
			line, err := plotter.NewLine(curve(r))
			if err != nil {
				return nil, err
			}
			line.LineStyle = draw.LineStyle{Color: colors[i], Width: vg.Points(2.6)}
			if r.priority == taskpool.Medium {
				line.Width, line.Dashes = vg.Points(1.8), dashes
			}
			p.Add(line)
			l.Add(name+": "+v.name, line)
		}
		legends[i] = l
	}
	p.Draw(draw.Crop(all, margin, -2*margin, margin+legendHeight, -margin))
	for i := range legends {
		legends[i].Draw(draw.Crop(all, margin+50+vg.Length(i)*(width-2*margin)/2, 0, margin, 0))
	}
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	// Where the font is missing, its look-alikes do.
	const family = "font-family:Liberation Sans"
	return bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif")), nil
}

// newPlot returns an empty plot of the share of the tasks that had ended within each time.
func newPlot() *plot.Plot {
	p := plot.New()
	p.Title.Text = "Each High request waits for a Low task, behind 1000 others"
	p.Title.TextStyle.Font.Size = vg.Points(15)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text = "time from submission to end, logarithmic"
	p.Y.Label.Text = "tasks that have ended"
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
		times = append(times, plot.Tick{Value: position(d), Label: label(d)})
	}
	for y := 0; y <= 100; y += 20 {
		percent = append(percent, plot.Tick{Value: float64(y), Label: fmt.Sprintf("%d %%", y)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = times, percent

	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{Y: 205}, color.Gray{Y: 205}
	p.Add(grid)
	return p
}

// curve returns the cumulative distribution of the times, in percent, at 100 points a
// decade.
func curve(r *result) (xys plotter.XYs) {
	for x := position(first); x <= position(last)+1e-9; x += 1. / 100 {
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

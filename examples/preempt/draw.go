package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The curves' styles, in the order of the variants: colors that everybody can
// tell apart, and dashes for where curves run on top of each other.
var styles = []draw.LineStyle{
	{Color: color.RGBA{R: 213, G: 94, A: 255}},
	{Color: color.RGBA{G: 114, B: 178, A: 255}},
	{Color: color.RGBA{G: 158, B: 115, A: 255}},
	{Color: color.RGBA{A: 255}, Dashes: []vg.Length{vg.Points(2), vg.Points(4)}},
}

const (
	margin      = vg.Length(16)
	legendWidth = vg.Length(190)
)

// drawFile draws the cumulative distributions of the waits to an SVG file.
func drawFile(name, title string, results []*result) error {
	p, legend, err := newPlot(title, results)
	if err != nil {
		return err
	}
	canvas := vgsvg.New(vg.Points(860), vg.Points(440))
	all := draw.New(canvas)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	p.Draw(draw.Crop(all, margin, -legendWidth-3*margin, margin, -margin))
	// Beside the plot, where it hides no curve whatever these look like.
	legend.Draw(draw.Crop(all, all.Max.X-legendWidth-margin, 0, 0, -60))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	// Where the font is missing, its look-alikes do.
	const family = "font-family:Liberation Sans"
	out := bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif"))
	return os.WriteFile(name, out, 0o666)
}

// newPlot returns the plot, for each time the share of High tasks that had
// started by then, and its legend.
func newPlot(title string, results []*result) (*plot.Plot, *plot.Legend, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(17)
	p.Title.Padding = vg.Points(14)
	p.X.Label.Text = "wait from submission to start, logarithmic"
	p.Y.Label.Text = "High tasks that have started"
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(14)
		axis.Label.Padding = vg.Points(8)
		axis.Tick.Label.Font.Size = vg.Points(13)
		axis.Padding = 0
	}
	legend := plot.NewLegend()
	legend.TextStyle.Font.Size = vg.Points(13)
	legend.ThumbnailWidth = vg.Points(28)
	legend.Padding = vg.Points(12)
	legend.Top, legend.Left = true, true

	first, last := time.Second, time.Microsecond
	for _, r := range results {
		first = min(first, r.waits[0])
		last = max(last, r.waits[len(r.waits)-1])
	}
	from, to := decades(first, last)
	p.X.Min, p.X.Max = position(from), position(to)
	p.Y.Min, p.Y.Max = 0, 100
	p.X.Tick.Marker = timeTicks(from, to)
	p.Y.Tick.Marker = percentTicks()

	grid := plotter.NewGrid()
	grid.Horizontal.Color = color.Gray{Y: 205}
	grid.Vertical.Color = color.Gray{Y: 205}
	p.Add(grid)
	for i, r := range results {
		line, err := plotter.NewLine(curve(r.waits, from, to))
		if err != nil {
			return nil, nil, err
		}
		line.StepStyle = plotter.PostStep
		line.LineStyle = styles[i]
		line.Width = vg.Points(2.5)
		p.Add(line)
		legend.Add(fmt.Sprintf("%s\nLow throughput %.0f %%", r.name, 100*r.speed()/results[0].speed()), line)
	}
	return p, &legend, nil
}

// position returns where d is on the logarithmic axis. plot.LogScale would leave
// room for the axis label where the label is not.
func position(d time.Duration) float64 { return math.Log10(d.Seconds()) }

// curve returns the cumulative distribution of the sorted waits, in percent.
func curve(waits []time.Duration, from, to time.Duration) plotter.XYs {
	xys := plotter.XYs{{X: position(from)}}
	for i, d := range waits {
		xys = append(xys, plotter.XY{X: position(max(d, from)), Y: 100 * float64(i+1) / float64(len(waits))})
	}
	return append(xys, plotter.XY{X: position(to), Y: 100})
}

// decades returns the powers of ten, from 1 µs on, around first and last.
func decades(first, last time.Duration) (from, to time.Duration) {
	for from = time.Microsecond; from*10 <= first; from *= 10 {
	}
	for to = from * 10; to < last; to *= 10 {
	}
	return from, to
}

// timeTicks returns ticks for a logarithmic axis, with a label at each decade.
func timeTicks(from, to time.Duration) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for decade := from; decade <= to; decade *= 10 {
		ticks = append(ticks, plot.Tick{Value: position(decade), Label: label(decade)})
		for n := time.Duration(2); n < 10 && decade < to; n++ {
			ticks = append(ticks, plot.Tick{Value: position(n * decade)})
		}
	}
	return ticks
}

// label returns d with a space before its unit.
func label(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

func percentTicks() plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for y := 0; y <= 100; y += 20 {
		ticks = append(ticks, plot.Tick{Value: float64(y), Label: fmt.Sprintf("%d %%", y)})
	}
	return ticks
}

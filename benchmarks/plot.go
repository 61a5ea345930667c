package main

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Colors that everybody can tell apart. The first is taskpool's, the second the
// channel's.
var colors = []color.Color{
	color.RGBA{R: 213, G: 94, A: 255},          // vermilion
	color.RGBA{A: 255},                         // black
	color.RGBA{G: 114, B: 178, A: 255},         // blue
	color.RGBA{G: 158, B: 115, A: 255},         // green
	color.RGBA{R: 204, G: 121, B: 167, A: 255}, // purple
	color.RGBA{R: 230, G: 159, A: 255},         // orange
	color.RGBA{R: 86, G: 180, B: 233, A: 255},  // sky
}

var shapes = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}}

var gridColor = color.Gray{Y: 210}

const (
	margin       = vg.Length(12)
	legendHeight = vg.Length(34)
)

// plots draws the pictures for which there are results and writes them into dir.
func plots(results []result, dir string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	for _, picture := range []struct {
		file string
		draw func([]result) (*vgsvg.Canvas, error)
	}{
		{"throughput.svg", drawThroughput},
		{"latency.svg", drawLatency},
		{"backlog.svg", drawBacklog},
		{"server.svg", drawServer},
	} {
		canvas, err := picture.draw(results)
		if err != nil {
			return fmt.Errorf("%s: %w", picture.file, err)
		}
		if canvas == nil {
			continue
		}
		var svg bytes.Buffer
		if _, err := canvas.WriteTo(&svg); err != nil {
			return err
		}
		// Where the font is missing, its look-alikes do.
		const family = "font-family:Liberation Sans"
		page := bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif"))
		if err := os.WriteFile(filepath.Join(dir, picture.file), page, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// newCanvas returns a canvas that is white, so that it can be read on a dark page
// too.
func newCanvas(width, height vg.Length) (*vgsvg.Canvas, draw.Canvas) {
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())
	return canvas, all
}

// newPlot returns a plot with text in sizes that can be read.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(15)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(13)
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Label.Font.Size = vg.Points(12)
		axis.Padding = 0
	}
	return p
}

// A series is one value for each row of a dot plot, NaN where there is none.
type series struct {
	name   string
	values []float64
}

func (s series) glyph(i int) draw.GlyphStyle {
	return draw.GlyphStyle{Color: colors[[]int{2, 0, 1, 3}[i]], Radius: vg.Points(4.5), Shape: shapes[i]}
}

// addRows has p show the series as dots, a row for each name, the first at the
// top. The dots of a row are a little above one another, each series apart,
// and a line leads through them from the least to the greatest.
func addRows(p *plot.Plot, names []string, all []series) error {
	addGrid(p)
	var ticks plot.ConstantTicks
	for i, name := range names {
		y := float64(len(names) - 1 - i)
		ticks = append(ticks, plot.Tick{Value: y, Label: name})
		least, greatest := math.Inf(1), math.Inf(-1)
		for _, s := range all {
			if v := s.values[i]; !math.IsNaN(v) {
				least, greatest = min(least, v), max(greatest, v)
			}
		}
		if least > greatest {
			continue
		}
		line, err := plotter.NewLine(plotter.XYs{{X: least, Y: y}, {X: greatest, Y: y}})
		if err != nil {
			return err
		}
		line.LineStyle = draw.LineStyle{Color: color.Gray{Y: 150}, Width: vg.Points(1)}
		p.Add(line)
	}
	for k, s := range all {
		var dots plotter.XYs
		for i, v := range s.values {
			if !math.IsNaN(v) {
				rise := 0.19 * (float64(len(all)-1)/2 - float64(k))
				dots = append(dots, plotter.XY{X: v, Y: float64(len(names)-1-i) + rise})
			}
		}
		if len(dots) == 0 {
			continue
		}
		scatter, err := plotter.NewScatter(dots)
		if err != nil {
			return err
		}
		scatter.GlyphStyle = s.glyph(k)
		p.Add(scatter)
	}
	p.Y.Tick.Marker = ticks
	p.Y.Tick.LineStyle.Width = 0
	p.Y.Min, p.Y.Max = -0.6, float64(len(names))-0.4
	return nil
}

// drawLegend draws the names of series side by side.
func drawLegend(c draw.Canvas, all []series) {
	left := c.Min.X
	style := draw.TextStyle{Color: color.Black, Font: plot.DefaultFont, Handler: plot.DefaultTextHandler, YAlign: draw.YCenter}
	style.Font.Size = vg.Points(13)
	for i, s := range all {
		middle := c.Center().Y
		c.DrawGlyph(s.glyph(i), vg.Point{X: left + vg.Points(6), Y: middle})
		c.FillText(style, vg.Point{X: left + vg.Points(16), Y: middle}, s.name)
		left += style.Width(s.name) + vg.Points(40)
	}
}

// drawThroughput shows how many empty tasks a second each contestant does.
func drawThroughput(results []result) (*vgsvg.Canvas, error) {
	producers := []int{1, 8}
	workers := []int{2, 8, 64}
	names := contestantsOf(slices.DeleteFunc(slices.Clone(results), func(r result) bool { return r.Group != groupEmpty }))
	if len(names) == 0 {
		return nil, nil
	}
	panels := make([][]series, len(producers))
	most := 0.0
	for i, n := range producers {
		for _, w := range workers {
			s := series{name: fmt.Sprintf("%d workers", w)}
			for _, name := range names {
				rate := math.NaN()
				if ns, ok := find(results, "empty task, "+crew(w, n)).median(name, 0); ok && ns > 0 {
					rate = 1000 / ns
					most = max(most, rate)
				}
				s.values = append(s.values, rate)
			}
			panels[i] = append(panels[i], s)
		}
	}
	if most == 0 {
		return nil, nil
	}
	const width, height = vg.Length(960), vg.Length(440)
	canvas, all := newCanvas(width, height)
	for i, n := range producers {
		title := "submitted by " + plural(n, "goroutine", "goroutines")
		p := newPlot(title, "million empty tasks a second", "")
		if err := addRows(p, names, panels[i]); err != nil {
			return nil, err
		}
		p.X.Min, p.X.Max = 0, most*1.05
		left := margin + vg.Length(i)*(width-2*margin)/2
		p.Draw(draw.Crop(all, left, left+(width-2*margin)/2-width-margin/2, margin+legendHeight, -margin))
	}
	drawLegend(draw.Crop(all, 2*margin, -margin, margin/2, legendHeight-height), panels[0])
	return canvas, nil
}

// drawLatency shows the waits of High tasks under overload.
func drawLatency(results []result) (*vgsvg.Canvas, error) {
	r := find(results, overloadName)
	if len(r.Contestants) == 0 {
		return nil, nil
	}
	names := contestantsOf([]result{r})
	var all []series
	least, greatest := math.Inf(1), math.Inf(-1)
	for m, metric := range r.Metrics {
		if metric.Unit != "µs" {
			continue
		}
		s := series{name: metric.Name}
		for _, name := range names {
			v, ok := r.median(name, m)
			if !ok {
				v = math.NaN()
			} else {
				v = math.Log10(max(v, 0.01))
				least, greatest = min(least, v), max(greatest, v)
			}
			s.values = append(s.values, v)
		}
		all = append(all, s)
	}
	if least > greatest {
		return nil, nil
	}
	const width, height = vg.Length(800), vg.Length(400)
	canvas, page := newCanvas(width, height)
	p := newPlot("Wait of High tasks at 120 % load", "from submit to start, logarithmic", "")
	if err := addRows(p, names, all); err != nil {
		return nil, err
	}
	p.X.Min, p.X.Max = math.Floor(least), math.Ceil(greatest+0.01)
	var ticks plot.ConstantTicks
	for x := p.X.Min; x <= p.X.Max; x++ {
		ticks = append(ticks, plot.Tick{Value: x, Label: duration(x)})
	}
	p.X.Tick.Marker = ticks
	// The last label is as wide to the right of its tick as to the left.
	p.Draw(draw.Crop(page, margin, -2*margin, margin+legendHeight, -margin))
	drawLegend(draw.Crop(page, 2*margin, -margin, margin/2, legendHeight-height), all)
	return canvas, nil
}

// duration returns 10 to the power of x, in microseconds, in a fitting unit.
func duration(x float64) string {
	d := time.Duration(math.Round(math.Pow(10, x+3)))
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%g s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%g ms", d.Seconds()*1e3)
	case d >= time.Microsecond:
		return fmt.Sprintf("%g µs", d.Seconds()*1e6)
	}
	return fmt.Sprintf("%d ns", d.Nanoseconds())
}

// drawBacklog shows what a task costs by how many wait.
func drawBacklog(results []result) (*vgsvg.Canvas, error) {
	var names []string
	for _, depth := range backlogDepths {
		for _, c := range find(results, backlogName(depth)).Contestants {
			if !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
	}
	const width, height = vg.Length(800), vg.Length(420)
	canvas, page := newCanvas(width, height)
	p := newPlot("Submitting and running an empty task while others wait", "waiting tasks, logarithmic", "ns a task, logarithmic")
	least, greatest := math.Inf(1), math.Inf(-1)
	type labeled struct {
		name string
		line *plotter.Line
		dots *plotter.Scatter
		last float64
	}
	var lines []labeled
	for i, name := range names {
		var xys plotter.XYs
		for _, depth := range backlogDepths {
			if v, ok := find(results, backlogName(depth)).median(name, 0); ok && v > 0 {
				xys = append(xys, plotter.XY{X: math.Log10(float64(depth)), Y: math.Log10(v)})
				least, greatest = min(least, math.Log10(v)), max(greatest, math.Log10(v))
			}
		}
		if len(xys) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(xys)
		if err != nil {
			return nil, err
		}
		style := colors[i%len(colors)]
		line.LineStyle = draw.LineStyle{Color: style, Width: vg.Points(1.8)}
		if i == 0 {
			line.Width = vg.Points(3.2)
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: style, Radius: vg.Points(4), Shape: shapes[i%len(shapes)]}
		lines = append(lines, labeled{name, line, dots, xys[len(xys)-1].Y})
	}
	if len(lines) == 0 {
		return nil, nil
	}
	p.X.Min, p.X.Max = math.Log10(float64(backlogDepths[0])), math.Log10(float64(backlogDepths[len(backlogDepths)-1]))
	var depths plot.ConstantTicks
	for n := backlogDepths[0]; n <= backlogDepths[len(backlogDepths)-1]; n *= 10 {
		depths = append(depths, plot.Tick{Value: math.Log10(float64(n)), Label: thousands(n)})
	}
	p.X.Tick.Marker = depths
	var costs plot.ConstantTicks
	p.Y.Min, p.Y.Max = math.Inf(1), math.Inf(-1)
	for _, step := range steps(least, greatest) {
		p.Y.Min, p.Y.Max = min(p.Y.Min, math.Log10(step)), max(p.Y.Max, math.Log10(step))
		costs = append(costs, plot.Tick{Value: math.Log10(step), Label: fmt.Sprintf("%g", step)})
	}
	p.Y.Tick.Marker = costs
	addGrid(p)

	// The legend stands at the right, in the order in which the lines end there.
	slices.SortStableFunc(lines, func(a, b labeled) int { return cmp.Compare(b.last, a.last) })
	legend := plot.NewLegend()
	legend.TextStyle.Font.Size = vg.Points(13)
	legend.ThumbnailWidth = vg.Points(34)
	legend.Padding = vg.Points(6)
	legend.Top, legend.Left = true, true
	for _, l := range lines {
		p.Add(l.line, l.dots)
		legend.Add(l.name, l.line, l.dots)
	}
	const legendWidth = vg.Length(140)
	p.Draw(draw.Crop(page, margin, -legendWidth-margin, margin, -margin))
	legend.Draw(draw.Crop(page, width-legendWidth+margin/2, -margin, margin, -4*margin))
	return canvas, nil
}

// steps returns the numbers 1, 2 and 5 with any number of zeros that enclose the
// range from 10 to the power of least to 10 to the power of greatest.
func steps(least, greatest float64) (all []float64) {
	for power := math.Floor(least); power <= math.Floor(greatest)+1; power++ {
		for _, first := range []float64{1, 2, 5} {
			step := first * math.Pow(10, power)
			if n := len(all); n > 0 && math.Log10(all[n-1]) >= greatest {
				return all
			}
			if math.Log10(step) <= least {
				all = nil // a narrower one
			}
			all = append(all, step)
		}
	}
	return all
}

// addGrid draws a grid under what is added to p later.
func addGrid(p *plot.Plot) {
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = gridColor, gridColor
	p.Add(grid)
}

// find returns the result of the scenario with a name, or one without values.
func find(results []result, name string) result {
	if i := slices.IndexFunc(results, func(r result) bool { return r.Scenario == name }); i >= 0 {
		return results[i]
	}
	return result{}
}

package overload

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The lines of the variants, in colors which everybody can tell apart.
var (
	colors = []color.Color{color.RGBA{R: 213, G: 94, A: 255}, color.RGBA{R: 204, G: 121, B: 167, A: 255}, color.RGBA{G: 114, B: 178, A: 255}}
	glyphs = []draw.GlyphDrawer{draw.SquareGlyph{}, draw.PyramidGlyph{}, draw.CircleGlyph{}}
)

const (
	width, height = vg.Length(960), vg.Length(420)
	margin        = vg.Length(12)
	legendHeight  = vg.Length(40)

	first, last = 10 * time.Millisecond, 100 * time.Second // the axis of the waits
)

// titles of the panels.
var titles = [2]string{"work on what somebody still waits for", "99 of 100 that start have waited at most"}

// picture draws, by load, how much good work the variants do, and how long what they start waits.
func picture(results []*result) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.SetColor(color.White) // so that it can be read on a dark page too
	all.Fill(all.Rectangle.Path())
	const panel = (width - 2*margin) / vg.Length(len(titles))
	for i, title := range titles {
		p := newPanel(title)
		value := good
		if i == 0 {
			percentAxis(p)
		} else {
			timeAxis(p)
			value = waits
		}
		if err := addLines(p, results, value); err != nil {
			return nil, err
		}
		left := margin + vg.Length(i)*panel
		p.Draw(draw.Crop(all, left, left+panel-width-margin/2, margin+legendHeight, -margin))
	}
	for i, v := range variants() {
		l := plot.NewLegend()
		l.TextStyle.Font.Size = vg.Points(13)
		l.ThumbnailWidth = vg.Points(34)
		l.Padding = vg.Points(6)
		l.Left, l.Top = true, true
		line, points := style(i)
		l.Add(v.name, line, points)
		l.Draw(draw.Crop(all, margin+vg.Length(i)*(width-2*margin)/3+20, 0, 0, legendHeight-height))
	}
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	// Where the font is missing, its look-alikes do.
	const family = "font-family:Liberation Sans"
	return bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif")), nil
}

// style returns how variant i is drawn.
func style(i int) (*plotter.Line, *plotter.Scatter) {
	line := &plotter.Line{LineStyle: draw.LineStyle{Color: colors[i], Width: vg.Points(2.4)}}
	points := &plotter.Scatter{GlyphStyle: draw.GlyphStyle{Color: colors[i], Radius: vg.Points(5), Shape: glyphs[i]}}
	return line, points
}

// addLines draws for each variant a value of its results at each load.
func addLines(p *plot.Plot, results []*result, value func([]*result) float64) error {
	for i := range variants() {
		var xys plotter.XYs
		for x, load := range loads {
			of := slices.DeleteFunc(slices.Clone(results), func(r *result) bool { return r.variant != i || r.load != load })
			xys = append(xys, plotter.XY{X: float64(x), Y: value(of)})
		}
		line, points := style(i)
		line.XYs, points.XYs = xys, xys
		p.Add(line, points)
	}
	return nil
}

// good returns how much of the workers' time went into what was of use, in percent.
func good(of []*result) (sum float64) {
	for _, r := range of {
		sum += 100 * share(r.good)
	}
	return sum
}

// waits returns where the 99th percentile of all waits is on the axis.
func waits(of []*result) float64 {
	all := &result{}
	for _, r := range of {
		all.waits = append(all.waits, r.waits...)
	}
	slices.Sort(all.waits)
	return position(all.quantile(.99))
}

// newPanel returns an empty plot with the loads along its lower edge.
func newPanel(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(15)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text = "what comes in, of what the workers can do"
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(13)
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Label.Font.Size = vg.Points(11)
		axis.Padding = 0
	}
	p.X.Min, p.X.Max = -.3, float64(len(loads))-.7
	var ticks plot.ConstantTicks
	for i, load := range loads {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: fmt.Sprintf("%.0f %%", 100*load)})
	}
	p.X.Tick.Marker = ticks
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{Y: 205}, color.Gray{Y: 205}
	p.Add(grid)
	return p
}

func percentAxis(p *plot.Plot) {
	p.Y.Label.Text = "of the workers' time"
	p.Y.Min, p.Y.Max = 0, 104 // so that a point at 100 % is seen whole
	var ticks plot.ConstantTicks
	for y := 0; y <= 100; y += 20 {
		ticks = append(ticks, plot.Tick{Value: float64(y), Label: fmt.Sprintf("%d %%", y)})
	}
	p.Y.Tick.Marker = ticks
}

func timeAxis(p *plot.Plot) {
	p.Y.Label.Text = "wait, logarithmic"
	p.Y.Min, p.Y.Max = position(first), position(last)
	var ticks plot.ConstantTicks
	for d := first; d <= last; d *= 10 {
		label := fmt.Sprintf("%d ms", d.Milliseconds())
		if d >= time.Second {
			label = fmt.Sprintf("%d s", int(d.Seconds()))
		}
		ticks = append(ticks, plot.Tick{Value: position(d), Label: label})
	}
	p.Y.Tick.Marker = ticks
}

func position(d time.Duration) float64 { return math.Log10(d.Seconds()) }

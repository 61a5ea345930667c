package tenants

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

// The lines of the variants and of the weights, in colors which everybody can tell apart, and
// in widths so that one can be seen under another.
var (
	variantStyles = []draw.LineStyle{
		{Color: color.RGBA{R: 213, G: 94, A: 255}, Width: vg.Points(2.6)},
		{Color: color.RGBA{G: 158, B: 115, A: 255}, Width: vg.Points(4)},
		{Color: color.RGBA{R: 204, G: 121, B: 167, A: 255}, Width: vg.Points(2.6)},
		{Color: color.RGBA{G: 114, B: 178, A: 255}, Width: vg.Points(2)},
	}
	weightStyles = []draw.LineStyle{
		{Color: color.RGBA{R: 86, G: 180, B: 233, A: 255}, Width: vg.Points(2)},
		{Color: color.RGBA{R: 230, G: 159, A: 255}, Width: vg.Points(2)},
		{Color: color.Black, Width: vg.Points(2)},
	}
)

const (
	width, height = vg.Length(960), vg.Length(420)
	margin        = vg.Length(12)
	legendHeight  = vg.Length(76)

	// The axis of the waits.
	first, last = 100 * time.Microsecond, 100 * time.Second
)

// titles of the panels.
var titles = [3]string{"small tenant: 50 tasks a second", "middle tenant: 200 tasks at once", "three tenants with weights 1, 2 and 4"}

// picture draws the distributions of the waits of the small and of the middle tenant, and the
// shares of the starts by weight.
func picture(results []*result, starts [][3]int) ([]byte, error) {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.SetColor(color.White) // so that it can be read on a dark page too
	all.Fill(all.Rectangle.Path())
	const panel = (width - 2*margin) / vg.Length(len(titles))
	for i := range titles {
		var p *plot.Plot
		var err error
		if i < 2 {
			p, err = waitsPanel(titles[i], tenants()[i].name, results)
		} else {
			p, err = sharesPanel(titles[i], starts)
		}
		if err != nil {
			return nil, err
		}
		left := margin + vg.Length(i)*panel
		p.Draw(draw.Crop(all, left, left+panel-width-margin/2, margin+legendHeight, -margin))
	}
	for i := range titles {
		l := newLegend()
		switch i {
		case 0, 1: // half of the variants below each of their panels
			for j := 2 * i; j < 2*i+2; j++ {
				l.Add(variants()[j].name, &plotter.Line{LineStyle: variantStyles[j]})
			}
		case 2:
			for j, name := range names {
				l.Add(name, &plotter.Line{LineStyle: weightStyles[j]})
			}
		}
		l.Draw(draw.Crop(all, margin+vg.Length(i)*panel+40, 0, 0, legendHeight-height))
	}
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	// Where the font is missing, its look-alikes do.
	const family = "font-family:Liberation Sans"
	return bytes.ReplaceAll(svg.Bytes(), []byte(family), []byte(family+",Arial,Helvetica,sans-serif")), nil
}

func newLegend() plot.Legend {
	l := plot.NewLegend()
	l.TextStyle.Font.Size = vg.Points(13)
	l.ThumbnailWidth = vg.Points(34)
	l.Padding = vg.Points(6)
	l.Left, l.Top = true, true
	return l
}

// newPanel returns an empty plot with percent upward.
func newPanel(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(15)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(13)
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Label.Font.Size = vg.Points(11)
		axis.Padding = 0
	}
	p.Y.Min, p.Y.Max = 0, 101 // so that a curve at 100 % is seen whole
	var percent plot.ConstantTicks
	for y := 0; y <= 100; y += 20 {
		percent = append(percent, plot.Tick{Value: float64(y), Label: fmt.Sprintf("%d %%", y)})
	}
	p.Y.Tick.Marker = percent

	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{Y: 205}, color.Gray{Y: 205}
	p.Add(grid)
	return p
}

// waitsPanel returns the plot for a tenant: for each time the share of its tasks that had
// started within it.
func waitsPanel(title, tenant string, results []*result) (*plot.Plot, error) {
	p := newPanel(title, "wait, logarithmic", "tasks that have started")
	p.X.Min, p.X.Max = position(first), position(last)
	var times plot.ConstantTicks
	for d := first; d <= last; d *= 10 {
		tick := plot.Tick{Value: position(d)}
		if len(times)%2 == 1 { // there is not room for all
			tick.Label = label(d)
		}
		times = append(times, tick)
	}
	p.X.Tick.Marker = times
	for i, v := range variants() {
		for _, r := range results {
			if r.tenant.name != tenant || r.variant.name != v.name {
				continue
			}
			line, err := plotter.NewLine(curve(r))
			if err != nil {
				return nil, err
			}
			line.LineStyle = variantStyles[i]
			p.Add(line)
		}
	}
	return p, nil
}

// sharesPanel returns the plot of each tenant's share of the starts over time.
func sharesPanel(title string, starts [][3]int) (*plot.Plot, error) {
	p := newPanel(title, "time", "share of the starts")
	p.X.Min, p.X.Max = 0, observed.Seconds()
	var times plot.ConstantTicks
	for d := time.Duration(0); d <= observed; d += time.Second {
		times = append(times, plot.Tick{Value: d.Seconds(), Label: label(d)})
	}
	p.X.Tick.Marker = times
	for of, style := range weightStyles {
		var xys plotter.XYs
		for i, s := range starts {
			y := 100 * float64(s[of]) / float64(s[0]+s[1]+s[2])
			xys = append(xys, plotter.XY{X: (time.Duration(i) * window).Seconds(), Y: y})
		}
		line, err := plotter.NewLine(append(xys, plotter.XY{X: observed.Seconds(), Y: xys[len(xys)-1].Y}))
		if err != nil {
			return nil, err
		}
		line.LineStyle, line.StepStyle = style, plotter.PostStep
		p.Add(line)
	}
	return p, nil
}

// curve returns the cumulative distribution of the waits, in percent, at 30 points a decade.
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
	if d > 0 && d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

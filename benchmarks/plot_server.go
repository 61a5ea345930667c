package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// drawServer shows by the load how much of the capacity is spent on answers in time, and how long
// the slow ones of High priority take.
func drawServer(results []result) (*vgsvg.Canvas, error) {
	var found []result
	for _, load := range serverLoads {
		if r := find(results, serverName(load)); len(r.Contestants) > 0 {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	legend := plot.NewLegend()
	legend.TextStyle.Font.Size = vg.Points(13)
	legend.ThumbnailWidth = vg.Points(34)
	legend.Padding = vg.Points(6)
	legend.Top, legend.Left = true, true
	const width, height, legendWidth = vg.Length(1100), vg.Length(420), vg.Length(210)
	canvas, page := newCanvas(width, height)
	for i, panel := range []struct {
		title, metric string
		shown         func(float64) float64
	}{
		{"Answers in time, % of the capacity", "capacity not spent on answers in time", func(v float64) float64 { return 100 - v }},
		{"p99 of answers to High, ms", "p99 of answers to High", func(v float64) float64 { return v }},
	} {
		p := newPlot(panel.title, "times the capacity", "")
		var ticks plot.ConstantTicks
		for k, load := range serverLoads {
			ticks = append(ticks, plot.Tick{Value: float64(k), Label: fmt.Sprint(load)})
		}
		p.X.Tick.Marker = ticks
		p.X.Min, p.X.Max, p.Y.Min = 0, float64(len(serverLoads)-1), 0
		addGrid(p)
		for n, name := range contestantsOf(found) {
			var xys plotter.XYs
			for k, load := range serverLoads {
				r := find(results, serverName(load))
				for m, metric := range r.Metrics {
					if v, ok := r.median(name, m); ok && metric.Name == panel.metric {
						xys = append(xys, plotter.XY{X: float64(k), Y: max(panel.shown(v), 0)})
						p.Y.Max = math.Max(p.Y.Max, panel.shown(v)*1.05)
					}
				}
			}
			if len(xys) == 0 {
				continue
			}
			line, dots, err := plotter.NewLinePoints(xys)
			if err != nil {
				return nil, err
			}
			style := append(slices.Clone(colors), color.Gray{Y: 130})[n%(len(colors)+1)]
			line.LineStyle = draw.LineStyle{Color: style, Width: vg.Points(1.8)}
			if n == 0 {
				line.Width = vg.Points(3.2)
			}
			dots.GlyphStyle = draw.GlyphStyle{Color: style, Radius: vg.Points(4), Shape: shapes[n%len(shapes)]}
			p.Add(line, dots)
			if i == 0 {
				legend.Add(name, line, dots)
			}
		}
		if p.Y.Max <= 0 || math.IsInf(p.Y.Max, 0) {
			p.Y.Max = 1
		}
		left := margin + vg.Length(i)*(width-legendWidth)/2
		p.Draw(draw.Crop(page, left, left+(width-legendWidth)/2-width-2*margin, margin, -margin))
	}
	legend.Draw(draw.Crop(page, width-legendWidth+margin/2, -margin, margin, -4*margin))
	return canvas, nil
}

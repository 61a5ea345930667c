package scale

import (
	"bytes"
	"fmt"
	"math"
)

// picture draws the throughput by workers, a line for each number of databases; rows are databases,
// workers and jobs a second.
func picture(rows [][3]float64) []byte {
	const width, height, left, bottom, top, right = 720.0, 380.0, 70.0, 50.0, 20.0, 130.0
	const x0, x1, y0, y1 = 0.0, 3.0, 1.0, 5.0 // powers of ten
	x := func(v float64) float64 { return left + (math.Log10(v)-x0)/(x1-x0)*(width-left-right) }
	y := func(v float64) float64 { return height - bottom - (math.Log10(v)-y0)/(y1-y0)*(height-bottom-top) }
	colors := []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7"}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="13">`+"\n", width, height)
	fmt.Fprintf(&b, `<title>Jobs a second by workers and databases</title><rect width="%g" height="%g" fill="white"/>`+"\n", width, height)
	for e := x0; e <= x1; e++ {
		at := x(math.Pow(10, e))
		fmt.Fprintf(&b, `<path d="M%.1f %.1fV%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">%g</text>`+"\n", at, top, height-bottom, at, height-bottom+18, math.Pow(10, e))
	}
	for e := y0; e <= y1; e++ {
		at := y(math.Pow(10, e))
		fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%.0f</text>`+"\n", left, at, width-right, left-6, at+4, math.Pow(10, e))
	}
	fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">workers</text><text x="12" y="%.1f" transform="rotate(-90 12 %.1f)" text-anchor="middle">jobs a second</text>`+"\n",
		(left+width-right)/2, height-10, height/2, height/2)
	for i := 0; i < len(rows); {
		databases := rows[i][0]
		color := colors[int(math.Log2(databases))%len(colors)]
		path, last := "M", rows[i]
		for ; i < len(rows) && rows[i][0] == databases; i++ {
			last = rows[i]
			path += fmt.Sprintf("%.1f %.1f ", x(last[1]), y(last[2]))
		}
		name := fmt.Sprintf("%.0f databases", databases)
		if databases == 1 {
			name = "1 database"
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n", path, color, x(last[1])+6, y(last[2])+4, color, name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

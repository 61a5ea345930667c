package dashboard

import (
	"fmt"
	"strings"
	"time"
)

// duration writes d with three digits, or as two units if it is long.
func duration(d time.Duration) string {
	units := func(big, small time.Duration, bigName, smallName string) string {
		if d%big == 0 { // what people set
			return fmt.Sprintf("%d %s", d/big, bigName)
		}
		return fmt.Sprintf("%d %s %02d %s", d/big, bigName, d%big/small, smallName)
	}
	const day = 24 * time.Hour
	switch {
	case d <= 0:
		return "0 s"
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < time.Millisecond:
		return digits(float64(d)/1e3) + " µs"
	case d < time.Second:
		return digits(float64(d)/1e6) + " ms"
	case d < time.Minute:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	case d < time.Hour:
		return units(time.Minute, time.Second, "m", "s")
	case d < day:
		return units(time.Hour, time.Minute, "h", "m")
	}
	return units(day, time.Hour, "d", "h")
}

// digits writes three digits of x, which is less than 1,000, or more if it rounds to
// that.
func digits(x float64) string {
	switch {
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func rate(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x < .005:
		return "< 0.01"
	case x < 999.5:
		return digits(x)
	}
	return count(int(x + .5))
}

// count writes n with a comma after each thousand.
func count[N int | uint64](n N) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted writes n things, whose name takes an s where they are several.
func counted[N int | uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return count(n) + " " + thing
}

package main

import (
	"slices"
	"strconv"
)

// median returns the middle value, the mean of the two middle ones if their
// number is even, and 0 of none.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the value below which a share q of the values lies, by linear
// interpolation; 0 if there are none. It does not change values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	position := q * float64(len(sorted)-1)
	below := int(position)
	if below == len(sorted)-1 {
		return sorted[below]
	}
	part := position - float64(below)
	return sorted[below]*(1-part) + sorted[below+1]*part
}

// thousands returns n with a comma after every three digits.
func thousands(n int) string {
	s := strconv.Itoa(n)
	first := 0
	if n < 0 {
		first = 1
	}
	for i := len(s) - 3; i > first; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

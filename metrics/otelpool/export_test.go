package otelpool

// Kept returns how much the collector keeps about tasks for the sake of their spans.
func (c *Collector) Kept() (n int) {
	c.spans.live.Range(func(any, any) bool { n++; return true })
	return n
}

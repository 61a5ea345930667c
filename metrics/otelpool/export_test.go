package otelpool

// Kept returns how much the collector keeps about tasks for the sake of their spans.
func (c *Collector) Kept() (n int) {
	count := func(any, any) bool { n++; return true }
	c.spans.pools.Range(count)
	c.spans.live.Range(count)
	return n
}

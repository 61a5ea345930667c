package jobs

// Sizes returns how many jobs and how many unique keys q knows.
func (q *LocalQueue) Sizes() (known, keys int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs), len(q.unique)
}

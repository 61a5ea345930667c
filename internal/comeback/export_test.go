package comeback

// Kept returns how many expectations w has.
func (w *Waits) Kept() int { return len(w.of) }

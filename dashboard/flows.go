package dashboard

import (
	"hash/maphash"
	"slices"
	"strconv"
	"time"

	"github.com/taskpool-go/taskpool"
)

const maxFlows = 10 // in the table

// A flowView is a row of the table of flows.
type flowView struct {
	Key        string
	Name       string // "" for tasks without a flow
	Queued     int
	HeldBack   int
	Running    int
	OldestWait time.Duration
	AtLeast    bool // it may be longer
}

// flowSeed makes the keys of flows. Names cannot be keys, as two that are cut may be the same.
var flowSeed = maphash.MakeSeed()

// findFlows makes a row for each of the flows of which most tasks wait, tasks without a flow
// included, unless these are all that there is.
func (v *poolView) findFlows(w *watched, now time.Time) {
	all := w.pool.Flows(maxFlows + 1) // one more, to know whether there are more
	if !slices.ContainsFunc(all, func(f taskpool.FlowStats) bool { return f.Flow != "" }) {
		return
	}
	v.MoreFlows = len(all) > maxFlows
	for _, f := range all[:min(len(all), maxFlows)] {
		v.Flows = append(v.Flows, flowView{
			Key:        strconv.FormatUint(maphash.String(flowSeed, f.Flow), 36),
			Name:       cut(f.Flow, maxName),
			Queued:     f.Queued,
			HeldBack:   f.HeldBack,
			Running:    f.Running,
			OldestWait: f.OldestWait,
			AtLeast:    f.Queued > 0 && !v.Told && w.atLeast(now.Add(-f.OldestWait)), // with hooks it is known
		})
	}
}

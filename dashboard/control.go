package dashboard

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskpool-go/taskpool"
)

const (
	maxForm    = 4 << 10
	maxWorkers = 10_000 // that a slip of the finger may ask for
	maxRounds  = 1_000  // of looking for the tasks of a name
)

// errCanceled is the cause with which tasks are canceled.
var errCanceled = errors.New("dashboard: canceled by hand")

// A refusal is an answer to a request for a change that was not made.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// serveControl changes what the form asks for. Where it was sent by a page without
// a script, the answer leads back to the page.
func (d *Dashboard) serveControl(w http.ResponseWriter, r *http.Request) {
	if d.cfg.control == nil {
		answer(w, http.StatusForbidden, "the dashboard is read-only, unless it is made with WithControl")
		return
	}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		answer(w, http.StatusForbidden, err.Error())
		return
	}
	who, ok := agreed(w, r, d.cfg.control)
	if !ok {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		answer(w, http.StatusBadRequest, "the form cannot be read: "+err.Error())
		return
	}
	done, err := d.change(r, who)
	if err != nil {
		status := http.StatusConflict
		if refused, ok := err.(*refusal); ok {
			status = refused.status
		}
		answer(w, status, strings.TrimPrefix(err.Error(), "taskpool: "))
		return
	}
	d.snapshot(0) // so that the page shows a change at once
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Location", "./")
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	answer(w, http.StatusOK, done)
}

// change does what the form of r, which is who's, asks for, and says what it did.
func (d *Dashboard) change(r *http.Request, who string) (done string, err error) {
	form := r.PostForm
	id, _ := strconv.Atoi(form.Get("pool"))
	p := d.find(id)
	if p == nil {
		return "", &refusal{http.StatusNotFound, "pool must be the number of a pool, got " + strconv.Quote(form.Get("pool"))}
	}
	switch what := form.Get("do"); what {
	case "pause", "resume":
		if errors.Is(p.pool.Health(), taskpool.ErrClosed) {
			return "", taskpool.ErrClosed
		}
		done = "Resumed"
		if what == "pause" {
			p.pool.Pause()
			done = "Paused"
		} else {
			p.pool.Resume()
		}
	case "resize":
		n, err := strconv.Atoi(form.Get("workers"))
		if err != nil || n < 1 || n > maxWorkers {
			return "", &refusal{http.StatusBadRequest, fmt.Sprintf("workers must be from 1 to %d, got %q", maxWorkers, form.Get("workers"))}
		}
		switch err := p.pool.Resize(n); {
		case errors.Is(err, taskpool.ErrClosed):
			return "", err
		case err != nil:
			return "", &refusal{http.StatusBadRequest, err.Error()}
		}
		done = fmt.Sprintf("Resized to %d workers", n)
	case "cancel":
		t, err := p.named(form.Get("task"))
		if err != nil {
			return "", err
		}
		if !t.Handle.Cancel(errCanceled) {
			return "", &refusal{http.StatusNotFound, "the task has ended"}
		}
		done = fmt.Sprintf("Canceled task %d", t.ID)
	case "cancel-all":
		if form.Get("name") == "" {
			return "", &refusal{http.StatusBadRequest, "name must be that of tasks, got none"}
		}
		n, all := p.cancelAll(form.Get("name"))
		done = fmt.Sprintf("Canceled %s named %q", counted(n, "task"), form.Get("name"))
		if !all {
			done += ", among those that the page can list"
		}
	case "priority":
		t, err := p.named(form.Get("task"))
		if err != nil {
			return "", err
		}
		var pr taskpool.Priority
		if err := pr.UnmarshalText([]byte(form.Get("priority"))); err != nil {
			return "", &refusal{http.StatusBadRequest, fmt.Sprintf("priority must be high, medium, low or a whole number, got %q", form.Get("priority"))}
		}
		if !t.Handle.SetPriority(pr) {
			return "", &refusal{http.StatusNotFound, "the task has ended"}
		}
		done = fmt.Sprintf("Set task %d to priority %v", t.ID, pr)
	default:
		return "", &refusal{http.StatusBadRequest, "do must be pause, resume, resize, cancel, cancel-all or priority, got " + strconv.Quote(what)}
	}
	slog.Info("dashboard: "+strings.ToLower(done[:1])+done[1:], "pool", p.pool.Name(), "by", who, "remote", r.RemoteAddr)
	if who != "" {
		done += " by " + who
	}
	d.looking.Lock()
	defer d.looking.Unlock()
	p.done, p.doneAt = done, time.Now()
	return done, nil
}

// named returns the task with a number, if it is among those that the page looks at.
func (w *watched) named(number string) (taskpool.TaskInfo, error) {
	id, _ := strconv.ParseUint(number, 10, 64)
	all := w.tasks()
	at := slices.IndexFunc(all, func(t taskpool.TaskInfo) bool { return t.ID == id && !t.IsFunc() })
	if at < 0 {
		return taskpool.TaskInfo{}, &refusal{http.StatusNotFound, "task must be the number of a task that the page can list, got " + strconv.Quote(number)}
	}
	return all[at], nil
}

// tasks returns the tasks of w that have not ended, but of those that do not run the first only.
func (w *watched) tasks() []taskpool.TaskInfo {
	all := w.pool.Tasks(taskpool.StateRunning)
	for _, state := range []taskpool.State{taskpool.StateParked, taskpool.StateDelayed, taskpool.StateQueued} {
		all = append(all, w.pool.FirstTasks(maxScanned, state)...)
	}
	return all
}

// cancelAll cancels the tasks of a name, as the page shows it, and returns how many. As others
// move up when some are gone, it looks again until it finds none. It has seen all that wait
// unless too many others are before them.
func (w *watched) cancelAll(name string) (canceled int, all bool) {
	seen := make(map[uint64]bool) // those that run may take a while to end
	for range maxRounds {
		found := 0
		for _, t := range w.tasks() {
			if t.IsFunc() || cut(t.Name, maxName) != name || seen[t.ID] {
				continue
			}
			found++
			seen[t.ID] = true
			if t.Handle.Cancel(errCanceled) {
				canceled++
			}
		}
		if found == 0 {
			break
		}
	}
	s := w.pool.Stats()
	return canceled, s.Queued <= maxScanned && s.Delayed <= maxScanned && s.Parked <= maxScanned
}

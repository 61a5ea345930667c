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
		id, _ := strconv.ParseUint(form.Get("task"), 10, 64)
		s := p.pool.Stats()
		all := scan(p.pool, &s, taskpool.StateRunning, taskpool.StateParked, taskpool.StateDelayed)
		at := slices.IndexFunc(all, func(t taskpool.TaskInfo) bool { return t.ID == id && !t.IsFunc() })
		if at < 0 || !all[at].Handle.Cancel(errCanceled) {
			return "", &refusal{http.StatusNotFound, "task must be the number of a task that the page can list, got " + strconv.Quote(form.Get("task"))}
		}
		done = fmt.Sprintf("Canceled task %d", id)
	default:
		return "", &refusal{http.StatusBadRequest, "do must be pause, resume, resize or cancel, got " + strconv.Quote(what)}
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

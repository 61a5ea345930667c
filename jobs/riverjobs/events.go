package riverjobs

import (
	"errors"
	"slices"
	"sync"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/taskpool-go/taskpool/jobs"
	"github.com/taskpool-go/taskpool/jobs/engine"
)

// events tells the observers what came to pass. A slow observer makes no event get lost,
// and holds up nobody: events wait.
type events struct {
	reg *jobs.Registry

	mu     sync.Mutex      // protects the fields below; no user code is called with it
	ends   map[int64][]end // by job, in order: of failed attempts of which River has not told yet
	untold []jobs.Event
	told   chan struct{} // closed when nothing is left to tell; nil while nothing is
}

// An end is what a failed attempt came to. It is told when River has stored it: an
// observer may rely on it then, for instance that a unique key is free.
type end struct {
	attempt  int
	event    jobs.Event
	canceled *jobs.Event // of the job, after that; nil if it was not canceled since
}

// failed notes what a failed attempt came to.
func (s *events) failed(row *rivertype.JobRow, e jobs.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[row.ID] = append(s.ends[row.ID], end{attempt: row.Attempt, event: e})
}

// canceled tells that a job was canceled which waited, for its first attempt or another:
// then after what came before, which River may not have told yet.
func (s *events) canceled(row *rivertype.JobRow, e jobs.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ends := s.ends[row.ID]; len(ends) > 0 {
		ends[len(ends)-1].canceled = &e
		return
	}
	s.tellLocked(e)
}

// stored tells of an end that River has stored.
func (s *events) stored(e *river.Event) {
	attempt := e.Job.Attempt
	if e.Kind == river.EventKindJobInterrupted || e.Kind == river.EventKindJobSnoozed {
		attempt++ // River has refunded it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var is *end
	ends := s.ends[e.Job.ID]
	for len(ends) > 0 && ends[0].attempt <= attempt {
		is, ends = &ends[0], ends[1:]
		if is.attempt == attempt {
			break // a refunded attempt's number comes again
		}
		is = nil // River tells nothing of a job that it found taken from this process
	}
	if len(ends) > 0 {
		s.ends[e.Job.ID] = ends
	} else {
		delete(s.ends, e.Job.ID)
	}
	told := event(e, is)
	s.tellLocked(told)
	if is != nil && is.canceled != nil && told.State == jobs.StateRetrying {
		s.tellLocked(*is.canceled)
	}
}

// lost forgets the end of an attempt that River has not stored, as the job was another's by
// then or had settled.
func (s *events) lost(id int64, attempt int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[id] = slices.DeleteFunc(s.ends[id], func(is end) bool {
		if is.attempt == attempt && is.canceled != nil {
			s.tellLocked(*is.canceled)
		}
		return is.attempt == attempt
	})
	if len(s.ends[id]) == 0 {
		delete(s.ends, id)
	}
}

// event returns what to tell of an end that River has stored; is may be nil.
func event(e *river.Event, is *end) jobs.Event {
	if e.Kind == river.EventKindJobCompleted {
		return jobs.Event{Meta: meta(e.Job)}
	}
	var told jobs.Event
	if is != nil {
		told = is.event
	} else { // it is River who found that it failed
		told.Meta = meta(e.Job)
		if n := len(e.Job.Errors); n > 0 {
			told.Err = errors.New(e.Job.Errors[n-1].Error)
		}
	}
	// What was stored counts: a job that is to be retried may have been canceled before.
	switch e.Job.State {
	case rivertype.JobStateDiscarded:
		told.State = jobs.StateDiscarded
	case rivertype.JobStateCancelled:
		if told.Delay = 0; told.State != jobs.StateCanceled { // Cancel came too late for the attempt to know
			told = engine.Canceled(told.Meta, told.Err)
		}
	default:
		told.State = jobs.StateRetrying
	}
	return told
}

// follow tells of what River stores, until the channel is closed.
func (s *events) follow(stored <-chan *river.Event) {
	for e := range stored {
		s.stored(e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ends := range s.ends { // of jobs that were taken from this process
		for _, is := range ends {
			if is.canceled != nil {
				s.tellLocked(*is.canceled)
			}
		}
	}
	clear(s.ends)
}

func (s *events) tellLocked(e jobs.Event) {
	s.untold = append(s.untold, e)
	if s.told == nil {
		s.told = make(chan struct{})
		go s.tell()
	}
}

// tell tells the observers until nothing is left.
func (s *events) tell() {
	for {
		s.mu.Lock()
		untold := s.untold
		s.untold = nil
		if len(untold) == 0 {
			close(s.told)
			s.told = nil
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for _, e := range untold {
			engine.Tell(s.reg, e)
		}
	}
}

// allTold returns a channel that is closed when the observers have been told of all that
// has come to pass, nil if they have.
func (s *events) allTold() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told
}

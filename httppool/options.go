package httppool

import (
	"net/http"
	"time"

	"github.com/taskpool-go/taskpool/internal/option"
)

// pkg is what the errors of this package begin with.
const pkg option.Package = "httppool"

// An Option sets how a handler works; see [Handler].
type Option interface {
	apply(*config)
}

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

const defaultClientWait = time.Millisecond

// config is what the options set. It does not change.
type config struct {
	answer     func(http.ResponseWriter, *http.Request, Refusal)
	clientWait time.Duration
}

func newConfig(opts []Option) (config, error) {
	c := config{answer: answerInText, clientWait: defaultClientWait}
	if err := option.Apply(pkg, opts, func(o Option) { o.apply(&c) }); err != nil {
		return c, err
	}
	switch {
	case c.answer == nil:
		return c, pkg.Bad("WithAnswer: answer", "not be nil", "nil")
	case c.clientWait < 0:
		return c, pkg.Bad("WithClientWait: d", "not be negative", c.clientWait)
	}
	return c, nil
}

// WithAnswer has answer write the answers to requests that are refused, or left unanswered by
// their handler. The headers Retry-After and Connection are set before, as far as they belong
// there, and answer may change them; it should write the header with the status of the
// [Refusal], or with another. It runs outside the pool, after the task has settled, and should
// not read the body: it would wait for the client. Default: one line of text.
func WithAnswer(answer func(w http.ResponseWriter, r *http.Request, why Refusal)) Option {
	return optionFunc(func(c *config) { c.answer = answer })
}

// WithClientWait sets for how long a read of the body, or a write, may wait for the client
// before the task gives its slot back, which it then asks for again: as [taskpool.Block] does,
// but only if the wait is that long. A client that was slow has the slot given back at once,
// until it has proven to be fast: each byte read or written allows for 100 ns more, up to d. So
// a client that moves 10 MB/s, in reads and writes of up to 10 kB, costs its task no turn, and one
// that dribbles, on purpose or not, holds a slot for little more than d.
//
// When the task's context has ended, a read that waits so ends with its cause, and a write after a
// second more, or half the hang grace if that is less.
//
// The time counts for reads and for writes on their own. Zero: each read, and each write that
// net/http does not keep in a buffer, gives the slot back as soon as it waits. Default: 1 ms.
func WithClientWait(d time.Duration) Option {
	return optionFunc(func(c *config) { c.clientWait = d })
}

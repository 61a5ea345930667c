package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"
)

const (
	interval     = time.Second      // between two snapshots
	writeTimeout = 10 * time.Second // for one message to one client
	backlog      = 4                // messages that a client may be behind
	streamMost   = time.Hour        // then the client asks anew, and whether it may is decided anew
)

// A client is a browser that looks.
type client struct {
	packed   bool          // it gets messages packed
	messages chan sent     // of the stream; never closed
	dropped  chan struct{} // closed when it is no longer served
}

// A sent is a message, and what is sent of it to clients that get it packed.
type sent struct{ plain, packed []byte }

var (
	errClosed = errors.New("the dashboard is closed")
	errCrowd  = errors.New("too many clients")
)

// enter takes a place for a client, until exit.
func (d *Dashboard) enter(packed bool) (*client, error) {
	d.snapshot(interval)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, errClosed
	case d.streams >= d.cfg.maxClients:
		return nil, errCrowd
	}
	c := &client{packed, make(chan sent, backlog), make(chan struct{})}
	first := sent{plain: message(d.page.ids, d.parts)}
	if packed {
		first.packed = d.packer.pack(first.plain)
	}
	c.messages <- first
	d.streams++
	d.clients[c] = struct{}{}
	if d.stop == nil {
		d.stop = make(chan struct{})
		go d.sample(d.stop)
	}
	return c, nil
}

func (d *Dashboard) exit(c *client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.streams--
	d.dropLocked(c)
}

// dropLocked stops serving c, and the sampler if c was the last.
func (d *Dashboard) dropLocked(c *client) {
	if _, served := d.clients[c]; !served {
		return
	}
	delete(d.clients, c)
	close(c.dropped)
	if len(d.clients) == 0 {
		close(d.stop)
		d.stop, d.packer = nil, packer{}
	}
}

func (d *Dashboard) dropAllLocked() {
	for c := range d.clients {
		d.dropLocked(c)
	}
}

// sample is the goroutine that takes a snapshot each second for all clients, while
// there are any.
func (d *Dashboard) sample(stop chan struct{}) {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		if !d.tick(stop) {
			return
		}
		timer.Reset(interval)
	}
}

// tick takes a snapshot and sends what has changed. A panic, which can only be a mistake
// in this package, must not end a program that is merely looked at: then the clients are
// dropped, and when they come again another sampler is started.
func (d *Dashboard) tick(stop chan struct{}) (ok bool) {
	defer func() {
		if ok {
			return
		}
		slog.Error("dashboard: sampler panicked", "panic", recover())
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.stop == stop {
			d.dropAllLocked()
		}
	}()
	d.snapshot(0)
	return true
}

// sendLocked sends the parts of the snapshot that differ from those before it.
func (d *Dashboard) sendLocked(before map[string]string) {
	var changed []string
	for _, id := range d.page.ids {
		if d.parts[id] != before[id] {
			changed = append(changed, id)
		}
	}
	m := sent{plain: message(changed, d.parts)}
	for c := range d.clients {
		if c.packed && m.packed == nil {
			m.packed = d.packer.pack(m.plain)
		}
		select {
		case c.messages <- m:
		default: // it does not keep up; it will connect again
			d.dropLocked(c)
		}
	}
}

// message returns an event of the stream: the parts with the given ids, as a JSON
// array of strings.
func message(ids []string, parts map[string]string) []byte {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = parts[id]
	}
	var b bytes.Buffer
	b.WriteString("data: ")
	e := json.NewEncoder(&b) // which ends with a newline, and has no other
	e.SetEscapeHTML(false)
	_ = e.Encode(all) // strings can be encoded
	b.WriteByte('\n')
	return b.Bytes()
}

// serveEvents is the stream.
func (d *Dashboard) serveEvents(w http.ResponseWriter, r *http.Request) {
	packed := acceptsGzip(r)
	c, err := d.enter(packed)
	if err != nil {
		w.Header().Set("Retry-After", "10")
		answer(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	defer d.exit(c)

	rc := http.NewResponseController(w)
	// The server's ReadTimeout would end the request, as its end is noticed by reading.
	_ = rc.SetReadDeadline(time.Time{})
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx
	header.Set("Vary", "Accept-Encoding")
	var end gzipEnd
	if packed {
		header.Set("Content-Encoding", "gzip")
	}
	write := func(b []byte) error {
		// Its WriteTimeout is for the whole response, this for each write. Where
		// neither is supported, there is none.
		if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return rc.Flush()
	}
	tell := func(m sent) error {
		if !packed {
			return write(m.plain)
		}
		end.add(m.plain)
		return write(m.packed)
	}
	most := time.NewTimer(streamMost)
	defer most.Stop()
	first := sent{plain: []byte("retry: 2000\n\n")}
	if packed {
		first.packed = append(bytes.Clone(gzipHeader), new(packer).pack(first.plain)...)
	}
	for err := tell(first); err == nil; {
		select {
		case <-r.Context().Done():
			return
		case <-c.dropped:
			err = io.EOF
		case <-most.C:
			err = io.EOF
		case m := <-c.messages:
			err = tell(m)
		}
		if err == io.EOF && packed {
			_ = write(end.bytes())
		}
	}
}

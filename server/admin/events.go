package admin

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// MaxViewers is how many streams of events there are at a time.
	MaxViewers = 32
	// keepAlive is after how long a comment is sent where nothing else is, so that nobody
	// in between takes the connection for dead.
	keepAlive = 15 * time.Second
	// viewerPatience is for how long one is waited for who takes nothing.
	viewerPatience = 10 * time.Second
	// viewersWait is when to ask again where there are too many.
	viewersWait = "10"
)

var (
	errCrowded  = errors.New("too many look at this already: close other windows of the dashboard")
	errStopping = errors.New("the module is stopping")
)

// hub hands what is new to all who look. It works only while somebody does.
type hub struct {
	look func(context.Context) *look
	done chan struct{} // closed by close

	mu      sync.Mutex
	viewers map[chan *look]struct{}
	stop    context.CancelFunc // of run, nil where it does not
	closed  bool
}

func (h *hub) init(see func(context.Context) *look) {
	h.look, h.done, h.viewers = see, make(chan struct{}), make(map[chan *look]struct{})
}

// join has what is new put into the channel until leave is called: always the newest, so
// that who is slow misses what was in between.
func (h *hub) join() (news chan *look, leave func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, nil, errStopping
	case len(h.viewers) >= MaxViewers:
		return nil, nil, errCrowded
	}
	news = make(chan *look, 1)
	h.viewers[news] = struct{}{}
	if h.stop == nil {
		var ctx context.Context
		ctx, h.stop = context.WithCancel(context.Background()) // it outlives who was the first
		go h.run(ctx)
	}
	return news, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.viewers, news)
		if len(h.viewers) == 0 && h.stop != nil {
			h.stop()
			h.stop = nil
		}
	}, nil
}

// run looks each second, until ctx ends.
func (h *hub) run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last *look
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := h.look(ctx)
		if !now.changed(last) {
			continue
		}
		last = now
		h.mu.Lock()
		if ctx.Err() != nil { // another one runs, and may have looked later
			h.mu.Unlock()
			return
		}
		for news := range h.viewers {
			select {
			case <-news: // not taken yet, and old
			default:
			}
			news <- now // there is room: nobody else puts anything in
		}
		h.mu.Unlock()
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
}

// serveEvents streams events (HTML Living Standard, section 9.2).
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect them
	if r.Method == http.MethodHead {
		return
	}
	news, leave, err := s.hub.join()
	if err != nil {
		w.Header().Set("Retry-After", viewersWait)
		writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	defer leave()
	v := viewer{w: w, rc: http.NewResponseController(w)}
	if v.write([]byte("retry: 3000\n")) != nil || v.show(s.looker.look(r.Context())) != nil {
		return
	}
	idle := time.NewTimer(keepAlive)
	defer idle.Stop()
	for {
		select {
		case now := <-news:
			err = v.show(now)
		case <-idle.C:
			err = v.send([]byte(": nothing new\n\n"))
		case <-r.Context().Done():
			return
		case <-s.hub.done:
			return
		}
		if err != nil {
			return
		}
		idle.Reset(keepAlive)
	}
}

// viewer is one who looks at events.
type viewer struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	last *look
}

// show sends an event where there is something new.
func (v *viewer) show(now *look) error {
	if !now.changed(v.last) {
		return nil
	}
	data := now.brief
	if v.last == nil || v.last.history != now.history {
		data = now.whole()
	}
	v.last = now
	return v.send(bytes.Join([][]byte{[]byte("event: state\ndata: "), data, []byte("\n\n")}, nil)) // JSON has no line breaks
}

// send writes and sends.
func (v *viewer) send(text []byte) error {
	if err := v.write(text); err != nil {
		return err
	}
	return v.rc.Flush()
}

// write bounds how long it takes.
func (v *viewer) write(text []byte) error {
	_ = v.rc.SetWriteDeadline(time.Now().Add(viewerPatience)) // not every writer has one
	_, err := v.w.Write(text)
	return err
}

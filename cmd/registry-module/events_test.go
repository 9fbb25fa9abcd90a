package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// deadlines is an answer that notes how long its writes may take.
type deadlines struct {
	*httptest.ResponseRecorder
	until   time.Time
	unbound int // writes and flushes without a new deadline
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.until = t
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	d.count()
	return d.ResponseRecorder.Write(p)
}

func (d *deadlines) FlushError() error {
	d.count()
	return nil
}

func (d *deadlines) count() {
	if d.until.IsZero() {
		d.unbound++
	}
	d.until = time.Time{}
}

var _ http.ResponseWriter = (*deadlines)(nil)

// A client that takes nothing does not hold up what is told to him for ever.
func TestEventsHaveDeadlines(t *testing.T) {
	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	out := newEvents(w)
	out.flush()
	if err := out.writeAny(contentEvent{End: true}); err != nil {
		t.Fatal(err)
	}
	out.flush()
	if w.unbound > 0 || w.Body.Len() == 0 {
		t.Errorf("%d writes of %d bytes can take for ever", w.unbound, w.Body.Len())
	}
}

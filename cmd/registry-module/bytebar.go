package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// byteBar shows how far something is that is counted in bytes: a bar on a terminal, a line
// now and then elsewhere.
type byteBar struct {
	out  io.Writer
	now  func() time.Time
	live bool
	last time.Time

	mu  sync.Mutex // guards what follows
	bar *progressbar.ProgressBar
}

// linesEvery is how often there is a line where there is no terminal.
const linesEvery = 10 * time.Second

func newByteBar(out io.Writer, now func() time.Time) *byteBar {
	return &byteBar{out: out, now: now, live: isTerminal(out), last: now()}
}

// set shows bytes of total, which is not positive where it is not known, with a short
// text beside the bar, or a line.
func (d *byteBar) set(bytes, total int64, short string, line func() string) {
	if !d.live {
		if now := d.now(); now.Sub(d.last) >= linesEvery {
			d.last = now
			_, _ = fmt.Fprintln(d.out, line())
		}
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if total <= 0 {
		total = -1 // not known
	}
	if d.bar == nil {
		d.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(d.out),
			progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionSetWidth(28),
			progressbar.OptionSetSpinnerChangeInterval(0), // which would need a goroutine that nothing ends
			progressbar.OptionThrottle(100*time.Millisecond))
	}
	if total > 0 {
		d.bar.ChangeMax64(max(total, bytes)) // what there is changes meanwhile
	}
	d.bar.Describe(short)
	_ = d.bar.Set64(bytes) // it is for looks only
}

// close ends the line of the bar.
func (d *byteBar) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bar != nil {
		_, _ = fmt.Fprintln(d.out)
		d.bar = nil
	}
}

// Write puts lines of a log in the place of the bar, which goes on below. It implements
// io.Writer.
func (d *byteBar) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bar != nil {
		_ = d.bar.Clear() // it is for looks only
	}
	return d.out.Write(p)
}

// takeLog puts what logTo has in the place of the bar, if there is to be one, until giveBack
// is called.
func (d *byteBar) takeLog(logTo func(io.Writer)) (giveBack func()) {
	if !d.live || logTo == nil {
		return func() {}
	}
	logTo(d)
	return func() { logTo(d.out) }
}

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/opencontainers/go-digest"
	"golang.org/x/term"

	"registry-module/seed"
)

// maxBars is how many layers have a bar of their own at a time: with that for all together
// they fit on the smallest terminals.
const maxBars = 8

// seedDisplay shows how far a job is: bars on a terminal, for layers and for all together,
// and elsewhere a line for each image, and now and then one for all.
type seedDisplay struct {
	out  io.Writer
	now  func() time.Time
	last time.Time // when there was a line for all

	bars   progress.Writer // nil where it is no terminal
	done   chan struct{}   // closed when bars do not draw any more
	all    *progress.Tracker
	layers map[digest.Digest]*progress.Tracker
	whole  bool // all images are there
}

func newSeedDisplay(out io.Writer, now func() time.Time) *seedDisplay {
	d := &seedDisplay{out: out, now: now, last: now()}
	if isTerminal(out) {
		width, _, err := term.GetSize(int(out.(*os.File).Fd()))
		if err != nil {
			width = 80
		}
		d.draw(width)
	}
	return d
}

// draw begins to draw bars, width characters wide, until close.
func (d *seedDisplay) draw(width int) {
	d.layers = make(map[digest.Digest]*progress.Tracker)
	d.bars = progress.NewWriter()
	d.bars.SetOutputWriter(d.out)
	d.bars.SetTerminalWidth(width)
	d.bars.SetMessageLength(min(44, max(width/3, 16)))
	d.bars.SetTrackerLength(min(28, max(width/5, 8)))
	d.bars.SetUpdateFrequency(200 * time.Millisecond)
	style := progress.StyleDefault
	style.Visibility.ETA, style.Visibility.Speed = true, true
	style.Options.SpeedSuffix = "/s"
	style.Options.ETAString = "left"
	style.Options.TimeInProgressPrecision = time.Second
	style.Options.ErrorString = "ended"
	d.bars.SetStyle(style)
	d.bars.SetPinnedMessages("asking the remotes what there is ...")
	d.done = make(chan struct{})
	go func() {
		defer close(d.done)
		d.bars.Render()
	}()
}

// sizes are numbers of bytes as everywhere else here.
var sizes = progress.Units{Formatter: sizeText}

func (d *seedDisplay) show(p seed.Progress) {
	line := ""
	if p.Done != nil {
		line = doneText(*p.Done)
	}
	if d.bars != nil {
		if line != "" {
			d.bars.Log("%s", line)
		}
		d.showBars(p)
		return
	}
	if line != "" {
		_, _ = fmt.Fprintln(d.out, line) // it is for looks only
	}
	if now := d.now(); now.Sub(d.last) >= linesEvery {
		d.last = now
		_, _ = fmt.Fprintln(d.out, seedProgressText(p))
	}
}

// showBars moves the bars.
func (d *seedDisplay) showBars(p seed.Progress) {
	d.bars.SetPinnedMessages(seedProgressText(p))
	d.whole = p.Failed == 0 && p.Images == p.TotalImages
	// What was there before would make the rate look better than it is.
	toFetch := max(p.TotalBytes-p.Bytes+p.Fetched, 1)
	if d.all == nil {
		d.all = &progress.Tracker{Message: "all together", Total: toFetch, Units: sizes, AutoStopDisabled: true}
		d.bars.AppendTracker(d.all)
	}
	d.all.UpdateTotal(toFetch)
	d.all.SetValue(min(p.Fetched, toFetch))
	active := make(map[digest.Digest]bool)
	for _, b := range p.Active {
		t := d.layers[b.Digest]
		if t == nil {
			if len(d.layers) >= maxBars {
				continue
			}
			t = &progress.Tracker{
				Message: printable(b.Image) + " " + shortDigest(b.Digest.String()), Total: max(b.Size, 1), Units: sizes,
				RemoveOnCompletion: true, AutoStopDisabled: true,
			}
			d.layers[b.Digest] = t
			d.bars.AppendTracker(t)
		}
		active[b.Digest] = true
		t.SetValue(b.Bytes)
	}
	for dgst, t := range d.layers {
		if !active[dgst] {
			t.MarkAsDone()
			delete(d.layers, dgst)
		}
	}
}

// Write puts lines of a log above the bars. It implements io.Writer.
func (d *seedDisplay) Write(p []byte) (int, error) {
	d.bars.Log("%s", strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// takeLog puts what logTo has above the bars, if there are any, until giveBack is called.
func (d *seedDisplay) takeLog(logTo func(io.Writer)) (giveBack func()) {
	if d.bars == nil || logTo == nil {
		return func() {}
	}
	logTo(d)
	return func() { logTo(d.out) }
}

// doneText is a line about an image that has come to its end.
func doneText(i seed.SeededImage) string {
	text := fmt.Sprintf("%s %s", i.State, printable(i.Image))
	switch {
	case i.Error != "":
		text += ": " + printable(oneLine(i.Error))
	case i.State == seed.Seeded:
		text += fmt.Sprintf(", %s fetched", sizeText(i.Fetched))
	}
	return text
}

// seedProgressText is a line about how far a job is.
func seedProgressText(p seed.Progress) string {
	text := fmt.Sprintf("%d of %s, %s of %s, %s fetched", p.Images, quantity(p.TotalImages, "image", "images"),
		sizeText(p.Bytes), sizeText(p.TotalBytes), sizeText(p.Fetched))
	if p.Failed > 0 {
		text += fmt.Sprintf(", %d failed", p.Failed)
	}
	return text
}

// close ends the display.
func (d *seedDisplay) close() {
	if d.bars == nil {
		return
	}
	for _, t := range d.layers {
		t.MarkAsDone()
	}
	switch {
	case d.all == nil:
	case d.whole:
		d.all.MarkAsDone()
	default:
		d.all.MarkAsErrored()
	}
	d.bars.SetPinnedMessages()
	for again := time.NewTicker(10 * time.Millisecond); ; {
		d.bars.Stop() // which it does not notice who has not begun yet
		select {
		case <-d.done:
			again.Stop()
			return
		case <-again.C:
		}
	}
}

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/opencontainers/go-digest"

	"registry-module/seed"
)

// printPlan prints what a job comes to.
func printPlan(out io.Writer, p seed.Plan) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "IMAGE\tPLATFORMS\tLAYERS\tATTACHED\tSIZE\tTO FETCH\n")
	for _, i := range p.Images {
		if i.Error != "" {
			fmt.Fprintf(w, "%s\t-\t-\t-\t-\tfails\n", printable(i.Image))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", printable(i.Image), platformsText(i.Platforms, 3), i.Layers, i.Attached, sizeText(i.Size), sizeText(i.Fetch))
	}
	_ = w.Flush() // to a Builder
	for _, i := range p.Images {
		notes(&b, i.Image, i.From, i.Error, i.Warning)
	}
	for _, pattern := range p.Prune {
		fmt.Fprintf(&b, "unpins %s\n", printable(pattern))
	}
	fmt.Fprintf(&b, "%s, %s, %s: %s there, %s to fetch; it takes %s more of the disk\n",
		quantity(len(p.Images), "image", "images"), quantity(p.Blobs, "blob", "blobs"), sizeText(p.Size),
		sizeText(p.Present), sizeText(p.Fetch), sizeText(p.Disk))
	of := ""
	if p.Limit > 0 {
		of = " of " + sizeText(p.Limit)
	}
	if p.Fits {
		fmt.Fprintf(&b, "it fits: what is pinned takes %s%s then\n", sizeText(p.Pinned), of)
	} else {
		fmt.Fprintf(&b, "it does not fit: what is pinned would take %s%s\n", sizeText(p.Pinned), of)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// notes adds what is to be said of an image.
func notes(b *strings.Builder, image, from, failure, warning string) {
	name := printable(image)
	if from != "" {
		name += " (" + printable(from) + ")"
	}
	if failure != "" {
		fmt.Fprintf(b, "failed: %s: %s\n", name, printable(failure))
	}
	if warning != "" {
		fmt.Fprintf(b, "warning: %s: %s\n", name, printable(warning))
	}
}

// printSeeded prints what has come of a job.
func printSeeded(out io.Writer, r seed.Report) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "IMAGE\tPLATFORMS\tATTACHED\tSIZE\tFETCHED\tPINNED\tSTATE\n")
	for _, i := range r.Images {
		pinned := "no"
		if i.Pinned {
			pinned = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", printable(i.Image), platformsText(i.Platforms, 3), i.Attached, sizeText(i.Size), sizeText(i.Fetched), pinned, i.State)
	}
	_ = w.Flush() // to a Builder
	for _, i := range r.Images {
		notes(&b, i.Image, i.From, i.Error, i.Warning)
	}
	for _, pattern := range r.Pruned {
		fmt.Fprintf(&b, "unpinned %s\n", printable(pattern))
	}
	if r.Warning != "" {
		fmt.Fprintf(&b, "warning: %s\n", printable(r.Warning))
	}
	fmt.Fprintf(&b, "%s, %s, of which %s came in %v\n",
		quantity(len(r.Images), "image", "images"), sizeText(r.Size), sizeText(r.Fetched), r.Took.Round(10*time.Millisecond))
	_, err := io.WriteString(out, b.String())
	return err
}

// seedDisplay shows how far a job is: bars on a terminal, lines elsewhere.
type seedDisplay struct {
	out   io.Writer
	now   func() time.Time
	last  time.Time
	began time.Time

	bars    progress.Writer // nil where there is no terminal
	stopped chan struct{}
	total   *progress.Tracker
	blobs   map[digest.Digest]*progress.Tracker
}

// maxBars is how many blobs have a bar: so many fit on the smallest terminal.
const maxBars = 12

func newSeedDisplay(out io.Writer, now func() time.Time) *seedDisplay {
	d := &seedDisplay{out: out, now: now, last: now(), began: now()}
	if isTerminal(out) {
		d.start()
	}
	return d
}

// start begins to draw bars.
func (d *seedDisplay) start() {
	d.blobs = make(map[digest.Digest]*progress.Tracker)
	w := progress.NewWriter()
	w.SetOutputWriter(d.out)
	w.SetAutoStop(false)
	w.SetTrackerLength(20)
	w.SetMessageLength(44)
	w.SetUpdateFrequency(200 * time.Millisecond)
	w.SetSortBy(progress.SortByNone)
	w.Style().Visibility.ETA = true
	w.Style().Visibility.Speed = true
	w.Style().Visibility.Time = false
	d.total = &progress.Tracker{Message: "finding out what is wanted", Units: progress.UnitsBytes, AutoStopDisabled: true}
	w.AppendTracker(d.total)
	d.bars, d.stopped = w, make(chan struct{})
	go func() {
		defer close(d.stopped)
		w.Render()
	}()
}

// show shows p.
func (d *seedDisplay) show(p seed.Progress) {
	if d.bars != nil {
		d.draw(p)
	} else {
		d.write(p)
	}
}

// draw moves the bars.
func (d *seedDisplay) draw(p seed.Progress) {
	d.total.UpdateMessage(fmt.Sprintf("%d of %s, %d failed", p.Images, quantity(p.TotalImages, "image", "images"), p.Failed))
	d.total.UpdateTotal(max(p.TotalBytes, 1))
	d.total.SetValue(p.Bytes)
	active := make(map[digest.Digest]bool, len(p.Active))
	for _, a := range p.Active {
		active[a.Digest] = true
		bar := d.blobs[a.Digest]
		if bar == nil {
			if len(d.blobs) >= maxBars {
				continue
			}
			bar = &progress.Tracker{
				Message: shortDigest(a.Digest.String()) + " " + printable(a.Image), Units: progress.UnitsBytes,
				Total: max(a.Size, 1), AutoStopDisabled: true, RemoveOnCompletion: true,
			}
			d.blobs[a.Digest] = bar
			d.bars.AppendTracker(bar)
		}
		bar.SetValue(a.Bytes)
	}
	for dgst, bar := range d.blobs {
		if !active[dgst] {
			bar.MarkAsDone()
			delete(d.blobs, dgst)
		}
	}
	if p.Done != nil && p.Done.State == seed.Failed {
		d.bars.Log("%s", doneText(*p.Done))
	}
}

// write writes a line for each image that is done, and one now and then.
func (d *seedDisplay) write(p seed.Progress) {
	now := d.now()
	if p.Done != nil {
		_, _ = fmt.Fprintln(d.out, doneText(*p.Done)) // it is for looks only
	}
	if now.Sub(d.last) < linesEvery {
		return
	}
	d.last = now
	rate := ""
	if took := now.Sub(d.began).Seconds(); took > 0 && p.Fetched > 0 {
		perSecond := float64(p.Fetched) / took
		left := time.Duration(float64(p.TotalBytes-p.Bytes) / perSecond * float64(time.Second))
		rate = fmt.Sprintf(", %s/s, %v left", sizeText(int64(perSecond)), left.Round(time.Second))
	}
	_, _ = fmt.Fprintf(d.out, "%d of %s, %s of %s%s\n", p.Images, quantity(p.TotalImages, "image", "images"),
		sizeText(p.Bytes), sizeText(p.TotalBytes), rate) // it is for looks only
}

// doneText is a line about an image that is done.
func doneText(i seed.SeededImage) string {
	text := fmt.Sprintf("%s: %s, %s fetched of %s", printable(i.Image), i.State, sizeText(i.Fetched), sizeText(i.Size))
	if i.Error != "" {
		text = fmt.Sprintf("%s: %s: %s", printable(i.Image), i.State, printable(i.Error))
	}
	return text
}

// close ends the display.
func (d *seedDisplay) close() {
	if d.bars == nil {
		return
	}
	for _, bar := range d.blobs {
		bar.MarkAsDone()
	}
	d.total.MarkAsDone()
	d.bars.Stop()
	<-d.stopped
}

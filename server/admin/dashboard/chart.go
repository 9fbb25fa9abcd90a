package dashboard

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"registry-module/server/admin"
)

// The chart, in units of its own: bars of bytes above, and the ratio below.
const (
	maxBins     = 36
	chartWidth  = 720.0
	bytesTop    = 8.0
	bytesHeight = 120.0
	ratioTop    = 152.0
	ratioHeight = 40.0
)

// chart is traffic over time: as attributes of SVG elements, as a table and in a sentence.
type chart struct {
	Has            bool
	Bins           []bin
	Ratio          string // points of a polyline
	Most, From, To string
	Text           string
}

// bin is the traffic of some time. What of Served was not Fetched was saved.
type bin struct {
	Key                           string
	X, Width                      string
	FetchedY, FetchedHeight       string
	SavedY, SavedHeight           string
	At                            moment
	Served, Fetched, Saved, Ratio string
}

// binWidths are how long the time of a bin can be, in seconds.
var binWidths = []int64{60, 5 * 60, 15 * 60, 30 * 60, 60 * 60, 2 * 60 * 60, 6 * 60 * 60, 24 * 60 * 60}

// bins puts samples together: times that begin at multiples of one length, without gaps, as
// short as they can be where there are to be no more than maxBins. The time of a bin is that
// of its begin.
func bins(history []admin.Sample, now time.Time) (all []admin.Sample) {
	begin := func(s admin.Sample) int64 { return s.At.Unix() - int64(s.Seconds) }
	first, last, longest := int64(math.MaxInt64), now.Unix(), int64(1)
	for _, s := range history {
		first, last, longest = min(first, begin(s)), max(last, begin(s)), max(longest, int64(s.Seconds))
	}
	width := binWidths[len(binWidths)-1]
	for _, w := range slices.Backward(binWidths) {
		if w >= longest && last/w-first/w < maxBins {
			width = w
		}
	}
	from := max(first/width, last/width-maxBins+1)
	for i := from; i <= last/width; i++ {
		all = append(all, admin.Sample{At: time.Unix(i*width, 0), Seconds: int(width)})
	}
	for _, s := range history {
		i := begin(s)/width - from
		if i < 0 {
			continue // in a history that is longer than a chart can be
		}
		all[i].Hits += s.Hits
		all[i].Misses += s.Misses
		all[i].Stale += s.Stale
		all[i].Served += s.Served
		all[i].Fetched += s.Fetched
	}
	return all
}

func (v *view) chart(history []admin.Sample) chart {
	if len(history) == 0 {
		return chart{Text: v.word("chart.empty")}
	}
	all := bins(history, v.now)
	var sum admin.Traffic
	most := int64(1)
	for _, b := range all {
		sum.Hits += b.Hits
		sum.Misses += b.Misses
		sum.Stale += b.Stale
		sum.Served += b.Served
		sum.Fetched += b.Fetched
		most = max(most, b.Served, b.Fetched)
	}
	c := chart{Has: true, Most: size(most)}
	width := chartWidth / float64(len(all))
	height := func(n int64) float64 { return float64(max(n, 0)) / float64(most) * bytesHeight }
	var points []string
	for i, b := range all {
		x := float64(i) * width
		fetched, saved := height(b.Fetched), height(b.Served-b.Fetched)
		fromCache, answers := answered(b.Traffic)
		at := v.at(b.At)
		c.Bins = append(c.Bins, bin{
			Key: at.ISO, At: at, X: units(x + width*0.1), Width: units(width * 0.8),
			FetchedY: units(bytesTop + bytesHeight - fetched), FetchedHeight: units(fetched),
			SavedY: units(bytesTop + bytesHeight - fetched - saved), SavedHeight: units(saved),
			Served: size(b.Served), Fetched: size(b.Fetched), Saved: size(max(b.Served-b.Fetched, 0)),
			Ratio: percent(fromCache, answers),
		})
		if answers > 0 {
			y := ratioTop + ratioHeight*(1-float64(fromCache)/float64(answers))
			points = append(points, units(x+width*0.5)+","+units(y))
		}
	}
	if len(points) == 1 { // a line of one point is not seen
		_, y, _ := strings.Cut(points[0], ",")
		points = []string{"0," + y, units(chartWidth) + "," + y}
	}
	c.Ratio = strings.Join(points, " ")
	c.From, c.To = c.Bins[0].At.minute(), v.Time.minute()
	fromCache, answers := answered(sum)
	c.Text = v.word("chart.text", c.From, c.To, size(sum.Served), size(sum.Fetched), percent(fromCache, answers))
	return c
}

// units is a length with one digit after the point.
func units(f float64) string {
	return strconv.FormatFloat(math.Floor(f*10+0.5)/10, 'f', -1, 64)
}

package dashboard

import (
	"cmp"
	"strings"
	"time"

	"registry-module/server/admin"
)

// view is all that the page shows, as texts. The script makes the same of the JSON of a
// state, with the same names in lower case.
type view struct {
	words vocabulary
	now   time.Time

	Words                  []entry
	Host, Version          string
	Started, Time          moment
	Verdict, Tone          string
	Notes                  []note
	Offline, OfflineReason string
	OfflineUntil           moment
	Mode                   string
	Tiles                  tiles
	Chart                  chart
	Remotes                []remoteView
	Downloads              []downloadView
	DownloadsMore          string
	Problems               []problemView
	Disk                   diskView
	Config                 configView
	Seed                   seedView
	Images                 imagesView
	// Actions tells whether there are buttons. Removal is the image that is to be removed
	// once that is confirmed, and Said what has become of an action.
	Actions              bool
	Removal, RemovalName string
	Said, SaidTone       string
	Blank                blank
}

// blank are rows without anything in them, from which the script makes new ones.
type blank struct {
	Note     note
	Remote   remoteView
	Download downloadView
	Problem  problemView
	Bin      bin
	Image    imageView
}

// note is something that is to be looked at now, or known.
type note struct{ Key, Tone, Text, Hint string }

// Tones are good, warn, bad, and info for what is neither.
const (
	good = "good"
	warn = "warn"
	bad  = "bad"
	info = "info"
)

type tiles struct {
	Hits, HitsOf           string
	Saved, SavedOf         string
	Downloads, DownloadsAt string
	Disk, DiskOf           string
	Images                 string
	Remotes, RemotesTone   string
}

type remoteView struct {
	Key, Host                 string
	State, Tone, Reason       string
	Since, Next               moment
	HasNext                   bool
	Fetched, Served, Requests string
}

type problemView struct {
	Key, Text, Hint, Times string
	At, First              moment
	Many                   bool
}

// bar is a progress or meter element. Value is -1 for a progress that is not known.
type bar struct{ Value, Max int64 }

// Known tells whether there is a value.
func (b bar) Known() bool { return b.Value >= 0 }

type downloadView struct {
	Key, Image, Digest, Remote string
	Bar                        bar
	Percent, Have, Rate, Left  string
	Clients, Ahead             string
	State, Tone                string
	Begun                      moment
}

type diskView struct {
	State, Tone                       string
	Used, Limit, Free, Reserve, Total string
	Kept, Evicted                     string
	UsedBar, DiskBar                  bar
	HasLimit, HasTotal                bool
	UsedText, DiskText                string
}

type configView struct {
	Source, State, Tone string
	Loaded              moment
}

type seedView struct {
	Has               bool
	File, State, Tone string
	Last, Next        moment
	Images            string
}

// maxDownloads is how many downloads are shown: more are not read, but counted.
const maxDownloads = 25

func newView(words vocabulary, s admin.State) *view {
	v := &view{words: words, now: s.Now, Words: words.entries()}
	v.Host, v.Version = clean(s.Host, maxText), clean(s.Version, maxText)
	v.Started, v.Time = v.at(s.Started), v.at(s.Now)
	v.Actions, v.Blank.Image.Actions = s.Actions, s.Actions
	v.Blank.Download.Bar = bar{-1, 1}
	v.Blank.Bin = bin{X: "0", Width: "0", FetchedY: "0", FetchedHeight: "0", SavedY: "0", SavedHeight: "0"}
	v.offline(s.Offline)
	for _, r := range s.Remotes {
		v.Remotes = append(v.Remotes, v.remote(r))
	}
	for i, d := range s.Downloads {
		if i < maxDownloads {
			v.Downloads = append(v.Downloads, v.download(d))
		}
	}
	if more := max(s.AllDownloads, len(s.Downloads)) - len(v.Downloads); more > 0 {
		v.DownloadsMore = v.word("download.more", v.number(int64(more), "downloads"))
	}
	for _, p := range s.Problems {
		v.Problems = append(v.Problems, problemView{
			Key: v.at(p.First).ISO + " " + p.Text, Text: clean(p.Text, maxText), Hint: clean(p.Hint, maxText),
			Times: v.number(int64(p.Times), "times"), At: v.at(p.At), First: v.at(p.First), Many: p.Times > 1,
		})
	}
	v.disk(s.Disk)
	v.config(s.Config)
	v.seed(s.Seed)
	v.tiles(s)
	v.Chart = v.chart(s.History)
	v.notes(s)
	v.verdict(s)
	return v
}

func (v *view) word(key string, args ...string) string  { return v.words.word(key, args...) }
func (v *view) number(n int64, what string) string      { return v.words.number(n, what) }
func (v *view) at(t time.Time) moment                   { return v.words.at(t, v.now, none) }
func (v *view) atOr(t time.Time, unknown string) moment { return v.words.at(t, v.now, v.word(unknown)) }

func (v *view) offline(o admin.Offline) {
	v.Mode = o.Mode
	v.Offline = v.word("offline." + o.Mode)
	v.OfflineReason = clean(o.Reason, maxText)
	v.OfflineUntil = v.at(o.Until)
}

func (v *view) remote(r admin.Remote) remoteView {
	to := remoteView{
		Key: r.Host, Host: clean(r.Host, maxText), Tone: good,
		State:  cmp.Or(v.word("remote."+r.State), clean(r.State, maxText)),
		Reason: clean(r.Reason, maxText),
		Since:  v.at(r.Since), Next: v.at(r.NextTry), HasNext: r.NextTry.Year() > 1,
		Fetched: size(r.Fetched), Served: size(r.Served), Requests: count(r.Requests),
	}
	switch {
	case r.State == "held":
		to.Tone = info
	case !r.Good:
		to.Tone = warn
	case r.State == "unknown":
		to.Tone = info
		to.Reason = cmp.Or(to.Reason, v.word("remote.idle"))
	default:
		to.Reason = cmp.Or(to.Reason, v.word("remote.good"))
	}
	return to
}

// silence is how long nothing has to come before that is worth telling.
const silence = 10 * time.Second

func (v *view) download(d admin.Download) downloadView {
	to := downloadView{
		Key: d.Digest + " " + d.Image, Image: clean(d.Image, maxText), Digest: short(d.Digest), Remote: clean(d.Remote, maxText),
		Bar: bar{-1, 1}, Percent: "", Have: v.word("download.have", size(d.Have)),
		Rate: v.word("rate", size(d.Rate)), Clients: v.number(int64(d.Clients), "clients"),
		State: v.word("download.running"), Tone: good, Begun: v.at(d.Begun),
	}
	if d.Size > 0 {
		to.Bar = bar{min(d.Have, d.Size), d.Size}
		to.Percent = percent(d.Have, d.Size)
		to.Have = v.word("download.of", size(d.Have), size(d.Size))
		if d.Rate > 0 && d.Have < d.Size {
			to.Left = v.word("download.left", duration(time.Duration((d.Size-d.Have)/d.Rate+1)*time.Second))
		}
	}
	if d.Clients == 0 {
		to.Clients = v.word("clients.0")
	}
	if d.Ahead {
		to.Ahead = v.word("download.ahead")
	}
	silent := v.now.Sub(d.LastByte)
	switch {
	case d.Failure != "":
		to.State, to.Tone = v.word("download.failure", clean(d.Failure, maxText)), warn
	case d.Waiting:
		to.State, to.Tone = v.word("download.waiting"), info
	case d.LastByte.Year() > 1 && silent >= silence:
		to.State, to.Tone = v.word("download.silent", duration(silent)), warn
	}
	return to
}

func (v *view) disk(d admin.Disk) {
	unknown := v.word("unknown")
	to := diskView{State: v.word("disk.unknown"), Tone: info, Used: unknown, Free: unknown, Total: unknown,
		Limit: v.word("none"), Reserve: v.word("none"), Kept: size(d.Kept), Evicted: size(d.Evicted)}
	if d.MinFree > 0 {
		to.Reserve = size(d.MinFree)
	}
	if d.Limit > 0 {
		to.Limit = size(d.Limit)
	}
	if d.Known {
		to.State, to.Tone = v.word("disk.ok"), good
		to.Used, to.Free = size(d.Used), size(d.Free)
		if d.Limit > 0 {
			to.HasLimit, to.UsedBar = true, bar{min(d.Used, d.Limit), d.Limit}
			to.UsedText = percent(d.Used, d.Limit)
		}
		if d.Total > 0 {
			to.Total = size(d.Total)
			to.HasTotal, to.DiskBar = true, bar{min(max(d.Total-d.Free, 0), d.Total), d.Total}
			to.DiskText = percent(d.Total-d.Free, d.Total)
		}
	}
	if d.Short != "" {
		to.State, to.Tone = v.word("disk.short", clean(d.Short, maxText)), bad
	}
	v.Disk = to
}

func (v *view) config(c admin.Config) {
	to := configView{Source: cmp.Or(clean(c.Source, maxText), v.word("config.none")), Loaded: v.at(c.Loaded),
		State: v.word("config.good"), Tone: good}
	switch {
	case c.Error != "":
		to.State, to.Tone = v.word("config.bad", clean(c.Error, maxText)), bad
	case len(c.Restart) > 0:
		to.State, to.Tone = v.word("config.wait", clean(strings.Join(c.Restart, ", "), maxText)), warn
	}
	v.Config = to
}

func (v *view) seed(s *admin.Seed) {
	if s == nil {
		v.Seed = seedView{File: v.word("seed.none"), State: none, Tone: info, Images: none,
			Last: moment{Rel: none}, Next: moment{Rel: none}}
		return
	}
	to := seedView{Has: true, File: clean(s.File, maxText), State: v.word("seed.good"), Tone: good,
		Last: v.atOr(s.Last, "time.never"), Next: v.atOr(s.Next, "unknown"), Images: v.number(int64(s.Images), "images")}
	switch {
	case s.Running:
		to.State = v.word("seed.running")
	case s.Error != "":
		to.State, to.Tone = v.word("seed.failed", clean(s.Error, maxText)), warn
	case s.Failed > 0:
		to.State, to.Tone = v.word("seed.some", count(int64(s.Failed)), v.number(int64(s.Images), "images")), warn
	case s.Last.Year() <= 1:
		to.State, to.Tone = v.word("seed.waiting"), info
	}
	v.Seed = to
}

// answered are the requests that count for the ratio: those for content, answered.
func answered(t admin.Traffic) (fromCache, all int64) {
	return t.Hits + t.Stale, t.Hits + t.Stale + t.Misses
}

func (v *view) tiles(s admin.State) {
	fromCache, all := answered(s.Traffic)
	var rate, wrong int64
	for _, d := range s.Downloads {
		rate += d.Rate
	}
	for _, r := range s.Remotes {
		if !r.Good && r.State != "held" {
			wrong++
		}
	}
	remotes := int64(len(s.Remotes))
	to := tiles{
		Hits: percent(fromCache, all), HitsOf: v.word("tile.hits", v.number(all, "requests")),
		Saved:     size(max(s.Traffic.Served-s.Traffic.Fetched, 0)),
		SavedOf:   v.word("tile.saved", size(s.Traffic.Served), size(s.Traffic.Fetched)),
		Downloads: count(int64(s.AllDownloads)), DownloadsAt: v.word("tile.idle"),
		Disk: v.Disk.Used, DiskOf: v.word("tile.nolim"), Images: none,
		Remotes: v.word("tile.remote", count(remotes-wrong), count(remotes)), RemotesTone: good,
	}
	if s.AllDownloads > 0 {
		to.DownloadsAt = v.word("tile.rate", v.word("rate", size(rate)))
	}
	if s.Disk.Limit > 0 {
		to.DiskOf = v.word("tile.of", size(s.Disk.Limit))
	}
	if s.Images >= 0 {
		to.Images = count(int64(s.Images))
	}
	if wrong > 0 {
		to.RemotesTone = warn
	}
	v.Tiles = to
}

// named is a moment and what the script calls it.
type named struct {
	Name string
	M    moment
}

func name(name string, m moment) named { return named{name, m} }

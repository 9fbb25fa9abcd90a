package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"registry-module/cache"
)

const (
	// lookEvery is how old a State gets while somebody looks.
	lookEvery = time.Second
	// lookTimeout is how long what it consists of may take.
	lookTimeout = 5 * time.Second
)

// look is a State, and its JSON, for all who look at the same time.
type look struct {
	state State
	begun time.Time
	// brief is the JSON without history, and same that without the time, by which it is seen
	// whether something has changed. History is another one when history has more samples.
	brief, same []byte
	history     int64

	whole func() []byte // the JSON with history
}

// looker makes States, at most one a second however many look.
type looker struct {
	s *Server
	// stale tells that what was seen last may not be so any more.
	stale atomic.Bool

	mu    sync.Mutex // guards what follows; who holds it looks
	last  *look
	rates rates
}

func (l *looker) init(s *Server) { l.s, l.rates = s, make(rates) }

// forget has the next one who looks see what is so now. It does not wait for who looks just
// now, which takes long where the storage hangs.
func (l *looker) forget() { l.stale.Store(true) }

// look returns what is so, or was within a second.
func (l *looker) look(ctx context.Context) *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Slightly less, so that who looks each second sees something new each time.
	if !l.stale.Swap(false) && l.last != nil {
		if age := time.Since(l.last.begun); age >= 0 && age < lookEvery*9/10 {
			return l.last
		}
	}
	// It is for others as well, who may be there for longer than this one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	state := l.s.state(ctx, l.rates)
	now := &look{state: state, begun: time.Now(), history: l.s.opts.Recorder.period(state.Now)}
	short := state
	short.History = nil
	now.brief = encode(short)
	short.Now = time.Time{}
	now.same = encode(short)
	now.whole = sync.OnceValue(func() []byte { return encode(state) })
	l.last = now
	return now
}

// changed tells whether there is something new since before.
func (l *look) changed(before *look) bool {
	return before == nil || l != before && !bytes.Equal(l.same, before.same)
}

func encode(s State) []byte {
	text, err := json.Marshal(s)
	if err != nil { // a time beyond the year 9999: nothing else in it can fail
		text, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	return text
}

// State returns what the module does. Its parts are shared with others who look: they must
// not be changed.
func (s *Server) State(ctx context.Context) State { return s.looker.look(ctx).state }

func (s *Server) serveState(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	for _, text := range [][]byte{s.looker.look(r.Context()).whole(), {'\n'}} {
		_, _ = w.Write(text) // the client may be gone
	}
}

// state puts it together.
func (s *Server) state(ctx context.Context, speed rates) State {
	o, rec := &s.opts, s.opts.Recorder
	now, is := time.Now(), s.ready()
	state := State{
		Version: o.Version, Host: o.Host, Started: o.Started, Now: now,
		Ready: is.Ready, NotReady: is.Reasons, Warnings: is.Warnings,
		Remotes: []Remote{}, Downloads: []Download{},
		Actions: s.acts(ctx),
	}
	state.Images, state.Generation = s.lister.state()
	if o.Stats != nil {
		stats, err := o.Stats(ctx)
		if err != nil {
			state.Warnings = append(state.Warnings, "what the cache does is not known: "+cleanText(err.Error()))
		} else {
			rec.health(stats.Health)
			s.show(&state, stats, speed)
		}
	}
	state.Traffic, state.History, state.Problems = rec.snapshot(now)
	if o.Offline != nil {
		state.Offline = o.Offline()
	}
	if o.Remotes != nil {
		state.Remotes = append(state.Remotes, o.Remotes()...)
		for i := range state.Remotes {
			r := &state.Remotes[i]
			r.Reason = cleanText(r.Reason)
			if r.Served == 0 {
				r.Served = rec.servedOf(r.Host)
			}
		}
	}
	if o.Config != nil {
		state.Config = o.Config()
		state.Config.Error = cleanText(state.Config.Error)
	}
	if o.Seed != nil {
		if seed := o.Seed(); seed != nil {
			its := *seed
			its.Error = cleanText(its.Error)
			state.Seed = &its
		}
	}
	return state
}

// show puts into state what the cache does.
func (s *Server) show(state *State, stats cache.Stats, speed rates) {
	state.Disk = diskOf(stats)
	state.AllDownloads = len(stats.Fills)
	speed.heed(stats.Fills, state.Now)
	for _, f := range stats.Fills[:min(len(stats.Fills), MaxDownloads)] {
		d := s.download(f)
		d.Rate = speed.of(f)
		state.Downloads = append(state.Downloads, d)
	}
}

func (s *Server) download(f cache.FillStats) Download {
	d := Download{
		Image: f.Place.Repo, Digest: f.Digest.String(), Remote: f.Place.Host,
		Size: f.Size, Have: f.Have, Begun: f.Begun, LastByte: f.LastByte,
		Clients: f.Clients, Waiting: f.Waiting, Ahead: f.Ahead,
	}
	if s.opts.Name != nil {
		d.Image = s.opts.Name(f.Place)
	}
	if f.Failure != nil {
		d.Failure = cleanText(f.Failure.Error())
	}
	return d
}

func diskOf(stats cache.Stats) Disk {
	space := stats.Space
	d := Disk{
		Used: space.Used, Limit: space.Limit, Free: space.Free, MinFree: space.MinFree, Total: space.Total,
		Kept: stats.Kept.Bytes, Known: space.Known,
	}
	if space.Room.Short {
		d.Short = cleanText(space.Room.Reason)
		if d.Short == "" {
			d.Short = "there is no room"
		}
	}
	for _, c := range stats.Evictions {
		d.Evicted += c.Bytes
	}
	return d
}

// fillKey is which download it is.
type fillKey struct {
	host, digest string
	begun        time.Time
}

func keyOf(f cache.FillStats) fillKey { return fillKey{f.Place.Host, f.Digest.String(), f.Begun} }

// rate is how many bytes of a download had come when it was looked at.
type rate struct {
	at      time.Time
	fetched int64
	now     int64 // bytes per second
}

// rates are how fast downloads are, from one look to the next.
type rates map[fillKey]rate

// heed takes note of what is under way.
func (r rates) heed(fills []cache.FillStats, now time.Time) {
	seen := make(map[fillKey]bool, len(fills))
	for _, f := range fills {
		key := keyOf(f)
		seen[key] = true
		before, ok := r[key]
		if !ok {
			before = rate{at: f.Begun}
		}
		took := now.Sub(before.at)
		if took < lookEvery/2 {
			if ok && took >= 0 {
				continue // what comes in bursts is not judged by one
			}
			before.now, took = 0, 0
		}
		next := rate{at: now, fetched: f.Fetched}
		if took > 0 {
			next.now = int64(float64(max(f.Fetched-before.fetched, 0)) / took.Seconds())
			if before.now > 0 && took < 5*lookEvery { // bursts are evened out
				next.now = (next.now + before.now) / 2
			}
		}
		r[key] = next
	}
	for key := range r {
		if !seen[key] {
			delete(r, key)
		}
	}
}

func (r rates) of(f cache.FillStats) int64 { return r[keyOf(f)].now }

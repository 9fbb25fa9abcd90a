package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"registry-module/cache"
)

// MaxImages bounds the list of images that is kept, which takes some 30 MB then.
const MaxImages = 100_000

const (
	// listLife is how long the list is kept that nobody looks at.
	listLife = time.Minute
	// listAge is how old it gets where nothing is known to have changed: when images were
	// last used changes all the time.
	listAge = 30 * time.Second
	// shortestHold and longestHold bound for how long it is kept where something has changed:
	// holdShare times as long as reading it has taken.
	shortestHold = 5 * time.Second
	longestHold  = 5 * time.Minute
	holdShare    = 20
)

// lister keeps the list of images for as long as somebody looks at it.
type lister struct {
	opts Options
	most int    // images
	base uint64 // of generations, so that those of the process before were others

	turn chan struct{} // holds an element while the list is being read
	list atomic.Pointer[imageList]

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

func (l *lister) init(opts Options) {
	l.opts, l.most, l.turn = opts, MaxImages, make(chan struct{}, 1)
	l.base = uint64(max(opts.Started.Unix(), 0)) << 20 // 2^51 in this century
}

// hold is for how long the list is kept though something has changed.
func (l *imageList) hold() time.Duration {
	return min(max(shortestHold, holdShare*l.took), longestHold)
}

// good tells whether the list does, when there were so many changes.
func (l *imageList) good(changes uint64, now time.Time) bool {
	switch age := now.Sub(l.read); {
	case l.stale.Load(), age < 0: // the clock was set
		return false
	case l.changes == changes:
		return age < listAge
	default:
		return age < l.hold()
	}
}

// state is how many images there are, -1 where that is not known, and which generation of
// the list one would get.
func (l *lister) state() (images int, generation uint64) {
	list, changes := l.list.Load(), l.opts.Recorder.changes()
	if list == nil {
		return -1, l.base + changes
	}
	if list.changes != changes && list.good(changes, time.Now()) {
		changes = list.changes
	}
	return len(list.entries), l.base + changes
}

// forget has the list read anew when somebody looks the next time.
func (l *lister) forget() {
	l.opts.Recorder.ImagesChanged()
	if list := l.list.Load(); list != nil {
		list.stale.Store(true)
	}
}

// get returns the list, and reads it where that is due.
func (l *lister) get(ctx context.Context) (*imageList, error) {
	if list := l.list.Load(); list != nil && list.good(l.opts.Recorder.changes(), time.Now()) {
		l.keep()
		return list, nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	changes := l.opts.Recorder.changes()
	if list := l.list.Load(); list != nil && list.good(changes, time.Now()) { // somebody else has read it
		l.keep()
		return list, nil
	}
	list, err := readImages(ctx, l.opts, l.most)
	if err != nil {
		return nil, fmt.Errorf("listing what is stored: %w", err)
	}
	list.changes = changes
	l.list.Store(list)
	l.keep()
	return list, nil
}

// keep has the list be dropped in a while from now.
func (l *lister) keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil {
		l.timer = time.AfterFunc(listLife, l.drop)
		return
	}
	l.timer.Reset(listLife)
}

func (l *lister) drop() { l.list.Store(nil) }

func (l *lister) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.drop()
}

// Images returns the images that are asked for.
func (s *Server) Images(ctx context.Context, q ImageQuery) (ImagePage, error) {
	list, err := s.lister.get(ctx)
	if err != nil {
		return ImagePage{}, err
	}
	page := list.page(q)
	page.Generation = s.lister.base + list.changes
	return page, nil
}

func (s *Server) serveImages(w http.ResponseWriter, r *http.Request) {
	q, err := ParseImageQuery(r.URL.Query())
	var page ImagePage
	if err == nil {
		page, err = s.Images(r.Context(), q)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	body := new(bytes.Buffer)
	if err := json.NewEncoder(body).Encode(page); err != nil {
		writeError(w, err)
		return
	}
	sum := sha256.Sum256(body.Bytes())
	// It may be kept, but has to be asked about each time.
	w.Header().Set("Cache-Control", "no-cache, private")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	hurry(w, answerTimeout) // from now: reading the list may have taken long
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body.Bytes()))
}

// readImages reads the list, of so many images at most.
func readImages(ctx context.Context, opts Options, most int) (*imageList, error) {
	list := &imageList{read: time.Now()}
	if opts.Images == nil {
		return list, nil
	}
	p := packer{texts: make(map[string]string), platforms: make(map[string][]string), pins: make(map[string][]cache.Pin), name: opts.Name}
	for image, err := range opts.Images(ctx) {
		switch {
		case errors.Is(err, cache.ErrNotFound):
			continue // it went meanwhile
		case err != nil:
			return nil, err
		}
		if len(list.entries) == most {
			list.truncated = true
			break
		}
		list.entries = append(list.entries, p.pack(image))
	}
	list.entries = slices.Clip(list.entries)
	list.took = time.Since(list.read)
	return list, nil
}

// imageList is what is stored at one moment.
type imageList struct {
	entries   []entry
	truncated bool
	read      time.Time
	took      time.Duration
	changes   uint64 // when it was read
	stale     atomic.Bool

	mu     sync.Mutex // guards orders
	orders map[string][]int32
}

// order is the entries in the order of sort, ascending.
func (l *imageList) order(sort string) []int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if order, ok := l.orders[sort]; ok {
		return order
	}
	order := make([]int32, len(l.entries))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return compare(sort, &l.entries[a], &l.entries[b]) })
	if l.orders == nil {
		l.orders = make(map[string][]int32, len(sorts))
	}
	l.orders[sort] = order
	return order
}

// page is what q asks for.
func (l *imageList) page(q ImageQuery) ImagePage {
	page := ImagePage{All: len(l.entries), Truncated: l.truncated, Offset: max(q.Offset, 0), Images: []Image{}}
	order, text := l.order(q.sort()), strings.ToLower(q.Text)
	first := func(yield func(*entry) bool) {
		if !q.Descending {
			for _, i := range order {
				if !yield(&l.entries[i]) {
					return
				}
			}
			return
		}
		// What is equal stays in the order of names.
		for end := len(order); end > 0; {
			begin := end - 1
			for q.sort() != SortName && begin > 0 && compareBy(q.sort(), &l.entries[order[begin-1]], &l.entries[order[end-1]]) == 0 {
				begin--
			}
			for _, i := range order[begin:end] {
				if !yield(&l.entries[i]) {
					return
				}
			}
			end = begin
		}
	}
	for e := range first {
		if !e.matches(text) {
			continue
		}
		if page.Total >= page.Offset && len(page.Images) < q.limit() {
			page.Images = append(page.Images, e.unpack())
		}
		page.Total++
	}
	return page
}

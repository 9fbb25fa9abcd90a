package access

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/scrypt"
)

const (
	// soon is how long after a new verdict it is saved, with others that come meanwhile,
	// and later how long after one that is confirmed again, which is not done before seldom
	// has passed: flash wears.
	soon   = 5 * time.Second
	later  = 10 * time.Minute
	seldom = time.Hour

	// The cost of a seal: 16 MiB of memory, and some 50 ms, or ten times as much on a
	// gateway. It is paid once for each credential and process.
	scryptN, scryptR, scryptP = 1 << 14, 8, 1
	maxSealing                = 1

	savedVersion = 1
)

// seal stands for a credential on the disk. It is a hash that is slow to compute, with a
// salt of the document's own: who has the document has to try passwords one by one.
type seal [sha256.Size]byte

// savedState is what the document contains.
type savedState struct {
	Version     int               `json:"version"`
	Salt        []byte            `json:"salt"`
	Credentials []savedCredential `json:"credentials"`
}

type savedCredential struct {
	Seal  []byte      `json:"scrypt"`
	Pairs []savedPair `json:"repositories"`
}

type savedPair struct {
	Host      string    `json:"host"`
	Repo      string    `json:"repository"`
	List      bool      `json:"tags,omitempty"` // of the list of tags alone
	Confirmed time.Time `json:"confirmed"`
}

// saved keeps good verdicts over restarts.
type saved struct {
	doc      Document // nil: it does not
	remotes  map[string]PassThrough
	verdicts *verdicts
	work     *work
	now      func() time.Time
	log      logrus.FieldLogger
	sealing  *slots
	flights  flights[credential]
	// looked are credentials that were looked for among those of an earlier process.
	looked *lru.Cache[credential, seal]

	writing sync.Mutex // held while the document is written

	mu   sync.Mutex
	salt []byte
	// seals are those of credentials that a remote has let in, and sealed what an earlier
	// process knew about those that nobody has come with since.
	seals  map[credential]seal
	sealed map[seal]map[place]time.Time
	// dirty tells that there is something to save, and waiting who waits to do it.
	dirty         bool
	waiting       map[time.Duration]bool
	failedToWrite bool
}

// loadSaved reads what an earlier process has left. What cannot be read is not an error:
// the remotes can be asked again.
func loadSaved(doc Document, remotes map[string]PassThrough, v *verdicts, w *work, now func() time.Time, log logrus.FieldLogger) *saved {
	looked, err := lru.New[credential, seal](maxLogins)
	if err != nil {
		panic(err) // the size is a constant
	}
	s := &saved{
		doc: doc, remotes: remotes, verdicts: v, work: w, now: now, log: log, looked: looked, sealing: newSlots(maxSealing, maxWaiting),
		salt: make([]byte, 32), seals: map[credential]seal{}, sealed: map[seal]map[place]time.Time{}, waiting: map[time.Duration]bool{},
	}
	_, _ = rand.Read(s.salt) // which never fails
	if doc == nil {
		return s
	}
	content, err := doc.Read(context.Background())
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	var state savedState
	if err == nil {
		err = json.Unmarshal(content, &state)
	}
	if err == nil && (state.Version != savedVersion || len(state.Salt) < 16) {
		err = fmt.Errorf("it is of version %d, and this program knows %d", state.Version, savedVersion)
	}
	if err != nil {
		log.WithError(err).Warn("which callers the remotes have let in before cannot be read: they have to be asked again")
		return s
	}
	s.take(state)
	return s
}

// take takes over what the document contains, within the bounds for it.
func (s *saved) take(state savedState) {
	s.salt = state.Salt
	pairs := 0
	for _, c := range state.Credentials {
		if len(c.Seal) != len(seal{}) || len(s.sealed) >= maxCredentials {
			continue
		}
		known := map[place]time.Time{}
		for _, p := range c.Pairs {
			if by, ok := s.remotes[p.Host]; ok && s.now().Sub(p.Confirmed) < by.Grace && pairs < maxPairs {
				known[place{p.Host, p.Repo, p.List}] = p.Confirmed
				pairs++
			}
		}
		if len(known) > 0 {
			s.sealed[seal(c.Seal)] = known
		}
	}
}

// compute returns the seal of a credential. It takes its time, once it has a slot, of which
// begun is told.
func (s *saved) compute(ctx context.Context, begun func(), user, password string) (sealed seal, err error) {
	if err := s.sealing.take(ctx); err != nil {
		return seal{}, err
	}
	defer s.sealing.give()
	begun()
	s.mu.Lock()
	salt := s.salt
	s.mu.Unlock()
	hash, err := scrypt.Key(fmt.Appendf(nil, "%d %s %s", len(user), user, password), salt, scryptN, scryptR, scryptP, len(sealed))
	if err != nil {
		return seal{}, fmt.Errorf("hashing credentials: %w", err) // the parameters are constants
	}
	return seal(hash), nil
}

// lookUp finds what an earlier process knew about a credential. The flight, nil where there
// is nothing to be found, goes on whoever waits.
func (s *saved) lookUp(ctx context.Context, id credential, user, password string) *flight {
	s.mu.Lock()
	nothing := len(s.sealed) == 0
	s.mu.Unlock()
	if nothing || s.looked.Contains(id) {
		return nil
	}
	return s.flights.join(ctx, s.work, id, s.now(), func(ctx context.Context, detach func()) error {
		sealed, err := s.compute(ctx, detach, user, password)
		if err != nil {
			return err
		}
		s.mu.Lock()
		known := s.sealed[sealed]
		delete(s.sealed, sealed)
		if known != nil {
			s.seals[id] = sealed
		}
		s.mu.Unlock()
		for at, confirmed := range known {
			if _, ok := s.verdicts.admit(pair{id, at}, confirmed, confirmed); !ok {
				s.schedule(soon) // it is not so any more
			}
		}
		s.looked.Add(id, sealed)
		return nil
	})
}

// admitted takes note of a good verdict, of which the one before was saved at that time.
func (s *saved) admitted(at place, id credential, user, password string, before time.Time) {
	if s.doc == nil || s.remotes[at.host].Grace <= 0 {
		return
	}
	s.mu.Lock()
	_, known := s.seals[id]
	s.mu.Unlock()
	if !known {
		sealed, ok := s.looked.Peek(id)
		if !ok {
			var err error
			if sealed, err = s.compute(s.work.life, func() {}, user, password); err != nil {
				return // it is closed, or the next verdict brings it
			}
		}
		s.mu.Lock()
		s.seals[id] = sealed
		s.mu.Unlock()
	}
	switch {
	case before.IsZero():
		s.schedule(soon)
	case s.now().Sub(before) >= seldom:
		s.schedule(later)
	}
}

// schedule has everything saved after some time.
func (s *saved) schedule(after time.Duration) {
	if s.doc == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = true
	if s.waiting[after] {
		return
	}
	s.waiting[after] = true
	s.work.Go(func() {
		timer := time.NewTimer(after)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.work.life.Done():
			return // Close saves
		}
		s.mu.Lock()
		s.waiting[after] = false
		s.mu.Unlock()
		if s.save(s.work.life) != nil {
			s.schedule(later)
		}
	})
}

// save writes the document if there is something to save.
func (s *saved) save(ctx context.Context) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	content, err := s.state()
	if content == nil || err != nil {
		return err
	}
	err = s.doc.Write(context.WithoutCancel(ctx), content)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty = s.dirty || err != nil
	if err != nil && !s.failedToWrite {
		s.log.WithError(err).Warn("which callers the remotes have let in cannot be saved: after a restart they are let in only when the remotes can be asked")
	}
	s.failedToWrite = err != nil
	if err != nil {
		return fmt.Errorf("saving which callers the remotes have let in: %w", err)
	}
	return nil
}

// state returns what is to be written, nil where that is written already.
func (s *saved) state() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil, nil
	}
	s.dirty = false
	now := s.now()
	pairs := map[seal][]savedPair{}
	keep := func(sealed seal, at place, confirmed time.Time) {
		if by, ok := s.remotes[at.host]; ok && now.Sub(confirmed) < by.Grace {
			pairs[sealed] = append(pairs[sealed], savedPair{at.host, at.repo, at.list, confirmed.UTC()})
		}
	}
	seals := make(map[credential]seal, len(s.seals))
	s.verdicts.each(now, func(p pair) bool {
		sealed, ok := s.seals[p.id]
		if ok {
			seals[p.id] = sealed
		}
		return ok
	}, func(p pair, confirmed time.Time) { keep(seals[p.id], p.place, confirmed) })
	s.seals = seals
	for sealed, known := range s.sealed {
		for at, confirmed := range known {
			keep(sealed, at, confirmed)
		}
	}
	state := savedState{Version: savedVersion, Salt: s.salt}
	for sealed, list := range pairs {
		state.Credentials = append(state.Credentials, savedCredential{sealed[:], list})
	}
	return json.Marshal(state)
}

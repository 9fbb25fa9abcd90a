package index

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// Badger's own compactors look for work every 50 ms for as long as the database is open,
// which on a small processor is most of what an idle server uses. So there are none of
// them, and a merger merges tables when so much was written that there may be something
// to do. It has no goroutine and no timer meanwhile.
const (
	// lookEvery is after how many bytes of changes the merger looks: there are fewer than
	// one memtable's, which becomes a table.
	lookEvery = 1 << 20

	// mergeRatio is how many times as much as what is new what is merged already may be. All
	// of that is written again, so this many bytes are written for each new one, and two
	// more for its way through the levels; more while changes come faster than they can be
	// merged. What was replaced or removed takes up to a fifth more of the disk.
	mergeRatio = 5

	// fewTables are not worth merging: each start of the program makes one.
	fewTables = 3

	// stepSize is how much of what is merged is written again in one step. Badger sees to it
	// that a table above the last level overlaps some ten of the tables in it, each of 2 MiB,
	// unless there are few of them: then it is all.
	stepSize = 32 << 20

	// mostTables is how many new tables there may be, of which each is asked for a key
	// that is not in memory. With full ones the ratio comes first up to some 400 MiB.
	mostTables = 32

	// stallTables is with how many new tables Badger lets changes wait, which is while they
	// are merged, for those are refused that would make it more than mostTables otherwise.
	// It bounds what whoever fills an index at once can be ahead.
	stallTables = mostTables + 8
)

// merger merges the tables that memtables have become, which lie in level 0, with those
// of the other levels.
type merger struct {
	db   *badger.DB
	room func(need int64) error // an error unless that many bytes are free
	most int                    // mostTables, or fewer in tests
	log  logrus.FieldLogger

	changed atomic.Int64 // bytes, since it has looked
	full    atomic.Bool  // there are too many tables, and they could not be merged

	mu     sync.Mutex
	done   chan struct{} // closed when what is running has ended; nil where nothing is
	failed error         // why what ran last has failed
	closed bool
}

// wrote is called after changes.
func (m *merger) wrote(changes []cache.Change) {
	const node = 32 // what an entry takes in a memtable beside key and value
	var n int64
	for _, c := range changes {
		n += int64(len(c.Key) + len(c.Value) + node)
	}
	if m.changed.Add(n) >= lookEvery {
		_ = m.look() // who makes the next change gets the error
	}
}

// admit returns an error where there are too many tables already.
func (m *merger) admit() error {
	if !m.full.Load() {
		return nil
	}
	return m.look()
}

// look begins to merge if it is time for that. It returns an error where changes must not
// be made because that cannot be done.
func (m *merger) look() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed.Store(0)
	if m.closed || m.done != nil {
		return nil
	}
	fresh, old := m.tables()
	full, enough := fresh.tables >= m.most, fresh.bytes >= old.bytes/mergeRatio
	if fresh.tables <= fewTables || !full && !enough {
		m.full.Store(false)
		return nil
	}
	// Badger ends the process where the disk is full, and removes tables after it has
	// written what replaces them.
	again := old.bytes
	if enough {
		again = min(again, stepSize)
	}
	err := m.room(leastRoom + fresh.bytes + again)
	if err == nil {
		err = m.failed // and is tried again
		m.done = make(chan struct{})
		go m.run(m.done)
	}
	if m.full.Store(full && err != nil); m.full.Load() {
		return fmt.Errorf("merging %d tables: %w", fresh.tables, err)
	}
	return nil
}

// amount is how many tables there are, and their size.
type amount struct {
	tables int
	bytes  int64
}

// tables returns how much there is in level 0 and in all others.
func (m *merger) tables() (fresh, old amount) {
	for _, level := range m.db.Levels() {
		if level.Level == 0 {
			fresh = amount{level.NumTables, level.Size}
			continue
		}
		old.tables += level.NumTables
		old.bytes += level.Size
	}
	return fresh, old
}

// run merges all tables, and those that come meanwhile: those of level 0 into the level
// above the last one in one step, and that table by table into the last.
func (m *merger) run(done chan struct{}) {
	err := guarded(func() error { return m.db.Flatten(1) })
	if err != nil {
		m.log.WithError(err).Warn("tables of the index could not be merged; it is tried again")
	}
	m.mu.Lock()
	m.failed, m.done = err, nil
	m.mu.Unlock()
	close(done)
}

// close waits for what is running, for which Badger has no means to stop it: of an index of
// some MB that takes no time to speak of, and of one of a million blobs some seconds. Nothing
// begins afterwards.
func (m *merger) close() {
	m.mu.Lock()
	m.closed = true
	done := m.done
	m.mu.Unlock()
	if done != nil {
		<-done
	}
}

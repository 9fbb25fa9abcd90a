// Package index keeps the cache's index in Badger, and is the only package that
// imports it.
//
// It promises what [cache.Index] says: fast look-ups, atomic changes, and
// nothing about survival. A database that is damaged is deleted and started
// afresh, which [Open] logs, so that the cache rebuilds it. It trusts that its
// directory belongs to this process alone (package disk holds the lock of the
// data directory), and imports, of this module, only cache.
package index

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// Index is a Badger database. After [Index.Close] its methods return
// [fs.ErrClosed], where Badger itself would panic.
type Index struct {
	db *badger.DB

	// calls counts what is running, for Close to wait for. It is not a read
	// lock that a call holds until its end: the consumer of a Scan may call Get,
	// which would wait for a Close that waits for the Scan.
	calls  sync.WaitGroup
	mu     sync.RWMutex // guards closed, and calls from growing once it is set
	closed bool

	closeOnce sync.Once
	closeErr  error
}

var _ cache.Index = (*Index)(nil)

// Open opens or creates the database in dir. Badger's own messages go to log at
// debug level; nil discards them. A database that is damaged is deleted and
// created anew; what was wrong is logged. One that cannot be opened for another
// reason, such as too many open files or a full disk, is left as it is.
func Open(dir string, log logrus.FieldLogger) (*Index, error) {
	if log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		log = discard
	}
	opts := tuned(dir, log)
	db, err := openDB(opts)
	if err == nil {
		return &Index{db: db}, nil
	}
	if !damaged(err) {
		return nil, fmt.Errorf("opening the index in %s: %w", dir, err)
	}
	log.WithError(err).Warnf("the index in %s is damaged and will be rebuilt from the stored content; nothing is lost", dir)
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("removing the damaged index: %w", err)
	}
	if db, err = openDB(opts); err != nil {
		return nil, fmt.Errorf("creating the index in %s: %w", dir, err)
	}
	return &Index{db: db}, nil
}

func openDB(opts badger.Options) (*badger.DB, error) {
	if err := checkTables(opts); err != nil {
		return nil, err
	}
	return badger.Open(opts)
}

// damaged tells whether an error of opening the database is about its content,
// so that a new one would do better. What the kernel refuses is not, but for a
// file that is missing (ENOENT) and one that is too short to be mapped (EINVAL).
//
// Badger often keeps only the text of an error, in which the kernel's comes last
// but for what Badger adds behind it.
func damaged(err error) bool {
	content := []syscall.Errno{syscall.ENOENT, syscall.EINVAL}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return slices.Contains(content, errno)
	}
	const last = 256 // there are some 130, and those without a text match nothing
	text := err.Error()
	for errno := syscall.Errno(1); errno < last; errno++ {
		if !slices.Contains(content, errno) && strings.Contains(text, ": "+errno.Error()) {
			return false
		}
	}
	return true
}

// tuned are the options for an index of at most some hundred megabytes on a
// gateway with 1 GiB of memory. Badger's defaults map 2 GiB of files and keep
// 64 MiB tables and 256 MiB of block cache; measured with these instead: 8 MB
// of heap and some 40 MB of (mostly sparse) files.
func tuned(dir string, log logrus.FieldLogger) badger.Options {
	const (
		memTable  = 4 << 20
		threshold = 64 << 10 // all values of the cache are smaller: no value log
	)
	return badger.DefaultOptions(dir).
		WithLogger(quiet{log}).
		WithMemTableSize(memTable).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithNumCompactors(2). // Badger's minimum
		WithBaseTableSize(1 << 20).
		WithValueThreshold(threshold).
		WithValueLogFileSize(1 << 20). // Badger's minimum
		WithBlockCacheSize(0).         // tables are mapped and not compressed: the page cache serves
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithNumGoroutines(1).
		WithMetricsEnabled(false).
		WithDetectConflicts(false). // changes are blind writes
		WithSyncWrites(false)       // the index may be lost; flash should not wear for it
}

// Close waits for calls that are running, then flushes and closes the database.
// It must not be called by the consumer of a Scan. Closing again returns what
// the first call did.
func (x *Index) Close() error {
	x.closeOnce.Do(func() {
		x.mu.Lock()
		x.closed = true
		x.mu.Unlock()
		x.calls.Wait()
		if err := x.db.Close(); err != nil {
			x.closeErr = fmt.Errorf("closing the index: %w", err)
		}
	})
	return x.closeErr
}

// begin registers a call, which ends with calls.Done.
func (x *Index) begin() error {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return fmt.Errorf("index: %w", fs.ErrClosed)
	}
	x.calls.Add(1)
	return nil
}

// Get implements cache.Index.
func (x *Index) Get(_ context.Context, key []byte) ([]byte, error) {
	if err := x.begin(); err != nil {
		return nil, err
	}
	defer x.calls.Done()
	var value []byte
	err := x.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(nil)
		return err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return value, nil
}

// Apply implements cache.Index.
func (x *Index) Apply(_ context.Context, changes ...cache.Change) error {
	if err := x.begin(); err != nil {
		return err
	}
	defer x.calls.Done()
	err := x.db.Update(func(txn *badger.Txn) error {
		for _, c := range changes {
			var err error
			if c.Delete {
				err = txn.Delete(c.Key)
			} else {
				err = txn.Set(c.Key, c.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// Scan implements cache.Index.
func (x *Index) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	return func(yield func(cache.Entry, error) bool) {
		if err := x.begin(); err != nil {
			yield(cache.Entry{}, err)
			return
		}
		defer x.calls.Done()
		err := x.db.View(func(txn *badger.Txn) error {
			opts := badger.DefaultIteratorOptions
			opts.Prefix = prefix
			opts.PrefetchValues = false // values lie beside their keys
			it := txn.NewIterator(opts)
			defer it.Close()
			start := prefix
			if string(from) > string(prefix) {
				start = from
			}
			for it.Seek(start); it.Valid(); it.Next() {
				if err := ctx.Err(); err != nil {
					return err
				}
				value, err := it.Item().ValueCopy(nil)
				if err != nil {
					return err
				}
				if !yield(cache.Entry{Key: it.Item().KeyCopy(nil), Value: value}, nil) {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			yield(cache.Entry{}, fmt.Errorf("index: %w", err))
		}
	}
}

// quiet passes Badger's messages on one or two levels lower: its start-up
// notes are no information for an operator.
type quiet struct{ log logrus.FieldLogger }

func (q quiet) Errorf(format string, args ...any)   { q.log.Errorf("index: "+format, args...) }
func (q quiet) Warningf(format string, args ...any) { q.log.Warnf("index: "+format, args...) }
func (q quiet) Infof(format string, args ...any)    { q.log.Debugf("index: "+format, args...) }
func (q quiet) Debugf(format string, args ...any)   { q.log.Debugf("index: "+format, args...) }

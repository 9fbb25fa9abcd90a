// Package index keeps the cache's index in Badger, and is the only package that
// imports it.
//
// It promises what [cache.Index] says: fast look-ups, atomic changes, and
// nothing about survival. A database that is damaged is deleted and started
// afresh, which [Open] logs, so that the cache rebuilds it. It trusts that its
// directory belongs to this process alone (package disk holds the lock of the
// data directory), and imports, of this module, only cache and internal packages.
package index

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"runtime/debug"
	"slices"
	"strconv"
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
	db    *badger.DB
	merge *merger
	sound bool
	place *place // nil where the database is in memory

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
// reason, such as too many open files, is left as it is. Where the disk is full the
// error is [syscall.ENOSPC]: see [OpenInMemory].
func Open(dir string, log logrus.FieldLogger) (*Index, error) {
	log = orDiscard(log)
	p, err := openPlace(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the index in %s: %w", dir, err)
	}
	x := &Index{place: p}
	if err := x.open(log); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return x, nil
}

// open opens the database, or a new one in its place.
func (x *Index) open(log logrus.FieldLogger) error {
	dir, opts := x.place.dir, tuned(x.place.dir, quiet{log})
	sound, found, err := x.place.check(opts)
	if err == nil {
		x.db, err = openDB(opts)
	}
	switch {
	case err != nil && !damaged(err):
		return fmt.Errorf("opening the index in %s: %w", dir, err)
	case err != nil:
		log.WithError(err).Warnf("the index in %s is damaged and will be rebuilt from the stored content; nothing is lost", dir)
		if err := x.place.empty(); err != nil {
			return fmt.Errorf("removing the damaged index: %w", err)
		}
		if x.db, err = openDB(opts); err != nil {
			return fmt.Errorf("creating the index in %s: %w", dir, err)
		}
	case found && !sound:
		log.Warnf("the index in %s may lack what was written last: it was not closed, or is damaged", dir)
	default:
		x.sound = sound
	}
	if err := x.place.setOpen(); err != nil {
		return errors.Join(fmt.Errorf("opening the index in %s: %w", dir, err), x.db.Close())
	}
	x.merge = &merger{db: x.db, room: x.place.room, most: mostTables, log: log}
	_ = x.merge.look() // who makes the first change gets the error
	return nil
}

// OpenInMemory opens a new database that is gone with the process, for where there is
// no place to write to. It takes some 150 bytes of memory for each entry.
func OpenInMemory(log logrus.FieldLogger) (*Index, error) {
	log = orDiscard(log)
	db, err := openDB(tuned("", quiet{log}).WithInMemory(true))
	if err != nil {
		return nil, fmt.Errorf("creating an index in memory: %w", err)
	}
	noLimit := func(int64) error { return nil }
	return &Index{db: db, merge: &merger{db: db, room: noLimit, most: mostTables, log: log}}, nil
}

// Sound tells whether nothing is missing that was acknowledged before Open: the
// database was closed as it should be, or its process was killed and the kernel that
// has taken what it has written is still the same, and no file is missing, or is
// other than it was left. It is false for a new database, too. An index that is not
// sound can look fine: who rebuilds it removes at first what says that it is complete.
func (x *Index) Sound() bool { return x.sound }

func orDiscard(log logrus.FieldLogger) logrus.FieldLogger {
	if log != nil {
		return log
	}
	discard := logrus.New()
	discard.SetOutput(io.Discard)
	return discard
}

// openDB opens the database. Badger panics at some of what it does not understand.
func openDB(opts badger.Options) (db *badger.DB, err error) {
	err = guarded(func() (err error) {
		db, err = badger.Open(opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

// guarded runs fn, which calls Badger, and returns an error where Badger panics: at
// what it does not understand, or because a page of a file cannot be read (SIGBUS).
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("the database cannot be read: %w", r)
		default:
			err = fmt.Errorf("the database cannot be read: %v", r)
		}
	}()
	return fn()
}

// damaged tells whether an error of opening the database is about its files, so that
// a new one would do better. What the kernel refuses is not, but for a file that is
// missing (ENOENT), too short to be mapped (EINVAL), cannot be read (EIO, EACCES,
// EPERM), or is of another kind (EISDIR, ENOTDIR, ENODEV).
//
// Badger often keeps only the text of an error, in which the kernel's comes last
// but for what Badger adds behind it.
func damaged(err error) bool {
	content := []syscall.Errno{
		syscall.ENOENT, syscall.EINVAL, syscall.EIO, syscall.EACCES, syscall.EPERM,
		syscall.EISDIR, syscall.ENOTDIR, syscall.ENODEV,
	}
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

// tuned are the options for an index of at most some hundred megabytes on a gateway with
// 1 GiB of memory. Badger's defaults map 2 GiB of files, and keep 64 MiB tables and 256 MiB
// of block cache. An empty index with these has 8 MB of heap and some 40 MB of (mostly
// sparse) files.
//
// With a million blobs, 3 million entries of 298 MiB (BenchmarkLarge with INDEX_BLOBS, two
// slow processors that others used, too): 180 tables; 0.2 s of processor time to open it,
// checksums included; then some 10 MB of memory of its own, and 67 MB while it goes through
// all entries, at 1 µs of processor time each; 150 MB at the most while all of that is
// written at once. 20,000 updates of 1.7 MiB in batches of 100 write 4 MiB. The tables that
// have been read are mapped: the kernel counts them as memory of the process, and takes it
// back when others need it.
//
// What takes the memory is not reading but merging (see merger): up to ten tables are built
// at a time, each in a buffer of twice to four times its size. So the tables of all levels
// have the size of the smallest ones: with Badger's doubling from level to level they are
// half as many, and it takes twice the memory; tables of half the size are twice as many,
// and save nothing.
func tuned(dir string, log badger.Logger) badger.Options {
	const memTable = 4 << 20
	opts := badger.DefaultOptions(dir).
		WithLogger(log).
		WithMemTableSize(memTable).
		WithNumMemtables(2).
		WithNumLevelZeroTables(1). // Flatten leaves so many
		WithNumLevelZeroTablesStall(stallTables).
		WithNumCompactors(0). // see merger
		WithBaseTableSize(2 << 20).
		WithValueThreshold(maxValue + 1).
		WithValueLogFileSize(1 << 20). // Badger's minimum
		WithBlockCacheSize(0).         // tables are mapped and not compressed: the page cache serves
		WithIndexCacheSize(0).
		WithCompression(options.None).
		WithNumGoroutines(1).
		WithBypassLockGuard(true). // the directory is locked already, by openPlace
		WithMetricsEnabled(false).
		WithDetectConflicts(false). // changes are blind writes
		WithSyncWrites(false)       // the index may be lost; flash should not wear for it
	opts.TableSizeMultiplier = 1 // see above
	if strconv.IntSize == 32 {
		opts = within32Bits(opts)
	}
	return opts
}

// within32Bits are options with which a table is built in one buffer. The allocator that
// Badger builds them with (ristretto v2.2.0 to v2.4.2, z.Allocator) begins with twice the size
// of a table, and where that is not enough adds a buffer, whose number it shifts by 32 bits as
// an int: where an int has no more, it goes on at the beginning of the first one, and writes
// over what is there. Blocks into which several of the longest values fit are never moved to
// a larger place, and leave a third of theirs unused at the most; and so large a table can be
// what a memtable becomes, too (TestLargeValues).
func within32Bits(opts badger.Options) badger.Options {
	const values = 4 // the longest ones, in a block
	return opts.WithBlockSize(values * (maxValue + 1)).WithBaseTableSize(opts.MemTableSize)
}

// Close waits for calls that are running, then flushes and closes the database.
// It must not be called by the consumer of a Scan. Closing again returns what
// the first call did.
func (x *Index) Close() error {
	x.closeOnce.Do(func() {
		x.mu.Lock()
		x.closed = true
		x.mu.Unlock()
		x.calls.Wait() // some may wait for what is being merged
		x.merge.close()
		if err := x.close(); err != nil {
			x.closeErr = fmt.Errorf("closing the index: %w", err)
		}
	})
	return x.closeErr
}

func (x *Index) close() error {
	if x.place == nil {
		return x.db.Close()
	}
	// Without room the tables cannot be written, which would end the process: then the
	// database is left as a kill leaves it.
	err := x.place.room(leastRoom)
	if err == nil {
		err = x.db.Close()
	}
	if err == nil {
		err = x.place.setClosed()
	}
	return errors.Join(err, x.place.close())
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
func (x *Index) Get(_ context.Context, key []byte) (value []byte, err error) {
	if err := x.begin(); err != nil {
		return nil, err
	}
	defer x.calls.Done()
	err = guarded(func() error {
		return x.db.View(func(txn *badger.Txn) error {
			item, err := txn.Get(key)
			if err != nil {
				return err
			}
			value, err = item.ValueCopy(nil)
			return err
		})
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return value, nil
}

// Apply implements cache.Index. Where there is little room on the disk it fails with
// [syscall.ENOSPC], a little later if all changes are deletions.
func (x *Index) Apply(_ context.Context, changes ...cache.Change) error {
	if err := x.begin(); err != nil {
		return err
	}
	defer x.calls.Done()
	err := x.admit(changes)
	if err == nil {
		err = guarded(func() error { return x.apply(changes) })
	}
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	x.merge.wrote(changes)
	return nil
}

func (x *Index) apply(changes []cache.Change) error {
	return x.db.Update(func(txn *badger.Txn) error {
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
}

// maxValue is the longest value in bytes; the cache's are shorter. So there is nothing
// in Badger's value log.
const maxValue = 64<<10 - 1

// admit refuses changes that Badger must not be given.
func (x *Index) admit(changes []cache.Change) error {
	need := int64(leastRoom)
	for _, c := range changes {
		if len(c.Value) > maxValue {
			return fmt.Errorf("the value of %q has %d bytes, and at most %d can be stored", c.Key, len(c.Value), maxValue)
		}
		if !c.Delete {
			need = enoughRoom
		}
	}
	if x.place != nil {
		if err := x.place.room(need); err != nil {
			return err
		}
	}
	return x.merge.admit()
}

// scanBatch is how many entries a Scan reads in one transaction: tables that were merged, and
// what was written meanwhile, stay on the disk and in memory until those end that may read
// them, and a consumer can take hours.
const scanBatch = 4096

// Scan implements cache.Index. Entries are the consumer's until it asks for the next one.
// Those that are changed meanwhile are yielded as they were or as they are.
func (x *Index) Scan(ctx context.Context, prefix, from []byte) iter.Seq2[cache.Entry, error] {
	return func(yield func(cache.Entry, error) bool) {
		if err := x.begin(); err != nil {
			yield(cache.Entry{}, err)
			return
		}
		defer x.calls.Done()
		c := cursor{db: x.db, prefix: prefix, at: prefix}
		if string(from) > string(prefix) {
			c.at = from
		}
		defer c.close()
		for {
			// The consumer is not guarded: its panics are its own.
			err := guarded(c.next)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(cache.Entry{}, fmt.Errorf("index: %w", err))
				return
			}
			if c.end || !yield(c.entry, nil) {
				return
			}
		}
	}
}

// cursor goes through entries.
type cursor struct {
	db     *badger.DB
	prefix []byte
	at     []byte // where the transaction begins

	txn  *badger.Txn
	it   *badger.Iterator // nil where there is none yet
	read int              // how many entries in this transaction

	entry cache.Entry
	end   bool
}

// open begins a transaction, at c.at.
func (c *cursor) open() {
	opts := badger.DefaultIteratorOptions
	opts.Prefix = c.prefix
	opts.PrefetchValues = false // values lie beside their keys
	c.txn, c.read = c.db.NewTransaction(false), 0
	c.it = c.txn.NewIterator(opts)
	c.it.Seek(c.at)
}

// close ends the transaction, if there is one.
func (c *cursor) close() {
	if c.it != nil {
		c.it.Close()
	}
	if c.txn != nil {
		c.txn.Discard()
	}
	c.it, c.txn = nil, nil
}

// next goes to the next entry.
func (c *cursor) next() error {
	switch {
	case c.it == nil:
		c.open()
	case c.read == scanBatch:
		c.at = append(bytes.Clone(c.entry.Key), 0) // the next key that there can be
		c.close()
		c.open()
	default:
		c.it.Next()
	}
	if !c.it.ValidForPrefix(c.prefix) {
		c.end = true
		return nil
	}
	c.read++
	item := c.it.Item()
	c.entry.Key = item.Key()
	return item.Value(func(value []byte) error {
		c.entry.Value = value
		return nil
	})
}

// quiet passes Badger's messages on one or two levels lower: its start-up
// notes are no information for an operator.
type quiet struct{ log logrus.FieldLogger }

func (q quiet) Errorf(format string, args ...any)   { q.log.Errorf("index: "+format, args...) }
func (q quiet) Warningf(format string, args ...any) { q.log.Warnf("index: "+format, args...) }
func (q quiet) Debugf(format string, args ...any)   { q.log.Debugf("index: "+format, args...) }
func (q quiet) Infof(format string, args ...any)    { q.log.Debugf("index: "+format, args...) }

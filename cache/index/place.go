package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"

	"registry-module/internal/durable"
)

// Free space is looked for before Badger is given something to write: it maps files that
// have no blocks yet, and a full disk then ends the process (SIGBUS). A memtable and
// the tables that come of it take up to 8 MiB.
const (
	leastRoom  = 8 << 20
	enoughRoom = 16 << 20
)

// Room is how many bytes of the disk should be left free for the index, so that it takes
// all changes: with less it refuses them. To merge tables, one of more than some megabytes
// takes up to 32 MiB more and a fifth of its size: where that is never free, it refuses
// changes once there are 32 tables that are not merged, which some 80 MiB of changes make.
const Room = enoughRoom + leastRoom

// place is the directory of a database, locked.
type place struct {
	dir  string
	lock *os.File
	boot string // the boot id
	free func(dir string) (int64, error)
}

// openPlace creates dir, where it is missing, and locks it. A file in its place goes.
func openPlace(dir string) (*place, error) {
	const perm = 0o700
	err := os.MkdirAll(dir, perm)
	if errors.Is(err, syscall.ENOTDIR) {
		if err = os.Remove(dir); err == nil {
			err = os.Mkdir(dir, perm)
		}
	}
	if err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("it is in use: %w", err), lock.Close())
	}
	p := &place{dir: dir, lock: lock, boot: durable.BootID(), free: free}
	if err := p.room(enoughRoom); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return p, nil
}

func (p *place) close() error { return p.lock.Close() }

// room returns an error unless there is room for need bytes.
func (p *place) room(need int64) error {
	free, err := p.free(p.dir)
	if err != nil || free >= need {
		return nil // where it is not known, Badger finds out
	}
	return fmt.Errorf("%d MiB are free on the disk, and %d MiB have to be: %w", free>>20, need>>20, syscall.ENOSPC)
}

func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // types differ between architectures
}

// empty removes what is in the directory, which stays locked.
func (p *place) empty() error {
	entries, err := os.ReadDir(p.dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.dir, e.Name())))
	}
	return err
}

// stateName is the file that says how the database was left.
const stateName = "STATE"

// state is its content. It is durable before anything is acknowledged that it does
// not speak of.
type state struct {
	// Closed tells that the database was closed, with a manifest of that CRC-32C.
	Closed   bool   `json:"closed,omitempty"`
	Manifest uint32 `json:"manifest,omitempty"`
	// Boot is the boot id of the kernel at the time: what a process has written that
	// was killed is in the kernel's page cache.
	Boot string `json:"boot,omitempty"`
}

func (p *place) setOpen() error { return p.setState(state{Boot: p.boot}) }

func (p *place) setClosed() error {
	manifest, err := os.ReadFile(filepath.Join(p.dir, badger.ManifestFilename))
	if err != nil {
		return err
	}
	return p.setState(state{Closed: true, Manifest: sum(manifest), Boot: p.boot})
}

func sum(p []byte) uint32 { return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)) }

func (p *place) setState(st state) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	name := filepath.Join(p.dir, stateName)
	err = durable.WriteFile(durable.OS{}, name, append(text, '\n'))
	if err != nil && os.RemoveAll(name) == nil { // it may be a directory, of whoever
		err = durable.WriteFile(durable.OS{}, name, append(text, '\n'))
	}
	return err
}

// state returns how the database was left: nothing where that is not known.
func (p *place) state() state {
	const limit = 4 << 10
	text, err := durable.ReadFile(durable.OS{}, filepath.Join(p.dir, stateName), limit)
	var st state
	if err != nil || json.Unmarshal(text, &st) != nil {
		return state{}
	}
	return st
}

// check looks at all that Badger is going to read, before it does: Badger ends the
// process, or allocates gigabytes, for some of what damage can look like, and passes
// over other damage in silence. An error is about what makes the database unusable.
// Sound is as in [Index.Sound]; found tells whether there is a database.
func (p *place) check(opts badger.Options) (sound, found bool, err error) {
	if err := p.tidy(); err != nil {
		return false, false, err
	}
	st := p.state()
	tables, err := filepath.Glob(filepath.Join(p.dir, "*.sst"))
	if err != nil {
		return false, false, err
	}
	logs, err := filepath.Glob(filepath.Join(p.dir, "*.mem"))
	if err != nil {
		return false, false, err
	}
	manifest, err := os.ReadFile(filepath.Join(p.dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) && len(tables)+len(logs) == 0 && st == (state{}) {
		return false, false, nil // a new one
	}
	if err != nil {
		return false, true, err
	}
	whole, listed, err := checkTables(opts, len(manifest))
	if err != nil {
		return false, true, err
	}
	for _, name := range logs {
		all, err := checkLog(name)
		if err != nil {
			return false, true, err
		}
		whole = whole && all
	}
	switch {
	case st.Closed:
		sound = st.Manifest == sum(manifest) && listed == len(tables)
	default:
		// A kill leaves tables that are not listed: those that were just made of logs or
		// of other tables, which are still there and listed, and those that were just
		// replaced.
		// There is a log at any time while the database is open.
		sound = st.Boot != "" && st.Boot == p.boot && len(logs) > 0
	}
	return sound && whole, true, nil
}

// longRegistry tells that e is a registry of keys for encryption with more in it than its
// head. There are none, since nothing is encrypted, and Badger takes what is there for the
// length of one, and allocates that: a 32-bit process ends. Without the file it makes a
// new one, and loses nothing.
func longRegistry(e fs.DirEntry) bool {
	const head = 16 + len("Hello Badger") // a vector, and what tells that the key is right
	if e.Name() != badger.KeyRegistryFileName {
		return false
	}
	info, err := e.Info()
	return err != nil || info.Size() != int64(head)
}

// tidy removes what Badger does not need from us, and trusts too much: the value log,
// in which there is nothing, what it knows of that, and what is not its own.
func (p *place) tidy() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	needed := regexp.MustCompile(`^(MANIFEST|KEYREGISTRY|STATE|[0-9]{1,9}\.(sst|mem))$`)
	for _, e := range entries {
		if e.Type().IsRegular() && needed.MatchString(e.Name()) && !longRegistry(e) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

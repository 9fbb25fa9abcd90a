package durabletest

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"registry-module/internal/durable"
)

// Mem is a file system in memory that can lose power. The zero value has nothing
// but the root. Permissions are not kept, and directories cannot be renamed.
//
// It promises as little as POSIX does. The bytes of a file are safe after a Sync
// of it, its name, and that it was renamed or removed, after a Sync of a
// directory that it is or was in. A rename is done or undone as a whole.
type Mem struct {
	mu   sync.Mutex // guards everything below, nodes included
	root *node
	// pending are the changes of directories that no Sync has made safe, in
	// order.
	pending []change
}

var _ durable.FS = (*Mem)(nil)

// node is a file or directory. What a loss of power leaves of it is in the fields
// named safe.
type node struct {
	dir               bool
	entries, safe     map[string]*node // of a directory
	content, safeData []byte           // of a file
	modified          time.Time
}

func newDir() *node {
	return &node{dir: true, entries: make(map[string]*node), safe: make(map[string]*node), modified: time.Now()}
}

// change is what one operation has done to directories.
type change []entry

// entry says what is now under name in dir; nothing where node is nil.
type entry struct {
	dir  *node
	name string
	node *node
}

func (e entry) put(entries map[string]*node) {
	if e.node == nil {
		delete(entries, e.name)
	} else {
		entries[e.name] = e.node
	}
}

// needs tells whether earlier, which came before c, has to be safe when c is.
func (c change) needs(earlier change) bool {
	return slices.ContainsFunc(c, func(a entry) bool {
		return slices.ContainsFunc(earlier, func(b entry) bool { return a.dir == b.dir && a.name == b.name })
	})
}

// do makes a change, which is not safe yet. The caller holds m.mu.
func (m *Mem) do(c ...entry) {
	for _, e := range c {
		e.put(e.dir.entries)
		e.dir.modified = time.Now()
	}
	m.pending = append(m.pending, c)
}

// split divides the pending changes into those that safe chooses, with those that
// they need, and the others. The caller holds m.mu.
func (m *Mem) split(safe func(change) bool) (chosen, rest []change) {
	for _, c := range slices.Backward(m.pending) {
		if safe(c) || slices.ContainsFunc(chosen, func(later change) bool { return later.needs(c) }) {
			chosen = append(chosen, c)
		} else {
			rest = append(rest, c)
		}
	}
	slices.Reverse(chosen)
	slices.Reverse(rest)
	return chosen, rest
}

// sync makes n safe.
func (m *Mem) sync(n *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !n.dir {
		n.safeData = slices.Clone(n.content)
		return
	}
	var chosen []change
	chosen, m.pending = m.split(func(c change) bool {
		return slices.ContainsFunc(c, func(e entry) bool { return e.dir == n })
	})
	for _, c := range chosen {
		for _, e := range c {
			e.put(e.dir.safe)
		}
	}
}

// block is how many bytes a disk writes as a whole.
const block = 4096

// Crash returns what a loss of power leaves. Of what was not made safe, rnd chooses:
// each change of a directory has happened or not, each block of a file is the old
// one, or the new one, or zero where it is behind the old end, and a file may have
// any length between the old and the new one. M itself stays as it is.
func (m *Mem) Crash(rnd *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := make(map[*node]map[string]*node) // the entries of directories with changes
	chosen, _ := m.split(func(change) bool { return rnd.IntN(2) == 0 })
	for _, c := range chosen {
		for _, e := range c {
			if left[e.dir] == nil {
				left[e.dir] = maps.Clone(e.dir.safe)
			}
			e.put(left[e.dir])
		}
	}
	copies := make(map[*node]*node)
	var after func(n *node) *node
	after = func(n *node) *node {
		if copies[n] != nil {
			return copies[n]
		}
		if !n.dir {
			content := n.crash(rnd)
			copies[n] = &node{content: content, safeData: slices.Clone(content), modified: n.modified}
			return copies[n]
		}
		copies[n] = newDir()
		entries := n.safe
		if left[n] != nil {
			entries = left[n]
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) { // in order, so that rnd decides alone
			child := after(entries[name])
			copies[n].entries[name], copies[n].safe[name] = child, child
		}
		return copies[n]
	}
	crashed := &Mem{}
	if m.root != nil {
		crashed.root = after(m.root)
	}
	return crashed
}

// crash returns what is left of the bytes of a file.
func (n *node) crash(rnd *rand.Rand) []byte {
	before, now := n.safeData, n.content
	short, long := min(len(before), len(now)), max(len(before), len(now))
	size := []int{len(before), len(now), short + rnd.IntN(long-short+1)}[rnd.IntN(3)]
	out := make([]byte, size)
	for at := 0; at < size; at += block {
		from := before
		if rnd.IntN(2) == 0 {
			from = now
		}
		if at < len(from) {
			copy(out[at:min(at+block, size)], from[at:])
		}
	}
	return out
}

// find returns what is under name, and where; n is nil where nothing is. The
// caller holds m.mu.
func (m *Mem) find(name string) (dir *node, base string, n *node, err error) {
	if m.root == nil {
		m.root = newDir()
	}
	n = m.root
	for part := range strings.SplitSeq(filepath.Clean(name), string(filepath.Separator)) {
		if part == "" {
			continue // the root
		}
		switch {
		case n == nil:
			return nil, "", nil, fs.ErrNotExist
		case !n.dir:
			return nil, "", nil, syscall.ENOTDIR
		}
		dir, base, n = n, part, n.entries[part]
	}
	return dir, base, n, nil
}

// OpenFile implements durable.FS.
func (m *Mem) OpenFile(name string, flag int, _ fs.FileMode) (durable.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, n, err := m.find(name)
	switch {
	case err != nil:
	case n == nil && flag&os.O_CREATE == 0:
		err = fs.ErrNotExist
	case n == nil:
		n = &node{modified: time.Now()}
		m.do(entry{dir, base, n})
	case flag&os.O_EXCL != 0:
		err = fs.ErrExist
	case n.dir && flag&^syscall.O_NOFOLLOW != os.O_RDONLY:
		err = syscall.EISDIR
	case flag&os.O_TRUNC != 0:
		n.content = nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &memFile{m: m, n: n, name: name, appends: flag&os.O_APPEND != 0}, nil
}

// Mkdir implements durable.FS.
func (m *Mem) Mkdir(name string, _ fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, n, err := m.find(name)
	if n != nil {
		err = fs.ErrExist
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	m.do(entry{dir, base, newDir()})
	return nil
}

// Rename implements durable.FS.
func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, oldBase, n, err := m.find(oldname)
	to, newBase, there, newErr := m.find(newname)
	switch {
	case err != nil:
	case newErr != nil:
		err = newErr
	case n == nil:
		err = fs.ErrNotExist
	case n.dir:
		err = syscall.ENOSYS
	case there == n:
		return nil
	case there != nil && there.dir:
		err = fs.ErrExist
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	m.do(entry{from, oldBase, nil}, entry{to, newBase, n})
	return nil
}

// Remove implements durable.FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, n, err := m.find(name)
	switch {
	case err != nil:
	case n == nil:
		err = fs.ErrNotExist
	case len(n.entries) > 0:
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	m.do(entry{dir, base, nil})
	return nil
}

// ReadDir implements durable.FS.
func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _, n, err := m.find(name)
	switch {
	case err != nil:
	case n == nil:
		err = fs.ErrNotExist
	case !n.dir:
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	var entries []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		entries = append(entries, fs.FileInfoToDirEntry(n.entries[name].info(name)))
	}
	return entries, nil
}

// Lstat implements durable.FS.
func (m *Mem) Lstat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, base, n, err := m.find(name)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return n.info(base), nil
}

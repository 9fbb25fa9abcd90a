package cache_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
)

// brokenFS is a file system in memory, of which one file can neither be opened, or not be
// read from a place on, until it is removed.
type brokenFS struct {
	durabletest.Mem
	mu     sync.Mutex
	name   string
	opened error // of opening it
	bad    int64 // where it cannot be read; 0 is nowhere
	inodes map[string]uint64
	last   uint64
	fixed  bool // nothing can be removed

	compared atomic.Int64 // bytes that were read by ReadAt
}

// readOnly tells whether something can be removed.
func (f *brokenFS) readOnly(is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fixed = is
}

func (f *brokenFS) damage(name string, opened error, bad int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name, f.opened, f.bad = name, opened, bad
}

func (f *brokenFS) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	f.mu.Lock()
	broken := name == f.name
	err := f.opened
	f.mu.Unlock()
	if broken && err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	// Together, or it may get the number of what is put in its place meanwhile.
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := f.Mem.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &brokenFile{file, f, name, f.inodes[name], broken}, nil
}

func (f *brokenFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inodes == nil {
		f.inodes = make(map[string]uint64)
	}
	f.last++
	f.inodes[to] = f.last
	return f.Mem.Rename(from, to)
}

func (f *brokenFS) Remove(name string) error {
	f.mu.Lock()
	fixed := f.fixed
	f.mu.Unlock()
	if fixed {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EROFS}
	}
	if err := f.Mem.Remove(name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == f.name {
		f.name = ""
	}
	return nil
}

type brokenFile struct {
	durable.File
	fs     *brokenFS
	name   string
	inode  uint64
	broken bool
}

func (f *brokenFile) Stat() (fs.FileInfo, error) {
	info, err := f.File.Stat()
	return numbered{info, f.inode}, err
}

// numbered is a file with the number that a file system gives it.
type numbered struct {
	fs.FileInfo
	inode uint64
}

func (n numbered) Sys() any { return &syscall.Stat_t{Ino: n.inode} }

// good is how much of p can be read.
func (f *brokenFile) good(p []byte, off int64) ([]byte, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if !f.broken || f.fs.bad == 0 || off+int64(len(p)) <= f.fs.bad {
		return p, nil
	}
	return p[:max(f.fs.bad-off, 0)], &fs.PathError{Op: "read", Path: f.name, Err: syscall.EIO}
}

func (f *brokenFile) Read(p []byte) (int, error) {
	pos, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	good, err := f.good(p, pos)
	if len(good) == 0 && err != nil {
		return 0, err
	}
	return f.File.Read(good)
}

func (f *brokenFile) ReadAt(p []byte, off int64) (int, error) {
	good, bad := f.good(p, off)
	n, err := f.File.ReadAt(good, off)
	f.fs.compared.Add(int64(n))
	return n, cmp.Or(err, bad)
}

// vault is a quarantine that counts what is put into it, or refuses it.
type vault struct {
	fs  *brokenFS
	mu  sync.Mutex
	err error
	n   int
}

func (v *vault) Quarantine(_ context.Context, dgst digest.Digest) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return v.err
	}
	v.n++
	return v.fs.Remove(blobFile(dgst))
}

func (v *vault) refuse(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.err = err
}

// ward is a site over a directory, of which the files can be damaged.
type ward struct {
	*site
	fs    *brokenFS
	vault *vault
	log   *test.Hook
}

func newWard(t *testing.T, adjust ...func(*cache.Options)) *ward {
	t.Helper()
	w := &ward{fs: new(brokenFS)}
	dir := t.TempDir() // only for the lock
	store, err := disk.Open(dir, disk.Options{FS: rooted{w.fs, dir}})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	w.vault = &vault{fs: w.fs}
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.WarnLevel)
	w.log = hook
	w.site = newSite(t, append([]func(*cache.Options){func(o *cache.Options) {
		o.Blobs, o.Partials, o.Refs = store, store.Partials(), store.Refs()
		o.Quarantine, o.Log = w.vault, log
	}}, adjust...)...)
	return w
}

// rooted has the files below a directory at the root of another file system.
type rooted struct {
	durable.FS
	dir string
}

func (f rooted) at(name string) string {
	name = strings.TrimPrefix(name, f.dir)
	return cmp.Or(name, "/")
}

func (f rooted) OpenFile(name string, flag int, perm fs.FileMode) (durable.File, error) {
	return f.FS.OpenFile(f.at(name), flag, perm)
}
func (f rooted) Mkdir(name string, perm fs.FileMode) error  { return f.FS.Mkdir(f.at(name), perm) }
func (f rooted) Rename(from, to string) error               { return f.FS.Rename(f.at(from), f.at(to)) }
func (f rooted) Remove(name string) error                   { return f.FS.Remove(f.at(name)) }
func (f rooted) Lstat(name string) (fs.FileInfo, error)     { return f.FS.Lstat(f.at(name)) }
func (f rooted) ReadDir(name string) ([]fs.DirEntry, error) { return f.FS.ReadDir(f.at(name)) }

func blobFile(dgst digest.Digest) string {
	hex := dgst.Encoded()
	return "/docker/registry/v2/blobs/sha256/" + hex[:2] + "/" + hex + "/data"
}

// alter replaces the bytes of a stored blob in place.
func (w *ward) alter(t *testing.T, dgst digest.Digest, change func([]byte) []byte) {
	t.Helper()
	time.Sleep(time.Second) // so that it is modified later
	f, err := w.fs.OpenFile(blobFile(dgst), os.O_RDWR, 0)
	must(t, err)
	p, err := io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	f, err = w.fs.OpenFile(blobFile(dgst), os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	_, err = f.Write(change(p))
	must(t, errors.Join(err, f.Close()))
}

func flip(at func(n int) int) func([]byte) []byte {
	return func(p []byte) []byte { p[at(len(p))] ^= 0x40; return p }
}

// damages are what can happen to the file of a blob of at least 1000 bytes. Sameness
// tells that it can be opened and has its length.
var damages = map[string]struct {
	do       func(*testing.T, *ward, digest.Digest)
	sameness bool
}{
	"first bit": {func(t *testing.T, w *ward, d digest.Digest) { w.alter(t, d, flip(func(int) int { return 0 })) }, true},
	"a bit":     {func(t *testing.T, w *ward, d digest.Digest) { w.alter(t, d, flip(func(n int) int { return n / 2 })) }, true},
	"last bit":  {func(t *testing.T, w *ward, d digest.Digest) { w.alter(t, d, flip(func(n int) int { return n - 1 })) }, true},
	"zeroed": {func(t *testing.T, w *ward, d digest.Digest) {
		w.alter(t, d, func(p []byte) []byte { clear(p); return p })
	}, true},
	"truncated": {func(t *testing.T, w *ward, d digest.Digest) {
		w.alter(t, d, func(p []byte) []byte { return p[:len(p)/2] })
	}, false},
	"empty": {func(t *testing.T, w *ward, d digest.Digest) { w.alter(t, d, func([]byte) []byte { return nil }) }, false},
	"longer": {func(t *testing.T, w *ward, d digest.Digest) {
		w.alter(t, d, func(p []byte) []byte { return append(p, 1) })
	}, false},
	"deleted": {func(t *testing.T, w *ward, d digest.Digest) { must(t, w.fs.Remove(blobFile(d))) }, false},
	"directory": {func(t *testing.T, w *ward, d digest.Digest) {
		must(t, w.fs.Remove(blobFile(d)))
		must(t, w.fs.Mkdir(blobFile(d), 0o700))
	}, false},
	"not permitted": {func(_ *testing.T, w *ward, d digest.Digest) { w.fs.damage(blobFile(d), syscall.EACCES, 0) }, false},
	"read error":    {func(_ *testing.T, w *ward, d digest.Digest) { w.fs.damage(blobFile(d), nil, 600) }, false},
}

// request is one way of reading a blob.
type request func(ctx context.Context, r *cache.Repository, dgst digest.Digest) (got []byte, from int, passing bool, err error)

var requests = map[string]request{
	"read": func(ctx context.Context, r *cache.Repository, dgst digest.Digest) ([]byte, int, bool, error) {
		b, err := r.OpenBlob(ctx, dgst)
		if err != nil {
			return nil, 0, false, err
		}
		p, err := io.ReadAll(b)
		return p, 0, false, errors.Join(err, b.Close())
	},
	"sent": func(ctx context.Context, r *cache.Repository, dgst digest.Digest) ([]byte, int, bool, error) {
		b, err := r.OpenBlob(ctx, dgst)
		if err != nil {
			return nil, 0, false, err
		}
		var p bytes.Buffer
		if b.Passing() {
			_, err = io.Copy(&p, b)
		} else {
			_, err = b.CopyN(&p, b.Size())
		}
		return p.Bytes(), 0, false, errors.Join(err, b.Close())
	},
	"range": func(ctx context.Context, r *cache.Repository, dgst digest.Digest) ([]byte, int, bool, error) {
		b, err := r.OpenBlob(ctx, dgst)
		if err != nil {
			return nil, 0, false, err
		}
		if b.Passing() {
			_, _ = io.Copy(io.Discard, b) // the next one finds out
			return nil, 0, true, b.Close()
		}
		from := b.Size()/2 - 100
		_, err = b.Seek(from, io.SeekStart)
		p := new(bytes.Buffer)
		if err == nil {
			_, err = b.CopyN(p, 200)
		}
		return p.Bytes(), int(from), false, errors.Join(err, b.Close())
	},
}

// Whatever has happened to a stored blob, nobody gets a wrong byte with a good end; and
// where the remote is there, the same request gets the right ones, for one request to it
// whatever the number of readers.
func TestDamagedBlob(t *testing.T) {
	states := map[string]func(*testing.T, *ward){
		"first read":   func(t *testing.T, w *ward) { w.reopen(t) },
		"trusted":      func(*testing.T, *ward) {},
		"without sums": func(t *testing.T, w *ward) { w.loseIndex(); w.reopen(t) },
	}
	for _, size := range []int{1000, 1<<20 + 5, 4<<20 + 11} {
		content := randomBytes(size)
		for state, begin := range states {
			for name, damage := range damages {
				for kind, ask := range requests {
					if size > 1000 && kind != "read" && !slices.Contains([]string{"a bit", "truncated", "read error"}, name) {
						continue // as good as the small one
					}
					for _, away := range []bool{false, true} {
						t.Run(fmt.Sprintf("%d/%s/%s/%s/away %v", size, state, name, kind, away), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								w := newWard(t)
								dgst := w.up.AddBlob("a", content)
								readAll(t, w.openBlob(t, "a", dgst))
								synctest.Wait()
								begin(t, w)
								damage.do(t, w, dgst)
								if away {
									w.up.Fail(cache.ErrUnavailable)
								}
								w.askTwice(t, ask, dgst, content, away, size > 4<<20 && state == "without sums" && (damage.sameness || away))
								if away {
									w.up.Fail(nil)
								}
								if got := readAll(t, w.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
									t.Error("afterwards: other content")
								}
								synctest.Wait()
								if kind == "range" && name != "deleted" { // what is read of it may be right
									return
								}
								if got := w.up.Sent(); got != 2*int64(size) {
									t.Errorf("the remote has sent %d bytes, want %d", got, 2*size)
								}
							})
						})
					}
				}
			}
		}
	}
}

// askTwice makes two requests at once. Where the remote is there they have to succeed,
// unless mayFail.
func (w *ward) askTwice(t *testing.T, ask request, dgst digest.Digest, content []byte, away, mayFail bool) {
	t.Helper()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			got, from, passing, err := ask(t.Context(), w.Repository("a"), dgst)
			switch {
			case passing:
			case err == nil && strings.Contains(t.Name(), "/range/") && !bytes.Equal(got, content[from:from+200]),
				err == nil && !strings.Contains(t.Name(), "/range/") && !bytes.Equal(got, content):
				t.Errorf("%d wrong bytes, and no error", len(got))
			case err != nil && !away && !mayFail:
				t.Errorf("error %v after %d bytes", err, len(got))
			case err != nil && away && !mayFail && !errors.Is(err, cache.ErrUnavailable):
				t.Errorf("remote away: error %v, want ErrUnavailable", err)
			case err != nil && !mayFail && !bytes.HasPrefix(content[from:], got):
				t.Error("wrong bytes were given out before the error")
			}
		})
	}
	wg.Wait()
	synctest.Wait()
}

// What the process has run out of says nothing about what is stored.
func TestNoDamage(t *testing.T) {
	for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		synctest.Test(t, func(t *testing.T) {
			w := newWard(t)
			order, _ := w.stock(t, 1, 1000)
			w.fs.damage(blobFile(order[0]), err, 0)
			if _, got := w.Repository("a").OpenBlob(t.Context(), order[0]); !errors.Is(got, err) {
				t.Errorf("error %v, want %v", got, err)
			}
			if w.vault.n != 0 || w.Health().Damaged != 0 {
				t.Errorf("%v: it was taken away", err)
			}
			w.fs.damage("", nil, 0)
			readAll(t, w.openBlob(t, "a", order[0]))
			w.wantCalls(t, "blob", 1)
		})
	}
}

// What is damaged and cannot be taken away passes through from the remote, with one
// warning, until it can be.
func TestDamageStays(t *testing.T) {
	for name, damage := range damages {
		if name == "deleted" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t, realClock)
				order, all := w.stock(t, 1, 100_000)
				dgst := order[0]
				damage.do(t, w, dgst)
				w.reopen(t)
				w.vault.refuse(syscall.EROFS)
				w.fs.readOnly(true)
				for range 3 {
					if got := readAll(t, w.openBlob(t, "a", dgst)); !bytes.Equal(got, all[dgst]) {
						t.Error("other content")
					}
				}
				w.wantCalls(t, "blob", 4)
				if n := len(w.log.AllEntries()); n != 1 {
					t.Errorf("%d warnings, want 1", n)
				}
				w.up.Fail(cache.ErrUnavailable)
				if _, err := w.Repository("a").OpenBlob(t.Context(), dgst); !errors.Is(err, cache.ErrUnavailable) {
					t.Errorf("remote away: error %v", err)
				}
				w.up.Fail(nil)
				w.vault.refuse(nil)
				w.fs.readOnly(false)
				time.Sleep(10 * time.Minute)
				for range 2 {
					readAll(t, w.openBlob(t, "a", dgst))
					synctest.Wait()
				}
				w.wantCalls(t, "blob", 6)
			})
		})
	}
}

// A manifest is compared each time that it is read, whatever is wrong with its file.
func TestDamagedManifest(t *testing.T) {
	for name, damage := range damages {
		if name == "read error" {
			damage.do = func(_ *testing.T, w *ward, d digest.Digest) { w.fs.damage(blobFile(d), nil, 6) }
		}
		for _, state := range []string{"there", "away", "index lost"} {
			t.Run(name+"/"+state, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWard(t)
					w.addImage("a", "v1", "first")
					m, err := w.Repository("a").Tag(t.Context(), "v1")
					must(t, err)
					w.reopen(t)
					damage.do(t, w, m.Digest)
					switch state {
					case "index lost":
						w.loseIndex()
						w.reopen(t)
					case "away":
						w.up.Fail(cache.ErrUnavailable)
						if _, err := w.Repository("a").Manifest(t.Context(), m.Digest); !errors.Is(err, cache.ErrUnavailable) {
							t.Errorf("remote away: error %v", err)
						}
						w.up.Fail(nil)
					}
					got, err := w.Repository("a").Manifest(t.Context(), m.Digest)
					if err != nil || !bytes.Equal(got.Bytes, m.Bytes) {
						t.Errorf("%d bytes, %v", len(got.Bytes), err)
					}
					w.reopen(t, noUpstream)
					if _, err := w.Repository("a").Tag(t.Context(), "v1"); err != nil {
						t.Errorf("afterwards, by its tag: %v", err)
					}
				})
			})
		}
	}
}

// The size of a blob that was damaged when the index was lost is what its manifest says.
func TestHeadAfterIndexIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t)
		text := strings.Repeat("layer", 1_200_000)
		_, dgst := w.addImage("a", "v1", text)
		_, err := w.Repository("a").Tag(t.Context(), "v1")
		must(t, err)
		readAll(t, w.openBlob(t, "a", dgst))
		synctest.Wait()
		damages["truncated"].do(t, w, dgst)
		w.loseIndex()
		w.reopen(t)
		if d, err := w.Repository("a").StatBlob(t.Context(), dgst); err != nil || d.Size != int64(len(text)) {
			t.Errorf("%d bytes, %v, want %d", d.Size, err, len(text))
		}
		if got := readAll(t, w.openBlob(t, "a", dgst)); string(got) != text {
			t.Error("other content")
		}
	})
}

// A HEAD of what is damaged fetches nothing.
func TestHeadOfDamagedBlob(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t)
				order, _ := w.stock(t, 1, 100_000)
				w.reopen(t)
				damage.do(t, w, order[0])
				if b, err := w.Repository("a").CachedBlob(t.Context(), order[0]); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("error %v, want that it is not stored", err)
					if err == nil {
						must(t, b.Close())
					}
				}
				if d, err := w.Repository("a").StatBlob(t.Context(), order[0]); err != nil || d.Size != 100_000 {
					t.Errorf("%d bytes, %v", d.Size, err)
				}
				w.wantCalls(t, "blob", 1)
			})
		})
	}
}

// A file that becomes shorter, or cannot be read on, while a reader is in the middle of
// it: the reader gets the rest from the remote, and if that is away an error.
func TestDamageWhileReading(t *testing.T) {
	content := randomBytes(3 << 20)
	for name, damage := range map[string]func(*testing.T, *ward, digest.Digest){
		"shorter": func(t *testing.T, w *ward, d digest.Digest) {
			w.fs.damage("", nil, 0)
			w.alter(t, d, func(p []byte) []byte { return p[:2<<20] })
		},
		"cannot be read": func(_ *testing.T, w *ward, d digest.Digest) { w.fs.damage(blobFile(d), nil, 2<<20) },
	} {
		for _, away := range []bool{false, true} {
			for _, sent := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/away %v/sent %v", name, away, sent), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWard(t)
						dgst := w.up.AddBlob("a", content)
						readAll(t, w.openBlob(t, "a", dgst))
						synctest.Wait()
						w.fs.damage(blobFile(dgst), nil, 3<<20)
						b := w.openBlob(t, "a", dgst)
						var got bytes.Buffer
						_, err := io.CopyN(&got, b, 1<<20)
						must(t, err)
						damage(t, w, dgst)
						if away {
							w.up.Fail(cache.ErrUnavailable)
						}
						if sent {
							_, err = b.CopyN(&got, 2<<20)
						} else {
							_, err = io.Copy(&got, b)
						}
						must(t, b.Close())
						if away && (!errors.Is(err, cache.ErrUnavailable) || !bytes.HasPrefix(content, got.Bytes())) ||
							!away && (err != nil || !bytes.Equal(got.Bytes(), content)) {
							t.Errorf("%d bytes, error %v", got.Len(), err)
						}
					})
				})
			}
		}
	}
}

// Sums that make no sense are none.
func TestDamagedSums(t *testing.T) {
	for _, sums := range []string{``, `{}`, `{"s":1,"p":0,"c":""}`, `{"s":200000,"p":1048576,"c":"AAA="}`, `{"s":200000,"p":1,"c":"AAAAAA=="}`, `{"s":-1,"p":-1,"c":"AAAAAA=="}`} {
		synctest.Test(t, func(t *testing.T) {
			w := newWard(t)
			order, all := w.stock(t, 1, 200_000)
			must(t, w.index.Apply(t.Context(), cache.Change{Key: []byte("c\x00" + order[0].String()), Value: []byte(sums)}))
			w.reopen(t, noUpstream)
			if got := readAll(t, w.openBlob(t, "a", order[0])); !bytes.Equal(got, all[order[0]]) {
				t.Errorf("%s: other content", sums)
			}
			if w.Health().Damaged != 0 {
				t.Errorf("%s: it counts as damaged", sums)
			}
		})
	}
}

// Once compared, a blob is not read again to be compared, and a range makes only its
// parts be read.
func TestComparedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWard(t)
		const size = 20 << 20
		order, all := w.stock(t, 1, size)
		w.reopen(t, noUpstream)
		read := func(from, n int64) int64 {
			before := w.fs.compared.Load()
			b := w.openBlob(t, "a", order[0])
			_, err := b.Seek(from, io.SeekStart)
			must(t, err)
			var got bytes.Buffer
			_, err = b.CopyN(&got, n)
			must(t, err)
			must(t, b.Close())
			if !bytes.Equal(got.Bytes(), all[order[0]][from:from+n]) {
				t.Error("other content")
			}
			return w.fs.compared.Load() - before
		}
		for _, step := range []struct{ from, n, want int64 }{
			{10<<20 + 5, 100, 2 << 20}, // its part, and the first
			{10<<20 + 5, 100, 0},
			{0, size, size - 2<<20},
			{0, size, 0},
		} {
			if got := read(step.from, step.n); got != step.want {
				t.Errorf("%d bytes from %d: %d were compared, want %d", step.n, step.from, got, step.want)
			}
		}
	})
}

// Where a large blob without sums cannot be read to its end, the response goes on only if
// what was given out was right.
func TestWrongBytesBeforeReadError(t *testing.T) {
	content := randomBytes(6 << 20)
	for name, wrong := range map[string]bool{"right before": false, "wrong before": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWard(t)
				dgst := w.up.AddBlob("a", content)
				readAll(t, w.openBlob(t, "a", dgst))
				synctest.Wait()
				w.loseIndex()
				w.reopen(t)
				if wrong {
					w.alter(t, dgst, flip(func(int) int { return 100 }))
				}
				w.fs.damage(blobFile(dgst), nil, 3<<20)
				b := w.openBlob(t, "a", dgst)
				got, err := io.ReadAll(b)
				must(t, b.Close())
				if wrong && err == nil || !wrong && (err != nil || !bytes.Equal(got, content)) {
					t.Errorf("%d bytes, error %v", len(got), err)
				}
				synctest.Wait()
				if got := readAll(t, w.openBlob(t, "a", dgst)); !bytes.Equal(got, content) {
					t.Error("afterwards: other content")
				}
				w.wantCalls(t, "blob", 2)
			})
		})
	}
}

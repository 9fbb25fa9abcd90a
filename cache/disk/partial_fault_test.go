package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/cache/disk"
	"registry-module/internal/durable"
	"registry-module/internal/durable/durabletest"
	"registry-module/internal/extents"
)

// outcome is what a process has been told.
type outcome struct {
	synced    extents.Set // what was written before a Sync, in parts that were complete
	stored    bool        // blob and link
	discarded bool        // or it was tried
	err       error
}

// safe is what has to be held afterwards, where it was before.
func (out outcome) safe(before extents.Set) extents.Set {
	if out.discarded {
		return nil
	}
	safe := slices.Clone(before)
	for _, span := range out.synced {
		safe.Add(span)
	}
	return safe
}

// download takes up what is kept of the content, fetches the rest, and stores and
// links it, or throws it away. It syncs once in between, and suspends what fails.
// The content is held to be right: that is checked afterwards.
func download(ctx context.Context, s *disk.Store, discard bool) (out outcome) {
	content, dgst := partialContent()
	p, err := s.Partials().Resume(ctx, dgst)
	if err != nil {
		out.err = err
		return out
	}
	held := extents.Set(p.Held())
	out.err = func() error {
		if err := p.Keep([]byte("note")); err != nil {
			return err
		}
		there := slices.Clone(held)
		gaps := slices.Collect(held.Gaps(extents.Span{End: int64(len(content))}))
		for _, gap := range gaps {
			for at := gap.Start; at < gap.End; {
				end := min(gap.End, at+part*3/4)
				if _, err := p.WriteAt(content[at:end], at); err != nil {
					return err
				}
				there.Add(extents.Span{Start: at, End: end})
				at = end
			}
			if len(out.synced) > 0 {
				continue
			}
			if err := p.Sync(ctx); err != nil {
				return err
			}
			for _, span := range there {
				out.synced.Add(extents.Span{Start: (span.Start + part - 1) / part * part, End: span.End / part * part})
			}
		}
		if discard {
			out.discarded = true
			return p.Discard()
		}
		if err := p.Commit(ctx); err != nil {
			return err
		}
		err := s.Refs().Put(ctx, partialRef(dgst), dgst)
		out.stored = err == nil
		return err
	}()
	if out.err != nil {
		_, err := p.Suspend()
		out.err = errors.Join(out.err, err)
	}
	return out
}

func partialRef(dgst digest.Digest) cache.Ref {
	return cache.Ref{Repo: "a/b", Kind: cache.RefLayer, Name: dgst.String()}
}

// start is what an earlier process may have left.
type start string

const (
	nothing start = "nothing"
	kept    start = "kept"    // and synced: the first part, and some of the third
	damaged start = "damaged" // the same, but the first part is, and the kernel was started anew
)

// begin makes a file system with what an earlier process has left, and returns
// what of it is safe, and under which boot id the next process runs.
func (st start) begin(t *testing.T, dir string) (m *durabletest.Mem, safe extents.Set, id string) {
	t.Helper()
	content, dgst := partialContent()
	m = new(durabletest.Mem)
	s := openWith(t, dir, m, "a")
	if st == nothing {
		check(t, s.Close())
		return m, nil, "a"
	}
	p := resume(t, s, dgst)
	check(t, p.Keep([]byte("note")))
	writeAt(t, p, content[:part], 0)
	writeAt(t, p, content[2*part:2*part+500], 2*part)
	_, err := p.Suspend()
	check(t, err)
	p = resume(t, s, dgst) // so that it is recorded, and then synced
	check(t, p.Sync(t.Context()))
	_, err = p.Suspend()
	check(t, err)
	check(t, s.Close())
	safe = extents.Set{{Start: 0, End: part}, {Start: 2 * part, End: 2*part + 500}}
	if st == damaged {
		f, err := m.OpenFile(filepath.Join(dir, "partial", "sha256-"+dgst.Encoded()), 2, 0)
		check(t, err)
		_, err = f.WriteAt([]byte("wrong"), 100)
		check(t, err)
		check(t, f.Sync())
		check(t, f.Close())
		safe.Remove(extents.Span{Start: 0, End: part})
		return m, safe, "b"
	}
	return m, safe, "a"
}

// process runs one process, which downloads.
func process(t *testing.T, dir string, fsys durable.FS, id string, discard bool) (out outcome) {
	t.Helper()
	s, err := disk.Open(dir, disk.Options{FS: fsys, BootID: boot(id)})
	if err != nil {
		return outcome{err: err}
	}
	out = download(t.Context(), s, discard)
	check(t, s.Close())
	return out
}

// checkAfter opens the directory with all that is promised: safe is what has to be
// held, unless the blob is stored.
func checkAfter(t *testing.T, dir string, m *durabletest.Mem, id string, safe extents.Set, stored bool) {
	t.Helper()
	content, dgst := partialContent()
	s := openWith(t, dir, m, id)
	defer func() { check(t, s.Close()) }()
	data := "sha256-" + dgst.Encoded()
	if left := listPartial(t, m, dir); len(left) != 0 && !slices.Equal(left, []string{data, data + ".journal"}) {
		t.Errorf("left: %q", left)
	}
	b, err := s.Open(t.Context(), dgst)
	there := err == nil
	switch {
	case there:
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("the blob is wrong, or cannot be read: %v", err)
		}
		check(t, b.Close())
	case !errors.Is(err, fs.ErrNotExist):
		t.Errorf("the blob: %v", err)
	}
	link, err := s.Refs().Get(t.Context(), partialRef(dgst))
	if stored && (!there || err != nil || link != dgst) {
		t.Errorf("what was stored is there: %v; its link: %q, %v", there, link, err)
	}

	p := resume(t, s, dgst)
	held := extents.Set(p.Held())
	r, err := p.Open(t.Context())
	check(t, err)
	for _, span := range held {
		got := make([]byte, span.Len())
		_, err := r.Seek(span.Start, io.SeekStart)
		check(t, err)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, content[span.Start:span.End]) {
			t.Errorf("what is held at %v is wrong: %v", span, err)
		}
	}
	check(t, r.Close())
	for _, span := range safe {
		if !there && held.EndAt(span.Start) < span.End {
			t.Errorf("held %v, want %v, which was synced", held, span)
		}
	}
	if note := p.Note(); len(held) > 0 && string(note) != "note" {
		t.Errorf("note %q", note)
	}
	_, err = p.Suspend()
	check(t, err)

	if out := download(t.Context(), s, false); out.err != nil || !out.stored {
		t.Errorf("the next try: %v", out.err)
	}
	if left := listPartial(t, m, dir); len(left) != 0 {
		t.Errorf("left after the next try: %q", left)
	}
	b, err = s.Open(t.Context(), dgst)
	check(t, err)
	if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after the next try the blob is wrong, or cannot be read: %v", err)
	}
	check(t, b.Close())
}

// Each operation of taking up a download and storing it fails in turn, or is the
// last one of the process. Whatever the next process finds, what is held is right,
// and what was synced is held.
func TestPartialFails(t *testing.T) {
	_, dgst := partialContent()
	for _, mode := range []struct {
		name string
		mode durabletest.Mode
		err  error
	}{
		{"absent", durabletest.Absent, nil},
		{"done", durabletest.Done, syscall.ENOSPC},
		{"killed", durabletest.Dead, nil},
	} {
		for _, st := range []start{nothing, kept, damaged} {
			for _, discard := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, discard %v", mode.name, st, discard), func(t *testing.T) {
					dir := t.TempDir()
					for at := 0; ; at++ {
						for _, next := range []string{"same", "next"} {
							m, safe, id := st.begin(t, dir)
							faulty := &durabletest.FS{FS: m, At: at, Mode: mode.mode, Err: mode.err}
							out := process(t, dir, faulty, id, discard)
							if len(faulty.Ops()) <= at { // nothing was left to fail
								if out.err != nil {
									t.Errorf("without a failure: %v", out.err)
								}
								return
							}
							failed := strings.ReplaceAll(strings.ReplaceAll(faulty.Ops()[at], dir, ""), dgst.Encoded(), "DIGEST")
							safe = out.safe(safe)
							if failed == "sync /partial/sha256-DIGEST" && mode.mode != durabletest.Dead {
								safe = nil // nobody can tell what is
							}
							if next == "next" {
								id = next
							}
							checkAfter(t, dir, m, id, safe, out.stored)
							if t.Failed() {
								t.Fatalf("after %q, %s boot", failed, next)
							}
						}
					}
				})
			}
		}
	}
}

// The power goes before each operation in turn, and takes of what was not synced
// whatever it likes.
func TestPartialPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, st := range []start{nothing, kept, damaged} {
		for _, discard := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, discard %v", st, discard), func(t *testing.T) {
				dir := t.TempDir()
				for at := 0; ; at++ {
					m, safe, id := st.begin(t, dir)
					faulty := &durabletest.FS{FS: m, At: at, Mode: durabletest.Dead}
					out := process(t, dir, faulty, id, discard)
					for range 4 {
						checkAfter(t, dir, m.Crash(rnd), "next", out.safe(safe), out.stored)
						if t.Failed() {
							t.Fatalf("the power was cut after %q", faulty.Ops()[:min(at, len(faulty.Ops()))])
						}
					}
					if len(faulty.Ops()) <= at {
						return
					}
				}
			})
		}
	}
}

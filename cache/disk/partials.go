package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"registry-module/cache"
	"registry-module/internal/durable"
	"registry-module/internal/extents"
)

// Partials returns the unfinished downloads that the directory holds.
func (s *Store) Partials() cache.Partials { return partials{s} }

// partials are pairs of files in partial/: <alg>-<hex>, the bytes, and
// <alg>-<hex>.journal, which says which of them are there. One without the other
// is what a crash has left of a download that was not kept, or has ended.
type partials struct{ s *Store }

const journalSuffix = ".journal"

// partialPath is where the bytes of an unfinished download of dgst, which is
// valid, lie.
func (s *Store) partialPath(dgst digest.Digest) string {
	return s.path(partialDir, dgst.Algorithm().String()+"-"+dgst.Encoded())
}

// partialOf is the digest that a file in partial/ has in its name.
func partialOf(name string) (dgst digest.Digest, ok bool) {
	alg, hex, _ := strings.Cut(name, "-")
	dgst = digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
	return dgst, dgst.Validate() == nil
}

// sweepPartials removes the files in partial/ that nobody can use any more: all
// but the pairs whose journal is one.
func (s *Store) sweepPartials() error {
	entries, err := s.fs.ReadDir(s.path(partialDir))
	if err != nil {
		return fmt.Errorf("unfinished downloads: %w", err)
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		files[e.Name()] = e.Type().IsRegular()
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), journalSuffix)
		dgst, ok := partialOf(name)
		if e.IsDir() || ok && files[name] && files[name+journalSuffix] && s.hasJournal(dgst) {
			continue // a directory, such as lost+found, is not of this program
		}
		if err := s.removeFile(s.path(partialDir, e.Name())); err != nil {
			return fmt.Errorf("unfinished download: %w", err)
		}
	}
	return nil
}

// hasJournal tells whether the journal of dgst is one, so far as its first line
// can tell. One that cannot be read now may be readable later.
func (s *Store) hasJournal(dgst digest.Digest) bool {
	f, err := s.fs.OpenFile(s.partialPath(dgst)+journalSuffix, os.O_RDONLY, 0)
	if err != nil {
		return !unusable(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	line, err := io.ReadAll(io.LimitReader(f, maxHeader))
	if err != nil {
		return !unusable(err)
	}
	j, err := parseHeader(line)
	return err == nil && j.digest == dgst
}

// unusable tells whether err, of reading, is for ever: other errors may pass, and
// what is kept is not to be thrown away for them.
func unusable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrTooLong) || errors.Is(err, unix.EIO)
}

func (s *Store) removeFile(name string) error {
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removePartial removes the two files of an unfinished download. The journal goes
// first: without it the bytes count for nothing.
func (s *Store) removePartial(dgst digest.Digest) error {
	name := s.partialPath(dgst)
	return errors.Join(s.removeFile(name+journalSuffix), s.removeFile(name))
}

// Resume implements cache.Partials.
func (ps partials) Resume(ctx context.Context, dgst digest.Digest) (cache.Partial, error) {
	s := ps.s
	final, err := s.blobPath(dgst)
	if err != nil {
		return nil, err
	}
	if !s.claim(dgst) {
		return nil, fmt.Errorf("unfinished download of %s is in use", dgst)
	}
	p := &partial{
		store: s, dgst: dgst, draft: &draft{store: s, name: s.partialPath(dgst), final: final},
	}
	err = p.resume(ctx)
	if unusable(err) || errors.Is(err, errNotIntact) {
		err = p.start()
	}
	if err != nil {
		s.release(dgst)
		return nil, fmt.Errorf("unfinished download of %s: %w", dgst, err)
	}
	return p, nil
}

// claim makes the caller the only one who uses the unfinished download of dgst;
// false where somebody else is.
func (s *Store) claim(dgst digest.Digest) bool {
	s.partialsMu.Lock()
	defer s.partialsMu.Unlock()
	if s.live[dgst] {
		return false
	}
	s.live[dgst] = true
	return true
}

func (s *Store) release(dgst digest.Digest) {
	s.partialsMu.Lock()
	defer s.partialsMu.Unlock()
	delete(s.live, dgst)
}

func (s *Store) inUse(dgst digest.Digest) bool {
	s.partialsMu.Lock()
	defer s.partialsMu.Unlock()
	return s.live[dgst]
}

// Remove implements cache.Partials. It fails for one that was resumed and has not
// ended.
func (ps partials) Remove(_ context.Context, dgst digest.Digest) error {
	if _, err := ps.s.blobPath(dgst); err != nil {
		return err
	}
	if !ps.s.claim(dgst) {
		return fmt.Errorf("removing the unfinished download of %s: it is in use", dgst)
	}
	defer ps.s.release(dgst)
	if err := ps.s.removePartial(dgst); err != nil {
		return fmt.Errorf("removing the unfinished download of %s: %w", dgst, err)
	}
	return nil
}

// All implements cache.Partials. The end of ctx ends it, with its error. Sizes are
// what the journals say: nothing is compared.
func (ps partials) All(ctx context.Context) iter.Seq2[cache.PartialEntry, error] {
	s := ps.s
	return func(yield func(cache.PartialEntry, error) bool) {
		files, err := s.fs.ReadDir(s.path(partialDir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be missing where nothing can be written
			yield(cache.PartialEntry{}, fmt.Errorf("unfinished downloads: %w", err))
			return
		}
		for _, f := range files {
			dgst, ok := partialOf(f.Name())
			if !ok || s.inUse(dgst) {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(cache.PartialEntry{}, err)
				return
			}
			entry, err := s.partialEntry(dgst)
			if errors.Is(err, fs.ErrNotExist) || s.inUse(dgst) {
				continue // it has ended, or was resumed, meanwhile
			}
			if !yield(entry, err) {
				return
			}
		}
	}
}

func (s *Store) partialEntry(dgst digest.Digest) (cache.PartialEntry, error) {
	entry := cache.PartialEntry{Digest: dgst}
	j, err := s.readJournal(dgst)
	if err != nil {
		return entry, fmt.Errorf("unfinished download of %s: %w", dgst, err)
	}
	f, err := s.fs.OpenFile(s.partialPath(dgst), os.O_RDONLY, 0)
	if err != nil {
		return entry, fmt.Errorf("unfinished download of %s: %w", dgst, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return entry, fmt.Errorf("unfinished download of %s: %w", dgst, err)
	}
	for _, r := range j.records {
		if r.end() <= info.Size() {
			entry.Size += int64(r.length)
		}
	}
	entry.Used, entry.Note = info.ModTime(), j.note
	return entry, nil
}

// errNotIntact is the error for a kept download that nothing can be made of.
var errNotIntact = errors.New("not intact")

// readJournal returns the journal of dgst.
func (s *Store) readJournal(dgst digest.Digest) (journal, error) {
	data, err := durable.ReadFile(s.fs, s.partialPath(dgst)+journalSuffix, maxJournal)
	if err != nil {
		return journal{}, err
	}
	j, err := parseJournal(data)
	if err == nil && j.digest != dgst {
		err = fmt.Errorf("the journal is that of %s", j.digest)
	}
	if err != nil {
		return journal{}, fmt.Errorf("%w: %w", errNotIntact, err)
	}
	return j, nil
}

// intact returns those of records whose bytes are in f. Where the kernel has not
// been restarted since they were written, its page cache holds them, whatever has
// happened to the process: then they need not be read.
func (s *Store) intact(ctx context.Context, f durable.File, j journal) ([]record, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	trusted := s.boot != "" && j.boot == s.boot
	buf := make([]byte, cache.PartSize)
	var intact []record
	for _, r := range j.records {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if r.end() > info.Size() {
			continue
		}
		if !trusted {
			n, _ := f.ReadAt(buf[:r.length], r.offset) // what cannot be read is not there
			if n < int(r.length) || addSum(0, buf[:n]) != r.sum {
				continue
			}
		}
		intact = append(intact, r)
	}
	return intact, nil
}

// spans are the bytes that records stand for.
func spans(records []record) []extents.Span {
	var set extents.Set
	for _, r := range records {
		set.Add(extents.Span{Start: r.offset, End: r.end()})
	}
	return set
}

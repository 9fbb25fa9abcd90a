package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
	"registry-module/internal/extents"
)

// partial is a draft with a journal. Who writes to a place twice must write the
// same bytes.
//
// A failure of the journal fails no download: nothing is appended from then on,
// what was recorded before stays, and Sync and Suspend return the error.
type partial struct {
	store *Store
	dgst  digest.Digest
	draft *draft
	held  []extents.Span
	note  []byte

	// ending keeps Sync and what ends the partial apart: an fsync must not find
	// its file closed. No writer takes it. It guards the two fields below.
	ending sync.Mutex
	synced bool // the names of the files are durable
	tried  bool // Commit may have moved the bytes

	mu    sync.Mutex // guards the fields below; not held while anything is synced
	parts parts
	// pending are the records that were made before there was a journal.
	pending []record
	log     *log  // nil where it is not kept, and at the end
	kept    int64 // bytes that the journal says are there
	// lost is the error of an fsync of the bytes. After one nobody can tell which
	// of them are on the disk, and a second one may find nothing wrong: they must
	// be neither kept nor committed.
	lost  error
	ended bool
}

func (p *partial) journalPath() string { return p.store.partialPath(p.dgst) + journalSuffix }

// resume takes up what is kept. After an error nothing is open.
func (p *partial) resume(ctx context.Context) (err error) {
	s := p.store
	j, err := s.readJournal(p.dgst)
	if err != nil {
		return err
	}
	f, err := s.fs.OpenFile(p.draft.name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	intact, err := s.intact(ctx, f, j)
	if err != nil {
		return err
	}
	if len(intact) == 0 && len(j.records) > 0 {
		return errNotIntact
	}
	if s.boot != "" && j.boot != s.boot {
		// The bytes were compared: the next process needs not do it again, unless
		// the kernel is restarted once more. Where this fails, it does: the old
		// journal stays right.
		_ = durable.WriteFile(s.fs, p.journalPath(), journal{p.dgst, s.boot, j.note, intact}.format())
	}
	file, err := s.fs.OpenFile(p.journalPath(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	p.log = &log{file: file, size: info.Size(), fresh: true, noted: j.note}
	p.draft.file, p.held, p.note = f, spans(intact), j.note
	for _, r := range intact {
		p.kept += int64(r.length)
		p.parts.add(r)
	}
	return nil
}

// start begins anew. What is there is removed and not overwritten, so that nobody
// who still reads it sees other bytes.
func (p *partial) start() error {
	if err := p.store.removePartial(p.dgst); err != nil {
		return err
	}
	f, err := p.store.fs.OpenFile(p.draft.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	p.draft.file = f
	return nil
}

// Held implements cache.Partial.
func (p *partial) Held() []extents.Span { return slices.Clone(p.held) }

// Note implements cache.Partial.
func (p *partial) Note() []byte { return bytes.Clone(p.note) }

// Open implements cache.Draft.
func (p *partial) Open(ctx context.Context) (io.ReadSeekCloser, error) { return p.draft.Open(ctx) }

// WriteAt implements cache.Draft. Of what fails, nothing is recorded.
func (p *partial) WriteAt(b []byte, offset int64) (int, error) {
	n, err := p.draft.WriteAt(b, offset)
	if err == nil {
		p.wrote(b, offset)
	}
	return n, err
}

// wrote takes note of b, which was written at offset, and records the parts that
// it completes.
func (p *partial) wrote(b []byte, offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.lost != nil {
		return
	}
	var complete []record
	var grown int64
	for len(b) > 0 {
		within := offset % cache.PartSize
		n := min(int64(len(b)), cache.PartSize-within)
		if q, ok := p.parts.extend(offset-within, within, b[:n]); ok {
			complete = append(complete, record{offset - within, q.length, q.sum})
			grown += int64(q.length - q.recorded)
		}
		b, offset = b[n:], offset+n
	}
	switch {
	case p.log == nil:
		p.pending = append(p.pending, complete...)
	case p.log.write(appendRecords(nil, complete...)) == nil: // else Sync and Suspend tell
		p.kept += grown
	}
}

// Keep implements cache.Partial. What was written before is kept, too. It may be
// called again after an error.
func (p *partial) Keep(note []byte) error {
	if len(note) > maxNote {
		return fmt.Errorf("keeping the download of %s: the note has %d bytes, which is more than %d", p.dgst, len(note), maxNote)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	switch {
	case p.lost != nil || p.ended:
		err = errors.Join(errors.New("it has ended, or must not be kept"), p.lost)
	case p.log == nil:
		err = p.makeJournal(note)
	case p.log.noted == nil || !bytes.Equal(note, p.log.noted):
		if err = p.log.write(appendNote(nil, note)); err == nil {
			p.log.noted = bytes.Clone(note)
		}
	default:
		err = p.log.err
	}
	if err != nil {
		return fmt.Errorf("keeping the download of %s: %w", p.dgst, err)
	}
	return nil
}

// makeJournal begins the journal with what is known so far. The caller holds p.mu.
func (p *partial) makeJournal(note []byte) error {
	file, err := p.store.fs.OpenFile(p.journalPath(), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC, 0o644)
	if err == nil {
		l := &log{file: file, noted: bytes.Clone(note)}
		if err = l.write(journal{p.dgst, p.store.boot, note, p.pending}.format()); err == nil {
			for _, r := range p.pending {
				p.kept += int64(r.length)
			}
			p.log, p.pending = l, nil
			return nil
		}
		err = errors.Join(err, file.Close())
	}
	return errors.Join(err, p.store.removeFile(p.journalPath()))
}

// Sync implements cache.Partial: fsync of the bytes, of the journal, and once of
// the directory.
func (p *partial) Sync(context.Context) error {
	p.ending.Lock()
	defer p.ending.Unlock()
	p.mu.Lock()
	l, err := p.log, p.lost
	p.mu.Unlock()
	if l == nil {
		return err
	}
	if err := p.draft.sync(); err != nil {
		return p.lose(err)
	}
	syncErr := l.file.Sync()
	if !p.synced {
		err = durable.SyncDir(p.store.fs, p.store.path(partialDir))
		p.synced = err == nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if syncErr != nil && l.err == nil {
		l.err = fmt.Errorf("journal: %w", syncErr)
	}
	return errors.Join(l.err, err)
}

// lose gives up what is kept, since the bytes could not be synced. It returns err.
func (p *partial) lose(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = err
	if p.log != nil {
		err = errors.Join(err, p.log.file.Close(), p.store.removeFile(p.journalPath()))
		p.log = nil
	}
	return err
}

// Suspend implements cache.Partial. What it leaves survives the end of the
// process, and a loss of power as far as Sync was called.
func (p *partial) Suspend() (kept int64, err error) {
	p.ending.Lock()
	defer p.ending.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return 0, nil
	}
	if p.log == nil || p.moved() {
		return 0, errors.Join(p.lost, p.discard())
	}
	rest, grown := p.parts.rest()
	if err = p.log.write(appendRecords(nil, rest...)); err == nil {
		p.kept += grown
	}
	if p.kept == 0 { // there is nothing to go on from
		return 0, errors.Join(err, p.discard())
	}
	// The end of the file tells of writes that have failed late.
	if closeErr := p.draft.file.Close(); closeErr != nil {
		return 0, errors.Join(err, closeErr, p.discard())
	}
	err = errors.Join(err, p.log.file.Close())
	p.end()
	if err != nil {
		err = fmt.Errorf("suspending the download of %s: %w", p.dgst, err)
	}
	return p.kept, err
}

// moved tells whether a Commit that has failed has moved the bytes all the same.
func (p *partial) moved() bool {
	if !p.tried {
		return false
	}
	f, err := p.store.fs.OpenFile(p.store.partialPath(p.dgst), os.O_RDONLY, 0)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	_ = f.Close() // it was only looked for
	return false
}

// Commit implements cache.Draft. When the bytes are in their place the journal is
// of no use: where it cannot be removed, Open does, or Resume.
func (p *partial) Commit(context.Context) error {
	p.ending.Lock()
	defer p.ending.Unlock()
	p.mu.Lock()
	err := p.lost
	p.mu.Unlock()
	if err != nil {
		return err
	}
	if err := p.draft.sync(); err != nil {
		return p.lose(err)
	}
	p.tried = true
	if err := p.draft.place(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log != nil {
		_ = p.log.file.Close()
		_ = p.store.removeFile(p.journalPath())
	}
	p.end()
	return nil
}

// Discard implements cache.Draft.
func (p *partial) Discard() error {
	p.ending.Lock()
	defer p.ending.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	return p.discard()
}

// discard removes both files, the journal first: without it the bytes count for
// nothing. The caller holds p.ending and p.mu.
func (p *partial) discard() error {
	var err error
	if p.log != nil {
		err = p.log.file.Close()
	}
	err = errors.Join(err, p.store.removeFile(p.journalPath()), p.draft.Discard())
	p.end()
	if err != nil {
		return fmt.Errorf("discarding the download of %s: %w", p.dgst, err)
	}
	return nil
}

// end lets others use the digest. The caller holds p.mu.
func (p *partial) end() {
	p.ended, p.log = true, nil
	p.pending, p.parts = nil, parts{}
	p.store.release(p.dgst)
}

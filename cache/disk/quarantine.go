package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

var _ cache.Quarantine = (*Store)(nil)

// quarantineDir has files <alg>-<hex>-<Unix time in seconds>.
const quarantineDir = "quarantine"

// Quarantine implements cache.Quarantine. What cannot be kept aside is removed: that
// it is not stored any more is what counts. Nothing is synced: damaged content that a
// loss of power brings back is found again.
func (s *Store) Quarantine(_ context.Context, dgst digest.Digest) error {
	name, err := s.blobPath(dgst)
	if err != nil {
		return err
	}
	defer s.lockPath(filepath.Dir(name))()
	place, err := s.placeOf(name)
	if err == nil && place != "" {
		err = s.setAside(place, dgst)
	}
	if err != nil {
		return fmt.Errorf("quarantine of blob %s: %w", dgst, s.advise(err))
	}
	s.removeBlobDir(name)
	return nil
}

// setAside moves the file or directory place into quarantine, or removes it.
func (s *Store) setAside(place string, dgst digest.Digest) error {
	s.quarantineMu.Lock()
	defer s.quarantineMu.Unlock()
	var moveErr error
	size, err := durable.Allocated(s.fs, place)
	if err == nil && s.makeRoom(size) {
		if moveErr = s.moveAside(place, dgst); moveErr == nil {
			return nil
		}
	}
	if err := durable.RemoveAll(s.fs, place); err != nil {
		return errors.Join(err, moveErr)
	}
	return nil
}

func (s *Store) moveAside(place string, dgst digest.Digest) error {
	if err := s.fs.Mkdir(s.path(quarantineDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for at := time.Now().Unix(); ; at++ { // the same content may be there from this second
		to := s.path(quarantineDir, fmt.Sprintf("%s-%s-%d", dgst.Algorithm(), dgst.Encoded(), at))
		switch _, err := s.fs.Lstat(to); {
		case errors.Is(err, fs.ErrNotExist):
			return s.fs.Rename(place, to)
		case err != nil:
			return err
		}
	}
}

// quarantined is something in quarantine.
type quarantined struct {
	name string // relative to the root
	at   time.Time
	size int64
}

// quarantinedAt tells since when the file name has been in quarantine.
func quarantinedAt(name string) (at time.Time, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return time.Time{}, false
	}
	if _, ok := partialOf(name[:i]); !ok { // the names are made alike
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(name[i+1:], 10, 64)
	return time.Unix(seconds, 0), err == nil
}

// makeRoom removes from quarantine what is too old, and the oldest until something
// of size more bytes fits; it returns false if it does not fit at all. Size is
// negative where nothing more comes. The caller holds s.quarantineMu.
func (s *Store) makeRoom(size int64) bool {
	limits, files := s.quarantine, 1
	if size < 0 {
		size, files = 0, 0
	}
	if size > limits.QuarantineBytes || files > limits.QuarantineFiles || limits.QuarantineAge < 0 {
		return false
	}
	entries, err := s.fs.ReadDir(s.path(quarantineDir))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	var kept []quarantined
	for _, e := range entries {
		at, ok := quarantinedAt(e.Name())
		if !ok {
			continue // not of this program
		}
		q := quarantined{name: s.path(quarantineDir, e.Name()), at: at}
		if q.size, err = durable.Allocated(s.fs, q.name); err != nil {
			return false
		}
		kept = append(kept, q)
		files++
		size += q.size
	}
	slices.SortFunc(kept, func(a, b quarantined) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.name, b.name)) })
	for _, q := range kept {
		if time.Since(q.at) <= limits.QuarantineAge && files <= limits.QuarantineFiles && size <= limits.QuarantineBytes {
			return true
		}
		if durable.RemoveAll(s.fs, q.name) == nil {
			files--
			size -= q.size
		}
	}
	return files <= limits.QuarantineFiles && size <= limits.QuarantineBytes
}

// sweepQuarantine removes what has been in quarantine for too long. What cannot be
// removed now may be next time: it keeps nobody from working.
func (s *Store) sweepQuarantine() {
	s.quarantineMu.Lock()
	defer s.quarantineMu.Unlock()
	s.makeRoom(-1)
}

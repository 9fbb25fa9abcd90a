package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"runtime"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// listed is what All yields.
type listed struct {
	entry cache.BlobEntry
	err   error
}

// All implements cache.Blobs. Directories without content, which the stock registry
// can leave behind, and what does not belong into the layout are passed over. Several
// directories are looked at at a time: after a crash somebody waits for it.
func (s *Store) All(ctx context.Context) iter.Seq2[cache.BlobEntry, error] {
	return func(yield func(cache.BlobEntry, error) bool) {
		dirs, more := s.blobDirs(yield)
		if !more {
			return
		}
		inner, cancel := context.WithCancel(ctx)
		lists := s.listBlobs(inner, dirs)
		defer func() {
			cancel()
			for range lists { // until nobody lists any more
			}
		}()
		for list := range lists {
			for _, l := range list {
				if err := ctx.Err(); err != nil {
					yield(cache.BlobEntry{}, err)
					return
				}
				if !yield(l.entry, l.err) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil {
			yield(cache.BlobEntry{}, err)
		}
	}
}

// blobDirs returns the directories <alg>/<xx> in which those of blobs are. It yields
// what cannot be read; more is false when the iteration has to end.
func (s *Store) blobDirs(yield func(cache.BlobEntry, error) bool) (dirs []string, more bool) {
	for alg, err := range s.dirs(blobsDir) {
		if err != nil {
			yield(cache.BlobEntry{}, err)
			return nil, false
		}
		for prefix, err := range s.dirs(path.Join(blobsDir, alg)) {
			if err == nil {
				dirs = append(dirs, path.Join(alg, prefix))
			} else if !yield(cache.BlobEntry{}, err) {
				return nil, false
			}
		}
	}
	return dirs, true
}

// listBlobs lists the blobs in dirs, which are of blobDirs. When ctx ends the lists
// do, without an error.
func (s *Store) listBlobs(ctx context.Context, dirs []string) <-chan []listed {
	const most = 4 // more does not help the device
	lists := make(chan []listed)
	next := make(chan string, len(dirs))
	for _, dir := range dirs {
		next <- dir
	}
	close(next)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), most, len(dirs)) {
		workers.Go(func() {
			for dir := range next {
				if ctx.Err() != nil {
					return
				}
				select {
				case lists <- s.listDir(ctx, path.Dir(dir), path.Base(dir)):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	go func() {
		workers.Wait()
		close(lists)
	}()
	return lists
}

// listDir lists the blobs of one algorithm whose digests begin with prefix.
func (s *Store) listDir(ctx context.Context, alg, prefix string) (list []listed) {
	for hex, err := range s.dirs(path.Join(blobsDir, alg, prefix)) {
		if ctx.Err() != nil {
			return list
		}
		if err != nil {
			list = append(list, listed{err: err}) // of the directory
			continue
		}
		entry := cache.BlobEntry{Digest: digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)}
		if !validHex(alg, hex) || hex[:2] != prefix {
			continue
		}
		if entry.Size, err = s.size(entry.Digest, s.path(blobsDir, alg, prefix, hex, "data")); !errors.Is(err, fs.ErrNotExist) {
			list = append(list, listed{entry, err})
		}
	}
	return list
}

// validHex tells whether hex is the encoded part of a digest. It says what
// [digest.Digest.Validate] does, in a tenth of the time.
func validHex(alg, hex string) bool {
	a := digest.Algorithm(alg)
	if !a.Available() || len(hex) != 2*a.Size() {
		return false
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// size returns the size of a blob, whose content is name, or an error where it cannot
// be read. It is opened only where its mode does not tell: there may be a million.
func (s *Store) size(dgst digest.Digest, name string) (int64, error) {
	info, err := s.fs.Lstat(name)
	switch {
	case err != nil:
		return 0, fmt.Errorf("blob %s: %w", dgst, s.advise(err))
	case info.Mode().IsRegular() && readable(info):
		return info.Size(), nil
	}
	b, err := s.Open(context.Background(), dgst) // takes no time
	if err != nil {
		return 0, err
	}
	return b.Size(), b.Close()
}

// readable tells whether the mode of a file says that we can read it.
func readable(info fs.FileInfo) bool {
	const owner, others = 0o400, 0o004
	st, ok := info.Sys().(*syscall.Stat_t)
	uid := os.Geteuid()
	switch {
	case !ok || uid == 0:
		return true
	case st.Uid == uint32(uid):
		return info.Mode()&owner != 0
	}
	return info.Mode()&others != 0 && info.Mode()&(others<<3) != 0 // whether we are of its group or not
}

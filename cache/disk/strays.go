package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
	"registry-module/internal/durable"
)

var _ cache.Strays = (*Store)(nil)

// Strays implements cache.Strays. Paths are relative to the root, with slashes, sizes are
// what is taken of the storage, and what is below a stray is not yielded on its own. Errors
// are for what cannot be read. It removes nothing. The index, and uploads of the stock
// registry, are not looked into; what is stored meanwhile is no stray. The end of ctx
// ends it, with its error.
func (s *Store) Strays(ctx context.Context) iter.Seq2[cache.Stray, error] {
	return func(yield func(cache.Stray, error) bool) {
		w := &strayWalk{s: s, ctx: ctx, yield: yield}
		w.root()
	}
}

// strayWalk goes through the directory. Once yield has returned false, nothing more
// happens.
type strayWalk struct {
	s     *Store
	ctx   context.Context
	yield func(cache.Stray, error) bool
	ended bool
}

// each calls f with what is in dir, which is relative to the root.
func (w *strayWalk) each(dir string, f func(name, full string, e fs.DirEntry)) {
	if w.ended {
		return
	}
	entries, err := w.s.fs.ReadDir(w.s.path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.fail(fmt.Errorf("listing %s: %w", dir, w.s.advise(err)))
	}
	for _, e := range entries {
		if err := w.ctx.Err(); err != nil {
			w.fail(err)
			w.ended = true
		}
		if w.ended {
			return
		}
		f(e.Name(), path.Join(dir, e.Name()), e)
	}
}

func (w *strayWalk) fail(err error) {
	w.ended = w.ended || !w.yield(cache.Stray{}, err)
}

// report yields full as a stray.
func (w *strayWalk) report(full, what string) {
	size, err := durable.Allocated(w.s.fs, w.s.path(full))
	if err != nil {
		w.fail(fmt.Errorf("size of %s: %w", full, w.s.advise(err)))
		return
	}
	w.ended = w.ended || !w.yield(cache.Stray{Path: full, Size: size, What: what}, nil)
}

// dir goes on with f below full, or reports it where it is no directory.
func (w *strayWalk) dir(full string, e fs.DirEntry, f func(dir string)) {
	if !e.IsDir() {
		w.report(full, "not a directory")
		return
	}
	f(full)
}

const unknown = "not of the layout"

func (w *strayWalk) root() {
	w.each("", func(name, full string, e fs.DirEntry) {
		switch {
		case name == dockerDir:
			w.dir(full, e, func(dir string) { w.only(dir, "registry", w.registry) })
		case name == partialDir:
			w.dir(full, e, w.partial)
		case name == quarantineDir:
			w.dir(full, e, w.quarantine)
		case name == "index":
			w.dir(full, e, func(string) {})
		case strings.HasPrefix(name, ownPrefix):
			if e.IsDir() {
				w.report(full, "not a file")
			}
		case name == "scheduler-state.json", name == "lost+found": // of the stock registry, of the file system
		default:
			w.report(full, unknown)
		}
	})
}

// only goes on with f in the directory name of dir, and reports all else.
func (w *strayWalk) only(dir, name string, f func(dir string)) {
	w.each(dir, func(n, full string, e fs.DirEntry) {
		if n != name {
			w.report(full, unknown)
			return
		}
		w.dir(full, e, f)
	})
}

func (w *strayWalk) registry(dir string) {
	w.only(dir, "v2", func(dir string) {
		w.each(dir, func(name, full string, e fs.DirEntry) {
			switch full {
			case blobsDir:
				w.dir(full, e, w.blobs)
			case reposDir:
				w.dir(full, e, func(dir string) { w.repo(dir, true) })
			default:
				w.report(full, unknown)
			}
		})
	})
}

func (w *strayWalk) partial(dir string) {
	w.each(dir, func(_, full string, e fs.DirEntry) {
		if e.IsDir() { // files are removed when the directory is opened
			w.report(full, unknown)
		}
	})
}

func (w *strayWalk) quarantine(dir string) {
	w.each(dir, func(name, full string, _ fs.DirEntry) {
		if _, ok := quarantinedAt(name); !ok {
			w.report(full, unknown)
		}
	})
}

func (w *strayWalk) blobs(dir string) {
	w.each(dir, func(alg, full string, e fs.DirEntry) {
		if !digest.Algorithm(alg).Available() {
			w.report(full, "not an algorithm of digests")
			return
		}
		w.dir(full, e, func(dir string) {
			w.each(dir, func(prefix, full string, e fs.DirEntry) {
				w.dir(full, e, func(dir string) { w.blobsOf(alg, prefix, dir) })
			})
		})
	})
}

func (w *strayWalk) blobsOf(alg, prefix, dir string) {
	w.each(dir, func(hex, full string, e fs.DirEntry) {
		if digest.NewDigestFromEncoded(digest.Algorithm(alg), hex).Validate() != nil || hex[:2] != prefix {
			w.report(full, "not the place of a digest")
			return
		}
		w.dir(full, e, func(dir string) {
			w.each(dir, func(name, full string, e fs.DirEntry) {
				if name != "data" { // else it is content, be it damaged
					w.report(full, unknown)
				}
			})
		})
	})
}

// repo goes through a repository and those below it. Top is the directory of all.
func (w *strayWalk) repo(dir string, top bool) {
	w.each(dir, func(name, full string, e fs.DirEntry) {
		switch {
		case !e.IsDir():
			w.report(full, "not a directory")
		case strings.HasPrefix(name, "_") && top:
			w.report(full, unknown)
		case name == layersDir:
			w.links(full)
		case name == path.Dir(revisionsDir):
			w.manifests(full)
		case name == uploadsDir:
		case validRepo(name) != nil:
			w.report(full, "not a name of a repository")
		default:
			w.repo(full, false)
		}
	})
}

func (w *strayWalk) manifests(dir string) {
	w.each(dir, func(name, full string, e fs.DirEntry) {
		switch name {
		case path.Base(revisionsDir):
			w.dir(full, e, w.links)
		case path.Base(tagsDir):
			w.dir(full, e, func(dir string) {
				w.each(dir, func(_, full string, e fs.DirEntry) { w.dir(full, e, w.tag) })
			})
		default:
			w.report(full, unknown)
		}
	})
}

func (w *strayWalk) tag(dir string) {
	w.each(dir, func(name, full string, e fs.DirEntry) {
		switch name {
		case path.Dir(currentLink):
			w.dir(full, e, w.link)
		case tagIndexDir:
			w.dir(full, e, w.links)
		default:
			w.report(full, unknown)
		}
	})
}

// links goes through <alg>/<hex>/link.
func (w *strayWalk) links(dir string) {
	w.each(dir, func(alg, full string, e fs.DirEntry) {
		w.dir(full, e, func(dir string) {
			w.each(dir, func(hex, full string, e fs.DirEntry) {
				if digest.NewDigestFromEncoded(digest.Algorithm(alg), hex).Validate() != nil {
					w.report(full, "not the place of a digest")
					return
				}
				w.dir(full, e, w.link)
			})
		})
	})
}

// link looks at the directory of one link. One that is being written is no stray; what
// a crash leaves of it is used by the next writer.
func (w *strayWalk) link(dir string) {
	w.each(dir, func(name, full string, e fs.DirEntry) {
		switch name {
		case linkName, durable.Unfinished(linkName): // be it damaged
		default:
			w.report(full, unknown)
		}
	})
}

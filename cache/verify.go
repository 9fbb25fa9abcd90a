package cache

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// maxProblems is how many problems are listed; of more, only their number is told.
	maxProblems = 10_000
	// tellEvery is how often progress is told at most.
	tellEvery = 100 * time.Millisecond
	// unindexed is the size of a blob that the index did not have; -1 is that of one whose
	// entry cannot be read.
	unindexed = -2
)

// What to do about a [Problem].
const (
	hintRepair = "run `registry-module verify --repair`"
	hintLater  = "it is fetched again when somebody asks for it and its remote can be asked"
	hintBad    = "see that the data directory can be written to, and that the disk is well; until then it is passed through uncached"
	hintStray  = "remove it when nobody needs it"
)

// Verify compares all that is stored with its digest, and what the index and the links
// say with what is stored, once it is known what that is: see [Cache.Ready]. The cache serves
// meanwhile. Without opts.Repair it changes nothing. After an error, which is the end of ctx
// or of the index, the report is of what was done before.
func (c *Cache) Verify(ctx context.Context, opts VerifyOptions) (VerifyReport, error) {
	v := &verifier{c: c, opts: opts, begun: time.Now(), report: VerifyReport{Problems: []Problem{}}}
	v.pace = pace{limit: limiter(opts.Rate), tell: func(n int64) {
		v.progress.Bytes += n
		v.tell(false)
	}}
	var err error
	for _, step := range []func(context.Context) error{v.c.Ready, v.total, v.blobs, v.unknown, v.links, v.entries, v.strays, v.name} {
		if err = step(ctx); err != nil {
			break
		}
	}
	v.tell(true)
	if v.more > 0 {
		v.report.Problems = append(v.report.Problems, Problem{What: fmt.Sprintf("%d more problems are not listed", v.more)})
	}
	v.report.Blobs, v.report.Bytes = v.progress.Blobs, v.progress.Bytes
	v.report.Took = time.Since(v.begun)
	return v.report, err
}

// verifier is one run of [Cache.Verify].
type verifier struct {
	c        *Cache
	opts     VerifyOptions
	pace     pace
	begun    time.Time
	told     time.Time
	progress VerifyProgress
	report   VerifyReport
	more     int // problems that are not listed
}

func (v *verifier) tell(now bool) {
	if v.opts.Progress == nil || !now && time.Since(v.told) < tellEvery {
		return
	}
	v.told = time.Now()
	v.opts.Progress(v.progress)
}

// problem adds p, and returns where it is, nil where there are too many.
func (v *verifier) problem(p Problem) int {
	v.progress.Damaged++
	if p.Hint == "" && !p.Repaired && !v.opts.Repair {
		p.Hint = hintRepair
	}
	if len(v.report.Problems) == maxProblems {
		v.more++
		return -1
	}
	v.report.Problems = append(v.report.Problems, p)
	return len(v.report.Problems) - 1
}

// total finds out how much there is to do.
func (v *verifier) total(ctx context.Context) error {
	for e, err := range v.c.opts.Index.Scan(ctx, append(key(kindBlob), 0), nil) {
		if err != nil {
			return err
		}
		var rec blobRecord
		_ = json.Unmarshal(e.Value, &rec) // what cannot be read is put right later
		v.progress.TotalBlobs++
		v.progress.TotalBytes += rec.Size
	}
	return nil
}

// blobs compares what the index says is stored.
func (v *verifier) blobs(ctx context.Context) error {
	for after := ""; ; {
		batch, err := v.c.storedAfter(ctx, after, scrubBatch)
		if err != nil || len(batch) == 0 {
			return err
		}
		lost := make(map[digest.Digest]int) // its problem
		for _, e := range batch {
			at, isLost := v.blob(ctx, e.Digest, e.Size)
			if err := ctx.Err(); err != nil {
				return err
			}
			if isLost {
				lost[e.Digest] = at
			}
		}
		v.recover(ctx, lost)
		after = batch[len(batch)-1].Digest.String()
	}
}

// recover fetches again what was lost.
func (v *verifier) recover(ctx context.Context, lost map[digest.Digest]int) {
	var all []digest.Digest
	for dgst := range lost {
		all = append(all, dgst)
	}
	there := v.c.refetch(ctx, all)
	for dgst, at := range lost {
		if at >= 0 {
			p := &v.report.Problems[at]
			if p.Repaired = there[dgst]; !p.Repaired {
				p.Hint = hintLater
			}
		}
	}
}

// blob compares one blob, of which the index has said that it has size bytes. It tells
// whether it was taken away, or is missing and no more in the index, and which problem
// that is.
func (v *verifier) blob(ctx context.Context, dgst digest.Digest, size int64) (at int, lost bool) {
	c := v.c
	b, sum, err := c.examine(ctx, dgst, v.pace)
	if b != nil {
		defer func() { _ = b.Close() }() // it was only read
	}
	if ctx.Err() != nil {
		return 0, false
	}
	running := c.running(dgst) != nil // what has ended before the index is asked is in it
	switch known, hasErr := c.has(ctx, key(kindBlob, dgst.String())); {
	case absent(err) && hasErr == nil && !known:
		return 0, false // it was removed meanwhile
	case err == nil && !known && running:
		return 0, false // it is about to be in the index
	case err == nil && known && size == unindexed:
		return 0, false // it has come into the index meanwhile
	}
	v.progress.Blobs++
	switch {
	case err == nil && b.Size() == size:
		if v.opts.Repair && sum != nil && !sum.equal(c.sumsOf(ctx, dgst)) {
			c.tryApply(ctx, sumsChange(dgst, sum))
		}
	case err == nil:
		what := fmt.Sprintf("the index says that it has %d bytes, and it has %d", size, b.Size())
		if size < 0 {
			what = "the index does not know it"
		}
		if v.opts.Repair {
			c.recount(ctx, dgst)
		}
		v.problem(Problem{Digest: dgst, What: what, Repaired: v.opts.Repair})
	case absent(err):
		at = v.problem(Problem{Digest: dgst, What: "its file is missing"})
		return at, v.opts.Repair && c.miss(ctx, dgst)
	case isDamage(err):
		at = v.problem(Problem{Digest: dgst, What: err.Error()})
		c.condition.standings.Remove(dgst) // who asks for it next finds out, too
		if v.opts.Repair && c.takeAway(ctx, dgst, b, err) {
			if !c.isBad(dgst) {
				return at, true
			}
			if at >= 0 {
				v.report.Problems[at].Hint = hintBad
			}
		}
	default:
		v.problem(Problem{Digest: dgst, What: fmt.Sprintf("it could not be read: %v", err), Hint: "try again later"})
	}
	return 0, false
}

// unknown compares what is stored and not in the index.
func (v *verifier) unknown(ctx context.Context) error {
	for e, err := range v.c.opts.Blobs.All(ctx) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if e.Digest == "" { // else it is compared below, or was
				v.problem(Problem{What: err.Error(), Hint: "see that the data directory can be read"})
				continue
			}
		}
		known, err := v.c.has(ctx, key(kindBlob, e.Digest.String()))
		if err != nil {
			return err
		}
		if known || v.c.isBad(e.Digest) {
			continue
		}
		if at, lost := v.blob(ctx, e.Digest, unindexed); lost {
			v.recover(ctx, map[digest.Digest]int{e.Digest: at})
		}
	}
	return nil
}

// strays lists the files that belong to nothing.
func (v *verifier) strays(ctx context.Context) error {
	s, ok := v.c.opts.Blobs.(Strays)
	if !ok {
		return nil
	}
	for f, err := range s.Strays(ctx) {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			v.problem(Problem{What: err.Error(), Hint: "see that the data directory can be read"})
		default:
			v.problem(Problem{What: fmt.Sprintf("%s, of %d bytes: %s", f.Path, f.Size, f.What), Hint: hintStray})
		}
	}
	return nil
}

// name says of problems which image they belong to: the first tag whose manifests name
// the content, else a repository.
func (v *verifier) name(ctx context.Context) error {
	nameless := make(map[digest.Digest][]int)
	for i, p := range v.report.Problems {
		if p.Digest != "" && p.Image == "" {
			nameless[p.Digest] = append(nameless[p.Digest], i)
		}
	}
	found := func(dgst digest.Digest, image string) {
		for _, i := range nameless[dgst] {
			v.report.Problems[i].Image = image
		}
		delete(nameless, dgst)
	}
	seen := make(map[digest.Digest]bool)
	for _, kind := range []string{kindTag, kindManifest, kindLayer} {
		prefix := append(key(kind), 0)
		for e, err := range v.c.opts.Index.Scan(ctx, prefix, nil) {
			if err != nil || len(nameless) == 0 {
				return err
			}
			repo, name, _ := strings.Cut(string(e.Key[len(prefix):]), "\x00")
			if kind != kindTag {
				found(digest.Digest(name), repo)
				continue
			}
			var rec tagRecord
			_ = json.Unmarshal(e.Value, &rec) // what cannot be read names nothing
			v.c.walk(ctx, rec.Digest, seen, func(dgst digest.Digest) { found(dgst, repo+":"+name) })
		}
	}
	return nil
}

// walk calls visit with the manifest dgst and all that it consists of, as far as it is
// stored, unless dgst is among seen.
func (c *Cache) walk(ctx context.Context, dgst digest.Digest, seen map[digest.Digest]bool, visit func(digest.Digest)) {
	if seen[dgst] {
		return
	}
	seen[dgst] = true
	visit(dgst)
	b, err := c.opts.Blobs.Open(ctx, dgst)
	if err != nil {
		return
	}
	content, err := c.readWhole(ctx, dgst, b)
	_ = b.Close() // it was only read
	if err != nil {
		return
	}
	doc, err := parseManifest(content)
	if err != nil {
		return
	}
	for d := range doc.blobs() {
		visit(d.Digest)
	}
	for _, m := range doc.Manifests {
		if askable(m) {
			c.walk(ctx, m.Digest, seen, visit)
		}
	}
}

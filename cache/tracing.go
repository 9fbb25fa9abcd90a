package cache

import (
	"context"
	"errors"

	"registry-module/internal/tracing"
	"registry-module/internal/via"
)

// The steps that are told to package tracing, in the words of docs/tracing.md.
const (
	lookupSpan     = "lookup"     // what is stored, and what comes of it where nothing is
	fetchSpan      = "fetch"      // asking the remote for what is small
	revalidateSpan = "revalidate" // asking it whether what is stored is so still
	fillSpan       = "fill"       // a download
)

// The attributes of spans.
const (
	repositoryAttr = "oci.repository"
	referenceAttr  = "oci.reference"
	kindAttr       = "cache.kind"
	resultAttr     = "cache.result"
	storedAttr     = "cache.store_only" // nobody else is asked
	remoteAttr     = "server.address"
	bytesAttr      = "cache.bytes"
	sizeAttr       = "cache.size"
	errorAttr      = "error.message"
)

// The values of resultAttr.
const (
	resultHit         = "hit"
	resultStale       = "stale"
	resultRevalidated = "revalidated"
	resultMiss        = "miss"
	resultAbsent      = "absent"
	resultFailed      = "failed"
)

// carry returns to for work on behalf of from that outlives it: with what it has passed,
// and as a part of its trace.
func carry(to, from context.Context) context.Context {
	return tracing.Carry(via.Carry(to, from), from)
}

// looked does op, a look-up of reference, in a span of its own. What has come of it is what
// op tells the [Outcome] of its context.
func looked[T any](ctx context.Context, n *Name, kind, reference string, storedOnly bool, op func(context.Context) (T, error)) (T, error) {
	if !tracing.In(ctx).On() {
		return op(ctx)
	}
	ctx, span := tracing.Start(ctx, lookupSpan, tracing.String(repositoryAttr, n.name), tracing.String(referenceAttr, reference),
		tracing.String(kindAttr, nameOfKind(kind)), tracing.Bool(storedAttr, storedOnly))
	told := outcomeOf(ctx)
	if told == nil {
		told = new(Outcome)
		ctx = WithOutcome(ctx, told)
	}
	got, err := op(ctx)
	result, failure := resultOf(told.Answered().Source, err)
	span.Set(tracing.String(resultAttr, result))
	span.End(failure)
	return got, err
}

// resultOf is what has come of a look-up, and its error if that is a failure.
func resultOf(from Source, err error) (result string, failure error) {
	switch {
	case absent(err):
		return resultMiss, nil
	case errors.Is(err, ErrNotFound):
		return resultAbsent, nil
	case err != nil:
		return resultFailed, err
	}
	switch from {
	case FromRemote:
		return resultMiss, nil
	case Confirmed:
		return resultRevalidated, nil
	case FromStaleStore:
		return resultStale, nil
	}
	return resultHit, nil
}

// step is what a flight does.
type step struct{ name, kind, repo, reference, remote string }

// step is what a flight of r does.
func (r *Repository) step(name, kind, reference string) step {
	return step{name, kind, r.name, reference, r.remote.Host}
}

func (s step) start(ctx context.Context) (context.Context, tracing.Span) {
	return tracing.Start(ctx, s.name, tracing.String(kindAttr, nameOfKind(s.kind)), tracing.String(remoteAttr, s.remote),
		tracing.String(repositoryAttr, s.repo), tracing.String(referenceAttr, s.reference))
}

// endStep ends the span of one; that there is no such thing is an answer.
func endStep(span tracing.Span, err error) {
	if errors.Is(err, ErrNotFound) {
		span.Set(tracing.String(resultAttr, resultAbsent))
		err = nil
	}
	span.End(err)
}

// nameOfKind is what people call a kind of the index.
func nameOfKind(kind string) string {
	switch kind {
	case kindTag, aPeek:
		return "tag"
	case kindManifest:
		return "manifest"
	case kindBlob, kindLayer, kindNamed:
		return "blob"
	case kindReferrers:
		return "referrers"
	case kindRepo:
		return "repository"
	}
	return "tags"
}

// startSpan begins the span of f, whose ctx carries that of who has caused it.
func (f *fill) startSpan() {
	f.ctx, f.span = tracing.Start(f.ctx, fillSpan, tracing.String(repositoryAttr, f.by.name),
		tracing.String(referenceAttr, f.dgst.String()), tracing.String(remoteAttr, f.by.remote.Host))
}

// endSpan ends it.
func (f *fill) endSpan() {
	if !f.span.On() {
		return
	}
	f.mu.Lock()
	size, came, err := f.size, f.came, f.err
	f.mu.Unlock()
	f.span.Set(tracing.Int(sizeAttr, size), tracing.Int(bytesAttr, came))
	endStep(f.span, err)
}

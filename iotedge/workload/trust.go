package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// trustFor is how long a trust bundle is taken for the present one. It changes when
	// an operator writes another config.toml.
	trustFor = 5 * time.Minute
	// trustAgain is when it is asked for again where that has failed, and doubtAgain
	// when a certificate of an unknown authority has it asked for again.
	trustAgain = 30 * time.Second
	doubtAgain = 10 * time.Second
	// trustPatience bounds what a request to a remote waits for it.
	trustPatience = 5 * time.Second
)

// errEmptyBundle is an answer that the runtime also gives when its own services do not
// answer it.
var errEmptyBundle = errors.New("the trust bundle of the IoT Edge workload API is empty: set trust_bundle_cert in config.toml, and see iotedge check")

// TrustBundle is the trust bundle of the IoT Edge runtime, as it is now. It is asked
// for when it is first needed, and then now and again. What was last good stays. It is
// safe for use by several goroutines.
type TrustBundle struct {
	client *Client
	log    logrus.FieldLogger

	life context.Context // ends with Close
	end  context.CancelFunc
	runs sync.WaitGroup

	mu      sync.Mutex // guards following
	bundle  []byte     // nil: there was none yet
	err     error      // of the last attempt
	tried   time.Time  // when that ended
	pending chan struct{}
}

// NewTrustBundle returns the trust bundle. It asks for nothing yet. Log is told when it
// changes, and when it cannot be had; nil is nobody.
func (c *Client) NewTrustBundle(log logrus.FieldLogger) *TrustBundle {
	if log == nil {
		log = nobody()
	}
	b := &TrustBundle{client: c, log: log}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// Close ends what is under way. What was last good is still given.
func (b *TrustBundle) Close() error {
	b.mu.Lock()
	b.end() // nothing begins any more
	b.mu.Unlock()
	b.runs.Wait()
	return nil
}

// Authorities returns the certificates (PEM). It waits for an answer, for some seconds,
// only where there was none yet. The error is why there is none, or why it may be
// old: the runtime did not answer.
func (b *TrustBundle) Authorities(ctx context.Context) ([]byte, error) {
	b.mu.Lock()
	age := time.Since(b.tried)
	never := b.tried.IsZero()
	have := b.bundle != nil
	switch {
	case never, b.err != nil && age >= trustAgain, b.err == nil && age >= trustFor:
		b.refresh()
	case b.err != nil && !have && age >= doubtAgain:
		b.refresh() // somebody needs it
	}
	pending := b.pending
	b.mu.Unlock()
	if !have && pending != nil {
		wait(ctx, pending)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tried.IsZero() {
		return nil, fmt.Errorf("%w; it is asked for the trust bundle", errNever)
	}
	return b.bundle, b.err
}

// Doubt is told that somebody has shown a certificate of an authority that Authorities
// has not named: the bundle is asked for again, unless it has just been. It returns
// when there is an answer, or after some seconds.
func (b *TrustBundle) Doubt(ctx context.Context) {
	b.mu.Lock()
	if b.tried.IsZero() || time.Since(b.tried) >= doubtAgain {
		b.refresh()
	}
	pending := b.pending
	b.mu.Unlock()
	if pending != nil {
		wait(ctx, pending)
	}
}

func wait(ctx context.Context, pending <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, trustPatience)
	defer cancel()
	select {
	case <-pending:
	case <-ctx.Done():
	}
}

// refresh asks, unless that is under way. The caller holds b.mu.
func (b *TrustBundle) refresh() {
	if b.pending != nil || b.life.Err() != nil {
		return
	}
	pending := make(chan struct{})
	b.pending = pending
	b.runs.Go(func() {
		defer close(pending)
		bundle, err := b.client.TrustBundle(b.life)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.pending = nil
		if b.life.Err() == nil {
			b.take(bundle, err)
		}
	})
}

// take takes note of an answer. The caller holds b.mu.
func (b *TrustBundle) take(bundle []byte, err error) {
	if err == nil && len(bundle) == 0 {
		err = errEmptyBundle
	}
	before := b.err
	b.tried, b.err = time.Now(), err
	switch {
	case err == nil && !bytes.Equal(b.bundle, bundle):
		b.bundle = bundle
		b.log.WithField("certificates", bytes.Count(bundle, []byte("-----BEGIN "))).Info("authorities of the IoT Edge trust bundle are trusted")
	case err == nil && before != nil:
		b.log.Info("the IoT Edge trust bundle can be had again, and is the same")
	case err == nil || before != nil && before.Error() == err.Error():
	case b.bundle == nil:
		b.log.WithError(err).Warn("there is no IoT Edge trust bundle yet: only the system's authorities, and those of REGISTRY_PROXY_CA, are trusted")
	default:
		b.log.WithError(err).Warn("the IoT Edge trust bundle cannot be had: what it was before is trusted")
	}
}

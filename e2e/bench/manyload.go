package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// times are milliseconds by what was asked for.
type times map[string][]float64

// halfImage asks for an image and one of its layers.
func (m *many) halfImage(ctx context.Context, client *http.Client, img volumeImage, note func(kind string, took time.Duration)) error {
	begin := time.Now()
	err := m.ask(ctx, client, "/v2/"+img.repo+"/manifests/"+img.tag, img.manifest)
	middle := time.Now()
	if err == nil {
		layer := img.blobs[0]
		err = m.ask(ctx, client, "/v2/"+img.repo+"/blobs/"+digest.FromBytes(layer).String(), layer)
	}
	if err == nil && note != nil {
		note("manifest", middle.Sub(begin))
		note("blob", time.Since(middle))
	}
	return err
}

// load has clients ask for warm images, for a time or until something has ended, whichever
// is later.
func (m *many) load(ctx context.Context, clients int, d time.Duration, until <-chan struct{}) (times, error) {
	if len(m.warm) == 0 {
		return nil, errors.New("nothing was asked for before")
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards what follows
		all  = times{}
		errs []error
	)
	end := time.Now().Add(d)
	ended := func() bool {
		if until != nil {
			select {
			case <-until:
			default:
				return false
			}
		}
		return time.Now().After(end) || ctx.Err() != nil
	}
	for i := range clients {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 10))
			client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
			defer client.CloseIdleConnections()
			own := times{}
			for !ended() {
				err := m.halfImage(ctx, client, m.warm[random.IntN(len(m.warm))], func(kind string, took time.Duration) {
					own[kind] = append(own[kind], took.Seconds()*1000)
				})
				if err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for kind, t := range own {
				all[kind] = append(all[kind], t...)
			}
		})
	}
	wg.Wait()
	return all, errors.Join(append(errs, ctx.Err())...)
}

// quantile is the value that a part of all, 0 to 1, do not exceed.
func quantile(all []float64, part float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))]
}

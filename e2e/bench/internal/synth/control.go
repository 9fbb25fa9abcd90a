package synth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// addRequest is the body of a request for a new image.
type addRequest struct {
	Repo   string  `json:"repo"`
	Tag    string  `json:"tag"`
	Seed   uint64  `json:"seed"`
	Layers []int64 `json:"layers"`
}

// Control returns the handler by which [Remote] steers s from another process.
// It belongs on an address of its own, so that steering is not counted.
func (s *Server) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /images", func(w http.ResponseWriter, r *http.Request) {
		var req addRequest
		if !decode(w, r, &req) {
			return
		}
		img, err := s.Add(req.Repo, req.Tag, req.Seed, req.Layers)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		encode(w, img)
	})
	mux.HandleFunc("DELETE /images", func(w http.ResponseWriter, _ *http.Request) {
		s.Clear()
		encode(w, struct{}{})
	})
	mux.HandleFunc("PUT /shape", func(w http.ResponseWriter, r *http.Request) {
		var shape Shape
		if decode(w, r, &shape) {
			s.SetShape(shape)
			encode(w, shape)
		}
	})
	mux.HandleFunc("GET /counters", func(w http.ResponseWriter, _ *http.Request) {
		encode(w, s.Counters())
	})
	mux.HandleFunc("DELETE /counters", func(w http.ResponseWriter, _ *http.Request) {
		s.Reset()
		encode(w, s.Counters())
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func encode(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the other process is gone
}

// Remote is a [Server] in another process.
type Remote struct {
	// Registry is the base URL of the registry, for example
	// "http://127.0.0.1:5000".
	Registry string
	// URL is the base URL of its Control handler.
	URL string
}

// Add is [Server.Add].
func (r Remote) Add(ctx context.Context, repo, tag string, seed uint64, sizes []int64) (img Image, err error) {
	err = r.call(ctx, http.MethodPost, "/images", addRequest{repo, tag, seed, sizes}, &img)
	return img, err
}

// Clear is [Server.Clear].
func (r Remote) Clear(ctx context.Context) error {
	return r.call(ctx, http.MethodDelete, "/images", nil, &struct{}{})
}

// SetShape is [Server.SetShape].
func (r Remote) SetShape(ctx context.Context, shape Shape) error {
	return r.call(ctx, http.MethodPut, "/shape", shape, &shape)
}

// Counters is [Server.Counters].
func (r Remote) Counters(ctx context.Context) (c Counters, err error) {
	err = r.call(ctx, http.MethodGet, "/counters", nil, &c)
	return c, err
}

// Reset is [Server.Reset].
func (r Remote) Reset(ctx context.Context) error {
	var c Counters
	return r.call(ctx, http.MethodDelete, "/counters", nil, &c)
}

func (r Remote) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("steering the upstream: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.URL+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("steering the upstream: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("steering the upstream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		msg, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it
		return fmt.Errorf("steering the upstream: %s %s: %s: %s", method, path, resp.Status, msg)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("steering the upstream: %s %s: %w", method, path, err)
	}
	return nil
}
